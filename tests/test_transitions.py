"""Exit times, committors, quasi-stationary laws and transitions against integrals, closed forms and each other."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.interpolate import CubicSpline

from sde_sgd.fokker_planck import FokkerPlanck
from sde_sgd.fokker_planck._cut_edges import residual
from sde_sgd.fokker_planck._elimination import Elimination
from sde_sgd.grid import Grid
from sde_sgd.landscapes import Landscape
from sde_sgd.process import Process

MFPT = {0.2: 19.0939, 0.1: 66.2686, 0.05: 729.6707}  # (x² − 1)²/4, −1 → +1
WELL = Landscape(("x",), "(x**2 - 1)**2/4")


def double_well(temperature, cells, boundary="reflecting"):
    return FokkerPlanck(WELL.at_temperature(temperature), Grid(-3, 3, cells, boundary=boundary))


def at(field, x):
    """A field on a line at x, by a cubic through the cells where it has a value."""
    axis, values = field[field.dims[0]].values, field.values
    held = np.isfinite(values)
    return float(CubicSpline(axis[held], values[held])(x))


def orders(errors):
    errors = np.abs(np.array(errors))
    return np.log2(errors[:-1] / errors[1:])


# mean exit times -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", MFPT)
def test_first_passage_of_the_double_well(temperature):
    exact, errors = MFPT[temperature], []
    for cells in (200, 400, 800):
        time = double_well(temperature, cells).mean_exit_time("x < 1")
        assert time.attrs["residual"] < 1e-12 and np.isnan(time.values[time.x.values > 1]).all()
        errors.append(at(time, -1.0) / exact - 1)
    assert abs(errors[-1]) < 1e-4 and (abs(orders(errors[:2]) - 2) < 0.15).all()


def test_multiplicative_noise_against_the_integral():
    """T τ' = −∫ρ/(Dρ): D = 1 + x²/2, exits on both sides at places between cells."""
    temperature, low, high = 0.4, -0.813, 1.27

    def weight(x):  # e^{−ψ/T}, ψ' = −b/D with b = −x
        return (1 + x * x / 2) ** (-1 / temperature)

    process = Process(["-x"], [["1 + x**2/2"]], temperature, variables=("x",))

    def scale(x):
        return 1 / weight(x)

    def speed(x):
        return weight(x) / (temperature * (1 + x * x / 2))

    total = quad(scale, low, high)[0]
    start = 0.2
    inner = quad(lambda y: speed(y) * quad(scale, low, y)[0], low, start)[0] * quad(scale, start, high)[0]
    outer = quad(lambda y: speed(y) * quad(scale, y, high)[0], start, high)[0] * quad(scale, low, start)[0]
    exact = (inner + outer) / total
    errors = []
    for cells in (50, 100, 200, 400):
        fp = FokkerPlanck(process, Grid(-3, 3, cells))
        errors.append(at(fp.mean_exit_time(f"{low} < x < {high}"), start) / exact - 1)
    assert abs(errors[-1]) < 5e-5 and np.log2(abs(errors[0] / errors[-1])) / 3 == pytest.approx(2, abs=0.1), errors


FULL = np.array([[1.0, 0.6], [0.6, 0.8]])


@pytest.mark.parametrize("matrix", [np.eye(2), FULL], ids=["disc", "ellipse, full D"])
@pytest.mark.parametrize("form", ["text", "function"])
def test_brownian_motion_in_an_ellipse(matrix, form):
    """xᵀD⁻¹x < R² is left after (R² − xᵀD⁻¹x)/(2dT)."""
    temperature, radius = 0.5, 1.3
    a, b, c = np.linalg.inv(matrix)[[0, 0, 1], [0, 1, 1]]
    process = Process(["0", "0"], [[str(v) for v in row] for row in matrix], temperature, variables=("x", "y"))

    def inside(x):
        return a * x[..., 0] ** 2 + 2 * b * x[..., 0] * x[..., 1] + c * x[..., 1] ** 2 < radius**2

    region = inside if form == "function" else f"{a}*x**2 + {2 * b}*x*y + {c}*y**2 < {radius**2}"
    errors = []
    for cells in (40, 80, 160):
        fp = FokkerPlanck(process, Grid((-2, -2), (2, 2), (cells, cells)))
        x, y = np.moveaxis(fp.grid.centers(), -1, 0)
        exact = (radius**2 - (a * x * x + 2 * b * x * y + c * y * y)) / (4 * temperature)
        time = fp.mean_exit_time(region).values
        np.testing.assert_array_equal(np.isnan(time), exact <= 0)
        errors.append(np.nanmax(np.abs(time - exact)))
    assert errors[-1] < 3e-4 and np.log2(errors[0] / errors[-1]) / 2 > 1.75, errors


