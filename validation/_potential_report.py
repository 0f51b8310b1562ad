"""What the report of `potential-vs-loss` says of variances, areas and networks, each statement beside its table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import scipy.stats
import xarray as xr
from numpy.typing import NDArray

from sde_sgd.study import Study

from ._domain_networks import CURVED, NOISY
from ._prediction_runs import KINDS, MODES
from .local_prediction_figures import plot_areas, plot_domain, plot_variance_ratios

Cells = Mapping[tuple[float, int], Mapping[str, xr.Dataset]]
ALPHA = 0.01  # of each verdict that is a test
_ROUNDING = 1e-12  # of the largest variance
_HOLDS = 0.2  # root mean square of log(measured/predicted variance)
_NETWORKS = {
    "near-flat": "Near-flat: λ = 1e-4.",
    "interpolating": "Interpolating: λ = 0, where nothing is stationary along rays on which the loss falls for ever.",
    "batch norm": "Batch norm: tiny-fc with it, 917 weights, as replicas side by side.",
    "convolutions": "Convolutions: 3 × 3 to 6 and 8 channels, 545 weights, ReLU, as replicas side by side.",
}


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


def moving(variance: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which directions noise reaches: variances above rounding, 1e-12 of the largest. The others may be negative.

    Units of a tanh network that the decay has put out, all their weights 0, leave H a curvature, and D is 0 along it.
    """
    return variance > _ROUNDING * variance.max()


def heard(cell: Mapping[str, xr.Dataset], mode: str = MODES[0]) -> xr.Dataset:
    """The run of a cell, kind by kind along the directions that move at all, by prediction or measurement.

    Where only one of the two is rounding the ratio stands, and the prediction has failed there. ``silent`` counts what
    is left out; where that is any, ``slope`` is taken anew from the areas of the pairs left, nan where they are not
    kept.
    """
    run, predicted = cell[mode], cell["pilot"]["covariance"]
    if "mode" in predicted.dims:
        predicted = predicted.sel(mode=mode)
    variances = predicted.values[0].diagonal()
    kept = moving(variances) | moving(run["ratio"].values[0] * variances)
    if kept.all():
        return run.assign(silent=0)
    run = run.isel({name: kept for name in ("direction", "direction_2") if name in run.dims})
    return run.assign(slope=_slope(run), silent=int((~kept).sum()))


def _slope(run: xr.Dataset) -> xr.DataArray:
    """Σ wAA'/Σ wA'² over pairs, A' the area expected and w = 1/error², as in `area_production`."""
    if "area" not in run:
        return run["slope"] * np.nan
    i, j = (xr.DataArray(index, dims="pair") for index in np.triu_indices(run.sizes["direction"], 1))
    area, error, expected = (
        run[name].isel(direction=i, direction_2=j) for name in ("area", "area_error", "expected_area")
    )
    return (area * expected / error**2).sum("pair") / (expected**2 / error**2).sum("pair")


def _misfit(run: xr.Dataset) -> float:
    """Root mean square of log(ratio), less what its statistical error adds; inf for a ratio that is not above 0."""
    if not (run["ratio"].values > 0).all():
        return float("inf")
    logs, error = np.log(run["ratio"].values), run["ratio_error"].values / run["ratio"].values
    return float(np.sqrt(max(0.0, (logs**2).mean() - (error**2).mean())))


def _rms(values) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _trend(kind: str, rates: Sequence[float], misfits: Sequence[Sequence[float]]) -> str:
    """How the misfit goes with η, from the largest to the smallest: by seeds, each with its own start."""
    values = ", ".join(f"{_rms(each):.3f}" for each in misfits)
    said = f"{kind[0].upper() + kind[1:]}: the misfit is {values} at η = {', '.join(f'{rate:g}' for rate in rates)}"
    if len(rates) < 2:
        return f"{said}; one η shows no trend."
    falls = sum(last < first for first, last in zip(misfits[0], misfits[-1]))
    return f"{said}; from the largest η to the smallest it falls in {falls} of {len(misfits[0])} seed(s)."


