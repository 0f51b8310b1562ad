"""Lanczos iteration with full reorthogonalisation: extreme eigenpairs, and Gauss quadrature of a spectrum."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sde_sgd import _checks

from ._numbers import LARGEST_SEED

_BLOCK = 32  # rows by which the basis grows
_CANCELLED = 0.7  # a pass that leaves less of a vector leaves rounding in it: then comes another
_EXTRA = 5  # Ritz values beyond k before the first look, and steps between looks


class Pairs(NamedTuple):
    """Eigenvalues (k,), descending, vectors (k, d), residuals |A q − λ q| (k,), and how many products were made."""

    values: Tensor
    vectors: Tensor
    residuals: NDArray[np.float64]
    products: int


class _Basis:
    """Orthonormal Lanczos vectors of a symmetric A with the tridiagonal V A Vᵀ = T.

    Each image loses what it has of the last two vectors, which is all in exact arithmetic, and then in one pass over
    all of them what rounding brought back; where that takes much of it, once more ("twice is enough": Giraud, Langou,
    Rozložník 2005). Without the pass converged eigenvalues come back as copies. Where the iteration has spanned an
    invariant subspace, it goes on from a fresh random direction.
    """

    def __init__(self, product: Callable[[Tensor], Tensor], start: Tensor, generator: torch.Generator, require):
        self._product, self._generator, self._require = product, generator, require
        self._blocks: list[Tensor] = []  # of _BLOCK vectors each, so that growing copies nothing
        self.alpha: list[float] = []
        self.beta: list[float] = []
        self.products = 0
        self._next: Tensor | None = start / start.norm()

    def __len__(self) -> int:
        return len(self.alpha)

    @property
    def exhausted(self) -> bool:
        """The basis is the whole space."""
        return self._next is None

    def combined(self, weights: Tensor) -> Tensor:
        """(k, d) combinations of the vectors for weights (m, k)."""
        parts = zip(weights.split(_BLOCK), self._blocks)
        return sum(part.T @ block[: len(part)] for part, block in parts)  # type: ignore[return-value]

    def step(self) -> None:
        assert self._next is not None
        vector = self._next
        self._append(vector)
        image = self._product(vector).to(vector)
        self.products += 1
        self.alpha.append(float(image.double() @ vector.double()))
        image = image - self.alpha[-1] * vector
        if self.beta and self.beta[-1]:
            image -= self.beta[-1] * self._row(len(self) - 2)
        image = self._orthogonal(image)
        norm = float(image.norm())
        scale = max(map(abs, self.alpha + self.beta))
        if len(self) == len(vector):
            self.beta.append(0.0)
            self._next = None
        elif norm > 10 * torch.finfo(vector.dtype).eps * scale:
            self.beta.append(norm)
            self._next = image / norm
        else:
            self.beta.append(0.0)
            self._next = self._fresh(vector)

    def tridiagonal(self) -> NDArray[np.float64]:
        between = self.beta[:-1]
        return np.diag(self.alpha) + np.diag(between, 1) + np.diag(between, -1)

    def _row(self, number: int) -> Tensor:
        return self._blocks[number // _BLOCK][number % _BLOCK]

    def _append(self, vector: Tensor) -> None:
        block, row = divmod(len(self), _BLOCK)
        if block == len(self._blocks):
            rows = min(_BLOCK, len(vector) - len(self))
            self._require(
                rows * vector.numel() * vector.element_size(),
                f"the last {rows} of {len(self) + rows} Lanczos vectors",
                "ask for fewer, or loosen tolerance",
            )
            self._blocks.append(vector.new_zeros(rows, len(vector)))
        self._blocks[block][row] = vector

    def _orthogonal(self, vector: Tensor) -> Tensor:
        """`vector` less its components along the basis."""
        before = float(vector.norm())
        for _ in range(2):
            for block in self._blocks:  # rows that are still to come are 0
                vector = vector - block.T @ (block @ vector)
            after = float(vector.norm())
            if after > _CANCELLED * before:
                break
            before = after
        return vector

    def _fresh(self, like: Tensor) -> Tensor:
        while True:
            vector = normal(len(like), self._generator, like.dtype, like.device)
            before = float(vector.norm())
            vector = self._orthogonal(vector)
            if float(vector.norm()) > 1e-3 * before:  # else rounding is most of what is left
                return vector / vector.norm()


def normal(size: int, generator: torch.Generator, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Standard normals drawn on the generator's device in float64, so that a seed means one vector everywhere."""
    drawn = torch.randn(size, generator=generator, dtype=torch.float64, device=generator.device)
    return drawn.to(device=device, dtype=dtype)


