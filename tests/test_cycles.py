"""Closed orbits: periods, multipliers and areas in closed form, orbits that attract, repel, nest, and none at all."""

import matplotlib.colors
import numpy as np
import pytest
import scipy.integrate
import xarray as xr

import sde_sgd as sde
from sde_sgd import figures
from sde_sgd.cycles import find_cycles
from sde_sgd.cycles._field import as_field
from sde_sgd.cycles._recurrence import Trajectories

SQUARE = ((-2, 2), (-2, 2))


def planar(radial, turn=1.0):
    """ṙ = r·radial(r²), θ̇ = turn."""

    def field(x):
        r2 = (x**2).sum(-1)[..., None]
        return x * radial(r2) + turn * np.stack([-x[..., 1], x[..., 0]], -1)

    return field


def van_der_pol(mu):
    return lambda x: np.stack([x[..., 1], mu * (1 - x[..., 0] ** 2) * x[..., 1] - x[..., 0]], -1)


@pytest.mark.parametrize("settings", [{}, {"a": 0.5, "c": 2.0, "omega": -1.3, "kappa": 0.1}])
def test_the_hopf_normal_form(settings):
    """r = √(a/c), T = 2π/|ω + κa/c|, μ = e^(−2aT), the trivial multiplier 1."""
    landscape = sde.landscapes.get("hopf", **settings)
    a, c, omega, kappa = landscape.parameters.values()
    (cycle,) = find_cycles(landscape, starts=2)
    period = 2 * np.pi / abs(omega + kappa * a / c)
    assert cycle.period == pytest.approx(period, rel=1e-10) and cycle.stable
    np.testing.assert_allclose(np.hypot(*cycle.points.T), np.sqrt(a / c), rtol=1e-10)
    np.testing.assert_allclose(cycle.multipliers, [np.exp(-2 * a * period)], rtol=1e-8)
    np.testing.assert_allclose(cycle.lyapunov_exponents, [-2 * a], rtol=1e-9)
    assert cycle.trivial_error < 1e-10 and cycle.residual < 1e-12 and cycle.winding == (0, 0)
    assert cycle.area == pytest.approx(np.sign(omega) * np.pi * a / c, rel=1e-9)
    assert cycle.length == pytest.approx(2 * np.pi * np.sqrt(a / c), rel=1e-9)
    steps = np.linalg.norm(np.diff(cycle.points, axis=0), axis=-1)  # equal in time is equal in angle here
    np.testing.assert_allclose(steps, steps[0], rtol=1e-8)


def test_the_ways_to_give_a_field():
    """A process, a function with differences for its Jacobian, and a spline through values on a grid; a shifted box."""
    landscape = sde.landscapes.get("hopf")
    (exact,) = find_cycles(landscape.at_temperature(0.1), ((-1.5, 1.7), (-1.4, 1.9)), starts=1, points=32)
    x = np.linspace(-1.5, 1.5, 41)
    values = landscape.drift(np.stack(np.meshgrid(x, x, indexing="ij"), -1))
    grid = xr.DataArray(values, dims=("x", "y", "component"), coords={"x": x, "y": x})
    (spline,) = find_cycles(grid, starts=1, points=32)
    (function,) = find_cycles(landscape.drift, ((-1.5, 1.5), (-1.5, 1.5)), variables=("u", "w"), starts=1, points=32)
    for cycle in (spline, function):  # the drift is a cubic: a cubic spline is exact
        assert cycle.period == pytest.approx(exact.period, rel=1e-9)
        np.testing.assert_allclose(cycle.multipliers, exact.multipliers, rtol=1e-6)
    assert function.variables == ("u", "w")


def test_van_der_pol():
    """The period in the literature, and Liouville's μ = exp ∮ div v dt by an independent quadrature."""
    (cycle,) = find_cycles(van_der_pol(1.0), ((-4, 4), (-4, 4)), starts=2)
    assert cycle.period == pytest.approx(6.6632868593, abs=1e-9) and cycle.stable

    def rate(t, z):
        return [z[1], (1 - z[0] ** 2) * z[1] - z[0], 1 - z[0] ** 2]

    settings = dict(method="DOP853", rtol=1e-12, atol=1e-13)
    end = scipy.integrate.solve_ivp(rate, (0, cycle.period), [*cycle.points[0], 0.0], **settings).y[:, -1]
    np.testing.assert_allclose(end[:2], cycle.points[0], atol=1e-10)
    np.testing.assert_allclose(cycle.multipliers, [np.exp(end[2])], rtol=1e-7)


