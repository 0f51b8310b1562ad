"""The road of steepest descent: JKO on two grids, with steps extrapolated to 0, against Fokker–Planck in time."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from ._crosscheck_gap import CLOSED_FORM, DERIVATIVES, GENERATOR, Gap, made_of
from ._crosscheck_roads import USUAL_STEPS, NotTaken, Question, on_cells
from .errors import NotConverged
from .grid import Grid
from .jko import JKO

SOLVED_JKO = "solved – JKO"
_RESIDUAL = 1e-5  # of a step
_FEWEST = 4  # steps, and
_SHORTENED = 2  # how often they may be doubled where one is not found
_EMPTY = 1e-6  # of the largest density: below, it changes so much across a cell that its mean is not its middle
_ENOUGH = 0.1  # of what the density moved: the error of the grids that lets the road tell of it, and
_TOO_MUCH = 0.3  # that from which on it tells nothing


def jko(question: Question) -> list[Gap]:
    """Steepest descent on two grids, extrapolated in τ by Romberg's table of two or three steps."""
    if question.process.dim > 2:
        raise NotTaken("JKO has one or two variables")
    fewest = max(_FEWEST, round(_FEWEST * question.time / (USUAL_STEPS * question.step)))
    for longer in range(_SHORTENED + 1):
        counts = [fewest * 2 ** (k + longer) for k in range(question.levels)]
        try:
            fine, rough = _on_two_grids(question, counts)
            return _gaps(question, fine, rough)
        except NotConverged as fault:
            found = str(fault)
    raise NotTaken(f"in {counts[0]} steps, {found}")


@dataclass(frozen=True)
class _Descended:
    """ρ(time) on one grid, in several numbers of steps."""

    densities: list[xr.DataArray]
    counts: Sequence[int]
    attrs: dict[str, Any]
    regularisation: float  # L1: the error that the entropic method says it has, summed over the steps

    @classmethod
    def of(cls, question: Question, grid: Grid, counts: Sequence[int]) -> "_Descended":
        process, temperature = question.process, question.process.constant_temperature
        try:
            # Where Φ is not known, all methods take it from FokkerPlanck: then the cheapest shares hardly more.
            method = "auto" if grid.dim == 1 or _known(process) else "entropic"
            descent = JKO(process, grid, method=method, tolerance=_RESIDUAL)
        except ValueError as fault:
            raise NotTaken(str(fault)) from fault
        start = _log_start(question, -descent._phi / temperature, grid)
        coords, ends, errors = dict(zip(process.variables, grid.axes)), [], []
        for count in counts:
            state, error = descent._road.start(start), 0.0  # `flow` takes densities, that end where float64 does
            for _ in range(count):
                with np.errstate(over="ignore", invalid="ignore"):  # of trials far off, which are refused
                    state, log_density, row = descent._advance(state, question.time / count)
                error += row.get("regularisation_error", 0.0)
            ends.append(xr.DataArray(np.exp(log_density), coords, process.variables))
            errors.append(error)
        return cls(ends, counts, descent.attrs, max(errors))

    def on(self, grid: Grid) -> tuple[xr.DataArray, xr.DataArray]:
        """The limit τ → 0 on the cells of a grid, and that before the last extrapolation."""
        return _romberg([on_cells(density, grid) for density in self.densities])

    def numbers(self) -> dict[str, tuple[float, float]]:
        """The same of means and variances."""
        tables = [_numbers(density) for density in self.densities]
        return {quantity: _romberg([table[quantity] for table in tables]) for quantity in tables[0]}


def _log_start(question: Question, log_steady: np.ndarray, grid: Grid) -> np.ndarray:
    """The start's averages over the cells; in empty tails by the road's own ρ_ss, or the step there would be wild."""
    own = question.log_start(log_steady, grid)
    mean = on_cells(question.start, grid).values
    weight = mean / (mean + _EMPTY * mean.max())
    return own + weight * (np.log(np.maximum(mean, 1e-300)) - own)


def _known(process: Any) -> bool:
    """Whether Φ is given in closed form."""
    x = np.array([process.domain.lower, process.domain.upper]).mean(0)
    return process.equilibrium_potential is not None or process.potential(x) is not None


