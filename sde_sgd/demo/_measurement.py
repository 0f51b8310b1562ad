"""The measurements: Langevin paths, real mini-batch SGD along the scaling rule, and SVAG."""

from collections.abc import Callable, Sequence

import numpy as np
import xarray as xr

from sde_sgd._console import Progress
from sde_sgd.distances import CLEAR, blocks_of, l1_distance
from sde_sgd.figures import fit_power_law, plot_densities, plot_distance
from sde_sgd.paths import Histogram, sgd, simulate
from sde_sgd.study import Road, Study

from ._common import common_grid, distance_of, measured, name_of


def langevin(study: Study, neuron, temperature: float, prediction: xr.Dataset) -> None:
    config, process = study.config, neuron.at_temperature(temperature)
    grid, label = common_grid(config), name_of(temperature)
    wide, narrow = config["path_steps"]

    def compute(progress: Progress) -> xr.Dataset:
        def half(i: int) -> Progress:
            return lambda done, total: progress(i * total + done, 2 * total)

        sampled = {}
        for i, step in enumerate((wide, narrow)):
            run = simulate(
                process,
                config["start"],
                step=step,
                steps=config["path_updates"],
                paths=config["paths"],
                observables=Histogram(grid, burn_in=round(config["burn_in_time"] / step), every=2),
                seed=config["seed"] + i,
                progress=half(i),
            )
            sampled[step] = Histogram.extract(run).assign_attrs(run.attrs)
        blocks = {step: blocks_of(s) for step, s in sampled.items()}
        # Euler–Maruyama's steady density is off by O(h): two steps remove the leading term.
        straight = (wide * blocks[narrow] - narrow * blocks[wide]) / (wide - narrow)
        results = {step: measured(s, l1_distance(blocks[step], prediction.extrapolated)) for step, s in sampled.items()}
        free = xr.Dataset(
            {
                "density": straight.mean("block"),
                "density_error": straight.std("block", ddof=1) / np.sqrt(straight.sizes["block"]),
            }
        )
        results[0.0] = measured(free, l1_distance(straight, prediction.extrapolated))
        return xr.concat(
            list(results.values()),
            xr.DataArray(list(results), dims="h", name="h"),
            combine_attrs="drop_conflicts",
        )

    stage = study.stage("measurement", f"paths-{label}", compute)
    for step in (wide, narrow, 0.0):
        found = distance_of(stage.sel(h=step))
        agrees = found.agrees(prediction.attrs["reference_error"]) if step == 0 else None
        study.roads.append(
            Road(
                "Langevin paths (Numba)",
                temperature,
                f"h = {step:g}" if step else f"h = {wide:g}, {narrow:g} → 0",
                step,
                found.distance,
                found.error,
                found.floor,
                agrees,
                "step bias removed" if step == 0 else "expected: off by O(h)",
            )
        )
    study.panels.setdefault(temperature, {})["Fokker–Planck"] = prediction.density
    study.panels[temperature]["Langevin paths, h → 0"] = stage.density.sel(h=0.0).clip(min=0)


