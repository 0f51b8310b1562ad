"""Φ from samples against exact Φ, on chains whose law is exact at any correlation; bias, refusals, inputs.

A Gaussian AR(1) chain u, x = F⁻¹(N(u)): every x has the distribution function F, and neighbours are correlated.
Bounds on single draws are 4.5 standard errors per cell (false alarm 7e-6 a cell), the seeds fixed.
"""

import numpy as np
import pytest
import scipy.signal
import scipy.stats
import xarray as xr
from scipy.ndimage import gaussian_filter

import sde_sgd as sde
from sde_sgd.potential._blocks import blocks, correlation_time
from sde_sgd.potential._kernel_density import Smoother, choose_bandwidth

T = 0.15
METHODS = ("histogram", "kernel")
AXIS = np.linspace(-3.0, 3.0, 12001)
_RHO = np.exp(-((AXIS**2 - 1) ** 2) / 4 / T)
CDF = np.concatenate([[0.0], np.cumsum(_RHO[1:] + _RHO[:-1])])
CDF /= CDF[-1]
GRID = sde.Grid(-2.0, 2.0, 32)


def chain(seed, chains, n, phi, shape=()):
    """Stationary AR(1) of unit variance, (chains, n, *shape)."""
    noise = np.random.default_rng(seed).normal(size=(chains, n, *shape)) * np.sqrt(1 - phi * phi)
    noise[:, 0] /= np.sqrt(1 - phi * phi)
    return scipy.signal.lfilter([1.0], [1.0, -phi], noise, axis=1)


def well(u):
    """Double-well law e^{−(x²−1)²/(4T)} from a Gaussian of unit variance."""
    return np.interp(scipy.stats.norm.cdf(u), CDF, AXIS)


def phi_of_cells(grid):
    """−T log of the exact mean of ρ over each cell of a 1-D grid: what a histogram estimates."""
    return -T * np.log(np.diff(np.interp(grid.edges[0], AXIS, CDF)))


def gaps(found, exact, bias=0.0):
    """(Φ̂ − bias − Φ)/error in the gauge of Φ̂, over the cells shown."""
    phi, error = found.potential.values, found.potential_error.values
    shown = np.isfinite(phi)
    weight = np.exp(-phi[shown] / found.attrs["temperature"])
    off = (phi - bias - exact)[shown]
    return (off - np.average(off, weights=weight)) / error[shown]


def rms(values):
    return float(np.sqrt(np.mean(np.square(values))))


# against exact potentials ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_double_well(method):
    found = sde.potential_from_samples(well(chain(1, 4, 20_000, 0.9))[..., None], T, GRID, burn_in=0, method=method)
    exact = phi_of_cells(GRID) if method == "histogram" else (GRID.axes[0] ** 2 - 1) ** 2 / 4
    z = gaps(found, exact)
    assert np.abs(z).max() < 4.5 and 0.6 < rms(z) < 1.5, z
    assert found.attrs["effective_samples"] == pytest.approx(80_000 / 17, rel=0.2)  # τ of x is about that of u, 19
    assert np.isfinite(found.potential.values).sum() >= 26
    # another temperature is another potential: the same samples must not agree with it
    wrong = sde.potential_from_samples(well(chain(1, 4, 20_000, 0.9))[..., None], 0.2, GRID, burn_in=0, method=method)
    assert rms(gaps(wrong, exact)) > 3  # where 1 is expected


