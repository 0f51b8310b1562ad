"""The experiment `sampling-modes`: what a mini-batch is drawn from decides how far SGD fluctuates."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils import vector_to_parameters

import sde_sgd as sde
from sde_sgd.experiment import Experiment, Setting
from sde_sgd.study import Study

from ._threads import one_thread
from .curvature import Curvature
from .data import Split, digits
from .experiment_figures import plot_ratios
from .gradient_noise import GradientNoise
from .one_hidden_layer import OneHiddenLayer
from .training import tiny_fc

MODES = ("with_replacement", "without_replacement", "reshuffling")
_SAMPLES = 721  # of the digits 0 to 4 that are trained on


@one_thread()
def perform(study: Study) -> None:
    """tiny-fc on the digits 0 to 4, trained by mini-batches drawn in three ways: with replacement, as a fresh subset at
    each step, and by walking through a new permutation each epoch. Variance along eigenvectors of the Hessian, its
    change within an epoch and its correlation over one, beside the exact recursion at constant H and D.
    """
    data = digits(7, range(5), seed=study.config["seed"])
    pilot = study.stage("sampling", "pilot", lambda progress: pilot_run(study.config, data, progress))
    runs = {mode: study.stage("sampling", mode, partial(measured, study.config, data, pilot, mode)) for mode in MODES}
    theory = study.stage("sampling", "theory", lambda progress: predicted(study.config, pilot, runs[MODES[0]]))
    _ratio_section(study, pilot, runs, theory)
    _phase_section(study, pilot, runs, theory)
    _lag_section(study, runs, theory)


# What is computed ------------------------------------------------------------------------------------------------


def pilot_run(config: Mapping[str, Any], data: Split, progress=lambda done, total: None) -> xr.Dataset:
    """Burn-in with replacement, hot, then a pilot at η; H and D at the pilot's mean, along ``directions`` of H.

    The directions are eigenvectors of H spread evenly over the logarithm of their eigenvalues, from the largest down to
    ``flattest`` of it; fixed before the runs that are measured.
    """
    model = model_of(config)
    hot = _walker(
        model, data, {**config, "learning_rate": config["burn_in_learning_rate"]}, MODES[0], 5 * config["seed"]
    )
    steps = hot.steps_per_epoch
    hot.run(config["burn_in_epochs"] * steps)
    progress(1, 3)
    hot.load_into(model)
    walker = _walker(model, data, config, MODES[0], 5 * config["seed"] + 1)
    walker.run(config["relax_epochs"] * steps)
    total, parts = np.zeros(walker.weights.size), config["pilot_epochs"]
    for _ in range(parts):
        walker.run(steps)
        total += walker.weights
    mean = total / parts
    progress(2, 3)
    vector_to_parameters(torch.from_numpy(mean.copy()), model.parameters())
    pair = (data.inputs, data.targets)
    values, vectors = np.linalg.eigh(Curvature(model, nn.CrossEntropyLoss(), pair).matrix())
    values, vectors = values[::-1], vectors[:, ::-1]
    chosen = spread_over(values, config["directions"], config["flattest"])
    directions = vectors.T[chosen]
    noise = GradientNoise(model, nn.CrossEntropyLoss(), pair)
    d = directions @ noise.matrix() @ directions.T
    return xr.Dataset(
        {
            "start": ("weight", walker.weights),
            "mean": ("weight", mean),
            "directions": (("direction", "weight"), directions),
            "curvature": ("direction", values[chosen]),
            "noise": (("direction", "direction_2"), (d + d.T) / 2),
        },
        attrs={"samples": len(data.inputs), "steps_per_epoch": steps, "lowest_curvature": float(values[-1])},
    )


def model_of(config: Mapping[str, Any]) -> nn.Sequential:
    """tiny-fc at its start, with the activation asked for."""
    model = tiny_fc(seed=config["seed"])
    if config["activation"] == "tanh":
        model[2] = nn.Tanh()
    return model


def spread_over(values: NDArray[np.float64], count: int, flattest: float) -> NDArray[np.int64]:
    """Positions of about `count` of the falling `values`, even in the logarithm, none below `flattest` of the first."""
    wanted = values[0] * np.geomspace(1.0, flattest, count)
    usable = np.flatnonzero(values >= flattest * values[0])
    positions = {int(usable[np.abs(np.log(values[usable] / w)).argmin()]) for w in wanted}
    return np.array(sorted(positions))


def measured(
    config: Mapping[str, Any], data: Split, pilot: xr.Dataset, mode: str, progress=lambda done, total: None
) -> xr.Dataset:
    """A run in one mode: variance, phases and lag correlations of the projections, with errors from blocks of epochs.

    ``variance`` (direction, block) about the mean of the whole run, ``phase_variance`` (phase, direction) after so many
    steps of an epoch, ``correlation`` (lag, direction), lags in steps, over the variance.
    """
    model = model_of(config)
    vector_to_parameters(torch.from_numpy(pilot["start"].values.copy()), model.parameters())
    walker = _walker(model, data, config, mode, seed=5 * config["seed"] + 2 + MODES.index(mode))
    steps, directions = walker.steps_per_epoch, pilot["directions"].values
    blocks = config["blocks"]
    each = config["epochs"] // blocks
    walker.run(config["relax_epochs"] * steps)
    parts = []
    for block in range(blocks):
        parts.append(walker.run(each * steps, directions)[0])
        progress(block + 1, blocks)
    states = np.stack(parts)  # (block, time, direction)
    mean = states.mean(axis=(0, 1))
    centred = states - mean
    variance = (centred**2).mean(axis=1)
    phases = centred.reshape(blocks, each, steps, -1)  # row r is the state after r + 1 steps of its epoch
    lags = lags_of(steps)
    product = np.stack([(centred[:, lag:] * centred[:, : each * steps - lag]).mean(axis=1) for lag in lags])
    return xr.Dataset(
        {
            "mean": ("direction", mean),
            "variance": (("block", "direction"), variance),
            "phase_variance": (("block", "phase", "direction"), np.roll((phases**2).mean(axis=1), 1, axis=1)),
            "correlation": (("lag", "direction"), product.mean(axis=1) / variance.mean(axis=0)),
        },
        coords={"lag": lags, "phase": np.arange(steps)},
        attrs={**walker.settings, "epochs": blocks * each},
    )


def lags_of(steps: int) -> NDArray[np.int64]:
    """About 40 lags up to two epochs, the epoch among them."""
    return np.unique(np.concatenate([np.linspace(0, 2 * steps, 41).round().astype(int), [steps]]))


def predicted(config: Mapping[str, Any], pilot: xr.Dataset, run: xr.Dataset) -> xr.Dataset:
    """The same from the exact recursion at constant H and D: `DiscreteSGD` on the chosen eigenvectors of H.

    S_ij depends on h_i, h_j and D_ij only, so that a few eigenvectors of H are enough. ``law`` ηhN/(3b), the limit of
    the ratio of reshuffling to replacement for ηhN/b → 0.
    """
    h, d = pilot["curvature"].values, pilot["noise"].values
    variance, phase, correlation = [], [], []
    for mode in MODES:
        exact = sde.DiscreteSGD(
            np.diag(h),
            d,
            config["learning_rate"],
            config["batch_size"],
            samples=pilot.attrs["samples"],
            sampling=mode,
            weight_decay=config["weight_decay"],
        )
        variance.append(exact.covariance.diagonal())
        epoch = [exact.phase_covariance(k % exact.epoch_steps).diagonal() for k in range(run.sizes["phase"])]
        phase.append(epoch)
        lagged = exact.lag_covariance(run["lag"].values).values
        correlation.append(np.diagonal(lagged, axis1=1, axis2=2) / variance[-1])
    law = config["learning_rate"] * (h + config["weight_decay"]) * pilot.attrs["samples"] / (3 * config["batch_size"])
    return xr.Dataset(
        {
            "variance": (("mode", "direction"), variance),
            "phase_variance": (("mode", "phase", "direction"), phase),
            "correlation": (("mode", "lag", "direction"), correlation),
            "law": ("direction", law),
        },
        coords={"mode": list(MODES), "lag": run["lag"].values, "phase": run["phase"].values},
    )


def ratio(run: xr.Dataset, base: xr.Dataset) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Ratio of mean variances and its standard error from the scatter of blocks, (direction,) each."""
    value, error = [], []
    for one in (run, base):
        blocks = one["variance"].values
        value.append(blocks.mean(axis=0))
        error.append(blocks.std(axis=0, ddof=1) / np.sqrt(len(blocks)) / value[-1])
    found = value[0] / value[1]
    return found, found * np.hypot(*error)


