"""Linear drift and constant noise of a trajectory, by inverting the exact law of one interval."""

from typing import Any

import numpy as np
import scipy.linalg
import scipy.stats
import xarray as xr

from sde_sgd.errors import TooFewSamples
from sde_sgd.process import Process

from ._local_linear import LocalLinear
from ._neighbourhoods import Everywhere
from ._residual_tests import Memory, agreement, memory_attributes
from ._trajectory import Trajectory

_MOST = 16
_ROWS = 2**12


def estimate_linear(
    states: Trajectory, fewest: int, temperature: float | None, expected: Process | None, epoch: int, level: float
) -> xr.Dataset:
    """b(x) = drift + J(x − centre) and the constant noise matrix TD, as `estimate_drift_diffusion` describes."""
    d = states.dim
    if d > _MOST:
        raise ValueError(f"a linear drift is fitted to at most {_MOST} variables, got {d}; choose some of them")
    near = Everywhere(*_mean_and_deviation(states))
    smoother = LocalLinear(near, (piece.x0 for piece in states.pieces(1)), max(fewest, d + 2))
    if not smoother.usable[0]:
        raise TooFewSamples(
            f"{smoother.count[0]} increments in {d} variables do not determine a linear drift, or the states do not "
            f"span them; at least {max(fewest, d + 2)} are needed"
        )
    sums = smoother.sums(d)
    for piece in states.pieces(1):
        smoother.add(sums, near.pairs(piece.x0), piece.increments[0])
    fit = smoother.solve(sums)
    upper = np.triu_indices(d)
    memory = Memory(smoother, d, epoch, states.first_step) if states.shape[1] > 2 else None
    square, count = np.zeros((d, d)), int(smoother.count[0])
    for piece in states.pieces(1, epoch or 1):
        own = near.own(piece.x0)
        residual = piece.increments[0] - smoother.at(fit, own)
        square += residual.T @ residual
        if memory is not None:
            memory.gather(piece, near.pairs(piece.x0), residual)
    square /= count
    if memory is not None:
        memory.settle()
    scatter = np.zeros((fit[0].size + len(upper[0]),) * 2)
    for piece in states.pieces(1, epoch or 1):
        own = near.own(piece.x0)
        residual = piece.increments[0] - smoother.at(fit, own)
        if memory is not None:
            memory.score(piece, own, residual)
        columns = np.concatenate([np.ones((len(residual), 1)), own[1]], axis=1) @ smoother.inverse[0]
        for first in range(0, len(residual), _ROWS):
            at = slice(first, first + _ROWS)
            r = residual[at]
            scores = np.concatenate(
                [(columns[at][:, :, None] * r[:, None, :]).reshape(len(r), -1),
                 (r[:, upper[0]] * r[:, upper[1]] - square[upper]) / count], axis=1,
            )  # fmt: skip
            scatter += scores.T @ scores

    inflation = smoother.inflation[0]
    parameters = np.concatenate([fit[0].ravel(), square[upper] * inflation])
    law = _Law(states, near.width)
    values = law.invert(parameters)
    slope = _derivative(law, parameters)
    covariance = slope @ scatter @ slope.T * inflation
    unit = 1.0 if temperature is None else temperature
    return _dataset(states, near.centre[0], values, covariance, unit, temperature, expected, memory, level, count)


def _mean_and_deviation(states: Trajectory) -> tuple[np.ndarray, np.ndarray]:
    total, square, count, origin = np.zeros(states.dim), np.zeros(states.dim), 0, None
    for piece in states.pieces(1):
        origin = piece.x0[0] if origin is None else origin
        x = piece.x0 - origin
        total, square, count = total + x.sum(0), square + (x * x).sum(0), count + len(x)
    assert origin is not None
    mean = total / count
    deviation = np.sqrt(np.maximum(square / count - mean**2, 0.0))
    still = np.flatnonzero(deviation <= 1e-12 * (np.abs(origin + mean) + deviation.max()))
    if len(still):
        raise TooFewSamples(
            f"{states.variables[still[0]]} does not move, so that no drift can be read off it; leave it out"
        )
    return origin + mean, deviation


