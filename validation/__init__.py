"""Real networks, torch and torchsde against the theory and the core's own kernels.

Importing this package is light: torch is imported when a name is first used.
"""

from typing import TYPE_CHECKING

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "data": ["Digits", "digits"],
        "gradient_noise": ["GradientNoise"],
        "neuron": ["Neuron", "replay_sgd"],
        "ranks": ["rank_measures"],
        "spectra": ["digits_spectra"],
        "torchsde_adapter": ["TorchSDE", "simulate_torchsde", "torchsde_states"],
        "training": ["tiny_fc", "train_sgd"],
    },
)

if TYPE_CHECKING:
    from .data import Digits, digits
    from .gradient_noise import GradientNoise
    from .neuron import Neuron, replay_sgd
    from .ranks import rank_measures
    from .spectra import digits_spectra
    from .torchsde_adapter import TorchSDE, simulate_torchsde, torchsde_states
    from .training import tiny_fc, train_sgd