@pytest.mark.parametrize("method", METHODS)
def test_two_variables(method):
    """sheared_double_well: Φ = (u²−1)²/4 + w²/2 at every temperature, u and w oblique to the grid."""
    landscape = sde.landscapes.get("sheared_double_well")
    v, w = np.array([np.sqrt(3) / 2, -0.5]), np.array([-0.5, np.sqrt(3) / 2])
    u = np.stack([well(chain(3, 3, 40_000, 0.8)), np.sqrt(T) * chain(4, 3, 40_000, 0.8)], axis=-1)
    x = u @ np.linalg.inv(np.stack([v, w])).T
    grid = sde.Grid((-4.0, -3.0), (4.0, 3.0), (40, 30))
    found = sde.potential_from_samples(x, T, grid, burn_in=0, method=method, resamples=100)
    fine = sde.Grid((-4.0, -3.0), (4.0, 3.0), (600, 450))  # 15 by 15 in a cell
    density = np.exp(-landscape.potential(fine.centers(), T) / T)
    if method == "kernel":  # the law of the estimate: ρ smoothed
        density = gaussian_filter(density, np.array(found.attrs["bandwidth"]) / fine.spacing)[7::15, 7::15]
    else:
        density = density.reshape(40, 15, 30, 15).mean(axis=(1, 3))
    z = gaps(found, -T * np.log(np.maximum(density, 1e-300)))
    assert z.size > 250 and np.abs(z).max() < 4.5 and 0.7 < rms(z) < 1.35, (z.size, rms(z), np.abs(z).max())
    assert np.abs(gaps(found, landscape.loss(grid.centers()))).max() > 20  # Φ ≠ f


@pytest.mark.parametrize("method", METHODS)
def test_three_variables(method):
    covariance = np.array([[1.0, 0.5, 0.0], [0.5, 0.8, -0.2], [0.0, -0.2, 0.5]])
    x = chain(5, 40, 5000, 0.5, (3,)) @ np.linalg.cholesky(covariance).T
    edge = 1.5 if method == "kernel" else 3.0  # a kernel sees what is beyond
    grid = sde.Grid((-edge,) * 3, (edge,) * 3, (12, 12, 12))
    wide = {"bandwidth": 0.25} if method == "kernel" else {}
    found = sde.potential_from_samples(x, T, grid, burn_in=0, method=method, **wide, resamples=100)
    if method == "kernel":  # the law of the smoothed density is known: N(0, Σ + diag h²)
        smoothed = covariance + np.diag(np.square(found.attrs["bandwidth"]))
        exact = T / 2 * np.einsum("...i,ij,...j", grid.centers(), np.linalg.inv(smoothed), grid.centers())
    else:
        fine = sde.Grid((-3.0,) * 3, (3.0,) * 3, (60,) * 3)
        log = np.einsum("...i,ij,...j", fine.centers(), np.linalg.inv(covariance), fine.centers()) / -2
        exact = -T * np.log(np.exp(log).reshape(12, 5, 12, 5, 12, 5).mean(axis=(1, 3, 5)))
    z = gaps(found, exact)
    assert z.size > 300 and np.abs(z).max() < 4.5 and 0.8 < rms(z) < 1.2, (z.size, rms(z), np.abs(z).max())


def test_the_kernel_is_a_kernel_density():
    """The same bandwidth, Gaussian by Gaussian (SciPy): counting in fine cells costs a tenth of the error."""
    x = well(chain(6, 1, 4000, 0.5))
    found = sde.potential_from_samples(x[..., None], T, GRID, burn_in=0, method="kernel", bandwidth=0.1)
    direct = scipy.stats.gaussian_kde(x[0], bw_method=0.1 / x[0].std(ddof=1))(GRID.axes[0])
    difference = found.potential.values + T * np.log(direct)
    z = ((difference - np.nanmean(difference)) / found.potential_error.values)[np.isfinite(difference)]
    assert rms(z) < 0.1 and np.abs(z).max() < 0.3, z


@pytest.mark.parametrize("h", [0.05, 0.125, 0.3])
def test_its_variance_is_the_square_of_the_bandwidth(h):
    smoother = Smoother(sde.Grid(-4.0, 4.0, 64), (h,), ((False, False),))
    points = np.zeros(smoother.shape)
    points[smoother.cells(np.array([[0.0625]]))] = 1.0  # a centre
    place = -4.0 + smoother.width[0] * (np.arange(len(points)) + 0.5) - 0.0625
    spread = smoother.fine(points)
    assert spread.sum() == pytest.approx(1, abs=1e-12)
    assert (spread * place**2).sum() + smoother.width[0] ** 2 / 12 == pytest.approx(h * h, rel=1e-6)


# bias ---------------------------------------------------------------------------------------------------------


