"""How many independent samples a correlated series is worth."""

import numpy as np
import scipy.fft

from sde_sgd import _checks
from sde_sgd.errors import TooFewSamples

_FEWEST = 8


def effective_sample_size(series, axis: int = -1) -> np.ndarray:
    r"""n/τ, τ = 1 + 2 Σ_k ρ_k, so that the mean of the series has the variance Var(x)·τ/n.

    ρ_k are the autocorrelations, summed by Geyer's initial positive sequence: the sums Γ_m = ρ_{2m} + ρ_{2m+1} of
    neighbours, up to the first that is not positive. For x' = φx + noise, τ = (1 + φ)/(1 − φ); a series that
    alternates, φ < 0, is worth more than n samples.

    series : saved states, time along `axis`; the other axes are kept. Returns float64 without `axis`; 1 for a constant
    series, which shows no second sample.
    Raises `TooFewSamples` for fewer than 8 values; ValueError for NaN.

    Γ_m > 0 is a theorem for reversible processes only: with rotation the correlations swing below zero by right, and
    the sum stops there. Not for series shorter than about 50 τ, nor before the process is stationary, nor for many
    short paths: `Moments` compares independent paths and assumes nothing. Geyer (1992), §3.3.
    """
    x = np.atleast_1d(_checks.finite_array("series", series))
    axis = _checks.whole("axis", axis, -x.ndim, x.ndim - 1, f"series has shape {x.shape}")
    x = np.moveaxis(x, axis, -1)
    n = x.shape[-1]
    if n < _FEWEST:
        raise TooFewSamples(f"a series of {n} values shows no correlation; at least {_FEWEST} are needed")
    moving = np.ptp(x, axis=-1) > 0
    x = x - x.mean(axis=-1, keepdims=True)
    length = scipy.fft.next_fast_len(2 * n, real=True)
    power = np.abs(scipy.fft.rfft(x, length)) ** 2
    covariance = scipy.fft.irfft(power, length)[..., :n]  # Σ_t x_t x_{t+k}, over n for every k: never larger than at 0
    variance = covariance[..., :1]
    correlation = covariance / np.where(variance > 0, variance, 1.0)
    pairs = correlation[..., : n - n % 2].reshape(*x.shape[:-1], -1, 2).sum(-1)
    positive = np.logical_and.accumulate(pairs > 0, axis=-1)
    tau = 2 * np.where(positive, pairs, 0.0).sum(-1) - 1
    # ρ_1 → −1 makes τ → 0: a series of n values is never worth more than n²/2 of them
    return np.where(moving, n / np.maximum(tau, 2 / n), 1.0)
