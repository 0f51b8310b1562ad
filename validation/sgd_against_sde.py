"""The experiment `sgd-vs-sde`: where the stochastic differential equation of SGD describes SGD, and where it stops."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats
import xarray as xr

from sde_sgd.experiment import Experiment, Setting
from sde_sgd.study import Study

from ._sgd_sde_runs import (
    QUANTITIES,
    SAMPLES,
    SIGMAS,
    compared,
    equation,
    judged,
    quadratic_moments,
    sde_run,
    sgd_run,
    start_of,
    variances,
)
from ._threads import one_thread
from .sgd_sde_figures import plot_gaps, plot_laws, plot_means

FAMILIES = ("ratio", "batch")
_TITLES = {"ratio": "η/b fixed: one SDE for all", "batch": "b fixed: the temperature grows with η"}
_STATES = {
    "agrees": "within {:.0%}, beyond doubt, of",
    "open": "not seen to be further than {:.0%} from",
    "differs": "further than {:.0%} from",
}
_SHARED = 10  # steps on which our Euler and torchsde take the same increments


@one_thread()
def perform(study: Study) -> None:
    """SGD beside its SDE dw = −∇f dt + √(ηD/b) dW on one network: many replicas of both from one start. Law of the
    loss, distance from the start and projections on the steepest directions of the Hessian, at several learning rates,
    with η/b fixed, for which the SDE is one and the same, and with b fixed; and the learning rate from which on the
    SDE does not describe SGD.
    """
    start = study.stage("sgd-sde", "start", lambda progress: start_of(study.config))
    runs = {family: _family(study, start, family) for family in FAMILIES}
    roads = study.stage("sgd-sde", "roads", lambda progress: two_roads(study.config, start))
    for family in FAMILIES:
        _gap_section(study, start, family, runs[family])
    _law_section(study, runs)
    _reference_section(study, start, runs, roads)


# What is computed ------------------------------------------------------------------------------------------------


def batch_of(config: Mapping[str, Any], family: str, rate: float) -> int:
    """b: in proportion to η from `batch_size` at the lowest on, or the same for all."""
    if family == "batch":
        return config["fixed_batch_size"]
    return round(config["batch_size"] * rate / config["learning_rates"][0])


def _family(study: Study, start: xr.Dataset, family: str) -> dict[str, dict[float, xr.Dataset]]:
    config = study.config
    rates = config["learning_rates"]
    step = rates[0] / config["substeps"]
    found: dict[str, dict[float, xr.Dataset]] = {"sgd": {}, "sde": {}, "coarse": {}}
    for k, rate in enumerate(rates):
        batch = batch_of(config, family, rate)
        seed = 100 * config["seed"] + 10 * k + 5 * FAMILIES.index(family)
        found["sgd"][rate] = study.stage(
            "sgd-sde",
            f"sgd-{family}-{k}",
            lambda progress, rate=rate, batch=batch, seed=seed: sgd_run(config, start, rate, batch, seed, progress),  # type: ignore[misc]
        )
        if family == "ratio" and k:
            found["sde"][rate] = found["sde"][rates[0]]
            continue
        for name, finer in (("sde", 1), ("coarse", 2))[: 2 - bool(k)]:  # on the same Brownian paths
            kept = study.work(f"{name}-{family}-{k}.npz")
            found[name][rate] = study.stage(
                "sgd-sde",
                f"{name}-{family}-{k}",
                lambda progress, rate=rate, batch=batch, finer=finer, seed=seed + 1, kept=kept: sde_run(  # type: ignore[misc]
                    config, start, rate, batch, finer * step, seed, kept, progress, finer
                ),
            )
    return found


def two_roads(config: Mapping[str, Any], start: xr.Dataset) -> xr.Dataset:
    """Largest |Δw| between torchsde and the weighted-backward Euler after some steps on the same increments."""
    rate = config["learning_rates"][0]
    sde = equation(config, rate, config["batch_size"])
    drawn = np.random.default_rng(config["seed"]).normal(size=(_SHARED, 2, sde.samples)) * np.sqrt(rate)
    options: dict[str, Any] = {"steps": _SHARED, "replicas": 2, "start": start["start"].values, "increments": drawn}
    ours, theirs = sde.euler(**options)["weights"].values, sde.torchsde(**options)["weights"].values
    return xr.Dataset({"largest": float(abs(ours - theirs).max()), "moved": float(abs(ours - options["start"]).max())})


def gaps_of(start: xr.Dataset, runs: Mapping[str, Mapping[float, xr.Dataset]]) -> dict[float, xr.Dataset]:
    return {rate: compared(run, runs["sde"][rate], start.attrs["loss"]) for rate, run in runs["sgd"].items()}


def boundary(states: Sequence[str], rates: Sequence[float]) -> tuple[float | None, float | None]:
    """The largest η below every one that differs, and the smallest that does; None where there is none."""
    failing = [rate for rate, state in zip(rates, states) if state == "differs"]
    good = [r for r, state in zip(rates, states) if state == "agrees" and (not failing or r < failing[0])]
    return (good[-1] if good else None), (failing[0] if failing else None)


# The report ------------------------------------------------------------------------------------------------------


def _gap_section(study: Study, start: xr.Dataset, family: str, runs: Mapping[str, Mapping[float, xr.Dataset]]) -> None:
    config = study.config
    tolerance, rates = config["tolerance"], config["learning_rates"]
    section = study.report.section(_TITLES[family])
    gaps = gaps_of(start, runs)
    states = [judged(gaps[rate], tolerance) for rate in rates]
    last, first = boundary(states, rates)
    low = gaps[rates[0]]
    seen = SIGMAS * float(low["error"].max())
    section.verdict(
        states[0] != "differs" and seen < 2 * tolerance,
        f"At the lowest η = {rates[0]:g} SGD is {_STATES[states[0]].format(tolerance)} its SDE: largest gaps over "
        f"{config['saves']} times: {_largest_of_all(low)} (promised: not beyond {tolerance:.0%} by {SIGMAS:g} standard "
        f"errors, and these below {2 * tolerance:.0%}: at most {seen:.1%}).",
    )
    if first is None:
        sentence = f"Nowhere up to η = {rates[-1]:g} is SGD further than {tolerance:.0%} from its SDE beyond error."
    else:
        within = f"{config['replicas']} replicas do not show it within {tolerance:.0%} beyond doubt at a lower η"
        if last is not None:
            within = f"it is within {tolerance:.0%} beyond doubt at η = {last:g}"
        sentence = f"The SDE stops describing SGD at η = {first:g} ({_largest_of_all(gaps[first])}); {within}."
    beyond = states[states.index("differs") :] if first is not None else []
    section.verdict(
        "agrees" not in beyond,
        sentence + (" No larger η agrees again." if "agrees" not in beyond else " A larger η agrees again: no order."),
    )
    columns = ["η", "b", "T = η/2b", "η h₁", "loss: gap", "distance: gap", "loss: gap at constant H, D", "SGD"]
    top = float(start["curvature"][0])
    rows = []
    for rate, state in zip(rates, states):
        batch, end = batch_of(config, family, rate), gaps[rate].isel(time=-1)
        shown = [
            f"{float(end['gap'].sel(quantity=q)):+.4f} ± {2 * float(end['error'].sel(quantity=q)):.4f}"
            if np.isfinite(float(end["gap"].sel(quantity=q)))
            else f"diverged by step {runs['sgd'][rate].attrs['diverged']}"
            for q in QUANTITIES
        ]
        predicted = _predicted(start, rate, batch, config["time"])
        rows.append([rate, batch, rate / (2 * batch), rate * top, *shown, f"{predicted:+.3g}", state])
    section.table(
        columns,
        rows,
        f"Means of SGD less those of the SDE at time {config['time']:g}, as a share, ± two standard errors over "
        f"{config['replicas']} replicas of each. h₁ is the largest curvature at the start; the last prediction is of a "
        "quadratic loss with the H and D of the start.",
    )
    series = {}
    for name in QUANTITIES:
        ends = [gaps[rate].sel(quantity=name).isel(time=-1) for rate in rates]
        series[name] = np.array([float(e["gap"]) for e in ends]), np.array([float(e["error"]) for e in ends])
    linear = [_predicted(start, rate, batch_of(config, family, rate), config["time"]) for rate in rates]
    axes = plot_gaps(rates, series, linear, tolerance)
    study.figures[f"gaps-{family}"] = axes.figure
    section.figure(
        axes.figure,
        f"Gaps at time {config['time']:g} against η, bars of two standard errors, with the tolerance. {sentence}",
        "Gap of loss and distance between SGD and its SDE against the learning rate, with error bars",
    )
    figure = plot_means({rate: runs["sgd"][rate] for rate in rates}, runs["sde"], QUANTITIES)
    study.figures[f"means-{family}"] = figure
    section.figure(
        figure,
        f"Means over replicas with two standard errors: SGD as points, the SDE as bands. {sentence}",
        "Mean loss and mean distance from the start against time for several learning rates",
    )


def _predicted(start: xr.Dataset, rate: float, batch: int, time: float) -> float:
    """The gap of the loss, as a share, at constant H and D."""
    sgd, sde = (quadratic_moments(start, rate, batch, time, order)[0] for order in (1, None))
    return (sgd - sde) / max(abs(sde), abs(sde - start.attrs["loss"]))


def _largest(gap: xr.Dataset) -> str:
    size = np.abs(gap["gap"].values)
    if not np.isfinite(size).all():
        return "SGD diverges"
    k = int(size.argmax())
    return f"{float(gap['gap'][k]):+.3f} ± {2 * float(gap['error'][k]):.3f}"


def _largest_of_all(gaps: xr.Dataset) -> str:
    return ", ".join(f"{name} {_largest(gaps.sel(quantity=name))}" for name in QUANTITIES)


def _law_section(study: Study, runs: Mapping[str, Mapping[str, Mapping[float, xr.Dataset]]]) -> None:
    """The law of the loss, and variances along fixed directions, at the last time."""
    config = study.config
    rates, level = config["learning_rates"], config["law_level"]
    section = study.report.section("The law, not its mean alone")
    ends = {family: _ends(found["sgd"]) for family, found in runs.items()}
    truth = {family: _ends(found["sde"]) for family, found in runs.items()}
    tests = {
        family: {rate: scipy.stats.ks_2samp(values, truth[family][rate]) for rate, values in found.items()}
        for family, found in ends.items()
    }
    told = {
        family: ", ".join(f"{test.statistic:.3f} (p = {test.pvalue:.2g}) at η = {r:g}" for r, test in found.items())
        for family, found in tests.items()
    }
    low = tests["batch"].get(rates[0])
    section.verdict(
        low is not None and low.pvalue > level,
        f"With b = {config['fixed_batch_size']}, {config['replicas']} replicas at the lowest η do not tell the law of "
        f"the loss at time {config['time']:g} from that of the SDE: Kolmogorov–Smirnov distances are {told['batch']} "
        f"(promised at the lowest: p > {level:g}, the chance of a false alarm).",
    )
    limit = _limit(ends["ratio"], tests["ratio"], level)
    section.text(f"With η/b fixed the distances from the SDE are {told['ratio']}. {limit}")
    if low is not None:
        figure = plot_laws({f"SGD, η = {rates[0]:g}": ends["batch"][rates[0]]}, truth["batch"][rates[0]])
        study.figures["law-batch"] = figure.figure
        section.figure(
            figure.figure,
            f"Distribution of the loss over replicas at the last time, b = {config['fixed_batch_size']}, at the lowest "
            f"η; the distance between the two curves is {low.statistic:.3f}.",
            "Cumulative distribution of the final loss for SGD at the lowest learning rate and for its SDE",
        )
    figure = plot_laws({f"SGD, η = {r:g}": values for r, values in ends["ratio"].items()}, truth["ratio"][rates[0]])
    study.figures["laws"] = figure.figure
    section.figure(
        figure.figure,
        "The same with η/b fixed, where the SDE is one; the distances are those of the sentence above.",
        "Cumulative distribution of the final loss for SGD at each learning rate and for the SDE",
    )
    rows = []
    for rate in ends["batch"]:
        value, error = variances(runs["batch"]["sgd"][rate])
        base, base_error = variances(runs["batch"]["sde"][rate])
        ratio = value / base
        spread = ratio * np.hypot(error / value, base_error / base)
        rows.append([rate, *(f"{r:.3f} ± {2 * s:.3f}" for r, s in zip(ratio, spread))])
        if rate == rates[0]:
            z = np.abs(ratio - 1) / spread
            k = int(z.argmax())
            section.verdict(
                bool(z[k] < SIGMAS),
                f"Nor do they at the lowest η the variances along the {len(base)} steepest directions of H: furthest "
                f"from the SDE's is the one of direction {k + 1}, {ratio[k]:.3f} ± {2 * spread[k]:.3f} times as large, "
                f"{z[k]:.1f} standard errors (promised: below {SIGMAS:g}).",
            )
    section.table(
        ["η", *(f"direction {k + 1}" for k in range(config["directions"]))],
        rows,
        f"Variance over replicas of SGD over that of the SDE, b = {config['fixed_batch_size']}, along fixed "
        "directions, ± two standard errors. At constant H and D it would be 1/(1 − ηh/2) in the long run.",
    )


def _ends(runs: Mapping[float, xr.Dataset]) -> dict[float, np.ndarray]:
    """Losses of the replicas at the last time, for each η at which all are finite."""
    ends = {rate: run["loss"].values[:, -1] for rate, run in runs.items()}
    return {rate: values for rate, values in ends.items() if np.isfinite(values).all()}


def _limit(ends: Mapping[float, np.ndarray], tests: Mapping[float, Any], level: float) -> str:
    """Whether SGD at fixed η/b tends to the law of the SDE, or to one of its own."""
    words = (
        "Smaller η at the same η/b are smaller batches: w jumps by (η/b) g_k, b/η times per unit of time, and the "
        "third cumulant of its noise per time is that of g_k times (η/b)², whatever η. Only T → 0, as with b fixed, "
        "takes it away: the SDE is not the limit of SGD at fixed temperature."
    )
    if len(ends) < 2:
        return words
    one, two = list(ends)[:2]
    near = scipy.stats.ks_2samp(ends[one], ends[two])
    apart, alike = tests[one].pvalue <= level, near.pvalue > level
    seen = f"SGD at η = {one:g} and at η = {two:g} are {near.statistic:.3f} apart (p = {near.pvalue:.2g})"
    if apart and alike:
        return f"{seen}: SGD has settled on a law of its own, and it is not that of the SDE. {words}"
    if apart:
        return f"{seen}: SGD differs from the SDE, and still changes with η. {words}"
    return f"{seen}. So many replicas do not tell SGD at the lowest η from the SDE; they need not agree. {words}"


def _reference_section(study: Study, start: xr.Dataset, runs: Mapping[str, Any], roads: xr.Dataset) -> None:
    config = study.config
    section = study.report.section("The reference itself")
    rate, half = config["learning_rates"][0], config["tolerance"] / 2
    gaps = {
        family: compared(runs[family]["coarse"][rate], runs[family]["sde"][rate], start.attrs["loss"], paired=True)
        for family in FAMILIES
    }
    told = "; ".join(f"b = {batch_of(config, family, rate)}: {_largest_of_all(gap)}" for family, gap in gaps.items())
    section.verdict(
        all(judged(gap, half) == "agrees" for gap in gaps.values()),
        f"The SDE's own step does not decide: Euler at h = {2 * rate / config['substeps']:g} less that at half of it, "
        f"on the same Brownian paths: {told} (promised: within {half:.1%} by {SIGMAS:g} standard errors).",
    )
    section.verdict(
        float(roads["largest"]) < 1e-10,
        f"torchsde on the same increments ends {float(roads['largest']):.1e} from the weighted-backward Euler after "
        f"{_SHARED} steps in which weights move by {float(roads['moved']):.2g} (promised: 1e-10).",
    )


def check_rates(config: Mapping[str, Any]) -> None:
    """Times and batches that come out whole."""
    rates = config["learning_rates"]
    if any(b <= a for a, b in itertools.pairwise(rates)):
        raise ValueError(f"learning_rates must increase, got {rates}")
    each = config["time"] / config["saves"]
    for rate in rates:
        if abs(each / rate - round(each / rate)) > 1e-9 or round(each / rate) < 1:
            raise ValueError(
                f"time {config['time']:g} in {config['saves']} parts is not a whole number of steps of η = {rate:g}: "
                "change time or saves"
            )


def _check(config: Mapping[str, Any]) -> None:
    check_rates(config)
    low = config["learning_rates"][0]
    for rate in config["learning_rates"]:
        batch = config["batch_size"] * rate / low
        if abs(batch - round(batch)) > 1e-9 or round(batch) > config["samples"]:
            raise ValueError(
                f"η/b fixed gives b = {batch:g} at η = {rate:g}: it must be whole and at most {config['samples']}"
            )
    if config["fixed_batch_size"] > config["samples"]:
        raise ValueError(f"fixed_batch_size {config['fixed_batch_size']} is more than {config['samples']} samples")
    if config["substeps"] % 2:
        raise ValueError(f"substeps must be even, the check halves it, got {config['substeps']}")


EXPERIMENT = Experiment(
    "SGD against its stochastic differential equation",
    perform,
    {
        "learning_rates": Setting((0.05, 0.1, 0.2, 0.4, 0.8), "η, increasing", 1e-5, 10.0),
        "batch_size": Setting(2, "b at the lowest η, in proportion to η above", 1, SAMPLES),
        "fixed_batch_size": Setting(8, "b where it is the same for all", 1, SAMPLES),
        "time": Setting(16.0, "η × steps of each run", 1e-3, 1e6),
        "saves": Setting(5, "times at which the two are compared", 1, 100),
        "replicas": Setting(768, "runs of each", 8, 100_000),
        "substeps": Setting(4, "steps of the SDE in the lowest η, even", 2, 1000),
        "samples": Setting(128, "N, images trained on", 8, SAMPLES),
        "hidden": Setting(16, "hidden units of tiny-fc", 1, 256),
        "weight_decay": Setting(2e-3, "λ", 0.0, 1.0),
        "warm_up_time": Setting(40.0, "η × steps from the initialisation to the start of all runs", 0.0, 1e6),
        "warm_up_rate": Setting(0.1, "η of the warm-up", 1e-5, 10.0),
        "directions": Setting(4, "steepest directions of H at the start", 1, 50),
        "tolerance": Setting(0.05, "gap, as a share, that counts as describing", 1e-3, 1.0),
        "law_level": Setting(0.001, "of the test of the law", 1e-6, 0.1),
        "seed": Setting(0, "of everything", 0, 2**31),
    },
    quick={"replicas": 192, "learning_rates": [0.1, 0.2, 0.4, 0.8], "batch_size": 4},
    check=_check,
)
