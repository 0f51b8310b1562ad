"""What the loss does between two consecutive iterates: floor, height, barrier; and what a parabola says of it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sde_sgd import _checks

ROUNDING = 1e-10  # of the largest loss of a segment: what lies closer together is called equal


class Segments(NamedTuple):
    """Of each segment, (…): the lowest loss, the height of its ends above that, and what lies between."""

    floor: NDArray[np.float64]
    height: NDArray[np.float64]
    interior: NDArray[np.bool_]
    barrier: NDArray[np.bool_]
    vertex: NDArray[np.float64]
    rise: NDArray[np.float64]


def segments(losses: ArrayLike, tolerance: float = ROUNDING) -> Segments:
    """Floor, height and barrier of L(α_i), α_i = i/(n−1), along the last axis.

    floor = min_i L(α_i); height = (L(0) + L(1))/2 − floor; `interior` where the floor lies below both ends; `barrier`
    where some L(α_i) exceeds both ends; each by more than `tolerance` times the largest |L| of the segment. `vertex` is
    the height above the vertex of the parabola through α = 0, ½, 1 (n odd) where that lies in between, else above the
    lower end: on a quadratic the height itself, of which the grid's falls short by less than (1/8(n−1)²) of L''.
    `rise` = max L(α_i) over 0 < α_i < 1 less the higher end: the barrier where > 0, < 0 where there is none.

    Xing, Arpit, Tsirigotis & Bengio (2018), A Walk with SGD.
    """
    values = _of_segments(losses)
    first, last, inside = values[..., 0], values[..., -1], values[..., 1:-1]
    slack = tolerance * np.abs(values).max(-1)
    floor = values.min(-1)
    middle = values[..., values.shape[-1] // 2]
    curvature, slope = 4 * (first + last - 2 * middle), last - first
    with np.errstate(divide="ignore", invalid="ignore"):
        place = 0.5 - slope / curvature
        lowest = middle - slope**2 / (2 * curvature)
    between = (curvature > 0) & (place > 0) & (place < 1)
    lowest = np.where(between, lowest, np.minimum(first, last))
    rise = inside.max(-1) - np.maximum(first, last)
    return Segments(
        floor,
        (first + last) / 2 - floor,
        inside.min(-1) < np.minimum(first, last) - slack,
        rise > slack,
        (first + last) / 2 - lowest,
        rise,
    )


def place_of_floor(losses: ArrayLike) -> NDArray[np.float64]:
    """α* in [0, 1], (…), of the floor along the last axis of L(α_i): the vertex of the parabola through the lowest
    point of the grid and its neighbours where that opens upwards, else that point; exact on a quadratic.
    """
    values = _of_segments(losses)
    last = values.shape[-1] - 1
    lowest = np.asarray(values.argmin(-1))
    middle = np.clip(lowest, 1, last - 1)
    before, here, after = (np.take_along_axis(values, (middle + k)[..., None], -1)[..., 0] for k in (-1, 0, 1))
    curvature = before - 2 * here + after
    with np.errstate(divide="ignore", invalid="ignore"):
        vertex = middle + (before - after) / (2 * curvature)
    near = np.clip(vertex, np.maximum(lowest - 1, 0), np.minimum(lowest + 1, last))
    return np.where(curvature > 0, near, lowest) / last


def quadratic_height(gradient: NDArray, slope: NDArray, hessian: NDArray, rate: float) -> float:
    """(η²/2) gᵀHg [(a* − ½)² + ¼], a* = g·∇f/(η gᵀHg), for 0 ≤ a* ≤ 1: the height of a step −ηg on a quadratic."""
    curved = float(gradient @ hessian @ gradient)
    place = float(gradient @ slope) / (rate * curved)
    if curved <= 0 or not 0 <= place <= 1:
        raise ValueError(f"the lowest point of the step lies outside of it: a* = {place:g}")
    return rate**2 / 2 * curved * ((place - 0.5) ** 2 + 0.25)


def _of_segments(losses: ArrayLike) -> NDArray[np.float64]:
    values = _checks.finite_array("losses", losses)
    if values.ndim < 1 or values.shape[-1] < 3 or values.shape[-1] % 2 == 0:
        raise ValueError(f"losses must hold an odd number of at least 3 points per segment, got shape {values.shape}")
    return values
