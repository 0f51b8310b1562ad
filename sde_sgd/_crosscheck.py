"""One steady state three ways: solved on a grid, sampled by paths, and in closed form; how far apart, and why.

No two of them share code: the generator knows nothing of random numbers, the paths nothing of the grid, and the closed
form is a quadrature of the potential that the landscape was given.
"""

import math
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr
from scipy import stats

from . import distances
from ._boltzmann import exact
from ._command import start_of
from ._console import Progress
from ._simulation import _whole_way
from ._solved import moments
from .fokker_planck import FokkerPlanck
from .grid import Grid
from .landscapes import get
from .paths import Histogram, Moments, Winding, simulate
from .paths._choose import choose
from .process import Process

BLOCKS = 32  # independent groups of paths, whose scatter is the statistical error
MOMENT_ALARM = 5e-3  # probability that chance alone makes any mean or variance of a table disagree
DISTANCE_ALARM = 2e-4  # and one distance between densities: `distances.Distance.agrees`
_CELLS = {1: 80, 2: 40, 3: 16}  # per axis of the histogram
_FINEST = {1: 64, 2: 16, 3: 2}  # cells of the grid along one of the histogram, at most
_COARSE = 0.1  # that of the finest grid, above which a comparison says nothing
_BURN, _SAMPLE = 8, 16  # relaxation times: e⁻⁸ of what the start was off is left
_SINGULAR = 1e-10  # smallest over largest eigenvalue of a D of lower rank
_CUT = 1e-3  # share of the density beside the walls of the domain, from which on it is cut
_HEATED = 1.25  # by which T is raised where wells exchange too rarely for paths
_SHORTER = 0.9  # a rise of T that leaves more of the steps than this is in vain: no barrier makes them many
_BY_FAR = 2.0
_TWICE = 2.0  # the grid's error is an estimate, and may be half of the true one
_ROUNDING = 1e-10  # of sums over the cells, in standard deviations
_REST = 0.5  # share of the step's bias that may be left once its leading term is taken off


@dataclass(frozen=True)
class Effort:
    """How much a landscape may cost: path-steps of a cheap drift, between how many paths, and how fine the grid is."""

    path_steps: float = 1.2e9
    fewest: int = 256
    paths: int = 16384
    fine: float = 5e-3  # the grid's error of the density, above which it is refined


FULL, QUICK = Effort(), Effort(3e7, 128, 1024, 0.03)


class NotCompared(ValueError):
    """Why a landscape is not compared."""


@dataclass(frozen=True)
class Gap:
    """Two values of one quantity, and what may lie between them if both are right."""

    quantity: str
    pair: str
    one: float
    other: float
    distance: float  # |one − other|, or the L1 distance of densities
    error: float  # statistical, one standard deviation
    floor: float  # of densities: the distance that sampling alone gives
    bias: float  # of the step: what the extrapolation may have left
    grid: float  # of the grid: an estimate from cells twice as wide

    def limit(self, deviations: float) -> float:
        """The largest distance that is agreement."""
        sampling = 4.0 * self.error if self.is_density else deviations * self.error
        return self.floor + sampling + _REST * self.bias + _TWICE * self.grid

    @property
    def is_density(self) -> bool:
        return self.quantity == "density"

    @property
    def is_sampled(self) -> bool:
        return "paths" in self.pair


def deviations(gaps: list[Gap]) -> float:
    """Standard errors that a mean or variance may be off, so that chance exceeds them in 0.5 % of such tables.

    Student's law of 31 degrees of freedom, the level shared by all (Bonferroni).
    """
    count = max(sum(gap.is_sampled and not gap.is_density for gap in gaps), 1)
    return float(stats.t.ppf(1 - MOMENT_ALARM / (2 * count), BLOCKS - 1))


def false_alarm(gaps: list[Gap]) -> float:
    """Bound on the probability that chance alone makes something in the table disagree."""
    sampled = [gap for gap in gaps if gap.is_sampled]
    densities = sum(gap.is_density for gap in sampled)
    return DISTANCE_ALARM * densities + MOMENT_ALARM * (densities < len(sampled))


