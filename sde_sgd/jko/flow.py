"""The Fokker–Planck equation as steepest descent: one implicit step after the other."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from sde_sgd import _checks
from sde_sgd.fokker_planck import FokkerPlanck, _evolve, _inputs
from sde_sgd.grid import Grid
from sde_sgd.process import Underdamped

from . import _potential, _store
from ._plane_road import Plane
from ._quantile_road import Quantile
from ._remainder import Remainder
from ._road import Record, Road
from ._tails import continued

METHODS = ("auto", "quantile", "monge_ampere", "entropic")
_REPORTS = {
    "quantile": (),
    "monge_ampere": ("mass_defect",),
    "entropic": ("regularisation", "regularisation_error", "extrapolated"),
}
_LEAST = 1e-300  # of the largest density, that a cell holds at the start where the logarithm of ρ is needed
_MASS = 1e-6  # of a start: by how much it may differ from 1 before it is set right
_MOST_STEPS = 10**8
_FEWEST_CELLS = 4  # along each of two axes


@dataclass(frozen=True)
class PorousMedium:
    """Internal energy ∫ρᵏ/(k − 1) dx in place of T∫ρ log ρ: ∂ρ = div(D(ρ∇Φ + ∇ρᵏ)), k = `exponent` > 1.

    Its densities have ends: beyond a front that moves at a finite speed ρ is 0.
    """

    exponent: float

    def __post_init__(self) -> None:
        if not _checks.positive("exponent", self.exponent) > 1.0:
            raise ValueError(f"exponent must be > 1, got {self.exponent:g}; for diffusion, leave internal_energy out")


class JKO:
    r"""Steepest descent of F in the Wasserstein metric of D⁻¹, one implicit step after the other:

        ρ_{k+1} = argmin  W²(ρ, ρ_k)/(2τ) + F(ρ),    F(ρ) = E_ρ[Φ] + T∫ρ log ρ,    Φ = −T log ρ_ss,
        W² the least mean square of the length of ∫√(ẋᵀD⁻¹ẋ) dt over all ways of moving ρ_k to ρ.

    As τ → 0 this is ∂ρ/∂t = div(ρD∇(Φ + T log ρ)), at order 1 in τ: the Fokker–Planck equation where there is no
    stationary current. With one, j = J_ss/ρ_ss = b + D∇Φ − T div D is no gradient: ∂ρ/∂t has −div(jρ) besides. F still
    falls and ρ_ss still is its minimiser, but the path to it is another. Hence each step is followed by transport
    along j over τ, which keeps ρ_ss exactly (`remainder="split"`), of order 1 in τ as well.

    Parameters
    ----------
    process : Process at a constant temperature, in one or two variables.
    grid : Grid without absorbing walls.
    method :
        "quantile": one variable; Newton's method on the positions of nodes that keep their mass. Any D(x) > 0. The
        nodes are kept along a flow. Refuses long steps in which mass should leap a barrier of many T.
        "monge_ampere": two variables; Newton's method on log ρ. Any D(x), constant or not. Where Φ is given in closed
        form it shares nothing with FokkerPlanck. Refuses starts that jump, more mass over a pass in one step than lies
        on it, and valleys or layers at walls thinner than cells: the first two are for "entropic".
        "entropic": scaling with the heat kernel of FokkerPlanck, periodic axes too; with a bias from its
        `regularisation`.
        "auto": the first of these that applies.
    potential : "steady_state", or "loss": f in place of Φ, and no remainder. The descent of f + T∫ρ log ρ is what
        SGD is often said to do; where D ≠ I or j ≠ 0 it ends at another density.
    remainder : of "steady_state", "split", or "ignore": descent of Φ alone.
    internal_energy : PorousMedium(exponent), for "quantile" alone.
    tolerance : of the residual of each step, relative, from 1e-12 to 1e-2.
    nodes : of "quantile", so many at least at the start, where ρ is; 2000 where None.
    regularisation : of "entropic".

    The metric needs D > 0; with D(x), W² is that of mass moved at the speed of D where it is. Densities hold one value
    per cell, have mass 1 to rounding, and stay > 0, but for the ends of a porous medium. No flux passes the walls.

    Raises ValueError for a process or grid that is none of this, and for options of another method. When not to use it:
    to solve the Fokker–Planck equation, `FokkerPlanck.evolve` is faster and of higher order.

    Sources: Jordan, Kinderlehrer & Otto (1998), SIAM J. Math. Anal. 29; Lisini (2009), ESAIM: COCV 15, for D(x).
    """

    def __init__(
        self,
        process: Any,
        grid: Grid,
        *,
        method: str = "auto",
        potential: str = "steady_state",
        remainder: str = "split",
        internal_energy: PorousMedium | None = None,
        tolerance: float = 1e-8,
        nodes: int | None = None,
        regularisation: float | None = None,
    ) -> None:
        _inputs.check_process(process)
        _checks.instance("grid", grid, Grid, "make one by Grid(lower, upper, shape)")
        method = _checks.choice("method", method, METHODS)
        potential = _checks.choice("potential", potential, ("steady_state", "loss"))
        remainder = _checks.choice("remainder", remainder, ("split", "ignore"))
        tolerance = _checks.positive("tolerance", tolerance)
        if not 1e-12 <= tolerance <= 1e-2:
            raise ValueError(f"tolerance must be from 1e-12 to 0.01, got {tolerance:g}; it is relative")
        if isinstance(process, Underdamped):
            raise ValueError(
                "an Underdamped process has noise in its velocities only, so that D has no inverse and no metric; use "
                "FokkerPlanck, or take the landscape at_temperature(T)"
            )
        self.process, self.grid = process, grid
        self._temperature = float(process.constant_temperature)
        _inputs.check_domain(process, grid)
        self._method = method = _fitting(method, grid)
        if internal_energy is not None:
            _checks.instance("internal_energy", internal_energy, PorousMedium, "or leave it out, for T∫ρ log ρ")
        for name, value, owner in (
            ("internal_energy", internal_energy, "quantile"),
            ("nodes", nodes, "quantile"),
            ("regularisation", regularisation, "entropic"),
        ):
            if value is not None and method != owner:
                raise ValueError(
                    f"{name} = {value!r} belongs to method={owner!r}, and this is {method!r}; leave it out"
                )
        if nodes is not None:
            nodes = _checks.whole("nodes", nodes, 3, 10**7)
        self._exponent = None if internal_energy is None else internal_energy.exponent
        _inputs.diffusion_at_centers(process, grid)
        _inputs.check_seams(process, grid)
        given = _potential.of(process, grid, potential, remainder)
        self._phi = given.potential
        self._road: Road
        if method == "quantile":
            self._road = Quantile(process, grid, potential, tolerance=tolerance, nodes=nodes, exponent=self._exponent)
        elif method == "monge_ampere":
            self._road = Plane(process, grid, given.potential, tolerance=tolerance)
        else:
            from ._entropic import Entropic

            self._road = Entropic(process, grid, given.potential, tolerance=tolerance, regularisation=regularisation)
        self._remainder = None
        if given.remainder is not None:
            log_steady = -self._phi / self._temperature
            self._remainder = Remainder(grid, given.remainder, log_steady)
        shares = [given.shares, *(str(v) for k, v in self._road.settings.items() if k == "shares")]
        self.attrs: dict[str, Any] = {
            **process.settings,
            **self._road.settings,
            "potential": potential,
            "potential_from": given.source,
            "remainder": "zero or left out" if self._remainder is None else "split",
            "internal_energy": "T rho log rho" if self._exponent is None else f"rho**{self._exponent:g}/(k - 1)",
            "tolerance": tolerance,
            "boundary": " ".join(grid.boundary),
            "shares": "; ".join(shares),
        }

    _values = FokkerPlanck._values

    def step(self, density: xr.DataArray | np.ndarray | Mapping, tau: float) -> xr.DataArray:
        """ρ_{k+1} from ρ_k = `density` and τ, over the grid; `attrs` as the coordinates of `flow`.

        Raises NotConverged, with the residual reached, where the step is not found.
        """
        path = self.flow(density, tau, 1)
        last = path.isel(time=1, drop=True)
        along = {name: path[name].values[1].item() for name in path.coords if path[name].dims == ("time",)}
        last.attrs = {**path.attrs, **{name: value for name, value in along.items() if name != "time"}}
        return last.drop_vars([name for name in along if name in last.coords])

    def flow(
        self,
        density: xr.DataArray | np.ndarray | Mapping,
        tau: float,
        steps: int,
        *,
        file: str | os.PathLike | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> xr.DataArray:
        """The start and `steps` steps of length τ, (time, *variables), time = 0, τ, 2τ, …

        Parameters
        ----------
        density : one value ≥ 0 per cell, of mass 1. Cells with less than 1e-300 of the largest are given that, except
            in a porous medium; with "monge_ampere" the logarithm goes on falling there, and cells must resolve it;
            jumps, ends and points are for the other methods.
        tau : > 0. steps : at least 1.
        file : a netCDF file to which each step is written as it is made. A flow that was stopped goes on from its last
            step, with the same bits; a complete file is returned as it is.
        progress : called as progress(steps done, steps).

        Coordinates along time: `energy` F, of the nodes themselves with "quantile"; `wasserstein`, the distance W of
        each step in the metric of D⁻¹ (without the transport along j); `residual` of its optimality condition and
        `iterations` of its method, with all that had to be tried; and what a method adds: `mass_defect`, by how much
        the mass of a "monge_ampere" step had changed, or `transport_mass_defect`, that of the transport along j, before
        they were set right; `regularisation`, `regularisation_error` and `extrapolated` of "entropic".
        Raises ValueError for a start, τ or steps that are none of this, NotConverged where a step is not found.
        """
        tau = _checks.positive("tau", tau)
        steps = _checks.whole("steps", steps, 1, _MOST_STEPS)
        _checks.function("progress", progress)
        log_density = self._start(density)
        state, times = self._road.start(log_density), tau * np.arange(steps + 1)
        first = self._row(state, log_density, None)
        store: _store.InMemory | _store.File
        if file is None:
            store = _store.InMemory(self, times)
        else:
            question = _store.question(self, log_density, tau, steps, list(first))
            store = _store.File(self, times, file, question, state, list(first))
            if store.complete:
                return store.opened()
        try:
            if not store.done:
                store.put(state, np.exp(log_density), first)
            state = store.state
            for done in range(store.done, steps + 1):
                state, log_density, row = self._advance(state, tau)
                store.put(state, np.exp(log_density), row)
                if progress is not None:
                    progress(done, steps)
            return store.finish({**self.attrs, "tau": tau, "steps": steps})
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                "stopped" + (f"; the same call goes on from the last step in {file}" if file is not None else "")
            ) from None
        finally:
            store.close()

    def _advance(self, state: np.ndarray, tau: float) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
        """The state a step later, its log ρ, and the numbers that go along."""
        state, record = self._road.advance(state, tau)
        log_density, defect = self._road.log_density(state), 0.0
        if self._remainder is not None:
            log_density, defect = self._remainder.advance(log_density, tau)
            state = self._road.start(log_density)
        return state, log_density, self._row(state, log_density, record, defect)

    def energy(self, density: xr.DataArray | np.ndarray) -> float:
        """F(ρ) = ∫ρ(Φ + T log ρ), or with ρ^{k−1}/(k − 1) for T log ρ, as a flow from ρ begins; Φ has minimum 0."""
        log_density = self._start(density)
        return self._energy(self._road.start(log_density), log_density)

    def _energy(self, state: np.ndarray, log_density: np.ndarray) -> float:
        """Over the nodes, which is what their steps minimise, or over the cells."""
        if isinstance(self._road, Quantile):
            return self._road.energy(state)
        u = self._phi - self._phi.min() + self._temperature * log_density
        return float((np.exp(log_density) * u).sum() * self.grid.cell_volume)

    def _row(
        self, state: np.ndarray, log_density: np.ndarray, record: Record | None, defect: float = 0.0
    ) -> dict[str, float]:
        """The numbers along time; 0 at the start, under the same names."""
        if record is None:
            record = Record(0.0, 0.0, 0, dict.fromkeys(_REPORTS[self._method], 0.0))
        row = {
            "energy": self._energy(state, log_density),
            "wasserstein": float(np.sqrt(record.squared_distance)),
            "residual": record.residual,
            "iterations": record.iterations,
            **record.more,
        }
        return row if self._remainder is None else {**row, "transport_mass_defect": defect}

    def _start(self, density: Any) -> np.ndarray:
        """log ρ of a density that is fit to start from."""
        values, _ = _evolve._start(self, density)  # type: ignore[arg-type]  # has its process, grid and _values
        mass = float(values.sum() * self.grid.cell_volume)
        if not abs(mass - 1.0) <= _MASS:
            raise ValueError(
                f"the density has mass {mass:.9g}, and F and W compare densities of mass 1; divide it by its mass"
            )
        least = _LEAST * values.max()
        empty = (values <= least).reshape(self.grid.shape)
        if self._exponent is None:
            values = np.maximum(values, least)
        with np.errstate(divide="ignore"):
            log_density = np.log(values / mass).reshape(self.grid.shape)
        return continued(log_density, empty, self.grid.spacing) if self._method == "monge_ampere" else log_density

    def __repr__(self) -> str:
        cells = " × ".join(map(str, self.grid.shape))
        return f"JKO({' '.join(self.process.variables)}: {cells} cells, {self._method})"


def _fitting(method: str, grid: Grid) -> str:
    """The method, where it suits the grid."""
    if "absorbing" in grid.boundary:
        raise ValueError("an absorbing wall takes mass, and W is between densities of equal mass; use FokkerPlanck")
    if grid.dim == 2 and min(grid.shape) < _FEWEST_CELLS:
        raise ValueError(
            f"the grid has {' × '.join(map(str, grid.shape))} cells, and cubic splines need {_FEWEST_CELLS} along each "
            "axis; take more"
        )
    if grid.dim == 3:
        raise ValueError("JKO has one or two variables, and the grid three axes; use FokkerPlanck")
    wraps = any(grid.periodic)
    if method == "auto":
        return "entropic" if wraps else "quantile" if grid.dim == 1 else "monge_ampere"
    dim = {"quantile": 1, "monge_ampere": 2}.get(method, grid.dim)
    if dim != grid.dim:
        raise ValueError(f"method={method!r} is for {dim} variables, and the grid has {grid.dim} axes; use 'auto'")
    if wraps and method != "entropic":
        raise ValueError(f"method={method!r} has no periodic axes; use method='entropic'")
    return method
