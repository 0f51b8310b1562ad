"""The density in time: what is asked, by which scheme, and what was done."""

import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from sde_sgd import _checks

from . import _steps
from ._exact import Krylov, Uniformisation
from ._steps import Budget, ImplicitEuler, Ledger, SplitEuler, Stepper
from ._stream import InMemory, OnDisk, question

if TYPE_CHECKING:
    from .generator import FokkerPlanck

SCHEMES = ("splitting", "implicit_euler", "exact", "krylov")
_TOLERANCES = {"splitting": 1e-3, "implicit_euler": 1e-3, "exact": 1e-14, "krylov": 1e-12}
_LEAST_TOLERANCE = {"splitting": 1e-9, "implicit_euler": 1e-9, "exact": 1e-15, "krylov": 1e-13}
_ORDERS = {"splitting": 2, "implicit_euler": 1}
_SIZES = 1e-200, 1e200  # of the largest density of a start: tails below 1e-290 are cut, and sums must not overflow
_MOST_STEPS = 1e12
_TICK_SECONDS = 0.25
_PARTS = 1000  # progress is reported in thousandths of the last time


def evolve(
    self: "FokkerPlanck",
    density: xr.DataArray | np.ndarray | Mapping | float,
    times: np.ndarray | float,
    *,
    scheme: str = "splitting",
    order: int | None = None,
    tolerance: float | None = None,
    step: float | None = None,
    file: str | os.PathLike | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> xr.DataArray:
    r"""The solution ρ(t) = e^{tL}ρ(0) of ∂ρ/∂t = Lρ at the given times, (time, *variables).

    Mass stays what it is at the start to rounding (absorbing walls take what reaches them), and every density is ≥ 0,
    except that "krylov" may be negative within its error estimate.

    Parameters
    ----------
    density : the start. One value ≥ 0 per cell, of any mass, the largest from 1e-200 to 1e200; or a point, as a mapping
        {"x": 0.5, "y": 0.0} or as `dim` coordinates (a number in one variable). A point has mass 1, shared among the
        2^dim cells around it so that its mean is exact, which is of second order; the width this adds is at most half
        a cell. Within half a cell of a wall it is all in the cell at the wall.
    times : increasing, ≥ 0; time 0 gives the start itself. A schedule of temperature starts at time 0.
    scheme :
        "splitting": backward Euler in tridiagonal sweeps along each offset, extrapolated. The fastest by far. Its own
        steady state differs from that of the generator by O(step²), or O(step) for order 1.
        "implicit_euler": unsplit, by subtraction-free elimination. Keeps the steady state to rounding and never
        raises the free energy T·KL(ρ‖ρ_ss), for any step; of order 1.
        "exact": uniformisation, a sum of positive terms with about Λt products, Λ the fastest rate. Keeps the steady
        state and the free energy's decrease to rounding. Refused where it would take hours.
        "krylov": Arnoldi approximations of the exponential, as an independent reference. Entries may be negative
        within its error estimate: `attrs["most_negative"]`.
    order : 1 or 2, of "splitting" (default 2) and "implicit_euler" (default 1). Order 2 extrapolates three
        first-order solutions in the step. No linear scheme of order 2 is positive: where the extrapolation is negative,
        that cell keeps the positive first-order value and the others give up this mass in proportion; where that would
        be half of the mass, the whole step is of first order (`first_order_steps`). With implicit Euler of order 2
        the steady state is still kept, but the free energy's decrease is no longer promised.
    tolerance : L1 distance ∫|ρ − e^{tL}ρ(0)|, relative to the mass, allowed at every time. The flow contracts L1, so
        the local errors of all steps, added up, bound it; steps adapt so that their estimates, added up with their
        signs while the flow carries them along, stay below. The default is 1e-3; 1e-14 for "exact" (its truncation),
        1e-12 for "krylov". The error of the grid itself is not in it. With "splitting" the true error was from 0.05 to
        0.6 of the tolerance over 60 random processes.
    step : fixes the step instead of a tolerance ("splitting", "implicit_euler"); shortened where it does not divide a
        stretch between two times. Order 1 takes its steps in pairs, and the last pair is shortened as well.
    file : a netCDF file to which each snapshot is written as it is reached. A run that was stopped goes on from its
        last snapshot, with the same bits; a complete file is returned as it is. The result is read when it is used.
    progress : called as progress(done, total) several times a second, in thousandths of the last time.

    A temperature that is a schedule of time is followed by "splitting" and "implicit_euler": each first-order step
    takes the generator at its own middle, which keeps the order. Steps end where the schedules of `sde_sgd.schedules`
    jump or turn, at the `breakpoints(end)` of any schedule that has this method, and where another is found to jump (a
    pulse shorter than a 4096th of the last time may be missed: name it).

    Returns
    -------
    DataArray with coordinates `steps`, `error_estimate` (in L1, so far) and `mass` along time.
    `attrs`: scheme, order, tolerance or step, `steps`, `rejected_steps`, `repaired_steps` (kept positive as said
    above) and `repaired_mass`, `first_order_steps`, `largest_step`, `error_estimate`, `error_sum` (the sizes of all
    estimated local errors added up), `mass_drift` (last mass − first);
    "splitting": `stationary_bias`, ‖Sρ_ss − ρ_ss‖₁ of one step S of the largest size, if `steady_state` was called
    before; "krylov": `most_negative`, the least entry of all snapshots, where it is below 0.

    Raises ValueError for a start or times that are none of this, for a tolerance or step that cannot be met, and for
    what does not fit in memory.

    Sources: Chang & Cooper (1970) for positivity and mass; Hairer, Nørsett & Wanner (1993), II.9, for extrapolation;
    Fox & Glynn (1988); Sidje (1998). When not to use it: for the steady state alone, call `steady_state`.
    """
    scheme = _checks.choice("scheme", scheme, SCHEMES)
    moments = _times(times)
    start, described = _start(self, density)
    _checks.function("progress", progress)
    order, tolerance, step = _accuracy(scheme, order, tolerance, step)
    if step is not None and moments[-1] > _MOST_STEPS * step:
        raise ValueError(
            f"step = {step:g} is too short for t = {moments[-1]:g}, more than {_MOST_STEPS:g} steps; take a longer one"
        )
    if scheme in ("exact", "krylov") and callable(self.process.temperature):
        raise ValueError(
            f"scheme={scheme!r} needs a temperature that is a number, and this process has a schedule; use "
            "scheme='splitting' or scheme='implicit_euler'"
        )
    store: InMemory | OnDisk
    if file is None:
        store = InMemory(self, moments)
    else:
        store = OnDisk(self, moments, file, question(self, start, moments, (scheme, order, tolerance, step)))
        if store.complete:
            return store.opened()
    settings: dict[str, Any] = {
        **self.attrs, "space_scheme": self.attrs.get("scheme", ""), "scheme": scheme, "start": described,
    }  # fmt: skip
    settings |= {k: v for k, v in (("order", order), ("tolerance", tolerance), ("step", step)) if v is not None}
    try:
        rho, carried, ledger = np.append(start, 0.0), np.zeros(start.size + 1), Ledger()
        solver = _solver(self, scheme, order, tolerance, step, rho, moments, ledger)
        done = store.resume(rho, carried, ledger)
        now = float(moments[done - 1]) if done else 0.0
        ticker = _Ticker(progress, float(moments[-1]))
        for index in range(done, moments.size):
            after = float(moments[index])
            if after > now:
                solver.advance(rho, carried, now, after, ledger, ticker)
            if not np.isfinite(rho).all():
                raise ValueError(
                    f"the density at t = {after:g} is not finite: rates and steps leave the range of float64"
                )
            store.put(index, rho, carried, ledger)
            now = after
        ticker.end()
        own = {"next_step"} if scheme == "krylov" else {"next_step", "most_negative"}
        settings |= {k: v for k, v in asdict(ledger).items() if k not in own}
        settings["mass_drift"] = float((rho.sum() - start.sum()) * self.grid.cell_volume)
        if scheme == "splitting":
            settings["stationary_bias"] = _stationary_bias(self, solver, ledger)
        return store.finish(settings)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            "stopped" + (f"; the same call goes on from the last snapshot in {file}" if file is not None else "")
        ) from None
    finally:
        store.close()


