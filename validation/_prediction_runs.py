"""Runs of the experiment `potential-vs-loss`: pilots with their predictions, measured trajectories, and controls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg as la
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from ._mean_shift import seen_shift
from .curvature import Curvature
from .data import Split
from .gradient_noise import GradientNoise
from .local_prediction import LocalPrediction, compared
from .one_hidden_layer import OneHiddenLayer, trajectory
from .training import tiny_fc

Array = NDArray[np.float64]
Config = Mapping[str, Any]
Progress = Callable[[float, float], object]
MODES = ("with_replacement", "reshuffling")
KINDS = ("at the mean", "over the cloud", "with kinks")
_LOSS = nn.CrossEntropyLoss()
_SHIFTS = 500  # iterates of a run whose slopes are taken, both ways from the mean
_BINS = np.linspace(-3.0, 3.0, 13)  # in predicted standard deviations


def model_at(weights: Array, activation: str = "relu") -> nn.Module:
    """tiny-fc with these weights, with ReLU as it stands or with tanh."""
    model = tiny_fc()
    if activation == "tanh":
        model[2] = nn.Tanh()
    vector_to_parameters(torch.from_numpy(np.array(weights)), model.parameters())
    return model


def start_weights(seed: int) -> Array:
    """PyTorch's initialisation of tiny-fc."""
    return parameters_to_vector(tiny_fc(seed=seed).parameters()).detach().numpy()


def walker(
    config: Config, data: Split, weights: Array, rate: float, seed: int, mode: str = MODES[0], activation="", **more
):
    """SGD of the experiment from these weights."""
    settings = {"batch_size": config["batch_size"], "sampling": mode} | more
    return OneHiddenLayer(
        model_at(weights, activation or config["activation"]), data.inputs, data.targets, learning_rate=rate,
        seed=seed, weight_decay=config["weight_decay"], **settings,
    )  # fmt: skip


def spacing(config: Config, rate: float) -> int:
    """Steps between the states kept, so that they are about as far apart in time at every η."""
    return max(1, round(max(config["learning_rates"]) / rate))


def lags_in_steps(config: Config, rate: float) -> NDArray[np.int64]:
    return np.array([int(lag) for lag in config["area_lags"]]) * spacing(config, rate)


def start_run(config: Config, data: Split, seed: int, progress: Progress = lambda done, total: None) -> xr.Dataset:
    """Burn-in at the largest η from the initialisation of this seed: the weights that all pilots start from."""
    rate = max(config["learning_rates"])
    first = walker(config, data, start_weights(seed), rate, 100 * seed)
    first.run(round(config["burn_in_time"] / rate))
    progress(1, 1)
    return xr.Dataset({"weights": ("weight", first.weights)})


