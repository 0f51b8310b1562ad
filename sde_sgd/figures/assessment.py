"""Where a density peaks against where its drift vanishes, and where the first-order formula puts the peaks."""

from typing import TYPE_CHECKING

import numpy as np

from sde_sgd import _checks

from ._style import EMPTY, INK, axes_or_new, colour_bar, frame, map_axes_or_new, plane, styled
from .potential import mark_points, plot_potential_against_loss

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

    from sde_sgd.potential import Assessment

_SHIFT = "#009E73"


@styled
def plot_assessment(assessment: "Assessment", ax: "Axes | None" = None, ceiling: float = 12.0) -> "Axes":
    """Zeros of the drift, modes of the density, and an arrow from each stable zero to where it is moved to first order.

    In two variables over a map of Φ − f where the drift is −∇f, and of Φ/T otherwise; in one over the curves of Φ and,
    for b = −∇f, of f, each from its minimum. Dotted lines join a mode to its zero; modes on a ridge are left out. Only
    where Φ ≤ ceiling·T. `assessment` is a result of `potential.assess`; ValueError for one in three variables.
    """
    from sde_sgd.potential import Assessment

    _checks.instance("assessment", assessment, Assessment, "make one by potential.assess(fp)")
    parts = assessment.decomposition
    names = [str(d) for d in parts["potential"].dims]
    if len(names) > 2:
        raise ValueError(f"an assessment over one or two variables can be drawn, got {', '.join(names)}")
    modes = assessment.modes.isel(point=np.flatnonzero(assessment.modes["resolved"].values))
    lossy = "loss" in parts and assessment["gradient_drift"].holds is True
    if len(names) == 1:
        return _curves(assessment, names[0], modes, lossy, ax, ceiling)
    if lossy:
        ax = plot_potential_against_loss(parts, parts["loss"], ax=ax, ceiling=ceiling)
    else:
        ax = _height(parts, ax, ceiling)
    pair = (names[0], names[1])
    zeros, at, moved = assessment.zeros, *_ends(assessment, names)
    peaks = np.stack([assessment.modes[n].values for n in names], -1)
    for k in np.flatnonzero(zeros["mode"].values >= 0):
        mode = peaks[int(zeros["mode"][k])]
        ax.plot(*zip(at[k], mode), ls=":", lw=1.2, color=INK, zorder=2)
    seen = False
    for start, end in zip(at, moved):
        if np.isfinite(end).all() and _visible(end - start, ax):
            _arrow(ax, tuple(start), tuple(end))
            seen = True
    drawn = mark_points(ax, pair, zeros, modes, "loss" if lossy else "drift")
    if seen:
        ax.plot([], [], color=_SHIFT, lw=1.4, label="shift to first order in T")
    if drawn or seen:
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, columnspacing=1.2, handletextpad=0.3)
    return ax


def _ends(assessment: "Assessment", names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Zeros of the drift, and where those that are stable are moved to; NaN for others."""
    zeros = assessment.zeros
    at = np.stack([zeros[n].values for n in names], -1)
    stable = np.isin(zeros["kind"].values.astype(str), ("stable", "minimum"))
    return at, np.where(stable[:, None], at + zeros["predicted_shift"].values, np.nan)


def _visible(shift: np.ndarray, ax: "Axes") -> bool:
    """Whether an arrow would be longer than a hundredth of the frame."""
    size = np.array([np.ptp(ax.get_xlim()), np.ptp(ax.get_ylim())])[: len(shift)]
    return bool((np.abs(shift) > 0.01 * size).any())


def _arrow(ax: "Axes", start: tuple[float, float], end: tuple[float, float]) -> None:
    style = {"arrowstyle": "-|>", "color": _SHIFT, "lw": 1.4, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", end, start, zorder=6, annotation_clip=True, arrowprops=style)


def _height(parts: "xr.Dataset", ax: "Axes | None", ceiling: float) -> "Axes":
    """A map of Φ/T."""
    x_name, y_name, x, y, potential = plane(parts["potential"], "the potential")
    height = potential / float(parts.attrs["temperature"])
    ax = map_axes_or_new(ax, x, y, above=0.4)
    ax.set_facecolor(EMPTY)
    filled = ax.contourf(
        x, y, np.ma.masked_where(height > ceiling, height).T, levels=np.linspace(0.0, ceiling, 13), cmap="Blues_r",
        alpha=0.75,
    )  # fmt: skip
    colour_bar(ax.figure, ax, filled, "potential / temperature")
    frame(ax, (x_name, y_name), x, y)
    return ax


def _curves(
    assessment: "Assessment", name: str, modes: "xr.Dataset", lossy: bool, ax: "Axes | None", ceiling: float
) -> "Axes":
    ax = axes_or_new(ax)
    parts = assessment.decomposition
    x, potential = parts[name].values, parts["potential"].values
    shown = potential <= ceiling * assessment.temperature
    ax.plot(x[shown], potential[shown], label="potential Φ")
    under = potential
    if lossy:
        under = parts["loss"].values - parts["loss"].values[shown].min()
        ax.plot(x[shown], under[shown], ls="--", label="loss f")
    low, high = x[shown][[0, -1]]
    ax.set(xlabel=name, ylabel="height above the minimum", xlim=(low, high))
    top = 1.2 * potential[shown].max()
    ax.set_ylim(-0.06 * top, top)
    at, moved = _ends(assessment, [name])
    inside = (at[:, 0] >= low) & (at[:, 0] <= high)
    of = "loss" if lossy else "drift"
    heights = np.interp(at[:, 0], x, under)
    for kind in dict.fromkeys(assessment.zeros["kind"].values.astype(str)[inside]):
        chosen = inside & (assessment.zeros["kind"].values.astype(str) == kind)
        marker = {"minimum": "o", "stable": "o", "saddle": "X", "degenerate": "D"}.get(kind, "^")
        label = f"{kind} of the {of}" if lossy else f"{kind} point of the {of}"
        ax.scatter(at[chosen, 0], heights[chosen], s=50, marker=marker, facecolor="white", edgecolor=INK, zorder=4,
                   label=label)  # fmt: skip
    seen = False
    for k in np.flatnonzero(inside & np.isfinite(moved[:, 0])):
        if _visible(moved[k] - at[k], ax):
            _arrow(ax, (at[k, 0], heights[k]), (moved[k, 0], heights[k]))
            seen = True
    place = modes[name].values
    ax.scatter(place, np.interp(place, x, potential), s=90, marker="*", facecolor="#ffdd00", edgecolor=INK, zorder=5,
               label="mode of the density")  # fmt: skip
    if seen:
        ax.plot([], [], color=_SHIFT, lw=1.4, label="shift to first order in T")
    ax.legend()
    return ax
