"""Paths of least action against exact quasi-potentials, Lyapunov's equation and an action in time."""

import numpy as np
import pytest
import scipy.integrate
import scipy.sparse.linalg

import sde_sgd as sde
from sde_sgd.landscapes._linear import LinearLandscape
from sde_sgd.potential._action import Limit, Segments, action
from sde_sgd.potential._newton import minimise, spread

SHEARED = sde.landscapes.get("sheared_double_well")
LEFT = np.array([-np.sqrt(3.0), -1.0])
MAIER_STEIN = [["1", "0"], ["0", "1"]]


def maier_stein(alpha, rate=1.0):
    drift = ["x - x**3 - alpha*x*y**2", "-rate*(1 + x**2)*y"]
    parameters = {"alpha": alpha, "rate": rate}
    return sde.Process(drift, MAIER_STEIN, 0.1, variables=("x", "y"), parameters=parameters)


def reversed_relaxation(process, start, steps=4000, duration=60.0):
    """The relaxation from `start`, run backwards: the instanton of detailed balance."""
    path = scipy.integrate.solve_ivp(
        lambda t, x: process.drift(x), (0, duration), start, rtol=1e-11, atol=1e-13, dense_output=True
    )
    return path.sol(np.linspace(0, duration, steps)[::-1]).T


# a double well with a current ------------------------------------------------------------------------------


def test_the_driven_well_is_left_at_the_cost_of_its_potential():
    """ΔΦ = ¼ although Δf = ⅝; p = ∇Φ and ẋ = b + 2D∇Φ uphill, p = 0 downhill; the saddle is found."""
    process = SHEARED.at_temperature(0.1)
    path = sde.minimum_action_path(process, LEFT, -LEFT)
    assert float(path.total_action) == pytest.approx(0.25, abs=1e-6)
    assert abs(float(path.total_action) - 0.25) < float(path.total_action_error) < 1e-6
    np.testing.assert_allclose(path.crossings.values, [[0.0, 0.0]], atol=1e-9)
    up, down = (path.isel(point=np.flatnonzero(path.piece.values == k)) for k in (0, 1))
    x, p = up.path.values, up.momentum.values
    slope = SHEARED._potential_gradient(x, 0.1)
    np.testing.assert_allclose(p, slope, atol=3e-4)
    np.testing.assert_allclose(up.action.values, SHEARED.potential(x, 0.1), atol=2e-6)  # V all along, not its end only
    assert np.abs(down.momentum.values).max() < 1e-3 and np.ptp(down.action.values) < 1e-7
    b, d = process.drift(x), np.diag([3.0, 1.0])
    np.testing.assert_allclose((p * b).sum(-1) + np.einsum("ni,ij,nj->n", p, d, p), 0.0, atol=1e-14)  # H = 0
    # the times are those of ẋ = b + 2Dp
    inner = slice(20, 110)
    velocity = np.gradient(x[inner], up.time.values[inner], axis=0)
    np.testing.assert_allclose(velocity[1:-1], (b + 2 * p @ d)[inner][1:-1], atol=2e-3)
    assert up.time.values[0] == -np.inf and up.time.values[-1] == np.inf
    assert float(path.residual.max()) < 5e-3 and path.attrs["excess"] < 1e-9


