"""What `sde-sgd density` computes: a steady density on a grid, and what was asked beside it, each kept as a stage."""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import xarray as xr

from ._boltzmann import exact
from ._console import Console, Progress
from ._region import Region
from ._solved import solved
from .figures import animate_density
from .fokker_planck import FokkerPlanck
from .grid import Grid
from .potential import decompose, modes
from .process import Process
from .results import Run, provenance

ANIMATION = "evolution.gif"
STEPS = "evolution-so-far.nc"
_FEWEST = 5  # cells per axis, from which on a mode can be refined


def forget_files(run: Run) -> None:
    """Delete what the run keeps beside its figures and stages."""
    for path in (run.folder / "figures" / ANIMATION, *run.folder.glob(f"{STEPS}*")):
        path.unlink(missing_ok=True)


def perform(run: Run, process: Process, console: Console) -> None:
    """Solve, or go on after the last finished stage; then write result.nc, report.html and the figures."""
    from ._density_report import told

    config = run.config
    fp = generator(process, config)
    groups: dict[str, xr.Dataset] = {}

    def stage(name: str, title: str, compute: Callable[[Progress], xr.Dataset]) -> xr.Dataset:
        def announced() -> xr.Dataset:
            with console.stage(title) as progress:
                return compute(progress)

        groups[f"/{name}"] = cast(xr.Dataset, run.stage(name, announced))
        return groups[f"/{name}"]

    if "absorbing" not in fp.grid.boundary:
        cells = " × ".join(map(str, fp.grid.shape))
        found = stage("steady", f"steady density on {cells} cells", lambda _: steady(fp))
        if min(fp.grid.shape) >= _FEWEST:
            groups["/modes"] = modes(found["log_density"])
        if (known := exact(process, "reflect", fp.grid)) is not None:
            known = known.rename({d: str(d).removesuffix("_bin") for d in known["density"].dims})
            groups["/prediction"] = known
            gap = abs(found["density"].values - known["density"].values).sum() * fp.grid.cell_volume
            groups["/comparison"] = xr.Dataset({"distance": float(gap)})
    if "spectrum" in config:
        stage("spectrum", f"{config['spectrum']} slowest modes", lambda _: modes_of_relaxation(fp, config["spectrum"]))
    if "exit" in config:
        stage("exit", f"exit times of {config['exit']}", lambda _: exits(fp, config))
    if "from" in config:
        title = f"transitions from {config['from']} to {config['to']}"
        stage("transitions", title, lambda _: fp.transitions(*(_region(fp, config, end) for end in ("from", "to"))))
    if "evolve" in config:
        stage("evolution", f"evolution to t = {config['evolve']:g}", lambda p: evolution(run, fp, config, p))
        if fp.grid.dim <= 2:
            with console.stage("animation"):
                (run.folder / "figures").mkdir(exist_ok=True)
                animate_density(groups["/evolution"]["density"], run.folder / "figures" / ANIMATION)
    groups["/diagnostics"] = diagnose(fp, groups)
    report, figures = told(process, groups, config)
    run.finish(xr.DataTree.from_dict(groups), report.html(provenance(config)), figures)
    for path in run.folder.glob(f"{STEPS}*"):
        path.unlink(missing_ok=True)


def generator(process: Process, config: dict[str, Any]) -> FokkerPlanck:
    """The generator on the grid that was asked for, or on one around the steady density."""
    walls = config["boundary"]
    if config["box"] == "around":
        try:
            grid = Grid.around(process, shape=config.get("shape"), boundary=walls)
        except ValueError as fault:
            raise ValueError(f"{fault}; or give --box") from fault
    else:
        lower, upper = np.reshape(config["box"], (process.dim, 2)).T.tolist()
        grid = Grid(lower, upper, config["shape"], boundary=walls)
    return FokkerPlanck(process, grid, **({"max_offset": config["max_offset"]} if "max_offset" in config else {}))


def steady(fp: FokkerPlanck) -> xr.Dataset:
    """The density with its moments and their errors, and the parts of the drift that follow from it."""
    result = solved(fp)
    parts = decompose(fp)
    return result.merge(parts, combine_attrs="override").assign_attrs(result.attrs | {"q": parts.attrs["q"]})


