"""Distances between ensembles of labels: exact on small cases, tests at their size, times and exponents."""

from itertools import combinations

import numpy as np
import pytest

from sde_sgd.validation._equilibrium_statistics import (
    disagreement,
    exponent,
    fall_time,
    independent_disagreement,
    integral_time,
    label_distance,
    label_shares,
    permutation_test,
    squared_distance,
)


def drawn(rng, shares, replicas):
    """Labels (replica, point) of points with these shares, (point, class)."""
    return np.stack([rng.choice(len(p), size=replicas, p=p) for p in shares], axis=1).astype(np.uint8)


def test_distances_by_hand():
    one, other = np.array([[0, 1], [0, 1], [1, 1]]), np.array([[1, 1], [0, 2]])
    np.testing.assert_allclose(label_shares(one, 3), [[2 / 3, 1 / 3, 0], [0, 1, 0]])
    assert label_distance(one, other, 3) == pytest.approx((2 * (2 / 3 - 1 / 2) + 1.0) / 2)
    assert label_distance(one, one, 3) == 0 and label_distance(0 * one, 0 * one + 2, 3) == 2
    with pytest.raises(ValueError, match="3 classes"):
        label_distance(one, other + 2, 3)


def test_the_squared_distance_is_the_u_statistic_and_has_no_bias():
    """Kernel form over pairs of replicas; its mean over 1000 draws of one law within 4 standard errors of 0."""
    rng = np.random.default_rng(0)
    shares = np.array([[0.5, 0.3, 0.2], [0.9, 0.1, 0.0]])
    one, other = drawn(rng, shares, 5), drawn(rng, shares[::-1], 4)

    def same(a, b):
        return (a[:, None] == b[None]).mean(axis=-1)

    inside = [(same(a, a).sum() - len(a)) / (len(a) * (len(a) - 1)) for a in (one, other)]
    assert squared_distance(one, other, 3) == pytest.approx(sum(inside) - 2 * same(one, other).mean(), abs=1e-12)
    found = np.array([squared_distance(drawn(rng, shares, 6), drawn(rng, shares, 6), 3) for _ in range(1000)])
    assert abs(found.mean()) < 4 * found.std() / np.sqrt(1000)
    apart = [squared_distance(drawn(rng, shares, 6), drawn(rng, shares[::-1], 6), 3) for _ in range(500)]
    truth = 2 * ((shares[0] - shares[1]) ** 2).sum() / 2
    assert abs(np.mean(apart) - truth) < 4 * np.std(apart) / np.sqrt(500)
    with pytest.raises(ValueError, match="two replicas"):
        squared_distance(one[:1], other, 3)


def sizes(rng, trials, replicas, points, groups, permutations):
    """p-values of ensembles of one law, whose points hang together: each replica belongs to one of two modes."""
    found = []
    for trial in range(trials):
        modes = rng.random((groups * replicas, 1)) < 0.5
        labels = np.where(rng.random((groups * replicas, points)) < 0.8, modes, ~modes).astype(int)
        parts = np.split(labels, groups)
        found.append(permutation_test(parts, 2, permutations=permutations, seed=trial).p_value)
    return np.array(found)


def test_the_null_is_of_its_size_and_a_difference_is_seen():
    """400 tests at 5 %: between 4 and 41 rejections but for a chance of 1e-4; points that were exchanged would reject
    nearly always."""
    rng = np.random.default_rng(2)
    found = sizes(rng, 400, 20, 12, 3, 39)
    assert 4 <= (found <= 0.05).sum() <= 41 and found.min() >= 1 / 40
    shares = np.array([[0.7, 0.3]] * 12)
    seen = [permutation_test([drawn(rng, p, 40) for p in (shares, shares[:, ::-1])], 2, permutations=39, seed=k).p_value
            for k in range(20)]  # fmt: skip
    assert max(seen) == 1 / 40


