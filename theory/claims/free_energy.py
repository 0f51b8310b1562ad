"""Claims about the free energy F(ρ) = T·KL(ρ‖ρ_ss): that it falls along every flow, and of what it is made."""

import math
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

import sde_sgd as sde
from sde_sgd.figures._style import INK, new_figure, styled
from sde_sgd.theory.claim import Claim, Level, Measurement, exact, refined
from sde_sgd.theory.claims._free_energies import (
    DRIVEN,
    SYSTEMS,
    UNEQUAL,
    bump,
    course,
    energy_and_entropy,
    energy_of,
    generator,
    gibbs,
    relative_entropy,
    rises,
    sizes,
    slope_of,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# F falls --------------------------------------------------------------------------------------------------


@cache
def _fall_ratio(system: str, energy: str, cells: int) -> float:
    """−dF/dt of the generator at a Gaussian ρ, over E|∇(δF/δρ)|²_D, with F = E[Φ] − T·H or E[f] − T·H."""
    fp, temperature = generator(system, cells), SYSTEMS[system][2]
    points = fp.grid.centers()
    rho, slope = bump(fp.grid)
    with np.errstate(divide="ignore"):
        variation = np.where(rho > 0.0, energy_of(system, energy, points) + temperature * np.log(rho), 0.0)
    pull = slope_of(system, energy, points) + temperature * slope
    squared = np.einsum("...i,...ij,...j", pull, fp.process.diffusion(points), pull)
    return float(-(variation * fp.apply(rho).values).sum() / (rho * squared).sum())


def _falling(level: Level, energy: str, systems: tuple[str, ...]) -> list[Measurement]:
    letter = {"potential": "Φ", "loss": "f"}[energy]
    found = []
    for system in systems:
        values = [_fall_ratio(system, energy, n) for n in sizes(level, system)]
        what = f"−dF/dt over E|∇(δF/δρ)|²_D, F = E[{letter}] − T·H, {system}, at a Gaussian"
        found.append(refined(what, values[0], values[1], 1.0, order=2))
    return found + rises(level, energy)


_LINEAR = np.array([[1.0, 0.8, 0.0], [-0.5, 2.0, 0.3], [0.2, 0.0, 0.7]])
_TENSOR = np.array([[1.0, 0.3, 0.0], [0.3, 0.8, -0.2], [0.0, -0.2, 0.5]])
_AWAY = np.array([1.0, -0.5, 0.8])


def _gaussian(time: float, energy: str) -> tuple[float, float]:
    """(F, E|∇(δF/δρ)|²_D) of N(m(t), C(t)), a linear process in 3-D with a current; F of Φ, or of |x|²/2."""
    process = sde.OrnsteinUhlenbeck(_LINEAR, _TENSOR, 0.5)
    step = process.transition(time)
    move, spread = step["propagator"].values, step["covariance"].values
    mean, cov = move @ _AWAY, move @ (0.2 * np.eye(3)) @ move.T + spread
    u = process.potential_hessian if energy == "potential" else np.eye(3)
    free = 0.5 * (mean @ u @ mean + np.trace(u @ cov)) - 0.25 * np.linalg.slogdet(2 * np.pi * math.e * cov)[1]
    pull = u - 0.5 * np.linalg.inv(cov)  # ∇(δF/δρ) = Um + (U − T C⁻¹)(x − m)
    return free, float(mean @ u @ _TENSOR @ u @ mean + np.trace(pull @ _TENSOR @ pull @ cov))


def _gaussian_ratio(level: Level, energy: str) -> Measurement:
    values = []
    for h in (0.02 / level.more**0.5, 0.01 / level.more**0.5):
        later, now, before = _gaussian(0.3 + h, energy)[0], _gaussian(0.3, energy)[1], _gaussian(0.3 - h, energy)[0]
        values.append((before - later) / (2 * h) / now)
    what = {"potential": "Φ", "loss": "|x|²/2"}[energy]
    return refined(
        f"−dF/dt over its prediction, Gaussians of a linear process in 3-D, F of {what}",
        values[0],
        values[1],
        1.0,
        order=2,
    )


def _potential_falls(level: Level) -> list[Measurement]:
    """−Σ(Lρ)(Φ + T log ρ) of the generator L at a Gaussian ρ, over the integral of the squared slope, on two grids.
    Example 19 with a current that breaks Assumption 4, the sheared double well with one that obeys it, and a D(x);
    then F along the flow from e^{−f/T}; and in closed form N(m(t), C(t)) of a linear process in three dimensions."""
    return [*_falling(level, "potential", DRIVEN), _gaussian_ratio(level, "potential")]


def _loss_falls(level: Level) -> list[Measurement]:
    """The same with the loss in place of Φ, F = E[f] − T·H."""
    return [*_falling(level, "loss", UNEQUAL), _gaussian_ratio(level, "loss")]


@styled
def _courses(level: Level) -> "Figure":
    """What falls along SGD's flow, and what rises, from the start e^{−f/T}."""
    figure = new_figure(8.2, 3.4)
    for ax, system in zip(figure.subplots(1, 2), UNEQUAL[:2]):
        cells = sizes(level, system)[0]
        times = tuple(np.arange(31) * 0.1)
        for energy, words in (("potential", "F, of Φ"), ("loss", "E[f] − T·H")):
            ax.plot(times, course(system, energy, cells, times), label=f"{words}, above its minimum")
        end = relative_entropy(system, cells)
        ax.axhline(end, color=INK, ls="--", lw=1.0, label=r"KL($\rho_{ss}$ ‖ $e^{-f/T}$)")
        ax.set(xlabel="time", ylabel="in units of T", title=system)
        ax.legend()
    return figure


FREE_ENERGY_FALLS = Claim(
    name="free_energy_falls",
    statement="F(ρ) = T·KL(ρ‖ρ_ss) decreases along the trajectories of the Fokker–Planck equation of SGD.",
    formula=r"\frac{dF}{dt}=-E_\rho[\nabla\mu\cdot D\nabla\mu]\leq 0,\;\mu=\frac{\delta F}{\delta\rho}=\Phi+T\log\rho",
    source="Chaudhari & Soatto (2018), Theorem 5",
    hypotheses=("published under Assumption 4, div j = 0, which is not needed",),
    as_stated="holds",
    holds="F falls for every D(x) and every current, at the rate E|∇(δF/δρ)|²_D; E[f] − T·H, of the loss, may rise",
    check=_potential_falls,
    twin=_loss_falls,
    figure=_courses,
)

# F = E[Φ] − T·H -------------------------------------------------------------------------------------------


def _constants(level: Level, sign: float) -> list[Measurement]:
    mark = "−" if sign < 0 else "+"
    found = []
    for system in ("example 19", "sheared double well"):
        for later in (0.0, 0.5):
            values = []
            for cells in sizes(level, system):
                fp = generator(system, cells)
                rho = fp.evolve(bump(fp.grid)[0], np.array([later]))[-1] if later else bump(fp.grid)[0]
                free = float(fp.free_energy(rho).free_energy)
                values.append(energy_and_entropy(system, "potential", np.asarray(rho), cells, sign) - free)
            expected = -SYSTEMS[system][2] * gibbs(system, "potential", sizes(level, system)[1])[1]
            what = f"E[Φ] {mark} T·H − F, {system}, a Gaussian after a time {later:g}"
            found.append(refined(what, values[0], values[1], expected, order=2))
    process = sde.OrnsteinUhlenbeck(_LINEAR, _TENSOR, 0.5)
    cov, steady = 0.2 * np.eye(3) + 0.1, process.covariance
    ratio = np.linalg.solve(steady, cov)
    kl = 0.5 * (np.trace(ratio) - 3 + _AWAY @ np.linalg.solve(steady, _AWAY) - np.linalg.slogdet(ratio)[1])
    u, h = process.potential_hessian, 0.5 * np.linalg.slogdet(2 * np.pi * math.e * cov)[1]
    split = 0.5 * (_AWAY @ u @ _AWAY + np.trace(u @ cov)) + sign * 0.5 * h
    expected = -0.25 * np.linalg.slogdet(2 * np.pi * steady)[1]
    return [*found, exact(f"E[Φ] {mark} T·H − F of a Gaussian, linear process in 3-D", split - 0.5 * kl, expected)]


def _energy_less_entropy(level: Level) -> list[Measurement]:
    """E[Φ] from the Φ that is known in closed form, H of the density on the grid, F = T·KL(ρ‖ρ_ss) against the solver's
    own steady state: their difference is −T log Z, Z = ∫e^{−Φ/T}, whatever the density: a Gaussian off the centre, and
    what the flow has made of it. The same from the formulas of Gaussians."""
    return _constants(level, -1.0)


def _energy_and_entropy(level: Level) -> list[Measurement]:
    """With the entropy added instead of subtracted."""
    return _constants(level, 1.0)


FREE_ENERGY_SPLIT = Claim(
    name="free_energy_split",
    statement="The free energy is an energy less T times the entropy: F(ρ) = E[Φ] − T·H(ρ) + const.",
    formula=r"F(\rho)=E_\rho[\Phi]-T\,H(\rho)+T\log Z,\quad Z=\int e^{-\Phi/T}dx",
    source="Chaudhari & Soatto (2018), Theorem 5",
    as_stated="holds",
    holds="as stated, with the constant T log Z",
    check=_energy_less_entropy,
    twin=_energy_and_entropy,
)
