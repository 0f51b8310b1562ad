"""Fixed points over a parameter, by pseudo-arclength, with their bifurcations."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from sde_sgd import _checks
from sde_sgd.errors import NotConverged

from ._arclength import Point, branch_point, correct, follow, locate, sign_changes, tangent
from ._branch import Bifurcation, Branch
from ._fixed_points import fixed_points
from ._parametric import Parametric, parametric

NEUTRAL = 1e-9  # of the largest eigenvalue


def continue_fixed_points(
    system: Any,
    parameter: str,
    bounds: Sequence[float],
    *,
    start: Sequence[float] | None = None,
    at: float | None = None,
    box: Any = None,
    temperature: float | None = None,
    step: float = 0.02,
    most: int = 2000,
) -> list[Branch]:
    """The branches of v(x; λ) = 0 over a parameter, by pseudo-arclength continuation, and where they bifurcate.

    Branches are followed through their folds, and at branch points the crossing one is taken up too. A bifurcation is
    located to rounding, by Brent's method in the length of the branch: the zero of dλ/ds at a fold, of det ∂v/∂x at a
    branch point, of Π(λ_i + λ_k), i < k, at a Hopf point. Of branch points, one with ⟨p, B(q, q)⟩ = 0 is a
    pitchfork, otherwise transcritical (p, q null vectors, B second derivatives).

    Parameters
    ----------
    system : a Landscape with the parameter, or a function λ ↦ field, a field as in `find_fixed_points`.
    parameter : its name. bounds : (lower, upper).
    start : a point near a branch, with `at` the value of the parameter there (default the lower bound); None takes
        every fixed point in the box at either bound.
    box : as in `find_cycles`; a branch ends where it leaves it. temperature : as in `find_cycles`.
    step : longest step in units of box and bounds. most : points per branch and direction.

    Returns
    -------
    list of `Branch`. Raises ValueError for an unknown parameter, and NotConverged where `start` leads to no root.

    When not to use it: a branch that meets no bound and no other branch in the box (an isola) needs a `start` on it.
    Sources: Keller (1977); Kuznetsov (2004), §10.2.
    """
    family = parametric(system, parameter, bounds, box, temperature)
    step, most = _checks.positive("step", step), _checks.whole("most", most, 2)
    search = _Search(family, step, most)
    if start is None:
        if at is not None:
            raise ValueError("at is where start is; give start too, or leave at out")
        for value, end in ((family.low, 0.0), (family.high, 1.0)):
            for point in fixed_points(family.at(value)):
                search.take_up(np.append(search.unit(point.position), end))
    else:
        value = family.low if at is None else float(_checks.finite_array("at", at, ()))
        if not family.low <= value <= family.high:
            raise ValueError(f"at must lie in the bounds ({family.low:g}, {family.high:g}), got {value:g}")
        position = _checks.finite_array("start", start, (len(family.domain.variables),))
        search.take_up(np.append(search.unit(position), (value - family.low) / (family.high - family.low)))
    return search.branches


class _Search:
    """Branches in units of the box and of the bounds: u = (x, λ), each in [0, 1]."""

    def __init__(self, family: Parametric, step: float, most: int):
        self.family, self.step, self.most = family, step, most
        self.d = len(family.domain.variables)
        self.lower, self.width = family.domain.lower, family.domain.upper - family.domain.lower
        self.branches: list[Branch] = []
        self.curves: list[list[Point]] = []

    def unit(self, x: np.ndarray) -> np.ndarray:
        return (x - self.lower) / self.width

    def split(self, u: np.ndarray) -> tuple[np.ndarray, float]:
        return self.lower + u[:-1] * self.width, self.family.low + float(u[-1]) * (self.family.high - self.family.low)

    def equations(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, value = self.split(u)
        rates = self.family.value(x[None], np.array([value]))[0] / self.width
        slope = self.family.jacobian(x[None], np.array([value]))[0] / self.width[:, None]
        return rates, slope * np.append(self.width, self.family.high - self.family.low)

    def matrix(self, u: np.ndarray) -> np.ndarray:
        return self.equations(u)[1][:, :-1]

    def eigenvalues(self, u: np.ndarray) -> np.ndarray:
        values = np.linalg.eigvals(self.matrix(u)).astype(complex)
        return values[np.lexsort((-values.imag, -values.real))]

    def within(self, u: np.ndarray) -> bool:
        return bool(((u >= -1e-12) & (u <= 1 + 1e-12)).all())

    def take_up(self, guess: np.ndarray, direction: np.ndarray | None = None) -> None:
        """The branch through a guess, both ways, unless it is known; then those that cross it."""
        along = np.eye(self.d + 1)[-1] if direction is None else direction
        try:
            u = correct(self.equations, guess, along)
        except NotConverged as fault:
            if direction is not None:
                return
            raise NotConverged(f"no branch was found from {self.split(guess)[0].tolist()}; start nearer") from fault
        if self.known(u):
            return
        t = tangent(self.equations, u, along)
        points, end = self._half(Point(u, -t, 0.0))
        curve, ends = [Point(p.u, -p.t, -p.s) for p in points[::-1]], (end, end)
        if end != "closed":
            points, other = self._half(Point(u, t, 0.0))
            curve, ends = curve + points[1:], (end, other)
        if len(curve) < 2:
            return
        self.curves.append(curve)
        bifurcations = self._bifurcations(curve)
        self.branches.append(
            Branch(self._dataset(curve, ends), tuple(b for b, _, _ in bifurcations), self.family.parameter)
        )
        for bifurcation, where, way in bifurcations:
            if bifurcation.kind in ("pitchfork", "transcritical"):
                across = self._across(where, way)
                for side in (-1, 1):
                    self.take_up(where + side * 0.5 * self.step * across, side * across)

    def _half(self, start: Point) -> tuple[list[Point], str]:
        """The branch one way, and why it ends, as in `Branch`."""
        if not self.within(ahead := start.u + 1e-9 * start.t):
            return [start], self._side(ahead)
        points, end = follow(
            self.equations, start, self.within, step=self.step, smallest=1e-6 * self.step, most=self.most
        )
        last = points[-1]
        if end == "outside":  # ended exactly at the bound it crossed
            end = self._side(last.u)
            gap = np.maximum(last.u - 1, -last.u)
            k, before = int(gap.argmax()), points[-2]
            bound = 1.0 if last.u[k] > 1 else 0.0
            if (before.u[k] - bound) * (last.u[k] - bound) < 0:
                u = locate(self.equations, before, last, lambda u, t: float(u[k] - bound))
                u[k] = bound
                points[-1] = Point(
                    u, tangent(self.equations, u, last.t), before.s + float(np.linalg.norm(u - before.u))
                )
            else:
                points.pop()
        return points, end

    def _side(self, u: np.ndarray) -> str:
        """What a point outside has crossed most."""
        return "bounds" if int(np.maximum(u - 1, -u).argmax()) == self.d else "box"

    def known(self, u: np.ndarray) -> bool:
        """True on a branch that has been followed: where the plane through u across it meets it in u."""
        for curve in self.curves:
            points = np.array([p.u for p in curve])
            k = int(np.linalg.norm(points - u, axis=-1).argmin())
            if np.linalg.norm(points[k] - u) > 2 * self.step:
                continue
            try:
                here = correct(self.equations, points[k] + ((u - points[k]) @ curve[k].t) * curve[k].t, curve[k].t)
            except NotConverged:
                continue
            if np.linalg.norm(here - u) <= 1e-6:
                return True
        return False

    def _bifurcations(self, curve: list[Point]) -> list[tuple[Bifurcation, np.ndarray, np.ndarray]]:
        tests = {
            "bend": lambda u, t: float(t[-1]),
            "": lambda u, t: float(np.linalg.det(self.matrix(u))),
            "Hopf": lambda u, t: self._sums(u),
        }
        found: list[tuple[int, np.ndarray, np.ndarray, str]] = []
        for kind, test in tests.items():
            values = [test(p.u, p.t) for p in curve]
            for i, k in sign_changes(values):
                if kind or not any(i <= other < k for other, _, _, what in found if what == "bend"):
                    zero = (lambda u, t: self._sums(u, exact=True)) if kind == "Hopf" else test
                    u = locate(self.equations, curve[i], curve[k], zero)
                    if kind != "Hopf" or self._turning(u):
                        found.append((i, u, curve[i].t, kind))
        result = []

        def length(entry: tuple[int, np.ndarray, np.ndarray, str]) -> float:
            i, u, way, _ = entry
            return curve[i].s + float((u - curve[i].u) @ way)

        for _, u, way, kind in sorted(found, key=length):
            exact = None if kind == "Hopf" else branch_point(self.equations, u)
            if exact is not None:
                u, kind = exact, "branch point"
            result.append((self._named(u, "fold" if kind in ("bend", "") else kind), u, way))
        return result

    def _sums(self, u: np.ndarray, exact: bool = False) -> float:
        """Π_{i<k} (λ_i + λ_k) over the largest |λ|: smooth, and 0 at a Hopf point or where λ_i = −λ_k are real.

        A sum below rounding makes it 0 unless `exact`: a pair on the axis all along the branch crosses nothing.
        """
        sums, _ = self._pairs(u)
        return 0.0 if not exact and (np.abs(sums) <= 2 * NEUTRAL).any() else float(np.prod(sums).real)

    def _turning(self, u: np.ndarray) -> bool:
        """True where the λ_i + λ_k nearest 0 is that of a complex pair, and not of a saddle."""
        sums, first = self._pairs(u)
        return bool(np.abs(first[np.abs(sums).argmin()].imag) > 1e-7)

    def _pairs(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values = self.eigenvalues(u)
        values = values / max(float(np.abs(values).max()), 1e-300)
        i, k = np.triu_indices(self.d, 1)
        return values[i] + values[k], values[i]

    def _named(self, u: np.ndarray, kind: str) -> Bifurcation:
        x, value = self.split(u)
        values = self.eigenvalues(u)
        if kind == "Hopf":
            omega = np.abs(values.imag[np.abs(values.imag) > 0][np.abs(values.real[np.abs(values.imag) > 0]).argmin()])
            return Bifurcation("Hopf", value, x, values, float(2 * np.pi / omega))
        if kind == "fold":
            return Bifurcation("fold", value, x, values)
        slope = self.equations(u)[1]
        left, _, rows = np.linalg.svd(slope[:, :-1])
        p, q = left[:, -1], rows[-1]
        h = 3e-3
        ahead, behind = (self.matrix(u + side * h * np.append(q, 0.0)) @ q for side in (1, -1))
        square = abs(p @ (ahead - behind)) / (2 * h)
        cubic = abs(p @ (ahead - 2 * slope[:, :-1] @ q + behind)) / h**2
        pitchfork = square <= 1e-3 * max(cubic, float(np.linalg.norm(slope)))
        return Bifurcation("pitchfork" if pitchfork else "transcritical", value, x, values)

    def _across(self, u: np.ndarray, way: np.ndarray) -> np.ndarray:
        """The null direction of ∂F/∂u across the branch's own, at a branch point."""
        plane = np.linalg.svd(self.equations(u)[1])[2][-2:]
        own = plane @ way
        return np.array([-own[1], own[0]]) @ plane / np.linalg.norm(own)

    def _dataset(self, curve: list[Point], ends: tuple[str, str]) -> xr.Dataset:
        u = np.array([p.u for p in curve])
        split = [self.split(row) for row in u]
        values = np.array([self.eigenvalues(row) for row in u])
        data: dict[str, Any] = {
            name: ("point", np.array([x[i] for x, _ in split])) for i, name in enumerate(self.family.domain.variables)
        }
        data[self.family.parameter] = ("point", np.array([value for _, value in split]))
        data["eigenvalue"] = (("point", "mode"), values)
        largest = np.abs(values).max(-1)
        data["stable"] = ("point", values.real.max(-1) < -NEUTRAL * largest)
        residual = max(float(np.abs(self.equations(row)[0]).max()) for row in u)
        attrs = {"step": self.step, "residual": residual, "method": "pseudo-arclength", "ends": ends}
        return xr.Dataset(data, attrs=attrs)
