"""Linear algebra of dx = −Fx dt + √(2TD) dW: F decomposed once, and what D reaches through it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.linalg as la
import xarray as xr

from sde_sgd import _checks, _memory
from sde_sgd.landscapes._names import check_names

LARGEST = 2000  # variables: ten seconds of one core, and matrices of 32 MB each
_ZERO = 1e-12  # of the largest: a rate of that size is rounding


class Rates:
    """F (d, d) by its eigenvectors where it is symmetric, else by its real Schur form; `.values` are the φ_i."""

    def __init__(self, F: np.ndarray):
        self.F = F
        self.symmetric = bool(np.array_equal(F, F.T))
        if self.symmetric:
            self.values, self._basis = la.eigh(F)
            return
        self._upper, self._basis = la.schur(F, output="real")
        self.values = self._upper.diagonal().astype(complex)
        pairs = np.flatnonzero(self._upper.diagonal(-1))  # 2×2 blocks, of equal diagonals in LAPACK's normal form
        turn = np.sqrt(np.abs(self._upper[pairs + 1, pairs])) * np.sqrt(np.abs(self._upper[pairs, pairs + 1]))
        self.values[pairs] += 1j * turn
        self.values[pairs + 1] -= 1j * turn

    def require_stable(self, remedy: str) -> None:
        """ValueError where dx = −Fx has no stationary law: a rate with a real part ≤ 0."""
        size, slow = float(np.abs(self.values).max(initial=0.0)), self.values[self.values.real.argmin()]
        if slow.real > _ZERO * size:
            return
        # the φ_j nearest to −φ_i lies near −φ_i in its real part: a sum of 0 makes the Lyapunov equation singular
        gap = np.abs(self.values[:, None] + self.values[None, :])
        i, j = np.unravel_index(gap.argmin(), gap.shape)
        if gap[i, j] <= _ZERO * max(size, 1e-300):
            why = (
                "one direction is flat, and along it nothing is stationary"
                if i == j
                else "the Lyapunov equation FS + SFᵀ = 2TD is singular there, as at a saddle"
            )
            raise ValueError(
                f"φ_i + φ_j = 0 for the eigenvalues {_number(self.values[i])} and {_number(self.values[j])} of F: "
                f"{why}; {remedy}"
            )
        raise ValueError(
            f"F is not stable: its eigenvalue {_number(slow)} has no positive real part, so that dx = −Fx dt leaves "
            f"and there is no stationary law; {remedy}"
        )

    def lyapunov(self, C: np.ndarray) -> np.ndarray:
        """The symmetric X with FX + XFᵀ = C; one Newton step takes the residual to rounding."""
        x = self._solve(C)
        x += self._solve(C - self.F @ x - x @ self.F.T)
        return 0.5 * (x + x.T)

    def _solve(self, C: np.ndarray) -> np.ndarray:
        rotated = self._basis.T @ C @ self._basis
        if self.symmetric:
            inner = rotated / (self.values[:, None] + self.values)
        else:
            inner = _sylvester(self._upper, self._upper, rotated)
        return self._basis @ inner @ self._basis.T

    def propagator(self, time: float) -> np.ndarray:
        """e^{−Ft}."""
        if self.symmetric:
            return (self._basis * np.exp(-self.values * time)) @ self._basis.T
        return la.expm(-self.F * time)

    def accumulated(self, C: np.ndarray, time: float) -> tuple[np.ndarray, np.ndarray]:
        """e^{−Ft} and ∫₀ᵗ e^{−Fs} C e^{−Fᵀs} ds without the subtraction of X − e^{−Ft} X e^{−Fᵀt}."""
        if self.symmetric:
            total = self.values[:, None] + self.values
            rotated = self._basis.T @ C @ self._basis * (-np.expm1(-total * time) / total)
            return self.propagator(time), self._basis @ rotated @ self._basis.T
        # a Taylor series over a time so short that it converges at once, then doubled: sums of semi-definite terms
        doublings = max(0, int(np.ceil(np.log2(max(4.0 * la.norm(self.F, 1) * time, 1e-300)))))
        step = time / 2.0**doublings
        term = C * step
        covariance, order = term.copy(), 1
        while np.abs(term).max() > 1e-18 * np.abs(covariance).max():
            order += 1
            half = self.F @ term
            term = -(half + half.T) * (step / order)
            covariance += term
        propagator = la.expm(-self.F * step)
        for _ in range(doublings):
            covariance = covariance + propagator @ covariance @ propagator.T
            propagator = propagator @ propagator
        return propagator, 0.5 * (covariance + covariance.T)


def _sylvester(A: np.ndarray, B: np.ndarray, C: np.ndarray) -> np.ndarray:
    """X with AX + XBᵀ = C for quasi-triangular A and B, halved until LAPACK's own solver stays in the cache.

    Jonsson & Kågström (2002): all but the small ends are products of matrices; at 1000 rows 20 times faster.
    """
    m, n = C.shape
    if max(m, n) <= 64:
        X, scale, _ = la.lapack.dtrsyl(A, B, C, tranb="T")
        return X / scale
    if m >= n:
        k = _cut(A)
        lower = _sylvester(A[k:, k:], B, C[k:])
        return np.vstack([_sylvester(A[:k, :k], B, C[:k] - A[:k, k:] @ lower), lower])
    k = _cut(B)
    right = _sylvester(A, B[k:, k:], C[:, k:])
    return np.hstack([_sylvester(A, B[:k, :k], C[:, :k] - right @ B[:k, k:].T), right])


def _cut(upper: np.ndarray) -> int:
    """The middle of a quasi-triangular matrix, not inside a 2×2 block."""
    k = len(upper) // 2
    return k + 1 if upper[k, k - 1] else k


def reachable(F: np.ndarray, D: np.ndarray) -> np.ndarray:
    """An orthonormal basis (d, k) of span{√D, F√D, F²√D, …}, the smallest invariant space that holds the noise.

    k is the Kalman rank of (F, √D): directions weaker than 1e-10 of the whole count as none.
    """
    weights, vectors = la.eigh(D)
    fresh = basis = vectors[:, weights > 1e-12 * max(weights[-1], 0.0)] if weights[-1] > 0 else vectors[:, :0]
    size = la.norm(F)
    while fresh.shape[1] and basis.shape[1] < len(F):
        image = F @ fresh
        for _ in range(2):  # orthogonal to rounding
            image = image - basis @ (basis.T @ image)
        left, strengths, _ = la.svd(image, full_matrices=False)
        fresh = left[:, strengths > 1e-10 * size]
        basis = np.hstack([basis, fresh])
    return basis


def require_reached(F: np.ndarray, D: np.ndarray, remedy: str) -> None:
    """ValueError where the noise does not reach every direction: the stationary law then has no density."""
    rank = reachable(F, D).shape[1]
    if rank < len(F):
        raise ValueError(
            f"the noise reaches only {rank} of {len(F)} directions (the Kalman rank of F and √D), so that the "
            f"stationary law has no density; {remedy}"
        )


def density_hessian(covariance: np.ndarray, temperature: float, remedy: str = "") -> np.ndarray:
    """U = TS⁻¹, the Hessian of Φ; ValueError where S is singular to rounding."""
    lowest, largest = la.eigvalsh(covariance)[[0, -1]]
    if lowest <= 1e-14 * largest:
        raise ValueError(
            f"the stationary covariance is singular to rounding, its eigenvalues reaching from {lowest:g} to "
            f"{largest:g}: the noise hardly moves some direction, and no density can be told; {remedy}scale the "
            "variables to like spreads, or project on fewer directions"
        )
    result = temperature * la.cho_solve(la.cho_factor(covariance), np.eye(len(covariance)))
    result = 0.5 * (result + result.T)
    frozen(result)
    return result


def square(name: str, value: Any, d: int | None = None) -> np.ndarray:
    """A fresh real d×d matrix of at most `LARGEST` rows; a number counts as 1×1."""
    matrix = np.atleast_2d(_checks.finite_array(name, value)).copy()
    size = len(matrix) if d is None else d
    if matrix.shape != (size, size) or not size:
        wanted = "(d, d)" if d is None else f"({d}, {d})"
        raise ValueError(f"{name} must be a matrix of shape {wanted}, got {np.shape(value)}")
    if size > LARGEST:
        raise ValueError(
            f"{name} has {size} variables, and dense linear theory takes at most {LARGEST}; project it on the leading "
            "eigenvectors of the Hessian first"
        )
    return matrix


def symmetric(name: str, value: Any, meaning: str, d: int | None = None) -> np.ndarray:
    """The same, symmetric to 1e-10 and made so in every digit."""
    matrix = square(name, value, d)
    gap = np.abs(matrix - matrix.T)
    if gap.max() > 1e-10 * np.abs(matrix).max():
        i, j = np.unravel_index(gap.argmax(), gap.shape)
        raise ValueError(
            f"{name} is not symmetric: entry [{i}][{j}] is {matrix[i, j]:g}, [{j}][{i}] is {matrix[j, i]:g}; {meaning}"
        )
    return 0.5 * (matrix + matrix.T)


def covariance(name: str, value: Any, d: int) -> np.ndarray:
    """The same, positive semi-definite."""
    matrix = symmetric(name, value, "D is a covariance", d)
    _checks.semidefinite(name, matrix)
    return matrix


def center_of(value: Any, d: int) -> np.ndarray:
    """c (d,), the origin for None."""
    center = np.zeros(d) if value is None else np.atleast_1d(_checks.finite_array("center", value)).copy()
    if center.shape != (d,):
        raise ValueError(f"center must have shape ({d},), got {center.shape}")
    return center


def names_of(variables: Sequence | None, d: int) -> tuple[str, ...]:
    """d names, x0, x1, … for None."""
    if variables is None:
        return tuple(f"x{i}" for i in range(d))
    names = check_names("variable", [variables] if isinstance(variables, str) else variables)
    if len(names) != d:
        raise ValueError(f"variables must have one name per row of the matrix: {d}, got {len(names)}")
    return tuple(names)


def frozen(*arrays: np.ndarray) -> None:
    """Make them read-only: a law once solved for belongs to the matrices it was solved with."""
    for array in arrays:
        array.flags.writeable = False


def rising(name: str, values: Any) -> np.ndarray:
    """A 1-D array of at least one number, increasing."""
    array = np.atleast_1d(_checks.finite_array(name, values))
    if array.ndim != 1 or not array.size:
        raise ValueError(f"{name} must be a number or increasing numbers, got shape {array.shape}")
    falls = np.flatnonzero(np.diff(array) <= 0)
    if falls.size:
        here, after = array[falls[0]], array[falls[0] + 1]
        raise ValueError(f"{name} must increase, got {here:g} before {after:g}; take each once, in order")
    return array


def stack(
    name: str, dimension: str, values: np.ndarray, matrices: Any, variables: Sequence[str], attrs: dict, dtype=float
) -> xr.DataArray:
    """One matrix per value as (dimension, variable, variable_2), refused beforehand where it would not fit."""
    d = len(variables)
    _memory.refuse_beyond(float(np.dtype(dtype).itemsize) * len(values) * d * d, name, "ask for fewer at a time")
    result = np.empty((len(values), d, d), dtype)
    for k, value in enumerate(values):
        result[k] = matrices(value)
    coords = {dimension: values, "variable": list(variables), "variable_2": list(variables)}
    return xr.DataArray(result, coords, (dimension, "variable", "variable_2"), name, attrs)


def _number(value: Any) -> str:
    return f"{value.real:g}" if not np.iscomplexobj(value) or value.imag == 0 else f"{value.real:g}{value.imag:+g}i"
