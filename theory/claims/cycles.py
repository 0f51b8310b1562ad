"""Claims about what goes round without noise: the paths of ẋ = j, and the limit cycle said to be in Example 19."""

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import sympy as sp
from scipy.integrate import quad, solve_ivp
from scipy.optimize import brentq

import sde_sgd as sde
from sde_sgd.cycles import classify_focus, continue_fixed_points, radius_per_turn
from sde_sgd.theory.claim import Claim, Level, Measurement, exact, refined

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_GOLDEN = (np.sqrt(5.0) - 1.0) / 2.0
_TURNS, _START = 21, 1.3  # after 13 and 21 turns the path comes nearest to where it began


# -- ẋ = j ---------------------------------------------------------------------------------------------------


@cache
def _closed_orbits(name: str) -> list[sde.cycles.Cycle]:
    """Of ẋ = j in two variables, in a box round one minimum."""
    landscape = sde.landscapes.get(name)
    box = ((1.1, 2.4), (0.4, 1.6)) if name == "sheared_double_well" else ((-1.2, 1.2), (-1.2, 1.2))
    return sde.find_cycles(lambda x: landscape.remainder(x, 0.1), box, variables=("x", "y"), starts=1, steps=60)


def _period_of_level(energy: float) -> float:
    """2√2/q ∫ dφ/√(1 + 2√E sin φ) over a half turn: of the level set Φ = E < ¼ of the sheared double well."""
    value, _ = quad(lambda a: 1 / np.sqrt(1 + 2 * np.sqrt(energy) * np.sin(a)), -np.pi / 2, np.pi / 2)
    return 2 * np.sqrt(2) * value / (np.sqrt(3) / 2)


@cache
def _tori(winding: float) -> sde.Landscape:
    """Φ whose level sets are the tori round the unit circle, and j = Φ ∇(αχ − φ) × ∇Φ on them, at every T.

    φ is the angle along the circle and χ that around it, so that along a path φ = αχ + const. j is of the form
    −Q∇Φ + T div Q with (q23, q31, q12) = (Φ + T) ∇(αχ − φ).
    """
    x, y, z, t = sp.symbols("x y z T")
    across = x**2 + y**2
    all_of = across + z**2
    potential = (all_of + 1) ** 2 / (4 * across) - 1
    around = [-2 * x * z, -2 * y * z, all_of - 1 - 2 * z**2]  # ∇χ·2ϱ²Φ, tan χ = 2z/(r² − 1)
    along = [-y / across, x / across, sp.Integer(0)]
    angle = [winding * a / (2 * across * potential) - b for a, b in zip(around, along, strict=True)]
    q = [(potential + t) * a for a in angle]
    return sde.Landscape.manufactured(("x", "y", "z"), potential, None, q, domain=((-5, 5),) * 3, name="tori")


@cache
def _windings(winding: float) -> np.ndarray:
    """Places (4·turns + 1, 3) of a path of ẋ = j from (1.3, 0, 0), at every quarter of a turn around the circle."""
    landscape = _tori(winding)

    def by_angle(_, x):
        """dx/dχ."""
        j = landscape.remainder(x, 0.3)
        across, all_of = x[0] ** 2 + x[1] ** 2, x @ x
        slope = np.array([-2 * x[0] * x[2], -2 * x[1] * x[2], all_of - 1 - 2 * x[2] ** 2])
        return j / (slope @ j) * 2 * across * landscape.loss(x)

    quarters = 0.5 * np.pi * np.arange(4 * _TURNS + 1)
    settings = dict(method="DOP853", rtol=1e-10, atol=1e-12)
    return solve_ivp(by_angle, (0.0, quarters[-1]), [_START, 0.0, 0.0], t_eval=quarters, **settings).y.T


def _advance(winding: float) -> float:
    """Turns along the circle for every turn around it."""
    places = _windings(winding)
    angle = np.unwrap(np.arctan2(places[:, 1], places[:, 0]))
    return float(abs(angle[-1] - angle[0]) / (2 * np.pi * _TURNS))


