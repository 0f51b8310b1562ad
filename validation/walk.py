"""The experiment `walk`: the loss between consecutive iterates, and where SGD and its rivals go."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import xarray as xr

from sde_sgd.experiment import Experiment, Setting
from sde_sgd.study import Study

from ._sentences import sentences_section
from ._threads import one_thread
from ._walk_report import (
    report_cosines,
    report_floors,
    report_noise,
    report_segments,
    report_sweeps,
    report_valley,
)
from ._walk_runs import NETWORKS, NOISES, SCHEDULES, data_of, deviations, epochs_of, rate_of, recorded_epochs, walked
from ._walk_sentences import ASKED, sentences_of
from ._walk_valley import cosines, valley
from .data import IMAGES, require_folder

FACTORS = (0.25, 0.5, 2.0)  # of the learning rate, beside 1
NINEFOLD = 9.0  # a full-batch gradient that is a sum of nine mean gradients steps nine times as far
PUBLISHED = (
    "--data cifar-10 --directory FOLDER --small false --networks vgg-11 --noise false --image-learning-rate 0.1 "
    "--batch-size 100 --image-samples 0 --image-epochs 100 --record-epochs 1,10,25,100 --segments 500",
    "--data mnist --directory FOLDER --small false --networks mlp --learning-rate 0.1 --batch-size 100 --epochs 25 "
    "--record-epochs 1,10,25 --segments 600",
)
Runs = dict[tuple[str, str], list[xr.Dataset]]  # of a network, by kind: one per seed


@one_thread()
def perform(study: Study) -> None:
    """Networks are trained and the loss of the whole training set is taken on the segment between consecutive iterates:
    floors, heights and barriers, barriers between the floors themselves, cosines of consecutive gradients, distance,
    norm, curvature and accuracy, for SGD, for gradient descent, and for gradient descent with isotropic noise; beside
    them a valley where all of it is known.
    """
    config = study.config
    runs = all_runs(study)
    toy = study.stage("walk", "valley", partial(valley, config))
    seeds = range(config["seeds"])
    rest = [study.stage("walk", f"cosines-{seed}", partial(cosines, config, seed)) for seed in seeds]
    _published(study)
    report_segments(study, runs)
    report_floors(study, runs)
    report_noise(study, runs)
    report_sweeps(study, runs, FACTORS)
    report_cosines(study, runs, rest)
    report_valley(study, toy)
    section = sentences_section(study, sentences_of(config, runs, rest, FACTORS))
    section.text(f"“{ASKED}” marks a question about what the source measures, in no wording of its own.")


def all_runs(study: Study) -> Runs:
    """Every run of the networks, each a stage of its own."""
    config, found = study.config, {}
    for name in config["networks"]:
        data = data_of(config, name)
        for kind, options in kinds(config, name, len(data.inputs)).items():
            found[name, kind] = [
                study.stage("walk", f"{name}-{kind}-{seed}", _stage(study, data, name, kind, seed, options))
                for seed in range(config["seeds"])
            ]
        if name == "mlp" and config["noise"]:
            for kind in NOISES.values():
                found[name, f"{kind}-sgd"] = [
                    study.stage("walk", f"{name}-{kind}-sgd-{seed}", _after(study, data, name, kind, seed, run))
                    for seed, run in enumerate(found[name, kind])
                ]
    return found


def kinds(config: Mapping[str, Any], name: str, count: int) -> dict[str, dict[str, Any]]:
    """What is run of a network: SGD and, of the fully connected one, all that it is compared with."""
    rate = rate_of(config, name)
    found: dict[str, dict[str, Any]] = {"sgd": {"rate": rate, "floors": True}, "half": {"rate": rate / 2}}
    if name != "mlp":
        return {kind: options | {"curvature": False} for kind, options in found.items()}
    found["gd"] = {"rate": rate, "batch_size": count}
    found["gd-ninefold"] = {"rate": NINEFOLD * rate, "batch_size": count}
    if config["noise"]:
        for reading, deviation in deviations(config).items():
            found[NOISES[reading]] = {
                "rate": rate, "batch_size": count, "noise": deviation, "share": 0.5, "curvature": False,
            }  # fmt: skip
    for size in config["batch_sizes"]:
        found[f"batch-{size}"] = {"rate": rate, "batch_size": size, "curvature": False}
    for factor in FACTORS:
        if factor != 0.5:
            found[f"rate-{factor:g}"] = {"rate": factor * rate, "curvature": False}
    for schedule in SCHEDULES[1:]:
        found[schedule] = {"rate": rate, "schedule": schedule, "curvature": False}
    return found


def _stage(study: Study, data, name: str, kind: str, seed: int, options: Mapping[str, Any]) -> Callable:
    def compute(progress) -> xr.Dataset:
        return walked(study.config, data, name, seed, study.work(f"{name}-{kind}-{seed}"), progress, **options)

    return compute


def _after(study: Study, data, name: str, kind: str, seed: int, run: xr.Dataset) -> Callable:
    """SGD from where the noise ended, or a run that says it had no start."""

    def compute(progress) -> xr.Dataset:
        if "diverged" in run.attrs:
            return xr.Dataset(attrs={"diverged": 0})
        return walked(
            study.config, data, name, seed, study.work(f"{name}-{kind}-sgd-{seed}"), progress,
            rate=study.config["learning_rate"], start=run, share=0.5, curvature=False,
        )  # fmt: skip

    return compute


def _published(study: Study) -> None:
    config = study.config
    section = study.report.section("What was run")
    data = config["data"]
    section.text(
        f"Data: {data}; η = {config['learning_rate']:g} (mlp), {config['image_learning_rate']:g} (convolutions), b = "
        f"{config['batch_size']}, weight decay {config['weight_decay']:g}, no momentum, mini-batches by reshuffling, "
        f"{config['seeds']} seeds. "
        + ("The networks are narrow forms of the published ones, the resnet with 8 layers. " if config["small"] else "")
        + "The loss on a segment is that of the whole training set"
        + (" with batch norm's statistics of all of it." if config["statistics"] == "full" else ", running averages.")
    )
    section.text(
        f"The published setting is run by: sde-sgd run walk {PUBLISHED[0]} (resnet: --networks resnet "
        f"--image-learning-rate 0.3); and of the fully connected network by: sde-sgd run walk {PUBLISHED[1]}."
        + (" What follows is on digits, and no comparison with what was published on other data." if data == "digits"
           else "")
    )  # fmt: skip


def _check(config: Mapping[str, Any]) -> None:
    names = config["networks"]
    for name in names:
        if name not in NETWORKS or names.count(name) > 1:
            raise ValueError(f"networks must be some of {', '.join(NETWORKS)}, each once, got {name!r}")
    if list(config["record_epochs"]) != sorted(set(config["record_epochs"])):
        raise ValueError(f"record_epochs must increase, got {config['record_epochs']}")
    for name in names:
        if len(recorded_epochs(config, name)) < 2:
            raise ValueError(
                f"record_epochs = {config['record_epochs']} are one of the {epochs_of(config, name)} epochs of {name}, "
                "and the last is compared with the first: name two of them"
            )
    fewest = min(epochs_of(config, name) for name in names)
    if config["floor_epochs"] > fewest:
        raise ValueError(f"floor_epochs={config['floor_epochs']} is more than the {fewest} epochs of a run")
    require_folder(config["data"], config["directory"])
    if "mlp" not in names and config["noise"]:
        raise ValueError("noise is about the mlp: add it to networks, or take noise=false")


EXPERIMENT = Experiment(
    "A walk with SGD",
    perform,
    {
        "networks": Setting(NETWORKS, "mlp, vgg-11, resnet; all comparisons but the tables are of the mlp"),
        "data": Setting("digits", "to train on", choices=IMAGES),
        "directory": Setting("", "folder of the files of data that are no digits"),
        "small": Setting(True, "narrow forms of the networks, which train on a processor"),
        "samples": Setting(0, "of the training part for the mlp; 0: all", 0, 1_000_000),
        "image_samples": Setting(300, "for the convolutional networks; 0: all", 0, 1_000_000),
        "epochs": Setting(30, "of the mlp", 2, 10_000),
        "image_epochs": Setting(16, "of the convolutional networks", 2, 10_000),
        "record_epochs": Setting((1, 4, 12, 30), "whose steps are interpolated, counted from 1", 1, 10_000),
        "segments": Setting(36, "steps interpolated in each of them, at most", 2, 100_000),
        "floor_epochs": Setting(1, "from a valley floor to the next that it is joined to", 1, 10_000),
        "learning_rate": Setting(0.5, "η of the mlp; half of it is run, too", 1e-6, 10.0),
        "image_learning_rate": Setting(0.1, "of the convolutional networks", 1e-6, 10.0),
        "batch_size": Setting(50, "b", 1, 100_000),
        "batch_sizes": Setting((25, 200), "others, of the mlp", 1, 100_000),
        "weight_decay": Setting(1e-4, "λ", 0.0, 1.0),
        "noise": Setting(True, "gradient descent with isotropic noise, then SGD"),
        "noise_scale": Setting(1e-3, "of isotropic noise, read as a standard deviation and as a variance", 0.0, 1e3),
        "statistics": Setting("full", "of batch norm, for losses on segments and curvature", choices=("full", "eval")),
        "cosines": Setting(150, "pairs of consecutive gradients along a run", 10, 1_000_000),
        "curvatures": Setting(4, "largest eigenvalues of H along a run, less one", 1, 1000),
        "valley_steps": Setting(10_000, "at rest in the valley", 200, 10_000_000),
        "cosine_rates": Setting((0.05, 0.1, 0.2), "η of the network at rest", 1e-6, 10.0),
        "cosine_burn_in": Setting(300, "epochs before it", 1, 1_000_000),
        "cosine_steps": Setting(6000, "at rest", 100, 10_000_000),
        "seeds": Setting(6, "replicas, from the start of the weights on", 2, 1000),
    },
    quick={
        "networks": ["mlp"], "samples": 300, "epochs": 8, "record_epochs": [1, 3, 8], "segments": 6, "cosines": 48,
        "curvatures": 2, "valley_steps": 2000, "cosine_rates": [0.1], "cosine_burn_in": 50, "cosine_steps": 2000,
        "seeds": 3,
    },
    check=_check,
)  # fmt: skip