def test_orders_in_the_number_of_points():
    """2 for the polygon's own action, 4 along the spline, 2 for p and for the Euler–Lagrange equation."""
    process, limit = SHEARED.at_temperature(0.1), Limit(SHEARED.at_temperature(0.1))
    polygon, spline, momentum, residual = [], [], [], []
    for points in (33, 65, 129):
        path = sde.minimum_action_path(process, LEFT, (0.0, 0.0), points=points)
        x = path.path.values
        polygon.append(action(limit, x) - 0.25)
        spline.append(abs(float(path.total_action) - 0.25))
        momentum.append(np.abs(path.momentum.values - SHEARED._potential_gradient(x, 0.1)).max())
        residual.append(float(path.residual[points // 4 : -points // 4].max()))
    order = lambda e: np.log2(np.array(e[:-1]) / e[1:])  # noqa: E731
    np.testing.assert_allclose(order(polygon), 2.0, atol=0.1)
    np.testing.assert_allclose(order(spline), 4.0, atol=0.5)
    assert (order(momentum) > 1.5).all() and (order(residual) > 1.5).all(), (momentum, residual)


def test_counterexamples_of_other_paths():
    """A straight line costs more; so does the reversed relaxation where there is a current, but not without."""
    end, process = np.array([1.0, 0.5]), sde.landscapes.get("quadratic", rotation=1.0).at_temperature(0.3)
    exact = float(process.potential(end))
    path = sde.minimum_action_path(process, (0, 0), end)
    assert float(path.total_action) == pytest.approx(exact, abs=1e-7)
    limit = Limit(process)
    assert action(limit, np.linspace([0, 0], end, 1000)) > 1.01 * exact
    assert action(limit, reversed_relaxation(process, end)) > 1.05 * exact
    uphill = reversed_relaxation(SHEARED.at_temperature(0.1), [-0.02, -0.01], duration=80.0)
    assert action(Limit(SHEARED.at_temperature(0.1)), uphill) > 0.3
    gradient = sde.Landscape(("x", "y"), "x**2/2 + 3*x*y/2 + 2*y**2").at_temperature(0.3)
    relaxation = reversed_relaxation(gradient, end)
    assert action(Limit(gradient), relaxation) == pytest.approx(float(gradient.landscape.loss(end)), rel=1e-5)


def test_the_gradient_of_the_action():
    """Against differences of the action itself, D(x) included; the second derivative against those of the gradient."""
    model = sde.Landscape.manufactured(
        ("x", "y"), "(x**2 - 1)**2/4 + y**2/2", [["1 + x**2/4", "y/4"], ["y/4", "1 + (x + y)**2/5"]], "1 + x*y/2"
    )
    limit, rng = Limit(model.at_temperature(0.1)), np.random.default_rng(1)
    x = np.cumsum(rng.uniform(0.05, 0.2, (7, 2)), axis=0) - 1.0
    gradient = Segments(limit, x).gradient()
    for point, axis in ((1, 0), (3, 1), (5, 0)):
        shift = np.zeros_like(x)
        shift[point, axis] = 1e-6
        slope = (action(limit, x + shift) - action(limit, x - shift)) / 2e-6
        assert gradient[point - 1, axis] == pytest.approx(slope, abs=1e-8)
        change = (Segments(limit, x + shift).gradient() - Segments(limit, x - shift).gradient()) / 2e-6
        by_middle, mixed, by_step = Segments(limit, x).second()
        own = 0.25 * (by_middle[point - 1] + by_middle[point]) + by_step[point - 1] + by_step[point]
        own += 0.5 * (mixed[point - 1] + mixed[point - 1].T - mixed[point] - mixed[point].T)
        np.testing.assert_allclose(change[point - 1], own[:, axis], rtol=2e-5, atol=1e-6)


# exact quasi-potentials ------------------------------------------------------------------------------------


def test_ten_variables_by_lyapunov():
    rng, d = np.random.default_rng(0), 10
    noise = rng.normal(size=(d, d))
    drift = np.diag(rng.uniform(1, 2, d)) + 0.3 * rng.normal(size=(d, d))
    linear = LinearLandscape(drift, noise @ noise.T / d + 0.3 * np.eye(d))
    with pytest.raises(ValueError, match="D is singular"):
        degenerate = LinearLandscape(np.eye(2), [[1.0, 0.0], [0.0, 0.0]])
        sde.minimum_action_path(degenerate.at_temperature(1.0), (0, 0), (1, 1))
    end, process = rng.normal(size=d), linear.at_temperature(0.1)
    path = sde.minimum_action_path(process, np.zeros(d), end, points=65)
    exact = float(linear.potential(end))
    assert float(path.total_action) == pytest.approx(exact, rel=2e-6)
    assert abs(float(path.total_action) - exact) < float(path.total_action_error)
    middle = path.isel(point=slice(20, None))
    np.testing.assert_allclose(
        middle.momentum.values, linear._potential_gradient(middle.path.values, 0.1), atol=0.02 * exact
    )


@pytest.mark.parametrize("dim", [2, 3])
def test_any_potential_noise_and_current(dim):
    """V = Φ of manufactured D(x), Q(x); the drift holds T div(D + Q), which is gone as T → 0."""
    if dim == 2:
        model = sde.Landscape.manufactured(
            ("x", "y"), "(x**2 - 1)**2/4 + y**2/2 + x*y**2/4",
            [["1 + x**2/4", "y/4"], ["y/4", "1 + (x + y)**2/5"]], "1 + x*y/2 + sin(x)/2",
        )  # fmt: skip
        a, end = np.array([-1.0, 0.0]), np.array([-0.3, 0.4])
    else:
        model = sde.Landscape.manufactured(
            ("x", "y", "z"), "x**2/2 + y**2 + z**2/4 + x**2*z**2/4",
            [["1 + x**2/4", "0", "0"], ["0", "1", "z/9"], ["0", "z/9", "1"]], ("1 + x/3", "y/2", "1/2"),
        )  # fmt: skip
        a, end = np.zeros(3), np.array([0.8, -0.5, 0.6])
    exact = float(model.loss(end) - model.loss(a))
    path = sde.minimum_action_path(model.at_temperature(0.2), a, end, points=65)
    assert float(path.total_action) == pytest.approx(exact, rel=1e-4)
    np.testing.assert_allclose(path.momentum.values[20:], model.gradient(path.path.values[20:]), atol=2e-3)


def test_maier_stein():
    """V(u, 0) = (1 − u²)²/4 here, half of U with noise √ε dW, while the path keeps to the axis; at α = 10 it leaves it.

    The axis is a line of symmetry, on which the gradient of the action is 0 at every α.
    """
    for u in (-0.5, 0.0):
        path = sde.minimum_action_path(maier_stein(3.0), (-1, 0), (u, 0), points=33)
        assert float(path.total_action) == pytest.approx((1 - u**2) ** 2 / 4, abs=1e-9)
        assert np.abs(path.path.values[:, 1]).max() == 0.0
    beside = [
        np.abs(sde.minimum_action_path(maier_stein(alpha), (-1, 0), (0, 0)).path.values[:, 1]) for alpha in (3.9, 4.1)
    ]
    assert beside[0].max() == 0.0 and beside[1].max() > 0.05  # it leaves the axis beyond α = 4
    path = sde.minimum_action_path(maier_stein(10.0), (-1, 0), (1, 0))
    assert float(path.total_action) == pytest.approx(0.1700207, abs=2e-7)
    assert np.abs(path.path.values[:, 1]).max() > 0.3


def test_out_of_a_limit_cycle():
    """V = Φ − min Φ of the Hopf form: to its centre, and inward after turns that the start makes."""
    process = sde.landscapes.get("hopf").at_temperature(0.05)
    centre = sde.minimum_action_path(process, (1, 0), (0, 0))
    assert float(centre.total_action) == pytest.approx(0.25, abs=3e-4)
    angle, radius = np.linspace(0, 4 * np.pi, 200), np.linspace(1, 0.5, 200)
    spiral = np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1)
    inward = sde.minimum_action_path(process, (1, 0), (0.5, 0), start=spiral)
    assert float(inward.total_action) == pytest.approx(0.25 - 0.125 + 0.5**4 / 4, abs=5e-5)
    straight = sde.minimum_action_path(process, (1, 0), (0.5, 0))  # a local minimum: it is not given the time to turn
    assert float(straight.total_action) > 2 * float(inward.total_action)


def test_over_two_saddles():
    """Müller–Brown: both saddles and the well between are found; every climb costs its rise of f, and no descent."""
    landscape = sde.landscapes.get("mueller_brown")
    points = landscape.critical_points()
    where = np.stack([points[v].values for v in landscape.variables], -1)
    low = points.loss.values
    path = sde.minimum_action_path(landscape.at_temperature(1.0), where[0], where[1], points=65)
    np.testing.assert_allclose(path.crossings.values, where[[4, 2, 3]], atol=1e-8)
    assert float(path.total_action) == pytest.approx(low[4] - low[0] + low[3] - low[2], abs=2e-6)
    named = sde.minimum_action_path(
        landscape.at_temperature(1.0), where[0], where[1], points=65, through=where[[4, 2, 3]]
    )
    assert float(named.total_action) == pytest.approx(float(path.total_action), abs=1e-7)


def test_one_variable_on_a_circle():
    """Either way round, b = F − sin θ and D = 1: the rise of −cos θ − Fθ, kink and seam included."""
    process = sde.landscapes.get("ring", force=0.5).at_temperature(0.1)
    rest, top = np.arcsin(0.5), np.pi - np.arcsin(0.5)
    height = lambda t: -np.cos(t) - 0.5 * t  # noqa: E731
    for end, crest in ((rest + 2 * np.pi, top), (rest - 2 * np.pi, top - 2 * np.pi)):
        path = sde.minimum_action_path(process, rest, end)
        assert float(path.total_action) == pytest.approx(height(crest) - height(rest), abs=1e-8)
        np.testing.assert_allclose(path.crossings.values, [[crest]], atol=1e-9)


def test_functions_and_changed_variables_give_the_same():
    """Opaque functions, whose derivatives are differences; and x → Ax, under which the action does not change."""
    change = np.array([[2.0, 0.3], [-0.5, 0.1]])
    end = np.array([1.0, 0.5])
    f, d = np.array([[1.0, 1.0], [-1.0, 3.0]]), np.array([[1.0, 0.5], [0.5, 1.0]])
    exact = float(LinearLandscape(f, d).potential(end))
    other = LinearLandscape(change @ f @ np.linalg.inv(change), change @ d @ change.T)
    moved = sde.minimum_action_path(other.at_temperature(1.0), (0, 0), change @ end, points=65)
    functions = sde.Process(
        lambda x, y: (-x - y, x - 3 * y), lambda x, y: ((1.0, 0.5), (0.5, 1.0)), 0.3, variables=("x", "y"),
        diffusion_divergence=lambda x, y: (0 * x, 0 * y),
    )  # fmt: skip
    opaque = sde.minimum_action_path(functions, (0, 0), end, points=65)
    assert float(opaque.total_action) == pytest.approx(float(moved.total_action), rel=1e-7)
    assert float(opaque.total_action) == pytest.approx(exact, rel=1e-6)


def test_it_is_a_local_minimiser():
    """To a point in the other well the straight line leads to a minimum four times as dear as the way by its bottom."""
    process, end = SHEARED.at_temperature(0.1), (1.5, 1.5)
    direct = sde.minimum_action_path(process, LEFT, end, points=33)
    around = sde.minimum_action_path(process, LEFT, end, through=[(0, 0), -LEFT], points=65)
    exact = 0.25 + float(SHEARED.potential(np.array(end), 0.1))
    assert float(around.total_action) == pytest.approx(exact, abs=1e-5) and float(direct.total_action) > 2 * exact


@pytest.mark.evidence(table="minimum_action")
def test_against_an_action_in_time(table):
    """Maier–Stein at α = 10, where nothing is exact: ¼∫|ẋ − b|² dt on a long time, by Gauss–Newton."""
    process, rows = maier_stein(10.0), []
    geometric = {
        n: float(sde.minimum_action_path(process, (-1, 0), (0, 0), points=n).total_action) for n in (65, 129, 257)
    }
    values = []
    for steps, duration in ((500, 30.0), (1000, 30.0), (2000, 30.0), (2000, 20.0)):
        values.append(in_time(process, np.array([-1.0, 0.0]), np.zeros(2), steps, duration))
        rows.append((f"in time, {duration:g}, {steps} steps", f"{values[-1]:.7f}"))
    extrapolated = values[2] + (values[2] - values[1]) / 3
    rows += [("in time, extrapolated in the step", f"{extrapolated:.7f}")]
    rows += [(f"geometric, {n} points", f"{v:.9f}") for n, v in geometric.items()]
    table("Maier–Stein, α = 10: action to the saddle", ("method", "action"), rows)
    assert extrapolated == pytest.approx(geometric[257], abs=3e-6)
    assert np.log2((values[0] - values[1]) / (values[1] - values[2])) == pytest.approx(2.0, abs=0.2)
    assert geometric[129] == pytest.approx(geometric[257], abs=1e-8)


def in_time(process, a, b, steps, duration):
    """min ¼Σ|Δ/h − b(middle)|²h over polygons in time, by Gauss–Newton with a direct sparse solver."""
    h, jacobian = duration / steps, process.evaluator().jacobian
    s = 0.5 * (1 + np.tanh(0.6 * (np.linspace(0, duration, steps + 1) - duration / 2)))[:, None]
    x = a + (b - a) * s + np.array([0.0, 1.4]) * s * (1 - s)
    rows = np.arange(2 * steps).reshape(steps, 2, 1)
    columns = 2 * np.arange(steps).reshape(steps, 1, 1) + np.arange(4) - 2

    def residual(x):
        return 0.5 * np.sqrt(h) * (np.diff(x, axis=0) / h - process.drift(0.5 * (x[1:] + x[:-1]))).ravel()

    for _ in range(200):
        slope = jacobian(0.5 * (x[1:] + x[:-1]), 0.1)
        blocks = np.concatenate([-np.eye(2) / h - 0.5 * slope, np.eye(2) / h - 0.5 * slope], axis=-1)
        row, column = np.broadcast_arrays(rows, columns)
        keep = (column >= 0) & (column < 2 * (steps - 1))
        full = scipy.sparse.coo_array((0.5 * np.sqrt(h) * blocks[keep], (row[keep], column[keep]))).tocsc()
        r = residual(x)
        move = np.zeros_like(x)
        move[1:-1] = scipy.sparse.linalg.spsolve((full.T @ full).tocsc(), -full.T @ r).reshape(-1, 2)
        share = 1.0
        while (residual(x + share * move) ** 2).sum() > (r**2).sum() and share > 1e-10:
            share *= 0.5
        x = x + share * move
        if np.abs(move).max() < 1e-8:
            break
    return float((residual(x) ** 2).sum())


# faults and figure -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (dict(points=8), "points must be a whole number >= 17"),
        (dict(b=(1.0,)), r"b must have shape \(2,\)"),
        (dict(b=LEFT), "starts and ends at"),
        (dict(through=(0, 0), start=[LEFT, -LEFT]), "give one of them"),
        (dict(through=[[0, 0, 0]]), "through must be points of 2 coordinates"),
        (dict(start=[[0, 0], [1, 1]]), "start must lead from a to b"),
        (dict(start=[LEFT]), "k >= 2"),
        (dict(tolerance=0), "tolerance must be a finite number > 0"),
        (dict(process=SHEARED), "process must be a Process"),
        (dict(process=sde.Underdamped(SHEARED, 0.1, 1.0)), "noise in its velocities only"),
        (dict(process=sde.landscapes.get("example_19").at_temperature(1.0)), "drift is not finite"),
    ],
)
def test_faults_in_words(given, words):
    arguments = dict(process=SHEARED.at_temperature(0.1), a=LEFT, b=-LEFT) | given
    with pytest.raises(ValueError, match=words):
        sde.minimum_action_path(**arguments)


