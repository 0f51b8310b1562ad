"""The experiment `long-trajectory`: 10⁵ epochs of tiny-fc, what plots of them show, and what they cannot."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
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

from ._long_statistics import KINDS, Surrogates, autocorrelation, increment_spectrum, lags_of, surrogate_bands
from ._long_trajectory_report import current_section, peaks_section, published_section
from ._prediction_runs import curvature_of_slopes, slopes
from ._snapshots import Snapshots
from ._threads import one_thread
from .curvature import Curvature
from .data import Split, digits
from .gradient_noise import GradientNoise
from .local_prediction import LocalPrediction
from .one_hidden_layer import OneHiddenLayer
from .training import tiny_fc

BENDS = ("at the mean", "with kinks")  # of H
_SAMPLES = 721  # of the digits 0 to 4 that are trained on


@one_thread()
def perform(study: Study) -> None:
    """tiny-fc on the digits 0 to 4 for many epochs of SGD, one snapshot an epoch. The spectrum of the increments, the
    autocorrelation of the weights and |∇f|/√d, as Chaudhari & Soatto (2018) read limit cycles from them, beside a
    random walk and a reversible Ornstein–Uhlenbeck process; then the tests that can tell: area production and spectral
    peaks, in directions fixed on a pilot run.
    """
    data = digits(7, range(5), seed=study.config["seed"])
    pilot = study.stage("trajectory", "pilot", lambda progress: pilot_run(study.config, data, progress))
    run = study.stage("trajectory", "run", lambda progress: long_run(study, data, pilot, progress))
    bands = study.stage("trajectory", "surrogates", lambda progress: _bands(study.config, pilot, run, progress))
    tests = study.stage("trajectory", "tests", lambda progress: current_and_peaks(study.config, pilot, run))
    published_section(study, pilot, run, bands)
    current_section(study, run, tests)
    peaks_section(study, tests)


# What is computed ------------------------------------------------------------------------------------------------


def pilot_run(config: Mapping[str, Any], data: Split, progress=lambda done, total: None) -> xr.Dataset:
    """Burn-in at its own learning rate, then a pilot at that of the run, whose mean w̄ has the linear theory.

    ``start`` (weight), weights at the pilot's end; ``mean`` w̄; ``curvature`` (weight), eigenvalues of H + λ at w̄,
    descending, ``noise`` the diagonal of D in H's eigenvectors, D as it is drawn, b times the covariance of a batch's
    gradient; ``directions`` (direction, weight) the leading eigenvectors. Along these, for each kind of H,
    ``covariance`` (kind, direction, direction_2) and ``area`` (kind, area_lag, …) as `LocalPrediction`: "at the mean",
    by autograd, and "with kinks", the mean of `curvature_of_slopes` over snapshots of the pilot.
    """
    model = tiny_fc(seed=config["seed"])
    hot = _walker(model, data, config, config["burn_in_learning_rate"], 2 * config["seed"])
    hot.run(config["burn_in_epochs"] * hot.steps_per_epoch)
    progress(1, 3)
    hot.load_into(model)
    cold = _walker(model, data, config, config["learning_rate"], 2 * config["seed"] + 1)
    total, clouds = np.zeros(hot.weights.size), []
    epochs, snapshots = config["pilot_epochs"], config["snapshots"]
    for epoch in range(epochs):
        cold.run(cold.steps_per_epoch)
        total += cold.weights
        if (epoch + 1) * snapshots // epochs > epoch * snapshots // epochs:
            clouds.append(cold.weights)
    mean = total / epochs
    progress(2, 3)
    vector_to_parameters(torch.from_numpy(mean.copy()), model.parameters())
    pair = (data.inputs, data.targets)
    hessian = Curvature(model, nn.CrossEntropyLoss(), pair).matrix()
    noise = GradientNoise(model, nn.CrossEntropyLoss(), pair).matrix()
    values, vectors = np.linalg.eigh(hessian)
    values, vectors = values[::-1], vectors[:, ::-1]
    along = drawn(config, np.einsum("ik,ij,jk->k", vectors, noise, vectors, optimize=True), len(data.inputs))
    directions = vectors.T[: config["directions"]]
    spread = np.sqrt(config["learning_rate"] / (2 * config["batch_size"]) * np.trace(noise) / np.trace(hessian))
    f, kinked = slopes(data, 0.0), np.zeros_like(hessian)
    for number, weights in enumerate(clouds):
        kinked += curvature_of_slopes(f, weights, vectors.T, spread) / len(clouds)
        progress(2 + (number + 1) / len(clouds), 3)
    laws = [
        LocalPrediction.from_matrices(
            bent, noise, learning_rate=config["learning_rate"], batch_size=config["batch_size"],
            samples=len(data.inputs), weight_decay=config["weight_decay"], sampling=config["sampling"],
            directions=directions,
        )
        for bent in (hessian, kinked)
    ]  # fmt: skip
    steps = np.array(config["area_lags"]) * config["every"]
    pairs = ("direction", "direction_2")
    return xr.Dataset(
        {
            "start": ("weight", cold.weights),
            "mean": ("weight", mean),
            "curvature": ("weight", values + config["weight_decay"]),
            "eigenvectors": (("eigenvector", "weight"), vectors.T),
            "noise": ("weight", np.maximum(along, 0.0)),
            "directions": (("direction", "weight"), directions),
            "covariance": (("kind", *pairs), np.stack([law.covariance for law in laws])),
            "area": (("kind", "area_lag", *pairs), np.stack([law.area(steps) for law in laws])),
        },
        {"kind": list(BENDS)},
        attrs={"samples": len(data.inputs), "steps_per_epoch": hot.steps_per_epoch, "parameters": mean.size},
    )


def drawn(config: Mapping[str, Any], noise: NDArray[np.float64], samples: int) -> NDArray[np.float64]:
    """b times the covariance of a batch's gradient, of D: D itself, or (N−b)/(N−1)·D for fresh subsets."""
    if config["sampling"] == "without_replacement":
        return noise * (samples - config["batch_size"]) / (samples - 1)
    return noise


