"""Two roads to local entropy: the heat equation on a grid, and a Gauss–Hermite rule."""

import math
from collections.abc import Callable
from functools import cache

import numpy as np

import sde_sgd as sde
from sde_sgd.theory.claim import Level

NODES = 40  # of the Gauss–Hermite rule per axis, beside twice as many


@cache
def heat_flow(loss: str, box: tuple, cells: int, gammas: tuple[float, ...]) -> list[Callable]:
    """f_γ of each γ as a function of points (…, d): −log of e^{−f} after the heat equation, D = I and T = ½, over the
    time γ, with cubic splines between the cells."""
    names = ("x", "y")[: len(box)]
    grid = sde.Grid([side[0] for side in box], [side[1] for side in box], (cells,) * len(box))
    flat = sde.FokkerPlanck(sde.Landscape(names, " + ".join(f"0*{n}" for n in names)).at_temperature(0.5), grid)
    weight = np.exp(-landscape(loss, names).loss(grid.centers()))
    total = weight.sum() * grid.cell_volume
    flow = flat.evolve(weight / total, np.array(gammas), scheme="exact").values
    return [_spline(grid.axes, -np.log(np.maximum(total * rho, 1e-300))) for rho in flow]


def _spline(axes: tuple[np.ndarray, ...], values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    from scipy.interpolate import CubicSpline, RectBivariateSpline

    if len(axes) == 1:
        line = CubicSpline(axes[0], values)
        return lambda x: line(np.asarray(x)[..., 0])
    plane = RectBivariateSpline(*axes, values)
    return lambda x: plane.ev(np.asarray(x)[..., 0], np.asarray(x)[..., 1])


@cache
def landscape(loss: str, names: tuple[str, ...]) -> sde.Landscape:
    return sde.Landscape(names, loss)


def on_grids(level: Level, loss: str, box: tuple, gammas: tuple, measure: Callable) -> list[float]:
    """`measure` of the functions f_γ of the heat flow, on two grids."""
    cells = level.cells(240 if len(box) == 1 else 80)
    return [float(measure(*heat_flow(loss, box, n, gammas))) for n in (cells, 2 * cells)]


def quadrature(loss: str, x: tuple, gamma: float, nodes: int = 2 * NODES) -> tuple[float, np.ndarray, np.ndarray]:
    """(f_γ(x), ⟨x'⟩, Cov x') of the local Gibbs measure e^{−f(x') − |x' − x|²/2γ}, by a Gauss–Hermite rule."""
    z, w = np.polynomial.hermite_e.hermegauss(nodes)
    offsets = np.stack(np.meshgrid(*[z] * len(x), indexing="ij"), -1).reshape(-1, len(x))
    weights = np.stack(np.meshgrid(*[w / w.sum()] * len(x), indexing="ij"), -1).reshape(-1, len(x)).prod(-1)
    points = np.array(x) + math.sqrt(gamma) * offsets
    f = landscape(loss, ("x", "y")[: len(x)]).loss(points)
    weights = weights * np.exp(-(f - f.min()))
    total = weights.sum()
    mean = weights @ points / total
    away = points - mean
    return float(f.min() - math.log(total)), mean, (weights[:, None] * away).T @ away / total
