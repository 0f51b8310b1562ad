"""Steps by entropic scaling: the heat kernel, closed forms, the other methods, rings, and what is refused."""

import numpy as np
import pytest
import scipy.linalg as la
import sympy as sp

import sde_sgd as sde
from sde_sgd.errors import NotConverged
from sde_sgd.jko import JKO, _entropic
from sde_sgd.jko._entropic import Entropic
from sde_sgd.jko._heat_kernel import HeatKernel

T = 0.4
BOWL = "x**2 + y**2/2 + x*y/2"
BOX = 2.0


def normal(grid, mean, width):
    """A Gaussian of mass 1 on the cells, in logarithms."""
    values = -((grid.centers() - mean) ** 2).sum(axis=-1) / (2 * width**2)
    return values - np.log(np.exp(values).sum() * grid.cell_volume)


def l1(grid, one, other):
    return float(np.abs(np.asarray(one) - np.asarray(other)).sum() * grid.cell_volume)


def linear(dim, cells, tau, temperature=1 / 3, stiffness=2.0):
    """A step of the process of an isotropic well from a Gaussian of width 0.3: where from, where to, and W."""
    names = ["x", "y"][:dim]
    process = sde.Landscape(names, " + ".join(f"{v}**2" for v in names)).at_temperature(temperature)
    grid = sde.Grid(*((-2.0,) * dim, (2.0,) * dim, (cells,) * dim) if dim > 1 else (-2.0, 2.0, cells))
    mean, width, rate = np.array([-1.0, 0.3][:dim]), 0.3, 1 / tau + stiffness
    after = (width / tau + np.sqrt((width / tau) ** 2 + 4 * rate * temperature)) / (2 * rate)
    moved = mean / (1 + stiffness * tau)
    distance = np.sqrt(((mean - moved) ** 2).sum() + dim * (after - width) ** 2)
    return process, grid, normal(grid, mean, width), normal(grid, moved, after), distance


def curved(diffusion):
    """A bowl at T in detailed balance with D(x)."""
    box = ((-BOX, BOX),) * 2
    return sde.Landscape.manufactured(["x", "y"], BOWL, diffusion, 0, domain=box).at_temperature(T)


def turning():
    """D = R diag(1, 0.3) Rᵀ with R a rotation by x + y."""
    x, y = sp.symbols("x y", real=True)
    cosine, sine = sp.cos(x + y), sp.sin(x + y)
    turn = sp.Matrix([[cosine, -sine], [sine, cosine]])
    return (turn * sp.diag(1, sp.Rational(3, 10)) * turn.T).tolist()


# the kernel ---------------------------------------------------------------------------------------------------


def test_the_kernel_is_the_exponential_of_the_generator_of_pure_diffusion():
    process, grid = curved(turning()), sde.Grid((-BOX,) * 2, (BOX,) * 2, (12, 12))
    kernel = HeatKernel(process, grid)
    x, y = grid.centers().reshape(-1, 2).T
    rates = np.zeros((144, 144))
    edges = kernel._edges
    np.add.at(rates, (edges.head, edges.tail), edges.conductance)
    np.add.at(rates, (edges.tail, edges.head), edges.conductance)
    dense = la.expm(0.1 * (rates - np.diag(rates.sum(axis=0))))
    v = np.random.default_rng(1).normal(size=144) * 3
    assert np.abs(kernel.log(v, 0.1) - np.log(dense @ np.exp(v))).max() < 1e-13
    assert np.abs(kernel.log(np.full(144, 5.0), 0.1) - 5.0).max() < 1e-13
    # the conductances are those of D: Σ over edges of c δδᵀ is D in the cells away from walls
    delta = edges.offset * grid.spacing
    sums = np.stack(
        [edges.gather(edges.conductance * a * b, edges.conductance * a * b) for a in delta.T for b in delta.T]
    )
    inside = (np.abs(np.stack([x, y])) < 1.5).all(axis=0)
    found = 0.5 * sums.T.reshape(-1, 2, 2)[inside]
    assert np.abs(found - process.diffusion(np.stack([x, y], axis=-1)[inside])).max() < 0.25  # mean over both ends


