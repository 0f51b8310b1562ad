"""What a path kernel needs to know of a model: code text and the numbers it reads."""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType

import numpy as np

UNROLLED = 16  # variables up to which `lines` name every coordinate; beyond, a kernel loops over arrays (RowCode)


@dataclass(frozen=True)
class RowCode:
    """The same model for a kernel that holds x as an array of any length d and loops over it.

    `kind` says what `arrays` (float64, C-contiguous, read-only) are and how b, or one sample's gradient g, follows:

    - "linear": (F (d, d), c (d,)); b = −F(x − c), and D is `LaneCode.constant_diffusion`.
    - "linear_model": (X (N, d), y (N,)), λ = `LaneCode.parameters[0]`; g_k = slope·X[k] + λx, where `lines` compute
      `slope` from `prediction` = X[k]·x and `target` = y[k].
    - "functions": (data (N, m),); `lines` call `sample_gradient(x, row, out)`, jitted and in `LaneCode.functions`,
      with row = data[k]; it writes g_k into out, and x, row and out are one-dimensional and contiguous.

    λx is common to all samples: it moves x, and its noise is exactly none.
    """

    kind: str
    arrays: tuple[np.ndarray, ...]
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class LaneCode:
    """Scalar code for one path (a lane), in canonical names (see `_codegen`).

    `lines` compute b0… (and d0_0, d1_0, d1_1 … where `constant_diffusion` is None) from x0…, p0…, T; for a finite sum
    they compute one sample's gradient g0… from x0…, a0…, p0… and `data` holds the arrays the a's are read from.
    `functions` are opaque jitted callables used by the lines; a kernel with any is not cached on disk.
    `rows` is the form for many variables; where `lines` is empty it is the only one.
    """

    dim: int
    lines: tuple[str, ...]
    parameters: tuple[float, ...] = ()
    constant_diffusion: np.ndarray | None = None
    data: tuple[np.ndarray, ...] = ()
    functions: dict[str, Callable] = field(default_factory=dict)
    modules: dict[str, ModuleType] = field(default_factory=dict)  # kernels made from `functions`
    rows: RowCode | None = None
