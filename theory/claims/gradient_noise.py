"""Claims about the noise of a mini-batch gradient: its covariance, its size, its rank."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import sympy as sp

import sde_sgd as sde
from sde_sgd.figures._style import new_figure, styled
from sde_sgd.theory.claim import Claim, Level, Measurement, exact, sampled
from sde_sgd.theory.claims._batches import (
    batch_gradients,
    draws,
    enumerated,
    finite_sum,
    proportional,
    seed_of,
    squared_noise,
    sums,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NEURON_POINT = np.array([0.4, -0.2])


def _enumerated_shares(sampling: str, share: Callable[[int, int], float]) -> list[Measurement]:
    """b Cov / D of two finite sums and two batch sizes beside `share(N, b)`."""
    found = []
    for name, (loss, point) in sums().items():
        for batch in (2, 3):
            covariance = batch * enumerated(name, sampling, batch)[1]
            count = len(draws(sampling, loss.samples, batch))
            what = f"b Cov/D over the {count} batches of {batch}, {name}"
            found.append(proportional(what, covariance, loss.diffusion(point), share(loss.samples, batch)))
    return found


def _drawn_share(level: Level, sampling: str, expected: float) -> Measurement:
    """b u·Cov u/(u·Du) of the 150 irises' neuron, from the first step of SGD with b = 75."""
    settings = dict(sampling=sampling, batch_size=75, seed=seed_of(level, 1, sampling == "with_replacement"))
    values = 75 * squared_noise(finite_sum("neuron"), _NEURON_POINT, level.count(100_000), **settings)
    return sampled("b Cov/D along (1, 1), first steps of sde.sgd, neuron on 150 irises, b = 75", values, expected)


def _with_replacement(level: Level) -> list[Measurement]:
    """Every ordered batch of 2 and of 3 samples is enumerated and b Cov is compared with D, entry by entry. For the
    neuron on 150 irises the noise is that of the first step of many replicas of SGD, along (1, 1).
    """
    found = _enumerated_shares("with_replacement", lambda samples, batch: 1.0)
    return [*found, _drawn_share(level, "with_replacement", 1.0)]


def _subsets_as_draws(level: Level) -> list[Measurement]:
    """The same of subsets: the samples of a batch are then not independent."""
    found = _enumerated_shares("without_replacement", lambda samples, batch: 1.0)
    return [*found, _drawn_share(level, "without_replacement", 1.0)]


BATCH_COVARIANCE = Claim(
    name="batch_covariance",
    statement="The mini-batch gradient has covariance D/b, D the population covariance of the per-sample gradients.",
    formula=r"\operatorname{Cov}\left(\frac{1}{b}\sum_{k\in B}g_k\right)=\frac{1}{b}D",
    source="Chaudhari & Soatto (2018)",
    hypotheses=("the samples of a batch are drawn independently, with replacement",),
    as_stated="holds",
    holds="exactly so for draws with replacement; without replacement the factor is (N − b)/(N − 1)",
    check=_with_replacement,
    twin=_subsets_as_draws,
)


def _subsets(level: Level) -> list[Measurement]:
    """Every subset of 2 and of 3 samples is enumerated; subsets of 75 of 150 irises are drawn by SGD. With the unbiased
    covariance DN/(N − 1) in the place of D the factor is 1 − b/N, which is the same thing.
    """
    found = _enumerated_shares("without_replacement", lambda samples, batch: (samples - batch) / (samples - 1))
    for name, (loss, point) in sums().items():
        unbiased = loss.diffusion(point) * loss.samples / (loss.samples - 1)
        covariance = 2 * enumerated(name, "without_replacement", 2)[1]
        found.append(proportional(f"b Cov/(unbiased D), {name}, b = 2", covariance, unbiased, 1 - 2 / loss.samples))
    return [*found, _drawn_share(level, "without_replacement", 75 / 149)]


def _share_of_slides(level: Level) -> list[Measurement]:
    """The enumerated factors beside 1 − b/N; they differ by 1 − 1/N, most where samples are few."""
    return _enumerated_shares("without_replacement", lambda samples, batch: 1 - batch / samples)


@styled
def _shares_figure(level: Level) -> "Figure":
    figure = new_figure(7.6, 3.4)
    panels = figure.subplots(1, 2, sharey=True)
    for ax, (name, (loss, point)) in zip(panels, sums().items()):
        samples, unit = loss.samples, np.trace(loss.diffusion(point))
        sizes, line = range(1, samples + 1), np.linspace(1, samples, 50)
        ax.plot(line, (samples - line) / (samples - 1), color="C0", label="(N − b)/(N − 1)")
        ax.plot(line, 1 - line / samples, "--", color="C1", label="1 − b/N, of the slides")
        ax.axhline(1.0, color="C2", lw=1, label="1, with replacement")
        for sampling, colour in (("without_replacement", "C0"), ("with_replacement", "C2")):
            ratios = [b * np.trace(enumerated(name, sampling, b)[1]) / unit for b in sizes]
            ax.plot(sizes, ratios, "o", color=colour, ms=5)
        ax.set(title=name, xlabel="batch size b", xticks=sizes)
    panels[0].set_ylabel("b tr Cov / tr D")
    panels[0].legend(loc="lower left", title="dots: every batch enumerated")
    return figure