def _gap(winding: float) -> float:
    """How near a path comes to its start in all these turns, over how far it goes from it."""
    places = _windings(winding)[::4]
    distance = np.linalg.norm(places[1:] - places[0], axis=-1)
    return float(distance.min() / distance.max())


def _integrated(what: str, measured: float, expected: float) -> Measurement:
    reason = f"rounding and the integrator's tolerance of 1e-10, over {_TURNS} turns"
    return Measurement(what, float(measured), float(expected), 1e-7, reason)


def _divergence_and_climb(h: float) -> tuple[float, float]:
    """Largest |div j|/|j|, by central differences of step h, and |j·∇Φ|/(|j||∇Φ|) at random places near the circle."""
    landscape = _tori(_GOLDEN)
    points = np.random.default_rng(0).uniform(-1.5, 1.5, (100, 3))
    points = points[np.hypot(points[:, 0], points[:, 1]) > 0.4]
    j, slope = np.asarray(landscape.remainder(points, 0.3)), landscape.gradient(points)
    pairs = [[np.asarray(landscape.remainder(points + k * h * e, 0.3)) for k in (1, -1)] for e in np.eye(3)]
    divergence = sum((a - b)[:, i] / (2 * h) for i, (a, b) in enumerate(pairs))
    speed = np.linalg.norm(j, axis=-1)
    return float((abs(divergence) / speed).max()), float(
        (abs((j * slope).sum(-1)) / (speed * np.linalg.norm(slope, axis=-1))).max()
    )


def _four_variables() -> np.ndarray:
    """Frequencies of ẋ = j in a linear process of four variables, from its drift and its noise."""
    turn = np.array([[0.0, 1.0], [-1.0, 0.0]])
    mixed = np.array([[1.0, 0.3, 0.0, 0.2], [0.0, 1.0, -0.4, 0.0], [0.0, 0.0, 1.0, 0.5], [0.0, 0.0, 0.0, 1.0]])
    q = np.block([[turn, 0 * turn], [0 * turn, np.sqrt(2) * turn]])  # in coordinates y = Mx with Φ = |y|²/2, D = I
    drift = np.linalg.solve(mixed, (np.eye(4) + q) @ mixed)
    back = np.linalg.inv(mixed)
    rates = np.linalg.eigvals(sde.OrnsteinUhlenbeck(drift, back @ back.T, 0.2).remainder_matrix)
    return np.sort(rates.imag[rates.imag > 0])


def _level_sets_and_tori(level: Level) -> list[Measurement]:
    """In the plane the orbits of ẋ = j, found by Newton's method on point and period, have the period of their level
    set of Φ, by quadrature or in closed form. In three variables, j = Φ ∇(αχ − φ) × ∇Φ is divergence-free and
    perpendicular to ∇Φ; its paths go round the tori Φ = const with α turns along the core for each turn around it,
    counted in an integration of 21 turns. They close for rational α alone; with the golden mean not one does, and after
    n turns it is 2|sin πnα| of the radius away from where it began. In four variables the frequencies of j of a linear
    process may have any ratio, here √2.
    """
    well, hopf = _closed_orbits("sheared_double_well"), _closed_orbits("hopf")
    phi = sde.landscapes.get("sheared_double_well").potential
    first = [c.period / _period_of_level(float(np.asarray(phi(c.points[0], 0.1)))) for c in well]
    second = [c.period * (1 + 0.5 * (c.points[0] ** 2).sum()) / (2 * np.pi) for c in hopf]
    reach = abs(2 * np.sin(np.pi * _TURNS * _GOLDEN))
    away = float(np.linalg.norm(_windings(_GOLDEN)[-1] - _windings(_GOLDEN)[0]))
    (coarse, climb), (fine, _) = (_divergence_and_climb(h) for h in (2e-3, 1e-3))
    return [
        exact(f"period over its level set's, {len(first)} orbits, sheared well", sum(first) / len(first), 1.0, 1e-8),
        exact(f"period over 2π/(ω + κr²), {len(second)} orbits of hopf", sum(second) / len(second), 1.0, 1e-8),
        _integrated("turns along the core for one around it, golden mean", _advance(_GOLDEN), _GOLDEN),
        _integrated("distance from the start after 21 turns around, over the radius there", away / _START, reach),
        refined("largest |div j|/|j| on the tori", coarse, fine, 0.0, order=2),
        exact("largest |j·∇Φ|/(|j||∇Φ|) on the tori", climb, 0.0),
        _integrated("nearest return over farthest, α = 1/2", _gap(0.5), 0.0),
        exact("ratio of the frequencies of j in 4-D", np.divide(*_four_variables()[::-1]), np.sqrt(2), 1e-8),
    ]  # fmt: skip


