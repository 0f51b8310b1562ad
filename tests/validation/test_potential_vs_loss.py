"""Parts of `potential-vs-loss` where the answer is known; a tiny run of the whole, stopped and resumed."""

import numpy as np
import pytest
import xarray as xr

from sde_sgd import experiment
from sde_sgd.validation import _potential_report as report
from sde_sgd.validation import _prediction_controls as controls
from sde_sgd.validation import _prediction_runs as runs
from sde_sgd.validation import digits
from sde_sgd.validation.local_prediction_figures import plot_areas, plot_conditional_loss, plot_variance_ratios
from sde_sgd.validation.potential_vs_loss import EXPERIMENT

TINY = {
    "learning_rates": [0.1, 0.05], "seeds": 1, "burn_in_time": 60.0, "settle_time": 5.0, "pilot_time": 20.0,
    "run_time": 300.0, "snapshots": 1, "directions": 3, "area_lags": [1, 4], "blocks": 16, "losses": 50,
    "surrogates": 19, "surrogate_states": 8192, "isotropic_temperatures": [1e-9], "isotropic_steps": 1000,
    "divergence_probes": 2, "estimate_steps": 10_000,
}  # fmt: skip


@pytest.fixture(scope="module")
def data():
    return digits(7, range(5))


def test_it_is_registered_and_refuses_what_cannot_be():
    assert experiment.get("potential-vs-loss") is EXPERIMENT
    quick = EXPERIMENT.resolve({}, quick=True)
    assert quick["seeds"] == 1 and EXPERIMENT.resolve({})["learning_rates"] == [0.1, 0.05, 0.025]
    for change, said in (
        ({"area_lags": [4, 1]}, "increase"),
        ({"learning_rates": [0.1, 0.1]}, "differ"),
        ({"run_time": 20.0}, "run longer"),
    ):
        with pytest.raises(ValueError, match=said):
            EXPERIMENT.resolve(change)


def test_curvature_of_slopes_sees_a_kink_and_autograd_s_hessian_does_not():
    """f = |w₁| + w₀²: along w₁ ∇f jumps by 2 between ±s, (2/2s) = 1/s; along w₀ the curvature is 2."""
    found = runs.curvature_of_slopes(
        lambda w: (0.0, np.array([2 * w[0], np.sign(w[1])])), np.array([0.3, 0.01]), np.eye(2), 0.1
    )
    assert np.allclose(found, np.diag([2.0, 10.0]))
    away = runs.curvature_of_slopes(lambda w: (0.0, np.array([2 * w[0], np.sign(w[1])])), np.ones(2), np.eye(2), 0.1)
    assert np.allclose(away, np.diag([2.0, 0.0]))


def test_slopes_are_those_of_the_loss_with_its_decay(data):
    weights = runs.start_weights(1)
    f, direction = runs.slopes(data, 0.3, "tanh"), np.random.default_rng(0).normal(size=885)
    ends = [f(weights + e * direction)[0] for e in (1e-5, -1e-5)]
    assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(f(weights)[1] @ direction, rel=1e-8)
    assert runs.losses_at(data, weights[None], 0.3)[0] == pytest.approx(runs.slopes(data, 0.3)(weights)[0], rel=1e-13)


def test_the_reversible_null_has_its_size_and_a_turning_process_has_not():
    """Binomial at 5 % of 60 processes: 11 or more in 1e-4 of the seeds."""
    config = {"seed": 3, "surrogates": 60, "surrogate_states": 8192, "blocks": 32}
    covariance = np.array([[1.0, 0.5, 0.0], [0.5, 2.0, 0.3], [0.0, 0.3, 0.5]])
    found = controls.reversible_null(config, covariance, np.array([1.5, 0.4, 0.1]), 0.1, lambda done, total: None)
    assert (found["p_value"] <= 0.05).sum() < 11 and (found["p_value"] > 0.5).sum() > 15


def test_intervals_of_seeds_and_misfit():
    assert report.interval([1.0, 1.2, 1.1], 0.0) == "1.100 ± 0.248"  # 4.303 · 0.1/√3
    assert "one seed" in report.interval([1.0], 0.1)
    exact = xr.Dataset({"ratio": ("direction", [1.2, 1.2]), "ratio_error": ("direction", [0.0, 0.0])})
    assert report._misfit(exact) == pytest.approx(np.log(1.2))
    assert report._misfit(exact.assign(ratio_error=("direction", [0.5, 0.5]))) == 0


def test_tiny_run_is_deterministic_and_resumes(data, tmp_path):
    """A cell of the study, stopped between two pieces of its run: the same bits as uninterrupted."""
    config = EXPERIMENT.resolve(TINY)
    nothing = lambda done, total: None  # noqa: E731
    start = runs.start_run(config, data, 0)["weights"].values
    pilot = runs.pilot_run(config | {"snapshots": 1}, data, start, 0.1, 0, nothing)
    assert pilot["covariance"].shape == (3, 2, 3, 3) and float(pilot["unseen"].max()) < 1e-6

    def stopped(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runs.measured_run(config, data, pilot, 0, runs.MODES[0], tmp_path / "a", stopped)
    assert list((tmp_path / "a").iterdir())
    resumed = runs.measured_run(config, data, pilot, 0, runs.MODES[0], tmp_path / "a", nothing)
    straight = runs.measured_run(config, data, pilot, 0, runs.MODES[0], tmp_path / "b", nothing)
    assert resumed.identical(straight)
    assert resumed["ratio"].shape == (3, 3) and np.isfinite(resumed["ratio"]).all()
    compared = report._as_compared(resumed)
    assert plot_variance_ratios({"a": compared}).lines and plot_areas({"a": compared}).lines
    assert len(plot_conditional_loss(resumed, (0, 2, 11)).axes) == 2
    with pytest.raises(ValueError, match="no run"):
        plot_areas({})


def test_isotropic_noise_gives_the_hessian_of_a_smooth_network(data):
    """Three ratios within 5 standard errors (1e-5 false alarms), and their error is small enough to tell a factor 2."""
    config = EXPERIMENT.resolve(TINY | {"isotropic_steps": 3000, "directions": 2})
    start = runs.walker(config, data, runs.start_weights(0), 0.1, 5, runs.MODES[0], "tanh")
    start.run(20_000)
    found = controls.isotropic_control(config, data, start.weights, "tanh", 1e-11, lambda done, total: None)
    assert found.attrs["gradient"] < 1e-12 and found.attrs["lowest"] > 0
    error = found["ratio_error"].values
    assert np.abs((found["ratio"].values - 1) / error).max() < 5 and error.max() < 0.2
    assert np.allclose(found["ratio"], found["kink_ratio"], rtol=1e-3)  # no kinks: the same curvature
