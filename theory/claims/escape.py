"""Claims about how long it takes to leave a well: over a barrier, with D(x), and with a current."""

import itertools
import math
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

import sde_sgd as sde
from sde_sgd.figures._style import MUTED, new_figure, styled
from sde_sgd.theory.claim import Claim, Level, Measurement, refined, sampled
from sde_sgd.theory.claims._batches import seed_of
from sde_sgd.theory.claims._wells import Well, log_time

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_DOUBLE = Well("(x² − 1)²/4", "(x**2 - 1)**2/4", -1.0, 0.0, 1.0)
_CUBIC = Well("x²/2 − x³/3", "x**2/2 - x**3/3", 0.0, 1.0, 1.7)
_QUIET_BARRIER = Well(
    "x⁴/4 − x²/2 with D = 1 + 2x²", "x**4/4 - x**2/2", -1.0, 0.0, 1.0, "1 + 2*x**2"
)  # the multiplicative well of the catalogue
_LOUD_BARRIER = Well("x²/2 − x³/3 with D = e^(x − 1)", "x**2/2 - x**3/3", 0.0, 1.0, 1.7, "exp(x - 1)")


def _over_law(well: Well, temperature: float, log_prefactor: float) -> float:
    """The mean time over prefactor · exp(∫f'/(TD)); cells as wide as T/4, so that their error falls with T too."""
    cells = round(8 * well.reach / temperature)
    return math.exp(log_time(well, temperature, cells) - log_prefactor - well.rise() / temperature)


def _limit(what: str, well: Well, temperature: float, log_prefactor: float) -> Measurement:
    """That ratio as T → 0, extrapolated from 4T, 2T and T; expected is 1."""
    ratios = [_over_law(well, t, log_prefactor) for t in (4 * temperature, 2 * temperature, temperature)]
    linear = [2 * fine - coarse for coarse, fine in itertools.pairwise(ratios)]
    return refined(what, linear[0], linear[1], 1.0, order=2)


def _cold(level: Level) -> float:
    return 0.01 / math.sqrt(level.more)


def _by_paths(well: Well, temperature: float, step: float, bias: float, level: Level, seed: int) -> Measurement:
    """The mean exit time of simulated paths over that of the grid; the bias granted falls with the step."""
    finer = math.sqrt(level.more)
    exits = sde.exit_times(
        well.at(temperature),
        well.minimum,
        f"x < {well.beyond}",
        step=step / finer,
        paths=min(level.count(40_000), 400_000),
        max_steps=10**7,
        seed=seed_of(level, seed),
    )
    expected = math.exp(log_time(well, temperature, 2000))
    what = f"mean exit time of paths over the grid's, f = {well.name}, T = {temperature}"
    return sampled(what, exits.exit_time.values / expected, 1.0, bias=bias / finer)


def _eyring_kramers(level: Level) -> list[Measurement]:
    """Mean exit times from the backward Fokker–Planck equation on a grid, divided by the formula, at 4T, 2T and T;
    the ratio is 1 + O(T), so its limit is extrapolated. A symmetric double well and a cubic one that is left for
    good. At a higher temperature the grid's times are held against paths (stochastic Heun, with the Brownian bridge
    test; at most 400,000 of them); the bias granted there is the (h f'')² of the scheme."""
    limits = [
        _limit(f"time over formula as T → 0, f = {w.name}", w, _cold(level), w.log_prefactor())
        for w in (_DOUBLE, _CUBIC)
    ]
    return [
        *limits,
        _by_paths(_DOUBLE, 0.15, 0.02, 0.0016, level, 11),
        _by_paths(_CUBIC, 0.08, 0.02, 0.0004, level, 12),
    ]


def _warm(level: Level) -> list[Measurement]:
    """The temperature is as high as the barrier, and nothing is extrapolated."""
    found = []
    for well in (_DOUBLE, _CUBIC):
        law = well.log_prefactor() + 1.0
        coarse, fine = (math.exp(log_time(well, well.rise(), n) - law) for n in (level.cells(400), level.cells(800)))
        found.append(refined(f"time over formula at T = Δf, f = {well.name}", coarse, fine, 1.0, order=2))
    return found


