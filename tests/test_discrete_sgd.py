"""Linear SGD in closed form: against block matrices and every permutation written out; limits and refusals."""

import itertools
import re

import numpy as np
import pytest
import scipy.linalg as la

import sde_sgd as sde
from sde_sgd.figures import plot_linear_theory


def random_law(d, seed=0):
    rng = np.random.default_rng(seed + d)
    A, B = rng.normal(size=(2, d, d))
    return A @ A.T / d + 0.05 * np.eye(d), B @ B.T / d


def relative(a, b):
    return la.norm(np.asarray(a) - np.asarray(b)) / la.norm(b)


def step(law):
    """z' = Mz + nε for z = (x, v), as matrices."""
    eta, mu, one = law.learning_rate, law.momentum, np.eye(law.dim)
    H = law.H + law.weight_decay * one
    alpha, gamma = (1 + mu, mu**2) if law.nesterov else (1.0, mu)
    M = np.block([[one - eta * alpha * H, -eta * gamma * one], [H, mu * one]])
    return M, np.vstack([-eta * alpha * one, one])


MOMENTA = [(0.0, False), (0.5, False), (0.95, False), (0.3, True), (0.95, True)]


# fresh noise at every step -----------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [2, 20, 200])
def test_plain_sgd_solves_its_equation(d):
    H, D = random_law(d)
    eta, b, n = 0.3 / la.norm(H, 2), 5, 40
    for sampling, share in (("with_replacement", 1 / b), ("without_replacement", (n - b) / (b * (n - 1)))):
        law = sde.DiscreteSGD(H, D, eta, b, samples=n, sampling=sampling)
        S, found = law.covariance, law.gradient_statistics
        assert relative(H @ S + S @ H - eta * H @ S @ H, eta * share * D) < 1e-12
        assert law.noise_share == pytest.approx(share, rel=1e-15)
        assert relative(law.velocity_covariance, H @ S @ H + share * D) < 1e-12  # v is the batch gradient
        assert relative(law.irreversibility, (H @ S - S @ H) / 2) < 1e-11 * la.norm(H @ S) / la.norm(H @ S - S @ H)
        assert float(found.consecutive_product) == pytest.approx(-np.trace(H @ H @ S), rel=1e-11)
        assert float(found.position_gradient) == pytest.approx(eta / 2 * float(found.gradient_square), rel=1e-12)
        assert float(found.loss_excess) == pytest.approx(np.trace(H @ S) / 2, rel=1e-12)
        lags = law.lag_covariance([0, 1, 7])
        assert relative(lags.values[2], np.linalg.matrix_power(np.eye(d) - eta * H, 7) @ S) < 1e-12
        assert lags.time.values.tolist() == [0, eta, 7 * eta] and lags.step.values.tolist() == [0, 1, 7]


@pytest.mark.parametrize("momentum, nesterov", MOMENTA)
@pytest.mark.parametrize("d", [1, 2, 30, 200])
def test_joint_covariance_is_stationary(d, momentum, nesterov):
    H, D = random_law(d)
    law = sde.DiscreteSGD(H, D, 0.5 / la.norm(H, 2), 3, momentum=momentum, nesterov=nesterov, weight_decay=0.02)
    (M, n), J = step(law), law.joint_covariance
    assert relative(M @ J @ M.T + n @ (D / 3) @ n.T, J) < 1e-12
    assert relative(law.lag_covariance(3).values[0], (np.linalg.matrix_power(M, 3) @ J)[:d, :d]) < 1e-12
    if d <= 2:
        assert relative(la.solve_discrete_lyapunov(M, n @ (D / 3) @ n.T), J) < 1e-10


def test_one_direction():
    """THEORY §2: Var w, Var v, Cov(w, v); correlation −ηh/2 of consecutive gradients, whatever b."""
    h, D, eta, mu, b = 1.7, 0.6, 0.9, 0.8, 4
    law = sde.DiscreteSGD(h, D, eta, b, momentum=mu)
    bracket = (1 - mu) * (2 * (1 + mu) - eta * h)
    assert law.covariance[0, 0] == pytest.approx(eta * (1 + mu) / (h * bracket) * D / b, rel=1e-14)
    assert law.velocity_covariance[0, 0] == pytest.approx(2 / bracket * D / b, rel=1e-14)
    assert law.cross_covariance[0, 0] == pytest.approx(-eta / 2 * law.velocity_covariance[0, 0], rel=1e-14)
    for b in (1, 64):
        found = sde.DiscreteSGD(h, D, eta, b).gradient_statistics
        assert float(found.consecutive_correlation) == pytest.approx(-eta * h / 2, rel=1e-14)


@pytest.mark.parametrize("nesterov", [False, True])
def test_flat_directions_keep_their_digits(nesterov):
    """ηh = 1e-11: S → (η/b) D/(2h(1−μ)) to 1e-10; a general solver of the same equation has lost them."""
    law = sde.DiscreteSGD(np.diag([1e-10, 1.0]), np.eye(2), 0.1, 1, momentum=0.9, nesterov=nesterov)
    assert law.covariance[0, 0] == pytest.approx(0.1 / (2e-10 * 0.1), rel=1e-10)
    M, n = step(law)
    assert abs(la.solve_discrete_lyapunov(M, n @ n.T)[0, 0] / law.covariance[0, 0] - 1) > 1e-9