def _grids(question: Question) -> Iterator[Grid]:
    """From that of the histogram to that of the solution, each with cells half as wide."""
    grid = question.histogram
    while grid.shape[0] <= question.fp.grid.shape[0]:
        yield grid
        grid = replace(grid, shape=tuple(2 * n for n in grid.shape))


def _on_two_grids(question: Question, counts: Sequence[int]) -> tuple[_Descended, _Descended]:
    """The descent on the first grid whose error is small, and on that with cells twice as wide."""
    now: _Descended | None = None
    failed = error = None
    for grid in _grids(question):
        before, now = now, None
        try:
            now = _Descended.of(question, grid, counts)
        except NotConverged as fault:
            failed = fault
            continue
        if before is not None:
            pair, error = (now, before), _grid_error(question, now, before)
            if error <= _ENOUGH * question.moved:
                return pair
    if error is None:
        raise failed or NotTaken("there is one grid only")
    if error > _TOO_MUCH * question.moved:
        cells = " × ".join(map(str, pair[0].densities[0].shape))
        raise NotTaken(
            f"on {cells} cells the error of the grid is {error:.2g}, and the density moves by {question.moved:.2g} only"
        )
    return pair


def _l1(question: Question, one: xr.DataArray, other: xr.DataArray) -> float:
    return float(abs(one - other).sum()) * question.histogram.cell_volume


def _grid_error(question: Question, fine: _Descended, rough: _Descended) -> float:
    """A third of how far the density moves, cell by cell of the histogram, when the spacing is halved."""
    return _l1(question, fine.on(question.histogram)[0], rough.on(question.histogram)[0]) / 3


def _gaps(question: Question, fine: _Descended, rough: _Descended) -> list[Gap]:
    attrs, counts = fine.attrs, fine.counts
    cells = " × ".join(map(str, fine.densities[0].shape))
    about: dict[str, Any] = {
        **made_of(question.parts, parts(attrs)),
        "setting": f"{attrs['method']}, τ = t/{counts[0]} to t/{counts[-1]}, {cells} cells",
    }
    reference, solved_grid = question.reference
    value, before = fine.on(question.histogram)
    bias, grid = _l1(question, value, before), solved_grid + _grid_error(question, fine, rough)
    distance = _l1(question, value, reference)
    gaps = [Gap("density", SOLVED_JKO, 0.0, 0.0, distance, 0.0, 0.0, bias, grid, fine.regularisation, **about)]
    width = float(np.max(np.subtract(question.histogram.upper, question.histogram.lower))) / 2
    ours, coarser = fine.numbers(), rough.numbers()
    for quantity, (solved, grid) in question.numbers.items():
        number, last = ours[quantity]
        grid += abs(number - coarser[quantity][0]) / 3
        stated = fine.regularisation * width ** (1 if quantity.startswith("mean") else 2)
        gaps.append(
            Gap(
                quantity, SOLVED_JKO, solved, number, abs(number - solved), 0.0, 0.0, abs(number - last), grid, stated,
                **about,
            )
        )  # fmt: skip
    return gaps


def parts(attrs: dict[str, Any]) -> tuple[str, ...]:
    """What a flow is made of, by what it says of itself."""
    source, method = attrs["potential_from"], attrs["method"]
    known = source == "closed form"
    j = attrs["remainder"] == "split"
    return (
        *([CLOSED_FORM] if known else []),
        *([GENERATOR] if source == "FokkerPlanck" or method == "entropic" else []),
        *([DERIVATIVES] if not known or j or method == "entropic" else []),
        f"JKO, {method}",
    )


def _romberg(values: Sequence[Any]) -> tuple[Any, Any]:
    """The limit of values at τ, τ/2, …, whose error is a series in τ; and that before the last extrapolation."""
    table, before = list(values), values[-1]
    for order in range(1, len(table)):
        before = table[-1]
        table = [b + (b - a) / (2**order - 1) for a, b in itertools.pairwise(table)]
    return table[-1], before


def _numbers(density: xr.DataArray) -> dict[str, float]:
    """Means and variances of a density over its own cells."""
    mass = density / density.sum()
    means = {str(d): float((mass * density[d]).sum()) for d in density.dims}
    variances = {d: float((mass * (density[d] - m) ** 2).sum()) for d, m in means.items()}
    return {f"mean {d}": m for d, m in means.items()} | {f"variance {d}": v for d, v in variances.items()}