@styled
def _trend(level: Level) -> "Figure":
    figure = new_figure(5.6, 3.6)
    ax = figure.subplots()
    hot = np.geomspace(0.005, 0.25, 14)
    for k, well in enumerate((_DOUBLE, _CUBIC, _QUIET_BARRIER, _LOUD_BARRIER)):
        law = well.log_prefactor() + 0.5 * math.log(well.noise_ratio())
        ratios = [math.exp(log_time(well, t, max(400, round(8 * well.reach / t))) - law - well.rise() / t) for t in hot]
        ax.plot(hot, ratios, "o-", ms=3, color=f"C{k}", label=f"f = {well.name}")
    ax.axhline(1.0, color=MUTED, lw=0.8)
    ax.set(xscale="log", xlabel="temperature T", ylabel="mean exit time / formula")
    ax.legend()
    return figure


EYRING_KRAMERS = Claim(
    name="eyring_kramers",
    statement="In one variable the mean time from a minimum a over the barrier b is 2π/√(f''(a)|f''(b)|) e^{Δf/T} as "
    "T → 0, and the rate is its inverse.",
    formula=r"E\tau\to\frac{2\pi}{\sqrt{f''(a)|f''(b)|}}\,e^{\Delta f/T}",
    source="Eyring (1935); Kramers (1940)",
    hypotheses=("D = 1", "T far below the barrier Δf", "f'' is not 0 at a and b"),
    as_stated="holds",
    holds="as stated, with a relative error O(T); at T = Δf these two are off by 18 and 3 %",
    check=_eyring_kramers,
    twin=_warm,
    figure=_trend,
)


def _ito_prefactor(level: Level) -> list[Measurement]:
    """As for constant D, with the prefactor 2π√(D(b)/(D(a) f''(a)|f''(b)|)): noise that is weakest on the barrier,
    and noise that is strongest there. Paths are Euler–Maruyama's, at most 400,000; the bias granted is that of its
    order 1, h f''."""
    found = []
    for well in (_QUIET_BARRIER, _LOUD_BARRIER):
        law = well.log_prefactor() + 0.5 * math.log(well.noise_ratio())
        found.append(_limit(f"time over formula as T → 0, f = {well.name}", well, 0.5 * _cold(level), law))
    return [
        *found,
        _by_paths(_QUIET_BARRIER, 0.12, 0.005, 0.01, level, 13),
        _by_paths(_LOUD_BARRIER, 0.25, 0.01, 0.01, level, 14),
    ]


def _constant_prefactor(level: Level) -> list[Measurement]:
    """The prefactor 2π/√(f''(a)|f''(b)|) of constant D, which is also that of Stratonovich's noise, with the barrier
    ∫f'/D right."""
    return [
        _limit(f"time over that with the constant prefactor, f = {w.name}", w, 0.5 * _cold(level), w.log_prefactor())
        for w in (_QUIET_BARRIER, _LOUD_BARRIER)
    ]


EYRING_KRAMERS_WITH_NOISE = Claim(
    name="eyring_kramers_with_noise",
    statement="Where the noise D(x) depends on x, the mean time over a barrier keeps Kramers' prefactor; only the "
    "barrier becomes the integral of f'/D.",
    formula=r"E\tau\to\frac{2\pi}{\sqrt{f''(a)|f''(b)|}}\,\exp(\frac{1}{T}\int_a^b\frac{f'}{D}\,dx)",
    source="folklore, from Kramers (1940)",
    hypotheses=("one variable", "T far below the barrier"),
    as_stated="fails",
    holds="for Itô's noise, which is SGD's, the prefactor is multiplied by √(D(b)/D(a)); as stated it is right for "
    "Stratonovich's noise, or where D(a) = D(b)",
    check=_ito_prefactor,
    twin=_constant_prefactor,
    figure=_trend,
)


