"""Long trajectories of SGD on networks with one hidden layer: millions of steps, every one of them recorded."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

import sde_sgd as sde
from sde_sgd import _checks, _memory
from sde_sgd._files import replacing
from sde_sgd.errors import Diverged
from sde_sgd.results import provenance

from . import _one_hidden_layer_kernel as kernel
from ._recursion import Recursion

_CHUNK = 20_000  # steps at once: picks of a few MB, and a whole number of them between checkpoints
_ACTIVATIONS = {nn.ReLU: kernel.RELU, nn.Tanh: kernel.TANH}
_CRITERIA = {"cross_entropy": kernel.CROSS_ENTROPY, "mse": kernel.MSE}


class OneHiddenLayer:
    """SGD on mean f_k(w), f_k = ℓ(V a(W x + b) + c, y), by one compiled loop: `torch.optim.SGD`'s own recursion

        v ← μv + ∇f_B(w) + λw,    w ← w − ηv    (Nesterov: η(∇f_B + λw + μv)).

    Parameters
    ----------
    model : nn.Sequential of Linear, ReLU or Tanh, Linear, in float64; a Flatten may come first. Its weights are the
        start, and are left alone: `weights` are those reached, in the order of `parameters_to_vector`.
    inputs, targets : N samples; targets are labels for "cross_entropy", (N, C) numbers for "mse" (mean over both).
    learning_rate : η, or an array of one per step from step 0 on.
    sampling : as `sde_sgd.sgd`, and with the same draws: `sde_sgd.sample_indices` replays them.

    Raises ValueError for a model of another form, float type or bias, and arguments outside their range. Not for
    convolutions, batch norm or deeper networks: `train_sgd` takes those.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Tensor,
        targets: Tensor,
        *,
        learning_rate: float | ArrayLike,
        batch_size: int,
        sampling: str = "with_replacement",
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        loss: str = "cross_entropy",
        seed: int = 0,
    ):
        first, activation, last = _parts(model)
        self._sizes = (first.in_features, first.out_features, last.out_features)
        criterion = _CRITERIA[_checks.choice("loss", loss, list(_CRITERIA))]
        self._kinds = (_ACTIVATIONS[type(activation)], criterion)
        self._inputs, self._labels, self._targets = _samples(inputs, targets, self._sizes, loss)
        self.recursion = Recursion.checked(
            len(self._inputs), batch_size, sampling, momentum, nesterov, weight_decay, 1, seed
        )
        self._rates = _checks.finite_array("learning_rate", learning_rate)
        if self._rates.ndim > 1 or not (self._rates > 0).all():
            raise ValueError(f"learning_rate must be > 0, a number or one per step, got {learning_rate!r}")
        self._order = _torch_order(self._sizes)
        start = parameters_to_vector(model.parameters()).detach().cpu().numpy()
        self._state = np.zeros((2, start.size))  # weights and velocity, as the kernel orders them
        self._state[0, self._order] = start
        self.step = 0
        self.settings = {
            "learning_rate": self._rates.tolist() if self._rates.ndim == 0 or self._rates.size <= 16 else "an array",
            **{name: value for name, value in self.recursion.settings().items() if name not in ("svag", "epoch_steps")},
            "loss": loss, "activation": type(activation).__name__.lower(),
        }  # fmt: skip

    @property
    def weights(self) -> NDArray[np.float64]:
        """(d,) as `parameters_to_vector` orders them, after `step` steps."""
        return self._state[0, self._order]

    @property
    def steps_per_epoch(self) -> int:
        """⌈N/b⌉."""
        return self.recursion.per_epoch

    @property
    def state(self) -> NDArray[np.float64]:
        """(2, d), a copy: weights and velocity, as the kernel orders them; with `step`, all that a run goes on from."""
        return self._state.copy()

    def restore(self, state: ArrayLike, step: int) -> None:
        """Be where a run of the same settings was whose `state` and `step` these are."""
        self._state[:] = _checks.finite_array("state", state, self._state.shape)
        self.step = _checks.whole("step", step, 0)

    def nudge(self, displacement: ArrayLike) -> None:
        """w ← w + displacement (d,), in the order of `parameters_to_vector`; the velocity stays."""
        self._state[0, self._order] += _checks.finite_array("displacement", displacement, self._order.shape)

    def question(self, *more) -> str:
        """A digest of what the steps from here on depend on (state, data, settings, version), and of `more`."""
        digest = hashlib.blake2b(repr((sde.__version__, self.settings, self._sizes, self.step)).encode(), digest_size=8)
        for item in (self._state, self._rates, self._inputs, self._labels, self._targets, *more):
            digest.update(np.ascontiguousarray(-1 if item is None else item).tobytes())
        return digest.hexdigest()

    def load_into(self, model: nn.Module) -> None:
        """Give a model of the same form the weights reached."""
        vector_to_parameters(torch.from_numpy(self.weights), model.parameters())

    @property
    def velocity(self) -> NDArray[np.float64]:
        """(d,) v before the next step, in the order of `weights`."""
        return self._state[1, self._order]

    def rate(self, step: int) -> float:
        """η of a step; beyond those that were given, of the last one."""
        return float(self._rates if self._rates.ndim == 0 else self._rates[min(step, self._rates.size - 1)])

    def in_torch(self) -> tuple[nn.Sequential, Tensor, Tensor, Callable[[Tensor, Tensor], Tensor]]:
        """(model, inputs, targets, loss): the same f in torch; inputs (N, I) and targets share their memory."""
        n_in, n_hidden, n_out = self._sizes
        with torch.random.fork_rng(devices=[]):
            first, last = (nn.Linear(*sizes, dtype=torch.float64) for sizes in ((n_in, n_hidden), (n_hidden, n_out)))
        model = nn.Sequential(first, nn.ReLU() if self._kinds[0] == kernel.RELU else nn.Tanh(), last)
        self.load_into(model)
        crossed = self._kinds[1] == kernel.CROSS_ENTROPY
        targets = torch.from_numpy(self._labels if crossed else self._targets)
        loss = nn.functional.cross_entropy if crossed else nn.functional.mse_loss
        return model, torch.from_numpy(self._inputs), targets, loss

    def run(
        self, steps: int, directions: ArrayLike | None = None, every: int = 1
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Take steps; the projections (n, k) of the weights on `directions` (k, d), and mini-batch losses (n,).

        One row for each step whose number, counted from 1 at the very start, is a multiple of `every`; the loss is that
        of the step's batch, before the step and without weight decay. Raises Diverged, naming the step.
        """
        steps = _checks.whole("steps", steps, 1)
        every = _checks.whole("every", every, 1)
        one = self.recursion
        along = np.empty((self._state.shape[1], 0)) if directions is None else self._ordered(directions)
        rows = (self.step + steps) // every - self.step // every
        _memory.refuse_beyond(8.0 * rows * (along.shape[1] + 1), f"{rows} rows of projections", "record less often")
        projections, losses = np.empty((rows, along.shape[1])), np.empty(rows)
        row = 0
        for begin in range(0, steps, _CHUNK):
            count = min(_CHUNK, steps - begin)
            picks = sde.sample_indices(
                one.samples, batch_size=one.batch_size, steps=count, seed=one.seed, sampling=one.sampling,
                first_step=self.step,
            )  # fmt: skip
            end = row + (self.step + count) // every - self.step // every
            weights, velocity = self._state
            taken = kernel.advance(
                self._inputs, self._labels, self._targets, picks, weights, velocity, self._sizes, self._kinds,
                self._rates_of(count), one.momentum, one.nesterov, one.weight_decay, self.step > 0, along, every,
                self.step, projections[row:end], losses[row:end],
            )  # fmt: skip
            if taken < count or not np.isfinite(self._state).all():
                raise Diverged(
                    f"the weights are no longer finite by step {self.step + min(taken + 1, count)}; lower "
                    f"learning_rate={self._rates.ravel()[0]:g}"
                )
            self.step += count
            row = end
        return projections, losses

    def _rates_of(self, count: int) -> NDArray[np.float64]:
        if self._rates.ndim == 0:
            return np.full(count, float(self._rates))
        if self.step + count > self._rates.size:
            raise ValueError(
                f"learning_rate holds {self._rates.size} steps, and step {self.step + count} was asked for"
            )
        return self._rates[self.step : self.step + count]

    def _ordered(self, directions: ArrayLike) -> NDArray[np.float64]:
        given = _checks.finite_array("directions", directions)
        size = self._state.shape[1]
        if given.ndim != 2 or given.shape[1] != size:
            raise ValueError(f"directions must have shape (k, {size}), got {given.shape}")
        ordered = np.empty(given.T.shape)
        ordered[self._order] = given.T
        return ordered


def trajectory(
    network: OneHiddenLayer,
    steps: int,
    directions: ArrayLike,
    *,
    every: int = 1,
    snapshot_every: int | None = None,
    folder: str | Path | None = None,
    chunk: int = 200_000,
    progress: Callable[[int, int], object] | None = None,
) -> xr.Dataset:
    """`steps` steps of `network`, in a form that the core's tests of currents and peaks take.

    Returns
    -------
    xarray.Dataset
        `state` (replica, time, variable), the projections on `directions` (k, d) of every `every`-th step; `loss`
        (time); with `snapshot_every`, `weights` (snapshot, weight) and `snapshot_step`. Time is η × steps if η is one
        number, else steps.

    With `folder`, every `chunk` steps are kept there: the same call goes on after the last of them, with the same bits.
    ValueError where the folder holds another run.
    """
    steps = _checks.whole("steps", steps, 1)
    chunk = _checks.whole("chunk", chunk, 1)
    if snapshot_every is not None:
        snapshot_every = _checks.whole("snapshot_every", snapshot_every, 1)
    _checks.function("progress", progress)
    first = network.step
    kept = None if folder is None else _Chunks(Path(folder), network, steps, directions, every, snapshot_every, chunk)
    parts = []
    for begin in range(0, steps, chunk):
        part = kept.read(begin) if kept is not None else None
        if part is None:
            part = _chunk(network, min(chunk, steps - begin), directions, every, snapshot_every)
            if kept is not None:
                kept.write(begin, part)
        else:
            network.restore(part["end"], first + min(begin + chunk, steps))
        parts.append(part)
        if progress is not None:
            progress(min(begin + chunk, steps), steps)
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0] if name != "end"}
    return _dataset(network, joined, first, every, snapshot_every)


def _chunk(network: OneHiddenLayer, steps: int, directions, every: int, snapshot_every: int | None) -> dict:
    """The projections, losses and snapshots of some steps, and the state after them."""
    rows, values, snapshots, left = [], [], [], steps
    while left:
        stop = left if snapshot_every is None else min(left, snapshot_every - network.step % snapshot_every)
        found, losses = network.run(stop, directions, every)
        rows.append(found)
        values.append(losses)
        left -= stop
        if snapshot_every is not None and network.step % snapshot_every == 0:
            snapshots.append(network.weights)
    part = {"state": np.concatenate(rows), "loss": np.concatenate(values), "end": network.state}
    if snapshot_every is not None:
        part["weights"] = np.array(snapshots).reshape(-1, network.weights.size)
    return part


def _dataset(network: OneHiddenLayer, joined: dict, first: int, every: int, snapshot_every: int | None) -> xr.Dataset:
    rate = float(network._rates) if network._rates.ndim == 0 else 1.0
    numbers = (first // every + 1 + np.arange(len(joined["loss"]))) * every
    names = [f"direction_{k}" for k in range(joined["state"].shape[1])]
    found = xr.Dataset(
        {"state": (("replica", "time", "variable"), joined["state"][None]), "loss": ("time", joined["loss"])},
        {"time": rate * numbers, "step": ("time", numbers), "variable": names},
        {**network.settings, "time_unit": "learning rate × steps" if network._rates.ndim == 0 else "steps"},
    )
    if snapshot_every is not None:
        begin = first // snapshot_every + 1
        found["weights"] = (("snapshot", "weight"), joined["weights"])
        found["snapshot_step"] = ("snapshot", (begin + np.arange(len(joined["weights"]))) * snapshot_every)
    return found.assign_attrs(provenance(network.settings))


class _Chunks:
    """One file per chunk, written whole, named by the question and its first step."""

    def __init__(self, folder: Path, network: OneHiddenLayer, *asked):
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._question = folder, network.question(*asked)
        others = [file for file in folder.glob("*.npz") if not file.name.startswith(self._question)]
        if others:
            raise ValueError(f"{folder} holds another run ({others[0].name}); delete it, or name another folder")

    def _path(self, begin: int) -> Path:
        return self._folder / f"{self._question}-{begin:012d}.npz"

    def read(self, begin: int) -> dict | None:
        if not self._path(begin).is_file():
            return None
        with np.load(self._path(begin), allow_pickle=False) as file:
            return dict(file)

    def write(self, begin: int, part: dict) -> None:
        with replacing(self._path(begin)) as partial, open(partial, "wb") as file:
            np.savez(file, **part)


def _parts(model: nn.Module) -> tuple[nn.Linear, nn.Module, nn.Linear]:
    sequence = _checks.instance("model", model, nn.Sequential, "the kernel knows Linear, ReLU or Tanh, Linear")
    parts = [part for part in sequence if not isinstance(part, nn.Flatten)]
    kinds = ", ".join(type(part).__name__ for part in parts)
    if len(parts) != 3 or not (isinstance(parts[0], nn.Linear) and isinstance(parts[2], nn.Linear)):
        raise ValueError(f"the model must be Linear, ReLU or Tanh, Linear, got {kinds}; use train_sgd for others")
    if type(parts[1]) not in _ACTIVATIONS:
        raise ValueError(f"the hidden layer must be followed by ReLU or Tanh, got {kinds}; use train_sgd for others")
    if parts[0].bias is None or parts[2].bias is None:
        raise ValueError("both Linear layers must have a bias; use train_sgd for others")
    if not all(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("every weight of the model must be trainable (requires_grad); use train_sgd for frozen ones")
    if any(parameter.dtype != torch.float64 for parameter in model.parameters()):
        raise ValueError("the model must be float64, as model.double() makes it: increments near a minimum round away")
    return parts[0], parts[1], parts[2]


def _samples(inputs: Tensor, targets: Tensor, sizes: tuple[int, int, int], loss: str):
    """(inputs (N, I), labels (N,), targets (N, C)) as arrays; the one of the two that is not used is empty."""
    rows = np.ascontiguousarray(inputs.detach().cpu().double().flatten(1).numpy())
    wanted = targets.detach().cpu().numpy()
    if rows.shape[1] != sizes[0] or len(rows) != len(wanted) or len(rows) < 2:
        raise ValueError(
            f"inputs {tuple(inputs.shape)} and targets {tuple(targets.shape)} must be at least 2 samples of {sizes[0]} "
            "numbers, with a target each"
        )
    if not np.isfinite(rows).all():
        raise ValueError("inputs hold NaN or infinity")
    if loss == "cross_entropy":
        if wanted.ndim != 1 or wanted.dtype.kind not in "iu" or not 0 <= wanted.min() <= wanted.max() < sizes[2]:
            raise ValueError(f"targets must be labels from 0 to {sizes[2] - 1}, one per sample, for cross_entropy")
        return rows, np.ascontiguousarray(wanted, np.int64), np.empty((0, 0))
    values = np.ascontiguousarray(wanted, float)
    if values.shape != (len(rows), sizes[2]) or not np.isfinite(values).all():
        raise ValueError(f"targets must be finite, of shape ({len(rows)}, {sizes[2]}), for mse; got {values.shape}")
    return rows, np.empty(0, np.int64), values


def _torch_order(sizes: tuple[int, int, int]) -> NDArray[np.int64]:
    """Where each weight of `parameters_to_vector` stands in the kernel's order."""
    n_in, n_hidden, n_out = sizes
    ends = np.cumsum([0, n_in * n_hidden, n_hidden, n_hidden * n_out, n_out])
    parts = [np.arange(a, b) for a, b in itertools.pairwise(ends)]
    parts[0] = parts[0].reshape(n_in, n_hidden).T.ravel()
    parts[2] = parts[2].reshape(n_hidden, n_out).T.ravel()
    return np.concatenate(parts)
