"""How `sde-sgd density` tells what it found: numbers with their errors, tables, JSON, and the page."""

import math
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import xarray as xr

from . import _density_figures
from ._console import Console
from .process import Process
from .report import Report, number
from .results import Run

COLUMNS = ("quantity", "value", "grid's error", "exact")
EVENTS = ("quantity", "value")
Groups = Mapping[str, xr.Dataset]


# The numbers --------------------------------------------------------------------------------------------------


def rows(groups: Groups) -> list[dict[str, Any]]:
    """One row per number of the steady state: value, error of the grid, and the exact value."""
    if "/steady" not in groups:
        return []
    found, known = groups["/steady"], groups.get("/prediction", xr.Dataset())
    result: list[dict[str, Any]] = []

    def row(label: str, name: str, where: dict[str, str]) -> None:
        def pick(data: xr.Dataset, key: str) -> float | None:
            return float(data[key].sel(where)) if key in data else None

        values = {"value": pick(found, name), "error": pick(found, f"{name}_error"), "exact": pick(known, name)}
        result.append({"quantity": label, **values})

    if "mean" in found:
        names = [str(v) for v in found["variable"].values]
        for v in names:
            row(f"mean {v}", "mean", {"variable": v})
        for i, v in enumerate(names):
            for w in names[i:]:
                label = f"variance {v}" if v == w else f"covariance {v}, {w}"
                row(label, "covariance", {"variable": v, "variable_2": w})
    if "angular_velocity" in found:
        row("angular velocity", "angular_velocity", {})
    return result


def modes_table(groups: Groups) -> tuple[list[str], list[list[float]]]:
    """Places of the modes and log ρ/ρ_max there."""
    if "/modes" not in groups:
        return [], []
    data = groups["/modes"]
    names = [str(v) for v in data.data_vars if v != "log_ratio"]
    values = [[float(data[v][k]) for v in (*names, "log_ratio")] for k in range(data.sizes["point"])]
    return [*names, "log_ratio"], values


def spectrum_table(groups: Groups) -> tuple[list[str], list[list[float | None]]]:
    """Rate and frequency of each mode, its time of relaxation, and how far it is off, relative to itself."""
    if "/spectrum" not in groups:
        return [], []
    data, lines = groups["/spectrum"], list[list[float | None]]()
    for k in range(data.sizes["mode"]):
        rate, turn, residual, condition = (
            float(data[name][k]) for name in ("rate", "frequency", "residual", "condition")
        )
        lines.append([k, rate, turn, 1 / rate if rate > 0 else None, residual * condition])
    return ["mode", "rate", "frequency", "relaxation time", "relative error"], lines


def events(groups: Groups) -> dict[str, dict[str, Any]]:
    """The numbers of exits, transitions and evolution, by group and name."""
    told: dict[str, dict[str, Any]] = {}
    if "/exit" in groups:
        told["exit"] = _exits(groups["/exit"])
    if "/transitions" in groups:
        data = groups["/transitions"]
        told["transitions"] = {str(k): float(v) for k, v in data.items() if v.ndim == 0}
        told["transitions"] |= {k: float(data.attrs[k]) for k in ("flux_error", "current_error") if k in data.attrs}
    if "/evolution" in groups:
        told["evolution"] = _last(groups["/evolution"])
    return told


def _exits(data: xr.Dataset) -> dict[str, Any]:
    time = data["log_mean_exit_time"]
    names = [str(d) for d in time.dims]

    def at(values: xr.DataArray) -> tuple[list[float], float]:
        place = np.unravel_index(int(np.nanargmax(values.values)), values.shape)
        return [float(values[d][i]) for d, i in zip(values.dims, place)], float(time.values[place])

    told: dict[str, Any] = {"region": data.attrs["region"]}
    where, log_time = at(data["log_density"].where(time.notnull())) if "log_density" in data else at(time)
    told["residual"] = float(time.attrs["residual"])
    told |= {"from": dict(zip(names, where)), "mean_exit_time": _power(log_time), "log_mean_exit_time": log_time}
    if "start_log_mean_exit_time" in data:
        log_time = float(data["start_log_mean_exit_time"])
        told |= {"start_mean_exit_time": _power(log_time), "start_log_mean_exit_time": log_time}
    if "rate" in data:
        told |= {"rate": float(data["rate"]), "log_rate": float(data["log_rate"])}
        told["rate_error"] = float(data.attrs["rate_error"])
    else:
        told["rate_missing"] = data.attrs["rate_missing"]
    return told


