"""Langevin paths: trajectories of dx = b dt + √(2T D) dW."""

from collections.abc import Callable, Sequence
from numbers import Real

import numpy as np
import xarray as xr

from sde_sgd import _checks
from sde_sgd.landscapes._lanes import LaneCode
from sde_sgd.process import Process, Underdamped
from sde_sgd.results import provenance

from . import _ensemble
from ._checkpoint import described
from ._choose import choose
from ._frame import Part, build
from ._langevin import langevin_part
from ._model import Model
from ._noise import Increments
from ._observable import Observable, Setting
from ._row_sums import row_model
from ._scheme import Scheme
from ._step_bias import with_step_bias
from ._walls import walls_part

DTYPES = ("float64", "float32")
MAX_SUBSTEPS = 2**16
MAX_NAMED = 16  # beyond, an ensemble is one data variable `state` with the dimension `variable`


def simulate(
    process: Process,
    start,
    *,
    step,
    steps: int,
    paths: int = 1,
    scheme: str = "auto",
    walls: str | None = None,
    save_every: int | None = None,
    observables: Observable | Sequence[Observable] | None = None,
    seed: int = 0,
    dtype="float64",
    threads: int | None = None,
    checkpoint=None,
    progress: Callable[[int, int], object] | None = None,
    first_path: int = 0,
    first_step: int = 0,
    substeps: int = 1,
    step_bias: bool = False,
) -> xr.Dataset:
    r"""Independent paths of the Itô diffusion dx = b dt + √(2T D) dW by a scheme of `SCHEMES`.

    Parameters
    ----------
    start : one point (d,) for all paths or (paths, d), inside the process's domain where a run begins.
    step : h > 0 in units of t, or an array (first_step + steps,) of them; for SGD one step of the recursion is dt = η.
    scheme : a name of `SCHEMES`, or "auto", which says in `attrs["scheme_reason"]` what it took and why.
    walls : None lets paths leave the domain; "reflect" folds them back along the conormal D n, so that no probability
        crosses (weak order 1; Bossy, Gobet & Talay 2004); "absorb" stops a path that leaves, and `exit_time` says when.
    save_every : save every k-th state (the start included) along `time`; None keeps the last state only, 0 no state
        at all, so that observables of any number of paths need no memory.
    observables : one or several of `Histogram`, `Moments`, …, accumulated in the kernel without storing paths.
    seed : one seed, one result: path k has the same bits whatever `paths`, `threads` and `save_every` are.
    dtype : "float64", or "float32": nearly twice as fast, normals to 6.55 σ, states to seven digits.
    checkpoint : a file. A run of minutes writes it each minute and at Ctrl-C; the same call then continues it with
        the same bits. It is deleted when the run is complete.
    progress : called as progress(steps done, steps) several times a second.
    first_path, first_step : take the random numbers of paths first_path, first_path + 1, … from step first_step on: a
        single path of a large ensemble is replayed, a finished run continued (with its last state as start).
    substeps : m takes each increment as the sum of those of m steps of a run with h/m: coarse and fine paths on the
        same noise, for strong errors and extrapolation. Normal increments only.
    step_bias : True runs once more at 2h on the same noise, and every observable v gains `<v>_bias`, the step's own
        bias, with `<v>_bias_error`.

    Returns
    -------
    Dataset with one variable per landscape variable, dimension ("path",), with ("path", "time") when saved, and
    coordinate `step` beside `time` = Σ h; observables as further variables; settings, seed and versions in `attrs`.

    Raises `Diverged` with path and step when a coordinate becomes NaN or exceeds 1e100 (1e30 in float32); ValueError
    for bad arguments, for a scheme that does not fit the process, or where the result would not fit in memory. The
    density of a long run is biased by a power of h that the scheme declares: compare two steps. Kloeden & Platen
    (1992).
    """
    _checks.instance("process", process, Process, "make one with landscape.at_temperature(T)")
    steps = _checks.whole("steps", steps, 1, _ensemble.MAX_STEPS)
    paths = _checks.whole("paths", paths, 1)
    real = _real(dtype)
    substeps = _checks.whole("substeps", substeps, 1, MAX_SUBSTEPS)
    first_path = _checks.whole("first_path", first_path, 0, 2**63 - 1 - paths)
    first_step = _checks.whole("first_step", first_step, 0, _ensemble.MAX_STEPS)
    if (first_step + steps) * substeps > _ensemble.MAX_STEPS:
        raise ValueError(
            f"first_step + steps = {first_step + steps}{f' of {substeps} substeps' if substeps > 1 else ''} exceeds "
            f"the {_ensemble.MAX_STEPS} steps that one seed has random numbers for; continue with another seed"
        )
    clock = clock_of("step", step, first_step + steps)
    if not isinstance(step_bias, bool):
        raise ValueError(f"step_bias must be True or False, got {step_bias!r}")
    if step_bias:
        options = dict(
            paths=paths, scheme=scheme, walls=walls, seed=seed, dtype=dtype, threads=threads, progress=progress,
            first_path=first_path,
        )  # fmt: skip

        def run_at(observed, m: int) -> xr.Dataset:
            """The run with steps m·h on the same noise."""
            return simulate(
                process, start, step=m * step, steps=steps // m, first_step=first_step // m,
                substeps=m * substeps, observables=observed, save_every=save_every if m == 1 else 0,
                checkpoint=checkpoint if checkpoint is None or m == 1 else f"{checkpoint}.{m}h", **options,
            )  # fmt: skip

        return with_step_bias(
            run_at, process, observables, step=step, steps=steps, first_step=first_step, scheme=scheme
        )
    every, keep = saving(save_every, steps)
    if every is None and not keep and observables is None and walls != "absorb":
        raise ValueError("save_every=0 keeps no state, and there are no observables: nothing would come of this run")
    if walls == "absorb" and first_step > 0:
        raise ValueError(
            f"walls='absorb' cannot begin at first_step {first_step}: absorbed paths would move again; "
            "run it whole, with a checkpoint where it is long"
        )
    left = first_step > 0 and walls is None  # the run that is continued may have left the domain
    x = _ensemble.starts(start, paths, process.dim, process.domain, inside=not left)
    chosen, reason, extra = choose(process, scheme, real, substeps, end_points=walls is not None)
    if chosen.lookahead and (first_step + steps + 1) * substeps > _ensemble.MAX_STEPS:
        raise ValueError(f"scheme {chosen.name!r} uses the noise of one more step than this seed has; take one less")
    model, stepper, lane = stepper_of(process, chosen, extra, real, substeps)
    times = times_of(clock)
    barrier, exits = walls_part(walls, process, model, chosen, paths, lambda n: times(first_step + n))
    tallies = [*exits, *start_tallies(observables, process.domain, x, steps, clock)]
    kernel = build(
        process.dim,
        [stepper, *barrier, *(tally.part for tally in tallies)],
        periodic=process.domain.periodic,
        real=real,
        parameters=len(lane.parameters),
    )
    run = _ensemble.Run(
        kernel, lane, x, process.domain, steps, schedule_of(process, clock, first_step), seed, every=every, keep=keep,
        tallies=tallies, first_path=first_path, first_step=first_step, threads=threads, progress=progress,
        checkpoint=checkpoint, question=[described(observables)],
    )  # fmt: skip
    settings = {
        **process.settings, "scheme": chosen.name, "scheme_reason": reason, **clock_settings("step", clock),
        "steps": steps, "seed": seed, "walls": walls or "none", "first_path": first_path, "first_step": first_step,
        "substeps": substeps,
    }  # fmt: skip
    return dataset(run.execute(), run, process.variables, "path", clock, settings)


