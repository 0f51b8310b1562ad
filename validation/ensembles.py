"""Replicas of SGD on one network, all of them in each operation: vmap(grad) over stacked weights, compiled."""

from __future__ import annotations

import copy
import types
import warnings
from collections.abc import Callable

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

import sde_sgd as sde
from sde_sgd import _checks
from sde_sgd.errors import Diverged

from ._memory import require_memory
from ._recursion import MAX_STEPS, Rates, Recursion, as_data
from ._samples import in_words, one_number
from ._training_mode import check_draws_nothing, forget_running_statistics
from .measures import flat, trainable

Stacked = dict[str, Tensor]  # weights by name, of all replicas: (replicas, *shape)

_COPIES = 6  # of the stacked weights: themselves, velocity, gradient, their successors


def ensemble(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    *,
    replicas: int,
    steps: int,
    learning_rate,
    batch_size: int,
    sampling: str = "with_replacement",
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    svag: int = 1,
    loss: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy,
    start: ArrayLike | Tensor | None = None,
    start_velocity: ArrayLike | Tensor | None = None,
    first_replica: int = 0,
    first_step: int = 0,
    save_every: int | None = None,
    observe: Callable[[Callable[[Tensor], Tensor], Tensor], Tensor | dict[str, Tensor]] | None = None,
    compile: bool = True,
    device=None,
    seed: int = 0,
    progress: Callable[[int, int], object] | None = None,
) -> xr.Dataset:
    """Independent runs of the recursion of `train_sgd` from one start, side by side: w_r ← w_r − η_r v_r.

    Replica r draws the samples that `train_sgd(…, replica=r)` draws, and its weights are the same to rounding. The
    model is copied and left alone.

    Parameters
    ----------
    learning_rate : η > 0, one per replica, or a function of an array of steps for all of them.
    batch_size, sampling, momentum, nesterov, weight_decay, svag, loss, seed : as of `train_sgd`.
    start : (d,) or (replicas, d), in the order of `parameters_to_vector` over trainable weights; default the model's.
    start_velocity, first_replica, first_step : continue a run: its last weights and velocity, at its next step.
    save_every : save at the start and every so many steps; None: after the last one.
    observe : what to save in place of the weights: `observe(predict, weights)` of one replica, `predict(inputs)` being
        the outputs of the network and `weights` (d,), gives a tensor or a dict of them. It runs under
        `torch.func.vmap`.
    compile : by `torch.compile`; it takes some seconds, once per size of a batch. Where that fails there is a
        warning, and the run goes on without: attrs["compiled"] tells.
    device : default the model's own.   progress : called with (steps done, steps) now and then.

    Batch norm uses the statistics of each replica's batch and keeps no running averages (as after
    `torch.func.replace_all_batch_norm_modules_`): the weights are those of `train_sgd`, while `observe` sees the
    statistics of the inputs it gives. Dropout and other layers that draw are refused.

    Returns
    -------
    xarray.Dataset
        `weights` (replica, step, weight), or what was observed, (replica, step, …); with momentum and no `observe`
        `velocity` (replica, weight) after the last step.

    Raises `Diverged` naming replica and step; ValueError for bad arguments and for what does not fit in memory.

    Not for one network of a million weights: stacked convolutions gain nothing on a CPU. There a loop of `train_sgd`
    is as fast.
    """
    _checks.instance("model", model, nn.Module)
    if not trainable(model):
        raise ValueError("the model has no trainable weight: nothing to train")
    place = trainable(model)[0].device if device is None else torch.device(device)
    data = as_data(inputs, targets, place)
    recursion = Recursion.checked(len(data[0]), batch_size, sampling, momentum, nesterov, weight_decay, svag, seed)
    replicas = _checks.whole("replicas", replicas, 1, 2**31)
    steps = _checks.whole("steps", steps, 1, MAX_STEPS)
    first_step = _checks.whole("first_step", first_step, 0, MAX_STEPS - steps)
    first_replica = _checks.whole("first_replica", first_replica, 0, 2**63 - 1 - replicas)
    every = steps if save_every is None else _checks.whole("save_every", save_every, 1, steps)
    saved = np.arange(0 if save_every is not None else steps, steps + 1, every)
    _checks.function("observe", observe)
    _checks.function("progress", progress)
    network = copy.deepcopy(model).to(place).train()
    forget_running_statistics(network)
    _check_runs(network, data, loss)
    weight = trainable(network)[0]
    size = flat(network).numel()
    require_memory(
        _COPIES * replicas * size * weight.element_size(), f"{replicas} replicas of {size} weights",
        "take fewer, and the others by first_replica", place,
    )  # fmt: skip
    if observe is None:
        require_memory(
            len(saved) * replicas * size * weight.element_size(), f"the weights of {replicas} replicas at {len(saved)} "
            "steps", "save less often, or give observe", torch.device("cpu"),
        )  # fmt: skip
    rates = _rates(learning_rate, replicas, first_step + steps)
    run = _Replicas(network, data, loss, recursion, rates, replicas, first_replica, compile)
    run.begin(start, start_velocity)
    found: dict[str, list[NDArray]] = {}
    step, end = first_step, first_step + steps
    for stop in (*(saved + first_step), end):
        while step < stop:
            step = run.advance(step, int(stop), end)
            if progress is not None:
                progress(step - first_step, steps)
        if len(next(iter(found.values()), ())) < len(saved):
            for name, value in run.look(observe).items():
                found.setdefault(name, []).append(value)
    settings = recursion.settings() | {"steps": steps, "first_replica": first_replica, "first_step": first_step}
    result = _dataset(run, found, saved + first_step, observe is None)
    if np.ndim(learning_rate):
        result["learning_rate"] = ("replica", rates[1].numpy())
    else:
        settings |= rates[0].settings() | recursion.temperature(rates[0])
    return result.assign_attrs(settings | run.attributes())


