"""Ready-made measurements along a training run; see `recorder`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from sde_sgd import _checks

from ._recursion import are_labels
from ._samples import one_number

if TYPE_CHECKING:
    from .recording import RunState

_ROWS = 4096  # samples evaluated at once


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The weights that training moves, in the order of `parameters_to_vector`."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def flat(model: nn.Module) -> Tensor:
    """(d,) a copy of the trainable weights."""
    return torch.cat([parameter.detach().reshape(-1) for parameter in trainable(model)])


def mean_loss(model: nn.Module, loss: Callable, inputs: Tensor, targets: Tensor, whole: bool = False) -> float:
    """f over all samples, `loss` being a mean over those it is given; `whole`: in one forward pass."""
    with torch.no_grad():
        if whole or len(inputs) <= _ROWS:
            return float(one_number(loss(model(inputs), targets)))
        return sum(share * float(one_number(loss(model(x), y))) for share, x, y in _parts(inputs, targets))


class Loss:
    """f over all samples of a part of the data."""

    def __init__(self, part: str = "train"):
        self.part = _checks.choice("part", part, ["train", "test"])

    def __call__(self, model: nn.Module, state: RunState) -> float:
        return mean_loss(model, state.loss, *data_of(state, self.part))


class Accuracy:
    """Share of the samples of a part of the data whose largest output is their label's."""

    def __init__(self, part: str = "train"):
        self.part = _checks.choice("part", part, ["train", "test"])

    def __call__(self, model: nn.Module, state: RunState) -> float:
        inputs, targets = data_of(state, self.part)
        if not are_labels(targets):
            raise ValueError("accuracy needs one class number per sample as targets: record the loss instead")
        with torch.no_grad():
            right = sum(float((model(x).argmax(1) == y).double().sum()) for _, x, y in _parts(inputs, targets))
        return right / len(inputs)


class GradientNorm:
    """|∇f| over all samples, batch norm frozen; sums in float64."""

    def __call__(self, model: nn.Module, state: RunState) -> float:
        weights = trainable(model)
        total = [torch.zeros_like(weight, dtype=torch.float64) for weight in weights]
        for share, x, y in _parts(state.inputs, state.targets):
            with torch.enable_grad():
                value = state.loss(model(x), y)
            for sum_, part in zip(total, torch.autograd.grad(value, weights, allow_unused=True)):
                if part is not None:
                    sum_ += share * part
        return float(torch.stack([(part**2).sum() for part in total]).sum().sqrt())


class NoiseTrace:
    """tr D."""

    def __call__(self, model: nn.Module, state: RunState) -> float:
        from .gradient_noise import GradientNoise

        return float(GradientNoise(model, state.loss, (state.inputs, state.targets)).trace())


@dataclass
class NoiseEigenvalues:
    """The largest eigenvalues of D; `method`, `tolerance` and `seed` as of `GradientNoise.spectrum`."""

    count: int = 10
    method: str = "auto"
    tolerance: float | None = None
    seed: int = 0

    def __call__(self, model: nn.Module, state: RunState) -> np.ndarray:
        from .gradient_noise import GradientNoise

        noise = GradientNoise(model, state.loss, (state.inputs, state.targets))
        return np.asarray(noise.spectrum(self.count, method=self.method, tolerance=self.tolerance, seed=self.seed))


@dataclass
class HessianEigenvalues:
    """The algebraically largest eigenvalues of ∇²f; options as of `Curvature.spectrum`, `statistics` of `Curvature`."""

    count: int = 10
    method: str = "auto"
    tolerance: float | None = None
    seed: int = 0
    statistics: str = "eval"

    def __call__(self, model: nn.Module, state: RunState) -> np.ndarray:
        from .curvature import Curvature

        curvature = Curvature(model, state.loss, (state.inputs, state.targets), statistics=self.statistics)
        return np.asarray(curvature.spectrum(self.count, method=self.method, tolerance=self.tolerance, seed=self.seed))


class Projections:
    """Uw for the rows of U."""

    def __init__(self, directions):
        self.directions = _checks.finite_array("directions", directions)

    def __call__(self, model: nn.Module, state: RunState) -> np.ndarray:
        weights = flat(model).double().cpu().numpy()
        if self.directions.ndim != 2 or self.directions.shape[1] != weights.size:
            raise ValueError(f"directions must have shape (k, {weights.size}), got {self.directions.shape}")
        return self.directions @ weights


class Distance:
    """|w − w₀| from the weights at step 0; differences in float64."""

    def __call__(self, model: nn.Module, state: RunState) -> float:
        return float((flat(model).double() - state.start.double()).norm())


class Norm:
    """|w|; the sum in float64."""

    def __call__(self, model: nn.Module, state: RunState) -> float:
        return float(flat(model).double().norm())


class Weights:
    """w."""

    def __call__(self, model: nn.Module, state: RunState) -> Tensor:
        return flat(model)


def data_of(state: RunState, part: str) -> tuple[Tensor, Tensor]:
    """Inputs and targets of a part of the data."""
    if part == "train":
        return state.inputs, state.targets
    if state.test is None:
        raise ValueError('part="test" needs a test set: give train_sgd test=(inputs, targets)')
    return state.test


def _parts(inputs: Tensor, targets: Tensor) -> Iterator[tuple[float, Tensor, Tensor]]:
    for begin in range(0, len(inputs), _ROWS):
        part = slice(begin, begin + _ROWS)
        yield len(inputs[part]) / len(inputs), inputs[part], targets[part]
