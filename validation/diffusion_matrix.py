"""The experiment `diffusion-matrix`: spectrum and rank of D over training, in four networks."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils import vector_to_parameters

from sde_sgd.experiment import Experiment, Setting
from sde_sgd.study import Study

from .data import IMAGES, Split, load, require_folder, usable_device
from .experiment_figures import plot_network_spectra
from .gradient_noise import GradientNoise
from .networks import network, parameter_count
from .training import train_sgd

FOUR = ("tiny-fc", "small-fc", "small-lenet", "small-allcnn")
# Chaudhari & Soatto 2018: mean and std of the eigenvalues of D, rank(D)/d with the threshold λ_max·d·ε.
PUBLISHED = (
    ("small-lenet", "mnist", 0.3e-3, 2.11e-3, 0.018),
    ("small-fc", "mnist", 0.9e-3, 18.5e-3, 0.006),
    ("small-allcnn", "cifar-10", 0.27, 0.84, 0.0034),
    ("small-allcnn", "cifar-100", 0.98, 2.16, 0.0047),
)
_SCALARS = (
    *("trace", "mean_eigenvalue", "std_eigenvalue", "rank_float32", "rank_float64", "threshold_float32"),
    *("threshold_float64", "participation_ratio", "stable_rank", "entropy_rank", "eigenvalues_99"),
)


def perform(study: Study) -> None:
    """Spectra and ranks of the diffusion matrix D at fractions of the training of four networks, every rank with the
    float type of its threshold, the published figures beside them; and the three matrices that batch norm makes of D,
    against mini-batches as SGD meets them.
    """
    found = {}
    for name in study.config["networks"]:
        found[name] = study.stage("spectra", name, partial(spectra, name, study.config))
    _spectra_section(study, found)
    _published_section(study, found)
    normed = {name: stage for name, stage in found.items() if stage.attrs["batch_norm"]}
    if normed:
        _statistics_section(
            study,
            {
                name: study.stage("statistics", name, partial(statistics, name, stage, study.config))
                for name, stage in normed.items()
            },
        )


def data_of(name: str, config: Mapping[str, Any]) -> Split:
    """The data for a network: pooled to 7 × 7 for the connected ones, the first five classes for tiny-fc."""
    options: dict[str, Any] = {"seed": config["seed"]}
    if config["directory"]:
        options["directory"] = config["directory"]
    if name in ("tiny-fc", "small-fc"):
        options["size"] = 7
    if name == "tiny-fc":
        options["classes"] = range(5)
    split = load(config["data"], **options)
    most = min(config["samples"], len(split.inputs))
    return split._replace(inputs=split.inputs[:most], targets=split.targets[:most]).to(config["device"])


def spectra(name: str, config: Mapping[str, Any], progress=lambda done, total: None) -> xr.Dataset:
    """Train a network by Nesterov SGD and take D = (1/N) Σ g_k g_kᵀ − g gᵀ at fractions of the training, in float64.

    Over ``stage``: ``epoch``, ``loss``, ``test_accuracy``, ``eigenvalues`` (stage, index), ``trace`` summed without
    them, mean and std over all d, and every rank of `rank_measures`; ``weights`` (stage, weight). D is in eval mode,
    dropout off, batch norm with the statistics of the whole training set at those weights.
    """
    data = data_of(name, config)
    model = _network(name, data, config)
    epochs = sorted({max(1, round(share * config["epochs"])) for share in config["stages"]})
    training = train_sgd(
        model,
        data.inputs,
        data.targets,
        epochs=config["epochs"],
        learning_rate=config["learning_rate"],
        batch_size=min(config["batch_size"], len(data.inputs)),
        sampling="reshuffling",
        momentum=config["momentum"],
        nesterov=config["momentum"] > 0,
        snapshots=epochs,
        seed=config["seed"],
    )
    rows = []
    for done, epoch in enumerate(epochs):
        weights = training["weights"].sel(epoch=epoch).values
        model = at_weights(name, weights, data, config)
        noise = GradientNoise(model, nn.CrossEntropyLoss(), (data.inputs, data.targets))
        values = noise.spectrum()
        with torch.no_grad():
            outputs = model(data.inputs)
            hits = model(data.test_inputs).argmax(1) == data.test_targets
            value = float(nn.functional.cross_entropy(outputs, data.targets))
        mean = values.sum() / noise.parameters  # over all d: those not listed are 0
        rows.append(
            {
                "epoch": epoch,
                "loss": value,
                "test_accuracy": float(hits.double().mean()),
                "eigenvalues": values,
                "weights": weights,
                "trace": float(noise.trace()),
                "mean_eigenvalue": mean,
                "std_eigenvalue": np.sqrt((values**2).sum() / noise.parameters - mean**2),
            }
            | {key: value for key, value in noise.ranks().items() if key in _SCALARS}
        )
        progress(done + 1, len(epochs))
    dims = {"eigenvalues": ("stage", "index"), "weights": ("stage", "weight")}
    return xr.Dataset(
        {key: (dims.get(key, "stage"), np.stack([row[key] for row in rows])) for key in rows[0]},
        coords={"stage": [epoch / config["epochs"] for epoch in epochs], "index": np.arange(1, len(values) + 1)},
        attrs={
            "network": name,
            "data": config["data"],
            "parameters": parameter_count(model),
            "samples": len(data.inputs),
            "statistics": "eval",
            "gradient_dtype": "float64",
            "batch_norm": int(_normed(model)),
        },
    )


def statistics(
    name: str, stage: xr.Dataset, config: Mapping[str, Any], progress=lambda done, total: None
) -> xr.Dataset:
    """D in its three senses ("eval", "full", "minibatch") on the same samples at the end of training, dropout off.

    The reference is b·Cov of real mini-batches in training mode, two independent sets D₁, D₂ of them; their product has
    no Monte-Carlo bias, so that

        cosine(A) = tr(A (D₁+D₂)/2) / (‖A‖_F √tr(D₁D₂))

    is of A with the D that SGD meets. Over ``statistics``: ``trace``, ``participation_ratio``, ``cosine``; for
    "minibatch" the cosine is that of D₁ with D₂, the share of it that is not Monte-Carlo noise.
    """
    data = data_of(name, config)
    some = min(config["statistics_samples"], len(data.inputs))
    pair = data.inputs[:some], data.targets[:some]
    model = at_weights(name, stage["weights"].values[-1], data, config)
    drawn = {"batch_size": min(config["batch_size"], some), "batches": config["batches"]}
    made = {
        "eval": {"statistics": "eval"},
        "full": {"statistics": "full"},
        "minibatch": {"statistics": "minibatch", "seed": 2 * config["seed"], **drawn},
        "second": {"statistics": "minibatch", "seed": 2 * config["seed"] + 1, **drawn},
    }
    factors, traces = {}, {}
    for done, (label, options) in enumerate(made.items()):
        factors[label] = factor(GradientNoise(model, nn.CrossEntropyLoss(), pair, **options))
        traces[label] = float((factors[label] ** 2).sum())
        progress(done + 1, len(made))
    square = {label: product(rows, rows) for label, rows in factors.items()}
    real = product(factors["minibatch"], factors["second"])
    cosines = {
        label: 0.5
        * sum(product(factors[label], factors[other]) for other in ("minibatch", "second"))
        / np.sqrt(square[label] * max(real, 1e-300))
        for label in ("eval", "full")
    }
    cosines["minibatch"] = real / np.sqrt(square["minibatch"] * square["second"])
    kinds = list(cosines)
    return xr.Dataset(
        {
            "trace": ("statistics", [traces[kind] for kind in kinds]),
            "participation_ratio": ("statistics", [traces[kind] ** 2 / square[kind] for kind in kinds]),
            "cosine": ("statistics", [cosines[kind] for kind in kinds]),
        },
        coords={"statistics": kinds},
        attrs={"network": name, "samples": some, **drawn, "gradient_dtype": "float64"},
    )


def factor(noise: GradientNoise) -> NDArray[np.float64]:
    """Centred gradients A (n, d) in float64 with D = AᵀA."""
    count, size = noise._losses.count, noise.parameters
    noise._require(4 * 8 * count * size, f"{count} gradients of {size} weights", "lower batches or statistics_samples")
    rows = torch.cat([chunk.double() for chunk in noise.sample_gradients()]).cpu().numpy()
    return (rows - rows.mean(axis=0)) * np.sqrt(noise._scale)


def product(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """tr(AᵀA BᵀB) = ‖A Bᵀ‖²."""
    return float(((a @ b.T) ** 2).sum())


def at_weights(name: str, weights: NDArray[np.float64], data: Split, config: Mapping[str, Any]) -> nn.Module:
    """The network at `weights` in eval mode: no dropout, batch norm with the statistics of all training samples."""
    model = _network(name, data, config, dropout=0.0)
    vector_to_parameters(torch.from_numpy(np.array(weights)).to(data.inputs.device), model.parameters())
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    model.eval()
    for module in norms:
        module.reset_running_stats()
        module.momentum = 1.0  # the statistics of one pass over everything, not a running average
        module.train()
    with torch.no_grad():
        model(data.inputs)
    return model.eval()


def _network(name: str, data: Split, config: Mapping[str, Any], dropout: float | None = None) -> nn.Module:
    shape, classes = data.inputs.shape[1:], int(data.targets.max()) + 1
    return network(name, shape, classes, seed=config["seed"], dropout=dropout).to(data.inputs.device)


def _normed(model: nn.Module) -> bool:
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


# The report ---------------------------------------------------------------------------------------------------


def _spectra_section(study: Study, found: Mapping[str, xr.Dataset]) -> None:
    section = study.report.section("The spectrum of D over training")
    gap = max(float((abs(s.eigenvalues.sum("index") - s.trace) / s.trace).max()) for s in found.values())
    section.verdict(
        gap < 1e-8,
        f"The eigenvalues add up to tr D, summed without them: largest relative difference {gap:.1e} (promised: 1e-8).",
    )
    share = max(float(s.participation_ratio.max()) / s.attrs["parameters"] for s in found.values())
    section.verdict(
        share < 0.1,
        f"D is far from isotropic: its participation ratio (tr D)²/tr D² is at most {100 * share:.2g} % of d in every "
        "network and stage (isotropic: 100 %; promised: below 10 %).",
    )
    fewer = [
        float(s.rank_float64[i]) / max(1.0, float(s.rank_float32[i]))
        for s in found.values()
        for i in range(s.sizes["stage"])
    ]
    section.verdict(
        min(fewer) > 1,
        f"The rank that the threshold λ_max·d·ε gives is a matter of the float type: float64 counts "
        f"{min(fewer):.1f} to {max(fewer):.1f} times the directions that float32 counts, on the very same spectra.",
    )
    rows = []
    for name, stage in found.items():
        size = stage.attrs["parameters"]
        for i in range(stage.sizes["stage"]):
            s = stage.isel(stage=i)
            ranks = [f"{int(s[k])} ({100 * int(s[k]) / size:.2f} %)" for k in ("rank_float32", "rank_float64")]
            facts = [float(s.loss), float(s.test_accuracy), float(s.trace)]
            rows.append([name, int(s.epoch), *facts, *ranks, float(s.participation_ratio), int(s.eigenvalues_99)])
    section.table(
        ["network", "epoch", "loss", "test acc.", "tr D", "rank, float32", "rank, float64", "participation", "99 %"],
        rows,
        "Ranks count eigenvalues above λ_max·d·ε; the last column counts those that carry 99 % of tr D. Gradients and "
        "spectra are float64, D in eval mode; no rank exceeds N − 1.",
    )
    figure = plot_network_spectra(found)
    study.figures["spectra"] = figure
    section.figure(
        figure,
        "Eigenvalues of D at each stage of training. The level lines are the two thresholds of the last stage: where "
        "the spectrum has no gap, the rank is where the line happens to cut.",
        "Eigenvalues of D against their index on logarithmic axes, a panel for each network",
    )


def _published_section(study: Study, found: Mapping[str, xr.Dataset]) -> None:
    section = study.report.section("Beside the published figures")
    rows: list[list[Any]] = []
    data = study.config["data"]
    same = [entry for entry in PUBLISHED if entry[0] in found and entry[1] == data]
    for name, on, mean, std, rank in PUBLISHED:
        if name in found:
            rows.append([name, on, "published", f"{mean:.2g} ± {std:.3g}", f"{100 * rank:.2g} %", "not stated"])
    for name, stage in found.items():
        s, size = stage.isel(stage=-1), stage.attrs["parameters"]
        spread = f"{float(s.mean_eigenvalue):.2g} ± {float(s.std_eigenvalue):.3g}"
        rows += [
            [name, data, "here", spread, f"{100 * float(s[f'rank_{kind}']) / size:.2g} %", kind]
            for kind in ("float32", "float64")
        ]
    section.table(
        ["network", "data", "", "eigenvalue, mean ± std", "rank(D)/d", "float type of ε"],
        rows,
        "Chaudhari & Soatto (2018), figure 1, and the last stage here. Mean and std are over all d eigenvalues.",
    )
    if same:
        section.text(
            f"Data of the same name were used for {', '.join(entry[0] for entry in same)}: the subset of "
            f"{study.config['samples']} training samples and the training schedule are not the published ones."
        )
    else:
        section.text(
            f"The published figures are on other data than {data}: they stand here for their orders of magnitude, and "
            "nothing is concluded from how near they are."
        )


def _statistics_section(study: Study, found: Mapping[str, xr.Dataset]) -> None:
    section = study.report.section("Batch norm makes three matrices")
    section.text(
        "With batch norm the gradient of a sample is a matter of convention: running statistics frozen (eval, the "
        "published choice), one pass over all samples (full), or real mini-batches (minibatch), which alone is the "
        "noise that SGD meets. Dropout is off in all three."
    )
    cosines = [float(s.cosine.sel(statistics="eval")) for s in found.values()]
    section.verdict(
        max(cosines) < 0.95,
        f"The D of eval mode is not the noise of SGD: its cosine with that of real mini-batches is "
        f"{min(cosines):.2f} to {max(cosines):.2f} over the networks (1: proportional; promised: below 0.95).",
    )
    rows = []
    for name, s in found.items():
        for kind in s.statistics.values:
            one = s.sel(statistics=kind)
            relative = float(one.trace / s.trace.sel(statistics="minibatch"))
            rows.append(
                [name, str(kind), float(one.trace), relative, float(one.participation_ratio), float(one.cosine)]
            )
    first = next(iter(found.values()))
    section.table(
        ["network", "statistics", "tr D", "tr D / minibatch", "participation", "cosine"],
        rows,
        f"End of training, {first.attrs['samples']} samples, b = {first.attrs['batch_size']}, two sets of "
        f"{first.attrs['batches']} mini-batches. The cosine of minibatch is that of one set with the other: below 1 "
        "by Monte-Carlo error, which the other two do not contain.",
    )


def _check(config: Mapping[str, Any]) -> None:
    usable_device(config["device"])
    require_folder(config["data"], config["directory"])
    for name in config["networks"]:
        if config["networks"].count(name) > 1:
            raise ValueError(f"networks names {name!r} twice")
    epochs = {max(1, round(share * config["epochs"])) for share in config["stages"]}
    if len(epochs) < len(config["stages"]):
        raise ValueError(f"stages {config['stages']} of {config['epochs']} epochs coincide: train for longer")


EXPERIMENT = Experiment(
    "The diffusion matrix of four networks",
    perform,
    {
        "data": Setting("digits", "a set of images", choices=IMAGES),
        "directory": Setting("", "folder of the files of data that are no digits"),
        "networks": Setting(FOUR, "by name", choices=FOUR),
        "samples": Setting(2000, "N, at most this many training samples", 16, 20_000),
        "epochs": Setting(40, "of training", 1, 1000),
        "stages": Setting((0.2, 0.4, 1.0), "fractions of the training at which D is taken", 1e-3, 1.0),
        "learning_rate": Setting(0.02, "η", 1e-6, 10.0),
        "batch_size": Setting(32, "b", 2, 4096),
        "momentum": Setting(0.9, "of Nesterov; 0 is plain SGD", 0.0, 0.999),
        "statistics_samples": Setting(256, "samples on which the three statistics are told apart", 16, 4096),
        "batches": Setting(1000, "mini-batches in each of the two reference sets", 16, 100_000),
        "seed": Setting(0, "of split, start and mini-batches", 0, 2**31),
        "device": Setting("cpu", "of torch, e.g. cuda"),
    },
    quick={
        "networks": ["tiny-fc", "small-fc"],
        "samples": 500,
        "epochs": 10,
        "statistics_samples": 128,
        "batches": 300,
    },
    check=_check,
)
