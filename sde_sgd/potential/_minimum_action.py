"""The path of least action between two points: how a rare event happens as T → 0, and what it costs."""

import itertools
from typing import Any

import numpy as np
import xarray as xr
from scipy.interpolate import CubicSpline

from sde_sgd import _checks
from sde_sgd.errors import NotConverged

from ._action import Curve, Limit, form
from ._newton import Minimum, minimise, spread

_FEWEST = 17
_COARSE_TOLERANCE = 1e-6
_NEWTON = 40
_DEPTH = 6  # fixed points found one between the others


def minimum_action_path(
    process: Any,
    a: Any,
    b: Any,
    *,
    through: Any = None,
    start: Any = None,
    points: int = 129,
    tolerance: float = 1e-10,
    iterations: int = 200,
) -> xr.Dataset:
    r"""The path φ from a to b that is likeliest as T → 0, and its action.

        S = min_φ ½∫(|b|·|φ'| − ⟨b, φ'⟩) ds = min over times of ¼∫|ẋ − b|² dt,    ⟨u, v⟩ = uᵀD(x)⁻¹v.

    From an attractor a, S is the quasi-potential V(b), the limit of Φ = −T log ρ: passages from a to b take a
    time ~ e^{S/T}. Along the path ẋ = b + 2Dp with the momentum p = ∇V and H = p·b + pᵀDp = 0; in detailed balance it
    is the relaxation run backwards, with a current it is not. b is the drift as T → 0.

    Parameters
    ----------
    a, b : points (d,). On a periodic axis give b on the side it is to be reached from, outside the domain if need be.
    through : a point, or a sequence of points in order, that the path goes through. Give the fixed points of the drift
        it crosses, where it has kinks. None finds them: zeros of the drift within a coarse segment of the path.
    start : a first guess, (k, d) from a to b, or a result of this function; None is the straight line.
    points : on each piece between a, the points it goes through, and b; at least 17.
    tolerance : half the Newton decrement, what is left to gain, over ½∫|b||dφ|.
    iterations : most Newton steps on each piece at each number of points.

    Returns a Dataset over `point` with
        path, momentum    φ and p, last dimension `component`
        action            from a to each point; its last value is S
        speed, time       |ẋ| = |b| in the metric D⁻¹ and t along the path; in each piece t = 0 at its middle point, and
                          −∞, ∞ at its ends where the drift is 0
        residual          |ṗ + ∂H/∂x| in the metric D over the largest |ṗ|: the Euler–Lagrange equation along a
                          spline; 0 where ẋ = 0
        piece             number of the piece a point ends or begins
    and `crossings` (crossing, component), the points it goes through, `total_action` and `total_action_error`. `attrs`
    name the settings, the Newton steps, and `excess`, the decrement.

    S is integrated along a cubic spline through the points, whose polygon is a local minimum of the action (its second
    derivative is positive): of fourth order in the spacing where the path is smooth, of a lower one, between 1 and
    3, where it leaves a node with unlike rates or winds out of a focus. The error is the change from half the points.
    Pieces that follow the drift cost 0.

    It is a local minimiser: another path, over another saddle, may cost less. Try each saddle by `through`, or `start`s
    on either side; for all points at once see `quasipotential`. From a limit cycle, or through an unstable one, the
    best path winds for ever; a `start` with a turn or two along the cycle comes close from above.

    Raises ValueError for a singular D, a = b, or a drift without a limit; NotConverged with the decrement reached.
    Heymann & Vanden-Eijnden (2008), Comm. Pure Appl. Math. 61, for the action; Newton's method in place of their
    descent.
    """
    limit = Limit(process)
    a, b = (_checks.finite_array(name, np.atleast_1d(p), (limit.dim,)) for name, p in (("a", a), ("b", b)))
    points = _checks.whole("points", points, _FEWEST)
    tolerance, iterations = _checks.positive("tolerance", tolerance), _checks.whole("iterations", iterations, 1)
    coarse = max(_FEWEST, (points + 3) // 4)
    if through is not None and start is not None:
        raise ValueError("through and start are two ways to say where the path goes; give one of them")
    if through is not None:
        between = _checks.finite_array("through", np.atleast_1d(through))
        between = _checks.finite_array("through", between.reshape(-1, limit.dim) if between.ndim < 2 else between)
        if between.ndim != 2 or between.shape[1] != limit.dim:
            raise ValueError(f"through must be points of {limit.dim} coordinates, got shape {between.shape}")
        corners = np.vstack([a, between, b])
        pieces = [np.array(pair) for pair in itertools.pairwise(corners)]
    else:
        pieces = _pieces(limit, spread(limit, _guess(start, a, b), coarse), tolerance, iterations, _DEPTH)
    results = [_solve(limit, x, points, tolerance, iterations) for x in pieces]
    return _dataset(limit, results, dict(points=points, tolerance=tolerance))


def _guess(start: Any, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if start is None:
        return np.array([a, b])
    x = start["path"].values if isinstance(start, xr.Dataset) and "path" in start else start
    x = _checks.finite_array("start", x)
    if x.ndim != 2 or x.shape[1] != len(a) or len(x) < 2:
        raise ValueError(f"start must have shape (k, {len(a)}) with k >= 2, got {x.shape}")
    size = np.abs(np.diff(x, axis=0)).sum()
    if max(np.abs(x[0] - a).max(), np.abs(x[-1] - b).max()) > 1e-3 * size:
        raise ValueError(
            f"start must lead from a to b, got a path from {tuple(x[0].tolist())} to {tuple(x[-1].tolist())}"
        )
    return np.vstack([a, x[1:-1], b])


def _pieces(limit: Limit, x: np.ndarray, tolerance: float, iterations: int, depth: int) -> list[np.ndarray]:
    """The path cut at the fixed points it runs into, each piece a minimum on the few points of x."""
    whole = minimise(limit, x, max(tolerance, _COARSE_TOLERANCE), iterations).points
    found = _crossing(limit, whole) if depth else None
    if found is None:
        return [whole]
    at, centre = found
    halves = [np.vstack([whole[:at], centre]), np.vstack([centre, whole[at + 1 :]])]
    parts: list[np.ndarray] = []
    for half in halves:
        parts += _pieces(limit, spread(limit, half, len(x)), tolerance, iterations, depth - 1)
    cost = sum(Curve(limit, part).cumulative()[0][-1] for part in parts)
    before = Curve(limit, whole).cumulative()[0][-1]
    return parts if cost <= before * (1.0 + 1e-3) else [whole]  # it was beside the path, not on it


def _crossing(limit: Limit, x: np.ndarray) -> tuple[int, np.ndarray] | None:
    """A zero of the drift within 1.5 segments of the path, away from its ends, and the point it is next to."""
    b, metric = limit.drift(x), limit.metric(x)
    speed = np.sqrt(form(metric, b, b))
    inner = np.arange(2, len(x) - 2)
    low = inner[(speed[inner] <= speed[inner - 1]) & (speed[inner] <= speed[inner + 1])]
    segment = float(np.sqrt(form(metric[:-1], np.diff(x, axis=0), np.diff(x, axis=0))).mean())
    for at in low[np.argsort(speed[low], kind="stable")]:
        zero = zero_of_drift(limit, x[at], metric[at], 1.5 * segment)
        if zero is not None:
            away = np.sqrt(form(metric[at], x - zero, x - zero))
            if min(away[0], away[-1]) > 1.5 * segment:
                return int(np.clip(away.argmin(), 1, len(x) - 2)), zero
    return None


def zero_of_drift(limit: Limit, x: np.ndarray, metric: np.ndarray, reach: float) -> np.ndarray | None:
    """The zero of the drift Newton's method goes to, if it stays within `reach` of x."""
    y = x
    for _ in range(_NEWTON):
        move = np.linalg.lstsq(limit.jacobian(y), -limit.drift(y))[0]
        y = y + move
        if not form(metric, y - x, y - x) <= reach**2:
            return None
        if form(metric, move, move) <= (1e-12 * reach) ** 2:
            return y
    return None


def _solve(limit: Limit, x: np.ndarray, points: int, tolerance: float, iterations: int) -> tuple[Minimum, float]:
    """A piece at `points` points, and its action at half as many."""
    half = minimise(limit, spread(limit, x, (points + 1) // 2), tolerance, iterations)
    result = minimise(limit, spread(limit, half.points, points), tolerance, iterations)
    if not result.converged:
        raise NotConverged(
            f"from {tuple(x[0].round(6).tolist())} to {tuple(x[-1].round(6).tolist())} the path of least action is not "
            f"found after {result.iterations} steps: half the Newton decrement is {result.excess:.3g} where the "
            f"tolerance allows {tolerance:g} of the length. Name the fixed points it crosses (through=), start from "
            "another path (start=; round a cycle, with the turns it is to make), or allow more iterations"
        )
    return result, float(Curve(limit, half.points).cumulative()[0][-1])


def _dataset(limit: Limit, results: list[tuple[Minimum, float]], settings: dict) -> xr.Dataset:
    names = list(limit.process.variables)
    columns: dict[str, list[np.ndarray]] = {}
    total, error, pieces = 0.0, 0.0, []
    for number, (found, half) in enumerate(results):
        parts = _along(limit, found.points)
        error += abs(parts["action"][-1] - half)
        parts["action"] = parts["action"] + total
        total = float(parts["action"][-1])
        for name, values in parts.items():
            columns.setdefault(name, []).append(values if number == 0 else values[1:])
        pieces.append(np.full(len(columns["time"][-1]), number))
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    joined["residual"] /= max(joined.pop("force").max(), 1e-300)
    vectors: dict[str, Any] = {name: (("point", "component"), joined.pop(name)) for name in ("path", "momentum")}
    corners = np.array([found.points[-1] for found, _ in results[:-1]]).reshape(-1, limit.dim)
    data = vectors | {name: ("point", values) for name, values in joined.items()}
    data |= {
        "piece": ("point", np.concatenate(pieces)),
        "crossings": (("crossing", "component"), corners),
        "total_action": ((), total),
        "total_action_error": ((), error),
    }
    attrs = {
        "landscape": limit.process.landscape.name,
        **{f"parameter_{k}": v for k, v in limit.process.landscape.parameters.items()},
        **settings,
        "method": "Newton across the path, midpoint rule; action along a cubic spline",
        "iterations": sum(found.iterations for found, _ in results),
        "excess": sum(found.excess for found, _ in results),
    }
    return xr.Dataset(data, {"component": names}, attrs)


def _along(limit: Limit, x: np.ndarray) -> dict[str, np.ndarray]:
    """What is known at the points of one piece."""
    curve = Curve(limit, x)
    action, time = curve.cumulative()
    p, speed = curve.momentum(curve.nodes)
    still = speed <= 1e-9 * speed.max()
    p[still] = 0.0
    with np.errstate(invalid="ignore"):
        time = time - time[len(x) // 2]
    time[0], time[-1] = -np.inf if still[0] else time[0], np.inf if still[-1] else time[-1]
    # ds = |ẋ| dt: both terms of the Euler–Lagrange equation per time
    change = speed[:, None] * CubicSpline(curve.nodes, p)(curve.nodes, 1)
    gap, size = change + limit.slope(x, p), limit.diffusion(x)
    residual, force = np.sqrt(form(size, gap, gap)), np.sqrt(form(size, change, change))
    residual[still] = 0.0
    return dict(path=x, momentum=p, action=action, speed=speed, time=time, residual=residual, force=force)
