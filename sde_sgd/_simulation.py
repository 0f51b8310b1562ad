"""What `sde-sgd simulate` computes, checks, and tells: a run of paths, and the exact answer where it is known."""

import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import xarray as xr

from ._boltzmann import exact, grid_of
from ._console import Console, Progress
from .distances import blocks_of, l1_distance
from .errors import Diverged, TooFewSamples
from .figures import plot_densities, plot_paths
from .paths import Histogram, Moments, Winding, simulate
from .process import Process
from .report import Report, number
from .results import Run, provenance

SHOWN = 8  # paths whose states are kept
_ALARM = 4.0  # standard errors between the last states and the time average that are told
_ALARM_EXACT = 5.0  # from the exact value; with 16 blocks, by chance in 1 of 6,000 numbers
_LOST = 0.01  # share of the samples outside the domain that is told


def forget_checkpoints(run: Run) -> None:
    """Delete what interrupted runs of the same question left."""
    for path in run.folder.glob("*.checkpoint*"):
        path.unlink(missing_ok=True)


def forget_empty(run: Run) -> None:
    """Delete the folder of a run that a fault ended before it had anything to keep."""
    if [path.name for path in run.folder.iterdir()] == ["config.toml"]:
        (run.folder / "config.toml").unlink()
        run.folder.rmdir()


def perform(run: Run, process: Process, console: Console, threads: int | None) -> None:
    """Simulate, or go on where an earlier run stopped; then write result.nc, report.html and the figures."""
    config, grid = run.config, grid_of(process)
    sampling = dict(burn_in=config["burn_in"], every=config["every"])
    observables: list = [] if grid is None else [Histogram(grid, **sampling)]
    if not any(process.domain.periodic):  # a mean depends on where a period is cut
        observables.append(Moments(**sampling))
    elif process.dim == 1:
        observables.append(Winding(process.variables[0], burn_in=config["burn_in"]))

    def paths(name: str, title: str, count: int, **options: Any) -> xr.Dataset:
        def compute() -> xr.Dataset:
            with console.stage(title) as progress:
                return simulate(
                    process, config["start"], step=config["step"], steps=config["steps"], paths=count,
                    scheme=config["scheme"], walls=None if config["walls"] == "none" else config["walls"],
                    seed=config["seed"], dtype=config["dtype"], threads=threads,
                    progress=_whole_way(progress, options.get("step_bias", False)),
                    checkpoint=run.folder / f"{name}.checkpoint", **options,
                )  # fmt: skip

        return cast(xr.Dataset, run.stage(name, compute))

    title = f"{config['paths']} paths of {config['landscape']}"
    try:
        measured = paths("paths", title, config["paths"], observables=observables, step_bias=config["step_bias"])
    except Diverged as fault:
        raise Diverged(
            f"{fault}; where nothing confines the paths, take --walls reflect", path=fault.path, step=fault.step
        ) from fault
    groups = {"/measurement": measured}
    if (known := exact(process, config["walls"])) is not None:
        groups["/prediction"] = known
        if (found := _distance(measured, known)) is not None:
            groups["/comparison"] = found
    if "save_every" in config:  # the same random numbers: these are the first paths of the run
        few = min(SHOWN, config["paths"])
        groups["/trajectories"] = paths("trajectories", f"{few} paths kept", few, save_every=config["save_every"])
    groups["/diagnostics"] = diagnose(groups)
    report, figures = _told(process, groups, config)
    run.finish(xr.DataTree.from_dict(groups), report.html(provenance(config, config["dtype"])), figures)


def _whole_way(progress: Progress, twice: bool) -> Callable[[int, int], None]:
    """One progress for both runs of a step's bias: the first, at twice the step, is a third of the work."""
    first: list[int] = []

    def shown(done: int, total: int) -> None:
        first.append(total)
        before = first[0] if total != first[0] else 0
        progress(before + done, 3 * first[0] if twice else total)

    return shown


# Evidence -------------------------------------------------------------------------------------------------


