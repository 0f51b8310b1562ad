"""Parts of `potential-vs-loss` where the answer is known; a tiny run of the whole, stopped and resumed."""

import functools
import html
import re

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from sde_sgd import experiment
from sde_sgd.report import Report
from sde_sgd.validation import Curvature, GradientNoise, digits, ensemble, network
from sde_sgd.validation import _domain_networks as domain
from sde_sgd.validation import _potential_report as report
from sde_sgd.validation import _potential_report_controls as controls_report
from sde_sgd.validation import _prediction_controls as controls
from sde_sgd.validation import _prediction_runs as runs
from sde_sgd.validation.data import Split
from sde_sgd.validation.local_prediction_figures import plot_areas, plot_conditional_loss, plot_variance_ratios
from sde_sgd.validation.networks import parameter_count
from sde_sgd.validation.potential_vs_loss import EXPERIMENT, _replicas, _settled

from ._tiny import TINY


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
    config = EXPERIMENT.resolve(TINY["potential-vs-loss"])
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


def test_patches_before_a_linear_layer_are_a_convolution():
    torch.manual_seed(0)
    images, line = torch.randn(5, 2, 7, 7, dtype=torch.float64), nn.Linear(18, 4).double()
    convolution = nn.Conv2d(2, 4, 3, stride=2).double()
    with torch.no_grad():
        convolution.weight.copy_(line.weight.reshape(4, 2, 3, 3))
        convolution.bias.copy_(line.bias)
        expected = convolution(images).flatten(2).transpose(1, 2)
        assert torch.allclose(line(domain.Patches(2, 7, 3, 2)(images)), expected, atol=1e-13)
        assert not torch.allclose(line(domain.Patches(2, 7, 3, 2)(images.transpose(2, 3))), expected, atol=0.1)
    assert parameter_count(domain.build("convolutions", 0)) == 545
    assert parameter_count(domain.build("batch norm", 0)) == 917


