"""Both sides of the identity between a drift and its potential, each from its own numbers."""

import numpy as np
import xarray as xr

from sde_sgd.fokker_planck import _edges
from sde_sgd.fokker_planck.generator import FokkerPlanck
from sde_sgd.grid import Grid


def gradient(values: np.ndarray, grid: Grid) -> np.ndarray:
    """Central differences at the cell centres, (*shape, d), of second order; one-sided, of second order, at walls."""
    parts = []
    for axis, (h, wraps) in enumerate(zip(grid.spacing, grid.periodic)):
        if wraps:
            parts.append((np.roll(values, -1, axis) - np.roll(values, 1, axis)) / (2 * h))
        else:
            parts.append(np.gradient(values, h, axis=axis, edge_order=2))
    return np.stack(parts, -1)


def divergence_q(q: np.ndarray, grid: Grid) -> np.ndarray:
    """(div Q)_i = Σ_j ∂_j Q_ij of Q = q [[0, 1], [−1, 0]]: (∂_y q, −∂_x q), (*shape, 2)."""
    slope = gradient(q, grid)
    return np.stack([slope[..., 1], -slope[..., 0]], -1)


def with_identity(fields: xr.Dataset, fp: FokkerPlanck) -> xr.Dataset:
    """`fields` with the drift b, −(D + Q)∇Φ + T div(D + Q) and the second less the first, at the cell centres."""
    grid, process = fp.grid, fp.process
    if grid.dim == 3 or any(grid.periodic):
        raise ValueError(
            f"the identity b = −(D + Q)∇Φ + T div(D + Q) needs Q, and q is {fields.attrs['q']}; leave identity out. "
            "div j = j·∇Φ/T holds there too"
        )
    shape = (*grid.shape, grid.dim)
    slope = gradient(fields["potential"].values, grid)
    drift, spread = (
        _edges.at_centers(field, name, grid).reshape(shape)
        for field, name in ((process.drift, "drift"), (process.diffusion_divergence, "diffusion_divergence"))
    )
    right = process.temperature * spread - np.einsum("...ij,...j->...i", process.diffusion(grid.centers()), slope)
    if grid.dim == 2:
        q = fields["q"].values
        turned = np.stack([slope[..., 1], -slope[..., 0]], -1) * q[..., None]  # Q∇Φ
        right = right - turned + process.temperature * divergence_q(q, grid)
    result = fields.copy()
    for name, values in (("drift", drift), ("a_type_drift", right), ("a_type_gap", right - drift)):
        result[name] = grid.data_array(values, process.variables, name, dict(fields.attrs), component=True)
    return result
