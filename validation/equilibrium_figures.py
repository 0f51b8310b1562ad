"""What the equilibrium shows: descent that veers off, the norm, ensembles that meet, weights that do not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from sde_sgd.figures._style import INK, MUTED, new_figure, styled

from ._equilibrium_effects import (
    fourths_ratio,
    gamma_courses,
    mixing_times,
    moved_share,
    spread_share,
    squares_ratio,
)
from ._equilibrium_laws import forgotten
from ._sentences import student

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = {"decay": "C1", "decay off": "C0", "no decay": MUTED}


@styled
def plot_descent(toy: xr.Dataset, run: xr.Dataset) -> Figure:
    """Gradient descent with weight decay, from where that ended without, and without from the start.

    Left the toy x²/(x² + y²), r² over the square below which the minimum is unstable, and its gradient; right the
    network, its loss, and ηλ_max over the limit 2(1 − ηλ).
    """
    figure = new_figure(8.2, 4.8)
    panels = figure.subplots(2, 2)
    steps = np.arange(toy.sizes["step"])
    for name, colour in _COLOURS.items():
        shift = toy.sizes["step"] - 1 if name == "decay off" else 0
        one = toy.sel(run=name)
        panels[0, 0].plot(steps + shift, one["square"] / toy.attrs["unstable_square"], color=colour, lw=0.9, label=name)
        panels[1, 0].semilogy(steps + shift, np.maximum(one["slope"], 1e-16), color=colour, lw=0.9)
        one, shift = run.sel(run=name), int(run["step"][-1]) if name == "decay off" else 0
        decay = run.attrs["weight_decay"] if name == "decay" else 0.0
        limit = 2 * (1 - run.attrs["learning_rate"] * decay)
        panels[0, 1].semilogy(one["step"] + shift, one["loss"], color=colour, lw=0.9)
        sharp = run.attrs["learning_rate"] * one["curvature"] / limit
        panels[1, 1].semilogy(one["curvature_step"] + shift, sharp, "o-", color=colour, lw=0.9, ms=2.5)
    for panel in (panels[0, 0], panels[1, 1]):
        panel.axhline(1.0, color=INK, ls="--", lw=0.8)
    panels[0, 0].set(title="x²/(x² + y²)", ylabel="r² / unstable below", ylim=(0, 11))
    panels[0, 0].legend(loc="upper right", fontsize=7.5)
    panels[1, 0].set(xlabel="step", ylabel="|∇L|")
    panels[0, 1].set(title=f"the network, all of {run.attrs['samples']} samples", ylabel="loss")
    panels[1, 1].set(xlabel="step", ylabel="η λ_max / 2(1 − ηλ)")
    _numbers(panels[1, 1])
    return figure


@styled
def plot_norm(balanced: Sequence[xr.Dataset], relaxing: xr.Dataset) -> Figure:
    """Left γ = |w|⁴/η² and its equation while η changes; right both forms of the steady norm against ηλ.

    Right: means over seeds with 95 % intervals; the line is what the squared recursion makes of |w|⁴.
    """
    figure = new_figure(8.2, 3.5)
    left, right = figure.subplots(1, 2)
    for k, (steps, seen, wanted) in enumerate(gamma_courses(relaxing)):
        left.semilogy(steps, seen, "o", color="C0", ms=2.6, label="replicas" if not k else None)
        left.semilogy(
            steps,
            wanted,
            color="C1",
            lw=1.1,
            label=r"$d\gamma/dt = -4\lambda_e\gamma + 2\,\mathrm{Tr}\,\bar{\Sigma}$" if not k else None,
        )
    left.set(xlabel="step", ylabel="γ = |w|⁴/η²")
    left.legend()
    x = balanced[0]["intrinsic"].values
    forms = (("E|w|² form", [squares_ratio(run) for run in balanced], "C0", 0.97),
             ("|w|⁴ form", [fourths_ratio(run)[0] for run in balanced], "C1", 1.03))  # fmt: skip
    for label, found, colour, shift in forms:
        _bars(right, x * shift, np.array(found).T, colour, label)
    right.plot(x, np.mean([fourths_ratio(run)[1] for run in balanced], 0), color="C1", lw=1.0, label="|w|⁴, exact")
    right.axhline(1.0, color=MUTED, ls="--", lw=0.8)
    right.set(xscale="log", xlabel="ηλ", ylabel="steady norm over its formula")
    _marks(right, x)
    right.legend()
    return figure


@styled
def plot_mixing(ladders: Sequence[Sequence[xr.Dataset]]) -> Figure:
    """How ensembles of three schedules meet: squared distance and ℓ₁ against t·ηλ, and the time to mix against 1/(ηλ).

    Left: means over seeds at each ηλ. Middle: the first seed at the smallest ηλ, over the band of the exchanges.
    Right: one point a seed, in two senses of time, over lines of slope 1 through their geometric means.
    """
    figure = new_figure(10.6, 3.5)
    left, middle, right = figure.subplots(1, 3)
    highest = 0.0
    for k, several in enumerate(zip(*ladders)):
        x = several[0].attrs["intrinsic"]
        curve = np.mean([one["squared"].mean("pair").values for one in several], 0)
        time = several[0]["step"].values * x
        left.semilogy(time, np.where(curve > 0, curve, np.nan), "o-", ms=2.4, lw=0.9, color=f"C{k}",
                      label=f"ηλ = {x:g}")  # fmt: skip
        highest = max(highest, float(curve.max()))
    level = ladders[0][0].attrs["level"]
    left.axhline(level, color=MUTED, ls="--", lw=0.8)
    left.set(xlabel="steps · ηλ", ylabel="squared distance", ylim=(level / 10, 2 * max(highest, level)))
    left.legend(fontsize=7.5)
    one = min(ladders[0], key=lambda found: found.attrs["intrinsic"])
    time = one["step"].values * one.attrs["intrinsic"]
    middle.fill_between(time, 0, one["null_high"], color=MUTED, alpha=0.35, lw=0, label="95 % of exchanges")
    middle.plot(time, one["distance"], "o-", ms=2.4, lw=0.9, color="C0", label="three schedules")
    middle.set(xlabel="steps · ηλ", ylabel="ℓ₁ of predicted labels", title=f"ηλ = {one.attrs['intrinsic']:g}")
    middle.set_ylim(0, None)
    middle.legend(fontsize=7.5)
    _times(right, ladders, "level", f"to {level:g}", "o", "C0")
    _times(right, ladders, "integral", "integral", "s", "C1")
    right.set(xscale="log", yscale="log", xlabel="1/(ηλ)", ylabel="steps to mix")
    _marks(right, np.array([1 / one.attrs["intrinsic"] for one in ladders[0]]))
    _numbers(right)
    right.legend(fontsize=7.5)
    return figure


def _times(ax: Axes, ladders: Sequence[Sequence[xr.Dataset]], sense: str, label: str, mark: str, colour: str) -> None:
    """Mixing times, one point a seed, and a line of slope 1 through their geometric mean; those there are."""
    found = [(1 / one.attrs["intrinsic"], mixing_times(one)[sense]) for ladder in ladders for one in ladder]
    x, times = np.array([pair for pair in found if pair[1] > 0]).reshape(-1, 2).T
    ax.plot(x, times, mark, ms=4, color=colour, label=label)
    if len(x):
        line = np.array([x.min(), x.max()])
        ax.plot(line, line * np.exp(np.mean(np.log(times / x))), color=colour, ls="--", lw=0.9)


@styled
def plot_weights(ladders: Sequence[Sequence[xr.Dataset]]) -> Figure:
    """Left E|w_{T+Δ} − w_T|²/2E|w|², dashed tr S/E|w|² of replicas; right test errors of averaged weights: within a
    run, across runs of one start, across runs with starts of their own.
    """
    figure = new_figure(8.2, 3.5)
    left, right = figure.subplots(1, 2)
    for k, several in enumerate(zip(*ladders)):
        x = several[0].attrs["intrinsic"]
        lags = several[0]["lag"].values
        left.plot(lags * x, np.mean([moved_share(one) for one in several], 0), "o-", ms=2.6, lw=0.9, color=f"C{k}",
                  label=f"ηλ = {x:g}")  # fmt: skip
        left.axhline(np.mean([spread_share(one) for one in several]), color=f"C{k}", ls="--", lw=0.8)
    time = np.linspace(0, float(lags[-1] * x), 60)
    left.plot(time, forgotten(time / x, x), color=INK, lw=1.0, label="decay alone")
    left.set(xlabel="Δ · ηλ", ylabel="|w(T + Δ) − w(T)|² / 2|w|²", ylim=(0, 1.05))
    left.legend(fontsize=7.5)
    x = np.array([one.attrs["intrinsic"] for one in ladders[0]])
    kinds = (("single states", "error", MUTED, 0.94), ("mean within a run", "error_within", "C0", 0.98),
             ("mean across runs", "error_across", "C1", 1.02),
             ("mean across starts", "error_strangers", "C3", 1.06))  # fmt: skip
    for label, name, colour, shift in kinds:
        found = np.array([[float(one[name].mean()) for one in ladder] for ladder in ladders]).T
        _bars(right, x * shift, found, colour, label)
    right.set(xscale="log", yscale="log", xlabel="ηλ", ylabel="test error")
    _marks(right, x)
    _numbers(right)
    right.legend(fontsize=7.5, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


@styled
def plot_slow(runs: Sequence[xr.Dataset]) -> Figure:
    """Test error along the small learning rate, after a large one and from the start: means over seeds and replicas."""
    figure = new_figure(4.8, 3.4)
    ax = figure.subplots()
    for k, arm in enumerate(runs[0]["arm"].values):
        found = np.array([run["error"].sel(arm=arm).mean("replica").values for run in runs])
        time = runs[0]["step"].values * runs[0].attrs["intrinsic"]
        ax.fill_between(time, found.min(0), found.max(0), color=f"C{k}", alpha=0.2, lw=0)
        ax.semilogy(time, found.mean(0), "o-", ms=2.6, lw=1.0, color=f"C{k}", label=str(arm))
    ax.set(xlabel="steps · ηλ, of the small rate", ylabel="test error")
    _numbers(ax)
    ax.legend()
    return figure


def _bars(ax: Axes, x: np.ndarray, found: np.ndarray, colour: str, label: str) -> None:
    """Means over seeds, found (x, seed), with 95 % intervals where there are several seeds."""
    middle = found.mean(axis=1)
    half = [student(row).mean - student(row).low for row in found] if found.shape[1] > 1 else None
    ax.errorbar(x, middle, half, fmt="o", ms=4, lw=1, color=colour, label=label)


def _marks(ax: Axes, values: np.ndarray) -> None:
    """The values themselves as marks of a logarithmic axis."""
    ax.set_xticks(values, [f"{value:.3g}" for value in values])
    ax.minorticks_off()


def _numbers(ax: Axes) -> None:
    """Plain numbers at 1, 2 and 5 of each decade of the logarithmic ordinate."""
    from matplotlib.ticker import LogLocator, NullLocator

    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.yaxis.set_minor_locator(NullLocator())
