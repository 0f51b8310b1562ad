"""Networks of `potential-vs-loss` that run as replicas side by side: batch norm, and convolutions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import vmap
from torch.nn.utils import parameters_to_vector, vector_to_parameters

import sde_sgd as sde

from ._training_mode import forget_running_statistics
from .curvature import Curvature
from .data import Split
from .ensembles import ensemble
from .gradient_noise import GradientNoise
from .local_prediction import LocalPrediction, compared
from .networks import network

Array = NDArray[np.float64]
Config = Mapping[str, Any]
Progress = Callable[[float, float], object]
KINDS = {
    "batch norm": ("full statistics", "D of mini-batches", "H and D of mini-batches"),
    "convolutions": ("at the mean",),
}
_LOSS = nn.CrossEntropyLoss()
CURVED, NOISY = 1000, 16_000  # mini-batches whose mean has H, and whose covariance has D
_STATES = 5  # spacings between the states that are kept
_MEANS = 50  # saves of the weights in a pilot


class Patches(nn.Module):
    """The patches of images, (n, positions, channels · size²): with a Linear after it, a convolution without padding.

    As products of matrices replicas of small convolutions take a quarter of the time that grouped convolutions take.
    """

    index: Tensor

    def __init__(self, channels: int, side: int, size: int, stride: int = 1):
        super().__init__()
        numbers = torch.arange(channels * side * side).reshape(channels, side, side)
        windows = numbers.unfold(1, size, stride).unfold(2, size, stride)  # (channels, rows, columns, size, size)
        self.register_buffer("index", windows.permute(1, 2, 0, 3, 4).reshape(-1, channels * size * size))

    def forward(self, images: Tensor) -> Tensor:
        """Gathers; images of any shape (n, …) with channels · side² numbers each."""
        return images.flatten(1)[:, self.index]


class Batches(nn.Module):
    """A network with batch norm as a function of whole mini-batches (n, b, …): each with its own statistics."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        forget_running_statistics(self.model)

    def forward(self, batches: Tensor) -> Tensor:
        """(n, b, classes)."""
        return vmap(self.model)(batches)


def build(name: str, seed: int) -> nn.Sequential:
    """tiny-fc with batch norm (917 weights), or 3 × 3 convolutions to 6 (stride 2) and 8 channels, ReLU (545)."""
    if name == "batch norm":
        return network("tiny-fc", (1, 7, 7), 5, batch_norm=True, seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            Patches(1, 7, 3, 2), nn.Linear(9, 6), nn.ReLU(), nn.Flatten(), nn.Linear(54, 8), nn.ReLU(), nn.Linear(8, 5)
        ).double()


def start_weights(name: str, config: Config, data: Split, seeds: Sequence[int], progress: Progress) -> xr.Dataset:
    """Burn-in of all seeds side by side at the largest η: ``weights`` (seed, weight)."""
    rate = max(config["learning_rates"])
    first = np.stack([parameters_to_vector(build(name, seed).parameters()).detach().numpy() for seed in seeds])
    steps = max(1, round(config["ensemble_burn_in_time"] / rate))
    run = _run(name, config, data, first, rate, steps, seeds[0], progress=progress)
    return xr.Dataset({"weights": (("seed", "weight"), run["weights"].values[:, -1])})


