"""diffusion-matrix, long-trajectory, sampling-modes: their parts against exact laws; the same bits after a stop."""

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.signal import lfilter
from torch import nn

import sde_sgd as sde
from sde_sgd import experiment
from sde_sgd._console import Console
from sde_sgd.results import Run
from sde_sgd.run_command import perform
from sde_sgd.validation import GradientNoise, OneHiddenLayer, diffusion_matrix, digits, long_trajectory, sampling_modes
from sde_sgd.validation import tiny_fc as make
from sde_sgd.validation._long_statistics import (
    KINDS,
    Surrogates,
    autocorrelation,
    increment_spectrum,
    lags_of,
    white_band,
)
from sde_sgd.validation._snapshots import Snapshots

from ._tiny import TINY

PARTS = {"diffusion-matrix": diffusion_matrix, "long-trajectory": long_trajectory, "sampling-modes": sampling_modes}


def resolved(name):
    return PARTS[name].EXPERIMENT.resolve(TINY[name])


def performed(name, root):
    run = Run(name, resolved(name), root=root)
    perform(run, PARTS[name].EXPERIMENT, Console(True))
    return run.result()


# Spectra and correlations ----------------------------------------------------------------------------------------


def test_spectrum_of_increments_of_white_noise_and_of_a_wave():
    """White increments of deviation 2 have power 4 everywhere (12 bins within 4 σ: chance 1e-3); a wave is a line."""
    rng = np.random.default_rng(0)
    walk = 2 * np.cumsum(rng.standard_normal((4001, 40)), axis=0)
    frequency, power = increment_spectrum(walk, 12)
    assert np.all(np.diff(frequency) > 0) and frequency[0] == pytest.approx(1 / 4000) and frequency[-1] <= 0.5
    error = power.std(axis=1) / np.sqrt(40)
    assert np.abs(power.mean(axis=1) - 4).max() < 4 * error.max()
    t = np.arange(1025)
    frequency, power = increment_spectrum(np.sin(2 * np.pi * t / 16)[:, None], 400)
    assert frequency[power[:, 0].argmax()] == pytest.approx(1 / 16, rel=0.01)
    assert power[:, 0].max() > 1e6 * np.median(power)


def test_autocorrelation_is_the_sum_it_says_and_a_resting_weight_has_none():
    x = np.random.default_rng(1).standard_normal((257, 2)).cumsum(axis=0)
    x[:, 1] = 3.0
    found = autocorrelation(x, np.array([0, 1, 7, 100]))
    y = x[:, 0] - x[:, 0].mean()
    direct = [(y[: 257 - k] * y[k:]).sum() / (y * y).sum() for k in (0, 1, 7, 100)]
    np.testing.assert_allclose(found[:, 0], direct, atol=1e-12)
    assert np.isnan(found[:, 1]).all()
    assert lags_of(1000)[0] == 0 and lags_of(1000)[-1] == 500 and np.all(np.diff(lags_of(1000)) > 0)
    assert white_band(10_000) == pytest.approx(0.0257583, rel=1e-5)


def test_surrogates_have_the_law_of_their_steps():
    """One epoch of the exact law against its steps written out; the stationary variance of a long run (4 σ)."""
    h, d = np.array([2.0, 0.5]), np.array([1.0, 3.0])
    made = Surrogates(h, d, np.eye(2), np.zeros(2), learning_rate=0.1, batch_size=4, steps=5)
    factor, amplitude = made.epoch(KINDS[0])
    step, variance = 1 - 0.1 * h, np.zeros(2)
    for _ in range(5):
        variance = step**2 * variance + 0.01 * d / 4
    np.testing.assert_allclose(factor, step**5, rtol=1e-14)
    np.testing.assert_allclose(amplitude**2, variance, rtol=1e-12)
    np.testing.assert_allclose(made.epoch(KINDS[1])[1] ** 2, 5 * 0.01 * d / 4, rtol=1e-12)
    drawn = made.draw(KINDS[0], 20_000, np.random.default_rng(2))
    exact = (0.1 / 4) * d / (2 * h - 0.1 * h * h)
    assert np.abs(drawn[100:].var(axis=0) / exact - 1).max() < 0.08
    with pytest.raises(ValueError, match="stable below 2"):
        Surrogates(h, d, np.eye(2), np.zeros(2), learning_rate=1.5, batch_size=4, steps=5).epoch(KINDS[0])


# The diffusion matrix --------------------------------------------------------------------------------------------


