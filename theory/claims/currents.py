"""Claims about the current: what is true of j = J/ρ, whatever drives it."""

from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING

import numpy as np

import sde_sgd as sde
from sde_sgd.theory.claim import Claim, Level, Measurement, exact, refined
from sde_sgd.theory.claims._driven_processes import generator, process_named

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@cache
def _solved(name: str, cells: int):
    """(decomposition with both sides of the identity, steady density, centres of the cells)."""
    fp = generator(name, cells)
    return sde.decompose(fp, identity=True), fp.steady_state().values, fp.grid.centers()


def _slope(y: np.ndarray, x: np.ndarray, rho: np.ndarray) -> float:
    """Of the regression y = slope·x under a density."""
    return float((rho * y * x).sum() / (rho * x * x).sum())


def _on_grids(what: str, measure: Callable[[str, int], float], name: str, expected: float, level: Level) -> Measurement:
    cells = level.cells(64)
    return refined(f"{what}, {name}", measure(name, cells), measure(name, 2 * cells), expected, order=2)


# -- div j ---------------------------------------------------------------------------------------------------


def _divergence_on_climb(name: str, cells: int) -> float:
    parts, rho, _ = _solved(name, cells)
    climb = parts["j_dot_grad_potential"].values / process_named(name).temperature
    return _slope(parts["divergence_j"].values, climb, rho)


def _against_closed_form(name: str, cells: int) -> float:
    parts, rho, points = _solved(name, cells)
    x, y = np.moveaxis(points, -1, 0)
    known = 0.5 * x * y * (2 - x**2) * np.exp(process_named(name).potential(points) - (x**2 + y**2) ** 2 / 4)
    return _slope(parts["divergence_j"].values, known, rho)


def _divergence_per_speed(name: str, cells: int) -> float:
    parts, rho, _ = _solved(name, cells)
    speed = np.linalg.norm(parts["remainder"].values, axis=-1)
    return float((rho * abs(parts["divergence_j"].values)).sum() / (rho * speed).sum())


def _divergence_identity(level: Level) -> list[Measurement]:
    """On grids of n² and (2n)² cells div j, the sum of the remainder's edge values around a cell, is regressed on
    j·∇Φ/T under the steady density: the slope is 1. For Example 19 also on λxy(2 − x²)e^{Φ − r⁴/4}, its closed form. In
    the sheared double well, where j ⟂ ∇Φ, E|div j|/E|j| goes to 0 with the spacing.
    """
    slope = "slope of div j on j·∇Φ/T"
    return [
        _on_grids(slope, _divergence_on_climb, "Example 19", 1.0, level),
        _on_grids(slope, _divergence_on_climb, "six kicks", 1.0, level),
        _on_grids("slope of div j on its closed form", _against_closed_form, "Example 19", 1.0, level),
        _on_grids("E|div j| / E|j| where j ⟂ ∇Φ", _divergence_per_speed, "sheared well", 0.0, level),
    ]


def _divergence_free(level: Level) -> list[Measurement]:
    """E|div j|/E|j|, which Assumption 4 makes 0, where j is not perpendicular to ∇Φ."""
    what = "E|div j| / E|j|"
    return [_on_grids(what, _divergence_per_speed, name, 0.0, level) for name in ("Example 19", "six kicks")]


def _draw_divergence(level: Level) -> "Figure":
    from sde_sgd.figures._style import colour_bar, frame, new_figure, styled

    @styled
    def draw() -> "Figure":
        figure = new_figure(9.6, 3.9)
        panels = figure.subplots(1, 2)
        for ax, name in zip(panels, ("Example 19", "sheared well"), strict=True):
            parts, rho, points = _solved(name, 2 * level.cells(64))
            x, y = points[:, 0, 0], points[0, :, 1]
            speed = np.linalg.norm(parts["remainder"].values, axis=-1)
            values = parts["divergence_j"].values / ((rho * speed).sum() / rho.sum())
            shown = np.ma.masked_where(rho < 0.01 * rho.max(), values).T
            mesh = ax.pcolormesh(x, y, shown, cmap="RdBu_r", vmin=-2, vmax=2, shading="nearest", rasterized=True)
            heights = parts["potential"].values / process_named(name).temperature
            ax.contour(x, y, heights.T, levels=np.arange(0.25, 7, 1.0), colors="0.45", linewidths=0.6)
            ax.set_title(f"{name}: j·∇Φ {'≠' if name == 'Example 19' else '='} 0")
            frame(ax, ("x", "y"), x, y)
            ax.set(xlim=(-2.8, 2.8), ylim=(-2.8, 2.8))
        colour_bar(figure, panels, mesh, "div j / E|j|")
        return figure

    return draw()


