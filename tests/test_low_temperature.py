"""Φ_T as T → 0 and the prefactor of escape, against closed forms, quadrature, the grid and each other."""

import numpy as np
import pytest
import scipy.integrate

import sde_sgd as sde
from sde_sgd.potential import escape_rate, extrapolate_potential
from sde_sgd.potential._low_temperature import _at_zero

SHEARED = sde.landscapes.get("sheared_double_well")
LEFT = np.array([-np.sqrt(3.0), -1.0])
UNSTABLE = (1 + np.sqrt(19 / 4)) / 2


def turning():
    """b = −∇V + ℓ, ℓ = g(∂_yV, −∂_xV), g = ½ + x/4 + y: V is the quasi-potential, and div ℓ ≠ 0 makes a prefactor."""
    return sde.Landscape(
        ("x", "y"), "(x**2 - 1)**2/4 + y**2", circulation=["(1/2 + x/4 + y)*2*y", "-(1/2 + x/4 + y)*x*(x**2 - 1)"],
        name="turning",
    )  # fmt: skip


def correction_by_integration():
    """∫div ℓ dt along ẋ = ∇V + ℓ from −1 to 0, followed backwards from the saddle: another method, no polygon."""

    def flow(t, state):
        x, y = state[:2]
        g, vx, vy = 0.5 + x / 4 + y, x * (x * x - 1), 2 * y
        return -np.array([vx + g * vy, vy - g * vx, vy / 4 - vx])

    slope = np.array([[-1.0, 1.0], [0.5, 2.0]])  # of ∇V + ℓ at 0
    rates, vectors = np.linalg.eig(slope)
    arrival = vectors[:, rates.argmin()]
    start = -1e-6 * arrival * np.sign(arrival[0])
    path = scipy.integrate.solve_ivp(flow, (0, 30), [*start, 0.0], rtol=1e-12, atol=1e-14)
    assert np.abs(path.y[:2, -1] - [-1.0, 0.0]).max() < 1e-6
    return -path.y[2, -1]  # time runs back, and div ℓ = ¼V_y − V_x


def at_saddle(result):
    """Read at the origin, from cells around it that are not masked."""
    near = result.sel(x=slice(-0.5, 0.5), y=slice(-0.5, 0.5))
    return near.interp(x=0.0, y=0.0, method="cubic")


# extrapolation ---------------------------------------------------------------------------------------------


def test_the_weights():
    """(8Φ_T − 6Φ_2T + Φ_4T)/3; exact for polynomials of one degree less than the temperatures."""
    t = 0.1 * np.array([1.0, 2.0, 4.0])
    assert _at_zero(t, np.array([3.0, 0.0, 0.0]), 0) == pytest.approx(8.0)
    assert _at_zero(t, np.array([0.0, 3.0, 0.0]), 0) == pytest.approx(-6.0)
    assert _at_zero(t, np.array([0.0, 0.0, 3.0]), 0) == pytest.approx(1.0)
    values = 2.0 + 3.0 * t - 5.0 * t**2
    assert _at_zero(t, values, 0) == pytest.approx(2.0) and _at_zero(t, values, 1) == pytest.approx(3.0)


def test_one_variable_is_exact_in_temperature():
    """Φ_T = ∫f'/D + T log D is linear in T: V and W with the grid's error only, of second order."""
    landscape = sde.Landscape("x", "x**2/2", diffusion=[["1 + x**2/2"]])
    errors = []
    for cells in (60, 120):
        result = extrapolate_potential(landscape.at_temperature(1.0), sde.Grid(-3, 3, cells), 0.1, attractor=0.0)
        x = result.x.values
        v, w = np.log1p(x**2 / 2), np.log1p(x**2 / 2)  # ∫x/(1 + x²/2) = log D
        errors.append((np.abs(result.potential - v).max().item(), np.abs(result.prefactor - w).max().item()))
        assert float(result.potential_error.max()) < 2 * errors[-1][0] + 1e-9
        assert (np.abs(result.potential - v) <= result.potential_grid_error + 1e-4).all()
    assert max(errors[1]) < 0.02 and (np.log2(np.array(errors[0]) / errors[1]) > 1.7).all(), errors


def test_the_barrier_of_the_driven_well():
    """¼ as the minimum action has it, W = 0, and error estimates that hold in nine cells of ten."""
    grid = sde.Grid((-3.6, -3.0), (3.6, 3.0), (96, 96))
    result = extrapolate_potential(SHEARED.at_temperature(1.0), grid, 0.04, attractor=LEFT)
    at = at_saddle(result)
    assert float(at.potential) == pytest.approx(0.25, abs=1e-3) and float(at.prefactor) == pytest.approx(0.0, abs=0.02)
    assert abs(float(at.potential) - 0.25) < float(at.potential_error + at.potential_grid_error)
    exact = SHEARED.potential(grid.centers(), 1.0)
    low = (exact < 0.3) & np.isfinite(result.potential.values)
    off = np.abs(result.potential.values - exact)[low]
    held = off <= (result.potential_error + result.potential_grid_error).values[low]
    assert held.mean() > 0.9 and np.median(off) < 3e-3
    assert result.attrs["masked"] == int(np.isnan(result.potential.values).sum()) > 0
    assert (np.isnan(result.potential.values) == (result.peclet.values > 5.0)).all()
    assert result.attrs["temperatures"] == pytest.approx([0.04, 0.08, 0.16])


