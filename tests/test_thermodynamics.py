"""Free energy falls as its dissipation says, and entropy production is its two parts; nothing cancels."""

import numpy as np
import pytest
import scipy.linalg as la
import xarray as xr

import sde_sgd as sde

F, D = np.array([[1.0, 2.0], [-2.0, 3.0]]), np.array([[1.0, 0.5], [0.5, 1.0]])


def linear(temperature=1.0, rates=F):
    drift = [f"-({row[0]})*x - ({row[1]})*y" for row in rates]
    return sde.Process(drift, D.tolist(), temperature, variables=("x", "y"))


def solver(process, half, cells, **options):
    d = process.dim
    return sde.FokkerPlanck(process, sde.Grid((-half,) * d, (half,) * d, (cells,) * d, **options))


def well(temperature, cells=120, tilt=0.0, half=2.2):
    return solver(sde.Landscape(("x",), f"(x**2-1)**2/4 + {tilt}*x").at_temperature(temperature), half, cells)


def turning(cells=20):
    return solver(sde.landscapes.get("example_19").at_temperature(1.0), 4.0, cells)


def gaussian(fp, mean, covariance):
    apart = fp.grid.centers() - np.asarray(mean)
    rho = np.exp(-0.5 * np.einsum("...i,ij,...j->...", apart, np.linalg.inv(np.atleast_2d(covariance)), apart))
    return fp.grid.data_array(rho / (rho.sum() * fp.grid.cell_volume), fp.process.variables, "density")


def probabilities(fp, rho):
    log_pi = fp.log_steady_state().values.ravel() + np.log(fp.grid.cell_volume)
    return np.asarray(rho).ravel() * fp.grid.cell_volume, log_pi


def later(fp, rho, time):
    return (la.expm(fp.matrix.toarray() * time) @ np.asarray(rho).ravel()).reshape(fp.grid.shape)


def random_density(fp, seed):
    rng = np.random.default_rng(seed)
    rho = np.exp(3.0 * rng.normal(size=fp.grid.shape))
    return rho / (rho.sum() * fp.grid.cell_volume)


@pytest.mark.parametrize("fp", [turning(), well(0.3), solver(linear(), 6.0, 16)], ids=["turning", "well", "linear"])
def test_dissipation_is_what_the_generator_says(fp):
    """−T Σ (Lp) log(p/π), and the same by edges, are the sum of terms ≥ 0 that is returned."""
    temperature = fp.process.temperature
    for seed in range(3):
        rho = random_density(fp, seed)
        p, log_pi = probabilities(fp, rho)
        found, log_r = fp.free_energy(rho), np.log(p) - log_pi
        assert float(found["free_energy"]) == pytest.approx(temperature * p @ log_r, rel=1e-11)
        assert float(found["dissipation"]) == pytest.approx(-temperature * (fp.matrix @ p) @ log_r, rel=1e-10)
        flux = fp.edge_current(rho).values * fp.grid.cell_volume
        by_edges = temperature * flux @ (log_r[fp.edges.tail] - log_r[fp.edges.head])
        assert float(found["dissipation"]) == pytest.approx(by_edges, rel=1e-10)
        energy, entropy = float(found["energy"]), float(found["entropy"])
        assert energy - temperature * entropy == pytest.approx(float(found["free_energy"]), rel=1e-10)


@pytest.mark.parametrize("fp", [turning(16), well(0.3, 60)], ids=["with a current", "reversible"])
def test_dissipation_is_the_fall_of_the_free_energy(fp):
    """Against central differences of F along the exact evolution, extrapolated in their step."""
    rho = later(fp, random_density(fp, 5), 0.2)
    slopes = []
    for h in (4e-3, 2e-3):
        ends = [float(fp.free_energy(later(fp, random_density(fp, 5), 0.2 + s))["free_energy"]) for s in (-h, h)]
        slopes.append((ends[1] - ends[0]) / (2 * h))
    assert float(fp.free_energy(rho)["dissipation"]) == pytest.approx(-(4 * slopes[1] - slopes[0]) / 3, rel=1e-6)


