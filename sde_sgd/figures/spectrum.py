"""Eigenvalues in falling order, and the thresholds that turn them into a rank."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ._style import axes_or_new, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DASHES = [(0, (4, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (3, 1, 1, 1, 1, 1))]


@styled
def plot_spectrum(
    spectra: Mapping[str, Any],
    thresholds: Mapping[str, float] | None = None,
    ax: "Axes | None" = None,
    ylabel: str = "eigenvalue",
) -> "Axes":
    """Eigenvalues against their index on logarithmic axes, each threshold a level line.

    `spectra` maps labels to eigenvalues, shape (n,), in any order; those ≤ 0 cannot be shown on a logarithmic
    axis and are counted in the legend instead. `thresholds` maps labels to positive numbers; a threshold
    with the label of a spectrum takes its colour and states the rank it gives there.
    Raises ValueError where there is no spectrum, or one without a positive eigenvalue.
    """
    if not spectra:
        raise ValueError("there is no spectrum to plot")
    ax = axes_or_new(ax, 5.0, 3.6)
    ordered = {label: np.sort(np.asarray(values, float).ravel())[::-1] for label, values in spectra.items()}
    colours = {}
    for label, values in ordered.items():
        positive = values[values > 0]
        if not positive.size:
            raise ValueError(f"the spectrum {label!r} has no positive eigenvalue to show")
        hidden = values.size - positive.size
        text = f"{label} ({hidden} of {values.size} not positive)" if hidden else label
        marker = "o" if positive.size <= 60 else "none"
        (line,) = ax.plot(np.arange(1, positive.size + 1), positive, label=text, marker=marker, ms=3.5)
        colours[label] = line.get_color()
    for k, (label, threshold) in enumerate((thresholds or {}).items()):
        text = label
        if label in ordered:
            text = f"threshold {threshold:.1e}: rank {int((ordered[label] > threshold).sum())}"
        ax.axhline(threshold, color=colours.get(label, "#59636e"), lw=1.1, ls=_DASHES[k % 4], label=text)
    largest = max(len(values) for values in ordered.values())
    ax.set(yscale="log", xscale="log" if largest > 60 else "linear", xlabel="index", ylabel=ylabel)
    ax.grid(True, which="major")
    ax.legend()
    return ax
