"""What observables share: where they work, when they look, and the blocks of paths that give their errors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import xarray as xr

from sde_sgd import _checks
from sde_sgd._domain import Domain
from sde_sgd.errors import TooFewSamples

from ._ensemble import Tally
from ._frame import indent


@dataclass(frozen=True)
class Setting:
    """The run an observable works in. `name` is its own prefix in the kernel; `member` the dimension of its paths.

    `clock` is the time of each step, where one number serves all, the times (steps,), or None where it is unknown.
    """

    name: str
    domain: Domain
    paths: int
    steps: int
    start: np.ndarray
    clock: float | np.ndarray | None
    member: str = "path"

    def times(self, counts) -> np.ndarray:
        """The time since the run began after `counts` steps."""
        if self.clock is None:
            raise ValueError("this observable needs the time of each step; run it with a step that is a number")
        counts = np.asarray(counts)
        if np.ndim(self.clock) == 0:
            return counts * self.clock
        return np.concatenate([[0.0], np.cumsum(self.clock)])[counts]


@runtime_checkable
class Observable(Protocol):
    """Something accumulated while paths run: `tally(setting)` checks that it fits and starts it."""

    def tally(self, setting: Setting) -> Tally: ...


@dataclass(frozen=True)
class Estimate:
    """A mean over independent blocks of paths: `value`, and each block's own, `blocks` (block, *value.shape).

    For a function of several means a block's own is the linear part of its contribution, so that the blocks' scatter
    is the standard error (the delta method). `order` names the order of a scheme with which its bias vanishes.
    """

    dims: tuple[str, ...]
    value: np.ndarray
    blocks: np.ndarray
    order: str = "measure_order"

    @property
    def error(self) -> np.ndarray:
        """Standard error of the value: the blocks' standard deviation over the root of their number."""
        return self.blocks.std(axis=0, ddof=1) / np.sqrt(len(self.blocks))


class Blocks:
    """Sums over paths (rows, blocks) of contiguous blocks of paths.

    Each is added up one path after the other, so that its bits do not depend on how many paths come at a time.
    """

    def __init__(self, blocks: int, paths: int, rows: int):
        self.sums = np.zeros((rows, blocks))
        self._paths = paths
        edges = [-(-block * paths // blocks) for block in range(blocks + 1)]
        self.sizes = np.diff(edges)

    def add(self, values: np.ndarray, places: np.ndarray) -> None:
        """Add the values (rows, paths) of the paths at these places, in their order."""
        count = self.sums.shape[1]
        where = np.concatenate([np.arange(count), places * count // self._paths])
        for row, new in zip(self.sums, values):
            row[:] = np.bincount(where, np.concatenate([row, new]), count)


def check_sampling(observable: Any) -> None:
    """Make burn_in, every and blocks of an observable whole numbers, or refuse them."""
    least = "a standard error needs at least two blocks"
    for name, lowest, remedy in (("burn_in", 0, ""), ("every", 1, ""), ("blocks", 2, least)):
        value = _checks.whole(name, getattr(observable, name), lowest, None, remedy)
        object.__setattr__(observable, name, value)


def check_run(observable: Any, paths: int, steps: int) -> int:
    """The number of states of a path that are counted; refuse a run too small for the blocks or without any."""
    if paths < observable.blocks:
        raise TooFewSamples(
            f"{paths} paths cannot fill {observable.blocks} independent blocks; run at least "
            f"{observable.blocks} paths, or ask for fewer blocks (at least 2)"
        )
    if observable.burn_in + observable.every > steps:
        raise TooFewSamples(
            f"no state is counted: burn_in {observable.burn_in} + every {observable.every} exceeds {steps} steps"
        )
    return (steps - observable.burn_in) // observable.every


def sampling_arguments(name: str, observable: Any) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names and values of the kernel arguments that `sampled` reads."""
    return (f"{name}_burn_in", f"{name}_every"), (observable.burn_in, observable.every)


def sampled(name: str, lines: Sequence[str]) -> list[str]:
    """The lines at every `every`-th step after `burn_in` steps."""
    return [f"if count > {name}_burn_in and (count - {name}_burn_in) % {name}_every == 0:", *indent(lines)]


def half(name: str, value: int, why: str = "") -> int:
    """Half of an even number of steps; ValueError for an odd one."""
    if value % 2:
        raise ValueError(f"step_bias runs the same times at steps twice as long: {name} must be even, got {value}{why}")
    return value // 2


def half_every(every: int) -> int:
    """Half of an even `every`; 1 stays 1, for averages over time do not ask for the same times."""
    return 1 if every == 1 else half("every", every)


def estimated(
    estimates: Mapping[str, Estimate], coords: Mapping[str, Any] | None = None, attrs: Mapping[str, Any] | None = None
) -> xr.Dataset:
    """Each estimate's value under its name and its standard error under <name>_error, both with the attributes."""
    arrays: dict[str, Any] = {}
    for name, estimate in estimates.items():
        arrays[name] = (estimate.dims, estimate.value, dict(attrs or {}))
        arrays[f"{name}_error"] = (estimate.dims, estimate.error, dict(attrs or {}))
    return xr.Dataset(arrays, coords=coords)


def sampling_attributes(observable: Any, samples: int) -> dict[str, int]:
    """What is recorded beside an estimate; on the variable, for two observables of one run may differ."""
    return {"burn_in": observable.burn_in, "every": observable.every, "blocks": observable.blocks, "samples": samples}
