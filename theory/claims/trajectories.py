"""Claims about trajectories: what turns, what only looks as if it did, and what tells the two apart."""

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

import sde_sgd as sde
from sde_sgd.theory.claim import Claim, Level, Measurement, estimated, exact, refined, sampled
from sde_sgd.theory.claims._driven_processes import generator, process_named

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# -- a finite sum that turns ----------------------------------------------------------------------------------


@cache
def _spiral(kappa: float, samples: int = 3) -> sde.FiniteSum:
    spiral = sde.landscapes.get("spiral", kappa=kappa, samples=samples)
    assert isinstance(spiral, sde.FiniteSum)
    return spiral


@cache
def _velocity_on_grid(landscape: sde.Landscape, temperature: float, cells: int) -> float:
    """∫ J·θ̂/r of the solved density, over −T."""
    fp = sde.FokkerPlanck(landscape.at_temperature(temperature), sde.Grid((-2.6, -2.6), (2.6, 2.6), (cells, cells)))
    x, y = np.moveaxis(fp.grid.centers(), -1, 0)
    along_x, along_y = np.moveaxis(sde.decompose(fp)["current"].values, -1, 0)
    turned = (x * along_y - y * along_x) / (x**2 + y**2)
    return float(turned.sum() * fp.grid.cell_volume / -temperature)


def _starts(replicas: int, seed: int) -> np.ndarray:
    """Places on the unit circle, at random."""
    angle = np.random.default_rng(seed).uniform(-np.pi, np.pi, replicas)
    return np.stack([np.cos(angle), np.sin(angle)], -1)


@cache
def _mean_turn(kappa: float, samples: int, learning_rate: float, replicas: int, seed: int) -> np.ndarray:
    """What one step of SGD, averaged over its samples, turns each replica by, per time, over −Tκ."""
    spiral = _spiral(kappa, samples)
    run = sde.sgd(
        spiral, _starts(replicas, seed), learning_rate=learning_rate, batch_size=1, steps=round(12 / learning_rate),
        replicas=replicas, seed=seed,
    )  # fmt: skip
    x = np.stack([run.x.values, run.y.values], -1)
    z, g = x[:, :1] + 1j * x[:, 1:], spiral.sample_gradients(x)
    turn = np.angle((z - learning_rate * (g[..., 0] + 1j * g[..., 1])) / z).mean(axis=1)
    return turn / learning_rate / (-0.5 * learning_rate * kappa)


def _small_steps(kappa: float, samples: int, level: Level, seed: int) -> Measurement:
    """The mean turn of a step as η → 0, from η = 0.05 and 0.025."""
    turns = [_mean_turn(kappa, samples, eta, level.count(8000), seed + k) for k, eta in enumerate((0.05, 0.025))]
    (coarse, fine), errors = (t.mean() for t in turns), [t.std() / np.sqrt(t.size) for t in turns]
    error = np.hypot(4 * errors[1], errors[0]) / 3
    what = f"mean turn of a step over −Tκ, η → 0, κ = {kappa:g}, {samples} samples"
    return estimated(what, fine + (fine - coarse) / 3, error, 1.0, bias=abs(fine - coarse) / 3)


@cache
def _wound(batch: int, replicas: int, steps: int, seed: int) -> tuple[float, float]:
    """Angular velocity of SGD over −Tκ, T = η/2, κ = 1, η = 0.05, counted step by step, and its standard error."""
    spiral, starts = _spiral(1.0), _starts(replicas, seed)
    run = sde.sgd(
        spiral, starts, learning_rate=0.05, batch_size=batch, steps=steps, replicas=replicas, save_every=0, seed=seed,
        sampling="without_replacement", observables=sde.Winding(burn_in=400),
    )  # fmt: skip
    return float(run.angular_velocity) / -0.025, float(run.angular_velocity_error) / 0.025


