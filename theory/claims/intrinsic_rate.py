"""Claims about the equilibrium of SGD with weight decay: the norm it settles at, how fast, and how far weights move."""

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

import sde_sgd as sde
from sde_sgd.figures._style import new_figure, styled
from sde_sgd.theory.claim import Claim, Level, Measurement, refined, sampled
from sde_sgd.theory.claims._batches import finite_sum, ratio_of_means, seed_of, states, sums
from sde_sgd.theory.claims._normalised import circle, losses, mean_square

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DECAY = 0.5


@cache
def _stationary(level: Level, name: str, rate: float, momentum: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """|w|² and E|g|² of one sample, (replica, time), of SGD with b = 1 and ηλ = `rate` at times 1/(ηλ) steps apart.

    From near the published norm; the first 10/(ηλ) steps, ten relaxations of |w|⁴ at the least, are left out.
    """
    loss, start = losses()[name]
    eta = rate / _DECAY
    unit = start / np.linalg.norm(start)
    apart = round(1 / rate)
    run = sde.sgd(
        loss, unit * (eta * mean_square(loss, unit) / (2 * _DECAY)) ** 0.25, learning_rate=eta, batch_size=1,
        steps=45 * apart, replicas=round(1000 * level.more), weight_decay=_DECAY, momentum=momentum, save_every=apart,
        seed=seed_of(level, 30, round(1e6 * rate)), threads=1,
    )  # fmt: skip
    weights = states(run, loss)[:, 11:]
    return np.square(weights).sum(-1), mean_square(loss, weights)


def _balance(level: Level, name: str, rate: float, momentum: float = 0.0) -> Measurement:
    squares, gradients = _stationary(level, name, rate, momentum)
    what = f"λ(2 − ηλ)E|w|²/(ηE|g|²), ηλ = {rate:.2g}, {name}" + (f", momentum {momentum:g}" if momentum else "")
    return ratio_of_means(what, _DECAY**2 * (2 - rate) / rate * squares.mean(1), gradients.mean(1))


def _fourth_power(level: Level, name: str, rate: float, bias: float) -> Measurement:
    squares, gradients = _stationary(level, name, rate)
    what = f"λ(2 − ηλ)E|w|⁴/(ηE|g_unit|²), ηλ = {rate:.2g}, {name}"
    above, below = _DECAY**2 * (2 - rate) / rate * squares**2, gradients * squares
    return ratio_of_means(what, above.mean(1), below.mean(1), bias=bias)


def _equilibrium(level: Level) -> list[Measurement]:
    """Replicas of SGD run to stationarity, b = 1. At ηλ = 0.1 the balance of E|w|² with E|g|², which is exact; at ηλ =
    0.002 the published form. Squaring the recursion of the norm gives its error, ηλ(κ − 1) to first order with κ =
    E|g_unit|⁴/(E|g_unit|²)², about 1.4 and 2.1 on these losses: 4ηλ is granted. At the full level ηλ and the sampling
    error are only three and six times smaller: the steps to stationarity grow as 1/(ηλ).
    """
    small = 0.002 / np.sqrt(level.more)
    found = [_balance(level, name, 0.1) for name in losses()]
    return [*found, *(_fourth_power(level, name, small, 4 * small) for name in losses())]


def _large_rate(level: Level) -> list[Measurement]:
    """The published form at ηλ = 0.1, where the norm fluctuates, and the balance under momentum 0.5."""
    found = [_balance(level, name, 0.1, 0.5) for name in losses()]
    return [*found, *(_fourth_power(level, name, 0.1, 0.0) for name in losses())]


EQUILIBRIUM_NORM = Claim(
    name="equilibrium_norm",
    statement="Under weight decay the norm settles where |w|⁴ = ηE|g_unit|²/(λ(2 − ηλ)), g_unit the gradient at w/|w|.",
    formula=r"|w|^4=\frac{\eta\,E|g_{\mathrm{unit}}|^2}{\lambda(2-\eta\lambda)}",
    source="Li, Lyu & Arora (2020)",
    hypotheses=("a scale-invariant loss", "ηλ ≪ 1: the norm hardly fluctuates", "no momentum"),
    as_stated="needs_hypothesis",
    holds="for ηλ → 0; what holds for every ηλ is E|w|² = ηE|g|²/(λ(2 − ηλ)), g the gradient that SGD used",
    check=_equilibrium,
    twin=_large_rate,
)


@cache
def _noises() -> dict[str, tuple[sde.FiniteSum, np.ndarray, float]]:
    """Scale-invariant sums whose E|g_unit|² hardly depends on the direction, a start, and that number."""
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    data = dict(zip(("p", "r", "s"), corners.T.astype(float)))
    tetrahedron = sde.FiniteSum(("x", "y", "z"), "(p*x + r*y + s*z)/sqrt(x**2 + y**2 + z**2)", data, name="tetrahedron")
    strong = 20.0  # then E|g_unit|² = 2A² + sin² 2θ is within 0.07 % of its mean
    return {
        "scale_invariant": (circle(strong), np.array([0.6, 0.8]), 2 * strong**2 + 0.5),
        "corners of a tetrahedron": (tetrahedron, np.array([0.0, 0.6, 0.8]), 2.0),
    }


def _relaxing(level: Level, name: str, rate: float, momentum: float = 0.0, times: int = 1, start: float = 2.0):
    """γ/γ_eq at steps 0, 1/(4ηλ)/times, … up to 1/(4ηλ), (replica, time), from `start` times the stationary norm."""
    loss, unit, square = _noises()[name]
    eta, steps = rate / _DECAY, round(1 / (4 * rate))
    settled = (eta * square / (2 * _DECAY)) ** 0.25
    run = sde.sgd(
        loss, start * settled * unit, learning_rate=eta, batch_size=1, steps=steps, replicas=level.count(2000),
        weight_decay=_DECAY, momentum=momentum, save_every=steps // times, seed=seed_of(level, 31), threads=1,
    )  # fmt: skip
    return np.square(states(run, loss)).sum(-1) ** 2 / settled**4


def _relaxing_sde(level: Level, power: int) -> np.ndarray:
    """(|w|^power − stationary)/(first − stationary) at t = 1/(4λ), SDE of "scale_invariant", from twice the norm."""
    temperature, noise, step = 0.2, 0.5, 2.5e-4 / level.more
    settled = (2 * temperature * noise**2) ** 0.25  # λ = 1
    process = circle(noise, 1.0).at_temperature(temperature)
    run = sde.simulate(
        process, 2 * settled * np.array([0.6, 0.8]), step=step, steps=round(0.25 / step), paths=round(400 * level.more),
        seed=seed_of(level, 32), threads=1,
    )  # fmt: skip
    norms = np.hypot(run.x.values, run.y.values) / settled
    return (norms**power - 1) / (2**power - 1)


def _share_left(level: Level, momentum: float) -> list[Measurement]:
    rate = 0.002 / level.more
    found = []
    for name in _noises():
        share = (_relaxing(level, name, rate, momentum)[:, -1] - 1) / 15
        what = f"(γ − γ_eq)/(γ₀ − γ_eq) after 1/(4ηλ) steps of sde.sgd, {name}"
        found.append(sampled(what, share, np.exp(-1), bias=rate))
    return found


def _relaxation(level: Level) -> list[Measurement]:
    """Replicas of SGD start at twice the stationary norm, γ₀ = 16 γ_eq, on two losses whose gradients are nearly all
    noise: after 1/(4ηλ) steps the distance to γ_eq is 1/e of what it was. At ηλ = 0.002 the steps are small enough for
    the equation in continuous time: (1 − ηλ)^{1/(ηλ)} is short of 1/e by the fraction ηλ/2, and the square of a step's
    own length adds less; in all an error of ηλ is granted. The same in the SDE of "scale_invariant" on
    its own clock, where the time is 1/(4λ); the Euler steps of 1/1000 of that add an error of their own order.
    """
    what = "(|w|⁴ − stationary)/(first − stationary) at t = 1/(4λ), SDE of scale_invariant"
    found = sampled(what, _relaxing_sde(level, 4), np.exp(-1), bias=1e-3 / level.more)
    return [*_share_left(level, 0.0), found]


def _relaxation_broken(level: Level) -> list[Measurement]:
    """The same under momentum 0.9, which changes both the norm and the time, and for |w|² in the place of |w|⁴, whose
    approach is not exponential.
    """
    what = "(|w|² − stationary)/(first − stationary) at t = 1/(4λ), SDE of scale_invariant"
    return [*_share_left(level, 0.9), sampled(what, _relaxing_sde(level, 2), np.exp(-1), bias=1e-3 / level.more)]


@styled
def _relaxation_figure(level: Level) -> "Figure":
    figure = new_figure(5.2, 3.6)
    ax = figure.subplots()
    time = np.linspace(0, 1, 26)  # in 1/(4ηλ)
    for k, start in enumerate((2.0, 1.6, 0.5)):
        ax.plot(time, 1 + (start**4 - 1) * np.exp(-time), color="C6", lw=1, label="equation" if not k else None)
        for marker, name in zip((".", "o"), _noises()):
            gamma = _relaxing(level, name, 0.002, times=25, start=start).mean(0)
            colour = "C1" if marker == "o" else "C0"
            ax.plot(time, gamma, marker, mfc="none", color=colour, label=name if not k else None)
    ax.axhline(1.0, color="C6", ls=":", lw=0.8)
    ax.set(xlabel="steps · 4ηλ", ylabel="mean γ/γ_eq, γ = |w|⁴/η²", yscale="log")
    ax.legend()
    return figure


NORM_RELAXATION = Claim(
    name="norm_relaxation",
    statement="With λ_e = ηλ, γ = |w|⁴/η² relaxes exponentially, within 1/(4λ_e) steps.",
    formula=r"\frac{d\gamma}{dt}=-4\lambda_e\gamma+2\operatorname{Tr}\bar{\Sigma}",
    source="Li, Lyu & Arora (2020)",
    hypotheses=(
        "a scale-invariant loss, ηλ ≪ 1",
        "the trace of the noise at |w| = 1 does not depend on the direction, and outweighs the mean gradient",
        "no momentum",
    ),
    as_stated="holds",
    holds="to first order in ηλ; in the SDE it holds whatever the loss, the mean gradient being perpendicular to w",
    check=_relaxation,
    twin=_relaxation_broken,
    figure=_relaxation_figure,
)

_RATES = {"pearson": 0.2, "regression on 4 points": 0.1}


@cache
def _law(name: str, rate: float) -> sde.DiscreteSGD:
    """SGD of a quadratic finite sum at the learning rate `rate`, exactly; b = 2."""
    return sde.DiscreteSGD.from_finite_sum(_sum(name), rate, 2)


def _sum(name: str) -> sde.FiniteSum:
    return finite_sum(name) if name == "pearson" else sums()[name][0]


def _grown(name: str, rate: float, lag: int) -> float:
    """E|W_{t+lag} − W_t|²/(2 tr S)."""
    law = _law(name, rate)
    return float(1 - np.trace(law.lag_covariance([lag]).values[0]) / np.trace(law.covariance))


@cache
def _moved(level: Level, name: str, lags: tuple[int, ...]) -> np.ndarray:
    """|W_{t+lag} − W_t|²/(2 tr S) of stationary SGD, a mean over ten times t for each replica: (lag, replica)."""
    law, rate = _law(name, _RATES[name]), _RATES[name]
    loss, found, some = _sum(name), [], 10_000
    for first in range(0, level.count(some), some):
        run = sde.sgd(
            loss, law.center, learning_rate=rate, batch_size=2, steps=400, replicas=some, first_replica=first,
            save_every=4, seed=seed_of(level, 33), threads=1,
        )  # fmt: skip
        path = states(run, loss)
        starts = np.arange(25, 75, 5)  # of the saved weights: after 100 steps
        found.append([np.square(path[:, starts + k // 4] - path[:, starts]).sum(-1).mean(1) for k in lags])
    return np.concatenate(found, axis=1) / (2 * np.trace(law.covariance))


_SHORT, _LONG = 4, 96


def _plateau(level: Level) -> list[Measurement]:
    """Squared distances in stationary SGD at a lag of 4 and of 96 steps, beside the growth 1 − tr((1 − ηH)^k S)/tr S
    and the plateau 1, in units of 2 tr S from the exact law of the recursion, whose noise depends on x. As η → 0 that
    law goes to the Ornstein–Uhlenbeck process: growth at t = 1/2 from two learning rates, extrapolated, beside
    1 − tr(e^{−Ht} S)/tr S.
    """
    found = []
    for name, rate in _RATES.items():
        short, long = _moved(level, name, (_SHORT, _LONG))
        label = f"of sde.sgd on {name}"
        found.append(sampled(f"|ΔW|²/(2 tr S) at 4 steps {label}", short, _grown(name, rate, _SHORT)))
        found.append(sampled(f"|ΔW|²/(2 tr S) at 96 steps {label}", long, 1.0, bias=1 - _grown(name, rate, _LONG)))
        steps = level.cells(50, 1)
        coarse, fine = (_grown(name, 0.5 / n, n) for n in (steps, 2 * steps))
        limit = _law(name, 0.5 / steps).continuous
        still = np.trace(limit.lag_covariance([0.5]).values[0]) / np.trace(limit.covariance)
        found.append(refined(f"|ΔW|²/(2 tr S) at t = 1/2, η → 0, {name}", coarse, fine, 1 - still, order=1))
    return found


def _too_soon(level: Level) -> list[Measurement]:
    """The plateau is asked for after 4 steps, of the order of a relaxation time."""
    found = []
    for name in _RATES:
        short, _ = _moved(level, name, (_SHORT, _LONG))
        found.append(sampled(f"|ΔW|²/(2 tr S) at 4 steps of sde.sgd on {name}", short, 1.0))
    return found


@styled
def _plateau_figure(level: Level) -> "Figure":
    figure = new_figure(5.2, 3.6)
    ax = figure.subplots()
    lags = (4, 8, 12, 16, 24, 32, 48, 64, 96)
    for colour, (name, rate) in zip(("C0", "C1"), _RATES.items()):
        curve = np.arange(1, 97)
        ax.plot(curve, [_grown(name, rate, int(k)) for k in curve], color=colour, lw=1.2)
        moved = _moved(level, name, lags)
        ax.errorbar(
            lags, moved.mean(1), 3 * moved.std(1) / np.sqrt(moved.shape[1]), fmt="o", ms=4, color=colour, label=name
        )
    ax.axhline(1.0, color="C6", ls="--", lw=0.8)
    ax.set(xlabel="lag in steps", ylabel=r"$E|W_{t+k}-W_t|^2\,/\,2\,\mathrm{tr}\,S$", xscale="log")
    ax.legend(title="lines: exact law; dots: sde.sgd")
    return figure


PLATEAU = Claim(
    name="weight_distance_plateau",
    statement=(
        "In equilibrium the distance of the weights a lag apart stops growing, at the plateau of an Ornstein–Uhlenbeck "
        "process."
    ),
    formula=r"E|W_{T+\Delta}-W_T|^2=2\operatorname{Tr}\left[(1-e^{-H\Delta})S\right]\to 2\operatorname{Tr}S",
    source="Li, Lyu & Arora (2020)",
    hypotheses=("a quadratic minimum without flat directions", "a lag well beyond the slowest relaxation"),
    as_stated="holds",
    holds="as stated for η → 0; at a finite learning rate e^{−HΔ} is (1 − ηH)^k, and S that of the recursion",
    check=_plateau,
    twin=_too_soon,
    figure=_plateau_figure,
)
