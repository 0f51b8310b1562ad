"""How many paths are still inside: survival against time, beside the exponential law of the measured mean."""

from typing import TYPE_CHECKING

import numpy as np

from ._style import axes_or_new, next_colour, styled

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

_LAW = "exponential law with that mean"


@styled
def plot_survival(exits: "xr.Dataset", ax: "Axes | None" = None, label: str | None = None) -> "Axes":
    """P(τ > t) on a logarithmic scale with a band of two standard errors; dashed, e^{−t/E[τ]} of the measured mean.

    `exits` is a result of `exit_times`, or of a run with a `FirstPassage`, which has no dashed line where paths never
    arrived, because its mean is then a lower bound. The legend states the mean with its standard error and how many
    paths were censored. A curve that leaves the dashed line is not that of a Poisson process: at first paths have yet
    to forget their start. `label` goes before the mean; with `ax`, several runs share one frame.
    Raises ValueError for another Dataset.
    """
    if "survival" not in exits or exits["survival"].ndim != 1:
        raise ValueError("there is no survival curve to draw; give a result of exit_times or of a FirstPassage")
    curve = exits["survival"]
    time, alive = np.asarray(curve[curve.dims[0]], float), np.asarray(curve, float)
    error = np.asarray(exits["survival_error"], float)
    first = "mean_exit_time" in exits
    name = "mean_exit_time" if first else "passage_time"
    mean, spread = float(exits[name]), float(exits[f"{name}_error"])
    paths = int(exits.attrs["paths"])
    censored = int(exits.attrs["censored"] if first else exits["censored"])

    ax = axes_or_new(ax, 5.2, 3.9)
    colour = next_colour(ax)
    floor = 0.5 / paths
    words = f"mean {_with_error(mean, spread)}"
    if censored:
        words = f"{words if first else words.replace('mean', 'mean at least', 1)}, {censored} of {paths} censored"
    shown = alive > 0
    low, high = np.maximum(alive - 2 * error, floor), np.minimum(alive + 2 * error, 1.0)
    bottom = min(0.09, 0.8 * float(low[shown].min()))  # a decade at least
    if ax.lines and ax.get_yscale() == "log":
        bottom = min(bottom, ax.get_ylim()[0])
    ax.fill_between(time[shown], low[shown], high[shown], color=colour, alpha=0.22, lw=0)
    ax.plot(time[shown], alive[shown], color=colour, lw=1.5, label=f"{label}: {words}" if label else words)
    if first or not censored:
        drawn = _LAW in ax.get_legend_handles_labels()[1]
        law = np.exp(-time / mean)
        ax.plot(
            time[law > floor], law[law > floor], color=colour, lw=1.1, ls=(0, (4, 3)), label=None if drawn else _LAW
        )
    ax.set(yscale="log", xlabel="time", ylabel="share of paths still inside")
    ax.set_ylim(bottom, 1.2)
    ax.margins(x=0)
    ax.grid(True, which="major")
    entries = sorted(zip(*ax.get_legend_handles_labels()), key=lambda entry: entry[1] == _LAW)
    # above: a curve may be anywhere below
    ax.legend(*zip(*entries), loc="lower left", bbox_to_anchor=(0.0, 1.0), borderpad=0.1)
    return ax


def _with_error(value: float, error: float) -> str:
    """As many digits as the error has two of."""
    if not error > 0:
        return f"{value:.4g}"
    digits = int(np.clip(1 - np.floor(np.log10(error)), 0, 8))
    return f"{value:.{digits}f} ± {error:.{digits}f}"
