"""Steepest descent in pictures: the densities, the energy as it falls, and the heat equation seen two ways."""

from typing import TYPE_CHECKING

import numpy as np

from sde_sgd import _checks

from ._style import INK, axes_or_new, new_figure, styled
from .densities import plot_densities
from .evolution import plot_evolution

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANELS = 6  # densities over two variables that are shown
_MARKED = 40  # points that are marked one by one
_DECADES = 10  # below the largest value, where rounding of F begins
_DASHES = (0, (4, 3))


@styled
def plot_flow(flow: "xr.DataArray", ax: "Axes | None" = None, *, log: bool = False) -> "Axes | Figure":
    """Densities along a flow: lines over one variable, coloured by time, or up to six maps over two, as a Figure.

    `flow` is one of `JKO.flow`; `log=True` shows eight decades below the largest. `ax` is for lines.
    Raises ValueError for what is no flow over one or two variables.
    """
    time = _flow(flow)
    if flow.ndim == 2:
        return plot_evolution(flow, axes_or_new(ax, 5.0, 3.4), log=log)
    if ax is not None:
        raise ValueError("a flow in two variables takes several maps, which one frame does not hold; leave out ax")
    chosen = np.unique(np.linspace(0, time.size - 1, min(time.size, _PANELS)).round().astype(int))
    return plot_densities({f"time {time[k]:.3g}": flow.isel(time=int(k), drop=True) for k in chosen}, log=log)


@styled
def plot_energy(flow: "xr.DataArray", free_energy: "xr.Dataset | None" = None, lowest: float | None = None) -> "Figure":
    """F along a flow and, below, what each step pays and gets: −ΔF/τ and W²/τ².

    `flow` is one of `JKO.flow`. With `lowest`, F of the steady density (`jko.energy(fp.steady_state())`), the scale is
    logarithmic and F is counted from there; then `free_energy`, of `FokkerPlanck.free_energy` for an evolution from the
    same start, may be drawn as a line beside it.
    −ΔF/τ is never less than W²/(2τ²), for ρ_{k+1} is the minimum of what ρ_k is a candidate for; as τ → 0 it tends to
    W²/τ², each being the squared speed of steepest descent. Where a remainder j was split off, its transport is in ΔF.
    Raises ValueError for what is no flow with a step, or `free_energy` without `lowest`.
    """
    time, energy = _flow(flow), np.asarray(flow["energy"], float)
    if free_energy is not None and lowest is None:
        raise ValueError("free_energy is counted from the steady state: give lowest=jko.energy(fp.steady_state()) too")
    figure = new_figure(5.0, 5.2)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    if lowest is None:
        _points(above, time, energy, "JKO")
        above.set_ylabel("F")
    else:
        lowest = float(_checks.finite_array("lowest", lowest, ()))
        if free_energy is not None:
            if "free_energy" not in free_energy or free_energy["free_energy"].dims != ("time",):
                raise ValueError("free_energy must be what FokkerPlanck.free_energy gives for densities over time")
            line = np.asarray(free_energy["free_energy"], float)
            above.plot(free_energy["time"], line, color=INK, lw=1.1, ls=_DASHES, label="Fokker–Planck")
        _points(above, time, energy - lowest, "JKO")
        above.set(yscale="log", ylabel="F above the steady state")
        above.legend()
    _rates(below, flow, energy, np.asarray(flow["wasserstein"], float)[1:], "W")
    below.set_xlabel("time")
    figure.align_ylabels()
    return figure


