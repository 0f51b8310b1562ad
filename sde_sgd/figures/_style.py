"""The common look, applied to one call at a time, and rendering that gives the same bytes every time.

Nothing here touches pyplot: figures are plain objects, so they work without a display and in threads.
"""

import functools
import io
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sde_sgd._files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLE = Path(__file__).with_name("sde_sgd.mplstyle")
_LOCK = threading.RLock()  # matplotlib's settings are one global table

INK = "#22272e"
MUTED = "#8b949e"
EMPTY = "#e4e8ec"  # where a field is not shown


def styled(function: Callable) -> Callable:
    """Run `function` with the package's style in force, and the caller's restored afterwards."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        import matplotlib

        with _LOCK, matplotlib.rc_context(fname=STYLE):
            return function(*args, **kwargs)

    return wrapper


def axes_or_new(ax: "Axes | None", width: float = 4.6, height: float = 3.6) -> "Axes":
    """`ax`, or the axes of a new figure of that size in inches."""
    return new_figure(width, height).subplots() if ax is None else ax


def next_colour(ax: "Axes") -> str:
    """The first colour of the cycle no line of `ax` has yet, as a value: names follow global settings."""
    import matplotlib
    from matplotlib.colors import to_hex

    cycle = matplotlib.rcParams["axes.prop_cycle"].by_key()["color"]
    used = {to_hex(line.get_color()) for line in ax.lines}
    return next((to_hex(colour) for colour in cycle if to_hex(colour) not in used), to_hex(cycle[0]))


def map_axes_or_new(ax: "Axes | None", x: np.ndarray, y: np.ndarray, above: float = 0.0) -> "Axes":
    """`ax`, or the axes of a new figure shaped to a map with a colour bar and `above` inches for a legend."""
    return axes_or_new(ax, 5.0, 3.5 * proportions(x, y) + 0.65 + above)


def proportions(x: np.ndarray, y: np.ndarray) -> float:
    """Height over width of a map of these cells: true, unless that would be extreme (then 1)."""
    if x.size < 2 or y.size < 2:
        raise ValueError("a map needs at least two cells along each variable")
    ratio = (y[-1] - y[0]) / (x[-1] - x[0])
    return float(ratio) if 0.4 < ratio < 2.5 else 1.0


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of that size in inches; "compressed" keeps colour bars as tall as their maps."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="compressed")


@styled
def png(figure: "Figure", dpi: int = 150) -> bytes:
    """The figure as PNG without date or version: the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


@styled
def svg(figure: "Figure") -> bytes:
    """The figure as SVG without date, letters drawn as shapes: it looks the same on every machine."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


@styled
def formula(latex: str) -> bytes:
    r"""A formula set by matplotlib as SVG on a transparent ground, cut to its size.

    All of it is mathematics: ValueError for an empty one, for a dollar sign or a last backslash that would
    end it (`\$` is one to show), and for what matplotlib cannot set.
    """
    import matplotlib

    latex = " ".join(latex.split())  # a line break would make text of it
    if not latex or re.search(r"(?<!\\)(?:\\\\)*\$|\\\Z", latex):
        raise ValueError(
            rf"a formula is not empty, has no dollar sign (\$ shows one) and ends in no backslash, got {latex!r}"
        )
    figure = new_figure(1, 1)
    buffer = io.BytesIO()
    with matplotlib.rc_context({"mathtext.fontset": "stix"}):
        figure.text(0, 0, f"${latex}$", fontsize=14)
        figure.savefig(
            buffer, format="svg", bbox_inches="tight", pad_inches=0.03, transparent=True,
            metadata={"Date": None, "Creator": None},
        )  # fmt: skip
    return buffer.getvalue()


def save_png(figure: "Figure", path: str | os.PathLike, dpi: int = 150) -> None:
    """Write the figure to `path` as PNG, whole or not at all."""
    write_bytes(path, png(figure, dpi))


def is_field(figure: "Figure") -> bool:
    """True if the figure shows a field (an image, a mesh, filled contours), which is better kept as PNG."""
    from matplotlib.collections import QuadMesh
    from matplotlib.contour import ContourSet

    return any(ax.images or any(isinstance(c, (QuadMesh, ContourSet)) for c in ax.collections) for ax in figure.axes)


def plane(field: Any, what: str) -> tuple[str, str, np.ndarray, np.ndarray, np.ndarray]:
    """Names, coordinates and values (indexed [x, y]) of a field over two variables; ValueError otherwise."""
    if field.ndim != 2:
        raise ValueError(f"{what} must have two dimensions to be drawn as a map, got {field.dims}")
    x, y = field.dims
    return x, y, np.asarray(field[x], float), np.asarray(field[y], float), np.asarray(field, float)


def colour_bar(figure: Any, maps: Any, mappable: Any, label: str, rows: int = 1, **options: Any) -> None:
    """A colour bar beside `maps` (axes, or an array of them in `rows` rows), as tall as they are."""
    figure.colorbar(mappable, ax=maps, label=label, pad=0.02, aspect=22 * rows, **options)


def outer(panels: np.ndarray, count: int) -> np.ndarray:
    """The first `count` of a grid of panels that share their axes, flat: the others removed, labels at the left, and
    below where no panel follows."""
    columns, shown = panels.shape[1], panels.ravel()[:count]
    for panel in panels.ravel()[count:]:
        panel.remove()
    for k, panel in enumerate(shown):
        first, last = k % columns == 0, k + columns >= count
        panel.tick_params(labelleft=first, labelbottom=last)
        panel.set(xlabel=panel.get_xlabel() if last else "", ylabel=panel.get_ylabel() if first else "")
    return shown


def frame(ax: "Axes", names: tuple[str, str], x: np.ndarray, y: np.ndarray) -> None:
    """Label the two axes, fit them to the cells, and keep true proportions unless they would be extreme."""
    half_x, half_y = (x[1] - x[0]) / 2, (y[1] - y[0]) / 2
    ax.set(xlabel=names[0], ylabel=names[1])
    ax.set_xlim(x[0] - half_x, x[-1] + half_x)
    ax.set_ylim(y[0] - half_y, y[-1] + half_y)
    ax.set_box_aspect(proportions(x, y))
    for side in ("top", "right"):
        ax.spines[side].set_visible(True)
