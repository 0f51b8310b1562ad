"""What a step of mini-batch SGD on a network is made of, checked once: its learning rate, its samples, its options."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import sde_sgd as sde
from sde_sgd import _checks
from sde_sgd.paths._sgd import MAX_SVAG, SAMPLING, _temperature

from ._numbers import LARGEST_SEED, from_zero

MAX_STEPS = 2**53
_PROBES = 100_000  # steps at which a schedule given as a function is tried before the run
_PICKS = 2**22  # sample numbers drawn at once: 32 MiB


@dataclass(frozen=True)
class Recursion:
    """w ← w − (η/l)[(1+s)/2 ∇f_B₁ + (1−s)/2 ∇f_B₂ + λw], s = √(2l − 1); for l = 1 SGD with momentum, as torch's."""

    samples: int
    batch_size: int
    sampling: str = "with_replacement"
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    svag: int = 1
    seed: int = 0

    @classmethod
    def checked(cls, samples: int, batch_size, sampling, momentum, nesterov, weight_decay, svag, seed) -> Recursion:
        """ValueError for what cannot be, alone or together."""
        batch_size = _checks.whole("batch_size", batch_size, 1, samples, f"there are {samples} samples")
        _checks.choice("sampling", sampling, list(SAMPLING))
        momentum = from_zero("momentum", momentum, below=1.0)
        weight_decay = from_zero("weight_decay", weight_decay)
        if not isinstance(nesterov, bool | np.bool_):
            raise ValueError(f"nesterov must be True or False, got {nesterov!r}")
        if nesterov and momentum == 0:
            raise ValueError("nesterov=True needs momentum > 0, which it looks ahead along")
        svag = _checks.whole("svag", svag, 1, MAX_SVAG)
        if svag > 1 and (momentum or sampling == "reshuffling"):
            other = f"momentum={momentum:g}" if momentum else "sampling='reshuffling'"
            raise ValueError(f"svag={svag} rescales the noise of plain SGD with independent batches: not with {other}")
        seed = _checks.whole("seed", seed, 0, LARGEST_SEED)
        return cls(samples, batch_size, sampling, momentum, bool(nesterov), weight_decay, svag, seed)

    @property
    def per_epoch(self) -> int:
        """Steps of an epoch: ⌈N/b⌉, and l times as many of SVAG's, which advance the same time."""
        return -(-self.samples // self.batch_size) * self.svag

    @property
    def halves(self) -> tuple[float, ...]:
        """The weights of the batches of one step."""
        spread = float(np.sqrt(2.0 * self.svag - 1.0))
        return (1.0,) if self.svag == 1 else ((1.0 + spread) / 2, (1.0 - spread) / 2)

    def size_of(self, step: int) -> int:
        """Samples in a batch of step `step`: the last one of a reshuffled epoch holds what remains."""
        if self.sampling != "reshuffling":
            return self.batch_size
        return min(self.batch_size, self.samples - step % self.per_epoch * self.batch_size)

    def at_once(self, replicas: int = 1) -> int:
        """Steps whose draws are made together; of reshuffled sampling whole epochs where they are short."""
        steps = max(1, min(1024, _PICKS // (replicas * self.batch_size * len(self.halves))))
        whole = self.sampling == "reshuffling" and self.per_epoch <= steps
        return steps // self.per_epoch * self.per_epoch if whole else steps

    def picks(self, first: int, steps: int, replica: int = 0) -> NDArray[np.int64]:
        """(steps, batches, b), as `sample_indices` draws them; −1 ends the row of a batch that is not full."""
        drawn = sde.sample_indices(
            self.samples, batch_size=self.batch_size, steps=steps, replica=replica, seed=self.seed, svag=self.svag,
            sampling=self.sampling, first_step=first,
        )  # fmt: skip
        return drawn.reshape(steps, len(self.halves), self.batch_size)

    def settings(self) -> dict:
        """The options as attributes of a result."""
        return asdict(self) | {"nesterov": int(self.nesterov), "epoch_steps": self.per_epoch}

    def temperature(self, rates: Rates) -> dict[str, float]:
        """η/2b where the noise has one temperature."""
        return {} if rates.number is None else _temperature(rates.number, self.batch_size, self.samples,
                                                           self.sampling, None)  # fmt: skip


class Rates:
    """η of each step, from a number, an array of one per step, or a function of an array of steps."""

    def __init__(self, value, steps: int):
        self.number: float | None = None
        self._function: Callable | None = value if callable(value) else None
        self._array: NDArray[np.float64] | None = None
        if self._function is not None:
            self._probe = self._of(np.unique(np.linspace(0, max(steps - 1, 0), _PROBES).astype(np.int64)))
        elif np.ndim(value) == 0:
            self.number = _checks.positive("learning_rate", value)
        else:
            self._array = _positive(_checks.finite_array("learning_rate", value, (steps,)).copy(), np.arange(steps))

    def __call__(self, first: int, count: int) -> NDArray[np.float64]:
        if self.number is not None:
            return np.full(count, self.number)
        if self._array is not None:
            return self._array[first : first + count]
        return self._of(np.arange(first, first + count))

    def _of(self, steps: NDArray[np.int64]) -> NDArray[np.float64]:
        assert self._function is not None
        return _positive(_checks.finite_array("learning_rate(steps)", self._function(steps), steps.shape), steps)

    def settings(self) -> dict:
        """η, or the schedule as it prints, with a digest of its values."""
        if self.number is not None:
            return {"learning_rate": self.number}
        values = self._array if self._array is not None else self._probe
        digest = hashlib.blake2b(values.tobytes(), digest_size=8).hexdigest()
        shown = f"{len(values)} values" if self._array is not None else _printed(self._function)
        ends = {"learning_rate_first": float(values[0]), "learning_rate_last": float(values[-1])} if len(values) else {}
        return {"learning_rate": shown, "learning_rate_digest": digest, **ends}


def _printed(function) -> str:
    return getattr(function, "__qualname__", None) or repr(function)


def _positive(values: NDArray[np.float64], steps: NDArray[np.int64]) -> NDArray[np.float64]:
    if not (values > 0).all():
        where = int(np.argmin(values))
        raise ValueError(f"learning_rate must be > 0 at every step, got {values[where]:g} at step {steps[where]}")
    return values


def as_data(inputs, targets, device: torch.device, what: str = "") -> tuple[Tensor, Tensor]:
    """A pair of tensors of one row per sample on `device`; otherwise ValueError."""
    for name, tensor in ((f"{what}inputs", inputs), (f"{what}targets", targets)):
        if not torch.is_tensor(tensor) or tensor.ndim == 0:
            raise ValueError(f"{name} must be a tensor of one row per sample, got {type(tensor).__name__}")
    if len(inputs) == 0 or len(inputs) != len(targets):
        raise ValueError(
            f"{what}inputs hold {len(inputs)} samples and targets {len(targets)}: one target per input, at least 1"
        )
    return inputs.detach().to(device), targets.detach().to(device)


def are_labels(targets: Tensor) -> bool:
    """True for one class number per sample, of which an accuracy can be told."""
    return targets.ndim == 1 and not targets.is_floating_point()
