"""Measurements of signal and noise of the gradient: per layer, and how D lies to the Hessian."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from sde_sgd import _checks

if TYPE_CHECKING:
    from .recording import RunState

STATISTIC = ("mean", "sample_deviation", "batch_deviation", "snr")


def layers(model: nn.Module) -> dict[str, list[str]]:
    """The trainable weights by the module that owns them: {module: names}, in the order of the model."""
    found: dict[str, list[str]] = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            found.setdefault(name.rpartition(".")[0], []).append(name)
    return found


class GradientStatistics:
    """Per layer |g|, √tr D, √tr D_b and their ratio |g|/√tr D_b, the signal-to-noise ratio; (layer, 4).

    g and D are those of the layer's weights, exact over all samples, batch norm frozen; D_b is the covariance of the
    gradient of one mini-batch: D/b, times (N−b)/(N−1) for batches without repetition. ∞ where there is no noise,
    NaN where there is no gradient either.

    batch_size : b; default that of the run.
    """

    def __init__(self, batch_size: int | None = None):
        self.batch_size = None if batch_size is None else _checks.whole("batch_size", batch_size, 1)

    def __call__(self, model: nn.Module, state: RunState) -> np.ndarray:
        from .gradient_noise import GradientNoise

        noise = GradientNoise(model, state.loss, (state.inputs, state.targets))
        sizes = {name: weight.numel() for name, weight in model.named_parameters() if weight.requires_grad}
        owned = [sum(sizes[name] for name in names) for names in layers(model).values()]
        count, mean = 0, torch.zeros(sum(sizes.values()), dtype=torch.float64, device=noise.device)
        scatter = torch.zeros_like(mean)
        for rows in noise.sample_gradients():  # sums around a running mean: Chan, Golub & LeVeque (1979)
            part = rows.double()
            own, total = part.mean(0), count + len(part)
            scatter += (part - own).square().sum(0) + (own - mean).square() * (count * len(part) / total)
            mean, count = mean + (own - mean) * (len(part) / total), total
        signal = [float(g.square().sum()) for g in mean.split(owned)]
        trace = [float(s.sum()) / count for s in scatter.split(owned)]
        return statistics_of(np.array(signal), np.array(trace), self._share(state))

    def _share(self, state: RunState) -> float:
        return batch_share(self.batch_size or state.recursion.batch_size, state.recursion.samples,
                           state.recursion.sampling)  # fmt: skip


def batch_share(batch_size: int, samples: int, sampling: str) -> float:
    """Covariance of a mini-batch gradient over D: 1/b, or (N−b)/(b(N−1)) for batches without repetition."""
    if batch_size > samples:
        raise ValueError(f"batch_size must be at most the {samples} samples, got {batch_size}")
    return (1.0 if sampling == "with_replacement" else (samples - batch_size) / (samples - 1)) / batch_size


def statistics_of(signal: np.ndarray, trace: np.ndarray, share: float) -> np.ndarray:
    """(…, 4) from |g|², tr D and the share of D in the covariance of a mini-batch gradient."""
    with np.errstate(divide="ignore", invalid="ignore"):
        mean, deviation = np.sqrt(signal), np.sqrt(share * trace)
        return np.stack([mean, np.sqrt(trace), deviation, mean / deviation], axis=-1)


@dataclass
class NoiseHessianCosine:
    """tr(DH)/(‖D‖‖H‖), Frobenius norms: 1 for D = cH > 0, 0 where their ranges are perpendicular.

    `probes`, `seed` as of `GradientNoise.cosine`: None forms both matrices for d ≤ 2,000.
    """

    probes: int | None = None
    seed: int = 0

    def __call__(self, model: nn.Module, state: RunState) -> float:
        from .curvature import Curvature
        from .gradient_noise import GradientNoise

        pair = (state.inputs, state.targets)
        noise = GradientNoise(model, state.loss, pair)
        return float(noise.cosine(Curvature(model, state.loss, pair), probes=self.probes, seed=self.seed))


def cosine_of(noise: np.ndarray, hessian: np.ndarray) -> np.ndarray | float:
    """tr(DH)/(‖D‖‖H‖) of symmetric matrices (…, d, d)."""
    product = (noise * hessian).sum((-2, -1))
    found = product / np.sqrt((noise**2).sum((-2, -1)) * (hessian**2).sum((-2, -1)))
    return float(found) if np.ndim(found) == 0 else found
