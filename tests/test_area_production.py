"""Areas that trajectories sweep out: against TQ, against the exact lag covariance, and what chance does."""

import numpy as np
import pytest
import scipy.linalg
import scipy.signal
import scipy.stats
import xarray as xr

import sde_sgd as sde
from sde_sgd import figures
from sde_sgd.cycles import winding

evidence = pytest.mark.evidence
NULLS = ("one scale", "mixed scales", "slow modes", "flat directions", "random walk", "alternating", "double wells")


def oracle(seed=0, d=5):
    """A stable F, a D and T without detailed balance: S and TQ in closed form."""
    rng = np.random.default_rng(seed)
    b, g = rng.normal(size=(2, d, d))
    f, diffusion, temperature = b @ b.T / d + np.eye(d) + 0.5 * (b - b.T), g @ g.T / d + 0.3 * np.eye(d), 0.5
    s = scipy.linalg.solve_continuous_lyapunov(f, 2 * temperature * diffusion)
    return f, s, f @ s - temperature * diffusion


def exact_paths(f, s, step, samples, chains, rng):
    """The stationary process with this F and S at intervals of `step`, by the matrix exponential."""
    e = scipy.linalg.expm(-f * step)
    root, x = np.linalg.cholesky(s - e @ s @ e.T), np.empty((samples, chains, len(f)))
    x[0] = rng.normal(size=(chains, len(f))) @ np.linalg.cholesky(s).T
    for k in range(1, samples):
        x[k] = x[k - 1] @ e.T + rng.normal(size=(chains, len(f))) @ root.T
    return x.transpose(1, 0, 2)


def reversible(kind, rng, samples, seeds):
    """Series (seeds, samples, 3) in detailed balance: AR(1) processes and walks, mixed; and a Metropolis chain."""
    if kind == "double wells":
        x, noise, draw = np.ones((seeds, 3)), rng.normal(0, 0.7, (samples, seeds, 3)), rng.random((samples, seeds))
        loss = lambda x: ((x**2 - 1) ** 2).sum(-1) + x[:, 0] * x[:, 1]  # noqa: E731
        series = np.empty((samples, seeds, 3))
        for k in range(samples):
            new = x + noise[k]
            x = np.where((np.log(draw[k]) < loss(x) - loss(new))[:, None], new, x)
            series[k] = x
        return series.transpose(1, 0, 2)
    phis = {
        "one scale": [0.9, 0.9, 0.9], "mixed scales": [0.3, 0.8, 0.95, 0.99, 0.999], "slow modes": [0.99, 0.995, 0.999],
        "flat directions": [0.5, 0.9, 1.0, 1.0], "random walk": [1.0, 1.0, 1.0], "alternating": [-0.9, -0.5, 0.9],
    }[kind]  # fmt: skip
    parts = []
    for phi in phis:
        e = rng.normal(size=(seeds, samples)) * (np.sqrt(1 - phi**2) or 1.0)
        e[:, 0] /= np.sqrt(1 - phi**2) or 1.0
        parts.append(scipy.signal.lfilter([1.0], [1.0, -phi], e, axis=1))
    mixing = np.random.default_rng(5).normal(size=(len(phis), 3))
    return np.stack(parts, axis=-1) @ mixing


# the estimate ----------------------------------------------------------------------------------------------


