"""Momentum: BAOAB against its own exact covariance, exact steady densities, energy, and what the process refuses."""

import numpy as np
import pytest
import scipy.linalg

import sde_sgd as sde
from sde_sgd.paths import _ensemble

H = np.array([[1.5, 0.5], [0.5, 3.0]])
QUADRATIC = sde.Landscape(("x", "y"), "0.75*x**2 + 0.5*x*y + 1.5*y**2")  # f = xᵀHx/2
WELL = sde.Landscape("x", "(x**2 - 1)**2/4")


def baoab_covariance(hessian, temperature, friction, h, order="BAOAB"):
    """S = M S Mᵀ + N of the linear recursion (x, v) → M (x, v) + noise, its parts multiplied in the order given."""
    d = len(hessian)
    eye, zero = np.eye(d), np.zeros((d, d))
    share = 1 / order.count("A"), 1 / order.count("B")
    decay = np.exp(-friction * h)
    part = {
        "A": np.block([[eye, share[0] * h * eye], [zero, eye]]),
        "B": np.block([[eye, zero], [-share[1] * h * hessian, eye]]),
        "O": np.block([[eye, zero], [zero, decay * eye]]),
    }
    total, noise = np.eye(2 * d), np.zeros((2 * d, 2 * d))
    for letter in order:
        total, noise = part[letter] @ total, part[letter] @ noise @ part[letter].T
        if letter == "O":
            noise[d:, d:] += temperature * (1 - decay**2) * eye
    return scipy.linalg.solve_discrete_lyapunov(total, noise)


def states(run, process):
    return np.stack([run[v].values for v in process.variables])


@pytest.mark.parametrize("h", [0.6, 0.3])
def test_baoab_has_its_own_exact_covariance(h):
    """All ten covariances at |z| < 5 (false alarm 6e-6 together); those of the same parts in the order BAO (symplectic
    Euler) and of the continuous velocities are excluded at 10σ."""
    process, n = sde.Underdamped(QUADRATIC, 0.7, 1.3), 100_000
    s = states(sde.simulate(process, np.zeros(4), step=h, steps=int(20 / h), paths=n, seed=1), process)
    exact, measured = baoab_covariance(H, 0.7, 1.3, h), s @ s.T / n
    error = np.sqrt((np.outer(np.diag(exact), np.diag(exact)) + exact**2) / n)
    assert (np.abs(measured - exact) < 5 * error).all()
    assert (np.abs(measured - baoab_covariance(H, 0.7, 1.3, h, "BAO")) > 10 * error).any()
    np.testing.assert_allclose(exact[:2, :2], 0.7 * np.linalg.inv(H), rtol=1e-12)  # BAOAB's positions have no bias here
    assert np.abs(measured[3, 3] - 0.7) > 10 * error[3, 3]


def test_velocities_are_of_second_order():
    bias = [baoab_covariance(H, 0.7, 1.3, h)[2:, 2:] - 0.7 * np.eye(2) for h in (0.2, 0.1)]
    assert np.log2(np.abs(bias[0]).max() / np.abs(bias[1]).max()) == pytest.approx(
        sde.SCHEMES["baoab"].measure_order, abs=0.02
    )
    first = [baoab_covariance(H, 0.7, 1.3, h, "BAO")[:2, 2:] for h in (0.02, 0.01)]
    assert np.log2(np.abs(first[0]).max() / np.abs(first[1]).max()) == pytest.approx(1, abs=0.1)


def well_moments(temperature):
    x = np.linspace(-4, 4, 20_001)
    weight = np.exp(-((x**2 - 1) ** 2) / (4 * temperature))
    return (x**2 * weight).sum() / weight.sum(), (x**4 * weight).sum() / weight.sum()


@pytest.mark.parametrize("friction", [0.5, 4.0])
def test_the_double_well_has_its_boltzmann_density(friction):
    """E x², E x⁴ of e^{−f/T} and E v² = T at h = 0.1 within 4.5σ + h²/4 of the value, whatever the friction; at h = 0.4
    the bias of E v² is seen (6σ). A density at twice the temperature is 20σ off."""
    temperature, n = 0.5, 60_000
    process = sde.Underdamped(WELL, temperature, friction)
    start = np.random.default_rng(0).normal(size=(n, 2)) * [0.3, 0.7] + [1.0, 0.0]

    def measure(h, time=16.0):
        run = sde.simulate(process, start, step=h, steps=round(time / h), paths=n, seed=3)
        values = np.stack([run.x**2, run.x**4, run.velocity_x**2])
        return values.mean(1), values.std(1) / np.sqrt(n)

    exact = np.array([*well_moments(temperature), temperature])
    mean, error = measure(0.1)
    assert (np.abs(mean - exact) < 4.5 * error + 0.0025 * exact).all()
    assert (np.abs(mean - np.array([*well_moments(2 * temperature), 2 * temperature])) > 20 * error).all()
    coarse, error = measure(0.4)
    assert abs(coarse[2] - temperature) > 6 * error[2]