def stepper_of(
    process: Process, scheme: Scheme, extra: tuple[str, ...], real: str, substeps: int
) -> tuple[Model, Part, LaneCode]:
    """The part of a kernel that advances the process by a scheme."""
    lane = process.landscape.lane_code(real)
    model: Model | None = row_model(lane, scheme, real, substeps > 1)
    if model is None:
        pairs = lane.dim if scheme.normals == 2 else 0
        model = Model(lane, Increments(scheme.normals * lane.dim, scheme.increments, real, substeps > 1, pairs), extra)
    model.periodic = process.landscape.domain.periodic
    friction = process.friction if isinstance(process, Underdamped) else None
    return model, langevin_part(model, scheme, substeps=substeps, friction=friction), lane


def saving(save_every: int | None, steps: int) -> tuple[int | None, bool]:
    """(every, keep): which states a run saves, and whether it returns the last one."""
    if save_every is None:
        return None, True
    every = _checks.whole("save_every", save_every, 0, steps, "0 keeps no state, None the last one")
    return every or None, False


def start_tallies(observables, domain, x, steps, clock, member: str = "path") -> list[_ensemble.Tally]:
    """The observables at work, each checked against the run."""
    if observables is None:
        return []
    several = observables if isinstance(observables, list | tuple) else [observables]
    for observable in several:
        if not isinstance(observable, Observable):
            raise ValueError(
                f"observables must be a Histogram, Moments or another observable, or several of them, got "
                f"{type(observable).__name__}"
            )
    kinds = [type(getattr(observable, "observable", observable)).__name__ for observable in several]
    twice = [kind for kind in kinds if kinds.count(kind) > 1]
    if twice:
        raise ValueError(
            f"observables has {twice.count(twice[0])} of the kind {twice[0]}, whose results would have the same names; "
            "run them one after the other on the same seed"
        )
    pace = clock if isinstance(clock, float) else clock[-steps:]
    return [
        observable.tally(Setting(f"o{k}", domain, len(x), steps, x, pace, member))
        for k, observable in enumerate(several)
    ]