def quantiles(n):
    """Draws without sampling error: (i − ½)/n quantiles, in a random order."""
    order = np.random.default_rng(0).permutation((np.arange(n) + 0.5) / n)
    return np.interp(order, CDF, AXIS)[:, None]


def test_the_bias_is_quadratic_and_reported():
    x, middle = quantiles(200_000), np.abs(GRID.axes[0]) < 1.2
    exact = ((GRID.axes[0] ** 2 - 1) ** 2 / 4)[middle]
    errors, misses = [], []
    for h in (0.12, 0.06, 0.03):
        found = sde.potential_from_samples(x, T, GRID, burn_in=0, method="kernel", bandwidth=h)
        off = found.potential.values[middle] - exact
        errors.append((off - off.mean()).std())
        misses.append((off - found.smoothing_bias.values[middle]).std())
    assert np.log2(errors[0] / errors[2]) / 2 == pytest.approx(2, abs=0.1), errors
    assert np.log2(misses[0] / misses[2]) / 2 > 3 and misses[2] < errors[2] / 20, (errors, misses)  # towards h⁴


@pytest.mark.parametrize("method", METHODS)
def test_a_wall_is_mirrored(method):
    """e^{−x/T} on [0, 1]: the kernel's bias at the wall is T·log(1 − …) ∝ h, and the report is of its size."""
    u = np.random.default_rng(2).permutation((np.arange(100_000) + 0.5) / 100_000)
    x = -T * np.log1p(-u * -np.expm1(-1 / T))
    grid = sde.Grid(0.0, 1.0, 20)
    width = {"bandwidth": 0.05} if method == "kernel" else {}
    found = sde.potential_from_samples(x[:, None], T, grid, burn_in=0, method=method, **width)
    shown = np.isfinite(found.potential.values)
    exact = grid.axes[0]
    off = gaps(found, exact) * found.potential_error.values[shown]
    left = gaps(found, exact, found.smoothing_bias.values) * found.potential_error.values[shown]
    bias = np.abs(found.smoothing_bias.values[shown]) + 3 * found.smoothing_bias_error.values[shown]
    assert (np.abs(off) < bias + 0.003).all()
    assert found.attrs["outside"] == 0, (off, left)
    if method == "kernel":
        assert abs(off[0]) > 0.01 > 2 * abs(left[0]), (off, left)


def test_at_a_wall_a_histogram_reports_a_bias_of_second_order():
    """e^{−(x+0.3)²/2T} between walls at 0 and 0.9: the mean of ρ over a cell is known, its bias ∝ h² there as well."""
    s, n = np.sqrt(T), 400_000
    low, high = scipy.stats.norm.cdf([0.3 / s, 1.2 / s])
    u = np.random.default_rng(2).permutation((np.arange(n) + 0.5) / n)
    x = s * scipy.stats.norm.ppf(low + u * (high - low)) - 0.3
    misses = []
    for cells in (12, 24):
        grid = sde.Grid(0.0, 0.9, cells)
        found = sde.potential_from_samples(x[:, None], T, grid, burn_in=0, resamples=50)
        share = np.diff(scipy.stats.norm.cdf((grid.edges[0] + 0.3) / s)) / grid.spacing[0]
        bias = -T * np.log(share) - (grid.axes[0] + 0.3) ** 2 / 2
        bias -= np.average(bias, weights=np.exp(-found.potential.values / T))
        misses.append(np.abs(found.smoothing_bias.values - bias)[[0, -1]] / bias[-1])
    # the mirror image of the cells would miss by −0.5 and 1.6 of it, and with half the cell by −1.0 and 3.7: ∝ h
    assert np.abs(misses[0]).max() < 0.6 and (np.abs(misses[1]) < 0.6 * np.abs(misses[0])).all(), misses


