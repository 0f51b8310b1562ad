"""The frame of every path kernel: parts of text put together into one module.

A kernel advances chunks of LANES paths, structure of arrays in one work buffer per chunk (one base address: LLVM then
needs no aliasing checks), one inner lane loop per task and no branch in it. Steppers, walls, exits and observables are
`Part`s: what they keep per path, what they read, and their lines of each step.

A line names a row of lane j as X0[j]; y0 is a lane's local. The lines of a stepper for many variables loop over the
components instead: component i of X is `work[at_X0 + i, j]`, and the text does not grow with their number.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ._kernel_cache import HEADER, imports

LANES = 64
BOUND = 1e100  # a coordinate beyond this, or NaN, counts as diverged; float32: beyond 1e30
BOUND_32 = 1e30
PATH = "path = ids[base + j]"  # lane line that says which path's random numbers are drawn
OF_PATHS = "_of(normals, ids, base,"  # the same of a function that draws for all lanes into the rows `normals`

_ARGUMENTS = (
    "state, kept, ids, first, last, paths, total, offset, first_step, done, steps, every, saved, schedule, low, span, "
    "failure, key0, key1, parameters"
)


@dataclass(frozen=True, eq=False)
class Part:
    """A piece of a kernel.

    `rows` per path, of the kernel's float type, and `sums`, float64, survive from segment to segment; `scratch` rows
    live within a chunk. A table (name, n) is n more sums without a name each, `tally[at_name + i, j]`. `arguments` are
    further kernel arguments, whose `values` are passed in this order.
    Lines: `setup` once per call; `begin` once per chunk, its rows loaded; `step` each step, before the lane loop in
    which `lanes` compute y0… from x0… (its other locals may be read by later parts); a stepper of many variables has
    instead `loops`, step lines that fill the rows y0… from the rows X0…; `after` each step once X0… hold
    the new state. They may read `step` (of the random numbers), `count` (steps done since the run began, this one
    included), `ids[base + j]` (number of the lane's path), `offset + base + j` (its place among the run's `total`) and
    `live` (lanes in use); `begin` may lower `todo`, the steps this chunk makes, and `after` may break.
    `counters` = (blocks, cells) asks for an int64 array, per thread, whose rows are contiguous blocks of paths: the
    argument `counter`, with its first block in `<counter>_first`. `fragments` names what its lines import.
    """

    rows: tuple[str, ...] = ()
    sums: tuple[str, ...] = ()
    tables: tuple[tuple[str, int], ...] = ()
    scratch: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    values: tuple = ()
    setup: Sequence[str] = ()
    begin: Sequence[str] = ()
    step: Sequence[str] = ()
    lanes: Sequence[str] = ()
    loops: Sequence[str] = ()
    after: Sequence[str] = ()
    counter: str | None = None
    counters: tuple[int, int] = (0, 0)
    fragments: tuple[str, ...] = ()

    @property
    def kept(self) -> tuple[str, ...]:
        """Its float64 rows: the sums, then those of its tables."""
        return (*self.sums, *(f"{name}[{i}]" for name, count in self.tables for i in range(count)))

    @property
    def counter_arguments(self) -> tuple[str, ...]:
        return (self.counter, f"{self.counter}_first") if self.counter else ()


@dataclass(frozen=True)
class Kernel:
    """The text of a kernel and how its arrays are laid out."""

    source: str
    dim: int
    real: str
    rows: tuple[str, ...]
    sums: tuple[str, ...]
    parts: tuple[Part, ...] = field(repr=False)

    def row(self, name: str) -> int:
        """Index of a row of `state`."""
        return self.rows.index(name)

    def sums_of(self, part: Part) -> slice:
        """Where the part's rows of `kept` lie."""
        first = sum(len(p.kept) for p in self.parts[: self.parts.index(part)])
        return slice(first, first + len(part.kept))


def indent(lines: Iterable[str], levels: int = 1) -> list[str]:
    return ["    " * levels + line for line in lines]


def lane_loop(lines: Sequence[str]) -> list[str]:
    return [f"for j in range({LANES}):", *indent(lines)] if lines else []


def literal(value: float, real: str) -> str:
    """A constant of the kernel's float type: a bare literal would promote float32 to float64."""
    return repr(float(value)) if real == "float64" else f"np.float32({float(value)!r})"


def bound_of(real: str) -> str:
    """The size from which on a coordinate of the kernel's float type counts as diverged."""
    return literal(BOUND if real == "float64" else BOUND_32, real)


