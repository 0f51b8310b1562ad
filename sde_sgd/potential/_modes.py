"""Where a density peaks: the places a process is most often found."""

import itertools
from collections.abc import Sequence

import numpy as np
import xarray as xr

from sde_sgd import _checks


def modes(log_density: xr.DataArray, *, least: float = 1e-3, reach: int = 2) -> xr.Dataset:
    """Local maxima of log ρ on a grid, each refined by the vertex of a least-squares quadratic around it.

    `log_density`: over one to three variables, equally spaced cells, finite; axes that its attribute `boundary` calls
    periodic, in the order of the dimensions (as `FokkerPlanck` does), are continued. A cell counts when no cell
    within `reach` cells of it is higher and ρ there is at least `least` times the largest; of equal neighbours one
    counts, and the vertex lies between them. Maxima within `reach` cells of a wall are left out.

    Returns a Dataset over `point`, highest first: one variable per coordinate and `log_ratio` = log(ρ/max ρ). A
    vertex outside the neighbourhood means a flat top, and the cell's centre is kept. Raises ValueError for other
    input. Of a density counted from samples the maxima are mostly noise: use one that was solved.
    """
    _checks.instance("log_density", log_density, xr.DataArray)
    reach = _checks.whole("reach", reach, 1)
    if not _checks.positive("least", least) <= 1:
        raise ValueError(f"least must be from 0 to 1, a share of the highest density, got {least}")
    values = np.asarray(log_density.values, float)
    dim, shape = values.ndim, values.shape
    if not 1 <= dim <= 3 or not np.isfinite(values).all() or min(shape) < 2 * reach + 1:
        raise ValueError(
            f"modes needs a finite log density over one to three variables with at least {2 * reach + 1} "
            f"cells each, got shape {shape}"
        )
    names = [str(d) for d in log_density.dims]
    axes = [log_density[n].values for n in names]
    walls = str(log_density.attrs.get("boundary", "")).split()
    periodic = [len(walls) == dim and walls[i] == "periodic" for i in range(dim)]
    padded = values
    for axis, wraps in enumerate(periodic):
        width = [(reach, reach) if a == axis else (0, 0) for a in range(dim)]
        padded = np.pad(padded, width, mode="wrap") if wraps else np.pad(padded, width, constant_values=np.inf)
    offsets = np.array(list(itertools.product(range(-reach, reach + 1), repeat=dim)))
    fit = np.linalg.pinv(_quadratic(offsets.astype(float)))
    before = (offsets < 0).argmax(axis=1) == (offsets != 0).argmax(axis=1)  # neighbours that come first in order
    before &= (offsets < 0).any(axis=1)
    top, found = values.max(), []
    for cell in np.argwhere(values >= top + np.log(least)):
        around = padded[tuple((cell + reach + offsets).T)]
        here = values[tuple(cell)]
        if (around > here).any() or (around[before] == here).any():
            continue
        shift, height = _vertex(fit @ (around - here), dim)
        if np.abs(shift).max() > reach:
            shift, height = np.zeros(dim), 0.0
        found.append((here + height, [_place(axis, i, s, w) for axis, i, s, w in zip(axes, cell, shift, periodic)]))
    found.sort(key=lambda pair: -pair[0])
    heights = np.array([h for h, _ in found])
    places = np.array([p for _, p in found]).reshape(-1, dim)
    data = {name: ("point", places[:, i]) for i, name in enumerate(names)}
    return xr.Dataset(data | {"log_ratio": ("point", heights - (heights[0] if len(heights) else 0.0))})


def curvature(field: xr.DataArray, points: np.ndarray, periodic: Sequence[bool], reach: int = 2) -> np.ndarray:
    """Hessian (k, d, d) at points (k, d): of the least-squares quadratic over the cells within `reach` of the nearest.

    Where a wall is nearer than that, the block of cells is moved off it.
    """
    values, axes = field.values, [field[str(d)].values for d in field.dims]
    dim = values.ndim
    spacing = np.array([(x[-1] - x[0]) / (x.size - 1) for x in axes])
    offsets = np.array(list(itertools.product(range(-reach, reach + 1), repeat=dim)))
    fit = np.linalg.pinv(_quadratic(offsets.astype(float)))
    found = np.empty((len(points), dim, dim))
    for k, point in enumerate(points):
        cell = np.array([int(np.abs(x - v).argmin()) for x, v in zip(axes, point)])
        inside = np.clip(cell, reach, np.array(values.shape) - 1 - reach)
        cell = np.where(periodic, cell, inside) + offsets
        around = values[tuple((cell % values.shape).T)]
        found[k] = _hessian((fit @ (around - around.mean()))[dim + 1 :], dim) / np.outer(spacing, spacing)
    return found


def _place(axis: np.ndarray, cell: int, shift: float, wraps: bool) -> float:
    spacing = (axis[-1] - axis[0]) / (len(axis) - 1)
    at = axis[cell] + shift * spacing
    low, period = axis[0] - spacing / 2, spacing * len(axis)
    return float(low + (at - low) % period if wraps else at)


def _quadratic(x: np.ndarray) -> np.ndarray:
    """Columns 1, x_i, x_i x_j (i ≤ j) of the fit."""
    pairs = itertools.combinations_with_replacement(range(x.shape[1]), 2)
    return np.column_stack([np.ones(len(x)), *x.T, *(x[:, i] * x[:, j] for i, j in pairs)])


def _vertex(coefficients: np.ndarray, dim: int) -> tuple[np.ndarray, float]:
    slope, hessian = coefficients[1 : dim + 1], _hessian(coefficients[dim + 1 :], dim)
    if np.linalg.eigvalsh(hessian)[-1] >= 0:
        return np.full(dim, np.inf), 0.0
    shift = -np.linalg.solve(hessian, slope)
    return shift, float(coefficients[0] + slope @ shift / 2)


def _hessian(second: np.ndarray, dim: int) -> np.ndarray:
    """The matrix of the quadratic part of a fit."""
    hessian = np.zeros((dim, dim))
    for value, (i, j) in zip(second, itertools.combinations_with_replacement(range(dim), 2)):
        hessian[i, j] += value
        hessian[j, i] += value
    return hessian
