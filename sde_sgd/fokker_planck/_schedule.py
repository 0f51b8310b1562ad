"""The edges of a generator at any temperature of a schedule."""

import copy

import numpy as np

from sde_sgd.grid import Grid

from . import _edges, _inputs, _pattern


class Schedule:
    """Edges of one process on one grid as a function of T.

    The offsets, the weights and with them `tail`, `head` and `offset` come from D alone, and the same arrays serve
    every T. Where b does not depend on T, P = A/T − C with A = δ·D⁻¹b and C = δ·D⁻¹ div D, computed at the first T.
    Only where D is so nearly singular that the ε which bounds P depends on T are the edges built anew.
    """

    def __init__(self, process, grid: Grid, diffusion: np.ndarray, max_offset: int) -> None:
        self._process, self._grid, self._max_offset = process, grid, max_offset
        self.pattern = _pattern.build(grid, diffusion, max_offset, 0.0)
        identity = np.eye(grid.dim)
        self._smallest = _inputs.smallest_eigenvalue(diffusion + self.pattern.added[:, None, None] * identity)
        self._parts: tuple[np.ndarray, ...] | None = None
        self._forces: tuple[np.ndarray, np.ndarray] | None = None
        self._fixed_drift = _drift_is_fixed(process, grid)

    def edges(self, temperature: float) -> _edges.Edges:
        """The generator's edges at T > 0."""
        process = at_temperature(self._process, temperature)
        if process.equilibrium_potential is None:
            if self._forces is None or not self._fixed_drift:
                self._forces = _edges.forces_at_centers(process, self._grid)
            least = _edges.least_diffusion(*self._forces, temperature, self._grid)
            if (least > self._smallest).any():
                return _edges.build(
                    process, _pattern.build(self._grid, self.pattern.diffusion, self._max_offset, least)
                )
        if not self._fixed_drift:
            return _edges.build(process, self.pattern)
        if self._parts is None:
            self._parts = _edges.parts(process, self.pattern)
        return _edges.of_parts(self.pattern, self._parts, temperature)


def at_temperature(process, temperature: float):
    """The same process at a constant temperature."""
    same = copy.copy(process)
    same.temperature = temperature
    return same


def _drift_is_fixed(process, grid: Grid) -> bool:
    """Whether b does not contain T: then it can be evaluated without one."""
    landscape = getattr(process, "landscape", None)
    if landscape is None:
        return False
    try:
        landscape.drift(np.array(grid.lower)[: len(landscape.variables)])
    except ValueError:
        return False
    return True
