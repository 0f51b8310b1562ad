"""The claim that the density of SGD's differential equation obeys the Fokker–Planck equation, and its readings."""

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

import sde_sgd as sde
from sde_sgd.figures._style import MUTED, new_figure, styled
from sde_sgd.theory.claim import Claim, Level, Measurement, refined, sampled
from sde_sgd.theory.claims._batches import seed_of, states

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TEMPERATURE, _TIME = 0.15, 0.5


def _well(reading: str) -> sde.Process:
    """A double well with D = 1 + 2x². What a reading other than Itô's adds to the drift: T D' or half of it."""
    gained = {"Itô": None, "Stratonovich": ("2*T*x",), "D outside": ("4*T*x",)}[reading]
    return sde.Landscape(
        "x", "x**4/4 - x**2/2", diffusion=[["1 + 2*x**2"]], circulation=gained, domain=((-5.0, 5.0),)
    ).at_temperature(_TEMPERATURE)


def _curved(reading: str) -> sde.Process:
    """Linear drift and quadratic noise in two variables; "D outside" adds T div D to the drift."""
    gained = ("5*T*x/2", "5*T*y/2") if reading == "D outside" else None
    noise = [["1 + x**2", "x*y/2"], ["x*y/2", "1 + y**2"]]
    loss = "(x**2 + y**2)/2"
    return sde.Landscape(("x", "y"), loss, diffusion=noise, circulation=gained).at_temperature(_TEMPERATURE)


@cache
def _well_density(reading: str, cells: int):
    """ρ(½) from x(0) = 1."""
    fp = sde.FokkerPlanck(_well(reading), sde.Grid(-4.0, 4.0, cells))
    return fp.evolve({"x": 1.0}, _TIME, scheme="krylov").isel(time=-1)


def _well_means(reading: str, cells: int) -> np.ndarray:
    """E x and E x²."""
    density = _well_density(reading, cells)
    return np.array([float((density * density.x**power).sum() / density.sum()) for power in (1, 2)])


@cache
def _curved_means(reading: str, cells: int) -> tuple[float, float]:
    """E x² and E xy at t = ½ from (1, ½), on a grid."""
    fp = sde.FokkerPlanck(_curved(reading), sde.Grid((-6.0, -6.0), (6.0, 6.0), (cells, cells)))
    density = fp.evolve({"x": 1.0, "y": 0.5}, _TIME, tolerance=2e-5).isel(time=-1)
    return float((density * density.x**2).sum() / density.sum()), float(
        (density * density.x * density.y).sum() / density.sum()
    )


def _curved_law() -> tuple[float, float]:
    """The same in closed form: (E x²)' = −2(1 − T) E x² + 2T, (E xy)' = −(2 − T) E xy."""
    rest = _TEMPERATURE / (1 - _TEMPERATURE)
    return (
        rest + (1.0 - rest) * np.exp(-2 * (1 - _TEMPERATURE) * _TIME),
        0.5 * np.exp(-(2 - _TEMPERATURE) * _TIME),
    )


@cache
def _paths(level: Level, which: str) -> tuple[np.ndarray, np.ndarray]:
    """States at t = ½ by Euler–Maruyama at two steps, h and h/2, on the same noise: (path, variable)."""
    process, start = (_well("Itô"), (1.0,)) if which == "well" else (_curved("Itô"), (1.0, 0.5))
    steps, paths = 32, min(level.count(120_000), 5_000_000)  # memory
    settings: dict[str, Any] = dict(paths=paths, scheme="euler_maruyama", seed=seed_of(level, 51, which == "well"))
    coarse = sde.simulate(process, start, step=_TIME / steps, steps=steps, substeps=2, **settings)
    fine = sde.simulate(process, start, step=_TIME / steps / 2, steps=2 * steps, **settings)
    return states(coarse, process), states(fine, process)


