"""How samples are chosen: every arrangement equally often, each sample once an epoch, any stretch replayed.

A chi² is compared with its quantile of false-alarm rate 1e-6 and every seed is fixed; each check must also fail for
a generator that deserves it.
"""

import itertools
import math

import numpy as np
import pytest
from numba import njit
from scipy.stats import chi2

import sde_sgd as sde
from sde_sgd.paths import _ensemble, _sampling

LARGE = 1_000_000
MODES = ("with_replacement", "without_replacement", "reshuffling")
U = np.uint64


def uniform(cells, categories):
    """Whether observations in [0, categories) are uniform, by chi² at false-alarm rate 1e-6."""
    counts = np.bincount(np.ravel(cells), minlength=categories)
    expected = np.size(cells) / categories
    assert len(counts) == categories and expected > 20
    return ((counts - expected) ** 2 / expected).sum() < chi2.isf(1e-6, categories - 1)


def ranks(rows, samples):
    """The number of each row among the arrangements of its length; −1 for a row that repeats a sample."""
    number = {row: k for k, row in enumerate(itertools.permutations(range(samples), rows.shape[1]))}
    return np.array([number.get(tuple(row), -1) for row in rows.tolist()])


def epochs(samples, batch, count, **options):
    """(count, samples): the permutations that reshuffling walks through."""
    steps = -(-samples // batch)
    picks = sde.sample_indices(samples, batch_size=batch, steps=count * steps, sampling="reshuffling", **options)
    return picks.reshape(count, -1)[:, :samples]


def affine(samples, count, length, seed=0):
    """The counterexample: k ↦ (u + k v) mod N, random u and v; single samples are uniform, arrangements are not."""
    rng = np.random.default_rng(seed)
    start, stride = rng.integers(samples, size=(count, 1)), rng.integers(1, samples, size=(count, 1))
    return (start + np.arange(length) * stride) % samples


# Each mode against its law -----------------------------------------------------------------------------------


def test_with_replacement_has_the_bits_it_always_had():
    picks = sde.sample_indices(150, batch_size=5, steps=3, replica=66, seed=4)
    assert picks.tolist() == [[113, 12, 147, 123, 91], [37, 128, 69, 52, 72], [75, 131, 4, 98, 79]]
    picks = sde.sample_indices(1_000_003, batch_size=3, steps=1, replica=2**33 + 1, seed=4, svag=4)
    assert picks.tolist() == [[[371910, 186543, 604698], [508211, 83069, 809161]]]


@pytest.mark.parametrize("samples, batch", [(6, 3), (5, 5), (5, 4), (40, 1), (9, 2)])
def test_every_ordered_subset_is_equally_likely(samples, batch):
    cells = math.perm(samples, batch)
    picks = sde.sample_indices(samples, batch_size=batch, steps=800 * cells, sampling="without_replacement", seed=1)
    assert uniform(ranks(picks, samples), cells)
    if batch > 1:
        repeated = sde.sample_indices(samples, batch_size=batch, steps=100 * cells, seed=1)
        assert ranks(repeated, samples).min() == -1
    if batch > 2 and samples == 5:  # prime: a stride never returns early
        assert not uniform(ranks(affine(samples, 800 * cells, batch), samples), cells)


@pytest.mark.parametrize("samples, batch", [(5, 2), (4, 1), (5, 5), (6, 4)])
def test_every_permutation_is_equally_likely(samples, batch):
    cells = math.factorial(samples)
    rows = epochs(samples, batch, 800 * cells, seed=2)
    assert uniform(ranks(rows, samples), cells)
    if samples == 5:
        assert not uniform(ranks(affine(5, 800 * cells, 5), 5), cells)


def test_epochs_replicas_steps_and_halves_are_independent():
    """Arrangements of 3 in pairs that share all but one of: epoch, replica, step, half of SVAG, seed."""
    n = 30_000
    rows = ranks(epochs(3, 2, n, seed=3), 3)
    assert uniform(6 * rows[:-1:2] + rows[1::2], 36)
    assert not uniform(6 * rows[:-1:2] + rows[:-1:2], 36)
    neighbour = ranks(epochs(3, 2, n, seed=3, replica=1), 3)
    far = ranks(epochs(3, 2, n, seed=3, replica=2**32), 3)
    other = ranks(epochs(3, 2, n, seed=4), 3)
    assert uniform(6 * rows + neighbour, 36) and uniform(6 * rows + far, 36) and uniform(6 * rows + other, 36)
    halves = sde.sample_indices(3, batch_size=3, steps=n, svag=2, sampling="without_replacement", seed=3)
    first, second = ranks(halves[:, 0], 3), ranks(halves[:, 1], 3)
    assert uniform(6 * first + second, 36) and uniform(6 * first[:-1] + first[1:], 36)
    assert uniform(6 * first + rows, 36)  # the two streams of one seed
    plain = sde.sample_indices(3, batch_size=3, steps=n, sampling="without_replacement", seed=3)
    np.testing.assert_array_equal(plain, halves[:, 0])


@pytest.mark.parametrize("samples, batch", [(10, 4), (10, 9), (200, 30), (_sampling.TABLE_LIMIT + 1, 50)])
def test_covariance_of_the_batch_mean(samples, batch):
    """(N−b)/(b(N−1)) D for a fresh subset, D/b with replacement: within 5 standard errors, which exclude the other."""
    values = np.random.default_rng(samples).standard_normal((samples, 2)) @ [[1.0, 0.7], [0.0, 0.5]]
    values -= values.mean(0)
    d = np.cov(values.T, bias=True)
    steps = 200_000 if samples < 1000 else 20_000
    factor = {"with_replacement": 1 / batch, "without_replacement": (samples - batch) / (batch * (samples - 1))}
    measured, error = {}, {}
    for sampling in factor:
        picks = sde.sample_indices(samples, batch_size=batch, steps=steps, sampling=sampling, seed=5)
        means = values[picks].mean(1)
        products = means[:, :, None] * means[:, None, :]
        measured[sampling], error[sampling] = products.mean(0), products.std(0) / np.sqrt(steps)
        assert (np.abs(means.mean(0)) < 5 * np.sqrt(np.diag(d) * factor[sampling] / steps)).all()
        assert (np.abs(measured[sampling] - factor[sampling] * d) < 5 * error[sampling]).all(), sampling
    wrong = np.abs(measured["with_replacement"] - factor["without_replacement"] * d)
    assert samples > 1000 or (wrong > 5 * error["with_replacement"]).any()


@pytest.mark.parametrize("samples, batch", [(10, 4), (10, 5), (7, 7), (64, 1), (1001, 10), (100_003, 40_000)])
def test_every_sample_once_an_epoch(samples, batch):
    steps = -(-samples // batch)
    picks = sde.sample_indices(samples, batch_size=batch, steps=3 * steps, replica=7, sampling="reshuffling")
    for epoch in picks.reshape(3, -1):
        np.testing.assert_array_equal(np.sort(epoch[:samples]), np.arange(samples))
        assert (epoch[samples:] == -1).all()
    last = samples - (steps - 1) * batch
    assert ((picks >= 0).sum(1).reshape(3, steps) == [batch] * (steps - 1) + [last]).all()
    assert not np.array_equal(picks[:steps], picks[steps : 2 * steps])
    fresh = sde.sample_indices(samples, batch_size=batch, steps=steps, sampling="without_replacement").ravel()
    assert steps == 1 or len(set(fresh.tolist())) < samples  # the counterexample: subsets of their own each step


@pytest.mark.parametrize("samples", [6, 50, 70_001])
def test_a_full_batch_without_replacement_is_all_samples(samples):
    picks = sde.sample_indices(samples, batch_size=samples, steps=2, sampling="without_replacement")
    np.testing.assert_array_equal(np.sort(picks, axis=1), np.tile(np.arange(samples), (2, 1)))
    assert (picks[0] != picks[1]).any()


# Replay ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples, batch", [(10, 3), (10, 4), (5000, 7), (_sampling.TABLE_LIMIT + 1, 30_000)])
@pytest.mark.parametrize("sampling", MODES)
def test_any_stretch_is_replayed(sampling, samples, batch):
    options = {"batch_size": batch, "sampling": sampling, "seed": 8, "replica": 3}
    whole = sde.sample_indices(samples, steps=12, **options)
    for first, steps in [(0, 1), (1, 1), (1, 2), (2, 5), (3, 9), (4, 5), (7, 2), (11, 1)]:
        stretch = sde.sample_indices(samples, steps=steps, first_step=first, **options)
        np.testing.assert_array_equal(stretch, whole[first : first + steps])
    for other in ({"replica": 4}, {"seed": 9}):
        assert not np.array_equal(sde.sample_indices(samples, steps=12, **options | other), whole)
    late = sde.sample_indices(samples, steps=4, first_step=_ensemble.MAX_STEPS - 4, **options)
    assert late.shape == (4, batch) and late.max() < samples


@pytest.mark.parametrize("sampling", ["with_replacement", "without_replacement"])
def test_both_halves_of_svag_are_replayed(sampling):
    options = {"batch_size": 5, "sampling": sampling, "svag": 4}
    whole = sde.sample_indices(11, steps=6, **options)
    assert whole.shape == (6, 2, 5)
    np.testing.assert_array_equal(sde.sample_indices(11, steps=3, first_step=3, **options), whole[3:])


# Large N: the keyed permutation ------------------------------------------------------------------------------


def pairs_look_uniform(first, second, samples):
    """Pairs of samples in coarse and fine cells: 16 × 16 blocks, residues modulo 17 of both, and their difference."""
    blocks = 16 * (first * 16 // samples) + second * 16 // samples
    residues = 17 * (first % 17) + second % 17
    gap = (second - first) % samples
    return (
        uniform(blocks, 256)
        and uniform(residues, 289)
        and uniform(gap * 256 // samples, 256)
        and uniform(gap % 128, 128)
        and gap.min() > 0
    )


@pytest.mark.parametrize("sampling", ["without_replacement", "reshuffling"])
def test_pairs_of_a_million_samples(sampling):
    """Neighbouring places, places one row apart on the rectangle, and far ones; 20 of the tests above: 2e-5."""
    n, places = 3000, (0, 1, 500, 1000, 1001)
    key = _ensemble.key_of(11)
    picks = np.empty((2 * n, len(places)), np.int64)
    if sampling == "reshuffling":
        for epoch in range(2 * n):
            for k, place in enumerate(places):
                picks[epoch, k] = keyed_place(U(place), U(LARGE), U(epoch), _sampling._EPOCH_STREAM, *key)
        options = {"batch_size": 1, "steps": 2, "first_step": 3 * LARGE + 1000, "sampling": sampling, "seed": 11}
        np.testing.assert_array_equal(sde.sample_indices(LARGE, **options)[:, 0], picks[3, 3:])
    else:
        picks = sde.sample_indices(LARGE, batch_size=1002, steps=2 * n, sampling=sampling, seed=11)[:, list(places)]
    for one, two in [(0, 1), (0, 3), (2, 3), (3, 4)]:
        assert pairs_look_uniform(picks[:, one], picks[:, two], LARGE), (places[one], places[two])
    plain = affine(LARGE, 2 * n, 3)
    assert uniform(plain[:, 0] * 16 // LARGE, 16)
    assert not uniform((plain[:, 2] - 2 * plain[:, 1] + plain[:, 0]) % LARGE * 16 // LARGE, 16)
    triples = (picks[:, 0] - 2 * picks[:, 1] + picks[:, 3]) % LARGE
    assert uniform(triples * 64 // LARGE, 64)


@njit(error_model="numpy")
def keyed_place(place, samples, when, stream, key0, key1):
    return _sampling._keyed_place(place, samples, 0, when, stream, U(0), U(0), key0, key1)


@njit(error_model="numpy")
def keyed_table(samples, count, rounds, key0, key1):
    """(count, samples) permutations of the network on so few samples; with `rounds` fewer of its rounds."""
    rows = np.empty((count, samples), np.int64)
    sides = _sampling._sides(U(samples))
    for k in range(count):
        for place in range(samples):
            if rounds == _sampling._ROUNDS:
                rows[k, place] = keyed_place(U(place), U(samples), U(k), _sampling._EPOCH_STREAM, key0, key1)
                continue
            left, right = U(place) // sides[1], U(place) % sides[1]
            for r in range(rounds):
                if r % 2 == 0:
                    left = _sampling._round(left, right, sides[0], U(r), U(k), U(0), U(0), U(0), key0, key1)
                else:
                    right = _sampling._round(right, left, sides[1], U(r), U(k), U(0), U(0), U(0), key0, key1)
            rows[k, place] = left * sides[1] + right
    return rows


@pytest.mark.parametrize("samples", [12, 13, 20])
def test_the_network_on_few_samples(samples):
    """All single and pair marginals: departures of a relative N⁻² do not show in 1e5 draws from N = 12 on."""
    key, n = _ensemble.key_of(12), 100_000
    rows = keyed_table(samples, n, _sampling._ROUNDS, *key)
    np.testing.assert_array_equal(np.sort(rows, axis=1), np.tile(np.arange(samples), (n, 1)))
    for one, two in itertools.combinations(range(7), 2):
        first, second = rows[:, one], rows[:, two]
        assert uniform(first, samples)
        assert uniform((samples - 1) * first + second - (second > first), samples * (samples - 1)), (one, two)
    if samples in (12, 20):  # whole rectangles; two rounds are too few for two places of one column
        rows = keyed_table(samples, n, 2, *key)
        columns = int(_sampling._sides(U(samples))[1])
        first, second = rows[:, 0], rows[:, columns]
        assert not uniform((samples - 1) * first + second - (second > first), samples * (samples - 1))


def pair_law(rows, columns, rounds, start):
    """Exact law of (Δl, Δr), the distance of two places, after so many truly random rounds from `start`."""
    law = np.zeros((rows, columns))
    law[start] = 1
    for r in range(rounds):
        if r % 2 == 0:
            law[:, 1:] = law[:, 1:].mean(0)
        else:
            law[1:] = law[1:].mean(1, keepdims=True)
    return law


@pytest.mark.parametrize("rows, columns", [(9, 8), (16, 16), (32, 31), (64, 63)])
def test_rounds_suffice_for_pairs(rows, columns):
    cells = rows * columns
    for start in ((1, 0), (0, 1), (1, 1)):
        law = pair_law(rows, columns, _sampling._ROUNDS, start).ravel()[1:]
        assert law.sum() == pytest.approx(1)
        assert np.abs(law * (cells - 1) - 1).max() < 1.5 / cells**2 + 1e-12
    few = pair_law(rows, columns, 4, (1, 0)).ravel()[1:]
    assert np.abs(few * (cells - 1) - 1).max() > 0.1


def test_the_table_and_the_network_meet_at_the_limit():
    limit = _sampling.TABLE_LIMIT
    assert not _sampling.keyed(limit) and _sampling.keyed(limit + 1)
    for sampling, samples in itertools.product(MODES[1:], (limit, limit + 1)):
        picks = sde.sample_indices(samples, batch_size=samples, steps=1, sampling=sampling)[0]
        np.testing.assert_array_equal(np.sort(picks), np.arange(samples))
    assert _sampling._sides(U(2**32 - 1)) == (2**16, 2**16)  # a half fits into the counter beside the round
    huge = sde.sample_indices(2**32 - 1, batch_size=1000, steps=10, sampling="reshuffling")
    assert len(set(huge.ravel().tolist())) == 10_000 and huge.max() > 0.999 * 2**32


# Refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"sampling": "reshuffle"}, r"sampling must be one of .* \(did you mean 'reshuffling'\?\)"),
        ({"sampling": "reshuffling", "svag": 2}, "two independent batches"),
        ({"batch_size": 11}, "batch_size must be a whole number from 1 to 10"),
        ({"samples": 2**30, "batch_size": 2**24 + 1}, "from 1 to 16777216"),
        ({"first_step": _ensemble.MAX_STEPS - 4}, "first_step must be a whole number from 0 to"),
        ({"first_step": -1}, "first_step"),
        ({"samples": 2**32}, "samples must be"),
    ],
)
def test_refusals(changes, message):
    arguments = {"samples": 10, "batch_size": 3, "steps": 5} | changes
    with pytest.raises(ValueError, match=message):
        sde.sample_indices(arguments.pop("samples"), **arguments)
