"""Edges that end where a region begins or ends: which, at what fraction of their length, and at what rates.

The boundary of a region runs between cell centres. An edge x → y that it cuts at the fraction s of its length gets a
massless node z there, so that two edges take its place,

    x → z: (c/s) B(−sP),    z → x: (c/s) B(sP),    z → y: c/(1−s) B(−(1−s)P),    y → z: c/(1−s) B((1−s)P);

eliminating z gives back the edge x → y exactly, so the generator and its steady state are unchanged, but the
boundary is reached where it lies and not at the next cell: exit times and committors are of second order in the
spacing. This is the flux over the shorter length that `_edges` takes at absorbing walls (Gibou, Fedkiw, Cheng & Kang
2002, J. Comput. Phys. 176, for the Laplacian). An edge of several cells may lead over a target that has no cell on
it, or out of one cell into another target: it is cut where the first one begins, seen from each end. What is thinner
than an eighth of such an edge or than a cell, or lies between the last cell centres and a wall, is not seen.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sde_sgd._region import Region

from ._edges import bernoulli

if TYPE_CHECKING:
    from .generator import FokkerPlanck

_LOOKS = 8  # places along an edge at which the region is looked up before the first change is bisected
_HALVINGS = 48
_NEAREST = 1e-9  # of an edge: a boundary that touches a cell centre is this far from it


def region_of(self: "FokkerPlanck", value: Any, what: str) -> tuple[Region, np.ndarray]:
    """The region, and which cells have their centre in it (flat); ValueError if none has."""
    parameters = getattr(getattr(self.process, "landscape", None), "parameters", None)
    region = Region.of(value, self.process.variables, parameters, self.process.domain, what)
    cells = region.contains(self.grid.centers().reshape(-1, self.grid.dim))
    if not cells.any():
        spans = ", ".join(
            f"{name} from {low:g} to {high:g}"
            for name, low, high in zip(self.process.variables, self.grid.lower, self.grid.upper)
        )
        raise ValueError(
            f"{what}: no cell of the grid ({spans}) has its centre in {region.describe()!r}; "
            "enlarge the region or refine"
        )
    return region, cells


def log_rate(log_conductance: np.ndarray, peclet: np.ndarray) -> np.ndarray:
    """log of c·B(−P), finite always."""
    return log_conductance + np.log(bernoulli(-np.abs(peclet))) - np.maximum(-peclet, 0.0)


def log_sum(cells: int, cell: np.ndarray, log_values: np.ndarray) -> np.ndarray:
    """log Σ e^log_values over the entries of each cell; −∞ where there is none."""
    top = np.full(cells, -np.inf)
    np.maximum.at(top, cell, log_values)
    finite = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return finite + np.log(np.bincount(cell, np.exp(log_values - finite[cell]), cells))


def log_total(log_values: np.ndarray) -> float:
    """log Σ e^log_values."""
    top = log_values.max()
    return float(top + np.log(np.exp(log_values - top).sum()))


@dataclass(frozen=True)
class Cut:
    """The edges from kept cells x into a target or over it, cut at z on the way to y; arrays have one entry per cut."""

    cells: int  # of the grid
    edge: np.ndarray  # which edge
    outward: np.ndarray  # whether x is its tail
    x: np.ndarray  # flat indices
    y: np.ndarray  # in the target, or beyond it
    share: np.ndarray  # s
    log_conductance: np.ndarray  # log c
    peclet: np.ndarray  # P from x to y

    @property
    def log_out(self) -> np.ndarray:
        """log of the rate x → z."""
        return log_rate(self.log_conductance - np.log(self.share), self.share * self.peclet)

    def without(self, entries: np.ndarray) -> "Cut":
        """The others of the cuts."""
        names = ("edge", "outward", "x", "y", "share", "log_conductance", "peclet")
        return replace(self, **{name: getattr(self, name)[~entries] for name in names})

    def log_leak(self) -> np.ndarray:
        """log of the rate from each cell of the grid into the target, (cells,)."""
        return log_sum(self.cells, self.x, self.log_out)

    def log_reversed(self, log_pi: np.ndarray) -> np.ndarray:
        """log of the rate x → z of the time-reversed chain: what flows z → x in the steady state, over π_x.

        What enters z comes from x or y, and goes on to x with the same probability whichever it was.
        """
        s, rest, p = self.share, 1.0 - self.share, self.peclet
        near, far = self.log_conductance - np.log(s), self.log_conductance - np.log(rest)
        back, on = log_rate(near, -s * p), log_rate(far, rest * p)
        from_y = log_rate(far, -rest * p) + log_pi[self.y] - log_pi[self.x]
        return np.logaddexp(self.log_out, from_y) + back - np.logaddexp(back, on)


def cut(self: "FokkerPlanck", keep: np.ndarray, target: np.ndarray, region: Region, inside: bool) -> Cut:
    """The edges from cells of `keep` to or over cells of `target` (flat masks), which begins where the region's
    membership becomes `inside` on the way."""
    edges = self.edges
    over = _leads_over(self, keep, target, region, inside)
    outward = keep[edges.tail] & (target[edges.head] | over)
    inward = keep[edges.head] & (target[edges.tail] | over)
    edge = np.concatenate([np.flatnonzero(outward), np.flatnonzero(inward)])
    is_tail = np.arange(edge.size) < outward.sum()
    x = np.where(is_tail, edges.tail[edge], edges.head[edge])
    y = np.where(is_tail, edges.head[edge], edges.tail[edge])
    sign = np.where(is_tail, 1.0, -1.0)
    start = self.grid.centers().reshape(-1, self.grid.dim)[x]
    step = sign[:, None] * edges.offset[edge] * self.grid.spacing
    share = np.clip(_first_change(region, inside, start, step), _NEAREST, 1.0 - _NEAREST)
    return Cut(keep.size, edge, is_tail, x, y, share, np.log(edges.conductance[edge]), sign * edges.peclet[edge])


def _leads_over(self: "FokkerPlanck", keep: np.ndarray, target: np.ndarray, region: Region, inside: bool) -> np.ndarray:
    """Which edges of several cells meet the target between ends that are not in it."""
    edges, over = self.edges, np.zeros(self.edges.tail.size, bool)
    apart = ~target[edges.tail] & ~target[edges.head] & (keep[edges.tail] | keep[edges.head])
    long = np.flatnonzero(apart & (np.abs(edges.offset).max(axis=1) > 1))
    start = self.grid.centers().reshape(-1, self.grid.dim)[edges.tail[long]]
    step = edges.offset[long] * self.grid.spacing
    for look in range(1, _LOOKS):
        if long.size:
            over[long] |= region.contains(start + look / _LOOKS * step) == inside
    return over


def _first_change(region: Region, inside: bool, start: np.ndarray, step: np.ndarray) -> np.ndarray:
    """The least s at which start + s·step has the wanted membership: the first of a few looks, then bisection."""
    if len(start) == 0:
        return np.empty(0)

    def reached(s: np.ndarray) -> np.ndarray:
        return region.contains(start + s[:, None] * step) == inside

    high = np.ones(len(start))
    for look in range(_LOOKS - 1, 0, -1):
        s = np.full(len(start), look / _LOOKS)
        high = np.where(reached(s), s, high)
    low = high - 1.0 / _LOOKS
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        found = reached(middle)
        low, high = np.where(found, low, middle), np.where(found, middle, high)
    return 0.5 * (low + high)


def whole(self: "FokkerPlanck", keep: np.ndarray, *cuts: Cut) -> np.ndarray:
    """Which edges join kept cells and are not cut."""
    inner = keep[self.edges.tail] & keep[self.edges.head]
    for one in cuts:
        inner[one.edge] = False
    return inner


def residual(
    self: "FokkerPlanck",
    keep: np.ndarray,
    log_leak: np.ndarray,
    log_u: np.ndarray,
    log_source: np.ndarray,
    *cuts: Cut,
) -> float:
    """Largest |out − in|/(out + in) over the kept cells of −Lᵀu = e^log_source, out = (leak + Σ rates) u.

    `log_leak` holds the rates into `cuts` and cells that are not kept; leaks through absorbing walls are added here.
    Cells where u is 0 are in balance if nothing comes in, and count as 1 otherwise.
    """
    edges = self.edges
    forward, backward = edges.log_rates()
    inner = whole(self, keep, *cuts)
    tail, head = edges.tail[inner], edges.head[inner]
    with np.errstate(divide="ignore", invalid="ignore"):
        lost = np.logaddexp(log_leak, np.log(edges.leak))
        cell = np.concatenate([tail, head, np.flatnonzero(keep)])
        rates = np.concatenate([forward[inner], backward[inner], lost[keep]])
        out = log_sum(keep.size, cell, rates)
        unit = np.where(np.isfinite(log_u), log_u, 0.0)  # u = 0 where nothing is reached: both sides as they are
        out = np.where(np.isfinite(log_u), out, -np.inf)
        arriving = np.concatenate(
            [
                forward[inner] + log_u[head] - unit[tail],
                backward[inner] + log_u[tail] - unit[head],
                (log_source - unit)[keep],
            ]
        )
        into = log_sum(keep.size, cell, arriving)
        both_zero = (into == -np.inf) & (out == -np.inf)
        apart = np.where(both_zero, 0.0, np.abs(np.tanh(0.5 * (into - out))))
    return float(apart[keep].max())
