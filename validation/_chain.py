"""Gram matrix of per-sample gradients from what a layer is given and what is passed back to it.

For y = W a + β the gradient of f_k is δ_k a_kᵀ and δ_k, so that inner products need no gradient at all:
K_kl = (a_k·a_l + 1)(δ_k·δ_l). A convolution sums δ_k a_kᵀ over its positions, and its gradients are small.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ._sample_losses import SampleLosses

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)
_PROBE = 8


class Layer:
    """One Linear or convolution whose parameters belong to it alone; ``names`` are the trainable ones."""

    def __init__(self, path: str, module: nn.Module, losses: SampleLosses):
        self.path, self.module = path, module
        own = {f"{path}.{part}" if path else part: part for part in ("weight", "bias")}
        self.parts = {name: part for name, part in own.items() if name in losses.parameters}
        self.names = list(self.parts)
        self.on_vectors = isinstance(module, nn.Linear)  # until it is seen on sequences

    @property
    def numbers(self) -> int:
        """Numbers kept for one sample while the layer's part of the Gram matrix is summed."""
        if self.on_vectors:
            return self.module.in_features + self.module.out_features  # type: ignore[operator,return-value]
        return sum(parameter.numel() for parameter in self.module.parameters())


def plain_layers(losses: SampleLosses) -> list[Layer]:
    """Layers of which the Gram matrix can be had without gradients, as a trial on a few samples shows.

    A layer counts where it is called once in a forward pass on inputs (n, features) or (n, channels, …), and where
    its own rows agree with those of ``torch.func``: a weight that is used elsewhere, too, does not.
    """
    if losses.statistics != "eval":
        return []
    modules = losses.model.named_modules()
    layers = [Layer(path, module, losses) for path, module in modules if type(module) in _LAYERS]
    layers = [layer for layer in layers if layer.names and not _unusual(layer.module)]
    calls: dict[str, list[int]] = {layer.path: [] for layer in layers}
    probe = slice(0, min(_PROBE, losses.count))
    with contextlib.ExitStack() as stack, torch.no_grad():
        for layer in layers:
            hook = functools.partial(_note, calls[layer.path])
            stack.callback(layer.module.register_forward_hook(hook).remove)
        losses.outputs(losses.parameters, probe)
    layers = [layer for layer in layers if len(calls[layer.path]) == 1 and calls[layer.path][0] >= 2]
    for layer in layers:
        layer.on_vectors &= calls[layer.path] == [2]
    if not layers:
        return []
    trial = gram_parts(losses, layers, [probe], probe.stop)
    sound = []
    for layer, found in zip(layers, trial):
        rows = next(losses.gradients(layer.names, probe.stop)).double()
        expected = rows @ rows.T
        if float((found - expected).abs().max()) <= _tolerance(losses) * float(expected.abs().max().clamp_min(1e-300)):
            sound.append(layer)
    return sound


def _tolerance(losses: SampleLosses) -> float:
    return torch.finfo(losses.dtype).eps ** 0.5  # another place of use differs by O(1), TF32 by less than this


def _unusual(module: nn.Module) -> bool:
    padded = getattr(module, "padding_mode", "zeros") != "zeros" or isinstance(getattr(module, "padding", 0), str)
    hooks = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
    return bool(padded or hooks or hasattr(module, "parametrizations"))


def _note(calls: list[int], module: nn.Module, given: tuple, output: Tensor) -> None:
    """The dimensions of what a layer is called with, 0 for anything but one tensor."""
    calls.append(given[0].ndim if len(given) == 1 and torch.is_tensor(given[0]) else 0)


def gram_parts(losses: SampleLosses, layers: list[Layer], chunks: list[slice], count: int) -> Iterator[Tensor]:
    """(n, n) inner products of the gradients with respect to each layer in turn, in float64.

    One forward and one backward pass over the chunks collects what all these layers need.
    """
    kept: list[list[tuple[Tensor, Tensor | None]]] = [[] for _ in layers]
    for chunk in chunks:
        for store, layer, (given, back) in zip(kept, layers, _collect(losses, layers, chunk)):
            store.append(_rows(layer, given, back))
    for layer, store in zip(layers, kept):
        first = torch.cat([rows for rows, _ in store])
        if store[0][1] is None:
            yield first @ first.T
        else:
            back = torch.cat([other for _, other in store if other is not None])
            parts = set(layer.parts.values())
            inner = first @ first.T if "weight" in parts else torch.zeros(count, count).to(first)
            yield (inner + 1.0 if "bias" in parts else inner) * (back @ back.T)
        store.clear()


def _collect(losses: SampleLosses, layers: list[Layer], chunk: slice) -> list[tuple[Tensor, Tensor]]:
    """What each layer was given, and the derivative of the summed losses by what it gave."""
    given: dict[str, Tensor] = {}
    probes: dict[str, Tensor] = {}

    def hook(path: str, module: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
        given[path] = inputs[0].detach()
        probes[path] = torch.zeros_like(output, requires_grad=True)
        return output + probes[path]  # the derivative by this zero is δ; no weight needs a gradient

    with contextlib.ExitStack() as stack, torch.enable_grad():
        for layer in layers:
            stack.callback(layer.module.register_forward_hook(functools.partial(hook, layer.path)).remove)
        total = losses.losses(losses.parameters, chunk).sum()
    wanted = [probes[layer.path] for layer in layers]
    backs = torch.autograd.grad(total, wanted, allow_unused=True)
    return [
        (given[layer.path], torch.zeros_like(probe) if back is None else back)
        for layer, probe, back in zip(layers, wanted, backs)
    ]


def _rows(layer: Layer, given: Tensor, back: Tensor) -> tuple[Tensor, Tensor | None]:
    """Inputs and deltas of a Linear on vectors, or else the gradients themselves; float64."""
    module, given, back = layer.module, given.double(), back.double()
    if layer.on_vectors:
        return given, back
    if isinstance(module, nn.Linear):
        weight = torch.einsum("n...o,n...i->noi", back, given)
        bias = back.flatten(1, -2).sum(dim=1)
    else:
        weight, bias = _convolution_rows(module, given, back)
    parts = {"weight": weight.flatten(1), "bias": bias}
    return torch.cat([parts[part] for part in layer.parts.values()], dim=1), None


def _convolution_rows(module: nn.Module, given: Tensor, back: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients by weight and bias of a convolution, one a sample: Σ over positions of δ times its patch."""
    line = given.ndim == 3  # a Conv1d is a Conv2d of height 1
    pad = lambda values, neutral: (neutral, *values) if line else tuple(values)  # noqa: E731
    patches = nn.functional.unfold(
        given[:, :, None] if line else given,
        kernel_size=pad(module.kernel_size, 1),
        dilation=pad(module.dilation, 1),
        padding=pad(module.padding, 0),
        stride=pad(module.stride, 1),
    )
    count, groups = len(given), int(module.groups)  # type: ignore[arg-type]
    patches = patches.reshape(count, groups, -1, patches.shape[-1])
    deltas = back.reshape(count, groups, -1, math.prod(back.shape[2:]))
    return torch.einsum("ngop,ngip->ngoi", deltas, patches), back.flatten(2).sum(dim=2)
