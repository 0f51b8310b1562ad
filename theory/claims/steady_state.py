"""Claims about the steady state: its potential Φ = −T log ρ against the loss f, and against the temperature."""

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import sympy as sp

import sde_sgd as sde
from sde_sgd.figures import plot_current
from sde_sgd.figures._style import INK, MUTED, new_figure, styled
from sde_sgd.theory.claim import Claim, Level, Measurement, exact, refined, sampled
from sde_sgd.theory.claims._batches import seed_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WELL = "(x**2 - 1)**2/4 + y**2/2 + x*y/4"
_FOUR = "((x**2 + y - 11)**2 + (x + y**2 - 7)**2)/100"


@cache
def _generator(loss: str, diffusion: tuple, temperature: float, box: tuple, cells: int) -> sde.FokkerPlanck:
    """That of −∇f and D, given as expressions: a solver told of f itself would take it for the potential.

    `box` has (lower, upper), and "periodic" where it is, per variable."""
    f = sp.sympify(loss)
    names = ("x", "y")[: len(diffusion)]
    drift = [sp.Mul(-1, sp.diff(f, name)) for name in names]
    domain = box if "periodic" in box[-1] else None
    process = sde.Process(drift, [list(row) for row in diffusion], temperature, variables=names, domain=domain)
    walls = [(*side, "reflecting")[2] for side in box]
    grid = sde.Grid([side[0] for side in box], [side[1] for side in box], (cells,) * len(box), boundary=walls)
    return sde.FokkerPlanck(process, grid)


@cache
def _solved(loss: str, diffusion: tuple, temperature: float, box: tuple, cells: int):
    """(steady density, Φ, f, D) at the cells of the box."""
    fp = _generator(loss, diffusion, temperature, box, cells)
    log_density, points = fp.log_steady_state().values, fp.grid.centers()
    f = sde.Landscape(fp.process.variables, loss).loss(points)
    return np.exp(log_density), -temperature * log_density, f, fp.process.diffusion(points)


def _slope(of: np.ndarray, on: np.ndarray, rho: np.ndarray) -> float:
    """Regression coefficient under the density ρ."""
    p = rho / rho.sum()
    on = on - (p * on).sum()
    return float((p * on * of).sum() / (p * on * on).sum())


def _common(rho: np.ndarray, f: np.ndarray, temperature: float) -> float:
    """The probability that ρ and e^{−f/T} have in common, ∫min: 1 if and only if they are the same."""
    gibbs = np.exp(-(f - f.min()) / temperature)
    return float(np.minimum(rho / rho.sum(), gibbs / gibbs.sum()).sum())


# Φ = f/c --------------------------------------------------------------------------------------------------

_PLANES = {  # loss, box, temperature
    "a tilted double well": (_WELL, ((-3.0, 3.0), (-3.0, 3.0)), 0.2),
    "Himmelblau's four wells": (_FOUR, ((-6.0, 6.0), (-6.0, 6.0)), 0.4),
}


def _loss_as_potential(level: Level, diffusion: tuple, noise: str) -> list[Measurement]:
    found = []
    for name, (loss, box, temperature) in _PLANES.items():
        values = []
        for cells in (level.cells(48), 2 * level.cells(48)):
            rho, potential, f, _ = _solved(loss, diffusion, temperature, box, cells)
            values.append((_slope(potential, f, rho), _common(rho, f, 2 * temperature)))
        (s, c), (slope, common) = values
        found.append(refined(f"slope of Φ on f in {name}, {noise}, grid", s, slope, 0.5, order=2))
        found.append(refined(f"probability that ρ and e^(−f/cT) share, {name}, {noise}, grid", c, common, 1.0, order=2))
    return [*found, _mean_loss(level, diffusion, noise)]


def _mean_loss(level: Level, diffusion: tuple, noise: str) -> Measurement:
    """E f over paths of the SDE, against the integral over e^{−f/cT}."""
    loss, _, temperature = _PLANES["a tilted double well"]
    well, step = sde.Landscape(("x", "y"), loss, diffusion=[list(row) for row in diffusion]), 0.02
    ends = sde.simulate(
        well.at_temperature(temperature), [1.0, 0.0], step=step, steps=1000, paths=min(level.count(100_000), 3_000_000),
        seed=seed_of(level, 70), threads=1,
    )  # fmt: skip
    f = well.loss(sde.Grid((-3, -3), (3, 3), (600, 600)).centers())
    gibbs = np.exp(-f / (2 * temperature))
    expected = float((f * gibbs).sum() / gibbs.sum())
    values = well.loss(np.stack([ends["x"].values, ends["y"].values], -1))
    what = f"E f in a tilted double well, {noise}, paths"
    return sampled(what, values, expected, bias=(4.0 * step) ** 2 * expected)