SUBSET_COVARIANCE = Claim(
    name="subset_covariance",
    statement="Without replacement, the mini-batch gradient has covariance (1 − b/N) D/b: T = (η/2b)(1 − b/N).",
    formula=r"\operatorname{Cov}(g_B)=\frac{1}{b}\left(1-\frac{b}{N}\right)D",
    source="the slides of Chaudhari's talk on Chaudhari & Soatto (2018)",
    hypotheses=("D is the population covariance (1/N) Σ g_k g_kᵀ − g gᵀ, as the paper defines it",),
    as_stated="fails",
    holds="(N − b)/(N − 1) · D/b; 1 − b/N goes with the unbiased covariance, DN/(N − 1)",
    check=_subsets,
    twin=_share_of_slides,
    figure=_shares_figure,
)


def _bracket(name: str, batch: int, sign: int) -> np.ndarray:
    """(1/b)(1 − b/N) [Σ g_k g_kᵀ/(N − 1) − (1 ± 1/(N − 1)) g gᵀ]."""
    loss, point = sums()[name]
    rows, others = loss.sample_gradients(point), loss.samples - 1
    mean = np.outer(rows.mean(0), rows.mean(0))
    return (1 - batch / loss.samples) / batch * (rows.T @ rows / others - (1 + sign / others) * mean)


def _brackets(sign: int) -> list[Measurement]:
    found = []
    for name in sums():
        for batch in (2, 3):
            covariance, printed = enumerated(name, "without_replacement", batch)[1], _bracket(name, batch, sign)
            found.append(exact(f"tr Cov over the subsets of {batch}, {name}", np.trace(covariance), np.trace(printed)))
            found.append(exact(f"Cov₁₂ over the subsets of {batch}, {name}", covariance[0, 1], printed[0, 1]))
    return found


def _corrected_bracket(level: Level) -> list[Measurement]:
    """Covariance over every subset, beside the printed formula with 1 + 1/(N − 1) in its last bracket."""
    return _brackets(+1)


def _printed_bracket(level: Level) -> list[Measurement]:
    """The same beside the formula as printed, 1 − 1/(N − 1). At a point with g = 0 the two are equal."""
    return _brackets(-1)


PRINTED_COVARIANCE = Claim(
    name="printed_covariance_without_replacement",
    statement=(
        "Without replacement the covariance is (1/b)(1 − b/N) [Σ g_k g_kᵀ/(N − 1) − (1 − 1/(N − 1)) g gᵀ], as printed."
    ),
    formula=(
        r"\operatorname{Cov}(g_B)=\frac{1}{b}\left(1-\frac{b}{N}\right)\left[\frac{\sum_k g_kg_k^\top}{N-1}"
        r"-\left(1-\frac{1}{N-1}\right)gg^\top\right]"
    ),
    source="Chaudhari & Soatto (2018), (A2)",
    as_stated="fails",
    holds="the last bracket is 1 + 1/(N − 1), so that the whole is (N − b)/(b(N − 1)) · D",
    check=_corrected_bracket,
    twin=_printed_bracket,
)


def _mean_squares(level: Level, share: float) -> list[Measurement]:
    """E|g_B|² over every batch, and of the first step of SGD on 150 irises, beside |g|² + `share` · tr D/b."""
    found = []

    def expected(loss: sde.FiniteSum, point: np.ndarray, batch: int) -> float:
        return float((loss.gradient(point) ** 2).sum() + share * np.trace(loss.diffusion(point)) / batch)

    for name, (loss, point) in sums().items():
        rows = loss.sample_gradients(point)
        for batch in (1, 2):
            means = [rows[list(one)].mean(0) for one in draws("with_replacement", loss.samples, batch)]
            what = f"E|g_B|² over every batch of {batch}, {name}"
            found.append(exact(what, np.square(means).sum(1).mean(), expected(loss, point, batch)))
    neuron, settings = finite_sum("neuron"), dict(batch_size=8, seed=seed_of(level, 2))
    parts = batch_gradients(neuron, _NEURON_POINT, level.count(100_000), **settings)
    squares = np.concatenate([np.square(part).sum(1) for part in parts])
    what = "E|g_B|² of first steps of sde.sgd, neuron on 150 irises, b = 8"
    return [*found, sampled(what, squares, expected(neuron, _NEURON_POINT, 8))]


