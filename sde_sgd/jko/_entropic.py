"""Steps by entropic scaling: transport at a small temperature ε, of which the heat kernel knows all that is needed.

With ε KL(plan, K_s), s = ετ/2, in place of the plan's cost d²/2τ (−ε log K_s → d²/2τ), and less what transport of ρ₀
and of ρ to themselves costs, so that not to move is free (Sinkhorn divergence), a step minimises S_ε(ρ₀, ρ) + F(ρ). The
plan is a(x)K_s(x, y)b(y), that of ρ to itself d(x)K_s(x, y)d(y), and

    a K_s b = ρ₀,    ρ = b K_s a,    d K_s d = ρ,    Φ + T log ρ + ε log(b/d) = const:
    b = [d^ε (e^{−Φ/T}/K_s a)^T]^{1/(ε+T)},

iterated with Anderson's acceleration in logarithms. e^{−Φ/T} is a fixed point for every ε, and mass is that of ρ₀. Of
the bias the first order in ε is the entropy ε/2 ∫ρ log ρ, which the divergence takes off: what stays is A ∝ ε² (while
the kernel is narrower than what it acts on), and B ∝ (h∇u/ε)²/12, u = Φ + T log ρ, as the random walk on the grid is
not yet the diffusion. Three solutions, at ε/√2, ε and √2ε, give and take off both:

    log ρ = −2 log ρ_{ε/√2} + 5 log ρ_ε − 2 log ρ_{√2ε}.

A and B are alike where ετ = ℓ√(hτ|∇u|), ℓ the length on which ρ varies. At one ε F cannot rise, as the divergence is
≥ 0; where it would by the extrapolation (mass leaps a barrier, and A is not ∝ ε²), ρ is that of ε/√2.

Sources: Peyré (2015), SIAM J. Imaging Sci. 8, for steps by scaling; Solomon et al. (2015), ACM Trans. Graph. 34, for
heat kernels; Feydy et al. (2019), AISTATS 22, and Janati, Cuturi & Gramfort (2020), ICML 37, for the divergence.
"""

import math
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from sde_sgd import _checks
from sde_sgd.errors import NotConverged
from sde_sgd.grid import Grid

from ._heat_kernel import HeatKernel
from ._road import Record

_LADDER = math.sqrt(2.0), 1.0, math.sqrt(0.5)  # of ε
_STEEPEST = 2.0  # h|∇u|/ε in the mean: beyond, B is no small correction
_LARGEST = 1.0  # correction of log ρ by extrapolation, in tails that the cells do not resolve
_ITERATIONS = 300
_RANGE = 0.25, 1.0  # of an ε that is chosen, over T: below it takes too many iterations, above it gains nothing,
_COARSE = 2.0  # unless the cells ask for it
_MEMORY = 6  # differences kept for Anderson's acceleration
_DEPENDENT = 1e-12  # differences closer than this to a combination of others carry nothing


@dataclass(frozen=True)
class _Scaling:
    """The step at one ε."""

    log_density: np.ndarray
    log_b: np.ndarray
    log_d: np.ndarray
    residual: float
    iterations: int


