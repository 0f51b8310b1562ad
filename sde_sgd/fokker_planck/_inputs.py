"""What a process must satisfy on a grid before a generator is built, and whether the work fits in memory."""

from collections.abc import Callable

import numpy as np

from sde_sgd import _memory
from sde_sgd.grid import Grid

_SYMMETRY = 1e-8  # |D − Dᵀ| and −λ_min allowed, relative to the largest entry of D at the point
_GENERATOR_BYTES = 1500  # per cell, measured on 2-D grids at the peak of assembly
_NEEDED = ("variables", "dim", "temperature", "domain", "drift", "diffusion", "diffusion_divergence", "settings")


def at_points(function: Callable, name: str, x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """function(x) for points x (n, d), as floats (n, *shape); ValueError says where it is not finite."""
    if len(x) == 0:
        return np.empty((0, *shape))
    values = np.asarray(function(x), dtype=float)
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
    if grid.dim == 3:
        raise ValueError("densities are solved in 1-D and 2-D; for three variables simulate paths, or fix one variable")
    temperature = process.constant_temperature if callable(process.temperature) else process.temperature
    if not (isinstance(temperature, int | float) and 0.0 < temperature < np.inf):
        raise ValueError(f"temperature is {temperature}; the density needs a constant T > 0")
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
    least = np.linalg.eigvalsh(d)[:, 0]
    if (least < -_SYMMETRY * size).any():
        i = int(np.argmin(least + _SYMMETRY * size))
        raise ValueError(
            f"diffusion must be positive semi-definite, but its smallest eigenvalue is {least[i]:.6g} "
            f"at {tuple(x[i].tolist())}; D is a covariance: check signs and the domain"
        )
    if not size.max() > 0.0:
        raise ValueError("diffusion is zero on the whole grid: without noise there is no density to solve for")
    return d


def check_potential(process, grid: Grid) -> None:
    """An equilibrium potential must agree with itself across a periodic seam."""
    if process.equilibrium_potential is None or not any(grid.periodic):
        return
    x = grid.centers().reshape(-1, grid.dim)
    spread = np.ptp(at_points(process.equilibrium_potential, "the equilibrium potential", x, ()))
    for axis, periodic in enumerate(grid.periodic):
        if periodic:
            left, right = x.copy(), x.copy()
            left[:, axis], right[:, axis] = grid.lower[axis], grid.upper[axis]
            jump = np.abs(process.equilibrium_potential(left) - process.equilibrium_potential(right)).max()
            if jump > 1e-8 * max(spread, process.temperature):
                raise ValueError(
                    f"the equilibrium potential jumps by {jump:.6g} across the periodic axis "
                    f"{process.variables[axis]}: a force that does not derive from a potential there"
                )


def check_memory(needed: int, what: str, grid: Grid) -> None:
    """Refuse, before anything is allocated, what would not fit."""
    cells = " × ".join(map(str, grid.shape))
    _memory.refuse_beyond(needed, f"{what} on a grid of {cells} cells", "use fewer cells or a smaller box")


def least_bytes(grid: Grid) -> int:
    """A lower estimate for generator and steady state, from the number of cells alone.

    Nested dissection of an n×m grid with nearest neighbours fills about (31/8) nm log₂(min(n, m)) entries of
    16 bytes (George 1973); wider stencils need more, which is known and checked once they are.
    """
    entries = 4.0 * grid.size * np.log2(min(grid.shape)) if grid.dim == 2 else 8.0 * grid.size
    return int(_GENERATOR_BYTES * grid.size + 16 * entries)