def test_values_thousands_of_nats_apart_keep_their_digits():
    """K_s of e^v by halves of the time agrees with the whole, over 3600 nats; plain numbers have lost them."""
    process, grid = curved(turning()), sde.Grid((-BOX,) * 2, (BOX,) * 2, (12, 12))
    kernel = HeatKernel(process, grid)
    v = -3600.0 * np.linspace(0, 1, 144) ** 2
    whole = kernel.log(v, 0.1)
    assert np.abs(whole - kernel.log(kernel.log(v, 0.05), 0.05)).max() < 1e-12
    assert whole.min() > -60.0 and (np.exp(v) == 0.0).any()


@pytest.mark.parametrize("slope", [0.5, 1.9, 3.0])
def test_an_exponential_of_any_steepness_is_an_eigenfunction_between_the_walls(slope):
    """K_s e^{−vx} = e^{2s(cosh vh − 1)/h²} e^{−vx} on equal cells with D = 1: here over 250 to 1500 nats."""
    process, grid = linear(1, 500, 0.05)[:2]
    v, s = -slope * np.arange(500.0), 2e-5
    found = HeatKernel(process, grid).log(v, s) - v
    exact = 2 * s * (np.cosh(slope) - 1) / grid.spacing[0] ** 2
    assert np.abs(found / exact - 1)[100:-100].max() < 1e-12


def test_the_logarithm_of_the_kernel_tends_to_the_distance_in_the_metric():
    """−4s log K_s → (∫dx/√D)² (Varadhan), at order s, and not to that of another D."""
    process = sde.Process(["x"], [["1 + x**2/2"]], 1.0, variables=["x"], domain=((-2, 2),))
    grid = sde.Grid(-2.0, 2.0, 600)
    kernel, x = HeatKernel(process, grid), grid.axes[0]
    start, end = 180, 420
    length = np.sqrt(2) * np.diff(np.arcsinh(x[[start, end]] / np.sqrt(2)))[0]
    point = np.full(600, -4e3)
    point[start] = -np.log(grid.cell_volume)
    gaps = []
    for s in (0.16, 0.08, 0.04):
        prefactor = -0.5 * np.log(4 * np.pi * s)
        gaps.append(-4 * s * (kernel.log(point, s)[end] - prefactor) / length**2 - 1)
    ratios = np.array(gaps[:-1]) / gaps[1:]
    assert abs(gaps[-1]) < 0.02 and (np.abs(ratios - 2) < 0.5).all(), gaps
    assert abs((x[end] - x[start]) ** 2 / length**2 - 1) > 0.1  # D = 1


# a step against closed forms ------------------------------------------------------------------------------------


def test_a_gaussian_step_is_the_closed_form_at_order_two_in_the_spacing():
    errors = []
    for cells in (32, 64):
        process, grid, before, after, distance = linear(2, cells, 0.05)
        found = JKO(process, grid, method="entropic").step(np.exp(before), 0.05)
        errors.append(l1(grid, found, np.exp(after)))
        assert abs(float(found.sum()) * grid.cell_volume - 1) < 1e-12 and (found.values > 0).all()
        assert found.attrs["wasserstein"] == pytest.approx(distance, rel=0.3 / cells)
        assert errors[-1] < 3 * found.attrs["regularisation_error"]
    assert errors[1] < 1.7e-3 and errors[0] / errors[1] > 3.4, errors


def test_both_errors_have_their_orders_in_the_regularisation_and_extrapolation_takes_them_off():
    """In one variable: ε² where cells are fine, ε⁻² where ε is small; without the divergence it would be ε."""
    process, grid, before, after, _ = linear(1, 400, 0.05)
    road = Entropic(process, grid, (grid.centers()[..., 0]) ** 2, tolerance=1e-10, regularisation=0.2)
    exact = np.exp(after)

    def error(epsilon):
        return l1(grid, np.exp(road._solve(before, 0.05, epsilon, None).log_density), exact)

    wide = [error(epsilon) for epsilon in (1.6, 0.8)]
    assert 3.7 < wide[0] / wide[1] < 4.5, wide
    process, coarse, before, after, _ = linear(1, 100, 0.05)
    road = Entropic(process, coarse, (coarse.centers()[..., 0]) ** 2, tolerance=1e-10, regularisation=0.2)
    narrow = [l1(coarse, np.exp(road._solve(before, 0.05, e, None).log_density), np.exp(after)) for e in (0.06, 0.12)]
    assert 3.0 < narrow[0] / narrow[1] < 5.0, narrow
    alone = l1(coarse, np.exp(road._solve(before, 0.05, 0.2, None).log_density), np.exp(after))
    found, record = road.advance(before, 0.05)
    assert l1(coarse, np.exp(found), np.exp(after)) < 0.5 * alone
    assert 0.5 * alone < record.more["regularisation_error"] < 4 * alone


