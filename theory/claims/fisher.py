"""Claims that the gradient noise at an optimum is the Fisher information, and that this is the Hessian."""

import math
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import scipy.linalg as la

import sde_sgd as sde
from sde_sgd.figures._style import new_figure, styled
from sde_sgd.theory.claim import Claim, Level, Measurement, estimated, exact
from sde_sgd.theory.claims._descent import optimum

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIZES = (1600, 25_600)


class _Model(NamedTuple):
    """Softmax with the last class's logit 0: inputs (K, f), true weights (f, C − 1), labels of each input in shares
    of `whole` that are exactly the model's probabilities, (K, C)."""

    inputs: np.ndarray
    weights: np.ndarray
    shares: np.ndarray
    whole: int


@cache
def _model(classes: int) -> _Model:
    """Inputs chosen so that every probability is a whole number of eighths (two classes) or of sixths (three)."""
    if classes == 2:
        shares = np.array([(j, 8 - j) for j in (1, 2, 3, 5, 6, 7, 4, 4)], float)
        first = np.array([0.5, -1.0, 1.5, -0.5, 1.0, 0.0, 1.0, -2.0])
        inputs = np.stack([first, np.log(shares[:, 0] / shares[:, 1]) - first], -1)
        return _Model(inputs, np.ones((2, 1)), shares, 8)
    shares = np.array([(i, j, 6 - i - j) for i in range(1, 5) for j in range(1, 6 - i)], float)
    return _Model(np.log(shares[:, :2] / shares[:, 2:]), np.eye(2), shares, 6)


def _sum(model: _Model, counts: np.ndarray) -> sde.FiniteSum:
    """The negative log-likelihood of labels with those counts, as a finite sum of the package."""
    rows = [(x, c) for x, row in zip(model.inputs, counts) for c, n in enumerate(row) for _ in range(int(n))]
    inputs, labels = np.array([x for x, _ in rows]), np.array([c for _, c in rows])
    if counts.shape[1] == 2:
        return sde.FiniteSum.linear_model(inputs, np.where(labels == 0, 1.0, -1.0), "logistic")
    data = {"p": inputs[:, 0], "r": inputs[:, 1], "i": 1.0 * (labels == 0), "j": 1.0 * (labels == 1)}
    first, second = "(a*p + b*r)", "(c*p + d*r)"
    loss = f"log(1 + exp({first}) + exp({second})) - i*{first} - j*{second}"
    return sde.FiniteSum(("a", "b", "c", "d"), loss, data, name="softmax")


def _noise_over_curvature(loss: sde.FiniteSum, start: np.ndarray) -> np.ndarray:
    """Eigenvalues of H⁻¹D at the optimum."""
    point = optimum(loss, start)
    return la.eigh(loss.diffusion(point), loss.hessian(point), eigvals_only=True)


def _derivatives(model: _Model, weights: np.ndarray):
    """Probabilities (R, K, C), gradients of −log p of each class (R, K, C, d), Hessian of each input (R, K, d, d)."""
    classes, features = model.shares.shape[1], model.inputs.shape[1]
    logits = np.einsum("kf,rfc->rkc", model.inputs, weights)
    grown = np.exp(np.concatenate([logits, np.zeros((*logits.shape[:2], 1))], -1))
    p = grown / grown.sum(-1, keepdims=True)
    free = classes - 1
    errors = p[:, :, None, :free] - np.eye(classes)[:, :free]
    gradients = np.einsum("kf,rkcj->rkcfj", model.inputs, errors).reshape(*p.shape, features * free)
    spread = np.einsum("rki,ij->rkij", p[..., :free], np.eye(free)) - p[..., :free, None] * p[..., None, :free]
    hessians = np.einsum("kf,kg,rkij->rkfigj", model.inputs, model.inputs, spread)
    return p, gradients, hessians.reshape(*p.shape[:2], features * free, features * free)


def _square_gaps(classes: int, size: int, replicas: int, seed: int) -> tuple[np.ndarray, float]:
    """|D − H|² at the optimum of labels drawn from the model, `size` of them over the inputs; and |H|² at the truth."""
    model = _model(classes)
    inputs, each = len(model.inputs), size // len(model.inputs)
    truth = model.shares / model.whole
    generator = np.random.default_rng((seed, classes, size))
    gaps = []
    for first in range(0, replicas, 10_000):  # bounds the memory
        count = min(10_000, replicas - first)
        drawn = generator.multinomial(each, truth, (count, inputs)) / (each * inputs)  # (R, K, C), sums to 1 over K, C
        weights = np.broadcast_to(model.weights, (count, *model.weights.shape))
        for _ in range(4):  # from within 1/√n of the optimum
            _, g, h = _derivatives(model, weights)
            slope, bend = np.einsum("rkc,rkcd->rd", drawn, g), h.mean(1)
            weights = weights - np.linalg.solve(bend, slope[..., None])[..., 0].reshape(weights.shape)
        _, g, h = _derivatives(model, weights)
        noise = np.einsum("rkc,rkcd,rkce->rde", drawn, g, g)
        gaps.append(((noise - h.mean(1)) ** 2).sum((-2, -1)))
    _, _, bend = _derivatives(model, model.weights[None])
    return np.concatenate(gaps), float((bend.mean(1) ** 2).sum())


