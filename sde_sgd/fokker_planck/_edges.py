"""The edges of the generator: which cells exchange mass, and at what two rates.

An edge from x to x + δ, δ = h∘e, carries

    forward rate  c B(−P),    backward rate  c B(P),    B(z) = z/(e^z − 1),
    c = T·(mean of both ends' Selling weights),    P = δ·D⁻¹(b − T div D)/T at the midpoint,

the Scharfetter–Gummel flux along the edge: exact for constant drift in 1-D, and of second order. The pair
(c, P) is what is stored: at cell Péclet numbers near a thousand one of the rates is zero in float64, the
pair never is. Edges along reflecting walls have more conductance: see `_walls`.
Source: Scharfetter & Gummel (1969), IEEE Trans. Electron Devices 16.
"""

from dataclasses import dataclass

import numpy as np

from sde_sgd.grid import Grid

from . import _walls
from ._inputs import at_points
from ._selling import selling

_PECLET_CEILING = 1e10  # per cell; beyond, only the drift matters, and exponents must not overflow on the way
_PECLET_LIMIT = 1e13  # of an edge: times the cells of any grid that fits in memory, within 2^57 octaves


def bernoulli(z: np.ndarray) -> np.ndarray:
    """B(z) = z/(e^z − 1), with B(0) = 1; 0 where e^z exceeds float64."""
    z = np.asarray(z, dtype=float)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return np.where(z == 0.0, 1.0, z / np.expm1(z))


@dataclass(frozen=True)
class Edges:
    """Edge list of a generator; `leak` is the rate at which each cell loses mass through absorbing walls."""

    tail: np.ndarray
    head: np.ndarray
    offset: np.ndarray  # (edges, d), in cells
    conductance: np.ndarray  # c, 1/time
    peclet: np.ndarray  # P, dimensionless
    leak: np.ndarray  # (cells,)
    leak_moment: np.ndarray  # (cells, d): Σ rate·δ over the edges that end on an absorbing wall

    def rates(self) -> tuple[np.ndarray, np.ndarray]:
        """Forward and backward rate of every edge; 0 where float64 cannot hold the smaller one."""
        return self.conductance * bernoulli(-self.peclet), self.conductance * bernoulli(self.peclet)

    def log_rates(self) -> tuple[np.ndarray, np.ndarray]:
        """Logarithms of the two rates, finite always."""
        size = np.abs(self.peclet)
        downhill = np.log(self.conductance) + np.log(bernoulli(-size))
        return downhill - np.maximum(-self.peclet, 0.0), downhill - np.maximum(self.peclet, 0.0)

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


def build(process, grid: Grid, diffusion: np.ndarray, max_offset: int) -> tuple[Edges, np.ndarray]:
    """Edges of the generator on the grid, and the isotropic diffusion ε added to each cell.

    `diffusion` is D at the cell centres, (cells, d, d), checked and symmetric.
    """
    potential, centers = process.equilibrium_potential, grid.centers().reshape(-1, grid.dim)
    least = 0.0 if potential is not None else _least_diffusion(process, grid, centers)
    weight, offset, added = selling(diffusion, grid.spacing, _walls.reach(grid, max_offset), least)
    weight, offset = _walls.with_edges_along(grid, weight, offset)
    tails, heads, steps, conductances = [], [], [], []
    for e in _distinct(offset[weight > 0.0]):
        own = np.where((offset == e).all(axis=2), weight, 0.0).sum(axis=1)
        tail, head = _pairs(grid, e)
        mean = 0.5 * (own[tail] + own[head])
        keep = mean > 0.0
        tails.append(tail[keep])
        heads.append(head[keep])
        conductances.append(process.temperature * mean[keep])
        steps.append(np.broadcast_to(e, (int(keep.sum()), grid.dim)))
    tail, head = np.concatenate(tails), np.concatenate(heads)
    step, conductance = np.concatenate(steps), np.concatenate(conductances)
    if potential is None:
        start = centers[tail]
        ends = diffusion[tail], diffusion[head], 0.5 * (added[tail] + added[head])
        peclet = _drop(process, grid, start, step * grid.spacing, *ends)
    else:
        phi = at_points(potential, "the equilibrium potential", centers, ())
        peclet = (phi[tail] - phi[head]) / process.temperature
    if not (np.abs(peclet) <= _PECLET_LIMIT).all():
        at = centers[tail[int(np.argmax(~(np.abs(peclet) <= _PECLET_LIMIT)))]]
        raise ValueError(
            f"the cell Péclet number exceeds {_PECLET_LIMIT:g} near {tuple(at.tolist())}: "
            "temperature or diffusion is too small for the drift there"
        )
    leak, moment = _leaks(process, grid, diffusion, added, weight, offset, centers)
    return Edges(tail, head, step, conductance, peclet, leak, moment), added


def _least_diffusion(process, grid: Grid, centers: np.ndarray) -> np.ndarray:
    """ε that keeps |P| ≤ 10¹⁰ where D vanishes but the drift does not: the edge there is upwind.

    Upwinding itself acts like a diffusion |b|h/2T; this ε is smaller than that by 2·10⁻¹⁰.
    """
    drift, divergence = _force(process, centers)
    size = np.linalg.norm(drift - process.temperature * divergence, axis=1)
    return size * grid.spacing.max() / (process.temperature * _PECLET_CEILING)