def test_dissipation_tends_to_that_of_the_continuum():
    """I3 with a current: T² E_ρ[∇log(ρ/ρ_ss)·D∇log(ρ/ρ_ss)] of Gaussians, to second order in the spacing."""
    temperature = 0.7
    stationary = la.solve_continuous_lyapunov(F, 2 * temperature * D)
    mean, covariance = np.array([0.6, -0.4]), np.array([[0.5, 0.1], [0.1, 0.4]])
    pull = np.linalg.inv(stationary) - np.linalg.inv(covariance)  # ∇log ratio = S⁻¹x − C⁻¹(x − m)
    at_mean = np.linalg.inv(stationary) @ mean
    exact = temperature**2 * (at_mean @ D @ at_mean + np.trace(pull @ D @ pull @ covariance))
    errors = []
    for cells in (50, 100):
        fp = solver(linear(temperature), 5.0, cells)
        errors.append(float(fp.free_energy(gaussian(fp, mean, covariance))["dissipation"]) - exact)
    assert abs(errors[1]) < 0.02 * exact and 3.6 < errors[0] / errors[1] < 4.4


def test_close_to_the_steady_state_no_digit_is_lost():
    """F = (T/2) Σ π u² for p = π(1 + u), u ~ 1e-9; the plain sum Σ p log(p/π) has none of it right."""
    fp = turning()
    p, log_pi = probabilities(fp, fp.steady_state())
    u = 1e-9 * np.random.default_rng(0).normal(size=p.size)
    u -= p @ u
    found = float(fp.free_energy((p * (1 + u)).reshape(fp.grid.shape) / fp.grid.cell_volume)["free_energy"])
    exact = 0.5 * p @ u**2
    assert found == pytest.approx(exact, rel=1e-5)
    plain = (p * (1 + u)) @ (np.log(p * (1 + u)) - log_pi)
    assert abs(plain - exact) > 10 * exact


def test_underflow_is_no_front_but_a_start_in_one_cell_is():
    fp = well(0.003, 300)
    steady = fp.steady_state()
    assert (steady.values == 0.0).any()
    at_rest = fp.free_energy(steady)
    assert 0.0 <= float(at_rest["dissipation"]) < 1e-20 and 0.0 <= float(at_rest["free_energy"]) < 1e-25
    assert 0.0 <= float(fp.entropy_production(steady)["entropy_production"]) < 1e-15
    point = np.zeros(fp.grid.shape)
    point[37] = 1.0 / fp.grid.cell_volume
    found = fp.free_energy(point)
    _, log_pi = probabilities(fp, point)
    assert float(found["dissipation"]) == np.inf
    assert float(found["free_energy"]) == pytest.approx(-0.003 * log_pi[37], rel=1e-13)
    assert float(fp.entropy_production(point)["entropy_production"]) == np.inf


# entropy production ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("fp", [turning(), well(0.3), solver(linear(), 6.0, 16)], ids=["turning", "well", "linear"])
def test_the_total_is_the_sum_of_two_parts_that_are_not_negative(fp):
    for seed in range(3):
        rho = random_density(fp, seed)
        found = {name: float(value) for name, value in fp.entropy_production(rho).items()}
        forward, backward = fp.edges.rates()
        p, _ = probabilities(fp, rho)
        out, back = forward * p[fp.edges.tail], backward * p[fp.edges.head]
        assert found["entropy_production"] == pytest.approx(((out - back) * np.log(out / back)).sum(), rel=1e-10)
        assert found["entropy_production"] == pytest.approx(found["adiabatic"] + found["nonadiabatic"], rel=1e-11)
        assert found["adiabatic"] >= 0.0 and found["nonadiabatic"] > 0.0
        dissipation = float(fp.free_energy(rho)["dissipation"])
        assert found["nonadiabatic"] == pytest.approx(dissipation / fp.process.temperature, rel=1e-12)


