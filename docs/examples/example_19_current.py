r"""
A current under a simple density
================================

The steady density is $e^{-\Phi/T}$ with $\Phi = (x^2-1)^2/4 + y^2/2$, whatever $\lambda$ is, and yet probability turns:

$$ j = \lambda\, e^{\Phi/T - (x^2+y^2)^2/4}\,(-y,\; x), \qquad \operatorname{div} j = j\cdot\nabla\Phi/T \neq 0. $$

This is Example 19 of Chaudhari & Soatto (2018) at $T = 1$. A density alone cannot tell $\lambda = 0$ from
$\lambda = 1.5$; the current can.
"""

import numpy as np

import sde_sgd as sde

landscape = sde.landscapes.get("example_19", circulation=0.5)
process = landscape.at_temperature(1.0)
fp = sde.FokkerPlanck(process, sde.Grid((-3, -3), (3, 3), (120, 120)))
parts = sde.decompose(fp)

# %%
# The solved potential is Φ and not what the drift alone suggests. The error is that of the grid, largest in the
# corners, where the drift across one cell outweighs the noise:

error = parts.potential - (landscape.potential(fp.grid.centers()) - landscape.potential(np.array([1.0, 0.0])))
density = fp.steady_state()
print(f"mean |error of Φ| under the density: {float((density * abs(error)).sum() * fp.grid.cell_volume):.1e}")

# %%
# Lines of j over levels of Φ; the wider, the faster.

current = sde.figures.plot_current(parts, ceiling=6.0)

# %%
# The identity div j = j·∇Φ/T holds to the error of the grid. "div j = 0", which is often assumed, does not:

weight = density * fp.grid.cell_volume
both = parts.divergence_j - parts.j_dot_grad_potential / process.temperature
print(f"mean |div j|             {float((weight * abs(parts.divergence_j)).sum()):.4f}")
print(f"mean |div j − j·∇Φ/T|    {float((weight * abs(both)).sum()):.4f}")
