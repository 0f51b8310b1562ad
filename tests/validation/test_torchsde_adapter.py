"""torchsde against Euler–Maruyama written out, and against exact stationary laws of the discrete scheme."""

import numpy as np
import pytest
import torch
from scipy.linalg import solve_discrete_lyapunov
from scipy.stats import t as student

from sde_sgd import Diverged, Grid, Process, landscapes, simulate
from sde_sgd.validation import TorchSDE, simulate_torchsde, torchsde_states
from sde_sgd.validation import torchsde_adapter as module

FRICTION = np.array([[1.0, 0.5], [-0.3, 3.0]])
DIFFUSION = np.array([[1.0, 0.5], [0.5, 1.0]])


def ornstein_uhlenbeck(temperature=0.3):
    return Process(["-x - y/2", "3*x/10 - 3*y"], [[1, 0.5], [0.5, 1]], temperature, variables=("x", "y"))


def multiplicative(temperature=0.2):
    return Process(
        ["-x + sin(y)", "-y*(1 + x**2)"],
        [["1 + x**2", "x*y/2"], ["x*y/2", "1 + y**2"]],
        temperature,
        variables=("x", "y"),
    )


def euler(process, start, step, increments):
    """States after every step: NumPy, Cholesky factor of 2T D, given increments."""
    state, states = np.broadcast_to(start, increments.shape[1:]).copy(), []
    for noise in increments:
        factor = np.linalg.cholesky(2 * process.temperature * process.diffusion(state))
        state = state + step * process.drift(state) + np.einsum("pij,pj->pi", factor, noise)
        states.append(state)
    return np.stack(states)


def given(step, steps, paths, seed=0):
    return np.sqrt(step) * np.random.default_rng(seed).normal(size=(steps, paths, 2))


@pytest.mark.parametrize("process", [ornstein_uhlenbeck(), multiplicative()])
def test_same_increments_give_the_same_path(process):
    step, steps, paths = 0.01, 400, 6
    increments = given(step, steps, paths)
    expected = euler(process, [0.5, -0.2], step, increments)
    states = np.concatenate(
        list(torchsde_states(process, [0.5, -0.2], step=step, steps=steps, paths=paths, increments=increments))
    )
    np.testing.assert_allclose(states, expected, atol=1e-12)
    # The twin that must differ: the same noise at twice the temperature.
    hotter = Process.of(process.landscape, 2 * process.temperature)
    assert np.abs(euler(hotter, [0.5, -0.2], step, increments) - states).max() > 0.01


def test_segments_burn_in_and_save_times(monkeypatch):
    process, step, steps, paths = multiplicative(), 0.03, 100, 4
    increments = given(step, steps, paths, seed=1)
    expected = euler(process, [0.1, 0.1], step, increments)
    monkeypatch.setattr(module, "SEGMENT_STEPS", 9)
    pieces = list(
        torchsde_states(
            process,
            [0.1, 0.1],
            step=step,
            steps=steps,
            paths=paths,
            burn_in=20,
            every=4,
            increments=increments,
        )
    )
    assert [len(piece) for piece in pieces] == [2] * 10  # nine steps hold two saves of four
    np.testing.assert_allclose(np.concatenate(pieces), expected[23::4], atol=1e-12)


@pytest.mark.parametrize("step", [0.1, 0.05, 1 / 3])
def test_a_segment_takes_no_extra_step(step):
    """0.1 summed ten times is not 1: save times must be the solver's own sums."""
    process = ornstein_uhlenbeck()
    increments = given(step, 300, 2, seed=2)
    *_, last = torchsde_states(process, [1.0, 1.0], step=step, steps=300, paths=2, every=3, increments=increments)
    np.testing.assert_allclose(last[-1], euler(process, [1.0, 1.0], step, increments)[-1], atol=1e-12)


def test_stationary_covariance_of_the_scheme():
    """S = (I−hF)S(I−hF)ᵀ + 2ThD exactly; independent end points of 8192 paths, seeded.

    z-tests of three moments at |z| < 5.3: false-alarm rate 3.5e-7 for one fresh seed.
    """
    process, step, paths = ornstein_uhlenbeck(), 0.1, 8192
    propagator = np.eye(2) - step * FRICTION
    exact = solve_discrete_lyapunov(propagator, 2 * process.temperature * step * DIFFUSION)
    *_, last = torchsde_states(process, [0.0, 0.0], step=step, steps=150, paths=paths, burn_in=149, seed=11)
    state = last[-1]
    sample = state.T @ state / paths  # the mean is 0 by symmetry
    error = np.sqrt((np.outer(exact.diagonal(), exact.diagonal()) + exact**2) / paths)
    assert np.abs((sample - exact) / error).max() < 5.3
    # Power: the continuous-time covariance is 5 % away at this step and must be told apart from a 20 % error.
    assert np.abs((sample - 1.2 * exact) / error).max() > 5.3


