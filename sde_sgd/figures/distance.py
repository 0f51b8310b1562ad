"""How fast a prediction becomes exact: distance against step, the fitted power, the sampling floor."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sde_sgd.distances import CLEAR

from ._style import INK, axes_or_new, next_colour, styled

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes


class PowerLaw(NamedTuple):
    """y = factor · x^slope; `slope_error` is one standard error, NaN where two points leave none."""

    slope: float
    slope_error: float
    factor: float


def fit_power_law(x: Any, y: Any, error: Any = None) -> PowerLaw:
    """Least squares in logarithms, each point weighted by its relative error if `error` (one σ) is given.

    `x`, `y`, `error`: positive numbers, shape (n,). With errors, the slope's standard error follows from
    them and is widened by √(χ²/(n−2)) where the points scatter more than they say; without, from the
    scatter alone.
    Raises ValueError for lengths that differ, for fewer than two different x, or for numbers that are not positive.
    """
    x, y = (np.asarray(v, float) for v in (x, y))
    shapes = [x.shape, y.shape] if error is None else [x.shape, y.shape, np.shape(error)]
    if x.ndim != 1 or len(set(shapes)) > 1:
        raise ValueError(f"x, y and error must be of one shape (n,), got {', '.join(map(str, shapes))}")
    sigma = np.ones_like(y) if error is None else np.asarray(error, float) / y
    if not all(np.all(np.isfinite(v)) and np.all(v > 0) for v in (x, y, sigma)):
        raise ValueError("a power law is fitted to positive numbers with positive errors")
    if np.unique(x).size < 2:
        raise ValueError(f"a slope needs at least two different x, got {np.unique(x).size}")
    u, v, weight = np.log(x), np.log(y), sigma**-2
    middle = np.average(u, weights=weight)
    spread = np.sum(weight * (u - middle) ** 2)
    slope = np.sum(weight * (u - middle) * v) / spread
    intercept = np.average(v, weights=weight) - slope * middle
    if x.size > 2:
        scatter = np.sum(weight * (v - intercept - slope * u) ** 2) / (x.size - 2)
        variance = scatter if error is None else max(1.0, scatter)
    else:
        variance = np.nan if error is None else 1.0
    return PowerLaw(float(slope), float(np.sqrt(variance / spread)), float(np.exp(intercept)))


@styled
def plot_distance(
    distances: "xr.DataArray | xr.Dataset",
    x: str,
    *,
    floor: Any = None,
    ax: "Axes | None" = None,
    xlabel: str | None = None,
    ylabel: str = "L1 distance",
    label: str = "measured",
    fit: bool = True,
) -> "Axes":
    """Distance against `x` on logarithmic axes, with the fitted power law and its slope in the legend.

    `distances`: a DataArray over the dimension `x`, or a Dataset of `distance` and, where known, `error` (one
    σ) and `floor` (the distance that sampling alone gives; a number or one per point; drawn dashed). Points
    below two floors are drawn hollow and left out of the fit: they measure the sample, not the prediction. A point
    whose error is 0 beside others that are not is drawn and left out of the fit, which could give it no weight; a
    distance that is not positive has no place on a logarithmic axis and is counted in the legend.
    `fit=False` joins the points instead, where no power law is expected.
    """
    if hasattr(distances, "data_vars"):
        error = distances.get("error")
        floor = distances.get("floor") if floor is None else floor
        distances = distances["distance"]
    else:
        error = None
    if distances.dims != (x,):
        raise ValueError(f"distances must have the one dimension {x!r}, got {distances.dims}")
    order = np.argsort(distances[x].to_numpy())
    at, value = distances[x].to_numpy()[order].astype(float), distances.to_numpy()[order].astype(float)
    sigma = None if error is None else np.asarray(error, float)[order]
    level = None if floor is None else np.broadcast_to(np.asarray(floor, float), value.shape)
    if level is not None and np.ndim(floor):
        level = level[order]
    shown = (value > 0) & np.isfinite(value)
    hidden = int(value.size - shown.sum())
    clear = shown if level is None else shown & (value > CLEAR * level)
    if sigma is not None and not (sigma > 0).any():
        sigma = None  # exact numbers, whose logarithms are fitted alike

    ax = axes_or_new(ax, 4.8, 3.5)
    ax.set(xscale="log", yscale="log", xlabel=xlabel or x.replace("_", " "), ylabel=ylabel)
    colour = next_colour(ax)
    note = f" ({hidden} of {value.size} not positive)" if hidden else ""
    _points(ax, at, value, sigma, clear, colour, label + note)
    _points(ax, at, value, sigma, shown & ~clear, colour, "at the sampling floor", hollow=True)
    fitted = clear if sigma is None else clear & (sigma > 0)
    if not fit:
        ax.plot(at[shown], value[shown], color=colour, lw=1.0, alpha=0.6)
    elif np.unique(at[fitted]).size >= 2:
        law = fit_power_law(at[fitted], value[fitted], None if sigma is None else sigma[fitted])
        ends = np.array([at[fitted].min(), at[fitted].max()])
        ax.plot(ends, law.factor * ends**law.slope, color=colour, lw=1.3, label=f"slope {_with_error(law)}")
    if level is not None:
        ax.plot(at, level, color=INK, lw=1.1, ls=(0, (4, 3)), label="sampling floor")
    ax.grid(True, which="major")
    handles, labels = ax.get_legend_handles_labels()
    points_first = sorted(zip(handles, labels), key=lambda pair: hasattr(pair[0], "get_linestyle"))
    if points_first:
        ax.legend(*zip(*points_first), loc="best" if fit else "center right")
    return ax


def _with_error(law: PowerLaw) -> str:
    if not law.slope_error >= 5e-5:  # exact, or NaN from two points without errors
        return f"{law.slope:.2f}"
    digits = int(np.clip(np.ceil(-np.log10(law.slope_error)), 2, 4))
    return f"{law.slope:.{digits}f} ± {law.slope_error:.{digits}f}"


def _points(
    ax: "Axes", x: np.ndarray, y: np.ndarray, sigma: Any, chosen: np.ndarray, colour: str, label: str,
    hollow: bool = False,
) -> None:  # fmt: skip
    if not chosen.any():
        return
    ax.errorbar(
        x[chosen], y[chosen], None if sigma is None else sigma[chosen], ls="none", marker="o", color=colour,
        markerfacecolor="white" if hollow else colour, elinewidth=1.1, label=label,
    )  # fmt: skip
