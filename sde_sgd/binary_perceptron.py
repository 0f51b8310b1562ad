"""A binary perceptron of so few weights that every choice of them is enumerated: its solutions and how they lie."""

from functools import cached_property
from math import comb

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _checks, _memory

_MOST_WEIGHTS = 24
_AT_ONCE = 1 << 20  # fields, of some patterns on all choices


class BinaryPerceptron:
    r"""Weights W ∈ {−1, 1}^N that must answer y_k = sign(ξ_k·W) on P patterns ξ_k ∈ {−1, 1}^N; all 2^N are tried.

    Errors E(W) = #{k : y_k ξ_k·W ≤ 0} (a field of 0, which only an even N allows, is an error); solutions have none.
    Local entropy S_γ(W) = log Σ_{W' : E(W') = 0} e^{−γ d(W, W')}, d the number of weights that differ: exact, from the
    list of solutions. With e^{−γ} = p/(1 − p) the chance that no error is made after each weight was flipped with the
    probability p is (1 − p)^N e^{S_γ(W)}.

    Parameters
    ----------
    patterns : (P, N) of ±1, N ≤ 24. labels : (P,) of ±1, default all 1.

    Raises ValueError for other entries, for more weights, and where 2^N does not fit in memory. Braunstein & Zecchina
    (2006); Baldassi, Ingrosso, Lucibello, Saglietti & Zecchina (2015), where isolated and dense solutions come from.
    Not for N in the hundreds, where those papers speak of limits: nothing there can be enumerated.

    >>> task = BinaryPerceptron([[1, 1, -1], [1, -1, 1]])
    >>> task.solutions.tolist()
    [[1, 1, 1], [1, -1, -1]]
    >>> bool(np.isclose(task.local_entropy([1, 1, 1], 1.0), np.log(1 + np.exp(-2))))
    True
    """

    def __init__(self, patterns: ArrayLike, labels: ArrayLike | None = None):
        found = _checks.finite_array("patterns", patterns)
        if found.ndim != 2 or not len(found) or not found.shape[1]:
            raise ValueError(f"patterns must have shape (P, N), at least one of each, got {found.shape}")
        _checks.whole("the number of weights", found.shape[1], 1, _MOST_WEIGHTS, "all 2^N choices are enumerated")
        self.patterns = _signs("patterns", found)
        ones = np.ones(len(found))
        self.labels = _signs("labels", ones if labels is None else _checks.finite_array("labels", labels, ones.shape))
        _memory.refuse_beyond(32.0 * 2**self.weights, f"all 2^{self.weights} weights", "take fewer weights")
        for array in (self.patterns, self.labels):
            array.flags.writeable = False

    @classmethod
    def random(
        cls, weights: int, patterns: int, *, teacher: ArrayLike | None = None, seed: int = 0
    ) -> "BinaryPerceptron":
        """Patterns drawn evenly; their labels too, or those that the weights `teacher` (N,) give (then N is odd)."""
        weights = _checks.whole("weights", weights, 1, _MOST_WEIGHTS)
        patterns = _checks.whole("patterns", patterns, 1)
        random = np.random.default_rng(_checks.whole("seed", seed, 0))
        drawn = 1 - 2 * random.integers(0, 2, (patterns, weights))
        if teacher is None:
            return cls(drawn, 1 - 2 * random.integers(0, 2, patterns))
        if weights % 2 == 0:
            raise ValueError(f"a teacher of {weights} weights has no answer where its field is 0: take an odd number")
        return cls(drawn, np.sign(drawn @ _signs("teacher", _checks.finite_array("teacher", teacher, (weights,)))))

    @property
    def weights(self) -> int:
        """N."""
        return self.patterns.shape[1]

    # -- enumeration -----------------------------------------------------------------------------------------------

    @cached_property
    def error_counts(self) -> NDArray[np.int16]:
        """E of every choice of the weights, (2^N,); bit i of the place is set where weight i is −1."""
        counts = np.zeros(2**self.weights, np.int16)
        signed, some = self.labels[:, None] * self.patterns, max(1, _AT_ONCE >> self.weights)
        for k in range(0, len(signed), some):
            fields = np.zeros((len(signed[k : k + some]), 1), np.int8)
            for entry in signed[k : k + some].T[:, :, None]:  # the next weight is the next higher bit
                fields = np.concatenate([fields + entry, fields - entry], axis=1)
            counts += (fields <= 0).sum(0, dtype=np.int16)
        return counts

    @cached_property
    def solutions(self) -> NDArray[np.int8]:
        """Every W without an error, (number, N), in the order of `error_counts`."""
        return self.choices(np.flatnonzero(self.error_counts == 0))

    def choices(self, places: ArrayLike) -> NDArray[np.int8]:
        """The weights at places of `error_counts`: (...) → (..., N)."""
        bits = np.asarray(places)[..., None] >> np.arange(self.weights)
        return (1 - 2 * (bits & 1)).astype(np.int8)

    def places(self, weights: ArrayLike) -> NDArray[np.int64]:
        """The places of weights in `error_counts`: (..., N) → (...)."""
        return ((self._checked(weights) < 0) * 2 ** np.arange(self.weights)).sum(-1)

    def errors(self, weights: ArrayLike) -> NDArray[np.int64]:
        """E(W): (..., N) → (...)."""
        return ((self._checked(weights) @ (self.labels[:, None] * self.patterns).T.astype(int)) <= 0).sum(-1)

    # -- how solutions lie ------------------------------------------------------------------------------------------

    def profile(self, weights: ArrayLike) -> NDArray[np.int64]:
        """Numbers of solutions at every distance 0, …, N from W: (..., N) → (..., N + 1)."""
        some = self._checked(weights)
        rows = some.reshape(-1, self.weights).astype(np.float32)  # whose products are exact, and fast
        _memory.refuse_beyond(
            20.0 * len(rows) * len(self.solutions), "distances to every solution", "ask for fewer weights at once"
        )
        away = ((self.weights - rows @ self.solutions.T.astype(np.float32)) / 2).astype(np.int64)
        keys = away + (self.weights + 1) * np.arange(len(rows))[:, None]
        counts = np.bincount(keys.ravel(), minlength=len(rows) * (self.weights + 1))
        return counts.reshape(*some.shape[:-1], self.weights + 1)

    def neighbours(self, radius: int) -> NDArray[np.int64]:
        """Of every solution the number of others within `radius` flips, (number,); 0 is isolated."""
        radius = _checks.whole("radius", radius, 1, self.weights)
        return self.profile(self.solutions)[:, : radius + 1].sum(-1) - 1

    def local_entropy(self, weights: ArrayLike, gamma: float) -> NDArray[np.float64]:
        """S_γ(W) = log Σ e^{−γd} over all solutions: (..., N) → (...); −∞ where there is no solution."""
        gamma = _checks.positive("gamma", gamma, "it is the cost of a flip")
        with np.errstate(divide="ignore"):
            return np.log(self.profile(weights) @ np.exp(-gamma * np.arange(self.weights + 1)))

    def local_entropies(self, gamma: float, beta: float | None = None) -> NDArray[np.float64]:
        """log Σ_{W'} e^{−βE(W') − γd(W, W')} of all 2^N choices W, in the order of `error_counts`, by N passes.

        `beta` = None is β = ∞: solutions alone count, and this is S_γ. For a finite β every choice counts.
        """
        gamma = _checks.positive("gamma", gamma, "it is the cost of a flip")
        if beta is None:
            weight = (self.error_counts == 0).astype(np.float64)
        else:
            weight = np.exp(-_checks.positive("beta", beta) * self.error_counts)
        for bit in range(self.weights):  # each pass adds the other value of one weight
            pairs = weight.reshape(-1, 2, 2**bit)
            weight = (pairs + np.exp(-gamma) * pairs[:, ::-1]).reshape(-1)
        with np.errstate(divide="ignore"):
            return np.log(weight)

    def survival(self, weights: ArrayLike, flip: float) -> NDArray[np.float64]:
        """P(no error after each weight was flipped with probability `flip` < 1): (..., N) → (...)."""
        flip = _checks.positive("flip", flip)
        if flip >= 1:
            raise ValueError(f"flip must be a probability below 1, got {flip:g}")
        d = np.arange(self.weights + 1, dtype=np.float64)
        return self.profile(weights) @ (flip**d * (1 - flip) ** (self.weights - d))

    @staticmethod
    def disagreement(weights: int) -> NDArray[np.float64]:
        """The share of all inputs ±1 on which two W of odd N that differ in d weights disagree, for d = 0, …, N.

        They disagree where |sum over the d| > |sum over the others|: the test error of a solution d from its teacher.
        """
        weights = _checks.whole("weights", weights, 1, 1000)
        if weights % 2 == 0:
            raise ValueError(f"two perceptrons of {weights} weights have no answer where a field is 0: odd N only")
        shares = []
        for d in range(weights + 1):
            there = np.array([comb(d, k) / 2**d for k in range(d + 1)])
            here = np.array([comb(weights - d, k) / 2 ** (weights - d) for k in range(weights - d + 1)])
            far = np.abs(2 * np.arange(d + 1) - d)[:, None] > np.abs(2 * np.arange(weights - d + 1) - (weights - d))
            shares.append(there @ far @ here)
        return np.array(shares)

    def _checked(self, weights: ArrayLike) -> NDArray[np.int8]:
        found = _checks.finite_array("weights", weights)
        if found.ndim == 0 or found.shape[-1] != self.weights:
            raise ValueError(f"weights must have shape (..., {self.weights}), got {found.shape}")
        return _signs("weights", found)

    def __repr__(self) -> str:
        return f"<BinaryPerceptron of {self.weights} weights and {len(self.patterns)} patterns>"


def _signs(name: str, array: NDArray) -> NDArray[np.int8]:
    if not (np.abs(array) == 1).all():
        raise ValueError(f"{name} must hold -1 and 1 only, got {array[np.abs(array) != 1].flat[0]:g}")
    return array.astype(np.int8)
