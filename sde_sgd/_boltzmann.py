"""The exact steady state ρ ∝ e^{−Φ/T} of a process whose potential is known, by quadrature on its domain."""

import numpy as np
import xarray as xr

from .grid import Grid
from .process import Process

CELLS = {1: 200, 2: 100}  # per axis of the density
_FINER = 4  # cells of the quadrature along one of the density
_NEGLIGIBLE = 1e-9  # mass of the outermost cells, from which on the box stands for the whole space
_AGREED = 1e-3  # standard deviations by which quadratures with cells of two widths may differ
_ROUNDING = 1e-12  # standard deviations that are 0


def grid_of(process: Process) -> Grid | None:
    """The cells of the density: the domain where it is finite and has one or two variables."""
    domain = process.domain
    if process.dim not in CELLS or not np.isfinite(domain.upper - domain.lower).all():
        return None
    walls = ["periodic" if wraps else "reflecting" for wraps in domain.periodic]
    return Grid(domain.lower.tolist(), domain.upper.tolist(), (CELLS[process.dim],) * process.dim, boundary=walls)


def exact(process: Process, walls: str, grid: Grid | None = None, confined: bool | None = None) -> xr.Dataset | None:
    """Density, mean, covariance of e^{−Φ/T} by quadrature on `grid` (default: `grid_of`) where Φ is known, else None.

    Along a periodic axis it is the mean angular velocity instead, 2π E[b] over the period. None also where the box
    cannot stand for what the paths see, or quadratures with two widths of cells do not agree. `confined` takes the
    box for all there is, whatever lies at its walls; by default it is, where they reflect and Φ is an equilibrium.
    """
    grid = grid_of(process) if grid is None else grid
    if grid is None or walls == "absorb":
        return None
    if confined is None:
        confined = walls == "reflect" and process.equilibrium_potential is not None
    rough, found = (_quadrature(process, grid, finer, confined) for finer in (_FINER // 2, _FINER))
    if rough is None or found is None:
        return None
    (_, rough_mean, rough_covariance), (density, mean, covariance) = rough, found
    deviation = np.sqrt(np.diagonal(covariance))
    square = np.outer(deviation, deviation)
    gaps = abs(mean - rough_mean) / deviation, abs(covariance - rough_covariance) / square
    if max(gap.max() for gap in gaps) > _AGREED:
        return None
    cells = density.coarsen(dict.fromkeys(density.dims, _FINER)).mean()
    result = xr.Dataset({"density": cells}).assign_coords({str(d): axis for d, axis in zip(cells.dims, grid.axes)})
    names = list(process.variables)
    if not any(grid.periodic):
        result = result.assign_coords(variable=names, variable_2=names)
        result["mean"] = "variable", np.where(abs(mean) < _ROUNDING * deviation, 0.0, mean)
        covariance = np.where(abs(covariance) < _ROUNDING * square, 0.0, covariance)
        result["covariance"] = ("variable", "variable_2"), covariance
    elif grid.dim == 1:
        drift = process.drift(density[density.dims[0]].values[:, None])[:, 0]
        result["angular_velocity"] = (
            2 * np.pi * float(drift @ density.values) / float(density.sum()) / (grid.upper[0] - grid.lower[0])
        )
    return result


def _quadrature(
    process: Process, grid: Grid, finer: int, confined: bool
) -> tuple[xr.DataArray, np.ndarray, np.ndarray] | None:
    """Density, mean and covariance by the midpoint rule on cells `finer` times as narrow."""
    fine = Grid(grid.lower, grid.upper, [finer * n for n in grid.shape], boundary=grid.boundary)
    x = fine.centers()
    with np.errstate(all="ignore"):
        phi = process.potential(x)
    if phi is None or not np.isfinite(phi).all():
        return None
    mass = np.exp(-(phi - phi.min()) / process.constant_temperature)
    mass /= mass.sum()
    for axis, wraps in enumerate(grid.periodic):
        if not (wraps or confined or np.take(mass, [0, -1], axis).sum() < _NEGLIGIBLE):
            return None
    mean = np.tensordot(mass, x, grid.dim)
    centred = (x - mean).reshape(-1, grid.dim)
    covariance = (centred * mass.reshape(-1, 1)).T @ centred
    names = [f"{v}_bin" for v in process.variables]
    return fine.data_array(mass / fine.cell_volume, names, "density"), mean, covariance
