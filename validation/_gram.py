"""Sums over the rows of J: inner products of all pairs of gradients, and scatter about their mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from . import _chain
from ._sample_losses import SampleLosses

# Fixed rather than a share of what is free today: the order of summation, and so every bit, depends on it.
_GROUP_BYTES = 512 * 2**20


def gram(
    losses: SampleLosses, layers: list[_chain.Layer], centred: bool, require: Callable[[int, str, str], None]
) -> Tensor:
    """(n, n) inner products of gradients in float64: of ``layers`` from their activations, of the rest from rows."""
    count = losses.count
    covered = {name for layer in layers for name in layer.names}
    rest = {name: value for name, value in losses.parameters.items() if name not in covered}
    largest = max([value.numel() for value in rest.values()] + [layer.numbers for layer in layers])
    remedy = "use a random subset of the samples, or spectrum(k, method='lanczos')"
    require(8 * count * (4 * count + largest), f"the {count} × {count} Gram matrix", remedy)
    total = torch.zeros(count, count, dtype=torch.float64, device=losses.device)
    for group in joined(layers, [8 * count * layer.numbers for layer in layers]):
        for part in _chain.gram_parts(losses, group, losses.chunks(16), count):
            total += part
    if centred and layers:
        total -= total.mean(dim=0)
        total -= total.mean(dim=1, keepdim=True)
    for names in joined(list(rest), [8 * count * value.numel() for value in rest.values()]):
        block = _block(losses, names)
        if centred:
            block -= block.mean(dim=0)
        total.addmm_(block, block.T)
    return total


def _block(losses: SampleLosses, names: list[str]) -> Tensor:
    columns = sum(losses.parameters[name].numel() for name in names)
    block = torch.empty(losses.count, columns, dtype=torch.float64, device=losses.device)
    start = 0
    for chunk in losses.gradients(names, losses.rows(columns)):
        block[start : start + len(chunk)] = chunk
        start += len(chunk)
    return block


def joined(items: list, sizes: list[int]) -> list[list]:
    """Items in order, joined while the sum of their sizes stays under 512 MiB."""
    groups: list[list] = []
    filled = _GROUP_BYTES
    for item, size in zip(items, sizes):
        if groups and filled + size <= _GROUP_BYTES:
            groups[-1].append(item)
            filled += size
        else:
            groups.append([item])
            filled = size
    return groups


def residuals(chunks: Iterator[Tensor], size: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Per chunk of rows: deviations from its mean, its mean minus the mean so far, and that shift's weight.

    Chan, Golub & LeVeque 1983: the scatter about the final mean is the sum of residualᵀ residual and
    weight · shift shiftᵀ, without the cancellation of Σ g gᵀ − N g gᵀ.
    """
    mean, seen = torch.zeros(size, dtype=torch.float64, device=device), 0
    for chunk in chunks:
        chunk = chunk.double()
        centre, total = chunk.mean(dim=0), seen + len(chunk)
        shift = centre - mean
        yield chunk - centre, shift, seen * len(chunk) / total
        mean, seen = mean + shift * (len(chunk) / total), total