def _walker(model: nn.Module, data: Split, config: Mapping[str, Any], mode: str, seed: int) -> OneHiddenLayer:
    return OneHiddenLayer(
        model,
        data.inputs,
        data.targets,
        learning_rate=config["learning_rate"],
        batch_size=config["batch_size"],
        sampling=mode,
        weight_decay=config["weight_decay"],
        seed=seed,
    )


# The report ------------------------------------------------------------------------------------------------------


def _ratio_section(study: Study, pilot: xr.Dataset, runs: Mapping[str, xr.Dataset], theory: xr.Dataset) -> None:
    config = study.config
    section = study.report.section("Variance along eigenvectors of the Hessian")
    section.text(
        f"η = {config['learning_rate']:g}, b = {config['batch_size']}, N = {pilot.attrs['samples']}, weight decay "
        f"{config['weight_decay']:g}; {runs[MODES[0]].attrs['epochs']} epochs in each mode from the same start. The "
        "theory "
        "is the exact recursion at constant H and D of the pilot."
    )
    base = runs[MODES[0]]
    subset, subset_error = ratio(runs[MODES[1]], base)
    expected = (theory["variance"].sel(mode=MODES[1]) / theory["variance"].sel(mode=MODES[0])).values
    z = (subset - expected) / subset_error
    limit = config["z_limit"]
    section.verdict(
        bool(np.abs(z).max() < limit),
        f"Fresh subsets have the variance of replacement times (N−b)/(N−1) = {expected[0]:.4f}: the measured ratios "
        "are "
        f"{subset.min():.3f} to {subset.max():.3f}, at most {np.abs(z).max():.1f} standard errors off (allowed: "
        f"{limit:g}).",
    )
    weight = subset_error**-2
    mean, mean_error = float((weight * subset).sum() / weight.sum()), float(weight.sum() ** -0.5)
    section.text(
        f"Over all directions, weighted by their errors, the ratio is {mean:.4f} ± {mean_error:.4f}: "
        + (
            f"{abs(mean - 1) / mean_error:.1f} standard errors from 1, so that the factor is seen."
            if abs(mean - 1) > 3 * mean_error
            else f"at b = {config['batch_size']} this cannot tell the factor from 1; a larger batch_size can."
        )
    )
    found, error = ratio(runs[MODES[2]], base)
    exact = (theory["variance"].sel(mode=MODES[2]) / theory["variance"].sel(mode=MODES[0])).values
    flat = exact < 0.5
    gap = float(np.median(np.abs(np.log(found / exact))))
    section.verdict(
        gap < np.log(1.25),
        f"Reshuffling cuts the variance as predicted: along {len(found)} directions the measured ratio to "
        "replacement is "
        f"{found.min():.3f} to {found.max():.3f}, the predicted {exact.min():.3f} to {exact.max():.3f}; the median of "
        f"their factor is {np.exp(gap):.2f} (promised: below 1.25).",
    )
    rest = pilot.attrs["samples"] % config["batch_size"]
    if rest:
        section.text(
            f"{config['batch_size']} does not divide {pilot.attrs['samples']}: the last batch of an epoch holds {rest} "
            f"samples, each of which weighs {config['batch_size'] / rest:.3g} times as much as the others. An epoch's "
            "noise then does not add up to zero, and the ratio does not fall with h as the law ηhN/(3b), which is for "
            "whole batches, but to a floor."
        )
    elif flat.any():
        worst = float(np.max(np.abs(exact[flat] / theory["law"].values[flat] - 1)))
        section.text(
            f"Where the exact ratio is below a half, the law ηhN/(3b) differs from it by at most {100 * worst:.0f} %."
        )
    plain = theory["variance"].sel(mode=MODES[0]).values
    rows = [
        [
            float(h),
            *(float(runs[m]["variance"].mean("block")[k]) for m in MODES),
            float(plain[k]),
            f"{found[k]:.3f} ± {2 * error[k]:.3f}",
            float(exact[k]),
            float(theory["law"][k]),
        ]
        for k, h in enumerate(pilot["curvature"].values)
    ]
    section.table(
        ["h", "replacement", "subset", "reshuffling", "replacement, theory", "ratio", "exact", "ηhN/(3b)"],
        rows,
        "Variances, and the ratio of reshuffling to replacement ± two standard errors over blocks of epochs.",
    )
    h = pilot["curvature"].values
    figure = plot_ratios(
        h,
        {"reshuffling, measured": (found, error), "subset, measured": (subset, subset_error)},
        {"reshuffling, exact": (h, exact), "subset, exact": (h, expected), "ηhN/(3b)": (h, theory["law"].values)},
        labels=("curvature h", "variance over that with replacement"),
    ).figure
    study.figures["ratios"] = figure
    section.figure(
        figure,
        "Ratio of variances, bars of two standard errors. Flat directions are quiet under reshuffling because an "
        f"epoch's noise {'nearly ' if rest else ''}adds up to zero before the weights have moved.",
        "Ratio of variances against curvature on logarithmic axes",
    )


