"""Information: exact tables and Gaussian channels, estimators against them and against quadrature, and their caps."""

import numpy as np
import pytest
from scipy.integrate import quad

from sde_sgd.validation.information import (
    binned_information,
    gaussian_information,
    kernel_information,
    mutual_information,
    plug_in_information,
    sampled_information,
)


def entropy(p):
    p = np.asarray(p)[np.asarray(p) > 0]
    return -(p * np.log2(p)).sum()


def mixture_information(centres, sigma, labels=None):
    """I(K; h_K + σZ), one unit, by quadrature; of the labels instead of K if they are given."""
    centres = np.asarray(centres, dtype=float)

    def density(t, of):
        return np.exp(-((t - of) ** 2) / (2 * sigma**2)).mean() / np.sqrt(2 * np.pi * sigma**2)

    def entropy_of(of):
        ends = of.min() - 9 * sigma, of.max() + 9 * sigma
        value = quad(lambda t: -density(t, of) * np.log2(density(t, of) + 1e-300), *ends, epsabs=1e-10, limit=400,
                     points=np.sort(of)[:50])  # fmt: skip
        return value[0]

    if labels is None:
        return entropy_of(centres) - 0.5 * np.log2(2 * np.pi * np.e * sigma**2)
    parts = [(np.mean(labels == y), centres[labels == y]) for y in np.unique(labels)]
    return entropy_of(centres) - sum(share * entropy_of(of) for share, of in parts)


# Exact -----------------------------------------------------------------------------------------------------------


def test_tables_of_discrete_channels():
    """The binary symmetric channel has 1 − H(p) bits, the erasure channel 1 − p; independence none."""
    for p in (0.0, 0.11, 0.5):
        symmetric = np.array([[1 - p, p], [p, 1 - p]]) / 2
        assert mutual_information(symmetric) == pytest.approx(1 - entropy([p, 1 - p]), abs=1e-14)
        erasure = np.array([[1 - p, p, 0], [0, p, 1 - p]]) / 2
        assert mutual_information(erasure) == pytest.approx(1 - p, abs=1e-14)
    product = np.outer([0.2, 0.8], [0.5, 0.3, 0.2])
    assert mutual_information(product) == pytest.approx(0, abs=1e-14)
    joint = np.random.default_rng(0).random((3, 5))
    joint /= joint.sum()
    whole = entropy(joint.sum(0)) + entropy(joint.sum(1)) - entropy(joint)
    assert mutual_information(joint) == pytest.approx(whole, abs=1e-14)
    assert mutual_information(joint.T) == pytest.approx(whole, abs=1e-14)
    for wrong in (np.ones((2, 2)), [[0.6, 0.6], [-0.2, 0.0]], [0.5, 0.5]):
        with pytest.raises(ValueError, match="add up to 1"):
            mutual_information(wrong)


def test_gaussian_channels():
    assert gaussian_information(3.0, 1.0) == pytest.approx(1.0, abs=1e-14)  # ½ log₂ 4
    a = np.random.default_rng(1).standard_normal((3, 3))
    s = a @ a.T
    apart = sum(0.5 * np.log2(1 + value / 0.25) for value in np.linalg.eigvalsh(s))
    assert gaussian_information(s, 0.5) == pytest.approx(apart, abs=1e-12)
    with pytest.raises(ValueError, match="infinite"):
        gaussian_information(1.0, 0.0)


# Estimators ------------------------------------------------------------------------------------------------------


def test_plug_in_and_its_bias_on_a_symmetric_channel():
    """Independent symbols: the mean over 400 sets is the bias (K−1)²/(2n ln 2); corrected, 0 (5 standard errors)."""
    rng, n, k = np.random.default_rng(2), 200, 4
    found = np.array([[plug_in_information(x, y, c) for c in ("none", "miller-madow")]
                      for x, y in rng.integers(0, k, (400, 2, n))])  # fmt: skip
    error = found.std(axis=0) / 20
    bias = (k - 1) ** 2 / (2 * n * np.log(2))
    assert abs(found[:, 0].mean() - bias) < 5 * error[0] + 0.03 * bias  # next order: 1/n²
    assert abs(found[:, 1].mean()) < 5 * error[1] + 0.03 * bias and bias > 20 * error[0]
    x = rng.integers(0, 2, 50_000)
    y = np.where(rng.random(50_000) < 0.11, 1 - x, x)
    assert plug_in_information(x, y) == pytest.approx(1 - entropy([0.11, 0.89]), abs=0.02)
    ids = np.arange(64)
    assert plug_in_information(ids, ids) == pytest.approx(6.0)  # its cap, whatever the population
    assert plug_in_information(ids, ids, "miller-madow") > 6.5  # which the correction is not held to
    with pytest.raises(ValueError, match="pairs"):
        plug_in_information([1, 2], [1])


