"""What `sde-sgd crosscheck` keeps and tells: a stage for every landscape, tables, which agree and what they share."""

import json
from collections.abc import Callable, Sequence
from typing import Any, cast

import xarray as xr

from . import _crosscheck as check
from ._console import Console
from ._crosscheck_gap import BLOCKS, deviations, false_alarm
from .report import Report
from .results import Run, provenance

COLUMNS = ("landscape", "T", "quantity", "between", "one", "other", "distance", "allowed", "agrees")
ERRORS = ("statistical", "sampling floor", "step", "grid", "stated bias", "shared", "setting")
STEADY = (check.SOLVED_SAMPLED, check.SOLVED_EXACT, check.SAMPLED_EXACT)
SUMMARY = ("landscape", "T", "solved – paths", "solved – exact", "paths – exact", "mean, variance", "agrees")
REFUSED = ("landscape", "why it is not compared")
SHARED = ("roads", "share", "the second is made of", "in")
LEFT = ("road", "why it is not taken", "in")
NOT_TAKEN = "not taken"


def perform(run: Run, console: Console, threads: int | None = None) -> None:
    """Compare each landscape, or go on after the last that is finished; then write result.nc and report.html."""
    results: dict[str, xr.Dataset] = {}
    effort = check.QUICK if run.config["quick"] else check.FULL
    for name in run.config["landscapes"]:

        def compute(name: str = name) -> xr.Dataset:
            with console.stage(name) as progress:
                return measured(name, effort, run.config["seed"], threads, progress, run.config["roads"])

        results[name] = cast(xr.Dataset, run.stage(name, compute))
    tree = xr.DataTree.from_dict({f"/{name}": result for name, result in results.items()})
    run.finish(tree, told(results).html(provenance(run.config)))


def measured(
    name: str, effort: check.Effort = check.FULL, seed: int = 0, threads=None, progress=None, roads: Sequence[str] = ()
) -> xr.Dataset:
    """`compare`, or a Dataset without rows whose attribute `reason` says why there is nothing to compare."""
    try:
        return check.compare(name, effort, seed=seed, threads=threads, progress=progress, roads=roads)
    except check.NotCompared as fault:
        return xr.Dataset(attrs={"landscape": name, "reason": str(fault)})


def judged(results: dict[str, xr.Dataset]) -> tuple[list[dict[str, Any]], float, float]:
    """All rows with their verdicts; the standard errors a number may be off; and the false-alarm rate of the table."""
    gaps = {name: check.gaps_of(r) if "row" in r.sizes else [] for name, r in results.items()}
    every = [gap for several in gaps.values() for gap in several]
    wide = deviations(every)
    rows = [
        {
            "landscape": name, "temperature": float(results[name].attrs["temperature"]), "quantity": gap.quantity,
            "between": gap.pair, "one": None if gap.is_density else gap.one,
            "other": None if gap.is_density else gap.other, "distance": gap.distance, "allowed": gap.limit(wide),
            "agrees": bool(gap.distance <= gap.limit(wide)), "statistical": gap.error, "sampling floor": gap.floor,
            "step": gap.bias, "grid": gap.grid, "stated bias": gap.stated, "shared": gap.shares, "parts": gap.parts,
            "setting": gap.setting,
        }
        for name, several in gaps.items() for gap in several
    ]  # fmt: skip
    return rows, wide, false_alarm(every)


def summary(results: dict[str, xr.Dataset]) -> list[list[str]]:
    """A row per landscape of its steady state: distances of densities, and how full the worst number is."""
    return _lines(results, STEADY, lambda own, name: [f"{own[0]['temperature']:.3g}"])


def in_time(results: dict[str, xr.Dataset]) -> tuple[tuple[str, ...], list[list[str]]]:
    """Columns, and a row per landscape of its density at a time, for each road that was taken to it."""
    pairs = tuple(dict.fromkeys(row["between"] for row in judged(results)[0] if row["between"] not in STEADY))
    columns = ("landscape", "time", "moved", *pairs, "mean, variance", "agrees")

    def first(own: list[dict[str, Any]], name: str) -> list[str]:
        attrs = results[name].attrs
        return [f"{attrs['time']:.3g}", f"{attrs['moved']:.3f}"]

    return columns, _lines(results, pairs, first) if pairs else []


