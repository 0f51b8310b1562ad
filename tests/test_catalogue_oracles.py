"""Entries of the catalogue one at a time, against the closed forms and published numbers of each."""

import pickle

import mpmath
import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import scipy.sparse.linalg
import scipy.special
import scipy.stats

import sde_sgd as sde


def central(function, x, step=1e-5):
    """∂function/∂x_j on a new last axis, by central differences."""
    parts = [(function(x + step * e) - function(x - step * e)) / (2 * step) for e in np.eye(x.shape[-1])]
    return np.stack(parts, -1)


def test_quadratic_is_the_lyapunov_solution():
    q = sde.landscapes.get("quadratic", a=1.3, c=2.5, dxx=0.7, dxy=-0.2, dyy=1.1, rotation=0.9)
    f, d = np.array([[1.3, 0.9], [-0.9, 2.5]]), np.array([[0.7, -0.2], [-0.2, 1.1]])
    s = scipy.linalg.solve_continuous_lyapunov(f, 2 * d)
    x = np.random.default_rng(7).normal(size=(5, 2))
    expected = 0.5 * np.einsum("ni,ij,nj->n", x, np.linalg.inv(s), x)
    np.testing.assert_allclose(q.potential(x, 0.4), expected, rtol=1e-13)
    np.testing.assert_allclose(q.drift(x), -x @ f.T, rtol=1e-13)
    antisymmetric = f @ s - d
    np.testing.assert_allclose(antisymmetric, -antisymmetric.T, atol=1e-14)
    np.testing.assert_allclose(q.q(x), antisymmetric[0, 1], rtol=1e-13)
    reached = sde.landscapes.get("quadratic", dxy=0, dyy=0, rotation=1.0)  # the drift turns the noise of x into y
    np.testing.assert_allclose(reached.potential([1.0, 1.0], 1.0), 16.0, rtol=1e-13)
    default = sde.landscapes.get("quadratic")  # F = diag(1, 3), D = [[1, ½], [½, 1]], T = 1
    assert default.q([0.3, 0.1]) == pytest.approx(-0.25, abs=1e-15)
    np.testing.assert_allclose(
        np.linalg.inv(central(lambda p: central(lambda u: default.potential(u, 1.0), p, 1e-3), np.zeros(2), 1e-3)),
        [[1, 0.25], [0.25, 1 / 3]],
        atol=1e-8,
    )


def test_double_well_has_the_exact_mean_first_passage_times():
    well = sde.landscapes.get("double_well")
    x = np.linspace(-4, 1, 200_001)
    for temperature, expected in ((0.2, 19.0939), (0.1, 66.2686), (0.05, 729.6707)):
        phi = well.potential(np.stack([x, 0 * x], -1), temperature) / temperature
        inner = scipy.integrate.cumulative_trapezoid(np.exp(-phi), x, initial=0)
        between = x >= -1
        time = scipy.integrate.trapezoid(np.exp(phi[between]) * inner[between], x[between]) / temperature
        assert time == pytest.approx(expected, abs=1e-4)


def test_example_19_at_temperature_one_is_the_published_field():
    landscape = sde.landscapes.get("example_19", circulation=1.5)
    x = np.random.default_rng(5).normal(size=(20, 2))
    phi, r2 = (x[:, 0] ** 2 - 1) ** 2 / 4 + x[:, 1] ** 2 / 2, (x**2).sum(-1)
    j = 1.5 * np.exp(phi - r2**2 / 4)[:, None] * np.stack([-x[:, 1], x[:, 0]], -1)
    np.testing.assert_allclose(landscape.remainder(x, 1.0), j, rtol=1e-10, atol=1e-12)
    expected = 1.5 * np.sqrt(np.pi) / 2 * scipy.special.erfc(r2 / 2) * np.exp(phi)
    np.testing.assert_allclose(landscape.q(x, 1.0), expected, rtol=1e-12)
    divergence = np.einsum("...ii->...", central(lambda p: landscape.remainder(p, 1.0), x))
    swirl = 1.5 * x[:, 0] * x[:, 1] * (2 - x[:, 0] ** 2) * np.exp(phi - r2**2 / 4)
    np.testing.assert_allclose(divergence, swirl, rtol=1e-5, atol=1e-7)  # not zero
    origin = landscape.evaluator().jacobian(np.zeros(2), 1.0)
    np.testing.assert_allclose(np.sort_complex(np.linalg.eigvals(origin)), [-1.6461j, 1.6461j], atol=1e-4)


