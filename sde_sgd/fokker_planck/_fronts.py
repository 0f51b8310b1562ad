"""Kernels of the elimination: dense fronts of extended numbers, their factors, and the solves that reuse these.

A number is a pair, a float64 mantissa and an int64 binary exponent. An addition aligns the smaller operand with an
exact power of two; mantissas are normalised only when their row and column become the pivot, since until then they
can only grow, by a factor of at most 4 per addition at equal exponent. Elimination never subtracts; only the
source of a solve may have both signs.

The dense work is multifrontal: a front is the pivots of one node of the elimination tree with all later cells they
reach, and, where anything leaks, one more column for the cemetery, the state into which all leaks lead and which is
never eliminated. What remains after a front's pivots are gone is added into the parent's front.
"""

import numba as nb
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

ABSENT = -(1 << 58)  # exponent of an exact zero: below any product of true rates
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
    """The same number with a mantissa of size in [1, 2), or (0, ABSENT)."""
    if mantissa == 0.0:
        return 0.0, np.int64(ABSENT)
    bits = _bits(mantissa)  # type: ignore
    shift = ((bits >> np.int64(52)) & np.int64(0x7FF)) - 1023
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


@nb.njit(nogil=True, error_model="numpy", fastmath={"contract", "reassoc"})
def _dot(a, e, gm, ge, m, x):
    """(m, x) + Σ (a, e)·(gm, ge), normalised; in any order: its error is relative to the sum of the sizes."""
    top = x
    for j in range(a.size):
        top = max(top, e[j] + ge[j])
    total = m * _power_of_two(x - top)
    for j in range(a.size):
        total += a[j] * gm[j] * _power_of_two(e[j] + ge[j] - top)
    return _normalised(total, top)


@nb.njit(nogil=True, error_model="numpy", fastmath={"contract"})
def _eliminate_front(a, e, pivots, rows, col_m, col_e, row_m, row_e, at, exit_m, exit_e, place):
    """Eliminate the first `pivots` states of the dense front (a, e), whose columns are its states, then the cemetery.

    O_ik/s_k, and O_kj/s_k where `rows`, go to the stores from `at`; the exit rates s_k from `place`.
    """
    size, width = a.shape
    row_a = np.empty((_PANEL, width))
    row_x = np.empty((_PANEL, width), np.int64)
    col_a = np.empty((_PANEL, size))
    col_x = np.empty((_PANEL, size), np.int64)
    for first in range(0, pivots, _PANEL):
        last = min(first + _PANEL, pivots)
        for k in range(first, last):
            t = k - first
            top = np.int64(ABSENT)
            for j in range(k + 1, width):
                row_a[t, j], row_x[t, j] = _normalised(a[k, j], e[k, j])
                top = max(top, row_x[t, j])
            total = 0.0
            for j in range(k + 1, width):
                total += row_a[t, j] * _power_of_two(row_x[t, j] - top)
            exit_m[place + k], exit_e[place + k] = _normalised(total, top)
            share = 1.0 if total == 0.0 else total  # a state that nothing leaves: its row and column are zero
            for i in range(k + 1, size):
                m, x = _normalised(a[i, k] / share, e[i, k] - top)
                col_a[t, i] = m
                col_x[t, i] = x
                col_m[at + i - k - 1] = m
                col_e[at + i - k - 1] = x
            if rows:
                for j in range(k + 1, size):
                    row_m[at + j - k - 1], row_e[at + j - k - 1] = _normalised(row_a[t, j] / share, row_x[t, j] - top)
            at += size - k - 1
            for i in range(k + 1, size):
                to = width if i < last else last  # other rows: only what the panel's own pivots will read
                _axpy(a[i, k + 1 : to], e[i, k + 1 : to], col_a[t, i], col_x[t, i],
                      row_a[t, k + 1 : to], row_x[t, k + 1 : to])  # fmt: skip
        for i in range(last, size):
            for t in range(last - first):
                _axpy(a[i, last:], e[i, last:], col_a[t, i], col_x[t, i], row_a[t, last:], row_x[t, last:])
    return at


@nb.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def factor(pointer, neighbour, side, rank, pivots, children, front_pointer, front, largest, peak,
           entries, rate_a, rate_e, leaks, leak_a, leak_e, rows):  # fmt: skip
    """Columns O_ik/s_k, rows O_kj/s_k (empty unless `rows`) in order of elimination, and the exit rates s_k.

    rate[2e] is the rate tail→head of edge e, rate[2e+1] head→tail; leak is one per cell, read only if `leaks`.
    """
    cells = rank.size
    nodes = pivots.size
    extra = 1 if leaks else 0
    work_a, work_e = np.empty(largest * (largest + extra)), np.empty(largest * (largest + extra), np.int64)
    stack_a, stack_e = np.empty(peak), np.empty(peak, np.int64)
    col_m, col_e = np.empty(entries), np.empty(entries, np.int64)
    kept = entries if rows else 0
    row_m, row_e = np.empty(kept), np.empty(kept, np.int64)
    exit_m, exit_e = np.empty(cells), np.empty(cells, np.int64)
    place = np.empty(cells, np.int64)
    waiting = np.empty(nodes + 1, np.int64)
    depth = used = 0
    at = done = np.int64(0)  # typed: a literal would compile the elimination twice
    for q in range(nodes):
        lo, hi = front_pointer[q], front_pointer[q + 1]
        size = hi - lo
        width = size + extra
        a = work_a[: size * width].reshape((size, width))
        e = work_e[: size * width].reshape((size, width))
        a[:] = 0.0
        e[:] = ABSENT
        for s in range(size):
            place[front[lo + s]] = s
        for s in range(pivots[q]):
            c = front[lo + s]
            if leaks:
                a[s, size], e[s, size] = leak_a[c], leak_e[c]
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
            used -= rest * (rest + extra)
            for i in range(rest):
                pi = place[front[begin + i]]
                for j in range(rest + extra):
                    pj = place[front[begin + j]] if j < rest else size
                    m, x = stack_a[used + i * (rest + extra) + j], stack_e[used + i * (rest + extra) + j]
                    d = x - e[pi, pj]
                    up = max(d, np.int64(0))
                    a[pi, pj] = a[pi, pj] * _power_of_two(-up) + m * _power_of_two(d - up)
                    e[pi, pj] += up
        at = _eliminate_front(a, e, pivots[q], rows, col_m, col_e, row_m, row_e, at, exit_m, exit_e, done)
        done += pivots[q]
        for i in range(pivots[q], size):
            for j in range(pivots[q], width):
                stack_a[used] = a[i, j]
                stack_e[used] = e[i, j]
                used += 1
        waiting[depth] = q
        depth += 1
    return col_m, col_e, row_m, row_e, exit_m, exit_e


