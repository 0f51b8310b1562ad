"""Claims about where SGD is most likely found and which way it leaves: of Φ, not of the loss."""

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import sympy as sp

import sde_sgd as sde
from sde_sgd.theory.claim import Claim, Level, Measurement, refined
from sde_sgd.theory.claims._driven_processes import generator, process_named

if TYPE_CHECKING:
    from matplotlib.figure import Figure


# -- modes ----------------------------------------------------------------------------------------------------


@cache
def _shift_in_one(name: str, temperature: float, cells: int) -> float:
    """Shift of the mode next to a minimum x*, solved on a grid, over −T D'(x*)/f''(x*)."""
    landscape = sde.landscapes.get(name)
    minima = landscape.critical_points().x.values
    x = minima[landscape.hessian(minima[:, None])[:, 0, 0] > 0][-1:]
    formula = -temperature * landscape.diffusion_divergence(x)[0] / landscape.hessian(x)[0, 0]
    reach = 5 * np.sqrt(temperature * landscape.diffusion(x)[0, 0] / landscape.hessian(x)[0, 0])
    grid = sde.Grid(x[0] - reach, x[0] + reach, cells)
    peaks = sde.potential.modes(sde.FokkerPlanck(landscape.at_temperature(temperature), grid).log_steady_state())
    return float((peaks.x.values[0] - x[0]) / formula)


@cache
def _shift_in_two(temperature: float, cells: int) -> tuple[float, float]:
    """The same for the six kicks: along −T H⁻¹ div(D + Q), and along −T H⁻¹ div D, over that."""
    landscape, x = process_named("six kicks").landscape, np.array([4.0, -1.0]) * np.sqrt(17.0) / 16
    reach = 5 * np.sqrt(temperature)
    grid = sde.Grid(tuple(x - reach), tuple(x + reach), (cells, cells))
    found = sde.potential.assess(sde.FokkerPlanck(landscape.at_temperature(temperature), grid)).modes
    shift, formula = found["shift"].values[0], found["predicted_shift"].values[0]
    plain = -temperature * np.linalg.solve(landscape.hessian(x), landscape.diffusion_divergence(x))
    return float(shift @ formula / (formula @ formula)), float(shift @ plain / (plain @ plain))


@cache
def _shift_made_to_measure(temperature: float) -> float:
    """A drift made from Φ, D(x), q(x): from where it vanishes to the minimum of Φ, over −T H⁻¹ div(D + Q), H = −∂b."""
    x, y = sp.symbols("x y")
    landscape = sde.Landscape.manufactured(
        ("x", "y"), x**2 / 2 + y**2 + x * y / 2 + x**4 / 4,
        [[1 + x / 2 + x**2, y / 3], [y / 3, 2 + y**2]], 1 + x - y / 2,
    )  # fmt: skip
    zero, h = landscape.fixed_points(((-0.5, 0.5), (-0.5, 0.5)), temperature), 1e-5
    at = np.array([zero.x.values[0], zero.y.values[0]])
    hessian = -np.array(
        [landscape.drift(at + h * e, temperature) - landscape.drift(at - h * e, temperature) for e in np.eye(2)]
    ).T / (2 * h)
    divergence = landscape.diffusion_divergence(at) + np.array([-0.5, -1.0])
    formula = -temperature * np.linalg.solve(hessian, divergence)
    return float(-at @ formula / (formula @ formula))


@cache
def _mode_equation(cells: int) -> float:
    """−T div(D + Q) over ∇f at the highest mode of the six kicks at T = ½: its part along ∇f."""
    process, fp = process_named("six kicks"), generator("six kicks", cells)
    peak = sde.potential.modes(fp.log_steady_state()).isel(point=0)
    q, near = sde.decompose(fp)["q"], {"x": peak.x, "y": peak.y}
    turned = [float(sign * q.differentiate(v).interp(near)) for v, sign in (("y", 1), ("x", -1))]
    place = np.array([float(peak.x), float(peak.y)])
    slope, divergence = process.landscape.gradient(place), process.diffusion_divergence(place) + turned
    return float(-process.temperature * divergence @ slope / (slope @ slope))


