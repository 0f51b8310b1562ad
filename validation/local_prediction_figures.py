"""A local prediction beside what a run shows: variances, areas, and −T log p with the conditional loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from sde_sgd.figures._style import INK, MUTED, axes_or_new, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@styled
def plot_variance_ratios(runs: Mapping[str, xr.Dataset], ax: Axes | None = None) -> Axes:
    """Measured over predicted variance along each direction, with two standard errors; runs as of `compare`."""
    if not runs:
        raise ValueError("there is no run to show")
    ax = axes_or_new(ax, 5.4, 3.7)
    ax.axhline(1.0, color=MUTED, lw=1.0)
    for number, (label, run) in enumerate(runs.items()):
        at = np.arange(run.sizes["direction"]) + 1 + 0.12 * (number - (len(runs) - 1) / 2)
        ax.errorbar(at, run["ratio"], 2 * run["ratio_error"], fmt="o", ms=3.5, lw=1, label=label)
    ax.set(xlabel="direction, from the steepest", ylabel="variance, measured / predicted", ylim=(0, None))
    ax.grid(True, which="major")
    ax.legend()
    return ax


@styled
def plot_areas(runs: Mapping[str, xr.Dataset], lag: int = 0, ax: Axes | None = None) -> Axes:
    """Area production of every pair of directions against the prediction, of the `lag`-th lag; runs as of `compare`.

    Each area in units of the root of the product of both measured variances, per time.
    """
    if not runs:
        raise ValueError("there is no run to show")
    ax = axes_or_new(ax, 4.2, 3.9)
    reach = 0.0
    for label, run in runs.items():
        pairs = np.triu_indices(run.sizes["direction"], 1)
        scale = np.sqrt(np.outer(run["variance"], run["variance"]))[pairs]
        x, y, error = (
            run[name].isel(lag=lag).values[pairs] / scale
            for name in ("expected", "area_production", "area_production_error")
        )
        ax.errorbar(x, y, 2 * error, fmt="o", ms=2.5, lw=0.7, alpha=0.8, label=label)
        reach = max(reach, float(np.abs(x).max()))
    ax.plot([-reach, reach], [-reach, reach], color=INK, lw=1.0, label="measured = predicted")
    ax.set(xlabel="predicted area per time", ylabel="measured")
    ax.grid(True, which="major")
    ax.legend()
    return ax


@styled
def plot_conditional_loss(run: xr.Dataset, directions: Sequence[int] = (0, 5, 11)) -> Figure:
    """−T log p of projections over f averaged in their bins, both from their lowest value, a panel for each direction.

    Takes ``density``, ``loss`` and ``loss_error`` (direction, bin), bins in standard deviations.
    """
    shown = [k for k in directions if k < run.sizes["direction"]]
    if not shown:
        raise ValueError(f"directions {list(directions)} are not among the {run.sizes['direction']} of the run")
    figure = new_figure(3.1 * len(shown), 3.1)
    for panel, k in zip(np.atleast_1d(figure.subplots(1, len(shown), squeeze=False)).ravel(), shown):
        density, loss = (run[name].isel(direction=k).values for name in ("density", "loss"))
        panel.plot(run["bin"], density - np.nanmin(density), "o-", ms=3, lw=1.2, label="−T log p")
        error = 2 * run["loss_error"].isel(direction=k).values
        panel.errorbar(run["bin"], loss - np.nanmin(loss), error, fmt="s", ms=3, lw=1, label="conditional f")
        panel.set(title=f"direction {k + 1}", xlabel="projection, standard deviations")
        panel.grid(True, which="major")
    panel = figure.axes[0]
    panel.set_ylabel("above the lowest")
    panel.legend(loc="upper center")
    return figure