def test_detailed_balance_has_no_adiabatic_part():
    fp = well(0.2)
    assert float(fp.entropy_production(random_density(fp, 1))["adiabatic"]) < 1e-18
    assert float(fp.entropy_production(fp.steady_state())["entropy_production"]) < 1e-18
    assert float(turning().entropy_production(turning().steady_state())["adiabatic"]) > 0.01  # and a current has one


def test_that_of_a_linear_process_tends_to_its_closed_form():
    """tr(D⁻¹QUQᵀ) at the steady state, with F = diag(1, 3): 1/3, and with a rotation; order 2."""
    for rates, half in ((np.diag([1.0, 3.0]), 5.0), (F, 5.0)):
        S = la.solve_continuous_lyapunov(rates, 2 * D)
        Q = rates @ S - D
        exact = float(np.trace(np.linalg.inv(D) @ Q @ np.linalg.inv(S) @ Q.T))
        assert rates[0, 1] or exact == pytest.approx(1 / 3)
        found = []
        for cells in (40, 80):
            fp = solver(linear(rates=rates), half, cells)
            found.append(fp.entropy_production(fp.steady_state()))
        errors = [float(f["entropy_production"]) - exact for f in found]
        assert abs(errors[1]) < 0.02 * exact and 3.5 < errors[0] / errors[1] < 4.5
        assert float(found[1]["nonadiabatic"]) < 1e-20


def test_that_of_a_ring_is_current_times_force():
    """J is the same at every edge and the affinities round the ring add up to 2πF/T: exact on any grid."""
    force, temperature = 0.7, 0.3
    ring = sde.Process(
        [f"{force} - sin(a)"], [[1]], temperature, variables=("a",), domain=((0, 2 * np.pi, "periodic"),)
    )
    fp = sde.FokkerPlanck(ring, sde.Grid(0.0, 2 * np.pi, 50, boundary="periodic"))
    steady = fp.steady_state()
    flux = fp.edge_current(steady).values * fp.grid.cell_volume
    current = flux[0] if fp.edges.head[0] == (fp.edges.tail[0] + 1) % 50 else -flux[0]
    found = float(fp.entropy_production(steady)["entropy_production"])
    assert found == pytest.approx(current * 2 * np.pi * force / temperature, rel=1e-10)


# relaxation -----------------------------------------------------------------------------------------------


def relaxation(fp, rho, times):
    return fp.free_energy(
        xr.concat([xr.DataArray(later(fp, rho, t), dims=fp.process.variables) for t in times], "time").assign_coords(
            time=times
        )
    )


def test_what_bounds_a_reversible_relaxation_and_what_does_not():
    """F ≤ T log(1 + e^{−2λt}χ²) always; F ≤ e^{−2λt}F(0) is false: mass in the upper well leaves like e^{−λt}."""
    fp = well(0.1, 100, tilt=0.25, half=2.0)
    rate = float(fp.spectrum(2)["eigenvalue"][1])
    start = np.where(fp.grid.axes[0] > 0.3, fp.steady_state().values, 1e-12)
    start /= start.sum() * fp.grid.cell_volume
    p, log_pi = probabilities(fp, start)
    chi = float((p**2 * np.exp(-log_pi)).sum() - 1.0)
    times = np.linspace(0.0, 14.0 / rate, 15)
    free = relaxation(fp, start, times)["free_energy"].values
    assert (free <= 0.1 * np.log1p(np.exp(-2 * rate * times) * chi) * (1 + 1e-9)).all()
    assert (np.diff(free) < 0.0).all()
    assert free[4] > 5 * np.exp(-2 * rate * times[4]) * free[0]
    assert np.log(free[-2] / free[-1]) / (times[1] - times[0]) == pytest.approx(2 * rate, rel=1e-3)


