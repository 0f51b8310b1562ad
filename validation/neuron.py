"""The two-weight network as a torch module, trained step by step on prescribed mini-batches."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from sde_sgd import _checks

from ._numbers import from_zero


class Neuron(nn.Module):
    """p(x) = tanh(w x + c): one neuron, two weights (w, c) in this order, float64.

    The smallest real network whose density can be computed on a grid; its loss is (p − y)²/2 averaged over
    data, plus (λ/2)(w² + c²) as weight decay.
    """

    def __init__(self, w: float = 0.0, c: float = 0.0):
        super().__init__()
        self.w = nn.Parameter(torch.from_numpy(_checks.finite_array("w", w, ()).copy()))
        self.c = nn.Parameter(torch.from_numpy(_checks.finite_array("c", c, ()).copy()))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.w * x + self.c)


def replay_sgd(
    indices: ArrayLike,
    x: ArrayLike,
    y: ArrayLike,
    start: ArrayLike,
    *,
    learning_rate: float,
    weight_decay: float,
) -> NDArray[np.float64]:
    """Trajectory of :class:`Neuron` under ``torch.optim.SGD`` on given samples, by autograd.

    Step t: θ ← θ − η (∇ mean_k∈indices[t] (tanh(w x_k + c) − y_k)²/2 + λ θ), in float64.

    Parameters
    ----------
    indices : (steps, batch_size) integers in [0, N), repetitions allowed.
    x, y : (N,) data.
    start : (2,) the weights (w, c) before the first step.
    learning_rate : η > 0.
    weight_decay : λ ≥ 0, the same number as in the loss (λ/2)|θ|².

    Returns
    -------
    (steps + 1, 2) float64, row 0 the start.

    Raises
    ------
    ValueError
        Shapes or indices outside their range, or weights that are no longer finite (naming the step).

    About 0.1 ms a step: for checking a faster implementation on the same samples, not for ensembles.
    """
    x, y = _checks.finite_array("x", x), _checks.finite_array("y", y)
    if x.ndim != 1 or x.shape != y.shape or x.size == 0:
        raise ValueError(f"x and y must be one-dimensional and of one length; got {x.shape} and {y.shape}")
    indices = np.asarray(indices)
    if indices.ndim != 2 or indices.shape[1] == 0 or not np.issubdtype(indices.dtype, np.integer):
        raise ValueError(f"indices must be integers (steps, batch_size); got {indices.dtype} {indices.shape}")
    if indices.size and not 0 <= indices.min() <= indices.max() < x.size:
        raise ValueError(f"indices reach from {indices.min()} to {indices.max()}: there are {x.size} samples")
    start = _checks.finite_array("start", start, (2,))
    learning_rate = _checks.positive("learning_rate", learning_rate)
    weight_decay = from_zero("weight_decay", weight_decay)

    model = Neuron(*start)
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate, weight_decay=weight_decay, foreach=False)
    chosen = torch.from_numpy(indices.astype(np.int64))
    batches, labels = torch.from_numpy(x)[chosen], torch.from_numpy(y)[chosen]  # one gather, not one per step
    trajectory = np.empty((len(indices) + 1, 2))
    trajectory[0] = start
    for step, (batch, label) in enumerate(zip(batches, labels), start=1):
        optimizer.zero_grad()
        ((model(batch) - label).square().mean() / 2).backward()
        optimizer.step()
        trajectory[step] = model.w.item(), model.c.item()
    finite = np.isfinite(trajectory).all(axis=1)
    if not finite.all():
        raise ValueError(f"weights not finite after step {int(np.argmin(finite))}: lower learning_rate={learning_rate}")
    return trajectory
