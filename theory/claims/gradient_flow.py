"""Claims about the Fokker–Planck equation as a steepest descent, and the heat equation as two of them."""

import math
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

import sde_sgd as sde
from sde_sgd.figures import plot_heat_equation
from sde_sgd.figures._style import INK, new_figure, styled
from sde_sgd.theory.claim import Claim, Level, Measurement, refined

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

# JKO ------------------------------------------------------------------------------------------------------

_TIME = 0.8
_WELLS = {  # loss, D, temperature, box
    "double well, D = 1": ("(x**2 - 1)**2/4", "1", 0.2, (-3.0, 3.0)),
    "double well with D = 1 + 2x²": ("(x**2 - 1)**2/4", "1 + 2*x**2", 0.2, (-4.0, 4.0)),
    "line x²/2, D = 3": ("x**2/2", "3", 0.3, (-7.0, 7.0)),
}
_PLAIN, _WEIGHTED, _SCALED = _WELLS
_TURNING = "quadratic in two dimensions, j ≠ 0"


def _process(system: str) -> sde.Process:
    if system == _TURNING:
        return sde.landscapes.get("quadratic").at_temperature(0.5)
    loss, diffusion, temperature, _ = _WELLS[system]
    return sde.Landscape("x", loss, diffusion=[[diffusion]]).at_temperature(temperature)


def _start(system: str, cells: int) -> tuple[sde.Grid, np.ndarray]:
    """A grid, and a Gaussian on it."""
    if system == _TURNING:
        grid = sde.Grid((-5.0, -3.0), (5.0, 3.0), (cells, cells))
        away = grid.centers() - np.array([1.2, 0.8])
        rho = np.exp(-(away[..., 0] ** 2) / 1.0 - away[..., 1] ** 2 / 0.4)
    else:
        grid = sde.Grid(*_WELLS[system][3], cells)
        rho = np.exp(-((grid.axes[0] - 0.5) ** 2) / 0.2)
    return grid, rho / (rho.sum() * grid.cell_volume)


def _moment(system: str, density: "xr.DataArray", grid: sde.Grid) -> float:
    """E[x²], or E[x] where there are two variables."""
    x = grid.centers()[..., 0]
    return float((density.values * (x if system == _TURNING else x**2)).sum() * grid.cell_volume)


@cache
def _reference(system: str, cells: int) -> float:
    """The same by the Fokker–Planck equation; in closed form where it is linear."""
    if system == _TURNING:
        return 1.2 * math.exp(-_TIME)
    if system == _SCALED:
        fade = math.exp(-2 * _TIME)
        return 0.25 * fade + 0.1 * fade + 0.9 * (1 - fade)
    values = []
    for n in (cells, 2 * cells):
        grid, rho = _start(system, n)
        flow = sde.FokkerPlanck(_process(system), grid).evolve(rho, np.array([_TIME]), tolerance=1e-7)
        values.append(_moment(system, flow[-1], grid))
    return (4 * values[1] - values[0]) / 3


@cache
def _descended(system: str, cells: int, steps: int, potential: str, remainder: str) -> float:
    """The same after `steps` steps of JKO."""
    grid, rho = _start(system, cells)
    jko = sde.JKO(_process(system), grid, potential=potential, remainder=remainder)
    return _moment(system, jko.flow(rho, _TIME / steps, steps)[-1], grid)


def _limit(level: Level, system: str, potential: str, remainder: str) -> Measurement:
    """The moment of n and 2n steps, extrapolated, against the reference."""
    plane = system == _TURNING
    cells = min(level.cells(48), 96) if plane else level.cells(400)
    steps = min(level.cells(16, 1), 64) if plane else level.cells(16, 1)
    values = [_descended(system, cells, n, potential, remainder) for n in (steps, 2 * steps)]
    what = f"{'E[x]' if plane else 'E[x²]'} at t = {_TIME}, {system}, extrapolated to τ = 0"
    return refined(what, values[0], values[1], _reference(system, cells), order=1)


