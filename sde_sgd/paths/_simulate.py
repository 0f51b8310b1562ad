"""Langevin paths: trajectories of dx = b dt + √(2T D) dW."""

from collections.abc import Callable

import numpy as np
import xarray as xr

from sde_sgd import _checks
from sde_sgd.grid import Grid
from sde_sgd.process import Process
from sde_sgd.results import provenance

from . import _ensemble
from ._generate import langevin_source
from ._histogram import Histogram, density_dataset
from ._kernel_cache import load
from ._schemes import SCHEMES


def simulate(
    process: Process,
    start,
    *,
    step: float,
    steps: int,
    paths: int = 1,
    scheme: str = "auto",
    save_every: int | None = None,
    observables: Histogram | None = None,
    seed: int = 0,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    r"""Independent paths of the Itô diffusion, x' = x + h b(x) + √(2T h) L(x) ξ with L Lᵀ = D, ξ ~ N(0, I).

    Parameters
    ----------
    start : one point (d,) for all paths or (paths, d), inside the process's domain.
    step : h > 0 in units of t; for SGD one step of the recursion is dt = η.
    scheme : a name of `SCHEMES` (`euler_maruyama`: strong order ½, 1 for constant D; weak and measure order 1),
        or "auto", which says in `attrs` what it took.
    save_every : save every k-th state (the start included) along `time`; None keeps the last state only.
    observables : a `Histogram`, counted in the kernel without storing paths.
    seed : one seed, one result: path k has the same bits whatever `paths`, `threads` and `save_every` are.
    progress : called as progress(steps done, steps) several times a second.

    Returns
    -------
    Dataset with one variable per landscape variable, dimension ("path",), with ("path", "time") when saved, and
    coordinate `step` beside `time` = h·step; settings, seed and versions in `attrs`.

    Raises `Diverged` with path and step when a coordinate becomes NaN or exceeds 1e100; ValueError for bad
    arguments, or where the result would not fit in memory. The density of a long run is biased by O(h): compare
    two steps. Maruyama (1955); Kloeden & Platen (1992), §10.2. Reflecting walls are not built: the path is free.
    """
    _checks.instance("process", process, Process, "make one with landscape.at_temperature(T)")
    step = _checks.positive("step", step)
    steps = _checks.whole("steps", steps, 1, _ensemble.MAX_STEPS)
    paths = _checks.whole("paths", paths, 1)
    chosen = SCHEMES["euler_maruyama" if scheme == "auto" else _checks.choice("scheme", scheme, ["auto", *SCHEMES])]
    save_every, observables = _ensemble.outputs(save_every, observables, process.domain, paths, steps)
    x = _ensemble.starts(start, paths, process.dim, process.domain)
    lane = process.landscape.lane_code()
    sigma = np.zeros((process.dim, process.dim))
    if lane.constant_diffusion is not None:
        sigma = np.sqrt(2 * process.temperature * step) * _factor(lane.constant_diffusion)
    module = load(langevin_source(lane, chosen, process.domain.periodic), lane)
    ensemble = _ensemble.run(
        module,
        (step, process.temperature, sigma, *lane.data),
        start=x,
        domain=process.domain,
        steps=steps,
        every=save_every,
        histogram=observables,
        seed=seed,
        parameters=lane.parameters,
        threads=threads,
        progress=progress,
    )
    settings = {**process.settings, "scheme": chosen.name, "step": step, "steps": steps, "seed": seed}
    if scheme == "auto":
        settings["scheme_reason"] = f"auto: {chosen.name} takes any drift and any diffusion matrix"
    return dataset(ensemble, x, process.variables, "path", step, save_every, observables, settings)


def sample_density(
    process: Process,
    grid: Grid,
    *,
    step: float,
    steps: int,
    paths: int,
    burn_in: int,
    start=None,
    every: int = 1,
    blocks: int = 16,
    scheme: str = "auto",
    seed: int = 0,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> xr.DataArray:
    """The time-averaged density of paths on a grid after `burn_in` steps; no path is stored.

    ρ̂ = counts/(samples · cell volume), a DataArray over the variables with the coordinate `density_error`
    (standard error from `blocks` independent groups of paths). `start` defaults to the centre of the grid. Bias
    O(h) of the scheme is not part of the error. Other arguments and errors as in `simulate` and `Histogram`.
    """
    _checks.instance("grid", grid, Grid)
    start = (np.asarray(grid.lower) + np.asarray(grid.upper)) / 2 if start is None else start
    result = simulate(
        process,
        start,
        step=step,
        steps=steps,
        paths=paths,
        scheme=scheme,
        seed=seed,
        threads=threads,
        observables=Histogram(grid, burn_in=burn_in, every=every, blocks=blocks),
        progress=progress,
    )
    parts = Histogram.extract(result)
    return parts["density"].assign_coords(density_error=parts["density_error"]).assign_attrs(result.attrs)


def _factor(diffusion: np.ndarray) -> np.ndarray:
    """Lower L with L Lᵀ = D for a positive semi-definite D; a pivot that is rounding counts as 0, as in the kernel."""
    lower = np.zeros_like(diffusion)
    for i in range(len(diffusion)):
        for j in range(i + 1):
            rest = diffusion[i, j] - lower[i, :j] @ lower[j, :j]
            if i == j:
                lower[i, i] = np.sqrt(rest) if rest > 1e-13 * diffusion[i, i] else 0.0
            elif lower[j, j] > 0:
                lower[i, j] = rest / lower[j, j]
    return lower


def dataset(
    ensemble: _ensemble.Ensemble,
    start: np.ndarray,
    variables,
    member: str,
    clock: float,
    every: int | None,
    histogram: Histogram | None,
    settings: dict,
) -> xr.Dataset:
    """The result of a run as one labelled Dataset."""
    if ensemble.saved is None:
        result = xr.Dataset({v: (member, ensemble.state[:, i]) for i, v in enumerate(variables)})
    else:
        series = ensemble.saved  # (time, d, paths)
        result = xr.Dataset({v: ((member, "time"), series[:, i].T) for i, v in enumerate(variables)})
        count = np.arange(len(series)) * (every or 1)
        result = result.assign_coords(time=count * clock, step=("time", count))
    if histogram is not None and ensemble.counts is not None:
        inside = ensemble.counts[:, :-1].reshape(-1, *histogram.grid.shape)
        density = density_dataset(inside, ensemble.counts[:, -1], histogram.grid, variables, "_bin")
        result = result.merge(density)
        settings = settings | {
            "burn_in": histogram.burn_in,
            "every": histogram.every,
            "samples": int(ensemble.counts.sum()),
            "outside": int(ensemble.counts[:, -1].sum()),
        }
    settings = settings | {member + "s": len(start)}
    return result.assign_attrs(settings | provenance(settings))