def _never_closed(level: Level) -> list[Measurement]:
    """Nearest return over farthest in 21 turns on a torus, which would be 0 if the path closed. And in four variables,
    after whole turns of the slower plane, how far the other one is from a turn.
    """
    slow, fast = _four_variables()
    turns = fast / slow * np.arange(1, _TURNS + 1)
    return [
        _integrated("nearest return over farthest, 3-D, golden mean", _gap(_GOLDEN), 0.0),
        exact("part of a turn left in the other plane, 4-D", abs(turns - np.round(turns)).min(), 0.0, 1e-6),
    ]


def _draw_tori(level: Level) -> "Figure":
    from sde_sgd.figures._style import new_figure, styled

    @styled
    def draw() -> "Figure":
        figure = new_figure(8.6, 3.9)
        for k, (winding, name) in enumerate(((0.5, "α = 1/2: closed"), (_GOLDEN, "α = golden mean: never closed"))):
            ax = figure.add_subplot(1, 2, k + 1, projection="3d")
            path = _windings_finely(winding)
            ax.plot(*path.T, lw=0.8, color="C0")
            ax.set(title=name, xlabel="x", ylabel="y", zlabel="z", xlim=(-1.3, 1.3), ylim=(-1.3, 1.3), zlim=(-0.5, 0.5))
            ax.set(xticks=(-1, 0, 1), yticks=(-1, 0, 1), zticks=(-0.3, 0, 0.3))
            ax.set_box_aspect((1, 1, 0.4), zoom=1.15)
        return figure

    return draw()


def _windings_finely(winding: float) -> np.ndarray:
    """The path as a curve: φ = αχ + const on the same torus."""
    height = float(_tori(winding).loss(np.array([_START, 0.0, 0.0])))
    around = np.linspace(0.0, 2 * np.pi * _TURNS, 4000)
    # the torus Φ = E: (ϱ − √(1 + E))² + z² = E, on which tan χ = 2z/(r² − 1)
    big, small = np.sqrt(1 + height), np.sqrt(height)
    radius = 1 / (big - small * np.cos(around))
    along = winding * around
    return np.stack([radius * np.cos(along), radius * np.sin(along), radius * small * np.sin(around)], -1)


CLOSED_TRAJECTORIES = Claim(
    name="closed_trajectories",
    statement="Where div j = 0, the most likely trajectories ẋ = j are closed loops.",
    formula=r"\nabla\cdot j=0\Rightarrow x(t+\tau)=x(t)",
    source="Chaudhari & Soatto (2018)",
    hypotheses=("div j = 0", "needed besides: two variables, a compact level set of Φ without a zero of j"),
    as_stated="needs_hypothesis",
    holds="in the plane they are the level sets of Φ; in three variables they may wind round tori and never close, and "
    "in four so may those of a linear process",
    check=_level_sets_and_tori,
    twin=_never_closed,
    figure=_draw_tori,
)


# -- Example 19 -----------------------------------------------------------------------------------------------


