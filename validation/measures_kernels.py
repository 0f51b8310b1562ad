"""Recorders on the compiled recursions: SGD of a finite sum, and of a network with one hidden layer."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

import sde_sgd as sde
from sde_sgd import _checks
from sde_sgd.paths._checkpoint import described

from ._checkpoints import Checkpoint, Rows
from ._recursion import MAX_STEPS, Rates, Recursion, as_data
from .measures_of_sums import Walked, measured
from .one_hidden_layer import OneHiddenLayer
from .recording import Recorder, RunState, add_variable, take

_CHUNK = 4096  # steps of a finite sum whose states are held at once


def recorded_sgd(
    finite_sum: sde.FiniteSum,
    start: ArrayLike,
    *,
    recorders: Recorder | Iterable[Recorder],
    learning_rate,
    batch_size: int,
    steps: int,
    sampling: str = "with_replacement",
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    svag: int = 1,
    seed: int = 0,
    replica: int = 0,
    checkpoint: str | os.PathLike | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> xr.Dataset:
    """One replica of `sde_sgd.sgd`, w ← w − ηv, v ← μv + ∇f_B(w) + λw, measured along the way by `recorder(…)`.

    The steps are those of the compiled kernel; loss, gradient, Hessian and D are those of the finite sum in closed form
    (a model trained by `train_sgd` has them from autograd). The whole of x is one layer.

    Parameters
    ----------
    start : (d,).   recorders : ready-made ones; a finite sum has no test set and no accuracy.
    learning_rate : η > 0, an array (steps,), or a function of an array of steps.
    batch_size, sampling, momentum, nesterov, weight_decay, svag, seed, replica : as of `sde_sgd.sgd`.
    checkpoint : a folder; the same call goes on after the last 4096 steps there, with the same bits.
    progress : called with (steps done, steps).

    Returns
    -------
    xarray.Dataset
        Of each recorder its variable over `<name>_step`, as `train_sgd` gives it; attrs: the settings.

    Raises `Diverged` with the step; ValueError for bad arguments and for a periodic variable, which has no straight
    segment.
    """
    _checks.instance("finite_sum", finite_sum, sde.FiniteSum)
    if any(finite_sum.domain.periodic):
        raise ValueError(f"{finite_sum.name} has a periodic variable: distances and segments on it are not straight")
    recursion = Recursion.checked(
        finite_sum.samples, batch_size, sampling, momentum, nesterov, weight_decay, svag, seed
    )  # fmt: skip
    total = _checks.whole("steps", steps, 0, MAX_STEPS - 1)
    rates, replica = Rates(learning_rate, total), _checks.whole("replica", replica, 0)
    x = _checks.finite_array("start", start, (finite_sum.dim,))
    chosen = _several(recorders)
    settings = recursion.settings() | rates.settings() | {
        "landscape": finite_sum.name, "steps": total, "replica": replica,
        **{f"parameter_{name}": value for name, value in finite_sum.parameters.items()},
    }  # fmt: skip
    question = [sde.__version__, settings, finite_sum.latex(), described(tuple(chosen))]
    data = [torch.from_numpy(np.array(column)) for column in finite_sum.data.values()]
    book = _Book(chosen, total, recursion, checkpoint, question, float(finite_sum.loss(x)), torch.from_numpy(x.copy()),
                 *data)  # fmt: skip
    try:
        kept = book.resume()
        begin, here, velocity = (0, x, None) if kept is None else (kept["at"], *_arrays(kept["state"]))
        while begin <= total:  # the steps begin … end − 1; the one after the last is taken to see where it leads
            end = min(begin + _CHUNK, total + 1)
            states, velocity = _piece(finite_sum, here, velocity, recursion, rates, begin, end, total, replica)
            for place in range(len(chosen)):
                due = book.due(place, end)
                if len(due):
                    walked = Walked(
                        finite_sum, due, states[due - begin], states[due - begin + 1], x, recursion, replica
                    )
                    book.put(place, measured(walked, chosen[place].measure, chosen[place].name))
            begin, here = end, states[-1]
            state = [None if part is None else torch.from_numpy(part.copy()) for part in (here, velocity)]
            book.save({"at": begin, "state": state})
            if progress is not None:
                progress(min(begin, total), total)
        found = book.dataset()
    finally:
        book.close()
    return found.assign_attrs(settings | recursion.temperature(rates) | {"sde_sgd": sde.__version__})


def recorded_trajectory(
    network: OneHiddenLayer,
    steps: int,
    recorders: Recorder | Iterable[Recorder],
    *,
    test: tuple[Tensor, Tensor] | None = None,
    checkpoint: str | os.PathLike | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> xr.Dataset:
    """`steps` steps of a `OneHiddenLayer`, from the one it stands at, measured along the way by `Recorder`s.

    The steps are those of the compiled kernel, the measurements the very ones of `train_sgd`. Steps, distances and
    schedules count from where the network stands now.

    test : (inputs, targets), for recorders with part="test".
    checkpoint : a folder; the same call with the network as it was goes on after its last measurement, with the same
        bits.

    Returns the Dataset of `recorded_sgd`. Raises as `OneHiddenLayer.run`.
    """
    _checks.instance("network", network, OneHiddenLayer)
    total = _checks.whole("steps", steps, 0, MAX_STEPS)
    twin, recursion = _Twin(network), network.recursion
    tested = None
    if test is not None:
        given, wanted = _checks.sequence("test", test, 2, "tensors")
        tested = as_data(given, wanted, torch.device("cpu"), "test ")
    first, begun = network.step, torch.from_numpy(network.weights)
    chosen = _several(recorders)
    asked = [network.question(total), described(tuple(chosen))]
    book = _Book(chosen, total, recursion, checkpoint, asked, 0.0, begun, *(tested or ()))
    try:
        kept = book.resume()
        if kept is not None:
            network.restore(kept["state"].numpy(), kept["at"])
        while True:
            done = network.step - first
            due = [place for place in range(len(chosen)) if len(book.due(place, done + 1))]
            if due:
                state = twin.state(begun, tested, last=first + max(total - 1, 0))
                for place in due:
                    book.put(place, take(chosen[place], twin.model, state)[None])
                book.save({"at": network.step, "state": torch.from_numpy(network.state)})
            if progress is not None:
                progress(done, total)
            if done == total:
                break
            network.run(book.next(done) - done)
        found = book.dataset()
    finally:
        book.close()
    return found.assign_attrs({**network.settings, "steps": total, "first_step": first, "sde_sgd": sde.__version__})


class _Twin:
    """A `OneHiddenLayer` in torch, from which measurements take what they look at."""

    def __init__(self, network: OneHiddenLayer):
        self._network = network
        self.model, self._inputs, self._targets, self._loss = network.in_torch()

    def state(self, start: Tensor, test, last: int) -> RunState:
        """What stands now, the weights put into the model; beyond step `last` its rate is used again."""
        network, recursion = self._network, self._network.recursion
        network.load_into(self.model)
        rate, velocity = network.rate(min(network.step, last)), torch.from_numpy(network.velocity)
        return RunState(network.step, network.step / recursion.per_epoch, rate, self._inputs, self._targets, test,
                        self._loss, start, recursion, 0, velocity)  # fmt: skip


class _Book:
    """The rows of several recorders, in memory or in a folder that a run goes on from."""

    def __init__(self, recorders, total: int, recursion: Recursion, folder, question: list, value: float, *tensors):
        self._recorders, self._total = recorders, total
        self._whens = [one.when.steps(total, recursion.per_epoch) for one in recorders]
        self._folder = None if folder is None else Checkpoint(folder, question, value, *tensors)
        paths = [None if self._folder is None else self._folder.rows_path(one.name) for one in recorders]
        self._rows = [Rows(one.name, len(when), path) for one, when, path in zip(recorders, self._whens, paths)]

    def resume(self) -> dict | None:
        """What was saved last, its rows counted; None where nothing was."""
        kept = None if self._folder is None else self._folder.load()
        for rows, value in zip(self._rows, [] if kept is None else kept["rows"]):
            rows.restore(value)
        return kept

    def due(self, place: int, end: int) -> NDArray[np.int64]:
        """The steps below `end` at which a recorder still has to measure."""
        left = self._whens[place][self._rows[place].count :]
        return left[left < end]

    def next(self, done: int) -> int:
        """The next step at which anything is measured, or the end."""
        after = [when[when > done][:1] for when in self._whens]
        return int(min([self._total, *(int(first[0]) for first in after if len(first))]))

    def put(self, place: int, values: NDArray) -> None:
        for value in values:
            self._rows[place].put(np.asarray(value))

    def save(self, state: dict) -> None:
        if self._folder is not None:
            for rows in self._rows:
                rows.sync()
            self._folder.save(state | {"rows": [rows.state() for rows in self._rows]})

    def dataset(self) -> xr.Dataset:
        found = xr.Dataset()
        for recorder, when, rows in zip(self._recorders, self._whens, self._rows):
            found = add_variable(found, recorder, f"{recorder.name}_step", when, rows.array())
        return found

    def close(self) -> None:
        for rows in self._rows:
            rows.close()


def _several(recorders) -> list[Recorder]:
    """The recorders as a list, each with a name of its own, at least one."""
    given = [recorders] if isinstance(recorders, Recorder) else list(recorders)
    found = [_checks.instance("a recorder", one, Recorder, "make it by recorder(…)") for one in given]
    names = [one.name for one in found]
    if not found or len(set(names)) < len(names):
        raise ValueError(f"recorders must be at least one, each with a name of its own, got {names}")
    return found


def _piece(
    finite_sum: sde.FiniteSum, start: NDArray, velocity: NDArray | None, recursion: Recursion, rates: Rates,
    begin: int, end: int, total: int, replica: int,
) -> tuple[NDArray, NDArray | None]:  # fmt: skip
    """x at the steps begin … end (n + 1, d), and v after the last; the rate of the last step is used again after it."""
    rate: float | NDArray = rates.number or np.empty(0)
    if rates.number is None:
        eta = rates(begin, min(end, total) - begin) if begin < total else rates(max(total - 1, 0), 1)
        rate = np.concatenate([np.full(begin, eta[0]), eta, eta[-1:]])[:end]  # `sgd` counts its steps from 0
    one = recursion
    run = sde.sgd(
        finite_sum, start, learning_rate=rate, batch_size=one.batch_size, steps=end - begin, sampling=one.sampling,
        momentum=one.momentum, nesterov=one.nesterov, weight_decay=one.weight_decay, svag=one.svag, seed=one.seed,
        save_every=1, start_velocity=velocity, first_step=begin, first_replica=replica, threads=1,
    )  # fmt: skip
    names = finite_sum.variables
    if "state" in run:
        states = run["state"].values[0]
        speeds = run["velocity"].values[0] if one.momentum else None
    else:
        states = np.stack([run[name].values[0] for name in names], axis=-1)
        speeds = np.array([float(run[f"velocity_{name}"].values[0]) for name in names]) if one.momentum else None
    return states, speeds


def _arrays(state: list) -> tuple[NDArray, NDArray | None]:
    return state[0].numpy(), None if state[1] is None else state[1].numpy()