def _lines(results: dict[str, xr.Dataset], pairs: Sequence[str], first: Callable) -> list[list[str]]:
    """For each landscape: its name, first cells, a cell per pair, the worst mean or variance, and the verdict."""
    rows, _, _ = judged(results)
    lines = []
    for name in results:
        own = [row for row in rows if row["landscape"] == name and row["between"] in pairs]
        if not own:
            continue
        told = {row["between"]: row for row in own if row["quantity"] in ("density", "weights")}
        numbers = [row["distance"] / row["allowed"] for row in own if row["quantity"] not in ("density", "weights")]
        failed = [f"{row['quantity']} ({row['between'].removeprefix('steady: ')})" for row in own if not row["agrees"]]
        lines.append(
            [
                name, *first(own, name), *(_cell(told.get(pair)) for pair in pairs),
                f"{100 * max(numbers):.0f} % of allowed" if numbers else "–",
                "no: " + ", ".join(failed) if failed else "yes",
            ]
        )  # fmt: skip
    return lines


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return NOT_TAKEN
    return f"{row['distance']:.2g} {'≤' if row['agrees'] else '>'} {row['allowed']:.2g}"


def sharing(results: dict[str, xr.Dataset]) -> list[list[str]]:
    """Pairs of roads, what both are made of, and in which landscapes."""
    found: dict[tuple[str, str, str], dict[str, None]] = {}
    for row in judged(results)[0]:
        found.setdefault((row["between"], row["shared"], row["parts"]), {})[row["landscape"]] = None
    taken: dict[str, int] = {}
    for (pair, _, _), inside in found.items():
        taken[pair] = taken.get(pair, 0) + len(inside)
    return [
        [pair, shares, parts, f"all {taken[pair]}" if len(inside) == taken[pair] > 3 else ", ".join(inside)]
        for (pair, shares, parts), inside in sorted(found.items())
    ]


