r"""
A wide valley against a deeper one
==================================

Local entropy smooths a loss by the mass around each point (Chaudhari et al. 2017),

.. math::

   f_\gamma(x) = -\log \mathrm{E}_z\, e^{-f(x + \sqrt{\gamma}\,z)}, \qquad z \sim N(0, 1).

Of two valleys the wide one becomes the lower one as γ grows. Whether descent finds it is another question: in between
there is a barrier.
"""

import matplotlib.pyplot as plt
import numpy as np

import sde_sgd as sde

wells = sde.Landscape(
    "x", "-log(exp(-(x + 1)**2) + exp(1/2 - 15*(x - 1)**2))", domain=((-4, 4),), name="two valleys"
)  # one of curvature 2 around −1, one of curvature 30 around 1, deeper by ½
line = np.linspace(-2.6, 1.9, 361)


def lead(gamma):
    """By how much the wide valley is the lower one."""
    smooth = sde.local_entropy(wells, gamma)
    return float(smooth.loss([1.0]) - smooth.loss([-1.0]))


def descent(gamma, steps=300):
    """The end of gradient descent on f_γ from the floor of the sharp valley."""
    smooth, x = sde.local_entropy(wells, gamma), np.array([1.0])
    for _ in range(steps):
        x = x - 0.5 * gamma * smooth.gradient(x)
    return float(x[0])


def bisected(condition, low, high):
    """Where a condition begins to hold."""
    for _ in range(12):
        middle = np.sqrt(low * high)
        low, high = (low, middle) if condition(middle) else (middle, high)
    return np.sqrt(low * high)


lower, leaves = bisected(lambda g: lead(g) > 0, 0.01, 1.0), bisected(lambda g: descent(g) < 0, 0.01, 1.0)

# %%
# Entropy-SGD descends by chains: inner Langevin steps around x, then a step towards their mean. 200 runs of it from the
# floor of the sharp valley, at each γ.


def chains(gamma, runs=200):
    """The share of runs that end in the wide valley."""
    normal, step = np.random.default_rng(0), 0.1 * min(1.0, gamma) / (1 + 30 * gamma)
    inner = max(50, int(3 / (step * (2 + 1 / gamma))))
    ends = sde.entropy_sgd(
        lambda y, _: wells.gradient(y), np.full((runs, 1), 1.0), rounds=40, inner_steps=inner, step=step,
        tether=1 / gamma, keep=1 - 1 / inner, noise=np.sqrt(2.0), normals=lambda _: normal.normal(size=(1, runs, 1)),
    )  # fmt: skip
    return float((ends < 0).mean())


gammas = np.geomspace(0.02, 1.0, 9)
shares = [chains(gamma) for gamma in gammas]

# %%
# Left f and f_γ, each from its own minimum. Right, where runs from the sharp valley end.

with plt.style.context(sde.figures.STYLE):
    colours = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.5), layout="constrained")
    loss = wells.loss(line[:, None])
    left.plot(line, loss - loss.min(), color="0.15", ls="--", label="f")
    for gamma in (0.03, 0.2, 0.8):
        smooth = sde.local_entropy(wells, gamma).loss(line[:, None])
        left.plot(line, smooth - smooth.min(), label=f"γ = {gamma:g}")
    left.set(xlabel="x", ylabel="f and f$_γ$, from the minimum", ylim=(-0.08, 3.0))
    left.legend(loc="upper center")
    right.axvspan(lower, leaves, color="0.92", lw=0)
    right.plot(gammas, shares, "o", color=colours[1], label="Entropy-SGD, share of 200")
    right.step([gammas[0], leaves, gammas[-1]], [0, 1, 1], where="post", color=colours[0], label="descent on f$_γ$")
    right.axvline(lower, color="0.15", lw=1, ls=":", label="the wide valley is the lower one")
    right.set(xlabel="γ", ylabel="ends in the wide valley", xscale="log", ylim=(-0.05, 1.05))
    right.legend(loc="upper left")
print(
    f"the wide valley is the lower one from γ = {lower:.2f} on; descent leaves the sharp one from γ = {leaves:.2f} on"
)

# %%
# That the wide valley is the lower one is not enough: the barrier has to go as well, which takes a larger γ.
# Entropy-SGD, whose steps are noisy, crosses it now and then.
#
# Local entropy of networks, by sampling: ``sde-sgd run optimisers``.
