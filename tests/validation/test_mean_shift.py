"""Where the mean of iterates stands: stationary laws that are known, and kinks, where f‴:S is no answer."""

import numpy as np
import pytest
import torch
from scipy.special import erf
from torch import nn

import sde_sgd as sde
from sde_sgd.validation import GradientNoise, LocalPrediction
from sde_sgd.validation import _mean_shift as shift
from sde_sgd.validation.local_prediction_figures import plot_domain, plot_mean_shift

CURVED, BENT, CONFINED = 1.3, 0.8, 0.9  # of f = h w²/2 + c w³/6 + q w⁴/24


class Bent(nn.Module):
    """f_k(w) = h w²/2 + c w³/6 + q w⁴/24 + s_k w: D = Var s does not depend on w."""

    def __init__(self, w):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([float(w)], dtype=torch.float64))

    def forward(self, s):
        return CURVED * self.w**2 / 2 + BENT * self.w**3 / 6 + CONFINED * self.w**4 / 24 + s * self.w


def first(output, target):
    return output.mean()


def slope_of_bent(w):
    return CURVED * w + BENT * w**2 / 2 + CONFINED * w**3 / 6


def stationary_mean(rate, deviation):
    """E w of w ← w − η(f'(w) + σξ), ξ normal: the stationary vector of its transition density, on a fine grid."""
    kicks = rate * deviation
    reach = 9 * kicks / np.sqrt(CURVED * rate * (2 - CURVED * rate))
    grid = np.linspace(-reach, reach, 1 + 2 * int(np.ceil(reach / (kicks / 3))))
    kernel = np.exp(-(((grid[:, None] - grid + rate * slope_of_bent(grid)) / kicks) ** 2) / 2)
    values, vectors = np.linalg.eig(kernel / kernel.sum(axis=0))
    law = np.abs(vectors[:, np.argmax(values.real)].real)
    return float(grid @ law / law.sum())


def predictions(rate, batch):
    """(v·∇f(w̄)/h, −E of the even part over N(0, S), the same axis by axis) of the one weight, at the exact mean."""
    mean = stationary_mean(rate, 1 / np.sqrt(batch))
    model, signs = Bent(mean), torch.tensor([[1.0], [-1.0]], dtype=torch.float64).repeat(128, 1)
    data = (signs, torch.zeros(256))
    local = LocalPrediction(model, first, data, learning_rate=rate, batch_size=batch)
    cloud = shift.predicted_cloud(local, 4000, np.random.default_rng(1))
    h, at = local.loss_hessian[0, 0], np.array([mean])
    bends = shift.even_part(slope_of_bent, at, cloud).mean(), shift.along_axes(slope_of_bent, at, local)[0]
    assert local.noise == pytest.approx(np.ones((1, 1)))
    return slope_of_bent(mean) / h, -bends[0] / h, -bends[1] / h, local.law.covariance[0, 0]


def test_the_predicted_shift_is_the_first_order_of_the_exact_one():
    """−(c/2h)S, off by O(T) of itself: a fourth of T, a fourth of the error. Without the ½, or with S/2, it is not."""
    batches, errors = (16, 64, 256), []
    for batch in batches:
        measured, whole, axes, variance = predictions(0.2, batch)
        assert axes == pytest.approx(-BENT * variance / (2 * CURVED), rel=0.1)
        # the cloud's Monte-Carlo error of a mean of squares is √(2/4000): five of them, 6e-7 false alarms
        assert whole == pytest.approx(axes, rel=0.112)
        errors.append(abs(axes / measured - 1))
        assert abs(2 * axes / measured - 1) > 0.8 and abs(0.5 * axes / measured - 1) > 0.4
    ratios = np.array(errors[:-1]) / errors[1:]
    assert errors[-1] < 0.01 and (np.abs(ratios / 4 - 1) < 0.25).all(), (errors, ratios)


def test_noise_that_grows_shifts_the_mode_and_not_the_mean():
    """f_k = a_k(w − c_k)²/2: E w = w* exactly, f‴ = 0, and the mode is off by −T D'(w*)/ā to first order in T."""
    rng = np.random.default_rng(3)
    a, c = rng.uniform(0.5, 2.0, 40), rng.normal(size=40)
    A, B = a.var(), -2 * np.cov(a, a * c, bias=True)[0, 1]
    centre = float((a * c).mean() / a.mean())

    class Parabolas(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.tensor([centre], dtype=torch.float64))

        def forward(self, pair):
            return pair[:, :1] * (self.w - pair[:, 1:]) ** 2 / 2

    data = torch.as_tensor(np.stack([a, c], axis=1)), torch.zeros(40)
    misses = []
    for rate in (0.08, 0.04, 0.02):
        local = LocalPrediction(Parabolas(), first, data, learning_rate=rate, batch_size=2)
        slope = lambda w: a.mean() * (w - centre)  # noqa: E731
        offsets = shift.predicted_cloud(local, 50, rng)
        assert np.abs(shift.even_part(slope, np.array([centre]), offsets)).max() < 1e-14
        assert np.abs(shift.along_axes(slope, np.array([centre]), local)).max() < 1e-14
        div = float(GradientNoise(Parabolas(), first, data).divergence(probes=4, seed=0)["divergence"][0])
        assert div == pytest.approx(2 * A * centre + B, rel=1e-12)
        T = rate / 4
        exact = (a.mean() * centre - T * B) / (a.mean() + 2 * T * A) - centre
        misses.append(abs(-T * div / a.mean() - exact) / abs(exact))
    assert (np.abs(np.array(misses[:-1]) / misses[1:] / 2 - 1) < 0.1).all()