def test_the_gibbs_density_stays():
    process, grid = curved(turning()), sde.Grid((-BOX,) * 2, (BOX,) * 2, (32, 32))
    steady = np.exp(-process.potential(grid.centers()) / T)
    steady /= steady.sum() * grid.cell_volume
    found = JKO(process, grid, method="entropic", tolerance=1e-10).step(steady, 0.3)
    assert l1(grid, found, steady) < 1e-9 and found.attrs["wasserstein"] < 1e-7


# against the other methods ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("diffusion", [[[1, 0], [0, 1]], [[1, 0.5], [0.5, 0.6]], turning()], ids=["I", "full", "D(x)"])
def test_in_two_variables_it_agrees_with_the_monge_ampere_equation(diffusion):
    gaps, process = [], curved(diffusion)
    for cells in (24, 48):
        grid = sde.Grid((-BOX,) * 2, (BOX,) * 2, (cells, cells))
        before = np.exp(normal(grid, (-0.5, 0.4), 0.4))
        one, other = (JKO(process, grid, method=m).step(before, 0.05) for m in ("entropic", "monge_ampere"))
        gaps.append(l1(grid, one, other))
        assert one.attrs["wasserstein"] == pytest.approx(other.attrs["wasserstein"], rel=0.01)
    assert gaps[1] < 2e-3 and gaps[0] / gaps[1] > 3.5, gaps
    # the kernel of another D
    wrong = Entropic(curved([[0.5, 0], [0, 1]]), grid, process.potential(grid.centers()), tolerance=1e-8)
    assert l1(grid, np.exp(wrong.advance(np.log(before), 0.05)[0]), other) > 10 * gaps[1]


def test_in_one_variable_it_agrees_with_the_quantile_function_where_diffusion_varies():
    d = "1 + x**2/2"
    process = sde.Process([f"-({d})*(x**3 - x) + {T}*x"], [[d]], T, variables=["x"], domain=((-BOX, BOX),))
    gaps = []
    for cells in (50, 100):
        grid = sde.Grid(-BOX, BOX, cells)
        before = np.exp(normal(grid, -0.6, 0.4))
        one = JKO(process, grid, method="entropic").step(before, 0.05)
        other = JKO(process, grid, method="quantile", nodes=4000).step(before, 0.05)
        gaps.append(l1(grid, one, other))
        assert one.attrs["wasserstein"] == pytest.approx(other.attrs["wasserstein"], rel=3e-3)
    assert gaps[1] < 1e-3 and gaps[0] / gaps[1] > 3, gaps


# what the Monge–Ampère equation does not take ----------------------------------------------------------------------


STARTS = {
    "box": lambda x, y: (abs(x + 0.5) < 0.8) & (abs(y - 0.3) < 0.6),
    "half-plane": lambda x, y: (x + y < 0.2) * np.exp(-(x**2) - y**2),
    "point": lambda x, y: (abs(x - 0.5) < 0.15) & (abs(y - 0.5) < 0.15),
    "tent": lambda x, y: np.maximum(1 - abs(x) - abs(y), 0),
}


@pytest.mark.parametrize("name", STARTS)
def test_starts_that_jump_or_end(name):
    """Against Fokker–Planck, at order 1 in τ; a point does not stay one. The other method refuses them and says so."""
    process = sde.Landscape(("x", "y"), "(x**2 - 1)**2/4 + y**2/2 + x*y/4").at_temperature(T)
    grid = sde.Grid((-3, -3), (3, 3), (20, 20))
    start = STARTS[name](*np.moveaxis(grid.centers(), -1, 0)) * 1.0
    start /= start.sum() * grid.cell_volume
    exact = sde.FokkerPlanck(process, grid).evolve(start, [0.2], tolerance=1e-4).values[0]
    flows = [JKO(process, grid, method="entropic").flow(start, 0.2 / n, n) for n in (2, 4)]
    errors = [l1(grid, flow.values[-1], exact) for flow in flows]
    assert errors[1] < 0.09 and 0.6 < np.log2(errors[0] / errors[1]) < 1.3, errors
    assert name != "point" or flows[0][1].max() < 0.5 * start.max()
    assert all((np.diff(flow.energy) < 0).all() for flow in flows)
    if name == "box":
        with pytest.raises(NotConverged, match=r"the start jumps.* method='entropic', which takes the first two"):
            JKO(process, grid, method="monge_ampere").step(start, 0.05)