def _real(dtype) -> str:
    try:
        name = np.dtype(dtype).name
    except TypeError:
        name = dtype
    return _checks.choice("dtype", name, DTYPES)


def clock_of(name: str, value, steps: int) -> float | np.ndarray:
    """A positive number, or one per step as a read-only array."""
    if isinstance(value, Real) or value is None or isinstance(value, str):
        return _checks.positive(name, value)
    if np.shape(series := _checks.finite_array(name, value)) == ():
        return _checks.positive(name, float(series))
    series = _checks.finite_array(name, value, (steps,)).copy()
    if not (series > 0).all():
        where = int(np.argmin(series))
        raise ValueError(f"{name} must be > 0 at every step, got {series[where]:g} at step {where}")
    series.flags.writeable = False
    return series


def clock_settings(name: str, clock: float | np.ndarray) -> dict:
    """How the clock is recorded in a result's attributes."""
    if isinstance(clock, float):
        return {name: clock}
    return {name: f"{len(clock)} values", f"{name}_first": float(clock[0]), f"{name}_last": float(clock[-1])}


def times_of(clock: float | np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The time after n steps, as a function of an array of n."""
    if isinstance(clock, float):
        return lambda n: n * clock
    total = np.concatenate([[0.0], np.cumsum(clock)])
    return lambda n: total[n]


def schedule_of(process: Process, clock: float | np.ndarray, origin: int) -> Callable[[int, int], np.ndarray]:
    """h and T of each step, T at both its ends; `origin` is the step the run begins with."""
    times = times_of(clock)

    def numbers(first: int, count: int) -> np.ndarray:
        n = origin + first + np.arange(count + 1)
        values = np.empty((2, count + 1))
        values[0] = clock if isinstance(clock, float) else clock[np.minimum(n, len(clock) - 1)]
        values[1] = process.temperature_at(times(n))
        return values

    return numbers


def dataset(
    ensemble: _ensemble.Ensemble, run: _ensemble.Run, variables, member: str, clock: float | np.ndarray, settings: dict
) -> xr.Dataset:
    """The result of a run as one labelled Dataset."""
    names = tuple(variables)
    count = run.first_step + np.arange(0, run.steps + 1, run.every or run.steps)
    if ensemble.saved is not None:
        columns = ensemble.saved.transpose(1, 2, 0)  # (d, paths, time)
    elif ensemble.state is not None:
        columns = ensemble.state.T
    else:
        columns = None
    dims = (member,) if ensemble.saved is None else (member, "time")
    if columns is None:
        result = xr.Dataset()
    elif len(names) > MAX_NAMED:
        result = xr.Dataset({"state": (("variable", *dims), columns)}, coords={"variable": list(names)})
        result = result.transpose(*dims, "variable")
    else:
        result = xr.Dataset({v: (dims, columns[i]) for i, v in enumerate(names)})
    if ensemble.saved is not None:
        result = result.assign_coords(time=times_of(clock)(count), step=("time", count))
    for tally in run.tallies:
        part = tally.dataset()
        taken = [name for name in part.data_vars if name in result]
        if taken:
            raise ValueError(f"two observables both give {taken[0]!r}; run them one after the other on the same seed")
        result = result.merge(part, combine_attrs="no_conflicts")
        settings = settings | part.attrs
    settings = settings | {member + "s": len(run.start)}
    return result.assign_attrs(settings | provenance(settings, float_type=run.kernel.real))
