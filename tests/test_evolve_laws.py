"""Densities in time obey the laws of the flow: mass, sign, free energy, orders, exact Gaussians, units."""

import numpy as np
import pytest
import scipy.linalg as la
from scipy.stats import poisson

from sde_sgd.fokker_planck import FokkerPlanck
from sde_sgd.fokker_planck._exact import poisson_weights
from sde_sgd.grid import Grid
from sde_sgd.landscapes import Landscape
from sde_sgd.process import Process

F, D, T = np.array([[1.0, 0.8], [-0.8, 1.5]]), np.array([[1.0, 0.4], [0.4, 0.6]]), 0.3
COVARIANCE = la.solve_continuous_lyapunov(F, 2 * T * D)


def linear(scale=1.0, temperature=T):
    """dx = −sFx dt + √(2TD) dW."""
    drift = [f"-{scale}*({a}*x + {b}*y)".replace("+ -", "- ") for a, b in F.tolist()]
    return Process(drift, [[str(v) for v in row] for row in D.tolist()], temperature, variables=("x", "y"))


def gaussian(grid, mean, covariance):
    x = grid.centers() - np.asarray(mean)
    density = np.exp(-0.5 * np.einsum("...i,ij,...j", x, la.inv(covariance), x))
    return density / (density.sum() * grid.cell_volume)


def l1(fp, a, b):
    return float(np.abs(np.asarray(a) - np.asarray(b)).sum() * fp.grid.cell_volume)


def rotating_ou(cells=24, half=3.2):
    fp = FokkerPlanck(linear(), Grid((-half, -half), (half, half), (cells, cells)))
    return fp, gaussian(fp.grid, (1.0, 0.5), 0.15 * np.eye(2))


def example_19(cells=24):
    """Chaudhari & Soatto (2018), Example 19: a double well with a current."""
    turn = "exp((x**2-1)**2/4 + y**2/2 - (x**2+y**2)**2/4)/2"
    landscape = Landscape(("x", "y"), "(x**2-1)**2/4 + y**2/2", circulation=(f"-y*{turn}", f"x*{turn}"))
    fp = FokkerPlanck(landscape.at_temperature(1.0), Grid((-3.5, -3.5), (3.5, 3.5), (cells, cells)))
    return fp, gaussian(fp.grid, (1.0, 0.5), 0.15 * np.eye(2))


def random_generator(seed, cells=12, most=None):
    """Any drift, currents included, a tensor of ratio up to 100:1 whose axes turn, and any walls that keep mass."""
    rng = np.random.default_rng(seed)
    ratio = most or 10 ** rng.uniform(0, 2)
    low, turn, strength = 1 / ratio, rng.uniform(0, 2), 10 ** rng.uniform(-0.5, 1)
    phase = rng.uniform(0, 2 * np.pi, 4)
    boundary = tuple(rng.choice(["reflecting", "periodic"], 2).tolist())

    def tensor(x, y):
        c, s = np.cos(phase[0] + turn * np.sin(x + phase[3])), np.sin(phase[0] + turn * np.sin(x + phase[3]))
        return (c * c + low * s * s, (1 - low) * c * s), ((1 - low) * c * s, s * s + low * c * c)

    def drift(x, y):
        return strength * np.sin(x + y + phase[1]), strength * np.cos(x - y + phase[2])

    domain = {name: (-np.pi, np.pi, "periodic") for name, wall in zip("xy", boundary) if wall == "periodic"}
    process = Process(
        drift, tensor, float(10 ** rng.uniform(-1, 0.3)), variables=("x", "y"), finite_difference=True, domain=domain
    )
    fp = FokkerPlanck(process, Grid((-np.pi,) * 2, (np.pi,) * 2, (cells, cells + 1), boundary=boundary))
    density = rng.random(fp.grid.shape) ** 8
    return fp, density / (density.sum() * fp.grid.cell_volume)


# orders in time -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [rotating_ou, example_19])
@pytest.mark.parametrize(
    ("scheme", "order", "steps"),
    [("splitting", 1, 64), ("splitting", 2, 32), ("implicit_euler", 1, 32), ("implicit_euler", 2, 16)],
)
def test_order_in_time(make, scheme, order, steps):
    fp, start = make()
    exact = fp.evolve(start, 0.8, scheme="exact")
    runs = [fp.evolve(start, 0.8, scheme=scheme, order=order, step=0.8 / n) for n in (steps, 2 * steps)]
    errors = [l1(fp, run, exact) for run in runs]
    assert abs(np.log2(errors[0] / errors[1]) - order) < 0.2, errors
    for run, error in zip(runs, errors):
        assert run.attrs["steps"] in (steps, 2 * steps) and run.values.min() >= 0.0
        assert run.attrs["error_estimate"] == pytest.approx(error, rel=0.15)  # reported with a fixed step as well
        assert error <= run.attrs["error_sum"]


