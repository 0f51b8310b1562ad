"""Welch spectra, and the smooth background that each frequency is compared with."""

from dataclasses import dataclass

import numpy as np
import scipy.signal
import scipy.special
import scipy.stats

WINDOW = "hann"
GUARD = 3  # bins on either side that a line leaks into
LOWEST = 8  # the first bin with neighbours on both sides beyond the guard
_FIRST = 2  # the trend that is taken out of each segment changes the bins below
_SUSPECT = 1e-3
_PASSES = 5
_FEWEST_NEIGHBOURS = 5


@dataclass(frozen=True)
class Spectrum:
    """`power` (observable, frequency), one-sided density, χ² of `freedom` (frequency) degrees over its mean."""

    frequency: np.ndarray
    power: np.ndarray
    freedom: np.ndarray
    skewed_freedom: np.ndarray  # of the χ² that has the skewness of P, which overlap raises beyond that of χ²_ν
    segments: int
    bin_correlation: np.ndarray  # of the powers of bins 0, 1, 2, … apart


def welch(values: np.ndarray, spacing: float, segment: int) -> Spectrum:
    """Mean periodogram of half-overlapping Hann segments, a line taken out of each, over all chains (Welch 1967)."""
    ramp = np.linspace(-1.0, 1.0, segment)
    ramp /= np.linalg.norm(ramp)

    def level(part: np.ndarray) -> np.ndarray:
        """Without mean and line along the last axis, in the place of many small least-squares problems."""
        part = part - part.mean(axis=-1, keepdims=True)
        return part - (part @ ramp)[..., None] * ramp

    frequency, power = scipy.signal.welch(
        values, 1 / spacing, WINDOW, nperseg=segment, noverlap=segment // 2, detrend=level, axis=1
    )
    window = scipy.signal.get_window(WINDOW, segment)
    norm = (window**2).sum()
    each = 1 + (values.shape[1] - segment) // (segment - segment // 2)
    # P is Σ λ·χ²₂ over the eigenvalues λ of the segments' correlations, which are r next to each other: Σ λ², Σ λ³
    r = (window[segment // 2 :] * window[: segment - segment // 2]).sum() / norm
    squares, cubes = (each + k * 2 * (each - 1) * r**2 for k in (1, 3))
    chains = values.shape[0]
    freedom = np.full(len(frequency), 2 * chains * each**2 / squares)
    skewed = np.full(len(frequency), 2 * chains * squares**3 / cubes**2)
    power = power.mean(axis=0).T
    if segment % 2 == 0:  # the highest frequency has one real coefficient, and no twin to be added to it
        freedom[-1] /= 2
        skewed[-1] /= 2
        power[:, -1] *= 2
    correlation = np.abs(np.fft.rfft(window**2)[: GUARD + 1] / norm) ** 2
    return Spectrum(frequency, power, freedom, skewed, chains * each, correlation)


@dataclass(frozen=True)
class Background:
    """Per (observable, frequency): the level that neighbours predict, P(power at least so large | smooth), and the
    ratio to the level that has the probability asked for; NaN where a frequency has no neighbours below."""

    level: np.ndarray
    p_value: np.ndarray
    threshold: np.ndarray
    scatter: float


def background(spectrum: Spectrum, spacing: float, neighbours: int, probability: float) -> Background:
    r"""A parabola through log P over log sin²(πf·dt) of the neighbouring bins, the guard left out, at each bin.

    Every sum of AR(1) processes has a spectrum Σ a_k/((1−φ_k)² + 4φ_k sin²), smooth in that coordinate from a random
    walk's power law to the highest frequency. log χ²_ν/ν has mean ψ(ν/2) − log(ν/2) and variance ψ'(ν/2); P over
    the fit is F(ν, m), ψ'(m/2) the variance of the fit. Bins that stand out are left out of the fits of others, and the
    fits repeated. Overlap makes P more skewed than χ²_ν, by 5 % in the third cumulant and by a quarter in far tails: P
    is taken as a shifted χ² with its first three cumulants.
    """
    observables, bins = spectrum.power.shape
    nu = spectrum.freedom
    bias = _mean_log(nu)
    noise = np.sqrt(scipy.special.polygamma(1, nu / 2))
    unbiased = np.log(np.maximum(spectrum.power, 1e-300)) - bias
    u = 2 * np.log(np.sin(np.pi * np.clip(spectrum.frequency * spacing, 0.0, 0.5)), where=spectrum.frequency > 0,
                   out=np.zeros(bins))  # fmt: skip
    tested = np.arange(LOWEST, bins)
    offset = np.arange(-neighbours, neighbours + 1)
    place = tested[:, None] + offset
    reach = np.minimum(neighbours, tested - _FIRST)[:, None]
    usable = (np.abs(offset) > GUARD) & (np.abs(offset) <= reach) & (place < bins)
    place = np.clip(place, 0, bins - 1)
    x = u[place] - u[tested, None]
    spread = np.sqrt((usable * x**2).sum(1) / usable.sum(1))[:, None]
    design = np.stack([np.ones_like(x), x / spread, (x / spread) ** 2], axis=-1)  # (tested, offset, 3)
    y = unbiased[:, place]

    shape = (observables, len(tested))
    kept = np.ones((observables, bins), bool)
    fit, variance = np.empty(shape), np.empty(shape)
    for _ in range(_PASSES):
        for o in range(observables):
            inside = usable & kept[o, place]
            scarce = inside.sum(1) < _FEWEST_NEIGHBOURS
            inside[scarce] = usable[scarce]
            fit[o], variance[o] = _fit(design, y[o], inside, noise[place], spectrum.bin_correlation)
        log_ratio = unbiased[:, tested] - fit
        law = _Law(nu[tested], spectrum.skewed_freedom[tested], 2 * _inverse_trigamma(variance))
        p_value = law.tail(log_ratio)
        fresh = np.ones_like(kept)
        fresh[:, tested] = p_value > _SUSPECT
        if (fresh == kept).all():
            break
        kept = fresh
    level, p, threshold = (np.full((observables, bins), np.nan) for _ in range(3))
    level[:, tested], p[:, tested], threshold[:, tested] = np.exp(fit), p_value, np.exp(fit) * law.highest(probability)
    typical = kept[:, tested]
    deviation = log_ratio[typical] / np.sqrt(variance + noise[tested] ** 2)[typical]
    return Background(level, p, threshold, float(np.sqrt((deviation**2).mean())))


def _fit(
    design: np.ndarray, y: np.ndarray, inside: np.ndarray, noise: np.ndarray, correlation: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Least squares at each bin: the value of the parabola at the bin, and its variance with correlated neighbours."""
    weight = inside / noise**2
    normal = np.einsum("bn,bni,bnj->bij", weight, design, design, optimize=True)
    first = np.linalg.solve(normal, np.broadcast_to(np.array([1.0, 0, 0])[:, None], (len(normal), 3, 1)))[..., 0]
    influence = weight * (design @ first[..., None])[..., 0]  # d fit / d y
    variance = ((influence * noise) ** 2).sum(1)
    for apart, r in enumerate(correlation[1:], start=1):
        a, b = (influence * noise)[:, apart:], (influence * noise)[:, :-apart]
        variance += 2 * r * (a * b).sum(1)
    return (influence * y).sum(1), variance


@dataclass(frozen=True)
class _Law:
    """Of P over the fit: P a shifted χ², variance of χ²_ν and skewness of χ²_κ; the log of the fit as that of χ²_m."""

    nu: np.ndarray
    kappa: np.ndarray
    m: np.ndarray

    def tail(self, log_ratio: np.ndarray) -> np.ndarray:
        """The probability of a centred logarithm at least so large."""
        ratio = np.exp(log_ratio + _mean_log(self.nu) - _mean_log(self.m))
        return scipy.stats.f.sf(1 + (ratio - 1) / np.sqrt(self.kappa / self.nu), self.kappa, self.m)

    def highest(self, probability: float) -> np.ndarray:
        """P over exp(fit) that is reached with this probability."""
        ratio = 1 + np.sqrt(self.kappa / self.nu) * (scipy.stats.f.isf(probability, self.kappa, self.m) - 1)
        return ratio * np.exp(_mean_log(self.m))


def _mean_log(nu: np.ndarray) -> np.ndarray:
    """E log χ²_ν/ν."""
    return scipy.special.digamma(nu / 2) - np.log(nu / 2)


def _inverse_trigamma(y: np.ndarray) -> np.ndarray:
    """x with ψ'(x) = y, by Newton's method from x = ½ + 1/y, whose iterates rise to it (Smyth 2004)."""
    x = 0.5 + 1 / y
    for _ in range(8):
        value = scipy.special.polygamma(1, x)
        x = x + value * (1 - value / y) / scipy.special.polygamma(2, x)
    return x