def test_factors_are_those_of_the_matrices():
    config = resolved("diffusion-matrix")
    data = diffusion_matrix.data_of("tiny-fc", config)
    pair = data.inputs[:30], data.targets[:30]
    model = make(hidden=1)
    for options in ({}, {"statistics": "minibatch", "batch_size": 4, "batches": 20}):
        noise = GradientNoise(model, nn.CrossEntropyLoss(), pair, **options)
        a = diffusion_matrix.factor(noise)
        np.testing.assert_allclose(a.T @ a, noise.matrix(), atol=1e-12 * noise.trace())
    b = a[:10] + 0.1
    assert diffusion_matrix.product(a, b) == pytest.approx(np.sum((a.T @ a) * (b.T @ b)), rel=1e-10)


def test_batch_norm_has_the_statistics_of_all_samples():
    config = resolved("diffusion-matrix")
    data = diffusion_matrix.data_of("small-fc", config)
    made = diffusion_matrix._network("small-fc", data, config)
    weights = torch.cat([p.flatten() for p in made.parameters()]).detach().numpy()
    model = diffusion_matrix.at_weights("small-fc", weights, data, config)
    norm, hidden = model[2], model[1](model[0](data.inputs))
    np.testing.assert_allclose(norm.running_mean, hidden.mean(0).detach(), atol=1e-12)
    np.testing.assert_allclose(norm.running_var, hidden.var(0).detach(), atol=1e-12)
    assert not any(module.training for module in model.modules())


def test_spectra_and_statistics_without_batch_norm_agree():
    """Without batch norm the three matrices are one: cosine 1 within Monte-Carlo error; with it they are not."""
    config = resolved("diffusion-matrix") | {"batches": 400}
    stage = diffusion_matrix.spectra("tiny-fc", config)
    assert stage.sizes["stage"] == 3 and stage["epoch"].values.tolist() == [1, 2, 5]
    np.testing.assert_allclose(stage["eigenvalues"].sum("index"), stage["trace"], rtol=1e-9)
    found = diffusion_matrix.statistics("tiny-fc", stage, config)
    assert float(found["cosine"].sel(statistics="eval")) > 0.97 < float(found["cosine"].sel(statistics="full"))
    normed = diffusion_matrix.statistics("small-fc", diffusion_matrix.spectra("small-fc", config), config)
    assert float(normed["cosine"].sel(statistics="eval")) < 0.9


# The long trajectory ---------------------------------------------------------------------------------------------


def test_snapshots_go_on_with_the_same_bits(tmp_path):
    data = digits(7, range(5))

    def fresh(name):
        walker = OneHiddenLayer(make(), data.inputs, data.targets, learning_rate=0.05, batch_size=100, seed=2)
        return Snapshots(tmp_path / name, walker, 7, 3, np.eye(885)[:2])

    whole = fresh("whole")
    whole.run(3, lambda done, total: None)

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fresh("cut").run(3, stop)
    cut = fresh("cut")
    assert cut._done == 3
    cut.run(3, lambda done, total: None)
    np.testing.assert_array_equal(cut.weights, whole.weights)
    for a, b in zip(cut.projections, whole.projections):
        np.testing.assert_array_equal(a, b)
    assert len(whole.projections[0]) == 7 * 8 // 3 and np.ptp(whole.weights[:, :], axis=0).max() > 0


