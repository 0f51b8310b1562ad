"""What the phases look like: signal over noise and what it coincides with, information, ways from the start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from sde_sgd.figures._style import INK, MUTED, axes_or_new, new_figure, styled

from . import _phases_summary as of
from ._phases_growth import AHEAD, LAWS
from ._phases_known import UNITS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

Runs = Mapping[str, Sequence[xr.Dataset]]


@styled
def plot_ratios(runs: Runs) -> Figure:
    """SNR per layer against steps, a panel for each kind; means over seeds, bands of their range; dots: crossings."""
    figure = new_figure(3.7 * len(runs), 3.3)
    panels = np.atleast_1d(figure.subplots(1, len(runs), sharey=True))
    for panel, (kind, several) in zip(panels, runs.items()):
        steps = several[0]["step"].values + 1
        for layer in range(several[0].sizes["layer"]):
            logs = [np.log(of.smoothed(of.ratio(run, layer), of.SMOOTH)) for run in several]
            _band(panel, steps, logs, f"C{layer}", np.exp, label=f"layer {layer + 1}")
        for run in several:
            last = of.crossing_of(run).last
            if 0 < last < np.inf:
                panel.plot(last + 1, 1.0, "o", ms=4, color=INK, zorder=5)
        panel.axhline(1.0, color=MUTED, lw=0.8)
        panel.set(title=kind, xlabel="step + 1", xscale="log", yscale="log")
        panel.grid(True, which="major")
    panels[0].set_ylabel("|g| / √tr D$_b$")
    _plain(panels[0])
    panels[-1].legend(fontsize="small")
    return figure


@styled
def plot_beside(runs: Sequence[xr.Dataset]) -> Figure:
    """Loss, sharpness and memory of the start against steps, all seeds; dotted: the last crossing of each seed."""
    figure = new_figure(11.0, 3.3)
    panels = figure.subplots(1, 3)
    for k, run in enumerate(runs):
        steps, colour = run["step"].values + 1, f"C{k % 10}"
        panels[0].plot(steps, run["loss"], color=colour, lw=1.2)
        panels[1].plot(run["sharp_step"] + 1, run["sharpness"], color=colour, lw=1.2)
        panels[2].plot(steps, run["cosine"], color=colour, lw=1.2)
        panels[2].plot(steps, of.displacement_alone(run), color=colour, lw=1.0, ls=(0, (4, 2)))
        panels[2].plot(steps, run["projection"], color=colour, lw=1.0, ls=(0, (1, 1)))
        last = of.crossing_of(run).last
        for panel in panels:
            if 0 < last < np.inf:
                panel.axvline(last + 1, color=colour, lw=0.8, ls=":")
    rate = runs[0].attrs["learning_rate"]
    panels[1].axhline(2 / rate, color=MUTED, lw=0.8)
    panels[1].annotate("2/η", (1, 2 / rate), xytext=(2, 3), textcoords="offset points", color=MUTED)
    panels[0].set(ylabel="training loss", yscale="log")
    panels[1].set(ylabel="λ$_{max}$ of H", yscale="log")
    panels[2].set(ylabel="memory of w₀")
    _plain(panels[1])
    for style, label in (
        ("-", "cos(w, w₀)"),
        ((0, (4, 2)), "had it moved perpendicularly"),
        ((0, (1, 1)), "w·w₀/|w₀|²"),
    ):
        panels[2].plot([], [], color=INK, ls=style, lw=1.2, label=label)
    panels[2].legend(fontsize="small")
    for panel in panels:
        panel.set(xlabel="step + 1", xscale="log")
        panel.grid(True, which="major")
    return figure


@styled
def plot_plane(runs: Runs, estimator: str = "drawn") -> Figure:
    """The information plane, I(Y;T) against I(X;T), a line for each layer, first seed; dots: the end; dashed: caps."""
    figure = new_figure(3.6 * len(runs), 3.4)
    panels = np.atleast_1d(figure.subplots(1, len(runs), sharex=True, sharey=True))
    for panel, (kind, several) in zip(panels, runs.items()):
        run = several[0]
        x, y = of.bits(run, estimator), of.bits(run, estimator, "labels")
        for layer in range(x.shape[1]):
            panel.plot(x[:, layer], y[:, layer], color=f"C{layer}", lw=1.1, label=f"hidden {layer + 1}")
            panel.plot(x[0, layer], y[0, layer], "o", ms=4, mfc="white", color=f"C{layer}")
            panel.plot(x[-1, layer], y[-1, layer], "o", ms=5, color=f"C{layer}")
        n, entropy = run.attrs["plane_samples"], run.attrs["label_entropy"]
        panel.axvline(np.log2(n), color=MUTED, lw=0.8, ls="--")
        panel.axhline(entropy, color=MUTED, lw=0.8, ls="--")
        panel.annotate(f"log₂ {n}", (np.log2(n), 0), xytext=(-2, 0), textcoords="offset points", ha="right",
                       va="bottom", rotation=90, color=MUTED)  # fmt: skip
        panel.annotate("H(Y)", (0, entropy), xytext=(0, 3), textcoords="offset points", color=MUTED)
        panel.set(title=kind, xlabel=f"I(X;T), bits, {estimator}")
        panel.grid(True, which="major")
    panels[0].set(ylabel=f"I(Y;T), bits, {estimator}", ylim=(None, 1.1 * entropy))
    panels[0].legend(fontsize="small", loc="center left", bbox_to_anchor=(0.0, 0.7))
    return figure


@styled
def plot_estimates(runs: Runs) -> Figure:
    """I(X;T) of the last hidden layer against steps by every estimator, mean over seeds, a panel a kind."""
    figure = new_figure(3.5 * len(runs), 3.4)
    panels = np.atleast_1d(figure.subplots(1, len(runs), sharey=True))
    for panel, (kind, several) in zip(panels, runs.items()):
        steps = several[0]["plane_step"].values + 1
        low, high = (np.mean([of.bits(run, f"pairs, {end}")[:, -1] for run in several], axis=0)
                     for end in ("low", "high"))  # fmt: skip
        panel.fill_between(steps, low, high, color=MUTED, alpha=0.25, lw=0, label="pairs, bounds")
        for k, name in enumerate(("bins", "bins before", "drawn", "drawn, relative")):
            mean = np.mean([of.bits(run, name)[:, -1] for run in several], axis=0)
            panel.plot(steps, mean, color=f"C{k}", lw=1.3, label=name)
        if "saturated" in several[0] and several[0]["saturated"].values.any():
            other = panel.twinx()
            share = np.mean([run["saturated"].values[:, -1] for run in several], axis=0)
            other.plot(steps, share, color=INK, lw=1.0, ls=":")
            other.set(ylim=(0, 1.05), yticks=[])
            panel.plot([], [], color=INK, lw=1.0, ls=":", label="share saturated (0 to 1)")
        n = several[0].attrs["plane_samples"]
        panel.axhline(np.log2(n), color=MUTED, lw=0.9, ls="--")
        panel.annotate(f"cap, log₂ {n}", (1, np.log2(n)), xytext=(0, 3), textcoords="offset points", color=MUTED)
        panel.set(title=kind, xlabel="step + 1", xscale="log")
        panel.grid(True, which="major")
    panels[0].set_ylabel("I(X;T), bits")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize="small")
    return figure


@styled
def plot_known(unit: xr.Dataset, channel: xr.Dataset) -> Figure:
    """A unit's exact information against its weight; a Gaussian channel by every estimator over its exact value."""
    figure = new_figure(9.4, 3.5)
    left, right = figure.subplots(1, 2)
    for k, name in enumerate(UNITS):
        left.plot(unit["weight"], unit["information"].sel(activation=name), color=f"C{k}", label=name)
    left.set(xlabel="weight w", ylabel="I(X;T) of T = bin(a(wX)), bits", xscale="log")
    exact = channel["exact"].values
    right.plot(exact, exact, color=INK, lw=1.0, label="exact")
    for i, size in enumerate(channel["size"].values):
        for k, name in enumerate(channel["estimator"].values):
            right.plot(exact, channel["estimate"].sel(size=size, estimator=name), color=f"C{k}", lw=1.2,
                       ls=("--", "-")[i], label=name if i else None)  # fmt: skip
        cap = np.log2(size)
        right.axhline(cap, color=MUTED, lw=0.8, ls=("--", "-")[i])
        right.annotate(f"log₂ {size}", (exact.max(), cap), xytext=(0, 3), textcoords="offset points", ha="right",
                       color=MUTED)  # fmt: skip
    right.set(xlabel="I(X;T) of the channel, bits", ylabel="estimate, bits")
    for panel in (left, right):
        panel.grid(True, which="major")
        panel.legend(fontsize="small")
    return figure


