"""A density accumulated while paths run, with its sampling error from independent blocks of paths."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from sde_sgd import _checks
from sde_sgd._domain import Domain
from sde_sgd.errors import TooFewSamples
from sde_sgd.grid import Grid


@dataclass(frozen=True)
class Histogram:
    """Observable: the time-averaged density of all paths on a grid, counted inside the kernel.

    After `burn_in` steps every `every`-th state of every path is counted. Paths are split into `blocks` contiguous
    groups; groups are independent, so their scatter is an honest standard error however correlated one path is.
    Adds to the result: `density`, `density_error` (standard error), `counts` (block, cells) and `outside` (block),
    the samples beyond the grid. Inside an ensemble's Dataset the grid's dimensions are called `<variable>_bin`;
    `extract` gives them back their names.
    """

    grid: Grid
    burn_in: int = 0
    every: int = 1
    blocks: int = 16

    def __post_init__(self):
        _checks.instance("a histogram's grid", self.grid, Grid)
        object.__setattr__(self, "burn_in", _checks.whole("burn_in", self.burn_in, 0))
        object.__setattr__(self, "every", _checks.whole("every", self.every, 1))
        least = "a standard error needs at least two blocks"
        object.__setattr__(self, "blocks", _checks.whole("blocks", self.blocks, 2, None, least))

    def check(self, domain: Domain, paths: int, steps: int) -> None:
        """Refuse a grid that does not fit the process, or a run too short or small to fill the histogram."""
        grid, names = self.grid, domain.variables
        if grid.dim != len(names):
            raise ValueError(
                f"the histogram's grid has {grid.dim} dimensions, the process {len(names)} ({', '.join(names)})"
            )
        for name, wraps, wall, ends, span in zip(
            names, domain.periodic, grid.boundary, zip(grid.lower, grid.upper), domain.bounds
        ):
            if wraps != (wall == "periodic") or (wraps and tuple(ends) != span):
                raise ValueError(
                    f"the histogram's axis {name} is {wall} over {tuple(ends)}, but the process's is "
                    f"{'periodic' if wraps else 'not periodic'} over {span}; count on a grid that agrees"
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
        """Density, error, counts and outside of an ensemble's result on dimensions named as the variables."""
        parts = _checks.instance("result", result, xr.Dataset)[["density", "density_error", "counts", "outside"]]
        return parts.rename({d: str(d).removesuffix("_bin") for d in parts.dims if str(d).endswith("_bin")})


def density_dataset(
    counts: np.ndarray, outside: np.ndarray, grid: Grid, variables: Sequence[str], suffix: str = ""
) -> xr.Dataset:
    """density, density_error, counts, outside from counts (block, *cells) and the samples outside (block,).

    The density is normalised by all samples, those outside included, so that mass is not invented; each block by
    its own.
    """
    dims = tuple(f"{v}{suffix}" for v in variables)
    cells = tuple(range(1, counts.ndim))
    share = (counts.sum(axis=cells) + outside).reshape(-1, *[1] * grid.dim)
    blocks = counts / share / grid.cell_volume
    density = counts.sum(axis=0) / share.sum() / grid.cell_volume
    error = blocks.std(axis=0, ddof=1) / np.sqrt(len(counts))
    return xr.Dataset(
        {
            "density": (dims, density),
            "density_error": (dims, error),
            "counts": (("block", *dims), counts),
            "outside": ("block", outside),
        },
        coords={d: axis for d, axis in zip(dims, grid.axes)},
    )
