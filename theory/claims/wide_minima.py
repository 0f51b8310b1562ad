"""Claims about wide minima, on binary perceptrons of so few weights that every choice of them is enumerated."""

import itertools
import math
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

import sde_sgd as sde
from sde_sgd.figures._style import new_figure, styled
from sde_sgd.theory.claim import Claim, Level, Measurement, exact, sampled
from sde_sgd.theory.claims._batches import ratio_of_means, seed_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FLIP = 0.1  # the probability with which each weight is flipped
_GAMMA = math.log((1 - _FLIP) / _FLIP)  # e^{−γ} = p/(1 − p)
_POOLS = ((15, 10, 900), (17, 11, 300))  # weights, patterns, pattern sets


def _patterns(random: np.random.Generator, patterns: int, weights: int) -> np.ndarray:
    """ξ_k times its label: W solves the task where ξ_k·W > 0 for every k."""
    return random.choice(np.array([-1, 1], np.float32), (patterns, weights))


@cache
def _pool(level: Level, weights: int, patterns: int, sets: int) -> tuple[int, tuple]:
    """Pattern sets with a solution that has no other within two flips beside one that has five or more; and of these
    sets the task, an isolated and the densest solution between which the local entropy differs most.
    """
    random, count = np.random.default_rng(seed_of(level, 40, weights, patterns)), 0
    best: tuple = (0.0,)  # difference, task, isolated, dense
    for _ in range(sets):
        task = sde.BinaryPerceptron(_patterns(random, patterns, weights))
        solutions = task.solutions
        if len(solutions) < 7:
            continue
        near = task.neighbours(2)
        if near.min() > 0 or near.max() < 5:
            continue
        count += 1
        entropy = task.local_entropy(solutions, _GAMMA)
        lonely, dense = entropy.argmin(), entropy.argmax()
        if entropy[dense] - entropy[lonely] > best[0]:
            best = entropy[dense] - entropy[lonely], task, solutions[lonely], solutions[dense]
    return count, best[1:]


def _pairs(weights: int, patterns: int, distance: int, law: bool) -> float:
    """Ordered pairs of solutions a distance apart, a mean over every set of patterns; or 2^N C(N, d) p_d^P.

    p_d is the probability that a random pattern suits both of two vectors that differ in d weights.
    """
    if law:
        both = (1 - sde.BinaryPerceptron.disagreement(weights)[distance]) / 2  # they agree, on the side asked for
        return 2**weights * math.comb(weights, distance) * both**patterns
    every = np.array(list(itertools.product((1, -1), repeat=weights)))
    fields = every @ every.T > 0  # by symmetry patterns are enumerated as weights are
    apart = np.argwhere((weights - every @ every.T) // 2 == distance)
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
    task, *kinds = _pool(level, weights, patterns, sets)[1]
    errors, every = task.error_counts / patterns, task.choices(np.arange(2**weights))
    radii = np.arange(weights + 1)
    for one, label in zip(kinds, ("isolated solution", "dense solution")):
        left.step(radii, task.profile(one).cumsum(), where="mid", label=label)
        away = (every != one).sum(1)
        right.plot(radii, [errors[away == d].mean() for d in radii], "o-", ms=3.5, label=label)
    left.set(yscale="log", ylabel="solutions within that distance", xlim=(-0.5, 9.5), xlabel="weights flipped")
    right.set(ylabel="mean training error", xlim=(-0.5, 9.5), ylim=(0, 0.55), xlabel="weights flipped")
    left.set_title(f"{len(task.solutions)} solutions, N = {weights}, P = {patterns}")
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


def _stays_solved(level: Level, task: sde.BinaryPerceptron, one: np.ndarray, key: int) -> np.ndarray:
    """Whether `one` still makes no error after each weight was flipped with probability p: random trials."""
    random = np.random.default_rng(seed_of(level, 41, len(one), key))
    found, patterns, one = [], task.patterns.astype(np.float32), one.astype(np.float32)
    for _ in range(level.count(1)):
        flipped = np.where(random.random((200_000, len(one)), np.float32) < _FLIP, -one, one)
        found.append((flipped @ patterns.T > 0).all(1))
    return np.concatenate(found).astype(float)


def _told_apart(level: Level, by_error: bool) -> list[Measurement]:
    """Local entropies and survival of a dense and an isolated solution of one task; `by_error` predicts from f = 0."""
    found = []
    for weights, patterns, sets in _POOLS:
        task, *kinds = _pool(level, weights, patterns, sets)[1]
        entropies, passed = task.local_entropy(np.array(kinds), _GAMMA), task.local_entropies(_GAMMA)
        for k, (kind, one) in enumerate(zip(("isolated", "dense"), kinds)):
            if by_error and not k:
                continue
            predicted = entropies[0] if by_error else entropies[k]
            what = f"local entropy of the {kind} solution, passes over all weights, N = {weights}"
            found.append(exact(what, float(passed[task.places(one)]), predicted))
            what = f"P(no error after flips with p = {_FLIP:g}), the {kind} solution, N = {weights}"
            survival = np.exp(predicted) * (1 - _FLIP) ** weights
            found.append(sampled(what, _stays_solved(level, task, one, k), survival))
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


@cache
def _students(level: Level, weights: int, patterns: int) -> np.ndarray:
    """Test errors of solutions of a teacher's patterns, (teacher, 4): of the one with the largest local entropy, and
    the same predicted without the teacher; the mean over all solutions; of the one with the smallest local entropy.
    """
    random = np.random.default_rng(seed_of(level, 42, weights))
    errors, found = sde.BinaryPerceptron.disagreement(weights), []
    for _ in range(min(level.count(4000), 60_000)):
        teacher = 1 - 2 * (random.integers(2**weights) >> np.arange(weights) & 1)
        drawn = _patterns(random, patterns, weights)
        task = sde.BinaryPerceptron(drawn, np.sign(drawn @ teacher))
        entropy, true = task.local_entropy(task.solutions, _GAMMA), errors[(task.solutions != teacher).sum(1)]
        dense, lonely = entropy.argmax(), entropy.argmin()
        predicted = task.profile(task.solutions[dense]) @ errors / len(task.solutions)
        found.append((true[dense], predicted, true.mean(), true[lonely]))
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