def pilot(name: str, config: Config, data: Split, start: Array, rate: float, seed: int, progress: Progress):
    """Replicas from each start (seed, weight): settle, then the mean w̄ of each seed, with what H and D at w̄ predict.

    ``directions`` (seed, direction, weight), steepest of H at w̄ (statistics of all samples), ``covariance`` and
    ``area`` (seed, kind, …) along them, ``unstable`` (seed, kind), ``end`` (replica, weight).
    """
    replicas = config["replicas"]
    steps = max(_MEANS, round(0.5 * config["domain_time"] / replicas / rate))
    every = max(1, steps // _MEANS)
    settled = -(-steps // every)  # as many steps again, in whole spacings
    run = _run(
        name, config, data, np.repeat(start, replicas, axis=0), rate, (settled + _MEANS) * every, seed,
        save_every=every, progress=lambda done, total: progress(0.6 * done / total, 1),
    )  # fmt: skip
    weights = run["weights"].values.reshape(len(start), replicas, -1, start.shape[1])
    rows: dict[str, list] = {key: [] for key in ("mean", "directions", "covariance", "area", "unstable", "noise")}
    for number, own in enumerate(weights):
        mean = own[:, settled + 1 :].mean(axis=(0, 1))
        found = _predictions(name, config, data, mean, rate, seed + number)
        for key, value in (found | {"mean": mean}).items():
            rows[key].append(value)
        progress(0.6 + 0.4 * (number + 1) / len(weights), 1)
    dims = {
        "mean": ("weight",), "directions": ("direction", "weight"), "noise": ("kind",), "unstable": ("kind",),
        "covariance": ("kind", "direction", "direction_2"), "area": ("kind", "lag", "direction", "direction_2"),
    }  # fmt: skip
    result = xr.Dataset(
        {key: (("seed", *dims[key]), np.stack(values)) for key, values in rows.items()},
        coords={"kind": list(KINDS[name]), "lag": [int(lag) for lag in config["area_lags"]]},
        attrs={"learning_rate": rate},
    )
    return result.assign(end=(("replica", "weight"), run["weights"].values[:, -1]))


def measured(name: str, config: Config, data: Split, pilots: xr.Dataset, seed: int, progress: Progress) -> xr.Dataset:
    """The replicas go on from the pilot's end; over seed and kind the ratios and slopes of `LocalPrediction.compare`.

    ``drift`` as in the other runs: between the means of both halves, in standard deviations.
    """
    rate, every = pilots.attrs["learning_rate"], states_every(config, pilots.attrs["learning_rate"])
    states = max(64, round(config["domain_time"] / config["replicas"] / rate / every))
    directions = pilots["directions"].values
    seeds, k, _ = directions.shape
    along = torch.from_numpy(directions.reshape(seeds * k, -1).copy())
    run = _run(
        name, config, data, pilots["end"].values, rate, states * every, seed, save_every=every,
        observe=lambda predict, weights: along @ weights, progress=progress,
    )  # fmt: skip
    shown = run["observed"].values[:, 1:].reshape(seeds, config["replicas"], states, seeds, k)
    rows: dict[str, list] = {
        key: [] for key in ("ratio", "ratio_error", "slope", "slope_error", "correlation", "drift")
    }
    for number in range(seeds):
        own = shown[number, :, :, number]
        trajectory = xr.Dataset(
            {"state": (("replica", "time", "variable"), own)},
            {"time": rate * every * np.arange(1, states + 1), "variable": [f"direction_{i}" for i in range(k)]},
        )
        each = [
            compared(
                trajectory, table["covariance"].values, table["area"].values, config["area_lags"],
                burn_in=0, blocks=config["blocks"], seed=seed,
            )
            for table in (pilots.isel(seed=number, kind=j) for j in range(pilots.sizes["kind"]))
        ]  # fmt: skip
        for key in ("ratio", "ratio_error", "slope", "slope_error", "correlation"):
            rows[key].append(np.stack([found[key].values for found in each]))
        halves = [part.mean(axis=(0, 1)) for part in np.array_split(own, 2, axis=1)]
        rows["drift"].append(np.abs(halves[1] - halves[0]) / own.std(axis=(0, 1)))
    inner = {"ratio": ("kind", "direction"), "ratio_error": ("kind", "direction"), "drift": ("direction",)}
    return xr.Dataset(
        {key: (("seed", *inner.get(key, ("kind", "lag"))), np.stack(values)) for key, values in rows.items()},
        coords={"kind": list(KINDS[name]), "lag": list(config["area_lags"])},
    )


def states_every(config: Config, rate: float) -> int:
    """Steps between states, about as far apart in time at every η."""
    return _STATES * max(1, round(max(config["learning_rates"]) / rate))


def _run(
    name: str, config: Config, data: Split, start: Array, rate: float, steps: int, seed: int, **more
) -> xr.Dataset:
    settings = {"learning_rate": rate, "batch_size": config["batch_size"], "weight_decay": config["weight_decay"]}
    return ensemble(
        build(name, 0), data.inputs, data.targets, replicas=len(start), steps=steps, start=start, seed=seed,
        **settings, **more,
    )  # fmt: skip


def matrices(name: str, config: Config, data: Split, mean: Array, seed: int) -> list[tuple[Array, Array]]:
    """(H, D) of each kind at these weights, decay not included."""
    model, pair = build(name, 0), (data.inputs, data.targets)
    vector_to_parameters(torch.from_numpy(mean.copy()), model.parameters())
    statistics = "full" if name == "batch norm" else "eval"
    hessian = Curvature(model, _LOSS, pair, statistics=statistics).matrix()
    noise = GradientNoise(model, _LOSS, pair, statistics=statistics).matrix()
    if name != "batch norm":
        return [(hessian, noise)]
    b = config["batch_size"]
    real = GradientNoise(
        model, _LOSS, pair, statistics="minibatch", batch_size=b, batches=NOISY, seed=seed
    ).matrix()  # fmt: skip
    picks = torch.from_numpy(sde.sample_indices(len(data.inputs), batch_size=b, steps=CURVED, seed=seed))
    batches = (data.inputs[picks], data.targets[picks])
    curved = Curvature(Batches(model), _loss_of_batches, batches).matrix()
    return [(hessian, noise), (hessian, real), (curved, real)]


def _loss_of_batches(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())


def _predictions(name: str, config: Config, data: Split, mean: Array, rate: float, seed: int) -> dict[str, Array]:
    """What each kind of H and D says along the steepest directions of the first H."""
    pairs = matrices(name, config, data, mean, seed)
    directions = np.linalg.eigh(pairs[0][0])[1].T[::-1][: config["directions"]].copy()
    lags = np.array([int(lag) for lag in config["area_lags"]]) * states_every(config, rate)
    each = [
        LocalPrediction.from_matrices(
            hessian, noise, learning_rate=rate, batch_size=config["batch_size"], weight_decay=config["weight_decay"],
            directions=directions,
        )
        for hessian, noise in pairs
    ]  # fmt: skip
    return {
        "directions": directions,
        "covariance": np.stack([found.covariance for found in each]),
        "area": np.stack([found.area(lags) for found in each]),
        "unstable": np.array([found.unstable for found in each]),
        "noise": np.array([np.trace(noise) for _, noise in pairs]),
    }
