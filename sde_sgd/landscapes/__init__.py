"""What a loss is: one symbolic definition, every compiled form derived from it; and a catalogue of known ones."""

from ._catalogue import catalogue, describe, get
from ._finite_sum import FiniteSum
from ._landscape import Landscape
from ._local_entropy import LocalEntropy, local_entropy

__all__ = ["FiniteSum", "Landscape", "LocalEntropy", "catalogue", "describe", "get", "local_entropy"]
