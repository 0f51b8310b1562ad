r"""
How far SGD strays, before it has run
=====================================

A network's Hessian H (with weight decay) and the covariance D of the gradients of its samples, both at one point near a
minimum, say how far mini-batch SGD strays from there and how it turns: covariance S and area per time A,

.. math::

   HS + SH - \eta\,HSH = \frac{\eta}{b}\,D, \qquad
   A_{ij} = \frac{S_{ij}}{2k\eta}\left[(1-\eta h_j)^k - (1-\eta h_i)^k\right] \;\text{ over } k \text{ steps},

in the eigenvectors of H. No limit of small steps is taken, and no run is looked at.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

import sde_sgd as sde
from sde_sgd.validation import LocalPrediction, OneHiddenLayer, digits, tiny_fc, trajectory

data, model = digits(7, range(5)), tiny_fc()
settings = dict(learning_rate=0.05, batch_size=8, weight_decay=5e-3)
walker = OneHiddenLayer(model, data.inputs, data.targets, **settings)
_ = walker.run(60_000)  # until the start is forgotten

# %%
# The point is the mean of a pilot run: the last weights stand somewhere in the cloud.

mean = np.zeros_like(walker.weights)
for _ in range(200):
    walker.run(100)
    mean += walker.weights / 200
torch.nn.utils.vector_to_parameters(torch.from_numpy(mean), model.parameters())
local = LocalPrediction(model, torch.nn.CrossEntropyLoss(), (data.inputs, data.targets), **settings)

# %%
# Now the run: 10⁵ further steps, each projected on the twelve steepest directions.

steps = 10
seen = local.compare(trajectory(walker, 100_000, local.directions), lags=steps)

# %%
# Left, the variances, and what noise of the same trace without a direction would make of them. Right, the areas that
# the 66 pairs of directions sweep out, in units of both deviations. In detailed balance all of them would be 0.

eta, h = settings["learning_rate"], local.curvature[::-1][:12]
level = np.trace(local.noise) / len(local.noise)
isotropic = eta * level / (settings["batch_size"] * h * (2 - eta * h))
pairs = np.triu_indices(12, 1)
scale = np.sqrt(np.outer(seen.variance, seen.variance))[pairs]
expected, area, error = (
    seen[name].values[0][pairs] / scale for name in ("expected", "area_production", "area_production_error")
)
with plt.style.context(sde.figures.STYLE):
    colours = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.2, 3.5), layout="constrained")
    k = np.arange(1, 13)
    left.errorbar(k, seen.variance, 2 * seen.variance_error, fmt="o", ms=4.5, lw=1, label="measured")
    left.plot(k, seen.predicted_variance, "_", ms=13, mew=1.6, color="0.15", label="predicted from H and D")
    left.plot(k, isotropic, "--", color="0.6", lw=1.2, label="D isotropic, same trace")
    left.set(xlabel="direction, from the steepest", ylabel="variance of the weights", yscale="log")
    left.set_xticks(k[::2])
    left.legend()
    reach = 1.05 * abs(expected).max()
    right.plot([-reach, reach], [-reach, reach], color="0.15", lw=1)
    right.errorbar(expected, area, 2 * error, fmt="o", ms=3.5, lw=0.7, color=colours[1])
    right.set(xlabel="predicted area per time", ylabel="measured")

# %%

ratio = seen.ratio.values
print(f"variance, measured over predicted: {ratio.min():.2f} to {ratio.max():.2f}")
above = seen.variance.values / isotropic
print(f"… over that of isotropic noise: {above.min():.0f} to {above.max():.0f}")
print(
    f"areas: correlation {seen.correlation.item():.2f} with the prediction; p = {seen.p_value.item():g} for no current"
)

# %%
# At other learning rates, with other networks, and where it fails: ``sde-sgd run potential-vs-loss``.
