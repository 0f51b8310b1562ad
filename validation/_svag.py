"""SGD and SVAG side by side: does the SDE of that covariance describe the run."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from sde_sgd import _checks

from ._memory import require_memory
from ._numbers import LARGEST_SEED, from_zero
from ._recursion import Recursion
from ._sample_losses import _forward_bytes
from ._samples import in_words, quietly
from ._training_mode import forget_running_statistics

Array = NDArray[np.float64]
_BYTES = 2**28  # of weights, gradients and what a forward pass keeps, of the replicas taken together
_COPIES = 6  # of the weights of a replica: themselves, velocity, gradients, and what is made on the way
_ALIKE = 0.1  # of loss or distance, a difference of SGD and SVAG that is small


def svag_test(
    model: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    inputs: Tensor,
    targets: Tensor,
    *,
    learning_rate: float,
    batch_size: int,
    sampling: str = "with_replacement",
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    order: int = 4,
    steps: int = 200,
    replicas: int = 64,
    seed: int = 0,
    progress: Callable[[float, float], object] = lambda done, total: None,
) -> xr.Dataset:
    r"""`steps` steps of SGD against l·`steps` of SVAG, l = `order`, from the same start: `replicas` runs of each.

    A step of SVAG has η/l(1−μ) and the loss ½(1+√(2l−1)) f_{B₁} + ½(1−√(2l−1)) f_{B₂} of two batches: mean ∇f,
    covariance l C of the batch gradient's C, so that over the same time drift and noise are those of SGD, and the limit
    l → ∞ is the SDE dx = −∇f dt + √(ηC/(1−μ)) dW, t = ηn/(1−μ). Where SGD and SVAG differ, that SDE does not describe
    SGD.

    Parameters
    ----------
    loss : the mean over a batch.   inputs, targets : (N, …), on the device and of the float type of the model.
    sampling, momentum : of the SGD. SVAG has no momentum, and for reshuffling C = D/b of batches with replacement,
        reshuffling having no SDE.
    order : l ≥ 2; 1 is SGD itself (only B₁ counts).   replicas : at least 2.

    Returns
    -------
    Dataset over ``kind`` and ``replica``: ``loss`` on all samples at the end, without decay, ``distance`` |w − w₀|;
    ``start_loss`` among the attrs. Kinds are "sgd", the run asked about, "svag", and, with momentum or reshuffling,
    "plain": SGD without momentum at η/(1−μ) with the batches of SVAG, which parts what the step does from what momentum
    and reshuffling do. Batch norm uses batch statistics throughout, in the loss of all samples too; dropout is active
    in the steps only. Runs that diverged have NaN or infinity.

    Raises ValueError for arguments out of range, batches beyond the data, a model that fails under `torch.func.vmap`,
    and what does not fit in memory. Li, Malladi & Arora (2021).
    """
    eta, mu = _checks.positive("learning_rate", learning_rate), from_zero("momentum", momentum, below=1.0)
    _checks.whole("order", order, 2)
    _checks.whole("steps", steps, 1)
    _checks.whole("replicas", replicas, 2)
    _checks.whole("seed", seed, 0, LARGEST_SEED // 4)
    independent = "with_replacement" if sampling == "reshuffling" else sampling
    arms = {"sgd": (sampling, mu, 1), "svag": (independent, 0.0, order)}
    if mu or sampling == "reshuffling":
        arms["plain"] = (independent, 0.0, 1)
    recursions = {
        kind: Recursion.checked(len(inputs), batch_size, mode, own, False, weight_decay, number, 4 * seed + position)
        for position, (kind, (mode, own, number)) in enumerate(arms.items())
    }
    runs = _Runs(model, loss, inputs, targets, batch_size, replicas)
    total, done = sum(each.svag for each in recursions.values()) * steps * -(-replicas // runs.together), 0

    def step() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    ends = []
    with torch.random.fork_rng(devices=[inputs.device] if inputs.device.type == "cuda" else []):
        torch.manual_seed(seed)
        for recursion in recursions.values():
            rate = eta if recursion.momentum else eta / (1 - mu)
            ends.append(runs.ends(recursion, rate / recursion.svag, steps * recursion.svag, step))
        start_loss = runs.start_loss()
    return xr.Dataset(
        {
            "loss": (("kind", "replica"), [end for end, _ in ends]),
            "distance": (("kind", "replica"), [away for _, away in ends]),
        },
        coords={"kind": list(arms), "replica": np.arange(replicas)},
        attrs={
            "l": order, "steps": steps, "learning_rate": eta, "batch_size": batch_size, "sampling": sampling,
            "momentum": mu, "weight_decay": weight_decay, "seed": seed, "start_loss": start_loss,
        },
    )  # fmt: skip


def compared(found: xr.Dataset) -> dict[str, float]:
    """How far the means of SGD are from those of SVAG, for loss and distance: `svag_test`'s result in numbers.

    Of each, ``loss_sgd``, ``loss_svag``, their standard errors ``loss_sgd_error`` …, ``loss_z``, the gap in standard
    errors of the difference, ``loss_gap``, the gap as a share, and ``loss_resolution``, three standard errors as a
    share; the like of ``distance``, and where it was run of the kind "plain": ``plain_loss_gap`` …. The share is of
    the mean distance of SVAG, or of its loss or the change of that since the start, whichever is larger.
    """
    numbers: dict[str, float] = {}
    reached = float(found["loss"].sel(kind="svag").mean())
    scales = {"loss": max(abs(reached), abs(reached - found.attrs["start_loss"]))}
    scales["distance"] = float(found["distance"].sel(kind="svag").mean())
    for name, scale in scales.items():
        means = found[name].mean("replica")
        errors = found[name].std("replica", ddof=1) / np.sqrt(found.sizes["replica"])
        for kind in found["kind"].values:
            numbers |= {f"{name}_{kind}": float(means.sel(kind=kind))}
            numbers |= {f"{name}_{kind}_error": float(errors.sel(kind=kind))}
            if kind == "svag":
                continue
            error = float(np.hypot(errors.sel(kind=kind), errors.sel(kind="svag")))
            gap = float(means.sel(kind=kind) - means.sel(kind="svag"))
            first = f"{name}" if kind == "sgd" else f"{kind}_{name}"
            numbers |= {
                f"{first}_z": gap / error if error > 0 else float(np.sign(gap)) * np.inf if gap else 0.0,
                f"{first}_gap": gap / scale if scale > 0 else 0.0,
                f"{first}_resolution": 3 * error / scale if scale > 0 else 0.0,
            }
    return numbers


def alike(numbers: Mapping[str, Any] | xr.Dataset, kind: str = "") -> bool | None:
    """Whether SGD ends as SVAG does: False, True, or None where the replicas cannot tell.

    False where a mean differs by a tenth or more and by three standard errors: by chance in 0.6 % of the runs that do
    not differ. True where both gaps with two standard errors added are below a tenth: by chance in 2.3 % of those whose
    gap is a tenth. Both are of normal means, for some tens of replicas; of 4 they are 5 % and 5 %.
    """
    names = [f"{kind}{name}" for name in ("loss", "distance")]
    gaps, zs, errors = (
        [abs(float(numbers[f"{name}_{what}"])) for name in names] for what in ("gap", "z", "resolution")
    )
    if any(z >= 3 and gap >= _ALIKE for gap, z in zip(gaps, zs)):
        return False
    return True if all(gap + 2 * error / 3 <= _ALIKE for gap, error in zip(gaps, errors)) else None


class _Runs:
    """Replicas of one network from its present weights, as many side by side as `_BYTES` hold."""

    def __init__(self, model: nn.Module, loss: Callable, inputs: Tensor, targets: Tensor, batch: int, replicas: int):
        self._model, self._inputs, self._targets = copy.deepcopy(model), inputs, targets
        forget_running_statistics(self._model)
        self._model.train()
        every = {name: p.detach().clone() for name, p in self._model.named_parameters()}
        names = [name for name, p in self._model.named_parameters() if p.requires_grad]
        self._start = {name: every.pop(name) for name in names}
        constants = every | {name: b.detach().clone() for name, b in self._model.named_buffers()}
        size = sum(p.numel() for p in self._start.values())
        needed = _COPIES * size * next(iter(self._start.values())).element_size()
        require_memory(
            needed, f"one replica of {size} weights with its gradients", "use a smaller model", inputs.device
        )
        with quietly(inputs.device), in_words("the model cannot be evaluated in training mode"):
            needed += 2 * batch * _forward_bytes(self._model, inputs)  # two batches of SVAG
        require_memory(needed, f"one replica with batches of {batch}", "use smaller batches", inputs.device)
        self.replicas, self.together = replicas, max(1, min(replicas, _BYTES // needed))

        def value(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            return loss(functional_call(self._model, constants | weights, (x,)), y)

        self._value = value

    def ends(self, recursion: Recursion, rate: float, steps: int, step: Callable[[], None]) -> tuple[Array, Array]:
        """Loss on all samples and distance from the start of each replica after `steps` of w ← w − rate·v."""
        slope = vmap(grad(_joined(self._value, recursion.halves)), randomness="different")
        decay, mu = recursion.weight_decay, recursion.momentum
        found = []
        for first in range(0, self.replicas, self.together):
            some = min(self.together, self.replicas - first)
            weights = {name: p.expand(some, *p.shape).clone() for name, p in self._start.items()}
            velocity = {name: torch.zeros_like(w) for name, w in weights.items()} if mu else {}
            self._model.train()
            with in_words("replicas of the model cannot be trained together by torch.func.vmap"):
                for chosen in _picks(recursion, steps, range(first, first + some)):
                    chosen = chosen.to(self._inputs.device)
                    slopes = slope(weights, self._inputs[chosen], self._targets[chosen])
                    for name, w in weights.items():
                        pull = slopes[name] + decay * w
                        w.sub_(rate * (velocity[name].mul_(mu).add_(pull) if mu else pull))
                    step()
            found.append(self._measured(weights))
        losses, away = zip(*found)
        return np.concatenate(losses), np.concatenate(away)

    def start_loss(self) -> float:
        """On all samples."""
        return float(self._measured({name: p[None] for name, p in self._start.items()})[0][0])

    def _measured(self, weights: dict[str, Tensor]) -> tuple[Array, Array]:
        for module in self._model.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.eval()
        losses, distances = [], []
        with torch.no_grad(), in_words("the model cannot be evaluated on all samples at once"):
            for k in range(len(next(iter(weights.values())))):
                one = {name: w[k] for name, w in weights.items()}
                losses.append(float(self._value(one, self._inputs, self._targets)))
                square = sum(float((w - self._start[name]).double().square().sum()) for name, w in one.items())
                distances.append(float(np.sqrt(square)))
        return np.array(losses), np.array(distances)


def _joined(value: Callable, halves: tuple[float, ...]) -> Callable:
    """The loss of one step from its batches."""

    def joined(weights, x, y):
        return sum(half * value(weights, x[i], y[i]) for i, half in enumerate(halves))

    return joined


def _picks(recursion: Recursion, steps: int, replicas: range) -> Iterator[Tensor]:
    """(replicas, batches, b) sample numbers of each step, every replica its own stream, drawn some steps at a time."""
    for first in range(0, steps, size := recursion.at_once(len(replicas))):
        count = min(size, steps - first)
        drawn = torch.from_numpy(np.stack([recursion.picks(first, count, r) for r in replicas], axis=1))
        for step in range(count):
            yield drawn[step, ..., : recursion.size_of(first + step)]
