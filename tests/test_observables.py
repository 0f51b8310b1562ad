"""What is accumulated while paths run: against NumPy on the saved states, closed forms, and the scatter over seeds."""

import itertools
import math

import numpy as np
import pytest
import scipy.linalg
import scipy.stats

import sde_sgd as sde
from sde_sgd.paths import _ensemble
from sde_sgd.paths._checkpoint import Checkpoint
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


def states(run):
    """(path, time, variable) in float64."""
    return np.stack([run[v].values.astype(float) for v in run.data_vars if run[v].dims == ("path", "time")], -1)


def everything(d, **changes):
    """One observable of each kind, for a process of d variables."""
    grid = sde.Grid((-2,) * min(d, 3), (2,) * min(d, 3), (9, 7, 5)[: min(d, 3)])
    project = None if d < 4 else ["a", "x", "c"]
    options = dict(burn_in=3, every=2, blocks=4) | changes
    seen = [Moments(**options), LagCovariance((0, 1, 3, 5), **options), Histogram(grid, **options, project=project)]
    seen.append(FirstPassage("x > 0.9 and exp(-x) > 0.1", per_path=True, times=5))
    return seen + ([Winding(burn_in=3, per_path=True)] if d > 1 else [])


# -- against NumPy on the saved states ---------------------------------------------------------------------------


@pytest.mark.parametrize("d, dtype", [(1, "float64"), (2, "float64"), (5, "float64"), (2, "float32")])
def test_sums_in_the_kernel_are_those_over_saved_states(d, dtype):
    """float32 states too are summed in float64: to 1e-12, where float32 sums would differ by 1e-6."""
    paths, steps = 101, 40
    run = simulate(
        linear(d), np.full(d, 0.5), step=0.1, steps=steps, paths=paths, save_every=1, observables=everything(d),
        seed=3, dtype=dtype,
    )  # fmt: skip
    x, close = states(run), dict(rtol=1e-12, atol=1e-13)
    seen = x[:, 5::2]
    mean, blocks = seen.mean((0, 1)), np.arange(paths) * 4 // paths
    np.testing.assert_allclose(run["mean"], mean, **close)
    np.testing.assert_allclose(run["mean_error"], scatter(seen.mean(1), blocks), **close)
    squares = np.einsum("pti,ptj->pij", seen - mean, seen - mean) / seen.shape[1]
    np.testing.assert_allclose(run["covariance"], squares.mean(0), **close)
    np.testing.assert_allclose(run["covariance_error"], scatter(squares, blocks), **close)
    np.testing.assert_allclose(
        run["effective_samples"], np.diag(run["covariance"]) / run["mean_error"] ** 2, rtol=1e-12
    )
    for k, lag in enumerate((0, 1, 3, 5)):
        pairs = np.einsum("pti,ptj->pij", seen[:, lag:] - mean, seen[:, : seen.shape[1] - lag] - mean)
        pairs /= seen.shape[1] - lag
        np.testing.assert_allclose(run["lag_covariance"][k], pairs.mean(0), **close)
        np.testing.assert_allclose(run["lag_covariance_error"][k], scatter(pairs, blocks), **close)
    np.testing.assert_allclose(run["lag_time"], [0, 0.2, 0.6, 1.0])
    chosen = seen if d < 4 else seen[..., [2, 0, 4]]
    grid = sde.Grid((-2,) * min(d, 3), (2,) * min(d, 3), (9, 7, 5)[: min(d, 3)])
    counts, _ = np.histogramdd(chosen.reshape(-1, min(d, 3)), bins=grid.edges)
    np.testing.assert_array_equal(run["counts"].sum("block"), counts)
    assert run["outside"].sum() == chosen[..., 0].size - counts.sum()

    inside = (x[..., 0] > 0.9) & (np.exp(-x[..., 0]) > 0.1)
    passage = np.where(inside.any(1), 0.1 * inside.argmax(1), np.inf)
    np.testing.assert_allclose(run["first_passage"], passage, **close)
    capped = np.minimum(passage, 4.0)
    np.testing.assert_allclose(run["passage_time"], capped.mean(), **close)
    np.testing.assert_allclose(run["passage_time_error"], capped.std(ddof=1) / math.sqrt(paths), rtol=1e-11)
    alive = [(passage > t + 1e-9).mean() for t in (0, 1, 2, 3, 4)]
    np.testing.assert_allclose(run["survival"], alive, **close)
    np.testing.assert_allclose(run["survival_error"], np.sqrt(alive * (1 - np.array(alive)) / paths), rtol=1e-12)
    assert 0 < int(run["censored"]) == np.isinf(passage).sum() < paths
    if d > 1:
        angle = np.unwrap(np.arctan2(x[:, 3:, 1], x[:, 3:, 0]), axis=1)
        turns = (angle[:, -1] - angle[:, 0]) / (2 * np.pi)
        np.testing.assert_allclose(run["winding"], turns, **close)
        rates = 2 * np.pi * turns / 3.7
        np.testing.assert_allclose(run["angular_velocity"], rates.mean(), **close)
        np.testing.assert_allclose(run["angular_velocity_error"], rates.std(ddof=1) / math.sqrt(paths), rtol=1e-11)