def test_a_kink_needs_the_whole_cloud():
    """∇f = hw + a sign(a·w − t): E of the even part is P(|a·x| > t), 5 standard errors; a sum over axes is not."""
    d, h = 60, 2.0
    a = np.full(d, 1 / np.sqrt(d))
    law = LocalPrediction.from_matrices(h * np.eye(d), np.eye(d), learning_rate=0.02, batch_size=1)
    s = float(np.sqrt(law.law.covariance[0, 0]))
    cloud = shift.predicted_cloud(law, 4000, np.random.default_rng(5))
    assert np.cov(cloud.T) == pytest.approx(s**2 * np.eye(d), abs=0.15 * s**2)
    for t in (0.02 * s, 0.6 * s):
        slope = lambda w, t=t: h * w + a * np.sign(a @ w - t)  # noqa: E731
        found = shift.even_part(slope, np.zeros(d), cloud).mean(axis=0)
        # (sign(x − t) + sign(−x − t))/2 + 1 is 1 beyond ±t and 0 within
        beyond = 1 - erf(t / s / np.sqrt(2))
        assert a @ found == pytest.approx(beyond, abs=5 * np.sqrt(beyond * (1 - beyond) / 4000))
        axes = float(a @ shift.along_axes(slope, np.zeros(d), law))
        assert abs(axes - beyond) > 0.4, (axes, beyond)


def test_iterates_say_whether_the_slope_is_zero_on_average():
    """w exponential about 1, f' = w² − 2 there (E w² = 2): shift, error and bend are known; drift in f' is seen."""
    rng = np.random.default_rng(8)
    weights = rng.exponential(size=(2000, 1)) * np.sign(rng.random((2000, 1)) - 0.5)  # symmetric: E w² = 2
    slope = lambda w: w + w**2 - 2  # noqa: E731
    seen = shift.seen_shift(slope, weights, np.ones((1, 1)), 40, np.random.default_rng(2))
    z = float((seen["mean_slope"] / seen["mean_slope_error"])[0])
    assert abs(z) < 4.5 and float(seen["mean_slope_error"][0]) == pytest.approx(np.sqrt(22 / 2000), rel=0.5)
    variance = weights.var()
    assert float(seen["own_bend"][0]) == pytest.approx(variance, rel=1e-12) and float(seen["spread"]) == variance
    assert float(seen["gaussian_bend"][0]) == pytest.approx(variance, rel=5 * np.sqrt(2 / 2000))
    balance = float((seen["slope_at_mean"] + seen["own_bend"] - seen["mean_slope"])[0])
    assert abs(balance) < 1e-12  # exact for a quadratic slope
    moving = shift.seen_shift(lambda w: slope(w) + 1, weights, np.ones((1, 1)), 40, np.random.default_rng(2))
    assert float((moving["mean_slope"] / moving["mean_slope_error"])[0]) > 5


def test_figure_of_shifts():
    import xarray as xr

    found = xr.Dataset(
        {key: ("direction", np.array([0.1, 0.2])) for key in ("measured", "error", "predicted", "axes")}
        | {"deviation": ("direction", np.ones(2))}
    )
    assert [panel.get_title() for panel in plot_mean_shift({"relu": found, "tanh": found}).axes] == ["relu", "tanh"]
    with pytest.raises(ValueError, match="no shift"):
        plot_mean_shift({})
    assert len(plot_domain({"a": {1e-3: [0.1, 0.3], 1e-2: [0.2]}, "b": {1e-3: [0.1]}}, 0.2).lines) == 6
    with pytest.raises(ValueError, match="no network"):
        plot_domain({}, 0.2)


def test_pearson_mean_of_the_core_is_the_minimum():
    """Independent of the above: the exact discrete law of a finite sum of parabolas has the minimum for its mean."""
    X, y = np.random.default_rng(1).normal(size=(30, 2)), np.random.default_rng(2).normal(size=30)
    law = sde.DiscreteSGD.from_finite_sum(sde.FiniteSum.linear_model(X, y, "squared"), learning_rate=0.1, batch_size=2)
    assert np.allclose(law.center, np.linalg.lstsq(X, y, rcond=None)[0])