def recursion(study: Study, neuron, temperature: float, prediction: xr.Dataset) -> None:
    config, label, grid = study.config, name_of(temperature), common_grid(study.config)
    updates = config["updates"]

    def run(batch: int, svag: int, seed: int) -> xr.Dataset:
        per_time = svag / (2 * temperature * batch)  # updates per unit of time
        burn_in = int(max(updates // 8, config["burn_in_time"] * per_time))
        result = sgd(
            neuron,
            config["start"],
            learning_rate=2 * temperature * batch,
            batch_size=batch,
            svag=svag,
            steps=burn_in + updates * svag,
            replicas=config["replicas"],
            seed=seed,
            observables=Histogram(grid, burn_in=burn_in, every=max(1, svag // 2)),
        )
        sampled = Histogram.extract(result).assign_attrs(result.attrs)
        return measured(sampled, l1_distance(blocks_of(sampled), prediction.extrapolated))

    def sweep(kind: str, values: Sequence[int]) -> Callable[[Progress], xr.Dataset]:
        def compute(progress: Progress) -> xr.Dataset:
            parts = []
            for i, value in enumerate(values):
                batch, svag = (value, 1) if kind == "batch_size" else (1, value)
                parts.append(run(batch, svag, config["seed"] + (100 if kind == "batch_size" else 200) + i))
                progress(sum(values[: i + 1]), sum(values))
            return xr.concat(parts, xr.DataArray(list(values), dims=kind, name=kind), combine_attrs="drop_conflicts")

        return compute

    real = study.stage("measurement", f"sgd-{label}", sweep("batch_size", config["batch_sizes"]))
    refined = study.stage("measurement", f"svag-{label}", sweep("svag", config["svag"]))
    for batch in config["batch_sizes"]:
        found, eta = distance_of(real.sel(batch_size=batch)), 2 * temperature * batch
        study.roads.append(
            Road(
                "mini-batch SGD",
                temperature,
                f"b = {batch}, η = {eta:g}",
                eta,
                found.distance,
                found.error,
                found.floor,
                None,
                "expected: off by more the larger η",
            )
        )
    for svag in config["svag"]:
        found = distance_of(refined.sel(svag=svag))
        study.roads.append(
            Road(
                "SVAG",
                temperature,
                f"b = 1, l = {svag}",
                2 * temperature / svag,
                found.distance,
                found.error,
                found.floor,
                None,
                "expected: off by O(1/l)",
            )
        )
    study.panels[temperature][f"SVAG, l = {config['svag'][-1]}"] = refined.density.sel(svag=config["svag"][-1])
    study.panels[temperature]["SGD, b = 1"] = real.density.sel(batch_size=1)
    last = config["batch_sizes"][-1]
    study.panels[temperature][f"SGD, b = {last}"] = real.density.sel(batch_size=last)
    _tell_recursion(study, temperature, prediction, real, refined)


def _tell_recursion(study: Study, temperature: float, prediction, real: xr.Dataset, refined: xr.Dataset) -> None:
    label = name_of(temperature)
    section = study.report.section(f"Real SGD at T = {temperature:g}")
    limit = (
        refined[["distance", "error", "floor"]]
        .assign_coords(inverse=("svag", 1.0 / refined.svag.values))
        .swap_dims(svag="inverse")
        .drop_vars("svag")
    )
    limit["floor"] = limit.floor + prediction.attrs["reference_error"]  # what neither sampling nor the grid resolves
    clear = limit.isel(inverse=(limit.distance > CLEAR * limit.floor).values)
    if clear.sizes["inverse"] >= 3:
        law = fit_power_law(clear.inverse, clear.distance, clear.error)
        last, before = (clear.isel(inverse=i) for i in (-1, -2))
        ratio = float(np.log(before.inverse / last.inverse))
        local = float(np.log(before.distance / last.distance)) / ratio
        uncertain = float(np.hypot(before.error / before.distance, last.error / last.distance)) / ratio
        section.text(
            "SVAG keeps the mean gradient and multiplies its covariance by l at step η/l: the real samples, the same "
            "temperature, an ever smaller step. Fitted over the "
            f"{clear.sizes['inverse']} points that stand clear of the floor, its distance to the Fokker–Planck "
            f"solution goes as 1/l to the power {law.slope:.2f} ± {law.slope_error:.2f}; between the last two of them, "
            f"l = {1 / float(before.inverse):.0f} and {1 / float(last.inverse):.0f}, the power is {local:.2f} ± "
            f"{uncertain:.2f}. The theory's limit is 1."
        )
        study.report.headline(
            f"{local:.2f} ± {uncertain:.2f}",
            f"power of 1/l in SVAG's distance to the SDE at T = {temperature:g}, smallest steps; theory: 1",
        )
    ax = plot_distance(limit, "inverse", xlabel="1/l", label="SVAG, b = 1")
    study.figures[f"svag-{label}"] = ax.figure
    section.figure(
        ax.figure,
        "Distance of SVAG's density to the Fokker–Planck solution; the floor includes the grid's error.",
        "Distance against 1/l",
    )
    scaling = (
        real[["distance", "error", "floor"]]
        .assign_coords(learning_rate=("batch_size", 2 * temperature * real.batch_size.values))
        .swap_dims(batch_size="learning_rate")
        .drop_vars("batch_size")
    )
    ax = plot_distance(scaling, "learning_rate", xlabel="learning rate η = 2Tb", label="SGD at fixed η/b", fit=False)
    study.figures[f"scaling-{label}"] = ax.figure
    change = [f"b = {b}: {d:.3f}" for b, d in zip(real.batch_size.values, real.distance.values)]
    growth = float(real.distance[-1] / real.distance[0])
    steady = bool((np.diff(real.distance.values) > 0).all())
    section.text(
        "The linear scaling rule keeps η/b and so the temperature. The distance to the SDE's density along it is "
        f"{', '.join(change)}: from the smallest to the largest step it grows {growth:.1f}-fold"
        + (". " if steady else ", though not at every step. ")
        + "One temperature does not mean one law once η is not small."
    )
    section.figure(
        ax.figure,
        "Along the linear scaling rule: the same temperature, a growing step.",
        "Distance against the learning rate",
    )


def picture(study: Study) -> None:
    """Densities of all roads side by side, for each temperature."""
    section = study.report.section("All roads, side by side")
    for temperature, panels in study.panels.items():
        near = panels["Fokker–Planck"] > 1e-5 * panels["Fokker–Planck"].max()
        shown = {
            name: panel.transpose("w", "c").sel(w=near.any("c"), c=near.any("w")) for name, panel in panels.items()
        }
        figure = plot_densities(shown, columns=3, log=True)
        study.figures[f"densities-{name_of(temperature)}"] = figure
        section.figure(
            figure,
            f"T = {temperature:g}, logarithmic, one colour scale; the distances are in the table of roads.",
            f"Densities at T = {temperature:g}",
            wide=True,
        )