DIVERGENCE_OF_REMAINDER = Claim(
    name="divergence_of_the_remainder",
    statement="The remainder j = −∇f + D∇Φ − T div D of the steady state is divergence-free (Assumption 4).",
    formula=r"\nabla\cdot j=0",
    source="Chaudhari & Soatto (2018), Assumption 4 and Example 19",
    hypotheses=("the density is stationary", "needed besides: j is perpendicular to ∇Φ"),
    as_stated="needs_hypothesis",
    holds="div j = j·∇Φ/T always; div j = 0 says that j ⟂ ∇Φ, a hypothesis of its own, which their Example 19 breaks",
    check=_divergence_identity,
    twin=_divergence_free,
    figure=_draw_divergence,
)


# -- the A-type form ----------------------------------------------------------------------------------------


def _divergence_q_part(name: str, cells: int, columns: bool = False) -> float:
    """Coefficient of T div Q in b = −(D + Q)∇Φ + T div D + coefficient · T div Q."""
    parts, rho, _ = _solved(name, cells)
    q = parts["q"].fillna(0.0)
    spread = process_named(name).temperature * np.stack([q.differentiate("y").values, -q.differentiate("x").values], -1)
    left = spread - np.nan_to_num(parts["a_type_gap"].values)  # b + (D + Q)∇Φ − T div D
    return _slope(left, -spread if columns else spread, rho[..., None])


def _closed_form_part(name: str) -> float:
    """The same where Φ, j and q are known, by central differences of q: j + Q∇Φ on T div Q."""
    landscape, t, h = sde.landscapes.get(name), 0.3, 1e-4
    points = np.random.default_rng(0).uniform(0.3, 1.2, (200, 2))
    slope = [
        [(np.asarray(f(points + h * e, t)) - np.asarray(f(points - h * e, t))) / (2 * h) for e in np.eye(2)]
        for f in (landscape.q, landscape.potential)
    ]
    (qx, qy), (px, py) = slope
    turned = np.asarray(landscape.q(points, t))[:, None] * np.stack([py, -px], -1)
    left = landscape.remainder(points, t) + turned
    return _slope(left, t * np.stack([qy, -qx], -1), np.ones((200, 1)))


def _made_to_measure(divergence: str, cells: int) -> float:
    """Slope of the solved Φ on the Φ meant, for b = −(D + Q)∇Φ + T div(D + Q), with q = 1 + x + y²/2."""
    sign = "+" if divergence == "by rows" else "-"
    potential = "(x**2 - 1)**2/4 + y**2/2 + x*y/4"
    px, py = "(x*(x**2 - 1) + y/4)", "(y + x/4)"
    d, q = "(1 + y**2/4)", "(1 + x + y**2/2)"  # D = diag(1, 1)·d
    drift = [f"-{d}*{px} - {q}*{py} {sign} T*y", f"-{d}*{py} + {q}*{px} + T*y/2 - ({sign}T)"]
    process = sde.Process(drift, [[d, "0"], ["0", d]], 0.4, variables=("x", "y"))
    fp = sde.FokkerPlanck(process, sde.Grid((-4.2, -4.2), (4.2, 4.2), (cells, cells)))
    meant = sde.Landscape(("x", "y"), potential).loss(fp.grid.centers())
    log_rho, rho = fp.log_steady_state().values, fp.steady_state().values
    rho = rho / rho.sum()
    found = -0.4 * log_rho
    return _slope(found - (rho * found).sum(), meant - (rho * meant).sum(), rho)


