"""Paths between walls: uniform and Boltzmann densities under reflection, exit laws under absorption."""

import math

import numpy as np
import pytest

import sde_sgd as sde

BOX = {"x": (0, 1), "y": (0, 1)}
OBLIQUE = np.array([[1.0, 0.8], [0.8, 1.0]])
EULER = dict(scheme="euler_maruyama", walls="reflect")


def uniform_starts(n, d=2, seed=0):
    return np.random.default_rng(seed).random((n, d))


def mirrored(x, h, steps, conormal):
    """Brownian motion of covariance h·OBLIQUE in the unit square, folded back along the conormal, or along the normal:
    the counterexample, whose steady density is not uniform."""
    rng, factor = np.random.default_rng(1), np.linalg.cholesky(OBLIQUE)
    for _ in range(steps):
        x = x + np.sqrt(h) * rng.normal(size=x.shape) @ factor.T
        for i in (0, 1):
            push = 2 * (np.maximum(-x[:, i], 0) - np.maximum(x[:, i] - 1, 0))
            direction = OBLIQUE[:, i] / OBLIQUE[i, i] if conormal else np.eye(2)[i]
            x = x + push[:, None] * direction
        x = x.clip(0, 1)
    return x


def quarter_excess(x, y):
    """2·P((x − ½)(y − ½) > 0) − 1: 0 for a uniform density, and its standard error."""
    return np.mean(np.sign((x - 0.5) * (y - 0.5))), 1 / np.sqrt(len(x))


def test_oblique_noise_stays_uniform_in_a_box():
    """Uniform starts stay uniform: 16 cells by χ² < 45 (15 degrees of freedom, false alarm 8e-5) and the diagonal
    excess within 4σ; a mirror along the normal misses by more than 10σ, NumPy's own conormal fold does not."""
    n, h, steps = 100_000, 2e-3, 300
    process = sde.Landscape(("x", "y"), "0", diffusion=OBLIQUE.tolist(), domain=BOX).at_temperature(0.5)
    run = sde.simulate(process, uniform_starts(n), step=h, steps=steps, paths=n, seed=1, **EULER)
    counts, *_ = np.histogram2d(run.x, run.y, bins=4, range=[(0, 1), (0, 1)])
    assert ((counts - n / 16) ** 2 / (n / 16)).sum() < 45
    excess, error = quarter_excess(run.x.values, run.y.values)
    assert abs(excess) < 4 * error
    few = uniform_starts(20_000)
    wrong, error = quarter_excess(*mirrored(few, h, steps, conormal=False).T)
    right, _ = quarter_excess(*mirrored(few, h, steps, conormal=True).T)
    assert abs(wrong) > 10 * error and abs(right) < 4 * error + 0.01


def folded_chain_mean(h, temperature=0.5, reach=6.0, cells=500):
    """E x of the steady state of x' = |x − h + √(2Th) ξ|, by the trapezoidal rule on its transition density."""
    x = np.linspace(0, reach, cells)
    weight = np.full(cells, x[1])
    weight[[0, -1]] /= 2
    spread = 4 * temperature * h
    density = np.exp(-((x[:, None] - x + h) ** 2) / spread) + np.exp(-((x[:, None] + x - h) ** 2) / spread)
    chain = density * weight / (weight @ density)[:, None] - np.eye(cells)
    chain[-1] = weight
    p = np.linalg.solve(chain, np.eye(cells)[-1])
    return weight @ (p * x)


def test_a_wall_on_one_side():
    """Drift −1 above a wall at 0: e^{−x/T}. E x at h = 0.1 and 0.05 is within 4.5σ of that of the folded chain itself,
    more than 10σ from T, and its bias is of the declared order 1 ± 0.15."""
    process = sde.Landscape("x", "x", domain={"x": (0, np.inf)}).at_temperature(0.5)
    n, bias = 200_000, []
    start = np.random.default_rng(3).exponential(0.5, (n, 1))
    for h in (0.1, 0.05):
        run = sde.simulate(process, start, step=h, steps=int(6 / h), paths=n, seed=4, **EULER)
        mean, error = float(run.x.mean()), float(run.x.std()) / np.sqrt(n)
        exact = folded_chain_mean(h)
        assert abs(mean - exact) < 4.5 * error and float(run.x.min()) >= 0
        bias.append(exact - 0.5)
        assert abs(mean - 0.5) > 8 * error
    assert np.log2(bias[0] / bias[1]) == pytest.approx(1, abs=0.15)


