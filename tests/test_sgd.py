"""The real recursion: step for step that of NumPy and of torch on the same samples, and what is refused."""

import numpy as np
import pytest

import sde_sgd as sde
from sde_sgd.paths import _sgd

NEURON = sde.landscapes.get("neuron")
SAMPLINGS = ("with_replacement", "without_replacement", "reshuffling")
evidence = pytest.mark.evidence


def slopes(samples, seed=0):
    """f_k = a_k x: a step shows exactly which samples it took."""
    return sde.FiniteSum("x", "a*x", {"a": np.random.default_rng(seed).normal(size=samples)})


def values(run, names=("w", "c")):
    return np.stack([run[name].values for name in names], -1)


def test_sgd_wraps_a_periodic_axis():
    ring = sde.FiniteSum("theta", "a*theta", {"a": [1.0, 2.0]}, domain={"theta": (0, 2 * np.pi, "periodic")})
    run = sde.sgd(ring, 1.0, learning_rate=0.5, batch_size=1, steps=100, replicas=70, save_every=1)
    assert float(run.theta.min()) >= 0 and float(run.theta.max()) < 2 * np.pi
    with pytest.raises(ValueError, match="count on a grid that agrees"):
        sde.sgd(ring, 1.0, learning_rate=0.5, batch_size=1, steps=100, replicas=70,
                observables=sde.Histogram(sde.Grid(-np.pi, np.pi, 8, boundary="periodic")))  # fmt: skip


def numpy_sgd(finite_sum, x, picks, rate, weights):
    """The recursion, one replica, from sample indices (steps, halves, b)."""
    path = []
    for batches in picks:
        g = finite_sum.sample_gradients(x)
        x = x - rate * sum(w * g[batch].mean(0) for w, batch in zip(weights, batches))
        path.append(x)
    return np.array(path)


@pytest.mark.parametrize("svag, batch", [(1, 1), (1, 5), (4, 1), (9, 3)])
def test_sgd_is_the_recursion_on_its_own_indices(svag, batch):
    run = sde.sgd(
        NEURON,
        (0.2, 0.3),
        learning_rate=0.4,
        batch_size=batch,
        steps=500,
        replicas=70,
        svag=svag,
        save_every=1,
        seed=4,
    )
    picks = sde.sample_indices(150, batch_size=batch, steps=500, replica=66, seed=4, svag=svag)
    s = np.sqrt(2 * svag - 1)
    expected = numpy_sgd(
        NEURON,
        np.array([0.2, 0.3]),
        picks.reshape(500, -1, batch),
        0.4 / svag,
        [(1 + s) / 2, (1 - s) / 2][: picks.ndim - 1],
    )
    measured = np.stack([run.w[66], run.c[66]], -1)[1:]
    np.testing.assert_allclose(measured, expected, rtol=0, atol=1e-12)
    assert run.time.values[-1] == pytest.approx(500 * 0.4 / svag)


def torch_sgd(finite_sum, x, picks, rates, **options):
    """The same by torch.optim.SGD, one replica, from sample indices (steps, b), −1 for none."""
    torch = pytest.importorskip("torch")
    point = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    optimiser, path = torch.optim.SGD([point], lr=1.0, **options), []
    for batch, rate in zip(picks, rates):
        optimiser.param_groups[0]["lr"] = rate
        point.grad = torch.from_numpy(finite_sum.sample_gradients(point.detach().numpy())[batch[batch >= 0]].mean(0))
        optimiser.step()
        path.append(point.detach().numpy().copy())
    return np.array(path), optimiser.state[point].get("momentum_buffer")


def falling(n):
    return 0.5 / (1 + n / 300)


OPTIONS = {
    "plain": {},
    "momentum": {"momentum": 0.8},
    "nesterov": {"momentum": 0.8, "nesterov": True},
    "decay": {"weight_decay": 0.05},
    "all, falling rate": {"momentum": 0.6, "nesterov": True, "weight_decay": 0.02, "learning_rate": falling},
}


