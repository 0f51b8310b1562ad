"""What the report of `potential-vs-loss` says of isotropic noise, −T log p, the mean, and the trajectory alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import scipy.stats
import xarray as xr
from numpy.typing import NDArray

from sde_sgd.study import Study

from ._potential_report import ALPHA, moving
from ._prediction_runs import KINDS, MODES
from .local_prediction_figures import SHOWN, plot_conditional_loss, plot_mean_shift

_SEEN = 5.0  # standard errors from 0 at which a curvature is quoted
_APART = 0.5  # distance of two predictions of the shift, over the size of the first, at which they differ


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
        "Full gradient and white noise with D = 1 on the same network and data: with tanh, whose loss is smooth, and "
        "with ReLU, around where L-BFGS ends. U is what the variance means for the recursion, η included; H is "
        "autograd's, with the decay, at that point."
    )
    cold = min((run for run in runs if run.attrs["activation"] == "tanh"), key=lambda run: run.attrs["temperature"])
    worst = float((np.abs(cold["ratio"] - 1) / cold["ratio_error"]).max())
    limit = float(scipy.stats.t.ppf(1 - ALPHA / (2 * k), 31))
    section.verdict(
        worst < limit,
        f"With D = 1 and tanh at T = {cold.attrs['temperature']:g} U/H = {float(cold['ratio'].mean()):.3f} ± "
        f"{_of_mean(cold['ratio_error'].values):.3f}; the largest of {k} deviations is {worst:.1f} standard errors "
        f"(expected below {limit:.1f} in 99 of 100 cases).",
    )
    section.table(
        ["activation", "T", "U/H", "all directions", "χ²", "largest slope at the start"],
        rows,
        f"Means over {k} directions, one standard error; χ² has about {k} degrees of freedom where U = H. Autograd's H "
        "is blind to kinks: where a run crosses them, or starts where the slope is not 0, U = H is not expected.",
    )


def _of_mean(error: NDArray[np.float64]) -> float:
    return float(np.sqrt((error**2).sum()) / len(error))


def _range(values: NDArray[np.float64]) -> str:
    return f"{values.min():.3g} to {values.max():.3g}"


def density_section(study: Study, cell: Mapping[str, xr.Dataset]) -> None:
    run, pilot = cell[MODES[0]], cell["pilot"]
    section = study.report.section("−T log p along a direction, and the loss")
    temperature = pilot.attrs["learning_rate"] / (2 * study.config["batch_size"])
    steep, at_mean = temperature / run["variance"].values, pilot.isel(kind=0)
    hessian = at_mean["hessian"].values.diagonal()
    seen = (run["loss_curvature"] > _SEEN * run["loss_curvature_error"]).values
    beside = (
        f"{_range((steep / run['loss_curvature'].values)[seen])} times that of the conditional loss along the "
        f"{int(seen.sum())} direction(s) where that is {_SEEN:g} standard errors above 0"
        if seen.any()
        else "beside a conditional loss whose curvature is nowhere above its errors"
    )
    section.text(
        "f is averaged over the iterates in each bin of the projection (on the line through the mean it would miss the "
        "other 884 directions). With D = 1, small steps and a quadratic minimum the two curves would agree. The "
        f"curvature T/Var of −T log p is {beside}. It is {_range(steep / hessian)} times v·Hv at the pilot's mean "
        "along all of them."
    )
    # with D = c·1 the recursion has Var = cT/(h(1 − ηh/2)) along an eigenvector of H
    share = np.log(steep / (hessian * (1 - pilot.attrs["learning_rate"] * hessian / 2)))
    weights = (run["variance"].values / run["variance_error"].values) ** 2
    chi2 = float((weights * (share - np.average(share, weights=weights)) ** 2).sum())
    chance = float(scipy.stats.chi2.sf(chi2, len(share) - 1))
    section.verdict(
        chance < ALPHA,
        "Along these directions Φ is no multiple of f, which noise D = c·1 would make it around a quadratic minimum: "
        f"T/Var over h(1 − ηh/2), h = v·Hv, is {_range(np.exp(share))} (χ² of one number for all: {chi2:.3g} with "
        f"{len(share) - 1} degrees of freedom, p = {max(chance, 1e-300):.2g}; asked: below {ALPHA:g}).",
    )
    figure = study.figures["conditional"] = plot_conditional_loss(run)
    noise = at_mean["noise"].values.diagonal()
    shown = [k for k in SHOWN if k < len(noise)]
    section.figure(
        figure,
        f"First seed, η = {pilot.attrs['learning_rate']:g}. Bars: two standard errors, as of independent iterates. The "
        f"noise v·Dv along the direction(s) shown is {', '.join(f'{noise[k]:.2g}' for k in shown)}.",
        "Minus T log density of three projections, and the conditional loss",
    )


def shift_section(study: Study, shifts: Mapping[str, Mapping[float, xr.Dataset]]) -> None:
    """`shifts`: of each network, by learning rate, what `mean_shift` gives."""
    section = study.report.section("Beyond constant D: where the mean stands")
    shifts = {
        name: {rate: found.isel(direction=moving(_variance(found))) for rate, found in group.items()}
        for name, group in shifts.items()
    }
    section.text(
        "In a steady state E ∇f = 0, so that the mean w̄ stands uphill of the point where ∇f = 0 by "
        "−H⁻¹E[∇f(w) − ∇f(w̄)], to second order −½ H⁻¹ f‴:S. Measured is v·∇f(w̄)/h along each direction, w̄ the mean of "
        "a run's iterates. The average is that of the even part of ∇f about w̄, in four clouds: the iterates "
        "themselves, which leaves only their skewness and the mean slope out, a Gaussian one with their covariance, "
        "the predicted one N(0, S), and S one axis at a time, which is ½ f‴:S wherever there is an f‴. The mode of the "
        "Itô model is shifted by −T H⁻¹ div(D + Q); of that div D is computed. A mode in 885 dimensions cannot be seen "
        "in iterates, a mean can."
    )
    rows = []
    for name, group in shifts.items():
        for found in _from_the_largest(group):
            still = float(np.sqrt(((found["slope"] / found["error"]) ** 2).mean()))
            rows.append(
                [name, f"{found.attrs['temperature']:.3g}", f"{_size(found, 'measured', 'error'):.3f}",
                 f"{_size(found, 'error'):.3f}", f"{still:.1f}",
                 *(_against(found, cloud) for cloud in ("own", "gaussian", "predicted", "axes")),
                 f"{_size(found, 'mode'):.3f}", f"{found.attrs['spread'] / found.attrs['predicted_spread']:.1f}"]
            )  # fmt: skip
    section.table(
        ["network", "T", "measured", "its error", "z of E ∇f", "iterates", "Gaussian, their S", "N(0, S)",
         "S by axes", "−T H⁻¹ div D", "tr S / predicted"],
        rows,
        "Root mean squares over the directions, in predicted standard deviations of the cloud; that of the measured "
        "shift and of N(0, S) less what their standard errors add. In brackets slope and correlation (uncentred, "
        "noise included) of the measured shift against it. z: root mean square of the mean slope over its error, about "
        "1 in a steady state. tr S: of all weights, the iterates' over that of the directions predicted. Left out are "
        "directions that no noise reaches.",
    )  # fmt: skip
    for name, group in shifts.items():
        section.text(_which(name, _from_the_largest(group)))
    figure = study.figures["shift"] = plot_mean_shift({name: group[min(group)] for name, group in shifts.items()})
    section.figure(
        figure,
        "At the smallest η, along the directions; bars are two standard errors of the mean. The line is equality.",
        "Measured against predicted shift of the mean, by the whole cloud and axis by axis",
    )


def _variance(found: xr.Dataset) -> NDArray[np.float64]:
    """Predicted; 0 for one that rounding made negative."""
    return np.nan_to_num(found["deviation"].values) ** 2


def _from_the_largest(group: Mapping[float, xr.Dataset]) -> list[xr.Dataset]:
    return [found for _, found in sorted(group.items(), reverse=True)]


def _scaled(found: xr.Dataset, name: str) -> NDArray[np.float64]:
    """In predicted standard deviations."""
    return found[name].values / found["deviation"].values


def _error(found: xr.Dataset, name: str) -> NDArray[np.float64]:
    return _scaled(found, "predicted_error") if name == "predicted" else np.zeros(found.sizes["direction"])


def _size(found: xr.Dataset, name: str, error: str | None = None) -> float:
    """Root mean square over the directions, less what the `error` adds to it."""
    noise = _error(found, name) if error is None else _scaled(found, error)
    return float(np.sqrt(max(0.0, (_scaled(found, name) ** 2 - noise**2).mean())))


def _fit(found: xr.Dataset, name: str) -> tuple[float, float, float]:
    """Slope of the measured shift against a predicted one, its error, and their uncentred correlation.

    Both by least squares through 0; what the draws of the predicted cloud add to Σx² is taken off for the slope.
    """
    x, y, error = _scaled(found, name), _scaled(found, "measured"), _scaled(found, "error")
    square = (x**2 - _error(found, name) ** 2).sum()
    correlation = (x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum())
    if not square > 0:
        return float("nan"), float("nan"), float(correlation)
    return float((x * y).sum() / square), float(np.sqrt(((x * error) ** 2).sum()) / square), float(correlation)


def _off(found: xr.Dataset, name: str) -> float:
    """Root mean square of measured minus predicted, in standard errors of the difference."""
    error = np.hypot(_scaled(found, "error"), _error(found, name))
    return float(np.sqrt((((_scaled(found, "measured") - _scaled(found, name)) / error) ** 2).mean()))


def _against(found: xr.Dataset, name: str) -> str:
    slope, _, correlation = _fit(found, name)
    return f"{_size(found, name):.3f} ({slope:.2f}, {correlation:.2f})"


def _apart(found: xr.Dataset) -> float:
    """|axes − whole cloud| over |whole cloud|, the cloud's draws taken off both."""
    noise = (_error(found, "predicted") ** 2).sum()
    distance = ((_scaled(found, "axes") - _scaled(found, "predicted")) ** 2).sum() - noise
    whole = (_scaled(found, "predicted") ** 2).sum() - noise
    return float(np.sqrt(max(0.0, distance) / whole)) if whole > 0 else float("inf")


