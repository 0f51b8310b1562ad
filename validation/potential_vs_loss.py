"""The experiment `potential-vs-loss`: the linear theory of SGD around a minimum of a real network, measured."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from sde_sgd.experiment import Experiment, Setting
from sde_sgd.study import Study

from . import _domain_networks as domain
from . import _prediction_controls as controls
from . import _prediction_runs as runs
from ._potential_report import area_section, domain_section, variance_section
from ._potential_report_controls import density_section, estimate_section, isotropic_section, shift_section
from ._threads import one_thread
from .data import Split, digits

_SAMPLES = 721  # of the digits 0 to 4 that are trained on
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "tanh": {"activation": "tanh"},
    "near-flat": {"weight_decay": 1e-4},
    "interpolating": {"weight_decay": 0.0},  # softmax without decay: the weights grow for ever
}


@one_thread()
def perform(study: Study) -> None:
    """tiny-fc on the digits 0 to 4 without batch norm, at several learning rates and seeds: variances along the
    steepest directions of the Hessian and the areas that SGD sweeps out between them, against what the linear theory
    predicts from H and D alone. Beside them reshuffled epochs, a reversible process, and isotropic noise, for which the
    potential must be the loss.
    """
    data = digits(7, range(5), seed=study.config["seed"])
    cells = {
        (rate, seed): _cell(study, data, rate, seed)
        for seed, rate in itertools.product(range(study.config["seeds"]), study.config["learning_rates"])
    }
    _report(study, data, cells)


def _cell(study: Study, data: Split, rate: float, seed: int) -> dict[str, xr.Dataset]:
    """Pilot and runs of one learning rate and seed: the runs are kept piece by piece, and go on after a stop."""
    config = study.config
    number = config["seed"] + seed
    name = f"{seed}-{config['learning_rates'].index(rate)}"
    start = study.stage("potential", f"start-{seed}", lambda progress: runs.start_run(config, data, number))
    pilot = study.stage(
        "potential",
        f"pilot-{name}",
        lambda progress: runs.pilot_run(config, data, start["weights"].values, rate, number, progress),
    )
    found = {"pilot": pilot}
    for mode in runs.MODES:
        folder = study.work(f"{mode}-{name}")
        found[mode] = study.stage(
            "potential",
            f"{mode.replace('_', '-')}-{name}",
            partial(runs.measured_run, config, data, pilot, number, mode, folder),
        )
        shutil.rmtree(folder, ignore_errors=True)  # a hundred megabytes that the stage no longer needs
    return found


def _report(study: Study, data: Split, cells: dict) -> None:
    config = study.config
    first = cells[config["learning_rates"][0], 0]
    pilot = first["pilot"]
    null = study.stage(
        "potential",
        "null",
        lambda progress: controls.reversible_null(
            config,
            pilot["covariance"].isel(kind=0, mode=0).values,
            pilot["hessian"].isel(kind=0).values.diagonal(),
            pilot.attrs["learning_rate"] * first[runs.MODES[0]].attrs["every"],
            progress,
        ),
    )
    isotropic = [
        study.stage(
            "potential",
            f"isotropic-{activation}-{k}",
            partial(_isotropic, config, data, activation, t),
        )
        for activation in ("tanh", "relu")
        for k, t in enumerate(config[f"isotropic_{activation}"])
    ]
    others = _domain(study, data, cells)
    shifts = {config["activation"]: _shifts(study, data, config, cells, "shift")}
    if config["activation"] != "tanh":  # where f has a third derivative
        shifts["tanh"] = _shifts(study, data, {**config, **VARIANTS["tanh"]}, others["tanh"], "shift-tanh")
    estimates = {
        mode: study.stage(
            "potential",
            f"estimate-{mode.replace('_', '-')}",
            partial(controls.from_trajectory, config, data, pilot, config["seed"], mode),
        )
        for mode in runs.MODES
    }
    variance_section(study, cells)
    area_section(study, cells, null)
    isotropic_section(study, isotropic)
    density_section(study, first)
    shift_section(study, shifts)
    estimate_section(study, estimates, pilot)
    domain_section(study, others)


def _shifts(study: Study, data: Split, config: Mapping[str, Any], cells: dict, stage: str) -> dict[float, xr.Dataset]:
    return {
        rate: study.stage(
            "potential",
            f"{stage}-{k}",
            partial(controls.mean_shift, config, data, cells[rate, 0]["pilot"], cells[rate, 0][runs.MODES[0]]),
        )
        for k, rate in enumerate(config["learning_rates"])
    }


def _domain(study: Study, data: Split, cells: dict) -> dict[str, dict]:
    """The same prediction for other networks: shorter runs, H and D at the pilot's mean, batches with replacement."""
    found = {"tiny-fc": cells}
    variants = list(VARIANTS.items()) if study.config["domain"] else [("tanh", VARIANTS["tanh"])]
    for number, (name, change) in enumerate(variants):
        run_time = min(study.config["run_time"], study.config["domain_time"])
        config = {**study.config, **change, "snapshots": 1, "run_time": run_time}
        here = found[name] = {}
        for seed, (k, rate) in itertools.product(range(config["seeds"]), enumerate(config["learning_rates"])):
            first = config["seed"] + seed + 1000 * (number + 1)
            start = study.stage("domain", f"{name}-start-{seed}", partial(runs.start_run, config, data, first))[
                "weights"
            ].values
            pilot = study.stage(
                "domain",
                f"{name}-pilot-{seed}-{k}",
                partial(runs.pilot_run, config, data, start, rate, first),
            )
            folder = study.work(f"{name}-{seed}-{k}")
            run = study.stage(
                "domain",
                f"{name}-run-{seed}-{k}",
                partial(runs.measured_run, config, data, pilot, first, runs.MODES[0], folder),
            )
            shutil.rmtree(folder, ignore_errors=True)
            here[rate, seed] = {"pilot": pilot, runs.MODES[0]: run}
    for number, name in enumerate(domain.KINDS if study.config["domain"] else ()):
        found |= _replicas(study, data, name, study.config["seed"] + 10_000 * (number + 1))
    return found


