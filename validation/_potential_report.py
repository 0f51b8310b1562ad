"""What the report of `potential-vs-loss` says, each statement beside the table or figure that it rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import scipy.stats
import xarray as xr
from numpy.typing import NDArray

from sde_sgd.study import Study

from ._domain_networks import CURVED, NOISY
from ._prediction_runs import KINDS, MODES
from .local_prediction_figures import (
    plot_areas,
    plot_conditional_loss,
    plot_domain,
    plot_mean_shift,
    plot_variance_ratios,
)

Cells = Mapping[tuple[float, int], Mapping[str, xr.Dataset]]
_HOLDS = 0.2  # root mean square of log(measured/predicted variance)
_ALPHA = 0.01  # of each verdict that is a test


def interval(values: Sequence[float], error: float) -> str:
    """Mean ± 95 % from the scatter of seeds (Student); of one seed, from the error of its run."""
    each = np.asarray(values, dtype=float)
    if len(each) < 2:
        return f"{each[0]:.3f} ± {1.96 * error:.3f} (one seed)"
    half = scipy.stats.t.ppf(0.975, len(each) - 1) * each.std(ddof=1) / np.sqrt(len(each))
    return f"{each.mean():.3f} ± {half:.3f}"


def by_rate(cells: Cells) -> dict[float, list[Mapping[str, xr.Dataset]]]:
    found: dict[float, list] = {}
    for (rate, _), cell in cells.items():
        found.setdefault(rate, []).append(cell)
    return dict(sorted(found.items(), reverse=True))


def _misfit(run: xr.Dataset) -> float:
    """Root mean square of log(ratio), less what its statistical error adds."""
    logs, error = np.log(run["ratio"].values), run["ratio_error"].values / run["ratio"].values
    return float(np.sqrt(max(0.0, (logs**2).mean() - (error**2).mean())))


def variance_section(study: Study, cells: Cells) -> None:
    section = study.report.section("Variance along the steepest directions of the Hessian")
    config, groups = study.config, by_rate(cells)
    some = next(iter(cells.values()))["pilot"]
    section.text(
        f"tiny-fc (49–16–5, 885 weights, no batch norm, weight decay {config['weight_decay']:g}), b = "
        f"{config['batch_size']}, {config['seeds']} seed(s). The {config['directions']} directions are the steepest of "
        "H at the mean of a pilot run, fixed before the run that is measured. Predicted is HS + SH − ηHSH = (η/b)D, "
        "with H and D at that mean, averaged over snapshots of the pilot, or averaged with a Hessian from differences "
        "of gradients, which sees the kinks of ReLU that autograd's does not."
    )
    rows: list[list] = []
    trend: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for rate, group in groups.items():
        for kind in KINDS:
            each = [cell[MODES[0]].sel(kind=kind) for cell in group]
            ratios = np.concatenate([run["ratio"].values for run in each])
            error = float(np.sqrt((each[0]["ratio_error"].values ** 2).mean() / each[0].sizes["direction"]))
            trend[kind].append(float(np.sqrt(np.mean([_misfit(run) ** 2 for run in each]))))
            means = [float(run["ratio"].mean()) for run in each]
            rows.append(
                [f"{rate:g}", kind, interval(means, error), f"{ratios.min():.2f} to {ratios.max():.2f}",
                 f"{trend[kind][-1]:.3f}"]
            )  # fmt: skip
    section.table(
        ["η", "H and D", "mean ratio", "all ratios", "misfit"],
        rows,
        "Measured over predicted variance; 95 % intervals of the mean over directions, from the seeds. Misfit: root "
        "mean square of the logarithm, its statistical part taken off. A drift longer than a block is in no error.",
    )
    rates = list(groups)
    for kind in KINDS:
        values = trend[kind]
        falls = values[-1] < values[0]
        section.text(
            f"{kind[0].upper() + kind[1:]}: the misfit is {', '.join(f'{v:.3f}' for v in values)} at η = "
            f"{', '.join(f'{r:g}' for r in rates)}: it {'falls' if falls else 'does not fall'} as η → 0."
        )
    drift = max(float(cell[MODES[0]]["drift"].max()) for cell in cells.values())
    section.text(
        f"Directions that are not stable at the mean: {int(some['unstable'].values[0])} of 885 (left out). The means "
        f"of the two halves of a run differ by at most {drift:.2f} standard deviations along any direction."
    )
    shown = {f"η = {rate:g}": group[0][MODES[0]].isel(kind=0) for rate, group in groups.items()}
    spread = np.concatenate([run["ratio"].values for run in shown.values()])
    figure = study.figures["variance"] = plot_variance_ratios(shown).figure
    section.figure(
        figure,
        f"The first seed, H and D at the pilot's mean. Ratios from {spread.min():.2f} to {spread.max():.2f}; bars are "
        "two standard errors.",
        "Measured over predicted variance against direction at several learning rates",
    )
    epochs = [cell[MODES[1]].isel(kind=0) for cell in cells.values()]
    plain = np.concatenate(
        [(cell[MODES[1]]["variance"] / cell[MODES[0]]["variance"]).values for cell in cells.values()]
    )
    ratios = np.concatenate([run["ratio"].values for run in epochs])
    section.verdict(
        bool(np.median(plain) < 0.9),
        "Reshuffled epochs are another process: along the same directions the variance is "
        f"{np.median(plain):.2f} (median; {plain.min():.2f} to {plain.max():.2f}) of that of fresh batches. Their own "
        f"exact law, at the pilot's mean, predicts it to a ratio of {np.median(ratios):.2f} ({ratios.min():.2f} to "
        f"{ratios.max():.2f}); the pilot was drawn with replacement.",
    )


def area_section(study: Study, cells: Cells, null: xr.Dataset) -> None:
    section = study.report.section("Areas: detailed balance is broken")
    rows, p = [], []
    for rate, group in by_rate(cells).items():
        for mode in MODES:
            for kind in KINDS:
                each = [cell[mode].sel(kind=kind).isel(lag=0) for cell in group]
                slopes = interval([float(run["slope"]) for run in each], float(each[0]["slope_error"]))
                correlation = np.array([float(run["correlation"]) for run in each])
                rows.append(
                    [f"{rate:g}", mode.replace("_", " "), kind, slopes,
                     f"{correlation.min():.3f} to {correlation.max():.3f}"]
                )  # fmt: skip
        p += [float(cell[MODES[0]]["overall_p_value"]) for cell in group]
    section.verdict(
        max(p) < _ALPHA,
        f"SGD turns: the largest p-value of no current is {max(p):.2g} over all runs with replacement (asked: below "
        f"{_ALPHA:g}; random signs of the blocks, all pairs and lags).",
    )
    section.table(
        ["η", "sampling", "H and D", "slope", "correlation"],
        rows,
        "Measured against predicted area per time over all pairs of directions, exact for step and lag: slope 1 "
        "and correlation 1 where the prediction holds. 95 % intervals from the seeds.",
    )
    values = null["p_value"].values
    count = int((values <= 0.05).sum())
    chance = scipy.stats.binomtest(count, len(values), 0.05).pvalue
    section.verdict(
        bool(chance > _ALPHA),
        f"Of {len(values)} processes in detailed balance with the covariance and rates of the run, {count} have a "
        f"p-value up to 0.05 (nominal: {0.05 * len(values):.1f}; p = {chance:.2g} of so far off).",
    )
    first = {f"η = {rate:g}": _as_compared(group[0][MODES[0]]) for rate, group in by_rate(cells).items()}
    figure = study.figures["areas"] = plot_areas(first).figure
    section.figure(
        figure,
        "Areas between all pairs of directions, H and D at the pilot's mean, first seed, at the shortest lag. The line "
        "is equality.",
        "Measured against predicted areas",
    )


def _as_compared(run: xr.Dataset) -> xr.Dataset:
    """A run of the study under the names of `LocalPrediction.compare`."""
    names = {"area": "area_production", "area_error": "area_production_error", "expected_area": "expected"}
    return run.isel(kind=0).rename(names)


def isotropic_section(study: Study, runs: Sequence[xr.Dataset]) -> None:
    section = study.report.section("Isotropic noise: the potential must be the loss")
    rows = []
    for run in runs:
        ratio, error = (run[name].values for name in ("ratio", "ratio_error"))
        rows.append(
            [run.attrs["activation"], f"{run.attrs['temperature']:g}", f"{ratio.mean():.3f} ± {_of_mean(error):.3f}",
             _range(ratio), f"{(((ratio - 1) / error) ** 2).sum():.1f}", f"{run.attrs['gradient']:.1g}"]
        )  # fmt: skip
    k = runs[0].sizes["direction"]
    section.text(
        "Full gradient and white noise with D = 1 on the same network and data: with tanh, whose minimum is smooth, "
        "and with ReLU, where L-BFGS ends at kinks and the slope of the loss does not go to 0. U is what the variance "
        "means for the recursion, η included."
    )
    cold = runs[0]
    worst = float((np.abs(cold["ratio"] - 1) / cold["ratio_error"]).max())
    limit = float(scipy.stats.t.ppf(1 - _ALPHA / (2 * k), 31))
    section.verdict(
        worst < limit,
        f"With D = 1 and tanh at T = {cold.attrs['temperature']:g} U/H = {float(cold['ratio'].mean()):.3f} ± "
        f"{_of_mean(cold['ratio_error'].values):.3f}; the largest of {k} deviations is {worst:.1f} standard errors "
        f"(expected below {limit:.1f} in 99 of 100 cases).",
    )
    section.table(
        ["activation", "T", "U/H", "all directions", "χ²", "largest slope at the start"],
        rows,
        f"Means over {k} directions, one standard error; χ² has about {k} degrees of freedom where U = H. H is "
        "autograd's, which is blind to kinks: with ReLU a large χ² is what they and the slide along them do.",
    )


def _of_mean(error: NDArray[np.float64]) -> float:
    return float(np.sqrt((error**2).sum()) / len(error))


def density_section(study: Study, cell: Mapping[str, xr.Dataset]) -> None:
    run, pilot = cell[MODES[0]], cell["pilot"]
    section = study.report.section("−T log p along a direction, and the loss")
    temperature = pilot.attrs["learning_rate"] / (2 * study.config["batch_size"])
    ratio = temperature / run["variance"].values / run["loss_curvature"].values
    share = temperature / run["variance"].values / pilot["hessian"].isel(kind=0).values.diagonal()
    section.text(
        "f is averaged over the iterates in each bin of the projection (on the line through the mean it would miss the "
        f"other 884 directions). With D = 1 the curves would agree. The curvature of −T log p is {_range(ratio)} times "
        f"that of the conditional loss and {_range(share)} times that of H: Φ is not f, by factors that the noise sets."
    )
    figure = study.figures["conditional"] = plot_conditional_loss(run)
    section.figure(
        figure,
        f"First seed, η = {pilot.attrs['learning_rate']:g}. Bars: two standard errors. Where −T log p is the "
        "steeper, the noise along the direction is below 1.",
        "Minus T log density of three projections, and the conditional loss",
    )


def _range(values: NDArray[np.float64]) -> str:
    return f"{values.min():.3g} to {values.max():.3g}"


def shift_section(study: Study, shifts: Mapping[str, Mapping[float, xr.Dataset]]) -> None:
    """`shifts`: of each network, by learning rate, what `mean_shift` gives."""
    section = study.report.section("Beyond constant D: where the mean stands")
    section.text(
        "In a steady state E ∇f = 0, so that the mean w̄ stands uphill of the point where ∇f = 0 by "
        "−H⁻¹E[∇f(w) − ∇f(w̄)], to second order −½ H⁻¹ f‴:S. The average is that of the even part of ∇f about w̄, in "
        "four clouds: the iterates themselves, a Gaussian one with their covariance, the predicted one N(0, S), and S "
        "one axis at a time, which is ½ f‴:S wherever there is an f‴. The mode of the Itô model is shifted by "
        "−T H⁻¹ div(D + Q); of that div D is computed. A mode in 885 dimensions cannot be seen in iterates, a mean can."
    )
    rows = []
    for name, group in shifts.items():
        for _, found in sorted(group.items(), reverse=True):
            still = float(np.sqrt(((found["slope"] / found["error"]) ** 2).mean()))
            size = f"{_size(found, 'measured'):.3f} ± {_size(found, 'error'):.3f}"
            rows.append(
                [name, f"{found.attrs['temperature']:.3g}", size, f"{still:.1f}",
                 *(_against(found, cloud) for cloud in ("own", "gaussian", "predicted", "axes")),
                 f"{_size(found, 'mode'):.3f}", f"{found.attrs['spread'] / found.attrs['predicted_spread']:.1f}"]
            )  # fmt: skip
    section.table(
        ["network", "T", "measured", "z of E ∇f", "iterates", "Gaussian, their S", "N(0, S)", "S by axes",
         "−T H⁻¹ div D", "tr S / predicted"],
        rows,
        "Root mean squares over the directions, in predicted standard deviations of the cloud; in brackets slope and "
        "correlation (uncentred) of the measured shift against it. z: root mean square of the mean slope over its "
        "error, about 1 in a steady state. tr S: of all weights, the iterates' over the predicted.",
    )  # fmt: skip
    for name, group in shifts.items():
        section.text(_which(name, group))
    figure = study.figures["shift"] = plot_mean_shift({name: group[min(group)] for name, group in shifts.items()})
    section.figure(
        figure,
        "At the smallest η, along the directions; bars are two standard errors of the mean. The line is equality.",
        "Measured against predicted shift of the mean, by the whole cloud and axis by axis",
    )


def _size(found: xr.Dataset, name: str) -> float:
    return float(np.sqrt(((found[name] / found["deviation"]) ** 2).mean()))


def _fit(found: xr.Dataset, name: str) -> tuple[float, float]:
    """Slope and uncentred correlation of the measured shift against a predicted one, in standard deviations."""
    x, y = (found[key].values / found["deviation"].values for key in (name, "measured"))
    return float((x * y).sum() / (x * x).sum()), float((x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum()))


def _against(found: xr.Dataset, name: str) -> str:
    slope, correlation = _fit(found, name)
    return f"{_size(found, name):.3f} ({slope:.2f}, {correlation:.2f})"


def _which(name: str, group: Mapping[float, xr.Dataset]) -> str:
    """The sentence on the two predictions that the table of one network supports."""
    whole, axes = (
        [_size(found, cloud) / _size(found, "measured") for _, found in sorted(group.items(), reverse=True)]
        for cloud in ("predicted", "axes")
    )
    far = max(abs(np.log(a / w)) for a, w in zip(axes, whole)) > np.log(1.5)
    verdict = (
        "The two differ: displacements one axis at a time do not stand for the whole cloud, as at kinks, where there "
        "is no f‴ and the average over the cloud is the prediction."
        if far
        else "The two agree: f‴:S is what the cloud's average is."
    )
    return (
        f"{name}, from the largest η to the smallest: predicted over measured size is "
        f"{', '.join(f'{value:.2f}' for value in whole)} by the cloud N(0, S), and "
        f"{', '.join(f'{value:.2f}' for value in axes)} by S one axis at a time. {verdict}"
    )


def estimate_section(study: Study, found: Mapping[str, xr.Dataset], pilot: xr.Dataset) -> None:
    section = study.report.section("Drift and noise from the trajectory alone")
    rows = []
    for mode, estimate in found.items():
        j, d = estimate["jacobian"].values, estimate["diffusion"].values
        row = [mode.replace("_", " ")]
        for kind in KINDS:
            h, noise = (pilot[name].sel(kind=kind).values for name in ("hessian", "noise"))
            row += [_range(-j.diagonal() / h.diagonal()), _range(d.diagonal() / noise.diagonal())]
        rows.append([*row, estimate.attrs["verdict"]])
    columns = [f"{name}, {kind}" for kind in KINDS for name in ("drift/H", "D/D")]
    section.table(
        ["sampling", *columns, "residuals"],
        rows,
        "Diagonal entries of a linear drift and constant noise fitted to every step of the projections, over those of "
        "the matrices. Reshuffled epochs have residuals that remember, and no D describes them.",
    )


def domain_section(study: Study, networks: Mapping[str, Cells]) -> None:
    section = study.report.section("Where the local prediction holds")
    rows = []
    for name, cells in networks.items():
        for rate, group in by_rate(cells).items():
            each = [cell[MODES[0]].isel(kind=0) for cell in group]
            ratios = np.concatenate([run["ratio"].values for run in each])
            misfits = np.array([_misfit(run) for run in each])
            slopes = [float(run["slope"][0]) for run in each]
            drift = max(float(run["drift"].max()) for run in each)
            unstable = max(int(cell["pilot"]["unstable"].values[0]) for cell in group)
            rows.append(
                [name, f"{rate / (2 * study.config['batch_size']):.3g}", f"{ratios.min():.2f} to {ratios.max():.2f}",
                 f"{misfits.min():.2f} to {misfits.max():.2f}", f"{min(slopes):.2f} to {max(slopes):.2f}",
                 f"{drift:.1f}", unstable, f"{int((misfits < _HOLDS).sum())} of {len(each)}"]
            )  # fmt: skip
    section.table(
        ["network", "T", "ratios", "misfit", "area slope", "drift", "not stable", "holds"],
        rows,
        f"H and D at the pilot's mean. Holds: seeds whose misfit is below {_HOLDS:g}, so that standard deviations are "
        "right to a tenth. Drift: between the means of the halves of a run, in standard deviations, the largest; not "
        "stable: directions with H + λ ≤ 0 at the mean, the most. Near-flat: λ = 1e-4; interpolating: λ = 0, where "
        "nothing is stationary along rays on which the loss falls for ever. Batch norm: tiny-fc with it, 917 weights; "
        "convolutions: 3 × 3 to 6 and 8 channels, 545 weights, ReLU; both as replicas side by side.",
    )
    batch, shown = study.config["batch_size"], {}
    for name, cells in networks.items():
        shown[name] = {
            rate / (2 * batch): [_misfit(cell[MODES[0]].isel(kind=0)) for cell in group]
            for rate, group in by_rate(cells).items()
        }
    figure = study.figures["domain"] = plot_domain(shown, _HOLDS).figure
    section.figure(
        figure,
        f"Root mean square of log(measured/predicted variance), a point for each seed; dotted: {_HOLDS:g}, below which "
        "the prediction counts as holding.",
        "Misfit of the local prediction of each network against temperature",
    )
    for name, cells in networks.items():
        each = [cell[MODES[0]].isel(kind=0) for cell in cells.values()]
        misfits = np.array([_misfit(run) for run in each])
        if (misfits >= _HOLDS).any():
            typical = np.exp([np.log(run["ratio"].values).mean() for run in each])
            section.text(
                f"{name}: it does not hold in {int((misfits >= _HOLDS).sum())} of {len(each)} runs. The variance is "
                f"{typical.min():.2g} to {typical.max():.2g} times the predicted one (geometric mean over directions)."
            )
    if any("batch norm" in name for name in networks):
        section.text(
            "With batch norm the loss of a sample depends on its mini-batch. With the statistics of all samples H and "
            "D are those of a loss that no mini-batch has. What SGD descends is the mean of the mini-batches' losses, "
            "with their Hessian, and its noise is the covariance of their gradients: both come from real mini-batches "
            f"in the third kind, H from {CURVED:,} and D from {NOISY:,} of them, and only D in the second. The "
            "sampling error of these two is in no error bar; areas, which are differences, feel it most."
        )
