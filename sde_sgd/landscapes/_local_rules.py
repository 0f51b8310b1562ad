"""Means under exp(−f(x + √(γT) z)/T) N(z; 0, I): the trapezoid rule with its own control, and quasi-Monte Carlo."""

import math
from typing import Any, NamedTuple

import numpy as np

from sde_sgd.errors import NotConverged, TooFewSamples

_STEP, _REACH = 0.9, 9.0  # of the first lattice in z: e^{−2π²/0.9²} = 3e-11, e^{−9²/2} = 3e-18
_CHANGE = 1e-9  # of f_γ/T, ⟨z⟩ and Cov z when the step is halved
_NEGLIGIBLE = 1e-15  # share of the mass that may lie on the ends of the lattice
_WIDEST, _SEARCHED = 250.0, 25.0
_MOST_NODES = 1 << 20  # per point
_SETS, _FEWEST = 8, 32


class Moments(NamedTuple):
    """f_γ (P,), its standard error (P,), gradient (P, d), Hessian (P, d, d); derivatives not asked for are 0."""

    value: np.ndarray
    error: np.ndarray
    gradient: np.ndarray
    hessian: np.ndarray


class Rule:
    """Common to both: the loss, γ, T and how far a unit of z reaches."""

    nodes: int  # values of the loss per point, for the size of a chunk

    def __init__(self, inner: Any, dim: int, smoothing: dict):
        self._inner, self._dim, self._smoothing = inner, dim, smoothing
        self._gamma, self._t = smoothing["gamma"], smoothing["temperature"]
        self._scale = math.sqrt(self._gamma * self._t)

    def empty(self) -> Moments:
        d = self._dim
        return Moments(np.zeros(0), np.zeros(0), np.zeros((0, d)), np.zeros((0, d, d)))

    def _energies(self, points: np.ndarray, search: bool = False) -> np.ndarray:
        """f/T at points (..., d); ValueError where it is not a number or −∞, or in a search ∞ in its place."""
        with np.errstate(all="ignore"):
            values = self._inner.loss(points) / self._t
        bad = np.isnan(values) | (values == -np.inf)
        if search:
            return np.where(bad, np.inf, values)
        if bad.any():
            where = points[tuple(np.argwhere(bad)[0])]
            raise ValueError(
                f"the loss is {values[bad][0]:g} at x' = {tuple(where.round(4).tolist())}, which the smoothing over "
                f"√(γT) = {self._scale:g} takes in: it must be a number wherever the Gaussian reaches; take a smaller γ"
            )
        return values