def _times(times: Any) -> np.ndarray:
    moments = np.atleast_1d(_checks.finite_array("times", times))
    if moments.ndim != 1 or not moments.size:
        raise ValueError(f"times must be one or more numbers, got an array of shape {moments.shape}")
    if moments[0] < 0.0:
        raise ValueError(f"times must be >= 0, got {moments[0]:g}; the start is at time 0")
    backwards = np.flatnonzero(np.diff(moments) <= 0.0)
    if backwards.size:
        i = int(backwards[0])
        raise ValueError(
            f"times must increase, got {moments[i]:g} before {moments[i + 1]:g} at index {i + 1}; sort them"
        )
    return moments


def _accuracy(scheme: str, order: Any, tolerance: Any, step: Any) -> tuple[int | None, float | None, float | None]:
    stepping = scheme in _ORDERS
    if order is not None:
        if not stepping:
            raise ValueError(f"scheme={scheme!r} has no order; leave it out, got {order!r}")
        order = _checks.whole("order", order, 1, 2)
    elif stepping:
        order = _ORDERS[scheme]
    if step is not None:
        if not stepping:
            raise ValueError(f"scheme={scheme!r} takes no step, got {step!r}; give a tolerance")
        if tolerance is not None:
            raise ValueError(f"give tolerance = {tolerance!r} or step = {step!r}, not both")
        return order, None, _checks.positive("step", step)
    if tolerance is None:
        return order, _TOLERANCES[scheme], None
    tolerance = _checks.positive("tolerance", tolerance)
    least = _LEAST_TOLERANCE[scheme]
    if not least <= tolerance < 2.0:
        raise ValueError(
            f"tolerance of scheme={scheme!r} must be from {least:g} up to 2, the largest distance of two densities, "
            f"got {tolerance:g}" + ("" if scheme == "exact" else "; for less use scheme='exact'")
        )
    return order, tolerance, None


