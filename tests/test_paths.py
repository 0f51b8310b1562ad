"""Langevin paths and the SGD recursion: same bits whatever runs beside them, right law, measured orders."""

import json

import numpy as np
import pytest
import xarray as xr

import sde_sgd as sde

NEURON = sde.landscapes.get("neuron")
GRID = sde.Grid((-5, -5), (5, 5), (40, 40))


def langevin(**changes):
    settings = dict(start=(0.1, -0.3), step=0.05, steps=37, paths=300, seed=11) | changes
    return sde.simulate(NEURON.at_temperature(0.2), **settings)


def recursion(**changes):
    settings = dict(start=(0.1, -0.3), learning_rate=0.3, batch_size=3, steps=37, replicas=300, seed=11) | changes
    return sde.sgd(NEURON, **settings)


@pytest.mark.parametrize(
    "run, count",
    [(langevin, "paths"), (recursion, "replicas"), (lambda **c: recursion(svag=4, **c), "replicas")],
)
def test_bits_do_not_depend_on_threads_paths_or_saving(run, count):
    seen = [sde.Histogram(GRID, burn_in=5, every=2)]
    reference = run(threads=1, observables=seen[0])
    for threads in (2, 3, 7):
        other = run(threads=threads, observables=seen[0])
        for name in ("w", "c", "counts", "density"):
            np.testing.assert_array_equal(reference[name], other[name])
    few = run(**{count: 10})
    saved = run(save_every=1)
    sparse = run(save_every=9)
    for name in ("w", "c"):
        np.testing.assert_array_equal(few[name], reference[name][:10])
        np.testing.assert_array_equal(saved[name].isel(time=-1), reference[name])
        np.testing.assert_array_equal(sparse[name], saved[name][:, ::9])
    assert not np.array_equal(run(seed=12).w, reference.w)
    assert len(np.unique(reference.w)) == 300


def test_path_k_among_a_hundred_thousand():
    for run, count in ((langevin, "paths"), (recursion, "replicas")):
        few, many = run(steps=4, **{count: 10}), run(steps=4, **{count: 100_000})
        np.testing.assert_array_equal(few.w, many.w[:10])


def test_histogram_counts_every_state_once():
    histogram = sde.Histogram(GRID, burn_in=4, every=3, blocks=7)
    run = langevin(paths=100, save_every=1, observables=histogram)
    states = np.stack([run.w, run.c], -1)[:, 4 + 3 :: 3]
    expected, *_ = np.histogramdd(states.reshape(-1, 2), bins=GRID.edges)
    np.testing.assert_array_equal(run["counts"].sum("block"), expected)
    assert run.attrs["samples"] == states[..., 0].size and run.attrs["outside"] == 0
    parts = sde.Histogram.extract(run)
    assert parts.density.dims == ("w", "c")
    assert float(parts.density.sum()) * GRID.cell_volume == pytest.approx(1)
    tight = sde.Histogram(sde.Grid((0, -1), (1, 0), (4, 4)), blocks=2)
    assert langevin(observables=tight).attrs["outside"] > 0


def test_histogram_error_is_the_error():
    """64 seeds: the scatter of the mean density across runs equals the reported standard error within 15 %."""
    grid = sde.Grid((-3, -3), (3, 3), (4, 4))
    runs = [
        sde.sample_density(
            sde.landscapes.get("double_well").at_temperature(0.5),
            grid,
            step=0.1,
            steps=60,
            paths=64,
            burn_in=20,
            seed=s,
        )
        for s in range(64)
    ]
    scatter = np.std([r.values for r in runs], axis=0, ddof=1)
    claimed = np.sqrt(np.mean([r.density_error.values**2 for r in runs], axis=0))
    busy = runs[0].values > 0.02
    assert np.sqrt((scatter[busy] ** 2).sum() / (claimed[busy] ** 2).sum()) == pytest.approx(1, abs=0.15)


