"""From valley floor to valley floor: whether the floor itself has barriers, and how high above it the iterates are."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sde_sgd import FiniteSum, _checks

from ._walk_segments import place_of_floor, segments
from .measures import flat
from .measures_steps import STATISTICS, Ahead, along

if TYPE_CHECKING:
    from .recording import RunState

LINES = ("floor", "iterate")


class FloorLoss:
    """f on the segment from the last floor to this one, and from the last iterate to this one: (2, points).

    The floor of the step from w to w' is w + α*(w' − w) with the α* of `place_of_floor` for f((1−α)w + αw'). Last means
    of the measurement before, so that the schedule says how far apart floors are; the first, which has none before it,
    is NaN; one object is for one run. `statistics` of batch norm as of `SegmentLoss`, "eval" with the running averages
    of the later end.

    A bent way between two floors may be lower than the straight one. A floor is that of one step, not of all
    directions: where it lies above the valley's own, a part of a barrier is hidden.
    """

    def __init__(self, points: int = 11, statistics: str = "eval"):
        self.points = _checks.whole("points", points, 3, 10_001)
        self.statistics = _checks.choice("statistics", statistics, list(STATISTICS))
        self._last: Tensor | None = None

    def __call__(self, model: nn.Module, state: RunState) -> NDArray[np.float64]:
        alphas = np.linspace(0, 1, self.points)

        def losses(begin: Tensor, end: Tensor) -> NDArray[np.float64]:
            return along(model, begin, end, state.loss, state.inputs, state.targets, alphas, self.statistics)

        ahead, here = Ahead(model, state), flat(model)
        there = ahead.step(ahead.gradient())
        way = losses(here, there)
        known = np.isfinite(way)
        place = place_of_floor(way) if known.all() else alphas[np.where(known, way, np.inf).argmin()]
        last = self._last if state.step else None
        self._last = torch.stack([torch.lerp(here, there, float(place)), here])
        if last is None:
            return np.full((len(LINES), self.points), np.nan)
        return np.stack([losses(begin, end) for begin, end in zip(last, self._last)])

    def state_dict(self) -> dict[str, Tensor | None]:
        return {"last": self._last}

    def load_state_dict(self, state: dict[str, Tensor | None]) -> None:
        self._last = state["last"]


class Joined(NamedTuple):
    """Of each segment from floor to floor, (n,): whether it crosses a barrier, `rise` of its highest point above the
    higher floor, whether the segment between the iterates above crosses one, and `height` of these above the floors.
    """

    barrier: NDArray[np.bool_]
    rise: NDArray[np.float64]
    above: NDArray[np.bool_]
    height: NDArray[np.float64]

    def of(self, part: slice) -> Joined:
        """Some of the segments."""
        return Joined(self.barrier[part], self.rise[part], self.above[part], self.height[part])


def joined(losses: NDArray[np.float64]) -> Joined:
    """What `FloorLoss` measured, (n, 2, points), told per segment; `height` is the mean over both ends."""
    floors, iterates = (segments(losses[:, k]) for k in range(len(LINES)))
    height = (losses[:, 1, [0, -1]] - losses[:, 0, [0, -1]]).mean(-1)
    return Joined(floors.barrier, floors.rise, iterates.barrier, height)


def joined_on_toy(
    landscape: FiniteSum, weights: NDArray[np.float64], losses: NDArray[np.float64], apart: int
) -> tuple[Joined, NDArray[np.float64]]:
    """The same of a recorded path (n + 1, 2) in a valley along its first variable with its floor at 0 of the second,
    `losses` (n, points) on its steps; and, beside it, `rise` along the floor itself, finely between the same places.
    """
    steps = np.arange(0, len(losses), apart)
    here, there = weights[steps], weights[steps + 1]
    floors = here + place_of_floor(losses[steps])[:, None] * (there - here)
    alphas = np.linspace(0, 1, losses.shape[-1])[:, None]

    def between(ends: NDArray[np.float64], alphas: NDArray[np.float64]) -> NDArray[np.float64]:
        return landscape.loss(ends[:-1, None] + alphas * (ends[1:] - ends[:-1])[:, None])

    found = joined(np.stack([between(floors, alphas), between(here, alphas)], axis=1))
    exact = between(floors * np.array([1.0, 0.0]), np.linspace(0, 1, 401)[:, None])
    return found, segments(exact).rise