class _Replicas:
    """The stacked weights, and the one function that moves them."""

    def __init__(self, network, data, loss, recursion: Recursion, rates, replicas: int, first: int, compile: bool):
        self._network, self._data, self.recursion = network, data, recursion
        self._rates, self._factors = rates[0], rates[1].to(data[0].device)
        self.count, self.first = replicas, first
        self._device = data[0].device
        self._names = [name for name, weight in network.named_parameters() if weight.requires_grad]
        self._plain = _step(network, loss, recursion)
        self._move = torch.compile(_apart(self._plain), dynamic=False) if compile else self._plain
        self.compiled = bool(compile)
        self._drawn = (0, 0)

    def begin(self, start, velocity) -> None:
        own = flat(self._network)
        self._weights = self._split(own if start is None else self._flat("start", start, own))
        if velocity is not None and not self.recursion.momentum:
            raise ValueError("start_velocity needs momentum > 0: without it there is no velocity")
        self._velocity: Stacked = {}
        if self.recursion.momentum:
            given = torch.zeros_like(own) if velocity is None else self._flat("start_velocity", velocity, own)
            self._velocity = self._split(given)

    def _flat(self, name: str, value, own: Tensor) -> Tensor:
        array = _checks.finite_array(name, value.detach().cpu().numpy() if torch.is_tensor(value) else value)
        if array.shape not in (own.shape, (self.count, *own.shape)):
            raise ValueError(f"{name} must have shape {(*own.shape,)} or {(self.count, *own.shape)}, got {array.shape}")
        return torch.as_tensor(array, dtype=own.dtype, device=own.device)

    def _split(self, vectors: Tensor) -> Stacked:
        """Weights by name of (d,) or (replicas, d)."""
        shapes = {name: weight.shape for name, weight in self._network.named_parameters() if name in self._names}
        parts = vectors.expand(self.count, -1).split([shape.numel() for shape in shapes.values()], dim=1)
        return {name: part.reshape(self.count, *shapes[name]).clone() for name, part in zip(shapes, parts)}

    def advance(self, step: int, stop: int, end: int) -> int:
        """Steps from `step` to `stop`, or fewer: those drawn together, none of them beyond `end`."""
        first, drawn = self._draw(step, end)
        stop = min(stop, drawn)
        with torch.no_grad(), in_words(f"a step of the ensemble after step {step} fails"):
            for at in range(step, stop):
                picks = self._picks[at - first][..., : self.recursion.size_of(at)]
                self._weights, self._velocity = self._call(picks, self._eta[at - first] * self._factors)
        finite = torch.stack([weight.flatten(1).isfinite().all(1) for weight in self._weights.values()]).all(0)
        if not finite.all():
            bad = int((~finite).int().argmax())
            raise Diverged(
                f"the weights of replica {self.first + bad} are no longer finite by step {stop} "
                f"({int((~finite).sum())} such replicas): lower learning_rate",
                path=self.first + bad, step=stop,
            )  # fmt: skip
        return stop

    def _call(self, picks: Tensor, rates: Tensor) -> tuple[Stacked, Stacked]:
        arguments = (self._weights, self._velocity, *self._data, picks, rates)
        if self._move is self._plain:
            return self._plain(*arguments)
        try:
            return self._move(*arguments)
        except Exception as fault:  # whatever a compiler can raise; the plain form then shows the user's own faults
            found = self._plain(*arguments)
            reason = (" ".join(str(fault).split()) or type(fault).__name__)[:200]
            warnings.warn(f"torch.compile failed ({reason}): the ensemble runs without", RuntimeWarning, stacklevel=4)
            self._move, self.compiled = self._plain, False
            return found

    def _draw(self, step: int, end: int) -> tuple[int, int]:
        if not self._drawn[0] <= step < self._drawn[1]:
            size = self.recursion.at_once(self.count)
            first = step // size * size if self.recursion.sampling == "reshuffling" else step  # whole epochs
            end = min(first + size, end)
            replicas = range(self.first, self.first + self.count)
            drawn = np.stack([self.recursion.picks(first, end - first, replica) for replica in replicas], axis=1)
            self._picks = torch.from_numpy(drawn).to(self._device)
            self._eta = (self._rates(first, end - first) / self.recursion.svag).tolist()
            self._drawn = (first, end)
        return self._drawn

    def look(self, observe: Callable | None) -> dict[str, NDArray]:
        """The weights, or what is observed of every replica, as arrays (replicas, …)."""
        if observe is None:
            return {"weights": _joined(self._weights)}

        def one(weights: Stacked):
            def predict(inputs: Tensor) -> Tensor:
                return functional_call(self._network, weights, (inputs,))

            return observe(predict, torch.cat([weight.reshape(-1) for weight in weights.values()]))

        with torch.no_grad(), in_words("observe fails under torch.func.vmap"):
            found = vmap(one)(self._weights)
        if torch.is_tensor(found):
            found = {"observed": found}
        if not isinstance(found, dict) or not all(torch.is_tensor(value) for value in found.values()):
            raise ValueError(f"observe must give a tensor or a dict of tensors, got {type(found).__name__}")
        return {name: value.cpu().numpy() for name, value in found.items()}

    def velocity(self) -> NDArray | None:
        return _joined(self._velocity) if self._velocity else None

    def attributes(self) -> dict:
        first = next(iter(self._weights.values()))
        return {
            "compiled": int(self.compiled), "float_type": str(first.dtype).removeprefix("torch."),
            "device": str(self._device), "torch_version": str(torch.__version__), "sde_sgd": sde.__version__,
        }  # fmt: skip


