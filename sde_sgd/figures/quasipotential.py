"""The quasi-potential of a process, its attractors, and the paths that reach given points at least cost."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ._style import EMPTY, INK, colour_bar, frame, map_axes_or_new, plane, styled

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

_PATH = "#D55E00"
_CYCLE = "#ffdd00"
_STEP = 0.25  # of a cell, along a path
_CLOSE = 2.0  # cells to an attractor, where a path ends
_LONGEST = 100  # grid widths, after which a path that winds on is cut


@styled
def plot_quasipotential(
    result: "xr.Dataset", ends: Sequence | None = None, ax: "Axes | None" = None, levels: int = 12
) -> "Axes":
    """A map of V with level lines, the attractors, and the cheapest path to each of `ends`.

    A path is followed back from its end along −(b + 2D∇V), `velocity` of the result, until it is within two cells of an
    attractor: a star or, for a limit cycle, a closed line. Over a pass it ends there, as beyond it follows the drift,
    and at the seam of a periodic axis. Grey is not known on this box. `result` is what `quasipotential` returns, over
    two variables. Raises ValueError for other dimensions, and for ends where V is not known.
    """
    from matplotlib.patheffects import Normal, Stroke
    from matplotlib.ticker import MaxNLocator

    x_name, y_name, x, y, value = plane(result["quasipotential"], "the quasi-potential")
    ax = map_axes_or_new(ax, x, y, above=0.3)
    ax.set_facecolor(EMPTY)
    steps = MaxNLocator(levels).tick_values(0.0, np.nanmax(value))
    filled = ax.contourf(x, y, np.ma.masked_invalid(value).T, levels=steps, cmap="Blues_r", alpha=0.85)
    ax.contour(x, y, np.ma.masked_invalid(value).T, levels=steps[1:-1], colors=INK, linewidths=0.5, alpha=0.5)
    colour_bar(ax.figure, ax, filled, "quasi-potential")
    frame(ax, (x_name, y_name), x, y)
    for k, end in enumerate([] if ends is None else np.atleast_2d(np.asarray(ends, float))):
        path = characteristic(result, end)
        ax.plot(*path.T, color=_PATH, lw=1.4, label="path of least action" if k == 0 else None)
        ax.plot(*end, "o", ms=3.5, color=_PATH)
    for k, orbit in enumerate(result["orbit"].transpose("attractor", "along", "component").to_numpy()):
        label = "attractor" if k == 0 else None
        if np.ptp(orbit, axis=0).any():
            closed = np.concatenate([orbit, orbit[:1]])
            jump = np.abs(np.diff(closed, axis=0)).max(-1) > 0.5 * min(np.ptp(x), np.ptp(y))  # round a periodic axis
            ax.plot(*np.insert(closed, np.flatnonzero(jump) + 1, np.nan, axis=0).T, color=_CYCLE, lw=2.2, label=label,
                    path_effects=[Stroke(linewidth=3.6, foreground=INK), Normal()])  # fmt: skip
        else:
            ax.scatter(
                orbit[0, 0], orbit[0, 1], marker="*", s=75, facecolor=_CYCLE, edgecolor=INK, zorder=4, label=label
            )
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, columnspacing=1.2, handletextpad=0.4)
    return ax


def characteristic(result: "xr.Dataset", end: np.ndarray) -> np.ndarray:
    """Points (n, d) of the path of least action to `end`, from there back to its attractor."""
    from scipy.interpolate import RegularGridInterpolator

    names = [str(d) for d in result["quasipotential"].dims]
    axes = tuple(result[n].to_numpy() for n in names)
    cell = np.array([a[1] - a[0] for a in axes])
    field = RegularGridInterpolator(axes, result["velocity"].to_numpy(), bounds_error=False)
    end = np.asarray(end, float)
    if end.shape != (len(names),) or np.isnan(field(end)).any():
        raise ValueError(f"the quasi-potential is not known around {end.tolist()}; choose an end inside its region")
    orbits = result["orbit"].transpose("attractor", "along", "component").to_numpy()
    places, single = orbits.reshape(-1, len(names)), ~np.ptp(orbits, axis=1).any(-1)
    path = [end]
    for _ in range(int(_LONGEST * max(map(len, axes)) / _STEP)):
        middle = _back(path[-1], path[-1], field, cell, 0.5)
        point = None if middle is None else _back(path[-1], middle, field, cell, 1.0)
        if point is None:
            break
        path.append(point)
        near = np.abs((places - point) / cell).max(-1).argmin()
        if np.abs((places[near] - point) / cell).max() < _CLOSE:
            if single[near // orbits.shape[1]]:
                path.append(places[near])
            break
    return np.array(path)


def _back(start, at, field, cell, part):
    """A step against the direction at `at`, in cells; None where there is none."""
    direction = field(at)[0] / cell
    size = np.linalg.norm(direction)
    return start - part * _STEP * cell * direction / size if np.isfinite(size) and size > 0 else None
