"""One landscape by all roads: its steady state solved, sampled and in closed form; its density on the way by more.

The generator knows nothing of random numbers, the paths nothing of the grid, and the closed form is a quadrature of the
potential that the landscape was given; what two roads nevertheless share is said in each row.
"""

import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from . import _crosscheck_roads, distances
from ._boltzmann import exact
from ._command import start_of
from ._console import Progress
from ._crosscheck_gap import (
    BLOCKS,
    CLOSED_FORM,
    DERIVATIVES,
    GENERATOR,
    PHILOX,
    Gap,
    left_of,
    made_of,
)
from ._crosscheck_roads import Question
from ._simulation import _whole_way
from ._solved import moments
from .fokker_planck import FokkerPlanck
from .grid import Grid
from .landscapes import get
from .paths import Histogram, Moments, Winding, simulate
from .paths._choose import choose
from .process import Process

_CELLS = {1: 80, 2: 40, 3: 16}  # per axis of the histogram
_FINEST = {1: 64, 2: 16, 3: 2}  # cells of the grid along one of the histogram, at most
_COARSE = 0.1  # that of the finest grid, above which a comparison says nothing
_BURN, _SAMPLE = 8, 16  # relaxation times: e⁻⁸ of what the start was off is left
_SINGULAR = 1e-10  # smallest over largest eigenvalue of a D of lower rank
_CUT = 1e-3  # share of the density beside the walls of the domain, from which on it is cut
_HEATED = 1.25  # by which T is raised where wells exchange too rarely for paths
_SHORTER = 0.9  # a rise of T that leaves more of the steps than this is in vain: no barrier makes them many
_BY_FAR = 2.0
_ROUNDING = 1e-10  # of sums over the cells, in standard deviations


@dataclass(frozen=True)
class Effort:
    """How much a landscape may cost: path-steps of a cheap drift, between how many paths, and how fine the grid is."""

    path_steps: float = 1.2e9
    fewest: int = 256
    paths: int = 16384
    fine: float = 5e-3  # the grid's error of the density, above which it is refined
    last_states: int = 2**19  # paths to one time
    levels: int = 3  # of JKO's step


FULL, QUICK = Effort(), Effort(3e7, 128, 1024, 0.03, 2**17, 2)


class NotCompared(ValueError):
    """Why a landscape is not compared."""


# One landscape -----------------------------------------------------------------------------------------------


def compare(
    name: str,
    effort: Effort = FULL,
    *,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
    heated: float = 1.0,
    roads: Sequence[str] = (),
) -> xr.Dataset:
    """The gaps of one landscape as a Dataset over `row`; what was done, in `attrs`.

    `roads`, names of `_crosscheck_roads.names()`, are compared with the density solved in time. `heated` runs them, and
    the paths to the steady state, at another temperature than the density is solved at: the check must then fail.
    Raises `NotCompared` with the reason where there is nothing to compare.
    """
    plan = Plan.of(name, effort)

    def part(first: int, last: int) -> Progress | None:  # of the whole, in hundredths
        return None if progress is None else lambda done, of: progress(first * of + (last - first) * done, 100 * of)

    measured = plan.paths(seed, threads, part(0, 60 if roads else 100), heated)
    gaps = _densities(plan, measured) + _moments(plan, measured)
    more: dict[str, Any] = {}
    if roads:
        question = Question.of(plan, effort.last_states, effort.levels, seed, threads, heated)
        found, left = _crosscheck_roads.gaps(question, roads, part(60, 100))
        gaps += found
        more = {"time": question.time, "moved": question.moved, "not_taken": json.dumps(left)}
    columns = {k: ("row", np.array([getattr(g, k) for g in gaps])) for k in Gap.__dataclass_fields__}
    return xr.Dataset(columns, attrs=plan.settings | {"scheme": measured.attrs["scheme"], **more})


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
        factor = 2
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they say is checked here
            box = _clear_of_poles(
                process,
                Grid(around.lower, around.upper, (_CELLS[process.dim],) * process.dim, boundary=around.boundary),
            )
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


def _clear_of_poles(process: Process, box: Grid) -> Grid:
    """The box; moved by a third of a cell where D is undefined at a corner, so that finer cells have none there."""
    axes = (np.linspace(low, high, n + 1) for low, high, n in zip(box.lower, box.upper, box.shape))
    corners = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    if np.isfinite(process.diffusion(corners)).all():
        return box
    return replace(
        box, lower=tuple(np.asarray(box.lower) + box.spacing / 3), upper=tuple(np.asarray(box.upper) + box.spacing / 3)
    )


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

_STEADY = "steady: "  # other pairs are of the density at a time
SOLVED_SAMPLED, SOLVED_EXACT, SAMPLED_EXACT = (
    _STEADY + p for p in ("solved – paths", "solved – exact", "paths – exact")
)


def _about(plan: Plan, pair: str) -> dict[str, Any]:
    known = plan.process.equilibrium_potential is not None
    parts = {
        "solved": (DERIVATIVES, GENERATOR, *([CLOSED_FORM] if known else [])),
        "paths": (DERIVATIVES, PHILOX, choose(plan.process, "auto", "float64")[0].name),
        "exact": (CLOSED_FORM, "quadrature"),
    }
    one, other = pair.removeprefix(_STEADY).split(" – ")
    return made_of(parts[one], parts[other])


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
    rest = left_of(float(abs(bias).sum()) * volume, float(noise.sum()) * volume)
    gaps = []

    def sampled(pair: str, reference: xr.DataArray, grid: float) -> None:
        found = distances.l1_distance(blocks - bias, reference, more)
        facts = (found.distance, found.error, found.floor, rest, grid)
        gaps.append(Gap("density", pair, 0.0, 0.0, *facts, **_about(plan, pair)))

    sampled(SOLVED_SAMPLED, solved, grid)
    if known is not None:
        reference = _on_histogram(known["density"], plan, plan.factor)
        gap = float(abs(solved - reference).sum()) * volume
        gaps.append(Gap("density", SOLVED_EXACT, 0.0, 0.0, gap, 0.0, 0.0, 0.0, grid, **_about(plan, SOLVED_EXACT)))
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

        def gap(pair: str, one: float, two: float, error: float, bias: float, grid: float) -> None:
            about = _about(plan, pair)
            gaps.append(Gap(quantity, pair, one, two, abs(one - two), error, 0.0, bias, grid, **about))

        gap(SOLVED_SAMPLED, value, found, error, bias, grid)
        if known is not None:
            truth = float(known[name].values[at])
            gap(SOLVED_EXACT, value, truth, 0.0, 0.0, grid)
            gap(SAMPLED_EXACT, found, truth, error, bias, 0.0)

    if "mean" in fine:
        for i, v in enumerate(plan.process.variables):
            add(f"mean {v}", "mean", (i,))
            add(f"variance {v}", "covariance", (i, i))
    elif "angular_velocity" in fine:
        add("angular velocity", "angular_velocity", ())
    return gaps