def steady_moment(process, start, h, observe, time, seed=5):
    """Mean of observe(states) over paths at the end, and its standard error."""
    run = sde.simulate(process, start, step=h, steps=round(time / h), paths=len(start), seed=seed, **EULER)
    values = observe(*(run[v].values for v in process.variables))
    return values.mean(), values.std() / np.sqrt(len(values))


def test_noise_that_depends_on_the_point_between_walls():
    """dx = √(2T(1 + 3x)) dW on [0, 1] has ρ ∝ 1/(1 + 3x): E x to 4σ + 2 % at h = 1e-3; Stratonovich's and the uniform
    density, 8 % and 20 % away, are excluded."""
    process = sde.Landscape("x", "0", diffusion=[["1 + 3*x"]], domain={"x": (0, 1)}).at_temperature(0.5)
    exact = 1 / np.log(4) - 1 / 3
    mean, error = steady_moment(process, uniform_starts(40_000, 1), 1e-3, lambda x: x, 1.0)
    assert abs(mean - exact) < 4 * error + 0.02 * exact
    x = np.linspace(0, 1, 100_001)
    weight = (1 + 3 * x) ** -0.5  # Stratonovich
    stratonovich = (x * weight).sum() / weight.sum()
    assert abs(mean - stratonovich) > 10 * error and abs(mean - 0.5) > 10 * error


@pytest.mark.evidence
def test_a_turning_tensor_between_walls():
    """D = [[1 + x/2, y/2], [y/2, 1]], drift T div D: uniform in the unit square at every T. Means and the diagonal
    excess within 4.5σ + h at h = 2e-3; without the drift the density is tilted by more than 10σ."""
    tensor = [["1 + x/2", "y/2"], ["y/2", "1"]]
    start, h = uniform_starts(40_000), 2e-3
    names = dict(variables=("x", "y"), domain=BOX)
    even, tilted = sde.Process(["T", "0"], tensor, 0.5, **names), sde.Process(["0", "0"], tensor, 0.5, **names)
    for observe in (lambda x, y: x, lambda x, y: y, lambda x, y: 0.5 + np.sign((x - 0.5) * (y - 0.5))):
        mean, error = steady_moment(even, start, h, observe, 1.0)
        assert abs(mean - 0.5) < 4.5 * error + h
    mean, error = steady_moment(tilted, start, h, lambda x, y: x, 1.0)
    assert abs(mean - 0.5) > 10 * error


def test_a_seam_between_walls():
    """Oblique noise on a strip that is periodic in x: the conormal fold may lead across the seam, and every state saved
    lies in [0, 1) × [0, 1]; the density stays uniform (χ² < 45, 15 degrees of freedom, false alarm 8e-5)."""
    strip = {"x": (0, 1, "periodic"), "y": (0, 1)}
    process = sde.Landscape(("x", "y"), "0", diffusion=OBLIQUE.tolist(), domain=strip).at_temperature(0.5)
    n = 50_000
    run = sde.simulate(process, uniform_starts(n), step=5e-3, steps=100, save_every=20, paths=n, **EULER)
    assert float(run.x.min()) >= 0 and float(run.x.max()) < 1
    assert float(run.y.min()) >= 0 and float(run.y.max()) <= 1
    counts, *_ = np.histogram2d(run.x[:, -1], run.y[:, -1], bins=4, range=[(0, 1), (0, 1)])
    assert ((counts - n / 16) ** 2 / (n / 16)).sum() < 45


def absorbed(**changes):
    """Brownian motion from 0.3 in (0, 1)."""
    settings = dict(step=2e-3, steps=500, paths=20_000, seed=6, scheme="euler_maruyama", walls="absorb") | changes
    return sde.simulate(sde.Landscape("x", "0", domain={"x": (0, 1)}).at_temperature(0.5), 0.3, **settings)


