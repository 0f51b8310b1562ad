"""The part of the motion that goes round and round: the remainder j over the potential."""

from typing import TYPE_CHECKING

import numpy as np

from ._style import EMPTY, INK, colour_bar, frame, map_axes_or_new, plane, styled

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

_STILL = 1e-9  # a remainder this much slower than the drift's own scale is rounding, not motion


@styled
def plot_current(decomposition: "xr.Dataset", ax: "Axes | None" = None, ceiling: float = 10.0) -> "Axes":
    """Streamlines of the remainder j = J/ρ over levels of Φ/T; a line is the wider the faster the motion.

    `decomposition` has `potential` (x, y) and `remainder` (x, y, component) on a uniform grid, and the
    attribute `temperature`. Only cells with Φ ≤ ceiling·T are shown. Where detailed balance holds (j = 0)
    the figure says so. Raises ValueError if the fields are not over two variables.
    """
    x_name, y_name, x, y, potential = plane(decomposition["potential"], "the potential")
    temperature = float(decomposition.attrs["temperature"])
    height = (potential - np.nanmin(potential)) / temperature
    hidden = ~(height <= ceiling)
    remainder = decomposition["remainder"].transpose(x_name, y_name, "component").to_numpy()
    speed = np.where(hidden, 0.0, np.hypot(remainder[..., 0], remainder[..., 1]))

    ax = map_axes_or_new(ax, x, y)
    ax.set_facecolor(EMPTY)
    filled = ax.contourf(
        x,
        y,
        np.ma.masked_where(hidden, height).T,
        levels=np.linspace(0.0, ceiling, 11),
        cmap="Blues_r",
        alpha=0.75,
    )
    colour_bar(ax.figure, ax, filled, "potential / temperature", ticks=np.linspace(0.0, ceiling, 6))
    frame(ax, (x_name, y_name), x, y)
    fall = np.hypot(*np.gradient(potential, x, y))  # |∇Φ| sets the scale of motion
    if speed.max() <= _STILL * np.max(fall, where=~hidden, initial=0.0):
        ax.text(0.5, 0.03, "no current: detailed balance", ha="center", transform=ax.transAxes, color=INK)
        return ax
    along_x, along_y = (np.ma.masked_where(hidden, remainder[..., k]).T for k in (0, 1))
    width = (0.35 + 1.5 * np.sqrt(speed / speed.max())).T
    ax.streamplot(
        x,
        y,
        along_x,
        along_y,
        color=INK,
        linewidth=width,
        density=1.1,
        arrowsize=0.8,
        arrowstyle="-|>",
        zorder=2,
    )
    frame(ax, (x_name, y_name), x, y)
    return ax