@cache
def _mean_gap(classes: int, size: int, level: Level) -> tuple[float, float]:
    """Mean of |D − H|² and its standard error."""
    gaps, _ = _square_gaps(classes, size, min(level.count(40_000 if classes == 2 else 20_000), 400_000), level.seed)
    return float(gaps.mean()), float(gaps.std() / math.sqrt(gaps.size))


@cache
def _predicted_gap(classes: int) -> float:
    r"""lim n E|D − H|²: the variance of ggᵀ − ∇²(−log p) less what the optimum, which follows the score g, takes."""
    model = _model(classes)
    p, g, h = (values[0] for values in _derivatives(model, model.weights[None]))
    share = p / len(p)
    score = g[..., :, None] * g[..., None, :] - h[:, None]
    fisher = np.einsum("kc,kcd,kce->de", share, g, g)
    joint = np.einsum("kc,kcij,kcd->ijd", share, score, g)
    rest = score - np.einsum("ijd,de,kce->kcij", joint, np.linalg.inv(fisher), g)
    return float(np.einsum("kc,kcij,kcij->", share, rest, rest))


def _well_specified(level: Level) -> list[Measurement]:
    """Logistic regression in two weights and softmax with three classes in four, whose Hessian is the Fisher
    information at every point. First with labels in exactly the proportions of the model, where H⁻¹D has to be the
    identity. Then with labels drawn from the model, n = 1600 and
    25,600: the exponent of the root mean square of |D − H|, −1/2, and its level, lim n E|D − H|² being the variance
    of ggᵀ − ∇²(−log p) that is left after its regression on the score g. Both have a bias of a few 1/n, for which
    0.002 is granted. At most 400,000 data sets."""
    found = []
    for classes, name in ((2, "logistic"), (3, "softmax")):
        model = _model(classes)
        ratios = _noise_over_curvature(_sum(model, model.shares), model.weights.T.ravel())
        found += [
            exact(f"{which} eigenvalue of H⁻¹D, exact proportions, {name}", ratio, 1.0, 1e-9)
            for which, ratio in (("lowest", ratios[0]), ("highest", ratios[-1]))
        ]
        (small, small_error), (large, large_error) = (_mean_gap(classes, n, level) for n in _SIZES)
        lever = 2.0 * math.log(_SIZES[1] / _SIZES[0])
        slope, error = math.log(large / small) / lever, math.hypot(large_error / large, small_error / small) / lever
        found.append(estimated(f"exponent of |D − H| in n, {name}", slope, error, -0.5, bias=2e-3))
        scale = _SIZES[1] / _predicted_gap(classes)
        what = f"n E|D − H|² over its predicted limit, n = {_SIZES[1]}, {name}"
        found.append(estimated(what, scale * large, scale * large_error, 1.0, bias=2e-3))
    return found


def _misspecified(level: Level) -> list[Measurement]:
    """The labels of one input, of which the model is surest, are those of the wrong class; and the squared loss of a
    linear regression whose residuals have variance 1/4."""
    found = []
    for classes, name in ((2, "logistic"), (3, "softmax")):
        model = _model(classes)
        wrong = model.shares.copy()
        wrong[0] = wrong[0][::-1]
        ratios = _noise_over_curvature(_sum(model, wrong), 0 * model.weights.ravel())
        found.append(exact(f"highest eigenvalue of H⁻¹D, wrong labels, {name}", ratios[-1], 1.0, 1e-9))
    inputs = np.repeat(_model(2).inputs, 2, axis=0)
    targets = inputs @ np.ones(2) + 0.5 * np.tile([1.0, -1.0], len(inputs) // 2)
    squares = sde.FiniteSum.linear_model(inputs, targets, "squared")
    ratios = _noise_over_curvature(squares, np.zeros(2))
    return [*found, exact("highest eigenvalue of H⁻¹D, squared loss", ratios[-1], 1.0, 1e-9)]


@styled
def _gap_figure(level: Level) -> "Figure":
    figure = new_figure(5.4, 3.6)
    ax = figure.subplots()
    sizes = np.array([120, 240, 480, 1920, 7680, 30_720])
    for k, (classes, name) in enumerate(((2, "logistic"), (3, "softmax"))):
        gaps = [_square_gaps(classes, n, 4000, level.seed) for n in sizes]
        norm = math.sqrt(gaps[0][1])
        ax.loglog(sizes, [math.sqrt(v.mean()) / norm for v, _ in gaps], "o", color=f"C{k}", label=name)
        law = np.sqrt(_predicted_gap(classes) / sizes) / norm
        ax.loglog(sizes, law, color=f"C{k}", label=f"predicted, {law[0] * math.sqrt(sizes[0]):.2g}/√n")
    ax.set(xlabel="labels n, drawn from the model", ylabel="|D − H| / |H| at the optimum")
    ax.legend()
    return figure


FISHER_IS_HESSIAN = Claim(
    name="fisher_is_hessian",
    statement="At an optimum of a negative log-likelihood the covariance D of the gradients is the Fisher information, "
    "and that is the Hessian.",
    formula=r"D\to F\to H",
    source="Golmant (2018)",
    hypotheses=(
        "the labels are drawn from the model itself, at weights it can have",
        "the loss is a negative log-likelihood, in its own units",
    ),
    as_stated="needs_hypothesis",
    holds="for a well-specified model |D − H|/|H| falls like n^(−1/2); with wrong labels it does not fall, and for the "
    "squared loss D = σ²H",
    check=_well_specified,
    twin=_misspecified,
    figure=_gap_figure,
)
