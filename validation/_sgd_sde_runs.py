"""Runs of SGD and of its SDE on one network from one start, what is measured of them, and how far they are apart."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import vector_to_parameters

from sde_sgd._files import replacing
from sde_sgd.errors import Diverged

from .curvature import Curvature
from .data import Split, digits
from .ensembles import ensemble
from .gradient_noise import GradientNoise
from .network_sde import NetworkSDE
from .training import tiny_fc

SAMPLES = 721  # of the digits 0 to 4 that are trained on
SIGMAS = 4.0  # standard errors of a claim: 6e-5 of chance each, for some hundreds of them
QUANTITIES = ("loss", "distance")
SEEN = ("loss", "distance", "projection")
Problem = tuple[nn.Module, Tensor, Tensor]


@functools.lru_cache(maxsize=2)
def _digits(seed: int) -> Split:
    return digits(7, range(5), seed=seed)


def problem(config: Mapping[str, Any]) -> Problem:
    """tiny-fc with `hidden` units at its initialisation, and the first `samples` images."""
    data = _digits(config["seed"])
    model = tiny_fc(hidden=config["hidden"], seed=config["seed"])
    return model, data.inputs[: config["samples"]], data.targets[: config["samples"]]


def start_of(config: Mapping[str, Any]) -> xr.Dataset:
    """Weights after the warm-up, from which every run starts, with H, D and ∇f there in eigenvectors of H.

    ``curvature`` (eigenvector) eigenvalues of H + λ, descending, ``slope`` of f + λ|w|²/2, ``decay`` the part of λw in
    it, ``noise`` the diagonal of D; ``directions`` (direction, weight) the steepest.
    """
    model, inputs, targets = problem(config)
    decay, rate = config["weight_decay"], config["warm_up_rate"]
    steps = max(1, round(config["warm_up_time"] / rate))
    warm = ensemble(
        model, inputs, targets, replicas=1, steps=steps, learning_rate=rate, batch_size=min(16, len(inputs)),
        weight_decay=decay, compile=False, seed=config["seed"],
    )  # fmt: skip
    weights = warm["weights"].values[0, 0]
    vector_to_parameters(torch.from_numpy(weights.copy()), model.parameters())
    loss, pair = nn.CrossEntropyLoss(), (inputs, targets)
    values, vectors = np.linalg.eigh(Curvature(model, loss, pair).matrix())
    values, vectors = values[::-1] + decay, vectors[:, ::-1]
    noise = GradientNoise(model, loss, pair)
    slope = noise.mean_gradient()
    return xr.Dataset(
        {
            "start": ("weight", weights),
            "curvature": ("eigenvector", values),
            "noise": ("eigenvector", np.einsum("ij,ij->j", vectors, noise.matrix() @ vectors)),
            "slope": ("eigenvector", vectors.T @ (np.asarray(slope) + decay * weights)),
            "decay": ("eigenvector", decay * (vectors.T @ weights)),
            "directions": (("direction", "weight"), vectors.T[: config["directions"]]),
        },
        attrs={
            "samples": len(inputs), "parameters": weights.size, "weight_decay": decay,
            "trace": float(noise.trace()), "gradient": float(np.linalg.norm(slope)),
            "loss": float(loss(model(inputs), targets).detach()),
        },
    )  # fmt: skip


def equation(config: Mapping[str, Any], rate: float, batch: int) -> NetworkSDE:
    model, inputs, targets = problem(config)
    return NetworkSDE(
        model, nn.CrossEntropyLoss(), (inputs, targets), learning_rate=rate, batch_size=batch,
        weight_decay=config["weight_decay"],
    )  # fmt: skip


def observer(config: Mapping[str, Any], start: xr.Dataset) -> Callable:
    """Loss on all samples, without decay, |w − w₀| and projections of w − w₀, of one replica."""
    _, inputs, targets = problem(config)
    origin = torch.from_numpy(start["start"].values)
    directions = torch.from_numpy(start["directions"].values.copy())

    def observe(predict, weights: Tensor) -> dict[str, Tensor]:
        away = weights - origin
        loss = nn.functional.cross_entropy(predict(inputs), targets)
        return {"loss": loss, "distance": away.square().sum().sqrt(), "projection": directions @ away}

    return observe


def sgd_run(
    config: Mapping[str, Any], start: xr.Dataset, rate: float, batch: int, seed: int, progress=None, order: int = 1
) -> xr.Dataset:
    """SGD, or SVAG(`order`), seen at `saves` equal times up to `time`; NaN, with ``diverged``, where it diverges."""
    steps = round(config["time"] / rate)
    every = steps // config["saves"]
    try:
        found = equation(config, rate, batch).svag(
            order, steps=steps, replicas=config["replicas"], start=start["start"].values, save_every=every,
            observe=observer(config, start), seed=seed, progress=progress,
        )  # fmt: skip
    except Diverged as fault:
        shape, k = (config["replicas"], config["saves"] + 1), start.sizes["direction"]
        nothing: dict[str, Any] = {name: (("replica", "time"), np.full(shape, np.nan)) for name in QUANTITIES}
        nothing["projection"] = (("replica", "time", "projection_0"), np.full((*shape, k), np.nan))
        time = rate * every * np.arange(config["saves"] + 1)
        return xr.Dataset(nothing, {"time": time}, {"diverged": int(fault.step), "learning_rate": rate}).isel(
            time=slice(1, None)
        )
    return found.isel(time=slice(1, None)).assign_attrs(diverged=-1)


def sde_run(
    config: Mapping[str, Any], start: xr.Dataset, rate: float, batch: int, step: float, seed: int,
    kept: Path | None = None, progress: Callable[[float, float], object] = lambda done, total: None,
    refinement: int = 1,
) -> xr.Dataset:  # fmt: skip
    """The SDE by Euler–Maruyama of size `step`, seen at the same times; in `kept` lies, after each, how to go on.

    With `refinement` the Brownian paths are those of a run of size step/refinement with the same seed.
    """
    sde, saves = equation(config, rate, batch), config["saves"]
    each = round(config["time"] / saves / step)
    see = observer(config, start)
    words = repr((sorted(config.items()), rate, batch, step, seed, refinement)).encode()
    question = hashlib.blake2b(words + start["start"].values.tobytes(), digest_size=8).hexdigest()
    state, seen = _resumed(kept, question) or (start["start"].values, {name: [] for name in SEEN})
    for k in range(len(seen["loss"]), saves):
        found = sde.euler(
            steps=each, step=step, replicas=config["replicas"], start=state, first_step=k * each, seed=seed,
            refinement=refinement, observe=lambda predict, weights: {"state": weights, **see(predict, weights)},
        )  # fmt: skip
        state = found["state"].values[:, 0]
        for name in SEEN:
            seen[name].append(found[name].values[:, 0])
        if kept is not None:
            with replacing(kept) as partial, open(partial, "wb") as file:
                arrays: dict[str, Any] = {name: np.stack(seen[name]) for name in SEEN}
                np.savez(file, question=question, state=state, **arrays)
        progress(k + 1, saves)
    dims = ("replica", "time", "projection_0")
    settings = {"learning_rate": rate, "batch_size": batch, "step": step, "seed": seed, "refinement": refinement}
    columns = {name: (dims[: np.ndim(seen[name])], np.stack(seen[name], axis=1)) for name in SEEN}
    time = step * each * np.arange(1, saves + 1)
    return xr.Dataset(columns, {"time": time}, settings)


def _resumed(kept: Path | None, question: str) -> tuple[NDArray, dict[str, list]] | None:
    if kept is None or not kept.is_file():
        return None
    with np.load(kept, allow_pickle=False) as found:
        if str(found["question"]) != question:
            return None
        return found["state"], {name: list(found[name]) for name in SEEN}


# How far apart ---------------------------------------------------------------------------------------------------


def compared(one: xr.Dataset, other: xr.Dataset, start_loss: float, paired: bool = False) -> xr.Dataset:
    """Means of `one` less those of `other`, as a share, with the standard error over replicas: (quantity, time).

    The share is of the distance, or of the loss or its change since the start, whichever is larger, in `other`.
    Replicas are independent in the two, or `paired`: the same Brownian paths.
    """
    gaps, errors = [], []
    for name in QUANTITIES:
        a, b = one[name].values, other[name].values
        scale = np.abs(b.mean(axis=0))
        if name == "loss":
            scale = np.maximum(scale, np.abs(b.mean(axis=0) - start_loss))
        gaps.append((a.mean(axis=0) - b.mean(axis=0)) / scale)
        alone = a.var(axis=0, ddof=1) / len(a) + b.var(axis=0, ddof=1) / len(b)
        errors.append(np.sqrt((a - b).var(axis=0, ddof=1) / len(a) if paired else alone) / scale)
    return xr.Dataset(
        {"gap": (("quantity", "time"), gaps), "error": (("quantity", "time"), errors)},
        coords={"quantity": list(QUANTITIES), "time": other["time"].values},
    )


def judged(gap: xr.Dataset, tolerance: float) -> str:
    """In a word: "differs" where a gap is `SIGMAS` errors beyond the tolerance, "agrees" where all are as far below."""
    size, error = np.abs(gap["gap"].values), gap["error"].values
    if not np.isfinite(size).all() or (size - SIGMAS * error > tolerance).any():
        return "differs"
    return "agrees" if (size + SIGMAS * error < tolerance).all() else "open"


def variances(run: xr.Dataset) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Variance over replicas of each projection at the last time, and its standard error from their squares."""
    values = run["projection"].values[:, -1]
    squares = (values - values.mean(axis=0)) ** 2
    return squares.mean(axis=0), squares.std(axis=0, ddof=1) / np.sqrt(len(squares))