def test_a_permutation_test_over_all_exchanges():
    """Two and two replicas have three divisions: p tends to the share of those at least as far apart."""
    labels = np.array([[0, 0, 0], [0, 0, 1], [1, 1, 1], [1, 1, 0]])
    far = [label_distance(labels[list(pair)], labels[[k for k in range(4) if k not in pair]], 2)
           for pair in combinations(range(4), 2)]  # fmt: skip
    seen = permutation_test([labels[:2], labels[2:]], 2, permutations=6000, seed=1)
    assert seen.distance == pytest.approx(far[0]) and seen.null_mean == pytest.approx(np.mean(far), abs=0.02)
    assert seen.p_value == pytest.approx(np.mean(np.array(far) >= far[0] - 1e-9), abs=0.025)
    for fault in ([labels], [labels[:1], labels], [labels, labels[:, :2]]):
        with pytest.raises(ValueError, match="two ensembles"):
            permutation_test(fault, 2)


def test_disagreement_over_all_pairs_and_of_independent_errors():
    rng = np.random.default_rng(3)
    labels = drawn(rng, np.array([[0.6, 0.3, 0.1]] * 9), 7)
    pairs = [(a != b).mean() for a, b in combinations(labels, 2)]
    assert disagreement(labels) == pytest.approx(np.mean(pairs), abs=1e-12)
    wrong = drawn(rng, np.array([[0.8, 0.2]] * 4000), 2)  # two classes: 2e(1 − e) = 0.32
    assert disagreement(wrong) == pytest.approx(independent_disagreement(0.2), abs=4 * np.sqrt(0.32 * 0.68 / 4000))
    with pytest.raises(ValueError, match="one replica"):
        disagreement(labels[:1])


def test_times_to_fall_and_exponents():
    steps = np.arange(0.0, 50.0, 5.0)
    assert fall_time(steps, 3 * np.exp(-steps / 11)) == pytest.approx(11.0)  # linear in the logarithm: exact
    assert fall_time(steps, 3 * np.exp(-steps / 11), 0.1) == pytest.approx(11 * np.log(10))
    assert np.isnan(fall_time(steps, np.ones(10))) and fall_time(steps, np.ones(10), 1.0) == 0.0
    assert 5 < fall_time(steps, [1, 0.5, *[-0.1] * 8]) <= 10  # below 0 by chance
    with pytest.raises(ValueError, match="differ"):
        fall_time(steps, -np.ones(10))
    assert integral_time([0.0, 1.0, 3.0], [2.0, 1.0, 0.0]) == pytest.approx(1.25)
    fine = np.linspace(0, 200, 4001)
    assert integral_time(fine, 3 * np.exp(-fine / 11)) == pytest.approx(11.0, rel=1e-5)
    with pytest.raises(ValueError, match="differ"):
        integral_time(steps, -np.ones(10))
    x = np.array([10.0, 20.0, 80.0])
    assert exponent(x, 3 * x**-1.3) == pytest.approx(-1.3)
    for fault in ((x[:1], x[:1]), (x, -x)):
        with pytest.raises(ValueError, match="two points"):
            exponent(*fault)


@pytest.mark.evidence(table="equilibrium_null_size")
def test_the_null_at_its_size(table):
    """Rejections at 5 % and 1 % of tests of ensembles of one law, beside binomial bounds of chance 1e-4."""
    from scipy.stats import binom

    rng, rows = np.random.default_rng(11), []
    for replicas, points, groups in ((10, 4, 2), (40, 60, 2), (40, 60, 3), (160, 20, 3)):
        found = sizes(rng, 2000, replicas, points, groups, 199)
        for level in (0.05, 0.01):
            count = int((found <= level).sum())
            low, high = binom.ppf([1e-4, 1 - 1e-4], 2000, level)
            rows.append([replicas, points, groups, level, count / 2000, f"{low / 2000:.4f} to {high / 2000:.4f}"])
            # ties of few replicas at few points make the test reject less, never more
            assert count <= high and (count >= low or replicas == 10)
    table(
        "Size of the exchange test of ensembles of labels",
        ["replicas", "points", "ensembles", "level", "rejected", "expected, chance 1e-4 outside"],
        rows,
        "2000 tests a row of ensembles of one law whose points hang together, 199 exchanges each. Where few replicas "
        "and points make ties the test rejects less.",
    )
