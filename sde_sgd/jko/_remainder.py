"""What j does to a density: the ratio ρ/ρ_ss is carried along, so that ρ_ss stays exactly what it is.

    ∂ρ/∂t = −div(jρ) and div(jρ_ss) = 0 give ∂r/∂t = −j·∇r for r = ρ/ρ_ss:  log r(x, t + τ) = log r(X(x), t),

X the flow of −j over τ, by the Runge-Kutta method of order 4, log r and j by cubic splines. Positive by construction;
mass changes by the error of interpolation alone, which is reported and taken off. In empty tails, where j may be huge,
its size is bounded.
"""

import math
from collections.abc import Callable

import numpy as np

from sde_sgd.errors import NotConverged
from sde_sgd.grid import Grid

from ._monge_ampere import Before
from ._road import DEFECT

_TURN = 0.1  # of a cell's shear, in one Runge-Kutta step
_MOST = 256
_EMPTY = math.log(1e-6)  # of the largest density
_BOUND = 4.0  # times the fastest j where there is mass
_SHARP = 8
_WRAP = 8  # cells by which a periodic axis is continued at both ends, for its splines


class Remainder:
    """Transport along j over a time."""

    def __init__(self, grid: Grid, j: np.ndarray, log_steady: np.ndarray):
        self._grid, self._steady = grid, log_steady
        # on a line, a strip of four equal lines
        self._strip = (lambda v: v) if grid.dim == 2 else (lambda v: np.repeat(v[:, None], 4, axis=1))
        self._cells = self._strip(j / np.asarray(grid.spacing))
        if grid.dim == 1:
            self._cells = np.concatenate([self._cells, np.zeros_like(self._cells)], axis=-1)
        self._speed = self._strip(np.sqrt((j**2).sum(-1)))
        self._pads = [(_WRAP, _WRAP) if wraps else (0, 0) for wraps in grid.periodic] + [(0, 0)] * (2 - grid.dim)
        self._known: tuple[tuple[float, float], np.ndarray] | None = None

    def advance(self, log_density: np.ndarray, tau: float) -> tuple[np.ndarray, float]:
        """log ρ after the time τ, and by how much its mass had changed before it was set right."""
        level = np.maximum(log_density - log_density.max(), self._steady - self._steady.max())
        fastest = float(self._speed[self._strip(level) > _EMPTY].max())
        if fastest == 0.0:
            return log_density, 0.0
        key = tau, 2.0 ** math.ceil(math.log2(fastest))  # rarely changes along a flow
        if self._known is None or self._known[0] != key:
            self._known = key, self._backward(*key)
        ratio = self._between(self._strip(log_density - self._steady))
        carried = ratio(self._known[1])[0]
        moved = self._steady + (carried if self._grid.dim == 2 else carried[:, 0])
        top = moved.max()
        mass = math.log(np.exp(moved - top).sum() * self._grid.cell_volume) + top
        if not abs(mass) <= DEFECT:
            raise NotConverged(
                f"transport along j over tau = {tau:g} made a density of mass e^{mass:.3g} of one of mass 1: log ρ "
                "changes too much between cells; take a smaller tau or a finer grid"
            )
        return moved - mass, math.expm1(mass)

    def _between(self, values: np.ndarray) -> Callable:
        """Values and slopes at places in cells from the first centre; periodic axes go on, others along a line."""
        wraps = [pad > 0 for pad, _ in self._pads]
        spline = Before(np.pad(values, self._pads, mode="wrap"))
        shift = [float(pad) for pad, _ in self._pads]

        def at(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            place = [
                (x[..., i] % n if wrap else x[..., i]) + s
                for i, (n, wrap, s) in enumerate(zip(values.shape, wraps, shift))
            ]
            return spline(*place)

        return at

    def _backward(self, tau: float, fastest: float) -> np.ndarray:
        """X(x) of the cells, in cells from the first centre."""
        size = self._speed / (_BOUND * fastest)
        # (1 + sᵖ)^{−1/p}, with the larger of 1 and s taken out lest sᵖ overflow
        large = np.maximum(size, 1.0)
        bounded = (large**-_SHARP + (size / large) ** _SHARP) ** (-1.0 / _SHARP) / large
        cells = self._cells * bounded[..., None]
        splines = [self._between(cells[..., i]) for i in (0, 1)]
        inside = self._speed <= fastest
        shear = max(float(np.abs(d)[inside].max()) for i in (0, 1) for d in np.gradient(cells[..., i]))
        steps = min(_MOST, max(1, math.ceil(shear * tau / _TURN)))
        places = np.meshgrid(*(np.arange(float(n)) for n in cells.shape[:2]), indexing="ij")
        x, dt = np.stack(places, axis=-1), -tau / steps

        free = np.array([pad > 0 for pad, _ in self._pads])
        last = np.where(free, np.inf, np.array(cells.shape[:2]) - 1.0)

        def velocity(x: np.ndarray) -> np.ndarray:
            x = np.clip(x, np.where(free, -np.inf, 0.0), last)
            return np.stack([spline(x)[0] for spline in splines], axis=-1)

        for _ in range(steps):
            k1 = velocity(x)
            k2 = velocity(x + dt / 2 * k1)
            k3 = velocity(x + dt / 2 * k2)
            x = x + dt / 6 * (k1 + 2 * k2 + 2 * k3 + velocity(x + dt * k3))
        return x
