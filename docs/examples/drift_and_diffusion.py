r"""
Two phases?
===========

Training is said to drift first and to diffuse later (Shwartz-Ziv & Tishby 2017): the mean of the gradient falls below
its deviation over mini-batches,

.. math::

   \mathrm{SNR} = \frac{|\nabla f|}{\sqrt{\operatorname{tr} D_b}}, \qquad D_b = \frac{D}{b}.

The ratio contains the batch size b by definition. And it can fall where nothing diffuses: along gradient descent.
"""

import matplotlib.pyplot as plt
import numpy as np

import sde_sgd as sde
from sde_sgd.validation import When, digits, recorder, tiny_fc, train_sgd

data, steps, sizes = digits(7, range(5)), 2000, (16, 64, 256)


def followed(batch_size, noise_size, **options):
    """Steps, and |∇f|/√tr D_b with b = `noise_size` over all layers, as geometric means over five records."""
    when = When.logarithmic(14)
    run = train_sgd(
        tiny_fc(), data.inputs, data.targets, steps=steps, learning_rate=0.1, batch_size=batch_size, seed=2,
        recorders=recorder("gradient_statistics", when, batch_size=noise_size), **options,
    )  # fmt: skip
    signal, _, noise, _ = np.moveaxis(run.gradient_statistics.values, -1, 0)
    log = np.log(np.linalg.norm(signal, axis=1) / np.linalg.norm(noise, axis=1))
    return run.gradient_statistics_step.values[2:-2], np.exp(np.convolve(log, np.ones(5) / 5, mode="valid"))


def crossing(when, ratio):
    """The step at which the ratio falls through 1, on a straight line of its logarithm."""
    k, log = np.flatnonzero((ratio[1:] < 1) & (ratio[:-1] >= 1))[0], np.log(ratio)
    return when[k] + (when[k + 1] - when[k]) * log[k] / (log[k] - log[k + 1])


# %%
# SGD at three batch sizes, and gradient descent, whose ratio is taken for b = 64.

runs = {f"SGD, b = {b}": followed(b, b) for b in sizes}
runs["gradient descent, b = 64"] = followed(len(data.inputs), 64, sampling="without_replacement")
with plt.style.context(sde.figures.STYLE):
    colours = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    figure, ax = plt.subplots(figsize=(5.6, 3.7), layout="constrained")
    for k, (name, (when, ratio)) in enumerate(runs.items()):
        colour = colours[k] if name.startswith("SGD") else "0.15"
        ax.plot(when, ratio, color=colour, lw=1.6, ls="-" if name.startswith("SGD") else "--", label=name)
        if ratio.max() < 1:
            print(f"{name}: below 1 from the start")
            continue
        at = crossing(when, ratio)
        ax.plot(at, 1.0, "o", ms=6, color=colour)
        print(f"{name}: falls through 1 at step {at:.0f}, and to {ratio[-1]:.2f}")
    ax.axhline(1.0, color="0.7", lw=0.8)
    ax.set(xlabel="step", ylabel="|∇f| / √tr D$_b$", xscale="log", yscale="log")
    ax.legend()

# %%
# Where drift ends is a matter of b, and for small batches it never began. Gradient descent, which has no noise, falls
# through 1 at about the same step, and farther: a ratio below 1 says nothing of a random walk.
#
# What it coincides with, and information on inputs and labels: ``sde-sgd run phases``.
