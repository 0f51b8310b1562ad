"""The Fokker–Planck generator of a process on a grid, its steady state and its currents."""

from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
import xarray as xr
from scipy.sparse.csgraph import connected_components

from sde_sgd import _checks
from sde_sgd.grid import Grid

from . import _edges, _inputs
from ._dissection import dissect
from ._elimination import log_stationary

_MASS_TOLERANCE = 1e-12  # column sum of the generator over its diagonal
_SAME_PLACE = 1e-6  # of a cell: coordinates that differ by less are those of the same grid


class FokkerPlanck:
    r"""The generator L of ∂ρ/∂t = −div J = Lρ, J_i = b_i ρ − T Σ_j ∂_j(D_ij ρ), on the cells of a grid.

    Cell-centred finite volumes: mass moves along edges x → x + δ with the rates c·B(−P) forward and c·B(P)
    backward, B(z) = z/(eᶻ − 1). The offsets and c come from Selling's decomposition of D, and
    P = δ·D⁻¹(b − T div D)/T at the midpoint, or [Φ(x) − Φ(x+δ)]/T where the process knows its equilibrium
    potential, which makes e^{−Φ/T} stationary exactly. Every rate is ≥ 0 and every column sums to 0, for any
    D and any drift. A reflecting wall cuts edges; one edge along it, of the conductance that the layer beside
    the wall would lose, makes up for them. The density, summed over all cells, is of second order in the
    spacing with mass and currents along any walls. So are mean exit times through absorbing walls, except where
    an absorbing wall meets a reflecting one at which D is not diagonal: there the exact time is itself singular.

    Parameters
    ----------
    process : Process
        In one or two variables, with constant temperature.
    grid : Grid
        Its periodic axes must be those of the process; reflecting walls carry no flux, absorbing walls hold
        the density at 0.
    max_offset : int
        Longest offset in cells. Where D is so anisotropic that it asks for longer ones, or is singular, the
        least isotropic diffusion ε(x)I that avoids them is added: see `added_diffusion`. A larger value adds
        less and makes elimination dearer. In a corner of two reflecting walls offsets must be shorter, and ε
        may be of the size of D in up to max_offset² cells, whatever the spacing; so few cost the density no order.
        Where ε > 0 elsewhere, the density is that of D + εI.

    Raises ValueError if D is not a covariance, something is not finite, the grid does not fit the process
    (a periodic axis must span the same period, from the same end), or the work does not fit in memory.

    When not to use it: where `attrs["max_peclet"]` is far above 1 at cells that carry mass, the density is
    smeared over about a cell there; refine, or simulate paths. In three or more variables, simulate paths.

    Sources: Scharfetter & Gummel (1969); Fehrenbach & Mirebeau (2014) for the stencil.
    """

    def __init__(self, process, grid: Grid, *, max_offset: int = 4) -> None:
        _inputs.check_process(process)
        _checks.instance("grid", grid, Grid, "make one by Grid(lower, upper, shape)")
        max_offset = _checks.whole("max_offset", max_offset, 1, 16, "it is a number of cells")
        _inputs.check_domain(process, grid)
        _inputs.check_memory(_inputs.least_bytes(grid), "the steady state", grid)
        _inputs.check_potential(process, grid)
        self.process, self.grid = process, grid
        diffusion = _inputs.diffusion_at_centers(process, grid)
        self.edges, added = _edges.build(process, grid, diffusion, max_offset)
        self.attrs: dict[str, Any] = {
            **process.settings,
            "temperature": float(process.temperature),
            "scheme": "finite volumes, Selling offsets, Scharfetter-Gummel rates",
            "boundary": " ".join(grid.boundary),
            "max_offset": max_offset,
            "longest_offset": int(np.abs(self.edges.offset).max()),
            "max_peclet": float(np.abs(self.edges.peclet).max()),
            "added_diffusion_max": float(added.max()),
        }
        self.added_diffusion = self._field(added, "added_diffusion")

    def _field(
        self, values: np.ndarray, name: str, extra: dict[str, float] | None = None, *, component: bool = False
    ) -> xr.DataArray:
        attrs = {**self.attrs, **(extra or {})}
        return self.grid.data_array(values, self.process.variables, name, attrs, component=component)

    # the generator as a matrix, and what it promises ------------------------------------------------------

    @cached_property
    def matrix(self) -> sp.csc_array:
        """L as a sparse matrix: dρ/dt = Lρ over the cells in C order; L[y, x] is the rate x → y.

        Use it for dynamics. For the steady state it is not enough where rates underflow; `steady_state` works
        from the edges.
        """
        forward, backward = self.edges.rates()
        tail, head = self.edges.tail, self.edges.head
        n = self.grid.size
        rates = sp.coo_array(
            (
                np.concatenate([forward, backward]),
                (np.concatenate([head, tail]), np.concatenate([tail, head])),
            ),
            shape=(n, n),
        ).tocsc()
        out = rates.sum(axis=0) + self.edges.leak
        return (rates - sp.diags_array(out, format="csc")).tocsc()

    @property
    def conserves_mass(self) -> bool:
        """Whether every column of `matrix` sums to 0, within 1e-12 of its diagonal; absorbing walls leak."""
        sums, diagonal = np.abs(self.matrix.sum(axis=0)), np.abs(self.matrix.diagonal())
        return bool((sums <= _MASS_TOLERANCE * diagonal).all())

    @property
    def nonnegative_rates(self) -> bool:
        """Whether every off-diagonal entry of `matrix` is ≥ 0 and finite."""
        rates = np.concatenate([*self.edges.rates(), self.edges.leak])
        return bool(np.isfinite(rates).all() and (rates >= 0.0).all())

    @property
    def irreducible(self) -> bool:
        """Whether every cell reaches every other, so that the steady state is unique and positive."""
        return self._classes[0] == 1

    @cached_property
    def _classes(self) -> tuple[int, np.ndarray]:
        # both rates of an edge are positive, so strong and weak connection are the same
        edges, n = self.edges, self.grid.size
        graph = sp.coo_array((np.ones(edges.tail.size, np.int8), (edges.tail, edges.head)), shape=(n, n))
        return connected_components(graph, directed=False)

    # steady state -----------------------------------------------------------------------------------------

    @cached_property
    def _log_density(self) -> np.ndarray:
        """log ρ per cell, Σ ρ·cell_volume = 1; solved once."""
        if "absorbing" in self.grid.boundary:
            raise ValueError(
                "a grid with absorbing walls loses all its mass: its only steady state is 0; "
                "use boundary='reflecting' or 'periodic'"
            )
        count, label = self._classes
        if count > 1:
            example = [tuple(self._center(int(np.argmax(label == k))).tolist()) for k in range(2)]
            raise ValueError(
                f"the chain falls into {count} classes that exchange no mass (for example the cells at "
                f"{example[0]} and {example[1]}), so the steady state is not unique; "
                "add noise or solve on each part"
            )
        position = np.stack(np.unravel_index(np.arange(self.grid.size), self.grid.shape), axis=1)
        tree = dissect(self.edges.tail, self.edges.head, position)
        _inputs.check_memory(tree.bytes, "the steady state", self.grid)
        log_pi = log_stationary(tree, *self.edges.extended_rates())
        log_pi -= log_pi.max()
        return log_pi - np.log(np.exp(log_pi).sum() * self.grid.cell_volume)

    def _center(self, cell: int) -> np.ndarray:
        return self.grid.centers().reshape(-1, self.grid.dim)[cell]

    @cached_property
    def _evidence(self) -> dict[str, float]:
        mass = np.exp(self._log_density) * self.grid.cell_volume
        return {
            "residual": self._residual(),
            "wall_mass": self._wall_mass(mass),
            "added_diffusion_mean": float(mass @ self.added_diffusion.values.ravel()),
        }

    def log_steady_state(self) -> xr.DataArray:
        """log ρ of the steady state Lρ = 0, Σ ρ·cell_volume = 1: finite in every cell, however small ρ is.

        By subtraction-free elimination (Grassmann, Taksar & Heyman 1985) in extended range: each ρ(x) is
        the solution of the discrete equations to about 1e-12 relative to itself, or to 1e-16 |log ρ| if that is
        larger, so that Φ = −T log ρ is right where nothing ever goes.
        Solved once, then remembered. `attrs`: `residual`, the largest |inflow − outflow|/(inflow + outflow)
        over the cells; `wall_mass`, the probability in cells beside a wall (large: the box cuts the density);
        `added_diffusion_mean`, the mean of ε under ρ.

        Raises ValueError with absorbing walls, if the chain is not irreducible, or if memory is short.
        """
        return self._field(self._log_density, "log_density", self._evidence)

    def steady_state(self) -> xr.DataArray:
        """ρ of the steady state, Σ ρ·cell_volume = 1, as `log_steady_state`; 0 below e^−745."""
        return self._field(np.exp(self._log_density), "density", self._evidence)

    def _residual(self) -> float:
        # relative to each cell's density and fastest exit: tails and deep traps count as the bulk does
        log_density, edges, n = self._log_density, self.edges, self.grid.size
        forward, backward = edges.log_rates()
        fastest = np.full(n, -np.inf)
        np.maximum.at(fastest, edges.tail, forward)
        np.maximum.at(fastest, edges.head, backward)
        rise = log_density[edges.head] - log_density[edges.tail]
        at_tail, at_head = fastest[edges.tail], fastest[edges.head]
        outflow = _gather(edges, n, np.exp(forward - at_tail), np.exp(backward - at_head))
        inflow = _gather(edges, n, np.exp(backward + rise - at_tail), np.exp(forward - rise - at_head))
        return float((np.abs(inflow - outflow) / (inflow + outflow)).max())

    def _wall_mass(self, mass: np.ndarray) -> float:
        inner = tuple(slice(None) if periodic else slice(1, -1) for periodic in self.grid.periodic)
        beside = mass.reshape(self.grid.shape).copy()
        beside[inner] = 0.0
        return float(beside.sum())

    # currents ---------------------------------------------------------------------------------------------

    def edge_current(self, density: xr.DataArray | np.ndarray) -> xr.DataArray:
        """Net flux along every edge, forward rate·ρ(tail) − backward rate·ρ(head), in density per time.

        One value per edge (dimension `edge`, coordinates `tail` and `head`, cells in C order): the divergence
        at a cell is the sum of what leaves, exactly −Lρ without absorbing walls. In the tails of a steady
        state this difference cancels; `decompose` forms it without cancellation.
        """
        rho = self._values(density)
        forward, backward = self.edges.rates()
        flux = forward * rho[self.edges.tail] - backward * rho[self.edges.head]
        coords = {"tail": ("edge", self.edges.tail), "head": ("edge", self.edges.head)}
        return xr.DataArray(flux, coords, ("edge",), "edge_current", dict(self.attrs))

    def current(self, density: xr.DataArray | np.ndarray) -> xr.DataArray:
        """Probability current J = bρ − T div(Dρ) at the cell centres, J(x) = ½ Σ_{edges at x} flux·δ.

        The density has one value per cell, and the coordinates of the grid if it is a DataArray; the result has
        dimensions (*variables, component). Of second order; only where offsets exceed one cell
        (`attrs["longest_offset"]`) is the current along a reflecting wall right as a sum over the few cells next to
        it and not cell by cell, so that the error summed over all cells is of first order. At an absorbing wall
        the flux through it is averaged in.
        """
        rho = self._values(density)
        vectors = edge_average(self, self.edge_current(density).values)
        vectors += 0.5 * self.edges.leak_moment * rho[:, None]
        return self._field(vectors, "current", component=True)

    def _values(self, density: xr.DataArray | np.ndarray) -> np.ndarray:
        if isinstance(density, xr.DataArray):
            names = tuple(self.process.variables)
            if set(density.dims) != set(names):
                raise ValueError(f"density has dimensions {density.dims}, expected {names}")
            density = density.transpose(*names)
            for name, axis, h in zip(names, self.grid.axes, self.grid.spacing):
                given = density[name].values if name in density.coords else axis
                if given.shape == axis.shape and np.abs(given - axis).max() > _SAME_PLACE * h:
                    raise ValueError(
                        f"density has cells from {given[0]:.6g} to {given[-1]:.6g} in {name}, the grid from "
                        f"{axis[0]:.6g} to {axis[-1]:.6g}; it belongs to another grid"
                    )
            density = density.values
        if np.shape(density) != self.grid.shape:
            raise ValueError(f"density has shape {np.shape(density)}, the grid {self.grid.shape}; one value per cell")
        values = _checks.finite_array("density", density)
        return values.ravel()

    def __repr__(self) -> str:
        cells = " × ".join(map(str, self.grid.shape))
        return f"FokkerPlanck({' '.join(self.process.variables)}: {cells} cells, {self.edges.tail.size} edges)"


def edge_average(fp: FokkerPlanck, flux: np.ndarray) -> np.ndarray:
    """½ Σ_{edges at x} flux·δ, (cells, d): the vector field whose components along edges are the fluxes."""
    edges, n = fp.edges, fp.grid.size
    steps = edges.offset * fp.grid.spacing
    return np.stack([0.5 * _gather(edges, n, flux * steps[:, a], flux * steps[:, a]) for a in range(fp.grid.dim)], 1)


def _gather(edges: _edges.Edges, cells: int, at_tail: np.ndarray, at_head: np.ndarray) -> np.ndarray:
    return np.bincount(edges.tail, at_tail, cells) + np.bincount(edges.head, at_head, cells)
