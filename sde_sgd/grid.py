"""Grid: a box, its cells and its walls."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr

BOUNDARIES = ("reflecting", "periodic", "absorbing")
_FEWEST_CELLS = 3  # a cell, and a neighbour on either side that is not the same one
_FINENESS = {1: (20, 64, 20_000), 2: (5, 32, 400), 3: (2.5, 16, 48)}  # cells per scale; fewest, most per axis
_THINNEST = 1e-100  # so that the volume of a cell in three dimensions, h² and 1/h² are all within float64


@dataclass(frozen=True)
class Grid:
    """A box of equal cells in one to three dimensions, with the kind of wall at the ends of each axis.

    Cell i of an axis is centred at lower + (i + ½)·h, h = (upper − lower)/cells; every field on a grid holds
    one value per cell.

    Parameters
    ----------
    lower, upper : the box, one number per axis (plain numbers in one dimension).
    shape : number of cells per axis, at least 3.
    boundary : "reflecting" (no flux), "periodic" or "absorbing" (density 0 at the wall); one name for all
        axes, or one per axis.

    Raises ValueError on an empty or infinite box, too few cells, cells below 1e-100 or above 1e100, an unknown
    boundary, or lengths that differ.

    >>> grid = Grid((-2, -1), (2, 1), (64, 32), boundary=("periodic", "reflecting"))
    >>> grid.spacing
    array([0.0625, 0.0625])
    """

    lower: tuple[float, ...]
    upper: tuple[float, ...]
    shape: tuple[int, ...]
    boundary: tuple[str, ...]

    def __init__(
        self,
        lower: float | Sequence[float],
        upper: float | Sequence[float],
        shape: int | Sequence[int],
        *,
        boundary: str | Sequence[str] = "reflecting",
    ) -> None:
        low, high = _numbers(lower, "lower"), _numbers(upper, "upper")
        cells = _counts(shape)
        dim = len(low)
        if not 1 <= dim <= 3:
            raise ValueError(f"a grid has 1 to 3 dimensions, but lower has {dim} entries; give one per axis")
        for name, given in (("upper", high), ("shape", cells)):
            if len(given) != dim:
                raise ValueError(f"lower has {dim} entries but {name} has {len(given)}; give one per axis in each")
        walls = _walls(boundary, dim)
        for axis, (a, b, n) in enumerate(zip(low, high, cells)):
            if not (math.isfinite(a) and math.isfinite(b)):
                raise ValueError(
                    f"axis {axis} spans [{a}, {b}]; a grid needs finite ends: choose a box around the mass"
                )
            if not a < b:
                raise ValueError(f"axis {axis} spans [{a}, {b}]; lower must be less than upper")
            if n < _FEWEST_CELLS:
                raise ValueError(f"axis {axis} has {n} cells; at least {_FEWEST_CELLS} are needed")
            h = (b - a) / n
            if not (math.isfinite(h) and a + h > a and b - h < b):
                raise ValueError(
                    f"axis {axis}: {n} cells between {a} and {b} are not distinct in float64; use fewer cells"
                )
            if not _THINNEST < h < 1 / _THINNEST:
                raise ValueError(
                    f"axis {axis} has cells {h:g} wide, from {_THINNEST:g} to {1 / _THINNEST:g} is allowed; "
                    "choose another unit for this variable"
                )
        for name, value in (("lower", low), ("upper", high), ("shape", cells), ("boundary", walls)):
            object.__setattr__(self, name, value)

    @classmethod
    def around(
        cls,
        process: Any,
        mass: float = 1e-12,
        shape: int | Sequence[int] | None = None,
        boundary: str | Sequence[str] | None = None,
    ) -> "Grid":
        """The smallest box outside which the steady state of a process has less than `mass`.

        Each side lies where the mass beyond it falls to mass/(number of sides): no box with less outside is shorter
        along an axis than that between the quantiles `mass` and 1 − `mass`, and this one is longer by a few per cent
        for Gaussian tails and 1e-12, by at most a factor 2 for the masses allowed.

        Parameters
        ----------
        process : Process in one to three variables at a constant temperature, or anything with its methods.
        mass : from 1e-200 to 0.01.
        shape : cells per axis, one number for all or one per axis. None resolves the scale of the density,
            ℓ_i = [E (∂_i log ρ)²]^{−½} (the standard deviation of a Gaussian given the other variables), by 20 cells in
            one dimension, 5 in two, 2.5 in three; at least 64, 32, 16 per axis and at most 20000, 400, 48.
        boundary : as in `Grid`; None makes the axes that are periodic in the process periodic, over their period, and
            the others reflecting.

        Where the process knows its Φ, the box is read off e^{−Φ/T}. Otherwise coarse steady states of `FokkerPlanck`
        are solved, on boxes around the attractors of the drift that grow until nothing is left at their sides, then
        shrink: seconds in two and three variables, and tails known within a factor of ten, which is allowed for.
        A side never passes an end of the process's domain. Where the density has not died out there, the box ends
        there too: that end is then a wall, and nothing is counted beyond it; `wall_mass` of the steady state says how
        much sits beside it.

        Raises ValueError where there is no such box: the mass goes on spreading (no steady state, or power-law
        tails), or a grid of the largest shape, or of the one given if it is finer, would have cells wider than ℓ. When
        not to use it: a well that neither the lattice of first looks nor the drift finds is missed.

        >>> from sde_sgd.landscapes import get
        >>> Grid.around(get("double_well").at_temperature(0.1), shape=96).shape
        (96, 96)
        """
        from . import _box, _checks

        mass = _checks.positive("mass", mass)
        if not 1e-200 <= mass <= 0.01:
            raise ValueError(f"mass must be from 1e-200 to 0.01, got {mass:g}; it is what may lie outside the box")
        dim = getattr(process, "dim", 1)
        given = None if shape is None else _counts(shape)
        if given is not None and len(given) not in (1, dim):
            raise ValueError(
                f"shape has {len(given)} entries for {dim} variables; give one number, or one per variable"
            )
        box = _box.find(process, mass)
        periodic = process.domain.periodic
        if boundary is None:
            boundary = ["periodic" if wraps else "reflecting" for wraps in periodic]
        walls = _walls(boundary, dim)
        for name, wraps, wall in zip(process.variables, periodic, walls):
            if wraps != (wall == "periodic"):
                raise ValueError(
                    f"{name} is {'periodic' if wraps else 'not periodic'} in the process, but its boundary here is "
                    f"{wall!r}; leave boundary out, or make them agree"
                )
        needed = (box.upper - box.lower) / box.scale
        if given is None:
            cells, fewest, most = _FINENESS[dim]
            counts = np.clip(np.ceil(cells * needed), fewest, most).astype(int)
        else:
            counts, most = np.array(given * dim if len(given) < dim else given), _FINENESS[dim][2]
        for name, n, least in zip(process.variables, counts.tolist(), needed):
            if least > max(n, most):
                raise ValueError(
                    f"the box that holds all but {mass:g} is {least:.3g} times as long in {name} as the scale of the "
                    f"density there: {max(n, most)} cells do not resolve it. Ask for more cells by shape, allow more "
                    "mass outside, or simulate paths (power-law tails fit no grid of equal cells)"
                )
        return cls(box.lower.tolist(), box.upper.tolist(), tuple(counts.tolist()), boundary=walls)

    @property
    def dim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of cells."""
        return math.prod(self.shape)

    @property
    def periodic(self) -> tuple[bool, ...]:
        """Which axes are periodic."""
        return tuple(wall == "periodic" for wall in self.boundary)

    @cached_property
    def spacing(self) -> np.ndarray:
        """Width of a cell along each axis, shape (dim,)."""
        return _frozen((np.array(self.upper) - np.array(self.lower)) / np.array(self.shape))

    @property
    def cell_volume(self) -> float:
        """Volume of a cell."""
        return float(np.prod(self.spacing))

    @cached_property
    def axes(self) -> tuple[np.ndarray, ...]:
        """Cell centres along each axis."""
        ends = zip(self.lower, self.spacing, self.shape)
        return tuple(_frozen(a + h * (np.arange(n) + 0.5)) for a, h, n in ends)

    @cached_property
    def edges(self) -> tuple[np.ndarray, ...]:
        """Cell edges along each axis, one more than cells, both ends of the box included exactly."""
        return tuple(_frozen(np.linspace(a, b, n + 1)) for a, b, n in zip(self.lower, self.upper, self.shape))

    def centers(self) -> np.ndarray:
        """Coordinates of all cell centres, shape (*shape, dim)."""
        return np.stack(np.meshgrid(*self.axes, indexing="ij"), axis=-1)

    def data_array(
        self,
        values: np.ndarray,
        variables: Iterable[str],
        name: str,
        attrs: Mapping[str, Any] | None = None,
        *,
        component: bool = False,
    ) -> xr.DataArray:
        """A field with axes labelled by the variables' names; a vector field's last dimension is `component`.

        `values` has one value per cell, in C order; for a vector, one more axis of length dim.
        """
        names = list(variables)
        if len(names) != self.dim:
            raise ValueError(f"{self.dim} axes need {self.dim} variable names, got {names}")
        coords: dict[str, Any] = dict(zip(names, self.axes))
        dims, shape = list(names), tuple(self.shape)
        if component:
            dims, shape, coords["component"] = [*names, "component"], (*shape, self.dim), list(names)
        values = np.asarray(values)
        if values.size != math.prod(shape):
            raise ValueError(f"{name} has {values.size} values for an array of shape {shape}")
        return xr.DataArray(values.reshape(shape), coords, dims, name, dict(attrs or {}))


def _frozen(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False  # remembered by a hashable object: writing to it would change the grid
    return array


def _numbers(given: Any, name: str) -> tuple[float, ...]:
    try:
        return tuple(float(v) for v in np.atleast_1d(np.asarray(given, dtype=float)).tolist())
    except (TypeError, ValueError):
        raise ValueError(f"{name} is {given!r}; give one number per axis") from None


def _walls(given: Any, dim: int) -> tuple[str, ...]:
    try:
        walls = (given,) * dim if isinstance(given, str) else tuple(given)
    except TypeError:
        raise ValueError(f"boundary is {given!r}; give one name, or one per axis") from None
    if len(walls) != dim:
        raise ValueError(f"boundary has {len(walls)} entries for {dim} axes; give one name, or one per axis")
    for wall in walls:
        if not isinstance(wall, str) or wall not in BOUNDARIES:
            raise ValueError(f"boundary {wall!r} is unknown; choose among {', '.join(BOUNDARIES)}")
    return tuple(str(wall) for wall in walls)


def _counts(given: Any) -> tuple[int, ...]:
    values = np.atleast_1d(np.asarray(given))
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise ValueError(f"shape is {given!r}; give a whole number of cells per axis")
    return tuple(int(v) for v in values)