def _isotropic(level: Level) -> list[Measurement]:
    """Steady states with D = 2I on two grids, the solver being given the drift alone: the slope of Φ on f, and the
    probability that ρ shares with e^{−f/2T}. Then E f over Langevin paths of 1000 steps of 0.02, granted the relative
    bias of their order 2, the square of step times twice the curvature 2 of the wells; 3 million at most, for the time
    they take."""
    return _loss_as_potential(level, ((2, 0), (0, 2)), "D = 2I")


def _anisotropic(level: Level) -> list[Measurement]:
    """The same with D = diag(1, 3), of the same trace."""
    return _loss_as_potential(level, ((1, 0), (0, 3)), "D = diag(1, 3)")


ISOTROPIC_NOISE = Claim(
    name="isotropic_noise",
    statement="If the noise is isotropic, D = cI, the steady state of SGD is e^{−f/(cT)}: its potential is the loss.",
    formula=r"D=cI\;\Rightarrow\;\Phi=f/c",
    source="Chaudhari & Soatto (2018), Lemma 6",
    hypotheses=("D is a constant multiple of the identity",),
    as_stated="holds",
    holds="as stated (the lemma writes Φ = f, which is so for c = 1); with D = diag(1, 3) it is not the loss",
    check=_isotropic,
    twin=_anisotropic,
)

# Φ = f without D = cI --------------------------------------------------------------------------------------

_TWIST = "exp(-(x**2 + y**2)/2)"
_STIRRED, _TWISTED = "D = 1 + e^(f/T)/2 in one dimension", "a twist D = I + m(r)(r̂θ̂ᵀ + θ̂r̂ᵀ) around f = r²/2"
_OTHERS = {  # loss, D, temperature, box: each has Φ = f
    _STIRRED: (
        "(x**2 - 1)**2/4",
        (("1 + exp((x**2 - 1)**2/(4*0.2))/2",),),
        0.2,
        ((-1.9, 1.9),),
    ),
    "f flat in y, D = diag(1, 1 + x²)": (
        "(x**2 - 1)**2/4 + 0*y",
        ((1, 0), (0, "1 + x**2")),
        0.2,
        ((-3.0, 3.0), (-1.0, 1.0, "periodic")),
    ),
    "the same at three times the temperature": (
        "(x**2 - 1)**2/4 + 0*y",
        ((1, 0), (0, "1 + x**2")),
        0.6,
        ((-3.5, 3.5), (-1.0, 1.0, "periodic")),
    ),
    _TWISTED: (
        "(x**2 + y**2)/2",
        ((f"1 - 2*x*y*{_TWIST}", f"(x**2 - y**2)*{_TWIST}"), (f"(x**2 - y**2)*{_TWIST}", f"1 + 2*x*y*{_TWIST}")),
        0.5,
        ((-4.5, 4.5), (-4.5, 4.5)),
    ),
}


def _cells(level: Level, box: tuple) -> int:
    return level.cells(200 if len(box) == 1 else 64)


def _potential_all_the_same(level: Level) -> list[Measurement]:
    """Steady states of the drift alone, on two grids: the probability that ρ shares with e^{−f/T}, which is 1 only for
    Φ = f. D⁻¹f' integrates to f + T log D where D = 1 + Ke^{f/T}; noise along y stirs what is level already; and a
    twist of the noise around a round f makes a current that is round as well: div(m e^{−f/T}(r̂θ̂ᵀ + θ̂r̂ᵀ)) is along θ̂.
    That current is there: with m = r²e^{−r²/2} its mean angular velocity is −2T E[e^{−r²/2}] = −2T/(1 + T)."""
    found = []
    for name, (loss, diffusion, temperature, box) in _OTHERS.items():
        cells = _cells(level, box)
        values = [_solved(loss, diffusion, temperature, box, n) for n in (cells, 2 * cells)]
        coarse, fine = (_common(rho, f, temperature) for rho, _, f, _ in values)
        found.append(refined(f"probability that ρ and e^(−f/T) share, {name}", coarse, fine, 1.0, order=2))
    turns = [_turning(_cells(level, ((0, 1), (0, 1))) * k) for k in (1, 2)]
    return [
        *found,
        refined("mean angular velocity with the twist, T = 0.5", turns[0], turns[1], -2 * 0.5 / 1.5, order=2),
    ]


