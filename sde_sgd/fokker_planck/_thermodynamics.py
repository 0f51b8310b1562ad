"""Free energy, its dissipation, and entropy production of densities under a generator.

With rates w(x→y), stationary probabilities π and r = p/π, every quantity here is a sum of terms that are ≥ 0
one by one, so nothing cancels, neither in the tails nor close to the steady state.
Sources: Schnakenberg (1976), Rev. Mod. Phys. 48; Esposito & Van den Broeck (2010), Phys. Rev. E 82, 011143.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

if TYPE_CHECKING:
    from .generator import FokkerPlanck

_MASS = 1e-6  # how far from 1 the mass of a density may be; it is divided by it
_LOG_LEAST = float(np.log(5e-324))  # a density of 0 is one below the smallest float64 number
_SERIES, _TERMS = 0.3, 14  # below this, e^s − 1 − s is its series to this power
_FRONT = 1e-15  # share of all jumps that may lead into empty cells before they count as empty


def free_energy(self: "FokkerPlanck", density: xr.DataArray | np.ndarray) -> xr.Dataset:
    r"""F(ρ) = T ∫ ρ log(ρ/ρ_ss) dx = energy − T·entropy, and how fast it falls, per density.

    Returns a Dataset, over `time` if the density has that dimension:
    `free_energy` F ≥ 0, which is 0 only at the steady state, and is summed as T Σ p (r⁻¹ − 1 + log r), r = ρ/ρ_ss,
    so that it keeps its digits down to about 1e-28·T; `energy` E_ρ[Φ] with Φ = −T log ρ_ss; `entropy` −∫ ρ log ρ dx
    (both depend on the unit of volume); and

        dissipation = −dF/dt = T Σ_{x→y} w(x→y) p(x) [r(y)/r(x) − 1 − log(r(y)/r(x))] ≥ 0,

    exact for the chain: it is −T Σ (Lp) log r, and over the edges Σ (net flux)·T log(r(tail)/r(head)), rewritten
    with the stationarity of ρ_ss so that each term is ≥ 0. In the limit of small cells it is
    E_ρ[∇(δF/δρ)·D∇(δF/δρ)], whether or not the steady state has a current. It is infinite where
    mass stands next to cells without any, as at a start in one cell; zeros of underflow do not count.

    What decays how: F never rises, for any process. Under detailed balance the distance
    χ²(t) = Σ p²/π − 1 is at most e^{−2λ₁t} χ²(0) with λ₁ of `spectrum(2)`, hence F(t) ≤ T log(1 + e^{−2λ₁t} χ²(0)),
    and F falls like e^{−2λ₁t} in the end. F(t) ≤ e^{−2κt} F(0) needs more: Φ″ ≥ κ > 0 with D = I, for example; a
    double well does not have it. With a current λ₁ is not such a bound, at any t; it is the rate in the end.

    density : one value per cell, as DataArray (with `time` or without) or array, all ≥ 0, of mass 1 within 1e-6.
    Raises ValueError otherwise, and where there is no steady state (absorbing walls, a temperature that changes).
    Sources: Risken (1989) §6.1; Bakry & Émery (1985).
    """
    edges, log_pi = _prepared(self)
    temperature = float(self.process.constant_temperature)
    columns = ("free_energy", "energy", "entropy", "dissipation")

    def measure(p: np.ndarray) -> tuple[float, ...]:
        log_p, log_rho = _logarithms(p, self.grid.cell_volume)
        log_r = log_p - log_pi
        distance = _weighed_excess(log_p, -log_r).sum()
        energy = -temperature * float(p @ (log_pi - np.log(self.grid.cell_volume)))
        entropy = -float(p @ log_rho)
        flow = _nonadiabatic(edges, p, log_p, log_pi)
        return temperature * float(distance), energy, entropy, temperature * flow

    return _table(self, density, columns, measure)


def entropy_production(self: "FokkerPlanck", density: xr.DataArray | np.ndarray) -> xr.Dataset:
    r"""Entropy production per time, in nats, and its two parts: what drives relaxation, and what never rests.

    Over the edges, with the net flux J = w⁺p(tail) − w⁻p(head) of each:

        entropy_production = Σ J log(w⁺p(tail)/(w⁻p(head))),
        adiabatic          = Σ_{x→y} w p(x) [a − 1 − log a],  a = w(y→x)π(y)/(w(x→y)π(x))    (housekeeping),
        nonadiabatic       = Σ_{x→y} w p(x) [r(y)/r(x) − 1 − log(r(y)/r(x))] = dissipation/T,  r = p/π.

    Each term is ≥ 0 and the first is the sum of the other two. The affinity log(w⁺p/(w⁻p)) is P − Δ log p with
    the edge's Péclet number P, and π comes as its logarithm, so the tails keep their digits. Detailed
    balance makes `adiabatic` 0 to rounding at any density; at the steady state `nonadiabatic` is 0 and the
    total tends to E[j·D⁻¹j]/T with second order in the spacing, for dx = −Fx dt + √(2TD)dW to tr(D⁻¹QUQᵀ).
    Where isotropic diffusion was added (`added_diffusion`), D is D + εI.

    Returns a Dataset, over `time` if the density has that dimension. `density` and errors as in `free_energy`; the
    total is infinite beside empty cells. Not for degenerate noise: as D⁻¹ grows without bound, so does this.
    Source: Esposito & Van den Broeck (2010), Phys. Rev. E 82, 011143.
    """
    edges, log_pi = _prepared(self)
    columns = ("entropy_production", "adiabatic", "nonadiabatic")

    def measure(p: np.ndarray) -> tuple[float, ...]:
        log_p, _ = _logarithms(p, self.grid.cell_volume)
        housekeeping = _adiabatic(edges, log_p, log_pi)
        return _total(edges, p, log_p), housekeeping, _nonadiabatic(edges, p, log_p, log_pi)

    return _table(self, density, columns, measure)


class _Flow:
    """Ends, Péclet numbers and logarithms of both rates of every edge."""

    def __init__(self, fp: "FokkerPlanck"):
        self.tail, self.head, self.peclet = fp.edges.tail, fp.edges.head, fp.edges.peclet
        self.forward, self.backward = fp.edges.log_rates()

    def directed(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, float]]:
        """(log rate, from, to, sign of the Péclet number) both ways."""
        yield self.forward, self.tail, self.head, 1.0
        yield self.backward, self.head, self.tail, -1.0


def _prepared(fp: "FokkerPlanck") -> tuple[_Flow, np.ndarray]:
    """The rates, and log π of every cell."""
    log_rho = fp.log_steady_state()
    return _Flow(fp), log_rho.values.ravel() + np.log(fp.grid.cell_volume)


def _excess(s: np.ndarray) -> np.ndarray:
    """e^s − 1 − s ≥ 0 with its digits near 0; +∞ where e^s is beyond float64."""
    with np.errstate(over="ignore"):
        small = np.clip(s, -_SERIES, _SERIES)
        series = np.ones_like(small)
        for n in range(_TERMS, 2, -1):
            series = 1.0 + small / n * series
        return np.where(np.abs(s) < _SERIES, 0.5 * small * small * series, np.expm1(s) - s)


def _weighed_excess(log_weight: np.ndarray, s: np.ndarray) -> np.ndarray:
    """weight·(e^s − 1 − s) from the logarithm of the weight: right where e^s or the weight leaves float64."""
    weight = np.exp(log_weight)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.where(np.abs(s) < 1.0, weight * _excess(s), np.exp(log_weight + s) - weight * (1.0 + s))


def _nonadiabatic(edges: _Flow, p: np.ndarray, log_p: np.ndarray, log_pi: np.ndarray) -> float:
    log_r = log_p - log_pi
    total = 0.0
    for log_rate, start, end, _ in edges.directed():
        total += float(_weighed_excess(log_rate + log_p[start], log_r[end] - log_r[start]).sum())
    return np.inf if _has_front(edges, p, log_p) else total


def _adiabatic(edges: _Flow, log_p: np.ndarray, log_pi: np.ndarray) -> float:
    affinity = edges.peclet + log_pi[edges.tail] - log_pi[edges.head]
    return sum(
        float(_weighed_excess(log_rate + log_p[start], -sign * affinity).sum())
        for log_rate, start, _, sign in edges.directed()
    )


def _total(edges: _Flow, p: np.ndarray, log_p: np.ndarray) -> float:
    if _has_front(edges, p, log_p):
        return np.inf
    affinity = edges.peclet + log_p[edges.tail] - log_p[edges.head]
    larger = np.maximum(edges.forward + log_p[edges.tail], edges.backward + log_p[edges.head])
    return float((np.exp(larger) * np.abs(affinity) * -np.expm1(-np.abs(affinity))).sum())


def _has_front(edges: _Flow, p: np.ndarray, log_p: np.ndarray) -> bool:
    """Whether mass stands next to cells without any, by more than underflow explains."""
    empty = p == 0.0
    if not empty.any():
        return False
    into = activity = 0.0
    for log_rate, start, end, _ in edges.directed():
        jumps = np.where(empty[start], 0.0, np.exp(log_rate + log_p[start]))
        activity += float(jumps.sum())
        into += float((jumps * (log_p[start] - _LOG_LEAST))[empty[end]].sum())
    return into > _FRONT * activity


def _logarithms(p: np.ndarray, volume: float) -> tuple[np.ndarray, np.ndarray]:
    """log p, that of the smallest float64 number where p is 0, and log of the density."""
    log_p = np.where(p > 0.0, np.log(np.where(p > 0.0, p, 1.0)), _LOG_LEAST)
    return log_p, log_p - np.log(volume)


def _table(
    fp: "FokkerPlanck",
    density: xr.DataArray | np.ndarray,
    columns: tuple[str, ...],
    measure: Callable[[np.ndarray], tuple[float, ...]],
) -> xr.Dataset:
    """One row of measurements per density, as a Dataset over `time` or of plain numbers."""
    if not isinstance(density, xr.DataArray) or "time" not in density.dims:
        row = measure(_probabilities(fp, density, ""))
        return xr.Dataset(dict(zip(columns, row)), attrs=dict(fp.attrs))
    if density.sizes["time"] == 0:
        raise ValueError("density has a dimension time without any entry; give one density at least")
    rows = [
        measure(_probabilities(fp, density.isel(time=k), f" at entry {k} of time"))
        for k in range(density.sizes["time"])
    ]
    coords = {"time": density["time"].values} if "time" in density.coords else {}
    data = {name: ("time", np.array(column)) for name, column in zip(columns, zip(*rows))}
    return xr.Dataset(data, coords, dict(fp.attrs))


def _probabilities(fp: "FokkerPlanck", density: xr.DataArray | np.ndarray, where: str) -> np.ndarray:
    """Probability of every cell; ValueError for what is not a density."""
    rho, volume = fp._values(density), fp.grid.cell_volume
    if rho.min() < 0.0:
        cell = tuple(int(i) for i in np.unravel_index(int(rho.argmin()), fp.grid.shape))
        raise ValueError(
            f"density is {rho.min():g} < 0 at cell {cell}{where}, and its logarithm is needed; evolve it with "
            "a scheme that keeps it positive"
        )
    mass = float(rho.sum()) * volume
    if not abs(mass - 1.0) <= _MASS:
        raise ValueError(
            f"density has mass {mass:.9g}{where}, and free energy compares densities of mass 1 (within {_MASS:g}); "
            "divide it by its sum times grid.cell_volume"
        )
    return rho * (volume / mass)
