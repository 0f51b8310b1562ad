"""The Fokker–Planck generator of a process on a grid, its steady state and its currents."""

from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
import xarray as xr
from scipy.sparse.csgraph import connected_components

from sde_sgd import _checks
from sde_sgd.grid import Grid

from . import (
    _edges,
    _evolve,
    _inputs,
    _lag_covariance,
    _pattern,
    _product,
    _schedule,
    _spectrum,
    _steady,
    _thermodynamics,
    _transitions,
)

_MASS_TOLERANCE = 1e-12  # column sum of the generator over its diagonal
_REACH = {1: 4, 2: 4, 3: 2}  # max_offset by dimension, see there
_SAME_PLACE = 1e-6  # of a cell: coordinates that differ by less are those of the same grid


class FokkerPlanck:
    r"""The generator L of ∂ρ/∂t = −div J = Lρ, J_i = b_i ρ − T Σ_j ∂_j(D_ij ρ), on the cells of a grid.

    Cell-centred finite volumes: mass moves along edges x → x + δ with the rates c·B(−P) forward and c·B(P)
    backward, B(z) = z/(eᶻ − 1). The offsets and c come from Selling's decomposition of D, and
    P = δ·D⁻¹(b − T div D)/T at the midpoint, or [Φ(x) − Φ(x+δ)]/T where the process knows its equilibrium
    potential, which makes e^{−Φ/T} stationary exactly. Every rate is ≥ 0 and every column sums to 0, for any
    D and any drift. A reflecting wall cuts edges; edges along it, of the conductance that the layer beside
    the wall would lose, make up for them. The density, summed over all cells, is of second order in the
    spacing with mass and currents along any walls. So are mean exit times through absorbing walls, except where
    an absorbing wall meets a reflecting one at which D is not diagonal: there the exact time is itself singular.

    Parameters
    ----------
    process : Process
        In one to three variables. With a temperature that is a schedule of time, what needs rates at a time takes
        them from `edges_at(T)`, and what is steady raises ValueError.
    grid : Grid
        Its periodic axes must be those of the process; reflecting walls carry no flux, absorbing walls hold
        the density at 0.
    max_offset : int
        Longest offset in cells; default 4, and 2 in three variables. Where D is so anisotropic that it asks for
        longer ones, or is singular, the least isotropic diffusion ε(x)I that avoids them is added: see
        `added_diffusion`. A larger value adds less and makes elimination dearer: with an anisotropy of 1000 that turns
        in space, 40³ cells take 1.3 GiB and 9·10¹⁰ multiplications with 2, four times as many with 4, while
        without ε 2 suffices for 10:1 at nearly any angle. Beside edges and in corners of reflecting walls offsets
        must be shorter, and ε may be of the size of D in a few cells off an edge in 3-D, in max_offset² in 2-D,
        whatever the spacing; so few cost the density no order. Where ε > 0 elsewhere, the density is that of D + εI.

    Raises ValueError if D is not a covariance, something is not finite, the grid does not fit the process
    (a periodic axis must span the same period, from the same end, and b and D must agree across its seam), or the
    work does not fit in memory. A steady state that the box cuts, whose currents its walls deflect, or that is
    narrower than a cell comes with a `BoxWarning`.

    When not to use it: where `attrs["max_peclet"]` is far above 1 at cells that carry mass, the density is
    smeared over about a cell there (`attrs["mean_peclet"]` of the steady state, and a `BoxWarning`); refine, or
    simulate paths. In four or more variables, simulate paths.

    Sources: Scharfetter & Gummel (1969); Fehrenbach & Mirebeau (2014) for the stencil.
    """

    def __init__(self, process, grid: Grid, *, max_offset: int | None = None) -> None:
        _inputs.check_process(process)
        _checks.instance("grid", grid, Grid, "make one by Grid(lower, upper, shape)")
        if max_offset is None:
            max_offset = _REACH[grid.dim]
        max_offset = _checks.whole("max_offset", max_offset, 1, 16, "it is a number of cells")
        _inputs.check_domain(process, grid)
        _inputs.check_memory(_inputs.generator_bytes(grid), "the generator", grid.shape)
        self.process, self.grid = process, grid
        self._schedule = None
        if callable(process.temperature):
            at_start = _schedule.at_temperature(process, float(process.temperature_at(0.0)))
            _inputs.check_seams(at_start, grid)
            diffusion = _inputs.diffusion_at_centers(process, grid)
            self._schedule = _schedule.Schedule(process, grid, diffusion, max_offset)
            pattern = self._schedule.pattern
        else:
            _inputs.check_seams(process, grid)
            diffusion = _inputs.diffusion_at_centers(process, grid)
            pattern, self.edges = _at_constant_temperature(process, grid, diffusion, max_offset)
        self.attrs: dict[str, Any] = {
            **process.settings,
            "scheme": "finite volumes, Selling offsets, Scharfetter-Gummel rates",
            "boundary": " ".join(grid.boundary),
            "max_offset": max_offset,
            "longest_offset": int(np.abs(pattern.offset).max()),
            "added_diffusion_max": float(pattern.added.max()),
        }
        if self._schedule is None:
            self.attrs |= {
                "temperature": float(process.temperature), "max_peclet": float(np.abs(self.edges.peclet).max())
            }  # fmt: skip
        self._edge_count = pattern.tail.size
        self.added_diffusion = self._field(pattern.added, "added_diffusion")

    @cached_property
    def edges(self) -> _edges.Edges:
        """The edges with their rates; with a temperature that changes in time take `edges_at(T)`."""
        return self.edges_at(self.process.constant_temperature)

    def edges_at(self, temperature: float) -> _edges.Edges:
        """The edges at another temperature T > 0, such as one of a schedule.

        With a schedule, `tail`, `head` and `offset` are the same arrays for every T (unless D is so nearly singular
        that ε depends on T), and where the drift contains T not at all or linearly, nothing is evaluated again. At a
        constant temperature everything is built anew.
        """
        temperature = _checks.positive("temperature", temperature, "T = η/2b is positive")
        if self._schedule is not None:
            return self._schedule.edges(temperature)
        if temperature == self.process.temperature:
            return self.edges
        process = _schedule.at_temperature(self.process, temperature)
        diffusion = _inputs.diffusion_at_centers(process, self.grid)
        return _at_constant_temperature(process, self.grid, diffusion, self.attrs["max_offset"])[1]

    def _field(
        self, values: np.ndarray, name: str, extra: dict[str, Any] | None = None, *, component: bool = False
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

    @cached_property
    def _rates(self) -> tuple[np.ndarray, np.ndarray]:
        return self.edges.rates()

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

    _log_density = cached_property(_steady.solve)
    _evidence = cached_property(_steady.evidence)
    log_steady_state = _steady.log_steady_state
    steady_state = _steady.steady_state

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

    # what follows from the generator -----------------------------------------------------------------------

    apply = _product.apply
    detailed_balance = property(_product.detailed_balance)
    evolve = _evolve.evolve
    free_energy = _thermodynamics.free_energy
    entropy_production = _thermodynamics.entropy_production
    spectrum = _spectrum.spectrum
    lag_covariance = _lag_covariance.lag_covariance
    mean_exit_time = _transitions.mean_exit_time
    committor = _transitions.committor
    quasi_stationary = _transitions.quasi_stationary
    transitions = _transitions.transitions

    def _values(self, density: xr.DataArray | np.ndarray) -> np.ndarray:
        if isinstance(density, xr.DataArray):
            names = tuple(self.process.variables)
            if set(density.dims) != set(names):
                raise ValueError(f"density has dimensions {density.dims}, expected {names}")
            density = density.transpose(*names)
            for name, axis, h in zip(names, self.grid.axes, self.grid.spacing):
                given = density[name].values if name in density.coords else axis
                if given.shape != axis.shape:
                    continue  # refused below
                if given.dtype.kind not in "iuf" or not (np.abs(given - axis) <= _SAME_PLACE * h).all():
                    raise ValueError(
                        f"density has cells from {given[0]} to {given[-1]} in {name}, the grid from "
                        f"{axis[0]:.6g} to {axis[-1]:.6g}; it belongs to another grid"
                    )
            density = density.values
        try:
            shape = np.shape(density)
        except (TypeError, ValueError):  # a Dataset, rows of unequal length
            kind = type(density).__name__
            raise ValueError(f"density is a {kind}; give an array of shape {self.grid.shape}") from None
        if shape != self.grid.shape:
            raise ValueError(f"density has shape {shape}, the grid {self.grid.shape}; one value per cell")
        values = _checks.finite_array("density", density)
        return values.ravel()

    def __repr__(self) -> str:
        cells = " × ".join(map(str, self.grid.shape))
        return f"FokkerPlanck({' '.join(self.process.variables)}: {cells} cells, {self._edge_count} edges)"


def _at_constant_temperature(
    process, grid: Grid, diffusion: np.ndarray, max_offset: int
) -> tuple[_pattern.Pattern, _edges.Edges]:
    """The edges of a process whose temperature is a number, with the ε that bounds P at it."""
    least: np.ndarray | float = 0.0
    if process.equilibrium_potential is None:
        drift = _edges.at_centers(process.drift, "drift", grid)
        divergence = _edges.at_centers(process.diffusion_divergence, "diffusion_divergence", grid)
        least = _edges.least_diffusion(drift, divergence, float(process.temperature), grid)
    pattern = _pattern.build(grid, diffusion, max_offset, least)
    return pattern, _edges.build(process, pattern)


def edge_average(fp: FokkerPlanck, flux: np.ndarray) -> np.ndarray:
    """½ Σ_{edges at x} flux·δ, (cells, d): the vector field whose components along edges are the fluxes."""
    edges = fp.edges
    steps = edges.offset * fp.grid.spacing
    return np.stack([0.5 * edges.gather(flux * steps[:, a], flux * steps[:, a]) for a in range(fp.grid.dim)], 1)
