"""The generator is a Markov chain for any D and any drift, and its density is right to second order."""

from types import SimpleNamespace

import mpmath
import numpy as np
import pytest
import scipy.linalg as la

from sde_sgd.fokker_planck import FokkerPlanck
from sde_sgd.fokker_planck._inverse_step import inverse_step
from sde_sgd.grid import Grid
from sde_sgd.landscapes import Landscape
from sde_sgd.process import Process


def linear(F, D, temperature):
    """dx = −Fx dt + √(2TD) dW."""
    return Process(
        lambda x, y: (-F[0][0] * x - F[0][1] * y, -F[1][0] * x - F[1][1] * y),
        lambda x, y: ((D[0][0] + 0 * x, D[0][1] + 0 * x), (D[1][0] + 0 * x, D[1][1] + 0 * x)),
        temperature,
        variables=("x", "y"),
        diffusion_divergence=lambda x, y: (0 * x, 0 * x),
    )


def well(x, y):
    return (x**2 - 1) ** 2 / 4 + y**2 / 2


def example_19(lam):
    """Chaudhari & Soatto (2018), Example 19: Φ = (x²−1)²/4 + y²/2 for every λ, T = 1."""
    turn = f"{lam}*exp((x**2-1)**2/4 + y**2/2 - (x**2+y**2)**2/4)"
    circulation = (f"-y*{turn}", f"x*{turn}")
    return Landscape(("x", "y"), "(x**2-1)**2/4 + y**2/2", circulation=circulation).at_temperature(1.0)


def rotating_tensor(ratio):
    """D with eigenvalues 1 and 1/ratio whose axes turn in space, and b = −D∇Φ + div D, so that ρ ∝ e^{−Φ}."""
    low = 1.0 / ratio

    def tensor(x, y):
        angle = 0.7 + 0.3 * np.sin(x) * np.cos(y)
        c, s = np.cos(angle), np.sin(angle)
        return (c * c + low * s * s, (1 - low) * c * s), ((1 - low) * c * s, s * s + low * c * c)

    def divergence(x, y):
        angle = 0.7 + 0.3 * np.sin(x) * np.cos(y)
        ax, ay = 0.3 * np.cos(x) * np.cos(y), -0.3 * np.sin(x) * np.sin(y)
        s2, c2 = (1 - low) * np.sin(2 * angle), (1 - low) * np.cos(2 * angle)
        return -s2 * ax + c2 * ay, c2 * ax + s2 * ay

    def drift(x, y):
        (a, b), (_, d) = tensor(x, y)
        gx, gy, (ux, uy) = x * (x * x - 1), y, divergence(x, y)
        return -a * gx - b * gy + ux, -b * gx - d * gy + uy

    return Process(drift, tensor, 1.0, variables=("x", "y"), diffusion_divergence=divergence)


def check_chain(fp):
    """What a generator must be, measured on its matrix."""
    matrix = fp.matrix
    diagonal = np.abs(matrix.diagonal())
    assert (np.abs(matrix.sum(axis=0)) <= 1e-12 * diagonal).all() and fp.conserves_mass
    off = matrix.copy()
    off.setdiag(0.0)
    assert off.data.min() >= 0.0 and np.isfinite(off.data).all() and fp.nonnegative_rates
    assert fp.irreducible
    log_density = fp.log_steady_state()
    assert np.isfinite(log_density.values).all()
    assert log_density.attrs["residual"] < 1e-9


def l1_error(process, half, cells, log_exact):
    grid = Grid((-half, -half), (half, half), (cells, cells))
    fp = FokkerPlanck(process, grid)
    check_chain(fp)
    exact = np.exp(log_exact(*np.moveaxis(grid.centers(), -1, 0)))
    exact /= exact.sum() * grid.cell_volume
    density = fp.steady_state().values
    assert density.sum() * grid.cell_volume == pytest.approx(1.0, rel=1e-13)
    return np.abs(density - exact).sum() * grid.cell_volume


F_ROTATING, D_FULL = np.array([[1.0, 0.8], [-0.8, 1.5]]), np.array([[1.0, 0.4], [0.4, 0.6]])
PRECISION = la.inv(la.solve_continuous_lyapunov(F_ROTATING, 2 * 0.3 * D_FULL))


def gaussian(x, y):
    return -0.5 * (PRECISION[0, 0] * x * x + 2 * PRECISION[0, 1] * x * y + PRECISION[1, 1] * y * y)