def _force(process, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """b and div D at points (n, d)."""
    shape = (x.shape[1],)
    return (
        at_points(process.drift, "drift", x, shape),
        at_points(process.diffusion_divergence, "diffusion_divergence", x, shape),
    )


def _distinct(offsets: np.ndarray) -> np.ndarray:
    """The different rows of (n, d) offsets; they fit in a byte, so one number stands for a row."""
    _, first = np.unique(offsets @ 256 ** np.arange(offsets.shape[1]), return_index=True)
    return offsets[first]


def _pairs(grid: Grid, e: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flat indices of all cells x and x + e that are both on the grid."""
    tails, heads = [], []
    for cells, periodic, step in zip(grid.shape, grid.periodic, e):
        i = np.arange(cells)
        j = i + step
        inside = np.full(cells, True) if periodic else (j >= 0) & (j < cells)
        tails.append(i[inside])
        heads.append(j[inside] % cells)
    return tuple(
        np.ravel_multi_index(tuple(np.meshgrid(*ends, indexing="ij")), grid.shape).ravel() for ends in (tails, heads)
    )  # type: ignore[return-value]


def _drop(process, grid: Grid, start, delta, tail_diffusion, head_diffusion, added) -> np.ndarray:
    """P = δ·D⁻¹(b − T div D)/T at the midpoint of start and start + δ, D with the added diffusion.

    The midpoint's smallest eigenvalue is held at a quarter of that of the ends' mean: the conductance comes
    from the ends, and where the noise vanishes between them (D ∝ x² at 0) a D⁻¹ out of step with it would
    make the rate infinite. Elsewhere the floor is not reached.
    """
    middle = start + 0.5 * delta
    for axis, periodic in enumerate(grid.periodic):
        if periodic:
            low, high = grid.lower[axis], grid.upper[axis]
            middle[:, axis] = low + (middle[:, axis] - low) % (high - low)
    d = grid.dim
    drift, divergence = _force(process, middle)
    force = drift - process.temperature * divergence
    here = at_points(process.diffusion, "diffusion", middle, (d, d))
    floor = 0.25 * (_eigenvalues(0.5 * (tail_diffusion + head_diffusion))[0] + added)
    shift = added + np.maximum(0.0, floor - _eigenvalues(here)[0] - added)
    if d == 1:
        solved = force / (here[:, 0] + shift[:, None])
    else:
        a, b, c = here[:, 0, 0] + shift, 0.5 * (here[:, 0, 1] + here[:, 1, 0]), here[:, 1, 1] + shift
        low, high = (v + shift for v in _eigenvalues(here))
        # adjugate over determinant, the latter as a product of eigenvalues: no cancellation that matters
        solved = np.stack([c * force[:, 0] - b * force[:, 1], a * force[:, 1] - b * force[:, 0]], 1)
        solved /= (low * high)[:, None]
    return np.einsum("ni,ni->n", delta, solved) / process.temperature


def _eigenvalues(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest eigenvalue of symmetric 1×1 or 2×2 matrices (n, d, d)."""
    if matrix.shape[1] == 1:
        return matrix[:, 0, 0], matrix[:, 0, 0]
    mean = 0.5 * (matrix[:, 0, 0] + matrix[:, 1, 1])
    radius = np.hypot(0.5 * (matrix[:, 0, 0] - matrix[:, 1, 1]), 0.5 * (matrix[:, 0, 1] + matrix[:, 1, 0]))
    return mean - radius, mean + radius


def _leaks(process, grid: Grid, diffusion, added, weight, offset, centers) -> tuple[np.ndarray, np.ndarray]:
    """Rates through absorbing walls: an edge cut by the wall at the fraction s of δ ends there, at density 0.

    Its rate is (Tλ/s) B(−sP), as the gradient is taken over the shorter length s|δ|; in 1-D s = ½.
    """
    leak, moment = np.zeros(grid.size), np.zeros((grid.size, grid.dim))
    if "absorbing" not in grid.boundary:
        return leak, moment
    cell = np.stack(np.unravel_index(np.arange(grid.size), grid.shape), axis=1)
    for slot in range(weight.shape[1]):
        for sign in (1, -1):
            e = sign * offset[:, slot]
            share, absorbed = np.full(grid.size, np.inf), np.zeros(grid.size, bool)
            for axis, (cells, wall) in enumerate(zip(grid.shape, grid.boundary)):
                end = cell[:, axis] + e[:, axis]
                crosses = (wall != "periodic") & ((end < 0) | (end >= cells))
                room = np.where(e[:, axis] > 0, cells - 1 - cell[:, axis], cell[:, axis]) + 0.5
                s = np.where(crosses, room / np.maximum(np.abs(e[:, axis]), 1), np.inf)
                first = (s < share) | ((s == share) & crosses & (wall == "absorbing"))
                absorbed = np.where(first, wall == "absorbing", absorbed)
                share = np.minimum(share, s)
            c = np.flatnonzero(absorbed & (weight[:, slot] > 0.0))
            s, delta = share[c], e[c] * grid.spacing
            peclet = _drop(process, grid, centers[c], s[:, None] * delta, diffusion[c], diffusion[c], added[c])
            rate = process.temperature * weight[c, slot] / s * bernoulli(-peclet)
            leak[c] += rate
            moment[c] += rate[:, None] * delta
    return leak, moment
