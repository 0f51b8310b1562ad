"""Claims about SGD at a learning rate that is not small: its stationary law, momentum, and what scaling keeps."""

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

import sde_sgd as sde
from sde_sgd.figures._style import MUTED, new_figure, styled
from sde_sgd.theory.claim import Claim, Level, Measurement, exact, refined, sampled
from sde_sgd.theory.claims import _exact_laws as laws
from sde_sgd.theory.claims._batches import ratio_of_means, seed_of, states

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@cache
def _steepest() -> tuple[float, np.ndarray]:
    """The larger curvature of `offsets`, and its direction."""
    h, vectors = np.linalg.eigh(laws.offsets().hessian([0.0, 0.0]))
    return float(h[-1]), vectors[:, -1]


@cache
def _offsets_at_rest(level: Level, name: str, rate: float, batch: int) -> np.ndarray:
    """x − x* of runs of SGD after 100 steps: (run, variable)."""
    quadratic = {"offsets": laws.offsets, "regression": laws.regression}[name]()
    center = sde.DiscreteSGD.from_finite_sum(quadratic, rate, batch).center
    run = sde.sgd(quadratic, center, learning_rate=rate, batch_size=batch, steps=100,
                  replicas=min(level.count(150_000), 4_000_000),  # memory
                  seed=seed_of(level, 52, name == "regression", batch))  # fmt: skip
    return states(run, quadratic) - center


def _enumerated(quadratic: sde.FiniteSum, rate: float, batch: int) -> np.ndarray:
    """Stationary covariance of x with every batch enumerated."""
    return laws.covariance(laws.at_rest(laws.step(laws.affine(quadratic), rate, batch)))


# -- the linear scaling rule --------------------------------------------------------------------------------------

Variance = Callable[[float, int], float]  # of learning rate and batch size


def _offsets_variance(rate: float, batch: int) -> float:
    quadratic, (_, axis) = laws.offsets(), _steepest()
    law = sde.DiscreteSGD(quadratic.hessian([0.0, 0.0]), quadratic.diffusion([0.0, 0.0]), rate, batch)
    return float(axis @ law.covariance @ axis)


def _pearson_variance(rate: float, batch: int) -> float:
    return float(_enumerated(laws.pearson(), rate, batch)[0, 0])


def _early_variance(rate: float, batch: int) -> float:
    """Of PEARSON at t = Ση = ½, from x(0) = 2."""
    step, start = laws.step(laws.affine(laws.pearson()), rate, batch), np.array([1.0, 2.0])
    moved = np.linalg.matrix_power(step, round(0.5 / rate)) @ np.kron(start, start)
    return float(laws.covariance(moved.reshape(2, 2))[0, 0])


def _soft_variance(rate: float, batch: int) -> float:
    return laws.Backward(laws.soft(), rate, batch).at_rest(np.square)


_VARIANCES: dict[str, Variance] = {
    "quadratic": _offsets_variance,
    "PEARSON": _pearson_variance,
    "PEARSON at t = ½": _early_variance,
    "log cosh": _soft_variance,
}


def _kept(name: str, rate: float, power: float) -> Measurement:
    """Var at (k^power η, kb) over Var at (η, b) as η → 0, k = 4 (2 where every batch is enumerated)."""
    variance, k = _VARIANCES[name], 4 if name == "quadratic" else 2
    ratios = [variance(k**power * r, k) / variance(r, 1) for r in (rate, rate / 2)]
    how = "η ∝ b" if power == 1.0 else "η ∝ √b"
    return refined(f"Var at {k}b over Var at b, {how}, η → 0, {name}", ratios[0], ratios[1], 1.0, order=1)


def _broken(name: str, curvature: float, rate: float) -> Measurement:
    """What the law at rest changes by, in (k − 1)ηh/2, as η → 0."""
    variance, k = _VARIANCES[name], 4 if name == "quadratic" else 2
    changes = [(variance(k * r, k) / variance(r, 1) - 1) / ((k - 1) * r * curvature / 2) for r in (rate, rate / 2)]
    return refined(f"relative change of Var over (k − 1)ηh/2, η → 0, {name}", changes[0], changes[1], 1.0, order=1)


