"""Training by other optimisers than plain SGD, all on the same batches: those of torch, SVRG, Entropy-SGD, Parle."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import vector_to_parameters

import sde_sgd as sde
from sde_sgd import _checks
from sde_sgd.entropy_descent import parle_rounds
from sde_sgd.errors import Diverged

from ._recursion import MAX_STEPS, Rates, Recursion, are_labels, as_data
from ._samples import in_words, one_number
from ._training_mode import check_draws_nothing
from .measures import flat, mean_loss, trainable

_TORCH: dict[str, tuple[Any, dict]] = {
    "sgd": (torch.optim.SGD, {}),
    "momentum": (torch.optim.SGD, {"momentum": 0.9}),
    "nesterov": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "adagrad": (torch.optim.Adagrad, {"eps": 1e-10}),
    "rmsprop": (torch.optim.RMSprop, {"alpha": 0.99, "eps": 1e-8}),
    "adam": (torch.optim.Adam, {"betas": (0.9, 0.999), "eps": 1e-8}),
}
_CHAIN = {"inner_steps": 20, "tether": 1.0, "keep": 0.75, "pull": 1.0, "noise": 0.0}
_OWN: dict[str, dict] = {
    "svrg": {"period": None},
    "entropy-sgd": _CHAIN,
    "parle": {**_CHAIN, "replicas": 3, "elastic": 1.0},
    "elastic-sgd": {"replicas": 3, "elastic": 1.0},
}
OPTIMISERS = (*_TORCH, *_OWN)


def optimise(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    *,
    optimiser: str,
    learning_rate,
    batch_size: int,
    epochs: int | None = None,
    steps: int | None = None,
    sampling: str = "with_replacement",
    weight_decay: float = 0.0,
    loss: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy,
    snapshots: Iterable[int] | None = None,
    replica: int = 0,
    seed: int = 0,
    progress: Callable[[int, int], object] | None = None,
    **options,
) -> xr.Dataset:
    """Train `model` in place by one of `OPTIMISERS`, every one of them on the same mini-batches.

    ===========  ========================================================================  =============================
    sgd          w ← w − η g_B(w)                                                          –
    momentum     heavy ball, as `train_sgd`                                                momentum 0.9
    nesterov     Nesterov's, in torch's form                                               momentum 0.9
    adagrad      η g/√(Σ g²)  (Duchi, Hazan & Singer 2011)                                 eps, lr_decay
    rmsprop      η g/√(mean g²)  (Tieleman & Hinton 2012)                                  alpha 0.99, eps, momentum
    adam         Kingma & Ba (2015)                                                        betas (0.9, 0.999), eps
    svrg         g_B(w) − g_B(w̃) + ∇f(w̃), w̃ the w of every `period`-th step              period: one epoch
                 (Johnson & Zhang 2013)
    entropy-sgd  inner chains around w, then a step to their mean: `sde_sgd.entropy_sgd`   inner_steps 20, tether 1,
                 (Chaudhari et al. 2017)                                                   keep 0.75, pull 1, noise 0
    parle        replicas of it, drawn to their mean: `sde_sgd.parle`                      these, replicas 3, elastic 1
    elastic-sgd  replicas of SGD, drawn to their mean                                      replicas 3, elastic 1
    ===========  ========================================================================  =============================

    Parameters
    ----------
    steps or epochs : of mini-batches per replica, an epoch being ⌈N/b⌉. Inner steps count, and the last round is
        a whole one, so that every optimiser has seen as many batches; the gradients that SVRG takes beside are in
        ``attrs["gradients"]``, evaluations per sample over all replicas.
    learning_rate : η > 0, an array of one per step, or a function of an array of steps.
    batch_size, sampling, replica, seed : the draws of `train_sgd`; replica a of n has those of n·replica + a.
    weight_decay : λ, added to every gradient as λw.
    snapshots : steps at which weights are kept, those within a round at its end; default start and end.
    options : of the optimiser, as in the table; those of torch as torch names them.

    Returns
    -------
    xarray.Dataset
        `weights` (step, weight) in the order of ``parameters_to_vector``, of replicas their mean; `loss` (step) over
        all N; `accuracy` for labels; of several replicas `replica_weights` (replica, weight) at the end.

    Raises
    ------
    Diverged
        Weights that are no longer finite, naming the step.
    ValueError
        An option that the optimiser does not take, an argument outside its range, a model with dropout, or with batch
        norm, whose running averages would be of no one replica.

    Not for long runs of plain SGD: `train_sgd` records more, resumes, and is as fast.
    """
    _checks.choice("optimiser", optimiser, OPTIMISERS)
    _checks.instance("model", model, nn.Module)
    if not trainable(model):
        raise ValueError("the model has no trainable weight: nothing to train")
    data = as_data(inputs, targets, trainable(model)[0].device)
    recursion = Recursion.checked(len(data[0]), batch_size, sampling, 0.0, False, weight_decay, 1, seed)
    if (epochs is None) == (steps is None):
        raise ValueError("give either epochs or steps")
    if epochs is not None:
        steps = _checks.whole("epochs", epochs, 0) * recursion.per_epoch
    total = _checks.whole("steps", steps, 0, MAX_STEPS)
    known = _known(optimiser, options)
    inner, count = (_checks.whole(name, known.get(name, 1), 1) for name in ("inner_steps", "replicas"))
    total = -(-total // inner) * inner
    replica = _checks.whole("replica", replica, 0)
    _checks.function("progress", progress)
    kept = sorted({0, total} if snapshots is None else {_checks.whole("a snapshot", s, 0, total) for s in snapshots})
    if not kept:
        raise ValueError(f"snapshots is empty: give at least one step from 0 to {total}")
    batches = Batches(model, data, loss, recursion, Rates(learning_rate, total), count, replica)
    found, place, states = {0: batches.start}, 0, batches.start
    for states in _RUNS.get(optimiser, _by_torch)(batches, optimiser, known, total):
        place += inner
        if not torch.isfinite(states).all():
            rate = float(batches.rates(place - 1, 1)[0])
            raise Diverged(
                f"{optimiser}: the weights are no longer finite after step {place}: lower learning_rate={rate:g}",
                path=replica, step=place,
            )  # fmt: skip
        if any(place - inner < step <= place for step in kept):
            found[place] = states.clone()
        if progress is not None and (place == total or place // inner % 50 == 0):
            progress(place, total)
    if 0 not in kept:
        del found[0]
    result = _dataset(found, batches, model)
    if count > 1:
        result["replica_weights"] = (("replica", "weight"), states.cpu().numpy())
    more = {f"option_{k}": list(v) if isinstance(v, tuple) else v for k, v in known.items() if v is not None}
    more |= {"float_type": str(batches.start.dtype).removeprefix("torch."), "torch_version": str(torch.__version__)}
    more |= {"optimiser": optimiser, "steps": total, "replica": replica, "gradients": batches.gradients}
    plain = {k: v for k, v in recursion.settings().items() if k not in ("momentum", "nesterov", "svag")}
    return result.assign_attrs(plain | batches.rates.settings() | more | {"sde_sgd": sde.__version__})


class Batches:
    """Gradients of a network's mini-batch losses at flat weights, on the draws of `train_sgd`.

    `start` (n, d) is the model's weights, n times. λw of weight decay is part of every gradient.
    """

    def __init__(self, model, data, loss, recursion: Recursion, rates: Rates, count: int, replica: int):
        if any(isinstance(module, nn.modules.batchnorm._NormBase) for module in model.modules()):
            raise ValueError(
                "the model has batch norm, whose running averages would be of no one of these runs: make it without, "
                "as network(…, batch_norm=False), or train it by train_sgd"
            )
        self.network = copy.deepcopy(model).train()
        check_draws_nothing(self.network, data[0][:8])
        self.inputs, self.targets = data
        self.loss, self.recursion, self.rates = loss, recursion, rates
        self._count, self._replica = count, replica
        self._shapes = {n: p.shape for n, p in self.network.named_parameters() if p.requires_grad}
        self.start = flat(self.network).expand(count, -1).clone()
        self.gradients = 0  # of one sample each
        self._drawn = (0, 0)
        with in_words("the model or the loss cannot be evaluated on the data"):
            value = mean_loss(self.network, loss, *data)
        if not np.isfinite(value):
            raise ValueError(f"loss {value} before training: look for NaN or infinity in inputs, targets and weights")

    def rate(self, step: int) -> float:
        return float(self.rates(step, 1)[0])

    def gradient(self, weights: Tensor, step: int) -> Tensor:
        """(n, d) → (n, d): g_B + λw of each replica on its own batch of this step."""
        rows = self._rows(step)
        return torch.stack([self.of(w, rows[a]) for a, w in enumerate(weights)])

    def of(self, weights: Tensor, rows: Tensor | None = None) -> Tensor:
        """∇f_B(w) + λw (d,) over the samples `rows`, by default all."""
        x, y = (self.inputs, self.targets) if rows is None else (self.inputs[rows], self.targets[rows])
        self.gradients += len(x)
        leaf = weights.detach().requires_grad_()
        parts = leaf.split([shape.numel() for shape in self._shapes.values()])
        named = {n: part.view(shape) for (n, shape), part in zip(self._shapes.items(), parts)}
        with torch.enable_grad():
            value = one_number(self.loss(functional_call(self.network, named, (x,)), y))
        (slope,) = torch.autograd.grad(value, leaf)
        decay = self.recursion.weight_decay
        return slope + decay * weights if decay else slope

    def _rows(self, step: int) -> list[Tensor]:
        first, end = self._drawn
        if not first <= step < end:
            size = self.recursion.at_once(self._count)
            first = step // size * size
            ids = [self._replica * self._count + a for a in range(self._count)]
            self._picks = [torch.from_numpy(self.recursion.picks(first, size, a)[:, 0]) for a in ids]
            self._drawn = (first, first + size)
        size = self.recursion.size_of(step)
        return [picks[step - first, :size].to(self.inputs.device) for picks in self._picks]


def _known(optimiser: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options in full; ValueError for one that is not of this optimiser."""
    if optimiser in _OWN:
        defaults = _OWN[optimiser]
        for name in options:
            if name not in defaults:
                raise ValueError(f"{optimiser} has no option {name!r}; it has: {', '.join(defaults)}")
        return {**defaults, **options}
    kind, defaults = _TORCH[optimiser]
    if {"lr", "weight_decay", "maximize"} & set(options):
        raise ValueError("give learning_rate and weight_decay by these names, and nothing is maximised")
    known = {**defaults, **options}
    try:
        kind([nn.Parameter(torch.zeros(1))], lr=1.0, **known)
    except TypeError as fault:
        raise ValueError(f"{optimiser}: {fault}") from None
    return known


