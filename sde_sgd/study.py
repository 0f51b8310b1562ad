"""A study: stages that are kept, a table of roads to one density, and a report; what chapters of a demo share."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ._console import Console, Progress
from .report import Report
from .results import WORK, Run

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Road:
    """One row of the comparison: a way to a density, its settings, and how far it ended from the reference.

    `agrees` is None where no agreement is claimed (a known bias stands in the way).
    """

    road: str
    temperature: float
    setting: str
    step: float
    distance: float
    error: float
    floor: float
    agrees: bool | None
    note: str = ""


@dataclass
class Study:
    """What a chapter gets: a resumable run, its configuration, and where to put results, rows, text and figures."""

    run: Run
    console: Console
    config: Mapping[str, Any]
    report: Report
    results: dict[str, "xr.Dataset"] = field(default_factory=dict)
    roads: list[Road] = field(default_factory=list)
    figures: dict[str, "Figure"] = field(default_factory=dict)
    panels: dict[float, dict[str, "xr.DataArray"]] = field(default_factory=dict)  # densities to show, by temperature

    def stage(self, group: str, name: str, compute: Callable[[Progress], "xr.Dataset"]) -> "xr.Dataset":
        """The result of a stage under `group/name`: computed with a progress bar, or read if it is there."""
        file = f"{group}-{name}"

        def announced() -> "xr.Dataset":
            with self.console.stage(file.replace("-", " ", 1)) as progress:
                return compute(progress)

        result = cast("xr.Dataset", self.run.stage(file, announced))
        self.results[f"/{group}/{name}"] = result
        return result

    def work(self, name: str) -> Path:
        """The path of a file in which a long stage keeps what it needs to go on after an interruption."""
        folder = self.run.folder / WORK
        folder.mkdir(exist_ok=True)
        return folder / name

    def forget_work(self) -> None:
        """Delete those files; results no longer need them."""
        shutil.rmtree(self.run.folder / WORK, ignore_errors=True)

    def comparison(self) -> "xr.Dataset":
        """The table of roads as a Dataset over `row`."""
        import xarray as xr

        rows = sorted(self.roads, key=lambda r: r.temperature)
        agrees = ["" if r.agrees is None else "yes" if r.agrees else "no" for r in rows]
        text = {k: ("row", np.array([getattr(r, k) for r in rows], dtype=str)) for k in ("road", "setting", "note")}
        numbers = {
            k: ("row", np.array([getattr(r, k) for r in rows], dtype=float))
            for k in ("temperature", "step", "distance", "error", "floor")
        }
        return xr.Dataset(text | numbers | {"agrees": ("row", np.array(agrees, dtype=str))})


def table_rows(comparison: "xr.Dataset") -> list[list[str]]:
    """Rows for people, in the order of `TABLE_COLUMNS`."""
    columns = [
        comparison[k].values for k in ("temperature", "road", "setting", "distance", "error", "floor", "agrees", "note")
    ]
    return [
        [f"{t:g}", str(road), str(setting), f"{d:.4f} ± {e:.4f}", f"{f:.4f}", str(agrees) or "–", str(note)]
        for t, road, setting, d, e, f, agrees, note in zip(*columns)
    ]


TABLE_COLUMNS = ("T", "road", "setting", "L1 distance", "floor", "agrees", "note")