@pytest.mark.parametrize("per_turn", [12, 12 * (1 + 1e-15), 12.37, 4 * np.pi, 17 / 1.5])
def test_a_return_between_steps(per_turn):
    """Steps that divide the period, nearly, or not at all: the same return to the error of a cubic between two steps.

    Counterexample: the nearest of the steps themselves is a return only where they divide the period.
    """
    t = 2 * np.pi / per_turn * np.arange(int(2.6 * per_turn))
    v = as_field(planar(lambda r2: 1 - r2), SQUARE).scaled()
    paths = Trajectories(v, np.array([[0.75, 0.5]]), np.empty((0, 2)), np.empty((0, 2), bool), len(t))
    circle = np.stack([np.cos(t), np.sin(t)], -1)
    paths.t[0, : len(t)], paths.x[0, : len(t)], paths.count[0] = t, 0.5 + circle / 4, len(t) - 1
    paths.f[0, : len(t)] = v.value(0.5 + circle / 4)
    found = paths.guesses(np.array([0]), 0.02)
    assert found.period == pytest.approx([2 * np.pi], abs=1e-3) and found.gap < 1e-3
    nearest = np.linalg.norm(circle[:-6] - circle[-1], axis=-1).min()
    assert (nearest < 1e-12) == (abs(per_turn - 12) < 1e-9)


@pytest.fixture(scope="module")
def nested():
    """ṙ = r(1 − r²)(4 − r²)/8."""
    field = planar(lambda r2: (1 - r2) * (4 - r2) / 8)
    return field, find_cycles(field, ((-3, 3), (-3, 3)), starts=4, points=32)


def test_nested_cycles_of_either_stability(nested):
    """Radii 1 and 2, exponents −3/4 and 3, the second only backward in time."""
    field, (inner, outer) = nested
    assert (inner.kind, outer.kind) == ("stable", "unstable")
    for cycle, radius, exponent in ((inner, 1.0, -0.75), (outer, 2.0, 3.0)):
        np.testing.assert_allclose(np.hypot(*cycle.points.T), radius, rtol=1e-10)
        np.testing.assert_allclose(cycle.lyapunov_exponents, [exponent], rtol=1e-8)
    assert [c.kind for c in find_cycles(field, ((-1.5, 1.5),) * 2, starts=4, points=32)] == ["stable"]


@pytest.mark.evidence
def test_two_cycles_near_a_fold_one_at_it_and_none_beyond():
    """ṙ = −r((r² − 1)² + ε): the slow passage that is left for ε > 0 is not a cycle."""
    fields = [planar(lambda r2, e=e: -((r2 - 1) ** 2) - e) for e in (-1e-4, 0.0, 1e-4)]
    folds = [find_cycles(field, SQUARE, starts=4, points=32) for field in fields]
    assert [[c.kind for c in found] for found in folds] == [["unstable", "stable"], ["non-hyperbolic"], []]
    radii = [float(np.hypot(*c.points.T).mean()) for c in folds[0]]
    np.testing.assert_allclose(radii, np.sqrt([0.99, 1.01]), rtol=1e-8)


def ghost(omega):
    """ṙ = r(1 − r²), θ̇ = ω − cos θ: a saddle-node on the circle at ω = 1, and above it a slow passage."""

    def field(x):
        r = np.maximum(np.sqrt((x**2).sum(-1)), 1e-12)[..., None]
        return (1 - r**2) * x + (omega - x[..., :1] / r) * np.stack([-x[..., 1], x[..., 0]], -1)

    return field


