"""Observables and step biases against closed forms, and their standard errors against the scatter over seeds.

Seeds are fixed. A comparison at 5 standard errors, mostly from 16 blocks (Student's t: 2e-4 each, the 4000 paths of the
windings 6e-7), would with fresh seeds give a false alarm in about 2 % of the runs of this file.
"""

import math

import numpy as np
import pytest
import scipy.linalg
import scipy.stats

import sde_sgd as sde
from sde_sgd.paths._effective_samples import effective_sample_size
from sde_sgd.paths._first_passage import FirstPassage
from sde_sgd.paths._histogram import Histogram
from sde_sgd.paths._lag_covariance import LagCovariance
from sde_sgd.paths._moments import Moments
from sde_sgd.paths._sample_density import sample_density
from sde_sgd.paths._simulate import simulate
from sde_sgd.paths._winding import Winding

ROTATION, TEMPERATURE = 1.0, 0.5
F, D = np.array([[1.0, ROTATION], [-ROTATION, 3.0]]), np.array([[1.0, 0.5], [0.5, 1.0]])
TURNING = sde.landscapes.get("quadratic", rotation=ROTATION).at_temperature(TEMPERATURE)
RESTING = sde.Landscape(("x", "y"), "x**2/2 + y**2").at_temperature(TEMPERATURE)
HALF = sde.Landscape("x", "x**2", domain={"x": (-1, 9)}).at_temperature(TEMPERATURE)
LINE = sde.Landscape("x", "x**2/2").at_temperature(TEMPERATURE)


def linear(d):
    """A stable linear process of d variables with rotation in the first two."""
    names = ["x", "y", "a", "b", "c"][:d]
    turn = ["-y", "x", "0", "0", "0"][:d] if d > 1 else None
    loss = " + ".join(f"{1 + k}*({v} - 0.3)**2/2" for k, v in enumerate(names))
    return sde.Landscape(names, loss, circulation=turn).at_temperature(TEMPERATURE)


# -- closed forms -------------------------------------------------------------------------------------------------

H = 0.05
STEP = np.eye(2) - H * F
S_EULER = scipy.linalg.solve_discrete_lyapunov(STEP, 2 * TEMPERATURE * H * D)  # of x' = (1 − hF)x + √(2Th) L ξ
S = scipy.linalg.solve_continuous_lyapunov(F, 2 * TEMPERATURE * D)


@pytest.fixture(scope="module")
def long_run():
    seen = [Moments(burn_in=300), LagCovariance((1, 4, 20), burn_in=300), Winding(burn_in=300)]
    return simulate(
        TURNING, (0.0, 0.0), step=H, steps=1300, paths=4000, scheme="euler_maruyama", save_every=0, observables=seen,
        seed=1,
    )  # fmt: skip


def test_covariances_of_a_linear_process(long_run):
    """E[x], S and C(lag) = Aˡ S of Euler's own recursion, 18 scores below 5 (false alarm 3e-3)."""
    assert (np.abs(long_run["mean"]) < 5 * long_run["mean_error"]).all()
    assert (np.abs(long_run["covariance"] - S_EULER) < 5 * long_run["covariance_error"]).all()
    assert (np.abs(long_run["covariance"] - S) > 8 * long_run["covariance_error"]).any()  # the SDE's own is excluded
    for k, lag in enumerate((1, 4, 20)):
        found, error = long_run["lag_covariance"][k], long_run["lag_covariance_error"][k]
        exact = np.linalg.matrix_power(STEP, lag) @ S_EULER
        assert (np.abs(found - exact) < 5 * error).all()
        assert (np.abs(found - exact.T) > 8 * error).any()  # the transpose, time reversed, is excluded
    np.testing.assert_allclose(long_run["lag_time"], [0.05, 0.2, 1.0])
    assert float(np.abs(long_run["covariance_error"] / S_EULER).max()) < 0.01


def test_the_antisymmetric_part_of_the_lag_covariance_is_the_current(long_run):
    """(C(t) − C(t)ᵀ)/t → −2TQ with Q = FS/T − D; 0 for a process at rest."""
    exact = scipy.linalg.expm(-F * H) @ S
    q = F @ S / TEMPERATURE - D
    np.testing.assert_allclose((exact - exact.T) / H, -2 * TEMPERATURE * q, atol=0.1)
    c = long_run["lag_covariance"][0].values
    turning = (c - c.T)[0, 1] / H
    assert turning == pytest.approx(-2 * TEMPERATURE * q[0, 1], abs=0.1) and abs(turning) > 0.2
    run = simulate(
        RESTING, (0.0, 0.0), step=H, steps=1000, paths=2000, save_every=0, seed=2,
        observables=[LagCovariance((1, 4, 20), burn_in=200), Winding(burn_in=200)],
    )  # fmt: skip
    rest = run["lag_covariance"].values - run["lag_covariance"].values.swapaxes(1, 2)
    assert (np.abs(rest) <= 5 * math.sqrt(2) * run["lag_covariance_error"]).all()
    assert abs(run["angular_velocity"]) < 5 * run["angular_velocity_error"] < 0.05
    assert abs(long_run["angular_velocity"]) > 20 * long_run["angular_velocity_error"]


