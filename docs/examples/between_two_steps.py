r"""
Between one step and the next
=============================

Does SGD bounce between the walls of a valley? Xing, Arpit, Tsirigotis and Bengio (2018) looked at the loss of all
samples on the segment from each iterate to the next,

.. math::

   L_t(\alpha) = f((1-\alpha)\,w_t + \alpha\,w_{t+1}), \qquad 0 \le \alpha \le 1,

and at the angle between consecutive gradients. Here both are recorded along a network on digits, and the angle again in
a valley where its value is known.
"""

import matplotlib.pyplot as plt
import numpy as np

import sde_sgd as sde
from sde_sgd.validation import When, digits, recorded_sgd, recorder, tiny_fc, train_sgd

data, steps, shown = digits(7, range(5)), 600, 10
when = When.at(steps=[*range(50), *range(steps - 50, steps)])
settings = dict(learning_rate=0.5, recorders=recorder("segment_loss", when, points=21), steps=steps, seed=1)
walks = {
    "mini-batches, b = 16": train_sgd(tiny_fc(), data.inputs, data.targets, batch_size=16, **settings),
    "all samples": train_sgd(
        tiny_fc(), data.inputs, data.targets, batch_size=len(data.inputs), sampling="without_replacement", **settings
    ),
}

# %%
# The first ten steps and the last ten, one segment after the other; dots are iterates.

with plt.style.context(sde.figures.STYLE):
    figure, panels = plt.subplots(1, 2, figsize=(8.2, 3.3), layout="constrained")
    colours = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    for panel, part, title in zip(panels, (slice(shown), slice(-shown, None)), ("first steps", "last steps")):
        for colour, (name, run) in zip(colours, walks.items()):
            losses = run.segment_loss.values[part]
            for t, segment in enumerate(losses):
                panel.plot(t + np.linspace(0, 1, len(segment)), segment, color=colour, lw=1.3)
            panel.plot(np.arange(shown + 1), [*losses[:, 0], losses[-1, -1]], "o", ms=3.5, color=colour, label=name)
        panel.set(title=title, xlabel="steps")
    panels[0].set_ylabel("loss of all samples")
    panels[0].legend()

# %%
# A floor lies between two iterates where the loss falls and rises again within the segment, a barrier where it rises
# above both ends.

for name, run in walks.items():
    for title, part in (("first", run.segment_loss.values[:50]), ("last", run.segment_loss.values[50:])):
        ends = part[:, [0, -1]]
        floor, barrier = (part.min(1) < ends.min(1)).mean(), (part.max(1) > ends.max(1)).mean()
        print(f"{name}, {title} 50 steps: {floor:.0%} cross a floor, {barrier:.0%} a barrier")

# %%
# Does the angle tell of walls? In the valley :math:`f = (a x^2 + k y^2)/2` with D = I it is known at every step:
# :math:`\mathrm{E}[g_t\cdot g_{t+1}] = \sum_i h_i^2(1-\eta h_i)\,\mathrm{E}\,x_i^2 - \eta h_i/b`. At rest that is
# :math:`-\operatorname{tr}(H^2S)`, and over :math:`\mathrm{E}|g|^2` it no longer contains b.

kicks = np.sqrt(2) * np.tile([[1, -1, 0, 0], [0, 0, 1, -1]], 8)  # 32 samples: the covariance is I
valley = sde.FiniteSum(("x", "y"), "0.1*x**2/2 + 10*y**2/2 + s*x + r*y", {"s": kicks[0], "r": kicks[1]}, name="valley")
h, sizes, rates = np.array([0.1, 10.0]), [1, 2, 4, 8, 16, 32], (0.02, 0.06)
products, early, downhill = recorder("gradient_products", When.every(steps=1)), 30, (4.0, 0.0)


def ratio(runs):
    product, square, _ = np.mean([run.gradient_products.values.mean(axis=0) for run in runs], axis=0)
    return product / square


def exact(eta, b, square, count):
    """E[g·g′]/E|g|² over `count` steps from E x² = `square`."""
    total = np.zeros(2)
    for _ in range(count):
        total += (h**2 * (1 - eta * h) * square - eta * h / b).sum(), (h**2 * square + 1 / b).sum()
        square = (1 - eta * h) ** 2 * square + eta**2 / b
    return total[0] / total[1]


with plt.style.context(sde.figures.STYLE):
    angles, ax = plt.subplots(figsize=(5.2, 3.5), layout="constrained")
    colours = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    for colour, eta in zip(colours, rates):
        rest, down, law = [], [], []
        for b in sizes:
            options = dict(recorders=products, learning_rate=eta, batch_size=b)
            run = recorded_sgd(valley, (0.0, 0.0), steps=12_000, **options)
            rest.append(ratio([run.isel(gradient_products_step=slice(2000, None))]))
            down.append(ratio([recorded_sgd(valley, downhill, steps=early, replica=r, **options) for r in range(24)]))
            law.append((exact(eta, b, eta / (b * h * (2 - eta * h)), 1), exact(eta, b, np.square(downhill), early + 1)))
        ax.plot(sizes, np.array(law), color=colour, lw=1.1)
        ax.plot(sizes, down, "o", mfc="white", color=colour, label=f"η = {eta:g}, the first {early} steps")
        ax.plot(sizes, rest, "o", color=colour, label=f"η = {eta:g}, at rest")
        print(f"η = {eta:g}, at rest: {min(rest):.3f} to {max(rest):.3f} for b = 1 to 32, exact {law[0][0]:.3f}")
    ax.axhline(0, color="0.7", lw=0.8)
    ax.set(xlabel="batch size b", ylabel="E[g·g′] / E|g|²", xscale="log")
    ax.set_xticks(sizes, map(str, sizes))
    ax.minorticks_off()
    ax.legend()

# %%
# On the way down larger batches turn the cosine up. At rest it is negative without any walls but the parabola's own,
# and the same for every batch size: it tells η times the curvature.
#
# Other networks, schedules and noise: ``sde-sgd run walk``.
