"""Kernels that loop over the variables: against the ones that name each, exact laws at d = 100, and what is refused.

Statistical tests are seeded; a bound of 5 standard errors on the largest of m numbers has a false-alarm rate of
6e-7 · m: below 0.6 % for the 5050 entries of a covariance in 100 variables.
"""

import time

import numpy as np
import pytest
import scipy.linalg

import sde_sgd as sde
from sde_sgd.landscapes._linear import LinearLandscape
from sde_sgd.paths import _row_sums, _sgd
from sde_sgd.paths._noise import Increments
from sde_sgd.paths._row_sgd import row_sgd_part
from sde_sgd.paths._rows import RowIncrements
from sde_sgd.paths._schemes import SCHEMES

RNG = np.random.default_rng(21)


def linear(d, diagonal=False):
    m, q = RNG.normal(size=(2, d, d)) / np.sqrt(d)
    noise = np.diag(1 + RNG.random(d)) if diagonal else q @ q.T + 0.1 * np.eye(d)
    return LinearLandscape(m + 2.5 * np.eye(d), noise, center=RNG.normal(size=d))


def logistic(samples, d, decay=0.1):
    inputs, targets = RNG.normal(size=(samples, d)) / np.sqrt(d), np.sign(RNG.normal(size=samples))
    return sde.FiniteSum.linear_model(2 * inputs, targets, "logistic", weight_decay=decay)


def logistic_gradient(x, row, out):
    margin = 0.0
    for i in range(x.size):
        margin += row[i] * x[i]
    slope = -row[x.size] / (1 + np.exp(row[x.size] * margin))
    for i in range(x.size):
        out[i] = slope * row[i] + 0.1 * x[i]


def functions_of(model):
    data = np.column_stack([model.data["X"], model.data["y"]])
    return sde.FiniteSum.from_functions(logistic_gradient, data, variables=model.variables)


def states(result):
    if "state" in result:
        return result.state.values
    return np.stack([result[v].values for v in result.data_vars], -1)


# -- the same paths as with named variables -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("d", "scheme", "more"),
    [
        (2, "leimkuhler_matthews", {"substeps": 3}),
        *(
            pytest.param(*case, marks=pytest.mark.evidence)  # a kernel each: minutes of compiling together
            for case in [
                (2, "euler_maruyama", {"dtype": "float32"}),
                (2, "baoab", {}),
                (8, "sra1", {"substeps": 2}),
                (4, "weak_euler", {}),
                (4, "stochastic_heun", {}),
                (8, "euler_maruyama", {}),
                (2, "weak_heun", {}),
                (2, "milstein", {}),
                (1, "euler_maruyama", {}),
            ]
        ),
    ],
)
def test_loops_and_named_variables_give_the_same_paths(monkeypatch, d, scheme, more):
    landscape = linear(d, diagonal=d == 4)
    underdamped = SCHEMES[scheme].underdamped
    process = sde.Underdamped(landscape, 0.3, 1.5) if underdamped else landscape.at_temperature(0.3)
    start = np.linspace(-1, 1, process.dim)
    run = dict(step=0.05, steps=21, paths=70, scheme=scheme, save_every=7, seed=3, first_step=5) | more
    results = []
    for least in (1, 1000):
        monkeypatch.setattr(_row_sums, "ROWS_FROM", least)
        results.append(states(sde.simulate(process, start, **run)))
    scale = 3e-6 if "dtype" in more else 1e-12
    np.testing.assert_allclose(results[0], results[1], rtol=scale, atol=scale)


SGD = [
    pytest.param({"momentum": 0.9, "nesterov": True, "weight_decay": 0.2}, marks=pytest.mark.evidence),
    pytest.param({"svag": 4}, marks=pytest.mark.evidence),
    pytest.param({"svrg": 5}, marks=pytest.mark.evidence),  # of few weights: test_high_dimension
    pytest.param({"sampling": "reshuffling", "momentum": 0.5}, marks=pytest.mark.evidence),
]


