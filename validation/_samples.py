"""One differentiable loss per sample: what per-sample gradients assume, checked before any is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

_PROBE = 8  # samples a model is tried on
_CLASSES = 64  # classes a criterion is tried on
_REMEDY = (
    "Its gradient alone is not defined: give batch norm running statistics (track_running_stats=True), "
    "or use group or layer norm"
)


def as_tensors(dataset, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(inputs, targets) of a pair of tensors or a ``TensorDataset`` of two, on ``device``, checked."""
    if isinstance(dataset, torch.utils.data.TensorDataset):
        dataset = dataset.tensors
    if not (isinstance(dataset, tuple | list) and len(dataset) == 2 and all(map(torch.is_tensor, dataset))):
        raise ValueError(
            f"dataset must be a pair (inputs, targets) of tensors or a TensorDataset of two; got "
            f"{type(dataset).__name__}: collect other datasets into two tensors first"
        )
    inputs, targets = (tensor.detach().to(device) for tensor in dataset)
    if inputs.ndim == 0 or targets.ndim == 0 or len(inputs) != len(targets):
        raise ValueError(
            f"inputs and targets must have one row per sample; got shapes {tuple(inputs.shape)} and "
            f"{tuple(targets.shape)}"
        )
    if len(inputs) < 2:
        raise ValueError(f"{len(inputs)} samples have no covariance: at least 2 are needed")
    for name, tensor in (("inputs", inputs), ("targets", targets)):
        require_finite(tensor.flatten(1) if tensor.ndim > 1 else tensor[:, None], f"{name} of the dataset")
    if inputs.is_floating_point() and inputs.dtype != dtype:
        raise ValueError(
            f"inputs are {inputs.dtype} and the parameters {dtype}: convert one, e.g. inputs.to({dtype}) or "
            "model.double(), so that the precision of the gradients is your choice"
        )
    return inputs, targets


def require_finite(rows: Tensor, what: str, first_sample: int = 0) -> None:
    """Raise ValueError naming the first sample (row) of ``rows`` that holds a NaN or an infinity."""
    if rows.is_floating_point() and not torch.isfinite(rows.sum()):  # one pass; the search only on failure
        bad = ~torch.isfinite(rows).all(dim=1)
        if bad.any():
            sample = first_sample + int(bad.nonzero()[0, 0])
            raise ValueError(
                f"{what}: not finite at sample {sample} ({int(bad.sum())} such among these {len(rows)}): "
                "remove the sample, or look for what makes it so in the model, the loss or the training before"
            )


@contextmanager
def in_words(what: str) -> Iterator[None]:
    """What torch, a model or a criterion raises as a ValueError that opens with ``what``."""
    try:
        yield
    except (RuntimeError, TypeError, LookupError, AttributeError, AssertionError) as fault:
        reason = " ".join(str(fault).split()) or type(fault).__name__
        raise ValueError(f"{what}: {reason}") from fault


def one_number(value) -> Tensor:
    """What a criterion gives on a batch of one, if it is a tensor with one number."""
    if not torch.is_tensor(value) or value.numel() != 1:
        got = f"shape {tuple(value.shape)}" if torch.is_tensor(value) else type(value).__name__
        raise ValueError(
            f"loss gives {got} on a batch of one: it must give one number a sample, as a tensor, "
            'e.g. reduction="mean", or a sum over the outputs'
        )
    return value


