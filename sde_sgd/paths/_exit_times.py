"""First exits from a region: times with their error, the survival curve, and what never left."""

import math
from collections.abc import Callable

import numpy as np
import xarray as xr

from sde_sgd import _checks
from sde_sgd._region import Region
from sde_sgd.errors import TooFewSamples
from sde_sgd.process import Process, Underdamped
from sde_sgd.results import provenance

from . import _ensemble
from ._checkpoint import described
from ._choose import choose
from ._exits import Exits
from ._frame import build
from ._simulate import MAX_NAMED, clock_of, clock_settings, schedule_of, stepper_of, times_of
from ._walls import walls_part

_CURVE = 200  # points of the survival curve


def exit_times(
    process: Process,
    start,
    inside,
    *,
    step,
    paths: int,
    max_steps: int,
    scheme: str = "auto",
    bridge: bool = True,
    walls: str | None = None,
    seed: int = 0,
    threads: int | None = None,
    checkpoint=None,
    progress: Callable[[int, int], object] | None = None,
) -> xr.Dataset:
    r"""τ = inf{t : x(t) ∉ inside} of independent paths, its mean, and the survival curve P(τ > t).

    Parameters
    ----------
    start : one point (d,) or (paths, d), inside the region.
    inside : inequalities such as "x < 0" or "x**2 + y**2 < 1 and y > 0", a boolean DataArray over the variables, or
        a function of points (..., d) → bool (called after every step: slow).
    step : h > 0, or one per step (max_steps,).
    max_steps : after these many steps a path is given up as censored.
    scheme : as in `simulate`; "auto" takes the stochastic Heun scheme for constant D, else Euler–Maruyama, because
        Leimkuhler–Matthews' end points are not those of the path.
    bridge : True tests whether a path left and came back within a step, which otherwise delays exits by O(√h); it
        needs a region of inequalities joined by "and" and noise in the positions. False looks at steps' ends only.
    walls : "reflect" folds paths back at the sides of the domain, as `simulate` does; None lets them pass: sides that
        are not those of the region then hold nothing back.
    Others as in `simulate`.

    Returns
    -------
    Dataset over `path`: `exit_time` (the middle of the step of the exit; NaN where censored), `exit_step` (0 where
    censored) and the state just after it; `mean_exit_time` and its standard error `mean_exit_time_error`;
    over `time`: `survival` with its error `survival_error`. In `attrs`: censored, method and settings.

    With censored paths the mean is that of an exponential law, total time observed / exits, the right answer
    only where exits have become a Poisson process; without any it is the plain mean. Needs two exits at least
    (`TooFewSamples`). Times carry a bias of O(h) of the scheme. Gobet (2000); Kaplan & Meier (1958).
    """
    _checks.instance("process", process, Process, "make one with landscape.at_temperature(T)")
    max_steps = _checks.whole("max_steps", max_steps, 1, _ensemble.MAX_STEPS)
    clock = clock_of("step", step, max_steps)
    paths = _checks.whole("paths", paths, 2, None, "an error needs two")
    x = _ensemble.starts(start, paths, process.dim, process.domain)
    region = Region.of(inside, process.variables, process.landscape.parameters, process.domain)
    outside = ~np.atleast_1d(region.contains(x[:1] if x.strides[0] == 0 else x))
    if outside.any():
        raise ValueError(f"start {tuple(x[int(np.argmax(outside))].tolist())} is not inside {region.describe()!r}")
    if not isinstance(bridge, bool):
        raise ValueError(f"bridge must be True or False, got {bridge!r}")
    if bridge:
        _refuse_bridge(process, region)
    chosen, reason, extra = choose(process, scheme, "float64", end_points=True)
    if chosen.lookahead or chosen.increments != "normal":
        raise ValueError(
            f"scheme {chosen.name!r} has no paths of its own (only their law at given times); for exits take "
            "stochastic_heun, sra1, euler_maruyama or milstein"
        )
    if walls is not None:
        _checks.choice("walls", walls, ["reflect"])
    model, stepper, lane = stepper_of(process, chosen, extra, "float64", 1)
    barrier, _ = walls_part(walls, process, model, chosen, paths, times_of(clock))
    by_function = region.function is not None
    exits = Exits("exit", region, process, model, paths, bridge, stop=True) if not by_function else _Watched(paths)
    kernel = build(
        process.dim,
        [stepper, *barrier, exits.part],
        periodic=process.domain.periodic,
        parameters=len(lane.parameters),
        scattered=True,
    )

    def gone(columns: _ensemble.Columns, done: int) -> np.ndarray:
        used = len(columns.places)
        if by_function:
            left = ~region.contains(columns.state[: process.dim, :used].T)
            columns.kept[0, :used] = np.where(left, done, 0)
        return columns.kept[0, :used] > 0

    run = _ensemble.Run(
        kernel, lane, x, process.domain, max_steps, schedule_of(process, clock, 0), seed, tallies=[exits],
        threads=threads, progress=progress, checkpoint=checkpoint, retired=gone, longest=1 if by_function else 2**32,
        question=[described(region.function)],
    )  # fmt: skip
    state = run.execute().state
    assert state is not None
    settings = {
        **process.settings, "inside": region.describe(), "scheme": chosen.name, "scheme_reason": reason,
        **clock_settings("step", clock), "max_steps": max_steps, "paths": paths, "seed": seed,
        "walls": walls or "none", "method": "Brownian bridge" if bridge else "ends of steps",
    }  # fmt: skip
    return _result(exits.arrays[0].astype(np.int64), state, process.variables, times_of(clock), max_steps, settings)


