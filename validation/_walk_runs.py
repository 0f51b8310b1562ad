"""The runs of the walk: SGD, gradient descent, gradient descent with isotropic noise, recorded alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, parametrize

from sde_sgd.errors import Diverged
from sde_sgd.schedules import Cyclic, StepDecay, Trapezoid

from ._walk_floors import LINES, FloorLoss
from .data import Split, load
from .networks import network
from .recording import Recorder, When, recorder
from .training import train_sgd

SMALL: Mapping[str, Mapping[str, Any]] = {
    "mlp": {"width": 0.2},
    "vgg-11": {"width": 0.1},
    "resnet": {"width": 0.5, "depth": 8},
}
NETWORKS = tuple(SMALL)
SCHEDULES = ("constant", "step", "cyclic", "trapezoid")
_RECORDS = 24  # of slow quantities along a run


def data_of(config: Mapping[str, Any], name: str = "mlp") -> Split:
    """The data set, the same for all seeds; convolutions may get fewer samples."""
    options: dict[str, Any] = {} if config["data"] == "digits" else {"directory": config["directory"] or None}
    samples = config["samples"] if name == "mlp" else config["image_samples"]
    if samples:
        options["samples"] = samples
    return load(config["data"], seed=0, dtype=torch.float64, **options)


def network_of(name: str, data: Split, config: Mapping[str, Any], seed: int) -> nn.Sequential:
    """A network in the form that is asked for, its weights drawn from `seed`."""
    options = SMALL[name] if config["small"] else {}
    return network(name, data.inputs.shape[1:], int(data.targets.max()) + 1, seed=seed, **options)


def schedule_of(kind: str, rate: float, steps: int) -> Any:
    """η as a function of steps: constant, tenfold down at ½ and ¾, triangles of 10 to a run, or a trapezoid."""
    if kind == "constant":
        return rate
    if kind == "step":
        return StepDecay(rate, 0.1, (steps // 2, steps * 3 // 4))
    if kind == "cyclic":
        return Cyclic(rate / 10, rate, steps / 10)
    return Trapezoid(rate / 100, rate, steps / 10, steps * 0.6, steps * 0.3)


class _Kicked(torch.autograd.Function):
    """w ↦ w, whose gradient is what comes back plus a given kick."""

    @staticmethod
    def forward(ctx, weight: Tensor, kick: Tensor) -> Tensor:
        ctx.save_for_backward(kick)
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return gradient + ctx.saved_tensors[0], None


class IsotropicNoise(nn.Module):
    """In training mode adds N(0, `deviation`² I) to the gradient of a weight, once per forward pass."""

    def __init__(self, deviation: float):
        super().__init__()
        self.deviation = deviation

    def forward(self, weight: Tensor) -> Tensor:
        """The weight."""
        if not self.training:
            return weight
        return _Kicked.apply(weight, self.deviation * torch.randn_like(weight))


def with_isotropic_noise(model: nn.Module, deviation: float) -> nn.Module:
    """The model, every trainable weight of which gets independent noise on its gradient; the order of weights stays."""
    for module in list(model.modules()):
        for name in [name for name, weight in module.named_parameters(recurse=False) if weight.requires_grad]:
            parametrize.register_parametrization(module, name, IsotropicNoise(deviation))
    return model


NOISES = {"standard deviation": "noise-deviation", "variance": "noise-variance"}  # runs by the reading of their scale


def deviations(config: Mapping[str, Any]) -> dict[str, float]:
    """The two readings of one scale s: as a standard deviation, s; as a variance, √s."""
    scale = config["noise_scale"]
    return {"standard deviation": scale, "variance": float(np.sqrt(scale))}


def walked(
    config: Mapping[str, Any],
    data: Split,
    name: str,
    seed: int,
    folder: Path,
    progress: Callable[[int, int], object] | None = None,
    *,
    rate: float,
    batch_size: int | None = None,
    schedule: str = "constant",
    noise: float | None = None,
    start: xr.Dataset | None = None,
    share: float = 1.0,
    curvature: bool = True,
    floors: bool = False,
) -> xr.Dataset:
    """One run, recorded, over a `share` of the epochs of the settings; gone on with from `folder` if interrupted.

    `batch_size` None is that of the settings, N gradient descent on the mean loss, which takes as many steps as SGD at
    the batch size of the settings; `noise` adds isotropic noise of that deviation to its gradient; `start` is a run
    whose last weights and running averages this one begins from; `floors` records the loss from floor to floor, of
    which the step is that of the later one. A run that diverges has no variables, and attrs["diverged"], the step.
    """
    count, size = len(data.inputs), config["batch_size"] if batch_size is None else batch_size
    per_epoch = -(-count // (config["batch_size"] if size == count else size))
    steps = max(1, round(share * epochs_of(config, name))) * per_epoch
    model: nn.Module = network_of(name, data, config, seed)
    if start is not None:
        torch.nn.utils.vector_to_parameters(torch.from_numpy(start["end"].values.copy()), model.parameters())
        _put_buffers(model, start["end_buffers"].values)
    if noise is not None:
        model = with_isotropic_noise(model, noise)
    facts = {
        "steps_per_epoch": per_epoch, "network": name, "rate": rate, "size": size, "steps": steps,
        "begins": 0 if start is None else start.attrs["steps"], "test_samples": len(data.test_inputs),
    }  # fmt: skip
    try:
        run = train_sgd(
            model, data.inputs, data.targets, steps=steps, learning_rate=schedule_of(schedule, rate, steps),
            batch_size=size, sampling="without_replacement" if size == count else "reshuffling",
            weight_decay=config["weight_decay"], seed=seed, test=(data.test_inputs, data.test_targets),
            recorders=_recorders(config, steps, per_epoch, name, curvature, floors), checkpoint=folder,
            progress=progress,
        ).load()  # fmt: skip
    except Diverged as fault:
        return xr.Dataset(attrs={**facts, "diverged": int(fault.step or 0)})
    if floors:
        run = run.isel(floor_loss_step=slice(1, None)).assign_coords(line=list(LINES))  # the first has none before it
    run["end"] = ("weight", parameters_to_vector(model.parameters()).detach().numpy().copy())
    run["end_buffers"] = ("buffer", np.concatenate([b.numpy().ravel().astype(float) for b in model.buffers()]))
    return run.assign_attrs(facts | {"weights": run.sizes["weight"]})


def _put_buffers(model: nn.Module, values: NDArray) -> None:
    """Running averages and counts from one array, in the order of the model."""
    buffers = list(model.buffers())
    parts = np.split(values, np.cumsum([buffer.numel() for buffer in buffers])[:-1])
    for buffer, part in zip(buffers, parts):
        buffer.copy_(torch.from_numpy(part.reshape(buffer.shape)))


def rate_of(config: Mapping[str, Any], name: str) -> float:
    """η of a network."""
    return config["learning_rate"] if name == "mlp" else config["image_learning_rate"]


def epochs_of(config: Mapping[str, Any], name: str) -> int:
    """Convolutions, which are slow on a processor, have a number of their own."""
    return config["epochs"] if name == "mlp" else config["image_epochs"]


def _recorders(config, steps: int, per_epoch: int, name: str, curvature: bool, floors: bool) -> list[Recorder]:
    some = When.at(steps=np.unique(np.linspace(0, steps, _RECORDS + 1).astype(int)))
    often = When.every(steps=max(1, steps // config["cosines"]))
    found = [
        recorder("loss", some), recorder("accuracy", some), recorder("norm", some), recorder("distance", some),
        recorder("loss", some, name="test_loss", part="test"),
        recorder("accuracy", some, name="test_accuracy", part="test"), recorder("gradient_products", often),
        recorder("segment_loss", When.at(steps=segment_steps(config, steps, per_epoch, name)), points=11,
                 statistics=config["statistics"]),
    ]  # fmt: skip
    if floors:
        measure = FloorLoss(11 if name == "mlp" else 7, config["statistics"])  # convolutions are slow
        found.append(Recorder("floor_loss", When.every(epochs=config["floor_epochs"]), measure, ("line", "place")))
    if curvature:
        few = When.at(steps=np.unique(np.linspace(0, steps, config["curvatures"] + 1).astype(int)))
        found.append(recorder("hessian_eigenvalues", few, count=1, statistics=config["statistics"], tolerance=1e-3))
    return found


def recorded_epochs(config: Mapping[str, Any], name: str) -> list[int]:
    """The epochs whose steps are interpolated, counted from 1; the last of the run stands for those beyond it."""
    return sorted({min(epoch, epochs_of(config, name)) for epoch in config["record_epochs"]})


def segment_steps(config: Mapping[str, Any], steps: int, per_epoch: int, name: str) -> NDArray[np.int64]:
    """The steps of the recorded epochs, or as many of each as are asked for, spread over it."""
    inside = np.unique(np.linspace(0, per_epoch - 1, min(config["segments"], per_epoch)).astype(int))
    found = np.concatenate([(epoch - 1) * per_epoch + inside for epoch in recorded_epochs(config, name)])
    return found[found < steps]


def epoch_of(run: xr.Dataset) -> NDArray[np.int64]:
    """The epoch, counted from 1, of each interpolated step."""
    return run["segment_loss_step"].values // run.attrs["steps_per_epoch"] + 1
