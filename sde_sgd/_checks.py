"""Checks of arguments, worded once: the value given, what is allowed, what to do."""

import math
from collections.abc import Sequence
from numbers import Integral, Real

import numpy as np


def positive(name: str, value: float, remedy: str = "") -> float:
    """A finite number > 0, as float; otherwise ValueError."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value) or not value > 0:
        raise ValueError(f"{name} must be a finite number > 0, got {value!r}{'; ' + remedy if remedy else ''}")
    return float(value)


def whole(name: str, value: int, lowest: int, highest: int | None = None, remedy: str = "") -> int:
    """A whole number in [lowest, highest], as int; otherwise ValueError."""
    ok = isinstance(value, Integral) and not isinstance(value, bool) and value >= lowest
    if not ok or (highest is not None and value > highest):
        allowed = f">= {lowest}" if highest is None else f"from {lowest} to {highest}"
        raise ValueError(f"{name} must be a whole number {allowed}, got {value!r}{'; ' + remedy if remedy else ''}")
    return int(value)


def choice(name: str, value: str, allowed: Sequence[str]) -> str:
    """One of the allowed words; otherwise ValueError that suggests the nearest."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}{nearest(value, allowed)}")
    return value


def nearest(word: str, known: Sequence[str]) -> str:
    """' (did you mean …?)' or nothing."""
    import difflib

    match = difflib.get_close_matches(str(word), known, n=1)
    return f" (did you mean {match[0]!r}?)" if match else ""


def finite_array(name: str, value, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """A float64 array without NaN or infinity, of the given shape; otherwise ValueError naming the place."""
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be an array of real numbers, got {value!r}") from None
    if shape is not None and array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    if not np.isfinite(array).all():
        where = np.argwhere(~np.isfinite(array))[0]
        at = f" at index {tuple(int(i) for i in where)}" if array.ndim else ""
        raise ValueError(f"{name} must be finite, got {array[tuple(where)]}{at}; remove or impute such values")
    return array
