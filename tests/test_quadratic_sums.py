"""Quadratic finite sums: their noise against the mean over every batch, and all laws against real mini-batch runs.

Seeds are fixed. With fresh ones the three scores held at 4 standard errors raise a false alarm in 2e-4 of the runs.
"""

import itertools

import numpy as np
import pytest
import scipy.linalg as la

import sde_sgd as sde

PEARSON = sde.landscapes.get("pearson")


def relative(a, b):
    return la.norm(np.asarray(a) - np.asarray(b)) / la.norm(b)


def quadratics(d, samples, seed=1, spread=0.9):
    """f_k = ½(x−c_k)ᵀH_k(x−c_k) in the names x, y as a finite sum; H_k, c_k."""
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(samples, d, d))
    hessians = np.eye(d) + spread * (A + A.swapaxes(1, 2)) / 2
    centers = rng.normal(size=(samples, d))
    names = ("x", "y")[:d]
    terms, data = [], {}
    for i, u in enumerate(names):
        data[f"c{i}"] = centers[:, i]
        for j, w in enumerate(names):
            data[f"h{i}{j}"] = hessians[:, i, j]
            terms.append(f"h{i}{j}*({u} - c{i})*({w} - c{j})/2")
    return sde.FiniteSum(names, " + ".join(terms), data, name="quadratics"), hessians, centers


def every_batch(law, hessians, centers, sampling):
    """The stationary covariance of (x, v) from the mean over all batches of their affine maps; and the radius."""
    samples, d = centers.shape
    choose = itertools.combinations if sampling == "without_replacement" else itertools.product
    batches = choose(range(samples), law.batch_size) if choose is itertools.combinations else choose(
        range(samples), repeat=law.batch_size)  # fmt: skip
    eta, mu, one = law.learning_rate, law.momentum, np.eye(d)
    alpha, gamma = (1 + mu, mu**2) if law.nesterov else (1.0, mu)
    total, noise, count = 0.0, 0.0, 0
    for batch in map(list, batches):
        H = hessians[batch].mean(0) + law.weight_decay * one
        g = np.einsum("kij,kj->i", hessians[batch], law.center - centers[batch]) / len(batch)
        g = g + law.weight_decay * law.center
        M = np.block([[one - eta * alpha * H, -eta * gamma * one], [H, mu * one]])
        n = np.concatenate([-eta * alpha * g, g])
        total, noise, count = total + np.kron(M, M), noise + np.outer(n, n), count + 1
    operator = total / count
    flat = la.solve(np.eye(4 * d * d) - operator, (noise / count).ravel())
    return flat.reshape(2 * d, 2 * d), np.abs(la.eigvals(operator)).max()


@pytest.mark.parametrize("sampling", ["with_replacement", "without_replacement"])
@pytest.mark.parametrize("momentum, nesterov, decay", [(0.0, False, 0.0), (0.6, False, 0.1), (0.6, True, 0.0)])
def test_quadratic_sums_are_the_mean_over_all_batches(sampling, momentum, nesterov, decay):
    total, hessians, centers = quadratics(2, 5)
    law = sde.DiscreteSGD.from_finite_sum(total, 0.3, 2, momentum=momentum, nesterov=nesterov, weight_decay=decay,
                                          sampling=sampling)  # fmt: skip
    exact, radius = every_batch(law, hessians, centers, sampling)
    assert relative(law.joint_covariance, exact) < 1e-12 and law.feedback < 1 and radius < 1
    constant = sde.DiscreteSGD(law.H, law.center_diffusion, 0.3, 2, samples=5, momentum=momentum, nesterov=nesterov,
                               weight_decay=decay, sampling=sampling)  # fmt: skip
    assert relative(constant.covariance, exact[:2, :2]) > 0.01  # the noise at the minimum alone is not enough


def test_the_feedback_reaches_1_where_second_moments_diverge():
    """The verdict by the feedback's radius against that of the whole second-moment recursion, at the crossing."""
    total, hessians, centers = quadratics(2, 5, spread=1.0)
    low, high = 0.05, 2.0
    for _ in range(40):
        eta = 0.5 * (low + high)
        try:
            law = sde.DiscreteSGD.from_finite_sum(total, eta, 1, momentum=0.5)
            low = eta
        except ValueError as fault:
            assert "E|x|²" in str(fault) or "not stable" in str(fault)
            high = eta
    assert law.feedback > 0.999
    law = sde.DiscreteSGD.from_finite_sum(total, 0.5 * low, 1, momentum=0.5)
    for eta, below in ((low * (1 - 1e-6), True), (high * (1 + 1e-6), False)):
        law.learning_rate = eta
        assert (every_batch(law, hessians, centers, "with_replacement")[1] < 1) == below


