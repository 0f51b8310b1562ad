"""The geometric action of a path as T → 0: its value, gradient and second derivative on a polygon."""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.interpolate import CubicSpline

from sde_sgd import _checks
from sde_sgd.process import Process

_COLD = 1e-200  # stands for T → 0 where a drift contains T
_SINGULAR = 1e-12  # of the eigenvalues of D: smallest over largest
_NODE, _WEIGHT = np.polynomial.legendre.leggauss(4)
_NODE, _WEIGHT = 0.5 * (_NODE + 1.0), 0.5 * _WEIGHT


class Limit:
    """Drift b, its Jacobian, D and D⁻¹ of a process as T → 0, on points (..., d).

    H(x, p) = p·b + pᵀDp is the Hamiltonian whose flow at H = 0 holds the paths of least action.
    """

    def __init__(self, process: Any) -> None:
        _checks.instance("process", process, Process, "landscape.at_temperature(T) makes one")
        self.process, self.dim = process, process.dim
        self._evaluator = process.evaluator()
        self._jacobian: Callable | None = getattr(self._evaluator, "jacobian", None)
        self.constant = process.landscape.constant_diffusion() is not None

    def drift(self, x: np.ndarray) -> np.ndarray:
        b = self._evaluator.drift(x, _COLD)
        if not np.isfinite(b).all():
            raise ValueError(
                f"the drift is not finite at {_first(x, ~np.isfinite(b).all(-1))} as T → 0; a path of least action "
                "needs a drift with a limit there: start from another path, or check the definition"
            )
        return b

    def drift_per_temperature(self, x: np.ndarray, temperature: float) -> np.ndarray:
        """∂b/∂T; ValueError where b is not linear in T."""
        cold, half, full = (self._evaluator.drift(x, t) for t in (_COLD, 0.5 * temperature, temperature))
        if not np.abs(half - 0.5 * (cold + full)).max() <= 1e-9 * max(np.abs(full).max(), np.abs(full - cold).max()):
            raise ValueError(
                f"the drift is not linear in T between 0 and {temperature:g}, so that no prefactor of low temperatures "
                "applies; lower T"
            )
        return (full - cold) / temperature

    def jacobian(self, x: np.ndarray) -> np.ndarray:
        """∂b_i/∂x_j."""
        if self._jacobian is not None:
            return self._jacobian(x, _COLD)
        return np.moveaxis(self.differences(self.drift, x), -2, -1)

    def diffusion(self, x: np.ndarray) -> np.ndarray:
        return self._evaluator.diffusion(x)

    def diffusion_gradient(self, x: np.ndarray) -> np.ndarray:
        """∂_k D_ij at [..., k, i, j]."""
        if self.constant:
            return np.zeros((*x.shape[:-1], self.dim, self.dim, self.dim))
        return self.differences(self.diffusion, x)

    def metric(self, x: np.ndarray) -> np.ndarray:
        """D⁻¹; ValueError where D is singular."""
        d = self.diffusion(x)
        values = np.linalg.eigvalsh(d)
        bad = ~(values[..., 0] > _SINGULAR * values[..., -1])
        if bad.any():
            raise ValueError(
                f"D is singular at {_first(x, bad)}: a path across a direction without noise has no finite action; "
                "leave such variables out, or add noise to them"
            )
        return np.linalg.inv(d)

    def slope(self, x: np.ndarray, p: np.ndarray, q: np.ndarray | None = None) -> np.ndarray:
        """∂H/∂x = Jᵀp + pᵀ(∂D)p; with q the bilinear form Jᵀq + qᵀ(∂D)p."""
        q = p if q is None else q
        value = np.einsum("...ji,...j->...i", self.jacobian(x), q)
        if not self.constant:
            value = value + np.einsum("...kij,...i,...j->...k", self.diffusion_gradient(x), q, p)
        return value

    @staticmethod
    def differences(function: Callable, x: np.ndarray) -> np.ndarray:
        """Central differences, the direction before the last axes of the function's values."""
        parts = []
        for k in range(x.shape[-1]):
            step = np.zeros_like(x)
            step[..., k] = 6e-6 * np.maximum(1.0, np.abs(x[..., k]))  # ε^(1/3): rounding and curvature in balance
            change = function(x + step) - function(x - step)
            width = 2.0 * step[..., k]
            parts.append(change / width.reshape(width.shape + (1,) * (change.ndim - width.ndim)))
        return np.stack(parts, axis=x.ndim - 1)


def _first(x: np.ndarray, bad: np.ndarray) -> tuple:
    return tuple(np.asarray(x)[bad][0].round(6).tolist())