@pytest.mark.parametrize("finite_sum", [False, True])
def test_sheared_double_well_satisfies_every_assumption(finite_sum):
    """Barriers ¼ in Φ and ⅝ in f; constant D, div j = j·∇Φ = 0, j ≠ 0; the drift's unstable rate at the saddle."""
    sheared = sde.landscapes.get("sheared_double_well", finite_sum=finite_sum)
    wells, origin = np.array([[np.sqrt(3), 1.0], [-np.sqrt(3), -1.0]]), np.zeros(2)
    np.testing.assert_allclose(sheared.potential(origin, 0.1) - sheared.potential(wells, 0.1), 1 / 4, rtol=1e-14)
    np.testing.assert_allclose(sheared.loss(origin) - sheared.loss(wells), 5 / 8, rtol=1e-14)
    assert sheared.q(origin) == pytest.approx(np.sqrt(3) / 2, rel=1e-15)
    x = np.random.default_rng(8).uniform(-2, 2, (40, 2))
    np.testing.assert_allclose(sheared.diffusion(x), np.broadcast_to(np.diag([3.0, 1.0]), (40, 2, 2)), atol=1e-13)
    j = sheared.remainder(x, 0.1)
    slope = central(lambda p: sheared.potential(p, 0.1), x)
    assert np.abs((j * slope).sum(-1)).max() < 1e-8 < 0.1 < np.abs(j).max()
    growth = np.linalg.eigvals(sheared.evaluator().jacobian(origin))
    np.testing.assert_allclose(np.sort(growth.real), [-0.58972474, 1.58972474], atol=1e-8)
    if finite_sum:
        noise = sheared.sample_gradients(x) - sheared.gradient(x)[:, None]
        np.testing.assert_allclose(np.sort(np.abs(noise[0]).sum(-1)), np.sqrt([2, 2, 6, 6]), rtol=1e-12)


def test_escape_from_the_sheared_well_follows_its_potential():
    """Spectral gap → 2 λ₊/(2π) √(det H_m/|det H_s|) e^{−ΔΦ/T}: 0.92 of it at T = 0.02, less where it is warmer."""
    sheared = sde.landscapes.get("sheared_double_well")
    ratio = []
    for temperature in (0.04, 0.02):
        grid = sde.Grid((-2.9, -2.3), (2.9, 2.3), (120, 120))
        matrix = sde.FokkerPlanck(sheared.at_temperature(temperature), grid).matrix
        values = scipy.sparse.linalg.eigs(matrix.tocsc(), k=2, sigma=1e-9, return_eigenvectors=False, v0=np.ones(14400))
        rate = (1 + np.sqrt(19 / 4)) / 2 / (2 * np.pi) * np.sqrt(2) * np.exp(-0.25 / temperature)
        ratio.append(-values.real.min() / (2 * rate))
    assert 0.75 < ratio[0] < 0.85 < 0.9 < ratio[1] < 1.0
    assert ratio[1] * 1.58972474 / 0.58972474 > 2.4  # with the drift's other eigenvalue for λ₊


def spiral_radius(spiral, temperature):
    """(r, weights of ρ r dr): the steady radius by the midpoint rule."""
    r = (np.arange(40_000) + 0.5) * 1e-4
    phi = spiral.potential(np.stack([r, 0 * r], -1), temperature)
    weight = np.exp(-(phi - phi.min()) / temperature) * r
    return r, weight / weight.sum()


