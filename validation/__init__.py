"""Real networks, torch and torchsde against the theory and the core's own kernels.

Importing this package is light: torch is imported when a name is first used.
"""

from typing import TYPE_CHECKING

import lazy_loader

_load, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "curvature": ["Curvature"],
        "_sentences": ["collected_sentences"],
        "data": ["DATASETS", "Split", "digits", "load", "teacher_student"],
        "ensembles": ["ensemble"],
        "fisher_rao": ["fisher_rao_norm"],
        "gradient_noise": ["GradientNoise"],
        "information": [
            "binned_information",
            "gaussian_information",
            "kernel_information",
            "mutual_information",
            "plug_in_information",
            "sampled_information",
        ],
        "local_prediction": ["LocalPrediction"],
        "measures_kernels": ["recorded_sgd", "recorded_trajectory"],
        "network_sde": ["NetworkSDE"],
        "networks": ["NETWORKS", "network", "parameter_count", "resolve"],
        "neuron": ["Neuron", "replay_sgd"],
        "noisy_descent": ["NoisyDescent"],
        "one_hidden_layer": ["OneHiddenLayer", "trajectory"],
        "optimisers": ["OPTIMISERS", "optimise"],
        "ranks": ["rank_measures"],
        "recording": ["Recorder", "RunState", "When", "recorder"],
        "spectra": ["digits_spectra"],
        "stability": ["slab_exit_time", "stability_radius"],
        "torchsde_adapter": ["TorchSDE", "torchsde_states"],
        "torchsde_density": ["simulate_torchsde"],
        "training": ["tiny_fc", "train_sgd"],
    },
)


def __getattr__(name: str):
    try:
        return _load(name)
    except ModuleNotFoundError as missing:
        if missing.name not in ("torch", "torchsde"):
            raise
        remedy = f"sde_sgd.validation.{name} needs {missing.name}: install the extra, sde-sgd[networks]"
        raise ModuleNotFoundError(remedy, name=missing.name) from None


if TYPE_CHECKING:
    from ._sentences import collected_sentences as collected_sentences
    from .curvature import Curvature as Curvature
    from .data import DATASETS as DATASETS
    from .data import Split as Split
    from .data import digits as digits
    from .data import load as load
    from .data import teacher_student as teacher_student
    from .ensembles import ensemble as ensemble
    from .fisher_rao import fisher_rao_norm as fisher_rao_norm
    from .gradient_noise import GradientNoise as GradientNoise
    from .information import binned_information as binned_information
    from .information import gaussian_information as gaussian_information
    from .information import kernel_information as kernel_information
    from .information import mutual_information as mutual_information
    from .information import plug_in_information as plug_in_information
    from .information import sampled_information as sampled_information
    from .local_prediction import LocalPrediction as LocalPrediction
    from .measures_kernels import recorded_sgd as recorded_sgd
    from .measures_kernels import recorded_trajectory as recorded_trajectory
    from .network_sde import NetworkSDE as NetworkSDE
    from .networks import NETWORKS as NETWORKS
    from .networks import network as network
    from .networks import parameter_count as parameter_count
    from .networks import resolve as resolve
    from .neuron import Neuron as Neuron
    from .neuron import replay_sgd as replay_sgd
    from .noisy_descent import NoisyDescent as NoisyDescent
    from .one_hidden_layer import OneHiddenLayer as OneHiddenLayer
    from .one_hidden_layer import trajectory as trajectory
    from .optimisers import OPTIMISERS as OPTIMISERS
    from .optimisers import optimise as optimise
    from .ranks import rank_measures as rank_measures
    from .recording import Recorder as Recorder
    from .recording import RunState as RunState
    from .recording import When as When
    from .recording import recorder as recorder
    from .spectra import digits_spectra as digits_spectra
    from .stability import slab_exit_time as slab_exit_time
    from .stability import stability_radius as stability_radius
    from .torchsde_adapter import TorchSDE as TorchSDE
    from .torchsde_adapter import torchsde_states as torchsde_states
    from .torchsde_density import simulate_torchsde as simulate_torchsde
    from .training import tiny_fc as tiny_fc
    from .training import train_sgd as train_sgd
