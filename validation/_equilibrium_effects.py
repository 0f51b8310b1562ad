"""Numbers, one per seed, that the report and the answers to the source rest on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from ._equilibrium_laws import decay_balance, fourth_power, relaxed
from ._equilibrium_statistics import (
    exponent,
    fall_time,
    independent_disagreement,
    integral_time,
    permutation_test,
    squared_distance,
)

RISE = 3.0  # times the median: the loss has veered off


def distances(
    config: Mapping[str, Any], seed: int, ensembles: xr.Dataset,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> xr.Dataset:  # fmt: skip
    """How far the ensembles of the three schedules are apart as functions, at every step that was saved.

    `squared` (pair, step), without the bias of finite ensembles; `distance` ℓ₁, `null_mean`, `null_high`, `p_value`
    (step) of the mean over pairs under exchanges of replicas; `halves` (test): p-values of ensembles of one schedule,
    halved, at the last step; `error` (schedule, step) at the points.
    """
    labels, classes = ensembles["label"].values, ensembles.attrs["classes"]
    steps, permutations = labels.shape[2], config["permutations"]
    squared = [[squared_distance(labels[a, :, t], labels[b, :, t], classes) for t in range(steps)]
               for a, b in combinations(range(len(labels)), 2)]  # fmt: skip
    tests = []
    for t in range(steps):
        found = permutation_test(list(labels[:, :, t]), classes, permutations=permutations, seed=seed)
        tests.append(found)
        progress(t + 1, steps)
    half = labels.shape[1] // 4 * 2  # two independent tests of each schedule
    halves = [
        permutation_test(np.split(part[:half], 2), classes, permutations=permutations, seed=seed).p_value
        for one in labels[:, :, -1]
        for part in (one[:half], one[half:])
    ]
    numbers = np.array(tests).T
    return xr.Dataset(
        {
            "squared": (("pair", "step"), squared),
            **{name: ("step", row) for name, row in zip(("distance", "null_mean", "null_high", "p_value"), numbers)},
            "halves": ("test", halves),
            "error": (("schedule", "step"), (labels != ensembles["right"].values).mean(axis=(1, 3))),
        },
        {"step": ensembles["step"].values, "schedule": ensembles["schedule"].values},
        {"intrinsic": ensembles.attrs["intrinsic"], "replicas": labels.shape[1], "level": config["mixed_below"]},
    )


def mixing_times(one: xr.Dataset) -> dict[str, float]:
    """Steps until the ensembles are mixed, in three senses; NaN where they are not by the end, or were from the start.

    "level": the squared distance, a mean over pairs, is down to attrs["level"], the mixing time in the usual sense of
    a fixed distance; "integral": ∫ of it over its first value, which rests on every saved step; "test": twice in a row
    exchanges do not tell them apart, p > 0.05, which depends on the number of replicas.
    """
    steps, curve = one["step"].values, one["squared"].mean("pair").values
    apart = one["p_value"].values > 0.05
    twice = np.flatnonzero(apart[:-1] & apart[1:])
    found = {
        "level": fall_time(steps, curve, one.attrs["level"] / curve[0]) if curve[0] > 0 else 0.0,
        "integral": integral_time(steps, curve) if curve[0] > 0 else 0.0,
        "test": float(steps[twice[0]]) if len(twice) else float("nan"),
    }
    return {sense: time if time > 0 else float("nan") for sense, time in found.items()}


def mixing_exponent(ladder: Sequence[xr.Dataset], sense: str) -> float:
    """Slope of log mixing time against log 1/(ηλ); NaN where one of them did not mix, or was mixed from the start."""
    times = np.array([mixing_times(one)[sense] for one in ladder])
    if not np.isfinite(times).all():
        return float("nan")
    return exponent([1 / one.attrs["intrinsic"] for one in ladder], times)


def left(ladder: Sequence[xr.Dataset]) -> float:
    """The squared distance of the last three steps over the first, a mean over pairs and ηλ; NaN where ensembles did
    not differ at first, so that the distance, which is without bias, is not above 0.
    """
    curves = [one["squared"].mean("pair").values for one in ladder]
    return float(np.mean([curve[-3:].mean() / curve[0] if curve[0] > 0 else np.nan for curve in curves]))


def late(run: xr.Dataset, name: str, kind: str) -> NDArray[np.float64]:
    """The last quarter of a recorded series of one of the runs of descent."""
    values = run[name].sel(run=kind).values
    return values[len(values) * 3 // 4 :]


def last_quarter(run: xr.Dataset) -> float:
    """The last quarter of descent with decay, in 1/(ηλ) steps; below 1 the weights need not have shrunk in it."""
    return run.attrs["steps"] / 4 * run.attrs["learning_rate"] * run.attrs["weight_decay"]


def excursions(run: xr.Dataset, kind: str) -> int:
    """How often the loss rises above three times its median within the last quarter of a run."""
    values = late(run, "loss", kind)
    high = values > RISE * np.median(values)
    return int(high[0]) + int((high[1:] & ~high[:-1]).sum())


def rise(run: xr.Dataset, kind: str) -> float:
    """The largest loss of the last quarter over its median."""
    values = late(run, "loss", kind)
    return float(values.max() / np.median(values))


def squares_ratio(run: xr.Dataset) -> NDArray[np.float64]:
    """E|w|²λ(2 − ηλ)/(ηE|g|²) at each ηλ: 1 in the steady state."""
    rates = run["intrinsic"].values / run.attrs["weight_decay"]
    wanted = decay_balance(run["batch_square"].mean(("replica", "step")).values, rates, run.attrs["weight_decay"])
    return run["square"].mean(("replica", "step")).values / wanted


def fourths_ratio(run: xr.Dataset) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """E|w|⁴λ(2 − ηλ)/(ηE|g_unit|²) at each ηλ, and what the squared recursion makes of it."""
    over, rates = ("replica", "step"), run["intrinsic"].values / run.attrs["weight_decay"]
    unit = (run["square"] * run["batch_square"]).mean(over).values
    found = (run["square"] ** 2).mean(over).values / decay_balance(unit, rates, run.attrs["weight_decay"])
    kicks = rates**2 * run["batch_fourth"].mean(over).values / unit
    return found, np.array([fourth_power(x, k) for x, k in zip(run["intrinsic"].values, kicks)])


def gamma_courses(run: xr.Dataset) -> list[tuple[NDArray, NDArray, NDArray]]:
    """(steps, E|w|⁴/η², its equation) of each stretch of constant η, the equation with the measured E|g_unit|²."""
    steps, rates = run["step"].values, run["learning_rate"].values
    gamma = (run["square"] ** 2).mean("replica").values / rates**2
    drive = (run["square"] * run["batch_square"]).mean("replica").values
    found, cuts = [], [0, *(np.flatnonzero(np.diff(steps) == 0) + 1), len(steps)]
    for a, b in pairwise(cuts):
        x = rates[a] * run.attrs["weight_decay"]
        found.append((steps[a:b], gamma[a:b], relaxed(steps[a:b], gamma[a], x, drive[a:b])))
    return found


def gamma_error(run: xr.Dataset) -> float:
    """The median of |log γ − log of its equation| over the saved steps."""
    gaps = [np.abs(np.log(seen / wanted))[1:] for _, seen, wanted in gamma_courses(run)]
    return float(np.median(np.concatenate(gaps)))


def moved_share(run: xr.Dataset) -> NDArray[np.float64]:
    """E|w_{T+Δ} − w_T|²/(2E|w|²) at each lag."""
    return run["moved"].mean("replica").values / (2 * float(run["square"].mean()))


def spread_share(run: xr.Dataset) -> float:
    """tr S/E|w|², S the covariance of the weights over replicas: the plateau 2 tr S in the same unit."""
    return float(run["spread"]) / float(run["square"].mean())


def covered(run: xr.Dataset) -> float:
    """|w_{T+Δ} − w_T|² at the longest lag over the plateau 2 tr S."""
    return float(moved_share(run)[-1]) / spread_share(run)


def moved_on(run: xr.Dataset) -> float:
    """|w_{T+Δ} − w_T|² at the longest lag over that at 1/(ηλ)."""
    shares = moved_share(run)
    return float(shares[-1] / np.interp(1.0, run["lag"] * run.attrs["intrinsic"], shares))


def gain(run: xr.Dataset, kind: str) -> float:
    """Test error of single states minus that of averaged weights: "within" a replica, "across" replicas of one start,
    or across "strangers" with starts of their own.
    """
    single = run["error_stranger" if kind == "strangers" else "error"]
    return float(single.mean()) - float(run[f"error_{kind}"].mean())


def disagreement_gap(run: xr.Dataset) -> float:
    """Disagreement of two replicas of one start minus 2e(1 − e)."""
    return float(run["disagreement"]) - independent_disagreement(float(run["error"].mean()))


def mean_error(run: xr.Dataset, arm: str) -> float:
    """Test error at the end of the arm."""
    return float(run["error"].sel(arm=arm).isel(step=-1).mean())


def slow_gap(run: xr.Dataset) -> float:
    """Test error at the end of the small rate throughout, minus that after a large one."""
    return mean_error(run, "small throughout") - mean_error(run, "large first")
