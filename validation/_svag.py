"""SGD and SVAG side by side: does the SDE of that covariance describe the run."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

import sde_sgd as sde

from ._memory import require_memory
from ._samples import in_words
from ._training_mode import forget_running_statistics

_BYTES = 2**28  # of weights and gradients of the replicas taken together


def svag_test(
    model: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    inputs: Tensor,
    targets: Tensor,
    *,
    learning_rate: float,
    batch_size: int,
    weight_decay: float = 0.0,
    order: int = 4,
    steps: int = 200,
    replicas: int = 64,
    seed: int = 0,
    progress: Callable[[float, float], object] = lambda done, total: None,
) -> xr.Dataset:
    r"""`steps` steps of SGD against l·`steps` of SVAG, l = `order`, from the same start: `replicas` runs of each.

    A step of SVAG has η/l and the loss ½(1+√(2l−1)) f_{B₁} + ½(1−√(2l−1)) f_{B₂} of two batches: mean ∇f, covariance
    l D/b, so that over the same time drift and noise are those of SGD, and the limit l → ∞ is the SDE
    dx = −∇f dt + √(ηD/b) dW. Where SGD and SVAG differ, the SDE does not describe SGD.

    Returns
    -------
    Dataset over ``kind`` (sgd, svag) and ``replica``: ``loss`` on all samples at the end, without decay, ``distance``
    |w − w₀|; ``start_loss``. Batches are drawn with replacement. Batch norm uses batch statistics throughout,
    in the loss of all samples too; dropout is active in the steps only.

    Li, Malladi & Arora (2021). l = 1 is SGD itself (only B₁ counts). Not for momentum.
    """
    copied = copy.deepcopy(model)
    forget_running_statistics(copied)
    names = [name for name, p in copied.named_parameters() if p.requires_grad]
    every = {name: p.detach().clone() for name, p in copied.named_parameters()}
    start = {name: every.pop(name) for name in names}
    constants = every | {name: b.detach().clone() for name, b in copied.named_buffers()}
    size = sum(p.numel() for p in start.values())
    element = next(iter(start.values())).element_size()
    device = inputs.device
    require_memory(
        6 * element * size, f"one replica of {size} weights with its gradients", "use a smaller model", device
    )
    together = max(1, min(replicas, _BYTES // (6 * element * size)))
    count, root = len(inputs), float(np.sqrt(2 * order - 1))
    pair = torch.tensor([(1 + root) / 2, (1 - root) / 2], dtype=inputs.dtype if inputs.is_floating_point() else None)

    def value(weights, x, y):
        return loss(functional_call(copied, constants | weights, (x,)), y)

    def plain(weights, x, y):
        return value(weights, x[0], y[0])

    def doubled(weights, x, y):
        return pair[0].to(device) * value(weights, x[0], y[0]) + pair[1].to(device) * value(weights, x[1], y[1])

    kinds = {"sgd": (plain, 1, steps, learning_rate), "svag": (doubled, 2, order * steps, learning_rate / order)}
    losses, distances = [], []
    total = sum(number for _, _, number, _ in kinds.values()) * -(-replicas // together)
    done = 0
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for position, (one, batches, number, rate) in enumerate(kinds.values()):
            ends, gone = [], []
            slope = vmap(grad(one), randomness="different")
            for first in range(0, replicas, together):
                some = min(together, replicas - first)
                weights = {n: p.expand(some, *p.shape).clone() for n, p in start.items()}
                picks = _picks(
                    count,
                    batch_size,
                    number,
                    range(first, first + some),
                    order if batches > 1 else 1,
                    2 * seed + position,
                )
                copied.train()
                with in_words("replicas of the model cannot be trained together by torch.func.vmap"):
                    for step in range(number):
                        chosen = picks[:, step].to(device).reshape(some, batches, batch_size)
                        slopes = slope(weights, inputs[chosen], targets[chosen])
                        for name, w in weights.items():
                            w.sub_(rate * (slopes[name] + weight_decay * w))
                        done += 1
                        progress(done, total)
                final, away = _ends(copied, value, weights, start, inputs, targets)
                ends.append(final)
                gone.append(away)
            losses.append(np.concatenate(ends))
            distances.append(np.concatenate(gone))
        first_loss, _ = _ends(copied, value, {n: p[None] for n, p in start.items()}, start, inputs, targets)
    return xr.Dataset(
        {"loss": (("kind", "replica"), losses), "distance": (("kind", "replica"), distances)},
        coords={"kind": list(kinds), "replica": np.arange(replicas)},
        attrs={
            "l": order, "steps": steps, "learning_rate": learning_rate, "batch_size": batch_size,
            "weight_decay": weight_decay, "seed": seed, "start_loss": float(first_loss[0]),
        },
    )  # fmt: skip


def compared(found: xr.Dataset) -> dict[str, float]:
    """Means of SGD and SVAG, their gap in standard errors and as a share, for loss and distance.

    The share is of the distance, or of the loss or its change since the start, whichever is larger.
    """
    numbers: dict[str, float] = {}
    reached = float(found["loss"].sel(kind="svag").mean())
    change = {"loss": max(abs(reached), abs(reached - found.attrs["start_loss"]))}
    change["distance"] = float(found["distance"].sel(kind="svag").mean())
    for name in ("loss", "distance"):
        sgd, svag = (found[name].sel(kind=kind).values for kind in ("sgd", "svag"))
        error = float(np.hypot(sgd.std(ddof=1), svag.std(ddof=1)) / np.sqrt(len(sgd)))
        gap = float(sgd.mean() - svag.mean())
        numbers |= {
            f"{name}_sgd": float(sgd.mean()),
            f"{name}_svag": float(svag.mean()),
            f"{name}_gap_error": error,
            f"{name}_z": gap / error if error > 0 else 0.0,
            f"{name}_gap": gap / change[name] if change[name] > 0 else 0.0,
            f"{name}_resolution": 3 * error / change[name] if change[name] > 0 else 0.0,
        }
    return numbers


def _picks(count: int, batch_size: int, steps: int, replicas: range, svag: int, seed: int) -> Tensor:
    """(replicas, steps, …) sample numbers, each replica its own stream."""
    options: dict[str, Any] = dict(batch_size=batch_size, steps=steps, seed=seed, svag=svag)
    drawn = [sde.sample_indices(count, replica=replica, **options) for replica in replicas]
    return torch.from_numpy(np.stack(drawn).astype(np.int64))


def _ends(
    model: nn.Module, value: Callable, weights: dict, start: dict, inputs: Tensor, targets: Tensor
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Loss on all samples and distance from the start, of each replica."""
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()
    replicas = len(next(iter(weights.values())))
    losses, distances = [], []
    with torch.no_grad():
        for k in range(replicas):
            one = {name: w[k] for name, w in weights.items()}
            losses.append(float(value(one, inputs, targets)))
            square = sum(float((w - start[name]).double().square().sum()) for name, w in one.items())
            distances.append(float(np.sqrt(square)))
    return np.array(losses), np.array(distances)
