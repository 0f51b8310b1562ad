"""Errors of fields on a grid, from the same fields on grids of a half and a quarter of the cells per axis."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import xarray as xr
from scipy.optimize import brentq

from sde_sgd.fokker_planck.generator import FokkerPlanck
from sde_sgd.grid import Grid

_FEWEST = 6  # cells along an axis of the coarsest grid
_ORDERS = (0.5, 2.0)  # what is believed of an observed order: the scheme has 2, and less makes the error larger
_COVERED = 4  # cells per axis that the weight of an order covers
_ROUNDING = 1e-10  # of the size of a field: differences below it have no order


def coarser(fp: FokkerPlanck) -> list[FokkerPlanck]:
    """The generator on grids of a half and, where that leaves 6 cells along every axis, a quarter of the cells.

    Where a drift has no value at a centre of the coarser grid, one cell less per axis is taken. ValueError where not
    even half is possible.
    """
    made: list[FokkerPlanck] = []
    for divisor in (2, 4):
        shape = [n // divisor for n in fp.grid.shape]
        reason = f"{min(shape)} cells along an axis are too few, {_FEWEST} are needed"
        for fewer in (0, 1):
            cells = [n - fewer for n in shape]
            if min(cells) < _FEWEST:
                continue
            try:
                grid = Grid(fp.grid.lower, fp.grid.upper, cells, boundary=fp.grid.boundary)
                made.append(FokkerPlanck(fp.process, grid, max_offset=fp.attrs["max_offset"]))
                break
            except ValueError as fault:
                reason = str(fault)
        else:
            if divisor == 2:
                raise ValueError(
                    f"no error can be estimated on {' × '.join(map(str, fp.grid.shape))} cells: with half of them per "
                    f"axis, {reason}"
                )
            break
    return made


def resample(
    values: np.ndarray,
    axes: Sequence[np.ndarray],
    targets: Sequence[np.ndarray],
    periodic: Sequence[bool],
    points: int = 4,
) -> np.ndarray:
    """Values on the grid `axes` at the grid `targets`, by polynomials through `points` neighbours: of that order.

    Axes of `values` beyond those of the grid are carried along. NaN spreads to what is made of it and no further.
    """
    for axis, (x, at, wraps) in enumerate(zip(axes, targets, periodic)):
        place = (at - x[0]) * ((x.size - 1) / (x[-1] - x[0]))
        first = np.floor(place).astype(int) - (points // 2 - 1)
        if not wraps:
            first = np.clip(first, 0, x.size - points)
        s = place - first
        node = np.arange(points)
        weight = np.stack(
            [np.prod([(s - m) / (k - m) for m in node if m != k], axis=0) for k in node], axis=1
        )  # (targets, points)
        near = np.moveaxis(values, axis, 0)[(first[:, None] + node) % x.size]
        values = np.moveaxis(np.einsum("tp,tp...->t...", weight, near), 0, axis)
    return values


def errors(
    fields: Sequence[dict[str, np.ndarray]], fps: Sequence[FokkerPlanck]
) -> tuple[dict[str, np.ndarray], dict[str, float | str]]:
    r"""Estimates v_h − v of every field on the first grid, and attributes that say how far to trust them.

    With d = v_2h − v_h at the centres of the larger cells, and s the ratio of the spacings, the error is
    d/(s^p − 1): exact to the next order where v_h = v + C h^p. The order p is that observed on the third grid, from
    the means of |d| of both pairs, held between ½ and 2; 2 without a third grid. The means are under ρ, or under as
    high a power of ρ as covers four cells per axis of the coarsest grid, where ρ is narrower. The potential is free by
    a constant, and d is taken less its mean under ρ.
    """
    found: dict[str, np.ndarray] = {}
    told: dict[str, float | str] = {
        "error_source": f"Richardson, from {' and '.join(' × '.join(map(str, fp.grid.shape)) for fp in fps[1:])} cells"
    }
    grids = [fp.grid for fp in fps]
    weights = [_weight(fp) for fp in fps]
    power = 1.0
    while _cells(_weight(fps[-1], power)) < _COVERED ** grids[0].dim:
        power *= 0.5
    wide = [_weight(fp, power) for fp in fps]
    ratios = [float(np.mean(coarse.spacing / fine.spacing)) for fine, coarse in itertools.pairwise(grids)]
    for name in fields[0]:
        gaps, sizes = [], []
        for k in range(len(fps) - 1):
            fine = resample(fields[k][name], grids[k].axes, grids[k + 1].axes, grids[k].periodic)
            gap = fields[k + 1][name] - fine
            if name == "potential":
                gap = gap - mean(gap, weights[k + 1])
            gaps.append(gap)
            sizes.append(mean(np.abs(gap), wide[k + 1]))
        scale = mean(np.abs(fields[0][name]), wide[0])
        told[f"{name}_order"] = order = observed_order(sizes, ratios) if sizes[0] > _ROUNDING * scale else np.nan
        share = richardson(order, ratios[0])
        found[name] = resample(share * gaps[0], grids[1].axes, grids[0].axes, grids[1].periodic, points=2)
    return found, told


def _weight(fp: FokkerPlanck, power: float = 1.0) -> np.ndarray:
    """ρ^power over its largest value."""
    return np.exp(power * (fp._log_density - fp._log_density.max())).reshape(fp.grid.shape)


def _cells(weight: np.ndarray) -> float:
    """How many cells a weight covers, (Σw)²/Σw²."""
    return float(weight.sum() ** 2 / (weight**2).sum())


def richardson(order: float, ratio: float) -> float:
    """1/(s^p − 1), p the order held between ½ and 2, and 2 where it is not known."""
    return 1.0 / (ratio ** (2.0 if np.isnan(order) else min(max(order, _ORDERS[0]), _ORDERS[1])) - 1.0)


def observed_order(sizes: Sequence[float], ratios: Sequence[float]) -> float:
    """p with sizes[1]/sizes[0] = s₁^p (s₂^p − 1)/(s₁^p − 1): sizes and ratios of three grids' differences.

    0 where the differences grow with refinement, NaN where there are not two, one is 0, or p exceeds 12.
    """
    if len(sizes) < 2 or not all(np.isfinite(sizes)) or min(sizes) <= 0.0:
        return float("nan")
    if sizes[1] <= sizes[0]:
        return 0.0
    first, second = ratios

    def excess(p: float) -> float:
        return np.log(np.expm1(p * np.log(second)) / -np.expm1(-p * np.log(first))) - np.log(sizes[1] / sizes[0])

    low, high = 1e-6, 12.0
    if excess(low) >= 0.0:  # ratios that are not quite equal
        return 0.0
    return float(brentq(excess, low, high)) if excess(high) > 0.0 else float("nan")


def mean(values: np.ndarray, weight: np.ndarray) -> float:
    """The mean under weights per cell, that of the Euclidean norm for a vector; cells with NaN are left out."""
    if values.ndim > weight.ndim:
        values = np.sqrt((values**2).sum(-1))
    usable = np.isfinite(values)
    total = weight[usable].sum()
    return float((np.where(usable, values, 0.0) * weight).sum() / total) if total > 0.0 else float("nan")


def scalar_error(values: Sequence[float], fps: Sequence[FokkerPlanck]) -> float:
    """|v_h − v| of a number from its values on the same grids, as `errors` does for fields."""
    grids = [fp.grid for fp in fps]
    ratios = [float(np.mean(coarse.spacing / fine.spacing)) for fine, coarse in itertools.pairwise(grids)]
    sizes = [abs(b - a) for a, b in itertools.pairwise(values)]
    return richardson(observed_order(sizes, ratios), ratios[0]) * sizes[0]


def attached(fields: xr.Dataset, fps: Sequence[FokkerPlanck], of: Callable[[FokkerPlanck], xr.Dataset]) -> xr.Dataset:
    """`fields` with `<name>_error` for each of them, `of` giving the same fields of the coarser generators."""
    names = [str(n) for n in fields.data_vars]
    sets = [fields, *(of(fp) for fp in fps[1:])]
    found, told = errors([{n: s[n].values for n in names} for s in sets], fps)
    result = fields.assign_attrs(told)
    for name, values in found.items():
        result[f"{name}_error"] = fields[name].copy(data=values).rename(f"{name}_error")
    return result
