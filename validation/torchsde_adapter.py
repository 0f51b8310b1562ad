"""The same stochastic differential equation through torchsde: an independent integrator and noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
import torchsde
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from sde_sgd.errors import Diverged

from ._blocks import BlockHistogram

SEGMENT_STEPS = 10_000  # beyond it BrownianInterval's tree is deep and float time loses digits
_SEGMENT_BYTES = 64 * 2**20  # states kept at once
_EVALUATIONS = 40_000  # paths × samples evaluated together, so that a finite sum's temporaries stay in cache


class TorchSDE:
    """dx = b(x) dt + L(x) dW with L Lᵀ = 2T D(x), in the form ``torchsde.sdeint`` takes.

    L is the lower Cholesky factor of 2T D; where D loses rank (a pivot of 0 to rounding) its column is 0.
    ``f_and_g`` evaluates drift and diffusion together, so that a finite sum goes through its samples once.

    Parameters
    ----------
    process : Process
        With a number as temperature; drift and D are its own, evaluated on float64 tensors.

    Raises
    ------
    ValueError
        A temperature that depends on time; on use, D with a clearly negative pivot.

    Itô only: torchsde's Stratonovich methods (heun, midpoint, …) would integrate another equation.
    """

    noise_type = "general"
    sde_type = "ito"

    def __init__(self, process):
        if callable(process.temperature):
            raise ValueError(
                "the temperature is a schedule of time: only a constant number is supported here"
            )
        self._temperature = float(process.temperature)
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
                f"the diffusion matrix is not positive semi-definite: pivot {float(pivot.min()):.3g}"
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
) -> Iterator[NDArray[np.float64]]:
    """Euler–Maruyama states x_{n+1} = x_n + h b(x_n) + √(2T D(x_n)) ΔW_n from ``torchsde.sdeint``.

    Yields arrays (saves, paths, d), a segment of time each: the states after burn_in + every,
    burn_in + 2·every, … steps. Time restarts at 0 in every segment (at most 10⁴ steps and 64 MiB of states),
    whose Brownian motion is a ``BrownianInterval`` keyed by (seed, segment). Periodic axes of the process'
    domain are wrapped; walls are not known to torchsde.

    Parameters
    ----------
    start : (d,) one point for all paths, or (paths, d).
    step : h > 0, in the time of the process (Σ η for SGD).
    increments : (steps, paths, d), optional
        ΔW_n with variance h to use in place of random ones, for comparing integrators on one noise. The
        factor of 2T D they multiply is lower triangular (:class:`TorchSDE`).

    Raises
    ------
    ValueError
        Shapes or numbers outside their range. ``Diverged`` (a ValueError) when a state is not finite.

    References
    ----------
    Li et al. 2020 (torchsde); Kloeden & Platen 1992, section 10.2 (Euler–Maruyama: weak order 1).

    A hundred times slower than the core's own kernels: use it to check them, not for production.
    """
    if not step > 0 or not np.isfinite(step):
        raise ValueError(f"step={step}: must be positive and finite")
    if paths < 1 or every < 1 or not 0 <= burn_in <= steps - every:
        raise ValueError(
            f"paths={paths}, every={every}, burn_in={burn_in}, steps={steps}: need paths ≥ 1, every ≥ 1 and "
            "0 ≤ burn_in ≤ steps − every, so that at least one state is kept"
        )
    given = None if increments is None else torch.from_numpy(np.array(increments, dtype=np.float64))
    dim = len(process.variables)
    if given is not None and given.shape != (steps, paths, dim):
        raise ValueError(f"increments have shape {tuple(given.shape)}, expected {(steps, paths, dim)}")
    start = np.asarray(start, dtype=np.float64)
    if start.shape not in ((dim,), (paths, dim)) or not np.isfinite(start).all():
        raise ValueError(f"start must be finite, of shape ({dim},) or ({paths}, {dim}); got {start.shape}")

    sde, wrap = TorchSDE(process), _wrapping(process)
    state = torch.from_numpy(np.broadcast_to(start, (paths, dim)).copy())
    saves = max(1, min(SEGMENT_STEPS // every, _SEGMENT_BYTES // (8 * paths * dim)))
    done, segment = 0, 0
    while burn_in - done > 0 or steps - done >= every:
        burning = done < burn_in
        length = (
            min(SEGMENT_STEPS, burn_in - done) if burning else every * min(saves, (steps - done) // every)
        )
        # Summed as torchsde sums it: a save time that differs in the last bit would cost an extra step.
        clock = np.concatenate([[0.0], np.cumsum(np.full(length, float(step)))])
        kept = clock[[0, length]] if burning else clock[::every]
        if given is not None:
            motion = _GivenIncrements(given[done : done + length], step)
        else:
            entropy = int.from_bytes(
                np.random.SeedSequence([seed, segment]).generate_state(4).tobytes(), "little"
            )
            motion = torchsde.BrownianInterval(
                0.0, float(clock[-1]), size=(paths, dim), dtype=torch.float64, dt=float(step), entropy=entropy
            )
        with torch.no_grad():
            states = torchsde.sdeint(
                sde, state, torch.from_numpy(kept.copy()), bm=motion, dt=step, method="euler"
            )
        finite = torch.isfinite(states).all(dim=-1)
        if not finite.all():
            save, path = (int(i) for i in (~finite).nonzero()[0])
            raise Diverged(
                f"path {path} is not finite by step {done + save * (length if burning else every)}: lower step={step}",
                path=path,
                step=done + save * (length if burning else every),
            )
        done, segment, state = done + length, segment + 1, wrap(states[-1])
        if not burning:
            yield wrap(states[1:]).numpy()


def simulate_torchsde(
    process,
    start: ArrayLike,
    *,
    grid,
    step: float,
    steps: int,
    paths: int,
    burn_in: int = 0,
    every: int = 1,
    blocks: int = 8,
    seed: int = 0,
    increments: ArrayLike | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> xr.Dataset:
    """Density of the process on a grid: histogram of :func:`torchsde_states` in independent blocks of paths.

    density = (1/B) Σ_b counts_b / (n_b · cell volume), with n_b all samples of block b inside *and* outside
    the grid, so that it integrates to the fraction inside; ``density_error`` is the standard deviation of
    the B blocks' densities over √B. Blocks share no path, so the error includes correlation in time.

    Parameters
    ----------
    grid : Grid
    burn_in, every : steps left out at first, and steps between samples.
    blocks : B ≥ 2, a divisor of ``paths``.
    progress : called with (steps done, steps) after every segment.
    The others as in :func:`torchsde_states`.

    Returns
    -------
    xarray.Dataset
        ``counts`` (block, *variables) int64, ``density`` and ``density_error`` (*variables), ``outside``
        samples off the grid, ``state`` (path, component) the last states; settings in attrs.

    Raises
    ------
    ValueError
        As :func:`torchsde_states`; a number of blocks that does not divide the paths; a grid whose dimension
        or periodic axes are not the process'.
    """
    _check_grid(grid, process)
    histogram = BlockHistogram(grid, paths, blocks)
    done, last = burn_in, None
    for states in torchsde_states(
        process,
        start,
        step=step,
        steps=steps,
        paths=paths,
        burn_in=burn_in,
        every=every,
        seed=seed,
        increments=increments,
    ):
        histogram.add(states)
        done, last = done + every * len(states), states[-1]
        if progress is not None:
            progress(done, steps)
    result = histogram.dataset(tuple(process.variables))
    result["state"] = ("path", "component"), last
    result = result.assign_coords(component=list(process.variables))
    result.attrs |= {
        "integrator": "torchsde euler",
        "torchsde_version": torchsde.__version__,
        "torch_version": str(torch.__version__),
        "temperature": float(process.temperature),
        "step": step,
        "steps": steps,
        "paths": paths,
        "burn_in": burn_in,
        "every": every,
        "seed": seed,
        "noise": "BrownianInterval" if increments is None else "given",
    }
    return result


def _check_grid(grid, process) -> None:
    if grid.dim != len(process.variables):
        raise ValueError(
            f"the grid has {grid.dim} axes, the process the variables {', '.join(process.variables)}"
        )
    if grid.periodic != process.domain.periodic:
        raise ValueError(
            f"periodic axes of the grid {grid.periodic} and of the process {process.domain.periodic} differ: set the "
            "grid's boundary or the landscape's domain"
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
