"""The real recursion: on its own indices, with its own law, SVAG's limit, and a finite sum that turns.

Statistical checks name their number of standard errors; every seed is fixed.
"""

import numpy as np
import pytest

import sde_sgd as sde
from sde_sgd.paths import _checkpoint, _ensemble

NEURON = sde.landscapes.get("neuron")
SPIRAL = sde.landscapes.get("spiral")
PEARSON = sde.landscapes.get("pearson")
SAMPLINGS = ("with_replacement", "without_replacement", "reshuffling")
evidence = pytest.mark.evidence


def slopes(samples, seed=0):
    """f_k = a_k x: a step shows exactly which samples it took."""
    return sde.FiniteSum("x", "a*x", {"a": np.random.default_rng(seed).normal(size=samples)})


def values(run, names=("w", "c")):
    return np.stack([run[name].values for name in names], -1)


# The recursion -----------------------------------------------------------------------------------------------


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


def test_svag_keeps_the_mean_and_multiplies_the_covariance_by_l():
    x, eta, n = np.array([0.5, 0.1]), 0.2, 400_000
    d = NEURON.diffusion(x)
    for svag in (1, 8):
        run = sde.sgd(NEURON, x, learning_rate=eta, batch_size=2, steps=1, replicas=n, svag=svag, seed=6)
        moves = np.stack([run.w - x[0], run.c - x[1]]) * svag / eta
        cov = svag * d / 2
        np.testing.assert_array_less(np.abs(moves.mean(1) + NEURON.gradient(x)), 5 * np.sqrt(np.diag(cov) / n))
        error = 2 * np.sqrt((np.outer(np.diag(cov), np.diag(cov)) + cov**2) / n)  # kurtosis up to 4× Gaussian's
        assert (np.abs(np.cov(moves) - cov) < 5 * error).all()


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
        ("with_replacement", "plain", 5),
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


@pytest.mark.parametrize("samples, batch", [(5, 2), (6, 6), (37, 5), (40, 1), (2**16 + 1, 3)])
@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("svag", [1, 4])
def test_a_step_takes_the_samples_of_sample_indices(sampling, samples, batch, svag):
    if svag > 1 and sampling == "reshuffling":
        return
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


# The same bits -----------------------------------------------------------------------------------------------