def test_a_mask_ends_at_the_faces_of_its_cells_like_an_absorbing_wall():
    process = Process(["0", "0"], [["1", "3/10"], ["3/10", "7/10"]], 0.5, variables=("x", "y"))
    large = FokkerPlanck(process, Grid((-2, -2), (2, 2), (40, 40)))
    small = FokkerPlanck(process, Grid((-1, -1), (1, 1), (20, 20), boundary="absorbing"))
    inside = (abs(large.added_diffusion.x) < 1) & (abs(large.added_diffusion.y) < 1)
    everywhere = small.mean_exit_time(lambda x: np.ones(x.shape[:-1], bool))
    np.testing.assert_allclose(large.mean_exit_time(inside).values[10:30, 10:30], everywhere.values, rtol=1e-9)
    assert everywhere.attrs["residual"] < 1e-12


def test_a_region_across_the_seam_of_a_periodic_axis():
    """Brownian motion on a circle leaves an arc of half length a = 2π/3 after (a² − s²)/2T, s from its middle."""
    process = Process(["0"], [["1"]], 0.5, variables=("x",), domain={"x": (-np.pi, np.pi, "periodic")})
    fp = FokkerPlanck(process, Grid(-np.pi, np.pi, 200, boundary="periodic"))
    time = fp.mean_exit_time("cos(x) < 1/2").values
    s = np.pi - np.abs(fp.grid.axes[0])
    exact = (2 * np.pi / 3) ** 2 - s**2
    np.testing.assert_array_equal(np.isnan(time), exact <= 0)
    assert np.nanmax(np.abs(time - exact)) < 2e-3


def test_brownian_motion_in_three_dimensions():
    """xᵀD⁻¹x < R² is left after (R² − xᵀD⁻¹x)/(6T)."""
    matrix = np.array([[1.0, 0.3, 0.0], [0.3, 0.8, 0.2], [0.0, 0.2, 1.0]])
    inverse, errors = np.linalg.inv(matrix), []
    process = Process(["0"] * 3, matrix.astype(str).tolist(), 0.5, variables=("x", "y", "z"))

    def square(x):
        return np.einsum("...i,ij,...j", x, inverse, x)

    for cells in (10, 20):
        fp = FokkerPlanck(process, Grid((-1.7,) * 3, (1.7,) * 3, (cells,) * 3))
        exact = (1.69 - square(fp.grid.centers())) / 3
        errors.append(np.nanmax(np.abs(fp.mean_exit_time(lambda x: square(x) < 1.69).values - exact)))
    assert errors[1] < 5e-3 and np.log2(errors[0] / errors[1]) > 1.6, errors


def test_exit_times_beyond_float64():
    """ΔΦ/T = 900: log τ by Kramers' formula with its first correction; each further T costs a barrier."""
    cells, logs = 4000, []
    for temperature in (0.25 / 800, 0.25 / 900):
        fp = double_well(temperature, cells)
        time = fp.mean_exit_time("x < 0.9", log=True)
        logs.append(at(time, -1.0))
        assert logs[-1] == pytest.approx(0.25 / temperature + np.log(np.sqrt(2) * np.pi), abs=0.05)
        assert time.name == "log_mean_exit_time" and time.attrs["residual"] < 1e-11
        with pytest.raises(ValueError, match=r"beyond float64; ask for log=True"):
            fp.mean_exit_time("x < 0.9")
    assert logs[1] - logs[0] == pytest.approx(100, abs=0.01)


def test_counterexample_cells_for_boundaries_are_of_first_order():
    """Without cutting edges, the exit lies at the next cell centre."""
    errors = []
    for cells in (201, 402, 804):
        fp = double_well(0.2, cells)
        keep = fp.grid.axes[0] < 1
        time = Elimination.of(fp.edges, fp.grid.shape, keep=keep).backward(np.ones(cells))
        field = fp.added_diffusion.copy(data=np.where(keep, time, np.nan))
        errors.append(at(field, -1.0) / MFPT[0.2] - 1)
    assert max(np.abs(errors)) > 5e-4 and not (np.abs(orders(errors) - 2) < 0.3).all()


