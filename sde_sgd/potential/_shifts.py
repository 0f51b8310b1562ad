"""Modes of a density beside the zeros of its drift: which belongs to which, and how far noise has moved it."""

import numpy as np
import xarray as xr

from sde_sgd.fokker_planck.generator import FokkerPlanck
from sde_sgd.landscapes._roots import stationary_points

from ._hypotheses import ERRORS, jacobian, located
from ._identities import divergence_q
from ._modes import curvature, modes
from ._refinement import resample, richardson

_FLAT = 1e-8  # of the largest curvature of Φ: less is none


def zeros_of_drift(fp: FokkerPlanck) -> xr.Dataset:
    """All b(x) = 0 in the box of the grid, as `Landscape.fixed_points`."""
    grid = fp.grid
    lower, upper = np.array(grid.lower), np.array(grid.upper)
    period = np.where(grid.periodic, upper - lower, np.inf)
    slope, names = jacobian(fp.process), fp.process.variables
    return stationary_points(fp.process.drift, slope, (lower, upper), names, symmetric=False, period=period, extra={})


def compare(
    fp: FokkerPlanck, coarse: FokkerPlanck, parts: xr.Dataset, zeros: xr.Dataset, balanced: bool | None
) -> tuple[xr.Dataset, xr.Dataset]:
    """Modes and zeros of the drift, each with what it knows of the other: see `Assessment`."""
    process, names = fp.process, [str(v) for v in fp.process.variables]
    d, period = len(names), np.where(fp.grid.periodic, np.array(fp.grid.upper) - np.array(fp.grid.lower), np.inf)
    peaks = modes(fp.log_steady_state())
    at, x = located(peaks, names), located(zeros, names)

    predicted, why = _predicted_shift(fp, parts, x, balanced)
    predicted_error = np.full(x.shape, np.nan)
    if np.isfinite(predicted).any():
        from .decomposition import fields

        other, _ = _predicted_shift(coarse, fields(coarse), x, balanced)
        predicted_error = np.abs(other - predicted) * richardson(2.0, _ratio(fp, coarse))

    # curvature of Φ at a mode, and whether it is a peak or a place on a ridge
    bend = curvature(parts["potential"], at, fp.grid.periodic)
    doubt = curvature(parts["potential_error"], at, fp.grid.periodic)
    least = np.linalg.eigvalsh(bend)[:, 0] if len(at) else np.empty(0)
    resolved = least > np.maximum(ERRORS * np.linalg.norm(doubt, axis=(-2, -1)), _FLAT * np.abs(bend).max(initial=0.0))

    difference = _wrapped(at[:, None] - x[None], period)  # (modes, zeros, d)
    # a zero is near a mode where it is, or where the formula moves it
    widths = np.full(difference.shape[:2], np.inf)
    for gap in (difference, _wrapped(difference - predicted, period)):
        with np.errstate(invalid="ignore"):
            away = np.sqrt(np.einsum("mzi,mij,mzj->mz", gap, bend, gap) / process.temperature)
        widths = np.where(resolved[:, None] & np.isfinite(away), np.minimum(widths, away), widths)
    owner = _pairs(widths)
    mode_of = np.full(len(x), -1)
    mode_of[owner[owner >= 0]] = np.flatnonzero(owner >= 0)

    paired = owner >= 0
    shift = np.full((len(at), d), np.nan)
    shift[paired] = difference[np.flatnonzero(paired), owner[paired]]
    expected, expected_error = np.full((len(at), d), np.nan), np.full((len(at), d), np.nan)
    expected[paired], expected_error[paired] = predicted[owner[paired]], predicted_error[owner[paired]]
    peaks = peaks.assign_coords(component=names).assign(
        zero=("point", owner),
        widths=("point", widths.min(axis=1, initial=np.inf)),
        width=("point", np.sqrt(process.temperature / np.where(least > 0.0, least, np.nan))),
        resolved=("point", resolved),
        shift=(("point", "component"), shift),
        nearest=("point", np.linalg.norm(difference, axis=-1).min(axis=1, initial=np.inf)),
        shift_error=("point", _place_error(fp, coarse, at, period)),
        predicted_shift=(("point", "component"), expected),
        predicted_shift_error=(("point", "component"), expected_error),
    )
    zeros = zeros.rename(mode="eigenvalue_index").assign_coords(component=names)
    zeros = zeros.assign(mode=("point", mode_of), predicted_shift=(("point", "component"), predicted))
    return peaks.assign_attrs(predicted_shift=why), zeros.assign_attrs(predicted_shift=why)


