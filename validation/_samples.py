"""One differentiable loss per sample: what per-sample gradients assume, checked before any is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.func import functional_call

Parameters = dict[str, Tensor]

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
                "remove the sample, or lower the learning rate that led to these weights"
            )


def one_sample_loss(model: nn.Module, loss: Callable, buffers: Parameters) -> Callable:
    """f_k(parameters, input, target): the criterion on a batch of one, as a scalar."""

    def sample_loss(parameters: Parameters, sample: Tensor, target: Tensor) -> Tensor:
        output = functional_call(model, (parameters, buffers), (sample[None],))
        value = loss(output, target[None])
        if value.numel() != 1:
            raise ValueError(
                f"loss gives shape {tuple(value.shape)} on a batch of one: it must give one number a sample, "
                'e.g. reduction="mean", or a sum over the outputs'
            )
        return value.reshape(())

    return sample_loss


def check_model(model: nn.Module, inputs: Tensor, probe: int = 8) -> None:
    """Raise ValueError for a model whose output is random, or depends on the rest of the batch."""
    inputs = inputs[:probe]
    devices: Iterable[torch.device] = [inputs.device] if inputs.device.type == "cuda" else []
    # A model that draws random numbers must not shift the caller's stream by being looked at.
    with torch.no_grad(), torch.random.fork_rng(devices=devices):
        first, again = model(inputs), model(inputs)
        try:
            alone = torch.cat([model(row[None]) for row in inputs])
        except ValueError as fault:  # batch norm without running statistics says so itself
            raise ValueError(f"the model cannot evaluate a batch of one ({fault}). {_REMEDY}") from None
    require_finite(first.reshape(len(first), -1), "model output")
    if not torch.equal(first, again):
        raise ValueError(
            "two evaluations of the model on the same samples differ: the gradient noise would mix the "
            "sampling noise with the model's own. Remove what draws random numbers in eval mode, e.g. "
            "functional dropout with training=True"
        )
    # TF32 convolutions differ by 1e-3 between batch shapes; a layer that mixes samples differs by O(1).
    tolerance = torch.finfo(first.dtype).eps ** 0.25 * float(first.abs().max().clamp_min(1e-30))
    if first.shape != alone.shape or float((first - alone).abs().max()) > tolerance:
        raise ValueError(f"a sample's output depends on the other samples of its batch even in eval mode. {_REMEDY}")