def test_where_the_scheme_is_exact_nothing_is_masked():
    """With an equilibrium potential V = Φ and W = 0 to rounding at any Péclet number."""
    landscape = sde.landscapes.get("double_well")
    grid = sde.Grid((-2, -2), (2, 2), (25, 25))
    result = extrapolate_potential(landscape.at_temperature(1.0), grid, [0.001, 0.002, 0.003, 0.005], attractor=(-1, 0))
    exact = landscape.potential(grid.centers(), 1.0)
    shift = result.potential.values - exact
    assert np.ptp(shift) < 1e-10 and result.attrs["masked"] == 0 and float(result.peclet.max()) > 100
    assert np.ptp(result.prefactor.values) < 1e-7 and float(result.potential_grid_error.max()) < 0.02


def test_a_prefactor_that_is_not_flat():
    """V and W of the turning well at the saddle, by temperature, by the path of least action, and by integration."""
    process, exact = turning().at_temperature(0.05), correction_by_integration()
    grid = sde.Grid((-1.9, -1.3), (1.9, 1.3), (100, 100))
    result = extrapolate_potential(process, grid, 0.04, attractor=(-1, 0))
    at = at_saddle(result)
    rate = escape_rate(process, (-1, 0), (0, 0), points=129)
    assert float(rate.correction) == pytest.approx(exact, abs=2e-3) and exact < -0.7
    assert abs(float(rate.correction) - exact) < float(rate.correction_error)
    assert float(at.potential) == pytest.approx(0.25, abs=1e-3)
    assert float(at.prefactor) == pytest.approx(exact, abs=float(at.prefactor_error + at.prefactor_grid_error))
    assert float(at.prefactor) == pytest.approx(exact, abs=0.05)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (dict(temperatures=[0.1, 0.2]), "temperatures must be three or more different"),
        (dict(temperatures=[0.1, 0.1, 0.2]), "temperatures must be three or more different"),
        (dict(temperatures=-1.0), "temperatures must be a finite number > 0"),
        (dict(temperatures=1e-4), r"every cell has an edge with \|P\| above max_peclet = 5 .* times as wide"),
        (dict(attractor=(9.0, 0.0)), "attractor .* is outside the grid"),
        (dict(max_peclet=0), "max_peclet must be"),
        (dict(process=SHEARED), "process must be a Process"),
        (dict(process=sde.Underdamped(SHEARED, 0.1, 1.0)), "noise in its velocities only"),
    ],
)
def test_faults_of_the_extrapolation(given, words):
    grid = sde.Grid((-3.6, -3.0), (3.6, 3.0), (12, 12))
    arguments = dict(process=SHEARED.at_temperature(1.0), grid=grid, temperatures=0.5) | given
    with pytest.raises(ValueError, match=words):
        extrapolate_potential(**arguments)


# rates -----------------------------------------------------------------------------------------------------


def test_rates_in_closed_form():
    """Eyring–Kramers; Itô noise that depends on x; the driven well, λ₊ = (1 + √(19/4))/2."""
    gradient = escape_rate(sde.landscapes.get("double_well").at_temperature(0.02), (-1, 0), (0, 0))
    assert float(gradient.mean_time) == pytest.approx(2 * np.pi / np.sqrt(2) * np.exp(0.25 / 0.02), rel=1e-5)
    d = lambda x: 1 + x * x / 2 + x / 3  # noqa: E731
    multiplicative = sde.Landscape("x", "(x**2 - 1)**2/4", diffusion=[["1 + x**2/2 + x/3"]])
    rate = escape_rate(multiplicative.at_temperature(0.02), -1, 0)
    rise = scipy.integrate.quad(lambda x: (x**3 - x) / d(x) / 0.02, -1, 0, epsabs=1e-12)[0]
    exact = 2 * np.pi * np.sqrt(d(0) / (d(-1) * 2)) * np.exp(rise)
    assert float(rate.mean_time) == pytest.approx(exact, rel=1e-5)
    assert float(rate.correction) == pytest.approx(np.log(d(0) / d(-1)), abs=1e-5)
    driven = escape_rate(SHEARED.at_temperature(0.02), LEFT, (0, 0))
    assert float(driven.unstable_rate) == pytest.approx(UNSTABLE, rel=1e-12)
    assert float(driven.unstable_rate) == pytest.approx(1.58972474, abs=5e-9)
    exact = 2 * np.pi / UNSTABLE * np.sqrt(0.5) * np.exp(0.25 / 0.02)
    assert abs(np.log(float(driven.mean_time) / exact)) < float(driven.log_rate_error) < 2e-3
    cold = escape_rate(SHEARED.at_temperature(1e-4), LEFT, (0, 0))
    assert float(cold.rate) == 0.0 and np.isinf(float(cold.mean_time)) and float(cold.log_rate) < -2490