def _by_torch(batches: Batches, optimiser: str, known: dict, total: int) -> Iterator[Tensor]:
    weights = nn.Parameter(batches.start.clone())
    stepper = _TORCH[optimiser][0]([weights], lr=1.0, **known)
    for step in range(total):
        stepper.param_groups[0]["lr"] = batches.rate(step)
        weights.grad = batches.gradient(weights.detach(), step)
        stepper.step()
        yield weights.detach()


def _by_svrg(batches: Batches, optimiser: str, known: dict, total: int) -> Iterator[Tensor]:
    period = known["period"]
    period = batches.recursion.per_epoch if period is None else _checks.whole("period", period, 1)
    weights = batches.start
    for step in range(total):
        if step % period == 0:
            kept, mean = weights, batches.of(weights[0])[None]
        slope = batches.gradient(weights, step) - batches.gradient(kept, step) + mean
        weights = weights - batches.rate(step) * slope
        yield weights


def _by_chains(batches: Batches, optimiser: str, known: dict, total: int) -> Iterator[Tensor]:
    options = {k: v for k, v in known.items() if k not in ("replicas", "inner_steps")}
    normals = None
    if options.get("noise"):
        recursion = batches.recursion

        def normals(step: int) -> Tensor:
            key = [recursion.seed, batches._replica, step]
            drawn = np.random.default_rng(key).standard_normal(tuple(batches.start.shape))
            return torch.from_numpy(drawn).to(batches.start)

    inner = known.get("inner_steps", 1)
    return parle_rounds(
        batches.gradient, batches.start, rounds=total // inner, inner_steps=inner, step=batches.rate, normals=normals,
        **options,
    )  # fmt: skip


