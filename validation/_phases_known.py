"""The same quantities where they are known: a quadratic, a single unit, a Gaussian channel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.special import ndtr

import sde_sgd as sde

from ._phases_events import crossing, quadratic_crossing
from .information import binned_information, gaussian_information, kernel_information, sampled_information
from .measures_kernels import recorded_sgd
from .recording import When, recorder

START, RATE, BATCHES, STEPS = 20.0, 0.1, (1, 4, 16), 60
WEIGHTS = np.geomspace(0.05, 50, 49)
UNIT_BINS = 30  # on (−1, 1)
UNITS = ("tanh", "relu", "linear")
CHANNEL_NOISES = np.geomspace(0.003, 3, 19)
CHANNEL_SIZES = (64, 512)
ESTIMATORS = ("bins", "pairs, low", "pairs, high", "drawn")
Progress = Callable[[int, int], object]


def line() -> sde.FiniteSum:
    """f_k = (x ± 1)²/2: curvature 1, D = 1 everywhere."""
    return sde.FiniteSum("x", "(x - c)**2/2", {"c": [-1.0, 1.0] * 16}, name="line")


def quadratic(config: Mapping[str, Any], progress: Progress) -> xr.Dataset:
    """The crossing on a quadratic with constant noise, over (batch): of the mean over runs, its jackknife error, exact;
    `descent` and `exact_descent`, those of gradient descent whose SNR is taken at the same batch size.
    """
    chosen, runs = line(), config["quadratic_runs"]
    found = {name: np.empty(len(BATCHES)) for name in ("crossing", "error", "exact", "descent", "exact_descent")}
    for i, b in enumerate(BATCHES):
        wanted = recorder("gradient_statistics", When.every(steps=1))
        ratios = []
        for replica in range(runs):
            run = recorded_sgd(chosen, (START,), recorders=wanted, learning_rate=RATE, batch_size=b, steps=STEPS,
                               seed=config["seed"], replica=replica)  # fmt: skip
            ratios.append(run["gradient_statistics"].values[:, 0, 3] ** 2)
        squares, when = np.stack(ratios), run["gradient_statistics_step"].values
        found["crossing"][i] = crossing(when, squares.mean(0)).first
        without = [crossing(when, (squares.sum(0) - one) / (runs - 1)).first for one in squares]
        found["error"][i] = np.sqrt((runs - 1) * np.var(without))
        found["exact"][i] = quadratic_crossing(1.0, 1.0, START, RATE, b)
        still = recorded_sgd(
            chosen, (START,), recorders=recorder("gradient_statistics", When.every(steps=1), batch_size=1),
            learning_rate=RATE, batch_size=chosen.samples, sampling="without_replacement", steps=STEPS,
        )  # fmt: skip
        snr = np.sqrt(b * 1.0) * still["gradient_statistics"].values[:, 0, 0]  # D = 1
        found["descent"][i] = crossing(when, snr).first
        found["exact_descent"][i] = np.log(START * np.sqrt(b)) / -np.log1p(-RATE)
        progress(i + 1, len(BATCHES))
    return xr.Dataset({name: ("batch", values) for name, values in found.items()}, coords={"batch": list(BATCHES)})


def unit_information(activation: str, weight: float, width: float) -> float:
    """H of a(wX) in bins of that width from 0 on both sides, X ~ N(0, 1), exact: I(X;T) of a unit; bits.

    tanh: 2/width bins cover it, so that a large w leaves two; relu and linear need endlessly many, and H of
    the identity grows as log₂ w, that of relu as half of it.
    """
    if activation == "tanh":
        count = max(1, round(1 / width))
        edges: NDArray = np.arctanh(np.arange(1, count) / count) / weight
    else:
        edges = np.arange(1, int(np.ceil(8.5 * weight / width)) + 1) * width / weight
    above = -np.diff(ndtr(-np.concatenate([[0.0], edges])))
    masses = np.append(above, ndtr(-edges[-1]) if len(edges) else 0.5)  # of the half line above 0
    if activation == "relu":
        masses[0] += 0.5
    else:
        masses = np.concatenate([masses, masses])
    masses = masses[masses > 0]
    return float(-(masses * np.log2(masses)).sum())


def unit(config: Mapping[str, Any], progress: Progress) -> xr.Dataset:
    """`unit_information` over (activation, weight), in bins of which 30 cover tanh."""
    found = [[unit_information(name, w, 2 / UNIT_BINS) for w in WEIGHTS] for name in UNITS]
    return xr.Dataset(
        {"information": (("activation", "weight"), found)}, {"activation": list(UNITS), "weight": WEIGHTS}
    )


def gaussian_samples(n: int, seed: int) -> NDArray[np.float64]:
    """(n, 1) of N(0, 1)."""
    return np.random.default_rng([seed, n]).standard_normal((n, 1))


def channel(config: Mapping[str, Any], progress: Progress) -> xr.Dataset:
    """What the estimators give of X ~ N(0, 1), T = X + σZ, over (size, noise, estimator), beside the exact
    ½ log₂(1 + 1/σ²); bins are of width 2σ. `population`, with which n samples have to do only below log₂ n.
    """
    found = np.empty((len(CHANNEL_SIZES), len(CHANNEL_NOISES), len(ESTIMATORS)))
    for i, n in enumerate(CHANNEL_SIZES):
        x, labels = gaussian_samples(n, config["seed"]), np.zeros(n, dtype=int)
        for k, sigma in enumerate(CHANNEL_NOISES):
            bins = binned_information(x, labels, bins=max(2, round(10 / (2 * sigma))), bounds=(-5.0, 5.0)).inputs
            pairs = kernel_information(x, labels, noise=sigma).inputs
            drawn = sampled_information(x, labels, noise=sigma, draws=4, seed=config["seed"]).inputs
            found[i, k] = bins.low, pairs.low, pairs.high, drawn.middle
        progress(i + 1, len(CHANNEL_SIZES))
    exact = [gaussian_information(1.0, sigma) for sigma in CHANNEL_NOISES]
    return xr.Dataset(
        {"estimate": (("size", "noise", "estimator"), found), "exact": ("noise", exact)},
        coords={"size": list(CHANNEL_SIZES), "noise": CHANNEL_NOISES, "estimator": list(ESTIMATORS)},
    )
