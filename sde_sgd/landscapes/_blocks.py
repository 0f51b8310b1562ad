"""Means over many samples of many variables, in blocks that bound memory, without symbolic derivatives."""

import math
from collections.abc import Callable

from sde_sgd import _memory

from ._evaluator import SampleEvaluator

BLOCK = 1 << 20  # numbers in a temporary array: 8 MiB
_CHECKED = 1 << 28  # bytes of a result from which the memory of the machine is asked for first


class BlockEvaluator(SampleEvaluator):
    """f, ∇f, ∇²f, D, div D of a finite sum whose samples are evaluated in blocks of rows at batches of points."""

    def __init__(self, namespace, samples: int, dim: int):
        self._namespace, self._size, self._dim = namespace, samples, dim

    def _blocks(self) -> list[slice]:
        """Ranges of samples whose gradients at one point make one block."""
        step = max(1, BLOCK // self._dim)
        return [slice(i, min(i + step, self._size)) for i in range(0, self._size, step)]

    def _batched(self, reduce: Callable, x, each: int, shape: tuple[int, ...]):
        """`reduce` (P, d) → (P, *shape) over batches of the points x (..., d), `each` temporary numbers a point."""
        flat = x.reshape(-1, self._dim)
        needed = 8.0 * len(flat) * math.prod(shape)
        if needed > _CHECKED:
            _memory.refuse_beyond(needed, f"a result of shape {(len(flat), *shape)}", "evaluate fewer points at once")
        step = max(1, BLOCK // max(1, min(each, BLOCK)))
        parts = [reduce(flat[i : i + step]) for i in range(0, len(flat), step)] or [reduce(flat)]
        joined = parts[0] if len(parts) == 1 else self._namespace.concatenate(parts)
        return joined.reshape((*x.shape[:-1], *shape))

    @staticmethod
    def _symmetric(matrices):
        """(M + Mᵀ)/2: a product of blocks is symmetric only to rounding."""
        return 0.5 * (matrices + matrices.swapaxes(-1, -2))