# Two systems with a current, Φ the same with and without it: name → (Φ, D, q, minimum, exit, box).
_TURNED = ("(x**2 - 1)**2/4 + y**2/2", ((1, 0), (0, 1)), 1.0, (-1.0, 0.0), "x < 1", (2.0, 2.0))
_U, _W = "((sqrt(3)*x - y)/2)", "((sqrt(3)*y - x)/2)"
_SHEARED = (
    f"({_U}**2 - 1)**2/4 + {_W}**2/2",
    ((3, 0), (0, 1)),
    math.sqrt(0.75),
    (-math.sqrt(3), -1.0),
    f"{_U} < 1",
    (3.2, 2.6),
)
_RATE = 0.5 * (1 + math.sqrt(19 / 4))  # unstable eigenvalue of the sheared drift at its saddle


def _with_current(system: tuple, on: bool = True) -> sde.Landscape:
    potential, noise, q, *_ = system
    return sde.Landscape.manufactured(("x", "y"), potential, [list(row) for row in noise], str(q * on))


def _unstable_rate(system: tuple, on: bool) -> float:
    """λ₊ of the drift's linearisation −(D + Q)∇²Φ at the saddle, the origin."""
    potential, noise, q, *_ = system
    response = np.array(noise) + on * q * np.array([[0, 1], [-1, 0]])
    return float(np.linalg.eigvals(-response @ sde.Landscape(("x", "y"), potential).hessian([0.0, 0.0])).real.max())


@cache
def _plane_time(system: tuple, on: bool, temperature: float, cells: int) -> float:
    *_, minimum, inside, box = system
    grid = sde.Grid(tuple(-b for b in box), box, (cells, cells))
    fp = sde.FokkerPlanck(_with_current(system, on).at_temperature(temperature), grid)
    time = fp.mean_exit_time(inside, log=True).interp(x=minimum[0], y=minimum[1])
    return math.exp(float(time))


