"""The ensembles of the equilibrium: schedules that end with one ηλ, walks from there, small learning rates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from ._equilibrium_network import NormalisedNetwork
from ._equilibrium_statistics import disagreement
from ._memory import require_memory
from .data import Split, load
from .ensembles import ensemble
from .measures import flat

SCHEDULES = {  # factor of ηλ before, and the share of η in the split of ηλ
    "steady": (1.0, 1.0),
    "fast first": (4.0, 0.25),
    "slow first": (0.25, 4.0),
}
STARTS = ("own", "one")  # to each replica, or to all of a schedule
_AT_ONCE = 512  # networks whose gradients are taken together
_EARLY = 20  # states of an ensemble that are looked at in the first 1/ηλ steps
_DRAWS = 8  # fresh mini-batches at each state whose gradients are averaged
_BALANCES = (0.32, 0.08, 0.02)  # ηλ at which the steady norm is looked at
Progress = Callable[[int, int], object]


def data_of(config: Mapping[str, Any], dtype: torch.dtype, seed: int) -> Split:
    """The data, split by `seed` where they have no test part of their own."""
    options: dict[str, Any] = {} if config["data"] == "digits" else {"directory": config["directory"] or None}
    return load(config["data"], samples=config["samples"] or None, seed=seed, dtype=dtype, **options)


def network_of(config: Mapping[str, Any], data: Split, seed: int) -> NormalisedNetwork:
    """The network of a seed, in the float type of the data."""
    return NormalisedNetwork(
        data.inputs.shape[1:], int(data.targets.max()) + 1, widths=config["widths"], kind=config["network"],
        gain=config["gain"], seed=seed, dtype=data.inputs.dtype,
    )  # fmt: skip


class Observed:
    """Labels, logits and gradients of networks given as flat weights; normalised by training inputs."""

    def __init__(self, config: Mapping[str, Any], data: Split, network: NormalisedNetwork):
        for name, there in (("reference", len(data.inputs)), ("points", len(data.test_inputs))):
            if config[name] > there:
                raise ValueError(f"{name} = {config[name]}, and there are {there}: ask for no more than that")
        self._network, self._data = network, data
        self._reference = data.inputs[: config["reference"]]
        self._shapes = {name: weight.shape for name, weight in network.named_parameters()}
        self.points = data.test_inputs[: config["points"]]
        self.targets = data.test_targets[: config["points"]]

    def named(self, weights: Tensor) -> dict[str, Tensor]:
        """Weights (d,) by name."""
        parts = weights.split([shape.numel() for shape in self._shapes.values()])
        return {name: part.reshape(shape) for (name, shape), part in zip(self._shapes.items(), parts)}

    def logits(self, weights: Tensor, points: Tensor | None = None) -> Tensor:
        """(point, class) of one network (d,)."""
        points = self.points if points is None else points
        return functional_call(self._network, self.named(weights), (points, self._reference))

    def labels(self, weights: Tensor, points: Tensor | None = None) -> Tensor:
        """Predicted classes (point,) of one network (d,)."""
        return self.logits(weights, points).argmax(1).to(torch.uint8)

    def errors(self, weights: NDArray) -> NDArray[np.float64]:
        """(n,): the share of all test inputs that networks (n, d) get wrong."""
        return (self.all_labels(weights) != self._data.test_targets.numpy()).mean(axis=1)

    def all_labels(self, weights: NDArray) -> NDArray[np.uint8]:
        """Predicted classes (n, test inputs) of networks (n, d)."""
        found = []
        with torch.no_grad():
            for part in torch.as_tensor(weights).split(_AT_ONCE // 8):
                found.append(vmap(lambda w: self.labels(w, self._data.test_inputs))(part).numpy())
        return np.concatenate(found)

    def batch_squares(self, weights: NDArray, batch_size: int, seed: int) -> NDArray[np.float64]:
        """(n,): |g|² of a fresh mini-batch, drawn with replacement, for each network (n, d)."""
        stream = np.random.default_rng([seed, 0xBA7C])

        def value(w: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
            return nn.functional.cross_entropy(functional_call(self._network, self.named(w), (inputs,)), targets)

        slopes, found = vmap(grad(value)), []
        for part in torch.as_tensor(weights).split(_AT_ONCE):
            picks = torch.from_numpy(stream.integers(len(self._data.inputs), size=(len(part), batch_size)))
            slope = slopes(part, self._data.inputs[picks], self._data.targets[picks])
            found.append(slope.double().square().sum(1).numpy())
        return np.concatenate(found)

    def __call__(self, predict: Callable, weights: Tensor) -> dict[str, Tensor]:
        """What is kept of every replica while it runs."""
        return {"label": self.labels(weights), "square": weights.square().sum(), "weights": weights}


def _steps(times: float, intrinsic: float) -> int:
    return max(1, round(times / intrinsic))


def _float_type(config: Mapping[str, Any]) -> torch.dtype:
    return torch.float64 if config["float_type"] == "float64" else torch.float32


def _seed(*words: int) -> int:
    return int(np.random.SeedSequence(words).generate_state(1)[0])


def mixed(
    config: Mapping[str, Any], place: int, starts: str, seed: int, progress: Progress = lambda done, total: None
) -> xr.Dataset:
    """Ensembles of three schedules from where they have come to the same ηλ on.

    ηλ is the `place`-th of config["intrinsic"]; it was another one for the `before`/ηλ steps before, and η and λ end in
    different splits of it. `starts`: "own" to each replica, or "one" to all of a schedule and another to the next.
    `label` (schedule, replica, step, point), `square` |w|² (schedule, replica, step) at steps counted from there,
    `right` the points' classes, `weights` (replica, weight) of the steady schedule at the end.
    """
    intrinsic = config["intrinsic"][place]
    data = data_of(config, _float_type(config), seed)
    network = network_of(config, data, seed)
    look = Observed(config, data, network)
    before, early, late = saved_steps(config, intrinsic)
    kept = config["replicas"] * (len(early) + len(late)) * flat(network).numel() * data.inputs.element_size()
    require_memory(kept, f"the states of {config['replicas']} replicas", "take fewer", torch.device("cpu"))
    labels, squares, weights = [], [], np.empty((0, 0))
    for k, (factor, share) in enumerate(SCHEDULES.values()):
        rate = share * intrinsic / config["weight_decay"]
        common: dict[str, Any] = {
            "replicas": config["replicas"], "batch_size": config["batch_size"], "compile": config["compile"],
            "weight_decay": config["weight_decay"] / share, "seed": _seed(seed, 1, place, k, STARTS.index(starts)),
        }  # fmt: skip
        start = start_of(config, data, seed, k)
        if starts == "own":
            start = np.stack([start_of(config, data, seed, k, r) for r in range(1, config["replicas"] + 1)])
        first = ensemble(network, *data[:2], steps=before, learning_rate=factor * rate, start=start, **common)
        common |= {"learning_rate": rate, "observe": look}
        parts: list[xr.Dataset] = []
        states, done = first["weights"].values[:, -1], before
        for saved in (early, late):
            run = ensemble(
                network, *data[:2], steps=saved[-1] - done + before, start=states, first_step=done,
                save_every=saved[-1] - saved[-2], **common,
            )  # fmt: skip
            states, done = run["weights"].values[:, -1], before + saved[-1]
            parts.append(run.drop_vars("weights").isel(step=slice(1 if parts else 0, None)))
        labels.append(np.concatenate([part["label"].values for part in parts], axis=1))
        squares.append(np.concatenate([part["square"].values for part in parts], axis=1))
        if k == 0:
            weights = states
        progress(k + 1, len(SCHEDULES))
    return xr.Dataset(
        {
            "label": (("schedule", "replica", "step", "point"), np.stack(labels)),
            "square": (("schedule", "replica", "step"), np.stack(squares)),
            "right": ("point", look.targets.numpy()),
            "weights": (("replica", "weight"), weights),
        },
        {"schedule": list(SCHEDULES), "step": [*early, *late[1:]]},
        {"intrinsic": intrinsic, "classes": len(network.last), "parameters": weights.shape[1]},
    )


def start_of(config: Mapping[str, Any], data: Split, seed: int, *which: int) -> NDArray:
    """Weights (d,) of an untrained network, another one for each `which`."""
    return flat(network_of(config, data, _seed(seed, 2, *which))).numpy()


def saved_steps(config: Mapping[str, Any], intrinsic: float) -> tuple[int, range, range]:
    """Steps before the common ηλ; then the steps that are saved, twenty up to 1/ηλ, and by `spacing` up to `time`."""
    fine, coarse = _steps(1 / _EARLY, intrinsic), _steps(config["spacing"], intrinsic)
    middle = fine * _EARLY
    count = max(1, round((config["time"] / intrinsic - middle) / coarse))
    return (
        _steps(config["before"], intrinsic),
        range(0, middle + 1, fine),
        range(middle, middle + count * coarse + 1, coarse),
    )


def walked(
    config: Mapping[str, Any],
    place: int,
    seed: int,
    one: xr.Dataset,
    own: xr.Dataset,
    progress: Progress = lambda done, total: None,
) -> xr.Dataset:
    """Replicas of one start go on from equilibrium at the `place`-th ηλ: distances and averages of weights.

    `square` |w|² (replica, step); `moved` (lag, replica), the mean of |w_{T+Δ} − w_T|² over T; `spread` tr S at the
    end. Test errors: `error` (replica) of the last `average` states, one by one, `error_within` (replica) of their
    mean, `error_across` (group) of the mean of as many replicas at the end; and where every replica has a start of its
    own, `own`, `error_stranger` (replica) and `error_strangers` (group). `disagreement` and `disagreement_strangers`
    between replicas at the end, numbers.
    """
    intrinsic = config["intrinsic"][place]
    data = data_of(config, _float_type(config), seed)
    network = network_of(config, data, seed)
    look = Observed(config, data, network)
    every = _steps(config["spacing"], intrinsic)
    count = round(config["walk_time"] / config["spacing"])
    rate, weights = intrinsic / config["weight_decay"], one["weights"].values[: config["walkers"]]
    run = ensemble(
        network, *data[:2], replicas=len(weights), steps=every * count, learning_rate=rate, start=weights,
        batch_size=config["batch_size"], weight_decay=config["weight_decay"], save_every=every,
        compile=config["compile"], seed=_seed(seed, 3, place),
    )  # fmt: skip
    progress(1, 2)
    states = run["weights"].values
    replicas, _, size = states.shape
    lags = np.unique(np.geomspace(1, count, 12).round().astype(int))
    moved = [(np.square((states[:, k:] - states[:, :-k]).astype(float))).sum(-1).mean(1) for k in lags]
    last, some = states[:, -1], config["average"]
    strangers = own["weights"].values[:replicas]
    strange, right = look.all_labels(strangers), data.test_targets.numpy()
    labels = look.all_labels(states[:, -some:].reshape(-1, size)).reshape(replicas, some, -1)

    def means(weights: NDArray) -> NDArray:
        return np.array([weights[k : k + some].mean(0) for k in range(0, replicas - some + 1, some)])

    progress(2, 2)
    return xr.Dataset(
        {
            "square": (("replica", "step"), np.square(states, dtype=float).sum(-1)),
            "moved": (("lag", "replica"), np.array(moved)),
            "spread": np.square(last.astype(float) - last.mean(0, dtype=float)).sum() / (replicas - 1),
            "error": ("replica", (labels != right).mean((1, 2))),
            "error_within": ("replica", look.errors(states[:, -some:].mean(1))),
            "error_across": ("group", look.errors(means(last))),
            "error_stranger": ("replica", (strange != right).mean(1)),
            "error_strangers": ("group", look.errors(means(strangers))),
            "disagreement": disagreement(labels[:, -1]),
            "disagreement_strangers": disagreement(strange),
        },
        {"step": run["step"].values, "lag": lags * every},
        {"intrinsic": intrinsic, "learning_rate": rate, "test_inputs": len(right)},
    )


def relaxing(config: Mapping[str, Any], seed: int, progress: Progress = lambda done, total: None) -> xr.Dataset:
    """|w|⁴/η² from the start on at the smallest ηλ but one, then at half of that and again at the whole of it.

    `square` |w|², `batch_square` |g|² of a fresh mini-batch (replica, step), `learning_rate` of the step that follows
    (step); where η changes the step is there twice, before and after.
    """
    intrinsic = sorted(config["intrinsic"])[min(1, len(config["intrinsic"]) - 1)]
    data = data_of(config, _float_type(config), seed)
    network = network_of(config, data, seed)
    look = Observed(config, data, network)
    states = start_of(config, data, seed, 0)
    parts, step = [], 0
    for k, factor in enumerate((1.0, 0.5, 1.0)):
        rate, steps = factor * intrinsic / config["weight_decay"], _steps(1.0, intrinsic)
        run = ensemble(
            network, *data[:2], replicas=config["walkers"], steps=steps, learning_rate=rate, start=states,
            batch_size=config["batch_size"], weight_decay=config["weight_decay"], first_step=step,
            save_every=max(1, steps // 20), compile=config["compile"], seed=_seed(seed, 5),
        )  # fmt: skip
        path = run["weights"].values
        squares = look.batch_squares(path.reshape(-1, path.shape[-1]), config["batch_size"], _seed(seed, 6, k))
        step, states = int(run["step"][-1]), path[:, -1]
        parts.append(
            xr.Dataset(
                {
                    "square": (("replica", "step"), np.square(path, dtype=float).sum(-1)),
                    "batch_square": (("replica", "step"), squares.reshape(path.shape[:2])),
                    "learning_rate": ("step", np.full(path.shape[1], rate)),
                },
                {"step": run["step"].values},
            )
        )
        progress(k + 1, 3)
    return xr.concat(parts, "step").assign_attrs(weight_decay=config["weight_decay"], intrinsic=intrinsic)


def balanced(config: Mapping[str, Any], seed: int, progress: Progress = lambda done, total: None) -> xr.Dataset:
    """Equilibria of the norm at several ηλ, all of one λ: `square` |w|², `batch_square` |g|² and `batch_fourth`
    |g|⁴, means over fresh mini-batches, (intrinsic, replica, step), after 4 of the smallest 1/ηλ.
    """
    data = data_of(config, _float_type(config), seed)
    network = network_of(config, data, seed)
    look = Observed(config, data, network)
    count, apart = config["walkers"], _steps(0.25, min(_BALANCES))
    rates = np.repeat(_BALANCES, count) / config["weight_decay"]
    run = ensemble(
        network, *data[:2], replicas=len(rates), steps=44 * apart, learning_rate=rates, save_every=apart,
        batch_size=config["batch_size"], weight_decay=config["weight_decay"], compile=config["compile"],
        seed=_seed(seed, 4),
    )  # fmt: skip
    progress(1, 2)
    states = run["weights"].values[:, 17:]
    shape = (len(_BALANCES), count, states.shape[1])
    flattened = states.reshape(-1, states.shape[-1])
    draws = [look.batch_squares(flattened, config["batch_size"], _seed(seed, 10, k)) for k in range(_DRAWS)]
    progress(2, 2)
    dims = ("intrinsic", "replica", "step")
    return xr.Dataset(
        {
            "square": (dims, np.square(states, dtype=float).sum(-1).reshape(shape)),
            "batch_square": (dims, np.mean(draws, axis=0).reshape(shape)),
            "batch_fourth": (dims, np.mean(np.square(draws), axis=0).reshape(shape)),
        },
        {"intrinsic": list(_BALANCES), "step": run["step"].values[17:]},
        {"weight_decay": config["weight_decay"]},
    )


def slowly(config: Mapping[str, Any], seed: int, progress: Progress = lambda done, total: None) -> xr.Dataset:
    """Test error of networks whose learning rate was large first, and of those that had the small one from the start.

    `error` (arm, replica, step) along the small rate, η/slow_factor of the smallest ηλ, for `slow_time` over its ηλ
    steps; the arm "large first" comes from 3/ηλ steps at η.
    """
    intrinsic = min(config["intrinsic"])
    data = data_of(config, _float_type(config), seed)
    network = network_of(config, data, seed)
    look = Observed(config, data, network)
    count, rate = config["slow_replicas"], intrinsic / config["weight_decay"]
    common: dict[str, Any] = {
        "batch_size": config["batch_size"], "weight_decay": config["weight_decay"], "compile": config["compile"],
    }  # fmt: skip
    starts = np.stack([start_of(config, data, seed, 7, r) for r in range(2 * count)])
    first = ensemble(
        network, *data[:2], replicas=count, steps=_steps(3.0, intrinsic), learning_rate=rate, start=starts[:count],
        seed=_seed(seed, 8), **common,
    )  # fmt: skip
    starts[:count] = first["weights"].values[:, -1]
    steps = _steps(config["slow_time"], intrinsic / config["slow_factor"])
    every = max(1, steps // 16)
    saved, errors, done = starts, [look.errors(starts)], 0
    for k in range(16):
        run = ensemble(
            network, *data[:2], replicas=2 * count, steps=every, learning_rate=rate / config["slow_factor"],
            start=saved, first_step=done, seed=_seed(seed, 9), **common,
        )  # fmt: skip
        saved, done = run["weights"].values[:, -1], done + every
        errors.append(look.errors(saved))
        progress(k + 1, 16)
    return xr.Dataset(
        {"error": (("arm", "replica", "step"), np.stack(errors, axis=1).reshape(2, count, 17))},
        {"arm": ["large first", "small throughout"], "step": every * np.arange(17)},
        {"intrinsic": intrinsic / config["slow_factor"], "test_inputs": len(data.test_targets)},
    )
