"""Paths of least action: where they go over the map of a potential, and what they cost along the way."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ._style import EMPTY, INK, frame, new_figure, plane, proportions, styled

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LEVELS = 14


@styled
def plot_minimum_action_path(
    paths: "xr.Dataset | Sequence[xr.Dataset] | Mapping[str, xr.Dataset]",
    potential: "xr.DataArray | None" = None,
    variables: Sequence[str] | None = None,
) -> "Figure":
    """Left, paths over levels of Φ or V; right, the action along each, which rises only where it is driven by noise.

    `paths` : results of `minimum_action_path`, one, several, or by label. `potential` : over the two variables drawn,
    levels up to a little above the largest action. `variables` : the two to draw; needed where there are more. In one
    variable there is one panel, the action over it. Circles are ends, squares the fixed points between; arrows point
    from a to b. Raises ValueError for paths of other variables, or a potential over others.
    """
    labelled: dict[str | None, Any] = {}
    if hasattr(paths, "data_vars"):
        labelled[None] = paths
    else:
        pairs: Any = (
            paths.items() if isinstance(paths, Mapping) else ((f"path {k + 1}", p) for k, p in enumerate(paths))
        )
        labelled.update(pairs)
    if not labelled or any("total_action" not in p or "path" not in p for p in labelled.values()):
        raise ValueError("paths must be results of minimum_action_path, one or more")
    known = [str(v) for v in next(iter(labelled.values()))["component"].to_numpy()]
    if any([str(v) for v in p["component"].to_numpy()] != known for p in labelled.values()):
        raise ValueError("the paths have different variables; draw those of one process together")
    shown = known if variables is None else list(variables)
    wrong = [v for v in shown if v not in known]
    if wrong or not 1 <= len(shown) <= 2 or (len(shown) == 1) != (len(known) == 1):
        raise ValueError(f"variables must be two of {', '.join(known)}, got {', '.join(map(str, shown))}")
    if len(known) == 1:
        figure = new_figure(4.6, 3.4)
        _along(figure.subplots(), labelled, known[0])
        return figure
    span = _span(labelled, shown) if potential is None else plane(potential, "the potential")[2:4]
    figure = new_figure(8.4, float(np.clip(4.2 * proportions(*span), 2.6, 5.0)))
    left, right = figure.subplots(1, 2, width_ratios=[5, 4])
    top = max(float(p["total_action"]) for p in labelled.values())
    if potential is not None:
        _levels(left, potential, tuple(shown), top)
    else:
        frame(left, (shown[0], shown[1]), *span)
    for label, path in labelled.items():
        x, y = (path["path"].sel(component=v).to_numpy() for v in shown)
        (line,) = left.plot(x, y, lw=1.8, label=label, zorder=3)
        arrow = dict(arrowstyle="-|>", color=line.get_color(), lw=1.8, mutation_scale=14)
        for piece in range(int(path["piece"].max()) + 1):
            at = np.flatnonzero(path["piece"].to_numpy() == piece)
            middle = at[len(at) // 2]
            left.annotate("", (x[middle + 1], y[middle + 1]), (x[middle - 1], y[middle - 1]), arrowprops=arrow)
        left.scatter(x[[0, -1]], y[[0, -1]], s=42, facecolor="white", edgecolor=INK, zorder=4)
        corners = path["crossings"].sel(component=shown).to_numpy()
        left.scatter(*corners.T, s=36, marker="s", facecolor="#ffdd00", edgecolor=INK, zorder=4)
    _along(right, labelled, None)
    return figure


def _along(ax: "Axes", labelled: Mapping, variable: str | None) -> None:
    """Action against the length of the path, or in one variable against that."""
    for number, (label, path) in enumerate(labelled.items()):
        x = path["path"].to_numpy()
        length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(x, axis=0), axis=1))])
        at = length / length[-1] if variable is None else x[:, 0]
        (line,) = ax.plot(at, path["action"], lw=1.8, ls=("-", "--", ":")[number % 3], label=label)
        ends = np.flatnonzero(np.diff(path["piece"].to_numpy()))
        ax.scatter(at[ends], path["action"].to_numpy()[ends], s=30, marker="s", color=line.get_color(), zorder=3)
    ax.set(xlabel="share of the path's length" if variable is None else variable, ylabel="action from the start")
    ax.set_ylim(bottom=0.0)
    if None not in labelled:
        ax.legend()


def _span(labelled: Mapping, shown: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the map where no potential gives them: the paths' own box and a tenth around."""
    values = [np.concatenate([p["path"].sel(component=v).to_numpy() for p in labelled.values()]) for v in shown]
    widest = max(float(np.ptp(v)) for v in values)
    x, y = (np.linspace(v.min() - 0.1 * widest, v.max() + 0.1 * widest, 100) for v in values)
    return x, y


def _levels(ax: "Axes", potential: "xr.DataArray", shown: tuple, top: float) -> None:
    if set(potential.dims) != set(shown):
        raise ValueError(
            f"the potential is over {', '.join(map(str, potential.dims))}, and {', '.join(shown)} are drawn"
        )
    _, _, x, y, values = plane(potential.transpose(*shown), "the potential")
    from matplotlib.ticker import MaxNLocator

    values = values - np.nanmin(values)
    ceiling = 1.6 * top if top > 0.0 else float(np.nanmax(values))
    ax.set_facecolor(EMPTY)
    edges = MaxNLocator(_LEVELS).tick_values(0.0, ceiling)
    values = np.ma.masked_where(~(values <= edges[-1]), values)
    drawn = ax.contourf(x, y, values.T, levels=edges, cmap="Blues_r", alpha=0.75)
    ax.figure.colorbar(drawn, ax=ax, label="potential", pad=0.02, ticks=edges[::2])
    ax.contour(x, y, values.T, levels=edges[:-1], colors=INK, linewidths=0.4, alpha=0.4)
    frame(ax, (shown[0], shown[1]), x, y)