def test_the_limit_of_small_steps_and_what_momentum_keeps_from_it():
    """S → that of `continuous`, error of order η; not where η μ(h_i − h_j)² outweighs (1−μ)²(h_i + h_j)."""
    H, D = random_law(3)
    for mu in (0.0, 0.6):
        errors, areas = [], []
        for eta in (2e-3, 1e-3):
            law = sde.DiscreteSGD(H, D, eta, 1, momentum=mu)
            limit = law.continuous
            assert limit.temperature == pytest.approx(eta / (2 * (1 - mu))) and law.clock == eta / (1 - mu)
            errors.append(relative(law.covariance, limit.covariance))
            areas.append(relative(law.irreversibility, limit.irreversibility))
        for error in (errors, areas):
            assert error[1] < 0.02 and np.log2(error[0] / error[1]) == pytest.approx(1, abs=0.1)
    D = np.array([[1, 0.8], [0.8, 1]])
    heavy = sde.DiscreteSGD(np.diag([1.0, 4.0]), D, 0.05, 1, momentum=0.95)
    kept = heavy.covariance / heavy.continuous.covariance
    assert kept[0, 0] == pytest.approx(1, abs=0.02) and kept[0, 1] < 0.06
    at = 0.05 * 0.95 * 9 / (0.05**2 * 1.95 * 5)  # η μ(h_i−h_j)²/((1−μ)²(1+μ)(h_i+h_j))
    assert kept[0, 1] == pytest.approx(1 / (1 + at), rel=0.02)


# epochs ----------------------------------------------------------------------------------------------------


def every_permutation(law, offsets):
    """Moments of z at each phase, as means over all orders of the samples: each epoch is an affine map of its own."""
    M, n = step(law)
    samples, b, steps, d = len(offsets), law.batch_size, law.epoch_steps, law.dim
    orders = list(itertools.permutations(range(samples)))
    kicks = np.zeros((len(orders), steps + 1, 2 * d))
    for row, order in zip(kicks, orders):
        for t in range(steps):
            row[t + 1] = M @ row[t] + n @ offsets[list(order[t * b : (t + 1) * b])].mean(0)
    powers = [np.linalg.matrix_power(M, t) for t in range(steps + 1)]
    own = np.einsum("pta,ptb->tab", kicks, kicks) / len(orders)
    start = la.solve_discrete_lyapunov(powers[steps], own[steps])
    return [power @ start @ power.T + noise for power, noise in zip(powers, own)], kicks, powers, start


@pytest.mark.parametrize("momentum, nesterov", [(0.0, False), (0.7, False), (0.7, True)])
@pytest.mark.parametrize("batch", [1, 2])
def test_reshuffling_is_the_mean_over_all_permutations(batch, momentum, nesterov):
    """Five samples, in batches of 2 the last is a single one; phases, mean, lags across epochs, gradients."""
    offsets = np.random.default_rng(3).normal(size=(5, 2)) @ [[1, 0.7], [0, 1]]
    offsets -= offsets.mean(0)
    H = np.array([[1.0, 0.3], [0.3, 2.0]])
    law = sde.DiscreteSGD(H, offsets.T @ offsets / 5, 0.2, batch, samples=5, sampling="reshuffling",
                          momentum=momentum, nesterov=nesterov)  # fmt: skip
    moments, kicks, powers, start = every_permutation(law, offsets)
    steps = law.epoch_steps
    for t in range(steps):
        assert relative(law.phase_covariance(t), moments[t][:2, :2]) < 1e-12
    assert relative(moments[steps], moments[0]) < 1e-12
    mean = sum(moments[:-1]) / steps
    assert relative(law.joint_covariance, mean) < 1e-12
    for lag in (1, 2, 2 * steps + 1):
        total = np.zeros((4, 4))
        for t in range(steps):
            inside = min(lag, steps - t)  # beyond the epoch's end the noise is fresh
            joint = np.einsum("pa,pb->ab", kicks[:, t + inside], kicks[:, t]) / len(kicks)
            joint += powers[t + inside] @ start @ powers[t].T
            total += np.linalg.matrix_power(powers[1], lag - inside) @ joint
        assert relative(law.lag_covariance(lag).values[0], total[:2, :2] / steps) < 1e-12
    found = law.gradient_statistics
    if not nesterov:
        work = law.learning_rate / 2 * (1 + momentum) * float(found.velocity_square)
        assert float(found.position_batch_gradient) == pytest.approx(work, rel=1e-12)
        assert abs(float(found.position_gradient) / work - 1) > 0.1  # the relation of white noise fails
    if not momentum:  # g_t = v_{t+1}
        assert float(found.gradient_square) == pytest.approx(np.trace(mean[2:, 2:]), rel=1e-12)
        pair = [np.einsum("pa,pa->", kicks[:, t + 1, 2:], kicks[:, t, 2:]) / len(kicks)
                + np.trace((powers[t + 1] @ start @ powers[t].T)[2:, 2:]) for t in range(1, steps)]  # fmt: skip
        crossing = np.trace((powers[1] @ moments[steps])[2:, 2:])
        assert float(found.consecutive_product) == pytest.approx((sum(pair) + crossing) / steps, rel=1e-11)


