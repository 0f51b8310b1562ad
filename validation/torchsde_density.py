"""A stationary density from torchsde, on the same grid as the core's densities."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torchsde
import xarray as xr
from numpy.typing import ArrayLike

from sde_sgd import Grid, Histogram, Process, _checks, _memory

from ._blocks import BlockHistogram
from .torchsde_adapter import torchsde_states


def simulate_torchsde(
    process,
    start: ArrayLike,
    *,
    grid: Grid,
    step: float,
    steps: int,
    paths: int,
    burn_in: int = 0,
    every: int = 1,
    blocks: int = 16,
    seed: int = 0,
    increments: ArrayLike | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> xr.Dataset:
    """Density of the process on a grid: histogram of :func:`torchsde_states` in independent blocks of paths.

    density = (1/B) Σ_b counts_b / (n · cell volume), with n all samples of a block, inside *and* outside the
    grid, so that it integrates to the fraction inside; ``density_error`` is the standard deviation of the B
    blocks' densities over √B. Blocks share no path, so the error includes correlation in time; the bias O(h)
    of Euler–Maruyama is not part of it.

    Parameters
    ----------
    grid : its axes are the variables, periodic where the process is, and then over exactly its period.
    burn_in, every : steps left out at first, and steps between samples.
    blocks : B ≥ 2, a divisor of ``paths``.
    The others as in :func:`torchsde_states`.

    Returns
    -------
    xarray.Dataset
        ``density``, ``density_error`` (*variables), ``counts`` (block, *variables) and ``outside`` (block), the
        samples off the grid, as ``Histogram.extract`` gives them for the core, and ``state`` (path, component),
        the last states counted; ``samples``, ``outside`` over all blocks and settings in attrs.

    Raises
    ------
    ValueError
        As :func:`torchsde_states`; a number of blocks that does not divide the paths; a grid whose dimension,
        periodic axes or periods are not the process', or that does not fit in memory with all its blocks.
    """
    _checks.instance("process", process, Process, "make one with landscape.at_temperature(T)")
    _checks.instance("grid", grid, Grid)
    paths, steps = _checks.whole("paths", paths, 1), _checks.whole("steps", steps, 1)
    Histogram(grid, burn_in=burn_in, every=every, blocks=blocks).check(process.domain, paths, steps)
    # Counters, and the densities made of them.
    _memory.refuse_beyond(
        8 * 6 * blocks * grid.size, "this histogram", "count a coarser grid, or keep fewer blocks (at least 2)"
    )
    schedule = {"steps": steps, "paths": paths, "burn_in": burn_in, "every": every, "seed": seed}
    runs = torchsde_states(process, start, step=step, increments=increments, progress=progress, **schedule)
    histogram, last = BlockHistogram(grid, paths, blocks), None
    for states in runs:
        histogram.add(states)
        last = states[-1]
    result = histogram.dataset(process.variables)
    result["state"] = ("path", "component"), last
    return result.assign_coords(component=list(process.variables)).assign_attrs(
        process.settings,
        scheme="torchsde euler",
        noise="BrownianInterval" if increments is None else "given",
        torchsde_version=torchsde.__version__,
        torch_version=str(torch.__version__),
        h=float(step),
        **schedule,
    )
