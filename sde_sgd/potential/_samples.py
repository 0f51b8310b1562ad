"""Trajectories as one table of points: which variables, what is dropped, and onto which axes they are projected."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from sde_sgd import _checks
from sde_sgd._saved_states import dimensions, saved_states, time_between
from sde_sgd.grid import Grid
from sde_sgd.landscapes._names import RESERVED, check_names

_LAYOUT = "an array has shape (chains, time, variables) or (time, variables)"


@dataclass(frozen=True)
class Chains:
    """Points (n, d), chain after chain; `lengths` of the chains; `kept`, which of (chains, time) the points are."""

    points: np.ndarray
    names: tuple[str, ...]
    lengths: np.ndarray
    kept: np.ndarray
    dims: tuple[str, ...]
    ended: int  # chains that end before the others

    def columns(self, names: Any) -> np.ndarray:
        """The named variables in that order, (n, len(names))."""
        return self.points[:, [self.names.index(_checks.choice("a variable", n, self.names)) for n in names]]


def read(samples: Any, burn_in: int) -> Chains:
    """The chains after their first `burn_in` states; a chain may end early, in NaN. ValueError for gaps."""
    burn_in = _checks.whole("burn_in", burn_in, 0)
    if isinstance(samples, xr.Dataset):
        state, names, dims = _of_dataset(samples)
    else:
        state, names, dims = _of_array(samples)
    chains, times, _ = state.shape
    if burn_in >= times:
        what = "samples without time are independent draws, of which none is dropped" if times == 1 else "run longer"
        raise ValueError(f"burn_in must be less than the {times} states of a chain, got {burn_in}; {what}")
    state = state[:, burn_in:]
    if np.isinf(state).any():
        raise ValueError("samples has infinite values; simulate with a smaller step, or leave such chains out")
    good = ~np.isnan(state).any(axis=-1)
    lengths = good.sum(axis=1)
    gap = np.flatnonzero((good != (np.arange(good.shape[1]) < lengths[:, None])).any(axis=1))
    if gap.size:
        raise ValueError(
            f"samples has NaN followed by numbers in chain {gap[0]}: a chain may end early but not have gaps; split it"
        )
    if not lengths.any():
        raise ValueError("samples has nothing but NaN after burn_in")
    kept = np.zeros((chains, times), bool)
    kept[:, burn_in:] = good
    ended = int((lengths < good.shape[1]).sum())
    return Chains(state[good], names, lengths[lengths > 0], kept, dims, ended)


def _of_dataset(samples: xr.Dataset) -> tuple[np.ndarray, tuple[str, ...], tuple[str, ...]]:
    dims = dimensions(samples)
    if not dims or {"path", "replica"} <= set(dims):
        raise ValueError(
            f"samples must be over path or replica, or time, as simulate and sgd leave them; it has dimensions "
            f"{', '.join(map(str, samples.dims)) or 'none'}"
        )
    if samples.attrs.get("walls") == "absorb":
        raise ValueError(
            "samples is a run with walls='absorb': paths that end there have no steady density; simulate with "
            "walls='reflect', or give the array of what is left for the law of the survivors"
        )
    if "time" in dims and "time" in samples.coords and samples.sizes["time"] > 1:
        time_between("samples", samples)
    states = saved_states(samples, dims)
    skipped = (*RESERVED, "exit_time")
    names = tuple(name for name in states.names if name not in skipped and not name.startswith("velocity_"))
    if not names:
        raise ValueError(
            f"samples has no variable over ({', '.join(dims)}); save states with save_every, as a density needs"
        )
    return np.asarray(states.table(names), float), names, dims


def _of_array(samples: Any) -> tuple[np.ndarray, tuple[str, ...], tuple[str, ...]]:
    if isinstance(samples, xr.DataArray):
        raise ValueError(f"samples is a DataArray: give the Dataset of a run, or .values; {_LAYOUT}")
    try:
        array = np.asarray(samples, float)
    except (TypeError, ValueError):
        raise ValueError(f"samples must be the Dataset of a run, or an array of numbers; {_LAYOUT}") from None
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise ValueError(f"samples has shape {array.shape}; {_LAYOUT}")
    dims = ("path", "time") if array.ndim == 3 else ("time",)
    return array.reshape(-1, *array.shape[-2:]), tuple(f"x{i}" for i in range(array.shape[-1])), dims


def project(chains: Chains, given: Any, grid: Grid) -> tuple[np.ndarray, list[str]]:
    """Coordinates (n, k) of the points along the grid's axes, periodic ones modulo their period, and the axes' names.

    `given`: None, names of variables, a mapping of new names to directions, or a matrix (k, d), named u0, u1, …
    """
    k, d = grid.dim, len(chains.names)
    if given is None:
        if k != d:
            raise ValueError(
                f"the grid has {k} dimensions, the samples {d} ({', '.join(chains.names[:8])}"
                f"{', …' if d > 8 else ''}); name {k} of them with project, or give {k} directions"
            )
        names, z = list(chains.names), chains.points.copy()
    elif isinstance(given, np.ndarray) and given.dtype.kind in "iuf":
        names, z = _along({f"u{i}": row for i, row in enumerate(np.atleast_2d(given))}, chains)
    elif isinstance(given, Mapping):
        names, z = _along(given, chains)
    else:
        entries = _checks.sequence("project", given, k, "names of variables, or rows of a matrix, one per axis")
        if all(isinstance(entry, str) for entry in entries):
            names, z = entries, chains.columns(entries)
        else:
            names, z = _along({f"u{i}": row for i, row in enumerate(entries)}, chains)
    if len(names) != k:
        raise ValueError(f"project gives {len(names)} axes, the grid has {k}; give one per axis")
    names = check_names("projection", names)
    still = np.flatnonzero(~(np.ptp(z, axis=0) > 0))
    if still.size:
        raise ValueError(f"the samples do not move along {names[still[0]]}: there is no density over it")
    for axis, wraps in enumerate(grid.periodic):
        if wraps:
            z[:, axis] = grid.lower[axis] + np.mod(z[:, axis] - grid.lower[axis], grid.upper[axis] - grid.lower[axis])
    return z, names


def _along(directions: Mapping[str, Any], chains: Chains) -> tuple[list[str], np.ndarray]:
    d = len(chains.names)
    rows = [_checks.finite_array(f"direction {name}", row, (d,)) for name, row in directions.items()]
    if np.linalg.matrix_rank(np.array(rows)) < len(rows):
        raise ValueError(f"the {len(rows)} directions in project are linearly dependent; no density is over them")
    return list(directions), chains.points @ np.array(rows).T


def losses(given: Any, chains: Chains) -> np.ndarray:
    """f at each point (n,): of a landscape or function of points (..., d), or values in the layout of the samples."""
    if hasattr(given, "loss") and hasattr(given, "variables"):
        names = [str(name) for name in given.variables]
        if set(names) <= set(chains.names):
            values = given.loss(chains.columns(names))
        elif len(names) == len(chains.names) and chains.names == tuple(f"x{i}" for i in range(len(names))):
            values = given.loss(chains.points)  # an array, whose columns have no names of their own
        else:
            raise ValueError(f"the loss is over {', '.join(names)}, the samples over {', '.join(chains.names)}")
    elif callable(given):
        values = given(chains.points)
    else:
        if isinstance(given, xr.DataArray):
            if set(given.dims) != set(chains.dims):
                raise ValueError(f"loss must be over ({', '.join(chains.dims)}) as the samples are, got {given.dims}")
            given = given.transpose(*chains.dims).values
        array = np.asarray(given, float)
        wanted = chains.kept.shape if len(chains.dims) == 2 else (chains.kept.size,)
        if array.shape != wanted:
            raise ValueError(f"loss must be a landscape, a function, or values of shape {wanted}, got {array.shape}")
        values = array.reshape(chains.kept.shape)[chains.kept]
    return _checks.finite_array("the loss at the samples", values, (len(chains.points),))
