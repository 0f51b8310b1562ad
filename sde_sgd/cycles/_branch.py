"""A branch of solutions over a parameter, and the points where its stability changes."""

from dataclasses import dataclass

import numpy as np
import xarray as xr


@dataclass(frozen=True)
class Bifurcation:
    """Where a branch bends, meets another, or loses stability.

    kind : of fixed points "fold", "pitchfork", "transcritical", "Hopf"; of cycles "fold", "period doubling", "torus",
        "branch point". value : of the parameter. position : (d,), a point of the orbit where it is one.
    eigenvalues : of ∂v/∂x, or the multipliers across the orbit. period : of the cycle; 2π/ω at a Hopf point; else NaN.
    """

    kind: str
    value: float
    position: np.ndarray
    eigenvalues: np.ndarray
    period: float = np.nan

    def __repr__(self) -> str:
        return f"<Bifurcation {self.kind} at {self.value:.10g}>"


@dataclass(frozen=True)
class Branch:
    """Solutions in the order of their length along the branch.

    points : Dataset over `point`: the parameter by its name, the coordinates (for cycles those of one point of the
        orbit, `minimum_…` and `maximum_…` over it, and `period`), `eigenvalue` or `multiplier` (point, mode), `stable`.
        `attrs["ends"]`: why the branch ends where it does, at either end: "bounds", "box", "closed" (on itself),
        "step" (lost: a cusp, a corner, or for cycles a point), "most" (it goes on); of cycles "point", "period".
    bifurcations : in the same order. parameter : its name.
    """

    points: xr.Dataset
    bifurcations: tuple[Bifurcation, ...]
    parameter: str

    def __repr__(self) -> str:
        values = self.points[self.parameter].values
        names = ", ".join(b.kind for b in self.bifurcations) or "no bifurcation"
        return (
            f"<Branch of {len(values)} points, {self.parameter} from {values[0]:.6g} to {values[-1]:.6g} "
            f"(least {values.min():.6g}, largest {values.max():.6g}): {names}>"
        )
