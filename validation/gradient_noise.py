"""The diffusion matrix of SGD for a real network: covariance of its per-sample gradients."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor, nn

from sde_sgd import _checks

from . import _chain, _gram, _noise_parts
from ._divergence import noise_divergence
from ._operator import Estimate, NetworkOperator
from ._sample_losses import SampleLosses
from .ranks import rank_measures

_EXACT = 20_000  # the largest min(d, n) for which the whole spectrum is the default road
_ROADS = ("auto", "gram", "matrix", "lanczos")


class GradientNoise(NetworkOperator):
    """Centred covariance D = (1/N) Σ_k g_k g_kᵀ − g gᵀ of the gradients g_k = ∇f_k of N sample losses.

    The Itô model of mini-batch SGD at learning rate η and batch size b has the diffusion (η/b) D = 2T D,
    T = η/2b. D is d × d and never formed unless asked for: with J the N × d matrix of gradients and
    C = I − 11ᵀ/N, its nonzero eigenvalues are those of the N × N matrix C J Jᵀ C / N, D v = Jᵀ C J v / N takes
    one forward and one backward derivative, and Jᵀ C ξ / √(bN) is a draw of the noise.

    Parameters
    ----------
    model : torch.nn.Module
        Copied as it is now; later training of the original does not reach this object.
        Parameters with ``requires_grad=False`` are constants. Order of the d weights:
        ``torch.nn.utils.parameters_to_vector`` over those that remain.
    loss : callable
        ``loss(output, target)``, called on batches of one, where it must give one number. On a larger batch it
        must be the mean or the sum of these (or list them): what it does across a batch has no part in D.
    dataset : (inputs, targets) or TensorDataset
        The N samples, first dimension N. Floating inputs must have the parameters' float type.
    statistics : "eval", "full" or "minibatch"
        How batch norm is treated, which makes three different matrices; without it the first two are one.

        - "eval": running statistics frozen, so that every sample has its own gradient. The D of Chaudhari &
          Soatto 2018, but *not* the noise SGD feels in training mode, whose samples interact.
        - "full": g_k = ∇f_k where f_k is the loss of sample k in one forward pass over all N in training mode, so
          that the g_k average to the gradient of that loss. Each row costs a backward pass over all samples.
        - "minibatch": b·Cov of the gradients of ``batches`` real mini-batches of ``batch_size``, drawn with
          replacement from ``seed``, in training mode: what SGD feels, up to Monte-Carlo error. It depends on
          b; its rank is at most ``batches`` − 1. Unbiased: b/(M − 1) Σ_m (g_m − ḡ)(g_m − ḡ)ᵀ.
    device : default the model's own.

    Gradients have the parameters' float type; sums, centring and eigenvalues are float64.

    Raises
    ------
    ValueError
        No trainable parameter, shapes or types that do not match, NaN (naming the parameter or sample), a model
        that draws random numbers, remembers earlier calls, mixes samples ("eval") or cannot run under
        ``torch.func.vmap``, a criterion without one number per sample or with class weights and
        reduction="mean"; on use: what does not fit in memory.

    References
    ----------
    Chaudhari & Soatto 2018 (arXiv 1710.11029), eq. (3); the Gram form: Papyan 2019, Dangel et al. 2022.

    Not for several losses that share a batch (contrastive).

    Examples
    --------
    >>> import torch
    >>> from sde_sgd.validation import GradientNoise
    >>> line = torch.nn.Linear(1, 1, bias=False, dtype=torch.float64)
    >>> x = torch.tensor([[1.0], [1.0]], dtype=torch.float64)
    >>> y = line(x).detach() + torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    >>> float(GradientNoise(line, torch.nn.MSELoss(), (x, y)).trace())     # gradients −2 and +2
    4.0
    """

    _name = "D"

    def __init__(
        self,
        model: nn.Module,
        loss: Callable,
        dataset,
        *,
        statistics: str = "eval",
        device=None,
        batch_size: int | None = None,
        batches: int | None = None,
        seed: int | None = None,
    ):
        self._seed = 0 if seed is None else seed
        drawn = {"batch_size": batch_size, "batches": batches, "seed": seed}
        self._take(SampleLosses(model, loss, dataset, statistics=statistics, device=device, **drawn))

    def _take(self, losses: SampleLosses) -> None:
        self._losses = losses
        self.device, self.dtype, self.statistics = losses.device, losses.dtype, losses.statistics
        self.parameters = losses.size

    @property
    def samples(self) -> int:
        """N, the number of samples; for "minibatch" still of samples, not of batches."""
        return len(self._losses.inputs)

    @property
    def batch_size(self) -> int | None:
        """b of ``statistics="minibatch"``; None for the others, which do not depend on it."""
        return None if self._losses.batches is None else self._losses.batches.shape[1]

    @property
    def _scale(self) -> float:
        """D = scale · Jᵀ C J."""
        count = self._losses.count
        return 1.0 / count if self.batch_size is None else self.batch_size / (count - 1)

    def _settings(self) -> dict:
        more = {} if self.batch_size is None else {"batch_size": self.batch_size, "batches": self._losses.count}
        more |= {} if self.batch_size is None else {"seed": self._seed}
        return {
            "matrix": "D",
            "statistics": self.statistics,
            "parameters": self.parameters,
            "samples": self.samples,
            "gradient_dtype": str(self.dtype).removeprefix("torch."),
            "torch_version": str(torch.__version__),
        } | more

    # Gradients ----------------------------------------------------------------------------------------------

    def sample_gradients(self, rows: int | None = None) -> Iterator[Tensor]:
        """g_k in the order of the dataset (or the mini-batches'), as chunks (at most ``rows``, d); default 128 MiB."""
        rows = self._losses.rows(self.parameters) if rows is None else _checks.whole("rows", rows, 1)
        return self._losses.gradients(list(self._losses.parameters), rows)

    def mean_gradient(self) -> Tensor:
        """g = (1/N) Σ g_k, (d,) in float64: ∇f, of the loss that ``statistics`` names."""
        count = self._losses.count
        return self._losses.pull(torch.full((count,), 1.0 / count, dtype=torch.float64, device=self.device))

    # Matrices -----------------------------------------------------------------------------------------------

    def gram(self, *, centred: bool = False, road: str = "auto") -> NDArray[np.float64]:
        """(n, n) inner products K_kl = g_k·g_l; with ``centred``, C K C: those of g_k − g. n = N, or M batches.

        Layers that are a Linear or a convolution, called once, need no gradients of samples: with inputs a_k and
        backward signals δ_k of the layer, K_kl gains (a_k·a_l + 1)(δ_k·δ_l). For other tensors K gains
        G_l G_lᵀ, so that the gradients held at once are those of one tensor, N × d_l (small tensors are joined
        up to 512 MiB). ``road="gradients"`` takes the second way for all; "auto" chooses. Sums and centring are
        float64: centring G_l before the product loses nothing, centring K loses the digits by which |g|² exceeds what
        is left.
        """
        _checks.choice("road", road, ["auto", "gradients"])
        return self._gram(centred, road).cpu().numpy()

    def _gram(self, centred: bool, road: str = "auto") -> Tensor:
        return _gram.gram(self._losses, self._plain_layers if road == "auto" else [], centred, self._require)

    @functools.cached_property
    def _plain_layers(self) -> list[_chain.Layer]:
        return _chain.plain_layers(self._losses)

    def matrix(self) -> NDArray[np.float64]:
        """(d, d) the matrix D itself, summed over chunks of samples around their running mean.

        For networks small enough: ValueError where d² numbers do not fit.
        """
        return self._dense().cpu().numpy()

    def _dense(self) -> Tensor:
        size = self.parameters
        self._require(3 * 8 * size**2, f"the {size} × {size} matrix D", "use gram() or spectrum()")
        scatter = torch.zeros(size, size, dtype=torch.float64, device=self.device)
        for residuals, shift, weight in self._residuals():
            scatter.addmm_(residuals.T, residuals).addr_(shift, shift, alpha=weight)
        return scatter * self._scale

    def _residuals(self) -> Iterator[tuple[Tensor, Tensor, float]]:
        return _gram.residuals(self.sample_gradients(), self.parameters, self.device)

    def trace(self) -> Estimate:
        """tr D = (1/N) Σ_k |g_k − g|², exact, in one pass over the samples and without eigenvalues."""
        total = 0.0
        for residuals, shift, weight in self._residuals():
            total += float(residuals.square().sum() + weight * shift.square().sum())
        return Estimate(total * self._scale)

    # Products and draws -------------------------------------------------------------------------------------

    def _product(self, vector: Tensor) -> Tensor:
        """D v = scale · Jᵀ C (J v): the centring is that of n numbers, in float64."""
        along = self._losses.push(vector)
        return self._losses.pull((along - along.mean()) * self._scale)

    def sample(self, batch_size: int, generator: torch.Generator | None = None) -> Tensor:
        """A draw (d,) of N(0, D/b), the noise of a mini-batch gradient, by one weighted backward pass.

        Σ_k u_k g_k with u_k = (ξ_k − ξ̄)/√(bN), ξ_k independent standard normals from ``generator`` (on the
        processor or on the device; None starts one at seed 0). One step of the Itô model over dt = η is
        w − η(g − this draw). ValueError for ``statistics="minibatch"`` at another batch size than its own, whose
        D is another matrix.
        """
        size = _checks.whole("batch_size", batch_size, 1)
        if self.batch_size not in (None, size):
            raise ValueError(f"batch_size={size}: these statistics were measured at batch size {self.batch_size} only")
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        _checks.instance("generator", generator, torch.Generator)
        drawn = torch.randn(self._losses.count, generator=generator, dtype=torch.float64, device=generator.device)
        drawn = drawn.to(self.device)
        return self._losses.pull((drawn - drawn.mean()) * math.sqrt(self._scale / size)).to(self.dtype)

    # Spectra ------------------------------------------------------------------------------------------------

    @functools.cached_property
    def _eigenvalues(self) -> NDArray[np.float64]:
        # The same nonzero eigenvalues from either side: take the smaller matrix.
        return self._all_by("matrix" if self.parameters < self._losses.count else "gram")

    def _all_by(self, method: str) -> NDArray[np.float64]:
        small = self._dense() if method == "matrix" else self._gram(True) * self._scale
        return torch.linalg.eigvalsh(small).flip(0).cpu().numpy()[: min(self.parameters, self._losses.count - 1)]

    def _road(self, k: int | None, method: str) -> str:
        _checks.choice("method", method, _ROADS)
        if method != "auto":
            return method
        small = min(self.parameters, self._losses.count)
        if k is not None and small > _EXACT:
            return "lanczos"
        return "matrix" if self.parameters < self._losses.count else "gram"

    def spectrum(
        self, k: int | None = None, *, method: str = "auto", tolerance: float | None = None, seed: int = 0
    ) -> NDArray[np.float64]:
        """The k largest eigenvalues of D, descending; by default all that can be nonzero: min(d, n − 1).

        ``method="gram"``: from the n × n matrix C K C / N; ``"matrix"``: from D itself; both exact to float64
        rounding, memory 16 min(d, n)² bytes and time min(d, n)³. ``"lanczos"``: from products, for k only, to a
        residual of ``tolerance`` times the largest (default 1e-6, in float32 1e-4), its start drawn from
        ``seed``; ``"auto"``: the smaller exact one up to min(d, n) = 20,000, then Lanczos for k. The exact spectrum
        of "auto" is kept, so a second call is free. :meth:`eigenpairs` gives the residuals.
        """
        most = min(self.parameters, self._losses.count - 1)
        if k is None:
            if method == "lanczos":
                raise ValueError("method='lanczos' finds the largest eigenvalues: say how many, k")
            _checks.choice("method", method, _ROADS)
            return self._eigenvalues.copy() if method == "auto" else self._all_by(method)
        k = _checks.whole("k", k, 1, most, f"D has at most {most} nonzero eigenvalues")
        road = self._road(k, method)
        if road == "lanczos":
            return self._pairs_lanczos(k, tolerance, seed).values.cpu().numpy()
        if tolerance is not None:
            raise ValueError(f"tolerance={tolerance} belongs to method='lanczos'; {road!r} is exact to rounding")
        return (self._eigenvalues if method == "auto" else self._all_by(road))[:k].copy()

    def eigenpairs(self, k: int, *, method: str = "auto", tolerance: float | None = None, seed: int = 0) -> xr.Dataset:
        """The k largest eigenvalues with their vectors and residuals, by the roads of :meth:`spectrum`.

        From the Gram side q_i = Jᵀ C u_i / √(N λ_i): one weighted backward pass each.

        Returns
        -------
        xarray.Dataset
            ``eigenvalues`` (index), ``vectors`` (index, weight) of unit length, largest entry positive, and
            ``residuals`` (index) |D q − λ q|; index from 1. attrs: statistics, d, N, float type, method.

        Raises
        ------
        ValueError
            k beyond min(d, n − 1), or from the Gram side an eigenvalue that is 0 to rounding, which has no
            vector there.
        """
        k = _checks.whole("k", k, 1, min(self.parameters, self._losses.count - 1), "of eigenvalues that can be nonzero")
        self._require_vectors(k)
        road = self._road(k, method)
        if road == "lanczos":
            found = self._pairs_lanczos(k, tolerance, seed)
            more = {"products": found.products, "seed": seed}
            return self._pairs(found.values, found.vectors, found.residuals, road, **more)
        if tolerance is not None:
            raise ValueError(f"tolerance={tolerance} belongs to method='lanczos'; {road!r} is exact to rounding")
        if road == "matrix":
            return self._pairs(*self._pairs_dense(k), None, road)
        values, left = torch.linalg.eigh(self._gram(True) * self._scale)
        values, left = values.flip(0)[:k], left.flip(1)[:, :k].T
        if float(values[-1]) <= 1e-14 * float(values[0]):
            rank = int((values > 1e-14 * values[0]).sum())
            raise ValueError(f"k={k}, but only {rank} eigenvalues of D are above rounding: ask for at most {rank}")
        right = torch.stack([self._losses.pull(u - u.mean()) for u in left])
        return self._pairs(values, right / right.norm(dim=1, keepdim=True), None, road)

    def ranks(self) -> dict[str, float | int | str]:
        """Every measure of :func:`rank_measures` with d (``parameters``), N and the gradients' float type."""
        return {
            **rank_measures(self._eigenvalues, self.parameters),
            "parameters": self.parameters,
            "samples": self.samples,
            "gradient_dtype": str(self.dtype).removeprefix("torch."),
        }

    # What it is made of -------------------------------------------------------------------------------------

    def restricted(self, *names: str) -> GradientNoise:
        """D of some parameters only: the diagonal block of their rows and columns, with this same contract.

        ``names`` are parameters ("2.weight") or modules ("2" for all of its own); ValueError for others.
        """
        chosen = _noise_parts.chosen_parameters(self._losses, names)
        part = object.__new__(GradientNoise)
        part._seed = self._seed
        part._take(self._losses.restricted(chosen))
        return part

    def layers(self) -> xr.Dataset:
        """How the noise is shared among the parameter tensors, from one pass over each.

        Returns
        -------
        xarray.Dataset
            Over ``parameter`` (name): ``weights`` its d_l, ``trace`` of its block D_ll (they sum to tr D),
            ``largest`` eigenvalue, ``participation_ratio`` (tr D_ll)²/tr D_ll², from its Gram matrix.
        """
        return _noise_parts.layers(self)

    def classes(self) -> xr.Dataset:
        """D = Σ_c p_c D_c + Σ_c p_c (g_c − g)(g_c − g)ᵀ: noise within the classes and between them.

        For targets that are class numbers and ``statistics`` "eval" or "full". p_c is the share of class c, g_c its
        mean gradient, D_c the covariance within it.

        Returns
        -------
        xarray.Dataset
            Over ``class``: ``share`` p_c, ``mean_gradient`` (class, weight) g_c, ``trace_within`` tr D_c;
            ``between_eigenvalues`` (index) of the second sum, at most classes − 1 nonzero; ``trace_between``.
        """
        return _noise_parts.classes(self)

    def cosine(self, other: NetworkOperator, *, probes: int | None = None, seed: int = 0) -> Estimate:
        """Frobenius cosine tr(D H)/(‖D‖‖H‖) with another matrix over the same weights, such as the Hessian.

        Exact from both dense matrices for d ≤ 2,000; beyond, or where ``probes`` is given, from that many
        random sign vectors (default 100), with the standard error of the jackknife as ``.error``.
        1 for proportional matrices; D and H far apart in scale may still have cosine 1.
        """
        return _noise_parts.frobenius_cosine(self, other, probes, seed)

    def divergence(self, *, probes: int | None = None, seed: int = 0) -> xr.Dataset:
        """Row divergence (div D)_i = Σ_j ∂D_ij/∂w_j, which shifts the modes of the Itô model at order T.

        div D = (1/N) Σ_k (H_k g_k + g_k tr H_k) − (H g + g tr H) = ½∇ tr D + (1/N) Σ_k (tr H_k − tr H)(g_k − g),
        H_k = ∇²f_k. The first term is exact by products H_k g_k; the traces are exact, from d second
        derivatives, for d ≤ 2,000 or where ``probes`` is None there, and otherwise from ``probes`` (default 100)
        random sign vectors z, E zᵀH_k z = tr H_k, with standard errors.

        Returns
        -------
        xarray.Dataset
            ``divergence`` (weight) and ``error`` (weight), one standard error, 0 where exact; attrs as of
            :meth:`eigenpairs` with ``probes`` (0: exact).

        Raises
        ------
        ValueError
            ``statistics`` other than "eval", or less than two probes.

        Kinks (ReLU) have no second derivative and contribute nothing here, though they do to the Itô model.
        """
        return noise_divergence(self, self._losses, probes, seed)
