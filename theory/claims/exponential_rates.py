"""Claims about growing learning rates that do what weight decay does to a scale-invariant loss."""

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import brentq

import sde_sgd as sde
from sde_sgd.figures._style import new_figure, styled
from sde_sgd.theory.claim import Claim, Level, Measurement, exact
from sde_sgd.theory.claims._batches import finite_sum, seed_of, states
from sde_sgd.theory.claims._normalised import losses

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ETA, _STEPS = 0.2, 40


def _paths(loss: sde.FiniteSum, start, seed: int, decay: float, momentum: float, rate, velocity=None):
    """Weights at every step: constant η with weight decay, and the learning rate `rate` of the step without decay."""
    settings: dict[str, Any] = dict(batch_size=2, steps=_STEPS, momentum=momentum, save_every=1, seed=seed, threads=1)
    decayed = sde.sgd(loss, start, learning_rate=_ETA, weight_decay=decay, **settings)
    if velocity is not None:
        settings["start_velocity"] = velocity
    growing = sde.sgd(loss, start, learning_rate=rate, **settings)
    return states(decayed, loss)[0], states(growing, loss)[0]


def _alpha(decay: float, momentum: float) -> float:
    """The larger root of x² − (1 + γ − λη)x + γ, or the real part of both."""
    return float(np.roots([1.0, -(1 + momentum - decay * _ETA), momentum]).real.max())


def _same_directions(name: str, loss: sde.FiniteSum, paths, alpha: float) -> list[Measurement]:
    """Losses along the two runs after 10 steps and at the end, and how the norm of one outgrows that of the other."""
    found, (decayed, growing) = [], paths
    for step in (10, _STEPS):
        after, wanted = (float(loss.loss(path[step])) for path in (growing, decayed))
        found.append(exact(f"loss after {step} steps with growing η, {name}", after, wanted, 1e-8))
    growth = np.log(np.linalg.norm(growing[-1]) / np.linalg.norm(decayed[-1])) / _STEPS
    return [*found, exact(f"growth rate of the ratio of the norms, {name}", growth, -np.log(alpha), 1e-8)]


def _plain(level: Level, exponent: float, which: dict) -> list[Measurement]:
    """Without momentum: η_t = η(1 − λη)^{−exponent·t − 1}."""
    found, decay = [], 0.15
    alpha = 1 - decay * _ETA
    for name, (loss, start) in which.items():
        paths = _paths(loss, start, seed_of(level, 20), decay, 0.0, lambda t: _ETA * alpha ** (-exponent * t - 1))
        found += _same_directions(name, loss, paths, alpha)
    return found


def _neuron() -> dict:
    return {"the neuron": (finite_sum("neuron", weight_decay=0.0), np.array([0.6, 0.5]))}


def _growing_rate(level: Level) -> list[Measurement]:
    """Two runs of SGD that draw the same batches: one with constant η and weight decay, one without decay and with
    η_t. Their losses agree at every step, as the directions do, and the norms part as (1 − λη)^{−t}. Rounding alone
    parts them, whatever the batches.
    """
    return _plain(level, 2.0, losses())


def _growing_rate_broken(level: Level) -> list[Measurement]:
    """The same for the neuron, which is not scale invariant, and with η_t that grows at half the rate, as the norm."""
    return [*_plain(level, 2.0, _neuron()), *_plain(level, 1.0, losses())]


EXPONENTIAL_RATE = Claim(
    name="exponential_learning_rate",
    statement="On a scale-invariant loss, weight decay is a learning rate that grows exponentially.",
    formula=r"(\eta,\lambda)\equiv(\eta_t,0),\quad \eta_t=\eta(1-\lambda\eta)^{-2t-1}",
    source="Li & Arora (2019)",
    hypotheses=("L(cw) = L(w)", "no momentum"),
    as_stated="holds",
    holds="exactly: the same directions at every step, with norms that part as (1 − λη)^{−t}",
    check=_growing_rate,
    twin=_growing_rate_broken,
)

_MOMENTUM, _SMALL = 0.5, 0.3  # γ and λ, with λη = 0.06 below (1 − √γ)² = 0.0858


