"""Regions of the variables, from an expression, a mask on a grid or a function: one parser for all."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import sympy as sp
import xarray as xr

from sde_sgd import _checks
from sde_sgd._domain import Domain
from sde_sgd.landscapes._codegen import canonical, compile_functions, derivative, straight_line
from sde_sgd.landscapes._parser import parse_condition

_SAME_PLACE = 1e-3  # of a cell: how far coordinates may be from equal spacing, or a mask may leave a period
_ON_THE_EDGE = 1e-9  # of a cell: the box of a mask is closed, rounding included


class Region:
    """A set of points x: {x : φ_1(x) > 0 and φ_2(x) > 0 …}, cells of a grid, or {x : function(x)}.

    Made by `Region.of`. `levels` are the φ_k where it is a conjunction of inequalities, `mask` the cells where it is
    a DataArray, `function` the callable where it is one; each is None elsewhere. Periodic axes of the domain are
    wrapped before anything is looked up; a point with a NaN coordinate is in no region.
    """

    levels: tuple[sp.Expr, ...] | None = None
    mask: "Mask | None" = None
    function: Callable | None = None

    def __init__(self, source: str, domain: Domain, parameters: Mapping[str, float]):
        self.source, self.domain, self.variables = source, domain, domain.variables
        self.parameters = dict(parameters)
        self._symbols = {name: sp.Symbol(name, real=True) for name in (*self.variables, *self.parameters)}

    @staticmethod
    def of(
        value: Any,
        variables: Sequence[str | sp.Symbol],
        parameters: Mapping[str, float] | None = None,
        domain: Any = None,
        what: str = "inside",
    ) -> "Region":
        """The region that `value` describes; `what` is the name of the argument, for errors.

        value : a string of inequalities over variables and parameters, such as "-1 < x < 1 and not y > a": < <= > >=
            joined by and, or, not, or by & | ~ with parentheses; nothing is evaluated. Or a boolean
            xarray.DataArray whose dimensions are the variables, with the equally spaced centres of its cells as
            coordinates: a point belongs to the cell that holds it, and to no region outside the box of the cells.
            Or a function of points (..., d) that returns (...) booleans; it is called once here. Or a Region.
        domain : as in `Landscape`.

        Where an inequality has no value (log(x) at x < 0), neither it nor its negation holds. Raises ValueError for
        unknown names, text that compares nothing, an inequality without a variable, == and !=, DataArrays that do
        not fit, functions that do not return booleans. Empty regions are the caller's to check.
        """
        box = Domain.parse(domain, [str(v) for v in variables])
        if isinstance(value, Region):
            if value.variables != box.variables:
                raise ValueError(
                    f"{what}: the region is over {', '.join(value.variables)}, not {', '.join(box.variables)}"
                )
            return value
        known = {str(k): float(_checks.finite_array(f"parameter {k}", v, ())) for k, v in (parameters or {}).items()}
        if isinstance(value, str):
            return _Inequalities(value, box, known, what)
        if isinstance(value, xr.DataArray):
            return _Cells(value, box, known, what)
        if callable(value) and not isinstance(value, type):
            return _Function(value, box, known, what)
        raise ValueError(
            f"{what} must be inequalities such as '{box.variables[0]} > 0', a boolean xarray.DataArray over "
            f"{', '.join(box.variables)}, or a function of points (..., {len(box.variables)}), "
            f"got {type(value).__name__}"
        )

    def contains(self, x) -> np.ndarray:
        """Whether each point is inside: (..., d) → boolean (...)."""
        x, d = np.asarray(x), len(self.variables)
        if x.dtype.kind not in "biuf" or x.ndim == 0 or x.shape[-1] != d:
            raise ValueError(f"x must be real numbers of shape (..., {d}), got {x.dtype} of shape {x.shape}")
        x = x.astype(np.float64)
        for i in (i for i, wraps in enumerate(self.domain.periodic) if wraps):
            low, span = self.domain.lower[i], self.domain.period[i]
            with np.errstate(invalid="ignore"):  # ∞ becomes NaN: it has no place on a circle
                wrapped = x[..., i] - span * np.floor((x[..., i] - low) / span)
            x[..., i] = np.where((wrapped >= low + span) | (wrapped < low), low, wrapped)
        return self._contains(x) & ~np.isnan(x).any(-1)

    def _contains(self, x: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def names(self) -> dict[sp.Symbol, sp.Symbol]:
        """Variables → x0, x1 …, parameters → p0, p1 … in their order: those of the path kernels."""
        symbols = [self._symbols[n] for n in (*self.variables, *self.parameters)]
        return canonical(symbols[: len(self.variables)], symbols[len(self.variables) :])

    def lane_lines(
        self, names: Mapping[sp.Symbol, sp.Symbol] | None = None, *, prefix: str = "f", gradient: bool = True
    ) -> list[str]:
        """Scalar code that computes f0 = φ_0, f1 … of each inequality, and f0_0 = ∂φ_0/∂x_0 … where `gradient`.

        For a region of inequalities, any other raises ValueError; only where `levels` is not None is the region where
        all f are positive. `names`: what the symbols are called, default `names()`. The code expects x inside the
        domain, periodic axes wrapped, and uses the functions of `_lane_math`.
        """
        raise ValueError(f"{self.source} has no lane code; give inequalities")

    def lane_condition(self, prefix: str = "f") -> str:
        """The region as an expression of the f's of `lane_lines`, such as "(f0 > 0.0) & (f1 >= 0.0)"."""
        raise ValueError(f"{self.source} has no lane code; give inequalities")

    def lane_inside(
        self, names: Mapping[sp.Symbol, sp.Symbol] | None = None, *, output: str = "inside", prefix: str = "f"
    ) -> list[str]:
        """Scalar code that ends in `inside = …`, for inequalities and DataArrays; a function raises ValueError.

        For a DataArray it reads the arrays of `mask.arguments(prefix)`: f_cells, f_lower, f_per_cell, f_shape.
        """
        return [
            *self.lane_lines(names, prefix=prefix, gradient=False),
            f"{output} = {self.lane_condition(prefix)}",
        ]

    def describe(self) -> str:
        """What it is, as text for `attrs`."""
        return self.source

    def __repr__(self) -> str:
        return f"Region({self.describe()!r})"

    def __getstate__(self) -> dict:
        return {k: v for k, v in self.__dict__.items() if k != "_compiled"}