def test_histogram_moments_and_bookkeeping():
    """Second moments over the histogram, block by block; Student t with 15 degrees, false-alarm rate 2e-6."""
    process, step, blocks = ornstein_uhlenbeck(), 0.1, 16
    grid = Grid((-3, -2), (3, 2), (60, 40))
    calls = []
    result = simulate_torchsde(
        process,
        [0.0, 0.0],
        grid=grid,
        step=step,
        steps=400,
        paths=320,
        burn_in=100,
        every=3,
        blocks=blocks,
        seed=5,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls[-1] == (400, 400)
    assert result.counts.dims == ("block", "x", "y") and result.counts.dtype == np.int64
    samples = 320 * 100
    assert int(result.counts.sum()) + result.attrs["outside"] == samples
    assert int(result.outside.sum()) == result.attrs["outside"]
    np.testing.assert_array_equal(result.counts.sum(("x", "y")) + result.outside, samples // blocks)
    assert float(result.density.sum()) * grid.cell_volume == pytest.approx(
        1 - result.attrs["outside"] / samples, abs=1e-12
    )
    per_block = result.counts / (result.attrs["samples"] / blocks * grid.cell_volume)
    np.testing.assert_allclose(result.density, per_block.mean("block"), atol=1e-14)
    np.testing.assert_allclose(result.density_error, per_block.std("block", ddof=1) / 4, atol=1e-14)

    exact = solve_discrete_lyapunov(np.eye(2) - step * FRICTION, 2 * process.temperature * step * DIFFUSION)
    threshold = student.isf(5e-7, blocks - 1)
    for axis, name in enumerate(("x", "y")):
        # Sheppard: a cell of width h adds h²/12 to the second moment of its centre.
        moments = (per_block * result[name] ** 2).sum(("x", "y")) * grid.cell_volume + grid.spacing[axis] ** 2 / 12
        error = float(moments.std(ddof=1)) / np.sqrt(blocks)
        assert abs(float(moments.mean()) - exact[axis, axis]) < threshold * error
        assert error < 0.05 * exact[axis, axis]  # the test can tell a 50 % error


def test_histogram_agrees_with_numpy_and_depends_on_the_seed_alone():
    process, grid = multiplicative(), Grid((-1, -1), (1, 1.5), (8, 10))
    settings = {"step": 0.05, "paths": 12, "blocks": 3}
    one = simulate_torchsde(process, [0.2, 0.2], grid=grid, steps=60, seed=3, **settings)
    torch.manual_seed(99)
    state = torch.random.get_rng_state()
    two = simulate_torchsde(process, [0.2, 0.2], grid=grid, steps=60, seed=3, **settings)
    assert one.identical(two) and torch.equal(torch.random.get_rng_state(), state)
    other = simulate_torchsde(process, [0.2, 0.2], grid=grid, steps=60, seed=4, **settings)
    assert not np.array_equal(one.state, other.state)
    states = np.concatenate(list(torchsde_states(process, [0.2, 0.2], step=0.05, steps=60, paths=12, seed=3)))
    for block in range(3):
        points = states[:, 4 * block : 4 * block + 4].reshape(-1, 2)
        expected, _ = np.histogramdd(points, bins=grid.edges)
        np.testing.assert_array_equal(one.counts[block], expected)
    np.testing.assert_array_equal(one.state, states[-1])


def test_core_and_torchsde_follow_one_noise():
    """The core's own noise, read off as a pure Brownian motion with the same seed, drives torchsde."""
    step, steps, paths, start = 0.02, 500, 5, [0.3, -0.4]
    brownian = Process(["0*x", "0*y"], [[1, 0], [0, 1]], 0.5, variables=("x", "y"))
    settings = {"step": step, "steps": steps, "paths": paths, "save_every": 1, "seed": 9}
    settings["scheme"] = "euler_maruyama"

    def series(run, names):
        return np.stack([run[name].transpose("time", "path") for name in names], axis=-1)

    increments = np.diff(series(simulate(brownian, [0.0, 0.0], **settings), ("x", "y")), axis=0)
    for process in (multiplicative(), landscapes.get("neuron").at_temperature(0.2)):
        expected = series(simulate(process, start, **settings), process.variables)[1:]
        states = torchsde_states(process, start, step=step, steps=steps, paths=paths, increments=increments)
        np.testing.assert_allclose(np.concatenate(list(states)), expected, rtol=0, atol=1e-12)


def test_periodic_axis_is_wrapped():
    domain = {"a": (0, 2 * np.pi, "periodic")}
    process = Process(["1 + cos(a)/2"], [[1]], 0.5, variables=("a",), domain=domain)
    grid = Grid(0, 2 * np.pi, 20, boundary="periodic")
    result = simulate_torchsde(process, [0.0], grid=grid, step=0.05, steps=400, paths=8, blocks=2, seed=1)
    assert result.attrs["outside"] == 0
    assert float(result.state.min()) >= 0 and float(result.state.max()) < 2 * np.pi
    # A reflecting axis, half the period, twice the period, and the period shifted: folding would be a false density.
    for wrong in (
        Grid(0, 2 * np.pi, 20),
        Grid(0, np.pi, 6, boundary="periodic"),
        Grid(0, 4 * np.pi, 20, boundary="periodic"),
        Grid(-np.pi, np.pi, 20, boundary="periodic"),
    ):
        with pytest.raises(ValueError, match="axis a is"):
            simulate_torchsde(process, [0.0], grid=wrong, step=0.05, steps=4, paths=8, blocks=2)


def test_factor_of_degenerate_and_indefinite_matrices():
    generator = np.random.default_rng(0)
    for size in (1, 2, 3, 5):
        root = generator.normal(size=(7, size, size))
        full = torch.from_numpy(root @ root.transpose(0, 2, 1))
        np.testing.assert_allclose(module.cholesky_factor(full), torch.linalg.cholesky(full), atol=1e-10)
    for matrix in (
        [[1.0, 1.0], [1.0, 1.0]],
        [[0.0, 0.0], [0.0, 2.0]],
        [[0.0, 0.0], [0.0, 0.0]],
        [[1.0, 0], [0, 0]],
    ):
        tensor = torch.tensor(matrix, dtype=torch.float64)
        factor = module.cholesky_factor(tensor)
        np.testing.assert_allclose(factor @ factor.mT, tensor, atol=1e-15)
    with pytest.raises(ValueError, match="not positive semi-definite"):
        module.cholesky_factor(torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=torch.float64))


def test_drift_and_factor_are_those_of_the_process():
    process = multiplicative()
    points = np.random.default_rng(1).normal(size=(50, 2))
    drift, factor = TorchSDE(process).f_and_g(torch.tensor(0.0), torch.from_numpy(points))
    np.testing.assert_allclose(drift, process.drift(points), atol=1e-13)
    np.testing.assert_allclose(factor @ factor.mT, 2 * process.temperature * process.diffusion(points), atol=1e-13)


def test_divergence_says_where():
    process = Process(["x**3"], [[1]], 0.1, variables=("x",))
    with pytest.raises(Diverged, match=r"lower step=0\.5") as fault:
        list(torchsde_states(process, [3.0], step=0.5, steps=50, paths=3))
    assert fault.value.path == 0 and 1 < fault.value.step < 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step": 0.0}, "step must be a finite number > 0"),
        ({"step": "a"}, "step must be a finite number > 0"),
        ({"paths": 2.5}, "paths must be a whole number"),
        ({"steps": 2.5}, "steps must be a whole number"),
        ({"every": 0}, "every must be a whole number"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"burn_in": 10}, "no state is"),
        ({"every": 11}, "no state is"),
        ({"start": [0.0]}, r"\(1,\)"),
        ({"start": [0.0, np.nan]}, "start must be finite"),
        ({"increments": np.zeros((10, 8, 1))}, r"\(10, 8, 1\)"),
        ({"increments": np.full((10, 8, 2), np.nan)}, r"increments must be finite, got nan at index \(0, 0, 0\)"),
        ({"process": "x"}, "process must be a Process, got str"),
        ({"paths": 2 * 10**12}, "paths through torchsde needs about"),
        ({"progress": 1}, "progress must be a function"),
    ],
)
def test_bad_input_is_named_at_once(changes, message):
    states = {"start": [0.0, 0.0], "step": 0.1, "steps": 10, "paths": 8, "process": ornstein_uhlenbeck()} | changes
    with pytest.raises(ValueError, match=message):  # by the call itself, before anything is iterated
        torchsde_states(states.pop("process"), states.pop("start"), **states)
    with pytest.raises(ValueError, match=message):
        simulate_torchsde(**states_and_grid(changes))


def states_and_grid(changes):
    grid = Grid((-1, -1), (1, 1), (4, 4))
    settings = {"process": ornstein_uhlenbeck(), "start": [0.0, 0.0], "grid": grid, "blocks": 2}
    return settings | {"step": 0.1, "steps": 10, "paths": 8} | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks": 3}, "divisor of paths=8"),
        ({"blocks": 1}, "at least two blocks"),
        ({"blocks": 2.0}, "blocks must be a whole number"),
        ({"grid": Grid(-1, 1, 10)}, "1 dimensions"),
        ({"grid": None}, "grid must be a Grid, got NoneType"),
        ({"grid": Grid((-1, -1), (1, 1), (10**6, 10**6))}, "this histogram needs about"),
    ],
)
def test_bad_histograms_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        simulate_torchsde(**states_and_grid(changes))
