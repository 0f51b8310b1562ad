"""The potential Φ = −T log ρ from trajectories, with the error bars that correlated samples deserve."""

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
import scipy.sparse
import xarray as xr

from sde_sgd import _checks, _memory
from sde_sgd.errors import TooFewSamples
from sde_sgd.grid import Grid

from ._blocks import Blocks, blocks, slowest
from ._kernel_density import Smoother, choose_bandwidth
from ._samples import losses, project, read

METHODS = ("histogram", "kernel")
GAUGES = ("mean", "minimum")
_AT_ONCE = 2**22  # numbers in one batch of resampled densities
# log(ρ̂_2h/ρ̂_h) where h|∂ log ρ| = 1: the kernel then sees samples h away, if any, and E Φ̂ − Φ is −T/2
_EXTRAPOLATED = 1.5


def potential_from_samples(
    samples: Any,
    temperature: float | None,
    grid: Grid,
    *,
    burn_in: int,
    project: Any = None,
    method: str = "histogram",
    bandwidth: float | Sequence[float] | None = None,
    gauge: str = "mean",
    loss: Any = None,
    least_visits: float = 10.0,
    resamples: int = 200,
    keep_resamples: bool = False,
    seed: int = 0,
) -> xr.Dataset:
    r"""Φ̂ = −T log ρ̂ of samples, or of a projection of them, on a grid; and E[f | cell] beside it.

    Parameters
    ----------
    samples : Dataset of `simulate` or `sgd` with states saved, or an array (chains, time, d) or (time, d), whose
        variables are then x0, x1, … A chain may end early, in NaN. Without a time, each path is one independent draw.
    temperature : T; None takes that of the Dataset.
    grid : one to three axes. An axis it calls periodic takes samples modulo its period. At a side beyond which no
        sample lies the density is mirrored, as a wall asks; beyond any other side the kernel uses the samples there.
    burn_in : saved states dropped at the start of each chain.
    project : what the axes are: None, all variables; names; a matrix (k, d), whose axes are u0, u1, …; or a mapping
        of new names to directions, as in `Histogram`.
    method : "histogram", the mean of ρ over each cell, or "kernel", a Gaussian of standard deviation `bandwidth` along
        each axis. By default h_i = ℓ_i (4/((k+2) n_h))^{1/(k+4)}, where ℓ_i = [E (∂_i log ρ)²]^{−½} (σ, for a Gaussian)
        and n_h is the effective samples of e^{ix_i/h_i}: correlated samples get a wider kernel.
    gauge : where Φ̂ is 0, and so which difference the error is that of: "mean", E_ρ̂[Φ̂] = 0 over the cells shown;
        "minimum", the cell with the lowest Φ̂, which of many noisy ones is too low by about its own error.
    loss : a landscape, a function of points (n, d), or values in the layout of the samples; for E[f | cell].
    least_visits : cells with fewer independent visits are NaN; 4 or more. So are those where a kernel is so wide that
        it extrapolates, its bias there passing T/2.
    resamples, seed : of the bootstrap. keep_resamples : add `potential_resampled` (resample, cells), from which the
        error of anything made of Φ̂, a barrier for instance, is the standard deviation times `resampled_scale`.

    Returns a Dataset over the axes:

    - `potential`; `potential_error`, its standard error in this gauge, which does not hold the next:
    - `smoothing_bias`, an estimate of E Φ̂ − Φ at the centre, and `smoothing_bias_error`: from a second smoothing (a box
      three times, a kernel twice as wide) and bias ∝ h²; for a kernel within 3h of a wall, bias ∝ h. An estimate
      where neighbouring cells differ by less than about T;
    - `visits`, the number of independent Poisson counts that have the relative variance of ρ̂;
    - with `loss`: `conditional_loss` = E[f | cell] and `conditional_loss_error`. In a projection Φ is not
      E[f | z], nor min f: entropy of the other directions and their D lie between them.

    Samples are resampled in blocks of τ(n/τ)^⅓ within chains, or chains where those are shorter; τ is the largest
    correlation time of x_i and (x_i − mean)² over all chains. attrs: `effective_samples` = n/τ, `correlation_time`,
    `blocks`, `bandwidth` and more.

    Raises `TooFewSamples` below 20 blocks (one chain: n/τ ≈ 90), or where no cell has `least_visits`; ValueError for
    absorbing walls, of the grid or of the run, which have no steady density, and for bad arguments. When not to use it:
    before the samples are stationary, or where a well was never left or never seen, which no sample can tell; and for
    tails beyond log(visits), which are NaN: solve `FokkerPlanck` where a grid fits. Künsch (1989); Silverman (1986),
    §4.3.
    """
    _checks.instance("grid", grid, Grid)
    if "absorbing" in grid.boundary:
        raise ValueError("the grid has an absorbing wall: paths that end there have no steady density; use reflecting")
    _checks.choice("method", method, METHODS)
    _checks.choice("gauge", gauge, GAUGES)
    resamples = _checks.whole("resamples", resamples, 50)
    seed = _checks.whole("seed", seed, 0)
    if _checks.positive("least_visits", least_visits) < 4:
        raise ValueError(f"least_visits must be 4 or more, got {least_visits}; log ρ̂ of fewer has no standard error")
    if bandwidth is not None and method == "histogram":
        raise ValueError('bandwidth belongs to method="kernel"; the cells of the grid are the bandwidth of a histogram')
    temperature = _temperature(temperature, samples)

    chains = read(samples, burn_in)
    z, names = _project(chains, project, grid)
    period = [b - a if wraps else None for a, b, wraps in zip(grid.lower, grid.upper, grid.periodic)]
    tau = slowest(z, chains.lengths, period)
    parts = blocks(chains.lengths, tau)
    lower, upper = np.array(grid.lower), np.array(grid.upper)
    outside = np.stack([(z < lower).any(axis=0), (z > upper).any(axis=0)], axis=1) & ~np.array(grid.periodic)[:, None]
    open_sides = tuple((bool(low), bool(high)) for low, high in outside)
    inside = ((z >= lower) & (z <= upper)).all(axis=1)
    if not inside.any():
        raise TooFewSamples(f"none of the {len(z)} samples lies on the grid; take a grid around them")
    settings: dict[str, Any] = {}
    widths = None
    if method == "kernel":
        widths, settings = _bandwidth(bandwidth, z, chains.lengths, grid, open_sides)
    smoother = Smoother(grid, widths, open_sides)
    f = None if loss is None else losses(loss, chains)
    needed = 8.0 * resamples * grid.size * (10 if f is None else 12)  # the peak, as measured
    _memory.refuse_beyond(needed, f"resampling {grid.size} cells {resamples} times", "take fewer of either")

    weights = parts.weights(resamples, seed)
    result = _estimates(smoother, z, f, parts, weights, temperature, gauge, least_visits)
    drawn = result.pop("potential_resampled")
    data = xr.Dataset({name: grid.data_array(values, names, name) for name, values in result.items()})
    if keep_resamples:
        data["potential_resampled"] = (("resample", *names), drawn.reshape(-1, *grid.shape))
    return data.assign_attrs(
        temperature=temperature, method=method, gauge=gauge, **settings, samples=len(z), chains=len(chains.lengths),
        chains_ended=chains.ended, burn_in=burn_in, outside=int((~inside).sum()), correlation_time=tau,
        effective_samples=len(z) / tau, blocks=parts.count, block_length=parts.length, least_visits=float(least_visits),
        cells_left_out=int(np.isnan(result["potential"]).sum()), resamples=resamples, seed=seed,
        resampled_scale=math.sqrt(parts.count / (parts.count - 1)), boundary=" ".join(grid.boundary),
    )  # fmt: skip