def quadratic_moments(
    start: xr.Dataset, rate: float, batch: int, time: float, order: int | None = 1
) -> tuple[float, float]:
    """E f and E|w − w₀|² at `time` for constant H and D at the start: SGD (order 1), SVAG(order), or the SDE (None).

    δ ← δ − ε(hδ + s) + noise of variance ε²·l·D/b, ε = η/l, in each eigenvector of H + λ, s its slope at the start;
    for the SDE the limit ε → 0.
    """
    h, s, d = (start[name].values for name in ("curvature", "slope", "noise"))
    if order is None:
        mean, variance = -s * _decay(h, time), rate / batch * d * _decay(2 * h, time)
    else:
        step, steps = rate / order, round(time / rate) * order
        x = step * h
        with np.errstate(over="ignore"):  # ηh > 2 has no bound: infinity is the answer
            mean = -s * step * _powers(x, steps)
            variance = rate * step / batch * d * _powers(x * (2 - x), steps)
    loss = start.attrs["loss"] + float(
        ((s - start["decay"].values) * mean + 0.5 * (h - start.attrs["weight_decay"]) * (mean**2 + variance)).sum()
    )
    return loss, float((mean**2 + variance).sum())


def _decay(h: NDArray[np.float64], time: float) -> NDArray[np.float64]:
    """(1 − e^(−ht))/h, t for h = 0."""
    return np.where(h == 0, time, -np.expm1(-h * time) / np.where(h == 0, 1.0, h))


def _powers(x: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Σ_{k<n} (1 − x)^k, to rounding also for x → 0."""
    small, divisor = np.abs(x) < 0.5, np.where(x == 0, 1.0, x)
    near = -np.expm1(count * np.log1p(-np.where(small, x, 0.0))) / divisor
    return np.where(x == 0, count, np.where(small, near, (1 - (1 - x) ** count) / divisor))
