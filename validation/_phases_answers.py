"""What the sources on the phases say, and the effect that decides on each sentence: one number per seed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from . import _phases_summary as of
from ._sentences import Answer

_INF = np.inf
_MORE, _LESS = (0.0, _INF), (-_INF, 0.0)
_TWICE = (-np.log(2.0), np.log(2.0))
_TISHBY = "Shwartz-Ziv & Tishby (2017)"
_SAXE = "Saxe et al. (2018)"
_ZHANG = "Zhang et al. (2017)"
_HOFFER = "Hoffer et al. (2017)"
_HERE = "asked here"


def answers(config: Mapping[str, Any], runs: of.Runs) -> list[Answer]:
    """All sentences whose effect every seed has."""
    return [*_drift(config, runs["tanh"], runs["descent"]), *_plane(runs), *_labels(runs), *_growth(runs)]


def one(
    source: str, content: str, effect: Iterable[float], holds, measure: str, otherwise=None, **more
) -> list[Answer]:
    """The answer, or none where a seed does not have the effect."""
    effect = [float(value) for value in effect]
    if otherwise is not None:
        otherwise = [float(value) for value in otherwise]
    if not effect or not np.isfinite([*effect, *(otherwise or ())]).all():
        return []
    return [Answer(source, content, effect, holds, measure=measure, otherwise=otherwise, **more)]


def _drift(config: Mapping[str, Any], tanh, descent) -> list[Answer]:
    b = config["batch_size"]
    ends = [of.start_and_end(run) for run in tanh]
    layers = range(tanh[0].sizes["layer"])
    per_layer = [np.array([of.crossing_of(run, layer).last for layer in layers]) for run in tanh]
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = [np.ptp(np.log(where)) for where in per_layer]
    events = [of.apart(run) for run in tanh]
    found = [
        *one(_TISHBY, "early on the mean of the gradient exceeds its deviation over mini-batches (drift)",
             [start for start, _ in ends], _MORE, "ln SNR at the start", condition=f"b = {b}, not b = 1",
             otherwise=[of.start_and_end(run, 1)[0] for run in tanh]),
        *one(_TISHBY, "in the end the deviation exceeds the mean (diffusion)", [end for _, end in ends], _LESS,
             f"ln SNR over the last tenth of the records, b = {b}"),
        *one(_TISHBY, "the change comes once: drift, then diffusion", [of.crossing_of(run).falls for run in tanh],
             (0.0, 2.0), "falls of the SNR through 1 along the run, five records averaged"),
        *one(_TISHBY, "it comes in all layers at once, within a factor of two", spread, (-_INF, np.log(2.0)),
             "ln(last crossing over first among layers)"),
        *one(_TISHBY, "the fall marks a random walk of the weights: without noise the SNR does not fall below 1",
             [of.start_and_end(run)[1] for run in descent], _MORE,
             f"ln SNR of gradient descent over the last tenth of the records, at b = {b}"),
    ]  # fmt: skip
    for name in ("loss", "fit", "sharpness", "memory"):
        found += one(_TISHBY if name == "loss" else _HERE, f"the crossing is where {of.EVENTS[name]}",
                     [event[name] for event in events], _TWICE, "ln(its step over that of the crossing), within ln 2"
                     )  # fmt: skip
    return found + one(
        _HERE, "in diffusion the weights forget where they started", [run["projection"].values[-1] for run in tanh],
        (-_INF, 0.5), "w·w₀/|w₀|² at the end: 1 where the start is kept whole",
    )  # fmt: skip


def _plane(runs: of.Runs) -> list[Answer]:
    tanh, relu, decay, descent = (runs[kind] for kind in ("tanh", "relu", "decay", "descent"))
    when = [of.crossing_of(run).last for run in tanh]

    def change(several, estimator="bins", quantity="inputs"):
        return [of.change(run, step, estimator, quantity) if np.isfinite(step) else np.nan
                for run, step in zip(several, when)]  # fmt: skip

    measure = "bits at the end less at the crossing of tanh, mean over hidden layers"
    less = [a - b for a, b in zip(change(tanh), change(descent))]
    saturated = [_correlation(run["saturated"].values.mean(1), of.bits(run, "bins").mean(1)) for run in tanh]
    return [
        *one(_TISHBY, "I(X;T) falls after the crossing (compression), in bins", change(tanh), _LESS, measure,
             otherwise=change(relu), condition="the activation is tanh, not relu"),
        *one(_TISHBY, "the same by information with noise (drawn)", change(tanh, "drawn"), _LESS, measure,
             otherwise=change(relu, "drawn"), condition="the activation is tanh, not relu"),
        *one(_TISHBY, "I(Y;T) rises before the crossing",
             [of.at(run, step, "drawn", "labels") - of.bits(run, "drawn", "labels")[0].mean()
              for run, step in zip(tanh, when)], _MORE, "bits at the crossing less at the start, drawn"),
        *one(_TISHBY, "the noise of mini-batches compresses: gradient descent does less", less, _LESS,
             "compression of SGD less that of gradient descent, bins"),
        *one(_SAXE, "compression is saturation: it is gone where weight decay keeps tanh from it",
             [a - b for a, b in zip(change(decay), change(tanh))], _MORE, "compression with decay less that without"),
        *one(_SAXE, "what goes into the nonlinearity is not compressed", change(tanh, "bins before"), (-0.5, _INF),
             measure + "; above −½"),
        *one(_SAXE, "information falls as units saturate", saturated, _LESS,
             "correlation of I(X;T) in bins with the saturated share along the run"),
        *one(_SAXE, "relu is not compressed, in bins of the run's range", change(relu), (-0.5, _INF),
             measure + "; above −½"),
    ]  # fmt: skip


def _labels(runs: of.Runs) -> list[Answer]:
    true, random = runs.get("random-0", []), runs.get("random-1", [])
    classes = random[0].attrs["classes"] if random else 1
    slower = [np.log(of.steps_to_fit(b) / of.steps_to_fit(a)) for a, b in zip(true, random)]
    return [
        *one(_ZHANG, "random labels are fitted without error", [run["accuracy"].values[-1] for run in random],
             (0.99, _INF), "training accuracy at the end"),
        *one(_ZHANG, "then the test accuracy is that of chance, within 0.05",
             [run["test_accuracy"].values[-1] - 1 / classes for run in random], (-0.05, 0.05),
             "test accuracy less that of chance"),
        *one(_ZHANG, "and the fit takes longer, by less than a factor of ten", slower, (0.0, np.log(10.0)),
             "ln(steps to 99 % with random labels over those with true ones)"),
        *one(_HERE, "with random labels the run starts in drift, too",
             [of.start_and_end(run)[0] for run in random], _MORE, "ln SNR at the start"),
    ]  # fmt: skip


def _growth(runs: of.Runs) -> list[Answer]:
    found = []
    for kind, name in (("tanh", "tanh"), ("random-1", "random labels")):
        if kind not in runs:
            continue
        laws = [of.laws(run) for run in runs[kind]]
        found += [
            *one(_HOFFER, f"{name}: |w − w₀| grows rather as the logarithm of the steps than as a power of them",
                 [law.ahead for law in laws], _MORE, "ln(rms error ahead of the power law over that of the logarithm)"),
            *one(_HOFFER, f"{name}: and the logarithm holds, within 5 %", [law.misses[1] for law in laws],
                 (-_INF, 0.05), "rms error ahead of the logarithm, relative"),
        ]  # fmt: skip
    pairs = list(zip(runs["tanh"], runs["descent"]))
    return [
        *found,
        *one(_HOFFER, "the weights diffuse as a free walk would, exponent ½",
             [of.exponents(run)[-1] for run, _ in pairs], (0.4, 0.6), "d ln|w − w₀|/d ln t, last third of the records"),
        *one(_HOFFER, "slow growth is diffusion: gradient descent, without noise, grows otherwise",
             [of.exponents(sgd)[-1] - of.exponents(gd)[-1] for sgd, gd in pairs],
             _differs,
             "local exponent of SGD less that of gradient descent, last third; within ±0.05 is the same"),
    ]  # fmt: skip


def _differs(low: float, high: float) -> bool | None:
    """Whether an exponent differs by more than 0.05: not where the interval is within ±0.05."""
    if low >= -0.05 and high <= 0.05:
        return False
    return True if low > 0.05 or high < -0.05 else None


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's; NaN where one of them does not vary."""
    return float(np.corrcoef(one, other)[0, 1]) if np.ptp(one) > 0 and np.ptp(other) > 0 else float("nan")