def _without_grid(system: tuple, temperature: float, cells: int) -> float:
    """Time with the current over time without it; the cells' second-order error is extrapolated away."""
    coarse, fine = (
        _plane_time(system, True, temperature, n) / _plane_time(system, False, temperature, n)
        for n in (cells // 2, cells)
    )
    return fine + (fine - coarse) / 3.0


def _ratio_as_cold(system: tuple, name: str, expected: float, level: Level, coldest: float) -> Measurement:
    temperature, cells = coldest / level.more**0.25, level.cells(192, 4)
    coarse, fine = (_without_grid(system, t, cells) for t in (2 * temperature, temperature))
    return refined(f"time with the current over time without, as T → 0, {name}", coarse, fine, expected, order=1)


@cache
def _law(points: int):
    """The rate over the saddle of the sheared double well from its path of least action."""
    process = sde.landscapes.get("sheared_double_well").at_temperature(0.02)
    return sde.potential.escape_rate(process, (-math.sqrt(3), -1.0), (0.0, 0.0), points=points)


def _action_terms(barrier: float, rate: float, more: float) -> list[Measurement]:
    """Barrier and prefactor of the sheared double well by the path of least action, against those expected."""
    law = _law(129 if more == 1 else 257)
    prefactor = float(law.rate) * math.exp(float(law.barrier) / 0.02)
    because = "the change with half and a quarter of the points, as the solver reports it, and rounding"
    return [
        Measurement(
            "barrier of the sheared double well by the path of least action",
            float(law.barrier),
            barrier,
            float(law.barrier_error) + 1e-9,
            because,
        ),
        Measurement(
            "2π · prefactor of its rate by the path of least action, (λ₊)√(det/|det|)",
            2 * math.pi * prefactor,
            rate * math.sqrt(2.0),
            2 * math.pi * prefactor * float(law.correction_error) + 1e-8,
            because,
        ),
    ]


def _irreversible(level: Level) -> list[Measurement]:
    """The same Φ and D with the current j = −Q∇Φ and without it: the formula says that their mean exit times, from
    the backward equation on a grid, are as λ₊ without to λ₊ with it, the determinants and ΔΦ being the same; taken at
    2T and T and extrapolated (the grid's error first, at each T). Barrier and prefactor themselves come from the path
    of least action with the matrix Riccati equation along it. In two variables T can fall only as the cells allow: at
    the full level by 1.8."""
    sheared = _unstable_rate(_SHEARED, False) / _RATE
    return [
        *_action_terms(0.25, _RATE, level.more),
        _ratio_as_cold(_TURNED, "double well turned by Q = [[0, 1], [−1, 0]]", math.sqrt(0.5), level, 0.05),
        _ratio_as_cold(_SHEARED, "sheared double well", sheared, level, 0.025),
    ]


def _as_if_reversible(level: Level) -> list[Measurement]:
    """The barrier of f in place of that of Φ, and λ₊ as if there were no current."""
    saddle = _unstable_rate(_SHEARED, False)
    return [
        *_action_terms(0.625, saddle, level.more),
        _ratio_as_cold(_TURNED, "double well turned by Q = [[0, 1], [−1, 0]]", 1.0, level, 0.05),
        _ratio_as_cold(_SHEARED, "sheared double well", 1.0, level, 0.025),
    ]


@styled
def _two_barriers(level: Level) -> "Figure":
    figure = new_figure(8.6, 3.5)
    left, right = figure.subplots(1, 2)
    well = sde.landscapes.get("sheared_double_well")
    box = _SHEARED[-1]
    x, y = (np.linspace(-b, b, 161) for b in box)
    points = np.stack(np.meshgrid(x, y), -1)
    for field, colour, style in ((well.loss(points), MUTED, "--"), (well.potential(points, 0.1), "C0", "-")):
        left.contour(
            x, y, field, np.array([0.05, 0.15, 0.25, 0.625, 1.0]), colors=colour, linestyles=style, linewidths=0.9
        )
    path = _law(129).path.values
    left.plot(path[:, 0], path[:, 1], color="C1", lw=2, label="path of least action")
    left.plot([], [], color="C0", label="Φ")
    left.plot([], [], "--", color=MUTED, label="f")
    left.set(xlabel="x", ylabel="y")
    left.legend(loc="upper left")
    inverse = np.linspace(5, 28, 8)
    times = [_plane_time(_SHEARED, True, 1 / b, 160) for b in inverse]
    right.semilogy(inverse, times, "o", color="C0", label="grid")
    law = 2 * math.pi / _RATE * math.sqrt(0.5)
    right.semilogy(inverse, law * np.exp(0.25 * inverse), color="C0", label="formula, ΔΦ = 1/4")
    right.semilogy(inverse, law * np.exp(0.625 * inverse), "--", color=MUTED, label="with Δf = 5/8")
    right.set(xlabel="1/T", ylabel="mean exit time")
    right.legend()
    return figure


IRREVERSIBLE_ESCAPE = Claim(
    name="irreversible_escape",
    statement="With a current j, div j = 0, the mean time over a saddle s from a minimum m is "
    "(2π/λ₊)√(|det ∇²Φ(s)|/det ∇²Φ(m)) e^{ΔΦ/T} as T → 0, λ₊ the unstable eigenvalue of the drift at s.",
    formula=r"E\tau\to\frac{2\pi}{\lambda_+}\sqrt{\frac{|\det\nabla^2\Phi(s)|}{\det\nabla^2\Phi(m)}}\,e^{\Delta\Phi/T}",
    source="Bouchet & Reygner (2016)",
    hypotheses=("div j = 0, so that e^{−Φ/T} is stationary with one Φ for every T", "T far below ΔΦ"),
    as_stated="holds",
    holds="as stated; ΔΦ and not Δf is the barrier, and the current shortens the time through λ₊",
    check=_irreversible,
    twin=_as_if_reversible,
    figure=_two_barriers,
)
