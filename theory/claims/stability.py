"""Claims about the step sizes that a minimum survives, and the time that a saddle takes."""

import math
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import dawsn

import sde_sgd as sde
from sde_sgd.figures._style import MUTED, new_figure, styled
from sde_sgd.theory.claim import Claim, Level, Measurement, exact, refined, sampled
from sde_sgd.theory.claims._batches import seed_of
from sde_sgd.theory.claims._descent import SYSTEMS, bisected, comes_nearer, edge, regression, regression_hessians

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@cache
def _step_edge(name: str, momentum: float, nesterov: bool, halvings: int) -> float:
    return edge(lambda rate: comes_nearer(name, rate, momentum, nesterov), 0.5, 5.0, halvings)


def _thresholds(name: str, cases: Sequence[tuple[float, bool, float]], level: Level) -> list[Measurement]:
    halvings = 14 + round(math.log2(level.more))
    return [
        bisected(
            f"largest stable ηh, {name}, {'Nesterov ' if nesterov else ''}μ = {momentum:g}",
            _step_edge(name, momentum, nesterov, halvings),
            expected,
            4.5 / 2**halvings,
        )
        for momentum, nesterov, expected in cases
    ]


def _descent_edges(level: Level) -> list[Measurement]:
    """Full-batch descent is started 1e-7 from the minimum along the sharpest direction, and the largest η after which
    it comes nearer in 200 steps is found by bisection: of a linear regression and of a neuron on the iris data."""
    cases = [(0.0, False, 2.0), (0.5, False, 3.0), (0.8, False, 3.6)]
    return [m for name in SYSTEMS for m in _thresholds(name, cases, level)]


def _wrong_momentum(level: Level) -> list[Measurement]:
    """2/h where there is momentum, and the heavy ball's 2(1 + μ)/h for Nesterov's form, whose edge is
    2(1 + μ)/(1 + 2μ)."""
    cases = [(0.5, False, 2.0), (0.5, True, 3.0)]
    return [m for name in SYSTEMS for m in _thresholds(name, cases, level)]


STEP_SIZE_THRESHOLD = Claim(
    name="step_size_threshold",
    statement="Gradient descent is stable at a minimum iff its sharpest curvature is below 2/η, and with momentum μ "
    "iff it is below 2(1 + μ)/η.",
    formula=r"\lambda_{\max}(H)<\frac{2(1+\mu)}{\eta}",
    source="folklore; Polyak (1964) for the heavy ball",
    hypotheses=("full batches", "the heavy ball, not Nesterov's form"),
    as_stated="holds",
    holds="as stated; Nesterov's edge is 2(1 + μ)/((1 + 2μ)η), a smaller one",
    check=_descent_edges,
    twin=_wrong_momentum,
)


_CURVATURES = (0.5, 1.0, 1.5, 2.0)


def _mean_square_edge(batch: int) -> float:
    """2ā/(ā² + A/b), where (1 − ηā)² + η²A/b = 1."""
    mean, spread = np.mean(_CURVATURES), np.var(_CURVATURES)
    return float(2 * mean / (mean**2 + spread / batch))


def _growth(rate: float, batch: int) -> float:
    """Spectral radius of E[(I − ηH_B) ⊗ (I − ηH_B)], the factor of E|w − c|² per step of that regression."""
    bends = regression_hessians()
    mean = bends.mean(axis=0)
    step = np.eye(2) - rate * mean
    spread = np.mean([np.kron(h - mean, h - mean) for h in bends], axis=0)
    return float(np.abs(np.linalg.eigvals(np.kron(step, step) + rate**2 / batch * spread)).max())


def _quadratic_sum(name: str) -> sde.FiniteSum:
    landscape = regression() if name == "regression" else sde.landscapes.get("pearson", curvatures=_CURVATURES)
    assert isinstance(landscape, sde.FiniteSum)
    return landscape


def _sharpest(quadratic: sde.FiniteSum) -> float:
    return float(np.linalg.eigvalsh(quadratic.hessian(np.zeros(quadratic.dim)))[-1])


