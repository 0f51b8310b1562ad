"""What the box does to a steady state: mass at its walls, currents that they deflect, cells that are too coarse."""

import sys
import warnings
from typing import TYPE_CHECKING

import numba as nb
import numpy as np

from sde_sgd.errors import BoxWarning

if TYPE_CHECKING:
    from .generator import FokkerPlanck

DENSITY = 1e-2  # beside one wall, over the mean density on the grid, above which the box cuts the density
DRIFT = 1e-2  # mean change of log ρ by deflection, above which the walls change the potential
PECLET = 2.0  # mean under ρ, above which a cell is wider than what happens in it
_LAYER = 1 / 8  # of the box: how far from a wall a current is counted as turned by it


def evidence(self: "FokkerPlanck", mass: np.ndarray) -> dict[str, float]:
    """`wall_mass`, `wall_drift` and `mean_peclet` of the probabilities per cell; warns where they are large.

    wall_mass : the probability in cells beside a wall that is not periodic, each cell counted once.
    wall_drift : how much reflecting walls change log ρ, on average under ρ. A current J that runs onto a wall is
        turned round there, and with its normal part j·n = J·n/ρ the normal slope of log ρ changes by j·n/(T D_nn).
        Counted are the cells within ℓ = an eighth of the box of a reflecting wall, each with |j·n|ℓ/(T D_nn), at
        most 1, and its probability. 0 where nothing flows (a gradient system may be cut anywhere), where the flow
        is along the walls, and where no mass is near them.
    mean_peclet : the mean under ρ of the largest |P| among the edges of a cell. Far above 1 the density is smeared over
        a cell.
    """
    per_wall = masses(self, mass)
    found = {
        "wall_mass": _beside_any(self, mass),
        "wall_drift": wall_drift(self, mass),
        "mean_peclet": mean_peclet(self, mass),
    }
    _warn(self, found, per_wall)
    return found


def masses(self: "FokkerPlanck", mass: np.ndarray) -> dict[tuple[int, int], float]:
    """The probability in the cells beside each wall: (axis, 0 for the lower end or −1 for the upper) → mass."""
    mass = mass.reshape(self.grid.shape)
    return {
        (axis, end): float(mass.take(end, axis=axis).sum())
        for axis, periodic in enumerate(self.grid.periodic)
        if not periodic
        for end in (0, -1)
    }


def _beside_any(self: "FokkerPlanck", mass: np.ndarray) -> float:
    inner = tuple(slice(None) if periodic else slice(1, -1) for periodic in self.grid.periodic)
    beside = mass.reshape(self.grid.shape).copy()
    beside[inner] = 0.0
    return float(beside.sum())


def wall_drift(self: "FokkerPlanck", mass: np.ndarray) -> float:
    """As in `evidence`."""
    grid = self.grid
    if "reflecting" not in grid.boundary:
        return 0.0
    density = mass / grid.cell_volume
    current = self.current(density.reshape(grid.shape)).values.reshape(-1, grid.dim)
    index = np.indices(grid.shape).reshape(grid.dim, -1)
    centers = grid.centers().reshape(-1, grid.dim)
    total = 0.0
    for axis, wall in enumerate(grid.boundary):
        if wall != "reflecting":
            continue
        cells = grid.shape[axis]
        deep = max(1, round(_LAYER * cells))
        near = np.flatnonzero((np.minimum(index[axis], cells - 1 - index[axis]) < deep) & (density > 0.0))
        if near.size == 0:
            continue
        spread = self.process.diffusion(centers[near])[:, axis, axis] + self.added_diffusion.values.ravel()[near]
        turned = np.abs(current[near, axis]) / density[near] * (deep * grid.spacing[axis])
        with np.errstate(over="ignore"):
            total += float(mass[near] @ np.minimum(1.0, turned / (self.process.temperature * spread)))
    return total


def mean_peclet(self: "FokkerPlanck", mass: np.ndarray) -> float:
    """The mean under the probabilities per cell of the largest |P| among a cell's edges."""
    return float(mass @ _largest(self.edges.tail, self.edges.head, self.edges.peclet, self.grid.size))


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _largest(tail, head, peclet, cells):
    largest = np.zeros(cells)
    for e in range(tail.size):
        size = abs(peclet[e])
        largest[tail[e]] = max(largest[tail[e]], size)
        largest[head[e]] = max(largest[head[e]], size)
    return largest


def _warn(self: "FokkerPlanck", found: dict[str, float], per_wall: dict[tuple[int, int], float]) -> None:
    """One warning that names every fault and its remedy. Walls that are the process's own are where they should be."""
    grid, names = self.grid, tuple(self.process.variables)
    faults = []
    chosen = {wall: mass for wall, mass in per_wall.items() if not _is_own(self, *wall)}
    for (axis, end), mass in chosen.items():
        share = mass * grid.shape[axis]
        if share > DENSITY:
            at = grid.lower[axis] if end == 0 else grid.upper[axis]
            faults.append(
                f"{mass:.3g} of the probability lies in the cells beside the {grid.boundary[axis]} wall "
                f"{names[axis]} = {at:g}; the density there is {share:.3g} of its mean, more than {DENSITY:g}: the box "
                "cuts it"
            )
    if chosen and found["wall_drift"] > DRIFT:
        faults.append(
            f"reflecting walls turn a current round and change log ρ by {found['wall_drift']:.3g} on average, more "
            f"than {DRIFT:g}: the potential is that of the process in this box, not that of the process"
        )
    if faults:
        faults[-1] += "; take a larger box, Grid.around(process) for one that holds the mass"
    if found["mean_peclet"] > PECLET:
        faults.append(
            f"the cell Péclet number is {found['mean_peclet']:.3g} on average under the density, more than {PECLET:g}: "
            "the density is narrower than a cell, or smeared by the drift; take more cells or a smaller box"
        )
    if faults:
        warnings.warn(". ".join(faults), BoxWarning, stacklevel=_user_level())


def _user_level() -> int:
    """The `stacklevel`, for the function that called this, of the line outside this package that led here."""
    own = (__name__.partition(".")[0], "functools")  # through which cached properties are read
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in own:
        frame, level = frame.f_back, level + 1
    return level


def _is_own(self: "FokkerPlanck", axis: int, end: int) -> bool:
    """Whether a wall stands at the end of the process's own domain."""
    domain, grid = self.process.domain, self.grid
    own, at = (domain.lower, grid.lower) if end == 0 else (domain.upper, grid.upper)
    return bool(abs(float(own[axis]) - at[axis]) <= 1e-12 * (grid.upper[axis] - grid.lower[axis]))