@pytest.mark.parametrize(("order", "steps"), [(1, (0.02, 0.01)), (2, (0.08, 0.04))])
def test_stationary_bias_of_splitting(order, steps):
    """The scheme's own steady state is O(step) resp. O(step²) away; `stationary_bias` is the defect of one step."""
    fp, _ = rotating_ou(16)
    steady = fp.steady_state()
    runs = [fp.evolve(steady, 8.0, order=order, step=h) for h in steps]
    far = [l1(fp, run.values, fp.evolve(steady, 8.0 - 4 * h, order=order, step=h)) for run, h in zip(runs, steps)]
    bias = [l1(fp, run, steady) for run in runs]
    assert max(far) < 0.01 * min(bias)  # it has settled
    assert abs(np.log2(bias[0] / bias[1]) - order) < 0.15, bias
    defects = [run.attrs["stationary_bias"] for run in runs]
    assert abs(np.log2(defects[0] / defects[1]) - order - 1) < 0.25, defects
    assert defects[1] < bias[1]


def test_implicit_and_exact_keep_the_steady_state():
    fp, _ = rotating_ou(16)
    steady = fp.steady_state()
    for options in ({"scheme": "exact"}, {"scheme": "implicit_euler", "step": 0.5},
                    {"scheme": "implicit_euler", "order": 2, "step": 0.5}):  # fmt: skip
        np.testing.assert_allclose(fp.evolve(steady, 5.0, **options).values[0], steady.values, rtol=1e-11)


# against closed forms and one another -----------------------------------------------------------------------------


def exact_moments(mean, covariance, t):
    flow = la.expm(-F * t)
    return flow @ mean, COVARIANCE + flow @ (covariance - COVARIANCE) @ flow.T


def moments(fp, density):
    x, w = fp.grid.centers().reshape(-1, 2), np.asarray(density).ravel() * fp.grid.cell_volume
    mean = w @ x
    return mean, np.einsum("n,ni,nj->ij", w, x - mean, x - mean)


def test_gaussians_in_time_to_second_order_in_the_spacing():
    """Mean, covariance and density of the rotating Ornstein–Uhlenbeck process at three times."""
    times, first = [0.2, 0.7, 2.0], (np.array([0.8, -0.4]), np.array([[0.2, 0.05], [0.05, 0.12]]))
    errors = []
    for cells in (32, 64):
        fp, _ = rotating_ou(cells, 3.6)
        run = fp.evolve(gaussian(fp.grid, *first), times, scheme="exact")
        assert run.dims == ("time", "x", "y") and run.time.values.tolist() == times
        row = []
        for t, density in zip(times, run.values):
            exact, found = exact_moments(*first, t), moments(fp, density)
            row += [np.abs(a - b).max() for a, b in zip(found, exact)] + [l1(fp, density, gaussian(fp.grid, *exact))]
        errors.append(row)
    orders = np.log2(np.array(errors[0]) / errors[1])
    assert np.abs(orders - 2.0).max() < 0.35 and np.max(errors[1]) < 0.03, (orders, errors)


def test_a_point_is_a_start_of_second_order():
    """From a point anywhere in a cell: its mean is exact, and the density at later times of order 2."""
    point, t = np.array([0.737, -0.411]), 0.7
    exact = exact_moments(point, np.zeros((2, 2)), t)
    errors = []
    for cells in (32, 64):
        fp, _ = rotating_ou(cells, 3.6)
        run = fp.evolve({"y": point[1], "x": point[0]}, [0.0, t], scheme="exact")
        np.testing.assert_allclose(moments(fp, run[0])[0], point, atol=1e-14)
        assert run.mass.values == pytest.approx([1.0, 1.0], abs=1e-13) and (run.values[0] > 0).sum() == 4
        errors.append(l1(fp, run.values[1], gaussian(fp.grid, *exact)))
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2.0, abs=0.4) and errors[1] < 0.03, errors


def test_a_point_in_one_variable_and_across_a_periodic_seam():
    ring = Process("sin(pi*x)", [["1"]], 1.0, variables=("x",), domain={"x": (0.0, 2.0, "periodic")})
    fp = FokkerPlanck(ring, Grid(0, 2, 8, boundary="periodic"))
    first = fp.evolve(0.05, 0.0).values[0] * fp.grid.cell_volume
    assert first[0] == pytest.approx(0.7) and first[-1] == pytest.approx(0.3) and first.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(5))
