"""Backward Euler, one offset at a time: tridiagonal sweeps that keep mass and sign for any step.

The edges of one offset e join the cells into lines x, x + e, x + 2e, … (closed ones on periodic axes). On a line
the step (1 − h L_e)ρ' = ρ is eliminated from one end to the other without a subtraction, as a Markov chain that
is left at rate 1 from every cell: with r, l the rates h·(i → i+1), h·(i+1 → i) and k the leak times h,

    s_0 = 1 + k_0,   p_i = s_i + r_i,   s_{i+1} = 1 + k_{i+1} + l_i s_i/p_i,
    y_{i+1} = ρ_{i+1} + (r_i/p_i) y_i,  ρ'_i = (y_i + l_i ρ'_{i+1})/p_i.

So each ρ'_i has a relative accuracy of its own, none is negative, and mass is kept to rounding. A closed line keeps
its last cell to the end; two more coefficients carry what the others exchange with it. The sweeps of all offsets
after one another are backward Euler up to a splitting error of the same order; in one variable, and wherever a
generator has one offset, they are backward Euler itself.
Sources: Grassmann, Taksar & Heyman (1985) for the elimination; Yanenko (1971) for the splitting.
"""

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numba as nb
import numpy as np

from ._edges import Edges

LANES = 8  # lines swept together: one AVX-512 register of float64
# Densities smaller in size become 0: numbers below the normal range cost a hundred times as much. Written as
# `0 if |y| < _TINY else y`, so that NaN stays and is found.
_TINY = 1e-290
_KEPT = 6  # factored step sizes kept: extrapolation uses three at a time


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _lines(tail, head, extra, cells):
    """Follow the edges of one offset. Returns the cells line after line, the edge that leaves each cell (−1: none),
    where each line starts, and whether it is closed. `extra` marks cells to keep as lines of their own."""
    leaving = np.full(cells, -1, np.int64)
    entering = np.full(cells, -1, np.int64)
    for e in range(tail.size):
        leaving[tail[e]] = e
        entering[head[e]] = e
    order = np.empty(cells, np.int64)
    edge = np.empty(cells, np.int64)
    starts = np.empty(cells + 1, np.int64)
    closed = np.zeros(cells, np.bool_)
    seen = np.zeros(cells, np.bool_)
    used = lines = 0
    for wanted in range(2):  # open lines from their ends, then what is left: closed ones
        for c in range(cells):
            if seen[c] or (wanted == 0 and entering[c] >= 0) or (leaving[c] < 0 and not extra[c]):
                continue
            starts[lines] = used
            closed[lines] = wanted == 1
            x = c
            while not seen[x]:
                seen[x] = True
                order[used] = x
                edge[used] = leaving[x]
                used += 1
                if leaving[x] < 0:
                    break
                x = head[leaving[x]]
            lines += 1
    starts[lines] = used
    return order[:used].copy(), edge[:used].copy(), starts[: lines + 1].copy(), closed[:lines].copy()


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _factor_open(start, length, right, left, leak, h, through, stay, back):
    """Coefficients r_{i−1}/p_{i−1}, 1/p_i, l_i/p_i of open lines, LANES abreast."""
    s = np.empty(LANES)
    carried = np.empty(LANES)
    for b in range(start.size):
        o = start[b]
        for j in range(LANES):
            s[j] = 1.0 + h * leak[o + j]
            carried[j] = 0.0
        for i in range(length[b]):
            at = o + i * LANES
            for j in range(LANES):
                inverse = 1.0 / (s[j] + h * right[at + j])
                through[at + j] = carried[j]
                stay[at + j] = inverse
                back[at + j] = h * left[at + j] * inverse
                carried[j] = h * right[at + j] * inverse
                s[j] = s[j] * back[at + j]
            if i + 1 < length[b]:
                for j in range(LANES):
                    s[j] += 1.0 + h * leak[at + LANES + j]


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _factor_closed(start, length, right, left, leak, h, through, stay, back, gone, come):
    """The same for closed lines; `gone` and `come` are the exchange with the last cell, over p_i."""
    for b in range(start.size):
        o, m = start[b], length[b]
        for j in range(LANES):
            end = o + (m - 1) * LANES + j
            g, c = h * left[end], h * right[end]  # first → last and last → first, over the closing edge
            s, total = 1.0 + h * leak[o + j], 1.0 + h * leak[end]
            carried = 0.0
            for i in range(m - 1):
                at = o + i * LANES + j
                r, l = h * right[at], h * left[at]
                if i == m - 2:  # the next cell is the last one
                    r, l, g, c = 0.0, 0.0, g + r, c + l
                inverse = 1.0 / (s + r + g)
                through[at], stay[at], back[at] = carried, inverse, l * inverse
                gone[at], come[at] = g * inverse, c * inverse
                total += come[at] * s
                s = 1.0 + h * leak[at + LANES] + back[at] * s
                carried = r * inverse
                g, c = back[at] * g, carried * c
                if g < _TINY:
                    g = 0.0
                if c < _TINY:
                    c = 0.0
            through[end], stay[end], back[end], gone[end], come[end] = 0.0, 1.0 / total, 0.0, 0.0, 0.0


