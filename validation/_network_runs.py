"""What the runs of a network's SDE share: checked arguments, normals by replica and step, torchsde in segments."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sde_sgd.errors import Diverged

if TYPE_CHECKING:
    from .network_sde import NetworkSDE

BLOCK = 32  # steps whose normals are drawn together; every bit depends on it


@dataclass
class Run:
    """The arguments of a run, checked. `start` is (replicas, d), `increments` (steps, replicas, N) or None."""

    steps: int
    step: float
    replicas: int
    start: Tensor
    every: int
    from_start: bool
    first_replica: int
    first_step: int
    seed: int
    increments: Tensor | None

    def normals(self, block: int, samples: int) -> NDArray[np.float64]:
        """(replicas, 32, N) standard normals, a function of (seed, replica, block)."""
        drawn = np.empty((self.replicas, BLOCK, samples))
        for k in range(self.replicas):
            key = np.random.SeedSequence([self.seed, self.first_replica + k, block])
            np.random.Generator(np.random.Philox(key)).standard_normal(out=drawn[k])
        return drawn

    def require_finite(self, state: Tensor, step: int) -> None:
        finite = state.isfinite().all(dim=1)
        if not finite.all():
            bad = self.first_replica + int((~finite).int().argmax())
            raise Diverged(
                f"the weights of replica {bad} are no longer finite by step {self.first_step + step} "
                f"({int((~finite).sum())} such replicas): lower step={self.step:g}",
                path=bad, step=self.first_step + step,
            )  # fmt: skip


def torchsde_segments(sde: NetworkSDE, run: Run, progress: Callable[[int, int], object] | None) -> Iterator[Tensor]:
    """States (replicas, d) after every `run.every` steps, from segments of at most 10⁴ steps that begin at time 0."""
    import torchsde

    from .torchsde_adapter import _SEGMENT_BYTES, SEGMENT_STEPS, _brownian_motion, _GivenIncrements

    saves = max(1, _SEGMENT_BYTES // (8 * run.start.numel()))
    longest = min(SEGMENT_STEPS // run.every, saves) * run.every or SEGMENT_STEPS
    state, done, segment = run.start, 0, 0
    steps = run.steps // run.every * run.every
    while done < steps:
        length = min(longest, steps - done)
        if run.every > SEGMENT_STEPS:
            length = min(length, run.every - done % run.every)
        stride = min(run.every, length)
        # Summed as torchsde sums it: a save time that differs in the last bit would cost an extra step.
        clock = np.concatenate([[0.0], np.cumsum(np.full(length, run.step))])
        if run.increments is not None:
            motion: Any = _GivenIncrements(run.increments[done : done + length].to(sde.device), run.step)
        else:
            size = (run.replicas, sde.samples)
            motion = _OnDevice(_brownian_motion(clock[-1], run.step, size, run.seed, segment), sde.device)
        times = torch.from_numpy(clock[::stride].copy()).to(sde.device)
        with torch.no_grad():
            states = torchsde.sdeint(sde, state, times, bm=motion, dt=run.step, method="euler")
        done, segment, state = done + length, segment + 1, states[-1]
        for row, one in enumerate(states[1:], start=1):
            run.require_finite(one, done - length + row * stride)
            if (done - length + row * stride) % run.every == 0:
                yield one
        if progress is not None:
            progress(done, run.steps)


class _OnDevice:
    """Brownian increments drawn on the processor, the same on every device."""

    levy_area_approximation = "none"

    def __init__(self, motion, device: torch.device):
        self._motion, self._device, self.shape = motion, device, motion.shape

    def __call__(self, start, end=None, **_levy) -> Tensor:
        return self._motion(start, end).to(self._device)
