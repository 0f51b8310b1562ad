"""Closed orbits for `potential.py`: shooting against collocation, from the same guess to the same accuracy."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.integrate
from _machine import best_seconds, table

import sde_sgd as sde
from sde_sgd.cycles._field import as_field
from sde_sgd.cycles._shooting import SETTLED, multiple_shooting, newton, segments_for

ACCURACIES = 1e-8, 1e-12  # relative errors of the period asked of the peer; shooting has one, rounding
OFF = 1.02  # the guess: an orbit integrated at rtol 1e-3, its period this much too large
TOLERANCES = 10.0 ** -np.arange(3, 11)
MOST = 20_000  # nodes of `solve_bvp`


@dataclass(frozen=True)
class Orbit:
    """ẋ = drift with a closed orbit of known period; `near` leads to it in `after`."""

    name: str
    drift: tuple[str, ...]
    box: tuple[tuple[float, float], ...]
    period: float
    near: tuple[float, ...]
    after: float
    field: Callable[[np.ndarray], list]  # the same in NumPy, (d, n) → d rows
    jacobian: Callable[[np.ndarray], list]  # d rows of d

    def process(self) -> sde.Process:
        names = ("x", "y", "z")[: len(self.drift)]
        return sde.Process(list(self.drift), np.eye(len(names)).tolist(), 1.0, variables=names)

    def rate(self, y: np.ndarray) -> np.ndarray:
        return np.array(np.broadcast_arrays(*self.field(y)))

    def slope(self, y: np.ndarray) -> np.ndarray:
        rows = [np.array(np.broadcast_arrays(*row, y[0])[:-1]) for row in self.jacobian(y)]
        return np.array(rows)


def _hopf(y):
    u, v = y
    r2 = u * u + v * v
    return [u * (1 - r2) - v * (1 + r2 / 2), v * (1 - r2) + u * (1 + r2 / 2)]


def _hopf_slope(y):
    u, v = y
    return [
        [1 - 3 * u * u - v * v - u * v, -2 * u * v - 1 - u * u / 2 - 1.5 * v * v],
        [-2 * u * v + 1 + 1.5 * u * u + v * v / 2, 1 - u * u - 3 * v * v + u * v],
    ]


def _van_der_pol(mu: float, period: float) -> Orbit:
    return Orbit(
        f"van der Pol, μ = {mu:g}",
        ("y", f"{mu:g}*(1 - x**2)*y - x"),
        ((-4.0, 4.0), (-20.0, 20.0)) if mu > 5 else ((-4.0, 4.0), (-4.0, 4.0)),
        period,
        (2.0, 0.0),
        3 * period,
        lambda y: [y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]],
        lambda y: [[0.0, 1.0], [-2 * mu * y[0] * y[1] - 1, mu * (1 - y[0] ** 2)]],
    )


# Periods to 15 digits by Taylor series of order 36 in arithmetic of 40 digits, but for the first, 4π/3.
ORBITS = (
    Orbit(
        "`hopf`",
        ("x*(1 - x**2 - y**2) - y*(1 + (x**2 + y**2)/2)", "y*(1 - x**2 - y**2) + x*(1 + (x**2 + y**2)/2)"),
        ((-2.0, 2.0), (-2.0, 2.0)),
        4 * np.pi / 3,
        (1.0, 0.0),
        0.0,
        _hopf,
        _hopf_slope,
    ),
    _van_der_pol(1.0, 6.66328685932313),
    _van_der_pol(10.0, 19.0783695669390),
    Orbit(
        "Rössler, c = 5.7, the shortest (a saddle)",
        ("-y - z", "x + y/5", "1/5 + z*(x - 57/10)"),
        ((-12.0, 12.0), (-12.0, 12.0), (-1.0, 25.0)),
        5.88108845555388,
        (-7.211, 0.0, 0.01554),
        0.0,
        lambda y: [-y[1] - y[2], y[0] + 0.2 * y[1], 0.2 + y[2] * (y[0] - 5.7)],
        lambda y: [[0.0, -1.0, -1.0], [1.0, 0.2, 0.0], [y[2], 0.0, y[0] - 5.7]],
    ),
)


def guess(orbit: Orbit) -> tuple[np.ndarray, float]:
    """64 points (d, 64) at equal times, and a period."""
    start = np.array(orbit.near)
    rate = lambda t, y: orbit.rate(y)  # noqa: E731
    if orbit.after:
        start = scipy.integrate.solve_ivp(rate, (0.0, orbit.after), start, rtol=1e-3).y[:, -1]
    times = np.linspace(0.0, orbit.period, 64)
    return scipy.integrate.solve_ivp(rate, (0.0, orbit.period), start, t_eval=times, rtol=1e-3).y, OFF * orbit.period


def shooting(orbit: Orbit) -> Callable[[], float]:
    """Newton on (point, period), then multiple shooting to rounding: what `find_cycles` does from its guesses on."""
    path, period = guess(orbit)
    unit = as_field(orbit.process(), orbit.box).scaled()
    low, width = np.array(orbit.box).T[0], np.ptp(np.array(orbit.box), axis=1)
    scaled = (path.T - low) / width
    extent = np.array([np.linalg.norm(scaled - scaled[0], axis=1).max()])

    def work() -> float:
        found = newton(unit, scaled[:1], np.array([period]), np.ones(1), extent, np.array([2000]))
        nodes = segments_for(unit, found.x[0], float(found.period[0]), 1.0)
        return multiple_shooting(unit, nodes, float(found.period[0]), tolerance=SETTLED).period

    return work


def collocation(orbit: Orbit, tolerance: float) -> Callable[[], float]:
    """`solve_bvp` in t/T with T unknown, exact Jacobians; the phase is fixed as in the shooting."""
    path, period = guess(orbit)
    d, anchor = len(path), path[:, 0]
    along = orbit.rate(path[:, :1])[:, 0]

    def jacobian(t, y, p):
        return p[0] * orbit.slope(y), orbit.rate(y)[:, None]

    def ends(a, b, p):
        return np.append(a - b, (a - anchor) @ along)

    def ends_jacobian(a, b, p):
        first = np.vstack([np.eye(d), along])
        return first, np.vstack([-np.eye(d), np.zeros(d)]), np.zeros((d + 1, 1))

    def work() -> float:
        found = scipy.integrate.solve_bvp(
            lambda t, y, p: p[0] * orbit.rate(y), ends, np.linspace(0, 1, path.shape[1]), path, p=[period],
            fun_jac=jacobian, bc_jac=ends_jacobian, tol=tolerance, max_nodes=MOST,
        )  # fmt: skip
        return float(found.p[0]) if found.status == 0 else np.nan

    return work


def error(orbit: Orbit, period: float) -> float:
    return abs(period / orbit.period - 1)


def least(orbit: Orbit, accuracy: float, repeats: int) -> tuple[float, float, float] | None:
    """The loosest tolerance of `solve_bvp` at which the period is this accurate: tolerance, seconds, error; or None."""
    for tolerance in TOLERANCES:
        work = collocation(orbit, tolerance)
        if (off := error(orbit, work())) <= accuracy:
            return tolerance, best_seconds(work, repeats), off
    return None


def section(quick: bool) -> str:
    rows, search = [], []
    for orbit in ORBITS[:2] if quick else ORBITS:
        repeats = 1 if quick else 5
        work = shooting(orbit)
        off = error(orbit, work())
        seconds = best_seconds(work, repeats)
        rows.append([f"{orbit.name}: shooting", "–", f"{1e3 * seconds:.0f}", _size(off), "1"])
        for accuracy in ACCURACIES:
            name = f"{orbit.name}: `solve_bvp` to {accuracy:.0e}"
            if (peer := least(orbit, accuracy, repeats)) is None:
                rows.append([name, "–", "not reached", "–", "–"])
            else:
                rows.append(
                    [name, f"{peer[0]:.0e}", f"{1e3 * peer[1]:.1f}", _size(peer[2]), f"{peer[1] / seconds:.2g}"]
                )
        process, found = orbit.process(), []

        def all_of_them(process=process, box=orbit.box, found=found):
            found[:] = sde.find_cycles(process, box)

        cost = best_seconds(all_of_them, 1)
        best = min(found, key=lambda c: error(orbit, c.period))
        search.append([orbit.name, str(len(found)), f"{cost:.2f}", _size(error(orbit, best.period)), best.kind])
    return f"""## Closed orbits

From one guess, an orbit integrated to three digits and a period 2 % too large, to the period. *Shooting* is what
`find_cycles` does with its guesses, here with one: Newton's method on (point, period), then multiple shooting, always
to rounding, with monodromy matrices. `scipy.integrate.solve_bvp` has time in units of the unknown period, exact
Jacobians, and the loosest tolerance that suffices, among powers of ten and at most {MOST:,} nodes. Errors are relative;
the periods are known to 15 digits.

{table(["", "tolerance", "ms", "error", "time over shooting"], rows)}

Where a guess is there, collocation is the faster road to eight digits and to twelve: `solve_bvp` steps through all
nodes in one array expression, shooting in Python through one step after another, for few segments at a time. What
shooting gives besides are the multipliers of stiff and unstable orbits, from segments short enough to resolve them;
and `find_cycles` needs no guess. From nothing, all orbits of the box with multipliers and 256 points each:

{table(["", "orbits found", "s", "error", "kind"], search)}
"""


def _size(off: float) -> str:
    return f"{off:.0e}" if off > 2e-16 else "< 2e-16"