def diagnose(groups: dict[str, xr.Dataset]) -> xr.Dataset:
    """Is it stationary, is it in the domain: the last states against the time average, and what lies outside.

    `deviation` is the largest difference of mean and variance in standard errors, `deviation_exact` that from the
    exact values once the step's bias is taken off.
    """
    measured, found = groups["/measurement"], dict[str, Any]()
    if "outside" in measured:
        found["outside_share"] = float(measured["outside"].sum() / measured.attrs["samples"])
    if "exit_time" in measured:
        found["absorbed_share"] = float(measured["exit_time"].notnull().mean())
    elif "mean" in measured:
        last = np.stack([measured[str(v)].values for v in measured["variable"].values]).astype(float)
        centred = last - last.mean(1, keepdims=True)
        variance, root = (centred**2).mean(1), math.sqrt(last.shape[1])
        errors = np.sqrt(variance) / root, np.sqrt(((centred**2 - variance[:, None]) ** 2).mean(1)) / root
        averages = [(measured["mean"].values, measured["mean_error"].values)]
        averages += [(np.diagonal(measured["covariance"].values), np.diagonal(measured["covariance_error"].values))]
        found["last_mean"], found["last_variance"] = ("variable", last.mean(1)), ("variable", variance)
        gaps = [abs(a - b) / np.hypot(e, f) for a, e, (b, f) in zip((last.mean(1), variance), errors, averages)]
        found["deviation"] = float(np.nanmax(gaps))
    compared = [row for row in rows(groups) if row["exact"] is not None]
    if compared:
        found["deviation_exact"] = max(
            abs(row["value"] - (row["bias"] or 0.0) - row["exact"]) / math.hypot(row["error"], row["bias_error"] or 0.0)
            for row in compared
        )
    return xr.Dataset(found, coords={"variable": measured["variable"]} if "last_mean" in found else None)


def warnings(diagnostics: xr.Dataset) -> list[str]:
    """What the reader must know before the numbers."""
    told = []
    if "deviation" in diagnostics and not float(diagnostics.deviation) <= _ALARM:
        told.append(
            f"mean or variance of the last states is {float(diagnostics.deviation):.1f} standard errors from the time "
            "average: not yet stationary, or never; take more --steps and a longer --burn-in, or --walls reflect"
        )
    if float(diagnostics.get("deviation_exact", 0.0)) > _ALARM_EXACT:
        told.append(
            f"a number is {float(diagnostics.deviation_exact):.1f} standard errors from its exact value: the run is "
            "too short to be stationary, or its step too long; take more --steps and a longer --burn-in, or a smaller "
            "--step"
        )
    if float(diagnostics.get("outside_share", 0.0)) > _LOST:
        told.append(f"{float(diagnostics.outside_share):.1%} of the samples lie outside the domain")
    if float(diagnostics.get("absorbed_share", 0.0)) > 0:
        told.append(
            f"{float(diagnostics.absorbed_share):.1%} of the paths were absorbed and are counted where they stopped"
        )
    return told


def _distance(measured: xr.Dataset, known: xr.Dataset) -> xr.Dataset | None:
    """The L1 distance of the sampled density from the exact one."""
    try:
        found = l1_distance(blocks_of(measured), known["density"])
    except TooFewSamples:
        return None
    return xr.Dataset({"distance": found.distance, "error": found.error, "floor": found.floor})


# Telling --------------------------------------------------------------------------------------------------

COLUMNS = ("quantity", "value", "error", "step's bias", "its error", "exact", "effective samples")


def rows(groups: dict[str, xr.Dataset]) -> list[dict[str, Any]]:
    """One row per number: value, statistical error, the step's own bias with its error, and the exact value."""
    measured, known, result = groups["/measurement"], groups.get("/prediction", xr.Dataset()), []

    def row(label: str, name: str, where: dict[str, str], **more: Any) -> None:
        def pick(data: xr.Dataset, key: str) -> float | None:
            return float(data[key].sel(where)) if key in data else None

        result.append(
            {
                "quantity": label,
                **{k: pick(measured, f"{name}{tail}") for k, tail in (("value", ""), ("error", "_error"))},
                **{k: pick(measured, f"{name}_{k}") for k in ("bias", "bias_error")},
                "exact": pick(known, name),
                "effective_samples": more.get("effective"),
            }
        )

    if "mean" in measured:
        names = [str(v) for v in measured["variable"].values]
        for v in names:
            row(f"mean {v}", "mean", {"variable": v}, effective=float(measured.effective_samples.sel(variable=v)))
        for i, v in enumerate(names):
            for w in names[i:]:
                label = f"variance {v}" if v == w else f"covariance {v}, {w}"
                row(label, "covariance", {"variable": v, "variable_2": w})
    if "angular_velocity" in measured:
        row("angular velocity", "angular_velocity", {})
    return result


