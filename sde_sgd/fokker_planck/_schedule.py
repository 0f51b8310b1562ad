"""The edges of a generator at any temperature of a schedule."""

import copy
from collections.abc import Callable

import numpy as np
import sympy as sp

from sde_sgd.grid import Grid
from sde_sgd.landscapes._codegen import TEMPERATURE

from . import _edges, _pattern
from ._eigenvalues import eigenvalue_range


class Schedule:
    """Edges of one process on one grid as a function of T.

    The offsets, the weights and with them `tail`, `head` and `offset` come from D alone, and the same arrays serve
    every T. So does D⁻¹δ at the midpoints, computed at the first T; then P = A/T − C with A = (D⁻¹δ)·b and
    C = (D⁻¹δ)·div D. Where b = b₀ + T b₁, A and C are those of b₀ and of div D − b₁, and nothing is evaluated again;
    where b contains T in another way, b is. Only where D is so nearly singular that the ε which bounds P depends on T
    are the edges built anew.
    """

    def __init__(self, process, grid: Grid, diffusion: np.ndarray, max_offset: int) -> None:
        self._process, self._grid, self._max_offset = process, grid, max_offset
        self.pattern = _pattern.build(grid, diffusion, max_offset, 0.0)
        raised = diffusion + self.pattern.added[:, None, None] * np.eye(grid.dim)
        self._smallest = eigenvalue_range(raised / np.outer(grid.spacing, grid.spacing))[0]  # in cells
        self._degree = _degree_in_temperature(process, grid)
        self._inverse: tuple[np.ndarray, np.ndarray] | None = None
        self._parts: tuple[list[np.ndarray], list[np.ndarray]] | None = None
        self._forces: tuple[list[np.ndarray], list[np.ndarray]] | None = None

    def edges(self, temperature: float) -> _edges.Edges:
        """The generator's edges at T > 0."""
        process = at_temperature(self._process, temperature)
        if process.equilibrium_potential is None:
            self._forces = self._split(self._forces, process, self._drift, self._divergence)
            least = _edges.least_diffusion(self._forces[0][0], self._forces[1][0], temperature, self._grid)
            if (least > self._smallest).any():
                pattern = _pattern.build(self._grid, self.pattern.diffusion, self._max_offset, least)
                return _edges.build(process, pattern)
        self._parts = self._split(self._parts, process, self._pushes, self._spreads)
        along, leaks = (a / temperature - c for a, c in zip(*self._parts))
        return _edges.of_peclet(self.pattern, temperature, along, leaks)

    def _split(self, known, process, of_drift: Callable, of_divergence: Callable):
        """What b and div D give, with the part of b that is linear in T moved to the latter: fixed if b is affine."""
        if known is not None and self._degree <= 1:
            return known
        of_b = of_drift(process)
        of_d = of_divergence(process) if known is None else known[1]
        if self._degree == 1:
            temperature = process.temperature
            twice = of_drift(at_temperature(process, 2.0 * temperature))
            of_d = [d - (a2 - a) / temperature for a, a2, d in zip(of_b, twice, of_d)]
            of_b = [2.0 * a - a2 for a, a2 in zip(of_b, twice)]
        return of_b, of_d

    def _drift(self, process) -> list[np.ndarray]:
        return [_edges.at_centers(process.drift, "drift", self._grid)]

    def _divergence(self, process) -> list[np.ndarray]:
        return [_edges.at_centers(process.diffusion_divergence, "diffusion_divergence", self._grid)]

    def _steps(self, process) -> tuple[np.ndarray, np.ndarray]:
        if self._inverse is None:
            self._inverse = _edges.inverse_steps(process, self.pattern)
        return self._inverse

    def _pushes(self, process) -> list[np.ndarray]:
        """A of the edges and of the leaks; with a known Φ its drop is that of the edges."""
        along, leaks = _edges.dots(self.pattern, self._steps(process), process.drift, "drift")
        if process.equilibrium_potential is not None:
            along = _edges.potential_drop(process, self.pattern)
        return [along, leaks]

    def _spreads(self, process) -> list[np.ndarray]:
        """C of the edges and of the leaks."""
        return _edges.dots(self.pattern, self._steps(process), process.diffusion_divergence, "diffusion_divergence")


def at_temperature(process, temperature: float):
    """The same process at a constant temperature."""
    same = copy.copy(process)
    same.temperature = temperature
    return same


def _degree_in_temperature(process, grid: Grid) -> int:
    """0 where b does not contain T, 1 where it is known to be affine in T, else 2."""
    landscape = getattr(process, "landscape", None)
    if landscape is None:
        return 2
    try:
        landscape.drift(np.array(grid.lower)[: len(landscape.variables)])
        return 0  # it can be evaluated without one
    except ValueError:
        curved = [sp.diff(component, TEMPERATURE, 2) for component in landscape._group("drift")[0]]
        return 1 if all(component == 0 for component in curved) else 2
