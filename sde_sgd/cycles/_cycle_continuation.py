"""Closed orbits over a parameter: pseudo-arclength on the equations of multiple shooting, with their bifurcations."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from scipy.special import expit

from sde_sgd import _checks
from sde_sgd.errors import NotConverged

from ._arclength import Point, correct, follow, locate, sign_changes, tangent
from ._branch import Bifurcation, Branch
from ._cycle import Cycle
from ._floquet import log_multipliers, transverse_blocks
from ._flow import flow, spread, variational
from ._parametric import Parametric, parametric

SEGMENTS = 16
NEUTRAL = 1e-7


def continue_cycles(
    system: Any,
    parameter: str,
    bounds: Sequence[float],
    cycle: Cycle,
    *,
    at: float | None = None,
    box: Any = None,
    temperature: float | None = None,
    step: float = 0.02,
    most: int = 400,
    longest: float = 1e3,
) -> Branch:
    """A periodic orbit of ẋ = v(x; λ) over a parameter, both ways from where it is known, and where it bifurcates.

    φ_{T/m}(x_i; λ) = x_{i+1}, i = 1 … m, with ⟨v(x̂), x_1 − x̂⟩ = 0, x̂ the point before, is followed by pseudo-arclength
    in (x_1 … x_m, T, λ): through folds, where dλ/ds = 0. Multipliers across the orbit that cross the unit circle at −1
    are a period doubling, in a pair a torus bifurcation, at +1 without a fold a branch point: the zeros of Π(μ_i + 1),
    Π(μ_i μ_k − 1), Π(μ_i − 1). The branch ends at the bounds, where the orbit leaves the box threefold, shrinks to a
    point (a Hopf bifurcation, named), or T outgrows `longest` times its first value (a homoclinic orbit, or one that
    meets a fixed point); which of them, `points.attrs["ends"]` says. One that closes on itself is followed to `most`.

    Parameters
    ----------
    system, parameter, bounds, box, temperature : as in `continue_fixed_points`.
    cycle : a `Cycle` of the system at the value `at` of the parameter (default the landscape's own).
    step : longest step, in units of the box (root-mean-square over the orbit), the bounds, and the first period.
    most : points each way. longest : bound on the period.

    Returns a `Branch`. Raises ValueError for faults, NotConverged where `cycle` is none of the system at `at`. Doedel,
    Keller & Kernévez (1991). When not to use it: at canards, where the orbit changes within e^(−1/ε) of the parameter.
    """
    family = parametric(system, parameter, bounds, box, temperature)
    _checks.instance("cycle", cycle, Cycle, "find one by find_cycles")
    step, most = _checks.positive("step", step), _checks.whole("most", most, 2)
    own = getattr(system, "parameters", {}).get(parameter) if at is None else at
    if own is None:
        raise ValueError(f"at: say at which value of {parameter} the cycle was found")
    value = float(_checks.finite_array("at", own, ()))
    if not family.low <= value <= family.high:
        raise ValueError(f"at must lie in the bounds ({family.low:g}, {family.high:g}), got {value:g}")
    d = len(family.domain.variables)
    if cycle.points.shape[-1] != d:
        raise ValueError(f"cycle has {cycle.points.shape[-1]} variables and the system {d}; give one of this system")
    if any(cycle.winding):
        raise ValueError("a cycle that winds round a periodic axis cannot be continued; unroll the axis")
    return _Following(family, cycle, value, _checks.positive("longest", longest)).run(step, most)


class _Following:
    """Unknowns u = (x_1 … x_m in boxes, each /√m, T/T₀, λ in bounds), so that |du| is a root-mean-square distance."""

    def __init__(self, family: Parametric, cycle: Cycle, value: float, longest: float):
        self.family, self.longest, self.first = family, longest, cycle.period
        self.d = len(family.domain.variables)
        self.m = SEGMENTS
        self.lower, self.width = family.domain.lower, family.domain.upper - family.domain.lower
        self.span = family.high - family.low
        every = np.arange(self.m) * len(cycle.points) / self.m
        jumps = family.at(value).gap(np.diff(cycle.points, axis=0))  # the points are wrapped on periodic axes
        points = cycle.points[0] + np.concatenate([np.zeros((1, self.d)), np.cumsum(jumps, axis=0)])
        nodes = (points[np.floor(every).astype(int)] - self.lower) / self.width
        exact = self._advance(nodes, value, (every % 1) * cycle.period / len(cycle.points))
        self.start = self._pack(exact, 1.0, (value - family.low) / self.span)
        self._renew(self.start)

    def _pack(self, nodes: np.ndarray, period: float, value: float) -> np.ndarray:
        return np.concatenate([nodes.ravel() / np.sqrt(self.m), [period, value]])

    def split(self, u: np.ndarray) -> tuple[np.ndarray, float, float]:
        nodes = u[:-2].reshape(self.m, self.d) * np.sqrt(self.m)
        return nodes, float(u[-2]) * self.first, self.family.low + float(u[-1]) * self.span

    def rate(self, y: np.ndarray, value: float) -> np.ndarray:
        return self.family.value(self.lower + y * self.width, np.full(len(y), value)) / self.width

    def _advance(self, y: np.ndarray, value: float, time: np.ndarray) -> np.ndarray:
        return flow(lambda p: self.rate(p, value), y, time, np.ones(self.d), 1e-12)

    def _renew(self, u: np.ndarray) -> None:
        nodes, _, value = self.split(u)
        self.anchor, velocity = nodes[0], self.rate(nodes[:1], value)[0]
        self.normal = velocity / np.linalg.norm(velocity)

    def segments(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """φ_{T/m} of the nodes (m, d), and its derivatives by them and the parameter (m, d, d + 1)."""
        nodes, period, value = self.split(u)
        m, d = self.m, self.d

        def field(z: np.ndarray) -> np.ndarray:
            return np.concatenate([self.rate(z[:, :d], value), np.zeros((len(z), 1))], axis=1)

        def jacobian(z: np.ndarray) -> np.ndarray:
            slope = self.family.jacobian(self.lower + z[:, :d] * self.width, np.full(len(z), value))
            slope = slope * np.append(self.width, self.span) / self.width[:, None]
            return np.concatenate([slope, np.zeros((len(z), 1, d + 1))], axis=1)

        state = np.concatenate([nodes, np.zeros((m, 1)), np.tile(np.eye(d + 1).ravel(), (m, 1))], axis=1)
        rhs = variational(field, jacobian, d + 1)
        end = flow(rhs, state, np.full(m, period / m), np.ones(state.shape[1]), 1e-11, 1000)
        return end[:, :d], end[:, d + 1 :].reshape(m, d + 1, d + 1)[:, :d]

    def equations(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        nodes, _, value = self.split(u)
        end, slope = self.segments(u)
        m, d, n = self.m, self.d, self.m * self.d
        jacobian = np.zeros((n + 1, n + 2))
        for i in range(m):
            rows, after = slice(i * d, i * d + d), ((i + 1) % m) * d
            jacobian[rows, rows] = slope[i, :, :d] * np.sqrt(m)
            jacobian[rows, after : after + d] -= np.eye(d) * np.sqrt(m)
        finite = np.where(np.isfinite(end), end, self.lower)
        jacobian[:n, n] = (self.rate(finite, value) * self.first / m).ravel()
        jacobian[:n, n + 1] = slope[:, :, d].ravel()
        jacobian[n, :d] = self.normal * np.sqrt(m)
        rest = (end - np.roll(nodes, -1, axis=0)).ravel()
        return np.append(rest, self.normal @ (nodes[0] - self.anchor)), jacobian

    def multipliers(self, u: np.ndarray) -> np.ndarray:
        """log μ across the orbit, descending."""
        nodes, _, value = self.split(u)
        blocks, _ = transverse_blocks(self.rate(nodes, value), self.segments(u)[1][:, :, : self.d])
        return log_multipliers(blocks)

    def within(self, u: np.ndarray) -> bool:
        nodes, period, _ = self.split(u)
        near = bool(((nodes > -1) & (nodes < 2)).all())
        return -1e-12 <= u[-1] <= 1 + 1e-12 and near and self.size(u) > 1e-3 and period < self.longest * self.first

    def same_side(self, u: np.ndarray) -> bool:
        """False beyond a Hopf point, where the orbit has shrunk through a point and is met again half a turn on."""
        nodes, _, value = self.split(u)
        velocity = self.rate(nodes[:1], value)[0]
        return float(velocity @ self.normal) > 0.5 * float(np.linalg.norm(velocity))

    def size(self, u: np.ndarray) -> float:
        return float(np.linalg.norm(np.ptp(self.split(u)[0], axis=0)))

    def run(self, step: float, most: int) -> Branch:
        last = np.eye(len(self.start))[-1]
        try:
            u = correct(self.equations, self.start, last, 1e-11)
        except NotConverged as fault:
            raise NotConverged(
                "the cycle given does not close in this system at this value of the parameter"
            ) from fault
        forward = tangent(self.equations, u, last)
        halves, ends = [], []
        for side in (-1, 1):
            self._renew(u)
            first = Point(u, side * forward, 0.0)
            points, end = follow(
                self.equations,
                first,
                self.within,
                step=step,
                smallest=1e-5 * step,
                most=most,
                sane=self.same_side,
                renew=self._renew,
            )
            ends.append(self._side(points[-1].u) if end == "outside" else end)
            halves.append(self._cut(points))
        back = [Point(p.u, -p.t, -p.s) for p in halves[0][:0:-1]]
        curve = back + halves[1]
        if len(curve) < 2:
            raise NotConverged(f"no step along the branch could be made ({ends}); try a smaller step or another cycle")
        logs = np.array([self.multipliers(p.u) for p in curve])
        found = self._bifurcations(curve, logs, ends)
        data = self._dataset(curve, logs)
        data.attrs |= {"step": step, "ends": tuple(ends)}
        return Branch(data, tuple(found), self.family.parameter)

    def _side(self, u: np.ndarray) -> str:
        """Why a point is not `within`."""
        _, period, _ = self.split(u)
        if not -1e-12 <= u[-1] <= 1 + 1e-12:
            return "bounds"
        if period >= self.longest * self.first:
            return "period"
        return "point" if self.size(u) <= 1e-3 else "box"

    def _cut(self, points: list[Point]) -> list[Point]:
        """The last point at the bound it crossed; left out where it is beyond the end for another reason."""
        last = points[-1]
        if self.within(last.u) or len(points) < 2:
            return points
        before = points.pop()
        bound = 1.0 if before.u[-1] > 1 else 0.0
        if (points[-1].u[-1] - bound) * (before.u[-1] - bound) < 0:
            self._renew(points[-1].u)
            u = locate(self.equations, points[-1], before, lambda u, t: float(u[-1] - bound))
            u[-1] = bound
            points.append(
                Point(u, tangent(self.equations, u, before.t), points[-1].s + float(np.linalg.norm(u - points[-1].u)))
            )
        return points

    def _bifurcations(self, curve: list[Point], logs: np.ndarray, ends: list[str]) -> list[Bifurcation]:
        found: list[tuple[float, str, np.ndarray]] = []  # length along the branch, kind, u
        for kind in ("fold", "branch point", "period doubling", "torus"):

            def test(u: np.ndarray, t: np.ndarray) -> float:
                return float(t[-1]) if kind == "fold" else float(np.prod(_crossings(self.multipliers(u), kind)).real)  # noqa: B023

            if kind == "fold":
                values = [p.t[-1] for p in curve]
            else:  # a multiplier on the circle all along the branch crosses nothing
                factors = [_crossings(g, kind) for g in logs]
                values = [0.0 if (np.abs(f) <= NEUTRAL).any() else float(np.prod(f).real) for f in factors]
            for i, k in sign_changes(values):
                self._renew(curve[i].u)
                u = locate(self.equations, curve[i], curve[k], test)
                # At a fold a multiplier is 1 as well; a real pair μ, 1/μ is no torus.
                folds = [w for _, what, w in found if what == "fold"]
                if kind == "branch point" and any(np.abs(u[-2:] - w[-2:]).max() < 1e-5 for w in folds):
                    continue
                if kind == "torus" and not _rotates(self.multipliers(u)):
                    continue
                found.append((curve[i].s + float((u - curve[i].u) @ curve[i].t), kind, u))
        result = []
        for _, kind, u in sorted(found, key=lambda entry: entry[0]):
            nodes, period, value = self.split(u)
            where = self.lower + nodes[0] * self.width
            result.append(Bifurcation(kind, value, where, np.exp(self.multipliers(u)), period))
        for end in (0, -1):  # an orbit that shrinks to a point: its size vanishes like a root of the parameter
            far = curve[1 if end == 0 else -2]
            here = curve[end]
            shrinks = ends[end] in ("point", "step") and self.size(here.u) < 0.03
            if shrinks and self.size(here.u) < self.size(far.u):
                squares, values = self.size(here.u) ** 2 / (self.size(far.u) ** 2 - self.size(here.u) ** 2), here.u[-1]
                value = self.family.low + (values - (far.u[-1] - values) * squares) * self.span
                nodes, period, _ = self.split(here.u)
                hopf = Bifurcation("Hopf", value, self.lower + nodes.mean(0) * self.width, np.exp(logs[end]), period)
                result.insert(0, hopf) if end == 0 else result.append(hopf)
        return result

    def _dataset(self, curve: list[Point], logs: np.ndarray) -> xr.Dataset:
        split = [self.split(p.u) for p in curve]
        data: dict[str, Any] = {self.family.parameter: ("point", np.array([value for _, _, value in split]))}
        data["period"] = ("point", np.array([period for _, period, _ in split]))
        lows, highs = zip(*(self._range(*s) for s in split))
        for i, name in enumerate(self.family.domain.variables):
            data[name] = ("point", np.array([self.lower[i] + nodes[0, i] * self.width[i] for nodes, _, _ in split]))
            data[f"minimum_{name}"] = ("point", np.array([low[i] for low in lows]))
            data[f"maximum_{name}"] = ("point", np.array([high[i] for high in highs]))
        data["multiplier"] = (("point", "mode"), np.exp(logs))
        data["stable"] = ("point", (logs.real < -NEUTRAL).all(-1))
        return xr.Dataset(data, attrs={"segments": self.m, "method": "multiple shooting, pseudo-arclength"})

    def _range(self, nodes: np.ndarray, period: float, value: float) -> tuple[np.ndarray, np.ndarray]:
        points = spread(lambda p: self.rate(p, value), nodes, np.full(self.m, period / self.m), 16, 1e-12)
        all_of_it = self.lower + points * self.width
        return all_of_it.min((0, 1)), all_of_it.max((0, 1))


def _crossings(logs: np.ndarray, kind: str) -> np.ndarray:
    """Factors whose product is real, smooth along a branch, and 0 at a bifurcation, from log μ.

    (μ_i − 1)/(1 + |μ_i|), (μ_i + 1)/(1 + |μ_i|), and (μ_i μ_k − 1)/(1 + |μ_i μ_k|) for i < k: bounded, whatever μ.
    """
    if kind == "torus":
        i, k = np.triu_indices(len(logs), 1)
        logs = logs[i] + logs[k]
    turn = np.exp(1j * logs.imag)
    return turn * expit(logs.real) + (1 if kind == "period doubling" else -1) * expit(-logs.real)


def _rotates(logs: np.ndarray) -> bool:
    """True where the two multipliers whose product is nearest 1 are a complex pair."""
    i, _ = np.triu_indices(len(logs), 1)
    angle = np.abs(logs.imag[i[np.abs(_crossings(logs, "torus")).argmin()]])
    return bool(1e-6 < angle < np.pi - 1e-6)
