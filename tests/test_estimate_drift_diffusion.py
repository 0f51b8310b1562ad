"""Drift and noise from trajectories alone, against laws that are known exactly.

Seeds are fixed. With fresh ones the tests of agreement, each at level 1e-3 or 4 standard errors, would give a false
alarm in about 1 % of the runs.
"""

import itertools

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import xarray as xr

import sde_sgd as sde
from sde_sgd.paths import _trajectory

evidence = pytest.mark.evidence
F = np.array([[1.0, 0.5], [-0.5, 2.0]])
A = np.array([[0.5, 0.2], [0.2, 0.3]])  # T·D
LINEAR = sde.Process(
    ["-(x + y/2)", "-(-x/2 + 2*y)"], [["1", "2/5"], ["2/5", "3/5"]], 0.5, variables=("x", "y"), name="linear"
)
WELL = sde.landscapes.get("multiplicative_well").at_temperature(0.3)
GRID = sde.Grid((-0.9, -0.6), (0.9, 0.6), (3, 3))


def propagator(tau):
    p, s = scipy.linalg.expm(-F * tau), scipy.linalg.solve_continuous_lyapunov(F, 2 * A)
    return p, s, s - p @ s @ p.T


def ornstein_uhlenbeck(seed, chains, steps, tau):
    """Samples of the stationary linear process at exact intervals (chains, steps + 1, 2)."""
    rng = np.random.default_rng(seed)
    p, s, c = propagator(tau)
    root = np.linalg.cholesky(c)
    x = np.empty((chains, steps + 1, 2))
    x[:, 0] = rng.normal(size=(chains, 2)) @ np.linalg.cholesky(s).T
    for k in range(steps):
        x[:, k + 1] = x[:, k] @ p.T + rng.normal(size=(chains, 2)) @ root.T
    return x


