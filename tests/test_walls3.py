"""Three-dimensional boxes: no cell is isolated, and walls cost the density no order."""

import itertools

import numpy as np
import pytest
import scipy.sparse as sparse
import scipy.sparse.linalg as spla
import sympy
from scipy.sparse.csgraph import connected_components
from scipy.spatial.transform import Rotation

from sde_sgd.fokker_planck import FokkerPlanck, _pattern, _walls
from sde_sgd.fokker_planck._selling import selling
from sde_sgd.grid import Grid
from sde_sgd.process import Process

X, Y, Z = AXES = sympy.symbols("x y z", real=True)
SIN, COS = sympy.sin(2 * sympy.pi * X), sympy.cos(2 * sympy.pi * X)
BOX = ((0, 1),) * 3
CHANNEL = ((0, 1, "periodic"), (0, 1), (0, 1))
SLAB = ((0, 1, "periodic"), (0, 1, "periodic"), (0, 1))
HILL = X**2 / 2 + 0.3 * X * Y + (Y - 0.3) ** 2 / 2 + 0.4 * Z * X - 0.3 * Z + 0.2 * Z**2
WAVE = 0.3 * COS + Y / 2 + 0.2 * SIN * Y + 0.3 * Z - 0.2 * Z * COS
TWO_WAVES = 0.3 * COS + 0.2 * sympy.sin(2 * sympy.pi * Y) * COS + 0.3 * Z - 0.2 * Z * COS
TURN = (0.4 + 0.3 * SIN + 0.5 * Y, 0.5 + 0.3 * Z)
TWO_TURNS = (0.4 + 0.3 * SIN + 0.3 * sympy.cos(2 * sympy.pi * Y), 0.5 + 0.3 * Z)
AROUND = 2 * X * (1 - X) * Y * (1 - Y) * (1 + X) * (1 + Z)
ALONG = Y / 2 + 4 * (Y * (1 - Y)) ** 2 * SIN * (1 + Z)
FLOW = Y / 2 + 0.3 * sympy.sin(2 * sympy.pi * Y) * COS
SWIRL = 0.1 * SIN * sympy.sin(2 * sympy.pi * Y) * (1 + Z)
STILL = sympy.S(0)
CASES = {
    "slab": (3, TWO_TURNS, TWO_WAVES, STILL, SLAB),
    "slab, wide offsets": (10, TWO_TURNS, TWO_WAVES, STILL, SLAB),
    "slab, wide offsets, current": (10, TWO_TURNS, TWO_WAVES, SWIRL, SLAB),
    "slab, wide offsets, flow": (10, TWO_TURNS, TWO_WAVES, FLOW, SLAB),
    "channel": (3, TURN, WAVE, ALONG, CHANNEL),
    "channel, wide offsets": (10, TURN, WAVE, ALONG, CHANNEL),
    "box": (3, TURN, HILL, AROUND, BOX),
    "box, wide offsets": (10, TURN, HILL, AROUND, BOX),
}


def turned(angle, i, j):
    turn = sympy.eye(3)
    turn[i, i] = turn[j, j] = sympy.cos(angle)
    turn[i, j], turn[j, i] = -sympy.sin(angle), sympy.sin(angle)
    return turn


def manufactured(ratio, angles, phi, psi, domain, temperature=0.5):
    """b with ρ ∝ e^{−Φ/T} and J = (∂_yψ, −∂_xψ, 0), tangent to every wall; D has eigenvalues 1, ½ and 1/ratio."""
    turn = turned(angles[0], 0, 1) * turned(angles[1], 1, 2)
    tensor = turn * sympy.diag(1, sympy.Rational(1, 2), sympy.Rational(1, ratio)) * turn.T
    current = (sympy.diff(psi, Y), -sympy.diff(psi, X), 0)
    drift = [
        current[i] * sympy.exp(phi / temperature)
        - sum(tensor[i, k] * sympy.diff(phi, v) - temperature * sympy.diff(tensor[i, k], v) for k, v in enumerate(AXES))
        for i in range(3)
    ]
    process = Process(drift, tensor.tolist(), temperature, variables=("x", "y", "z"), domain=domain)
    return process, sympy.lambdify(AXES, -phi / temperature)