def _turning(level: Level) -> list[Measurement]:
    """The solved current through every radius, over −Tκ. SGD, batches of one: from stationary states the turn of one
    step, averaged over all samples, as η → 0; and the angle wound by 4096 replicas in 32000 steps at η = 0.05, whose
    bias is of order η², below 0.002 by the former (full level: no more than 65536 replicas, for the time they take).
    """
    found = []
    for kappa, t in ((1.0, 0.05), (-1.5, 0.04)):
        coarse, fine = (_velocity_on_grid(_spiral(kappa), t, k * level.cells(64)) / kappa for k in (1, 2))
        found.append(refined(f"∫ J·θ̂/r over −Tκ, κ = {kappa:g}", coarse, fine, 1.0, order=2))
    velocity, error = _wound(1, min(level.count(4096), 65536), 32000, 8 * level.seed)
    return [
        *found,
        _small_steps(1.0, 3, level, 8 * level.seed + 1),
        _small_steps(-1.5, 4, level, 8 * level.seed + 3),
        estimated("angular velocity of SGD over −Tκ, η = 0.05", velocity, error, 1.0, bias=0.002),
    ]


def _without_noise(level: Level) -> list[Measurement]:
    """The same over −Tκ with full batches, which have no noise, and for the same loss with the noise D = I."""
    still = sde.Landscape(("x", "y"), "(x**2 + y**2 - 1)**2/4")
    return [
        exact("angular velocity of full-batch descent over −Tκ", _wound(3, 64, 1000, level.seed)[0], 1.0),
        exact("∫ J·θ̂/r over −Tκ, D = I", _velocity_on_grid(still, 0.05, 64), 1.0),
    ]


def _draw_turning(level: Level) -> "Figure":
    from sde_sgd.figures._style import INK, new_figure, styled

    @styled
    def draw() -> "Figure":
        figure = new_figure(9.0, 3.6)
        ax, path = figure.subplots(1, 2, width_ratios=(1.3, 1))
        for k, kappa in enumerate((-1.0, 0.0, 1.0)):
            spiral = _spiral(kappa)
            run = sde.sgd(
                spiral, (1.0, 0.0), learning_rate=0.1, batch_size=1, steps=400, replicas=4000, save_every=4, seed=k
            )
            z = run.x.values + 1j * run.y.values
            angle = np.cumsum(np.angle(z[:, 1:] / z[:, :-1]), axis=1)
            time, error = run.time.values[1:], angle.std(axis=0) / np.sqrt(len(angle))
            ax.plot(time, angle.mean(axis=0), color=f"C{k}", label=f"κ = {kappa:g}")
            ax.fill_between(
                time, *(angle.mean(axis=0) + s * 2 * error for s in (-1, 1)), color=f"C{k}", alpha=0.2, lw=0
            )
            ax.plot(time, -0.05 * kappa * time, "--", color=INK, lw=1)
        ax.set(xlabel="time, η × steps", ylabel="mean angle turned", title="4000 replicas, η = 0.1; dashed: −Tκt")
        ax.legend()
        path.plot(run.x.values[0], run.y.values[0], ".-", lw=0.5, ms=3)
        path.set(xlabel="x", ylabel="y", title="one of them, κ = 1", aspect="equal")
        return figure

    return draw()


TURNING_SUM = Claim(
    name="finite_sum_that_turns",
    statement="SGD can turn steadily: the mean of fₖ = (r² − 1)²/4 + r² cos(θ + κ ln r + 2πk/K) depends on r alone, "
    "and its mini-batches turn at the mean angular velocity −Tκ.",
    formula=r"E[\dot\theta]=-T\kappa",
    source="constructed for this package",
    hypotheses=("K ≥ 3 samples", "T = η/2b < 2/(3 + κ²)", "mini-batches themselves: η → 0; the SDE: at every T"),
    as_stated="holds",
    holds="as stated, exactly for the SDE and up to a factor 1 + O(η²) for mini-batches; "
    "with full batches, or isotropic noise, the same loss does not turn",
    check=_turning,
    twin=_without_noise,
    figure=_draw_turning,
)


# -- what looks like a cycle ----------------------------------------------------------------------------------

_RATES = np.diag([0.05, 1.0])
_TWINS = {"reversible": np.diag([1.0, 1.0]), "turning": np.array([[1.0, 0.8], [0.8, 1.0]])}
_STEP, _LENGTH = 1.0, 256


def _pair(name: str) -> sde.OrnsteinUhlenbeck:
    """Two processes with the rates 0.05 and 1 and the same noise along each axis; in one of them D commutes with H."""
    return sde.OrnsteinUhlenbeck(_RATES, _TWINS[name], 0.1, variables=("x", "y"))


