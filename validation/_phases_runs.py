"""The runs of the phases: gradients, curvature, memory of the start and information along each, on one schedule."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import vector_to_parameters

from .data import Split, load
from .information import NORMAL, binned_information, kernel_information, sampled_information
from .recording import Recorder, When, recorder
from .training import train_sgd

ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU}
NARROW = ("tanh", "relu", "decay", "descent")  # tanh with weight decay, tanh by gradient descent
SATURATED = 0.95
ESTIMATORS = ("bins", "bins before", "pairs, low", "pairs, high", "drawn", "drawn, relative")
QUANTITIES = ("inputs", "labels")


def connected(inputs: int, hidden: Sequence[int], classes: int, activation: str, seed: int) -> nn.Sequential:
    """Fully connected, no batch norm, PyTorch's initial weights drawn from `seed`; the global stream stays."""
    parts: list[nn.Module] = [nn.Flatten()]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for size in hidden:
            parts += [nn.Linear(inputs, size, dtype=torch.float64), ACTIVATIONS[activation]()]
            inputs = size
        return nn.Sequential(*parts, nn.Linear(inputs, classes, dtype=torch.float64))


def data_of(config: Mapping[str, Any], kind: str, seed: int) -> Split:
    """The same split for all seeds; with labels at random, "random-S", each seed has a split and labels of its own."""
    options: dict[str, Any] = {} if config["data"] == "digits" else {"directory": config["directory"]}
    if not kind.startswith("random"):
        return load(config["data"], seed=0, **options, **({"samples": config["samples"]} if config["samples"] else {}))
    split = load(config["data"], seed=seed, samples=config["label_samples"], **options)
    classes = int(split.targets.max()) + 1
    share = share_of(kind) * (classes - 1) / classes  # one in `classes` draws the label it had
    return load(config["data"], seed=seed, samples=config["label_samples"], label_noise=share, **options)


def share_of(kind: str) -> float:
    """S of "random-S": the share of the training labels that are drawn anew, all classes alike."""
    return float(kind.removeprefix("random-"))


