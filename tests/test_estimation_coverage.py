"""How often the error bars of drift and noise cover the truth, and what a finite interval leaves."""

import numpy as np
import pytest
import scipy.linalg
import scipy.stats

import sde_sgd as sde

pytestmark = pytest.mark.evidence
F = np.array([[1.0, 0.5], [-0.5, 2.0]])
A = np.array([[0.5, 0.2], [0.2, 0.3]])  # T·D
LINEAR = sde.Process(
    ["-(x + y/2)", "-(-x/2 + 2*y)"], [["1", "2/5"], ["2/5", "3/5"]], 0.5, variables=("x", "y"), name="linear"
)
WELL = sde.landscapes.get("multiplicative_well").at_temperature(0.3)


def linear_paths(rng, chains, steps, tau):
    p, s = scipy.linalg.expm(-F * tau), scipy.linalg.solve_continuous_lyapunov(F, 2 * A)
    root = np.linalg.cholesky(s - p @ s @ p.T)
    x = np.empty((chains, steps + 1, 2))
    x[:, 0] = rng.normal(size=(chains, 2)) @ np.linalg.cholesky(s).T
    for k in range(steps):
        x[:, k + 1] = x[:, k] @ p.T + rng.normal(size=(chains, 2)) @ root.T
    return x


def well_paths(rng, chains, steps, h):
    """The recursion whose moments over a step are b and 2T D exactly."""
    x = np.empty((chains, steps + 1, 1))
    x[:, 0, 0] = rng.uniform(-1.2, 1.2, chains)
    for k in range(steps):
        y = x[:, k, 0]
        x[:, k + 1, 0] = y - h * (y**3 - y) + np.sqrt(2 * 0.3 * h * (1 + 2 * y * y)) * rng.normal(size=chains)
    return x


def one(case, rng):
    if case == "well, D(x), a step each":
        x, grid = well_paths(rng, 200, 200, 0.02), sde.Grid(-1.6, 1.6, 12)
        options = dict(kind="recursion", interval=0.02, expected=WELL)
    elif case == "linear, τ = 0.01, two lags":
        x, grid = linear_paths(rng, 200, 200, 0.01), sde.Grid((-0.9, -0.6), (0.9, 0.6), (3, 3))
        options = dict(kind="diffusion", interval=0.01, expected=LINEAR)
    else:
        x, grid = linear_paths(rng, 100, 200, 0.6), None
        options = dict(kind="diffusion", interval=0.6, expected=LINEAR)
    return sde.estimate_drift_diffusion(x, grid, **options)


def upper(field):
    i, j = np.triu_indices(field.shape[-1])
    return field.values[..., i, j].ravel()


@pytest.mark.evidence(table="estimate_coverage")
def test_coverage(table):
    rows, runs = [], 400
    for case in ("well, D(x), a step each", "linear, τ = 0.01, two lags", "linear as a whole, τ = 0.6"):
        scores, probabilities = {}, {}
        for seed in range(runs):
            found = one(case, np.random.default_rng([seed, len(case)]))
            for name in ("drift", "jacobian", "noise"):
                if name in found:
                    z = found[f"{name}_z"]
                    scores.setdefault(name, []).append(upper(z) if name == "noise" else z.values.ravel())
                    probabilities.setdefault(name, []).append(found.attrs[f"{name}_p"])
        for name, values in scores.items():
            z = np.concatenate(values)
            z = z[np.isfinite(z)]
            small = np.mean(np.array(probabilities[name]) < 0.05)
            within = [np.mean(np.abs(z) < bound) for bound in (1.0, 1.96)]
            rows.append([case, runs, name, len(z), f"{z.mean():.3f}", f"{z.std():.3f}",
                         *(f"{100 * w:.1f} %" for w in within), f"{100 * small:.1f} %"])  # fmt: skip
            independent = runs * (12 if case[0] == "w" else 9 if "lags" in case else 1)  # places; components correlate
            assert abs(z.std() - 1) < 4 / np.sqrt(2 * independent), rows[-1]
            assert abs(within[1] - 0.95) < 4 * np.sqrt(0.05 * 0.95 / independent), rows[-1]
            # two lags: 9 cells share 400 relaxation times; of 1050 other seeds 6.6 ± 0.8 % are beyond 5 % in the drift
            size = 0.066 if "lags" in case else 0.05
            assert small < size + 4 * np.sqrt(size * (1 - size) / runs), rows[-1]
    table(
        "Do the error bars of drift and noise cover the truth?",
        [
            "trajectory",
            "runs",
            "field",
            "z-scores",
            "mean",
            "deviation",
            "within 1",
            "within 1.96",
            "χ² beyond its 5 %",
        ],
        rows,
        "Normal errors give 68.3 %, 95.0 % and 5 %.",
    )