@pytest.mark.parametrize("options", SGD, ids=lambda o: "_".join(o))
def test_sgd_by_rows_is_sgd_with_named_weights(monkeypatch, options):
    model = logistic(37, 4)
    run = dict(learning_rate=0.1, batch_size=5, steps=23, replicas=70, seed=3, **options)
    start = np.linspace(-1, 1, 4)
    named = states(sde.sgd(model, start, **run))
    functions = states(sde.sgd(functions_of(model), start, **run))
    np.testing.assert_allclose(functions, named, rtol=1e-12, atol=1e-13)
    monkeypatch.setattr(_sgd, "sgd_part", row_sgd_part)
    np.testing.assert_allclose(states(sde.sgd(model, start, **run)), named, rtol=1e-12, atol=1e-13)


# -- a hundred variables ------------------------------------------------------------------------------------------


def z_of_covariance(sample, expected):
    """The largest deviation of a sample covariance (paths, d) from a Gaussian's, in standard errors."""
    error = np.sqrt((np.outer(np.diag(expected), np.diag(expected)) + expected**2) / len(sample))
    return np.abs((np.cov(sample.T) - expected) / error).max()


def test_a_hundred_linear_variables_have_the_covariance_of_the_scheme():
    """Σ' = AΣAᵀ + 2ThD with A = I − hF, from a point: exact for Euler–Maruyama at every step."""
    landscape, h, temperature = linear(100), 0.2, 0.7
    start = RNG.normal(size=100)
    began = time.perf_counter()
    run = dict(step=h, scheme="euler_maruyama", seed=6)
    sde.simulate(landscape.at_temperature(temperature), start, steps=1, **run)
    print(f"compiled in {time.perf_counter() - began:.2f} s")
    result = sde.simulate(landscape.at_temperature(temperature), start, steps=30, paths=10_000, **run)
    assert result.state.dims == ("path", "variable") and list(result["variable"].values[:2]) == ["x0", "x1"]
    noise = 2 * temperature * h * landscape.constant_diffusion()
    step = np.eye(100) - h * landscape.F
    covariance, mean = np.zeros((100, 100)), start - landscape.center
    for _ in range(30):
        covariance, mean = step @ covariance @ step.T + noise, step @ mean
    assert z_of_covariance(result.state.values, covariance) < 5
    off = result.state.values.mean(0) - landscape.center - mean
    assert np.abs(off / np.sqrt(np.diag(covariance) / 10_000)).max() < 5
    stationary = scipy.linalg.solve_discrete_lyapunov(step, noise)
    assert np.abs(covariance - stationary).max() < 1e-3 * np.abs(stationary).max()  # the run was long enough
    exact = temperature * scipy.linalg.solve_continuous_lyapunov(landscape.F, 2 * landscape.constant_diffusion())
    assert z_of_covariance(result.state.values, exact) > 5  # the step's bias is seen: the test has power


@pytest.mark.evidence
def test_saved_states_keep_their_variables():
    landscape = linear(20)
    result = sde.simulate(landscape.at_temperature(0.1), np.zeros(20), step=0.1, steps=6, paths=3, save_every=2)
    assert result.state.dims == ("path", "time", "variable") and result.state.shape == (3, 4, 20)
    np.testing.assert_allclose(result.time, [0, 0.2, 0.4, 0.6])
    assert (result.state.isel(time=0) == 0).all()
    last = sde.simulate(landscape.at_temperature(0.1), np.zeros(20), step=0.1, steps=6, paths=3).state
    np.testing.assert_array_equal(last, result.state.isel(time=-1))