def variance_section(study: Study, cells: Cells) -> None:
    section = study.report.section("Variance along the steepest directions of the Hessian")
    config, groups = study.config, by_rate(cells)
    section.text(
        f"tiny-fc (49–16–5, 885 weights, no batch norm, weight decay {config['weight_decay']:g}), b = "
        f"{config['batch_size']}, {config['seeds']} seed(s). The {config['directions']} directions are the steepest of "
        "H at the mean of a pilot run, fixed before the run that is measured. Predicted is HS + SH − ηHSH = (η/b)D, "
        "the decay in H, in three kinds: autograd's H and D at that mean; their averages over snapshots of the pilot; "
        "the same D with an H from differences of gradients there, which sees kinks, as autograd's does not."
    )
    rows: list[list] = []
    trend: dict[str, list[list[float]]] = {kind: [] for kind in KINDS}  # by η, of each seed
    for rate, group in groups.items():
        for kind in KINDS:
            each = [cell[MODES[0]].sel(kind=kind) for cell in group]
            ratios = np.concatenate([run["ratio"].values for run in each])
            error = float(np.sqrt((each[0]["ratio_error"].values ** 2).mean() / each[0].sizes["direction"]))
            trend[kind].append([_misfit(run) for run in each])
            means = [float(run["ratio"].mean()) for run in each]
            rows.append(
                [f"{rate:g}", kind, interval(means, error), f"{ratios.min():.2f} to {ratios.max():.2f}",
                 f"{_rms(trend[kind][-1]):.3f}"]
            )  # fmt: skip
    section.table(
        ["η", "H and D", "mean ratio", "all ratios", "misfit"],
        rows,
        "Measured over predicted variance; 95 % intervals of the mean over directions, from the seeds. Misfit: root "
        "mean square of the logarithm, its statistical part taken off. A drift longer than a block is in no error.",
    )
    for kind in KINDS:
        section.text(_trend(kind, list(groups), trend[kind]))
    drift = max(float(cell[MODES[0]]["drift"].max()) for cell in cells.values())
    lost = [int(cell["pilot"]["unstable"].values[0]) for cell in cells.values()]
    section.text(
        f"Directions along which H + λ at the mean is not positive are left out of the prediction: {min(lost)} to "
        f"{max(lost)} of 885. The means of the two halves of a run differ by at most {drift:.2f} standard deviations "
        "along any direction."
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
        max(p) < ALPHA,
        f"SGD turns: the largest p-value of no current is {max(p):.2g} over all runs with replacement (asked: below "
        f"{ALPHA:g}; random signs of the blocks, all pairs and lags).",
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
        bool(chance > ALPHA),
        f"Of {len(values)} processes in detailed balance with the predicted covariance and the rates of the first run, "
        f"{study.config['surrogate_states']:,} states each, {count} have a p-value up to 0.05 at the shortest lag "
        f"(nominal: {0.05 * len(values):.1f}; p = {chance:.2g} of so far off).",
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


def domain_section(study: Study, networks: Mapping[str, Cells]) -> None:
    section = study.report.section("Where the local prediction holds")
    networks = {
        name: {key: {**cell, MODES[0]: heard(cell)} for key, cell in cells.items()} for name, cells in networks.items()
    }
    rows = []
    for name, cells in networks.items():
        for rate, group in by_rate(cells).items():
            each = [cell[MODES[0]].isel(kind=0) for cell in group]
            ratios = np.concatenate([run["ratio"].values for run in each])
            misfits = np.array([_misfit(run) for run in each])
            slopes = [float(run["slope"][0]) for run in each]
            drift = max(float(run["drift"].max()) for run in each)
            silent = max(int(run["silent"]) for run in each)
            turned = [slope for slope in slopes if np.isfinite(slope)]
            area = f"{min(turned):.2f} to {max(turned):.2f}" if turned else "–"
            unstable = max(int(cell["pilot"]["unstable"].values[0]) for cell in group)
            rows.append(
                [name, f"{rate / (2 * study.config['batch_size']):.3g}", f"{ratios.min():.2f} to {ratios.max():.2f}",
                 f"{misfits.min():.2f} to {misfits.max():.2f}", area,
                 f"{drift:.1f}", unstable, silent, f"{int((misfits < _HOLDS).sum())} of {len(each)}"]
            )  # fmt: skip
    section.table(
        ["network", "T", "ratios", "misfit", "area slope", "drift", "not stable", "no noise", "holds"],
        rows,
        "H and D at the pilot's mean, H autograd's with the decay. Holds: seeds whose misfit is below "
        f"{_HOLDS:g}, so that standard deviations are right to a tenth. Drift: between the means of the halves of a "
        "run, in standard deviations, the largest; not stable: directions with H + λ ≤ 0 at the mean, the most; no "
        "noise: directions along which both variances are rounding, the most, left out."
        + "".join(f" {said}" for name, said in _NETWORKS.items() if any(name in shown for shown in networks)),
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
        section.text(_held(name, [cell[MODES[0]].isel(kind=0) for cell in cells.values()]))
    if any("batch norm" in name for name in networks):
        section.text(
            "With batch norm the loss of a sample depends on its mini-batch. With the statistics of all samples H and "
            "D are those of a loss that no mini-batch has. What SGD descends is the mean of the mini-batches' losses, "
            "with their Hessian, and its noise is the covariance of their gradients: both come from real mini-batches "
            f"in the third kind, H from {CURVED:,} and D from {NOISY:,} of them, and only D in the second. The "
            "sampling error of these two is in no error bar. In all three kinds the directions are the steepest of the "
            "H with the statistics of all samples."
        )


def _held(name: str, runs: Sequence[xr.Dataset]) -> str:
    """In how many runs the prediction holds, and what the variance is where it does not."""
    failed = [run for run in runs if _misfit(run) >= _HOLDS]
    if not failed:
        return f"{name}: it holds in all {len(runs)} run(s)."
    typical = np.exp([np.log(run["ratio"].values).mean() for run in failed])
    return (
        f"{name}: it does not hold in {len(failed)} of {len(runs)} run(s). In these the variance is "
        f"{typical.min():.2g} to {typical.max():.2g} times the predicted one (geometric mean over directions)."
    )
