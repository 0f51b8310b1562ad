"""Rings, tori, reflecting and absorbing walls."""

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse.linalg as spla
import sympy

from sde_sgd.fokker_planck import FokkerPlanck, _walls
from sde_sgd.fokker_planck._selling import selling
from sde_sgd.grid import Grid
from sde_sgd.potential import decompose
from sde_sgd.process import Process


def tilted(angle, ratio):
    """Eigenvalues 1 and 1/ratio, the first at an angle to x."""
    c, s = np.cos(angle), np.sin(angle)
    return np.outer([c, s], [c, s]) + np.outer([-s, c], [-s, c]) / ratio


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
        assert fp.conserves_mass and fp.nonnegative_rates and fp.irreducible
        current = fp.current(fp.steady_state()).values
        assert np.ptp(current) < 1e-12
        errors.append(abs(current.mean() - expected) / expected)
    assert errors[1] < 1e-6 and errors[0] > 4 * errors[1]  # midpoint sums over a period: better than order 2


def test_torus_with_wide_offsets():
    """Constant drift and constant anisotropic D on a torus: ρ uniform and J = bρ, exactly."""
    drift, tensor = (0.8, -0.3), tilted(0.55, 40.0)
    process = Process(
        lambda x, y: (drift[0] + 0 * x, drift[1] + 0 * x),
        lambda x, y: tuple(tuple(v + 0 * x for v in row) for row in tensor), 1.0, variables=("x", "y"),
        diffusion_divergence=lambda x, y: (0 * x, 0 * x), domain=((0, 1, "periodic"), (0, 2, "periodic")),
    )  # fmt: skip
    fp = FokkerPlanck(process, Grid((0, 0), (1, 2), (17, 12), boundary="periodic"))
    assert fp.conserves_mass and fp.nonnegative_rates and fp.irreducible
    density = fp.steady_state()
    np.testing.assert_allclose(density.values, 0.5, rtol=1e-12)
    exact = np.array(drift) * 0.5
    np.testing.assert_allclose(fp.current(density).values, np.broadcast_to(exact, (17, 12, 2)), rtol=1e-11)


