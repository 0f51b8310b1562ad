"""local_entropy: closed forms, the heat equation through a Fourier transform, its own equation, and Monte Carlo."""

import pickle

import numpy as np
import pytest

import sde_sgd as sde
from sde_sgd.errors import NotConverged, TooFewSamples

A = np.array([[2.0, 0.8], [0.8, 1.0]])
TILTED = "2*(x**2 - 1)**2 + x/2"
COUPLED = "(x**2 - 1)**2 + y**2 + x*y/2"


def quadratic(**options):
    return sde.local_entropy(sde.Landscape(("x", "y"), "x**2 + 0.8*x*y + y**2/2"), 0.5, **options)


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_a_quadratic_stays_one(temperature):
    smooth, x = quadratic(temperature=temperature), np.array([[0.6, -0.4], [2.0, 1.0], [9.0, -7.0]])
    flat = np.eye(2) + 0.5 * A
    curved = A @ np.linalg.inv(flat)
    expected = 0.5 * np.einsum("ki,ij,kj->k", x, curved, x) + 0.5 * temperature * np.linalg.slogdet(flat)[1]
    np.testing.assert_allclose(smooth.loss(x), expected, rtol=1e-13)
    np.testing.assert_allclose(smooth.gradient(x), x @ curved, rtol=1e-12)
    np.testing.assert_allclose(smooth.hessian(x), np.broadcast_to(curved, (3, 2, 2)), atol=1e-12)
    np.testing.assert_allclose(smooth.mean(x), np.linalg.solve(flat, x.T).T, rtol=1e-12)
    np.testing.assert_allclose(smooth.drift(x), -smooth.gradient(x))
    # with a quartic added, which leaves the Hessian at 0 as it is, the formula is far off
    quartic = sde.local_entropy(sde.Landscape(("x", "y"), "x**2 + 0.8*x*y + y**2/2 + x**4/2"), 0.5)
    assert abs(quartic.loss([0.0, 0.0]) - 0.5 * np.linalg.slogdet(flat)[1]) > 0.02


def by_fourier(loss, low, high, n, gamma, temperature):
    """−T log of e^{−f/T} convolved with the Gaussian of variance γT, on a box that e^{−f/T} does not fill."""
    d = len(loss.variables)
    axis = low + (high - low) * np.arange(n) / n
    points = np.stack(np.meshgrid(*[axis] * d, indexing="ij"), -1)
    k = 2 * np.pi * np.fft.fftfreq(n, (high - low) / n)
    square = sum(np.meshgrid(*[k**2] * d, indexing="ij"))
    weight = np.fft.fftn(np.exp(-loss.loss(points) / temperature)) * np.exp(-0.5 * gamma * temperature * square)
    return points, -temperature * np.log(np.maximum(np.fft.ifftn(weight).real, 1e-300))


