"""The report of the experiment `optimisers`: where each optimiser ends, and what lies between the ends."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from sde_sgd.study import Study

from . import optimisers_figures as figures
from ._optimisers_answers import carried, of_starts
from ._sentences import shown

PUBLISHED = (
    "--data mnist --directory FOLDER --network small-lenet --epochs 100 --batch-size 128 --curvature-samples 2000"
)
Runs = Mapping[tuple[str, int], xr.Dataset]
_COLUMNS = {
    "train_loss": "training loss", "test_error": "test error", "norm": "|w|", "distance": "|w − w₀|",
    "hessian_top": "λ_max(H)", "hessian_trace": "tr H", "noise_top": "λ_max(D)", "noise_trace": "tr D",
    "noise_participation": "(tr D)²/tr D²",
}  # fmt: skip


def by_optimiser(names: Sequence[str], runs: Runs, entropies: Sequence[xr.Dataset]) -> dict[str, xr.Dataset]:
    """The measurements of each optimiser over `seed`, its local entropies with them."""
    found = {}
    for name in names:
        parts = [xr.merge([runs[name, s], one.sel(optimiser=name, drop=True)]) for s, one in enumerate(entropies)]
        found[name] = xr.concat(parts, "seed")
    return found


def cell(values: Iterable[float]) -> str:
    """Mean ± half the 95 % interval over seeds; where a chain has none, "not settled"."""
    return shown(values, "not settled")


def reproduction(study: Study) -> None:
    """What would be run on the data of the sources, and why these figures are no comparison with theirs."""
    config = study.config
    section = study.report.section("What is compared, and what is not")
    section.text(
        f"Data: {config['data']}; network {config['network']} without batch norm; batches of "
        f"{config['batch_size']}, reshuffled. Published figures on MNIST and CIFAR are of "
        f"other {'data, ' if config['data'] == 'digits' else ''}networks and settings, and nothing here is a "
        "comparison with them. The nearest setting that this experiment takes is\n\n"
        f"sde-sgd run optimisers {PUBLISHED}"
    )
    section.text(
        "All optimisers start from the same weights and see as many mini-batches; each has that learning rate on offer "
        "whose highest training loss in the last half of a short run, from another start, is the lowest. Parle and "
        "Elastic-SGD take that many batches per replica, so that they see more data: the column of gradients counts "
        "them all. Intervals are Student's t over seeds, each a start and an order of the data of its own."
    )


def ends_section(study: Study, ends: Mapping[str, xr.Dataset], runs: Runs, tuned: Mapping[str, xr.Dataset]) -> None:
    section = study.report.section("Where they end")
    rows = []
    for name, found in ends.items():
        rates = tuned[name]["rate"].values
        edge = " (edge of the offer)" if tuned[name].attrs["rate"] in (rates[0], rates[-1]) else ""
        rows.append([name, f"{tuned[name].attrs['rate']:g}{edge}", runs[name, 0].attrs["gradients_per_sample"],
                     *(cell(found[key].values) for key in _COLUMNS)])  # fmt: skip
    section.table(["optimiser", "η", "gradients per sample", *_COLUMNS.values()], rows,
                  "Means over seeds ± half the 95 % interval. H and D of the mean loss at the end.")  # fmt: skip
    shown = {k: _COLUMNS[k] for k in ("test_error", "norm", "hessian_top", "noise_trace")}
    figure = figures.plot_ends(ends, shown)
    study.figures["ends"] = figure
    section.figure(figure, "Ends of all optimisers from the same starts; a point per seed, a bar for the mean.",
                   "Four panels of points per optimiser: test error, norm, top curvature and noise trace")  # fmt: skip


def spectra_section(study: Study, ends: Mapping[str, xr.Dataset], runs: Runs) -> None:
    section = study.report.section("Spectra at the ends")
    some = next(iter(ends.values()))
    kept, weights = some.sizes["index"], next(iter(runs.values())).sizes["weight"]
    parts = []
    for matrix, letter in (("hessian", "H"), ("noise", "D")):
        shares = {name: carried(end, matrix) for name, end in ends.items()}
        ranked = sorted(shares, key=lambda name: float(shares[name].mean()))
        parts.append(f"from {shown(shares[ranked[0]])} ({ranked[0]}) to {shown(shares[ranked[-1]])} ({ranked[-1]}) of "
                     f"tr {letter}")  # fmt: skip
    section.text(
        f"The {kept} largest of {weights} eigenvalues have {' and '.join(parts)}, ± half the 95 % interval over seeds; "
        "tr H is estimated by random vectors, and negative eigenvalues count in it."
    )
    figure = figures.plot_spectra(ends)
    study.figures["spectra"] = figure
    section.figure(figure, f"The {kept} largest eigenvalues of H and of D at the ends, means over seeds.",
                   "Eigenvalues against their rank on a logarithmic axis, a line for each optimiser")  # fmt: skip


def flatness_section(study: Study, ends: Mapping[str, xr.Dataset]) -> None:
    section = study.report.section("Local entropy of the ends")
    spreads = np.asarray(study.config["spreads"])
    section.text(
        "f_γ(w) = −T log E exp(−f(w + σz)/T) with T = 1/n, so that e^{−f/T} is the likelihood of n samples, and "
        "σ = √(γT); sampled by chains along a ladder of strengths of the loss. f_γ = ⟨f⟩ + T·KL: how high the "
        "neighbourhood lies, and how narrow it is. σ is one number for all weights: a network whose weights are "
        "larger, and whose layers could be rescaled without changing what it computes, looks wider at the same σ. As "
        "many mini-batches bring the optimisers to different losses, which f_γ contains: f_γ − f sets that aside."
    )
    rows = []
    for name, found in ends.items():
        for k, spread in enumerate(spreads):
            at = found.isel(spread=k)
            rows.append([
                name, float(spread), cell(at["local_entropy"].values),
                f"{float(np.sqrt((at['local_entropy_error'] ** 2).mean())):.1g}", cell(at["mean_loss"].values),
                cell(at["information"].values), cell((at["local_entropy"] - at["loss"]).values),
            ])  # fmt: skip
    section.table(["optimiser", "σ", "f_γ", "sampling error", "⟨f⟩", "KL, nats", "f_γ − f"], rows,
                  "Local entropy and its parts, ± half the 95 % interval over seeds.")  # fmt: skip
    figure = figures.plot_local_entropies(ends)
    study.figures["local-entropy"] = figure
    section.figure(figure, "Local entropy against the scope (two standard errors over seeds), and its two parts.",
                   "Local entropy by optimiser against spread, and narrowness against mean loss")  # fmt: skip


def pair_table(names: Sequence[str], found: xr.Dataset, quantity: str) -> NDArray:
    """(n, n) of what `lines` found for pairs named "a | b"."""
    table = np.full((len(names), len(names)), np.nan)
    for i, j in itertools.combinations(range(len(names)), 2):
        table[i, j] = table[j, i] = float(found[quantity].sel(pair=f"{names[i]} | {names[j]}"))
    return table


def lines_section(
    study: Study, names: Sequence[str], across: Sequence[xr.Dataset], within: Sequence[xr.Dataset],
    between: xr.Dataset,
) -> None:  # fmt: skip
    """Barriers and averages: of optimisers from one start, of two branches of one end, of different starts."""
    section = study.report.section("Between the ends")
    barrier = np.mean([pair_table(names, found, "barrier") for found in across], axis=0)
    figure = figures.plot_pairs(names, barrier, "barrier in training loss").figure
    study.figures["barriers"] = figure
    section.figure(
        figure, "Highest training loss on the segment between the ends of two optimisers from the same start, less the "
        "higher of both ends: mean over seeds. 0: no barrier.",
        "A table of barriers between optimisers in colours",
    )  # fmt: skip
    rows = []
    kinds = {
        "one start, two optimisers": lambda key: [float(part[key].median()) for part in across],
        "one end, two branches": lambda key: [float(part[key].median()) for part in within],
        "two starts, one optimiser": lambda key: of_starts(between, len(across), lambda part: part[key].values),
    }
    for label, numbers in kinds.items():
        rows.append([label, *(cell(numbers(key)) for key in ("apart", "barrier", "test_error_average",
                    "test_error_mean", "test_error_worst", "test_loss_average", "test_loss_mean"))])  # fmt: skip
    section.table(
        ["pairs", "|w₁ − w₂|", "barrier", "error of the average", "mean of the errors", "worst error",
         "loss of the average", "mean of the losses"], rows,
        "Medians over pairs, then mean over seeds ± half the 95 % interval, for pairs of starts by the jackknife; "
        "errors and losses on the test set.",
    )  # fmt: skip
    rises = np.array([part["rise"].values for part in within])
    section.text(
        "A branch is some more epochs from the end, on batches of its own: "
        f"{np.mean(rises <= 0):.0%} of these segments rise nowhere above their higher end, and the highest barrier on "
        f"one is {max(rises.max(), 0.0):.2g}. Ends from different starts differ in the order of hidden units, too, so "
        "that their average is not one of comparable networks."
    )


def range_section(
    study: Study, tuned: xr.Dataset, ranges: Sequence[xr.Dataset], cycles: Sequence[xr.Dataset], joined: xr.Dataset
) -> None:
    section = study.report.section("Learning-rate range test, and cycles")
    lows, highs, others, tops = ([run.attrs[k] for run in ranges] for k in ("low", "high", "loss_low", "loss_high"))
    inside = sum(low <= tuned.attrs["rate"] <= high for low, high in zip(lows, highs))
    section.text(
        "Plain SGD while η rises in a straight line. As in the source, the range for cycles is read off the test "
        "accuracy, from where it starts to rise to where that slows: a tenth and nine tenths of the rise (dotted, "
        f"dashed), {cell(lows)} to {cell(highs)}; off the training loss it would be {cell(others)} to {cell(tops)}. "
        f"The η that was chosen for SGD, {tuned.attrs['rate']:g}, lies in the range of {inside} of {len(ranges)} seeds."
    )
    figure = figures.plot_range_test(ranges)
    study.figures["range-test"] = figure
    section.figure(figure, "The range test of each seed; right, the curvature that the rising rate leaves, beside 2/η.",
                   "Loss, accuracy and top curvature against a rising learning rate")  # fmt: skip
    errors = {kind: [float(run["test_error"].sel(kind=kind)) for run in cycles] for kind in ("cyclic", "low", "high")}
    section.table(["learning rate", "test error at the end"], [[k, cell(v)] for k, v in errors.items()],
                  "Cycles between both rates, and constant rates, for as long.")  # fmt: skip
    figure = figures.plot_cycles(cycles[0])
    study.figures["cycles"] = figure
    section.figure(figure, "Loss of seed 0 along cycles and constant rates; right, the last cycle's loss against η.",
                   "Loss curves of cyclic and constant rates, and a loop of loss against rate")  # fmt: skip
    if joined.sizes["pair"]:
        section.table(
            ["pair", "|w₁ − w₂|", "barrier", "error of the average", "mean of the errors"],
            [[str(p), *(float(joined[k].sel(pair=p)) for k in
                        ("apart", "barrier", "test_error_average", "test_error_mean"))] for p in joined.pair.values],
            "The segment between the ends of consecutive cycles.",
        )  # fmt: skip


def toys_section(study: Study, valleys: xr.Dataset, task: xr.Dataset, students: Sequence[xr.Dataset]) -> None:
    section = study.report.section("Where everything is known: two valleys and a binary perceptron")
    gap = float(np.abs(valleys["local_entropy"] - valleys["exact"]).max())
    over, scopes = valleys["sharp_over_wide"].values, np.log(valleys["gamma"].values)
    first = int(np.argmax(over > 0))  # beyond it the difference need not grow
    crossing = np.interp(0.0, over[first - 1 : first + 1], scopes[first - 1 : first + 1])
    section.verdict(
        gap < 1e-9,
        f"local_entropy of two valleys is the closed form to {gap:.1g}. The sharp valley, deeper by ½, lies higher in "
        f"f_γ from γ ≈ {np.exp(crossing):.3f} on.",
    )
    section.table(
        ["γ", "f_γ(sharp) − f_γ(wide)", "descent on f_γ from the sharp floor ends at", "Entropy-SGD in the wide one"],
        [[float(g), float(at["sharp_over_wide"]), float(at["descent"]), float(at["share"])]
         for g, at in ((g, valleys.sel(gamma=g)) for g in valleys["gamma"].values)],
        "Inner chains at the temperature 1, that of e^{−f}; 200 runs each.",
    )  # fmt: skip
    lower, at = valleys["sharp_over_wide"].values > 0, valleys["descent"].values
    held, left = valleys["gamma"].values[lower & (at > 0)], valleys["gamma"].values[lower & (at < 0)]
    section.verdict(
        bool(len(held) and len(left) and held.max() < left.min()),
        "That the wide valley is lower in f_γ is not enough for descent to leave the sharp one, the barrier between "
        f"them has to go as well: it stays at γ = {', '.join(f'{g:g}' for g in held) or 'none'} and leaves at "
        f"γ = {', '.join(f'{g:g}' for g in left) or 'none'}.",
    )
    figure = figures.plot_valleys(valleys)
    study.figures["valleys"] = figure
    section.figure(figure, "A wide valley and a deeper sharp one under local entropy.",
                   "A double well and its smoothed versions; differences against the scope")  # fmt: skip
    same = float(np.abs(task["local_entropy"] - task["by_passes"]).max())
    sigma = np.sqrt(task["survival"] * (1 - task["survival"]) / task.attrs["trials"])
    z = float((np.abs(task["stayed"] - task["survival"]) / sigma).max())
    low, high = task["local_entropy"].values
    section.verdict(
        bool(same < 1e-9 and z < 5 and high > low),
        f"A binary perceptron of 15 weights and 10 patterns has {task.attrs['solutions']} solutions; one is alone "
        f"within two flips, S_γ = {low:.4f}, one lies densely, S_γ = {high:.4f}, and the training error is 0 at both. "
        f"Lists and passes over all 2¹⁵ weights agree to {same:.1g}; random flips leave them solutions as often as "
        f"local entropy says ({z:.1f} standard errors at most, allowed: 5).",
    )
    figure = figures.plot_perceptron(task).figure
    study.figures["perceptron"] = figure
    section.figure(figure, "Solutions around both.", "Two steps of cumulative counts against distance")
    section.table(["solution", "test error"],
                  [[str(w), cell([float(s["error"].sel(which=w)) for s in students])]
                   for w in students[0]["which"].values],
                  "Exact test errors, means over random teachers of 11 weights and 6 patterns.")  # fmt: skip


def spans_section(study: Study, found: Sequence[xr.Dataset], adaptive: Sequence[str]) -> None:
    section = study.report.section("Which solution of a linear model")
    names = [str(n) for n in found[0]["optimiser"].values]
    others = [n for n in names if n not in adaptive]
    kept = max(float(f["off"].sel(optimiser=others).max()) for f in found)
    left = min(float(f["off"].sel(optimiser=list(adaptive)).min()) for f in found)
    section.verdict(
        bool(kept < 1e-12 < 1e-2 < left),
        f"With fewer samples than weights, {', '.join(others)} never leave w₀ + span of the samples (at most "
        f"{kept:.1g} of the way), so that what they converge to is X⁺y + (I − X⁺X)w₀; {', '.join(adaptive)} do (at "
        f"least {left:.2g}), and end elsewhere, from 0 too.",
    )
    figure = figures.plot_spans(names, np.array([f["off"].sel(start="0").values for f in found])).figure
    study.figures["spans"] = figure
    section.figure(figure, "The share of the way that leaves the span, from w₀ = 0; dashed, rounding.",
                   "Points on a logarithmic axis for each optimiser")  # fmt: skip
    rows = [[n, *(cell([float(f[k].sel(optimiser=n, start=s)) for f in found])
                  for k, s in (("off", "0"), ("residual", "0"), ("norm", "0"), ("norm", "random"), ("gap", "random")))]
            for n in names]  # fmt: skip
    section.table(
        ["optimiser", "off the span", "|Xw − y|/|y|", "|w|/|X⁺y| from 0", "from a random start", "gap to prediction"],
        rows, "The last column is |w − X⁺y − (I − X⁺X)w₀|/|X⁺y|, which is not smaller than what is still to converge.",
    )  # fmt: skip