def exits(fp: FokkerPlanck, config: dict[str, Any]) -> xr.Dataset:
    """log of the mean exit time of every cell; the density and rate of those that stay long, or why there is none."""
    region = _region(fp, config, "exit")
    time = fp.mean_exit_time(region, log=True)
    result = xr.Dataset({"log_mean_exit_time": time}, attrs={"region": region.describe()})
    if "start" in config:
        at = time.interp(dict(zip(fp.process.variables, config["start"])))
        if np.isfinite(at):
            result["start_log_mean_exit_time"] = at.drop_vars(fp.process.variables)
        elif "evolve" not in config:  # else it is where the evolution begins
            raise ValueError(f"start {tuple(config['start'])} lies outside {config['exit']!r}, or at its very border")
    try:
        lasting = fp.quasi_stationary(region)
    except ValueError as fault:
        return result.assign_attrs(rate_missing=str(fault))
    return result.merge(lasting, combine_attrs="override").assign_attrs(lasting.attrs | result.attrs)


def modes_of_relaxation(fp: FokkerPlanck, k: int) -> xr.Dataset:
    """`fp.spectrum(k)` in real numbers, which netCDF knows: rate + i·frequency, and both parts of the modes."""
    found = fp.spectrum(k)
    result = found[["residual", "condition"]]
    result["rate"], result["frequency"] = found["eigenvalue"].real, found["eigenvalue"].imag
    for name in ("right", "left"):
        result[name] = found[name].real
        if np.iscomplexobj(found[name].values):
            result[f"{name}_imaginary"] = found[name].imag
    return result.assign_attrs(found.attrs)


def as_found(modes: xr.Dataset) -> xr.Dataset:
    """What `fp.spectrum` gave, from `modes_of_relaxation`."""
    turning = "right_imaginary" in modes
    result = modes[["residual", "condition"]]
    result["eigenvalue"] = modes["rate"] + 1j * modes["frequency"] if turning else modes["rate"]
    for name in ("right", "left"):
        result[name] = modes[name] + 1j * modes[f"{name}_imaginary"] if turning else modes[name]
    return result.assign_attrs(modes.attrs)


def evolution(run: Run, fp: FokkerPlanck, config: dict[str, Any], progress: Progress) -> xr.Dataset:
    """The density at equal times from a point, and how its free energy falls where there is a steady state."""
    times = config["evolve"] * np.arange(config["snapshots"] + 1) / config["snapshots"]
    lasting = "absorbing" not in fp.grid.boundary
    if lasting:
        fp.steady_state()  # also in a run that found this stage done: the bias of the splitting is measured by it
    kept = run.folder / STEPS  # as far as it got, should it be interrupted
    density = fp.evolve(config["start"], times, scheme=config["scheme"], file=kept, progress=progress).load()
    result = xr.Dataset({"density": density}, attrs=density.attrs)
    if not lasting:
        return result
    return result.merge(fp.free_energy(density), combine_attrs="override").assign_attrs(density.attrs)


def _region(fp: FokkerPlanck, config: dict[str, Any], name: str) -> Region:
    landscape = fp.process.landscape
    return Region.of(config[name], fp.process.variables, landscape.parameters, fp.process.domain, name)


def diagnose(fp: FokkerPlanck, groups: dict[str, xr.Dataset]) -> xr.Dataset:
    """What says how far the numbers can be trusted, as scalars."""
    facts: dict[str, Any] = {"cells": fp.grid.size}
    for attrs in (fp.attrs, groups["/steady"].attrs if "/steady" in groups else {}):
        facts |= {k: float(v) for k, v in attrs.items() if k in TOLD and isinstance(v, int | float)}
    if "/steady" in groups:
        facts["detailed_balance"] = bool(fp.detailed_balance)
    ends = zip(fp.process.variables, fp.grid.lower, fp.grid.upper, fp.grid.shape, fp.grid.boundary)
    box = ", ".join(f"{name} from {a:.4g} to {b:.4g} in {n} cells ({wall})" for name, a, b, n, wall in ends)
    told = list(groups.get("/steady", xr.Dataset()).attrs.get("warnings", []))
    return xr.Dataset(facts, attrs={"grid": box, "warnings": told})


TOLD = (
    *("max_peclet", "mean_peclet", "longest_offset", "added_diffusion_max", "added_diffusion_mean", "error"),
    *("residual", "wall_mass", "wall_drift"),
)
