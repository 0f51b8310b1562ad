"""What D is made of: layers, classes, and how far it points the way of another matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import xarray as xr

from sde_sgd import _checks

from . import _probes
from ._operator import Estimate, NetworkOperator

if TYPE_CHECKING:
    from ._sample_losses import SampleLosses
    from .gradient_noise import GradientNoise

_DENSE = 2_000  # up to this d both matrices are formed
_PROBES = 100


def chosen_parameters(losses: SampleLosses, names: tuple[str, ...]) -> list[str]:
    """Trainable parameters by their own names or by their module's; ValueError for an unknown one."""
    chosen: set[str] = set()
    for name in names:
        found = [p for p in losses.parameters if p == name or p.startswith(f"{name}.")]
        if not found:
            known = ", ".join(losses.parameters)
            near = _checks.nearest(name, list(losses.parameters))
            raise ValueError(f"no trainable parameter is called {name!r}{near}; there are {known}")
        chosen.update(found)
    if not chosen:
        raise ValueError("name at least one parameter or module")
    return [name for name in losses.parameters if name in chosen]


def layers(noise: GradientNoise) -> xr.Dataset:
    """One row for each parameter tensor."""
    names, rows = list(noise._losses.parameters), []
    for name in names:
        part = noise.restricted(name)
        values = part.spectrum()
        squares = float((values**2).sum())
        rows.append((part.parameters, values.sum(), values[0], values.sum() ** 2 / squares if squares > 0 else 0.0))
    columns = list(zip(*rows))
    return xr.Dataset(
        {
            key: ("parameter", np.asarray(column))
            for key, column in zip(("weights", "trace", "largest", "participation_ratio"), columns)
        },
        coords={"parameter": names},
        attrs=noise._settings(),
    )


def classes(noise: GradientNoise) -> xr.Dataset:
    """Within and between classes, in two passes: the means, then the squares about them."""
    targets = noise._losses.targets
    if noise.statistics == "minibatch":
        raise ValueError('a mini-batch holds several classes: classes() needs statistics "eval" or "full"')
    if targets.ndim != 1 or targets.is_floating_point():
        raise ValueError(f"targets of shape {tuple(targets.shape)} and type {targets.dtype} are no class numbers")
    labels, place = torch.unique(targets, return_inverse=True)
    noise._require(16 * len(labels) * noise.parameters, f"{len(labels)} class means", "restrict D to a layer")
    counts = torch.bincount(place, minlength=len(labels)).double()
    means = torch.zeros(len(labels), noise.parameters, dtype=torch.float64, device=noise.device)
    start = 0
    for chunk in noise.sample_gradients():
        means.index_add_(0, place[start : start + len(chunk)], chunk.double())
        start += len(chunk)
    means /= counts[:, None]
    within = torch.zeros(len(labels), dtype=torch.float64, device=noise.device)
    start = 0
    for chunk in noise.sample_gradients():
        own = place[start : start + len(chunk)]
        within.index_add_(0, own, (chunk.double() - means[own]).square().sum(dim=1))
        start += len(chunk)
    share = counts / counts.sum()
    shifts = share.sqrt()[:, None] * (means - share @ means)
    between = torch.linalg.eigvalsh(shifts @ shifts.T).flip(0)
    as_numpy = lambda tensor: tensor.cpu().numpy()  # noqa: E731
    return xr.Dataset(
        {
            "share": ("class", as_numpy(share)),
            "mean_gradient": (("class", "weight"), as_numpy(means)),
            "trace_within": ("class", as_numpy(within / counts)),
            "between_eigenvalues": ("index", as_numpy(between)[: max(1, len(labels) - 1)]),
            "trace_between": float(shifts.square().sum()),
        },
        coords={"class": as_numpy(labels), "index": np.arange(1, max(2, len(labels)))},
        attrs=noise._settings(),
    )


def frobenius_cosine(one: NetworkOperator, other, probes: int | None, seed: int) -> Estimate:
    """tr(AB)/(‖A‖‖B‖), dense where both are small."""
    _checks.instance("other", other, NetworkOperator, "such as Curvature(model, loss, dataset)")
    if one.parameters != other.parameters:
        raise ValueError(f"the matrices are over {one.parameters} and {other.parameters} weights: use one model")
    if probes is None and one.parameters <= _DENSE:
        a, b = one.matrix(), other.matrix()
        norms = float(np.linalg.norm(a) * np.linalg.norm(b))
        if norms == 0.0:
            raise ValueError(_probes.ZERO)
        return Estimate(float((a * b).sum()) / norms)
    number = _checks.whole("probes", _PROBES if probes is None else probes, 2)
    first = lambda z: one._product(z.to(one.dtype))  # noqa: E731
    second = lambda z: other._product(z.to(other.device, other.dtype)).to(one.device)  # noqa: E731
    return _probes.cosine(first, second, one.parameters, number, seed, one.device)