# committors ------------------------------------------------------------------------------------------------


def test_committor_of_the_double_well():
    temperature, errors = 0.1, []
    total = quad(lambda x: np.exp((x * x - 1) ** 2 / 4 / temperature), -0.83, 0.71)[0]
    exact = quad(lambda x: np.exp((x * x - 1) ** 2 / 4 / temperature), -0.83, -0.4)[0] / total
    for cells in (50, 100, 200, 400):
        fp = double_well(temperature, cells)
        q = fp.committor("x < -0.83", "x >= 0.71")
        assert not np.isnan(q.values).any() and q.attrs["residual"] < 1e-13
        np.testing.assert_array_equal(q.values[q.x.values < -0.83], 0.0)
        np.testing.assert_array_equal(q.values[q.x.values > 0.71], 1.0)
        np.testing.assert_allclose(q.values + fp.committor("x >= 0.71", "x < -0.83").values, 1.0, rtol=1e-13)
        errors.append(at(q, -0.4) - exact)
    assert abs(errors[-1]) < 2e-5 and np.log2(abs(errors[0] / errors[-1])) / 3 == pytest.approx(2, abs=0.1), errors


def test_committor_between_two_circles():
    """log(r/r₁)/log(r₂/r₁) for Brownian motion, whatever T; D turned and stretched is the same in other coordinates."""
    a, b, c = np.linalg.inv(FULL)[[0, 0, 1], [0, 1, 1]]
    square = f"{a}*x**2 + {2 * b}*x*y + {c}*y**2"
    process = Process(["0", "0"], [[str(v) for v in row] for row in FULL], 0.3, variables=("x", "y"))
    errors = []
    for cells in (40, 80, 160):
        fp = FokkerPlanck(process, Grid((-2, -2), (2, 2), (cells, cells)))
        x, y = np.moveaxis(fp.grid.centers(), -1, 0)
        radius = np.sqrt(a * x * x + 2 * b * x * y + c * y * y)
        exact = np.clip(np.log(radius / 0.6) / np.log(1.5 / 0.6), 0, 1)
        errors.append(np.abs(fp.committor(f"{square} < 0.36", f"{square} > 2.25").values - exact).max())
    assert errors[-1] < 2e-3 and np.log2(errors[0] / errors[-1]) / 2 > 1.7, errors


def test_committor_is_right_relative_to_itself():
    """ΔΦ/T = 250: next to a, q = ∫_a^x e^{Φ/T} / ∫_a^b e^{Φ/T} is e^−250 and has all its digits."""
    temperature, start, errors = 1e-3, -0.99, []

    def ratio(x):
        return np.exp(((x * x - 1) ** 2 / 4 - 0.25) / temperature)

    below = quad(lambda x: np.exp((x * x - 1) ** 2 / 4 / temperature), -1, start, epsrel=1e-12)[0]
    total = quad(ratio, -1, 1, points=[0], epsrel=1e-12)[0]
    expected = np.log(below) - 250 - np.log(total)
    assert expected < -250
    for cells in (3000, 6000, 12000):
        q = double_well(temperature, cells).committor("x < -1", "x > 1")
        logs = np.log(q.where((q.x > -0.999) & (q.x < 0.9)))
        errors.append(at(logs, start) - expected)
    assert abs(errors[-1]) < 1e-4 and (np.abs(orders(errors) - 2) < 0.2).all(), errors


def test_a_committor_that_is_0_has_a_residual_too():
    """Left of a the process never comes to b, and between a and b all is as with a up to the wall."""
    fp = double_well(0.1, 100)
    q = fp.committor("-1.2 < x < -0.8", "0.8 < x < 1.2")
    assert q.attrs["residual"] < 1e-13
    np.testing.assert_array_equal(q.values[q.x.values < -0.8], 0.0)
    np.testing.assert_allclose(q.values, fp.committor("x < -0.8", "x > 0.8").values, rtol=1e-12)