@cache
def _turning(cells: int) -> float:
    """Mean angular velocity of the steady current of the twist."""
    fp = _generator(*_OTHERS[_TWISTED], cells)
    flow, points = fp.current(fp.steady_state()).values, fp.grid.centers()
    moment = points[..., 0] * flow[..., 1] - points[..., 1] * flow[..., 0]
    return float((moment / (points**2).sum(-1)).sum() * fp.grid.cell_volume)


def _constant_isotropic(level: Level) -> list[Measurement]:
    """In the same four systems, where Φ = f: how far D is from cI, E|D − cI|/E|D| with c = E tr D/d, which "only if"
    says is 0."""
    found = []
    for name, (loss, diffusion, temperature, box) in _OTHERS.items():
        rho, _, _, d = _solved(loss, diffusion, temperature, box, _cells(level, box))
        p, size = rho / rho.sum(), d.shape[-1]
        c = float((p * np.trace(d, axis1=-2, axis2=-1)).sum() / size)
        off = (p * np.linalg.norm(d - c * np.eye(size), axis=(-2, -1))).sum()
        found.append(exact(f"E|D − cI|/E|D|, {name}", off / (p * np.linalg.norm(d, axis=(-2, -1))).sum(), 0.0))
    return found


@styled
def _stirred_and_twisted(level: Level) -> "Figure":
    """Φ on f where D is far from constant; and the current of the twist, which keeps e^{−f/T}."""
    figure = new_figure(8.6, 3.6)
    left, right = figure.subplots(1, 2)
    loss, diffusion, temperature, box = _OTHERS[_STIRRED]
    fp = _generator(loss, diffusion, temperature, box, _cells(level, box))
    _, potential, f, d = _solved(loss, diffusion, temperature, box, _cells(level, box))
    x, every = fp.grid.axes[0], slice(None, None, fp.grid.shape[0] // 40)
    left.plot(x, f, label="f")
    left.plot(x[every], (potential - potential.min())[every], "o", ms=4, label="Φ")
    noise = left.twinx()
    noise.plot(x, d[:, 0, 0], color=MUTED, ls="--", label="D")
    noise.set(ylabel="D", yscale="log")
    left.set(xlabel="x", ylabel="f, Φ", title=r"$D = 1 + e^{f/T}/2$")
    left.legend(handles=[*left.lines, *noise.lines], loc="upper center")
    plot_current(sde.decompose(_generator(*_OTHERS[_TWISTED], _cells(level, ((), ())))), right)
    right.set_title("a round loss, twisted noise: Φ = f, and j")
    return figure


ONLY_ISOTROPIC_NOISE = Claim(
    name="only_isotropic_noise",
    statement="The potential of SGD is the loss only if the noise is isotropic: Φ = f implies D = cI.",
    formula=r"\Phi=f\;\Rightarrow\;D=cI",
    source="Chaudhari & Soatto (2018), Lemma 6",
    as_stated="fails",
    holds=(
        "Φ = f exactly where ∂_i∂_j(e^{−f/T}(D − I)_ij) = 0. In one dimension D = 1 + Ke^{f/T} does it, at that T; "
        "noise of any strength along a direction in which f is flat does it at every T; so does a twist of the noise "
        "around a round loss, and then SGD turns although Φ = f"
    ),
    check=_potential_all_the_same,
    twin=_constant_isotropic,
    figure=_stirred_and_twisted,
)

# Φ and the temperature -------------------------------------------------------------------------------------

_COLD, _WARM = 0.2, 0.3
_LINES = ("double well with D = 1 + 2x²", "four quadratic samples (real finite sum)")
_DRIVEN = "example 19, its drift that of T = 1"


def _linear_regression() -> sde.FiniteSum:
    """Quadratic samples of unlike curvature: D(x) is itself quadratic."""
    return sde.FiniteSum("x", "a*(x - m)**2/2", {"a": [0.5, 1.0, 1.5, 1.2], "m": [-1.0, 0.5, 0.3, -0.4]})


@cache
def _line(system: str, temperature: float, cells: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(x, Φ, D) of a system in one dimension in which D depends on x; the solver is told no potential."""
    if system == _LINES[0]:
        fp = _generator("x**4/4 - x**2/2", (("1 + 2*x**2",),), temperature, ((-5.0, 5.0),), cells)
    else:
        fp = sde.FokkerPlanck(_linear_regression().at_temperature(temperature), sde.Grid(-8.0, 8.0, cells))
    x = fp.grid.centers()
    return x[..., 0], -temperature * fp.log_steady_state().values, fp.process.diffusion(x)[..., 0, 0]


@cache
def _constant_noise(system: str, cells: int) -> float:
    """The slope of Φ at T = 0.3 on Φ at T = 0.2, where D is constant."""
    if system == _DRIVEN:
        swirl, box = "1.5*exp((x**2 - 1)**2/4 + y**2/2 - (x**2 + y**2)**2/4)", 3.0
        drift = [f"x - x**3 - y*{swirl}", f"-y + x*{swirl}"]
        processes = [sde.Process(drift, [[1, 0], [0, 1]], t, variables=("x", "y")) for t in (_COLD, _WARM)]
    else:
        landscape, box = {
            "sheared double well": (sde.landscapes.get("sheared_double_well"), 5.0),
            "quadratic with rotation": (sde.landscapes.get("quadratic", rotation=1.0), 4.0),
        }[system]
        processes = [landscape.at_temperature(t) for t in (_COLD, _WARM)]
    grid = sde.Grid((-box, -box), (box, box), (cells, cells))
    logs = [sde.FokkerPlanck(process, grid).log_steady_state().values for process in processes]
    return _slope(-_WARM * logs[1], -_COLD * logs[0], np.exp(logs[0]))


def _slope_of_temperatures(level: Level, system: str) -> Measurement:
    cells = level.cells(64)
    values = [_constant_noise(system, n) for n in (cells, 2 * cells)]
    return refined(f"slope of Φ(T = 0.3) on Φ(T = 0.2), {system}, grid", values[0], values[1], 1.0, order=2)


def _temperature_dependence(level: Level) -> list[Measurement]:
    """Steady states at T = 0.2 and 0.3. Where D and Q are constant Φ has slope 1 on itself. In one dimension
    Φ' = (f' + TD')/D, so that the change of Φ has the slope 0.3 − 0.2 on log D."""
    found = [_slope_of_temperatures(level, "sheared double well")]
    found.append(_slope_of_temperatures(level, "quadratic with rotation"))
    for system in _LINES:
        values = []
        for cells in (level.cells(200), 2 * level.cells(200)):
            (_, cold, d), (_, warm, _) = (_line(system, t, cells) for t in (_COLD, _WARM))
            values.append(_slope(warm - cold, np.log(d), np.exp(-cold / _COLD)))
        found.append(
            refined(
                f"slope of Φ(T = 0.3) − Φ(T = 0.2) on log D, {system}", values[0], values[1], _WARM - _COLD, order=2
            )
        )
    return found


def _independent(level: Level) -> list[Measurement]:
    """The slope of Φ(T = 0.3) on Φ(T = 0.2) where D depends on x, and where D is constant and Q is not."""
    found = []
    for system in _LINES:
        values = []
        for cells in (level.cells(200), 2 * level.cells(200)):
            cold, warm = (_line(system, t, cells)[1] for t in (_COLD, _WARM))
            values.append(_slope(warm, cold, np.exp(-cold / _COLD)))
        found.append(refined(f"slope of Φ(T = 0.3) on Φ(T = 0.2), {system}", values[0], values[1], 1.0, order=2))
    return [*found, _slope_of_temperatures(level, _DRIVEN)]


@styled
def _potentials(level: Level) -> "Figure":
    """Φ of one loss and one noise at several temperatures."""
    figure = new_figure(5.4, 3.8)
    ax = figure.subplots()
    x = np.linspace(-1.9, 1.9, 200)
    ax.plot(x, x**4 / 4 - x**2 / 2 + 0.25, color=INK, ls="--", label="f")
    for temperature in (0.05, 0.1, 0.2, 0.3):
        at, potential, _ = _line(_LINES[0], temperature, level.cells(400))
        shown = np.abs(at) < 1.9
        ax.plot(at[shown], (potential - potential.min())[shown], label=f"Φ at T = {temperature:g}")
    ax.set(xlabel="x", ylabel="potential, from its minimum", title=r"$D = 1 + 2x^2$")
    ax.legend()
    return figure


TEMPERATURE_IN_POTENTIAL = Claim(
    name="temperature_in_potential",
    statement="The potential Φ depends on the loss and its gradient noise alone, not on the temperature η/2b.",
    formula=r"\partial\Phi/\partial\beta=0",
    source="Chaudhari & Soatto (2018), Theorem 22",
    hypotheses=("D and Q do not depend on x, as where D is constant and the drift linear",),
    as_stated="needs_hypothesis",
    holds="Φ is free of T for constant D and Q; with D(x) in one dimension Φ' = (f' + TD')/D, so that ∂Φ/∂T = log D",
    check=_temperature_dependence,
    twin=_independent,
    figure=_potentials,
)