def _quietest(theory: xr.Dataset) -> int:
    """The direction along which reshuffling cuts the variance most."""
    return int((theory["variance"].sel(mode=MODES[2]) / theory["variance"].sel(mode=MODES[0])).values.argmin())


def _phase_section(study: Study, pilot: xr.Dataset, runs: Mapping[str, xr.Dataset], theory: xr.Dataset) -> None:
    section = study.report.section("Within an epoch")
    blocks = runs[MODES[2]]["phase_variance"]
    relative = blocks / blocks.mean("phase")
    k = _quietest(theory)
    value, error = relative.mean("block").values, relative.std("block", ddof=1).values / np.sqrt(blocks.sizes["block"])
    phases = theory["phase_variance"].sel(mode=MODES[2])
    exact = (phases / phases.mean("phase")).values
    ends, inner = value[0], value[value.shape[0] // 2]
    section.verdict(
        bool(ends[k] < inner[k] - 3 * np.hypot(error[0, k], error[value.shape[0] // 2, k])),
        "Under reshuffling the epoch is seen in the variance: along the direction with h = "
        f"{float(pilot['curvature'][k]):.3g} "
        f"it is {ends[k]:.2f} of its mean at the end of an epoch and {inner[k]:.2f} in the middle (theory "
        f"{exact[0, k]:.2f} "
        f"and {exact[value.shape[0] // 2, k]:.2f}). There is no single temperature.",
    )
    phase = blocks["phase"].values
    figure = plot_ratios(
        phase,
        {"measured": (value[:, k], error[:, k])},
        {"exact": (phase, exact[:, k])},
        labels=("steps since the epoch began", "variance over its mean"),
        log=(False, False),
    ).figure
    study.figures["phases"] = figure
    section.figure(
        figure,
        f"Variance by phase of the epoch along the direction with h = {float(pilot['curvature'][k]):.3g}, reshuffling.",
        "Variance against the step within an epoch, measured points over a line",
    )


def _lag_section(study: Study, runs: Mapping[str, xr.Dataset], theory: xr.Dataset) -> None:
    section = study.report.section("Over an epoch")
    gaps = {
        mode: float(abs(runs[mode]["correlation"] - theory["correlation"].sel(mode=mode)).median()) for mode in MODES
    }
    epoch = runs[MODES[2]].sizes["phase"]
    at = {mode: runs[mode]["correlation"].sel(lag=epoch).values for mode in (MODES[0], MODES[2])}
    lower = int((at[MODES[2]] < at[MODES[0]]).sum())
    section.verdict(
        max(gaps.values()) < 0.1,
        "Autocorrelations follow the exact recursion in every mode: the median distance over directions and lags is "
        + ", ".join(f"{gap:.3f} ({mode.replace('_', ' ')})" for mode, gap in gaps.items())
        + f" (promised: below 0.1). An epoch later reshuffling remembers less in {lower} of {len(at[MODES[2]])} "
        "directions.",
    )
    columns = [
        "lag, steps",
        *(f"{mode.replace('_', ' ')}{kind}" for mode in (MODES[0], MODES[2]) for kind in ("", ", exact")),
    ]
    k = _quietest(theory)
    rows = []
    for lag in theory["lag"].values[::4]:
        pairs = [(runs[m]["correlation"], theory["correlation"].sel(mode=m)) for m in (MODES[0], MODES[2])]
        rows.append([int(lag), *(float(one.sel(lag=lag)[k]) for pair in pairs for one in pair)])
    section.table(columns, rows, "Autocorrelation along the direction that reshuffling quiets most.")


def _check(config: Mapping[str, Any]) -> None:
    if config["epochs"] < 4 * config["blocks"]:
        raise ValueError(
            f"{config['epochs']} epochs do not fill {config['blocks']} blocks of 4 epochs: take more epochs"
        )


EXPERIMENT = Experiment(
    "Three ways of drawing mini-batches",
    perform,
    {
        "epochs": Setting(12_000, "measured in each mode", 32, 1_000_000),
        "burn_in_epochs": Setting(8000, "with replacement, before", 1, 1_000_000),
        "burn_in_learning_rate": Setting(0.1, "η of the burn-in", 1e-6, 10.0),
        "pilot_epochs": Setting(500, "with replacement, whose mean has H and D", 1, 1_000_000),
        "relax_epochs": Setting(500, "in each mode before it is measured", 0, 1_000_000),
        "learning_rate": Setting(0.02, "η", 1e-6, 10.0),
        "batch_size": Setting(8, "b", 1, _SAMPLES // 2),
        "weight_decay": Setting(5e-3, "λ; without it nothing is stationary", 1e-6, 1.0),
        "activation": Setting("relu", "of the hidden layer; tanh has no kinks", choices=("relu", "tanh")),
        "directions": Setting(12, "eigenvectors of H", 2, 100),
        "flattest": Setting(5e-3, "smallest curvature taken, over the largest", 1e-6, 0.9),
        "blocks": Setting(32, "independent pieces of a run", 8, 1000),
        "z_limit": Setting(4.0, "standard errors a ratio may be off", 1.0, 10.0),
        "seed": Setting(0, "of everything", 0, 2**31),
    },
    quick={"epochs": 3000},
    check=_check,
)