@pytest.mark.parametrize(
    ("process", "half", "log_exact"),
    [
        pytest.param(linear(F_ROTATING, D_FULL, 0.3), 4.0, gaussian, id="rotating OU"),
        *(pytest.param(example_19(v), 4.0, lambda x, y: -well(x, y), id=f"example 19, {v}") for v in (0, 0.5, 1.5)),
        pytest.param(rotating_tensor(33.0), 4.0, lambda x, y: -well(x, y), id="rotating tensor 33:1"),
    ],
)
def test_second_order(process, half, log_exact):
    errors = [l1_error(process, half, cells, log_exact) for cells in (32, 64, 128)]
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert errors[-1] < 2e-3 and abs(orders[-1] - 2.0) < 0.1, (errors, orders)


F_THREE = np.array([[1.0, 0.7, -0.3], [-0.7, 1.4, 0.5], [0.3, -0.4, 0.9]])
D_THREE = np.array([[1.0, 0.35, -0.2], [0.35, 0.7, 0.15], [-0.2, 0.15, 0.5]])


def ornstein_uhlenbeck_error(cells, F=F_THREE, D=D_THREE, temperature=0.3):
    """L1 error in 3-D against the Gaussian of Lyapunov's equation, in a box of 5 deviations; and the generator."""
    names = ("x", "y", "z")
    drift = ["-(" + " + ".join(f"({f})*{v}" for f, v in zip(row, names)) + ")" for row in F]
    process = Process(drift, D.tolist(), temperature, variables=names)
    covariance = la.solve_continuous_lyapunov(F, 2 * temperature * D)
    half = 5 * np.sqrt(np.diag(covariance))
    fp = FokkerPlanck(process, Grid(-half, half, (cells,) * 3))
    x = fp.grid.centers()
    exact = np.exp(-0.5 * np.einsum("...i,ij,...j", x, la.inv(covariance), x))
    exact /= exact.sum() * fp.grid.cell_volume
    return np.abs(fp.steady_state().values - exact).sum() * fp.grid.cell_volume, fp


def test_second_order_in_three_dimensions():
    """A rotating drift and a full D; the cells are not cubes."""
    (coarse, _), (fine, fp) = ornstein_uhlenbeck_error(14), ornstein_uhlenbeck_error(22)
    check_chain(fp)
    assert fp.attrs["added_diffusion_max"] == 0.0 and not fp.detailed_balance
    assert abs(np.log(coarse / fine) / np.log(22 / 14) - 2.0) < 0.1, (coarse, fine)


@pytest.mark.evidence(table="order_3d")
def test_order_in_three_dimensions(table):
    cells = (16, 24, 32, 40)
    errors = [ornstein_uhlenbeck_error(n)[0] for n in cells]
    orders = [np.log(a / b) / np.log(m / n) for a, b, n, m in zip(errors, errors[1:], cells, cells[1:])]
    rows = [(f"{n}³", f"{e:.3g}", o) for n, e, o in zip(cells, errors, ["", *(f"{o:.3f}" for o in orders)])]
    note = "Drift that rotates, full D, box of 5 standard deviations; against the covariance of Lyapunov's equation."
    table(
        "L1 error of the density of a three-dimensional Ornstein-Uhlenbeck process",
        ("grid", "error", "order"),
        rows,
        note,
    )
    assert max(abs(o - 2.0) for o in orders) < 0.1, orders


def test_a_known_potential_gives_the_gibbs_state_exactly():
    process = rotating_tensor(33.0)
    process = SimpleNamespace(
        **{name: getattr(process, name) for name in ("variables", "dim", "temperature", "domain", "settings")},
        drift=process.drift,
        diffusion=process.diffusion,
        diffusion_divergence=process.diffusion_divergence,
        equilibrium_potential=lambda x: well(x[..., 0], x[..., 1]),
    )
    assert l1_error(process, 4.0, 40, lambda x, y: -well(x, y)) < 1e-12


def test_counterexample_without_the_itô_term_the_density_is_wrong():
    process = rotating_tensor(33.0)
    process.diffusion_divergence = lambda x: np.zeros_like(x)
    assert l1_error(process, 4.0, 64, lambda x, y: -well(x, y)) > 0.05


