"""The experiment `validity-map`: over (η, b), how far SGD on a network is from its stochastic differential equation."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from sde_sgd.experiment import Experiment, Setting
from sde_sgd.study import Study

from ._sgd_sde_runs import QUANTITIES, SAMPLES, SIGMAS, compared, judged, quadratic_moments, sgd_run, start_of
from ._threads import one_thread
from .sgd_sde_figures import plot_validity

_FOUND = 0.8  # share of the decided cells that the linear theory promises to place right


@one_thread()
def perform(study: Study) -> None:
    """How far SGD is from its SDE over learning rates and batch sizes, on one network from one start: SGD against
    SVAG, whose limit is the SDE; the noise-to-signal ratio; and the exact recursion for constant H and D. One map with
    the boundary.
    """
    config = study.config
    start = study.stage("validity", "start", lambda progress: start_of(config))
    cells = {
        (rate, batch): study.stage(
            "validity",
            f"cell-{i}-{j}",
            lambda progress, rate=rate, batch=batch, seed=1000 * config["seed"] + 32 * i + j: cell_of(  # type: ignore[misc]
                config, start, rate, batch, seed, progress
            ),
        )
        for (i, rate), (j, batch) in itertools.product(
            enumerate(config["learning_rates"]), enumerate(config["batch_sizes"])
        )
    }
    found = study.stage("validity", "map", lambda progress: map_of(config, start, cells))
    _section(study, start, found)


# What is computed ------------------------------------------------------------------------------------------------


def cell_of(
    config: Mapping[str, Any], start: xr.Dataset, rate: float, batch: int, seed: int, progress=None
) -> xr.Dataset:
    """``gap`` and ``error`` (quantity): SGD less SVAG(`order`) at `time`; NaN where either diverges."""
    once = {**config, "saves": 1}
    sgd = sgd_run(once, start, rate, batch, 2 * seed, progress)
    svag = sgd_run(once, start, rate, batch, 2 * seed + 1, progress, config["order"])
    return compared(sgd, svag, start.attrs["loss"]).isel(time=-1, drop=True)


def map_of(config: Mapping[str, Any], start: xr.Dataset, cells: Mapping[tuple[float, int], xr.Dataset]) -> xr.Dataset:
    """Over ``rate`` and ``batch``: gaps with errors, ``state``, ``predicted`` gap of the loss, noise over signal.

    ``predicted`` is SGD less SVAG of the same order, exact for constant H and D. ``noise_to_signal`` tr D/(b|∇f|²) at
    the start. ``rate_limit`` (batch) is the lowest η at which the predicted gap of SGD from the SDE reaches the
    tolerance; NaN where none up to ηh₁ = 2 does.
    """
    rates, batches = config["learning_rates"], config["batch_sizes"]
    shape = len(rates), len(batches)
    gap, error = np.empty((len(QUANTITIES), *shape)), np.empty((len(QUANTITIES), *shape))
    predicted, state = np.empty(shape), np.empty(shape, dtype="<U8")
    for (i, rate), (j, batch) in itertools.product(enumerate(rates), enumerate(batches)):
        cell = cells[rate, batch]
        gap[:, i, j], error[:, i, j] = cell["gap"].values, cell["error"].values
        state[i, j] = judged(cell, config["tolerance"])
        predicted[i, j] = predicted_gap(start, rate, batch, config["time"], config["order"])
    noise = start.attrs["trace"] / start.attrs["gradient"] ** 2
    limits = [rate_limit(start, batch, config["time"], config["tolerance"]) for batch in batches]
    return xr.Dataset(
        {
            "gaps": (("quantity", "rate", "batch"), gap),
            "errors": (("quantity", "rate", "batch"), error),
            "gap": (("rate", "batch"), np.abs(gap).max(axis=0)),
            "state": (("rate", "batch"), state),
            "predicted": (("rate", "batch"), predicted),
            "noise_to_signal": (("rate", "batch"), np.broadcast_to(noise / np.array(batches), shape).copy()),
            "rate_limit": ("batch", limits),
        },
        coords={"quantity": list(QUANTITIES), "rate": rates, "batch": batches},
        attrs={"noise_limit": noise, "stable": 2 / float(start["curvature"][0]), "order": config["order"]},
    )


def predicted_gap(start: xr.Dataset, rate: float, batch: int, time: float, order: int | None) -> float:
    """E f of SGD less that of SVAG(order), or of the SDE for None, as a share, at constant H and D."""
    sgd, other = (quadratic_moments(start, rate, batch, time, one)[0] for one in (1, order))
    return (sgd - other) / max(abs(other), abs(other - start.attrs["loss"]))


def rate_limit(start: xr.Dataset, batch: int, time: float, tolerance: float) -> float:
    """The lowest η = time/n, n whole, below 2/h₁ at which the predicted gap from the SDE reaches the tolerance."""
    stable = 2 / float(start["curvature"][0])
    numbers = np.unique(np.geomspace(max(1.0, time / stable), 1000 * max(1.0, time / stable), 600).astype(int))[::-1]
    for n in numbers:
        rate = time / n
        if rate < stable and abs(predicted_gap(start, rate, batch, time, None)) >= tolerance:
            return float(rate)
    return float("nan")


# The report ------------------------------------------------------------------------------------------------------


def _section(study: Study, start: xr.Dataset, found: xr.Dataset) -> None:
    config = study.config
    tolerance, order = config["tolerance"], config["order"]
    section = study.report.section("Where the SDE describes SGD")
    section.text(
        f"SGD against SVAG({order}) at time {config['time']:g} from one start, {config['replicas']} replicas of each: "
        f"loss and distance. A cell differs where a gap exceeds {tolerance:.0%} by {SIGMAS:g} standard errors, agrees "
        f"where both gaps are as far below it, and is open otherwise. SVAG({order}) itself approximates the SDE: "
        f"at constant H and D it is that of learning rate η/{order}."
    )
    rates, state = found["rate"].values, found["state"].values.astype(str)
    failing = [rate for rate, row in zip(rates, state) if (row == "differs").any()]
    sound = [rate for rate, row in zip(rates, state) if (row == "agrees").all()]
    counts = {word: int((state == word).sum()) for word in ("agrees", "open", "differs")}
    told = ", ".join(f"{number} {word}" for word, number in counts.items())
    edge = (
        f"the lowest η at which SGD leaves it is {failing[0]:g}, at b = "
        f"{', '.join(str(b) for b in found['batch'].values[state[list(rates).index(failing[0])] == 'differs'])}"
        if failing
        else f"nowhere up to η = {rates[-1]:g} does SGD leave it"
    )
    section.verdict(
        not (state[0] == "differs").any(),
        f"At the lowest η = {rates[0]:g} SGD is at no b seen to be further than {tolerance:.0%} from SVAG "
        f"({told} over the map); {edge}"
        + (f"; at every b both agree beyond doubt at η = {', '.join(f'{r:g}' for r in sound)}." if sound else "."),
    )
    decided = state != "open"
    size = np.nan_to_num(np.abs(found["predicted"].values), nan=np.inf)  # where both are without bound
    right = (size > tolerance) == (state == "differs")
    share = float(right[decided].mean()) if decided.any() else float("nan")
    section.verdict(
        bool(decided.any() and share >= _FOUND),
        f"The exact recursion for constant H and D of the start, which knows nothing of the runs, places "
        f"{int(right[decided].sum())} of {int(decided.sum())} decided cells on their side of {tolerance:.0%} "
        f"(promised: {_FOUND:.0%}).",
    )
    ratio = found["noise_to_signal"].values
    noisy, quiet = ratio > 1, ratio < 1
    if failing:
        section.verdict(
            bool((noisy & (state == "differs")).any()),
            f"That noise exceeds signal, tr D/(b|∇f|²) > 1, is not enough: the ratio is from {ratio.min():.2g} to "
            f"{ratio.max():.2g} at the start, and of the {int(noisy.sum())} cells where it exceeds 1 "
            f"{int((noisy & (state == 'differs')).sum())} differ; of the {int(quiet.sum())} where it is below 1 "
            f"{int((quiet & (state == 'agrees')).sum())} agree.",
        )
    axes = plot_validity(found)
    study.figures["map"] = axes.figure
    section.figure(
        axes.figure,
        f"The larger of the gaps of loss and distance between SGD and SVAG({order}). Dashed, where constant H and D "
        f"give {tolerance:.0%} between the losses of SGD and of the SDE itself; {edge}.",
        "Map over learning rate and batch size, colour and marks for the gap, with boundary lines",
    )
    rows = []
    for i, rate in enumerate(rates):
        for j, batch in enumerate(found["batch"].values):
            cells = [
                f"{g:+.4f} ± {2 * e:.4f}" if np.isfinite(g) else "diverged"
                for g, e in zip(found["gaps"].values[:, i, j], found["errors"].values[:, i, j])
            ]
            top = rate * float(start["curvature"][0])
            rows.append(
                [float(rate), int(batch), top, ratio[i, j], *cells, float(found["predicted"][i, j]), state[i, j]]
            )
    section.table(
        ["η", "b", "ηh₁", "tr D/(b|∇f|²)", "loss: gap", "distance: gap", "loss: gap, constant H, D", "SGD"],
        rows,
        "SGD less SVAG as a share, ± two standard errors; h₁ is the largest curvature at the start.",
    )
    section.text(
        "Li, Malladi & Arora (2021) show for scale-invariant networks in equilibrium that the noise-to-signal ratio "
        "must not be small for SGD to follow its SDE at this learning rate: a necessary condition, of order of "
        "magnitude. At constant H and D the gap has another cause: the recursion multiplies each direction by 1 − ηh "
        "where the SDE has e^(−ηh), so that noise leaves a variance larger by 1/(1 − ηh/2) in the long run. This "
        "counts with the part that noise has in the loss, which is larger at small b: ηh₁ and b move the boundary."
    )


def _check(config: Mapping[str, Any]) -> None:
    for name in ("learning_rates", "batch_sizes"):
        if any(b <= a for a, b in itertools.pairwise(config[name])):
            raise ValueError(f"{name} must increase, got {config[name]}")
    if config["batch_sizes"][-1] > config["samples"]:
        raise ValueError(f"batch_sizes reach {config['batch_sizes'][-1]}, and there are {config['samples']} samples")
    for rate in config["learning_rates"]:
        if abs(config["time"] / rate - round(config["time"] / rate)) > 1e-9 or config["time"] < rate:
            raise ValueError(f"time {config['time']:g} is not a whole number of steps of η = {rate:g}: change one")


EXPERIMENT = Experiment(
    "Where the stochastic differential equation describes SGD",
    perform,
    {
        "learning_rates": Setting((0.05, 0.1, 0.2, 0.4, 0.8), "η, increasing", 1e-5, 10.0),
        "batch_sizes": Setting((2, 8, 32, 128), "b, increasing", 1, SAMPLES),
        "order": Setting(8, "l of SVAG", 2, 64),
        "time": Setting(8.0, "η × steps of each run", 1e-3, 1e6),
        "replicas": Setting(384, "runs of each", 8, 100_000),
        "samples": Setting(128, "N, images trained on", 8, SAMPLES),
        "hidden": Setting(16, "hidden units of tiny-fc", 1, 256),
        "weight_decay": Setting(2e-3, "λ", 0.0, 1.0),
        "warm_up_time": Setting(40.0, "η × steps from the initialisation to the start of all runs", 0.0, 1e6),
        "warm_up_rate": Setting(0.1, "η of the warm-up", 1e-5, 10.0),
        "directions": Setting(1, "steepest directions kept with the start", 1, 50),
        "tolerance": Setting(0.05, "gap, as a share, that counts as describing", 1e-3, 1.0),
        "seed": Setting(0, "of everything", 0, 2**31),
    },
    quick={"learning_rates": [0.1, 0.2, 0.4, 0.8], "batch_sizes": [2, 8, 32], "replicas": 128},
    check=_check,
)