def _real_ratio(level: Level, expected: float, what: str) -> Measurement:
    """Var along the steepest direction at (0.4, 4) over that at (0.1, 1): runs of SGD."""
    _, axis = _steepest()
    above, below = ((_offsets_at_rest(level, "offsets", *pair) @ axis) ** 2 for pair in ((0.4, 4), (0.1, 1)))
    return ratio_of_means(what, above, below, expected)


def _scaling(level: Level) -> list[Measurement]:
    """Variances at (kη, kb) and (η, b), at rest and for PEARSON also at t = ½ from x = 2. As η → 0 their ratio tends to
    1, and at rest its distance from 1 to (k − 1)ηh/2: for a quadratic in closed form, for PEARSON and a sum that is not
    quadratic by enumerating the batches. At a learning rate that is not small the ratio at rest is (2 − ηh)/(2 − kηh):
    runs of SGD.
    """
    h, _ = _steepest()
    small, curvatures = 0.01 / level.more, {"quadratic": h, "PEARSON": 1.25, "log cosh": 1.0}
    return [
        *(_kept(name, small, 1.0) for name in _VARIANCES),
        *(_broken(name, curvature, small) for name, curvature in curvatures.items()),
        _real_ratio(level, (2 - 0.1 * h) / (2 - 0.4 * h), "Var at (0.4, 4) over Var at (0.1, 1), sampled"),
    ]


def _no_scaling(level: Level) -> list[Measurement]:
    """The same law at ηh = 0.88 as at 0.22, from runs of SGD; and the rule η ∝ √b, which keeps the covariance of one
    update but not that of the weights."""
    return [
        _real_ratio(level, 1.0, "Var at (0.4, 4) over Var at (0.1, 1), sampled"),
        *(_kept(name, 0.02, 0.5) for name in _VARIANCES),
    ]


@styled
def _draw_scaling(level: Level) -> "Figure":
    figure = new_figure(5.2, 3.6)
    ax = figure.subplots()
    h, _ = _steepest()
    rates = np.geomspace(0.02, 0.7, 40)
    for name, batch in (("b = 1", 1), ("b = 4", 4), ("b = 16", 16)):
        ax.semilogx(rates / batch, [_offsets_variance(r, batch) * batch / r for r in rates], label=name)
    quadratic, (_, axis) = laws.offsets(), _steepest()
    limit = axis @ quadratic.diffusion([0.0, 0.0]) @ axis / (2 * h)
    ax.axhline(limit, color=MUTED, lw=0.8, zorder=0)
    ax.annotate(
        "the equation", (rates[-1], limit), xytext=(0, -11), textcoords="offset points", ha="right", color=MUTED
    )
    ax.set(xlabel="η/b", ylabel="Var / (η/b)", title="one curve, if η/b alone mattered", ylim=(1.0, 4.2))
    ax.legend()
    return figure


LINEAR_SCALING = Claim(
    name="linear_scaling_rule",
    statement="Multiply batch size and learning rate by the same k: SGD keeps its law.",
    formula=r"(\eta,b)\to(k\eta,kb):\quad T=\frac{\eta}{2b}",
    source="Goyal et al. (2017); Chaudhari & Soatto (2018)",
    hypotheses=("kηh is small for every curvature h", "laws are compared at equal Ση, not at equal numbers of steps"),
    as_stated="needs_hypothesis",
    holds="the law is kept up to a relative change of (k − 1)ηh/2 along a curvature h; on a quadratic the variance "
    "changes by the factor (2 − ηh)/(2 − kηh), which has no bound",
    check=_scaling,
    twin=_no_scaling,
    figure=_draw_scaling,
)


# -- the stationary covariance -------------------------------------------------------------------------------------


