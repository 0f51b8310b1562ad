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
from functools import cached_property, partial

import numpy as np

from sde_sgd.grid import Grid

from ._eigenvalues import midpoint_shift
from ._inputs import at_points
from ._inverse_step import inverse_step
from ._pattern import Pattern

_MIDPOINT_FLOOR = 0.25  # of the smallest eigenvalue of the ends' mean in cells, which the midpoint's must reach
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
        size = np.abs(self.peclet)
        slow = bernoulli(size)
        fast = self.conductance * (slow + size)  # B(−z) = B(z) + z
        slow *= self.conductance
        downhill = self.peclet >= 0.0
        return np.where(downhill, fast, slow), np.where(downhill, slow, fast)

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

    def peclet(segments: _Segments) -> np.ndarray:
        def value(part: slice, middle: np.ndarray, delta: np.ndarray) -> np.ndarray:
            inverse = segments.inverse_step(process, part, middle, delta)
            return _dot(inverse, _drift_less_spread(process, middle)) / temperature

        return segments.each(value)

    edges, leaks = _segments(pattern)
    if process.equilibrium_potential is None:
        along = peclet(edges)
    else:
        along = potential_drop(process, pattern) / temperature
    return of_peclet(pattern, temperature, along, peclet(leaks))


def inverse_steps(process, pattern: Pattern) -> tuple[np.ndarray, np.ndarray]:
    """D⁻¹δ at the midpoints of the edges and of the leaks, (n, d) each; without the edges where Φ is known."""
    found = []
    for segments in _segments(pattern)[0 if process.equilibrium_potential is None else 1 :]:
        found.append(segments.each(partial(segments.inverse_step, process), pattern.grid.dim))
    return (found[0], found[1]) if len(found) == 2 else (np.empty((0, pattern.grid.dim)), found[0])


def dots(pattern: Pattern, inverse: tuple[np.ndarray, np.ndarray], field: Callable, name: str) -> list[np.ndarray]:
    """(D⁻¹δ)·field of the edges and of the leaks, from `inverse_steps`; 0 where there are none."""
    result = []
    for segments, steps in zip(_segments(pattern), inverse):

        def value(part: slice, middle: np.ndarray, delta: np.ndarray, steps: np.ndarray = steps) -> np.ndarray:
            return _dot(steps[part], at_points(field, name, middle, (middle.shape[1],)))

        result.append(segments.each(value) if len(steps) else np.zeros(segments.tail.size))
    return result


def potential_drop(process, pattern: Pattern) -> np.ndarray:
    """Φ(x) − Φ(x + δ) of every edge."""
    phi = at_points(process.equilibrium_potential, "the equilibrium potential", _centers(pattern.grid), ())
    return phi[pattern.tail] - phi[pattern.head]


def at_centers(field: Callable, name: str, grid: Grid) -> np.ndarray:
    """A vector field at the cell centres, (cells, d)."""
    return at_points(field, name, _centers(grid), (grid.dim,))


def least_diffusion(drift: np.ndarray, divergence: np.ndarray, temperature: float, grid: Grid) -> np.ndarray:
    """Least eigenvalue of D in cells, φ = |f|/(10¹⁰ T), f = b − T div D in cells: where D vanishes but f does not.

    |P| = |δ·D⁻¹f|/T is then at most 10¹⁰ per cell of the offset, and the edge upwind. Upwinding itself acts like a
    diffusion |b|h/2T; what φ adds is smaller than that by 2·10⁻¹⁰.
    """
    size = np.linalg.norm((drift - temperature * divergence) / grid.spacing, axis=1)
    return size / (temperature * _PECLET_CEILING)


def _centers(grid: Grid) -> np.ndarray:
    return grid.centers().reshape(-1, grid.dim)


