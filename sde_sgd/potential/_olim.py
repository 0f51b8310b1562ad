"""Ordered line integrals: a front of accepted nodes marches through a grid in the order of the quasi-potential.

Everything is in cells: b_i/h_i, h_i (D⁻¹)_ij h_j, and vectors that are differences of nodes. A grid of fewer than three
axes has one node along the others. Drift and metric lie on a grid twice as fine, which holds every midpoint of two
nodes. A record `w` (12, 3) describes a point x of the front, seen from a node y:

    w[0], w[1], w[2]             b at x, at the midpoint of x and y, at y
    w[3:5], w[5:7], w[7:9]       the metric there: (00, 11, 22) and (01, 02, 12)
    w[9], w[10], w[11, 0]        v = y − x, ∇V(x), V(x) + ½∇V(x)·v

Between points of the front every entry is interpolated linearly: w[11, 0] − ½ w[10]·w[9] is then V on a segment or
triangle of the front, exact where V is quadratic.

Most marches take less time than compiling: all but `march` have no entry from Python, take rows rather than constants,
for which Numba compiles anew, and count no references (`_nrt=False`: the arrays are the caller's), half of a march.
"""

# mypy: disable-error-code="call-overload"
import numba as nb
import numpy as np

FAR, TRIAL, FRONT, DONE = 0, 1, 2, 3
_STEPS, _NEWTON = 30, 12  # at most, on a segment (a dozen are usual) and on a triangle
_NEAR = 1e-5  # in barycentric coordinates, for second derivatives