@pytest.mark.evidence
def test_the_spiral_turns_at_minus_temperature_times_kappa():
    process = sde.landscapes.get("spiral", kappa=1.0).at_temperature(0.1)
    run = simulate(
        process, (1.0, 0.0), step=0.01, steps=2000, paths=2000, save_every=0, seed=4, observables=Winding(burn_in=500)
    )
    assert abs(run["angular_velocity"] + 0.1) < 5 * run["angular_velocity_error"] + 0.1 * 0.03  # O(h) of the step
    assert run["angular_velocity_error"] < 0.003


def test_winding_along_a_periodic_axis():
    """A constant drift on a circle turns with exactly that velocity, whatever the period is called."""
    for period in (2 * math.pi, 1.0):
        ring = sde.Landscape("theta", "0", circulation=["0.7"], domain={"theta": (0, period, "periodic")})
        run = simulate(
            ring.at_temperature(0.3), 0.2, step=0.1, steps=400, paths=500, save_every=1, seed=6,
            observables=Winding("theta", burn_in=40, per_path=True),
        )  # fmt: skip
        exact = 0.7 * 2 * math.pi / period
        assert abs(run["angular_velocity"] - exact) < 5 * run["angular_velocity_error"]
        moved = np.unwrap(run.theta.values[:, 40:], axis=1, period=period) / period
        if period > 2:  # steps of a good deal less than half a period can be unwrapped
            np.testing.assert_allclose(run["winding"], moved[:, -1] - moved[:, 0], rtol=1e-9, atol=1e-12)
        exact_variance = 2 * 0.3 * 36 / period**2
        assert float(run["winding"].var()) == pytest.approx(exact_variance, rel=0.2)


def test_first_passage_of_a_walk_on_a_lattice():
    """Two-point increments ±δ without drift: P(τ ≤ n) = P(S_n ≥ k) + P(S_n > k) by reflection, exactly."""
    free = sde.Landscape("x", "0").at_temperature(0.5)
    paths, steps, level = 40_000, 100, 7
    run = simulate(
        free, 0.0, step=0.01, steps=steps, paths=paths, scheme="weak_euler", save_every=0, seed=9,
        observables=FirstPassage(f"x > {0.1 * level - 0.05}", times=np.arange(1, 101) * 0.01),
    )  # fmt: skip
    n = np.arange(1, steps + 1)
    at_least = scipy.stats.binom.sf(np.ceil((n + level) / 2) - 1, n, 0.5)
    beyond = scipy.stats.binom.sf(np.floor((n + level) / 2), n, 0.5)
    exact = 1 - at_least - beyond
    assert (np.abs(run["survival"] - exact) <= 5 * np.sqrt(exact * (1 - exact) / paths) + 1e-12).all()
    assert abs(int(run["censored"]) / paths - exact[-1]) < 5 * math.sqrt(exact[-1] * (1 - exact[-1]) / paths)
    mean = 0.01 * (1 + exact[:-1].sum())  # E min(τ, t_end) = h Σ_n P(τ > n), n = 0 … steps − 1
    assert abs(run["passage_time"] - mean) < 5 * run["passage_time_error"]


# -- errors -------------------------------------------------------------------------------------------------------


def test_errors_are_the_errors():
    """200 seeds: the scatter of every estimate over runs is its reported standard error, each within 15 %."""
    grid = sde.Grid((-2, -2), (2, 2), (3, 3))
    seen = [
        Moments(burn_in=40), LagCovariance((1, 6), burn_in=40), Histogram(grid, burn_in=40), Winding(burn_in=40),
        FirstPassage("x > 0.8", times=(0.5, 1.0, 2.0)),
    ]  # fmt: skip
    runs = [
        simulate(TURNING, (0.1, 0.0), step=0.1, steps=80, paths=160, save_every=0, observables=seen, seed=s, threads=1)
        for s in range(200)
    ]
    names = [str(n).removesuffix("_error") for n in runs[0].data_vars if str(n).endswith("_error")]
    assert len(names) == 7
    for name in names:
        values, errors = (np.stack([r[n].values for r in runs]) for n in (name, f"{name}_error"))
        found, claimed = values.var(axis=0, ddof=1), (errors**2).mean(axis=0)
        assert math.sqrt(found.sum() / claimed.sum()) == pytest.approx(1, abs=0.15), name
    effective = np.median([r["effective_samples"].values for r in runs], axis=0)
    independent = 160 * 40
    assert (effective < independent / 4).all() and (effective > 160).all()
    # a counterexample: the error that takes states of one path for independent ones is far too small
    naive = np.sqrt(np.diag(runs[0]["covariance"]) / independent)
    spread = np.std([r["mean"].values for r in runs], axis=0)
    assert (spread > 1.8 * naive).all()


