"""How long a network's own minimum holds each noise: what the report says of it, and the sentences it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from sde_sgd.report import number
from sde_sgd.study import Study

from ._noise_emulation_report import shown
from ._noise_emulation_sentences import GOLMANT, INF, KESKAR, LESS, MORE, ZHU
from ._noise_emulation_sharp import COLD, COOLER, CROWD, KINDS, RISE, exponential, restricted
from ._sentences import Answer, asked
from .noise_emulation_figures import plot_sharp

Runs = Mapping[str, Sequence[xr.Dataset]]


def _times(run: xr.Dataset, clock: str):
    return run["time"].sel(clock=clock).values, run.attrs["horizon"]


def _left(runs: Sequence[xr.Dataset], clock: str) -> str:
    several = np.concatenate([_times(run, clock)[0] for run in runs])
    return f"{np.isfinite(several).sum()} of {several.size}"


def _mean(runs: Sequence[xr.Dataset], clock: str) -> str:
    """The mean time of an exponential law; where a seed has no exit that of all seeds, or the 95 % bound observed/3."""
    each = [exponential(*_times(run, clock)) for run in runs]
    if np.isfinite(each).all():
        return shown(each)
    exits = sum(int(np.isfinite(_times(run, clock)[0]).sum()) for run in runs)
    observed = sum(restricted(*_times(run, clock)) * run.sizes["replica"] for run in runs)
    return f"{number(observed / exits)}, all seeds" if exits else f"> {number(observed / 3)}"


def _later(run: xr.Dataset, exact: xr.Dataset) -> float:
    """ln of the mean of min(time to so much loss, horizon), less that with exact noise; NaN where half of the replicas
    have left with neither, so that both means are hardly less than the horizon and tell no difference.
    """
    both = [_times(one, "loss") for one in (run, exact)]
    if max(np.isfinite(times).mean() for times, _ in both) < 0.5:
        return float("nan")
    one, other = (restricted(*each) for each in both)
    return float(np.log(one / other))


def report_sharp(study: Study, minima: Sequence[xr.Dataset], found: Runs) -> None:
    """Dwell times at minima of a network, with and without an exit, beside those of their parabolas."""
    section = study.report.section("How long a network's own sharp minimum holds")
    first = found["exact"][0]
    slope = max(float(m.slope) for m in minima)
    section.text(
        f"Descent on all samples from large weights, with weight decay, on small digits a fifth of whose labels are "
        f"wrong; after {study.config['sharp_descent']} steps the gradient is at most {number(slope)}, and the lowest "
        f"eigenvalue of H + λ {shown(m.lowest for m in minima)}. λ_max of H is {shown(m.sharp for m in minima)} there, "
        f"and {shown(m.flat for m in minima)} where mini-batches of the same η and b have led. From there, "
        f"{first.sizes['replica']} replicas for each seed and noise, η = 1/(2λ_max), b = "
        f"{study.config['sharp_batch']}, to the horizon η·steps = "
        f"{shown(r.horizon for r in found['exact'])}. Three clocks: the first step out of the slab "
        "|v·(w − w*)| < R along the leading eigenvector v, R = stability_radius for exact noise and 10 relaxation "
        f"times; the first look at {RISE:g} times the loss; the first look at a λ_max half way, in its logarithm, from "
        "that of the minimum to that of mini-batches."
    )
    moved = int(np.isfinite(np.concatenate([_times(run, "slab")[0] for run in found["none"]])).sum())
    section.verdict(
        moved == 0,
        f"Of the replicas without noise {_left(found['none'], 'slab')} leave the slab (allowed: none).",
    )
    rows = []
    for name in (*KINDS, COLD):
        runs = found[name]
        laws = [number(float(np.median([r.predicted.sel(law=law) for r in runs]))) for law in
                ("of the SDE", "of the recursion")]  # fmt: skip
        rows.append([name, *laws, _mean(runs, "slab"), _left(runs, "slab")])
    section.table(
        ["noise", "parabola, SDE", "parabola, steps", "time in the slab", "left"], rows,
        "Mean η·steps to the first exit from the slab: of the SDE on the parabola (slab_exit_time) and of the "
        "recursion on it, both with the noise at the minimum, medians over seeds; measured, as time observed over "
        f"exits, > where there is none (95 %). “{COLD}” is at T/{COOLER} in a slab narrower by its root, with "
        f"{CROWD} times the replicas.",
    )  # fmt: skip
    rows = [
        [name, *(cell for clock in ("loss", "curvature") for cell in (
            shown(restricted(*_times(r, clock)) for r in found[name]), _left(found[name], clock))),
         shown(float(r.top.mean()) for r in found[name])]
        for name in KINDS
    ]  # fmt: skip
    section.table(
        ["noise", f"until {RISE:g} × loss", "left", "until flatter", "left", "λ_max at the horizon"], rows,
        "Means of min(τ, horizon), which need no law and no exit: a mean at the horizon says “not before”. λ_max of "
        "H by 10 products, mean over replicas.",
    )  # fmt: skip
    figure = plot_sharp(minima, found)
    study.figures["sharp"] = figure
    section.figure(figure, f"Left: the share of replicas that have not yet seen {RISE:g} times the loss of the "
                   "minimum, all seeds. Right: λ_max at the horizon over that at the minimum, seeds, their mean "
                   "and its 95 % interval; dashed, where mini-batches led.",
                   "Falling steps for each kind of noise, and dots of the curvature that is left")  # fmt: skip


def sharp_sentences(found: Runs, minima: Sequence[xr.Dataset]) -> list[Answer | str]:
    """Of the network's own minima, (seed) runs of each kind of noise."""

    def later(kind: str) -> list[float]:
        return [_later(run, exact) for run, exact in zip(found[kind], found["exact"])]

    def fallen(kind: str) -> np.ndarray:
        return np.log([float(r.top.mean() / m.sharp) for r, m in zip(found[kind], minima)])

    def off(kind: str) -> np.ndarray:
        return np.array([np.log(exponential(*_times(r, "slab")) / float(r.predicted.sel(law="of the recursion")))
                         for r in found[kind]])  # fmt: skip

    rise = f"ln of the mean of min(time to {RISE:g} times the loss, horizon)"
    return [
        asked(ZHU, "a network's sharp minimum is left sooner with noise of covariance D/b than with isotropic noise "
              "of equal trace", later("isotropic"), MORE, f"{rise}: isotropic less exact"),
        asked(ZHU, "the noise leads from a sharp minimum to flatter places: λ_max falls by a tenth or more",
              fallen("exact"), (-INF, np.log(0.9)), "ln(λ_max at the horizon over that at the minimum)",
              condition="its covariance is D/b, not isotropic of equal trace", otherwise=fallen("isotropic")),
        asked(KESKAR, "the noise of mini-batches leads from a sharp minimum to flatter places",
              np.log([float(m.flat / m.sharp) for m in minima]), LESS,
              "ln(λ_max where they led over that at the minimum)"),
        asked(GOLMANT, "noise from a small subset of the samples leaves a sharp minimum as soon as exact noise, "
              "within a factor of 1.5", later("subset"), (-np.log(1.5), np.log(1.5)),
              f"{rise}: subset less exact"),
        asked(GOLMANT, "noise by products with the Hessian leaves it as soon as exact noise, within a factor of 1.5",
              later("hessian"), (-np.log(1.5), np.log(1.5)), f"{rise}: hessian less exact"),
        asked(GOLMANT, "curvature and noise at a minimum give the time for which it holds: that of the parabola, "
              "within a quarter", off(COLD), (-0.25, 0.25),
              "ln(time in the slab over that of the recursion on the parabola)",
              condition=f"T is 1/{COOLER} of what it is for the other runs", otherwise=off("exact")),
    ]  # fmt: skip
