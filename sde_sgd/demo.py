"""The demonstration: where SGD of a neuron on Fisher's iris spends its time, by several roads that must meet.

`perform` runs the chapters (entry points `sde_sgd.demo`); `densities` is the core's own.
"""

from collections.abc import Callable, Sequence

import numpy as np
import xarray as xr

from . import landscapes
from ._console import Console, Progress
from .distances import Distance, blocks_of, coarsen, l1_distance
from .figures import fit_power_law, plot_current, plot_densities, plot_distance, plot_potential_against_loss
from .fokker_planck import FokkerPlanck
from .grid import Grid
from .paths import Histogram, sgd, simulate
from .potential import decompose, modes
from .report import Report
from .results import Run, provenance
from .study import TABLE_COLUMNS, Road, Study, table_rows

CONFIG = {
    "landscape": "neuron",
    "temperatures": [0.05, 0.2],
    "half_width": 5.0,
    "cells": 400,
    "common_cells": 100,
    "start": [0.15, -0.32],
    "path_steps": [0.1, 0.05],
    "paths": 8192,
    "path_updates": 4000,
    "burn_in_time": 20.0,
    "batch_sizes": [1, 2, 4, 8],
    "svag": [1, 2, 4, 8, 16, 32],
    "replicas": 8192,
    "updates": 4000,
    "torchsde_paths": 4096,
    "torchsde_updates": 2000,
    "replay_updates": 10_000,
}
MASS_LEFT_OUT = 1e-9  # "where the density lives": the fewest cells that hold all but this much mass


def perform(run: Run, console: Console, chapters: Sequence[Callable[[Study], None]]) -> None:
    """Run every chapter, then write result.nc, report.html and the figures."""
    report = Report(
        "Where SGD spends its time",
        "A two-weight network on Fisher's iris: the loss has one minimum. The real gradient noise of its "
        "150 samples turns it, at the higher temperature, into three places where SGD is most often "
        "found. Prediction and measurement by independent roads.",
    )
    study = Study(run, console, run.config, report)
    summary = report.section("Roads compared")
    for chapter in chapters:
        chapter(study)
    _picture(study)
    comparison = study.comparison()
    claims = [r for r in study.roads if r.agrees is not None]
    summary.text(
        "Each row is a way to the steady density at temperature T = η/2b, and its L1 distance (0 to 2) from the "
        "Fokker–Planck solution, extrapolated in the cell size, on a common grid. The floor is the distance that "
        "sampling alone gives to a right answer. A verdict is given where nothing else stands between: it is yes when the "
        "distance lies within the floor, four standard errors and the reference's own error. Langevin paths and torchsde "
        "at a step h are off by O(h), the same for both; SVAG tends to the differential equation as 1/l; plain SGD "
        "leaves it as η grows."
    )
    summary.verdict(
        all(r.agrees for r in claims),
        f"{sum(bool(r.agrees) for r in claims)} of {len(claims)} claims of agreement hold.",
    )
    summary.table(
        TABLE_COLUMNS[:-1], [row[:-1] for row in table_rows(comparison)], "Distances to the solved density."
    )
    tree = xr.DataTree.from_dict(study.results | {"/comparison": comparison})
    run.finish(tree, report.html(provenance(run.config)), study.figures)


def name_of(temperature: float) -> str:
    """How stages name a temperature."""
    return f"T{temperature:g}"


def common_grid(config) -> Grid:
    """The grid all densities are compared on."""
    reach, cells = config["half_width"], config["common_cells"]
    return Grid((-reach, -reach), (reach, reach), (cells, cells))


def measured(sampled: xr.Dataset, found: Distance) -> xr.Dataset:
    """What is kept of a sampled density: density, its error, and the distance with its facts."""
    kept = sampled[["density", "density_error"]].assign(
        distance=found.distance, error=found.error, floor=found.floor
    )
    return kept.assign_attrs(sampled.attrs)


def distance_of(stage: xr.Dataset) -> Distance:
    """The distance a stage kept."""
    return Distance(float(stage.distance), float(stage.error), float(stage.floor))


def densities(study: Study) -> None:
    """Chapter 1: Fokker–Planck, Langevin paths, real SGD and SVAG."""
    neuron = landscapes.get(study.config["landscape"])
    _the_loss(study, neuron)
    for temperature in study.config["temperatures"]:
        prediction = _prediction(study, neuron, temperature)
        decomposition = _decomposition(study, neuron, temperature)
        _tell_prediction(study, neuron, temperature, prediction, decomposition)
        _paths(study, neuron, temperature, prediction)
        _recursion(study, neuron, temperature, prediction)


