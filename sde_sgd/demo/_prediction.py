"""The prediction: the loss, its steady density by Fokker–Planck on a ladder of grids, and what keeps flowing in it."""

import itertools

import numpy as np
import xarray as xr

from sde_sgd import landscapes
from sde_sgd._console import Progress
from sde_sgd.distances import coarsen
from sde_sgd.figures import plot_current, plot_potential_against_loss
from sde_sgd.fokker_planck import FokkerPlanck
from sde_sgd.grid import Grid
from sde_sgd.potential import decompose, modes
from sde_sgd.study import Road, Study

from ._common import common_grid, counted, name_of

MASS_LEFT_OUT = 1e-9  # "where the density lives": the fewest cells that hold all but this much mass


def the_loss(study: Study, neuron: landscapes.FiniteSum) -> None:
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
        f"{counted(critical.sizes['point'], 'critical point')} in the box: "
        + "; ".join(
            f"{k} at ({w:.3f}, {c:.3f}), f = {f:.4f}"
            for k, w, c, f in zip(critical.kind.values, critical.w.values, critical.c.values, critical.loss.values)
        )
        + "."
    )
    study.results["/diagnostics/critical_points"] = critical


def solve(study: Study, neuron, temperature: float) -> xr.Dataset:
    """Steady densities on three grids, averaged to the common one, and their extrapolation in the cell size."""
    config, reach = study.config, study.config["half_width"]
    finest = config["cells"]
    ladder = [finest // 4, finest // 2, finest]

    def compute(progress: Progress) -> xr.Dataset:
        process, averaged = neuron.at_temperature(temperature), []
        attrs: dict[str, float] = {}
        for i, cells in enumerate(ladder):
            fp = FokkerPlanck(process, Grid((-reach, -reach), (reach, reach), (cells, cells)))
            log_density = fp.log_steady_state()
            attrs |= {f"{k}_{cells}": log_density.attrs[k] for k in ("residual", "wall_mass", "added_diffusion_mean")}
            if not (fp.conserves_mass and fp.nonnegative_rates and fp.irreducible):
                raise ValueError(f"the generator on {cells}² cells lost a structural property; this is a fault of ours")
            average = coarsen(fp.steady_state(), cells // config["common_cells"]).drop_attrs()
            averaged.append(
                average.assign_coords(dict(zip("wc", common_grid(config).axes)))
            )  # the same bits on every grid
            progress(i + 1, len(ladder))
        coarse, middle, fine = averaged
        better, before = (4 * fine - middle) / 3, (4 * middle - coarse) / 3
        volume = common_grid(config).cell_volume
        between = [float(np.abs(a - b).sum() * volume) for a, b in itertools.pairwise(averaged)]
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


def split(study: Study, neuron, temperature: float) -> xr.Dataset:
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
        progress(1, 1)
        return parts.assign_attrs(smallest_eigenvalue=float(smallest))

    return study.stage("decomposition", name_of(temperature), compute)


def tell(study: Study, neuron, temperature: float, prediction: xr.Dataset, parts: xr.Dataset) -> None:
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
        f"most likely place{'' if peaks.sizes['point'] == 1 else 's'} of SGD at T = {temperature:g}; the loss has "
        f"{counted(critical.sizes['point'], 'critical point')}",
    )
    section = study.report.section(f"Prediction at T = {temperature:g}")
    listed = "; ".join(
        f"({w:.2f}, {c:.2f}) with density {np.exp(r):.2f} of the highest"
        for w, c, r in zip(peaks.w.values, peaks.c.values, peaks.log_ratio.values)
    )
    places = np.stack([peaks.w, peaks.c], -1)
    gradients = np.linalg.norm(neuron.gradient(places), axis=-1)
    zeros = np.stack([critical.w, critical.c], -1)
    away = np.linalg.norm(places[:, None] - zeros[None], axis=-1).min(axis=1)
    section.text(
        f"The steady density has {counted(peaks.sizes['point'], 'mode')}: {listed}. The distance of each to the "
        f"nearest "
        f"critical point of the loss is {', '.join(f'{a:.2f}' for a in away)}, and the norm of the gradient of "
        f"the loss "
        f"there {', '.join(f'{g:.3f}' for g in gradients)}. log ρ is finite in every cell and spans "
        f"{-prediction.attrs['lowest_log_density']:.3g} nats. The smallest eigenvalue of D over the cells that "
        f"hold all "
        f"but {MASS_LEFT_OUT:g} of the mass is {parts.attrs['smallest_eigenvalue']:.3g}."
    )
    section.verdict(
        bool(away.min() > 2 * 2 * study.config["half_width"] / study.config["cells"]),
        "Every mode lies further than two cells from any critical point of the loss: SGD's most likely places are not "
        "critical points.",
    )
    section.verdict(parts.attrs["smallest_eigenvalue"] > 0, "D is positive definite where the density lives.")
    section.table(
        ["cells", "L1 change against half as many per axis"],
        [[f"{n}²", f"{g:.5f}"] for n, g in zip(prediction.cells.values, changes)],
        f"Error of the grid: observed order {order:.2f}; the extrapolation's own error is about {reference_error:.1e}.",
    )
    parts = _where_it_lives(parts, temperature)
    ax = plot_potential_against_loss(parts, parts.loss, critical, peaks)
    study.figures[f"potential-{label}"] = ax.figure
    section.figure(
        ax.figure,
        f"Φ − f over the region that SGD visits; where the potential were the loss, it would have one colour. "
        f"Weighted by "
        f"the density it varies by {_spread(parts, temperature):.2f} T (standard deviation).",
        f"Map of Φ − f at T = {temperature:g}",
    )
    ax = plot_current(parts)
    study.figures[f"current-{label}"] = ax.figure
    speed = np.linalg.norm(parts.remainder.values, axis=-1)
    rho = np.exp(-parts.potential.values / temperature)
    section.figure(
        ax.figure,
        f"The current of the steady state, j = J/ρ, over Φ. Its mean size over the density is "
        f"{float((rho * speed).sum() / rho.sum()):.3f}; detailed balance would make it 0.",
        f"Arrows of j over Φ at T = {temperature:g}",
    )


def _spread(parts: xr.Dataset, temperature: float) -> float:
    """Standard deviation of Φ − f over the density, in T."""
    rho = np.exp(-parts.potential.values / temperature)
    gap = parts.potential.values - parts.loss.values
    mean = (rho * gap).sum() / rho.sum()
    return float(np.sqrt((rho * (gap - mean) ** 2).sum() / rho.sum()) / temperature)


def _where_it_lives(parts: xr.Dataset, temperature: float) -> xr.Dataset:
    """The smallest box around Φ ≤ 14 T."""
    near = parts.potential <= 14 * temperature
    return parts.sel(w=near.any("c"), c=near.any("w"))
