"""Where a process lives: bounds per variable and which axes are periodic."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np


@dataclass(frozen=True)
class Domain:
    """A box, open to ±inf, with periodic axes marked.

    `lower`, `upper`: float arrays of shape (d,); `periodic`: d truth values.
    """

    variables: tuple[str, ...]
    bounds: tuple[tuple[float, float], ...]
    periodic: tuple[bool, ...]

    @classmethod
    def parse(cls, value, variables: Sequence[str]) -> "Domain":
        """From None, a `Domain`, a mapping name → (lower, upper[, "periodic"]), or one such entry per variable."""
        names = tuple(variables)
        if isinstance(value, Domain):
            value = value.spec()
        if value is None:
            value = {}
        if not hasattr(value, "__iter__") or isinstance(value, str):
            raise ValueError(f"domain must give (lower, upper) per variable {', '.join(names)}, got {value!r}")
        if isinstance(value, Mapping):
            unknown = [name for name in value if name not in names]
            if unknown:
                raise ValueError(f"domain names {unknown[0]!r}, which is not a variable; variables: {', '.join(names)}")
            entries = [value.get(name, (-math.inf, math.inf)) for name in names]
        else:
            entries = list(value)
            if len(entries) != len(names):
                raise ValueError(
                    f"domain must have one (lower, upper) per variable: {len(names)} for "
                    f"{', '.join(names)}, got {len(entries)}"
                )
        bounds, periodic = [], []
        for name, entry in zip(names, entries):
            entry = tuple(entry) if hasattr(entry, "__iter__") else (entry,)
            if len(entry) not in (2, 3) or (len(entry) == 3 and entry[2] != "periodic"):
                raise ValueError(
                    f"domain of {name!r} must be (lower, upper) or (lower, upper, 'periodic'), got {entry!r}"
                )
            if any(not isinstance(end, Real) for end in entry[:2]):
                raise ValueError(f"domain of {name!r} needs numbers, got {entry!r}")
            lower, upper, wraps = float(entry[0]), float(entry[1]), len(entry) == 3
            if not lower < upper or (wraps and not math.isfinite(upper - lower)):
                raise ValueError(
                    f"domain of {name!r} needs lower < upper{' (both finite)' if wraps else ''}, got ({lower}, {upper})"
                )
            bounds.append((lower, upper))
            periodic.append(wraps)
        return cls(names, tuple(bounds), tuple(periodic))

    @property
    def lower(self) -> np.ndarray:
        return np.array([b[0] for b in self.bounds])

    @property
    def upper(self) -> np.ndarray:
        return np.array([b[1] for b in self.bounds])

    @property
    def period(self) -> np.ndarray:
        """Length of each periodic axis, ∞ where an axis is not periodic."""
        return np.where(self.periodic, self.upper - self.lower, np.inf)

    def spec(self) -> dict[str, tuple]:
        """The mapping that `parse` reads back."""
        return {name: (*b, "periodic") if p else b for name, b, p in zip(self.variables, self.bounds, self.periodic)}

    def check(self, what: str, x: np.ndarray) -> None:
        """Refuse points (..., d) outside the box, naming the first."""
        outside = (x < self.lower) | (x > self.upper)
        if outside.any():
            where = tuple(np.argwhere(outside)[0])
            name, (low, high) = self.variables[where[-1]], self.bounds[where[-1]]
            raise ValueError(
                f"{what} has {name} = {x[where]:g}, outside the domain [{low:g}, {high:g}]; "
                "start inside, or give the landscape a larger domain"
            )
