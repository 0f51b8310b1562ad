"""The steady state of a generator by subtraction-free elimination, and the evidence that comes with it."""

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from scipy.interpolate import make_interp_spline

from sde_sgd.grid import Grid

from . import _wall_report
from ._dissection import dissect
from ._elimination import log_stationary
from ._inputs import check_memory, steady_bytes

if TYPE_CHECKING:
    from .generator import FokkerPlanck

_FEWEST = 8  # cells along an axis that can be halved


def solve(self: "FokkerPlanck") -> np.ndarray:
    """log ρ per cell, Σ ρ·cell_volume = 1; solved once."""
    if "absorbing" in self.grid.boundary:
        raise ValueError(
            "a grid with absorbing walls loses all its mass: its only steady state is 0; "
            "use boundary='reflecting' or 'periodic'"
        )
    count, label = self._classes
    if count > 1:
        centers = self.grid.centers().reshape(-1, self.grid.dim)
        example = [tuple(centers[int(np.argmax(label == k))].tolist()) for k in range(2)]
        raise ValueError(
            f"the chain falls into {count} classes that exchange no mass (for example the cells at "
            f"{example[0]} and {example[1]}), so the steady state is not unique; "
            "add noise or solve on each part"
        )
    check_memory(steady_bytes(self.grid), "the steady state", self.grid.shape)
    position = np.stack(np.unravel_index(np.arange(self.grid.size), self.grid.shape), axis=1)
    tree = dissect(self.edges.tail, self.edges.head, position)
    check_memory(tree.bytes, "the steady state", self.grid.shape)
    log_pi = log_stationary(tree, *self.edges.extended_rates())
    log_pi -= log_pi.max()
    return log_pi - np.log(np.exp(log_pi).sum() * self.grid.cell_volume)


def evidence(self: "FokkerPlanck") -> dict[str, Any]:
    mass = np.exp(self._log_density) * self.grid.cell_volume
    error, source = _error(self)
    return {
        "residual": _residual(self),
        "error": error,
        "error_source": source,
        **_wall_report.evidence(self, mass),
        "added_diffusion_mean": float(mass @ self.added_diffusion.values.ravel()),
    }


def log_steady_state(self: "FokkerPlanck") -> xr.DataArray:
    """log ρ of the steady state Lρ = 0, Σ ρ·cell_volume = 1: finite in every cell, however small ρ is.

    By subtraction-free elimination (Grassmann, Taksar & Heyman 1985) in extended range: each ρ(x) is
    the solution of the discrete equations to about 1e-12 relative to itself, or to 1e-16 |log ρ| if that is
    larger, so that Φ = −T log ρ is right where nothing ever goes.
    Solved once, then remembered. `attrs`: `residual`, the largest |inflow − outflow|/(inflow + outflow)
    over the cells; `error`, an estimate of the L1 distance Σ |ρ − exact|·cell_volume at the cell centres from a solve
    with twice the spacing (a third of the distance to it: second order), NaN where that is not possible, as
    `error_source` says; `wall_mass`, the probability in cells beside a wall; `wall_drift`, how much reflecting walls
    that turn a current round change log ρ, on average; `mean_peclet`, the mean under ρ of the largest Péclet number of
    a cell's edges; `added_diffusion_mean`, the mean of ε under ρ. A `BoxWarning` says what to do where the box cuts the
    density, its walls change it, or the cells are too coarse.

    Raises ValueError with absorbing walls, if the chain is not irreducible, or if memory is short.
    """
    return self._field(self._log_density, "log_density", self._evidence)


def steady_state(self: "FokkerPlanck") -> xr.DataArray:
    """ρ of the steady state, Σ ρ·cell_volume = 1, as `log_steady_state`; 0 below e^−745."""
    return self._field(np.exp(self._log_density), "density", self._evidence)


def _error(self: "FokkerPlanck") -> tuple[float, str]:
    """L1 distance to the density with half the cells per axis, over (ratio of spacings)² − 1, and where it is from.

    The density is of second order as values at the cell centres, so it is compared there: a cubic spline along each
    axis, of fourth order, gives it at the centres of the larger cells, also where an odd number is halved.
    """
    grid = self.grid
    if min(grid.shape) < _FEWEST:
        return float("nan"), f"none: an axis of {min(grid.shape)} cells cannot be halved, {_FEWEST} are needed"
    for fewer in (0, 1):  # one less may avoid a point at which the drift has no value
        half = Grid(grid.lower, grid.upper, [n // 2 - fewer for n in grid.shape], boundary=grid.boundary)
        try:
            coarse = np.exp(type(self)(self.process, half, max_offset=self.attrs["max_offset"])._log_density)
            break
        except ValueError as fault:
            reason = str(fault)
    else:
        return float("nan"), f"none: with half the cells per axis, {reason}"
    fine = np.exp(self._log_density).reshape(grid.shape)
    for axis, (x, at, wraps) in enumerate(zip(grid.axes, half.axes, grid.periodic)):
        if wraps:
            period = grid.upper[axis] - grid.lower[axis]
            x = np.concatenate([x[-4:] - period, x, x[:4] + period])
            fine = np.concatenate([np.take(fine, range(-4, 0), axis), fine, np.take(fine, range(4), axis)], axis)
        fine = make_interp_spline(x, fine, k=3, axis=axis)(at)
    distance = np.abs(coarse - fine.ravel()).sum() * half.cell_volume
    ratio = np.mean((half.spacing / grid.spacing) ** 2)
    return float(distance / (ratio - 1.0)), "L1, from half the cells per axis"


def _residual(self: "FokkerPlanck") -> float:
    # relative to each cell's density and fastest exit: tails and deep traps count as the bulk does
    log_density, edges, n = self._log_density, self.edges, self.grid.size
    forward, backward = edges.log_rates()
    fastest = np.full(n, -np.inf)
    np.maximum.at(fastest, edges.tail, forward)
    np.maximum.at(fastest, edges.head, backward)
    rise = log_density[edges.head] - log_density[edges.tail]
    at_tail, at_head = fastest[edges.tail], fastest[edges.head]
    outflow = edges.gather(np.exp(forward - at_tail), np.exp(backward - at_head))
    inflow = edges.gather(np.exp(backward + rise - at_tail), np.exp(forward - rise - at_head))
    return float((np.abs(inflow - outflow) / (inflow + outflow)).max())
