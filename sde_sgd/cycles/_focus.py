"""What decides where the linear part does not: the first Lyapunov coefficient of a pair on the imaginary axis."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from sde_sgd import _checks

from ._field import Field, as_field
from ._fixed_points import NEUTRAL, fixed_point
from ._flow import Ensemble

REACH = 4e-3  # of the box: step of the differences of the Jacobian
AXIS = 1e-6  # of the largest eigenvalue: a real part below lies on the imaginary axis


@dataclass(frozen=True)
class Focus:
    """A fixed point with a pair of eigenvalues ±iω, and which way the flow around it goes.

    kind : "weak stable focus", "weak unstable focus", or "undecided" where |c| is within its error, as at a centre.
    frequency : ω. coefficient : c of ż = iωz + c z|z|² + …, its real part; x − x₀ = 2 Re(zq), |q| = 1 (it is ω times
        the first Lyapunov coefficient of Kuznetsov 2004, eq. 3.20). error : how much it changes with the step.
    On the centre manifold the root-mean-square radius over a turn obeys R' = (c/2) R³, so that R = `amplitude`·t^(−1/2)
    with `amplitude` = |c|^(−1/2): as t → ∞ at a stable focus, as t → −∞ at an unstable one.
    """

    position: np.ndarray
    kind: str
    frequency: float
    coefficient: float
    error: float

    @property
    def amplitude(self) -> float:
        """lim R √|t|, infinite where c = 0."""
        return float(1 / np.sqrt(abs(self.coefficient))) if self.coefficient else np.inf


def classify_focus(
    field: Any,
    position: Sequence[float],
    box: Any = None,
    *,
    variables: Sequence[str] | None = None,
    temperature: float | None = None,
) -> Focus:
    """Whether a fixed point with eigenvalues ±iω attracts, by its first Lyapunov coefficient (a nonlinear test).

        c = ½ Re[⟨p, C(q, q, q̄)⟩ − 2⟨p, B(q, A⁻¹B(q, q̄))⟩ + ⟨p, B(q̄, (2iω − A)⁻¹B(q, q))⟩]

    with Aq = iωq, Aᵀp = −iωp, ⟨p, q⟩ = 1, |q| = 1; B and C are the second and third derivatives of v.

    `position` : the fixed point. The others as in `find_fixed_points`. Returns a `Focus`. Raises ValueError where v is
    not 0 at the point, or there is not exactly one pair on the imaginary axis (within 1e-6 of the largest eigenvalue)
    and nothing else beside it: then the linear part decides, and `find_fixed_points` says it. The derivatives are
    differences of the Jacobian with steps of 0.004 and 0.002 of the box along each axis, `error` is their disagreement:
    give a box on whose scale v is smooth. Kuznetsov (2004), Elements of Applied Bifurcation Theory, §3.5, eq. (5.62).
    """
    v = as_field(field, box, variables, temperature)
    x = _checks.finite_array("position", position, (v.dim,))
    point = fixed_point(v, x)
    matrix = v.jacobian(x[None])[0]
    largest = float(np.abs(point.eigenvalues).max())
    if not point.residual <= 1e-6 * largest * v.size:
        raise ValueError(f"|v| is {point.residual:g} at position {x.tolist()}: no fixed point; take it from a search")
    neutral = np.abs(point.eigenvalues.real) <= AXIS * largest
    if neutral.sum() != 2 or not (np.abs(point.eigenvalues.imag[neutral]) > NEUTRAL * largest).all():
        raise ValueError(
            f"the eigenvalues {np.round(point.eigenvalues, 6).tolist()} are not one pair on the imaginary axis and "
            "others away from it; the linear part decides there"
        )
    coarse, fine = (_coefficient(v, x, matrix, reach * (v.upper - v.lower)) for reach in (REACH, REACH / 2))
    value, error = fine + (fine - coarse) / 3, abs(fine - coarse) / 3  # of second order in the step
    error += 1e-9 * largest / v.size**2
    kind = "undecided" if abs(value) <= error else f"weak {'stable' if value < 0 else 'unstable'} focus"
    frequency = float(np.abs(point.eigenvalues.imag[neutral]).max())
    return Focus(x, kind, frequency, float(value), float(error))


def _coefficient(v: Field, x: np.ndarray, matrix: np.ndarray, h: np.ndarray) -> float:
    """c with differences of steps h (d,) along the axes."""
    values, vectors = np.linalg.eig(matrix)
    k = int(np.argmin(np.abs(values.real) + np.where(values.imag > 0, 0.0, np.inf)))
    q, omega = vectors[:, k] / np.linalg.norm(vectors[:, k]), values[k].imag
    left, rows = np.linalg.eig(matrix.T)
    p = rows[:, int(np.argmin(np.abs(left + 1j * omega)))]
    p = p / np.conj(np.vdot(p, q))
    d, units = len(x), np.eye(len(x))
    base = v.jacobian(x[None])[0]

    def at(shift: np.ndarray) -> np.ndarray:
        return v.jacobian((x + h * shift)[None])[0]

    # B[i, j, k] = ∂²v_i/∂x_j∂x_k and C[i, j, k, l], from values of the Jacobian [i, j]
    second = np.stack([(at(e) - at(-e)) / (2 * step) for e, step in zip(units, h)], -1)
    third = np.empty((d, d, d, d))
    for a in range(d):
        third[..., a, a] = (at(units[a]) - 2 * base + at(-units[a])) / h[a] ** 2
        for b in range(a):
            s, t = units[a] + units[b], units[a] - units[b]
            third[..., a, b] = third[..., b, a] = (at(s) + at(-s) - at(t) - at(-t)) / (4 * h[a] * h[b])

    def two(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.einsum("ijk,j,k", second, a, b)

    bar = q.conj()
    cubic = np.einsum("ijkl,j,k,l", third, q, q, bar)
    slow = two(q, np.linalg.solve(matrix, two(q, bar)))
    fast = two(bar, np.linalg.solve(2j * omega * units - matrix, two(q, q)))
    return 0.5 * float(np.vdot(p, cubic - 2 * slow + fast).real)


def radius_per_turn(
    field: Any,
    start: Sequence[float],
    box: Any = None,
    *,
    center: Sequence[float],
    turns: int,
    variables: Sequence[str] | None = None,
    temperature: float | None = None,
) -> xr.DataArray:
    """The root-mean-square distance from `center` over each turn of a trajectory of a field in the plane.

        R_n = (1/τ_n ∫ |x − x₀|² dt)^½    over the n-th turn, of length τ_n in time

    To set beside `classify_focus`: R ∝ t^(−1/2) at a weak focus, e^(−γt) at a focus, constant at a centre.
    Returns `radius` over `time`, the middle of each turn, from the start. Raises ValueError for a field that is not
    planar, and where the angle does not come round in 1000 steps, or the trajectory leaves a box three times as wide.
    """
    v = as_field(field, box, variables, temperature)
    if v.dim != 2:
        raise ValueError(f"turns are counted in the plane, the field has {v.dim} variables")
    x0, middle = _checks.finite_array("start", start, (2,)), _checks.finite_array("center", center, (2,))
    number = _checks.whole("turns", turns, 1)
    if not np.linalg.norm(x0 - middle) > 0:
        raise ValueError("start must differ from center")

    def rhs(state: np.ndarray) -> np.ndarray:
        """d/dφ of position, time and ∫r² dt: in the angle as clock a turn has length 2π exactly."""
        position = state[:, :2]
        speed = v.value(middle + position)
        square = (position**2).sum(-1)
        ones = square / np.abs(position[:, 0] * speed[:, 1] - position[:, 1] * speed[:, 0])
        return np.stack([*(speed * ones[:, None]).T, ones, square * ones], -1)

    # Errors count relative to the radius, which may shrink, and to the time and the moment, which grow.
    radius = float(np.linalg.norm(x0 - middle))
    size = np.array([0.1 * radius, 0.1 * radius, 1e-6, 1e-6 * radius**2])
    run = Ensemble(rhs, np.array([[*(x0 - middle), 0.0, 0.0]]), size, 1e-8, np.ones(1))
    ends, first = [run.x[0].copy()], np.zeros(1, int)
    for turn in range(1, number + 1):
        for _ in range(1000):
            if not run.ok[0] or run.t[0] >= 2 * np.pi * turn * (1 - 1e-15):
                break
            run.take(first, np.array([2 * np.pi * turn]))
        else:
            run.ok[0] = False
        if not run.ok[0] or not v.inside(middle + run.x[0, :2], 1.0):
            raise ValueError(f"turn {turn} was not completed: the trajectory stops turning, or leaves the box")
        ends.append(run.x[0].copy())
    _, _, time, moment = np.array(ends).T
    coords = {"time": 0.5 * (time[1:] + time[:-1])}
    return xr.DataArray(np.sqrt(np.diff(moment) / np.diff(time)), coords, ("time",), "radius", {"turns": number})
