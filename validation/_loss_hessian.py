"""Second derivative of a criterion by the network's output, where it has a closed form, and elsewhere."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import grad

HessianOfLoss = Callable[[Tensor, Tensor, Tensor], Tensor]


def loss_hessian(loss: Callable, outputs: Tensor, targets: Tensor) -> HessianOfLoss | None:
    """(outputs, targets, directions) ↦ H_k u_k for each sample, or None where no closed form is known.

    Cross-entropy on (n, C) outputs and class numbers, none of them ignored: (diag p − p pᵀ)u, p the softmax, with or
    without label smoothing. Mean squared error of outputs and targets of one shape: 2u/C; summed: 2u. A class derived
    from one of these may compute something else.
    """
    if outputs.ndim == 2 and targets.ndim == 1 and not targets.is_floating_point():
        plain = type(loss) is nn.CrossEntropyLoss and loss.weight is None and loss.reduction != "none"
        if (loss is nn.functional.cross_entropy or plain) and not _ignored(loss, targets):
            return _softmax
    if outputs.shape[1:] != targets.shape[1:]:  # broadcast: an output counts as often as it meets a target
        return None
    if loss is nn.functional.mse_loss or (type(loss) is nn.MSELoss and loss.reduction == "mean"):
        return lambda o, y, u: 2.0 * u / max(1, o[0].numel())
    if type(loss) is nn.MSELoss:
        return lambda o, y, u: 2.0 * u
    return None


def _ignored(loss: Callable, targets: Tensor) -> bool:
    """Whether a class number says that its sample does not count: a loss of 0 then, which is no −log p."""
    return bool((targets == getattr(loss, "ignore_index", -100)).any())


def _softmax(outputs: Tensor, targets: Tensor, directions: Tensor) -> Tensor:
    p = torch.softmax(outputs, dim=1)
    return p * (directions - (p * directions).sum(dim=1, keepdim=True))


def by_autograd(criterion: Callable[[Tensor, Tensor], Tensor]) -> HessianOfLoss:
    """The same for any criterion of separate samples: the gradient of u · gradient of their sum."""

    def product(outputs: Tensor, targets: Tensor, directions: Tensor) -> Tensor:
        slope = grad(lambda o: criterion(o, targets).sum())
        return grad(lambda o: (slope(o) * directions).sum())(outputs)

    return product


def require_log_likelihood(loss: Callable, outputs: Tensor, targets: Tensor) -> None:
    """Refuse a criterion that is not known to be −log p(target | output) in natural parameters.

    Only then is the Gauss–Newton matrix the Fisher information of the model. Cross-entropy without weights or
    smoothing; squared error, a Gaussian of fixed variance; binary cross-entropy with logits, where it is summed.
    """
    # One class a sample, not a mean over positions.
    whole = outputs.ndim == 2 and targets.ndim == 1 and not _ignored(loss, targets)
    if loss is nn.functional.cross_entropy:
        if whole:
            return
    elif type(loss) is nn.CrossEntropyLoss:
        if whole and loss.weight is None and loss.label_smoothing == 0:
            return
    elif loss is nn.functional.mse_loss or type(loss) is nn.MSELoss:
        if outputs.shape[1:] == targets.shape[1:]:
            return
    elif type(loss) is nn.BCEWithLogitsLoss:
        summed = loss.reduction == "sum" or outputs[0].numel() == 1
        if summed and loss.weight is None and loss.pos_weight is None:
            return
    name = getattr(loss, "__name__", None) or repr(loss)
    raise ValueError(
        f"the Fisher matrix is that of −log p(target | output), and {name} on outputs of shape "
        f"{tuple(outputs.shape[1:])} is not known to be one: use CrossEntropyLoss without weights or smoothing, "
        'MSELoss or BCEWithLogitsLoss(reduction="sum"), or kind="ggn"'
    )