def _told(process: Process, groups: dict[str, xr.Dataset], config: dict) -> tuple[Report, dict[str, Any]]:
    measured, figures = groups["/measurement"], {}
    counted = (config["steps"] - config["burn_in"]) // config["every"]
    report = Report(
        f"Paths of {config['landscape']} at T = {config['temperature']:g}",
        f"{config['paths']} independent paths of {config['steps']} steps of {config['step']:g}, the first "
        f"{config['burn_in']} left out; {counted} states of each are counted.",
    )
    section = report.section("Mean and covariance" if "mean" in measured else "Averages")
    section.table(COLUMNS, [list(r.values()) for r in rows(groups)])
    section.text(
        "The error is the standard error over independent paths. The step's bias is that of the scheme at this step, "
        "from a second run at twice the step on the same noise: value − bias is nearer to the limit of a small step. "
        "Exact values are those of e^{−Φ/T} by quadrature, where Φ is known."
    )
    for warning in warnings(groups["/diagnostics"]):
        section.verdict(False, warning)
    if "deviation" in groups["/diagnostics"]:
        section.text(
            f"The last states differ from the time average by {float(groups['/diagnostics'].deviation):.1f} standard "
            f"errors at most, in mean and variance. More than {_ALARM:g} are called not stationary; fewer do not prove "
            "that every state was reached."
        )
    if "density" in measured:
        panels = {"paths": measured["density"]}
        if "/prediction" in groups:
            panels["exact"] = groups["/prediction"]["density"]
        section = report.section("Density")
        if "/comparison" in groups:
            found = groups["/comparison"]
            section.text(
                f"The L1 distance (0 to 2) of the sampled density from the exact one is {float(found.distance):.4f} ± "
                f"{float(found.error):.4f}; sampling alone would give {float(found.floor):.4f}."
            )
        if float(measured["density"].max()) > 0:
            figures["density"] = plot_densities(_cropped(panels))
            names = " and ".join(process.variables)
            section.figure(figures["density"], f"Density over {names}.", f"Density over {names}")
    if "/trajectories" in groups and process.dim <= 2:
        figures["paths"] = plot_paths(groups["/trajectories"], process).figure
        report.section("Paths").figure(figures["paths"], "The first paths, over the levels of the loss.", "Some paths")
    report.section("Scheme").text(f"{measured.attrs['scheme']} ({measured.attrs['scheme_reason']}).")
    return report, figures


def _cropped(panels: dict[str, xr.DataArray]) -> dict[str, xr.DataArray]:
    """The cells where something is, named by the variables."""
    some = xr.concat([panel / panel.max() for panel in panels.values()], "panel").max("panel") > 1e-4
    shown = {}
    for d in some.dims:
        inside = np.flatnonzero(some.any([other for other in some.dims if other != d]))
        low, high = max(inside[0] - 2, 0), min(inside[-1] + 3, some.sizes[d])
        shown[d] = slice(low, max(high, low + 3))
    names = {d: str(d).removesuffix("_bin") for d in some.dims}
    return {title: panel.isel(shown).rename(names) for title, panel in panels.items()}


def show(run: Run, console: Console, as_json: bool) -> None:
    """Print what a finished run found."""
    tree = cast(xr.DataTree, run.result())
    groups = {f"/{name}": node.to_dataset() for name, node in tree.children.items()}
    told = warnings(groups["/diagnostics"])
    if as_json:
        facts = {name: float(v) for name, v in groups["/diagnostics"].items() if v.ndim == 0}
        facts |= {f"density_{name}": float(v) for name, v in groups.get("/comparison", xr.Dataset()).items()}
        files = {"report": str(run.report_path), "result": str(run.result_path)}
        scheme = groups["/measurement"].attrs["scheme"]
        console.json(
            {"numbers": rows(groups), **facts, "warnings": told, "scheme": scheme, "settings": run.config, **files}
        )
        return
    for warning in told:
        console.say(f"warning: {warning}")
    console.table(COLUMNS, [[number(cell) or "–" for cell in row.values()] for row in rows(groups)])
    print(f"report: {run.report_path}")