def _power(exponent: float) -> float:
    return math.exp(exponent) if exponent < 709 else math.inf


def _last(data: xr.Dataset) -> dict[str, Any]:
    told: dict[str, Any] = {"time": float(data["time"][-1])}
    told |= {str(k): float(v[-1]) for k, v in data.items() if v.dims == ("time",)}
    told |= {k: v for k, v in data.attrs.items() if k in SCHEME_FACTS}
    return told


SCHEME_FACTS = (
    *("scheme", "order", "tolerance", "steps", "rejected_steps", "repaired_steps", "repaired_mass", "error_estimate"),
    *("first_order_steps", "largest_step", "mass_drift", "stationary_bias", "most_negative"),
)


def cell(value: Any, exponent: float | None = None) -> str:
    """A number for people; one beyond float64 by its logarithm."""
    if exponent is not None and not abs(exponent) < 700:
        return f"e^{exponent:.1f}".replace("-", "−")
    return number(value) or "–"


def event_rows(groups: Groups) -> dict[str, list[list[str]]]:
    """`events` as tables of two columns."""
    tables, found = {}, events(groups)
    if "exit" in found:
        e = found["exit"]
        place = ", ".join(f"{k} = {v:.3g}" for k, v in e["from"].items())
        lines = [[f"mean exit time from {place}", cell(e["mean_exit_time"], e["log_mean_exit_time"])]]
        if "start_mean_exit_time" in e:
            value = cell(e["start_mean_exit_time"], e["start_log_mean_exit_time"])
            lines.append(["mean exit time from the start", value])
        lines.append(["rate of leaving, after long", cell(e["rate"], e["log_rate"]) if "rate" in e else "–"])
        tables["exit"] = lines
    if "transitions" in found:
        t = found["transitions"]
        words = {
            "rate_ab": "rate a → b", "rate_ba": "rate b → a", "passage_time_ab": "mean time a → b",
            "passage_time_ba": "mean time b → a", "probability_a": "probability of coming from a",
            "probability_b": "probability of coming from b", "transition_time": "mean length of a transition",
        }  # fmt: skip
        tables["transitions"] = [[text, cell(t[k], t.get(f"log_{k}"))] for k, text in words.items() if k in t]
    if "evolution" in found:
        words = {
            "time": "time", "free_energy": "free energy then", "dissipation": "its fall per time",
            "error_estimate": "error of the steps (estimate)", "steps": "steps", "mass_drift": "mass gained",
        }  # fmt: skip
        last = found["evolution"]
        tables["evolution"] = [[text, cell(last[k])] for k, text in words.items() if k in last]
    return tables


# The page -----------------------------------------------------------------------------------------------------


