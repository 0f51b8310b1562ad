"""A closed orbit and what is known of it."""

from dataclasses import dataclass

import numpy as np

from ._field import Field
from ._floquet import log_multipliers, transverse_blocks, trivial_multiplier
from ._flow import flow
from ._shooting import FINE, Shot, short_segments

HYPERBOLIC = 1e-5  # a multiplier nearer to the unit circle says nothing about stability


@dataclass(frozen=True)
class Cycle:
    """A periodic orbit of ẋ = v(x).

    period : T. points : (n, d), x(0), x(T/n), …, equally spaced in time; periodic axes are wrapped into the box.
    multipliers : (d − 1,) complex Floquet multipliers across the orbit, descending modulus; the one of the flow
        direction, 1, is not among them. lyapunov_exponents : (d − 1,) log|μ|/T, also where μ is 0 or infinite
        in floating point.
    trivial_error : |μ₀ − 1| of the multiplier belonging to v(x) itself, computed like the others, or the largest such
        error of a segment if that is more: the quality of the derivatives. residual : the largest gap of a segment in
        units of the box.
    kind : "stable", "unstable" (every μ outside the unit circle), "saddle", "non-hyperbolic" (some |μ| within 1e-5 of
        1, and alone: a fold of cycles), or "centre": one of a continuum of closed orbits, numbered by `family`.
    winding : whole turns along each axis in one period, 0 on one that is not periodic.
    length : of the orbit. area : in the plane ½∮(x dy − y dx), positive counter-clockwise; None otherwise.
    """

    period: float
    points: np.ndarray
    multipliers: np.ndarray
    lyapunov_exponents: np.ndarray
    trivial_error: float
    residual: float
    kind: str
    winding: tuple[int, ...]
    length: float
    area: float | None
    variables: tuple[str, ...]
    family: int | None = None

    @property
    def stable(self) -> bool:
        """True where every multiplier is inside the unit circle."""
        return self.kind == "stable"

    def __repr__(self) -> str:
        family = "" if self.family is None else f", family {self.family}"
        return f"<Cycle {self.kind}, period {self.period:.8g}, length {self.length:.4g}{family}>"


def make_cycle(v: Field, unit: Field, shot: Shot, points: int, family: int | None = None) -> Cycle:
    """The record of an orbit of v found in units of the box, `unit` being v in those."""
    low, width = v.lower, v.upper - v.lower
    at, matrices = short_segments(unit, shot)
    velocity = unit.value(at)
    blocks, _ = transverse_blocks(velocity, matrices)
    logs = log_multipliers(blocks)
    trivial, worst = trivial_multiplier(velocity, matrices)
    with np.errstate(under="ignore", over="ignore"):
        multipliers = np.exp(logs)
    curve, ends = _sample(unit, shot, points)
    winding = np.round((ends - curve[0]) * np.isfinite(unit.domain.period)).astype(int)
    curve = low + curve * width
    length, area = _measures(v, shot)
    return Cycle(
        shot.period,
        v.wrap(curve),
        multipliers,
        logs.real / shot.period,
        max(abs(trivial - 1), worst),
        shot.residual,
        "centre" if family is not None else _kind(logs),
        tuple(int(k) for k in winding),
        length,
        area if v.dim == 2 and not winding.any() else None,
        v.variables,
        family,
    )


def _kind(logs: np.ndarray) -> str:
    if not len(logs):
        return "stable"  # a turn of a circle: there is nothing across it
    if (np.abs(logs.real) <= HYPERBOLIC).any():
        return "non-hyperbolic"
    if (logs.real < 0).all():
        return "stable"
    return "unstable" if (logs.real > 0).all() else "saddle"


def _sample(unit: Field, shot: Shot, points: int) -> tuple[np.ndarray, np.ndarray]:
    """Points equally spaced in time (points, d), unwrapped, and where the orbit ends."""
    m, ones = len(shot.nodes), np.ones(unit.dim)
    times = np.arange(points) * m / points
    which = np.floor(times + 1e-12).astype(int)
    part = np.maximum(times - which, 0.0)
    rank = np.arange(points) - np.searchsorted(which, which)  # the how manieth of its segment
    ends = flow(unit.value, shot.nodes, np.full(m, shot.period / m), ones, FINE)
    # Nodes are continuous up to whole turns of periodic axes.
    jumps = np.round((ends - np.roll(shot.nodes, -1, axis=0)) * np.isfinite(unit.domain.period))
    base = np.concatenate([np.zeros((1, unit.dim)), np.cumsum(jumps, axis=0)[:-1]])
    result, x, at = np.empty((points, unit.dim)), shot.nodes.copy(), np.zeros(m)
    for k in range(int(rank.max()) + 1):
        rows = np.flatnonzero(rank == k)
        some = which[rows]
        x[some] = flow(unit.value, x[some], (part[rows] - at[some]) * shot.period / m, ones, FINE)
        at[some] = part[rows]
        result[rows] = x[some] + base[some]
    return result, ends[-1] + base[-1]


def _measures(v: Field, shot: Shot) -> tuple[float, float]:
    """∮|dx| and ½∮(x dy − y dx), integrated along with the orbit."""
    low, width, d = v.lower, v.upper - v.lower, v.dim
    x = low + shot.nodes * width
    middle = x.mean(0)

    def rhs(state: np.ndarray) -> np.ndarray:
        speed = v.value(state[:, :d])
        away = state[:, :d] - middle
        swept = 0.5 * (away[:, 0] * speed[:, 1] - away[:, 1] * speed[:, 0]) if d == 2 else 0.0 * speed[:, 0]
        return np.concatenate([speed, np.linalg.norm(speed, axis=-1)[:, None], swept[:, None]], axis=1)

    m, size = len(x), float(np.linalg.norm(width))
    state = np.concatenate([x, np.zeros((m, 2))], axis=1)
    scale = np.array([*width, size, size**2])
    length, area = flow(rhs, state, np.full(m, shot.period / m), scale, 1e-11)[:, d:].sum(0)
    return float(length), float(area)
