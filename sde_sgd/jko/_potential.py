"""Φ, the arc length of the metric D⁻¹ and the remainder j of a process, and where each comes from."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.interpolate import CubicHermiteSpline

from sde_sgd.fokker_planck import FokkerPlanck
from sde_sgd.grid import Grid
from sde_sgd.potential import decompose

_PIECES = 4096  # at least, of the tables along a line, and at most eight times as many
_DIFFERENCE = 1e-5  # of the box: the step of the second derivative, which only steers Newton's method
_CALM = 1e-12  # |j| over |b| that is rounding
_SEAM = 1e-8  # jump of the loss across a periodic seam that is rounding, of its range


@dataclass(frozen=True)
class Given:
    """Φ in the cells; j there, or None where it is 0; in words where they come from, and what is shared."""

    potential: np.ndarray
    remainder: np.ndarray | None
    source: str
    shares: str


def of(process: Any, grid: Grid, potential: str, remainder: str) -> Given:
    """What the flow on a grid needs to know of a process; on a line everything follows from b and D."""
    x = grid.centers()
    temperature = process.constant_temperature
    if potential == "loss":
        return Given(_loss(process, grid), None, "the loss", "the landscape's loss")
    if grid.dim == 1 and not grid.periodic[0]:
        phi = Line(process, grid, potential).potential(grid.axes[0])
        return Given(phi, None, "the integral of (T D' - b)/D", "the landscape's drift and diffusion")
    exact = process.equilibrium_potential
    phi = process.potential(x) if exact is None else exact(x)
    if phi is not None:
        j = None
        if exact is None and remainder == "split":
            j = process.landscape.remainder(x, temperature)
            if np.abs(j).max() <= _CALM * np.abs(process.drift(x)).max():
                j = None
        return Given(np.asarray(phi, float), j, "closed form", "the landscape's closed form")
    fields = decompose(FokkerPlanck(process, grid))
    j = fields.remainder.values if remainder == "split" else None
    return Given(fields.potential.values, j, "FokkerPlanck", "potential and remainder of FokkerPlanck on this grid")


def _loss(process: Any, grid: Grid) -> np.ndarray:
    try:
        values = np.asarray(process.landscape.loss(grid.centers()), float)
    except (AttributeError, KeyError):
        values = np.zeros(grid.shape)
    if not values.any():
        raise ValueError(
            f"potential='loss' needs a loss, and {process.landscape.name} is given by its drift alone; take "
            "potential='steady_state'"
        )
    if not np.isfinite(values).all():
        raise ValueError("the loss is not finite on the grid; choose a box inside its domain")
    for axis in np.flatnonzero(grid.periodic):
        low, high = grid.centers().take(0, axis=axis), grid.centers().take(0, axis=axis)
        low[..., axis], high[..., axis] = grid.lower[axis], grid.upper[axis]
        jump = np.abs(process.landscape.loss(high) - process.landscape.loss(low)).max()
        if jump > _SEAM * max(np.ptp(values), process.constant_temperature):
            raise ValueError(
                f"the loss jumps by {jump:.6g} across the periodic axis {process.variables[axis]}, and its "
                "descent needs one value there; take potential='steady_state': there the force around is a remainder"
            )
    return values


class Line:
    """Φ and s = ∫dx/√D on an interval, by quadrature of what the process gives in closed form."""

    def __init__(self, process: Any, grid: Grid, potential: str):
        self._process, self._loss = process, potential == "loss"
        self._temperature = process.constant_temperature
        self._ends = grid.lower[0], grid.upper[0]
        knots = np.linspace(*self._ends, min(max(_PIECES, 4 * grid.size), 8 * _PIECES) + 1)
        d = self._diffusion(knots)
        if not (np.isfinite(d).all() and d.min() > 0.0):
            at = knots[int(np.argmin(np.where(np.isfinite(d), d, -np.inf)))]
            raise ValueError(
                f"the metric 1/D needs D > 0, and D is {d.min():g} at {at:g}; choose a box in which D is positive, or "
                "use FokkerPlanck"
            )
        self.constant = float(d[0]) if np.ptp(d) == 0.0 else None
        self._length = self._integral(knots, lambda x: self._diffusion(x) ** -0.5)
        self._potential = self._integral(knots, self._force)

    def _integral(self, knots: np.ndarray, slope: Any) -> CubicHermiteSpline:
        """∫slope by five Gauss points in each piece."""
        nodes, weights = np.polynomial.legendre.leggauss(5)
        half, middle = 0.5 * np.diff(knots), 0.5 * (knots[1:] + knots[:-1])
        pieces = half * (slope(middle[:, None] + half[:, None] * nodes) @ weights)
        ends = slope(knots)
        if not np.isfinite(ends).all():
            raise ValueError("drift or diffusion is not finite on the grid; choose a box inside their domain")
        return CubicHermiteSpline(knots, np.append(0.0, np.cumsum(pieces)), ends)

    def _diffusion(self, x: np.ndarray) -> np.ndarray:
        return self._process.diffusion(x[..., None])[..., 0, 0]

    def _force(self, x: np.ndarray) -> np.ndarray:
        """Φ' = (T D' − b)/D, no current flowing between walls; or f'."""
        if self._loss:
            return self._process.landscape.gradient(x[..., None])[..., 0]
        spread = self._temperature * self._process.diffusion_divergence(x[..., None])
        return (spread - self._process.drift(x[..., None]))[..., 0] / self._diffusion(x)

    def potential(self, x: np.ndarray, order: int = 0) -> np.ndarray:
        """The derivative of Φ of an order up to 2; beyond the ends Φ is a straight line."""
        beyond, x = x - np.clip(x, *self._ends), np.clip(x, *self._ends)
        if order == 0:
            return self._potential(x) + self._force(x) * beyond
        if order == 1:
            return self._force(x)
        shift = _DIFFERENCE * (self._ends[1] - self._ends[0])
        low, high = np.maximum(x - shift, self._ends[0]), np.minimum(x + shift, self._ends[1])
        return (self._force(high) - self._force(low)) / (high - low)

    def arc_length(self, x: np.ndarray, order: int = 0) -> np.ndarray:
        """The derivative of s of an order up to 2; beyond the ends s is a straight line."""
        if self.constant is not None:
            return [x, np.ones_like(x), np.zeros_like(x)][order] / np.sqrt(self.constant)
        beyond, x = x - np.clip(x, *self._ends), np.clip(x, *self._ends)
        d = self._diffusion(x)
        if order == 0:
            return self._length(x) + beyond * d**-0.5
        return d**-0.5 if order == 1 else -0.5 * self._process.diffusion_divergence(x[..., None])[..., 0] * d**-1.5
