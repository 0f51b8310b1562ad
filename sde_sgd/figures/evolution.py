"""A density as it changes: lines over one variable, or an animation."""

import io
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from sde_sgd import _checks
from sde_sgd._files import write_bytes

from ._style import EMPTY, INK, MUTED, axes_or_new, colour_bar, frame, new_figure, plane, proportions, styled

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

_COLOURS = "viridis_r"
_DECADES = 8
_MOST_FRAMES = 400
_TALLEST = 4.0  # times the median peak: higher ones, such as that of a start in one cell, go beyond the frame


@styled
def plot_evolution(
    densities: "xr.DataArray", ax: "Axes | None" = None, *, ridge: bool = False, log: bool = False
) -> "Axes":
    """Densities over one variable at successive times, coloured by time, overlaid or one above the other.

    `densities` has the dimensions `time` and one variable, as `FokkerPlanck.evolve` gives them. `ridge=True` raises
    each line by the same amount, the first at the bottom, labelled with its time; `log=True` (overlaid only) shows
    eight decades below the largest. Peaks four times higher than the median one leave the frame
    of a linear scale. Two variables: `plot_densities` of some times, or `animate_density`.
    Raises ValueError for other dimensions.
    """
    name = _series(densities, (1,))[0]
    if ridge and log:
        raise ValueError("a ridge has no common scale, so it is not logarithmic; leave out ridge or log")
    import matplotlib
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    time, x = np.asarray(densities["time"], float), np.asarray(densities[name], float)
    values = np.asarray(densities.transpose("time", name), float)
    colours, scale = matplotlib.colormaps[_COLOURS], Normalize(time[0], time[-1] if time.size > 1 else time[0] + 1.0)
    if ridge:
        ax = axes_or_new(ax, 4.8, min(1.4 + 0.42 * time.size, 7.5))
        rise = 0.45 * float(np.median(values.max(axis=1)))
        for k in range(time.size - 1, -1, -1):
            base, colour = k * rise, colours(scale(time[k]))
            ax.fill_between(x, base, base + values[k], color=colour, alpha=0.35, lw=0, zorder=2 * (time.size - k))
            ax.plot(x, base + values[k], color=colour, lw=1.2, zorder=2 * (time.size - k) + 1)
        step = max(1, time.size // 12)
        ax.set_yticks(
            [k * rise for k in range(0, time.size, step)], [f"{time[k]:.3g}" for k in range(0, time.size, step)]
        )
        ax.set(xlabel=name, ylabel="time; density above its line")
        ax.set_ylim(0.0, None)
    else:
        ax = axes_or_new(ax, 5.0, 3.4)
        for k in range(time.size):
            shown = np.where(values[k] > 0.0, values[k], np.nan) if log else values[k]
            ax.plot(x, shown, color=colours(scale(time[k])), lw=1.3)
        ax.set(xlabel=name, ylabel="density")
        if log:
            ax.set_yscale("log")
            ax.set_ylim(values.max() * 10.0**-_DECADES, 2.0 * values.max())
        else:
            ax.set_ylim(0.0, _top(values))
        colour_bar(ax.figure, ax, ScalarMappable(scale, colours), "time")
    ax.margins(x=0)
    return ax


@styled
def animate_density(
    densities: "xr.DataArray",
    file: str | os.PathLike,
    *,
    log: bool = False,
    frames_per_second: float = 12.0,
    dpi: int = 100,
) -> None:
    """Write an evolution as an animated GIF, a frame per time and the time above it; it repeats for ever.

    `densities` has the dimensions `time` and one or two variables, as `FokkerPlanck.evolve` gives them. Lines share
    one scale, as in `plot_evolution`; maps are scaled to the peak of each frame, as the colour bar says, so that a
    start from a point and the broad end are both seen; `log=True` shows eight decades below that. The last frame
    stays for a second. The same evolution gives the same bytes. Raises ValueError for other dimensions, more than 400
    times (take every n-th by `.isel`), or another ending than .gif.
    """
    from PIL import Image

    names = _series(densities, (1, 2))
    if not str(os.fspath(file)).lower().endswith(".gif"):
        raise ValueError(f"an animation is written as GIF, got {os.fspath(file)!r}; end the name in .gif")
    rate = _checks.positive("frames_per_second", frames_per_second)
    dpi = _checks.whole("dpi", dpi, 30, 400)
    if densities.sizes["time"] > _MOST_FRAMES:
        every = -(-densities.sizes["time"] // _MOST_FRAMES)
        raise ValueError(
            f"an animation has at most {_MOST_FRAMES} frames, got {densities.sizes['time']} times; take one in "
            f"{every} by densities.isel(time=slice(None, None, {every}))"
        )
    densities = densities.transpose("time", *names)
    draw = (_Lines if len(names) == 1 else _Maps)(densities, log)
    frames = [_image(draw, k, dpi) for k in range(densities.sizes["time"])]
    # one palette for all, so that colours do not flicker: that of the first, middle and last frame together
    sample = [np.asarray(frames[k]) for k in sorted({0, len(frames) // 2, len(frames) - 1})]
    palette = Image.fromarray(np.concatenate(sample)).quantize(255, dither=Image.Dither.NONE)
    reduced = [_reduced(frame, palette) for frame in frames]
    pause = max(20, round(1000.0 / rate))
    buffer = io.BytesIO()
    reduced[0].save(
        buffer, format="GIF", save_all=True, append_images=reduced[1:], loop=0, disposal=1,
        duration=[pause] * (len(reduced) - 1) + [max(pause, 1000)],
    )  # fmt: skip
    write_bytes(file, buffer.getvalue())


def _series(densities: Any, variables: tuple[int, ...]) -> list[str]:
    """Names of the variables of a series of densities; ValueError if it is none."""
    dims = tuple(str(dim) for dim in getattr(densities, "dims", ()))
    names = [name for name in dims if name != "time"]
    if "time" not in dims or len(names) not in variables or "time" not in densities.coords:
        words = " or ".join({1: "one", 2: "two"}[n] for n in variables)
        raise ValueError(f"densities over time and {words} variable{'s' * (2 in variables)} are needed, got {dims}")
    if densities.sizes["time"] == 0:
        raise ValueError("there is no time to draw; give one density at least")
    peak = float(densities.max(skipna=False))
    if not (np.isfinite(peak) and peak > 0.0):
        raise ValueError(f"a density must be finite and somewhere positive, got a maximum of {peak}")
    return names


def _top(values: np.ndarray) -> float:
    """Upper end of a scale for lines (time, x) from 0."""
    peaks = values.max(axis=1)
    return 1.05 * float(peaks[peaks <= _TALLEST * np.median(peaks)].max())


def _image(draw: Any, k: int, dpi: int) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    draw.show(k)
    canvas = FigureCanvasAgg(draw.figure)
    draw.figure.set_dpi(dpi)
    canvas.draw()
    draw.figure.set_layout_engine("none")  # as the first frame has it: nothing moves but the density
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def _reduced(picture: Any, palette: Any) -> Any:
    """The picture in the 255 colours of the palette and white, which stays white."""
    from PIL import Image

    index = np.array(picture.quantize(palette=palette, dither=Image.Dither.NONE))
    index[(np.asarray(picture) == 255).all(axis=2)] = 255
    reduced = Image.fromarray(index)
    colours = (palette.getpalette() or [])[: 3 * 255]
    reduced.putpalette(colours + [255] * (3 * 256 - len(colours)))
    return reduced


class _Lines:
    """Frames of a density over one variable; the first and the last stay as faint lines."""

    def __init__(self, densities: "xr.DataArray", log: bool):
        name = str(densities.dims[1])
        self._time, self._values = np.asarray(densities["time"], float), np.asarray(densities, float)
        x = np.asarray(densities[name], float)
        self.figure = new_figure(4.6, 3.4)
        self._ax = self.figure.subplots()
        for k in (0, -1):
            self._ax.plot(x, self._values[k], color=MUTED, lw=0.9)
        (self._line,) = self._ax.plot(x, self._values[0])
        self._ax.set(xlabel=name, ylabel="density")
        self._ax.margins(x=0)
        top = float(self._values.max())
        if log:
            self._ax.set_yscale("log")
            self._ax.set_ylim(top * 10.0**-_DECADES, 2.0 * top)
        else:
            self._ax.set_ylim(0.0, _top(self._values))

    def show(self, k: int) -> None:
        self._line.set_ydata(self._values[k])
        self._ax.set_title(f"time {self._time[k]:.4g}", loc="left")


class _Maps:
    """Frames of a density over two variables, each relative to its peak."""

    def __init__(self, densities: "xr.DataArray", log: bool):
        from matplotlib.colors import LogNorm, Normalize

        x_name, y_name, x, y, _ = plane(densities[0], "a density")
        self._time, self._values = np.asarray(densities["time"], float), np.asarray(densities, float)
        self.figure = new_figure(4.8, 3.4 * proportions(x, y) + 0.75)
        self._ax = self.figure.subplots()
        self._ax.set_facecolor(EMPTY)
        scale = LogNorm(10.0**-_DECADES, 1.0) if log else Normalize(0.0, 1.0)
        self._mesh = self._ax.pcolormesh(
            x, y, self._relative(0).T, norm=scale, cmap="GnBu", shading="nearest", rasterized=True
        )
        colour_bar(
            self.figure, self._ax, self._mesh, "density / its maximum", extend="min" if log else "neither"
        )  # fmt: skip
        frame(self._ax, (x_name, y_name), x, y)
        self._ax.tick_params(colors=INK)

    def _relative(self, k: int) -> np.ndarray:
        peak = self._values[k].max()  # 0 where all has left through absorbing walls
        return np.ma.masked_less_equal(self._values[k] / (peak or 1.0), 0.0)

    def show(self, k: int) -> None:
        self._mesh.set_array(self._relative(k).T)
        self._ax.set_title(f"time {self._time[k]:.4g}", loc="left")
