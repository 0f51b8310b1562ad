"""Linear drift in any number of variables: against the symbolic quadratic and the Lyapunov equation."""

import numpy as np
import scipy.linalg

import sde_sgd as sde
from sde_sgd.landscapes._linear import LinearLandscape

RNG = np.random.default_rng(12)
FIELDS = ("loss", "gradient", "hessian", "diffusion", "diffusion_divergence", "drift")


def central(function, x, step=1e-6):
    parts = [(function(x + step * e) - function(x - step * e)) / (2 * step) for e in np.eye(x.shape[-1])]
    return np.stack(parts, -1)


def test_a_linear_landscape_is_the_symbolic_quadratic():
    q = sde.landscapes.get("quadratic", a=1.3, c=2.5, dxx=0.7, dxy=-0.2, dyy=1.1, rotation=0.9)
    linear = sde.Landscape.linear([[1.3, 0.9], [-0.9, 2.5]], [[0.7, -0.2], [-0.2, 1.1]], variables=("x", "y"))
    x = RNG.normal(size=(4, 3, 2))
    for name in FIELDS:
        np.testing.assert_allclose(getattr(linear, name)(x), getattr(q, name)(x), rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(linear.potential(x, 0.3), q.potential(x, 0.3), rtol=1e-12)
    np.testing.assert_allclose(linear.remainder(x, 0.3), q.remainder(x, 0.3), rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(linear.evaluator().jacobian(x), q.evaluator().jacobian(x), rtol=1e-13)
    np.testing.assert_allclose(linear.constant_diffusion(), q.constant_diffusion())
    run = dict(start=(0.5, -1.0), step=0.05, steps=40, paths=70, seed=2)
    a, b = (sde.simulate(m.at_temperature(0.3), **run) for m in (linear, q))
    for name in ("x", "y"):
        np.testing.assert_allclose(a[name], b[name], rtol=1e-11, atol=1e-13)
    fixed = linear.fixed_points(box=((-2, 2), (-2, 2)))
    assert fixed.kind.values.tolist() == ["stable"]


def random_linear(d, center=None):
    m = RNG.normal(size=(d, d)) / np.sqrt(d)
    noise = RNG.normal(size=(d, d)) / np.sqrt(d)
    return LinearLandscape(m + 2.5 * np.eye(d), noise @ noise.T + 0.1 * np.eye(d), center=center)


def test_a_hundred_variables_and_their_stationary_density():
    center = RNG.normal(size=100)
    linear = random_linear(100, center)
    x = RNG.normal(size=(3, 100))
    np.testing.assert_allclose(linear.drift(x), -(x - center) @ linear.F.T, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(linear.gradient(x), central(linear.loss, x), rtol=1e-6, atol=1e-6)
    d = linear.constant_diffusion()
    u = central(lambda p: central(linear.potential, p, 1e-2), x[:1], 1e-2)[0]  # Φ is quadratic: exact to rounding
    sigma = np.linalg.inv(u)
    np.testing.assert_allclose(linear.F @ sigma + sigma @ linear.F.T, 2 * d, atol=1e-7)

    np.testing.assert_allclose(linear.hessian(x[0]), 0.5 * (linear.F + linear.F.T), rtol=1e-14)


def test_equilibrium_is_known_only_where_there_is_no_current():
    x = RNG.normal(size=(5, 3))
    f, d = np.diag([1.0, 2.0, 3.0]), np.diag([0.5, 1.0, 4.0])
    phi = LinearLandscape(f, d).equilibrium_potential()
    assert phi is not None
    np.testing.assert_allclose(phi(x), 0.5 * (x**2) @ [2.0, 2.0, 0.75], rtol=1e-14)
    symmetric = LinearLandscape([[2.0, 0.7], [0.7, 1.0]], 3 * np.eye(2))
    flat = symmetric.equilibrium_potential()
    assert flat is not None
    np.testing.assert_allclose(flat(x[:, :2]), symmetric.loss(x[:, :2]) / 3, rtol=1e-13, atol=1e-15)
    f[0, 1] = 0.3
    assert LinearLandscape(f, d).equilibrium_potential() is None  # F D is not symmetric
    assert LinearLandscape(np.eye(2), np.diag([1.0, 0.0])).equilibrium_potential() is None  # no density
    assert LinearLandscape(np.eye(2), np.diag([1.0, 0.0])).potential(x[:, :2]) is None
    assert LinearLandscape(np.diag([1.0, -1.0])).potential(x[:, :2]) is None  # a saddle
    hypo = LinearLandscape([[0.0, -1.0], [1.0, 1.0]], np.diag([0.0, 1.0]))  # noise on the velocity alone
    np.testing.assert_allclose(hypo.potential(x[:, :2]), 0.5 * (x[:, :2] ** 2).sum(-1), rtol=1e-12)


def test_the_lyapunov_equation_is_the_package_convention():
    """THEORY's example: F = diag(1, 3), D = [[1, ½], [½, 1]], T = 1: S = [[1, ¼], [¼, ⅓]]."""
    linear = LinearLandscape(np.diag([1.0, 3.0]), [[1.0, 0.5], [0.5, 1.0]])
    s = scipy.linalg.solve_continuous_lyapunov(linear.F, 2 * linear.constant_diffusion())
    np.testing.assert_allclose(s, [[1, 0.25], [0.25, 1 / 3]], rtol=1e-14)
    x = RNG.normal(size=(6, 2))
    expected = 0.5 * np.einsum("ni,ij,nj->n", x, np.linalg.inv([[1, 0.25], [0.25, 1 / 3]]), x)
    np.testing.assert_allclose(linear.potential(x), expected, rtol=1e-13)
    np.testing.assert_allclose(linear.q(x), np.full(6, -0.25), rtol=1e-13)  # Q₁₂
    j = linear.remainder(x, 0.7)
    np.testing.assert_allclose((j * (x @ np.linalg.inv(s))).sum(-1), 0.0, atol=1e-13)  # j ⟂ ∇Φ
    np.testing.assert_array_equal(linear.drift(linear.known_fixed_points()), 0.0)
    assert random_linear(3).q(np.zeros(3)) is None and LinearLandscape([[-1.0]]).remainder([0.0], 1.0) is None