@nb.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _sweep_open(start, length, cell, through, stay, back, rho, line):
    """ρ ← (1 − hL_e)⁻¹ρ over open lines in place: 2 fused products and 1 plain one per cell, 36 bytes read.

    Values and coefficients are addressed by slices that start at 0, so that the lane loops vectorise.
    """
    x = np.empty(LANES)
    for b in range(start.size):
        o, m = start[b], length[b]
        for i in range(m * LANES):
            line[i] = rho[cell[o + i]]
        for i in range(1, m):
            now, before = line[i * LANES : (i + 1) * LANES], line[(i - 1) * LANES : i * LANES]
            w = through[o + i * LANES : o + (i + 1) * LANES]
            for j in range(LANES):
                y = now[j] + w[j] * before[j]
                now[j] = 0.0 if abs(y) < _TINY else y
        for j in range(LANES):
            x[j] = 0.0
        for i in range(m - 1, -1, -1):
            now = line[i * LANES : (i + 1) * LANES]
            q, v = stay[o + i * LANES : o + (i + 1) * LANES], back[o + i * LANES : o + (i + 1) * LANES]
            for j in range(LANES):
                y = q[j] * now[j] + v[j] * x[j]
                y = 0.0 if abs(y) < _TINY else y
                x[j] = y
                now[j] = y
        for i in range(m * LANES):
            rho[cell[o + i]] = line[i]


@nb.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _sweep_closed(start, length, cell, through, stay, back, gone, come, rho, line):
    """The same over closed lines: 4 fused products per cell."""
    x, last = np.empty(LANES), np.empty(LANES)
    for b in range(start.size):
        o, m = start[b], length[b]
        end = (m - 1) * LANES
        for i in range(m * LANES):
            line[i] = rho[cell[o + i]]
        for j in range(LANES):
            last[j] = line[end + j] + gone[o + j] * line[j]
        for i in range(1, m - 1):
            now, before = line[i * LANES : (i + 1) * LANES], line[(i - 1) * LANES : i * LANES]
            w, g = through[o + i * LANES : o + (i + 1) * LANES], gone[o + i * LANES : o + (i + 1) * LANES]
            for j in range(LANES):
                y = now[j] + w[j] * before[j]
                y = 0.0 if abs(y) < _TINY else y
                now[j] = y
                last[j] += g[j] * y
        for j in range(LANES):
            last[j] *= stay[o + end + j]
            last[j] = 0.0 if abs(last[j]) < _TINY else last[j]
            line[end + j] = last[j]
            x[j] = 0.0
        for i in range(m - 2, -1, -1):
            now = line[i * LANES : (i + 1) * LANES]
            q, v = stay[o + i * LANES : o + (i + 1) * LANES], back[o + i * LANES : o + (i + 1) * LANES]
            c = come[o + i * LANES : o + (i + 1) * LANES]
            for j in range(LANES):
                y = q[j] * now[j] + v[j] * x[j] + c[j] * last[j]
                y = 0.0 if abs(y) < _TINY else y
                x[j] = y
                now[j] = y
        for i in range(m * LANES):
            rho[cell[o + i]] = line[i]


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _gather(edge, cell, forward, backward, leak, share, right, left, out):
    """Rates of the edges and a share of the leaks of the cells, slot by slot; 0 where there is none."""
    for i in range(edge.size):
        e, c = edge[i], cell[i]
        linked = e < forward.size
        right[i] = forward[e] if linked else 0.0
        left[i] = backward[e] if linked else 0.0
        out[i] = share * leak[c] if c < leak.size else 0.0


