"""Runs a generated kernel over chunks of paths with threads above it; one driver for Langevin paths and SGD.

Results cannot depend on threads, chunks or on what is saved: a path's numbers depend on (seed, path, step) alone,
every chunk runs all its lanes, and what threads add up are integers.
"""

import itertools
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import ModuleType

import numpy as np
from numba.core.errors import NumbaError

from sde_sgd import _checks, _memory
from sde_sgd._domain import Domain
from sde_sgd.errors import Diverged

from ._generate import LANES
from ._histogram import Histogram

MAX_STEPS = 2**32
_SEGMENT_SECONDS = 0.25  # how often a long run reports progress and can be interrupted


@dataclass
class Ensemble:
    """What a run produced.

    The final `state` (paths, d); `saved` (rows, d, paths), the start first, or None; `counts` (blocks, cells + 1).
    """

    state: np.ndarray
    saved: np.ndarray | None
    counts: np.ndarray | None


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def key_of(seed: int) -> tuple[np.uint64, np.uint64]:
    """The Philox key of a seed: two well-mixed 32-bit words."""
    words = np.random.SeedSequence(_checks.whole("seed", seed, 0)).generate_state(2, np.uint32)
    return np.uint64(words[0]), np.uint64(words[1])


def starts(start, paths: int, dim: int, domain: Domain) -> np.ndarray:
    """Start points (paths, d) from one point (d,) or one per path; a scalar in one dimension."""
    x = np.atleast_1d(_checks.finite_array("start", start))
    if x.shape not in ((dim,), (paths, dim)):
        raise ValueError(
            f"start must have shape ({dim},) or ({paths}, {dim}) for the variables "
            f"{', '.join(domain.variables)}, got {x.shape}"
        )
    domain.check("start", x)
    return np.broadcast_to(x, (paths, dim))


def outputs(
    save_every: int | None, observables: Histogram | None, domain: Domain, paths: int, steps: int
) -> tuple[int | None, Histogram | None]:
    """What a run is to keep, checked."""
    if save_every is not None:
        save_every = _checks.whole("save_every", save_every, 1, steps)
    if observables is not None:
        _checks.instance("observables", observables, Histogram).check(domain, paths, steps)
    return save_every, observables


def run(
    module: ModuleType,
    arguments: Sequence,
    *,
    start: np.ndarray,
    domain: Domain,
    steps: int,
    every: int | None,
    histogram: Histogram | None,
    seed: int,
    parameters: Sequence[float],
    threads: int | None,
    progress: Callable[[int, int], None] | None,
    what: str = "path",
) -> Ensemble:
    """Advance all paths; raise Diverged naming the path that left first and its step.

    `arguments` are the kernel's own, after the common ones (see `_generate`).
    """
    paths, dim = start.shape
    threads = cores() if threads is None else _checks.whole("threads", threads, 1)
    _checks.function("progress", progress)
    rows = 0 if every is None else steps // every + 1
    cells = 1 if histogram is None else histogram.grid.size
    blocks = 1 if histogram is None else histogram.blocks
    chunks = -(-paths // LANES)
    _memory.refuse_beyond(
        # counters of the tasks, their sum, and the densities made of it
        8.0 * (dim * (rows * paths + 2 * chunks * LANES) + (6 * blocks + threads) * cells),
        "this run",
        "save fewer steps (save_every), run fewer paths, or count a coarser histogram",
    )
    state = np.zeros((dim, chunks * LANES))
    state[:, :paths] = start.T
    state[:, paths:] = state[:, :1]  # spare lanes of the last chunk run along and are dropped
    saved = np.empty((rows, dim, paths))
    saved[:1] = start.T
    if histogram is None:
        bins = (np.zeros(dim), np.ones(dim), np.ones(dim), 0, 0)
    else:
        grid = histogram.grid
        bins = (
            np.asarray(grid.lower, float),
            1.0 / np.asarray(grid.spacing, float),
            np.asarray(grid.shape, float),
            histogram.burn_in,
            histogram.every,
        )
    span = np.where(domain.periodic, domain.upper - domain.lower, 1.0)
    low = np.where(domain.periodic, domain.lower, 0.0)
    key = key_of(seed)
    values = np.array([*parameters, 0.0])
    tasks = _split(chunks, threads, paths, blocks, cells)

    def advance(task: "_Task", first_step: int, count: int, first_row: int) -> None:
        module.kernel(
            state,
            task.first,
            task.last,
            paths,
            first_step,
            count,
            every or 0,
            saved[first_row:],
            low,
            span,
            *bins,
            blocks,
            task.first_block,
            task.counts,
            task.failure,
            *key,
            values,
            *arguments,
        )

    done, count, began = 0, 1, time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        while done < steps:
            count = min(count, steps - done)
            first_row = 0 if every is None else 1 + done // every
            try:
                list(pool.map(lambda t, k=done, n=count, r=first_row: advance(t, k, n, r), tasks))
            except NumbaError as fault:
                reason = str(fault).strip().splitlines()[0]
                raise ValueError(f"a function of this process cannot be compiled by Numba: {reason}") from fault
            left = [(int(t.failure[1]), int(t.failure[0])) for t in tasks if t.failure[1] >= 0]
            if left:
                step, path = min(left)
                raise Diverged(
                    f"{what} {path} diverged at step {step}: a coordinate became NaN or exceeded 1e100. "
                    "Take a smaller step or learning rate; NaN also comes from a loss undefined there "
                    "or a D that is not positive semi-definite",
                    path=path,
                    step=step,
                )
            done += count
            if progress is not None:
                progress(done, steps)
            elapsed, began = time.perf_counter() - began, time.perf_counter()
            count = max(1, int(count * min(4.0, max(0.25, _SEGMENT_SECONDS / max(elapsed, 1e-6)))))
    counts = None
    if histogram is not None:
        counts = np.zeros((blocks, cells + 1), np.int64)
        for task in tasks:
            counts[task.first_block : task.first_block + len(task.counts)] += task.counts
    return Ensemble(state[:, :paths].T.copy(), saved if every is not None else None, counts)


@dataclass
class _Task:
    first: int
    last: int
    first_block: int
    counts: np.ndarray
    failure: np.ndarray


def _split(chunks: int, threads: int, paths: int, blocks: int, cells: int) -> list[_Task]:
    """Contiguous ranges of chunks, one per thread, each with its own counters for the blocks it touches."""
    edges = np.linspace(0, chunks, min(threads, chunks) + 1).astype(int)
    tasks = []
    for first, last in itertools.pairwise(edges):
        low = first * LANES * blocks // paths
        high = (min(last * LANES, paths) - 1) * blocks // paths
        tasks.append(
            _Task(
                int(first),
                int(last),
                int(low),
                np.zeros((int(high - low) + 1, cells + 1), np.int64),
                np.full(2, -1, np.int64),
            )
        )
    return tasks
