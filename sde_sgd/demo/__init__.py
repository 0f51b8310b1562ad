"""The demonstration: where SGD of a neuron on Fisher's iris spends its time, by several roads that must meet.

`perform` runs the chapters (entry points `sde_sgd.demo`); `densities` is the core's own.
"""

from collections.abc import Callable, Sequence

import xarray as xr

from sde_sgd import landscapes
from sde_sgd._console import Console
from sde_sgd.report import Report
from sde_sgd.results import Run, provenance
from sde_sgd.study import TABLE_COLUMNS, Study, table_rows

from ._common import common_grid, counted, distance_of, measured, name_of
from ._excerpt import excerpt
from ._measurement import langevin, picture, recursion
from ._prediction import solve, split, tell, the_loss

__all__ = ["CONFIG", "common_grid", "densities", "distance_of", "measured", "name_of", "perform"]

CONFIG = {
    "landscape": "neuron",
    "temperatures": [0.05, 0.2],
    "half_width": 5.0,
    "cells": 400,
    "common_cells": 100,
    "start": [0.15, -0.32],
    "path_steps": [0.1, 0.05],
    "paths": 8192,
    "path_updates": 4000,
    "burn_in_time": 20.0,
    "batch_sizes": [1, 2, 4, 8],
    "svag": [1, 2, 4, 8, 16, 32],
    "replicas": 8192,
    "updates": 4000,
    "torchsde_paths": 4096,
    "torchsde_updates": 2000,
    "replay_updates": 10_000,
    "crosscheck": ["double_well", "example_19", "ring", "pearson"],
}


def perform(run: Run, console: Console, chapters: Sequence[Callable[[Study], None]]) -> None:
    """Run every chapter, then write result.nc, report.html and the figures."""
    report = Report("Where SGD spends its time")
    study = Study(run, console, run.config, report)
    summary = report.section("Roads compared")
    for chapter in chapters:
        chapter(study)
    picture(study)
    excerpt(study)
    report.lead = lead(study)
    comparison = study.comparison()
    claims = [r for r in study.roads if r.agrees is not None]
    summary.text(
        "Each row is a way to the steady density at temperature T = η/2b, and its L1 distance (0 to 2) from the "
        "Fokker–Planck solution, extrapolated in the cell size, on a common grid. The floor is the distance that "
        "sampling alone gives to a right answer. A verdict is given where nothing else stands between: it is yes where "
        "the distance lies within the floor, four standard errors and the reference's own error. At a step h, Langevin "
        "paths and torchsde are both expected to be off by O(h), SVAG by O(1/l), and plain SGD by more the larger η."
    )
    summary.verdict(
        bool(claims) and all(r.agrees for r in claims),
        f"{sum(bool(r.agrees) for r in claims)} of {len(claims)} claims of agreement hold.",
    )
    summary.table(TABLE_COLUMNS[:-1], [row[:-1] for row in table_rows(comparison)], "Distances to the solved density.")
    tree = xr.DataTree.from_dict(study.results | {"/comparison": comparison})
    run.finish(tree, report.html(provenance(run.config)), study.figures)


def lead(study: Study) -> str:
    """What was found, in two sentences of numbers."""
    places = [
        f"{study.results[f'/prediction/{name_of(t)}'].sizes['mode']} at T = {t:g}" for t in study.config["temperatures"]
    ]
    critical = study.results["/diagnostics/critical_points"].sizes["point"]
    return (
        f"A two-weight network on Fisher's iris. Its loss has {counted(critical, 'critical point')}; the number of "
        f"places where SGD is most likely found is {', '.join(places)}. Prediction and measurement, by independent "
        "roads."
    )


def densities(study: Study) -> None:
    """Chapter 1: Fokker–Planck, Langevin paths, real SGD and SVAG."""
    neuron = landscapes.get(study.config["landscape"])
    assert isinstance(neuron, landscapes.FiniteSum)
    the_loss(study, neuron)
    for temperature in study.config["temperatures"]:
        prediction = solve(study, neuron, temperature)
        decomposition = split(study, neuron, temperature)
        tell(study, neuron, temperature, prediction, decomposition)
        langevin(study, neuron, temperature, prediction)
        recursion(study, neuron, temperature, prediction)
