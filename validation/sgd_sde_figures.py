"""SGD beside its SDE: means in time, laws, and the map of where the one describes the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from sde_sgd.figures._style import INK, MUTED, axes_or_new, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKS = {"agrees": "o", "open": "D", "differs": "X"}


@styled
def plot_means(sgd: Mapping[float, xr.Dataset], sde: Mapping[float, xr.Dataset], quantities: Sequence[str]) -> Figure:
    """Mean over replicas against time: SGD as points with two standard errors, the SDE of the same η as a band.

    Runs that diverged are left out; an SDE that several η share is drawn once, in black.
    """
    figure = new_figure(4.6 * len(quantities) + 1.6, 3.6)
    panels = np.atleast_1d(figure.subplots(1, len(quantities)))
    shared = len({id(run) for run in sde.values()}) == 1
    for panel, name in zip(panels, quantities):
        for k, (rate, run) in enumerate(sgd.items()):
            colour = f"C{k}"
            if np.isfinite(run[name].values).all():
                mean, error = _mean(run, name)
                panel.errorbar(run["time"], mean, 2 * error, fmt="o", ms=4, color=colour, label=f"SGD, η = {rate:g}")
            if not shared or k == 0:
                mean, error = _mean(sde[rate], name)
                band = INK if shared else colour
                label = "SDE" if shared else f"SDE, η = {rate:g}"
                panel.fill_between(
                    sde[rate]["time"], mean - 2 * error, mean + 2 * error, color=band, alpha=0.3, lw=0, label=label
                )
        panel.set(xlabel="time, η × steps", ylabel={"distance": "|w − w₀|"}.get(name, name), yscale="log")
        panel.grid(True, which="major")
    panels[-1].legend(fontsize="small", loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def _mean(run: xr.Dataset, name: str) -> tuple[np.ndarray, np.ndarray]:
    values = run[name].values
    return values.mean(axis=0), values.std(axis=0, ddof=1) / np.sqrt(len(values))


@styled
def plot_gaps(
    rates: ArrayLike,
    gaps: Mapping[str, tuple[ArrayLike, ArrayLike]],
    predicted: ArrayLike,
    tolerance: float,
    ax: Axes | None = None,
) -> Axes:
    """|SGD less SDE|, as a share, against η: `gaps` = quantity: (value, standard error), bars of two of them.

    `predicted` is the gap of the loss at constant H and D; the level line is the tolerance. Runs that diverged have no
    point. A bar that reaches 0 is cut at the lower edge.
    """
    ax = axes_or_new(ax, 5.4, 3.7)
    rates = np.asarray(rates, dtype=float)
    for k, (name, (value, error)) in enumerate(gaps.items()):
        size, bar = np.abs(np.asarray(value, dtype=float)), 2 * np.asarray(error, dtype=float)
        low = np.minimum(bar, size * (1 - 1e-3))
        place = rates * (1 + 0.03 * k)  # side by side, not one over the other
        ax.errorbar(place, size, (low, bar), fmt="o", ms=4, lw=1, color=f"C{k}", label=name)
    ax.plot(rates, np.abs(np.asarray(predicted)), color="C0", lw=1.3, label="loss, constant H and D")
    ax.axhline(tolerance, color=MUTED, ls=(0, (4, 2)), lw=1.2, label=f"{tolerance:.0%}")
    ax.set(xlabel="η", ylabel="|SGD less SDE|, share", xscale="log", yscale="log")
    shown = [np.abs(np.asarray(value)) for value, _ in gaps.values()]
    largest = np.nanmax(np.concatenate([*shown, [tolerance]]))
    ax.set_ylim(1e-3, 3 * largest)
    ax.set_xticks(rates, [f"{rate:g}" for rate in rates])
    ax.minorticks_off()
    ax.grid(True, which="major")
    ax.legend()
    return ax


@styled
def plot_laws(laws: Mapping[str, ArrayLike], reference: ArrayLike, ax: Axes | None = None) -> Axes:
    """Distribution functions of the loss over replicas, that of the SDE in black, but for a hundredth of each."""
    ax = axes_or_new(ax, 5.4, 3.7)
    every = [np.asarray(values) for values in (*laws.values(), reference)]
    low, high = (end(np.quantile(values, share) for values in every) for end, share in ((min, 0.0), (max, 0.99)))
    for label, values in laws.items():
        ordered = np.sort(np.asarray(values))
        ax.step(ordered, (np.arange(len(ordered)) + 0.5) / len(ordered), where="mid", lw=1.3, label=label)
    ordered = np.sort(np.asarray(reference))
    ax.step(ordered, (np.arange(len(ordered)) + 0.5) / len(ordered), where="mid", color=INK, lw=1.8, label="SDE")
    scale = "log" if high > 10 * low else "linear"
    ax.set(xlabel="loss", ylabel="share of replicas below", ylim=(0, 1), xscale=scale, xlim=(low, high))
    ax.grid(True, which="major")
    ax.legend()
    return ax


@styled
def plot_validity(found: xr.Dataset, ax: Axes | None = None) -> Axes:
    """The map over (η, b): colour the larger gap of loss and distance, marks what it means, lines the theory.

    `found` over rate and batch has ``gap`` and ``state``, over batch ``rate_limit``, the η at which constant H and D
    reach the tolerance; attrs ``noise_limit``, the b at which noise and signal are equal, and ``stable``, 2/h₁.
    """
    ax = axes_or_new(ax, 6.0, 4.2)
    from matplotlib.colors import LogNorm

    rates, batches = np.meshgrid(found["rate"].values, found["batch"].values, indexing="ij")
    gap, state = found["gap"].values, found["state"].values.astype(str)
    finite = np.isfinite(gap)
    norm = LogNorm(1e-3, 1.0, clip=True)
    for word, mark in _MARKS.items():
        chosen = state == word
        points = ax.scatter(
            rates[chosen], batches[chosen], s=130, marker=mark, norm=norm, edgecolor=INK, lw=0.6, cmap="viridis",
            c=np.where(finite, gap, 1.0)[chosen], label=f"{word} ({int(chosen.sum())})",
        )  # fmt: skip
    ax.figure.colorbar(points, ax=ax, label="gap between SGD and SVAG, share")
    limits = found["rate_limit"].values
    if np.isfinite(limits).any():
        ax.plot(limits, found["batch"], color="#c1662f", ls="--", lw=1.4, label="constant H, D: gap = tolerance")
    if found.attrs["stable"] < 2 * rates.max():
        ax.axvline(found.attrs["stable"], color="#c1662f", lw=1.4, label="ηh₁ = 2")
    if 0.5 * batches.min() < found.attrs["noise_limit"] < 2 * batches.max():
        ax.axhline(found.attrs["noise_limit"], color=MUTED, ls=":", lw=1.6, label="noise = signal, b = tr D/|∇f|²")
    ax.set(xlabel="η", ylabel="b", xscale="log", yscale="log")
    ax.set_xticks(found["rate"].values, [f"{r:g}" for r in found["rate"].values], minor=False)
    ax.set_yticks(found["batch"].values, [str(b) for b in found["batch"].values], minor=False)
    ax.minorticks_off()
    ax.legend(fontsize="small", markerscale=0.6, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    return ax