def test_without_friction_energy_is_kept():
    """γ = 1e-12: the energy of every path stays within O(h²), 4 ± 0.5 times as far for twice the step; with friction 1
    it does not stay."""

    def wander(h, friction=1e-12):
        process = sde.Underdamped(WELL, 1e-6, friction)
        start = np.stack([np.linspace(0.2, 1.8, 64), np.linspace(-1, 1, 64)], -1)
        run = sde.simulate(process, start, step=h, steps=round(50 / h), paths=64, save_every=1)
        energy = (run.x.values**2 - 1) ** 2 / 4 + run.velocity_x.values**2 / 2
        return np.abs(energy - energy[:, :1]).max()

    ratio = wander(0.04) / wander(0.02)
    assert ratio == pytest.approx(4, abs=0.5) and wander(0.02) < 1e-3
    assert wander(0.02, friction=1.0) > 0.1


def test_noise_of_a_finite_sum_is_taken_where_the_path_is():
    """One step of f_k = s_k x²/2 from (1, 0.5): the noise in x' and v' is T(1 − e^{−2γh}) D(q) of the middle point
    q (5σ); D at the start of the step is excluded by 20σ."""
    pull = sde.FiniteSum("x", "s*x**2/2 + x", {"s": [0.5, 1.0, 3.0]})
    temperature, friction, h, n = 0.4, 1.0, 0.3, 200_000
    process = sde.Underdamped(pull, temperature, friction)
    run = sde.simulate(process, (1.0, -0.5), step=h, steps=1, paths=n, seed=4)
    u = -0.5 - 0.5 * h * pull.gradient([1.0])[0]
    q = 1.0 + 0.5 * h * u
    decay = np.exp(-friction * h)
    noise = temperature * (1 - decay**2) * pull.diffusion([q])[0, 0]
    mean = q + 0.5 * h * decay * u
    assert abs(float(run.x.mean()) - mean) < 5 * 0.5 * h * np.sqrt(noise / n)
    variance = float(run.x.var()) / (0.5 * h) ** 2
    assert variance == pytest.approx(noise, rel=5 * np.sqrt(2 / n))
    assert abs(variance / noise - pull.diffusion([1.0])[0, 0] / pull.diffusion([q])[0, 0]) > 20 * np.sqrt(2 / n)
    slope = float(np.cov(run.x, run.velocity_x, ddof=0)[0, 1] / run.x.var())  # v' = e^{−γh}u + n − (h/2)f'(x')
    expected = 2 / h - 0.5 * h * pull.hessian([mean])[0, 0]
    assert slope == pytest.approx(expected, rel=1e-9)


def test_the_definition_is_stationary():
    """−div(bρ) + T ΣΣ ∂∂(D_ij ρ) = 0 for ρ = e^{−Φ/T}, by central differences to 1e-4 of the largest term; twice the
    noise breaks it."""
    temperature, friction, eps = 0.6, 0.8, 1e-3
    process = sde.Underdamped(sde.Landscape(("x", "y"), "x**4/4 + x*y + y**2", diffusion=[[2, 0], [0, 2]]), temperature,
                              friction)  # fmt: skip
    points = np.random.default_rng(1).normal(size=(50, 4)) * 0.7

    def density(x):
        return np.exp(-process.potential(x) / temperature)

    def balance(noise):
        transport, spread = np.zeros(50), np.zeros(50)
        for i, e in enumerate(np.eye(4) * eps):
            up, down = points + e, points - e
            transport += (process.drift(up)[:, i] * density(up) - process.drift(down)[:, i] * density(down)) / (2 * eps)
            for j, g in enumerate(np.eye(4) * eps):
                corners = [(s * t, points + s * e + t * g) for s in (1, -1) for t in (1, -1)]
                terms = [sign * process.diffusion(x)[:, i, j] * density(x) for sign, x in corners]
                spread += noise * temperature * sum(terms) / (4 * eps**2)
        return np.abs(spread - transport) / np.abs(transport).max()

    assert balance(1.0).max() < 1e-4 and balance(2.0).max() > 0.1
    assert process.equilibrium_potential is None
    np.testing.assert_array_equal(process.diffusion_divergence(points), 0.0)
    assert process.diffusion(points[0])[:2].any() == 0 and process.dim == 4
    assert process.variables == ("x", "y", "velocity_x", "velocity_y")
    turning = sde.landscapes.get("quadratic", rotation=1.0)
    assert sde.Underdamped(turning, 1.0, 1.0).potential(np.zeros(4)) is None


@pytest.mark.evidence
def test_an_exit_over_the_barrier():
    """High friction: the exit time from a well is γ times that without momentum (Smoluchowski), within 4σ + 5 %."""
    temperature, friction = 0.2, 10.0
    heavy = sde.exit_times(
        sde.Underdamped(WELL, temperature, friction), (-1.0, 0.0), "x < 0.5", step=0.1, paths=1000, max_steps=100_000,
        bridge=False,
    )  # fmt: skip
    light = sde.exit_times(WELL.at_temperature(temperature), -1.0, "x < 0.5", step=0.01, paths=4000, max_steps=100_000)
    ratio = float(heavy.mean_exit_time / light.mean_exit_time)
    error = ratio * np.hypot(
        float(heavy.mean_exit_time_error / heavy.mean_exit_time),
        float(light.mean_exit_time_error / light.mean_exit_time),
    )
    assert heavy.attrs["scheme"] == "baoab" and heavy.attrs["friction"] == friction
    assert abs(ratio - friction) < 4 * error + 0.05 * friction


