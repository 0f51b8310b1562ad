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
from sde_sgd.validation.potential_vs_loss import EXPERIMENT, _settled

TINY = {
    "learning_rates": [0.1, 0.05], "seeds": 1, "domain": False, "burn_in_time": 60.0, "settle_time": 5.0,
    "pilot_time": 20.0, "run_time": 300.0, "snapshots": 1, "directions": 3, "area_lags": [1, 4], "blocks": 16,
    "losses": 50, "surrogates": 19, "surrogate_states": 8192, "isotropic_tanh": [1e-9], "isotropic_relu": [1e-6],
    "isotropic_steps": 1000, "divergence_probes": 2, "estimate_steps": 10_000,
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
    rows = np.linalg.qr(np.random.default_rng(0).normal(size=(885, 3)))[0].T
    table = np.broadcast_to(np.eye(3), (3, 2, 3, 3)).copy()
    pilot = xr.Dataset(
        {
            "end": ("weight", runs.start_run(config, data, 0)["weights"].values),
            "directions": (("direction", "weight"), rows),
            "covariance": (("kind", "mode", "direction", "direction_2"), table),
            "area": (("kind", "mode", "lag", "direction", "direction_2"), np.zeros((3, 2, 2, 3, 3))),
        },
        coords={"kind": list(runs.KINDS), "mode": list(runs.MODES)},
        attrs={"learning_rate": 0.1},
    )

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


@pytest.mark.evidence(table="isotropic_control")
def test_isotropic_noise_gives_the_hessian_of_a_smooth_network(data, table):
    """12 ratios within 5 standard errors (7e-6 false alarms); a noise of twice the size is seen at once."""
    config = EXPERIMENT.resolve({"isotropic_steps": 20_000}, quick=True)
    nothing = lambda done, total: None  # noqa: E731
    rows = []
    for activation, temperature in (("tanh", 1e-11), ("relu", 1e-7), ("relu", 1e-6)):
        start = _settled(config, data, activation)
        found = controls.isotropic_control(config, data, start, activation, temperature, nothing)
        ratio, error = (found[name].values for name in ("ratio", "ratio_error"))
        rows.append(
            [activation, f"{temperature:g}", f"{ratio.mean():.3f}", f"{ratio.min():.2f} to {ratio.max():.2f}",
             f"{error.min():.2f} to {error.max():.2f}", f"{found.attrs['gradient']:.1g}"]
        )  # fmt: skip
        if activation == "tanh":
            assert found.attrs["gradient"] < 1e-12 and found.attrs["lowest"] > 0
            assert np.abs((ratio - 1) / error).max() < 5 and np.abs((2 * ratio - 1) / error).max() > 10
    table(
        "Isotropic noise (D = 1): U over H",
        ["activation", "T", "mean U/H", "all", "standard errors", "slope at the start"],
        rows,
        "12 steepest directions of tiny-fc; the full gradient plus white noise. ReLU's slope does not vanish: kinks.",
    )


@pytest.mark.evidence(table="local_prediction")
def test_local_prediction_of_tiny_fc(data, table, tmp_path):
    """Two learning rates, one seed: the law at the pilot's mean, and what H alone (D = c·1) would say."""
    config = EXPERIMENT.resolve({"seeds": 1, "learning_rates": [0.1, 0.05]}, quick=True)
    nothing = lambda done, total: None  # noqa: E731
    start = runs.start_run(config, data, 0)["weights"].values
    rows = []
    for rate in config["learning_rates"]:
        pilot = runs.pilot_run(config, data, start, rate, 0, nothing)
        assert float(pilot["unseen"].isel(kind=0).max()) < 1e-9
        run = runs.measured_run(config, data, pilot, 0, runs.MODES[0], tmp_path / f"{rate:g}", nothing)
        at_mean = run.isel(kind=0)
        ratio, error = at_mean["ratio"].values, at_mean["ratio_error"].values
        # U = H up to one factor, the best one: what noise without a shape would give
        isotropic = run["variance"].values * pilot["hessian"].isel(kind=0).values.diagonal()
        spread = float(np.std(np.log(isotropic)))
        slope, slope_error = float(at_mean["slope"][0]), float(at_mean["slope_error"][0])
        rows.append(
            [f"{rate:g}", f"{ratio.mean():.3f}", f"{ratio.min():.2f} to {ratio.max():.2f}", f"{error.max():.2f}",
             f"{np.exp(spread):.2f}", f"{slope:.3f} ± {slope_error:.3f}", f"{float(at_mean['correlation'][0]):.3f}"]
        )  # fmt: skip
        assert ratio.min() > 0.5 and ratio.max() < 2 and float(at_mean["correlation"][0]) > 0.9
        assert spread > 3 * float(np.std(np.log(ratio)))  # H in place of U
        assert float(run["overall_p_value"]) < 0.01
    table(
        "tiny-fc on five digits against its local prediction (b = 8, λ = 0.002)",
        ["η", "mean ratio", "ratios", "largest error", "spread with H for U", "area slope", "area correlation"],
        rows,
        "Variance along the 12 steepest directions of H at a pilot's mean, measured over predicted; one seed.",
    )
