"""What theorems on SGD assume of a drift and its noise, each as a number with its error."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import xarray as xr

from sde_sgd.fokker_planck import _edges, _wall_report
from sde_sgd.fokker_planck.generator import FokkerPlanck
from sde_sgd.process import Process, Underdamped, _DriftModel, _FunctionModel

from ._identities import gradient
from ._refinement import mean

ERRORS = 3.0  # a number is not 0 when it is more than this many times its error
ROUGH = 10.0  # the same where the observed order of the field is not within _TRUSTED, as grids are too coarse
_TRUSTED = (1.5, 3.0)
EXACT = 1e-9  # of its scale: the error of what is known in closed form
SMALL = 0.05  # of its scale: what this many errors must be below to call a number 0
_DIFFERENCE = 6e-6  # step of central differences, ε^(1/3): their error is about 1e-10


@dataclass(frozen=True)
class Hypothesis:
    """One assumption as a number that is 0 where it is true.

    `holds` is False where `measured` > `limit`, True where it is not and the limit is below 5 % of the number's natural
    scale, None where the error is too large to tell or the assumption does not apply. `limit` is 3 `error`, the error
    that of the grid (10 where an order far from 2, or a mean Péclet number above 2, say that it is a size only), or of
    rounding where the number is known in closed form; for the walls it is that of `BoxWarning`.
    """

    name: str
    statement: str
    holds: bool | None
    measured: float
    error: float
    limit: float
    meaning: str

    def __str__(self) -> str:
        word = {True: "holds", False: "fails", None: "open "}[self.holds]
        value = "" if np.isnan(self.measured) else f" = {number(self.measured, self.error)}"
        return f"{word}  {self.statement}: {self.meaning}{value}"


def judge(
    name: str, statement: str, measured: float, error: float, scale: float, meaning: str, rounding: float = EXACT,
    errors: float = ERRORS,
) -> Hypothesis:  # fmt: skip
    """The verdict of a number with an error: see `Hypothesis`."""
    limit = errors * max(error, rounding * scale)
    holds: bool | None = None
    if measured > limit:
        holds = False
    elif limit <= SMALL * scale and np.isfinite(measured):
        holds = True
    elif np.isfinite(measured):
        meaning = f"the error is too large to tell from 0, refine the grid; {meaning}"
    return Hypothesis(name, statement, holds, float(measured), float(error), float(limit), meaning)


def inapplicable(name: str, statement: str, why: str) -> Hypothesis:
    return Hypothesis(name, statement, None, float("nan"), float("nan"), float("nan"), why)


def number(value: float, error: float) -> str:
    """'0.2134 ± 0.0003': two digits of the error; without one where it is rounding."""
    if not np.isfinite(error) or error <= EXACT * max(abs(value), 1e-300):
        return f"{value:.3g}"
    digits = 1 - int(np.floor(np.log10(error)))
    if error >= abs(value) or not 0 <= digits <= 6 or abs(value) >= 1e5:
        return f"{value:.2g} ± {error:.1g}"
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def has_jacobian(process: Process) -> bool:
    return not isinstance(process, Underdamped) and hasattr(process.evaluator(), "jacobian")


def jacobian(process: Process) -> Callable[[np.ndarray], np.ndarray]:
    """∂b_i/∂x_j: (..., d) → (..., d, d); by central differences where the drift is a function."""
    if has_jacobian(process):
        exact, temperature = process.evaluator().jacobian, process.constant_temperature
        return lambda x: exact(x, temperature)

    def differences(x: np.ndarray) -> np.ndarray:
        columns = []
        for k in range(x.shape[-1]):
            move = np.zeros_like(x)
            move[..., k] = _DIFFERENCE * np.maximum(1.0, np.abs(x[..., k]))
            columns.append((process.drift(x + move) - process.drift(x - move)) / (2 * move[..., k : k + 1]))
        return np.stack(columns, -1)

    return differences


def has_loss(process: Process) -> bool:
    """Whether there is an f at all: a process made from a drift has none."""
    return not isinstance(process, Underdamped) and not isinstance(process.landscape, _DriftModel | _FunctionModel)


def hypotheses(fp: FokkerPlanck, parts: xr.Dataset, fixed_points: xr.Dataset) -> list[Hypothesis]:
    """All of them, detailed balance first. `parts` has the errors of its fields, and `loss` where there is an f."""
    process, grid = fp.process, fp.grid
    temperature = process.temperature
    weight = np.exp(fp._log_density - fp._log_density.max()).reshape(grid.shape)
    drift = _edges.at_centers(process.drift, "drift", grid).reshape(*grid.shape, grid.dim)

    def of_grid(name: str, statement: str, field: str, scale: float, meaning: str) -> Hypothesis:
        measured, error = (mean(np.abs(parts[f].values), weight) for f in (field, f"{field}_error"))
        sure = _TRUSTED[0] <= parts.attrs[f"{field}_order"] <= _TRUSTED[1]
        sure &= parts.attrs["mean_peclet"] <= _wall_report.PECLET  # beyond, an order of 2 is a coincidence
        return judge(name, statement, measured, error, scale, meaning, errors=ERRORS if sure else ROUGH)

    balance = of_grid("detailed_balance", "detailed balance, j = 0", "remainder", mean(drift, weight), "E|j|")
    # what j does is measured by its own speed times the slope of Φ, where there is a j
    moving = np.linalg.norm(parts["remainder"].values if balance.holds is False else drift, axis=-1)
    across = mean(moving * np.linalg.norm(gradient(parts["potential"].values, grid), axis=-1), weight)
    return [
        balance,
        _gradient_drift(fp, parts, drift, weight),
        *_noise(process.diffusion(grid.centers()), fp.added_diffusion.values, weight),
        of_grid("divergence_free", "div j = 0 (Assumption 4)", "divergence_j", across / temperature, "E|div j|"),
        of_grid("orthogonal", "j ⟂ ∇Φ", "j_dot_grad_potential", across, "E|j·∇Φ|"),
        *_walls(fp),
        _commuting(process, fixed_points),
        _potential_is_loss(parts, weight, temperature),
    ]


def _gradient_drift(fp: FokkerPlanck, parts: xr.Dataset, drift: np.ndarray, weight: np.ndarray) -> Hypothesis:
    """b = −∇f itself, or else ∂b symmetric and no mean force round a periodic axis."""
    process, grid = fp.process, fp.grid
    name, statement, centers = "gradient_drift", "the drift is a gradient", grid.centers()
    if "loss" in parts:
        gap = mean(drift + process.landscape.gradient(centers), weight)
        if gap <= EXACT * mean(drift, weight):
            return judge(name, statement, gap, 0.0, mean(drift, weight), "b = −∇f, E|b + ∇f|")
    slope = jacobian(process)(centers)
    turning = np.linalg.norm(slope - np.swapaxes(slope, -1, -2), axis=(-2, -1)) / 2
    measured = mean(turning, weight)
    for axis in np.flatnonzero(grid.periodic):
        force = np.abs(drift[..., axis].mean(axis, keepdims=True)) / (grid.upper[axis] - grid.lower[axis])
        measured += mean(np.broadcast_to(force, grid.shape), weight)
    scale = mean(np.linalg.norm(slope, axis=(-2, -1)), weight)
    rounding = EXACT if has_jacobian(process) else 1e-7
    round_axes = " + |∮b|/L²" if any(grid.periodic) else ""
    return judge(name, statement, measured, 0.0, scale, f"E‖∂b − ∂bᵀ‖/2{round_axes}", rounding)


def _noise(diffusion: np.ndarray, added: np.ndarray, weight: np.ndarray) -> list[Hypothesis]:
    d = diffusion.shape[-1]
    average = np.tensordot(weight.ravel() / weight.sum(), diffusion.reshape(-1, d, d), 1)
    size, isotropic = float(np.linalg.norm(average)), np.trace(average) / d * np.eye(d)
    spread, shape = (float(np.linalg.norm(diffusion - m, axis=(-2, -1)).max()) for m in (average, isotropic))
    return [
        judge("noise_as_given", "no diffusion was added", mean(added, weight) / size, 0.0, 1.0, "E ε/‖E D‖"),
        judge("constant_noise", "D is constant", spread / size, 0.0, 1.0, "max‖D − E D‖/‖E D‖"),
        judge("isotropic_noise", "D = cI, c constant", shape / size, 0.0, 1.0, "max‖D − cI‖/‖E D‖"),
    ]


def _walls(fp: FokkerPlanck) -> list[Hypothesis]:
    mass = np.exp(fp._log_density) * fp.grid.cell_volume
    beside = _wall_report.masses(fp, mass)
    density = max((m * fp.grid.shape[axis] for (axis, _), m in beside.items()), default=0.0)
    turned = float(fp.log_steady_state().attrs["wall_drift"])
    return [
        _below("decay", "ρ decays before it meets a wall", density, _wall_report.DENSITY, "ρ there/mean ρ, at most"),
        _below("free_walls", "no current is turned by a wall", turned, _wall_report.DRIFT, "E|change of log ρ|"),
    ]


def _below(name: str, statement: str, measured: float, limit: float, meaning: str) -> Hypothesis:
    return Hypothesis(name, statement, measured <= limit, measured, 0.0, limit, meaning)


def _commuting(process: Process, fixed_points: xr.Dataset) -> Hypothesis:
    """FD symmetric at every minimum, F = −∂b; for b = −∇f that is HD = DH."""
    name, statement = "commute", "F = −∂b (∇²f) and D commute at every minimum, FD = DFᵀ"
    points = located(fixed_points, process.variables)[stable(fixed_points)]
    if not len(points):
        return inapplicable(name, statement, "there is none in the box")
    product = -jacobian(process)(points) @ process.diffusion(points)
    turned = np.swapaxes(product, -1, -2)
    size = np.linalg.norm(product + turned, axis=(-2, -1))
    share = np.linalg.norm(product - turned, axis=(-2, -1)) / np.where(size > 0.0, size, 1.0)
    return judge(name, statement, float(share.max()), 0.0, 1.0, "‖FD − DFᵀ‖/‖FD + DFᵀ‖, at most", 1e-7)


def _potential_is_loss(parts: xr.Dataset, weight: np.ndarray, temperature: float) -> Hypothesis:
    """Φ = a + s f by least squares under ρ."""
    name, statement = "potential_is_loss", "Φ is the loss, Φ = s f + constant"
    if "loss" not in parts:
        return inapplicable(name, statement, "the process has no loss")
    share = (weight / weight.sum()).ravel()

    def centred(field: str) -> np.ndarray:
        values = parts[field].values.ravel()
        return values - share @ values

    phi, f, error = centred("potential"), centred("loss"), centred("potential_error")
    size = float(share @ f**2)
    slope = float(share @ (phi * f)) / size if size > 0.0 else 0.0
    rest, bar = (float(np.sqrt(share @ v**2)) / temperature for v in (phi - slope * f, error))
    return judge(name, statement, rest, bar, 1.0, f"s = {slope:.4g}, spread of Φ − s f in T")


def modes_at_zeros(modes: xr.Dataset, spacing: np.ndarray) -> Hypothesis:
    """Whether every peak of ρ is at a zero of the drift; a place without a counterpart may be off by two cells."""
    name, statement = "modes_at_zeros", "every mode is where b = 0 (∇f = 0)"
    peaks = np.flatnonzero(modes["resolved"].values & np.isfinite(modes["nearest"].values))
    if not len(peaks):
        return inapplicable(name, statement, "there is no mode of its own, or no such place")
    error = modes["shift_error"].values[peaks]
    error = np.where(np.isfinite(error), error, 2.0 * np.linalg.norm(spacing))
    far = int((modes["nearest"].values[peaks] - ERRORS * error).argmax())
    distance, width = (float(modes[v].values[peaks][far]) for v in ("nearest", "width"))
    return judge(name, statement, distance, float(error[far]), width, "distance, at most")


def stable(fixed_points: xr.Dataset) -> np.ndarray:
    """Which of them are minima, or stable."""
    return np.isin(fixed_points["kind"].values.astype(str), ("minimum", "stable"))


def located(points: xr.Dataset, variables) -> np.ndarray:
    """Coordinates (number, d) of a Dataset over `point`."""
    return np.stack([points[str(v)].values for v in variables], -1)
