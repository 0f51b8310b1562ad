"""Closed orbits by Newton's method: many at once from rough guesses, then one at a time to rounding.

Everything is in units of the box.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sde_sgd.errors import NotConverged

from ._field import Field
from ._floquet import transverse_frames
from ._flow import flow, flow_and_derivative, spread

ROUGH, FINE = 1e-9, 1e-12  # tolerances of the integrator
SETTLED = 1e-6  # of the orbit: a last Newton step below has found a root, whatever its multiplicity
SMALLEST = 1e-4  # of the box: an orbit smaller than this is a fixed point for all we know


@dataclass
class Closed:
    """Closed orbits of a batch: a point (n, d), the time (n,), and ∂φ_T/∂x (n, d, d) in the sense of `sign`."""

    x: np.ndarray
    period: np.ndarray
    monodromy: np.ndarray
    sign: np.ndarray
    extent: np.ndarray
    found: np.ndarray  # (n,) truth values


def newton(
    v: Field, x: np.ndarray, period: np.ndarray, sign: np.ndarray, extent: np.ndarray, most: np.ndarray
) -> Closed:
    """φ_T(x) = x with ⟨v(x_old), x − x_old⟩ = 0, from every guess at once.

    `most` (n,): steps of the integrator a period may take. A weak focus passes no such test: there each step takes a
    fixed part of the radius, however small the residual.
    """
    x, period, d = x.copy(), period.copy(), v.dim
    first, wide = period.copy(), extent.copy()
    found, monodromy = np.zeros(len(x), bool), np.zeros((len(x), d, d))
    ones, live = np.ones(d), np.arange(len(x))
    last = np.full(len(x), np.inf)
    for _ in range(16):
        end, m = flow_and_derivative(v.value, v.jacobian, x[live], sign[live] * period[live], ones, ROUGH, most[live])
        here, there = (v.value(p) * sign[live, None] for p in (x[live], end))
        system = np.zeros((len(live), d + 1, d + 1))
        system[:, :d, :d], system[:, :d, d], system[:, d, :d] = m - np.eye(d), there, here
        # The columns are lengths and a time: the time is counted in lengths of the orbit per period.
        speed = wide[live] / period[live]
        system[:, :d, d] /= speed[:, None]
        system[:, d, :d] /= np.maximum(np.linalg.norm(here, axis=-1), 1e-300)[:, None]
        rhs = np.concatenate([-v.gap(end - x[live]), np.zeros((len(live), 1))], axis=1)
        fine = np.isfinite(system).all((-1, -2)) & np.isfinite(rhs).all(-1)
        live, system, rhs, m, speed = live[fine], system[fine], rhs[fine], m[fine], speed[fine]
        if not len(live):
            break
        step = (np.linalg.pinv(system, rcond=1e-9) @ rhs[..., None])[..., 0]
        reach = np.linalg.norm(step, axis=-1) / wide[live]
        residual = np.linalg.norm(rhs, axis=-1) / wide[live]
        good = (reach <= SETTLED) & (residual <= 1e-7)
        monodromy[live] = m
        step *= np.minimum(1.0, 0.2 / np.maximum(reach, 1e-300))[:, None]
        x[live] += step[:, :d]
        period[live] += step[:, d] / speed
        # Converged, and no longer getting better.
        found[live] = good & ((reach <= 1e-8) | (reach >= 0.5 * last[live]))
        last[live] = reach
        sane = (period[live] > 0.3 * first[live]) & (period[live] < 3 * first[live]) & v.inside(x[live], 1.0)
        live = live[sane & ~found[live]]
        if not len(live):
            break
    found |= last <= SETTLED
    x[~found], period[~found] = np.nan, np.nan
    some = np.flatnonzero(found)
    wide[some] = _extent(v, x[some], period[some], sign[some])
    found[some] = wide[some] >= SMALLEST * np.sqrt(d)
    period[some] = primitive(v, x[some], period[some], sign[some], wide[some])
    return Closed(x, period, monodromy, sign, wide, found)


def _extent(v: Field, x: np.ndarray, period: np.ndarray, sign: np.ndarray) -> np.ndarray:
    far, point = np.zeros(len(x)), x
    for _ in range(12):
        point = flow(v.value, point, sign * period / 12, np.ones(v.dim), ROUGH)
        far = np.maximum(far, np.linalg.norm(point - x, axis=-1))
    return far


def primitive(
    v: Field, x: np.ndarray, period: np.ndarray, sign: np.ndarray, extent: np.ndarray, closure: float = SETTLED
) -> np.ndarray:
    """The shortest time of return, to `closure` of the width: the period found may be a multiple of it."""
    period = period.copy()
    for k in (2, 2, 2, 3, 5, 7):
        back = flow(v.value, x, sign * period / k, np.ones(v.dim), ROUGH)
        again = np.linalg.norm(v.gap(back - x), axis=-1) <= closure * extent
        period[again] /= k
    return period


def return_gap(v: Field, x: np.ndarray, period: np.ndarray, sign: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far from x the orbit crosses the plane across v(x) after about a period, and when: (n,), (n,)."""
    here, time = v.value(x) * sign[:, None], period.copy()
    end = flow(v.value, x, sign * time, np.ones(v.dim), FINE, 400)
    for _ in range(8):
        there = v.value(end) * sign[:, None]
        with np.errstate(all="ignore"):
            late = (v.gap(end - x) * here).sum(-1) / (there * here).sum(-1)
        late = np.clip(np.nan_to_num(late), -0.1 * period, 0.1 * period)
        if (np.abs(late) <= 1e-13 * period).all():
            break
        end, time = flow(v.value, end, -sign * late, np.ones(v.dim), FINE, 400), time - late
    return np.linalg.norm(v.gap(end - x), axis=-1), time


