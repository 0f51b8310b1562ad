"""Currents over the potential: the remainder j = J/ρ that goes round and round, or any field given."""

from typing import TYPE_CHECKING

import numpy as np

from ._style import EMPTY, INK, colour_bar, frame, map_axes_or_new, plane, styled

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

_FAINT = 1e-4  # of the largest current: where less flows, no line is drawn
_STILL = 1e-9  # a remainder this much slower than the drift's own scale is rounding, not motion


@styled
def plot_current(
    decomposition: "xr.Dataset",
    ax: "Axes | None" = None,
    ceiling: float = 10.0,
    current: "xr.DataArray | None" = None,
) -> "Axes":
    """Streamlines of the remainder j = J/ρ over levels of Φ/T; a line is the wider the faster the motion.

    `current` (x, y, component) on the same cells is drawn instead of j, where it is given: `fp.current(density)` of a
    density on its way, or the current of transitions. Its lines end where it falls below 1e-4 of its largest, or is
    NaN.

    `decomposition` has `potential` (x, y) and `remainder` (x, y, component) on a uniform grid, and the
    attribute `temperature`. Only cells with Φ ≤ ceiling·T are shown. Where detailed balance holds (j = 0)
    the figure says so. Raises ValueError if the fields are not over two variables, or not on the same cells.
    """
    x_name, y_name, x, y, potential = plane(decomposition["potential"], "the potential")
    temperature = float(decomposition.attrs["temperature"])
    height = (potential - np.nanmin(potential)) / temperature
    high = ~(height <= ceiling)
    remainder = _vectors(decomposition["remainder"] if current is None else current, (x_name, y_name), x, y)
    speed = np.hypot(remainder[..., 0], remainder[..., 1])
    hidden = high | ~np.isfinite(speed)
    if current is not None:
        hidden |= ~(speed > _FAINT * np.max(speed, where=~hidden, initial=0.0))
    speed = np.where(hidden, 0.0, speed)

    ax = map_axes_or_new(ax, x, y)
    ax.set_facecolor(EMPTY)
    filled = ax.contourf(
        x,
        y,
        np.ma.masked_where(high, height).T,
        levels=np.linspace(0.0, ceiling, 11),
        cmap="Blues_r",
        alpha=0.75,
    )
    colour_bar(ax.figure, ax, filled, "potential / temperature", ticks=np.linspace(0.0, ceiling, 6))
    frame(ax, (x_name, y_name), x, y)
    fall = np.hypot(*np.gradient(potential, x, y))  # |∇Φ| sets the scale of motion
    still = _STILL * np.max(fall, where=~hidden, initial=0.0) if current is None else 0.0
    if speed.max() <= still:
        words = "no current: detailed balance" if current is None else "no current"
        ax.text(0.5, 0.03, words, ha="center", transform=ax.transAxes, color=INK)
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


def _vectors(field: "xr.DataArray", names: tuple[str, str], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Values (x, y, 2) of a vector field on these cells; ValueError for other ones."""
    if set(field.dims) != {*names, "component"} or field.sizes["component"] != 2:
        raise ValueError(
            f"a current over {names[0]} and {names[1]} has these dimensions and component, got {field.dims}"
        )
    field = field.transpose(*names, "component")
    for name, axis in zip(names, (x, y)):
        given = np.asarray(field[name], float) if name in field.coords else axis
        if given.shape != axis.shape or np.abs(given - axis).max() > 1e-9 * np.ptp(axis):
            raise ValueError(f"the current has other cells along {name} than the potential; make both on one grid")
    return field.to_numpy()