def density_error(process, log_exact, cells):
    walls = tuple("periodic" if p else "reflecting" for p in process.domain.periodic)
    fp = FokkerPlanck(process, Grid((0,) * 3, (1,) * 3, (cells,) * 3, boundary=walls))
    exact = np.exp(log_exact(*np.moveaxis(fp.grid.centers(), -1, 0)))
    exact /= exact.sum() * fp.grid.cell_volume
    assert fp.conserves_mass and fp.nonnegative_rates and fp.irreducible
    return fp, np.abs(fp.steady_state().values - exact).sum() * fp.grid.cell_volume


@pytest.mark.parametrize("case", ["slab", "slab, wide offsets, current", "slab, wide offsets, flow"])
def test_second_order_between_two_walls(case):
    process, log_exact = manufactured(*CASES[case])
    errors = [density_error(process, log_exact, cells)[1] for cells in (8, 16)]
    assert abs(np.log2(errors[0] / errors[1]) - 2.0) < 0.06, errors


def test_counterexample_without_the_edges_along_walls(monkeypatch):
    process, log_exact = manufactured(*CASES["slab, wide offsets, flow"])
    monkeypatch.setattr(_walls, "with_edges_along", lambda grid, weight, offset, reach: (weight, offset))
    errors = [density_error(process, log_exact, cells)[1] for cells in (8, 16)]
    assert np.log2(errors[0] / errors[1]) < 1.75, errors


def test_second_order_in_a_box():
    """Mass at all six walls and a current along four of them; the edges of the box carry an ε or not."""
    process, log_exact = manufactured(*CASES["box"])
    errors = [density_error(process, log_exact, cells)[1] for cells in (10, 20)]
    assert np.log2(errors[0] / errors[1]) > 1.85, errors


@pytest.mark.evidence(table="walls_3d")
def test_orders_in_boxes(table):
    rows = []
    for name, case in CASES.items():
        process, log_exact = manufactured(*case)
        errors = [density_error(process, log_exact, cells) for cells in (16, 24, 36)]
        orders = [np.log(a[1] / b[1]) / np.log(1.5) for a, b in itertools.pairwise(errors)]
        longest = errors[-1][0].attrs["longest_offset"]
        rows.append((name, longest, *(f"{e:.3g}" for _, e in errors), *(f"{o:.2f}" for o in orders)))
        assert orders[-1] > 1.85 and (orders[-1] > orders[0] - 0.02), rows[-1]
    columns = ("case", "longest offset", "16³", "24³", "36³", "order", "order")
    table("L1 error of densities with mass at the walls, 3-D", columns, rows)


def slab_loss(weight, offset, rows):
    """The 2×2 form (R S − E)/2 of the slab of `rows`, its energy minimised as one least-squares problem."""
    steps = offset * np.where(offset[:, 2:] < 0, -1, 1)
    along, away = steps[:, :2].astype(float), steps[:, 2].astype(int)
    skew = (weight * away) @ along / (weight * away**2).sum()
    slip = along - away[:, None] * skew
    lines, right = [], []
    for w, t, n in zip(weight, along, away):
        for r in range(rows - n):
            line = np.zeros(rows)
            line[r + n] += np.sqrt(w)
            line[r] -= np.sqrt(w)
            lines.append(line)
            right.append(-np.sqrt(w) * t)
    lines, right = np.array(lines), np.array(right)
    gap = lines @ np.linalg.lstsq(lines, right, rcond=None)[0] - right
    return 0.5 * (rows * (slip.T * weight) @ slip - gap.T @ gap)


def test_the_edges_along_a_wall_carry_what_the_layer_loses():
    rng = np.random.default_rng(3)
    for ratio in (3.0, 30.0):
        axes = Rotation.random(4, random_state=rng).as_matrix()
        tensors = np.einsum("nij,j,nkj->nik", axes, [1.0, 0.4, 1 / ratio], axes)
        weight, offset, _ = selling(0.5 * (tensors + tensors.transpose(0, 2, 1)), np.ones(3), np.full(4, 3))
        lost = _walls._lost(weight, offset, 10**6)
        expected = [slab_loss(w, e.astype(int), 40) for w, e in zip(weight, offset)]
        np.testing.assert_allclose(lost, expected, rtol=1e-4, atol=1e-6)
        assert (np.linalg.eigvalsh(lost) > -1e-12).all()


def pieces(pattern, cells):
    graph = sparse.coo_array((np.ones(pattern.tail.size), (pattern.tail, pattern.head)), shape=(cells, cells))
    return connected_components(graph, directed=False)[0]


