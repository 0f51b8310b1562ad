"""Ensembles of networks as functions: distributions of predicted labels, their distance and its null, times to mix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sde_sgd import _checks


class Permuted(NamedTuple):
    """A distance between ensembles beside those after random exchanges of their members."""

    distance: float
    null_mean: float
    null_high: float  # 95 % of the exchanges lie below
    p_value: float


def label_shares(labels: ArrayLike, classes: int) -> NDArray[np.float64]:
    """(point, class): the share of the replicas of `labels` (replica, point) that predict each class."""
    return _one_hot(labels, classes).mean(axis=0)


def label_distance(one: ArrayLike, other: ArrayLike, classes: int) -> float:
    """ℓ₁ = mean over points of Σ_c |p_c − q_c|, from 0 to 2: twice the total variation between predicted labels.

    Shares of finitely many replicas are apart by chance, E|p̂ − q̂| ≈ √(4p(1 − p)/(πn)) for n replicas in each: the
    distance is never 0. `permutation_test` tells what chance makes, `squared_distance` is a number without it.
    """
    return float(np.abs(label_shares(one, classes) - label_shares(other, classes)).sum(axis=1).mean())


def squared_distance(one: ArrayLike, other: ArrayLike, classes: int) -> float:
    """Mean over points of Σ_c (p_c − q_c)², without the bias of finite ensembles: its mean is 0 where p = q.

    Σ_c (p̂ − q̂)² − p̂(1 − p̂)/(n − 1) − q̂(1 − q̂)/(m − 1): the U-statistic, which can be negative.
    """
    p, q = label_shares(one, classes), label_shares(other, classes)
    n, m = len(np.asarray(one)), len(np.asarray(other))
    if min(n, m) < 2:
        raise ValueError(f"ensembles of {n} and {m}: two replicas each are the least that tell their own scatter")
    return float(((p - q) ** 2 - p * (1 - p) / (n - 1) - q * (1 - q) / (m - 1)).sum(axis=1).mean())


def permutation_test(
    ensembles: Sequence[ArrayLike], classes: int, *, permutations: int = 199, seed: int = 0
) -> Permuted:
    """The mean ℓ₁ distance over pairs of ensembles (replica, point), beside exchanges of replicas between them.

    If all replicas are independent draws from one law, P(p ≤ α) ≤ α for every law, p = (1 + #{null ≥ seen})/(1 + P),
    with equality where (1 + P)α is whole and there are no ties. Replicas, not points, are exchanged: the points of
    one network hang together. ValueError for fewer than two ensembles or two replicas each, or other points.

    Not for replicas that are not independent, as states of one trajectory.
    """
    hot = [_one_hot(labels, classes) for labels in ensembles]
    if len(hot) < 2 or min(map(len, hot)) < 2 or len({h.shape[1:] for h in hot}) > 1:
        raise ValueError(
            f"at least two ensembles of at least two replicas at the same points, got {[h.shape[:2] for h in hot]}"
        )
    permutations = _checks.whole("permutations", permutations, 19)
    sizes, points = [len(h) for h in hot], hot[0].shape[1]
    table = np.concatenate(hot).reshape(sum(sizes), -1).astype(np.float32)
    group = np.repeat(np.arange(len(sizes)), sizes)
    stream = np.random.default_rng([seed, 0x9E37])
    orders = np.stack([group, *(stream.permutation(group) for _ in range(permutations))])
    shares = [(orders == k).astype(np.float32) @ table / n for k, n in enumerate(sizes)]
    pairs = [(a, b) for a in range(len(sizes)) for b in range(a)]
    found = np.mean([np.abs(shares[a] - shares[b]).sum(axis=1, dtype=float) for a, b in pairs], axis=0) / points
    seen, null = found[0], found[1:]
    p_value = (1 + int((null >= seen * (1 - 1e-6)).sum())) / (1 + permutations)
    return Permuted(float(seen), float(null.mean()), float(np.quantile(null, 0.95)), p_value)


def disagreement(labels: ArrayLike) -> float:
    """The share of points at which two different replicas of `labels` (replica, point) predict different classes."""
    labels = np.asarray(labels)
    if len(labels) < 2:
        raise ValueError("one replica cannot disagree with another: give at least two")
    shares = label_shares(labels, int(labels.max()) + 1)
    return float((1 - (shares**2).sum(axis=1)).mean() * len(labels) / (len(labels) - 1))


def independent_disagreement(error: float) -> float:
    """2e(1 − e): two networks that err independently of each other and of the point, never both in different ways."""
    return 2 * error * (1 - error)


def fall_time(steps: ArrayLike, distance: ArrayLike, share: float = np.exp(-1)) -> float:
    """The first time at which `distance` is down to `share` of its first value, linear in its logarithm; NaN if never.

    The first time itself for a `share` ≥ 1. ValueError where the first value is not positive: nothing could fall.
    """
    times, values = _checks.finite_array("steps", steps), _checks.finite_array("distance", distance)
    if values[0] <= 0:
        raise ValueError(f"the distance starts at {values[0]:.3g}: the ensembles do not differ to begin with")
    below = np.flatnonzero(values <= share * values[0])
    if not len(below):
        return float("nan")
    k = int(below[0])
    if k == 0:
        return float(times[0])
    high, low = np.log(values[k - 1] / values[0]), np.log(max(values[k], 1e-12) / values[0])
    return float(times[k - 1] + (times[k] - times[k - 1]) * min(1.0, (np.log(share) - high) / (low - high)))


def integral_time(steps: ArrayLike, distance: ArrayLike) -> float:
    """∫ distance dt / its first value, by trapezoids: T of a distance that falls as e^{−t/T}, with no level to choose.

    Chance that makes the distance cross a level early or late averages out here. What is left at the last step is not
    counted, and a distance that stays away from 0 gives a time that grows with the steps. ValueError where the first
    value is not positive.
    """
    times, values = _checks.finite_array("steps", steps), _checks.finite_array("distance", distance)
    if values[0] <= 0:
        raise ValueError(f"the distance starts at {values[0]:.3g}: the ensembles do not differ to begin with")
    return float(np.trapezoid(values, times) / values[0])


def exponent(x: ArrayLike, y: ArrayLike) -> float:
    """The slope of log y against log x by least squares; ValueError for fewer than two points or values ≤ 0."""
    x, y = _checks.finite_array("x", x), _checks.finite_array("y", y)
    if len(x) < 2 or min(x.min(), y.min()) <= 0:
        raise ValueError("a power law needs at least two points, all of them positive")
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def _one_hot(labels: ArrayLike, classes: int) -> NDArray[np.bool_]:
    labels = np.asarray(labels)
    if labels.ndim != 2 or not labels.size:
        raise ValueError(f"labels must be (replica, point), got shape {labels.shape}")
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"labels run from {labels.min()} to {labels.max()}, and there are {classes} classes")
    return labels[..., None] == np.arange(classes)
