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
