"""The generator is a Markov chain for any D and any drift, and its density is right to second order."""

import dataclasses

import numpy as np
import pytest
import scipy.linalg as la
import scipy.sparse.linalg as spla

from sde_sgd.fokker_planck import FokkerPlanck, _inputs
from sde_sgd.fokker_planck._selling import selling
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
    if process.equilibrium_potential is not None:  # exact potential differences: the Gibbs state to rounding
        assert max(errors) < 1e-12
        return
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert errors[-1] < 2e-3 and abs(orders[-1] - 2.0) < 0.1, (errors, orders)


def test_counterexample_without_the_itô_term_the_density_is_wrong():
    process = rotating_tensor(33.0)
    process.diffusion_divergence = lambda x: np.zeros_like(x)
    assert l1_error(process, 4.0, 64, lambda x, y: -well(x, y)) > 0.05


# Selling's decomposition -------------------------------------------------------------------------------------


def random_covariances(rng, count, ratio):
    angle = rng.uniform(0, np.pi, count)
    v = np.stack([np.cos(angle), np.sin(angle)], -1)
    w = np.stack([-v[:, 1], v[:, 0]], -1)
    return np.einsum("ni,nj->nij", v, v) + np.einsum("ni,nj->nij", w, w) / ratio


@pytest.mark.parametrize("ratio", [1.0, 30.0, 1e3, np.inf])
@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.01, 0.3)])
def test_selling_reconstructs_with_non_negative_weights(ratio, spacing):
    h = np.array(spacing)
    matrices = random_covariances(np.random.default_rng(0), 500, ratio)
    for reach in (1, 4, 16):
        weight, offset, added = selling(matrices, h, np.full(500, reach))
        assert (weight >= 0.0).all() and (added >= 0.0).all() and np.abs(offset).max() <= reach
        whole = (matrices + added[:, None, None] * np.eye(2)) / np.outer(h, h)
        rebuilt = np.einsum("ns,nsi,nsj->nij", weight, offset, offset)
        scale = np.sqrt(np.einsum("nii,njj->nij", whole, whole))
        assert (np.abs(rebuilt - whole) < 1e-10 * scale).all()


def test_added_diffusion_is_the_least_possible():
    matrices = random_covariances(np.random.default_rng(1), 500, 1e4)
    h, reach = np.array([1.0, 1.0]), np.full(500, 3)
    added = selling(matrices, h, reach)[2]
    bad = added > 1e-6
    assert bad.sum() > 50

    def still_missing(share):
        raised = matrices + share * added[:, None, None] * np.eye(2)
        return selling(raised, h, reach)[2][bad] / added[bad]

    assert still_missing(1.0).max() < 1e-9
    assert np.allclose(still_missing(0.9), 0.1, rtol=1e-6)  # any less is not enough


# any field at all -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_random_fields_make_a_chain(seed):
    """200 fields: rank one to 10³:1, axes that turn, cell Péclet numbers to 10³, walls everywhere."""
    rng = np.random.default_rng(seed)
    for _ in range(20):
        low = rng.choice([0.0, 1e-3, 1e-2, 0.1, 1.0])
        k, a, turn, strength = rng.normal(size=(2, 2)), rng.uniform(0, np.pi), rng.uniform(0, 4), 10 ** rng.uniform(-1, 4)
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


# one dimension, rings, walls ---------------------------------------------------------------------------------


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


def circle(force, temperature, cells):
    process = Process(
        lambda x: (force + np.sin(x),), lambda x: ((1 + 0 * x,),), temperature, variables=("angle",),
        diffusion_divergence=lambda x: (0 * x,), domain=((0, 2 * np.pi, "periodic"),),
    )  # fmt: skip
    return FokkerPlanck(process, Grid(0, 2 * np.pi, cells, boundary="periodic"))


