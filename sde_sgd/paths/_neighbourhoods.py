"""Which states speak for which place: cells of a grid, kernels about points, or all for one."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from sde_sgd.grid import Grid


@dataclass(frozen=True)
class Pairs:
    """State `state` counts at place `place` with `weight`; `offset` = (x − centre)/width."""

    place: np.ndarray
    state: np.ndarray
    weight: np.ndarray
    offset: np.ndarray


class Neighbourhoods(Protocol):
    """P places with centre (P, d) and width (d,)."""

    centre: np.ndarray
    width: np.ndarray

    def pairs(self, x: np.ndarray) -> Pairs:
        """The places each of the states (S, d) counts at."""
        ...

    def own(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The one place each state is evaluated with, −1 for none, and its offset from there."""
        ...


class Cells:
    """A state counts in the cell it lies in, fully."""

    def __init__(self, grid: Grid):
        self.grid, self.centre, self.width = grid, grid.centers().reshape(-1, grid.dim), grid.spacing

    def pairs(self, x: np.ndarray) -> Pairs:
        place, offset = self.own(x)
        state = np.flatnonzero(place >= 0)
        return Pairs(place[state], state, np.ones(len(state)), offset[state])

    def own(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        place, inside = np.zeros(len(x), np.int64), np.ones(len(x), bool)
        offset = np.empty_like(x)
        for i, (cells, wraps) in enumerate(zip(self.grid.shape, self.grid.periodic)):
            scaled = (x[:, i] - self.grid.lower[i]) / self.width[i]
            if wraps:
                scaled %= cells
                scaled[scaled >= cells] = 0.0  # −1e−17 % n rounds to n
            index = np.floor(scaled)
            inside &= (index >= 0) & (index < cells)
            offset[:, i] = scaled - index - 0.5
            place = cells * place + np.clip(index, 0, cells - 1).astype(np.int64)
        return np.where(inside, place, -1), offset


class Kernels:
    """A state counts at every point within a bandwidth, with the weight 1 − |x − point|²/bandwidth² (Epanechnikov)."""

    def __init__(self, points: np.ndarray, bandwidth: np.ndarray):
        from scipy.spatial import cKDTree

        self.centre, self.width = points, bandwidth
        self._tree = cKDTree(points / bandwidth)

    def pairs(self, x: np.ndarray) -> Pairs:
        from scipy.spatial import cKDTree

        near = self._tree.sparse_distance_matrix(cKDTree(x / self.width), 1.0, output_type="ndarray")
        place, state = near["i"], near["j"]
        weight = 1.0 - np.minimum(near["v"], 1.0) ** 2
        return Pairs(place, state, weight, (x[state] - self.centre[place]) / self.width)

    def own(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        distance, place = self._tree.query(x / self.width)
        offset = (x - self.centre[place]) / self.width
        return np.where(distance <= 1.0, place, -1), offset


class Everywhere:
    """All states count at one place, their mean, fully; the width is their standard deviation."""

    def __init__(self, mean: np.ndarray, deviation: np.ndarray):
        self.centre, self.width = mean[None], deviation

    def pairs(self, x: np.ndarray) -> Pairs:
        place, offset = self.own(x)
        return Pairs(place, np.arange(len(x)), np.ones(len(x)), offset)

    def own(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(len(x), np.int64), (x - self.centre) / self.width