def test_recovers_tq_of_five_variables():
    """Each of 10 entries within 3 standard errors of the exact A(τ), false alarm 3 %; errors below 1 % of |TQ|."""
    f, s, tq = oracle()
    x = exact_paths(f, s, 0.1, 2000, 128, np.random.default_rng(1))
    exact = lambda t: scipy.linalg.expm(-f * t) @ s  # noqa: E731
    found = sde.area_production(x, [1, 5], dt=0.1, blocks=128, expected=exact)
    assert np.nanmax(np.abs(found.z)) < 3 and (found.expected_p_value > 0.01).all()
    assert float(found.area_production_error[0].max()) < 0.01 * np.linalg.norm(tq)
    assert (abs(found.slope - 1) < 3 * found.slope_error).all() and float(found.slope_error[0]) < 0.01
    assert float(found.correlation.min()) > 0.999 and float(found.p_value.max()) == pytest.approx(1 / 2000)
    np.testing.assert_array_equal(
        found.area_production, -found.area_production.transpose("lag", "variable_2", "variable")
    )
    # the limit TQ is met to first order in τ, not at τ = 0.5, and the wrong sign is out of the question
    limit = sde.area_production(x, [1, 5], dt=0.1, blocks=128, expected=tq)
    gap = np.linalg.norm(limit.area_production - tq, axis=(1, 2))
    assert 3 < gap[1] / gap[0] < 6 and float(limit.expected_p_value[1]) < 0.01
    assert float(sde.area_production(x, dt=0.1, expected=-tq).slope[0]) < -0.8
    ou = sde.OrnsteinUhlenbeck(f, (s @ f.T + f @ s), 0.5)
    same = sde.area_production(x[:, :64], [1, 5], dt=0.1, blocks=128, expected=ou.lag_covariance).expected
    np.testing.assert_allclose(same, found.expected, rtol=1e-9, atol=1e-12)


def test_order_in_the_lag_and_in_the_block():
    """Without any noise: a mean over the columns of a root of the covariance of a whole path is an expectation."""
    f, s, _ = oracle(3, 2)
    tq = (f @ s - (f @ s).T) / 2

    def mean(samples, step, lag=1):
        e = [scipy.linalg.expm(-f * step * k) @ s for k in range(samples)]
        joint = np.block([[e[i - j] if i >= j else e[j - i].T for j in range(samples)] for i in range(samples)])
        columns = np.linalg.cholesky(joint).T.reshape(2 * samples, samples, 2)
        found = sde.area_production(columns, lag, dt=step, blocks=8, flips=19)
        return float(found.area_production[0, 0, 1]) * len(columns)

    exact = lambda tau: float((lambda c: (c[1, 0] - c[0, 1]) / (2 * tau))(scipy.linalg.expm(-f * tau) @ s))  # noqa: E731
    bias = [abs(mean(n, 0.2) / exact(0.2) - 1) for n in (60, 120, 240)]
    np.testing.assert_allclose(np.log2(np.divide(bias[:-1], bias[1:])), 2.0, atol=0.15)
    assert bias[-1] < 2e-3
    short = [abs(exact(tau) / tq[0, 1] - 1) for tau in (0.02, 0.01, 0.005)]
    np.testing.assert_allclose(np.log2(np.divide(short[:-1], short[1:])), 1.0, atol=0.1)


def test_whitened_areas_are_angular_velocities():
    """dx = −x + ωJx turns at ω in any linear coordinates: A = e^{−τ} sin(ωτ)/τ."""
    omega, mixing = 1.5, np.array([[3.0, 1.0], [0.2, 0.5]])
    f, s = np.eye(2) - omega * np.array([[0.0, -1.0], [1.0, 0.0]]), np.eye(2)
    x = exact_paths(f, s, 0.05, 4000, 16, np.random.default_rng(2)) @ mixing.T
    found = sde.area_production(x, dt=0.05, whiten=True, expected=(f @ s - (f @ s).T) / 2 * 0)
    rate, error = float(found.area_production[0, 0, 1]), float(found.area_production_error[0, 0, 1])
    assert abs(rate - np.exp(-0.05) * np.sin(omega * 0.05) / 0.05) < 3 * error < 0.15
    raw = sde.area_production(x, dt=0.05)
    assert float(raw.area_production[0, 0, 1]) / rate == pytest.approx(np.linalg.det(mixing), rel=0.02)