def settings_of(config: Mapping[str, Any], kind: str, count: int) -> dict[str, Any]:
    """Network and training of a kind: hidden, activation, learning_rate, batch_size, weight_decay, steps, per_epoch."""
    wide = kind.startswith("random")
    size = min(config["label_batch_size" if wide else "batch_size"], count)
    per_epoch = -(-count // size)
    return {
        "hidden": config["wide" if wide else "hidden"],
        "activation": "relu" if wide or kind == "relu" else "tanh",
        "learning_rate": config[
            "label_learning_rate" if wide else "relu_learning_rate" if kind == "relu" else "learning_rate"
        ],
        "batch_size": count if kind == "descent" else size,
        "noise_size": size,
        "weight_decay": config["decay"] if kind == "decay" else 0.0,
        "steps": per_epoch * config["label_epochs" if wide else "epochs"],
        "per_epoch": per_epoch,
    }


def record_steps(steps: int, records: int) -> NDArray[np.int64]:
    """0, and whole numbers from 1 to the last step, even in their logarithm."""
    return np.unique(np.concatenate([[0], np.rint(np.geomspace(1, steps, records)).astype(np.int64)]))


def followed(
    config: Mapping[str, Any],
    kind: str,
    seed: int,
    folder: Path,
    progress: Callable[[int, int], object] | None = None,
) -> xr.Dataset:
    """One run of a kind, measured at `record_steps`; gone on with from `folder` if interrupted.

    Over `step`: loss, accuracy, test_accuracy, `statistics` (step, layer, 4) as of "gradient_statistics" at the batch
    size of the settings, also for gradient descent; `distance`, `norm`, `cosine` w·w₀/(|w||w₀|), `projection`
    w·w₀/|w₀|². Over `sharp_step`, `sharpness` λ_max. Of narrow networks over `plane_step`: `information`
    (plane_step, hidden, quantity, estimator), `drawn_error` and `saturated` (plane_step, hidden).
    """
    data = data_of(config, kind, seed)
    made = settings_of(config, kind, len(data.inputs))
    classes = int(max(data.targets.max(), data.test_targets.max())) + 1
    model = connected(int(np.prod(data.inputs.shape[1:])), made["hidden"], classes, made["activation"], seed)
    when = record_steps(made["steps"], config["records"])
    run = train_sgd(
        model, data.inputs, data.targets, steps=made["steps"], learning_rate=made["learning_rate"],
        batch_size=made["batch_size"], sampling="without_replacement" if kind == "descent" else "reshuffling",
        weight_decay=made["weight_decay"], seed=seed, test=(data.test_inputs, data.test_targets),
        recorders=_recorders(when, made["noise_size"], config), checkpoint=folder, progress=progress,
    ).load()  # fmt: skip
    found: dict[str, Any] = {
        name: ("step", run[name].values) for name in ("loss", "accuracy", "test_accuracy")
    } | {"statistics": (("step", "layer", "statistic"), run["gradient_statistics"].values)}  # fmt: skip
    found |= _from_start(run["weights"].values)
    found["sharpness"] = ("sharp_step", run["hessian_eigenvalues"].values[:, 0])
    coords: dict[str, Any] = {"step": when, "sharp_step": run["hessian_eigenvalues_step"].values}
    if kind in NARROW:
        chosen = np.unique(np.append(np.arange(0, len(when), config["plane_every"]), len(when) - 1))
        n = min(config["plane_samples"], len(data.inputs))
        plane, error, saturated = information_along(
            model, run["weights"].values[chosen], data.inputs[:n], data.targets[:n], made["activation"], config
        )
        found["information"] = (("plane_step", "hidden", "quantity", "estimator"), plane)
        found["drawn_error"] = (("plane_step", "hidden"), error)
        found["saturated"] = (("plane_step", "hidden"), saturated)
        p = np.bincount(data.targets[:n].numpy()) / n
        entropy = float(-(p[p > 0] * np.log2(p[p > 0])).sum())
        made |= {"plane_samples": n, "label_entropy": entropy}
        coords |= {"plane_step": when[chosen], "quantity": list(QUANTITIES), "estimator": list(ESTIMATORS)}
    facts = {name: value for name, value in made.items() if name != "hidden"}
    return xr.Dataset(
        found, coords,
        {**facts, "hidden": list(made["hidden"]), "samples": len(data.inputs), "test_samples": len(data.test_inputs),
         "weights": run.sizes["weight"], "classes": classes},
    )  # fmt: skip


def _recorders(when: NDArray[np.int64], size: int, config: Mapping[str, Any]) -> list[Recorder]:
    all_, few = When.at(steps=when), When.at(steps=when[:: config["sharp_every"]])
    return [
        recorder("loss", all_), recorder("accuracy", all_), recorder("weights", all_),
        recorder("accuracy", all_, name="test_accuracy", part="test"),
        recorder("gradient_statistics", all_, batch_size=size),
        recorder("hessian_eigenvalues", few, count=1, tolerance=1e-3),
    ]  # fmt: skip


def _from_start(weights: NDArray[np.float64]) -> dict[str, tuple[str, NDArray[np.float64]]]:
    start = weights[0]
    norm, along = np.linalg.norm(weights, axis=1), weights @ start
    return {
        "distance": ("step", np.linalg.norm(weights - start, axis=1)),
        "norm": ("step", norm),
        "cosine": ("step", along / (norm * norm[0])),
        "projection": ("step", along / norm[0] ** 2),
    }


def activations(model: nn.Sequential, weights: NDArray, inputs: Tensor) -> list[tuple[NDArray, NDArray]]:
    """(before, after) the nonlinearity of every hidden layer, (samples, units) each, at `weights` (d,)."""
    vector_to_parameters(torch.from_numpy(weights.copy()), model.parameters())
    found, x = [], inputs
    with torch.no_grad():
        for layer in model:
            before, x = x, layer(x)
            if isinstance(layer, tuple(ACTIVATIONS.values())):
                found.append((before.numpy(), x.numpy()))
    return found


def information_along(
    model: nn.Sequential, weights: NDArray, inputs: Tensor, targets: Tensor, activation: str, config: Mapping[str, Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """(time, hidden, quantity, estimator) bits; of (time, hidden) the standard error of the drawn I(X;T), and the share
    of |tanh| above 0.95 (relu: 0).

    "bins": 30 of them, or as set, on (−1, 1) for tanh, for relu on the range of the layer over the run. "bins before":
    of what goes into the nonlinearity, on its range at the time. "pairs", "drawn": with noise of the deviation that is
    set, "relative": of that share of the layer's own deviation at the time.
    """
    copied = copy.deepcopy(model)
    layers = [activations(copied, w, inputs) for w in weights]
    labels, bins, sigma = targets.numpy(), config["bins"], config["noise"]
    top = [max(float(time[k][1].max()) for time in layers) for k in range(len(layers[0]))]
    found = np.empty((len(weights), len(top), len(QUANTITIES), len(ESTIMATORS)))
    error, saturated = np.zeros((2, *found.shape[:2]))
    for t, time in enumerate(layers):
        for k, (before, after) in enumerate(time):
            bounds = (-1.0, 1.0) if activation == "tanh" else (0.0, max(top[k], 1e-12))
            deviation = float(np.sqrt(after.var(axis=0).mean()))
            pairs = kernel_information(after, labels, noise=sigma)
            drawn = sampled_information(after, labels, noise=sigma, draws=2, seed=t)
            relative = sampled_information(after, labels, noise=max(sigma * deviation, 1e-12), draws=2, seed=t)
            plain = binned_information(after, labels, bins=bins, bounds=bounds)
            inner = binned_information(before, labels, bins=bins)
            for q, name in enumerate(QUANTITIES):
                found[t, k, q] = (
                    getattr(plain, name).low, getattr(inner, name).low, getattr(pairs, name).low,
                    getattr(pairs, name).high, getattr(drawn, name).middle, getattr(relative, name).middle,
                )  # fmt: skip
            error[t, k] = (drawn.inputs.high - drawn.inputs.low) / (2 * NORMAL)
            if activation == "tanh":
                saturated[t, k] = float((np.abs(after) > SATURATED).mean())
    return found, error, saturated
