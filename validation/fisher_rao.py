"""The Fisher–Rao norm of a network's weights: how long w is in the metric of the Fisher information at w."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import grad

from sde_sgd import _checks

from . import _samples
from ._loss_hessian import HessianOfLoss, by_autograd, loss_hessian, require_log_likelihood
from ._sample_losses import SampleLosses
from .curvature import Curvature

_FACTOR = 1.25  # of all weights, by which homogeneity is tried
_ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-3}


def fisher_rao_norm(
    model: nn.Module, loss: Callable, dataset, *, labels: str = "model", degree: int | None = None, device=None
) -> float:
    r"""The square of the Fisher–Rao norm, ⟨w, F w⟩, F the Fisher information of −log p(y|x; w) at w.

        labels="model"   F = (1/N) Σ_k E_{y ~ p(·|x_k)} ∇log p ∇log pᵀ, so that ⟨w, Fw⟩ = (1/N) Σ_k (J_k w)ᵀ L_k (J_k w)
        labels="data"    (1/N) Σ_k g_k g_kᵀ = D + ggᵀ with the labels of the data: (1/N) Σ_k ⟨w, g_k⟩²

    J_k is the Jacobian of the outputs o_k of sample k, L_k the Hessian of its loss by them. Where all outputs are
    homogeneous in w, o(cw) = c^q o(w) for c > 0, J_k w = q o_k, and one forward pass is enough:

        ⟨w, Fw⟩ = q² (1/N) Σ_k o_kᵀ L_k o_k        or        q² (1/N) Σ_k ⟨o_k, ∂ℓ_k/∂o⟩².

    q is the number of layers for linear layers without biases, with ReLU (or leaky ReLU, max or average pooling) or
    nothing between them. A bias in any layer breaks it.

    Parameters
    ----------
    model, loss, dataset, device : as of `Curvature`, in eval mode. For labels="data" any loss of one number per sample.
    degree : q ≥ 1, to take the second form; None: products with F, for any network.

    Returns the number ⟨w, Fw⟩, in float64 sums.

    Raises ValueError for what `Curvature` refuses, and for a `degree` that the outputs do not have: o(1.25 w) is
    compared with 1.25^q o(w) on all samples.

    With some of the weights frozen it is the norm of those that remain. Not a bound on the test error by itself, nor
    comparable between criteria of other units.

    References
    ----------
    Liang, Poggio, Rakhlin & Stokes (2019), Fisher–Rao metric, geometry, and complexity of neural networks, theorem 3.1.

    Examples
    --------
    >>> import torch
    >>> from sde_sgd.validation import fisher_rao_norm
    >>> line = torch.nn.Linear(1, 1, bias=False, dtype=torch.float64)
    >>> x = torch.tensor([[1.0], [3.0]], dtype=torch.float64)
    >>> w = float(line.weight)
    >>> norms = [fisher_rao_norm(line, torch.nn.MSELoss(), (x, 0 * x), degree=q) for q in (None, 1)]
    >>> [round(norm / w**2, 9) for norm in norms]                       # 2⟨x²⟩
    [10.0, 10.0]
    """
    _checks.choice("labels", labels, ["model", "data"])
    if degree is not None:
        degree = _checks.whole("degree", degree, 1)
        return _by_homogeneity(SampleLosses(model, loss, dataset, device=device), loss, labels, degree)
    if labels == "data":
        losses = SampleLosses(model, loss, dataset, device=device)
        return float(losses.push(_weights(losses)).double().square().mean())
    fisher = Curvature(model, loss, dataset, kind="fisher", device=device)
    weights = _weights(fisher._losses)
    return float(weights.double() @ fisher._product(weights).double())


def _weights(losses: SampleLosses) -> Tensor:
    return torch.cat([value.flatten() for value in losses.parameters.values()])


def _by_homogeneity(losses: SampleLosses, loss: Callable, labels: str, degree: int) -> float:
    total = 0.0
    curve: HessianOfLoss | None = None
    scaled = {name: _FACTOR * value for name, value in losses.parameters.items()}
    with torch.no_grad():
        for chunk in losses.chunks(4):
            outputs = losses.outputs(losses.parameters, chunk)
            expected = _FACTOR**degree * outputs
            size = expected.abs().max()
            gap = (losses.outputs(scaled, chunk) - expected).abs().max()
            if not gap <= _ROUNDING.get(losses.dtype, 1e-2) * size:  # both are 0 at w = 0
                raise ValueError(
                    f"the outputs at {_FACTOR:g} w are not {_FACTOR:g}^{degree} times those at w (off by "
                    f"{float(gap / size):.2g} "
                    "of the largest): they have no such degree, as with biases or batch norm; leave degree out"
                )
            targets = losses.targets[chunk]
            with _samples.in_words("the loss cannot be differentiated by the outputs"):
                if labels == "data":
                    slopes = grad(lambda o, y=targets: losses.criterion(o, y).sum())(outputs)
                    along = (outputs * slopes).flatten(1).double().sum(1)
                    total += float(along.square().sum())
                    continue
                if curve is None:
                    require_log_likelihood(loss, outputs, losses.targets)
                    curve = loss_hessian(loss, outputs, losses.targets) or by_autograd(losses.criterion)
                total += float((outputs * curve(outputs, targets, outputs)).double().sum())
    return degree**2 * total / losses.count