class _Inequalities(Region):
    def __init__(self, text: str, domain: Domain, parameters: Mapping[str, float], what: str):
        super().__init__(" ".join(text.split()), domain, parameters)
        self._condition = parse_condition(text, self._symbols, what)
        variables = {self._symbols[v] for v in self.variables}
        fixed = [level for level in self._condition.levels if not level.free_symbols & variables]
        if fixed:
            raise ValueError(
                f"{what}: an inequality in {self.source[:80]!r} does not depend on {' or '.join(self.variables)}: it "
                f"says that {fixed[0]} is positive (or negative), everywhere or nowhere; leave it out"
            )
        tree = self._condition.tree
        if isinstance(tree, int) or (tree[0] == "and" and all(isinstance(part, int) for part in tree[1:])):
            self.levels = self._condition.levels

    @cached_property
    def _compiled(self) -> Callable:
        return compile_functions(list(self._symbols.values()), self._condition.levels, np)

    def _contains(self, x):
        columns = [x[..., i] for i in range(len(self.variables))]
        with np.errstate(all="ignore"):
            values = self._compiled(*columns, *map(np.float64, self.parameters.values()))
            holds = [v > 0.0 if strict else v >= 0.0 for v, strict in zip(values, self._condition.strict)]

        def join(tree):
            if isinstance(tree, int):
                return holds[tree]
            both = np.logical_and if tree[0] == "and" else np.logical_or
            return both.reduce([join(part) for part in tree[1:]])

        return join(self._condition.tree)

    def lane_lines(self, names=None, *, prefix="f", gradient=True):
        outputs = {}
        for k, level in enumerate(self._condition.levels):
            outputs[f"{prefix}{k}"] = level
            for i, name in enumerate(self.variables if gradient else ()):
                outputs[f"{prefix}{k}_{i}"] = derivative(level, self._symbols[name], self.source[:80])
        return straight_line(outputs, self.names() if names is None else names)

    def lane_condition(self, prefix="f"):
        def text(tree):
            if isinstance(tree, int):
                return f"({prefix}{tree} {'>' if self._condition.strict[tree] else '>='} 0.0)"
            return f"({(' & ' if tree[0] == 'and' else ' | ').join(map(text, tree[1:]))})"

        return text(self._condition.tree)

    def describe(self):
        used = {str(s) for level in self._condition.levels for s in level.free_symbols}
        values = [f"{k} = {v:g}" for k, v in self.parameters.items() if k in used]
        return self.source + (f" with {', '.join(values)}" if values else "")


@dataclass(frozen=True)
class Mask:
    """Cells of a box: `cells` in C order and one False behind them, which is where points outside are looked up.

    A point is in cell i of an axis where i ≤ (x − lower)·per_cell < i + 1; the box is closed.
    """

    cells: np.ndarray
    lower: np.ndarray
    per_cell: np.ndarray
    shape: np.ndarray

    def arguments(self, prefix: str = "f") -> dict[str, np.ndarray]:
        """The arrays that the code of `lane_inside` reads, by the names it reads them under."""
        return {f"{prefix}_{k}": getattr(self, k) for k in ("cells", "lower", "per_cell", "shape")}


