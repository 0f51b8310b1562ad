"""The stationary distribution by elimination is right relative to itself, whatever its range."""

import mpmath
import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as spla

from sde_sgd.fokker_planck import FokkerPlanck
from sde_sgd.fokker_planck._dissection import dissect
from sde_sgd.fokker_planck._elimination import log_stationary
from sde_sgd.grid import Grid
from sde_sgd.landscapes import Landscape
from sde_sgd.process import Process


def exact_log_stationary(states, tail, head, log_forward, log_backward):
    """The null vector by LU in 1500 digits: as it subtracts, it needs more than the range of the rates."""
    with mpmath.workdps(1500):
        rate = [[mpmath.mpf(0)] * states for _ in range(states)]
        for t, h, f, b in zip(tail, head, log_forward, log_backward):
            rate[t][h] += mpmath.exp(mpmath.mpf(float(f)))
            rate[h][t] += mpmath.exp(mpmath.mpf(float(b)))
        generator = mpmath.matrix(states, states)
        for i in range(states):
            for j in range(states):
                if i != j:
                    generator[j, i] = rate[i][j]
                    generator[i, i] -= rate[i][j]
        # replace the last balance equation by π_last = 1
        for j in range(states):
            generator[states - 1, j] = 1 if j == states - 1 else 0
        pi = mpmath.lu_solve(generator, [0] * (states - 1) + [1])
        return np.array([float(mpmath.log(p)) for p in pi])


def extended(log_rates):
    """Mantissa and binary exponent of e**log_rate."""
    exponent = np.floor(log_rates / np.log(2.0)).astype(np.int64)
    return np.exp(log_rates - exponent * np.log(2.0)), exponent


def eliminate(states, tail, head, log_forward, log_backward, position=None):
    position = np.arange(states)[:, None] if position is None else position
    mantissa, exponent = extended(np.stack([log_forward, log_backward], axis=1).ravel())
    return log_stationary(dissect(tail, head, position), mantissa, exponent)


def relative(log_pi, reference):
    log_pi, reference = log_pi - log_pi[-1], reference - reference[-1]
    return np.abs(log_pi - reference).max() / max(1.0, np.abs(reference).max())


@pytest.mark.parametrize("span", [3.0, 690.0])
def test_complete_chain_against_exact_arithmetic(span):
    """Rates from e^−span to e^span (690 nats: 1e−300 to 1e300), every pair of 14 states joined."""
    rng = np.random.default_rng(1)
    states = 14
    tail, head = np.triu_indices(states, 1)
    forward, backward = rng.uniform(-span, span, (2, tail.size))
    exact = exact_log_stationary(states, tail, head, forward, backward)
    assert relative(eliminate(states, tail, head, forward, backward), exact) < 1e-13


def test_counterexample_float64_solve_loses_the_range():
    rng = np.random.default_rng(1)
    states = 14
    tail, head = np.triu_indices(states, 1)
    forward, backward = rng.uniform(-690.0, 690.0, (2, tail.size))
    exact = exact_log_stationary(states, tail, head, forward, backward)
    rate = np.zeros((states, states))
    rate[tail, head], rate[head, tail] = np.exp(forward), np.exp(backward)
    balance = rate.T - np.diag(rate.sum(axis=1))
    with np.errstate(all="ignore"):
        pi = np.append(np.linalg.lstsq(balance[:-1, :-1], -balance[:-1, -1])[0], 1.0)
        assert not relative(np.log(pi), exact) < 1e-2


@pytest.mark.parametrize("seed", range(6))
def test_any_graph_and_any_positions(seed):
    """The order comes from positions, the answer must not: random graphs, meaningless coordinates."""
    rng = np.random.default_rng(seed)
    states = 60
    extra = rng.integers(0, states, (2, 90))
    tail = np.concatenate([np.arange(states - 1), extra[0][extra[0] != extra[1]]])
    head = np.concatenate([np.arange(1, states), extra[1][extra[0] != extra[1]]])
    pairs = np.unique(np.sort(np.stack([tail, head]), axis=0), axis=1)
    forward, backward = rng.uniform(-5, 5, (2, pairs.shape[1]))
    first = eliminate(states, *pairs, forward, backward, rng.integers(0, 9, (states, 2)))
    second = eliminate(states, *pairs, forward, backward, np.zeros((states, 1), np.int64))  # one dense front
    assert relative(first, second) < 1e-13
    rate = sp.coo_array((np.exp(np.r_[forward, backward]), (np.r_[pairs[1], pairs[0]], np.r_[pairs[0], pairs[1]])))
    generator = rate - sp.diags_array(rate.sum(axis=0))
    pi = np.exp(first)
    assert np.abs(generator @ pi).max() < 1e-12 * (abs(generator) @ pi).max()


