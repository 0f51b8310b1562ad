"""Claims about losses that do not depend on the norm of the weights, and what weight decay does to them."""

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import brentq

import sde_sgd as sde
from sde_sgd.figures._style import new_figure, styled
from sde_sgd.theory.claim import Claim, Level, Measurement, exact
from sde_sgd.theory.claims._batches import farthest, finite_sum, seed_of, states
from sde_sgd.theory.claims._normalised import losses

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _identities(name: str, loss: sde.FiniteSum, point: np.ndarray) -> list[Measurement]:
    """Derivatives at 3w over those at w, and the angle to the weights, beside those of a scale-invariant loss."""
    found = []
    for order, derivative in ((1, loss.gradient), (2, loss.hessian)):
        ratios = derivative(3 * point) / derivative(point)
        what = f"derivative of order {order} at 3w over that at w, {name}"
        found.append(exact(what, farthest(ratios, 3.0**-order), 3.0**-order))
    for gradient in loss.sample_gradients(point)[:2]:
        cosine = gradient @ point / np.linalg.norm(gradient) / np.linalg.norm(point)
        found.append(exact(f"angle of g_k and w in degrees, {name}", np.degrees(np.arccos(cosine)), 90.0))
    gradient = loss.gradient(point)
    along = gradient @ loss.hessian(point) @ point / (gradient @ gradient)
    return [*found, exact(f"g·Hw/|g|², which the other two make −1, {name}", along, -1.0)]


def _three_identities(level: Level) -> list[Measurement]:
    """Exact derivatives of the landscape "scale_invariant" and of a classifier of irises whose weights are normalised,
    at a point w and at 3w: the ratios of the entries of gradient and Hessian, of which the one farthest off is shown,
    and the angle between w and the gradient of single samples.
    """
    return [m for name, (loss, point) in losses().items() for m in _identities(name, loss, point)]


def _with_decay(level: Level) -> list[Measurement]:
    """The same for losses that depend on the norm: the landscape with its weight decay, and the neuron."""
    broken = {"with decay 0.5": finite_sum("scale_invariant", weight_decay=0.5), "neuron": finite_sum("neuron")}
    return [m for name, loss in broken.items() for m in _identities(name, loss, np.array([0.6, 0.5]))]


IDENTITIES = Claim(
    name="scale_invariant_identities",
    statement=(
        "If L(cw) = L(w) for every c > 0, gradients are perpendicular to the weights and fall as 1/|w|, the Hessian "
        "as 1/|w|²."
    ),
    formula=(
        r"\langle\nabla L(w),w\rangle=0,\quad \nabla L(cw)=\frac{1}{c}\nabla L(w),\quad "
        r"\nabla^2L(cw)=\frac{1}{c^2}\nabla^2L(w)"
    ),
    source="Li, Lyu & Arora (2020); Li & Arora (2019)",
    hypotheses=("L(cw) = L(w); weight decay is not part of L",),
    as_stated="holds",
    holds="as stated, for the mean loss and for every sample",
    check=_three_identities,
    twin=_with_decay,
)

_ETA, _DECAY, _STEPS = 0.3, 0.2, 60


def _norms(name: str, loss: sde.FiniteSum, point, seed: int, momentum: float = 0.0) -> list[Measurement]:
    """|w|² of SGD after some steps, beside the recursion driven by the gradients that it used."""
    run = sde.sgd(
        loss, point, learning_rate=_ETA, batch_size=2, steps=_STEPS, weight_decay=_DECAY, momentum=momentum,
        save_every=1, seed=seed, threads=1,
    )  # fmt: skip
    path = states(run, loss)[0]
    picks = sde.sample_indices(loss.samples, batch_size=2, steps=_STEPS, seed=seed)
    square, found = point @ point, []
    for step, batch in enumerate(picks):
        gradient = loss.sample_gradients(path[step])[batch].mean(0)
        square = (1 - _ETA * _DECAY) ** 2 * square + _ETA**2 * (gradient @ gradient)
        if step + 1 in (1, 10, _STEPS):
            found.append(
                exact(f"|w|² after {step + 1} steps of sde.sgd, {name}", path[step + 1] @ path[step + 1], square)
            )
    return found


def _norm_recursion(level: Level) -> list[Measurement]:
    """The norm of SGD's weights, beside the recursion of the norm alone that is fed the gradients of the batches SGD
    drew. Every random batch gives the same agreement, so the tolerance is rounding.
    """
    return [m for name, one in losses().items() for m in _norms(name, *one, seed_of(level, 10))]


def _norm_recursion_broken(level: Level) -> list[Measurement]:
    """The same for the neuron, which is not scale invariant, and for scale-invariant losses under momentum 0.5: there
    the step is not perpendicular to the weights. (Under momentum the first step, v = 0 before it, still agrees.)
    """
    found = _norms("the neuron", finite_sum("neuron"), np.array([0.6, 0.5]), seed_of(level, 10))
    for name, one in losses().items():
        found += _norms(f"{name}, momentum 0.5", *one, seed_of(level, 10), momentum=0.5)[1:]
    return found


NORM_RECURSION = Claim(
    name="norm_recursion",
    statement="Under SGD with weight decay the norm obeys its own recursion, in which only the gradient's norm enters.",
    formula=r"|w'|^2=(1-\eta\lambda)^2|w|^2+\eta^2|g|^2",
    source="Li, Lyu & Arora (2020)",
    hypotheses=("a scale-invariant loss", "no momentum"),
    as_stated="holds",
    holds="exactly, at every step and for every batch",
    check=_norm_recursion,
    twin=_norm_recursion_broken,
)

