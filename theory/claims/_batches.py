"""Batches of few samples, all of them or those that SGD draws; seeds, and ratios: what several topics share."""

import itertools
from collections.abc import Iterator
from functools import cache

import numpy as np
import scipy.linalg
import scipy.stats

import sde_sgd as sde
from sde_sgd.theory.claim import Level, Measurement, estimated, exact

CHUNK = 200_000  # replicas at a time: their gradients are what fills the memory


def seed_of(level: Level, *key: int) -> int:
    """A seed of its own for each measurement."""
    return int(np.random.SeedSequence([level.seed, *key]).generate_state(1, np.uint64)[0] >> 1)


def finite_sum(name: str, **parameters: float) -> sde.FiniteSum:
    """A landscape that is one."""
    found = sde.landscapes.get(name, **parameters)
    assert isinstance(found, sde.FiniteSum)
    return found


def states(run, loss: sde.Landscape | sde.Process) -> np.ndarray:
    """The weights of a run, one more axis at the end."""
    return np.stack([run[v].values for v in loss.variables], -1)


def farthest(values: np.ndarray, expected: float) -> float:
    """Of many numbers with one prediction the one that is farthest off."""
    return float(values.flat[np.abs(values - expected).argmax()])


def ratio_of_means(
    what: str, above: np.ndarray, below: np.ndarray, expected: float = 1.0, bias: float = 0.0
) -> Measurement:
    """Mean over mean of independent pairs, with its standard error to first order."""
    ratio = above.mean() / below.mean()
    error = (above - ratio * below).std(ddof=1) / below.mean() / np.sqrt(len(above))
    return estimated(what, ratio, error, expected, bias, false_alarm(len(above)))


def false_alarm(count: int) -> float:
    """Of 4.5 standard errors that were found from so many numbers."""
    return float(2 * scipy.stats.t.sf(4.5, count - 1))


@cache
def sums() -> dict[str, tuple[sde.FiniteSum, np.ndarray]]:
    """Finite sums of few samples, each at a point where its mean gradient is not 0."""
    few = {name: values[[3, 60, 75, 110, 140]] for name, values in finite_sum("neuron").data.items()}
    irises = sde.FiniteSum(("w", "c"), "(tanh(w*x + c) - y)**2/2", few, name="five_irises")
    rows = np.array([[2, 1, 0], [-1, 3, 1], [0, 1, -2], [1, 1, 1]])
    line = sde.FiniteSum.linear_model(rows, np.array([1, -2, 3, 1]), "squared", name="regression")
    return {
        "the neuron on 5 irises": (irises, np.array([0.4, -0.2])),
        "regression on 4 points": (line, np.array([0.7, 0.4, -0.5])),
    }


def draws(sampling: str, samples: int, batch: int) -> list[tuple[int, ...]]:
    """Every batch, each as likely as the others."""
    if sampling == "with_replacement":
        return list(itertools.product(range(samples), repeat=batch))
    return list(itertools.combinations(range(samples), batch))


def moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance matrix of equally likely rows."""
    centred = values - values.mean(0)
    return values.mean(0), centred.T @ centred / len(values)


def enumerated(name: str, sampling: str, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the batch gradient over every batch."""
    loss, point = sums()[name]
    gradients = loss.sample_gradients(point)
    return moments(np.array([gradients[list(one)].mean(0) for one in draws(sampling, loss.samples, batch)]))


def proportional(what: str, matrix: np.ndarray, unit: np.ndarray, expected: float) -> Measurement:
    """That `matrix` = expected · `unit`, positive definite: of the eigenvalues of unit⁻¹ matrix that farthest off."""
    return exact(what, farthest(scipy.linalg.eigvalsh(matrix, unit), expected), expected)


def batch_gradients(loss: sde.FiniteSum, point, count: int, **settings) -> Iterator[np.ndarray]:
    """Gradients that so many replicas of the recursion use in their first step, (≤ CHUNK, d) at a time."""
    for first in range(0, count, CHUNK):
        some = min(CHUNK, count - first)
        run = sde.sgd(
            loss, point, learning_rate=settings.get("svag", 1), steps=1, replicas=some, first_replica=first,
            threads=1, **settings,
        )  # fmt: skip
        yield point - states(run, loss)


def squared_noise(loss: sde.FiniteSum, point, count: int, **settings) -> np.ndarray:
    """(u·(g_B − g))²/(uᵀDu) of every replica's first step, u along the diagonal: its mean is that of Cov over D."""
    along = np.ones(loss.dim)
    scale = along @ loss.diffusion(point) @ along
    gradient = loss.gradient(point)
    parts = batch_gradients(loss, point, count, **settings)
    return np.concatenate([((part - gradient) @ along) ** 2 / scale for part in parts])
