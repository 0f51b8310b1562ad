"""The networks of the sources by name, in the shape of the data; any other by `module:factory`."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from sde_sgd import _checks

from ._numbers import LARGEST_SEED, from_zero
from ._samples import in_words, quietly

NETWORKS = ("tiny-fc", "small-fc", "mlp", "small-lenet", "small-allcnn", "vgg-11", "resnet")
_VGG = (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512, "pool")


def network(
    name: str,
    inputs_shape: Sequence[int],
    classes: int,
    *,
    batch_norm: bool | None = None,
    dropout: float | None = None,
    width: float = 1.0,
    depth: int | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> nn.Sequential:
    """A network by name for inputs of `inputs_shape` (without the batch) and `classes` outputs.

    ============  ==============================================================================  ===========
    tiny-fc       16 hidden, ReLU                                                                 no BN
    small-fc      64 hidden, ReLU                                                                 BN
    mlp           500, 350 hidden, ReLU                                                           BN
    small-lenet   5 × 5 convolutions to 8 and 16 channels, pooled by 3 and 2, 128 hidden          BN, 0.1
    small-allcnn  eight 3 × 3 convolutions, 12 and 24 channels, stride 2 twice, 1 × 1, averaged   BN, 0.5
    vgg-11        eight 3 × 3 convolutions of 64 to 512 channels, pooled by 2 up to five times    BN
    resnet        6n + 2 layers, `depth` 56: 3 × 3 convolutions of 16, 32, 64 channels, n blocks  BN
    ============  ==============================================================================  ===========

    The counts of weights that Chaudhari & Soatto give are met: small-lenet 13,338 on (1, 28, 28), small-allcnn 26,982
    on (3, 32, 32). On images too small for them, convolutions keep the size and poolings that would leave nothing are
    left out. The last layer gives logits; that of small-allcnn is normed, too (the count needs it), and rectified.

    Parameters
    ----------
    inputs_shape : (features,) or (channels, height, width); fully connected networks flatten, the others take images.
    batch_norm : after every hidden layer; None: as in the table.
    dropout : probability, after each hidden layer (small-lenet: convolution; small-allcnn: strided convolution, and
        0.4 of it on the inputs); None: as in the table.
    width : factor of all hidden sizes and channels, rounded, at least 1. depth : of resnet, 6n + 2.
    seed : of PyTorch's default initialisation; the global random stream is left as it was.
    dtype : a float type.

    Raises ValueError for an unknown name, an option that does not apply, a shape that it cannot take.

    References: Chaudhari & Soatto (2018), section 4; Xing et al. (2018) (mlp, vgg-11, resnet); Springenberg et al.
    (2015); Simonyan & Zisserman (2015); He et al. (2016), shortcuts without weights.
    """
    _checks.choice("network", name, NETWORKS)
    shape = tuple(_checks.whole("inputs_shape", n, 1) for n in inputs_shape)
    classes = _checks.whole("classes", classes, 1)
    width = _checks.positive("width", width)
    seed = _checks.whole("seed", seed, 0, LARGEST_SEED)
    if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ValueError(f"dtype={dtype}: choose a float type, e.g. torch.float32 or torch.float64")
    if depth is not None and name != "resnet":
        raise ValueError(f"depth={depth} belongs to resnet, and this is {name}; leave it out")
    drops = {"small-lenet": 0.1, "small-allcnn": 0.5}
    rate = from_zero("dropout", drops.get(name, 0.0) if dropout is None else dropout, below=1.0)
    norm = name != "tiny-fc" if batch_norm is None else bool(batch_norm)
    layers = _Layers(norm, rate, lambda size: max(1, round(width * size)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name in ("tiny-fc", "small-fc", "mlp"):
            hidden = {"tiny-fc": (16,), "small-fc": (64,), "mlp": (500, 350)}[name]
            return layers.connected(math.prod(shape), hidden, classes).to(dtype)
        if len(shape) != 3:
            raise ValueError(f"{name} takes images of shape (channels, height, width), got {shape}; use tiny-fc or mlp")
        if name == "small-lenet":
            return layers.lenet(shape, classes).to(dtype)
        if name == "small-allcnn":
            return layers.allcnn(shape, classes).to(dtype)
        if name == "vgg-11":
            return layers.vgg(shape, classes).to(dtype)
        depth = _checks.whole("depth", 56 if depth is None else depth, 8, 1202)
        if depth % 6 != 2:
            raise ValueError(f"depth must be 6n + 2, as 8, 14, 20, 32, 56, got {depth}")
        return layers.resnet(shape, classes, (depth - 2) // 6).to(dtype)


def parameter_count(model: nn.Module) -> int:
    """The number of trainable weights."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def resolve(name: str, inputs_shape: Sequence[int], classes: int, **options) -> nn.Module:
    """A network by one of the names, with `options` of `network`, or what "module:factory" makes.

    The module is importable or a path ending in .py; the factory is called with (inputs_shape, classes) if it takes two
    positional arguments, else with none. ValueError for what cannot be found or makes no torch.nn.Module.
    """
    if ":" not in name:
        return network(name, inputs_shape, classes, **options)
    if options:
        raise ValueError(f"{', '.join(options)}: options of a network by name; {name} makes its own choices")
    where, _, attribute = name.rpartition(":")
    factory = getattr(_module(where), attribute, None)
    if not callable(factory):
        raise ValueError(f"{where} has no function or class {attribute!r} that makes a model")
    count = sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in _parameters(factory))
    with _users(f"{name} fails to make a model"):
        model = factory(tuple(inputs_shape), classes) if count == 2 else factory()
    return _checks.instance(f"what {name} makes", model, nn.Module)


