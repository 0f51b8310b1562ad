"""How far a sampled density is from a reference, and what of that is sampling."""

from dataclasses import dataclass

import numpy as np
import xarray as xr

from .errors import TooFewSamples


@dataclass(frozen=True)
class Distance:
    """An L1 distance ∫|ρ̂ − ρ| ∈ [0, 2] with its sampling facts.

    `error`: its standard error (jackknife over independent blocks). `floor`: the distance that sampling alone gives
    when ρ̂ is right, √(2/π) Σ standard error · cell volume. A distance is a difference of densities only where it
    clearly exceeds the floor.
    """

    distance: float
    error: float
    floor: float

    def agrees(self, allowance: float = 0.0, deviations: float = 4.0) -> bool:
        """True where distance ≤ floor + deviations · error + allowance (known errors of the reference)."""
        return self.distance <= self.floor + deviations * self.error + allowance


def blocks_of(sampled: xr.Dataset) -> xr.DataArray:
    """Densities of the independent blocks of a `Histogram`: (block, *variables), mass outside the grid left out."""
    counts = sampled["counts"]
    cells = [d for d in counts.dims if d != "block"]
    volume = np.prod([float(counts[d][1] - counts[d][0]) for d in cells])
    per_block = counts.sum(cells) + sampled.attrs["outside"] / counts.sizes["block"]
    return counts / per_block / volume


def l1_distance(blocks: xr.DataArray, reference: xr.DataArray, reference_error: xr.DataArray | None = None) -> Distance:
    """Distance of the mean over `block` from a reference on the same grid.

    Mass that either has outside the grid counts fully: ρ̂ and ρ are completed by what they lack to 1.
    `reference_error`: standard error per cell where the reference is itself sampled; it enters floor and error.
    Raises ValueError where the grids differ, TooFewSamples with fewer than two blocks.
    """
    cells = tuple(str(d) for d in reference.dims)
    number = blocks.sizes["block"]
    if number < 2:
        raise TooFewSamples(f"a jackknife error needs at least 2 independent blocks, got {number}")
    if any(not np.array_equal(blocks[d], reference[d]) for d in cells):
        raise ValueError("the sampled and the reference density lie on different grids; sample on the reference's grid")
    values = blocks.transpose("block", *cells).values
    volume = float(np.prod([float(reference[d][1] - reference[d][0]) for d in cells]))

    def distance(density: np.ndarray) -> float:
        lost = abs(density.sum() - float(reference.sum())) * volume
        return float(np.abs(density - reference.values).sum() * volume + lost)

    mean = values.mean(axis=0)
    left_out = np.array([distance((mean * number - block) / (number - 1)) for block in values])
    error = float(np.sqrt((number - 1) / number * ((left_out - left_out.mean()) ** 2).sum()))
    spread = values.std(axis=0, ddof=1) / np.sqrt(number)
    if reference_error is not None:
        own = spread
        spread = np.hypot(spread, reference_error.values)
        error *= float(np.sqrt((spread**2).sum() / (own**2).sum()))
    return Distance(distance(mean), error, float(np.sqrt(2 / np.pi) * spread.sum() * volume))


def coarsen(density: xr.DataArray, factor: int) -> xr.DataArray:
    """Cell averages over `factor` cells per axis; mass is kept exactly."""
    return density.coarsen({d: factor for d in density.dims}).mean()