def test_the_three_dimensional_solve_keeps_its_digits():
    """δ·D⁻¹f for units that differ by 10¹² between the axes, as in 40-digit arithmetic."""
    rng = np.random.default_rng(0)
    unit = np.diag([1e-6, 1.0, 1e6])
    factors = rng.normal(size=(50, 3, 3))
    correlated = factors @ factors.transpose(0, 2, 1) + 0.1 * np.eye(3)
    here = unit @ correlated @ unit
    force, delta = rng.normal(size=(2, 50, 3)) @ unit
    found = (inverse_step(here, delta, np.zeros(50)) * force).sum(axis=1)
    with mpmath.workdps(40):
        exact = [float((mpmath.matrix(d).T * mpmath.lu_solve(mpmath.matrix(m.tolist()), mpmath.matrix(f)))[0])
                 for m, f, d in zip(here, force, delta)]  # fmt: skip
    np.testing.assert_allclose(found, exact, rtol=1e-11)


# any field at all -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_random_fields_make_a_chain(seed):
    """200 fields: rank one to 10³:1, axes that turn, cell Péclet numbers to 10³, walls everywhere."""
    rng = np.random.default_rng(seed)
    for _ in range(20):
        low = rng.choice([0.0, 1e-3, 1e-2, 0.1, 1.0])
        k, a, turn, strength = (
            rng.normal(size=(2, 2)),
            rng.uniform(0, np.pi),
            rng.uniform(0, 4),
            10 ** rng.uniform(-1, 4),
        )
        flow, phase = rng.normal(size=(2, 2)), rng.uniform(0, 2 * np.pi, 2)

        def angle(x, y, a=a, k=k, turn=turn):
            return a + turn * np.sin(k[0, 0] * x + k[0, 1] * y)

        def tensor(x, y, low=low, angle=angle):
            c, s = np.cos(angle(x, y)), np.sin(angle(x, y))
            return (c * c + low * s * s, (1 - low) * c * s), ((1 - low) * c * s, s * s + low * c * c)

        def divergence(x, y, low=low, angle=angle, k=k, turn=turn):
            slope = turn * np.cos(k[0, 0] * x + k[0, 1] * y)
            s2, c2 = (1 - low) * np.sin(2 * angle(x, y)), (1 - low) * np.cos(2 * angle(x, y))
            return slope * (-s2 * k[0, 0] + c2 * k[0, 1]), slope * (c2 * k[0, 0] + s2 * k[0, 1])

        def drift(x, y, flow=flow, phase=phase, strength=strength):
            return (
                strength * np.sin(flow[0, 0] * x + flow[0, 1] * y + phase[0]),
                strength * np.cos(flow[1, 0] * x + flow[1, 1] * y + phase[1]),
            )

        process = Process(drift, tensor, 1.0, variables=("x", "y"), diffusion_divergence=divergence)
        shape = tuple(rng.integers(3, 24, 2).tolist())
        check_chain(FokkerPlanck(process, Grid((-1, -2), (1, 1), shape), max_offset=int(rng.integers(1, 6))))


