"""The potential Φ, the remainder j and the circulation Q of a stationary process."""

from ._modes import modes
from .decomposition import decompose

__all__ = ["decompose", "modes"]
