"""What the sources say of noise and minima, sentence by sentence, and the effect of each: one number per seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from ._noise_emulation_agreement import CASES
from ._noise_emulation_runs import MODES
from ._noise_emulation_tasks import PAIRS, recognised
from ._noise_emulation_wells import FLAT, SHARP
from ._sentences import Answer, asked

INF = np.inf
MORE, LESS = (0.0, INF), (-INF, 0.0)
GOLMANT, ITA, CS = "Golmant (2018)", "Chaudhari (talk)", "Chaudhari & Soatto (2018)"
TRIED = f"{GOLMANT}, tried further"
GOYAL, KESKAR, ZHU = "Goyal et al. (2017)", "Keskar et al. (2017)", "Zhu et al. (2019)"
LIANG, DANESHMAND = "Liang et al. (2019)", "Daneshmand et al. (2018)"


def at(run: xr.Dataset, name: str, time: float) -> float:
    """A recorded quantity at η·steps = `time`, between records on a straight line."""
    return float(np.interp(time, run["t"].values, run[name].values))


def sweep_sentences(
    config: Mapping[str, Any], sweeps, scaling, sampling, clean, test_samples: int
) -> list[Answer | str]:
    """Batch size and learning rate, linear scaling, sampling; `clean` (seed,) gradient descent without wrong labels.

    Test errors are shares of `test_samples`, of which they cannot tell less than one.
    """
    rate = min(config["learning_rates"], key=lambda r: abs(r - config["learning_rate"]))
    small, large = min(config["batch_sizes"]), max(config["batch_sizes"])
    pairs = [(s.sel(rate=rate, batch=small), s.sel(rate=rate, batch=large)) for s in sweeps]
    share = small / large
    final = [float(b.late_test_error - a.late_test_error) for a, b in pairs]
    epochs = [at(b, "test_error", config["time"] * share) - at(a, "test_error", config["time"]) for a, b in pairs]
    best = [float(b.test_error.min() - a.test_error.min()) for a, b in pairs]
    sharp = [float(np.log(b.sharpness / a.sharpness)) for a, b in pairs]
    fisher = [ranks(np.ravel(s.fisher_rao), np.ravel(s.late_test_error)) for s in sweeps]
    noisy = [float(s.late_test_error.isel(mode=0)) for s in sampling]
    one = 1.0 / test_samples
    return [
        asked(KESKAR, "large batches end at a higher test error than small ones", final, MORE,
              f"test error at b = {large} less that at b = {small}, η = {rate:g}, last quarter", resolution=one,
              condition="both are given the same η·steps, not the same epochs", otherwise=epochs),
        asked(KESKAR, "stopping early does not bring large batches to the test error of small ones", best, MORE,
              "lowest of the looks along the run at the large b less that at the small", resolution=one),
        asked(KESKAR, "large batches end in sharper minima", sharp, MORE,
              f"ln(λ_max of H at b = {large} over that at b = {small})"),
        asked(GOLMANT, "without wrong labels large batches generalise worse, too",
              [float(c - s.clean_test_error) for c, s in zip(clean, sampling)], MORE,
              "test error of gradient descent less that of SGD, no wrong labels", resolution=one),
        *_scaling(config, scaling, one),
        asked(CS, "sampling with replacement regularises more than reshuffling",
              [float(s.late_test_error.sel(mode=MODES[2])) - n for s, n in zip(sampling, noisy)], MORE,
              "test error of reshuffling less that of replacement", resolution=one),
        asked(CS, "a fresh subset at each step lowers T by the factor 1 − b/N only: where b ≪ N the test error is "
              "that of replacement, within a percentage point",
              [float(s.late_test_error.sel(mode=MODES[1])) - n for s, n in zip(sampling, noisy)], (-0.01, 0.01),
              f"test error without replacement less that with, b/N = {config['batch_size'] / config['samples']:g}",
              resolution=one),
        asked(LIANG, "a larger Fisher–Rao norm goes with worse generalisation", fisher, MORE,
              "rank correlation of ⟨w, Fw⟩ and test error over all learning rates and batch sizes",
              resolution=grain(sweeps[0].fisher_rao.size)),
    ]  # fmt: skip


def _scaling(config: Mapping[str, Any], scaling: Sequence[xr.Dataset], one: float) -> list[Answer | str]:
    """Constant η/b: the test error within a factor e^{±1/4} of that of the smallest batch, at small η and at the
    largest.
    """

    def apart(batch: int) -> list[float]:
        return [float(np.log(s.late_test_error[batch] / s.late_test_error[0])) for s in scaling]

    usable = [k for k in range(1, scaling[0].sizes["batch"]) if np.isfinite(apart(k)).all()]
    if len(usable) < 2:
        return []
    middle = max([k for k in usable if float(scaling[0].rate[k]) <= config["learning_rate"]], default=usable[0])
    small, large = (int(scaling[0].batch[k]) for k in (middle, usable[-1]))
    rates = scaling[0].rate.values
    more: dict[str, Any] = {}
    if middle != usable[-1]:
        more["condition"] = f"η ≤ {rates[middle]:g}, not at η = {rates[usable[-1]]:g}, b = {large}"
        more["otherwise"] = apart(usable[-1])
    return [asked(
        GOYAL, "at constant η/b the batch size changes nothing", apart(middle), (-0.25, 0.25),
        f"ln(test error at b = {small} over that at b = {int(scaling[0].batch[0])}), equal epochs",
        resolution=one / min(float(s.late_test_error[0]) for s in scaling), **more,
    )]  # fmt: skip


def gap_sentence(gap, test_samples: int) -> Answer | str:
    """Whether there is a gap between gradient descent and SGD, (seed,) in late test error."""
    return asked(GOLMANT, "SGD generalises better than gradient descent, given the same η·steps", gap, MORE,
                 "test error of gradient descent less that of SGD, last quarter",
                 resolution=1.0 / test_samples)  # fmt: skip


def is_seen(one: Answer | str) -> bool:
    """Whether a sentence is answered, and seen."""
    return isinstance(one, Answer) and one.verdict == "seen"


def noise_sentences(emulated: Mapping[str, xr.Dataset], sgd: Sequence[float], test_samples: int) -> list[Answer | str]:
    """Noise made to order, beside SGD at the same T; `sgd` (seed,) its late test error.

    To close the gap means at least half of it, seed by seed: no ratio of small differences. Where there is no gap with
    95 % confidence nothing can close it, and these sentences are left out.
    """

    def error(kind: str):
        return emulated[kind]["late_test_error"].values

    descent, real = error("none"), np.asarray(sgd)
    gap, one = descent - real, 1.0 / test_samples
    first = gap_sentence(gap, test_samples)
    found = [
        first,
        asked(KESKAR, "gradient descent ends at a sharper minimum than with noise of covariance D/b",
              np.log(emulated["none"]["sharpness"].values / emulated["exact"]["sharpness"].values), MORE,
              "ln(λ_max without over that with noise)"),
        asked(ZHU, "isotropic noise of equal trace generalises worse than noise of covariance D/b",
              error("isotropic") - error("exact"), MORE, "test error with isotropic noise less that with D/b",
              resolution=one),
    ]  # fmt: skip
    if not is_seen(first):
        return found

    def closed(source: str, content: str, kind: str, holds: tuple[float, float] = MORE) -> Answer | str:
        return asked(source, content, descent - error(kind) - gap / 2, holds,
                     f"test error of gradient descent less that with noise, less half of the gap to SGD, which is "
                     f"{gap.mean():.3f} on average", resolution=one)  # fmt: skip

    return [
        *found,
        closed(GOLMANT, "noise of covariance D/b added to full batches closes the gap", "exact"),
        asked(GOLMANT, "and is as good as mini-batches, within a percentage point", error("exact") - real,
              (-0.01, 0.01), "test error with noise less that of SGD", resolution=one),
        closed(CS, "what matters is η/b: half of η at half of b, the noise the same, closes it as well",
               "exact, η/2"),
        closed(GOLMANT, "noise from a small subset of the samples closes it", "subset"),
        closed(GOLMANT, "noise of the Fisher information, labels drawn from the model, closes it", "fisher"),
        closed(GOLMANT, "noise of the Hessian by products with it closes it", "hessian"),
        closed(ZHU, "isotropic noise of equal trace does not close it", "isotropic", LESS),
    ]  # fmt: skip


def well_sentences(found: Sequence[xr.Dataset]) -> list[Answer | str]:
    """Dwell times, measured by paths."""

    def log(run: xr.Dataset, place: str, out: float, noise: str) -> float:
        chosen = (run.place == place) & (run.out == out) & (run.noise == noise)
        return float(np.log(run["mean"].values[chosen.values][0]))

    def isotropic_longer(place: str, out: float) -> list[float]:
        return [log(r, place, out, "isotropic") - log(r, place, out, "∝ curvature") for r in found]

    def sharper_sooner(noise: str) -> list[float]:
        return [log(r, "well", FLAT, noise) - log(r, "well", SHARP, noise) for r in found]

    beyond = [s - np.log(SHARP / FLAT) for s in sharper_sooner("∝ curvature")]
    same = [s - np.log(SHARP / FLAT) for s in sharper_sooner("isotropic")]
    return [
        asked(GOLMANT, "of two wells of one depth the sharper is left sooner by more than the ratio of curvatures",
              beyond, (0.3, INF), "ln(time in the flat over time in the sharp well) less ln 4",
              condition="D = cH", otherwise=same),
        asked(ZHU, "noise shaped like the curvature leaves a minimum sooner than isotropic noise",
              isotropic_longer("well", SHARP), MORE, "ln(time with isotropic noise over time with D = cH)",
              condition="the way out is along the sharper direction", otherwise=isotropic_longer("well", FLAT)),
        asked(DANESHMAND, "noise shaped like the curvature leaves a saddle sooner than isotropic noise",
              isotropic_longer("saddle", SHARP), MORE,
              "ln(time with isotropic noise over time with D = c|H|)",
              condition="the way down is the sharper direction", otherwise=isotropic_longer("saddle", FLAT)),
    ]  # fmt: skip


def slopes(found: xr.Dataset, name: str) -> list[float]:
    """d ln `name`/d ln h over the directions of each seed where both are positive; NaN for fewer than three."""
    result = []
    for _, one in found.groupby("seed"):
        h, y = one["curvature"].values.ravel(), one[name].values.ravel()
        usable = (h > 0) & (y > 0)
        several = usable.sum() > 2
        result.append(float(np.polyfit(np.log(h[usable]), np.log(y[usable]), 1)[0]) if several else float("nan"))
    return result


def radius_sentences(found: xr.Dataset) -> list[Answer | str]:
    """Radii of the network's own directions, (seed, direction)."""
    return [asked(GOLMANT, "the radius of stability is inversely proportional to the curvature",
                  slopes(found, "radius"), (-1.2, -0.8),
                  "d ln R/d ln h over leading directions of the network, R of one mean exit time")]  # fmt: skip


