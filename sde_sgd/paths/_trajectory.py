"""Saved states of several chains at equal intervals, read a piece at a time."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from sde_sgd import _checks
from sde_sgd._saved_states import dimensions, saved_states, time_between
from sde_sgd.errors import TooFewSamples

KINDS = ("auto", "recursion", "diffusion")
_PIECE = 2**18  # states held at a time


@dataclass(frozen=True)
class Trajectory:
    """Chains of n + 1 states an interval τ apart; `unit` is the step η of a recursion, 0 for a diffusion."""

    parts: tuple[Any, ...]  # one (chains, time) array per variable, or a single (chains, time, d)
    variables: tuple[str, ...]
    interval: float
    unit: float
    first_step: int
    attrs: dict[str, Any] = field(default_factory=dict)
    period: np.ndarray | None = None  # ∞ where an axis is not periodic

    @property
    def dim(self) -> int:
        return len(self.variables)

    @property
    def shape(self) -> tuple[int, int]:
        """Chains, states of each."""
        return tuple(self.parts[0].shape[:2])

    @property
    def every(self) -> int:
        """Steps of the recursion between two states; 1 for a diffusion."""
        return round(self.interval / self.unit) if self.unit else 1

    def pieces(self, lags: int, multiple: int = 1) -> "Iterator[Piece]":
        """All increments over 1 … lags intervals, each once; long chains are cut at multiples of `multiple`."""
        chains, states = self.shape
        starts = states - lags
        if starts < 1:
            raise TooFewSamples(
                f"chains of {states} states have no increments over {lags} intervals; save {lags + 1} states or more"
            )
        length = min(starts, max(_PIECE // multiple, 1) * multiple)
        width = max(_PIECE // length, 1)
        for chain in range(0, chains, width):
            for begin in range(0, starts, length):
                end = min(begin + length, starts)
                yield Piece.of(self, self._block(slice(chain, chain + width), slice(begin, end + lags)), lags, begin)

    def _block(self, chains: slice, times: slice) -> np.ndarray:
        if np.ndim(self.parts[0]) == 3:
            block = np.asarray(self.parts[0][chains, times], float)
        else:
            block = np.stack([np.asarray(part[chains, times], float) for part in self.parts], -1)
        if not np.isfinite(block).all():
            c, t, i = np.argwhere(~np.isfinite(block))[0]
            raise ValueError(
                f"the trajectory has {self.variables[i]} = {block[c, t, i]} in chain {chains.start + c} at state "
                f"{times.start + t}; leave such chains out"
            )
        return block


@dataclass(frozen=True)
class Piece:
    """States x0 (S, d) with the increments of the next intervals; S = chains·length, times of a chain in a row."""

    x0: np.ndarray
    x1: np.ndarray
    increments: tuple[np.ndarray, ...]
    length: int
    begin: int

    @classmethod
    def of(cls, trajectory: Trajectory, block: np.ndarray, lags: int, begin: int) -> "Piece":
        moves = np.diff(block, axis=1)
        if trajectory.period is not None:
            period = trajectory.period
            turns = np.where(np.isinf(period), 0.0, np.round(moves / period))
            moves = moves - turns * np.where(np.isinf(period), 0.0, period)
        length, d = block.shape[1] - lags, block.shape[2]
        flat = lambda a, k: np.ascontiguousarray(a[:, k : k + length]).reshape(-1, d)  # noqa: E731
        return cls(flat(block, 0), flat(block, 1), tuple(flat(moves, k) for k in range(lags)), length, begin)

    def before(self, values: np.ndarray) -> np.ndarray:
        """values (S, d) of the state before, 0 where a piece begins."""
        shifted = np.zeros_like(values)
        shifted[1:] = values[:-1]
        shifted[:: self.length] = 0.0
        return shifted

    def epoch_sums(self, values: np.ndarray, epoch: int, first_step: int) -> np.ndarray:
        """Σ of values (S, d) since the epoch began, over how many steps it still has."""
        place = (first_step + self.begin + np.arange(self.length)) % epoch
        total = np.cumsum(values.reshape(-1, self.length, values.shape[-1]), axis=1)
        earlier = np.concatenate([np.zeros_like(total[:, :1]), total[:, :-1]], axis=1)
        begins = np.maximum(np.arange(self.length) - place, 0)
        return ((earlier - earlier[:, begins]) / (epoch - place)[:, None]).reshape(values.shape)


def read(trajectory: Any, *, interval, kind: str, every, variables=None) -> Trajectory:
    """The chains of a result of `simulate` or `sgd`, or of an array (chains, time, d); ValueError for anything else."""
    _checks.choice("kind", kind, KINDS)
    if isinstance(trajectory, xr.Dataset):
        if interval is not None or every is not None:
            raise ValueError("interval and every come with a Dataset, as its coordinates time and step; leave them out")
        return _of_dataset(trajectory, kind)
    states = trajectory if isinstance(trajectory, np.ndarray) else np.asarray(trajectory)
    if states.ndim != 3 or states.dtype.kind not in "iuf" or not states.size:
        raise ValueError(
            f"trajectory must be a Dataset or an array (chains, time, d) of real numbers, got shape {states.shape} "
            f"of {states.dtype}; one chain of one variable is x[None, :, None]"
        )
    if kind == "auto":
        raise ValueError(
            "an array does not say what made it: kind='recursion' (SGD, Euler–Maruyama: a step has the moments of "
            "drift and noise exactly) or kind='diffusion' (samples of continuous paths)"
        )
    if interval is None:
        raise ValueError("interval must be given with an array: the time between two states, η for SGD")
    tau, steps = _checks.positive("interval", interval), _checks.whole("every", 1 if every is None else every, 1)
    if kind == "diffusion" and steps > 1:
        raise ValueError(f"every={steps} counts steps of a recursion, which a diffusion does not have; leave it out")
    names = tuple(variables) if variables else tuple(f"x{i}" for i in range(states.shape[2]))
    if len(names) != states.shape[2]:
        raise ValueError(f"the array has {states.shape[2]} variables, the expected process {len(names)}")
    return Trajectory((states,), names, tau, tau / steps if kind == "recursion" else 0.0, 0)


def _of_dataset(run: xr.Dataset, kind: str) -> Trajectory:
    dims = dimensions(run)
    if dims not in (("path", "time"), ("replica", "time")) or "time" not in run.coords:
        raise ValueError(
            f"trajectory must have dimensions path or replica and time, got {tuple(run.dims)}; run with save_every=1"
        )
    states = saved_states(run, dims)
    if not states.names:
        raise ValueError(f"trajectory has no variable over {' and '.join(dims)}; run with save_every=1")
    scheme = run.attrs.get("scheme")
    if scheme == "leimkuhler_matthews":
        raise ValueError(
            "the states of scheme 'leimkuhler_matthews' share noise with their neighbours and are no Markov chain: "
            "their increments over k steps are too small by 1/2k; simulate with scheme='euler_maruyama'"
        )
    if run.attrs.get("walls") == "absorb":
        raise ValueError("paths that an absorbing wall stopped have no increments; simulate without walls='absorb'")
    tau = time_between("trajectory", run)
    if kind == "auto":
        exact = "learning_rate" in run.attrs or (scheme == "euler_maruyama" and run.attrs.get("substeps", 1) == 1)
        kind = "recursion" if exact else "diffusion"
    counts = np.asarray(run["step"]) if "step" in run.coords else np.arange(run.sizes["time"])
    unit = tau / int(counts[1] - counts[0]) if kind == "recursion" else 0.0
    keep = ("landscape", "scheme", "batch_size", "sampling", "momentum", "epoch_steps", "temperature", "seed")
    attrs = {name: run.attrs[name] for name in keep if name in run.attrs}
    return Trajectory(states.parts, states.names, tau, unit, int(counts[0]), attrs)
