"""A density accumulated while paths run, with its sampling error from independent blocks of paths."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from sde_sgd import _checks
from sde_sgd.errors import TooFewSamples
from sde_sgd.grid import Grid


@dataclass(frozen=True)
class Histogram:
    """Observable: the time-averaged density of all paths on a grid, counted inside the kernel.

    After `burn_in` steps every `every`-th state of every path is counted. Paths are split into `blocks` contiguous
    groups; groups are independent, so their scatter is an honest standard error however correlated one path is.
    Adds to the result: `density`, `density_error` (standard error), `counts` (block, cells) and the attribute
    `outside`, the number of samples beyond the grid. Inside an ensemble's Dataset the grid's dimensions are called
    `<variable>_bin`; `extract` gives them back their names.
    """

    grid: Grid
    burn_in: int = 0
    every: int = 1
    blocks: int = 16

    def __post_init__(self):
        if not isinstance(self.grid, Grid):
            raise ValueError(f"Histogram needs a Grid, got {type(self.grid).__name__}")
        _checks.whole("burn_in", self.burn_in, 0)
        _checks.whole("every", self.every, 1)
        _checks.whole("blocks", self.blocks, 2, None, "a standard error needs at least two blocks")

    def check(self, variables: Sequence[str], paths: int, steps: int) -> None:
        if self.grid.dim != len(variables):
            raise ValueError(
                f"the histogram's grid has {self.grid.dim} dimensions, the process "
                f"{len(variables)} ({', '.join(variables)})"
            )
        if paths < self.blocks:
            raise TooFewSamples(
                f"{paths} paths cannot fill {self.blocks} independent blocks; run at least "
                f"{self.blocks} paths, or ask for fewer blocks (at least 2)"
            )
        if self.burn_in + self.every > steps:
            raise TooFewSamples(
                f"no state is counted: burn_in {self.burn_in} + every {self.every} exceeds {steps} steps"
            )

    @staticmethod
    def extract(result: xr.Dataset) -> xr.Dataset:
        """Density, error and counts of an ensemble's result on dimensions named as the variables."""
        parts = result[["density", "density_error", "counts"]]
        return parts.rename({d: str(d).removesuffix("_bin") for d in parts.dims if str(d).endswith("_bin")})


def density_dataset(
    counts: np.ndarray,
    outside: int,
    grid: Grid,
    variables: Sequence[str],
    suffix: str = "",
    attrs: dict | None = None,
) -> xr.Dataset:
    """density, density_error, counts from counts (block, *cells).

    Each block is normalised by all of its samples, those outside the grid included, so that mass is not invented.
    """
    dims = tuple(f"{v}{suffix}" for v in variables)
    share = (counts.sum(axis=tuple(range(1, counts.ndim))) + outside / len(counts)).reshape(-1, *[1] * grid.dim)
    blocks = counts / share / grid.cell_volume
    total = counts.sum() + outside
    density = counts.sum(axis=0) / total / grid.cell_volume
    error = blocks.std(axis=0, ddof=1) / np.sqrt(len(counts))
    return xr.Dataset(
        {"density": (dims, density), "density_error": (dims, error), "counts": (("block", *dims), counts)},
        coords={d: axis for d, axis in zip(dims, grid.axes)},
        attrs={**(attrs or {}), "samples": int(total), "outside": int(outside)},
    )