def against_torch(sampling, options, batch, steps, monkeypatch=None, seed=4):
    """Largest distance from torch's trajectory over all steps, and of the last velocities."""
    options = {"learning_rate": 0.2} | options
    run = sde.sgd(
        NEURON, (0.2, 0.3), batch_size=batch, steps=steps, replicas=3, first_replica=66, sampling=sampling,
        save_every=1, seed=seed, **options,
    )  # fmt: skip
    rate = options.pop("learning_rate")
    rates = rate(np.arange(steps)) if callable(rate) else np.full(steps, rate)
    picks = sde.sample_indices(150, batch_size=batch, steps=steps, replica=67, seed=seed, sampling=sampling)
    expected, velocity = torch_sgd(NEURON, [0.2, 0.3], picks, rates, **options)
    np.testing.assert_allclose(run.time, np.concatenate([[0], np.cumsum(rates)]), rtol=1e-12)
    error = np.abs(values(run)[1, 1:] - expected).max()
    if "momentum" in options:
        last = np.array([run.velocity_w[1], run.velocity_c[1]])
        error = max(error, np.abs(last - velocity.numpy()).max())
    return error


@pytest.mark.parametrize(
    "sampling, options, batch",
    [
        pytest.param("with_replacement", "plain", 5, marks=pytest.mark.evidence),
        ("without_replacement", "momentum", 4),
        ("reshuffling", "all, falling rate", 7),
    ],
)
def test_sgd_is_torch_s_on_the_same_indices(sampling, options, batch):
    assert against_torch(sampling, OPTIONS[options], batch, 1000) < 1e-12


@evidence(table="sgd_against_torch")
def test_sgd_is_torch_s_over_long_runs(table):
    rows = []
    for sampling in SAMPLINGS:
        for name, options in OPTIONS.items():
            errors = [against_torch(sampling, options, batch, 10_000, seed=batch) for batch in (7, 50)]
            assert max(errors) < 1e-12, (sampling, name)
            rows.append([sampling, name, *(f"{e:.1e}" for e in errors)])
    note = "Largest difference of any coordinate in 10⁴ steps of the neuron, N = 150, and of the last velocity."
    table("SGD against torch.optim.SGD on the same indices", ["sampling", "options", "b = 7", "50"], rows, note)


SIZES = [(5, 2), (6, 6), (37, 5), (40, 1), (2**16 + 1, 3)]


@pytest.mark.parametrize(
    "sampling, samples, batch, svag",
    [
        *((sampling, *size, 1) for sampling in SAMPLINGS for size in SIZES),
        *(("without_replacement", *size, 4) for size in SIZES[:-1]),
        *(pytest.param("with_replacement", *size, 4, marks=pytest.mark.evidence) for size in SIZES),
        pytest.param("without_replacement", *SIZES[-1], 4, marks=pytest.mark.evidence),
    ],
)
def test_a_step_takes_the_samples_of_sample_indices(sampling, samples, batch, svag):
    finite_sum, first, far = slopes(samples), 11, 2**33 + 5
    run = sde.sgd(
        finite_sum, 0.0, learning_rate=1.0, batch_size=batch, steps=60, replicas=66, sampling=sampling, svag=svag,
        save_every=1, seed=2, first_step=first, first_replica=far,
    )  # fmt: skip
    a, s = np.append(finite_sum.data["a"], np.nan), np.sqrt(2 * svag - 1)
    for replica in (0, 65):
        picks = sde.sample_indices(samples, batch_size=batch, steps=60, replica=far + replica, seed=2, svag=svag,
                                   sampling=sampling, first_step=first)  # fmt: skip
        means = np.nanmean(a[picks], -1)
        moves = means if svag == 1 else means @ [(1 + s) / 2, (1 - s) / 2] / svag
        np.testing.assert_allclose(-np.diff(run.x.values[replica]), moves, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    "sampling, options",
    [("without_replacement", {}), ("reshuffling", {"momentum": 0.7, "nesterov": True, "weight_decay": 0.03})],
)
def test_svrg_is_its_recursion(sampling, options):
    steps, every, batch, rate = 300, 16, 7, 0.3
    run = sde.sgd(
        NEURON, (0.2, 0.3), learning_rate=rate, batch_size=batch, steps=steps, replicas=2, sampling=sampling,
        svrg=every, save_every=1, seed=7, **options,
    )  # fmt: skip
    mu, decay = options.get("momentum", 0.0), options.get("weight_decay", 0.0)
    picks = sde.sample_indices(150, batch_size=batch, steps=steps, replica=1, seed=7, sampling=sampling)
    x, v, path = np.array([0.2, 0.3]), np.zeros(2), []
    for step, chosen in enumerate(picks):
        chosen = chosen[chosen >= 0]
        if step % every == 0:
            reference, mean = x, NEURON.gradient(x)
        change = NEURON.sample_gradients(x)[chosen] - NEURON.sample_gradients(reference)[chosen]
        g = change.mean(0) + mean + decay * x
        v = mu * v + g
        x = x - rate * (g + mu * v if mu else v)
        path.append(x)
    np.testing.assert_allclose(values(run)[1, 1:], path, rtol=0, atol=1e-12)
    assert "temperature" not in run.attrs and run.attrs["svrg"] == every


