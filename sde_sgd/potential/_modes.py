"""Where a density peaks: the places a process is most often found."""

import itertools

import numpy as np
import xarray as xr


def modes(log_density: xr.DataArray, *, least: float = 1e-3, reach: int = 2) -> xr.Dataset:
    """Local maxima of log ρ on a grid, each refined by the vertex of a least-squares quadratic around it.

    `log_density`: over one to three variables, equally spaced cells, finite. A cell counts when it exceeds all cells
    within `reach` cells of it and ρ there is at least `least` times the largest; maxima at a wall are left out.
    Returns a Dataset over `point`, highest first: one variable per coordinate and `log_ratio` = log(ρ/max ρ).
    A vertex further away than the neighbourhood means a flat top, and the cell's centre is kept. Of a density
    counted from samples the maxima are mostly noise: use one that was solved.
    """
    values = log_density.values
    names = [str(d) for d in log_density.dims]
    axes = [log_density[n].values for n in names]
    if not 1 <= values.ndim <= 3 or not np.isfinite(values).all() or min(values.shape) < 2 * reach + 1:
        raise ValueError(
            f"modes needs a finite log density over one to three variables with at least {2 * reach + 1} "
            f"cells each, got shape {values.shape}"
        )
    offsets = np.array(list(itertools.product(range(-reach, reach + 1), repeat=values.ndim)))
    design = _quadratic(offsets.astype(float))
    top = values.max()
    inner = tuple(slice(reach, -reach) for _ in axes)
    candidates = np.argwhere(values[inner] >= top + np.log(least)) + reach
    found = []
    for cell in candidates:
        around = values[tuple((cell + offsets).T)]
        here = values[tuple(cell)]
        if (around > here).any() or (around == here).sum() > 1:
            continue
        coefficients = np.linalg.lstsq(design, around - here, rcond=None)[0]
        shift, height = _vertex(coefficients, values.ndim)
        if np.abs(shift).max() > reach:
            shift, height = np.zeros(values.ndim), 0.0
        position = [axis[i] + s * (axis[1] - axis[0]) for axis, i, s in zip(axes, cell, shift)]
        found.append((here + height, position))
    found.sort(key=lambda pair: -pair[0])
    heights = np.array([h for h, _ in found])
    places = np.array([p for _, p in found]).reshape(-1, len(names))
    data = {name: ("point", places[:, i]) for i, name in enumerate(names)}
    return xr.Dataset(data | {"log_ratio": ("point", heights - (heights[0] if len(heights) else 0.0))})


def _quadratic(x: np.ndarray) -> np.ndarray:
    """Columns 1, x_i, x_i x_j (i ≤ j) of the fit."""
    pairs = itertools.combinations_with_replacement(range(x.shape[1]), 2)
    return np.column_stack([np.ones(len(x)), *x.T, *(x[:, i] * x[:, j] for i, j in pairs)])


def _vertex(coefficients: np.ndarray, dim: int) -> tuple[np.ndarray, float]:
    slope = coefficients[1 : dim + 1]
    hessian = np.zeros((dim, dim))
    for value, (i, j) in zip(coefficients[dim + 1 :], itertools.combinations_with_replacement(range(dim), 2)):
        hessian[i, j] += value
        hessian[j, i] += value
    if np.linalg.eigvalsh(hessian)[-1] >= 0:
        return np.full(dim, np.inf), 0.0
    shift = -np.linalg.solve(hessian, slope)
    return shift, float(coefficients[0] + slope @ shift / 2)