def _order(level: Level, system: str, potential: str) -> Measurement:
    """log₂ of the ratio of successive differences between n, 2n, 4n and 8n steps."""
    steps, cells = level.cells(8, 1), level.cells(400)
    moves = np.diff([_descended(system, cells, k * steps, potential, "split") for k in (1, 2, 4, 8)])
    orders = np.log2(moves[:-1] / moves[1:])
    return refined(f"order in τ, {system}", orders[0], orders[1], 1.0, order=1)


def _descent(level: Level) -> list[Measurement]:
    """Steps of length τ to the time 0.8: a moment extrapolated from n and 2n of them, against the Fokker–Planck grid or
    the closed form of a linear process; and the order at which it changes as n is doubled. With D = 1 it is f that
    descends; with D(x) it is Φ, in the metric of D⁻¹; in two dimensions with a current j is split off, where the grid
    stays below 96² cells and n below 64, for the cost of each step."""
    descents = (_PLAIN, "loss"), (_WEIGHTED, "steady_state"), (_TURNING, "steady_state")
    limits = [_limit(level, system, potential, "split") for system, potential in descents]
    return limits + [_order(level, system, potential) for system, potential in descents[:2]]


def _other_descent(level: Level) -> list[Measurement]:
    """The loss where D is not the identity, though j = 0; and Φ alone, without the current. These steps converge too,
    to something else."""
    limits = [_limit(level, system, "loss", "split") for system in (_WEIGHTED, _SCALED)]
    return [*limits, _limit(level, _TURNING, "steady_state", "ignore")]


@styled
def _errors(level: Level) -> "Figure":
    """The error of a moment against τ, of the descents that the check and its twin take."""
    figure = new_figure(7.4, 3.9)
    ax = figure.subplots()
    taus = _TIME / np.array([8, 16, 32])
    for colour, system in zip(("C0", "C1", "C2"), (_WEIGHTED, _SCALED, _TURNING)):
        cells = 48 if system == _TURNING else 400
        other = ("steady_state", "ignore") if system == _TURNING else ("loss", "split")
        for (potential, remainder), style in ((("steady_state", "split"), "o-"), (other, "x:")):
            descended = [_descended(system, cells, k, potential, remainder) for k in (8, 16, 32)]
            errors = np.abs(np.array(descended) - _reference(system, cells))
            word = system if style == "o-" else "descent of f" if potential == "loss" else "descent of Φ, j left out"
            ax.loglog(taus, errors, style, color=colour, label=word)
    ax.loglog(taus, 0.08 * taus, color=INK, lw=1.0, ls="--", label="order 1")
    ax.set(xlabel="τ", ylabel="error of the moment")
    ax.set_xticks(taus, [f"{tau:g}" for tau in taus])
    ax.set_xticks([], minor=True)
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


STEEPEST_DESCENT = Claim(
    name="steepest_descent",
    statement="With D = I the Fokker–Planck equation is the steepest descent of E[f] − T·H in the Wasserstein metric.",
    formula=r"\rho_{k+1}=\arg\min_\rho\;\frac{W_2^2(\rho,\rho_k)}{2\tau}+E_\rho[f]-T\,H(\rho)\;\to\;\rho(k\tau)",
    source="Jordan, Kinderlehrer & Otto (1998); Chaudhari & Soatto (2018), Corollary 8",
    hypotheses=("D = I", "the drift is −∇f"),
    as_stated="holds",
    holds=(
        "as stated, at order 1 in τ; with other D in the metric of D⁻¹ and with Φ, not f; with a current only if the "
        "transport along j is made separately"
    ),
    check=_descent,
    twin=_other_descent,
    figure=_errors,
)

# the heat equation ----------------------------------------------------------------------------------------

_HEAT, _HALF = 0.1, 2.5
_STARTS = {  # weight, centre, variance of each Gaussian
    "two bumps between walls": ((1.0, -0.8, 0.05), (0.5, 0.9, 0.1)),
    "a bump beside a wall": ((1.0, 1.7, 0.2),),
}


def _flat(cells: int, start: str) -> tuple[sde.Process, sde.Grid, np.ndarray]:
    grid = sde.Grid(-_HALF, _HALF, cells)
    x = grid.axes[0]
    rho = np.sum([w * np.exp(-((x - c) ** 2) / (2 * v)) for w, c, v in _STARTS[start]], axis=0)
    flat = sde.Landscape("x", "0*x", name="flat").at_temperature(_HEAT)
    return flat, grid, rho / (rho.sum() * grid.cell_volume)