def test_a_window_is_no_wall():
    """Samples beyond a side are used by the kernel; were the side mirrored, Φ would bend there."""
    x = well(chain(7, 1, 60_000, 0.3))[..., None]
    window = sde.Grid(-0.5, 1.5, 16)
    found = sde.potential_from_samples(x, T, window, burn_in=0, method="kernel", bandwidth=0.06)
    z = gaps(found, (window.axes[0] ** 2 - 1) ** 2 / 4, found.smoothing_bias.values)
    assert np.abs(z).max() < 4.5 and found.attrs["outside"] > 20_000
    inside = x[(x > -0.5) & (x < 1.5)][:, None]
    beyond, mirrored = (
        sde.potential_from_samples(some, T, window, burn_in=0, method="kernel", bandwidth=0.12) for some in (x, inside)
    )
    assert abs(mirrored.potential.values[0] - beyond.potential.values[0]) > 4 * beyond.potential_error.values[0]


@pytest.mark.parametrize("method", METHODS)
def test_a_ring_has_no_first_cell(method):
    """Turning all samples by 5 cells turns the result, and turns of 2π change nothing."""
    angle = 1.2 * chain(8, 2, 8000, 0.8)[..., None] + 0.3
    grid = sde.Grid(-np.pi, np.pi, 24, boundary="periodic")
    settings = dict(burn_in=0, method=method) | ({"bandwidth": 0.2} if method == "kernel" else {})
    found = sde.potential_from_samples(angle, T, grid, **settings)
    winding = angle + 2 * np.pi * np.random.default_rng(0).integers(-3, 4, angle.shape)
    turned = sde.potential_from_samples(winding + 5 * grid.spacing[0], T, grid, **settings)
    for name in ("potential", "smoothing_bias"):
        np.testing.assert_allclose(np.roll(found[name].values, 5), turned[name].values, atol=1e-9)
    assert found.attrs["outside"] == 0 and found.attrs["effective_samples"] > 500


# the loss beside it -------------------------------------------------------------------------------------------


def test_the_conditional_loss_of_a_gaussian():
    """E[f | x] in closed form; f on the line through the mean, and min f over y, are other things; so is Φ."""
    hessian, covariance = np.array([[1.0, 0.6], [0.6, 2.0]]), np.array([[0.8, 0.5], [0.5, 0.7]])
    x = chain(9, 4, 20_000, 0.8, (2,)) @ np.linalg.cholesky(covariance).T
    line = sde.Grid(-3.0, 3.0, 40)
    f = lambda p: np.einsum("...i,ij,...j", p, hessian, p) / 2  # noqa: E731
    c, rest = covariance[0, 1] / covariance[0, 0], covariance[1, 1] - covariance[0, 1] ** 2 / covariance[0, 0]
    a = line.axes[0]
    mean = f(np.stack([a, c * a], axis=-1)) + hessian[1, 1] * rest / 2
    bend = (hessian[0, 0] + 2 * c * hessian[0, 1] + c * c * hessian[1, 1]) / 2
    for method in METHODS:
        found = sde.potential_from_samples(x, T, line, burn_in=0, project=["x0"], loss=f, method=method)
        # mean of a quadratic over a cell: + f''·Var(x | cell)/2, and a slope of ρ within it: O(Δ²) both
        width = line.spacing[0] ** 2 / 12 if method == "histogram" else found.attrs["bandwidth"][0] ** 2
        exact = mean + bend * width * (1 - 2 * a**2 / covariance[0, 0])
        z = (found.conditional_loss.values - exact) / found.conditional_loss_error.values
        z = z[np.isfinite(z)]
        assert z.size > 30 and np.abs(z).max() < 4.5 and rms(z) < 1.6, (method, z)
        for other in (f(np.stack([a, 0 * a], axis=-1)), (hessian[0, 0] - 0.18) * a**2 / 2):  # line through mean; min f
            wrong = (found.conditional_loss.values - other) / found.conditional_loss_error.values
            assert np.nanmin(np.abs(wrong[10:30])) > 10
    values = sde.potential_from_samples(x, T, line, burn_in=0, project=["x0"], loss=f(x))
    again = sde.potential_from_samples(x, T, line, burn_in=0, project=["x0"], loss=f)
    xr.testing.assert_allclose(values, again)


# what correlated samples are worth ------------------------------------------------------------------------------