def test_mass_that_leaps_a_barrier():
    """45 T between two wells at walls: e^45 away in time, and a step that is long enough still goes to e^{−Φ/T}.

    F falls throughout; the extrapolation alone would raise it as the first mass leaps.
    """
    process = sde.landscapes.get("saddle").at_temperature(0.1)
    grid = sde.Grid((-3, -1.5), (3, 1.5), (32, 10))
    gibbs = np.exp(-process.potential(grid.centers()) / 0.1)
    start = gibbs * np.where(grid.centers()[..., 0] > 0, 3.0, 1.0)
    gibbs, start = (v / (v.sum() * grid.cell_volume) for v in (gibbs, start))
    jko = JKO(process, grid, method="entropic")
    leap = jko.step(start, 40.0)
    assert leap.attrs["energy"] <= jko.energy(start) + 1e-12 and leap.attrs["extrapolated"] == 0.0
    flow = jko.flow(start, 400.0, 3)
    assert (np.diff(flow.energy) < 0).all() and l1(grid, flow[-1], gibbs) < 2e-3 < 0.4 < l1(grid, leap, gibbs)


# rings ------------------------------------------------------------------------------------------------------------


def test_on_a_ring_the_flow_tends_to_the_fokker_planck_equation_at_order_one_in_the_step():
    process = sde.landscapes.get("ring", force=0.0).at_temperature(0.5)
    grid = sde.Grid(process.domain.lower[0], process.domain.upper[0], 96, boundary="periodic")
    before = np.exp(2 * np.cos(grid.axes[0] - grid.lower[0] - 2.5))
    before /= before.sum() * grid.cell_volume
    exact = sde.FokkerPlanck(process, grid).evolve(before, [0.4], scheme="exact").values[-1]
    jko, errors = JKO(process, grid), []
    for steps in (4, 8, 16):
        path = jko.flow(before, 0.4 / steps, steps)
        errors.append(l1(grid, path[-1], exact))
        assert (np.diff(path.energy) < 0).all() and np.abs(path.sum("theta") * grid.cell_volume - 1).max() < 1e-12
    ratios = np.array(errors[:-1]) / errors[1:]
    assert errors[-1] < 0.01 and (ratios > 1.8).all() and (ratios < 2.2).all(), errors
    # it goes round: mass put on one side of the seam is the mirror of mass put on the other
    road = Entropic(process, grid, process.potential(grid.centers()), tolerance=1e-10)
    at_seam = np.log(before)[(np.arange(96) + 37) % 96]
    assert np.abs(road.advance(at_seam, 0.05)[0][::-1] - road.advance(at_seam[::-1], 0.05)[0]).max() < 1e-6


def test_on_a_cylinder_a_density_of_one_variable_moves_as_on_the_ring():
    plane = sde.Landscape(["a", "z"], "-cos(a) + z**2", domain=((0, 2 * np.pi, "periodic"), (-1.5, 1.5)))
    ring = sde.Landscape(["a"], "-cos(a)", domain=((0, 2 * np.pi, "periodic"),))
    grid = sde.Grid((0, -1.5), (2 * np.pi, 1.5), (48, 24), boundary=("periodic", "reflecting"))
    circle = sde.Grid(0.0, 2 * np.pi, 48, boundary="periodic")
    around = np.exp(np.cos(circle.axes[0] - 2.0))
    across = np.exp(-(grid.axes[1] ** 2) / 0.5)
    before = np.outer(around / (around.sum() * circle.cell_volume), across / (across.sum() * grid.spacing[1]))
    two = JKO(plane.at_temperature(0.5), grid, regularisation=0.4, tolerance=1e-9).step(before, 0.1)
    start = around / (around.sum() * circle.cell_volume)
    one = JKO(ring.at_temperature(0.5), circle, regularisation=0.4, tolerance=1e-9).step(start, 0.1)
    assert np.abs(two.sum("z") * grid.spacing[1] - one.values).max() < 1e-7
    assert l1(circle, one, start) > 0.01


