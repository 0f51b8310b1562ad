"""Claims about the phases of a run of SGD: drift, then diffusion."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

import sde_sgd as sde
from sde_sgd.figures._style import MUTED, new_figure, styled
from sde_sgd.theory.claim import Claim, Level, Measurement, estimated, sampled
from sde_sgd.theory.claims import _exact_laws as laws
from sde_sgd.theory.claims._batches import false_alarm, ratio_of_means, seed_of, states

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# -- drift and diffusion ------------------------------------------------------------------------------------------

_STEPS, _GROUPS = 80, 60


@cache
def _flat_noise() -> sde.FiniteSum:
    """f_k = a_k x²/2, all of whose gradients vanish at the minimum."""
    return sde.FiniteSum("x", "a*x**2/2", {"a": [0.5, 1.0, 1.5, 2.0]}, name="no noise at the minimum")


@cache
def _line() -> sde.FiniteSum:
    """f_k = (x ± 1)²/2: curvature 1, D = 1 everywhere."""
    return sde.FiniteSum("x", "(x - c)**2/2", {"c": [-1.0, -1.0, 1.0, 1.0]}, name="line")


_CASES: dict[str, tuple[Callable[[], sde.FiniteSum], tuple[float, ...], float, int]] = {  # start, η, b
    "one direction, b = 1": (_line, (20.0,), 0.1, 1),
    "one direction, b = 2": (_line, (20.0,), 0.1, 2),
    "quadratic": (laws.offsets, (12.0, -8.0), 0.1, 2),
    "PEARSON": (laws.pearson, (6.0,), 0.1, 4),
    "no noise at the minimum": (_flat_noise, (6.0,), 0.1, 4),
}


@cache
def _predicted(name: str) -> np.ndarray:
    """SNR² = E|∇f|²/(E tr D/b) after 0, 1, …, _STEPS steps, from the recursion of the second moments."""
    build, start, rate, batch = _CASES[name]
    parts = laws.affine(build())
    mean = parts.mean(axis=0)
    noise = parts - mean
    unit = np.eye(len(mean))
    move = np.kron(unit - rate * mean, unit - rate * mean) + rate**2 / batch * laws.pairs(noise)
    z = np.concatenate([[1.0], start])
    kept, found = np.kron(z, z), []
    for _ in range(_STEPS + 1):
        moments = kept.reshape(len(z), -1)
        spread = np.mean([np.trace(part @ moments @ part.T) for part in noise]) / batch
        found.append(np.trace(mean @ moments @ mean.T) / spread)
        kept = move @ kept
    return np.array(found)


@cache
def _measured(level: Level, name: str) -> tuple[np.ndarray, np.ndarray]:
    """|∇f|² and tr D/b along runs of SGD, averaged over groups of runs: (group, step)."""
    build, start, rate, batch = _CASES[name]
    chosen, count = build(), level.count(40)
    run = sde.sgd(chosen, start, learning_rate=rate, batch_size=batch, steps=_STEPS, replicas=_GROUPS * count,
                  save_every=1, seed=seed_of(level, 55, list(_CASES).index(name)))  # fmt: skip
    x = states(run, chosen)
    signal, noise = np.empty((2, _GROUPS, _STEPS + 1))
    for step in range(_STEPS + 1):
        now = x[:, step]
        signal[:, step] = (chosen.gradient(now) ** 2).sum(-1).reshape(_GROUPS, count).mean(1)
        noise[:, step] = np.trace(chosen.diffusion(now), axis1=-2, axis2=-1).reshape(_GROUPS, count).mean(1) / batch
    return signal, noise


def _crossing(ratio: np.ndarray) -> float:
    """The step at which log SNR² first falls through 0, between two steps linearly; NaN if it does not."""
    log = np.log(ratio)
    after = int(np.argmax(log < 0))
    return after - 1 + log[after - 1] / (log[after - 1] - log[after]) if after else float("nan")


def _crossing_in_closed_form(batch: int) -> float:
    """One direction of curvature h: n* = log[(h²x₀² − h²S)/(D/b − h²S)] / (−2 log(1 − ηh)), S the variance at rest."""
    h, rate, start, noise = 1.0, 0.1, 20.0, 1.0 / batch
    rest = rate * noise / (h * (2 - rate * h))
    return float(np.log((h**2 * (start**2 - rest)) / (noise - h**2 * rest)) / (-2 * np.log(1 - rate * h)))


def _crossing_of_runs(level: Level, name: str, expected: float, bias: float = 0.0) -> Measurement:
    """The crossing of the mean over all runs, and its error by leaving out one group after the other."""
    signal, noise = _measured(level, name)
    rest = [part.sum(0) - part for part in (signal, noise)]
    without = np.array([_crossing(above / below) for above, below in zip(*rest)])
    error = np.nan_to_num(np.sqrt(_GROUPS - 1) * without.std())
    crossing = _crossing(signal.mean(0) / noise.mean(0))
    return estimated(f"step where SNR = 1, {name}", crossing, error, expected, bias, false_alarm(_GROUPS))


def _plateau(level: Level, batch: int) -> Measurement:
    run = sde.sgd(_line(), 0.0, learning_rate=0.1, batch_size=batch, steps=80,
                  replicas=min(level.count(120_000), 6_000_000), seed=seed_of(level, 56, batch))  # fmt: skip
    found = run.x.values**2 * batch / (0.1 / 1.9)
    return sampled(f"SNR² at rest over ηh/(2 − ηh), one direction, b = {batch}", found, 1.0)


def _two_phases(level: Level) -> list[Measurement]:
    """SNR² = E|∇f|²/E(tr D/b) along runs of SGD, and the step at which it falls through 1. One direction: the closed
    form n* = log[(h²x₀² − h²S)/(D/b − h²S)]/(−2 log(1 − ηh)), for two batch sizes; log SNR² is not quite straight
    between two steps, which is worth 0.002 of a step. Two directions whose H and D do not commute, and PEARSON, whose
    noise grows with the distance: the recursion of the second moments. At rest SNR² is ηh/(2 − ηh), whatever the batch
    size.
    """
    return [
        *(_crossing_of_runs(level, f"one direction, b = {b}", _crossing_in_closed_form(b), 0.002) for b in (1, 2)),
        *(_crossing_of_runs(level, name, _crossing(_predicted(name))) for name in ("quadratic", "PEARSON")),
        _plateau(level, 1),
        _plateau(level, 4),
        _last(level, "PEARSON"),
    ]


def _last(level: Level, name: str) -> Measurement:
    """SNR² after all steps, which is below 1 in the diffusion phase."""
    signal, noise = (part[:, -1] for part in _measured(level, name))
    return replace(ratio_of_means(f"SNR² after {_STEPS} steps, {name}", signal, noise), relation="<=")


def _one_phase(level: Level) -> list[Measurement]:
    """Samples all of whose gradients vanish at the minimum, as where the data can be fitted: noise and drift vanish
    together, SNR² stays ā²b/Var a = 20, and the step at which it falls through 1 never comes (nan).
    """
    name = "no noise at the minimum"
    never = _crossing_of_runs(level, name, _crossing(_predicted("PEARSON")))
    return [_last(level, name), replace(never, what=f"{never.what} (nan: never)")]


@styled
def _draw_phases(level: Level) -> "Figure":
    figure = new_figure(5.4, 3.7)
    ax = figure.subplots()
    for colour, name in enumerate(("quadratic", "PEARSON", "no noise at the minimum")):
        signal, noise = _measured(level, name)
        ax.semilogy(_predicted(name), color=f"C{colour}", label=name)
        ax.plot(range(0, _STEPS + 1, 4), (signal.mean(0) / noise.mean(0))[::4], "o", ms=3.5, color=f"C{colour}")
        crossing = _crossing(_predicted(name))
        if crossing > 0:
            ax.axvline(crossing, color=f"C{colour}", lw=0.8, ls=":")
    ax.axhline(1.0, color=MUTED, lw=0.8, zorder=0)
    ax.annotate("drift", (_STEPS, 1.0), xytext=(-4, 4), textcoords="offset points", ha="right", color=MUTED)
    ax.annotate("diffusion", (_STEPS, 1.0), xytext=(-4, -12), textcoords="offset points", ha="right", color=MUTED)
    ax.set(xlabel="step", ylabel="SNR² of the gradient", title="lines: recursion of moments; dots: runs of SGD")
    ax.legend(loc="center right", bbox_to_anchor=(1.0, 0.64))
    return figure


DRIFT_TO_DIFFUSION = Claim(
    name="drift_to_diffusion",
    statement="SGD has two phases: first the mean of the gradient exceeds its standard deviation over the batches "
    "(drift), then it falls below (diffusion).",
    formula=r"|\nabla f|^2>\frac{1}{b}\operatorname{tr}D\quad\to\quad|\nabla f|^2<\frac{1}{b}\operatorname{tr}D",
    source="Shwartz-Ziv & Tishby (2017)",
    hypotheses=("the start is farther away than the noise reaches", "the noise does not vanish at the minimum"),
    as_stated="needs_hypothesis",
    holds="in one direction of curvature h SNR² falls through 1 after log[(h²x₀² − h²S)/(D/b − h²S)]/(−2 log(1 − ηh)) "
    "steps, S the variance at rest: later by nearly log k/(−2 log(1 − ηh)) for k times the batch; at rest SNR² = "
    "ηh/(2 − ηh) for every batch size. Where the samples' gradients all vanish at the minimum there is no second phase",
    check=_two_phases,
    twin=_one_phase,
    figure=_draw_phases,
)
