"""The edges of the generator: which cells exchange mass, and at what two rates.

An edge from x to x + δ, δ = h∘e, carries

    forward rate  c B(−P),    backward rate  c B(P),    B(z) = z/(e^z − 1),
    c = T·(mean of both ends' Selling weights),    P = δ·D⁻¹(b − T div D)/T at the midpoint,

the Scharfetter–Gummel flux along the edge: exact for constant drift in 1-D, and of second order. The pair
(c, P) is what is stored: at cell Péclet numbers near a thousand one of the rates is zero in float64, the
pair never is. Edges along reflecting walls have more conductance: see `_walls`.
Source: Scharfetter & Gummel (1969), IEEE Trans. Electron Devices 16.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sde_sgd.grid import Grid

from ._drop import drop2, drop3
from ._inputs import at_points, smallest_eigenvalue
from ._pattern import Pattern

_PECLET_CEILING = 1e10  # per cell; beyond, only the drift matters, and exponents must not overflow on the way
_CHUNK = 1 << 16  # edges whose forces are taken at a time: their arrays stay in cache
_PECLET_LIMIT = 1e13  # of an edge: times the cells of any grid that fits in memory, within 2^57 octaves


def bernoulli(z: np.ndarray) -> np.ndarray:
    """B(z) = z/(e^z − 1), with B(0) = 1; 0 where e^z exceeds float64."""
    z = np.asarray(z, dtype=float)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return np.where(z == 0.0, 1.0, z / np.expm1(z))


@dataclass(frozen=True)
class Edges:
    """Edge list of a generator; `leak` is the rate at which each cell loses mass through absorbing walls.

    Edges of the same offset stand together, and every cell is the tail of at most one of them and the head of at
    most one: the edges of offsets[i] are first[i] : first[i + 1].
    """

    tail: np.ndarray
    head: np.ndarray
    offset: np.ndarray  # (edges, d), in cells
    conductance: np.ndarray  # c, 1/time
    peclet: np.ndarray  # P, dimensionless
    leak: np.ndarray  # (cells,)
    leak_moment: np.ndarray  # (cells, d): Σ rate·δ over the edges that end on an absorbing wall

    @cached_property
    def first(self) -> np.ndarray:
        """Where the edges of each offset begin, and the number of edges, (k + 1,)."""
        changes = (self.offset[1:] != self.offset[:-1]).any(axis=1)
        return np.concatenate([[0], 1 + np.flatnonzero(changes), [len(self.offset)]])

    @cached_property
    def offsets(self) -> np.ndarray:
        """The different offsets, (k, d)."""
        return self.offset[self.first[:-1]]

    def rates(self) -> tuple[np.ndarray, np.ndarray]:
        """Forward and backward rate of every edge; 0 where float64 cannot hold the smaller one."""
        return self.conductance * bernoulli(-self.peclet), self.conductance * bernoulli(self.peclet)

    def log_rates(self) -> tuple[np.ndarray, np.ndarray]:
        """Logarithms of the two rates, finite always."""
        size = np.abs(self.peclet)
        downhill = np.log(self.conductance) + np.log(bernoulli(-size))
        return downhill - np.maximum(-self.peclet, 0.0), downhill - np.maximum(self.peclet, 0.0)

    def gather(self, at_tail: np.ndarray, at_head: np.ndarray) -> np.ndarray:
        """Σ over the edges at each cell: of `at_tail` where it is their tail, of `at_head` where it is their head."""
        cells = self.leak.size
        return np.bincount(self.tail, at_tail, cells) + np.bincount(self.head, at_head, cells)

    def extended_rates(self) -> tuple[np.ndarray, np.ndarray]:
        """Rates as mantissas and binary exponents, interleaved: entry 2e is forward, 2e + 1 backward."""
        size = np.abs(self.peclet)
        mantissa, exponent = np.frexp(self.conductance * bernoulli(-size))
        octaves = np.floor(size / np.log(2.0))
        uphill = mantissa * np.exp(octaves * np.log(2.0) - size)
        down = np.stack([mantissa, uphill], axis=1)
        binary = np.stack([exponent.astype(np.int64), exponent - octaves.astype(np.int64)], axis=1)
        forward_is_downhill = (self.peclet >= 0.0)[:, None]
        return (
            np.where(forward_is_downhill, down, down[:, ::-1]).ravel(),
            np.where(forward_is_downhill, binary, binary[:, ::-1]).ravel(),
        )


def build(process, pattern: Pattern) -> Edges:
    """The edges of a pattern with the rates of a process at its temperature."""
    temperature = float(process.temperature)

    def peclet(*places) -> np.ndarray:
        return _drop(process, pattern, _drift_less_spread, *places) / temperature

    if process.equilibrium_potential is None:
        along = _along_edges(pattern, peclet)
    else:
        along = _potential_drop(process, pattern) / temperature
    return _finished(pattern, temperature, along, _along_leaks(pattern, peclet))


def parts(process, pattern: Pattern) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A and C of P = A/T − C, for edges and for leaks, of a process whose b does not depend on T."""

    def pushed(*places) -> np.ndarray:
        return _drop(process, pattern, lambda process, x: _force(process, x)[0], *places)

    def spread(*places) -> np.ndarray:
        return _drop(process, pattern, lambda process, x: _force(process, x)[1], *places)

    leaks = _along_leaks(pattern, pushed), _along_leaks(pattern, spread)
    if process.equilibrium_potential is not None:
        return _potential_drop(process, pattern), np.zeros(pattern.tail.size), *leaks
    return _along_edges(pattern, pushed), _along_edges(pattern, spread), *leaks


