"""Claims about wide minima, on binary perceptrons of so few weights that every choice of them is enumerated."""

import itertools
from dataclasses import replace
from functools import cache
from math import comb
from typing import TYPE_CHECKING

import numpy as np

from sde_sgd.figures._style import new_figure, styled
from sde_sgd.theory.claim import Claim, Level, Measurement, exact, sampled
from sde_sgd.theory.claims._batches import ratio_of_means, seed_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FLIP = 0.1  # the probability with which each weight is flipped; e^{−γ} = p/(1 − p)
_POOLS = ((15, 10, 900), (17, 11, 300))  # weights, patterns, pattern sets


@cache
def _configurations(weights: int) -> np.ndarray:
    """Every choice of the weights ±1, (2^N, N); bit i of the row's number is set where weight i is −1."""
    return (1 - 2 * ((np.arange(2**weights)[:, None] >> np.arange(weights)) & 1)).astype(np.float32)


def _patterns(random: np.random.Generator, patterns: int, weights: int) -> np.ndarray:
    """ξ_k times its label: W solves the task where ξ_k·W > 0 for every k."""
    return random.choice(np.array([-1, 1], np.float32), (patterns, weights))


def _solutions(tasks: np.ndarray) -> np.ndarray:
    """Every W without an error on the patterns `tasks`, (number, N)."""
    found = _configurations(tasks.shape[1])
    for pattern in tasks:
        found = found[found @ pattern > 0]
    return found


