"""Stationary distribution of a Markov chain by subtraction-free elimination in extended range.

Grassmann, Taksar & Heyman (1985, Oper. Res. 33): with O_ij the rate i→j, eliminating state k does

    s_k = Σ_{j remaining} O_kj,    O_ij ← O_ij + O_ik O_kj / s_k,    and backwards  π_k = Σ_i π_i O_ik / s_k.

Only sums, products and quotients of positive numbers occur, so every π_k is right to rounding *relative to
itself* (O'Cinneide 1993, Numer. Math. 65), however small it is. To make "however small" literal, a number
is a pair: a float64 mantissa and an int64 binary exponent. An addition aligns the smaller operand with an
exact power of two; mantissas are normalised only when their row and column become the pivot, since until
then they can only grow, by a factor of at most 4 per addition at equal exponent.

The dense work is multifrontal: a front is the pivots of one node of the elimination tree with all later
cells they reach; what remains after its pivots are gone is added into the parent's front.
"""

import numba as nb
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

from ._dissection import Dissection

_ABSENT = -(1 << 58)  # exponent of an exact zero: below any product of true rates
_PANEL = 24  # pivots whose updates are applied together, while a row of the front stays in cache


@intrinsic
def _bits(typing, value):
    """The 64 bits of a float64 as an int64."""

    def build(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType(64))

    return nb.int64(nb.float64), build


@intrinsic
def _from_bits(typing, value):
    """The float64 that has the 64 bits of an int64."""

    def build(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.DoubleType())

    return nb.float64(nb.int64), build


@nb.njit(inline="always", error_model="numpy")
def _power_of_two(d):
    """2**d for d ≤ 0, exactly; 0 below the normal range, where it no longer moves a sum."""
    return _from_bits((1023 + max(d, np.int64(-1023))) << np.int64(52))  # type: ignore[call-arg]


@nb.njit(inline="always", error_model="numpy")
def _normalised(mantissa, exponent):
    """The same number with mantissa in [1, 2), or (0, _ABSENT)."""
    if mantissa == 0.0:
        return 0.0, np.int64(_ABSENT)
    bits = _bits(mantissa)  # type: ignore
    shift = (bits >> np.int64(52)) - 1023
    return _from_bits(bits - (shift << np.int64(52))), exponent + shift  # type: ignore[call-arg]


@nb.njit(nogil=True, error_model="numpy", fastmath={"contract"})
def _axpy(a, e, fm, fe, gm, ge):
    """(a, e) += (fm, fe)·(gm, ge) over a stretch of a row: 0.5 ns per element, as no branch or index check
    stands in the way of vectorisation (which is why the arguments are slices and the range starts at 0)."""
    for j in range(a.size):
        d = fe + ge[j] - e[j]
        up = max(d, np.int64(0))
        a[j] = a[j] * _power_of_two(-up) + fm * gm[j] * _power_of_two(d - up)
        e[j] += up


@nb.njit(nogil=True, error_model="numpy", fastmath={"contract"})
def _eliminate_front(a, e, pivots, store_a, store_e, at):
    """Eliminate the first `pivots` states of the dense front (a, e); O_ik/s_k go to the store from `at`."""
    size = a.shape[0]
    row_a = np.empty((_PANEL, size))
    row_e = np.empty((_PANEL, size), np.int64)
    col_a = np.empty((_PANEL, size))
    col_e = np.empty((_PANEL, size), np.int64)
    for first in range(0, pivots, _PANEL):
        last = min(first + _PANEL, pivots)
        for k in range(first, last):
            t = k - first
            top = np.int64(_ABSENT)
            for j in range(k + 1, size):
                row_a[t, j], row_e[t, j] = _normalised(a[k, j], e[k, j])
                top = max(top, row_e[t, j])
            total = 0.0
            for j in range(k + 1, size):
                total += row_a[t, j] * _power_of_two(row_e[t, j] - top)
            for i in range(k + 1, size):
                m, x = _normalised(a[i, k] / total, e[i, k] - top)
                col_a[t, i] = m
                col_e[t, i] = x
                store_a[at] = m
                store_e[at] = x
                at += 1
            for i in range(k + 1, size):
                to = size if i < last else last  # other rows: only what the panel's own pivots will read
                _axpy(a[i, k + 1 : to], e[i, k + 1 : to], col_a[t, i], col_e[t, i],
                      row_a[t, k + 1 : to], row_e[t, k + 1 : to])  # fmt: skip
        for i in range(last, size):
            for t in range(last - first):
                _axpy(a[i, last:], e[i, last:], col_a[t, i], col_e[t, i], row_a[t, last:], row_e[t, last:])
    return at


