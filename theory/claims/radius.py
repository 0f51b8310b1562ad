"""Claims about how far, and how long, a minimum of given curvature holds SGD whose noise is D = cH."""

import math
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.integrate import quad
from scipy.special import erf

import sde_sgd as sde
from sde_sgd.figures._style import MUTED, new_figure, styled
from sde_sgd.theory.claim import Claim, Level, Measurement, exact, refined, sampled
from sde_sgd.theory.claims._batches import seed_of
from sde_sgd.theory.claims._wells import Well, log_time

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FLAT, _SHARP, _NOISE = 1.0, 10.0, 0.5  # curvatures, and c of D = cH
_STEP = 0.1  # η, so that ηh = 0.1 and 1


def _parabola(curvature: float, diffusion: float) -> sde.Landscape:
    """f = hx²/2 with D = `diffusion`."""
    loss, noise = "h*x**2/2", [["noise + 0*x"]]
    numbers = {"h": curvature, "noise": diffusion}
    return sde.Landscape(("x",), loss, diffusion=noise, parameters=numbers, domain=((-9, 9),), name="parabola")


def _log_parabola_exit(curvature: float, exponent: float) -> float:
    """log of (√π/h) ∫₀^X e^{u²} erf(u) du, X² = `exponent`: the mean exit time of −hx dt + noise from the middle."""
    edge = math.sqrt(exponent)
    inner = quad(lambda u: math.exp(u * u - exponent) * erf(u), max(0.0, edge - 30 / edge), edge, epsabs=0, limit=200)[
        0
    ]
    return exponent + math.log(math.sqrt(math.pi) / curvature * inner)


@cache
def _parabola_times(curvature: float, diffusion: float, temperature: float, radius: float, cells: int) -> float:
    """The same time from the backward equation on a grid."""
    grid = sde.Grid(-1.2 * radius, 1.2 * radius, cells)
    fp = sde.FokkerPlanck(_parabola(curvature, diffusion).at_temperature(temperature), grid)
    return float(fp.mean_exit_time(f"x < {radius} and x > {-radius}").interp(x=0.0))


def _parabola_paths(curvature: float, temperature: float, radius: float, level: Level, seed: int) -> np.ndarray:
    """Exit times of paths with D = cH."""
    process = _parabola(curvature, _NOISE * curvature).at_temperature(temperature)
    settings: dict[str, Any] = dict(step=0.01 / curvature, paths=min(level.count(40_000), 400_000), max_steps=10**7)
    inside = f"x < {radius} and x > {-radius}"
    return sde.exit_times(process, 0.0, inside, seed=seed_of(level, seed), **settings).exit_time.values


@cache
def _squares(level: Level) -> np.ndarray:
    """x² of independent runs of SGD over its predicted mean, D = cH and b = 1 along two directions: (2, runs)."""
    kicks = {"s": np.array([1.0, -1, 0, 0]), "r": np.array([0.0, 0, 1, -1])}
    numbers = {"flat": _FLAT, "sharp": _SHARP, "c": _NOISE}
    loss = "flat*x**2/2 + sharp*y**2/2 + sqrt(2*c*flat)*s*x + sqrt(2*c*sharp)*r*y"
    valley = sde.FiniteSum(("x", "y"), loss, kicks, parameters=numbers, name="valley")
    settings: dict[str, Any] = dict(
        learning_rate=_STEP, batch_size=1, steps=150, replicas=min(level.count(100_000), 1_000_000)
    )
    run = sde.sgd(valley, (0.0, 0.0), seed=seed_of(level, 1), **settings)
    scales = [_STEP * _NOISE / (2 - _STEP * h) for h in (_FLAT, _SHARP)]
    return np.stack([run.x.values**2 / scales[0], run.y.values**2 / scales[1]])