def scatter(per_path, blocks):
    """Standard error from the means of contiguous blocks of paths."""
    means = np.stack([per_path[blocks == b].mean(0) for b in range(blocks.max() + 1)])
    return means.std(axis=0, ddof=1) / math.sqrt(len(means))


def test_regions_of_every_kind_and_paths_that_start_inside():
    mask = (sde.Grid((-2, -2), (2, 2), (8, 8)).data_array(np.arange(64), ("x", "y"), "m")) % 7 == 1
    start = np.array([[0.0, 0.0], [1.5, 1.5]] * 32)
    for region in (mask, "x**2 + y**2 > 2 or y < -1", sde_region("x > a", {"a": 0.4})):
        passage = FirstPassage(region, per_path=True)
        run = simulate(TURNING, start, step=0.05, steps=30, paths=64, save_every=1, observables=passage)
        inside = sde_region(region).contains(states(run))
        expected = np.where(inside.any(1), 0.05 * inside.argmax(1), np.inf)
        np.testing.assert_allclose(run["first_passage"], expected, rtol=1e-12)
        assert len(set(expected.tolist())) > 5
    assert (run["first_passage"][1::2] == 0).all() and run["survival"][0] == 0.5


def sde_region(value, parameters=None):
    from sde_sgd._region import Region

    return Region.of(value, ("x", "y"), parameters)


def test_many_variables():
    """Beyond 16 variables the kernel has loops over rows."""
    count, rng = 20, np.random.default_rng(4)
    names = [f"w{i}" for i in range(count)]
    model = sde.FiniteSum.linear_model(rng.normal(size=(50, count)), rng.normal(size=50), "squared", weight_decay=0.5)
    options, u = dict(burn_in=2, every=3, blocks=3), rng.normal(size=count)
    seen = [
        Moments(**options), LagCovariance((0, 2), **options), Winding(("w3", "w11"), per_path=True),
        Histogram(sde.Grid(-3, 3, 12), **options, project={"u": u}), FirstPassage("w2 > 0.1", per_path=True),
    ]  # fmt: skip
    run = simulate(
        model.at_temperature(0.05), np.zeros(count), step=0.02, steps=20, paths=70, save_every=1, observables=seen
    )
    x = run["state"].transpose("path", "time", "variable").values
    s = x[:, 5::3]
    assert list(run["variable"].values) == names
    np.testing.assert_allclose(run["covariance"], np.cov(s.reshape(-1, count).T, bias=True), rtol=1e-10, atol=1e-14)
    pairs = np.einsum("pti,ptj->ij", s[:, 2:] - s.mean((0, 1)), s[:, :-2] - s.mean((0, 1))) / s[:, 2:, 0].size
    np.testing.assert_allclose(run["lag_covariance"][1], pairs, rtol=1e-10, atol=1e-14)
    np.testing.assert_array_equal(run["counts"].sum("block"), np.histogram(s @ u, np.linspace(-3, 3, 13))[0])
    angle = np.unwrap(np.arctan2(x[:, 1:, 11], x[:, 1:, 3]), axis=1)
    first = np.arctan2(0.0, 0.0)  # all paths start in the centre, whose angle is 0 by convention
    turned = run["winding"].values * 2 * np.pi + first - angle[:, -1]
    np.testing.assert_allclose(np.round(turned / (2 * np.pi)) * 2 * np.pi, turned, atol=1e-9)
    inside = x[..., 2] > 0.1
    np.testing.assert_allclose(run["first_passage"], np.where(inside.any(1), 0.02 * inside.argmax(1), np.inf))