def test_bins_are_entropies_of_symbols_under_their_caps():
    rng = np.random.default_rng(3)
    hidden, labels = rng.uniform(-1, 1, (200, 2)), rng.integers(0, 3, 200)
    found = binned_information(hidden, labels, bins=4, bounds=(-1, 1))
    symbols = (np.floor((hidden + 1) * 2).astype(int) * [4, 1]).sum(1)
    whole = entropy(np.bincount(symbols) / 200)
    assert found.inputs.low == found.inputs.high == pytest.approx(whole, abs=1e-12)
    assert found.labels.low == pytest.approx(plug_in_information(symbols, labels), abs=1e-12)
    assert found.inputs.cap == 4.0 and found.labels.cap == pytest.approx(entropy(np.bincount(labels) / 200))
    fine = binned_information(hidden, labels, bins=10**6)
    assert fine.inputs.low == pytest.approx(np.log2(200)) and fine.inputs.cap == pytest.approx(np.log2(200))
    assert fine.labels.low == pytest.approx(fine.labels.cap)  # every sample alone: all of the labels, of pure noise
    outside = binned_information([[-5.0], [5.0]], [0, 1], bins=2, bounds=(-1, 1))
    assert outside.inputs.low == 1.0 and outside.inputs.middle == 1.0
    assert binned_information(np.ones((5, 2)), np.zeros(5, int)).inputs.low == 0.0
    for wrong, said in (({"bins": 1}, "bins"), ({"bounds": (1, -1)}, "must increase")):
        with pytest.raises(ValueError, match=said):
            binned_information(hidden, labels, **wrong)
    with pytest.raises(ValueError, match="same samples"):
        binned_information(hidden, labels[:-1])
    with pytest.raises(ValueError, match="samples, units"):
        binned_information(hidden[:, 0], labels)


@pytest.mark.parametrize("sigma", [0.05, 0.4, 2.0])
def test_bounds_hold_the_integral_and_draws_meet_it(sigma):
    """One unit, eight samples: the quadrature lies between the bounds; draws are 4 standard errors off at most."""
    centres, labels = np.array([-1.0, -0.9, -0.2, 0.1, 0.15, 0.7, 1.0, 1.3]), np.array([0, 0, 1, 0, 1, 1, 1, 0])
    exact, of_labels = mixture_information(centres, sigma), mixture_information(centres, sigma, labels)
    bounds = kernel_information(centres[:, None], labels, noise=sigma)
    drawn = sampled_information(centres[:, None], labels, noise=sigma, draws=1500)
    assert bounds.inputs.low <= exact + 1e-9 and exact <= bounds.inputs.high + 1e-9
    assert bounds.labels.low <= of_labels + 1e-9 and of_labels <= bounds.labels.high + 1e-9
    for bracket, value in ((drawn.inputs, exact), (drawn.labels, of_labels)):
        assert abs(bracket.middle - value) < 2.1 * (bracket.high - bracket.low) + 1e-9  # 4 standard errors
        assert bracket.middle <= bracket.cap and bracket.high - bracket.low < 0.08
    assert bounds.inputs.cap == 3.0 and bounds.labels.cap == 1.0
    wrong = kernel_information(centres[:, None], labels, noise=1.5 * sigma).inputs
    assert wrong.low < bounds.inputs.low and wrong.high < bounds.inputs.high  # another noise is another channel


def test_a_gaussian_channel_is_met_below_the_cap_and_missed_above():
    """X normal in two units: below log₂ n by four bits, draws are within 0.1 of the exact; above it, at the cap."""
    n = 512
    x, none = np.random.default_rng(4).standard_normal((n, 2)), np.zeros(n, int)
    easy, hard = (gaussian_information(np.eye(2), sigma) for sigma in (0.5, 0.003))
    found = sampled_information(x, none, noise=0.5, draws=4)
    assert easy < 5 and abs(found.inputs.middle - easy) < 0.1
    for estimate in (kernel_information(x, none, noise=0.003), sampled_information(x, none, noise=0.003, draws=2),
                     binned_information(x, none, bins=2000)):  # fmt: skip
        assert hard > 16 and 8.9 < estimate.inputs.high <= 9.0 + 1e-12 and estimate.inputs.cap == 9.0
        assert estimate.labels.high == pytest.approx(0.0, abs=1e-12)
    together = kernel_information(np.ones((6, 3)), np.arange(6), noise=1.0)
    assert together.inputs.high == 0.0 and together.labels.low == 0.0


def test_units_do_not_matter_and_rotations_do_not():
    """Scaling activations with the noise, and rotating them, changes nothing; bins do see a rotation."""
    rng = np.random.default_rng(5)
    hidden, labels = rng.standard_normal((60, 3)), rng.integers(0, 2, 60)
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    one = kernel_information(hidden, labels, noise=0.3)
    scaled = kernel_information(7 * hidden, labels, noise=2.1)
    for other in (scaled, kernel_information(hidden @ turn, labels, noise=0.3)):
        np.testing.assert_allclose(other.inputs + other.labels, one.inputs + one.labels, atol=1e-10)
    plain, turned = (binned_information(h, labels, bins=3).inputs.low for h in (hidden, hidden @ turn))
    assert abs(plain - turned) > 0.01