@pytest.mark.parametrize("kappa, temperature", [(1.0, 0.1), (2.0, 0.05), (-1.0, 0.2)])
def test_spiral_turns_with_the_exact_velocity(kappa, temperature):
    """D is the published tensor; E r² = 1 − T(3 + κ²)/2; the mean of j_θ/r is −Tκ, and j has no radial part."""
    spiral = sde.landscapes.get("spiral", kappa=kappa, samples=5)
    x = np.random.default_rng(2).normal(size=(8, 2))
    r = np.linalg.norm(x, axis=-1)
    er, et = x / r[:, None], np.stack([-x[:, 1], x[:, 0]], -1) / r[:, None]

    def tensor(kappa):
        outer = lambda a, b: a[:, :, None] * b[:, None, :]  # noqa: E731
        d = (4 + kappa**2) / 2 * outer(er, er) + 0.5 * outer(et, et) + kappa / 2 * (outer(er, et) + outer(et, er))
        return r[:, None, None] ** 2 * d

    np.testing.assert_allclose(spiral.diffusion(x), tensor(kappa), rtol=1e-11, atol=1e-12)
    assert np.abs(spiral.diffusion(x) - tensor(-kappa)).max() > 0.1  # the other handedness
    np.testing.assert_allclose(spiral.loss(x), (r**2 - 1) ** 2 / 4, rtol=1e-12, atol=1e-14)
    j = spiral.remainder(x, temperature)
    assert np.abs((j * er).sum(-1)).max() < 1e-12 * np.abs(j).max()
    radius, weight = spiral_radius(spiral, temperature)
    assert (weight * radius**2).sum() == pytest.approx(1 - temperature * (3 + kappa**2) / 2, abs=1e-6)
    turning = spiral.remainder(np.stack([radius, 0 * radius], -1), temperature)[:, 1] / radius
    assert (weight * turning).sum() == pytest.approx(-temperature * kappa, abs=1e-6)


@pytest.mark.parametrize("force, amplitude, temperature", [(0.5, 1.0, 0.5), (2.0, 1.0, 0.1), (-0.8, 1.5, 0.3)])
def test_ring_carries_the_current_of_bessel_functions(force, amplitude, temperature):
    """J = jρ is one number on the whole ring, T sinh(πF/T)/(2π²|I_{iF/T}(a/T)|²) (Ivanchenko & Zil'berman 1968)."""
    ring = sde.landscapes.get("ring", force=force, amplitude=amplitude)
    theta = np.linspace(-np.pi, np.pi, 400, endpoint=False)[:, None]
    phi = ring.potential(theta, temperature)
    rho = np.exp(-phi / temperature)
    rho /= rho.mean() * 2 * np.pi  # the trapezoidal rule is exact to rounding on a ring
    current = ring.remainder(theta, temperature)[:, 0] * rho
    bessel = abs(mpmath.besseli(1j * force / temperature, amplitude / temperature)) ** 2
    expected = float(temperature * mpmath.sinh(mpmath.pi * force / temperature) / (2 * mpmath.pi**2 * bessel))
    np.testing.assert_allclose(current, expected, rtol=1e-10)
    # Without noise it would stand still or turn in 2π/√(F² − a²): noise makes a difference.
    still = np.sqrt(max(force**2 - amplitude**2, 0.0)) / (2 * np.pi)
    assert abs(abs(expected) - still) > 1e-4


def test_ring_is_finite_at_low_temperature_and_says_what_it_needs():
    for force in (-0.5, 0.0, 0.5):
        ring = sde.landscapes.get("ring", force=force)
        theta = np.linspace(-3, 3, 13)[:, None]
        phi, j = ring.potential(theta, 4e-3), ring.remainder(theta, 4e-3)
        assert np.isfinite(phi).all() and np.isfinite(j).all()
        slope = central(lambda p, ring=ring: ring.potential(p, 4e-3), theta, 1e-6)
        np.testing.assert_allclose(ring.drift(theta) + slope, j, atol=1e-5)
    assert abs(ring.with_parameters(force=0.0).remainder(theta, 0.3)).max() == 0.0
    with pytest.raises(ValueError, match="depends on the temperature"):
        ring.potential(theta)
    again = pickle.loads(pickle.dumps(ring.with_parameters(force=0.25)))
    np.testing.assert_array_equal(
        again.potential(theta, 0.3), sde.landscapes.get("ring", force=0.25).potential(theta, 0.3)
    )


def test_known_fixed_points_of_a_ring_lie_on_it():
    ring = sde.landscapes.get("ring", force=-0.5)
    known = ring.known_fixed_points()
    assert (np.abs(known) <= np.pi).all()
    np.testing.assert_allclose(known[:, 0], [-np.pi / 6, -5 * np.pi / 6], rtol=1e-14)