def test_errors_are_those_of_repetition():
    """The standard error against the scatter of 200 repetitions; counterexample: of independent terms."""
    f, s, _ = oracle(0, 3)
    x = exact_paths(f, s, 0.1, 3200, 200, np.random.default_rng(4))
    results = [sde.area_production(chain, 20, dt=0.1, blocks=32, flips=19) for chain in x]
    means = np.array([float(r.area_production[0, 0, 1]) for r in results])
    claimed = np.sqrt(np.mean([float(r.area_production_error[0, 0, 1]) ** 2 for r in results]))
    assert claimed / means.std(ddof=1) == pytest.approx(1, abs=0.2)  # the ratio has an error of 5 %
    y = x - x.mean(1, keepdims=True)
    swept = (y[:, :-20, 0] * y[:, 20:, 1] - y[:, :-20, 1] * y[:, 20:, 0]) / 4
    naive = (swept.std(axis=1) / np.sqrt(swept.shape[1])).mean()
    assert naive < 0.5 * means.std(ddof=1)


def test_planes_of_many_variables():
    """60 variables, two that turn: found by the first half, tested on the second; nothing among 60 that do not."""
    rng = np.random.default_rng(6)
    f = np.diag(np.linspace(0.5, 2, 60))
    f[[3, 40], [40, 3]] = -1.0, 1.0
    s = scipy.linalg.solve_continuous_lyapunov(f, 2 * np.eye(60))
    x = exact_paths(f, s, 0.2, 1600, 8, rng)
    found = sde.area_production(x, dt=0.2, planes=3)
    assert float(found.p_value[0]) < 0.01 and float(found.area_production[0, 0]) > 5 * float(
        found.area_production_error[0, 0]
    )
    assert float((found.plane_vectors[0].sel(variable=["x3", "x40"]) ** 2).sum()) > 1.6  # of 2
    still = exact_paths(np.diag(np.diag(f)), np.diag(1 / np.diag(f)), 0.2, 1600, 8, rng)
    found = sde.area_production(still, dt=0.2)
    assert (
        found.sizes["plane"] == 8 and found.attrs["blocks"] == 32 and float(found.p_value[0]) > 0.001
    )  # false alarm 0.1 %


# the test --------------------------------------------------------------------------------------------------


def test_counterexample_a_relaxing_mean_sweeps_out_area():
    """Detailed balance, but every chain starts at the same far point: refused only by leaving the start out."""
    f = np.diag([1.0, 4.0])
    x = exact_paths(f, np.diag([1.0, 0.25]), 0.1, 400, 64, np.random.default_rng(7))
    x += 20 * np.exp(-np.arange(400)[:, None] * 0.1 * np.diag(f))
    assert float(sde.area_production(x, dt=0.1).p_value[0]) < 0.01
    assert float(sde.area_production(x, dt=0.1, burn_in=100).p_value[0]) > 0.01


def test_sizes_quickly():
    """150 seeds of two nulls: at 5 %, 7.5 ± 2.7 alarms; 1 … 18 leaves out 1 in 1000."""
    for kind in ("mixed scales", "flat directions"):
        x = reversible(kind, np.random.default_rng(8), 1280, 150)
        p = [float(sde.area_production(chain, dt=1.0, flips=99, blocks=32).p_value[0]) for chain in x]
        assert 1 <= np.sum(np.array(p) <= 0.05) <= 18


@evidence(table="area_production_size")
def test_sizes(table):
    """2000 seeds for each reversible process; false alarms within [½, 2] times nominal, at 5 % and 1 %."""
    rows = []
    for kind in NULLS:
        for blocks, lag in ((64, 1), (32, 10)):
            p = np.empty((2000, 2))
            for start in range(0, 2000, 250):
                x = reversible(kind, np.random.default_rng([9, start, blocks]), 3200, 250)
                for k, chain in enumerate(x):
                    found = sde.area_production(chain, lag, dt=1.0, flips=999, blocks=blocks, seed=start + k)
                    p[start + k] = float(found.p_value[0]), float(np.nanmin(found.pair_p_value))
            five, one, pair = (p[:, 0] <= 0.05).mean(), (p[:, 0] <= 0.01).mean(), (p[:, 1] <= 0.01).mean()
            rows.append((kind, blocks, lag, f"{100 * five:.2f} %", f"{100 * one:.2f} %", f"{100 * pair:.2f} %"))
            assert 0.025 <= five <= 0.1 and 0.005 <= one <= 0.02, rows[-1]
    table(
        "False alarms of area_production",
        ["process", "blocks", "lag", "at 5 %", "at 1 %", "smallest pair at 1 %"],
        rows,
        "2000 seeds each, one chain of 3200 states of 3 variables: mixtures of AR(1) processes (φ = −0.9 … 0.999), "
        "random walks (φ = 1), a Metropolis chain in double wells, all in detailed balance. Standard error 0.5 % and "
        "0.2 %.",
    )


