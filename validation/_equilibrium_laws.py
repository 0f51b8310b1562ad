"""What scale invariance and weight decay make of the norm, in closed form: λ_e = ηλ, γ = |w|⁴/η², growing rates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sde_sgd import _checks

from ._numbers import from_zero


@dataclass(frozen=True)
class GrowingRate:
    """η_t = η α^{−2t−1}: without decay, the directions of constant η with decay λ, and the norm α^{−t} times theirs.

    α is the larger root of x² − (1 + μ − ηλ)x + μ; without momentum α = 1 − ηλ. With momentum the run with decay
    starts at rest and that with the growing rate at the velocity `velocity_factor`·w₀, v₀ = −(1 − α)/(ηα) w₀: the
    published u₋₁ = αw₋₁. Real for ηλ ≤ (1 − √μ)² only; ValueError beyond. Li & Arora (2019).

    Only for losses with L(cw) = L(w): others feel the norm.
    """

    learning_rate: float
    weight_decay: float
    momentum: float = 0.0

    def __post_init__(self):
        _checks.positive("learning_rate", self.learning_rate)
        from_zero("weight_decay", self.weight_decay)
        from_zero("momentum", self.momentum, below=1.0)
        limit = (1 - np.sqrt(self.momentum)) ** 2
        if self.intrinsic > limit or self.intrinsic >= 1:
            raise ValueError(
                f"ηλ = {self.intrinsic:g} and momentum {self.momentum:g}: α is real and positive only up to "
                f"(1 − √μ)² = {limit:.4g} (below 1); lower learning_rate or weight_decay"
            )

    @property
    def intrinsic(self) -> float:
        """λ_e = ηλ."""
        return self.learning_rate * self.weight_decay

    @property
    def alpha(self) -> float:
        """The factor by which the norm falls behind at each step."""
        half = (1 + self.momentum - self.intrinsic) / 2
        return float(half + np.sqrt(max(half**2 - self.momentum, 0.0)))

    @property
    def velocity_factor(self) -> float:
        """v₀/w₀ of the run with the growing rate; without momentum there is no velocity and it does not matter."""
        return -(1 - self.alpha) / (self.learning_rate * self.alpha)

    def __call__(self, steps: ArrayLike) -> NDArray[np.float64]:
        """η of each step, counted from 0."""
        return self.learning_rate * self.alpha ** (-2.0 * np.asarray(steps, float) - 1.0)


def decay_balance(mean_square: ArrayLike, learning_rate: ArrayLike, weight_decay: ArrayLike) -> NDArray[np.float64]:
    """ηE|g|²/(λ(2 − ηλ)), which E|w|² is in the steady state of SGD without momentum, for every ηλ < 2.

    From |w'|² = (1 − ηλ)²|w|² + η²|g|², g the gradient of the mini-batch without the decay. With E|g_unit|² = E|g|²|w|²
    in the place of E|g|² it is the published |w|⁴, which holds as ηλ → 0. Li, Lyu & Arora (2020).
    """
    eta, decay = np.asarray(learning_rate, float), np.asarray(weight_decay, float)
    return eta * np.asarray(mean_square, float) / (decay * (2 - eta * decay))


def fourth_power(intrinsic: float, kicks: float) -> float:
    """E|w|⁴ over the published ηE|g_unit|²/(λ(2 − ηλ)) in the steady state: (2(1 − x)² + K)/(1 + (1 − x)²), x = ηλ.

    K = η²E|g|⁴/E[|g|²|w|²] = `kicks`. Exact, from the square of the recursion of |w|²; K ≈ 2xκ and the ratio
    1 + x(κ − 1) for small x, κ = E|g_unit|⁴/(E|g_unit|²)².
    """
    kept = (1 - intrinsic) ** 2
    return (2 * kept + kicks) / (1 + kept)


def relaxed(steps: ArrayLike, start: float, intrinsic: ArrayLike, drive: ArrayLike) -> NDArray[np.float64]:
    """γ at `steps` from dγ/dt = −4λ_eγ + 2 Tr Σ̄, γ(steps₀) = `start`; t in steps.

    `intrinsic` λ_e is constant between steps_i and steps_{i+1}, (n − 1,) or a number; `drive` Tr Σ̄, (n,), is linear
    between them, for which each interval is solved exactly. γ = |w|⁴/η², so that a drop of η by c raises it c²-fold:
    that is the caller's, who starts anew. Li, Lyu & Arora (2020).
    """
    times, drive = _checks.finite_array("steps", steps), _checks.finite_array("drive", drive)
    if times.ndim != 1 or len(times) < 1 or (np.diff(times) <= 0).any() or drive.shape != times.shape:
        raise ValueError(f"steps must increase and drive hold one number each, got {times.shape} and {drive.shape}")
    rates = np.broadcast_to(np.asarray(intrinsic, float), (len(times) - 1,))
    if (rates <= 0).any():
        raise ValueError("intrinsic must be > 0: without decay γ only grows")
    found = [float(start)]
    for k, span in enumerate(np.diff(times)):
        a = 4 * rates[k]
        slope = 2 * (drive[k + 1] - drive[k]) / span
        at_rest, at_end = (2 * drive[k + i] / a - slope / a**2 for i in (0, 1))  # particular solution, both ends
        found.append(at_end + (found[-1] - at_rest) * np.exp(-a * span))
    return np.array(found)


def unstable_square(learning_rate: float, weight_decay: float, curvature: float = 2.0) -> float:
    """ηh/(2(1 − ηλ)): the |w|² below which gradient descent leaves a minimum of curvature h at |w| = 1.

    One step turns an angle φ to the minimum into φ(1 − ηh/((1 − ηλ)|w|²)). For x²/(x² + y²) h = 2 and this is
    η/(1 − ηλ). Li, Lyu & Arora (2020). ValueError for ηλ ≥ 1.
    """
    eta, decay = _checks.positive("learning_rate", learning_rate), from_zero("weight_decay", weight_decay)
    if eta * decay >= 1:
        raise ValueError(f"ηλ = {eta * decay:g}: decay that takes the weights past 0 in a step; keep ηλ < 1")
    return eta * _checks.positive("curvature", curvature) / (2 * (1 - eta * decay))


def forgotten(lags: ArrayLike, intrinsic: float) -> NDArray[np.float64]:
    """1 − (1 − ηλ)^Δ: E|w_{T+Δ} − w_T|²/(2E|w|²) of steps that know nothing of w_T but its decay.

    The discrete Ornstein–Uhlenbeck law of the rate ηλ, whose plateau 2 tr S is 2E|w|², S = E[wwᵀ]. Gradients that pull
    back to where w_T was keep it lower.
    """
    return 1 - (1 - intrinsic) ** np.asarray(lags, float)