_GD = {"scale_invariant": (0.1, 0.5), "a normalised classifier of 12 irises": (0.3, 0.3)}  # η, λ


@cache
def _descent(name: str, decay: float, steps: int = 8000) -> np.ndarray:
    """The weights of gradient descent, every step."""
    loss, start = losses()[name]
    run = sde.sgd(
        loss, start, learning_rate=_GD[name][0], batch_size=loss.samples, steps=steps, weight_decay=decay,
        sampling="without_replacement", save_every=1, threads=1,
    )  # fmt: skip
    return states(run, loss)[0]


@cache
def _minimum(name: str) -> tuple[np.ndarray, np.ndarray, float]:
    """Unit vector of the best direction, that of steepest rise beside it, and the curvature along it at |w| = 1."""
    end = _descent(name, 0.0)[-1]
    best = end / np.linalg.norm(end)
    curvatures, vectors = np.linalg.eigh(losses()[name][0].hessian(best))
    return best, vectors[:, -1], float(curvatures[-1])


def _critical_square(name: str, decay: float) -> float:
    """The |w|² at which one step of gradient descent turns a small angle to the best direction into its opposite."""
    loss, eta = losses()[name][0], _GD[name][0]
    best, aside, _ = _minimum(name)

    def growth(square: float) -> float:
        turned = 0.0
        for angle in (1e-5, -1e-5):
            before = np.sqrt(square) * (best + angle * aside)
            after = (1 - eta * decay) * before - eta * loss.gradient(before)
            turned += (after @ aside) / (after @ best) / angle / 2
        return turned + 1

    return float(brentq(growth, 1e-3 * eta, 1e3 * eta, xtol=1e-14))


def _late_gradient(name: str, decay: float) -> float:
    """Mean |∇L|² of the second half of gradient descent."""
    late = _descent(name, decay)[4000:-1]
    return float(np.square(losses()[name][0].gradient(late)).sum(-1).mean())


def _unstable(level: Level, decayed: bool) -> list[Measurement]:
    found = []
    for name, (eta, decay) in _GD.items():
        used = decay if decayed else 0.0
        path, curvature = _descent(name, used), _minimum(name)[2]
        squares = np.square(path).sum(-1)
        radius = eta * curvature / (2 * (1 - eta * decay))
        what = f"|w|² below which gradient descent leaves the minimum, {name}"
        found.append(exact(what, _critical_square(name, used), radius, 1e-7))
        what = f"smallest |w|² of steps 4000 to 8000 over that, {name}"
        found.append(Measurement(what, squares[4000:].min() / radius, 1.0, 0.0, "exact", relation="<="))
        kept = np.square(_descent(name, decay)).sum(-1)[4000:]  # of the run with decay, also for the twin
        balance = (kept[1:] - (1 - eta * decay) ** 2 * kept[:-1]).mean() / eta**2
        found.append(exact(f"mean |∇L|² of those steps, {name}", _late_gradient(name, used), balance, 1e-8))
    return found


def _never_converges(level: Level) -> list[Measurement]:
    """The |w|² at which a small angle to the minimum is neither damped nor amplified, found by bisection on one step of
    gradient descent, beside ηh/(2(1 − ηλ)), h the curvature of L across w at |w| = 1 (2 for x²/(x² + y²)). In 8000
    steps the norm goes below it, and the gradient's mean square stays what balances the decay,
    λ(2 − ηλ)/η of the mean of |w|² but for the two ends of the average: it does not go to 0.
    """
    return _unstable(level, decayed=True)


def _without_decay(level: Level) -> list[Measurement]:
    """The same without weight decay: the norm only grows, and the gradient vanishes."""
    return _unstable(level, decayed=False)


@styled
def _decay_figure(level: Level) -> "Figure":
    figure = new_figure(7.6, 4.2)
    panels = figure.subplots(2, 2, sharex=True)
    for column, (name, (eta, decay)) in zip(panels.T, _GD.items()):
        loss, curvature = losses()[name][0], _minimum(name)[2]
        for used, label in ((decay, f"λ = {decay:g}"), (0.0, "λ = 0")):
            path = _descent(name, used)[:1500]
            column[0].plot(np.square(path).sum(-1), lw=1.1, label=label)
            column[1].semilogy(np.linalg.norm(loss.gradient(path), axis=-1), lw=1.1)
        unstable = eta * curvature / (2 * (1 - eta * decay))
        column[0].axhline(unstable, color="C6", ls="--", lw=0.9, label="unstable below")
        column[0].set(title=name, ylabel="|w|²")
        column[0].set_ylim(0, 1.3 * column[0].get_ylim()[1])
        column[0].legend(loc="upper right", ncols=3, fontsize=7.5, handlelength=1.2)
        column[1].set(xlabel="step", ylabel="|∇L|", ylim=(1e-9, None))
    return figure


WEIGHT_DECAY_UNSTABLE = Claim(
    name="weight_decay_never_converges",
    statement=(
        "Gradient descent with weight decay on L = x²/(x² + y²) never converges, whatever η and λ; without it, it does."
    ),
    formula=r"|w|^2<\frac{\eta}{1-\eta\lambda}\Rightarrow\mathrm{unstable}",
    source="Li, Lyu & Arora (2020)",
    hypotheses=("a scale-invariant loss", "λ > 0"),
    as_stated="holds",
    holds=(
        "the decay carries the norm below |w|² = ηh/(2(1 − ηλ)), h the curvature across w at |w| = 1 (h = 2 here), and "
        "there every minimum is unstable"
    ),
    check=_never_converges,
    twin=_without_decay,
    figure=_decay_figure,
)
