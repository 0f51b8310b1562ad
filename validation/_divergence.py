"""div D of a network: derivatives of the covariance of its gradients, without forming it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from torch.func import grad, jvp, vmap

from sde_sgd import _checks

from ._lanczos import seeded
from ._probes import signs

if TYPE_CHECKING:
    from ._sample_losses import Parameters, SampleLosses
    from .gradient_noise import GradientNoise

_EXACT = 2_000  # up to this d the traces tr H_k are sums over all coordinates
_PROBES = 100
_TRIAL = 4  # samples on which two ways are compared


def noise_divergence(noise: GradientNoise, losses: SampleLosses, probes: int | None, seed: int) -> xr.Dataset:
    """(1/N) Σ H_k (g_k − g) + (1/N) Σ (tr H_k − tr H)(g_k − g), with the error of the second sum."""
    if losses.statistics != "eval":
        raise ValueError(
            f"divergence() needs a gradient and a Hessian of every sample alone: statistics={losses.statistics!r} "
            'has none, use "eval"'
        )
    if probes is not None:
        probes = _checks.whole("probes", probes, 2)
    elif losses.size > _EXACT:
        probes = _PROBES
    first, forward = _half_gradient_of_trace(noise, losses), forward_twice_is_right(losses)
    if probes is None:
        traces = torch.zeros(losses.count, dtype=torch.float64, device=losses.device)
        for k in range(losses.size):
            unit = torch.zeros(losses.size, dtype=torch.float64, device=losses.device)
            unit[k] = 1.0
            traces += curvatures(losses, unit, forward)
        second, error = _pulled(losses, traces), torch.zeros_like(first)
    else:
        generator = seeded(seed)
        # Linear in the traces, so each probe gives an independent, unbiased divergence: mean and spread by Welford.
        second, spread = torch.zeros_like(first), torch.zeros_like(first)
        for number in range(1, probes + 1):
            term = _pulled(losses, curvatures(losses, signs(losses.size, generator, losses.device), forward))
            step = term - second
            second += step / number
            spread += step * (term - second)
        error = (spread / (probes * (probes - 1))).sqrt()
    more = {"probes": probes or 0} | ({} if probes is None else {"seed": seed})
    return xr.Dataset(
        {
            "divergence": ("weight", (first + second).cpu().numpy()),
            "error": ("weight", error.cpu().numpy()),
        },
        coords={"weight": np.arange(losses.size)},
        attrs=noise._settings() | more,
    )


def _half_gradient_of_trace(noise: GradientNoise, losses: SampleLosses) -> Tensor:
    """(1/N) Σ_k H_k (g_k − g) = ½∇ tr D, one product of each sample's Hessian."""
    mean, forward = losses.split(noise.mean_gradient()), losses.forward_mode
    rows = losses.rows(4 * losses.size)

    def one(sample: Tensor, target: Tensor) -> Parameters:
        slope = grad(lambda parameters: losses._one_loss(parameters, sample, target))
        own = slope(losses.parameters)
        return _along(losses, slope, {n: own[n] - mean[n] for n in own}, forward)

    total = torch.zeros(losses.size, dtype=torch.float64, device=losses.device)
    for start in range(0, losses.count, rows):
        chunk = slice(start, min(start + rows, losses.count))
        with losses._in_words(chunk):
            products = vmap(one)(losses.inputs[chunk], losses.targets[chunk])
        total += torch.cat([products[n].double().sum(dim=0).flatten() for n in losses.parameters])
    return total / losses.count


def _along(
    losses: SampleLosses, slope: Callable[[Parameters], Parameters], direction: Parameters, forward: bool
) -> Parameters:
    """H v from a gradient: forward over reverse, or reverse twice where torch has no forward derivative."""
    if forward:
        return jvp(slope, (losses.parameters,), (direction,))[1]
    return grad(lambda at: _inner(slope(at), direction))(losses.parameters)


def _inner(one: Parameters, other: Parameters) -> Tensor:
    return torch.stack([(one[name] * other[name]).sum() for name in one]).sum()


def curvatures(losses: SampleLosses, vector: Tensor, forward: bool) -> Tensor:
    """(n,) second derivatives vᵀ H_k v of every loss along one direction."""
    direction = losses.split(vector)
    if forward:
        parts = [_twice_forward(losses, direction, chunk) for chunk in losses.chunks(4)]
    else:
        rows = losses.rows(4 * losses.size)
        starts = range(0, losses.count, rows)
        parts = [_by_products(losses, direction, slice(s, min(s + rows, losses.count))) for s in starts]
    return torch.cat(parts).double()


def _twice_forward(losses: SampleLosses, direction: Parameters, chunk: slice) -> Tensor:
    """Two forward derivatives at once: no gradient is ever made."""

    def slope(parameters: Parameters) -> Tensor:
        return jvp(lambda p: losses.losses(p, chunk), (parameters,), (direction,))[1]

    return jvp(slope, (losses.parameters,), (direction,))[1].detach()


def _by_products(losses: SampleLosses, direction: Parameters, chunk: slice) -> Tensor:
    """The same from products H_k v, d numbers a sample."""
    forward = losses.forward_mode

    def one(sample: Tensor, target: Tensor) -> Tensor:
        slope = grad(lambda parameters: losses._one_loss(parameters, sample, target))
        return _inner(_along(losses, slope, direction, forward), direction)

    return vmap(one)(losses.inputs[chunk], losses.targets[chunk]).detach()


def forward_twice_is_right(losses: SampleLosses) -> bool:
    """Whether nested forward derivatives agree with products on a few samples.

    Not every operation has them, and some have them wrong: batch norm in training mode does in torch 2.13.
    """
    if not losses.forward_mode:
        return False
    few = slice(0, min(_TRIAL, losses.count))
    generator = seeded(0)
    direction = losses.split(signs(losses.size, generator, losses.device))
    expected = _by_products(losses, direction, few).double()
    try:
        found = _twice_forward(losses, direction, few).double()
    except (RuntimeError, ValueError) as fault:
        if "forward AD" in str(fault) or "jvp" in str(fault):
            return False
        raise
    scale = float(expected.abs().max().clamp_min(torch.finfo(losses.dtype).tiny))
    return float((found - expected).abs().max()) <= torch.finfo(losses.dtype).eps ** 0.5 * scale


def _pulled(losses: SampleLosses, traces: Tensor) -> Tensor:
    return losses.pull((traces - traces.mean()) / losses.count)