def check_maps(model: nn.Module, inputs: Tensor, classes: int | None = None) -> None:
    """ValueError unless the model maps a batch of inputs to a row each, of `classes` numbers where they are given."""
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        with quietly(inputs.device), in_words(f"the model does not map inputs of shape {tuple(inputs.shape[1:])}"):
            outputs = _checks.instance("what the model gives", model(inputs[:2]), Tensor)
    finally:
        for module, training in modes.items():
            module.training = training
    expected = (len(inputs[:2]),) if classes is None else (len(inputs[:2]), classes)
    if tuple(outputs.shape[: len(expected)]) != expected or (classes is not None and outputs.ndim != 2):
        raise ValueError(
            f"the model gives {tuple(outputs.shape)} for {len(inputs[:2])} samples, and {expected} is needed"
            + ("" if classes is None else f": one row of {classes} logits per sample")
        )


class _Layers:
    """Building blocks under one choice of batch norm, dropout and width."""

    def __init__(self, norm: bool, rate: float, scaled):
        self._norm, self._rate, self._scaled = norm, rate, scaled

    def connected(self, inputs: int, hidden: Sequence[int], classes: int) -> nn.Sequential:
        parts: list[nn.Module] = [nn.Flatten()]
        for size in map(self._scaled, hidden):
            parts += [nn.Linear(inputs, size), *self._after(nn.BatchNorm1d, size)]
            inputs = size
        return nn.Sequential(*parts, nn.Linear(inputs, classes))

    def lenet(self, shape: tuple[int, ...], classes: int) -> nn.Sequential:
        parts: list[nn.Module] = []
        channels, *sides = shape
        for size, pool in ((self._scaled(8), 3), (self._scaled(16), 2)):
            fits = min(sides) >= 5 + pool  # else the size is kept
            parts += [nn.Conv2d(channels, size, 5, padding=0 if fits else 2)]
            sides = [n - 4 if fits else n for n in sides]
            pool = pool if min(sides) >= pool else 1
            parts += [*([nn.MaxPool2d(pool)] if pool > 1 else []), *self._after(nn.BatchNorm2d, size)]
            sides, channels = [n // pool for n in sides], size
        hidden = self._scaled(128)
        parts += [nn.Flatten(), nn.Linear(channels * math.prod(sides), hidden)]
        return nn.Sequential(*parts, *self._after(nn.BatchNorm1d, hidden, drop=False), nn.Linear(hidden, classes))

    def allcnn(self, shape: tuple[int, ...], classes: int) -> nn.Sequential:
        one, two, channels = self._scaled(12), self._scaled(24), shape[0]
        parts: list[nn.Module] = [nn.Dropout(0.4 * self._rate)] if self._rate else []
        for size, stride in ((one, 1), (one, 1), (one, 2), (two, 1), (two, 1), (two, 2), (two, 1), (two, 1)):
            parts += [nn.Conv2d(channels, size, 3, stride, padding=1), *self._after(nn.BatchNorm2d, size, stride == 2)]
            channels = size
        parts += [nn.Conv2d(channels, classes, 1), *self._after(nn.BatchNorm2d, classes, drop=False)]
        return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def vgg(self, shape: tuple[int, ...], classes: int) -> nn.Sequential:
        parts: list[nn.Module] = []
        channels, *sides = shape
        for size in _VGG:
            if isinstance(size, str):
                if min(sides) >= 2:
                    parts.append(nn.MaxPool2d(2))
                    sides = [n // 2 for n in sides]
                continue
            size = self._scaled(size)
            parts += [nn.Conv2d(channels, size, 3, padding=1), *self._after(nn.BatchNorm2d, size)]
            channels = size
        return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))

    def resnet(self, shape: tuple[int, ...], classes: int, blocks: int) -> nn.Sequential:
        channels = self._scaled(16)
        parts: list[nn.Module] = [nn.Conv2d(shape[0], channels, 3, padding=1, bias=not self._norm)]
        parts += self._after(nn.BatchNorm2d, channels, drop=False)
        for stage, size in enumerate(map(self._scaled, (16, 32, 64))):
            for block in range(blocks):
                parts.append(Block(channels, size, 2 if stage and not block else 1, self._norm, self._rate))
                channels = size
        return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))

    def _after(self, norm: type[nn.Module], size: int, drop: bool = True) -> list[nn.Module]:
        """What follows a hidden layer: batch norm, ReLU, dropout."""
        parts = [norm(size)] if self._norm else []
        return [*parts, nn.ReLU(), *([nn.Dropout(self._rate)] if drop and self._rate else [])]


