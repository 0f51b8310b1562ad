"""Trajectories: Langevin schemes and the real mini-batch recursion, in generated Numba kernels."""

from ._histogram import Histogram, density_dataset
from ._schemes import SCHEMES
from ._sgd import sample_indices, sgd
from ._simulate import sample_density, simulate

__all__ = ["SCHEMES", "Histogram", "density_dataset", "sample_density", "sample_indices", "sgd", "simulate"]
