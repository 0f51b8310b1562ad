"""Whether increments remember more than the state: what momentum and reshuffling leave in the residuals."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.stats

from ._local_linear import LocalLinear
from ._neighbourhoods import Pairs
from ._trajectory import Piece


@dataclass(frozen=True)
class Outcome:
    """A statistic of mean 0 and variance 1 (or a χ² with `freedom`), its p-value, and what it estimates."""

    statistic: float
    probability: float
    freedom: int = 0
    value: float = float("nan")
    error: float = float("nan")


class Memory:
    r"""Scores Σ_s p̃_s·Ω r_s of the residuals r_s = Δ_s − E[Δ | x_s] against what happened before, p_s.

    p_s is the residual before ("lag1"), or the mean residual since the epoch began, by the steps it still has
    ("epoch"). In a Markov chain E[r_s | past] = 0, so that a score is a sum of martingale differences with variance
    Σ (p̃_s·Ω r_s)². p̃_s = p_s − E[p_s | x_s], by the same local fit as the drift: without it the estimated drift would
    take a share of the correlation with it, and the test would be too mild where the state forgets within few steps
    (Durbin 1970, Godfrey 1978). By cells, the lag-1 scores say whether the second moment over two intervals is what
    those over one imply (Chapman–Kolmogorov).
    """

    def __init__(self, smoother: LocalLinear, dim: int, epoch: int, first_step: int):
        self._smoother, self._dim, self._epoch, self._first = smoother, dim, epoch, first_step
        self.names = ("lag1", "epoch") if epoch else ("lag1",)
        places = len(smoother.usable)
        self._sums = smoother.sums(dim * len(self.names))
        self._square = np.zeros((dim, dim))
        self._score = np.zeros((len(self.names), 2))
        self._by_place = np.zeros((2, places))
        self._norm = 0.0

    def _before(self, piece: Piece, residual: np.ndarray) -> np.ndarray:
        """p of every kind, side by side (S, kinds·d)."""
        kinds = [piece.before(residual)]
        if self._epoch:
            kinds.append(piece.epoch_sums(residual, self._epoch, self._first))
        return np.concatenate(kinds, axis=1)

    def gather(self, piece: Piece, pairs: Pairs, residual: np.ndarray) -> None:
        """First pass: what is needed for E[p | x] and Ω. `residual` is 0 where there is no fit."""
        self._smoother.add(self._sums, pairs, self._before(piece, residual))
        self._square += residual.T @ residual

    def score(self, piece: Piece, own: tuple[np.ndarray, np.ndarray], residual: np.ndarray) -> None:
        """Second pass, after `settle`."""
        expected = self._smoother.at(self._fit, own)
        known = self._smoother.known(own)
        weighted = residual @ self._metric
        self._norm += float((weighted * residual).sum())
        before = (self._before(piece, residual) - expected).reshape(len(residual), len(self.names), self._dim)
        products = np.where(known[:, None], np.einsum("skd,sd->sk", before, weighted), 0.0)
        self._score += np.stack([products.sum(0), (products**2).sum(0)], axis=1)
        for k in range(2):
            self._by_place[k] += np.bincount(own[0][known], products[known, 0] ** (k + 1), self._by_place.shape[1])

    def settle(self) -> None:
        """Between the passes: E[p | x] and Ω, the inverse of the residuals' mean square on its range."""
        self._fit = self._smoother.solve(self._sums)
        self._metric = np.linalg.pinv(self._square, rcond=1e-12, hermitian=True) * max(self._square.trace(), 1e-300)

    def outcomes(self) -> dict[str, Outcome]:
        """Each test that could be made."""
        found = {}
        for name, (score, square) in zip(self.names, self._score):
            if square > 0:
                z = score / np.sqrt(square)
                p = float(2 * scipy.stats.norm.sf(abs(z)))
                of_correlation = {"value": score / self._norm, "error": np.sqrt(square) / self._norm}
                found[name] = Outcome(float(z), p, **(of_correlation if name == "lag1" else {}))
        score, square = self._by_place[:, self._by_place[1] > 0]
        if len(score) > 1:
            value = float((score**2 / square).sum())
            found["markov"] = Outcome(value, float(scipy.stats.chi2.sf(value, len(score))), len(score))
        return found


def verdict(outcomes: dict[str, Outcome], level: float) -> str:
    """The outcomes in words; all tests together give a false alarm with probability `level`."""
    if not outcomes:
        return "not tested: no chain has two increments in a row where there is a fit"
    alarms = {name for name, outcome in outcomes.items() if outcome.probability < level / len(outcomes)}
    lag1 = outcomes.get("lag1")
    if not alarms or lag1 is None:
        return f"no memory found at level {level:g} ({', '.join(outcomes)})"
    correlation = f"{lag1.value:.3g} ± {lag1.error:.2g}"
    epoch = outcomes.get("epoch")
    strongest = epoch is None or abs(lag1.statistic) >= abs(epoch.statistic)
    if epoch is not None and "epoch" in alarms and epoch.statistic < 0 and not strongest:
        return (
            "memory: the residuals of an epoch cancel, as reshuffling makes them; drift and diffusion over longer "
            f"times are not these (epoch score {epoch.statistic:.1f}, neighbouring residuals correlate by "
            f"{correlation})"
        )
    if "lag1" in alarms:
        what = (
            "as momentum or an unseen variable makes them; drift and diffusion are not those of an equation of first "
            "order in these variables"
            if lag1.statistic > 0
            else "as reshuffling or errors of measurement make them; drift and diffusion over longer times are not "
            "these"
        )
        return f"memory: neighbouring residuals correlate by {correlation}, {what}"
    what = "the residuals of an epoch add up" if "epoch" in alarms else "in places neighbouring residuals correlate"
    return f"memory: {what} (over all neighbours by {correlation}); the states are no Markov chain"


def agreement(attrs: dict[str, Any], names: tuple[str, ...], level: float) -> str:
    """In words, whether what was expected agrees."""
    off = [name for name in names if attrs[f"{name}_p"] < level / len(names)]
    return f"differs from what was expected: {' and '.join(off)}" if off else f"as expected at level {level:g}"


def memory_attributes(memory: Memory | None, level: float) -> dict[str, Any]:
    """The tests of memory as attributes."""
    outcomes = {} if memory is None else memory.outcomes()
    attrs: dict[str, Any] = {"verdict": verdict(outcomes, level)}
    for name, outcome in outcomes.items():
        attrs[f"{name}_p"] = outcome.probability
        attrs[f"{name}_chi2" if outcome.freedom else f"{name}_z"] = outcome.statistic
        if outcome.freedom:
            attrs[f"{name}_freedom"] = outcome.freedom
        if name == "lag1":
            attrs |= {"lag1_correlation": float(outcome.value), "lag1_correlation_error": float(outcome.error)}
    return attrs