def _exit_radius(level: Level) -> list[Measurement]:
    """D = cH with curvatures 1 and 10. The variances are those of the linear theory in continuous time, of the exact
    recursion, and of SGD run on a finite sum. The exit times from |x| < R are solved on a grid and simulated
    (stochastic Heun with the bridge test, a step of 0.01/h; at most 400,000 paths; the bias granted is ten times the
    0.01² of its order 2)."""
    bends = np.diag([_FLAT, _SHARP])
    law = sde.OrnsteinUhlenbeck.at_minimum(bends, _NOISE * bends, 0.1)
    steps = sde.DiscreteSGD([[3.0, 1.0], [1.0, 2.0]], _NOISE * np.array([[3.0, 1.0], [1.0, 2.0]]), 0.2, 4)
    across = np.linalg.eigh(steps.H)
    variances = np.diagonal(across[1].T @ steps.covariance @ across[1])
    found = [
        *(
            exact(f"variance / Tc of the SDE, h = {h:g}", law.covariance[i, i] / (0.1 * _NOISE), 1.0)
            for i, h in enumerate((_FLAT, _SHARP))
        ),
        *(
            exact(f"variance / (ηc/(b(2 − ηh))) of the recursion, ηh = {0.2 * h:.3f}", v * 4 * (2 - 0.2 * h) / 0.1, 1.0)
            for h, v in zip(across[0], variances)
        ),
    ]
    for name, h, squares in zip(("flat", "sharp"), (_FLAT, _SHARP), _squares(level)):
        found.append(sampled(f"variance / (ηc/(2 − ηh)) of SGD as run, ηh = {_STEP * h:g} ({name})", squares, 1.0))
    for curvature, temperature, seed in ((_FLAT, 0.5, 2), (_SHARP, 0.8, 3)):
        exponent = 1.0 / (2 * temperature * _NOISE)  # R²/(2s²) with R = 1, s² = Tc: the curvature drops out of it
        law_time = math.exp(_log_parabola_exit(curvature, exponent))
        coarse, fine = (
            _parabola_times(curvature, _NOISE * curvature, temperature, 1.0, level.cells(n)) / law_time
            for n in (60, 120)
        )
        found.append(
            refined(f"exit time from |x| < 1 / closed form, on a grid, h = {curvature:g}", coarse, fine, 1.0, order=2)
        )
        paths = _parabola_paths(curvature, temperature, 1.0, level, seed) / law_time
        found.append(sampled(f"exit time from |x| < 1 / closed form, paths, h = {curvature:g}", paths, 1.0, bias=1e-3))
    return found


def _inverse_radius(level: Level) -> list[Measurement]:
    """As published, a tenfold curvature means a tenth of the radius: of the spread, and of the interval that is left
    in the same mean time."""
    bends = np.diag([_FLAT, _SHARP])
    law = sde.OrnsteinUhlenbeck.at_minimum(bends, _NOISE * bends, 0.1)
    spread = math.sqrt(law.covariance[1, 1] / law.covariance[0, 0])
    predicted = (2 - _STEP * _FLAT) / (2 - _STEP * _SHARP)  # what the squares are divided by, sharp / flat
    coarse, fine = (
        _parabola_times(_SHARP, _NOISE * _SHARP, 0.5, 0.1, n) / _parabola_times(_FLAT, _NOISE * _FLAT, 0.5, 1.0, n)
        for n in (level.cells(60), level.cells(120))
    )
    return [
        exact("spread sharp / flat of the SDE with D = cH", spread, 0.1),
        sampled("variance sharp / flat of SGD as run", _squares(level)[1] * predicted, 0.01),
        refined("exit time, h = 10 from |x| < 0.1 over h = 1 from |x| < 1", coarse, fine, 1.0, order=2),
    ]


@styled
def _radius_figure(level: Level) -> "Figure":
    figure = new_figure(8.2, 3.4)
    left, right = figure.subplots(1, 2)
    rates = np.linspace(0.2, 18, 60)
    left.plot(rates, np.ones(60), "--", color=MUTED, label="SDE, √(Tc)")
    left.plot(rates, np.sqrt(2 / (2 - _STEP * rates)), color="C0", label="recursion, √(ηc/(b(2 − ηh)))")
    seen = [math.sqrt(v.mean() * 2 / (2 - _STEP * h)) for h, v in zip((_FLAT, _SHARP), _squares(level))]
    left.plot([_FLAT, _SHARP], seen, "o", color="C0", label="SGD as run")
    left.plot(rates, 1 / rates, color="C1", label="as published, ∝ 1/h")
    left.set(xlabel="curvature h", ylabel="spread / √(Tc),  D = cH, η = 0.1", ylim=(0, 3.2))
    left.legend()
    inverse = np.linspace(4, 40, 40)
    for colour, curvature in zip(("C0", "C2", "C3"), (1.0, 2.0, 4.0)):
        logs = [_log_parabola_exit(curvature, b * 0.5 / curvature) / math.log(10) for b in inverse]
        right.plot(inverse, logs, color=colour, label=f"h = {curvature:g}")
    right.set(xlabel="1/(Tc)", ylabel="log₁₀ of the exit time from depth ½")
    right.legend()
    return figure