@pytest.mark.parametrize("size", [1e3, 1e6, 1e10])
def test_extreme_peclet_numbers(size):
    """Rates underflow, the density does not: at cell Péclet 10¹⁰ log ρ reaches −10¹¹ and stays finite."""
    process = linear(size * np.array([[1.0, 0.0], [0.0, 2.0]]), np.eye(2), 1.0)
    fp = FokkerPlanck(process, Grid((-1, -1), (1, 1), (12, 12)))
    forward, backward = fp.edges.rates()
    assert size < 1e4 or (np.minimum(forward, backward) == 0.0).any()
    log_density = fp.log_steady_state().values
    x, y = np.moveaxis(fp.grid.centers(), -1, 0)
    exact = -size * (0.5 * x**2 + y**2)  # the midpoint rule is exact for a quadratic
    found = log_density - log_density.max()
    np.testing.assert_allclose(found, exact - exact.max(), rtol=1e-12, atol=1e-9 + 1e-16 * size)


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("unit", [1e-3, 1e-7])
def test_units_of_a_variable_change_nothing(unit, dim):
    """The same process with y in units of 10³ and of 10⁷: D_yy is 10⁻¹⁴ of D_xx, and no noise is too weak for it."""
    names, scale = ("x", "y", "z")[:dim], np.array([1.0, unit, 1.0])[:dim]
    tensor = np.array([[1.0, 0.5, 0.2], [0.5, 0.7, 0.1], [0.2, 0.1, 0.4]])[:dim, :dim]

    def generator(scale):
        drift = [f"-{v}" if i else f"-x + y*{float(0.3 / scale[1])!r}" for i, v in enumerate(names)]
        process = Process(drift, (tensor * np.outer(scale, scale)).tolist(), 0.3, variables=names)
        return FokkerPlanck(process, Grid(-3 * scale, 3 * scale, (9,) * dim))

    fp, expected = generator(scale), generator(np.ones(dim))
    assert fp.attrs["longest_offset"] == expected.attrs["longest_offset"]
    np.testing.assert_allclose(fp.added_diffusion.values[2:-2], 0.0, atol=0.0)
    np.testing.assert_allclose(fp.edges.peclet, expected.edges.peclet, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(fp.edges.conductance, expected.edges.conductance, rtol=1e-9)


def test_axis_with_noise_that_vanishes_at_the_centre():
    """D = 0.1 + x² is resolved; D = x² is zero between two cells, and the rates stay of the size of b/h."""
    for floor in (0.1, 0.0):
        process = Process(
            lambda x: (-(x + 1),), lambda x, floor=floor: ((floor + x * x,),), 1.0, variables=("x",),
            diffusion_divergence=lambda x: (2 * x,),
        )  # fmt: skip
        fp = FokkerPlanck(process, Grid(-2, 2, 40))
        check_chain(fp)
        assert max(np.max(r) for r in fp.edges.rates()) < 2 * 5.0 / 0.1**2


# one dimension, currents --------------------------------------------------------------------------------


def test_multiplicative_noise_in_one_dimension():
    """f = ax²/2, D = s(1 + kx²): ρ ∝ (1 + kx²)^(−1 − a/(2Tsk)), and no current."""
    a, s, k, temperature = 2.0, 0.7, 1.3, 0.4
    errors = []
    for cells in (100, 200):
        process = Process(
            lambda x: (-a * x,), lambda x: ((s * (1 + k * x * x),),), temperature, variables=("x",),
            diffusion_divergence=lambda x: (2 * s * k * x,),
        )  # fmt: skip
        grid = Grid(-6, 6, cells)
        fp = FokkerPlanck(process, grid)
        check_chain(fp)
        exact = (1 + k * grid.axes[0] ** 2) ** (-1 - a / (2 * temperature * s * k))
        exact /= exact.sum() * grid.cell_volume
        density = fp.steady_state()
        errors.append(np.abs(density.values - exact).sum() * grid.cell_volume)
        assert np.abs(fp.current(density).values).max() < 1e-12
    assert abs(np.log2(errors[0] / errors[1]) - 2.0) < 0.1 and errors[1] < 1e-3


def test_current_of_the_rotating_ou():
    errors = []
    for cells in (48, 96):
        grid = Grid((-4, -4), (4, 4), (cells, cells))
        fp = FokkerPlanck(linear(F_ROTATING, D_FULL, 0.3), grid)
        density = fp.steady_state()
        x = grid.centers()
        rho = np.exp(gaussian(x[..., 0], x[..., 1])) * np.sqrt(la.det(PRECISION)) / (2 * np.pi)
        exact = (-x @ F_ROTATING.T + 0.3 * x @ PRECISION @ D_FULL) * rho[..., None]
        found = fp.current(density)
        assert found.dims == ("x", "y", "component") and list(found.component.values) == ["x", "y"]
        errors.append(np.abs(found.values - exact).sum() * grid.cell_volume)
        edge = fp.edge_current(density).values
        balance = np.bincount(fp.edges.tail, edge, grid.size) - np.bincount(fp.edges.head, edge, grid.size)
        np.testing.assert_allclose(-balance, fp.matrix @ density.values.ravel(), atol=1e-12)
        assert np.abs(balance).max() < 1e-12 * fp.edges.conductance.max()
    assert abs(np.log2(errors[0] / errors[1]) - 2.0) < 0.1


def test_density_may_come_in_any_order_of_dimensions():
    fp = FokkerPlanck(linear(F_ROTATING, D_FULL, 1.0), Grid((-2, -2), (2, 2), (8, 9)))
    density = fp.steady_state()
    np.testing.assert_array_equal(fp.current(density.T).values, fp.current(density).values)
    assert density.attrs["temperature"] == 1.0 and {"residual", "wall_mass", "max_peclet"} <= set(density.attrs)