def test_the_correlation_time():
    """One chain: that of `effective_sample_size`. Chains that never move apart from each other: their number."""
    one = chain(10, 1, 5000, 0.9)[0]
    tau = correlation_time(one, np.array([5000]))
    assert tau == pytest.approx(5000 / float(sde.effective_sample_size(one)), rel=1e-9)
    many = chain(11, 300, 400, 0.9).ravel()
    assert correlation_time(many, np.full(300, 400)) == pytest.approx(19, rel=0.15)
    stuck = np.repeat(np.random.default_rng(0).choice([-1.0, 1.0], 30), 200) + 0.01 * chain(12, 30, 200, 0.5).ravel()
    assert len(stuck) / correlation_time(stuck, np.full(30, 200)) == pytest.approx(30, rel=0.1)
    assert correlation_time(np.random.default_rng(1).normal(size=9000), np.ones(9000, int)) == pytest.approx(1)
    uneven = np.concatenate([chain(s, 1, n, 0.9)[0] for s, n in ((1, 20_000), (2, 30_000), (3, 50))])
    assert correlation_time(uneven, np.array([20_000, 30_000, 50])) == pytest.approx(19, rel=0.15)


def test_blocks_stay_within_chains_and_cover_every_sample():
    lengths = np.array([1000, 90, 2000, 1])
    found = blocks(lengths, 10.0)
    whose = np.repeat(np.arange(4), lengths)
    assert all(len(set(whose[found.label == b])) == 1 for b in range(found.count))
    assert (np.diff(found.label) >= 0).all() and set(found.label) == set(range(found.count))
    sizes = np.bincount(found.label)
    assert sizes[:-1].min() >= 45 and sizes.max() <= 1.5 * 10 * (3091 / 10) ** (1 / 3)
    assert blocks(np.ones(10_000, int), 1.0).count == 4096
    weights = found.weights(7, 3)
    assert weights.shape == (7, found.count) and (weights.sum(axis=1) == found.count).all()


def test_independent_errors_are_too_small_for_correlated_samples():
    """The scatter over 60 runs against both error bars: T/√counts misses the factor, the blocks do not."""
    grid, middle = sde.Grid(-1.8, 1.8, 12), slice(2, 10)
    runs = [
        sde.potential_from_samples(well(chain(s, 2, 6000, 0.95))[..., None], T, grid, burn_in=0, resamples=100)
        for s in range(100, 160)
    ]
    scatter = np.std([r.potential.values[middle] for r in runs], axis=0, ddof=1)
    reported = np.sqrt(np.mean([r.potential_error.values[middle] ** 2 for r in runs], axis=0))
    share = np.diff(np.interp(grid.edges[0], AXIS, CDF))[middle]
    independent = T * np.sqrt((1 - share) / (12_000 * share))
    assert rms(scatter / independent) > 2  # 60 runs know a deviation to 9 %
    assert rms(reported / scatter) == pytest.approx(1, abs=0.15)


def test_hops_between_wells_set_the_error_of_the_wells():
    """40 chains that never leave the well they began in: the difference of the wells is as uncertain as 40 coins."""
    side = np.random.default_rng(5).choice([-1.0, 1.0], 40)[:, None]
    x = side * (1 + 0.2 * chain(13, 40, 500, 0.3))
    found = sde.potential_from_samples(x[..., None], T, sde.Grid(-2, 2, 16), burn_in=0, keep_resamples=True)
    assert found.attrs["effective_samples"] == pytest.approx(40, rel=0.15)
    assert found.attrs["blocks"] == 40
    drawn = found.potential_resampled.sel(x0=[-1.125, 1.125]).diff("x0").std() * found.attrs["resampled_scale"]
    share = (side > 0).mean()
    assert float(drawn) == pytest.approx(T / np.sqrt(40 * share * (1 - share)), rel=0.2)