@dataclass(frozen=True)
class _Bundles:
    """Lines of one offset, open or closed, LANES abreast; a free lane points to a cell beyond the last, of mass 0."""

    closed: bool
    start: np.ndarray  # of each bundle, in slots
    length: np.ndarray  # cells of its longest line
    cell: np.ndarray  # (slots,) cell of each slot
    edge: np.ndarray  # (slots,) edge to the next cell of the line; one beyond the last edge stands for none

    @classmethod
    def of(cls, closed: bool, order, edge, starts, lengths, cells: int, edges: int) -> "_Bundles":
        rank = np.argsort(-lengths, kind="stable")  # lines of like length together: few lanes stay free
        starts, lengths = starts[rank], lengths[rank]
        longest = lengths[::LANES]
        first = np.concatenate([[0], np.cumsum(longest * LANES)])
        line = np.repeat(np.arange(lengths.size), lengths)
        place = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        slot = first[line // LANES] + place * LANES + line % LANES
        source = starts[line] + place
        cell, link = np.full(first[-1], cells), np.full(first[-1], edges)
        cell[slot] = order[source]
        link[slot] = np.where(edge[source] < 0, edges, edge[source])
        return cls(closed, first[:-1].astype(np.int64), longest.astype(np.int64), cell.astype(np.uint32), link)


class Sweeps:
    """One step of size h of the split backward Euler scheme, ρ ↦ Π_e (1 − hL_e)⁻¹ρ, for any h > 0.

    `edges` gives the pattern; `load` takes the rates of these or of other edges with the same pattern. A leak
    through absorbing walls is shared evenly among the offsets, and as implicit as the rest.
    """

    def __init__(self, edges: Edges) -> None:
        self.cells = edges.leak.size
        self._bundles: list[_Bundles] = []
        self.offsets = len(edges.offsets)
        self._share = 1.0 / self.offsets
        leaking = edges.leak > 0.0
        for begin, end in itertools.pairwise(edges.first.tolist()):
            order, local, starts, closed = _lines(edges.tail[begin:end], edges.head[begin:end], leaking, self.cells)
            edge = np.where(local < 0, -1, begin + local)
            for kind in (False, True):
                of_kind = closed == kind
                if of_kind.any():
                    self._bundles.append(
                        _Bundles.of(kind, order, edge, starts[:-1][of_kind], np.diff(starts)[of_kind],
                                    self.cells, edges.tail.size)
                    )  # fmt: skip
        self._line = np.empty(LANES * max(int(b.length.max()) for b in self._bundles))
        self._factors: dict[float, list[tuple[np.ndarray, ...]]] = {}
        self.load(edges)

    @property
    def slots(self) -> int:
        """Cells of all lines, free lanes included."""
        return sum(b.cell.size for b in self._bundles)

    def load(self, edges: Edges) -> None:
        """Take the rates of `edges`, which join the same cells in the same order."""
        forward, backward = edges.rates()
        self._rates = [tuple(np.empty(bundle.cell.size) for _ in range(3)) for bundle in self._bundles]
        for bundle, rates in zip(self._bundles, self._rates):
            _gather(bundle.edge, bundle.cell, forward, backward, edges.leak, self._share, *rates)
        self._factors.clear()

    def factor(self, h: float) -> None:
        """Prepare steps of size h; done by `step` where it is missing."""
        factors = []
        for bundle, rates in zip(self._bundles, self._rates):
            coefficients = tuple(np.empty(bundle.cell.size) for _ in range(5 if bundle.closed else 3))
            kernel: Any = _factor_closed if bundle.closed else _factor_open
            kernel(bundle.start, bundle.length, *rates, h, *coefficients)
            factors.append(coefficients)
        while len(self._factors) >= _KEPT:
            del self._factors[next(iter(self._factors))]
        self._factors[h] = factors

    def step(self, rho: np.ndarray, h: float) -> None:
        """ρ (cells + 1, the last entry 0; of any sign, as the step is linear) one step of size h on, in place."""
        if h not in self._factors:
            self.factor(h)
        for bundle, coefficients in zip(self._bundles, self._factors[h]):
            kernel: Any = _sweep_closed if bundle.closed else _sweep_open
            kernel(bundle.start, bundle.length, bundle.cell, *coefficients, rho, self._line)


def sweep_cost(edges: Edges, repeats: int = 50, clock: Callable[[], float] = time.perf_counter) -> dict[str, float]:
    """Nanoseconds per cell of one step (the sweeps of all offsets together) and of factoring one step size.

    The least of `repeats` timings; a print of it is one line of a benchmark.
    """
    sweeps = Sweeps(edges)
    rho = np.append(np.full(sweeps.cells, 1.0 / sweeps.cells), 0.0)
    h = 1.0 / float(np.max(edges.rates()))
    timings: dict[str, list[float]] = {"step": [], "factor": []}
    for _ in range(repeats):
        for name, call in (("factor", lambda: sweeps.factor(h)), ("step", lambda: sweeps.step(rho, h))):
            begun = clock()
            call()
            timings[name].append(clock() - begun)
    return {name: 1e9 * min(times) / sweeps.cells for name, times in timings.items()} | {"offsets": sweeps.offsets}
