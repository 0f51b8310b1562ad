"""The potential Φ, the remainder j and the circulation Q of a stationary process."""

from ._assessment import Assessment, assess
from ._from_samples import potential_from_samples
from ._hypotheses import Hypothesis
from ._low_temperature import extrapolate_potential
from ._minimum_action import minimum_action_path
from ._modes import modes
from ._prefactor import escape_rate
from ._quasipotential import quasipotential
from .decomposition import decompose

__all__ = [
    "Assessment",
    "Hypothesis",
    "assess",
    "decompose",
    "escape_rate",
    "extrapolate_potential",
    "minimum_action_path",
    "modes",
    "potential_from_samples",
    "quasipotential",
]
