"""Steps in two variables by the Monge–Ampère equation: the state is log ρ in the cells."""

import math
from typing import Any

import numpy as np

from sde_sgd.errors import NotConverged
from sde_sgd.grid import Grid

from ._monge_ampere import MongeAmpere
from ._road import DEFECT, Record


class Plane:
    """Newton's method on log ρ; see `_monge_ampere`."""

    def __init__(self, process: Any, grid: Grid, potential: np.ndarray, *, tolerance: float):
        constant = process.landscape.constant_diffusion()
        self._solver = MongeAmpere(grid, process.diffusion if constant is None else constant)
        self._grid, self._potential, self._tolerance = grid, potential, tolerance
        self._temperature = process.constant_temperature
        self.settings = {"method": "monge_ampere"}

    def start(self, log_density: np.ndarray) -> np.ndarray:
        """log ρ itself."""
        return log_density

    def advance(self, state: np.ndarray, tau: float) -> tuple[np.ndarray, Record]:
        """One step."""
        found = self._solver.step(state, self._potential, self._temperature, tau, self._tolerance)
        top = found.log_density.max()
        mass = math.log(np.exp(found.log_density - top).sum() * self._grid.cell_volume) + top
        if not abs(mass) <= DEFECT:
            raise NotConverged(
                f"the step of tau = {tau:g} found a density of mass e^{mass:.3g} times its start: the cells do not "
                "resolve it, or it comes to walls; take a finer grid, a wider box, or method='entropic'"
            )
        return found.log_density - mass, Record(
            found.squared_distance, found.residual, found.iterations, {"mass_defect": math.expm1(mass)}
        )

    def log_density(self, state: np.ndarray) -> np.ndarray:
        """log ρ itself."""
        return state