def agreement_sentences(found: Mapping[str, Sequence[xr.Dataset]]) -> list[Answer | str]:
    """D → Fisher → Hessian."""
    last = {case: [run.isel(step=-1) for run in runs] for case, runs in found.items()}
    gap = {case: [float(run.gap) for run in runs] for case, runs in last.items()}
    well, half, few, squared = (gap[case] for case in CASES)
    first = [float(np.log(r.gap[-1] / r.gap[0])) for r in found[CASES[0]]]
    shape = [float(r.d_h) for r in last[CASES[3]]]
    end = "|D − H|/|H| at the end"
    return [
        asked(GOLMANT, "near an optimum the covariance of gradients is the Hessian, within a tenth", well,
              (-INF, 0.1), end, condition="labels are drawn from the network, many of them", otherwise=few),
        asked(TRIED, "the same where no network can tell which half of the labels is random", half,
              (-INF, 0.1), end),
        asked(TRIED, "the same for the squared loss", squared, (-INF, 0.1), end),
        asked(TRIED, "for the squared loss D and H have one shape, cosine above 0.9", shape, (0.9, INF),
              "tr(DH)/(|D||H|) at the end"),
        asked(GOLMANT, "D and H come together as training goes on", first, LESS,
              "ln(|D − H|/|H| at the end over that at the start), labels drawn from the network"),
        asked(TRIED, "the Fisher information comes to the Hessian, within a tenth, though the labels are memorised",
              [1 - float(r.f_h) for r in last[CASES[2]]], (-INF, 0.1), "1 − tr(FH)/(|F||H|), few random labels"),
    ]  # fmt: skip


