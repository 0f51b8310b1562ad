"""How far stored trajectories turn about a point, or around a periodic axis."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from sde_sgd import _checks

from ._series import block_sums, segments_of, series_of


def winding(
    trajectory: Any,
    variables: str | Sequence[str] = ("x", "y"),
    center: Sequence[float] = (0.0, 0.0),
    *,
    period: float | None = None,
    dt: float | None = None,
    burn_in: int = 0,
    blocks: int = 64,
) -> xr.Dataset:
    r"""The angle Θ that stored states turn about `center`, counter-clockwise from the first variable, and E[Θ]/t.

    `Winding` counts the same while a run goes on, at every step. Here from one saved state to the next the angle goes
    the short way round, so that states must be saved often enough to turn by less than π between two of them.

    trajectory, dt, burn_in : as in `area_production`. For an array, `variables` names its columns, two of them.
    variables : two, for the angle about `center` in their plane; or one periodic variable with its `period`, for
        2π times the number of periods travelled.
    blocks : about so many blocks of equal length, whose scatter is the standard error.

    Returns `winding` (chain, or the dimension of the runs), Θ/2π in turns; `angular_velocity` in radians per time, and
    `angular_velocity_error`. In detailed balance the angular velocity is 0 for any centre. Where paths come close to
    the centre its law has heavy tails (Spitzer 1958), and the error bar with it: `area_production` has none.

    Raises ValueError for other variables, for states at the centre, or `TooFewSamples`. `attrs["largest_turn"]` is
    the largest angle between two saved states; where it is near π, turns may be missed: save more often.
    """
    series = series_of(trajectory, variables, dt, burn_in)
    if len(series.variables) == 1:
        if period is None:
            raise ValueError("one variable winds around a circle, whose length must be given: period=…")
        if tuple(center) != (0.0, 0.0):
            raise ValueError(f"center is for two variables, got {center!r} with {series.variables[0]!r}; leave it out")
        angle = series.values[..., 0] * (2 * math.pi / _checks.positive("period", period))
    elif len(series.variables) == 2:
        if period is not None:
            raise ValueError("period is for one periodic variable; two variables turn about a center")
        offset = series.values - _checks.finite_array("center", center, (2,))
        if not np.abs(offset).sum(-1).all():
            raise ValueError(f"a state lies at the center {tuple(center)}, where no angle is defined; move it")
        angle = np.arctan2(offset[..., 1], offset[..., 0])
    else:
        raise ValueError(f"winding is that of one periodic variable or of two, got {series.variables}")
    change = np.diff(angle, axis=1)
    turn = change - 2 * math.pi * np.round(change / (2 * math.pi))
    segments = segments_of(turn[..., None], blocks, 1)
    rates = block_sums(segments.pieces.mean(axis=(1, 2)), segments) / series.spacing
    member = next((str(d) for d in getattr(trajectory, "dims", ()) if d in ("path", "replica")), "chain")
    attrs = {
        **series.attrs,
        "winding_of": ", ".join(series.variables),
        "chains": len(turn),
        "samples": turn.size,
        "spacing": series.spacing,
        "blocks": segments.blocks,
        "block_length": segments.pieces.shape[1],
        "burn_in": burn_in,
        "largest_turn": float(np.abs(turn).max()),
    }
    arrays = {
        "angular_velocity": ((), rates.mean()),
        "angular_velocity_error": ((), rates.std(ddof=1) / math.sqrt(len(rates))),
        "winding": ((member,), turn.sum(axis=1) / (2 * math.pi)),
    }
    return xr.Dataset(arrays, attrs=attrs)
