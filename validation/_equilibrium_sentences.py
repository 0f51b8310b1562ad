"""What the sources of the equilibrium say, sentence by sentence, and the effect of each: one number per seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ._equilibrium_effects import (
    fourths_ratio,
    gain,
    gamma_error,
    late,
    left,
    mean_error,
    mixing_exponent,
    moved_share,
    rise,
)
from ._equilibrium_runs import STARTS
from ._sentences import Answer

_SOURCE, _GROWING = "Li, Lyu & Arora (2020)", "Li & Arora (2019)"
_INF = np.inf
_RESTLESS = 1e-3  # a gradient that does not vanish
_SAME = 0.02  # of the squared distance at first: one distribution


def sentences_of(config: Mapping[str, Any], runs: Mapping[str, list]) -> list[Answer]:
    """All sentences; of ladders the smallest ηλ where only one can be meant."""
    least = int(np.argmin(config["intrinsic"]))
    walks = [ladder[least] for ladder in runs["walked"]]
    found = [*_descent(runs), *_norm(runs), *_growing(runs)]
    own, one = (runs[f"distances-{starts}"] for starts in STARTS)
    found.append(
        Answer(f"{_SOURCE}, abstract (c)", "Schedules that end with one ηλ end with one distribution of predictions.",
               [left(ladder) for ladder in own], (-_SAME, _SAME), "every trial has a start of its own",
               "squared distance of predicted labels at the end over that at first [one start a schedule]",
               [left(ladder) for ladder in one])
    )  # fmt: skip
    exponents = [mixing_exponent(ladder) for ladder in own]
    if np.isfinite(exponents).all():
        found.append(
            Answer(f"{_SOURCE}, abstract (c)", "The steps to equilibrium in function space grow as 1/(ηλ).", exponents,
                   (0.75, 1.25), measure="exponent of the mixing time against 1/(ηλ)")
        )  # fmt: skip
    found += [
        Answer(_SOURCE, "Averaging the weights of one run in equilibrium lowers its test error.",
               [gain(one, "within") for one in walks], (0.0, _INF),
               measure="error of single states less that of their mean"),
        Answer(_SOURCE, "Averaging the weights of different runs in equilibrium does not.",
               [gain(one, "across") for one in walks], (-_INF, 0.0),
               measure="the same for one state of each of several runs from one start"),
        Answer(_SOURCE, "The weights go on moving away after the function is in equilibrium.",
               [float(moved_share(one)[-1] / np.interp(1.0, one["lag"] * one.attrs["intrinsic"], moved_share(one)))
                for one in walks],
               (1.0, _INF), measure="|w(T+Δ) − w(T)|² at the longest lag over that at 1/(ηλ)"),
        Answer(f"{_SOURCE}, abstract (b)", "Given time, a small η from the start does as well as a large one first.",
               [mean_error(one, "small throughout") - mean_error(one, "large first") for one in runs["slow"]],
               (-0.01, 0.01), measure="difference of test errors at the end"),
    ]  # fmt: skip
    return found


def _descent(runs: Mapping[str, list]) -> list[Answer]:
    toys, nets = runs["toy"], runs["descent"]
    return [
        Answer(_SOURCE, "Gradient descent on x²/(x² + y²) never comes to rest.",
               [float(late(one, "slope", "decay").max()) for one in toys], (_RESTLESS, _INF), "there is weight decay",
               "largest |∇L| of the last quarter", [float(late(one, "slope", "no decay").max()) for one in toys]),
        Answer(_SOURCE, "Full-batch gradient descent on a normalised network veers off, time and again.",
               [rise(one, "decay") for one in nets], (3.0, _INF), "there is weight decay",
               "largest loss of the last quarter over its median", [rise(one, "no decay") for one in nets]),
        Answer(_SOURCE, "It converges once the decay is turned off.",
               [rise(one, "decay off") for one in nets], (0.0, 1.5),
               measure="the same after the decay is turned off"),
    ]  # fmt: skip


def _norm(runs: Mapping[str, list]) -> list[Answer]:
    ladder = runs["balanced"][0]["intrinsic"].values
    small, large = int(np.argmin(ladder)), int(np.argmax(ladder))
    ratios = [fourths_ratio(one)[0] for one in runs["balanced"]]
    return [
        Answer(_SOURCE, "The norm settles where |w|⁴ = ηE|g_unit|²/(λ(2 − ηλ)).", [r[small] for r in ratios],
               (0.95, 1.05), f"ηλ = {ladder[small]:g}", f"|w|⁴ over that [ηλ = {ladder[large]:g}]",
               [r[large] for r in ratios]),
        Answer(_SOURCE, "γ = |w|⁴/η² follows dγ/dt = −4λ_eγ + 2 Tr Σ̄.", [gamma_error(one) for one in runs["relaxing"]],
               (-_INF, 0.1), measure="median |log| of γ over its equation, E|g_unit|² as measured"),
    ]  # fmt: skip


def _growing(runs: Mapping[str, list]) -> list[Answer]:
    def largest(pair: str) -> list[float]:
        gaps = [float(one["difference"].sel(pair=pair).max()) for one in runs["same"]]
        return [float(np.log10(max(gap, 1e-17))) for gap in gaps]

    return [
        Answer(_GROWING, "Constant η with decay and η_t = η(1 − λη)^{−2t−1} without are one function at every step.",
               largest("growing rate, μ = 0"), (-_INF, -10.0), "all trained weights are scale invariant",
               "log₁₀ of the largest difference of logits", largest("growing rate, μ = 0, last layer trained")),
        Answer(_GROWING, "The same under momentum with η_t = ηα^{−2t−1}.", largest("growing rate, μ = 0.9"),
               (-_INF, -10.0), "u₋₁ = αw₋₁", "log₁₀ of the largest difference of logits",
               largest("growing rate, μ = 0.9, from rest")),
    ]  # fmt: skip