def _the_loss(study: Study, neuron: landscapes.FiniteSum) -> None:
    critical = neuron.critical_points()
    section = study.report.section("The loss and its noise")
    section.formula(
        r"p = \tanh(w x + c), \quad f_k = \frac{1}{2}(p - y_k)^2 + \frac{\lambda}{2}(w^2 + c^2), \quad "
        r"D = \frac{1}{N}\sum_k g_k g_k^{T} - g g^{T}",
        "p = tanh(wx + c), f_k = (p − y_k)²/2 + λ(w² + c²)/2",
    )
    section.text(
        f"x is the standardised petal length of {neuron.samples} flowers, y = +1 for versicolor and −1 for the "
        f"rest, λ = {neuron.parameters['weight_decay']:g}. The loss has "
        f"{critical.sizes['point']} critical point{'s' if critical.sizes['point'] > 1 else ''} in the box: "
        + "; ".join(
            f"{k} at ({w:.3f}, {c:.3f}), f = {f:.4f}"
            for k, w, c, f in zip(
                critical.kind.values, critical.w.values, critical.c.values, critical.loss.values
            )
        )
        + "."
    )
    study.results["/diagnostics/critical_points"] = critical


def _prediction(study: Study, neuron, temperature: float) -> xr.Dataset:
    """Steady densities on three grids, averaged to the common one, and their extrapolation in the cell size."""
    config, reach = study.config, study.config["half_width"]
    finest = config["cells"]
    ladder = [finest // 4, finest // 2, finest]

    def compute(progress: Progress) -> xr.Dataset:
        process, averaged, attrs = neuron.at_temperature(temperature), [], {}
        for i, cells in enumerate(ladder):
            fp = FokkerPlanck(process, Grid((-reach, -reach), (reach, reach), (cells, cells)))
            log_density = fp.log_steady_state()
            attrs |= {
                f"{k}_{cells}": log_density.attrs[k]
                for k in ("residual", "wall_mass", "added_diffusion_mean")
            }
            if not (fp.conserves_mass and fp.nonnegative_rates and fp.irreducible):
                raise ValueError(
                    f"the generator on {cells}² cells lost a structural property; this is a fault of ours"
                )
            average = coarsen(fp.steady_state(), cells // config["common_cells"]).drop_attrs()
            averaged.append(
                average.assign_coords(dict(zip("wc", common_grid(config).axes)))
            )  # the same bits on every grid
            progress(i + 1, len(ladder))
        coarse, middle, fine = averaged
        better, before = (4 * fine - middle) / 3, (4 * middle - coarse) / 3
        volume = common_grid(config).cell_volume
        between = [float(np.abs(a - b).sum() * volume) for a, b in zip(averaged, averaged[1:])]
        peaks = modes(log_density)
        tops = {str(k): v.rename(point="mode") if "point" in v.dims else v for k, v in peaks.items()}
        return xr.Dataset(
            {
                "density": fine,
                "extrapolated": better,
                **{f"mode_{k}": v for k, v in tops.items()},
                "change": ("cells", between),
            },
            coords={"cells": ladder[1:]},
            attrs={
                **attrs,
                **process.settings,
                "lowest_log_density": float(log_density.min() - log_density.max()),
                # two successive extrapolations differ by the coarser one's error, at least 2³ times the finer's
                "reference_error": float(np.abs(better - before).sum() * volume) / 7,
            },
        )

    return study.stage("prediction", name_of(temperature), compute)


def _decomposition(study: Study, neuron, temperature: float) -> xr.Dataset:
    reach, cells = study.config["half_width"], study.config["cells"] // 2

    def compute(progress: Progress) -> xr.Dataset:
        process = neuron.at_temperature(temperature)
        fp = FokkerPlanck(process, Grid((-reach, -reach), (reach, reach), (cells, cells)))
        parts = decompose(fp)
        points = fp.grid.centers()
        parts["loss"] = (("w", "c"), neuron.loss(points))
        mass = np.sort(np.exp(-(parts.potential.values / temperature)).ravel())
        mass /= mass.sum()
        lives = parts.potential.values <= -temperature * np.log(
            mass[np.searchsorted(mass.cumsum(), MASS_LEFT_OUT)] / mass[-1]
        )
        smallest = np.linalg.eigvalsh(process.diffusion(points))[..., 0][lives].min()
        if not smallest > 0:
            raise ValueError(
                f"D is not positive definite where the density lives: smallest eigenvalue {smallest:g}"
            )
        progress(1, 1)
        return parts.assign_attrs(smallest_eigenvalue=float(smallest))

    return study.stage("decomposition", name_of(temperature), compute)


def _tell_prediction(
    study: Study, neuron, temperature: float, prediction: xr.Dataset, parts: xr.Dataset
) -> None:
    label = name_of(temperature)
    critical = study.results["/diagnostics/critical_points"]
    peaks = xr.Dataset({k: ("point", prediction[f"mode_{k}"].values) for k in ("w", "c", "log_ratio")})
    changes = prediction.change.values
    order = float(np.log2(changes[0] / changes[1]))
    reference_error = prediction.attrs["reference_error"]
    study.roads.append(
        Road(
            "Fokker–Planck",
            temperature,
            f"{study.config['cells']}² cells",
            float("nan"),
            changes[-1] / 3,
            reference_error,
            0.0,
            None,
            "to its own extrapolation in the cell size",
        )
    )
    study.report.headline(
        peaks.sizes["point"],
        f"most likely place{'s' if peaks.sizes['point'] > 1 else ''} at "
        f"T = {temperature:g}, where the loss has {critical.sizes['point']} critical point",
    )
    section = study.report.section(f"Prediction at T = {temperature:g}")
    listed = "; ".join(
        f"({w:.2f}, {c:.2f}) with density {np.exp(r):.2f} of the highest"
        for w, c, r in zip(peaks.w.values, peaks.c.values, peaks.log_ratio.values)
    )
    gradients = np.linalg.norm(neuron.gradient(np.stack([peaks.w, peaks.c], -1)), axis=-1)
    section.text(
        f"The steady density has {peaks.sizes['point']} mode{'s' if peaks.sizes['point'] > 1 else ''}: {listed}. The norm "
        f"of the gradient of the loss there is {', '.join(f'{g:.3f}' for g in gradients)}: "
        "the most likely places are not critical points of the loss. Every cell is positive: log ρ is finite and "
        f"spans {-prediction.attrs['lowest_log_density']:.3g} nats. The smallest eigenvalue of D over the cells that hold all but "
        f"{MASS_LEFT_OUT:g} of the mass is {parts.attrs['smallest_eigenvalue']:.3g}: D is positive definite there."
    )
    section.table(
        ["cells", "L1 change against half as many per axis"],
        [[f"{n}²", f"{g:.5f}"] for n, g in zip(prediction.cells.values, changes)],
        f"Error of the grid: observed order {order:.2f}; the extrapolation's own error is about "
        f"{reference_error:.1e}.",
    )
    parts = _where_it_lives(parts, temperature)
    ax = plot_potential_against_loss(parts, parts.loss, critical, peaks)
    study.figures[f"potential-{label}"] = ax.figure
    section.figure(
        ax.figure,
        "What SGD follows is not the loss: Φ − f varies over the region it visits, and the modes of "
        "the density (stars) lie away from the critical points of f.",
        f"Map of Φ − f at T = {temperature:g}",
    )
    ax = plot_current(parts)
    study.figures[f"current-{label}"] = ax.figure
    speed = np.linalg.norm(parts.remainder.values, axis=-1)
    rho = np.exp(-parts.potential.values / temperature)
    section.figure(
        ax.figure,
        f"Probability keeps flowing in the steady state: j = J/ρ over Φ. Its mean size over the "
        f"density is {float((rho * speed).sum() / rho.sum()):.3f}.",
        f"Arrows of j over Φ at T = {temperature:g}",
    )


def _paths(study: Study, neuron, temperature: float, prediction: xr.Dataset) -> None:
    config, process = study.config, neuron.at_temperature(temperature)
    grid, label = common_grid(config), name_of(temperature)
    wide, narrow = config["path_steps"]

    def compute(progress: Progress) -> xr.Dataset:
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
                progress=lambda done, total, i=i: progress(i * total + done, 2 * total),
            )
            sampled[step] = Histogram.extract(run).assign_attrs(run.attrs)
        blocks = {step: blocks_of(s) for step, s in sampled.items()}
        # Euler–Maruyama's steady density is off by O(h): two steps remove the leading term.
        straight = (wide * blocks[narrow] - narrow * blocks[wide]) / (wide - narrow)
        results = {
            step: measured(s, l1_distance(blocks[step], prediction.extrapolated))
            for step, s in sampled.items()
        }
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
                "step bias removed" if step == 0 else "biased by O(h)",
            )
        )
    study.panels.setdefault(temperature, {})["Fokker–Planck"] = prediction.density
    study.panels[temperature]["Langevin paths, h → 0"] = stage.density.sel(h=0.0).clip(min=0)