def left_out(results: dict[str, xr.Dataset]) -> list[list[str]]:
    """Roads that were not taken, why, and in which landscapes: with the tables, one word on every road in each."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, r in results.items():
        if "row" in r.sizes and check.SOLVED_EXACT not in r["pair"].values:
            found.setdefault(("exact", "Φ is not known in closed form"), []).append(name)
        for road, reason in json.loads(r.attrs.get("not_taken", "{}")).items():
            found.setdefault((road, reason), []).append(name)
    return [[road, reason, ", ".join(inside)] for (road, reason), inside in sorted(found.items())]


def refused(results: dict[str, xr.Dataset]) -> list[list[str]]:
    """The landscapes that are not compared, each with its reason."""
    return [[name, str(r.attrs["reason"])] for name, r in results.items() if "reason" in r.attrs]


def note(results: dict[str, xr.Dataset]) -> str:
    """What the columns mean, and how often chance alone would make a table like this one disagree."""
    rows, wide, alarm = judged(results)
    heated = [
        f"{name} (from {r.attrs['usual_temperature']:g})"
        for name, r in results.items()
        if "temperature" in r.attrs and r.attrs["temperature"] != r.attrs["usual_temperature"]
    ]
    raised = (
        f" The temperature was raised, where wells would exchange too rarely for paths: {', '.join(heated)}."
        if heated
        else ""
    )
    return (
        "Solved: the Fokker–Planck equation. Paths: in the steady state time averages with the leading term of the "
        "step's bias taken off. Exact: e^{−Φ/T} by quadrature, where Φ is known. At a time, from a start that is not "
        "the steady density: JKO and all kinds of paths, extrapolated to steps of 0; only SGD has no smaller step at "
        "its temperature, and its bias is stated: one and a half times what SVAG's first two l say. Densities are "
        "compared by ∫|ρ₁ − ρ₂|, from 0 to 2, on the cells of the histogram; at a time in two variables on a half or a "
        "quarter as many along each axis where fewer paths fill no more. What is allowed there tells of the dynamics "
        "as far as it is less than what the density moved; means and variances tell more. Allowed is the sum of: "
        f"sampling, {wide:.1f} standard errors of {BLOCKS} blocks of paths, for densities the distance that sampling "
        "alone gives and four standard errors; half of what the last extrapolation in the step changed; and twice the "
        "error of the grids, which is estimated from cells twice as wide. Every step of JKO keeps e^{−Φ/T}, whatever "
        "else it does, so that it is compared at a time only. If all are right, chance makes something disagree in at "
        f"most {100 * alarm:.2g} % of such tables ({len(rows)} comparisons, {_sampled(rows)} of them with paths: "
        f"the bound is the sum over them).{raised}"
    )


def _sampled(rows: list[dict[str, Any]]) -> int:
    return sum(row["statistical"] > 0.0 for row in rows)


def details(results: dict[str, xr.Dataset]) -> list[list[Any]]:
    """Every comparison with its errors, in the order of COLUMNS and ERRORS."""
    keys = ("landscape", "temperature", "quantity", "between", "one", "other", "distance", "allowed", "agrees", *ERRORS)
    return [[row[key] for key in keys] for row in judged(results)[0]]


def told(results: dict[str, xr.Dataset]) -> Report:
    rows, _, _ = judged(results)
    failed = sum(not row["agrees"] for row in rows)
    report = Report(
        "One density, all roads",
        "From the Fokker–Planck equation on a grid, in closed form, by steepest descent, and from paths of every kind.",
    )
    report.headline(len(rows) - failed, f"of {len(rows)} comparisons agree")
    section = report.section("Which agree").text(note(results))
    section.table(SUMMARY, summary(results), "Steady states.")
    columns, lines = in_time(results)
    if lines:
        section.table(columns, lines, "Densities at a time, and how far they had moved since the start.")
    shares = report.section("What roads share")
    shares.text("Two roads check each other in what they do not share. One road through a shared part counts once.")
    shares.table(SHARED, sharing(results))
    if left := refused(results):
        report.section("Not compared").table(REFUSED, left)
    if several := left_out(results):
        report.section("Not taken").table(LEFT, several)
    report.section("Every number").table((*COLUMNS, *ERRORS), details(results))
    runs = [
        [name, *(r.attrs[k] for k in ("cells", "scheme", "step", "steps", "paths", "relaxation"))]
        for name, r in results.items()
        if "cells" in r.attrs
    ]
    report.section("Settings").table(
        ("landscape", "cells", "scheme", "step", "steps", "paths", "relaxation time"), runs
    )
    return report


def show(run: Run, console: Console, as_json: bool) -> int:
    """Print what a finished run found; 1 where something disagrees, else 0."""
    tree = cast(xr.DataTree, run.result())
    results = {name: tree[name].to_dataset() for name in run.config["landscapes"]}
    rows, wide, alarm = judged(results)
    code = int(not all(row["agrees"] for row in rows))
    if as_json:
        settings = {name: r.attrs for name, r in results.items() if "cells" in r.attrs}
        keys = ("temperature", "relaxation", "step", "steps", "paths", "scheme", "cells")
        console.json(
            {
                "comparisons": rows, "not_compared": dict(refused(results)), "agree": not code,
                "not_taken": [dict(zip(("road", "reason", "landscapes"), row)) for row in left_out(results)],
                "deviations": wide, "false_alarm": alarm,
                "runs": {name: {k: attrs[k] for k in keys} for name, attrs in settings.items()},
                "settings": run.config, "report": str(run.report_path), "result": str(run.result_path),
            }
        )  # fmt: skip
        return code
    console.table(SUMMARY, summary(results))
    columns, lines = in_time(results)
    if lines:
        print()
        console.table(columns, lines)
    print()
    console.table(SHARED, sharing(results))
    if several := left_out(results):
        print()
        console.table(LEFT, several)
    if left := refused(results):
        print()
        console.table(REFUSED, left)
    print()
    print(note(results))
    print(f"report: {run.report_path}")
    return code
