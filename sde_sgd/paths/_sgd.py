"""The real recursion: mini-batch SGD of a finite sum, and SVAG, its road to the continuous limit."""

import math
from collections.abc import Callable

import numpy as np
import xarray as xr

from sde_sgd import _checks, _memory
from sde_sgd.landscapes._finite_sum import FiniteSum

from . import _ensemble
from ._generate import SAMPLE_STREAM, sgd_source
from ._histogram import Histogram
from ._kernel_cache import load
from ._picks import draw_indices
from ._simulate import dataset

MAX_SAMPLES = 2**32 - 1
MAX_SVAG = 2**20


def sgd(
    finite_sum: FiniteSum,
    start,
    *,
    learning_rate: float,
    batch_size: int,
    steps: int,
    replicas: int = 1,
    svag: int = 1,
    save_every: int | None = None,
    observables: Histogram | None = None,
    seed: int = 0,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    r"""Replicas of mini-batch SGD, x' = x − (η/b) Σ_{k ∈ batch} g_k(x), b samples drawn with replacement.

    With `svag` = l > 1 one step is x' = x − (η/l) [(1+s)/2 · ḡ_{B₁}(x) + (1−s)/2 · ḡ_{B₂}(x)], s = √(2l − 1), of two
    independent batches: the same mean, l times the covariance, at step η/l. Hence l such steps have the drift and
    the noise of one SGD step, and l → ∞ is the SDE at the fixed temperature T = η/2b (Li, Malladi & Arora 2021).

    Parameters
    ----------
    start : (d,) for all replicas or (replicas, d), inside the domain.
    learning_rate : η > 0. batch_size : 1 ≤ b ≤ N.
    steps : number of updates; with SVAG each advances time by η/l.
    save_every, observables, seed, threads, progress : as in `simulate`. `sample_indices` gives the very samples a
        replica draws, so that any other program can follow the same run.

    Returns a Dataset as `simulate` does, with dimension `replica` and `time` = step · η/l.
    Raises `Diverged` with replica and step; ValueError for bad arguments. η much above 2/(top Hessian eigenvalue)
    diverges by itself: that is SGD, not a fault of the program.
    """
    _checks.instance("finite_sum", finite_sum, FiniteSum, "sgd needs samples to draw")
    learning_rate = _checks.positive("learning_rate", learning_rate)
    samples = finite_sum.samples
    batch_size = _checks.whole("batch_size", batch_size, 1, samples, f"the data has {samples} samples")
    steps = _checks.whole("steps", steps, 1, _ensemble.MAX_STEPS)
    replicas = _checks.whole("replicas", replicas, 1)
    svag = _checks.whole("svag", svag, 1, MAX_SVAG)
    save_every, observables = _ensemble.outputs(save_every, observables, finite_sum.domain, replicas, steps)
    x = _ensemble.starts(start, replicas, finite_sum.dim, finite_sum.domain)
    lane = finite_sum.lane_code()
    rate = learning_rate / svag
    spread = math.sqrt(2 * svag - 1)
    draws = batch_size if svag == 1 else 2 * batch_size
    arguments = (
        rate,
        batch_size,
        draws,
        (1 + spread) / (2 * batch_size),
        (1 - spread) / (2 * batch_size),
        *lane.data,
    )
    ensemble = _ensemble.run(
        load(sgd_source(lane, finite_sum.domain.periodic)),
        arguments,
        start=x,
        domain=finite_sum.domain,
        steps=steps,
        every=save_every,
        histogram=observables,
        seed=seed,
        parameters=lane.parameters,
        threads=threads,
        progress=progress,
        what="replica",
    )
    settings = {
        "landscape": finite_sum.name,
        **{f"parameter_{k}": v for k, v in finite_sum.parameters.items()},
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "sampling": "with_replacement",
        "svag": svag,
        "temperature": learning_rate / (2 * batch_size),
        "steps": steps,
        "seed": seed,
    }
    return dataset(ensemble, x, finite_sum.variables, "replica", rate, save_every, observables, settings)


def sample_indices(
    samples: int, *, batch_size: int, steps: int, replica: int = 0, seed: int = 0, svag: int = 1
) -> np.ndarray:
    """The sample indices that replica `replica` of `sgd` draws: int64 (steps, b), or (steps, 2, b) with SVAG.

    `samples` is N. A function of (seed, replica, step) alone, so any stretch of any run can be replayed.
    """
    samples = _checks.whole("samples", samples, 2, MAX_SAMPLES)
    batch_size = _checks.whole("batch_size", batch_size, 1, samples)
    steps = _checks.whole("steps", steps, 1, _ensemble.MAX_STEPS)
    replica = _checks.whole("replica", replica, 0)
    halves = 1 if _checks.whole("svag", svag, 1, MAX_SVAG) == 1 else 2
    size = 8.0 * steps * halves * batch_size
    _memory.refuse_beyond(size, "the array of indices", "ask for fewer steps at once")
    picks = draw_indices(samples, halves * batch_size, steps, replica, SAMPLE_STREAM, *_ensemble.key_of(seed))
    return picks.reshape((steps, batch_size) if halves == 1 else (steps, 2, batch_size))
