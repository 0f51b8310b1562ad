"""Dwell times under each noise where the exact time is known: parabolas, wells of one depth, saddles; and of SGD."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

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
    """Over `case`: `exact` log time, `mean` of paths and its `error`; `never` the share of paths that leave a saddle by
    noise across it alone; `sgd` (edge) mean time of SGD from a parabola over the law.
    """
    known, found = cases(), []
    for number, case in enumerate(known):
        times = path_times(case, config["paths"], 1000 * seed + number)
        found.append((exact_log_time(case), times.mean(), times.std(ddof=1) / math.sqrt(len(times))))
        progress(number + 1, len(known) + 1)
    columns = np.array(found).T
    text = {name: ("case", np.array([case[name] for case in known], dtype=str)) for name in ("place", "noise")}
    numbers = {name: ("case", [case[name] for case in known]) for name in ("out", "across", "along")}
    ratio, error = sgd_exits(config["paths"], seed)
    return xr.Dataset(
        {**dict(zip(("exact", "mean", "error"), (("case", column) for column in columns))),
         "sgd": ("edge", ratio), "sgd_error": ("edge", error)},
        {**text, **numbers, "edge": ["of the SDE", "corrected for steps"]},
        {"never": stays(config["paths"], seed), "temperature": _HOT, "depth": _DEPTH},
    )  # fmt: skip


def stays(paths: int, seed: int) -> float:
    """The share of paths still within |x| < 1 of the saddle after 20 times the exact time, if no noise has x in it."""
    case = next(c for c in cases() if c["place"] == "saddle")
    landscape = _landscape("saddle").with_parameters(h=case["out"], k=case["across"], u=0.0, v=case["other"])
    step = 0.02 / max(case["out"], case["across"])
    steps = math.ceil(20 * math.exp(exact_log_time(case)) / step)
    run = sde.simulate(landscape.at_temperature(_SLAB), (0.0, 0.0), step=step, steps=steps, paths=paths, seed=seed,
                       scheme="euler_maruyama")  # fmt: skip
    return float((np.abs(run["x"].values) < 1).mean())


def sgd_exits(paths: int, seed: int) -> tuple[list[float], list[float]]:
    """Mean exit time η·steps of SGD on a parabola with D = cH from |x| < 2√(Tc), over the closed form as given, and at
    the edge R + 0.583 √(2TDη) with the variance of the recursion; standard errors. The first step outside counts.
    """
    amplitude = math.sqrt(NOISE * FLAT)
    parabola = sde.FiniteSum(("x",), "h*x**2/2 + a*s*x", {"s": np.tile([1.0, -1.0], _BATCH)},
                             parameters={"h": FLAT, "a": amplitude}, domain=((-99, 99),), name="parabola")  # fmt: skip
    temperature = _RATE / (2 * _BATCH)
    radius = 2 * math.sqrt(temperature * NOISE)
    shifted = radius + OVERSHOOT * math.sqrt(2 * temperature * NOISE * FLAT * _RATE)
    seen = NOISE * FLAT / (1 - _RATE * FLAT / 2)  # the recursion's variance is ηD/(bh(2 − ηh))
    law = [float(slab_exit_time(FLAT, d, temperature, r)) for d, r in ((NOISE * FLAT, radius), (seen, shifted))]
    left, x, first = np.zeros(paths), np.zeros((paths, 1)), 0
    steps = math.ceil(law[1] / _RATE)
    while not left.all():
        run = sde.sgd(parabola, x, learning_rate=_RATE, batch_size=_BATCH, steps=steps, replicas=paths, save_every=1,
                      seed=seed, first_step=first)  # fmt: skip
        track = run["x"].values  # (replica, time), its first column the state before
        out = np.abs(track[:, 1:]) >= radius
        when = np.where(out.any(1), first + 1 + out.argmax(1), 0)
        left = np.where(left > 0, left, when)
        x, first = np.where(left > 0, 0.0, track[:, -1])[:, None], first + steps
    times = _RATE * left
    error = times.std(ddof=1) / math.sqrt(paths)
    return [times.mean() / one for one in law], [error / one for one in law]
