"""Curvature of the loss of a real network: Hessian, Gauss–Newton and Fisher matrices by their products."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor, nn

from sde_sgd import _checks

from . import _samples
from ._lanczos import normal, quadrature, seeded
from ._loss_hessian import by_autograd, loss_hessian, require_log_likelihood
from ._operator import Estimate, NetworkOperator
from ._probes import hutch_pp
from ._sample_losses import SampleLosses

KINDS = ("hessian", "ggn", "fisher")
_DENSE = 1_000  # up to this d the whole matrix is the default road
_PROBES = 99


class Curvature(NetworkOperator):
    """Second-derivative matrix of the mean loss f = (1/N) Σ_k f_k over the weights of a network.

    - "hessian": H = ∇²f = (1/N) Σ_k ∇²f_k.
    - "ggn": G = (1/N) Σ_k J_kᵀ L_k J_k, J_k the Jacobian of the output of sample k, L_k the Hessian of its loss by that
      output: H without the second derivatives of the network; ≥ 0 for convex losses.
    - "fisher": (1/N) Σ_k E_y[∇log p(y|x_k) ∇log p(y|x_k)ᵀ], y drawn from the *model*: equal to G for losses −log p in
      natural parameters, and refused for others.

    The so-called empirical Fisher, (1/N) Σ g_k g_kᵀ with the data's own targets, is neither: it is D + g gᵀ, see
    ``GradientNoise``.

    Parameters
    ----------
    model, loss, dataset, device : as of ``GradientNoise``, copied and checked the same way.
    kind : "hessian", "ggn" or "fisher".
    statistics : "eval" or "full"
        Batch norm frozen, or one forward pass over all N in training mode, through whose batch statistics the
        derivatives then go. Without batch norm they are one.

    A product H v differentiates the gradient once more along v, its graph kept between products where all graphs
    fit into 512 MiB; G v is one forward derivative of the outputs, ℓ'' (closed form for cross-entropy and squared
    error, autograd otherwise) and one backward. Arithmetic has the parameters' float type,
    sums over chunks are float64.

    Raises
    ------
    ValueError
        As ``GradientNoise``, and an unknown kind, "minibatch" statistics, or a Fisher matrix of a criterion that is
        no log-likelihood; on use: an operation without a second derivative, or what does not fit in memory.

    References
    ----------
    Pearlmutter 1994 (products); Schraudolph 2002 (Gauss–Newton); Kunstner, Balles, Hennig 2019 (empirical Fisher).

    Kinks (ReLU) have second derivative 0 here. Not for finding the curvature of a mini-batch: give those samples.

    Examples
    --------
    >>> import torch
    >>> from sde_sgd.validation import Curvature
    >>> line = torch.nn.Linear(1, 1, bias=False, dtype=torch.float64)
    >>> x = torch.tensor([[1.0], [3.0]], dtype=torch.float64)
    >>> float(Curvature(line, torch.nn.MSELoss(), (x, 0 * x)).trace())     # 2⟨x²⟩
    10.0
    """

    def __init__(
        self, model: nn.Module, loss: Callable, dataset, kind: str = "hessian", *, statistics: str = "eval", device=None
    ):
        if isinstance(kind, str) and kind.lower().replace("_", "-").replace(" ", "-") in ("empirical-fisher", "ef"):
            raise ValueError(
                f"kind={kind!r}: the mean of g_k g_kᵀ with the data's targets is no Fisher matrix but D + g gᵀ: use "
                'GradientNoise, or kind="fisher", whose targets are the model\'s'
            )
        self.kind = _checks.choice("kind", kind, KINDS)
        _checks.choice("statistics", statistics, ("eval", "full"))
        self._losses = losses = SampleLosses(model, loss, dataset, statistics=statistics, device=device)
        self.device, self.dtype, self.statistics = losses.device, losses.dtype, statistics
        self.parameters = losses.size
        self._name = {"hessian": "H", "ggn": "G", "fisher": "F"}[kind]
        if kind != "hessian":
            with torch.no_grad():
                outputs = losses.outputs(losses.parameters, losses.chunks()[0])
            if kind == "fisher":
                require_log_likelihood(loss, outputs, losses.targets)
            closed = loss_hessian(loss, outputs, losses.targets)
            self._loss_hessian = by_autograd(losses.criterion) if closed is None else closed

    @property
    def samples(self) -> int:
        """N, the number of samples."""
        return self._losses.count

    def _settings(self) -> dict:
        return {
            "matrix": self.kind,
            "statistics": self.statistics,
            "parameters": self.parameters,
            "samples": self.samples,
            "gradient_dtype": str(self.dtype).removeprefix("torch."),
            "torch_version": str(torch.__version__),
        }

    def mean_gradient(self) -> Tensor:
        """∇f, (d,) in float64."""
        count = self._losses.count
        return self._losses.pull(torch.full((count,), 1.0 / count, dtype=torch.float64, device=self.device))

    # Products -----------------------------------------------------------------------------------------------

    def _product(self, vector: Tensor) -> Tensor:
        direction = self._losses.split(vector)
        each = self._hessian_part if self.kind == "hessian" else self._gauss_newton_part
        total = torch.zeros(self.parameters, dtype=torch.float64, device=self.device)
        with _samples.in_words(f"products of the {self.kind} cannot be computed for this model and loss"):
            kept = self._graphs
            for index, chunk in enumerate(self._losses.chunks(4)):
                total += each(chunk, direction, None if kept is None else kept[index])
        return total / self._losses.count

    @functools.cached_property
    def _graphs(self) -> list | None:
        if not self._losses.fits(4):
            return None
        make = self._slopes if self.kind == "hessian" else self._live_outputs
        return [make(chunk) for chunk in self._losses.chunks(4)]

    def _slopes(self, chunk: slice) -> tuple[Tensor | None, ...]:
        """Gradient of Σ f_k over a chunk, itself differentiable.

        Backward twice by plain autograd: of batch norm in training mode ``torch.func.hessian`` of torch 2.13 is wrong
        in the rows of the scale, by finite differences, and this is not.
        """
        leaves = self._losses.leaves
        total = self._losses.losses(leaves, chunk).sum()
        return torch.autograd.grad(total, list(leaves.values()), create_graph=True, allow_unused=True)

    def _live_outputs(self, chunk: slice) -> Tensor:
        return self._losses.outputs(self._losses.leaves, chunk)

    def _hessian_part(self, chunk: slice, direction: dict[str, Tensor], kept) -> Tensor:
        slopes = self._slopes(chunk) if kept is None else kept
        # A slope without a graph does not depend on the weights: its row of the Hessian is 0.
        pairs = [(s, v) for s, v in zip(slopes, direction.values()) if s is not None and s.requires_grad]
        if not pairs:
            return torch.zeros(self.parameters, dtype=self.dtype, device=self.device)
        grads = torch.autograd.grad(
            [s for s, _ in pairs],
            list(self._losses.leaves.values()),
            [v for _, v in pairs],
            retain_graph=kept is not None,
            allow_unused=True,
        )
        return self._losses.joined(grads)

    def _gauss_newton_part(self, chunk: slice, direction: dict[str, Tensor], kept) -> Tensor:
        losses = self._losses
        outputs = self._live_outputs(chunk) if kept is None else kept
        pushed = losses.tangent(lambda p: losses.outputs(p, chunk), direction)
        curved = self._loss_hessian(outputs.detach(), losses.targets[chunk], pushed)
        grads = torch.autograd.grad(
            outputs, list(losses.leaves.values()), curved, retain_graph=kept is not None, allow_unused=True
        )
        return losses.joined(grads)

    # Spectra ------------------------------------------------------------------------------------------------

    @functools.cached_property
    def _eigenvalues(self) -> NDArray[np.float64]:
        return torch.linalg.eigvalsh(self._dense()).flip(0).cpu().numpy()

    def _road(self, k: int, method: str) -> str:
        _checks.choice("method", method, ("auto", "matrix", "lanczos"))
        if method != "auto":
            return method
        return "matrix" if self.parameters <= max(50, min(_DENSE, 3 * k)) else "lanczos"

    def spectrum(
        self, k: int | None = None, *, method: str = "auto", tolerance: float | None = None, seed: int = 0
    ) -> NDArray[np.float64]:
        """The k algebraically largest eigenvalues, descending; by default all d, from the dense matrix.

        ``method="matrix"``: exact to rounding, d products and time d³. ``"lanczos"``: from products, to a residual
        of ``tolerance`` times the largest modulus (default 1e-6, in float32 1e-4), its start drawn from ``seed``.
        "auto" takes Lanczos unless k is a large share of a small d. :meth:`eigenpairs` gives the residuals.
        """
        if k is None:
            if method == "lanczos":
                raise ValueError("method='lanczos' finds the largest eigenvalues: say how many, k")
            _checks.choice("method", method, ("auto", "matrix", "lanczos"))
            return self._eigenvalues.copy()
        k = self._top(k)
        if self._road(k, method) == "lanczos":
            return self._pairs_lanczos(k, tolerance, seed).values.cpu().numpy()
        self._exact(tolerance)
        return self._eigenvalues[:k].copy()

    def eigenpairs(self, k: int, *, method: str = "auto", tolerance: float | None = None, seed: int = 0) -> xr.Dataset:
        """The k algebraically largest eigenvalues with vectors and residuals, by the roads of :meth:`spectrum`.

        Returns
        -------
        xarray.Dataset
            ``eigenvalues`` (index), ``vectors`` (index, weight) of unit length, largest entry positive, and
            ``residuals`` (index) |A q − λ q|; index from 1. attrs: kind, statistics, d, N, float type, method.

        Raises
        ------
        ValueError
            k beyond d, or a ``tolerance`` below 100 times the rounding.
        """
        k = self._top(k)
        self._require_vectors(k)
        road = self._road(k, method)
        if road == "lanczos":
            found = self._pairs_lanczos(k, tolerance, seed)
            return self._pairs(found.values, found.vectors, found.residuals, road, products=found.products, seed=seed)
        self._exact(tolerance)
        return self._pairs(*self._pairs_dense(k), None, road)

    @staticmethod
    def _exact(tolerance: float | None) -> None:
        if tolerance is not None:
            raise ValueError(f"tolerance={tolerance} belongs to method='lanczos'; 'matrix' is exact to rounding")

    def trace(self, *, probes: int | None = None, seed: int = 0) -> Estimate:
        """tr A, exact from d products for d ≤ 1,000; beyond, or where ``probes`` is given, Hutch++ with that many.

        ``.error`` is one standard error (0: exact), ``.probes`` the products made (default 99, at least 6), random
        signs from ``seed``. Meyer, Musco, Musco, Woodruff 2021.
        """
        if probes is None and self.parameters <= _DENSE:
            return Estimate(float(self._dense().trace()))
        number = _checks.whole("probes", _PROBES if probes is None else probes, 6)
        product = lambda z: self._product(z.to(self.dtype))  # noqa: E731
        return hutch_pp(product, self.parameters, min(number, 3 * self.parameters), seed, self.device)

    def spectral_density(self, *, probes: int = 8, steps: int | None = None, seed: int = 0) -> xr.Dataset:
        """The density of eigenvalues, (1/d) Σ_i δ(λ − λ_i), as nodes θ with weights w: stochastic Lanczos quadrature.

        Each probe z, of independent normals, gives Σ_j w_j p(θ_j) = zᵀp(A)z/|z|² for polynomials p of degree less than
        2·``steps`` (default 60, at most d), whose mean over z is tr p(A)/d. Nothing is smoothed: a curve is the
        reader's choice of width.

        Returns
        -------
        xarray.Dataset
            ``nodes`` and ``weights`` (probe, step), the weights of a probe adding to 1; where a probe ends early
            its last nodes have weight 0. ``mean`` (probe) Σ w θ, whose spread over probes is the error of tr A/d.

        Raises
        ------
        ValueError
            Less than 1 probe, steps outside [1, d], or a basis of ``steps`` vectors that does not fit.

        References
        ----------
        Lin, Saad, Yang 2016; Ghorbani, Krishnan, Xiao 2019; Golub & Welsch 1969.
        """
        probes = _checks.whole("probes", probes, 1)
        steps = _checks.whole("steps", min(60, self.parameters) if steps is None else steps, 1, self.parameters)
        generator = seeded(seed)
        found = [
            quadrature(self._product, normal(self.parameters, generator, self.dtype, self.device), steps, self._require)
            for _ in range(probes)
        ]
        nodes, weights = (np.stack(column) for column in zip(*found))
        return xr.Dataset(
            {
                "nodes": (("probe", "step"), nodes),
                "weights": (("probe", "step"), weights),
                "mean": ("probe", (nodes * weights).sum(axis=1)),
            },
            coords={"probe": np.arange(probes), "step": np.arange(steps)},
            attrs=self._settings() | {"seed": seed},
        )
