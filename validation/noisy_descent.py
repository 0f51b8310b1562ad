"""Gradient descent with noise made to order: of mini-batches, of subsets, of curvature, isotropic."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap

from sde_sgd import _checks
from sde_sgd.errors import Diverged

from ._memory import require_memory
from ._numbers import LARGEST_SEED, from_zero
from ._recursion import are_labels, as_data
from ._samples import in_words
from ._training_mode import check_draws_nothing
from .measures import flat, trainable

KINDS = ("none", "exact", "subset", "fisher", "hessian", "isotropic")
_TINY = 1e-12  # of the largest: a Krylov direction that is rounding


class NoisyDescent:
    r"""w ← w − η(∇f(w) + λw + ξ) with ξ of mean 0 and a covariance C(w)/b that is chosen, b any number > 0.

    ============  ==================================================================================================
    "none"        gradient descent
    "exact"       C = D: ξ = Σ_k u_k g_k, u_k = (ε_k − mean ε)/√(bN), ε_k normal; drift and noise are one backward pass
    "subset"      C = D on average: a fresh subset of `subset` = m samples, ξ = √((N−1)/N) Σ_{k∈S} (ε_k − ε̄) g_k
                  /√(b(m−1)); given S normal, over all S not: its covariance is that of a subset
    "fisher"      C = F, the Fisher information: gradients at labels drawn from the model, Σ_k g_k(ŷ_k)/√(bN)
    "hessian"     C = |H|: |H|^{1/2} ε/√b by `products` Hessian-vector products (Lanczos)
    "isotropic"   C = (tr D/d) I: an "exact" draw turned to a random direction, which keeps E|ξ|² at every step
    ============  ==================================================================================================

    None of them depends on η or on the batches that the drift is taken from: T = η/2b is set by b alone. "hessian" is
    exact in the trace for H ≥ 0 at any number of products, and in the whole covariance once they reach the number of
    distinct eigenvalues.

    Parameters
    ----------
    model : a network without batch norm or dropout, whose weights are the start of all replicas; copied.
    inputs, targets : (N, …) for all replicas, or one such set for each, (replicas, N, …); targets are labels, the loss
        is cross-entropy.
    start : (d,) or (replicas, d), in the order of `parameters_to_vector`; default the model's weights.
    subset, products : of the kinds "subset" and "hessian"; other kinds refuse them.

    Raises ValueError for arguments out of range; `Diverged` naming replica and step. Not for large networks: each step
    is over all samples.

    References: Golmant (2018); Wu et al. (2020) for the weighted pass; Martens & Grosse (2015) for drawn labels.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Tensor,
        targets: Tensor,
        *,
        noise: str,
        learning_rate: float,
        batch_size: float,
        replicas: int = 1,
        start=None,
        weight_decay: float = 0.0,
        subset: int | None = None,
        products: int | None = None,
        seed: int = 0,
    ):
        self.noise = _checks.choice("noise", noise, KINDS)
        _checks.instance("model", model, nn.Module)
        if not trainable(model):
            raise ValueError("the model has no trainable weight: nothing to train")
        if any(isinstance(module, nn.modules.batchnorm._NormBase) for module in model.modules()):
            raise ValueError("with batch norm there is no gradient of a sample: take a network without it")
        self.replicas = _checks.whole("replicas", replicas, 1)
        self.rate = _checks.positive("learning_rate", learning_rate)
        self.batch_size = _checks.positive("batch_size", batch_size)
        self.decay = from_zero("weight_decay", weight_decay)
        data = as_data(inputs, targets, trainable(model)[0].device)
        if data[1].ndim == 1:
            data = (data[0].expand(self.replicas, *data[0].shape), data[1].expand(self.replicas, -1))
        if data[0].shape[0] != self.replicas or data[1].ndim != 2 or not are_labels(data[1][0]):
            raise ValueError(
                f"targets of shape {tuple(data[1].shape)}: labels (N,), or (replicas, N) with replicas={self.replicas}"
            )
        self.inputs, self.targets = data
        self.samples = data[1].shape[1]
        for name, value, kind in (("subset", subset, "subset"), ("products", products, "hessian")):
            if (value is None) == (self.noise == kind):
                raise ValueError(f"{name} is for noise={kind!r}, and needed there; this is {self.noise!r}")
        self._subset = None if subset is None else _checks.whole("subset", subset, 2, self.samples)
        self.network = copy.deepcopy(model).eval()
        check_draws_nothing(self.network, self.inputs[0][:8])
        self._shapes = {n: p.shape for n, p in self.network.named_parameters() if p.requires_grad}
        own = flat(self.network)
        self.dim, self._type = own.numel(), own.dtype
        self._products = None if products is None else _checks.whole("products", products, 1, self.dim)
        require_memory(
            8 * self.replicas * self.dim * (8 + 2 * (self._products or 0)), f"{self.replicas} replicas of {self.dim} "
            "weights", "take fewer", own.device,
        )  # fmt: skip
        given = own if start is None else torch.as_tensor(_checks.finite_array("start", start)).to(own)
        if given.shape not in (own.shape, (self.replicas, self.dim)):
            raise ValueError(f"start must have shape {(self.dim,)} or {(self.replicas, self.dim)}, got {given.shape}")
        self.weights = given.expand(self.replicas, self.dim).clone()
        self.step = 0
        seed = _checks.whole("seed", seed, 0, LARGEST_SEED)
        words = np.random.SeedSequence(seed).spawn(self.replicas)
        self._streams = [torch.Generator().manual_seed(int(w.generate_state(1, np.uint64)[0])) for w in words]
        self._pull = vmap(grad(self._weighted))
        self._slope = vmap(grad(self._mean))

    # Losses of one replica ----------------------------------------------------------------------------------

    def outputs(self, weights: Tensor, inputs: Tensor) -> Tensor:
        """What the network gives at flat weights (d,)."""
        parts = weights.split([shape.numel() for shape in self._shapes.values()])
        named = {name: part.view(shape) for (name, shape), part in zip(self._shapes.items(), parts)}
        return functional_call(self.network, named, (inputs,))

    def _weighted(self, weights: Tensor, inputs: Tensor, targets: Tensor, shares: Tensor) -> Tensor:
        losses = nn.functional.cross_entropy(self.outputs(weights, inputs), targets, reduction="none")
        return (shares * losses).sum()

    def _mean(self, weights: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self.outputs(weights, inputs), targets)

    def _hessian(self, weights: Tensor, vector: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        return jvp(lambda w: grad(self._mean)(w, inputs, targets), (weights,), (vector,))[1]

    # Noise --------------------------------------------------------------------------------------------------

    def _normals(self, size: int) -> Tensor:
        drawn = [torch.randn(size, generator=stream, dtype=torch.float64) for stream in self._streams]
        return torch.stack(drawn).to(self.weights)

    def slope(self) -> Tensor:
        """∇f, (replicas, d)."""
        return self._slope(self.weights, self.inputs, self.targets)

    def draw(self) -> Tensor:
        """ξ at the present weights, (replicas, d), without a step."""
        return getattr(self, f"_noise_{self.noise}")()

    def _shares(self) -> Tensor:
        normals = self._normals(self.samples)
        return (normals - normals.mean(1, keepdim=True)) / math.sqrt(self.batch_size * self.samples)

    def _noise_none(self) -> Tensor:
        return torch.zeros_like(self.weights)

    def _noise_exact(self) -> Tensor:
        return self._pull(self.weights, self.inputs, self.targets, self._shares())

    def _noise_subset(self) -> Tensor:
        size = self._subset
        assert size is not None
        rows = torch.stack([torch.randperm(self.samples, generator=stream)[:size] for stream in self._streams])
        picked = torch.arange(self.replicas)[:, None], rows.to(self.inputs.device)
        normals = self._normals(size)
        scale = math.sqrt((self.samples - 1) / (self.samples * self.batch_size * (size - 1)))
        shares = scale * (normals - normals.mean(1, keepdim=True))
        return self._pull(self.weights, self.inputs[picked], self.targets[picked], shares)

    def _noise_fisher(self) -> Tensor:
        with torch.no_grad():
            odds = torch.softmax(vmap(self.outputs)(self.weights, self.inputs).double(), dim=-1)
        uniform = torch.stack([torch.rand(self.samples, 1, generator=s, dtype=torch.float64) for s in self._streams])
        labels = (odds.cumsum(-1) < uniform.to(odds.device)).sum(-1).clamp(max=odds.shape[-1] - 1)
        shares = torch.full_like(labels, 1.0 / math.sqrt(self.batch_size * self.samples), dtype=self._type)
        return self._pull(self.weights, self.inputs, labels, shares)

    def _noise_isotropic(self) -> Tensor:
        turn = self._normals(self.dim)
        return turn * (self._noise_exact().norm(dim=1) / turn.norm(dim=1))[:, None]

    def _noise_hessian(self) -> Tensor:
        product = vmap(self._hessian)
        start = self._normals(self.dim) / math.sqrt(self.batch_size)
        assert self._products is not None
        return lanczos_root(lambda v: product(self.weights, v, self.inputs, self.targets), start, self._products)

    def top_curvature(self, products: int) -> Tensor:
        """(replicas,) the largest eigenvalue of H at the present weights, from below: the largest of `products` Ritz
        values (Lanczos). Always from one direction, so that looking changes no draw of the run.
        """
        products = _checks.whole("products", products, 1, self.dim)
        start = torch.randn(self.dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        product = vmap(self._hessian)
        with torch.no_grad():
            bands = krylov(lambda v: product(self.weights, v, self.inputs, self.targets),
                           start.to(self.weights).expand_as(self.weights), products)[1]  # fmt: skip
        return torch.linalg.eigvalsh(bands)[:, -1]

    # Steps --------------------------------------------------------------------------------------------------

    def run(self, steps: int) -> None:
        """Take steps."""
        with torch.no_grad(), in_words(f"a step after step {self.step} fails"):
            for _ in range(_checks.whole("steps", steps, 1)):
                if self.noise == "exact":
                    move = self._pull(self.weights, self.inputs, self.targets, self._shares() + 1.0 / self.samples)
                else:
                    move = self.slope() + self.draw()
                self.weights = self.weights - self.rate * (move + self.decay * self.weights)
                self.step += 1
        bad = ~self.weights.isfinite().all(1)
        if bad.any():
            which = int(bad.int().argmax())
            raise Diverged(
                f"the weights of replica {which} are no longer finite by step {self.step}: lower learning_rate="
                f"{self.rate:g}, or take batch_size above {self.batch_size:g}", path=which, step=self.step,
            )  # fmt: skip

    def scores(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss and error of each replica, (replicas,) each, on data (replicas, n, …)."""
        with torch.no_grad():
            outputs = vmap(self.outputs)(self.weights, inputs)
            losses = vmap(nn.functional.cross_entropy)(outputs, targets)
            return losses, 1.0 - (outputs.argmax(-1) == targets).double().mean(1)


def lanczos_root(product: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> Tensor:
    """|A|^{1/2} z for each row z of `start` (n, d), `product` being A·v for all rows, by `steps` products.

    f(A) z ≈ |z| Q f(T) e₁ on the Krylov space of each row. |result|² = zᵀAz to rounding for A ≥ 0; the whole is exact
    once `steps` reaches the number of distinct eigenvalues.
    """
    basis, bands = krylov(product, start, steps)
    values, turn = torch.linalg.eigh(bands)
    along = turn @ (values.abs().sqrt() * turn[:, 0])[:, :, None]
    return start.norm(dim=1, keepdim=True) * (basis @ along)[:, :, 0]


def krylov(product: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """(Q, T), (n, d, steps) and (n, steps, steps): QᵀAQ = T on the Krylov space of each row of `start` (n, d), T
    tridiagonal, Q fully reorthogonalised. Where the space ends sooner the rest of both is 0.
    """
    basis = [start / start.norm(dim=1, keepdim=True)]
    bands = torch.zeros(len(start), steps, steps, dtype=start.dtype, device=start.device)
    scale = torch.zeros_like(start[:, :1])
    for k in range(steps):
        found = product(basis[k])
        bands[:, k, k] = (basis[k] * found).sum(1)
        known = torch.stack(basis, dim=1)
        for _ in range(2):
            found = found - (known.transpose(1, 2) @ (known @ found[:, :, None]))[:, :, 0]
        size = found.norm(dim=1, keepdim=True)
        scale = torch.maximum(scale, torch.maximum(size, bands[:, k, k, None].abs()))
        live = size > _TINY * scale
        if k + 1 < steps:
            bands[:, k, k + 1] = bands[:, k + 1, k] = torch.where(live, size, 0.0)[:, 0]
            basis.append(torch.where(live, found / torch.where(live, size, 1.0), 0.0))
    return torch.stack(basis, dim=2), bands


def trained(
    descent: NoisyDescent,
    records: np.ndarray,
    test: tuple[Tensor, Tensor],
    progress: Callable[[int, int], object] | None = None,
) -> xr.Dataset:
    """Steps up to the last of `records` (increasing); over (replica, step) at each of them loss, error, test_loss and
    test_error, and the weights at the end.
    """
    rows = []
    for stop in [int(step) for step in records]:
        if stop > descent.step:
            descent.run(stop - descent.step)
        rows.append([*descent.scores(descent.inputs, descent.targets), *descent.scores(*test)])
        if progress is not None:
            progress(descent.step, int(records[-1]))
    names = ("loss", "error", "test_loss", "test_error")
    found = {n: (("replica", "step"), torch.stack(v, 1).cpu().numpy()) for n, v in zip(names, zip(*rows))}
    attrs = {"noise": descent.noise, "learning_rate": descent.rate, "batch_size": descent.batch_size}
    return xr.Dataset(
        {**found, "weights": (("replica", "weight"), descent.weights.cpu().numpy())}, {"step": records}, attrs
    )
