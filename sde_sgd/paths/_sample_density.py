"""The steady density of a process from paths that are not stored."""

from collections.abc import Callable

import numpy as np
import xarray as xr

from sde_sgd import _checks
from sde_sgd.grid import Grid
from sde_sgd.process import Process

from ._histogram import Histogram
from ._simulate import simulate


def sample_density(
    process: Process,
    grid: Grid,
    *,
    step,
    steps: int,
    paths: int,
    burn_in: int,
    project=None,
    start=None,
    every: int = 1,
    blocks: int = 16,
    scheme: str = "auto",
    walls: str | None = None,
    seed: int = 0,
    dtype="float64",
    threads: int | None = None,
    checkpoint=None,
    progress: Callable[[int, int], object] | None = None,
    step_bias: bool = False,
) -> xr.DataArray:
    r"""ρ̂ = counts/(samples · cell volume), averaged over time and paths on a grid after `burn_in` steps.

    Nothing is stored per path, so any number of them needs the same memory. `density_error`, a coordinate, is the
    standard error from `blocks` independent groups of paths. It does not contain the bias of the step, a power of h
    that the scheme declares: `step_bias=True` estimates it cell by cell from a second run at 2h on the same noise, for
    half as much time again, as the coordinates `density_bias` (ρ̂ − density_bias is of the next order) and
    `density_bias_error`; steps and burn_in are then even, `every` even or 1.

    start : one point (d,), or (paths, d); by default the centre of the grid, which must then have all variables.
    project : which variables, or which directions, the axes of the grid are, as in `Histogram`.

    Returns a DataArray over the variables (or the names in `project`), settings and seed in `attrs`. Its sum times the
    cell volume is the share of samples inside. Other arguments and errors as in `simulate` and `Histogram`. The
    average is that of the steady density only where burn_in outlasts the relaxation.
    """
    _checks.instance("process", process, Process, "make one with landscape.at_temperature(T)")
    _checks.instance("grid", grid, Grid)
    histogram = Histogram(grid, burn_in=burn_in, every=every, blocks=blocks, project=project)
    if start is None:
        if project is not None:
            raise ValueError("with project the grid does not say where to start; give start, a point of all variables")
        start = (np.asarray(grid.lower) + np.asarray(grid.upper)) / 2

    result = simulate(
        process, start, step=step, steps=steps, paths=paths, scheme=scheme, walls=walls, save_every=0,
        observables=histogram, seed=seed, dtype=dtype, threads=threads, checkpoint=checkpoint, progress=progress,
        step_bias=step_bias,
    )  # fmt: skip
    parts = Histogram.extract(result)
    names = [name for name in parts if name not in ("density", "counts", "outside")]
    return parts["density"].assign_coords({name: parts[name] for name in names}).assign_attrs(result.attrs)
