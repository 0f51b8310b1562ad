"""Information in bits: exact, where it is known, and what estimators make of samples, each with its cap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist

from sde_sgd import _checks, _memory

NORMAL = 1.959963984540054  # 97.5 %


class Bracket(NamedTuple):
    """Between `low` and `high` bits, and the `cap` that no value of this estimator exceeds."""

    low: float
    high: float
    cap: float

    @property
    def middle(self) -> float:
        """(low + high)/2."""
        return (self.low + self.high) / 2


@dataclass(frozen=True)
class PlanePoint:
    """A point of the information plane: I(X;T) and I(Y;T) of n samples, by a named estimator; bits."""

    estimator: str
    inputs: Bracket
    labels: Bracket


def mutual_information(joint: ArrayLike) -> float:
    """I(X;Y) = Σ p(x,y) log₂ p(x,y)/(p(x)p(y)), exact, of a table of probabilities; bits.

    ValueError for a negative entry or a sum that is not 1 within 1e-9. Of counts of samples it is the plug-in
    estimate, which `plug_in_information` gives with its bias.
    """
    p = _checks.finite_array("joint", joint)
    if p.ndim != 2 or (p < 0).any() or abs(p.sum() - 1) > 1e-9:
        raise ValueError(f"joint must be a table of probabilities that add up to 1, got {p.shape} with sum {p.sum():g}")
    ratio = np.divide(p, p.sum(1, keepdims=True) * p.sum(0), out=np.ones_like(p), where=p > 0)
    return float((p * np.log2(ratio)).sum())


def gaussian_information(covariance: ArrayLike, noise: float) -> float:
    """I(X; X + σZ) = ½ log₂ det(1 + S/σ²), exact, of X ~ N(·, S) (d, d), or a variance, and σ = `noise`; bits.

    ValueError for σ = 0, where it is infinite, and for S that is no covariance. Shannon (1948).
    """
    s = _checks.finite_array("covariance", covariance)
    s = s.reshape(1, 1) if s.ndim == 0 else s
    _checks.semidefinite("covariance", s)
    sigma = _checks.positive("noise", noise, "without noise the information is infinite")
    return float(np.linalg.slogdet(np.eye(len(s)) + s / sigma**2)[1] / np.log(4))


def plug_in_information(x: ArrayLike, y: ArrayLike, correction: str = "none") -> float:
    """Î(X;Y) = Ĥ(X) + Ĥ(Y) − Ĥ(X,Y) of the frequencies of n pairs of symbols; bits.

    Its mean exceeds the truth by (K_xy − K_x − K_y + 1)/(2n ln 2) to leading order, K the numbers of symbols that can
    occur; correction="miller-madow" takes that off for the K that do occur (Miller 1955), which is too little where
    many symbols were never seen. Uncorrected it is at most log₂ n; the correction is not held to that, and adds to it
    where symbols hardly repeat. ValueError for arrays of different length.
    """
    _checks.choice("correction", correction, ["none", "miller-madow"])
    (one, kinds_x), (two, kinds_y) = _codes("x", x), _codes("y", y)
    if len(one) != len(two):
        raise ValueError(f"x and y must be pairs, got {len(one)} and {len(two)}")
    counts = np.unique(one * kinds_y + two, return_counts=True)[1]
    found = _entropy(np.bincount(one)) + _entropy(np.bincount(two)) - _entropy(counts)
    if correction == "miller-madow":
        found -= (len(counts) - kinds_x - kinds_y + 1) / (2 * len(one) * np.log(2))
    return found


def binned_information(
    hidden: ArrayLike, labels: ArrayLike, *, bins: int = 30, bounds: tuple[float, float] | None = None
) -> PlanePoint:
    """I(X;T) = H(T) and I(Y;T) = H(T) − H(T|Y) of T, the activations in `bins` equal bins for each unit; plug-in.

    T follows from X, so that all information on X is the entropy of T over the n samples, each taken as likely: at
    most log₂ n, which wide or finely binned layers reach whatever they do. I(Y;T) is at most H(Y), and H(Y) as soon as
    every sample is alone in its bin. The bin width is a choice: no information of the network.

    hidden : (n, units).   labels : (n,) of whole numbers.
    bounds : of the bins, as (−1, 1) for tanh; values beyond are in the outer ones. None: least and largest value here,
        bins that grow with the activations.

    Tishby's group binned so (Shwartz-Ziv & Tishby 2017). To tell the width of bins from the network, compare with
    `kernel_information`, and with activations in units of their own spread.

    ValueError for fewer than two bins, bounds that do not increase, labels of other samples.
    """
    values, (codes, kinds) = _samples(hidden, labels)
    bins = _checks.whole("bins", bins, 2)
    low, high = (values.min(), values.max()) if bounds is None else _checks.sequence("bounds", bounds, 2, "numbers")
    if not (low < high or (bounds is None and low == high)):
        raise ValueError(f"bounds must increase, got ({low}, {high})")
    width = (high - low) / bins or 1.0
    places = np.clip(np.floor((values - low) / width), 0, bins - 1).astype(np.int64)
    symbols = np.unique(places, axis=0, return_inverse=True)[1].reshape(-1)
    whole = _entropy(np.bincount(symbols))
    pairs = _entropy(np.unique(symbols * kinds + codes, return_counts=True)[1])
    of_labels = _entropy(np.bincount(codes))
    cap = min(np.log2(len(values)), values.shape[1] * np.log2(bins))
    known = max(whole + of_labels - pairs, 0.0)
    return PlanePoint(f"{bins} bins", Bracket(whole, whole, cap), Bracket(known, known, min(of_labels, cap)))


def kernel_information(hidden: ArrayLike, labels: ArrayLike, *, noise: float) -> PlanePoint:
    """Bounds on I(X;T) and I(Y;T) of T = h(X) + σZ, Z ~ N(0, 1) in each unit, X one of n samples alike; bits.

        −(1/n)Σᵢ log₂ (1/n)Σⱼ e^{−|hᵢ−hⱼ|²/8σ²}  ≤  I(X;T)  ≤  −(1/n)Σᵢ log₂ (1/n)Σⱼ e^{−|hᵢ−hⱼ|²/2σ²}  ≤  log₂ n,

    and for I(Y;T) = I(X;T) − Σ p(y) I(X;T|Y=y) the bounds that follow, within 0 and H(Y). True bounds for the n
    samples (Kolchinsky & Tracey 2017, by the distances of Bhattacharyya and of Kullback and Leibler). Of the population
    of X they are none: its information may exceed log₂ n, and then neither sees it.

    hidden : (n, units), labels : (n,), noise : σ > 0 in the units of `hidden`, a choice as the width of bins is.
    O(n² units). ValueError for σ ≤ 0, labels of other samples, and pairs beyond the memory.
    """
    values, (codes, kinds) = _samples(hidden, labels)
    sigma = _checks.positive("noise", noise, "without noise every sample is told apart: log₂ n")
    _memory.refuse_beyond(24.0 * len(values) ** 2, f"distances of {len(values)} samples", "take fewer samples")
    squares = cdist(values, values, "sqeuclidean") / (2 * sigma**2)
    low, high = _mixture(squares / 4), _mixture(squares)
    within_low = within_high = 0.0
    for kind in range(kinds):
        rows = np.flatnonzero(codes == kind)
        part, share = squares[np.ix_(rows, rows)], len(rows) / len(values)
        within_low += share * _mixture(part / 4)
        within_high += share * _mixture(part)
    cap = _entropy(np.bincount(codes))
    known = (float(np.clip(low - within_high, 0, cap)), float(np.clip(high - within_low, 0, cap)))
    return PlanePoint(
        f"pairs, σ = {sigma:g}", Bracket(low, high, float(np.log2(len(values)))), Bracket(*known, cap)
    )  # fmt: skip


def sampled_information(
    hidden: ArrayLike, labels: ArrayLike, *, noise: float, draws: int = 4, seed: int = 0
) -> PlanePoint:
    """I(X;T) = E log₂ p(T|X)/p(T) and I(Y;T) = E log₂ p(T|Y)/p(T) of the T of `kernel_information`, by drawing T.

    Unbiased for the n samples; brackets are the mean ± 1.96 standard errors of `draws` ≥ 2 of T for each sample. The
    mean, their middle, never exceeds the cap; the ends may, and may fall below 0. O(draws n² units).

    ValueError for σ ≤ 0, one draw, labels of other samples, and pairs beyond the memory.
    """
    values, (codes, kinds) = _samples(hidden, labels)
    sigma = _checks.positive("noise", noise)
    draws = _checks.whole("draws", draws, 2)
    rng = np.random.default_rng(_checks.whole("seed", seed, 0))
    n = len(values)
    _memory.refuse_beyond(24.0 * n**2, f"distances of {n} samples", "take fewer samples")
    sizes = np.bincount(codes, minlength=kinds)
    of_kind = (codes[:, None] == np.arange(kinds)) / sizes  # (n, kinds)
    found = np.empty((2, draws, n))
    for k in range(draws):
        kick = rng.standard_normal(values.shape)
        exponents = -cdist(values + sigma * kick, values, "sqeuclidean") / (2 * sigma**2)
        top = exponents.max(axis=1)
        weights = np.exp(exponents - top[:, None])
        own = -0.5 * (kick**2).sum(1) - top
        whole, same = weights.mean(1), (weights @ of_kind)[np.arange(n), codes]
        found[0, k] = own - np.log(whole)
        found[1, k] = np.log(same) - np.log(whole)
    found /= np.log(2)
    mean = found.mean(axis=(1, 2))
    half = NORMAL * np.sqrt(found.var(axis=1, ddof=1).sum(axis=1) / draws) / n
    caps = float(np.log2(n)), _entropy(sizes)
    brackets = [Bracket(float(m - h), float(m + h), cap) for m, h, cap in zip(mean, half, caps)]
    return PlanePoint(f"drawn, σ = {sigma:g}", *brackets)


def _mixture(squares: NDArray[np.float64]) -> float:
    """−(1/n)Σᵢ log₂ (1/n)Σⱼ e^{−squares_ij}; the term j = i keeps every logarithm finite."""
    return float(-np.log2(np.exp(-squares).mean(axis=1)).mean()) + 0.0


def _entropy(counts: NDArray) -> float:
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log2(p)).sum()) + 0.0


def _codes(name: str, values: ArrayLike) -> tuple[NDArray[np.int64], int]:
    """Symbols counted from 0, and how many there are."""
    array = np.asarray(values)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"{name} must be a sequence of symbols, at least one, got shape {array.shape}")
    kinds, codes = np.unique(array, return_inverse=True)
    return codes.reshape(-1).astype(np.int64), len(kinds)


def _samples(hidden: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], tuple[NDArray[np.int64], int]]:
    values = _checks.finite_array("hidden", hidden)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"hidden must have shape (samples, units), got {values.shape}")
    codes = _codes("labels", labels)
    if len(codes[0]) != len(values):
        raise ValueError(f"hidden and labels must be of the same samples, got {len(values)} and {len(codes[0])}")
    return values, codes