def _a_type(level: Level) -> list[Measurement]:
    """On grids Φ and q come from the steady density and its current; what −(D + Q)∇Φ + T div D leaves of the drift is
    regressed on T div Q, (div Q)ᵢ = Σⱼ ∂ⱼQᵢⱼ: the slope is 1. So it is with the closed forms of two landscapes. The
    other way round, a drift made from chosen Φ, D(x) and Q(x) is solved for: the Φ found, regressed on the Φ meant, has
    slope 1.
    """
    what = "slope of b + (D + Q)∇Φ − T div D on T div Q"
    reason = "central differences of step 1e-4: their error is of order 1e-8, times third derivatives, and rounding"
    return [
        *(_on_grids(what, _divergence_q_part, name, 1.0, level) for name in ("Example 19", "six kicks")),
        *(
            Measurement(f"{what}, {name} in closed form", _closed_form_part(name), 1.0, 1e-5, reason)
            for name in ("hopf", "example_19")
        ),
        _on_grids("slope of the Φ found on the Φ meant, div Q", _made_to_measure, "by rows", 1.0, level),
    ]


def _by_columns(level: Level) -> list[Measurement]:
    """The same with (div Q)ⱼ = Σᵢ ∂ᵢQᵢⱼ, the divergence of columns, which for an antisymmetric Q has the other sign."""
    by_columns = partial(_divergence_q_part, columns=True)
    return [
        _on_grids("slope on T div Q by columns", by_columns, "six kicks", 1.0, level),
        _on_grids("slope of the Φ found on the Φ meant, div Q", _made_to_measure, "by columns", 1.0, level),
    ]


A_TYPE_FORM = Claim(
    name="a_type_form",
    statement="With an antisymmetric Q(x), ∇f = (D + Q)∇Φ − T div(D + Q): an Itô drift has the A-type form.",
    formula=r"\nabla f=(D+Q)\nabla\Phi-T\,\nabla\cdot(D+Q)",
    source="Chaudhari & Soatto (2018), Theorem 22; Ao (2004)",
    hypotheses=(
        "the divergence is that of rows, Σⱼ ∂ⱼMᵢⱼ",
        "walls that reflect, or a density that decays: on a periodic axis a harmonic current is left over",
    ),
    as_stated="holds",
    holds="as stated; with the divergence of columns the term T div Q has the wrong sign",
    check=_a_type,
    twin=_by_columns,
)


# -- the rate of the free energy ------------------------------------------------------------------------------

_MEAN, _WIDTH = np.array([0.7, 0.4]), 0.5
_CIRCULATIONS = {
    "Example 19": ("example_19", 4.0, 1.0, {"circulation": 0.5}, {"circulation": 0.0}),
    "hopf": ("hopf", 2.5, 0.3, {"omega": 1.0, "kappa": 0.5}, {"omega": 0.0, "kappa": 0.0}),
}


@cache
def _dissipation(name: str, turning: bool, time: float, cells: int) -> tuple[float, float]:
    """−dF/dt of a Gaussian that has flowed for a time: from the generator, and (time 0) E[∇μ·D∇μ], μ = Φ + T log ρ."""
    entry, reach, t, moving, still = _CIRCULATIONS[name]
    landscape = sde.landscapes.get(entry, **(moving if turning else still))
    fp = sde.FokkerPlanck(landscape.at_temperature(t), sde.Grid((-reach, -reach), (reach, reach), (cells, cells)))
    points = fp.grid.centers()
    rho = np.exp(-((points - _MEAN) ** 2).sum(-1) / (2 * _WIDTH**2))
    rho /= rho.sum() * fp.grid.cell_volume
    push = landscape.gradient(points) - t * (points - _MEAN) / _WIDTH**2
    formula = float((rho * (push**2).sum(-1)).sum() * fp.grid.cell_volume)
    if time:
        rho = fp.evolve(rho, np.array([time])).isel(time=-1).values
        rho = rho / (rho.sum() * fp.grid.cell_volume)
    return float(fp.free_energy(rho)["dissipation"]), formula


def _gaussian_rate(kept: bool) -> float:
    """−dF/dt of a Gaussian in three variables by the equations of its moments, over E[∇μ·D∇μ].

    The drift is −(D + Q)Ux, which keeps N(0, TU⁻¹); or else, with the same antisymmetric Q, −DUx − Qx, which does not.
    """
    t, mean = 0.5, np.array([0.5, -1.0, 0.3])
    d = np.array([[2.0, 0.5, 0.0], [0.5, 1.0, 0.2], [0.0, 0.2, 0.7]])
    u = np.array([[1.0, 0.2, 0.1], [0.2, 3.0, -0.4], [0.1, -0.4, 2.0]])
    q = np.array([[0.0, 1.0, -2.0], [-1.0, 0.0, 3.0], [2.0, -3.0, 0.0]])
    c = np.diag([0.2, 0.6, 1.1])
    drift = (d + q) @ u if kept else d @ u + q
    change, moved = 2 * t * d - drift @ c - c @ drift.T, -drift @ mean
    rate = 0.5 * np.trace(u @ change) + moved @ u @ mean - 0.5 * t * np.trace(np.linalg.solve(c, change))
    spread = u - t * np.linalg.inv(c)
    return float(-rate / (mean @ u @ d @ u @ mean + np.trace(spread.T @ d @ spread @ c)))


