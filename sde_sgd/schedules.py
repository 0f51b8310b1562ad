"""Temperatures and learning rates as functions of time: callables that take arrays and print as they are made.

A schedule given as the temperature of a process is a function of time t; given as a learning rate, of the number of
steps done. `breakpoints(end)` names the times below `end` at which one jumps or turns.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from . import _checks

_MOST_TURNS = 1_000_000

__all__ = ["Annealing", "Cyclic", "StepDecay", "Trapezoid"]


@dataclass(frozen=True)
class Annealing:
    """start · (end/start)^{t/duration}: exponential from `start` to `end`, which it keeps after `duration`."""

    start: float
    end: float
    duration: float

    def __post_init__(self):
        _positive(self, "start", "end", "duration")

    def __call__(self, t):
        share = np.clip(np.asarray(t, float) / self.duration, 0.0, 1.0)
        return self.start * (self.end / self.start) ** share

    def breakpoints(self, end: float) -> list[float]:
        return _before(end, [self.duration])


@dataclass(frozen=True)
class Cyclic:
    """A triangle wave from `low` up to `high` and back within `period` (Smith 2017, cyclical learning rates)."""

    low: float
    high: float
    period: float

    def __post_init__(self):
        _positive(self, "low", "high", "period")
        if self.low > self.high:
            raise ValueError(f"low must not exceed high, got {self.low:g} and {self.high:g}")

    def __call__(self, t):
        phase = np.asarray(t, float) / self.period
        return self.low + (self.high - self.low) * (1.0 - np.abs(1.0 - 2.0 * (phase - np.floor(phase))))

    def breakpoints(self, end: float) -> list[float]:
        """Every half period; ValueError beyond a million of them, which no steps that end at each could follow."""
        half = 0.5 * self.period
        if end > _MOST_TURNS * half:
            raise ValueError(
                f"{self} turns more than {_MOST_TURNS} times before {end:g}; take a longer period, or a temperature "
                "between its ends"
            )
        return _before(end, (half * i for i in range(1, math.ceil(end / half) + 1)))


@dataclass(frozen=True)
class Trapezoid:
    """From `floor` straight up to `peak` during `rise`, kept during `hold`, straight down during `fall`, then `floor`.

    Xing, Arpit, Tsirigotis & Bengio (2018), §5.
    """

    floor: float
    peak: float
    rise: float
    hold: float
    fall: float

    def __post_init__(self):
        _positive(self, "floor", "peak", "rise", "hold", "fall")
        if self.floor > self.peak:
            raise ValueError(f"floor must not exceed peak, got {self.floor:g} and {self.peak:g}")

    def __call__(self, t):
        corners = np.cumsum([0.0, self.rise, self.hold, self.fall])
        return np.interp(np.asarray(t, float), corners, [self.floor, self.peak, self.peak, self.floor])

    def breakpoints(self, end: float) -> list[float]:
        return _before(end, np.cumsum([self.rise, self.hold, self.fall]))


@dataclass(frozen=True)
class StepDecay:
    """start · factor^k from the k-th of the times `at` on."""

    start: float
    factor: float
    at: tuple[float, ...]

    def __post_init__(self):
        _positive(self, "start", "factor")
        times = _checks.finite_array("at", self.at)
        if times.ndim != 1 or not len(times) or (np.diff(times) <= 0).any():
            raise ValueError(f"at must be increasing times, got {self.at!r}")
        object.__setattr__(self, "at", tuple(map(float, times)))

    def __call__(self, t):
        return self.start * self.factor ** np.searchsorted(self.at, np.asarray(t, float), side="right")

    def breakpoints(self, end: float) -> list[float]:
        return _before(end, self.at)


def _before(end: float, times: Iterable[float]) -> list[float]:
    return [float(t) for t in times if 0.0 < t < end]


def _positive(schedule, *names: str) -> None:
    for name in names:
        object.__setattr__(schedule, name, _checks.positive(name, getattr(schedule, name)))
