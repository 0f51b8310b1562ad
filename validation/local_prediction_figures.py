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

SHOWN = (0, 5, 11)  # directions of `plot_conditional_loss`


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
    ax.locator_params(axis="x", nbins=5)
    ax.grid(True, which="major")
    ax.legend()
    return ax


@styled
def plot_conditional_loss(run: xr.Dataset, directions: Sequence[int] = SHOWN) -> Figure:
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


@styled
def plot_mean_shift(shifts: Mapping[str, xr.Dataset]) -> Figure:
    """Measured shift of the mean, v·∇f(w̄)/h, against two predictions, a panel for each network.

    Takes over direction ``measured``, ``error``, ``predicted`` (by the whole cloud), ``axes`` (one axis at a time) and
    ``deviation``, in whose units all are shown.
    """
    if not shifts:
        raise ValueError("there is no shift to show")
    figure = new_figure(3.9 * len(shifts), 3.5)
    for panel, (name, found) in zip(figure.subplots(1, len(shifts), squeeze=False).ravel(), shifts.items()):
        y, error, whole, axes = (
            found[key].values / found["deviation"].values for key in ("measured", "error", "predicted", "axes")
        )
        reach = 1.1 * max(float(np.abs(values).max()) for values in (whole, axes))
        for values, marker, label in ((whole, "o", "whole cloud"), (axes, "s", "axis by axis")):
            panel.errorbar(values, y, 2 * error, fmt=marker, ms=3.5, lw=1, label=label)
        panel.plot([-reach, reach], [-reach, reach], color=INK, lw=1.0)
        height = 1.25 * float(np.abs(y).max() + 2 * error.max())
        panel.set(title=name, xlabel="predicted, standard deviations", xlim=(-reach, reach), ylim=(-height, height))
        panel.grid(True, which="major")
    figure.axes[0].set_ylabel("measured")
    figure.axes[0].legend()
    return figure


@styled
def plot_domain(misfits: Mapping[str, Mapping[float, Sequence[float]]], limit: float, ax: Axes | None = None) -> Axes:
    """Misfit of the prediction against T, a line for each network through the means of its seeds, each seed a point.

    The misfit is the root mean square of log(measured/predicted variance); the line at `limit` is where it holds.
    """
    if not misfits:
        raise ValueError("there is no network to show")
    ax = axes_or_new(ax, 6.8, 3.9)
    for number, (name, group) in enumerate(misfits.items()):
        temperatures = np.array(sorted(group))
        at = temperatures * 1.03 ** (number - (len(misfits) - 1) / 2)
        (line,) = ax.plot(at, [np.mean(group[t]) for t in temperatures], lw=1.2, ls="-" if number < 7 else "--")
        for x, t in zip(at, temperatures):
            ax.plot(np.full(len(group[t]), x), group[t], "o", ms=3.5, color=line.get_color())
        line.set(marker="o", ms=3.5, label=name)
    ax.axhline(limit, color=INK, lw=1.0, ls=":")
    ticks = sorted({t for group in misfits.values() for t in group})
    ax.set(xscale="log", xlabel="temperature", ylabel="misfit", ylim=(0, None))
    ax.set_xticks(ticks, [f"{t:.3g}" for t in ticks])
    ax.minorticks_off()
    ax.grid(True, which="major")
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax
