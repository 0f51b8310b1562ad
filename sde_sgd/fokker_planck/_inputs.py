"""What a process must satisfy on a grid before a generator is built, and whether the work fits in memory."""

import math
from collections.abc import Callable

import numpy as np

from sde_sgd import _memory
from sde_sgd.grid import Grid

from ._eigenvalues import eigenvalue_range

_SYMMETRY = 1e-8  # |D − Dᵀ| and −λ_min allowed, relative to the largest entry of D at the point
_GENERATOR_BYTES = {1: 300, 2: 400, 3: 850}  # per cell, by dimension, measured at the peak of assembly
_SEAM = 1e-8  # jump allowed across a periodic seam, relative to the largest value on the grid
_NEEDED = ("variables", "dim", "temperature", "domain", "drift", "diffusion", "diffusion_divergence", "settings")


def at_points(function: Callable, name: str, x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """function(x) for points x (n, d), as floats (n, *shape); ValueError says where it is not finite."""
    if len(x) == 0:
        return np.empty((0, *shape))
    values = np.ascontiguousarray(function(x), dtype=float)
    if values.shape != (len(x), *shape):
        raise ValueError(f"{name} of {len(x)} points has shape {values.shape}, expected {(len(x), *shape)}")
    bad = ~np.isfinite(values.reshape(len(x), -1)).all(axis=1)
    if bad.any():
        i = int(np.flatnonzero(bad)[0])
        raise ValueError(
            f"{name} is {values[i].tolist()} at {tuple(x[i].tolist())} (and at {int(bad.sum()) - 1} other "
            "points); it must be finite on the grid: choose a box inside its domain"
        )
    return values


def check_process(process) -> None:
    """A process has a drift, a diffusion and a temperature; a landscape lacks the last."""
    if not all(hasattr(process, name) for name in (*_NEEDED, "equilibrium_potential")):
        raise ValueError(
            f"process must be a Process, got {type(process).__name__}; make one of a landscape by "
            "landscape.at_temperature(T)"
        )


def check_domain(process, grid: Grid) -> None:
    """The grid must have the process's dimension, its periodic axes, and lie in its domain."""
    names = tuple(process.variables)
    if grid.dim != process.dim:
        raise ValueError(f"the process has {process.dim} variables ({', '.join(names)}), the grid {grid.dim} axes")
    temperature = process.temperature
    if not callable(temperature) and not (isinstance(temperature, int | float) and 0.0 < temperature < np.inf):
        raise ValueError(f"temperature is {temperature}; the density needs T > 0")
    for axis, name in enumerate(names):
        low, high = float(process.domain.lower[axis]), float(process.domain.upper[axis])
        a, b = grid.lower[axis], grid.upper[axis]
        wraps = process.domain.periodic[axis]
        if wraps != grid.periodic[axis]:
            raise ValueError(
                f"{name} is {'periodic' if wraps else 'not periodic'} in the process, "
                f"but the grid's boundary there is {grid.boundary[axis]!r}; make them agree"
            )
        slack = 1e-12 * (b - a)
        if wraps and abs((b - a) - (high - low)) > slack:
            raise ValueError(f"{name} has period {high - low}, but the grid spans [{a}, {b}]; span one period")
        if wraps and abs(a - low) > slack:
            raise ValueError(
                f"the grid spans [{a}, {b}] in {name}, shifted from the process's period [{low}, {high}]; "
                "start it at the same end"
            )
        if not wraps and (a < low - slack or b > high + slack):
            raise ValueError(f"the grid spans [{a}, {b}] in {name}, outside the process's domain [{low}, {high}]")


def diffusion_at_centers(process, grid: Grid) -> np.ndarray:
    """D at all cell centres, (cells, d, d), symmetrised; ValueError where it is not a diffusion matrix."""
    x = grid.centers().reshape(-1, grid.dim)
    d = at_points(process.diffusion, "diffusion", x, (grid.dim, grid.dim))
    size = np.abs(d).max(axis=(1, 2))
    skew = np.abs(d - d.transpose(0, 2, 1)).max(axis=(1, 2))
    if (skew > _SYMMETRY * size).any():
        i = int(np.argmax(skew - _SYMMETRY * size))
        raise ValueError(f"diffusion must be symmetric, but D = {d[i].tolist()} at {tuple(x[i].tolist())}")
    d = 0.5 * (d + d.transpose(0, 2, 1))
    least = eigenvalue_range(d)[0]
    if (least < -_SYMMETRY * size).any():
        i = int(np.argmin(least + _SYMMETRY * size))
        raise ValueError(
            f"diffusion must be positive semi-definite, but its smallest eigenvalue is {least[i]:.6g} "
            f"at {tuple(x[i].tolist())}; D is a covariance: check signs and the domain"
        )
    if not size.max() > 0.0:
        raise ValueError("diffusion is zero on the whole grid: without noise there is no density to solve for")
    return d


def check_seams(process, grid: Grid) -> None:
    """D, b and an equilibrium potential must have the same values on both sides of a periodic seam."""
    if not any(grid.periodic):
        return
    x, dim = grid.centers().reshape(-1, grid.dim), grid.dim
    functions: list[tuple[str, Callable, tuple[int, ...]]] = [
        ("diffusion", process.diffusion, (dim, dim)), ("drift", process.drift, (dim,)),
    ]  # fmt: skip
    if process.equilibrium_potential is not None:
        functions.append(("equilibrium potential", process.equilibrium_potential, ()))
    for name, function, shape in functions:
        values = at_points(function, name, x, shape)
        size = max(np.ptp(values), process.temperature) if shape == () else np.abs(values).max()
        for axis in np.flatnonzero(grid.periodic):
            beside = x.reshape(*grid.shape, dim).take(0, axis=axis).reshape(-1, dim)
            left, right = beside.copy(), beside.copy()
            left[:, axis], right[:, axis] = grid.lower[axis], grid.upper[axis]
            low, high = (at_points(function, name, points, shape).reshape(len(points), -1) for points in (left, right))
            jump = np.abs(high - low).max(axis=1)
            if jump.max() > _SEAM * size:
                at = int(np.argmax(jump))
                raise ValueError(
                    f"the {name} jumps by {jump[at]:.6g} across the periodic axis {process.variables[axis]}, from "
                    f"{_shown(high[at])} at {tuple(right[at].tolist())} to {_shown(low[at])} at "
                    f"{tuple(left[at].tolist())}; what is periodic must have the same values at both ends: check its "
                    "formula, or give the process a domain in which this axis does not wrap"
                )


def _shown(values: np.ndarray) -> str:
    return f"{values[0]:.6g}" if values.size == 1 else str([float(f"{v:.6g}") for v in values])


def check_memory(needed: float, what: str, shape: tuple[int, ...]) -> None:
    """Refuse, before it is allocated, what does not fit, and say what would.

    Factors, the largest thing there is, grow like n, n² log n and n⁴ with n cells per axis in 1, 2 and 3 dimensions.
    """
    share = min(1.0, 0.5 * _memory.available_bytes() / needed) ** (1.0, 0.5, 0.25)[len(shape) - 1]
    fits = [int(0.95 * share * n) for n in shape]
    about = f" (about {' × '.join(map(str, fits))} fit)" if min(fits) >= 3 else ""
    cells = " × ".join(map(str, shape))
    _memory.refuse_beyond(needed, f"{what} on a grid of {cells} cells", f"use fewer cells{about} or a smaller box")


def generator_bytes(grid: Grid) -> int:
    """What the generator needs, at the peak of its assembly."""
    return _GENERATOR_BYTES[grid.dim] * grid.size


def steady_bytes(grid: Grid) -> int:
    """A lower estimate of what elimination needs besides, from the number of cells alone.

    Nested dissection with nearest neighbours fills about (31/8) nm log₂(min(n, m)) entries of 16 bytes on an n×m grid
    (George 1973), and about 12 n⁴ on a cube, as measured; wider stencils need more, which is known and checked once
    they are.
    """
    if grid.dim == 3:
        fewest, middle, _ = sorted(grid.shape)
        return int(192 * grid.size * math.sqrt(fewest * middle))
    return int(64 * grid.size * math.log2(min(grid.shape)) if grid.dim == 2 else 128 * grid.size)
