"""Following a curve of solutions F(u) = 0, F: R^(n+1) → R^n, by pseudo-arclength (Keller 1977)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq, root

from sde_sgd.errors import NotConverged

Residual = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]  # u ↦ F(u) (n,), ∂F/∂u (n, n + 1)


@dataclass
class Point:
    """A solution u, the unit tangent t of the curve there, and its length along the curve."""

    u: np.ndarray
    t: np.ndarray
    s: float


def correct(equations: Residual, guess: np.ndarray, direction: np.ndarray, tolerance: float = 1e-13) -> np.ndarray:
    """F(u) = 0 on the plane ⟨direction, u − guess⟩ = 0, by Newton's method."""
    u, last = guess.copy(), np.inf
    for _ in range(12):
        f, j = equations(u)
        system = np.vstack([j, direction])
        rest = np.append(-f, -direction @ (u - guess))
        if not (np.isfinite(system).all() and np.isfinite(rest).all()):
            break
        step = np.linalg.lstsq(system, rest, rcond=1e-14)[0]
        size = float(np.linalg.norm(step))
        u = u + step
        if size <= tolerance or (size <= 1e-8 and size >= 0.5 * last):
            return u
        last = size
    raise NotConverged(f"the curve was lost at {np.round(guess, 6).tolist()}: Newton's method does not converge")


def tangent(equations: Residual, u: np.ndarray, like: np.ndarray) -> np.ndarray:
    """The unit null vector of ∂F/∂u nearest to the direction `like`."""
    _, j = equations(u)
    _, values, rows = np.linalg.svd(j)
    null = rows[-1]
    if len(values) and values[-1] <= 1e-7 * values[0]:  # a branch point: two null vectors
        plane = rows[-2:]
        null = plane.T @ (plane @ like)
        null /= np.linalg.norm(null)
    return null if null @ like >= 0 else -null


def follow(
    equations: Residual,
    start: Point,
    inside: Callable[[np.ndarray], bool],
    *,
    step: float,
    smallest: float,
    most: int,
    sane: Callable[[np.ndarray], bool] | None = None,
    renew: Callable[[np.ndarray], None] | None = None,
) -> tuple[list[Point], str]:
    """Points along the curve from `start` in the direction of its tangent, and why they end.

    "outside": `inside` fails at the last; "closed": the last is the first; "step": the curve was lost; "most".
    The step halves where the tangent turns by more than 0.2, Newton fails, or the point reached is not `sane`, and
    grows by half where it turns by less than 0.05. `renew` is told of every point reached.
    """
    points, h = [start], step
    while len(points) <= most:
        here = points[-1]
        try:
            u = correct(equations, here.u + h * here.t, here.t)
            t = tangent(equations, u, here.t)
            turn = np.arccos(np.clip(t @ here.t, -1, 1))
            if turn > 0.2 or np.linalg.norm(u - here.u) > 2 * h or (sane is not None and not sane(u)):
                raise NotConverged("the curve turns too fast for the step")
        except NotConverged:
            h /= 2
            if h < smallest:
                return points, "step"
            continue
        points.append(Point(u, t, here.s + h))
        if renew is not None:
            renew(u)
        if not inside(u):
            return points, "outside"
        if len(points) > 5 and np.linalg.norm(u - start.u) < 0.6 * h and t @ start.t > 0.5:
            if (start.u - u) @ t <= 0:  # overshot
                points.pop()
            length = points[-1].s + float(np.linalg.norm(start.u - points[-1].u))
            return [*points, Point(start.u, start.t, length)], "closed"
        if turn < 0.05:
            h = min(1.5 * h, step)
    return points, "most"


def sign_changes(values: Sequence[float]) -> list[tuple[int, int]]:
    """Neighbours of opposite sign, or with one exact 0 between; a value that stays 0 changes nothing."""
    sign = np.sign(values)
    found = [(i, i + 1) for i in np.flatnonzero(sign[:-1] * sign[1:] < 0)]
    found += [
        (i - 1, i + 1) for i in np.flatnonzero(sign == 0) if 0 < i < len(sign) - 1 and sign[i - 1] * sign[i + 1] < 0
    ]
    return sorted((int(a), int(b)) for a, b in found)


def locate(equations: Residual, a: Point, b: Point, test: Callable[[np.ndarray, np.ndarray], float]) -> np.ndarray:
    """Where between two neighbouring points test(u, t) changes sign: u, by Brent's method in the length from a.

    At a branch point no plane fixes the curve, and Newton fails beside it: then the nearest point it reached.
    """
    length = float((b.u - a.u) @ a.t)
    best = (np.inf, a.u)

    def value(s: float) -> float:
        nonlocal best
        u = a.u if s == 0.0 else b.u if s == length else correct(equations, a.u + s * a.t, a.t)
        result = test(u, tangent(equations, u, a.t))
        best = min(best, (abs(result), u), key=lambda pair: pair[0])
        return result

    try:
        brentq(value, 0.0, length, xtol=1e-14 * max(length, 1e-3), rtol=1e-14)
    except NotConverged:
        if best[0] > 1e-3:
            raise
    return best[1]


def branch_point(equations: Residual, u: np.ndarray) -> np.ndarray | None:
    """The branch point near u, to rounding: F + μp = 0, (∂F/∂u)ᵀp = 0, |p| = 1 (Moore 1980), or None."""
    n = len(u) - 1
    left, _, _ = np.linalg.svd(equations(u)[1])

    def extended(z: np.ndarray) -> np.ndarray:
        f, j = equations(z[: n + 1])
        p = z[n + 2 :]
        return np.concatenate([f + z[n + 1] * p, j.T @ p, [p @ p - 1]])

    found = root(extended, np.concatenate([u, [0.0], left[:, -1]]), tol=1e-13)
    close = np.linalg.norm(found.x[: n + 1] - u) < 1e-2 and abs(found.x[n + 1]) < 1e-9
    return found.x[: n + 1] if close and np.abs(extended(found.x)).max() < 1e-9 else None
