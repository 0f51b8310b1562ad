"""The ready-made measurements on a finite sum, in closed form and for many steps at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sde_sgd import FiniteSum, _checks

from . import measures, measures_noise, measures_steps
from ._recursion import Recursion
from .measures_noise import batch_share, cosine_of, statistics_of

_ENTRIES = 2**22  # numbers of sample gradients at once: 32 MiB


@dataclass(frozen=True)
class Walked:
    """Some steps of a run: x (n, d) before each, `ahead` (n, d) after it, their numbers, and where the run began."""

    finite_sum: FiniteSum
    steps: NDArray[np.int64]
    x: NDArray[np.float64]
    ahead: NDArray[np.float64]
    start: NDArray[np.float64]
    recursion: Recursion
    replica: int

    @cached_property
    def products(self) -> NDArray[np.float64]:
        """(n, 3) g·g', |g|², |g'|²."""
        one, two = self._gradients(self.x, 0), self._gradients(self.ahead, 1)
        return np.stack([(one * two).sum(-1), (one**2).sum(-1), (two**2).sum(-1)], axis=-1)

    def _gradients(self, x: NDArray[np.float64], later: int) -> NDArray[np.float64]:
        """(n, d) the mini-batch gradients at x of the batches `later` steps on."""
        found = np.empty_like(x)
        rows = max(1, _ENTRIES // (self.finite_sum.samples * x.shape[1]))
        for begin in range(0, len(x), rows):
            part = slice(begin, begin + rows)
            picks = self._picks(self.steps[part] + later)  # (rows, halves, b)
            full = picks >= 0
            flat = np.where(full, picks, 0).reshape(len(picks), -1, 1)
            chosen = np.take_along_axis(self.finite_sum.sample_gradients(x[part]), flat, axis=1)
            chosen = chosen.reshape(*picks.shape, -1) * full[..., None]
            means = chosen.sum(axis=2) / full.sum(axis=2)[..., None]
            found[part] = np.einsum("h,nhd->nd", self.recursion.halves, means)
        return found

    def _picks(self, steps: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n, halves, b) the samples of increasing steps, −1 where a batch is not full."""
        first, count = int(steps[0]), int(steps[-1] - steps[0]) + 1
        if count <= 64 * len(steps):
            return self.recursion.picks(first, count, self.replica)[steps - first]
        return np.concatenate([self.recursion.picks(int(step), 1, self.replica) for step in steps])


def measured(walked: Walked, measure: Any, name: str) -> NDArray[np.float64]:
    """(n, …) what `measure`, one of the ready-made, gives at each step. ValueError for what a finite sum lacks."""
    if type(measure) not in OF_SUMS:
        known = ", ".join(sorted(kind.__name__ for kind in OF_SUMS))
        raise ValueError(
            f"recorder {name!r} measures a torch model by {type(measure).__name__}; of a finite sum there are: {known}"
        )
    if getattr(measure, "part", "train") != "train":
        raise ValueError(f'recorder {name!r}: a finite sum has no test set; take part="train"')
    return OF_SUMS[type(measure)](walked, measure)


def _loss(walked: Walked, measure) -> NDArray:
    return walked.finite_sum.loss(walked.x)


def _gradient_norm(walked: Walked, measure) -> NDArray:
    return np.linalg.norm(walked.finite_sum.gradient(walked.x), axis=-1)


def _noise_trace(walked: Walked, measure) -> NDArray:
    return np.trace(walked.finite_sum.diffusion(walked.x), axis1=-2, axis2=-1)


def _noise_eigenvalues(walked: Walked, measure) -> NDArray:
    return _largest(walked.finite_sum.diffusion(walked.x), measure.count)


def _hessian_eigenvalues(walked: Walked, measure) -> NDArray:
    return _largest(walked.finite_sum.hessian(walked.x), measure.count)


def _largest(matrices: NDArray, count: int) -> NDArray:
    count = _checks.whole("count", count, 1, matrices.shape[-1], "there are as many eigenvalues")
    return np.linalg.eigvalsh(matrices)[..., ::-1][..., :count]


def _alignment(walked: Walked, measure) -> NDArray:
    return np.asarray(cosine_of(walked.finite_sum.diffusion(walked.x), walked.finite_sum.hessian(walked.x)))


def _statistics(walked: Walked, measure) -> NDArray:
    one = walked.recursion
    share = batch_share(measure.batch_size or one.batch_size, one.samples, one.sampling)
    signal = (walked.finite_sum.gradient(walked.x) ** 2).sum(-1)
    return statistics_of(signal, _noise_trace(walked, measure), share)[:, None, :]


def _cosine(walked: Walked, measure) -> NDArray:
    product, one, two = walked.products.T
    with np.errstate(divide="ignore", invalid="ignore"):
        return product / np.sqrt(one * two)


def _segment(walked: Walked, measure) -> NDArray:
    alphas = np.linspace(0, 1, measure.points)[:, None]
    return walked.finite_sum.loss(walked.x[:, None] + alphas * (walked.ahead - walked.x)[:, None])


def _projections(walked: Walked, measure) -> NDArray:
    directions = measure.directions
    if directions.ndim != 2 or directions.shape[1] != walked.x.shape[1]:
        raise ValueError(f"directions must have shape (k, {walked.x.shape[1]}), got {directions.shape}")
    return walked.x @ directions.T


OF_SUMS: dict[type, Callable[[Walked, Any], NDArray]] = {
    measures.Loss: _loss,
    measures.GradientNorm: _gradient_norm,
    measures.NoiseTrace: _noise_trace,
    measures.NoiseEigenvalues: _noise_eigenvalues,
    measures.HessianEigenvalues: _hessian_eigenvalues,
    measures.Projections: _projections,
    measures.Norm: lambda walked, measure: np.linalg.norm(walked.x, axis=-1),
    measures.Distance: lambda walked, measure: np.linalg.norm(walked.x - walked.start, axis=-1),
    measures.Weights: lambda walked, measure: walked.x,
    measures_noise.NoiseHessianCosine: _alignment,
    measures_noise.GradientStatistics: _statistics,
    measures_steps.GradientCosine: _cosine,
    measures_steps.GradientProducts: lambda walked, measure: walked.products,
    measures_steps.SegmentLoss: _segment,
}
