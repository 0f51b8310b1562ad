"""All closed orbits of a field in a box."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sde_sgd import _checks
from sde_sgd.errors import NotConverged

from ._cycle import Cycle, make_cycle
from ._field import Field, as_field
from ._fixed_points import FixedPoint, fixed_points
from ._flow import flow, flow_and_derivative
from ._recurrence import Guess, Trajectories, starts
from ._shooting import (
    ROUGH,
    SETTLED,
    Closed,
    along,
    curves,
    in_family,
    multiple_shooting,
    newton,
    one_turn,
    primitive,
    return_gap,
    segments_for,
)

BATCH = 24  # guesses tried at a time: most lead to the same few orbits
REPRESENTATIVES = 5  # orbits that stand for a family
EARLY, LATE = 0.02, 0.3  # gap over width at which a guess is tried on the way, and at the end


def find_cycles(
    field: Any,
    box: Any = None,
    *,
    variables: Sequence[str] | None = None,
    temperature: float | None = None,
    starts: int = 64,
    steps: int = 1500,
    points: int = 256,
    closure: float | None = None,
) -> list[Cycle]:
    """The periodic orbits of ẋ = v(x) that lie in a box, by recurrence, Newton's method, and Floquet's theory.

    Trajectories run forward and backward in time (so that repelling orbits attract). A return is a crossing of the
    plane across the velocity, wherever between two steps it lies; where one comes back to within 2 % of the width of
    its loop, Newton's method on (point, period) decides, with the variational equations: an orbit is one only if the
    last step is below 1e-6 of its width. A slow focus, or a slow passage, has returns but no such root. Orbits are
    then closed to rounding by multiple shooting, in 8 to 64 segments, and told apart by the distance of their curves.

    Parameters
    ----------
    field : v: a `Process` or a `Landscape` (its drift b), a function (..., d) → (..., d), or a DataArray over a grid
        with the last dimension component, as the `remainder` of `decompose` (through its values a cubic spline).
    box : ((lower, upper), …), one pair per variable, or (lower, upper, "periodic") for a function or grid that closes
        on itself; None is the domain of the field.
    variables : names, for a function. temperature : for a landscape whose drift contains T; default its own.
    starts : number of starting points in the box; four more are taken beside every fixed point (d ≤ 3).
    steps : of the integrator (order 8) per trajectory at most; a slow transient or a chaotic one needs more.
    points : per orbit, in the result.
    closure : an orbit belongs to a family of closed orbits (a centre) if neighbours, at most 2 % of its width off,
        return to within this part of that distance. Default 1e-6; 0.1 for values on a grid, whose errors make every
        orbit of a centre miss itself a little: that none is exactly closed then is seen in `residual`.

    Returns
    -------
    list of Cycle, shortest first; of a family five orbits between the smallest and the largest found.

    Raises ValueError for a field or box that does not fit.

    When not to use it: "all" is what the starts reach. In the plane every hyperbolic cycle attracts in one direction of
    time, and is found if a start lies in its basin; beyond, an orbit of saddle type is found only where a trajectory
    happens to come near it, and a multiplier below about e^(−2000/d) has few digits. Orbits smaller than 1e-4 of the
    box count as fixed points. An explicit integrator stops at stiffness beyond about 5000 (fastest rate times period).
    Sources: Kuznetsov (2004), §10; Seydel (2010), §7.
    """
    v = as_field(field, box, variables, temperature)
    number, steps = _checks.whole("starts", starts, 1), _checks.whole("steps", steps, 50)
    points = _checks.whole("points", points, 8)
    close = (0.1 if v.sampled else 1e-6) if closure is None else _checks.positive("closure", closure)
    if v.dim < 2 and not any(v.domain.periodic):
        return []  # on a line nothing returns
    unit = v.scaled()
    rest = fixed_points(v) if v.dim <= 3 else []
    search = _Search(v, unit, rest, close)
    search.run(number, steps)
    return search.results(points)


class _Search:
    """Closed orbits found so far: `alone` and, in a family, `members`, each a single row of a `Closed`."""

    def __init__(self, v: Field, unit: Field, rest: list[FixedPoint], closure: float):
        self.v, self.unit, self.rest, self.closure = v, unit, rest, closure
        self.alone: list[Closed] = []
        self.members: list[Closed] = []
        self._drawn: dict[int, tuple[np.ndarray, float]] = {}  # curves of orbits, which both lists keep alive

    def run(self, number: int, steps: int) -> None:
        low, width = self.v.lower, self.v.upper - self.v.lower
        begin = starts(self.unit, number, self.rest, low, width)
        rest = np.array([(p.position - low) / width for p in self.rest]).reshape(-1, self.v.dim)
        attracts = np.array(
            [[(p.eigenvalues.real * sign < 0).all() for sign in (1, -1)] for p in self.rest], bool
        ).reshape(-1, 2)
        paths = Trajectories(self.unit, begin, rest, attracts, steps)
        done, total, turn = 0, 60, np.random.default_rng(0)
        while done < steps and paths.live.any():
            paths.advance(min(total, steps) - done)
            done, total = min(total, steps), 2 * total
            paths.live &= ~self._resolved(paths)
            guess = paths.guesses(np.flatnonzero(paths.live), EARLY)
            paths.live[self._try(_rows(guess, turn.permutation(len(guess.x))[:BATCH]))] = False
        # What is still under way when the steps are used up: slow transients, chaos, weak foci.
        last = np.flatnonzero(paths.run.ok & (paths.count >= paths.t.shape[1] - 1) & ~self._resolved(paths))
        guess = paths.guesses(last, LATE)
        for first in range(0, len(guess.x), BATCH):
            self._try(_rows(guess, np.arange(first, min(first + BATCH, len(guess.x)))))

    def _resolved(self, paths: Trajectories) -> np.ndarray:
        """Trajectories whose last point lies on an orbit that is known."""
        known = np.zeros(len(paths.count), bool)
        some = np.flatnonzero(paths.live | (paths.count >= paths.t.shape[1] - 1))
        for orbit in self.alone:
            known[some] |= self._distance(paths.run.x[some], orbit) < 1e-3 * orbit.extent[0]
        return known

    def _try(self, guess: Guess) -> np.ndarray:
        """Newton on guesses; the trajectories whose guess led to an orbit."""
        if not len(guess.x):
            return guess.trajectory
        found = newton(self.unit, guess.x, guess.period, guess.sign, guess.extent, 60 + 5 * guess.steps)
        family = found.found.copy()
        some = np.flatnonzero(found.found)
        family[some] = in_family(self.unit, _rows(found, some), self.closure)
        # With errors in v the orbits of a centre are spirals: no root, yet closed as far as anyone can tell.
        rough = np.flatnonzero(~found.found & (guess.gap <= 10 * self.closure)) if self.v.sampled else np.array([], int)
        if len(rough):
            spiral = self._as_closed(_rows(guess, rough))
            inside = spiral.found & in_family(self.unit, spiral, self.closure)
            for name in ("x", "period", "monodromy", "sign", "extent", "found"):
                getattr(found, name)[rough[inside]] = getattr(spiral, name)[inside]
            family[rough[inside]] = True
            some = np.flatnonzero(family)
            f = _rows(found, some)
            found.period[some] = primitive(self.unit, f.x, f.period, f.sign, f.extent, 0.1 * self.closure)
        self.members += [_rows(found, np.array([i])) for i in np.flatnonzero(found.found & family)]
        new = found.found & ~family
        for orbit in self.alone:
            new &= ~self._on(found.x, new, orbit)
        while new.any():
            self.alone.append(_rows(found, np.flatnonzero(new)[:1]))
            new[np.flatnonzero(new)[0]] = False
            new &= ~self._on(found.x, new, self.alone[-1])
        return guess.trajectory[found.found]

    def _as_closed(self, guess: Guess) -> Closed:
        gap, period = return_gap(self.unit, guess.x, guess.period, guess.sign)
        _, m = flow_and_derivative(
            self.unit.value, self.unit.jacobian, guess.x, guess.sign * period, np.ones(self.v.dim), ROUGH
        )
        good = (gap <= 0.1 * self.closure * guess.extent) & np.isfinite(m).all((-1, -2))
        m[~good] = np.eye(self.v.dim)
        return Closed(guess.x, period, m, guess.sign, guess.extent, good)

    def _distance(self, x: np.ndarray, orbit: Closed) -> np.ndarray:
        """Distances of points (n, d) from an orbit's curve, by projection along the flow from its nearest sample."""
        curve, length = self._curve(orbit)
        nearest = np.linalg.norm(self.unit.gap(x[:, None] - curve[None]), axis=-1).argmin(-1)
        point, direction = curve[nearest], along(self.unit)
        for _ in range(10):  # slow where the curve bends within the distance of two samples
            late = (self.unit.gap(x - point) * direction(point)).sum(-1)
            late = np.clip(late, -length / 128, length / 128)
            if (np.abs(late) <= 1e-8 * length).all():
                break
            point = flow(direction, point, late, np.ones(self.v.dim), ROUGH)
        return np.linalg.norm(self.unit.gap(x - point), axis=-1)

    def _curve(self, orbit: Closed) -> tuple[np.ndarray, float]:
        if id(orbit) not in self._drawn:
            points, length = curves(self.unit, orbit)
            self._drawn[id(orbit)] = points[0], float(length[0])
        return self._drawn[id(orbit)]

    def _on(self, x: np.ndarray, which: np.ndarray, orbit: Closed) -> np.ndarray:
        """True for those points `which` that lie on an orbit."""
        same, some = np.zeros(len(x), bool), np.flatnonzero(which)
        same[some] = self._distance(x[some], orbit) <= 1e-5 * orbit.extent[0]
        return same

    # -- results ---------------------------------------------------------------------------------------------

    def results(self, points: int) -> list[Cycle]:
        low, width = self.v.lower, self.v.upper - self.v.lower
        families = self._families()
        kinds = {self._signature(m) for members in families for m in members} - {None}
        cycles: list[Cycle] = []
        for orbit in self.alone:
            cycle = self._refined(orbit, points)
            # Beside a separatrix no neighbour is near enough to show the family an orbit belongs to.
            if cycle is None or (cycle.kind == "non-hyperbolic" and self._signature(orbit) in kinds):
                continue
            if not any(_twins(cycle, other) for other in cycles):
                cycles.append(cycle)
        for number, members in enumerate(families):
            cycles += [c for c in (self._refined(m, points, number) for m in members) if c is not None]
        slack = 1e-9 * width
        within = [(c.points >= low - slack).all() and (c.points <= low + width + slack).all() for c in cycles]
        return sorted((c for c, w in zip(cycles, within) if w), key=lambda c: c.length)

    def _refined(self, orbit: Closed, points: int, family: int | None = None) -> Cycle | None:
        period = float(orbit.period[0])
        try:
            nodes = segments_for(self.unit, orbit.x[0], period, float(orbit.sign[0]))
            if family is not None and self.v.sampled:
                shot = one_turn(self.unit, nodes, period)  # Newton would follow the spiral down to its end
            else:
                shot = multiple_shooting(self.unit, nodes, period, tolerance=SETTLED)
        except NotConverged:
            return None
        if np.linalg.norm(np.ptp(shot.nodes, axis=0)) < 0.2 * orbit.extent[0]:
            return None
        return make_cycle(self.v, self.unit, shot, points, family)

    def _families(self) -> list[list[Closed]]:
        """Members sorted into families, five of each spread between the smallest and the largest.

        In the plane those that go round the same fixed points the same way; otherwise all that are linked by steps
        shorter than a quarter of their width.
        """
        if self.members:
            points, lengths = curves(self.unit, _joined(self.members))
            self._drawn |= {id(m): (p, float(l)) for m, p, l in zip(self.members, points, lengths)}
        members = [m for m in self.members if self.unit.inside(self._curve(m)[0], 1e-9).all()]
        if members and self._signature(members[0]) is not None:
            groups: dict[Any, list[Closed]] = {}
            for member in members:
                groups.setdefault(self._signature(member), []).append(member)
            families = list(groups.values())
        else:
            families = self._linked(members)
        chosen = []
        for family in families:
            family.sort(key=lambda m: float(m.extent[0]))
            extents = np.array([m.extent[0] for m in family])
            wanted = np.linspace(extents[0], extents[-1], REPRESENTATIVES)
            picks = sorted({int(np.abs(extents - w).argmin()) for w in wanted})
            chosen.append([family[k] for k in picks])
        return chosen

    def _signature(self, orbit: Closed) -> tuple | None:
        """How often an orbit in the plane goes round each fixed point; None elsewhere."""
        if self.v.dim != 2 or any(self.v.domain.periodic):
            return None
        curve = self._curve(orbit)[0][:: int(orbit.sign[0])]
        low, width = self.v.lower, self.v.upper - self.v.lower
        following = np.roll(curve, -1, axis=0)
        turns = []
        for point in self.rest:
            a, b = curve - (point.position - low) / width, following - (point.position - low) / width
            turns.append(
                round(float(np.arctan2(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0], (a * b).sum(-1)).sum() / 2 / np.pi))
            )
        return tuple(turns)

    def _linked(self, members: list[Closed]) -> list[list[Closed]]:
        families: list[list[Closed]] = []
        for member in members:
            near = [
                f
                for f in families
                if any(float(self._distance(member.x, o)[0]) < 0.25 * max(member.extent[0], o.extent[0]) for o in f)
            ]
            families = [f for f in families if not any(f is g for g in near)]
            families.append([member, *(o for f in near for o in f)])
        return families


def _twins(a: Cycle, b: Cycle) -> bool:
    """Two records of one orbit: equal to rounding in everything that does not depend on where it starts."""
    same = np.isclose(a.period, b.period, rtol=1e-9) and np.isclose(a.length, b.length, rtol=1e-8)
    close = np.linalg.norm(a.points[:1] - b.points, axis=-1).min() < 0.1 * a.length
    return bool(same and close and np.allclose(a.lyapunov_exponents, b.lyapunov_exponents, rtol=1e-6, atol=1e-9))


def _rows(batch: Any, rows: np.ndarray) -> Any:
    """The same record with these rows of every array."""
    return type(batch)(**{name: getattr(batch, name)[rows] for name in batch.__dataclass_fields__})


def _joined(orbits: list[Closed]) -> Closed:
    """The rows of all in one."""
    return Closed(*(np.concatenate([getattr(o, name) for o in orbits]) for name in Closed.__dataclass_fields__))