def test_krylov_agrees_with_uniformisation(seed):
    fp, start = random_generator(seed)
    exact, krylov = (fp.evolve(start, [0.1, 3.0], scheme=scheme) for scheme in ("exact", "krylov"))
    assert max(l1(fp, a, b) for a, b in zip(exact.values, krylov.values)) < 1e-10
    assert exact.values.min() >= 0.0 and exact.attrs["error_estimate"] == pytest.approx(1e-14)
    assert -1e-10 < krylov.attrs["most_negative"] <= min(0.0, krylov.values.min())


@pytest.mark.parametrize("mean", [1e-9, 0.3, 7.0, 400.25, 1e6])
def test_poisson_weights(mean):
    first, weights = poisson_weights(mean, 1e-14)
    k = first + np.arange(weights.size)
    np.testing.assert_allclose(weights.sum(), 1.0, rtol=1e-15)
    np.testing.assert_allclose(weights @ k, mean, rtol=1e-12)
    if mean < 1e3:  # beyond, the logarithms of the reference lose more digits than the ratios
        np.testing.assert_allclose(weights, poisson.pmf(k, mean), rtol=1e-11)
        assert poisson.cdf(first - 1, mean) + poisson.sf(k[-1], mean) <= 1e-14
    assert weights.size < 20 * np.sqrt(mean) + 30


def test_krylov_on_a_small_invariant_space():
    """A start that is an eigenvector fills no Krylov space, and none but it is needed."""
    fp, _ = rotating_ou(8)
    steady = fp.steady_state()
    np.testing.assert_allclose(fp.evolve(steady, 2.0, scheme="krylov").values[0], steady.values, atol=1e-11)


def test_units_of_time():
    """Drift and temperature three times as large: the same densities at a third of the times."""
    start = gaussian(Grid((-3, -3), (3, 3), (20, 20)), (1.0, 0.5), 0.15 * np.eye(2))
    times = np.array([0.3, 1.2])
    for scheme in ("splitting", "implicit_euler", "exact"):
        slow, fast = (
            FokkerPlanck(linear(s, s * T), Grid((-3, -3), (3, 3), (20, 20))).evolve(start, times / s, scheme=scheme)
            for s in (1.0, 3.0)
        )
        assert slow.attrs["steps"] == fast.attrs["steps"]
        np.testing.assert_allclose(fast.values, slow.values, rtol=1e-6, atol=1e-12)


def test_mass_is_a_factor():
    fp, start = rotating_ou(16)
    one, many = fp.evolve(start, 1.0), fp.evolve(8.0 * start, 1.0)
    np.testing.assert_array_equal(many.values, 8.0 * one.values)
    assert many.attrs["error_estimate"] == 8.0 * one.attrs["error_estimate"]


# mass, sign, free energy --------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, 2])
def test_mass_and_sign_over_ten_thousand_steps(order):
    fp, start = random_generator(3, 9)
    run = fp.evolve(start, np.linspace(1.0, 20.0, 5), order=order, step=0.002)
    assert run.attrs["steps"] >= 10_000 and abs(run.attrs["mass_drift"]) <= 1e-11 and run.values.min() >= 0.0
    np.testing.assert_allclose(run.mass, 1.0, atol=1e-11)


@pytest.mark.parametrize("scheme", ["splitting", "implicit_euler"])
def test_steps_far_too_long_stay_positive(scheme):
    fp, _ = random_generator(6)
    for order in (1, 2):
        run = fp.evolve((0.3, 0.2), [100.0, 200.0], scheme=scheme, order=order, step=100.0)
        assert run.values.min() >= 0.0 and abs(run.attrs["mass_drift"]) < 1e-13
    run = fp.evolve((0.3, 0.2), 0.5, scheme=scheme, order=2, step=0.5)
    assert run.attrs["repaired_steps"] + run.attrs["first_order_steps"] > 0 and run.values.min() >= 0.0


def test_absorbing_walls():
    """Survival on an interval: Σ 4/(kπ) e^{−k²π²t}, k odd, from the middle; every scheme loses that mass."""
    process = Process("0*x", [["1"]], 1.0, variables=("x",))
    fp = FokkerPlanck(process, Grid(0, 1, 101, boundary="absorbing"))
    k, t = np.arange(1, 40, 2), np.array([0.05, 0.2])
    survival = (4 / (np.pi * k) * np.sin(np.pi * k / 2) * np.exp(-np.outer(t, k**2) * np.pi**2)).sum(axis=1)
    for options in ({}, {"scheme": "implicit_euler", "order": 2}, {"scheme": "exact"}):
        np.testing.assert_allclose(fp.evolve(0.5, t, **options).mass, survival, atol=1e-3)