def test_hopf_has_its_cycle():
    """On r² = a/c the drift is tangential with period 2π/(ω + κa/c); r² ~ N(a/c, 2T/c) cut at 0."""
    a, c, omega, kappa, temperature = 2.0, 0.5, 0.7, -0.1, 0.3
    hopf = sde.landscapes.get("hopf", a=a, c=c, omega=omega, kappa=kappa)
    angle = np.linspace(0, 6, 17)
    x = np.sqrt(a / c) * np.stack([np.cos(angle), np.sin(angle)], -1)
    turned = np.stack([-x[:, 1], x[:, 0]], -1)
    np.testing.assert_allclose(hopf.drift(x), (omega + kappa * a / c) * turned, atol=1e-13)
    assert np.abs((hopf.drift(1.1 * x) * x).sum(-1)).min() > 0.1
    r = (np.arange(60_000) + 0.5) * 1e-4
    phi = hopf.potential(np.stack([0 * r, r], -1), temperature)
    weight = np.exp(-(phi - phi.min()) / temperature) * r
    mean, spread = a / c, np.sqrt(2 * temperature / c)
    expected = scipy.stats.truncnorm(-mean / spread, np.inf, mean, spread).mean()
    assert (weight * r**2).sum() / weight.sum() == pytest.approx(expected, rel=1e-6)
    origin = sde.landscapes.get("hopf").fixed_points()
    assert origin.kind.values.tolist() == ["unstable"]
    np.testing.assert_allclose(np.sort_complex(origin.eigenvalue.values[0]), [1 - 1j, 1 + 1j], atol=1e-12)


def test_q_of_hopf_is_finite_to_the_corners_at_any_temperature():
    hopf, corner = sde.landscapes.get("hopf", c=2.0), np.array([[2.5, 2.5], [1.0, 0.2]])
    symbolic = hopf._exact("q", corner, 0.05)  # erfc(z) e^{z²} as it is printed: 0·∞ far outside
    assert np.isnan(symbolic[0])
    np.testing.assert_allclose(hopf.q(corner, 0.05)[1], symbolic[1], rtol=1e-12)
    s = 12.5  # q Φ' − T q' = (ω + κ r²)/2 with ' by r²; far outside q → (ω + κ r²)/2Φ'
    assert hopf.q(corner, 1e-4)[0] == pytest.approx((1 + 0.5 * s) / (2 * (-0.5 + s)), rel=1e-5)


def test_pearson_knows_its_potential_in_any_units():
    small, x = (
        sde.landscapes.get("pearson", curvatures=(1e-7, 3e-7, 2e-7), centers=(0, 1, -2)),
        np.array([[0.3], [2.0]]),
    )
    usual = sde.landscapes.get("pearson", curvatures=(1.0, 3.0, 2.0), centers=(0, 1, -2))
    rise = [float(np.diff(p.potential(x, t))[0]) for p, t in ((small, 0.2 / 1e-7), (usual, 0.2))]
    assert rise[0] * 1e-7 == pytest.approx(rise[1], rel=1e-9)  # a → εa, T → T/ε: Φ → Φ/ε


def test_pearson_has_the_exact_mean_and_variance():
    pearson, temperature = sde.landscapes.get("pearson"), 0.3
    a, c = np.array([0.5, 1.0, 1.5, 2.0]), np.array([-1.0, 0.5, 0.2, 1.0])
    x = np.linspace(-300, 300, 600_001)[:, None]
    phi = pearson.potential(x, temperature)
    weight = np.exp(-(phi - phi.min()) / temperature)
    mean = (weight * x[:, 0]).sum() / weight.sum()
    center = (a * c).mean() / a.mean()
    assert mean == pytest.approx(center, abs=1e-6) == pearson.known_fixed_points()[0, 0]
    variance = (weight * (x[:, 0] - mean) ** 2).sum() / weight.sum()
    exact = temperature * pearson.diffusion([center])[0, 0] / (a.mean() - temperature * a.var())
    assert variance == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("c", [0.5, 2.0])
def test_multiplicative_well_becomes_unimodal_at_the_maximum_of_its_loss(c):
    """Modes of ρ at x² = 1 − 2Tc, and only 0 from Tc = ½ on."""
    well, x = sde.landscapes.get("multiplicative_well", c=c), np.linspace(-2, 2, 40_001)[:, None]
    for tc in (0.1, 0.3, 0.49, 0.51, 0.8):
        phi = well.potential(x, tc / c)
        lowest = x[1:-1, 0][(phi[1:-1] < phi[:-2]) & (phi[1:-1] < phi[2:])]
        expected = [0.0] if tc > 0.5 else [-np.sqrt(1 - 2 * tc), np.sqrt(1 - 2 * tc)]
        np.testing.assert_allclose(lowest, expected, atol=1e-4)
    assert well.hessian([[0.0]]).item() == -1.0


