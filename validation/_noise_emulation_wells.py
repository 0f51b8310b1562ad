"""Dwell times under each noise where the exact time is known: parabolas, wells of one depth, saddles; and of SGD."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.stats import binom

import sde_sgd as sde

from .stability import slab_exit_time

SHARP, FLAT = 4.0, 1.0  # curvatures
NOISE = 0.5  # c of D = cH
OVERSHOOT = 0.5825971579  # −ζ(½)/√(2π): how far, in deviations of a step, a random walk's edge seems to lie farther out
_HOT, _DEPTH = 0.1, 0.125  # T, and the depth of the wells
_SLAB = 0.25  # T of the parabolas and of the saddle, whose edge is R = 1
_CELLS = 1600
_RATE, _BATCH = 0.05, 16  # η and b of SGD


def noises(out: float, across: float) -> dict[str, tuple[float, float]]:
    """(D along the way out, D across) for curvatures |h| `out` and `across`: ∝ |H|, isotropic of equal trace."""
    mean = NOISE * (out + across) / 2
    return {"∝ curvature": (NOISE * out, NOISE * across), "isotropic": (mean, mean)}


def cases() -> list[dict[str, Any]]:
    """Every case: what is left, the curvature along the way out and across, the kind of noise and its D."""
    found = []
    for place, pairs in (("well", ((SHARP, FLAT), (FLAT, SHARP))), ("parabola", ((SHARP, FLAT), (FLAT, SHARP))),
                         ("saddle", ((FLAT, SHARP), (SHARP, FLAT)))):  # fmt: skip
        for out, across in pairs:
            for kind, (along, other) in noises(out, across).items():
                found.append(
                    {"place": place, "out": out, "across": across, "noise": kind, "along": along, "other": other}
                )
    return found


@cache
def _landscape(place: str) -> sde.Landscape:
    """One compiled form for all curvatures and noises: (hx² − 1)²/8 is a well of curvature h and depth ⅛."""
    way = {"well": "(h*x**2 - 1)**2/8", "parabola": "h*x**2/2", "saddle": "-h*x**2/2"}[place]
    numbers = {"h": 1.0, "k": 1.0, "u": 1.0, "v": 1.0}
    return sde.Landscape(
        ("x", "y"), f"{way} + k*y**2/2", diffusion=[["u + 0*x", "0"], ["0", "v + 0*x"]], parameters=numbers,
        domain=((-9, 9), (-30, 30)), name=place,
    )  # fmt: skip


def exact_log_time(case: Mapping[str, Any]) -> float:
    """log of the mean exit time; the closed form, or for the wells the backward equation in x alone, which is exact: x
    does not see y.
    """
    h, d = case["out"], case["along"]
    if case["place"] != "well":
        sign = 1.0 if case["place"] == "parabola" else -1.0
        return float(slab_exit_time(sign * h, d, _SLAB, 1.0, log=True))
    way = sde.Landscape(("x",), "(h*x**2 - 1)**2/8", diffusion=[["u + 0*x"]], parameters={"h": h, "u": d},
                        domain=((-9, 9),), name="well")  # fmt: skip
    edge = 1 / math.sqrt(h)
    times = [
        float(
            sde.FokkerPlanck(way.at_temperature(_HOT), sde.Grid(-2.5 * edge, 2.5 * edge, cells))
            .mean_exit_time("x < 0", log=True)
            .interp(x=-edge)
        )
        for cells in (_CELLS // 2, _CELLS)
    ]
    return times[1] + (times[1] - times[0]) / 3


def path_times(case: Mapping[str, Any], paths: int, seed: int) -> NDArray[np.float64]:
    """Exit times of paths in both variables."""
    h = case["out"]
    landscape = _landscape(case["place"]).with_parameters(h=h, k=case["across"], u=case["along"], v=case["other"])
    well = case["place"] == "well"
    start, inside = ((-1 / math.sqrt(h), 0.0), "x < 0") if well else ((0.0, 0.0), "x < 1 and x > -1")
    step = 0.02 / max(h, case["across"])
    run = sde.exit_times(
        landscape.at_temperature(_HOT if well else _SLAB),
        start,
        inside,
        step=step,
        paths=paths,
        max_steps=10**7,
        seed=seed,
    )
    return run["exit_time"].values


def wells(config: Mapping[str, Any], seed: int, progress: Callable[[int, int], object]) -> xr.Dataset:
    """Over `case`: `exact` log time, `mean` of paths and its `error`; over `law` the `exit` time of SGD from a parabola
    over each of `sgd_laws`, and its `exit_error`.
    """
    known, found = cases(), []
    for number, case in enumerate(known):
        times = path_times(case, config["paths"], 1000 * seed + number)
        found.append((exact_log_time(case), times.mean(), times.std(ddof=1) / math.sqrt(len(times))))
        progress(number + 1, len(known) + 1)
    columns = np.array(found).T
    text = {name: ("case", np.array([case[name] for case in known], dtype=str)) for name in ("place", "noise")}
    numbers = {name: ("case", [case[name] for case in known]) for name in ("out", "across", "along")}
    laws, times = sgd_laws(), sgd_exits(config["paths"], seed)
    law = np.array(list(laws.values()))
    progress(len(known) + 1, len(known) + 1)
    return xr.Dataset(
        {**dict(zip(("exact", "mean", "error"), (("case", column) for column in columns))),
         "exit": ("law", times.mean() / law), "exit_error": ("law", times.std(ddof=1) / math.sqrt(len(times)) / law)},
        {**text, **numbers, "law": list(laws)}, {"temperature": _HOT, "depth": _DEPTH},
    )  # fmt: skip


# SGD on a parabola, D = cH, left where |x| ≥ 2√(Tc) --------------------------------------------------------------


def _parabola() -> tuple[float, float, float]:
    """(a, T, R): f_k = hx²/2 ± ax has D = a² = cH."""
    temperature = _RATE / (2 * _BATCH)
    return math.sqrt(NOISE * FLAT), temperature, 2 * math.sqrt(temperature * NOISE)


def sgd_laws() -> dict[str, float]:
    """Mean exit times η·steps: of the SDE; at the edge R + 0.583 √(2TDη) with the variance of the recursion, ηD/(bh(2 −
    ηh)); and of the recursion itself.
    """
    amplitude, temperature, radius = _parabola()
    d = amplitude**2
    shifted = radius + OVERSHOOT * math.sqrt(2 * temperature * d * _RATE)
    return {
        "of the SDE": float(slab_exit_time(FLAT, d, temperature, radius)),
        "corrected for steps": float(slab_exit_time(FLAT, d / (1 - _RATE * FLAT / 2), temperature, shifted)),
        "of the recursion": recursion_time(),
    }


@cache
def recursion_time(cells: int = 3001) -> float:
    """The mean exit time of the recursion from 0, the first step outside counted: m(x) = η + Σ_k p_k m(x′_k) over the
    b + 1 means that b signs can have, x′_k = (1 − ηh)x − ηaξ_k, m = 0 outside. On a grid, m linear in between.
    """
    amplitude, _, radius = _parabola()
    count = np.arange(_BATCH + 1)
    jump = _RATE * amplitude * (2 * count / _BATCH - 1)
    edges = np.linspace(-radius, radius, cells + 1)
    x = (edges[1:] + edges[:-1]) / 2
    after = (1 - _RATE * FLAT) * x[:, None] - jump
    place = (after - x[0]) / (x[1] - x[0])
    low = np.clip(np.floor(place).astype(int), 0, cells - 2)
    share = np.clip(place - low, 0.0, 1.0)  # the half cells at the edges are flat
    weight = binom.pmf(count, _BATCH, 0.5) * (np.abs(after) < radius)
    steps, row = np.eye(cells), np.arange(cells)[:, None]
    np.subtract.at(steps, (row, low), weight * (1 - share))
    np.subtract.at(steps, (row, low + 1), weight * share)
    return float(np.linalg.solve(steps, np.full(cells, _RATE))[cells // 2])


def sgd_exits(paths: int, seed: int) -> NDArray[np.float64]:
    """Exit times η·steps of SGD, the first step outside counted."""
    amplitude, _, radius = _parabola()
    parabola = sde.FiniteSum(("x",), "h*x**2/2 + a*s*x", {"s": np.tile([1.0, -1.0], _BATCH)},
                             parameters={"h": FLAT, "a": amplitude}, domain=((-99, 99),), name="parabola")  # fmt: skip
    left, x, first = np.zeros(paths), np.zeros((paths, 1)), 0
    steps = math.ceil(recursion_time() / _RATE)
    while not left.all():
        run = sde.sgd(parabola, x, learning_rate=_RATE, batch_size=_BATCH, steps=steps, replicas=paths, save_every=1,
                      seed=seed, first_step=first)  # fmt: skip
        track = run["x"].values  # (replica, time), its first column the state before
        out = np.abs(track[:, 1:]) >= radius
        when = np.where(out.any(1), first + 1 + out.argmax(1), 0)
        left = np.where(left > 0, left, when)
        x, first = np.where(left > 0, 0.0, track[:, -1])[:, None], first + steps
    return _RATE * left