@cache
def _steady_edge(name: str, batch: int, halvings: int) -> float:
    """The largest η at which the exact second moments of SGD are finite, by bisection."""
    quadratic = _quadratic_sum(name)

    def finite(rate: float) -> bool:
        try:
            sde.DiscreteSGD.from_finite_sum(quadratic, rate, batch)
        except ValueError:
            return False
        return True

    return edge(finite, 0.01 / _sharpest(quadratic), 4.0 / _sharpest(quadratic), halvings)


def _steady(name: str, batch: int, expected: float, level: Level) -> Measurement:
    halvings = 14 + round(math.log2(level.more))
    width = 4.0 / _sharpest(_quadratic_sum(name)) / 2**halvings
    return bisected(f"largest stable η, {name}, b = {batch}", _steady_edge(name, batch, halvings), expected, width)


def _squared_distance(rate: float, batch: int, steps: int, level: Level, seed: int) -> np.ndarray:
    """x²/x₀² of SGD as run on parabolas of those curvatures that share their minimum."""
    common = sde.FiniteSum(("x",), "a*x**2/2", {"a": np.array(_CURVATURES)}, name="shared_minimum")
    settings: dict[str, Any] = dict(batch_size=batch, steps=steps, replicas=min(level.count(400_000), 10_000_000))
    return sde.sgd(common, 1.0, learning_rate=rate, seed=seed_of(level, seed), **settings).x.values ** 2


def _mean_square(level: Level) -> list[Measurement]:
    """The largest η with a finite stationary E|x|², by bisection on the exact second moments (which refuse the rest):
    of four parabolas in one variable, against 2ā/(ā² + A/b), and of a linear regression in two, against the η at which
    the spectral radius of E[(I − ηH_B) ⊗ (I − ηH_B)], enumerated, is 1. SGD is then run at that very η on the
    parabolas, with one minimum in common and at most 10,000,000 times: E x² neither grows nor falls."""
    found, bend = [], _sharpest(_quadratic_sum("regression"))
    for batch in (1, 4):
        root = brentq(lambda rate, b=batch: _growth(rate, b) - 1.0, 0.2 / bend, 2.0 / bend)
        found += [_steady("four parabolas", batch, _mean_square_edge(batch), level)]
        found += [_steady("regression", batch, root, level)]
    for batch, steps in ((1, 3), (4, 4)):
        squares = _squared_distance(_mean_square_edge(batch), batch, steps, level, 40 + batch)
        found.append(sampled(f"E x²/x₀² after {steps} steps at that η, b = {batch}, SGD as run", squares, 1.0))
    return found


def _full_batch_edge(level: Level) -> list[Measurement]:
    """2/h for every batch size; and the mean square that full batches would have, between the two edges."""
    found = [_steady(name, 1, 2 / _sharpest(_quadratic_sum(name)), level) for name in ("four parabolas", "regression")]
    mean = float(np.mean(_CURVATURES))
    rate = 1.9 / mean
    what = "E x²/x₀² after 3 steps at ηā = 1.9, b = 1, SGD as run"
    return [*found, sampled(what, _squared_distance(rate, 1, 3, level, 45), (1 - rate * mean) ** 6)]


@styled
def _edges_figure(level: Level) -> "Figure":
    figure = new_figure(5.4, 3.5)
    ax = figure.subplots()
    mean = float(np.mean(_CURVATURES))
    rates = np.linspace(0.02, 2.3, 150) / mean
    for k, batch in enumerate((1, 2, 4)):
        factor = (1 - rates * mean) ** 2 + rates**2 * np.var(_CURVATURES) / batch
        ax.plot(rates * mean, factor, color=f"C{k}", label=f"b = {batch}")
        ax.plot(_mean_square_edge(batch) * mean, 1.0, "o", color=f"C{k}")
    ax.plot(rates * mean, (1 - rates * mean) ** 2, "--", color=MUTED, label="full batch")
    ax.axhline(1.0, color=MUTED, lw=0.8)
    ax.axvline(2.0, color=MUTED, lw=0.8, ls=":")
    ax.set(xlabel="ηā", ylabel="factor of E|x − c|² per step", ylim=(0, 2.2))
    ax.legend()
    return figure