@pytest.mark.parametrize(
    ("scheme", "dtype"),
    [
        ("euler_maruyama", "float64"),
        pytest.param("euler_maruyama", "float32", marks=pytest.mark.evidence),
        pytest.param("weak_euler", "float64", marks=pytest.mark.evidence),
    ],
)
def test_the_noise_of_a_finite_sum_has_the_covariance_of_its_gradients(scheme, dtype):
    """One step from a point: x' ~ (x + hb, 2ThD) exactly, D the population covariance of the samples' gradients."""
    model, x, h, temperature = logistic(37, 18), RNG.normal(size=18), 0.1, 0.5
    run = dict(step=h, steps=1, paths=20_000, scheme=scheme, dtype=dtype, seed=4)
    results = [sde.simulate(m.at_temperature(temperature), x, **run).state.values for m in (model, functions_of(model))]
    scale = 1e-12 if dtype == "float64" else 2e-6
    np.testing.assert_allclose(results[0], results[1], rtol=scale, atol=scale)
    expected = 2 * temperature * h * model.diffusion(x)
    sample = results[0].astype(float)
    assert z_of_covariance(sample, expected) < 5
    off = sample.mean(0) - x - h * model.drift(x)
    assert np.abs(off / np.sqrt(np.diag(expected) / len(sample))).max() < 5
    wrong = expected + 2 * temperature * h * np.outer(model.drift(x), model.drift(x))  # Σ ξ_k g_k, not centred
    assert z_of_covariance(sample, wrong) > 5


@pytest.mark.evidence
def test_a_direction_that_all_samples_share_has_no_noise():
    def gradient(x, row, out):
        out[:] = x
        out[0] += 1e6
        out[1] += row[0]

    model = sde.FiniteSum.from_functions(gradient, RNG.normal(size=10), variables=("a", "b"))
    result = sde.simulate(model.at_temperature(1.0), (0.0, 0.0), step=0.1, steps=5, paths=64, seed=1)
    assert np.ptp(result.a.values) == 0 and np.ptp(result.b.values) > 0