def _shifts(level: Level) -> list[Measurement]:
    """How far the mode of the solved density is from the minimum next to it, over −T H⁻¹ div(D + Q) there, as T → 0
    (from T and T/2): in one variable for a given D(x) and for SGD on four parabolas; in the plane for a mean over six
    samples, at T/4 (the law is off by order T) on two grids, with Q from the current of the same density; and for a
    drift made from a chosen Φ, D(x) and Q(x), with no grid. At T = ½ the mode solves ∇f + T div(D + Q) = 0.
    """
    t, cells = 0.02 / level.more, level.cells(1200)
    ones = [
        refined(
            f"shift over −T D'/f'', T → 0, {name}",
            _shift_in_one(entry, t, cells),
            _shift_in_one(entry, t / 2, cells),
            1.0,
            order=1,
        )
        for name, entry in (("multiplicative well", "multiplicative_well"), ("parabolas", "pearson"))
    ]
    made = [_shift_made_to_measure(t / k) for k in (1, 2)]
    n = level.cells(96)
    coarse, fine = (_shift_in_two(t / 4, k)[0] for k in (n, 2 * n))
    pair = [_mode_equation(k) for k in (level.cells(64), 2 * level.cells(64))]
    return [
        *ones,
        refined("shift over −T H⁻¹ div(D + Q), T → 0, made to measure", made[0], made[1], 1.0, order=1),
        refined(f"shift over −T H⁻¹ div(D + Q), T = {t / 4:g}, six kicks", coarse, fine, 1.0, order=2),
        refined("−T div(D + Q) over ∇f at the mode, T = ½, six kicks", pair[0], pair[1], 1.0, order=2),
    ]


def _critical_points(level: Level) -> list[Measurement]:
    """The same shifts if the modes were critical points, 0; and without Q in the formula."""
    t, n = 0.02 / level.more, level.cells(96)
    coarse, fine = (_shift_in_one("multiplicative_well", t / k, level.cells(1200)) for k in (1, 2))
    pair = [_shift_in_two(t / 4, k) for k in (n, 2 * n)]
    return [
        refined("distance of a mode from a minimum over T D'/f'', multiplicative well", coarse, fine, 0.0, order=1),
        refined("the same over −T H⁻¹ div(D + Q), six kicks", pair[0][0], pair[1][0], 0.0, order=2),
        refined("shift over −T H⁻¹ div D, without Q, six kicks", pair[0][1], pair[1][1], 1.0, order=2),
    ]


def _draw_modes(level: Level) -> "Figure":
    from sde_sgd.figures import plot_assessment

    process = sde.landscapes.get("neuron").at_temperature(0.2)
    fp = sde.FokkerPlanck(process, sde.Grid((-2.5, -2.5), (2.5, 2.5), (100, 100)))
    return plot_assessment(sde.potential.assess(fp)).figure


MODES = Claim(
    name="modes_at_critical_points",
    statement="SGD is most likely found at critical points of the loss.",
    formula=r"\nabla f=0",
    source="folklore, from Φ = f; Chaudhari & Soatto (2018) say that it is not so",
    hypotheses=("needed: div(D + Q) = 0 there, as where both are constant",),
    as_stated="needs_hypothesis",
    holds="modes of the steady density solve ∇f + T div(D + Q) = 0; the one next to a minimum is moved by "
    "−T H⁻¹ div(D + Q)",
    check=_shifts,
    twin=_critical_points,
    figure=_draw_modes,
)


# -- wells ----------------------------------------------------------------------------------------------------

_U, _W = sp.symbols("u w")
_TILTED = {  # φ₁, φ₂: minima at ±1, the one at +1 deeper by δ
    name: (_U**2 - 1) ** 2 / 4 - depth * (3 * _U - _U**3) / 4 for name, depth in (("u", 0.2), ("w", 0.26))
}
_SHEARS = {  # columns v, w and their μ
    "shear 60°": ((np.sqrt(3) / 2, -0.5), (-0.5, np.sqrt(3) / 2), 2.5, 1.5),
    "shear 53°": ((1.0, 0.0), (0.6, 0.8), 3.0, 1.5),
}


@cache
def _sheared(name: str, wells: bool) -> tuple[sde.Landscape, np.ndarray]:
    """f = μ₁φ₁(v·x) + μ₂φ₂(w·x) with D the symmetric part of G = V diag(μ) V⁻¹, and V; then Φ = φ₁ + φ₂.

    ∇f = G∇Φ, and G − D is antisymmetric and constant. The landscape is not told Φ.
    """
    v, w, *rates = _SHEARS[name]
    columns = np.array([v, w]).T
    g = columns @ np.diag(rates) @ np.linalg.inv(columns)
    x, y = sp.symbols("x y")
    first, second = (c[0] * x + c[1] * y for c in (v, w))
    if wells:
        parts = _TILTED["u"].subs(_U, first), _TILTED["w"].subs(_U, second)
    else:
        parts = (first**2 - 1) ** 2 / 4, second**2 / 2
    loss = sum(rate * part for rate, part in zip(rates, parts, strict=True))
    return sde.Landscape(("x", "y"), loss, diffusion=((g + g.T) / 2).tolist()), columns


