"""Claims about the steady state: Φ against f, the remainder j, and where the density peaks."""

from functools import cache

import numpy as np

import sde_sgd as sde
from sde_sgd.theory.claim import Claim, Level, Measurement

_CELLS = 200


def _parts(process: sde.Process, reach: float, cells: int = _CELLS):
    """(decomposition, grid) of a two-dimensional process on [−reach, reach]²."""
    grid = sde.Grid((-reach, -reach), (reach, reach), (cells, cells))
    return sde.decompose(sde.FokkerPlanck(process, grid)), grid


def _mean(values: np.ndarray, potential: np.ndarray, temperature: float) -> float:
    """Average over the steady density."""
    rho = np.exp(-(potential - potential.min()) / temperature)
    return float((values * rho).sum() / rho.sum())


def _potential_against_loss(diffusion: list, temperature: float = 0.2) -> float:
    """Standard deviation of Φ − f over the steady density, in units of T.

    The solver is given the drift alone: told the loss, it would use it as the potential and find it again.
    """
    well = sde.Landscape(("x", "y"), "(x**2 - 1)**2/4 + y**2/2 + x*y/4")
    drift = sde.Process(["x - x**3 - y/4", "-y - x/4"], diffusion, temperature, variables=("x", "y"))
    parts, grid = _parts(drift, 3.0)
    potential = parts["potential"].values
    gap = potential - well.loss(grid.centers()) / diffusion[0][0]
    centre = _mean(gap, potential, temperature)
    return np.sqrt(_mean((gap - centre) ** 2, potential, temperature)) / temperature


def _isotropic(level: Level) -> list[Measurement]:
    measured = _potential_against_loss([[2, 0], [0, 2]])
    return [Measurement("spread of Φ − f/c over ρ, in T, for D = 2I", measured, 0.0, 0.01, "discretisation")]


def _anisotropic(level: Level) -> list[Measurement]:
    measured = _potential_against_loss([[1, 0], [0, 2]])
    return [Measurement("spread of Φ − f over ρ, in T, for D = diag(1, 2)", measured, 0.0, 0.01, "discretisation")]


ISOTROPIC_NOISE = Claim(
    name="isotropic_noise",
    statement="If D = cI, the steady state is e^{−f/(cT)}: Φ = f/c.",
    source="Chaudhari & Soatto (2018), Lemma 6",
    formula=r"D=cI\implies\Phi=f/c",
    as_stated="holds",
    holds="as stated; with D = diag(1, 2) the potential is no longer the loss",
    check=_isotropic,
    twin=_anisotropic,
)


def _example_19():
    process = sde.landscapes.get("example_19", circulation=0.5).at_temperature(1.0)
    parts, _ = _parts(process, 4.0)
    potential = parts["potential"].values
    scale = _mean(np.abs(parts["divergence_j"].values), potential, 1.0)
    return parts, potential, scale


def _divergence_identity(level: Level) -> list[Measurement]:
    parts, potential, scale = _example_19()
    gap = np.abs(parts["divergence_j"].values - parts["j_dot_grad_potential"].values)  # T = 1
    return [
        Measurement("E|div j − j·∇Φ/T| / E|div j|", _mean(gap, potential, 1.0) / scale, 0.0, 0.02, "discretisation")
    ]


def _divergence_free(level: Level) -> list[Measurement]:
    parts, potential, scale = _example_19()
    speed = _mean(np.linalg.norm(parts["remainder"].values, axis=-1), potential, 1.0)
    return [Measurement("E|div j| / E|j| of Example 19", scale / speed, 0.0, 0.02, "discretisation")]


DIVERGENCE_FREE_REMAINDER = Claim(
    name="divergence_free_remainder",
    statement="The remainder j = −∇f + D∇Φ − T div D of the steady state is divergence-free (Assumption 4).",
    source="Chaudhari & Soatto (2018), Assumption 4 and Example 19",
    formula=r"\nabla\cdot j=0",
    as_stated="needs_hypothesis",
    holds="div j = j·∇Φ/T always; div j = 0 is the extra hypothesis j ⟂ ∇Φ, which their own Example 19 breaks",
    check=_divergence_identity,
    twin=_divergence_free,
)


@cache
def _neuron_at_its_modes() -> tuple[float, float]:
    """Largest |∇f| and |∇f + T div(D + Q)| over the three modes at T = 0.2, Q = q [[0, 1], [−1, 0]]."""
    neuron, temperature = sde.landscapes.get("neuron"), 0.2
    grid = sde.Grid((-2.5, -2.5), (2.5, 2.5), (_CELLS, _CELLS))
    fp = sde.FokkerPlanck(neuron.at_temperature(temperature), grid)
    parts = sde.decompose(fp)
    peaks = sde.potential.modes(fp.log_steady_state())
    points = np.stack([peaks["w"].values, peaks["c"].values], -1)
    near = {"w": peaks["w"], "c": peaks["c"]}
    divergence_q = np.stack(
        [parts["q"].differentiate("c").interp(near).values, -parts["q"].differentiate("w").interp(near).values], -1
    )
    gradient = neuron.gradient(points)
    corrected = gradient + temperature * (neuron.diffusion_divergence(points) + divergence_q)
    return float(np.linalg.norm(gradient, axis=-1).max()), float(np.linalg.norm(corrected, axis=-1).max())


def _mode_equation(level: Level) -> list[Measurement]:
    return [
        Measurement("largest |∇f + T div(D + Q)| at a mode", _neuron_at_its_modes()[1], 0.0, 0.02, "discretisation")
    ]


def _critical_points(level: Level) -> list[Measurement]:
    return [
        Measurement(
            "largest |∇f| at a mode of the neuron, T = 0.2", _neuron_at_its_modes()[0], 0.0, 0.02, "discretisation"
        )
    ]


MODES_ARE_CRITICAL = Claim(
    name="modes_are_critical_points",
    statement="SGD is most likely found at critical points of the loss.",
    source="folklore, from Φ = f",
    formula=r"\nabla f=0",
    as_stated="fails",
    holds="modes of the steady density solve ∇f + T div(D + Q) = 0",
    check=_mode_equation,
    twin=_critical_points,
)