@pytest.mark.parametrize("omega", [1.01, pytest.param(1.001, marks=pytest.mark.evidence)])
def test_slow_passages(omega):
    """T = 2π/√(ω² − 1) above the saddle-node, however long; none below it, where nothing moves in the end."""
    assert find_cycles(ghost(0.999), SQUARE, starts=2, steps=400) == []
    (cycle,) = find_cycles(ghost(omega), ((-1.3, 1.3),) * 2, starts=1, points=32)
    assert cycle.period == pytest.approx(2 * np.pi / np.sqrt(omega**2 - 1), rel=1e-9)


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(s, marks=pytest.mark.evidence) for s in range(2, 20))])
def test_random_systems_without_cycles(seed):
    """Gradients of random quartics, and linear foci with cubic damping, as slow as e^(−0.06) a turn."""
    random = np.random.default_rng(seed)
    if seed % 2:
        alpha, omega = 10.0 ** random.uniform(-2, 0), random.uniform(1, 3)
        field = planar(lambda r2: -alpha - r2, omega)
    else:
        a = random.normal(size=(4, 4))
        k = np.arange(4)

        def field(x):
            x, y = x[..., 0, None, None], x[..., 1, None, None]
            dx = (a * k[:, None] * x ** np.maximum(k[:, None] - 1, 0) * y**k).sum((-1, -2))
            dy = (a * k * x ** k[:, None] * y ** np.maximum(k - 1, 0)).sum((-1, -2))
            return -np.stack([dx + 8 * x[..., 0, 0] ** 3, dy + 8 * y[..., 0, 0] ** 3], -1)

    assert find_cycles(field, SQUARE, starts=4, steps=200) == []


def test_three_dimensions():
    """A Hopf cycle with z contracting to z = x: exponents −2 and −1/2; with time reversed it repels."""

    def field(x):
        flat = planar(lambda r2: 1 - r2)(x[..., :2])
        return np.concatenate([flat, -0.5 * (x[..., 2:] - x[..., :1]) + flat[..., :1]], -1)

    for sign, kind in ((1, "stable"), (-1, "unstable")):
        (cycle,) = find_cycles(lambda x: sign * field(x), ((-2, 2),) * 3, starts=1, points=32)  # noqa: B023
        assert cycle.kind == kind and cycle.period == pytest.approx(2 * np.pi, rel=1e-10) and cycle.area is None
        np.testing.assert_allclose(np.sort(sign * cycle.lyapunov_exponents), [-2.0, -0.5], rtol=1e-7)
        np.testing.assert_allclose(cycle.points[:, 2], cycle.points[:, 0], atol=1e-9)


def test_rotation_on_a_ring():
    """θ̇ = F − sin θ turns with T = 2π/√(F² − 1) for F > 1 and rests for F < 1."""
    (cycle,) = find_cycles(sde.landscapes.get("ring", force=1.2), starts=2)
    assert cycle.period == pytest.approx(2 * np.pi / np.sqrt(0.44), rel=1e-10) and cycle.winding == (1,)
    assert find_cycles(sde.landscapes.get("ring", force=0.8), starts=4) == [] == find_cycles(lambda x: -x, ((-1, 1),))


# families -----------------------------------------------------------------------------------------------------


def test_the_remainder_of_example_19_turns_on_circles():
    """ẋ = j = λe^(Φ − r⁴/4)(−y, x): every circle is closed, one family, though div j ≠ 0; the drift has no cycle."""
    landscape = sde.landscapes.get("example_19", circulation=1.5)

    def swirl(z):
        x, y = z[..., :1], z[..., 1:]
        rate = 1.5 * np.exp((x**2 - 1) ** 2 / 4 + y**2 / 2 - (x**2 + y**2) ** 2 / 4)
        return rate * np.concatenate([-y, x], -1)

    at = np.random.default_rng(0).uniform(-1, 1, (5, 2))
    np.testing.assert_allclose(swirl(at), landscape.remainder(at, 1.0), rtol=1e-12)
    orbits = find_cycles(swirl, ((-1.5, 1.5), (-1.5, 1.5)), starts=1, steps=100, points=64)
    assert 2 <= len(orbits) <= 5 and {(c.kind, c.family, c.stable) for c in orbits} == {("centre", 0, False)}
    for orbit in orbits:
        r = np.hypot(*orbit.points.T)
        assert np.ptp(r) < 1e-9 and orbit.area == pytest.approx(np.pi * r[0] ** 2, rel=1e-8)
        np.testing.assert_allclose(orbit.multipliers, [1.0], atol=1e-8)
        angle = np.linspace(0, 2 * np.pi, 400, endpoint=False)  # T = ∮ dθ/θ̇
        speed = np.linalg.norm(swirl(r[0] * np.stack([np.cos(angle), np.sin(angle)], -1)), axis=-1) / r[0]
        assert orbit.period == pytest.approx(2 * np.pi * np.mean(1 / speed), rel=1e-8)


