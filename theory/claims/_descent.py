"""A small regression, optima, and where full-batch descent ceases to be stable: what several topics share."""

import math
from collections.abc import Callable
from functools import cache

import numpy as np

import sde_sgd as sde
from sde_sgd.theory.claim import Measurement

SYSTEMS = ("regression", "neuron")
_START = 1e-7  # distance from the minimum
_INPUTS = np.array([[2.0, 0.0], [0.5, 1.0], [-1.0, 1.5], [0.0, -0.7], [1.0, 0.3]])


def regression(loss: str = "squared") -> sde.FiniteSum:
    """Five samples and two weights, the inputs far apart; "logistic" with labels ±1."""
    targets = [1.0, -1.0, 0.5, 2.0, 0.0] if loss == "squared" else [1.0, -1.0, -1.0, 1.0, 1.0]
    return sde.FiniteSum.linear_model(_INPUTS, targets, loss)


def regression_hessians() -> np.ndarray:
    """The Hessian of each sample's squared loss, (5, 2, 2)."""
    return _INPUTS[:, :, None] * _INPUTS[:, None, :]


def optimum(loss: sde.Landscape, start: np.ndarray) -> np.ndarray:
    """A zero of the gradient by Newton's method; of a quadratic in one step."""
    point = np.array(start, float)
    for _ in range(30):
        point = point - np.linalg.solve(loss.hessian(point), loss.gradient(point))
    return point


@cache
def _system(name: str) -> tuple[sde.FiniteSum, np.ndarray, float, np.ndarray]:
    """(loss, minimum, largest eigenvalue of the Hessian there, its eigenvector)."""
    loss = regression() if name == "regression" else sde.landscapes.get("neuron")
    assert isinstance(loss, sde.FiniteSum)
    point = optimum(loss, np.array([0.2, -0.5]))
    bends, ways = np.linalg.eigh(loss.hessian(point))
    assert bends[0] > 0  # a minimum
    return loss, point, float(bends[-1]), ways[:, -1]


def offsets(name: str, rate: float, steps: int, momentum: float = 0.0, nesterov: bool = False) -> np.ndarray:
    """x_t − x* along that eigenvector over its start, (steps + 1,), of full-batch descent with ηh = `rate`."""
    loss, minimum, bend, way = _system(name)
    run = sde.sgd(
        loss,
        minimum + _START * way,
        learning_rate=rate / bend,
        batch_size=loss.samples,
        steps=steps,
        sampling="without_replacement",
        momentum=momentum,
        nesterov=nesterov,
        save_every=1,
    )
    states = np.stack([run[v].values[0] for v in loss.variables], -1)
    return (states - minimum) @ way / _START


def comes_nearer(name: str, rate: float, momentum: float = 0.0, nesterov: bool = False) -> bool:
    """Is it nearer after 200 steps than after 100, and not by having stopped further out?"""
    try:
        distances = np.abs(offsets(name, rate, 200, momentum, nesterov))
    except sde.Diverged:
        return False
    return bool(distances[200] < min(max(distances[100], 1e-6), 100.0))


def edge(below: Callable[[float], bool], low: float, high: float, halvings: int) -> float:
    """Where `below` ceases to be true, by halving the interval; NaN where it does not."""
    if not below(low) or below(high):
        return math.nan
    for _ in range(halvings):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) else (low, middle)
    return (low + high) / 2


def bisected(what: str, found: float, expected: float, width: float) -> Measurement:
    """An `edge`, granted the `width` of its last interval."""
    return Measurement(what, found, expected, width, "the last interval of the bisection")
