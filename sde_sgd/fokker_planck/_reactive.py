"""Transition path theory on the chain: how the steady state goes from one region to another."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from sde_sgd._region import Region

from ._cut_edges import Cut, cut, log_sum, log_total, region_of, whole
from ._elimination import Elimination, Rates, extended

if TYPE_CHECKING:
    from .generator import FokkerPlanck


@dataclass(frozen=True)
class _Reversed:
    """The chain run backwards in its steady state: the rate x → y is π_y O_yx/π_x."""

    tail: np.ndarray
    head: np.ndarray
    leak: np.ndarray
    log_rates: np.ndarray  # (edges, 2), forward and backward

    def extended_rates(self) -> tuple[np.ndarray, np.ndarray]:
        return extended(self.log_rates.ravel())


@dataclass(frozen=True)
class Sides:
    """Two regions, the cells of each and those of neither, and the edges that lead from these into either."""

    region_a: Region
    region_b: Region
    a: np.ndarray
    b: np.ndarray
    keep: np.ndarray
    shape: tuple[int, ...]
    to_a: Cut
    to_b: Cut
    inner: np.ndarray  # which edges join cells of neither and meet neither

    @classmethod
    def of(cls, fp: "FokkerPlanck", a: Any, b: Any) -> "Sides":
        region_a, in_a = region_of(fp, a, "a")
        region_b, in_b = region_of(fp, b, "b")
        if (in_a & in_b).any():
            x = fp.grid.centers().reshape(-1, fp.grid.dim)[int(np.argmax(in_a & in_b))]
            raise ValueError(
                f"a and b overlap in {int((in_a & in_b).sum())} cells, for example at {tuple(x.tolist())}; "
                "they must be apart"
            )
        keep = ~(in_a | in_b)
        if not keep.any():
            raise ValueError("a and b cover the whole grid: nothing lies between them; make them smaller")
        to_a = cut(fp, keep, in_a, region_a, inside=True)
        to_b = cut(fp, keep, in_b, region_b, inside=True)
        # an edge that meets both ends at the nearer one
        key_a, key_b = (2 * to.edge + to.outward for to in (to_a, to_b))
        _, i, j = np.intersect1d(key_a, key_b, return_indices=True)
        nearer = to_a.share[i] < to_b.share[j]
        to_a = to_a.without(np.isin(np.arange(key_a.size), i[~nearer]))
        to_b = to_b.without(np.isin(np.arange(key_b.size), j[nearer]))
        inner = whole(fp, keep, to_a, to_b)
        return cls(region_a, region_b, in_a, in_b, keep, fp.grid.shape, to_a, to_b, inner)

    def log_leak(self) -> np.ndarray:
        return np.logaddexp(self.to_a.log_leak(), self.to_b.log_leak())

    def solve(self, edges: Rates, log_leaks: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """log of the probabilities to reach a, and b, first, (2, cells); −∞ in the cells of a and b."""
        exits = extended(np.logaddexp(*log_leaks))
        try:
            elimination = Elimination.of(edges, self.shape, keep=self.keep, exits=exits, inner=self.inner)
        except ValueError as fault:
            raise ValueError(f"a and b: {fault}; every cell must reach one of them") from fault
        return np.minimum(elimination.log_backward(np.stack(log_leaks, axis=1)).T, 0.0)


def transitions(self: "FokkerPlanck", a: Any, b: Any) -> xr.Dataset:
    """See `_transitions.transitions`."""
    sides = Sides.of(self, a, b)
    edges, n = self.edges, self.grid.size
    log_pi = self._log_density + np.log(self.grid.cell_volume)
    touching = (sides.a[edges.tail] & sides.b[edges.head]) | (sides.b[edges.tail] & sides.a[edges.head])
    if touching.any():
        raise ValueError(
            f"a and b touch: {int(touching.sum())} edges lead from one into the other; leave cells between them"
        )
    log_forward, log_backward = edges.log_rates()
    rise = log_pi[edges.head] - log_pi[edges.tail]
    reverse = _Reversed(edges.tail, edges.head, edges.leak, np.stack([log_backward + rise, log_forward - rise], 1))

    def between(to: Cut, log_rates: np.ndarray) -> np.ndarray:
        return log_sum(n, to.x, log_rates)

    out_a, out_b = sides.to_a.log_out, sides.to_b.log_out
    back_a, back_b = sides.to_a.log_reversed(log_pi), sides.to_b.log_reversed(log_pi)
    to_a, to_b = sides.solve(edges, (between(sides.to_a, out_a), between(sides.to_b, out_b)))
    from_a, from_b = sides.solve(reverse, (between(sides.to_a, back_a), between(sides.to_b, back_b)))

    # transitions per time, counted four times: leaving a for b, arriving at b from a, and the other way round
    crossing = {
        "a out": (sides.to_a, back_a + to_b[sides.to_a.x]),
        "b in": (sides.to_b, out_b + from_a[sides.to_b.x]),
        "b out": (sides.to_b, back_b + to_a[sides.to_b.x]),
        "a in": (sides.to_a, out_a + from_b[sides.to_a.x]),
    }
    counts = np.array([log_total(log_pi[to.x] + values) for to, values in crossing.values()])
    log_flux = float(counts[0])

    # of every edge at its tail and at its head, which differ where it leads over a or b
    flux = np.zeros((2, edges.tail.size))
    inner = np.flatnonzero(sides.inner)
    t, h = edges.tail[inner], edges.head[inner]
    flux[:, inner] = np.exp(log_pi[t] + from_a[t] + log_forward[inner] + to_b[h] - log_flux)
    flux[:, inner] -= np.exp(log_pi[h] + from_a[h] + log_backward[inner] + to_b[t] - log_flux)
    for name, away in (("a out", -1.0), ("b in", 1.0)):
        to, values = crossing[name]
        end, sign = np.where(to.outward, 0, 1), np.where(to.outward, away, -away)
        flux[end, to.edge] = sign * np.exp(log_pi[to.x] + values - log_flux)
    surplus = (edges.gather(flux[0], -flux[1]))[sides.keep]
    steps = edges.offset * self.grid.spacing
    current = np.stack([0.5 * edges.gather(*(flux * step)) for step in steps.T], axis=1)
    current[~sides.keep] = 0.0

    last_a = log_total(np.concatenate([log_pi[sides.a], (log_pi + from_a)[sides.keep]]))
    last_b = log_total(np.concatenate([log_pi[sides.b], (log_pi + from_b)[sides.keep]]))
    log_reactive = log_pi + from_a + to_b
    reactive = log_total(log_reactive[sides.keep])
    volume = self.grid.cell_volume
    attrs: dict[str, Any] = {
        "region_a": sides.region_a.describe(),
        "region_b": sides.region_b.describe(),
        "flux_error": float(np.expm1(np.ptp(counts))),
        "current_error": float(np.abs(surplus).max()),
    }
    fields = {
        "committor": (np.where(sides.b, 1.0, np.exp(to_b)), False),
        "backward_committor": (np.where(sides.a, 1.0, np.exp(from_a)), False),
        "reactive_density": (np.exp(log_reactive - reactive) / volume, False),
        "reactive_current": (current / volume, True),
    }
    logs = {
        "flux": log_flux,
        "rate_ab": log_flux - last_a,
        "rate_ba": log_flux - last_b,
        "passage_time_ab": last_a - log_flux,
        "passage_time_ba": last_b - log_flux,
        "probability_a": last_a,
        "probability_b": last_b,
        "reactive_probability": reactive,
        "transition_time": reactive - log_flux,
    }
    with np.errstate(over="ignore"):
        scalars = {name: np.exp(value) for name, value in logs.items()}
    scalars |= {f"log_{name}": logs[name] for name in ("flux", "rate_ab", "rate_ba")}
    data = {name: self._field(values, name, attrs, component=vector) for name, (values, vector) in fields.items()}
    return xr.Dataset(data | {k: xr.DataArray(v) for k, v in scalars.items()}, attrs={**self.attrs, **attrs})