def test_areas_are_held_against_each_prediction():
    """A linear recursion, whose areas and variances are known: slope 1 on them, ½ on twice as much."""
    rng = np.random.default_rng(3)
    h, rate, b, lags = np.array([3.0, 1.0]), 0.1, 8, [1, 4]
    d = (root := rng.standard_normal((2, 2))) @ root.T
    exact = sde.DiscreteSGD(np.diag(h), d, rate, b)
    area = [(c.T - c) / (2 * lag * rate) for lag in lags for c in [exact.lag_covariance([lag]).values[0]]]
    kicks = rate / np.sqrt(b) * rng.standard_normal((40_000, 2)) @ root.T
    state = np.stack([lfilter([1.0], [1.0, rate * h[i] - 1.0], kicks[:, i]) for i in range(2)], axis=1)
    config = {"area_lags": lags, "every": 1, "learning_rate": rate, "directions": 2, "seed": 0, "blocks": 64}
    both = ("direction", "direction_2")
    pilot = xr.Dataset(
        {"curvature": ("weight", h), "area": (("kind", "area_lag", *both), [area, 2.0 * np.array(area)]),
         "covariance": (("kind", *both), [exact.covariance, 2.0 * exact.covariance])},
        {"kind": list(long_trajectory.BENDS)},
    )  # fmt: skip
    found = long_trajectory.current_and_peaks(config, pilot, long_trajectory.projected(config, state))
    slope, error = (found[name].isel(area_lag=0).values for name in ("slope", "slope_error"))
    # within four standard errors (false alarm 6e-5), which are small enough to tell 1 from ½
    assert abs(slope[0] - 1) < 4 * error[0] < 0.4 and slope[1] == pytest.approx(slope[0] / 2, rel=1e-9)
    np.testing.assert_allclose(found["variance_ratio"].values, [[1, 1], [0.5, 0.5]], rtol=0.1)
    assert found.attrs["block_relaxations"] == pytest.approx(36_000 // 64 * rate)


# Sampling --------------------------------------------------------------------------------------------------------


def test_theory_of_sampling_tends_to_its_law():
    h = np.array([1.0, 1e-3])
    pilot = xr.Dataset(
        {"curvature": ("direction", h), "noise": (("direction", "direction_2"), np.diag([1.0, 2.0]))},
        attrs={"samples": 400},
    )
    run = xr.Dataset(coords={"lag": [0, 10], "phase": np.arange(100)})
    config = {"learning_rate": 0.01, "batch_size": 4, "weight_decay": 1e-6}
    theory = sampling_modes.predicted(config, pilot, run)
    ratio = theory["variance"].sel(mode="reshuffling") / theory["variance"].sel(mode="with_replacement")
    law = theory["law"].values
    assert ratio[1] == pytest.approx(law[1], rel=0.01) and law[1] == pytest.approx(0.01 * 1.001e-3 * 400 / 12)
    assert ratio[0] != pytest.approx(law[0], rel=0.1)  # ηhN/b = 1: the law is of small arguments
    np.testing.assert_allclose(
        theory["phase_variance"].sel(mode="reshuffling").mean("phase"), theory["variance"].sel(mode="reshuffling")
    )


def test_directions_are_spread_over_the_spectrum():
    values = np.geomspace(10, 1e-4, 200)
    chosen = sampling_modes.spread_over(values, 5, 1e-2)
    assert len(chosen) == 5 and chosen[0] == 0 and np.all(values[chosen] >= 0.1)
    gaps = np.diff(np.log(values[chosen]))
    assert np.ptp(gaps) < 0.15


def test_ratio_of_variances_has_the_error_of_its_blocks():
    """Blocks of known scatter; the counterexample is a ratio taken from blocks that differ by a factor."""
    rng = np.random.default_rng(4)
    one, two = (xr.Dataset({"variance": (("block", "direction"), s * (1 + 0.1 * rng.standard_normal((400, 1))))})
                for s in (2.0, 1.0))  # fmt: skip
    found, error = sampling_modes.ratio(one, two)
    assert abs(found[0] - 2) < 4 * error[0] and error[0] == pytest.approx(2 * 0.1 * np.sqrt(2 / 400), rel=0.15)


# As experiments --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PARTS)
def test_registered_with_bounds_and_a_quick_form(name):
    known = experiment.get(name)
    assert known.resolve({}, quick=True) and known.perform.__doc__
    with pytest.raises(ValueError, match="seed must be from 0"):
        known.resolve({"seed": -1})


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("diffusion-matrix", {"networks": ["tiny-fc", "tiny-fc"]}, "names 'tiny-fc' twice"),
        ("diffusion-matrix", {"networks": ["lenet"]}, "did you mean"),
        ("diffusion-matrix", {"epochs": 2}, "coincide"),
        ("long-trajectory", {"epochs": 64}, "take more epochs"),
        ("long-trajectory", {"area_lags": [2, 1]}, "must increase"),
        ("long-trajectory", {"pilot_epochs": 5}, "snapshots=8 of 5 pilot_epochs"),
        ("sampling-modes", {"epochs": 40}, "take more"),
    ],
)
def test_settings_that_do_not_fit_together(name, given, said):
    with pytest.raises(ValueError, match=said):
        PARTS[name].EXPERIMENT.resolve(given)


def test_a_folder_is_named_where_data_are_files_and_only_there():
    on_images = [name for name in experiment.registered() if "directory" in experiment.get(name).settings]
    assert len(on_images) >= 6
    for name in on_images:
        for given, said in (({"data": "mnist"}, "give directory"), ({"directory": "x"}, "does not apply to digits")):
            with pytest.raises(ValueError, match=said):
                experiment.get(name).resolve(given)


@pytest.mark.parametrize("name", ["long-trajectory", "sampling-modes"])
def test_a_tiny_run_is_told_whole(name, tmp_path, undrawn):
    """Every verdict of the report is in the result, and each stage is kept; whether they hold at this size is open."""
    result = performed(name, tmp_path)
    (folder,) = tmp_path.iterdir()
    said = result["verdicts"]["sentence"].values
    page = (folder / "report.html").read_text("utf-8")
    assert len(said) >= 3 and page.count("<figure") >= 2 and not (folder / "work").exists()
    assert set(result.children) >= {"verdicts"} and len(list((folder / "stages").glob("*.nc"))) >= 4