def test_counterexample_the_residual_sees_a_value_that_is_wrong():
    fp, nothing = double_well(0.1, 100), np.full(100, -np.inf)
    everywhere, leak = np.ones(100, bool), np.where(np.arange(100) == 60, 0.0, -np.inf)
    log_u = Elimination.of(fp.edges, fp.grid.shape, leak=np.exp(leak)).log_backward(leak)
    assert residual(fp, everywhere, leak, log_u, leak) < 1e-13
    for wrong in (-np.inf, log_u[30] + 0.1):
        changed = log_u.copy()
        changed[30] = wrong
        assert residual(fp, everywhere, leak, changed, leak) > 0.01
    assert residual(fp, everywhere, nothing, nothing, nothing) == 0.0


# targets thinner than an edge -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stretched():
    """Edges of up to three cells: D has eigenvalues 1 and 1/100, at an angle of 0.3."""
    turn = np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])
    diffusion = turn @ np.diag([1.0, 0.01]) @ turn.T
    process = Process(["-x", "-y"], diffusion.tolist(), 0.5, variables=("x", "y"))
    fp = FokkerPlanck(process, Grid((-2, -2), (2, 2), (40, 40)))
    assert fp.attrs["longest_offset"] == 3
    return fp


def test_no_edge_leads_over_a_target(stretched):
    """What starts left of a strip meets it or all that lies behind at the same time, in the same place."""
    strip, behind = "0.02 <= x < 0.09", "x >= 0.02"
    a, b = (stretched.mean_exit_time(f"not ({region})") for region in (strip, behind))
    left = np.isfinite(b.values)
    np.testing.assert_allclose(a.values[left], b.values[left], rtol=1e-12)
    assert a.attrs["residual"] < 1e-12
    with pytest.raises(ValueError, match="falls into 2 parts"):
        stretched.quasi_stationary(f"not ({strip})")
    q, p = (stretched.committor("x < -1", b) for b in (strip, behind))
    np.testing.assert_allclose(q.values[left], p.values[left], rtol=1e-12)
    assert q.attrs["residual"] < 1e-12


def test_an_edge_that_meets_both_ends_at_the_nearer_one(stretched):
    """Behind a strip of a, b is out of reach."""
    q = stretched.committor("-0.09 <= x < -0.01", "0.01 <= x < 0.09")
    assert not q.values[(q.x < 0.0).values].any() and (q.values[(q.x > 0.0).values] == pytest.approx(1, rel=1e-12))


def test_transitions_to_a_strip_are_those_to_all_behind_it(stretched):
    thin, thick = (stretched.transitions("x < -0.8", b) for b in ("0.02 <= x < 0.09", "x >= 0.02"))
    for name in ("flux", "rate_ab", "rate_ba", "probability_b", "transition_time"):
        assert float(thin[name]) == pytest.approx(float(thick[name]), rel=1e-10)
    assert thin.attrs["flux_error"] < 1e-11 and thin.attrs["current_error"] < 1e-9
    left = (thin.x < 0.02).values
    np.testing.assert_allclose(thin.reactive_current.values[left], thick.reactive_current.values[left], atol=1e-9)


# quasi-stationary laws -------------------------------------------------------------------------------------


def test_brownian_motion_between_two_exits():
    """ρ ∝ cos(πx/2), μ = Tπ²/4 on (−1, 1); E τ under ρ is 1/μ."""
    process = Process(["0"], [["1"]], 0.7, variables=("x",))
    errors = []
    for cells in (31, 62, 124):
        fp = FokkerPlanck(process, Grid(-1.3, 1.3, cells))
        law = fp.quasi_stationary("-1 < x < 1")
        errors.append(float(law.rate) / (0.7 * np.pi**2 / 4) - 1)
        assert law.attrs["rate_error"] < 1e-10
        assert float((law.density * law.memory).sum() * fp.grid.cell_volume) == pytest.approx(1, rel=1e-10)
        x = law.x.values
        cosine = np.where(np.abs(x) < 1, np.pi / 4 * np.cos(np.pi * x / 2), 0.0)
        assert np.abs(law.density.values - cosine).max() < 2 / cells
    assert abs(errors[-1]) < 1e-3 and np.log2(abs(errors[0] / errors[-1])) / 2 > 1.7, errors