def _which(name: str, group: Sequence[xr.Dataset]) -> str:
    """The sentences on the two predictions that the table of one network supports."""
    said = []
    for cloud, words in (("predicted", "by the cloud N(0, S)"), ("axes", "by S one axis at a time")):
        fits = ", ".join(f"{slope:.2f} ± {error:.2f}" for slope, error, _ in (_fit(found, cloud) for found in group))
        said.append(f"{fits} {words} ({', '.join(f'{_off(found, cloud):.1f}' for found in group)} errors off)")
    apart = [_apart(found) for found in group]
    differ = [found for found, value in zip(group, apart) if value > _APART]
    nearer = sum(_off(found, "predicted") < _off(found, "axes") for found in differ)
    return (
        f"{name}, from the largest η to the smallest: measured over predicted shift, by least squares with standard "
        f"errors, is {' and '.join(said)}; an exact prediction would be about 1.0 off. The two predictions differ "
        f"by {', '.join(f'{value:.2f}' for value in apart)} of the first one's size. "
        + (
            f"That is more than {_APART:g} at {len(differ)} of {len(group)} η: there displacements one axis at a time "
            "do not stand for the whole cloud, and f‴:S is not what the average over it is. The whole cloud is the "
            f"nearer to what is measured at {nearer} of these."
            if differ
            else "So f‴:S is what the average over the cloud is, to that."
        )
    )