MINI_BATCH_THRESHOLD = Claim(
    name="mini_batch_threshold",
    statement="SGD is stable at a minimum iff its sharpest curvature is below 2/η, whatever the batch size.",
    formula=r"\lambda_{\max}(H)<2/\eta",
    source="folklore, from gradient descent",
    hypotheses=("the samples share their Hessian, or the batch is the whole set",),
    as_stated="needs_hypothesis",
    holds="the mean is stable up to 2/h, the mean square only while the spectral radius of E[(I − ηH_B) ⊗ (I − ηH_B)] "
    "is below 1; in one variable, with A the variance of the samples' curvatures, η < 2ā/(ā² + A/b)",
    check=_mean_square,
    twin=_full_batch_edge,
    figure=_edges_figure,
)


def _dwell(rate: float, noise: float, radius: float) -> float:
    """(2/a)∫₀^X F(u) du, X² = aR²/(2TD), F Dawson's integral: the mean time from the top of −ax²/2 to |x| = R."""
    return 2 / rate * quad(dawsn, 0, radius * math.sqrt(rate / (2 * noise)), limit=500, epsrel=1e-12)[0]


@cache
def _saddle_grid_time(descent: float, temperature: float, cells: int) -> float:
    """Mean time from the saddle until |x| = 1 in the catalogue's landscape, from the backward equation in the plane."""
    saddle = sde.landscapes.get("saddle", descent=descent, ascent=2.0)
    grid = sde.Grid((-1.2, -1.2), (1.2, 1.2), (cells, 24))
    time = sde.FokkerPlanck(saddle.at_temperature(temperature), grid).mean_exit_time("x < 1 and x > -1")
    return float(time.interp(x=0.0, y=0.0))


_STEP = 0.01  # of paths near the saddle


def _noisy_saddle(along: float, across: float) -> sde.FiniteSum:
    """f = (2y² − x²)/2 as a mean of four, D = diag(along, across)."""
    kicks = {"s": np.array([1.0, -1, 0, 0]), "r": np.array([0.0, 0, 1, -1])}
    numbers = {"u": math.sqrt(2 * along), "v": math.sqrt(2 * across)}
    return sde.FiniteSum(("x", "y"), "y**2 - x**2/2 + u*s*x + v*r*y", kicks, parameters=numbers, name="noisy_saddle")


@cache
def _dwell_times(along: float, across: float, level: Level, seed: int) -> np.ndarray:
    """Exit times of the diffusion of that sum at T = 0.01, from the saddle to |x| = 1."""
    process = _noisy_saddle(along, across).at_temperature(0.01)
    settings: dict[str, Any] = dict(
        step=_STEP / math.sqrt(level.more), paths=min(level.count(10_000), 400_000), max_steps=10**5
    )
    inside = "x < 1 and x > -1"
    return sde.exit_times(process, (0.0, 0.0), inside, seed=seed_of(level, seed), **settings).exit_time.values


@cache
def _left(along: float, across: float, start: tuple[float, float], batch: int, level: Level) -> float:
    """Fraction of runs of SGD beyond |x| = 1 after twenty times the dwell time of T = 0.01 and D = I."""
    mode = "with_replacement" if batch < 4 else "without_replacement"
    steps = round(20 * _dwell(1.0, 0.01, 1.0) / 0.02)
    settings: dict[str, Any] = dict(
        learning_rate=0.02, batch_size=batch, steps=steps, replicas=200, sampling=mode, seed=seed_of(level, 50)
    )
    run = sde.sgd(_noisy_saddle(along, across), start, **settings)
    return float((np.abs(run.x.values) > 1).mean())


