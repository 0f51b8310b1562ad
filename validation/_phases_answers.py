"""What the sources on the phases say, and the effect that decides on each sentence: one number per seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from . import _phases_summary as of
from ._phases_tables import resolution_of, spacing, spacing_of
from ._sentences import Answer, asked

_INF = np.inf
_MORE, _LESS = (0.0, _INF), (-_INF, 0.0)
_TWICE = (-np.log(2.0), np.log(2.0))
_TISHBY = "Shwartz-Ziv & Tishby (2017)"
_SAXE = "Saxe et al. (2018)"
_CHELOMBIEV = "Chelombiev et al. (2019)"
_ZHANG = "Zhang et al. (2017)"
_HOFFER = "Hoffer et al. (2017)"
_HERE = "asked here"


def answers(config: Mapping[str, Any], runs: of.Runs) -> list[Answer | str]:
    """Sentences whose effect every seed has, and, as text, those of which not every seed has it."""
    return [*_drift(config, runs["tanh"], runs["descent"]), *_plane(runs), *_labels(config, runs), *_growth(runs)]


def _drift(config: Mapping[str, Any], tanh, descent) -> list[Answer | str]:
    b = config["batch_size"]
    events = [of.apart(run) for run in tanh]
    grain = spacing(config, tanh)
    found = [
        asked(_TISHBY, "while the loss falls the mean of the gradient exceeds its deviation over mini-batches (drift)",
            map(of.drift, tanh), _MORE, "ln SNR, mean over steps until nine tenths of the fall of the loss are over",
            condition=f"b = {b}, not b = 1", otherwise=[of.drift(run, 1) for run in tanh]),
        asked(_TISHBY, "in the end the deviation exceeds the mean (diffusion)", map(of.late, tanh), _LESS,
            f"ln SNR over the last tenth of the records, b = {b}"),
        asked(_TISHBY, "the change comes once: drift, then diffusion", [of.crossing_of(run).falls for run in tanh],
            (0.5, 1.5), f"falls of the SNR through 1 along the run, {of.SMOOTH} records averaged",
            resolution=3 / len(tanh)),
        asked(_TISHBY, "it comes in all layers at once, within a factor of two", map(of.layers_apart, tanh),
            (-_INF, np.log(2.0)), "ln(last crossing over first among layers); a layer that is never above 1 counts as "
            "crossing at step 1, one that ends above at twice the last step", resolution=grain),
        asked(_HERE, "only noise brings the SNR below 1: gradient descent stays above", map(of.late, descent), _MORE,
            f"ln SNR of gradient descent over the last tenth of the records, at b = {b}"),
    ]  # fmt: skip
    for name in ("loss", "fit", "sharpness", "memory"):
        found.append(asked(_TISHBY if name == "loss" else _HERE, f"the crossing is where {of.EVENTS[name]}",
                           [event[name] for event in events], _TWICE,
                           "ln(its step over that of the crossing), within ln 2",
                           resolution=spacing_of(name, config, tanh)))  # fmt: skip
    found.append(asked(_HERE, "in diffusion the weights forget where they started", map(of.kept, tanh), (-_INF, 0.5),
                       "w·w₀/|w₀|² at the end over that at the crossing; below ½"))  # fmt: skip
    return found


def _plane(runs: of.Runs) -> list[Answer | str]:
    tanh, relu = runs["tanh"], runs["relu"]
    n = tanh[0].attrs["plane_samples"]
    grain = 2 / n  # two samples in one bin, or apart
    at_cap = np.mean([of.capped(run, "bins before") for run in tanh]), np.mean([of.capped(run, "bins") for run in relu])

    def change(kind: str, estimator: str = "bins") -> np.ndarray:
        steps = [of.since(kind, run, pair) for run, pair in zip(runs[kind], tanh)]
        return np.array([of.change(run, step, estimator) for run, step in zip(runs[kind], steps)])

    measure = "change of I(X;T), bits, mean over hidden layers, from the crossing to the end"
    own = "for relu from where nine tenths of the fall of its loss are over"
    beyond = "of layers at the cap at the end, which show nothing"
    saturated = [_correlation(run["saturated"].values.mean(1), of.bits(run, "bins").mean(1)) for run in tanh]
    when = [of.since("tanh", run, run) for run in tanh]
    labels = [of.at(run, step, "drawn", "labels") - of.bits(run, "drawn", "labels")[0].mean()
              for run, step in zip(tanh, when)]  # fmt: skip
    return [
        asked(_TISHBY, "I(X;T) falls after the crossing (compression), in bins", change("tanh"), _LESS,
            f"{measure}; {own}", otherwise=change("relu"), condition="the activation is tanh, not relu",
            resolution=grain),
        asked(_HERE, "so does the information with noise, drawn", change("tanh", "drawn"), _LESS, f"{measure}; {own}",
            otherwise=change("relu", "drawn"), condition="the activation is tanh, not relu", resolution=grain),
        asked(_TISHBY, "I(Y;T) rises before the crossing", labels, _MORE,
            "bits at the crossing less at the start, drawn", resolution=grain),
        asked(_TISHBY, "the noise of mini-batches compresses: gradient descent does less",
            change("tanh") - change("descent"), _LESS,
            "change of I(X;T) in bins by SGD less that by gradient descent, from the same step on", resolution=grain),
        asked(_SAXE, "gradient descent compresses, too, without noise", change("descent"), _LESS, measure + ", in bins",
            resolution=grain),
        asked(_HERE, "weight decay, which keeps tanh from saturation, makes compression less",
            change("decay") - change("tanh"), _MORE, "change of I(X;T) in bins with decay less that without",
            resolution=grain),
        asked(_CHELOMBIEV, "weight decay makes compression more, in widths that go with the activations",
            change("decay", "drawn, relative") - change("tanh", "drawn, relative"), _LESS,
            "change of I(X;T) drawn, relative, with decay less that without", resolution=grain),
        asked(_HERE, "what goes into the nonlinearity is not compressed", change("tanh", "bins before"), (-0.5, _INF),
            f"{measure}, in bins; above −½; {at_cap[0]:.0%} {beyond}", resolution=grain),
        asked(_SAXE, "information falls as units saturate", saturated, _LESS,
            "correlation of I(X;T) in bins with the saturated share along the run"),
        asked(_SAXE, "relu is not compressed, in bins of the run's range", change("relu"), (-0.5, _INF),
            f"change of I(X;T), bits, mean over hidden layers, {own}; above −½; {at_cap[1]:.0%} {beyond}",
            resolution=grain),
    ]  # fmt: skip


def _labels(config: Mapping[str, Any], runs: of.Runs) -> list[Answer | str]:
    true, random = runs["random-0"], runs["random-1"]
    chance = 1 / random[0].attrs["classes"]
    slower = [np.log(of.steps_to_fit(b) / of.steps_to_fit(a)) for a, b in zip(true, random)]
    return [
        asked(_ZHANG, "random labels are fitted without error", [run["accuracy"].values[-1] for run in random],
            (0.99, _INF), "training accuracy at the end, above 0.99", resolution=resolution_of(random)),
        asked(_ZHANG, "then the test accuracy is that of chance, within 0.05",
            [run["test_accuracy"].values[-1] - chance for run in random], (-0.05, 0.05),
            "test accuracy less that of chance", resolution=resolution_of(random, "test_samples")),
        asked(_ZHANG, "the fit takes longer by a small factor, which is read as less than ten", slower,
            (0.0, np.log(10.0)), "ln(steps to 99 % with random labels over those with true ones)",
            resolution=spacing(config, random)),
        asked(_HERE, "with random labels, too, the mean exceeds the deviation while the loss falls",
            map(of.drift, random), _MORE,
            f"ln SNR, b = {random[0].attrs['noise_size']}, mean over steps until nine tenths of the fall are over"),
    ]  # fmt: skip


def _growth(runs: of.Runs) -> list[Answer | str]:
    found: list[Answer | str] = []
    for kind, name in (("tanh", "tanh"), ("random-1", "random labels")):
        laws, local = [of.laws(run) for run in runs[kind]], [of.exponents(run) for run in runs[kind]]
        found += [
            asked(_HOFFER, f"{name}: |w − w₀| grows rather as the logarithm of the steps than as a power of them",
                [law.ahead for law in laws], _MORE, "ln(rms error ahead of the power law over that of the logarithm)"),
            asked(_HOFFER, f"{name}: and the logarithm holds, within 5 %", [law.misses[1] for law in laws],
                (-_INF, 0.05), "rms error ahead of the logarithm, relative"),
            asked(_HERE, f"{name}: |w − w₀| is a power of the steps at all, of one exponent within 0.1",
                [k[-1] - k[0] for k in local], (-0.1, 0.1),
                "d ln|w − w₀|/d ln t, last third of the records less the first"),
        ]  # fmt: skip
    last = [np.array([of.exponents(run)[-1] for run in runs[kind]]) for kind in ("tanh", "descent")]
    return [
        *found,
        asked(_HOFFER, "the weights do not move as a free walk would, with exponent ½", last[0], _not_half,
            "d ln|w − w₀|/d ln t, last third of the records; within ½ ± 0.1 is ½"),
        asked(_HERE, "the growth is diffusion: gradient descent, without noise, grows otherwise", last[0] - last[1],
            _differs, "local exponent of SGD less that of gradient descent, last third; within ±0.05 is the same"),
    ]  # fmt: skip


def _differs(low: float, high: float, within: float = 0.05) -> bool | None:
    """Whether a number is farther than `within` from 0: not where all of its interval is within."""
    if low >= -within and high <= within:
        return False
    return True if low > within or high < -within else None


def _not_half(low: float, high: float) -> bool | None:
    """Whether an exponent is farther than 0.1 from ½."""
    return _differs(low - 0.5, high - 0.5, 0.1)


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's; NaN where one of them does not vary."""
    return float(np.corrcoef(one, other)[0, 1]) if np.ptp(one) > 0 and np.ptp(other) > 0 else float("nan")
