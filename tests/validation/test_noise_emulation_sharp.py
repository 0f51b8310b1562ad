"""A network's own sharp minimum: exit times of the recursion, clocks, runs that have not left by the horizon."""

import math

import numpy as np
import pytest
import xarray as xr

from sde_sgd.validation import _noise_emulation_sharp as sharp
from sde_sgd.validation import _noise_emulation_sharp_report as report
from sde_sgd.validation import noise_emulation, slab_exit_time

QUIET = lambda done, total: None  # noqa: E731
TINY = {"sharp_descent": 3000, "sharp_steps": 50, "sharp_replicas": 3}


@pytest.fixture(scope="module")
def place():
    config = noise_emulation.EXPERIMENT.resolve(TINY)
    return config, sharp.minimum(config, 0, QUIET)


def test_exit_of_the_recursion_is_that_of_paths():
    """Solved against 10,000 paths of normal steps within 4 standard errors (chance 6e-5), on twice the nodes to 1e-9;
    the closed form of the SDE at the edge R + 0.583 √(2TDη) is off by O(η): four times as far at 4η."""
    h, variance, rate, radius = 2.0, 0.3, 0.25, 0.35
    exact, rng = sharp.recursion_time(h, variance, rate, radius), np.random.default_rng(1)
    assert sharp.recursion_time(h, variance, rate, radius, nodes=800) == pytest.approx(exact, rel=1e-9)
    x, alive, steps = np.zeros(10_000), np.ones(10_000, dtype=bool), np.zeros(10_000)
    while alive.any():
        x[alive] = (1 - rate * h) * x[alive] + rate * math.sqrt(variance) * rng.standard_normal(alive.sum())
        steps[alive] += 1
        alive &= np.abs(x) < radius
    times = rate * steps
    assert abs(times.mean() - exact) < 4 * times.std() / 100

    def off(part):  # of the rate, at the same ηV
        rate, variance = 0.25 * part, 0.3 / part
        law = slab_exit_time(h, variance, rate / 2, radius + 0.5825971579 * rate * math.sqrt(variance))
        return float(law) - sharp.recursion_time(h, variance, rate, radius)

    assert 0 < off(0.001) < 0.002 * exact and off(0.004) / off(0.001) == pytest.approx(4, rel=0.1)


def test_times_beyond_what_can_be_solved_are_endless():
    assert sharp.recursion_time(9.0, 0.1, 0.05, 5.0) == math.inf


def test_censored_times():
    """Three exits and one run that has not left by 10: (1 + 2 + 3 + 10)/4 and /3; without an exit no mean at all."""
    times = np.array([1.0, 2.0, np.nan, 3.0])
    assert sharp.restricted(times, 10.0) == 4.0 and sharp.exponential(times, 10.0) == 16 / 3
    none = np.full(4, np.nan)
    assert sharp.restricted(none, 10.0) == 10.0 and sharp.exponential(none, 10.0) == math.inf
    runs = [xr.Dataset({"time": (("clock", "replica"), none[None])}, {"clock": ["slab"]}, {"horizon": 10.0})]
    assert report._mean(runs, "slab").startswith("> 13.3") and report._left(runs, "slab") == "0 of 4"
    runs.append(xr.Dataset({"time": (("clock", "replica"), times[None])}, {"clock": ["slab"]}, {"horizon": 10.0}))
    assert report._mean(runs, "slab") == "18.67, all seeds"  # 56 over 3 exits


def test_who_leaves_sooner_is_not_told_where_hardly_any_has_left():
    """Times to the loss of 4 replicas until 10: where none has left with either noise the means are equal, which is no
    answer; where half have left with one of them it is one."""

    def run(*times):
        return xr.Dataset({"time": (("clock", "replica"), [times])}, {"clock": ["loss"]}, {"horizon": 10.0})

    still, some, half = run(*[np.nan] * 4), run(9.0, *[np.nan] * 3), run(1.0, 1.0, np.nan, np.nan)
    assert np.isnan(report._later(still, still)) and np.isnan(report._later(still, some))
    assert report._later(still, half) == pytest.approx(math.log(10 / 5.5)) == -report._later(half, still)


def test_descent_ends_at_a_minimum_that_holds_without_noise(place):
    """Nearly no gradient, and curvature in the largest direction alone as it is used: ηλ_max = ½. Nothing leaves."""
    config, found = place
    assert found.slope < 1e-2 and found.rate * found.sharp == pytest.approx(0.5)
    assert abs(np.linalg.norm(found.way) - 1) < 1e-12 and found.along.sel(kind="isotropic") < found.along.sel(
        kind="exact"
    )
    still = sharp.dwelt(config, "none", found, 0, QUIET)
    assert np.isnan(still["time"]).all() and np.isinf(still.predicted).all()
    np.testing.assert_allclose(still.top, found.sharp, rtol=1e-3)


def test_clocks_of_a_run(place):
    """Exact noise is out of the slab first; isotropic noise of its trace is still in it."""
    config, found = place
    out = sharp.dwelt(config, "exact", found, 0, QUIET)["time"].sel(clock="slab")
    assert np.isfinite(out).all() and out.min() >= float(found.rate) - 1e-12
    kept = sharp.dwelt(config, "isotropic", found, 0, QUIET)
    assert np.isnan(kept["time"].sel(clock="slab")).all() and kept.predicted.min() > 1e6


@pytest.mark.evidence(table="sharp_minimum")
def test_cold_noise_leaves_as_the_parabola_says(table):
    """At T/256 the mean of the logarithm's ratio over 5 seeds within 0.15 of 0, with 256 replicas each (standard error
    0.03); at T itself it is not: the parabola ends."""
    config = noise_emulation.EXPERIMENT.resolve({"sharp_replicas": 32, "sharp_steps": 400})
    rows = []
    for seed in range(5):
        found = sharp.minimum(config, seed, QUIET)
        row = [seed, float(found.sharp), float(found.slope)]
        for kind in (sharp.COLD, "exact"):
            run = sharp.dwelt(config, kind, found, seed, QUIET)
            law = float(run.predicted.sel(law="of the recursion"))
            row += [law, sharp.exponential(run["time"].sel(clock="slab").values, run.attrs["horizon"]) / law]
        rows.append(row)
    table(
        "Time in the slab over that of the parabola's recursion",
        ["seed", "λ_max", "gradient", "law, T/256", "ratio, T/256", "law, T", "ratio, T"],
        [[row[0], *(f"{value:.3g}" for value in row[1:])] for row in rows],
        "Networks of 137 weights at a minimum of descent, exact noise, b = 1 and 256.",
    )  # fmt: skip
    cold, hot = (np.log([row[k] for row in rows]) for k in (4, 6))
    assert abs(cold.mean()) < 0.15 and hot.mean() < -0.3
