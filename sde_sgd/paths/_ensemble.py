"""Runs a kernel over groups of paths with threads above it; one driver for Langevin paths, SGD and exit times.

Results cannot depend on threads, chunks, groups, interruptions or what is saved: a path's numbers depend on (seed,
path, step) alone, every chunk runs all its lanes, threads add up integers only, and sums are taken in path order.
"""

import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import xarray as xr
from numba.core.errors import NumbaError

from sde_sgd import _checks, _memory
from sde_sgd._domain import Domain
from sde_sgd.errors import Diverged
from sde_sgd.landscapes._lanes import LaneCode

from ._checkpoint import Checkpoint, described
from ._frame import LANES, Kernel, Part
from ._kernel_cache import load

MAX_STEPS = 2**32 - 1  # of the random numbers' counter
_SEGMENT_SECONDS = 0.25  # how often a long run reports progress and can be interrupted
_GROUP_BYTES = 2**24  # state of the paths that are advanced together


class Progress(Protocol):
    """What a long run calls several times a second: `progress(done, total)`, in steps."""

    def __call__(self, done: int, total: int, /) -> object: ...


class Tally(Protocol):
    """An observable at work in a run: its part of the kernel, and what becomes of the part's sums and counters.

    `fold(sums, places)` receives the sums (rows of the part, paths) of finished paths and their places in the run, in
    order; `count(counts)` what the counters (blocks, cells) gathered since the last call. `arrays` hold all it knows,
    for checkpoints; they are changed in place.
    """

    part: Part
    arrays: list[np.ndarray]

    def fold(self, sums: np.ndarray, places: np.ndarray) -> None: ...

    def count(self, counts: np.ndarray) -> None: ...

    def dataset(self) -> xr.Dataset: ...


@dataclass
class Ensemble:
    """What a run produced: the final `state` (paths, d) or None; `saved` (rows, d, paths), the start first, or None;
    `rows`, the final values (paths,) of the rows the run was given starts for."""

    state: np.ndarray | None
    saved: np.ndarray | None
    rows: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass
