"""What the report of the experiment `noise` shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from sde_sgd.figures._style import INK, MUTED, axes_or_new, new_figure, styled

from ._sentences import student

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def _bars(values: Iterable[float]) -> tuple[float, float]:
    """Mean, and half of the 95 % interval over seeds; not a number where one diverged, so that nothing is drawn."""
    values = np.asarray(list(values))
    if not np.isfinite(values).all():
        return np.nan, np.nan
    mean, low, _ = student(values)
    return mean, mean - low


def _band(panel: Axes, x, runs, colour: str, label: str) -> None:
    """Mean over the runs (seed, x) and its 95 % interval."""
    mean, half = np.array([_bars(column) for column in np.asarray(runs).T]).T
    panel.plot(x, mean, color=colour, label=label)
    panel.fill_between(x, mean - half, mean + half, color=colour, alpha=0.15, lw=0)


@styled
def plot_gap(sweeps: Sequence[xr.Dataset], descent: xr.Dataset, rate: float) -> Figure:
    """Test error against η·steps at one learning rate, a line with its 95 % interval for each batch size, and its late
    mean against T.
    """
    figure = new_figure(9.0, 3.6)
    left, right = figure.subplots(1, 2)
    sizes = sweeps[0]["batch"].values
    for k, size in enumerate(sizes):
        runs = [s.sel(rate=rate, batch=size) for s in sweeps]
        _band(left, runs[0]["t"].values[1:], [r["test_error"].values[1:] for r in runs], f"C{k}", f"b = {size}")
    _band(left, descent["t"].values[1:], descent["test_error"].values[:, 1:], INK, "gradient descent")
    left.set(xlabel="η·steps", ylabel="test error", xscale="log", ylim=(0, None))
    left.legend()
    for k, one in enumerate(sweeps[0]["rate"].values):
        points = [_bars([float(s["late_test_error"].sel(rate=one, batch=size)) for s in sweeps]) for size in sizes]
        right.errorbar(
            one / (2 * sizes), *np.array(points).T, fmt="osv^D"[k % 5], ms=5, color=f"C{k}", label=f"η = {one:g}"
        )
    right.set(xlabel="T = η/2b", ylabel="late test error", xscale="log")
    levels = np.unique(np.outer(sweeps[0]["rate"].values, 0.5 / sizes).round(12))
    right.set_xticks(levels, [f"{level:.2g}" for level in levels], rotation=45)
    right.xaxis.minorticks_off()
    right.legend()
    for panel in (left, right):
        panel.grid(True, which="major")
    return figure


@styled
def plot_scaling(scaling: Sequence[xr.Dataset]) -> Figure:
    """Late training loss, late test error and ηλ_max against the batch size at constant η/b."""
    figure = new_figure(9.0, 3.4)
    panels = figure.subplots(1, 3)
    sizes = scaling[0]["batch"].values
    for panel, name, label in zip(panels, ("late_loss", "late_test_error"), ("late training loss", "late test error")):
        points = [_bars(float(s[name].sel(batch=b)) for s in scaling) for b in sizes]
        panel.errorbar(sizes, *np.array(points).T, fmt="o-", ms=4, color="C0")
        panel.set(ylabel=label)
    panels[0].set_yscale("log")
    for k, s in enumerate(scaling):
        panels[2].plot(sizes, s["rate"].values * s["sharpness"].values, "o-", ms=3, color=f"C{k % 10}", lw=0.8)
    panels[2].axhline(2.0, color=MUTED, lw=1.0, ls=(0, (4, 2)), label="limit of gradient descent")
    panels[2].set(ylabel="ηλ_max at the end", yscale="log")
    panels[2].legend()
    for panel in panels:
        panel.set(xlabel="batch size b, η ∝ b", xscale="log")
        panel.set_xticks(sizes, [str(size) for size in sizes])
        panel.xaxis.minorticks_off()
        panel.grid(True, which="major")
    return figure


@styled
def plot_noises(made: Mapping[str, xr.Dataset], sgd: Sequence[float], ax: Axes | None = None) -> Axes:
    """Late test error of gradient descent with each kind of noise, a dot for each seed, beside SGD."""
    ax = axes_or_new(ax, 7.0, 3.6)
    rows = {"SGD": np.asarray(sgd), **{name: run["late_test_error"].values for name, run in made.items()}}
    for k, (name, values) in enumerate(rows.items()):
        mean, half = _bars(values)
        ax.plot(np.full(len(values), k), values, "o", ms=4, color=MUTED, mfc="none")
        ax.errorbar([k], [mean], [half], fmt="s", ms=6, color=INK if name == "SGD" else "C0")
    ax.set_xticks(range(len(rows)), [name.replace(", ", ",\n") for name in rows])
    ax.minorticks_off()
    ax.set(ylabel="late test error")
    ax.grid(True, axis="y")
    return ax


@styled
def plot_dwell(found: Sequence[xr.Dataset], ax: Axes | None = None) -> Axes:
    """Mean times of paths over the exact ones, each case a column, each seed a dot."""
    ax = axes_or_new(ax, 7.6, 3.6)
    labels = [f"{p}\nh = {o:g}\n{n}" for p, o, n in zip(*(found[0][k].values for k in ("place", "out", "noise")))]
    for k, run in enumerate(found):
        exact = np.exp(run["exact"].values)
        shift = (k - (len(found) - 1) / 2) * 0.12
        ratio, error = run["mean"].values / exact, 2 * run["error"].values / exact
        ax.errorbar(np.arange(len(exact)) + shift, ratio, error, fmt="o", ms=3, lw=0.8, color=f"C{k % 10}")
    ax.axhline(1.0, color=MUTED, lw=0.8)
    ax.set_xticks(range(len(labels)), labels, fontsize=6)
    ax.minorticks_off()
    ax.set(ylabel="mean time of paths / exact")
    return ax


@styled
def plot_radii(held: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Radius of stability against curvature over a network's directions, and slopes −1 and 0 through their middle."""
    ax = axes_or_new(ax, 5.0, 3.6)
    for k, (_, one) in enumerate(held.groupby("seed")):
        ax.loglog(one["curvature"].values.ravel(), one["radius"].values.ravel(), "o", ms=4, color=f"C{k % 10}")
    h, r = held["curvature"].values.ravel(), held["radius"].values.ravel()
    usable = (h > 0) & (r > 0) & np.isfinite(r)
    h, r = h[usable], r[usable]
    if len(h):
        ends = np.array([h.min(), h.max()])
        middle = np.exp(np.log(h).mean()), np.exp(np.log(r).mean())
        ax.plot(ends, middle[1] * middle[0] / ends, color=MUTED, ls=(0, (4, 2)), label="as stated, ∝ 1/h")
        ax.plot(ends, np.full(2, middle[1]), color=INK, lw=1.0, label="D = cH, ∝ 1 but for a √log")
    ax.set(xlabel="curvature h", ylabel="radius of stability")
    if len(h):
        ax.legend()
    return ax


