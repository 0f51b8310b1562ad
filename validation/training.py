"""Mini-batch SGD as practice runs it, with snapshots of the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

SAMPLINGS = ("with_replacement", "reshuffling")


def tiny_fc(
    inputs: int = 49, hidden: int = 16, classes: int = 5, *, seed: int = 0, dtype: torch.dtype = torch.float64
) -> nn.Sequential:
    """tiny-fc: flatten, ``inputs`` → ``hidden`` ReLU → ``classes``; 885 weights as it stands.

    PyTorch's default initialisation drawn from ``seed``; the global random stream is left as it was.
    Chaudhari & Soatto 2018, section 4, with batch norm left out so that every sample has its own gradient.
    """
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
    """Train ``model`` in place by w ← w − η ∇(mean loss of a mini-batch) and keep the weights at epochs.

    An epoch is ceil(N/b) steps. ``sampling="with_replacement"`` draws every batch afresh from all N samples
    (diffusion D/b, temperature η/2b); ``"reshuffling"`` walks through a new permutation each epoch, its last
    batch holding the remainder, and has no single temperature. Momentum, Nesterov and weight decay are those
    of ``torch.optim.SGD``.

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
        An argument outside its range, or a loss that is no longer finite (naming the epoch).
    """
    count = len(inputs)
    recorded = sorted({0, epochs} if snapshots is None else set(snapshots))
    _check(count, len(targets), epochs, learning_rate, batch_size, sampling, recorded)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=learning_rate, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay
    )
    generator = torch.Generator().manual_seed(seed)
    weights, losses, accuracies = [], [], []
    for epoch in range(max(recorded) + 1):
        if epoch > 0:
            model.train()
            for chosen in _batches(count, batch_size, sampling, generator):
                chosen = chosen.to(inputs.device)
                optimizer.zero_grad()
                loss(model(inputs[chosen]), targets[chosen]).backward()
                optimizer.step()
        if epoch in recorded:
            value, accuracy = _evaluate(model, loss, inputs, targets)
            if not np.isfinite(value):
                raise ValueError(f"loss {value} after epoch {epoch}: lower learning_rate={learning_rate}")
            weights.append(parameters_to_vector(model.parameters()).detach().cpu().numpy().copy())
            losses.append(value)
            accuracies.append(accuracy)
    measured = {"weights": (("epoch", "weight"), np.stack(weights)), "loss": ("epoch", losses)}
    if not targets.is_floating_point():
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


def _check(count, labels, epochs, learning_rate, batch_size, sampling, recorded) -> None:
    if count == 0 or count != labels:
        raise ValueError(f"inputs hold {count} samples and targets {labels}: one target per input, at least 1")
    if sampling not in SAMPLINGS:
        raise ValueError(f"sampling={sampling!r}: choose one of {', '.join(SAMPLINGS)}")
    if not 1 <= batch_size <= count:
        raise ValueError(f"batch_size={batch_size}: must lie between 1 and the {count} samples")
    if not learning_rate > 0:
        raise ValueError(f"learning_rate={learning_rate}: must be positive")
    if epochs < 0:
        raise ValueError(f"epochs={epochs}: must be 0 or more")
    if not recorded or recorded[0] < 0 or recorded[-1] > epochs:
        raise ValueError(f"snapshots={recorded}: epochs between 0 and {epochs}, at least one")


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
        if targets.is_floating_point():
            return value, float("nan")
        return value, float((outputs.argmax(1) == targets).double().mean())
