"""Currents and oscillations in trajectories: areas swept out with their errors, spectra with their peaks."""

from typing import TYPE_CHECKING

import numpy as np

from sde_sgd import _checks

from ._style import INK, MUTED, axes_or_new, styled

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

_MOST = 15  # pairs by name in one frame
_NAMED = 6  # peaks that are given their frequency


@styled
def plot_area_production(result: "xr.Dataset", lag: int | None = None, ax: "Axes | None" = None) -> "Axes":
    """The area production of each pair with bars of two standard errors; against `expected` where that is known.

    `result` is one of `area_production`. With `expected`, every pair is a point, measured over expected, and agreement
    is the line; without, the 15 pairs of the smallest p-values are named from above. Filled points have an adjusted
    p-value of at most 0.05. `lag`, by default the first, is one of the lags of the result.
    Raises ValueError for another Dataset or lag.
    """
    if "area_production" not in result or "lag" not in result["area_production"].dims:
        raise ValueError("there is no area production to draw; give a result of area_production")
    known = result["lag"].to_numpy().tolist()
    lag = known[0] if lag is None else lag
    if lag not in known:
        raise ValueError(f"lag must be one of {', '.join(map(str, known))}, got {lag!r}")
    at = result.sel(lag=lag)
    if "plane" in result["area_production"].dims:
        names = [f"plane {k + 1}" for k in range(result.sizes["plane"])]
        choose = lambda array: np.asarray(array)  # noqa: E731
    else:
        variables = [str(v) for v in result["variable"].to_numpy()]
        i, j = np.triu_indices(len(variables), 1)
        names = [f"{variables[a]}, {variables[b]}" for a, b in zip(i, j)]
        choose = lambda array: np.asarray(array)[i, j]  # noqa: E731
    value, error, p = (choose(at[f]) for f in ("area_production", "area_production_error", "pair_p_value"))

    if "expected" in result:
        ax = axes_or_new(ax, 4.2, 4.0)
        target = choose(at["expected"])
        ends = np.array([target.min(), target.max()])
        ax.plot(ends, ends, color=INK, lw=1.0, zorder=0, label="measured = expected")
        _points(ax, target, value, error, p, upright=True)
        slope = f"slope {float(at['slope']):.3f} ± {float(at['slope_error']):.3f}"
        ax.set(xlabel="expected area per time", ylabel="measured")
        ax.plot([], [], " ", label=f"{slope}, p = {float(at['expected_p_value']):.2g}")
    else:
        order = np.lexsort((-np.abs(value) / np.where(error > 0, error, np.inf), p))[:_MOST]
        ax = axes_or_new(ax, 4.6, 1.2 + 0.28 * len(order))
        rows = np.arange(len(order))
        _points(ax, value[order], rows, error[order], p[order], upright=False)
        ax.axvline(0.0, color=INK, lw=1.0, zorder=0)
        ax.set_yticks(rows, [names[k] for k in order])
        ax.set_ylim(len(order) - 0.5, -0.5)
        shown = "" if len(order) == len(names) else f", {len(order)} of {len(names)} pairs"
        ax.set_xlabel(f"area per time{shown}")
        ax.plot([], [], " ", label=f"no current: p = {float(at['p_value']):.2g}")
    ax.legend(loc="best")
    return ax


def _points(ax: "Axes", x, y, error, p, upright: bool) -> None:
    """Points with bars of two standard errors along one axis, filled where the p-value is at most 0.05."""
    bars = {"yerr" if upright else "xerr": 2 * error}
    sure = p <= 0.05
    for chosen, face in ((sure, None), (~sure, "white")):
        if chosen.any():
            part = {name: bar[chosen] for name, bar in bars.items()}
            ax.errorbar(x[chosen], y[chosen], **part, fmt="o", ms=4, mfc=face, color="C0", elinewidth=1.0, capsize=2.0)


@styled
def plot_spectral_peaks(result: "xr.Dataset", observable: str | None = None, ax: "Axes | None" = None) -> "Axes":
    """The spectrum of one observable, its background, the threshold above which it is a peak, and the peaks.

    `result` is one of `spectral_peaks`. `observable` is by default the one with the most significant peak. The first
    six peaks carry their frequency. Raises ValueError for another Dataset or observable.
    """
    if "peak_frequency" not in result or "threshold" not in result:
        raise ValueError("there are no spectral peaks to draw; give a result of spectral_peaks")
    known = [str(v) for v in result["observable"].to_numpy()]
    if observable is None:
        best = np.nanmin(np.where(np.isnan(result["p_value"]), 2.0, result["p_value"]), axis=1)
        observable = known[int(np.argmin(best))]
    _checks.choice("observable", observable, known)
    at = result.sel(observable=observable).isel(frequency=slice(1, None))
    frequency = at["frequency"].to_numpy()
    ax = axes_or_new(ax, 5.4, 3.8)
    ax.plot(frequency, at["spectrum"], color=MUTED, lw=0.9, label=f"spectrum of {observable}")
    ax.plot(frequency, at["background"], color="C0", lw=1.4, label="background")
    level = result.attrs["level"]
    ax.plot(frequency, at["threshold"], color="C0", lw=1.0, ls=(0, (4, 2)), label=f"threshold, {level:g} for any")
    mine = np.flatnonzero(result["peak_observable"].to_numpy() == observable)
    where = result["peak_frequency"].to_numpy()[mine]
    height = at["spectrum"].sel(frequency=where, method="nearest").to_numpy()
    if mine.size:
        ax.plot(where, height, "v", color="C1", ms=5, label=f"{mine.size} peak{'s' if mine.size > 1 else ''}")
    for f, h in list(zip(where, height))[:_NAMED]:
        ax.annotate(f"{f:.3g}", (f, h), xytext=(0, 5), textcoords="offset points", ha="center", va="bottom", color=INK)
    ax.set(xscale="log", yscale="log", xlabel="frequency, cycles per time", ylabel="power per frequency")
    ax.margins(y=0.12)
    ax.legend()
    return ax