def test_absorbing_walls_give_the_mean_exit_time():
    """Lᵀτ = −1. In 1-D with D = T = 1 on (−1, 1), τ = (1 − x²)/2 plus O(h²); and mass is lost, not kept."""
    brownian = Process(
        lambda x: (0 * x,),
        lambda x: ((1 + 0 * x,),),
        1.0,
        variables=("x",),
        diffusion_divergence=lambda x: (0 * x,),
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
    """Mean exit time from the middle of a square with a full D: converges faster than first order."""
    tensor = np.array([[1.0, 0.45], [0.45, 0.6]])
    brownian = Process(("0", "0"), tensor.tolist(), 1.0, variables=("x", "y"))
    middle = []
    for cells in (21, 41, 81):
        grid = Grid((0, 0), (1, 1), (cells, cells), boundary="absorbing")
        fp = FokkerPlanck(brownian, grid)
        time = spla.spsolve(fp.matrix.T.tocsc(), -np.ones(grid.size)).reshape(grid.shape)
        middle.append(time[cells // 2, cells // 2])
    first, second = abs(middle[1] - middle[0]), abs(middle[2] - middle[1])
    assert second < 0.4 * first and first < 0.02 * middle[2]


# walls and second order ------------------------------------------------------------------------------------

X, Y = sympy.symbols("x y", real=True)
BOX = ((0, 1), (0, 1))
CHANNEL = ((0, 1, "periodic"), (0, 1))
TURN = 0.4 + 0.3 * sympy.sin(2 * sympy.pi * X) + 0.5 * Y
HILL = X**2 / 2 + 0.3 * X * Y + (Y - 0.3) ** 2 / 2
WAVE = 0.3 * sympy.cos(2 * sympy.pi * X) + Y / 2 + 0.2 * sympy.sin(2 * sympy.pi * X) * Y
AROUND = 2 * X * (1 - X) * Y * (1 - Y) * (1 + X)
ALONG = Y / 2 + 4 * (Y * (1 - Y)) ** 2 * sympy.sin(2 * sympy.pi * X)  # not 0 on the far wall: a harmonic part
SHEAR = Y * (1 - Y) * sympy.exp(sympy.sin(2 * sympy.pi * X) / 2)


def manufactured(ratio, angle, phi, psi, domain, temperature=0.5):
    """b with ρ ∝ e^{−Φ/T} and J = (∂_yψ, −∂_xψ) for D with eigenvalues 1 and 1/ratio; log ρ and J as functions."""
    turn = sympy.Matrix([[sympy.cos(angle), -sympy.sin(angle)], [sympy.sin(angle), sympy.cos(angle)]])
    tensor = turn * sympy.diag(1, sympy.Rational(1, ratio)) * turn.T
    current = (sympy.diff(psi, Y), -sympy.diff(psi, X))
    drift = [
        current[i] * sympy.exp(phi / temperature)
        - sum(
            tensor[i, k] * sympy.diff(phi, v) - temperature * sympy.diff(tensor[i, k], v) for k, v in enumerate((X, Y))
        )
        for i in range(2)
    ]
    process = Process(drift, tensor.tolist(), temperature, variables=("x", "y"), domain=domain)
    return process, sympy.lambdify((X, Y), -phi / temperature), sympy.lambdify((X, Y), current)


def solved(case, cells):
    """The decomposition, with exact ρ and J at the cell centres, normalised as cells are."""
    process, log_exact, exact_current = case
    walls = tuple("periodic" if p else "reflecting" for p in process.domain.periodic)
    fp = FokkerPlanck(process, Grid((0, 0), (1, 1), (cells, cells), boundary=walls))
    x, y = np.moveaxis(fp.grid.centers(), -1, 0)
    density = np.exp(log_exact(x, y) + 0 * x)
    mass = density.sum() * fp.grid.cell_volume
    current = np.stack([c + 0 * x for c in exact_current(x, y)], -1)
    return fp, decompose(fp), density / mass, current / mass


def l1(found, exact, grid):
    return np.abs(found - exact).sum() * grid.cell_volume


@pytest.mark.parametrize(
    ("case", "longest", "tolerance"),
    [
        pytest.param((2, TURN, WAVE, sympy.S(0), CHANNEL), 1, 0.02, id="channel, J = 0"),
        pytest.param((2, TURN, WAVE, ALONG, CHANNEL), 1, 0.02, id="channel"),
        pytest.param((2, TURN, HILL, AROUND, BOX), 1, 0.02, id="box"),
        pytest.param((10, TURN, WAVE, sympy.S(0), CHANNEL), 2, 0.02, id="channel, wide offsets, J = 0"),
        pytest.param((10, TURN, WAVE, ALONG, CHANNEL), 2, 0.1, id="channel, wide offsets"),
        pytest.param((10, TURN, WAVE, SHEAR, CHANNEL), 2, 0.1, id="channel, wide offsets, shear"),
        pytest.param((10, TURN, HILL, AROUND, BOX), 2, 0.1, id="box, wide offsets"),
    ],
)
def test_second_order_with_mass_at_reflecting_walls(case, longest, tolerance):
    """The walls carry as much mass as the middle, and currents run along them."""
    errors = []
    case = manufactured(*case)
    for cells in (64, 128):
        fp, found, density, current = solved(case, cells)
        assert fp.attrs["longest_offset"] == longest and fp.conserves_mass and fp.nonnegative_rates
        here = [l1(fp.steady_state().values, density, fp.grid)]
        if longest == 1:
            here.append(l1(found.current.values, current, fp.grid))
        errors.append(here)
    orders = np.log2(np.array(errors[0]) / errors[1])
    assert abs(orders[0] - 2.0) < tolerance and (orders > 1.9).all(), (errors, orders)


@pytest.mark.parametrize("ratio", [10, 30])
def test_corners_cost_no_order(ratio):
    """Constant D at 0.4 rad, J = 0: ε is added in corners alone, in as many cells on any grid."""
    case = manufactured(ratio, 0.4, HILL, sympy.S(0), BOX)
    errors, touched = [], []
    for cells in (64, 128):
        fp, _, density, _ = solved(case, cells)
        errors.append(l1(fp.steady_state().values, density, fp.grid))
        touched.append(np.count_nonzero(fp.added_diffusion.values > 1e-9))
    assert touched[0] == touched[1] <= 4 * fp.attrs["longest_offset"] ** 2
    assert np.log2(errors[0] / errors[1]) > 1.9 and errors[1] < 1e-4, errors


def test_unequal_spacing_adds_no_diffusion_along_walls():
    process = Process(("-x", "-y"), (("1", "0.4"), ("0.4", "0.6")), 1.0, variables=("x", "y"))
    fp = FokkerPlanck(process, Grid((-1, -1), (1, 1), (40, 11)))
    assert fp.attrs["longest_offset"] > 1
    added = fp.added_diffusion.values > 0
    assert added.sum() <= 4 * 9 and not added[3:-3].any() and not added[:, 3:-3].any()


def test_wide_offsets_spread_the_current_beside_a_wall():
    """b = (1, 0), constant D: J along the wall is wrong by a fixed amount in a cell, right in the sum of the layer."""
    case = manufactured(10, 1.1, sympy.S(0), Y, CHANNEL)
    cell, layer = [], []
    for cells in (64, 128):
        fp, found, density, current = solved(case, cells)
        gap = (found.current.values - current)[:, : cells // 2, 0]
        cell.append(np.abs(gap).max())
        layer.append(np.abs(gap.sum(axis=1)).max())
        assert fp.attrs["longest_offset"] == 2 and l1(fp.steady_state().values, density, fp.grid) < 20 / cells**2
    assert cell[1] > 0.9 * cell[0] > 0.02 and layer[1] < 0.55 * layer[0] and layer[1] < 0.1 * cell[1], (cell, layer)


def slab_loss(weight, offset, rows):
    """(R S − E)/2 of the slab of `rows`, its energy E minimised as one least-squares problem."""
    along, away = offset.T * np.where(offset[:, 1] < 0, -1, 1)
    skew = (weight * along * away).sum() / (weight * away**2).sum()
    bulk = (weight * (along - skew * away) ** 2).sum()
    lines, right = [], []
    for w, t, n in zip(weight, along, away):
        for r in range(rows - n):
            line = np.zeros(rows)
            line[r + n] += np.sqrt(w)
            line[r] -= np.sqrt(w)
            lines.append(line)
            right.append(-np.sqrt(w) * t)
    lines, right = np.array(lines), np.array(right)
    best = np.linalg.lstsq(lines, right, rcond=None)[0]
    return 0.5 * (rows * bulk - ((lines @ best - right) ** 2).sum())


def test_the_edge_along_a_wall_carries_what_the_layer_loses():
    rng = np.random.default_rng(3)
    for ratio in (3.0, 30.0, 200.0):
        tensors = np.stack([tilted(angle, ratio) for angle in rng.uniform(0, np.pi, 10)])
        weight, offset, _ = selling(tensors, np.ones(2), np.full(10, 6))
        lost = _walls._lost(weight, offset, 10**6)[:, 0, 0]
        expected = [slab_loss(w, e, 60) for w, e in zip(weight, offset)]
        np.testing.assert_allclose(lost, expected, rtol=1e-4, atol=1e-7)
        assert (lost >= 0.0).all()


def test_short_offsets_leave_the_ghost_layer_eliminated():
    """λ₀₁ = 0.3, λ₁₁ = 0.5: half of each joined in series. Nothing is lost without a slanted offset."""
    offset = np.array([[[1, 0], [0, 1], [1, 1]], [[1, 0], [0, 1], [0, 0]]], np.int8)
    lost = _walls._lost(np.array([[0.2, 0.3, 0.5], [1.0, 2.0, 0.0]]), offset, 50)[:, 0, 0]
    np.testing.assert_allclose(lost, [0.5 * 0.3 * 0.5 / 0.8, 0.0], rtol=1e-14)


def test_a_known_potential_is_kept_exactly_at_walls():
    """P adds up along any path, the edges along walls included: e^{−Φ/T} is stationary to rounding, edge by edge."""
    process, log_exact, _ = manufactured(30, TURN, HILL, sympy.S(0), BOX)
    names = ("variables", "dim", "temperature", "domain", "settings", "drift", "diffusion", "diffusion_divergence")
    known = SimpleNamespace(
        **{name: getattr(process, name) for name in names},
        equilibrium_potential=lambda x: -0.5 * log_exact(x[..., 0], x[..., 1]),
    )
    fp = FokkerPlanck(known, Grid((0, 0), (1, 1), (30, 21)))
    log_density = fp.log_steady_state().values.ravel()
    assert np.abs(fp.edges.peclet - (log_density[fp.edges.head] - log_density[fp.edges.tail])).max() < 1e-11
    assert np.abs(decompose(fp).remainder.values).max() < 1e-8


@pytest.mark.parametrize("seed", range(4))
def test_any_walls_make_a_chain(seed):
    """Every kind of box, tensor and reach: no cell is isolated, every rate is ≥ 0 and the density is positive."""
    rng = np.random.default_rng(seed)
    for _ in range(20):
        walls = tuple(rng.choice(["reflecting", "periodic"], 2).tolist())
        tensor = tilted(rng.uniform(0, np.pi), rng.choice([1.5, 10.0, 1e3, np.inf]))
        tensor = 0.5 * (tensor + tensor.T)
        domain = [(0, 1, "periodic") if w == "periodic" else (0, 1) for w in walls]
        flow = ("3*sin(2*pi*y)", "-2*cos(2*pi*x)")
        process = Process(flow, tensor.tolist(), 1.0, variables=("x", "y"), domain=domain)
        grid = Grid((0, 0), (1, 1), tuple(rng.integers(3, 16, 2).tolist()), boundary=walls)
        fp = FokkerPlanck(process, grid, max_offset=int(rng.integers(1, 17)))
        assert fp.conserves_mass and fp.nonnegative_rates and fp.irreducible
        log_density = fp.log_steady_state()
        assert np.isfinite(log_density.values).all() and log_density.attrs["residual"] < 1e-9


@pytest.mark.parametrize("ratio", [2.0, 20.0])
def test_exit_time_is_of_second_order_for_any_offset(ratio):
    """Absorbing in x, periodic in y, no drift: the mean exit time is x(1 − x)/(2 D_xx)."""
    tensor = tilted(0.4, ratio)
    tensor = 0.5 * (tensor + tensor.T)
    brownian = Process(
        ("0", "0"), tensor.tolist(), 1.0, variables=("x", "y"), domain={"x": (0, 1), "y": (0, 1, "periodic")}
    )
    errors = []
    for cells in (32, 64):
        fp = FokkerPlanck(brownian, Grid((0, 0), (1, 1), (cells, cells), boundary=("absorbing", "periodic")))
        assert fp.attrs["added_diffusion_max"] == 0.0 and (fp.attrs["longest_offset"] > 1) == (ratio > 10)
        time = spla.spsolve(fp.matrix.T.tocsc(), -np.ones(fp.grid.size)).reshape(fp.grid.shape)
        x = fp.grid.axes[0][:, None]
        errors.append(np.abs(time - x * (1 - x) / (2 * tensor[0, 0])).mean())
    assert abs(np.log2(errors[0] / errors[1]) - 2.0) < 0.1, errors


def test_a_box_with_a_reflecting_and_an_absorbing_axis():
    """No drift, tilted D, absorbing in x and reflecting in y: exit times at the middle converge at second order."""
    tensor = tilted(0.4, 10.0)
    tensor = 0.5 * (tensor + tensor.T)
    brownian = Process(("0", "0"), tensor.tolist(), 1.0, variables=("x", "y"))
    middle = []
    for cells in (15, 45, 135):
        fp = FokkerPlanck(brownian, Grid((0, 0), (1, 1), (cells, cells), boundary=("absorbing", "reflecting")))
        time = spla.spsolve(fp.matrix.T.tocsc(), -np.ones(fp.grid.size)).reshape(fp.grid.shape)
        middle.append(time[cells // 2, cells // 2])
    assert abs(np.log((middle[1] - middle[0]) / (middle[2] - middle[1])) / np.log(3.0) - 2.0) < 0.3, middle
