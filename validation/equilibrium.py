"""The experiment `equilibrium`: what normalisation and weight decay make of SGD, as a function and as a point."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from sde_sgd.experiment import Experiment, Setting
from sde_sgd.study import Study

from ._equilibrium_descent import descent, one_and_the_same, toy
from ._equilibrium_effects import distances
from ._equilibrium_report import (
    report_descent,
    report_mixing,
    report_norm,
    report_same,
    report_slow,
    report_toy,
    report_weights,
)
from ._equilibrium_runs import STARTS, balanced, mixed, relaxing, slowly, walked
from ._equilibrium_sentences import ASKED, sentences_of
from ._sentences import sentences_section
from ._threads import one_thread
from .data import IMAGES, require_folder

_PLAIN = {
    "toy": toy, "descent": descent, "same": one_and_the_same, "balanced": balanced, "relaxing": relaxing,
    "slow": slowly,
}  # fmt: skip
_LADDERS = ("distances-own", "distances-one", "walked")  # lists of one per ηλ


@one_thread()
def perform(study: Study) -> None:
    """A network whose loss depends on the directions of its weights alone, trained with weight decay λ: whether
    full-batch descent comes to rest, where the norm settles, and what is forgotten within some 1/(ηλ) steps, the
    function, as ensembles of three schedules that end with one ηλ tell, or the weights.
    """
    config = study.config
    runs = all_runs(study)
    _setting(study)
    report_toy(study, runs["toy"])
    report_descent(study, runs["descent"])
    report_same(study, runs["same"])
    report_norm(study, runs["balanced"], runs["relaxing"])
    report_mixing(study, runs["distances-own"], runs["distances-one"])
    report_weights(study, runs["walked"])
    report_slow(study, runs["slow"])
    sentences_section(study, sentences_of(config, runs))


def all_runs(study: Study) -> dict[str, list]:
    """Every stage, by kind: one per seed, or a list of one per ηλ."""
    config = study.config
    found: dict[str, list] = {name: [] for name in (*_PLAIN, *_LADDERS)}
    for seed in range(config["seed"], config["seed"] + config["seeds"]):
        for name, run in _PLAIN.items():
            found[name].append(study.stage("equilibrium", f"{name}-{seed}", partial(run, config, seed)))
        ladders: dict[str, list] = {name: [] for name in _LADDERS}
        for place in range(len(config["intrinsic"])):
            ends: dict[str, Any] = {}
            for starts in STARTS:
                key = f"{starts}-{place}-{seed}"
                ends[starts] = study.stage("equilibrium", f"mixed-{key}", partial(mixed, config, place, starts, seed))
                apart = partial(distances, config, seed, ends[starts])
                ladders[f"distances-{starts}"].append(study.stage("equilibrium", f"distances-{key}", apart))
            along = partial(walked, config, place, seed, ends["one"], ends["own"])
            ladders["walked"].append(study.stage("equilibrium", f"walked-{place}-{seed}", along))
        for name, several in ladders.items():
            found[name].append(several)
    return found


def _setting(study: Study) -> None:
    config = study.config
    section = study.report.section("The network")
    widths = ", ".join(map(str, config["widths"]))
    section.text(
        f"A {config['network']} network with hidden layers of {widths} on {config['data']}, each normalised over the "
        "batch without ε, shift and scale, its last layer drawn once and kept. So all trained weights, and each row "
        "of them, are scale invariant: f(cw) = f(w) for the loss of every mini-batch. Test inputs are normalised by "
        f"the statistics of {config['reference']} training inputs. λ_e = ηλ, and t counts steps; the clock of the rest "
        "of this package is η·steps."
    )
    section.text(
        "The source takes 500 trials of a convolutional network of four normalised layers on MNIST. The nearest run of "
        "this experiment is sde-sgd run equilibrium --data mnist --directory FOLDER --network convolutional --widths "
        "16,32,64,64 --batch-size 128 --replicas 500 (the widths are ours). Figures on other data are no comparison "
        "with the source's."
    )
    section.text(f"“{ASKED}” marks a question about what the source measures, in no wording of its own.")


def _check(config: Mapping[str, Any]) -> None:
    require_folder(config["data"], config["directory"])
    ladder, spacing = config["intrinsic"], config["spacing"]
    if len(set(ladder)) < len(ladder) or len(ladder) < 2:
        raise ValueError(f"intrinsic must be at least two distinct values of ηλ, got {ladder}: one has no exponent")
    if config["walkers"] > config["replicas"]:
        raise ValueError(f"{config['walkers']} walkers are taken from {config['replicas']} replicas: take fewer")
    if config["average"] > config["walkers"]:
        raise ValueError(f"averages of {config['average']} replicas need as many walkers, not {config['walkers']}")
    if config["time"] < 1 + spacing:
        raise ValueError(
            f"time = {config['time']:g}: states are saved closely up to 1/(ηλ) and then every spacing = {spacing:g}; "
            f"take at least {1 + spacing:g}"
        )
    if config["average"] > round(config["walk_time"] / spacing):
        raise ValueError(
            f"averages of {config['average']} states {spacing:g}/(ηλ) apart need a walk_time of "
            f"{config['average'] * spacing:g}, not {config['walk_time']:g}"
        )
    for name in ("batch_size", "reference", "descent_samples"):
        if 0 < config["samples"] < config[name]:
            raise ValueError(
                f"{name} = {config[name]} of samples = {config['samples']}: ask for no more than there are"
            )


EXPERIMENT = Experiment(
    "The equilibrium of normalised networks under weight decay",
    perform,
    {
        "data": Setting("digits", "the data set", choices=IMAGES),
        "directory": Setting("", "folder of the files of data that are no digits"),
        "samples": Setting(0, "of the training part; 0 is all", 0, 10**6),
        "network": Setting("connected", "its layers", choices=("connected", "convolutional")),
        "widths": Setting((16, 16), "hidden units or channels", 2, 4096),
        "gain": Setting(4.0, "of the fixed last layer", 0.1, 100.0),
        "seeds": Setting(5, "repetitions with other splits, starts and batches", 1, 20),
        "seed": Setting(0, "the first of them", 0, 2**20),
        "intrinsic": Setting((0.02, 0.01, 0.005), "ηλ of the ensembles", 1e-5, 0.12),
        "weight_decay": Setting(0.1, "λ of the steady schedule; η = ηλ/λ", 1e-6, 10.0),
        "batch_size": Setting(32, "b, drawn with replacement", 8, 4096),
        "replicas": Setting(160, "networks of an ensemble", 8, 10_000),
        "before": Setting(2.0, "with another ηλ, in 1/ηλ steps", 0.01, 1000.0),
        "time": Setting(4.0, "with the same ηλ, in 1/ηλ steps", 1.0, 1000.0),
        "spacing": Setting(0.25, "between the states that are looked at, in 1/ηλ steps", 0.01, 1.0),
        "points": Setting(200, "test inputs whose labels are followed", 4, 10_000),
        "reference": Setting(256, "training inputs whose statistics normalise the test inputs", 16, 10_000),
        "mixed_below": Setting(0.002, "squared distance of ensembles that count as mixed", 1e-6, 1.0),
        "permutations": Setting(199, "of the null of the distance", 19, 9999),
        "walkers": Setting(64, "replicas that go on from equilibrium", 4, 10_000),
        "walk_time": Setting(4.0, "of theirs, in 1/ηλ steps", 2.0, 1000.0),
        "average": Setting(8, "states whose weights are averaged", 2, 1000),
        "slow_factor": Setting(100.0, "by which the learning rate is smaller", 2.0, 1e4),
        "slow_time": Setting(2.0, "of the small learning rate, in its 1/ηλ steps", 0.1, 100.0),
        "slow_replicas": Setting(6, "of each arm", 2, 1000),
        "descent_steps": Setting(3000, "of gradient descent, with decay and again without", 40, 10**6),
        "descent_samples": Setting(200, "of gradient descent", 16, 10**6),
        "descent_learning_rate": Setting(0.5, "η of gradient descent", 1e-4, 100.0),
        "descent_weight_decay": Setting(0.01, "λ of gradient descent", 1e-5, 1.0),
        "toy_steps": Setting(4000, "on x²/(x² + y²)", 400, 10**6),
        "same_steps": Setting(40, "over which equal runs are compared", 5, 400),
        "float_type": Setting("float32", "of the ensembles", choices=("float32", "float64")),
        "compile": Setting(False, "compile the ensembles; pays for networks larger than these"),
    },
    quick={
        "seeds": 3, "intrinsic": [0.03, 0.015], "replicas": 48, "walkers": 24, "points": 60, "mixed_below": 0.005,
        "slow_factor": 5.0, "slow_replicas": 4, "descent_steps": 1000,
        "descent_weight_decay": 0.02, "toy_steps": 1000, "same_steps": 20,
    },
    check=_check,
)  # fmt: skip
