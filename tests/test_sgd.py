"""The real recursion: on its own indices, with its own law, SVAG's limit, and a finite sum that turns."""

import numpy as np
import pytest

import sde_sgd as sde

NEURON = sde.landscapes.get("neuron")
SPIRAL = sde.landscapes.get("spiral")


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


def test_pearson_mean_and_variance_of_sgd():
    """THEORY's closed form within 4 standard errors, where the SDE's variance is excluded by more than 10."""
    pearson = sde.landscapes.get("pearson")
    a, m = pearson.data["a"], pearson.data["m"]
    eta, batch, mean, spread = 0.5, 1, a.mean(), a.var()
    center = (a * m).mean() / mean
    d = float(pearson.diffusion([[center]])[0, 0, 0])
    exact = (eta**2 * d / batch) / (1 - (1 - eta * mean) ** 2 - eta**2 * spread / batch)
    sde_variance = eta / (2 * batch) * d / (mean - eta / (2 * batch) * spread)
    run = sde.sgd(pearson, (center,), learning_rate=eta, batch_size=batch, steps=60, replicas=400_000, seed=9)
    x = run.x.values
    assert abs(x.mean() - center) < 4 * np.sqrt(exact / len(x))
    square = (x - center) ** 2
    error = square.std() / np.sqrt(len(x))
    assert abs(square.mean() - exact) < 4 * error
    assert abs(square.mean() - sde_variance) > 10 * error


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