def test_steps_of_different_lengths():
    """Times are sums of the steps, from first_step on."""
    step = np.linspace(0.02, 0.1, 45)
    seen = [FirstPassage("x > 0.3", per_path=True, times=(0.0, 0.5, 1.0)), Winding(burn_in=10, per_path=True)]
    run = simulate(TURNING, (0.1, 0.1), step=step, steps=40, first_step=5, paths=64, save_every=1, observables=seen)
    x, clock = states(run), run["time"].values - run["time"].values[0]
    inside = x[..., 0] > 0.3
    passage = np.where(inside.any(1), clock[inside.argmax(1)], np.inf)
    np.testing.assert_allclose(run["first_passage"], passage, rtol=1e-12)
    np.testing.assert_allclose(run["survival"], [(passage > t).mean() for t in (0.0, 0.5, 1.0)])
    rate = 2 * np.pi * run["winding"].values.mean() / (clock[-1] - clock[10])
    np.testing.assert_allclose(run["angular_velocity"], rate, rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_directions_are_inner_products(dtype):
    grid = sde.Grid((-3, -1), (3, 3), (12, 10))
    histogram = Histogram(grid, burn_in=4, project={"u": (1, -2, 0, 0, 1), "v": (0, 0.5, 0.25, 0, 0)})
    run = simulate(
        linear(5), np.zeros(5), step=0.1, steps=20, paths=64, save_every=1, observables=histogram, dtype=dtype
    )
    x = states(run)[:, 5:].reshape(-1, 5)
    expected, *_ = np.histogramdd(x @ np.array([[1, -2, 0, 0, 1], [0, 0.5, 0.25, 0, 0]]).T, bins=grid.edges)
    np.testing.assert_array_equal(run["counts"].sum("block"), expected)
    assert Histogram.extract(run).density.dims == ("u", "v")


# -- the same bits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 2, 5])
def test_bits_do_not_depend_on_threads_groups_or_saving(d, monkeypatch):
    def go(**changes):
        settings = dict(step=0.1, steps=16, paths=9000, seed=5, threads=1, save_every=0) | changes
        return simulate(linear(d), np.zeros(d), observables=everything(d), **settings)

    reference = go()
    results = [go(threads=n) for n in (2, 3, 7)] + [go(save_every=k) for k in (None, 4)]
    monkeypatch.setattr(_ensemble, "_GROUP_BYTES", 1)
    results += [go(), go(threads=3)]
    monkeypatch.setattr(_ensemble, "_SEGMENT_SECONDS", 0.0)  # every segment is one step
    results += [go(threads=2)]
    for other, name in itertools.product(results, reference.data_vars):
        np.testing.assert_array_equal(reference[name], other[name], err_msg=name)
    assert not set(linear(d).variables) & set(reference.data_vars) and "path" not in reference["mean"].dims


def test_an_interrupted_run_continues_with_the_same_sums(tmp_path, monkeypatch):
    monkeypatch.setattr(_ensemble, "_GROUP_BYTES", 1)
    monkeypatch.setattr(_ensemble, "_SEGMENT_SECONDS", 0.0)
    monkeypatch.setattr(Checkpoint, "seconds", 0.0)

    def go(**changes):
        settings = dict(step=0.1, steps=16, paths=9000, seed=5, save_every=0, observables=everything(2)) | changes
        return simulate(linear(2), np.zeros(2), **settings)

    class Stop(Exception):
        pass

    def stop(done, total):
        if done == 27:  # of the second group of paths, in the middle
            raise Stop

    file = tmp_path / "run"
    with pytest.raises(Stop):
        go(checkpoint=file, progress=stop)
    assert file.exists()
    first, reference = [], go()
    resumed = go(checkpoint=file, progress=lambda done, total: first.append(done))
    assert first[0] == 27 and not file.exists()
    for name in reference.data_vars:
        np.testing.assert_array_equal(reference[name], resumed[name], err_msg=name)


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
    """E[x], S and C(lag) = Aˡ S of Euler's own recursion, 19 z-scores below 5 (false alarms 1e-5 each run)."""
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
    seen = [Moments(burn_in=100), LagCovariance((2, 10), burn_in=100, every=1)]
    run = biased(LINE, seen, step=h, steps=1000, paths=1000, scheme="euler_maruyama", seed=7)
    exact = TEMPERATURE / (1 - h) - TEMPERATURE / (1 - h / 2)
    bias, error = (float(run[n].squeeze()) for n in ("covariance_bias", "covariance_bias_error"))
    assert abs(bias - exact) < 5 * error and error < 0.1 * exact
    assert error < 0.3 * math.sqrt(2) * float(run["covariance_error"].squeeze())
    assert abs(run["covariance"].squeeze() - bias - TEMPERATURE) < 5 * run["covariance_error"].squeeze() + exact * h
    assert abs(run["mean_bias"][0]) < 5 * run["mean_bias_error"][0]
    c = [(1 - h) ** lag * TEMPERATURE / (1 - h / 2) for lag in (2, 10)]
    c2 = [(1 - 2 * h) ** (lag / 2) * TEMPERATURE / (1 - h) for lag in (2, 10)]
    gap = np.abs(run["lag_covariance_bias"].values.ravel() - (np.array(c2) - c))
    assert (gap < 5 * run["lag_covariance_bias_error"].values.ravel()).all()
    assert run["covariance_bias"].attrs["order"] == 1


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
    with pytest.raises(ValueError, match="no axis 1"):
        effective_sample_size(np.ones(20), axis=1)


# -- faults -------------------------------------------------------------------------------------------------------


def go(observables, process=TURNING, **changes):
    settings = dict(step=0.1, steps=20, paths=32) | changes
    return simulate(process, np.zeros(process.dim), observables=observables, **settings)


def bias(observables, process=TURNING, *, steps=20, **changes):
    return biased(process, observables, step=0.1, steps=steps, paths=32, **changes)


RING = sde.landscapes.get("ring").at_temperature(0.5)
GRID = sde.Grid((-2, -2), (2, 2), (4, 4))
FAULTS = {
    "blocks must be a whole number >= 2, got 1": lambda: Moments(blocks=1),
    "every must be a whole number >= 1, got 0": lambda: Moments(every=0),
    "burn_in must be a whole number >= 0, got -1": lambda: LagCovariance((1,), burn_in=-1),
    "8 paths cannot fill 16 independent blocks": lambda: go(Moments(), paths=8),
    "no state is counted: burn_in 20": lambda: go(Moments(burn_in=20)),
    "lags must increase": lambda: LagCovariance((3, 1)),
    "one is needed at least": lambda: LagCovariance(()),
    "a lag must be a whole number >= 0, got -1": lambda: LagCovariance((-1, 2)),
    "lags must be a sequence": lambda: LagCovariance(3),
    "no pair of states is 20 samples apart": lambda: go(LagCovariance((0, 20))),
    "a variable of the winding must be one of x, y, got 'z'": lambda: go(Winding(("x", "z"))),
    "or of two different ones": lambda: Winding(("x", "x")),
    "needs it to be periodic": lambda: go(Winding("x")),
    "center must have shape": lambda: Winding(center=(0, 0, 0)),
    "at least 2 paths, got 1": lambda: go(Winding(), paths=1),
    "no step is counted: burn_in 20 of 20": lambda: go(Winding(burn_in=20)),
    "per_path must be True or False": lambda: Winding(per_path=1),
    "region: unknown symbol 'z'": lambda: go(FirstPassage("z > 0")),
    "is a Python function": lambda: go(FirstPassage(lambda x: x[..., 0] > 0)),
    "region must be inequalities": lambda: go(FirstPassage(3.0)),
    "the run ends at 2; run longer": lambda: go(FirstPassage("x > 0", times=(1.0, 3.0))),
    "times must be >= 0 and increase": lambda: FirstPassage("x > 0", times=(2.0, 1.0)),
    "times must be a whole number >= 2": lambda: FirstPassage("x > 0", times=1),
    "needs at least 2 paths": lambda: go(FirstPassage("x > 0"), paths=1),
    "the histogram's grid has 1 dimensions, the process 2": lambda: go(Histogram(sde.Grid(0, 1, 5))),
    "project must have 2 names": lambda: Histogram(GRID, project=("x",)),
    "project must be a sequence of 2 names": lambda: Histogram(GRID, project="xy"),
    "a name in project must be one of x, y, got 'z'": lambda: go(Histogram(GRID, project=("x", "z"))),
    "names a variable twice: x, x": lambda: go(Histogram(GRID, project=("x", "x"))),
    "direction u must have shape": lambda: go(Histogram(GRID, project={"u": (1, 2, 3), "v": (1, 0)})),
    "direction u is zero": lambda: go(Histogram(GRID, project={"u": (0, 0), "v": (1, 0)})),
    "gives the name of the variable 'y'": lambda: go(Histogram(GRID, project={"u": (1, 1), "y": (1, 2)})),
    "projection name 'density' is reserved": lambda: Histogram(GRID, project={"density": (1, 1), "v": (1, 0)}),
    "component along the periodic variable theta": lambda: go(
        Histogram(sde.Grid(0, 1, 5), project={"u": (1,)}), RING
    ),
    "give start, a point of all variables": lambda: sample_density(
        linear(5), GRID, step=0.1, steps=9, paths=64, burn_in=1, project=("x", "y")
    ),
    "steps must be even, got 21": lambda: bias(Moments(), steps=21),
    "burn_in must be even, got 3": lambda: bias(Moments(burn_in=3)),
    "every must be even, got 3": lambda: bias(Histogram(GRID, every=3)),
    "every must be even, got 1 .or every lag": lambda: bias(LagCovariance((1, 2))),
    "knows no order for a FirstPassage": lambda: bias(FirstPassage("x > 0")),
    "two-point increments of 'weak_euler' do not add up": lambda: bias(Moments(), scheme="weak_euler"),
    "is that of observables": lambda: bias(None),
    "at twice the step, and there no state is counted: burn_in 10": lambda: bias(Moments(burn_in=20)),
    'no order where walls="absorb"': lambda: bias(
        Moments(), HALF, walls="absorb", scheme="euler_maruyama"
    ),
    "step_bias also runs at twice the step, and there path": lambda: biased(
        sde.Landscape("x", "x**4").at_temperature(1.0), Moments(), step=0.2, steps=400, paths=1024,
        scheme="euler_maruyama",
    ),
    "does not know the bias of Grid": lambda: bias(GRID),
    "needs a step that is a number": lambda: sample_density(
        TURNING, GRID, step=np.full(20, 0.1), steps=20, paths=64, burn_in=2, step_bias=True
    ),
    "two observables both give 'mean'": lambda: go([Moments(), Moments(every=2)]),
}  # fmt: skip


@pytest.mark.parametrize("message", FAULTS)
def test_faults_are_named(message):
    with pytest.raises(ValueError, match=message):
        FAULTS[message]()


@pytest.mark.parametrize("name", ["mean", "lag", "winding", "survival", "density_bias"])
def test_names_of_results_are_reserved(name):
    with pytest.raises(ValueError, match="reserved"):
        sde.Landscape((name,), f"{name}**2")
