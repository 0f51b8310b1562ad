"""The figures of `sde-sgd density`: one function per result; None where there is nothing to draw."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from . import figures as plots
from ._density import as_found
from .figures._style import EMPTY, INK, axes_or_new, colour_bar, frame, map_axes_or_new, plane, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MODES, _MAPS = 6, 6  # panels
_LARGEST = 700.0  # log of a number well within float64
Groups = Mapping[str, xr.Dataset]


def density(groups: Groups) -> "Figure | None":
    """The solved density beside the exact one; in three variables its marginal planes."""
    found = groups["/steady"]["density"]
    if found.ndim == 3:
        return plots.plot_marginals(found)
    panels = {"Fokker–Planck": found}
    if "/prediction" in groups:
        panels["exact"] = groups["/prediction"]["density"]
    return plots.plot_densities(panels)


def current(groups: Groups) -> "Figure | None":
    """Lines of j over Φ in two variables, Φ in one."""
    found = groups["/steady"]
    if found["density"].ndim == 2:
        return _of(plots.plot_current(found))
    return _picture(found["potential"], "potential Φ") if found["density"].ndim == 1 else None


def exit_time(groups: Groups) -> "Figure | None":
    """The mean exit time by the place of the start; its logarithm where float64 ends."""
    found = groups["/exit"]["log_mean_exit_time"]
    if float(found.max()) < _LARGEST:
        return _picture(np.exp(found), "mean exit time")
    return _picture(found / np.log(10), "log₁₀ of the mean exit time")


def committor(groups: Groups) -> "Figure | None":
    """The committor, with its level ½."""
    return _picture(groups["/transitions"]["committor"], "committor", level=0.5)


def reactive(groups: Groups) -> "Figure | None":
    """Where transitions spend their time, and lines of their current."""
    found = groups["/transitions"]
    return _picture(found["reactive_density"], "reactive density", lines=found["reactive_current"])


def spectrum(groups: Groups) -> "Figure | None":
    """The modes of relaxation, the steady state among them."""
    found = as_found(groups["/spectrum"])
    return plots.plot_modes(found, modes=_MODES) if found["right"].ndim <= 3 else None


def evolution(groups: Groups) -> "Figure | None":
    """Densities at the times kept: lines over one variable, some maps over two, the last one over three."""
    found = groups["/evolution"]["density"]
    if found.ndim == 2:
        return _of(plots.plot_evolution(found))
    if found.ndim == 4:
        return plots.plot_marginals(found.isel(time=-1, drop=True))
    last = found.sizes["time"] - 1
    count = min(last, _MAPS)
    chosen = [round(last * (k + 1) / count) for k in range(count)]
    panels = {f"t = {float(found.time[k]):.3g}": found.isel(time=k, drop=True) for k in chosen}
    return plots.plot_densities(panels, columns=2 if count == 4 else None)


def free_energy(groups: Groups) -> "Figure | None":
    """Free energy over time with its dissipation, where there is a steady state."""
    found = groups["/evolution"]
    return plots.plot_free_energy(found) if "free_energy" in found else None


@styled
def _picture(
    field: xr.DataArray, label: str, *, level: float | None = None, lines: xr.DataArray | None = None
) -> "Figure | None":
    """A field over one or two variables; a level of it, or lines of a vector field, on top."""
    if field.ndim == 1:
        ax = axes_or_new(None)
        ax.plot(field[field.dims[0]], field)
        ax.set(xlabel=field.dims[0], ylabel=label)
        ax.margins(x=0)
        return _of(ax)
    if field.ndim != 2:
        return None
    x_name, y_name, x, y, values = plane(field, label)
    ax = map_axes_or_new(None, x, y)
    ax.set_facecolor(EMPTY)
    mesh = ax.pcolormesh(
        x, y, np.ma.masked_invalid(values).T, cmap="GnBu", shading="nearest", rasterized=True
    )  # fmt: skip
    colour_bar(ax.figure, ax, mesh, label)
    if level is not None:
        ax.contour(x, y, values.T, levels=[level], colors=INK, linewidths=1.0)
    if lines is not None:
        u, v = (lines.isel(component=k).transpose(x_name, y_name).values for k in (0, 1))
        speed = np.hypot(u, v)
        faint = ~(speed > 1e-3 * np.nanmax(speed))
        ax.streamplot(
            x, y, np.ma.masked_where(faint, u).T, np.ma.masked_where(faint, v).T, color=INK, density=0.9,
            linewidth=(0.3 + 1.5 * np.sqrt(np.nan_to_num(speed) / np.nanmax(speed))).T, arrowsize=0.8,
        )  # fmt: skip
    frame(ax, (x_name, y_name), x, y)
    return _of(ax)


def _of(ax: Any) -> "Figure":
    return ax.figure