def pilot_run(config: Config, data: Split, start: Array, rate: float, seed: int, progress: Progress) -> xr.Dataset:
    """Time at its own η, then the mean w̄ of a pilot; H and D at w̄, and their means over the pilot's snapshots.

    ``directions``, the steepest of H at w̄, are fixed here. Over kind and mode of sampling: ``covariance`` and ``area``
    (lag, …) along them; ``hessian``, ``noise`` V H Vᵀ and V D Vᵀ. Kinds: H and D "at the mean"; their means "over the
    cloud"; "with kinks", the same D with the mean of `curvature_of_slopes`, since autograd's H is blind to kinks.
    """
    sgd = walker(config, data, start, rate, 100 * seed + 1)
    sgd.run(max(1, round(config["settle_time"] / rate)))
    pieces = max(config["snapshots"], 50)
    length = max(1, round(config["pilot_time"] / rate) // pieces)
    means, clouds = np.zeros(sgd.weights.size), []
    for piece in range(pieces):
        for _ in range(4):
            sgd.run(max(1, length // 4))
            means += sgd.weights / (4 * pieces)
        if (piece + 1) * config["snapshots"] // pieces > piece * config["snapshots"] // pieces:
            clouds.append(sgd.weights)
        progress(0.5 * (piece + 1) / pieces, 1)
    pair = (data.inputs, data.targets)
    matrices = []
    for number, weights in enumerate([means, *clouds]):
        model = model_at(weights, config["activation"])
        matrices.append((Curvature(model, _LOSS, pair).matrix(), GradientNoise(model, _LOSS, pair).matrix()))
        progress(0.5 + 0.2 * (number + 1) / (1 + len(clouds)), 1)
    hessian, noise = matrices[0]
    axes = la.eigh(hessian)[1].T
    directions = axes[::-1][: config["directions"]].copy()
    spread = np.sqrt(rate / (2 * config["batch_size"]) * float(np.trace(noise)) / float(np.trace(hessian)))
    f, kinked = slopes(data, 0.0, config["activation"]), np.zeros_like(hessian)
    for number, weights in enumerate(clouds):
        kinked += curvature_of_slopes(f, weights, axes, spread) / len(clouds)
        progress(0.7 + 0.2 * (number + 1) / len(clouds), 1)
    cloud = [np.mean([pair[k] for pair in matrices[1:]], axis=0) for k in range(2)]
    tables: dict[str, list] = {"covariance": [], "area": []}
    seen: dict[str, list] = {"hessian": [], "noise": [], "unseen": [], "unstable": []}
    for bent, noisy in (matrices[0], cloud, (kinked, cloud[1])):
        rows: dict[str, list] = {"covariance": [], "area": []}
        for mode in MODES:
            found = LocalPrediction.from_matrices(
                bent, noisy, learning_rate=rate, batch_size=config["batch_size"], samples=len(data.inputs),
                weight_decay=config["weight_decay"], sampling=mode, directions=directions,
            )  # fmt: skip
            rows["covariance"].append(found.covariance)
            rows["area"].append(found.area(lags_in_steps(config, rate)))
        for name, values in rows.items():
            tables[name].append(np.stack(values))
        seen["hessian"].append(directions @ bent @ directions.T + config["weight_decay"] * np.eye(len(directions)))
        seen["noise"].append(directions @ noisy @ directions.T)
        seen["unseen"].append(found.unseen)
        seen["unstable"].append(found.unstable)
    progress(1, 1)
    pair_of = ("direction", "direction_2")
    return xr.Dataset(
        {
            "end": ("weight", sgd.weights),
            "mean": ("weight", means),
            "directions": (("direction", "weight"), directions),
            "covariance": (("kind", "mode", *pair_of), np.stack(tables["covariance"])),
            "area": (("kind", "mode", "lag", *pair_of), np.stack(tables["area"])),
            "hessian": (("kind", *pair_of), np.stack(seen["hessian"])),
            "noise": (("kind", *pair_of), np.stack(seen["noise"])),
            "unseen": (("kind", "direction"), np.stack(seen["unseen"])),
            "unstable": ("kind", seen["unstable"]),
        },
        coords={"kind": list(KINDS), "mode": list(MODES), "lag": list(config["area_lags"])},
        attrs={"noise_trace": float(np.trace(noise)), "learning_rate": rate},
    )


def slopes(data: Split, decay: float, activation: str = "relu") -> Callable[[Array], tuple[float, Array]]:
    """w → (f(w), ∇f(w)) in NumPy, weight decay included."""
    model = model_at(start_weights(0), activation)

    def found(weights: Array) -> tuple[float, Array]:
        vector_to_parameters(torch.from_numpy(np.array(weights)), model.parameters())
        value = _LOSS(model(data.inputs), data.targets)
        parts = torch.autograd.grad(value, list(model.parameters()))
        slope = parameters_to_vector(parts).numpy() + decay * weights
        return float(value.detach()) + 0.5 * decay * float(weights @ weights), slope

    return found


def curvature_of_slopes(
    f: Callable[[Array], tuple[float, Array]], weights: Array, axes: Array, step: float | Array
) -> Array:
    """H from ∇f at ±step along orthonormal rows `axes`, symmetric: the jumps of ∇f that lie between are counted.

    `step` is one for all or one for each. The mean over iterates is E ∂²f with the kinks of ReLU in it, smoothed along
    each axis over ±step; the loss of a ReLU network is less steep to autograd, for which a kink has no curvature.
    """
    steps = np.broadcast_to(step, len(axes))
    rows = np.stack([(f(weights + s * axis)[1] - f(weights - s * axis)[1]) / (2 * s) for s, axis in zip(steps, axes)])
    found = axes.T @ rows
    return (found + found.T) / 2


def measured_run(
    config: Config, data: Split, pilot: xr.Dataset, seed: int, mode: str, folder: Path, progress: Progress
) -> xr.Dataset:
    """The run from the pilot's end, compared with both predictions; conditional f along its directions.

    Over kind and direction ``ratio`` of measured to predicted variance with ``ratio_error``; over kind and lag
    ``slope``, ``slope_error``, ``correlation`` and ``p_value``; ``area`` and its error at the first lag.
    ``density`` (direction, bin) −T log p of the projection, ``loss`` the mean of f over iterates in the bin; with
    replacement what `seen_shift` finds in at most 500 of the iterates, and their ``mean``.
    """
    rate = pilot.attrs["learning_rate"]
    every = spacing(config, rate)
    steps = round(config["run_time"] / rate) // every * every
    sgd = walker(config, data, pilot["end"].values, rate, 100 * seed + 2, mode)
    sgd.run(max(1, steps // 50))  # the change of sampling, where there is one, is forgotten
    directions = pilot["directions"].values
    run = trajectory(
        sgd, steps, directions, every=every, snapshot_every=max(1, steps // config["losses"]), folder=folder,
        progress=progress,
    )  # fmt: skip
    found: dict[str, list] = {name: [] for name in ("ratio", "ratio_error", "slope", "slope_error", "correlation")}
    expected = []
    for kind in KINDS:
        predicted = pilot.sel(kind=kind, mode=mode)
        both = compared(
            run, predicted["covariance"].values, predicted["area"].values, config["area_lags"],
            burn_in=0, blocks=config["blocks"], seed=seed,
        )  # fmt: skip
        for name, values in found.items():
            values.append(both[name].values)
        expected.append(both["expected"].values)
    result = xr.Dataset(
        {
            name: (("kind", "direction" if name.startswith("ratio") else "lag"), np.stack(values))
            for name, values in found.items()
        },
        coords={"kind": list(KINDS), "lag": list(config["area_lags"])},
    )
    pair = ("lag", "direction", "direction_2")
    result["variance"], result["variance_error"] = both["variance"], both["variance_error"]
    result["area"] = (pair, both["area_production"].values)
    result["area_error"] = (pair, both["area_production_error"].values)
    result["expected_area"] = (("kind", *pair), np.stack(expected))
    result["p_value"] = ("lag", both["p_value"].values)
    result["overall_p_value"] = ((), float(both["overall_p_value"]))
    states = run["state"].values[0]
    halves = np.stack([part.mean(axis=0) for part in np.array_split(states, 2)])
    result["drift"] = ("direction", np.abs(halves[1] - halves[0]) / states.std(axis=0))
    weights = run["weights"].values
    if mode == MODES[0]:
        f, some = slopes(data, config["weight_decay"], config["activation"]), weights[:: -(-len(weights) // _SHIFTS)]
        generator = np.random.default_rng([seed, 29])
        result = result.merge(seen_shift(lambda w: f(w)[1], some, directions, config["blocks"], generator))
        result["mean"] = ("weight", some.mean(axis=0))
    densities = _conditional(config, data, weights, states, directions, result["variance"].values, rate)
    return result.merge(densities).assign_attrs(steps=steps, every=every, states=len(states))


def losses_at(data: Split, weights: Array, decay: float, activation: str = "relu") -> Array:
    """f(w) = mean cross-entropy + λ|w|²/2 at each row."""
    model, found = model_at(weights[0], activation), []
    with torch.no_grad():
        for row in weights:
            vector_to_parameters(torch.from_numpy(row.copy()), model.parameters())
            found.append(float(_LOSS(model(data.inputs), data.targets)) + 0.5 * decay * float(row @ row))
    return np.array(found)


def _conditional(config: Config, data: Split, weights: Array, states: Array, directions: Array, variance, rate: float):
    """−T log p of each projection, and f averaged over the iterates in its bins (not along a line)."""
    temperature = rate / (2 * config["batch_size"])
    values = losses_at(data, weights, config["weight_decay"], config["activation"])
    centre, width = states.mean(axis=0), np.sqrt(variance)
    z, at = (states - centre) / width, (weights @ directions.T - centre) / width
    density, loss, error = (np.full((len(directions), len(_BINS) - 1), np.nan) for _ in range(3))
    steepness = np.empty((len(directions), 2))
    for k in range(len(directions)):
        counts = np.histogram(z[:, k], _BINS)[0]
        with np.errstate(divide="ignore"):
            density[k] = np.where(counts >= 20, -temperature * np.log(np.maximum(counts, 1) / counts.max()), np.nan)
        which = np.digitize(at[:, k], _BINS) - 1
        for b in range(len(_BINS) - 1):
            inside = values[which == b]
            if len(inside) >= 5:
                loss[k, b], error[k, b] = inside.mean(), inside.std(ddof=1) / np.sqrt(len(inside))
        # E[f|c] = const + slope·c + κc²/2, by least squares over all iterates
        design = np.stack([np.ones(len(at)), at[:, k], at[:, k] ** 2 / 2], axis=1)
        fitted, _, _, _ = np.linalg.lstsq(design, values, rcond=None)
        spread = np.sqrt(np.mean((values - design @ fitted) ** 2) * np.linalg.inv(design.T @ design)[2, 2])
        steepness[k] = fitted[2] / variance[k], spread / variance[k]
    over = ("direction", "bin")
    return xr.Dataset(
        {
            "density": (over, density),
            "loss": (over, loss),
            "loss_error": (over, error),
            "loss_curvature": ("direction", steepness[:, 0]),
            "loss_curvature_error": ("direction", steepness[:, 1]),
        },
        coords={"bin": (_BINS[1:] + _BINS[:-1]) / 2},
    )
