"""The space in which a local prediction is made: all weights, or the leading directions of H and D together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from .curvature import Curvature
from .gradient_noise import GradientNoise

Array = NDArray[np.float64]
_DEPENDENT = 1e-6  # of unit rows: their smallest singular value that counts as a direction of its own
_ROUNDING = 1e-13  # of the largest eigenvalue of D: below it an eigenvalue is 0
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
        leading_pairs(noise, top, seed)["vectors"].values,
    ]
    if directions is not None:
        rows.append(directions)
    span, inner, noisy, coupling = joint_span(curvature, noise, np.concatenate(rows))
    values, turn = np.linalg.eigh(inner)
    return _stable(values + decay, turn.T @ span, turn.T @ noisy @ turn, float(noise.trace()), coupling)


def joint_span(curvature: Curvature, noise: GradientNoise, rows: Array) -> tuple[Array, Array, Array, float]:
    """(basis, H, D, coupling): orthonormal rows (m, d) that span `rows`, B H Bᵀ and B D Bᵀ, by m products each.

    ``coupling`` is |(1 − P) H P|/|H P| in the Frobenius norm, P = BᵀB. Rows count by their directions, not by their
    lengths; what is then below 1e-6 of the largest singular value is left out.
    """
    _, sizes, basis = np.linalg.svd(rows / np.linalg.norm(rows, axis=1, keepdims=True), full_matrices=False)
    basis = basis[sizes > _DEPENDENT * sizes[0]]
    bent, noisy = (_products(matrix.matvec, basis) for matrix in (curvature, noise))
    inner, scatter = bent @ basis.T, noisy @ basis.T
    leak = bent - inner @ basis
    coupling = float(np.linalg.norm(leak) / max(float(np.linalg.norm(bent)), np.finfo(float).tiny))
    return basis, (inner + inner.T) / 2, (scatter + scatter.T) / 2, coupling


def leading_pairs(noise: GradientNoise, k: int, seed: int = 0) -> xr.Dataset:
    """The k leading eigenpairs of D, or as many as are above rounding; ValueError where none is."""
    k = min(k, noise.parameters, noise.samples - 1)  # D has no more
    try:
        pairs = noise.eigenpairs(k, seed=seed)
    except ValueError:  # from the Gram side what is 0 has no vector
        values = noise.spectrum(k, seed=seed)
        above = int((values > _ROUNDING * values[0]).sum())
        if 0 < above < k:
            return noise.eigenpairs(above, seed=seed)
        if above:  # it was another fault
            raise
        pairs = None
    above = 0 if pairs is None else int((pairs["eigenvalues"] > _ROUNDING * pairs["eigenvalues"][0]).sum())
    if pairs is None or not above:
        raise ValueError("D is 0: all samples have the same gradient, and SGD has no noise")
    return pairs.isel(index=slice(above))


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
