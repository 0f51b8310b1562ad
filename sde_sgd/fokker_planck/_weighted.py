"""Coordinates in which a generator is close to normal, and its inverse in them.

Functions are v = √π·u and probabilities v = p/√π, with π the steady state: −L is self-adjoint there under detailed
balance, and its numerical range is in the right half-plane always. The inverses are subtraction-free.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ._elimination import Elimination

if TYPE_CHECKING:
    from .generator import FokkerPlanck


@dataclass(frozen=True)
class Resolvent:
    """(σ − Lᵀ)⁻¹ on functions and (σ − L)⁻¹ on probabilities, without the steady state.

    Solves are in logarithms, so that π may be as small as it likes.
    """

    space: "Space"
    factors: Elimination

    def functions(self, v: np.ndarray) -> np.ndarray:
        """In v = √π·u."""
        space = self.space
        return space.off_root(self._solve(self.factors.log_backward, space.off_root(v.ravel()), -space.log_root))

    def probabilities(self, v: np.ndarray) -> np.ndarray:
        """In v = p/√π."""
        space = self.space
        return space.off_root(self._solve(self.factors.log_forward, space.off_root(v.ravel()), space.log_root))

    @staticmethod
    def _solve(solve: Callable, v: np.ndarray, log_weight: np.ndarray) -> np.ndarray:
        result = np.zeros(v.size)
        for sign in (1.0, -1.0):
            part = sign * v
            if (part > 0.0).any():
                with np.errstate(divide="ignore"):
                    log_source = np.log(np.maximum(part, 0.0)) + log_weight
                with np.errstate(over="ignore", under="ignore", invalid="ignore"):
                    result += sign * np.exp(solve(log_source) - log_weight)
        if not np.isfinite(result).all():
            raise ValueError(
                "the slowest relaxation takes longer than float64 can tell; raise the temperature, or ask for "
                "mean_exit_time, which has logarithms"
            )
        return result

    def smooth_functions(self, u: np.ndarray) -> np.ndarray:
        """(σ − Lᵀ)⁻¹u for plain functions u (cells, m) of mean 0."""
        image = self.factors.backward(u)
        return image - self.space.pi @ image if self.space.conserves else image

    def smooth_probabilities(self, p: np.ndarray) -> np.ndarray:
        """(σ − L)⁻¹p for plain p (cells, m) of mass 0."""
        image = self.factors.forward(p)
        return image - np.outer(self.space.pi, image.sum(axis=0)) if self.space.conserves else image


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

    @property
    def fastest(self) -> float:
        """The largest rate at which a cell is left: at least half of every |λ|."""
        forward, backward = self.fp.edges.rates()
        return float((self.fp.edges.gather(forward, backward) + self.fp.edges.leak).max())

    def off_root(self, v: np.ndarray) -> np.ndarray:
        """v without its part along √π, the steady state in both kinds of coordinates."""
        return v - self.root * (self.root @ v) if self.conserves else v

    def resolvent(self, shift: float) -> Resolvent:
        edges, shape = self.fp.edges, self.fp.grid.shape
        if shift == 0.0 and self.conserves:
            keep = np.ones(self.pi.size, bool)
            keep[int(np.argmax(self.pi))] = False  # pinned; the projections make the group inverse of the rest
            return Resolvent(self, Elimination.of(edges, shape, keep=keep))
        return Resolvent(self, Elimination.of(edges, shape, leak=shift if shift else None))
