"""Systems whose potential Φ is known, and the free energies of densities on their grids."""

import math
from functools import cache

import numpy as np

import sde_sgd as sde
from sde_sgd.theory.claim import Level, Measurement

SYSTEMS = {  # name, parameters, temperature, box; each with a known Φ
    "example 19": ("example_19", {"circulation": 1.5}, 1.0, ((-4.0, 4.0), (-4.0, 4.0))),
    "sheared double well": ("sheared_double_well", {}, 0.2, ((-5.5, 5.5), (-5.0, 5.0))),
    "quadratic": ("quadratic", {}, 1.0, ((-6.0, 6.0), (-4.0, 4.0))),
    "double well with D = 1 + 2x²": ("multiplicative_well", {}, 0.2, ((-5.0, 5.0),)),
    "double well, D = I": ("double_well", {}, 0.2, ((-3.0, 3.0), (-3.0, 3.0))),
}
DRIVEN = "example 19", "sheared double well", "double well with D = 1 + 2x²"
UNEQUAL = "sheared double well", "quadratic", "double well with D = 1 + 2x²"  # those with a loss that is not Φ


def _landscape(system: str) -> tuple[sde.Landscape, float]:
    name, settings, temperature, _ = SYSTEMS[system]
    return sde.landscapes.get(name, **settings), temperature


@cache
def generator(system: str, cells: int) -> sde.FokkerPlanck:
    landscape, temperature = _landscape(system)
    lower, upper = zip(*SYSTEMS[system][3])
    return sde.FokkerPlanck(landscape.at_temperature(temperature), sde.Grid(lower, upper, (cells,) * landscape.dim))


def sizes(level: Level, system: str) -> tuple[int, int]:
    cells = level.cells(200 if system == "double well with D = 1 + 2x²" else 64)
    return cells, 2 * cells


def energy_of(system: str, energy: str, points: np.ndarray) -> np.ndarray:
    """Φ, or f where `energy` is "loss"."""
    landscape, temperature = _landscape(system)
    found = landscape.loss(points) if energy == "loss" else landscape.potential(points, temperature)
    assert found is not None  # every one of these landscapes knows its Φ
    return found


def slope_of(system: str, energy: str, points: np.ndarray) -> np.ndarray:
    """∇f, or ∇Φ = D⁻¹(j − b + T div D)."""
    landscape, temperature = _landscape(system)
    if energy == "loss":
        return landscape.gradient(points)
    force = landscape.remainder(points, temperature) - landscape.drift(points, temperature)
    force += temperature * landscape.diffusion_divergence(points)
    return np.linalg.solve(landscape.diffusion(points), force[..., None])[..., 0]


def gibbs(system: str, energy: str, cells: int) -> tuple[np.ndarray, float]:
    """e^{−Φ/T}/Z, or that of f, on the grid; and log Z."""
    grid, temperature = generator(system, cells).grid, SYSTEMS[system][2]
    weight = np.exp(-energy_of(system, energy, grid.centers()) / temperature)
    total = float(weight.sum() * grid.cell_volume)
    return weight / total, math.log(total)


def bump(grid: sde.Grid) -> tuple[np.ndarray, np.ndarray]:
    """A Gaussian off the centre, of standard deviation 0.45, and the gradient of its logarithm."""
    away = grid.centers() - np.array([0.7, -0.4])[: grid.dim]
    rho = np.exp(-(away**2).sum(-1) / (2 * 0.2025))
    return rho / (rho.sum() * grid.cell_volume), -away / 0.2025


def _entropy(rho: np.ndarray, grid: sde.Grid) -> float:
    inside = rho[rho > 0.0]
    return -float((inside * np.log(inside)).sum() * grid.cell_volume)


def energy_and_entropy(system: str, energy: str, rho: np.ndarray, cells: int, sign: float = -1.0) -> float:
    """E[Φ] − T·H, or with f, or with the other sign."""
    grid = generator(system, cells).grid
    mean = float((rho * energy_of(system, energy, grid.centers())).sum() * grid.cell_volume)
    return mean + sign * SYSTEMS[system][2] * _entropy(rho, grid)


def relative_entropy(system: str, cells: int) -> float:
    """KL(e^{−Φ/T}/Z ‖ e^{−f/T}/Z'), from both in closed form."""
    grid = generator(system, cells).grid
    (p, log_p), (_, log_q) = (gibbs(system, energy, cells) for energy in ("potential", "loss"))
    gap = energy_of(system, "loss", grid.centers()) - energy_of(system, "potential", grid.centers())
    return float((p * gap).sum() * grid.cell_volume) / SYSTEMS[system][2] + log_q - log_p


@cache
def course(system: str, energy: str, cells: int, times: tuple[float, ...]) -> np.ndarray:
    """F/T along the flow from e^{−f/T}/Z, by steps of implicit Euler that keep ρ_ss."""
    fp = generator(system, cells)
    flow = fp.evolve(gibbs(system, "loss", cells)[0], np.array(times), scheme="implicit_euler", step=times[1])
    if energy == "potential":
        return fp.free_energy(flow).free_energy.values / SYSTEMS[system][2]
    low = gibbs(system, "loss", cells)[1]
    return np.array([energy_and_entropy(system, energy, rho, cells) for rho in flow.values]) / SYSTEMS[system][2] + low


_TIMES = tuple(np.arange(11) * 0.1)


def rises(level: Level, energy: str) -> list[Measurement]:
    """The largest rise in a time 0.1 along the flow from e^{−f/T}."""
    letter = {"potential": "Φ", "loss": "f"}[energy]
    found = []
    for system in UNEQUAL[:2]:
        rise = float(np.diff(course(system, energy, sizes(level, system)[0], _TIMES)).max())
        what = f"largest rise of E[{letter}] − T·H in a time 0.1, in T, {system}, from e^(−f/T)"
        found.append(Measurement(what, rise, 0.0, 1e-12, "rounding: implicit Euler lets F rise at no step", "<="))
    return found
