"""Many trajectories of ẋ = v(x) at once, each with its own step: Dormand & Prince's Runge–Kutta method of order 8."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.integrate import DOP853

A, B, E3, E5 = DOP853.A[:12, :12], DOP853.B, DOP853.E3, DOP853.E5  # Hairer, Nørsett & Wanner (1993), §II.10


@dataclass
class Ensemble:
    """n trajectories on their way: states (n, m), rates, times run, next steps. `take` makes a step of each."""

    rhs: Callable[[np.ndarray], np.ndarray]
    x: np.ndarray
    scale: np.ndarray  # of an error of 1 tolerance: rtol·|x| + rtol·scale
    rtol: float
    sign: np.ndarray  # +1 or −1 per trajectory: direction of time

    def __post_init__(self) -> None:
        self.t = np.zeros(len(self.x))
        self.f = self._rate(self.x, self.sign)
        with np.errstate(all="ignore"):
            speed = np.abs(self.f / self.scale).max(-1)
        self.h = 0.02 / np.where(speed > 0, speed, np.inf)
        self.h = np.where(np.isfinite(self.h) & (self.h > 0), self.h, 1.0)
        self.ok = np.isfinite(self.f).all(-1)

    def _rate(self, x: np.ndarray, sign: np.ndarray) -> np.ndarray:
        return self.rhs(x) * sign[:, None]

    def take(self, live: np.ndarray, limit: np.ndarray | None = None) -> np.ndarray:
        """One trial step of the trajectories `live`, no further than the times `limit`; True where it was accepted.

        A trajectory that leaves where v is finite, or needs a step below rounding, is marked in `ok`.
        """
        x, f, sign = self.x[live], self.f[live], self.sign[live]
        h = self.h[live] if limit is None else np.minimum(self.h[live], limit[live] - self.t[live])
        k = np.empty((13, *x.shape))
        k[0], flat = f, k.reshape(13, -1)
        with np.errstate(all="ignore"):
            for s in range(1, 12):
                k[s] = self._rate(x + h[:, None] * (A[s, :s] @ flat[:s]).reshape(x.shape), sign)
            new = x + h[:, None] * (B @ flat[:12]).reshape(x.shape)
            k[12] = self._rate(new, sign)
            scale = self.rtol * (self.scale + np.maximum(np.abs(x), np.abs(new)))
            five = (((E5 @ flat).reshape(x.shape) / scale) ** 2).sum(-1)
            three = (((E3 @ flat).reshape(x.shape) / scale) ** 2).sum(-1)
            error = h * five / np.sqrt(np.maximum((five + 0.01 * three) * x.shape[1], 1e-300))
            good = error < 1.0
            factor = np.where(error > 0, 0.9 * error**-0.125, 8.0)
        factor = np.where(np.isfinite(error), np.clip(factor, 0.2, np.where(good, 8.0, 1.0)), 0.1)
        done = live[good]
        self.x[done], self.f[done] = new[good], k[12][good]
        self.t[done] += h[good]
        # A step cut short by its limit says nothing against the longer one that was planned.
        cut = good & (h < self.h[live])
        self.h[live] = np.where(cut, np.maximum(self.h[live], h * factor), h * factor)
        stuck = self.h[live] <= 1e-15 * np.maximum(self.t[live], 1e-290)
        self.ok[live[stuck]] = False
        return good


def flow(
    rhs: Callable, x: np.ndarray, span: np.ndarray, scale: np.ndarray, rtol: float, most: int | np.ndarray = 4000
) -> np.ndarray:
    """The states (n, m) a time `span` (n,) later, of either sign; NaN where the flow does not get there.

    `most` steps each at the utmost, so that a field too stiff for an explicit method fails instead of running on.
    """
    limit = np.abs(span)
    ensemble = Ensemble(rhs, np.array(x, float), scale, rtol, np.where(span < 0, -1.0, 1.0))
    tries = np.zeros(len(x), int)
    while len(live := np.flatnonzero((ensemble.t < limit * (1 - 1e-15)) & ensemble.ok & (tries < most))):
        ensemble.take(live, limit)
        tries[live] += 1
    unfinished = ~ensemble.ok | ~(ensemble.t >= limit * (1 - 1e-15))
    ensemble.x[unfinished] = np.nan
    return ensemble.x


def spread(rhs: Callable, x: np.ndarray, span: np.ndarray, count: int, rtol: float) -> np.ndarray:
    """States (n, count, m) at times 0, span/count, 2 span/count, … after x; `count` a power of 2."""
    points, known = x[:, None], 1
    while known < count:
        late = flow(
            rhs, points.reshape(-1, x.shape[1]), np.repeat(span / (2 * known), known), np.ones(x.shape[1]), rtol
        )
        points = np.stack([points, late.reshape(points.shape)], axis=2).reshape(len(x), 2 * known, -1)
        known *= 2
    return points


def variational(value: Callable, jacobian: Callable, dim: int) -> Callable:
    """Ẋ = v, Ṁ = (∂v/∂x) M as one rate of states (n, d + d·p)."""

    def rhs(state: np.ndarray) -> np.ndarray:
        x = np.ascontiguousarray(state[:, :dim])
        m = state[:, dim:].reshape(len(state), dim, -1)
        return np.concatenate([value(x), (jacobian(x) @ m).reshape(len(state), -1)], axis=1)

    return rhs


def flow_and_derivative(
    value: Callable,
    jacobian: Callable,
    x: np.ndarray,
    span: np.ndarray,
    scale: np.ndarray,
    rtol: float,
    most: int | np.ndarray = 4000,
) -> tuple[np.ndarray, np.ndarray]:
    """φ_span(x) and ∂φ/∂x: (n, d), (n, d, d)."""
    n, d = x.shape
    state = np.concatenate([x, np.tile(np.eye(d).ravel(), (n, 1))], axis=1)
    # The columns of M have the dimension of the scales: an error of M_ij counts per scale_i/scale_j.
    sizes = np.concatenate([scale, (scale[:, None] / scale[None, :]).ravel()])
    state = flow(variational(value, jacobian, d), state, span, sizes, rtol, most)
    return state[:, :d], state[:, d:].reshape(n, d, d)
