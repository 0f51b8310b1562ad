"""The same measurements where everything is known: a bumpy valley, and the cosine of a network at rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils import vector_to_parameters

import sde_sgd as sde

from ._walk_floors import joined_on_toy
from ._walk_segments import ROUNDING, segments
from .curvature import Curvature
from .data import digits
from .gradient_noise import GradientNoise
from .measures_kernels import recorded_sgd, recorded_trajectory
from .one_hidden_layer import OneHiddenLayer
from .recording import When, recorder
from .training import tiny_fc

FLOOR, WALL, RIPPLE = 0.1, 10.0, 0.05
APART = 100  # steps from one floor to the next that it is joined to
BATCHES = (8, 32)
_DECAY = 5e-3  # without it nothing is stationary


def valley(config: Mapping[str, Any], progress: Callable[[int, int], object]) -> xr.Dataset:
    """The bumpy valley, with ripples and without, at several η, started at rest: over (ripple, rate, seed).

    `variance` of y and `exact_variance`; `ratio` E[g·g']/E|g|² and `exact_ratio`, both exact without ripples, with
    standard errors from 20 blocks of a run, `variance_error` and `ratio_error`;
    `height`, mean over steps, `oracle`, the same by (η²/2)gᵀHg[(a*−½)²+¼], and `gap`, the largest difference of a
    step's height from that of the parabola through its losses; shares of steps with a floor inside and with a barrier;
    of segments from floor to floor, APART steps apart, `floor_barrier` and `floor_exact`, the shares with a barrier
    between the floors that the steps show and along the floor itself, y = 0, `floor_false` and `floor_missed`, those on
    which only the first or only the second has one, `floor_rise`, the mean barrier, and `above`, the share of those
    between iterates.
    """
    rates, ripples = np.array([0.02, 0.05, 0.1, 0.15]), np.array([0.0, RIPPLE])
    seeds, steps = config["seeds"], config["valley_steps"]
    names = ("variance", "variance_error", "ratio", "ratio_error", "height", "oracle", "gap", "interior", "barrier",
             "floor_barrier", "floor_exact", "floor_false", "floor_missed", "floor_rise", "above")  # fmt: skip
    found = {name: np.full((len(ripples), len(rates), seeds), np.nan) for name in names}
    wanted = [recorder(name, When.every(steps=1)) for name in ("weights", "gradient_products", "segment_loss")]
    done = 0
    for i, ripple in enumerate(ripples):
        landscape = sde.landscapes.get("bumpy_valley", floor=FLOOR, wall=WALL, ripple=ripple, finite_sum=True)
        assert isinstance(landscape, sde.FiniteSum)
        for k, rate in enumerate(rates):
            for seed in range(seeds):
                burnt = round(5 / (rate * FLOOR))
                run = recorded_sgd(
                    landscape, (0.0, 0.0), recorders=wanted, learning_rate=rate, batch_size=1, steps=burnt + steps,
                    seed=seed,
                ).isel(weights_step=slice(burnt, None), gradient_products_step=slice(burnt, None),
                       segment_loss_step=slice(burnt, None))  # fmt: skip
                for name, value in _of_valley(landscape, run, rate, ripple == 0).items():
                    found[name][i, k, seed] = value
                done += 1
                progress(done, len(ripples) * len(rates) * seeds)
    variance = rates / (WALL * (2 - rates * WALL))
    h = np.array([FLOOR, WALL])
    drift = (rates[:, None] * h / (2 - rates[:, None] * h)).sum(1)  # tr(H²S), S_ii = η/(h(2 − ηh)), D = I, b = 1
    return xr.Dataset(
        {name: (("ripple", "rate", "seed"), values) for name, values in found.items()}
        | {"exact_variance": ("rate", variance), "exact_ratio": ("rate", -drift / (drift + 2))},
        coords={"ripple": ripples, "rate": rates},
    )


def _of_valley(landscape: sde.FiniteSum, run: xr.Dataset, rate: float, plain: bool) -> dict[str, float]:
    weights, losses = run["weights"].values, run["segment_loss"].values
    square, (product, one, _) = weights[:, 1] ** 2, run["gradient_products"].values.T
    ratio = product.mean() / one.mean()
    what = segments(losses)
    found = {
        "variance": float(square.mean()), "variance_error": _error(square),
        "ratio": float(ratio), "ratio_error": _error(product - ratio * one) / float(one.mean()),
        "height": float(what.height.mean()), "interior": float(what.interior.mean()),
        "barrier": float(what.barrier.mean()),
    }  # fmt: skip
    floors, exact = joined_on_toy(landscape, weights, losses[:-1], APART)
    there = exact > ROUNDING
    found |= {
        "floor_barrier": float(floors.barrier.mean()), "floor_exact": float(there.mean()),
        "floor_false": float((floors.barrier & ~there).mean()), "floor_missed": float((there & ~floors.barrier).mean()),
        "above": float(floors.above.mean()),
        "floor_rise": float(floors.rise[floors.barrier].mean()) if floors.barrier.any() else 0.0,
    }  # fmt: skip
    if plain:
        gradient, h = (weights[:-1] - weights[1:]) / rate, np.array([FLOOR, WALL])
        curved, place = (gradient**2 * h).sum(1), (gradient * weights[:-1] * h).sum(1)
        place = place / (rate * curved)
        within = (place > 0) & (place < 1)
        oracle = rate**2 / 2 * curved * ((place - 0.5) ** 2 + 0.25)
        found["oracle"] = float(np.where(within, oracle, np.abs(losses[:-1, 0] - losses[:-1, -1]) / 2).mean())
        found["gap"] = float(np.abs(what.vertex[:-1] - oracle)[within].max() / oracle[within].max())
    return found


def _error(values: NDArray, blocks: int = 20) -> float:
    """The standard error of a mean, from blocks that are long beside the correlation."""
    means = np.array([part.mean() for part in np.array_split(values, blocks)])
    return float(means.std(ddof=1) / np.sqrt(blocks))


# A network at rest -----------------------------------------------------------------------------------------------


def cosines(config: Mapping[str, Any], seed: int, progress: Callable[[int, int], object]) -> xr.Dataset:
    """E[g·g']/E|g|² of tiny-fc, first from its start and then at rest, over (rate, batch); g with weight decay.

    `early` over the first epoch; `ratio` at rest; `predicted` = −tr(H²S)/(tr(H²S) + tr D/b) with H and D at the mean of
    the run, S_ii = ηD_ii/(b h_i(2 − ηh_i)) along eigenvectors with h_i > 0: the same for every b.
    """
    data = digits(7, range(5), seed=0)
    rates, steps = np.array(config["cosine_rates"]), config["cosine_steps"]
    shape = (len(rates), len(BATCHES))
    found = {name: np.empty(shape) for name in ("early", "ratio", "predicted", "top")}
    start = _rested(data, max(rates), seed, config["cosine_burn_in"])
    for i, rate in enumerate(rates):
        for k, b in enumerate(BATCHES):
            model = tiny_fc(seed=seed)
            found["early"][i, k] = _ratio(_walker(model, data, rate, b, seed), max(2, 720 // b))[0]
            vector_to_parameters(torch.from_numpy(start.copy()), model.parameters())
            walker = _walker(model, data, rate, b, 1000 + seed)
            walker.run(round(10 / (rate * _DECAY)))
            found["ratio"][i, k], mean = _ratio(walker, steps)
            found["predicted"][i, k], found["top"][i, k] = _predicted(model, data, mean, rate, b)
            progress(i * len(BATCHES) + k + 1, shape[0] * shape[1])
    return xr.Dataset(
        {name: (("rate", "batch"), values) for name, values in found.items()},
        coords={"rate": rates, "batch": list(BATCHES)},
    )


def _walker(model: nn.Module, data, rate: float, b: int, seed: int) -> OneHiddenLayer:
    return OneHiddenLayer(
        model, data.inputs, data.targets, learning_rate=rate, batch_size=b, weight_decay=_DECAY, seed=seed
    )


def _rested(data, rate: float, seed: int, epochs: int) -> NDArray[np.float64]:
    """Weights after a burn-in at a high learning rate."""
    walker = _walker(tiny_fc(seed=seed), data, rate, BATCHES[0], seed)
    walker.run(epochs * walker.steps_per_epoch)
    return walker.weights


def _ratio(walker: OneHiddenLayer, steps: int) -> tuple[float, NDArray[np.float64]]:
    """E[g·g']/E|g|² over the steps, and the mean of the weights; g = (w − w')/η, which contains the decay."""
    run = recorded_trajectory(walker, steps, recorder("weights", When.every(steps=1)))
    weights = run["weights"].values
    moves = np.diff(weights, axis=0)
    product, squares = (moves[1:] * moves[:-1]).sum(1), (moves**2).sum(1)
    return float(product.mean() / squares.mean()), weights.mean(0)


def _predicted(model: nn.Module, data, mean: NDArray, rate: float, b: int) -> tuple[float, float]:
    vector_to_parameters(torch.from_numpy(mean.copy()), model.parameters())
    pair = (data.inputs, data.targets)
    values, vectors = np.linalg.eigh(Curvature(model, nn.CrossEntropyLoss(), pair).matrix())
    noise = GradientNoise(model, nn.CrossEntropyLoss(), pair).matrix()
    h, d = values + _DECAY, np.einsum("ia,ij,ja->a", vectors, noise, vectors)
    up = h > 0
    drift = float((rate * h[up] * d[up] / (b * (2 - rate * h[up]))).sum())
    return -drift / (drift + float(np.trace(noise)) / b), float(values[-1])
