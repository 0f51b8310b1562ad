"""The same stochastic differential equation through torchsde: an independent integrator and noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
import torchsde
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from sde_sgd import Process, _checks, _memory
from sde_sgd.errors import Diverged, TooFewSamples

SEGMENT_STEPS = 10_000  # beyond it BrownianInterval's tree is deep and float time loses digits
_SEGMENT_BYTES = 8 * 2**20  # states kept at once; also how often a long run reports and can be interrupted
_REMEMBERED = 64  # arrays like the states held at once, most of them in BrownianInterval's cache
_EVALUATIONS = 40_000  # paths × samples evaluated together, so that a finite sum's temporaries stay in cache


class TorchSDE:
    """dx = b(x) dt + L(x) dW with L Lᵀ = 2T D(x), in the form ``torchsde.sdeint`` takes.

    L is the lower Cholesky factor of 2T D; where D loses rank (a pivot of 0 to rounding) its column is 0.
    ``f_and_g`` evaluates drift and diffusion together, so that a finite sum goes through its samples once.

    Parameters
    ----------
    process : Process
        Drift and D are its own, evaluated on float64 tensors.

    Raises
    ------
    ValueError
        What is no process; on use, D with a clearly negative pivot.

    Itô only: torchsde's Stratonovich methods (heun, midpoint, …) would integrate another equation.
    """

    noise_type = "general"
    sde_type = "ito"

    def __init__(self, process):
        _checks.instance("process", process, Process, "make one with landscape.at_temperature(T)")
        self._temperature = process.constant_temperature
        self._evaluator = process.evaluator(torch)
        samples = getattr(process.landscape, "samples", None)
        self._rows = None if samples is None else max(1, _EVALUATIONS // samples)

    def f_and_g(self, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """(b, L) at y (paths, d): shapes (paths, d) and (paths, d, d)."""
        chunks = y.split(self._rows or len(y))
        parts = [self._evaluator.drift_and_diffusion(rows, self._temperature) for rows in chunks]
        drift = torch.cat([part[0] for part in parts])
        return drift, cholesky_factor(2.0 * self._temperature * torch.cat([part[1] for part in parts]))


def cholesky_factor(matrix: Tensor) -> Tensor:
    """Lower triangular L with L Lᵀ = ``matrix`` (…, d, d), positive semi-definite.

    Row by row rather than LAPACK: one vectorised pass over all paths for the small d used here, and
    semi-definite matrices, whose zero pivots end a plain factorisation, are allowed. ValueError where a
    pivot is below −1e-12 of the trace.
    """
    size = matrix.shape[-1]
    factor = torch.zeros_like(matrix)
    rounding = 1e-12 * matrix.diagonal(dim1=-2, dim2=-1).sum(-1).abs()
    for j in range(size):
        pivot = matrix[..., j, j] - factor[..., j, :j].square().sum(-1)
        if (pivot < -rounding).any():
            raise ValueError(
                f"the diffusion matrix is not positive semi-definite (pivot {float(pivot.min()):.3g}): "
                "no noise has that covariance; check D"
            )
        root = pivot.clamp_min(0.0).sqrt()
        factor[..., j, j] = root
        degenerate = pivot <= 1e-3 * rounding
        for i in range(j + 1, size):
            below = matrix[..., i, j] - (factor[..., i, :j] * factor[..., j, :j]).sum(-1)
            factor[..., i, j] = torch.where(degenerate, 0.0, below / root)
    return factor


class _GivenIncrements:
    """Prescribed W(t + h) − W(t), h = step, behind the call interface of ``BrownianInterval``."""

    levy_area_approximation = "none"

    def __init__(self, increments: Tensor, step: float):
        self._increments, self._step = increments, step
        self.shape = increments.shape[1:]

    def __call__(self, start, end=None, **_levy) -> Tensor:
        return self._increments[round(float(start) / self._step)]


def torchsde_states(
    process,
    start: ArrayLike,
    *,
    step: float,
    steps: int,
    paths: int,
    burn_in: int = 0,
    every: int = 1,
    seed: int = 0,
    increments: ArrayLike | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Iterator[NDArray[np.float64]]:
    """Euler–Maruyama states x_{n+1} = x_n + h b(x_n) + √(2T D(x_n)) ΔW_n from ``torchsde.sdeint``.

    Gives an iterator of arrays (saves, paths, d), a segment of time each: the states after burn_in + every,
    burn_in + 2·every, … steps. Arguments are checked at once; the work is done as one iterates. Time restarts
    at 0 in every segment (at most 10⁴ steps and 8 MiB of states, but one save at least), whose Brownian motion is a
    ``BrownianInterval`` keyed by (seed, segment). Periodic axes of the process' domain are wrapped; walls are
    not known to torchsde.

    Parameters
    ----------
    start : (d,) one point for all paths, or (paths, d), inside the process' domain.
    step : h > 0, in the time of the process (Σ η for SGD).
    increments : (steps, paths, d), optional
        ΔW_n with variance h to use in place of random ones, for comparing integrators on one noise. The
        factor of 2T D they multiply is lower triangular (:class:`TorchSDE`), as in ``sde_sgd.simulate``.
    progress : called as progress(steps done, steps) after every segment.

    Raises
    ------
    ValueError
        Shapes or numbers outside their range, NaN, more paths than fit in memory. ``Diverged`` (a ValueError) when
        a state is not finite.

    References
    ----------
    Li et al. 2020 (torchsde); Kloeden & Platen 1992, section 10.2 (Euler–Maruyama: weak order 1).

    A hundred times slower than the core's own kernels: use it to check them, not for production.
    """
    sde = TorchSDE(process)
    step = _checks.positive("step", step)
    paths = _checks.whole("paths", paths, 1)
    steps = _checks.whole("steps", steps, 1)
    every = _checks.whole("every", every, 1)
    burn_in = _checks.whole("burn_in", burn_in, 0)
    seed = _checks.whole("seed", seed, 0)
    _checks.function("progress", progress)
    if burn_in + every > steps:
        raise TooFewSamples(f"no state is kept: burn_in {burn_in} + every {every} exceeds {steps} steps")
    dim = process.dim
    start = _checks.finite_array("start", start)
    if start.shape not in ((dim,), (paths, dim)):
        raise ValueError(f"start must have shape ({dim},) or ({paths}, {dim}); got {start.shape}")
    process.domain.check("start", start)
    # States, drift and D with its factor, and what BrownianInterval remembers.
    _memory.refuse_beyond(8 * paths * dim * (_REMEMBERED + 8 * dim), f"{paths} paths through torchsde", "run fewer")
    given = None
    if increments is not None:
        given = torch.from_numpy(_checks.finite_array("increments", increments, (steps, paths, dim)))
    state = torch.from_numpy(np.broadcast_to(start, (paths, dim)).copy())
    return _segments(sde, _wrapping(process), state, step, steps, burn_in, every, seed, given, progress)


def _segments(
    sde: TorchSDE,
    wrap: Callable[[Tensor], Tensor],
    state: Tensor,
    step: float,
    steps: int,
    burn_in: int,
    every: int,
    seed: int,
    given: Tensor | None,
    progress: Callable[[int, int], object] | None,
) -> Iterator[NDArray[np.float64]]:
    """The states of `torchsde_states`, whose arguments these are, checked."""
    paths, dim = state.shape
    longest = min(SEGMENT_STEPS, max(1, _SEGMENT_BYTES // (8 * paths * dim)) * every)
    done, segment = 0, 0
    while done < burn_in or steps - done >= every:
        burning = done < burn_in
        left = (burn_in if burning else steps) - done
        length = min(longest, left) if burning else max(every, min(longest, left) // every * every)
        stride = length if burning else every
        # Summed as torchsde sums it: a save time that differs in the last bit would cost an extra step.
        clock = np.concatenate([[0.0], np.cumsum(np.full(length, step))])
        if given is None:
            motion = _brownian_motion(clock[-1], step, (paths, dim), seed, segment)
        else:
            motion = _GivenIncrements(given[done : done + length], step)
        times = torch.from_numpy(clock[::stride].copy())
        with torch.no_grad():
            states = torchsde.sdeint(sde, state, times, bm=motion, dt=step, method="euler")
        finite = torch.isfinite(states).all(dim=-1)
        if not finite.all():
            save, path = (int(i) for i in (~finite).nonzero()[0])
            reached = done + save * stride
            raise Diverged(f"path {path} is not finite by step {reached}: lower step={step:g}", path=path, step=reached)
        done, segment, state = done + length, segment + 1, wrap(states[-1])
        if progress is not None:
            progress(done, steps)
        if not burning:
            yield wrap(states[1:]).numpy()


def _brownian_motion(end: float, step: float, size: tuple[int, int], seed: int, segment: int):
    """torchsde's own noise on [0, end]; without ``dt`` its tree would be built for the wrong step, slowly."""
    key = np.random.SeedSequence([seed, segment]).generate_state(4).tobytes()
    return torchsde.BrownianInterval(
        0.0, float(end), size=size, dtype=torch.float64, dt=float(step), entropy=int.from_bytes(key, "little")
    )


def _wrapping(process) -> Callable[[Tensor], Tensor]:
    """Periodic coordinates back into their period."""
    domain = process.domain
    periodic = [axis for axis, wraps in enumerate(domain.periodic) if wraps]
    if not periodic:
        return lambda states: states

    def wrap(states: Tensor) -> Tensor:
        states = states.clone()
        for axis in periodic:
            lower, upper = domain.bounds[axis]
            states[..., axis] = lower + torch.remainder(states[..., axis] - lower, upper - lower)
        return states

    return wrap
