"""What the sources of the equilibrium say, sentence by sentence, and the effect of each: one number per seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from ._equilibrium_effects import (
    RISE,
    disagreement_gap,
    fourths_ratio,
    gain,
    gamma_error,
    last_quarter,
    late,
    left,
    mixing_exponent,
    moved_on,
    rise,
    slow_gap,
)
from ._equilibrium_runs import STARTS
from ._sentences import Answer, asked

_SOURCE, _GROWING = "Li, Lyu & Arora (2020)", "Li & Arora (2019)"
ASKED = "asked here, after Li, Lyu & Arora (2020)"
SMALL = 0.01  # a difference of test errors that does not matter
_INF = np.inf
_RESTLESS = 1e-3  # a gradient that does not vanish
_SAME = 0.02  # of the squared distance at first: one distribution
_AS_ONE = (0.75, 1.25)  # an exponent of 1


def sentences_of(config: Mapping[str, Any], runs: Mapping[str, list]) -> list[Answer | str]:
    """All sentences, as text those that not every seed can answer; of ladders the smallest ηλ where only one can be
    meant.
    """
    least = int(np.argmin(config["intrinsic"]))
    walks = [ladder[least] for ladder in runs["walked"]]
    own, one = (runs[f"distances-{starts}"] for starts in STARTS)
    grain = 1 / walks[0].attrs["test_inputs"]
    return [
        *_descent(runs), *_norm(runs), *_growing(runs), *_mixing(own, one),
        Answer(_SOURCE, "Averaging the weights of one run in equilibrium lowers its test error.",
               [gain(one, "within") for one in walks], (0.0, _INF),
               measure="error of single states less that of their mean", resolution=grain),
        Answer(_SOURCE, "Averaging the weights of runs from different starts does not.",
               [gain(one, "strangers") for one in walks], (-_INF, 0.0),
               measure="the same for one state of each of several runs, each with its own start", resolution=grain),
        Answer(ASKED, "Nor does averaging runs that share a start.",
               [gain(one, "across") for one in walks], (-_INF, 0.0),
               measure="the same for one state of each of several runs from one start", resolution=grain),
        less_than_independent(walks),
        Answer(_SOURCE, "The weights go on moving away after the function is in equilibrium.",
               [moved_on(one) for one in walks], (1.0, _INF),
               measure="|w(T+Δ) − w(T)|² at the longest lag over that at 1/(ηλ)"),
        no_worse(runs["slow"]),
    ]  # fmt: skip


def less_than_independent(walks: Sequence[xr.Dataset]) -> Answer:
    """Whether two networks of one equilibrium err on the same inputs."""
    return Answer(ASKED, "Two networks of one equilibrium disagree less than errors independent of each other make.",
                  [disagreement_gap(one) for one in walks], (-_INF, 0.0), measure="disagreement less 2e(1 − e)",
                  resolution=1 / walks[0].attrs["test_inputs"])  # fmt: skip


def no_worse(runs: Sequence[xr.Dataset]) -> Answer:
    """Whether a small learning rate throughout generalises as well, but for one in a hundred."""
    return Answer(f"{_SOURCE}, abstract (b)", "Given time, a small η generalises as well without a large one first.",
                  [slow_gap(one) for one in runs], (-_INF, SMALL), measure="test error at the end of the small η "
                  f"throughout less that after a large one, at most {SMALL:g}",
                  resolution=1 / runs[0].attrs["test_inputs"])  # fmt: skip


def _mixing(own: Sequence, one: Sequence) -> list[Answer | str]:
    squared = "squared distance of predicted labels at the end over that at first"
    senses = {"level": "time to a fixed distance", "integral": "integral of the distance over its first value"}
    return [
        asked(_SOURCE, "Schedules that end with one ηλ end with one distribution of predictions.",
              map(left, own), (-_SAME, _SAME), f"{squared}, starts of their own"),
        asked(_SOURCE, "So they do whatever the start.",
              map(left, one), (-_SAME, _SAME), f"{squared}, one start a schedule"),
        *(asked(f"{_SOURCE}, abstract (c)", "The steps to equilibrium in function space grow as 1/(ηλ).",
                [mixing_exponent(ladder, sense) for ladder in own], _AS_ONE,
                f"exponent of the {words} against 1/(ηλ)") for sense, words in senses.items()),
    ]  # fmt: skip


def _descent(runs: Mapping[str, list]) -> list[Answer | str]:
    toys, nets = runs["toy"], runs["descent"]

    def rises(kind: str) -> list[float]:
        return [float(np.log(rise(one, kind))) for one in nets]

    veered = [value if last_quarter(one) >= 1 else np.nan for value, one in zip(rises("decay"), nets)]

    measure = "ln of the largest loss of the last quarter over its median"
    return [
        Answer(_SOURCE, "Gradient descent on x²/(x² + y²) never comes to rest.",
               [float(late(one, "slope", "decay").max()) for one in toys], (_RESTLESS, _INF), "there is weight decay",
               "largest |∇L| of the last quarter", [float(late(one, "slope", "no decay").max()) for one in toys]),
        asked(_SOURCE, "Full-batch gradient descent on a normalised network veers off, time and again.", veered,
              (float(np.log(RISE)), _INF), measure, rises("no decay"), condition="there is weight decay"),
        Answer(_SOURCE, "It converges once the decay is turned off.", rises("decay off"),
               (-_INF, float(np.log(1.5))), measure="the same after the decay is turned off"),
    ]  # fmt: skip


def _norm(runs: Mapping[str, list]) -> list[Answer]:
    ladder = runs["balanced"][0]["intrinsic"].values
    small, large = int(np.argmin(ladder)), int(np.argmax(ladder))
    ratios = [fourths_ratio(one)[0] for one in runs["balanced"]]
    return [
        Answer(_SOURCE, "The norm settles where |w|⁴ = ηE|g_unit|²/(λ(2 − ηλ)).", [r[small] for r in ratios],
               (0.95, 1.05), f"ηλ = {ladder[small]:g}, not {ladder[large]:g}", "|w|⁴ over that",
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