@pytest.mark.parametrize("a", [1e-3, 0.05, 0.4, 2.0])
def test_how_much_an_epoch_cuts(a):
    """Over the variance with replacement: 1 − (2/a)(1 − (1−e^{−a})/a), a = ηhN/b, not a/3; 1 − tanh(a/2)/(a/2) at 0."""
    samples, batch = 4000, 4
    eta = a * batch / samples
    cut = sde.DiscreteSGD(1.0, 1.0, eta, batch, samples=samples, sampling="reshuffling")
    base = sde.DiscreteSGD(1.0, 1.0, eta, batch).covariance[0, 0]
    limit = 1 - 2 / a * (1 + np.expm1(-a) / a)
    assert cut.covariance[0, 0] / base == pytest.approx(limit, rel=3e-3)
    assert cut.phase_covariance(0)[0, 0] / base == pytest.approx(1 - np.tanh(a / 2) / (a / 2), rel=3e-3)
    assert (abs(a / 3 / limit - 1) > 0.05) == (a > 0.3)
    with pytest.raises(ValueError, match="no temperature"):
        _ = cut.continuous


# refusals --------------------------------------------------------------------------------------------------

ONE = (np.eye(2), np.eye(2))
REFUSED = {
    "flat": (np.diag([1.0, 0.0]), np.diag([1.0, 0.0]), {}, "1 of 2 directions without positive curvature"),
    "negative": (np.diag([1.0, -0.1]), np.eye(2), {}, "negative curvature repels"),
    "rate": (*ONE, dict(learning_rate=2.0), "must be below 2 at momentum 0, and is 2"),
    "heavy ball": (*ONE, dict(learning_rate=3.9, momentum=0.9), "must be below 3.8"),
    "nesterov": (*ONE, dict(learning_rate=1.4, momentum=0.9, nesterov=True), "must be below 1.35714"),
    "indefinite": (np.eye(2), np.diag([1.0, -1.0]), {}, "indefinite"),
    "asymmetric": ([[1, 1], [0, 1]], np.eye(2), {}, "H is not symmetric"),
    "no N": (*ONE, dict(sampling="reshuffling"), "pass samples=N"),
    "no noise": (*ONE, dict(sampling="without_replacement", samples=4, batch_size=4), "has no noise"),
    "batch": (*ONE, dict(samples=4, batch_size=5), "the data has 4 samples"),
    "momentum": (*ONE, dict(momentum=1.0), "below 1"),
    "look-ahead": (*ONE, dict(nesterov=True), "give momentum"),
    "word": (*ONE, dict(sampling="reshufling"), "did you mean"),
    "large": (np.eye(2001), np.eye(2001), {}, "at most 2000"),
}


@pytest.mark.parametrize("H, D, settings, fault", REFUSED.values(), ids=REFUSED)
def test_no_steady_state_is_refused_in_words(H, D, settings, fault):
    with pytest.raises(ValueError, match=re.escape(fault)):
        sde.DiscreteSGD(H, D, **({"learning_rate": 0.1, "batch_size": 2} | settings))


def test_other_refusals_and_the_span():
    for eta, nesterov in ((3.79, False), (1.357, True)):  # just below the bounds there is a law
        assert sde.DiscreteSGD(*ONE, eta, 1, momentum=0.9, nesterov=nesterov).covariance[0, 0] > 0
    H = np.diag([2.0, 1.0, 0.0])
    span = sde.DiscreteSGD.restricted(H, 0.5 * H, 0.1, 2)  # D = cH: ηc/(b(2 − ηh)), not TcI
    np.testing.assert_allclose(np.sort(la.eigvalsh(span.covariance)), 0.05 / (2 * np.array([1.9, 1.8])), rtol=1e-14)
    unreached = sde.DiscreteSGD(H, 0.5 * H, 0.1, 2, weight_decay=0.1)  # the decay holds it, no noise moves it
    assert unreached.covariance[2, 2] == 0
    for call in (lambda: unreached.potential_hessian, lambda: unreached.continuous):
        with pytest.raises(ValueError, match="restricted"):
            call()
    with pytest.raises(ValueError, match="variables belongs to x"):
        sde.DiscreteSGD.restricted(H, 0.5 * H, 0.1, 2, variables=("a", "b"))
    with pytest.raises(ValueError, match="phases"):
        span.phase_covariance(1)
    with pytest.raises(ValueError, match="whole numbers"):
        span.lag_covariance([0.5])


def test_figure():
    law = sde.DiscreteSGD(np.diag([1.0, 4.0]), [[1, 0.8], [0.8, 1]], 0.05, 1, momentum=0.95)
    words = [t.get_text() for t in plot_linear_theory(law).get_legend().get_texts()]
    assert words == ["stationary", "isotropic noise", "limit of small steps", "remainder j"]
