"""The demo's chapters on torch: torchsde on the same process, a module on the same samples, a first real network; and
what `sde-sgd diagnose` says of that network."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torchsde  # noqa: F401  (so that a missing extra is said before the run starts)
import xarray as xr

import sde_sgd as sde
from sde_sgd.demo import common_grid, distance_of, measured, name_of
from sde_sgd.distances import Distance, blocks_of, l1_distance
from sde_sgd.figures import plot_spectrum
from sde_sgd.study import Road, Study

from ._diagnose_report import summary
from ._threads import one_thread
from .diagnose import Question, diagnosed
from .neuron import replay_sgd
from .spectra import digits_spectra
from .torchsde_density import simulate_torchsde


def networks(study: Study) -> None:
    """Chapter 2: torchsde, torch.optim.SGD, and the spectrum of D of a digits network."""
    with one_thread():
        neuron = sde.landscapes.get(study.config["landscape"])
        for temperature in study.config["temperatures"]:
            _torchsde(study, neuron, temperature)
        _module(study, neuron)
        _digits(study)


def _torchsde(study: Study, neuron, temperature: float) -> None:
    config, label = study.config, name_of(temperature)
    prediction = study.results[f"/prediction/{label}"]
    step = config["path_steps"][-1]
    paths = study.results[f"/measurement/paths-{label}"].sel(h=step)

    def compute(progress) -> xr.Dataset:
        sampled = simulate_torchsde(
            neuron.at_temperature(temperature),
            config["start"],
            grid=common_grid(config),
            step=step,
            steps=config["torchsde_updates"],
            paths=config["torchsde_paths"],
            seed=config["seed"],
            every=2,
            burn_in=round(config["burn_in_time"] / step),
            progress=progress,
        )
        blocks = blocks_of(sampled)
        kept = measured(sampled, l1_distance(blocks, prediction.extrapolated))
        between = l1_distance(blocks, paths.density, paths.density_error)
        return kept.assign(to_paths=between.distance, to_paths_error=between.error, to_paths_floor=between.floor)

    stage = study.stage("measurement", f"torchsde-{label}", compute)
    found = distance_of(stage)
    study.roads.append(
        Road(
            "torchsde",
            temperature,
            f"h = {step:g}",
            step,
            found.distance,
            found.error,
            found.floor,
            None,
            "same scheme, same step bias",
        )
    )
    between = Distance(*(float(stage[f"to_paths{k}"]) for k in ("", "_error", "_floor")))
    study.roads.append(
        Road(
            "torchsde to Numba paths",
            temperature,
            f"both h = {step:g}",
            step,
            between.distance,
            between.error,
            between.floor,
            between.agrees(),
            "the bias is common",
        )
    )
    study.panels[temperature][f"torchsde, h = {step:g}"] = stage.density


def _module(study: Study, neuron) -> None:
    config = study.config
    temperature = min(config["temperatures"])

    def compute(progress) -> xr.Dataset:
        gaps = []
        for i, batch in enumerate(config["batch_sizes"]):
            eta = 2 * temperature * batch
            run = sde.sgd(
                neuron,
                config["start"],
                learning_rate=eta,
                batch_size=batch,
                seed=config["seed"],
                steps=config["replay_updates"],
                save_every=1,
            )
            picks = sde.sample_indices(
                neuron.samples, batch_size=batch, steps=config["replay_updates"], seed=config["seed"]
            )
            real = replay_sgd(
                picks,
                neuron.data["x"],
                neuron.data["y"],
                config["start"],
                learning_rate=eta,
                weight_decay=neuron.parameters["weight_decay"],
            )
            gaps.append(np.abs(np.stack([run.w[0], run.c[0]], -1) - real).max())
            progress(i + 1, len(config["batch_sizes"]))
        return xr.Dataset({"largest_difference": ("batch_size", gaps)}, coords={"batch_size": config["batch_sizes"]})

    stage = study.stage("diagnostics", "replay", compute)
    section = study.report.section("The same recursion in torch")
    worst = float(stage.largest_difference.max())
    section.text(
        f"A torch.nn.Module with these two weights, trained by torch.optim.SGD on the very samples the Numba kernel "
        f"drew, at T = {temperature:g} for {config['replay_updates']} steps."
    )
    section.verdict(
        worst < 1e-12,
        f"Largest difference of a weight over all steps and batch sizes: {worst:.1e} (promised: below 1e-12).",
    )
    section.table(
        ["batch size", "largest difference"],
        [[int(b), f"{d:.1e}"] for b, d in zip(stage.batch_size.values, stage.largest_difference.values)],
    )


def _digits(study: Study) -> None:
    def compute(progress) -> xr.Dataset:
        spectra = digits_spectra(seed=study.config["seed"])
        progress(1, 1)
        return spectra

    stage = study.stage("diagnostics", "digits", compute)
    section = study.report.section("A first real network")
    parameters, samples = int(stage.attrs["parameters"]), int(stage.attrs["samples"])
    section.text(
        f"49–16–5 on scikit-learn's digits, pooled to 7×7, classes 0 to 4: {parameters} weights, "
        f"{samples} training samples. "
        "The exact spectrum of D from the Gram matrix of per-sample gradients, at three stages of "
        "training. The rank that "
        "the literature quotes counts eigenvalues above λ_max·d·ε, so it depends on the float type's ε by a factor of "
        f"{float((stage.rank_float64 / stage.rank_float32).mean()):.0f} on one and the same spectrum; "
        f"the participation ratio "
        "(tr D)²/tr D² does not."
    )
    rows = []
    for i in range(stage.sizes["stage"]):
        s = stage.isel(stage=i)
        ranks = [f"{int(r)} ({100 * int(r) / parameters:.1f} %)" for r in (s.rank_float32, s.rank_float64)]
        facts = [f"{float(s.loss):.4f}", f"{float(s.test_accuracy):.3f}", f"{float(s.trace):.3f}"]
        rows.append([int(s.epoch), *facts, *ranks, f"{float(s.participation_ratio):.2f}", int(s.eigenvalues_99)])
    columns = [
        "epoch",
        "loss",
        "test acc.",
        "tr D",
        "rank (float32)",
        "rank (float64)",
        "participation",
        "99 % of tr D",
    ]
    section.table(columns, rows, "Gradients and spectra in float64; a rank's float type is that of its threshold.")
    spectra = {f"epoch {int(stage.epoch[i])}": stage.eigenvalues[i].values for i in range(stage.sizes["stage"])}
    last = stage.isel(stage=-1)
    ax = plot_spectrum(
        spectra,
        thresholds={
            "λ_max·d·ε, float32": float(last.threshold_float32),
            "λ_max·d·ε, float64": float(last.threshold_float64),
        },
    )
    study.figures["digits-spectrum"] = ax.figure
    section.figure(
        ax.figure,
        f"Spectrum of D and the thresholds of the last stage, at which {int(last.eigenvalues_99)} of {parameters} "
        "directions carry 99 % of the trace.",
        "Eigenvalues of D against their index",
    )


_ASKED: dict[str, Any] = {
    "name": "tiny-fc",
    "data": "digits",
    "size": 7,
    "classes": [0, 1, 2, 3, 4],
    "learning_rate": 0.1,
    "batch_size": 8,
    "epochs": 40,
    "weight_decay": 0.002,
}


def diagnosis(study: Study) -> None:
    """Chapter 4: what `sde-sgd diagnose` says of tiny-fc on digits, on a page of its own beside the demo's."""
    name = "diagnose"
    fresh = not study.run.has(f"diagnostics-{name}")  # so that a demo begun afresh has a page as fresh
    with one_thread():
        run = diagnosed(Question(**_ASKED), study.console, root=study.run.folder.parent, fresh=fresh)
    said = summary(run)
    local = study.stage("diagnostics", name, lambda progress: run.result()["local"].to_dataset())
    options = " ".join(
        f"--{name.replace('_', '-')} {','.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in _ASKED.items()
        if name != "name"
    )
    section = study.report.section("A network diagnosed")
    section.text(
        f"The digits network again, after {_ASKED['epochs']} epochs with weight decay, by the command that takes "
        f"anybody's network in the place of tiny-fc: sde-sgd diagnose {_ASKED['name']} {options}. Where a hypothesis "
        "of the theory fails, that is a finding about this network."
    )
    address = os.path.relpath(run.report_path, study.run.folder).replace(os.sep, "/")
    section.link(address, "Its own page, with the predicted variances")
    for found in said["verdicts"]:
        if found["holds"] is None:
            section.text(found["sentence"])
        else:
            section.verdict(found["holds"], found["sentence"])
    ax = plot_spectrum({"D": local["diffusion_eigenvalues"].values, "H": local["hessian_eigenvalues"].values})
    study.figures["diagnose-spectrum"] = ax.figure
    falls = [float(local[f"{of}_eigenvalues"][0] / local[f"{of}_eigenvalues"][-1]) for of in ("diffusion", "hessian")]
    section.figure(
        ax.figure,
        f"Over {local.sizes['index']} directions the eigenvalues of D fall by a factor of {falls[0]:.0f}, those of H "
        f"by {falls[1]:.0f}: the noise is far from isotropic, as the curvature is.",
        "Eigenvalues of D and H against their index, both falling",
    )
    section.text(
        f"Noise and curvature do not have the same directions: in the space of those shown, which holds "
        f"{100 * float(local['inside']):.0f} % of tr D, |HD − DH| is {float(local['commutator']):.2f} of |HD|. The "
        f"current that follows is {float(local['current']):.2f} of the noise."
    )
    section.table(["", "value"], [[name, value] for name, value in said["numbers"].items()], "At the weights reached.")
