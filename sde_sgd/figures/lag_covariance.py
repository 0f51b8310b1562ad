"""Covariance between states a time apart: the symmetric part, and the antisymmetric one that shows a current."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ._style import INK, new_figure, styled

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

_MOST = 3  # variables in one figure


@styled
def plot_lag_covariance(result: "xr.Dataset | xr.DataArray", variables: Sequence[str] | None = None) -> "Figure":
    r"""C(t) with its standard errors: above, the components of (C + Cᵀ)/2; below, those of (C − Cᵀ)/2.

    `result` has `lag_covariance` and `lag_covariance_error`, as a run with a `LagCovariance` leaves them; or it is what
    `FokkerPlanck.lag_covariance` gives, drawn as lines, for it has no statistical error. The lower
    panel is 0 where detailed balance holds; it is left out for one variable. Its bars, and those of the mixed
    components above, are means of the errors of C_ij and C_ji: at least the standard error of the sum and difference.
    `variables` names one to three to draw; by default all, of which there are then not more.
    """
    exact = getattr(result, "name", None) == "lag_covariance" and "time" in result.dims
    if exact:
        result = result.rename(time="lag").assign_coords(lag_time=("lag", result["time"].values)).to_dataset()
        result["lag_covariance_error"] = 0.0 * result["lag_covariance"]
    if "lag_covariance" not in result:
        raise ValueError("there is no lag covariance to draw; run with observables=LagCovariance(lags)")
    known = [str(name) for name in result["variable"].to_numpy()]
    chosen = known if variables is None else [variables] if isinstance(variables, str) else list(variables)
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise ValueError(f"the lag covariance has no variable {unknown[0]!r}; it has {', '.join(known)}")
    if not 1 <= len(chosen) <= _MOST:
        raise ValueError(f"one to {_MOST} variables can be drawn, got {len(chosen)}; name them with variables")
    value, error = (
        result[name].sel(variable=chosen, variable_2=chosen).transpose("lag", "variable", "variable_2").to_numpy()
        for name in ("lag_covariance", "lag_covariance_error")
    )
    timed = "lag_time" in result.coords
    lag = np.asarray(result["lag_time" if timed else "lag"], float)

    pairs = list(itertools.combinations(range(len(chosen)), 2))
    figure = new_figure(5.2, 5.0 if pairs else 3.4)
    panels = figure.subplots(2 if pairs else 1, 1, sharex=True, squeeze=False, height_ratios=[3, 2] if pairs else [1])
    above, below = panels[0, 0], panels[-1, 0]
    for i, name in enumerate(chosen):
        _bars(above, lag, value[:, i, i], error[:, i, i], f"{name}, {name}")
    for i, j in pairs:
        label, bar = f"{chosen[i]}, {chosen[j]}", (error[:, i, j] + error[:, j, i]) / 2
        (line,) = _bars(above, lag, (value[:, i, j] + value[:, j, i]) / 2, bar, label)
        _bars(below, lag, (value[:, i, j] - value[:, j, i]) / 2, bar, label, line.get_color())
    above.set_ylabel("covariance (symmetric part)" if pairs else "covariance")
    for ax in panels[:, 0]:
        ax.axhline(0.0, color=INK, lw=0.8, zorder=0)
        ax.legend(ncols=2 if len(pairs) > 1 else 1)
    if pairs:
        below.set_ylabel("antisymmetric part")
        figure.align_ylabels()
    below.set_xlabel("lag, time" if timed else "lag, samples")
    return figure


def _bars(ax, x: np.ndarray, y: np.ndarray, error: np.ndarray, label: str, colour: str | None = None):
    """A line with error bars; returns it as a one-tuple."""
    exact = not error.any()
    marker = "o" if len(x) <= 40 and not exact else "none"
    container = ax.errorbar(
        x,
        y,
        None if exact else error,
        marker=marker,
        ms=3.5,
        lw=1.2,
        elinewidth=1.0,
        capsize=2.0,
        label=label,
        color=colour,
    )
    return container.lines[:1]