def _entries(level: Level, name: str, wanted: np.ndarray, label: str = "") -> list[Measurement]:
    """Products x_i x_j of runs of SGD at η = 0.4, b = 2 over the predicted S_ij."""
    found = _offsets_at_rest(level, name, 0.4, 2)
    pairs = ((0, 0), (0, 1)) if name == "offsets" else ((0, 0),)
    return [
        sampled(
            f"E[{'xy'[i]}{'xy'[j]}]{label}, {name}, sampled / predicted",
            found[:, i] * found[:, j] / wanted[i, j],
            1.0,
        )
        for i, j in pairs
    ]


def _discrete_covariance(level: Level) -> list[Measurement]:
    """The solution S of HS + SH − ηHSH = (η/b)D at η = 0.4, b = 2, with H and D that do not commute: beside the second
    moments that a step keeps when all batches are enumerated, and beside runs of SGD. In linear regression, whose
    noise grows with the distance, D is its mean over the stationary law."""
    found = []
    for name, quadratic in (("offsets", laws.offsets()), ("regression", laws.regression())):
        law = sde.DiscreteSGD.from_finite_sum(quadratic, 0.4, 2)
        enumerated = _enumerated(quadratic, 0.4, 2)
        residual = law.H @ enumerated + enumerated @ law.H - 0.4 * law.H @ enumerated @ law.H
        found += [
            exact(
                f"(HS + SH − ηHSH)_{i + 1}{j + 1} b / ηD, {name}, enumerated", residual[i, j] / (0.2 * law.D[i, j]), 1.0
            )
            for i, j in ((0, 0), (0, 1), (1, 1))
        ]
        found += _entries(level, name, law.covariance)
    return found


def _continuous_covariance(level: Level) -> list[Measurement]:
    """The covariance of the differential equation, HS + SH = (η/b)D, at the same learning rate; and for regression
    the discrete equation with D at the minimum."""
    law = sde.DiscreteSGD.from_finite_sum(laws.offsets(), 0.4, 2)
    still = sde.DiscreteSGD.from_finite_sum(laws.regression(), 0.4, 1)
    frozen = sde.DiscreteSGD(still.H, still.center_diffusion, 0.4, 1)
    enumerated = _enumerated(laws.regression(), 0.4, 1)
    return [
        *_entries(level, "offsets", law.continuous.covariance, " of the equation"),
        exact(
            "S₁₁ enumerated / with D at the minimum, regression, η = 0.4, b = 1",
            enumerated[0, 0] / frozen.covariance[0, 0],
            1.0,
        ),
    ]


@styled
def _draw_covariance(level: Level) -> "Figure":
    figure = new_figure(5.2, 4.0)
    ax = figure.subplots()
    ax.plot(*_offsets_at_rest(level, "offsets", 0.4, 2)[:6000].T, ".", color=MUTED, ms=2, alpha=0.3, zorder=0)
    law = sde.DiscreteSGD.from_finite_sum(laws.offsets(), 0.4, 2)
    angle = np.linspace(0, 2 * np.pi, 200)
    for label, matrix, style in (("HS + SH − ηHSH", law.covariance, "-"), ("HS + SH", law.continuous.covariance, "--")):
        ellipse = 2 * np.linalg.cholesky(matrix) @ [np.cos(angle), np.sin(angle)]
        ax.plot(*ellipse, style, label=label, lw=2)
    ax.set(xlabel="x", ylabel="y", title="SGD at η = 0.4, b = 2; two standard deviations", aspect="equal")
    ax.legend(loc="upper left")
    return figure


DISCRETE_COVARIANCE = Claim(
    name="discrete_stationary_covariance",
    statement="At a quadratic minimum the stationary covariance S of SGD solves HS + SH − ηHSH = (η/b)D, without any "
    "limit of small steps.",
    formula=r"HS+SH-\eta HSH=\frac{\eta}{b}D",
    source="Liu, Ziyin & Ueda (2021)",
    hypotheses=(
        "D is its mean over the stationary law; that at the minimum only if it does not depend on x",
        "fresh batches in every step",
    ),
    as_stated="holds",
    holds="exactly; the equation's HS + SH = (η/b)D is short of it by a factor 1 − ηh/2 along an eigenvector",
    check=_discrete_covariance,
    twin=_continuous_covariance,
    figure=_draw_covariance,
)