def seeded(seed: int) -> torch.Generator:
    """A generator of its own on the processor."""
    return torch.Generator().manual_seed(_checks.whole("seed", seed, 0, LARGEST_SEED))


def largest_pairs(
    product: Callable[[Tensor], Tensor],
    size: int,
    k: int,
    *,
    dtype: torch.dtype,
    device: torch.device,
    tolerance: float | None = None,
    seed: int = 0,
    require: Callable[[int, str, str], None] = lambda needed, what, remedy: None,
) -> Pairs:
    """The k algebraically largest eigenpairs of a symmetric operator, to |A q − λ q| ≤ tolerance · max|λ|.

    The bound is the Ritz residual |β_m s_mi|, which is the residual itself up to rounding; an eigenvalue's own
    error is at most that, and of the order of its square over the gap to the next. ``tolerance`` defaults to 1e-6,
    or 1e-4 in float32. An eigenvalue met exactly m times may come back fewer than m times: one start vector sees
    one copy, and rounding supplies the others late.

    Raises
    ------
    ValueError
        ``tolerance`` below 100 times the rounding of ``dtype``.

    References
    ----------
    Parlett, The Symmetric Eigenvalue Problem, 1998, chapter 13.
    """
    rounding = 10 * float(torch.finfo(dtype).eps)
    tolerance = (
        (1e-6 if dtype == torch.float64 else 1e-4) if tolerance is None else _checks.positive("tolerance", tolerance)
    )
    if tolerance < 10 * rounding:
        raise ValueError(f"tolerance={tolerance:g} is below the rounding of {dtype}: at least {10 * rounding:.2g}")
    generator = seeded(seed)
    basis = _Basis(product, normal(size, generator, dtype, device), generator, require)
    while True:
        basis.step()
        m = len(basis)
        if not basis.exhausted and (m < k + _EXTRA or (m - k) % _EXTRA):
            continue
        values, vectors = np.linalg.eigh(basis.tridiagonal())
        scale = float(np.abs(values).max())
        residuals = np.abs(basis.beta[-1] * vectors[-1, ::-1][:k]) + rounding * scale
        if basis.exhausted or (residuals <= tolerance * scale).all():
            break
    weights = torch.from_numpy(vectors[:, ::-1][:, :k].copy()).to(device=device, dtype=dtype)
    ritz = basis.combined(weights)
    ritz = ritz / ritz.norm(dim=1, keepdim=True)
    return Pairs(torch.from_numpy(values[::-1][:k].copy()).to(device), ritz, residuals, basis.products)


def quadrature(
    product: Callable[[Tensor], Tensor], start: Tensor, steps: int, require
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nodes and weights, (steps,) each, with Σ w p(θ) = zᵀp(A)z / zᵀz for all polynomials p of degree < 2·steps.

    The nodes are the Ritz values from ``start`` = z, the weights the squared first components of their vectors
    (Golub & Welsch 1969). An iteration that ends early has spanned all that z sees: it is filled with weights 0.
    """
    basis = _Basis(product, start, torch.Generator(), require)
    for _ in range(steps):
        basis.step()
        if basis.exhausted or basis.beta[-1] == 0.0:
            break
    values, vectors = np.linalg.eigh(basis.tridiagonal())
    nodes, weights = np.full(steps, values[-1]), np.zeros(steps)
    nodes[: len(values)], weights[: len(values)] = values, vectors[0] ** 2
    return nodes, weights
