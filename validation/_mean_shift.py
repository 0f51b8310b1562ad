"""Where the mean of iterates stands on a loss that is not quadratic: E ∇f = 0, by clouds about the mean."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.linalg as la
import xarray as xr
from numpy.typing import NDArray

from .local_prediction import LocalPrediction

Array = NDArray[np.float64]
Slope = Callable[[Array], Array]  # w ↦ ∇f(w)


def even_part(slope: Slope, mean: Array, offsets: Array) -> Array:
    """(n, d) e(x) = ½[∇f(w̄ + x) + ∇f(w̄ − x)] − ∇f(w̄) for each row x: ½ f‴[x, x] where f is smooth and x small.

    For a law of x that is symmetric E ∇f(w̄ + x) = ∇f(w̄) + E e(x), exactly, kinks and all orders included.
    """
    centre = slope(mean)
    return np.stack([(slope(mean + x) + slope(mean - x)) / 2 - centre for x in offsets])


def predicted_cloud(local: LocalPrediction, draws: int, generator: np.random.Generator) -> Array:
    """(draws, d) independent draws of N(0, S), S = `local.law.covariance` in the weights."""
    values, turn = la.eigh(local.law.covariance)
    return generator.standard_normal((draws, len(values))) * np.sqrt(np.maximum(values, 0.0)) @ turn.T @ local.basis


def along_axes(slope: Slope, mean: Array, local: LocalPrediction) -> Array:
    """(d,) ½ f‴:S as a sum over the eigenvectors of S, each from slopes at ±√3 of its standard deviations.

    The mean of `even_part` over N(0, S) to second order in x, where f has a third derivative. Not for ReLU: a
    displacement along one axis crosses fewer kinks than the whole cloud does, and what |x| adds does not add over axes.
    """
    values, turn = la.eigh(local.law.covariance)
    kept = values > 1e-12 * values[-1]
    steps = np.sqrt(3 * values[kept])[:, None] * (turn.T @ local.basis)[kept]
    return even_part(slope, mean, steps).sum(axis=0) / 3


def seen_shift(
    slope: Slope, weights: Array, directions: Array, blocks: int, generator: np.random.Generator
) -> xr.Dataset:
    """What iterates (n, d) of a run in order say about E ∇f = 0, along `directions` (k, d).

    ``slope_at_mean`` v·∇f(w̄), w̄ the mean of these iterates; ``mean_slope`` v·(mean of ∇f(w_t)), 0 in a steady state,
    with ``mean_slope_error`` from blocks, which is the error of the first, too: to first order both move by H δw̄.
    ``own_bend`` the mean of v·`even_part` over the iterates' own offsets, ``gaussian_bend`` over normal draws with the
    iterates' own covariance. ``spread`` is the trace of that covariance.
    """
    mean = weights.mean(axis=0)
    offsets = weights - mean
    slopes = np.stack([slope(w) for w in weights]) @ directions.T
    parts = np.stack([part.mean(axis=0) for part in np.array_split(slopes, min(blocks, len(slopes)))])
    mixed = generator.standard_normal((len(weights), len(weights))) / np.sqrt(len(weights)) @ offsets
    found = {
        "slope_at_mean": directions @ slope(mean),
        "mean_slope": slopes.mean(axis=0),
        "mean_slope_error": parts.std(axis=0, ddof=1) / np.sqrt(len(parts)),
        "own_bend": directions @ even_part(slope, mean, offsets).mean(axis=0),
        "gaussian_bend": directions @ even_part(slope, mean, mixed).mean(axis=0),
    }
    result = xr.Dataset({name: ("direction", values) for name, values in found.items()})
    return result.assign(spread=((), float((offsets**2).sum(axis=1).mean())))
