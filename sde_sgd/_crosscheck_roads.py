"""One start, one time, many roads: JKO, paths, SVAG and real SGD against the Fokker–Planck equation on the way.

Steady states cannot tell all: every step of JKO keeps e^{−Φ/T}, right or wrong. So the roads are compared at a time of
about one relaxation of the fastest mode, from a start that is not the steady density. Further roads come from entry
points `sde_sgd.roads`: functions of a `Question` that give a list of `Gap`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

import numpy as np
import scipy.special
import xarray as xr

from . import distances
from ._crosscheck_gap import (
    BLOCKS,
    CLOSED_FORM,
    DERIVATIVES,
    GENERATOR,
    PHILOX,
    SAMPLE_GRADIENTS,
    Gap,
    left_of,
    made_of,
)
from ._solved import moments
from .errors import TooFewSamples
from .fokker_planck import FokkerPlanck
from .grid import Grid
from .landscapes import FiniteSum
from .paths import sgd, simulate
from .process import Process

if TYPE_CHECKING:
    from ._crosscheck import Plan

_BROADER = 0.3  # of log ρ_ss that the start's is higher by, where there is mass, and
_MOST_BROADENED = 2.0  # nats by which it is so in the tails: the start is nowhere another order of magnitude, and
_TILT = 0.5  # nats by which it leans to one side of the first variable
USUAL_STEPS = 20  # of `simulate`'s own, each a twentieth of the fastest relaxation: the time of comparison
_SOLVER = 1e-5  # L1, of the Fokker–Planck solution in time
_TOLD = 0.1  # of what the density moved: the distance that sampling alone gives, above which cells are merged
_MERGED = (1, 2, 4)  # cells along each axis, in two and three variables
_SVAG = (16, 32)
_STREAMS = 64  # more than the roads have runs
_MOST_DRAWN = 2**18  # paths whose drift is a sum over samples


class NotTaken(ValueError):
    """Why a road does not apply."""


@dataclass(frozen=True)
class Question:
    """Which density a process has at `time`, if it starts from that of `start`."""

    process: Process
    fp: FokkerPlanck
    rough: FokkerPlanck
    histogram: Grid
    time: float
    step: float  # a twentieth of the fastest relaxation
    paths: int
    levels: int  # of JKO's step: two or three
    seed: int
    threads: int | None

    @classmethod
    def of(cls, plan: "Plan", paths: int, levels: int, seed: int, threads: int | None, heated: float) -> "Question":
        """The question that goes with a plan; `heated` as for `compare`."""
        from .simulate_command import _default_step

        step, temperature = _default_step(plan.process, plan.settings["start"]), plan.process.constant_temperature
        time, landscape = USUAL_STEPS * step, plan.process.landscape
        if isinstance(landscape, FiniteSum):
            one = 2 * temperature  # SGD of one sample a step can stop at multiples of this only
            time = one * math.ceil(time / one - 1e-9)
            paths = min(paths, _MOST_DRAWN) if landscape.samples > 16 else paths
        process = landscape.at_temperature(heated * temperature)
        return cls(process, plan.fp, plan.rough, plan.histogram, time, step, paths, levels, seed, threads)

    @cached_property
    def _middle(self) -> tuple[float, float]:
        """Mean and standard deviation of the first variable in the steady state."""
        weight, x = self.fp.steady_state().values, self.fp.grid.centers()[..., 0]
        mean = float((weight * x).sum() / weight.sum())
        return mean, math.sqrt(float((weight * (x - mean) ** 2).sum() / weight.sum()))

    def log_start(self, log_steady: np.ndarray, grid: Grid) -> np.ndarray:
        """Logarithm of the start, by that of the steady density in the same cells: broader, and leaning."""
        x, (mean, spread), low, high = grid.centers()[..., 0], self._middle, grid.lower[0], grid.upper[0]
        lean = np.cos(2 * np.pi * (x - low) / (high - low)) if grid.periodic[0] else np.tanh((x - mean) / spread)
        below = log_steady.max() - log_steady
        log = _MOST_BROADENED * np.tanh(_BROADER * below / _MOST_BROADENED) + _TILT * lean - below
        return log - scipy.special.logsumexp(log) - math.log(grid.cell_volume)

    @cached_property
    def start(self) -> xr.DataArray:
        """The start on the finest grid."""
        steady = self.fp.log_steady_state()
        return steady.copy(data=np.exp(self.log_start(steady.values, self.fp.grid))).drop_attrs()

    def stream(self, number: int) -> int:
        """A seed of its own for each run of each road; none that another seed of the question has."""
        return _STREAMS * self.seed + number

    def starts(self, stream: int, paths: int) -> np.ndarray:
        """Points (paths, d) drawn from the start, whose density is constant in each cell."""
        rng = np.random.default_rng([self.seed, stream])
        mass = self.start.values.ravel() / self.start.values.sum()
        cells = rng.choice(mass.size, paths, p=mass)
        grid = self.fp.grid
        inside = rng.random((paths, grid.dim)) - 0.5
        return grid.centers().reshape(-1, grid.dim)[cells] + inside * np.asarray(grid.spacing)

    @cached_property
    def solved(self) -> tuple[xr.DataArray, xr.DataArray]:
        """ρ(time) on the finer and the rougher grid."""
        first, second = (
            fp.evolve(on_cells(self.start, fp.grid), self.time, tolerance=_SOLVER).isel(time=0, drop=True)
            for fp in (self.fp, self.rough)
        )
        return first, second

    @cached_property
    def reference(self) -> tuple[xr.DataArray, float]:
        """ρ(time) on the cells of the histogram, and the error of the grid in L1."""
        fine, rough = (on_cells(density, self.histogram) for density in self.solved)
        return fine, float(abs(fine - rough).sum()) * self.histogram.cell_volume / 3 + 2 * _SOLVER

    @cached_property
    def numbers(self) -> dict[str, tuple[float, float]]:
        """Means and variances at the time, and their errors of the grid; none on periodic axes."""
        if any(self.fp.grid.periodic):
            return {}
        found = [moments(density, fp) for density, fp in zip(self.solved, (self.fp, self.rough))]
        width = float(np.max(np.subtract(self.histogram.upper, self.histogram.lower))) / 2
        result = {}
        for i, name in enumerate(self.process.variables):
            for words, key, at in (("mean", "mean", (i,)), ("variance", "covariance", (i, i))):
                one, other = (float(f[key][1][at]) for f in found)
                result[f"{words} {name}"] = one, abs(one - other) / 3 + _SOLVER * width ** len(at)
        return result

    @cached_property
    def moved(self) -> float:
        """∫|ρ(time) − ρ(0)|: how much there is to tell."""
        return float(abs(self.solved[0] - self.start).sum()) * self.fp.grid.cell_volume

    @property
    def parts(self) -> tuple[str, ...]:
        """What the solved density is made of."""
        known, summed = self.process.equilibrium_potential is not None, isinstance(self.process.landscape, FiniteSum)
        more = [CLOSED_FORM] * known + [SAMPLE_GRADIENTS] * summed
        return (DERIVATIVES, GENERATOR, *more)


def on_cells(density: xr.DataArray, grid: Grid) -> xr.DataArray:
    cells = distances.coarsen(density, density.shape[0] // grid.shape[0])
    return cells.assign_coords({str(d): axis for d, axis in zip(cells.dims, grid.axes)})


# Paths -------------------------------------------------------------------------------------------------------


def sampled(
    question: Question, road: str, states: Sequence[np.ndarray], parts: Sequence[str], setting: str, *,
    order: int = 1, extrapolate: bool = True,
) -> list[Gap]:  # fmt: skip
    """Gaps of the last `states` (paths, d) at a step and at half of it, extrapolated to step 0 at the given order.

    Without `extrapolate` it is the longer step that is compared, and what extrapolation would change is told as its
    bias, half as much again allowed for higher orders.
    """
    reference, grid = question.reference
    pair, about = f"solved – {road}", {**made_of(question.parts, parts), "setting": setting}

    def settled(long: np.ndarray, short: np.ndarray, width: float) -> tuple[np.ndarray, float, float]:
        """Values of the blocks, what extrapolation has changed, and what it would change."""
        straight = short + (short - long) / (2**order - 1)
        change = straight - (short if extrapolate else long)
        noise = float((change.std(axis=0, ddof=1) / math.sqrt(BLOCKS)).sum()) * width
        left = left_of(float(abs(change.mean(axis=0)).sum()) * width, noise)
        return (straight, left, 0.0) if extrapolate else (long, 0.0, 1.5 * left)

    # On fewer cells the sample weighs less and what roads do differently hardly: as many as the sample can fill.
    for merged in _MERGED if question.histogram.dim > 1 else (1,):
        cells = replace(question.histogram, shape=tuple(n // merged for n in question.histogram.shape))
        try:
            blocks = [_blocks(s, question, cells) for s in states]
        except TooFewSamples:
            if merged == _MERGED[-1] or question.histogram.dim == 1:
                raise
            continue
        values, left, stated = settled(blocks[0].values, blocks[1].values, cells.cell_volume)
        found = distances.l1_distance(blocks[0].copy(data=values), on_cells(reference, cells))
        if found.floor <= _TOLD * question.moved:
            break
    about["setting"] += f", {' × '.join(map(str, cells.shape))} cells"
    gaps = [Gap("density", pair, 0.0, 0.0, found.distance, found.error, found.floor, left, grid, stated, **about)]
    for quantity, (value, grid) in question.numbers.items():
        words, name = quantity.split()
        i = question.process.variables.index(name)
        long, short = (s[:, i].reshape(BLOCKS, -1) for s in states)
        of = np.mean if words == "mean" else _variance
        values, left, stated = settled(of(long, axis=1), of(short, axis=1), 1.0)
        mean, error = float(values.mean()), float(values.std(ddof=1)) / math.sqrt(BLOCKS)
        gaps.append(Gap(quantity, pair, value, mean, abs(value - mean), error, 0.0, left, grid, stated, **about))
    return gaps


def _variance(values: np.ndarray, axis: int) -> np.ndarray:
    return values.var(axis=axis, ddof=1)


def _blocks(states: np.ndarray, question: Question, grid: Grid) -> xr.DataArray:
    """Densities (block, *variables) of the groups of states."""
    edges = [np.linspace(low, high, n + 1) for low, high, n in zip(grid.lower, grid.upper, grid.shape)]
    counts = np.stack([np.histogramdd(part, edges)[0] for part in states.reshape(BLOCKS, -1, grid.dim)])
    names = question.process.variables
    coords = dict(zip(names, grid.axes))
    inside = xr.DataArray(counts, dims=("block", *names), coords=coords)
    outside = len(states) // BLOCKS - inside.sum(names)
    return distances.blocks_of(xr.Dataset({"counts": inside, "outside": outside}))


def paths(question: Question) -> list[Gap]:
    """Numba paths: the scheme of weak order 2 for constant D, else Euler–Maruyama."""
    constant = question.process.landscape.constant_diffusion() is not None
    scheme, order = ("stochastic_heun", 2) if constant else ("euler_maruyama", 1)
    states = []
    for stream, parts in enumerate((1, 2)):
        steps = max(2, round(question.time / question.step)) * parts
        run = simulate(
            question.process, question.starts(stream, question.paths), step=question.time / steps, steps=steps,
            paths=question.paths, scheme=scheme, seed=question.stream(stream), threads=question.threads,
        )  # fmt: skip
        states.append(_states(run, question))
    setting = f"{scheme}, h = {2 * question.time / steps:.3g} and half of it"
    return sampled(question, "paths", states, (DERIVATIVES, PHILOX, scheme), setting, order=order)


def _states(run: xr.Dataset, question: Question) -> np.ndarray:
    return np.stack([run[name].values for name in question.process.variables], axis=-1)


def _recursion(question: Question, svag: Sequence[int]) -> list[np.ndarray]:
    """Last states of SVAG at batch size 1 for each l; l = 1 is SGD."""
    finite_sum = question.process.landscape
    if not isinstance(finite_sum, FiniteSum):
        raise NotTaken("there are no samples to draw from")
    rate, states = 2 * question.process.constant_temperature, []
    for stream, l in enumerate(svag):
        run = sgd(
            finite_sum, question.starts(10 + l, question.paths), learning_rate=rate, batch_size=1, svag=l,
            steps=round(question.time / rate * l), replicas=question.paths,
            seed=question.stream(10 + stream), threads=question.threads,
        )  # fmt: skip
        states.append(_states(run, question))
    return states


def svag(question: Question) -> list[Gap]:
    """SVAG of real samples (Li, Malladi & Arora 2021), extrapolated in 1/l."""
    states = _recursion(question, _SVAG)
    rate = 2 * question.process.constant_temperature
    setting = f"b = 1, η = {rate:g}, l = {_SVAG[0]} and {_SVAG[1]}"
    return sampled(question, "SVAG", states, (SAMPLE_GRADIENTS, PHILOX, "kernel of SGD"), setting)


def real_sgd(question: Question) -> list[Gap]:
    """Mini-batch SGD itself. It has no step to take to 0 at a fixed temperature: its bias is that of SVAG's first l."""
    states = _recursion(question, (1, 2))
    setting = f"b = 1, η = {2 * question.process.constant_temperature:g}; bias from SVAG's l = 2"
    parts = (SAMPLE_GRADIENTS, PHILOX, "kernel of SGD")
    return sampled(question, "SGD", states, parts, setting, extrapolate=False)


# All of them -------------------------------------------------------------------------------------------------

Road = Callable[[Question], list[Gap]]


def _jko(question: Question) -> list[Gap]:
    from ._crosscheck_jko import jko

    return jko(question)


OWN: dict[str, Road] = {"JKO": _jko, "paths": paths, "SVAG": svag, "SGD": real_sgd}
GROUP = "sde_sgd.roads"


def names() -> list[str]:
    """The roads of the core, and those that other packages bring."""
    return [*OWN, *sorted(point.name for point in entry_points(group=GROUP))]


def gaps(
    question: Question, roads: Sequence[str], progress: Callable[[int, int], object] | None = None
) -> tuple[list[Gap], dict[str, str]]:
    """The gaps of each road, and why others were not taken."""
    brought = {point.name: point for point in entry_points(group=GROUP)}
    found: list[Gap] = []
    left: dict[str, str] = {}
    for done, name in enumerate(roads):
        try:
            road = OWN[name] if name in OWN else brought[name].load()
            found += road(question)
        except (NotTaken, TooFewSamples) as reason:
            left[name] = str(reason)
        except ModuleNotFoundError as fault:
            left[name] = f"{fault.name} is not installed"
        if progress is not None:
            progress(done + 1, len(roads))
    return found, left