class _Law:
    """From the mean and covariance of the increment over an interval to drift, Jacobian and noise."""

    def __init__(self, states: Trajectory, width: np.ndarray):
        self.tau, self.unit, self.every, self.dim = states.interval, states.unit, states.every, states.dim
        self.width, self.upper = width, np.triu_indices(states.dim)

    def invert(self, parameters: np.ndarray) -> np.ndarray:
        """(increment at the centre, its slopes, covariance) → (drift, Jacobian, TD), flat."""
        d = self.dim
        shift, slope = parameters[:d], parameters[d : d + d * d].reshape(d, d)
        square = np.empty((d, d))
        square[self.upper] = square[self.upper[::-1]] = parameters[d + d * d :]
        jacobian = (slope / self.width[:, None]).T  # of the increment
        if self.unit and self.every == 1:
            return np.concatenate([shift / self.tau, jacobian.ravel() / self.tau, square[self.upper] / (2 * self.tau)])
        leap = np.eye(d) + jacobian
        value = np.linalg.eigvals(leap)
        bad = value[(np.abs(value.imag) <= 1e-12 * np.abs(value)) & (value.real <= 0)]
        if len(bad):
            raise ValueError(
                f"the propagator over an interval has the eigenvalue {bad[0].real:.3g}, and no drift makes it one that "
                "is <= 0: states are forgotten within the interval; save them more often"
            )
        # no eigenvectors: near a double eigenvalue they lose half the digits
        rate = np.real(scipy.linalg.logm(leap))
        stationary = scipy.linalg.solve_discrete_lyapunov(leap, square)  # it may be indefinite: the drift need not hold
        if self.unit:
            step = scipy.linalg.expm(rate / self.every)
            rate = (step - np.eye(d)) / self.unit
            joined = np.block([[step, self.unit * np.eye(d)], [np.zeros((d, d)), np.eye(d)]])
            time = np.linalg.matrix_power(joined, self.every)[:d, d:]
            noise = (stationary - step @ stationary @ step.T) / (2 * self.unit)
        else:
            rate = rate / self.tau
            joined = np.block([[rate, np.eye(d)], [np.zeros((d, 2 * d))]]) * self.tau
            time = scipy.linalg.expm(joined)[:d, d:]
            noise = -(rate @ stationary + stationary @ rate.T) / 2
        return np.concatenate([np.linalg.solve(time, shift), rate.ravel(), noise[self.upper]])


def _derivative(law: _Law, parameters: np.ndarray) -> np.ndarray:
    """∂(drift, Jacobian, TD)/∂(moments of an interval) by central differences."""
    d = law.dim
    size = np.concatenate([np.full(d + d * d, max(np.abs(parameters[: d + d * d]).max(), 1e-300)),
                           np.full(len(law.upper[0]), max(np.abs(parameters[d + d * d :]).max(), 1e-300))])  # fmt: skip
    columns = []
    for i, step in enumerate(6e-6 * size):
        move = np.zeros_like(parameters)
        move[i] = step
        columns.append((law.invert(parameters + move) - law.invert(parameters - move)) / (2 * step))
    return np.stack(columns, axis=1)


def _dataset(states, centre, values, covariance, unit, temperature, expected, memory, level, count) -> xr.Dataset:
    d, names = states.dim, list(states.variables)
    upper = np.triu_indices(d)
    scale = np.concatenate([np.ones(d + d * d), np.full(len(upper[0]), 1.0 / unit)])
    values, covariance = values * scale, covariance * scale[:, None] * scale
    errors = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    noise = "noise" if temperature is None else "diffusion"
    where = {"drift": slice(0, d), "jacobian": slice(d, d + d * d), noise: slice(d + d * d, None)}

    def shaped(name: str, flat: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
        if name == "drift":
            return ("component",), flat[where[name]]
        if name == "jacobian":
            return ("component", "component_2"), flat[where[name]].reshape(d, d)
        full = np.empty((d, d))
        full[upper] = full[upper[::-1]] = flat[where[name]]
        return ("component", "component_2"), full

    found: dict[str, Any] = {"centre": (("component",), centre)}
    for name in where:
        found[name], found[f"{name}_error"] = shaped(name, values), shaped(name, errors)
    found["samples"] = ((), count)
    attrs: dict[str, Any] = {}
    if expected is not None:
        exact = np.concatenate(_linearised(expected, centre)) * scale
        for name, part in where.items():
            gap, v = (values - exact)[part], covariance[part, part]
            found[f"expected_{name}"] = shaped(name, exact)
            found[f"{name}_z"] = shaped(name, (values - exact) / np.where(errors > 0, errors, np.inf))
            rank = int(np.linalg.matrix_rank(v, hermitian=True))
            chi2 = float(gap @ np.linalg.pinv(v, hermitian=True) @ gap)
            p = float(scipy.stats.chi2.sf(chi2, rank)) if rank else 1.0
            attrs |= {f"{name}_chi2": chi2, f"{name}_chi2_mean": rank, f"{name}_p": p}
        attrs["agreement"] = agreement(attrs, tuple(where), level)
    coords = {"component": names, "component_2": names}
    return xr.Dataset(found, coords, {**attrs, **memory_attributes(memory, level)})


def _linearised(process: Process, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """b, its Jacobian and T·D at x."""
    steps = np.diag(6e-6 * np.maximum(1.0, np.abs(x)))
    ahead, behind = process.drift(x + steps), process.drift(x - steps)
    jacobian = ((ahead - behind) / (2 * np.diag(steps)[:, None])).T
    noise = process.constant_temperature * process.diffusion(x)[np.triu_indices(len(x))]
    return process.drift(x), jacobian.ravel(), noise
