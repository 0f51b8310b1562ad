"""Measurements on the step a run is about to take: its gradients, and the loss on the way to the next iterate."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from sde_sgd import _checks

from ._samples import one_number
from ._training_mode import forget_running_statistics
from .measures import data_of, flat, mean_loss, trainable

if TYPE_CHECKING:
    from .recording import RunState

STATISTICS = ("eval", "full")


class Ahead:
    """A copy of the model in training mode that takes the very steps the run is about to take.

    Samples, learning rate, velocity and the numbers that dropout draws are those of the run. ValueError with momentum
    where the run does not tell its velocity.
    """

    def __init__(self, model: nn.Module, state: RunState):
        self.model, self._state = copy.deepcopy(model).train(), state
        one = state.recursion
        if one.momentum and state.velocity is None and state.step:
            raise ValueError(
                f"the next iterate with momentum={one.momentum:g} needs the velocity, which this run does not tell"
            )
        self._velocity, self._taken = state.velocity, 0

    def gradient(self) -> Tensor:
        """(d,) ∇f_B of the coming batch, of SVAG the weighted sum of both; without weight decay."""
        state, one = self._state, self._state.recursion
        picks = torch.from_numpy(np.atleast_2d(state.batch(self._taken))).to(state.inputs.device)
        weights = trainable(self.model)
        with torch.enable_grad():
            parts = [share * one_number(state.loss(self.model(state.inputs[chosen]), state.targets[chosen]))
                     for share, chosen in zip(one.halves, picks)]  # fmt: skip
            slopes = torch.autograd.grad(torch.stack([p.reshape(()) for p in parts]).sum(), weights, allow_unused=True)
        return torch.cat([torch.zeros_like(w).flatten() if s is None else s.flatten() for w, s in zip(weights, slopes)])

    def step(self, gradient: Tensor) -> Tensor:
        """(d,) the weights after one update with `gradient`, as `torch.optim.SGD` makes it."""
        one, weights = self._state.recursion, flat(self.model)
        pull = gradient.add(weights, alpha=one.weight_decay) if one.weight_decay else gradient
        if one.momentum:
            self._velocity = pull if self._velocity is None else (one.momentum * self._velocity).add(pull)
            pull = pull.add(self._velocity, alpha=one.momentum) if one.nesterov else self._velocity
        weights = weights.add(pull, alpha=-self._state.learning_rate / one.svag)
        put(self.model, weights)
        self._taken += 1
        return weights


def put(model: nn.Module, weights: Tensor) -> None:
    """Give the trainable weights of a model, a copy, the values of `weights` (d,)."""
    parts = trainable(model)
    with torch.no_grad():
        for part, values in zip(parts, weights.split([part.numel() for part in parts])):
            part.copy_(values.reshape(part.shape))


class GradientProducts:
    """(g·g', |g|², |g'|²) of the coming mini-batch gradient g and the one after it, at the next iterate."""

    def __call__(self, model: nn.Module, state: RunState) -> np.ndarray:
        ahead = Ahead(model, state)
        first = ahead.gradient()
        ahead.step(first)
        one, two = first.double(), ahead.gradient().double()
        return np.array([float(one @ two), float(one @ one), float(two @ two)])


class GradientCosine(GradientProducts):
    """g·g'/(|g||g'|) of consecutive mini-batch gradients; NaN where one of them is 0."""

    def __call__(self, model: nn.Module, state: RunState) -> float:  # type: ignore[override]
        product, one, two = super().__call__(model, state)
        return product / float(np.sqrt(one * two)) if one * two > 0 else float("nan")


class SegmentLoss:
    """f((1−α)w + αw') for α = 0, 1/(n−1), …, 1, w' the next iterate of the run; over all samples of a part.

    `statistics` of batch norm: "eval", the running averages at w for every α; "full", those of all samples at each α.
    """

    def __init__(self, points: int = 11, part: str = "train", statistics: str = "eval"):
        self.points = _checks.whole("points", points, 3, 10_001)
        self.part = _checks.choice("part", part, ["train", "test"])
        self.statistics = _checks.choice("statistics", statistics, list(STATISTICS))

    def __call__(self, model: nn.Module, state: RunState) -> np.ndarray:
        ahead = Ahead(model, state)
        return along(model, flat(model), ahead.step(ahead.gradient()), state.loss, *data_of(state, self.part),
                     np.linspace(0, 1, self.points), self.statistics)  # fmt: skip


def along(
    model: nn.Module,
    begin: Tensor,
    end: Tensor,
    loss: Callable,
    inputs: Tensor,
    targets: Tensor,
    alphas,
    statistics: str,
) -> np.ndarray:
    """f((1−α)·begin + α·end) at each α, on a copy of the model in eval mode."""
    copied = copy.deepcopy(model).eval()
    if statistics == "full":
        forget_running_statistics(copied)  # batch norm then has nothing but its batch, in eval mode, too
    found = []
    for alpha in alphas:
        put(copied, torch.lerp(begin, end, float(alpha)))
        found.append(mean_loss(copied, loss, inputs, targets, whole=statistics == "full"))
    return np.array(found)