def test_force_on_a_ring():
    """V = cos θ, b = F − V': J = T(1 − e^{−2πF/T})/Z, the same at every angle."""
    force, temperature = 0.7, 0.5
    u = (np.arange(4000) + 0.5) * 2 * np.pi / 4000
    theta = (np.arange(200) + 0.5) * 2 * np.pi / 200  # W = V − Fθ
    gap = (np.cos(theta[:, None] + u) - np.cos(theta[:, None]) - force * u) / temperature
    rho = np.exp(gap).sum(axis=1)  # proportional to ∫ exp([W(θ+u) − W(θ)]/T) du
    normal = (rho * (u[1] - u[0])).sum() * (theta[1] - theta[0])
    expected = temperature * (1 - np.exp(-2 * np.pi * force / temperature)) / normal
    errors = []
    for cells in (50, 100):
        fp = circle(force, temperature, cells)
        check_chain(fp)
        current = fp.current(fp.steady_state()).values
        assert np.ptp(current) < 1e-12
        errors.append(abs(current.mean() - expected) / expected)
    assert errors[1] < 1e-6 and errors[0] > 4 * errors[1]  # midpoint sums over a period: better than order 2


def test_torus_with_wide_offsets():
    """Constant drift and constant anisotropic D on a torus: ρ uniform and J = bρ, exactly."""
    drift, tensor = (0.8, -0.3), random_covariances(np.random.default_rng(3), 1, 40.0)[0]
    process = Process(
        lambda x, y: (drift[0] + 0 * x, drift[1] + 0 * x),
        lambda x, y: tuple(tuple(v + 0 * x for v in row) for row in tensor), 1.0, variables=("x", "y"),
        diffusion_divergence=lambda x, y: (0 * x, 0 * x), domain=((0, 1, "periodic"), (0, 2, "periodic")),
    )  # fmt: skip
    fp = FokkerPlanck(process, Grid((0, 0), (1, 2), (17, 12), boundary="periodic"))
    check_chain(fp)
    density = fp.steady_state()
    np.testing.assert_allclose(density.values, 0.5, rtol=1e-12)
    exact = np.array(drift) * 0.5
    np.testing.assert_allclose(fp.current(density).values, np.broadcast_to(exact, (17, 12, 2)), rtol=2e-2)


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


def test_absorbing_walls_give_the_mean_exit_time():
    """Lᵀτ = −1. In 1-D with D = T = 1 on (−1, 1), τ = (1 − x²)/2 plus O(h²); and mass is lost, not kept."""
    brownian = Process(
        lambda x: (0 * x,), lambda x: ((1 + 0 * x,),), 1.0, variables=("x",), diffusion_divergence=lambda x: (0 * x,)
    )
    errors = []
    for cells in (20, 40):
        fp = FokkerPlanck(brownian, Grid(-1, 1, cells, boundary="absorbing"))
        time = spla.spsolve(fp.matrix.T.tocsc(), -np.ones(cells))
        errors.append(np.abs(time - (1 - fp.grid.axes[0] ** 2) / 2).max())
        assert not fp.conserves_mass and fp.nonnegative_rates
    assert errors[1] < 1e-3 and errors[0] / errors[1] > 3.5
    with pytest.raises(ValueError, match="absorbing walls loses all its mass"):
        fp.steady_state()