def test_a_linear_model_of_few_weights():
    rng = np.random.default_rng(1)
    model = sde.FiniteSum.linear_model(rng.normal(size=(40, 3)), rng.normal(size=40), "squared", weight_decay=0.1)
    run = sde.sgd(model, np.ones(3), learning_rate=0.05, batch_size=4, steps=200, momentum=0.5, save_every=1)
    picks = sde.sample_indices(40, batch_size=4, steps=200)
    expected, _ = torch_sgd(model, np.ones(3), picks, np.full(200, 0.05), momentum=0.5)
    np.testing.assert_allclose(values(run, model.variables)[0, 1:], expected, rtol=0, atol=1e-12)


def test_what_a_result_says():
    run = dict(learning_rate=falling, batch_size=4, steps=40, first_step=15, momentum=0.5)
    attrs = sde.sgd(NEURON, (0.2, 0.3), sampling="without_replacement", **run).attrs
    share = 146 / 149 / 8
    assert attrs["temperature_first"] == pytest.approx(0.5 * share)
    assert attrs["temperature_last"] == pytest.approx(falling(54) * share) and "temperature" not in attrs
    assert attrs["epoch_steps"] == 38 and attrs["sampling"] == "without_replacement"
    assert attrs["momentum"] == 0.5 and attrs["weight_decay"] == 0 and attrs["nesterov"] is False
    shuffled = sde.sgd(NEURON, (0.2, 0.3), sampling="reshuffling", **run)
    assert not [name for name in shuffled.attrs if name.startswith("temperature")]
    assert not sde.sgd(NEURON, (0.2, 0.3), save_every=0, **run).data_vars


