"""Philox by its published answers, normals by their moments, lane functions against many-digit arithmetic."""

import math

import mpmath
import numpy as np
import pytest
from numba import njit

from sde_sgd.paths import _lane_math, _philox

U = np.uint64

# Random123's known answers for philox4x32-10: (counter, key) -> words
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize("counter, key, words", KNOWN)
def test_philox_known_answers(counter, key, words):
    assert _philox._philox(*map(U, counter), *map(U, key)) == words


@njit(error_model="numpy")
def _normals(count, k0):
    values = np.empty(2 * count)
    for i in range(count):
        values[2 * i], values[2 * i + 1] = _philox._two_normals(U(i), U(0), U(5), U(0), U(k0), U(9))
    return values


def test_ten_million_normals():
    """z-scores of moments 1–4, pairing, lag and tails; 10 of them at |z| < 5: false alarm 6e-6."""
    x = _normals(5_000_000, 1)
    n, scores = len(x), {}
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        scores[f"moment {power}"] = ((x**power).mean() - mean) / math.sqrt(variance / n)
    scores["pair"] = (x[::2] * x[1::2]).mean() * math.sqrt(n / 2)
    scores["pair of squares"] = ((x[::2] ** 2 - 1) * (x[1::2] ** 2 - 1)).mean() / 2 * math.sqrt(n / 2)
    scores["lag"] = (x[:-2] * x[2:]).mean() * math.sqrt(n)
    for cut in (2, 3, 4):
        p = math.erfc(cut / math.sqrt(2))
        scores[f"tail {cut}"] = ((np.abs(x) > cut).sum() - n * p) / math.sqrt(n * p)
    assert max(map(abs, scores.values())) < 5, scores
    wider = 1.005 * x  # the counterexample: half a per cent too wide must be seen
    assert ((wider**2).mean() - 1) / math.sqrt(2 / n) > 5


def test_indices_are_uniform_and_reach_both_ends():
    from sde_sgd import sample_indices

    picks = sample_indices(7, batch_size=7, steps=60_000, seed=3).ravel()
    counts = np.bincount(picks, minlength=7)
    chi2 = ((counts - len(picks) / 7) ** 2 / (len(picks) / 7)).sum()
    assert len(counts) == 7 and chi2 < 38.3  # 1e-6 quantile of chi² with 6 degrees of freedom
    huge = sample_indices(2**32 - 1, batch_size=1000, steps=10)
    assert huge.max() > 0.999 * 2**32 and huge.min() >= 0


RNG = np.random.default_rng(0)
RANGES = [
    ("exp", -700, 700),
    ("exp", -1, 1),
    ("log", 0.5, 2),
    ("log", 1e-300, 1e300),
    ("tanh", -0.6, 0.6),
    ("tanh", -20, 20),
    ("sinh", -2, 2),
    ("cosh", -700, 700),
    ("sin", -10, 10),
    ("cos", -10, 10),
    ("sin", -1e6, 1e6),
    ("tan", -10, 10),
]


@pytest.mark.parametrize("name, low, high", RANGES)
def test_lane_functions_to_a_few_units_in_the_last_place(name, low, high):
    function = getattr(_lane_math, f"_{name}")
    with mpmath.workdps(40):
        for x in RNG.uniform(low, high, 400):
            exact = getattr(mpmath, name)(mpmath.mpf(float(x)))
            assert abs(function(x) - exact) <= 6e-16 * abs(exact), x


def test_sines_of_large_arguments():
    with mpmath.workdps(60):
        for x in RNG.uniform(-1e15, 1e15, 300):
            assert abs(_lane_math._sin(x) - mpmath.sin(mpmath.mpf(float(x)))) < 1e-15
    assert math.isnan(_lane_math._sin(1.1e15)) and math.isnan(_lane_math._cos(-math.inf))


def test_lane_functions_at_the_edges():
    inf, nan = math.inf, math.nan
    assert [_lane_math._exp(x) for x in (0.0, -800.0, 800.0, -inf, inf)] == [1, 0, inf, 0, inf]
    assert [_lane_math._log(x) for x in (0.0, 1.0, inf, 5e-324)] == [-inf, 0, inf, math.log(5e-324)]
    assert [_lane_math._tanh(x) for x in (0.0, 1e-300, 800.0, -inf)] == [0, 1e-300, 1, -1]
    for name in ("exp", "log", "tanh", "sinh", "cosh"):
        assert math.isnan(getattr(_lane_math, f"_{name}")(nan))
    assert math.isnan(_lane_math._log(-1.0))
    assert [_lane_math._sign(x) for x in (-2.0, 0.0, 3.0)] == [-1, 0, 1]
