"""Stationary covariance between states a time apart, from the generator."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.linalg as la
import xarray as xr

from sde_sgd import _checks
from sde_sgd.landscapes import Landscape

from ._weighted import Space

if TYPE_CHECKING:
    from .generator import FokkerPlanck

_CONSTANT = 1e-14  # standard deviation over size of a function that is a constant to rounding
_LONGEST = 80  # vectors of a Krylov space before the time is divided
_ROUNDING = 1e-15  # least error that a part of the time can be held to
_CHECKED = 5  # vectors whose effect together estimates the error
_RESERVED = ("time", "path", "replica", "component", "step", "T", "variable", "variable_2")


def lag_covariance(
    self: "FokkerPlanck",
    times: Sequence[float] | np.ndarray,
    observables: Mapping[str, Any] | None = None,
    *,
    tolerance: float = 1e-10,
) -> xr.DataArray:
    r"""C_ij(t) = E[x_i(t) x_j(0)] − E[x_i]E[x_j] in the steady state, (time, variable, variable_2).

    C_ij(t) = Σ π (x_j − m_j) (e^{Lᵀt} x_i), the first variable at the later time, as in `LagCovariance`. It
    is symmetric at every t under detailed balance; otherwise (C − Cᵀ)/t → −2TQ as t → 0. For dx = −Fx dt + …
    it is e^{−Ft}S, to second order in the spacing.

    times : increasing, ≥ 0. Long times cost no more than short ones: e^{Lᵀt} acts through Krylov spaces of
        (σ − Lᵀ)⁻¹, σ ≈ 10/t, one factorisation per decade of times (van den Eshof & Hochbruck 2006).
    observables : mapping from names to further functions of the state: an expression (a string over variables and the
        landscape's parameters), a function of points (..., d), or values on the grid. Take cos and sin of periodic
        variables, which jump at the seam themselves.
    tolerance : error in time allowed, in units of the standard deviations of both; the grid's own comes on top. It
        is compared with the change over the last five vectors of the space; `attrs["error"]` is the largest estimate.

    Raises ValueError with absorbing walls, for bad arguments, and where the tolerance is beyond rounding.
    """
    times = _times(times)
    tolerance = _checks.positive("tolerance", tolerance)
    if tolerance < 1e-13:
        raise ValueError(f"tolerance must be at least 1e-13, got {tolerance:g}; rounding is of that size")
    names, values = _observables(self, observables)
    space = Space.of(self)
    if not space.conserves:
        self.log_steady_state()  # says why there is none
    centred = values - space.pi @ values
    start = space.root[:, None] * centred  # of functions and of π times them alike
    deviation = la.norm(start, axis=0)
    deviation[deviation <= _CONSTANT * np.abs(values).max(axis=0)] = 0.0
    start[:, deviation == 0.0] = 0.0
    covariance = np.empty((times.size, len(names), len(names)))
    worst = 0.0
    propagator = _Propagator(space, tolerance)
    for i in range(len(names)):
        size = deviation[i]
        if size == 0.0:
            covariance[:, i] = 0.0
            continue
        at = times == 0.0
        covariance[at, i] = start.T @ start[:, i]
        for window in _decades(times[~at]):
            chosen = (times >= window[0]) & (times <= window[-1])
            projected, _, error = propagator.advance(start[:, i] / size, window, start, tolerance)
            covariance[chosen, i] = size * projected
            worst = max(worst, error)
    attrs = {**self.attrs, "tolerance": tolerance, "error": worst}
    coords = {"time": times, "variable": names, "variable_2": names}
    return xr.DataArray(covariance, coords, ("time", "variable", "variable_2"), "lag_covariance", attrs)


class _Propagator:
    """e^{Lᵀt} on centred functions, by Krylov spaces of (σ − Lᵀ)⁻¹."""

    def __init__(self, space: Space, tolerance: float):
        self._space, self._tolerance = space, tolerance
        self._factors: tuple[float, Callable] | None = None

    def advance(
        self, v: np.ndarray, times: np.ndarray, ends: np.ndarray, allowed: float
    ) -> tuple[np.ndarray, np.ndarray, float]:
        """endsᵀ e^{tLᵀ}v at rising times > 0, e^{tLᵀ}v at the last one, and an estimate ≤ `allowed` of its error."""
        done = self._krylov(v, times, ends, allowed)
        if done is not None:
            return done
        # many turns within the time: half of it first, each half with half of the error
        allowed *= 0.5
        if allowed < _ROUNDING:
            raise ValueError(
                f"a tolerance of {self._tolerance:g} is beyond rounding: to reach it, steps of {times[-1]:g} would be "
                "needed, whose rounding adds up to more; allow a larger one"
            )
        middle = 0.5 * times[-1]
        early, late = times[times < middle], times[times >= middle]
        first, halfway, error = self.advance(v, np.append(early, middle), ends, allowed)
        later = late - middle
        if later[0] == 0.0:
            later = later[1:]
        else:
            first = first[:-1]
        second, end, more = self.advance(halfway, later, ends, allowed)
        return np.concatenate([first, second]), end, error + more

    def _resolvent(self, shift: float) -> Callable:
        if self._factors is None or self._factors[0] != shift:
            self._factors = None  # free one before the other is made
            self._factors = shift, self._space.resolvent(shift).functions
        return self._factors[1]

    def _krylov(self, v: np.ndarray, times: np.ndarray, ends: np.ndarray, allowed: float):
        """The same by one space, or None where that does not get within `allowed`."""
        shift = 2.0 ** round(np.log2(10.0 / times[-1]))  # a power of two, so that equal spans share factors
        apply = self._resolvent(shift)
        length = min(_LONGEST, v.size - 1)
        basis = np.empty((length + 1, v.size))
        hessenberg = np.zeros((length + 1, length))
        size = la.norm(v)
        basis[0] = v / size
        before: np.ndarray | None = None
        for m in range(1, length + 1):
            w = apply(basis[m - 1])
            for _ in range(2):  # orthogonal to rounding
                overlap = basis[:m] @ w
                hessenberg[:m, m - 1] += overlap
                w -= overlap @ basis[:m]
            rest = la.norm(w)
            hessenberg[m, m - 1] = rest
            exhausted = rest <= 1e-14 * la.norm(hessenberg[:m, :m])
            if exhausted or m % _CHECKED == 0 or m == length:
                now, rounding = self._small(hessenberg[:m, :m], shift, times)
                if before is not None or exhausted:
                    change = now.copy()
                    if before is not None:
                        change[: before.shape[0]] -= before
                    error = rounding if exhausted else max(rounding, float(la.norm(change, axis=0).max()))
                    if size * error <= allowed:
                        projected = size * ((basis[:m] @ ends).T @ now).T
                        return projected, size * (now[:, -1] @ basis[:m]), size * error
                    if exhausted:
                        return None
                before = now
            if m < length:
                basis[m] = w / rest
        return None

    def _small(self, hessenberg: np.ndarray, shift: float, times: np.ndarray) -> tuple[np.ndarray, float]:
        """First column of exp(−t(H⁻¹ − σ)) for every t, and its rounding error."""
        if self._space.symmetric:
            theta, vectors = la.eigh(0.5 * (hessenberg + hessenberg.T))
            weights, rounding = vectors[0], 1e-15
        else:
            theta, vectors = la.eig(hessenberg)
            weights = la.solve(vectors, np.eye(theta.size)[0])
            rounding = 1e-16 * float(np.linalg.cond(vectors))
        slow = np.abs(theta) * shift > 1e-13  # the others have died out
        rate = 1.0 / np.where(slow, theta, 1.0) - shift
        with np.errstate(under="ignore"):
            decay = np.exp(-np.outer(rate, times)) * slow[:, None]
        return (vectors @ (weights[:, None] * decay)).real, rounding


def _decades(times: np.ndarray) -> list[np.ndarray]:
    """Rising times > 0 cut into windows whose ends are at most ten-fold apart."""
    windows = []
    while times.size:
        inside = times >= 0.1 * times[-1]
        windows.append(times[inside])
        times = times[~inside]
    return windows


def _times(times: Any) -> np.ndarray:
    array = _checks.finite_array("times", times)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"times must be a sequence of numbers, got shape {array.shape}; give one time at least")
    if array.min() < 0.0:
        raise ValueError(f"times must be >= 0, got {array.min():g}; C(−t) is the transpose of C(t)")
    if (np.diff(array) <= 0.0).any():
        i = int(np.argmax(np.diff(array) <= 0.0))
        raise ValueError(f"times must increase, got {array[i]:g} before {array[i + 1]:g}; sort them")
    return array


def _observables(fp: "FokkerPlanck", observables: Mapping[str, Any] | None) -> tuple[list[str], np.ndarray]:
    """Names and values per cell, (cells, number), of the coordinates and what else is asked for."""
    names = [str(name) for name in fp.process.variables]
    points = fp.grid.centers()
    columns = [points[..., axis].ravel() for axis in range(fp.grid.dim)]
    if observables is None:
        return names, np.stack(columns, axis=1)
    if not isinstance(observables, Mapping):
        raise ValueError(f"observables must be a mapping, got {type(observables).__name__}; give {{name: expression}}")
    for name, value in observables.items():
        if not isinstance(name, str) or name in names or name in _RESERVED:
            raise ValueError(f"an observable needs a name of its own, got {name!r}; {', '.join(names)} are taken")
        if isinstance(value, str):
            parameters = getattr(getattr(fp.process, "landscape", None), "parameters", None) or {}
            value = Landscape(fp.process.variables, value, parameters=dict(parameters)).loss(points)
        elif callable(value):
            value = value(points)
        if isinstance(value, xr.DataArray):
            columns.append(fp._values(value))
        else:
            columns.append(_checks.finite_array(f"observable {name!r}", value, fp.grid.shape).ravel())
        names.append(name)
    return names, np.stack(columns, axis=1)