@styled
def plot_growth(runs: Runs) -> Figure:
    """|w − w₀| against steps, seeds, with both laws fitted to the earlier records (thick) and carried on."""
    from ._phases_growth import fit

    figure = new_figure(3.5 * len(runs), 3.2)
    panels = np.atleast_1d(figure.subplots(1, len(runs)))
    for panel, (kind, several) in zip(panels, runs.items()):
        for run in several:
            panel.plot(run["step"].values[1:], run["distance"].values[1:], color=MUTED, lw=0.8)
        t, d = of.growth(several[0])
        cut = int(AHEAD * len(t))
        for law, colour in zip(LAWS, ("C0", "C1")):
            found = fit(law, t[:cut], d[:cut])
            panel.plot(t[:cut], found(t[:cut]), color=colour, lw=2.0, label=law)
            panel.plot(t[cut:], found(t[cut:]), color=colour, lw=1.2, ls="--")
        panel.plot(several[0]["step"].values[1:], several[0]["distance"].values[1:], ".", ms=3, color=INK)
        panel.set(title=kind, xlabel="step", xscale="log", ylim=(0, None))
        panel.grid(True, which="major")
    panels[0].set_ylabel("|w − w₀|")
    panels[0].legend(fontsize="small")
    return figure


@styled
def plot_labels(runs: Runs) -> Figure:
    """Training and test accuracy (dashed), SNR and distance against steps for shares of labels at random."""
    figure = new_figure(11.0, 3.3)
    panels = figure.subplots(1, 3)
    for k, (kind, several) in enumerate(runs.items()):
        steps = several[0]["step"].values + 1
        for name, style in (("accuracy", "-"), ("test_accuracy", "--")):
            _band(panels[0], steps, [run[name].values for run in several], f"C{k}", ls=style,
                  label=kind if style == "-" else None)  # fmt: skip
        logs = [np.log(of.smoothed(of.ratio(run), of.SMOOTH)) for run in several]
        _band(panels[1], steps, logs, f"C{k}", np.exp)
        _band(panels[2], steps, [run["distance"].values for run in several], f"C{k}")
    panels[1].axhline(1.0, color=MUTED, lw=0.8)
    panels[0].set(ylabel="accuracy: training, test dashed")
    panels[1].set(ylabel="|g| / √tr D$_b$", yscale="log")
    panels[2].set(ylabel="|w − w₀|")
    _plain(panels[1])
    panels[0].legend(fontsize="small")
    for panel in panels:
        panel.set(xlabel="step + 1", xscale="log")
        panel.grid(True, which="major")
    return figure


