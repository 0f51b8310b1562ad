r"""Quadratic finite sums: gradient noise that grows with the distance, closed in the second moments.

With f_k = ½(x − c_k)ᵀH_k(x − c_k), H = mean H_k and u = x − x*, g_k − g = δH_k u + e_k, so that for E u = 0
    E D(x) = D(x*) + A(S),   A(S) = mean(δH_k S δH_k),   S = E uuᵀ:
the noise that a stationary run sees is a constant one, found from a linear equation.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg as la
import scipy.sparse.linalg as sla

from sde_sgd import _memory
from sde_sgd.errors import NotConverged
from sde_sgd.landscapes import FiniteSum

_DENSE = 16  # variables up to which A is a matrix of d⁴ entries; beyond, Krylov spaces


@dataclass(frozen=True)
class QuadraticSum:
    """H, x*, D(x*) and S ↦ A(S)."""

    hessian: np.ndarray
    center: np.ndarray
    diffusion: np.ndarray
    spread: Callable[[np.ndarray], np.ndarray]

    @classmethod
    def of(cls, finite_sum: FiniteSum, weight_decay: float) -> "QuadraticSum":
        """The parts of a finite sum whose f_k are quadratic; ValueError for any other."""
        d, samples = finite_sum.dim, finite_sum.samples
        origin = np.zeros(d)
        if getattr(finite_sum, "loss_kind", None) == "squared":  # H_k = x_k x_kᵀ + λ: products with X are enough
            inputs = finite_sum.data["X"]
            second = inputs.T @ inputs / samples
            hessian = finite_sum.hessian(origin)

            def spread(S):
                return (inputs.T * np.einsum("ki,ki->k", inputs @ S, inputs)) @ inputs / samples - second @ S @ second
        else:
            _memory.refuse_beyond(32.0 * samples * d * d, "the Hessian of every sample", "give fewer samples")
            offsets = _gradients(finite_sum, origin)
            hessians = np.stack([_gradients(finite_sum, row) - offsets for row in np.eye(d)], -1)
            _require_quadratic(finite_sum, hessians, offsets)
            hessians = 0.5 * (hessians + hessians.swapaxes(1, 2))
            hessian = hessians.mean(0)
            apart = hessians - hessian

            def spread(S):
                return ((apart @ S) @ apart).mean(0)

        decayed = hessian + weight_decay * np.eye(d)
        center = la.lstsq(decayed, -np.asarray(finite_sum.gradient(origin)))[0]
        return cls(hessian, center, np.asarray(finite_sum.diffusion(center)), spread)

    def mean_noise(self, response: np.ndarray, basis: np.ndarray, share: float) -> tuple[np.ndarray, float]:
        """E D(x), and the radius of the feedback G ↦ A(S(G)); ValueError where it is ≥ 1.

        S(G)_ij = share·response_ij·G_ij in the eigenvectors `basis` of H is the covariance under constant noise G.
        Both maps keep covariances covariances, so that a bounded E|u|² exists exactly where the radius is below 1,
        which is where that of the whole second-moment recursion is.
        """
        d = len(basis)

        def feedback(flat):
            inner = basis.T @ flat.reshape(d, d) @ basis * response * share
            return self.spread(basis @ inner @ basis.T).ravel()

        noise = self.diffusion.ravel()
        if d <= _DENSE:
            matrix = np.stack([feedback(row) for row in np.eye(d * d)], -1)
            radius = float(np.abs(la.eigvals(matrix)).max())
            _require_bounded(radius)
            result = la.solve(np.eye(d * d) - matrix, noise)
        else:
            start = np.eye(d).ravel()
            radius = 0.0
            if feedback(start).any():  # A ≥ 0: it is 0 for I only where all H_k are equal, and Arnoldi has no start
                operator = sla.LinearOperator((d * d, d * d), matvec=feedback, dtype=float)
                leading = sla.eigs(operator, k=1, v0=start, tol=1e-10, return_eigenvectors=False)
                radius = float(np.abs(leading).max())
            _require_bounded(radius)
            whole = sla.LinearOperator((d * d, d * d), matvec=lambda flat: flat - feedback(flat), dtype=float)
            result, failed = sla.gmres(whole, noise, x0=noise, rtol=1e-13, atol=0.0, restart=60, maxiter=50)
            residual = la.norm(noise - whole @ result)
            if failed and residual > 1e-11 * la.norm(noise):
                raise NotConverged(
                    f"E D(x) was reached to {residual / la.norm(noise):.1g} only, because the feedback of the noise is "
                    f"{radius:g}, close to 1; lower the learning rate"
                )
        matrix = result.reshape(d, d)
        return 0.5 * (matrix + matrix.T), radius


def _gradients(finite_sum: FiniteSum, x: np.ndarray) -> np.ndarray:
    """g_k(x), (N, d)."""
    return np.asarray(finite_sum.sample_gradients(x))


def _require_quadratic(finite_sum: FiniteSum, hessians: np.ndarray, offsets: np.ndarray) -> None:
    generator = np.random.default_rng(0)
    for reach in (0.7, 5.0):  # a function that is quadratic in one place only is none
        x = reach * generator.standard_normal(finite_sum.dim)
        there, affine = _gradients(finite_sum, x), hessians @ x + offsets
        size = np.abs(offsets).max() + np.abs(hessians).max() * np.abs(x).max()
        gap = np.abs(there - affine)
        if not gap.max() <= 1e-9 * size:
            k = int(np.nan_to_num(gap, nan=np.inf).max(1).argmax())
            raise ValueError(
                f"{finite_sum.name} is not quadratic: the gradient of sample {k} at {x.tolist()} is "
                f"{there[k].tolist()}, a quadratic's would be {affine[k].tolist()}; near a minimum c take "
                "DiscreteSGD(landscape.hessian(c), landscape.diffusion(c), …)"
            )


def _require_bounded(radius: float) -> None:
    if not radius < 1:
        raise ValueError(
            f"E|x|² grows without bound: the noise grows with the distance, and feeds {radius:g} times itself back, "
            "which must be below 1; take a lower learning rate or a larger batch"
        )