CASES = {
    "plain": {},
    "SVAG": {"svag": 3},
    "subset": {"sampling": "without_replacement", "momentum": 0.5},
    "SVAG of subsets": {"sampling": "without_replacement", "svag": 3},
    "epochs": {"sampling": "reshuffling", "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    "SVRG": {"sampling": "reshuffling", "svrg": 5, "momentum": 0.5, "nesterov": True, "weight_decay": 0.01},
    "falling": {"learning_rate": falling},
}


def inside_an_epoch(finite_sum, options, attrs=False, **more):
    """A run of 40 steps from step 15, which is inside an epoch of 22 (or 13) and begins a window of SVRG."""
    settings = {"learning_rate": 0.2, "batch_size": 7, "steps": 40, "replicas": 300, "seed": 3, "first_step": 15}
    start = (0.2, 0.3)[: finite_sum.dim]
    run = sde.sgd(finite_sum, start, **settings | options | more)
    return run if attrs else run.drop_attrs()


LARGE = {f"{name}, N > 2¹⁶": {"sampling": name} for name in SAMPLINGS[1:]}


@pytest.mark.parametrize(
    "finite_sum, options",
    [*((NEURON, case) for case in CASES.values()), *((slopes(70_000), case) for case in LARGE.values())],
    ids=[*CASES, *LARGE],
)
def test_bits_do_not_depend_on_how_a_run_is_cut(finite_sum, options, monkeypatch):
    whole = inside_an_epoch(finite_sum, options)
    velocity = ["velocity_" + v for v in finite_sum.variables] if options.get("momentum") else []
    assert set(whole.data_vars) == {*finite_sum.variables, *velocity}
    first = inside_an_epoch(finite_sum, options, steps=25)
    rest = {"start_velocity": np.stack([first[v] for v in velocity], -1)} if velocity else {}
    start = np.stack([first[v] for v in finite_sum.variables], -1)
    settings = {"learning_rate": 0.2, "batch_size": 7, "steps": 15, "replicas": 300, "seed": 3, "first_step": 40}
    assert sde.sgd(finite_sum, start, **settings | options | rest).drop_attrs().identical(whole)
    last = sde.sgd(finite_sum, start[299:], **settings | options | rest | {"replicas": 1, "first_replica": 299} | (
        {"start_velocity": rest["start_velocity"][299:]} if rest else {}))  # fmt: skip
    assert last.drop_attrs().identical(whole.isel(replica=[299]))
    monkeypatch.setattr(_ensemble, "_SEGMENT_SECONDS", 1e-9)
    for threads in (1, 2, 3, 7):
        assert inside_an_epoch(finite_sum, options, threads=threads).identical(whole)
    saved = inside_an_epoch(finite_sum, options, save_every=8)
    assert saved.isel(time=-1, drop=True).identical(whole)

    # segments of a table's epochs end with the epoch; were they to end anywhere, the bits would be the same
    class Anywhere(_ensemble.Run):
        def __init__(self, *arguments, align, **settings):
            super().__init__(*arguments, **settings)

    monkeypatch.setattr(_ensemble, "Run", Anywhere)
    assert inside_an_epoch(finite_sum, options, threads=2).identical(whole)


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_bits_do_not_depend_on_groups(options, monkeypatch):
    whole = inside_an_epoch(NEURON, options, replicas=5000)
    monkeypatch.setattr(_ensemble, "_GROUP_BYTES", 1)
    assert inside_an_epoch(NEURON, options, replicas=5000, threads=2).identical(whole)
    assert inside_an_epoch(NEURON, options).identical(whole.isel(replica=slice(300)))


def test_a_run_goes_on_from_its_checkpoint(tmp_path, monkeypatch):
    options = {"momentum": 0.9, "sampling": "reshuffling", "svrg": 5, "replicas": 5000, "steps": 80}
    whole = inside_an_epoch(NEURON, options)
    monkeypatch.setattr(_ensemble, "_GROUP_BYTES", 1)
    monkeypatch.setattr(_ensemble, "_SEGMENT_SECONDS", 1e-9)
    monkeypatch.setattr(_checkpoint.Checkpoint, "seconds", -1.0)
    calls = []

    def stop(done, total):
        calls.append(done)
        if len(calls) in (3, 7):
            raise KeyboardInterrupt

    file = tmp_path / "run.npz"
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            inside_an_epoch(NEURON, options, checkpoint=file, progress=stop)
    with pytest.raises(ValueError, match="the checkpoint of another run"):
        inside_an_epoch(NEURON, options | {"start_velocity": 1.0 * np.ones(2)}, checkpoint=file)
    assert inside_an_epoch(NEURON, options, checkpoint=file).identical(whole) and not file.exists()


@pytest.mark.parametrize("case", ["plain", "SVRG"])
def test_float32_follows_float64(case):
    wide, narrow = (inside_an_epoch(NEURON, CASES[case], steps=300, dtype=dtype) for dtype in ("float64", "float32"))
    for name in wide:
        assert narrow[name].dtype == np.float32
        np.testing.assert_allclose(narrow[name], wide[name], rtol=0, atol=1e-5)


def test_a_linear_model_of_few_weights():
    rng = np.random.default_rng(1)
    model = sde.FiniteSum.linear_model(rng.normal(size=(40, 3)), rng.normal(size=40), "squared", weight_decay=0.1)
    run = sde.sgd(model, np.ones(3), learning_rate=0.05, batch_size=4, steps=200, momentum=0.5, save_every=1)
    picks = sde.sample_indices(40, batch_size=4, steps=200)
    expected, _ = torch_sgd(model, np.ones(3), picks, np.full(200, 0.05), momentum=0.5)
    np.testing.assert_allclose(values(run, model.variables)[0, 1:], expected, rtol=0, atol=1e-12)


# Laws --------------------------------------------------------------------------------------------------------


def pearson_laws(eta, batch, sampling):
    """x*, and the stationary variance of SGD and of the SDE at the temperature of this noise (THEORY §4)."""
    a, m = PEARSON.data["a"], PEARSON.data["m"]
    n, mean, spread = len(a), a.mean(), a.var()
    center = (a * m).mean() / mean
    d = float(PEARSON.diffusion([[center]])[0, 0, 0])
    share = (n - batch) / (batch * (n - 1)) if sampling == "without_replacement" else 1 / batch
    temperature = eta / 2 * share
    sgd = eta**2 * d * share / (1 - (1 - eta * mean) ** 2 - eta**2 * spread * share)
    return center, sgd, temperature * d / (mean - temperature * spread), temperature


PEARSON_CASES = [("with_replacement", 1, 0.5), ("with_replacement", 2, 0.8), ("without_replacement", 2, 0.8),
                 ("without_replacement", 3, 0.8)]  # fmt: skip


def pearson_row(sampling, batch, eta, replicas, steps):
    center, exact, sde_variance, temperature = pearson_laws(eta, batch, sampling)
    moments = sde.paths.Moments(burn_in=60, blocks=256)
    run = sde.sgd(PEARSON, (center,), learning_rate=eta, batch_size=batch, sampling=sampling, steps=steps,
                  replicas=replicas, seed=9, observables=moments, save_every=0)  # fmt: skip
    assert run.attrs["temperature"] == pytest.approx(temperature, rel=1e-14)
    mean, mean_error, measured, error = (
        run[name].values.ravel()[0] for name in ("mean", "mean_error", "covariance", "covariance_error")
    )
    assert error <= 0.003 * exact, sampling
    assert abs(mean - center) < 3 * mean_error and abs(measured - exact) < 3 * error
    assert abs(measured - sde_variance) > 10 * error
    return [sampling, batch, f"{eta:g}", f"{measured:.6f} ± {error:.6f}", f"{exact:.6f}", f"{sde_variance:.6f}",
            f"{(mean - center) / mean_error:.1f}"]  # fmt: skip


@pytest.mark.parametrize("sampling, batch, eta", PEARSON_CASES)
def test_pearson_mean_and_variance_of_sgd(sampling, batch, eta):
    """THEORY's closed form within 3 standard errors of at most 0.3 %; the SDE's variance is out by more than 10."""
    pearson_row(sampling, batch, eta, 4096, 1200)


@evidence(table="sgd_pearson")
def test_pearson_closely(table):
    rows = [pearson_row(*case, 65_536, 4000) for case in PEARSON_CASES]
    columns = ["sampling", "b", "η", "variance", "SGD, exact", "SDE", "(mean − x*)/error"]
    table(
        "Stationary variance of SGD on PEARSON",
        columns,
        rows,
        "65 536 replicas of 4000 steps; standard errors from 256 blocks of replicas.",
    )


def quadratic(samples, seed=0):
    """f_k = (x − c_k)²/2, mean c = 0, D = Var c = 1: noise without curvature's share."""
    c = np.random.default_rng(seed).normal(size=samples)
    return sde.FiniteSum("x", "(x - c)**2/2", {"c": (c - c.mean()) / c.std()})


@pytest.mark.parametrize("eta, momentum, batch", [(0.5, 0.5, 2), (1.5, 0.9, 5), (0.1, 0.7, 1)])
def test_momentum_covariances(eta, momentum, batch):
    """Var w, Var v, Cov(w, v) of THEORY §2 within 3 standard errors; T/(1−μ), their limit, is out by more than 10."""
    n = 400_000
    run = sde.sgd(quadratic(10), 0.0, learning_rate=eta, momentum=momentum, batch_size=batch, steps=200, replicas=n,
                  seed=12)  # fmt: skip
    w, v = run.x.values, run.velocity_x.values
    bracket = 2 * (1 + momentum) - eta
    var_v = 2 / ((1 - momentum) * bracket) / batch
    exact = [eta * (1 + momentum) / ((1 - momentum) * bracket) / batch, var_v, -eta / 2 * var_v]
    for product, law in zip((w * w, v * v, w * v), exact):
        error = product.std() / np.sqrt(n)
        assert error < 0.01 * abs(law) and abs(product.mean() - law) < 3 * error
    error = (w * w).std() / np.sqrt(n)
    assert abs((w * w).mean() - eta / (2 * batch * (1 - momentum))) > 10 * error


def reshuffled(samples, batch, a):
    """Exact time-averaged and epoch-end variance over the with-replacement one; f = x²/2, η = ab/N, b divides N.

    Batch means of an epoch sum to 0: covariance ∝ δ_st − b/N, a bridge. As N/b → ∞ the time average is
    1 − (2/a)(1 − (1−e^{−a})/a) = a/3 − a²/12 + …, the end 1 − tanh(a/2)/(a/2) = a²/12 − ….
    """
    steps = samples // batch
    eta = a / steps
    q = 1 - eta
    noise = (samples - batch) / (batch * (samples - 1)) * (np.eye(steps) - 1 / steps) * steps / (steps - 1)
    lag = np.arange(1, steps + 1)[:, None] - 1 - np.arange(steps)
    sums = np.where(lag >= 0, q ** np.maximum(lag, 0), 0.0)
    within = eta**2 * np.einsum("ts,su,tu->t", sums, noise, sums)
    begin = within[-1] / (1 - q ** (2 * steps))
    law = q ** (2 * np.arange(1, steps + 1)) * begin + within
    return np.array([law.mean(), law[-1]]) / (eta**2 / batch / (1 - q**2))


def reshuffled_row(samples, batch, a, replicas):
    steps = samples // batch
    eta = a / steps
    epochs = int(np.ceil(4 / a))
    settings = {"learning_rate": eta, "batch_size": batch, "replicas": replicas, "sampling": "reshuffling", "seed": 3}
    start = sde.sgd(quadratic(samples), 0.0, steps=epochs * steps, **settings).x.values[:, None]
    run = sde.sgd(quadratic(samples), start, steps=steps, first_step=epochs * steps, save_every=1, **settings)
    base = eta**2 / batch / (1 - (1 - eta) ** 2)
    squares = run.x.values[:, 1:] ** 2 / base
    measured = np.array([squares.mean(), squares[:, -1].mean()])
    errors = np.array([squares.mean(1).std(), squares[:, -1].std()]) / np.sqrt(replicas)
    return measured, errors, reshuffled(samples, batch, a)


REGIME = (0.05, 0.1, 0.4, 0.9)


@pytest.mark.parametrize("a", REGIME)
def test_reshuffling_cuts_the_variance(a):
    """a = ηhN/b: the exact ratios within 3 standard errors (time average known to 1 %); a/3 is 8 % high at a = 0.4."""
    measured, errors, exact = reshuffled_row(64, 2, a, 20_000)
    assert errors[0] < 0.01 * exact[0] and (np.abs(measured - exact) < 3 * errors).all()
    limit = 1 - 2 / a * (1 - (1 - np.exp(-a)) / a)
    assert (np.abs(exact / [limit, 1 - np.tanh(a / 2) / (a / 2)] - 1) < 2 * 2 / 64).all()  # up to O(b/N)
    assert a / 3 * (1 - a / 4) < limit < a / 3 and (abs(measured[0] / (a / 3) - 1) < 0.05) == (a < 0.2)


@evidence(table="sgd_reshuffling")
def test_reshuffling_closely(table):
    rows = []
    for samples, batch in ((64, 2), (1000, 8)):
        for a in REGIME:
            measured, errors, exact = reshuffled_row(samples, batch, a, 100_000)
            assert (np.abs(measured - exact) < 3 * errors).all()
            cells = [f"{m:.3e} ± {e:.0e} ({x:.3e})" for m, e, x in zip(measured, errors, exact)]
            rows.append([samples, batch, f"{a:g}", cells[0], f"{a / 3:.3e}", cells[1], f"{a * a / 12:.3e}"])
    table(
        "Variance of reshuffling over that of sampling with replacement, f = x²/2",
        ["N", "b", "a = ηhN/b", "time average (exact)", "a/3", "epoch end (exact)", "a²/12"],
        rows,
        "As N/b → ∞ the time average is 1 − (2/a)(1 − (1−e^{−a})/a) = a/3 − a²/12 + …: a/3 is 5 % too large at "
        "a = 0.2 and a quarter at a = 1. The epoch's end is 1 − tanh(a/2)/(a/2) = a²/12 − …",
    )


def mean_turning(run):
    """Mean angular velocity and its standard error over the ensemble."""
    z = run.x.values + 1j * run.y.values
    rate = np.angle(z[:, 1:] * z[:, :-1].conj()).sum(1) / run.time.values[-1]
    return rate.mean(), rate.std(ddof=1) / np.sqrt(len(rate))


@pytest.mark.parametrize("temperature", [0.02, 0.05])
def test_spiral_turns_at_minus_T_kappa(temperature):
    """SDE paths, real SGD with b = 1 and SVAG; standard errors ≤ 2 %, agreement at 4 of them (+ O(η) for SGD)."""
    eta, steps = 2 * temperature, 500
    runs = {
        "paths": sde.simulate(
            SPIRAL.at_temperature(temperature),
            (1.0, 0.0),
            step=eta / 4,
            steps=4 * steps,
            paths=8192,
            save_every=4,
            seed=1,
        ),
        "sgd": sde.sgd(
            SPIRAL,
            (1.0, 0.0),
            learning_rate=eta,
            batch_size=1,
            steps=steps,
            replicas=8192,
            save_every=1,
            seed=1,
        ),
        "svag": sde.sgd(
            SPIRAL,
            (1.0, 0.0),
            learning_rate=eta,
            batch_size=1,
            steps=8 * steps,
            replicas=8192,
            save_every=8,
            svag=8,
            seed=1,
        ),
    }
    for name, run in runs.items():
        velocity, error = mean_turning(run)
        assert error <= 0.02 * temperature, name
        assert abs(velocity + temperature) < 4 * error + (0.02 * temperature if name == "sgd" else 0), name
    untwisted = sde.sgd(
        SPIRAL.with_parameters(kappa=0.0),
        (1.0, 0.0),
        learning_rate=eta,
        batch_size=1,
        steps=steps,
        replicas=8192,
        save_every=1,
        seed=1,
    )
    velocity, error = mean_turning(untwisted)
    assert abs(velocity) < 4 * error


def test_full_batch_descent_does_not_turn():
    x = np.array([0.7, 0.4])
    angle = np.arctan2(x[1], x[0])
    for _ in range(500):
        x = x - 0.04 * SPIRAL.gradient(x)
    assert abs(np.arctan2(x[1], x[0]) - angle) < 1e-12 and np.linalg.norm(x) == pytest.approx(1)


# Faults ------------------------------------------------------------------------------------------------------


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


def test_divergence_names_replica_and_step():
    steep = sde.FiniteSum("x", "a*x**2/2", {"a": [1.0, 3.0]})
    with pytest.raises(sde.errors.Diverged, match="replica 70 diverged at step 105") as caught:
        start = np.zeros((3, 1))
        start[1] = 1.0
        sde.sgd(steep, start, learning_rate=5.0, batch_size=2, steps=1000, replicas=3, first_replica=69,
                sampling="without_replacement")  # fmt: skip
    assert caught.value.path == 70


def test_what_a_result_says():
    run = inside_an_epoch(NEURON, CASES["subset"] | {"learning_rate": falling, "batch_size": 4}, attrs=True)
    share = 146 / 149 / 8
    assert run.attrs["temperature_first"] == pytest.approx(0.5 * share)
    assert run.attrs["temperature_last"] == pytest.approx(falling(54) * share) and "temperature" not in run.attrs
    assert run.attrs["epoch_steps"] == 38 and run.attrs["sampling"] == "without_replacement"
    assert run.attrs["momentum"] == 0.5 and run.attrs["weight_decay"] == 0 and run.attrs["nesterov"] is False
    run = inside_an_epoch(NEURON, CASES["epochs"], attrs=True)
    assert not [name for name in run.attrs if name.startswith("temperature")]
    assert not inside_an_epoch(NEURON, CASES["subset"], save_every=0).data_vars