def test_a_strictly_convex_potential_has_the_exponential_bound():
    """Φ″ = 1 and D = 1: F(t) ≤ e^{−2t}F(0) (Bakry & Émery); on this grid up to its own order."""
    fp = solver(sde.Landscape(("x",), "x**2/2").at_temperature(1.0), 7.0, 140)
    times = np.linspace(0.0, 3.0, 7)
    found = relaxation(fp, gaussian(fp, [2.0], [[0.2]]), times)
    assert (found["free_energy"].values <= np.exp(-2 * times) * float(found["free_energy"][0]) * 1.01).all()


def test_with_a_current_the_second_eigenvalue_bounds_nothing_early():
    """Non-normal: χ² falls at first by the symmetric part alone, slower than e^{−2 Re λ t}; F still never rises."""
    shear = sde.Process(["-x - 9*y", "x - 9*y"], [[1, 0], [0, 1]], 1.0, variables=("x", "y"))
    fp = sde.FokkerPlanck(shear, sde.Grid((-4.5, -1.5), (4.5, 1.5), (14, 14)))
    rate = float(fp.spectrum(2)["eigenvalue"][1].real)
    p, log_pi = probabilities(fp, fp.steady_state())
    root = np.exp(0.5 * log_pi)
    scaled = fp.matrix.toarray() * root[None, :] / root[:, None]
    values, vectors = la.eigh(-0.5 * (scaled + scaled.T))
    direction = vectors[:, 1] / root
    assert values[1] < 0.8 * rate
    start = (p * (1.0 + 0.9 * direction / np.abs(direction).max())).reshape(fp.grid.shape) / fp.grid.cell_volume
    step, states = la.expm(0.05 * fp.matrix.toarray()), [start]
    for _ in range(4):
        states.append((step @ states[-1].ravel()).reshape(fp.grid.shape))
    chi = [((q.ravel() * fp.grid.cell_volume - p) ** 2 / p).sum() for q in states]
    assert chi[1] > 1.05 * np.exp(-2 * rate * 0.05) * chi[0]
    assert (np.diff([float(fp.free_energy(q)["free_energy"]) for q in states]) < 0.0).all()


def test_a_series_is_its_densities_one_by_one():
    fp = well(0.3, 60)
    times = np.array([0.0, 0.5, 2.0])
    many = relaxation(fp, gaussian(fp, [-1.0], [[0.05]]), times)
    assert many["free_energy"].dims == ("time",) and np.array_equal(many["time"], times)
    for k, t in enumerate(times):
        one = fp.free_energy(later(fp, gaussian(fp, [-1.0], [[0.05]]), t))
        assert all(float(one[name]) == float(many[name][k]) for name in one) and one["energy"].dims == ()
    assert many.attrs["temperature"] == 0.3


@pytest.mark.parametrize("method", ["free_energy", "entropy_production"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rho: 2.0 * rho, "has mass 2, .* divide it by its sum times grid.cell_volume"),
        (lambda rho: rho - 1e-3, r"is -0.001 < 0 at cell \(0,\), and its logarithm is needed"),
        (lambda rho: rho[1:], "one value per cell"),
        (lambda rho: rho * np.nan, "must be finite"),
        (lambda rho: xr.DataArray(np.stack([rho, 3 * rho]), dims=("time", "x")), "has mass 3 at entry 1 of time"),
        (lambda rho: xr.DataArray(np.empty((0, 40)), dims=("time", "x")), "without any entry"),
        (lambda rho: xr.DataArray(rho, dims=("z",)), r"expected \('x',\)"),
    ],
)
def test_refusals(method, change, message):
    fp = well(0.3, 40)
    with pytest.raises(ValueError, match=message):
        getattr(fp, method)(change(gaussian(fp, [0.0], [[0.05]]).values))


def test_absorbing_walls_have_no_free_energy():
    fp = solver(sde.Landscape(("x",), "x**2/2").at_temperature(1.0), 2.0, 20, boundary="absorbing")
    with pytest.raises(ValueError, match="absorbing walls"):
        fp.free_energy(np.full(20, 1 / 4))
