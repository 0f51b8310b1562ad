"""Ordered line integrals: a front of accepted nodes marches through a grid in the order of the quasi-potential.

Everything is in cells: b_i/h_i, h_i (D⁻¹)_ij h_j, and vectors that are differences of nodes. A grid of fewer than three
axes has one node along the others. Drift and metric lie on a grid twice as fine, which holds every midpoint of two
nodes. A record `w` (34,) describes a point x of the front, seen from a node y:

    w[0:9], w[9:18], w[18:27]    b (3) and metric (6: 00, 01, 02, 11, 12, 22) at x, at the midpoint of x and y, at y
    w[27:34]                     v = y − x (3), ∇V(x) (3), V(x) + ½∇V(x)·v

Between points of the front every entry is interpolated linearly: w[33] − ½ w[30:33]·w[27:30] is then V on a segment
or triangle of the front, exact where V is quadratic.
"""

import numba as nb
import numpy as np

FAR, TRIAL, FRONT, DONE = 0, 1, 2, 3
_STEPS = 30  # of a root in one variable; a dozen are usual
_NEWTON = 12
_NEAR = 1e-5  # in barycentric coordinates, for second derivatives


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _place(y, o, row, shape, periodic, scale=1, halves=1, axis=0, shift=0):
    """Number of the node y + o[row]; −1 beyond a wall. With scale 2 that, on the fine grid, of y + o[row]·halves/2,
    `shift` half cells further along `axis`.
    """
    number = 0
    for k in range(3):
        n = scale * shape[k] - (0 if periodic[k] else scale - 1)
        i = scale * y[k] + halves * o[row, k] + (shift if k == axis else 0)
        if periodic[k]:
            i %= n
        if not 0 <= i < n:
            return -1
        number = number * n + i
    return number


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _split(number, shape, y):
    y[2] = number % shape[2]
    y[1] = (number // shape[2]) % shape[1]
    y[0] = number // (shape[2] * shape[1])


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _sample(w, q, b, a, m):
    """Drift and metric of the fine grid at m, as the q-th of w."""
    c = m if a.shape[0] > 1 else 0
    for k in range(3):
        w[9 * q + k] = b[m, k]
    for k in range(6):
        w[9 * q + 3 + k] = a[c, k]


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _record(w, y, o, row, x, front, medium):
    """Fill w for the point x = y + o[row] of the front."""
    (_, u, p), (b, a, shape, periodic, quadratic, _) = front, medium
    for q in range(3):
        _sample(w, q, b, a, _place(y, o, row, shape, periodic, 2, 2 - q))
    w[33] = u[x]
    for k in range(3):
        w[27 + k] = -o[row, k]
        w[30 + k] = p[x, k] if quadratic else 0.0
        w[33] += 0.5 * w[30 + k] * w[27 + k]


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _form(a, q, x, i, y, j):
    """xᵀAy with the metric of a's q-th point, x = x[i:i+3], y = y[j:j+3]."""
    total, entry = 0.0, 9 * q + 3
    for k in range(3):
        total += a[entry] * x[i + k] * y[j + k]
        entry += 1
        for l in range(k + 1, 3):
            total += a[entry] * (x[i + k] * y[j + l] + x[i + l] * y[j + k])
            entry += 1
    return total


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _ends(w, d, turn):
    """Weight of each end of a line in its quadrature: 0 (midpoint), or 1/6 (Simpson) where b changes much along it."""
    for k in range(3):
        d[k] = w[18 + k] - w[k]
    return 0.0 if _form(w, 1, d, 0, d, 0) <= turn * turn * _form(w, 1, w, 9, w, 9) else 1.0 / 6.0


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _value(w, ends):
    """V at the point of the front and the action ½ ∫ (|b|_A |v|_A − bᵀAv) from there."""
    total = w[33]
    for k in range(3):
        total -= 0.5 * w[30 + k] * w[27 + k]
    for q in range(3):
        share = 1.0 - 2.0 * ends if q == 1 else ends
        if share > 0.0:
            size = np.sqrt(_form(w, q, w, 9 * q, w, 9 * q) * _form(w, q, w, 27, w, 27))
            total += 0.5 * share * (size - _form(w, q, w, 9 * q, w, 27))
    return total


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _slope(w, d, row, ends):
    """Derivative of `_value` where w changes by d[row]."""
    change = d[row, 33]
    for k in range(3):
        change -= 0.5 * (d[row, 30 + k] * w[27 + k] + w[30 + k] * d[row, 27 + k])
    for q in range(3):
        share = 1.0 - 2.0 * ends if q == 1 else ends
        if share == 0.0:
            continue
        bb = vv = bv = d_bb = d_vv = d_bv = 0.0
        for i in range(3):
            b, v = w[9 * q + i], w[27 + i]
            ab = av = ab_change = av_change = 0.0  # of A b, A v and of their change by that of A
            for j in range(3):
                entry = 9 * q + 3 + (i + j if i == 0 or j == 0 else i + j + 1)
                ab += w[entry] * w[9 * q + j]
                av += w[entry] * w[27 + j]
                ab_change += d[row, entry] * w[9 * q + j]
                av_change += d[row, entry] * w[27 + j]
            bb += b * ab
            vv += v * av
            bv += b * av
            d_bb += 2 * d[row, 9 * q + i] * ab + b * ab_change
            d_vv += 2 * d[row, 27 + i] * av + v * av_change
            d_bv += d[row, 9 * q + i] * av + d[row, 27 + i] * ab + b * av_change
        size = np.sqrt(bb * vv)
        change += 0.5 * share * ((0.5 * (d_bb * vv + bb * d_vv) / size if size > 0.0 else 0.0) - d_bv)
    return change


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _mix(w, w0, d, s, t):
    for k in range(34):
        w[k] = w0[k] + s * d[0, k] + t * d[1, k]


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _on_segment(w, w0, d, ends):
    """s in (0, 1) where the value along w0 + s d[0] is least; −1 where that is at an end. Regula falsi, Illinois."""
    low, high, at_low, at_high, side, s = 0.0, 1.0, 0.0, 0.0, 0, 0.0
    for step in range(_STEPS):
        _mix(w, w0, d, s, 0.0)
        here = _slope(w, d, 0, ends)
        if step == 0:
            if not here < 0.0:
                return -1.0
            at_low, s = here, 1.0
            continue
        if step == 1:
            if not here > 0.0:
                return -1.0
            at_high, scale = here, 1e-7 * (here - at_low)
        elif abs(here) < scale or high - low < 1e-7:
            break
        elif here < 0.0:
            low, at_low = s, here
            if side == -1:
                at_high *= 0.5
            side = -1
        else:
            high, at_high = s, here
            if side == 1:
                at_low *= 0.5
            side = 1
        s = (low * at_high - high * at_low) / (at_high - at_low)
    return s


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _on_triangle(w, w0, d, s, ends):
    """(s, t) inside the triangle where the value is least, by Newton's method from (s, 0); t = −1 where it is not."""
    t, g = 0.0, np.empty((3, 2))
    for step in range(_NEWTON):
        for i in range(3):  # the slopes here, and a little way off along both axes
            _mix(w, w0, d, s + (_NEAR if i == 1 else 0.0), t + (_NEAR if i == 2 else 0.0))
            for j in range(2):
                g[i, j] = _slope(w, d, j, ends)
            if step == 0 and not g[0, 1] < 0.0:  # the edge is best already (Karush, Kuhn & Tucker)
                return s, -1.0
        hss, hst, htt = (g[1, 0] - g[0, 0]) / _NEAR, (g[1, 1] - g[0, 1]) / _NEAR, (g[2, 1] - g[0, 1]) / _NEAR
        determinant = hss * htt - hst * hst
        if not (determinant > 0.0 and hss > 0.0):
            return s, -1.0
        ds, dt = (hst * g[0, 1] - htt * g[0, 0]) / determinant, (hst * g[0, 0] - hss * g[0, 1]) / determinant
        part = 1.0  # of the step, that stays inside
        for share, change in ((s, ds), (t, dt), (1.0 - s - t, -ds - dt)):
            if share + change < 0.0:
                part = min(part, -0.9 * share / change)
        s, t = s + part * ds, t + part * dt
        if part < 1e-3:  # leads out: the least value is on an edge, which has been tried
            return s, -1.0
        if abs(ds) + abs(dt) < 1e-6:
            break
    return s, t


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _adjacent(o, i, q, j):
    return abs(o[i, 0] - q[j, 0]) <= 1 and abs(o[i, 1] - q[j, 1]) <= 1 and abs(o[i, 2] - q[j, 2]) <= 1


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _refine(number, y, o, only, neighbours, front, medium, feet, work):
    """Improve V(y) by the segments and triangles of the front at y + o[0]; if `only`, those alone that end at o[1]."""
    (state, u, _), (foot, weight), (_, _, shape, periodic, _, turn) = front, feet, medium
    w, w0, w1, d = work[0], work[1], work[2], work[3:5]
    _record(w0, y, o, 0, _place(y, o, 0, shape, periodic), front, medium)
    ends = _ends(w0, w1, turn)
    best, best_s, best_t, best_1, best_2 = u[number], 0.0, 0.0, -1, -1
    flat = shape[2] == 1
    for i in range(len(neighbours)):
        inside = True
        for k in range(3):
            o[2, k] = o[0, k] + neighbours[i, k]
            inside = inside and (not only or o[2, k] == o[1, k])
        x1 = _place(y, o, 2, shape, periodic)
        if not inside or x1 < 0 or state[x1] != FRONT or x1 == number:
            continue
        _record(w1, y, o, 2, x1, front, medium)
        for k in range(34):
            d[0, k] = w1[k] - w0[k]
        edge = _on_segment(w, w0, d, ends)
        if edge < 0.0:
            continue
        for j in range(-1, 0 if flat else len(neighbours)):
            s, t = edge, 0.0
            if j >= 0:
                if not _adjacent(neighbours, i, neighbours, j) or j == i or (j < i and not only):
                    continue
                for k in range(3):
                    o[2, k] = o[0, k] + neighbours[j, k]
                x2 = _place(y, o, 2, shape, periodic)
                if x2 < 0 or state[x2] != FRONT or x2 == number:
                    continue
                _record(w1, y, o, 2, x2, front, medium)
                for k in range(34):
                    d[1, k] = w1[k] - w0[k]
                s, t = _on_triangle(w, w0, d, edge, ends)
                if t < 0.0:
                    continue
            _mix(w, w0, d, s, t)
            value = _value(w, ends)
            if value < best:
                best, best_s, best_t, best_1, best_2 = value, s, t, i, j
    if best_1 >= 0:
        u[number] = best
        weight[number, 0], weight[number, 1], weight[number, 2] = best_s, best_t, ends
        for k in range(3):
            foot[number, 0, k] = o[0, k]
            foot[number, 1, k] = o[0, k] + neighbours[best_1, k]
            foot[number, 2, k] = o[0, k] + neighbours[max(best_2, 0), k]


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _visit(number, y, i, o, ball, neighbours, lines, front, medium, feet, work):
    """Improve V(y) from the front: by what the node y + ball[i], just accepted, adds; if y is new, by all of it."""
    (state, u, _), (foot, weight), (best, nearest), (_, _, shape, periodic, _, turn) = front, feet, lines, medium
    new = state[number] == FAR
    improved = False
    for j in range(0 if new else i, len(ball) if new else i + 1):
        x = _place(y, ball, j, shape, periodic)
        if x < 0 or state[x] != FRONT:
            continue
        _record(work[0], y, ball, j, x, front, medium)
        ends = _ends(work[0], work[1], turn)
        value = _value(work[0], ends)
        if value < best[number]:
            improved, best[number], nearest[number] = True, value, j
            if value < u[number]:
                u[number] = value
                weight[number, 0], weight[number, 1], weight[number, 2] = 0.0, 0.0, ends
                for l in range(3):
                    for k in range(3):
                        foot[number, l, k] = ball[j, k]
    if improved or _adjacent(ball, i, ball, nearest[number]):
        for k in range(3):
            o[0, k], o[1, k] = ball[nearest[number], k], ball[i, k]
        _refine(number, y, o, not improved, neighbours, front, medium, feet, work)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _gradient(number, y, o, front, medium, feet, work):
    """∇V(y) = ∂F/∂v + ½ (∂F/∂b ∂b + ∂F/∂A ∂A), F the action from the foot of y: its derivative with the foot fixed."""
    (_, _, p), (foot, weight), (b, a, shape, periodic, _, _) = front, feet, medium
    w, w1, d = work[0], work[1], work[3:5]
    share = (1.0 - weight[number, 0] - weight[number, 1], weight[number, 0], weight[number, 1])
    w[:] = 0.0
    for i in range(3):
        if share[i] != 0.0:
            for k in range(3):
                o[i, k] = foot[number, i, k]
            _record(w1, y, o, i, _place(y, o, i, shape, periodic), front, medium)
            for k in range(30):
                w[k] += share[i] * w1[k]
    for axis in range(3):
        if shape[axis] == 1:
            continue
        d[0, :] = 0.0
        for pick in range(12):
            q, i, side = 1 + pick // 6, pick % 3, 1 if pick % 6 < 3 else -1
            if share[i] != 0.0:
                other = _place(y, o, i, shape, periodic, 2, 2 - q, axis, -side)
                here = _place(y, o, i, shape, periodic, 2, 2 - q, axis, side)
                # the midpoint moves half as far as y; beside a wall the difference is one-sided
                factor = 0.5 * q * share[i] * side * (1.0 if here >= 0 and other >= 0 else 2.0)
                _sample(w1, q, b, a, here if here >= 0 else _place(y, o, i, shape, periodic, 2, 2 - q))
                for k in range(9 * q, 9 * q + 9):
                    d[0, k] += factor * w1[k]
        d[0, 27 + axis] = 1.0
        p[number, axis] = _slope(w, d, 0, weight[number, 2])


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _sift(heap, where, u, i, count):
    """Move heap[i] up or down to its place."""
    number = heap[i]
    while i > 0 and u[heap[(i - 1) // 2]] > u[number]:
        heap[i] = heap[(i - 1) // 2]
        where[heap[i]] = i
        i = (i - 1) // 2
    while 2 * i + 1 < count:
        below = 2 * i + 1
        if below + 1 < count and u[heap[below + 1]] < u[heap[below]]:
            below += 1
        if u[heap[below]] >= u[number]:
            break
        heap[i] = heap[below]
        where[heap[i]] = i
        i = below
    heap[i] = number
    where[number] = i


@nb.njit(cache=True, nogil=True, error_model="numpy")
def march(u, p, b, a, shape, periodic, ball, neighbours, quadratic, turn):
    """V (u) and ∇V (p) from the nodes where u is finite, until a node beside a wall is accepted.

    u (N,), p (N, 3): changed in place; b (M, 3), a (M or 1, 6) on the fine grid; `ball` the offsets within the update
    radius, `neighbours` those of adjacent nodes, which `ball` contains. Returns the states and V at the wall reached
    first, ∞ if none was.
    """
    size, count, turns, wall = u.size, 0, 0, np.inf
    front, medium = (np.zeros(size, np.int8), u, p), (b, a, shape, periodic, quadratic, turn)
    feet = np.zeros((size, 3, 3), np.int16), np.zeros((size, 3))  # of the best line: its ends, and their weights
    lines = np.full(size, np.inf), np.zeros(size, np.int32)  # best from a single node: V, and which of the ball it is
    heap, where, state = np.empty(size, np.int64), np.zeros(size, np.int64), front[0]
    work, y, z, o = np.zeros((5, 34)), np.empty(3, np.int64), np.empty(3, np.int64), np.zeros((3, 3), np.int64)
    starts = np.flatnonzero(np.isfinite(u))
    for x in starts:
        state[x] = FRONT
    while turns < len(starts) or count > 0:
        if turns < len(starts):  # the start is a front like any other, accepted beforehand
            x, turns = starts[turns], turns + 1
            _split(x, shape, y)
        else:
            x = heap[0]
            count -= 1
            heap[0] = heap[count]
            if count > 0:
                _sift(heap, where, u, 0, count)
            _split(x, shape, y)
            _gradient(x, y, o, front, medium, feet, work)
            state[x] = FRONT
            for k in range(3):
                if shape[k] > 1 and not periodic[k] and (y[k] == 0 or y[k] == shape[k] - 1):
                    wall = u[x]
            if wall < np.inf:
                break
        for i in range(len(neighbours)):  # those that this one was the last to enclose
            other = _place(y, neighbours, i, shape, periodic)
            if other >= 0 and state[other] == FRONT:
                _split(other, shape, z)
                outer = 0
                for j in range(len(neighbours)):
                    beside = _place(z, neighbours, j, shape, periodic)
                    outer += beside >= 0 and state[beside] < FRONT
                if outer == 0:
                    state[other] = DONE
        for i in range(len(ball)):
            for k in range(3):
                o[0, k] = -ball[i, k]
            other = _place(y, o, 0, shape, periodic)
            near = abs(ball[i, 0]) <= 1 and abs(ball[i, 1]) <= 1 and abs(ball[i, 2]) <= 1
            if other < 0 or not (state[other] == TRIAL or (near and state[other] == FAR)):
                continue
            _split(other, shape, z)
            before = u[other]
            _visit(other, z, i, o, ball, neighbours, lines, front, medium, feet, work)
            if state[other] == FAR:
                state[other] = TRIAL
                where[other], heap[count] = count, other
                count += 1
            if u[other] < before:
                _sift(heap, where, u, where[other], count)
    return state, wall
