r"""
What is forgotten in 1/ηλ steps
===============================

Where layers are normalised, the loss depends on the direction of their weights alone, and weight decay λ keeps their
norm from growing. The rate of SGD on the sphere is then set by the product ηλ (Li, Lyu & Arora 2020), for small ηλ

.. math::

   |w'|^2 = (1-\eta\lambda)^2|w|^2 + \eta^2|g|^2, \qquad
   \frac{\eta}{|w|^2} \to \sqrt{\frac{\lambda\eta\,(2-\eta\lambda)}{\mathrm{E}|\hat g|^2}}, \quad \hat g = g\,|w| .

Three schedules end with one ηλ, split differently into η and λ, each from a start of its own.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

import sde_sgd as sde
from sde_sgd.validation import ensemble, load

data = load("digits", dtype=torch.float32)


def normalised(seed):
    """Two normalised layers, whose every row of weights is scale invariant, and a last one that is kept as drawn."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first, second, last = (nn.Linear(*sizes, bias=False) for sizes in ((64, 16), (16, 16), (16, 10)))
    with torch.no_grad():
        last.weight.copy_(4 * torch.linalg.qr(last.weight.T).Q.T)
    last.weight.requires_grad_(False)
    norms = [nn.BatchNorm1d(16, affine=False, eps=1e-12) for _ in range(2)]
    return nn.Sequential(nn.Flatten(), first, norms[0], nn.ReLU(), second, norms[1], nn.ReLU(), last)


# %%
# η and λ at the end, and the factor of η before.

intrinsic, before, after, replicas = 0.02, 100, 200, 40
schedules = {"steady": (0.2, 0.1, 1.0), "fast first": (0.05, 0.4, 4.0), "slow first": (0.8, 0.025, 0.25)}
points = data.test_inputs[:120]


def observe(predict, weights):
    return {"square": weights.square().sum(), "label": predict(points).argmax(1)}


network, runs = normalised(0), {}
for k, (name, (rate, decay, factor)) in enumerate(schedules.items()):
    start = nn.utils.parameters_to_vector(p for p in normalised(k).parameters() if p.requires_grad).detach()
    runs[name] = ensemble(
        network, data.inputs, data.targets, replicas=replicas, steps=before + after, batch_size=32, seed=k,
        learning_rate=lambda t, rate=rate, factor=factor: rate * np.where(t < before, factor, 1.0),
        weight_decay=decay, start=start, save_every=5, observe=observe, compile=False,
    )  # fmt: skip

# %%
# How far apart are two ensembles *as functions*? The distance of the frequencies with which they predict each class at
# a test point, summed over classes, averaged over points and pairs. Replicas exchanged between schedules give the null.

labels = np.stack([run.label.values for run in runs.values()])  # (schedule, replica, time, point)
votes = (labels[..., None] == np.arange(10)).astype(np.float32)


def distance(votes):
    shares = votes.mean(axis=1)
    pairs = ((0, 1), (0, 2), (1, 2))
    return np.mean([abs(shares[a] - shares[b]).sum(-1).mean(-1) for a, b in pairs], axis=0)


apart, random, pooled = distance(votes), np.random.default_rng(0), votes.reshape(-1, *votes.shape[2:])
null = [distance(pooled[random.permutation(len(pooled))].reshape(votes.shape)) for _ in range(100)]
low, high = np.quantile(null, [0.025, 0.975], axis=0)

# %%

time = (runs["steady"].step.values - before) * intrinsic
with plt.style.context(sde.figures.STYLE):
    colours = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.5), layout="constrained")
    for name, run in runs.items():
        rate, _, factor = schedules[name]
        eta = rate * np.where(run.step < before, factor, 1.0)
        left.plot(time, eta / run.square.mean("replica"), label=name)
    left.set(xlabel="(steps − change) · ηλ", ylabel="effective rate η / |w|²", yscale="log")
    left.legend()
    right.fill_between(time, low, high, color="0.85", lw=0, label="95 % of exchanges")
    right.plot(time, apart, color=colours[3], label="three schedules")
    right.set(xlabel="(steps − change) · ηλ", ylabel="ℓ₁ of predicted labels", ylim=(0, None))
    right.legend()
    for panel in (left, right):
        panel.axvline(0.0, color="0.6", lw=0.8, ls=":")
final = [float(s[0] / run.square[:, -1].mean()) for s, run in zip(schedules.values(), runs.values())]
print(f"effective rates at the end: {', '.join(f'{rate:.4f}' for rate in final)}")
print(f"distance: {apart[time >= 0][0]:.2f} at the change, {apart[-1]:.2f} at the end")
print(f"exchanges of replicas at the end: {low[-1]:.2f} to {high[-1]:.2f}")

# %%
# Mixing times against 1/(ηλ), and what becomes of the weights: ``sde-sgd run equilibrium``.