# Faults ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"sampling": "reshuffle"}, r"sampling must be one of .* \(did you mean 'reshuffling'\?\)"),
        ({"batch_size": 151}, "from 1 to 150, got 151; the data has 150 samples"),
        ({"batch_size": 0}, "batch_size"),
        ({"steps": 0}, "steps"),
        ({"replicas": 0}, "replicas"),
        ({"momentum": 1.0}, "momentum must be at least 0 and below 1, got 1"),
        ({"momentum": -0.1}, "below 1, got -0.1"),
        ({"momentum": "0.9"}, "momentum must be an array of real numbers"),
        ({"nesterov": True}, "momentum=0 does not have"),
        ({"nesterov": "yes", "momentum": 0.9}, "nesterov must be True or False"),
        ({"weight_decay": -0.1}, "weight_decay must be >= 0, got -0.1"),
        ({"weight_decay": np.nan}, "weight_decay must be finite"),
        ({"svag": 0}, "svag"),
        ({"svag": 2, "momentum": 0.5}, "does not go with momentum"),
        ({"svag": 2, "svrg": 5}, "does not go with svrg"),
        ({"svag": 2, "sampling": "reshuffling"}, "does not go with sampling='reshuffling'"),
        ({"svrg": 0}, "svrg must be a whole number"),
        ({"svrg": 5, "first_step": 12}, "first_step=12 is none: .* continue from 10"),
        ({"first_step": 2**32 - 5}, "first_step must be a whole number from 0 to"),
        ({"learning_rate": 0.0}, "learning_rate must be a finite number > 0"),
        ({"learning_rate": np.full(9, 0.1)}, r"learning_rate must have shape \(10,\)"),
        ({"learning_rate": np.full(10, 0.1), "first_step": 1}, r"learning_rate must have shape \(11,\)"),
        ({"learning_rate": lambda n: 0.5 - 0.1 * n}, "must be > 0 at every step, got .* at step 9"),
        ({"start_velocity": (0.0, 0.0)}, "start_velocity needs momentum > 0"),
        ({"start_velocity": (0.0,) * 3, "momentum": 0.5}, r"start_velocity must have shape \(2,\) or \(1, 2\)"),
        ({"start_velocity": (0.0, np.inf), "momentum": 0.5}, "start_velocity must be finite"),
        ({"dtype": "float16"}, "dtype must be one of float64, float32"),
        ({"observables": "moments"}, "observables must be"),
        ({"save_every": 11}, "save_every"),
        ({"seed": -1}, "seed"),
        ({"start": (0.0,)}, "start must have shape"),
    ],
)
def test_faults(changes, message):
    arguments = {"start": (0.2, 0.3), "learning_rate": 0.1, "batch_size": 2, "steps": 10} | changes
    with pytest.raises(ValueError, match=message):
        sde.sgd(NEURON, arguments.pop("start"), **arguments)


def test_faults_of_the_sum_itself():
    with pytest.raises(ValueError, match="sgd needs samples to draw"):
        sde.sgd(sde.landscapes.get("double_well"), (0.0, 0.0), learning_rate=0.1, batch_size=1, steps=1)
    ring = sde.FiniteSum("theta", "a*theta", {"a": [1.0, 2.0]}, domain={"theta": (0, 2 * np.pi, "periodic")})
    with pytest.raises(ValueError, match="which a periodic variable does not have"):
        sde.sgd(ring, 1.0, learning_rate=0.1, batch_size=1, steps=1, weight_decay=0.1)


def test_a_velocity_does_not_hide_a_variable():
    named = sde.FiniteSum(("x", "velocity_x"), "a*(x**2 + velocity_x**2)", {"a": [1.0, 2.0]})
    run = {"learning_rate": 0.1, "batch_size": 1, "steps": 1}
    assert set(sde.sgd(named, (1.0, 2.0), **run).data_vars) == {"x", "velocity_x"}
    with pytest.raises(ValueError, match="'velocity_x' is the name of a velocity in the result; rename"):
        sde.sgd(named, (1.0, 2.0), momentum=0.5, **run)


def test_more_samples_than_random_numbers_reach_are_refused(monkeypatch):
    monkeypatch.setattr(_sgd, "MAX_SAMPLES", 149)
    with pytest.raises(ValueError, match="from at most 149 samples, got 150"):
        sde.sgd(NEURON, (0.2, 0.3), learning_rate=0.1, batch_size=1, steps=1)


def test_divergence_names_replica_and_step():
    steep = sde.FiniteSum("x", "a*x**2/2", {"a": [1.0, 3.0]})
    with pytest.raises(sde.errors.Diverged, match="replica 70 diverged at step 105") as caught:
        start = np.zeros((3, 1))
        start[1] = 1.0
        sde.sgd(steep, start, learning_rate=5.0, batch_size=2, steps=1000, replicas=3, first_replica=69,
                sampling="without_replacement")  # fmt: skip
    assert caught.value.path == 70