def test_h_and_d_of_mini_batches_are_those_of_their_mean_loss(data):
    """D is `GradientNoise`'s "minibatch" on the same batches, H the slope of the mean of the batches' gradients."""
    model = network("tiny-fc", (1, 7, 7), 5, batch_norm=True, width=0.25)
    noise = GradientNoise(
        model, nn.CrossEntropyLoss(), (data.inputs, data.targets), statistics="minibatch", batch_size=4, batches=25,
        seed=3,
    )  # fmt: skip
    inputs, targets = data.inputs[noise._losses.batches], data.targets[noise._losses.batches]
    whole = GradientNoise(domain.Batches(model), domain._loss_of_batches, (inputs, targets))
    np.testing.assert_allclose(4 * 25 / 24 * whole.matrix(), noise.matrix(), atol=1e-12)
    curved = Curvature(domain.Batches(model), domain._loss_of_batches, (inputs, targets))
    start = parameters_to_vector(model.parameters()).detach()
    direction = torch.randn(len(start), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ends = []
    for sign in (1e-5, -1e-5):
        vector_to_parameters(start + sign * direction, model.parameters())
        model.train()
        loss = torch.stack([nn.functional.cross_entropy(model(x), y) for x, y in zip(inputs, targets)]).mean()
        ends.append(parameters_to_vector(torch.autograd.grad(loss, list(model.parameters()))))
    expected = ((ends[0] - ends[1]) / 2e-5).numpy()
    np.testing.assert_allclose(curved.matvec(direction.numpy()), expected, atol=1e-6 * np.abs(expected).max())
    vector_to_parameters(start, model.parameters())
    full = Curvature(model, nn.CrossEntropyLoss(), (data.inputs, data.targets), statistics="full")
    assert np.linalg.norm(full.matvec(direction.numpy()) - expected) > 0.1 * np.linalg.norm(expected)


class Stages:
    """A study that keeps nothing: every stage is computed, and its name noted."""

    def __init__(self, config):
        self.config, self.report, self.figures, self.names = config, Report("a", "b"), {}, []

    def stage(self, group, name, compute):
        self.names.append(f"{group}-{name}")
        return compute(lambda done, total: None)

    def words(self):
        return html.unescape(self.report.html({"settings": None}))


def test_replicas_of_a_convex_network_are_as_predicted(data, monkeypatch):
    """Logistic regression with much decay: 12 ratios within 5 standard errors (7e-6), and with T twice as large not."""
    monkeypatch.setattr(domain, "build", lambda name, seed: nn.Sequential(nn.Flatten(), nn.Linear(49, 5)).double())
    monkeypatch.setattr(domain, "ensemble", functools.partial(ensemble, compile=False))
    few = Split(data.inputs[:100], data.targets[:100], data.test_inputs, data.test_targets)
    config = dict(EXPERIMENT.resolve(TINY["potential-vs-loss"])) | {
        "learning_rates": [0.2], "seeds": 2, "weight_decay": 0.5, "directions": 6, "replicas": 24,
        "domain_time": 1500.0, "ensemble_burn_in_time": 20.0,
    }  # fmt: skip
    study = Stages(config)
    found = _replicas(study, few, "convolutions", 7)
    assert study.names == [f"domain-convolutions-{part}" for part in ("start", "pilot-0", "run-0")]
    ((name, cells),) = found.items()
    assert name == "convolutions, at the mean" and list(cells) == [(0.2, 0), (0.2, 1)]
    assert not np.array_equal(cells[0.2, 0]["pilot"]["mean"], cells[0.2, 1]["pilot"]["mean"])
    for cell in cells.values():
        run = cell[runs.MODES[0]].isel(kind=0)
        ratio, error = run["ratio"].values, run["ratio_error"].values
        assert np.abs((ratio - 1) / error).max() < 5 and error.max() < 0.1
        assert np.abs((ratio / 2 - 1) / error * 2).min() > 5  # as if T were twice as large
        assert float(run["drift"].max()) < 0.3 and (cell["pilot"]["unstable"] == 0).all()
    report.domain_section(study, found)
    assert "2 of 2" in study.words() and "does not hold" not in study.words()
    wrong = {key: cell | {runs.MODES[0]: cell[runs.MODES[0]].assign(ratio=cell[runs.MODES[0]]["ratio"] * 3)}
             for key, cell in cells.items()}  # fmt: skip
    report.domain_section(study, {"batch norm, wrong": wrong})
    assert "batch norm, wrong: it does not hold in 2 of 2 run(s). In these the variance is " in study.words()
    assert "the loss of a sample depends on its mini-batch" in study.words()


def shifts(axes, measured=0.2, noise=0.01, drawn=0.0):
    """Two directions, the second half as far as the first."""
    values = {"measured": measured, "error": noise, "slope": 0.005, "own": 0.21, "gaussian": 0.2, "predicted": 0.22}
    values |= {"axes": axes, "mode": 0.3}
    return xr.Dataset(
        {key: ("direction", np.array([value, value / 2])) for key, value in values.items()}
        | {"predicted_error": ("direction", np.full(2, drawn)), "deviation": ("direction", np.ones(2))},
        attrs={"temperature": 0.01, "spread": 2.0, "predicted_spread": 1.0},
    )


def test_the_report_says_which_prediction_of_the_shift_is_wrong():
    study = Stages({})
    group = {0.1: shifts(1.0), 0.05: shifts(0.6), 0.02: shifts(0.2)}
    controls_report.shift_section(study, {"relu": group, "tanh": {0.1: shifts(0.21)}})
    text = study.words()
    # 0.2/0.22 with the error 0.01 √(1 + 1/16)/0.22/(5/4); all errors are a twentieth, so that off are 2 and 80 of them
    assert "is 0.91 ± 0.04, 0.91 ± 0.04, 0.91 ± 0.04 by the cloud N(0, S) (2.0, 2.0, 2.0 errors off)" in text
    assert "and 0.20 ± 0.01, 0.33 ± 0.01, 1.00 ± 0.04 by S one axis at a time (80.0, 40.0, 0.0 errors off)" in text
    assert "differ by 3.55, 1.73, 0.09 of the first one's size. That is more than 0.5 at 2 of 3 η" in text
    assert "nearer to what is measured at 2 of these" in text and "0.05 of the first one's size. So f‴:S is" in text
    nearer = Stages({})
    controls_report.shift_section(nearer, {"relu": {0.1: shifts(1.0, measured=0.9)}})
    assert "nearer to what is measured at 0 of these" in nearer.words()


def test_sizes_of_the_shift_are_less_the_noise_of_their_measurement():
    """A shift of 3 measured with errors of 4 is 5 large; draws that double x² halve the slope, which is mended."""
    rng = np.random.default_rng(4)
    true, error = rng.normal(size=20_000), rng.normal(size=(2, 20_000))
    found = xr.Dataset(
        {"measured": ("direction", 3 * true + 4 * error[0]), "error": ("direction", np.full(20_000, 4.0)),
         "predicted": ("direction", true + error[1]), "predicted_error": ("direction", np.ones(20_000)),
         "axes": ("direction", true), "deviation": ("direction", np.ones(20_000))},
    )  # fmt: skip
    assert controls_report._size(found, "measured", "error") == pytest.approx(3, abs=0.2)
    assert controls_report._size(found, "predicted") == pytest.approx(1, abs=0.05)
    slope, slope_error, _ = controls_report._fit(found, "predicted")
    assert slope == pytest.approx(3, abs=0.25) and slope_error == pytest.approx(4 * np.sqrt(2 / 20_000), rel=0.05)
    assert controls_report._apart(found) < 0.3


@pytest.mark.parametrize(("isotropic", "said"), [(False, "holds"), (True, "fails")])
def test_the_verdict_that_the_potential_is_not_the_loss_can_fail(isotropic, said):
    """The exact recursion with D = 3 fails it, at steps where T/Var is not h, too; with D ∝ h it does not."""
    h, rate, rng = np.array([4.0, 1.0, 0.2]), 0.2, np.random.default_rng(1)
    noise = np.full(3, 3.0) if isotropic else h
    variance = rate / 16 * 2 * noise / (h * (2 - rate * h)) * (1 + 0.01 * rng.normal(size=3))
    flat, bins = np.zeros((3, 2)), ("direction", "bin")
    run = xr.Dataset(
        {"variance": ("direction", variance), "variance_error": ("direction", 0.01 * variance),
         "loss_curvature": ("direction", [4.0, -0.1, 0.1]), "loss_curvature_error": ("direction", [0.1, 0.5, 0.5]),
         "density": (bins, flat), "loss": (bins, flat), "loss_error": (bins, flat)},
        coords={"bin": [-1.0, 1.0]},
    )  # fmt: skip
    matrix = ("kind", "direction", "direction_2")
    pilot = xr.Dataset(
        {"hessian": (matrix, np.diag(h)[None]), "noise": (matrix, np.diag(noise)[None])},
        attrs={"learning_rate": rate},
    )
    study = Stages({"batch_size": 8})
    controls_report.density_section(study, {"pilot": pilot, runs.MODES[0]: run})
    assert re.findall(r">(holds|fails)<", study.words().replace("✓ ", "").replace("✗ ", "")) == [said]
    # the curvature of the loss is below its error along two of the three
    assert "along the 1 direction(s) where that is 5 standard errors above 0" in study.words()


def test_a_direction_without_noise_is_no_ratio_and_a_negative_one_no_success():
    """0/0 in rounding neither fails nor holds; a prediction of 0 for what moves fails."""
    ratio = np.array([[1.05, 0.95, -5e-14]])
    run = xr.Dataset(
        {"ratio": (("kind", "direction"), ratio), "ratio_error": (("kind", "direction"), 0.01 * np.abs(ratio)),
         **{name: (("kind", "lag"), np.zeros((1, 1))) for name in ("slope", "slope_error", "correlation")},
         "drift": ("direction", [0.1, 0.1, 0.1])},
    )  # fmt: skip
    assert report._misfit(run.isel(kind=0)) == np.inf

    def cell(last, of_run=run):
        table = np.diag([1e-3, 1e-4, last])[None]
        pilot = {"covariance": (("kind", "direction", "direction_2"), table), "unstable": ("kind", [0])}
        return {"pilot": xr.Dataset(pilot), runs.MODES[0]: of_run}

    found = report.heard(cell(-3e-20))
    assert int(found["silent"]) == 1 and report._misfit(found.isel(kind=0)) == pytest.approx(0.049, abs=1e-3)
    assert not np.isfinite(found["slope"]).any()
    areas = np.triu(np.arange(9.0).reshape(3, 3), 1)
    expected = np.where(areas == 1, 0.5, areas)  # of the pair that moves; beside it others, and errors of rounding
    error = np.where(areas == 1, 0.1, 1e-30)
    pairs = ("lag", "direction", "direction_2")
    turned = run.assign(
        area=(pairs, areas[None]),
        area_error=(pairs, error[None]),
        expected_area=(("kind", *pairs), expected[None, None]),
    )
    assert report._slope(turned).item() == pytest.approx(1)
    assert float(report.heard(cell(-3e-20, turned))["slope"][0, 0]) == pytest.approx(2)
    moved = run.assign(ratio=(("kind", "direction"), np.array([[1.05, 0.95, 1e12]])))
    assert int(report.heard(cell(1e-20, moved))["silent"]) == 0
    study = Stages({"batch_size": 8})
    report.domain_section(study, {"tanh": {(0.1, 0): cell(-3e-20), (0.1, 1): cell(1e-20, moved)}})
    assert "tanh: it does not hold in 1 of 2 run(s)" in study.words()


def test_the_trend_is_counted_by_seeds():
    """One η has no trend; what falls in the mean may rise for a seed."""
    assert "one η shows no trend" in report._trend("at the mean", [0.1], [[0.3]])
    said = report._trend("at the mean", [0.1, 0.05], [[0.5, 0.1], [0.1, 0.2]])
    assert said == "At the mean: the misfit is 0.361, 0.158 at η = 0.1, 0.05; from the largest η to the smallest it " \
        "falls in 1 of 2 seed(s)."  # fmt: skip


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


@pytest.mark.evidence(table="domain_of_replicas")
def test_batch_norm_needs_the_matrices_of_its_mini_batches(data, table):
    """One learning rate and seed: with the statistics of all samples the variance is off by an order of magnitude."""
    config = EXPERIMENT.resolve({"learning_rates": [0.1], "domain_time": 8000.0, "ensemble_burn_in_time": 4000.0})
    nothing = lambda done, total: None  # noqa: E731
    rows, typical = [], {}
    for name in domain.KINDS:
        start = domain.start_weights(name, config, data, range(1), nothing)["weights"].values
        pilot = domain.pilot(name, config, data, start, 0.1, 5, nothing)
        run = domain.measured(name, config, data, pilot, 6, nothing).isel(seed=0)
        for kind in domain.KINDS[name]:
            each = run.sel(kind=kind)
            ratio = each["ratio"].values
            typical[kind] = float(np.exp(np.log(ratio).mean()))
            rows.append(
                [name, kind, f"{typical[kind]:.2f}", f"{ratio.min():.2f} to {ratio.max():.2f}",
                 f"{float(each['ratio_error'].max()):.2f}", f"{float(each['slope'][0]):.2f}",
                 f"{float(each['drift'].max()):.2f}"]
            )  # fmt: skip
    table(
        "Replicas with batch norm and with convolutions against their local prediction (η = 0.1, b = 8, λ = 0.002)",
        ["network", "H and D", "mean ratio", "ratios", "largest error", "area slope", "drift"],
        rows,
        "Variance along the 12 steepest directions of H at a pilot's mean, measured over predicted, geometric mean; 16 "
        "replicas, one seed. Failures are shown as they are.",
    )
    assert typical["full statistics"] > 5
    assert abs(np.log(typical["H and D of mini-batches"])) < abs(np.log(typical["D of mini-batches"]))
