"""SGD and SVAG side by side: does the SDE of that covariance describe the run."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from ._memory import require_memory
from ._recursion import Recursion
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

    def value(weights, x, y):
        return loss(functional_call(copied, constants | weights, (x,)), y)

    losses, distances = [], []
    total = (1 + order) * steps * -(-replicas // together)
    done = 0
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for position, number in enumerate((1, order)):  # l of SGD itself, and of SVAG
            recursion = Recursion.checked(
                len(inputs), batch_size, "with_replacement", 0.0, False, weight_decay, number, 2 * seed + position
            )
            slope = vmap(grad(_joined(value, recursion.halves)), randomness="different")
            rate, ends, gone = learning_rate / number, [], []
            for first in range(0, replicas, together):
                some = min(together, replicas - first)
                weights = {n: p.expand(some, *p.shape).clone() for n, p in start.items()}
                copied.train()
                with in_words("replicas of the model cannot be trained together by torch.func.vmap"):
                    for chosen in _picks(recursion, number * steps, range(first, first + some)):
                        chosen = chosen.to(device)
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
        coords={"kind": ["sgd", "svag"], "replica": np.arange(replicas)},
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


def _joined(value: Callable, halves: tuple[float, ...]) -> Callable:
    """The loss of one step from its batches."""

    def joined(weights, x, y):
        return sum(half * value(weights, x[i], y[i]) for i, half in enumerate(halves))

    return joined


def _picks(recursion: Recursion, steps: int, replicas: range) -> Iterator[Tensor]:
    """(replicas, batches, b) sample numbers of each step, every replica its own stream, drawn some steps at a time."""
    for first in range(0, steps, size := recursion.at_once(len(replicas))):
        count = min(size, steps - first)
        yield from torch.from_numpy(np.stack([recursion.picks(first, count, r) for r in replicas], axis=1))


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