class _Watched(Exits):
    """Exits found by a function between segments of one step; the kernel only keeps the row."""

    def __init__(self, paths: int):
        self.arrays = [np.zeros(paths)]
        self.part = _ensemble.Part(sums=("exit_step",))


def _refuse_bridge(process: Process, region: Region) -> None:
    if isinstance(process, Underdamped):
        raise ValueError("an underdamped process has no noise in its positions: pass bridge=False")
    if region.levels is None:
        raise ValueError(
            f"the bridge test needs inequalities joined by 'and', and {region.describe()!r} is not; "
            "pass bridge=False and take a small step: exits are then late by O(√h)"
        )
    used = {str(s) for level in region.levels for s in level.free_symbols}
    wrapped = [v for v, wraps in zip(process.variables, process.domain.periodic) if wraps and v in used]
    if wrapped:
        raise ValueError(
            f"the bridge test does not see across the seam of the periodic variable {wrapped[0]!r}; pass bridge=False"
        )


def _result(exit_step: np.ndarray, state, variables, times: Callable, max_steps: int, settings: dict) -> xr.Dataset:
    left = exit_step > 0
    exits, paths = int(left.sum()), len(left)
    if exits < 2:
        raise TooFewSamples(
            f"{exits} of {paths} paths left within {max_steps} steps (time {float(times(np.array(max_steps))):g}); "
            "raise max_steps or the temperature"
        )
    end = float(times(np.array(max_steps)))
    middle = 0.5 * (times(exit_step) + times(np.maximum(exit_step - 1, 0)))
    if exits == paths:
        mean, error = middle.mean(), middle.std(ddof=1) / math.sqrt(paths)
    else:
        mean = (middle[left].sum() + (paths - exits) * end) / exits
        error = mean / math.sqrt(exits)
    grid = np.linspace(0.0, end if exits < paths else float(middle.max()), _CURVE)
    alive = 1.0 - np.searchsorted(np.sort(middle[left]), grid, side="right") / paths
    states: dict = {v: ("path", state[:, i]) for i, v in enumerate(variables)}
    coords: dict = {"time": grid}
    if len(variables) > MAX_NAMED:
        states, coords = {"state": (("path", "variable"), state)}, coords | {"variable": list(variables)}
    return xr.Dataset(
        {
            "exit_time": ("path", np.where(left, middle, np.nan)),
            "exit_step": ("path", exit_step),
            **states,
            "mean_exit_time": mean,
            "mean_exit_time_error": error,
            "survival": ("time", alive),
            "survival_error": ("time", np.sqrt(alive * (1 - alive) / paths)),
        },
        coords=coords,
        attrs=settings | {"exits": exits, "censored": paths - exits} | provenance(settings),
    )