@cache
def _autocorrelation(name: str, cells: int) -> float:
    """Of x at a lag of 10, on a grid, over e^{−0.05·10}."""
    grid = sde.Grid((-8.0, -1.8), (8.0, 1.8), (cells, cells))
    c = sde.FokkerPlanck(_pair(name).process(), grid).lag_covariance([0.0, 10.0]).sel(variable="x", variable_2="x")
    return float(c[1] / c[0] / np.exp(-0.5))


@cache
def _runs(name: str, paths: int, seed: int) -> np.ndarray:
    """Stationary states (path, time, 2), exact in law."""
    run = _pair(name).sample(_LENGTH, _STEP, seed, paths=paths)
    return np.stack([run.x.values, run.y.values], -1)


_BANDS = {"low": slice(1, 17), "high": slice(_LENGTH // 4, _LENGTH // 2)}


def _increments(name: str) -> np.ndarray:
    """Mean periodogram of the increments of y, from their exact covariance."""
    c = _pair(name).lag_covariance(_STEP * np.arange(_LENGTH + 1)).values[:, 1, 1]
    gamma = 2 * c[:-1] - c[1:] - np.concatenate([c[1:2], c[:-2]])  # at lags 0, 1, …
    weight = gamma * (1 - np.arange(_LENGTH) / _LENGTH)
    return 2 * np.fft.rfft(weight).real - weight[0]


def _power(name: str, band: str, paths: int, seed: int) -> np.ndarray:
    """Of the increments of y in a band of frequencies, path by path, over the mean of the reversible process."""
    increments = np.diff(_runs(name, paths, seed)[..., 1], axis=1)
    power = abs(np.fft.rfft(increments, axis=1)) ** 2 / _LENGTH
    return power[:, _BANDS[band]].mean(axis=1) / _increments("reversible")[_BANDS[band]].mean()


def _area_of_turning() -> float:
    """½(C_yx(τ) − C_xy(τ))/τ, in closed form."""
    c = _pair("turning").lag_covariance([0.0, _STEP]).values[1]
    return float(c[1, 0] - c[0, 1]) / (2 * _STEP)


def _areas(name: str, paths: int, seed: int) -> np.ndarray:
    """½E[x(t)y(t+τ) − y(t)x(t+τ)]/τ at a lag of one state, path by path, over that of the turning process."""
    now, later = _runs(name, paths, seed)[:, :-1], _runs(name, paths, seed)[:, 1:]
    swept = now[..., 0] * later[..., 1] - now[..., 1] * later[..., 0]
    return swept.mean(axis=1) / (2 * _STEP) / _area_of_turning()


def _alike(level: Level) -> list[Measurement]:
    """A process in detailed balance and one that turns, with the same rates, one of them slow, and the same noise along
    each axis, are sampled exactly, 256 states at a time. For both the autocorrelation of x at a lag of 10 states is
    e^{−½}, on grids, and the increments of y have the power of one exact covariance, in the 16 lowest frequencies and
    in the upper half: it rises many times, as in the published spectra. The areas they sweep out tell them
    apart: none, and ½(C(τ)ᵀ − C(τ))/τ (full level: no more than 100000 paths, for memory).
    """
    cells, paths, found = level.cells(32), min(level.count(6000), 100_000), []
    rise = np.divide(*(_increments("reversible")[_BANDS[band]].mean() for band in ("high", "low")))
    words = {"low": "low", "high": f"high, {rise:.0f} times that"}
    for k, name in enumerate(_TWINS):
        coarse, fine = (_autocorrelation(name, n) for n in (cells, 2 * cells))
        found.append(refined(f"autocorrelation of x at 10 states over e^(−½), {name}", coarse, fine, 1.0, order=2))
        for band, word in words.items():
            power = _power(name, band, paths, 2 * level.seed + k)
            found.append(sampled(f"power of increments, {word}, {name}", power, 1.0))
    return [
        *found,
        sampled("area per time over that of C(τ), turning", _areas("turning", paths, 2 * level.seed + 1), 1.0),
    ]


def _mistaken(level: Level) -> list[Measurement]:
    """The area per time of the process in detailed balance, over that of the one that turns, which its autocorrelation
    and its increments are taken to show; and in closed form.
    """
    still = _areas("reversible", min(level.count(6000), 100_000), 2 * level.seed)
    c = _pair("reversible").lag_covariance([0.0, _STEP]).values[1]
    exactly = (c[1, 0] - c[0, 1]) / (2 * _STEP) / _area_of_turning()
    return [
        sampled("area per time of the reversible over that of the turning", still, 1.0),
        exact("the same in closed form", exactly, 1.0),
    ]


def _draw_alike(level: Level) -> "Figure":
    from sde_sgd.figures._style import INK, new_figure, styled

    @styled
    def draw() -> "Figure":
        figure = new_figure(10.4, 3.4)
        slow, spectrum, area = figure.subplots(1, 3)
        lags = np.linspace(0, 60, 121)
        for k, (name, style) in enumerate(zip(_TWINS, ("-", "--"), strict=True)):
            c = _pair(name).lag_covariance(lags).values
            slow.plot(lags, c[:, 0, 0] / c[0, 0, 0], style, label=name)
            frequency = np.arange(1, _LENGTH // 2) / (_LENGTH * _STEP)
            spectrum.loglog(frequency, _increments(name)[1 : _LENGTH // 2], style, label=name)
            area.plot(lags, c[:, 0, 1] - c[:, 1, 0], style, color=f"C{k}", label=name)
        slow.set(xlabel="lag", ylabel="autocorrelation of x", title="the same", ylim=(0, 1.02))
        spectrum.set(xlabel="frequency", ylabel="power of the increments of y", title="the same")
        area.set(xlabel="lag t", ylabel="C$_{xy}$(t) − C$_{yx}$(t)", title="what tells them apart", xlim=(0, 20))
        area.axhline(0, color=INK, lw=0.5)
        slow.legend()
        return figure

    return draw()


LONG_MEMORY = Claim(
    name="long_memory_shows_cycles",
    statement="A long autocorrelation of the weights, and a power of their increments that rises with frequency, show "
    "that SGD goes round in cycles.",
    formula=r"E[x(t)x(0)]\gg 0\Rightarrow j\neq 0",
    source="Chaudhari & Soatto (2018), trajectories of a trained network",
    hypotheses=("a stationary trajectory",),
    as_stated="fails",
    holds="a reversible process with a flat direction has both, number by number; the antisymmetric part of the lag "
    "covariance tells them apart: in detailed balance it is 0 at every lag",
    check=_alike,
    twin=_mistaken,
    figure=_draw_alike,
)


# -- the antisymmetric part ---------------------------------------------------------------------------------

_HESSIAN = np.diag([1.0, 3.0])
_NOISE = np.array([[1.0, 0.8], [0.8, 1.0]])


def _slope_at(lag: float, noise: np.ndarray) -> float:
    """(C(t) − C(t)ᵀ)_xy/t over −2TQ_xy of the noise above, in closed form."""
    c = sde.OrnsteinUhlenbeck(_HESSIAN, noise, 0.1).lag_covariance([0.0, lag]).values[1]
    return float((c[0, 1] - c[1, 0]) / lag / (-0.2 * sde.OrnsteinUhlenbeck(_HESSIAN, _NOISE, 0.1).Q[0, 1]))


def _three_variables(lag: float) -> float:
    """The same for all entries of three variables at once: the slope of their regression."""
    drift = np.array([[1.0, 0.5, 0.0], [-1.0, 2.0, 0.3], [0.2, 0.0, 0.5]])
    ou = sde.OrnsteinUhlenbeck(drift, np.diag([1.0, 0.5, 2.0]), 0.3)
    c, q = ou.lag_covariance([0.0, lag]).values[1], ou.Q
    return float((((c - c.T) / lag) * q).sum() / (-0.6 * (q * q).sum()))


@cache
def _on_grid(name: str, cells: int, lag: float) -> tuple[float, float, float]:
    """(C_xy − C_yx)/t of a solved density at t and t/2, and ∫ψ = T E[q] of its current."""
    fp = generator(name, cells)
    c = fp.lag_covariance([0.0, lag / 2, lag]).values
    late, early = ((c[k, 0, 1] - c[k, 1, 0]) / t for k, t in ((2, lag), (1, lag / 2)))
    return float(late), float(early), float(sde.decompose(fp)["stream_function"].sum()) * fp.grid.cell_volume


@cache
def _areas_of_sgd(turning: bool, replicas: int, seed: int) -> np.ndarray:
    """½(xΔy − yΔx)/η of SGD, η = 0.2 and b = 1, replica by replica, over TD₁₂(h₁ − h₂)/(h₁ + h₂ − ηh₁h₂)."""
    pushes = np.sqrt(1.8) * np.array([1.0, 1.0]), np.sqrt(0.2) * np.array([1.0, -1.0])
    if not turning:  # D = I
        pushes = np.sqrt(2.0) * np.array([1.0, 0.0]), np.sqrt(2.0) * np.array([0.0, 1.0])
    a, b = np.array([pushes[0], -pushes[0], pushes[1], -pushes[1]]).T
    four = sde.FiniteSum(("x", "y"), "(x**2 + 3*y**2)/2 + a*x + b*y", {"a": a, "b": b})
    run = sde.sgd(
        four, (0.0, 0.0), learning_rate=0.2, batch_size=1, steps=1100, replicas=replicas, save_every=1, seed=seed
    )
    x, y = run.x.values[:, 100:], run.y.values[:, 100:]
    swept = (x[:, :-1] * y[:, 1:] - y[:, :-1] * x[:, 1:]).mean(axis=1) / 0.4
    return swept / (0.1 * 0.8 * -2.0 / (4.0 - 0.2 * 3.0))


def _antisymmetric(level: Level) -> list[Measurement]:
    """(C(t) − C(t)ᵀ)/t over −2TQ as t → 0, from t and t/2: in closed form for a quadratic whose D does not commute
    with H, and for a drift of three variables; from the generator for the sheared double well, where Q is constant, on
    grids of n² and (2n)² cells, and for a mean over six samples, over −2T E[Q] of the current of the same density. For
    mini-batch SGD with η = 0.2, whose area per time ½E[xΔy − yΔx]/η is known exactly, from trajectories (full level:
    no more than 40000 replicas, for memory).
    """
    t, cells = 0.02 / level.more, level.cells(64)
    constant = -2 * process_named("sheared well").temperature * np.sqrt(3) / 2
    slopes = [2 * early - late for late, early, _ in (_on_grid("sheared well", n, t / 5) for n in (cells, 2 * cells))]
    late, early, swirl = _on_grid("six kicks", cells, t / 5)
    areas = _areas_of_sgd(True, min(level.count(4000), 40_000), level.seed)
    return [
        refined("(C − Cᵀ)/t over −2TQ, quadratic", _slope_at(t, _NOISE), _slope_at(t / 2, _NOISE), 1.0, order=1),
        refined("(C − Cᵀ)/t over −2TQ, 3-D", _three_variables(t), _three_variables(t / 2), 1.0, order=1),
        refined("(C − Cᵀ)/t over −2TQ, sheared well", slopes[0] / constant, slopes[1] / constant, 1.0, order=2),
        refined("(C − Cᵀ)/t over −2T E[Q], six kicks", late / (-2 * swirl), early / (-2 * swirl), 1.0, order=1),
        sampled("area per time of SGD over that of its exact covariance", areas, 1.0),
    ]


def _commuting(level: Level) -> list[Measurement]:
    """The same with D = I, which commutes with H, over what it is with the other D."""
    areas = _areas_of_sgd(False, min(level.count(4000), 40_000), level.seed)
    return [
        exact("(C − Cᵀ)/t of D = I over −2TQ of the other D", _slope_at(0.02, np.eye(2)), 1.0),
        sampled("area per time of SGD, D = I, over that of the other D", areas, 1.0),
    ]


LAG_COVARIANCE = Claim(
    name="lag_covariance_shows_the_current",
    statement="The antisymmetric part of C(t) = E[x(t)x(0)ᵀ] shows a current: (C(t) − C(t)ᵀ)/t → −2TQ as t → 0.",
    formula=r"\frac{C(t)-C(t)^T}{t}\to-2TQ",
    source="Risken (1989); Ghanta, Neu & Teitsworth (2017), for areas",
    hypotheses=("a stationary trajectory", "where Q depends on x, its mean"),
    as_stated="holds",
    holds="as stated; where H and D commute it is 0, and so are the areas that a trajectory sweeps out",
    check=_antisymmetric,
    twin=_commuting,
)