def _predicted_shift(
    fp: FokkerPlanck, parts: xr.Dataset, x: np.ndarray, balanced: bool | None
) -> tuple[np.ndarray, str]:
    """T (∂b)⁻¹ div(D + Q) at zeros of the drift, −T H⁻¹ div(D + Q) for b = −∇f, and where Q is from."""
    process, grid = fp.process, fp.grid
    if not len(x):
        return np.empty_like(x), "no zero of the drift"
    divergence = process.diffusion_divergence(x)
    if "q" in parts:
        field, why = divergence_q(parts["q"].values, grid), "T (∂b)⁻¹ div(D + Q), Q from q"
        divergence = divergence + _at(field, fp, x)
    elif grid.dim == 1 and not any(grid.periodic):
        why = "T (∂b)⁻¹ div D; in one dimension Q = 0"
    elif balanced:
        why = "T (∂b)⁻¹ div D, as j = 0"
    else:
        of_q = "Q is not unique" if grid.dim == 3 else "on a periodic axis there is no Q for all of it"
        return np.full(x.shape, np.nan), f"not available: j ≠ 0, and in {grid.dim}-D {of_q}"
    slope = jacobian(process)(x)
    values = np.linalg.svd(slope, compute_uv=False)
    regular = np.isfinite(slope).all((-2, -1)) & (values[:, -1] > 1e-9 * values[:, 0])
    shift = np.full(x.shape, np.nan)
    shift[regular] = process.temperature * np.linalg.solve(slope[regular], divergence[regular][..., None])[..., 0]
    return shift, why


def _at(field: np.ndarray, fp: FokkerPlanck, x: np.ndarray) -> np.ndarray:
    """A vector field on the grid at points (n, d)."""
    grid = fp.grid
    rows = [resample(field, grid.axes, [np.array([v]) for v in point], grid.periodic) for point in x]
    return np.array(rows).reshape(x.shape)


def _pairs(widths: np.ndarray) -> np.ndarray:
    """For every mode the zero of the drift within one width, or −1, the nearest pairs first."""
    owner, left = np.full(widths.shape[0], -1), widths.copy()
    while left.size and left.min() <= 1.0:
        mode, zero = np.unravel_index(int(left.argmin()), left.shape)
        owner[mode] = zero
        left[mode], left[:, zero] = np.inf, np.inf
    return owner


def _place_error(fp: FokkerPlanck, coarse: FokkerPlanck, at: np.ndarray, period: np.ndarray) -> np.ndarray:
    """Error of the places of modes: how far from the nearest of a grid twice as coarse, by Richardson; NaN without."""
    log_density = coarse._field(coarse._log_density, "log_density")
    try:
        rough = located(modes(log_density), fp.process.variables)
    except ValueError:  # too few cells to look for modes
        rough = np.empty((0, at.shape[1]))
    if not len(rough):
        return np.full(len(at), np.nan)
    distance = np.linalg.norm(_wrapped(at[:, None] - rough[None], period), axis=-1).min(axis=1)
    near = distance <= 2.0 * np.linalg.norm(coarse.grid.spacing)  # farther, it is another mode
    return np.where(near, distance * richardson(2.0, _ratio(fp, coarse)), np.nan)


def _ratio(fp: FokkerPlanck, coarse: FokkerPlanck) -> float:
    return float(np.mean(coarse.grid.spacing / fp.grid.spacing))


def _wrapped(difference: np.ndarray, period: np.ndarray) -> np.ndarray:
    """The shortest way round periodic axes."""
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(period), (difference + period / 2) % period - period / 2, difference)
