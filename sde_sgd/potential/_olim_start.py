"""Where a march begins: the exact quasi-potential of the linearised drift beside a point or a limit cycle."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from scipy.interpolate import CubicSpline
from scipy.spatial import cKDTree
from threadpoolctl import threadpool_limits

from sde_sgd import _checks
from sde_sgd.grid import Grid

_FEWEST = 8  # points that describe a cycle
_PER_CELL = 4  # points of the curve used, per cell
_NEWTON = 20
_ALONG = 0.9  # least cosine between a cycle and the drift on it
# half the shortest axis of what is filled, or half its width, in cells: more brings in the error of linearising
_RADII = {"point": 1.5, "cycle": 1.5}


@dataclass(frozen=True)
class Start:
    """Nodes beside an attractor (a mask), V and ∇V at every node as linearised, and where the attractor is.

    `curve` (n, d): its points, one for a fixed point. `rotation`: the largest |b + D∇V|/|D∇V| in the metric D⁻¹ around
    a fixed point, 0 where b = −D∇V; 0 for a cycle.
    """

    inside: np.ndarray
    value: np.ndarray
    slope: np.ndarray
    curve: np.ndarray
    rotation: float


def attractors(given, dim: int) -> list[np.ndarray]:
    """Points (dim,) and closed curves (n, dim) from what a user gives: see `quasipotential`."""
    if hasattr(given, "points"):
        given = given.points
    if isinstance(given, list | tuple):
        single = all(np.ndim(entry) == 0 and not hasattr(entry, "points") for entry in given)
        if not single or (dim == 1 and len(given) > 1):
            return [one for entry in given for one in attractors(entry, dim)]
    array = _checks.finite_array("attractor", getattr(given, "values", given))
    array = array.reshape(1) if array.ndim == 0 else array
    if array.ndim not in (1, 2) or array.shape[-1] != dim or array.size == 0:
        raise ValueError(
            f"attractor has shape {array.shape} for {dim} variables; give a point ({dim},), the points of a limit "
            f"cycle as an array (n, {dim}), or a list of attractors"
        )
    if array.ndim == 2 and len(array) < _FEWEST:
        raise ValueError(
            f"attractor is an array of {len(array)} points, read as a limit cycle, which needs at least {_FEWEST}; "
            "give several attractors as a list"
        )
    return [array]


def start(attractor: np.ndarray, drift: Callable, diffusion: Callable, grid: Grid, period: np.ndarray) -> Start:
    """The exact V of the drift linearised at an attractor; ValueError where it is none, or beside a wall."""
    kind = "point" if attractor.ndim == 1 else "cycle"
    outside = (attractor < np.array(grid.lower)) | (attractor > np.array(grid.upper))
    if outside.any():
        at = attractor if kind == "point" else attractor[outside.any(-1)][0]
        raise ValueError(f"attractor at {tuple(at.tolist())} is outside the grid, {grid.lower} to {grid.upper}")
    near = _near_point if kind == "point" else _near_cycle
    with threadpool_limits(1, user_api="blas"):  # thousands of products of d × d matrices
        found = near(attractor, drift, diffusion, grid, grid.centers().reshape(-1, grid.dim), period)
    index = np.unravel_index(np.flatnonzero(found.inside), grid.shape)
    walls = [a for a, wraps in enumerate(grid.periodic) if not wraps]
    if not found.inside.any() or any(index[a].min() == 0 or index[a].max() == grid.shape[a] - 1 for a in walls):
        raise ValueError(
            f"the cells beside the attractor at {tuple(found.curve[0].tolist())} reach a wall of the grid; "
            "use a larger box or smaller cells"
        )
    return found


def jacobian(drift: Callable, x: np.ndarray, size: np.ndarray) -> np.ndarray:
    """∂b_i/∂x_j at points (..., d) by differences of fourth order, over a thousandth of `size` (d,)."""
    columns = []
    for k, step in enumerate(1e-3 * size):
        e = np.zeros(x.shape[-1])
        e[k] = step
        near, far = drift(x + e) - drift(x - e), drift(x + 2 * e) - drift(x - 2 * e)
        columns.append((8 * near - far) / (12 * step))
    return np.stack(columns, -1)


def _wrap(difference: np.ndarray, period: np.ndarray) -> np.ndarray:
    """The shortest of the differences that are the same on periodic axes."""
    turns = np.where(np.isfinite(period), np.round(difference / np.where(np.isfinite(period), period, 1.0)), 0.0)
    return difference - turns * np.where(np.isfinite(period), period, 0.0)


def _near_point(given, drift, diffusion, grid, nodes, period):
    x, cell = given.copy(), grid.spacing
    for _ in range(_NEWTON):
        try:
            step = np.linalg.solve(jacobian(drift, x, cell), drift(x))
        except np.linalg.LinAlgError:
            step = np.full_like(x, np.inf)
        x = x - step
        if not np.abs((x - given) / cell).max() < 1.0:
            raise ValueError(
                f"attractor {tuple(given.tolist())} is not within a cell of a fixed point of the drift: there "
                f"b = {drift(given).tolist()}; find it by landscape.fixed_points(), or give the points of a limit cycle"
            )
        if np.abs(step / cell).max() < 1e-10:
            break
    matrix = jacobian(drift, x, cell)
    rates = np.linalg.eigvals(matrix).real
    if not rates.max() < 0:
        raise ValueError(
            f"attractor {tuple(given.tolist())} is not stable: the drift's derivative has an eigenvalue with real "
            f"part {rates.max():g} there; a start must attract in all directions"
        )
    sigma = scipy.linalg.solve_continuous_lyapunov(matrix, -2 * diffusion(x))
    precision = np.linalg.inv(0.5 * (sigma + sigma.T))
    away = _wrap(nodes - x, period)
    slope = away @ precision
    value = 0.5 * (away * slope).sum(-1)
    widest = np.linalg.eigvalsh(precision * cell * cell[:, None])[-1]
    inside, push = value <= 0.5 * _RADII["point"] ** 2 * widest, diffusion(x) @ precision
    turned, pushed = (m.T @ np.linalg.solve(diffusion(x), m) for m in (matrix + push, push))
    rotation = np.sqrt(max(0.0, scipy.linalg.eigh(turned, pushed, eigvals_only=True)[-1]))
    return Start(inside, value, slope, x[None], float(rotation))


def _near_cycle(given, drift, diffusion, grid, nodes, period):
    curve = _closed(given, grid.spacing, period)
    ahead = _wrap(np.roll(curve, -1, 0) - np.roll(curve, 1, 0), period)
    tangent = ahead / np.linalg.norm(ahead, axis=-1, keepdims=True)
    b = drift(curve)
    cosine = (tangent * b).sum(-1) / np.maximum(np.linalg.norm(b, axis=-1), 1e-300)
    if cosine.max() < -_ALONG:  # given against the drift
        curve, tangent, b, cosine = curve[::-1], -tangent[::-1], b[::-1], -cosine[::-1]
    if not cosine.min() > _ALONG:
        i = int(cosine.argmin())
        raise ValueError(
            f"attractor is no limit cycle of the drift: at {tuple(curve[i].tolist())} its direction and the drift's "
            f"differ by {np.degrees(np.arccos(np.clip(cosine[i], -1, 1))):.3g} degrees; find it by find_cycles"
        )
    spread = _transverse(curve, tangent, drift, diffusion, grid.spacing, period)
    copies = [curve]
    for axis in np.flatnonzero(np.isfinite(period)):
        shift = np.zeros(len(period))
        shift[axis] = period[axis]
        copies = [c + s * shift for c in copies for s in (-1, 0, 1)]
    tree = cKDTree(np.concatenate(copies) / grid.spacing)
    distance, which = tree.query(nodes / grid.spacing, distance_upper_bound=_RADII["cycle"])
    inside = np.isfinite(distance)
    k = which[inside] % len(curve)
    away = _wrap(nodes[inside] - curve[k], period)
    away -= (away * tangent[k]).sum(-1, keepdims=True) * tangent[k]
    value, slope = np.full(len(nodes), np.inf), np.zeros_like(nodes)
    slope[inside] = (np.linalg.pinv(spread, rcond=1e-9, hermitian=True)[k] @ away[..., None])[..., 0]
    value[inside] = 0.5 * (slope[inside] * away).sum(-1)
    return Start(inside, value, slope, curve, 0.0)


def _closed(given: np.ndarray, cell: np.ndarray, period: np.ndarray) -> np.ndarray:
    """Points of the periodic cubic spline through those given, a few per cell."""
    steps = _wrap(np.diff(given, axis=0, append=given[:1]), period)
    keep = np.abs(steps / cell).max(-1) > 1e-9  # a first point repeated as the last closes the curve twice
    given, steps = given[keep], steps[keep]
    knots = np.concatenate([[0.0], np.cumsum(np.linalg.norm(steps / cell, axis=-1))])
    turns = steps.sum(0)  # around periodic axes
    path = np.concatenate([given[:1], given[:1] + np.cumsum(steps, 0)]) - knots[:, None] / knots[-1] * turns
    path[-1] = path[0]
    count = max(200, int(np.ceil(_PER_CELL * knots[-1])))
    s = np.linspace(0, knots[-1], count, endpoint=False)
    return CubicSpline(knots, path, bc_type="periodic")(s) + s[:, None] / knots[-1] * turns


def _transverse(curve, tangent, drift, diffusion, cell, period) -> np.ndarray:
    """G at each point: Ġ = JG + GJᵀ + 2D along the orbit, periodic, without what lies along the drift.

    V = ½ ν·G⁺ν to second order in the distance ν from the cycle: T·G is the variance across it.
    """
    count, d = curve.shape
    step = _wrap(np.roll(curve, -1, 0) - curve, period)
    middle = curve + 0.5 * step
    time = np.linalg.norm(step, axis=-1) / np.linalg.norm(drift(middle), axis=-1)
    rate = jacobian(drift, middle, cell) * time[:, None, None]
    half = scipy.linalg.expm(0.5 * rate)
    across = np.eye(d) - tangent[:, :, None] * tangent[:, None, :]
    move = np.roll(across, -1, 0) @ half @ half @ across
    end = np.roll(across, -1, 0) @ half
    gain = 2 * time[:, None, None] * end @ diffusion(middle) @ end.transpose(0, 2, 1)
    whole, total = np.eye(d), np.zeros((d, d))
    for m, g in zip(move, gain):
        whole, total = m @ whole, m @ total @ m.T + g
    multiplier = np.abs(np.linalg.eigvals(whole)).max()
    if not multiplier < 1:
        raise ValueError(
            f"attractor is a limit cycle that does not attract: a distance from it grows by {multiplier:.4g} per turn"
        )
    first = np.linalg.solve(np.eye(d * d) - np.kron(whole, whole), total.ravel()).reshape(d, d)
    spread = np.empty((count, d, d))
    for k in range(count):
        spread[k] = 0.5 * (first + first.T)
        first = move[k] @ first @ move[k].T + gain[k]
    return spread