def long_run(study: Study, data: Split, pilot: xr.Dataset, progress: Callable[[float, float], object]) -> xr.Dataset:
    """The run itself, kept piece by piece in the study's work folder; and the published statistics of its snapshots.

    ``state`` (replica, time, variable): projections on the pilot's directions, of every ``every``-th step; over
    ``frequency`` and ``lag``, in epochs, the mean and std over the weights of spectrum and autocorrelation;
    ``gradient`` (snapshot) |∇f|/√d with the weight decay.
    """
    config = study.config
    model = tiny_fc(seed=config["seed"])
    vector_to_parameters(torch.from_numpy(pilot["start"].values.copy()), model.parameters())
    walker = _walker(model, data, config, config["learning_rate"], 2 * config["seed"] + 1)
    kept = Snapshots(study.work("trajectory"), walker, config["epochs"], config["every"], pilot["directions"].values)
    kept.run(config["chunk"], lambda done, total: progress(0.8 * done, total))
    weights = kept.weights
    lags = lags_of(config["epochs"])
    frequency, power = increment_spectrum(weights, config["bins"])
    correlation = autocorrelation(weights, lags)
    moving = np.isfinite(correlation[0])  # pixels that are always black have weights that only decay
    shown = chosen_weights(config, weights.shape[1], pilot)
    state, losses = kept.projections
    rows = np.unique(np.linspace(0, len(weights) - 1, min(config["gradients"], len(weights))).round().astype(int))
    gradients = [_gradient(model, data, weights[row], config["weight_decay"]) for row in rows]
    found = xr.Dataset(
        {
            "spectrum_mean": ("frequency", power.mean(axis=1)),
            "spectrum_std": ("frequency", power.std(axis=1)),
            "autocorrelation_mean": ("lag", correlation[:, moving].mean(axis=1)),
            "autocorrelation_std": ("lag", correlation[:, moving].std(axis=1)),
            "shown_spectrum": ("frequency", power[:, shown].mean(axis=1)),
            "shown_autocorrelation": ("lag", np.nanmean(correlation[:, shown], axis=1)),
            "gradient": ("snapshot", gradients),
            "snapshot_epoch": ("snapshot", rows + 1),
            "loss": ("block", [part.mean() for part in np.array_split(losses, min(100, len(losses)))]),
            "second_half_mean": ("weight", weights[len(weights) // 2 :].mean(axis=0)),
        },
        coords={"frequency": frequency, "lag": lags},
        attrs={**walker.settings, "moving_weights": int(moving.sum()), "every": config["every"]},
    )
    progress(1, 1)
    return found.merge(projected(config, state), combine_attrs="no_conflicts")


def projected(config: Mapping[str, Any], state: NDArray[np.float64]) -> xr.Dataset:
    """Projections (time, direction) of every ``every``-th step in the form of paths, as the tests of the core want."""
    return xr.Dataset(
        {"state": (("replica", "time", "variable"), state[None])},
        {"time": config["learning_rate"] * config["every"] * np.arange(1, len(state) + 1),
         "variable": [f"direction_{k}" for k in range(state.shape[1])]},
        {"time_unit": "η × steps"},
    )  # fmt: skip


def chosen_weights(config: Mapping[str, Any], size: int, pilot: xr.Dataset) -> NDArray[np.int64]:
    """Weights on which run and surrogates are compared: random ones, of those that the noise moves."""
    moved = (pilot["eigenvectors"].values ** 2).T @ pilot["noise"].values
    candidates = np.flatnonzero(moved > 1e-9 * moved.max())
    count = min(config["shown_weights"], len(candidates))
    return np.sort(np.random.default_rng(config["seed"]).choice(candidates, count, replace=False))


def _bands(config: Mapping[str, Any], pilot: xr.Dataset, run: xr.Dataset, progress) -> xr.Dataset:
    """Lowest and highest of the mean over the shown weights, over surrogates of both kinds."""
    shown = chosen_weights(config, pilot.sizes["weight"], pilot)
    vectors = pilot["eigenvectors"].values
    center = run["second_half_mean"].values
    made = Surrogates(
        curvature=np.maximum(pilot["curvature"].values, 0.0),
        noise=pilot["noise"].values,
        rows=vectors[:, shown].T,
        start=vectors @ (pilot["start"].values - center),
        learning_rate=config["learning_rate"],
        batch_size=config["batch_size"],
        steps=pilot.attrs["steps_per_epoch"],
    )
    return surrogate_bands(
        made,
        KINDS,
        epochs=config["epochs"],
        lags=run["lag"].values,
        bins=config["bins"],
        count=config["surrogates"],
        seed=config["seed"],
        progress=progress,
    ).assign_attrs(negative_curvature=int((pilot["curvature"] < 0).sum()), shown_weights=len(shown))


def current_and_peaks(config: Mapping[str, Any], pilot: xr.Dataset, run: xr.Dataset) -> xr.Dataset:
    """`area_production` and `spectral_peaks` of the projections, beside the pilot's predictions.

    Over ``kind`` of H and ``area_lag``: ``slope`` of measured on predicted areas, ``slope_error``, ``correlation``,
    ``expected_p_value``; over kind and direction ``variance_ratio``, measured over predicted.
    """
    every, rate = config["every"], config["learning_rate"]
    plain = run[["state"]]
    skipped = plain.sizes["time"] // 10  # relaxation from the pilot
    areas = [
        sde.area_production(
            plain, [int(lag) for lag in config["area_lags"]], burn_in=skipped,
            expected=pilot["area"].sel(kind=kind).values, seed=config["seed"], blocks=config["blocks"],
        )
        for kind in BENDS
    ]  # fmt: skip
    peaks = sde.spectral_peaks(plain, burn_in=skipped)
    variance = plain["state"].isel(replica=0, time=slice(skipped, None)).var("time").values
    names = {"lag": "area_lag", "lag_time": "area_lag_time"}
    area = areas[0][["area_production", "area_production_error", "p_value", "overall_p_value"]]
    found = area.rename({k: v for k, v in names.items() if k in area.variables or k in area.dims})
    found = found.assign_coords(kind=list(BENDS))
    for name in ("slope", "slope_error", "correlation", "expected_p_value"):
        found[name] = (("kind", "area_lag"), np.stack([one[name].values for one in areas]))
    found["expected"] = pilot["area"]
    predicted = np.diagonal(pilot["covariance"].values, axis1=1, axis2=2)
    found["variance_ratio"] = (("kind", "direction"), variance / predicted)
    found["peak_p_value"] = ((), float(peaks["p_value_smallest"]))
    found["peak_period"] = ("peak", 1.0 / (peaks["peak_frequency"].values * rate))
    found["peak_ratio"] = ("peak", peaks["peak_ratio"].values)
    found["peak_interpretation"] = ("peak", peaks["interpretation"].values)
    blocks = int(areas[0].attrs["blocks"])
    slowest = float(pilot["curvature"][config["directions"] - 1])
    lasting = (plain.sizes["time"] - skipped) // blocks * every * rate * slowest
    return found.assign_attrs(scatter=float(peaks.attrs["scatter"]), blocks=blocks, block_relaxations=float(lasting))


def _walker(model: nn.Module, data: Split, config: Mapping[str, Any], rate: float, seed: int) -> OneHiddenLayer:
    return OneHiddenLayer(
        model,
        data.inputs,
        data.targets,
        learning_rate=rate,
        batch_size=config["batch_size"],
        sampling=config["sampling"],
        weight_decay=config["weight_decay"],
        seed=seed,
    )


def _gradient(model: nn.Module, data: Split, weights: NDArray[np.float64], decay: float) -> float:
    vector_to_parameters(torch.from_numpy(weights.copy()), model.parameters())
    value = nn.functional.cross_entropy(model(data.inputs), data.targets)
    slopes = torch.autograd.grad(value, list(model.parameters()))
    flat = torch.cat([s.flatten() for s in slopes]).numpy() + decay * weights
    return float(np.linalg.norm(flat) / np.sqrt(weights.size))


def _check(config: Mapping[str, Any]) -> None:
    if config["snapshots"] > config["pilot_epochs"]:
        raise ValueError(f"snapshots={config['snapshots']} of {config['pilot_epochs']} pilot_epochs: take fewer")
    lags = config["area_lags"]
    if any(b <= a for a, b in itertools.pairwise(lags)):
        raise ValueError(f"area_lags must increase, got {lags}")
    rows = 0.9 * config["epochs"] * -(-_SAMPLES // config["batch_size"]) // config["every"]
    needed = config["blocks"] * max(4 * lags[-1], 64)
    if rows < needed:
        raise ValueError(
            f"{config['epochs']} epochs give {rows:.0f} projections, and {config['blocks']} blocks of 4 lags need "
            f"{needed}: take more epochs, or fewer blocks, shorter lags or every smaller"
        )


EXPERIMENT = Experiment(
    "A long trajectory of SGD",
    perform,
    {
        "epochs": Setting(100_000, "of the run, a snapshot after each", 64, 1_000_000),
        "burn_in_epochs": Setting(1000, "before", 1, 1_000_000),
        "burn_in_learning_rate": Setting(0.1, "η of the burn-in", 1e-6, 10.0),
        "pilot_epochs": Setting(1000, "whose mean has H and D", 1, 100_000),
        "snapshots": Setting(8, "of the pilot, at which H is taken with its kinks", 1, 100),
        "learning_rate": Setting(1e-3, "η of pilot and run", 1e-7, 10.0),
        "batch_size": Setting(32, "b", 1, _SAMPLES - 1),
        "weight_decay": Setting(2e-3, "λ; without it nothing is stationary", 0.0, 1.0),
        "sampling": Setting(  # reshuffled batches are not independent: surrogates and areas would be of another run
            "with_replacement", "of mini-batches", choices=("with_replacement", "without_replacement")
        ),
        "directions": Setting(8, "steepest directions of the pilot", 2, 50),
        "every": Setting(5, "steps between projections", 1, 1000),
        "area_lags": Setting((1, 4, 16), "lags of the areas, in projections, increasing", 1, 100_000),
        "blocks": Setting(64, "independent pieces of the run", 16, 10_000),
        "bins": Setting(60, "frequencies shown", 8, 1000),
        "gradients": Setting(1000, "snapshots at which |∇f| is taken", 2, 100_000),
        "shown_weights": Setting(48, "weights on which run and surrogates are compared", 2, 885),
        "surrogates": Setting(19, "of each kind", 2, 999),
        "chunk": Setting(2000, "epochs between the points from which a run goes on", 1, 1_000_000),
        "seed": Setting(0, "of everything", 0, 2**31),
    },
    # at ten times η for about as long in time as the whole: blocks must be longer than the slowest direction remembers
    quick={
        "epochs": 8000,
        "burn_in_epochs": 600,
        "pilot_epochs": 200,
        "snapshots": 4,
        "learning_rate": 0.01,
        "surrogates": 9,
        "gradients": 200,
    },
    check=_check,
)
