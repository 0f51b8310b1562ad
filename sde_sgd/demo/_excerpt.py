"""An excerpt of `sde-sgd crosscheck`: other landscapes, by every road that is installed."""

import xarray as xr

from sde_sgd import _crosscheck, _crosscheck_report, _crosscheck_roads
from sde_sgd._console import Progress
from sde_sgd.study import Study


def excerpt(study: Study) -> None:
    """Some landscapes of the catalogue, few paths; the whole catalogue is the command's."""
    roads, results = _crosscheck_roads.names(), {}
    for name in study.config["crosscheck"]:

        def compute(progress: Progress, name: str = name) -> xr.Dataset:
            return _crosscheck.compare(
                name, _crosscheck.QUICK, seed=study.config["seed"], progress=progress, roads=roads
            )  # fmt: skip

        results[name] = study.stage("crosscheck", name, compute)
    rows, _, _ = _crosscheck_report.judged(results)
    agree = sum(row["agrees"] for row in rows)
    section = study.report.section("Other landscapes, all roads")
    section.text(
        "An excerpt of `sde-sgd crosscheck` with few paths. Above, steady states; below, densities at a time from a "
        "start that is not steady; JKO is steepest descent of the free energy in the Wasserstein metric. "
        + _crosscheck_report.note(results)
    )
    section.verdict(agree == len(rows), f"{agree} of {len(rows)} comparisons agree.")
    section.table(_crosscheck_report.SUMMARY, _crosscheck_report.summary(results), "Steady states.")
    columns, lines = _crosscheck_report.in_time(results)
    section.table(columns, lines, "Densities at a time, and how far they had moved since the start.")
    section.table(_crosscheck_report.LEFT, _crosscheck_report.left_out(results), "What was not taken, and why.")
    section.table(_crosscheck_report.SHARED, _crosscheck_report.sharing(results), "What roads share.")
