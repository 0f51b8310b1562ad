"""Drift and diffusion matrix of a trajectory, as estimated and as expected."""

from typing import TYPE_CHECKING

import numpy as np

from ._style import INK, new_figure, proportions, styled

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SHARE = 0.45  # of the distance between two places that an ellipse may take to either side


@styled
def plot_drift_diffusion(result: "xr.Dataset") -> "Figure":
    """What `estimate_drift_diffusion` found at places in one or two variables, beside what was expected, if it was.

    One variable: b and D (or TD) with bars of one standard error, the expected ones as lines. Two: at each place the
    ellipse of the directions in which noise moves, √λ along each eigenvector of D with eigenvalue λ, and an arrow along
    b, all to one scale, which the title states; the expected ones are outlines. Of three variables choose a slice, such
    as result.isel(z=4). Raises ValueError for more variables, and for a linear estimate, which has no places.
    """
    if "drift" not in result or not {"diffusion", "noise"} & set(result):
        raise ValueError("there is no drift and diffusion to draw; take a result of estimate_drift_diffusion")
    at_points = result["drift"].dims[0] == "point"
    known = [str(name) for name in result["component"].to_numpy()]
    names = known if at_points else [str(name) for name in result["drift"].dims if name != "component"]
    if len(names) not in (1, 2) or not set(names) <= set(known):
        raise ValueError(
            f"places in one or two variables can be drawn, got {len(names)}; choose a slice with isel, or estimate on "
            "a grid or at points"
        )
    return _line(result, names[0]) if len(names) == 1 else _plane(result, names, at_points)


def _noise(result: "xr.Dataset") -> tuple[str, str]:
    return ("diffusion", "diffusion D") if "diffusion" in result else ("noise", "noise TD")


def _line(result: "xr.Dataset", name: str) -> "Figure":
    noise, label = _noise(result)
    figure = new_figure(5.2, 5.0)
    panels = figure.subplots(2, 1, sharex=True)
    x = np.asarray(result[name], float)
    order = np.argsort(x)
    for ax, field, text in zip(panels, ("drift", noise), ("drift b", label)):
        value, error = (np.asarray(result[key], float).reshape(len(x), -1)[:, 0] for key in (field, f"{field}_error"))
        if f"expected_{field}" in result:
            exact = np.asarray(result[f"expected_{field}"], float).reshape(len(x), -1)[:, 0]
            ax.plot(x[order], exact[order], color=INK, lw=1.2, label="expected", zorder=1)
        ax.errorbar(x, value, error, fmt="o", ms=3.5, elinewidth=1.0, capsize=2.0, label="estimated ± error", zorder=2)
        ax.set_ylabel(text)
    panels[0].axhline(0.0, color=INK, lw=0.6, zorder=0)
    panels[1].set_ylim(bottom=min(0.0, panels[1].get_ylim()[0]))
    panels[0].legend()
    panels[1].set_xlabel(name)
    figure.align_ylabels()
    return figure


def _plane(result: "xr.Dataset", names: list[str], at_points: bool) -> "Figure":
    noise = _noise(result)[0]
    chosen = result.sel(component=names, component_2=names)
    if at_points:
        x, y = (np.asarray(chosen[name], float) for name in names)
        spacing = np.array([max(np.ptp(v), 1e-300) for v in (x, y)]) / max(np.sqrt(len(x)), 1.0)
    else:
        chosen = chosen.transpose(*names, "component", "component_2", ...)
        axes = [np.asarray(chosen[name], float) for name in names]
        x, y = (v.ravel() for v in np.meshgrid(*axes, indexing="ij"))
        steps = [v[1] - v[0] for v in axes if len(v) > 1]
        spacing = np.array([v[1] - v[0] if len(v) > 1 else min(steps, default=1.0) for v in axes])
    fields = {"estimated": "", "expected": "expected_"} if f"expected_{noise}" in result else {"estimated": ""}
    matrices = {k: np.asarray(chosen[prefix + noise], float).reshape(-1, 2, 2) for k, prefix in fields.items()}
    arrows = {k: np.asarray(chosen[f"{prefix}drift"], float).reshape(-1, 2) for k, prefix in fields.items()}
    held = np.isfinite(matrices["estimated"]).all((1, 2))
    if not held.any():
        raise ValueError("no place has an estimate to draw")
    reach = np.nanmax([np.nanmax(np.diagonal(m[held], axis1=1, axis2=2) / spacing**2) for m in matrices.values()])
    size = _SHARE / np.sqrt(max(reach, 1e-300))
    longest = np.nanmax([np.nanmax(np.abs(a[held]) / spacing) for a in arrows.values()])
    length = 2 * _SHARE / max(longest, 1e-300)

    ends = [np.array([v[held].min() - h, v[held].max() + h]) for v, h in zip((x, y), spacing)]
    ratio = proportions(*ends)
    figure = new_figure(5.4, 5.4 * min(max(ratio, 0.5), 1.5) + 0.7)
    ax = figure.subplots()
    for which in fields:
        _draw(ax, x[held], y[held], matrices[which][held] * size**2, arrows[which][held] * length, which)
    ax.set(xlabel=names[0], ylabel=names[1], xlim=ends[0], ylim=ends[1])
    ax.set_box_aspect(ratio)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.07), ncols=2)
    kind = "√D" if noise == "diffusion" else "√(TD)"
    ax.set_title(f"ellipses: {size:.2g} {kind}, arrows: {length:.2g} b", fontsize="small")
    return figure


def _draw(ax: "Axes", x: np.ndarray, y: np.ndarray, matrices: np.ndarray, arrows: np.ndarray, which: str) -> None:
    """An ellipse and an arrow at each place, filled for what was estimated, outlined for what was expected."""
    from matplotlib.collections import PolyCollection

    angle = np.linspace(0.0, 2 * np.pi, 49)
    circle = np.stack([np.cos(angle), np.sin(angle)])
    value, vector = np.linalg.eigh(matrices)
    root = (vector * np.sqrt(np.maximum(value, 0.0))[:, None, :]) @ circle
    outlines = root.transpose(0, 2, 1) + np.stack([x, y], -1)[:, None]
    estimated = which == "estimated"
    look = (
        dict(facecolor="#56B4E9", edgecolor="#0072B2", alpha=0.65)
        if estimated
        else dict(facecolor="none", edgecolor=INK)
    )
    ax.add_collection(PolyCollection(list(outlines), lw=0.8, label=which, zorder=1 if estimated else 2, **look))
    colour = "#D55E00" if estimated else INK
    ax.quiver(
        x, y, arrows[:, 0], arrows[:, 1], angles="xy", scale_units="xy", scale=1.0, color=colour,
        headlength=3.5, headaxislength=3.2,
        width=0.0085 if estimated else 0.0035, zorder=3 if estimated else 4,
    )  # fmt: skip
