"""The smallest box that holds all but a given mass of a steady state, and how fine a grid of it has to be.

Everything is read off log ρ on probing grids: −Φ/T where the process knows its Φ, else the steady state of a coarse
Fokker–Planck generator. A first box spans the attractors; a side at which the density has not died out moves out by
the width of the box; then the box shrinks onto what is left, and is probed again, until it stays.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
import scipy.optimize

_NEEDED = ("variables", "dim", "domain", "constant_temperature", "drift", "diffusion", "potential")
_PROBES = {"Φ": {1: 4000, 2: 160, 3: 48}, "generator": {1: 1000, 2: 72, 3: 16}}  # cells per axis of a probing grid
_MOST_PROBES = {"Φ": 2_000_000, "generator": 10_400}  # cells of a probing grid refined along an axis
_LATTICE = {1: 801, 2: 121, 3: 31}  # points per axis at which Φ is looked at, before any box
_FLOWS = {1: 65, 2: 15, 3: 7}  # starts per axis of the deterministic flow
_FARTHEST = 1e6  # of an axis without end: where looking for attractors stops
_NEAREST = 1e-3
_STRIDE, _STRIDES, _LAST = 0.05, 700, 100  # of the flow: relative length, number, those that count as arrived
_ROUNDS = 60  # of growing, or of shrinking
_WELLS = 30  # lattice minima that are followed to their bottom
_SETTLED = 0.85  # a box that shrinks by less than this stays
_SLACK = 7.0  # nats kept while shrinking, beyond what neighbouring cells differ by
_CAUTION = {"Φ": 1.0, "generator": 0.1}  # of the mass allowed outside: a coarse generator knows tails to a factor


@dataclass(frozen=True)
class Box:
    """The ends of the box, and per axis the length ℓ over which log ρ changes by one, [E (∂_i log ρ)²]^{−½}."""

    lower: np.ndarray
    upper: np.ndarray
    scale: np.ndarray


def find(process, mass: float) -> Box:
    """The box outside which the steady state has less than `mass`; ValueError says why there is none."""
    missing = [name for name in _NEEDED if not hasattr(process, name)]
    if missing:
        raise ValueError(
            f"process must be a Process, got {type(process).__name__} without {missing[0]}; make one of a landscape by "
            "landscape.at_temperature(T)"
        )
    if process.dim not in _PROBES["Φ"]:
        raise ValueError(f"a grid has 1 to 3 dimensions, the process {process.dim}; simulate paths instead")
    return _Search(process, mass).run()


class _Search:
    def __init__(self, process, mass: float):
        self.process, self.temperature = process, process.constant_temperature
        self.dim, domain = process.dim, process.domain
        self.low, self.high = np.asarray(domain.lower, float), np.asarray(domain.upper, float)
        self.periodic = np.asarray(domain.periodic, bool)
        inside = np.where(np.isfinite(self.low), self.low, np.minimum(self.high, 1.0) - 2.0)
        probe = inside + 0.37 * (np.where(np.isfinite(self.high), self.high, inside + 2.0) - inside)
        self.potential = process.potential
        if process.potential(probe) is None:
            self.potential = getattr(process, "equilibrium_potential", None)
        self.known = self.potential is not None
        self.means = "Φ" if self.known else "generator"
        self.mass = mass * _CAUTION[self.means]

    def run(self) -> Box:
        lower, upper = self._attractors()
        lower, upper = self._grown(lower, upper)
        lower, upper, log_mass = self._shrunk(lower, upper)
        sides = 2 * int((~self.periodic).sum())
        ends = np.array([self._quantiles(log_mass, i, np.log(self.mass / max(sides, 1))) for i in range(self.dim)])
        h = (upper - lower) / log_mass.shape
        scale = self._scale(lower, upper, log_mass)
        last = np.where(ends[:, 1] == log_mass.shape, upper, lower + h * ends[:, 1])  # an end of the domain exactly
        return Box(lower + h * ends[:, 0], last, scale)

    # -- the density on a box --------------------------------------------------------------------------------

    def _log_mass(self, lower: np.ndarray, upper: np.ndarray, shape) -> np.ndarray:
        """log of the share of each cell, −∞ where Φ has no value."""
        from .grid import Grid

        walls = ["periodic" if wraps else "reflecting" for wraps in self.periodic]
        grid = Grid(lower.tolist(), upper.tolist(), shape, boundary=walls)
        if self.known:
            phi = self.potential(grid.centers())
            log_density = np.where(np.isfinite(phi), -phi / self.temperature, -np.inf)
            if not np.isfinite(log_density).any():
                raise ValueError(
                    f"the potential has no finite value in the box {self._text(lower, upper)}; give the domain in "
                    "which it is defined"
                )
        else:
            from .fokker_planck import FokkerPlanck

            # not log_steady_state(), which warns of boxes that cut the density: here they are meant to be tried
            log_density = FokkerPlanck(self.process, grid)._log_density.reshape(grid.shape)
        top = log_density.max()
        return log_density - top - np.log(np.exp(log_density - top).sum())

    def _shape(self) -> tuple[int, ...]:
        return (_PROBES[self.means][self.dim],) * self.dim

    @staticmethod
    def _layers(log_mass: np.ndarray, axis: int) -> np.ndarray:
        """log of the mass of each layer of cells across an axis."""
        return np.logaddexp.reduce(np.moveaxis(log_mass, axis, 0).reshape(log_mass.shape[axis], -1), axis=1)

    def _quantiles(self, log_mass: np.ndarray, axis: int, log_tail: float, margin: int = 0) -> tuple[int, int]:
        """The first and the last edge between which all but e^log_tail at either side lies, with layers to spare."""
        layers = self._layers(log_mass, axis)
        if self.periodic[axis]:
            return 0, len(layers)
        below, above = np.logaddexp.accumulate(layers), np.logaddexp.accumulate(layers[::-1])
        first, last = int((below <= log_tail).sum()), len(layers) - int((above <= log_tail).sum())
        return max(first - margin, 0), min(last + margin, len(layers))

    # -- where to look first ---------------------------------------------------------------------------------

    def _attractors(self) -> tuple[np.ndarray, np.ndarray]:
        """A box around the wells of Φ that matter, or around where the deterministic flow ends."""
        points = self._wells() if self.known else self._flow_ends()
        lower, upper = points.min(0), points.max(0)
        middle = 0.5 * (lower + upper)
        if self.known:
            pad = np.maximum(1e-3 * np.maximum(np.abs(middle), upper - lower), _NEAREST)
        else:
            pad = 6.0 * self._width(points)
        lower, upper = np.maximum(lower - pad, self.low), np.minimum(upper + pad, self.high)
        return np.where(self.periodic, self.low, lower), np.where(self.periodic, self.high, upper)

    def _ticks(self, axis: int, count: int) -> np.ndarray:
        """Where to look along an axis: evenly between ends, ever farther apart where there are none."""
        low, high = self.low[axis], self.high[axis]
        if np.isfinite(low) and np.isfinite(high):
            return low + (high - low) * (np.arange(count) + 0.5) / count
        out = np.geomspace(_NEAREST, _FARTHEST, count // 2)
        if np.isfinite(low):
            return low + out
        if np.isfinite(high):
            return high - out[::-1]
        return np.concatenate([-out[::-1], [0.0], out])

    def _wells(self) -> np.ndarray:
        ticks = [self._ticks(axis, _LATTICE[self.dim]) for axis in range(self.dim)]
        points = np.stack(np.meshgrid(*ticks, indexing="ij"), -1)
        phi = self.potential(points)
        phi = np.where(np.isfinite(phi), phi, np.inf)
        lowest = np.ones(phi.shape, bool)
        for axis in range(self.dim):
            along = np.moveaxis(phi, axis, 0)
            least = np.moveaxis(lowest, axis, 0)
            least[1:] &= along[1:] <= along[:-1]
            least[:-1] &= along[:-1] <= along[1:]
        found = np.argwhere(lowest & np.isfinite(phi))
        found = found[np.argsort(phi[tuple(found.T)], kind="stable")[:_WELLS]]
        best = found[0]
        for axis, tick in enumerate(ticks):
            endless = (not np.isfinite(self.low[axis]), not np.isfinite(self.high[axis]))
            if (endless[0] and best[axis] == 0) or (endless[1] and best[axis] == len(tick) - 1):
                where = f"{self.process.variables[axis]} = {tick[best[axis]]:g}"
                raise self._unconfined(f"Φ is lowest at {where}, the farthest point looked at")
        bottoms = []
        for cell in found:
            start = points[tuple(cell)]
            reach = [
                (tick[max(i - 1, 0)], tick[min(i + 1, len(tick) - 1)]) for tick, i in zip(ticks, cell)
            ]  # of this well, as far as the lattice tells
            bottom = scipy.optimize.minimize(
                lambda x: float(self.potential(x)), start, method="Nelder-Mead", bounds=reach,
                options={"xatol": 1e-6 * max(1e-3, float(np.abs(start).max())), "fatol": 1e-3 * self.temperature},
            ).x  # fmt: skip
            bottoms.append(bottom if np.isfinite(self.potential(bottom)) else start)
        depth = np.array([float(self.potential(x)) for x in bottoms])
        keep = depth - depth.min() <= self.temperature * (_SLACK - np.log(self.mass))
        return np.array(bottoms)[keep]

    def _flow_ends(self) -> np.ndarray:
        """Where ẋ = b leads from a lattice of starts, in strides of a twentieth of the distance from the origin."""
        ticks = [self._ticks(axis, _FLOWS[self.dim]) for axis in range(self.dim)]
        x = np.stack(np.meshgrid(*ticks, indexing="ij"), -1).reshape(-1, self.dim)
        unit = np.where(np.isfinite(self.high - self.low), 0.1 * (self.high - self.low), 0.05)
        arrived = []
        for stride in range(_STRIDES):
            with np.errstate(all="ignore"):
                b = self.process.drift(x)
                length = np.linalg.norm(b / (np.abs(x) + unit), axis=1, keepdims=True)
                x = x + np.where(length > 0, _STRIDE * b / np.where(length > 0, length, 1.0), 0.0)
            x = x[np.isfinite(x).all(1) & (np.abs(x) < 1e3 * _FARTHEST).all(1)]
            x = np.clip(x, self.low, self.high)
            if not len(x):
                break
            if stride >= _STRIDES - _LAST:
                arrived.append(x)
        ends = np.concatenate(arrived) if arrived else np.empty((0, self.dim))
        far = (np.abs(ends) > 0.5 * _FARTHEST).any(1) if len(ends) else np.empty(0, bool)
        if not len(ends) or far.all():
            raise self._unconfined(
                f"the drift leads away to infinity from every one of {len(ticks[0])}^{self.dim} starts"
            )
        return ends[~far]

    def _width(self, points: np.ndarray) -> np.ndarray:
        """√(T D_ii/|∂_i b_i|), the largest over some of the points: the spread of a linear drift."""
        some = points[:: max(1, len(points) // 50)]
        largest = np.zeros(self.dim)
        for axis in range(self.dim):
            step = np.zeros(self.dim)
            step[axis] = 1e-4 * max(float(np.abs(some).max()), 1e-2)
            ahead, behind = np.minimum(some + step, self.high), np.maximum(some - step, self.low)
            slope = (self.process.drift(ahead) - self.process.drift(behind))[:, axis] / (ahead - behind)[:, axis]
            noise = self.process.diffusion(some)[:, axis, axis]
            with np.errstate(all="ignore"):
                width = np.sqrt(self.temperature * noise / np.abs(slope))
            width = width[np.isfinite(width)]
            largest[axis] = np.median(width) if len(width) else 0.0
        return np.maximum(largest, _NEAREST * np.maximum(1e-3, np.abs(points).max(0)))

    # -- growing and shrinking -------------------------------------------------------------------------------

    def _grown(self, lower: np.ndarray, upper: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sides moved out until next to nothing can lie beyond them."""
        first = upper - lower
        allowed = np.log(self.mass / (8 * self.dim))
        for _ in range(_ROUNDS):
            log_mass = self._log_mass(lower, upper, self._shape())
            width, moved = upper - lower, False
            for axis, end in product(range(self.dim), (0, 1)):
                limit = self.low[axis] if end == 0 else self.high[axis]
                side = lower[axis] if end == 0 else upper[axis]
                if self.periodic[axis] or side == limit:
                    continue
                layers = self._layers(log_mass, axis)
                at, inside = (layers[0], layers[1]) if end == 0 else (layers[-1], layers[-2])
                # layers that go on falling by the same factor q sum to at/(1 − q)
                ratio = np.exp(min(at - inside, 0.0)) if np.isfinite(at) else 0.0
                beyond = at - np.log1p(-ratio) if ratio < 1.0 else np.inf
                if beyond <= allowed:
                    continue
                moved = True
                if end == 0:
                    lower[axis] = max(side - width[axis], limit)
                else:
                    upper[axis] = min(side + width[axis], limit)
            if not moved:
                return lower, upper
            if ((upper - lower) > 1e9 * np.maximum(first, _FARTHEST * 1e-9)).any():
                break
        raise self._unconfined(f"the density has not died out at the sides of the box {self._text(lower, upper)}")

    def _shrunk(self, lower: np.ndarray, upper: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The box closed around what is not negligible, and the log masses of its cells."""
        log_mass = self._log_mass(lower, upper, self._shape())
        for _ in range(_ROUNDS):
            steepest = self._step_at_the_top(log_mass)
            tail = np.log(self.mass / (2 * self.dim)) - _SLACK - 2.0 * steepest
            ends = np.array([self._quantiles(log_mass, axis, tail, margin=1) for axis in range(self.dim)])
            h = (upper - lower) / log_mass.shape
            new_lower, new_upper = lower + h * ends[:, 0], lower + h * ends[:, 1]
            new_upper = np.where(ends[:, 1] == log_mass.shape, upper, new_upper)
            if ((new_upper - new_lower) > _SETTLED * (upper - lower)).all():
                return lower, upper, log_mass
            lower, upper = new_lower, new_upper
            log_mass = self._log_mass(lower, upper, self._shape())
        raise ValueError(
            f"the box {self._text(lower, upper)} around the steady state goes on shrinking: no grid resolves the "
            "density in it; make a Grid of your own"
        )

    @staticmethod
    def _step_at_the_top(log_mass: np.ndarray) -> float:
        """How much log ρ differs between the likeliest cell and its neighbours: an unresolved well is known to that."""
        top = np.unravel_index(int(np.argmax(log_mass)), log_mass.shape)
        steps = [0.0]
        for axis, cells in enumerate(log_mass.shape):
            for other in (top[axis] - 1, top[axis] + 1):
                if 0 <= other < cells:
                    beside = log_mass[(*top[:axis], other, *top[axis + 1 :])]
                    steps.append(float(log_mass[top] - beside) if np.isfinite(beside) else 0.0)
        return max(steps)

    def _scale(self, lower: np.ndarray, upper: np.ndarray, log_mass: np.ndarray) -> np.ndarray:
        """ℓ_i = [E (∂_i log ρ)²]^{−½}, probed with more cells along an axis where they are wider than ℓ_i."""
        while True:
            h = (upper - lower) / log_mass.shape
            root = np.exp(0.5 * log_mass)
            steps = [np.diff(root, axis=axis) for axis in range(self.dim)]
            with np.errstate(divide="ignore"):
                scale = np.array([hi / (2 * np.sqrt((s**2).sum())) for hi, s in zip(h, steps)])
            coarse = scale < 1.5 * h
            shape = np.array(log_mass.shape) * np.where(coarse, 2, 1)
            if not coarse.any() or np.prod(shape) > _MOST_PROBES[self.means]:
                return np.minimum(scale, upper - lower)
            log_mass = self._log_mass(lower, upper, tuple(int(n) for n in shape))

    # -- words -----------------------------------------------------------------------------------------------

    def _text(self, lower, upper) -> str:
        sides = zip(self.process.variables, lower, upper)
        return " × ".join(f"{a:.6g} ≤ {name} ≤ {b:.6g}" for name, a, b in sides)

    def _unconfined(self, why: str) -> ValueError:
        how = "of −Φ/T" if self.known else "of coarse Fokker–Planck solutions"
        return ValueError(
            f"no box holds all but {self.mass / _CAUTION[self.means]:g} of the mass {how}: {why}. The process has no "
            "steady state, or one with heavy tails; give it a domain with ends, or make a Grid of your own and read "
            "the mass at its walls off steady_state().attrs['wall_mass']"
        )
