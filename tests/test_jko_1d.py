"""Steps on a line against closed forms, integrals and the Fokker–Planck equation."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from sde_sgd import JKO, FokkerPlanck, Grid, Landscape, NotConverged, Process, landscapes
from sde_sgd.jko import PorousMedium

STIFFNESS, TEMPERATURE, MEAN, WIDTH, TAU = 2.0, 1 / 3, -1.0, 0.3, 0.05
QUADRATIC = Landscape(("x",), "x**2")


def gaussian(grid, mean, width):
    """Averages in cells."""
    ends = (grid.edges[0] - mean) / width
    mass = np.where(ends[1:] < 0, np.diff(norm.cdf(ends)), -np.diff(norm.sf(ends)))
    return np.maximum(mass, 1e-300) / (mass.sum() * grid.cell_volume)


def stepped(mean, width, tau, temperature=TEMPERATURE):
    """Mean and width after a step in Φ = kx²/2: m/(1 + kτ), the positive root of (1/τ + k)s² − (s₀/τ)s − T = 0."""
    root = math.sqrt((width / tau) ** 2 + 4 * (1 / tau + STIFFNESS) * temperature)
    return mean / (1 + STIFFNESS * tau), (width / tau + root) / (2 * (1 / tau + STIFFNESS))


def distance_of_nodes(state, mean, width):
    """W₂ between the masses at the nodes and a Gaussian, by quantiles from either side."""
    count = int(np.isfinite(state[0]).sum())
    x, mass = state[0, :count], state[1, : count - 1]
    below, above = np.append(0.0, np.cumsum(mass)), np.append(np.cumsum(mass[::-1])[::-1], 0.0)
    with np.errstate(invalid="ignore"):
        exact = mean + width * np.where(below < 0.5, norm.ppf(below), norm.isf(above))
    inner = slice(1, -1)
    return math.sqrt(((below[2:] - below[:-2]) / 2 * (x - exact)[inner] ** 2).sum())


def ou(nodes):
    jko = JKO(QUADRATIC.at_temperature(TEMPERATURE), Grid(-4, 4, nodes), nodes=nodes, tolerance=1e-11)
    return jko._road.advance(jko._road.start(np.log(gaussian(jko.grid, MEAN, WIDTH))), TAU)


def test_a_gaussian_step_with_many_nodes():
    state, record = ou(100_000)
    assert distance_of_nodes(state, *stepped(MEAN, WIDTH, TAU)) < 1e-7 < 1.5e-4
    assert record.iterations < 8
    moved, width = stepped(MEAN, WIDTH, TAU)
    assert record.squared_distance == pytest.approx((moved - MEAN) ** 2 + (width - WIDTH) ** 2, rel=1e-6)


def test_second_order_in_the_nodes():
    exact = stepped(MEAN, WIDTH, TAU)
    errors = [distance_of_nodes(ou(n)[0], *exact) for n in (400, 800, 1600)]
    assert np.log2(errors[0] / errors[2]) / 2 == pytest.approx(2, abs=0.15), errors
    wrong = stepped(MEAN, WIDTH, 1.02 * TAU)
    assert distance_of_nodes(ou(1600)[0], *wrong) > 100 * errors[2]


def test_the_density_on_the_grid_is_that_of_the_nodes():
    errors = []
    for cells in (50, 100, 200):
        grid = Grid(-4, 4, cells)
        step = JKO(QUADRATIC.at_temperature(TEMPERATURE), grid).step(gaussian(grid, MEAN, WIDTH), TAU)
        exact = gaussian(grid, *stepped(MEAN, WIDTH, TAU))
        errors.append(float(np.abs(step.values - exact).sum() * grid.cell_volume))
        assert float(step.sum()) * grid.cell_volume == pytest.approx(1, abs=1e-12) and step.values.min() > 0
    assert errors[-1] < 1e-4, errors


MULTIPLICATIVE = {
    "constant D": Process(["-2*x - x**3"], [["0.6"]], 0.4, variables=("x",)),
    "D(x)": Process(["-x + 0.4*cos(2*x)"], [["1 + 0.5*sin(x)"]], 0.5, variables=("x",)),
}


@pytest.mark.parametrize("name", MULTIPLICATIVE)
def test_first_order_in_tau_against_fokker_planck(name):
    process, grid = MULTIPLICATIVE[name], Grid(-4, 4, 200)
    start, end = gaussian(grid, 0.8, 0.4), 0.4
    exact = FokkerPlanck(process, grid).evolve(start, [end], scheme="exact", tolerance=1e-8).values[0]
    errors = []
    for steps in (8, 16, 32):
        flow = JKO(process, grid).flow(start, end / steps, steps)
        errors.append(float(np.abs(flow.values[-1] - exact).sum() * grid.cell_volume))
        assert (np.diff(flow.energy) < 0).all()
    assert np.log2(errors[0] / errors[2]) / 2 == pytest.approx(1, abs=0.12), errors
    assert errors[-1] < 0.02


def test_counterexample_another_metric_is_not_that_flow():
    """The same Φ with D = 1 goes elsewhere, by more than the error of τ."""
    process, grid = MULTIPLICATIVE["D(x)"], Grid(-4, 4, 200)
    start, end = gaussian(grid, 0.8, 0.4), 0.4
    exact = FokkerPlanck(process, grid).evolve(start, [end], scheme="exact", tolerance=1e-8).values[0]
    # the drift that leaves Φ' = (T D' − b)/D what it was
    drift = "-(0.25*cos(x) + x - 0.4*cos(2*x))/(1 + 0.5*sin(x))"
    other = Process([drift], [["1"]], 0.5, variables=("x",))
    gap = np.abs(JKO(other, grid).flow(start, end / 32, 32).values[-1] - exact).sum() * grid.cell_volume
    assert gap > 0.05


@pytest.mark.parametrize("name", ["pearson", "multiplicative_well"])
def test_the_steady_state_is_where_it_ends(name):
    process = landscapes.get(name).at_temperature()
    grid = Grid.around(process, mass=1e-8, shape=150)
    steady = FokkerPlanck(process, grid).steady_state()
    flow = JKO(process, grid).flow(gaussian(grid, 0.5, 0.5), 2.0, 40)
    assert float(np.abs(flow.values[-1] - steady.values).sum()) * grid.cell_volume < 2e-3
    assert (np.diff(flow.energy) < 1e-12).all()


# starts that jump, and long steps --------------------------------------------------------------------------


def test_a_step_from_a_point():
    """From a point s₀ = 0: spread √(Tτ/(1 + kτ)), but for the two cells over which the start is shared."""
    errors, process = [], Landscape(("x",), "x**2").at_temperature(TEMPERATURE)
    for cells in (1001, 4001):
        grid = Grid(-2.5, 2.5, cells)
        step = JKO(process, grid).step({"x": 0.5}, TAU)
        mean, width = stepped(0.5, 0.0, TAU)
        errors.append(float(np.abs(step.values - gaussian(grid, mean, width)).sum() * grid.cell_volume))
        assert step.attrs["wasserstein"] == pytest.approx(math.hypot(0.5 - mean, width), rel=10 / cells)
    assert errors[1] < 3e-3 and errors[0] > 3 * errors[1], errors


BOXES = {"one": lambda x: abs(x - 0.5) < 0.3, "two": lambda x: abs(abs(x) - 1) < 0.3}


@pytest.mark.parametrize("name", BOXES)
def test_boxes_do_not_depend_on_the_nodes(name):
    """No mass is spread to the walls, nor between boxes, where the start has none."""
    process, grid = Landscape(("x",), "(x**2 - 1)**2/4").at_temperature(0.2), Grid(-2.5, 2.5, 100)
    start = np.where(BOXES[name](grid.axes[0]), 1.0, 0.0)
    start /= start.sum() * grid.cell_volume
    few, many = (JKO(process, grid, nodes=n).flow(start, 0.01, 4) for n in (2000, 16_000))
    assert (np.abs(few - many).sum("x") * grid.cell_volume).max() < 5e-4
    np.testing.assert_allclose(few.energy, many.energy, atol=5e-5)
    np.testing.assert_allclose(few.wasserstein, many.wasserstein, rtol=1e-4)
    assert (np.diff(few.energy) < 0).all()


@pytest.mark.parametrize("tau", [10.0, 1e8])
def test_long_steps_over_a_barrier(tau):
    """ρ minimises W²/2τ + F: less than the start, than e^{−Φ/T}, and that itself as τ → ∞."""
    process, grid = Landscape(("x",), "(x**2 - 1)**2/4").at_temperature(0.2), Grid(-2.5, 2.5, 100)
    jko, start, steady = JKO(process, grid), gaussian(grid, 0.6, 0.4), FokkerPlanck(process, grid).steady_state()
    step = jko.step(start, tau)
    value = step.attrs["wasserstein"] ** 2 / (2 * tau) + step.attrs["energy"]
    assert value < jko.energy(start)
    gap = float(np.abs(step - steady).sum()) * grid.cell_volume
    assert gap < 2e-3 if tau > 1e3 else 0.1 < gap < 0.3


def test_a_leap_that_the_nodes_do_not_resolve_is_refused():
    """A barrier of 12.5 T: where the nodes stay is stationary, and the steady state is better."""
    process, grid = Landscape(("x",), "(x**2 - 1)**2/4").at_temperature(0.02), Grid(-2.5, 2.5, 100)
    start = gaussian(grid, 0.6, 0.4)
    with pytest.raises(NotConverged, match=r"the steady state has 0\.013.*method='entropic'"):
        JKO(process, grid).step(start, 1000.0)
    assert JKO(process, grid).step(start, 1.0).attrs["residual"] < 1e-8
    other = JKO(process, grid, method="entropic")
    step = other.step(start, 1000.0)
    assert step.attrs["energy"] == pytest.approx(other.energy(FokkerPlanck(process, grid).steady_state()), abs=1e-4)


@pytest.mark.parametrize("potential", ["steady_state", "loss"])
def test_the_energy_is_that_of_the_formula(potential):
    """F of a Gaussian in x²: k(m² + s²)/2 − T(1 + log 2πs²)/2, along the flow and alone."""
    grid = Grid(-3, 3, 201)  # a centre in the minimum
    jko, start = JKO(QUADRATIC.at_temperature(0.5), grid, potential=potential), gaussian(grid, 0.6, 0.4)
    exact = 0.6**2 + 0.4**2 - 0.25 * (1 + math.log(2 * math.pi * 0.4**2))
    flow = jko.flow(start, 0.1, 1)
    assert flow.energy.values[0] == jko.energy(start) == pytest.approx(exact, abs=2e-4)
    assert flow.energy.values[1] == pytest.approx(jko.energy(flow[1]), abs=1e-4)


# the porous medium -----------------------------------------------------------------------------------------


def barenblatt(x, time, exponent, mass_constant):
    k = (exponent - 1) / (2 * exponent * (exponent + 1))
    inside = np.maximum(mass_constant - k * x**2 * time ** (-2 / (exponent + 1)), 0)
    return time ** (-1 / (exponent + 1)) * inside ** (1 / (exponent - 1))


class Barenblatt:
    """The solution of mass 1 of ∂ρ = ∂²ρᵏ, its averages in cells and its front."""

    def __init__(self, exponent):
        self.exponent, self.constant = exponent, 1.0
        fine = np.linspace(-60, 60, 600_001)
        mass = barenblatt(fine, 1.0, exponent, 1.0).sum() * (fine[1] - fine[0])
        self.constant = mass ** (-1 / (1 / (exponent - 1) + 0.5))

    def front(self, time):
        k = (self.exponent - 1) / (2 * self.exponent * (self.exponent + 1))
        return math.sqrt(self.constant / k) * time ** (1 / (self.exponent + 1))

    def averages(self, grid, time):
        fine = np.linspace(grid.lower[0], grid.upper[0], grid.size * 40 + 1)
        middle = 0.5 * (fine[1:] + fine[:-1])
        values = barenblatt(middle, time, self.exponent, self.constant).reshape(grid.size, 40).mean(1)
        return values / (values.sum() * grid.cell_volume)


FREE = Process(["0"], [["1"]], 1.0, variables=("x",))


def spread(exponent, cells, steps, nodes=None, used=None):
    """The profile of time 1 taken to time 2: its error in L1, and that of its front in cells."""
    grid, exact = Grid(-4, 4, cells), Barenblatt(exponent)
    jko = JKO(FREE, grid, internal_energy=PorousMedium(used or exponent), nodes=nodes)
    last = jko.flow(exact.averages(grid, 1.0), 1 / steps, steps).isel(time=-1)
    assert float(last.sum()) * grid.cell_volume == pytest.approx(1, abs=1e-12) and last.values.min() == 0.0
    front = grid.axes[0][last.values > 0][-1] + 0.5 * grid.cell_volume
    error = np.abs(last.values - exact.averages(grid, 2.0)).sum() * grid.cell_volume
    return float(error), float(abs(front - exact.front(2.0)) / grid.cell_volume)


@pytest.mark.parametrize("exponent", [1.5, 2.0, 3.0])
def test_barenblatt(exponent):
    results = [spread(exponent, 400, steps, nodes=4000) for steps in (8, 16, 32)]
    errors = [error for error, _ in results]
    assert np.log2(errors[0] / errors[2]) / 2 == pytest.approx(1, abs=0.1), errors
    assert all(front <= 1.0 for _, front in results), results


def test_counterexample_barenblatt_of_another_exponent():
    error, front = spread(2.0, 400, 16, used=2.4)
    assert error > 0.05 and front > 2.0


def test_a_porous_medium_in_a_well_comes_to_rest():
    """ρ^{k−1}k/(k − 1) + Φ = constant inside: for k = 2 and Φ = x², ρ = (c − x²)/2 with mass 1 at c = (3/2)^{2/3}."""
    process, grid = Process(["-2*x"], [["1"]], 1.0, variables=("x",)), Grid(-3, 3, 300)
    flow = JKO(process, grid, internal_energy=PorousMedium(2.0), nodes=12_000).flow(
        np.where(np.abs(grid.axes[0] - 0.5) < 0.5, 1.0, 0.0), 0.5, 30
    )
    rest = np.maximum(1.5 ** (2 / 3) - grid.axes[0] ** 2, 0) / 2
    assert np.abs(flow.values[-1] - rest).sum() * grid.cell_volume < 1e-3
    assert (np.diff(flow.energy) < 1e-12).all()


def test_a_porous_medium_is_held_by_walls():
    """It fills the box evenly, ρ = 1/4, F = 1/4; pushed against one wall it is 2(x − 1) there. No mass is lost."""
    grid = Grid(-2, 2, 80)
    start = np.maximum(0.25 - grid.axes[0] ** 2, 0.0)
    start /= start.sum() * grid.cell_volume
    flow = JKO(FREE, grid, internal_energy=PorousMedium(2.0)).flow(start, 1.0, 12)
    np.testing.assert_allclose(flow.sum("x") * grid.cell_volume, 1, atol=1e-12)
    np.testing.assert_allclose(flow[-1], 0.25, atol=1e-3)
    assert flow.energy.values[-1] == pytest.approx(0.25, abs=1e-5) and (np.diff(flow.energy) < 0).all()
    pushed = Process(["4"], [["1"]], 1.0, variables=("x",))
    last = JKO(pushed, grid, internal_energy=PorousMedium(2.0)).flow(start, 0.5, 20)[-1]
    rest = np.maximum(2.0 * (grid.axes[0] - 1.0), 0.0)  # 2ρ − 4x constant, mass 1 up to the wall
    assert np.abs(last.values - rest).sum() * grid.cell_volume < 2e-3


# evidence --------------------------------------------------------------------------------------------------


@pytest.mark.evidence(table="jko_1d")
def test_orders_on_a_line(table):
    rows = []
    exact = stepped(MEAN, WIDTH, TAU)
    for nodes in (1000, 10_000, 100_000):
        state, record = ou(nodes)
        error = distance_of_nodes(state, *exact)
        rows.append(("Gaussian step, W₂", nodes, "0.05", f"{error:.1e}", record.iterations))
    assert error < 1.5e-4 and record.iterations < 8
    for exponent in (1.5, 2.0, 3.0):
        errors = []
        for steps in (8, 16, 32, 64):
            error, front = spread(exponent, 800, steps, nodes=8000)
            errors.append(error)
            rows.append((f"Barenblatt, k = {exponent:g}, L1", 8000, f"1/{steps}", f"{error:.1e}", f"front {front:.2f}"))
            assert steps < 32 or front <= 1.0  # before, the error of τ moves it by more
        assert (np.abs(np.log2(np.array(errors[:-1]) / errors[1:]) - 1) < 0.1).all(), errors
    for exponent in (1.5, 2.0, 3.0):
        grid, profile = Grid(-4, 4, 100), Barenblatt(exponent)

        def density(nodes, grid=grid, profile=profile, exponent=exponent):
            jko = JKO(FREE, grid, internal_energy=PorousMedium(exponent), nodes=nodes)
            start = np.log(np.maximum(profile.averages(grid, 1.0), 1e-300))
            start[start < -600] = -np.inf
            state = jko._road.start(start)
            for _ in range(16):
                state, _ = jko._road.advance(state, 1 / 16)
            return np.exp(jko._road.log_density(state))

        finest = density(25_600)
        errors = [np.abs(density(n) - finest).sum() * grid.cell_volume for n in (200, 400, 800, 1600)]
        slopes = np.log2(np.array(errors[:-1]) / errors[1:])
        for n, error in zip((200, 400, 800, 1600), errors):
            rows.append((f"nodes alone, k = {exponent:g}, L1", n, "1/16", f"{error:.1e}", ""))
        assert slopes.mean() > 0.9, (exponent, slopes)
    table(
        "Steps in one variable", ("case", "nodes", "τ", "error", "iterations or front error in cells"), rows,
        "Exact solutions: the Gaussian step; the Barenblatt profile from time 1 to 2. 'Nodes alone' is against 25600.",
    )  # fmt: skip
