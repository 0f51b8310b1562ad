"""Traces and Frobenius products of operators from random probes, with their standard errors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ._lanczos import seeded
from ._operator import Estimate

ZERO = "a matrix that is 0 has no direction: its cosine is not defined"


def signs(size: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """(size,) independent ±1, drawn on the processor so that a seed means one vector everywhere."""
    drawn = torch.randint(2, (size,), generator=generator, dtype=torch.int8)
    return (2 * drawn.double() - 1).to(device)


def hutch_pp(product: Callable[[Tensor], Tensor], size: int, probes: int, seed: int, device: torch.device) -> Estimate:
    """tr A from ``probes`` products: exact on the range of A S for a random S, Hutchinson on what is left.

    tr A = tr QᵀAQ + tr (I − QQᵀ)A(I − QQᵀ), Q an orthonormal basis of A S with a third of the products, the first
    term another third, and zᵀ(…)z averaged over random signs z the last. The error is the standard error of that
    average; 0 where nothing is left over. Meyer, Musco, Musco, Woodruff 2021 (Hutch++).
    """
    generator, part = seeded(seed), probes // 3
    sketch = torch.stack([product(signs(size, generator, device)).double() for _ in range(part)], dim=1)
    basis = _range_of(sketch)
    inside = sum(float(q @ product(q).double()) for q in basis.T)
    left = []
    for _ in range(probes - 2 * part):
        z = signs(size, generator, device)
        z = z - basis @ (basis.T @ z)
        left.append(float(z @ product(z).double()))
    error = np.std(left, ddof=1) / np.sqrt(len(left))
    return Estimate(inside + float(np.mean(left)), float(error), probes)


def _range_of(sketch: Tensor) -> Tensor:
    """Orthonormal basis of the columns, without those that are rounding."""
    directions, lengths, _ = torch.linalg.svd(sketch, full_matrices=False)
    return directions[:, lengths > 1e-12 * lengths.max()]


def cosine(
    first: Callable[[Tensor], Tensor],
    second: Callable[[Tensor], Tensor],
    size: int,
    probes: int,
    seed: int,
    device: torch.device,
) -> Estimate:
    """tr(AB)/(‖A‖‖B‖) from products with the same random signs z: E[Az·Bz] = tr AB, E|Az|² = ‖A‖².

    The ratio is corrected for bias, and its standard error taken, by the jackknife over probes.
    """
    generator, sums = seeded(seed), []
    for _ in range(probes):
        z = signs(size, generator, device)
        a, b = first(z).double(), second(z).double()
        sums.append([float(a @ b), float(a @ a), float(b @ b)])
    each = np.asarray(sums)
    ratio = lambda total: total[..., 0] / np.sqrt(total[..., 1] * total[..., 2])  # noqa: E731
    total = each.sum(axis=0)
    if not total[1:].all():
        raise ValueError(ZERO)
    without = ratio(total - each)
    value = probes * ratio(total) - (probes - 1) * without.mean()
    return Estimate(value, np.sqrt((probes - 1) * without.var()), probes)