_project = project  # the argument has the name of the function


def _temperature(given: float | None, samples: Any) -> float:
    if given is not None:
        return _checks.positive("temperature", given)
    known = samples.attrs.get("temperature") if isinstance(samples, xr.Dataset) else None
    if not isinstance(known, Real) or samples.attrs.get("momentum", 0.0):
        why = "with momentum the position is at T/(1 − μ)" if known is not None else "the samples do not say it"
        raise ValueError(f"temperature must be given as a number: {why}")
    return _checks.positive("temperature", float(known))


def _bandwidth(
    given: Any, z: np.ndarray, lengths: np.ndarray, grid: Grid, open_sides: tuple[tuple[bool, bool], ...]
) -> tuple[tuple[float, ...], dict[str, Any]]:
    if given is None:
        widths, samples = choose_bandwidth(z, lengths, grid, open_sides)
        settings: dict[str, Any] = {"bandwidth_rule": "l (4/((k+2) n))^(1/(k+4))", "bandwidth_samples": samples}
    else:
        entries = [given] * grid.dim if isinstance(given, Real) else given
        entries = _checks.sequence("bandwidth", entries, grid.dim, "numbers, one per axis, or be one number")
        widths = tuple(_checks.positive("bandwidth", h) for h in entries)
        settings = {"bandwidth_rule": "given"}
    for name, h, a, b, spread in zip("012", widths, grid.lower, grid.upper, z.std(axis=0)):
        for limit, what in ((b - a, "its box"), (spread, "the standard deviation of the samples")):
            if h > limit:
                raise ValueError(
                    f"bandwidth {h:g} of axis {name} is wider than {what}, {limit:.3g}; give a smaller one"
                )
    return widths, settings | {"bandwidth": list(widths)}


