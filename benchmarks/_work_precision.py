"""Work and precision of every scheme: its bias in the steady state and its strong error, against what a step costs.

Steady state: (x² − 1)² at β = 3, E[x²] exact by quadrature, and a rotating Ornstein–Uhlenbeck process, on which the
bias of each scheme is known in closed form. Strong error: the same scheme on the same noise in far smaller steps.
"""

import math
from dataclasses import dataclass

import numpy as np
from _machine import best_seconds

import sde_sgd as sde
from sde_sgd.figures._style import INK, MUTED, new_figure, styled

BETA, ROTATION = 3.0, 2.0
STEADY_STEPS = {"well": (0.08, 0.04, 0.02, 0.01), "rotation": (0.2, 0.1, 0.05, 0.025)}
FRICTION = 4.0  # of baoab, near critical damping in the wells, f'' = 8
FRICTION_STEPS = (0.4, 0.2, 0.1, 0.05)
MULTIPLICATIVE_TEMPERATURE = 0.3
STRONG_STEPS = tuple(2.0**-k for k in range(4, 9))
REFINED = 16  # the reference's step is this much smaller than the smallest
BURN_IN = 10.0
PATHS, BLOCKS = 2**14, 64
GAUSSIAN = ("euler_maruyama", "leimkuhler_matthews", "stochastic_heun", "sra1")
STEADY = (*GAUSSIAN, "weak_euler", "weak_heun")  # milstein is euler_maruyama where D is constant
LOOK = {  # colour, marker
    "euler_maruyama": ("#0072B2", "o"),
    "weak_euler": ("#56B4E9", "v"),
    "leimkuhler_matthews": ("#D55E00", "s"),
    "stochastic_heun": ("#009E73", "^"),
    "weak_heun": ("#E69F00", "P"),
    "sra1": ("#CC79A7", "D"),
    "milstein": (INK, "X"),
    "baoab": (MUTED, "p"),
}


@dataclass(frozen=True)
class Point:
    """`error` ± `sigma` at a cost in ns per path and unit of time; `exact` what theory says, where it says it."""

    scheme: str
    step: float
    cost: float
    error: float
    sigma: float
    exact: float | None = None

    @property
    def clear(self) -> bool:
        """Two standard errors clear of zero."""
        return abs(self.error) > 2 * self.sigma

    @property
    def limit(self) -> float:
        """What |error| may be, at two standard errors."""
        return abs(self.error) + 2 * self.sigma


def well() -> sde.Landscape:
    return sde.Landscape("x", "(x**2 - 1)**2", domain=((-4, 4),), name="well")


def well_second_moment() -> float:
    """E[x²] under e^{−β(x² − 1)²}."""
    from scipy.integrate import quad

    mass, moment = (quad(lambda x, p=p: x**p * math.exp(-BETA * (x * x - 1) ** 2), -4, 4)[0] for p in (0, 2))
    return moment / mass


def rotation_variance(scheme: str, h: float) -> float:
    """Var x of a scheme for dz = −λz dt + noise, λ = 1 + iω, T = 1: z' = az + noise of variance 2hv per component."""
    l = complex(1.0, ROTATION)
    a, v = 1 - h * l, 1.0
    if scheme == "leimkuhler_matthews":
        v = (1 + a.real) / 2
    elif scheme in ("stochastic_heun", "weak_heun", "sra1"):
        a = 1 - h * l + (h * l) ** 2 / 2
        v = abs(1 - h * l / 2) ** 2 + (abs(h * l) ** 2 / 12 if scheme == "sra1" else 0.0)
    return 2 * h * v / (1 - abs(a) ** 2)


def ns_per_step(process, start, scheme: str, step: float, steps: int = 2000) -> float:
    """One thread, nothing saved, the shortest of several."""

    def run(count: int):
        return sde.simulate(process, start, step=step, steps=count, paths=len(start), scheme=scheme, threads=1)

    run(1)
    return 1e9 * best_seconds(lambda: run(steps), 15) / (steps * len(start))