# One landscape -----------------------------------------------------------------------------------------------


def compare(
    name: str,
    effort: Effort = FULL,
    *,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
    heated: float = 1.0,
) -> xr.Dataset:
    """The gaps of one landscape as a Dataset over `row`; what was done, in `attrs`.

    `heated` runs the paths at another temperature than the density is solved at: the check must then fail.
    Raises `NotCompared` with the reason where there is nothing to compare.
    """
    plan = Plan.of(name, effort)
    measured = plan.paths(seed, threads, progress, heated)
    gaps = _densities(plan, measured) + _moments(plan, measured)
    columns = {k: ("row", np.array([getattr(g, k) for g in gaps])) for k in Gap.__dataclass_fields__}
    return xr.Dataset(columns, attrs=plan.settings | {"scheme": measured.attrs["scheme"]})


def gaps_of(result: xr.Dataset) -> list[Gap]:
    """The rows of `compare`, read back."""
    names = list(Gap.__dataclass_fields__)
    return [Gap(**{n: result[n].values[k].item() for n in names}) for k in range(result.sizes["row"])]


@dataclass(frozen=True)
class Plan:
    """A process whose steady state paths can reach, its solution on two grids, and the run of the paths."""

    process: Process
    fp: FokkerPlanck
    rough: FokkerPlanck
    histogram: Grid
    factor: int
    settings: dict[str, Any]

    @classmethod
    def of(cls, name: str, effort: Effort) -> "Plan":
        landscape = get(name)
        _check_noise(landscape.at_temperature())
        usual = temperature = landscape.at_temperature().constant_temperature
        cost, before = _cost(landscape.at_temperature()), math.inf
        while True:
            plan = cls._at(landscape.at_temperature(temperature), effort.fine)
            start = start_of(plan.process, None)
            step = _step(plan.process, start)
            # the rougher grid tells at a quarter of the price where paths are out of reach by far
            rough_steps, paths = _run_of(_relaxation(plan.rough) / step, effort, cost / _BY_FAR)
            if paths:
                relaxation = _relaxation(plan.fp)
                steps, paths = _run_of(relaxation / step, effort, cost)
            if paths:
                break
            if rough_steps > _SHORTER * before:
                raise NotCompared(
                    f"at T = {temperature:.3g} each of {effort.fewest} paths needs {rough_steps} steps, more than this "
                    "effort allows, and a higher temperature hardly shortens them"
                )
            before, temperature = rough_steps, _HEATED * temperature
        settings = {
            "landscape": name, "temperature": temperature, "usual_temperature": usual, "relaxation": relaxation,
            "step": step, "steps": steps, "paths": paths, "start": start,
            "cells": " × ".join(map(str, plan.fp.grid.shape)), "grid_error": _grid_error(plan),
            "wall_mass": _wall_mass(plan.fp),
        }  # fmt: skip
        return replace(plan, settings=settings)

    @classmethod
    def _at(cls, process: Process, fine: float) -> "Plan":
        try:
            around = Grid.around(process)
        except ValueError as fault:
            raise NotCompared(str(fault)) from fault
        box = Grid(around.lower, around.upper, (_CELLS[process.dim],) * process.dim, boundary=around.boundary)
        factor = 2
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they say is checked here
            rough = FokkerPlanck(process, box)
            while True:
                shape = [factor * n for n in box.shape]
                fp = FokkerPlanck(process, Grid(box.lower, box.upper, shape, boundary=box.boundary))
                if _wall_mass(fp) > _CUT:
                    raise NotCompared(
                        f"at T = {process.constant_temperature:.3g} a share of {_wall_mass(fp):.1g} of the density "
                        "lies beside the walls of the landscape's domain: nothing else confines it, and paths have none"
                    )
                plan, finest = cls(process, fp, rough, box, factor, {}), 2 * factor > _FINEST[process.dim]
                error = _grid_error(plan)
                if finest and error > _COARSE:
                    raise NotCompared(
                        f"on {' × '.join(map(str, fp.grid.shape))} cells the error of the grid is {error:.2g}, of 2 at "
                        "most: too coarse to say anything of the paths"
                    )
                if finest or (factor > 2 and error < fine):
                    return plan
                rough, factor = fp, 2 * factor

    def paths(self, seed: int, threads: int | None, progress: Progress | None, heated: float) -> xr.Dataset:
        """The run: counted every twentieth of a relaxation time, and again at twice the step on the same noise."""
        s = self.settings
        burn_in = s["steps"] // (_BURN + _SAMPLE) * _BURN // 2 * 2
        every = max(2, int(s["relaxation"] / s["step"] / 20) // 2 * 2)
        sampling = dict(burn_in=burn_in, every=every, blocks=BLOCKS)
        observables: list[Any] = [Histogram(self.histogram, **sampling)]
        if not any(self.histogram.periodic):
            observables.append(Moments(**sampling))
        elif self.process.dim == 1:
            observables.append(Winding(self.process.variables[0], burn_in=burn_in))
        process = self.process.landscape.at_temperature(heated * s["temperature"])
        return simulate(
            process, s["start"], step=s["step"], steps=s["steps"], paths=s["paths"], save_every=0, seed=seed,
            observables=observables, threads=threads, step_bias=True,
            progress=None if progress is None else _whole_way(progress, True),
        )  # fmt: skip


def _check_noise(process: Process) -> None:
    """Refuse a D of lower rank everywhere: what it makes is no density on all variables."""
    low, high = process.domain.lower, process.domain.upper
    if not np.isfinite(high - low).all():
        return
    x = low + (high - low) * np.random.default_rng(0).random((64, process.dim))
    eigenvalues = np.linalg.eigvalsh(process.diffusion(x))
    share = eigenvalues[:, 0] / eigenvalues[:, -1]
    if (share < _SINGULAR).all():
        rank = int((eigenvalues > _SINGULAR * eigenvalues[:, -1:]).sum(1).max())
        raise NotCompared(
            f"the noise has rank {rank} in {process.dim} variables: what it tends to is no density on all of them"
        )


def _relaxation(fp: FokkerPlanck) -> float:
    """1/Re λ₁: the time after which a start is forgotten."""
    values = fp.spectrum(2)["eigenvalue"].values
    return float(1.0 / np.sort(values.real)[1])


def _wall_mass(fp: FokkerPlanck) -> float:
    return float(fp.steady_state().attrs["wall_mass"])


def _step(process: Process, start: list[float]) -> float:
    """A twentieth of the fastest relaxation, half of it for schemes of first order."""
    from .simulate_command import _default_step

    scheme, _, _ = choose(process, "auto", "float64")
    return _default_step(process, start) / (1 if scheme.measure_order >= 2 else 2)


def _cost(process: Process) -> float:
    """Of a step, in those of a cheap drift: a sum over samples pays for each."""
    return max(1.0, getattr(process.landscape, "samples", 1) / 4)


def _run_of(per_relaxation: float, effort: Effort, cost: float) -> tuple[int, int]:
    """Steps, and paths within the budget; no paths where it does not allow for the fewest."""
    steps = 2 * math.ceil((_BURN + _SAMPLE) * per_relaxation / 2)
    paths = min(effort.paths, int(effort.path_steps / cost / steps)) // BLOCKS * BLOCKS
    return steps, paths if paths >= effort.fewest else 0


# What lies between -------------------------------------------------------------------------------------------

SOLVED_SAMPLED, SOLVED_EXACT, SAMPLED_EXACT = "solved – paths", "solved – exact", "paths – exact"


def _on_histogram(density: xr.DataArray, plan: Plan, factor: int) -> xr.DataArray:
    cells = distances.coarsen(density, factor)
    return cells.assign_coords({str(d): axis for d, axis in zip(cells.dims, plan.histogram.axes)})


def _grid_error(plan: Plan) -> float:
    """A third of how far the density moves, cell by cell of the histogram, when the spacing is halved."""
    fine = _on_histogram(plan.fp.steady_state(), plan, plan.factor)
    rough = _on_histogram(plan.rough.steady_state(), plan, plan.factor // 2)
    return float(abs(fine - rough).sum()) * plan.histogram.cell_volume / 3


def _exact(plan: Plan) -> xr.Dataset | None:
    known = exact(plan.process, "none", plan.fp.grid, confined=True)  # what the walls cut is told as an error
    return None if known is None else known.rename({d: str(d).removesuffix("_bin") for d in known["density"].dims})


def _densities(plan: Plan, measured: xr.Dataset) -> list[Gap]:
    solved = _on_histogram(plan.fp.steady_state(), plan, plan.factor)
    known, grid, volume = _exact(plan), plan.settings["grid_error"], plan.histogram.cell_volume
    grid += 2 * plan.settings["wall_mass"]  # what the box cuts off
    parts = Histogram.extract(measured).assign_attrs(measured.attrs)
    blocks = distances.blocks_of(parts)
    bias, noise = parts["density_bias"], parts["density_bias_error"]
    # The leading term of the step's bias is taken off. Its noise goes with that of the density: σ becomes σ + noise.
    more = (noise * (noise + 2 * parts["density_error"])) ** 0.5
    rest = float(abs(bias).sum() - math.sqrt(2 / math.pi) * noise.sum()) * volume
    gaps = []

    def sampled(pair: str, reference: xr.DataArray, grid: float) -> None:
        found = distances.l1_distance(blocks - bias, reference, more)
        gaps.append(
            Gap("density", pair, 0.0, 0.0, found.distance, found.error, found.floor, max(rest, 0.0), grid)
        )  # fmt: skip

    sampled(SOLVED_SAMPLED, solved, grid)
    if known is not None:
        reference = _on_histogram(known["density"], plan, plan.factor)
        gap = float(abs(solved - reference).sum()) * volume
        gaps.append(Gap("density", SOLVED_EXACT, 0.0, 0.0, gap, 0.0, 0.0, 0.0, grid))
        sampled(SAMPLED_EXACT, reference, 0.0)
    return gaps


def _moments(plan: Plan, measured: xr.Dataset) -> list[Gap]:
    fine = moments(plan.fp.steady_state(), plan.fp)
    rough = moments(plan.rough.steady_state(), plan.rough)
    known, gaps = _exact(plan), []

    def add(quantity: str, name: str, at: tuple[int, ...]) -> None:
        value, other = float(fine[name][1][at]), float(rough[name][1][at])
        spread = math.sqrt(float(fine["covariance"][1][at[0], at[0]])) if at else 1.0
        width = max(np.subtract(plan.histogram.upper, plan.histogram.lower)) / 2 if at else 0.0
        cut = plan.settings["wall_mass"] * width ** len(at)  # beyond the walls
        grid = abs(value - other) / 3 + cut + _ROUNDING * spread ** (len(at) or 1)

        def of(key: str) -> float:
            return float(measured[key].values[at])

        found, bias = of(name) - of(f"{name}_bias"), abs(of(f"{name}_bias"))
        error = of(f"{name}_error") + of(f"{name}_bias_error")  # as if the two went together
        gaps.append(Gap(quantity, SOLVED_SAMPLED, value, found, abs(value - found), error, 0.0, bias, grid))
        if known is not None:
            truth = float(known[name].values[at])
            gaps.append(Gap(quantity, SOLVED_EXACT, value, truth, abs(value - truth), 0.0, 0.0, 0.0, grid))
            gaps.append(Gap(quantity, SAMPLED_EXACT, found, truth, abs(found - truth), error, 0.0, bias, 0.0))

    if "mean" in fine:
        for i, v in enumerate(plan.process.variables):
            add(f"mean {v}", "mean", (i,))
            add(f"variance {v}", "covariance", (i, i))
    elif "angular_velocity" in fine:
        add("angular velocity", "angular_velocity", ())
    return gaps