def test_too_few_samples():
    with pytest.raises(sde.TooFewSamples, match=r"independent ones and make \d+ blocks; 20 are needed"):
        sde.potential_from_samples(well(chain(1, 1, 1000, 0.97))[0][:, None], T, GRID, burn_in=0)
    one_well = 1 + 0.2 * np.random.default_rng(0).normal(size=(12, 1)) + 0.05 * chain(1, 12, 900, 0.2)
    with pytest.raises(sde.TooFewSamples, match=r"12 chains .* independent chains"):
        sde.potential_from_samples(one_well[..., None], T, GRID, burn_in=0)
    few = chain(2, 1, 200, 0.0, (3,))
    with pytest.raises(sde.TooFewSamples, match=r"no cell has 10 independent visits, the most is \d"):
        sde.potential_from_samples(few, T, sde.Grid((-3,) * 3, (3,) * 3, (24,) * 3), burn_in=0)
    with pytest.raises(sde.TooFewSamples, match="none of the 200 samples lies on the grid"):
        sde.potential_from_samples(few[..., :1], T, sde.Grid(10.0, 12.0, 8), burn_in=0)


@pytest.mark.parametrize("method", METHODS)
def test_cells_with_too_few_visits_are_left_out(method):
    x = well(chain(14, 2, 3000, 0.8))[..., None]
    wide = sde.Grid(-4.0, 4.0, 64)
    loose, strict = (sde.potential_from_samples(x, T, wide, burn_in=0, method=method, least_visits=n) for n in (5, 50))
    assert (loose.visits >= 5).values[np.isfinite(loose.potential.values)].all()
    assert not np.isfinite(strict.potential.values[(strict.visits < 50).values]).any()
    assert (loose.potential_error / T < 1.3 / np.sqrt(loose.visits) + 0.05).values[loose.visits.values > 10].all()
    assert loose.attrs["cells_left_out"] < strict.attrs["cells_left_out"] and np.isnan(loose.potential.values[0])


def test_a_histogram_leaves_out_no_cell_that_was_visited():
    """Gaussian, T = 0.02, cells 1.4 σ wide: neighbours of the middle differ by a factor of 20 and more."""
    x = np.sqrt(0.02) * np.random.default_rng(3).normal(size=(50_000, 1))
    found = sde.potential_from_samples(x, 0.02, sde.Grid(-1.2, 1.2, 12), burn_in=0)
    assert (np.isfinite(found.potential.values) == (found.visits.values >= 10)).all()
    assert np.ptp(found.potential.values[3:9]) > 0.02 * np.log(20)


def test_a_kernel_does_not_extrapolate():
    x = np.random.default_rng(3).normal(size=(20_000, 1))
    grid = sde.Grid(-6.0, 6.0, 60)
    broad = sde.potential_from_samples(x, T, grid, burn_in=0, method="kernel", bandwidth=0.5)
    # ρ̂ ∝ e^{−x²/2(1+h²)}: log ρ̂_2h − log ρ̂_h = ½log(1.25/2) + x²(0.4 − 0.25) passes 1.5 at 3.40
    shown = grid.axes[0][np.isfinite(broad.potential.values)]
    assert 2.8 < np.abs(shown).max() < 3.6
    with pytest.raises(ValueError, match="bandwidth 2 of axis 0 is wider than the standard deviation of the samples"):
        sde.potential_from_samples(x, T, grid, burn_in=0, method="kernel", bandwidth=2.0)
    with pytest.raises(ValueError, match="bandwidth 20 of axis 0 is wider than its box"):
        sde.potential_from_samples(x, T, grid, burn_in=0, method="kernel", bandwidth=20.0)


def test_the_bandwidth_follows_the_samples():
    """σ(4/3n)^{1/5} for a Gaussian; the width of a well, not of both; wider for correlated samples."""
    wide, sides = sde.Grid(-5.0, 5.0, 100), ((False, False),)
    x = chain(15, 1, 20_000, 0.0)[0][:, None]
    (h,), n = choose_bandwidth(x, np.array([20_000]), wide, sides)
    assert h == pytest.approx((4 / 3 / n) ** 0.2, rel=0.1) and n > 15_000
    (slow,), m = choose_bandwidth(chain(16, 1, 20_000, 0.999)[0][:, None], np.array([20_000]), wide, sides)
    assert m < n / 3 and slow > 1.2 * h
    two = np.random.default_rng(4).choice([-3.0, 3.0], 20_000)[:, None] + 0.3 * x
    (narrow,), _ = choose_bandwidth(two, np.array([20_000]), wide, sides)
    assert narrow == pytest.approx(0.3 * h, rel=0.1)