def well_paths(seed, paths, states, every, h=0.002):
    """Fine Euler–Maruyama paths in the well with D = 1 + 2x², saved every `every` steps (paths, states, 1)."""
    rng = np.random.default_rng(seed)
    x, saved = rng.uniform(-1.5, 1.5, paths), np.empty((paths, states, 1))
    for k in range((states - 1) * every + 1):
        if k % every == 0:
            saved[:, k // every, 0] = x
        x = x - h * (x**3 - x) + np.sqrt(2 * 0.3 * h * (1 + 2 * x * x)) * rng.normal(size=paths)
    return saved


def diffusion(x, grid, tau, **options):
    return sde.estimate_drift_diffusion(x, grid, kind="diffusion", interval=tau, **options)


# finite steps ----------------------------------------------------------------------------------------------


def test_orders_in_the_interval_without_sampling_error():
    """All sign patterns of two-point noise have the moments of the linear process exactly: what is left is bias."""
    start = np.linspace(0.991, 1.009, 8001)
    signs = np.array(list(itertools.product((-1, 1), repeat=2)))
    found = {1: [], 2: []}
    for tau in (0.08, 0.04, 0.02, 0.01):
        p, s = np.exp(-tau), np.sqrt(0.5 * (1 - np.exp(-2 * tau)))  # b = −x, A = 1/2
        x0 = np.repeat(start, 4)
        x1 = p * x0 + s * np.tile(signs[:, 0], 8001)
        x2 = p * x1 + s * np.tile(signs[:, 1], 8001)
        for order, errors in found.items():
            states = np.stack([x0, x1, x2], 1)[..., None]
            result = diffusion(states, sde.Grid(0.97, 1.03, 3), tau, order=order, fewest=10).sel(x0=1, method="nearest")
            errors.append([abs(result.drift.item() + 1), abs(result.noise.item() - 0.5)])
    for order, errors in found.items():
        slopes = np.log2(np.array(errors)[:-1] / np.array(errors)[1:])
        assert np.abs(slopes[-1] - order).max() < 0.06, (order, slopes)


def test_linear_process_by_cells_needs_the_correction():
    tau, x = 0.05, ornstein_uhlenbeck(1, 200, 400, 0.05)
    good = diffusion(x, GRID, tau, expected=LINEAR)
    assert min(good.attrs["drift_p"], good.attrs["noise_p"]) > 1e-3, good.attrs["agreement"]
    assert good.attrs["agreement"].startswith("as expected") and good.attrs["verdict"].startswith("no memory")
    bare = diffusion(x, GRID, tau, expected=LINEAR, order=1)
    assert bare.attrs["noise_p"] < 1e-12 and "noise" in bare.attrs["agreement"]
    assert float(bare.noise_z.sel(component="y", component_2="y").mean()) < -4  # A(1 − Fτ): off by ten per cent
    centre = good.sel(x=0, y=0, method="nearest")
    np.testing.assert_array_less(abs(centre.noise - A), 4 * centre.noise_error)
    assert good.noise_correction.shape == good.noise.shape and "noise_correction" not in bare


def test_linear_process_as_a_whole_at_an_interval_no_extrapolation_reaches():
    x = ornstein_uhlenbeck(2, 50, 400, 0.8)
    result = diffusion(x, None, 0.8, expected=LINEAR)
    assert min(result.attrs[f"{name}_p"] for name in ("drift", "jacobian", "noise")) > 1e-3
    np.testing.assert_allclose(result.jacobian, -F, atol=0.15)
    wrong = sde.Process(["-(x + y)", "-(-x/2 + 2*y)"], [["1", "2/5"], ["2/5", "3/5"]], 0.5, variables=("x", "y"))
    off = diffusion(x, None, 0.8, expected=wrong)
    assert off.attrs["jacobian_p"] < 1e-9 and "jacobian" in off.attrs["agreement"]
    local = diffusion(x, GRID, 0.8, expected=LINEAR)
    assert local.attrs["noise_p"] < 1e-9  # extrapolation has met its end


def test_inversion_of_the_linear_law_is_exact():
    """From the exact moments of an interval, for both kinds, at a double eigenvalue of F (no basis of eigenvectors)."""
    from types import SimpleNamespace

    from sde_sgd.paths._linear_estimate import _Law

    p, _, c = propagator(0.8)
    law = _Law(SimpleNamespace(interval=0.8, unit=0.0, every=1, dim=2), np.array([1.3, 0.7]))
    parameters = [(p - np.eye(2)) @ np.linalg.solve(-F, [0.3, -0.2]), ((p - np.eye(2)) * [1.3, 0.7]).T.ravel()]
    values = law.invert(np.concatenate([*parameters, c[np.triu_indices(2)]]))
    np.testing.assert_allclose(values, [0.3, -0.2, *(-F).ravel(), 0.5, 0.2, 0.3], rtol=1e-12)
    step, k = np.eye(2) - 0.1 * F, 5
    powers = [np.linalg.matrix_power(step, i) for i in range(k)]
    law = _Law(SimpleNamespace(interval=0.5, unit=0.1, every=k, dim=2), np.ones(2))
    jump = np.linalg.matrix_power(step, k) - np.eye(2)
    c = sum(m @ (0.2 * A) @ m.T for m in powers)
    values = law.invert(np.concatenate([sum(powers) @ [0.03, -0.02], jump.T.ravel(), c[np.triu_indices(2)]]))
    np.testing.assert_allclose(values, [0.3, -0.2, *(-F).ravel(), 0.5, 0.2, 0.3], rtol=1e-11)


def test_well_with_noise_that_depends_on_the_state():
    x = well_paths(3, 3000, 31, 10)
    grid = sde.Grid(-1.6, 1.6, 16)
    good = diffusion(x, grid, 0.02, expected=WELL, temperature=0.3)
    assert min(good.attrs["drift_p"], good.attrs["diffusion_p"]) > 1e-3, good.diffusion_z.values.ravel()
    assert "no memory" in good.attrs["verdict"]
    np.testing.assert_allclose(good.diffusion.values.ravel(), 1 + 2 * grid.axes[0] ** 2, rtol=0.12)
    bare = diffusion(x, grid, 0.02, expected=WELL, order=1)
    assert bare.attrs["noise_p"] < 1e-9
    constant = sde.Landscape("x", "x**4/4 - x**2/2", diffusion=[["2"]]).at_temperature(0.3)
    assert diffusion(x, grid, 0.02, expected=constant).attrs["noise_p"] < 1e-12


def test_euler_maruyama_saved_at_any_step_has_no_bias():
    """A recursion saved every k-th step is extrapolated to one step, where its moments are b and TD exactly."""
    x = well_paths(4, 2000, 41, 5, h=0.01)
    grid = sde.Grid(-1.4, 1.4, 14)
    result = sde.estimate_drift_diffusion(x, grid, kind="recursion", interval=0.05, every=5, expected=WELL)
    assert result.attrs["order"] == 2 and min(result.attrs["drift_p"], result.attrs["noise_p"]) > 1e-3
    as_one = sde.estimate_drift_diffusion(x, grid, kind="recursion", interval=0.05, expected=WELL)
    assert as_one.attrs["order"] == 1 and as_one.attrs["noise_p"] < 1e-9


# errors, places, pieces ------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, 2])
def test_errors_are_the_scatter_of_independent_runs(order):
    grid = sde.Grid((-0.6, -0.4), (0.6, 0.4), (3, 3))
    runs = [diffusion(x[None], grid, 0.2, order=order, fewest=20) for x in ornstein_uhlenbeck(5, 80, 1500, 0.2)]
    for name in ("drift", "noise"):
        values, errors = (np.stack([run[key].values for run in runs]) for key in (name, f"{name}_error"))
        ratio = np.sqrt(values.var(0) / (errors**2).mean(0))  # known to 1/√160 each
        assert abs(ratio.mean() - 1) < 0.14 and (abs(ratio - 1) < 0.35).all(), ratio


def test_chi_squared_of_errors_that_are_estimates_themselves():
    """60 squares at each of 10 places: at 5 %, 10 ± 3.1 of 200; counterexample: the χ² of errors that are known."""
    from sde_sgd.paths._local_linear import Scatter
    from sde_sgd.paths._neighbourhoods import Pairs

    rng, n = np.random.default_rng(10), 60
    pairs = Pairs(np.repeat(np.arange(10), n), np.arange(10 * n), np.ones(10 * n), np.zeros((10 * n, 1)))
    alarms = np.zeros(2)
    for _ in range(200):
        v = rng.normal(size=(10, n, 2)) @ [[1.0, 0.5], [0.0, 1.0]]
        q = np.stack([v[..., 0] ** 2, v[..., 0] * v[..., 1], v[..., 1] ** 2], axis=-1)
        difference = q.sum(1) - n * np.array([1.0, 0.5, 1.25])
        rest = (q - q.mean(1, keepdims=True)) * np.sqrt(n / (n - 1))
        scatter = Scatter(10, 3, whole=True)
        scatter.add(pairs, np.ones(10 * n), 10 * n, rest.reshape(-1, 3), None)
        inverse = np.linalg.inv(np.swapaxes(rest, 1, 2) @ rest)
        plain = np.einsum("pi,pij,pj->", difference, inverse, difference)
        alarms += scatter.chi_squared(difference, np.ones(10, bool))[2] < 0.05, scipy.stats.chi2.sf(plain, 30) < 0.05
    assert 1 <= alarms[0] <= 21 and alarms[1] > 60, alarms


def test_points_agree_with_cells_and_far_points_are_left_out():
    x = ornstein_uhlenbeck(6, 100, 300, 0.02)
    points = np.array([[0.0, 0.0], [0.3, -0.2], [9.0, 9.0]])
    at = diffusion(x, points, 0.02, bandwidth=(0.5, 0.4), expected=LINEAR)
    assert at.noise.dims == ("point", "component", "component_2") and at.samples.values[2] == 0
    assert np.isnan(at.drift.values[2]).all() and np.isfinite(at.drift.values[:2]).all()
    assert min(at.attrs["drift_p"], at.attrs["noise_p"]) > 1e-3
    cell = diffusion(x, sde.Grid((-0.3, -0.2), (1.5, 1.0), (3, 3)), 0.02).sel(x0=0, x1=0, method="nearest")
    gap = at.noise.values[0] - cell.noise.values
    assert (np.abs(gap) < 4 * np.hypot(at.noise_error.values[0], cell.noise_error.values)).all()


def test_a_periodic_axis_wraps():
    rng = np.random.default_rng(7)
    x = np.cumsum(0.5 * 0.1 + np.sqrt(2 * 0.3 * 0.1) * rng.normal(size=(40, 801)), axis=1) % (2 * np.pi)
    grid = sde.Grid(0.0, 2 * np.pi, 8, boundary="periodic")
    whole = diffusion(x[..., None], grid, 0.1, order=1)
    for name, exact in (("drift", 0.5), ("noise", 0.3)):
        z = (whole[name] - exact) / whole[f"{name}_error"]
        assert float(abs(z).max()) < 4
    torn = diffusion(x[..., None], sde.Grid(0.0, 2 * np.pi, 8), 0.1, order=1)
    assert float(torn.noise.max()) > 3  # a jump across the seam is no increment
    domain = {"x": (0.0, 2 * np.pi, "periodic")}
    ring = sde.Process(["1/2"], [["3/10"]], 1.0, variables=("x",), domain=domain)
    assert diffusion(x[..., None], grid, 0.1, expected=ring).attrs["agreement"].startswith("as expected")
    with pytest.raises(ValueError, match="x is periodic in the expected process"):
        diffusion(x[..., None], None, 0.1, expected=ring)


def test_pieces_memmaps_and_datasets_give_the_same(monkeypatch, tmp_path):
    x = ornstein_uhlenbeck(8, 30, 200, 0.05)
    whole = diffusion(x, GRID, 0.05, fewest=50, expected=LINEAR)
    held = np.memmap(tmp_path / "states", float, "w+", shape=x.shape)
    held[:] = x
    monkeypatch.setattr(_trajectory, "_PIECE", 1000)
    parts = diffusion(held, GRID, 0.05, fewest=50, expected=LINEAR)
    xr.testing.assert_allclose(whole, parts, rtol=1e-9)
    assert parts.attrs["lag1_z"] == pytest.approx(whole.attrs["lag1_z"], rel=1e-9)
    time = {"time": 0.05 * np.arange(201), "step": ("time", 5 * np.arange(201))}
    run = xr.Dataset({"x": (("path", "time"), x[..., 0]), "y": (("path", "time"), x[..., 1])}, time)
    same = sde.estimate_drift_diffusion(run.transpose("time", "path"), GRID, kind="diffusion", fewest=50)
    np.testing.assert_allclose(same.noise, whole.noise, rtol=1e-9)
    monkeypatch.setattr(_trajectory, "_PIECE", 50)  # chains are cut too: a few products of neighbours are lost
    cut = diffusion(x, GRID, 0.05, fewest=50)
    np.testing.assert_allclose(cut.drift, whole.drift, rtol=1e-9)
    np.testing.assert_allclose(cut.drift_error, whole.drift_error, rtol=0.02)


# figures and refusals --------------------------------------------------------------------------------------


def test_figures():
    line = diffusion(well_paths(9, 300, 21, 10), sde.Grid(-1.5, 1.5, 10), 0.02, expected=WELL, fewest=50)
    figure = sde.figures.plot_drift_diffusion(line)
    assert [ax.get_ylabel() for ax in figure.axes] == ["drift b", "noise TD"] and len(figure.axes[0].containers) == 1
    plane = diffusion(ornstein_uhlenbeck(9, 60, 100, 0.05), GRID, 0.05, expected=LINEAR, temperature=0.5)
    (ax,) = sde.figures.plot_drift_diffusion(plane).axes
    assert len(ax.collections) == 4 and "√D" in ax.get_title()
    assert len(sde.figures.plot_drift_diffusion(plane.isel(x=slice(1, 2))).axes[0].collections) == 4  # a single row
    points = diffusion(ornstein_uhlenbeck(9, 60, 100, 0.05), np.array([[0.0, 0.0], [0.2, 0.1]]), 0.05, bandwidth=0.5)
    assert len(sde.figures.plot_drift_diffusion(points).axes[0].collections) == 2
    for wrong in (xr.Dataset(), diffusion(ornstein_uhlenbeck(9, 20, 50, 0.1), None, 0.1)):
        with pytest.raises(ValueError, match=r"drawn|to draw"):
            sde.figures.plot_drift_diffusion(wrong)


X = np.random.default_rng(0).normal(size=(5, 100, 1)).cumsum(1)
HOLED = np.where(np.arange(500).reshape(5, 100, 1) == 203, np.nan, X)
LINE = sde.Grid(-5.0, 5.0, 8)
RUN = xr.Dataset({"x": (("path", "time"), X[..., 0])}, {"time": np.arange(100.0)}, {"scheme": "milstein"})


@pytest.mark.parametrize(
    ("trajectory", "grid", "options", "message"),
    [
        (X, LINE, {}, "does not say what made it"),
        (X, LINE, {"kind": "diffusion"}, "interval must be given"),
        (X, LINE, {"kind": "sgd", "interval": 1.0}, "one of auto, recursion, diffusion"),
        (X, LINE, {"kind": "diffusion", "interval": 1.0, "every": 2}, "counts steps of a recursion"),
        (X[0], LINE, {"kind": "diffusion", "interval": 1.0}, r"array \(chains, time, d\)"),
        (X, GRID, {"kind": "diffusion", "interval": 1.0}, "the grid has 2 axes"),
        (X, LINE, {"kind": "diffusion", "interval": 1.0, "bandwidth": 1.0}, "have their own width"),
        (X, np.zeros((1, 1)), {"kind": "diffusion", "interval": 1.0}, "points need a bandwidth"),
        (X, np.zeros((1, 2)), {"kind": "diffusion", "interval": 1.0, "bandwidth": 1.0}, r"points of shape \(m, 1\)"),
        (X, LINE, {"kind": "diffusion", "interval": 1.0, "order": 3}, "order must be a whole number from 1 to 2"),
        (X, LINE, {"kind": "diffusion", "interval": 1.0, "expected": LINEAR}, "expected process 2"),
        (X, LINE, {"kind": "diffusion", "interval": 1.0, "epoch_steps": 5}, "every step of a recursion"),
        (X, LINE, {"kind": "diffusion", "interval": 1.0, "level": 1.0}, "a probability below 1"),
        (HOLED, LINE, {"kind": "diffusion", "interval": 1.0}, "in chain 2 at state 3"),
        (X[:, :2], LINE, {"kind": "diffusion", "interval": 1.0}, "no increments over 2 intervals"),
        (X, LINE, {"kind": "diffusion", "interval": 1.0, "fewest": 10**6}, "no cell or point has 1000000"),
        (X, None, {"kind": "diffusion", "interval": 1.0, "fewest": 10**6}, "do not determine a linear drift"),
        (0 * X, None, {"kind": "diffusion", "interval": 1.0}, "x0 does not move"),
        (RUN, LINE, {"interval": 1.0}, "come with a Dataset"),
        (RUN.assign_attrs(scheme="leimkuhler_matthews"), LINE, {}, "too small by 1/2k"),
        (RUN.assign_attrs(walls="absorb"), LINE, {}, "absorbing wall"),
        (RUN.assign_coords(time=np.arange(100.0) ** 2), LINE, {}, "evenly spaced in time"),
        (RUN.isel(time=3), LINE, {}, "path or replica and time"),
    ],
)
def test_refusals(trajectory, grid, options, message):
    with pytest.raises(ValueError, match=message):
        sde.estimate_drift_diffusion(trajectory, grid, **options)


def test_states_forgotten_within_an_interval_are_no_linear_diffusion():
    x = np.random.default_rng(1).normal(size=(4, 300, 1))
    x[:, 1::2] -= 0.5 * x[:, :-1:2]
    with pytest.raises(ValueError, match="save them more often"):
        diffusion(x, None, 1.0)