def estimate_section(study: Study, found: Mapping[str, xr.Dataset], pilot: xr.Dataset) -> None:
    section = study.report.section("Drift and noise from the trajectory alone")
    rows = []
    for mode, estimate in found.items():
        row = [mode.replace("_", " ")]
        for kind in KINDS:
            for name, matrix, sign in (("jacobian", "hessian", -1), ("diffusion", "noise", 1)):
                known = pilot[matrix].sel(kind=kind).values.diagonal()
                error = estimate[f"{name}_error"].values.diagonal() / known
                row.append(f"{_range(sign * estimate[name].values.diagonal() / known)} (± {np.median(error):.1g})")
        rows.append(row)
    columns = [f"{name}, {kind}" for kind in KINDS for name in ("drift/H", "D/D")]
    section.table(
        ["sampling", *columns],
        rows,
        "Diagonal entries of a linear drift and constant noise fitted to every step of the projections of one run (η = "
        f"{pilot.attrs['learning_rate']:g}, first seed), over those of the matrices; in brackets the median standard "
        "error. The directions that are not seen are taken for noise: what they do to the drift is in no error.",
    )
    for mode, estimate in found.items():
        section.text(f"Residuals, {mode.replace('_', ' ')}: {estimate.attrs['verdict']}.")
    remember = [mode.replace("_", " ") for mode, each in found.items() if each.attrs["verdict"].startswith("memory")]
    if remember:
        section.text(f"Where residuals remember ({', '.join(remember)}), no drift and D of the state describe the run.")
