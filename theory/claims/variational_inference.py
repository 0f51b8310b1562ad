"""Claims about what SGD infers by minimising its free energy: a posterior, of which loss, with which prior."""

import math
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

import sde_sgd as sde
from sde_sgd.figures import plot_densities
from sde_sgd.theory.claim import Claim, Level, Measurement, refined, sampled
from sde_sgd.theory.claims._batches import seed_of
from sde_sgd.theory.claims._free_energies import (
    SYSTEMS,
    bump,
    energy_and_entropy,
    energy_of,
    generator,
    gibbs,
    relative_entropy,
    rises,
    sizes,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@cache
def _reached(system: str, cells: int) -> float:
    """KL(ρ_ss‖e^{−f/T}/Z), ρ_ss the solver's."""
    fp = generator(system, cells)
    log_p, grid = fp.log_steady_state().values, fp.grid
    log_q = -energy_of(system, "loss", grid.centers()) / SYSTEMS[system][2] - gibbs(system, "loss", cells)[1]
    return float((np.exp(log_p) * (log_p - log_q)).sum() * grid.cell_volume)


def _correlation(level: Level, law: str) -> Measurement:
    """E[xy] of real SGD on the quadratic: four samples f + s_k·x of noise covariance [[1, ½], [½, 1]]."""
    noise, rate = np.array([[1.0, 0.5], [0.5, 1.0]]), 0.1
    kicks = math.sqrt(2.0) * np.linalg.cholesky(noise)
    shifts = {name: np.concatenate([row, -row]) for name, row in zip(("sx", "sy"), kicks)}
    ends = sde.sgd(
        sde.FiniteSum(("x", "y"), "(x**2 + 3*y**2)/2 + sx*x + sy*y", shifts), [0.0, 0.0],
        learning_rate=rate, batch_size=1, steps=60, replicas=min(level.count(300_000), 10_000_000),
        seed=seed_of(level, 71), threads=1,
    )  # fmt: skip
    exact_law = sde.DiscreteSGD(np.diag([1.0, 3.0]), noise, rate, 1).covariance[0, 1]
    what = "E[xy]/T of SGD after 60 steps, quadratic with D₁₂ = ½"
    expected = exact_law / (rate / 2) if law == "SGD" else 0.0
    return sampled(what, ends["x"].values * ends["y"].values / (rate / 2), expected)


def _away_from_the_loss(level: Level) -> list[Measurement]:
    """KL(ρ_t‖e^{−f/T}) is 0 at the start ρ_0 = e^{−f/T}/Z and rises to KL(ρ_ss‖e^{−f/T}), here of the solver's steady
    state on two grids, and predicted from Φ and f in closed form; for the quadratic it is −½ log(1 − 3/16). E[xy]
    of real SGD on that quadratic, learning rate 0.1 and one sample a step, against its exact stationary covariance,
    which it has after 60 steps but for 0.63⁶⁰."""
    found = []
    for system, expected in (
        ("quadratic", -0.5 * math.log(1 - 3 / 16)),
        ("sheared double well", relative_entropy("sheared double well", 400)),
        ("double well with D = 1 + 2x²", relative_entropy("double well with D = 1 + 2x²", 4000)),
    ):
        values = [_reached(system, n) for n in sizes(level, system)]
        found.append(refined(f"KL(ρ_ss‖e^(−f/T)), {system}, grid", values[0], values[1], expected, order=2))
    return [*found, _correlation(level, "SGD")]


def _toward_the_loss(level: Level) -> list[Measurement]:
    """The largest rise of KL(ρ_t‖e^{−f/T}) in a time of 0.1 along SGD's flow from e^{−f/T}; E[xy] under e^{−f/T}."""
    return [*rises(level, "loss"), _correlation(level, "loss")]


def _two_densities(level: Level) -> "Figure":
    """e^{−f/T} and the steady state of the sheared double well."""
    system = "sheared double well"
    fp = generator(system, sizes(level, system)[1])
    steady = fp.steady_state()
    posterior = steady.copy(data=gibbs(system, "loss", sizes(level, system)[1])[0])
    return plot_densities({"exp(−f/T)": posterior, "steady state": steady})


INFERENCE_FOR_THE_LOSS = Claim(
    name="inference_for_the_loss",
    statement="SGD performs variational inference for its loss: KL(ρ‖e^{−f/T}) decreases, to 0, as it runs.",
    formula=r"\frac{d}{dt}\,KL\left(\rho\,\Vert\,e^{-f/T}\right)\leq 0",
    source="folklore; refuted by Chaudhari & Soatto (2018)",
    as_stated="fails",
    holds="KL to e^{−Φ/T} falls; KL to e^{−f/T} may rise, and ends at KL(ρ_ss‖e^{−f/T}), which is not 0 unless Φ = f",
    check=_away_from_the_loss,
    twin=_toward_the_loss,
    figure=_two_densities,
)


def _bounds(level: Level, energy: str) -> list[Measurement]:
    """log evidence − ELBO, along the flow, over KL(ρ‖ρ_ss); and the ELBO of the steady state, over the log evidence."""
    letter = {"potential": "Φ", "loss": "f"}[energy]
    found = []
    for system in ("sheared double well", "quadratic"):
        gaps, tops = [], []
        for cells in sizes(level, system):
            fp = generator(system, cells)
            grid, temperature = fp.grid, SYSTEMS[system][2]
            volume = float(np.prod(np.subtract(grid.upper, grid.lower)))
            rho = fp.evolve(bump(grid)[0], np.array([0.5]))[-1].values
            evidence = gibbs(system, energy, cells)[1] - math.log(volume)
            bound, top = (
                -energy_and_entropy(system, energy, p, cells) / temperature - math.log(volume)
                for p in (rho, fp.steady_state().values)
            )
            gaps.append((evidence - bound) * temperature / float(fp.free_energy(rho).free_energy))
            tops.append(top)
        what = f"(log evidence − ELBO of {letter})·T/F, {system}, along the flow"
        found.append(refined(what, gaps[0], gaps[1], 1.0, order=2))
        found.append(refined(f"ELBO of {letter} at the steady state, {system}", tops[0], tops[1], evidence, order=4))
    return found


def _bound_of_the_potential(level: Level) -> list[Measurement]:
    """ELBO(ρ) = E_ρ[log likelihood] − KL(ρ‖prior), the likelihood e^{−Φ/T} and the prior uniform on the box: from the Φ
    in closed form and the density of the grid, half a time unit after a Gaussian start, it is below the log evidence
    log(∫e^{−Φ/T}/volume) by F/T; at the solver's steady state it meets it, to the fourth order in the
    spacing, because it is flat at its maximum."""
    return _bounds(level, "potential")


def _bound_of_the_loss(level: Level) -> list[Measurement]:
    """The same with the likelihood e^{−f/T}."""
    return _bounds(level, "loss")


UNIFORM_PRIOR = Claim(
    name="uniform_prior",
    statement=(
        "SGD implicitly performs variational inference with a uniform prior: −F is an evidence lower bound, which the "
        "steady state reaches, albeit of a different loss than the one used to compute gradients."
    ),
    formula=r"E_\rho[-\Phi/T]-KL(\rho\,\Vert\,\mathrm{uniform})=\log\int e^{-\Phi/T}\frac{dx}{V}-F(\rho)/T",
    source="Chaudhari & Soatto (2018), Section III-B",
    hypotheses=("the likelihood of the weights is e^{−Φ/T}, Φ the potential and not the loss",),
    as_stated="holds",
    holds="as stated; with the likelihood e^{−f/T} of the loss SGD stays below the evidence unless Φ = f",
    check=_bound_of_the_potential,
    twin=_bound_of_the_loss,
)


def _bottleneck(level: Level, sign: float) -> list[Measurement]:
    mark = "+" if sign > 0 else "−"
    found = []
    for system in ("double well, D = I", "example 19"):
        values = []
        for cells in sizes(level, system):
            fp = generator(system, cells)
            start = bump(fp.grid)[0]
            flow = fp.evolve(start, np.array([0.0, 0.3]))
            free = fp.free_energy(flow).free_energy.values
            bottleneck = [
                energy_and_entropy(system, "potential", rho, cells, -sign) for rho in flow.values
            ]  # KL = log V − H
            values.append((bottleneck[1] - bottleneck[0]) / (free[1] - free[0]))
        what = f"change of E[Φ] {mark} T·KL(ρ‖uniform) over that of F, {system}"
        found.append(refined(what, values[0], values[1], 1.0, order=2))
    found += [_best_temperature(level, system, sign) for system in ("double well, D = I", "quadratic")]
    return found


def _best_temperature(level: Level, system: str, sign: float) -> Measurement:
    """a/T at which E[Φ] ± T·KL(ρ‖uniform) is least among the densities e^{−Φ/a}."""
    from scipy.optimize import minimize_scalar

    cells, temperature = sizes(level, system)[1], SYSTEMS[system][2]
    grid = generator(system, cells).grid
    phi = energy_of(system, "potential", grid.centers())

    def value(share: float) -> float:
        rho = np.exp(-(phi - phi.min()) / (share * temperature))
        return energy_and_entropy(system, "potential", rho / (rho.sum() * grid.cell_volume), cells, -sign)

    best = minimize_scalar(value, bounds=(0.3, 2.0), method="bounded", options={"xatol": 1e-7})
    what = f"a/T at which E[Φ] {'+' if sign > 0 else '−'} T·KL(ρ‖uniform) is least for ρ = e^(−Φ/a), {system}"
    because = "that of the search, 10⁻⁷, and the root of the rounding of the values; sums over cells err exponentially"
    return Measurement(what, float(best.x), 1.0, 1e-6, because)


def _plus(level: Level) -> list[Measurement]:
    """Along SGD's flow the change of E[Φ] + T·KL(ρ‖uniform) is that of F. Among the densities e^{−Φ/a} it is least at
    a = T, in sums over cells, minimised to 10⁻⁷."""
    return _bottleneck(level, 1.0)


def _minus(level: Level) -> list[Measurement]:
    """The same with the sign as it is printed, E[Φ] − T·KL(ρ‖uniform): the minimum is at the end of the interval, where
    the density is narrowest."""
    return _bottleneck(level, -1.0)


INFORMATION_BOTTLENECK = Claim(
    name="information_bottleneck",
    statement="The free energy of SGD is an information-bottleneck functional, the mean loss less T·KL(ρ‖prior).",
    formula=r"IB_\beta(\theta)=E_{\rho_\theta}[f]-\beta^{-1}KL(\rho_\theta\,\Vert\,\mathrm{prior})",
    source="the slides; Chaudhari & Soatto (2018), Remark 9, without a formula",
    as_stated="fails",
    holds=(
        "F = E[Φ] + T·KL(ρ‖uniform) + const: the divergence is added, and the mean is of Φ. With the printed sign the "
        "functional is unbounded below: it falls without end as ρ narrows around a minimum"
    ),
    check=_plus,
    twin=_minus,
)
