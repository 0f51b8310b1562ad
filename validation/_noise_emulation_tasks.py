"""Tasks and networks by the spectrum of D: pairs of digits, and four architectures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import nn

from . import diffusion_matrix
from .data import load
from .gradient_noise import GradientNoise
from .networks import network
from .one_hidden_layer import OneHiddenLayer

PAIRS = ((0, 1), (0, 6), (1, 7), (1, 8), (2, 7), (3, 5), (3, 8), (3, 9), (4, 6), (4, 9), (5, 9), (8, 9))
_KEPT = 12  # eigenvalues that stand for a spectrum
_SIZE, _WIDTH = 7, 0.5
_RATE, _BATCH = 0.1, 8
FEATURES = ("trace", "participation_ratio", "stable_rank", "entropy_rank")


def pairs(config: Mapping[str, Any], seed: int, progress: Callable[[int, int], object]) -> xr.Dataset:
    """A small network on each pair of digits: over `pair` the spectrum of D after equal training, and how it went.

    `eigenvalues` (pair, index), the ranks of `rank_measures`, `loss` on all training samples and `test_error`. D in
    float64 on all training samples.
    """
    rows = []
    for pair in PAIRS:
        split = load("digits", size=_SIZE, classes=pair, seed=seed, test_fraction=0.5)
        model = network("tiny-fc", split.inputs.shape[1:], 2, width=_WIDTH, seed=seed)
        walker = OneHiddenLayer(model, split.inputs, split.targets, learning_rate=_RATE, batch_size=_BATCH, seed=seed)
        walker.run(config["pair_steps"])
        walker.load_into(model)
        rows.append(described(model, (split.inputs, split.targets), (split.test_inputs, split.test_targets)))
        progress(len(rows), len(PAIRS))
    found = {name: ("pair", [row[name] for row in rows]) for name in rows[0] if name != "eigenvalues"}
    values = np.array([row["eigenvalues"] for row in rows])
    return xr.Dataset({**found, "eigenvalues": (("pair", "index"), values)}, {"pair": [f"{a}–{b}" for a, b in PAIRS]})


def described(model: nn.Module, train, test) -> dict[str, Any]:
    """Spectrum and ranks of D, training loss and test error at the model's weights."""
    noise = GradientNoise(model, nn.CrossEntropyLoss(), train)
    ranks = noise.ranks()
    values = noise.spectrum()
    with torch.no_grad():
        loss = float(nn.functional.cross_entropy(model(train[0]), train[1]))
        error = 1.0 - float((model(test[0]).argmax(1) == test[1]).double().mean())
    numbers = {name: float(ranks[name]) for name in FEATURES[1:]}
    return {"eigenvalues": values[:_KEPT], "trace": float(values.sum()), **numbers, "loss": loss, "test_error": error}


def architectures(config: Mapping[str, Any], seed: int, progress: Callable[[int, int], object]) -> xr.Dataset:
    """The networks of `diffusion-matrix` after equal training, over `network`: spectrum of D, its ranks, test error.

    `score` rank(D)/d + var λ(D), which the source proposes, with the rank that float32 gives, as it was published.
    """
    asked = {
        "data": "digits", "directory": "", "device": "cpu", "seed": seed, "stages": [1.0],
        "samples": config["architecture_samples"], "epochs": config["architecture_epochs"],
        "learning_rate": 0.02, "batch_size": 32, "momentum": 0.9,
    }  # fmt: skip
    rows = []
    for name in config["architectures"]:
        last = diffusion_matrix.spectra(name, asked).isel(stage=-1)
        size = last.attrs["parameters"]
        row = {key: float(last[key]) for key in (*FEATURES, "loss", "rank_float32", "rank_float64")}
        row |= {"test_error": 1.0 - float(last["test_accuracy"]), "parameters": float(size)}
        row |= {"variance": float(last["std_eigenvalue"]) ** 2, "mean_eigenvalue": float(last["mean_eigenvalue"])}
        row["score"] = row["rank_float32"] / size + row["variance"]
        rows.append(row | {"eigenvalues": last["eigenvalues"].values[:_KEPT]})
        progress(len(rows), len(config["architectures"]))
    found = {name: ("network", [row[name] for row in rows]) for name in rows[0] if name != "eigenvalues"}
    values = np.array([row["eigenvalues"] for row in rows])
    return xr.Dataset(
        {**found, "eigenvalues": (("network", "index"), values)}, {"network": list(config["architectures"])}
    )


def recognised(spectra: NDArray[np.float64]) -> NDArray[np.float64]:
    """(seeds,) the share of tasks of one seed whose nearest mean spectrum of the other seeds, in ln λ, is their own.

    `spectra` (seeds, tasks, eigenvalues); by chance 1/tasks.
    """
    logs = np.log(np.maximum(spectra, 1e-300))
    shares = []
    for seed in range(len(logs)):
        others = np.delete(logs, seed, axis=0).mean(0)
        apart = ((logs[seed][:, None] - others[None]) ** 2).sum(-1)
        shares.append(float((apart.argmin(1) == np.arange(len(others))).mean()))
    return np.array(shares)
