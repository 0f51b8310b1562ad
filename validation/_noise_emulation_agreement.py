"""How near D, the Fisher information and the Hessian are along training, for labels of three kinds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import vector_to_parameters

from .curvature import Curvature
from .data import load
from .gradient_noise import GradientNoise
from .networks import network
from .recording import When, recorder
from .training import train_sgd

CASES = ("drawn from the network", "half of them at random", "few, at random", "squared loss")
_FEW = 40  # samples, which 137 weights memorise
_CLASSES, _SIDE = 5, 4
_WIDTH = 0.375  # 6 hidden units: 137 weights, so that matrices are formed


def agreement(config: Mapping[str, Any], case: str, seed: int, progress: Callable[[int, int], object]) -> xr.Dataset:
    """Train on labels of a kind and take D, F and H along the way, over `step`.

    A teacher, the same network trained on true labels with weight decay, gives the labels that are "drawn from the
    network": with `copies` of each input and independent labels the model is well specified. "Half of them at random":
    true labels, but those of a fixed half of the inputs are uniform, which no network of this size can tell. "Squared
    loss": the drawn labels as one-hot targets. Then `loss`, |∇f| `slope`, traces `trace_d`, `trace_f`, `trace_h`, and
    Frobenius cosines `d_f`, `f_h`, `d_h`, with `gap` |D − H|/|H|. H is ∇²f, F the Fisher information at the weights.
    """
    split = load("digits", size=_SIDE, classes=range(_CLASSES), seed=seed)
    teacher = _network(seed)
    _train(teacher, split.inputs, split.targets, config["teacher_steps"], nn.functional.cross_entropy, seed, 1e-2)
    few = case == CASES[2]
    copies, chosen = (1, slice(_FEW)) if few else (config["copies"], slice(None))
    inputs = split.inputs[chosen].repeat(copies, 1, 1, 1)
    labels = _labels(case, teacher, split.inputs[chosen], split.targets[chosen], copies, seed)
    squared = case == "squared loss"
    loss: nn.Module = nn.MSELoss() if squared else nn.CrossEntropyLoss()
    targets = nn.functional.one_hot(labels, _CLASSES).double() if squared else labels
    model = _network(seed + 1000)
    steps = config["agreement_steps"]
    when = np.unique(np.concatenate([[0], np.rint(np.geomspace(4, steps, config["agreements"])).astype(int)]))
    run = _train(model, inputs, targets, steps, loss, seed, 0.0, when)
    rows = []
    for weights in run["weights"].values:
        vector_to_parameters(torch.from_numpy(weights.copy()), model.parameters())
        rows.append(compared(model, loss, (inputs, targets)))
        progress(len(rows), len(when))
    found = {name: ("step", [row[name] for row in rows]) for name in rows[0]}
    return xr.Dataset(
        found, {"step": when}, {"samples": len(inputs), "parameters": sum(p.numel() for p in model.parameters())}
    )


def compared(model: nn.Module, loss: nn.Module, pair: tuple[Tensor, Tensor]) -> dict[str, float]:
    """D, F and H at the model's weights, against each other."""
    noise = GradientNoise(model, loss, pair)
    d, f, h = (
        noise.matrix(),
        Curvature(model, loss, pair, kind="fisher").matrix(),
        Curvature(model, loss, pair).matrix(),
    )
    with torch.no_grad():
        value = float(loss(model(pair[0]), pair[1]))
    return {
        "loss": value, "slope": float(noise.mean_gradient().norm()),
        "trace_d": float(np.trace(d)), "trace_f": float(np.trace(f)), "trace_h": float(np.trace(h)),
        "d_f": _cosine(d, f), "f_h": _cosine(f, h), "d_h": _cosine(d, h),
        "gap": float(np.linalg.norm(d - h) / np.linalg.norm(h)),
    }  # fmt: skip


def _cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """tr(AB)/(|A||B|); NaN where one is 0."""
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float((a * b).sum()) / size if size else float("nan")


def _network(seed: int) -> nn.Sequential:
    model = network("tiny-fc", (1, _SIDE, _SIDE), _CLASSES, width=_WIDTH, seed=seed)
    model[2] = nn.Tanh()  # no kinks: F − H is then all in the second derivatives of the outputs
    return model


def _labels(case: str, teacher: nn.Module, inputs: Tensor, targets: Tensor, copies: int, seed: int) -> Tensor:
    """(copies·N,) labels of one kind, the copies one after the other."""
    stream = torch.Generator().manual_seed(seed + 17)
    if case in CASES[1:3]:
        random = torch.rand(len(targets), generator=stream) < (0.5 if case == CASES[1] else 1.0)
        drawn = torch.randint(_CLASSES, (copies, len(targets)), generator=stream)
        return torch.where(random, drawn, targets).flatten()
    with torch.no_grad():
        odds = torch.softmax(teacher(inputs), dim=1)
    return torch.multinomial(odds, copies, replacement=True, generator=stream).T.flatten()


def _train(model, inputs, targets, steps: int, loss, seed: int, decay: float, when=None) -> xr.Dataset:
    """Full-batch descent with Nesterov's momentum: what is asked is where it stands, not what its own noise does."""
    recorders = [] if when is None else [recorder("weights", When.at(steps=when))]
    return train_sgd(
        model, inputs, targets, steps=steps, learning_rate=0.5, batch_size=len(inputs), sampling="reshuffling",
        momentum=0.9, nesterov=True, weight_decay=decay, loss=loss, recorders=recorders, seed=seed,
    )  # fmt: skip