def test_rate_of_leaving_a_deep_well():
    """The rate is 1/τ where the well is deep, at e^−200 too, and the law inside is that of the steady state."""
    for temperature in (0.05, 0.25 / 200):
        fp = double_well(temperature, 2000)
        law = fp.quasi_stationary("x < 0.5")
        assert float(law.memory.sel(x=-1, method="nearest")) == pytest.approx(
            1, abs=1e-2 if temperature > 0.01 else 1e-12
        )
        inside = (law.x < -0.6).values
        gap = (law.log_density - fp.log_steady_state()).values[inside]
        assert np.ptp(gap) < (1e-1 if temperature > 0.01 else 1e-9) and gap.mean() == pytest.approx(np.log(2), abs=0.05)
        assert law.attrs["rate_error"] < 1e-10
    assert float(law.log_rate) == pytest.approx(-200 - np.log(np.sqrt(2) * np.pi), abs=0.02)


def test_two_wells_left_at_different_rates():
    """The well that keeps its mass longest rules: here the right one, which empties over 0 into the left one."""
    well = Landscape(("x",), "(x**2 - 1)**2/4*(4 - x**2)/3 + x/10")
    fp = FokkerPlanck(well.at_temperature(0.007), Grid(-2.2, 2.2, 600))
    both, left, right = (fp.quasi_stationary(r) for r in ("-1.5 < x < 1.5", "-1.5 < x < 0", "0 < x < 1.5"))
    assert float(both.density[both.x > 0].sum() * fp.grid.cell_volume) > 0.99
    back = at(fp.committor("x < -1", "x > 1"), 0.0)  # of those that come to 0; a few leave at 1.5, e^(−0.045/T)
    assert float(both.rate / right.rate) == pytest.approx(1 - back, abs=0.01) and 0.1 < back < 0.3
    assert float(left.log_rate) > float(right.log_rate) + 4 and both.attrs["rate_error"] < 1e-10


def test_quasi_stationary_against_a_dense_eigensolver():
    process = Landscape(("x", "y"), "x**2/2 + y**2", circulation=("-2*y", "x")).at_temperature(0.6)
    fp = FokkerPlanck(process, Grid((-2, -2), (2, 2), (18, 17), boundary=("absorbing", "reflecting")))
    law = fp.quasi_stationary(lambda x: np.ones(x.shape[:-1], bool))
    values, vectors = np.linalg.eig(-fp.matrix.toarray())
    k = int(np.argmin(values.real))
    assert float(law.rate) == pytest.approx(values[k].real, rel=1e-10)
    vector = np.abs(vectors[:, k].real)
    expected = vector / vector.sum() / fp.grid.cell_volume
    np.testing.assert_allclose(law.density.values.ravel(), expected, atol=1e-11)


# faults ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda fp: fp.mean_exit_time("x > 5"), "region: no cell of the grid .* has its centre in 'x > 5'"),
        (lambda fp: fp.mean_exit_time("x < 5"), "covers the whole grid, whose walls are not absorbing"),
        (lambda fp: fp.mean_exit_time("z < 1"), "region"),
        (lambda fp: fp.mean_exit_time(3), "region must be inequalities"),
        (lambda fp: fp.mean_exit_time("x < 1", log="yes"), "log must be True or False"),
        (lambda fp: fp.quasi_stationary("x < 5"), "covers the whole grid"),
        (lambda fp: fp.quasi_stationary("x < -0.5 or x > 0.5"), "falls into 2 parts"),
        (lambda fp: fp.committor("x < 0", "x > 9"), "b: no cell"),
        (lambda fp: fp.committor("x < -9", "x > 0"), "a: no cell"),
        (lambda fp: fp.committor("x < 0.5", "x > 0"), "a and b overlap in 5 cells"),
        (lambda fp: fp.committor("x < 0", "x >= 0"), "cover the whole grid"),
        (lambda fp: fp.transitions("x < 0", "0.05 < x < 1"), "a and b touch"),
        (lambda fp: fp.committor("x < 0", 1.0), "b must be inequalities"),
    ],
)
def test_faults_in_words(call, words):
    with pytest.raises(ValueError, match=words):
        call(double_well(0.2, 60))


def test_no_transitions_where_mass_is_lost():
    fp = double_well(0.2, 60, boundary="absorbing")
    assert 0 < float(fp.committor("x < -1", "x > 1").sel(x=0, method="nearest")) < 1
    with pytest.raises(ValueError, match="absorbing walls"):
        fp.transitions("x < -1", "x > 1")
