"""The real recursion: mini-batch SGD of a finite sum with momentum, weight decay, SVRG; SVAG, its road to the SDE."""

from collections.abc import Callable, Sequence

import numpy as np
import xarray as xr

from sde_sgd import _checks, _memory
from sde_sgd.landscapes._finite_sum import SAMPLING, FiniteSum

from . import _ensemble
from ._checkpoint import described
from ._frame import LANES, build
from ._observable import Observable
from ._picks import draw_indices
from ._row_sgd import row_sgd_part
from ._sampling import MAX_BATCH, keyed
from ._sgd_kernel import Recursion, sgd_part
from ._simulate import _real, clock_of, clock_settings, dataset, saving, start_tallies

MAX_SAMPLES = 2**32 - 1
MAX_SVAG = 2**20


def sgd(
    finite_sum: FiniteSum,
    start,
    *,
    learning_rate,
    batch_size: int,
    steps: int,
    replicas: int = 1,
    sampling: str = "with_replacement",
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    svag: int = 1,
    svrg: int | None = None,
    save_every: int | None = None,
    observables: Observable | Sequence[Observable] | None = None,
    seed: int = 0,
    dtype="float64",
    threads: int | None = None,
    checkpoint=None,
    progress: Callable[[int, int], object] | None = None,
    start_velocity=None,
    first_replica: int = 0,
    first_step: int = 0,
) -> xr.Dataset:
    r"""Replicas of mini-batch SGD: v' = μv + g,  x' = x − ηv',  g = (1/b) Σ_{k ∈ batch} g_k(x) + λx.

    The recursion of torch.optim.SGD: v = 0 at the start, Nesterov's form is x' = x − η(g + μv'), and v does not contain
    the learning rate.

    With `svag` = l > 1 one step is x' = x − (η/l) [(1+s)/2 · ḡ_{B₁}(x) + (1−s)/2 · ḡ_{B₂}(x) + λx], s = √(2l − 1), of
    two independent batches: the same mean, l times the covariance, at step η/l. Hence l such steps have the drift and
    the noise of one SGD step, and l → ∞ is the SDE at the fixed temperature T = η/2b (Li, Malladi & Arora 2021).

    With `svrg` = m the batch gradient is ḡ_B(x) − ḡ_B(x̃) + ∇f(x̃), x̃ the x of the last step that is a multiple of m:
    the same mean, noise that vanishes with x − x̃ (Johnson & Zhang 2013).

    Parameters
    ----------
    start : (d,) for all replicas or (replicas, d), inside the domain.
    learning_rate : η > 0, an array (first_step + steps,) of them, or a function that gives it for an array of steps.
    batch_size : 1 ≤ b ≤ N.   steps : number of updates; with SVAG each advances time by η/l.
    sampling : "with_replacement", b independent samples; "without_replacement", a fresh b-subset each step;
        "reshuffling", the next b samples of a permutation made anew each epoch of ⌈N/b⌉ steps, whose last batch holds
        what remains, averaged over its own size.
    momentum : 0 ≤ μ < 1.   nesterov : needs μ > 0.   weight_decay : λ ≥ 0; adds no noise.
    svag, svrg : see above; SVAG is plain SGD: no momentum, no SVRG, no reshuffling.
    start_velocity : v at the start, shaped as `start`; 0 if not given.
    first_replica, first_step : take the random numbers of these replicas from this step on: a replica is replayed, a
        finished run continued with the same bits (its last state as start, its last velocity as start_velocity; with
        SVRG from a multiple of m).
    save_every, observables, seed, dtype, threads, checkpoint, progress : as in `simulate`. `sample_indices` gives the
        very samples a replica draws, so that any other program can follow the same run.

    Returns
    -------
    Dataset as of `simulate`, with dimension `replica` and `time` = Σ η (Σ η/l); with momentum `velocity_<name>`, v
    after the last step, unless save_every = 0. attrs["temperature"] is η/2b, times (N−b)/(N−1) without replacement, for
    a schedule its first and last value; reshuffling and SVRG have none. With momentum the position is, for small η, at
    T/(1−μ) on the clock η/(1−μ).

    Raises `Diverged` with replica and step; ValueError for bad arguments. η much above 2/(top Hessian eigenvalue)
    diverges by itself: that is SGD, not a fault of the program. Nothing happens at the bounds of the domain; periodic
    axes wrap.
    """
    _checks.instance("finite_sum", finite_sum, FiniteSum, "sgd needs samples to draw")
    samples = finite_sum.samples
    if samples > MAX_SAMPLES:
        raise ValueError(
            f"sgd draws from at most {MAX_SAMPLES} samples, got {samples}; give fewer, or a part at a time"
        )
    _checks.choice("sampling", sampling, SAMPLING)
    largest = min(samples, MAX_BATCH)
    batch_size = _checks.whole("batch_size", batch_size, 1, largest, f"the data has {samples} samples")
    steps = _checks.whole("steps", steps, 1, _ensemble.MAX_STEPS)
    replicas = _checks.whole("replicas", replicas, 1)
    first_replica = _checks.whole("first_replica", first_replica, 0, 2**63 - 1 - replicas)
    first_step = _checks.whole("first_step", first_step, 0, _ensemble.MAX_STEPS - steps)
    momentum, weight_decay, svag, svrg = _options(
        finite_sum, sampling, momentum, nesterov, weight_decay, svag, svrg, first_step
    )
    rate = _rates(learning_rate, first_step + steps)
    clock = rate / svag
    real = _real(dtype)
    every, keep = saving(save_every, steps)
    # the run that is continued may have left the domain, which holds no recursion back
    x = _ensemble.starts(start, replicas, finite_sum.dim, finite_sum.domain, inside=first_step == 0)
    velocity = _velocity(start_velocity, x.shape, momentum)
    lane = finite_sum.lane_code(real)
    table = 0 if sampling == "with_replacement" or keyed(samples) else 2 * LANES * samples
    recursion = Recursion(
        sampling, keyed(samples), batch_size, momentum, bool(nesterov), weight_decay, svag, svrg, real
    )  # fmt: skip
    stepper = (sgd_part if lane.lines else row_sgd_part)(lane, recursion)
    tallies = start_tallies(observables, finite_sum.domain, x, steps, clock, "replica")
    kernel = build(
        finite_sum.dim,
        [stepper, *(tally.part for tally in tallies)],
        periodic=finite_sum.domain.periodic,
        real=real,
        parameters=len(lane.parameters),
    )
    epoch_steps = -(-samples // batch_size)
    run = _ensemble.Run(
        kernel, lane, x, finite_sum.domain, steps, _schedule(clock, first_step), seed, every=every, keep=keep,
        tallies=tallies, first_path=first_replica, first_step=first_step, threads=threads, progress=progress,
        checkpoint=checkpoint, what="replica", workspace=table, question=[described(observables)],
        align=epoch_steps if sampling == "reshuffling" and table else 1,
        rows={} if velocity is None else {f"V{i}": velocity[:, i] for i in range(finite_sum.dim)},
    )  # fmt: skip
    settings = {
        "landscape": finite_sum.name, **{f"parameter_{k}": v for k, v in finite_sum.parameters.items()},
        **clock_settings("learning_rate", rate), "batch_size": batch_size, "sampling": sampling,
        "epoch_steps": epoch_steps, "momentum": momentum, "nesterov": bool(nesterov), "weight_decay": weight_decay,
        "svag": svag, "svrg": svrg or "none", **_temperature(rate, batch_size, samples, sampling, svrg),
        "steps": steps, "seed": seed, "first_replica": first_replica, "first_step": first_step,
    }  # fmt: skip
    ensemble = run.execute()
    result = dataset(ensemble, run, finite_sum.variables, "replica", clock, settings)
    return result if save_every == 0 or not momentum else _with_velocity(result, ensemble.rows, finite_sum.variables)


def _options(
    finite_sum: FiniteSum, sampling: str, momentum, nesterov, weight_decay, svag, svrg, first_step: int
) -> tuple[float, float, int, int | None]:
    """Momentum, weight decay, l and m; ValueError for what they cannot be, alone or together."""
    momentum = float(_checks.finite_array("momentum", momentum, ()))
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum must be at least 0 and below 1, got {momentum:g}")
    if not isinstance(nesterov, bool | np.bool_):
        raise ValueError(f"nesterov must be True or False, got {nesterov!r}")
    hidden = {f"velocity_{v}" for v in finite_sum.variables} & set(finite_sum.variables)
    if momentum and hidden:
        raise ValueError(f"with momentum {min(hidden)!r} is the name of a velocity in the result; rename that variable")
    if nesterov and not momentum:
        raise ValueError("nesterov=True looks ahead along the velocity, which momentum=0 does not have; give momentum")
    weight_decay = float(_checks.finite_array("weight_decay", weight_decay, ()))
    if weight_decay < 0:
        raise ValueError(f"weight_decay must be >= 0, got {weight_decay:g}")
    if weight_decay and any(finite_sum.domain.periodic):
        raise ValueError("weight_decay is the gradient of (λ/2)|x|², which a periodic variable does not have")
    svag = _checks.whole("svag", svag, 1, MAX_SVAG)
    if svrg is not None:
        svrg = _checks.whole("svrg", svrg, 1, _ensemble.MAX_STEPS)
        if first_step % svrg:
            raise ValueError(
                f"svrg={svrg} takes its reference point at steps that are multiples of {svrg}, and first_step="
                f"{first_step} is none: its reference would be missing; continue from {first_step // svrg * svrg}"
            )
    if svag > 1:
        shuffled = sampling == "reshuffling"
        for name, used in (("momentum", momentum), ("svrg", svrg), ("sampling='reshuffling'", shuffled)):
            if used:
                raise ValueError(
                    f"svag={svag} rescales the noise of plain SGD with independent batches: it does not go with {name}"
                )
    return momentum, weight_decay, svag, svrg


def _rates(value, count: int) -> float | np.ndarray:
    """η as a number or as an array of one per step, from either or from a function of the steps."""
    if callable(value):
        _memory.refuse_beyond(32.0 * count, "the learning rate of every step", "run fewer steps at a time")
        value = value(np.arange(count))
    return clock_of("learning_rate", value, count)


def _schedule(clock: float | np.ndarray, origin: int) -> Callable[[int, int], np.ndarray]:
    """The η of each step after `origin`."""

    def numbers(first: int, count: int) -> np.ndarray:
        if isinstance(clock, float):
            return np.full((1, count + 1), clock)
        return clock[np.minimum(origin + first + np.arange(count + 1), len(clock) - 1)][None]

    return numbers


def _velocity(value, shape: tuple[int, int], momentum: float) -> np.ndarray | None:
    """v at the start (replicas, d), or None without momentum."""
    if not momentum:
        if value is not None:
            raise ValueError("start_velocity needs momentum > 0: without it there is no velocity")
        return None
    velocity = _checks.finite_array("start_velocity", 0.0 if value is None else value)
    if value is not None and velocity.shape not in (shape, shape[1:]) and not (shape[1] == 1 and velocity.ndim == 0):
        raise ValueError(f"start_velocity must have shape {shape[1:]} or {shape}, as start, got {velocity.shape}")
    return np.broadcast_to(velocity, shape)


def _with_velocity(result: xr.Dataset, rows: dict[str, np.ndarray], variables: Sequence[str]) -> xr.Dataset:
    """The result with the velocity after the last step."""
    if "state" in result:
        columns = np.stack([rows[f"V{i}"] for i in range(len(variables))], -1)
        return result.assign(velocity=(("replica", "variable"), columns))
    return result.assign({f"velocity_{name}": ("replica", rows[f"V{i}"]) for i, name in enumerate(variables)})


def _temperature(rate: float | np.ndarray, batch_size: int, samples: int, sampling: str, svrg) -> dict[str, float]:
    """T as attributes, where the noise has one."""
    if svrg or sampling == "reshuffling":
        return {}
    factor = (samples - batch_size) / (samples - 1) if sampling == "without_replacement" else 1.0
    if isinstance(rate, float):
        return {"temperature": rate / (2 * batch_size) * factor}
    ends = {"temperature_first": rate[0], "temperature_last": rate[-1]}
    return {name: float(value) / (2 * batch_size) * factor for name, value in ends.items()}


def sample_indices(
    samples: int,
    *,
    batch_size: int,
    steps: int,
    replica: int = 0,
    seed: int = 0,
    svag: int = 1,
    sampling: str = "with_replacement",
    first_step: int = 0,
) -> np.ndarray:
    """The sample indices that replica `replica` of `sgd` draws in steps first_step, first_step + 1, …

    int64 (steps, b); with SVAG (steps, 2, b), two independent batches. `samples` is N. A function of (seed, replica,
    step) alone, so any stretch of any run can be replayed.

    `sampling` : "with_replacement", b independent samples; "without_replacement", a fresh uniform b-subset, in
    uniform order; "reshuffling", the next b samples of the epoch's permutation, as loaders of training data do with
    drop_last=False: an epoch has ⌈N/b⌉ steps and its last batch holds what remains, −1 filling the row.
    ValueError for SVAG with reshuffling, whose batches are not independent.
    """
    _checks.choice("sampling", sampling, SAMPLING)
    samples = _checks.whole("samples", samples, 2, MAX_SAMPLES)
    batch_size = _checks.whole("batch_size", batch_size, 1, min(samples, MAX_BATCH))
    steps = _checks.whole("steps", steps, 1, _ensemble.MAX_STEPS)
    first_step = _checks.whole("first_step", first_step, 0, _ensemble.MAX_STEPS - steps)
    replica = _checks.whole("replica", replica, 0)
    halves = 1 if _checks.whole("svag", svag, 1, MAX_SVAG) == 1 else 2
    if halves == 2 and sampling == "reshuffling":
        raise ValueError(
            f"svag={svag} needs two independent batches in a step, which an epoch's permutation does not give; "
            "take sampling='with_replacement' or 'without_replacement'"
        )
    size = 8.0 * steps * halves * batch_size
    _memory.refuse_beyond(size, "the array of indices", "ask for fewer steps at once")
    picks = draw_indices(sampling, samples, batch_size, halves, first_step, steps, replica, *_ensemble.key_of(seed))
    return picks.reshape((steps, batch_size) if halves == 1 else (steps, 2, batch_size))
