"""Binary perceptrons: what is enumerated against what is counted one by one, in closed form, and at random."""

import itertools
from math import comb

import numpy as np
import pytest

from sde_sgd import BinaryPerceptron

FLIP = 0.1
GAMMA = float(np.log((1 - FLIP) / FLIP))


def mixed():
    """A pattern set with a solution alone within two flips and one that has six others there."""
    task = BinaryPerceptron.random(15, 10, seed=93)
    near = task.neighbours(2)
    assert near.min() == 0 and near.max() >= 5
    return task, task.solutions[near.argmin()], task.solutions[near.argmax()]


def test_every_choice_is_tried():
    task = BinaryPerceptron.random(8, 5, seed=3)
    every = np.array(list(itertools.product((1, -1), repeat=8)))
    expected = ((every @ task.patterns.T.astype(int)) * task.labels <= 0).sum(-1)
    places = task.places(every)
    assert sorted(places) == list(range(256))
    np.testing.assert_array_equal(task.error_counts[places], expected)
    np.testing.assert_array_equal(task.errors(every), expected)
    np.testing.assert_array_equal(task.choices(places), every)
    assert {tuple(w) for w in task.solutions} == {tuple(w) for w, e in zip(every, expected) if e == 0}
    many = BinaryPerceptron.random(15, 40, seed=1)  # patterns in two parts
    np.testing.assert_array_equal(many.errors(many.choices(np.arange(2**15))), many.error_counts)


def test_distances_are_counted_and_local_entropies_agree_with_passes_over_all_weights():
    task, lonely, dense = mixed()
    one_by_one = np.bincount([(w != dense).sum() for w in task.solutions], minlength=16)
    np.testing.assert_array_equal(task.profile(dense), one_by_one)
    found = task.local_entropy(np.array([lonely, dense]), GAMMA)
    np.testing.assert_allclose(task.local_entropies(GAMMA)[task.places([lonely, dense])], found, rtol=1e-13)
    # errors are 0 at both: they tell nothing that local entropy does
    assert task.errors([lonely, dense]).tolist() == [0, 0]
    assert found[1] > found[0] + 0.02
    soft = [task.local_entropies(GAMMA, beta)[task.places(dense)] for beta in (1.0, 40.0)]
    assert soft[1] == pytest.approx(found[1], abs=1e-12) and soft[0] > found[1]
    assert BinaryPerceptron([[1], [-1]]).local_entropy([1], 1.0) == -np.inf  # no solution at all


def test_survival_is_what_random_flips_find():
    """40,000 trials each; five standard errors (chance 6e-7 each)."""
    task, lonely, dense = mixed()
    random = np.random.default_rng(5)
    for one in (lonely, dense):
        exact = task.survival(one, FLIP)
        assert exact == pytest.approx((1 - FLIP) ** 15 * np.exp(task.local_entropy(one, GAMMA)), rel=1e-12)
        flipped = np.where(random.random((40_000, 15)) < FLIP, -one, one)
        stayed = (task.errors(flipped) == 0).mean()
        assert abs(stayed - exact) < 5 * np.sqrt(exact * (1 - exact) / 40_000)
    assert task.survival(lonely, FLIP) < task.survival(dense, FLIP)


def test_numbers_of_pairs_over_all_pattern_sets_are_in_closed_form():
    """N = 5, P = 2: solutions d apart, summed over all 1024 sets, are 2^N C(N, d) (p_d)^P sets; p by `disagreement`."""
    every = np.array(list(itertools.product((1, -1), repeat=5)))
    total = np.zeros(6)
    for pair in itertools.product(every, repeat=2):
        task = BinaryPerceptron(np.array(pair))
        if len(task.solutions):
            total += task.profile(task.solutions).sum(0)
    both = (1 - BinaryPerceptron.disagreement(5)) / 2  # agree on a random input, both on the side that is asked for
    expected = [2**5 * comb(5, d) * both[d] ** 2 * 4**5 for d in range(6)]
    np.testing.assert_allclose(total, expected, rtol=1e-12)


def test_disagreement_is_that_over_all_inputs():
    every = np.array(list(itertools.product((1, -1), repeat=7)))
    one = np.ones(7, int)
    for d in range(8):
        other = np.where(np.arange(7) < d, -1, 1)
        share = (np.sign(every @ one) != np.sign(every @ other)).mean()
        assert BinaryPerceptron.disagreement(7)[d] == pytest.approx(share, abs=1e-15)


def test_a_teacher_is_a_solution_and_few_patterns_leave_none_isolated():
    teacher = 1 - 2 * np.random.default_rng(1).integers(0, 2, 11)
    assert BinaryPerceptron.random(11, 9, teacher=teacher, seed=2).errors(teacher) == 0
    for seed in range(5):
        assert BinaryPerceptron.random(11, 3, seed=seed).neighbours(2).min() > 0


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: BinaryPerceptron([[1, 0]]), "-1 and 1 only, got 0"),
        (lambda: BinaryPerceptron([1, -1]), "shape"),
        (lambda: BinaryPerceptron(np.ones((1, 25))), "24"),
        (lambda: BinaryPerceptron([[1, 1]], [2]), "labels"),
        (lambda: BinaryPerceptron([[1, 1]]).errors([1, 1, 1]), r"\(\.\.\., 2\)"),
        (lambda: BinaryPerceptron([[1, 1]]).local_entropy([1, 1], 0), "gamma"),
        (lambda: BinaryPerceptron([[1, 1]]).survival([1, 1], 1.0), "probability"),
        (lambda: BinaryPerceptron.random(4, 2, teacher=[1, 1, 1, 1]), "odd"),
        (lambda: BinaryPerceptron.disagreement(4), "odd"),
    ],
)
def test_what_cannot_be_is_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()