def noncentral_power(delta, blocks=64, level=0.01):
    critical = scipy.stats.t.isf(level / 2, blocks - 1)
    return float(scipy.stats.nct.sf(critical, blocks - 1, delta) + scipy.stats.nct.cdf(-critical, blocks - 1, delta))


@evidence(table="area_production_power")
def test_power(table):
    """dx = −x + ωJx in one plane: the error of the area is √(γ/t) for γ = 1, so that the power is Student's t's."""
    rows, time, step = [], 640.0, 0.2
    for omega in (0.0, 0.04, 0.08, 0.12, 0.16, 0.24, 0.4):
        shares = []
        for d in (2, 10, 40):
            f = np.eye(d)
            f[0, 1], f[1, 0] = omega, -omega
            turn = np.linalg.qr(np.random.default_rng(10).normal(size=(d, d)))[0]
            hits = []
            for some in range(2 if d == 40 else 4):
                x = exact_paths(f, np.eye(d), step, int(time / step), 100, np.random.default_rng([11, some, d]))
                for turned in (False, True) if d > 2 else (False,):
                    y = x @ turn.T if turned else x
                    p = [float(sde.area_production(c, dt=step, flips=999, seed=k).p_value[0]) for k, c in enumerate(y)]
                    hits.append(np.mean(np.array(p) <= 0.01))
            shares += [np.mean(hits)] if d == 2 else [np.mean(hits[::2]), np.mean(hits[1::2])]
        theory = noncentral_power(omega * np.sqrt(time) * np.exp(-step / 2))
        rows.append((omega, f"{omega * np.sqrt(time):.2f}", *(f"{s:.3f}" for s in shares), f"{theory:.3f}"))
        assert abs(shares[0] - theory) < 0.09, rows[-1]
    table(
        "Power of area_production at 1 %",
        ["ω/γ", "ω√(t/γ)", "d = 2", "d = 10, axes known", "d = 10, turned", "d = 40, axes known", "d = 40, turned",
         "Student's t, d = 2"],
        rows,
        "One chain of t = 640/γ, 3200 states; dx = −γx + ωJx in one plane of d variables; turned: that plane "
        "at a random angle to the axes. 400 seeds (d = 40: 200), standard error at most 0.025 (0.035).",
    )  # fmt: skip


