"""What the walk shows: loss from iterate to iterate, cosines and distances, heights against η, a network at rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from sde_sgd.figures._style import INK, MUTED, axes_or_new, new_figure, styled

from ._sentences import student
from ._walk_runs import epoch_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SHOWN = 8  # steps of an epoch


@styled
def plot_walk(run: xr.Dataset) -> Figure:
    """The loss on the segments between consecutive iterates, one after the other, a panel for each recorded epoch.

    Dots are iterates. Where steps were left out between two segments there is a gap.
    """
    epochs = np.unique(epoch_of(run))
    figure = new_figure(3.1 * len(epochs), 2.9)
    panels = np.atleast_1d(figure.subplots(1, len(epochs)))
    for panel, epoch in zip(panels, epochs):
        chosen = np.flatnonzero(epoch_of(run) == epoch)[:_SHOWN]
        for place, k in enumerate(chosen):
            losses = run["segment_loss"].values[k]
            x = place + np.linspace(0, 1, len(losses))
            panel.plot(x, losses, color="C0", lw=1.2)
            panel.plot(x[[0, -1]], losses[[0, -1]], "o", ms=3, color=INK)
        panel.set(title=f"epoch {epoch}", xlabel="steps recorded")
        panel.grid(True, which="major")
    panels[0].set_ylabel("training loss")
    return figure


@styled
def plot_floors(run: xr.Dataset, ax: Axes | None = None) -> Axes:
    """The loss on straight lines from floor to floor and from iterate to iterate, against epochs; dots are ends.

    `run` has `floor_loss` (floor_loss_step, line, place), of which the step is that of the later end.
    """
    ax = axes_or_new(ax, 8.2, 3.2)
    ends = run["floor_loss_step"].values / run.attrs["steps_per_epoch"]
    begins = np.concatenate([[2 * ends[0] - (ends[1] if len(ends) > 1 else 2 * ends[0])], ends[:-1]])
    for k, (line, colour) in enumerate({"iterate": MUTED, "floor": "C0"}.items()):
        losses = run["floor_loss"].sel(line=line).values
        x = begins[:, None] + np.linspace(0, 1, losses.shape[1]) * (ends - begins)[:, None]
        for j, (place, values) in enumerate(zip(x, losses)):
            ax.plot(place, values, color=colour, lw=1.3, label=f"{line} to {line}" if j == 0 else None)
            ax.plot(place[[0, -1]], values[[0, -1]], "o", ms=3, color=colour if k else INK)
    ax.set(xlabel="epochs", ylabel="training loss", yscale="log")
    ax.grid(True, which="major")
    ax.legend()
    return ax


@styled
def plot_series(
    runs: Mapping[str, Sequence[xr.Dataset]], quantities: Mapping[str, str], log: Sequence[str] = ()
) -> Figure:
    """Quantities along runs, `quantities` = variable: label, a panel each; means over seeds in a band of their range.

    "cosine" is a running ratio E[g·g']/√(E|g|²E|g'|²) over a twelfth of the run.
    """
    figure = new_figure(4.0 * len(quantities), 3.4)
    panels = np.atleast_1d(figure.subplots(1, len(quantities)))
    for panel, (name, label) in zip(panels, quantities.items()):
        for k, (kind, several) in enumerate(runs.items()):
            series = [cosine_series(run) if name == "cosine" else _along(run, name)
                      for run in several if "diverged" not in run.attrs]  # fmt: skip
            if not series:
                continue
            x, values = series[0][0], np.stack([y for _, y in series])
            panel.plot(x, values.mean(0), color=f"C{k}", lw=1.3, label=kind)
            panel.fill_between(x, values.min(0), values.max(0), color=f"C{k}", alpha=0.2, lw=0)
        panel.set(xlabel="steps", ylabel=label, **({"yscale": "log"} if name in log else {}))
        panel.grid(True, which="major")
    if len(runs) > 3:
        figure.legend(*panels[-1].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small")
    else:
        panels[-1].legend(fontsize="small")
    return figure


def _along(run: xr.Dataset, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps, counted from the start of the run that this one goes on from, and a quantity."""
    values = run[name].values
    return run[f"{name}_step"].values + run.attrs["begins"], values[:, 0] if values.ndim == 2 else values


