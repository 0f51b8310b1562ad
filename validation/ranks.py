"""How many directions a spectrum occupies, with and without a threshold."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from sde_sgd import _checks


def rank_measures(eigenvalues: ArrayLike, parameters: int) -> dict[str, float | int]:
    """Ranks of a positive semi-definite D from its eigenvalues λ_1 ≥ λ_2 ≥ …; zeros may be left out.

    ==========================  =====================================================================
    ``rank_float32``            #{λ_i > λ_1 d ε}, ε = 2⁻²³: the threshold rank as float32 software has it
    ``rank_float64``            the same with ε = 2⁻⁵²
    ``threshold_float32/64``    λ_1 d ε itself
    ``participation_ratio``     (Σλ)² / Σλ²
    ``stable_rank``             Σλ / λ_1, the stable rank ‖A‖_F²/‖A‖₂² of any factor A Aᵀ = D
    ``entropy_rank``            exp(−Σ p_i log p_i), p_i = λ_i/Σλ
    ``eigenvalues_99``          the smallest k with λ_1 + … + λ_k ≥ 0.99 Σλ
    ==========================  =====================================================================

    Parameters
    ----------
    eigenvalues : (n,) finite, at least −1e-12 of the largest; negative ones count as 0.
    parameters : d, the side of D, which enters the thresholds.

    D = 0 has every rank 0.

    Raises
    ------
    ValueError
        Not one-dimensional, not finite, clearly negative, or more eigenvalues than parameters.

    References
    ----------
    Chaudhari & Soatto 2018, section 4 (threshold λ_max d ε, numpy's ``matrix_rank``); Rudelson &
    Vershynin 2007 (stable rank); Roy & Vetterli 2007 (entropy rank).

    Do not compare threshold ranks of different float types: at d = 13,338 the relative cut is 1.6e-3 in
    float32 and 3e-12 in float64. The other four need no threshold.
    """
    values = _checks.finite_array("eigenvalues", eigenvalues)
    parameters = _checks.whole("parameters", parameters, 1)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"eigenvalues must be a one-dimensional, non-empty array; got shape {values.shape}")
    if values.size > parameters:
        raise ValueError(f"{values.size} eigenvalues, but D has only {parameters} rows: pass d as parameters")
    if values.min() < -1e-12 * values.max():
        raise ValueError(
            f"eigenvalue {values.min():.3g} is negative beyond rounding (largest {values.max():.3g}): "
            "these ranks are of positive semi-definite matrices; accumulate D in float64"
        )
    values = np.sort(np.maximum(values, 0.0))[::-1]
    largest, trace = float(values[0]), float(values.sum())
    thresholds = {name: largest * parameters * float(np.finfo(name).eps) for name in ("float32", "float64")}
    measures: dict[str, float | int] = {}
    for name, threshold in thresholds.items():
        measures[f"rank_{name}"] = int((values > threshold).sum())
        measures[f"threshold_{name}"] = threshold
    if trace == 0.0:
        return measures | {
            "participation_ratio": 0.0,
            "stable_rank": 0.0,
            "entropy_rank": 0.0,
            "eigenvalues_99": 0,
        }
    shares = values / trace
    occupied = shares[shares > 0.0]
    return measures | {
        "participation_ratio": 1.0 / float((shares**2).sum()),
        "stable_rank": trace / largest,
        "entropy_rank": float(np.exp(-(occupied * np.log(occupied)).sum())),
        "eigenvalues_99": int(np.searchsorted(np.cumsum(shares), 0.99) + 1),
    }