def _same_density(level: Level) -> list[Measurement]:
    """−dF/dt of one Gaussian ρ under two landscapes with the same Φ and D, turning and not, from the generator on grids
    of n² and (2n)² cells, over E_ρ[∇μ·D∇μ], μ = Φ + T log ρ, which has no j. And for a Gaussian in three variables by
    the equations of its moments, with a strong Q, exactly.
    """
    found = []
    for name in _CIRCULATIONS:
        for turning in (True, False):
            coarse, fine = (np.divide(*_dissipation(name, turning, 0.0, level.cells(n))) for n in (64, 128))
            what = f"−dF/dt over E[∇μ·D∇μ], {name}, {'turning' if turning else 'j = 0'}"
            found.append(refined(what, coarse, fine, 1.0, order=2))
    return [*found, exact("−dF/dt over E[∇μ·D∇μ], linear in 3-D, j ≠ 0", _gaussian_rate(True), 1.0, 1e-12)]


def _later(level: Level) -> list[Measurement]:
    """−dF/dt with a current over that without, after both have flowed from the same ρ for 0.3: the densities differ by
    then. And with a rotation that does not keep e^{−Φ/T}, of which no j is made.
    """
    coarse, fine = (
        _dissipation("Example 19", True, 0.3, n)[0] / _dissipation("Example 19", False, 0.3, n)[0]
        for n in (level.cells(64), 2 * level.cells(64))
    )
    return [
        refined("−dF/dt with a current over that without, after the time 0.3, Example 19", coarse, fine, 1.0, order=2),
        exact("−dF/dt over E[∇μ·D∇μ], a rotation that moves Φ", _gaussian_rate(False), 1.0, 1e-12),
    ]


def _draw_rates(level: Level) -> "Figure":
    from sde_sgd.figures._style import INK, new_figure, styled

    @styled
    def draw() -> "Figure":
        figure = new_figure(5.2, 3.6)
        ax = figure.subplots()
        times, grid = np.linspace(0.0, 0.6, 31), sde.Grid((-4, -4), (4, 4), (96, 96))
        for circulation in (0.0, 0.5, 1.5):
            process = sde.landscapes.get("example_19", circulation=circulation).at_temperature(1.0)
            fp = sde.FokkerPlanck(process, grid)
            rho = np.exp(-((grid.centers() - _MEAN) ** 2).sum(-1) / (2 * _WIDTH**2))
            found = fp.free_energy(fp.evolve(rho / (rho.sum() * grid.cell_volume), times))
            ax.plot(times, found.free_energy, label=f"λ = {circulation:g}")
        start, fall = (float(found[name][0]) for name in ("free_energy", "dissipation"))
        early = times[times < start / fall]
        ax.plot(early, start - fall * early, "--", color=INK, lw=1, label="slope −E[∇μ·D∇μ], the same for all")
        ax.set(xlabel="time", ylabel="F − min F", title="Example 19 from one Gaussian", xlim=(0, 0.6), ylim=(0, None))
        ax.legend()
        return figure

    return draw()


FREE_ENERGY_RATE = Claim(
    name="free_energy_rate",
    statement="At a given density the free energy falls at a rate that does not depend on the remainder j.",
    formula=r"\frac{dF}{dt}=-E_\rho\left[\nabla\mu\cdot D\nabla\mu\right],\quad\mu=\Phi+T\log\rho",
    source="folklore, after Theorem 5 of Chaudhari & Soatto (2018)",
    hypotheses=("j is the remainder of the steady state e^{−Φ/T}",),
    as_stated="holds",
    holds="as stated, without Assumption 4; j changes where the density goes, and with it the rate later on",
    check=_same_density,
    twin=_later,
    figure=_draw_rates,
)
