"""What linear models, sums of functions and linear landscapes refuse: name, value, what is allowed, a remedy."""

import numpy as np
import pytest

import sde_sgd as sde
from sde_sgd.landscapes._linear import LinearLandscape

X4, Y4 = np.ones((4, 2)), [1.0, 1.0, -1.0, 1.0]
linear_model, from_functions = sde.FiniteSum.linear_model, sde.FiniteSum.from_functions


def writes(body):
    """A sample gradient with the given body."""
    return lambda x, row, out: body(x, row, out)


def adds(x, row, out):
    out[0] += x[0]


def moves(x, row, out):
    x[0] += 1.0
    out[0] = x[0]


def draws(x, row, out):
    out[0] = np.random.normal()  # noqa: NPY002


def fine(x, row, out):
    out[0] = x[0] - row[0]


def objects(x, row, out):
    out[0] = {"a": x[0], 1: object()}["a"]


def typed():
    """A function compiled for arrays that may be written only: the data may not."""
    import numba

    return numba.njit("void(float64[::1], float64[::1], float64[::1])")(fine)


FAULTS = {
    r"X must have shape \(N, d\) with N >= 2 .*got \(4,\)": lambda: linear_model(Y4, Y4, "squared"),
    r"got \(1, 2\)": lambda: linear_model(np.ones((1, 2)), [1.0], "squared"),
    r"y must have shape \(4,\), got \(3,\)": lambda: linear_model(X4, Y4[:3], "squared"),
    r"X must be finite, got nan at index \(1, 0\)": lambda: linear_model([[1.0], [np.nan]], [1.0, 1.0], "squared"),
    r"y must be -1 or \+1 .*got 0 at index 1.*2\*y - 1": lambda: linear_model(X4, [1, 0, 0, 1], "logistic"),
    "did you mean 'logistic'": lambda: linear_model(X4, Y4, "logistc"),
    "unknown symbol 'q'": lambda: linear_model(X4, Y4, "p*q"),
    "must depend on the prediction p, got y": lambda: linear_model(X4, Y4, "y"),
    "loss: expected a string": lambda: linear_model(X4, Y4, ["p"]),
    "weight_decay must be a finite number >= 0, got -1": lambda: linear_model(X4, Y4, "squared", weight_decay=-1),
    "weight_decay must be .* got -2": lambda: linear_model(X4, Y4, "squared").with_parameters(weight_decay=-2),
    "one name per column of X: 2, got 1": lambda: linear_model(X4, Y4, "squared", variables="w"),
    "closed form for loss 'squared', not for 'logistic'": lambda: linear_model(X4, Y4, "logistic").minimizer(),
    "x must have shape": lambda: linear_model(X4, Y4, "squared").loss([1.0]),
    "sample_gradient must be a function": lambda: from_functions("x", Y4, variables="x"),
    "data must have shape": lambda: from_functions(fine, [1.0], variables="x"),
    "write out.* instead": lambda: from_functions(writes(lambda x, row, out: x - row), Y4, variables="x"),
    "not cleared before the call": lambda: from_functions(adds, Y4, variables="x"),
    r"out\[1\] is nan": lambda: from_functions(fine, Y4, variables=("x", "y")),
    "changed its argument x": lambda: from_functions(moves, Y4, variables="x"),
    "keep no state and draw no random": lambda: from_functions(draws, Y4, variables="x"),
    r"row of shape \(1,\): IndexError": lambda: from_functions(
        writes(lambda x, row, out: row[1]), Y4, variables="x"
    ),
    "is not the gradient of sample_loss": lambda: from_functions(
        fine, Y4, variables="x", sample_loss=lambda x, row: (x[0] - row[0]) ** 2
    ),
    "must return one number": lambda: from_functions(fine, Y4, variables="x", sample_loss=lambda x, row: None),
    "X must be an array of real numbers": lambda: linear_model([[1, 2], [3]], [1.0, 2.0], "squared"),
    "cannot be compiled by Numba: .*'object'": lambda: from_functions(objects, Y4, variables="x").gradient([1.0]),
    r"F must be a matrix of shape \(d, d\), got \(2, 3\)": lambda: LinearLandscape(np.ones((2, 3))),
    r"diffusion must be a matrix of shape \(2, 2\)": lambda: LinearLandscape(np.eye(2), np.eye(3)),
    r"entry \[0\]\[1\] is 1, \[1\]\[0\] is 0": lambda: LinearLandscape(np.eye(2), [[1, 1], [0, 1]]),
    "smallest eigenvalue is -1": lambda: LinearLandscape(np.eye(2), [[1, 2], [2, 1]]),
    r"center must have shape \(2,\), got \(3,\)": lambda: LinearLandscape(np.eye(2), center=np.zeros(3)),
    "one name per row of F: 2, got 1": lambda: LinearLandscape(np.eye(2), variables="x"),
    "jumps where the axis 'x1' closes": lambda: LinearLandscape(np.eye(2), domain={"x1": (0, 1, "periodic")}),
    r"by Numba: .*parameters \(array.*readonly array": lambda: from_functions(
        typed(), Y4, variables="x"
    ).gradient([1.0]),
    "F must be finite": lambda: LinearLandscape([[np.inf]]),
}  # fmt: skip


@pytest.mark.parametrize("message", FAULTS)
def test_faults_are_named(message):
    with pytest.raises(ValueError, match=message):
        FAULTS[message]()