def form(metric: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """uᵀ·metric·v."""
    return np.einsum("...i,...ij,...j->...", u, metric, v)


def unit(metric: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """v over its length in the metric (0 where v is 0), and the length."""
    length = np.sqrt(form(metric, v, v))
    return v / np.where(length > 0.0, length, 1.0)[..., None], length


def density(limit: Limit, x: np.ndarray, step: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """½(|b||v| − ⟨b, v⟩) of steps v at x in the metric D⁻¹, |v| and |b|.

    Written as ¼|b||v| |v̂ − b̂|², which does not cancel along the drift.
    """
    metric = limit.metric(x)
    (direction, speed), (tangent, length) = unit(metric, limit.drift(x)), unit(metric, step)
    turn = tangent - direction
    return 0.25 * speed * length * form(metric, turn, turn), length, speed


def action(limit: Limit, x: np.ndarray) -> float:
    """Σ over the segments of the polygon x, by the midpoint rule."""
    return float(density(limit, 0.5 * (x[1:] + x[:-1]), np.diff(x, axis=0))[0].sum())


def momentum(limit: Limit, x: np.ndarray, tangent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """p = ½D⁻¹(|b|v̂ − b), for which H(x, p) = 0 and ẋ = b + 2Dp points along the tangent; and |b| = |ẋ|."""
    metric, b = limit.metric(x), limit.drift(x)
    speed = np.sqrt(form(metric, b, b))
    ahead = unit(metric, tangent)[0]
    return 0.5 * np.einsum("...ij,...j->...i", metric, speed[..., None] * ahead - b), speed


class Segments:
    """First and second derivatives of every segment's action by its midpoint m and its step Δ."""

    def __init__(self, limit: Limit, x: np.ndarray) -> None:
        self.limit, self.middle, self.step = limit, 0.5 * (x[1:] + x[:-1]), np.diff(x, axis=0)
        self.by_middle, self.by_step = self._first(self.middle)

    def _first(self, middle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        metric, b = self.limit.metric(middle), self.limit.drift(middle)
        (tangent, length), (direction, speed) = unit(metric, self.step), unit(metric, b)
        p = 0.5 * np.einsum("...ij,...j->...i", metric, speed[:, None] * tangent - b)
        # p times the duration |Δ|/|b|, which is finite where b = 0
        impulse = 0.5 * np.einsum("...ij,...j->...i", metric, self.step - length[:, None] * direction)
        return -self.limit.slope(middle, p, impulse), p

    def gradient(self) -> np.ndarray:
        """By the inner points, (n − 1, d)."""
        return self.by_step[:-1] - self.by_step[1:] + 0.5 * (self.by_middle[:-1] + self.by_middle[1:])

    def second(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """∂²/∂m², ∂²/∂m∂Δ (rows m), ∂²/∂Δ² of each segment, (n, d, d); the first two from differences."""
        metric = self.limit.metric(self.middle)
        tangent, length = unit(metric, self.step)
        speed = unit(metric, self.limit.drift(self.middle))[1]
        along = np.einsum("...ij,...j->...i", metric, tangent)
        stiff = metric - along[:, :, None] * along[:, None, :]
        by_step = 0.5 * (speed / length)[:, None, None] * stiff
        scale = length[:, None] * np.sqrt(np.diagonal(self.limit.diffusion(self.middle), axis1=-2, axis2=-1))
        by_middle, mixed = np.empty_like(metric), np.empty_like(metric)
        for k in range(self.limit.dim):
            shift = np.zeros_like(self.middle)
            shift[:, k] = 1e-4 * scale[:, k]  # |b| may have its zero half a segment away
            (m1, s1), (m0, s0) = self._first(self.middle + shift), self._first(self.middle - shift)
            by_middle[:, k], mixed[:, k] = (m1 - m0) / (2 * shift[:, k : k + 1]), (s1 - s0) / (2 * shift[:, k : k + 1])
        return 0.5 * (by_middle + np.swapaxes(by_middle, -1, -2)), mixed, by_step


class Curve:
    """A cubic spline through points, by their distances in the metric D⁻¹; what is smooth along it is integrated."""

    def __init__(self, limit: Limit, x: np.ndarray, end: np.ndarray | None = None) -> None:
        self.limit, self.nodes = limit, lengths(limit, x)
        last: Any = "not-a-knot"
        if end is not None:  # a direction in which it ends
            last = (1, unit(limit.metric(x[-1]), end)[0])
        self.spline = CubicSpline(self.nodes, x, bc_type=("not-a-knot", last))

    def cumulative(self) -> tuple[np.ndarray, np.ndarray]:
        """Action and time from the first point to each, by Gauss's rule; time is infinite across a fixed point."""
        step = np.diff(self.nodes)
        s = self.nodes[:-1, None] + step[:, None] * _NODE
        value, length, speed = density(self.limit, self.spline(s), self.spline(s, 1))
        with np.errstate(divide="ignore"):
            duration = length / speed
        total = [np.concatenate([[0.0], np.cumsum(step * (f @ _WEIGHT))]) for f in (value, duration)]
        return total[0], total[1]

    def momentum(self, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return momentum(self.limit, self.spline(s), self.spline(s, 1))


def lengths(limit: Limit, x: np.ndarray) -> np.ndarray:
    """Length of the polygon in the metric D⁻¹ from the first point to each."""
    step = np.diff(x, axis=0)
    size = np.sqrt(form(limit.metric(0.5 * (x[1:] + x[:-1])), step, step))
    return np.concatenate([[0.0], np.cumsum(size)])