def _check_runs(network: nn.Module, data: tuple[Tensor, Tensor], loss: Callable) -> None:
    try:
        check_draws_nothing(network, data[0])
    except ValueError:
        raise ValueError(
            "the model draws random numbers in training mode (dropout, augmentation), and replicas side by side have "
            "no streams of their own: take those layers out, or loop over train_sgd(…, replica=r)"
        ) from None
    with torch.no_grad(), in_words("the model or the loss cannot be evaluated on the data"):
        value = float(one_number(loss(network(data[0]), data[1])))
    if not np.isfinite(value):
        raise ValueError(f"loss {value} before training: look for NaN or infinity in inputs, targets and weights")


def _step(network: nn.Module, loss: Callable, recursion: Recursion) -> Callable:
    """One step of all replicas: (weights, velocity, inputs, targets, picks, rates) ↦ (weights, velocity)."""
    halves, momentum, decay = recursion.halves, recursion.momentum, recursion.weight_decay
    nesterov = recursion.nesterov

    def batch_loss(weights: Stacked, inputs: Tensor, targets: Tensor) -> Tensor:
        parts = [loss(functional_call(network, weights, (inputs[i],)), targets[i]) for i in range(len(halves))]
        if len(halves) == 1:
            return one_number(parts[0]).reshape(())
        return (halves[0] * one_number(parts[0]) + halves[1] * one_number(parts[1])).reshape(())

    slopes = vmap(grad(batch_loss))

    def step(weights: Stacked, velocity: Stacked, inputs: Tensor, targets: Tensor, picks: Tensor, rates: Tensor):
        pulls = slopes(weights, inputs[picks], targets[picks])
        moved, speeds = {}, {}
        for name, weight in weights.items():
            pull = pulls[name] + decay * weight if decay else pulls[name]
            if momentum:
                speeds[name] = momentum * velocity[name] + pull
                pull = pull + momentum * speeds[name] if nesterov else speeds[name]
            moved[name] = weight - rates.to(weight.dtype).reshape(-1, *[1] * (weight.ndim - 1)) * pull
        return moved, speeds

    return step


def _apart(function):
    """The same function with a code object of its own: dynamo counts recompilations per code object, and gives up
    after eight, so that the ninth ensemble of a program would not be compiled."""
    code = function.__code__.replace(co_name=f"{function.__name__}_{id(function):x}")
    return types.FunctionType(code, function.__globals__, function.__name__, None, function.__closure__)


def _rates(value, replicas: int, steps: int) -> tuple[Rates, Tensor]:
    """A schedule and a factor per replica: η_r(n) = schedule(n) · factor_r."""
    if callable(value) or np.ndim(value) == 0:
        return Rates(value, steps), torch.ones(replicas, dtype=torch.float64)
    array = _checks.finite_array("learning_rate", value, (replicas,))
    if not (array > 0).all():
        raise ValueError(f"learning_rate must be > 0 for every replica, got {array.min():g}")
    return Rates(1.0, steps), torch.from_numpy(array)


def _joined(parts: Stacked) -> NDArray:
    return torch.cat([part.flatten(1) for part in parts.values()], dim=1).cpu().numpy()


def _dataset(run: _Replicas, found: dict, steps: NDArray, weights: bool) -> xr.Dataset:
    result = xr.Dataset(coords={"replica": run.first + np.arange(run.count), "step": steps})
    for name, values in found.items():
        array = np.stack(values, axis=1)
        inner = ("weight",) if weights else tuple(f"{name}_{axis}" for axis in range(array.ndim - 2))
        result[name] = (("replica", "step", *inner), array)
    if weights and (velocity := run.velocity()) is not None:
        result["velocity"] = (("replica", "weight"), velocity)
    return result
