"""A few trajectories: one variable against time, or two in their plane over the levels of the loss."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ._style import INK, MUTED, axes_or_new, frame, map_axes_or_new, styled

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

_CELLS = 160  # along each axis of the map on which the loss is evaluated
_LEVELS = 12


@styled
def plot_paths(
    run: "xr.Dataset",
    landscape: Any = None,
    variables: Sequence[str] | None = None,
    shown: int | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """The first `shown` saved paths (or replicas): one variable against time (5), two in their plane (3).

    `run` is a result of `simulate` or `sgd` with `save_every`. `landscape` (or a process of it) draws the levels of
    its loss behind paths of the very same variables, the closer the lower, and lets lines end where a periodic
    variable begins anew. `variables` names the one or two to draw; by default all, of which there are then one or two.
    In the plane circles are the starts and dots the ends. Raises ValueError where nothing was saved, for other numbers
    of variables, and for a landscape of other variables.
    """
    columns, member = _saved(run, variables)
    shown = shown if shown is not None else 5 if len(columns) == 1 else 3
    if shown < 1:
        raise ValueError(f"shown must be at least 1, got {shown}")
    landscape = getattr(landscape, "landscape", landscape)  # of a process
    if landscape is not None and tuple(landscape.variables) != tuple(columns):
        raise ValueError(
            f"the loss of {landscape.name} is over {', '.join(landscape.variables)} and the paths drawn are over "
            f"{', '.join(columns)}; name its variables, or leave the landscape out"
        )
    count = run.sizes[member]
    several = [values[:shown] for values in columns.values()]
    if landscape is not None:
        several = [_cut(values, *side) for values, side in zip(several, _periods(landscape))]
    draw = _against_time if len(columns) == 1 else _in_plane
    ax = draw(ax, np.asarray(run["time"], float), list(columns), several, landscape)
    if count > shown:
        ax.set_title(f"{shown} of {count} {member}s", loc="right", fontsize=8.5, color=MUTED)
    return ax


def _saved(run: "xr.Dataset", variables: Sequence[str] | None) -> tuple[dict[str, np.ndarray], str]:
    """The values (paths, time) of the variables to draw, by name, and the name of the dimension of the paths."""
    if "time" not in run.dims:
        raise ValueError("the run has no saved states to draw; run it with save_every")
    member = "replica" if "replica" in run.dims else "path"
    if "state" in run:
        state = run["state"].transpose("variable", member, "time")
        known = {str(name): values for name, values in zip(state["variable"].to_numpy(), state)}
    else:
        known = {str(n): v.transpose(member, "time") for n, v in run.items() if set(v.dims) == {member, "time"}}
    if variables is not None:
        variables = (variables,) if isinstance(variables, str) else tuple(variables)
        unknown = [name for name in variables if name not in known]
        if unknown:
            raise ValueError(f"the run has no saved variable {unknown[0]!r}; it has {', '.join(known)}")
        known = {name: known[name] for name in variables}
    if len(known) not in (1, 2):
        raise ValueError(
            f"one or two variables can be drawn, the run has {', '.join(known) or 'none'}; name them with variables"
        )
    return {name: np.asarray(values, float) for name, values in known.items()}, member


def _periods(landscape: Any) -> list[tuple[bool, float]]:
    domain = landscape.domain
    return [(wraps, float(high - low)) for wraps, low, high in zip(domain.periodic, domain.lower, domain.upper)]


def _cut(values: np.ndarray, wraps: bool, period: float) -> np.ndarray:
    """NaN in place of the state after a jump across the seam, where a line would cross the whole frame."""
    if not wraps:
        return values
    jumps = np.abs(np.diff(values, axis=1)) > period / 2
    result = values.copy()
    result[:, 1:][jumps] = np.nan
    return result


def _against_time(ax, time: np.ndarray, names: list[str], several: list[np.ndarray], landscape: Any) -> "Axes":
    ax = axes_or_new(ax, 5.4, 3.3)
    ax.set(xlabel="time", ylabel=names[0])
    if landscape is not None:
        x = _axis(several[0], landscape.domain.lower[0], landscape.domain.upper[0])
        loss = landscape.loss(x[:, None])
        _levels(ax, np.array([time[0], time[-1]]), x, np.stack([loss, loss]))
        ax.set_ylim(x[0], x[-1])
    for values in several[0]:
        ax.plot(time, values, lw=1.0)
    ax.margins(x=0)
    return ax


def _in_plane(ax, time: np.ndarray, names: list[str], several: list[np.ndarray], landscape: Any) -> "Axes":
    bounds = [(-np.inf, np.inf)] * 2
    if landscape is not None:
        bounds = list(zip(landscape.domain.lower, landscape.domain.upper))
    x, y = (_axis(values, *ends) for values, ends in zip(several, bounds))
    ax = map_axes_or_new(ax, x, y, above=0.25)
    if landscape is not None:
        _levels(ax, x, y, landscape.loss(np.stack(np.meshgrid(x, y, indexing="ij"), -1)))
    along, across = several
    width = float(np.clip(0.9 * np.sqrt(500 / along.shape[1]), 0.3, 0.9))  # a long path covers itself
    for one, other in zip(along, across):
        (line,) = ax.plot(one, other, lw=width, alpha=0.8)
        ax.plot(one[-1:], other[-1:], "o", ms=5.5, color=line.get_color(), mec="white", mew=0.7, zorder=4)
    ax.plot(along[:, 0], across[:, 0], "o", ms=6, color="white", mec=INK, mew=1.1, ls="none", zorder=5, label="start")
    ax.plot([], [], "o", ms=5.5, color=INK, mec="white", mew=0.7, ls="none", label="end")
    frame(ax, (names[0], names[1]), x, y)
    ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, borderpad=0.1, handletextpad=0.2)
    return ax


def _axis(values: np.ndarray, lower: float, upper: float) -> np.ndarray:
    """Points over the range of the values and a margin, within the domain as far as the paths are."""
    low, high = np.nanmin(values), np.nanmax(values)
    margin = 0.08 * (high - low) or 0.5
    low, high = max(low - margin, min(lower, low)), min(high + margin, max(upper, high))
    return np.linspace(low, high, _CELLS)


def _levels(ax: "Axes", x: np.ndarray, y: np.ndarray, loss: np.ndarray) -> None:
    """Levels of the loss on [x, y], closer together where it is low, dark where it is lowest."""
    finite = loss[np.isfinite(loss)]
    if not finite.size or np.ptp(finite) == 0:
        return
    levels = finite.min() + np.ptp(finite) * np.linspace(0.0, 1.0, _LEVELS) ** 2
    shade = np.sqrt(np.clip((loss - finite.min()) / np.ptp(finite), 0.0, 1.0))
    ax.contourf(
        x, y, np.ma.masked_invalid(shade).T, levels=np.linspace(0.0, 1.0, _LEVELS), cmap="Greys_r", alpha=0.22, zorder=0
    )
    ax.contour(
        x, y, np.ma.masked_invalid(loss).T, levels=levels[1:-1], colors=MUTED, linewidths=0.5,
        linestyles="solid", zorder=0.5,
    )  # fmt: skip