def told(process: Process, groups: Groups, config: dict[str, Any]) -> tuple[Report, dict[str, Any]]:
    """The report and its figures."""
    facts = groups["/diagnostics"]
    report = Report(
        f"Density of {config['landscape']} at T = {config['temperature']:g}",
        f"The Fokker–Planck equation on {facts.attrs['grid']}.",
    )
    figures: dict[str, Any] = {}

    def show(section: Any, name: str, figure: Any, caption: str) -> None:
        if figure is not None:
            figures[name] = figure
            section.figure(figure, caption, caption.rstrip("."))

    if "/steady" in groups:
        section = report.section("Steady state")
        for warning in facts.attrs["warnings"]:
            section.verdict(False, warning)
        if rows(groups):
            section.table(COLUMNS, [list(r.values()) for r in rows(groups)])
        section.text(_words(facts, groups))
        names = " and ".join(process.variables)
        show(section, "density", _density_figures.density(groups), f"Density over {names}.")
        columns, values = modes_table(groups)
        if values:
            columns[-1] = "log ρ/ρ_max"
            report.section("Most likely places").table(columns, values)
        section = report.section("Potential and current")
        section.text(
            "Φ = −T log ρ, and the remainder j = b + D∇Φ − T div D, what keeps moving in the steady state"
            + ("; here detailed balance holds, and j = 0." if float(facts["detailed_balance"]) else ".")
        )
        show(section, "current", _density_figures.current(groups), "Potential and current.")
    tables = event_rows(groups)
    if "/spectrum" in groups:
        section = report.section("Relaxation").table(*spectrum_table(groups))
        section.text("A density relaxes as Σ c e^{−λt}; λ = rate + i·frequency. The slowest is forgotten last.")
        show(section, "spectrum", _density_figures.spectrum(groups), "The slowest modes.")
    if "/exit" in groups:
        section = report.section(f"Leaving {config['exit']}").table(EVENTS, tables["exit"])
        if (missing := groups["/exit"].attrs.get("rate_missing")) is not None:
            section.text(f"There is no one rate of leaving: {missing}.")
        show(section, "exit", _density_figures.exit_time(groups), "Mean exit time by the place of the start.")
    if "/transitions" in groups:
        section = report.section(f"From a: {config['from']} to b: {config['to']}").table(EVENTS, tables["transitions"])
        show(section, "committor", _density_figures.committor(groups), "Probability of reaching b before a.")
        show(section, "reactive", _density_figures.reactive(groups), "Where transitions are, and their current.")
    if "/evolution" in groups:
        section = report.section("Evolution").table(EVENTS, tables["evolution"])
        show(section, "evolution", _density_figures.evolution(groups), "The density in time.")
        show(section, "free_energy", _density_figures.free_energy(groups), "Free energy and its fall.")
        if process.dim <= 2:
            section.text("figures/evolution.gif in the folder of this run is the same as an animation.")
    report.section("Grid").table(("fact", "value"), [[str(k).replace("_", " "), float(v)] for k, v in facts.items()])
    return report, figures


def _words(facts: xr.Dataset, groups: Groups) -> str:
    text = (
        "Every cell solves the discrete equations to rounding; what is not exact is the grid. Its error is estimated "
        "from a grid of cells twice as wide, for a discretisation of second order."
    )
    if "error" in facts and math.isfinite(float(facts["error"])):
        text += f" That of the density, ∫|ρ − ρ_exact|, is about {cell(float(facts['error']))}."
    if "/comparison" in groups:
        found = cell(float(groups["/comparison"]["distance"]))
        text += f" Its L1 distance from e^{{−Φ/T}}, which is known here, is {found}."
    return text


def show(run: Run, console: Console, as_json: bool) -> None:
    """Print what a finished run found."""
    tree = cast(xr.DataTree, run.result())
    groups = {f"/{name}": node.to_dataset() for name, node in tree.children.items()}
    facts = groups["/diagnostics"]
    warnings = list(facts.attrs["warnings"])
    (modes_names, modes), (spectrum_names, spectrum) = modes_table(groups), spectrum_table(groups)
    if as_json:
        found: dict[str, Any] = {"numbers": rows(groups), "modes": [dict(zip(modes_names, m)) for m in modes]}
        if "/spectrum" in groups:
            found["spectrum"] = [dict(zip((n.replace(" ", "_") for n in spectrum_names), s)) for s in spectrum]
        found |= events(groups)
        if "/comparison" in groups:
            found["distance_exact"] = float(groups["/comparison"]["distance"])
        files = {"report": str(run.report_path), "result": str(run.result_path)}
        diagnostics = {str(k): float(v) for k, v in facts.items()}
        console.json(
            {**found, "diagnostics": diagnostics, "grid": facts.attrs["grid"], "warnings": warnings,
             "settings": run.config, **files}
        )  # fmt: skip
        return
    for warning in warnings:
        console.say(f"warning: {warning}")
    tables: list[tuple[Any, list]] = []
    if "/steady" in groups:
        tables.append((COLUMNS, [[cell(v) for v in row.values()] for row in rows(groups)]))
        tables.append(([*modes_names[:-1], "log ρ/ρ_max"], [[cell(v) for v in line] for line in modes]))
    tables.append((spectrum_names, [[cell(v) for v in line] for line in spectrum]))
    tables += [((name, ""), lines) for name, lines in event_rows(groups).items()]
    for columns, lines in tables:
        if lines:
            console.table(columns, lines)
            print()
    print(f"report: {run.report_path}")