def superlu(fp):
    """The usual way: pin the most likely cell, factor the rest."""
    matrix = fp.matrix
    pin = int(np.argmax(fp.log_steady_state().values))
    rest = np.delete(np.arange(fp.grid.size), pin)
    pi = np.ones(fp.grid.size)
    pi[rest] = spla.splu(matrix[rest][:, rest].tocsc()).solve(-matrix[rest][:, [pin]].toarray().ravel())
    return pi


def test_agrees_with_superlu_where_superlu_is_right():
    process = Landscape(("x", "y"), "(x**2 + y**2)/2", circulation=("-y", "x")).at_temperature(1.0)
    fp = FokkerPlanck(process, Grid((-3, -3), (3, 3), (40, 37)))
    expected = superlu(fp)
    expected /= expected.sum() * fp.grid.cell_volume
    np.testing.assert_allclose(fp.steady_state().values.ravel(), expected, rtol=1e-11)


@pytest.mark.parametrize("knows_potential", [True, False])
def test_a_thousand_nats(knows_potential):
    """(x²−1)² + 2y² at β = 100: log ρ spans more than a thousand nats and is right to 1e-9 everywhere."""
    if knows_potential:
        process = Landscape(("x", "y"), "(x**2 - 1)**2 + 2*y**2").at_temperature(0.01)
        assert process.equilibrium_potential is not None
    else:
        process = Process(
            lambda x, y: (-4 * x * (x * x - 1), -4 * y),
            lambda x, y: ((1 + 0 * x, 0 * x), (0 * x, 1 + 0 * x)),
            0.01,
            variables=("x", "y"),
            diffusion_divergence=lambda x, y: (0 * x, 0 * x),
        )
        assert process.equilibrium_potential is None
    grid = Grid((-2, -2), (2, 2), (64, 64))
    fp = FokkerPlanck(process, grid)
    if knows_potential:
        x, y = np.moveaxis(grid.centers(), -1, 0)
        exact = -100 * ((x**2 - 1) ** 2 + 2 * y**2)
    else:
        # separable, so the discrete steady state is the product of two 1-D ones: log ρ = Σ P along each axis
        middle = [axis[:-1] + 0.5 * h for axis, h in zip(grid.axes, grid.spacing)]
        steps = (
            100 * -4 * middle[0] * (middle[0] ** 2 - 1) * grid.spacing[0],
            100 * -4 * middle[1] * grid.spacing[1],
        )
        along = [np.concatenate([[0.0], np.cumsum(s)]) for s in steps]
        exact = along[0][:, None] + along[1][None, :]
    found = fp.log_steady_state().values
    exact, found = exact - exact.max(), found - found.max()
    assert exact.min() < -1400
    assert (np.abs(found - exact) <= 1e-9 * np.maximum(1.0, np.abs(exact))).all()
    with np.errstate(all="ignore"):  # counterexample: the same generator, solved by LU
        lost = np.abs(np.log(superlu(fp).reshape(grid.shape)) - exact)
    held = exact > -700  # within float64
    assert not (lost[held] < 1.0).all()


def test_irreversible_tails_against_exact_arithmetic():
    """A rotating drift at β = 60 on a coarse grid: no detailed balance to lean on."""
    process = Landscape(("x", "y"), "x**2/2 + y**2", circulation=("-y/5", "x/5")).at_temperature(1 / 60)
    fp = FokkerPlanck(process, Grid((-2, -2), (2, 2), (7, 6)))
    log_forward, log_backward = fp.edges.log_rates()
    exact = exact_log_stationary(42, fp.edges.tail, fp.edges.head, log_forward, log_backward)
    found = fp.log_steady_state().values.ravel()
    assert relative(found, exact) < 1e-12 and np.ptp(found) > 100