def steady(problem: str, units: float) -> list[Point]:
    """Bias of the second moment of every scheme at every step, from `units` of time over all paths."""
    spread = np.where(np.arange(PATHS) % 2, 1.0, -1.0)[:, None]  # both wells alike: what mixes slowly is right at once
    runs = []
    if problem == "well":
        process, start, exact = well().at_temperature(1 / BETA), spread, well_second_moment()
        runs += [(process, start, scheme, STEADY_STEPS[problem], 1) for scheme in STEADY]
        heavy = sde.Underdamped(well(), 1 / BETA, FRICTION)
        runs.append((heavy, np.hstack([spread, 0 * spread]), "baoab", FRICTION_STEPS, 1))
    else:
        turning = sde.landscapes.get("quadratic", a=1.0, c=1.0, dxx=1.0, dxy=0.0, dyy=1.0, rotation=ROTATION)
        process, start, exact = turning.at_temperature(1.0), np.hstack([spread, spread]), 1.0
        runs += [(process, start, scheme, STEADY_STEPS[problem], 2) for scheme in STEADY]
    found = []
    for number, (process, start, scheme, steps, count) in enumerate(runs):
        cost = ns_per_step(process, start[:4096], scheme, steps[-1])
        for h in steps:
            moment, sigma = _second_moment(process, start, scheme, h, units, count, seed=number)
            theory = rotation_variance(scheme, h) - exact if problem == "rotation" else None
            found.append(Point(scheme, h, cost / h, moment - exact, sigma, theory))
    return found


def _second_moment(process, start, scheme: str, h: float, units: float, count: int, seed: int) -> tuple[float, float]:
    """E[x_i²] over the first `count` variables, every step of every path counted, and its standard error."""
    burn_in = round(BURN_IN / h)
    moments = sde.Moments(burn_in=burn_in, blocks=BLOCKS)
    run = sde.simulate(
        process, start, step=h, steps=burn_in + math.ceil(units / h / len(start)), paths=len(start), scheme=scheme,
        observables=moments, save_every=0, seed=seed,
    )  # fmt: skip
    mean, covariance, error = (run[name].values for name in ("mean", "covariance", "covariance_error"))
    value = np.mean([covariance[i, i] + mean[i] ** 2 for i in range(count)])
    return float(value), float(math.hypot(*(error[i, i] for i in range(count))) / count)


def strong(problem: str) -> list[Point]:
    """Root mean square distance at t = 1 from a path of the same scheme and noise at a far smaller step."""
    if problem == "constant":
        process, schemes = well().at_temperature(1 / BETA), ("euler_maruyama", "stochastic_heun", "sra1")
    else:
        process = sde.landscapes.get("multiplicative_well").at_temperature(MULTIPLICATIVE_TEMPERATURE)
        schemes = ("euler_maruyama", "milstein")
    start, fine = np.ones((4096, 1)), STRONG_STEPS[-1] / REFINED
    found = []
    for scheme in schemes:
        cost = ns_per_step(process, start, scheme, fine)

        def end(h: float, scheme=scheme) -> np.ndarray:
            run = sde.simulate(
                process, start, step=h, steps=round(1 / h), paths=len(start), scheme=scheme, substeps=round(h / fine)
            )
            return run.x.values

        reference = end(fine)
        for h in STRONG_STEPS:
            squares = (end(h) - reference) ** 2
            error = math.sqrt(squares.mean())
            sigma = squares.std() / math.sqrt(len(squares)) / (2 * error)
            found.append(Point(scheme, h, cost / h, error, sigma))
    return found


