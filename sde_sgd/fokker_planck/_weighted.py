"""Coordinates in which a generator is close to normal, and its inverse in them.

Functions are v = √π·u and probabilities v = p/√π, with π the steady state: −L is self-adjoint there under detailed
balance, and its numerical range is in the right half-plane always. The inverses are subtraction-free.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ._elimination import Elimination, extended, joined, split

if TYPE_CHECKING:
    from .generator import FokkerPlanck


@dataclass(frozen=True)
class Resolvent:
    """(σ − Lᵀ)⁻¹ on functions and (σ − L)⁻¹ on probabilities, without the steady state.

    Weights and solves are in extended numbers, so that π may be as small as it likes.
    """

    space: "Space"
    factors: Elimination

    def functions(self, v: np.ndarray) -> np.ndarray:
        """In v = √π·u."""
        return self._between_roots(self.factors.extended_backward, v, -1)

    def probabilities(self, v: np.ndarray) -> np.ndarray:
        """In v = p/√π."""
        return self._between_roots(self.factors.extended_forward, v, 1)

    def plain_functions(self, u: np.ndarray) -> np.ndarray:
        """On functions u (cells, m) of mean 0 as they are, right also where π is 0 in float64."""
        return self._without_mean(self._scaled(self.factors.extended_backward, u, 0))

    def ratios(self, r: np.ndarray) -> np.ndarray:
        """In r = p/π (cells, m) of mean 0: what plain functions are to the process run backwards."""
        return self._without_mean(self._scaled(self.factors.extended_forward, r, 2))

    def _between_roots(self, solve: Callable, v: np.ndarray, power: int) -> np.ndarray:
        space = self.space
        result = self._scaled(solve, space.off_root(v.ravel())[:, None], power)[:, 0]
        if not np.isfinite(result).all():
            raise ValueError(
                "the slowest relaxation takes longer than float64 can tell; raise the temperature, or ask for "
                "mean_exit_time, which has logarithms"
            )
        return space.off_root(result)

    def _scaled(self, solve: Callable, v: np.ndarray, power: int) -> np.ndarray:
        """The solve between multiplication by √π**power and division by it, for columns v."""
        weight, octaves = self.space.extended_root(power)
        mantissa, exponent = split(v)
        mantissa, exponent = solve(mantissa * weight, exponent + octaves)
        return joined(mantissa / weight, exponent - octaves)

    def _without_mean(self, v: np.ndarray) -> np.ndarray:
        return v - self.space.pi @ v if self.space.conserves else v


@dataclass(frozen=True)
class Space:
    """π and √π of a generator; with absorbing walls those of the same edges without their leak."""

    fp: "FokkerPlanck"
    log_root: np.ndarray  # log √π
    conserves: bool
    symmetric: bool

    @classmethod
    def of(cls, fp: "FokkerPlanck") -> "Space":
        conserves = "absorbing" not in fp.grid.boundary
        if conserves:
            log_pi = fp.log_steady_state().values.ravel()
        elif fp.irreducible:
            closed = replace(fp.edges, leak=np.zeros(fp.grid.size))
            log_pi = Elimination.of(closed, fp.grid.shape).log_stationary()
        else:
            raise ValueError("the chain falls into parts that exchange no mass; add noise, or solve on each part")
        log_pi = log_pi - log_pi.max()
        log_pi -= np.log(np.exp(log_pi).sum())
        return cls(fp, 0.5 * log_pi, conserves, bool(fp.detailed_balance))

    @cached_property
    def pi(self) -> np.ndarray:
        return np.exp(2.0 * self.log_root)

    @cached_property
    def root(self) -> np.ndarray:
        return np.exp(self.log_root)

    def extended_root(self, power: int) -> tuple[np.ndarray, np.ndarray]:
        """√π**power as a column of mantissas and one of binary exponents."""
        mantissa, exponent = extended(power * self.log_root)
        return mantissa[:, None], exponent[:, None]

    @property
    def fastest(self) -> float:
        """The largest rate at which a cell is left: at least half of every |λ|."""
        forward, backward = self.fp.edges.rates()
        return float((self.fp.edges.gather(forward, backward) + self.fp.edges.leak).max())

    def off_root(self, v: np.ndarray) -> np.ndarray:
        """v without its part along √π, the steady state in both kinds of coordinates."""
        # not by BLAS: its threads would wake and sleep between any two solves
        return v - self.root * (self.root * v).sum() if self.conserves else v

    def resolvent(self, shift: float) -> Resolvent:
        edges, shape = self.fp.edges, self.fp.grid.shape
        if shift == 0.0 and self.conserves:
            keep = np.ones(self.pi.size, bool)
            keep[int(np.argmax(self.pi))] = False  # pinned; the projections make the group inverse of the rest
            return Resolvent(self, Elimination.of(edges, shape, keep=keep))
        return Resolvent(self, Elimination.of(edges, shape, leak=shift if shift else None))