def _distances(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Numbers of weights in which they differ."""
    return ((some.shape[1] - some @ others.T) / 2).astype(int)


def _local_entropy(some: np.ndarray, solutions: np.ndarray, ratio: float) -> np.ndarray:
    """log Σ ratio^d over the solutions, d the distance from each of `some`."""
    return np.log((ratio ** _distances(some, solutions)).sum(1))


@cache
def _pool(level: Level, weights: int, patterns: int, sets: int) -> tuple[int, tuple]:
    """Pattern sets with a solution that has no other within two flips beside one that has five or more; and of these
    sets the patterns, an isolated and the densest solution between which the local entropy differs most.
    """
    random = np.random.default_rng(seed_of(level, 40, weights, patterns))
    ratio, count = _FLIP / (1 - _FLIP), 0
    best: tuple = (0.0,)  # difference, patterns, isolated, dense
    for _ in range(sets):
        tasks = _patterns(random, patterns, weights)
        solutions = _solutions(tasks)
        if len(solutions) < 7:
            continue
        near = (_distances(solutions, solutions) <= 2).sum(1) - 1
        if near.min() > 0 or near.max() < 5:
            continue
        count += 1
        entropy = _local_entropy(solutions, solutions, ratio)
        lonely, dense = entropy.argmin(), entropy.argmax()
        if entropy[dense] - entropy[lonely] > best[0]:
            best = entropy[dense] - entropy[lonely], tasks, solutions[lonely], solutions[dense]
    return count, best[1:]


def _pairs(weights: int, patterns: int, distance: int, law: bool) -> float:
    """Ordered pairs of solutions a distance apart, a mean over every set of patterns; or 2^N C(N, d) p_d^P.

    p_d is the probability that a random pattern suits both of two vectors that differ in d weights.
    """
    every = _configurations(weights)
    fields = every @ every.T > 0  # by symmetry patterns are enumerated as weights are
    if law:
        both = (fields[0] & fields[2**distance - 1]).mean()
        return 2**weights * comb(weights, distance) * both**patterns
    apart = np.argwhere(_distances(every, every) == distance)
    found = 0
    for tasks in itertools.product(fields.T, repeat=patterns):
        solved = np.logical_and.reduce(tasks)
        found += int((solved[apart[:, 0]] & solved[apart[:, 1]]).sum())
    return found / 2 ** (weights * patterns)


@cache
def _pair_measurements() -> tuple[Measurement, ...]:
    return tuple(
        exact(
            f"pairs of solutions {d} apart, mean over all {2 ** (n * p)} pattern sets, N = {n}, P = {p}",
            _pairs(n, p, d, law=False), _pairs(n, p, d, law=True),
        )
        for n, p, d in ((5, 2, 1), (5, 2, 2), (7, 2, 1))
    )  # fmt: skip


def _both_kinds(level: Level) -> list[Measurement]:
    """All 2^N weights ±1 are enumerated on random patterns: 900 sets of 10 for 15 weights, 300 sets of 11 for 17. Sets
    are counted that have a solution alone within two flips and another with five or more others there; a count of 20
    or so is expected, and one is enough. That pairs are counted rightly is shown where every pattern set can be
    enumerated too: their mean number is 2^N C(N, d) p_d^P, p_d the chance that a pattern suits both of a pair.
    """
    found = []
    for weights, patterns, sets in _POOLS:
        count, _ = _pool(level, weights, patterns, sets)
        what = f"of {sets} pattern sets those with both kinds, N = {weights}, P = {patterns}"
        found.append(Measurement(what, count, 1.0, 0.0, "one is enough", relation=">=", false_alarm=1e-6))
    return [*found, *_pair_measurements()]


def _low_load(level: Level) -> list[Measurement]:
    """The same with few patterns to learn: among the many solutions of 4 patterns none is isolated."""
    found = []
    for weights in (13, 15):
        count, _ = _pool(level, weights, 4, 20)
        what = f"of 20 pattern sets those with both kinds, N = {weights}, P = 4"
        found.append(Measurement(what, count, 1.0, 0.0, "one is enough", relation=">="))
    return found


@styled
def _profile_figure(level: Level) -> "Figure":
    figure = new_figure(7.8, 3.5)
    left, right = figure.subplots(1, 2)
    weights, patterns, sets = _POOLS[1]
    tasks, *kinds = _pool(level, weights, patterns, sets)[1]
    solutions, every = _solutions(tasks), _configurations(weights)
    errors = (every @ tasks.T <= 0).mean(1)
    radii = np.arange(weights + 1)
    for one, label in zip(kinds, ("isolated solution", "dense solution")):
        away = _distances(solutions, one[None])[:, 0]
        left.step(radii, [(away <= d).sum() for d in radii], where="mid", label=label)
        away = _distances(every, one[None])[:, 0]
        right.plot(radii, [errors[away == d].mean() for d in radii], "o-", ms=3.5, label=label)
    left.set(yscale="log", ylabel="solutions within that distance", xlim=(-0.5, 9.5), xlabel="weights flipped")
    right.set(ylabel="mean training error", xlim=(-0.5, 9.5), ylim=(0, 0.55), xlabel="weights flipped")
    left.set_title(f"{len(solutions)} solutions, N = {weights}, P = {patterns}")
    right.set_title("the error is 0 at both")
    left.legend(loc="lower right")
    return figure


DENSE_AND_ISOLATED = Claim(
    name="isolated_and_dense_solutions",
    statement="Isolated solutions of a binary perceptron and dense clusters of solutions exist side by side.",
    formula=r"\exists\,W,W':\; E(W)=E(W')=0,\quad n_2(W)=0\ll n_2(W')",
    source="Baldassi et al. (2015)",
    hypotheses=("enough patterns: with few, no solution is isolated",),
    as_stated="holds",
    holds="as stated, on some of the pattern sets already at 15 to 17 weights",
    check=_both_kinds,
    twin=_low_load,
    figure=_profile_figure,
)


def _smoothed(tasks: np.ndarray, one: np.ndarray, ratio: float) -> float:
    """The local entropy of `one` by N passes over all 2^N weights: each adds the other value of one weight."""
    solved = (_configurations(len(one)) @ tasks.T > 0).all(1).astype(float).reshape((2,) * len(one))
    for axis in range(len(one)):
        solved = solved + ratio * np.flip(solved, axis)
    number = int(((one < 0) * 2 ** np.arange(len(one))).sum())
    return float(np.log(solved.reshape(-1)[number]))


def _stays_solved(level: Level, tasks: np.ndarray, one: np.ndarray, key: int) -> np.ndarray:
    """Whether `one` still makes no error after each weight was flipped with probability p: random trials."""
    random = np.random.default_rng(seed_of(level, 41, len(one), key))
    found = []
    for _ in range(level.count(1)):
        flipped = np.where(random.random((200_000, len(one)), np.float32) < _FLIP, -one, one)
        found.append((flipped @ tasks.T > 0).all(1))
    return np.concatenate(found).astype(float)


def _told_apart(level: Level, by_error: bool) -> list[Measurement]:
    """Local entropies and survival of a dense and an isolated solution of one task; `by_error` predicts from f = 0."""
    ratio, found = _FLIP / (1 - _FLIP), []
    for weights, patterns, sets in _POOLS:
        tasks, *kinds = _pool(level, weights, patterns, sets)[1]
        solutions = _solutions(tasks)
        entropies = _local_entropy(np.array(kinds), solutions, ratio)
        for k, (kind, one) in enumerate(zip(("isolated", "dense"), kinds)):
            if by_error and not k:
                continue
            predicted = entropies[0] if by_error else entropies[k]
            what = f"local entropy of the {kind} solution, passes over all weights, N = {weights}"
            found.append(exact(what, _smoothed(tasks, one, ratio), predicted))
            what = f"P(no error after flips with p = {_FLIP:g}), the {kind} solution, N = {weights}"
            survival = np.exp(predicted) * (1 - _FLIP) ** weights
            found.append(sampled(what, _stays_solved(level, tasks, one, k), survival))
    return found


def _entropy_tells(level: Level) -> list[Measurement]:
    """A dense and an isolated solution of one task, each of training error 0. Their local entropies log Σ e^{−γd} over
    all solutions, d the number of different weights, are found from the list of solutions, and again by N passes over
    all 2^N weights. What they mean: with e^{−γ} = p/(1 − p), (1 − p)^N e^{local entropy} is the probability that a
    solution is still one after each weight flipped with probability p, here tried at random 200000 times.
    """
    return _told_apart(level, by_error=False)


def _error_tells(level: Level) -> list[Measurement]:
    """The training error, which is 0 for both, in the place of the local entropy: the dense solution is predicted to
    have what the isolated one has.
    """
    return _told_apart(level, by_error=True)


LOCAL_ENTROPY_TELLS = Claim(
    name="local_entropy_tells_wide_minima",
    statement="The local entropy tells wide minima from isolated ones; the training error does not.",
    formula=r"S_\gamma(W)=\log\sum_{W':\,E(W')=0}e^{-\gamma\,d(W,W')}",
    source="Baldassi et al. (2015); Baldassi et al. (2016)",
    as_stated="holds",
    holds="as stated: it is, but for a constant, the log of the probability to remain a solution under random flips",
    check=_entropy_tells,
    twin=_error_tells,
)


def _test_errors(weights: int) -> np.ndarray:
    """The share of all ±1 inputs on which two vectors that differ in d weights disagree, for d = 0, …, N."""
    every = _configurations(weights)
    answers = every @ every[2 ** np.arange(weights + 1) - 1].T > 0
    return (answers != answers[:, :1]).mean(0)


@cache
def _students(level: Level, weights: int, patterns: int) -> np.ndarray:
    """Test errors of solutions of a teacher's patterns, (teacher, 4): of the one with the largest local entropy, and
    the same predicted without the teacher; the mean over all solutions; of the one with the smallest local entropy.
    """
    random = np.random.default_rng(seed_of(level, 42, weights))
    errors, ratio, found = _test_errors(weights), _FLIP / (1 - _FLIP), []
    for _ in range(min(level.count(4000), 60_000)):
        teacher = _configurations(weights)[random.integers(2**weights)]
        tasks = _patterns(random, patterns, weights)
        solutions = _solutions(tasks * np.sign(tasks @ teacher)[:, None])
        between = _distances(solutions, solutions)
        entropy = (ratio**between).sum(1)
        true = errors[_distances(solutions, teacher[None])[:, 0]]
        dense, lonely = entropy.argmax(), entropy.argmin()
        found.append((true[dense], errors[between[dense]].mean(), true.mean(), true[lonely]))
    return np.array(found)


_CLASSES = ((9, 5), (11, 6))  # weights, patterns


def _generalises(level: Level, which: int) -> list[Measurement]:
    """Test error of the solution in column `which`, over the mean of all solutions and over its prediction."""
    found = []
    for weights, patterns in _CLASSES:
        students = _students(level, weights, patterns)
        for other, what in ((2, "mean over solutions"), (1, "prediction from distances")):
            label = f"test error of the {'dense' if which == 0 else 'isolated'} solution/{what}, N = {weights}"
            one = ratio_of_means(label, students[:, which], students[:, other])
            found.append(one if other == 1 else replace(one, tolerance=0.0, reason="none granted", relation="<="))
    return found


def _dense_generalises(level: Level) -> list[Measurement]:
    """A random teacher labels random patterns, all solutions are enumerated, and each one's test error over all inputs
    is known from its distance to the teacher. Since the teacher is equally likely to be any of the solutions, the test
    error of the one with the largest local entropy is predicted, without the teacher, as the mean over the solutions of
    the disagreement at their distance; and it is below the mean over all solutions. 4000 teachers, and at the full
    level 60000, four times smaller errors: every teacher takes an enumeration of all weights.
    """
    return _generalises(level, 0)


def _lonely_generalises(level: Level) -> list[Measurement]:
    """The solution with the smallest local entropy in its place: worse than the mean, and than that prediction."""
    return _generalises(level, 3)


DENSE_GENERALISE = Claim(
    name="dense_solutions_generalise",
    statement="Solutions in dense regions generalise better than others of the same training error.",
    formula=r"E\,\varepsilon(W_{\mathrm{dense}})<E\,\varepsilon(W),\quad E(W_{\mathrm{dense}})=E(W)=0",
    source="Baldassi et al. (2015); Baldassi et al. (2016)",
    hypotheses=("the labels are those of a teacher of the same kind, all teachers equally likely",),
    as_stated="holds",
    holds="as stated: the nearer a solution is to the other solutions, the nearer it is to where the teacher can be",
    check=_dense_generalises,
    twin=_lonely_generalises,
)
