"""The report of the experiment `noise`: tables and figures, each beside the sentence it supports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from sde_sgd.report import Section
from sde_sgd.study import Study

from . import _sentences
from ._noise_emulation_agreement import CASES
from ._noise_emulation_runs import MODES
from ._noise_emulation_sentences import at, gap_sentence, is_seen, ranks, slopes
from ._noise_emulation_tasks import PAIRS, recognised
from ._noise_emulation_wells import FLAT, SHARP
from .noise_emulation_figures import (
    plot_agreement,
    plot_dwell,
    plot_gap,
    plot_noises,
    plot_radii,
    plot_scaling,
    plot_tasks,
)

_Z = 4.5  # standard errors that the largest of some hundred comparisons may be off


def shown(values: Iterable[Any], missing: str = "diverges") -> str:
    """`_sentences.shown`: what has no number here is mostly a run that diverged."""
    return _sentences.shown(values, missing)


def _figure(study: Study, section: Section, name: str, made, caption: str, alt: str) -> None:
    figure = getattr(made, "figure", made)
    study.figures[name] = figure
    section.figure(figure, caption, alt)


def report_sweep(study: Study, sweeps: Sequence[xr.Dataset], descent, clean, sampling) -> None:
    """Batch size against learning rate; sampling; labels without noise."""
    config = study.config
    section = study.report.section("Batch size against learning rate")
    rows = []
    for rate in sweeps[0]["rate"].values:
        for size in sweeps[0]["batch"].values:
            runs = [s.sel(rate=rate, batch=size) for s in sweeps]
            epoch = config["time"] * min(config["batch_sizes"]) / size
            rows.append([
                float(rate), int(size), float(rate / (2 * size)), shown(r.late_test_error for r in runs),
                shown(at(r, "test_error", epoch) for r in runs), shown(r.test_error.min() for r in runs),
                shown(r.late_loss for r in runs), shown(r.sharpness for r in runs), shown(r.fisher_rao for r in runs),
            ])  # fmt: skip
    section.table(
        ["η", "b", "T", "late test error", "at equal epochs", "lowest test error", "late training loss", "λ_max",
         "⟨w, Fw⟩"],
        rows,
        "Every run has the same η·steps, the clock of the SDE; “at equal epochs” is where it had seen as many "
        "samples as the smallest batch at its end. ± is half of the 95 % interval over seeds.",
    )  # fmt: skip
    rate = float(min(sweeps[0]["rate"].values, key=lambda r: abs(r - config["learning_rate"])))
    _figure(study, section, "gap", plot_gap(sweeps, descent, rate),
            f"Left: test error along the runs at η = {rate:g}, mean over seeds. Right: its late mean against T, with "
            "95 % intervals over seeds.",
            "Lines of test error for each batch size and gradient descent, and points of its late mean")  # fmt: skip
    names = ("late_test_error", "late_loss", "sharpness")
    rows = [[mode.replace("_", " "), *(shown(s[n].sel(mode=mode) for s in sampling) for n in names)] for mode in MODES]
    section.table(
        ["sampling", "late test error", "late training loss", "λ_max"], rows,
        f"Three ways of drawing mini-batches, η = {config['learning_rate']:g}, b = {config['batch_size']}.",
    )  # fmt: skip
    section.text(
        f"Without wrong labels the late test error is {shown(s.clean_test_error for s in sampling)} for SGD and "
        f"{shown(clean.late_test_error.values)} for gradient descent."
    )


def report_scaling(study: Study, scaling: Sequence[xr.Dataset]) -> None:
    """Linear scaling and where it breaks."""
    section = study.report.section("Linear scaling")
    first = scaling[0]
    rows = []
    for size in first["batch"].values:
        runs = [s.sel(batch=size) for s in scaling]
        rows.append([int(size), float(runs[0].rate), shown(r.late_loss for r in runs),
                     shown(r.late_test_error for r in runs), shown(r.rate * r.sharpness for r in runs)])  # fmt: skip
    section.table(
        ["b", "η", "late training loss", "late test error", "ηλ_max at the end"], rows,
        f"η/b = {study.config['scaling_ratio']:g} throughout, so that T, η·steps and epochs are equal. Where only the "
        "SDE mattered every row would be the same.",
    )  # fmt: skip
    section.text(_where_it_breaks(scaling))
    _figure(study, section, "scaling", plot_scaling(scaling), "At constant η/b. Right: ηλ_max, a line for each seed.",
            "Late loss, late test error and the step times the curvature against the batch size")  # fmt: skip


def _where_it_breaks(scaling: Sequence[xr.Dataset]) -> str:
    broken = []
    for s in scaling:
        off = np.abs(np.log(s.late_loss.values / s.late_loss.values[0])) > np.log(2)
        off |= ~np.isfinite(s.late_loss.values)
        broken.append(float(s.rate.values[off.argmax()]) if off.any() else np.inf)
    where = [f"η = {rate:g} in {broken.count(rate)}" for rate in sorted(set(broken)) if np.isfinite(rate)]
    if broken.count(np.inf):
        where.append(f"at no η in {broken.count(np.inf)}")
    limit = shown([2 / float(s.sharpness[0]) for s in scaling], "unknown")
    return (
        "By seeds, the training loss is first off that of the smallest batch by a factor of two or more at "
        f"{', '.join(where)} of {len(scaling)}. 2/λ_max at the end of the smallest batch is {limit}."
    )


def report_noise(
    study: Study, made: Mapping[str, xr.Dataset], sampling: Sequence[xr.Dataset], test_samples: int
) -> None:
    """Noise made to order."""
    config = study.config
    section = study.report.section("Noise made to order")
    section.text(
        "Gradient descent on all samples with noise of a chosen covariance C/b, which leaves T where η and b of the "
        "settings have it, whatever the batches of the drift: exact is N(0, D/b) by one weighted backward pass; "
        f"subset takes {config['subset']} samples; fisher labels drawn from the model; hessian |H| by "
        f"{config['products']} products; isotropic has the trace of D at every step. From the same starts as SGD."
    )
    sgd = [s.isel(mode=0) for s in sampling]
    keys = ("late_test_error", "late_error", "late_loss", "sharpness", "norm")
    columns = {"SGD": {key: np.array([float(s[key]) for s in sgd]) for key in keys}}
    columns |= {name: {key: run[key].values for key in keys} for name, run in made.items()}
    descent = columns["none"]["late_test_error"]
    rows = [
        [name, shown(values["late_test_error"]),
         "" if name == "none" else shown(descent - values["late_test_error"]),
         *(shown(values[key]) for key in keys[1:])]
        for name, values in columns.items()
    ]  # fmt: skip
    section.table(
        ["noise", "late test error", "below that of none", "late training error", "late training loss", "λ_max", "|w|"],
        rows,
        f"η = {config['learning_rate']:g}, b = {config['batch_size']}; ± is half of the 95 % interval over seeds, and "
        "differences are taken seed by seed.",
    )  # fmt: skip
    gap = descent - columns["SGD"]["late_test_error"]
    if not is_seen(gap_sentence(gap, test_samples)):
        section.text(
            f"SGD is below gradient descent by {shown(gap)}: no gap with 95 % confidence. What would close it is not "
            "asked in the table of sentences."
        )
    _figure(study, section, "noises", plot_noises(made, [float(s.late_test_error) for s in sgd]),
            "Late test error of each kind of noise: seeds, their mean and its 95 % interval.",
            "Dots of test error for SGD and for gradient descent with each kind of noise")  # fmt: skip


def report_wells(study: Study, found: Sequence[xr.Dataset]) -> None:
    """Dwell times beside exact ones."""
    section = study.report.section("How long wells and saddles hold")
    section.text(
        "D ∝ curvature is c·|H| at the stationary point, c = ½; isotropic noise has its trace. The parabola is left "
        "where |x| = 1, the saddle, too; the well (hx² − 1)²/8 has depth ⅛ whatever its curvature h and is left at "
        "its top. The exact times of parabola and saddle are closed forms, those of the well solve the backward "
        "equation."
    )
    z = [((r["mean"] - np.exp(r.exact)) / r.error).values for r in found]
    worst = float(np.abs(z).max())
    section.verdict(
        worst < _Z,
        f"Paths take the exact times: the largest of {np.size(z)} deviations is {worst:.1f} standard errors (allowed: "
        f"{_Z:g}).",
    )
    rows = []
    for k in range(found[0].sizes["case"]):
        case = found[0].isel(case=k)
        rows.append([str(case.place.values), float(case.out), str(case.noise.values), float(case.along),
                     float(np.exp(case.exact)), shown(r["mean"][k] for r in found)])  # fmt: skip
    section.table(
        ["left is a", "|h| along the way out", "noise", "D along it", "exact time", "time of paths"], rows,
        f"The curvature across is {FLAT:g} where that along is {SHARP:g}, and the reverse. Noise shaped like the "
        "curvature is the quicker of the two along the sharper direction, and the slower along the flatter.",
    )  # fmt: skip
    _figure(study, section, "dwell", plot_dwell(found), "Times of paths over exact times, two standard errors each.",
            "Ratios scattered about one")  # fmt: skip
    off, ratio = _off_the_law(found)
    section.verdict(
        off < _Z,
        f"SGD on a parabola with D = cH stays {ratio['of the recursion']} times as long as the recursion's exact law "
        f"says, {off:.1f} standard errors from 1 (allowed: {_Z:g}); {ratio['of the SDE']} times as long as the SDE "
        f"would, and {ratio['corrected for steps']} times the closed form at the edge that steps see, R + 0.583 "
        "√(2TDη), with the variance of the recursion.",
    )


def _off_the_law(found: Sequence[xr.Dataset]) -> tuple[float, dict[str, str]]:
    """How many standard errors the mean exit time of SGD is off that of the recursion; its ratios to all laws."""
    exact = [run.sel(law="of the recursion") for run in found]
    error = float(np.sqrt(sum(float(run.exit_error) ** 2 for run in exact)) / len(exact))
    off = abs(np.mean([float(run.exit) for run in exact]) - 1) / error
    return float(off), {str(law): shown(run.exit.sel(law=law) for run in found) for law in found[0]["law"].values}


def report_radii(study: Study, held: xr.Dataset) -> None:
    """The radius of stability along directions of the network."""
    section = study.report.section("The radius of stability")
    few = "a power that fewer than three positive h do not give"
    section.text(
        f"Where gradient descent with exact noise ended, along the {held.sizes['direction']} leading eigenvectors v "
        "of H: h, D = vᵀDv, and the radius within which the parabola of curvature h holds the process for the mean "
        f"time {study.config['time']:g}. Over directions R goes as h to the power "
        f"{shown(slopes(held, 'radius'), few)}, D to the power {shown(slopes(held, 'noise'), few)}; “inversely "
        "proportional” would be −1, and D = cH gives 0 but for a logarithm."
    )
    _figure(study, section, "radii", plot_radii(held), "Each seed in a colour of its own.",
            "Radius against curvature on logarithmic axes")  # fmt: skip


def report_agreement(study: Study, agreed: Mapping[str, Sequence[xr.Dataset]]) -> None:
    """D, Fisher information and Hessian."""
    section = study.report.section("D, the Fisher information, the Hessian")
    rows = []
    for case in CASES:
        for k in (0, -1):
            runs = [run.isel(step=k) for run in agreed[case]]
            rows.append([case, int(runs[0].step), shown(r.slope for r in runs), shown((r.gap for r in runs), "–"),
                         shown((r.trace_d / r.trace_h for r in runs), "–"), shown((r.d_h for r in runs), "–"),
                         shown((r.f_h for r in runs), "–")])  # fmt: skip
    some = agreed[CASES[0]][0].attrs
    section.table(
        ["labels", "step", "|∇f|", "|D − H|/|H|", "tr D/tr H", "cos(D, H)", "cos(F, H)"], rows,
        f"A network of {some['parameters']} weights (tanh), {some['samples']} samples but where there are few; start "
        "and end of training by full batches.",
    )  # fmt: skip
    _figure(study, section, "agreement", plot_agreement(agreed),
            "Along training: means over seeds, with 95 % intervals. The last point is that of the table.",
            "Four panels of cosines and relative differences against steps")  # fmt: skip


def report_tasks(study: Study, tasks: Sequence[xr.Dataset], networks: Sequence[xr.Dataset]) -> None:
    """Pairs of digits, and networks."""
    section = study.report.section("Tasks and networks by the spectrum of D")
    columns: tuple[str, ...] = ("test_error", "loss", "trace", "participation_ratio", "stable_rank")
    rows = [[str(p), *(shown(r[c].sel(pair=p) for r in tasks) for c in columns)] for p in tasks[0]["pair"].values]
    known = recognised(np.stack([r["eigenvalues"].values for r in tasks]))
    section.table(
        ["digits", "test error", "training loss", "tr D", "participation", "stable rank"], rows,
        f"A small network on two digits after {study.config['pair_steps']} steps. An error of 0 ± 0 is none in any "
        f"seed. By the logarithms of its eigenvalues a pair is known again among {len(PAIRS)} in {shown(known)} of "
        f"the cases (chance: {1 / len(PAIRS):.3f}).",
    )  # fmt: skip
    section.text(
        "Over the pairs, tr D and test error have the rank correlation "
        f"{shown((ranks(r.trace.values, r.test_error.values) for r in tasks), 'of none, as one of them is constant')}."
    )
    if networks:
        columns = ("parameters", "test_error", "trace", "participation_ratio", "rank_float32", "rank_float64", "score")
        rows = [
            [str(n), *(shown(r[c].sel(network=n) for r in networks) for c in columns)]
            for n in networks[0]["network"].values
        ]
        section.table(
            ["network", "weights", "test error", "tr D", "participation", "rank, float32", "rank, float64",
             "rank/d + var λ"], rows,
            "Networks of diffusion-matrix after equal epochs, D in eval mode"
            + ("; tiny-fc is on five classes." if "tiny-fc" in networks[0]["network"].values else "."),
        )  # fmt: skip
    _figure(study, section, "tasks", plot_tasks(tasks, networks),
            "Leading eigenvalues of D, geometric means over seeds.",
            "Falling spectra, one line for each pair of digits and each network")  # fmt: skip
