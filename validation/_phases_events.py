"""When something happens along a run: the signal-to-noise ratio falls through 1, and what it may coincide with."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq

from sde_sgd import _checks


class Crossing(NamedTuple):
    """Steps at which a ratio falls through 1: the first time, the last time, and how often it does.

    0 where it is below 1 from the start and never above, ∞ where it stays, or ends, at 1 or above: `last` is ∞ then.
    """

    first: float
    last: float
    falls: int


def crossing(steps: ArrayLike, ratio: ArrayLike) -> Crossing:
    """Where ln `ratio` falls through 0, on straight lines in the step between records: exact for geometric decay.

    steps : (n,) increasing. ratio : (n,) > 0; ∞ (no noise) counts as above, NaN (no gradient) is left out.
    """
    when, values = _checks.finite_array("steps", steps), np.asarray(ratio, dtype=float)
    if when.ndim != 1 or when.shape != values.shape or not (np.diff(when) > 0).all():
        raise ValueError(
            f"steps must increase and be as many as ratios, got shapes {when.shape} and {np.shape(values)}"
        )
    there = ~np.isnan(values)
    when, values = when[there], values[there]
    if not len(values) or (values < 0).any():
        raise ValueError("ratio must hold numbers >= 0, at least one")
    above = values >= 1
    falls = np.flatnonzero(above[:-1] & ~above[1:])
    if not len(falls):
        return Crossing(*((np.inf, np.inf) if above[-1] else (0.0, 0.0)), 0)
    with np.errstate(divide="ignore"):
        log = np.clip(np.log(values), -700, 700)
    places = when[falls] + (when[falls + 1] - when[falls]) * log[falls] / (log[falls] - log[falls + 1])
    return Crossing(float(places[0]), np.inf if above[-1] else float(places[-1]), len(falls))


def smoothed(values: ArrayLike, width: int) -> NDArray[np.float64]:
    """Geometric means over `width` neighbouring records, odd, fewer at the ends (a width of its own on both sides)."""
    values = np.asarray(values, dtype=float)
    half = _checks.whole("width", width, 1) // 2
    found = np.empty_like(values)
    for k in range(len(values)):
        reach = min(half, k, len(values) - 1 - k)
        found[k] = np.exp(np.mean(np.log(values[k - reach : k + reach + 1])))
    return found


def quadratic_ratio(
    step: float, curvature: ArrayLike, noise: ArrayLike, start: ArrayLike, learning_rate: float, batch_size: int
) -> float:
    """SNR² = E|∇f|²/(tr D/b) after `step` steps of SGD on Σ h_i x_i²/2 with constant D, along eigenvectors of H.

    E|∇f|² = Σ h_i²[(1 − ηh_i)^{2n}(x_i² − S_i) + S_i],  S_i = (η/b)D_ii/(h_i(2 − ηh_i)) the variance at rest;
    `noise` D_ii, mini-batches with replacement. With S = 0 it is the SNR² of gradient descent. ValueError for ηh ≥ 2.
    """
    h, d, x = (_checks.finite_array(name, np.atleast_1d(value)) for name, value in
               (("curvature", curvature), ("noise", noise), ("start", start)))  # fmt: skip
    if not ((h > 0).all() and (learning_rate * h < 2).all()):
        raise ValueError(f"curvatures must be > 0 and below 2/η = {2 / learning_rate:g}, got {h}")
    rest = learning_rate / batch_size * d / (h * (2 - learning_rate * h))
    factor = np.exp(2 * step * np.log(np.abs(1 - learning_rate * h) + 1e-300))
    return float((h**2 * (factor * (x**2 - rest) + rest)).sum() / (d.sum() / batch_size))


def quadratic_crossing(
    curvature: ArrayLike, noise: ArrayLike, start: ArrayLike, learning_rate: float, batch_size: int
) -> float:
    """The step n*, a real number, at which `quadratic_ratio` falls to 1; 0 if it starts below, ∞ if it stays above.

    In one direction n* = ln[(h²x₀² − h²S)/(D/b − h²S)]/(−2 ln|1 − ηh|). At rest SNR² = ηh/(2 − ηh) whatever b.
    For starts beyond what noise reaches, x_i² ≥ S_i in every direction: then the ratio only falls.
    """

    def log_ratio(step: float) -> float:
        return float(np.log(quadratic_ratio(step, curvature, noise, start, learning_rate, batch_size)))

    if log_ratio(0.0) <= 0:
        return 0.0
    end = 1.0
    while log_ratio(end) > 0:
        end *= 2
        if end > 1e12:
            return np.inf
    return float(brentq(log_ratio, 0.0, end, xtol=1e-12, rtol=4 * np.finfo(float).eps))


def falls_to(steps: ArrayLike, values: ArrayLike, share: float) -> float:
    """The first step at which `values` have come down to the last value plus a `share` of the way from the first.

    On straight lines between records; 0 < share < 1. NaN where the last value is not below the first.
    """
    when, y = np.asarray(steps, dtype=float), np.asarray(values, dtype=float)
    if not y[-1] < y[0]:
        return float("nan")
    return passes(when, -y, -(y[-1] + share * (y[0] - y[-1])))


def passes(steps: ArrayLike, values: ArrayLike, level: float) -> float:
    """The first step at which `values` reach `level` from below, on straight lines; NaN if they never do."""
    when, y = np.asarray(steps, dtype=float), np.asarray(values, dtype=float)
    there = np.flatnonzero(y >= level)
    if not len(there):
        return float("nan")
    k = int(there[0])
    if k == 0:
        return float(when[0])
    return float(when[k - 1] + (when[k] - when[k - 1]) * (level - y[k - 1]) / (y[k] - y[k - 1]))


def peak(steps: ArrayLike, values: ArrayLike) -> float:
    """The step of the largest of `values`; NaN where that is the first or the last, which is the end of the record
    and no peak.
    """
    k = int(np.nanargmax(values))
    return float(np.asarray(steps, dtype=float)[k]) if 0 < k < np.size(values) - 1 else float("nan")