def _mean_and_trace(level: Level) -> list[Measurement]:
    """E|g_B|² by enumeration of every batch, beside |g|² + tr D/b from the landscape's own gradient and diffusion; for
    150 irises in batches of 8 the mean over the first steps of many replicas of SGD.
    """
    return _mean_squares(level, 1.0)


def _mean_alone(level: Level) -> list[Measurement]:
    """The same beside |g|² alone, the square of the mean: the noise left out."""
    return _mean_squares(level, 0.0)


SECOND_MOMENT = Claim(
    name="second_moment",
    statement="The mean square of a stochastic gradient is the square of its mean and the trace of its covariance.",
    formula=r"E|v|^2=|E\,v|^2+\operatorname{tr}\operatorname{Cov}(v)",
    source="folklore",
    as_stated="holds",
    holds="as stated; for a batch with replacement tr Cov = tr D/b, which can exceed |g|² many times",
    check=_mean_and_trace,
    twin=_mean_alone,
)


def _rank(rows: np.ndarray, centred: bool = True) -> int:
    """Exact rank, over the rational numbers, of D or of the second moment of whole-numbered gradients."""
    offsets = len(rows) * rows - rows.sum(0) if centred else rows  # N (g_k − g), whole numbers still
    return sp.Matrix(offsets.astype(int)).rank()


def _whole_gradients(samples: int, weights: int, seed: int) -> np.ndarray:
    """Per-sample gradients (p_k − y_k) x_k of a regression with whole-numbered inputs, weights and targets."""
    random = np.random.default_rng(seed)
    inputs = random.integers(-4, 5, (samples, weights))
    residuals = inputs @ random.integers(-2, 3, weights) - random.choice([-31, 37, 41], samples)
    return residuals[:, None] * inputs


_SHAPES = ((6, 20), (4, 9), (30, 3))  # samples, weights


def _ranks(centred: bool, shapes=_SHAPES) -> list[Measurement]:
    found = []
    for samples, weights in shapes:
        rank = _rank(_whole_gradients(samples, weights, samples), centred)
        what = f"rank in exact arithmetic, regression with N = {samples}, d = {weights}"
        found.append(exact(what, rank, min(weights, samples - 1)))
    return found


def _rank_of_covariance(level: Level) -> list[Measurement]:
    """Ranks of D for regressions with whole-numbered data: over the rational numbers without any threshold, and in
    float64 at the usual one. Generic samples reach the bound; the three of the landscape "scale_invariant" stay below
    it, because all their gradients are tangent to one circle.
    """
    found = _ranks(True)
    for samples, weights in _SHAPES:
        rows = _whole_gradients(samples, weights, samples).astype(float)
        rank = np.linalg.matrix_rank(np.cov(rows.T), hermitian=True)
        found.append(exact(f"the same in float64, N = {samples}", rank, min(weights, samples - 1)))
    circle = np.linalg.matrix_rank(finite_sum("scale_invariant").diffusion(np.array([0.6, 0.5])), hermitian=True)
    return [*found, Measurement("rank D of scale_invariant, N = 3, d = 2", circle, 2, 0.0, "an integer", relation="<=")]


def _rank_of_second_moment(level: Level) -> list[Measurement]:
    """The same without subtracting the mean, where the samples are fewer than the weights: the second moment, the
    empirical Fisher matrix, has rank N.
    """
    return _ranks(False, _SHAPES[:2])


@styled
def _rank_figure(level: Level) -> "Figure":
    figure = new_figure(5.2, 3.4)
    ax = figure.subplots()
    samples, weights = _SHAPES[0]
    rows = _whole_gradients(samples, weights, samples).astype(float)
    centred = rows - rows.mean(0)
    for matrix, marker, label in (
        (centred.T @ centred / samples, "o", "D"),
        (rows.T @ rows / samples, "x", "second moment D + g gᵀ"),
    ):
        values = np.abs(np.linalg.eigvalsh(matrix))[::-1]
        ax.semilogy(range(1, weights + 1), values / values[0], marker, ms=5, label=label)
    ax.axhline(weights * np.finfo(float).eps, color="C6", ls="--", lw=0.8, label="usual threshold, d ε")
    ax.axvline(samples - 0.5, color="C0", ls=":", lw=1)
    ax.set(xlabel=f"eigenvalue, N = {samples} samples of d = {weights} weights", ylabel="|λ|/λ_max")
    ax.legend()
    return figure


DIFFUSION_RANK = Claim(
    name="diffusion_rank",
    statement="The rank of D is at most min(d, N − 1).",
    formula=r"\operatorname{rank}D\leq\min(d,N-1)",
    source="folklore",
    as_stated="holds",
    holds="as stated, and generic samples reach it; the uncentred second moment reaches min(d, N)",
    check=_rank_of_covariance,
    twin=_rank_of_second_moment,
    figure=_rank_figure,
)
