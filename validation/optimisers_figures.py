"""What the report of the experiment `optimisers` shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from sde_sgd.figures._style import INK, MUTED, axes_or_new, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = 7  # of the cycle of the style


@styled
def plot_pairs(names: Sequence[str], values: NDArray, label: str, ax: Axes | None = None) -> Axes:
    """A symmetric table (n, n) of what lies between two ends, each number in its cell; the diagonal is left empty."""
    size = 0.62 * len(names)
    ax = axes_or_new(ax, size + 2.6, size + 1.4)
    shown = np.where(np.eye(len(names), dtype=bool), np.nan, values)
    low, high = min(0.0, float(np.nanmin(shown))), max(1e-3, float(np.nanmax(shown)))
    image = ax.imshow(shown, cmap="viridis", vmin=low, vmax=high)
    middle = 0.5 * (low + high)
    for i, j in zip(*np.nonzero(np.isfinite(shown))):
        colour = "white" if shown[i, j] < middle else INK
        ax.text(j, i, f"{shown[i, j]:.2g}", ha="center", va="center", fontsize="x-small", color=colour)
    ax.set_xticks(range(len(names)), names, rotation=45, ha="right")
    ax.set_yticks(range(len(names)), names)
    ax.figure.colorbar(image, ax=ax, label=label, shrink=0.8)
    return ax


@styled
def plot_ends(ends: Mapping[str, xr.Dataset], quantities: Mapping[str, str]) -> Figure:
    """A panel per quantity, {variable: label}: every seed of every optimiser as a point, the mean as a bar.

    `ends` maps an optimiser's name to a Dataset over `seed`. Axes are logarithmic where values
    are > 0 and span more than a factor 30.
    """
    figure = new_figure(2.5 * len(quantities) + 1.0, 0.32 * len(ends) + 1.3)
    panels = np.atleast_1d(figure.subplots(1, len(quantities), sharey=True))
    for panel, (name, label) in zip(panels, quantities.items()):
        for row, run in enumerate(ends.values()):
            values = run[name].values
            panel.plot(values, np.full(len(values), row), _mark(row), ms=4, color=_colour(row), alpha=0.6)
            panel.plot(values.mean(), row, "|", ms=14, mew=2, color=INK)
        every = np.concatenate([run[name].values for run in ends.values()])
        if every.min() > 0 and every.max() > 30 * every.min():
            panel.set_xscale("log")
        panel.set_yticks(range(len(ends)), list(ends))
        panel.set_xlabel(label)
        panel.grid(True, axis="both")
    panels[0].invert_yaxis()
    return figure


@styled
def plot_spectra(ends: Mapping[str, xr.Dataset]) -> Figure:
    """The largest eigenvalues of H and of D against their rank, means over seeds; a line per optimiser.

    `ends` maps names to Datasets with `hessian` and `noise` over `seed`, `index`. What is not above 0 is left out.
    """
    figure = new_figure(9.0, 3.6)
    panels = figure.subplots(1, 2)
    for panel, matrix, label in zip(panels, ("hessian", "noise"), ("eigenvalues of H", "eigenvalues of D")):
        for row, (name, run) in enumerate(ends.items()):
            values = run[matrix].mean("seed")
            panel.plot(run["index"], values.where(values > 0), f"{_mark(row)}-", ms=3, lw=1, color=_colour(row),
                       label=name)  # fmt: skip
        panel.set(xlabel="rank", ylabel=label, yscale="log")
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.grid(True)
    panels[-1].legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


@styled
def plot_local_entropies(ends: Mapping[str, xr.Dataset]) -> Figure:
    """f_γ at the ends against σ = √(γT), and its two parts at the largest σ: mean loss and T·KL.

    `ends` maps names to Datasets over `seed`, `spread`.
    """
    figure = new_figure(9.0, 3.6)
    left, right = figure.subplots(1, 2)
    for row, (name, run) in enumerate(ends.items()):
        values = run["local_entropy"]
        spread = run["spread"].values
        shift = 1 + 0.01 * (row - len(ends) / 2)
        left.errorbar(spread * shift, values.mean("seed"), _interval(values.values), fmt=f"{_mark(row)}-", ms=3.5, lw=1,
                      label=name, color=_colour(row))  # fmt: skip
        last = run.isel(spread=-1)
        narrow = (last["local_entropy"] - last["mean_loss"]).values
        right.plot(last["mean_loss"].values, narrow, _mark(row), ms=4, color=_colour(row), label=name)
    left.set(xlabel="σ = √(γT)", ylabel="f_γ at the end", xscale="log")
    left.set_xticks(spread, [f"{s:g}" for s in spread])
    left.set_xticks([], minor=True)
    left.grid(True)
    right.set(xlabel="⟨f⟩ in the neighbourhood", ylabel="T·KL, its narrowness", title=f"σ = {spread[-1]:g}")
    right.grid(True)
    right.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _mark(row: int) -> str:
    """Rows beyond the colours there are have another mark."""
    return "osD"[row // _COLOURS % 3]


def _colour(row: int) -> str:
    return f"C{row % _COLOURS}"


def _interval(values: NDArray) -> NDArray:
    """Two standard errors over seeds, 0 for one seed."""
    if len(values) < 2:
        return np.zeros(values.shape[1])
    return 2 * values.std(axis=0, ddof=1) / np.sqrt(len(values))


@styled
def plot_range_test(runs: Sequence[xr.Dataset]) -> Figure:
    """Loss and test accuracy against the rising learning rate, and λ_max beside 2/η; one line per seed."""
    figure = new_figure(9.6, 3.3)
    panels = figure.subplots(1, 3)
    for k, run in enumerate(runs):
        for panel, name in zip(panels, ("loss", "test_accuracy")):
            panel.plot(run["rate"], run[name], lw=1.0, color=f"C{k}", label=f"seed {k}")
            for edge, style in (("low", ":"), ("high", "--")):
                panel.axvline(run.attrs[edge], color=f"C{k}", ls=style, lw=0.9)
        panels[2].plot(run["sharpness_rate"], run["sharpness"], "o-", ms=3, lw=1.0, color=f"C{k}")
    rates = runs[0]["rate"].values
    panels[2].plot(rates, 2 / np.maximum(rates, rates.max() / 100), color=MUTED, ls="--", label="2/η")
    top = max(float(run["sharpness"].max()) for run in runs)
    panels[2].set_ylim(0, 1.3 * top)
    panels[2].legend()
    for panel, label in zip(panels, ("training loss", "test accuracy", "λ_max of the Hessian")):
        panel.set(xlabel="η", ylabel=label)
        panel.grid(True)
    panels[0].set_yscale("log")
    panels[0].legend(fontsize="small")
    return figure


@styled
def plot_cycles(run: xr.Dataset) -> Figure:
    """Loss along cyclic and constant rates, and the last cycle's loss against its rate, there and back."""
    figure = new_figure(8.0, 3.3)
    left, right = figure.subplots(1, 2, width_ratios=(1.6, 1))
    labels = {"cyclic": "cyclic", "low": f"η = {run.attrs['low']:.3g}", "high": f"η = {run.attrs['high']:.3g}"}
    for k, kind in enumerate(run["kind"].values):
        left.plot(run["time"], run["loss"].sel(kind=kind), lw=1.2, color=f"C{k}", label=labels[kind])
    left.set(xlabel="epochs", ylabel="training loss")
    left.legend()
    left.grid(True)
    last = run.isel(time=run["time"].values >= run["time"].values[-1] - run.attrs["cycle_epochs"] - 1e-9)
    rate, loss = last["cyclic_rate"].values, last["loss"].sel(kind="cyclic").values
    top = int(rate.argmax())
    right.plot(rate[: top + 1], loss[: top + 1], "o-", ms=3, lw=1, label="rising")
    right.plot(rate[top:], loss[top:], "s-", ms=3, lw=1, label="falling")
    right.set(xlabel="η", ylabel="training loss", title="the last cycle")
    right.legend()
    right.grid(True)
    return figure


