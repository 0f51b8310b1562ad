"""The demo's chapter on published claims: those that do not hold as they stand, each with its counterexample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from sde_sgd.figures._style import INK, MUTED, new_figure, styled
from sde_sgd.study import Study

from .claims import CLAIMS
from .figure import _FARTHEST
from .verdicts import check

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .claim import Verdict

_WORDS = {"needs_hypothesis": "needs a hypothesis", "fails": "fails", "holds": "holds"}


def claims(study: Study) -> None:
    """Chapter 3: published statements that fail, or hold only under a hypothesis that their source does not name."""
    names = chosen()
    found = study.stage("diagnostics", "theory", lambda progress: measured(names, study.config["seed"], progress))
    section = study.report.section("Published claims, measured")
    kinds = found["as_stated"].values
    failing, needing = int((kinds == "fails").sum()), int((kinds == "needs_hypothesis").sum())
    holding = bool(found["passed"].all())
    section.text(
        f"{len(names)} of the {len(CLAIMS)} claims of the package, all those that are recorded as not holding the way "
        f"they were published: {failing} as failing, {needing} as in need of a further hypothesis. Each was run here, "
        "at the fast level, twice: what holds instead must be found within the tolerance, and its twin, which is the "
        "statement as published or the hypothesis broken on purpose, must miss. All claims, with those that hold as "
        "published: sde-sgd theory; statement, method and figure of one: sde-sgd theory NAME --explain."
    )
    differ = [str(name) for name in found["claim"].values[~found["passed"].values]]
    section.verdict(
        holding,
        f"What holds instead is found for {int((found['excess'] <= 1).sum())} of {len(names)} claims, and every twin "
        f"misses for {int((found['twin_excess'] > 1).sum())}; the twin nearest to passing is "
        f"{float(found['twin_excess'].min()):.3g} tolerances off its prediction"
        + ("." if holding else f". Not as recorded: {', '.join(differ)}."),
    )
    figure = plot_claims(found)
    study.figures["claims"] = figure
    section.figure(
        figure,
        "Distance from the prediction in tolerances: of what holds, the measurement nearest to failing; of the "
        "twins, the one nearest to passing. Within the grey band a prediction is met.",
        "For each claim a dot within the band and a cross beyond it",
    )
    section.table(
        ["claim", "source", "as published", "what holds instead", "measured", "predicted"],
        [
            [str(r.claim.values), str(r.source.values), _WORDS[str(r.as_stated.values)], str(r.holds.values),
             float(r.measured), str(r.prediction.values)]
            for r in (found.isel(claim=i) for i in range(found.sizes["claim"]))
        ],
        "The measurement nearest to failing of each claim, and what was predicted for it.",
    )  # fmt: skip


def chosen() -> list[str]:
    """The claims that are recorded as failing or as needing a hypothesis, in their order."""
    return [name for name, claim in CLAIMS.items() if claim.as_stated != "holds"]


def measured(names: Sequence[str], seed: int, progress) -> xr.Dataset:
    """Verdicts of those claims at the fast level, on all cores.

    Over ``claim``: ``source``, ``as_stated``, ``holds``, ``prediction`` and ``counterexample`` in words; ``passed``,
    ``measured``; ``excess`` of the measurement nearest to failing and ``twin_excess`` of the twin nearest to passing,
    in tolerances.
    """
    from sde_sgd.paths._ensemble import cores

    verdicts = check(names, seed=seed, jobs=cores(), progress=progress)
    words = ("source", "as_stated", "holds", "counterexample")
    return xr.Dataset(
        {name: ("claim", np.array([getattr(v, name) for v in verdicts], dtype=str)) for name in words}
        | {
            "prediction": ("claim", np.array([v.nearest.prediction for v in verdicts], dtype=str)),
            "passed": ("claim", np.array([v.passed for v in verdicts])),
            "measured": ("claim", [v.measured for v in verdicts]),
            "excess": ("claim", [_bounded(v.nearest.excess) for v in verdicts]),
            "twin_excess": ("claim", [_nearest_twin(v) for v in verdicts]),
        },
        {"claim": np.array([v.claim for v in verdicts], dtype=str)},
    )


def _nearest_twin(verdict: Verdict) -> float:
    return min(_bounded(twin.excess) for twin in verdict.twins)


def _bounded(excess: float) -> float:
    """At most `_FARTHEST`; what is no number is as far off as can be."""
    return float(min(np.nan_to_num(excess, nan=_FARTHEST), _FARTHEST))


@styled
def plot_claims(found: xr.Dataset) -> Figure:
    """`measured`'s ``excess`` and ``twin_excess`` against the claim, the twins coloured by what the claim is."""
    rows = np.arange(found.sizes["claim"])
    figure = new_figure(7.0, 1.2 + 0.21 * len(rows))
    ax = figure.subplots()
    ax.set_xscale("symlog", linthresh=1.0, linscale=1.0)
    ax.axvspan(-0.1, 1.0, color=MUTED, alpha=0.2, lw=0)
    ax.plot(found["excess"], rows, "o", color="C0", ms=5, label="what holds")
    for kind, colour in (("needs_hypothesis", "C1"), ("fails", "C3")):
        at = np.flatnonzero(found["as_stated"].values == kind)
        label = "its hypothesis broken" if kind == "needs_hypothesis" else "as published"
        ax.plot(found["twin_excess"].values[at], at, "X", color=colour, ms=5, label=label)
    ax.set_yticks(rows, [str(name).replace("_", " ") for name in found["claim"].values], color=INK)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_xlim(-0.1, 2 * _FARTHEST)
    ax.set_xlabel("distance from the prediction, in tolerances")
    ax.grid(True, axis="x", which="major")
    ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=3, frameon=False)
    return figure