class Run:
    """Everything a run is: the kernel, its numbers and how long; `execute` makes it happen.

    `schedule(first, count)` gives the per-step numbers (rows, count + 1) of steps first … first + count. `every` = k
    saves every k-th state; `keep` the final one. `retired(columns, done)` says after each segment which paths need no
    further steps; segments of `longest` steps at most. They end at steps (of the random numbers) that are multiples of
    `align`; `workspace` are the bytes a thread needs besides. `rows` start rows of the kernel beyond X0…, by name
    (paths,), and are returned; the others start at 0. `question` is what else tells this run from another's checkpoint.
    """

    kernel: Kernel
    lane: LaneCode
    start: np.ndarray
    domain: Domain
    steps: int
    schedule: Callable[[int, int], np.ndarray]
    seed: int
    every: int | None = None
    keep: bool = True
    tallies: Sequence[Tally] = ()
    first_path: int = 0
    first_step: int = 0
    threads: int | None = None
    progress: Progress | None = None
    checkpoint: str | os.PathLike | None = None
    what: str = "path"
    retired: Callable[["Columns", int], np.ndarray] | None = None
    longest: int = MAX_STEPS
    align: int = 1
    workspace: int = 0
    rows: dict[str, np.ndarray] = field(default_factory=dict)
    question: Sequence = ()
    _tasks: list = field(default_factory=list, init=False)

    def execute(self) -> Ensemble:
        """Advance all paths, one group after the other; raise Diverged naming the path of a group that left first."""
        paths, dim = self.start.shape
        self._workers = cores() if self.threads is None else _checks.whole("threads", self.threads, 1)
        _checks.function("progress", self.progress)
        real = np.dtype(self.kernel.real)
        rows = 0 if self.every is None else self.steps // self.every + 1
        width = len(self.kernel.rows) * real.itemsize + len(self.kernel.sums) * 8 + 8
        group = min(-(-paths // LANES), max(4096 // LANES, _GROUP_BYTES // width // LANES)) * LANES
        cells = sum(part.counters[0] * part.counters[1] for part in self.kernel.parts)
        _memory.refuse_beyond(
            real.itemsize * paths * (dim * (rows + (2 if self.keep else 0)) + len(self.rows))
            + 2.0 * width * group
            + 8.0 * (6 + self._workers) * cells
            + self._workers * self.workspace,
            "this run",
            "save fewer steps (save_every), run fewer paths, or count a coarser histogram",
        )
        self._module = load(self.kernel.source, self.lane)
        self._key = key_of(self.seed)
        self._saved = np.empty((rows, dim, paths), real)
        self._saved[:1] = self.start.T
        self._final = np.empty((dim, paths if self.keep else 0), real)
        self._rows = {name: np.empty(paths, real) for name in self.rows}
        self._span = np.where(self.domain.periodic, self.domain.upper - self.domain.lower, 1.0).astype(real)
        self._low = np.where(self.domain.periodic, self.domain.lower, 0.0).astype(real)
        self._parameters = np.array([*self.lane.parameters, 0.0])
        groups = [(low, min(low + group, paths)) for low in range(0, paths, group)]
        store = Checkpoint(self.checkpoint, self._fingerprint) if self.checkpoint is not None else None
        begun, done, columns = 0, 0, None
        if store is not None and (kept := store.load(self._arrays())) is not None:
            begun, done, columns = kept
        with ThreadPoolExecutor(self._workers) as pool, _Interruption() as stop:
            for index in range(begun, len(groups)):
                columns = columns or self._columns(*groups[index])
                self._advance(pool, stop, columns, done, index, len(groups), store)
                done, columns = 0, None
        if store is not None:
            store.remove()
        return Ensemble(
            self._final.T.copy() if self.keep else None, self._saved if self.every is not None else None, self._rows
        )  # fmt: skip

    # -- one group -------------------------------------------------------------------------------------------

    def _columns(self, low: int, high: int) -> "Columns":
        """The paths low … high − 1 of the run at their start."""
        real, padded = self.kernel.real, -(-(high - low) // LANES) * LANES
        state = np.zeros((len(self.kernel.rows), padded), real)
        state[: self.start.shape[1], : high - low] = self.start[low:high].T
        for name, values in self.rows.items():
            state[self.kernel.row(name), : high - low] = values[low:high]
        columns = Columns(state, np.zeros((len(self.kernel.sums), padded)), np.arange(low, high), low)
        columns.pad(self.first_path)
        return columns

    def _advance(self, pool, stop, columns: "Columns", done: int, index: int, groups: int, store) -> None:
        count, began = 1, time.perf_counter()
        written = began
        while done < self.steps and len(columns.places):
            count = min(count + -(self.first_step + done + count) % self.align, self.steps - done)
            interrupted = self._segment(pool, columns, done, count)
            done += count
            if self.retired is not None:
                gone = self.retired(columns, done)
                if gone.any():
                    self._count(columns)
                    self._tasks = []
                    self._fold(columns, gone)
                    columns.drop(gone)
                    columns.pad(self.first_path)
            interrupted = self._report(index * self.steps + done, groups * self.steps) or stop.asked or interrupted
            elapsed, began = time.perf_counter() - began, time.perf_counter()
            pace = min(4.0, max(0.25, _SEGMENT_SECONDS / max(elapsed, 1e-6)))
            count = min(self.longest, max(1, int(count * pace)))
            if store is not None and (interrupted or began - written > store.seconds):
                self._count(columns)
                store.save(index, done, columns, self._arrays())
                written = began
            if interrupted:
                raise KeyboardInterrupt(
                    f"stopped after {done} of {self.steps} steps"
                    + (f"; the same call goes on from {store.path}" if store is not None else "")
                )
        self._count(columns)
        self._tasks = []
        self._fold(columns, np.ones(len(columns.places), bool))
        if done < self.steps:  # all paths retired early
            self._report((index + 1) * self.steps, groups * self.steps)

    def _report(self, done: int, total: int) -> bool:
        """Tell the progress; True where the user interrupted meanwhile."""
        try:
            if self.progress is not None:
                self.progress(done, total)
        except KeyboardInterrupt:
            return True
        return False

    def _segment(self, pool, columns: "Columns", done: int, count: int) -> bool:
        """`count` steps of every path; True where the user interrupted, who waits for the segment's end."""
        tasks = self._split(columns)
        schedule = np.ascontiguousarray(self.schedule(done, count), dtype=np.float64)
        futures = [pool.submit(self._call, columns, task, schedule, done, count) for task in tasks]
        interrupted = False
        while True:
            try:
                wait(futures)
                break
            except KeyboardInterrupt:
                interrupted = True
        for future in futures:
            try:
                future.result()
            except NumbaError as fault:
                if not self.lane.functions:  # then it is this package's own text, and no fault of the user's
                    raise
                told = [line for line in str(fault).splitlines() if line.strip() and not line.startswith("Failed in ")]
                reason = told[0] if told else type(fault).__name__
                raise ValueError(f"a function of this process cannot be compiled by Numba: {reason}") from fault
        left = [(int(t.failure[1]), int(t.failure[0])) for t in tasks if t.failure[1] >= 0]
        if left:
            step, path = min(left)
            raise Diverged(
                f"{self.what} {path} diverged at step {step}: a coordinate became NaN or left every bound "
                f"({'1e100' if self.kernel.real == 'float64' else '1e30 in float32'}). Take a smaller step or "
                "learning rate; NaN also comes from a loss undefined there or a D that is not positive semi-definite",
                path=path,
                step=step,
            )
        return interrupted

    def _call(self, columns: "Columns", task: "_Task", schedule: np.ndarray, done: int, count: int) -> None:
        extra: list = []
        for part, counter in zip(self.kernel.parts, task.counters):
            extra += part.values
            if counter is not None:
                extra += [counter, task.first_block(part, self.start.shape[0], columns)]
        self._module.kernel(
            columns.state, columns.kept, columns.ids, task.first, task.last, len(columns.places), len(self.start),
            columns.offset, self.first_step, done, count, self.every or 0, self._saved, schedule, self._low, self._span,
            task.failure, *self._key, self._parameters, *extra,
        )  # fmt: skip

    def _split(self, columns: "Columns") -> list["_Task"]:
        """Contiguous ranges of chunks, one per thread, each with its own counters for the blocks it touches."""
        if self._tasks:
            return self._tasks
        chunks = columns.state.shape[1] // LANES
        edges = np.linspace(0, chunks, min(self._workers, chunks) + 1).astype(int)
        self._tasks = []
        for first, last in itertools.pairwise(map(int, edges)):
            task = _Task(first, last)
            for part in self.kernel.parts:
                blocks, cells = part.counters
                low = task.first_block(part, len(self.start), columns)
                high = (columns.offset + min(last * LANES, len(columns.places)) - 1) * blocks // len(self.start)
                task.counters.append(np.zeros((high - low + 1, cells), np.int64) if part.counter else None)
            self._tasks.append(task)
        return self._tasks

    def _count(self, columns: "Columns") -> None:
        """Hand what the threads counted to the tallies."""
        for tally in self.tallies:
            part = tally.part
            if part.counter:
                counts = np.zeros(part.counters, np.int64)
                for task in self._tasks:
                    mine = task.counters[self.kernel.parts.index(part)]
                    low = task.first_block(part, len(self.start), columns)
                    counts[low : low + len(mine)] += mine
                    mine[:] = 0
                tally.count(counts)

    def _fold(self, columns: "Columns", which: np.ndarray) -> None:
        """Keep the final states of the chosen paths, and hand what they summed to the tallies."""
        places, kept = columns.places[which], columns.kept[:, : len(columns.places)][:, which]
        final = columns.state[:, : len(columns.places)][:, which]
        if self.keep:
            self._final[:, places] = final[: len(self._final)]
        for name, values in self._rows.items():
            values[places] = final[self.kernel.row(name)]
        for tally in self.tallies:
            tally.fold(kept[self.kernel.sums_of(tally.part)], places)

    # -- checkpoints -----------------------------------------------------------------------------------------

    def _arrays(self) -> list[np.ndarray]:
        """All arrays that hold results so far."""
        counted = [array for tally in self.tallies for array in tally.arrays]
        return [self._final, self._saved, *self._rows.values(), *counted]

    def _fingerprint(self) -> list:
        """What must be equal for a checkpoint to belong to this run."""
        probe = np.unique(np.linspace(0, self.steps - 1, 1000).astype(np.int64))
        return [
            self.kernel.source, self.start, self.steps, self.seed, self.every, self.keep, self.first_path,
            self.first_step, self._parameters, self._low, self._span, *(self.schedule(int(k), 1) for k in probe),
            self.schedule(0, min(self.steps, 2**20)), *map(described, self.lane.functions.values()), *self.question,
            *self.rows, *self.rows.values(), *(value for part in self.kernel.parts for value in part.values),
            *(array.shape for array in self._arrays()),
        ]  # fmt: skip


@dataclass
class Columns:
    """The paths that are advanced together: `state` and `kept` (rows, padded paths), `ids` for the random numbers."""

    state: np.ndarray
    kept: np.ndarray
    places: np.ndarray
    offset: int
    ids: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))

    def pad(self, first_path: int) -> None:
        """Fill the spare lanes of the last chunk, which run along and are dropped, with copies of the first path."""
        used = len(self.places)
        self.ids = np.zeros(self.state.shape[1], np.uint64)
        if used:
            self.ids[:used] = self.places + first_path
            self.state[:, used:], self.kept[:, used:] = self.state[:, :1], self.kept[:, :1]
            self.ids[used:] = self.ids[0]

    def drop(self, gone: np.ndarray) -> None:
        """Close the gaps of the paths that are `gone`."""
        stay = np.flatnonzero(~gone)
        padded = -(-len(stay) // LANES) * LANES
        columns = np.concatenate([stay, np.zeros(padded - len(stay), np.int64)])
        self.places = self.places[stay]
        self.state = np.ascontiguousarray(self.state[:, columns])
        self.kept = np.ascontiguousarray(self.kept[:, columns])


class _Interruption:
    """Ctrl-C noted instead of raised, so that it never falls between a segment and its checkpoint; a second one raises.

    Only in the main thread and in place of Python's own handler: whoever has another one knows what they want.
    """

    asked = False

    def __enter__(self) -> "_Interruption":
        main = threading.current_thread() is threading.main_thread()
        self._ours = main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self._ours:
            signal.signal(signal.SIGINT, self._note)
        return self

    def _note(self, number: int, frame: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def __exit__(self, *fault: object) -> None:
        if self._ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass
class _Task:
    first: int
    last: int
    counters: list = field(default_factory=list)
    failure: np.ndarray = field(default_factory=lambda: np.full(2, -1, np.int64))

    def first_block(self, part: Part, paths: int, columns: Columns) -> int:
        return (columns.offset + self.first * LANES) * part.counters[0] // paths


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def key_of(seed: int) -> tuple[np.uint64, np.uint64]:
    """The Philox key of a seed: two well-mixed 32-bit words."""
    words = np.random.SeedSequence(_checks.whole("seed", seed, 0)).generate_state(2, np.uint32)
    return np.uint64(words[0]), np.uint64(words[1])


def starts(start, paths: int, dim: int, domain: Domain, inside: bool = True) -> np.ndarray:
    """Start points (paths, d) from one point (d,) or one per path, `inside` the domain; a scalar in one dimension."""
    x = np.atleast_1d(_checks.finite_array("start", start))
    if x.shape not in ((dim,), (paths, dim)):
        raise ValueError(
            f"start must have shape ({dim},) or ({paths}, {dim}) for the variables "
            f"{', '.join(domain.variables)}, got {x.shape}"
        )
    if inside:
        domain.check("start", x)
    return np.broadcast_to(x, (paths, dim))
