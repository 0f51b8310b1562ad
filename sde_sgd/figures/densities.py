"""Densities over one or two variables, alone or side by side on one colour scale."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from sde_sgd import _checks

from ._style import (
    EMPTY,
    INK,
    axes_or_new,
    colour_bar,
    frame,
    map_axes_or_new,
    new_figure,
    outer,
    plane,
    proportions,
    styled,
)

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

_COLOURS = "GnBu"  # light where nothing is
_DECADES = 8  # how far below the peak a logarithmic scale reaches


@styled
def plot_density(density: "xr.DataArray", ax: "Axes | None" = None, log: bool = False) -> "Axes":
    """A density over one variable as a line, over two as a map with a colour bar.

    `density` has one or two dimensions, named after the variables and with coordinates. `log=True` shows
    eight decades below the peak. Raises ValueError for more dimensions: see `plot_marginals`.
    """
    if density.ndim == 1:
        ax = axes_or_new(ax)
        _line(ax, density, log, label=None)
        return ax
    _, _, x, y, _ = plane(density, "a density")
    ax = map_axes_or_new(ax, x, y)
    mesh = _mesh(ax, density, _scale([density], log))
    colour_bar(ax.figure, ax, mesh, "density", extend="min" if log else "neither")
    return ax


@styled
def plot_log_density(log_density: "xr.DataArray", ax: "Axes | None" = None, decades: float | None = None) -> "Axes":
    """log₁₀ ρ from log ρ, as `log_steady_state` gives it, however far down: a line, or a map with contours.

    `log_density` has one or two dimensions and natural logarithms, which may be far below those of float64 numbers;
    `decades` cuts it that far below its peak. Raises ValueError for more dimensions, or where all is −∞.
    """
    values = log_density / math.log(10.0)
    peak = float(values.max())
    if not math.isfinite(peak):
        raise ValueError(f"the logarithm of a density must be finite at its peak, got {peak}")
    least = -math.inf if decades is None else peak - _checks.positive("decades", decades)
    values = values.where(np.isfinite(values) & (values >= least))
    if values.ndim == 1:
        ax = axes_or_new(ax)
        name = values.dims[0]
        ax.plot(np.asarray(values[name], float), np.asarray(values, float))
        ax.set(xlabel=name, ylabel="log₁₀ density")
        ax.margins(x=0)
        return ax
    x_name, y_name, x, y, shown = plane(values, "the logarithm of a density")
    ax = map_axes_or_new(ax, x, y)
    ax.set_facecolor(EMPTY)
    masked = np.ma.masked_invalid(shown).T
    mesh = ax.pcolormesh(x, y, masked, cmap=_COLOURS, shading="nearest", rasterized=True)
    if np.ptp(masked.compressed()) > 0.0:
        ax.contour(x, y, masked, levels=10, colors=INK, linewidths=0.5, linestyles="solid", alpha=0.45)
    colour_bar(ax.figure, ax, mesh, "log₁₀ density")
    frame(ax, (x_name, y_name), x, y)
    return ax


@styled
def plot_densities(densities: "Mapping[str, xr.DataArray]", columns: int | None = None, log: bool = False) -> "Figure":
    """Several densities for comparison: maps side by side on one colour scale, or lines in one frame.

    `densities` maps titles to densities over the same variables; maps also lie on the same cells, for they share
    their axes, `columns` in a row (3). Titles are shown as they are written.
    Raises ValueError if there are none, if their variables differ, or the cells of maps.
    """
    fields = list(densities.values())
    if not fields:
        raise ValueError("there is no density to plot")
    if any(field.dims != fields[0].dims for field in fields):
        raise ValueError(f"densities over the same variables can be compared, got {[f.dims for f in fields]}")
    if fields[0].ndim == 1:
        figure = new_figure(4.8, 3.4)
        ax = figure.subplots()
        for title, field in densities.items():
            _line(ax, field, log, title)
        ax.legend()
        return figure
    for title, field in densities.items():
        for name in field.dims:
            if not _same_cells(np.asarray(field[name], float), np.asarray(fields[0][name], float)):
                raise ValueError(
                    f"{title!r} has other cells along {name} than {next(iter(densities))!r}: bring all densities to "
                    "one grid, or draw each with plot_density"
                )
    columns = min(_checks.whole("columns", 3 if columns is None else columns, 1), len(fields))
    rows = math.ceil(len(fields) / columns)
    _, _, x, y, _ = plane(fields[0], "a density")
    width = 2.6
    figure = new_figure(width * columns + 1.0, rows * (width * proportions(x, y) * 0.9 + 0.5) + 0.2)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    scale = _scale(fields, log)
    for panel, (title, field) in zip(panels.flat, densities.items(), strict=False):
        mesh = _mesh(panel, field, scale)
        panel.set_title(title, parse_math=False)
    shown = outer(panels, len(fields))
    colour_bar(figure, shown, mesh, "density", rows, extend="min" if log else "neither")
    return figure


def _same_cells(one: np.ndarray, other: np.ndarray) -> bool:
    """The same centres, to the rounding of a grid made in another way."""
    return one.shape == other.shape and bool(np.allclose(one, other, rtol=0.0, atol=1e-9 * np.ptp(other)))


def _scale(fields: list, log: bool) -> "Normalize":
    from matplotlib.colors import LogNorm, Normalize

    peak = max(float(field.max()) for field in fields)
    if not (math.isfinite(peak) and peak > 0):
        raise ValueError(f"a density must be finite and somewhere positive, got a maximum of {peak}")
    return LogNorm(peak * 10.0**-_DECADES, peak) if log else Normalize(0.0, peak)


def _mesh(ax: "Axes", density: "xr.DataArray", scale: "Normalize"):
    x_name, y_name, x, y, values = plane(density, "a density")
    shown = np.ma.masked_invalid(values) if scale.vmin == 0 else np.ma.masked_less_equal(values, 0.0)
    ax.set_facecolor(EMPTY)
    mesh = ax.pcolormesh(x, y, shown.T, norm=scale, cmap=_COLOURS, shading="nearest", rasterized=True)
    frame(ax, (x_name, y_name), x, y)
    return mesh


def _line(ax: "Axes", density: "xr.DataArray", log: bool, label: str | None) -> None:
    name = density.dims[0]
    values = np.asarray(density, float)
    ax.plot(np.asarray(density[name], float), np.where(values > 0, values, np.nan) if log else values, label=label)
    ax.set(xlabel=name, ylabel="density")
    if log:
        ax.set_yscale("log")
        ax.set_ylim(bottom=max(ax.get_ylim()[0], values.max() * 10.0**-_DECADES))
    else:
        ax.set_ylim(bottom=0.0)
    ax.margins(x=0)
