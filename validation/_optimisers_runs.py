"""What the experiment `optimisers` computes on a network: rates, ends, spectra, local entropies, lines between ends."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import nn

from sde_sgd.errors import Diverged, NotConverged
from sde_sgd.schedules import Cyclic

from ._optimisers_local_entropy import losses_of, sampled_local_entropy
from ._optimisers_training import optimise, put
from .curvature import Curvature
from .data import Split, load
from .gradient_noise import GradientNoise
from .networks import network
from .recording import When, recorder
from .training import train_sgd

LOSS = nn.functional.cross_entropy
ADAPTIVE = ("adagrad", "rmsprop", "adam")
CHAINED = ("entropy-sgd", "parle")
BRANCHES = ("branch a", "branch b")
_ALPHAS = np.linspace(0.0, 1.0, 11)


def data_of(config: Mapping[str, Any]) -> Split:
    """The images, subset as asked."""
    options: dict[str, Any] = {"seed": config["seed"]}
    if config["directory"]:
        options["directory"] = config["directory"]
    if config["samples"]:
        options["samples"] = config["samples"]
    return load(config["data"], **options)


def model_of(config: Mapping[str, Any], data: Split, seed: int) -> nn.Module:
    """The network at its start for a seed, without batch norm and dropout: every sample has its own gradient."""
    classes = int(data.targets.max()) + 1
    return network(config["network"], data.inputs.shape[1:], classes, batch_norm=False, dropout=0.0, seed=seed)


def options_of(config: Mapping[str, Any], optimiser: str) -> dict[str, Any]:
    """Those of Entropy-SGD, Parle and Elastic-SGD; the others are at their defaults."""
    chain = {"inner_steps": config["inner_steps"], "tether": config["tether"]}
    coupled = {"replicas": config["replicas"], "elastic": config["elastic"]}
    if optimiser == "entropy-sgd":
        return chain
    return {"parle": chain | coupled, "elastic-sgd": coupled}.get(optimiser, {})


def _run(config, data: Split, model: nn.Module, optimiser: str, rate, seed: int, **more) -> xr.Dataset:
    return optimise(
        model, data.inputs, data.targets, optimiser=optimiser, learning_rate=rate, batch_size=config["batch_size"],
        sampling="reshuffling", weight_decay=config["weight_decay"], seed=seed, **options_of(config, optimiser), **more,
    )  # fmt: skip


def tuned(config: Mapping[str, Any], data: Split, optimiser: str, progress=lambda done, total: None) -> xr.Dataset:
    """For every rate on offer the highest training loss at the ends of the last half of `tuning_epochs`, so that a rate
    which is fast at first and does not settle does not count as good; `rate`, the one of the lowest.
    """
    rates, losses = np.sort(config["rates"]), []
    epoch, last = -(-len(data.inputs) // config["batch_size"]), config["tuning_epochs"]
    steps = [epoch * k for k in range(last - last // 2, last + 1)]
    for k, rate in enumerate(rates):
        try:
            model = model_of(config, data, 1000 + config["seed"])
            run = _run(config, data, model, optimiser, rate, 0, steps=steps[-1], snapshots=steps)
            losses.append(float(run["loss"].max()))
        except Diverged:
            losses.append(np.inf)
        progress(k + 1, len(rates))
    if not np.isfinite(losses).any():
        raise ValueError(f"{optimiser} diverges at every one of the rates {rates.tolist()}: offer smaller ones")
    return xr.Dataset({"loss": ("rate", losses)}, {"rate": rates}, {"rate": float(rates[int(np.argmin(losses))])})


def trained(
    config: Mapping[str, Any], data: Split, optimiser: str, rate: float, seed: int, progress=lambda done, total: None
) -> xr.Dataset:
    """`weights` (point, weight): start, an epoch before the end, end, and the ends of two branches from the end.

    A branch is some more epochs of the same optimiser, its memory anew, on batches of its own.
    """
    model = model_of(config, data, config["seed"] + seed)
    epoch = -(-len(data.inputs) // config["batch_size"])
    steps = config["epochs"] * epoch
    run = _run(config, data, model, optimiser, rate, seed, steps=steps, snapshots=(0, steps - epoch, steps),
               progress=progress)  # fmt: skip
    ends = run["weights"].sel(step=[0, steps - epoch, steps], method="bfill").values  # a round may be an epoch or more
    kept = dict(zip(("start", "before", "end"), ends))
    for k, branch in enumerate(BRANCHES, 1):
        other = put(copy.deepcopy(model), kept["end"])
        again = _run(config, data, other, optimiser, rate, seed, epochs=config["branch_epochs"], replica=k)
        kept[branch] = again["weights"].values[-1]
    return xr.Dataset(
        {"weights": (("point", "weight"), np.array(list(kept.values())))},
        {"point": list(kept)},
        {"rate": rate, "gradients_per_sample": run.attrs["gradients"] / len(data.inputs)},
    )


def losses_and_errors(model: nn.Module, data: Split, weights: NDArray) -> dict[str, float]:
    """Mean loss and share of errors on both parts, at weights (d,)."""
    put(model, weights).eval()
    found = {}
    with torch.no_grad():
        for part, x, y in (("train", data.inputs, data.targets), ("test", data.test_inputs, data.test_targets)):
            out = model(x)
            found[f"{part}_loss"] = float(LOSS(out, y))
            found[f"{part}_error"] = float((out.argmax(1) != y).double().mean())
    return found


def measured(
    config: Mapping[str, Any], data: Split, run: xr.Dataset, seed: int, progress=lambda done, total: None
) -> xr.Dataset:
    """Losses, errors, norms, spectra of H and D at the end of a run.

    `svrg_noise` is the trace of the covariance of ∇f_k(w) − ∇f_k(w̃) over tr D, w̃ the weights an epoch before.
    """
    model = model_of(config, data, config["seed"] + seed)
    start, before, end = (run["weights"].sel(point=name).values for name in ("start", "before", "end"))
    found: dict[str, Any] = losses_and_errors(model, data, end)
    found |= {"norm": float(np.linalg.norm(end)), "distance": float(np.linalg.norm(end - start))}
    rows, pair = config["curvature_samples"] or len(data.inputs), (data.inputs, data.targets)
    some = tuple(part[:rows] for part in pair)
    curvature = Curvature(model, LOSS, some)
    top = curvature.spectrum(config["eigenvalues"])
    trace = curvature.trace(probes=60, seed=seed)
    noise = GradientNoise(model, LOSS, some)
    values = noise.spectrum()
    found |= {"hessian_top": float(top[0]), "hessian_trace": float(trace), "hessian_trace_error": trace.error}
    found |= {"noise_top": float(values[0]), "noise_trace": float(noise.trace())}
    found["noise_participation"] = float(noise.ranks()["participation_ratio"])
    progress(1, 2)
    here = torch.cat(list(noise.sample_gradients()))
    put(model, before)
    change = here - torch.cat(list(GradientNoise(model, LOSS, some).sample_gradients()))
    found["svrg_noise"] = float(change.double().var(0, unbiased=False).sum()) / found["noise_trace"]
    spectra = {"hessian": ("index", top), "noise": ("index", values[: len(top)])}
    progress(2, 2)
    return xr.Dataset(spectra | found, {"index": np.arange(1, len(top) + 1)})


def local_entropies(
    config: Mapping[str, Any], data: Split, ends: Mapping[str, NDArray], spread: float, seed: int,
    progress=lambda done, total: None,
) -> xr.Dataset:  # fmt: skip
    """f_γ of every end (optimiser) at σ = `spread`, with its parts, T = 1/N of the first `entropy_samples` samples.

    NaN where a chain does not settle, for the reason in ``attrs["not_settled"]``.
    """
    model, rows = model_of(config, data, config["seed"]), min(config["entropy_samples"], len(data.inputs))
    x, y = data.inputs[:rows], data.targets[:rows]
    names = ("local_entropy", "local_entropy_error", "mean_loss", "information", "pull", "accepted")
    attrs: dict[str, str] = {}
    try:
        found = sampled_local_entropy(
            losses_of(model, LOSS, x, y), torch.from_numpy(np.array(list(ends.values()))), spread=spread,
            temperature=1 / rows, chains=config["chains"], steps=config["chain_steps"], seed=seed, progress=progress,
        )  # fmt: skip
        parts = np.array(found)
    except NotConverged as fault:
        parts, attrs["not_settled"] = np.full((len(names), len(ends)), np.nan), str(fault)
    with torch.no_grad():
        at = [float(LOSS(put(model, w)(x), y)) for w in ends.values()]
    columns = {name: ("optimiser", part) for name, part in zip(names, parts)}
    return xr.Dataset(columns | {"loss": ("optimiser", at)}, {"optimiser": list(ends), "spread": spread}, attrs)


def line(model: nn.Module, data: Split, one: NDArray, other: NDArray) -> dict[str, float]:
    """Between two ends: loss and error of their average beside their own; and the highest loss on the way.

    `rise` is that, max f over 0 < α < 1, less the higher end: < 0 on a way that only falls. `barrier` is max(rise, 0).
    """
    found = [losses_and_errors(model, data, (1 - a) * one + a * other) for a in _ALPHAS]
    losses = [at["train_loss"] for at in found]
    first, middle, last = found[0], found[len(found) // 2], found[-1]
    rise = max(losses[1:-1]) - max(losses[0], losses[-1])
    result = {"rise": rise, "barrier": max(rise, 0.0), "apart": float(np.linalg.norm(one - other))}
    for name in ("train_loss", "test_loss", "test_error"):
        result[f"{name}_average"] = middle[name]
        result[f"{name}_mean"] = 0.5 * (first[name] + last[name])
        result[f"{name}_worst"] = max(first[name], last[name])
    return result


def lines(
    config: Mapping[str, Any], data: Split, pairs: Mapping[str, tuple[NDArray, NDArray]],
    progress=lambda done, total: None,
) -> xr.Dataset:  # fmt: skip
    """`line` of every pair of weights, over `pair`."""
    model, rows = model_of(config, data, config["seed"]), []
    for k, (one, other) in enumerate(pairs.values()):
        rows.append(line(model, data, one, other))
        progress(k + 1, len(pairs))
    return xr.Dataset({n: ("pair", [row[n] for row in rows]) for n in rows[0]}, {"pair": list(pairs)})


# Learning rates that move ---------------------------------------------------------------------------------------------


def range_test(config: Mapping[str, Any], data: Split, seed: int, progress=lambda done, total: None) -> xr.Dataset:
    """Plain SGD while η rises in a straight line from `range_low` to `range_high`: loss, test accuracy, λ_max by η.

    Smith (2017), §3.3. `low` and `high` are the `rate_bounds` of the test accuracy, off whose plot the source reads
    them; `loss_low` and `loss_high` those of the loss.
    """
    epoch = -(-len(data.inputs) // config["batch_size"])
    steps = config["range_epochs"] * epoch
    low, high = config["range_low"], config["range_high"]
    rates = low + (high - low) * np.arange(steps) / max(steps - 1, 1)
    often, seldom = When.every(steps=max(1, steps // 100)), When.every(steps=max(1, steps // 8))
    kinds = [recorder("loss", often), recorder("accuracy", often, name="test_accuracy", part="test"),
             recorder("hessian_eigenvalues", seldom, count=1)]  # fmt: skip
    model = model_of(config, data, config["seed"] + seed)
    run = train_sgd(
        model, data.inputs, data.targets, steps=steps, learning_rate=rates, batch_size=config["batch_size"],
        sampling="reshuffling", recorders=kinds, test=(data.test_inputs, data.test_targets), seed=seed,
        progress=progress,
    )  # fmt: skip
    at = np.minimum(run["loss_step"].values, steps - 1)
    bounds = rate_bounds(rates[at], run["test_accuracy"].values), rate_bounds(rates[at], -run["loss"].values)
    curved = np.minimum(run["hessian_eigenvalues_step"].values, steps - 1)
    return xr.Dataset(
        {
            "loss": ("rate", run["loss"].values),
            "test_accuracy": ("rate", run["test_accuracy"].values),
            "sharpness": ("sharpness_rate", run["hessian_eigenvalues"].values[:, 0]),
        },
        {"rate": rates[at], "sharpness_rate": rates[curved]},
        dict(zip(("low", "high", "loss_low", "loss_high"), (*bounds[0], *bounds[1]))),
    )


def rate_bounds(rates: NDArray, values: NDArray) -> tuple[float, float]:
    """The first rates at which a tenth and nine tenths of the rise of the values from the first to the highest are
    done, where it starts and where it slows; of values smoothed over a tenth of the run.
    """
    window = max(1, len(values) // 10)
    padded = np.pad(values, (window // 2, window - 1 - window // 2), mode="edge")
    smooth = np.convolve(padded, np.ones(window) / window, mode="valid")
    low, high = (int(np.argmax(smooth >= (1 - share) * smooth[0] + share * smooth.max())) for share in (0.1, 0.9))
    return float(rates[low]), float(rates[high])


def cycles(
    config: Mapping[str, Any], data: Split, found: xr.Dataset, seed: int, progress=lambda done, total: None
) -> xr.Dataset:
    """SGD with a triangle of rates between those of the range test, beside constant rates at both ends, for as long.

    `loss` (kind, time) and `rate` along the runs; `weights` (cycle, weight) at the end of every cycle; `test_error`
    (kind) at the end.
    """
    epoch = -(-len(data.inputs) // config["batch_size"])
    period, count = config["cycle_epochs"] * epoch, config["cycles"]
    steps = period * count
    low, high = found.attrs["low"], max(found.attrs["high"], found.attrs["low"] * 1.001)
    often = When.every(steps=max(1, period // 40))
    losses, errors, ends = [], [], np.zeros(0)
    for k, rate in enumerate((Cyclic(low, high, period), low, high)):
        model = model_of(config, data, config["seed"] + seed)
        run = train_sgd(
            model, data.inputs, data.targets, steps=steps, learning_rate=rate, batch_size=config["batch_size"],
            sampling="reshuffling", seed=seed,
            recorders=[recorder("loss", often),
                       recorder("weights", When.at(steps=[period * (c + 1) for c in range(count)]))],
        )  # fmt: skip
        losses.append(run["loss"].values)
        if k == 0:
            ends = run["weights"].values
        errors.append(losses_and_errors(model, data, run["weights"].values[-1])["test_error"])
        progress(k + 1, 3)
    at = run["loss_step"].values
    kinds = ["cyclic", "low", "high"]
    return xr.Dataset(
        {
            "loss": (("kind", "time"), np.array(losses)),
            "weights": (("cycle", "weight"), ends),
            "test_error": ("kind", errors),
            "cyclic_rate": ("time", Cyclic(low, high, period)(at)),
        },
        {"kind": kinds, "time": at / epoch},
        {"low": low, "high": high, "cycle_epochs": config["cycle_epochs"]},
    )
