"""Numbers the wing takes beyond those the core checks."""

from __future__ import annotations

import math

from sde_sgd import _checks

LARGEST_SEED = 2**64 - 1  # torch's


def from_zero(name: str, value, below: float = math.inf) -> float:
    """A finite number ≥ 0 and less than ``below``, as float; otherwise ValueError."""
    number = float(_checks.finite_array(name, value, ()))
    if not 0 <= number < below:
        limit = "" if below == math.inf else f" and < {below:g}"
        raise ValueError(f"{name} must be a number >= 0{limit}, got {value!r}")
    return number
