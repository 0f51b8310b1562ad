"""The slowest modes of a generator, a small panel each."""

import math
from typing import TYPE_CHECKING

import numpy as np

from sde_sgd import _checks

from ._style import EMPTY, INK, colour_bar, frame, new_figure, outer, proportions, styled

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

_PANEL = 2.2  # inches
_FADED = 1e-12  # of the largest value: what is less is not drawn


@styled
def plot_modes(spectrum: "xr.Dataset", modes: int | None = None, side: str = "right", columns: int = 3) -> "Figure":
    r"""Modes over one or two variables, each with its eigenvalue λ; real parts, scaled to their largest modulus.

    `spectrum` is a result of `FokkerPlanck.spectrum`. `side="right"` draws densities r, which fade as e^{−λt}: red is
    where mass leaves and blue where it arrives, or the other way round; `side="left"` draws the functions u, that is
    what of the start is remembered. Of a pair of conjugates one panel is drawn, with the turning rate |Im λ|.
    Functions are masked where the steady state is below 1e-12 of its peak. `modes` is the number of panels.
    Raises ValueError for another Dataset or three variables.
    """
    _checks.choice("side", side, ("right", "left"))
    if "eigenvalue" not in spectrum or side not in spectrum:
        raise ValueError("there are no modes to draw; give a result of FokkerPlanck.spectrum")
    field = spectrum[side]
    if field.ndim not in (2, 3):
        raise ValueError(
            f"modes over one or two variables can be drawn, got {field.dims[1:]}; plot_marginals draws one"
        )
    eigenvalue = np.asarray(spectrum["eigenvalue"], complex)
    shown = np.flatnonzero(eigenvalue.imag >= 0.0)
    if modes is not None:
        shown = shown[: _checks.whole("modes", modes, 1)]
    columns = min(_checks.whole("columns", columns, 1), shown.size)
    rows = math.ceil(shown.size / columns)
    names = [str(name) for name in field.dims[1:]]
    axes = [np.asarray(field[name], float) for name in names]
    height = proportions(*axes) if len(axes) == 2 else 0.7
    wide = 0.8 if len(axes) == 2 else 0.3
    figure = new_figure(_PANEL * columns + wide, rows * (_PANEL * height * 0.92 + 0.45) + 0.2)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    hidden = _hidden(spectrum, side)
    for panel, m in zip(panels.flat, shown, strict=False):
        values = np.asarray(field[m]).real
        values = np.where(hidden, np.nan, values)
        values = values / np.nanmax(np.abs(values))
        panel.set_title(_label(eigenvalue[m]), parse_math=False)
        if len(axes) == 1:
            panel.axhline(0.0, color=INK, lw=0.6, zorder=0)
            panel.plot(axes[0], values)
            panel.set(xlabel=names[0], ylabel="mode / its largest", ylim=(-1.1, 1.1))
            panel.margins(x=0)
        else:
            panel.set_facecolor(EMPTY)
            mesh = panel.pcolormesh(
                *axes, np.ma.masked_invalid(values).T, cmap="RdBu_r", vmin=-1.0, vmax=1.0, shading="nearest",
                rasterized=True,
            )  # fmt: skip
            frame(panel, (names[0], names[1]), *axes)
    drawn = outer(panels, shown.size)
    if len(axes) == 2:
        colour_bar(figure, drawn, mesh, "mode / its largest", rows)
    return figure


def _hidden(spectrum: "xr.Dataset", side: str) -> np.ndarray:
    """Where functions are not drawn, for nothing ever goes there."""
    steady = np.abs(np.asarray(spectrum["right"][0]))
    return (steady < _FADED * steady.max()) & (side == "left")


def _label(value: complex) -> str:
    turning = f" ± {_number(value.imag)}i" if value.imag else ""
    return f"λ = {_number(value.real)}{turning}"


def _number(value: float) -> str:
    if value == 0.0:
        return "0"
    if 1e-3 <= abs(value) < 1e4:
        return f"{value:.4g}"
    power = math.floor(math.log10(abs(value)))
    digits = str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{value / 10.0**power:.2f}·10{digits}"
