r"""
A current under a simple density
================================

The steady density is :math:`e^{-\Phi/T}` with :math:`\Phi = (x^2-1)^2/4 + y^2/2`, whatever :math:`\lambda` is, and yet
probability turns:

.. math::

   j = \lambda\, e^{\Phi/T - (x^2+y^2)^2/4}\,(-y,\; x), \qquad \operatorname{div} j = j\cdot\nabla\Phi/T \neq 0.

This is Example 19 of Chaudhari & Soatto (2018) at :math:`T = 1`. A density alone cannot tell :math:`\lambda = 0` from
:math:`\lambda = 1.5`; the current can.
"""

import sde_sgd as sde

landscape = sde.landscapes.get("example_19", circulation=0.5)
process = landscape.at_temperature(1.0)
fp = sde.FokkerPlanck(process, sde.Grid((-4, -4), (4, 4), (160, 160)))
parts = sde.decompose(fp)

# %%
# The solved Φ is the one above, to the error of the grid:

weight = fp.steady_state() * fp.grid.cell_volume
error = parts.potential - landscape.potential(fp.grid.centers())
print(f"mean |error of Φ| under the density: {float((weight * abs(error)).sum()):.1e}")

# %%
# Lines of j over levels of Φ, up to 3 T; the wider, the faster.

current = sde.figures.plot_current(parts.sel(x=slice(-2.6, 2.6), y=slice(-2.6, 2.6)), ceiling=3.0)

# %%
# The identity div j = j·∇Φ/T holds to the error of the grid. "div j = 0", which is often assumed, does not:

both = parts.divergence_j - parts.j_dot_grad_potential / process.temperature
print(f"mean |div j|             {float((weight * abs(parts.divergence_j)).sum()):.4f}")
print(f"mean |div j − j·∇Φ/T|    {float((weight * abs(both)).sum()):.4f}")
