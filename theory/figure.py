"""What a verdict looks like."""

from typing import TYPE_CHECKING

import numpy as np

from sde_sgd.figures._style import INK, MUTED, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .claim import Verdict

_FARTHEST = 1e4  # tolerances; what is further off stands there


@styled
def plot_verdict(verdict: "Verdict") -> "Figure":
    """Distance of every number from its prediction, in units of its tolerance: what holds, and what must fail."""
    rows = [(m, True) for m in verdict.measurements] + [(m, False) for m in verdict.twins]
    figure = new_figure(9.0, 0.9 + 0.42 * len(rows))
    ax = figure.subplots()
    ax.set_xscale("symlog", linthresh=1.0, linscale=1.0)
    ax.axvspan(-0.1, 1.0, color=MUTED, alpha=0.2, lw=0)
    for label, holds, marker, colour in (
        ("what holds", True, "o", "C0"),
        ("the twin, which must fail", False, "X", "C1"),
    ):
        places = [i for i, (_, which) in enumerate(rows) if which is holds]
        far = [min(np.nan_to_num(rows[i][0].excess, nan=_FARTHEST), _FARTHEST) for i in places]
        ax.plot(far, places, marker, color=colour, label=label, ms=6)
    ax.set_yticks(range(len(rows)), [_short(m.what) for m, _ in rows], color=INK)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_xlim(-0.1, 2 * _FARTHEST)
    ax.set_xlabel("distance from the prediction, in tolerances")
    ax.legend(loc="lower right")
    return figure


def _short(text: str, most: int = 80) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
