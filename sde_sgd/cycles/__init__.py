"""Fixed points and limit cycles of a vector field; currents and peaks in a noisy trajectory."""

from ._area_production import area_production
from ._branch import Bifurcation, Branch
from ._continuation import continue_fixed_points
from ._cycle import Cycle
from ._cycle_continuation import continue_cycles
from ._fixed_points import FixedPoint, find_fixed_points
from ._focus import Focus, classify_focus, radius_per_turn
from ._spectral_peaks import spectral_peaks
from ._winding import winding
from .find import find_cycles

__all__ = [
    "Bifurcation",
    "Branch",
    "Cycle",
    "FixedPoint",
    "Focus",
    "area_production",
    "classify_focus",
    "continue_cycles",
    "continue_fixed_points",
    "find_cycles",
    "find_fixed_points",
    "radius_per_turn",
    "spectral_peaks",
    "winding",
]