def _place(columns: np.ndarray, u: float, w: float) -> np.ndarray:
    """Where v·x = u and w·x = w."""
    return np.linalg.solve(columns.T, np.array([u, w]))


@cache
def _log_odds(name: str, cells: int) -> float:
    """T log(ρ(B)/ρ(A)) on a grid at T = 0.2, A = (1, −1) and B = (−1, 1) in (u, w)."""
    landscape, columns = _sheared(name, True)
    corners = [_place(columns, u, w) for u in (-2, 2) for w in (-2, 2)]
    reach = np.abs(corners).max(0)
    fp = sde.FokkerPlanck(landscape.at_temperature(0.2), sde.Grid(tuple(-reach), tuple(reach), (cells, cells)))
    log_rho = fp.log_steady_state()
    a, b = (log_rho.interp(x=p[0], y=p[1], method="cubic") for p in (_place(columns, 1, -1), _place(columns, -1, 1)))
    return 0.2 * float(b - a)


@cache
def _climbs(name: str) -> float:
    """Least action from B to A less that from A to B, both by way of the common well (1, 1)."""
    landscape, columns = _sheared(name, True)
    a, b, between = (_place(columns, *p) for p in ((1, -1), (-1, 1), (1, 1)))
    saddles = _place(columns, 1, -0.195), _place(columns, -0.15, 1)
    process, way = landscape.at_temperature(0.05), [saddles[0], between, saddles[1]]
    there = sde.minimum_action_path(process, a, b, through=way, points=65)
    back = sde.minimum_action_path(process, b, a, through=way[::-1], points=65)
    return float(back.total_action - there.total_action)


def _loss_gap(name: str) -> float:
    """f(A) − f(B)."""
    landscape, columns = _sheared(name, True)
    return float(landscape.loss(_place(columns, 1, -1)) - landscape.loss(_place(columns, -1, 1)))


def _ranking(level: Level) -> list[Measurement]:
    """Two wells, A lower in the loss and B lower by 0.06 in Φ = φ₁ + φ₂, of true gradient losses with constant D and
    div j = 0, at two shears: T log(ρ(B)/ρ(A)) of the solved density, on n² and (2n)² cells, and, as T → 0, the
    difference of the least actions from one to the other and back. Neither is told Φ.
    """
    n, found = level.cells(96), []
    for name in _SHEARS:
        what = f"T log(ρ(B)/ρ(A)), {name}, f(A) − f(B) = {_loss_gap(name):.2f}"
        found.append(refined(what, _log_odds(name, n), _log_odds(name, 2 * n), 0.06, order=2))
        found.append(_along_paths(f"action from B to A less that back, {name}", _climbs(name), 0.06))
    return found


def _along_paths(what: str, measured: float, expected: float) -> Measurement:
    return Measurement(what, measured, expected, 1e-5, "fourth order in the 65 points of a path: 1e-6, by half of them")


def _by_loss(level: Level) -> list[Measurement]:
    """The same beside f(A) − f(B), which has the other sign."""
    n, found = level.cells(96), []
    for name in _SHEARS:
        gap = _loss_gap(name)
        found.append(refined(f"T log(ρ(B)/ρ(A)), {name}", _log_odds(name, n), _log_odds(name, 2 * n), gap, order=2))
        found.append(_along_paths(f"action from B to A less that back, {name}", _climbs(name), gap))
    return found


def _draw_wells(level: Level) -> "Figure":
    from sde_sgd.figures._style import INK, frame, new_figure, styled

    @styled
    def draw() -> "Figure":
        figure = new_figure(8.8, 4.0)
        landscape, columns = _sheared("shear 53°", True)
        axes = np.linspace(-3, 3, 181), np.linspace(-4, 4, 241)
        points = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
        u, w = points @ columns[:, 0], points @ columns[:, 1]
        potential = sp.lambdify((_U, _W), _TILTED["u"] + _TILTED["w"].subs(_U, _W))(u, w)
        shown = (landscape.loss(points), "loss f"), (potential, "potential Φ")
        for ax, (values, title) in zip(figure.subplots(1, 2), shown, strict=True):
            a, b = (_place(columns, *p) for p in ((1, -1), (-1, 1)))
            low = values - values.min()
            ax.contourf(*axes, low.T, levels=np.linspace(0, 1.2, 13), cmap="Blues_r", alpha=0.8)
            for name, place in (("A", a), ("B", b)):
                ax.plot(*place, "o", ms=4, color=INK)
                k = tuple(abs(x - p).argmin() for x, p in zip(axes, place, strict=True))
                ax.annotate(f"{name}: {low[k]:.2f}", place, textcoords="offset points", xytext=(6, 4))
            ax.set_title(title)
            frame(ax, ("x", "y"), *axes)
        return figure

    return draw()