@pytest.mark.evidence
def test_cancellation_is_avoided_by_the_start():
    """Fluctuations of 1e-7 about 1e4: sums about 0 would leave no digit of the covariance."""
    far = sde.Landscape("x", "(x - 10000)**2/2").at_temperature(1e-14)
    run = simulate(far, 1e4, step=0.1, steps=50, paths=64, save_every=1, observables=Moments(blocks=2))
    x = run.x.values[:, 1:]
    assert float(run["covariance"][0, 0]) == pytest.approx(((x - 1e4) - (x - 1e4).mean()).var(), rel=1e-6)
    assert abs((x**2).mean() - x.mean() ** 2 - x.var()) > 1e3 * x.var()


# -- the bias of the step -----------------------------------------------------------------------------------------


def biased(process, observables, **options):
    return simulate(
        process, np.zeros(process.dim), save_every=0, observables=observables, step_bias=True, **options
    )  # fmt: skip


def test_the_bias_of_the_step_is_estimated():
    """Euler on a line: Var = T/(1 − h/2), bias Th/2 to leading order; the estimate is T h/2/((1 − h/2)(1 − h)) exactly.
    The noise the two runs share drops out: its error is several times below that of two separate runs."""
    h = 0.1
    seen = [Moments(burn_in=100), LagCovariance((2, 10), burn_in=100, every=3)]
    run = biased(LINE, seen, step=h, steps=1000, paths=1000, scheme="euler_maruyama", seed=7)
    exact = TEMPERATURE / (1 - h) - TEMPERATURE / (1 - h / 2)
    bias, error = (float(run[n].squeeze()) for n in ("covariance_bias", "covariance_bias_error"))
    assert abs(bias - exact) < 5 * error and error < 0.1 * exact
    assert error < 0.3 * math.sqrt(2) * float(run["covariance_error"].squeeze())
    assert abs(run["covariance"].squeeze() - bias - TEMPERATURE) < 5 * run["covariance_error"].squeeze() + exact * h
    assert abs(run["mean_bias"][0]) < 5 * run["mean_bias_error"][0]
    c = [(1 - h) ** lag * TEMPERATURE / (1 - h / 2) for lag in (6, 30)]
    c2 = [(1 - 2 * h) ** (lag / 2) * TEMPERATURE / (1 - h) for lag in (6, 30)]
    gap = np.abs(run["lag_covariance_bias"].values.ravel() - (np.array(c2) - c))
    assert (gap < 5 * run["lag_covariance_bias_error"].values.ravel()).all()
    assert run["covariance_bias"].attrs["order"] == 1
    np.testing.assert_allclose(run["lag_time"], [0.6, 3.0])


@pytest.mark.parametrize("lags, every, coarse", [((2, 4), 1, 1), ((0, 2), 3, 3), ((1, 3), 2, 1), ((2, 4), 6, 3)])
def test_lags_keep_their_time_at_twice_the_step(lags, every, coarse):
    halved = LagCovariance(lags, every=every).halved()
    assert halved.every == coarse and [2 * halved.every * lag for lag in halved.lags] == [every * lag for lag in lags]


@pytest.mark.evidence
def test_the_declared_order_divides_the_difference():
    """Heun on a line has Var = V(h), second order: (V(2h) − V(h))/3. Leimkuhler–Matthews has none: 5 errors."""

    def heun(h):
        return 2 * TEMPERATURE * h * (1 - h / 2) ** 2 / (1 - (1 - h + h * h / 2) ** 2)

    h, options = 0.3, dict(steps=400, paths=8000, seed=8)
    run = biased(LINE, Moments(burn_in=50), step=h, scheme="stochastic_heun", **options)
    bias, error = (float(run[n].squeeze()) for n in ("covariance_bias", "covariance_bias_error"))
    exact = (heun(2 * h) - heun(h)) / 3
    assert abs(bias - exact) < 5 * error < 0.5 * abs(exact) and run["covariance_bias"].attrs["order"] == 2
    assert abs(heun(h) - exact - TEMPERATURE) < 0.7 * abs(heun(h) - TEMPERATURE)
    run = biased(LINE, [Moments(burn_in=50), LagCovariance((2,), burn_in=50)], step=h, **options)
    assert run.attrs["scheme"] == "leimkuhler_matthews" and run["covariance_bias"].attrs["order"] == 2
    assert run["lag_covariance_bias"].attrs["order"] == 1  # its correlations in time are of first order
    assert abs(run["covariance_bias"].squeeze()) < 5 * run["covariance_bias_error"].squeeze() < 0.01
    driven = biased(TURNING, Moments(burn_in=10), step=0.1, steps=40, paths=64, scheme="leimkuhler_matthews")
    assert driven["covariance_bias"].attrs["order"] == 1  # not reversible
    walled = biased(HALF, Moments(), step=0.1, steps=40, paths=64, scheme="stochastic_heun", walls="reflect")
    assert walled["covariance_bias"].attrs["order"] == 1


