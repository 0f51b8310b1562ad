"""Spectrum of increments and autocorrelation of many long series, and of processes that have no current."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.fft
import xarray as xr
from numpy.typing import NDArray

Array = NDArray[np.float64]
KINDS = ("ornstein-uhlenbeck", "random walk")
_COLUMNS = 32  # series transformed at once
_ROWS = 4096  # epochs of a surrogate made at once
_Z99 = 2.5758293035489004


def lags_of(epochs: int, count: int = 60) -> NDArray[np.int64]:
    """0 and about `count` lags in geometric steps, up to half of the run."""
    return np.unique(np.concatenate([[0], np.geomspace(1, max(1, epochs // 2), count).round().astype(int)]))


def white_band(epochs: int) -> float:
    """Beyond ± this an autocorrelation of white noise lies with chance 1 %: z/√n."""
    return _Z99 / float(np.sqrt(epochs))


def beyond_white(correlation: Array, epochs: int) -> float:
    """The share of autocorrelations of a run of `epochs` that are beyond ± `white_band`."""
    return float((np.abs(correlation) > white_band(epochs)).mean())


def spectral_rise(frequency: Array, power: Array) -> float:
    """Mean power in the highest tenth of the frequencies over that in the lowest; 1 for white increments."""
    most = frequency.max()
    return float(power[frequency > 0.9 * most].mean() / power[frequency < 0.1 * most].mean())


def increment_spectrum(series: Array, bins: int) -> tuple[Array, Array]:
    """Frequencies in 1/epochs, (bins,), and the power |FFT|²/n of the increments of (n, w) series in those bins.

    Bins are even in the logarithm, each the mean of the frequencies in it; those without any are left out. White
    increments of variance σ² have power σ² everywhere.
    """
    n = len(series) - 1
    frequency = np.arange(1, n // 2 + 1) / n
    edges = np.geomspace(frequency[0], frequency[-1] * (1 + 1e-9), bins + 1)
    which = np.clip(np.searchsorted(edges, frequency, side="right") - 1, 0, bins - 1)
    counts = np.bincount(which, minlength=bins)
    filled = counts > 0
    centre = np.bincount(which, frequency, bins)[filled] / counts[filled]
    power = np.empty((filled.sum(), series.shape[1]))
    for part, block in _blocks(series):
        steps = np.diff(block, axis=1)
        found = np.abs(scipy.fft.rfft(steps, axis=1)[:, 1 : n // 2 + 1]) ** 2 / n
        starts = np.flatnonzero(np.r_[True, np.diff(which) > 0])
        power[:, part] = (np.add.reduceat(found, starts, axis=1) / counts[filled]).T
    return centre, power


def autocorrelation(series: Array, lags: NDArray[np.int64]) -> Array:
    """(lags, w) Σ_t (x_t − m)(x_{t+k} − m)/Σ_t (x_t − m)² of (n, w) series, m the mean; NaN for one that rests."""
    n = len(series)
    size = scipy.fft.next_fast_len(2 * n, real=True)
    result = np.empty((len(lags), series.shape[1]))
    for part, block in _blocks(series):
        spread = np.ptp(block, axis=1)
        still = spread <= 1e-13 * np.abs(block).max(axis=1)
        block = block - block.mean(axis=1, keepdims=True)
        covariance = scipy.fft.irfft(np.abs(scipy.fft.rfft(block, size, axis=1)) ** 2, size, axis=1)[:, lags]
        with np.errstate(invalid="ignore", divide="ignore"):
            result[:, part] = np.where(still[:, None], np.nan, covariance / (block**2).sum(axis=1)[:, None]).T
    return result


def _blocks(series: Array) -> Iterator[tuple[slice, Array]]:
    """Some series at a time, as contiguous rows: the file they may come from is read in order of time."""
    for begin in range(0, series.shape[1], _COLUMNS):
        part = slice(begin, min(begin + _COLUMNS, series.shape[1]))
        yield part, np.ascontiguousarray(series[:, part].T)


@dataclass(frozen=True)
class Surrogates:
    """z_i' = (1 − ηh_i) z_i + (η/√b) √D_ii ξ per step, independent over i, seen as w = rows·z after every epoch.

    The noise is diagonal in H's eigenvectors: a linear process in detailed balance, its lag covariances symmetric.
    """

    curvature: Array
    noise: Array
    rows: Array
    start: Array
    learning_rate: float
    batch_size: int
    steps: int

    def epoch(self, kind: str) -> tuple[Array, Array]:
        """Factor and noise amplitude of one epoch, the exact law of `steps` steps; h = 0 for a random walk."""
        h = self.curvature if kind == KINDS[0] else np.zeros_like(self.curvature)
        factor = 1.0 - self.learning_rate * h
        if (np.abs(factor) > 1).any():
            raise ValueError(
                f"η·h reaches {float(self.learning_rate * h.max()):g}, and the linear process is stable below 2: lower "
                "learning_rate"
            )
        square = factor**2
        with np.errstate(invalid="ignore", divide="ignore"):
            total = np.where(square < 1, (1 - square**self.steps) / (1 - square), self.steps)
        return factor**self.steps, self.learning_rate * np.sqrt(self.noise * total / self.batch_size)

    def draw(self, kind: str, epochs: int, generator: np.random.Generator) -> Array:
        """(epochs, rows) one run from the start, a random walk from 0."""
        factor, amplitude = self.epoch(kind)
        z = self.start.copy() if kind == KINDS[0] else np.zeros_like(self.start)
        seen = np.empty((epochs, len(self.rows)))
        for begin in range(0, epochs, _ROWS):
            block = generator.standard_normal((min(_ROWS, epochs - begin), len(z)))
            block *= amplitude
            for row in block:
                row += factor * z
                z = row
            seen[begin : begin + len(block)] = block @ self.rows.T
            z = z.copy()
        return seen


def surrogate_bands(
    made: Surrogates,
    kinds: Sequence[str],
    *,
    epochs: int,
    lags: NDArray[np.int64],
    bins: int,
    count: int,
    seed: int,
    progress: Callable[[float, float], object] = lambda done, total: None,
) -> xr.Dataset:
    """Lowest and highest over `count` runs of the means over `rows` of autocorrelation and spectrum: a chance of
    2/(count + 1) at each point that a run of the same law lies outside.

    ``beyond`` (kind, surrogate) is the share of the lags > 0 at which that run is beyond `white_band`, ``rise`` its
    `spectral_rise`.
    """
    seeds = np.random.SeedSequence(seed).spawn(count * len(kinds))
    low: dict[str, list[Array]] = {"autocorrelation": [], "spectrum": []}
    high: dict[str, list[Array]] = {"autocorrelation": [], "spectrum": []}
    frequency = np.empty(0)
    beyond, rises = np.empty((2, len(kinds), count))
    for k, kind in enumerate(kinds):
        found: dict[str, list[Array]] = {"autocorrelation": [], "spectrum": []}
        for i in range(count):
            series = made.draw(kind, epochs, np.random.default_rng(seeds[k * count + i]))
            frequency, power = increment_spectrum(series, bins)
            found["spectrum"].append(power.mean(axis=1))
            found["autocorrelation"].append(np.nanmean(autocorrelation(series, lags), axis=1))
            beyond[k, i] = beyond_white(found["autocorrelation"][-1][lags > 0], epochs)
            rises[k, i] = spectral_rise(frequency, found["spectrum"][-1])
            progress(k * count + i + 1, count * len(kinds))
        for name, runs in found.items():
            low[name].append(np.min(runs, axis=0))
            high[name].append(np.max(runs, axis=0))
    dims = {"autocorrelation": ("kind", "lag"), "spectrum": ("kind", "frequency")}
    return xr.Dataset(
        {
            f"{name}_{edge}": (dims[name], np.stack(table[name]))
            for edge, table in (("low", low), ("high", high))
            for name in dims
        }
        | {"beyond": (("kind", "surrogate"), beyond), "rise": (("kind", "surrogate"), rises)},
        coords={"kind": list(kinds), "lag": lags, "frequency": frequency},
        attrs={"surrogates": count},
    )