def _replicas(study: Study, data: Split, name: str, first: int) -> dict[str, dict]:
    """Cells of a network that runs as an ensemble, all seeds at once, under a name for each kind of H and D."""
    config, slug = study.config, name.replace(" ", "-")
    seeds = range(first, first + config["seeds"])
    start = study.stage("domain", f"{slug}-start", partial(domain.start_weights, name, config, data, seeds))
    found: dict[str, dict] = {f"{name}, {kind}": {} for kind in domain.KINDS[name]}
    for k, rate in enumerate(config["learning_rates"]):
        go = partial(domain.pilot, name, config, data, start["weights"].values, rate, first + 100 * k + 1)
        pilot = study.stage("domain", f"{slug}-pilot-{k}", go)
        go = partial(domain.measured, name, config, data, pilot, first + 100 * k + 51)
        run = study.stage("domain", f"{slug}-run-{k}", go)
        for (at, kind), seed in itertools.product(enumerate(domain.KINDS[name]), range(config["seeds"])):
            cell = (part.isel(seed=seed, kind=[at]) for part in (pilot, run))
            found[f"{name}, {kind}"][rate, seed] = dict(zip(("pilot", runs.MODES[0]), cell))
    return found


def _isotropic(config: Mapping[str, Any], data: Split, activation: str, temperature: float, progress) -> xr.Dataset:
    start = _settled(config, data, activation)
    return controls.isotropic_control(config, data, start, activation, temperature, progress)


def _settled(config: Mapping[str, Any], data: Split, activation: str) -> np.ndarray:
    """Weights of a network with this activation after the first tenth of the burn-in."""
    rate = max(config["learning_rates"])
    sgd = runs.walker(config, data, runs.start_weights(config["seed"]), rate, 5, runs.MODES[0], activation)
    sgd.run(max(1, round(0.1 * config["burn_in_time"] / rate)))
    return sgd.weights


