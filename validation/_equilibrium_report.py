"""The report of the equilibrium: every figure beside the sentence that it supports."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.special import bdtr, bdtrc, stdtrit

from sde_sgd.report import Section, number
from sde_sgd.study import Study

from ._equilibrium_effects import (
    covered,
    disagreement_gap,
    excursions,
    fourths_ratio,
    gamma_error,
    last_quarter,
    late,
    mean_error,
    mixing_exponent,
    mixing_times,
    moved_share,
    spread_share,
    squares_ratio,
)
from ._equilibrium_laws import forgotten
from ._equilibrium_sentences import SMALL, less_than_independent, no_worse
from ._equilibrium_statistics import independent_disagreement
from ._report_figures import add_figure
from ._sentences import shown, student
from .equilibrium_figures import plot_descent, plot_mixing, plot_norm, plot_slow, plot_weights

_LEVEL = 0.05  # of the tests whose rejections are counted
_CHANCE = 1e-3  # below which a count is not put down to chance
_Z = 4.0
_EXACT = 1e-10
_NARROW = 0.25  # an interval of an exponent that tells 1 from 1/2 and 3/2
_SENSES = {
    "level": "to a squared distance of {level:g}",
    "integral": "integral over the first value",
    "test": "until p > 0.05 twice",
}


def seeds_for(values: Sequence[float], half: float) -> int:
    """The seeds after which values of this scatter have a 95 % interval of ± `half`: the least n with t s/√n ≤ half."""
    scatter, count = float(np.std(values, ddof=1)), 2
    while stdtrit(count - 1, 0.975) * scatter > half * np.sqrt(count):
        count += 1
    return count


def decided(section: Section, holds: bool | None, text: str, otherwise: str) -> None:
    """A verdict; or, where a run of this size cannot give one, why."""
    if holds is None:
        section.text(f"Not decided: {otherwise}")
    else:
        section.verdict(holds, text)


def report_toy(study: Study, runs: Sequence[xr.Dataset]) -> None:
    """Gradient descent on x²/(x² + y²)."""
    section = study.report.section("A loss of two weights")
    one = runs[0].attrs
    lowest = [float(late(run, "square", "decay").min()) / one["unstable_square"] for run in runs]
    restless = [float(late(run, "slope", "decay").max()) for run in runs]
    rest = [float(run["slope"].sel(run=kind)[-1]) for run in runs for kind in ("decay off", "no decay")]
    section.verdict(
        max(lowest) < 1 and min(restless) > 1e-3 and max(rest) < 1e-6,
        "Gradient descent with weight decay on x²/(x² + y²) never comes to rest: decay carries r² below η/(1 − ηλ) = "
        f"{one['unstable_square']:.4g}, where the minimum is unstable (the least r² of the last quarter over that: "
        f"{number(max(lowest))} at most), and |∇L| comes back to {number(min(restless))} or more. With the decay "
        f"turned off, or without any, it ends at |∇L| = {number(max(rest))} or less.",
    )


def report_descent(study: Study, runs: Sequence[xr.Dataset]) -> None:
    """Full-batch descent on the network; the figure shows the toy beside it."""
    section = study.report.section("The whole batch")
    one = runs[0].attrs
    counts = {kind: [excursions(run, kind) for run in runs] for kind in ("decay", "decay off", "no decay")}
    window = min(map(last_quarter, runs))
    decided(
        section,
        None if window < 1 else min(counts["decay"]) > 0 and max(counts["decay off"]) == max(counts["no decay"]) == 0,
        f"The same on {one['samples']} images, η = {one['learning_rate']:g}, λ = {one['weight_decay']:g}, no noise at "
        "all: within the last quarter the loss rises above three times its median "
        f"{', '.join(map(str, counts['decay']))} times (one number a seed) with decay, "
        f"{', '.join(map(str, counts['decay off']))} times after it is turned off and "
        f"{', '.join(map(str, counts['no decay']))} times where there was none. Where "
        "decay is turned off, what is left of an instability lengthens the weights, and nothing shortens them.",
        f"the last quarter of a run is {window:.2g}/(ηλ) steps, in which decay need not carry the weights to an "
        "instability. Take more descent_steps.",
    )
    rows = [[k, *(float(np.median(late(run, "loss", kind))) for kind in counts),
             *(float(late(run, "gradient_norm", kind).max()) for kind in counts)]
            for k, run in enumerate(runs)]  # fmt: skip
    names = [f"{what}, {kind}" for what in ("loss", "largest |∇f|") for kind in counts]
    section.table(
        ["seed", *names], rows, "Medians of the loss and the largest gradient in the last quarter of each run."
    )
    figure = plot_descent(study.results["/equilibrium/toy-" + str(study.config["seed"])], runs[0])
    add_figure(study, section, "descent", figure,
            "Decay shrinks the weights, curvature grows as 1/|w|², and past ηλ_max = 2(1 − ηλ) a minimum is unstable "
            "(dashed); a jump of the loss lengthens the weights again. Left the toy, right the network.",
            "Four curves against steps: squared norm and gradient of the toy, loss and curvature of the network",
    )  # fmt: skip


def report_same(study: Study, runs: Sequence[xr.Dataset]) -> None:
    """Runs that are one function, and runs that are not."""
    section = study.report.section("Weight decay as a growing learning rate")
    largest = {
        str(name): [float(run["difference"].sel(pair=name).max()) for run in runs] for name in runs[0]["pair"].values
    }
    exact = [name for name in largest if "," not in name or name.endswith(("μ = 0", "μ = 0.9"))]
    same, other = (max(max(largest[n]) for n in exact), min(min(v) for n, v in largest.items() if n not in exact))
    section.verdict(
        same < _EXACT and other > 1e-3,
        f"Over {runs[0].sizes['step'] - 1} steps of float64 the logits of the runs that are one function differ by "
        f"{number(same)} at most (promised: below {_EXACT:g}), those of the counterexamples by {number(other)} at "
        "least. "
        "Rounding is amplified from step to step, so that no such promise holds for long runs.",
    )
    section.table(
        ["runs", "one function", "largest difference of logits"],
        [[name, name in exact, max(values)] for name, values in largest.items()],
        "η with decay beside η_t = ηα^{−2t−1} without; (c²η, λ/c²) from cw beside (η, λ) from w; and what breaks them: "
        "half the exponent, a last layer that is trained, momentum from rest in place of u₋₁ = αw₋₁.",
    )


def report_norm(study: Study, balanced: Sequence[xr.Dataset], relaxing: Sequence[xr.Dataset]) -> None:
    """The steady norm in both forms, and γ on its way."""
    section = study.report.section("The norm")
    plain = [squares_ratio(run) for run in balanced]
    errors = [jackknife(run, squares_ratio) for run in balanced]
    worst = float(np.max(np.abs(np.array(plain) - 1) / np.array(errors)))
    gaps = [np.subtract(*fourths_ratio(run)) for run in balanced]
    gap_errors = [jackknife(run, lambda r: np.subtract(*fourths_ratio(r))) for run in balanced]
    worst_gap = float(np.max(np.abs(np.array(gaps)) / np.array(gap_errors)))
    section.verdict(
        worst < _Z and worst_gap < _Z,
        "E|w|² = ηE|g|²/(λ(2 − ηλ)) holds at every ηλ: the two sides, g of fresh mini-batches, are at most "
        f"{worst:.1f} standard errors apart. The published form, |w|⁴ = ηE|g_unit|²/(λ(2 − ηλ)), is off by what the "
        f"square of the norm's recursion tells, to {worst_gap:.1f} standard errors (allowed: {_Z:g}).",
    )
    published = [fourths_ratio(run) for run in balanced]
    rows = [[float(x), shown(p[k] for p in plain), shown(f[0][k] for f in published), shown(f[1][k] for f in published)]
            for k, x in enumerate(balanced[0]["intrinsic"].values)]  # fmt: skip
    section.table(
        ["ηλ", "E|w|² over its form", "E|w|⁴ over the published form", "the same, exactly"], rows,
        "Means ± 95 % intervals over seeds. The published form is the limit ηλ → 0; its error is ηλ(κ − 1) to first "
        "order, κ = E|g_unit|⁴/(E|g_unit|²)². With ηλ ≪ 1 the weights of each replica hold still while it averages.",
    )  # fmt: skip
    section.text(
        "γ = |w|⁴/η², whose inverse root is the effective learning rate, follows dγ/dt = −4λ_eγ + 2 Tr Σ̄ with the "
        "measured E|g_unit|² to a median of "
        f"{shown(100 * gamma_error(run) for run in relaxing)} %, over a start far from rest, η halved and η restored. "
        "E|g_unit|² contains the mean gradient, which at finite ηλ lengthens the weights as the noise does."
    )
    add_figure(study, section, "norm", plot_norm(balanced, relaxing[0]),
            "Left: γ of the replicas of one seed and its equation; it jumps where η does, and its equation relaxes at "
            "the rate 4ηλ. Right: the E|w|² form is exact, the |w|⁴ form a limit.",
            "γ against steps with its equation, and two ratios against ηλ")  # fmt: skip


def report_mixing(study: Study, own: Sequence[Sequence[xr.Dataset]], one_start: Sequence[Sequence[xr.Dataset]]) -> None:
    """Schedules that end with one ηλ, as functions: replicas from starts of their own, and from one a schedule."""
    section = study.report.section("What functions forget")
    config, everything = study.config, [one for ladder in own for one in ladder]
    due = int(_LEVEL * (1 + config["permutations"]) + 1e-9) / (1 + config["permutations"])  # p-values are multiples
    ends, starts = ([float(one["p_value"][k]) for one in everything] for k in (-1, 0))
    halves = np.concatenate([one["halves"].values for ladder in (*own, *one_start) for one in ladder])
    rejected, false = sum(p <= _LEVEL for p in ends), int((halves <= _LEVEL).sum())
    section.text(
        "Three schedules, with ηλ constant, four times as large and a quarter, come to the same ηλ in three different "
        "splits into η and λ, and go on. At test inputs the shares of the "
        f"{config['replicas']} replicas that predict each class are compared: ℓ₁ is their distance, from 0 to 2, and "
        "exchanges of replicas between ensembles tell what of it is chance. Every replica has a start of its own, as "
        "the trials of the source; in second ensembles all replicas of a schedule share one start, another for each "
        "schedule, so that memory of the start is a distance, too."
    )
    section.verdict(
        bool(min(bdtrc(false - 1, len(halves), due), bdtr(false, len(halves), due)) > _CHANCE),
        f"The null is of its size: of {len(halves)} tests between halves of one ensemble {false} reject at {_LEVEL:g} "
        f"({100 * false / len(halves):.1f} %, where {100 * due:.3g} % is due).",
    )
    later = [float(one["step"][-1]) * one.attrs["intrinsic"] for one in everything]
    decided(
        section,
        None if max(starts) > _LEVEL else bool(bdtrc(rejected - 1, len(ends), due) > _CHANCE),
        f"Ensembles that differ when they come to the same ηλ (p = {number(max(starts))} at most) are not told apart "
        f"{min(later):.3g} to {max(later):.3g}/(ηλ) steps later: {rejected} of {len(ends)} tests reject at "
        f"{_LEVEL:g}.",
        f"some ensembles are not told apart when they come to the same ηλ (p = {number(max(starts))}), so that there "
        "is nothing to forget. Take more replicas.",
    )
    _mixing_table(section, own, "Every replica from a start of its own.")
    _mixing_table(section, one_start, "One start for all replicas of a schedule, another for the next schedule.")
    level = everything[0].attrs["level"]
    slopes = {s: [mixing_exponent(ladder, s) for ladder in own] for s in _SENSES}
    section.text(
        "The time to mix, from own starts, goes as 1/(ηλ) to the power "
        + ", ".join(f"{shown(slopes[s])} ({words.format(level=level)})" for s, words in _SENSES.items())
        + ", where the source has 1 (± 95 % intervals over seeds; – where some ensembles did not mix, or were mixed "
        "from the start). A fixed distance is reached the sooner the less ensembles differ at first, and that may "
        "change with ηλ. The integral of the distance over its first value does not depend on it: 1/r where a "
        "distance falls as exp(−rt)."
    )
    if len(own) > 1 and np.isfinite(slopes["integral"]).all():
        section.text(
            f"The exponent of the integral scatters by {number(np.std(slopes['integral'], ddof=1))} from seed to seed; "
            f"it takes {seeds_for(slopes['integral'], _NARROW)} seeds to know it to ± {_NARROW:g}, and there are "
            f"{len(own)}."
        )
    late_tests = [float(one["p_value"][-1]) for ladder in one_start for one in ladder]
    memory = sum(p <= _LEVEL for p in late_tests)
    section.text(
        f"From one start a schedule {memory} of {len(late_tests)} tests reject at the end: "
        + (
            "some of these functions remember their start for longer than that."
            if bdtrc(memory - 1, len(late_tests), due) <= _CHANCE
            else "no more memory of the start than chance makes."
        )
    )
    add_figure(study, section, "mixing", plot_mixing(own),
            "Left: squared distance of predicted labels, mean over pairs and seeds, against steps · ηλ; dashed the "
            "distance that counts as mixed. Middle: ℓ₁ of one seed over the band of exchanges. Right: the time to mix "
            "in two senses, one point a seed, over lines of slope 1.",
            "Distances of ensembles falling with time, and mixing time against 1/(ηλ)")  # fmt: skip


def _mixing_table(section: Section, ladders: Sequence[Sequence[xr.Dataset]], caption: str) -> None:
    rows = []
    for several in zip(*ladders):
        x = several[0].attrs["intrinsic"]
        columns = [[float(one["distance"][k]) for one in several] for k in (0, -1)]
        columns.append([float(one["null_mean"][-1]) for one in several])
        columns.append([float(one["squared"].mean("pair")[-3:].mean()) for one in several])
        columns += [[mixing_times(one)[sense] * x for one in several] for sense in _SENSES]
        rows.append([x, *map(shown, columns)])
    level = ladders[0][0].attrs["level"]
    senses = [f"time · ηλ {words.format(level=level)}" for words in _SENSES.values()]
    section.table(
        ["ηλ", "ℓ₁ at first", "ℓ₁ at the end", "by chance", "squared, at the end", *senses],
        rows,
        f"{caption} Means ± 95 % intervals over seeds. The squared distance is without the bias of finite ensembles.",
    )


def report_weights(study: Study, ladders: Sequence[Sequence[xr.Dataset]]) -> None:
    """What the weights remember; averages; disagreement."""
    section = study.report.section("What weights remember")
    averages, apart, distances = [], [], []
    for several in zip(*ladders):
        x = several[0].attrs["intrinsic"]
        end = float(several[0]["lag"][-1])
        single = [float(one["error"].mean()) for one in several]
        kinds = ("error", "error_within", "error_across", "error_stranger", "error_strangers")
        averages.append([x, *(shown(float(one[name].mean()) for one in several) for name in kinds)])
        apart.append([x, *(shown(values) for values in (
            [float(one["disagreement"]) for one in several], [float(one["disagreement_strangers"]) for one in several],
            [independent_disagreement(e) for e in single], [disagreement_gap(one) for one in several]))])  # fmt: skip
        distances.append([x, end * x, shown(float(moved_share(one)[-1]) for one in several), float(forgotten(end, x)),
                          *(shown(map(share, several)) for share in (spread_share, covered))])  # fmt: skip
    count = study.config["average"]
    section.table(
        ["ηλ", "single states", "mean within a run", "mean across runs", "single states, own starts",
         "mean across starts"],
        averages,
        f"Test errors of single states and of the mean of {count} of them: of one run, of runs from one start, and of "
        "runs with starts of their own. Means ± 95 % intervals over seeds.",
    )  # fmt: skip
    section.table(
        ["ηλ", "disagreement, one start", "own starts", "2e(1 − e)", "one start less 2e(1 − e)"],
        apart,
        "The share of test inputs on which two replicas differ, beside that of independent errors.",
    )
    gaps = [less_than_independent(several) for several in zip(*ladders)]
    said = {"seen": "disagree less", "not seen": "disagree no less", "undecided": "may or may not disagree less"}
    section.text(
        "Beside networks whose errors are independent of each other and of the input two replicas of one start "
        + ", ".join(f"{said[gap.verdict]} at ηλ = {row[0]:g}" for gap, row in zip(gaps, apart))
        + ". Less means that the same inputs are hard for both. With more than two classes independent errors differ "
        "on a little more, up to 2e − e²."
    )
    section.table(
        ["ηλ", "Δ · ηλ", "|w(T+Δ) − w(T)|²/2|w|²", "decay alone", "tr S/|w|² over replicas", "share of 2 tr S"],
        distances,
        "The distance that one run covers, beside that of weights which remember nothing but their decay, and the "
        "plateau 2 tr S, S the covariance over replicas of one start.",
    )
    shares = [student([covered(one) for one in several]) for several in zip(*ladders)]
    short = all(share.high < 1 for share in shares)
    reach = any(share.low >= 1 for share in shares)
    decided(
        section,
        True if short else False if reach else None,
        f"A run does not reach the plateau of replicas: at the longest lag it has covered "
        f"{min(share.mean for share in shares):.2f} to {max(share.mean for share in shares):.2f} of 2 tr S, at 95 % "
        f"{max(share.high for share in shares):.2f} at most.",
        "the intervals of |w(T+Δ) − w(T)|² over 2 tr S reach to both sides of 1. Take more seeds.",
    )
    add_figure(study, section, "weights", plot_weights(ladders),
            "Left: how far weights move, dashed the plateau of replicas. Right: averages of weights within one run, "
            "across runs from one start and across starts; bars are 95 % intervals over seeds.",
            "Distance against lag, and four test errors against ηλ")  # fmt: skip


def report_slow(study: Study, runs: Sequence[xr.Dataset]) -> None:
    """A small learning rate, given time."""
    section = study.report.section("A small learning rate, given time")
    ends = {str(arm): [mean_error(run, arm) for run in runs] for arm in runs[0]["arm"].values}
    steps, answer = int(runs[0]["step"][-1]), no_worse(runs)
    said = {
        "seen": f"without a large η first it is not worse by {SMALL:g}",
        "not seen": f"without a large η first it is worse by {SMALL:g} or more",
        "undecided": f"that does not tell whether it is worse by {SMALL:g} without a large η first",
    }
    section.text(
        f"η smaller by {study.config['slow_factor']:g}, from the start or after 3/(ηλ) steps at the large one: after "
        f"{steps} steps, {steps * runs[0].attrs['intrinsic']:.3g}/(ηλ) of the small η, the test error is "
        f"{shown(ends['small throughout'])} and {shown(ends['large first'])}, the difference "
        f"{number(answer.interval.mean)}, at 95 % from {number(answer.interval.low)} to "
        f"{number(answer.interval.high)}: {said[answer.verdict]}."
    )
    add_figure(study, section, "slow", plot_slow(runs),
            "Test error of both arms at the small learning rate; bands are the range over seeds.",
            "Two curves of test error against steps times ηλ")  # fmt: skip


def jackknife(run: xr.Dataset, statistic: Callable[[xr.Dataset], NDArray]) -> NDArray[np.float64]:
    """The standard error of a statistic of replicas, from leaving out one at a time."""
    count = run.sizes["replica"]
    kept = [statistic(run.isel(replica=[k for k in range(count) if k != left])) for left in range(count)]
    return np.sqrt((count - 1) / count * np.square(kept - np.mean(kept, axis=0)).sum(axis=0))