def _by_paths(what: str, level: Level, which: str, observable, expected: float) -> Measurement:
    """E φ over paths, extrapolated path by path from h and h/2 (order 1); granted a quarter of what that changed."""
    coarse, fine = map(observable, _paths(level, which))
    bias = abs(float((fine - coarse).mean())) / 4
    return sampled(what, 2 * fine - coarse, expected, bias=bias)


def _against_density(level: Level, reading: str) -> list[Measurement]:
    cells = level.cells(200)
    well = [_well_means(reading, count) for count in (cells, 2 * cells)]
    found = (4 * well[1] - well[0]) / 3
    wide = 24 * round(level.cells(48) / 24)
    curved = zip(_curved_means(reading, wide), _curved_means(reading, 2 * wide), _curved_law())
    return [
        _by_paths("E x of paths, double well with D(x), density on a grid", level, "well", lambda x: x[:, 0], found[0]),
        _by_paths("E x² of paths, double well with D(x)", level, "well", lambda x: x[:, 0] ** 2, found[1]),
        *(refined(f"{what} of the density on grids, closed form, two variables", *row, order=2)
          for what, row in zip(("E x²", "E xy"), curved)),
    ]  # fmt: skip


def _density_holds(level: Level) -> list[Measurement]:
    """At t = ½ from a point. A double well with D = 1 + 2x²: means over Euler–Maruyama paths, extrapolated in the step
    on the same noise, beside those of the density on a grid. Linear drift and quadratic noise in two variables: the
    density on grids, and paths, beside moments in closed form."""
    square, product = _curved_law()
    return [
        *_against_density(level, "Itô"),
        _by_paths("E x² of paths, closed form, two variables", level, "curved", lambda x: x[:, 0] ** 2, square),
        _by_paths("E xy of paths, closed form, two variables", level, "curved", lambda x: x[:, 0] * x[:, 1], product),
    ]


def _density_misread(level: Level) -> list[Measurement]:
    """The same paths and moments beside the density of div(D∇ρ), D outside the inner derivative, which adds T div D
    to the drift; and beside that of the Stratonovich reading of the equation, which adds half as much."""
    well = _well_means("Stratonovich", level.cells(400))
    return [
        *_against_density(level, "D outside"),
        _by_paths("E x² of paths, density by Stratonovich", level, "well", lambda x: x[:, 0] ** 2, well[1]),
    ]


@styled
def _draw_density(level: Level) -> "Figure":
    figure = new_figure(5.0, 3.6)
    ax = figure.subplots()
    _, fine = _paths(level, "well")
    ax.hist(fine[:, 0], bins=80, range=(-1, 2.2), density=True, color=MUTED, alpha=0.4, label="paths (Itô)")
    for reading, style in (("Itô", "-"), ("Stratonovich", "--"), ("D outside", ":")):
        density = _well_density(reading, 400)
        ax.plot(density.x, density, style, label=reading)
    ax.set(xlim=(-1, 2.2), xlabel="x", ylabel="ρ(x)", title="double well, D = 1 + 2x², t = ½ from x = 1")
    ax.legend()
    return figure


DENSITY_OBEYS_FOKKER_PLANCK = Claim(
    name="density_obeys_fokker_planck",
    statement="The density of the equation dx = −∇f dt + √(2TD(x)) dW evolves by the Fokker–Planck equation, with D "
    "inside both derivatives.",
    formula=r"\partial_t\rho=\nabla\cdot\left(\nabla f\,\rho+T\,\nabla\cdot(D\rho)\right)",
    source="Risken (1989); Chaudhari & Soatto (2018)",
    hypotheses=("the equation is read in the sense of Itô, as SGD's noise at the point before the step demands",),
    as_stated="holds",
    holds="as stated; the readings of Stratonovich, or with D outside the inner derivative, belong to other paths "
    "wherever D depends on x",
    check=_density_holds,
    twin=_density_misread,
    figure=_draw_density,
)