def test_rosenbrock_has_gaussian_moments():
    """E x = 1, Var x = 10T, E y = 1 + 10T, by quadrature along and across the valley."""
    landscape, temperature = sde.landscapes.get("rosenbrock"), 0.05
    x, across = np.meshgrid(np.linspace(-5, 7, 1201), np.linspace(-0.7, 0.7, 401), indexing="ij")
    weight = np.exp(-landscape.loss(np.stack([x, x**2 + across], -1)) / temperature)
    mean = lambda g: (weight * g).sum() / weight.sum()  # noqa: E731
    assert mean(x) == pytest.approx(1, abs=1e-8)
    assert mean((x - 1) ** 2) == pytest.approx(10 * temperature, rel=1e-6)
    assert mean(x**2 + across) == pytest.approx(1 + 10 * temperature, rel=1e-6)


def test_the_flat_minimum_is_taken_for_its_volume():
    """Curvatures 2 and k(±1) at depth 0; the odds are those of k^{−1/2} e^{−(x²−1)²/4T}, → √10 as T → 0."""
    landscape = sde.landscapes.get("sharp_flat")
    np.testing.assert_allclose(
        landscape.hessian([[-1.0, 0.0], [1.0, 0.0]]), [np.diag([2, 1]), np.diag([2, 10])], atol=1e-12
    )
    odds = []
    for temperature in (0.2, 0.02):
        x, y = np.meshgrid((np.arange(600) - 299.5) / 120, np.linspace(-9, 9, 1801), indexing="ij")
        weight = np.exp(-landscape.loss(np.stack([x, y], -1)) / temperature)
        odds.append(weight[:300].sum() / weight[300:].sum())
        line = np.exp(-((x[:, 0] ** 2 - 1) ** 2) / (4 * temperature)) * 10 ** (-x[:, 0] / 4)
        assert odds[-1] == pytest.approx(line[:300].sum() / line[300:].sum(), rel=1e-6)
    assert abs(odds[1] - np.sqrt(10)) < 0.1 < abs(odds[0] - np.sqrt(10))


