"""One implicit step in two variables: the Monge–Ampère equation of its optimal map, by Newton's method.

With u = Φ + T log ρ, a step from ρ₀ of length τ is stationary where the mass at y came from the end S(y) of the
geodesic of the metric D⁻¹ that leaves y with momentum ∇u(y) and lasts the time τ; S(y) = y + τD∇u(y) for constant D.
Hence

    log ρ(y) = log ρ₀(S(y)) + log det DS(y).

Corners of cells are moved, those on walls along them (no flux: n·D∇u = 0). S of a centre is the mean of its corners,
det DS the area of the moved cell over that of the cell, log ρ₀ a cubic spline: of second order in the spacing. Where
Φ + T log ρ₀ is constant S is the identity, so that e^{−Φ/T} is a fixed point to rounding; and as everything is in
logarithms, ρ > 0. Newton's method is given all cells alike, whatever their mass, and converges in a few steps where
S of the start does not fold. Where more mass crosses a pass in one step than lies on it, det DS falls to the ratio of
the densities on the pass and below it, and moved cells turn over by the error of their corners: such a step is refused.
At walls where there is no mass, layers much thinner than a cell would form in empty tails: there the wall is left out,
∇u continued to it, and S may end outside. So it is where mass leaves a wall faster than cells resolve; beyond it ρ₀ is
then made to fall off, and what mass comes in so is taken off with that which the spacing adds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.interpolate import RectBivariateSpline

from sde_sgd.errors import NotConverged
from sde_sgd.grid import Grid

from ._corners import Corners

_ITERATIONS = 25
_FAST = 0.2  # what is left of the residual by a factored matrix that is used again,
_NEAR = 0.1  # once log ρ is known so far
_HALVINGS = 8  # of a Newton step that does not lower the residual
_HALVED_STEPS = 5  # how often τ may be halved to find a start
_EVENLY = 0.1  # power of the mass in the mean of |log ρ gap| that must fall: tails too, or the next step starts rough
_TAIL = 1e-4  # that this mean must reach, unless it takes more than
_LONG = 8  # iterations
_CLOSE = 0.3  # of a cell from the wall, where S of the next corner folds the cell
_FALL = 2.0  # of log ρ₀, per square of the cells beyond a wall at which there is mass
_LEAST_AREA = 1e-3  # of a moved cell over that of the cell; below, the logarithm goes on as a straight line,
_LEAST_IN_TAILS = 0.1  # lest a tail that folds blow up and spoil the rest
_TAIL_MASS = 1e-12  # of a cell in a tail, of the whole
_NEGLIGIBLE = 1e-6  # of the largest density: walls at which there is less are not there
_SLOPE = 3e-6  # of a cell side, in differences of D
_STAGES = 2  # Runge-Kutta steps of a geodesic


@dataclass(frozen=True)
class Step:
    """What one step gives, and how it was found."""

    log_density: np.ndarray  # of the mass of the start, before the few millionths that the spacing adds are taken off
    squared_distance: float  # W₂² of what the step moves, per unit of mass, in the metric D⁻¹
    residual: float  # Σ mass·|log ρ − log(ρ₀∘S) − log det DS|
    iterations: int


class MongeAmpere:
    """Steps on a grid with a diffusion matrix: (2, 2), or a function (..., 2) → (..., 2, 2)."""

    def __init__(self, grid: Grid, diffusion: np.ndarray | Callable):
        self._grid = grid
        self._spacing = np.asarray(grid.spacing)
        axes = [low + h * np.arange(n + 1) for low, h, n in zip(grid.lower, grid.spacing, grid.shape)]
        self._corners = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
        self._diffusion = diffusion if callable(diffusion) else None
        shape = (*self._corners.shape, 2)
        self._d = diffusion(self._corners) if callable(diffusion) else np.broadcast_to(diffusion, shape)
        self._refuse_degenerate()
        self._walled = Corners(grid, self._d, np.zeros(self._corners.shape[:2], bool))
        self._at = self._last = self._walled

    def _refuse_degenerate(self) -> None:
        a, b, c = self._d[..., 0, 0], self._d[..., 0, 1], self._d[..., 1, 1]
        least = 0.5 * (a + c) - np.hypot(0.5 * (a - c), b)
        if not (np.isfinite(least).all() and least.min() > 0.0):
            at = np.unravel_index(int(np.argmin(np.where(np.isfinite(least), least, -np.inf))), least.shape)
            place = ", ".join(f"{v:g}" for v in self._corners[at])
            raise ValueError(
                f"the metric needs D > 0 at corners of cells, and its least eigenvalue is {least[at]:g} at ({place}); "
                "shift the box, choose one in which D is positive, or use FokkerPlanck"
            )

    def step(
        self, log_density: np.ndarray, potential: np.ndarray, temperature: float, tau: float, tolerance: float
    ) -> Step:
        """The step from log ρ₀ in the cells; NotConverged where it is not found."""
        full = _highest(log_density) >= log_density.max() + np.log(_NEGLIGIBLE)
        sides = [[bool(np.moveaxis(full, axis, 0)[end].any()) for end in (0, -1)] for axis in (0, 1)]
        problem = _Problem(log_density, potential, temperature, tolerance, np.where(sides, _FALL, 0.0))
        walled, spent = full & ~self._left(problem, tau), 0
        while True:
            self._open(~walled)
            now, iterations = self._found(problem, tau, _HALVED_STEPS)
            spent += iterations
            if not now.residual <= tolerance:
                raise NotConverged(
                    f"the step of tau = {tau:g} is only known to a residual of {now.residual:.2g}, and {tolerance:g} "
                    "is asked for: the start jumps, more mass crosses a pass than lies on it, or cells resolve too "
                    "little; take a smaller tau, a finer grid, or method='entropic', which takes the first two"
                )
            arrived = ~full & (_highest(now.log_density) >= now.log_density.max() + np.log(_NEGLIGIBLE))
            arrived &= ~self._emptied(self._sources(now.momentum, tau))
            if not (arrived & self._at.free).any():
                break
            walled, full = walled | arrived, full | arrived
        return Step(now.log_density, self._squared_distance(now, tau), now.residual, spent)

    def _left(self, problem: "_Problem", tau: float) -> np.ndarray:
        """Walls that mass leaves faster than cells resolve: S of the next corner is at the wall or outside."""
        self._open(np.zeros(self._at.free.shape, bool))
        left = np.zeros(self._at.free.shape, bool)
        for start in (problem.log_density, self._widened(problem, tau)):
            p = self._at.gradient(problem.potential + problem.temperature * start)
            left |= self._emptied(self._sources(p, tau))
        return left

    def _emptied(self, cells: np.ndarray) -> np.ndarray:
        """Corners on walls whose next corner, by its source, is at the wall or outside."""
        found = np.zeros(cells.shape[:2], bool)
        for axis, n in enumerate(self._grid.shape):
            place, wall = np.moveaxis(cells[..., axis], axis, 0), np.moveaxis(found, axis, 0)
            wall[0] |= place[1] < _CLOSE
            wall[-1] |= place[-2] > n - _CLOSE
        return found

    def _found(self, problem: "_Problem", tau: float, halvings: int) -> tuple["_Trial", int]:
        """The best from ρ₀, from ρ₀ widened, or from the step of half the length; and after how many iterations."""
        spent = 0
        trials: list[_Trial] = []
        for start in (problem.log_density, self._widened(problem, tau)):
            now, iterations = self._search(problem, tau, start, folds=False)
            spent += iterations
            if now.residual <= problem.tolerance:
                return now, spent
            trials.append(now)
        if halvings:
            half, iterations = self._found(problem, tau / 2, halvings - 1)
            spent += iterations
            if half.residual <= problem.tolerance:
                now, iterations = self._search(problem, tau, half.log_density, folds=True)
                spent += iterations
                trials.append(now)
        return min(trials, key=lambda trial: trial.residual), spent

    def _search(self, problem: "_Problem", tau: float, start: np.ndarray, folds: bool) -> tuple["_Trial", int]:
        """Newton's method, every step shortened until the residual falls; where it ended, and after how many steps."""
        now = self._trial(problem, tau, problem.potential + problem.temperature * start)
        solve = None  # of an earlier iteration, kept near the solution as long as the residual falls fast by it
        for iteration in range(_ITERATIONS):
            solved = now.residual <= problem.tolerance and (now.merit <= _TAIL or iteration >= _LONG)
            if solved or (iteration == 0 and now.folded and not folds):
                return now, iteration
            trial = None if solve is None else self._trial(problem, tau, now.u + solve(now.gap))
            if trial is None or not trial.merit < now.merit:
                try:
                    solve = self._newton(now, problem.temperature, tau)
                except RuntimeError:  # of SuperLU: singular
                    return now, iteration
                change = solve(now.gap)
                for halving in range(_HALVINGS + 1):
                    trial = self._trial(problem, tau, now.u + change / 2**halving)
                    if trial.merit < now.merit:
                        break
                else:
                    return now, iteration
            if not trial.merit < min(_FAST * now.merit, _NEAR):
                solve = None
            now = trial
        return now, _ITERATIONS

    def _widened(self, problem: "_Problem", tau: float) -> np.ndarray:
        """max_x log ρ₀(x) − Σ(x − y)²/(4τTA), A ≥ D diagonal: tails as of a Gaussian after τ, no folds of S."""
        values, strength = problem.log_density, np.abs(self._d).sum(-1).max((0, 1))
        for axis, (n, h) in enumerate(zip(self._grid.shape, self._spacing)):
            cost = (h * np.subtract.outer(np.arange(n), np.arange(n))) ** 2 / (
                4 * tau * problem.temperature * strength[axis]
            )
            lines = np.moveaxis(values, axis, -1)
            values = np.moveaxis(np.stack([(lines - row).max(-1) for row in cost], -1), -1, axis)
        return values

    def _open(self, free: np.ndarray) -> None:
        """Leave out the walls where there is no mass: ∇u is continued to them instead of made to follow them."""
        free = free.copy()
        free[1:-1, 1:-1] = False
        if np.array_equal(free, self._last.free):
            self._at = self._last
        elif not free.any():
            self._at = self._walled
        else:
            self._at = self._last = Corners(self._grid, self._d, free)

    def _sources(self, p: np.ndarray, tau: float) -> np.ndarray:
        """Ends of the geodesics that leave the corners with momentum p, in cells from the lower corner."""
        if self._diffusion is None:
            x = self._corners + tau * _times(self._d, p)
        else:
            x = self._geodesics(self._diffusion, p, tau)
        cells = (x - self._grid.lower) / self._spacing
        for axis, n in enumerate(self._grid.shape):
            for end, place in ((0, 0.0), (-1, float(n))):
                wall, free = np.moveaxis(cells, axis, 0)[end, :, axis], np.moveaxis(self._at.free, axis, 0)[end]
                wall[~free] = place
        return cells

    def _geodesics(self, diffusion: Callable, p: np.ndarray, tau: float) -> np.ndarray:
        """ẋ = D(x)p, ṗ = −½∇(pᵀD(x)p), over the time τ, by the Runge-Kutta method of order 4."""
        shift = _SLOPE * self._spacing
        low, high = np.asarray(self._grid.lower) + shift, np.asarray(self._grid.upper) - shift

        def rates(x: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            x = np.clip(x, low, high)
            force = np.empty_like(p)
            for axis in (0, 1):
                step = np.where(np.arange(2) == axis, shift, 0.0)
                slope = (diffusion(x + step) - diffusion(x - step)) / (2.0 * shift[axis])
                force[..., axis] = -0.5 * _square(slope, p)
            return _times(diffusion(x), p), force

        x, dt = self._corners, tau / _STAGES
        for _ in range(_STAGES):
            v1, f1 = rates(x, p)
            v2, f2 = rates(x + dt / 2 * v1, p + dt / 2 * f1)
            v3, f3 = rates(x + dt / 2 * v2, p + dt / 2 * f2)
            v4, f4 = rates(x + dt * v3, p + dt * f3)
            x = x + dt / 6 * (v1 + 2 * v2 + 2 * v3 + v4)
            p = p + dt / 6 * (f1 + 2 * f2 + 2 * f3 + f4)
        return x

    def _trial(self, problem: "_Problem", tau: float, u: np.ndarray) -> "_Trial":
        p = self._at.gradient(u)
        corners = self._sources(p, tau)
        rising = corners[1:, 1:] - corners[:-1, :-1]
        falling = corners[:-1, 1:] - corners[1:, :-1]
        area = 0.5 * (rising[..., 0] * falling[..., 1] - rising[..., 1] * falling[..., 0])
        # S turned over in both directions has a positive area too: it must not pass for a solution
        upright = np.where(rising[..., 0] - falling[..., 0] + rising[..., 1] + falling[..., 1] > 0.0, 1.0, -1.0)
        sign = np.where(area > 0.0, upright, 1.0)
        area = sign * area
        centre = 0.25 * (corners[1:, 1:] + corners[1:, :-1] + corners[:-1, 1:] + corners[:-1, :-1]) - 0.5
        at = centre[..., 0], centre[..., 1]
        log_density = (u - problem.potential) / problem.temperature
        value, slope = problem.before(*at)
        mass = np.exp(log_density - log_density.max())
        least = np.where(mass < _TAIL_MASS * mass.sum(), _LEAST_IN_TAILS, _LEAST_AREA)
        held = np.maximum(area, least)
        wanted = value + np.log(held) + (area - held) / least
        return _Trial(u, p, log_density, wanted - log_density, rising, falling, sign, area, held, slope)

    def _newton(self, now: "_Trial", temperature: float, tau: float) -> Callable[[np.ndarray], np.ndarray]:
        """The gap of log ρ ↦ δu that closes it to first order, where a geodesic's end moves by τDδp."""
        turn = tau * self._d / self._spacing[:, None]
        moved = np.zeros((2, 4, now.gap.size))
        half = 0.5 * now.sign / now.held
        for i, sign in ((0, 1.0), (1, -1.0)):
            # of a corner's motion along i: the slope of log ρ₀ at the mean of the corners, and the area
            middle = 0.25 * now.slope[..., i]
            wide, high = sign * half * now.falling[..., 1 - i], sign * half * now.rising[..., 1 - i]
            for k in (0, 1):
                t = turn[..., i, k]
                moved[k, 0] += ((middle + wide) * t[1:, 1:]).ravel()
                moved[k, 1] += ((middle - wide) * t[:-1, :-1]).ravel()
                moved[k, 2] += ((middle - high) * t[:-1, 1:]).ravel()
                moved[k, 3] += ((middle + high) * t[1:, :-1]).ravel()
        return self._at.factored(1.0 / temperature, moved)

    def _squared_distance(self, now: "_Trial", tau: float) -> float:
        """Σ mass·τ²pᵀDp: the square of the length of each geodesic, at the mean of a cell's corners."""
        squared = _square(self._d, now.momentum)
        squared = 0.25 * (squared[1:, 1:] + squared[1:, :-1] + squared[:-1, 1:] + squared[:-1, :-1])
        return tau**2 * float((now.weight * squared).sum())


@dataclass(frozen=True)
class _Problem:
    """What a step is asked."""

    log_density: np.ndarray
    potential: np.ndarray
    temperature: float
    tolerance: float
    fall: np.ndarray  # (axis, end): how fast log ρ₀ falls off beyond a wall

    @cached_property
    def before(self) -> "Before":
        """log ρ₀ between the cells."""
        return Before(self.log_density, self.fall)


class Before:
    """log ρ₀ at places counted in cells, and its slopes; beyond the last centres a line, from walls a parabola."""

    def __init__(self, log_density: np.ndarray, fall: np.ndarray | None = None):
        self._ends, self._fall = [n - 1.0 for n in log_density.shape], fall
        self._spline = RectBivariateSpline(*(np.arange(n) for n in log_density.shape), log_density)

    def __call__(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        inside = np.clip(x, 0.0, self._ends[0]), np.clip(y, 0.0, self._ends[1])
        slope = np.stack([self._spline.ev(*inside, dx=1), self._spline.ev(*inside, dy=1)], axis=-1)
        beyond = np.stack([x - inside[0], y - inside[1]], axis=-1)
        value = self._spline.ev(*inside) + (slope * beyond).sum(-1)
        if self._fall is not None:
            low, high = np.minimum(beyond + 0.5, 0.0), np.maximum(beyond - 0.5, 0.0)  # from the walls on
            value = value - (self._fall[:, 0] * low**2 + self._fall[:, 1] * high**2).sum(-1)
            slope = slope - 2.0 * (self._fall[:, 0] * low + self._fall[:, 1] * high)
        return value, slope


@dataclass(frozen=True)
class _Trial:
    """A trial density, its cells moved back by its own map, and the gap to the start found there."""

    u: np.ndarray
    momentum: np.ndarray
    log_density: np.ndarray
    gap: np.ndarray
    rising: np.ndarray  # diagonals of the moved cells, in cells
    falling: np.ndarray
    sign: np.ndarray  # −1 where the cell is turned over in both directions
    area: np.ndarray  # negative where the cell is turned over
    held: np.ndarray  # the area, or the least
    slope: np.ndarray  # of log ρ₀ there, per cell

    @cached_property
    def weight(self) -> np.ndarray:
        """The share of mass of each cell."""
        mass = np.exp(self.log_density - self.log_density.max())
        return mass / mass.sum()

    @cached_property
    def merit(self) -> float:
        """The mean of |gap| that hardly regards the mass."""
        weight = self.weight**_EVENLY
        return float((weight * np.abs(self.gap)).sum() / weight.sum())

    @property
    def folded(self) -> bool:
        """Whether cells with mass are turned over."""
        return bool((self.area[self.weight > _NEGLIGIBLE] <= 0.0).any())

    @cached_property
    def residual(self) -> float:
        return float((self.weight * np.abs(self.gap)).sum())


def _times(matrix: np.ndarray, p: np.ndarray) -> np.ndarray:
    return matrix[..., 0] * p[..., 0, None] + matrix[..., 1] * p[..., 1, None]


def _square(matrix: np.ndarray, p: np.ndarray) -> np.ndarray:
    return (_times(matrix, p) * p).sum(-1)


def _highest(log_density: np.ndarray) -> np.ndarray:
    """The largest value of the cells around each corner."""
    padded = np.pad(log_density, 1, mode="edge")
    return np.maximum(np.maximum(padded[1:, 1:], padded[:-1, 1:]), np.maximum(padded[1:, :-1], padded[:-1, :-1]))