@cache
def _example(circulation: float) -> sde.Landscape:
    return sde.landscapes.get("example_19", circulation=circulation)


def _well_of_example(circulation: float) -> np.ndarray:
    """Its fixed point with x > 0: y = mx, x² = 1 − m², log m = log λ − ¼ + m²/2 + m⁴/4 − m⁸/4."""

    def excess(m):
        return np.log(circulation / m) - 0.25 + m**2 / 2 + m**4 / 4 - m**8 / 4

    m = brentq(excess, 1e-9, 1.0, xtol=1e-14)
    return np.sqrt(1 - m**2) * np.array([1.0, m])


@cache
def _second_moments(circulation: float, cells: int) -> float:
    """E[x²] + E[y²] of the steady density on a grid."""
    fp = sde.FokkerPlanck(_example(circulation).at_temperature(1.0), sde.Grid((-4, -4), (4, 4), (cells, cells)))
    rho = fp.steady_state().values
    return float(((fp.grid.centers() ** 2).sum(-1) * rho).sum() / rho.sum())


@cache
def _radii(turns: int):
    """Root-mean-square radius over each turn at λ = 1.5, from (1, 0)."""
    return radius_per_turn(_example(1.5), (1.0, 0.0), center=(0.0, 0.0), turns=turns)


def _decay(turns: int) -> float:
    """Slope of 1/R² on time over the second half of the turns."""
    radii = _radii(turns)
    last, middle = radii[-1], radii[turns // 2 - 1]
    return float((1 / last**2 - 1 / middle**2) / (last.time - middle.time))


@cache
def _orbits_found() -> int:
    """How many closed orbits the search finds at λ = 1.5."""
    return len(sde.find_cycles(_example(1.5), starts=2, steps=100))


def _example_19(level: Level) -> list[Measurement]:
    """E[r²] of the solved density beside that of e^{−Φ}, for three λ. The zeros of the drift at λ = ½ by Newton's
    method, beside the root of one equation in y/x; its eigenvalues at the origin are ±√(1 − λ²√e). Followed in λ, the
    wells end in a pitchfork at e^{−1/4}. At λ = 1.5 the eigenvalues are imaginary, as of no gradient, and the first
    Lyapunov coefficient is −¼, a weak stable focus: 1/R² grows like t/4, as the radius of an integrated path does, turn
    by turn. The search for closed orbits finds none here, and the one that `hopf` has.
    """
    cells, turns = level.cells(48), level.cells(50, order=1)
    node, weight = np.polynomial.legendre.leggauss(200)  # on the box of the grid, (−4, 4) along both axes
    along_x, along_y = weight * np.exp(-((16 * node**2 - 1) ** 2) / 4), weight * np.exp(-8 * node**2)
    moment = sum(16 * (node**2 * each).sum() / each.sum() for each in (along_x, along_y))
    found = [
        refined(f"E[r²] at λ = {c:g}", _second_moments(c, cells), _second_moments(c, 2 * cells), moment, order=2)
        for c in (0.0, 0.5, 1.5)
    ]
    fixed, well = sde.find_fixed_points(_example(0.5)), _well_of_example(0.5)
    (stable,) = (p for p in fixed if p.position[0] > 0.1)
    (origin,) = (p for p in fixed if abs(p.position[0]) < 0.1)
    branch = continue_fixed_points(_example(0.5), "circulation", (0, 1.5), box=((-1.5, 1.5), (-1.5, 1.5)), step=0.05)[0]
    focus = classify_focus(_example(1.5), (0.0, 0.0))
    (cycle,) = sde.find_cycles(sde.landscapes.get("hopf"), starts=4)
    return [
        *found,
        *(exact(f"{v} of the well at λ = 0.5", stable.position[i], well[i], 1e-8) for i, v in enumerate("xy")),
        exact("eigenvalue at the saddle, λ = 0.5", origin.eigenvalues.real.max(), np.sqrt(1 - np.exp(0.5) / 4), 1e-8),
        exact("λ of the pitchfork", branch.bifurcations[0].value, np.exp(-0.25), 1e-8),
        exact("frequency of the origin at λ = 1.5", focus.frequency, np.sqrt(2.25 * np.exp(0.5) - 1), 1e-8),
        Measurement(
            "its first Lyapunov coefficient", focus.coefficient, -0.25, focus.error, "step of its third derivatives"
        ),
        refined("slope of 1/R² on time, λ = 1.5", _decay(turns), _decay(2 * turns), 0.25, order=1),
        exact("closed orbits found at λ = 1.5", _orbits_found(), 0.0),
        exact("period of the one found for hopf, over 2π/(ω + κ)", cycle.period * 1.5 / (2 * np.pi), 1.0, 1e-8),
    ]  # fmt: skip


def _limit_cycle(level: Level) -> list[Measurement]:
    """As published: one limit cycle at λ = 1.5. Such a cycle would be found, and the radius of a turn would settle: the
    100th would be as wide as the 50th.
    """
    radii = _radii(2 * level.cells(50, order=1))
    last, middle = float(radii[-1]), float(radii[len(radii) // 2 - 1])
    return [
        exact("closed orbits found at λ = 1.5", _orbits_found(), 1.0),
        exact("radius of a turn over that of one half as late", last / middle, 1.0, 1e-2),
    ]


def _draw_example(level: Level) -> "Figure":
    from sde_sgd.figures._style import INK, new_figure, styled

    @styled
    def draw() -> "Figure":
        figure = new_figure(10.4, 3.6)
        ways, branches, decay = figure.subplots(1, 3)
        landscape = _example(1.5)
        path = solve_ivp(lambda _, x: landscape.drift(x, 1.0), (0, 200), [1.2, 0.0], max_step=0.05, rtol=1e-8)
        ways.plot(*path.y, lw=0.6, color="C0")
        ways.plot(0, 0, "o", ms=3, color=INK)
        ways.set(xlabel="x", ylabel="y", title="50 turns at λ = 1.5", aspect="equal")
        lambdas = np.linspace(0.01, np.exp(-0.25) - 1e-6, 200)
        wells = np.array([_well_of_example(c)[0] for c in lambdas])
        for sign in (1, -1):
            branches.plot(lambdas, sign * wells, color="C0", label="wells" if sign > 0 else None)
        branches.plot([0, np.exp(-0.25)], [0, 0], "--", color="C1", label="saddle")
        branches.plot([np.exp(-0.25), 1.5], [0, 0], color="C2", label="weak focus")
        branches.set(xlabel="λ", ylabel="x of a fixed point", title="pitchfork at λ = e$^{-1/4}$")
        branches.legend(loc="upper right")
        radii = _radii(2 * level.cells(50, order=1))
        decay.loglog(radii.time, radii, color="C0", label="radius of a turn")
        decay.loglog(radii.time, 2 / np.sqrt(radii.time), "--", color=INK, lw=1, label="2/√t")
        decay.set(xlabel="time", ylabel="R", title="no limit cycle")
        decay.legend()
        return figure

    return draw()


EXAMPLE_19 = Claim(
    name="example_19_limit_cycle",
    statement="With λ = 1.5 the paths of the drift −∇Φ + j converge to a stable limit cycle around the saddle point.",
    formula=r"j=\lambda\,e^{\Phi-(x^2+y^2)^2/4}\,(-y,\,x),\quad\Phi=\frac{(x^2-1)^2}{4}+\frac{y^2}{2}",
    source="Chaudhari & Soatto (2018), Example 19",
    hypotheses=("D = I, T = 1",),
    as_stated="fails",
    holds="e^{−Φ} is stationary for every λ; the wells merge with the origin in a pitchfork at λ = e^{−1/4}, beyond "
    "which the origin is a weak stable focus: every path spirals in, with the radius 2/√t",
    check=_example_19,
    twin=_limit_cycle,
    figure=_draw_example,
)