@styled
def plot_heat_equation(flow: "xr.DataArray") -> "Figure":
    r"""∂ρ/∂t = TΔρ as steepest descent twice: of T/2 ∫|∇ρ|² in L², left, and of T∫ρ log ρ in W₂, right.

    `flow` is one of `JKO.flow` with a constant Φ and D = I. Above, the two energies; below, for each, −ΔE/τ and the
    squared speed in its own metric, ∫(Δρ/τ)² or W²/τ². Along the exact equation the two are equal, which is what makes
    it a steepest descent of this energy in this metric; from step to step they are to first order in τ.
    Differences of ρ are between neighbouring cells, round periodic axes, and no flux passes the walls. Raises
    ValueError for what is no flow with a step.
    """
    time = _flow(flow)
    temperature = float(flow.attrs["temperature"])
    names = [str(d) for d in flow.dims if d != "time"]
    spacing = [float(flow[name][1] - flow[name][0]) for name in names]
    values, volume = np.asarray(flow.transpose("time", *names), float), float(np.prod(spacing))
    dirichlet = np.zeros(time.size)
    walls = str(flow.attrs["boundary"]).split()
    for axis, (h, wall) in enumerate(zip(spacing, walls)):
        first = values.take([0], axis=1 + axis)
        slopes = np.diff(np.append(values, first, 1 + axis) if wall == "periodic" else values, axis=1 + axis) / h
        dirichlet += 0.5 * temperature * volume * (slopes**2).reshape(time.size, -1).sum(axis=1)
    moved = np.sqrt(volume * (np.diff(values, axis=0) ** 2).reshape(time.size - 1, -1).sum(axis=1))
    entropy, distance = np.asarray(flow["energy"], float), np.asarray(flow["wasserstein"], float)[1:]
    figure = new_figure(7.6, 5.0)
    panels = figure.subplots(2, 2, sharex=True, height_ratios=[3, 2])
    for (above, below), energy, length, words, metric in (
        (panels[:, 0], dirichlet, moved, r"$\frac{T}{2}\int|\nabla\rho|^2$", "L²"),
        (panels[:, 1], entropy, distance, r"$T\int\rho\,\log\rho$", "W"),
    ):
        _points(above, time, energy, "")
        above.set_title(f"{words} in {metric.replace('W', 'W₂')}", loc="left")
        above.set_ylabel("energy")
        _rates(below, flow, energy, length, metric)
        below.set_xlabel("time")
    figure.align_ylabels()
    return figure


def _flow(flow: "xr.DataArray") -> np.ndarray:
    """The times of a flow; ValueError if it is none."""
    dims = tuple(str(dim) for dim in getattr(flow, "dims", ()))
    missing = [name for name in ("time", "energy", "wasserstein") if name not in getattr(flow, "coords", ())]
    if missing or dims[0] != "time" or len(dims) not in (2, 3):
        raise ValueError(
            f"a flow has time, then one or two variables, and energy and wasserstein along time; got {dims} without "
            f"{', '.join(missing) or 'that order'}: draw what JKO.flow gives"
        )
    if flow.sizes["time"] < 2:
        raise ValueError("there is no step to draw; a flow has two times at least")
    return np.asarray(flow["time"], float)


def _points(ax: "Axes", time: np.ndarray, values: np.ndarray, label: str) -> None:
    ax.plot(time, values, marker="o" if time.size <= _MARKED else "none", ms=3.5, lw=1.3, label=label)
    ax.set_xlim(0.0, time[-1])


def _rates(ax: "Axes", flow: "xr.DataArray", energy: np.ndarray, length: np.ndarray, metric: str) -> None:
    """−ΔE/τ and the squared speed of each step, at the middle of it."""
    time = np.asarray(flow["time"], float)
    tau, middle = np.diff(time), 0.5 * (time[1:] + time[:-1])
    fall, speed = -np.diff(energy) / tau, (length / tau) ** 2
    top, squared = max(fall.max(), speed.max()), "∫(Δρ/τ)²" if metric == "L²" else f"{metric}²/τ²"
    fall, speed = (np.where(values > 10.0**-_DECADES * top, values, np.nan) for values in (fall, speed))
    ax.plot(middle, fall, marker="o" if tau.size <= _MARKED else "none", ms=3.5, label="−ΔE/τ")
    ax.plot(middle, speed, color=INK, ls=_DASHES, lw=1.1, label=squared)
    ax.set(yscale="log", ylabel="per time")
    ax.legend()