def cosine_series(run: xr.Dataset, parts: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Steps and E[g·g']/√(E|g|²E|g'|²) over `parts` of a run, or as many as were recorded."""
    steps, products = run["gradient_products_step"].values, run["gradient_products"].values
    x, y = [], []
    for part in np.array_split(np.arange(len(steps)), min(parts, len(steps))):
        product, one, two = products[part].mean(0)
        x.append(steps[part].mean())
        y.append(product / np.sqrt(one * two))
    return np.array(x), np.array(y)


@styled
def plot_heights(
    rates: Sequence[float], late: Sequence[Sequence[float]], early: Sequence[Sequence[float]], ax: Axes | None = None
) -> Axes:
    """Mean height against η, first and last recorded epoch, bars of the 95 % interval over seeds; a line ∝ η²."""
    ax = axes_or_new(ax, 5.0, 3.6)
    for k, (label, heights) in enumerate({"first epoch": early, "last epoch": late}.items()):
        middle = np.array([np.exp(student(np.log(h)).mean) for h in heights])
        bars = np.array([np.exp(student(np.log(h))[1:]) for h in heights])
        ax.errorbar(rates, middle, np.abs(bars.T - middle), fmt="o", ms=4, lw=1, color=f"C{k}", label=label)
        ax.plot(rates, middle[0] * (np.array(rates) / rates[0]) ** 2, color=f"C{k}", lw=1, ls=(0, (4, 2)),
                label="∝ η²" if k == 0 else None)  # fmt: skip
    ax.set(xlabel="η", ylabel="height", xscale="log", yscale="log")
    ax.set_xticks(rates, [f"{rate:g}" for rate in rates])
    ax.minorticks_off()
    ax.grid(True, which="major")
    ax.legend()
    return ax


@styled
def plot_rest(rest: Sequence[xr.Dataset], ax: Axes | None = None) -> Axes:
    """E[g·g']/E|g|² against η: of a network at rest, points, over −tr(H²S)/(tr(H²S) + tr D/b), lines; and early on."""
    ax = axes_or_new(ax, 5.4, 3.7)
    rates = rest[0]["rate"].values
    for k, batch in enumerate(rest[0]["batch"].values):
        place = rates * (1 + 0.04 * k)
        for name, mark, colour in (("ratio", "o", f"C{k}"), ("early", "x", MUTED)):
            values = np.stack([one[name].sel(batch=batch).values for one in rest])
            bars = np.array([student(column) for column in values.T])
            label = f"b = {batch}" if name == "ratio" else f"b = {batch}, first epoch"
            ax.errorbar(place, bars[:, 0], [bars[:, 0] - bars[:, 1], bars[:, 2] - bars[:, 0]], fmt=mark, ms=4 + 2 * k,
                        lw=1, color=colour, label=label)  # fmt: skip
        predicted = np.mean([one["predicted"].sel(batch=batch).values for one in rest], axis=0)
        ax.plot(place, predicted, "-_", ms=14, color=f"C{k}", lw=1.2, label=f"law at rest, b = {batch}")
    ax.axhline(0, color=MUTED, lw=0.8)
    ax.set(xlabel="η", ylabel="E[g·g′]/E|g|²", xscale="log", xlim=(rates[0] / 1.3, 1.4 * rates[-1]))
    ax.set_xticks(rates, [f"{rate:g}" for rate in rates])
    ax.minorticks_off()
    ax.grid(True, which="major")
    ax.legend(fontsize="small")
    return ax


@styled
def plot_valley(toy: xr.Dataset) -> Figure:
    """The bumpy valley against η: variance across it and cosine over their exact values; heights; shares."""
    figure = new_figure(11.0, 3.2)
    panels = figure.subplots(1, 3)
    rates = toy["rate"].values
    smooth = toy.isel(ripple=0)
    for panel, name, exact, label in (
        (panels[0], "variance", "exact_variance", "Var y"), (panels[1], "ratio", "exact_ratio", "E[g·g′]/E|g|²"),
    ):  # fmt: skip
        panel.plot(rates, toy[exact], color=INK, lw=1.2, label="exact")
        for i, ripple in enumerate(toy["ripple"].values):
            one, each = toy[name].isel(ripple=i), toy[f"{name}_error"].isel(ripple=i)
            error = np.sqrt((each**2).sum("seed").values) / toy.sizes["seed"]
            panel.errorbar(rates + 0.002 * i, one.mean("seed"), 2 * error, fmt="ox"[i], ms=5, lw=1,
                           label=f"ripple {ripple:g}")  # fmt: skip
        panel.set(xlabel="η", ylabel=label)
        panel.legend(fontsize="small")
    panels[2].plot(rates, smooth["oracle"].mean("seed"), color=INK, lw=1.2, label="height, formula")
    panels[2].plot(rates, smooth["height"].mean("seed"), "o", color="C0", ms=5, label="height, recorded")
    panels[2].plot(rates, toy["barrier"].isel(ripple=1).mean("seed"), "x", color="C1", ms=5, label="barriers: steps")
    bumpy = toy.isel(ripple=1).mean("seed")
    panels[2].plot(rates, bumpy["floor_exact"].where(bumpy["floor_exact"] > 0), "--", color="C2", lw=1.2,
                   label="of the floor itself")  # fmt: skip
    panels[2].plot(rates, bumpy["floor_barrier"].where(bumpy["floor_barrier"] > 0), "^", color="C2", ms=5,
                   label="floor to floor")  # fmt: skip
    panels[2].set(xlabel="η", ylabel="height; share with a barrier", yscale="log")
    panels[2].legend(fontsize="small")
    for panel in panels:
        panel.grid(True, which="major")
    return figure
