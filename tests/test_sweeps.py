"""The sweeps solve each offset's backward Euler step entry by entry, keep mass and sign, and cost what is said."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse as sp

from sde_sgd.fokker_planck import FokkerPlanck
from sde_sgd.fokker_planck._edges import Edges
from sde_sgd.fokker_planck._sweeps import Sweeps, sweep_cost
from sde_sgd.grid import Grid
from sde_sgd.process import Process

WALLS = [
    ("reflecting", "reflecting"), ("periodic", "periodic"), ("periodic", "reflecting"), ("reflecting", "periodic"),
    ("absorbing", "absorbing"), ("absorbing", "periodic"), ("reflecting", "absorbing"),
]  # fmt: skip


def slanted(boundary=("reflecting", "reflecting"), shape=(13, 10), low=0.05):
    """A drift and a full tensor that vary in space, periodic in both variables."""

    def tensor(x, y):
        c, s = np.cos(0.6 + 0.3 * np.sin(x)), np.sin(0.6 + 0.3 * np.sin(x))
        return (c * c + low * s * s, (1 - low) * c * s), ((1 - low) * c * s, s * s + low * c * c)

    domain = {name: (-np.pi, np.pi, "periodic") for name, wall in zip("xy", boundary) if wall == "periodic"}
    process = Process(
        lambda x, y: (2 * np.sin(y) - np.sin(x), -2 * np.sin(x)), tensor, 0.5, variables=("x", "y"),
        finite_difference=True, domain=domain,
    )  # fmt: skip
    return FokkerPlanck(process, Grid((-np.pi,) * 2, (np.pi,) * 2, shape, boundary=boundary))


def part(edges, begin, end, share):
    """L of the edges of one offset, with its share of the leaks, as a dense matrix."""
    forward, backward = (r[begin:end] for r in edges.rates())
    tail, head, n = edges.tail[begin:end], edges.head[begin:end], edges.leak.size
    entries = np.concatenate([forward, backward, -forward, -backward, -edges.leak * share])
    rows, columns = np.r_[head, tail, tail, head, np.arange(n)], np.r_[tail, head, tail, head, np.arange(n)]
    return sp.coo_array((entries, (rows, columns)), shape=(n, n)).toarray()


def stepped(edges, rho, h, count=1):
    sweeps, x = Sweeps(edges), np.append(rho, 0.0)
    for _ in range(count):
        sweeps.step(x, h)
    assert x[-1] == 0.0
    return x[:-1]


@pytest.mark.parametrize("boundary", WALLS)
@pytest.mark.parametrize("h", [1e-3, 1.0, 1e3])
def test_a_step_solves_every_offset_in_turn(boundary, h):
    edges = slanted(boundary).edges
    rho = np.random.default_rng(1).random(edges.leak.size)
    expected, share = rho, 1.0 / len(edges.offsets)
    for begin, end in zip(edges.first[:-1], edges.first[1:]):
        expected = np.linalg.solve(np.eye(rho.size) - h * part(edges, begin, end, share), expected)
    np.testing.assert_allclose(stepped(edges, rho, h), expected, rtol=1e-10)


def test_one_variable_is_backward_euler_itself():
    process = Process("-x**3", [["1 + x**2/2"]], 0.7, variables=("x",))
    fp = FokkerPlanck(process, Grid(-2, 2, 37, boundary="absorbing"))
    rho = np.random.default_rng(2).random(37)
    expected = np.linalg.solve(np.eye(37) - 0.3 * fp.matrix.toarray(), rho)
    np.testing.assert_allclose(stepped(fp.edges, rho, 0.3), expected, rtol=1e-12)


def rational_solution(matrix, right):
    """Gauss in fractions: the exact solution for the floating-point entries given."""
    a = [[Fraction(v) for v in row] + [Fraction(b)] for row, b in zip(matrix, right)]
    n = len(a)
    for k in range(n):
        for i in range(n):
            if i != k and a[i][k]:
                factor = a[i][k] / a[k][k]
                a[i] = [u - factor * v for u, v in zip(a[i], a[k])]
    return [float(a[k][n] / a[k][k]) for k in range(n)]


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("cells", [3, 4, 9])
def test_every_entry_is_right_relative_to_itself(closed, cells):
    """Rates from 1e-20 to 1e12 and densities to 1e-200: each of the results has 13 digits."""
    rng = np.random.default_rng(cells)
    tail = np.arange(cells if closed else cells - 1)
    conductance, peclet = 10 ** rng.uniform(-12, 6, tail.size), rng.uniform(-20, 20, tail.size)
    edges = Edges(
        tail, (tail + 1) % cells, np.ones((tail.size, 1), np.int64), conductance, peclet, np.zeros(cells),
        np.zeros((cells, 1)),
    )  # fmt: skip
    forward, backward = (h.tolist() for h in edges.rates())
    rho = 10 ** rng.uniform(-200, 0, cells)
    for h in (0.5, 2.0**20):
        matrix = [[Fraction(int(i == j)) for j in range(cells)] for i in range(cells)]
        for t, f, b in zip(tail.tolist(), forward, backward):
            u, f, b = (t + 1) % cells, Fraction(h) * Fraction(f), Fraction(h) * Fraction(b)
            matrix[t][t], matrix[u][t] = matrix[t][t] + f, matrix[u][t] - f
            matrix[u][u], matrix[t][u] = matrix[u][u] + b, matrix[t][u] - b
        np.testing.assert_allclose(stepped(edges, rho, h), rational_solution(matrix, rho), rtol=1e-13)


@pytest.mark.parametrize("boundary", WALLS[:4])
@pytest.mark.parametrize("h", [1e-4, 0.1, 1e4])
def test_mass_and_sign_over_ten_thousand_steps(boundary, h):
    edges = slanted(boundary).edges
    rho = np.zeros(edges.leak.size)
    rho[17] = 1.0
    after = stepped(edges, rho, h, 10_000)
    assert abs(after.sum() - 1.0) <= 1e-11 and after.min() >= 0.0


def test_counterexamples_to_mass_and_sign():
    """A wall that loses what should come back fails the mass test; an explicit step fails that of the sign."""
    edges = slanted().edges
    rho = np.zeros(edges.leak.size)
    rho[17] = 1.0
    leak = np.zeros(rho.size)
    leak[0] = 1e-3 * edges.conductance.max()  # one cell of 130, where nothing starts
    assert abs(stepped(replace(edges, leak=leak), rho, 0.1, 100).sum() - 1.0) > 1e-6
    forward, backward = edges.rates()
    flux = 1.0 * (forward * rho[edges.tail] - backward * rho[edges.head])
    assert (rho + edges.gather(-flux, flux)).min() < 0.0
    assert stepped(edges, rho, 1.0).min() >= 0.0


def test_absorbing_walls_take_mass_for_any_step():
    edges = slanted(("absorbing", "periodic")).edges
    masses = [stepped(edges, np.full(edges.leak.size, 1.0), h).sum() / edges.leak.size for h in (1e-6, 1.0, 1e6)]
    assert 1.0 > masses[0] > 1.0 - 1e-3 and 0.0 < masses[2] < masses[1] < masses[0]


def test_signed_densities_are_linear():
    edges = slanted(("periodic", "reflecting")).edges
    rho = np.random.default_rng(3).normal(size=edges.leak.size)
    parts = stepped(edges, np.maximum(rho, 0), 0.2) - stepped(edges, np.maximum(-rho, 0), 0.2)
    np.testing.assert_allclose(stepped(edges, rho, 0.2), parts, atol=1e-14)


def test_new_rates_on_the_same_lines():
    fp, other = slanted(low=0.05), slanted(low=0.05)
    rho = np.random.default_rng(4).random(fp.grid.size)
    scaled = replace(other.edges, conductance=3.0 * other.edges.conductance)
    sweeps, x = Sweeps(fp.edges), np.append(rho, 0.0)
    sweeps.step(x, 0.1)
    sweeps.load(scaled)
    x[:-1] = rho
    sweeps.step(x, 0.1)
    np.testing.assert_array_equal(x[:-1], stepped(scaled, rho, 0.1))


def test_tails_below_the_normal_range_become_zero():
    process = Process("0*x", [["1"]], 1.0, variables=("x",))
    edges = FokkerPlanck(process, Grid(0, 400, 400)).edges
    rho = np.zeros(400)
    rho[0] = 1.0
    after = stepped(edges, rho, 1e-3)
    assert after[-1] == 0.0 and after[after > 0].min() >= 1e-290 and after.sum() == pytest.approx(1.0, abs=1e-15)


@pytest.mark.parametrize("boundary", WALLS[:3])
def test_what_is_not_a_number_stays_so(boundary):
    """Rates beyond float64 must not turn a density into zeros, which would look like a result."""
    edges = slanted(boundary).edges
    rho = np.append(np.ones(edges.leak.size), 0.0)
    Sweeps(replace(edges, conductance=1e300 * edges.conductance)).step(rho, 1e20)
    assert not np.isfinite(rho).all()


def test_few_lanes_stay_free():
    sweeps = Sweeps(slanted(shape=(64, 48)).edges)
    assert sweeps.slots < 1.2 * 64 * 48 * sweeps.offsets


@pytest.mark.evidence(table="sweeps")
def test_cost(table):
    """The two sweeps of the five-point stencil at 256² cost at most 15 ns per cell."""
    process = Process(("-x", "-y"), [["1", "0"], ["0", "1"]], 1.0, variables=("x", "y"))
    rows = []
    for cells in (64, 256, 512):
        cost = sweep_cost(FokkerPlanck(process, Grid((-4, -4), (4, 4), (cells, cells))).edges)
        rows.append([f"{cells}²", cost["offsets"], f"{cost['step']:.1f}", f"{cost['factor']:.1f}"])
        assert cells != 256 or (cost["offsets"] == 2 and cost["step"] <= 15.0)
    table("Sweeps: nanoseconds per cell", ["grid", "offsets", "one step", "factoring a step size"], rows)
