"""Histogram of many states on a grid, kept apart in independent blocks of paths."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from sde_sgd.paths import density_dataset


class BlockHistogram:
    """Counts of states in the cells of a grid for ``blocks`` contiguous, equal groups of paths.

    ValueError where ``blocks`` does not divide ``paths``.
    """

    def __init__(self, grid, paths: int, blocks: int):
        if paths % blocks:
            raise ValueError(
                f"blocks={blocks} must be a divisor of paths={paths}, so that every block holds as many paths"
            )
        self._grid, self._blocks, self._size = grid, blocks, paths // blocks
        self._counts = np.zeros((blocks, grid.size), dtype=np.int64)
        self._total = 0

    def add(self, states: NDArray[np.float64]) -> None:
        """Count states (saves, paths, d); a cell owns its lower edge.

        The end of a periodic axis, over exactly one period, is its beginning.
        """
        shape = self._grid.shape
        index = np.floor((states - self._grid.lower) / self._grid.spacing)
        for axis, periodic in enumerate(self._grid.periodic):
            if periodic:
                index[..., axis] %= shape[axis]
        inside = ((index >= 0) & (index < shape)).all(axis=-1)
        # Outside states go to one extra bin: their index may not even fit an integer.
        flat = np.full(inside.shape, self._counts.shape[1])
        flat[inside] = np.ravel_multi_index(tuple(index[inside].astype(np.int64).T), shape)
        for block, counts in enumerate(self._counts):
            cells = flat[:, block * self._size : (block + 1) * self._size].ravel()
            counts += np.bincount(cells, minlength=len(counts) + 1)[:-1]
        self._total += len(states) * self._size

    def dataset(self, variables: tuple[str, ...]) -> xr.Dataset:
        """``density``, ``density_error``, ``counts`` and ``outside``, with cell centres as coordinates."""
        counts = self._counts.reshape(self._blocks, *self._grid.shape)
        outside = self._total - self._counts.sum(axis=1)
        result = density_dataset(counts, outside, self._grid, variables)
        return result.assign_attrs(samples=self._total * self._blocks, outside=int(outside.sum()))
