"""Steps in one variable: masses between nodes that are kept along a flow, and binned only to be looked at."""

from typing import Any

import numpy as np
from scipy.interpolate import CubicSpline, PchipInterpolator

from sde_sgd.grid import Grid

from ._potential import Line
from ._quantile import Medium, Nodes, step
from ._road import Record

_TAIL = 1e-25  # mass beyond which a tail is one piece
_FLOOR = -690.0  # log of what is left in an empty cell, of the largest density
_JUMP = 10.0  # of log ρ between neighbours, beyond which the mass of a cell is spread evenly over it
_FEWEST = 2000  # pieces at the start
_CLOSEST = 1e-9  # of the box: pieces shorter than this lose their length to rounding, and join the next


class Quantile:
    """Newton's method on where each share of the mass lies; see `_quantile`."""

    def __init__(
        self, process: Any, grid: Grid, potential: str, *, tolerance: float, nodes: int | None, exponent: float | None
    ):
        self._grid, self._tolerance = grid, tolerance
        self._line = Line(process, grid, potential)
        self._medium = Medium(process.constant_temperature, exponent)
        self._parts = -(-(nodes or _FEWEST) // grid.size)
        self.settings = {"method": "quantile", "nodes": self._parts * grid.size + 1}

    def start(self, log_density: np.ndarray) -> np.ndarray:
        """Positions and masses, (2, nodes); every cell is cut into equal pieces, tails are joined to one."""
        grid, parts = self._grid, self._parts
        edges = np.linspace(grid.lower[0], grid.upper[0], grid.size * parts + 1)
        middle = 0.5 * (edges[1:] + edges[:-1])
        if self._medium.exponent is None:
            # the share of a piece in its cell follows a cubic; an empty cell gets what rounding would leave
            level = np.maximum(log_density - log_density.max(), _FLOOR)
            jump = np.abs(np.diff(level, prepend=level[0], append=level[-1]))
            jumps = np.maximum(jump[1:], jump[:-1]) > _JUMP
            smooth = PchipInterpolator(grid.axes[0], level) if jumps.any() else CubicSpline(grid.axes[0], level)
            at = np.clip(middle, grid.axes[0][0], grid.axes[0][-1]) if jumps.any() else middle
            shape = np.where(jumps[:, None], 0.0, smooth(at).reshape(grid.size, parts))
            share = np.exp(shape - shape.max(axis=1, keepdims=True))
            mass = (np.exp(level)[:, None] * share / share.sum(axis=1, keepdims=True)).ravel()
        else:
            mass = np.repeat(np.exp(log_density), parts)
            inside = np.flatnonzero(mass)
            mass, edges = mass[inside[0] : inside[-1] + 1], edges[inside[0] : inside[-1] + 2]
            if not mass.all():
                raise ValueError(
                    "the density is 0 between two parts of its support, and of a porous medium the quantile method "
                    "follows one part; start each by itself"
                )
        mass = mass / mass.sum()
        if self._medium.exponent is None:
            first = int(np.searchsorted(np.cumsum(mass), _TAIL))
            last = mass.size - int(np.searchsorted(np.cumsum(mass[::-1]), _TAIL))
            mass = np.concatenate([[mass[: first + 1].sum()], mass[first + 1 : last - 1], [mass[last - 1 :].sum()]])
            edges = np.concatenate([edges[:1], edges[first + 1 : last], edges[-1:]])
        return self._packed(Nodes(edges, mass))

    def advance(self, state: np.ndarray, tau: float) -> tuple[np.ndarray, Record]:
        """One step."""
        nodes, line = self._joined(_unpacked(state)), self._line
        pinned = self._medium.exponent is None
        after, squared, residual, count = step(
            nodes, tau, line.potential, line.arc_length, self._medium, pinned, self._tolerance
        )
        return self._packed(after), Record(squared, residual, count)

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
        """F as it is minimised: over the nodes."""
        nodes = _unpacked(state)
        return float(
            nodes.weight @ self._line.potential(nodes.position) + nodes.mass @ self._medium.energy(nodes.density)
        )

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

    def _packed(self, nodes: Nodes) -> np.ndarray:
        state = np.full((2, self._parts * self._grid.size + 1), np.nan)
        state[0, : nodes.position.size], state[1, : nodes.mass.size] = nodes.position, nodes.mass
        return state


def _unpacked(state: np.ndarray) -> Nodes:
    count = int(np.isfinite(state[0]).sum())
    return Nodes(state[0, :count], state[1, : count - 1])


def _extended(x: np.ndarray, values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """A monotone cubic through the values, straight beyond the first and the last."""
    slopes = np.diff(values[[0, 1, -2, -1]])[[0, 2]] / np.diff(x[[0, 1, -2, -1]])[[0, 2]]
    inner = PchipInterpolator(x, values)(np.clip(at, x[0], x[-1]))
    return inner + slopes[0] * np.minimum(at - x[0], 0.0) + slopes[1] * np.maximum(at - x[-1], 0.0)