@nb.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def stationary(pivots, front_pointer, front, largest, cells, col_m, col_e):
    """π per cell from the columns: 1 at the last state of all, then π_k = Σ_i π_i O_ik/s_k backwards."""
    mantissa, exponent = np.zeros(cells), np.empty(cells, np.int64)
    exponent[:] = ABSENT
    local_m, local_e = np.empty(largest), np.empty(largest, np.int64)
    at = col_m.size
    last = True
    for q in range(pivots.size - 1, -1, -1):
        lo = front_pointer[q]
        size = front_pointer[q + 1] - lo
        for s in range(size):
            local_m[s], local_e[s] = mantissa[front[lo + s]], exponent[front[lo + s]]
        for t in range(pivots[q] - 1, -1, -1):
            rest = size - t - 1
            at -= rest
            if last:
                local_m[t], local_e[t] = 1.0, np.int64(0)
                last = False
                continue
            local_m[t], local_e[t] = _dot(
                col_m[at : at + rest], col_e[at : at + rest], local_m[t + 1 : size], local_e[t + 1 : size],
                0.0, np.int64(2 * ABSENT),
            )  # fmt: skip
        for t in range(pivots[q]):
            mantissa[front[lo + t]], exponent[front[lo + t]] = local_m[t], local_e[t]
    return mantissa, exponent


@nb.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def solve(pivots, front_pointer, front, largest, out_m, out_e, in_m, in_e, exit_m, exit_e, mantissa, exponent):
    """Solve in place for one right-hand side, a number per cell: f_i += f_k·out_ki in order of elimination, then
    x_k = f_k/s_k + Σ_i in_ik·x_i backwards.

    With out = rows O_kj/s_k and in = columns O_ik/s_k this is −Lρ = f; with the two exchanged, −Lᵀu = f. Only f has
    signs, so the error of each entry is relative to the solution for |f|, as if both parts of f were solved apart.
    """
    local_m, local_e = np.empty(largest), np.empty(largest, np.int64)
    at = done = 0
    for q in range(pivots.size):
        lo = front_pointer[q]
        size = front_pointer[q + 1] - lo
        for s in range(size):
            local_m[s], local_e[s] = mantissa[front[lo + s]], exponent[front[lo + s]]
        for t in range(pivots[q]):
            rest = size - t - 1
            local_m[t], local_e[t] = _normalised(local_m[t], local_e[t])
            if local_m[t] != 0.0:
                _axpy(local_m[t + 1 : size], local_e[t + 1 : size], local_m[t], local_e[t],
                      out_m[at : at + rest], out_e[at : at + rest])  # fmt: skip
            at += rest
        for s in range(size):
            mantissa[front[lo + s]], exponent[front[lo + s]] = local_m[s], local_e[s]
        done += pivots[q]
    for q in range(pivots.size - 1, -1, -1):
        lo = front_pointer[q]
        size = front_pointer[q + 1] - lo
        for s in range(size):
            local_m[s], local_e[s] = mantissa[front[lo + s]], exponent[front[lo + s]]
        done -= pivots[q]
        for t in range(pivots[q] - 1, -1, -1):
            rest = size - t - 1
            at -= rest
            m, x = _normalised(local_m[t] / exit_m[done + t], local_e[t] - exit_e[done + t])
            local_m[t], local_e[t] = _dot(
                in_m[at : at + rest], in_e[at : at + rest], local_m[t + 1 : size], local_e[t + 1 : size], m, x
            )
        for t in range(pivots[q]):
            mantissa[front[lo + t]], exponent[front[lo + t]] = local_m[t], local_e[t]


@nb.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def exits(tail, head, index, rate_a, rate_e, leak_a, leak_e):
    """Add to the leak of each kept cell (index ≥ 0) its rates into cells that are not kept, in place."""
    for n in range(tail.size):
        t, h = index[tail[n]], index[head[n]]
        if (t >= 0) != (h >= 0):
            c = max(t, h)
            r = 2 * n if t >= 0 else 2 * n + 1
            d = rate_e[r] - leak_e[c]
            up = max(d, np.int64(0))
            leak_a[c] = leak_a[c] * _power_of_two(-up) + rate_a[r] * _power_of_two(d - up)
            leak_e[c] += up