class Quadrature(Rule):
    """The trapezoid rule on a lattice in z around each point, refined and widened until it is settled.

    In a `search`, which tries points of no interest, what cannot be settled soon is NaN and no fault.
    """

    nodes = 2000

    def __call__(self, x: np.ndarray, order: int, search: bool = False) -> Moments:
        n, d = x.shape
        value, mean, spread = np.full(n, np.nan), np.full((n, d), np.nan), np.full((n, d, d), np.nan)
        todo = np.arange(n)
        reach = _REACH
        while len(todo):
            done, found = self._settled(x[todo], reach, search)
            value[todo[done]], mean[todo[done]], spread[todo[done]] = (part[done] for part in found)
            todo, reach = todo[~done], 1.5 * reach
            if search and reach > _SEARCHED:
                break
            if len(todo) and reach > _WIDEST:
                raise ValueError(
                    f"around x = {tuple(x[todo[0]].round(4).tolist())} the mass of exp(−f/T) times the Gaussian of "
                    f"variance γT = {self._scale**2:g} lies more than {_WIDEST:g} of its deviations away, or does "
                    "not exist; take a smaller γ"
                )
        slope = -mean * self._scale / self._gamma
        curvature = (np.eye(d) - spread) / self._gamma
        return Moments(self._t * value, np.zeros(n), slope, curvature)

    def _settled(self, x: np.ndarray, reach: float, search: bool):
        """Which points have nothing at the ends of the lattice, and (−log mean weight, ⟨z⟩, Cov z) of all of them."""
        step = _STEP
        found, ends = self._sums(x, step, reach, search)
        done = ends < _NEGLIGIBLE
        todo = np.flatnonzero(done)
        while len(todo):
            step /= 2
            if (2 * reach / step + 1) ** self._dim > _MOST_NODES:
                if search:
                    break
                raise NotConverged(
                    f"around x = {tuple(x[todo[0]].round(4).tolist())} the loss is too fine for a rule of "
                    f"{_MOST_NODES} nodes over √(γT) = {self._scale:g}: f_γ is not settled; take a smaller γ"
                )
            finer, _ = self._sums(x[todo], step, reach, search)
            change = max_over([np.abs(b[todo] - f) for b, f in zip(found, finer)])
            for whole, part in zip(found, finer):
                whole[todo] = part
            todo = todo[change > _CHANGE * np.maximum(1.0, np.abs(finer[0]) * 1e-3)]
        return done, found

    def _sums(self, x: np.ndarray, step: float, reach: float, search: bool):
        m = math.ceil(reach / step)
        axis = step * np.arange(-m, m + 1)
        z = np.stack(np.meshgrid(*[axis] * self._dim, indexing="ij"), -1).reshape(-1, self._dim)
        rows = max(1, (1 << 20) // len(z))
        parts = [self._part(x[i : i + rows], z, step, m * step, search) for i in range(0, len(x), rows)]
        *found, ends = (np.concatenate(column) for column in zip(*parts))
        return found, ends

    def _part(self, x: np.ndarray, z: np.ndarray, step: float, reach: float, search: bool):
        exponent = -self._energies(x[:, None] + self._scale * z, search) - 0.5 * (z * z).sum(-1)
        top = exponent.max(1)
        if np.isneginf(top).any() and not search:
            where = x[np.isneginf(top)][0]
            raise ValueError(f"the loss is infinite all around x = {tuple(where.round(4).tolist())}")
        top = np.where(np.isneginf(top), np.nan, top)
        weights = np.exp(exponent - top[:, None])
        total = weights.sum(1)
        log_mean = top + np.log(total) + self._dim * math.log(step / math.sqrt(2 * math.pi))
        weights /= total[:, None]
        mean = weights @ z
        spread = np.einsum("pn,ni,nj->pij", weights, z, z, optimize=True) - mean[:, :, None] * mean[:, None]
        outer = np.abs(z).max(1) > reach - 0.5 * step
        return -log_mean, mean, spread, weights[:, outer].sum(1)


def max_over(changes: list[np.ndarray]) -> np.ndarray:
    """The largest change of each point over all that is computed."""
    return np.max([change.reshape(len(change), -1).max(1) for change in changes], axis=0)


class MonteCarlo(Rule):
    """Scrambled Sobol normals, the same for every point; derivatives are those of the estimate itself."""

    def __init__(self, inner: Any, dim: int, smoothing: dict):
        super().__init__(inner, dim, smoothing)
        from scipy.special import ndtri
        from scipy.stats import qmc

        power = max(3, round(math.log2(smoothing["samples"] / _SETS)))
        seeds = np.random.SeedSequence(smoothing["seed"]).spawn(_SETS)
        sets = [qmc.Sobol(dim, rng=np.random.default_rng(s)).random_base2(power) for s in seeds]
        uniform = np.clip(np.stack(sets), 2.0**-54, 1 - 2.0**-53)
        self._z = ndtri(uniform).reshape(-1, dim)
        self.nodes = len(self._z) * dim

    def __call__(self, x: np.ndarray, order: int, search: bool = False) -> Moments:
        n, d = x.shape
        points = x[:, None] + self._scale * self._z
        exponent = -self._energies(points)
        top = exponent.max(1)
        weights = np.exp(exponent - top[:, None])
        means = weights.reshape(n, _SETS, -1).mean(-1)
        value = -(top + np.log(means.mean(1)))
        error = means.std(1, ddof=1) / math.sqrt(_SETS) / means.mean(1)
        weights /= weights.sum(1)[:, None]
        effective = 1.0 / (weights**2).sum(1)
        if effective.min(initial=np.inf) < _FEWEST:
            k = int(effective.argmin())
            raise TooFewSamples(
                f"around x = {tuple(x[k].round(4).tolist())[:4]} the {len(self._z)} draws count as only "
                f"{effective[k]:.1f}, at least {_FEWEST} are needed: take a smaller γ, more samples, or sample ⟨x'⟩ "
                "by a chain"
            )
        slope, curvature = np.zeros((n, d)), np.zeros((n, d, d))
        if order:
            slopes = self._inner.gradient(points)
            slope = np.einsum("pn,pni->pi", weights, slopes)
            if order > 1:
                away = slopes - slope[:, None]
                curvature = np.einsum("pn,pnij->pij", weights, self._inner.hessian(points))
                curvature -= np.einsum("pn,pni,pnj->pij", weights, away, away, optimize=True) / self._t
        return Moments(self._t * value, self._t * error, slope, curvature)
