"""What the reports of the experiments on networks show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from sde_sgd.figures import plot_spectrum
from sde_sgd.figures._style import INK, MUTED, axes_or_new, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@styled
def plot_network_spectra(stages: Mapping[str, xr.Dataset]) -> Figure:
    """Eigenvalues of D against their index, a panel for each network, a line for each stage of its training.

    Level lines are the thresholds λ_max·d·ε of the last stage, in float32 and float64.
    """
    if not stages:
        raise ValueError("there is no network to show")
    columns = min(2, len(stages))
    rows = -(-len(stages) // columns)
    figure = new_figure(4.6 * columns, 3.5 * rows)
    panels = np.atleast_2d(figure.subplots(rows, columns, squeeze=False)).ravel()
    for panel, (name, found) in zip(panels, stages.items()):
        spectra = {
            f"epoch {int(found.epoch[i])}": found.eigenvalues.isel(stage=i).values for i in range(found.sizes["stage"])
        }
        last = found.isel(stage=-1)
        thresholds = {f"λ_max·d·ε, float{bits}": float(last[f"threshold_float{bits}"]) for bits in (32, 64)}
        plot_spectrum(spectra, thresholds, ax=panel, ylabel="eigenvalue of D")
        top = float(found.eigenvalues.max())
        panel.set_ylim(max(1e-18 * top, 0.1 * thresholds["λ_max·d·ε, float64"]), 10 * top)
        panel.set_title(f"{name}, d = {found.attrs['parameters']}")
    for panel in panels[len(stages) :]:
        panel.remove()
    return figure


@styled
def plot_band(
    x: Any,
    measured: Any,
    bands: Mapping[str, tuple[Any, Any]],
    *,
    spread: Any = None,
    levels: Mapping[str, float] | None = None,
    labels: tuple[str, str] = ("", ""),
    log: tuple[bool, bool] = (False, False),
    ax: Axes | None = None,
) -> Axes:
    """A measured curve, with its `spread` on either side, over bands (lowest, highest) of surrogates.

    `levels` are horizontal lines in pairs ±, as the 99 % limits of white noise.
    """
    ax = axes_or_new(ax, 5.4, 3.7)
    colours = ("#c1662f", "#3a7d6b", "#7a5ea8")
    for (label, (low, high)), colour in zip(bands.items(), colours):
        ax.fill_between(x, low, high, color=colour, alpha=0.3, lw=0, label=label)
    if spread is not None:
        ax.fill_between(
            x, measured - spread, measured + spread, color=MUTED, alpha=0.25, lw=0, label="std over weights"
        )
    ax.plot(x, measured, color=INK, lw=1.2, label="measured, mean over weights")
    for label, level in (levels or {}).items():
        ax.axhline(level, color=MUTED, lw=1.0, ls=(0, (4, 2)), label=label)
        ax.axhline(-level, color=MUTED, lw=1.0, ls=(0, (4, 2)))
    if log[0]:
        ax.set_xscale("log")
    if log[1]:
        ax.set_yscale("log")
    ax.set(xlabel=labels[0], ylabel=labels[1])
    ax.grid(True, which="major")
    ax.legend()
    return ax


@styled
def plot_gradient(epochs: Any, gradient: Any, predicted: float, ax: Axes | None = None) -> Axes:
    """|∇f|/√d against the epoch, and the level that is predicted for it."""
    ax = axes_or_new(ax, 5.4, 3.2)
    ax.plot(epochs, gradient, color=INK, lw=0.7, label="measured")
    ax.axhline(predicted, color="#c1662f", lw=1.4, ls=(0, (4, 2)), label="√(tr(H²S)/d), linear theory")
    ax.set(xlabel="epoch", ylabel="|∇f|/√d", yscale="log")
    ax.grid(True, which="major")
    ax.legend()
    return ax


@styled
def plot_ratios(
    x: Any,
    series: Mapping[str, tuple[Any, Any]],
    theory: Mapping[str, tuple[Any, Any]],
    *,
    labels: tuple[str, str],
    log: tuple[bool, bool] = (True, True),
    ax: Axes | None = None,
) -> Axes:
    """Measured points with error bars, `series` = label: (value, error), over lines `theory` = label: (x, value)."""
    ax = axes_or_new(ax, 5.4, 3.7)
    lines = [ax.plot(*curve, lw=1.3, label=label)[0] for label, curve in theory.items()]
    for k, (label, (value, error)) in enumerate(series.items()):
        colour = lines[k].get_color() if k < len(lines) else INK
        ax.errorbar(x, value, yerror_of(error), fmt="o", ms=4, lw=1, color=colour, label=label)
    if log[0]:
        ax.set_xscale("log")
    if log[1]:
        ax.set_yscale("log")
    ax.set(xlabel=labels[0], ylabel=labels[1])
    ax.grid(True, which="major")
    ax.legend()
    return ax


def yerror_of(error: Any) -> Any:
    """Two standard errors, the interval that the captions state."""
    return 2 * np.asarray(error, dtype=float)