def build(
    dim: int,
    parts: Sequence[Part],
    *,
    periodic: Sequence[bool],
    real: str = "float64",
    parameters: int = 0,
    scattered: bool = False,
) -> Kernel:
    """The kernel made of the parts in their order; the first is the stepper, which computes y0… of x0…

    `scattered` says that the paths of a chunk need not follow each other (some retire before others); without it a
    path's number is computed and not loaded, which makes the noise a seventh faster.
    """
    rows = (*(f"X{i}" for i in range(dim)), *(name for part in parts for name in part.rows))
    sums = tuple(name for part in parts for name in part.kept)
    named = {name for part in parts for name in part.sums}
    tables = {f"{name}[0]": name for part in parts for name, _ in part.tables}
    scratch = tuple(name for part in parts for name in part.scratch)
    arguments = [name for part in parts for name in (*part.arguments, *part.counter_arguments)]
    held = [("work", "state"), *([("tally", "kept")] if sums else [])]
    body = [
        "step = first_step + done + k",
        "count = done + k + 1",
        *(line for part in parts for line in part.step),
        "escaped = 0",
        *(_advance_rows if parts[0].loops else _advance)(dim, parts, periodic, bound_of(real)),
        # a chunk stops at its own first divergence: the same whatever the threads and the segments of a run
        "if escaped > 0:",
        f"    if _diverged(work, saved.shape[1], {bound_of(real)}, live, ids, base, step, failure):",
        "        break",
        "if every > 0 and count % every == 0:",
        "    _save(work, saved, count // every, offset + base, live)",
        *(line for part in parts for line in part.after),
    ]
    chunk = [
        f"base = chunk * {LANES}",
        "origin = ids[base]",
        "todo = steps",
        f"live = min({LANES}, paths - base)",
        *(f"_load({chunk}, {all_paths}, base)" for chunk, all_paths in held),
        *(line for part in parts for line in part.begin),
        "for k in range(todo):",
        *indent(body),
        *(f"_store({chunk}, {all_paths}, base)" for chunk, all_paths in held),
    ]
    lines = [*(line for part in parts for line in part.setup), "for chunk in range(first, last):", *indent(chunk)]
    if not scattered:
        lines = [line.replace(PATH, "path = origin + np.uint64(j)") for line in lines]
        lines = [line.replace(OF_PATHS, "(normals, origin,") for line in lines]
    used = set(re.findall(r"\w+", "\n".join(lines)))
    places = [(name, "work", r) for r, name in enumerate((*rows, *scratch))]
    places += [(tables.get(name, name), "tally", r) for r, name in enumerate(sums) if name in tables or name in named]
    number = "parameters[{}]" if real == "float64" else "np.float32(parameters[{}])"
    text = [
        "_widest_vectors()",
        *(f"p{k} = {number.format(k)}" for k in range(parameters) if f"p{k}" in used),
        f"work = np.zeros(({len(rows) + len(scratch)}, {LANES}), np.{real})",
        *([f"tally = np.zeros(({len(sums)}, {LANES}))"] if sums else []),
        *(f"{name} = {buffer}[{r}]" for name, buffer, r in places if name in used),
        *(f"at_{name} = {r}" for name, _, r in places if f"at_{name}" in used),
        *lines,
    ]
    fragments = dict.fromkeys(["_philox", "_chunks", *(name for part in parts for name in part.fragments)])
    source = [
        HEADER,
        *imports(fragments, "\n".join(text)),
        "",
        '@njit(cache=True, nogil=True, error_model="numpy")',
        f"def kernel({', '.join([_ARGUMENTS, *arguments])}):",
        *indent(text),
        "",
    ]
    return Kernel("\n".join(source), dim, real, rows, sums, tuple(parts))


def each_row(count: int | str, lines: Sequence[str]) -> list[str]:
    """The lane lines for every i below `count`, or from "first, end"."""
    return [f"for i in range({count}):", *indent(lane_loop(lines))]


def _advance(dim: int, parts: Sequence[Part], periodic: Sequence[bool], bound: str) -> list[str]:
    """x to y to X, every coordinate a local of one lane loop."""
    within = " and ".join(f"math.fabs(y{i}) < {bound}" for i in range(dim))
    return lane_loop(
        [
            *(f"x{i} = X{i}[j]" for i in range(dim)),
            *parts[0].lanes,
            *(line for i in range(dim) if periodic[i] for line in _wrap(f"y{i}", f"turns{i}", i)),
            *(line for part in parts[1:] for line in part.lanes),
            *(f"X{i}[j] = y{i}" for i in range(dim)),
            f"escaped += np.int64(not ({within}))",
        ]
    )


def _advance_rows(dim: int, parts: Sequence[Part], periodic: Sequence[bool], bound: str) -> list[str]:
    """The same by loops over rows; the lane lines of later parts find the coordinates that they name as locals."""
    y, lines = "work[at_y0 + i, j]", [*parts[0].loops, *wrap_rows("at_y0", periodic)]
    later = [line for part in parts[1:] for line in part.lanes]
    words = set(re.findall(r"\w+", "\n".join(later)))
    if any(re.fullmatch(r"turns\d+", word) for word in words):
        raise ValueError("the winding of a periodic variable is counted for landscapes of up to 16 variables")
    named = [i for i in range(dim) if f"y{i}" in words]
    before = [f"x{i} = work[{i}, j]" for i in range(dim) if f"x{i}" in words]
    before += [f"y{i} = work[at_y0 + {i}, j]" for i in named]
    lines += lane_loop([*before, *later, *(f"work[at_y0 + {i}, j] = y{i}" for i in named)] if later else [])
    return lines + each_row(dim, [f"y = {y}", "work[i, j] = y", f"escaped += np.int64(not (math.fabs(y) < {bound}))"])


def wrap_rows(first: str, periodic: Sequence[bool]) -> list[str]:
    """Step lines that bring the periodic components of the vector whose rows begin at `first` back into the domain."""
    y, dim, lines = f"work[{first} + i, j]", len(periodic), []
    ends = [i for i in range(dim + 1) if (i < dim and periodic[i]) != (i > 0 and periodic[i - 1])]
    for low, high in zip(ends[::2], ends[1::2]):
        lines += each_row(f"{low}, {high}", [f"y = {y}", *_wrap("y", "turns", "i"), f"{y} = y"])
    return lines


def _wrap(y: str, turns: str, i: int | str) -> list[str]:
    """y back into [low, low + span); rounding may give either end, which are one point. `turns` counts the windings."""
    return [
        f"{turns} = np.floor(({y} - low[{i}]) / span[{i}])",
        f"{y} = {y} - span[{i}] * {turns}",
        f"{turns} = {turns} + 1.0 if {y} >= low[{i}] + span[{i}] else {turns}",
        f"{y} = low[{i}] if {y} >= low[{i}] + span[{i}] or {y} < low[{i}] else {y}",
    ]


def data_arguments(data: Sequence[np.ndarray]) -> tuple[str, ...]:
    return tuple(f"data{k}" for k in range(len(data)))
