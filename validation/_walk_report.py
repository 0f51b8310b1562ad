"""The report of the walk: tables 1 and 2 of the source, its figures in our form, and what corrects them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from scipy.special import stdtr

from sde_sgd.study import Study

from ._report_figures import add_figure
from ._sentences import shown, student
from ._walk_floors import Joined, joined
from ._walk_runs import NOISES, SCHEDULES, deviations, epoch_of
from ._walk_sentences import finished, height, late, of_epoch
from ._walk_valley import APART, RIPPLE, WALL
from .walk_figures import plot_floors, plot_heights, plot_rest, plot_series, plot_valley, plot_walk

_BARRIERS = {"vgg-11": "0, 0, 5, 13", "resnet": "0, 0, 2, 23 (56 layers)", "mlp": "0, 3, 5, – (MNIST)"}
_HEIGHTS = {
    ("vgg-11", "sgd"): "η = .1: .0625 .0199 .0104 .0025",
    ("vgg-11", "half"): "η = .05: .0102 .0050 .0035 .0011",
    ("resnet", "sgd"): "η = .3: .0380 .0131 .0094 .0017",
    ("resnet", "half"): "η = .15: .0084 .0034 .0020 .0013",
}
_EPOCHS = "published: epochs 1, 10, 25, 100 on CIFAR-10, batches of 100"
_Z = 4.0
_OFF = 0.25  # of the cosine from its law at rest: H and D vary over the cloud of a network's weights
Runs = Mapping[tuple[str, str], Sequence[xr.Dataset]]


def report_segments(study: Study, runs: Runs) -> None:
    """Tables 1 and 2, and the loss from iterate to iterate."""
    section = study.report.section("From one iterate to the next")
    barriers, heights = [], []
    for name in study.config["networks"]:
        for kind in ("sgd", "half"):
            several, lost = kept(runs, name, kind)
            rate = runs[name, kind][0].attrs["rate"]
            if not several:
                heights.append([name, rate, None, "diverged", "", "", ""])
                continue
            for which in range(len(np.unique(epoch_of(several[0])))):
                found = [of_epoch(run, which) for run in several]
                epoch, per_epoch = found[0][0], several[0].attrs["steps_per_epoch"]
                if kind == "sgd":
                    crossed = [float(s.barrier.mean()) * per_epoch for _, s in found]
                    inside = [float(s.interior.mean()) for _, s in found]
                    barriers.append([name + lost, epoch, per_epoch, shown(crossed), shown(inside),
                                     _BARRIERS[name] if which == 0 else ""])  # fmt: skip
                above = [float(s.height.mean()) for _, s in found]
                heights.append([name + lost, rate, epoch, shown(above), shown(h / rate**2 for h in above),
                                shown(float(s.floor.mean()) for _, s in found),
                                _HEIGHTS.get((name, kind), "") if which == 0 else ""])  # fmt: skip
    section.table(
        ["network", "epoch", "steps of it", "barriers", "share with a floor inside", "published barriers"], barriers,
        "Steps of an epoch that cross a barrier, their share among those interpolated times the steps of an epoch, "
        f"± 95 % interval over seeds; {_EPOCHS}.",
    )  # fmt: skip
    section.table(
        ["network", "η", "epoch", "height", "height/η²", "floor", "published height"], heights,
        f"Mean height above the floor ± 95 % interval over seeds; {_EPOCHS}. A step is as long as η, so that "
        "on one and the same parabola the height goes with η²: height/η² is what differs beyond that. "
        "Of a step without a floor inside, of which the table above has the share, it is half of the fall of the loss.",
    )  # fmt: skip
    for name in study.config["networks"]:
        for (run,) in finished(runs, name, "sgd")[:1]:
            add_figure(study, section, f"walk-{name}", plot_walk(run),
                    f"{name}, SGD, first seed: training loss on the segments between iterates (dots), in the recorded "
                    "epochs.", "Loss curves sagging between dots")  # fmt: skip
    for (run,) in finished(runs, "mlp", "gd-ninefold")[:1]:
        add_figure(study, section, "walk-gd", plot_walk(run),
                "The same for gradient descent at the ninefold step of the released code, whose full-batch gradient is "
                "a sum of nine mean gradients.", "Loss curves between dots of gradient descent")  # fmt: skip


def report_floors(study: Study, runs: Runs) -> None:
    """Barriers of the floor itself, and of the iterates above it."""
    epochs = study.config["floor_epochs"]
    apart = "an epoch" if epochs == 1 else f"{epochs} epochs"
    section = study.report.section("From floor to floor")
    section.text(
        "A floor is the lowest point of a step: the vertex of the parabola through the lowest of its losses and the "
        f"two beside it. Floors {apart} apart are joined by a straight line; so are the iterates whose floors they "
        "are. Two things stand between such a line and the floor of a valley: a bent way may be lower than the "
        "straight one, and the lowest point along one step is not the lowest in all directions, which hides a part of "
        "a barrier; how much, the bumpy valley below tells."
    )
    rows = []
    for name in study.config["networks"]:
        finite, lost = kept(runs, name, "sgd")
        several = [joined(run["floor_loss"].values) for run in finite]
        half = several[0].barrier.size // 2 if several else 0
        parts = {"first half": slice(None, half), "second half": slice(half, None)} if half else {"whole": slice(None)}
        for label, part in parts.items() if several else ():
            rows.append([name + lost, label, several[0].barrier[part].size, *_of_floors(several, part)])
    section.table(
        ["network", "of the run", "segments", "floor: share with a barrier", "its height", "iterates: share", "height "
         "of the iterates", "barriers above them"], rows,
        "SGD, ± 95 % interval over seeds. Heights of barriers are above the higher end, means where there is one, over "
        "the seeds that have one; height of the iterates: above their floors. The last column is the share of the "
        "floor's barriers that are higher than that.",
    )  # fmt: skip
    for name in study.config["networks"]:
        for (run,) in finished(runs, name, "sgd")[:1]:
            add_figure(study, section, f"floors-{name}", plot_floors(run).figure,
                    f"{name}, SGD, first seed: training loss on straight lines from floor to floor and from iterate to "
                    "iterate.", "Two chains of loss curves against epochs, one below the other")  # fmt: skip


def _of_floors(several: Sequence[Joined], part: slice) -> list:
    own = [found.of(part) for found in several]
    there = [found for found in own if found.barrier.any()]
    return [
        shown(float(found.barrier.mean()) for found in own),
        shown(float(found.rise[found.barrier].mean()) for found in there) if there else None,
        shown(float(found.above.mean()) for found in own),
        shown(float(found.height.mean()) for found in own),
        shown(float((found.rise > found.height)[found.barrier].mean()) for found in there) if there else None,
    ]


def report_noise(study: Study, runs: Runs) -> None:
    """SGD against gradient descent, and with isotropic noise in its two readings."""
    if "mlp" not in study.config["networks"]:
        return
    section = study.report.section("SGD, gradient descent, isotropic noise")
    rate = study.config["learning_rate"]
    names = {"SGD": "sgd", f"GD, η = {rate:g}": "gd", f"GD, η = {9 * rate:g}": "gd-ninefold"}
    main, noisy, rows = {}, {}, []
    for label, kind in names.items():
        several, lost = kept(runs, "mlp", kind)
        rows.append(_row(label + lost, several))
        if several:
            main[label] = several
    for reading, deviation in deviations(study.config).items() if study.config["noise"] else ():
        kind = NOISES[reading]
        for title, which in ((f"GD + noise, {reading} {study.config['noise_scale']:g} (σ = {deviation:.3g})", kind),
                             ("… then SGD", f"{kind}-sgd")):  # fmt: skip
            several, lost = kept(runs, "mlp", which)
            rows.append(_row(title + lost, several))
            if several:
                noisy[title if which == kind else f"{reading}, then SGD"] = several
    section.table(
        ["run", "steps", "training loss", "test accuracy", "|w|", "|w − w₀|", "λ_max"], rows,
        "Where each run ends, ± 95 % interval over seeds. Full-batch steps are those of the mean gradient at the η "
        "that is named. The scale of the isotropic noise is run in both of its readings. After the switch to SGD "
        "|w − w₀| is the distance from where it took place.",
    )  # fmt: skip
    add_figure(study, section, "descent",
            plot_series(main, {"cosine": "E[g·g′]/√(E|g|²E|g′|²)", "distance": "|w − w₀|", "loss": "training loss"},
                        ("loss",)),
            "Cosine of consecutive gradients, distance from the start and loss; bands are ranges over seeds.",
            "Three panels of curves against steps")  # fmt: skip
    add_figure(study, section, "sharpness",
            plot_series(main, {"hessian_eigenvalues": "λ_max of H", "test_accuracy": "test accuracy"},
                        ("hessian_eigenvalues",)),
            "Spectral norm of the Hessian with test accuracy.", "Two panels of curves against steps")  # fmt: skip
    if noisy:
        beside = {"SGD": main["SGD"]} if "SGD" in main else {}
        add_figure(study, section, "noise",
                plot_series(beside | noisy, {"norm": "|w|", "test_accuracy": "test accuracy"}),
                "Norm of the weights and test accuracy with isotropic noise, and after switching back to SGD.",
                "Two panels of curves against steps")  # fmt: skip


def kept(runs: Runs, name: str, kind: str) -> tuple[list[xr.Dataset], str]:
    """The runs of a kind that did not diverge; and, where some did, how many these are."""
    several, made = [run for (run,) in finished(runs, name, kind)], len(runs.get((name, kind), []))
    return several, f" ({len(several)} of {made} seeds)" if 0 < len(several) < made else ""


def _row(label: str, several: Sequence[xr.Dataset]) -> list:
    if not several:
        return [label, None, "diverged", *[""] * 4]
    curved = "hessian_eigenvalues" in several[0]
    return [label, several[0].attrs["steps"], *(shown(late(run, name) for run in several) for name in
            ("loss", "test_accuracy", "norm", "distance")),
            shown(late(run, "hessian_eigenvalues") for run in several) if curved else None]  # fmt: skip


def report_sweeps(study: Study, runs: Runs, factors: Sequence[float]) -> None:
    """Batch size, learning rate, schedules."""
    if "mlp" not in study.config["networks"]:
        return
    config = study.config
    section = study.report.section("Learning rate, batch size, schedules")
    by_rate = {config["learning_rate"]: "sgd"}
    by_rate |= {f * config["learning_rate"]: "half" if f == 0.5 else f"rate-{f:g}" for f in factors}
    by_size = {config["batch_size"]: "sgd"} | {size: f"batch-{size}" for size in config["batch_sizes"]}
    rows, heights = [], {}
    for title, kinds in (("η", by_rate), ("b", by_size)):
        for value, kind in sorted(kinds.items()):
            several, lost = kept(runs, "mlp", kind)
            if not several:
                rows.append([f"{title} = {value:g}", None, "diverged", *[""] * 4])
                continue
            ends = {which: [height(run, which) for run in several] for which in (0, -1)}
            if title == "η":
                heights[value] = ends
            rate = several[0].attrs["rate"]
            rows.append([f"{title} = {value:g}{lost}", several[0].attrs["steps"], shown(ends[0]), shown(ends[-1]),
                         shown(h / rate**2 for h in ends[-1]), shown(late(run, "distance") for run in several),
                         shown(late(run, "test_accuracy") for run in several)])  # fmt: skip
    section.table(
        ["run", "steps", "height, first epoch", "height, last", "last/η²", "|w − w₀|", "test accuracy"], rows,
        "Equal epochs, the first and last recorded ones; ± 95 % interval over seeds.",
    )  # fmt: skip
    if len(heights) > 1:
        rates = sorted(heights)
        figure = plot_heights(rates, [heights[r][-1] for r in rates], [heights[r][0] for r in rates]).figure
        add_figure(study, section, "heights", figure, "Height against η beside the η² of the length of a step.",
                "Height against learning rate on logarithmic axes")  # fmt: skip
    plans, rows = {}, []
    for plan in SCHEDULES:
        several, lost = kept(runs, "mlp", "sgd" if plan == "constant" else plan)
        rows.append([plan + lost, *(shown(late(run, name) for run in several) for name in
                                    ("loss", "test_loss", "test_accuracy"))] if several
                    else [plan, "diverged", "", ""])  # fmt: skip
        if several:
            plans[plan] = several
    section.table(
        ["schedule", "training loss", "test loss", "test accuracy"], rows,
        "Schedules with the same largest η: tenfold down at ½ and ¾ of the run; ten triangles (Smith 2017); a "
        "trapezoid that rises for a tenth, stays for six, falls for three. ± 95 % interval over seeds.",
    )  # fmt: skip
    add_figure(study, section, "schedules",
            plot_series(plans, {"loss": "training loss", "test_accuracy": "test accuracy"}, ("loss",)),
            "Loss and test accuracy under the schedules.", "Two panels of curves against steps")  # fmt: skip


def report_cosines(study: Study, runs: Runs, rest: Sequence[xr.Dataset]) -> None:
    """What decides on the cosine of consecutive gradients: transient or rest, η or b."""
    section = study.report.section("The cosine of consecutive gradients")
    section.text(
        "Along a direction of curvature h, at rest, consecutive mini-batch gradients have correlation −ηh/2 whatever "
        "the batch size; over all directions E[g·g'] = −tr(H²S), and its share of E|g|² = tr(H²S) + tr D/b does not "
        "contain b either, because S goes with 1/b. On the way down E[g·g'] = |∇f|² − η(∇f·H∇f + tr(HD)/b) + O(η²): "
        "there b decides how much of the gradient is common to both batches. A negative cosine is thus no sign of "
        "walls by itself."
    )
    for kind in ("early", "ratio"):
        gaps = [float((one[kind].isel(batch=0) - one[kind].isel(batch=-1)).mean()) for one in rest]
        when = "in the first epoch" if kind == "early" else "at rest"
        section.text(f"From b = {int(rest[0].batch[-1])} to b = {int(rest[0].batch[0])} the ratio changes by "
                     f"{shown(gaps)} {when} (mean over η; 95 % interval over seeds).")  # fmt: skip
    rows = []
    for rate in rest[0]["rate"].values:
        for batch in rest[0]["batch"].values:
            parts = [one.sel(rate=rate, batch=batch) for one in rest]
            rows.append([float(rate), int(batch), *(shown(float(p[n]) for p in parts)
                         for n in ("early", "ratio", "predicted", "top"))])  # fmt: skip
    section.table(
        ["η", "b", "first epoch", "at rest", "law at rest", "λ_max"], rows,
        "E[g·g']/E|g|² of tiny-fc on the digits 0 to 4, weight decay 0.005; the law has H and D of the run's mean.",
    )  # fmt: skip
    off = np.abs([(one["ratio"] / one["predicted"] - 1).values.ravel() for one in rest])
    mean, low, high = student(np.median(off, axis=1))
    law = (
        "that at rest the ratio is −tr(H²S)/(tr(H²S) + tr D/b): the median of the relative distance is "
        f"{mean:.2f}, {low:.2f} to {high:.2f} over seeds, the largest {off.max():.2f} (promised: below {_OFF:g})"
    )
    if low < _OFF < high:
        section.text(f"The runs are too few, or too short, to decide on the law {law}.")
    else:
        section.verdict(high <= _OFF, f"The law {law}.")
    add_figure(study, section, "cosines", plot_rest(rest).figure,
            "Points: measured, bars of the 95 % interval over seeds; crosses: first epoch; lines: the law.",
            "Ratio of gradient products against learning rate")  # fmt: skip


def report_valley(study: Study, toy: xr.Dataset) -> None:
    """The toy, where recorded and exact must agree."""
    section = study.report.section("A bumpy valley, in which all is known")
    seeds = toy.sizes["seed"]
    section.text(
        f"f = x²/20 + ε(1 − cos 2πx) + {WALL:g} y²/2 as the mean of four samples with D = I, b = 1, ε = 0 and "
        f"ε = {RIPPLE:g}, by the compiled kernel, with the same recorders."
    )
    smooth = toy.isel(ripple=0)
    section.verdict(
        float(smooth["gap"].max()) < 1e-10 and float(smooth["barrier"].max()) == 0,
        "Without ripples no step crosses a barrier, and the height of each step is (η²/2)gᵀHg[(a* − ½)² + ¼]: the "
        f"largest difference is {float(smooth['gap'].max()):.1e} of the largest height.",
    )
    rows, worst = [], 0.0
    for rate in toy["rate"].values:
        one = toy.sel(rate=rate)
        for name, exact in (("variance", "exact_variance"), ("ratio", "exact_ratio")):
            plain = one.isel(ripple=0)
            error = float(np.sqrt((plain[f"{name}_error"] ** 2).sum())) / seeds
            worst = max(worst, abs(float(plain[name].mean()) - float(one[exact])) / error)
        rows.append([float(rate), shown(one["variance"].isel(ripple=0).values), float(one["exact_variance"]),
                     shown(one["ratio"].isel(ripple=0).values), float(one["exact_ratio"]),
                     shown(one["height"].isel(ripple=0).values / rate**2),
                     *(shown(one[name].isel(ripple=1).values)
                       for name in ("barrier", "floor_barrier", "floor_exact", "above"))])  # fmt: skip
    chance = 1 - (1 - 2 * stdtr(19 * seeds, -_Z)) ** (2 * len(rows))
    section.table(
        ["η", "Var y", "exact", "E[g·g']/E|g|²", "exact", "height/η²", "barriers, with ripples", "floor to floor",
         "of the floor itself", "iterate to iterate"],
        rows,
        f"At rest; ± 95 % interval over seeds. Barriers, with ripples: share of steps; then of segments {APART} steps "
        "apart, between the floors that the steps show, along y = 0 between the same x, and between iterates.",
    )  # fmt: skip
    bumpy = toy.isel(ripple=1)
    false, missed, true = (float(bumpy[name].mean()) for name in ("floor_false", "floor_missed", "floor_exact"))
    section.verdict(
        float(smooth["floor_barrier"].max()) == 0 and false < 0.05 and missed < true / 3,
        "Without ripples no barrier lies between the floors of steps. With them, all η together, the floor itself has "
        f"one on {true:.1%} of the segments; between the floors of steps {missed:.1%} of the segments lose it, and "
        f"{false:.1%} have one that it has not (promised: less than a third of them lost, less than 5 % false).",
    )
    section.verdict(
        worst < _Z,
        f"Var y = η/(k(2 − ηk)) and −tr(H²S)/(tr(H²S) + tr D) are met: at most {worst:.1f} standard errors of blocks "
        f"off (allowed: {_Z:g}, which {len(rows) * 2} right values exceed with {chance:.1g}).",
    )
    add_figure(study, section, "valley", plot_valley(toy),
            "Variance across the valley and cosine, ± two standard errors, and height, beside the exact values without "
            f"ripples; barriers are those of ripples: on steps, and from floor to floor {APART} steps apart.",
            "Three panels against learning rate")  # fmt: skip
