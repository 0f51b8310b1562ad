"""Modes where the steady state is so small that an eigensolver leaves them to rounding: from their own equations."""

from collections.abc import Callable

import numpy as np
import scipy.sparse.linalg as sla

from sde_sgd.errors import NotConverged

from ._weighted import Space

_FAR = -40.0  # nats below the peak of π where the vectors of an iteration are rounding
_STEPS = 40  # of the iteration that mends it, and vectors of a Krylov space where that does not settle
_SETTLED, _CLOSE = 1e-10, 1e-8  # change of a step: of every value, of the largest
_ERROR = 1e-9  # of GMRES


def _apply(operator: Callable, v: np.ndarray) -> np.ndarray:
    """A real operator on real or complex vectors."""
    return operator(v) if not np.iscomplexobj(v) else operator(v.real) + 1j * operator(v.imag)


def apply(operator: Callable, v: np.ndarray) -> np.ndarray:
    """A real operator on real or complex vectors."""
    return operator(v) if not np.iscomplexobj(v) else operator(v.real) + 1j * operator(v.imag)


def in_tail(space: Space, weighted: np.ndarray) -> np.ndarray:
    """Where π is small and a mode no more than the rounding of the iteration, (cells, modes)."""
    far = 2.0 * (space.log_root - space.log_root.max()) < _FAR
    size = np.abs(weighted)
    return far[:, None] & (size < 1e-6 * size.max(axis=0))


def continued(solve: Callable, space: Space, rate: np.ndarray, weighted: np.ndarray) -> np.ndarray:
    """weighted/√π, and in the tail what follows from it by u = rate·solve(u), rate = λ + σ.

    This is iterated from 0 there: a step errs by about λ times the time that the drift takes to leave the tail. Where
    that does not shrink, as in a well that is left more slowly than the mode decays, it is solved by GMRES.
    """
    tail = in_tail(space, weighted)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        plain = np.where(tail, 0.0, weighted * np.exp(-space.log_root)[:, None])
    if not np.isfinite(plain).all():
        raise ValueError(
            "a mode lives where the steady state is so small that its function exceeds float64; raise the temperature, "
            "or ask for fewer modes"
        )
    active = np.flatnonzero(tail.any(axis=0) & (rate.imag >= 0.0))
    change = size = np.empty(0)
    for _ in range(_STEPS):
        if not active.size:
            break
        inside, old = tail[:, active], plain[:, active]
        with np.errstate(over="ignore", invalid="ignore"):
            new = np.where(inside, rate[active] * apply(solve, old), old)
            differences, sizes = np.abs(new - old), np.where(inside, np.abs(new), 0.0)
        plain[:, active] = new
        going = ~(differences <= _SETTLED * sizes).all(axis=0)
        active, change, size = active[going], differences.max(axis=0)[going], sizes.max(axis=0)[going]
    for k in active[~(change <= _CLOSE * size)]:
        plain[:, k] = _solved(solve, rate[k], np.where(tail[:, k], 0.0, plain[:, k]), tail[:, k])
    second = np.flatnonzero(rate.imag < 0.0)
    plain[:, second] = plain[:, second - 1].conj()
    return plain


def _solved(solve: Callable, rate: complex, known: np.ndarray, tail: np.ndarray) -> np.ndarray:
    """`known`, and in the tail the solution of u = rate·solve(u)."""

    def image(u: np.ndarray) -> np.ndarray:
        return rate * apply(solve, u[:, None])[tail, 0]

    def error(part: np.ndarray) -> np.ndarray:
        u = np.zeros(tail.size, part.dtype)
        u[tail] = part.ravel()
        return part.ravel() - image(u)

    operator = sla.LinearOperator((int(tail.sum()),) * 2, matvec=error, dtype=known.dtype)
    part, fault = sla.gmres(operator, image(known), rtol=_ERROR, atol=0.0, restart=_STEPS, maxiter=5)
    if fault:
        raise NotConverged(
            "a mode did not converge where the steady state is small; ask for fewer modes, or raise the temperature"
        )
    result = known.copy()
    result[tail] = part
    return result