@pytest.mark.parametrize("resonant", [False, True])
def test_a_stationary_prefactor_of_one(resonant):
    """Any Φ, D(x), Q(x) with T div(D + Q) in the drift: e^{−Φ/T} is stationary, so W = 0.

    Where λ₋ = −λ₊ at the saddle, V'' there is not determined by the Lyapunov equation but by the path's direction too.
    """
    model = sde.Landscape.manufactured(
        ("x", "y"), f"(x**2 - 1)**2/4 + {'1' if resonant else '3'}*y**2/2 + x*y**2/4 + x**2*y**2/5 + y/10*(x + 1)**2*x",
        [["1 + x**2/4", "y/4"], ["y/4", "1 + (x + y)**2/5"]], f"{1 if resonant else 0.3}*(1 + x*y/2 + sin(x)/2)",
    )  # fmt: skip
    errors, process = [], model.at_temperature(0.02)
    hessians = [model.hessian(np.array(x)) for x in ((-1.0, 0.0), (0.0, 0.0))]
    exact = np.linalg.det(hessians[0]) / -np.linalg.det(hessians[1])
    for points in (65, 129):
        rate = escape_rate(process, (-1, 0), (0, 0), points=points)
        errors.append(abs(float(rate.correction)) + 0.5 * abs(np.log(float(rate.determinant_ratio) / exact)))
        assert errors[-1] < float(rate.correction_error) and np.abs(rate.prefactor).max() < 0.01
        assert float(rate.barrier) == pytest.approx(0.25, abs=float(rate.barrier_error))
    assert errors[1] < 1e-3 and np.log2(errors[0] / errors[1]) > (1.3 if resonant else 0.5), errors


def test_no_prefactor_where_the_potential_is_not_smooth():
    """Maier–Stein at a saddle that contracts at ½ and expands at 1: the path comes in along the separatrix."""
    drift = ["x - x**3 - 10*x*y**2", "-rate*(1 + x**2)*y"]
    process = sde.Process(drift, [[1, 0], [0, 1]], 0.02, variables=("x", "y"), parameters={"rate": 0.5})
    with pytest.raises(ValueError, match="comes to the saddle at an angle of 8"):
        escape_rate(process, (-1, 0), (0, 0))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (dict(a=(0.0, 0.0), saddle=(1.7, 1.0)), "a = .* must be stable"),
        (dict(saddle=(1.73, 1.0)), "saddle = .* must be unstable in exactly one direction"),
        (dict(a=(-1.0, -1.0)), "a = .* is not near a fixed point"),
        (dict(points=33), "points must be a whole number >= 65"),
        (dict(process=sde.Landscape(("x", "y"), "(x**2 - 1)**2/4 + y**2/2", circulation=["sin(T)*x*(x + 1)", "0"])
              .at_temperature(0.5), a=(-1, 0)), "not linear in T"),
    ],
)  # fmt: skip
def test_faults_of_the_rate(given, words):
    with pytest.raises(ValueError, match=words):
        escape_rate(**(dict(process=SHEARED.at_temperature(0.1), a=LEFT, saddle=(0, 0)) | given))


@pytest.mark.evidence(table="escape_prefactor")
def test_escape_on_the_grid_approaches_the_law(table):
    """The ratio of mean_exit_time to the law tends to 1 linearly in T; without e^{W} it tends to something else."""
    process, rows, ratios, temperatures = turning(), [], [], np.array([0.05, 0.035, 0.025])
    for temperature in temperatures.tolist():
        law = escape_rate(process.at_temperature(temperature), (-1, 0), (0, 0), points=257)
        times = []
        for cells in (150, 300):
            fp = sde.FokkerPlanck(
                process.at_temperature(temperature), sde.Grid((-1.9, -1.3), (1.9, 1.3), (cells, cells))
            )
            times.append(float(fp.mean_exit_time("(x - 1)**2 + y**2 > 0.1").interp(x=-1.0, y=0.0)))
        time = times[1] + (times[1] - times[0]) / 3
        ratios.append(time * float(law.rate))
        bare = ratios[-1] * np.exp(float(law.correction))
        rows.append((temperature, f"{time:.6g}", f"{float(law.mean_time):.6g}", f"{ratios[-1]:.4f}", f"{bare:.4f}"))
    limit = float(_at_zero(temperatures[::-1], np.array(ratios[::-1]), 0))
    bare = limit * np.exp(float(law.correction))
    rows.append(("→ 0", "", "", f"{limit:.4f}", f"{bare:.4f}"))
    table(
        "Escape from a turning well: grid over law", ("T", "grid", "law", "ratio", "ratio without W"), rows,
        "b = −∇V + ℓ, V = (x² − 1)²/4 + y², ℓ = (½ + x/4 + y)(V_y, −V_x). Grids of 150² and 300², extrapolated; the "
        "last row is the polynomial in T through the others.",
    )  # fmt: skip
    gaps = np.array(ratios) - 1
    assert limit == pytest.approx(1.0, abs=0.01) and bare < 0.6
    assert (gaps / temperatures > 2).all() and np.ptp(gaps / temperatures) < 1  # linear in T