def task_sentences(tasks: Sequence[xr.Dataset], networks: Sequence[xr.Dataset]) -> list[Answer | str]:
    """Comparing tasks and architectures by D."""
    spectra = np.stack([run["eigenvalues"].values for run in tasks])
    known = recognised(spectra) if len(tasks) > 1 else np.array([np.nan])
    found = [asked(ITA, "tasks can be compared by the spectrum of D, which tells them apart", known,
                   (1 / len(PAIRS), INF),
                   f"share of pairs of digits known again by the spectrum; 1/{len(PAIRS)} by chance",
                   resolution=3 / (len(PAIRS) * len(tasks)))]  # fmt: skip
    if networks and networks[0].sizes["network"] > 2:
        found.append(asked(CS, "a larger rank(D)/d + var λ(D) goes with a lower test error",
                           [-ranks(r.score.values, r.test_error.values) for r in networks], MORE,
                           "rank correlation with test accuracy over networks",
                           resolution=grain(networks[0].sizes["network"])))  # fmt: skip
    return found


def ranks(one, other) -> float:
    """Spearman's, ties by their mean rank; NaN where one does not vary or is not finite."""
    from scipy.stats import rankdata

    one, other = np.asarray(one, float), np.asarray(other, float)
    if not (np.isfinite(one).all() and np.isfinite(other).all()) or np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    return float(np.corrcoef(rankdata(one), rankdata(other))[0, 1])


def grain(cases: int) -> float:
    """The least change of a rank correlation over n cases, 12/(n³ − n): two neighbours trade places."""
    return 12.0 / (cases**3 - cases)
