"""Claims about the Hessian and the walk: damping along its eigenvectors, and its parts for a likelihood."""

import math
import re
from functools import cache, partial
from typing import TYPE_CHECKING

import numpy as np

import sde_sgd as sde
from sde_sgd.figures._style import MUTED, new_figure, styled
from sde_sgd.theory.claim import Claim, Level, Measurement, exact
from sde_sgd.theory.claims._descent import SYSTEMS, bisected, comes_nearer, edge, offsets

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_XING = "Xing, Arpit, Tsirigotis & Bengio (2018)"


def _keeps_its_side(name: str, rate: float, momentum: float) -> bool:
    return bool((offsets(name, rate, 60, momentum) > -1e-7).all())  # rounding: states of order 1, 1e-7 apart


def _edges(level: Level, momentum: float) -> list[Measurement]:
    """Where the iterates begin to change sides, and where they cease to come nearer, against ηh = 1 and 2."""
    halvings = 12 + round(math.log2(level.more))
    found = []
    for name in SYSTEMS:
        for what, test, span, expected in (
            ("first ηh with a change of side", _keeps_its_side, (0.01, 1.8), 1.0),
            ("first ηh that does not come nearer", comes_nearer, (0.3, 4.0), 2.0),
        ):
            found_at = edge(partial(test, name, momentum=momentum), *span, halvings)
            width = (span[1] - span[0]) / 2**halvings
            found.append(bisected(f"{what}, {name}, μ = {momentum:g}", found_at, expected, width))
    return found


def _regimes(level: Level) -> list[Measurement]:
    """Full-batch descent from 1e-7 off the minimum along the sharpest eigenvector, of a linear regression and of the
    neuron on the iris data: x_{t+1}/x_t at ηh = ½, 3/2 and 5/2 against 1 − ηh, and by bisection the ηh at which the
    iterates begin to change sides and at which they cease to come nearer."""
    found = []
    for name in SYSTEMS:
        for rate in (0.5, 1.5, 2.5):
            factor = offsets(name, rate, 1)[1]
            what = f"x_1/x_0 at ηh = {rate}, {name}"
            because = "rounding of states that differ by 1e-7, and the curvature's change over that distance"
            found.append(Measurement(what, float(factor), 1 - rate, 1e-5, because))
    return [*found, *_edges(level, 0.0)]


def _with_momentum(level: Level) -> list[Measurement]:
    """The same edges of the heavy ball, μ = ½, which are (1 − √μ)² and 2(1 + μ)."""
    return _edges(level, 0.5)


@styled
def _regime_figure(level: Level) -> "Figure":
    figure = new_figure(8.4, 2.9)
    names = ("over-damped", "under-damped", "divergent")
    for ax, rate, name in zip(figure.subplots(1, 3), (0.5, 1.5, 2.2), names):
        ax.plot(offsets("neuron", rate, 12), "o-", ms=4)
        ax.axhline(0.0, color=MUTED, lw=0.8)
        ax.set(title=f"{name}: ηh = {rate}", xlabel="step", ylabel="distance along the eigenvector" if rate < 1 else "")
    return figure


DAMPING_REGIMES = Claim(
    name="damping_regimes",
    statement="Along an eigenvector of the Hessian gradient descent is over-damped for ηh < 1, under-damped for "
    "1 < ηh < 2 and divergent beyond.",
    formula=r"x_{t+1}=(1-\eta h)\,x_t",
    source=_XING,
    hypotheses=("full batches", "no momentum"),
    as_stated="holds",
    holds="as stated; with momentum μ it oscillates from ηh = (1 − √μ)² on and diverges beyond 2(1 + μ)",
    check=_regimes,
    twin=_with_momentum,
    figure=_regime_figure,
)


_LIKELIHOODS = {  # name → (−log p_k with weights to fill in, a point that is no optimum)
    "logistic": ("log(1 + exp(-s*({a}*p + {b}*r)))", (0.7, -1.1)),
    "softmax": (
        "log(1 + exp({a}*p + {b}*r) + exp({c}*p + {d}*r)) - i*({a}*p + {b}*r) - j*({c}*p + {d}*r)",
        (0.5, -0.4, 1.2, 0.3),
    ),
    "normal errors of a neuron": ("(tanh({a}*p + {b}) - r)**2/2", (0.6, 0.8)),
}


@cache
def _parts(name: str) -> tuple[np.ndarray, ...]:
    """H, D, ggᵀ and (1/N)Σ ∇²p_k/p_k at the point; the last is the Hessian of the mean of p_k(w)/p_k(point)."""
    expression, point = _LIKELIHOODS[name]
    weights = "abcd"[: len(point)]
    generator = np.random.default_rng(5)  # any data will do
    labels = generator.integers(0, 3, 12)
    drawn = generator.normal(size=(2, 12))
    every = {"p": drawn[0], "r": drawn[1], "s": np.where(labels == 0, 1.0, -1.0), "i": labels == 0, "j": labels == 1}
    here = {w: f"{w}0" for w in weights}
    loss = expression.format(**{w: w for w in weights})
    data = {k: 1.0 * v for k, v in every.items() if k in set(re.findall(r"[a-z]+", loss))}
    own = sde.FiniteSum(tuple(weights), loss, data, name="likelihood")
    ratio = sde.FiniteSum(
        tuple(weights), f"exp({expression.format(**here)} - ({loss}))", data, parameters=dict(zip(here.values(), point))
    )
    gradient = own.gradient(point)
    return own.hessian(point), own.diffusion(point), np.outer(gradient, gradient), ratio.hessian(point)


def _split(keep_gradient: bool, keep_curvature: bool) -> list[Measurement]:
    """The eigenvalue of H⁻¹(D + ggᵀ − mean ∇²p/p) furthest from 1; its modulus, in case it is complex."""
    terms = "D" + " + ggᵀ" * keep_gradient + " − mean ∇²p/p" * keep_curvature
    found = []
    for name in _LIKELIHOODS:
        hessian, noise, square, curvature = _parts(name)
        total = noise + keep_gradient * square - keep_curvature * curvature
        ratios = np.linalg.eigvals(np.linalg.solve(hessian, total))
        furthest = abs(ratios[np.argmax(abs(ratios - 1))])
        found.append(exact(f"eigenvalue of H⁻¹({terms}) furthest from 1, {name}", furthest, 1.0, 1e-9))
    return found


def _identity(level: Level) -> list[Measurement]:
    """Logistic regression, softmax with three classes, and a neuron with normal errors, at points that are no optima.
    ∇²p_k/p_k is derived from p_k itself, as the Hessian of p_k(w)/p_k(point) at the point."""
    return _split(True, True)


def _without_a_part(level: Level) -> list[Measurement]:
    """Without the mean of ∇²p/p, as at a well-specified optimum; and with it, but without ggᵀ."""
    return _split(True, False) + _split(False, True)


NLL_HESSIAN = Claim(
    name="nll_hessian",
    statement="For a negative log-likelihood f_k = −log p_k the Hessian is the covariance of the gradients, plus the "
    "square of their mean, less the mean of ∇²p_k/p_k.",
    formula=r"H=D+gg^\top-\frac{1}{N}\sum_k\frac{\nabla^2p_k}{p_k}",
    source=_XING,
    hypotheses=("f_k = −log p_k",),
    as_stated="holds",
    holds="at every point; H = D only where g = 0 and the mean of ∇²p/p vanishes: at a well-specified optimum",
    check=_identity,
    twin=_without_a_part,
)