def in_family(v: Field, orbits: Closed, closure: float) -> np.ndarray:
    """True where the neighbours of an orbit close as well, to `closure` of their distance from it.

    Neighbours on either side, in the direction of the multiplier nearest 1, a fiftieth of the width off; nearer ones
    where that is beyond the rim of the family, as beside a separatrix.
    """
    if v.dim < 2:
        return np.zeros(len(orbits.x), bool)
    frames = transverse_frames(v.value(orbits.x))
    blocks = np.swapaxes(frames, -1, -2) @ orbits.monodromy @ frames
    values, vectors = np.linalg.eig(blocks)
    near = np.abs(values - 1).argmin(-1)
    rows = np.arange(len(near))
    maybe = np.abs(values[rows, near] - 1) <= max(1e-3, 10 * closure)
    along = (frames @ vectors[rows, :, near].real[..., None])[..., 0]
    along /= np.maximum(np.linalg.norm(along, axis=-1, keepdims=True), 1e-300)
    inside = np.zeros(len(near), bool)
    for reach, side in itertools.product((0.02, 2e-3, 2e-4, 2e-5), (-1, 1)):
        some = np.flatnonzero(maybe & ~inside)
        if len(some):
            delta = reach * orbits.extent[some]
            x = orbits.x[some] + side * delta[:, None] * along[some]
            gap, _ = return_gap(v, x, orbits.period[some], orbits.sign[some])
            inside[some] = gap <= closure * delta + 3 * FINE  # NaN is no return
    return inside