def exact_euler_covariance(f, d, temperature, h):
    """S of x' = (1 − hF)x + √(2Th) L ξ: S = A S Aᵀ + 2Th D."""
    import scipy.linalg

    return scipy.linalg.solve_discrete_lyapunov(np.eye(len(f)) - h * f, 2 * temperature * h * d)


@pytest.mark.parametrize("rotation", [0.0, 1.0])
def test_euler_maruyama_has_its_own_exact_covariance(rotation):
    """12 z-scores at |z| < 5; the SDE's covariance, O(h) away, is excluded at the large step."""
    q = sde.landscapes.get("quadratic", rotation=rotation)
    f, d = np.array([[1, rotation], [-rotation, 3]]), np.array([[1, 0.5], [0.5, 1]])
    for h in (0.05, 0.3):
        run = sde.simulate(
            q.at_temperature(0.7), (0.0, 0.0), step=h, steps=int(12 / h), paths=200_000, seed=5, scheme="euler_maruyama"
        )
        x = np.stack([run.x, run.y])
        exact, measured = exact_euler_covariance(f, d, 0.7, h), x @ x.T / x.shape[1]
        error = np.sqrt((np.outer(np.diag(exact), np.diag(exact)) + exact**2) / x.shape[1])
        assert (np.abs(measured - exact) < 5 * error).all()
    continuous = exact_euler_covariance(f, d, 0.7, 1e-5)
    assert (np.abs(measured - continuous) > 10 * error).any()


def test_the_kernel_is_euler_maruyama_path_by_path():
    """On the increments read off a free Brownian motion of the same seed, NumPy follows the kernel to rounding."""
    h, steps, temperature, paths = 2.0**-6, 64, 0.5, 500
    free = sde.Landscape("x", "0").at_temperature(0.5)
    settings = dict(step=h, steps=steps, paths=paths, seed=1, scheme="euler_maruyama")
    walk = sde.simulate(free, 0.0, save_every=1, **settings).x.values
    landscape, x = sde.Landscape("x", "x**2/2", diffusion=[["1 + x**2"]]), np.ones(paths)
    for noise in np.diff(walk, axis=1).T:
        d = landscape.diffusion(x[:, None])[:, 0, 0]
        x = x + h * landscape.drift(x[:, None])[:, 0] + np.sqrt(2 * temperature * d) * noise
    found = sde.simulate(landscape.at_temperature(temperature), 1.0, **settings).x.values
    np.testing.assert_allclose(found, x, rtol=1e-9, atol=1e-9)
    other = sde.simulate(landscape.at_temperature(temperature), 1.0, **(settings | {"seed": 2})).x.values
    assert np.abs(other - x).max() > 0.1  # the counterexample: another noise, another path


def test_position_dependent_noise_is_the_cholesky_factor():
    """One step from many starts: mean b h and covariance 2ThD(x) at 5 standard errors, on the neuron's own D."""
    process, x, h, n = NEURON.at_temperature(0.2), np.array([0.7, -0.4]), 0.01, 400_000
    run = sde.simulate(process, x, step=h, steps=1, paths=n, seed=8)
    moves = np.stack([run.w - x[0], run.c - x[1]])
    cov = 2 * 0.2 * h * process.diffusion(x)
    np.testing.assert_array_less(np.abs(moves.mean(1) - h * process.drift(x)), 5 * np.sqrt(np.diag(cov) / n))
    error = np.sqrt((np.outer(np.diag(cov), np.diag(cov)) + cov**2) / n)
    assert (np.abs(np.cov(moves) - cov) < 5 * error).all()
    assert abs(cov[0, 1]) > 10 * error[0, 1]