WELL_RANKING = Claim(
    name="lower_loss_is_likelier",
    statement="Of two minima the one with the lower loss is the likelier for SGD.",
    formula=r"f(A)<f(B)\Rightarrow\rho(A)>\rho(B)",
    source="folklore, from Φ = f; against it Chaudhari & Soatto (2018)",
    hypotheses=("needed: D = cI, or another reason for Φ = f/c",),
    as_stated="needs_hypothesis",
    holds="Φ ranks them, and may do so the other way round even where D is constant and div j = 0",
    check=_ranking,
    twin=_by_loss,
    figure=_draw_wells,
)


# -- escape ---------------------------------------------------------------------------------------------------


@cache
def _action(name: str) -> float:
    landscape, columns = _sheared(name, False)
    path = sde.minimum_action_path(landscape.at_temperature(0.02), _place(columns, -1, 0), (0.0, 0.0), points=65)
    return float(path.total_action)


@cache
def _barrier_by_time(name: str, temperature: float, cells: int) -> float:
    """T log(τ·(λ₊/2π)√(det/|det|)), τ the mean time from one minimum to the line through the other, on two grids."""
    landscape, columns = _sheared(name, False)
    process, start = landscape.at_temperature(temperature), _place(columns, -1, 0)
    reach = np.abs([_place(columns, u, w) for u in (-1.8, 1.8) for w in (-1.6, 1.6)]).max(0)

    def log_time(n: int) -> float:
        fp = sde.FokkerPlanck(process, sde.Grid(tuple(-reach), tuple(reach), (n, n)))
        tau = fp.mean_exit_time(lambda x: x @ columns[:, 0] < 1.0, log=True)
        return float(tau.interp(x=start[0], y=start[1]))

    coarse, fine = log_time(cells), log_time(2 * cells)
    law = sde.potential.escape_rate(process, start, (0.0, 0.0), points=65)
    prefactor = float(law.unstable_rate) / (2 * np.pi) * np.sqrt(float(law.determinant_ratio))
    return temperature * (fine + (fine - coarse) / 3 + np.log(prefactor))


def _escapes(name: str, expected: float, level: Level) -> list[Measurement]:
    t, n = 0.04 / np.sqrt(level.more), level.cells(96)
    coarse, fine = (_barrier_by_time(name, t / k, n) for k in (1, 2))
    return [
        _along_paths(f"least action to the saddle, {name}", _action(name), expected),
        refined(f"barrier by the mean escape time, T → 0, {name}", coarse, fine, expected, order=2),
    ]


def _by_potential(level: Level) -> list[Measurement]:
    """Double wells with ΔΦ = ¼ whose loss rises by ⅝ and by ¾: the least action of a path to the saddle; and T log of
    the mean time from one minimum to the other, solved on grids and divided by its prefactor, as T → 0 (from T and T/2,
    of second order).
    """
    return [m for name in _SHEARS for m in _escapes(name, 0.25, level)]


def _by_loss_barrier(level: Level) -> list[Measurement]:
    """The same beside Δf."""
    return [m for name in _SHEARS for m in _escapes(name, 0.25 * _SHEARS[name][2], level)]


ESCAPE_BARRIER = Claim(
    name="escape_over_the_loss_barrier",
    statement="SGD leaves a minimum in a time that grows like e^{Δf/T} with the loss barrier Δf.",
    formula=r"\tau\sim e^{\Delta f/T}",
    source="folklore, from Φ = f; the law with j is that of Bouchet & Reygner (2016)",
    hypotheses=("T small", "needed besides: D = I, or another reason for Φ = f"),
    as_stated="needs_hypothesis",
    holds="like e^{ΔΦ/T}, with the quasi-potential ΔΦ, here ¼ for Δf = ⅝ and ¾",
    check=_by_potential,
    twin=_by_loss_barrier,
)
