"""Checks of arguments, worded once: the value given, what is allowed, what to do."""

import difflib
import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, TypeVar

import numpy as np

_T = TypeVar("_T")
LARGEST_WHOLE = 2**63 - 1


def positive(name: str, value: Any, remedy: str = "") -> float:
    """A finite number > 0, as float; otherwise ValueError."""
    ok = isinstance(value, Real) and not isinstance(value, bool)
    try:
        number = float(value) if ok else math.nan
    except OverflowError:
        number = math.inf
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"{name} must be a finite number > 0, got {_short(value)}{'; ' + remedy if remedy else ''}")
    return number


def not_negative(name: str, value: Any, remedy: str = "") -> float:
    """A finite number >= 0, as float; otherwise ValueError."""
    number = float(finite_array(name, value, ()))
    if number < 0:
        raise ValueError(f"{name} must be a finite number >= 0, got {number:g}{'; ' + remedy if remedy else ''}")
    return number


def whole(name: str, value: Any, lowest: int, highest: int | None = None, remedy: str = "") -> int:
    """A whole number in [lowest, highest], as int; otherwise ValueError."""
    ok = isinstance(value, Integral) and not isinstance(value, bool)
    if not ok or not lowest <= int(value) <= (LARGEST_WHOLE if highest is None else highest):
        allowed = f">= {lowest}" if highest is None else f"from {lowest} to {highest}"
        raise ValueError(
            f"{name} must be a whole number {allowed}, got {_short(value)}{'; ' + remedy if remedy else ''}"
        )
    return int(value)


def choice(name: str, value: Any, allowed: Sequence[str]) -> str:
    """One of the allowed words; otherwise ValueError that suggests the nearest."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {_short(value)}{nearest(value, allowed)}")
    return value


def instance(name: str, value: Any, kind: type[_T], remedy: str = "") -> _T:
    """`value` itself where it is a `kind`; otherwise ValueError naming both types."""
    if not isinstance(value, kind):
        raise ValueError(
            f"{name} must be a {kind.__name__}, got {type(value).__name__}{'; ' + remedy if remedy else ''}"
        )
    return value


def sequence(name: str, value: Any, length: int, of: str) -> list:
    """A list of `length` entries from any sequence but text; otherwise ValueError."""
    if isinstance(value, str) or not hasattr(value, "__iter__") or not hasattr(value, "__len__"):
        raise ValueError(f"{name} must be a sequence of {length} {of}, got {_short(value)}")
    entries = list(value)
    if len(entries) != length:
        raise ValueError(f"{name} must have {length} {of}, got {len(entries)}")
    return entries


def function(name: str, value: Any) -> Any:
    """None or a callable; otherwise ValueError."""
    if value is not None and not callable(value):
        raise ValueError(f"{name} must be a function or None, got {_short(value)}")
    return value


def nearest(word: Any, known: Sequence[str]) -> str:
    """' (did you mean …?)' or nothing."""
    match = difflib.get_close_matches(str(word), known, n=1)
    return f" (did you mean {match[0]!r}?)" if match else ""


def finite_array(name: str, value: Any, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """A float64 array without NaN or infinity, of the given shape; otherwise ValueError naming the place."""
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            raise TypeError
        array = array.astype(np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be an array of real numbers, got {_short(value)}") from None
    if shape is not None and array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    if not np.isfinite(array).all():
        where = np.argwhere(~np.isfinite(array))[0]
        at = f" at index {tuple(int(i) for i in where)}" if array.ndim else ""
        raise ValueError(f"{name} must be finite, got {array[tuple(where)]}{at}; remove or impute such values")
    return array


def semidefinite(name: str, matrix: np.ndarray) -> None:
    """Refuse a symmetric matrix with an eigenvalue below 0 by more than rounding."""
    lowest = np.linalg.eigvalsh(matrix)[0]
    if lowest < -1e-12 * max(np.trace(matrix), 1e-300):
        raise ValueError(
            f"{name} is indefinite: its smallest eigenvalue is {lowest:g}; D is a covariance, so all must be >= 0"
        )


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # a whole number too long to print
        text = f"a number of {value.bit_length()} bits"
    return text if len(text) <= 80 else text[:77] + "…"