def _estimates(
    smoother: Smoother,
    z: np.ndarray,
    f: np.ndarray | None,
    parts: Blocks,
    weights: np.ndarray,
    temperature: float,
    gauge: str,
    least_visits: float,
) -> dict[str, np.ndarray]:
    """Every field of the result over the cells of the grid, flat; `potential_resampled` with the draws first."""
    cells = smoother.cells(z)
    seen = cells >= 0
    table = _Table(smoother, parts.label[seen], cells[seen], parts.count)
    once = np.ones((1, parts.count))
    density, wide = table.smoothed(once)[0], table.smoothed(once, wide=True)[0]
    drawn = table.smoothed(weights)
    unbiased = parts.count / (parts.count - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        visits = np.where(density > 0, density**2 / (drawn.var(axis=0) * unbiased), 0.0)
    visits = np.minimum(visits, len(z))
    shown = visits >= least_visits
    if not shown.any():
        raise TooFewSamples(
            f"no cell has {least_visits:g} independent visits, the most is {visits.max():.3g}; take larger cells, "
            "fewer axes, or run longer"
        )
    if smoother.bandwidth is not None:
        shown &= wide <= density * math.exp(_EXTRAPOLATED)
        if not shown.any():
            raise ValueError(
                f"the kernel, of bandwidth {', '.join(f'{h:.3g}' for h in smoother.bandwidth)}, is wider than the "
                "density: give a smaller one, or leave it out"
            )

    density, wide, drawn = density[shown], wide[shown], drawn[:, shown]
    floor = density / (2 * visits[shown])  # half a visit, where a draw has none
    potential = -temperature * np.log(density)
    lifted = np.maximum(drawn, floor)
    changes = -temperature * np.log(lifted / density)
    factor = temperature * smoother.bias_factor()[shown]
    bias = factor * np.log(density / np.maximum(wide, floor))
    biases = factor * np.log(lifted / np.maximum(table.smoothed(weights, wide=True)[:, shown], floor))
    at = np.zeros(len(density))
    if gauge == "mean":
        at += density / density.sum()
    else:
        at[np.argmin(potential)] = 1.0
    potential, changes, bias, biases = (v - (v @ at)[..., None] for v in (potential, changes, bias, biases))

    def spread(values: np.ndarray) -> np.ndarray:
        result = np.full((*values.shape[:-1], shown.size), np.nan)
        result[..., shown] = values
        return result

    result = {
        "potential": spread(potential),
        "potential_error": spread(changes.std(axis=0) * math.sqrt(unbiased)),
        "smoothing_bias": spread(bias),
        "smoothing_bias_error": spread(biases.std(axis=0) * math.sqrt(unbiased)),
        "visits": visits,
        "potential_resampled": spread(potential + changes),
    }
    if f is not None:
        middle = f.mean()  # sums of differences from it do not cancel
        rises = _Table(smoother, parts.label[seen], cells[seen], parts.count, f[seen] - middle)
        mean = rises.smoothed(once)[0, shown] / density
        moved = np.where(drawn > 0, rises.smoothed(weights)[:, shown] / np.maximum(drawn, floor * 1e-6), mean)
        result["conditional_loss"] = spread(middle + mean)
        result["conditional_loss_error"] = spread(moved.std(axis=0) * math.sqrt(unbiased))
    return result


class _Table:
    """Sums of `values` (1, for counts) per block and fine cell, smoothed for any weights of the blocks."""

    def __init__(
        self,
        smoother: Smoother,
        label: np.ndarray,
        cells: np.ndarray,
        count: int,
        values: np.ndarray | None = None,
    ):
        size = math.prod(smoother.shape)
        data = np.ones(len(cells)) if values is None else values
        self._sums = scipy.sparse.coo_array((data, (label, cells)), shape=(count, size)).tocsr()
        self._smoother = smoother

    def smoothed(self, weights: np.ndarray, wide: bool = False) -> np.ndarray:
        """(draws, cells of the grid) from weights (draws, blocks)."""
        smoother, batch = self._smoother, max(_AT_ONCE // self._sums.shape[1], 1)
        result = np.empty((len(weights), smoother.grid.size))
        for first in range(0, len(weights), batch):
            some = weights[first : first + batch]
            counts = (self._sums.T @ some.T).T.reshape(len(some), *smoother.shape)
            result[first : first + batch] = smoother(counts, wide)
        return result