def test_absorbing_walls_with_a_tilted_tensor():
    """ρ = sin sin on a square with D full: Lρ → T D:∇∇ρ where no edge meets a wall; τ converges."""
    tensor = np.array([[1.0, 0.45], [0.45, 0.6]])
    middle = []
    for cells in (21, 41, 81):
        grid = Grid((0, 0), (1, 1), (cells, cells), boundary="absorbing")
        fp = FokkerPlanck(linear(np.zeros((2, 2)), tensor, 1.0), grid)
        time = spla.spsolve(fp.matrix.T.tocsc(), -np.ones(grid.size)).reshape(grid.shape)
        middle.append(time[cells // 2, cells // 2])
    first, second = abs(middle[1] - middle[0]), abs(middle[2] - middle[1])
    assert second < 0.5 * first and first < 0.02 * middle[2]


# what is refused ---------------------------------------------------------------------------------------------


def one_variable(drift="-x", diffusion="1", domain=None):
    return Process((drift,), ((diffusion,),), 1.0, variables=("x",), domain=domain)


def two_variables(diffusion, drift=lambda x, y: (-x, -y)):
    return Process(
        drift, diffusion, 1.0, variables=("x", "y"), diffusion_divergence=lambda x, y: (0 * x, 0 * x)
    )


SQUARE = Grid((-1, -1), (1, 1), (8, 8))


@pytest.mark.parametrize(
    ("process", "grid", "words"),
    [
        (one_variable(), SQUARE, "the process has 1 variables"),
        (one_variable(), Grid(-1, 1, 8, boundary="periodic"), "not periodic in the process"),
        (one_variable(domain=((0, 1, "periodic"),)), Grid(0, 1, 8), "x is periodic in the process"),
        (one_variable(domain=((0, 1, "periodic"),)), Grid(0, 2, 8, boundary="periodic"), "span one period"),
        (one_variable(domain=((0, 1),)), Grid(-1, 1, 8), "outside the process's domain"),
        (one_variable("-1/x"), Grid(-1, 1, 8), "drift is .* at"),
        (one_variable(diffusion="0"), Grid(-1, 1, 8), "zero on the whole grid"),
        (one_variable(diffusion="x"), Grid(-1, 1, 8), "smallest eigenvalue is -0.875 at"),
        (two_variables(lambda x, y: ((1 + 0 * x, x), (0 * x, 1 + 0 * x))), SQUARE, "must be symmetric"),
        (two_variables(lambda x, y: ((1 + 0 * x, 1.5 + 0 * x), (1.5 + 0 * x, 1 + 0 * x))), SQUARE, "eigenvalue is -0.5"),
        (two_variables(lambda x, y: ((x / 0, 0 * x), (0 * x, 1 + 0 * x))), SQUARE, "diffusion is .* at"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_faults_are_named(process, grid, words):
    with pytest.raises(ValueError, match=words):
        FokkerPlanck(process, grid)


def test_three_dimensions_and_other_arguments_are_refused():
    three = Landscape(("x", "y", "z"), "x**2 + y**2 + z**2").at_temperature(1.0)
    with pytest.raises(ValueError, match="1-D and 2-D"):
        FokkerPlanck(three, Grid((-1,) * 3, (1,) * 3, (8,) * 3))
    with pytest.raises(ValueError, match="max_offset is 0"):
        FokkerPlanck(one_variable(), Grid(-1, 1, 8), max_offset=0)
    with pytest.raises(ValueError, match="pass a Grid"):
        FokkerPlanck(one_variable(), (-1, 1, 8))
    fp = FokkerPlanck(one_variable(), Grid(-1, 1, 8))
    with pytest.raises(ValueError, match=r"shape \(9,\)"):
        fp.current(np.ones(9))
    with pytest.raises(ValueError, match="not finite in 1 cells"):
        fp.current(np.array([1.0] * 7 + [np.nan]))


def test_a_potential_that_jumps_at_the_seam_is_refused():
    process = one_variable(domain=((0, 1, "periodic"),))
    tilted = type("Tilted", (), {**{k: getattr(process, k) for k in ("variables", "dim", "temperature", "domain",
        "settings", "drift", "diffusion", "diffusion_divergence")}, "equilibrium_potential": staticmethod(
        lambda x: x[..., 0])})()  # fmt: skip
    with pytest.raises(ValueError, match="jumps by 1 across the periodic axis x"):
        FokkerPlanck(tilted, Grid(0, 1, 8, boundary="periodic"))


def test_a_disconnected_chain_is_refused():
    fp = FokkerPlanck(one_variable(), Grid(-1, 1, 8))
    keep = fp.edges.tail != 3
    fp.edges = dataclasses.replace(
        fp.edges, **{k: getattr(fp.edges, k)[keep] for k in ("tail", "head", "offset", "conductance", "peclet")}
    )
    assert not fp.irreducible
    with pytest.raises(ValueError, match="2 classes that exchange no mass"):
        fp.steady_state()


def test_memory_is_refused_before_it_is_taken(monkeypatch):
    with pytest.raises(ValueError, match="GiB allowed here; use fewer cells"):
        FokkerPlanck(linear(np.eye(2), np.eye(2), 1.0), Grid((-1, -1), (1, 1), (10**6, 10**6)))
    fp = FokkerPlanck(rotating_tensor(33.0), Grid((-1, -1), (1, 1), (64, 64)))
    monkeypatch.setattr(_inputs, "available_bytes", lambda: 2**20)
    with pytest.raises(ValueError, match="64 × 64 cells needs about"):
        fp.steady_state()


def test_density_may_come_in_any_order_of_dimensions():
    fp = FokkerPlanck(linear(F_ROTATING, D_FULL, 1.0), Grid((-2, -2), (2, 2), (8, 9)))
    density = fp.steady_state()
    np.testing.assert_array_equal(fp.current(density.T).values, fp.current(density).values)
    assert density.attrs["temperature"] == 1.0 and {"residual", "wall_mass", "max_peclet"} <= set(density.attrs)
