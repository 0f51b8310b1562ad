"""The quasi-potential and the prefactor as the limit of Φ_T on a grid, extrapolated to T = 0."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from scipy.interpolate import RegularGridInterpolator
from scipy.ndimage import maximum_filter

from sde_sgd import _checks
from sde_sgd._solved import halved
from sde_sgd.errors import BoxWarning
from sde_sgd.fokker_planck.generator import FokkerPlanck
from sde_sgd.grid import Grid
from sde_sgd.process import Process

_SMEARED = 5.0  # edge Péclet number beyond which the scheme smears a current over a cell

_AROUND = 5  # cells along each axis in which the largest change counts as the grid's error


def extrapolate_potential(
    process: Any,
    grid: Grid,
    temperatures: float | Sequence[float],
    *,
    attractor: Any = None,
    max_peclet: float = _SMEARED,
    max_offset: int | None = None,
) -> xr.Dataset:
    r"""Quasi-potential V and prefactor W from steady states at several temperatures on one grid.

        Φ_T = −T log ρ_T = V + T W + O(T²) + c(T),    so that  ρ_T ~ e^{−W} e^{−V/T};

    in each cell the polynomial in T through the n values of Φ_T has V and W as its value and slope at T = 0:
    V is of order Tⁿ, W of order Tⁿ⁻¹. Both are 0 at the attractor, which takes care of c(T). With T, 2T, 4T,
    V = (8Φ_T − 6Φ_2T + Φ_4T)/3.

    Parameters
    ----------
    grid : as for `FokkerPlanck`. temperatures : three or more, or the lowest T of T, 2T, 4T; that of the process is
        not used.
    attractor : point (d,) of the grid's box where V = W = 0; None is where Φ at the lowest temperature is least.
    max_peclet : cells with an edge whose |P| = |δ·D⁻¹(b − T div D)|/T is above it at the lowest temperature are NaN,
        unless the process knows an equilibrium potential: there the scheme smears the current, at first order.
    max_offset : as in `FokkerPlanck`.

    Returns a Dataset over the grid: `potential` V, `prefactor` W, and for each
        potential_error, prefactor_error     what one temperature fewer changes, the highest being left out
        potential_grid_error, prefactor_grid_error   what cells twice as wide change, at most within two cells (about
                                             three times the error where it is of second order); NaN where an axis has
                                             fewer than six cells
    and `peclet`, the largest |P| at a cell at the lowest temperature. `attrs`: the temperatures, the attractor, and
    `masked`, the number of NaN cells.

    V is that of the whole landscape, the lowest of the attractors' own V_i plus their relative depths; around another
    attractor x_i, V − V(x_i) is its own quasi-potential and W − W(x_i) its own prefactor. Where two such sheets meet, V
    has a kink, Φ_T is no polynomial in T, and the error says so. Errors of the temperatures and of the grid work
    against each other: lower T wants h ~ T/|b|.

    Raises ValueError for fewer than three distinct temperatures, where all cells are beyond `max_peclet`, an attractor
    outside the box, and as `FokkerPlanck`. When not to use it: more than three variables, or barriers to more than a
    few digits; `minimum_action_path` gives one value of V exactly. WKB: Freidlin & Wentzell (2012), §4;
    Bouchet & Reygner (2016).
    """
    _checks.instance("process", process, Process)
    process.evaluator()  # an Underdamped process says here that it has no density to solve for
    t = _temperatures(temperatures)
    max_peclet = _checks.positive("max_peclet", max_peclet)
    exact = process.equilibrium_potential is not None
    fields, peclet, attrs = _solved(process, grid, t, max_offset)
    keep = np.ones(grid.shape, bool) if exact else peclet <= max_peclet
    if not keep.any():
        raise ValueError(
            f"every cell has an edge with |P| above max_peclet = {max_peclet:g} at T = {t[0]:g}, at least "
            f"{peclet.min():.3g}; take cells {max_peclet / peclet.min():.2g} times as wide, or higher temperatures"
        )
    if attractor is None:
        at = np.array([axis[i] for axis, i in zip(grid.axes, np.unravel_index(fields[0].argmin(), grid.shape))])
    else:
        at = _checks.finite_array("attractor", np.atleast_1d(attractor), (grid.dim,))
        if not ((at >= grid.lower) & (at <= grid.upper)).all():
            raise ValueError(f"attractor {tuple(at.tolist())} is outside the grid, {grid.lower} to {grid.upper}")
    coarse = halved(grid)
    rough = None if coarse is None else _solved(process, coarse, t, max_offset)[0]
    data: dict[str, xr.DataArray] = {}
    for name, order in (("potential", 0), ("prefactor", 1)):
        value = _at_zero(t, fields, order)
        errors = {"error": np.abs(_gauged(grid, value - _at_zero(t[:-1], fields[:-1], order), at))}
        value = _gauged(grid, value, at)
        errors["grid_error"] = np.full(grid.shape, np.nan)
        if coarse is not None and rough is not None:
            other = _gauged(coarse, _at_zero(t, rough, order), at)
            change = np.abs(value - _read(coarse, other, grid.centers()))
            errors["grid_error"] = maximum_filter(change, _AROUND)  # the change passes through 0 on lines
        for key, values in {name: value, **{f"{name}_{k}": v for k, v in errors.items()}}.items():
            data[key] = grid.data_array(np.where(keep, values, np.nan), process.variables, key)
    data["peclet"] = grid.data_array(peclet, process.variables, "peclet")
    attrs |= {
        "temperatures": t.tolist(), "attractor": at.tolist(), "max_peclet": max_peclet, "masked": int((~keep).sum()),
        "method": "polynomial in T through the steady states of FokkerPlanck",
    }  # fmt: skip
    return xr.Dataset(data, attrs=attrs)


def _temperatures(given: Any) -> np.ndarray:
    if np.ndim(given) == 0:
        lowest = _checks.positive("temperatures", given)
        return lowest * np.array([1.0, 2.0, 4.0])
    t = np.unique(_checks.finite_array("temperatures", given))
    if len(t) < 3 or t[0] <= 0:
        raise ValueError(f"temperatures must be three or more different numbers > 0, got {given!r}; or give the lowest")
    return t


def _solved(
    process: Any, grid: Grid, t: np.ndarray, max_offset: int | None
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Φ_T (temperatures, cells), the largest |P| of each cell at the lowest, and what the solver says of it."""
    fields, peclet, attrs = [], np.zeros(grid.shape), {}
    for temperature in t:
        fp = FokkerPlanck(process.landscape.at_temperature(float(temperature)), grid, max_offset=max_offset)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", BoxWarning)  # what it warns of is told per cell
            fields.append(-temperature * fp.log_steady_state().values)
        if temperature == t[0]:
            largest, size = np.zeros(grid.size), np.abs(fp.edges.peclet)
            np.maximum.at(largest, fp.edges.tail, size)
            np.maximum.at(largest, fp.edges.head, size)
            peclet = largest.reshape(grid.shape)
            attrs = {k: v for k, v in fp.attrs.items() if k not in ("temperature", "max_peclet")}
    return np.array(fields), peclet, attrs


def _at_zero(t: np.ndarray, fields: np.ndarray, order: int) -> np.ndarray:
    """Value (order 0) or slope (1) at T = 0 of the polynomial through (t, fields)."""
    scaled = t / t[-1]
    weights = np.linalg.inv(np.vander(scaled, increasing=True))[order] / t[-1] ** order
    return np.tensordot(weights, fields, 1)


def _gauged(grid: Grid, values: np.ndarray, at: np.ndarray) -> np.ndarray:
    return values - _read(grid, values, at[None])[0]


def _read(grid: Grid, values: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Cubic interpolation between cell centres, continued into the half cells beside the walls."""
    axes = list(grid.axes)
    for k, wraps in enumerate(grid.periodic):
        if wraps:
            pad = min(4, grid.shape[k])
            span = grid.upper[k] - grid.lower[k]
            axes[k] = np.concatenate([axes[k][-pad:] - span, axes[k], axes[k][:pad] + span])
            values = np.concatenate([values.take(range(-pad, 0), k), values, values.take(range(pad), k)], axis=k)
    method = "cubic" if min(values.shape) > 3 else "linear"
    return RegularGridInterpolator(axes, values, method=method, bounds_error=False, fill_value=None)(points)