def test_singular_diffusion_is_allowed():
    flat = sde.Landscape(("x", "y"), "x**2/2 + y**2/2", diffusion=[["1 + x**2", "1 + x**2"], ["1 + x**2", "1 + x**2"]])
    run = sde.simulate(flat.at_temperature(0.1), (0.0, 0.0), step=0.1, steps=100, paths=64)
    np.testing.assert_allclose(run.x, run.y, atol=1e-13)
    assert float(np.abs(run.x).max()) > 0.1
    constant = sde.Landscape(("x", "y"), "x**2/2 + y**2/2", diffusion=[[0.3, 0.1], [0.1, 0.1 / 3]])  # rank one, rounded
    run = sde.simulate(constant.at_temperature(0.1), (0.0, 0.0), step=0.1, steps=100, paths=64)
    np.testing.assert_allclose(run.x, 3 * run.y, atol=1e-13)


def test_noise_that_vanishes_along_a_direction_is_no_divergence():
    """All samples agree in y, so D is singular: y descends without noise, whatever the size of the common gradient."""
    flat = sde.FiniteSum(("x", "y"), "(x - a)**2/2 + 1000*y**2/2", {"a": [-1.0, 0.0, 1.0]})
    run = sde.simulate(flat.at_temperature(0.1), (0.3, 2.3), step=1e-3, steps=50, paths=64)
    np.testing.assert_allclose(run.y, 2.3 * (1 - 1e-3 * 1000) ** 50, atol=1e-12)
    assert float(run.x.std()) > 1e-3
    pair = sde.FiniteSum(("x", "y"), "(x*u + y*v - z)**2/2", {"u": [1.0, 0.3], "v": [0.2, 1.1], "z": [1.0, -1.0]})
    drawn = sde.simulate(pair.at_temperature(0.1), (0.0, 0.0), step=0.1, steps=1000, paths=64)
    assert np.isfinite(drawn.x).all()
    far = sde.FiniteSum("x", "(x - a)**2/2", {"a": [1e8 - 1, 1e8, 1e8 + 1]})
    moved = sde.simulate(far.at_temperature(0.5), 0.0, step=1e-8, steps=1, paths=100_000).x
    assert float(moved.std()) == pytest.approx(np.sqrt(1e-8 * 2 / 3), rel=0.02)


def test_processes_of_many_variables():
    names = tuple(f"x{chr(97 + i)}" for i in range(11))
    count = range(11)
    wide = sde.Process(
        lambda *x: tuple(0 * v for v in x),
        lambda *x: tuple(tuple((4.0 if i == 10 else 1.0) * (i == j) for j in count) for i in count),
        0.5, variables=names, diffusion_divergence=lambda *x: tuple(0 * v for v in x))  # fmt: skip
    eleven = sde.Landscape(names, "0", diffusion=[[(4 if i == 10 else 1) * int(i == j) for j in count] for i in count])
    np.testing.assert_allclose(wide.diffusion(np.zeros(11)), eleven.diffusion(np.zeros(11)))
    run = sde.simulate(eleven.at_temperature(0.5), np.zeros(11), step=1.0, steps=1, paths=20_000)
    np.testing.assert_allclose([float(run[n].var()) for n in names], [1.0] * 10 + [4.0], rtol=0.06)


def test_progress_comes_early_and_often():
    seen = []
    big = sde.FiniteSum("x", "(x - a)**2/2", {"a": np.linspace(-1, 1, 20_000)})
    sde.simulate(big.at_temperature(0.1), 0.0, step=0.1, steps=300, paths=64, progress=lambda *at: seen.append(at))
    assert len(seen) >= 4 and seen[-1] == (300, 300)


def test_periodic_axis_wraps():
    ring = sde.Landscape("theta", "cos(theta)", circulation=["2"], domain={"theta": (0, 2 * np.pi, "periodic")})
    run = sde.simulate(ring.at_temperature(0.5), 1.0, step=0.05, steps=200, paths=500, save_every=1)
    assert float(run.theta.min()) >= 0 and float(run.theta.max()) < 2 * np.pi
    assert float(run.theta.isel(time=-1).std()) > 0.5


