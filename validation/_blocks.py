"""Histogram of many states on a grid, kept apart in independent blocks of paths."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray


class BlockHistogram:
    """Counts of states in the cells of a grid for ``blocks`` contiguous, equal groups of paths.

    ValueError where ``blocks`` is below 2 or does not divide ``paths``.
    """

    def __init__(self, grid, paths: int, blocks: int):
        if blocks < 2 or paths % blocks:
            raise ValueError(
                f"blocks={blocks}: at least 2 for an error estimate, and a divisor of paths={paths}, so that "
                "every block holds as many paths"
            )
        self._grid, self._blocks, self._size = grid, blocks, paths // blocks
        self._counts = np.zeros((blocks, int(np.prod(grid.shape))), dtype=np.int64)
        self._total = 0
        self._lower = np.asarray(grid.lower, dtype=np.float64).reshape(-1)
        self._spacing = (np.asarray(grid.upper, dtype=np.float64).reshape(-1) - self._lower) / grid.shape

    def add(self, states: NDArray[np.float64]) -> None:
        """Count states (saves, paths, d); a cell owns its lower edge."""
        shape = self._grid.shape
        index = np.floor((states - self._lower) / self._spacing)
        inside = ((index >= 0) & (index < shape)).all(axis=-1)
        # Outside states go to one extra bin: their index may not even fit an integer.
        flat = np.full(inside.shape, self._counts.shape[1])
        flat[inside] = np.ravel_multi_index(tuple(index[inside].astype(np.int64).T), shape)
        for block, counts in enumerate(self._counts):
            cells = flat[:, block * self._size : (block + 1) * self._size].ravel()
            counts += np.bincount(cells, minlength=len(counts) + 1)[:-1]
        self._total += len(states) * self._size

    def dataset(self, variables: tuple[str, ...]) -> xr.Dataset:
        """``counts``, ``density``, ``density_error`` and ``outside``, with cell centres as coordinates."""
        counts = self._counts.reshape(self._blocks, *self._grid.shape)
        densities = counts / (self._total * float(np.prod(self._spacing)))
        centres = {
            name: lower + spacing * (np.arange(cells) + 0.5)
            for name, lower, spacing, cells in zip(variables, self._lower, self._spacing, self._grid.shape)
        }
        return xr.Dataset(
            {
                "counts": (("block", *variables), counts),
                "density": (variables, densities.mean(axis=0)),
                "density_error": (variables, densities.std(axis=0, ddof=1) / np.sqrt(self._blocks)),
                "outside": self._total * self._blocks - int(counts.sum()),
            },
            coords=centres,
            attrs={"samples_per_block": self._total},
        )
