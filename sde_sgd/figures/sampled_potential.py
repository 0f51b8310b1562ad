"""The potential that samples show, with what they leave open."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ._style import EMPTY, INK, colour_bar, frame, new_figure, outer, plane, proportions, styled

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

_NORMAL_95 = 1.959964


@styled
def plot_sampled_potential(result: "xr.Dataset") -> "Figure":
    """Φ̂ of `potential_from_samples` over one or two axes, its error, and E[f | cell] where a loss was given.

    Over one axis: Φ̂ in its 95 % band, less the estimated smoothing bias as a dotted line, and E[f | cell] with 95 %
    bars, moved to the same mean over the samples, for both are known up to a constant. Over two: maps of Φ̂,
    of its standard error and of Φ̂ − E[f | cell], white at mean 0; grey cells had too few independent visits. Every
    Φ̂ is in units of the loss. Raises ValueError over three axes: project onto two.
    """
    if "potential_error" not in result:
        raise ValueError("there is no sampled potential to draw; give the Dataset of potential_from_samples")
    potential = result["potential"]
    if potential.ndim > 2:
        raise ValueError(f"a potential over {potential.ndim} axes cannot be drawn; project the samples onto one or two")
    difference = _difference(result) if "conditional_loss" in result else None
    return (_lines if potential.ndim == 1 else _maps)(result, difference)


def _difference(result: "xr.Dataset") -> np.ndarray:
    """Φ̂ − E[f | cell], its mean over e^{−Φ̂/T} zero."""
    potential, loss = (result[name].to_numpy() for name in ("potential", "conditional_loss"))
    weight = np.exp(-(potential - np.nanmin(potential)) / float(result.attrs["temperature"]))
    difference = potential - loss
    held = np.isfinite(difference)
    return difference - np.average(difference[held], weights=weight[held])


def _lines(result: "xr.Dataset", difference: np.ndarray | None) -> "Figure":
    (name,) = result["potential"].dims
    x = np.asarray(result[name], float)
    value, error, bias = (result[part].to_numpy() for part in ("potential", "potential_error", "smoothing_bias"))
    figure = new_figure(4.8, 3.6)
    ax = figure.subplots()
    colour = ax.plot(x, value, label="potential, from samples")[0].get_color()
    reach = _NORMAL_95 * error
    ax.fill_between(x, value - reach, value + reach, color=colour, alpha=0.22, lw=0, label="95 % of its error")
    ax.plot(x, value - bias, ":", color=colour, lw=1.2, label="less the smoothing bias")
    if difference is not None:
        bars = _NORMAL_95 * result["conditional_loss_error"].to_numpy()
        ax.errorbar(
            x, value - difference, bars, fmt="o", ms=2.6, elinewidth=0.9, lw=0, color="#D55E00",
            label=f"mean loss given {name}",
        )  # fmt: skip
    ax.set(xlabel=name, ylabel="potential")
    margin = (x[-1] - x[0]) / (2 * max(len(x) - 1, 1))
    ax.set_xlim(x[0] - margin, x[-1] + margin)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, columnspacing=1.2)
    return figure


def _maps(result: "xr.Dataset", difference: np.ndarray | None) -> "Figure":
    x_name, y_name, x, y, potential = plane(result["potential"], "the potential")
    error = result["potential_error"].to_numpy()
    lowest = float(np.nanmin(potential))
    panels: list[tuple[str, np.ndarray, dict[str, Any]]] = [
        ("potential", potential - lowest, {"cmap": "Blues_r"}),
        ("standard error", error, {"cmap": "YlOrBr", "vmin": 0.0}),
    ]
    if difference is not None:
        reach = max(float(np.nanquantile(np.abs(difference), 0.98)), 1e-3 * float(result.attrs["temperature"]))
        panels.append(("potential − mean loss", difference, {"cmap": "RdBu_r", "vmin": -reach, "vmax": reach}))
    ratio = proportions(x, y)
    figure = new_figure(3.3 * len(panels) + 0.3, 2.6 * ratio + 0.7)
    axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)
    levels = float(result.attrs["temperature"]) * np.array([1.0, 2.0, 4.0, 8.0])
    for ax, (label, values, options) in zip(axes[0], panels):
        ax.set_facecolor(EMPTY)
        mesh = ax.pcolormesh(x, y, np.ma.masked_invalid(values).T, shading="nearest", rasterized=True, **options)
        if min(potential.shape) > 1:
            ax.contour(
                x, y, np.ma.masked_invalid(potential - lowest).T, levels=levels, colors=INK, linewidths=0.6, alpha=0.45
            )
        colour_bar(figure, ax, mesh, label)
        frame(ax, (x_name, y_name), x, y)
    outer(axes, len(panels))
    return figure