# the start ----------------------------------------------------------------------------------------------------


def _start(fp: "FokkerPlanck", density: Any) -> tuple[np.ndarray, str]:
    """The first density, flat, and what it is in words."""
    names, grid = tuple(fp.process.variables), fp.grid
    if isinstance(density, Mapping):
        if set(density) != set(names):
            raise ValueError(f"a point gives {', '.join(names)}, got {', '.join(map(str, density)) or 'nothing'}")
        density = [density[name] for name in names]
    elif isinstance(density, xr.DataArray) or np.shape(density) == grid.shape:
        values = fp._values(density).copy()
        if values.min() < 0.0:
            i = int(np.argmin(values))
            at = tuple(grid.centers().reshape(-1, grid.dim)[i].tolist())
            raise ValueError(
                f"density is {values[i]:g} at {at} (and negative in {int((values < 0).sum()) - 1} other cells); it "
                "must be >= 0 everywhere: clip or repair it where it was made"
            )
        if not values.max() > 0.0:
            raise ValueError("density is 0 in every cell; there is no mass to follow")
        if not _SIZES[0] <= values.max() <= _SIZES[1]:
            raise ValueError(
                f"the largest density is {values.max():g}, and must be from {_SIZES[0]:g} to {_SIZES[1]:g}; divide it "
                "by its mass"
            )
        return values, "density"
    point = np.atleast_1d(_checks.finite_array("density", density))
    if point.shape != (grid.dim,):
        raise ValueError(
            f"density has shape {np.shape(density)}; give one value per cell, {grid.shape}, or the {grid.dim} "
            "coordinates of a point"
        )
    described = "point " + ", ".join(f"{name} = {x:.17g}" for name, x in zip(names, point))
    return _point(fp, point), described


