"""What a model must be like in training mode before its gradient noise can be told from its own randomness."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sde_sgd import _checks

from . import _samples
from ._numbers import LARGEST_SEED

_PROBE = 8


def draw_batches(
    statistics: str, samples: int, *, batch_size: int | None = None, batches: int | None = None, seed: int | None = None
) -> Tensor | None:
    """(M, b) sample numbers of mini-batches drawn with replacement; None unless ``statistics="minibatch"``."""
    given = {"batch_size": batch_size, "batches": batches, "seed": seed}
    if statistics != "minibatch":
        for name, value in given.items():
            if value is not None:
                raise ValueError(
                    f'{name}={value!r} belongs to statistics="minibatch", not {statistics!r}: leave it out'
                )
        return None
    if batch_size is None:
        raise ValueError('statistics="minibatch" depends on the batch size: give batch_size')
    size = _checks.whole("batch_size", batch_size, 1, samples, f"there are {samples} samples")
    number = _checks.whole("batches", 1000 if batches is None else batches, 2)
    seed = _checks.whole("seed", 0 if seed is None else seed, 0, LARGEST_SEED)
    return torch.randint(samples, (number, size), generator=torch.Generator().manual_seed(seed))


def forget_running_statistics(model: nn.Module) -> None:
    """Make normalisation layers of a copy use, and only use, the statistics of the batch they see.

    In training mode their outputs are the same as before; what goes is the record of running averages. A layer that
    the model keeps in eval mode when it is told to train (frozen batch norm) stays as it is.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.train()
    found = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._NormBase) and m.training]
    for module, training in modes:
        module.training = training
    for module in found:
        module.track_running_stats = False
        module.running_mean = module.running_var = module.num_batches_tracked = None


def check_draws_nothing(model: nn.Module, inputs: Tensor) -> None:
    """Refuse a model that draws a random number in its forward pass, be its outputs equal by chance or not.

    Two equal outputs do not prove a model deterministic: an augmentation that acts on one sample in a hundred
    passes most such trials. That the streams of torch, NumPy and ``random`` have not moved does.
    """
    devices = [inputs.device] if inputs.device.type == "cuda" else []
    others = np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            before = _streams(inputs.device)
            try:
                model(inputs[:_PROBE])
            except Exception:  # told in words by the check that follows
                return
            moved = [n for n, state in _streams(inputs.device).items() if not np.array_equal(state, before[n])]
    finally:
        np.random.set_state(others[0])  # noqa: NPY002
        random.setstate(others[1])
    if moved:
        layers = [name for name, m in model.named_modules() if isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0]
        shown = f", such as its dropout layers {', '.join(map(repr, layers))}" if model.training and layers else ""
        mode = "training" if model.training else "eval"
        raise ValueError(
            f"two evaluations of the model differ in general: in {mode} mode its forward pass draws random numbers "
            f"({', '.join(moved)}), and the gradient noise would mix the sampling noise with the model's own. Remove "
            f"what draws{shown}, or functional dropout with training=True, or augmentation inside the model"
        )


def check_model(model: nn.Module, inputs: Tensor) -> Tensor:
    """Outputs on a few samples in training mode; ValueError for a model that remembers or changes with each call."""
    probe = inputs[:_PROBE]
    before = {name: value.clone() for name, value in model.named_buffers()}
    what = f"the model fails in training mode on inputs of shape {tuple(probe.shape)}"
    with _samples.quietly(inputs.device), _samples.in_words(what):
        first, again = model(probe), model(probe)
    _samples.require_rows(first, len(probe))
    _samples.require_finite(first.reshape(len(first), -1), "model output in training mode")
    changed = [name for name, value in model.named_buffers() if not torch.equal(value, before[name])]
    if changed or not torch.equal(first, again):
        what = f" (it changes its buffers {', '.join(map(repr, changed))})" if changed else ""
        raise ValueError(
            f"two evaluations of the model on the same samples differ in training mode, or would later{what}: only "
            'batch and instance norm may keep running averages. Use statistics="eval", or remove what remembers'
        )
    return first


def _streams(device: torch.device) -> dict[str, np.ndarray]:
    kind: Any = np.random.get_state()  # noqa: NPY002
    found = {
        "torch": torch.random.get_rng_state().numpy(),
        "NumPy": np.append(np.asarray(kind[1]), kind[2]),
        "random": np.asarray([*random.getstate()[1]]),
    }
    if device.type == "cuda":
        found["CUDA"] = torch.cuda.get_rng_state(device).numpy()
    return found