class _Cells(Region):
    mask: Mask

    def __init__(self, array: xr.DataArray, domain: Domain, parameters: Mapping[str, float], what: str):
        super().__init__("", domain, parameters)
        names = self.variables
        if array.dtype != bool:
            raise ValueError(f"{what}: the DataArray holds {array.dtype}; compare it with something, as in array > 0.1")
        if len(array.dims) != len(names) or set(array.dims) != set(names):
            raise ValueError(f"{what}: the DataArray has dimensions {array.dims}, a region has {names}")
        array = array.transpose(*names)
        axes = [_axis(array, i, domain, what) for i in range(len(names))]
        lower, per_cell = np.array([low for low, _ in axes]), np.array([1.0 / h for _, h in axes])
        cells = np.append(array.values.ravel(), False)
        self.mask = Mask(cells, lower, per_cell, np.array(array.shape, dtype=np.int64))
        box = ", ".join(f"{n} from {a:g} to {a + h * m:g}" for n, (a, h), m in zip(names, axes, array.shape))
        shape = " × ".join(map(str, array.shape))
        self.source = f"mask{f' {array.name}' if array.name else ''}: {cells.sum()} of {shape} cells, {box}"

    def _contains(self, x):
        with np.errstate(over="ignore"):
            position = (x - self.mask.lower) * self.mask.per_cell
        inside = ((position >= -_ON_THE_EDGE) & (position <= self.mask.shape + _ON_THE_EDGE)).all(-1)
        cell = np.clip(np.floor(np.where(inside[..., None], position, 0.0)), 0, self.mask.shape - 1).astype(np.int64)
        place = np.ravel_multi_index(tuple(np.moveaxis(cell, -1, 0)), self.mask.shape)
        return self.mask.cells[np.where(inside, place, -1)]

    def lane_inside(self, names=None, *, output="inside", prefix="f"):
        table = self.names() if names is None else names
        lines, within, index = [], [], ""
        for i, name in enumerate(self.variables):
            x, f, cells = table[self._symbols[name]], f"{prefix}{i}", f"{prefix}_shape[{i}]"
            lines.append(f"{f} = ({x} - {prefix}_lower[{i}]) * {prefix}_per_cell[{i}]")
            within.append(f"({f} >= -{_ON_THE_EDGE}) & ({f} <= {cells} + {_ON_THE_EDGE})")
            cell = f"min(max(np.floor({f}), 0.0), {cells} - 1.0)"
            index = f"({index} * {cells} + {cell})" if index else cell
        place = f"np.int64({index}) if {' & '.join(within)} else {prefix}_cells.shape[0] - 1"
        return [*lines, f"{output} = {prefix}_cells[{place}]"]


def _axis(array: xr.DataArray, i: int, domain: Domain, what: str) -> tuple[float, float]:
    """Lower edge and width of the cells along axis i."""
    name = domain.variables[i]
    if name not in array.coords:
        raise ValueError(f"{what}: the DataArray has no coordinate {name!r}; give the centres of its cells")
    centers = _checks.finite_array(f"{what}: coordinate {name!r}", array[name].values)
    if centers.size < 2:
        raise ValueError(f"{what}: the DataArray has {centers.size} cells along {name!r}; at least 2 are needed")
    with np.errstate(all="ignore"):  # differences may overflow; what comes of it is refused below
        gaps, h = np.diff(centers), float((centers[-1] - centers[0]) / (centers.size - 1))
        apart = np.abs(centers - (centers[0] + h * np.arange(centers.size))).max()
        apart = apart if math.isfinite(h) and np.isfinite(1.0 / np.float64(h)) else math.inf
    if not (gaps > 0).all():
        raise ValueError(f"{what}: the coordinate {name!r} does not increase; sort the DataArray by .sortby({name!r})")
    if not (math.isfinite(apart) and apart <= _SAME_PLACE * h):
        raise ValueError(
            f"{what}: the coordinate {name!r} is not equally spaced: gaps from {gaps.min():g} to {gaps.max():g}; "
            "a mask has equal cells"
        )
    lower, upper = centers[0] - 0.5 * h, centers[-1] + 0.5 * h
    low, high = domain.bounds[i]
    if domain.periodic[i] and not (lower >= low - _SAME_PLACE * h and upper <= high + _SAME_PLACE * h):
        raise ValueError(
            f"{what}: the cells along the periodic {name!r} span [{lower:g}, {upper:g}], beyond the domain "
            f"[{low:g}, {high:g}]; make the mask on that period"
        )
    return float(lower), h


class _Function(Region):
    function: Callable

    def __init__(self, function: Callable, domain: Domain, parameters: Mapping[str, float], what: str):
        name = getattr(function, "__qualname__", type(function).__name__)
        super().__init__(f"function {name}", domain, parameters)
        self.function, self._what = function, what
        low = np.where(np.isfinite(domain.lower), domain.lower, np.minimum(domain.upper, 1.0) - 2.0)
        high = np.where(np.isfinite(domain.upper), domain.upper, low + 2.0)
        self._contains(low + (high - low) * np.linspace(0.4, 0.6, len(low) + 1)[:, None])  # faults now, not later

    def _contains(self, x):
        wanted = f"{self._what} must be a function of points (..., {x.shape[-1]}) that returns (...) booleans"
        try:
            answer = np.asarray(self.function(x))
        except (TypeError, ValueError, IndexError) as fault:
            raise ValueError(f"{wanted}: {fault}") from fault
        if answer.dtype != bool or answer.shape != x.shape[:-1]:
            raise ValueError(f"{wanted}; for points {x.shape} it returned {answer.dtype} of shape {answer.shape}")
        return answer
