"""When a process leaves a region, which of two regions it reaches first, and how it goes from one to the other."""

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from sde_sgd.errors import NotConverged

from . import _reactive
from ._cut_edges import Cut, cut, log_total, region_of, residual, whole
from ._elimination import Elimination, extended

if TYPE_CHECKING:
    from .generator import FokkerPlanck

_LARGEST = 709.0  # log of the largest float64
_ITERATIONS = 400
_AGREEMENT = 1e-11  # of log ρ between two iterations, besides the rounding of log ρ itself


def mean_exit_time(self: "FokkerPlanck", region: Any, *, log: bool = False) -> xr.DataArray:
    """τ(x), the mean time until the process started at x leaves the region: −L†τ = 1 inside, τ = 0 on its boundary.

    Parameters
    ----------
    region : inequalities such as "x < 1 and y > -2", a boolean DataArray, or a function of points (..., d), as
        everywhere (`Region`). Inequalities and functions are met where they lie between cell centres, a mask ends
        at the faces of its cells.
    log : return log τ instead, for exit times beyond 1e308.

    The result is NaN in cells whose centre is outside. Reflecting walls are no exits, absorbing walls are. Each τ is
    the solution of the discrete equations to about 1e-12 relative to itself, however long (`attrs["residual"]`, the
    largest relative imbalance of a cell), and of second order in the spacing. For the time to reach a set b, give the
    region "not (b)". Dynkin's formula: Pavliotis (2014), Stochastic Processes and Applications, §7.

    Raises ValueError if no cell is inside, if nothing ever leaves some part of the region, or if a time exceeds
    float64 and `log` is False. Not for the time between consecutive transitions: see `transitions`.
    """
    if not isinstance(log, bool | np.bool_):
        raise ValueError(f"log must be True or False, got {log!r}")
    where, inside, elimination, border = _leaving(self, region)
    log_time = elimination.log_backward(np.zeros(self.grid.size))
    if not log and log_time[inside].max() > _LARGEST:
        raise ValueError(
            f"region: the mean exit time reaches e^{log_time[inside].max():.6g}, beyond float64; ask for log=True"
        )
    attrs = {
        "region": where.describe(),
        "residual": residual(self, inside, border.log_leak(), log_time, np.zeros(self.grid.size), border),
    }
    values = np.where(inside, log_time if log else np.exp(np.where(inside, log_time, 0.0)), np.nan)
    return self._field(values, "log_mean_exit_time" if log else "mean_exit_time", attrs)


def committor(self: "FokkerPlanck", a: Any, b: Any) -> xr.DataArray:
    """q(x), the probability that the process started at x reaches b before a: L†q = 0 between, q = 0 on a, 1 on b.

    `a` and `b` are regions as in `mean_exit_time`. What is lost through absorbing walls reaches neither. Each q is
    right relative to itself, however small (`attrs["residual"]`). Raises ValueError if a or b has no cell, if they
    overlap, or if some cells reach neither.
    """
    sides = _reactive.Sides.of(self, a, b)
    log_q = sides.solve(self.edges, (sides.to_a.log_leak(), sides.to_b.log_leak()))[1]
    attrs = {
        "region_a": sides.region_a.describe(),
        "region_b": sides.region_b.describe(),
        "residual": residual(self, sides.keep, sides.log_leak(), log_q, sides.to_b.log_leak(), sides.to_a, sides.to_b),
    }
    return self._field(np.where(sides.b, 1.0, np.exp(log_q)), "committor", attrs)


def quasi_stationary(self: "FokkerPlanck", region: Any) -> xr.Dataset:
    """The density of those that have not left a region yet, after long: −Lρ = μρ inside, μ the rate of leaving.

    The Dataset holds `density` and `log_density` (Σ ρ·cell_volume = 1; 0 and −∞ outside), `rate` and `log_rate` of
    leaving, and `memory` = μ·τ(x), the mean exit time from x in units of 1/μ: 1 where a start at x is forgotten before
    leaving, which is everywhere but near the exits in a metastable region; averaged over ρ it is 1 exactly. NaN
    outside. μ and every ρ are right relative to themselves, however small: inverse iteration with positive vectors
    gives bounds on μ (Collatz 1942), `attrs["rate_error"]` is their relative distance.

    Raises ValueError as `mean_exit_time`, if the region falls into parts (each has a law of its own: ask for one),
    or if two laws decay at so nearly equal rates that none is singled out. Collet, Martínez & San Martín (2013),
    Quasi-Stationary Distributions.
    """
    where, inside, elimination, border = _leaving(self, region)
    parts = _parts(self, inside, border)
    if parts > 1:
        raise ValueError(
            f"region: {where.describe()!r} falls into {parts} parts that exchange no mass, each of which has a "
            "quasi-stationary density of its own; ask for one of them"
        )
    log_density, low, high = _positive_eigenvector(elimination, inside, where.describe())
    log_mu = -0.5 * (low + high)
    log_time = elimination.log_backward(np.zeros(self.grid.size))
    log_density -= np.log(self.grid.cell_volume)
    attrs = {"region": where.describe(), "rate_error": float(np.expm1(high - low))}
    fields = {
        "density": self._field(np.exp(log_density), "density", attrs),
        "log_density": self._field(log_density, "log_density", attrs),
        "memory": self._field(np.where(inside, np.exp(log_time + log_mu), np.nan), "memory", attrs),
        "rate": xr.DataArray(np.exp(log_mu)),
        "log_rate": xr.DataArray(log_mu),
    }
    return xr.Dataset(fields, attrs={**self.attrs, **attrs})