def test_what_stops_short_says_so():
    with pytest.raises(sde.NotConverged, match="half the Newton decrement is"):
        sde.minimum_action_path(maier_stein(10.0), (-1, 0), (0, 0), iterations=1)
    limit = Limit(maier_stein(10.0))
    line = spread(limit, np.array([[-1.0, 0.0], [0.0, 0.0]]), 33)
    assert np.abs(Segments(limit, line).gradient()[:, 1]).max() == 0.0  # stationary, and not a minimum
    assert action(limit, minimise(limit, line, 1e-10, 100).points) < 0.7 * action(limit, line)


def test_figure():
    process = SHEARED.at_temperature(0.1)
    paths = {"there": sde.minimum_action_path(process, LEFT, -LEFT, points=33, through=(0, 0))}
    paths["back"] = sde.minimum_action_path(process, -LEFT, LEFT, points=33, through=(0, 0))
    grid = sde.Grid((-3, -2), (3, 2), (30, 20))
    potential = grid.data_array(SHEARED.potential(grid.centers(), 0.1), ("x", "y"), "potential")
    figure = sde.figures.plot_minimum_action_path(paths, potential)
    left, right = figure.axes[0], figure.axes[1]
    assert [t.get_text() for t in right.get_legend().get_texts()] == ["there", "back"]
    assert left.get_xlabel() == "x" and right.get_ylim()[0] == 0.0
    assert len(sde.figures.png(figure, dpi=40)) > 1000
    line = sde.minimum_action_path(sde.landscapes.get("ring").at_temperature(1.0), np.pi / 6, 2.0, points=17)
    assert sde.figures.plot_minimum_action_path(line).axes[0].get_xlabel() == "theta"
    with pytest.raises(ValueError, match="must be results of minimum_action_path"):
        sde.figures.plot_minimum_action_path([potential.to_dataset()])
    with pytest.raises(ValueError, match="variables must be two of x, y"):
        sde.figures.plot_minimum_action_path(paths, variables=["x", "z"])