@pytest.mark.evidence(table="estimate_interval")
def test_what_a_finite_interval_leaves(table):
    rows, worst = [], []
    for tau in (0.2, 0.1, 0.05):
        x = linear_paths(np.random.default_rng(3), 2000, 600, tau)
        grid = sde.Grid((-0.6, -0.4), (0.6, 0.4), (3, 3))
        row = [f"{tau:g}"]
        for order in (1, 2):
            found = sde.estimate_drift_diffusion(x, grid, kind="diffusion", interval=tau, order=order).isel(x0=1, x1=1)
            value, error = (found[name].values[1, 1] for name in ("noise", "noise_error"))
            row += [f"{value / 0.3 - 1:+.4f} ± {error / 0.3:.4f}", f"{(value - 0.3) / error:.1f}"]
            worst.append((value / 0.3 - 1, error / 0.3))
        whole = sde.estimate_drift_diffusion(x, None, kind="diffusion", interval=tau)
        value, error = (whole[name].values[1, 1] for name in ("noise", "noise_error"))
        row += [f"{value / 0.3 - 1:+.4f} ± {error / 0.3:.4f}"]
        assert abs(value - 0.3) < 4 * error
        rows.append(row)
    bias = np.array(worst).reshape(3, 2, 2)
    first, second = bias[:, 0], bias[:, 1]
    assert np.abs(np.log2(first[:-1, 0] / first[1:, 0]) - 1).max() < 0.25
    assert np.log2(second[0, 0] / second[1, 0]) == pytest.approx(2, abs=0.4)  # at τ = 0.05 only noise is left
    assert (np.abs(first[:, 0]) > 10 * first[:, 1]).all()
    table(
        "What a finite interval τ leaves in the noise",
        ["τ", "one lag", "in errors", "two lags", "in errors", "linear fit"],
        rows,
        "Relative error of (TD)_yy in the middle cell; y relaxes at the rate 2; 1.2e6 increments.",
    )


@pytest.mark.evidence(table="estimate_bootstrap")
def test_errors_against_a_bootstrap_of_chains(table):
    rows = []
    for order in (1, 2):
        rng = np.random.default_rng(5)
        x = linear_paths(rng, 200, 300, 0.1)
        grid = sde.Grid((-0.9, -0.6), (0.9, 0.6), (3, 3))
        options = dict(kind="diffusion", interval=0.1, order=order, fewest=100)
        found = sde.estimate_drift_diffusion(x, grid, **options)
        again = [sde.estimate_drift_diffusion(x[rng.integers(200, size=200)], grid, **options) for _ in range(120)]
        for name in ("drift", "noise"):
            spread = np.std([run[name].values for run in again], axis=0, ddof=1)
            ratio = (found[f"{name}_error"].values / spread).ravel()
            ratio = ratio[np.isfinite(ratio)]
            rows.append([order, name, f"{ratio.mean():.3f}", f"{ratio.min():.3f}", f"{ratio.max():.3f}"])
            # the spread of 120 resamples of 200 chains is known to √(1/240 + 1/400) = 8 %
            assert abs(ratio.mean() - 1) < 0.08 and (np.abs(ratio - 1) < 0.35).all(), ratio
    table(
        "Error bars against a bootstrap of whole chains",
        ["order", "field", "mean ratio", "least", "largest"],
        rows,
        "Error over the spread of 120 resamples of 200 chains × 300 intervals, 9 cells; each ratio is known to 8 %.",
    )