@styled
def plot_valleys(found: xr.Dataset) -> Figure:
    """f and f_γ of the two valleys, each from its minimum; and where runs from the sharp floor end."""
    figure = new_figure(8.4, 3.3)
    left, right = figure.subplots(1, 2)
    loss = found["loss"].values
    left.plot(found["x"], loss - loss.min(), color=INK, ls="--", label="f")
    for k, gamma in enumerate(found["gamma"].values[1::2]):
        values = found["local_entropy"].sel(gamma=gamma).values
        left.plot(found["x"], values - values.min(), color=f"C{k}", label=f"γ = {gamma:g}")
    left.set(xlabel="x", ylabel="f_γ, from its minimum", ylim=(-0.1, 3.5))
    left.legend()
    left.grid(True)
    right.plot(found["gamma"], found["sharp_over_wide"], "o-", ms=4, label="f_γ(sharp) − f_γ(wide)")
    right.plot(found["gamma"], found["share"], "s-", ms=4, label="share of Entropy-SGD in the wide valley")
    right.axhline(0, color=MUTED, lw=0.8)
    right.set(xlabel="γ", xscale="log", ylim=(None, 1.75))
    right.legend(fontsize="small", loc="upper left")
    right.grid(True)
    return figure


@styled
def plot_perceptron(found: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Numbers of solutions within a distance of an isolated and of a dense solution of one task."""
    ax = axes_or_new(ax, 4.8, 3.4)
    for k, kind in enumerate(found["kind"].values):
        counts = found["profile"].sel(kind=kind).values.cumsum()
        entropy = float(found["local_entropy"].sel(kind=kind))
        ax.step(found["distance"], counts, where="mid", color=f"C{k}", label=f"{kind}, S_γ = {entropy:.3f}")
    ax.set(xlabel="weights flipped", ylabel="solutions within that distance", yscale="log")
    ax.grid(True)
    ax.legend()
    return ax


@styled
def plot_spans(names: Sequence[str], off: ArrayLike, ax: Axes | None = None) -> Axes:
    """The share of the way that leaves the span of the samples, per optimiser: points for seeds, on a log axis."""
    ax = axes_or_new(ax, 5.2, 3.2)
    shares = np.maximum(np.asarray(off, float), 1e-17)
    for row in range(len(names)):
        ax.plot(shares[:, row], np.full(len(shares), row), _mark(row), ms=5, color=_colour(row))
    ax.axvline(np.finfo(float).eps, color=MUTED, ls="--", lw=1)
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set(xscale="log", xlim=(1e-17, 3), xlabel="|(I − X⁺X)(w − w₀)| / |w − w₀|")
    ax.grid(True)
    return ax
