"""Mini-batch SGD as practice runs it, with snapshots of the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from sde_sgd import _checks

from ._numbers import LARGEST_SEED, from_zero
from ._samples import in_words

SAMPLINGS = ("with_replacement", "reshuffling")


def tiny_fc(
    inputs: int = 49, hidden: int = 16, classes: int = 5, *, seed: int = 0, dtype: torch.dtype = torch.float64
) -> nn.Sequential:
    """tiny-fc: flatten, ``inputs`` → ``hidden`` ReLU → ``classes``; 885 weights as it stands.

    PyTorch's default initialisation drawn from ``seed``; the global random stream is left as it was.
    Chaudhari & Soatto 2018, section 4, with batch norm left out so that every sample has its own gradient.
    ValueError for sizes below 1 and for a ``dtype`` that is no float type.
    """
    inputs, hidden, classes = (
        _checks.whole(name, value, 1) for name, value in (("inputs", inputs), ("hidden", hidden), ("classes", classes))
    )
    if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ValueError(f"dtype={dtype}: choose a float type, e.g. torch.float32 or torch.float64")
    seed = _checks.whole("seed", seed, 0, LARGEST_SEED)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(inputs, hidden, dtype=dtype),
            nn.ReLU(),
            nn.Linear(hidden, classes, dtype=dtype),
        )


def train_sgd(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    *,
    epochs: int,
    learning_rate: float,
    batch_size: int,
    sampling: str = "with_replacement",
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    loss: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy,
    snapshots: Iterable[int] | None = None,
    seed: int = 0,
) -> xr.Dataset:
    """Train ``model`` in place by w ← w − η ∇(mean loss of a mini-batch) and keep the weights at some epochs.

    All ``epochs`` are trained, whichever are recorded; an epoch is ceil(N/b) steps.
    ``sampling="with_replacement"`` draws every batch afresh from all N samples (diffusion D/b, temperature
    η/2b); ``"reshuffling"`` walks through a new permutation each epoch, its last batch holding the remainder,
    and has no single temperature. Momentum, Nesterov and weight decay are those of ``torch.optim.SGD``.

    Parameters
    ----------
    inputs, targets : (N, …) tensors on the model's device.
    loss : a criterion that averages over the batch.
    snapshots : epochs to record, 0 meaning before training; default 0 and ``epochs``.
    seed : of the mini-batches alone (its own generator); the same seed gives the same bits on the same
        machine and number of threads.

    Returns
    -------
    xarray.Dataset
        ``weights`` (epoch, weight) in the order of ``parameters_to_vector``, ``loss`` and ``accuracy``
        (epoch) over all N samples in eval mode; accuracy only where targets are class labels.

    Raises
    ------
    ValueError
        An argument outside its range, a model or loss that cannot be evaluated on the data, or a loss that is no
        longer finite (naming the epoch).
    """
    _checks.instance("model", model, nn.Module)
    for name, tensor in (("inputs", inputs), ("targets", targets)):
        if not torch.is_tensor(tensor) or tensor.ndim == 0:
            raise ValueError(f"{name} must be a tensor of one row per sample, got {type(tensor).__name__}")
    count = len(inputs)
    if count == 0 or count != len(targets):
        raise ValueError(f"inputs hold {count} samples and targets {len(targets)}: one target per input, at least 1")
    epochs = _checks.whole("epochs", epochs, 0)
    learning_rate = _checks.positive("learning_rate", learning_rate)
    batch_size = _checks.whole("batch_size", batch_size, 1, count, f"there are {count} samples")
    _checks.choice("sampling", sampling, SAMPLINGS)
    momentum = from_zero("momentum", momentum, below=1.0)
    weight_decay = from_zero("weight_decay", weight_decay)
    if nesterov and momentum == 0:
        raise ValueError("nesterov=True needs momentum > 0, which it looks ahead along")
    seed = _checks.whole("seed", seed, 0, LARGEST_SEED)
    recorded = _recorded(snapshots, epochs)
    with in_words("the model or the loss cannot be evaluated on the data"):
        value, _ = _evaluate(model, loss, inputs, targets)
    if not np.isfinite(value):
        raise ValueError(f"loss {value} before training: look for NaN or infinity in inputs, targets and weights")
    optimizer = torch.optim.SGD(
        model.parameters(), lr=learning_rate, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay
    )
    generator = torch.Generator().manual_seed(seed)
    weights, losses, accuracies = [], [], []
    for epoch in range(epochs + 1):
        if epoch > 0:
            model.train()
            for chosen in _batches(count, batch_size, sampling, generator):
                chosen = chosen.to(inputs.device)
                optimizer.zero_grad()
                loss(model(inputs[chosen]), targets[chosen]).backward()
                optimizer.step()
        if epoch not in recorded and epoch < epochs:
            continue
        value, accuracy = _evaluate(model, loss, inputs, targets)
        if not np.isfinite(value):
            raise ValueError(f"loss {value} after epoch {epoch}: lower learning_rate={learning_rate}")
        if epoch in recorded:
            weights.append(parameters_to_vector(model.parameters()).detach().cpu().numpy().copy())
            losses.append(value)
            accuracies.append(accuracy)
    measured = {"weights": (("epoch", "weight"), np.stack(weights)), "loss": ("epoch", losses)}
    if _are_labels(targets):
        measured["accuracy"] = ("epoch", accuracies)
    return xr.Dataset(
        measured,
        coords={"epoch": recorded},
        attrs={
            "learning_rate": learning_rate,
            "batch_size": batch_size,
            "sampling": sampling,
            "seed": seed,
            "momentum": momentum,
            "nesterov": int(nesterov),
            "weight_decay": weight_decay,
            "samples": count,
            "torch_version": str(torch.__version__),
        },
    )


def _recorded(snapshots: Iterable[int] | None, epochs: int) -> list[int]:
    if snapshots is None:
        return sorted({0, epochs})
    if not isinstance(snapshots, Iterable):
        raise ValueError(f"snapshots must be a sequence of epochs, got {snapshots!r}")
    recorded = sorted({_checks.whole("a snapshot", epoch, 0, epochs, "it is an epoch") for epoch in snapshots})
    if not recorded:
        raise ValueError(f"snapshots is empty: give at least one epoch from 0 to {epochs}")
    return recorded


def _batches(count: int, size: int, sampling: str, generator: torch.Generator) -> Iterator[Tensor]:
    if sampling == "with_replacement":
        yield from torch.randint(count, (-(-count // size), size), generator=generator)
    else:
        yield from torch.randperm(count, generator=generator).split(size)


def _evaluate(model: nn.Module, loss: Callable, inputs: Tensor, targets: Tensor) -> tuple[float, float]:
    model.eval()
    with torch.no_grad():
        outputs = model(inputs)
        value = float(loss(outputs, targets))
        if not _are_labels(targets):
            return value, float("nan")
        return value, float((outputs.argmax(1) == targets).double().mean())


def _are_labels(targets: Tensor) -> bool:
    """True for one class number per sample, of which an accuracy can be told."""
    return targets.ndim == 1 and not targets.is_floating_point()