PROCESS = sde.Underdamped(WELL, 0.5, 1.0)
FAULTS = {
    "friction must be a finite number > 0, got 0; without friction": lambda: sde.Underdamped(WELL, 0.5, 0),
    "temperature must be": lambda: sde.Underdamped(WELL, 0.0, 1.0),
    "landscape must be a Landscape, got Process": lambda: sde.Underdamped(WELL.at_temperature(1), 0.5, 1.0),
    "'velocity_x' is the name of a velocity": lambda: sde.Underdamped(
        sde.Landscape(("x", "velocity_x"), "x**2"), 0.5, 1.0
    ),
    "scheme 'euler_maruyama' is for overdamped processes and this one is": lambda: sde.simulate(
        PROCESS, (0, 0), step=0.1, steps=1, scheme="euler_maruyama"
    ),
    "scheme 'baoab' is for underdamped processes and this one is not": lambda: sde.simulate(
        WELL.at_temperature(0.5), 0, step=0.1, steps=1, scheme="baoab"
    ),
    "has no noise in its positions: pass bridge=False": lambda: sde.exit_times(
        PROCESS, (-1, 0), "x < 1", step=0.1, paths=9, max_steps=9
    ),
    "has noise in its velocities only": lambda: PROCESS.evaluator(),
    r"x must have shape \(..., 2\) for x, velocity_x": lambda: PROCESS.drift([0.0, 1.0, 2.0]),
    r"start must have shape \(2,\)": lambda: sde.simulate(PROCESS, 0.0, step=0.1, steps=1),
}  # fmt: skip


@pytest.mark.parametrize("message", FAULTS)
def test_faults_are_named(message):
    with pytest.raises(ValueError, match=message):
        FAULTS[message]()


def test_bits_and_attributes():
    settings = dict(step=0.1, steps=40, paths=300, seed=3)
    run = sde.simulate(PROCESS, (0.5, -0.1), threads=1, **settings)
    assert run.attrs["friction"] == 1.0 and run.attrs["scheme"] == "baoab" and set(run) == {"x", "velocity_x"}
    other = sde.simulate(PROCESS, (0.5, -0.1), threads=3, save_every=40, **settings)
    for v in PROCESS.variables:
        np.testing.assert_array_equal(run[v], other[v][:, -1])


@pytest.mark.evidence
@pytest.mark.parametrize("finite_sum", [False, True])
def test_bits_on_a_periodic_axis(monkeypatch, finite_sum):
    """The force is taken inside the period: segments of one step, a run continued by hand, and the whole run agree."""
    period = {"x": (-1, -1 + 2 * np.pi, "periodic")}
    ring = sde.Landscape("x", "cos(x)", circulation=["2"], domain=period)
    if finite_sum:
        ring = sde.FiniteSum("x", "-a*cos(x + a)", {"a": [1.0, 2.0, 4.0]}, domain=period)
    process = sde.Underdamped(ring, 0.5, 1.0)
    settings = dict(step=0.1, paths=200, seed=3)
    whole = sde.simulate(process, (1.0, 2.0), steps=300, observables=sde.Winding("x"), **settings)
    assert float(whole.angular_velocity) != 0
    first = sde.simulate(process, (1.0, 2.0), steps=113, **settings)
    state = np.stack([first[v] for v in process.variables], -1)
    by_hand = sde.simulate(process, state, steps=187, first_step=113, **settings)
    monkeypatch.setattr(_ensemble, "_SEGMENT_SECONDS", 1e-9)
    pieces = sde.simulate(process, (1.0, 2.0), steps=300, observables=sde.Winding("x"), **settings)
    for v in process.variables:
        np.testing.assert_array_equal(by_hand[v], whole[v])
        np.testing.assert_array_equal(pieces[v], whole[v])
    assert pieces.angular_velocity == whole.angular_velocity


def test_the_potential_of_an_anisotropic_equilibrium():
    """F D symmetric: velocities have covariance TD, and e^{−Φ/T} is the density of a long run (5 standard errors);
    velocities of variance T, the isotropic law, are excluded."""
    reversible = sde.Landscape.linear([[1.0, 0.0], [0.0, 3.0]], [[2.0, 0.0], [0.0, 0.5]])
    process, temperature = sde.Underdamped(reversible, 0.3, 1.0), 0.3
    run = sde.simulate(process, np.zeros(4), step=0.05, steps=400, paths=50_000, seed=4)
    x = np.stack([run[v].values for v in process.variables], -1)
    curvature = np.array([process.potential(np.eye(4)[i]) - process.potential(np.zeros(4)) for i in range(4)]) * 2
    variance, error = temperature / curvature, np.sqrt(2 / len(x))
    assert (np.abs(x.var(0) / variance - 1) < 5 * error + 0.05**2).all()
    assert (np.abs(x[:, 2:].var(0) / temperature - 1) > 20 * error).all()