def of_peclet(pattern: Pattern, temperature: float, peclet: np.ndarray, leak_peclet: np.ndarray) -> Edges:
    """The edges of a pattern at a temperature, from P of every edge and leak."""
    if not (np.abs(peclet) <= _PECLET_LIMIT).all():
        at = _centers(pattern.grid)[pattern.tail[int(np.argmax(~(np.abs(peclet) <= _PECLET_LIMIT)))]]
        raise ValueError(
            f"the cell Péclet number exceeds {_PECLET_LIMIT:g} near {tuple(at.tolist())}: "
            "temperature or diffusion is too small for the drift there"
        )
    # an edge cut at the fraction s of δ: the gradient is taken over the shorter length s|δ|
    rate = temperature * pattern.leak_weight / pattern.leak_share * bernoulli(-leak_peclet)
    cells, delta = pattern.grid.size, pattern.leak_step * pattern.grid.spacing
    # without any leak numpy counts in whole numbers, and kernels would be compiled for those as well
    leak = np.bincount(pattern.leak_cell, rate, cells).astype(float)
    moment = np.stack([np.bincount(pattern.leak_cell, rate * steps, cells) for steps in delta.T], axis=1).astype(float)
    conductance = temperature * pattern.mean
    return Edges(pattern.tail, pattern.head, pattern.offset, conductance, peclet, leak, moment)


def _drift_less_spread(process, x: np.ndarray) -> np.ndarray:
    """b − T div D at points (n, d): taken together, so that where they cancel the rest keeps its digits."""
    shape = (x.shape[1],)
    drift = at_points(process.drift, "drift", x, shape)
    return drift - process.temperature * at_points(process.diffusion_divergence, "diffusion_divergence", x, shape)


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum("ni,ni->n", a, b)


@dataclass(frozen=True)
class _Segments:
    """Straight lines that start at the centres of cells, and D at their midpoints."""

    pattern: Pattern
    tail: np.ndarray
    head: np.ndarray  # the cell at the other end, or the tail again where that is a wall
    steps: np.ndarray  # δ in cells, (n, d)

    def each(self, value: Callable, width: int | None = None) -> np.ndarray:
        """value(part, midpoints, δ) of all segments, some at a time: (n,), or (n, width)."""
        result = np.empty(self.tail.size if width is None else (self.tail.size, width))
        grid = self.pattern.grid
        centers = _centers(grid)
        for start in range(0, self.tail.size, _CHUNK):
            part = slice(start, start + _CHUNK)
            delta = self.steps[part] * grid.spacing
            middle = centers[self.tail[part]] + 0.5 * delta
            for axis in np.flatnonzero(grid.periodic):
                low, high = grid.lower[axis], grid.upper[axis]
                middle[:, axis] = low + (middle[:, axis] - low) % (high - low)
            result[part] = value(part, middle, delta)
        return result

    def inverse_step(self, process, part: slice, middle: np.ndarray, delta: np.ndarray) -> np.ndarray:
        """(D + sI)⁻¹δ, s ≥ ε the mean of that at the ends.

        The midpoint's smallest eigenvalue in cells is held at a quarter of that of the ends' mean: the conductance
        comes from the ends, and where the noise vanishes between them (D ∝ x² at 0) a D⁻¹ out of step with it would
        make the rate infinite. Elsewhere the floor is not reached.
        """
        pattern, dim = self.pattern, self.pattern.grid.dim
        here = at_points(process.diffusion, "diffusion", middle, (dim, dim))
        shift = midpoint_shift(
            here, self.tail[part], self.head[part], pattern.diffusion, pattern.added, _MIDPOINT_FLOOR,
            1.0 / np.outer(pattern.grid.spacing, pattern.grid.spacing),
        )  # fmt: skip
        return inverse_step(here, delta, shift)


def _segments(pattern: Pattern) -> tuple[_Segments, _Segments]:
    """The edges, and the parts inside of those that end on an absorbing wall."""
    cell = pattern.leak_cell
    return (
        _Segments(pattern, pattern.tail, pattern.head, pattern.offset),
        _Segments(pattern, cell, cell, pattern.leak_share[:, None] * pattern.leak_step),
    )
