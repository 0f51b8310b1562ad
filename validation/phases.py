"""The experiment `phases`: drift and diffusion, the information plane, random labels, the way from the start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import xarray as xr

from sde_sgd.experiment import Experiment, Setting
from sde_sgd.study import Study

from . import _phases_known as known
from ._phases_answers import answers
from ._phases_growth import LEAST
from ._phases_report import report_beside, report_growth, report_labels, report_plane, report_ratio
from ._phases_runs import NARROW, data_of, followed, record_steps, settings_of
from ._sentences import sentences_section
from ._threads import one_thread
from .data import IMAGES, require_folder


@one_thread()
def perform(study: Study) -> None:
    """Mean and deviation of the gradient in every layer along training, where the one falls below the other and what
    that coincides with; information on inputs and labels by named estimators, tanh against relu, with controls; labels
    at random; whether the distance from the start is a logarithm or a power. Controls without noise, without
    saturation, and systems where all of it is known.
    """
    config = study.config
    _enough(config)
    quadratic = study.stage("known", "quadratic", partial(known.quadratic, config))
    unit = study.stage("known", "unit", partial(known.unit, config))
    channel = study.stage("known", "channel", partial(known.channel, config))
    runs = {kind: [study.stage("phases", f"{kind}-{seed}", _stage(study, kind, seed))
                   for seed in range(config["seeds"])] for kind in kinds(config)}  # fmt: skip
    _published(study)
    report_ratio(study, runs, quadratic)
    report_beside(study, runs)
    report_plane(study, runs, unit, channel)
    report_labels(study, runs)
    report_growth(study, runs)
    sentences_section(study, answers(config, runs))


def kinds(config: Mapping[str, Any]) -> list[str]:
    """Narrow networks, and wide ones for each share of random labels, 0 and 1 among them."""
    return [*NARROW, *(f"random-{share:g}" for share in sorted({0.0, 1.0, *config["random_labels"]}))]


def _stage(study: Study, kind: str, seed: int) -> Callable[[Callable], xr.Dataset]:
    def compute(progress) -> xr.Dataset:
        run = followed(study.config, kind, study.config["seed"] + seed, study.work(f"{kind}-{seed}"), progress)
        return run.assign_attrs(seed=seed)

    return compute


def _published(study: Study) -> None:
    config = study.config
    section = study.report.section("What was run")
    section.text(
        f"Data: {config['data']}; fully connected networks with hidden layers {', '.join(map(str, config['hidden']))} "
        f"(no batch norm), η = {config['learning_rate']:g} (relu {config['relu_learning_rate']:g}), "
        f"b = {config['batch_size']}, {config['epochs']} epochs by reshuffling, "
        f"{config['seeds']} seeds; with weight decay {config['decay']:g} where it says decay, else none; "
        "gradient descent with as many steps of the same η. Seeds differ in the start of the weights and the order of "
        "the samples, on one split of the data; with labels at random in the split and the labels, too. Intervals are "
        "those of such repetitions, not of other data."
    )
    section.text(
        "The information plane was published for 4096 patterns of 12 bits, with hidden layers 10, 7, 5, 4, 3 of tanh "
        "and 30 bins, of which nearest here is: sde-sgd run phases --hidden 10,7,5,4,3 --bins 30 --plane-samples 4096 "
        "--data mnist --directory FOLDER --samples 4096 --batch-size 256 --epochs 2000. Random labels were published "
        "on CIFAR-10 with all of its training images; a fully connected network on it is run by: sde-sgd run phases "
        "--data cifar-10 --directory FOLDER --wide 512,512,512 --label-samples 50000 --label-batch-size 128 "
        "--samples 4096."
        + (" What follows is on digits, and no comparison with what was published on other data."
           if config["data"] == "digits" else "")
    )  # fmt: skip


def _enough(config: Mapping[str, Any]) -> None:
    """Laws of growth need records after the first epoch: refused before anything is trained."""
    for kind, names in (("tanh", "epochs"), ("random-1", "label_epochs")):
        made = settings_of(config, kind, len(data_of(config, kind, config["seed"]).inputs))
        late = int((record_steps(made["steps"], config["records"]) >= made["per_epoch"]).sum())
        if late < LEAST:
            raise ValueError(
                f"{late} records come after the first epoch, and a law of growth needs {LEAST}: raise {names}, "
                f"now {config[names]}, or records, now {config['records']}"
            )


def _check(config: Mapping[str, Any]) -> None:
    require_folder(config["data"], config["directory"])


EXPERIMENT = Experiment(
    "Two phases? Gradients, information and the way from the start",
    perform,
    {
        "data": Setting("digits", "to train on", choices=IMAGES),
        "directory": Setting("", "folder of the files of data that are no digits"),
        "samples": Setting(0, "of the training part for the narrow networks; 0: all", 0, 1_000_000),
        "hidden": Setting((12, 8, 6), "units of the narrow networks", 1, 10_000),
        "learning_rate": Setting(0.1, "η of the narrow networks", 1e-6, 10.0),
        "relu_learning_rate": Setting(0.05, "η of the one with relu, which a large one kills", 1e-6, 10.0),
        "batch_size": Setting(64, "b of the narrow networks, at which the SNR is taken", 1, 100_000),
        "epochs": Setting(500, "of the narrow networks", 2, 1_000_000),
        "decay": Setting(2e-3, "weight decay of the control that does not saturate", 1e-8, 1.0),
        "records": Setting(70, "of gradients along a run, even in the logarithm of the steps", 20, 10_000),
        "sharp_every": Setting(3, "records between those of λ_max", 1, 1000),
        "plane_every": Setting(2, "records between those of information", 1, 1000),
        "plane_samples": Setting(512, "n of information; its cap is log₂ n", 8, 20_000),
        "bins": Setting(30, "for each unit", 2, 100_000),
        "noise": Setting(0.1, "σ added to activations; and its share of their deviation", 1e-6, 1e3),
        "random_labels": Setting((0.0, 0.5, 1.0), "shares of labels drawn anew; 0 and 1 are always run", 0.0, 1.0),
        "wide": Setting((64, 64), "units of the networks for them, relu", 1, 10_000),
        "label_samples": Setting(400, "of the training part for them", 20, 1_000_000),
        "label_learning_rate": Setting(0.1, "η for them", 1e-6, 10.0),
        "label_batch_size": Setting(16, "b for them", 1, 100_000),
        "label_epochs": Setting(250, "for them", 2, 1_000_000),
        "quadratic_runs": Setting(100, "of SGD on the quadratic", 10, 100_000),
        "seeds": Setting(5, "replicas, from the start of the weights on", 2, 1000),
        "seed": Setting(0, "the first of them", 0, 2**31),
    },
    quick={
        "samples": 400, "learning_rate": 0.3, "batch_size": 32, "epochs": 100, "relu_learning_rate": 0.2,
        "decay": 5e-3, "records": 36,
        "plane_samples": 256, "random_labels": [0.0, 1.0], "label_samples": 150, "label_epochs": 200,
        "label_batch_size": 10, "quadratic_runs": 40, "seeds": 3,
    },
    check=_check,
)  # fmt: skip
