"""A steady density on a grid with its moments, each with the error of the grid: what the commands tell of it."""

import warnings
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from .grid import Grid
from .process import Process

if TYPE_CHECKING:
    from .fokker_planck import FokkerPlanck

_FEWEST = 6  # cells of an axis that can be halved
_ROUNDING = 1e-12  # standard deviations that are 0


def solved(fp: "FokkerPlanck") -> xr.Dataset:
    """`density` and `log_density` with `mean` and `covariance`, or `angular_velocity` where one variable is periodic.

    `<name>_error` is |v_h − v_2h|/3, v_2h from the grid with cells twice as wide: the discretisation is of second
    order. NaN where an axis cannot be halved. What the solvers warn of is kept in `attrs["warnings"]`.
    """
    told: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        density = fp.steady_state()
    told += [str(w.message) for w in caught]
    log_density = fp.log_steady_state()
    result = xr.Dataset({"density": density, "log_density": log_density})
    numbers = moments(density, fp)
    if (coarse := halved(fp.grid)) is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they are those of the finer grid
            rough = type(fp)(fp.process, coarse, max_offset=fp.attrs["max_offset"])
            other = moments(rough.steady_state(), rough)
        ratio = (coarse.cell_volume / fp.grid.cell_volume) ** (2 / fp.grid.dim)
    for name, (dims, value) in numbers.items():
        error = np.full(np.shape(value), np.nan) if coarse is None else abs(value - other[name][1]) / (ratio - 1)
        result[name], result[f"{name}_error"] = (dims, value), (dims, error)
    if "mean" in result:
        names = list(fp.process.variables)
        result = result.assign_coords(variable=names, variable_2=names)
    return result.assign_attrs(density.attrs | {"warnings": told})


def halved(grid: Grid) -> Grid | None:
    """The same box in cells twice as wide (of an odd number of cells, nearly so), or None."""
    if min(grid.shape) < _FEWEST:
        return None
    return Grid(grid.lower, grid.upper, [n // 2 for n in grid.shape], boundary=grid.boundary)


def moments(density: xr.DataArray, fp: "FokkerPlanck") -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """Mean and covariance; in one periodic variable 2πJ, the angle turned in unit time; no moments in several."""
    grid: Grid = fp.grid
    process: Process = fp.process
    if any(grid.periodic):
        if grid.dim > 1:
            return {}
        return {"angular_velocity": ((), 2 * np.pi * np.asarray(fp.current(density).mean()))}
    x = grid.centers().reshape(-1, process.dim)
    mass = density.values.ravel() * grid.cell_volume
    mean = mass @ x
    centred = x - mean
    covariance = (centred * mass[:, None]).T @ centred
    deviation = np.sqrt(np.diagonal(covariance))
    square = np.outer(deviation, deviation)
    mean = np.where(abs(mean) < _ROUNDING * deviation, 0.0, mean)
    covariance = np.where(abs(covariance) < _ROUNDING * square, 0.0, covariance)
    return {"mean": (("variable",), mean), "covariance": (("variable", "variable_2"), covariance)}