@evidence(table="area_production_tq")
def test_tq_closely(table):
    f, s, tq = oracle()
    exact = lambda t: scipy.linalg.expm(-f * t) @ s  # noqa: E731
    rows = []
    for interval, lags, expected in ((0.0025, [1], tq), (0.1, [1, 2, 5, 10], exact)):
        rngs = [np.random.default_rng([12, k]) for k in range(4)]
        x = np.concatenate([exact_paths(f, s, interval, 4000, 128, rng) for rng in rngs])
        found = sde.area_production(x, lags, dt=interval, blocks=256, expected=expected)
        for k, lag in enumerate(found.lag.values):
            a, e, z = (found[n].values[k] for n in ("area_production", "area_production_error", "z"))
            aim = found.expected.values[k] if "lag" in found.expected.dims else found.expected.values
            relative = (np.linalg.norm(a - aim) / np.linalg.norm(tq), e.max() / np.linalg.norm(tq))
            slope, error = float(found.slope[k]), float(found.slope_error[k])
            far = f"{np.linalg.norm(a - tq) / np.linalg.norm(tq):.3f}"
            shown = *(f"{100 * r:.2f} %" for r in relative), f"{np.nanmax(np.abs(z)):.2f}", f"{slope:.4f} ± {error:.4f}"
            what = "TQ" if expected is tq else "(C(τ)ᵀ − C(τ))/2τ"
            rows.append((f"{lag * interval:g}", what, *shown, f"{float(found.expected_p_value[k]):.2f}", far))
            assert np.nanmax(np.abs(z)) < 3.3 and relative[1] < 0.01 and abs(slope - 1) < max(0.01, 3 * error)
    table(
        "Area production of a 5-D Ornstein–Uhlenbeck process",
        ["τ", "against", "distance/‖TQ‖", "largest error/‖TQ‖", "largest of 10 z", "slope", "p", "‖A − TQ‖/‖TQ‖"],
        rows,
        "512 exact chains of 4000 states, 0.0025 and 0.1 apart. The last column is the distance to the limit τ → 0.",
    )


# winding ---------------------------------------------------------------------------------------------------


def test_winding_of_stored_states_is_that_counted_on_the_way():
    process = sde.landscapes.get("quadratic", rotation=1.0).at_temperature(0.5)
    run = sde.simulate(
        process, (1.0, 0.5), step=0.02, steps=2000, paths=80, save_every=1, threads=1, seed=3,
        observables=sde.Winding(per_path=True, center=(0.1, 0.0)),
    )  # fmt: skip
    found = winding(run, center=(0.1, 0.0))
    np.testing.assert_allclose(found.winding, run.winding, atol=1e-9)
    assert float(found.angular_velocity) == pytest.approx(float(run.angular_velocity), rel=1e-9)
    assert 0.5 < float(found.angular_velocity_error / run.angular_velocity_error) < 2
    assert found.attrs["largest_turn"] > 3  # some path passes close to the centre
    # a run, its arrays, and the one variable `state` of a run with many are the same trajectory
    states = np.stack([run.x, run.y], axis=-1)
    many = xr.Dataset({"state": (("path", "time", "variable"), states)}, {"time": run.time, "variable": ["x", "y"]})
    areas = [sde.area_production(of, flips=99, burn_in=9).area_production.values for of in (run, many)]
    areas.append(sde.area_production(states, dt=0.02, flips=99, burn_in=9).area_production.values)
    np.testing.assert_allclose(areas[1:], [areas[0]] * 2, rtol=1e-12)
    angle = np.cumsum(np.full((8, 50), 0.3), axis=1)
    around = winding((angle % 2.0)[..., None], "a", period=2.0, dt=0.5)
    np.testing.assert_allclose(around.winding, 49 * 0.3 / 2)
    assert float(around.angular_velocity) == pytest.approx(0.3 * np.pi / 0.5)


def test_counterexample_velocities_sweep_out_area_in_equilibrium():
    """dx = v dt, dv = −(x + v) dt + √2 dW: A_xv = −E[v²] at τ → 0, though no current turns among positions."""
    f = np.array([[0.0, -1.0], [1.0, 1.0]])
    e, s = scipy.linalg.expm(-0.1 * f), np.eye(2)
    x = exact_paths(f, s, 0.1, 800, 32, np.random.default_rng(16))
    found = sde.area_production(x, dt=0.1, expected=lambda t: scipy.linalg.expm(-f * t) @ s, blocks=32, flips=199)
    area, exact = float(found.area_production[0, 0, 1]), (e[1, 0] - e[0, 1]) / 0.2
    assert float(found.expected[0, 0, 1]) == pytest.approx(exact) and -1 < exact < -0.9
    assert float(found.p_value[0]) < 0.01 and abs(area - exact) < 0.1  # 4 deviations, 0.0255 among 120 seeds


