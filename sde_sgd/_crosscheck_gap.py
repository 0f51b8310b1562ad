"""Two values of one quantity from two roads: how far apart, what may lie between them, and what both are made of."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from scipy import stats

BLOCKS = 32  # independent groups of paths, whose scatter is the statistical error
MOMENT_ALARM = 5e-3  # probability that chance alone makes any mean or variance of a table disagree
DISTANCE_ALARM = 2e-4  # and one distance between densities: `distances.Distance.agrees`
_TWICE = 2.0  # the grid's error is an estimate, and may be half of the true one
_REST = 0.5  # share of what the last extrapolation in the step changed, that may be left after it

# What roads are made of. Two roads that share a part do not check it.
DERIVATIVES = "drift and D"  # as SymPy derives them from the landscape's expressions, whatever they are compiled to
CLOSED_FORM = "Φ in closed form"
GENERATOR = "generator of Fokker–Planck"
PHILOX = "Philox"
SAMPLE_GRADIENTS = "sample gradients"  # their mean and covariance are the drift and D of a finite sum


def made_of(one: Iterable[str], other: Iterable[str]) -> dict[str, Any]:
    """The parts of both roads and those of the second, in words, as fields of a `Gap`."""
    kept = list(other)
    return {"shares": ", ".join(part for part in one if part in kept) or "nothing", "parts": ", ".join(kept)}


@dataclass(frozen=True)
class Gap:
    """Two values of one quantity, and what may lie between them if both are right."""

    quantity: str
    pair: str
    one: float
    other: float
    distance: float  # |one − other|, or the L1 distance of densities
    error: float  # statistical, one standard deviation
    floor: float  # of densities: the distance that sampling alone gives
    bias: float  # of the step: what the last extrapolation changed
    grid: float  # of the grid: an estimate from cells twice as wide
    stated: float = 0.0  # a bias that stays in, known from elsewhere; or rounding
    shares: str = "nothing"  # parts that both roads are made of
    parts: str = ""  # parts of the second road
    setting: str = ""  # steps of the road

    def limit(self, deviations: float) -> float:
        """The largest distance that is agreement."""
        sampling = 4.0 * self.error if self.is_density else deviations * self.error
        return self.floor + sampling + _REST * self.bias + _TWICE * self.grid + self.stated

    @property
    def is_density(self) -> bool:
        return self.quantity == "density"

    @property
    def is_sampled(self) -> bool:
        return self.error > 0.0


def deviations(gaps: list[Gap]) -> float:
    """Standard errors that a mean or variance may be off, so that chance exceeds them in 0.5 % of such tables.

    Student's law of 31 degrees of freedom, the level shared by all (Bonferroni).
    """
    count = max(sum(gap.is_sampled and not gap.is_density for gap in gaps), 1)
    return float(stats.t.ppf(1 - MOMENT_ALARM / (2 * count), BLOCKS - 1))


def false_alarm(gaps: list[Gap]) -> float:
    """Bound on the probability that chance alone makes something in the table disagree."""
    sampled = [gap for gap in gaps if gap.is_sampled]
    densities = sum(gap.is_density for gap in sampled)
    return DISTANCE_ALARM * densities + MOMENT_ALARM * (densities < len(sampled))


def left_of(bias: float, noise: float) -> float:
    """Σ|bias| over cells less what noise alone, Σ standard error, gives it."""
    return max(bias - math.sqrt(2 / math.pi) * noise, 0.0)