def free_energies(fp, run):
    log_steady = fp.log_steady_state().values
    rho = run.values
    gain = np.where(rho > 0, rho * (np.log(np.where(rho > 0, rho, 1.0)) - log_steady), 0.0)
    return fp.attrs["temperature"] * gain.sum(axis=(1, 2)) * fp.grid.cell_volume


def rises(seed):
    """The largest rise of F = T KL(ρ‖ρ_ss) between consecutive times, per scheme."""
    fp, start = random_generator(seed)
    found = {}
    for scheme, options in (("exact", {}), ("implicit_euler", {"step": 10 ** (seed % 4 - 2.0)})):
        times = np.concatenate([[0.0], np.geomspace(1e-3, 10.0, 12)])
        energies = free_energies(fp, fp.evolve(start, times, scheme=scheme, **options))
        assert energies[-1] < energies[0]
        found[scheme] = float(np.diff(energies).max())
    return found


@pytest.mark.parametrize("seed", range(8))
def test_free_energy_never_rises(seed):
    assert max(rises(seed).values()) <= 1e-12


@pytest.mark.evidence(table="free_energy")
def test_free_energy_of_a_hundred_processes(table):
    found = [rises(seed) for seed in range(100)]
    worst = {scheme: max(f[scheme] for f in found) for scheme in found[0]}
    assert max(worst.values()) <= 1e-12
    table(
        "Free energy in time: the largest rise between 13 times, over 100 random processes with currents",
        ["scheme", "largest rise"], [[scheme, f"{rise:.1e}"] for scheme, rise in worst.items()],
    )  # fmt: skip


def test_counterexample_explicit_steps_break_sign_and_free_energy():
    fp, start = random_generator(1)
    rho, h = start.ravel().copy(), 2.5 / np.abs(fp.matrix.diagonal()).max()
    for _ in range(12):
        rho = rho + h * (fp.matrix @ rho)
    assert rho.min() < 0.0 and abs(rho.sum() * fp.grid.cell_volume - 1.0) < 1e-9


# the tolerance is met, and not by far ---------------------------------------------------------------------------


def ratio(fp, start, tolerance, **options):
    """True error over the tolerance, the true one against uniformisation."""
    exact = fp.evolve(start, [0.3, 2.0], scheme="exact")
    run = fp.evolve(start, [0.3, 2.0], tolerance=tolerance, **options)
    errors = [l1(fp, a, b) for a, b in zip(run.values, exact.values)]
    assert run.values.min() >= 0.0 and abs(run.attrs["mass_drift"]) < 1e-11
    return max(errors) / tolerance


@pytest.mark.parametrize("seed", range(6))
def test_tolerance_is_met(seed):
    fp, start = random_generator(seed)
    tolerance = 10.0 ** -(1 + seed % 4)
    assert ratio(fp, start if seed % 2 else (0.7, 0.2), tolerance) < 1.0
    assert ratio(fp, start, 0.05, order=1) < 1.0
    assert ratio(fp, start, 0.02, scheme="implicit_euler", order=1 + seed % 2) < 1.0


@pytest.mark.parametrize("seed", range(3))
def test_tolerance_is_met_with_stiff_tensors(seed):
    """100:1 everywhere, on seven times the cells: from a density, and from a point."""
    fp, start = random_generator(seed, 32, most=100.0)
    for begin in (start, (0.7, 0.2)):
        assert 0.03 < ratio(fp, begin, 1e-2) < 1.0


@pytest.mark.evidence(table="tolerance")
def test_tolerance_over_many_processes(table):
    """True error over tolerance on 60 random processes (tensors up to 100:1, currents, walls), from densities and
    from points."""
    rows = []
    for name, options in (("splitting", {}), ("splitting, order 1", {"order": 1}),
                          ("implicit, order 2", {"scheme": "implicit_euler", "order": 2})):  # fmt: skip
        for tolerance in (1e-1, 1e-2, 1e-3, 1e-4)[: 2 if options else 4]:
            found = []
            for seed in range(60):
                fp, start = random_generator(seed)
                found.append(ratio(fp, start if seed % 2 else (0.7, 0.2), tolerance, **options))
            assert max(found) < 1.0
            rows.append([name, f"{tolerance:g}", *(f"{v:.2f}" for v in (min(found), np.median(found), max(found)))])
            assert np.median(found) > 0.03
    table("True L1 error over tolerance, 60 random processes", ["scheme", "tolerance", "least", "median", "most"], rows)
