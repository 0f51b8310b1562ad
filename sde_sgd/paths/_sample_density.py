"""The steady density of a process from paths that are not stored."""

from collections.abc import Callable

import numpy as np
import xarray as xr

from sde_sgd import _checks
from sde_sgd.grid import Grid
from sde_sgd.process import Process

from ._histogram import Histogram
from ._simulate import simulate
from ._step_bias import with_step_bias


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
    cell volume is the share of samples inside. Other arguments and errors as in `simulate` and `Histogram`; with
    `step_bias` two runs share `checkpoint`, and one interrupted in the second begins the first anew. The average
    is that of the steady density only where burn_in outlasts the relaxation.
    """
    _checks.instance("process", process, Process, "make one with landscape.at_temperature(T)")
    _checks.instance("grid", grid, Grid)
    histogram = Histogram(grid, burn_in=burn_in, every=every, blocks=blocks, project=project)
    if start is None:
        if project is not None:
            raise ValueError("with project the grid does not say where to start; give start, a point of all variables")
        start = (np.asarray(grid.lower) + np.asarray(grid.upper)) / 2

    def run(observables, longer: int) -> xr.Dataset:
        return simulate(
            process, start, step=step if longer == 1 else longer * step, steps=steps // longer, paths=paths,
            scheme=scheme, walls=walls, save_every=0, observables=observables, seed=seed, dtype=dtype, threads=threads,
            checkpoint=checkpoint if longer == 1 or checkpoint is None else f"{checkpoint}.{longer}h",
            progress=progress, substeps=longer,
        )  # fmt: skip

    if step_bias:
        steps, paths = _checks.whole("steps", steps, 1), _checks.whole("paths", paths, 1)
        step = step if np.ndim(step) else _checks.positive("step", step)
        histogram.check(process.domain, paths, steps)
        result = with_step_bias(run, process, histogram, step=step, steps=steps, scheme=scheme)
    else:
        result = run(histogram, 1)
    parts = Histogram.extract(result)
    names = [name for name in parts if name not in ("density", "counts", "outside")]
    return parts["density"].assign_coords({name: parts[name] for name in names}).assign_attrs(result.attrs)