def test_divergence_names_path_and_step_whatever_the_threads():
    steep = sde.Landscape("x", "x**4/4").at_temperature(1.0)
    start = np.zeros((200, 1))
    start[[77, 150]] = [[30.0], [1e6]]  # the steeper one leaves first
    faults = []
    for threads in (1, 2, 5):
        with pytest.raises(sde.Diverged, match="path 150 diverged at step") as caught:
            sde.simulate(steep, start, step=0.1, steps=100, paths=200, threads=threads)
        faults.append((caught.value.path, caught.value.step))
    assert len(set(faults)) == 1 and faults[0][1] < 20
    with pytest.raises(sde.Diverged, match="replica 0 diverged"):
        sde.sgd(sde.FiniteSum("x", "a*x**2", {"a": [1.0, 2.0]}), 1.0, learning_rate=5.0, batch_size=1, steps=1000)
    negative = sde.Process(["-x"], [["1 - x**2"]], 1.0, variables=("x",))
    with pytest.raises(sde.Diverged, match="not positive semi-definite"):
        sde.simulate(negative, 0.5, step=0.1, steps=1000, paths=64)


def test_result_carries_its_settings():
    run = langevin()
    assert run.attrs["temperature"] == 0.2 and run.attrs["seed"] == 11 and run.attrs["scheme"] == "euler_maruyama"
    assert "auto" in run.attrs["scheme_reason"] and run.attrs["numba"] and run.attrs["float_type"] == "float64"
    assert json.loads(run.attrs["settings"])["step"] == 0.05
    seen = []
    langevin(progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (37, 37)


def exits(**changes):
    settings = dict(start=(0.1, -0.3), inside="w < 1", step=0.05, paths=64, max_steps=37) | changes
    return sde.exit_times(NEURON.at_temperature(0.2), settings.pop("start"), settings.pop("inside"), **settings)


PROCESS = NEURON.at_temperature(0.2)
FAULTS = {
    "step must be a finite number > 0, got 0": lambda: langevin(step=0),
    "step must be a finite number > 0, got nan": lambda: langevin(step=float("nan")),
    "steps must be a whole number from 1 to 4294967295, got 4294967296": lambda: langevin(steps=2**32),
    "paths must be a whole number >= 1, got 0": lambda: langevin(paths=0),
    "paths must be a whole number >= 1, got 2.5": lambda: langevin(paths=2.5),
    "scheme must be one of auto, euler_maruyama, .* got 'euler'": lambda: langevin(scheme="euler"),
    "seed must be a whole number >= 0, got -1": lambda: langevin(seed=-1),
    "threads must be": lambda: langevin(threads=0),
    "save_every must be a whole number from 0 to 37": lambda: langevin(save_every=38),
    "start has w = 6, outside the domain": lambda: langevin(start=(6.0, 0.0)),
    "start must have shape": lambda: langevin(start=(0.0, 0.0, 0.0)),
    "start must be finite, got nan at index .1,": lambda: langevin(start=(0.0, np.nan)),
    "more than half of": lambda: langevin(paths=10**9, steps=1000, save_every=1, start=(0.0, 0.0)),
    "learning_rate must be": lambda: recursion(learning_rate=0),
    "batch_size must be a whole number from 1 to 150, got 151": lambda: recursion(batch_size=151),
    "svag must be": lambda: recursion(svag=0),
    "finite_sum must be a FiniteSum, got Process": lambda: sde.sgd(
        PROCESS, (0, 0), learning_rate=1, batch_size=1, steps=1
    ),
    "process must be a Process, got FiniteSum": lambda: sde.simulate(NEURON, (0, 0), step=0.1, steps=1),
    "observables must be a Histogram, Moments .* got Grid": lambda: langevin(observables=GRID),
    "grid must be a Grid": lambda: sde.sample_density(PROCESS, 5, step=0.1, steps=9, paths=64, burn_in=1),
    "progress must be a function": lambda: langevin(progress=5),
    "array of real numbers": lambda: langevin(start=(0.0, 1j)),
    "step must be a finite number > 0, got 1000": lambda: langevin(step=10**400),
    "array of indices needs": lambda: sde.sample_indices(2**32 - 1, batch_size=2**20, steps=2**32 - 1),
    "5 paths cannot fill 16": lambda: langevin(paths=5, observables=sde.Histogram(GRID)),
    "no state is counted": lambda: langevin(observables=sde.Histogram(GRID, burn_in=37)),
    "has 1 dimensions, the process 2": lambda: langevin(observables=sde.Histogram(sde.Grid(0, 1, 5))),
    "blocks must be": lambda: sde.Histogram(GRID, blocks=1),
    "save_every=0 keeps no state, and there are no observables": lambda: langevin(save_every=0),
    "walls='absorb' cannot begin at first_step 3": lambda: langevin(walls="absorb", first_step=3),
    "step must be an array of real numbers": lambda: langevin(step=[0.1, [0.2]]),
    "step must be a finite number > 0, got '0.1'": lambda: langevin(step="0.1"),
    "uses the noise of one more step": lambda: sde.simulate(
        sde.landscapes.get("double_well").at_temperature(1.0), (0, 0), step=0.1, steps=1, first_step=2**32 - 2
    ),
    "dtype must be one of float64, float32, got 'float16'": lambda: langevin(dtype="float16"),
    "dtype must be one of float64, float32, got 'hello'": lambda: langevin(dtype="hello"),
    "step must have shape .37,., got .36,.": lambda: langevin(step=np.full(36, 0.1)),
    "step must be > 0 at every step, got -1 at step 3": lambda: langevin(step=np.where(np.arange(37) == 3, -1, 0.1)),
    "substeps must be a whole number from 1": lambda: langevin(substeps=0),
    "first_path must be": lambda: langevin(first_path=-1),
    "first_step must be": lambda: langevin(first_step=0.5),
    "first_step . steps = 4294967297 exceeds": lambda: langevin(first_step=2**32 - 36),
    "of 65536 substeps exceeds": lambda: langevin(first_step=2**16, substeps=2**16),
    "walls must be one of reflect, absorb, got 'periodic'": lambda: langevin(walls="periodic"),
    "needs a wall": lambda: sde.simulate(
        sde.Landscape("x", "x**2").at_temperature(1.0), 0.0, step=0.1, steps=1, walls="reflect"
    ),
    "checkpoint must be the name of a file, got 5": lambda: langevin(checkpoint=5),
    "step_bias is that of observables": lambda: langevin(step_bias=True),
    "step must be a finite number > 0, got None": lambda: langevin(
        step=None, step_bias=True, observables=sde.Moments(), steps=4
    ),
    "step_bias must be True or False, got 'no'": lambda: langevin(step_bias="no"),
    "steps must be even": lambda: langevin(step_bias=True, observables=sde.Moments()),
    "temperature must be a finite number > 0, got 0": lambda: NEURON.at_temperature(0),
    "friction must be a finite number > 0, got -1": lambda: sde.Underdamped(NEURON, 0.2, -1),
    "max_steps must be a whole number": lambda: exits(max_steps=0),
    "paths must be a whole number >= 2, got 1; an error needs two": lambda: exits(paths=1),
    "bridge must be True or False, got 1": lambda: exits(bridge=1),
    "is not inside 'w < 0'": lambda: exits(inside="w < 0"),
    "inside must be inequalities": lambda: exits(inside=5),
    "has no paths of its own": lambda: sde.exit_times(
        sde.Landscape("x", "x**2").at_temperature(1.0),
        0.0,
        "x < 1",
        step=0.1,
        paths=9,
        max_steps=9,
        scheme="leimkuhler_matthews",
    ),
}


@pytest.mark.parametrize("message", FAULTS)
def test_faults_are_named(message):
    with pytest.raises(ValueError, match=message):
        FAULTS[message]()


def test_saved_results_come_back(tmp_path):
    from sde_sgd.results import load, save

    run = langevin(save_every=10)
    save(run, tmp_path / "run.nc")
    xr.testing.assert_identical(load(tmp_path / "run.nc").drop_attrs(), run.drop_attrs())
