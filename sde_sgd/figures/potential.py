"""Where the potential that SGD follows differs from the loss it was given."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ._style import EMPTY, INK, colour_bar, frame, map_axes_or_new, plane, styled

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

_MARKERS = {  # kind of critical point: marker, fill, size, words
    "minimum": ("o", "white", 80, "minimum"),
    "saddle": ("X", "#E69F00", 80, "saddle"),
    "maximum": ("^", "#CC79A7", 80, "maximum"),
    "degenerate": ("D", "#8b949e", 25, "degenerate point"),
    "stable": ("o", "white", 80, "stable point"),
    "unstable": ("^", "#CC79A7", 80, "unstable point"),
}


@styled
def plot_potential_against_loss(
    decomposition: "xr.Dataset",
    loss: "xr.DataArray",
    critical_points: "xr.Dataset | None" = None,
    modes: "xr.Dataset | None" = None,
    ax: "Axes | None" = None,
    ceiling: float = 12.0,
) -> "Axes":
    """A map of Φ − f, each measured from its minimum; one colour all over: SGD sees the loss itself.

    White is the mean of Φ − f over the stationary density e^{−Φ/T}. Only cells with Φ ≤ ceiling·T are shown:
    beyond, the process never goes. Thin lines are levels of Φ, 1, 2, 4 and 8 T above its minimum.

    `decomposition` has `potential` over two variables and the attribute `temperature`; `loss` lies on the
    same grid; `critical_points` (of the loss) has one variable per coordinate and `kind`, one entry per
    `point`; `modes` (of the density) the same without `kind`. Raises ValueError if the grids differ.
    """
    x_name, y_name, x, y, potential = plane(decomposition["potential"], "the potential")
    if loss.dims != (x_name, y_name) or not (np.array_equal(loss[x_name], x) and np.array_equal(loss[y_name], y)):
        raise ValueError("potential and loss must lie on the same grid; evaluate the loss on the potential's grid")
    temperature = float(decomposition.attrs["temperature"])
    potential = potential - np.nanmin(potential)
    difference = potential - (loss.to_numpy() - np.nanmin(loss.to_numpy()))
    visible = potential <= ceiling * temperature
    weight = np.where(visible, np.exp(-potential / temperature), 0.0)
    centre = float(np.average(np.where(visible, difference, 0.0), weights=weight))
    lively = potential <= ceiling / 2 * temperature  # the colours are spent where the process spends its time
    reach = _reach(difference[lively], centre, temperature)

    ax = map_axes_or_new(ax, x, y, above=0.4)
    ax.set_facecolor(EMPTY)
    mesh = ax.pcolormesh(
        x, y, np.ma.masked_where(~visible, difference).T, cmap="RdBu_r", shading="nearest", rasterized=True,
        vmin=centre - reach, vmax=centre + reach,
    )  # fmt: skip
    levels = temperature * np.array([1.0, 2.0, 4.0, 8.0])
    ax.contour(x, y, potential.T, levels=levels, colors=INK, linewidths=0.6, alpha=0.45)
    colour_bar(ax.figure, ax, mesh, "potential − loss", extend="both")
    frame(ax, (x_name, y_name), x, y)
    if mark_points(ax, (x_name, y_name), critical_points, modes):
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, columnspacing=1.2, handletextpad=0.3)
    return ax


def _reach(difference: np.ndarray, centre: float, temperature: float) -> float:
    """Half the colour scale: nearly all of `difference`, never so little that rounding becomes a picture."""
    return max(float(np.quantile(np.abs(difference - centre), 0.98)), 1e-3 * temperature)


def mark_points(
    ax: "Axes",
    names: tuple[str, str],
    critical_points: "xr.Dataset | None",
    modes: "xr.Dataset | None",
    of: str = "loss",
) -> bool:
    """Mark critical points of the loss, or zeros `of` a drift, and modes of the density; True if any is inside."""
    drawn = False
    if critical_points is not None:
        kinds = critical_points["kind"].to_numpy().astype(str)
        unknown = set(kinds) - set(_MARKERS)
        if unknown:
            raise ValueError(f"a critical point is a {', '.join(_MARKERS)}, got {', '.join(sorted(unknown))}")
        for kind, (marker, fill, size, label) in _MARKERS.items():
            chosen = critical_points.isel(point=np.flatnonzero(kinds == kind))
            drawn |= _scatter(ax, names, chosen, marker, fill, size, f"{label} of the {of}")
    if modes is not None:
        drawn |= _scatter(ax, names, modes, "*", "#ffdd00", 62, "mode of the density")
    return drawn


def _scatter(ax: "Axes", names: tuple[str, str], points: Any, marker: str, fill: str, size: float, label: str) -> bool:
    x, y = (points[name].to_numpy() for name in names)
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    inside = (left <= x) & (x <= right) & (bottom <= y) & (y <= top)
    if inside.any():
        ax.scatter(
            x[inside], y[inside], s=size, marker=marker, facecolor=fill, edgecolor=INK, linewidth=1.0,
            label=label, zorder=4 if marker == "*" else 3,
        )  # fmt: skip
    return bool(inside.any())