@pytest.mark.evidence
def test_families_are_told_apart():
    """ẍ = x − x³: one around each well and one around both; nothing else, on either side of the separatrix."""
    orbits = find_cycles(
        lambda x: np.stack([x[..., 1], x[..., 0] - x[..., 0] ** 3], -1), SQUARE, starts=16, steps=120, points=32
    )
    assert {c.kind for c in orbits} == {"centre"}
    sides = {(c.family, int(np.sign(c.points[:, 0].min()) + np.sign(c.points[:, 0].max()))) for c in orbits}
    assert sorted(side for _, side in sides) == [-2, 0, 2] and len({family for family, _ in sides}) == 3
    for c in orbits:
        energy = c.points[:, 1] ** 2 / 2 - c.points[:, 0] ** 2 / 2 + c.points[:, 0] ** 4 / 4
        assert np.ptp(energy) < 1e-9


@pytest.mark.evidence
def test_the_remainder_from_a_grid():
    """j of `decompose` on 64² cells: circles to 1 %, a family, with the period 2π/(ω + κr²) of the exact j to 10⁻³.

    Counterexample: with the closure of an exact field none of these orbits is closed, and no family is seen.
    """
    process = sde.landscapes.get("hopf").at_temperature(0.1)
    remainder = sde.decompose(sde.FokkerPlanck(process, sde.Grid((-2, -2), (2, 2), (64, 64)))).remainder
    orbits = find_cycles(remainder, ((-1.4, 1.4),) * 2)
    assert {(c.kind, c.family) for c in orbits} == {("centre", 0)} and len(orbits) == 5
    for orbit in orbits:
        r = np.hypot(*orbit.points.T)
        assert np.ptp(r) < 0.01 * r.mean() and 0 < orbit.residual < 0.01
        assert orbit.period == pytest.approx(2 * np.pi / (1 + 0.5 * (r**2).mean()), rel=1e-3)
    assert "centre" not in {c.kind for c in find_cycles(remainder, ((-1.4, 1.4),) * 2, closure=1e-6, starts=8)}


# figures and faults -----------------------------------------------------------------------------------------


def test_the_phase_portrait(nested):
    field, cycles = nested
    box = ((-3, 3), (-3, 3))
    points = sde.find_fixed_points(field, box)
    ax = figures.plot_cycles(field, cycles, points, box)
    drawn = {line.get_label(): line for line in ax.lines}
    assert drawn["stable cycle"].get_linestyle() == "-" and drawn["unstable cycle"].get_linestyle() == "--"
    assert matplotlib.colors.to_hex(drawn["unstable focus"].get_markerfacecolor()) == "#ffffff"
    np.testing.assert_allclose(np.hypot(*drawn["unstable cycle"].get_data()), 2.0, rtol=1e-9)
    with pytest.raises(ValueError, match="drawn in the plane"):
        figures.plot_cycles(lambda x: -x, [], box=((-1, 1),) * 3)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda f: find_cycles(3, SQUARE), "must be a Process, a Landscape, a function"),
        (lambda f: find_cycles(f), "pass box="),
        (lambda f: find_cycles(f, ((-1, 1), (2, 2))), "lower < upper"),
        (lambda f: find_cycles(lambda x: x[..., 0], SQUARE), r"\(\.\.\., d\) → \(\.\.\., d\)"),
        (lambda f: find_cycles(f, SQUARE, starts=0), "starts"),
        (lambda f: find_cycles(f, SQUARE, closure=-1.0), "closure"),
        (lambda f: find_cycles(f, SQUARE, temperature=1.0), "leave temperature out"),
        (lambda f: find_cycles(f, SQUARE, variables=("x",)), "one name per pair"),
        (lambda f: find_cycles(xr.DataArray(np.zeros((5, 5)), dims=("x", "y"))), "last dimension component"),
        (lambda f: find_cycles(sde.landscapes.get("ring"), ((-1, 1),)), "periodic"),
        (lambda f: find_cycles(sde.Landscape(("x", "y"), "x**2 + y**2")), "no finite domain"),
    ],
)
def test_faults_in_words(call, words):
    with pytest.raises(ValueError, match=words):
        call(planar(lambda r2: 1 - r2))