@styled
def plot_quadratic(known: xr.Dataset, ax: Axes | None = None) -> Axes:
    """The crossing on a quadratic against b: runs with twice their error, the closed form, and gradient descent."""
    ax = axes_or_new(ax, 4.8, 3.4)
    b = known["batch"].values
    ax.errorbar(b, known["crossing"], 2 * known["error"], fmt="o", ms=5, color="C0", label="mean over runs of SGD")
    ax.plot(b, known["exact"], color=INK, lw=1.2, label="n*, closed form")
    ax.plot(b, known["descent"], "x", ms=6, color="C1", label="gradient descent")
    ax.plot(b, known["exact_descent"], color="C1", lw=1.0, ls="--", label="its closed form")
    ax.set(xlabel="batch size b at which the SNR is taken", ylabel="step where SNR = 1", xscale="log")
    ax.set_xticks(b, [str(value) for value in b])
    ax.minorticks_off()
    ax.grid(True, which="major")
    ax.legend(fontsize="small")
    return ax


def _band(
    panel: Axes, steps: NDArray, rows: Sequence[NDArray], colour: str, of_mean=lambda value: value, **more
) -> None:
    """The mean over seeds as a line in a band of their range; `of_mean` takes both from what is averaged."""
    panel.plot(steps, of_mean(np.mean(rows, axis=0)), color=colour, **{"lw": 1.3, **more})
    ends = of_mean(np.min(rows, axis=0)), of_mean(np.max(rows, axis=0))
    panel.fill_between(steps, *ends, color=colour, alpha=0.15, lw=0)


def _plain(panel: Axes) -> None:
    """Numbers at 1, 2 and 5 times the powers of ten, for a logarithmic axis of few decades."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.yaxis.set_minor_locator(NullLocator())
