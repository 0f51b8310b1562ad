"""What the report on a long trajectory says, each statement beside the figure or table that it rests on."""

from __future__ import annotations

import numpy as np
import xarray as xr

from sde_sgd.study import Study

from ._long_statistics import KINDS, beyond_white, spectral_rise, white_band
from .experiment_figures import plot_band, plot_gradient

_LONG = 1.0  # relaxation times of the slowest direction in a block, below which the errors over blocks are too small
_TELLING = 0.5  # of a slope: where more than this is within three standard errors, nothing is said of its size


def published_section(study: Study, pilot: xr.Dataset, run: xr.Dataset, bands: xr.Dataset) -> None:
    config = study.config
    section = study.report.section("What the published plots show, and of what else they would show it")
    study.report.headline(config["epochs"], "epochs, a snapshot of all weights after each")
    white = white_band(config["epochs"])
    section.text(
        f"tiny-fc (49–16–5, {run.sizes['weight']} weights, no batch norm, weight decay {config['weight_decay']:g}), "
        f"{config['burn_in_epochs']} epochs at η = {config['burn_in_learning_rate']:g}, then {config['epochs']} at "
        f"{config['learning_rate']:g}, b = {config['batch_size']}, {config['sampling'].replace('_', ' ')}. The bands "
        f"are the lowest and highest of {config['surrogates']} surrogates at each point: a reversible "
        "Ornstein–Uhlenbeck process with the curvatures H, the noise D_ii along H's eigenvectors and the start of the "
        "run, and a random walk of the same noise. Neither has a current or a cycle. Run and surrogates are compared "
        f"on the mean over the same {bands.attrs['shown_weights']} weights."
    )
    correlation, spectrum = run["shown_autocorrelation"].values, run["shown_spectrum"].values
    long = beyond_white(correlation[1:], config["epochs"])
    ou = {k: bands[k].sel(kind=KINDS[0]).values for k in bands.data_vars}
    beyond = ou["beyond"]
    section.verdict(
        bool(beyond.min() > 0.5),
        f"Autocorrelations beyond the 99 % limits of white noise are no sign of a cycle: the run is beyond them at "
        f"{100 * long:.0f} % of the lags, the reversible surrogates at {100 * beyond.min():.0f} to "
        f"{100 * beyond.max():.0f} % (promised: each at more than half).",
    )
    inside = _inside(correlation[1:], ou["autocorrelation_low"][1:], ou["autocorrelation_high"][1:])
    section.text(
        f"The measured autocorrelation lies within the band of the reversible process at {100 * inside:.0f} % of the "
        "lags. Where it does not, constant H and D fall short, which says nothing about a current."
    )
    figure = plot_band(
        run["lag"].values,
        correlation,
        {
            kind: (bands["autocorrelation_low"].sel(kind=kind), bands["autocorrelation_high"].sel(kind=kind))
            for kind in KINDS
        },
        spread=run["autocorrelation_std"].values,
        levels={"99 % of white noise": white},
        labels=("lag, epochs", "autocorrelation"),
        log=(True, False),
    ).figure
    study.figures["autocorrelation"] = figure
    section.figure(
        figure,
        "Autocorrelation of the weights. Slow directions alone keep it outside the limits of white noise.",
        "Autocorrelation against lag over bands of two surrogates",
    )
    rise, walk = spectral_rise(run["frequency"].values, spectrum), bands["rise"].sel(kind=KINDS[1]).values
    least, most = float(ou["rise"].min()), float(ou["rise"].max())
    section.verdict(
        least > 1,
        "A spectrum of increments that rises with frequency is no sign of a cycle: from its lowest to its highest "
        f"tenth it rises by {least:.2f} to {most:.2f} in the reversible surrogates (promised: each by more than 1). "
        f"The run rises by {rise:.2f}, {'as they do' if least <= rise <= most else 'which is not within theirs'}; "
        f"random walks by {walk.min():.2f} to {walk.max():.2f}.",
    )
    figure = plot_band(
        run["frequency"].values,
        spectrum,
        {kind: (bands["spectrum_low"].sel(kind=kind), bands["spectrum_high"].sel(kind=kind)) for kind in KINDS},
        labels=("frequency, 1/epochs", "power of increments"),
        log=(True, True),
    ).figure
    study.figures["increments"] = figure
    section.figure(
        figure,
        "Spectrum of the increments from epoch to epoch, in bins.",
        "Power of increments against frequency over bands of two surrogates",
    )
    gradient = run["gradient"].values
    later = float(np.sqrt((gradient[len(gradient) // 2 :] ** 2).mean()))
    predicted = plateau(pilot, config["learning_rate"], config["batch_size"])
    section.verdict(
        0.5 < later / predicted < 2,
        f"A gradient that does not vanish is no sign of a cycle: |∇f|/√d, weight decay included, is {later:.2e} (rms "
        "over "
        f"the second half), and fluctuations about a fixed minimum alone give √(tr(H²S)/d) = {predicted:.2e} "
        "(promised: "
        "within a factor of 2).",
    )
    figure = plot_gradient(run["snapshot_epoch"].values, gradient, predicted).figure
    study.figures["gradient"] = figure
    section.figure(
        figure,
        "|∇f|/√d of the full loss at snapshots; the line is what the linear theory's stationary fluctuations give.",
        "Gradient norm against epoch with a level line",
    )


def plateau(pilot: xr.Dataset, learning_rate: float, batch_size: int) -> float:
    """√(tr(H²S)/d) of the stationary linear theory, S_ii = (η/b)D_ii/(2h_i − ηh_i²); flat directions give nothing."""
    h, noise = np.maximum(pilot["curvature"].values, 0.0), pilot["noise"].values
    return float(np.sqrt((learning_rate / batch_size * noise * h / (2 - learning_rate * h)).mean()))


def current_section(study: Study, run: xr.Dataset, tests: xr.Dataset) -> None:
    section = study.report.section("What can tell: the area swept out")
    p = float(tests["overall_p_value"])
    section.verdict(
        p < 0.01,
        f"Detailed balance is broken: no current has p = {p:.2g} over all pairs of {tests.sizes['direction']} "
        "directions and all lags (an exact test by reversing blocks; promised: below 0.01).",
    )
    first = tests.sel(kind="with kinks").isel(area_lag=0)
    slope, error, memory = float(first.slope), float(first.slope_error), tests.attrs["block_relaxations"]
    allowed = max(0.25, 3 * error)
    if allowed > _TELLING or memory < _LONG:
        section.text(
            "Whether it has the size that the linear theory predicts, so short a run cannot tell: with the kinks of "
            f"ReLU in H {_slope(first)}; a block, over which the errors are, lasts {memory:.2g} relaxation times of "
            "the slowest of these directions."
        )
    else:
        section.verdict(
            abs(slope - 1) < allowed,
            "It has the size that the linear theory predicts, with the kinks of ReLU in H: "
            f"{_slope(first)} (theory: slope 1, allowed: ± {allowed:.2f}).",
        )
    rows = [[kind, int(t.area_lag) * run.attrs["every"], float(t.p_value), float(t.slope), float(t.slope_error),
             float(t.correlation)]
            for kind in tests["kind"].values
            for t in (tests.sel(kind=kind).isel(area_lag=i) for i in range(tests.sizes["area_lag"]))]  # fmt: skip
    section.table(
        ["H", "lag, steps", "p, no current", "slope", "error", "correlation"],
        rows,
        f"Area production of the pilot's {tests.sizes['direction']} steepest directions, {tests.attrs['blocks']} "
        "blocks, against the exact discrete-time areas at constant H and D. The errors are over blocks of one run; "
        "they leave out how far H and D of the pilot are those of the run.",
    )
    for kind in tests["kind"].values:
        one = tests.sel(kind=kind)
        ratio, rejected = one["variance_ratio"].values, float(one["expected_p_value"][0])
        told = "constant H and D are not the law here" if rejected < 0.01 else "nothing speaks against constant H and D"
        section.text(
            f"H {kind}: {_slope(one.isel(area_lag=0))}; the variances along these directions are {ratio.min():.2f} to "
            f"{ratio.max():.2f} times those of the linear theory (geometric mean {np.exp(np.log(ratio).mean()):.2f}); "
            f"that every area is exactly as predicted has p = {rejected:.2g}: {told}."
        )
    section.text(
        "Autograd's H is the second derivative at one point. It leaves out what a loss with ReLU bends at its kinks, "
        "where a unit switches for some sample; H with kinks is taken from differences of gradients around snapshots "
        "of the pilot."
    )


def _slope(first: xr.Dataset) -> str:
    return (
        f"measured against predicted areas have slope {float(first.slope):.2f} ± {float(first.slope_error):.2f} and "
        f"correlation {float(first.correlation):.2f} at the shortest lag"
    )


def peaks_section(study: Study, tests: xr.Dataset) -> None:
    section = study.report.section("Is there an oscillation?")
    p, count = float(tests["peak_p_value"]), tests.sizes["peak"]
    named = sum("epoch" in str(text) or "overshoot" in str(text) for text in tests["peak_interpretation"].values)
    section.verdict(
        count == named,
        f"No unexplained peak stands out of the smooth background of the projections' spectra: {count} peaks at level "
        f"0.01, {named} of them due to the epoch or to overshooting; smallest adjusted p = {p:.2g}.",
    )
    if count:
        section.table(
            ["period, steps", "power over background", "likely cause"],
            [
                [float(t.peak_period), float(t.peak_ratio), str(t.peak_interpretation.values)]
                for t in (tests.isel(peak=i) for i in range(min(count, 10)))
            ],
        )


def _inside(values, low, high) -> float:
    return float(((values >= low) & (values <= high)).mean())