@nb.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _stationary(pointer, neighbour, side, rank, pivots, children, front_pointer, front, largest, peak,
                entries, rate_a, rate_e):  # fmt: skip
    """π as (mantissa, exponent) per cell. rate[2e] is the rate tail→head of edge e, rate[2e+1] head→tail."""
    cells = rank.size
    nodes = pivots.size
    work_a, work_e = np.empty(largest * largest), np.empty(largest * largest, np.int64)
    stack_a, stack_e = np.empty(peak), np.empty(peak, np.int64)
    store_a, store_e = np.empty(entries), np.empty(entries, np.int64)
    place = np.empty(cells, np.int64)
    waiting = np.empty(nodes + 1, np.int64)
    depth = used = at = 0
    for q in range(nodes):
        lo, hi = front_pointer[q], front_pointer[q + 1]
        size = hi - lo
        a = work_a[: size * size].reshape((size, size))
        e = work_e[: size * size].reshape((size, size))
        a[:] = 0.0
        e[:] = _ABSENT
        for s in range(size):
            place[front[lo + s]] = s
        for s in range(pivots[q]):
            c = front[lo + s]
            for n in range(pointer[c], pointer[c + 1]):
                y = neighbour[n]
                if rank[y] > rank[c]:
                    p = place[y]
                    a[s, p], e[s, p] = rate_a[side[n]], rate_e[side[n]]
                    a[p, s], e[p, s] = rate_a[side[n] ^ 1], rate_e[side[n] ^ 1]
        for _ in range(children[q]):
            depth -= 1
            c = waiting[depth]
            begin = front_pointer[c] + pivots[c]
            rest = front_pointer[c + 1] - begin
            used -= rest * rest
            for i in range(rest):
                pi = place[front[begin + i]]
                for j in range(rest):
                    pj = place[front[begin + j]]
                    m, x = stack_a[used + i * rest + j], stack_e[used + i * rest + j]
                    d = x - e[pi, pj]
                    up = max(d, np.int64(0))
                    a[pi, pj] = a[pi, pj] * _power_of_two(-up) + m * _power_of_two(d - up)
                    e[pi, pj] += up
        at = _eliminate_front(a, e, pivots[q], store_a, store_e, at)
        for i in range(pivots[q], size):
            for j in range(pivots[q], size):
                stack_a[used] = a[i, j]
                stack_e[used] = e[i, j]
                used += 1
        waiting[depth] = q
        depth += 1

    mantissa, exponent = np.empty(cells), np.empty(cells, np.int64)
    for q in range(nodes - 1, -1, -1):
        lo = front_pointer[q]
        size = front_pointer[q + 1] - lo
        for t in range(pivots[q] - 1, -1, -1):
            rest = size - t - 1
            at -= rest
            if rest == 0:  # the last state of all
                mantissa[front[lo + t]], exponent[front[lo + t]] = 1.0, 0
                continue
            top = np.int64(2 * _ABSENT)
            for s in range(rest):
                top = max(top, exponent[front[lo + t + 1 + s]] + store_e[at + s])
            total = 0.0
            for s in range(rest):
                c = front[lo + t + 1 + s]
                total += mantissa[c] * store_a[at + s] * _power_of_two(exponent[c] + store_e[at + s] - top)
            mantissa[front[lo + t]], exponent[front[lo + t]] = _normalised(total, top)
    return mantissa, exponent


def log_stationary(tree: Dissection, rate_mantissa: np.ndarray, rate_exponent: np.ndarray) -> np.ndarray:
    """log π up to a constant, for the chain whose graph `tree` dissects.

    rate[2e] is the rate tail→head of edge e and rate[2e+1] the rate head→tail, each mantissa·2**exponent
    and positive. The graph must be connected (the caller checks): otherwise π is not unique.
    """
    mantissa, exponent = _stationary(
        tree.pointer, tree.neighbour, tree.side, tree.rank, tree.pivots, tree.children, tree.front_pointer,
        tree.front, tree.largest_front, tree.peak_stack, tree.factor_entries, rate_mantissa, rate_exponent,
    )  # fmt: skip
    return np.log(mantissa) + exponent * np.log(2.0)