@pytest.mark.evidence
def test_momentum_of_a_finite_sum_with_many_weights():
    model = logistic(20, 17)
    start = np.r_[RNG.normal(size=17), np.zeros(17)]
    run = dict(step=0.1, steps=10, paths=70, seed=4)
    results = [sde.simulate(sde.Underdamped(m, 0.5, 1.0), start, **run).state for m in (model, functions_of(model))]
    assert results[0].sizes["variable"] == 34
    np.testing.assert_allclose(results[0], results[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("by_functions", [False, True])
def test_a_hundred_weights_of_sgd_follow_numpy_on_the_same_samples(by_functions):
    model = logistic(200, 100)
    start, rate, batch = RNG.normal(size=100), 0.3, 7
    run = sde.sgd(
        functions_of(model) if by_functions else model, start, learning_rate=rate, batch_size=batch, steps=40,
        replicas=66, momentum=0.8, seed=9,
    )  # fmt: skip
    assert run.state.dims == ("replica", "variable")
    inputs, targets = model.data.values()
    for replica in (0, 65):
        x, velocity = start.copy(), np.zeros(100)
        for picks in sde.sample_indices(200, batch_size=batch, steps=40, replica=replica, seed=9):
            a, y = inputs[picks], targets[picks]
            gradient = (-y / (1 + np.exp(y * (a @ x)))) @ a / batch + 0.1 * x
            velocity = 0.8 * velocity + gradient
            x = x - rate * velocity
        np.testing.assert_allclose(run.state[replica], x, rtol=1e-12, atol=1e-13)


# -- nothing depends on how it is run -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", pytest.param("float32", marks=pytest.mark.evidence)])
@pytest.mark.parametrize(
    "k", [pytest.param(0, marks=pytest.mark.evidence), 1, pytest.param(2, marks=pytest.mark.evidence)]
)
def test_bits_do_not_depend_on_threads_segments_or_company(k, dtype):
    model = logistic(20, 17)
    landscape = (linear(17), model, functions_of(model))[k]
    process, start = landscape.at_temperature(0.3), np.zeros(17)
    run = dict(step=0.05, seed=8, dtype=dtype)
    whole = sde.simulate(process, start, steps=12, paths=200, threads=1, **run).state.values
    assert whole.dtype == dtype and np.ptp(whole[:, 0]) > 0
    np.testing.assert_array_equal(sde.simulate(process, start, steps=12, paths=200, threads=2, **run).state, whole)
    alone = sde.simulate(process, start, steps=12, paths=1, first_path=150, **run).state.values
    np.testing.assert_array_equal(alone[0], whole[150])
    if "leimkuhler" in sde.simulate(process, start, steps=1, **run).attrs["scheme"]:
        return
    half = sde.simulate(process, start, steps=6, paths=200, **run).state.values
    again = sde.simulate(process, half.astype(float), steps=6, paths=200, first_step=6, **run).state
    np.testing.assert_array_equal(again, whole)


@pytest.mark.evidence
def test_periodic_weights_wrap():
    def gradient(x, row, out):
        out[:] = -3.0 - row[0]

    names = [f"w{i}" for i in range(18)]
    domain = {"w3": (0, 1, "periodic"), "w4": (-1, 1, "periodic"), "w9": (0, 2, "periodic")}
    plain, wrapped = (
        sde.FiniteSum.from_functions(gradient, [-1.0, 1.0], variables=names, domain=box) for box in (None, domain)
    )
    run = dict(step=0.1, steps=20, paths=70, seed=2)
    a, b = (sde.simulate(m.at_temperature(0.1), np.full(18, 0.5), **run).state.values for m in (plain, wrapped))
    periods = {3: (0, 1), 4: (-1, 2), 9: (0, 2)}
    for i in range(18):
        low, span = periods.get(i, (0.0, np.inf))
        expected = a[:, i] if i not in periods else low + (a[:, i] - low) % span
        np.testing.assert_allclose(b[:, i], expected, atol=1e-12)


@pytest.mark.evidence
def test_exits_in_many_variables_are_those_of_the_one_they_watch():
    many = LinearLandscape(np.eye(17), np.eye(17))
    run = dict(step=0.05, paths=2000, max_steps=4000, seed=3)
    times = sde.exit_times(many.at_temperature(0.5), np.zeros(17), "x3 < 1", **run)
    one = LinearLandscape(1.0).at_temperature(0.5)
    expected = sde.exit_times(one, 0.0, "x0 < 1", **(run | {"seed": 4}))
    difference = float(times.mean_exit_time - expected.mean_exit_time)
    assert abs(difference) < 5 * np.hypot(times.mean_exit_time_error, expected.mean_exit_time_error)


# -- faults -------------------------------------------------------------------------------------------------------


def test_what_many_variables_cannot_do_is_said():
    model = logistic(20, 17)
    with pytest.raises(ValueError, match="needs a constant diffusion matrix"):
        sde.simulate(model.at_temperature(0.1), np.zeros(17), step=0.1, steps=1, scheme="stochastic_heun")
    walled = sde.FiniteSum.linear_model(*model.data.values(), "squared", domain={"w0": (-1, 1)})
    with pytest.raises(ValueError, match="does not form D at the point"):
        sde.simulate(walled.at_temperature(0.1), np.zeros(17), step=0.1, steps=1, walls="reflect")
    with pytest.raises(sde.Diverged, match="path 2 diverged at step 3"):
        start = np.zeros((5, 17))
        start[2, 16] = 1e60
        unstable = LinearLandscape(np.diag([*np.ones(16), -1e15])).at_temperature(0.1)
        sde.simulate(unstable, start, step=1.0, steps=5, paths=5)
    with pytest.raises(ValueError, match=r"takes 33554433 random numbers .* real SGD"):
        RowIncrements(2**25 + 1, "normal", "float64", False)
    RowIncrements(2**25, "normal", "float64", False)
    assert RowIncrements(17, "normal", "float64", False)._blocks == Increments(17, "normal", "float64", False)._blocks


@pytest.mark.evidence
def test_observables_see_many_variables():
    landscape = linear(20)
    run = dict(step=0.05, steps=40, paths=640, seed=2, save_every=20)
    moments = sde.Moments(burn_in=20, every=20)
    result = sde.simulate(landscape.at_temperature(0.4), np.zeros(20), observables=moments, **run)
    last = result.state.isel(time=-1).values
    np.testing.assert_allclose(result["mean"], last.mean(0), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(result["covariance"], np.cov(last.T, bias=True), rtol=1e-8, atol=1e-12)