@nb.njit(error_model="numpy", _nrt=False, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _node(y, offset, axes):
    """Number of the node y + offset; −1 beyond a wall."""
    number = 0
    for k in range(3):
        i = y[k] + offset[k]
        if axes[1, k] == 1:
            i %= axes[0, k]
        if i < 0 or i >= axes[0, k]:
            return -1
        number = number * axes[0, k] + i
    return number


@nb.njit(error_model="numpy", _nrt=False, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _half(y, offset, halves, shift, axes):
    """Number on the fine grid of y + (offset·halves + shift)/2; −1 beyond a wall."""
    number = 0
    for k in range(3):
        n, i = 2 * axes[0, k] - 1 + axes[1, k], 2 * y[k] + halves * offset[k] + shift[k]
        if axes[1, k] == 1:
            i %= n
        if i < 0 or i >= n:
            return -1
        number = number * n + i
    return number


@nb.njit(error_model="numpy", _nrt=False, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _split(number, axes, y):
    y[0], y[1], y[2] = number // axes[0, 2] // axes[0, 1], number // axes[0, 2] % axes[0, 1], number % axes[0, 2]


@nb.njit(error_model="numpy", _nrt=False, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _adjacent(x, y):
    return abs(x[0] - y[0]) <= 1 and abs(x[1] - y[1]) <= 1 and abs(x[2] - y[2]) <= 1


@nb.njit(error_model="numpy", _nrt=False, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _sample(w, q, b, a, m):
    """Drift and metric of the fine grid at m, as the q-th of w."""
    c = m if a.shape[0] > 1 else 0
    for k in range(3):
        w[q, k] = b[m, k]
        w[3 + 2 * q, k] = a[c, k]
        w[4 + 2 * q, k] = a[c, 3 + k]


@nb.njit(error_model="numpy", _nrt=False, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _record(w, y, offset, x, still, u, p, b, a, axes, rule):
    """Fill w for the point x = y + offset of the front."""
    for q in range(3):
        _sample(w, q, b, a, _half(y, offset, 2 - q, still, axes))
    w[11, 0] = u[x]
    for k in range(3):
        w[9, k], w[10, k] = -offset[k], rule[0] * p[x, k]
        w[11, 0] += 0.5 * w[9, k] * w[10, k]


@nb.njit(error_model="numpy", _nrt=False, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _form(diagonal, off, x, y):
    """xᵀAy."""
    total = off[0] * (x[0] * y[1] + x[1] * y[0]) + off[1] * (x[0] * y[2] + x[2] * y[0])
    total += off[2] * (x[1] * y[2] + x[2] * y[1])
    return total + diagonal[0] * x[0] * y[0] + diagonal[1] * x[1] * y[1] + diagonal[2] * x[2] * y[2]


@nb.njit(error_model="numpy", _nrt=False, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _ends(w, d, rule):
    """Weight of each end of a line in its quadrature: 0 (midpoint), or 1/6 (Simpson) where b changes much along it."""
    for k in range(3):
        d[0, k] = w[2, k] - w[0, k]
    change, size = _form(w[5], w[6], d[0], d[0]), _form(w[5], w[6], w[1], w[1])
    return 0.0 if change <= rule[1] ** 2 * size else 1.0 / 6.0


@nb.njit(error_model="numpy", _nrt=False, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _value(w, ends):
    """V at the point of the front and the action ½ ∫ (|b|_A |v|_A − bᵀAv) from there."""
    total = w[11, 0]
    for k in range(3):
        total -= 0.5 * w[10, k] * w[9, k]
    for q in range(3):
        share = 1.0 - 2.0 * ends if q == 1 else ends
        if share > 0.0:
            straight, mixed, b, v = w[3 + 2 * q], w[4 + 2 * q], w[q], w[9]
            size = np.sqrt(_form(straight, mixed, b, b) * _form(straight, mixed, v, v))
            total += 0.5 * share * (size - _form(straight, mixed, b, v))
    return total


@nb.njit(error_model="numpy", _nrt=False, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _slope(w, d, ends):
    """Derivative of `_value` where w changes by d."""
    change = d[11, 0]
    for k in range(3):
        change -= 0.5 * (d[10, k] * w[9, k] + w[10, k] * d[9, k])
    for q in range(3):
        share = 1.0 - 2.0 * ends if q == 1 else ends
        if share == 0.0:
            continue
        bb = vv = bv = d_bb = d_vv = d_bv = 0.0
        for i in range(3):
            ab = av = ab_change = av_change = 0.0  # of A b, A v and of their change by that of A
            for j in range(3):
                row, column = (3 + 2 * q, i) if i == j else (4 + 2 * q, i + j - 1)
                entry, turn = w[row, column], d[row, column]
                ab += entry * w[q, j]
                av += entry * w[9, j]
                ab_change += turn * w[q, j]
                av_change += turn * w[9, j]
            b, v = w[q, i], w[9, i]
            bb += b * ab
            vv += v * av
            bv += b * av
            d_bb += 2 * d[q, i] * ab + b * ab_change
            d_vv += 2 * d[9, i] * av + v * av_change
            d_bv += d[q, i] * av + d[9, i] * ab + b * av_change
        size = np.sqrt(bb * vv)
        change += 0.5 * share * ((0.5 * (d_bb * vv + bb * d_vv) / size if size > 0.0 else 0.0) - d_bv)
    return change


@nb.njit(error_model="numpy", _nrt=False, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _mix(w, w0, d, s, t):
    """w0 + s d[0] + t d[1]"""
    for i in range(12):
        for k in range(3):
            w[i, k] = w0[i, k] + s * d[0, i, k] + t * d[1, i, k]


@nb.njit(error_model="numpy", _nrt=False, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _on_segment(w, w0, d, ends):
    """s in (0, 1) where the value along w0 + s d[0] is least; −1 where that is at an end. Regula falsi, Illinois."""
    low, high, at_low, at_high, side, s = 0.0, 1.0, 0.0, 0.0, 0, 0.0
    for step in range(_STEPS):
        _mix(w, w0, d, s, 0.0)
        here = _slope(w, d[0], ends)
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


@nb.njit(error_model="numpy", _nrt=False, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _on_triangle(w, w0, d, s, ends, g):
    """(s, t) inside the triangle where the value is least, by Newton's method from (s, 0); t = −1 where it is not."""
    t = 0.0
    for step in range(_NEWTON):
        for i in range(3):  # the slopes here, and a little way off along both axes
            _mix(w, w0, d, s + (_NEAR if i == 1 else 0.0), t + (_NEAR if i == 2 else 0.0))
            for j in range(2):
                g[i, j] = _slope(w, d[j], ends)
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


@nb.njit(error_model="numpy", _nrt=False, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _refine(number, y, o, only, neighbours, state, u, p, foot, weight, b, a, axes, rule, work):
    """Improve V(y) by the segments and triangles of the front at y + o[0]; if `only`, those alone that end at o[1]."""
    w, pair, w0, w1, d, g, still = work[0], work[1:3], work[1], work[2], work[3:5], work[5], o[3]
    _record(w0, y, o[0], _node(y, o[0], axes), still, u, p, b, a, axes, rule)
    ends = _ends(w0, w1, rule)
    best, best_s, best_t, best_1, best_2 = u[number], 0.0, 0.0, -1, -1
    for i in range(len(neighbours)):
        inside = True
        for k in range(3):
            o[2, k] = o[0, k] + neighbours[i, k]
            inside = inside and (not only or o[2, k] == o[1, k])
        x1 = _node(y, o[2], axes) if inside else -1
        if x1 < 0 or state[x1] != FRONT or x1 == number:
            continue
        _record(w1, y, o[2], x1, still, u, p, b, a, axes, rule)
        _mix(d[0], w1, pair, -1.0, 0.0)
        edge = _on_segment(w, w0, d, ends)
        if edge < 0.0:
            continue
        for j in range(-1, 0 if axes[0, 2] == 1 else len(neighbours)):
            s, t = edge, 0.0
            if j >= 0:
                if not _adjacent(neighbours[i], neighbours[j]) or j == i or (j < i and not only):
                    continue
                for k in range(3):
                    o[2, k] = o[0, k] + neighbours[j, k]
                x2 = _node(y, o[2], axes)
                if x2 < 0 or state[x2] != FRONT or x2 == number:
                    continue
                _record(w1, y, o[2], x2, still, u, p, b, a, axes, rule)
                _mix(d[1], w1, pair, -1.0, 0.0)
                s, t = _on_triangle(w, w0, d, edge, ends, g)
                if t < 0.0:
                    continue
            _mix(w, w0, d, s, t)
            value = _value(w, ends)
            if value < best:
                best, best_s, best_t, best_1, best_2 = value, s, t, i, j
    if best_1 >= 0:
        u[number], row = best, weight[number]
        row[0], row[1], row[2], row[3] = 1.0 - best_s - best_t, best_s, best_t, ends
        for k in range(3):
            foot[number, 0, k] = o[0, k]
            foot[number, 1, k] = o[0, k] + neighbours[best_1, k]
            foot[number, 2, k] = o[0, k] + neighbours[max(best_2, 0), k]


@nb.njit(error_model="numpy", _nrt=False, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _visit(number, y, i, o, ball, neighbours, best, nearest, state, u, p, foot, weight, b, a, axes, rule, work):
    """Improve V(y) from the front: by what the node y + ball[i], just accepted, adds; if y is new, by all of it."""
    new, improved = state[number] == FAR, False
    for j in range(0 if new else i, len(ball) if new else i + 1):
        x = _node(y, ball[j], axes)
        if x < 0 or state[x] != FRONT:
            continue
        _record(work[0], y, ball[j], x, o[3], u, p, b, a, axes, rule)
        ends = _ends(work[0], work[1], rule)
        value = _value(work[0], ends)
        if value < best[number]:
            improved, best[number], nearest[number] = True, value, j
            if value < u[number]:
                u[number], row = value, weight[number]
                row[0], row[1], row[2], row[3] = 1.0, 0.0, 0.0, ends
                for k in range(3):
                    foot[number, 0, k] = ball[j, k]
    if improved or _adjacent(ball[i], ball[nearest[number]]):
        for k in range(3):
            o[0, k], o[1, k] = ball[nearest[number], k], ball[i, k]
        _refine(number, y, o, not improved, neighbours, state, u, p, foot, weight, b, a, axes, rule, work)


@nb.njit(error_model="numpy", _nrt=False, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _gradient(number, y, o, state, u, p, foot, weight, b, a, axes, rule, work):
    """∇V(y) = ∂F/∂v + ½ (∂F/∂b ∂b + ∂F/∂A ∂A), F the action from the foot of y: its derivative with the foot fixed."""
    w, pair, w1, d, still = work[0], work[1:3], work[2], work[3], o[3]
    w[:] = 0.0
    for i in range(3):
        if weight[number, i] != 0.0:
            for k in range(3):
                o[i, k] = foot[number, i, k]
            _record(w1, y, o[i], _node(y, o[i], axes), still, u, p, b, a, axes, rule)
            _mix(w, w, pair, 0.0, weight[number, i])
    w[10:] = 0.0  # V at the foot is fixed
    for axis in range(3):
        if axes[0, axis] == 1:
            continue
        d[:] = 0.0
        for pick in range(12):
            q, i, side = 1 + pick // 6, pick % 3, 1 if pick % 6 < 3 else -1
            if weight[number, i] != 0.0:
                still[axis] = -side
                other = _half(y, o[i], 2 - q, still, axes)
                still[axis] = side
                here = _half(y, o[i], 2 - q, still, axes)
                still[axis] = 0
                # the midpoint moves half as far as y; beside a wall the difference is one-sided
                factor = 0.5 * q * weight[number, i] * side * (1.0 if here >= 0 and other >= 0 else 2.0)
                _sample(w1, q, b, a, here if here >= 0 else _half(y, o[i], 2 - q, still, axes))
                for k in range(3):
                    d[q, k] += factor * w1[q, k]
                    d[3 + 2 * q, k] += factor * w1[3 + 2 * q, k]
                    d[4 + 2 * q, k] += factor * w1[4 + 2 * q, k]
        d[9, axis] = 1.0
        p[number, axis] = _slope(w, d, weight[number, 3])


@nb.njit(error_model="numpy", _nrt=False, no_cpython_wrapper=True, no_cfunc_wrapper=True)
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


@nb.njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def march(
    starts, ball, neighbours, state, u, p, best, nearest, foot, weight, heap, where, b, a, axes, rule, work, points
):  # fmt: skip
    """Accept nodes in the order of V until one is beside a wall; V there, or ∞ if none is. In place, per node:

    state, u, p (3,)         V and ∇V; at first `starts` are FRONT, all others FAR and ∞
    best, nearest            the best line from a single node: V, ∞ at first, and which of the ball it comes from
    foot (3, 3), weight (4,)   the best line: corners of its foot, their shares; weight of its ends (see `_ends`)
    heap, where              TRIAL nodes, the least first, and where in the heap a node is

    b (M, 3), a (M or 1, 6) on the fine grid; ball: offsets within the update radius, neighbours: the adjacent ones.
    axes (2, 3): nodes, 1 if periodic; rule: 1 for quadratic interpolation or 0, turn of `_ends`; work, points: scratch.
    """
    y, z, o = points[4], points[5], points[:4]
    count, turns, wall = 0, 0, np.inf
    while turns < len(starts) or count > 0:
        x = starts[turns] if turns < len(starts) else heap[0]
        _split(x, axes, y)
        if turns < len(starts):  # the start is a front like any other, accepted beforehand
            turns += 1
        else:
            count -= 1
            heap[0] = heap[count]
            _sift(heap, where, u, count - count, count)  # from 0, as no constant
            _gradient(x, y, o, state, u, p, foot, weight, b, a, axes, rule, work)
            state[x] = FRONT
            for k in range(3):
                if axes[0, k] > 1 and axes[1, k] == 0 and (y[k] == 0 or y[k] == axes[0, k] - 1):
                    wall = u[x]
            if wall < np.inf:
                break
        for i in range(len(neighbours)):  # those that this one was the last to enclose
            other = _node(y, neighbours[i], axes)
            if other >= 0 and state[other] == FRONT:
                _split(other, axes, z)
                state[other] = DONE
                for j in range(len(neighbours)):
                    beside = _node(z, neighbours[j], axes)
                    if beside >= 0 and state[beside] < FRONT:
                        state[other] = FRONT
        for i in range(len(ball)):
            for k in range(3):
                o[0, k] = -ball[i, k]
            other = _node(y, o[0], axes)
            if other < 0 or not (state[other] == TRIAL or (state[other] == FAR and _adjacent(o[0], o[3]))):
                continue
            _split(other, axes, z)
            _visit(other, z, i, o, ball, neighbours, best, nearest, state, u, p, foot, weight, b, a, axes, rule, work)
            if state[other] == FAR:
                state[other] = TRIAL
                where[other], heap[count] = count, other
                count += 1
            _sift(heap, where, u, where[other], count)
    return wall
