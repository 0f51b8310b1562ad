"""The runs on digits: batch size against learning rate, linear scaling, ways of sampling, and noise made to order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils import vector_to_parameters

from sde_sgd.errors import Diverged

from .curvature import Curvature
from .data import Split, load
from .fisher_rao import fisher_rao_norm
from .gradient_noise import GradientNoise
from .measures_kernels import recorded_trajectory
from .networks import network
from .noisy_descent import NoisyDescent, trained
from .one_hidden_layer import OneHiddenLayer
from .recording import When, recorder
from .stability import stability_radius

MODES = ("with_replacement", "without_replacement", "reshuffling")
QUANTITIES = ("loss", "error", "test_loss", "test_error")
_RECORDS = 25
Config = Mapping[str, Any]


def seeds_of(config: Config) -> range:
    """The seeds of the replicas."""
    return range(config["seed"], config["seed"] + config["seeds"])


def data_of(config: Config, seed: int, label_noise: float | None = None) -> Split:
    """A split of its own for each seed, labels of the training part wrong as often as asked; inputs are rows."""
    options: dict[str, Any] = {"label_noise": config["label_noise"] if label_noise is None else label_noise}
    if config["data"] == "digits":
        options["test_fraction"] = 0.5
    else:
        options["directory"] = config["directory"]
    split = load(config["data"], seed=seed, samples=config["samples"], **options)
    return split._replace(inputs=split.inputs.flatten(1), test_inputs=split.test_inputs.flatten(1))


def model_of(config: Config, split: Split, seed: int) -> nn.Sequential:
    """One hidden layer, its weights drawn from `seed`."""
    classes = int(max(split.targets.max(), split.test_targets.max())) + 1
    return network("tiny-fc", split.inputs.shape[1:], classes, width=config["hidden"] / 16, seed=seed)


def stacked(config: Config, label_noise: float | None = None):
    """Network, weights at the start, training and test data of all seeds, (seeds, …) each."""
    splits = [data_of(config, seed, label_noise) for seed in seeds_of(config)]
    models = [model_of(config, split, seed) for seed, split in zip(seeds_of(config), splits)]
    start = torch.stack([torch.cat([p.detach().flatten() for p in model.parameters()]) for model in models])
    parts = [torch.stack([split[k] for split in splits]) for k in range(4)]
    return models[0], start.numpy(), (parts[0], parts[1]), (parts[2], parts[3])


def record_steps(time: float, rate: float) -> NDArray[np.int64]:
    """The steps nearest to 25 times η·steps that fall like a geometric series to `time`/1000, and step 0."""
    steps = np.rint(np.geomspace(1e-3, 1.0, _RECORDS - 1) * time / rate).astype(np.int64)
    return np.unique(np.concatenate([[0], np.maximum(steps, 1)]))


def late_steps(time: float, rate: float) -> NDArray[np.int64]:
    """Ten steps spread over the last quarter, whose mean stands for the end of a run."""
    return np.unique(np.rint(np.linspace(0.75, 1.0, 10) * time / rate).astype(np.int64))


def sgd_run(
    config: Config, split: Split, seed: int, rate: float, batch_size: int, sampling: str = MODES[0], time: float = 0.0
) -> xr.Dataset:
    """SGD over η·steps = `time`: over `record` each quantity at the time `t`, `late_…` of the last quarter, and at the
    end the largest eigenvalue of H, the squared Fisher–Rao norm and |w|. NaN after a divergence.
    """
    time = time or config["time"]
    model = model_of(config, split, seed)
    walker = OneHiddenLayer(model, split.inputs, split.targets, learning_rate=rate, batch_size=batch_size,
                            sampling=sampling, seed=seed)  # fmt: skip
    marks, last = record_steps(time, rate), late_steps(time, rate)
    when = When.at(steps=np.union1d(marks, last))
    asked = [
        recorder("loss", when), recorder("accuracy", when, name="error"),
        recorder("loss", when, name="test_loss", part="test"),
        recorder("accuracy", when, name="test_error", part="test"),
    ]  # fmt: skip
    try:
        found = recorded_trajectory(walker, int(marks[-1]), asked, test=(split.test_inputs, split.test_targets))
    except Diverged:
        empty: dict[str, Any] = {name: ("record", np.full(_RECORDS, np.nan)) for name in (*QUANTITIES, "t")}
        ends = (*(f"late_{name}" for name in QUANTITIES), "sharpness", "fisher_rao", "norm")
        return xr.Dataset(empty | {name: np.nan for name in ends})
    walker.load_into(model)
    values = {name: found[name].values if "loss" in name else 1 - found[name].values for name in QUANTITIES}
    return _kept(values, found["loss_step"].values, marks, last, rate).assign(_end(model, split))


def _kept(values: Mapping[str, NDArray], steps: NDArray, marks: NDArray, last: NDArray, rate: float) -> xr.Dataset:
    """The records at the marks, padded by the last one to a common length, and the means over the last quarter."""
    at, tail = np.searchsorted(steps, marks), np.searchsorted(steps, last)
    at = np.concatenate([at, np.full(_RECORDS - len(at), at[-1])])
    found: dict[str, Any] = {name: ((*_lead(value), "record"), value[..., at]) for name, value in values.items()}
    means = {f"late_{name}": (_lead(value), value[..., tail].mean(-1)) for name, value in values.items()}
    return xr.Dataset(found | means | {"t": ("record", rate * steps[at])})


def _lead(value: NDArray) -> tuple[str, ...]:
    return ("seed",) * (value.ndim - 1)


def _end(model: nn.Module, split: Split) -> dict[str, float]:
    """λ_max of H, ⟨w, Fw⟩ and |w| at the model's weights, over the training samples."""
    pair, loss = (split.inputs, split.targets), nn.CrossEntropyLoss()
    top = Curvature(model, loss, pair).spectrum(1, method="lanczos", tolerance=1e-3)[0]
    norm = torch.cat([p.detach().flatten() for p in model.parameters()]).norm()
    return {"sharpness": float(top), "fisher_rao": fisher_rao_norm(model, loss, pair), "norm": float(norm)}


