"""The diffusion matrix of SGD for a real network: covariance of its per-sample gradients."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import grad, vmap

from sde_sgd import _checks

from . import _samples
from ._memory import require_memory
from .ranks import rank_measures

_CHUNK_BYTES = 128 * 2**20  # per-sample gradients held at once; vmap's intermediates cost about as much again
# Fixed rather than a share of what is free today: the order of summation, and so every bit, depends on it.
_GROUP_BYTES = 512 * 2**20


class GradientNoise:
    """Centred covariance D = (1/N) Σ_k g_k g_kᵀ − g gᵀ of the gradients g_k = ∇f_k of N sample losses.

    The Itô model of mini-batch SGD at learning rate η and batch size b has the diffusion (η/b) D = 2T D,
    T = η/2b. D is d × d and never formed unless asked for: with J the N × d matrix of gradients and
    C = I − 11ᵀ/N, its nonzero eigenvalues are those of the N × N matrix C J Jᵀ C / N.

    Parameters
    ----------
    model : torch.nn.Module
        Copied as it is now, in eval mode; later training of the original does not reach this object.
        Parameters with ``requires_grad=False`` are constants. Order of the d weights:
        ``torch.nn.utils.parameters_to_vector`` over those that remain.
    loss : callable
        ``loss(output, target)``, called on batches of one, where it must give one number. On a larger batch it
        must be the mean or the sum of these (or list them): what it does across a batch has no part in D.
    dataset : (inputs, targets) or TensorDataset
        The N samples, first dimension N. Floating inputs must have the parameters' float type.
    statistics : "eval"
        How batch norm is treated: running statistics frozen, so that every sample has its own gradient.
        That is the D of Chaudhari & Soatto 2018, but *not* the noise SGD feels in training mode, whose
        samples interact. Nothing else is available.
    device : default the model's own.

    Gradients have the parameters' float type; sums, centring and eigenvalues are float64.

    Raises
    ------
    ValueError
        No trainable parameter, shapes or types that do not match, NaN (naming the parameter or sample), a model
        that is random, mixes samples or cannot run under ``torch.func.vmap``, a criterion without one number per
        sample or with class weights and reduction="mean"; on use: what does not fit in memory.

    References
    ----------
    Chaudhari & Soatto 2018 (arXiv 1710.11029), eq. (3); the Gram form: Papyan 2019, Dangel et al. 2022.

    Not for models with batch norm in training mode, nor for several losses that share a batch (contrastive).

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

    def __init__(self, model: nn.Module, loss: Callable, dataset, *, statistics: str = "eval", device=None):
        _checks.choice("statistics", statistics, ["eval"])
        _checks.instance("model", model, nn.Module)
        if not callable(loss):
            raise ValueError(f"loss must be a function of (output, target), got {loss!r}")
        trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        if not trainable:
            raise ValueError("the model has no parameter with requires_grad=True: there is no gradient")
        model = copy.deepcopy(model).eval()
        with _samples.in_words(f"device={device!r} cannot be used"):
            self.device = torch.device(device) if device is not None else next(model.parameters()).device
            model.to(self.device)
        every = {name: parameter.detach() for name, parameter in model.named_parameters()}
        for name, value in every.items():
            if not torch.isfinite(value).all():
                raise ValueError(f"parameter {name!r} is not finite: the training diverged before this point")
        self._parameters = {name: every.pop(name) for name in trainable}
        self.dtype = functools.reduce(torch.promote_types, (p.dtype for p in self._parameters.values()))
        self._inputs, self._targets = _samples.as_tensors(dataset, self.device, self.dtype)
        self._loss = _samples.one_sample_loss(model, loss, every | dict(model.named_buffers()))
        # From the plain to the demanding, so that each fault is told as what it is.
        first, alone = _samples.check_model(model, self._inputs)
        _samples.check_loss(model, loss, self._inputs, self._targets)
        next(self._gradients(trainable, 2))
        _samples.check_apart(first, alone)

    @property
    def samples(self) -> int:
        """N, the number of samples."""
        return len(self._inputs)

    @property
    def parameters(self) -> int:
        """d, the number of trainable weights."""
        return sum(parameter.numel() for parameter in self._parameters.values())

    def _gradients(self, names: list[str], rows: int) -> Iterator[Tensor]:
        """(rows, d_names) gradients with respect to the named tensors only, chunk by chunk."""
        constant = {name: value for name, value in self._parameters.items() if name not in names}
        chosen = {name: self._parameters[name] for name in names}
        gradients = vmap(grad(lambda own, x, y: self._loss(own | constant, x, y)), (None, 0, 0))
        for start in range(0, self.samples, rows):
            chunk = slice(start, start + rows)
            with _samples.in_words(
                f"the gradients of samples {start} to {min(start + rows, self.samples) - 1} cannot be computed "
                "by torch.func.vmap(grad), which takes tensor operations only (no .item(), no branch on values, "
                "no change of a buffer in place)"
            ):
                parts = gradients(chosen, self._inputs[chunk], self._targets[chunk])
            flat = {
                name: parts[name].detach().flatten(1) if parts[name].ndim > 1 else parts[name][:, None]
                for name in names
            }
            for name, part in flat.items():
                _samples.require_finite(part, f"gradient with respect to {name!r}", start)
            yield torch.cat([flat[name] for name in names], dim=1)

    def _rows(self, columns: int) -> int:
        return max(1, min(self.samples, _CHUNK_BYTES // (8 * columns)))

    def sample_gradients(self, rows: int | None = None) -> Iterator[Tensor]:
        """g_k in the order of the dataset, as chunks (at most ``rows``, d); by default about 128 MiB each."""
        rows = self._rows(self.parameters) if rows is None else _checks.whole("rows", rows, 1)
        return self._gradients(list(self._parameters), rows)

    def _groups(self, room: int) -> list[list[str]]:
        """Parameter tensors in order, joined while N × d_group float64 numbers stay under ``room`` bytes."""
        groups: list[list[str]] = []
        filled = room
        for name, value in self._parameters.items():
            size = 8 * self.samples * value.numel()
            if groups and filled + size <= room:
                groups[-1].append(name)
                filled += size
            else:
                groups.append([name])
                filled = size
        return groups

    def gram(self, *, centred: bool = False) -> NDArray[np.float64]:
        """(N, N) inner products K_kl = g_k·g_l; with ``centred``, C K C: those of g_k − g.

        Summed over parameter tensors, K = Σ_l G_l G_lᵀ, so the gradients held at once are those of one
        tensor, N × d_l (small tensors are joined up to 512 MiB). Centring
        happens on G_l in float64, before the product, so that no digits cancel.
        """
        return self._gram(centred).cpu().numpy()

    def _gram(self, centred: bool) -> Tensor:
        count = self.samples
        largest = max(parameter.numel() for parameter in self._parameters.values())
        require_memory(
            8 * count * (2 * count + largest),
            f"the {count} × {count} Gram matrix",
            "use a random subset of the samples",
            self.device,
        )
        gram = torch.zeros(count, count, dtype=torch.float64, device=self.device)
        for names in self._groups(_GROUP_BYTES):
            columns = sum(self._parameters[name].numel() for name in names)
            block = torch.empty(count, columns, dtype=torch.float64, device=self.device)
            start = 0
            for chunk in self._gradients(names, self._rows(columns)):
                block[start : start + len(chunk)] = chunk
                start += len(chunk)
            if centred:
                block -= block.mean(dim=0)
            gram.addmm_(block, block.T)
        return gram

    def matrix(self) -> NDArray[np.float64]:
        """(d, d) the matrix D itself, summed over chunks of samples around their running mean.

        For networks small enough: ValueError where d² numbers do not fit.
        """
        return self._matrix().cpu().numpy()

    def _matrix(self) -> Tensor:
        size = self.parameters
        require_memory(3 * 8 * size**2, f"the {size} × {size} matrix D", "use gram() or spectrum()", self.device)
        scatter = torch.zeros(size, size, dtype=torch.float64, device=self.device)
        for residuals, shift, weight in self._residuals():
            scatter.addmm_(residuals.T, residuals).addr_(shift, shift, alpha=weight)
        return scatter / self.samples

    def _residuals(self) -> Iterator[tuple[Tensor, Tensor, float]]:
        """Per chunk: deviations from its mean, its mean minus the mean so far, and that shift's weight.

        Chan, Golub & LeVeque 1983: the scatter about the final mean is the sum of residualᵀ residual and
        weight · shift shiftᵀ, without the cancellation of Σ g gᵀ − N g gᵀ.
        """
        mean, seen = torch.zeros(self.parameters, dtype=torch.float64, device=self.device), 0
        for chunk in self.sample_gradients():
            chunk = chunk.double()
            centre, total = chunk.mean(dim=0), seen + len(chunk)
            shift = centre - mean
            yield chunk - centre, shift, seen * len(chunk) / total
            mean, seen = mean + shift * (len(chunk) / total), total

    def trace(self) -> float:
        """tr D = (1/N) Σ_k |g_k − g|², in one pass over the samples and without eigenvalues."""
        total = 0.0
        for residuals, shift, weight in self._residuals():
            total += float(residuals.square().sum() + weight * shift.square().sum())
        return total / self.samples

    @functools.cached_property
    def _eigenvalues(self) -> NDArray[np.float64]:
        # The same nonzero eigenvalues from either side: take the smaller matrix.
        small = self._matrix() if self.parameters < self.samples else self._gram(True) / self.samples
        return torch.linalg.eigvalsh(small).flip(0).cpu().numpy()[: min(self.parameters, self.samples - 1)]

    def spectrum(self) -> NDArray[np.float64]:
        """Eigenvalues of D that can be nonzero: min(d, N − 1), descending, exact to float64 rounding.

        From the N × N Gram matrix C K C / N, or from D itself where d < N. Kept, so a second call is free.
        Memory 16 min(d, N)² bytes and time min(d, N)³: a few thousand samples take seconds.
        """
        return self._eigenvalues.copy()

    def ranks(self) -> dict[str, float | int | str]:
        """Every measure of :func:`rank_measures` with d (``parameters``), N and the gradients' float type."""
        return {
            **rank_measures(self._eigenvalues, self.parameters),
            "parameters": self.parameters,
            "samples": self.samples,
            "gradient_dtype": str(self.dtype).removeprefix("torch."),
        }