def of_parts(pattern: Pattern, parts: tuple[np.ndarray, ...], temperature: float) -> Edges:
    """The edges at a temperature, from what `parts` returns: without evaluating b or D anew."""
    push, spread, leak_push, leak_spread = parts
    return _finished(pattern, temperature, push / temperature - spread, leak_push / temperature - leak_spread)


def forces_at_centers(process, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """b and div D at the cell centres, (cells, d) each."""
    return _force(process, _centers(grid))


def least_diffusion(drift: np.ndarray, divergence: np.ndarray, temperature: float, grid: Grid) -> np.ndarray:
    """ε that keeps |P| ≤ 10¹⁰ where D vanishes but the drift does not: the edge there is upwind.

    Upwinding itself acts like a diffusion |b|h/2T; this ε is smaller than that by 2·10⁻¹⁰.
    """
    size = np.linalg.norm(drift - temperature * divergence, axis=1)
    return size * grid.spacing.max() / (temperature * _PECLET_CEILING)


def _centers(grid: Grid) -> np.ndarray:
    return grid.centers().reshape(-1, grid.dim)


def _finished(pattern: Pattern, temperature: float, peclet: np.ndarray, leak_peclet: np.ndarray) -> Edges:
    if not (np.abs(peclet) <= _PECLET_LIMIT).all():
        at = _centers(pattern.grid)[pattern.tail[int(np.argmax(~(np.abs(peclet) <= _PECLET_LIMIT)))]]
        raise ValueError(
            f"the cell Péclet number exceeds {_PECLET_LIMIT:g} near {tuple(at.tolist())}: "
            "temperature or diffusion is too small for the drift there"
        )
    # an edge cut at the fraction s of δ: the gradient is taken over the shorter length s|δ|
    rate = temperature * pattern.leak_weight / pattern.leak_share * bernoulli(-leak_peclet)
    cells, delta = pattern.grid.size, pattern.leak_step * pattern.grid.spacing
    leak = np.bincount(pattern.leak_cell, rate, cells)
    moment = np.stack([np.bincount(pattern.leak_cell, rate * steps, cells) for steps in delta.T], axis=1)
    conductance = temperature * pattern.mean
    return Edges(pattern.tail, pattern.head, pattern.offset, conductance, peclet, leak, moment)


def _force(process, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """b and div D at points (n, d)."""
    shape = (x.shape[1],)
    return (
        at_points(process.drift, "drift", x, shape),
        at_points(process.diffusion_divergence, "diffusion_divergence", x, shape),
    )


def _drift_less_spread(process, x: np.ndarray) -> np.ndarray:
    """b − T div D at points (n, d): taken together, so that where they cancel the rest keeps its digits."""
    drift, divergence = _force(process, x)
    return drift - process.temperature * divergence


def _potential_drop(process, pattern: Pattern) -> np.ndarray:
    """Φ(x) − Φ(x + δ) of every edge."""
    phi = at_points(process.equilibrium_potential, "the equilibrium potential", _centers(pattern.grid), ())
    return phi[pattern.tail] - phi[pattern.head]


def _along_edges(pattern: Pattern, drop: Callable) -> np.ndarray:
    """drop(start, δ, tail, head) of every edge, some at a time."""
    result = np.empty(pattern.tail.size)
    centers = _centers(pattern.grid)
    for lo in range(0, pattern.tail.size, _CHUNK):
        part = slice(lo, lo + _CHUNK)
        tail = pattern.tail[part]
        result[part] = drop(centers[tail], pattern.offset[part] * pattern.grid.spacing, tail, pattern.head[part])
    return result


def _along_leaks(pattern: Pattern, drop: Callable) -> np.ndarray:
    """drop(start, δ, tail, head) of the edges that end on an absorbing wall, over the part inside."""
    cell, grid = pattern.leak_cell, pattern.grid
    delta = pattern.leak_share[:, None] * (pattern.leak_step * grid.spacing)
    return drop(_centers(grid)[cell], delta, cell, cell)


def _drop(process, pattern: Pattern, force_at: Callable, start, delta, tail, head) -> np.ndarray:
    """δ·D⁻¹f at the midpoint of start and start + δ, f = force_at(process, x) and D with the added diffusion.

    The midpoint's smallest eigenvalue is held at a quarter of that of the ends' mean: the conductance comes
    from the ends, and where the noise vanishes between them (D ∝ x² at 0) a D⁻¹ out of step with it would
    make the rate infinite. Elsewhere the floor is not reached.
    """
    grid, d = pattern.grid, pattern.grid.dim
    middle = start + 0.5 * delta
    for axis, periodic in enumerate(grid.periodic):
        if periodic:
            low, high = grid.lower[axis], grid.upper[axis]
            middle[:, axis] = low + (middle[:, axis] - low) % (high - low)
    force = force_at(process, middle)
    here = at_points(process.diffusion, "diffusion", middle, (d, d))
    if d < 3:
        return drop2(here, force, delta, tail, head, pattern.diffusion, pattern.added)
    least_of_mean = smallest_eigenvalue(0.5 * (pattern.diffusion[tail] + pattern.diffusion[head]))
    least = smallest_eigenvalue(0.5 * (here + here.transpose(0, 2, 1)))
    return drop3(here, force, delta, least_of_mean, least, 0.5 * (pattern.added[tail] + pattern.added[head]))
