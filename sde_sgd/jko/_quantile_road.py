"""Steps in one variable: masses between nodes that are kept along a flow, and binned only to be looked at."""

from typing import Any

import numpy as np
from scipy.integrate import cumulative_trapezoid
from scipy.interpolate import CubicSpline, PchipInterpolator

from sde_sgd.errors import NotConverged
from sde_sgd.grid import Grid

from ._potential import Line
from ._quantile import Medium, Nodes, step
from ._road import Record

_TAIL = 1e-25  # mass beyond which a tail is one piece
_NOTHING = 1e-12  # mass of a piece between others, which would lose its length to rounding
_FLOOR = -690.0  # log of what is left in an empty cell, of the largest density
_JUMP = 10.0  # of log ρ between neighbours, beyond which a cubic does not follow
_FEWEST = 2000  # pieces at the start
_TABLE = 2**14  # pieces of the steady state, at least
_BEATEN = 0.2  # of T, by which what is minimised may lie above its value at the steady state, for the nodes' own error
_CLOSEST = 1e-9  # of the box: pieces shorter than this lose their length to rounding, and join the next


class Quantile:
    """Newton's method on where each share of the mass lies; see `_quantile`."""

    def __init__(
        self, process: Any, grid: Grid, potential: str, *, tolerance: float, nodes: int | None, exponent: float | None
    ):
        self._grid, self._tolerance = grid, tolerance
        self._line = Line(process, grid, potential)
        self._medium = Medium(process.constant_temperature, exponent)
        self._fewest = nodes or _FEWEST
        self._lowest = float(self._line.potential(grid.axes[0]).min())
        self._table = np.linspace(grid.lower[0], grid.upper[0], max(_TABLE, 4 * grid.size) + 1)
        density = np.exp((self._lowest - self._line.potential(self._table)) / self._medium.temperature)
        self._gibbs = cumulative_trapezoid(density, self._table, initial=0.0)
        self.settings = {"method": "quantile", "nodes_at_least": self._fewest}

    def start(self, log_density: np.ndarray) -> np.ndarray:
        """Positions and masses, (2, nodes); every cell is cut into equal pieces, those without mass join others."""
        if self._medium.exponent is None:
            return _packed(self._of_entropy(log_density))
        inside = np.flatnonzero(log_density > -np.inf)
        parts = np.full(self._grid.size, -(-self._fewest // inside.size))
        mass, edges = np.repeat(np.exp(log_density), parts), self._edges(parts)
        first, last = parts[0] * inside[[0, -1]]
        mass, edges = mass[first : last + parts[0]], edges[first : last + parts[0] + 1]
        if not mass.all():
            raise ValueError(
                "the density is 0 between two parts of its support, and of a porous medium the quantile method "
                "follows one part; start each by itself"
            )
        return _packed(Nodes(edges, mass / mass.sum()))

    def _of_entropy(self, log_density: np.ndarray) -> Nodes:
        """The share of a piece in its cell follows a cubic; an empty cell gets what rounding would leave.

        Where ρ jumps the mass of a cell is spread evenly over it, as many pieces as are asked for lie where there is
        mass, and the last before the jump is halved over and over: the tail that comes out of it has so little.
        """
        x = self._grid.axes[0]
        level = np.maximum(log_density - log_density.max(), _FLOOR)
        level -= np.log(np.exp(level).sum())
        parts = np.full(level.size, -(-self._fewest // level.size))
        jump = np.abs(np.diff(level, prepend=level[0], append=level[-1])) > _JUMP
        jumps, jumpy = jump[1:] | jump[:-1], bool(jump.any())
        if jumpy:
            heavy = level > np.log(_NOTHING)
            parts[heavy] = -(-self._fewest // int(heavy.sum()))
        edges, cell = self._edges(parts), np.repeat(np.arange(level.size), parts)
        smooth = PchipInterpolator(x, level) if jumpy else CubicSpline(x, level)
        middle = 0.5 * (edges[1:] + edges[:-1])
        shape = np.where(jumps[cell], 0.0, smooth(np.clip(middle, x[0], x[-1]) if jumpy else middle))
        first = np.cumsum(parts) - parts
        share = np.exp(shape - np.maximum.reduceat(shape, first)[cell])
        mass = np.exp(level)[cell] * share / np.add.reduceat(share, first)[cell]
        nodes = Nodes(edges, mass / mass.sum())
        return _without_gaps(self._halved(nodes) if jumpy else nodes)

    def _edges(self, parts: np.ndarray) -> np.ndarray:
        """Of pieces, so many in each cell."""
        cell, first = np.repeat(np.arange(parts.size), parts), np.cumsum(parts) - parts
        places = np.append(cell + (np.arange(cell.size) - first[cell]) / parts[cell], parts.size)
        return np.interp(places, np.arange(parts.size + 1.0), self._grid.edges[0])

    def _halved(self, nodes: Nodes) -> Nodes:
        """The pieces beside those with far less mass, halved towards them until they are as light or too short."""
        log_mass, gap = np.log(nodes.mass), np.diff(nodes.position)
        shortest = 2.0 * _CLOSEST * (self._grid.upper[0] - self._grid.lower[0])
        new = [nodes.position]
        for i in np.flatnonzero(np.abs(np.diff(log_mass)) > _JUMP):
            fall = log_mass[i] - log_mass[i + 1]
            piece, inward = (i, -1.0) if fall > 0.0 else (i + 1, 1.0)
            times = int(min(np.log2(gap[piece] / shortest), abs(fall) / np.log(2.0)))
            new.append(nodes.position[i + 1] + inward * gap[piece] * 0.5 ** np.arange(1.0, times + 1.0))
        position = np.sort(np.concatenate(new))
        position = position[np.append(True, np.diff(position) > 0.1 * shortest)]  # halved from both sides
        piece = np.searchsorted(nodes.position, position[:-1], side="right") - 1
        return Nodes(position, nodes.mass[piece] * np.diff(position) / gap[piece])

    def advance(self, state: np.ndarray, tau: float) -> tuple[np.ndarray, Record]:
        """One step."""
        nodes, line = self._joined(_unpacked(state)), self._line
        walls = float(self._grid.lower[0]), float(self._grid.upper[0])
        # with entropy the density is positive up to the walls; a porous medium is held by those it reaches, and what
        # one wall holds back is pushed on to the other
        held: tuple[float | None, float | None] = walls if self._medium.exponent is None else (None, None)
        spent = 0
        while True:
            after, squared, residual, count = step(
                nodes, tau, line.potential, line.arc_length, self._medium, held, self._tolerance
            )
            spent += count
            first, last = after.position[[0, -1]]
            reached = walls[0] if first < walls[0] else held[0], walls[1] if last > walls[1] else held[1]
            if reached == held:
                break
            held = reached
        packed = _packed(after, state.shape[1])
        self._refuse_beaten(nodes, packed, squared, tau)
        return packed, Record(squared, residual, spent)

    def _refuse_beaten(self, before: Nodes, found: np.ndarray, squared: float, tau: float) -> None:
        """NotConverged where e^{−Φ/T} would be better: barriers that hold less than a piece leave other minima."""
        if self._medium.exponent is not None:
            return
        temperature, line = self._medium.temperature, self._line
        share = np.append(0.0, np.cumsum(before.mass)) / before.mass.sum()
        there = np.interp(share * self._gibbs[-1], self._gibbs, self._table)
        moved = line.arc_length(there) - line.arc_length(before.position)
        best = float(before.weight @ moved**2) / (2.0 * tau) - temperature * float(np.log(self._gibbs[-1]))
        value = squared / (2.0 * tau) + self.energy(found)
        if value > best + _BEATEN * temperature:
            raise NotConverged(
                f"the step of tau = {tau:g} ended at a stationary point with W²/(2 tau) + F = {value:.6g}, and the "
                f"steady state has {best:.6g}: the nodes do not resolve the density, or a barrier that mass "
                "should leap; take more nodes, a smaller tau, or method='entropic', in which mass may leap"
            )

    def log_density(self, state: np.ndarray) -> np.ndarray:
        """Between nodes log ρ is interpolated; of a porous medium the mass in each cell is added up."""
        nodes, grid = _unpacked(state), self._grid
        if self._medium.exponent is None:
            middle = 0.5 * (nodes.position[1:] + nodes.position[:-1])
            points, weights = np.polynomial.legendre.leggauss(3)
            places = grid.axes[0][:, None] + 0.5 * grid.spacing[0] * points
            values = _extended(middle, np.log(nodes.density), places)
            top = values.max()
            values = (
                np.log(np.exp(values - top) @ (0.5 * weights)) if values.min() > top + _FLOOR else values[:, 1] - top
            )
            return values - np.log(np.exp(values).sum() * grid.cell_volume)
        below = np.interp(grid.edges[0], nodes.position, np.append(0.0, np.cumsum(nodes.mass)))
        with np.errstate(divide="ignore"):
            return np.log(np.diff(below) / grid.cell_volume)

    def energy(self, state: np.ndarray) -> float:
        """F as it is minimised, over the nodes; Φ has minimum 0 over the cells."""
        nodes = _unpacked(state)
        phi = self._line.potential(nodes.position) - self._lowest
        return float(nodes.weight @ phi + nodes.mass @ self._medium.energy(nodes.density))

    def _joined(self, nodes: Nodes) -> Nodes:
        """Without the nodes that have come too close to the one before."""
        least = _CLOSEST * (self._grid.upper[0] - self._grid.lower[0])
        if np.diff(nodes.position).min() >= least:
            return nodes
        keep = [0]
        for i in range(1, nodes.position.size - 1):
            if (
                nodes.position[i] - nodes.position[keep[-1]] >= least
                and nodes.position[-1] - nodes.position[i] >= least
            ):
                keep.append(i)
        return Nodes(nodes.position[[*keep, -1]], np.add.reduceat(nodes.mass, keep))


def _packed(nodes: Nodes, size: int | None = None) -> np.ndarray:
    state = np.full((2, size or nodes.position.size), np.nan)
    state[0, : nodes.position.size], state[1, : nodes.mass.size] = nodes.position, nodes.mass
    return state


def _without_gaps(nodes: Nodes) -> Nodes:
    """Tails joined to one piece each, and pieces next to nothing between others to the one after them."""
    mass, index = nodes.mass, np.arange(nodes.mass.size - 1)
    first = int(np.searchsorted(np.cumsum(mass), _TAIL))
    last = mass.size - 1 - int(np.searchsorted(np.cumsum(mass[::-1]), _TAIL))
    heavy = np.flatnonzero(mass >= _NOTHING)
    between = (mass[:-1] < _NOTHING) & (index > heavy[0]) & (index < heavy[-1])
    starts = np.append(0, 1 + np.flatnonzero((index >= first) & (index < last) & ~between))
    return Nodes(nodes.position[np.append(starts, mass.size)], np.add.reduceat(mass, starts))


def _unpacked(state: np.ndarray) -> Nodes:
    count = int(np.isfinite(state[0]).sum())
    return Nodes(state[0, :count], state[1, : count - 1])


def _extended(x: np.ndarray, values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """A monotone cubic through the values, straight beyond the first and the last."""
    slopes = np.diff(values[[0, 1, -2, -1]])[[0, 2]] / np.diff(x[[0, 1, -2, -1]])[[0, 2]]
    inner = PchipInterpolator(x, values)(np.clip(at, x[0], x[-1]))
    return inner + slopes[0] * np.minimum(at - x[0], 0.0) + slopes[1] * np.maximum(at - x[-1], 0.0)