def _check(config: Mapping[str, Any]) -> None:
    lags, rates = config["area_lags"], config["learning_rates"]
    if any(b <= a for a, b in itertools.pairwise(lags)):
        raise ValueError(f"area_lags must increase, got {lags}")
    if len(set(rates)) < len(rates):
        raise ValueError(f"learning_rates must differ, got {rates}")
    shortest = min(config["run_time"], config["domain_time"])
    for rate in rates:
        every = max(1, round(max(rates) / rate))
        states, needed = shortest / (rate * every), config["blocks"] * max(4 * lags[-1], 64)
        if states < needed:
            raise ValueError(
                f"a run_time (or domain_time) of {shortest:g} gives {states:.0f} states at η = {rate:g}, and "
                f"{config['blocks']} blocks of 4 lags need {needed}: run longer, or take fewer blocks or shorter lags"
            )


EXPERIMENT = Experiment(
    "The potential of SGD against its loss",
    perform,
    {
        "learning_rates": Setting((0.1, 0.05, 0.025), "η, each with a pilot and runs of its own", 1e-5, 1.0),
        "seeds": Setting(3, "initialisations, from `seed` on", 1, 20),
        "batch_size": Setting(8, "b", 1, _SAMPLES - 1),
        "weight_decay": Setting(2e-3, "λ; without it nothing is stationary", 1e-5, 1.0),
        "activation": Setting("relu", "of the hidden layer", choices=("relu", "tanh")),
        "domain": Setting(True, "whether networks other than these and tanh are tried as well"),
        "domain_time": Setting(20_000.0, "η × steps of each of their runs, all replicas together", 10.0, 1e8),
        "replicas": Setting(16, "of each seed, of networks with batch norm and with convolutions", 2, 10_000),
        "ensemble_burn_in_time": Setting(10_000.0, "η × steps of theirs at the largest η", 1.0, 1e8),
        "burn_in_time": Setting(100_000.0, "η × steps at the largest η, from the initialisation", 1.0, 1e8),
        "settle_time": Setting(5000.0, "η × steps at its own η, before each pilot", 1.0, 1e8),
        "pilot_time": Setting(20_000.0, "η × steps whose mean has H, D and the directions", 1.0, 1e8),
        "run_time": Setting(100_000.0, "η × steps of each run", 10.0, 1e8),
        "snapshots": Setting(8, "of the pilot, over which H and D are averaged", 1, 50),
        "directions": Setting(12, "steepest directions of H at the pilot's mean", 2, 50),
        "area_lags": Setting((1, 4, 16), "lags of the areas, in states, increasing", 1, 100_000),
        "blocks": Setting(64, "independent pieces of a run", 16, 10_000),
        "losses": Setting(2000, "iterates of each run at which f is taken", 50, 100_000),
        "surrogates": Setting(200, "reversible processes", 19, 10_000),
        "surrogate_states": Setting(20_000, "states of each", 8192, 10_000_000),
        "isotropic_tanh": Setting((1e-11, 1e-8), "T of full gradient and noise with D = 1, with tanh", 1e-13, 1.0),
        "isotropic_relu": Setting((1e-7, 1e-6, 1e-5), "the same with ReLU", 1e-13, 1.0),
        "isotropic_steps": Setting(60_000, "at each of them", 1000, 10_000_000),
        "divergence_probes": Setting(50, "random signs for the traces in div D", 2, 10_000),
        "estimate_steps": Setting(400_000, "from which drift and D are read alone", 10_000, 10_000_000),
        "seed": Setting(0, "of everything", 0, 2**31),
    },
    quick={
        "seeds": 1,
        "domain": False,
        "domain_time": 6000.0,
        "burn_in_time": 20_000.0,
        "settle_time": 500.0,
        "pilot_time": 2000.0,
        "run_time": 6000.0,
        "snapshots": 2,
        "blocks": 32,
        "losses": 500,
        "surrogates": 50,
        "isotropic_tanh": [1e-11],
        "isotropic_relu": [1e-6],
        "isotropic_steps": 10_000,
        "divergence_probes": 6,
        "estimate_steps": 50_000,
    },
    check=_check,
)
