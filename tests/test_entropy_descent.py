"""Entropy-SGD and Parle on quadratics in closed form, on real batches against `sgd`, and against local entropy."""

import numpy as np
import pytest

import sde_sgd as sde

A = np.array([[2.0, 0.5], [0.5, 1.0]])
X = np.array([[1.0, -0.4], [0.3, 1.2], [-0.8, 0.6]])


def slope(y, k):
    return y @ A


def weights_of(inner, keep=0.75):
    """Of y_1, …, y_L in their running mean."""
    found = (1 - keep) * keep ** np.arange(inner)[::-1]
    found[0] /= 1 - keep
    return found


def power(matrix, n):
    return np.linalg.matrix_power(matrix, n)


@pytest.mark.parametrize(("inner", "tether", "pull"), [(1, 0.0, 1.0), (7, 2.0, 1.0), (30, 0.5, 0.6)])
def test_quadratic_in_closed_form(inner, tether, pull):
    """Around the fixed point c = γ(A + γ)⁻¹x of its inner chain y_l − c = (1 − η(A + γ))^l (x − c)."""
    step, around = 0.1, A + tether * np.eye(2)
    rest = tether * np.linalg.inv(around)
    factor = sum(w * power(np.eye(2) - step * around, i + 1) for i, w in enumerate(weights_of(inner)))
    once = (1 - pull) * np.eye(2) + pull * (rest + factor @ (np.eye(2) - rest))
    found = sde.entropy_sgd(slope, X, rounds=4, inner_steps=inner, step=step, tether=tether, pull=pull)
    np.testing.assert_allclose(found, X @ power(once, 4).T, atol=1e-13)


def test_a_long_chain_takes_the_step_of_local_entropy_and_a_short_one_does_not():
    """x − z = (1/γ)∇f_{1/γ}(x) with the scope 1/γ; in strengths ⟨x'⟩ = (I + A/γ)⁻¹x."""
    smooth = sde.local_entropy(sde.Landscape(("x", "y"), "x**2 + x*y/2 + y**2/2"), 0.5)
    long, short = (sde.entropy_sgd(slope, X, rounds=1, inner_steps=n, step=0.1, tether=2.0) for n in (300, 5))
    np.testing.assert_allclose(long, smooth.mean(X), atol=1e-12)
    np.testing.assert_allclose(long, np.linalg.solve(np.eye(2) + A / 2, X.T).T, atol=1e-12)
    assert np.abs(short - long).max() > 0.01


def test_parle_contains_elastic_sgd_and_copies_of_entropy_sgd():
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(20, *X.shape))
    x = X
    for k in range(20):  # Elastic-SGD written out
        x = x - 0.1 * (x @ A + draws[k] + 1.5 * (x - x.mean(0)))
    noisy = lambda y, k: y @ A + draws[k]  # noqa: E731
    np.testing.assert_allclose(sde.parle(noisy, X, rounds=20, step=0.1, elastic=1.5), x, atol=1e-12)
    chain = dict(rounds=3, inner_steps=6, step=lambda k: 0.1 / (1 + k), tether=1.0)
    apart = sde.parle(slope, X, **chain)
    for a in range(3):
        np.testing.assert_allclose(apart[a], sde.entropy_sgd(slope, X[a], **chain), atol=1e-13)
    assert np.abs(sde.parle(slope, X, elastic=1.0, **chain) - apart).max() > 1e-3


def test_one_replica_without_couplings_is_sgd_on_the_same_batches():
    model = sde.FiniteSum(("u", "v"), "(u*a + v*b - y)**2/2", {"a": [1.0, 0.5, -1.0, 2.0], "b": [0.0, 1.0, 0.5, -0.5],
                                                              "y": [1.0, 0.3, -0.2, 0.7]})  # fmt: skip
    run = dict(batch_size=2, steps=60, seed=3)
    picks = sde.sample_indices(4, **run)
    gradient = lambda y, k: model.sample_gradients(y)[:, picks[k]].mean(1)  # noqa: E731
    found = sde.parle(gradient, np.array([[1.5, 0.5]]), rounds=60, step=0.1)
    end = sde.sgd(model, [1.5, 0.5], learning_rate=0.1, threads=1, **run)
    np.testing.assert_allclose(found[0], [end.u.values[0], end.v.values[0]], atol=1e-12)
    short = sde.parle(gradient, np.array([[1.5, 0.5]]), rounds=30, inner_steps=2, step=0.1)
    assert np.abs(short - found).max() > 1e-3


def test_a_noisy_chain_has_the_mean_of_local_entropy_at_its_temperature():
    """−log of two Gaussians, ε² = 2T: mean of 4000 chains against `local_entropy` (five standard errors)."""
    loss = sde.Landscape("x", "(x**2 - 1)**2 + x/2")
    smooth = sde.local_entropy(loss, 0.2, temperature=0.5)
    rng = np.random.default_rng(1)
    start, keep = np.full((4000, 1), 1.1), 1 - 1 / 150
    end = sde.entropy_sgd(
        lambda y, k: loss.gradient(y), start, rounds=1, inner_steps=600, step=0.003, tether=5.0, keep=keep,
        noise=1.0, normals=lambda k: rng.normal(size=(1, 4000, 1)),
    )  # fmt: skip
    error = end.std() / np.sqrt(4000)
    assert abs(end.mean() - smooth.mean([1.1])[0]) < 5 * error
    other = sde.local_entropy(loss, 0.2, temperature=2.0).mean([1.1])[0]
    assert abs(end.mean() - other) > 8 * error


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"keep": 1.0}, "keep must be below 1"),
        ({"pull": 1.5}, "pull at most 1"),
        ({"noise": 0.1}, "normals"),
        ({"tether": -1.0}, "tether"),
        ({"inner_steps": 0}, "inner_steps"),
        ({"step": 0.0}, "step"),
        ({"step": lambda k: -1.0}, r"step\(k\)"),
    ],
)
def test_what_cannot_be_is_refused(options, says):
    with pytest.raises(ValueError, match=says):
        sde.parle(slope, X, **({"rounds": 2, "step": 0.1} | options))
    with pytest.raises(ValueError, match="use parle"):
        sde.entropy_sgd(slope, X, rounds=1, step=0.1, elastic=1.0)