class Entropic:
    """Scaling with the heat kernel of D, in one or two variables, on reflecting and periodic axes.

    `regularisation` is ε, in units of the temperature; where None, each step takes what balances its two errors, from
    T/4 to T, or up to 2T where the cells ask for it. Every step records it, and `regularisation_error`, ∫|A| + |B| dx:
    what was taken off at ε, more than what is left as long as A is small; and `extrapolated`, 0 where F would have
    risen by it. The rest of the grid's error, of order 2 in the spacing, of order 1 where ρ₀ jumps, is not in it.
    """

    def __init__(
        self, process: Any, grid: Grid, potential: np.ndarray, *, tolerance: float, regularisation: float | None = None
    ):
        self._temperature = float(process.constant_temperature)
        self._epsilon = None if regularisation is None else _checks.positive("regularisation", regularisation)
        self._tolerance, self._grid = tolerance, grid
        self._kernel = HeatKernel(process, grid)
        self._potential = potential.ravel() - potential.min()
        self.settings = {
            "method": "entropic",
            "regularisation": "balanced in each step" if self._epsilon is None else self._epsilon,
            "added_diffusion_max": self._kernel.added,
            "shares": "the diffusion operator of FokkerPlanck on this grid",
        }

    def start(self, log_density: np.ndarray) -> np.ndarray:
        """log ρ itself."""
        return log_density

    def log_density(self, state: np.ndarray) -> np.ndarray:
        """log ρ itself."""
        return state

    def advance(self, state: np.ndarray, tau: float) -> tuple[np.ndarray, Record]:
        """One step, at three ε and extrapolated."""
        before = state.ravel()
        epsilon, near = self._regularisation(before, tau)
        solutions: list[_Scaling] = []
        for factor in _LADDER:
            begin = solutions[-1] if solutions else near
            solutions.append(self._solve(before, tau, factor * epsilon, begin))
        wide, middle, narrow = (one.log_density for one in solutions)
        bias = ((wide - middle) - 0.5 * (middle - narrow)) * 4.0 / 3.0
        lattice = 0.5 * bias - (middle - narrow)
        found = self._normalised(middle - np.clip(bias + lattice, -_LARGEST, _LARGEST))
        extrapolated = self._energy(found) <= self._energy(before)
        if not extrapolated:
            found = narrow
        rho, volume = np.exp(found), self._grid.cell_volume
        squared = tau**2 * self._kernel.dirichlet(self._potential + self._temperature * found, rho)
        taken = sum(np.abs(np.expm1(np.clip(-part, -_LARGEST, _LARGEST))) for part in (bias, lattice))
        error = float(np.exp(middle) @ taken * volume)
        return found.reshape(state.shape), Record(
            squared, max(one.residual for one in solutions), sum(one.iterations for one in solutions),
            {"regularisation": epsilon, "regularisation_error": error, "extrapolated": float(extrapolated)},
        )  # fmt: skip

    def _regularisation(self, log_density: np.ndarray, tau: float) -> tuple[float, "_Scaling | None"]:
        """ε as asked, or where A and B are alike, by √E|∇u|² and √E|∇log ρ|²; where to start, if not at ρ₀.

        Where ρ₀ jumps ρ does not: then both are those of ρ₀ spread over τ. From ρ₀ itself, empty cells would stay so.
        """
        temperature = self._temperature
        cell, epsilon = self._kernel.spacing, self._epsilon
        force, variation = self._slopes(log_density)
        near = None
        if cell * force > _STEEPEST * (epsilon or temperature):
            spread = self._kernel.log(log_density, temperature * tau)
            if self._slopes(spread)[0] < force:
                force, variation = self._slopes(spread)
                near = _Scaling(spread, spread, 0.5 * spread, 0.0, 0)
        if epsilon is None:
            low, high = (factor * temperature for factor in _RANGE)
            balanced = math.sqrt(cell * tau * force) / (variation * tau) if variation > 0.0 else high
            epsilon = max(min(high, max(low, balanced)), min(cell * force / _STEEPEST, _COARSE * temperature))
        if cell * force > _STEEPEST * epsilon:
            raise ValueError(
                f"Phi + T log rho changes by {cell * force:.3g} from cell to cell in the mean, too much for a "
                f"regularisation of {epsilon:.3g}; make it {cell * force / _STEEPEST:.3g} or more, or the cells smaller"
            )
        return epsilon, near

    def _energy(self, log_density: np.ndarray) -> float:
        """∫ρ(Φ + T log ρ)."""
        u = self._potential + self._temperature * log_density
        return float(np.exp(log_density) @ u * self._grid.cell_volume)

    def _slopes(self, log_density: np.ndarray) -> tuple[float, float]:
        """√E|∇u|² and √E|∇log ρ|² in the metric."""
        rho, u = np.exp(log_density), self._potential + self._temperature * log_density
        return math.sqrt(self._kernel.dirichlet(u, rho)), math.sqrt(self._kernel.dirichlet(log_density, rho))

    def _normalised(self, log_density: np.ndarray) -> np.ndarray:
        top = log_density.max()
        return log_density - top - math.log(np.exp(log_density - top).sum() * self._grid.cell_volume)

    def _solve(self, before: np.ndarray, tau: float, epsilon: float, near: _Scaling | None) -> _Scaling:
        """The step at one ε, started from its solution at another, or from b/d = e^{−u/ε} at the old density."""
        kernel, temperature, time = self._kernel, self._temperature, 0.5 * epsilon * tau
        mass = np.exp(before) * self._grid.cell_volume
        at, u = (0.5 * before, before) if near is None else (near.log_d, near.log_density)
        now = np.stack([at - (self._potential + temperature * u) / epsilon, at])
        mixing = _Anderson(np.stack([mass, mass]))
        for iteration in range(_ITERATIONS + 1):
            log_b, log_d = now
            log_ka = kernel.log(before - kernel.log(log_b, time), time)
            after = (epsilon * log_d - self._potential - temperature * log_ka) / (epsilon + temperature)
            log_density = self._normalised(after + log_ka)
            after = log_density - log_ka
            change = np.stack([after, 0.5 * (log_d + log_density - kernel.log(log_d, time))]) - now
            weight = np.exp(log_density) * self._grid.cell_volume
            residual = float(weight @ ((1.0 + epsilon / temperature) * np.abs(change[0]) + 2.0 * np.abs(change[1])))
            if residual <= self._tolerance:
                return _Scaling(log_density, log_b, log_d, residual, iteration + 1)
            if not math.isfinite(residual):
                break
            now = mixing.next(now, change)
        raise NotConverged(
            f"the step of tau = {tau:g} at regularisation = {epsilon:g} is only known to a residual of {residual:.2g} "
            f"after {iteration + 1} iterations, and {self._tolerance:g} is asked for; take a larger regularisation, a "
            "smaller tau, or a larger tolerance"
        )


class _Anderson:
    """Anderson (1965): x + f less the combination of earlier steps that cancels most of f, Σ weight·f² measured."""

    def __init__(self, weight: np.ndarray):
        self._weight = weight.ravel()
        self._steps: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=_MEMORY)
        self._last: tuple[np.ndarray, np.ndarray] | None = None

    def next(self, x: np.ndarray, f: np.ndarray) -> np.ndarray:
        """The next x, from x and f = G(x) − x."""
        if self._last is not None:
            self._steps.append(((x - self._last[0]).ravel(), (f - self._last[1]).ravel()))
        self._last = x, f
        if not self._steps:
            return x + f
        dx, df = (np.array(part) for part in zip(*self._steps))
        weighted = df * self._weight
        share = np.linalg.lstsq(weighted @ df.T, weighted @ f.ravel(), rcond=_DEPENDENT)[0]
        return x + f - (share @ (dx + df)).reshape(x.shape)
