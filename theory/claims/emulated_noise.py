"""Claims about noise that is made to order: one weighted backward pass, and SVAG's pairs of batches."""

import itertools
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

import sde_sgd as sde
from sde_sgd.figures._style import new_figure, styled
from sde_sgd.theory.claim import Claim, Level, Measurement, exact, sampled
from sde_sgd.theory.claims._batches import (
    CHUNK,
    batch_gradients,
    draws,
    farthest,
    finite_sum,
    moments,
    proportional,
    seed_of,
    squared_noise,
    sums,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NEURON_POINT = np.array([0.9, 0.8])  # where g gᵀ is not small beside D
_BATCH = 2


def _weights(noise: np.ndarray, batch: int, centred: bool) -> np.ndarray:
    """1 + √(N/b)(ε_k − mean ε), or without the mean: one row per backward pass."""
    shift = noise.mean(-1, keepdims=True) if centred else 0.0
    return 1 + np.sqrt(noise.shape[-1] / batch) * (noise - shift)


def _weighted(name: str, centred: bool) -> np.ndarray:
    """Covariance of the weighted gradient for ε_k = ±1, over every choice of the signs."""
    loss, point = sums()[name]
    signs = np.array(list(itertools.product((-1.0, 1.0), repeat=loss.samples)))
    return moments(_weights(signs, _BATCH, centred) @ loss.sample_gradients(point) / loss.samples)[1]


def _second_moment(loss: sde.FiniteSum, point) -> np.ndarray:
    """D + g gᵀ, the empirical Fisher matrix."""
    return loss.diffusion(point) + np.outer(loss.gradient(point), loss.gradient(point))


@cache
def _gaussian_passes(level: Level) -> tuple[np.ndarray, np.ndarray]:
    """Noise of weighted gradients of 150 irises' neuron, centred and not, along its mean gradient; Gaussian ε."""
    rows = finite_sum("neuron").sample_gradients(_NEURON_POINT)
    along = rows @ rows.mean(0)
    random = np.random.default_rng(seed_of(level, 4))
    count, size, found = level.count(100_000), CHUNK // 20, []
    for first in range(0, count, size):
        noise = random.standard_normal((min(size, count - first), len(rows)))
        found.append([_weights(noise, _BATCH, centred) @ along / len(rows) - along.mean() for centred in (True, False)])
    return tuple(np.concatenate(found, axis=1))


def _passes(level: Level, swapped: bool) -> list[Measurement]:
    """Centred and uncentred passes beside D/b and the second moment over b, or each beside the other's."""
    found = []
    for centred in (True, False):
        is_covariance = centred is not swapped
        kind, of = ("centred" if centred else "uncentred"), ("D" if is_covariance else "(D + g gᵀ)")
        for name, (loss, point) in sums().items():
            unit = loss.diffusion(point) if is_covariance else _second_moment(loss, point)
            what = f"b Cov/{of} over all signs ε, {kind}, {name}"
            found.append(proportional(what, _BATCH * _weighted(name, centred), unit, 1.0))
        neuron = finite_sum("neuron")
        matrix = neuron.diffusion(_NEURON_POINT) if is_covariance else _second_moment(neuron, _NEURON_POINT)
        gradient = neuron.gradient(_NEURON_POINT)
        values = _BATCH * _gaussian_passes(level)[0 if centred else 1] ** 2 / (gradient @ matrix @ gradient)
        found.append(sampled(f"b Cov/{of} along g, {kind}, Gaussian ε, neuron on 150 irises", values, 1.0))
    return found


def _one_pass(level: Level) -> list[Measurement]:
    """The gradient of the weighted loss (1/N) Σ w_k f_k, once for every choice of the signs ε_k = ±1, which makes the
    covariance exact; with Gaussian ε on 150 irises it is sampled along the mean gradient, where the variants differ.
    """
    return _passes(level, swapped=False)


def _other_variant(level: Level) -> list[Measurement]:
    """Centred weights beside the second moment (D + g gᵀ)/b, uncentred ones beside D/b; with g = 0 both would pass."""
    return _passes(level, swapped=True)


@styled
def _passes_figure(level: Level) -> "Figure":
    neuron = finite_sum("neuron")
    batch, count = 15, 4000
    rows = neuron.sample_gradients(_NEURON_POINT)
    mean = rows.mean(0)
    random = np.random.default_rng(seed_of(level, 5))
    noise = random.standard_normal((count, len(rows)))
    drawn = rows[random.integers(len(rows), size=(count, batch))].mean(1)
    clouds = {
        "mini-batches of 15": (drawn, neuron.diffusion(_NEURON_POINT)),
        "weighted pass, centred": (
            _weights(noise, batch, True) @ rows / len(rows),
            neuron.diffusion(_NEURON_POINT),
        ),
        "weighted pass, uncentred": (
            _weights(noise, batch, False) @ rows / len(rows),
            _second_moment(neuron, _NEURON_POINT),
        ),
    }
    figure = new_figure(8.4, 3.3)
    panels = figure.subplots(1, 3, sharex=True, sharey=True)
    turn = 2 * np.pi * np.arange(201) / 200
    for ax, (title, (cloud, matrix)) in zip(panels, clouds.items()):
        label = "(D + g gᵀ)/b" if "uncentred" in title else "D/b"
        ax.plot(*cloud.T, ".", ms=1.5, alpha=0.35, rasterized=True)
        root = np.linalg.cholesky(matrix / batch)
        ax.plot(*(mean[:, None] + 2 * root @ [np.cos(turn), np.sin(turn)]), color="C1", lw=1.2, label=label)
        ax.plot(*mean, "+", color="C6", ms=8)
        ax.legend(loc="upper right", title="two standard deviations", fontsize=8)
        ax.set(title=title, xlabel="gradient along w")
    panels[0].set_ylabel("gradient along c")
    return figure


WEIGHTED_PASS = Claim(
    name="one_weighted_backward_pass",
    statement=(
        "One backward pass through the loss weighted by 1 + √(N/b)(ε_k − mean ε), ε_k of mean 0 and variance 1, has "
        "the noise covariance D/b of a mini-batch of size b; without subtracting mean ε it has (D + g gᵀ)/b, the "
        "empirical Fisher matrix over b."
    ),
    formula=r"\operatorname{Cov}\left(\frac{1}{N}\sum_k w_kg_k\right)=\frac{1}{b}D,\quad "
    r"w_k=1+\sqrt{\frac{N}{b}}(\varepsilon_k-\bar{\varepsilon})",
    source="Golmant (2018); Wu et al. (2020)",
    as_stated="holds",
    holds="exactly, for any independent ε of mean 0 and variance 1, and for any b > 0, whole or not",
    check=_one_pass,
    twin=_other_variant,
    figure=_passes_figure,
)


def _svag_pairs(name: str, amplification: int, shared: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of SVAG's gradient over every pair of batches, or with one batch in both its places."""
    loss, point = sums()[name]
    rows, s = loss.sample_gradients(point), np.sqrt(2 * amplification - 1)
    batches = np.array([rows[list(one)].mean(0) for one in draws("with_replacement", loss.samples, _BATCH)])
    first, second = (0, 0) if shared else (0, 1)
    pairs = np.stack(np.broadcast_arrays(batches[:, None], batches[None, :]))
    return moments(((1 + s) / 2 * pairs[first] + (1 - s) / 2 * pairs[second]).reshape(-1, loss.dim))


def _amplified(level: Level) -> list[Measurement]:
    """Every ordered pair of batches of 2 is enumerated, for l = 2 and 10: the mean over g, of its components the one
    that is farthest off, and the covariance beside l D/b. For 150 irises the noise is that of the first step of SGD's
    recursion with svag = 4 and b = 8.
    """
    found = []
    for name, (loss, point) in sums().items():
        for amplification in (2, 10):
            mean, covariance = _svag_pairs(name, amplification)
            label = f"over every pair of batches, l = {amplification}, {name}"
            found.append(exact(f"mean over g {label}", farthest(mean / loss.gradient(point), 1.0), 1.0))
            found.append(proportional(f"b Cov/D {label}", _BATCH * covariance, loss.diffusion(point), amplification))
    return [*found, _svag_step(level, 4)]


def _svag_step(level: Level, amplification: int) -> Measurement:
    """The 4 of svag = 4 beside the covariance that the recursion has with svag = `amplification`."""
    settings = dict(batch_size=8, svag=amplification, seed=seed_of(level, 6))
    values = 8 * squared_noise(finite_sum("neuron"), _NEURON_POINT, level.count(100_000), **settings)
    return sampled("b Cov/D along (1, 1), first steps of sde.sgd with svag, neuron on 150 irises", values, 4.0)


def _one_batch_twice(level: Level) -> list[Measurement]:
    """Both of SVAG's places are given the same batch, so that its halves are not independent: the covariance stays
    D/b. In the recursion svag is 1.
    """
    found = []
    for name, (loss, point) in sums().items():
        covariance = _BATCH * _svag_pairs(name, 10, shared=True)[1]
        found.append(proportional(f"b Cov/D of one batch twice, l = 10, {name}", covariance, loss.diffusion(point), 10))
    return [*found, _svag_step(level, 1)]


@styled
def _svag_figure(level: Level) -> "Figure":
    figure = new_figure(7.6, 3.3)
    left, right = figure.subplots(1, 2)
    amplifications = (1, 2, 4, 8, 16, 32)
    for marker, (name, (loss, point)) in zip(("o", "x"), sums().items()):
        unit = np.trace(loss.diffusion(point)) / _BATCH
        covariances = [_svag_pairs(name, l)[1] for l in amplifications]
        left.loglog(amplifications, np.trace(covariances, axis1=1, axis2=2) / unit, marker, label=name)
    left.loglog(amplifications, amplifications, color="C6", lw=0.9, label="l")
    left.set(xlabel="l", ylabel="b tr Cov / tr D")
    left.legend()
    gradient = finite_sum("neuron").gradient(_NEURON_POINT)
    for l in (1, 16):
        settings = dict(batch_size=2, svag=l, seed=seed_of(level, 7))
        steps = np.concatenate(list(batch_gradients(finite_sum("neuron"), _NEURON_POINT, 40_000, **settings)))
        scaled = (steps - gradient)[:, 1] / np.sqrt(l * finite_sum("neuron").diffusion(_NEURON_POINT)[1, 1] / 2)
        right.hist(scaled, 80, (-4, 4), density=True, histtype="step", label=f"svag = {l}", lw=1.2)
    right.set(xlabel="noise along c, in its standard deviations", ylabel="density")
    right.legend()
    return figure


SVAG = Claim(
    name="svag",
    statement="SVAG's step keeps the mean of the gradient and multiplies its covariance by l.",
    formula=(
        r"\operatorname{Cov}\left(\frac{1+\sqrt{2l-1}}{2}g_{B_1}+\frac{1-\sqrt{2l-1}}{2}g_{B_2}\right)=\frac{l}{b}D"
    ),
    source="Li, Malladi & Arora (2021)",
    hypotheses=("the two batches are independent",),
    as_stated="holds",
    holds="exactly; hence l steps of η/l have the drift and the noise of one step of SGD",
    check=_amplified,
    twin=_one_batch_twice,
    figure=_svag_figure,
)
