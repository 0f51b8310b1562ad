"""A symmetric matrix of a network, known by its products: what GradientNoise and Curvature have in common."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from sde_sgd import _checks

from ._lanczos import largest_pairs
from ._memory import require_memory


class Estimate(float):
    """A number with what is known of its error: ``.error`` (one standard error, 0 where exact) and ``.probes``."""

    error: float
    probes: int

    def __new__(cls, value: float, error: float = 0.0, probes: int = 0):
        number = super().__new__(cls, value)
        number.error, number.probes = float(error), int(probes)
        return number

    def __repr__(self) -> str:
        if self.probes == 0:
            return float.__repr__(self)
        return f"Estimate({float.__repr__(self)}, error={self.error:.3g}, probes={self.probes})"

    def __reduce__(self):
        return Estimate, (float(self), self.error, self.probes)


class NetworkOperator:
    """Symmetric d × d operator over the weights of a network, in the order of ``parameters_to_vector``.

    A subclass has ``dtype`` (torch), ``device``, ``parameters`` (d), ``_product`` and ``_settings``.
    """

    dtype: torch.dtype
    device: torch.device
    parameters: int
    _name = "the matrix"

    def _product(self, vector: Tensor) -> Tensor:
        """A v for v (d,) on the device, in float64 or in ``dtype``."""
        raise NotImplementedError

    def _settings(self) -> dict[str, Any]:
        raise NotImplementedError

    @property
    def shape(self) -> tuple[int, int]:
        """(d, d)."""
        return self.parameters, self.parameters

    def matvec(self, vector):
        """A v for one vector (d,): a NumPy array answers a NumPy array, a tensor a tensor, in ``dtype``.

        ValueError for another shape, or for NaN and infinity.
        """
        given = vector if torch.is_tensor(vector) else torch.as_tensor(_checks.finite_array("vector", vector))
        if tuple(given.shape) != (self.parameters,):
            raise ValueError(
                f"vector must have shape ({self.parameters},), one number a weight; got {tuple(given.shape)}"
            )
        if not torch.isfinite(given).all():
            raise ValueError("vector must be finite: it holds NaN or infinity")
        product = self._product(given.detach().to(self.device, self.dtype)).to(self.dtype)
        return product.to(given.device) if torch.is_tensor(vector) else product.cpu().numpy()

    __matmul__ = matvec

    def to_scipy(self):
        """A ``scipy.sparse.linalg.LinearOperator`` of the same products, for ``eigsh`` and its like."""
        from scipy.sparse.linalg import LinearOperator

        product = lambda v: self.matvec(np.asarray(v).reshape(-1))  # noqa: E731
        return LinearOperator(self.shape, matvec=product, rmatvec=product, dtype=np.dtype(str(self.dtype)[6:]))

    def matrix(self) -> NDArray[np.float64]:
        """(d, d) the matrix itself, by d products; ValueError where d² numbers do not fit."""
        return self._dense().cpu().numpy()

    def _dense(self) -> Tensor:
        size = self.parameters
        self._require(3 * 8 * size**2, f"the {size} × {size} matrix {self._name}", "use matvec() or spectrum(k)")
        dense = torch.empty(size, size, dtype=torch.float64, device=self.device)
        for k in range(size):
            unit = torch.zeros(size, dtype=self.dtype, device=self.device)
            unit[k] = 1.0
            dense[k] = self._product(unit)
        return (dense + dense.T) / 2

    def _require(self, needed: int, what: str, remedy: str) -> None:
        require_memory(needed, what, remedy, self.device)

    def eigenpairs(self, k: int, *, method: str = "auto", tolerance: float | None = None, seed: int = 0) -> xr.Dataset:
        """The k largest eigenvalues with vectors and residuals, as the subclass has them."""
        raise NotImplementedError

    def eigenvectors(
        self, k: int, *, method: str = "auto", tolerance: float | None = None, seed: int = 0
    ) -> NDArray[np.float64]:
        """(k, d) unit eigenvectors of the k largest eigenvalues, one a row, those of :meth:`eigenpairs`."""
        return self.eigenpairs(k, method=method, tolerance=tolerance, seed=seed)["vectors"].values

    def _require_vectors(self, k: int) -> None:
        self._require(4 * 8 * k * self.parameters, f"{k} eigenvectors of {self.parameters} weights", "ask for fewer")

    def _top(self, k: int) -> int:
        return _checks.whole("k", k, 1, self.parameters, f"the matrix has {self.parameters} rows")

    def _pairs_dense(self, k: int) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(self._dense())
        return values.flip(0)[:k], vectors.flip(1)[:, :k].T

    def _pairs_lanczos(self, k: int, tolerance: float | None, seed: int):
        return largest_pairs(
            self._product,
            self.parameters,
            k,
            dtype=self.dtype,
            device=self.device,
            tolerance=tolerance,
            seed=seed,
            require=self._require,
        )

    def _pairs(self, values: Tensor, vectors: Tensor, residuals, method: str, **more) -> xr.Dataset:
        """Eigenpairs with their residuals |A q − λ q|, measured where they are not given."""
        if residuals is None:
            residuals = [
                float((self._product(q.to(self.dtype)).double() - value * q.double()).norm())
                for value, q in zip(values, vectors)
            ]
        largest = vectors.abs().argmax(dim=1, keepdim=True)  # a sign that does not depend on the method
        vectors = vectors * vectors.gather(1, largest).sign()
        return xr.Dataset(
            {
                "eigenvalues": ("index", values.double().cpu().numpy()),
                "vectors": (("index", "weight"), vectors.double().cpu().numpy()),
                "residuals": ("index", np.asarray(residuals, dtype=np.float64)),
            },
            coords={"index": np.arange(1, len(values) + 1)},
            attrs=self._settings() | {"method": method} | more,
        )
