"""How long each noise stays at a sharp minimum of a network, beside what its parabola would have; and where it goes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.polynomial.legendre import leggauss
from numpy.typing import NDArray
from torch import nn

from .curvature import Curvature
from .data import Split, load
from .gradient_noise import GradientNoise
from .networks import network
from .noisy_descent import NoisyDescent
from .one_hidden_layer import OneHiddenLayer
from .stability import slab_exit_time, stability_radius

KINDS = ("none", "exact", "subset", "hessian", "isotropic")
COLD = "exact, cold"  # at T/COOLER, where the parabola should hold
COOLER, CROWD = 256, 8  # there with 8 times the replicas, as they leave soon
RISE = 1.5  # times the loss at the minimum
CLOCKS = ("slab", "loss", "curvature")
_SAMPLES, _CLASSES, _SIDE, _WIDTH = 200, 5, 4, 0.375  # 6 hidden units: 137 weights, so that matrices are formed
_WRONG, _DECAY, _LARGE = 0.2, 1e-3, 3.0  # wrong labels and weight decay: there is a minimum; from large weights
_SLOW, _MOMENTUM = 0.2, 0.9  # of the descent to it
_STEEP = 0.5  # ηλ_max of the runs that start there: descent alone is stable up to 2
_HELD = 10.0  # relaxation times 1/h for which exact noise would be held within the slab, on average
_LOOK, _PRODUCTS, _SUBSET, _HESSIAN = 10, 10, 20, 3
_LOSS = nn.CrossEntropyLoss()
_ROOT = math.sqrt(2 * math.pi)


def minimum(config: Mapping[str, Any], seed: int, progress: Callable[[int, int], object]) -> xr.Dataset:
    """Full-batch descent at a small rate from large weights, on digits with wrong labels and with weight decay.

    `weights` reached; `way` v, the leading eigenvector of H there; `curvature` h = vᵀ(H + λ)v, `lowest` eigenvalue of
    H + λ, `slope` |∇f + λw|, `loss`; η of the runs to come, and `radius` R of the slab |v·(w − w*)| < R that holds
    exact noise for 10/h; `flat` the λ_max of H where mini-batches of that η and b have led in four times the steps.
    """
    split = data_of(seed)
    model = _network(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(_LARGE)
    slow = OneHiddenLayer(
        model, split.inputs, split.targets, learning_rate=_SLOW, momentum=_MOMENTUM, weight_decay=_DECAY, seed=seed,
        batch_size=_SAMPLES, sampling="without_replacement",
    )  # fmt: skip
    slow.run(config["sharp_descent"])
    slow.load_into(model)
    progress(1, 3)
    weights = slow.weights
    pair = (split.inputs, split.targets)
    h, noise = Curvature(model, _LOSS, pair).matrix(), GradientNoise(model, _LOSS, pair)
    values, vectors = np.linalg.eigh(h)
    v, d = vectors[:, -1], noise.matrix()
    rate, size = _STEEP / values[-1], config["sharp_batch"]
    along = {"none": 0.0, "exact": v @ d @ v, "subset": v @ d @ v, "hessian": values[-1],
             "isotropic": np.trace(d) / len(d)}  # fmt: skip
    steep = values[-1] + _DECAY
    radius = float(stability_radius(steep, along["exact"], rate / (2 * size), _HELD / steep).radius[0])
    with torch.no_grad():
        loss = float(_LOSS(model(split.inputs), split.targets))
    walker = OneHiddenLayer(model, *pair, learning_rate=rate, batch_size=size, weight_decay=_DECAY, seed=seed)
    walker.run(4 * config["sharp_steps"])
    walker.load_into(model)
    progress(2, 3)
    numbers = {
        "curvature": steep, "lowest": values[0] + _DECAY, "loss": loss, "rate": rate, "radius": radius,
        "slope": float((noise.mean_gradient() + _DECAY * torch.from_numpy(weights)).norm()), "sharp": values[-1],
        "flat": float(Curvature(model, _LOSS, pair).spectrum(1)[0]), "trace": float(np.trace(d)),
    }  # fmt: skip
    progress(3, 3)
    return xr.Dataset(
        {**numbers, "weights": ("weight", weights), "way": ("weight", v), "along": ("kind", [along[k] for k in KINDS])},
        {"kind": list(KINDS)},
    )


def dwelt(
    config: Mapping[str, Any], kind: str, found: xr.Dataset, seed: int, progress: Callable[[int, int], object]
) -> xr.Dataset:
    """Replicas of descent with noise of one kind from the minimum: over (clock, replica) the `time` η·steps of the
    first step out of the slab, of the first look (every 10 steps) at a loss of 1.5 times that of the minimum, and of
    the first look (every 50) at a λ_max of at most √(sharp·flat), λ_max of H from below by 10 products; NaN where
    that has not been by `horizon`. `top` (replica,) is λ_max at the end; `predicted` (law,) what the parabola
    says of the first clock. "exact, cold" is "exact" at T/256 in a slab of R/16, with that clock alone.
    """
    cold = kind == COLD
    noise, size = ("exact", config["sharp_batch"] * COOLER) if cold else (kind, config["sharp_batch"])
    more = {"subset": {"subset": _SUBSET}, "hessian": {"products": _HESSIAN}}.get(noise, {})
    split, replicas = data_of(seed), config["sharp_replicas"] * (CROWD if cold else 1)
    descent = NoisyDescent(
        _network(seed), split.inputs, split.targets, noise=noise, learning_rate=float(found.rate), batch_size=size,
        replicas=replicas, start=found["weights"].values, weight_decay=_DECAY, seed=seed, **more,
    )  # fmt: skip
    start, way = descent.weights[0].clone(), torch.from_numpy(found["way"].values.copy())
    radius = float(found.radius) / math.sqrt(COOLER if cold else 1)
    level = math.sqrt(float(found.sharp * found.flat))
    times = np.full((len(CLOCKS), replicas), np.nan)
    steps = config["sharp_steps"]

    def mark(clock: str, left: NDArray[np.bool_]) -> None:
        row = times[CLOCKS.index(clock)]
        row[np.isnan(row) & left] = float(found.rate) * descent.step

    for step in range(1, steps + 1):
        descent.run(1)
        mark("slab", (((descent.weights - start) @ way).abs() >= radius).numpy())
        if cold and not np.isnan(times[0]).any():
            break
        if step % _LOOK == 0 and not cold:
            mark("loss", (descent.scores(descent.inputs, descent.targets)[0] >= RISE * float(found.loss)).numpy())
        if step % (5 * _LOOK) == 0 and not cold:
            mark("curvature", (descent.top_curvature(_PRODUCTS) <= level).numpy())
            progress(step, steps)
    progress(steps, steps)
    return xr.Dataset(
        {"time": (("clock", "replica"), times), "top": ("replica", descent.top_curvature(_PRODUCTS).numpy()),
         "predicted": ("law", list(predicted(config, kind, found)))},
        {"clock": list(CLOCKS), "law": ["of the SDE", "of the recursion"]}, {"horizon": float(found.rate) * steps},
    )  # fmt: skip


def data_of(seed: int) -> Split:
    """Small digits of five classes, a fifth of the labels wrong."""
    return load("digits", size=_SIDE, classes=range(_CLASSES), samples=_SAMPLES, label_noise=_WRONG, seed=seed)


def _network(seed: int) -> nn.Sequential:
    model = network("tiny-fc", (1, _SIDE, _SIDE), _CLASSES, width=_WIDTH, seed=seed)
    model[2] = nn.Tanh()
    return model


def predicted(config: Mapping[str, Any], kind: str, found: xr.Dataset) -> tuple[float, float]:
    """Mean times out of the slab on the parabola with the noise of the minimum: of the SDE, and of the recursion; ∞
    without noise and beyond e^{700}.
    """
    cold = COOLER if kind == COLD else 1
    noise = float(found.along.sel(kind="exact" if kind == COLD else kind))
    size, radius, rate = config["sharp_batch"] * cold, float(found.radius) / math.sqrt(cold), float(found.rate)
    if noise == 0.0:
        return math.inf, math.inf
    h = float(found.curvature)
    law = float(slab_exit_time(h, noise, rate / (2 * size), radius, log=True))
    return (math.exp(law) if law < 700 else math.inf), recursion_time(h, noise / size, rate, radius)


def recursion_time(curvature: float, variance: float, rate: float, radius: float, nodes: int = 400) -> float:
    r"""The mean η·steps until x ← (1 − ηh)x + η√V ε, ε normal, started at 0, first has |x| ≥ R:

        m(x) = η + ∫_{−R}^{R} p(x′|x) m(x′) dx′,

    by Gauss–Legendre quadrature (Nyström). ∞ where the operator is 1 to rounding: times beyond 1e12 steps.
    """
    z, share = leggauss(nodes)
    x, share = radius * z, radius * share
    width = rate * math.sqrt(variance)

    def kernel(at):
        return share * np.exp(-(((x - (1 - rate * curvature) * at[:, None]) / width) ** 2) / 2) / width / _ROOT

    times = np.linalg.solve(np.eye(nodes) - kernel(x), np.full(nodes, rate))
    found = float(rate + (kernel(np.zeros(1)) @ times)[0])
    return found if 0 < found < 1e12 * rate else math.inf


def restricted(times: NDArray[np.float64], horizon: float) -> float:
    """The mean of min(τ, horizon), whatever the law: times that are NaN are beyond the horizon."""
    return float(np.where(np.isnan(times), horizon, times).mean())


def exponential(times: NDArray[np.float64], horizon: float) -> float:
    """Time observed over exits: the mean of an exponential law, some times beyond the horizon; ∞ without an exit."""
    exits = int(np.isfinite(times).sum())
    return float(np.where(np.isnan(times), horizon, times).sum()) / exits if exits else math.inf
