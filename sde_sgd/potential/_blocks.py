"""What correlated samples are worth, and the blocks of them that can be resampled as if they were independent."""

import math
from dataclasses import dataclass

import numpy as np
import scipy.fft

from sde_sgd.errors import TooFewSamples

FEWEST = 20  # blocks: the relative error of a standard error from K blocks is 1/√(2K − 2), 16 % for 20
_MOST = 4096
_AT_ONCE = 2**22  # numbers in one batch of transforms


def correlation_time(series: np.ndarray, lengths: np.ndarray) -> float:
    """τ = 1 + 2 Σ_k (1 − k/n) ρ_k of chains of one process, so that the mean of all has the variance Var·τ/samples.

    Geyer's initial positive sequence, as in `effective_sample_size`, on the autocovariance of all chains about
    their common mean: chains that never leave the place where they began are then worth one sample each, which no
    chain shows by itself. `series` (n,), chain after chain; 0 for a constant.
    """
    longest, chains = int(lengths.max()), len(lengths)
    centred = series - series.mean()
    if not np.ptp(series) > 0:
        return 0.0
    size = scipy.fft.next_fast_len(2 * longest, real=True)
    batch, starts = max(_AT_ONCE // size, 1), np.concatenate([[0], np.cumsum(lengths)])
    power = np.zeros(size // 2 + 1)
    for first in range(0, chains, batch):
        some = lengths[first : first + batch]
        padded = np.zeros((len(some), longest))
        padded[np.arange(longest) < some[:, None]] = centred[starts[first] : starts[first + len(some)]]
        power += (np.abs(scipy.fft.rfft(padded, size, axis=1)) ** 2).sum(axis=0)
    covariance = scipy.fft.irfft(power, size)[: longest + longest % 2]
    pairs = covariance.reshape(-1, 2).sum(axis=1) / covariance[0]
    positive = np.logical_and.accumulate(pairs > 0)
    return float(2 * pairs[positive].sum() - 1)


def slowest(z: np.ndarray, lengths: np.ndarray, period: list[float | None]) -> float:
    """The largest τ, at least 1, of x_i and (x_i − mean)² over the axes; of cos and sin where x_i is an angle."""
    times = [1.0]
    for column, length in zip(z.T, period):
        angle = None if length is None else 2 * np.pi * column / length
        pair = ((column), (column - column.mean()) ** 2) if angle is None else (np.cos(angle), np.sin(angle))
        times += [correlation_time(series, lengths) for series in pair]
    return max(times)


@dataclass(frozen=True)
class Blocks:
    """Consecutive samples in `count` blocks: `label` (n,) says to which a sample belongs; a block is `length` long."""

    label: np.ndarray
    count: int
    length: int

    def weights(self, resamples: int, seed: int) -> np.ndarray:
        """How often each block is drawn, (resamples, count): `count` draws with replacement."""
        draws = np.random.default_rng(seed).multinomial(self.count, np.full(self.count, 1 / self.count), resamples)
        return draws.astype(float)


def blocks(lengths: np.ndarray, tau: float) -> Blocks:
    """Blocks of τ·(n/τ)^⅓ samples, or whole chains where these are shorter; neighbours are joined beyond 4096.

    The variance of a mean over ℓ samples falls short by about τ/(2ℓ), that of its estimate from n/ℓ blocks is
    2ℓ/n: their sum is least at ℓ ∝ n^⅓ (Künsch 1989; Politis & White 2004: 0.72 τ (n/τ)^⅓ for an AR(1), circular).
    """
    total = int(lengths.sum())
    target = max(math.ceil(tau * (total / tau) ** (1 / 3)), 1)
    parts = np.maximum((2 * lengths + target) // (2 * target), 1)  # L/target, rounded
    count = int(parts.sum())
    if count < FEWEST:
        raise TooFewSamples(
            f"{total} samples in {len(lengths)} chains with a correlation time of {tau:.3g} samples are worth "
            f"{total / tau:.3g} independent ones and make {count} blocks; {FEWEST} are needed for an error bar, about "
            f"{FEWEST**1.5:.0f} independent samples or {FEWEST} independent chains: run longer, or more chains"
        )
    within = np.arange(total) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    label = within * np.repeat(parts, lengths) // np.repeat(lengths, lengths)
    label += np.repeat(np.cumsum(parts) - parts, lengths)
    if count > _MOST:
        label, count = label * _MOST // count, _MOST
    return Blocks(label, count, math.ceil(total / count))