class Block(nn.Module):
    """Two 3 × 3 convolutions beside a shortcut that takes every second pixel and adds empty channels."""

    def __init__(self, channels: int, size: int, stride: int, norm: bool, rate: float):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, size, 3, stride, padding=1, bias=not norm),
            *([nn.BatchNorm2d(size)] if norm else []),
            nn.ReLU(),
            *([nn.Dropout(rate)] if rate else []),
            nn.Conv2d(size, size, 3, padding=1, bias=not norm),
            *([nn.BatchNorm2d(size)] if norm else []),
        )
        self.stride, self.added = stride, size - channels

    def forward(self, x: Tensor) -> Tensor:
        """ReLU(body(x) + shortcut(x))."""
        short = x[..., :: self.stride, :: self.stride] if self.stride > 1 else x
        if self.added:
            short = nn.functional.pad(short, (0, 0, 0, 0, self.added // 2, self.added - self.added // 2))
        return torch.relu(self.body(x) + short)


def _module(where: str):
    if where.endswith(".py"):
        if not Path(where).is_file():
            raise ValueError(f"there is no file {where}")
        # A name that hides no other module, and is known while it runs: dataclasses look their module up.
        spec = importlib.util.spec_from_file_location(f"_network_of_{Path(where).stem}", where)
        assert spec is not None and spec.loader is not None  # the name ends in .py
        module = importlib.util.module_from_spec(spec)
        with _users(f"{where} cannot be loaded"):
            sys.modules[spec.name] = module
            spec.loader.exec_module(module)
        return module
    try:
        return importlib.import_module(where)
    except ImportError as fault:
        raise ValueError(f"the module {where!r} cannot be imported from {os.getcwd()}: {fault}") from None
    except Exception as fault:
        raise ValueError(f"the module {where!r} cannot be loaded: {_told(fault)}") from fault


@contextmanager
def _users(what: str) -> Iterator[None]:
    """Whatever code of the user's raises as a ValueError that opens with ``what``; the fault itself is its cause."""
    try:
        yield
    except Exception as fault:
        raise ValueError(f"{what}: {_told(fault)}") from fault


def _told(fault: Exception) -> str:
    return f"{type(fault).__name__}: {' '.join(str(fault).split())}"


def _parameters(factory) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(factory).parameters.values())
    except (TypeError, ValueError):  # built in
        return []
