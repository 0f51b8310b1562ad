r"""
Over a barrier, at three temperatures
=====================================

A path in the left well of :math:`f = (x^2-1)^2/4` crosses the barrier of height 1/4 after a mean time that is known
exactly,

.. math::

   \mathbb{E}[\tau] = \frac{1}{T}\int_{-1}^{0} e^{f(v)/T} \int_{-\infty}^{v} e^{-f(u)/T}\,\mathrm{d}u\,\mathrm{d}v
   \;\approx\; \frac{\pi}{\sqrt{f''(-1)\,|f''(0)|}}\; e^{1/(4T)} .

On the right is Kramers' law, the leading term for small T, here for reaching the top: half the time of getting to the
other side.
"""

import numpy as np

import sde_sgd as sde

well = sde.Landscape(("x",), "(x**2 - 1)**2/4", domain=((-3, 3),), name="double well")

# %%
# How the integral is evaluated: trapezoids, from the far left to the start, and from there to the top.


def mean_passage_time(temperature, cells=20_000):
    x = np.linspace(-3.0, 0.0, cells + 1)
    f, h = well.loss(x[:, None]), 3.0 / cells
    weight = np.exp(-f / temperature)
    inner = np.concatenate([[0.0], np.cumsum((weight[1:] + weight[:-1]) * h / 2)])
    outer = (np.exp(f / temperature) * inner)[x >= -1.0]
    return np.sum((outer[1:] + outer[:-1]) * h / 2) / temperature


# %%
# 4000 paths at each temperature, until the last one has crossed. A path that crosses and comes back within one step has
# crossed: the Brownian bridge between the two ends of a step decides.

survival = None
for temperature in (0.15, 0.1, 0.075):
    exits = sde.exit_times(
        well.at_temperature(temperature), -1.0, "x < 0", step=0.05, paths=4000, max_steps=30_000, seed=1
    )
    survival = sde.figures.plot_survival(exits, ax=survival, label=f"T = {temperature:g}")
    exact, kramers = mean_passage_time(temperature), np.pi / np.sqrt(2.0) * np.exp(0.25 / temperature)
    mean, error = exits.mean_exit_time.item(), exits.mean_exit_time_error.item()
    print(f"T = {temperature:<5g}  paths {mean:6.2f} ± {error:.2f}   integral {exact:6.2f}   Kramers {kramers:6.2f}")

# %%
# Straight lines on a logarithmic scale: after a time of order 1, in which a path forgets where it started, escape has
# no memory. The integral is met within the sampling error; Kramers' law, its leading term, is a tenth short at these
# temperatures.
