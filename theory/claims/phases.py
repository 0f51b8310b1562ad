"""Claims about the phases of a run of SGD, and about which of many solutions it ends at."""

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

import sde_sgd as sde
from sde_sgd.figures._style import MUTED, new_figure, styled
from sde_sgd.theory.claim import Claim, Level, Measurement, sampled
from sde_sgd.theory.claims import _exact_laws as laws

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# -- drift and diffusion ------------------------------------------------------------------------------------------

_STEPS = 80
_CASES = {  # start, learning rate, batch size
    "quadratic": ((12.0, -8.0), 0.1, 2),
    "PEARSON": ((6.0,), 0.1, 4),
    "no noise at the minimum": ((6.0,), 0.1, 4),
}


@cache
def _flat_noise() -> sde.FiniteSum:
    """f_k = a_k x²/2, all of whose gradients vanish at the minimum."""
    return sde.FiniteSum("x", "a*x**2/2", {"a": [0.5, 1.0, 1.5, 2.0]}, name="no noise at the minimum")


def _sum(name: str) -> sde.FiniteSum:
    return {"quadratic": laws.offsets, "PEARSON": laws.pearson}.get(name, _flat_noise)()


@cache
def _predicted(name: str, batch: int | None = None) -> np.ndarray:
    """SNR² = E|∇f|²/(E tr D/b) after 0, 1, …, _STEPS steps, from the recursion of the second moments."""
    parts, (start, rate, size) = laws.affine(_sum(name)), _CASES[name]
    batch = batch or size
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
def _measured(name: str, seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """|∇f|² and tr D/b along runs of SGD, averaged over 60 groups of runs: (group, step)."""
    chosen, (start, rate, batch) = _sum(name), _CASES[name]
    run = sde.sgd(chosen, start, learning_rate=rate, batch_size=batch, steps=_STEPS, replicas=60 * count, save_every=1,
                  seed=seed)  # fmt: skip
    x = np.stack([run[v].values for v in chosen.variables], -1)
    signal, noise = np.empty((2, 60, _STEPS + 1))
    for step in range(_STEPS + 1):
        now = x[:, step]
        signal[:, step] = (chosen.gradient(now) ** 2).sum(-1).reshape(60, count).mean(1)
        noise[:, step] = np.trace(chosen.diffusion(now), axis1=-2, axis2=-1).reshape(60, count).mean(1) / batch
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


@cache
def _line() -> sde.FiniteSum:
    """f_k = (x ± 1)²/2: curvature 1, D = 1 everywhere."""
    return sde.FiniteSum("x", "(x - c)**2/2", {"c": [-1.0, -1.0, 1.0, 1.0]}, name="line")


@cache
def _one_direction(batch: int, seed: int, count: int) -> np.ndarray:
    """The crossing of each of 60 groups of runs on the line from x₀ = 20."""
    run = sde.sgd(_line(), 20.0, learning_rate=0.1, batch_size=batch, steps=_STEPS, replicas=60 * count, save_every=1,
                  seed=seed)  # fmt: skip
    signal = (run.x.values**2).reshape(60, count, -1).mean(1)
    return np.array([_crossing(row * batch) for row in signal])


def _plateau(level: Level, batch: int) -> Measurement:
    run = sde.sgd(_line(), 0.0, learning_rate=0.1, batch_size=batch, steps=80,
                  replicas=min(level.count(120_000), 6_000_000), seed=level.seed + 73)  # fmt: skip
    found = run.x.values**2 * batch / (0.1 / 1.9)
    return sampled(f"SNR² at rest over ηh/(2 − ηh), one direction, b = {batch}", found, 1.0)


def _two_phases(level: Level) -> list[Measurement]:
    """SNR² = E|∇f|²/E(tr D/b) along runs of SGD, and the step at which it falls through 1. One direction: the closed
    form n* = log[(h²x₀² − h²S)/(D/b − h²S)]/(−2 log(1 − ηh)), for two batch sizes. Two directions whose H and D do not
    commute, and PEARSON, whose noise grows with the distance: the recursion of the second moments. At rest SNR² is
    ηh/(2 − ηh), whatever the batch size."""
    count, found = level.count(40), []
    for batch in (1, 2):  # log SNR² is not quite straight between two steps: 0.002 of a step
        crossings = _one_direction(batch, level.seed + 71, count)
        what = f"step where SNR = 1, one direction, b = {batch}"
        found.append(sampled(what, crossings, _crossing_in_closed_form(batch), bias=0.002))
    for name in ("quadratic", "PEARSON"):
        signal, noise = _measured(name, level.seed + 72, count)
        crossings = np.array([_crossing(above / below) for above, below in zip(signal, noise)])
        found.append(sampled(f"step where SNR = 1, {name}", crossings, _crossing(_predicted(name))))
    return [*found, _plateau(level, 1), _plateau(level, 4), _last("PEARSON", level)]


def _last(name: str, level: Level) -> Measurement:
    """SNR² after all steps, which is below 1 in the diffusion phase."""
    signal, noise = (part[:, -1] for part in _measured(name, level.seed + 72, level.count(40)))
    found = sampled("", signal / noise.mean(), 1.0)
    return Measurement(f"SNR² after {_STEPS} steps, {name}", found.measured, 1.0, found.tolerance, found.reason, "<=",
                       found.false_alarm)  # fmt: skip


def _one_phase(level: Level) -> list[Measurement]:
    """Samples all of whose gradients vanish at the minimum, as where the data can be fitted: noise and drift vanish
    together, SNR² stays ā²b/Var a = 20, and the step of PEARSON at which it falls through 1 never comes."""
    name = "no noise at the minimum"
    signal, noise = _measured(name, level.seed + 72, level.count(40))
    crossing = _crossing(signal.mean(axis=0) / noise.mean(axis=0))
    wanted = _crossing(_predicted("PEARSON"))
    never = Measurement(f"step where SNR = 1 (nan: never), {name}", crossing, wanted, 0.05 * wanted, "5 %")
    return [_last(name, level), never]


@styled
def _draw_phases(level: Level) -> "Figure":
    figure = new_figure(5.4, 3.7)
    ax = figure.subplots()
    for colour, name in enumerate(_CASES):
        signal, noise = _measured(name, level.seed + 72, level.count(40))
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
    formula=r"n^*=\frac{\log\left[(h^2x_0^2-h^2S)/(D/b-h^2S)\right]}{-2\log(1-\eta h)}",
    source="Shwartz-Ziv & Tishby (2017)",
    hypotheses=("the start is farther away than the noise reaches", "the noise does not vanish at the minimum"),
    as_stated="needs_hypothesis",
    holds="on a quadratic the step of the crossing is known, later by about log k/(−2 log(1 − ηh)) for k times the "
    "batch; at rest SNR² = ηh/(2 − ηh) for every batch size. Where the samples' gradients all vanish at the minimum "
    "there is no second phase",
    check=_two_phases,
    twin=_one_phase,
    figure=_draw_phases,
)