@pytest.mark.parametrize(
    ("loss", "n", "gamma", "temperature"),
    [(TILTED, 512, 0.15, 1.0), (TILTED, 512, 0.6, 0.5), (COUPLED, 128, 0.2, 1.0)],
)
def test_it_is_the_heat_equation_solved_by_fourier(loss, n, gamma, temperature):
    """Where e^{−f_γ/T} > 1e-5, so that rounding in the transform, 1e-16 of the largest value, is 1e-11 of it."""
    names = ("x", "y")[: 2 if "y" in loss else 1]
    landscape = sde.Landscape(names, loss)
    points, expected = by_fourier(landscape, -6.0, 6.0, n, gamma, temperature)
    inside = (expected < temperature * 11) & (np.abs(points).max(-1) < 3)
    some = np.flatnonzero(inside.ravel())[:: 1 if len(names) == 1 else 37]
    smooth = sde.local_entropy(landscape, gamma, temperature=temperature)
    np.testing.assert_allclose(
        smooth.loss(points.reshape(-1, len(names))[some]), expected.ravel()[some], rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_it_solves_the_viscous_equation_and_not_the_inviscid(temperature):
    """∂_γ f = −|∇f|²/2 + TΔf/2, the left side by central differences of fourth order."""
    smooth = sde.local_entropy(sde.Landscape(("x", "y"), COUPLED), 0.2, temperature=temperature)
    x, h = np.array([[1.2, 0.7], [0.0, 0.0], [-0.8, -1.5]]), 2e-3
    at = {k: smooth.with_parameters(gamma=0.2 + k * h).loss(x) for k in (-2, -1, 1, 2)}
    change = (8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * h)
    advection = -0.5 * (smooth.gradient(x) ** 2).sum(-1)
    laplacian = np.trace(smooth.hessian(x), axis1=1, axis2=2)
    np.testing.assert_allclose(change, advection + 0.5 * temperature * laplacian, atol=1e-7)
    assert np.abs(change - advection).max() > 0.1


def test_derivatives_are_those_of_the_value_and_scopes_add_up():
    tilted = sde.Landscape("x", TILTED)
    smooth, x, h = sde.local_entropy(tilted, 0.15), np.array([[1.2], [-0.3]]), 1e-4
    np.testing.assert_allclose(smooth.gradient(x)[:, 0], (smooth.loss(x + h) - smooth.loss(x - h)) / (2 * h), rtol=1e-6)
    np.testing.assert_allclose(smooth.hessian(x)[:, 0], (smooth.gradient(x + h) - smooth.gradient(x - h)) / (2 * h),
                               rtol=1e-6)  # fmt: skip
    z, w = np.polynomial.hermite_e.hermegauss(120)
    twice = -np.log((w * np.exp(-smooth.loss((x + np.sqrt(0.2) * z)[..., None]))).sum(-1) / w.sum())
    np.testing.assert_allclose(sde.local_entropy(tilted, 0.35).loss(x), twice, rtol=1e-9)
    np.testing.assert_allclose(sde.local_entropy(smooth, 0.2).loss(x), twice, rtol=1e-9)
    # without temperature it is the Moreau envelope
    cold = sde.local_entropy(tilted, 0.15, temperature=1e-4)
    around = np.linspace(-3, 3, 600_001)
    envelope = [(tilted.loss(around[:, None]) + (around - p[0]) ** 2 / 0.3).min() for p in x]
    np.testing.assert_allclose(cold.loss(x), envelope, atol=1e-3)


def test_a_wide_valley_wins_where_the_closed_form_says():
    """−log of two Gaussians: each stays one, so f_γ(sharp) − f_γ(wide) is known at every γ; the sharp one is deeper."""
    wide, sharp, lead = 2.0, 30.0, 0.5
    loss = sde.Landscape("x", f"-log(exp(-{wide}*(x + 1)**2/2) + exp({lead} - {sharp}*(x - 1)**2/2))")

    def exact(x, gamma):
        parts = [np.exp(h - k * (x - c) ** 2 / (2 * (1 + gamma * k))) / np.sqrt(1 + gamma * k)
                 for h, c, k in ((0.0, -1.0, wide), (lead, 1.0, sharp))]  # fmt: skip
        return -np.log(sum(parts))

    assert loss.loss([1.0]) < loss.loss([-1.0])
    gaps = {}
    for gamma in (0.01, 0.06, 0.2, 0.6):
        smooth = sde.local_entropy(loss, gamma)
        gaps[gamma] = float(smooth.loss([1.0]) - smooth.loss([-1.0]))
        assert gaps[gamma] == pytest.approx(exact(1.0, gamma) - exact(-1.0, gamma), abs=1e-11)
    assert gaps[0.01] < 0 < gaps[0.2] < gaps[0.6]
    lowest = sde.local_entropy(loss, 0.6).critical_points([(-2.0, 2.0)])
    line = np.linspace(-2, 2, 4001)
    assert lowest.kind[0] == "minimum" and abs(lowest.x.values[0] - line[exact(line, 0.6).argmin()]) < 1e-3


def test_it_is_a_landscape_like_any_other():
    smooth = sde.local_entropy(sde.Landscape("x", TILTED, domain=((-3, 3),)), 0.05)
    assert smooth.critical_points().kind.values.tolist() == ["minimum", "minimum", "maximum"]
    merged = smooth.with_parameters(gamma=1.5)
    assert (np.diff(np.sign(merged.gradient(np.linspace(-3, 3, 200)[:, None])[:, 0])) > 0).sum() == 1
    grid = sde.Grid(-3.0, 3.0, 300)
    rho = sde.FokkerPlanck(smooth.at_temperature(0.5), grid).steady_state().values
    expected = np.exp(-smooth.loss(grid.centers()) / 0.5)
    np.testing.assert_allclose(rho, expected / (expected.sum() * grid.cell_volume), rtol=1e-9)
    again = pickle.loads(pickle.dumps(smooth))
    assert again.loss([0.3]) == smooth.loss([0.3]) and again.parameters["gamma"] == 0.05
    neuron = sde.landscapes.get("neuron")
    point = [0.5, 0.2]
    of_data = sde.local_entropy(neuron, 0.1)
    np.testing.assert_array_equal(of_data.diffusion(point), neuron.diffusion(point))
    assert of_data.loss(point) < neuron.loss(point) + 0.5 * np.trace(neuron.hessian(point))


def test_monte_carlo_is_within_its_error_and_its_gradient_is_its_own():
    """Within five standard errors of eight sets (Student's t with 7: chance 2e-3 each, seeded)."""
    options = dict(method="monte_carlo", samples=2048, seed=3)
    exact, drawn, x = quadratic(), quadratic(**options), np.array([[0.6, -0.4], [1.0, 1.0]])
    assert (np.abs(drawn.loss(x) - exact.loss(x)) < 5 * drawn.error(x)).all() and (drawn.error(x) < 0.02).all()
    assert (exact.error(x) == 0).all()
    h = 1e-5
    step = [(drawn.loss(x + h * e) - drawn.loss(x - h * e)) / (2 * h) for e in np.eye(2)]
    np.testing.assert_allclose(drawn.gradient(x), np.stack(step, -1), rtol=1e-7)
    bend = [(drawn.gradient(x + h * e) - drawn.gradient(x - h * e)) / (2 * h) for e in np.eye(2)]
    np.testing.assert_allclose(drawn.hessian(x), np.stack(bend, -1), rtol=1e-6, atol=1e-8)
    wide = np.diag(np.arange(1.0, 9.0)) / 4
    many, at = sde.local_entropy(sde.Landscape.linear(wide), 0.2), np.full(8, 0.5)
    flat = np.eye(8) + 0.2 * wide
    closed = 0.5 * at @ wide @ np.linalg.solve(flat, at) + 0.5 * np.linalg.slogdet(flat)[1]
    assert abs(many.loss(at) - closed) < 5 * many.error(at)
    with pytest.raises(TooFewSamples, match=r"count as only 1\.\d.*smaller γ"):
        sde.local_entropy(sde.Landscape.linear(40 * np.eye(30)), 5.0).loss(np.ones(30))


@pytest.mark.parametrize(
    ("make", "fault", "says"),
    [
        (lambda: sde.local_entropy(sde.Landscape("x", "-x**2"), 0.6).loss([0.0]), ValueError, "does not exist"),
        (lambda: sde.local_entropy(sde.Landscape("x", "log(x)"), 0.6).loss([0.1]), ValueError, "must be a number"),
        (lambda: sde.local_entropy(sde.Landscape("x", "30*abs(sin(2000*x))"), 1.0).loss([0.1]), NotConverged, "fine"),
        (lambda: sde.local_entropy(sde.landscapes.get("hopf"), 0.6), ValueError, "circulation"),
        (lambda: sde.local_entropy(sde.Landscape("x", "x**2"), 0.0), ValueError, "gamma"),
        (lambda: sde.local_entropy(sde.Landscape("gamma", "gamma**2"), 0.1), ValueError, "rename"),
        (lambda: sde.local_entropy(quadratic(), 0.1, temperature=0.5), ValueError, "at one temperature"),
        (lambda: sde.local_entropy("x**2", 0.1), ValueError, "landscape"),
        (lambda: quadratic(method="fft"), ValueError, "method"),
        (lambda: sde.local_entropy(sde.landscapes.get("neuron"), 0.1).lane_code(), ValueError, "no paths"),
    ],
)
def test_what_cannot_be_smoothed_is_refused(make, fault, says):
    with pytest.raises(fault, match=says):
        make()


@pytest.mark.evidence(table="local_entropy_paths")
def test_paths_of_a_local_entropy(table):
    """The compiled slope against the rule of NumPy, and stationary paths against e^{−f_γ/T} (five standard errors).

    The loss that is not smoothed has another stationary state, more of these errors away than are granted.
    """
    rows = []
    for names, loss, gamma in ((("x",), TILTED, 0.3), (("x", "y"), COUPLED, 0.4)):
        smooth = sde.local_entropy(sde.Landscape(names, loss), gamma)
        slope = smooth.lane_code().functions["slope"]
        points = np.random.default_rng(0).normal(size=(20, len(names)))
        gap = np.abs([slope(*p) for p in points] - smooth.gradient(points)).max()
        assert gap < 1e-10
        paths, steps, step = (2000, 300, 0.02) if len(names) == 1 else (600, 120, 0.03)
        run = sde.simulate(smooth.at_temperature(0.5), [0.0] * len(names), step=step, steps=steps, paths=paths, seed=1)
        axis = np.linspace(-4, 4, 401 if len(names) == 1 else 81)
        at = np.stack(np.meshgrid(*[axis] * len(names), indexing="ij"), -1)
        weight, bare, off = np.exp(-smooth.loss(at) / 0.5), np.exp(-smooth.inner.loss(at) / 0.5), []
        for k, name in enumerate(names):
            values = run[name].values
            for power in (1, 2):
                expected = float((weight * at[..., k] ** power).sum() / weight.sum())
                error = (values**power).std() / np.sqrt(len(values))
                unsmoothed = float((bare * at[..., k] ** power).sum() / bare.sum())
                off.append(abs(expected - unsmoothed) / error)
                z = float(((values**power).mean() - expected) / error)
                rows.append([", ".join(names), gamma, f"{name}^{power}", f"{expected:.4f}", f"{z:.2f}", f"{gap:.1e}"])
                assert abs(z) < 5
        assert max(off) > 5
    table(
        "Stationary paths of local entropies",
        ["variables", "γ", "moment", "e^{−f_γ/T}", "z of paths", "slope, gap"],
        rows,
    )
