"""The experiment `optimisers`: where do SGD, momentum, adaptive methods, SVRG, Entropy-SGD and Parle end?"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from functools import partial
from typing import Any

import xarray as xr

from sde_sgd import _checks
from sde_sgd.experiment import Experiment, Setting
from sde_sgd.study import Study

from . import _optimisers_report as report
from . import _optimisers_runs as runs
from . import _optimisers_toys as toys
from ._optimisers_answers import answers
from ._optimisers_training import OPTIMISERS, optimise
from ._sentences import sentences_section
from ._threads import one_thread
from .data import IMAGES, require_folder

__all__ = ["EXPERIMENT", "OPTIMISERS", "optimise", "perform"]


@one_thread()
def perform(study: Study) -> None:
    """SGD, momentum, Nesterov, AdaGrad, RMSprop, Adam, SVRG, Entropy-SGD, Parle and Elastic-SGD from the same start:
    losses, norms, spectra of the Hessian and of the noise, local entropy by sampling, barriers and averages between the
    ends; a learning-rate range test and cycles; and, where everything is known, two valleys, a binary perceptron, and
    linear models with fewer samples than weights.
    """
    config = study.config
    data, names, seeds = runs.data_of(config), config["optimisers"], config["seeds"]
    tuned = {n: study.stage("optimisers", f"rate-{n}", partial(runs.tuned, config, data, n)) for n in names}
    trained, measured = {}, {}
    for seed, name in itertools.product(range(seeds), names):
        rate = tuned[name].attrs["rate"]
        trained[name, seed] = run = study.stage(
            "optimisers", f"train-{name}-{seed}", partial(runs.trained, config, data, name, rate, seed)
        )
        measured[name, seed] = study.stage(
            "optimisers", f"end-{name}-{seed}", partial(runs.measured, config, data, run, seed)
        )
    entropies = []
    for seed in range(seeds):
        one = {name: trained[name, seed]["weights"].sel(point="end").values for name in names}
        parts = [
            study.stage(
                "optimisers", f"entropy-{seed}-{k}", partial(runs.local_entropies, config, data, one, spread, seed)
            )
            for k, spread in enumerate(config["spreads"])
        ]
        entropies.append(xr.concat(parts, "spread"))
    across, within = [], []
    for seed in range(seeds):
        at = {name: trained[name, seed]["weights"] for name in names}
        pairs = {f"{a} | {b}": (at[a].sel(point="end").values, at[b].sel(point="end").values)
                 for a, b in itertools.combinations(names, 2)}  # fmt: skip
        across.append(study.stage("optimisers", f"across-{seed}", partial(runs.lines, config, data, pairs)))
        pairs = {name: (one.sel(point=runs.BRANCHES[0]).values, one.sel(point=runs.BRANCHES[1]).values)
                 for name, one in at.items()}  # fmt: skip
        within.append(study.stage("optimisers", f"within-{seed}", partial(runs.lines, config, data, pairs)))
    final = {key: run["weights"].sel(point="end").values for key, run in trained.items()}
    pairs = {
        f"{name}, seeds {s} and {t}": (final[name, s], final[name, t])
        for name, (s, t) in itertools.product(names, itertools.combinations(range(seeds), 2))
    }
    between = study.stage("optimisers", "between", partial(runs.lines, config, data, pairs))
    ranges = [study.stage("rates", f"range-{s}", partial(runs.range_test, config, data, s)) for s in range(seeds)]
    cycled = [
        study.stage("rates", f"cycles-{s}", partial(runs.cycles, config, data, ranges[s], s)) for s in range(seeds)
    ]
    pairs = {
        f"seed {s}, cycles {c + 1} and {c + 2}": (cycled[s]["weights"].values[c], cycled[s]["weights"].values[c + 1])
        for s, c in itertools.product(range(seeds), range(config["cycles"] - 1))
    }
    joined = study.stage("rates", "cycle-ends", partial(runs.lines, config, data, pairs))
    valleys = study.stage("known", "valleys", partial(toys.valleys, config))
    task = study.stage("known", "perceptron", partial(toys.perceptron, config))
    learnt = [study.stage("known", f"students-{s}", partial(toys.students, config, s)) for s in range(seeds)]
    least = [study.stage("known", f"least-norm-{s}", partial(toys.least_norm, config, s)) for s in range(seeds)]

    ends = report.by_optimiser(names, measured, entropies)
    report.reproduction(study)
    report.ends_section(study, ends, trained, tuned)
    report.spectra_section(study, ends, trained)
    report.flatness_section(study, ends)
    report.lines_section(study, names, across, within, between)
    report.range_section(study, tuned["sgd"], ranges, cycled, joined)
    report.toys_section(study, valleys, task, learnt)
    report.spans_section(study, least, runs.ADAPTIVE)
    sentences_section(
        study,
        answers(config, ends=ends, across=across, within=within, between=between, tuned=tuned["sgd"], ranges=ranges,
                cycled=cycled, joined=joined, learnt=learnt, least=least, tested=len(data.test_targets)),
    )  # fmt: skip


def _check(config: Mapping[str, Any]) -> None:
    require_folder(config["data"], config["directory"])
    names = config["optimisers"]
    for name in names:
        _checks.choice("optimisers", name, OPTIMISERS)
    if len(set(names)) < len(names) or "sgd" not in names or len(names) < 2:
        raise ValueError(f"optimisers must be sgd, which the others are compared with, and others, each once: {names}")
    if config["spreads"] != sorted(set(config["spreads"])):
        raise ValueError(f"spreads must increase, got {config['spreads']}")
    if config["range_low"] >= config["range_high"]:
        raise ValueError(f"range_low={config['range_low']:g} must be below range_high={config['range_high']:g}")


EXPERIMENT = Experiment(
    "Where ten optimisers end from one start",
    perform,
    {
        "data": Setting("digits", "a set of images", choices=IMAGES),
        "directory": Setting("", "folder of the files of data that are no digits"),
        "samples": Setting(0, "to train on, 0: all", 0, 1_000_000),
        "network": Setting("tiny-fc", "without batch norm", choices=("tiny-fc", "small-fc", "mlp", "small-lenet")),
        "optimisers": Setting(tuple(OPTIMISERS), "sgd among them"),
        "seeds": Setting(8, "starts, from each of which all optimisers go", 2, 100),
        "epochs": Setting(60, "of mini-batches, of each replica", 2, 100_000),
        "branch_epochs": Setting(10, "from the end, twice, on other batches", 1, 100_000),
        "batch_size": Setting(16, "b", 1, 100_000),
        "weight_decay": Setting(0.0, "λ", 0.0, 1.0),
        "rates": Setting((0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0), "η on offer to each", 1e-6, 10.0),
        "tuning_epochs": Setting(6, "of the runs that choose η", 1, 10_000),
        "inner_steps": Setting(20, "L of Entropy-SGD and Parle", 1, 10_000),
        "tether": Setting(0.1, "their γ, strength of the coupling of a chain to its x", 0.0, 1e6),
        "replicas": Setting(3, "n of Parle and Elastic-SGD", 1, 100),
        "elastic": Setting(0.1, "their ρ", 0.0, 1e6),
        "eigenvalues": Setting(20, "of H and D kept", 1, 1000),
        "curvature_samples": Setting(0, "of H and D, 0: all", 0, 1_000_000),
        "spreads": Setting((0.05, 0.2), "σ = √(γT) of the local entropies", 1e-6, 100.0),
        "entropy_samples": Setting(500, "of local entropy, whose T is one over their number", 2, 1_000_000),
        "chains": Setting(4, "of each local entropy", 2, 1000),
        "chain_steps": Setting(45, "of each of eight rungs", 30, 1_000_000),
        "range_low": Setting(0.001, "η at which the range test begins", 1e-8, 10.0),
        "range_high": Setting(3.0, "η at which it ends", 1e-8, 100.0),
        "range_epochs": Setting(10, "of the range test", 1, 10_000),
        "cycle_epochs": Setting(8, "of one cycle", 1, 10_000),
        "cycles": Setting(4, "of the learning rate", 2, 1000),
        "teachers": Setting(300, "of binary perceptrons, for each seed", 2, 1_000_000),
        "seed": Setting(0, "of everything", 0, 2**31),
    },
    quick={
        "samples": 400, "seeds": 4, "epochs": 12, "branch_epochs": 3, "tuning_epochs": 4,
        "rates": [0.003, 0.01, 0.03, 0.1, 0.3], "curvature_samples": 150, "entropy_samples": 150,
        "spreads": [0.05, 0.2], "chain_steps": 30,
        "chains": 2, "eigenvalues": 5, "range_epochs": 5, "cycle_epochs": 4, "cycles": 2, "teachers": 200,
    },
    check=_check,
)  # fmt: skip