def curves(v: Field, orbits: Closed, samples: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """Points of each orbit at equal distances along it (n, samples, d), in the order of `sign`; the lengths (n,).

    Where an orbit was found it attracts: followed in that direction of time, it is not left.
    """
    n, d = orbits.x.shape

    def timed(state: np.ndarray) -> np.ndarray:
        speed = v.value(state[:, :d])
        return np.concatenate([speed, np.linalg.norm(speed, axis=-1)[:, None]], axis=1)

    state = np.concatenate([orbits.x, np.zeros((n, 1))], axis=1)
    length = np.abs(flow(timed, state, orbits.sign * orbits.period, np.ones(d + 1), ROUGH)[:, d])
    return spread(along(v), orbits.x, orbits.sign * length, samples, ROUGH), length


def along(v: Field) -> Callable[[np.ndarray], np.ndarray]:
    """v/|v|: the same orbits, in their length."""

    def direction(x: np.ndarray) -> np.ndarray:
        speed = v.value(x)
        return speed / np.maximum(np.linalg.norm(speed, axis=-1, keepdims=True), 1e-300)

    return direction


@dataclass
class Shot:
    """An orbit in segments of equal time: starts (m, d), the period, the derivatives (m, d, d), what is left over."""

    nodes: np.ndarray
    period: float
    matrices: np.ndarray
    residual: float


def segments_for(v: Field, x: np.ndarray, period: float, sign: float) -> np.ndarray:
    """Points of the orbit at equal times, as many as keep what a segment multiplies small: (m, d), 8 ≤ m ≤ 64."""
    points = spread(v.value, x[None], np.array([sign * period]), 64, FINE)[0]
    if not np.isfinite(points).all():
        raise NotConverged(f"the orbit through {tuple(x.tolist())} runs away within {period:.6g}; start closer to it")
    growth = period * np.linalg.norm(v.jacobian(points), 2, axis=(-1, -2)).max()
    m = next((m for m in (8, 16, 32) if growth / m <= 4), 64)
    points = points[:: 64 // m]
    return points if sign > 0 else np.roll(points[::-1], 1, axis=0)


def short_segments(v: Field, shot: Shot) -> tuple[np.ndarray, np.ndarray]:
    """Points (M, d) and derivatives (M, d, d) of segments so short that none multiplies by much more than e⁴.

    Over a longer one, what contracts across a stiff orbit falls below the tolerance of what does not.
    """
    m, d = shot.nodes.shape
    points = spread(v.value, shot.nodes, np.full(m, shot.period / m), 4, FINE).reshape(4 * m, d)
    growth = shot.period * np.linalg.norm(v.jacobian(points), 2, axis=(-1, -2)).max()
    most = 8192 if d <= 2 else 512 // (d - 1)  # beyond the plane a matrix of that size has to be solved
    k = 1
    while growth > 4 * m * k and 2 * m * k <= most:
        k *= 2
    if k == 1:
        return shot.nodes, shot.matrices
    span = np.full(m, shot.period / m)
    points = spread(v.value, shot.nodes, span, k, FINE).reshape(m * k, d)
    _, matrices = flow_and_derivative(v.value, v.jacobian, points, np.repeat(span / k, k), np.ones(d), FINE)
    return points, matrices


def one_turn(v: Field, nodes: np.ndarray, period: float) -> Shot:
    """An orbit taken as it is, with what it misses itself by."""
    m, d = nodes.shape
    end, matrices = flow_and_derivative(v.value, v.jacobian, nodes, np.full(m, period / m), np.ones(d), FINE)
    return Shot(nodes, period, matrices, float(np.abs(v.gap(np.roll(nodes, -1, axis=0) - end)).max()))


def multiple_shooting(v: Field, nodes: np.ndarray, period: float, *, tolerance: float, polish: int = 12) -> Shot:
    """φ_{T/m}(x_i) = x_{i+1} for all i, to rounding; raises NotConverged where Newton's steps do not get below 1e-6."""
    m, d = nodes.shape
    n, best, ones = m * d, np.inf, np.ones(d)
    nodes, wide = nodes.copy(), np.linalg.norm(np.ptp(nodes, axis=0))
    result: Shot | None = None
    for _ in range(polish):
        end, matrices = flow_and_derivative(v.value, v.jacobian, nodes, np.full(m, period / m), ones, FINE)
        rest = v.gap(np.roll(nodes, -1, axis=0) - end)
        residual = float(np.abs(rest).max())
        if not np.isfinite(matrices).all():
            break
        system = np.zeros((n + 1, n + 1))
        for i in range(m):
            rows, after = slice(i * d, i * d + d), ((i + 1) % m) * d
            system[rows, rows] = matrices[i]
            system[rows, after : after + d] -= np.eye(d)
        there = v.value(end)
        system[:n, n] = (there * period / m).ravel()  # of the relative change of the period
        system[n, :d] = (start := v.value(nodes[:1])[0]) / np.linalg.norm(start)
        step = np.linalg.lstsq(system, np.append(rest.ravel(), 0.0), rcond=1e-11)[0]
        size = float(np.linalg.norm(step[:n].reshape(m, d), axis=-1).max() / wide)
        if size < best or result is None:
            result, best = Shot(nodes.copy(), period, matrices, residual), size
        if size <= 1e-13 or (best <= tolerance and size > 0.5 * best and size != best):
            break
        nodes += step[:n].reshape(m, d)
        period *= 1 + float(np.clip(step[n], -0.2, 0.2))
    if result is None or best > tolerance:
        raise NotConverged(
            f"a closed orbit of period about {period:g} was not closed further than {best:.1e} of its width; "
            "start from a better point, or split the box"
        )
    return result
