"""Without noise: gradient descent under weight decay on a toy and on digits, and runs that must be one and the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

import sde_sgd as sde
from sde_sgd.landscapes import get

from ._equilibrium_laws import GrowingRate, unstable_square
from ._equilibrium_network import NormalisedNetwork
from ._equilibrium_runs import Observed, data_of, network_of
from .curvature import Curvature
from .ensembles import ensemble
from .measures import flat
from .recording import Recorder, When, recorder
from .training import train_sgd

_TOY = {"learning_rate": 0.1, "weight_decay": 0.5}
_RATES = ((0.2, 0.15, 0.0), (0.2, 0.01, 0.9))  # η, λ, μ of the runs with growing rates; ηλ ≤ (1 − √μ)²
_RECORDS, _CURVATURES = 150, 30  # along each run of descent
Progress = Callable[[int, int], object]


def toy(config: Mapping[str, Any], seed: int, progress: Progress = lambda done, total: None) -> xr.Dataset:
    """Gradient descent on x²/(x² + y²): with decay, then from where that ended without, and without from the start.

    `square` r² and `slope` |∇L| (run, step); attrs["unstable_square"] η/(1 − ηλ).
    """
    loss: Any = get("scale_invariant", weight_decay=0.0)  # the noise of its three samples adds up to 0
    angle = np.random.default_rng([seed, 0x70]).uniform(0.2, 1.3)
    start = np.array([np.cos(angle), np.sin(angle)])
    found: dict[str, np.ndarray] = {}
    for name, decay in (("decay", _TOY["weight_decay"]), ("decay off", 0.0), ("no decay", 0.0)):
        run = sde.sgd(
            loss, found["decay"][-1] if name == "decay off" else start, learning_rate=_TOY["learning_rate"],
            weight_decay=decay, batch_size=3, sampling="without_replacement", steps=config["toy_steps"], save_every=1,
            threads=1,
        )  # fmt: skip
        found[name] = np.stack([run[name].values[0] for name in ("x", "y")], axis=-1)
    paths = np.stack(list(found.values()))
    return xr.Dataset(
        {
            "square": (("run", "step"), np.square(paths).sum(-1)),
            "slope": (("run", "step"), np.linalg.norm(loss.gradient(paths), axis=-1)),
        },
        {"run": list(found)},
        {**_TOY, "unstable_square": unstable_square(**_TOY)},
    )


def descent(config: Mapping[str, Any], seed: int, progress: Progress = lambda done, total: None) -> xr.Dataset:
    """Full-batch gradient descent on the network: with decay, then without, and without from the start.

    `loss`, `gradient_norm` |∇f| and `norm` |w| (run, step), `curvature` λ_max(∇²f) (run, curvature_step), through batch
    statistics of all samples.
    """
    data, samples = data_of(config, torch.float64, seed), config["descent_samples"]
    if samples > len(data.inputs):
        raise ValueError(f"descent_samples = {samples}, and there are {len(data.inputs)}: ask for no more than that")
    pair = data.inputs[:samples], data.targets[:samples]
    steps, rate = config["descent_steps"], config["descent_learning_rate"]

    def sharpest(model, state):
        return Curvature(model, nn.CrossEntropyLoss(), pair, statistics="full").spectrum(1)[:1]

    often = When.every(steps=max(1, steps // _RECORDS))
    recorders = [recorder(name, often) for name in ("loss", "gradient_norm", "norm")]
    recorders.append(Recorder("curvature", When.every(steps=max(1, steps // _CURVATURES)), sharpest, ("largest",)))
    parts, model = [], network_of(config, data, seed)
    for k, (name, decay) in enumerate((("decay", True), ("decay off", False), ("no decay", False))):
        model = network_of(config, data, seed) if name == "no decay" else model
        parts.append(
            train_sgd(
                model, *pair, steps=steps, learning_rate=rate, batch_size=len(pair[0]), sampling="without_replacement",
                weight_decay=config["descent_weight_decay"] if decay else 0.0, recorders=recorders,
            ).drop_attrs()
        )  # fmt: skip
        progress(k + 1, 3)
    found = xr.concat(parts, "run").assign_coords(run=["decay", "decay off", "no decay"]).isel(largest=0)
    found = found.rename({"loss_step": "step"})
    for name in ("gradient_norm", "norm"):
        found[name] = (("run", "step"), found[name].values)
    return found.drop_vars(["gradient_norm_step", "norm_step"]).assign_attrs(
        learning_rate=rate, weight_decay=config["descent_weight_decay"], samples=samples, steps=steps
    )


def one_and_the_same(config: Mapping[str, Any], seed: int, progress: Progress = lambda done, total: None) -> xr.Dataset:
    """Pairs of runs on the network that scale invariance makes one function, in float64, and pairs that it does not.

    `difference` (pair, step): the largest difference of logits on the test points over replicas. The pairs: decay and
    growing rate without momentum and with; c = 3 of (c²η, λ/c², cw₀) and (η, λ, w₀); and counterexamples: half the
    exponent, a start from rest, a last layer that is trained, too.
    """
    data = data_of(config, torch.float64, seed)
    network = network_of(config, data, seed)
    loose = network_of(config, data, seed)
    loose.last = nn.Parameter(loose.last.clone())
    steps, found = config["same_steps"], {}

    def course(model: NormalisedNetwork, rate, decay: float, momentum: float = 0.0, scale: float = 1.0, velocity=None):
        look = Observed(config, data, model)

        def logits(predict, weights: Tensor) -> Tensor:
            return look.logits(weights)

        start = scale * flat(model)
        run = ensemble(
            model, *data[:2], replicas=2, steps=steps, learning_rate=rate, batch_size=config["batch_size"],
            weight_decay=decay, momentum=momentum, start=start, save_every=1, observe=logits, compile=False, seed=seed,
            start_velocity=None if velocity is None else velocity * start,
        )  # fmt: skip
        return run["observed"].values

    for eta, decay, momentum in _RATES:
        growing = GrowingRate(eta, decay, momentum)
        name = f"growing rate, μ = {momentum:g}"
        fixed = course(network, eta, decay, momentum)
        velocity = growing.velocity_factor if momentum else None
        found[name] = course(network, growing, 0.0, momentum, velocity=velocity) - fixed
        if momentum:
            found[f"{name}, from rest"] = course(network, growing, 0.0, momentum) - fixed
        else:
            found["c = 3"] = course(network, 9 * eta, decay / 9, scale=3.0) - fixed
            found[f"{name}, half the exponent"] = course(network, _Half(growing), 0.0) - fixed
            found[f"{name}, last layer trained"] = course(loose, growing, 0.0) - course(loose, eta, decay)
        progress(len(found), 6)
    return xr.Dataset(
        {"difference": (("pair", "step"), np.stack([np.abs(gap).max(axis=(0, 2, 3)) for gap in found.values()]))},
        {"pair": list(found), "step": np.arange(steps + 1)},
    )


class _Half:
    """A rate that grows as the norm does, not as its square."""

    def __init__(self, growing: GrowingRate):
        self._growing = growing

    def __call__(self, steps):
        return self._growing.learning_rate * self._growing.alpha ** (-1.0 * np.asarray(steps, float) - 1.0)