def test_scale_invariant_gradients_are_perpendicular_to_the_weights():
    free, decayed = (sde.landscapes.get("scale_invariant", weight_decay=w) for w in (0.0, 0.1))
    x = np.random.default_rng(6).normal(size=(20, 2))
    r = np.linalg.norm(x, axis=-1)
    np.testing.assert_allclose(free.loss(x), x[:, 0] ** 2 / r**2, rtol=1e-13)
    g = free.sample_gradients(x)
    assert np.abs(np.einsum("nki,ni->nk", g, x)).max() < 1e-13 * np.abs(g).max()
    assert np.abs(np.einsum("nki,ni->nk", decayed.sample_gradients(x), x)).min() > 1e-3
    np.testing.assert_allclose(free.gradient(3 * x), free.gradient(x) / 3, rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(free.hessian(3 * x), free.hessian(x) / 9, rtol=1e-10, atol=1e-13)
    et = np.stack([-x[:, 1], x[:, 0]], -1) / r[:, None]
    rank_one = 2 * 0.5**2 / r[:, None, None] ** 2 * et[:, :, None] * et[:, None, :]
    np.testing.assert_allclose(decayed.diffusion(x), rank_one, rtol=1e-10, atol=1e-12)
    eta = 0.3
    after = x[:, None] - eta * decayed.sample_gradients(x)
    norm = (1 - eta * 0.1) ** 2 * r[:, None] ** 2 + eta**2 * (g**2).sum(-1)
    np.testing.assert_allclose((after**2).sum(-1), norm, rtol=1e-12)


def test_scale_invariant_norm_settles_where_noise_and_decay_balance():
    """r⁴ → 2TA²/λ, and r is the same on every path up to the O(√h) of the discrete steps."""
    landscape, temperature, h = sde.landscapes.get("scale_invariant", weight_decay=1.0), 0.2, 1e-3
    run = sde.simulate(landscape.at_temperature(temperature), (1.0, 0.2), step=h, steps=4000, paths=256, seed=2)
    r = np.hypot(run.x, run.y).values
    expected = (2 * temperature * 0.25 / 1.0) ** 0.25
    assert r.mean() == pytest.approx(expected, rel=5e-3) and r.std() < 0.05 * expected
    angle = np.arctan2(run.y, run.x).values
    assert angle.std() > 0.5


def test_the_neurons_have_the_stated_minima():
    points = sde.landscapes.get("neuron").critical_points()
    np.testing.assert_allclose([points.w[0], points.c[0]], [0.149, -0.318], atol=1e-3)
    points = sde.landscapes.get("neuron_two_inputs").critical_points()
    found = np.stack([points[v] for v in ("w1", "w2", "c", "loss")], -1)
    np.testing.assert_allclose(found[0], [0.741, -0.605, -0.310, 0.414], atol=1e-3)
    np.testing.assert_allclose(found[1], [-0.787, -1.134, 1.137, 0.784], atol=1e-3)
    assert points.kind.values[2] == "saddle" and 0.004 < found[2, 3] - found[1, 3] < 0.006


def test_example_19_has_the_published_fixed_points():
    fixed = sde.landscapes.get("example_19").fixed_points(temperature=1.0)
    stable = fixed.isel(point=fixed.kind.values == "stable")
    assert sorted(map(tuple, np.round([stable.x, stable.y], 6).T)) == [
        (-0.902428, -0.388802),
        (0.902428, 0.388802),
    ]
    origin = fixed.isel(point=int(np.hypot(fixed.x, fixed.y).values.argmin()))
    assert origin.kind == "saddle"
    np.testing.assert_allclose(np.sort(origin.eigenvalue.real), [-0.7667, 0.7667], atol=1e-4)
    merged = sde.landscapes.get("example_19", circulation=0.79).fixed_points(temperature=1.0)  # beyond e^{−1/4}
    assert merged.sizes["point"] == 1


def test_mueller_brown_and_himmelblau_are_the_published_surfaces():
    found = sde.landscapes.get("mueller_brown").critical_points()
    expected = [
        (-0.558, 1.442, -146.700, "minimum"),
        (0.623, 0.028, -108.167, "minimum"),
        (-0.050, 0.467, -80.768, "minimum"),
        (0.212, 0.293, -72.249, "saddle"),
        (-0.822, 0.624, -40.665, "saddle"),
    ]
    for k, (x, y, value, kind) in enumerate(expected):
        point = found.isel(point=k)
        np.testing.assert_allclose([point.x, point.y], [x, y], atol=6e-4)
        assert 100 * float(point.loss) == pytest.approx(value, abs=6e-4) and point.kind == kind
    found = sde.landscapes.get("himmelblau").critical_points()
    top = found.isel(point=-1)
    np.testing.assert_allclose([top.x, top.y, 100 * top.loss], [-0.270845, -0.923039, 181.616521], atol=1e-5)
    wells = found.isel(point=found.kind.values == "minimum")
    expected = [(-3.77931, -3.283186), (-2.805118, 3.131313), (3.0, 2.0), (3.584428, -1.848127)]
    np.testing.assert_allclose(sorted(zip(wells.x.values, wells.y.values)), expected, atol=1e-5)


def test_the_saddle_is_left_as_its_exact_law_says():
    """Var x(t) = T(e^{2at} − 1)/a; n = 20000 paths, five standard errors: false alarm 6e-7."""
    saddle, h, steps, paths = sde.landscapes.get("saddle", descent=2.0), 1e-3, 1000, 20_000
    x = sde.simulate(saddle.at_temperature(), (0.0, 0.0), step=h, steps=steps, paths=paths, seed=4).x
    exact = 0.1 * np.expm1(2 * 2.0 * h * steps) / 2.0
    euler = 2 * 0.1 * h * ((1 + 2.0 * h) ** (2 * steps) - 1) / ((1 + 2.0 * h) ** 2 - 1)
    assert abs(euler / exact - 1) < 0.01
    assert abs(float(x.var()) / euler - 1) < 5 * np.sqrt(2 / paths)
    assert not abs(float(x.var()) / (0.1 / 2.0) - 1) < 5 * np.sqrt(2 / paths)  # the law of the well of the same a