def _recursion(study: Study, neuron, temperature: float, prediction: xr.Dataset) -> None:
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
            return xr.concat(
                parts, xr.DataArray(list(values), dims=kind, name=kind), combine_attrs="drop_conflicts"
            )

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
                "discrete: leaves the SDE as η grows",
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
                "tends to the SDE as 1/l",
            )
        )
    study.panels[temperature][f"SVAG, l = {config['svag'][-1]}"] = refined.density.sel(
        svag=config["svag"][-1]
    )
    study.panels[temperature]["SGD, b = 1"] = real.density.sel(batch_size=1)
    last = config["batch_sizes"][-1]
    study.panels[temperature][f"SGD, b = {last}"] = real.density.sel(batch_size=last)
    _tell_recursion(study, temperature, prediction, real, refined)


def _tell_recursion(
    study: Study, temperature: float, prediction, real: xr.Dataset, refined: xr.Dataset
) -> None:
    label = name_of(temperature)
    section = study.report.section(f"Real SGD at T = {temperature:g}")
    limit = (
        refined[["distance", "error", "floor"]]
        .assign_coords(inverse=("svag", 1.0 / refined.svag.values))
        .swap_dims(svag="inverse")
        .drop_vars("svag")
    )
    clear = limit.isel(
        inverse=(limit.distance > 3 * (limit.floor + prediction.attrs["reference_error"])).values
    )
    if clear.sizes["inverse"] >= 2:
        law = fit_power_law(clear.inverse, clear.distance, clear.error)
        last, before = (clear.isel(inverse=i) for i in (-1, -2))
        local = float(np.log(before.distance / last.distance) / np.log(before.inverse / last.inverse))
        section.text(
            "SVAG keeps the mean gradient and multiplies its covariance by l at step η/l: the real samples, the same "
            "temperature, an ever smaller step. Its density approaches the Fokker–Planck solution as 1/l to the power "
            f"{law.slope:.2f} ± {law.slope_error:.2f} over all {clear.sizes['inverse']} points that stand clear of the "
            f"sampling floor, and {local:.2f} between the last two of them; the theory's limit is 1."
        )
        study.report.headline(
            f"{local:.2f}",
            f"power of 1/l in SVAG's distance to the SDE at T = {temperature:g}, last "
            f"doubling of l ({law.slope:.2f} over all)",
        )
    ax = plot_distance(limit, "inverse", xlabel="1/l", label="SVAG, b = 1")
    study.figures[f"svag-{label}"] = ax.figure
    section.figure(
        ax.figure, "SVAG tends to the stochastic differential equation as 1/l.", "Distance against 1/l"
    )
    scaling = (
        real[["distance", "error", "floor"]]
        .assign_coords(learning_rate=("batch_size", 2 * temperature * real.batch_size.values))
        .swap_dims(batch_size="learning_rate")
        .drop_vars("batch_size")
    )
    ax = plot_distance(
        scaling, "learning_rate", xlabel="learning rate η = 2Tb", label="SGD at fixed η/b", fit=False
    )
    study.figures[f"scaling-{label}"] = ax.figure
    change = [f"b = {b}: {d:.3f}" for b, d in zip(real.batch_size.values, real.distance.values)]
    growth = float(real.distance[-1] / real.distance[0])
    steady = bool((np.diff(real.distance.values) > 0).all())
    section.text(
        f"The linear scaling rule keeps η/b and so the temperature. The distance to the SDE's density along it is "
        f"{', '.join(change)}: from the smallest to the largest step it grows {growth:.1f}-fold. The rule holds only while "
        "η times the curvature is small."
        + ("" if steady else " The growth is not monotone over the first points.")
    )
    section.figure(
        ax.figure,
        "The limit of the linear scaling rule: the same temperature, a growing step.",
        "Distance against the learning rate",
    )


def _where_it_lives(parts: xr.Dataset, temperature: float) -> xr.Dataset:
    """The smallest box around Φ ≤ 14 T."""
    near = parts.potential <= 14 * temperature
    return parts.sel(w=near.any("c"), c=near.any("w"))


def _picture(study: Study) -> None:
    """Densities of all roads side by side, for each temperature."""
    section = study.report.section("All roads, side by side")
    for temperature, panels in study.panels.items():
        near = panels["Fokker–Planck"] > 1e-5 * panels["Fokker–Planck"].max()
        shown = {
            name: panel.transpose("w", "c").sel(w=near.any("c"), c=near.any("w"))
            for name, panel in panels.items()
        }
        figure = plot_densities(shown, columns=3, log=True)
        study.figures[f"densities-{name_of(temperature)}"] = figure
        section.figure(
            figure,
            f"T = {temperature:g}, logarithmic. The continuous roads and SVAG show one density; plain SGD, "
            "whose step is not small, another.",
            f"Densities at T = {temperature:g}",
            wide=True,
        )
