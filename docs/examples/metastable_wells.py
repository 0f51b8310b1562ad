r"""
From one well to the other
==========================

The loss of the sheared double well has two minima, the noise :math:`D = \operatorname{diag}(3, 1)` is constant, and yet
detailed balance is broken: escape follows the potential :math:`\Phi`, whose barrier is 1/4, and not the loss, whose
barrier is 5/8. Where do paths cross, and how often? The committor

.. math::

   q(x) = \Pr[\text{from } x,\; b \text{ is reached before } a], \qquad L^\dagger q = 0 \text{ between}, \quad
   q = 0 \text{ on } a, \quad q = 1 \text{ on } b,

answers both, without a single path: its level ½ is where either is as likely, and the current of transitions follows
from it.
"""

import matplotlib.pyplot as plt
import numpy as np

import sde_sgd as sde

landscape = sde.landscapes.get("sheared_double_well")
process = landscape.at_temperature(0.1)
fp = sde.FokkerPlanck(process, sde.Grid.around(process, mass=1e-8, shape=96))

# %%
# Each well is the inside of a circle around its minimum, ±(√3, 1).

left, right = (f"(x {sign} sqrt(3))**2 + (y {sign} 1)**2 < 0.36" for sign in "+-")
way = fp.transitions(left, right)
print(f"rate {float(way.rate_ab):.4f}, mean time {float(way.passage_time_ab):.1f}")
print(f"a transition itself takes {float(way.transition_time):.2f}")

# %%
# Coloured, the committor, with its level ½; dashed, levels of Φ, 1 T to 6 T above the wells. The lines are the current
# of transitions. It is tilted against the valley, because the noise is stronger along x and probability turns.

parts = sde.decompose(fp)
with plt.style.context(sde.figures.STYLE):
    figure, ax = plt.subplots(figsize=(5.6, 4.6), layout="constrained")
    mesh = ax.pcolormesh(way.x, way.y, way.committor.T, cmap="RdBu_r", shading="nearest", rasterized=True)
    figure.colorbar(mesh, label="probability of reaching the right well first")
    levels = 0.1 * np.arange(1, 7)
    ax.contour(way.x, way.y, parts.potential.T, levels=levels, colors="0.25", linewidths=0.7, linestyles="--")
    ax.contour(way.x, way.y, way.committor.T, levels=[0.5], colors="0.1", linewidths=1.2)
    flow = way.reactive_current
    speed = np.hypot(flow[..., 0], flow[..., 1])
    shown = flow.where(speed > 0.02 * speed.max())
    ax.streamplot(way.x.values, way.y.values, shown[..., 0].values.T, shown[..., 1].values.T, color="k", linewidth=0.8)
    ax.set(xlabel="x", ylabel="y", xlim=(-3.2, 3.2), ylim=(-2.6, 2.6))

# %%
# How long from each place until a path leaves the left half-plane of the wells, and the one rate at which those leave
# that have forgotten their start:

half = "sqrt(3)*x - y < 0"
tau, lasting = fp.mean_exit_time(half), fp.quasi_stationary(half)
here = tau.sel(x=-np.sqrt(3), y=-1.0, method="nearest")
print(f"from the minimum {float(here):.1f}, one over the rate {1 / float(lasting.rate):.1f}")

# %%
# As T falls, the exponent of that time is the barrier of Φ, 1/4, and the loss has nothing to say:

inverse, times = np.array([15.0, 20.0, 30.0, 40.0]), []
for beta in inverse:
    cold = landscape.at_temperature(1 / beta)
    times.append(
        1 / float(sde.FokkerPlanck(cold, sde.Grid.around(cold, mass=1e-8, shape=96)).quasi_stationary(half).rate)
    )
slope = np.polyfit(inverse, np.log(times), 1)[0]
print(f"d log(time)/d(1/T) = {slope:.3f}; barrier of Φ 0.250, of the loss 0.625")
