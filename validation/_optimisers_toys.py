"""What the experiment `optimisers` computes where all is known: linear models, two valleys, binary perceptrons."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import nn

import sde_sgd as sde

from ._optimisers_runs import CHAINED
from ._optimisers_training import OPTIMISERS, optimise

WIDE, SHARP, LEAD = 2.0, 30.0, 0.5  # curvatures of the two valleys, and by how much the sharp one is deeper
_ROWS, _WEIGHTS, _STEPS = 12, 30, 450  # of the linear model
_RATES = {"momentum": 0.15, "nesterov": 0.15, "adagrad": 0.5, "rmsprop": 0.02, "adam": 0.02}  # the others 1.5
_FLIP = 0.1  # probability of a flip; e^{−γ} = p/(1 − p)


def least_norm(config: Mapping[str, Any], seed: int, progress=lambda done, total: None) -> xr.Dataset:
    """Each optimiser on a regression of 12 samples for 30 weights, from 0 and from a random start.

    `off` (optimiser, start): |(I − X⁺X)(w − w₀)|/|w − w₀|, the share of the way that leaves the span of the samples;
    `residual`: |Xw − y|/|y|; `norm`: |w|/|X⁺y|; `gap`: |w − X⁺y − (I − X⁺X)w₀|/|X⁺y|;
    `from_least`: |w − X⁺y|/|X⁺y|.
    """
    random = np.random.default_rng([config["seed"], seed, 7])
    X, y = random.normal(size=(_ROWS, _WEIGHTS)) / math.sqrt(_WEIGHTS), random.normal(size=_ROWS)
    inverse = np.linalg.pinv(X)
    least, across = inverse @ y, np.eye(_WEIGHTS) - inverse @ X
    starts = {"0": np.zeros(_WEIGHTS), "random": random.normal(size=_WEIGHTS)}
    pair = torch.from_numpy(X), torch.from_numpy(y)[:, None]
    columns: dict[str, list] = {name: [] for name in ("off", "residual", "norm", "gap", "from_least")}
    for k, optimiser in enumerate(OPTIMISERS):
        rows = []
        for start in starts.values():
            model = nn.Linear(_WEIGHTS, 1, bias=False, dtype=torch.float64)
            with torch.no_grad():
                model.weight.copy_(torch.from_numpy(start)[None])
            options: dict[str, Any] = {"tether": 0.1} if optimiser in CHAINED else {}
            w = optimise(
                model, *pair, optimiser=optimiser, learning_rate=_RATES.get(optimiser, 1.5),
                batch_size=4, steps=_STEPS, sampling="reshuffling", seed=seed, **options,
                loss=lambda out, target: 0.5 * ((out - target) ** 2).mean(),
            )["weights"].values[-1]  # fmt: skip
            way = w - start
            rows.append((
                np.linalg.norm(across @ way) / np.linalg.norm(way), np.linalg.norm(X @ w - y) / np.linalg.norm(y),
                np.linalg.norm(w) / np.linalg.norm(least),
                np.linalg.norm(w - least - across @ start) / np.linalg.norm(least),
                np.linalg.norm(w - least) / np.linalg.norm(least),
            ))  # fmt: skip
        for name, values in zip(columns, zip(*rows)):
            columns[name].append(values)
        progress(k + 1, len(OPTIMISERS))
    return xr.Dataset(
        {name: (("optimiser", "start"), np.array(values)) for name, values in columns.items()},
        {"optimiser": list(OPTIMISERS), "start": list(starts)},
    )


# Two valleys ----------------------------------------------------------------------------------------------------------


def two_valleys() -> sde.Landscape:
    """−log of two Gaussians, around −1 (wide) and 1 (sharp, and deeper by LEAD): local entropy is known at every γ."""
    return sde.Landscape(
        "x", f"-log(exp(-{WIDE}*(x + 1)**2/2) + exp({LEAD} - {SHARP}*(x - 1)**2/2))", name="two valleys"
    )


def exact_local_entropy(x, gamma: float) -> np.ndarray:
    """f_γ of `two_valleys` at T = 1: each Gaussian stays one."""
    x = np.asarray(x, float)
    parts = [
        math.exp(height) * np.exp(-k * (x - c) ** 2 / (2 * (1 + gamma * k))) / math.sqrt(1 + gamma * k)
        for height, c, k in ((0.0, -1.0, WIDE), (LEAD, 1.0, SHARP))
    ]
    return -np.log(np.sum(parts, axis=0))


def valleys(config: Mapping[str, Any], progress=lambda done, total: None) -> xr.Dataset:
    """f_γ on a line beside the closed form; where Entropy-SGD ends that starts on the floor of the sharp valley.

    `share` (gamma): of 200 runs of Entropy-SGD, whose inner chains have the temperature 1, those that end where x < 0.
    `descent` (gamma): the end of gradient descent on f_γ from there.
    """
    loss, line = two_valleys(), np.linspace(-2.5, 2.0, 451)
    gammas = np.array([0.01, 0.03, 0.1, 0.3, 0.6, 1.0])
    values, gaps, share, descent = [], [], [], []
    for k, gamma in enumerate(gammas):
        smooth = sde.local_entropy(loss, gamma)
        values.append(smooth.loss(line[:, None]))
        gaps.append(float(smooth.loss([1.0]) - smooth.loss([-1.0])))
        random = np.random.default_rng([config["seed"], k])
        start, step = np.full((200, 1), 1.0), 0.1 * min(1.0, gamma) / (1 + gamma * SHARP)
        inner = max(50, math.ceil(3 / (step * (WIDE + 1 / gamma))))
        end = sde.entropy_sgd(
            lambda y, _: loss.gradient(y), start, rounds=40, inner_steps=inner, step=step, tether=1 / gamma,
            keep=1 - 1 / inner, noise=math.sqrt(2.0), normals=lambda _, r=random: r.normal(size=(1, 200, 1)),
        )  # fmt: skip
        share.append(float((end < 0).mean()))
        x = np.array([1.0])
        for _ in range(400):
            x = x - 0.5 * gamma * smooth.gradient(x)
        descent.append(float(x[0]))
        progress(k + 1, len(gammas))
    exact = [exact_local_entropy(line, gamma) for gamma in gammas]
    return xr.Dataset(
        {
            "local_entropy": (("gamma", "x"), np.array(values)),
            "exact": (("gamma", "x"), np.array(exact)),
            "sharp_over_wide": ("gamma", gaps),
            "share": ("gamma", share),
            "descent": ("gamma", descent),
            "loss": ("x", loss.loss(line[:, None])),
        },
        {"gamma": gammas, "x": line},
    )


# Binary perceptrons ---------------------------------------------------------------------------------------------------


def perceptron(config: Mapping[str, Any], progress=lambda done, total: None) -> xr.Dataset:
    """A task of 15 weights and 10 patterns with an isolated and a dense solution: profiles, local entropies, survival.

    The first of the tasks in turn that has a solution alone within two flips and one with five others or more there.
    """
    gamma, kinds = math.log((1 - _FLIP) / _FLIP), ("isolated", "dense")
    for number in range(3000):
        task = sde.BinaryPerceptron.random(15, 10, seed=10_000 * config["seed"] + number)
        if len(task.solutions) > 6:
            near = task.neighbours(2)
            if near.min() == 0 and near.max() >= 5:
                break
    else:
        raise ValueError("no task among 3000 has both kinds of solution: take another seed")
    entropy = task.local_entropy(task.solutions, gamma)
    alone, many = np.where(near == 0, entropy, np.inf).argmin(), np.where(near >= 5, entropy, -np.inf).argmax()
    both = task.solutions[[alone, many]]
    random, trials = np.random.default_rng(config["seed"]), 20_000
    stayed = [
        float((task.errors(np.where(random.random((trials, 15)) < _FLIP, -one, one)) == 0).mean()) for one in both
    ]
    progress(1, 1)
    return xr.Dataset(
        {
            "profile": (("kind", "distance"), task.profile(both)),
            "local_entropy": ("kind", entropy[[alone, many]]),
            "by_passes": ("kind", task.local_entropies(gamma)[task.places(both)]),
            "survival": ("kind", task.survival(both, _FLIP)),
            "stayed": ("kind", stayed),
        },
        {"kind": list(kinds), "distance": np.arange(16)},
        {"solutions": len(task.solutions), "task": number, "gamma": gamma, "flip": _FLIP, "trials": trials},
    )


def students(config: Mapping[str, Any], seed: int, progress=lambda done, total: None) -> xr.Dataset:
    """Exact test errors of solutions of a teacher's patterns, 11 weights and 6 patterns, means over random teachers.

    `error` (which): of the solution with the largest local entropy, the mean over all, of the one with the smallest.
    """
    random = np.random.default_rng([config["seed"], seed, 11])
    shares, gamma = sde.BinaryPerceptron.disagreement(11), math.log((1 - _FLIP) / _FLIP)
    found = []
    for k in range(config["teachers"]):
        teacher = 1 - 2 * random.integers(0, 2, 11)
        task = sde.BinaryPerceptron.random(11, 6, teacher=teacher, seed=int(random.integers(2**31)))
        entropy = task.local_entropy(task.solutions, gamma)
        errors = shares[(task.solutions != teacher).sum(1)]
        found.append((errors[entropy.argmax()], errors.mean(), errors[entropy.argmin()]))
        progress(k + 1, config["teachers"])
    which = ["largest local entropy", "mean", "smallest local entropy"]
    return xr.Dataset({"error": ("which", np.mean(found, axis=0))}, {"which": which})