@styled
def figure(panels: dict[str, list[Point]], units: float):
    """Four panels, one legend. Hollow: an upper limit, where the bias is less than two standard errors."""
    from matplotlib.lines import Line2D
    from matplotlib.ticker import NullFormatter

    drawing = new_figure(9.2, 7.8)
    axes = drawing.subplots(2, 2)
    titles = {
        "well": rf"steady state, $(x^2-1)^2$ at $\beta = {BETA:g}$",
        "rotation": rf"steady state, linear drift turning at $\omega = {ROTATION:g}$",
        "constant": r"path by path, $(x^2-1)^2$, constant noise",
        "multiplicative": r"path by path, noise $D = 1 + 2x^2$",
    }
    for ax, (name, points) in zip(axes.flat, panels.items()):
        for scheme in LOOK:
            _curve(ax, sorted((p for p in points if p.scheme == scheme), key=lambda p: p.cost))
        costs, heights = [p.cost for p in points], [abs(p.error) if p.clear else p.limit for p in points]
        ax.set(xscale="log", yscale="log", title=titles[name], xlabel="ns of one thread per path and unit of time")
        ax.set(xlim=(min(costs) / 1.5, 1.5 * max(costs)), ylim=(min(heights) / 2, 2 * max(heights)))
        ax.set_ylabel("root mean square error at t = 1")
        if name in ("well", "rotation"):
            ax.set_ylabel(r"$|$bias of $E[x^2]|$")
            _noise_line(ax, points, units)
        ax.grid(True, which="major")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_minor_formatter(NullFormatter())
    marks = [Line2D([], [], color=colour, marker=marker) for colour, marker in LOOK.values()]
    names = [name if name != "baoab" else "baoab, a time of its own" for name in LOOK]
    drawing.legend(marks, names, loc="outside upper center", ncols=4)
    return drawing


def _curve(ax, points: list[Point]) -> None:
    """Measured points with a line through them, or through what theory says."""
    if not points:
        return
    scheme = points[0].scheme
    colour, marker = LOOK[scheme]
    shown, hidden = [p for p in points if p.clear], [p for p in points if not p.clear]
    line = "--" if scheme == "baoab" else "-"
    if points[0].exact is not None:
        h = np.geomspace(points[0].step, points[-1].step, 50)
        theory = [abs(rotation_variance(scheme, float(step)) - 1.0) for step in h]
        ax.plot(points[0].cost * points[0].step / h, theory, color=colour, lw=1.2)
        line = "none"
    ax.errorbar(
        [p.cost for p in shown], [abs(p.error) for p in shown], yerr=[p.sigma for p in shown],
        color=colour, marker=marker, lw=1.5, ls=line,
    )  # fmt: skip
    if hidden:
        limits = np.array([p.limit for p in hidden])
        ax.errorbar(
            [p.cost for p in hidden], limits, yerr=[0.35 * limits, 0 * limits], uplims=True,
            color=colour, marker=marker, mfc="white", mew=1.0, ms=4.5, lw=0.8, ls="none",
        )  # fmt: skip


def _noise_line(ax, points: list[Point], units: float) -> None:
    """The standard error that one second of one thread leaves at each cost: a bias below it does not show."""
    sigma = np.median([p.sigma for p in points if p.scheme != "baoab"]) * math.sqrt(units)
    cost = np.geomspace(*ax.get_xlim(), 50)
    noise = sigma * np.sqrt(cost / 1e9)
    low, high = ax.get_ylim()
    ax.set_ylim(min(low, noise[0] / 1.5), high)
    ax.plot(cost, noise, color=MUTED, lw=1.0, ls=":")
    ax.text(0.98, 0.03, "dotted: standard error after one second", transform=ax.transAxes, ha="right", fontsize=8)


def rows(points: list[Point]) -> list[list[str]]:
    """One row per scheme: cost of a step, then error and standard error at each step."""
    table = []
    for scheme in dict.fromkeys(p.scheme for p in points):
        mine = [p for p in points if p.scheme == scheme]
        cells = [f"{_signed(p.error)} ± {p.sigma:.0e}" for p in mine]
        table.append([f"`{scheme}`", f"{mine[0].cost * mine[0].step:.2f}", *cells])
    return table


def _signed(value: float) -> str:
    return f"{value:.1e}".replace("-", "−", 1) if value < 0 else f"{value:.1e}"


def deviation(points: list[Point]) -> tuple[float, int]:
    """How many standard errors the worst point lies from theory, and of how many points."""
    far = [abs(p.error - p.exact) / p.sigma for p in points if p.exact is not None]
    return max(far), len(far)
