"""What a path kernel needs to know of a model: code text and the numbers it reads."""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType

import numpy as np


@dataclass(frozen=True)
class LaneCode:
    """Scalar code for one path (a lane), in canonical names (see `_codegen`).

    `lines` compute b0… (and d0_0, d1_0, d1_1 … where `constant_diffusion` is None) from x0…, p0…, T; for a finite sum
    they compute one sample's gradient g0… from x0…, a0…, p0… and `data` holds the arrays the a's are read from.
    `functions` are opaque jitted callables used by the lines; a kernel with any is not cached on disk.
    """

    dim: int
    lines: tuple[str, ...]
    parameters: tuple[float, ...] = ()
    constant_diffusion: np.ndarray | None = None
    data: tuple[np.ndarray, ...] = ()
    functions: dict[str, Callable] = field(default_factory=dict)
    modules: dict[str, ModuleType] = field(default_factory=dict)  # kernels made from `functions`
