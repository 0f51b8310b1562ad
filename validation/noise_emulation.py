"""The experiment `noise`: what the noise of SGD does, and whether noise made to order does it as well."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import xarray as xr

from sde_sgd.experiment import Experiment, Setting
from sde_sgd.study import Study

from ._noise_emulation_agreement import CASES, agreement
from ._noise_emulation_report import (
    report_agreement,
    report_noise,
    report_radii,
    report_scaling,
    report_sweep,
    report_tasks,
    report_wells,
)
from ._noise_emulation_runs import data_of, emulated, radii, sampled, scaled, seeds_of, swept
from ._noise_emulation_sentences import (
    agreement_sentences,
    noise_sentences,
    radius_sentences,
    sweep_sentences,
    task_sentences,
    well_sentences,
)
from ._noise_emulation_sharp import COLD, dwelt, minimum
from ._noise_emulation_sharp import KINDS as NOISES
from ._noise_emulation_sharp_report import report_sharp, sharp_sentences
from ._noise_emulation_tasks import architectures, pairs
from ._noise_emulation_wells import wells
from ._sentences import sentences_section
from ._threads import one_thread
from .data import IMAGES, require_folder
from .diffusion_matrix import FOUR
from .noisy_descent import KINDS


@one_thread()
def perform(study: Study) -> None:
    """Batch size against learning rate on digits with wrong labels, linear scaling, ways of sampling; gradient descent
    with noise made to order in place of mini-batches; dwell times in wells, at saddles and at a sharp
    minimum of a network under each noise, and exact ones; D, Fisher information and Hessian along training; tasks and
    networks compared by the spectrum of D.
    """
    stages = all_stages(study)
    sweeps, scaling, sampling, made, clean, held, dwell, minima, left, agreed, tasks, nets = stages
    tested = len(data_of(study.config, study.config["seed"]).test_targets)
    _published(study)
    report_sweep(study, sweeps, made["none"], clean, sampling)
    report_scaling(study, scaling)
    report_noise(study, made, sampling, tested)
    report_wells(study, dwell)
    report_sharp(study, minima, left)
    report_radii(study, held)
    report_agreement(study, agreed)
    report_tasks(study, tasks, nets)
    sgd = [float(run["late_test_error"].isel(mode=0)) for run in sampling]
    sentences_section(
        study,
        [
            *sweep_sentences(study.config, sweeps, scaling, sampling, clean["late_test_error"].values, tested),
            *noise_sentences(made, sgd, tested),
            *well_sentences(dwell),
            *sharp_sentences(left, minima),
            *radius_sentences(held),
            *agreement_sentences(agreed),
            *task_sentences(tasks, nets),
        ],
    )


def all_stages(study: Study) -> tuple:
    """Every run, each a stage of its own."""
    config = study.config
    seeds = seeds_of(config)

    def each(name: str, compute, *more) -> list[xr.Dataset]:
        label = "-".join([name, *map(_slug, more)])
        return [study.stage("noise", f"{label}-{seed}", partial(compute, config, *more, seed)) for seed in seeds]

    sweeps, scaling, sampling = each("sweep", swept), each("scaling", scaled), each("sampling", sampled)
    made = {kind: study.stage("noise", f"emulated-{kind}", partial(emulated, config, kind)) for kind in KINDS}
    half = partial(emulated, config, "exact", factor=0.5)
    made["exact, η/2"] = study.stage("noise", "emulated-exact-half", half)
    clean = study.stage("noise", "clean-descent", partial(emulated, config, "none", label_noise=0.0, ends=False))
    held = study.stage("noise", "radii", partial(radii, config, made["exact"]["weights"].values))
    dwell = each("wells", wells)
    minima = each("minimum", minimum)
    left = {
        kind: [
            study.stage("noise", f"sharp-{_slug(kind)}-{seed}", partial(dwelt, config, kind, place, seed))
            for seed, place in zip(seeds, minima)
        ]
        for kind in (*NOISES, COLD)
    }
    agreed = {case: each("agreement", agreement, case) for case in CASES}
    tasks = each("pairs", pairs)
    nets = each("networks", architectures) if config["architectures"][0] != "none" else []
    return sweeps, scaling, sampling, made, clean, held, dwell, minima, left, agreed, tasks, nets


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name)


def _published(study: Study) -> None:
    config = study.config
    train = len(data_of(config, config["seed"]).inputs)
    section = study.report.section("What was run")
    section.text(
        f"Data: {config['data']}, {train} training samples of which {100 * config['label_noise']:g} % have a wrong "
        f"label; one hidden layer of {config['hidden']} ReLU units; T = η/2b = "
        f"{config['learning_rate']:g}/{2 * config['batch_size']:g} where one is named; runs of η·steps = "
        f"{config['time']:g}; {config['seeds']} seeds, each with its own split, wrong labels, start and mini-batches. "
        "Test labels are the true ones. “Late” is the mean of ten looks at the last quarter of a run."
    )
    section.text(
        "The sources worked on CIFAR-10 and ImageNet with convolutional networks, which this experiment does not "
        "train; the nearest it can do is sde-sgd run noise --data cifar-10 --directory FOLDER --samples 5000 "
        "--hidden 256."
        + (" What follows is on digits, and no comparison with what was published on other data."
           if config["data"] == "digits" else "")
    )  # fmt: skip


def _check(config: Mapping[str, Any]) -> None:
    require_folder(config["data"], config["directory"])
    if config["data"] == "digits" and config["samples"] > 899:
        raise ValueError(f"half of the digits, 899, are trained on: samples={config['samples']} is more")
    for name in ("batch_sizes", "scaling_batches", "learning_rates"):
        values = config[name]
        if len(values) < 2 or values != sorted(set(values)):
            raise ValueError(f"{name} must hold at least two values and increase, got {values}")
    largest = max(config["batch_sizes"] + config["scaling_batches"] + [config["batch_size"], config["subset"]])
    if largest > config["samples"]:
        raise ValueError(f"a batch of {largest} is more than samples={config['samples']}")
    names = config["architectures"]
    if len(set(names)) < len(names) or ("none" in names and len(names) > 1):
        raise ValueError(f"architectures must name each once, or be none, got {names}")


EXPERIMENT = Experiment(
    "The noise of SGD, and noise made to order",
    perform,
    {
        "data": Setting("digits", "a set of images", choices=IMAGES),
        "directory": Setting("", "folder of the files of data that are no digits"),
        "samples": Setting(400, "N to train on", 16, 20_000),
        "label_noise": Setting(0.2, "share of training labels that are wrong", 0.0, 0.9),
        "hidden": Setting(32, "units of the hidden layer", 1, 1024),
        "seeds": Setting(5, "replicas", 2, 100),
        "seed": Setting(0, "the first of them", 0, 2**31),
        "time": Setting(1000.0, "η·steps of a run", 1.0, 1e6),
        "learning_rate": Setting(0.2, "η where noise is made to order", 1e-4, 10.0),
        "batch_size": Setting(4, "b there", 1, 4096),
        "learning_rates": Setting((0.1, 0.2, 0.4), "of the sweep", 1e-4, 10.0),
        "batch_sizes": Setting((4, 16, 64), "of the sweep", 1, 4096),
        "scaling_ratio": Setting(0.0125, "η/b at which b is scaled", 1e-6, 1.0),
        "scaling_batches": Setting((2, 4, 8, 16, 32, 64, 128), "b there", 1, 4096),
        "subset": Setting(32, "samples that sub-sampled noise is made of", 2, 4096),
        "products": Setting(6, "Hessian-vector products of a draw", 1, 100),
        "directions": Setting(10, "of H, whose radius of stability is told", 3, 100),
        "paths": Setting(4000, "whose exits are timed", 100, 10**6),
        "sharp_descent": Setting(15_000, "steps of descent to a sharp minimum", 100, 10**6),
        "sharp_batch": Setting(1, "b of the noise that starts there, at η = 1/2λ_max", 1, 200),
        "sharp_steps": Setting(600, "of those runs", 50, 10**6),
        "sharp_replicas": Setting(16, "of each noise and seed", 2, 200),
        "teacher_steps": Setting(200, "of the network that labels are drawn from", 1, 10**5),
        "copies": Setting(3, "labels drawn for each input", 1, 100),
        "agreement_steps": Setting(1000, "of training along which D, F and H are compared", 8, 10**6),
        "agreements": Setting(8, "times at which they are", 2, 100),
        "pair_steps": Setting(2000, "of a network on two classes", 10, 10**6),
        "architectures": Setting(FOUR, "networks compared by D, or none", choices=(*FOUR, "none")),
        "architecture_samples": Setting(400, "N of those", 16, 20_000),
        "architecture_epochs": Setting(10, "of those", 1, 1000),
    },
    quick={
        "samples": 200, "hidden": 16, "seeds": 3, "time": 200.0, "learning_rates": [0.2, 0.4], "batch_sizes": [4, 32],
        "scaling_ratio": 0.025, "scaling_batches": [2, 8, 32, 64], "products": 2, "paths": 1000, "agreement_steps": 300,
        "agreements": 4, "copies": 1, "pair_steps": 1000, "architectures": ["none"],
        "sharp_descent": 8000, "sharp_steps": 100, "sharp_replicas": 4,
    },
    check=_check,
)  # fmt: skip