_RUNS: dict[str, Callable[[Batches, str, dict, int], Iterator[Tensor]]] = {
    "svrg": _by_svrg, "entropy-sgd": _by_chains, "parle": _by_chains, "elastic-sgd": _by_chains,
}  # fmt: skip


def _dataset(found: Mapping[int, Tensor], batches: Batches, model: nn.Module) -> xr.Dataset:
    """Snapshots of the mean over replicas; the model is left at the last."""
    steps = np.array(list(found))
    means = [states.mean(0) for states in found.values()]
    losses, right = [], []
    labels = are_labels(batches.targets)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    for weights in means:
        put(model, weights)
        losses.append(mean_loss(model, batches.loss, batches.inputs, batches.targets))
        if labels:
            with torch.no_grad():
                right.append(float((model(batches.inputs).argmax(1) == batches.targets).double().mean()))
    for module, training in modes:
        module.training = training
    array: NDArray = torch.stack(means).cpu().numpy()
    result = xr.Dataset({"weights": (("step", "weight"), array), "loss": ("step", losses)}, {"step": steps})
    return result.assign(accuracy=("step", right)) if labels else result


def put(model: nn.Module, weights: Tensor | NDArray) -> nn.Module:
    """The model with these trainable weights (d,), in place."""
    wanted = trainable(model)
    vector = torch.as_tensor(weights).to(wanted[0])
    with torch.no_grad():
        vector_to_parameters(vector.clone(), wanted)
    return model