# Stages ----------------------------------------------------------------------------------------------------------


def swept(config: Config, seed: int, progress: Callable[[int, int], object]) -> xr.Dataset:
    """SGD at every learning rate and batch size, equal η·steps: over (rate, batch, …)."""
    split = data_of(config, seed)
    rates, sizes = config["learning_rates"], config["batch_sizes"]
    rows = []
    for rate in rates:
        rows.append([sgd_run(config, split, seed, rate, size) for size in sizes])
        progress(len(rows), len(rates))
    return _grid(rows, {"rate": rates, "batch": sizes})


def scaled(config: Config, seed: int, progress: Callable[[int, int], object]) -> xr.Dataset:
    """SGD at constant η/b, equal η·steps and so equal epochs: over `batch`, with `rate`."""
    split, found = data_of(config, seed), []
    sizes = config["scaling_batches"]
    rates = [config["scaling_ratio"] * size for size in sizes]
    for size, rate in zip(sizes, rates):
        found.append(sgd_run(config, split, seed, rate, size))
        progress(len(found), len(sizes))
    return xr.concat(found, "batch").assign_coords(batch=sizes, rate=("batch", rates))


def sampled(config: Config, seed: int, progress: Callable[[int, int], object]) -> xr.Dataset:
    """SGD with mini-batches drawn in three ways, over `mode`; `clean` the same with replacement and no wrong labels."""
    split, found = data_of(config, seed), []
    rate, size = config["learning_rate"], config["batch_size"]
    for mode in MODES:
        found.append(sgd_run(config, split, seed, rate, size, mode))
        progress(len(found), 4)
    clean = sgd_run(config, data_of(config, seed, 0.0), seed, rate, size)
    result = xr.concat(found, "mode").assign_coords(mode=list(MODES))
    return result.assign(clean_test_error=clean["late_test_error"])


def _grid(rows: list[list[xr.Dataset]], coords: Mapping[str, Any]) -> xr.Dataset:
    one, other = coords
    return xr.concat([xr.concat(row, other) for row in rows], one).assign_coords(
        {k: list(v) for k, v in coords.items()}
    )


def emulated(
    config: Config,
    noise: str,
    progress: Callable[[int, int], object],
    *,
    factor: float = 1.0,
    label_noise: float | None = None,
    ends: bool = True,
) -> xr.Dataset:
    """Gradient descent on all samples with noise of one kind, of all seeds side by side, over (seed, …), as `sgd_run`.

    At η and b of the settings times `factor`, which leaves T = η/2b alone.
    """
    model, own, train, test = stacked(config, label_noise)
    rate, size = factor * config["learning_rate"], factor * config["batch_size"]
    more = {"subset": {"subset": config["subset"]}, "hessian": {"products": config["products"]}}.get(noise, {})
    descent = NoisyDescent(
        model, *train, noise=noise, learning_rate=rate, batch_size=size, replicas=len(own),
        start=own, seed=config["seed"], **more,
    )  # fmt: skip
    marks, last = record_steps(config["time"], rate), late_steps(config["time"], rate)
    run = trained(descent, np.union1d(marks, last), test, progress)
    values = {name: run[name].values for name in QUANTITIES}
    result = _kept(values, run["step"].values, marks, last, rate)
    result["weights"] = (("seed", "weight"), run["weights"].values)
    if ends:
        rows = []
        for k, weights in enumerate(run["weights"].values):
            vector_to_parameters(torch.from_numpy(weights.copy()), model.parameters())
            rows.append(_end(model, Split(train[0][k], train[1][k], test[0][k], test[1][k])))
        result = result.assign({name: ("seed", [row[name] for row in rows]) for name in rows[0]})
    return result.assign_attrs(run.attrs)


def radii(config: Config, weights: NDArray[np.float64], progress: Callable[[int, int], object]) -> xr.Dataset:
    """`stability_radius` of leading directions of H at the weights (seed, d), for the time of the runs: (seed, …)."""
    found, loss = [], nn.CrossEntropyLoss()
    for seed, row in zip(seeds_of(config), weights):
        split = data_of(config, seed)
        model = model_of(config, split, seed)
        vector_to_parameters(torch.from_numpy(row.copy()), model.parameters())
        pair = (split.inputs, split.targets)
        temperature = config["learning_rate"] / (2 * config["batch_size"])
        one = stability_radius(Curvature(model, loss, pair), GradientNoise(model, loss, pair), temperature,
                               config["time"], directions=config["directions"])  # fmt: skip
        found.append(one.drop_vars("vectors"))
        progress(len(found), len(weights))
    return xr.concat(found, "seed").assign_coords(seed=list(seeds_of(config)))