def any_tensors(rng, cells):
    """Of every kind: full, singular, and sums of three integer offsets alone, constant or different in each cell."""
    count = 1 if rng.random() < 0.6 else cells
    if rng.random() < 0.5:
        axes = Rotation.random(count, random_state=rng).as_matrix().reshape(count, 3, 3)
        values = np.concatenate([np.ones((count, 1)), 10.0 ** rng.uniform(-3, 0, (count, 2))], axis=1)
        values[:, 2] *= rng.integers(2)
        tensors = np.einsum("nij,nj,nkj->nik", axes, values, axes)
    else:
        offsets = np.array([(1, -1, 1), (1, 0, -1), (0, 1, -1)])[:, rng.permutation(3)] * rng.choice([-1, 1], 3)
        while rng.random() < 0.5 or abs(round(np.linalg.det(offsets))) != 1:
            offsets = rng.integers(-2, 3, (3, 3))
        tensors = np.einsum("ns,si,sj->nij", 10.0 ** rng.uniform(-2, 0, (count, 3)), offsets, offsets)
    return np.broadcast_to(0.5 * (tensors + tensors.transpose(0, 2, 1)), (cells, 3, 3)).copy()


@pytest.mark.parametrize("seed", range(4))
def test_every_cell_reaches_every_other(seed):
    rng = np.random.default_rng(seed)
    for _ in range(100):
        shape = tuple(rng.integers(3, 8, 3).tolist())
        walls = tuple(rng.choice(["reflecting", "reflecting", "periodic"], 3).tolist())
        grid = Grid((0,) * 3, shape, shape, boundary=walls)
        pattern = _pattern.build(grid, any_tensors(rng, grid.size), int(rng.integers(1, 6)), 0.0)
        assert (pattern.mean > 0.0).all() and pieces(pattern, grid.size) == 1


def test_a_corner_that_no_offset_leaves_inward(monkeypatch):
    """Every offset of this D steps towards one wall and away from another in some corner; ε goes there alone."""
    offsets = np.array([(1, -1, 1), (1, 0, -1), (0, 1, -1)])
    tensor = np.einsum("si,sj->ij", offsets, offsets).astype(float)
    grid = Grid((0,) * 3, (6,) * 3, (6,) * 3)
    tensors = np.broadcast_to(tensor, (grid.size, 3, 3)).copy()
    opened = _pattern.build(grid, tensors, 2, 0.0)
    assert pieces(opened, grid.size) == 1
    raised = np.flatnonzero(opened.added.reshape(grid.shape) > 0.0)
    corners = {int(np.ravel_multi_index(c, grid.shape)) for c in np.ndindex(6, 6, 6) if set(c) <= {0, 5}}
    assert raised.size > 0 and set(raised.tolist()) <= corners and opened.added.max() < np.trace(tensor)
    monkeypatch.setattr(_walls, "open_corners", lambda grid, diffusion, parts: None)
    weight, offset, _ = selling(tensor[None], grid.spacing, np.ones(1, np.int64))
    assert not _walls._leads_inside(weight[0], offset[0], 1e-9)


def test_exit_time_through_absorbing_walls_is_of_second_order():
    """Absorbing in x, periodic in y and z, full D, no drift: the mean exit time is x(1 − x)/(2 D_xx)."""
    tensor = np.array([[1.0, 0.5, -0.3], [0.5, 0.6, 0.1], [-0.3, 0.1, 0.4]])
    errors = []
    for cells in (16, 32):
        upper = (1.0, 7 / cells, 6 / cells)  # cubes
        domain = ((0, 1), (0, upper[1], "periodic"), (0, upper[2], "periodic"))
        brownian = Process(("0", "0", "0"), tensor.tolist(), 1.0, variables=("x", "y", "z"), domain=domain)
        grid = Grid((0,) * 3, upper, (cells, 7, 6), boundary=("absorbing", "periodic", "periodic"))
        fp = FokkerPlanck(brownian, grid)
        assert fp.attrs["added_diffusion_max"] == 0.0 and fp.nonnegative_rates and not fp.conserves_mass
        time = spla.spsolve(fp.matrix.T.tocsc(), -np.ones(grid.size)).reshape(grid.shape)
        x = grid.axes[0][:, None, None]
        errors.append(np.abs(time - x * (1 - x) / 2).mean())
    assert abs(np.log2(errors[0] / errors[1]) - 2.0) < 0.1, errors