# what is recorded and refused ---------------------------------------------------------------------------------------


def test_settings_say_what_is_shared():
    process, grid, before, _, _ = linear(1, 64, 0.05)
    found = JKO(process, grid, method="entropic", regularisation=0.25).step(np.exp(before), 0.05)
    assert "diffusion operator of FokkerPlanck" in found.attrs["shares"]
    assert found.attrs["regularisation"] == 0.25 and found.attrs["residual"] <= 1e-8


def test_what_cannot_be_done_is_refused(monkeypatch):
    process, grid, before, _, _ = linear(1, 64, 0.05)
    start = np.exp(before)
    with pytest.raises(ValueError, match=r"regularisation of 0\.001; make it 0\.0"):
        JKO(process, grid, method="entropic", regularisation=0.001).step(start, 0.05)
    with pytest.raises(ValueError, match="regularisation must be"):
        JKO(process, grid, method="entropic", regularisation=-1.0)
    with pytest.raises(ValueError, match="take fewer cells, or a smaller tau"):
        JKO(process, grid, method="entropic").step(start, 1e9)
    monkeypatch.setattr(_entropic, "_ITERATIONS", 2)
    with pytest.raises(NotConverged, match=r"residual of .* after 3 iterations"):
        JKO(process, grid, method="entropic").step(start, 0.05)


# long measurements ------------------------------------------------------------------------------------------------


@pytest.mark.evidence(table="jko_entropic")
def test_errors_of_entropic_steps(table):
    rows = []
    for tau in (0.05, 0.2):
        errors = []
        for cells in (32, 64, 128):
            process, grid, before, after, distance = linear(2, cells, tau)
            found = JKO(process, grid, method="entropic").step(np.exp(before), tau)
            errors.append(l1(grid, found, np.exp(after)))
            rows.append(_row("Gaussian", tau, cells, found, errors[-1], distance))
        assert errors[-1] < 1e-3 and (np.array(errors[:-1]) / errors[1:] > 3).all(), errors
    for name, diffusion in (("D = I", [[1, 0], [0, 1]]), ("D full", [[1, 0.5], [0.5, 0.6]]), ("D(x)", turning())):
        process, gaps = curved(diffusion), []
        for cells in (32, 64, 128):
            grid = sde.Grid((-BOX,) * 2, (BOX,) * 2, (cells, cells))
            before = np.exp(normal(grid, (-0.5, 0.4), 0.4))
            found, other = (JKO(process, grid, method=m).step(before, 0.05) for m in ("entropic", "monge_ampere"))
            gaps.append(l1(grid, found, other))
            rows.append(_row(f"{name}, to Monge–Ampère", 0.05, cells, found, gaps[-1], other.attrs["wasserstein"]))
        assert gaps[-1] < 3e-4 and (np.array(gaps[:-1]) / gaps[1:] > 3.2).all(), (name, gaps)
    columns = ["step", "τ", "cells", "L1", "ratio", "regularisation error", "W", "W of the other", "iterations"]
    table(
        "Entropic steps against closed forms and the Monge–Ampère equation", columns, _with_ratios(rows),
        "Every step at three ε, extrapolated; iterations are those of all three.",
    )  # fmt: skip


def _row(name, tau, cells, found, error, distance):
    attrs = found.attrs
    return [name, tau, cells, error, attrs["regularisation_error"], attrs["wasserstein"], distance, attrs["iterations"]]


def _with_ratios(rows):
    """Texts of the rows, each L1 with its ratio to the one on half as many cells per axis."""
    texts = []
    for last, row in zip([None, *rows], rows):
        name, tau, cells, error, estimate, one, other, count = row
        ratio = f"{last[3] / error:.2f}" if last and last[2] < cells else "–"
        texts.append(
            [name, tau, f"{cells}²", f"{error:.2e}", ratio, f"{estimate:.1e}", f"{one:.5f}", f"{other:.5f}", count]
        )
    return texts
