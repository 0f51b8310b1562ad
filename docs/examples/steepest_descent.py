r"""
A density that rolls downhill
=============================

The Fokker–Planck equation is the steepest descent of the free energy

.. math::

   F(\rho) = \mathbb{E}_\rho[\Phi] + T\int\rho\,\log\rho

in the Wasserstein metric (Jordan, Kinderlehrer & Otto 1998). ``JKO`` takes the implicit steps of that descent: each
minimises :math:`W^2(\rho, \rho_k)/(2\tau) + F(\rho)`. Here a density starts on the barrier between two wells.
"""

import numpy as np

import sde_sgd as sde

well = sde.Landscape(("x",), "(x**2 - 1)**2/4", name="well")
process, grid = well.at_temperature(0.1), sde.Grid(-2.2, 2.2, 220)
start = np.exp(-((grid.axes[0] + 0.2) ** 2) / 0.1)
start /= start.sum() * grid.cell_volume

jko = sde.JKO(process, grid)
flow = jko.flow(start, tau=0.1, steps=30)
lines = sde.figures.plot_flow(flow)

# %%
# F falls in every step. Solved by the generator on the same grid, which knows nothing of W, it is the same curve to
# first order in τ. What a step gains, −ΔF/τ, is what it pays, the squared speed W²/τ².

fp = sde.FokkerPlanck(process, grid)
solved = fp.evolve(start, np.linspace(0.0, 3.0, 61))
energy = sde.figures.plot_energy(flow, fp.free_energy(solved), lowest=jko.energy(fp.steady_state()))
print(f"L1 distance at t = 3: {float(abs(flow[-1] - solved[-1]).sum()) * grid.cell_volume:.4f}")

# %%
# Which energy falls steepest depends on the metric. The heat equation is the descent of the Dirichlet energy in L², and
# of the negative entropy in W₂; both columns show an energy that falls at the square of its own speed.

flat = sde.Landscape(("x",), "0*x", name="flat").at_temperature(0.1)
heat = sde.JKO(flat, grid).flow(start, tau=0.05, steps=30)
both = sde.figures.plot_heat_equation(heat)