@styled
def plot_agreement(agreed: Mapping[str, Sequence[xr.Dataset]]) -> Figure:
    """|D − H|/|H| and the cosines of D, F and H along training, a panel for each kind of labels."""
    figure = new_figure(3.0 * len(agreed), 3.3)
    panels = np.atleast_1d(figure.subplots(1, len(agreed), sharey=True))
    for panel, (case, runs) in zip(panels, agreed.items()):
        steps = runs[0]["step"].values + 1
        for k, (name, label) in enumerate((("gap", "|D − H|/|H|"), ("d_h", "cos(D, H)"), ("d_f", "cos(D, F)"),
                                           ("f_h", "cos(F, H)"))):  # fmt: skip
            _band(panel, steps, [run[name].values for run in runs], f"C{k}", label)
        panel.set(title=case, xlabel="steps + 1", xscale="log")
        panel.grid(True, which="major")
    panels[0].set_ylim(0, None)
    panels[0].legend(fontsize="small")
    return figure


@styled
def plot_tasks(tasks: Sequence[xr.Dataset], networks: Sequence[xr.Dataset]) -> Figure:
    """Spectra of D of pairs of digits, and of networks, geometric means over seeds."""
    import matplotlib

    shown = [(runs, dim) for runs, dim in ((tasks, "pair"), (networks, "network")) if runs]
    figure = new_figure(4.6 * len(shown), 3.8)
    for panel, (runs, dim) in zip(np.atleast_1d(figure.subplots(1, len(shown))), shown):
        colours = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.92, runs[0].sizes[dim]))
        for k, name in enumerate(runs[0][dim].values):
            values = np.exp(np.mean([np.log(r["eigenvalues"].sel({dim: name}).values) for r in runs], axis=0))
            panel.plot(np.arange(1, len(values) + 1), values, "o-", ms=3, lw=0.8, color=colours[k],
                       label=str(name))  # fmt: skip
        panel.set(xlabel="index", ylabel="eigenvalue of D", yscale="log")
        panel.legend(fontsize="x-small", ncols=2)
        panel.grid(True, which="major")
    return figure


@styled
def plot_sharp(minima: Sequence[xr.Dataset], found: Mapping[str, Sequence[xr.Dataset]]) -> Figure:
    """Who is still below the loss that counts as having left, against η·steps; and λ_max at the horizon, by noise."""
    figure = new_figure(9.0, 3.6)
    left, right = figure.subplots(1, 2)
    kinds = [kind for kind in found if "cold" not in kind]
    horizon = min(run.attrs["horizon"] for run in found[kinds[0]])
    for k, kind in enumerate(kinds):
        times = np.sort(np.concatenate([run["time"].sel(clock="loss").values for run in found[kind]]))
        gone = times[times < horizon]
        share = 1 - np.arange(len(gone) + 1) / len(times)
        left.step([0.0, *gone, horizon], [*share, share[-1]], where="post", color=f"C{k}", label=kind,
                  ls=("-", (0, (4, 2)), (0, (1, 1)))[k % 3])  # fmt: skip
        values = np.array([float(run["top"].mean() / m["sharp"]) for run, m in zip(found[kind], minima)])
        mean, half = _bars(values)
        right.plot(np.full(len(values), k), values, "o", ms=4, color=MUTED, mfc="none")
        right.errorbar([k], [mean], [half], fmt="s", ms=6, color=f"C{k}")
    left.set(xlabel="η·steps", ylabel="share that has not left", xscale="symlog", ylim=(-0.05, 1.05))
    left.set_xlim(0, horizon)
    left.legend()
    right.axhline(_bars(float(m["flat"] / m["sharp"]) for m in minima)[0], color=INK, lw=1.0, ls=(0, (4, 2)))
    right.set_xticks(range(len(kinds)), kinds)
    right.minorticks_off()
    right.set(ylabel="λ_max at the horizon / at the minimum", ylim=(0, None))
    for panel in (left, right):
        panel.grid(True, which="major")
    return figure