def test_pearson_and_linear_regression():
    """THEORY §4's variance; and the same regression by its rows, by its Hessians and beyond 16 weights."""
    a, m = PEARSON.data["a"], PEARSON.data["m"]
    law = sde.DiscreteSGD.from_finite_sum(PEARSON, 0.5, 1)
    noise = float(PEARSON.diffusion([law.center])[0, 0, 0])
    exact = 0.25 * noise / (1 - (1 - 0.5 * a.mean()) ** 2 - 0.25 * a.var())
    assert law.covariance[0, 0] == pytest.approx(exact, rel=1e-14)
    assert law.center[0] == pytest.approx((a * m).mean() / a.mean(), rel=1e-15) and law.variables == ("x",)
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 3)), rng.normal(size=60)
    rows = sde.FiniteSum.linear_model(X, y, "squared", weight_decay=0.1)
    written = sde.FiniteSum.linear_model(X, y, "(p - y)**2/2", weight_decay=0.1)
    settings = dict(learning_rate=0.1, batch_size=2, momentum=0.5)
    S = sde.DiscreteSGD.from_finite_sum(rows, **settings).covariance
    assert relative(sde.DiscreteSGD.from_finite_sum(written, **settings).covariance, S) < 1e-12
    X, y = rng.normal(size=(500, 20)), rng.normal(size=500)
    wide = sde.FiniteSum.linear_model(X, y, "squared")
    law = sde.DiscreteSGD.from_finite_sum(wide, 0.02, 2)
    mean, S, eta = law.H, law.covariance, 0.02
    fourth = (X.T * np.einsum("ki,ij,kj->k", X, S, X)) @ X / 500  # E of x xᵀ S x xᵀ
    noise = law.center_diffusion + fourth - mean @ S @ mean
    assert relative(mean @ S + S @ mean - eta * mean @ S @ mean, eta / 2 * noise) < 1e-11 and 0.1 < law.feedback < 1
    with pytest.raises(ValueError, match=r"E\|x\|² grows"):
        sde.DiscreteSGD.from_finite_sum(wide, 0.3, 2)


def test_equal_hessians_feed_nothing_back():
    """f_k = |x − c_k|²/2 in more variables than the feedback has a matrix for."""
    centers = np.random.default_rng(0).integers(-3, 4, (30, 18)).astype(float)
    names = [f"w{i}" for i in range(18)]
    total = sde.FiniteSum(
        names, " + ".join(f"({n} - c_{n})**2/2" for n in names), {f"c_{n}": c for n, c in zip(names, centers.T)}
    )
    law = sde.DiscreteSGD.from_finite_sum(total, 0.1, 2)
    assert law.feedback < 1e-30 and relative(law.covariance, 0.1 / 1.9 / 2 * np.cov(centers.T, bias=True)) < 1e-12


def test_what_has_no_closed_form_is_refused():
    quartic = sde.FiniteSum("x", "(x - c)**4", {"c": [0.0, 1.0]}, name="quartic")
    with pytest.raises(ValueError, match="quartic is not quadratic"):
        sde.DiscreteSGD.from_finite_sum(quartic, 0.1, 1)
    with pytest.raises(ValueError, match="no closed second moments"):
        sde.DiscreteSGD.from_finite_sum(PEARSON, 0.1, 1, sampling="reshuffling")


# real runs -------------------------------------------------------------------------------------------------


def scores(run, law, count):
    """(measured − exact)/standard error of every second moment of (x, v) after the run, and of the means."""
    names = law.variables
    x = np.stack([run[n].values for n in names], -1) - law.center
    z = np.hstack([x, np.stack([run[f"velocity_{n}"].values for n in names], -1)]) if law.momentum else x
    exact = law.joint_covariance[: z.shape[1], : z.shape[1]]
    products = z[:, :, None] * z[:, None, :]
    upper = np.triu_indices(z.shape[1])
    second = ((products.mean(0) - exact) / (products.std(0) / np.sqrt(count)))[upper]
    return np.concatenate([second, z.mean(0) / (z.std(0) / np.sqrt(count))])