def _saddle_times(level: Level) -> list[Measurement]:
    """The mean time from the saddle to |x| = R against (2/a)∫₀^X F(u) du, X² = aR²/(2TD), F Dawson's integral: by the
    backward equation in the plane with D = I; by paths of the diffusion of a finite sum whose own D is diag(D₁, D₂),
    of which only D₁ may enter (Euler–Maruyama with the bridge test; at most 400,000; the bias granted is ah). Its
    growth with log(1/T), between T and T/16 for T → 0, must be 1/(2a). SGD as run, b = 1, has left after twenty times
    that time."""
    found = []
    for descent, temperature in ((1.0, 0.02), (3.0, 0.01)):
        law = _dwell(descent, temperature, 1.0)
        coarse, fine = (_saddle_grid_time(descent, temperature, level.cells(n)) / law for n in (60, 120))
        what = f"dwell time / closed form, D = I, grid, a = {descent:g}, T = {temperature:g}"
        found.append(refined(what, coarse, fine, 1.0, order=2))
        coldest = 1e-3 / level.more
        coarse, fine = (
            2 * descent * (_dwell(descent, t / 16, 1.0) - _dwell(descent, t, 1.0)) / math.log(16)
            for t in (2 * coldest, coldest)
        )
        found.append(
            refined(f"2a · growth of the dwell time with log(1/T), a = {descent:g}", coarse, fine, 1.0, order=1)
        )
    for seed, (along, across) in enumerate(((1.0, 1.0), (0.1, 4.0))):
        times = _dwell_times(along, across, level, 51 + seed) / _dwell(1.0, 0.01 * along, 1.0)
        what = f"dwell time / closed form, D = diag({along:g}, {across:g}), paths"
        found.append(sampled(what, times, 1.0, bias=_STEP / math.sqrt(level.more)))
        found.append(
            exact(
                f"fraction that SGD takes away, D = diag({along:g}, {across:g})",
                _left(along, across, (0.0, 0.0), 1, level),
                1.0,
            )
        )
    return found


def _held(level: Level) -> list[Measurement]:
    """From the stable manifold, x = 0: with no noise (full batches), and with noise in y alone."""
    return [
        exact("fraction that full batches take away from (0, 1)", _left(1.0, 1.0, (0.0, 1.0), 4, level), 1.0),
        exact("fraction that SGD takes away, D = diag(0, 1)", _left(0.0, 1.0, (0.0, 1.0), 1, level), 1.0),
    ]


@styled
def _dwell_figure(level: Level) -> "Figure":
    figure = new_figure(5.4, 3.5)
    ax = figure.subplots()
    cold = np.geomspace(1e-5, 0.1, 40)
    for k, descent in enumerate((1.0, 3.0)):
        ax.plot(cold, [_dwell(descent, t, 1.0) for t in cold], color=f"C{k}", label=f"closed form, a = {descent:g}")
        law = (np.log(2 * descent / cold) + np.euler_gamma) / (2 * descent)
        ax.plot(cold, law, ":", color=f"C{k}", label="(log(2a/T) + γ)/(2a)")
        grid = [(t, _saddle_grid_time(descent, t, 240)) for t in (0.003, 0.01, 0.03, 0.1)]
        ax.plot(*zip(*grid), "o", color=f"C{k}")
    ax.set(xscale="log", xlabel="temperature T", ylabel="mean time to |x| = 1", ylim=(0, None))
    ax.legend()
    return figure


SADDLE_DWELL = Claim(
    name="saddle_dwell",
    statement="The noise of SGD takes it away from a strict saddle, in a time that grows like log(1/T)/(2a), −a the "
    "negative curvature.",
    formula=r"E\tau=\frac{2}{a}\int_0^{X}F(u)\,du\sim\frac{1}{2a}\log\frac{1}{T},\quad X^2=\frac{aR^2}{2TD}",
    source="Kifer (1981); Ge et al. (2015) for isotropic noise; folklore for SGD's own",
    hypotheses=("D is not 0 along the unstable direction",),
    as_stated="needs_hypothesis",
    holds="as stated where D₁ > 0 along the unstable direction, with TD₁ in place of T; from the stable manifold "
    "neither full batches nor noise across it ever leave",
    check=_saddle_times,
    twin=_held,
    figure=_dwell_figure,
)