# figures and faults ----------------------------------------------------------------------------------------


def test_figure_of_areas():
    f, s, tq = oracle()
    x = exact_paths(f, s, 0.1, 400, 32, np.random.default_rng(13))
    compared = sde.area_production(x, [1, 4], dt=0.1, expected=tq, flips=99)
    ax = figures.plot_area_production(compared, 4)
    assert ax.get_xlabel().startswith("expected") and "slope" in ax.get_legend().get_texts()[1].get_text()
    ax = figures.plot_area_production(sde.area_production(x, dt=0.1, flips=99))
    assert len(ax.get_yticklabels()) == 10 and "p = 0.01" in ax.get_legend().get_texts()[0].get_text()
    ax = figures.plot_area_production(sde.area_production(x, dt=0.1, flips=99, planes=2))
    assert [t.get_text() for t in ax.get_yticklabels()] == ["plane 1", "plane 2"]
    for wrong in (compared.drop_vars("area_production"), compared):
        with pytest.raises(ValueError, match=r"no area production|lag must be one of 1, 4"):
            figures.plot_area_production(wrong, 3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(dt=None), "give dt"),
        (dict(lag=0), "a lag must be a whole number >= 1"),
        (dict(lag=[2, 1]), "lags must increase"),
        (dict(lag=50), "do not fill 64 blocks of at least 200 samples"),
        (dict(blocks=4), "blocks must be a whole number >= 8"),
        (dict(burn_in=999), "burn_in 999 leaves 1 of 1000"),
        (dict(variables=["a"]), "must name the 2 columns"),
        (dict(planes=2), "planes must be a whole number from 1 to 1"),
        (dict(expected=np.eye(2)), "must be antisymmetric"),
        (dict(expected=np.eye(3)), "expected must be TQ of shape"),
        (dict(expected=np.zeros((2, 2)), planes=1), "pair by pair"),
        (dict(whiten="yes"), "whiten must be True or False"),
        (dict(flips=3), "flips must be a whole number from 19"),
    ],
)
def test_faults_in_words(options, words):
    x = np.random.default_rng(14).normal(size=(1000, 2))
    with pytest.raises(ValueError, match=words):
        sde.area_production(x, **{"dt": 1.0} | options)


def test_faults_of_the_data():
    rng = np.random.default_rng(15)
    with pytest.raises(ValueError, match="two variables"):
        sde.area_production(rng.normal(size=(500, 1)), dt=1.0)
    with pytest.raises(ValueError, match="some combination"):
        sde.area_production(np.repeat(rng.normal(size=(600, 1)), 2, 1), dt=1.0, whiten=True)
    run = sde.simulate(sde.landscapes.get("quadratic").at_temperature(1.0), (0, 0), step=0.1, steps=9, threads=1)
    with pytest.raises(ValueError, match="save_every"):
        sde.area_production(run)
    run = run.expand_dims(time=[0.0, 1.0, 3.0])
    with pytest.raises(ValueError, match="evenly spaced in time, got gaps from 1 to 2"):
        sde.area_production(run)
    with pytest.raises(ValueError, match="no saved variable 'z'; it has x, y"):
        sde.area_production(run.assign_coords(time=[0.0, 1.0, 2.0]), variables=["x", "z"])
    with pytest.raises(ValueError, match="period=…"):
        winding(rng.normal(size=(50, 1)), "a", dt=1.0)
    with pytest.raises(ValueError, match="lies at the center"):
        winding(np.zeros((50, 2)), dt=1.0)
    with pytest.raises(ValueError, match="center is for two variables"):
        winding(rng.normal(size=(50, 1)), "a", (1.0, 0.0), dt=1.0, period=1.0)
    with (
        pytest.raises(ValueError, match="random signs of 64 blocks needs about"),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr("sde_sgd._memory.available_bytes", lambda: 2**27)
        sde.area_production(rng.normal(size=(1000, 2)), dt=1.0, flips=10**6)
