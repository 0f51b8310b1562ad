"""Real networks, torch and torchsde against the theory and the core's own kernels.

Importing this package is light: torch is imported when a name is first used.
"""

from typing import TYPE_CHECKING

import lazy_loader

_load, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "curvature": ["Curvature"],
        "data": ["DATASETS", "Split", "digits", "load", "teacher_student"],
        "ensembles": ["ensemble"],
        "gradient_noise": ["GradientNoise"],
        "local_prediction": ["LocalPrediction"],
        "network_sde": ["NetworkSDE"],
        "networks": ["NETWORKS", "network", "parameter_count", "resolve"],
        "neuron": ["Neuron", "replay_sgd"],
        "one_hidden_layer": ["OneHiddenLayer", "trajectory"],
        "ranks": ["rank_measures"],
        "recording": ["Recorder", "RunState", "When", "recorder"],
        "spectra": ["digits_spectra"],
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
    from .curvature import Curvature as Curvature
    from .data import DATASETS as DATASETS
    from .data import Split as Split
    from .data import digits as digits
    from .data import load as load
    from .data import teacher_student as teacher_student
    from .ensembles import ensemble as ensemble
    from .gradient_noise import GradientNoise as GradientNoise
    from .local_prediction import LocalPrediction as LocalPrediction
    from .network_sde import NetworkSDE as NetworkSDE
    from .networks import NETWORKS as NETWORKS
    from .networks import network as network
    from .networks import parameter_count as parameter_count
    from .networks import resolve as resolve
    from .neuron import Neuron as Neuron
    from .neuron import replay_sgd as replay_sgd
    from .one_hidden_layer import OneHiddenLayer as OneHiddenLayer
    from .one_hidden_layer import trajectory as trajectory
    from .ranks import rank_measures as rank_measures
    from .recording import Recorder as Recorder
    from .recording import RunState as RunState
    from .recording import When as When
    from .recording import recorder as recorder
    from .spectra import digits_spectra as digits_spectra
    from .torchsde_adapter import TorchSDE as TorchSDE
    from .torchsde_adapter import torchsde_states as torchsde_states
    from .torchsde_density import simulate_torchsde as simulate_torchsde
    from .training import tiny_fc as tiny_fc
    from .training import train_sgd as train_sgd
