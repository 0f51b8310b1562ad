"""The area that pairs of variables sweep out per time: zero in detailed balance, TQ where a current turns."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from sde_sgd import _checks, _memory
from sde_sgd.errors import TooFewSamples

from ._series import Segments, Series, block_sums, segments_of, series_of
from ._series_flips import Flips, sign_flips

_LARGEST_DIM = 50  # all pairs up to here, leading planes beyond
_PLANES = 8
_AT_A_TIME = 2**22  # products of pairs


def area_production(
    trajectory: Any,
    lag: int | Sequence[int] = 1,
    *,
    variables: str | Sequence[str] | None = None,
    dt: float | None = None,
    burn_in: int = 0,
    blocks: int = 64,
    whiten: bool = False,
    planes: int | None = None,
    expected: Any = None,
    flips: int = 1999,
    seed: int = 0,
) -> xr.Dataset:
    r"""A_ij(τ) = ½E[x_i(t)x_j(t+τ) − x_j(t)x_i(t+τ)]/τ: the area per time that (x_i, x_j) sweep out; whether it is 0.

    A = (C(τ)ᵀ − C(τ))/(2τ) for a stationary process, C(τ) = E[x(t+τ)x(t)ᵀ]; A → TQ as τ → 0 for the linear process
    dx = −Fx dt + √(2TD) dW; A_ij > 0 turns from x_i to x_j. In detailed balance A(τ) = 0 for every τ
    and any observables of the state.

    Parameters
    ----------
    trajectory : a Dataset of `simulate` or `sgd` with `save_every`, or an array (time, d) or (chains, time, d) with the
        spacing `dt`.   variables : those to look at, by default all.
    lag : τ in saved states, one or several increasing.   burn_in : saved states left out at the start of each chain.
    blocks : about so many blocks of equal length, each centred at its own mean, whose scatter is the standard error.
    whiten : take S^{−1/2}(x − m), S the covariance over all states, in place of x: A is then in radians per time,
        whatever the units of x.
    planes : k tests k planes only, those that turn most in the first half of the blocks, on the second half. By
        default for more than 50 variables, k = 8; all pairs otherwise.
    expected : TQ as a matrix (d, d), one for each lag (lags, d, d), or a function C(t), such as
        `OrnsteinUhlenbeck.lag_covariance`, from which A(τ) follows.
    flips, seed : of the test: random signs of the blocks; the smallest p-value is 1/(flips + 1).

    Returns
    -------
    Dataset over (lag, variable, variable_2), antisymmetric: `area_production`, `area_production_error`,
    `pair_p_value`, adjusted for all pairs of that lag; `p_value` (lag) of "no current" over all pairs,
    `overall_p_value` over all lags too. With planes over (lag, plane), and `plane_vectors` v (plane, axis, variable):
    the areas are those of (v₀·x, v₁·x), each variable over its `scale` (after whitening, if asked). With `expected`:
    `expected`, `z`; and over the pairs `chi2` = Σ z² with `expected_p_value` (flips of the deviations: not exact, their
    law need not be symmetric), `slope` and `slope_error` of the weighted fit A = slope·expected, `correlation` =
    Σ A·expected/√(Σ A² Σ expected²), uncentred because a pair has no order.

    What is tested: under detailed balance a block run backwards is as likely, and its area is minus the area. Random
    signs of the blocks are then an exact test, whatever the law within a block (Gaussian or not, several scales of
    time, white or alternating). Flat directions do no harm: the area of a random walk about its block's mean is that of
    its increments, independent from block to block. Blocks must be independent up to that; a chain is a block of its
    own where there are `blocks` chains or more, and nothing is assumed then but stationarity or free diffusion.
    As an estimate of A(τ), it is short by O((τ_c/block)²), τ_c the correlation time: take blocks of 20 τ_c at least.

    Raises ValueError for uneven times or one variable, `TooFewSamples` where blocks would be shorter than 4 lags. Not
    for a variable that is wrapped around a circle: take its sine and cosine. Not for velocities or momentum buffers,
    which change sign when time runs back: with positions they sweep out area in equilibrium too. Not before the process
    is stationary: a mean that relaxes on a bent path sweeps out area. Ghanta, Neu & Teitsworth (2017), Phys. Rev. E 95.
    """
    series = series_of(trajectory, variables, dt, burn_in)
    d = len(series.variables)
    if d < 2:
        raise ValueError(f"an area needs two variables at least, got {series.variables[0]!r} alone")
    if not isinstance(whiten, bool | np.bool_):
        raise ValueError(f"whiten must be True or False, got {whiten!r}")
    flips, seed = _checks.whole("flips", flips, 19, 10**6), _checks.whole("seed", seed, 0)
    lags = _lags(lag)
    if planes is not None:
        planes = _checks.whole("planes", planes, 1, d // 2)
    elif d > _LARGEST_DIM:
        planes = _PLANES
    segments = segments_of(series.values, blocks, max(4 * int(lags[-1]), 8))
    if planes is not None and segments.blocks < 16:
        raise TooFewSamples(f"planes are sought on half of the blocks, which needs 16, got {segments.blocks}")
    transform = _whitening(series) if whiten else np.eye(d)
    forecast = None if expected is None else _expected(expected, lags, series.spacing, transform)
    if forecast is not None and planes is not None:
        raise ValueError("expected is compared pair by pair; leave out planes, or name up to 50 variables")
    pieces = segments.pieces @ transform.T if whiten else segments.pieces
    pieces = pieces - pieces.mean(axis=1, keepdims=True)
    segments = Segments(pieces, segments.block, segments.blocks)
    attrs = {
        **series.attrs,
        "method": "sign flips of block areas",
        "chains": series.values.shape[0],
        "samples": segments.pieces.shape[0] * segments.pieces.shape[1],
        "spacing": series.spacing,
        "blocks": segments.blocks,
        "block_length": segments.pieces.shape[1],
        "whiten": bool(whiten),
        "burn_in": burn_in,
        "flips": flips,
        "flip_seed": seed,
    }
    coords = {"lag": lags, "lag_time": ("lag", lags * series.spacing)}
    if planes is not None:
        return _in_planes(segments, lags, series, planes, flips, seed, coords, attrs)
    i, j = np.triu_indices(d, 1)
    wanted = 8.0 * len(segments.pieces) * len(lags) * len(i)
    _memory.refuse_beyond(wanted, f"the areas of {len(i)} pairs", "take fewer variables, lags or blocks")
    areas = np.stack([block_sums(_areas(segments.pieces, n, series.spacing, (i, j)), segments) for n in lags], axis=1)
    test = sign_flips(areas, flips, seed)

    def square(entries: np.ndarray, sign: float, diagonal: float) -> tuple[tuple[str, ...], np.ndarray]:
        full = np.full((len(entries), d, d), diagonal)
        full[:, i, j], full[:, j, i] = entries, sign * entries
        return ("lag", "variable", "variable_2"), full

    mean, error = areas.mean(axis=0), areas.std(axis=0, ddof=1) / np.sqrt(len(areas))
    arrays: dict[str, Any] = {
        "area_production": square(mean, -1.0, 0.0),
        "area_production_error": square(error, 1.0, 0.0),
        "pair_p_value": square(test.entries, 1.0, np.nan),
        **_p_values(test),
    }
    if forecast is not None:
        target = forecast[:, i, j]
        arrays["expected"] = square(target, -1.0, 0.0)
        arrays |= _comparison(areas, target, error, sign_flips(areas - target, flips, seed))
        arrays["z"] = square((mean - target) / np.where(error > 0, error, np.nan), -1.0, 0.0)
    coords |= {"variable": list(series.variables), "variable_2": list(series.variables)}
    return xr.Dataset(arrays, coords=coords, attrs=attrs)


def _lags(lag: Any) -> np.ndarray:
    several = lag if isinstance(lag, Sequence | np.ndarray) and not isinstance(lag, str) else [lag]
    lags = [_checks.whole("a lag", n.item() if isinstance(n, np.generic) else n, 1) for n in several]
    if not lags or any(b <= a for a, b in itertools.pairwise(lags)):
        raise ValueError(f"lags must increase, and one is needed at least, got {lags}")
    return np.array(lags)


def _areas(pieces: np.ndarray, lag: int, spacing: float, pairs: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """½⟨x_i(t)x_j(t+τ) − x_j(t)x_i(t+τ)⟩/τ of each piece (pieces, length, d), for the pairs (i, j)."""
    count, length, d = pieces.shape
    areas = np.empty((count, len(pairs[0])))
    some = max(1, _AT_A_TIME // (d * d))
    for start in range(0, count, some):
        part = pieces[start : start + some]
        product = np.swapaxes(part[:, :-lag], 1, 2) @ part[:, lag:]
        areas[start : start + some] = (product - np.swapaxes(product, 1, 2))[:, pairs[0], pairs[1]]
    return areas / (2 * (length - lag) * lag * spacing)


def _whitening(series: Series) -> np.ndarray:
    """S^{−1/2} of the covariance over all states; the same when any block is run backwards."""
    flat = series.values.reshape(-1, len(series.variables))
    values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(flat, rowvar=False)))
    if values[0] <= 1e-12 * values[-1]:
        raise ValueError(
            f"whiten divides by the covariance, whose eigenvalues go from {values[0]:.3g} to {values[-1]:.3g}: some "
            "combination of the variables does not move; leave it out, or project first"
        )
    return (vectors / np.sqrt(values)) @ vectors.T


def _expected(expected: Any, lags: np.ndarray, spacing: float, transform: np.ndarray) -> np.ndarray:
    """A(τ) per lag (lags, d, d) in the coordinates of the estimate."""
    d = len(transform)
    if callable(expected):
        tau = lags * spacing
        c = np.stack([_checks.finite_array("expected(t)", np.squeeze(expected(float(t))), (d, d)) for t in tau])
        matrix = (np.swapaxes(c, 1, 2) - c) / (2 * tau[:, None, None])
    else:
        matrix = _checks.finite_array("expected", expected)
        if matrix.shape not in ((d, d), (len(lags), d, d)):
            raise ValueError(
                f"expected must be TQ of shape {(d, d)}, one for each lag {(len(lags), d, d)}, or a function C(t), got "
                f"shape {matrix.shape}"
            )
        matrix = np.broadcast_to(matrix, (len(lags), d, d))
        gap = np.abs(matrix + np.swapaxes(matrix, 1, 2)).max()
        if gap > 1e-8 * max(np.abs(matrix).max(), 1e-300):
            raise ValueError(f"expected must be antisymmetric as TQ is; its symmetric part reaches {gap / 2:g}")
    return transform @ matrix @ transform.T


def _p_values(test: Flips) -> dict[str, Any]:
    return {"p_value": (("lag",), test.groups), "overall_p_value": ((), test.overall)}


def _comparison(areas: np.ndarray, target: np.ndarray, error: np.ndarray, test: Flips) -> dict[str, Any]:
    """χ² over the pairs, and slope and correlation of the areas against what is expected."""
    mean, weight = areas.mean(axis=0), 1 / np.where(error > 0, error, np.inf) ** 2
    norm = (weight * target**2).sum(-1)
    norm = np.where(norm > 0, norm, np.nan)  # nothing is expected to turn: there is no slope
    slopes = (weight * areas * target).sum(-1) / norm
    size = np.sqrt((mean**2).sum(-1) * (target**2).sum(-1))
    return {
        "chi2": (("lag",), (weight * (mean - target) ** 2).sum(-1), {"degrees_of_freedom": mean.shape[-1]}),
        "expected_p_value": (("lag",), test.groups),
        "slope": (("lag",), slopes.mean(axis=0)),
        "slope_error": (("lag",), slopes.std(axis=0, ddof=1) / np.sqrt(len(areas))),
        "correlation": (("lag",), (mean * target).sum(-1) / np.where(size > 0, size, np.nan)),
    }


def _in_planes(
    segments: Segments, lags: np.ndarray, series: Series, planes: int, flips: int, seed: int, coords: dict, attrs: dict
) -> xr.Dataset:
    """Planes that turn most in the first half of the blocks, by variables in units of their own scatter there."""
    first = segments.block < segments.blocks // 2
    pilot = segments.pieces[first]
    scale = np.sqrt((pilot**2).mean(axis=(0, 1)))
    if not scale.min() > 0:
        raise ValueError(f"{series.variables[int(scale.argmin())]!r} does not move; leave it out")
    n = int(lags[0])
    turning = np.zeros((len(scale), len(scale)))
    for piece in pilot / scale:
        turning += piece[:-n].T @ piece[n:]
    turning -= turning.T
    # iA is Hermitian, its eigenvalues are the ± rates; v = (u₀ − iu₁)/√2 of a positive one turns from u₀ to u₁
    _, vectors = np.linalg.eigh(1j * turning)
    leading = vectors[:, ::-1][:, :planes].T * np.sqrt(2)
    axes = np.stack([leading.real, -leading.imag], axis=1)
    rest = segments.pieces[~first] / scale
    both = Segments(rest, segments.block[~first] - segments.blocks // 2, segments.blocks - segments.blocks // 2)
    plane = (both.pieces @ axes.reshape(2 * planes, -1).T).reshape(*both.pieces.shape[:2], planes, 2)
    areas = []
    for n in lags:
        u, v = plane[:, :-n], plane[:, n:]
        swept = (u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0]).mean(axis=1) / (2 * n * series.spacing)
        areas.append(block_sums(swept, both))
    stacked = np.stack(areas, axis=1)
    test = sign_flips(stacked, flips, seed)
    dims = ("lag", "plane")
    arrays = {
        "area_production": (dims, stacked.mean(axis=0)),
        "area_production_error": (dims, stacked.std(axis=0, ddof=1) / np.sqrt(len(stacked))),
        "pair_p_value": (dims, test.entries),
        **_p_values(test),
        "plane_vectors": (("plane", "axis", "variable"), axes),
        "scale": (("variable",), scale),
    }
    coords |= {"variable": list(series.variables)}
    attrs |= {"blocks": both.blocks, "pilot_blocks": segments.blocks // 2}
    return xr.Dataset(arrays, coords=coords, attrs=attrs)
