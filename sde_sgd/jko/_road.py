"""What a method of minimising W²/(2τ) + F must offer, so that `JKO` can take its steps."""

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

DEFECT = 0.1  # of the log of mass, before it is set right, beyond which a step is refused: usually 1e-5 to 1e-3


@dataclass(frozen=True)
class Record:
    """How one step was found."""

    squared_distance: float  # W₂² of what the step moves, per unit of mass, in the metric D⁻¹
    residual: float  # of the optimality condition, relative, weighted by mass
    iterations: int
    more: dict[str, float] = field(default_factory=dict)  # further numbers of the step, always under the same names


class Road(Protocol):
    """A method, made as Class(process, grid, Φ in the cells, tolerance=…, own settings…).

    The state is one float64 array whose shape never changes along a flow, all that the next step needs: a flow stores
    it to be resumed with the same bits. Densities are of mass 1 on the way in and on the way out, to rounding, and
    given by their logarithms, which are finite in every cell. A step that is not found raises NotConverged with the
    residual it reached and what to change.
    """

    settings: dict[str, Any]  # for attrs: method, what it was asked, `shares`: components that other methods have too

    def start(self, log_density: np.ndarray) -> np.ndarray:
        """The state of log ρ in the cells, (*grid.shape)."""

    def advance(self, state: np.ndarray, tau: float) -> tuple[np.ndarray, Record]:
        """The state a step of length τ later."""

    def log_density(self, state: np.ndarray) -> np.ndarray:
        """log ρ in the cells, (*grid.shape)."""
