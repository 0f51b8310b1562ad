"""A density over three variables, by what is seen along each axis."""

import itertools
from typing import TYPE_CHECKING

import numpy as np

from ._style import EMPTY, colour_bar, frame, new_figure, plane, proportions, styled

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

_DECADES = 8


@styled
def plot_marginals(density: "xr.DataArray", log: bool = False) -> "Figure":
    """The three densities of two variables that a density of three has: the third is integrated out.

    `density` has three dimensions with equally spaced coordinates. Each panel has a colour bar of its own; `log=True`
    shows eight decades below each peak. Raises ValueError for other dimensions.
    """
    if density.ndim != 3:
        raise ValueError(f"a density over three variables has three marginal planes, got {density.dims}; plot_density")
    if min(density.shape) < 2:
        raise ValueError(f"at least two cells are needed along each variable, got {dict(density.sizes)}")
    peak = float(density.max())
    if not (np.isfinite(peak) and peak > 0.0):
        raise ValueError(f"a density must be finite and somewhere positive, got a maximum of {peak}")
    from matplotlib.colors import LogNorm, Normalize

    names = [str(name) for name in density.dims]
    pairs = list(itertools.combinations(names, 2))
    planes = []
    for pair in pairs:
        (gone,) = set(names) - set(pair)
        along = np.asarray(density[gone], float)
        planes.append(plane(density.sum(gone) * (along[1] - along[0]), "a density"))
    widths = [1.0 / proportions(x, y) for _, _, x, y, _ in planes]
    height = min(2.4, 8.5 / sum(widths))
    figure = new_figure(height * sum(widths) + 3.0, height + 0.8)
    panels = figure.subplots(1, 3, width_ratios=widths)
    for ax, (x_name, y_name, x, y, values) in zip(panels, planes):
        top = float(values.max())
        scale = LogNorm(top * 10.0**-_DECADES, top) if log else Normalize(0.0, top)
        ax.set_facecolor(EMPTY)
        shown = np.ma.masked_less_equal(values, 0.0) if log else values
        mesh = ax.pcolormesh(x, y, shown.T, norm=scale, cmap="GnBu", shading="nearest", rasterized=True)
        frame(ax, (x_name, y_name), x, y)
        colour_bar(figure, ax, mesh, "density", extend="min" if log else "neither")
    return figure