def run_of(total, law, steps, count, seed=3, **more):
    settings = dict(sampling=law.sampling, momentum=law.momentum, nesterov=law.nesterov, weight_decay=law.weight_decay)
    return sde.sgd(total, law.center, learning_rate=law.learning_rate, batch_size=law.batch_size, steps=steps,
                   replicas=count, seed=seed, **settings, **more)  # fmt: skip


def offset_sum(samples, seed=2):
    """f_k = ½xᵀHx + s_k·x, H and D not commuting: noise that is the same everywhere."""
    s = np.random.default_rng(seed).normal(size=(samples, 2)) @ [[1.0, 0.8], [0.0, 0.6]]
    s -= s.mean(0)
    total = sde.FiniteSum(("x", "y"), "x**2/2 + 0.4*x*y + 3*y**2/2 + s*x + t*y", {"s": s[:, 0], "t": s[:, 1]})
    return total, np.array([[1.0, 0.4], [0.4, 3.0]]), s.T @ s / samples


def test_a_run_of_epochs():
    """N = 23 in batches of 4: each epoch ends with 3. Not the law with replacement."""
    total, H, D = offset_sum(23)
    law = sde.DiscreteSGD(H, D, 0.05, 4, samples=23, sampling="reshuffling", momentum=0.5, variables=("x", "y"))
    white = sde.DiscreteSGD(H, D, 0.05, 4, momentum=0.5)
    n, steps = 60_000, law.epoch_steps
    run = run_of(total, law, 12 * steps, n)
    z = np.stack([run.x.values, run.y.values], -1)
    products = z[:, :, None] * z[:, None, :]
    error = products.std(0) / np.sqrt(n)
    assert steps == 6 and (np.abs(products.mean(0) - law.phase_covariance(0)) < 4 * error).all()
    assert (np.abs(products.mean(0) - white.covariance) > 20 * error).all()


@pytest.mark.evidence(table="linear_theory_runs")
def test_runs_closely(table):
    """Every sampling mode, momentum and noise: all second moments of (x, v) within 3 standard errors."""
    rows, count = [], 200_000
    total, _, _ = quadratics(2, 5)
    offsets, H, D = offset_sum(23)
    for sampling, momentum, nesterov in itertools.product(
        ("with_replacement", "without_replacement"), (0.0, 0.6), (False, True)
    ):
        if nesterov and not momentum:
            continue
        law = sde.DiscreteSGD.from_finite_sum(total, 0.3, 2, momentum=momentum, nesterov=nesterov, sampling=sampling)
        found = scores(run_of(total, law, 200, count, seed=17), law, count)
        rows.append(["quadratics", sampling, momentum, nesterov, len(found), f"{np.abs(found).max():.2f}"])
        assert np.abs(found).max() < 3
    for momentum, nesterov in ((0.0, False), (0.6, False), (0.6, True)):
        law = sde.DiscreteSGD(H, D, 0.05, 4, samples=23, sampling="reshuffling", momentum=momentum, nesterov=nesterov,
                              variables=("x", "y"))  # fmt: skip
        for phase in range(law.epoch_steps):
            steps = 40 * law.epoch_steps + phase
            run = run_of(offsets, law, steps, count, seed=19 + phase)
            z = np.stack([run.x.values, run.y.values], -1)
            products = z[:, :, None] * z[:, None, :]
            score = (products.mean(0) - law.phase_covariance(phase)) / (products.std(0) / np.sqrt(count))
            rows.append([f"offsets, phase {phase}", "reshuffling", momentum, nesterov, 3, f"{np.abs(score).max():.2f}"])
            assert np.abs(score).max() < 3
    columns = ["finite sum", "sampling", "μ", "Nesterov", "moments", "largest score, in size"]
    note = (
        f"{count} replicas; a score is (measured − exact)/standard error. Among the 120 scores of the table 3 is "
        "passed by chance in 28 % of the runs with fresh seeds; seeds are fixed."
    )
    table("Second moments of real runs against `DiscreteSGD`", columns, rows, note)
