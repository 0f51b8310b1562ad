"""The saved states in the Dataset of a run: over which chains, of which variables, how far apart in time."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

_MEMBERS = ("path", "replica")
_UNEVEN = 1e-6  # of an interval


@dataclass(frozen=True)
class SavedStates:
    """`parts`: an array (chains, time) for each of the `names`, or a single (chains, time, d)."""

    names: tuple[str, ...]
    parts: tuple[np.ndarray, ...]

    def table(self, names: Sequence[str] | None = None) -> np.ndarray:
        """The named variables in that order, (chains, time, len(names)); all for None."""
        at = range(len(self.names)) if names is None else [self.names.index(name) for name in names]
        if self.parts and self.parts[0].ndim == 3:
            return self.parts[0] if names is None else self.parts[0][..., at]
        return np.stack([self.parts[i] for i in at], axis=-1)


def dimensions(run: xr.Dataset) -> tuple[str, ...]:
    """Those of path, replica and time, in this order, that the run has."""
    return tuple(name for name in (*_MEMBERS, "time") if name in run.dims)


def saved_states(run: xr.Dataset, dims: tuple[str, ...]) -> SavedStates:
    """Every variable over exactly these dimensions, `state` or one by one; without time each chain has one state."""
    times = run.sizes["time"] if "time" in dims else 1
    if "state" in run and "variable" in run["state"].dims:
        names = tuple(str(name) for name in run["variable"].values)
        state = run["state"].transpose(*dims, "variable").to_numpy()
        return SavedStates(names, (state.reshape(-1, times, len(names)),))
    arrays = {str(n): v for n, v in run.data_vars.items() if set(v.dims) == set(dims) and v.dtype.kind in "iuf"}
    return SavedStates(tuple(arrays), tuple(v.transpose(*dims).to_numpy().reshape(-1, times) for v in arrays.values()))


def time_between(name: str, run: xr.Dataset) -> float:
    """The one interval between saved states; ValueError where they are not evenly spaced, or fewer than two."""
    gaps = np.diff(np.asarray(run["time"], float))
    if not gaps.size:
        raise ValueError(f"{name} has one saved state; save two or more, with save_every")
    if not gaps.min() > 0 or np.ptp(gaps) > _UNEVEN * gaps.mean():
        raise ValueError(
            f"{name} must be evenly spaced in time, got gaps from {gaps.min():g} to {gaps.max():g}; take a part of the "
            "run of constant step or learning rate, with isel(time=…)"
        )
    return float(gaps.mean())