RADIUS_OF_STABILITY = Claim(
    name="radius_of_stability",
    statement="The radius around a minimum within which SGD stays is inversely proportional to the spectral radius of "
    "the Hessian.",
    formula=r"r\propto 1/\lambda_{\max}(H)",
    source="Golmant (2018)",
    hypotheses=("D = cH, as near the optimum of a well-specified model",),
    as_stated="fails",
    holds="the spread is √(Tc) at every curvature, and that of the recursion √(ηc/(b(2 − ηh))), wider in sharp "
    "directions; what falls like 1/h is the mean exit time from |x| < R, (√π/h)∫₀^{R/√(2Tc)} e^{u²} erf(u) du",
    check=_exit_radius,
    twin=_inverse_radius,
    figure=_radius_figure,
)


_DEPTH = 0.125


def _double_well(curvature: float, diffusion: float) -> Well:
    """Of curvature h and depth 1/8, whatever h."""
    width = 1 / math.sqrt(curvature)
    loss = f"({curvature}*x**2 - 1)**2/8"
    return Well("double well", loss, -width, 0.0, width, str(diffusion), reach=2 * width)


def _exponent(log_of: Callable[[float], float], temperature: float) -> float:
    """d log τ/d(1/T) between 1/T and 2/T."""
    return (log_of(temperature / 2) - log_of(temperature)) * temperature


def _double_well_exponent(curvature: float, diffusion: float, level: Level) -> Measurement:
    """ch/ΔL times the exponent of the double well, which is 1 for D = cH."""
    coldest = 0.004 / math.sqrt(level.more)
    cells = round(1200 * math.sqrt(level.more))
    well = _double_well(curvature, diffusion)
    coarse, fine = (
        _exponent(lambda at: log_time(well, at, cells), t) * _NOISE * curvature / _DEPTH for t in (2 * coldest, coldest)
    )
    return refined(f"ch/ΔL · exponent of the double well, h = {curvature:g}", coarse, fine, 1.0, order=2)


def _exponents(level: Level) -> list[Measurement]:
    """d log τ/d(1/T) as T → 0, times ch/ΔL: of the double well (hx² − 1)²/8 on a grid, where it is 1 + O(T²), and of a
    parabola that ends at the height ΔL = ½ by its closed form, where it is 1 + O(T). The exit times of the parabola
    themselves are compared with paths for h = 1 and 2 at one temperature."""
    found = [_double_well_exponent(h, _NOISE * h, level) for h in (1.0, 2.0, 4.0)]
    coldest = 0.01 / level.more
    for curvature in (1.0, 4.0):
        cut = lambda t, h=curvature: _log_parabola_exit(h, 0.5 / (t * _NOISE * h))  # noqa: E731
        coarse, fine = (_exponent(cut, t) * _NOISE * curvature / 0.5 for t in (2 * coldest, coldest))
        found.append(refined(f"ch/ΔL · exponent of the cut parabola, h = {curvature:g}", coarse, fine, 1.0, order=1))
    times = [_parabola_paths(h, 0.4, math.sqrt(1 / h), level, 30 + int(h)) for h in (1.0, 2.0)]
    for curvature, values in zip((1.0, 2.0), times):
        law_time = math.exp(_log_parabola_exit(curvature, 0.5 / (0.4 * _NOISE * curvature)))
        what = f"exit time from depth ½ / closed form, paths, h = {curvature:g}"
        found.append(sampled(what, values / law_time, 1.0, bias=1e-3))
    return found


def _isotropic_noise(level: Level) -> list[Measurement]:
    """D = c instead of cH."""
    return [_double_well_exponent(h, _NOISE, level) for h in (2.0, 4.0)]


SHARP_WELLS_EXIT = Claim(
    name="sharp_wells_exit",
    statement="Sharp minima are left exponentially faster: from wells of one depth ΔL with D = cH, exit times grow "
    "like e^{ΔL/(Tch)}.",
    formula=r"T\log E\tau\to\frac{\Delta L}{c\,h}",
    source="Golmant (2018), as an exit time",
    hypotheses=("D = cH, H taken at the minimum", "wells of the same depth", "T far below ΔL/(ch)"),
    as_stated="holds",
    holds="as stated; with D = cI the exponent is ΔL/(Tc) in sharp wells and flat ones",
    check=_exponents,
    twin=_isotropic_noise,
    figure=_radius_figure,
)