def _point(fp: "FokkerPlanck", point: np.ndarray) -> np.ndarray:
    """Mass 1 at a point, shared linearly between the two nearest cell centres of each axis."""
    grid = fp.grid
    shares = np.ones(())
    for name, x, low, high, n, h, periodic in zip(
        fp.process.variables, point, grid.lower, grid.upper, grid.shape, grid.spacing, grid.periodic
    ):
        if not low <= x <= high:
            raise ValueError(f"the point has {name} = {x:g}, and the grid spans [{low:g}, {high:g}]; start inside it")
        place = (x - low) / h - 0.5
        left = math.floor(place)
        share = place - left
        along = np.zeros(n)
        for cell, part in ((left, 1.0 - share), (left + 1, share)):
            along[cell % n if periodic else min(max(cell, 0), n - 1)] += part
        shares = np.multiply.outer(shares, along)
    return shares.ravel() / grid.cell_volume


# the scheme ---------------------------------------------------------------------------------------------------


def _solver(fp: "FokkerPlanck", scheme: str, order, tolerance, step, rho, moments, ledger: Ledger) -> Any:
    """What carries the density on; sets the length of the first step in the ledger."""
    end, volume = float(moments[-1]), fp.grid.cell_volume
    mass = float(rho.sum()) * volume
    if scheme == "exact":
        solver = Uniformisation(fp.edges, tolerance / moments.size, mass)
        solver.refuse_beyond(end)
        return solver
    if scheme == "krylov":
        matrix = fp.matrix
        return Krylov(lambda x: matrix @ x, float(np.abs(matrix).sum(axis=0).max()), tolerance * mass, end, volume)
    temperature = fp.process.temperature
    euler: SplitEuler | ImplicitEuler

    def temperature_at(t: float) -> float:
        return float(fp.process.temperature_at(t)) if callable(temperature) else temperature

    first = temperature_at(0.0)
    edges = fp.edges_at(first)
    if scheme == "splitting":
        euler = SplitEuler(edges, fp.edges_at, first)
    else:
        euler = ImplicitEuler(fp.grid.shape, fp.edges_at)
    breaks = _steps.breaks(fp.process, end)
    if step is not None or end == 0.0:
        return Stepper(euler, order, temperature_at, breaks, volume, step=step or 1.0)
    forward, backward = edges.rates()
    flux = forward * rho[edges.tail] - backward * rho[edges.head]
    change = float(np.abs(edges.gather(-flux, flux) - edges.leak * rho[:-1]).sum()) * volume
    ledger.next_step = min(end, 0.1 * mass / change) if change > 0.0 else end
    budget = Budget(tolerance * mass, end, ledger.next_step)
    return Stepper(euler, order, temperature_at, breaks, volume, budget=budget)


def _stationary_bias(fp: "FokkerPlanck", solver: Stepper, ledger: Ledger) -> float | str:
    """‖Sρ_ss − ρ_ss‖₁ of one step S of the largest size, or why there is no such number."""
    if callable(fp.process.temperature) or "absorbing" in fp.grid.boundary:
        return "none: there is no steady state"
    if "_log_density" not in fp.__dict__:
        return "not measured: call steady_state() before evolve()"
    steady = np.append(np.exp(fp._log_density), 0.0)
    moved = solver.one_step(steady, ledger.largest_step) if ledger.steps else steady
    return float(np.abs(moved - steady).sum()) * fp.grid.cell_volume


class _Ticker:
    """Tells the progress several times a second."""

    def __init__(self, progress: Callable[[int, int], object] | None, end: float) -> None:
        self._progress, self._end, self._last = progress, end, time.monotonic()

    def __call__(self, t: float) -> None:
        if self._progress is not None and time.monotonic() - self._last >= _TICK_SECONDS:
            self._last = time.monotonic()
            self._progress(min(_PARTS - 1, int(_PARTS * t / self._end)), _PARTS)

    def end(self) -> None:
        if self._progress is not None:
            self._progress(_PARTS, _PARTS)
