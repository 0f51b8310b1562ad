"""Scale-invariant losses: what normalisation makes of a loss. Two of them, without weight decay of their own."""

from functools import cache

import numpy as np

import sde_sgd as sde
from sde_sgd.theory.claims._batches import finite_sum


@cache
def losses() -> dict[str, tuple[sde.FiniteSum, np.ndarray]]:
    """Finite sums that depend on the direction of the weights alone, with a start."""
    some = {name: values[::13] for name, values in finite_sum("neuron_two_inputs").data.items()}
    margin = "3*y*(w1*x1 + w2*x2 + c)/sqrt(w1**2 + w2**2 + c**2)"
    classifier = sde.FiniteSum(("w1", "w2", "c"), f"log(1 + exp(-{margin}))", some, name="normalised_classifier")
    return {
        "scale_invariant": (circle(0.5), np.array([0.6, 0.5])),
        "a normalised classifier of 12 irises": (classifier, np.array([0.5, -0.7, 0.4])),
    }


def circle(noise: float, decay: float = 0.0) -> sde.FiniteSum:
    """The landscape "scale_invariant": x²/(x² + y²) and the noise of three samples."""
    return finite_sum("scale_invariant", noise=noise, weight_decay=decay)


def mean_square(loss: sde.FiniteSum, points: np.ndarray, power: int = 1) -> np.ndarray:
    """E|g_k|^(2·power) of one sample drawn at random, at each point."""
    return (np.square(loss.sample_gradients(points)).sum(-1) ** power).mean(-1)