@cache
def _heat_flow(cells: int, start: str, tau: float, time: float) -> "xr.DataArray":
    process, grid, rho = _flat(cells, start)
    return sde.JKO(process, grid).flow(rho, tau, round(time / tau))


def _dirichlet(rho: np.ndarray, h: float) -> np.ndarray:
    """T/2 ∫|∇ρ|²."""
    return 0.5 * _HEAT * (np.diff(rho, axis=-1) ** 2).sum(-1) / h


def _negative_entropy(rho: np.ndarray, h: float) -> np.ndarray:
    """T∫ρ log ρ."""
    return _HEAT * (rho * np.log(rho)).sum(-1) * h


@cache
def _l2_ratio(start: str, energy: str, cells: int, step: float) -> float:
    """−dE/dt over ∫(∂ρ/∂t)², by differences over ±step around t = 0.3 of the equation on the grid."""
    process, grid, rho = _flat(cells, start)
    times = np.array([0.3 - step, 0.3 + step])
    before, after = sde.FokkerPlanck(process, grid).evolve(rho, times, scheme="krylov").values
    measure = _dirichlet if energy == "Dirichlet" else _negative_entropy
    fall = float(measure(before, grid.cell_volume) - measure(after, grid.cell_volume)) / (2 * step)
    return fall / float((((after - before) / (2 * step)) ** 2).sum() * grid.cell_volume)


def _wasserstein_ratio(start: str, energy: str, cells: int, tau: float) -> float:
    """−ΔE/τ over W²/τ² of the JKO step that ends at t = 0.3."""
    flow = _heat_flow(cells, start, tau, 0.3)
    values = flow.energy.values if energy == "entropy" else _dirichlet(flow.values, 2 * _HALF / cells)
    return float((values[-2] - values[-1]) * tau / flow.wasserstein.values[-1] ** 2)


def _two_readings(level: Level, in_l2: str, in_w: str) -> list[Measurement]:
    found, cells = [], level.cells(200)
    for start in _STARTS:
        h = 0.02 / level.more**0.5
        values = [_l2_ratio(start, in_l2, cells, k * h) for k in (1.0, 0.5)]
        words = {"Dirichlet": "Dirichlet energy", "entropy": "negative entropy"}
        what = f"−dE/dt over the squared speed, {words[in_l2]} in L², {start}"
        found.append(refined(what, values[0], values[1], 1.0, order=2))
        tau = 0.3 / level.cells(12, 1)
        values = [_wasserstein_ratio(start, in_w, cells, k * tau) for k in (1.0, 0.5)]
        what = f"−dE/dt over the squared speed, {words[in_w]} in W₂, {start}"
        found.append(refined(what, values[0], values[1], 1.0, order=1))
    return found


def _each_in_its_own(level: Level) -> list[Measurement]:
    """Steepest descent of E in a metric is at the speed |∂ρ/∂t| = |∇E|, so that −dE/dt is its square. In L² by central
    differences in time of the equation on a grid; in W₂ by the steps of JKO, which measure their own length."""
    return _two_readings(level, "Dirichlet", "entropy")


def _crossed(level: Level) -> list[Measurement]:
    """The energies exchanged: the negative entropy in L², the Dirichlet energy in W₂."""
    return _two_readings(level, "entropy", "Dirichlet")


def _heat_picture(level: Level) -> "Figure":
    return plot_heat_equation(_heat_flow(200, "two bumps between walls", 0.025, 0.75))


TWO_DESCENTS_OF_HEAT = Claim(
    name="two_descents_of_heat",
    statement="The heat equation is steepest descent of the Dirichlet energy in L², and of the negative entropy in W₂.",
    formula=r"\partial_t\rho=T\Delta\rho:\quad-\frac{dE}{dt}=|\partial_t\rho|^2",
    source="Jordan, Kinderlehrer & Otto (1998)",
    hypotheses=("the energy goes with its own metric",),
    as_stated="holds",
    holds="as stated; with the metrics exchanged neither energy falls at the square of the speed",
    check=_each_in_its_own,
    twin=_crossed,
    figure=_heat_picture,
)
