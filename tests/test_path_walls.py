"""Paths between walls: uniform and Boltzmann densities under reflection, exit laws under absorption."""

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


def folded_chain_mean(h, temperature=0.5, reach=6.0, cells=1500):
    """E x of the steady state of x' = |x − h + √(2Th) ξ|, by the trapezoidal rule on its transition density."""
    x = np.linspace(0, reach, cells)
    weight = np.full(cells, x[1])
    weight[[0, -1]] /= 2
    to, frm = np.meshgrid(x, x, indexing="ij")
    spread = 4 * temperature * h
    density = np.exp(-((to - frm + h) ** 2) / spread) + np.exp(-((to + frm - h) ** 2) / spread)
    step = density * weight / (weight @ density)[None, :]
    p = np.exp(-x / temperature)
    p = np.linalg.lstsq(np.vstack([step - np.eye(cells), weight]), np.append(np.zeros(cells), 1.0), rcond=None)[0]
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
