"""The report of the phases: every figure with the sentence it supports, intervals over seeds."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import xarray as xr

from sde_sgd.study import Study

from . import _phases_summary as of
from . import phases_figures as figures
from ._phases_growth import AHEAD
from ._phases_known import BATCHES, START, UNIT_BINS
from ._phases_runs import ESTIMATORS, NARROW
from ._phases_tables import ranged, resolution_of, shown, spacing, spacing_of, times
from ._report_figures import add_figure
from ._sentences import student

TITLES = {
    "tanh": "tanh, SGD",
    "relu": "relu, SGD",
    "decay": "tanh, SGD with decay",
    "descent": "tanh, gradient descent",
}
_Z = 4.0


def counted(runs: of.Runs) -> dict[str, list[xr.Dataset]]:
    """The narrow networks under their titles."""
    return {TITLES[kind]: list(runs[kind]) for kind in NARROW}


def labelled(runs: of.Runs) -> dict[str, list[xr.Dataset]]:
    """The wide networks under their shares of random labels."""
    return {f"{100 * float(kind.removeprefix('random-')):g} % random": list(several)
            for kind, several in runs.items() if kind.startswith("random-")}  # fmt: skip


def report_ratio(study: Study, runs: of.Runs, known: xr.Dataset) -> None:
    """The fall of the signal-to-noise ratio, per layer and by batch size, and the quadratic."""
    section = study.report.section("Drift, then diffusion")
    b, grain = study.config["batch_size"], spacing(study.config, runs["tanh"])
    section.text(
        "SNR is |g|/√tr D_b of a layer's weights, exact over all samples: g the gradient, D_b the covariance of one "
        f"mini-batch, b = {b}, for gradient descent, too, which draws none. The crossing is the last fall through 1 of "
        f"a geometric mean over {of.SMOOTH} neighbouring records, which late in a run are a factor "
        f"{np.exp(grain):.2f} in steps apart. Training accuracy at the end: "
        + "; ".join(f"{title} {shown((run['accuracy'].values[-1] for run in several), resolution_of(several))}"
                    for title, several in counted(runs).items()) + "."
    )  # fmt: skip
    rows = []
    for title, several in counted(runs).items():
        for layer in [*range(several[0].sizes["layer"]), None]:
            found, ratios = [of.crossing_of(run, layer) for run in several], [of.ratio(run, layer) for run in several]
            rows.append([title, "all" if layer is None else layer + 1, times(r[0] for r in ratios),
                         times(np.nanmax(r) for r in ratios), ranged(f.first for f in found),
                         times((f.last for f in found), grain), shown((f.falls for f in found), 3 / len(found)),
                         times(r[-1] for r in ratios)])  # fmt: skip
    section.table(
        ["run", "layer", "SNR, start", "largest SNR", "first fall, range", "last fall", "falls", "SNR, end"], rows,
        "Geometric means over seeds with 95 % intervals, of steps at least a record wide to either side; of the first "
        "fall the range over seeds. 0: below 1 from the start on and never above; never: above 1 to the end. The "
        "number of falls is a mean ± its 95 % interval.",
    )  # fmt: skip
    sizes = sorted({1, b, 4 * b})
    rows = [[title, size, times(of.ratio(run, batch=size)[0] for run in several),
             times((of.crossing_of(run, batch=size).last for run in several), grain)]
            for title, several in counted(runs).items() for size in sizes
            if size < several[0].attrs["samples"]]  # fmt: skip
    section.table(
        ["run", "b at which the SNR is taken", "SNR, start", "last fall"],
        rows,
        "The same weights seen at other batch sizes: SNR ∝ √b, so that where drift ends is a matter of b.",
    )
    falls = sum(0 < of.crossing_of(run).last < np.inf for run in runs["descent"])
    add_figure(study, section, "snr", figures.plot_ratios(counted(runs)),
        "SNR per layer, means over seeds in a band of their range; dots: the last crossing of all weights together, of "
        f"each seed. Gradient descent has no noise to walk by; its SNR falls through 1 in {falls} of "
        f"{len(runs['descent'])} seeds. Where it does, the fall tells of the gradient, not of how the weights move.",
        "Four panels of curves on logarithmic axes, a line at one across each")  # fmt: skip
    gap = np.abs(known["crossing"].values - known["exact"].values) / known["error"].values
    still = float(np.abs(known["descent"].values - known["exact_descent"].values).max())
    section.verdict(
        bool((gap < _Z).all() and still < 1e-10),
        f"On a quadratic, from x₀ = {START:g}, the measured crossing is that of the closed form: SGD at b = "
        f"{', '.join(map(str, BATCHES))} at most {gap.max():.1f} standard errors off (allowed {_Z:g}), gradient "
        f"descent {still:.1e} steps (allowed 1e-10).",
    )  # fmt: skip
    section.formula(r"n^* = \dfrac{\ln\,[(h^2x_0^2-h^2S)/(D/b-h^2S)]}{-2\ln(1-\eta h)}", "crossing on a quadratic")
    add_figure(study, section, "quadratic", figures.plot_quadratic(known).figure,
        "The crossing on a quadratic, bars of two standard errors: k times the batch moves it by nearly "
        "ln k/(−2 ln(1−ηh)) steps.", "Points on two rising curves")  # fmt: skip


def report_beside(study: Study, runs: of.Runs) -> None:
    """What the crossing coincides with."""
    section = study.report.section("What the crossing coincides with")
    b, rows = study.config["batch_size"], []
    more = [4 * b] if 4 * b < runs["tanh"][0].attrs["samples"] else []
    for kind in NARROW:
        several = [of.events(run) for run in runs[kind]]
        gaps = [[of.apart(run, size) for run in runs[kind]] for size in (b, *more)]
        for name, what in of.EVENTS.items():
            if all(name in one for one in several):
                grain = spacing_of(name, study.config, runs[kind])
                rows.append([TITLES[kind], what, times((one[name] for one in several), grain),
                             *(shown((gap[name] for gap in gaps_at_b), grain) for gaps_at_b in gaps)])  # fmt: skip
    section.table(
        ["run", "where …", "step", *(f"ln(step over crossing), b = {size}" for size in (b, *more))],
        rows,
        "Steps of events, geometric means with 95 % intervals over seeds, and how far from the last crossing they are, "
        "± 95 % interval, each at least a record wide to either side; ln 2 = 0.69. The crossing moves with the b at "
        "which the SNR is taken, the events do not. "
        "What is largest only at an end of the run has no step; what is taken from last values depends on where the "
        "run ends.",
    )
    add_figure(study, section, "beside", figures.plot_beside(runs["tanh"]),
        "tanh, SGD, every seed a colour, its last crossing dotted. A cosine with w₀ falls where weights grow in other "
        "directions, though nothing of w₀ be lost: dashed, what it were had all of the way been perpendicular to w₀. "
        "The share of w₀ that is left, w·w₀/|w₀|², dotted, 0 for a start forgotten, is "
        f"{shown(run['projection'].values[-1] for run in runs['tanh'])} at the end.",
        "Three panels of curves with dotted vertical lines")  # fmt: skip


def report_plane(study: Study, runs: of.Runs, unit: xr.Dataset, channel: xr.Dataset) -> None:
    """Information, by estimators that are named, with their caps."""
    section = study.report.section("The information plane")
    n = runs["tanh"][0].attrs["plane_samples"]
    section.text(
        f"I(X;T) of n = {n} samples is at most log₂ n = {np.log2(n):.3f} bits by every estimator here, and I(Y;T) at "
        f"most H(Y) = {runs['tanh'][0].attrs['label_entropy']:.3f}: a layer that stands at the cap could hold any "
        f"amount. Bins: {study.config['bins']} for each unit; noise: σ = {study.config['noise']:g}, or (relative) that "
        "share of the layer's own deviation. Without bins or noise I(X;T) of a deterministic network is the cap, or "
        "infinite: widths are choices, and what they show is how activations lie relative to them."
    )
    rows = []
    for kind in NARROW:
        when = [of.since(kind, run, tanh) for run, tanh in zip(runs[kind], runs["tanh"])]
        known = [(run, step) for run, step in zip(runs[kind], when) if np.isfinite(step)]
        for name in ESTIMATORS:
            rows.append([TITLES[kind], name, shown(of.bits(run, name)[0].mean() for run in runs[kind]),
                         shown(of.at(run, step, name) for run, step in known),
                         shown(of.bits(run, name)[-1].mean() for run in runs[kind]),
                         shown((of.change(run, step, name) for run, step in known), 2 / n),
                         f"{np.mean([of.capped(run, name) for run in runs[kind]]):.0%}",
                         None if kind == "relu" else shown(run["saturated"].values[-1].mean() for run in runs[kind])]
                        )  # fmt: skip
    section.table(
        ["run", "estimator", "start", "reference", "end", "change", "at the cap, end", "saturated, end"], rows,
        "I(X;T), bits, mean over hidden layers, ± 95 % interval over seeds. Changes are from the reference to the end: "
        "from the last crossing of tanh, SGD, of the same seed; for relu, which has another η, from where nine tenths "
        "of the fall of its loss are over. A change below 0 is compression. At the cap: layers within "
        f"{of.AT_CAP:g} bits of log₂ n. Saturated: share of |tanh| > 0.95.",
    )  # fmt: skip
    add_figure(study, section, "estimates", figures.plot_estimates(counted(runs)),
        "I(X;T) of the last hidden layer by every estimator, means over seeds; dashed their cap, log₂ n. Beside it the "
        "share of saturated units (dotted); the controls are decay, gradient descent, relu, and bins before the "
        "nonlinearity.", "Four panels of curves under a dashed cap")  # fmt: skip
    add_figure(study, section, "plane", figures.plot_plane(counted(runs)),
        "The information plane by drawing T (σ fixed), first seed: from open to full dots; dashed the caps, log₂ n on "
        "the inputs and H(Y) on the labels.", "Curves in the plane of two informations")  # fmt: skip
    inside, above = _brackets(runs)
    section.verdict(
        inside <= 0 and above <= 1e-9,
        "The bounds from pairs hold the drawn information in every layer at every record of all runs, within five of "
        "its standard errors, and no estimate exceeds log₂ n.",
    )
    tanh = unit["information"].sel(activation="tanh").values
    grows = unit["information"].sel(activation=["relu", "linear"]).diff("weight").values
    worst = float((channel["estimate"].max("noise") - np.log2(channel["size"])).max())
    truth = float(channel["exact"].max())
    low = channel["estimate"].sel(size=channel["size"].values[0])
    section.verdict(
        bool(tanh.max() - tanh[-1] > 1 and (grows > -1e-9).all() and worst < 1e-9),
        f"Exact, for one unit with a normal input: as its weight grows, tanh in {UNIT_BINS} bins rises to "
        f"{tanh.max():.2f} bits and falls to {tanh[-1]:.2f}; relu and the identity in bins of the same width only "
        f"rise. On a Gaussian channel of {truth:.2f} bits {channel['size'].values[0]} samples give at most "
        f"{float(low.max()):.2f}, and no estimate exceeds its log₂ n.",
    )
    add_figure(study, section, "known", figures.plot_known(unit, channel),
        "Left: exact information of one unit against its weight. Right: estimates over the exact information of a "
        "Gaussian channel, bins of width 2σ; dashed for the smaller number of samples. The caps bend them all.",
        "A curve that rises and falls; estimates that level off")  # fmt: skip


def _brackets(runs: of.Runs) -> tuple[float, float]:
    """By how much the drawn value leaves its bounds, less five standard errors; by how much all exceed log₂ n."""
    outside, above = -np.inf, -np.inf
    for kind in NARROW:
        for run in runs[kind]:
            low, high, drawn = (of.bits(run, name) for name in ("pairs, low", "pairs, high", "drawn"))
            beyond = np.maximum(low - drawn, drawn - high) - 5 * run["drawn_error"].values - 1e-9
            outside = max(outside, float(beyond.max()))
            above = max(above, max(float(of.bits(run, name).max()) for name in ESTIMATORS)
                        - np.log2(run.attrs["plane_samples"]))  # fmt: skip
    return outside, above


def report_labels(study: Study, runs: of.Runs) -> None:
    """True labels against random ones."""
    kinds, grain = labelled(runs), spacing(study.config, runs["random-0"])
    section = study.report.section("Labels at random")
    rows = [[title, shown((run["accuracy"].values[-1] for run in several), resolution_of(several)),
             shown((run["test_accuracy"].values[-1] for run in several), resolution_of(several, "test_samples")),
             times(map(of.steps_to_fit, several), grain), times(of.ratio(run)[0] for run in several),
             times(of.ratio(run).max() for run in several), times((of.crossing_of(run).last for run in several), grain),
             shown(run["sharpness"].values.max() for run in several),
             shown(run["distance"].values[-1] for run in several)] for title, several in kinds.items()]  # fmt: skip
    one = next(iter(kinds.values()))[0]
    section.table(
        ["labels", "training accuracy", "test accuracy", "steps to 99 %", "SNR, start", "largest SNR", "last fall",
         "largest λ_max", "|w − w₀|"], rows,
        f"relu, {one.attrs['samples']} samples, {one.attrs['weights']} weights, η = {one.attrs['learning_rate']:g}, "
        f"b = {one.attrs['batch_size']}; means ± 95 % interval over seeds, each with a split and labels of its own, of "
        "steps and ratios geometric means with their intervals; last fall 0: never above 1 over five records.",
    )  # fmt: skip
    add_figure(study, section, "labels", figures.plot_labels(kinds),
        "Accuracy, SNR of all weights and distance from the start; means over seeds, bands of their range.",
        "Three panels of curves against steps")  # fmt: skip


def report_growth(study: Study, runs: of.Runs) -> None:
    """Logarithm against power."""
    section = study.report.section("The way from the start")
    section.text(
        "a + c ln t and c t^α, two numbers each, fitted to |w − w₀| by least squares from the end of the first epoch "
        f"on. Records are even in ln t. 'Ahead' is fitted to the first {AHEAD:.0%} of the records and predicts the "
        "rest: ln of the rms error of the power law over that of the logarithm. ΔAIC takes residuals for independent, "
        "which they are not along one run: its interval over seeds, not its size, says something. Local exponents "
        "tell whether there is a power at all: for c t^α they are equal, for the logarithm they fall as c/d. The "
        "interval of α is over seeds, and says nothing of whether a power fits."
    )
    rows = []
    wide = [kind for kind in runs if kind.startswith("random-")]
    titles = TITLES | {kind: f"relu, {title} labels" for kind, title in zip(wide, labelled(runs))}
    for kind, several in runs.items():
        laws, local = [of.laws(run) for run in several], np.array([of.exponents(run) for run in several])
        rows.append([titles[kind], shown(law.power.exponent for law in laws), *(shown(local[:, k]) for k in range(3)),
                     shown(law.logarithm.scale for law in laws), shown(law.aic for law in laws),
                     shown(law.ahead for law in laws), _choice(law.ahead for law in laws),
                     shown(law.misses[0] for law in laws), shown(law.misses[1] for law in laws)])  # fmt: skip
    section.table(
        ["run", "α", "first third", "second third", "last third", "c of the logarithm", "ΔAIC", "ahead",
         "predicts better", "power misses", "logarithm misses"], rows,
        "Exponents and comparison, ± 95 % interval over seeds; positive ΔAIC and 'ahead' speak for the logarithm. "
        "'Predicts better' is the law for which the whole interval of 'ahead' speaks. 'Misses' is the rms error "
        "ahead, relative: the better of two laws may miss, too. A free random walk has α = ½, a steady drift 1.",
    )  # fmt: skip
    chosen = {titles[kind]: list(runs[kind]) for kind in ("tanh", "relu", "descent", "random-1")}
    add_figure(study, section, "growth", figures.plot_growth(chosen),
        "|w − w₀|, seeds in grey; first seed with both laws, fitted where thick and carried on where dashed. Gradient "
        "descent is the control without noise.", "Four panels of growing curves with fits")  # fmt: skip


def _choice(ahead: Iterable[float]) -> str:
    """The law that predicts better, by the interval of ln of the errors' ratio over seeds."""
    _, low, high = student(list(ahead))
    return "logarithm" if low > 0 else "power" if high < 0 else "undecided"