def transitions(self: "FokkerPlanck", a: Any, b: Any) -> xr.Dataset:
    """How the steady state goes from a to b: committors, and density, current and rate of the transitions.

    `a` and `b` are regions as in `mean_exit_time`. With q⁺(x) the probability to reach b before a from x, q⁻(x) that
    to have been in a rather than b last, and ν the transitions a → b per time (as many go b → a):

    - `committor` q⁺, `backward_committor` q⁻ (of the time-reversed process: 1 − q⁺ in detailed balance);
    - `reactive_density` = ρ q⁻ q⁺/`reactive_probability`: where one is when on the way from a to b;
    - `reactive_current`: the current of transitions in units of ν, so that 1 flows through any surface between;
    - `flux` ν; `probability_a`, `probability_b`: of having been last in a, in b; `rate_ab` = ν/probability_a and
      `rate_ba`; `passage_time_ab` = 1/rate_ab, the mean time from coming to a to reaching b, and `passage_time_ba`;
      `transition_time`, the mean duration of a transition; `log_flux`, `log_rate_ab`, `log_rate_ba`, which hold where
      e^… is 0 in float64.

    `attrs`: `flux_error`, the relative spread of ν counted where transitions leave a or b and where they arrive, in
    both directions, which are equal on the grid; `current_error`, the largest surplus of the reactive current at a
    cell: it is a difference, and lost where mass stays between a and b for far longer than a transition takes.

    Raises ValueError as `committor`, as `steady_state`, and if a and b touch. E & Vanden-Eijnden (2006), J. Stat.
    Phys. 123; Metzner, Schütte & Vanden-Eijnden (2009), Multiscale Model. Simul. 7.
    """
    return _reactive.transitions(self, a, b)


def _leaving(self: "FokkerPlanck", region: Any):
    """The region, its cells, the factors of −L on them, and where edges leave it."""
    where, inside = region_of(self, region, "region")
    if inside.all() and "absorbing" not in self.grid.boundary:
        raise ValueError(
            f"region: {where.describe()!r} covers the whole grid, whose walls are not absorbing, so that nothing ever "
            "leaves; take a smaller region, a larger box, or boundary='absorbing'"
        )
    border: Cut = cut(self, inside, ~inside, where, inside=False)
    inner, exits = whole(self, inside, border), extended(border.log_leak())
    try:
        elimination = Elimination.of(self.edges, self.grid.shape, keep=inside, exits=exits, inner=inner)
    except ValueError as fault:
        raise ValueError(f"region: {fault}") from fault
    if not elimination.leaks:
        raise ValueError(f"region: no edge leads out of {where.describe()!r}, so that nothing ever leaves")
    return where, inside, elimination, border


def _parts(self: "FokkerPlanck", inside: np.ndarray, border: Cut) -> int:
    edges, n = self.edges, self.grid.size
    both = whole(self, inside, border)
    ones = np.ones(int(both.sum()), np.int8)
    graph = coo_array((ones, (edges.tail[both], edges.head[both])), shape=(n, n))
    return np.unique(connected_components(graph, directed=False)[1][inside]).size


def _positive_eigenvector(elimination: Elimination, inside: np.ndarray, name: str):
    """log of the law of −L on the kept cells that decays slowest, and bounds on −log of its rate.

    With A the inverse of −L, min_i (Aρ)_i/ρ_i ≤ 1/μ ≤ max_i (Aρ)_i/ρ_i for every ρ > 0. An iteration divides the
    other laws by their rates over μ; where these are near 1, what is left is geometric and is summed (Aitken).
    """
    log_rho = elimination.log_forward(np.zeros(inside.size))
    width, before = np.inf, np.inf
    for step in range(_ITERATIONS):
        log_rho -= log_total(log_rho[inside])
        image = elimination.log_forward(log_rho)
        gain = image[inside] - log_rho[inside]
        low, high = float(gain.min()), float(gain.max())
        before, width = width, high - low
        image -= log_total(image[inside])
        if width <= _AGREEMENT + 1e-15 * np.abs(log_rho[inside]).max():
            return image, low, high
        ratio = width / before
        if step % 4 == 3 and 0.3 < ratio < 1.0:
            change = -np.expm1(log_rho[inside] - image[inside]) * ratio / (1.0 - ratio)
            if change.min() > -0.9:
                image[inside] += np.log1p(change)
        log_rho = image
    raise NotConverged(
        f"region: after {_ITERATIONS} iterations the rate of leaving {name!r} is only known to lie between "
        f"e^{-high:.6g} and e^{-low:.6g}: two parts are left at nearly the same rate; ask for one of them"
    )
