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
from ._snapshots import Snapshots
from .curvature import Curvature
from .data import Split, digits
from .gradient_noise import GradientNoise
from .one_hidden_layer import OneHiddenLayer
from .training import tiny_fc

_SAMPLES = 721  # of the digits 0 to 4 that are trained on


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
    smooth = study.stage("trajectory", "smooth", lambda progress: smooth_twin(study.config, data, progress))
    published_section(study, pilot, run, bands)
    current_section(study, run, tests, smooth)
    peaks_section(study, tests)


# What is computed ------------------------------------------------------------------------------------------------


def _network(config: Mapping[str, Any], smooth: bool) -> nn.Sequential:
    """tiny-fc from the seed; smooth: with tanh in place of ReLU, the same weights."""
    model = tiny_fc(seed=config["seed"])
    if smooth:
        model[2] = nn.Tanh()
    return model


def pilot_run(
    config: Mapping[str, Any], data: Split, progress=lambda done, total: None, smooth: bool = False
) -> xr.Dataset:
    """Burn-in at its own learning rate, then a pilot at that of the run, whose mean w̄ has the linear theory.

    ``start`` (weight), weights at the pilot's end; ``mean`` w̄; ``curvature`` (weight), eigenvalues of H + λ at w̄,
    descending, ``noise`` the diagonal of D in H's eigenvectors, ``directions`` (direction, weight) the leading ones
    and ``direction_noise`` D among them; here D is b times the covariance of a batch's gradient, as it is drawn.
    """
    model = _network(config, smooth)
    hot = _walker(model, data, config, config["burn_in_learning_rate"], 2 * config["seed"])
    hot.run(config["burn_in_epochs"] * hot.steps_per_epoch)
    progress(1, 3)
    hot.load_into(model)
    cold = _walker(model, data, config, config["learning_rate"], 2 * config["seed"] + 1)
    total = np.zeros(hot.weights.size)
    for _ in range(config["pilot_epochs"]):
        cold.run(cold.steps_per_epoch)
        total += cold.weights
    mean = total / config["pilot_epochs"]
    progress(2, 3)
    vector_to_parameters(torch.from_numpy(mean.copy()), model.parameters())
    pair = (data.inputs, data.targets)
    values, vectors = np.linalg.eigh(Curvature(model, nn.CrossEntropyLoss(), pair).matrix())
    values, vectors = values[::-1], vectors[:, ::-1]
    noise = vectors.T @ GradientNoise(model, nn.CrossEntropyLoss(), pair).matrix() @ vectors
    noise = drawn(config, noise, len(data.inputs))
    k = config["directions"]
    return xr.Dataset(
        {
            "start": ("weight", cold.weights),
            "mean": ("weight", mean),
            "curvature": ("weight", values + config["weight_decay"]),
            "eigenvectors": (("eigenvector", "weight"), vectors.T),
            "noise": ("weight", np.maximum(noise.diagonal(), 0.0)),
            "directions": (("direction", "weight"), vectors.T[:k]),
            "direction_noise": (("direction", "direction_2"), noise[:k, :k]),
        },
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
    walker = _from_pilot(config, data, pilot)
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
    model = _network(config, smooth=False)
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
    return found.merge(_projected(config, state), combine_attrs="no_conflicts")


def smooth_twin(config: Mapping[str, Any], data: Split, progress: Callable[[float, float], object]) -> xr.Dataset:
    """`current_and_peaks` of a run with tanh in place of ReLU, with a pilot of its own and all else the same: its loss
    has the curvature that the linear theory is about, and ReLU's has none where a unit switches.
    """
    pilot = pilot_run(config, data, smooth=True)
    walker = _from_pilot(config, data, pilot, smooth=True)
    parts = []
    for begin in range(0, config["epochs"], config["chunk"]):
        epochs = min(config["chunk"], config["epochs"] - begin)
        parts.append(walker.run(epochs * walker.steps_per_epoch, pilot["directions"].values, config["every"])[0])
        progress(begin + epochs, config["epochs"])
    return current_and_peaks(config, pilot, _projected(config, np.concatenate(parts)))


def _from_pilot(config: Mapping[str, Any], data: Split, pilot: xr.Dataset, smooth: bool = False) -> OneHiddenLayer:
    model = _network(config, smooth)
    vector_to_parameters(torch.from_numpy(pilot["start"].values.copy()), model.parameters())
    return _walker(model, data, config, config["learning_rate"], 2 * config["seed"] + 1)


def _projected(config: Mapping[str, Any], state: NDArray[np.float64]) -> xr.Dataset:
    """Projections on the pilot's directions in the form of paths, as the tests of the core want them."""
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
    """`area_production` and `spectral_peaks` of the projections, with the area that the linear theory predicts.

    In eigenvectors of H the recursion gives S_ij = (η/b)D_ij/(h_i+h_j−ηh_ih_j), C(k)_ij = (1−ηh_i)^k S_ij after k steps
    and A(k) = (Cᵀ − C)/(2kη), exactly, whatever the other directions do.
    """
    lags = [int(lag) for lag in config["area_lags"]]
    every, rate = config["every"], config["learning_rate"]
    h = pilot["curvature"].values[: config["directions"]]
    d = pilot["direction_noise"].values
    stationary = (rate / config["batch_size"]) * d / (h[:, None] + h[None, :] - rate * h[:, None] * h[None, :])
    expected = []
    for lag in lags:
        c = ((1 - rate * h) ** (lag * every))[:, None] * stationary
        expected.append((c.T - c) / (2 * lag * every * rate))
    plain = run[["state"]]
    skipped = plain.sizes["time"] // 10  # relaxation from the pilot
    area = sde.area_production(
        plain, lags, burn_in=skipped, expected=np.array(expected), seed=config["seed"], blocks=config["blocks"]
    )
    peaks = sde.spectral_peaks(plain, burn_in=skipped)
    variance = plain["state"].isel(replica=0, time=slice(skipped, None)).var("time").values
    kept = area[["area_production", "area_production_error", "expected", "p_value", "overall_p_value"]]
    names = {"lag": "area_lag", "lag_time": "area_lag_time"}
    found = xr.merge([kept.rename({k: v for k, v in names.items() if k in kept.variables or k in kept.dims})])
    for name in ("slope", "slope_error", "correlation", "expected_p_value"):
        found[name] = ("area_lag", area[name].values)
    found["peak_p_value"] = ((), float(peaks["p_value_smallest"]))
    found["peak_period"] = ("peak", 1.0 / (peaks["peak_frequency"].values * rate))
    found["peak_ratio"] = ("peak", peaks["peak_ratio"].values)
    found["peak_interpretation"] = ("peak", peaks["interpretation"].values)
    found["variance_ratio"] = ("direction", variance / stationary.diagonal())
    blocks = int(area.attrs["blocks"])
    lasting = (plain.sizes["time"] - skipped) // blocks * every * rate * h[-1]
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
        "pilot_epochs": Setting(200, "whose mean has H and D", 1, 100_000),
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
    # at ten times η for as long in time as the whole: blocks must be longer than the slowest direction remembers
    quick={"epochs": 8000, "burn_in_epochs": 600, "learning_rate": 0.01, "surrogates": 9, "gradients": 200},
    check=_check,
)
