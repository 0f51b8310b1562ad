"""Mini-batch SGD as practice runs it, with measurements along the way and checkpoints that resume bit for bit."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

import sde_sgd as sde
from sde_sgd import _checks
from sde_sgd.paths._checkpoint import described

from . import measures
from ._checkpoints import Checkpoint, due_every, tensors_of
from ._numbers import LARGEST_SEED
from ._recursion import MAX_STEPS, Rates, Recursion, are_labels, as_data
from ._samples import in_words
from ._training_run import Run
from .measures import flat, trainable
from .recording import Recorder, RunState, When, add_variable, undisturbed

_SNAPSHOT = {"weights": ("weight",), "loss": (), "accuracy": ()}


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
    epochs: int | None = None,
    steps: int | None = None,
    learning_rate,
    batch_size: int,
    sampling: str = "with_replacement",
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    svag: int = 1,
    loss: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy,
    recorders: Iterable[Recorder] = (),
    snapshots: Iterable[int] | None = None,
    test: tuple[Tensor, Tensor] | None = None,
    checkpoint: str | os.PathLike | None = None,
    checkpoint_every: int | None = None,
    replica: int = 0,
    seed: int = 0,
    device=None,
    progress: Callable[[int, int], object] | None = None,
) -> xr.Dataset:
    """Train `model` in place by w ← w − ηv, v ← μv + ∇f_B(w) + λw, as `torch.optim.SGD`, and measure along the way.

    f_B is the mean loss of a mini-batch. With `svag` = l > 1 a step is
    w ← w − (η/l)[(1+s)/2 ∇f_B₁ + (1−s)/2 ∇f_B₂ + λw], s = √(2l − 1), of two independent batches: l such steps have the
    drift and the noise of one SGD step, and l → ∞ is the SDE at T = η/2b (Li, Malladi & Arora 2021).

    Parameters
    ----------
    inputs, targets : (N, …) tensors, N ≥ 2.   test : the like, for recorders with part="test".
    epochs or steps : the length; an epoch is ⌈N/b⌉ steps (of SVAG l⌈N/b⌉).
    learning_rate : η > 0, an array of one per step, or a function of an array of steps, as those of
        `sde_sgd.schedules`.
    sampling : "with_replacement", "without_replacement" (a fresh subset each step) or "reshuffling" (a new permutation
        each epoch, its last batch holding the remainder). The draws are those of `sde_sgd.sample_indices` for `seed`
        and `replica`: the very ones of `sde_sgd.sgd`, `OneHiddenLayer` and `ensemble`.
    loss : a criterion that averages over the batch.
    recorders : what to measure and when, see `Recorder` and `recorder`.
    snapshots : epochs at which weights, loss and accuracy (for labels) over all N are kept in eval mode; default
        the start and the end where there are no recorders, else none.
    checkpoint : a folder. Recorded rows go there and not into memory, and the state every `checkpoint_every` steps
        (default: every 30 s) and at the end. The same call with the model as it was at the start goes on from there,
        with the same bits on one device and number of threads; a folder of another run is refused.
    device : moves model and data; default the model's own.
    progress : called with (steps done, steps) now and then.

    Layers that draw random numbers do so from a stream of this run (seed, replica); the global ones are left as they
    were. Batch norm is in training mode, its running averages part of the model and of the checkpoint.

    Returns
    -------
    xarray.Dataset
        `weights` (epoch, weight) in the order of ``parameters_to_vector`` over trainable weights, `loss`, `accuracy`
        and `step` (epoch) at the snapshots; of each recorder its variable over `<name>_step`. attrs: the settings and
        "temperature", where the noise has one; with momentum the position is, for small η, at T/(1 − μ).

    Raises
    ------
    Diverged
        A loss or weights that are no longer finite, naming the step.
    ValueError
        An argument outside its range, a model or loss that cannot be evaluated on the data.

    Not for long runs of one hidden layer (`OneHiddenLayer`) or many replicas (`ensemble`), which are faster by far.
    """
    _checks.instance("model", model, nn.Module)
    weights = trainable(model)
    if not weights:
        raise ValueError("the model has no trainable weight: nothing to train")
    place = weights[0].device if device is None else torch.device(device)
    data = as_data(inputs, targets, place)
    recursion = Recursion.checked(
        len(data[0]), batch_size, sampling, momentum, nesterov, weight_decay, svag, seed
    )  # fmt: skip
    if (epochs is None) == (steps is None):
        raise ValueError("give either epochs or steps")
    if epochs is not None:
        steps = _checks.whole("epochs", epochs, 0) * recursion.per_epoch
    total = _checks.whole("steps", steps, 0, MAX_STEPS)
    rates = Rates(learning_rate, total)
    replica = _checks.whole("replica", replica, 0)
    _checks.function("progress", progress)
    every = due_every(checkpoint_every)
    if every is not None and checkpoint is None:
        raise ValueError(f"checkpoint_every={every} needs checkpoint=FOLDER to write to")
    tested = None
    if test is not None:
        one, other = _checks.sequence("test", test, 2, "tensors")
        tested = as_data(one, other, place, "test ")
    recorders = _recorders(recorders)
    kept = _snapshots(snapshots, recorders, total, recursion, are_labels(data[1]))
    model.to(place)
    state = RunState(0, 0.0, float("nan"), *data, tested, loss, flat(model), recursion, replica)
    with undisturbed(model, "evaluating the model"), in_words("the model or the loss cannot be evaluated on the data"):
        value = measures.mean_loss(model, loss, *data)
    if not np.isfinite(value):
        raise ValueError(f"loss {value} before training: look for NaN or infinity in inputs, targets and weights")
    settings = recursion.settings() | rates.settings() | {"steps": total, "replica": replica}
    folder = None
    if checkpoint is not None:
        asked = [settings, sde.__version__, str(torch.__version__), place.type, repr(model), described(loss),
                 described(recorders), described(kept)]  # fmt: skip
        folder = Checkpoint(checkpoint, asked, value, *data, *(tested or ()), *tensors_of(model).values())
    run = Run(model, state, rates, [*kept, *recorders], total, folder, every, progress)
    try:
        run.go()
        found = _dataset(run, len(kept), recursion)
    finally:
        run.close()
    more = {"float_type": str(weights[0].dtype).removeprefix("torch."), "device": str(place)}
    more |= {"torch_version": str(torch.__version__), "sde_sgd": sde.__version__}
    return found.assign_attrs(settings | recursion.temperature(rates) | more)


def _recorders(given) -> list[Recorder]:
    if isinstance(given, Recorder):
        given = [given]
    if not isinstance(given, Iterable):
        raise ValueError(f"recorders must be a sequence of Recorder, got {given!r}")
    found = [_checks.instance("a recorder", one, Recorder, "make it by recorder(…) or Recorder(…)") for one in given]
    names = [one.name for one in found]
    taken = {
        "epoch",
        "step",
        "weight",
        *(f"{name}_step" for name in names),
        *(d for one in found for d in one.dims or ()),
    }
    for name in names:
        if names.count(name) > 1 or name in taken:
            raise ValueError(
                f"{name!r} cannot be the name of a recorder{' twice' * (names.count(name) > 1)}; choose another"
            )
    return found


def _snapshots(snapshots, recorders, total: int, recursion: Recursion, labels: bool) -> list[Recorder]:
    """The recorders of the snapshots."""
    if snapshots is None:
        if recorders:
            return []
        when = When.at(steps=(0, total))
    elif not isinstance(snapshots, Iterable):
        raise ValueError(f"snapshots must be a sequence of epochs, got {snapshots!r}")
    else:
        last = total // recursion.per_epoch
        epochs = {_checks.whole("a snapshot", epoch, 0, last, "it is an epoch") for epoch in snapshots}
        if not epochs:
            raise ValueError(f"snapshots is empty: give at least one epoch from 0 to {last}")
        when = When.at(epochs=epochs)
    taken: dict[str, Callable] = {"weights": measures.Weights(), "loss": measures.Loss()}
    if labels:
        taken["accuracy"] = measures.Accuracy()
    clash = sorted(taken.keys() & {one.name for one in recorders})
    if clash:
        raise ValueError(f"{clash[0]!r} is the name of a snapshot: give the recorder another name=")
    return [Recorder(name, when, measure, _SNAPSHOT[name]) for name, measure in taken.items()]


def _dataset(run: Run, kept: int, recursion: Recursion) -> xr.Dataset:
    found = xr.Dataset()
    for place, (recorder, when, rows) in enumerate(zip(run.recorders, run.whens, run.rows)):
        if place < kept:
            whole = not (when % recursion.per_epoch).any()
            epochs = when // recursion.per_epoch if whole else when / recursion.per_epoch
            found = add_variable(found, recorder, "epoch", epochs, rows.array()).assign_coords(step=("epoch", when))
        else:
            found = add_variable(found, recorder, f"{recorder.name}_step", when, rows.array())
    return found
