"""A network whose loss does not depend on the norm of any row of its weights: normalised layers, a fixed last one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sde_sgd import _checks

from ._numbers import LARGEST_SEED


class NormalisedNetwork(nn.Module):
    """logits = A h_L, h_l = ReLU(N(W_l h_{l−1})), N(z) = (z − mean z)/std z over the batch, per unit or channel.

    N is batch norm without ε, shift and scale, so that f(…, c W_l, …) = f for c > 0, exactly but for rounding, for
    every layer and every row of W_l; A is drawn once and not trained. *All* trained weights are scale invariant, alone
    and together, and so is the loss of every mini-batch.

    Parameters
    ----------
    inputs_shape : (features,), flattened, or (channels, height, width).   classes : rows of A.
    widths : units of each hidden layer.   kind : "connected", or "convolutional": 3 × 3 of stride 2, then the mean
        over what is left of the image.
    gain : A has orthonormal rows (columns, where there are more classes than units) times `gain`.
    seed : of W, normal of variance 1/fan-in, and of A.

    `forward(inputs, reference)` takes the statistics of N from `reference` in place of `inputs`: that is how test
    inputs are predicted, by the training inputs' statistics. Training and evaluation mode are the same.

    Ioffe & Szegedy (2015); Li & Arora (2019). Not for inputs among which a unit is constant: there is
    nothing to normalise by, and the outputs are not numbers.
    """

    last: Tensor

    def __init__(
        self,
        inputs_shape: Sequence[int],
        classes: int,
        *,
        widths: Sequence[int] = (16, 16),
        kind: str = "connected",
        gain: float = 4.0,
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
    ):
        super().__init__()
        self.kind = _checks.choice("kind", kind, ("connected", "convolutional"))
        shape = tuple(_checks.whole("inputs_shape", n, 1) for n in inputs_shape)
        if kind == "convolutional" and len(shape) != 3:
            raise ValueError(f"a convolutional network takes images (channels, height, width), got {shape}")
        widths = [_checks.whole("widths", n, 1) for n in widths]
        if not widths:
            raise ValueError("widths is empty: without a hidden layer there is nothing to train")
        gain = _checks.positive("gain", gain)
        stream = torch.Generator().manual_seed(_checks.whole("seed", seed, 0, LARGEST_SEED))
        patch = (3, 3) if kind == "convolutional" else ()
        sizes = [shape[0] if patch else math.prod(shape), *widths]

        def normal(*size: int) -> Tensor:
            return torch.randn(*size, generator=stream, dtype=torch.float64)

        self.hidden = nn.ParameterList(
            nn.Parameter((normal(out, into, *patch) / math.sqrt(into * math.prod(patch))).to(dtype))
            for into, out in itertools.pairwise(sizes)
        )
        wide = _checks.whole("classes", classes, 2) <= sizes[-1]
        basis = torch.linalg.qr(normal(sizes[-1], classes) if wide else normal(classes, sizes[-1])).Q
        self.register_buffer("last", (gain * (basis.T if wide else basis)).to(dtype))

    def forward(self, inputs: Tensor, reference: Tensor | None = None) -> Tensor:
        """Logits (batch, classes)."""
        ahead, beside = self._first(inputs), None if reference is None else self._first(reference)
        for weight in self.hidden:
            ahead = self._mapped(ahead, weight)
            beside = None if beside is None else self._mapped(beside, weight)
            known = ahead if beside is None else beside
            over = tuple(axis for axis in range(known.ndim) if axis != 1)
            mean = known.mean(over, keepdim=True)
            scale = (known - mean).square().mean(over, keepdim=True).rsqrt()
            ahead = torch.relu((ahead - mean) * scale)
            beside = None if beside is None else torch.relu((beside - mean) * scale)
        return (ahead.mean((2, 3)) if ahead.ndim == 4 else ahead) @ self.last.T

    def _first(self, inputs: Tensor) -> Tensor:
        return inputs if self.kind == "convolutional" else inputs.flatten(1)

    def _mapped(self, values: Tensor, weight: Tensor) -> Tensor:
        if self.kind == "convolutional":
            return nn.functional.conv2d(values, weight, stride=2, padding=1)
        return values @ weight.T
