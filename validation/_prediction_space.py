"""The space in which a local prediction is made: all weights, or the leading directions of H and D together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .curvature import Curvature
from .gradient_noise import GradientNoise

Array = NDArray[np.float64]
_FLAT = 1e-9  # of the largest curvature: below it a direction has no steady state worth the name


@dataclass(frozen=True)
class Space:
    """Orthonormal rows `basis` (m, d), eigenvectors of H + λ within their span, with D among them.

    ``curvature`` (m,) ascending and > 0; ``noise`` (m, m). ``outside`` is the share of tr D beyond the span and
    ``unstable`` the number of directions that were left out because H + λ is not positive along them; ``coupling`` is
    |(1 − P) H P|/|H P| in the Frobenius norm, P the projection on the span: 0 where H does not lead out of it.
    """

    basis: Array
    curvature: Array
    noise: Array
    outside: float
    unstable: int
    coupling: float


def whole_space(hessian: Array, noise: Array, decay: float) -> Space:
    """All directions of positive curvature, from dense matrices."""
    values, vectors = np.linalg.eigh(hessian)
    return _stable(values + decay, vectors.T, vectors.T @ noise @ vectors, float(np.trace(noise)), 0.0)


def leading_space(curvature: Curvature, noise: GradientNoise, top: int, directions, decay: float, seed: int) -> Space:
    """The span of the `top` leading eigenvectors of H, those of D, and `directions`, from products."""
    size = curvature.parameters
    rows = [
        curvature.eigenvectors(min(top, size), seed=seed),
        noise.eigenvectors(min(top, size, noise.samples - 1), seed=seed),  # D has no more
    ]
    if directions is not None:
        rows.append(directions)
    _, sizes, span = np.linalg.svd(np.concatenate(rows), full_matrices=False)
    span = span[sizes > 1e-8 * sizes[0]]
    bent, noisy = (_products(matrix.matvec, span) for matrix in (curvature, noise))
    inner = span @ bent.T
    values, turn = np.linalg.eigh((inner + inner.T) / 2)
    leak = bent - (bent @ span.T) @ span
    coupling = float(np.linalg.norm(leak) / max(float(np.linalg.norm(bent)), np.finfo(float).tiny))
    return _stable(values + decay, turn.T @ span, turn.T @ (span @ noisy.T) @ turn, float(noise.trace()), coupling)


def _products(matvec: Callable, rows: Array) -> Array:
    return np.stack([np.asarray(matvec(row), dtype=np.float64) for row in rows])


def _stable(values: Array, basis: Array, noise: Array, trace: float, coupling: float) -> Space:
    kept = values > _FLAT * np.abs(values).max()
    if not kept.any():
        raise ValueError(
            f"H + weight decay has no direction of positive curvature (largest eigenvalue {values.max():g}): there is "
            "no minimum nearby; train further, or take other weights"
        )
    noise = noise[np.ix_(kept, kept)]
    noise = (noise + noise.T) / 2
    inside = float(np.trace(noise))
    if not inside > 0:
        raise ValueError("D is 0 in this space: the samples' gradients are equal there, and SGD rests")
    return Space(basis[kept], values[kept], noise, max(0.0, 1.0 - inside / trace), int((~kept).sum()), coupling)