@pytest.mark.evidence
def test_a_density_knows_its_bias():
    grid = sde.Grid(-2.5, 2.5, 10)
    options = dict(step=0.2, steps=400, paths=4000, burn_in=50, scheme="euler_maruyama", seed=3)
    plain = sample_density(LINE, grid, **options)
    full = sample_density(LINE, grid, step_bias=True, **options)
    np.testing.assert_array_equal(full, plain)
    assert set(full.coords) == {"x", "density_error", "density_bias", "density_bias_error"} and full.dims == ("x",)

    def gauss(variance):
        return np.diff(scipy.stats.norm.cdf(grid.edges[0], scale=math.sqrt(variance))) / grid.cell_volume

    exact = gauss(TEMPERATURE / 0.8) - gauss(TEMPERATURE / 0.9)
    assert (np.abs(full.density_bias - exact) < 5 * full.density_bias_error).all()
    assert (np.abs(exact) > 5 * full.density_bias_error).sum() >= 6
    off, corrected = np.abs(full - gauss(TEMPERATURE)), np.abs(full - full.density_bias - gauss(TEMPERATURE))
    assert float(corrected.sum()) < 0.4 * float(off.sum())


@pytest.mark.evidence
def test_a_density_of_projected_variables():
    """Three of five variables, and the marginal law of a direction, at 5 standard errors."""
    five = linear(5)
    options = dict(step=0.05, steps=400, paths=2000, burn_in=150, every=5, start=np.full(5, 0.3), seed=2)
    rho = sample_density(five, sde.Grid((-2, -2, -2), (2, 2, 2), (6, 5, 4)), project=("a", "c", "b"), **options)
    assert rho.dims == ("a", "c", "b") and float(rho.sum()) * np.prod([4 / 6, 4 / 5, 1]) == pytest.approx(1, abs=1e-3)
    grid = sde.Grid(-2, 2, 16)
    rho = sample_density(five, grid, project={"u": (0, 0, 1, -1, 0)}, **options)
    law = scipy.stats.norm.cdf(grid.edges[0], scale=math.sqrt(TEMPERATURE / 3 + TEMPERATURE / 4))
    # second order: stochastic Heun's variance is off by h²-terms well below the error
    assert (np.abs(rho - np.diff(law) / grid.cell_volume) < 5 * rho.density_error + 1e-3).all()


# -- how many samples a series is worth ---------------------------------------------------------------------------


@pytest.mark.parametrize("phi", [0.9, 0.5, 0.0, -0.5])
def test_effective_samples_of_an_autoregression(phi):
    """τ = (1 + φ)/(1 − φ), within 10 % in the mean of 16 series; the variance of the mean agrees."""
    rng, n = np.random.default_rng(1), 20_000
    noise = rng.normal(size=(16, n))
    x = np.empty_like(noise)
    x[:, 0] = noise[:, 0] / math.sqrt(1 - phi**2)
    for t in range(1, n):
        x[:, t] = phi * x[:, t - 1] + noise[:, t]
    found = effective_sample_size(x)
    assert found.shape == (16,)
    assert found.mean() == pytest.approx(n * (1 - phi) / (1 + phi), rel=0.1)
    np.testing.assert_array_equal(effective_sample_size(x.T, axis=0), found)
    np.testing.assert_allclose(effective_sample_size(5 - 3 * x), found, rtol=1e-9)


def test_effective_samples_of_special_series():
    assert effective_sample_size(np.ones(50)) == 1
    assert effective_sample_size([1.0, -1.0] * 500) > 1000  # its mean is known exactly
    trend = effective_sample_size(np.arange(1000.0))
    assert trend < 10
    with pytest.raises(ValueError, match="at least 8"):
        effective_sample_size([1.0, 2.0])
    with pytest.raises(ValueError, match="finite"):
        effective_sample_size([np.nan] * 20)
    for axis in (1, 0.5):
        with pytest.raises(ValueError, match=rf"axis must be .* from -1 to 0, got {axis}; .* shape \(20,\)"):
            effective_sample_size(np.ones(20), axis=axis)
