"""What `sde-sgd crosscheck` keeps and tells: a stage for every landscape, one table, and which agree."""

from typing import Any, cast

import xarray as xr

from . import _crosscheck as check
from ._console import Console
from .report import Report
from .results import Run, provenance

COLUMNS = ("landscape", "T", "quantity", "between", "one", "other", "distance", "allowed", "agrees")
ERRORS = ("statistical", "sampling floor", "step", "grid")
SUMMARY = ("landscape", "T", "solved – paths", "solved – exact", "paths – exact", "mean, variance", "agrees")
REFUSED = ("landscape", "why it is not compared")


def perform(run: Run, console: Console, threads: int | None = None) -> None:
    """Compare each landscape, or go on after the last that is finished; then write result.nc and report.html."""
    results: dict[str, xr.Dataset] = {}
    effort = check.QUICK if run.config["quick"] else check.FULL
    for name in run.config["landscapes"]:

        def compute(name: str = name) -> xr.Dataset:
            with console.stage(name) as progress:
                return measured(name, effort, run.config["seed"], threads, progress)

        results[name] = cast(xr.Dataset, run.stage(name, compute))
    tree = xr.DataTree.from_dict({f"/{name}": result for name, result in results.items()})
    run.finish(tree, told(results).html(provenance(run.config)))


def measured(name: str, effort: check.Effort = check.FULL, seed: int = 0, threads=None, progress=None) -> xr.Dataset:
    """`compare`, or a Dataset without rows whose attribute `reason` says why there is nothing to compare."""
    try:
        return check.compare(name, effort, seed=seed, threads=threads, progress=progress)
    except check.NotCompared as fault:
        return xr.Dataset(attrs={"landscape": name, "reason": str(fault)})


def judged(results: dict[str, xr.Dataset]) -> tuple[list[dict[str, Any]], float, float]:
    """All rows with their verdicts; the standard errors a number may be off; and the false-alarm rate of the table."""
    gaps = {name: check.gaps_of(r) if "row" in r.sizes else [] for name, r in results.items()}
    every = [gap for several in gaps.values() for gap in several]
    wide = check.deviations(every)
    rows = [
        {
            "landscape": name, "temperature": float(results[name].attrs["temperature"]), "quantity": gap.quantity,
            "between": gap.pair, "one": None if gap.is_density else gap.one,
            "other": None if gap.is_density else gap.other, "distance": gap.distance, "allowed": gap.limit(wide),
            "agrees": bool(gap.distance <= gap.limit(wide)), "statistical": gap.error, "sampling floor": gap.floor,
            "step": gap.bias, "grid": gap.grid,
        }
        for name, several in gaps.items() for gap in several
    ]  # fmt: skip
    return rows, wide, check.false_alarm(every)


def summary(results: dict[str, xr.Dataset]) -> list[list[str]]:
    """One row per landscape: distances of densities beside what is allowed, and how full the worst number is."""
    rows, _, _ = judged(results)
    lines = []
    for name in results:
        own = [row for row in rows if row["landscape"] == name]
        if not own:
            continue
        cells = {row["between"]: f"{row['distance']:.4f} ≤ {row['allowed']:.4f}" for row in own if row["one"] is None}
        numbers = [row["distance"] / row["allowed"] for row in own if row["one"] is not None]
        pairs = (check.SOLVED_SAMPLED, check.SOLVED_EXACT, check.SAMPLED_EXACT)
        failed = [f"{row['quantity']} ({row['between']})" for row in own if not row["agrees"]]
        lines.append(
            [
                name, f"{own[0]['temperature']:.3g}",
                *(cells.get(pair, "–").replace("≤", "≤" if not _off(own, pair) else ">") for pair in pairs),
                f"{100 * max(numbers):.0f} % of allowed" if numbers else "–",
                "no: " + ", ".join(failed) if failed else "yes",
            ]
        )  # fmt: skip
    return lines


def _off(own: list[dict[str, Any]], pair: str) -> bool:
    return any(row["one"] is None and row["between"] == pair and not row["agrees"] for row in own)


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
        "Solved: the Fokker–Planck equation. Paths: time averages with the leading term of the step's bias taken off. "
        "Exact: e^{−Φ/T} by quadrature, where Φ is known. Densities are compared by ∫|ρ₁ − ρ₂|, from 0 to 2, on the "
        f"cells of the histogram. Allowed is the sum of: sampling, {wide:.1f} standard errors of {check.BLOCKS} blocks "
        "of paths, for densities the distance that sampling alone gives and four standard errors; half of the step's "
        "bias, for what is left of it; and twice the error of the grid, which is estimated from cells twice as wide. "
        f"If all are right, chance makes something disagree in at most {100 * alarm:.2g} % of such tables "
        f"({len(rows)} comparisons).{raised}"
    )


def details(results: dict[str, xr.Dataset]) -> list[list[Any]]:
    """Every comparison with its errors, in the order of COLUMNS and ERRORS."""
    keys = ("landscape", "temperature", "quantity", "between", "one", "other", "distance", "allowed", "agrees", *ERRORS)
    return [[row[key] for key in keys] for row in judged(results)[0]]


def told(results: dict[str, xr.Dataset]) -> Report:
    rows, _, _ = judged(results)
    failed = sum(not row["agrees"] for row in rows)
    report = Report(
        "Steady states, three ways",
        "The same density from the Fokker–Planck equation on a grid, from paths, and in closed form.",
    )
    report.headline(len(rows) - failed, f"of {len(rows)} comparisons agree")
    section = report.section("Which agree").text(note(results))
    section.table(SUMMARY, summary(results))
    if left := refused(results):
        report.section("Not compared").table(REFUSED, left)
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
                "deviations": wide, "false_alarm": alarm,
                "runs": {name: {k: attrs[k] for k in keys} for name, attrs in settings.items()},
                "settings": run.config, "report": str(run.report_path), "result": str(run.result_path),
            }
        )  # fmt: skip
        return code
    console.table(SUMMARY, summary(results))
    if left := refused(results):
        print()
        console.table(REFUSED, left)
    print()
    print(note(results))
    print(f"report: {run.report_path}")
    return code