def _heavy(level: Level, which: dict, decay: float = _SMALL, at_rest: bool = False) -> list[Measurement]:
    """With momentum: η_t = ηα^{−2t−1}, and the velocity of u_{−1} = αw_{−1} at the start."""
    found, alpha = [], _alpha(decay, _MOMENTUM)
    for name, (loss, start) in which.items():
        velocity = None if at_rest else -(1 - alpha) / (_ETA * alpha) * start
        paths = _paths(
            loss, start, seed_of(level, 21), decay, _MOMENTUM, lambda t: _ETA * alpha ** (-2.0 * t - 1), velocity
        )
        found += _same_directions(name, loss, paths, alpha)
    return found


def _largest_decay(momentum: float) -> float:
    """The λη at which the discriminant of the equation for α changes its sign, by bisection on its roots."""

    def distance(product: float) -> float:
        """Imaginary parts, negative; or the distance of the real roots."""
        one, two = np.roots([1.0, -(1 + momentum - product), momentum])
        return float(-abs(one.imag) if abs(one.imag) > 0 else abs(one - two))

    return float(brentq(distance, 0.0, 1 - momentum, xtol=1e-15))


def _heavy_growing_rate(level: Level) -> list[Measurement]:
    """As without momentum, the run without decay starting with the velocity that stands for u_{−1} = αw_{−1}. The bound
    on λη is found by bisection on the roots of x² − (1 + γ − λη)x + γ, beside (1 − √γ)².
    """
    found = _heavy(level, losses())
    for momentum in (0.5, 0.9):
        what = f"largest λη with a real α, γ = {momentum:g}"
        found.append(exact(what, _largest_decay(momentum), (1 - np.sqrt(momentum)) ** 2, 1e-8))
    return found


def _heavy_broken(level: Level) -> list[Measurement]:
    """The neuron, which is not scale invariant; the right rates from a start at rest; and a decay above the bound,
    λη = 0.1, for which α is not real, with its real part.
    """
    beyond = _heavy(level, losses(), decay=0.1 / _ETA)
    return [*_heavy(level, _neuron()), *_heavy(level, losses(), at_rest=True), *beyond]


@styled
def _rates_figure(level: Level) -> "Figure":
    figure = new_figure(8.2, 3.4)
    left, middle, right = figure.subplots(1, 3)
    loss, start = losses()["scale_invariant"]
    alpha = _alpha(_SMALL, _MOMENTUM)
    velocity = -(1 - alpha) / (_ETA * alpha) * start
    rates = _ETA * alpha ** (-2.0 * np.arange(_STEPS) - 1)
    runs = _paths(loss, start, seed_of(level, 21), _SMALL, _MOMENTUM, rates, velocity)
    labels = "constant η, weight decay", "growing η, no decay"
    for path, label, style in zip(runs, labels, ("-", "--")):
        left.plot(np.unwrap(np.arctan2(path[:, 1], path[:, 0])), style, label=label)
        middle.semilogy(np.linalg.norm(path, axis=-1), style, label=label)
        right.plot(loss.loss(path), style, label=label)
    left.set(title="direction of w, radians", xlabel="step")
    middle.set(title="norm", xlabel="step")
    right.set(title="loss", xlabel="step")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


EXPONENTIAL_RATE_MOMENTUM = Claim(
    name="exponential_learning_rate_momentum",
    statement="The same under momentum γ, with η_t = ηα^{−2t−1}, α a root of x² − (1 + γ − λη)x + γ.",
    formula=r"\eta_t=\eta\,\alpha^{-2t-1},\quad \alpha^2-(1+\gamma-\lambda\eta)\alpha+\gamma=0",
    source="Li & Arora (2019)",
    hypotheses=("L(cw) = L(w)", "λη ≤ (1 − √γ)², so that α is real", "the start u₋₁ = αw₋₁: a velocity, not rest"),
    as_stated="holds",
    holds="exactly, for λη up to (1 − √γ)², which is 0.0026 at γ = 0.9; beyond it no real α exists",
    check=_heavy_growing_rate,
    twin=_heavy_broken,
    figure=_rates_figure,
)
