"""Ranks of spectra that are known, and what has no rank."""

import numpy as np
import pytest

from sde_sgd.validation import rank_measures


def test_ranks_of_a_known_spectrum():
    measures = rank_measures([1.0, 1.0, 1e-5, 1e-14, 0.0], parameters=100)
    # float32 cuts at 100·2⁻²³ = 1.19e-5, float64 at 2.2e-14: one spectrum, two ranks.
    assert (measures["rank_float32"], measures["rank_float64"]) == (2, 3)
    assert measures["threshold_float32"] == 100 * 2.0**-23
    assert measures["participation_ratio"] == pytest.approx(2.0, rel=1e-4)
    assert measures["stable_rank"] == pytest.approx(2.0, rel=1e-4)
    assert measures["entropy_rank"] == pytest.approx(2.0, rel=1e-3)
    assert measures["eigenvalues_99"] == 2
    flat = rank_measures(np.full(10, 0.1), parameters=10)
    assert flat["eigenvalues_99"] == 10
    for name in ("participation_ratio", "stable_rank", "entropy_rank", "rank_float32", "rank_float64"):
        assert flat[name] == pytest.approx(10)
    assert set(rank_measures(np.zeros(3), parameters=3).values()) == {0}


@pytest.mark.parametrize(
    ("eigenvalues", "parameters", "message"),
    [
        ([1.0, -1e-6], 2, "negative"),
        ([1.0, np.nan], 2, r"eigenvalues must be finite, got nan at index \(1,\)"),
        (["a"], 2, "eigenvalues must be an array of real numbers"),
        ([1.0], 1.5, "parameters must be a whole number"),
        ([[1.0]], 1, "one-dimensional"),
        ([1.0, 1.0], 1, "rows"),
    ],
)
def test_ranks_refuse(eigenvalues, parameters, message):
    with pytest.raises(ValueError, match=message):
        rank_measures(eigenvalues, parameters)