def test_absorbing_walls():
    """The law of τ, sup|Ŝ − S| < 2.2/√n + 4h (false alarm 1.3e-4); the same bits as `exit_times`; P(right wall) = 0.3
    within 4σ; a path that left stands still, and all that did are counted."""
    run, t, odd = absorbed(save_every=50), np.linspace(0.02, 1, 50), 2 * np.arange(60) + 1
    tau = run.exit_time.values
    gone = ~np.isnan(tau)
    assert run.attrs["absorbed"] == gone.sum() and 50 < (~gone).sum() < 500
    decay = np.exp(-((odd * np.pi) ** 2) * 0.5 * t[:, None])
    exact = (4 / (odd * np.pi) * np.sin(odd * np.pi * 0.3) * decay).sum(1)
    alive = 1 - (tau[:, None] <= t).mean(0)
    assert np.abs(alive - exact).max() < 2.2 / np.sqrt(len(tau)) + 4 * 2e-3
    for path in (0, 77, 19_999):
        later = run.time.values >= tau[path] + 2e-3
        assert len(np.unique(run.x.values[path][later])) == 1
    right = run.x.values[gone, -1] > 0.5
    assert abs(right.mean() - 0.3) < 4 * np.sqrt(0.21 / gone.sum())
    inside = run.time.values[None] < tau[:, None]
    assert ((run.x.values >= 0) & (run.x.values <= 1))[inside].all()
    same = sde.exit_times(
        sde.Landscape("x", "0").at_temperature(0.5), 0.3, "x > 0 and x < 1", step=2e-3, max_steps=500, paths=20_000,
        seed=6, scheme="euler_maruyama",
    )  # fmt: skip
    np.testing.assert_array_equal(same.exit_time, tau)
    np.testing.assert_array_equal(same.x, run.x[:, -1])
    last = absorbed(threads=1)
    np.testing.assert_array_equal(last.exit_time, tau)
    np.testing.assert_array_equal(last.x, run.x[:, -1])


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_step_that_leaves_and_comes_back(dtype):
    """One step of size s from 0.2 s above a wall has met it with probability erfc(0.2/√2): |z| < 4.5; the ends of steps
    alone see half of that."""
    half_line, n, h = sde.Landscape("x", "0", domain={"x": (0, np.inf)}), 100_000, 0.02
    run = sde.simulate(
        half_line.at_temperature(0.5), 0.2 * np.sqrt(h), step=h, steps=1, paths=n, seed=6, dtype=dtype, walls="absorb"
    )
    exact = math.erfc(0.2 / math.sqrt(2))
    assert abs(run.attrs["absorbed"] / n - exact) < 4.5 * np.sqrt(exact * (1 - exact) / n)
    assert float((run.x < 0).mean()) == pytest.approx(exact / 2, abs=0.01)


@pytest.mark.parametrize("walls", ["reflect", "absorb"])
def test_turns_are_counted_between_walls(walls):
    """On a strip that is periodic in x the winding is the distance travelled, added up from saved states a small part
    of the period apart: with a conormal fold across the seam, and for absorbed paths, which no longer turn."""
    strip = {"x": (0, 1, "periodic"), "y": (0, 1)}
    drift = sde.Landscape(("x", "y"), "0", circulation=["3", "0"], diffusion=OBLIQUE.tolist(), domain=strip)
    run = sde.simulate(
        drift.at_temperature(0.05), (0.5, 0.5), step=0.01, steps=400, paths=200, walls=walls, save_every=1,
        observables=sde.Winding("x", per_path=True),
    )  # fmt: skip
    moved = (np.diff(run.x, axis=1) + 0.5) % 1 - 0.5
    np.testing.assert_allclose(run.winding, moved.sum(1), atol=1e-9)
    assert run.winding.values.max() > 5
    assert walls == "reflect" or (run.attrs["absorbed"] > 100 and (moved[:, -1] == 0).any())


def test_walls_do_not_hide_a_divergence():
    wild = sde.Landscape("x", "1e100*x**4", domain={"x": (-1, 1)}).at_temperature(0.5)
    with pytest.raises(sde.Diverged, match="path 0 diverged at step 1"):
        sde.simulate(wild, 0.5, step=10.0, steps=4, **EULER)


QUADRATIC = sde.Landscape("x", "x**2/2", domain={"x": (-1, 1)})
OPEN = sde.Landscape("x", "x**2/2").at_temperature(0.5)
FAULTS = {
    "walls must be one of reflect, absorb, got 'mirror'": lambda: absorbed(walls="mirror"),
    "needs a wall": lambda: sde.simulate(OPEN, 0.0, step=0.1, steps=9, walls="reflect"),
    "'leimkuhler_matthews' do not go together": lambda: absorbed(scheme="leimkuhler_matthews"),
    "'weak_euler' do not go together": lambda: absorbed(scheme="weak_euler"),
    "'baoab' do not go together: walls are for processes without momentum": lambda: sde.simulate(
        sde.Underdamped(QUADRATIC, 0.5, 1.0), (0, 0), step=0.1, steps=9, walls="reflect"
    ),
    "start has x = 2, outside the domain": lambda: sde.simulate(
        QUADRATIC.at_temperature(0.5), 2.0, step=0.1, steps=9, walls="reflect", scheme="euler_maruyama"
    ),
}


@pytest.mark.parametrize("message", FAULTS)
def test_faults_are_named(message):
    with pytest.raises(ValueError, match=message):
        FAULTS[message]()