def check_model(model: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs of the model on a few samples, together and one by one, for `check_apart`.

    ValueError for a model that cannot evaluate them, gives no tensor, or gives another one the second time.
    """
    inputs = inputs[:_PROBE]
    with quietly(inputs.device):
        with in_words(f"the model fails on inputs of shape {tuple(inputs.shape)} and type {inputs.dtype}"):
            first, again = model(inputs), model(inputs)
        require_rows(first, len(inputs))
        require_finite(first.reshape(len(first), -1), "model output")
        if not torch.equal(first, again):
            raise ValueError(
                "two evaluations of the model on the same samples differ: the gradient noise would mix the "
                "sampling noise with the model's own. Remove what draws random numbers in eval mode, e.g. "
                "functional dropout with training=True, or what remembers earlier calls"
            )
        try:
            with in_words("the model fails on a batch of one"):
                alone = torch.cat([model(row[None]) for row in inputs])
        except ValueError as fault:  # batch norm without running statistics says so itself
            raise ValueError(f"the model cannot evaluate a batch of one ({fault}). {_REMEDY}") from None
    return first, alone


def require_rows(outputs, count: int) -> None:
    """Raise ValueError unless a model gives a tensor of floating numbers, a row for each of ``count`` samples."""
    if not torch.is_tensor(outputs) or outputs.ndim == 0 or len(outputs) != count:
        got = f"shape {tuple(outputs.shape)}" if torch.is_tensor(outputs) else type(outputs).__name__
        raise ValueError(f"the model gives {got} for {count} samples: it must give a tensor of a row each")
    if not (outputs.is_floating_point() or outputs.is_complex()):
        raise ValueError(f"the model gives {outputs.dtype}, which has no gradient: it must give floating numbers")


def check_apart(first: Tensor, alone: Tensor) -> None:
    """Raise ValueError where a sample's output depends on the rest of the batch."""
    # TF32 convolutions differ by 1e-3 between batch shapes; a layer that mixes samples differs by O(1).
    tolerance = torch.finfo(first.dtype).eps ** 0.25 * float(first.abs().max().clamp_min(1e-30))
    if first.shape != alone.shape or float((first - alone).abs().max()) > tolerance:
        raise ValueError(f"a sample's output depends on the other samples of its batch even in eval mode. {_REMEDY}")


def check_loss(model: nn.Module, loss: Callable, inputs: Tensor, targets: Tensor) -> None:
    """Raise ValueError for a criterion that is random, or that joins its samples other than by a mean or a sum."""
    rows = telling_rows(targets)
    count, shown = len(rows), ", ".join(map(str, rows[:_PROBE])) + (", …" if len(rows) > _PROBE else "")
    with quietly(inputs.device), in_words(f"the loss fails on outputs and targets of the samples {shown}"):
        outputs, labels = model(inputs[rows]), targets[rows]
        each = [one_number(loss(outputs[k : k + 1], labels[k : k + 1])).reshape(()) for k in range(count)]
        alone = torch.stack(each).double()
        together, again = (torch.as_tensor(loss(outputs, labels)).double() for _ in range(2))
    bad = ~torch.isfinite(alone)
    if bad.any():
        k = int(bad.nonzero()[0, 0])
        raise ValueError(f"the loss of sample {rows[k]} is {float(alone[k])}: remove the sample or change the loss")
    if not torch.equal(together, again):
        raise ValueError(
            "two evaluations of the loss on the same outputs differ: a random criterion, or one that averages over its "
            "earlier calls, has no gradient of a sample"
        )
    allowed = [alone] if together.numel() == count else [alone.mean(), alone.sum()]
    tolerance = float(torch.finfo(outputs.dtype).eps ** 0.75 * alone.abs().sum())
    values = together.reshape(allowed[0].shape) if together.numel() in (1, count) else None
    if values is None or all(float((values - value).abs().max()) > tolerance for value in allowed):
        got = f"{float(together):.6g}" if together.numel() == 1 else f"of shape {tuple(together.shape)}"
        raise ValueError(
            f"the loss of {count} samples together is {got}, while the mean of their losses one by one is "
            f"{float(alone.mean()):.6g}: gradients of single samples miss what the criterion does across a batch, "
            "such as dividing by the sum of class weights or by how many positions are not ignored. Give a criterion "
            'that is a mean, a sum or one number a sample, e.g. CrossEntropyLoss(weight=w, reduction="sum")'
        )


def telling_rows(targets: Tensor) -> list[int]:
    """A few samples on which a criterion shows what it does: one of each class, or the first and unlike ones.

    Of sequences of classes the first that holds each class, so that one that is ignored (padding) is met.
    """
    if not targets.is_floating_point() and targets.numel():
        _, places = np.unique(targets.cpu().numpy(), return_index=True)
        places = places[np.linspace(0, len(places) - 1, min(len(places), _CLASSES)).astype(int)]
        return sorted({0, 1} | {int(place) // targets[0].numel() for place in places})
    unlike = (targets != targets[0]).flatten(1).any(dim=1) if targets.ndim > 1 else targets != targets[0]
    return sorted({*range(min(len(targets), _PROBE)), int(unlike.int().argmax())})


@contextmanager
def quietly(device: torch.device) -> Iterator[None]:
    """No gradients, and the caller's random stream as it was: a model that draws must not shift it by being probed."""
    with torch.no_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
