"""Trajectories: Langevin schemes and the real mini-batch recursion, in generated Numba kernels."""

from ._effective_samples import effective_sample_size
from ._exit_times import exit_times
from ._first_passage import FirstPassage
from ._histogram import Histogram, density_dataset
from ._kramers_moyal import estimate_drift_diffusion
from ._lag_covariance import LagCovariance
from ._moments import Moments
from ._sample_density import sample_density
from ._schemes import SCHEMES
from ._sgd import sample_indices, sgd
from ._simulate import simulate
from ._winding import Winding

__all__ = [
    "SCHEMES",
    "FirstPassage",
    "Histogram",
    "LagCovariance",
    "Moments",
    "Winding",
    "density_dataset",
    "effective_sample_size",
    "estimate_drift_diffusion",
    "exit_times",
    "sample_density",
    "sample_indices",
    "sgd",
    "simulate",
]
