"""What the sources say of optimisers, answered by the effects that the experiment measures, one per seed."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from ._optimisers_runs import ADAPTIVE
from ._sentences import Answer, asked

_INF = float("inf")
_ENTROPY_SGD = "Chaudhari et al. (2017, Entropy-SGD), abstract"


def answers(
    config: Mapping[str, Any],
    *,
    ends: Mapping[str, xr.Dataset],
    across: Sequence[xr.Dataset],
    within: Sequence[xr.Dataset],
    between: xr.Dataset,
    tuned: xr.Dataset,
    ranges: Sequence[xr.Dataset],
    cycled: Sequence[xr.Dataset],
    joined: xr.Dataset,
    learnt: Sequence[xr.Dataset],
    least: Sequence[xr.Dataset],
    tested: int,
) -> list[Answer | str]:
    """One answer per sentence for which the optimisers were run; `tested` samples tell errors apart by one of them."""
    names, seeds, grain = list(ends), range(len(across)), 1 / tested
    found: list[Answer | str] = [*_between(across, within, between, len(seeds), grain), _spectrum(ends)]

    def over_sgd(name: str, quantity: str) -> list[float]:
        return [float(v) for v in ends[name][quantity] - ends["sgd"][quantity]]

    def ratio(name: str, quantity: str) -> list[float]:
        return [float(np.log(v)) for v in ends[name][quantity] / ends["sgd"][quantity]]

    present = [name for name in ADAPTIVE if name in names]
    if present:
        found.append(Answer(
            "Wilson et al. (2017), §4", "adaptive methods generalise worse than SGD",
            [float(np.mean(v)) for v in zip(*(over_sgd(n, "test_error") for n in present))], (0.0, _INF),
            measure="test error of " + ", ".join(present) + " less that of SGD", resolution=grain,
        ))  # fmt: skip
    for name, source in (
        ("entropy-sgd", _ENTROPY_SGD),
        ("parle", "Chaudhari et al. (2017, Parle), abstract"),
    ):
        if name not in names:
            continue
        found.append(Answer(source, f"{name} ends in flatter places than SGD: its largest curvature is smaller",
                            ratio(name, "hessian_top"), (-_INF, 0.0), measure="log ratio of λ_max(H)"))  # fmt: skip
        found.append(Answer(source, f"{name} generalises at least as well as SGD", over_sgd(name, "test_error"),
                            (-_INF, 0.005), measure="test error less SGD's, half a per cent granted",
                            resolution=grain))  # fmt: skip
        wide = [float(v) for v in (ends[name]["local_entropy"] - ends["sgd"]["local_entropy"]).isel(spread=-1)]
        found.append(asked(
            source, f"{name} ends where the local entropy is better (f_γ lower) than where SGD ends", wide,
            (-_INF, 0.0), f"f_γ less that of SGD at σ = {config['spreads'][-1]:g}",
        ))  # fmt: skip
    if "svrg" in names:
        found.append(Answer(
            "Johnson & Zhang (2013), §2", "the variance of SVRG's steps is smaller than that of SGD's",
            [float(np.log(v)) for v in ends["svrg"]["svrg_noise"]], (-_INF, 0.0),
            measure="log of tr Cov(∇f_k(w) − ∇f_k(w̃))/tr D at its end, w̃ an epoch before",
        ))  # fmt: skip
    flips = [float(s["error"].sel(which="largest local entropy") / s["error"].sel(which="mean") - 1) for s in learnt]
    found.append(Answer("Baldassi et al. (2015)", "solutions in dense regions generalise better than typical ones",
                        flips, (-_INF, 0.0),
                        measure="test error at the largest local entropy over the mean, less 1"))  # fmt: skip
    return [*found, _range(tuned, ranges), *_cycles(cycled, joined, seeds, grain), *_least_norm(least, ADAPTIVE)]


def carried(end: xr.Dataset, matrix: str) -> NDArray:
    """The share of the trace of "hessian" or "noise" that the largest eigenvalues have that are kept, per seed."""
    return (end[matrix].sum("index") / end[f"{matrix}_trace"]).values


def _spectrum(ends: Mapping[str, xr.Dataset]) -> Answer:
    some = next(iter(ends.values()))
    errors = [abs(end["hessian_trace_error"] / end["hessian_trace"]).values for end in ends.values()]
    return Answer(
        _ENTROPY_SGD, "where training ends nearly all eigenvalues of H are almost 0, and a few are large",
        np.mean([carried(end, "hessian") for end in ends.values()], axis=0), (0.5, _INF),
        measure=f"share of tr H that its {some.sizes['index']} largest eigenvalues have, mean over optimisers",
        resolution=2 * float(np.mean(errors)),
    )  # fmt: skip


def _range(tuned: xr.Dataset, ranges: Sequence[xr.Dataset]) -> Answer:
    """The rate chosen for SGD is known to half the way to its neighbours on offer; at an edge of the offer it is known
    from one side only, and may lie anywhere on the other.
    """
    offered, rate = np.log(tuned["rate"].values), np.log(tuned.attrs["rate"])
    width = [np.log(max(run.attrs["high"] / run.attrs["low"], 1.001)) for run in ranges]
    place = [(rate - np.log(run.attrs["low"])) / w for run, w in zip(ranges, width)]
    first, last = (tuned.attrs["rate"] == tuned["rate"].values[edge] for edge in (0, -1))

    def between(low: float, high: float) -> bool | None:
        low, high = -_INF if first else low, _INF if last else high
        return True if low > 0 and high < 1 else False if high <= 0 or low >= 1 else None

    return Answer(
        "Smith (2017), §3.1", "the best constant rate lies between the bounds that the range test gives", place,
        between, measure="ln(η of SGD/low)/ln(high/low), η the best of those on offer",
        resolution=float(np.diff(offered).max() / 2 / np.mean(width)) if len(offered) > 1 else 1.0,
    )  # fmt: skip


def _median(parts: Iterable[xr.Dataset], effect) -> list[float]:
    return [float(np.median(effect(part))) for part in parts]


def _excess(part: xr.Dataset, name: str = "test_loss", of: str = "mean") -> np.ndarray:
    return (part[f"{name}_average"] - part[f"{name}_{of}"]).values


def _kinds(part: xr.Dataset, mixed: bool) -> xr.Dataset:
    """The pairs "a | b" of which one is adaptive and the other is not, or those that are of one kind."""
    adaptive = [[name in ADAPTIVE for name in str(pair).split(" | ")] for pair in part["pair"].values]
    return part.isel(pair=[k for k, (one, other) in enumerate(adaptive) if (one != other) == mixed])


def pseudo_values(pairs: Mapping[tuple[int, int], float], seeds: int) -> list[float]:
    """One number per seed from one per pair of seeds, since pairs that share a seed are not independent.

    n Ū − (n − 1) Ū₋ₛ, Ū the mean over pairs and Ū₋ₛ that without those of the seed s: the jackknife's (Miller 1974),
    whose mean is Ū and whose variance is on the average not too small (Efron & Stein 1981). Ū alone for two seeds.
    """
    whole = float(np.mean(list(pairs.values())))
    if seeds < 3:
        return [whole]
    without = [float(np.mean([value for pair, value in pairs.items() if s not in pair])) for s in range(seeds)]
    return [seeds * whole - (seeds - 1) * one for one in without]


def of_starts(between: xr.Dataset, seeds: int, effect) -> list[float]:
    """Of two starts the median over optimisers, as a number per seed."""
    found = {}
    for s, t in itertools.combinations(range(seeds), 2):
        mine = [k for k, pair in enumerate(between.pair.values) if pair.endswith(f", seeds {s} and {t}")]
        found[s, t] = float(np.median(effect(between.isel(pair=mine))))
    return pseudo_values(found, seeds)


def _between(across, within, between: xr.Dataset, seeds: int, grain: float) -> list[Answer]:
    both = [(_kinds(part, True), _kinds(part, False)) for part in across]
    split = all(part.sizes["pair"] for pair in both for part in pair)

    def by_kind(effect) -> dict[str, Any]:
        """The effect between kinds, and otherwise within one; of all pairs where there is only one kind."""
        if not split:
            return {"effect": _median(across, effect)}
        return {"effect": _median([mixed for mixed, _ in both], effect),
                "otherwise": _median([alike for _, alike in both], effect),
                "condition": "one of the two is adaptive and the other is not"}  # fmt: skip

    return [
        Answer("Im et al. (2016)", "from one start, different optimisers end in different basins", holds=(0.0, _INF),
               measure="highest training loss between two optimisers less that of the higher end, median",
               **by_kind(lambda part: part["rise"].values)),
        Answer("Liao & Poggio (2017)", "within a basin the average of two solutions is no worse than they are",
               _median(within, _excess), (-_INF, 0.0),
               measure="median test loss of the average of two branches less the mean of theirs",
               condition="they are branches of one end", otherwise=of_starts(between, seeds, _excess)),
        Answer("Liao & Poggio (2017)", "between basins the average is worse than the worse of the two",
               of_starts(between, seeds, lambda part: _excess(part, "test_error", "worst")), (0.0, _INF),
               measure="median test error of the average of two starts' ends less the larger of theirs, jackknife",
               resolution=grain),
        Answer("Liao & Poggio (2017)", "the ends of different optimisers from one start average like two basins",
               holds=(0.0, _INF), measure="median test error of the average less the larger of theirs",
               resolution=grain,
               **by_kind(lambda part: _excess(part, "test_error", "worst"))),
    ]  # fmt: skip


def _cycles(cycled: Sequence[xr.Dataset], joined: xr.Dataset, seeds, grain: float) -> list[Answer]:
    gain = [float(run["test_error"].sel(kind="cyclic") - run["test_error"].sel(kind=["low", "high"]).min())
            for run in cycled]  # fmt: skip
    loops, rises, better = [], [], []
    for seed, run in zip(seeds, cycled):
        last = run.isel(time=run["time"].values >= run["time"].values[-1] - run.attrs["cycle_epochs"] - 1e-9)
        loss, top = last["loss"].sel(kind="cyclic").values, int(last["cyclic_rate"].values.argmax())
        loops.append(float(np.log(loss[top] / max(loss[0], loss[-1]))))
        mine = joined.isel(pair=[k for k, p in enumerate(joined.pair.values) if p.startswith(f"seed {seed},")])
        rises.append(float(np.median(mine["rise"])))
        better.append(float(np.median(_excess(mine, "test_error"))))
    return [
        Answer("Smith (2017), §4", "cyclic rates reach at least the accuracy of constant rates in as many steps",
               gain, (-_INF, 0.005), measure="test error of cycles less the smaller of both ends', half a per cent "
               "granted", resolution=grain),
        Answer("Smith & Topin (2017)", "in a cycle the loss is higher at its large rates, and falls back after",
               loops, (0.0, _INF),
               measure="log of the loss at the largest rate over the larger of those at the ends of the last cycle"),
        Answer("Smith & Topin (2017)", "ends of consecutive cycles are different minima, with a barrier between",
               rises, (0.0, _INF),
               measure="highest training loss between consecutive cycles' ends less that of the higher end, median"),
        Answer("Smith & Topin (2017)", "averages of the ends of cycles are better than the ends",
               better, (-_INF, 0.0), measure="median test error of the average less the mean of both",
               resolution=grain),
    ]  # fmt: skip


def _least_norm(least: Sequence[xr.Dataset], adaptive: Sequence[str]) -> list[Answer]:
    def away(optimiser: str, start: str) -> list[float]:
        return [float(f["from_least"].sel(optimiser=optimiser, start=start)) for f in least]

    def off(start: str) -> list[float]:
        return [float(f["off"].sel(optimiser=list(adaptive), start=start).min()) for f in least]

    return [
        Answer("Zhang et al. (2017), §5", "SGD on a linear model ends at the solution of least norm",
               away("sgd", "0"), (-0.02, 0.02), measure="|w − X⁺y|/|X⁺y|",
               condition="it starts in the span of the samples, as from 0", otherwise=away("sgd", "random")),
        Answer("Wilson et al. (2017), §3", "adaptive methods end at other solutions than SGD, from 0 too",
               off("0"), (0.01, _INF), measure="smallest share of the way off the span of the samples"),
    ]  # fmt: skip
