"""Expectations of mini-batch SGD with nothing sampled: moments of quadratic sums, and laws in one variable."""

from collections.abc import Callable
from functools import cache

import numpy as np

import sde_sgd as sde
from sde_sgd.theory.claims._batches import draws, finite_sum


@cache
def offsets() -> sde.FiniteSum:
    """f_k = ½(x − c_k)ᵀH(x − c_k) in two variables: noise that is the same everywhere and does not commute with H."""
    offset = np.array([[-1.5, -1.0], [-0.5, 0.7], [0.4, -0.6], [1.6, 0.9]])
    data = {"a": offset[:, 0], "b": offset[:, 1]}
    return sde.FiniteSum(("x", "y"), "(x - a)**2/2 + (x - a)*(y - b)/2 + (y - b)**2", data, name="offsets")


@cache
def regression() -> sde.FiniteSum:
    """Linear regression with two weights and six samples: noise that grows with the distance from the optimum."""
    inputs = np.array([[1.0, 0.5], [0.6, -1.0], [-1.2, 0.4], [0.3, 1.1], [-0.7, -0.9], [1.4, -0.3]])
    target = inputs @ [1.0, -0.5] + [0.4, -0.3, 0.2, -0.5, 0.3, 0.1]
    return sde.FiniteSum.linear_model(inputs, target, "squared", variables=("x", "y"), name="regression")


@cache
def pearson() -> sde.FiniteSum:
    """f_k = a_k(x − c_k)²/2, four samples of mean curvature 1.25."""
    return finite_sum("pearson")


@cache
def soft() -> sde.FiniteSum:
    """f_k = log cosh x ± (x + ½ sin x): not quadratic, D = (1 + ½ cos x)², and SGD never leaves [−π, π]."""
    return sde.FiniteSum("x", "log(cosh(x)) + s*(x + sin(x)/2)", {"s": [-1.0, 1.0]}, domain=((-4.0, 4.0),), name="soft")


# -- quadratic sums: z = (1, x), g_k = (G_k z)₁…, and E[z zᵀ] moves by a matrix ------------------------------------


def affine(quadratic: sde.FiniteSum) -> np.ndarray:
    """G (N, d+1, d+1) with g_k(x) = (G_k z)₁…, z = (1, x); the first rows are 0."""
    corners = np.vstack([np.zeros(quadratic.dim), np.eye(quadratic.dim)])
    gradients = quadratic.sample_gradients(corners)  # (d+1, N, d)
    parts = np.zeros((gradients.shape[1], len(corners), len(corners)))
    parts[:, 1:, 0] = gradients[0]
    parts[:, 1:, 1:] = np.moveaxis(gradients[1:] - gradients[0], 0, -1)
    return parts


def batches(parts: np.ndarray, size: int) -> np.ndarray:
    """The mean of every ordered batch drawn with replacement."""
    return np.array([parts[list(batch)].mean(axis=0) for batch in draws("with_replacement", len(parts), size)])


def pairs(matrices: np.ndarray) -> np.ndarray:
    """M̄ of E[z zᵀ] → mean(M_k E[z zᵀ] M_kᵀ), on the flattened z zᵀ."""
    size = matrices.shape[-1] ** 2
    return np.einsum("kij,kab->iajb", matrices, matrices).reshape(size, size) / len(matrices)


def step(parts: np.ndarray, learning_rate: float, size: int = 1) -> np.ndarray:
    """One step of SGD on E[z zᵀ], every batch enumerated."""
    return pairs(np.eye(parts.shape[-1]) - learning_rate * batches(parts, size))


def momentum_step(parts: np.ndarray, learning_rate: float, momentum: float) -> np.ndarray:
    """The same for z = (1, x, v) with v' = μv + g, x' = x − ηv', one sample a step."""
    size = parts.shape[-1] - 1
    kick = np.zeros((len(parts), 1 + 2 * size, 1 + 2 * size))
    kick[:, -size:, : 1 + size] = parts[:, 1:]
    kick[:, -size:, -size:] = momentum * np.eye(size)
    move = np.eye(1 + 2 * size)
    move[1 : 1 + size, -size:] = -learning_rate * np.eye(size)
    keep = np.diag([1.0] * (1 + size) + [0.0] * size)
    return pairs(move @ (kick + keep))


def generator(parts: np.ndarray, temperature: float, drift: np.ndarray | None = None) -> np.ndarray:
    """d/dt of E[z zᵀ] for dx = drift·z dt + √(2TD(x)) dW; the drift is −∇f if not given."""
    mean = parts.mean(axis=0)
    drift, unit = -mean if drift is None else drift, np.eye(len(mean))
    return np.kron(drift, unit) + np.kron(unit, drift) + 2 * temperature * pairs(parts - mean)


def at_rest(operator: np.ndarray) -> np.ndarray:
    """The E[z zᵀ] that the operator keeps: of a step where it has the eigenvalue 1, of a generator its kernel."""
    size = round(len(operator) ** 0.5)
    shift = np.eye(size**2) if abs(operator[0, 0] - 1.0) < 1e-12 else 0.0
    equations = operator - shift
    equations[0] = np.eye(size**2)[0]  # E[1·1] = 1 in place of an empty row
    return np.linalg.solve(equations, np.eye(size**2)[0]).reshape(size, size)


def covariance(moments: np.ndarray) -> np.ndarray:
    """Cov of what follows the 1 in z."""
    return moments[1:, 1:] - np.outer(moments[1:, 0], moments[0, 1:])


# -- one variable: x ↦ E[φ(x')] as a matrix on polynomials -------------------------------------------------------


class Backward:
    """E[φ(x_n) | x_0] of SGD in one variable: every batch enumerated, φ a polynomial at Chebyshev nodes.

    Exact to rounding where all x − ηg_B(x) stay in the interval and the gradients are analytic around it.
    """

    def __init__(self, finite_sum: sde.FiniteSum, learning_rate: float, size: int = 1, reach: float = np.pi):
        order = 120
        self.nodes = reach * np.cos(np.pi * (np.arange(order) + 0.5) / order)
        self._reach = reach
        self._coefficients = np.linalg.inv(self._polynomials(self.nodes))
        gradients = finite_sum.sample_gradients(self.nodes[:, None])[..., 0].T
        images = self.nodes - learning_rate * batches(gradients, size)
        if np.abs(images).max() > reach:
            raise ValueError(f"a step of {learning_rate:g} leaves the interval ±{reach:g}")
        self._matrix = np.mean([self._polynomials(image) for image in images], axis=0) @ self._coefficients
        self._rest = round(60 / learning_rate)

    def _polynomials(self, points: np.ndarray) -> np.ndarray:
        return np.polynomial.chebyshev.chebvander(points / self._reach, len(self.nodes) - 1)

    def after(self, steps: int, start: float, observable: Callable = lambda x: x) -> float:
        """E[φ(x)] after so many steps from one point."""
        values = np.linalg.matrix_power(self._matrix, steps) @ observable(self.nodes)
        return float((self._polynomials(np.array([start])) @ self._coefficients @ values)[0])

    def at_rest(self, observable: Callable) -> float:
        """E[φ(x)] of the stationary law."""
        return self.after(self._rest, 0.0, observable)
