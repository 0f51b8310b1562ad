"""Where a field vanishes, and what the flow does there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import qmc

from sde_sgd import _checks
from sde_sgd.landscapes._roots import STARTS, stationary_points

from ._field import Field, as_field

NEUTRAL = 1e-8  # of the largest eigenvalue: a real part below is no verdict


@dataclass(frozen=True)
class FixedPoint:
    """A point with v(x) = 0 and the eigenvalues of ∂v/∂x there.

    position : (d,). eigenvalues : (d,) complex, descending real part. residual : |v|, in the field's units.
    kind : "stable node" (all real parts < 0, no rotation), "stable focus" (with rotation), "unstable node", "unstable
        focus", "saddle", "saddle-focus" (both signs, with rotation), "centre or weak focus" (a pair on the imaginary
        axis, within 1e-8 of the largest eigenvalue, the others on one side: the linear part does not decide, see
        `classify_focus`), "degenerate" (an eigenvalue 0 as far as can be told).
    """

    position: np.ndarray
    eigenvalues: np.ndarray
    kind: str
    residual: float
    variables: tuple[str, ...]

    @property
    def stable(self) -> bool:
        """True where every eigenvalue has a negative real part."""
        return self.kind.startswith("stable")

    def __repr__(self) -> str:
        place = ", ".join(f"{name}={value:.6g}" for name, value in zip(self.variables, self.position))
        return f"<FixedPoint {self.kind} at {place}>"


def find_fixed_points(
    field: Any,
    box: Any = None,
    *,
    variables: Sequence[str] | None = None,
    temperature: float | None = None,
    starts: int | None = None,
) -> list[FixedPoint]:
    """All x in a box with v(x) = 0, by Newton's method from many starts, and their kind.

    Parameters
    ----------
    field : v, as in `find_cycles`: a Process or a Landscape (its drift), a function (..., d) → (..., d), or a
        DataArray over a grid with the last dimension component.
    box : ((lower, upper), …); the domain where the field has one. variables, temperature : as in `find_cycles`.
    starts : number of Sobol points to start from; None is a lattice of 201, 33² or 13³ points in up to three
        variables and 4096 points beyond.

    Returns
    -------
    list of FixedPoint, in the order of their first coordinate. A root whose basin is smaller than the distance of
    the starts can be missed.
    """
    v = as_field(field, box, variables, temperature)
    return fixed_points(v, starts)


def fixed_points(v: Field, starts: int | None = None) -> list[FixedPoint]:
    """The same for a `Field`."""
    points = None
    if starts is not None or v.dim not in STARTS:
        number = 4096 if starts is None else _checks.whole("starts", starts, 1)
        sobol = qmc.Sobol(v.dim, seed=0).random_base2(int(np.ceil(np.log2(number))))[:number]
        points = v.lower + sobol * (v.upper - v.lower)
    found = stationary_points(
        v.value,
        v.jacobian,
        (v.lower, v.upper),
        v.variables,
        symmetric=False,
        period=v.domain.period,
        extra={},
        starts=points,
    )
    where = np.stack([found[name].values for name in v.variables], -1)
    result = [
        fixed_point(v, position, degenerate=bool(kind == "degenerate"))
        for position, kind in zip(where, found["kind"].values)
    ]
    return sorted(result, key=lambda point: tuple(point.position))


def fixed_point(v: Field, position: np.ndarray, *, degenerate: bool = False) -> FixedPoint:
    """The record of a root of v; `degenerate` where a search could not tell the sign of its smallest eigenvalue."""
    values = np.linalg.eigvals(v.jacobian(position[None])[0])
    values = values[np.lexsort((-values.imag, -values.real))].astype(complex)
    residual = float(np.linalg.norm(v.value(position[None])[0]))
    return FixedPoint(position, values, _kind(values, degenerate), residual, v.variables)


def _kind(values: np.ndarray, degenerate: bool) -> str:
    largest = float(np.abs(values).max())
    if largest == 0.0:
        return "degenerate"
    neutral = np.abs(values.real) <= NEUTRAL * largest
    turning = np.abs(values.imag) > NEUTRAL * largest
    if neutral.any():
        if not turning[neutral].all():
            return "degenerate"
        others = np.sign(values.real[~neutral])
        return "saddle-focus" if len(others) and np.ptp(others) else "centre or weak focus"
    if degenerate and not turning[np.abs(values.real).argmin()]:
        return "degenerate"
    word = "focus" if turning.any() else "node"
    if (values.real < 0).all():
        return f"stable {word}"
    if (values.real > 0).all():
        return f"unstable {word}"
    return "saddle-focus" if turning.any() else "saddle"
