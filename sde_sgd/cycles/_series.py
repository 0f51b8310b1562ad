"""Stored trajectories as plain arrays: which variables, how far apart in time, and cut into blocks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from sde_sgd import _checks
from sde_sgd._saved_states import dimensions, saved_states, time_between
from sde_sgd.errors import TooFewSamples

_FEWEST_BLOCKS = 8


@dataclass(frozen=True)
class Series:
    """`values` (chains, time, d) of the `variables`, `spacing` in time apart; `attrs` of the run they come from."""

    values: np.ndarray
    spacing: float
    variables: tuple[str, ...]
    steps: int | None  # of the recursion from one saved state to the next, where that is known
    attrs: dict[str, Any]


def series_of(trajectory: Any, variables: str | Sequence[str] | None, dt: float | None, burn_in: int) -> Series:
    """The series in a run with `save_every`, or in an array (time, d) or (chains, time, d) with its spacing dt."""
    if isinstance(trajectory, xr.Dataset):
        series = _of_dataset(trajectory, variables, dt)
    else:
        series = _of_array(trajectory, variables, dt)
    burn_in = _checks.whole("burn_in", burn_in, 0)
    values = series.values[:, burn_in:]
    if values.shape[1] < 2:
        raise TooFewSamples(f"burn_in {burn_in} leaves {values.shape[1]} of {series.values.shape[1]} saved states")
    return Series(values, series.spacing, series.variables, series.steps, series.attrs)


def _of_array(trajectory: Any, variables, dt) -> Series:
    values = _checks.finite_array("trajectory", trajectory)
    if values.ndim == 2:
        values = values[None]
    if values.ndim != 3 or 0 in values.shape:
        raise ValueError(
            f"trajectory must have the shape (time, d) or (chains, time, d), got {np.shape(trajectory)}; a Dataset of "
            "simulate or sgd with save_every will do as well"
        )
    if dt is None:
        raise ValueError("an array has no times; give dt, the time from one state to the next")
    names = [f"x{k}" for k in range(values.shape[2])] if variables is None else variables
    names = _names(names)
    if len(names) != values.shape[2]:
        raise ValueError(f"variables must name the {values.shape[2]} columns of the array, got {len(names)} names")
    return Series(values, _checks.positive("dt", dt), names, None, {})


def _of_dataset(trajectory: xr.Dataset, variables, dt) -> Series:
    if "time" not in trajectory.dims or "time" not in trajectory.coords:
        raise ValueError("trajectory has no saved states along time; run it with save_every=k")
    if dt is not None:
        raise ValueError(f"dt is read from the times of the Dataset, got dt={dt!r} as well; leave it out")
    dims = dimensions(trajectory)
    states = saved_states(trajectory, dims)
    if not states.names:
        raise ValueError(f"trajectory has no variable over {' and '.join(dims)}; chains lie along path or replica")
    names = _names(states.names if variables is None else variables)
    for name in names:
        if name not in states.names:
            raise ValueError(
                f"trajectory has no saved variable {name!r}; it has {', '.join(states.names)}"
                + _checks.nearest(name, states.names)
            )
    values = _checks.finite_array("trajectory", states.table(names))
    spacing = time_between("trajectory", trajectory)
    steps = None
    if "step" in trajectory.coords and trajectory["step"].dims == ("time",):
        steps = int(np.diff(trajectory["step"].to_numpy()[:2])[0])
    return Series(values, spacing, names, steps, dict(trajectory.attrs))


def _names(variables) -> tuple[str, ...]:
    names = (variables,) if isinstance(variables, str) else tuple(variables)
    if not names or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise ValueError(f"variables must be different names, at least one, got {variables!r}")
    return names


@dataclass(frozen=True)
class Segments:
    """Pieces (pieces, length, d) of the series, and the block (pieces,) that each belongs to."""

    pieces: np.ndarray
    block: np.ndarray
    blocks: int


def segments_of(values: np.ndarray, blocks: int, shortest: int) -> Segments:
    """About `blocks` blocks of equal weight: a part of a chain each, or several chains where there are more of them.

    What does not fill the last piece of a chain is left out at its beginning.
    """
    chains, samples, d = values.shape
    blocks = _checks.whole("blocks", blocks, _FEWEST_BLOCKS, None, "fewer give no error bar worth the name")
    each = max(1, blocks // chains)
    length = samples // each
    if length < shortest or chains * each < _FEWEST_BLOCKS:
        raise TooFewSamples(
            f"{chains} × {samples} saved states do not fill {blocks} blocks of at least {shortest} samples; save more "
            f"states, or take shorter lags or fewer blocks (at least {_FEWEST_BLOCKS})"
        )
    pieces = values[:, samples - each * length :].reshape(chains * each, length, d)
    count = min(blocks, len(pieces)) if each == 1 else len(pieces)
    return Segments(pieces, np.arange(len(pieces)) * count // len(pieces), count)


def block_sums(per_piece: np.ndarray, segments: Segments) -> np.ndarray:
    """Means over the pieces of each block; blocks of as many pieces as can be, so that all weigh nearly the same."""
    sums = np.zeros((segments.blocks, *per_piece.shape[1:]))
    np.add.at(sums, segments.block, per_piece)
    return sums / (len(per_piece) / segments.blocks)
