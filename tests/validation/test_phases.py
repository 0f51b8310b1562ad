"""The phases: crossings against closed forms, laws of growth, exact units, runs against autograd, the report whole."""

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import sde_sgd as sde
from sde_sgd import experiment
from sde_sgd._console import Console
from sde_sgd.results import Run
from sde_sgd.run_command import perform
from sde_sgd.validation import When, phases, recorded_sgd, recorder
from sde_sgd.validation import _phases_known as known
from sde_sgd.validation import _phases_summary as of
from sde_sgd.validation._phases_answers import _correlation, _differs, _not_half
from sde_sgd.validation._phases_events import (
    crossing,
    falls_to,
    passes,
    peak,
    quadratic_crossing,
    quadratic_ratio,
    smoothed,
)
from sde_sgd.validation._phases_growth import compared, fit, local_exponents
from sde_sgd.validation._phases_runs import activations, connected, data_of, followed, record_steps, settings_of
from sde_sgd.validation._phases_tables import ranged, shown, spacing_of, times
from sde_sgd.validation.information import binned_information
from sde_sgd.validation.measures_noise import batch_share

from ._tiny import TINY as SMALL

TINY = SMALL["phases"]


# Crossings -------------------------------------------------------------------------------------------------------


def test_a_crossing_is_exact_for_geometric_decay_and_all_falls_are_counted():
    steps = np.array([0, 1, 2, 4, 8, 16, 32])
    found = crossing(steps, 5.0 * 0.8**steps)
    assert found.first == found.last == pytest.approx(np.log(5) / -np.log(0.8), abs=1e-12) and found.falls == 1
    several = crossing([0, 1, 2, 3, 4], [2.0, 0.5, 2.0, 0.5, 0.4])
    assert several == (0.5, 2.5, 2)
    assert crossing([0, 1, 2], [2.0, 0.5, 3.0]) == (0.5, np.inf, 1)  # ends above
    assert crossing([0, 1], [3.0, 2.0]) == (np.inf, np.inf, 0) and crossing([0, 1], [0.3, 0.2]) == (0.0, 0.0, 0)
    assert crossing([0, 1, 2, 3], [np.inf, np.nan, 2.0, 0.5]).first == 2.5
    for steps, values, said in (([1, 0], [1, 1], "increase"), ([0, 1], [1.0, -1.0], ">= 0"), ([0], [np.nan], ">= 0")):
        with pytest.raises(ValueError, match=said):
            crossing(steps, values)


def test_the_crossing_on_a_quadratic_has_its_closed_form(monkeypatch):
    """One direction: the logarithm to 1e-10; gradient descent as the kernel walks it, to 1e-10; SGD within 4 errors."""
    h, d, x, eta, b = 0.7, 2.0, 9.0, 0.1, 4
    rest = eta * d / b / (h * (2 - eta * h))
    exact = np.log(h**2 * (x**2 - rest) / (d / b - h**2 * rest)) / (-2 * np.log(1 - eta * h))
    assert quadratic_crossing(h, d, x, eta, b) == pytest.approx(exact, abs=1e-10)
    assert quadratic_ratio(1e5, h, d, x, eta, b) == pytest.approx(eta * h / (2 - eta * h), rel=1e-12)
    assert quadratic_crossing(h, d, 0.1, eta, b) == 0.0
    assert quadratic_crossing(1.5, 1.0, 9.0, 1.0, b) == np.inf  # ηh > 1: at rest above 1
    with pytest.raises(ValueError, match="below 2/η"):
        quadratic_crossing(3.0, 1.0, 1.0, 1.0, 1)
    monkeypatch.setattr(known, "BATCHES", (1, 8))
    found = known.quadratic({"quadratic_runs": 12, "seed": 0}, lambda done, total: None)
    assert float(np.abs(found["descent"] - found["exact_descent"]).max()) < 1e-10
    assert float((np.abs(found["crossing"] - found["exact"]) / found["error"]).max()) < 4
    assert (
        float((np.abs(found["exact"].diff("batch")) / found["error"].values[1:]).min()) > 5
    )  # another b would be seen


def test_two_directions_are_the_recursion_of_moments():
    """E|∇f|² over 40 steps from S' = (1 − ηH)S(1 − ηH) + η²D/b, D and H not commuting, to 1e-12."""
    h, eta, b = np.array([0.5, 2.0]), 0.2, 2
    noise, x = np.array([[1.0, 0.6], [0.6, 0.8]]), np.array([3.0, -2.0])
    moments, turn = np.outer(x, x), np.diag(1 - eta * h)
    for step in range(41):
        exact = np.trace(np.diag(h) @ moments @ np.diag(h)) / (np.trace(noise) / b)
        assert quadratic_ratio(step, h, noise.diagonal(), x, eta, b) == pytest.approx(exact, rel=1e-12)
        moments = turn @ moments @ turn + eta**2 / b * noise


def test_noise_that_vanishes_at_the_minimum_has_no_second_phase():
    """f_k = a_k x²/2: the SNR stays ā√(b/Var a) along the whole run, and is never 1."""
    a = [0.5, 1.0, 1.5, 2.0]
    chosen = sde.FiniteSum("x", "a*x**2/2", {"a": a}, name="none")
    run = recorded_sgd(chosen, (6.0,), recorders=recorder("gradient_statistics", When.every(steps=1)),
                       learning_rate=0.1, batch_size=4, steps=60, seed=1)  # fmt: skip
    snr = run["gradient_statistics"].values[:, 0, 3]
    np.testing.assert_allclose(snr, np.mean(a) * np.sqrt(4 / np.var(a)), rtol=1e-10)
    assert crossing(run["gradient_statistics_step"], snr) == (np.inf, np.inf, 0)


def test_events_along_a_line():
    steps = np.array([0.0, 1, 2, 4])
    assert falls_to(steps, [4.0, 2, 1, 0], 0.25) == 2.0 and np.isnan(falls_to(steps, [0, 1, 2, 3], 0.5))
    assert passes(steps, [0.0, 0.5, 0.9, 1.0], 0.7) == 1.5 and passes(steps, [1.0, 0, 0, 0], 0.5) == 0
    assert np.isnan(passes(steps, [0, 0, 0, 0], 1)) and peak(steps, [0, 3, np.nan, 1]) == 1
    assert np.isnan(peak(steps, [0, 1, 2, 3])) and np.isnan(peak(steps, [3, 1, 2, 2]))  # the end of a record is no peak
    np.testing.assert_allclose(smoothed(2.0 ** np.array([0, 3, 0, 0, 3]), 3), 2.0 ** np.array([0, 1, 1, 1, 3]))


# Numbers of a run ------------------------------------------------------------------------------------------------


def told(steps, *snr, loss=None):
    """A run of 1000 samples whose layers have these SNR at b = 10."""
    share, ratios = batch_share(10, 1000, "reshuffling"), np.stack(snr, axis=1)
    noise = np.ones_like(ratios)
    statistics = np.stack([ratios * np.sqrt(share), noise, np.sqrt(share) * noise, ratios], axis=-1)
    found = {"statistics": (("step", "layer", "statistic"), statistics)}
    return xr.Dataset(found if loss is None else found | {"loss": ("step", loss)}, {"step": steps},
                      {"noise_size": 10, "samples": 1000})  # fmt: skip


def test_drift_is_a_mean_over_steps_while_the_loss_falls():
    """ln SNR = 1 − t/100, loss down by nine tenths at step 90: 1 − 0.45; at four times the batch ½ ln of the shares."""
    steps = np.arange(0, 201, 5)
    run = told(steps, np.exp(1 - steps / 100), loss=np.maximum(1 - steps / 100, 0.0))
    assert of.drift(run) == pytest.approx(0.55, abs=1e-12)
    more = 0.5 * np.log(batch_share(10, 1000, "reshuffling") / batch_share(40, 1000, "reshuffling"))
    assert of.drift(run, 40) == pytest.approx(0.55 + more, abs=1e-12)
    assert of.crossing_of(run).last == pytest.approx(100, abs=1e-9)
    below = told(steps, np.exp(-1 + np.minimum(steps, 50) / 30), loss=np.maximum(1 - steps / 100, 0.0))
    assert of.ratio(below)[0] < 1 and of.drift(below) > 0  # a start below 1 is not the whole of the drift
    assert np.isnan(of.drift(told(steps, np.ones(len(steps)), loss=steps / 100)))


def test_layers_that_do_not_cross_are_not_left_out():
    steps = np.arange(0, 401, 5)
    falls = [np.exp(1 - steps / where) for where in (100.0, 150.0)]
    assert of.layers_apart(told(steps, *falls)) == pytest.approx(np.log(1.5), abs=1e-9)
    low, high = np.full(len(steps), 0.5), np.full(len(steps), 2.0)
    assert of.layers_apart(told(steps, *falls, low)) == pytest.approx(np.log(150), abs=1e-9)
    assert of.layers_apart(told(steps, *falls, high)) == pytest.approx(np.log(8), abs=1e-9)
    assert np.isnan(of.layers_apart(told(steps, low, low))) and np.isnan(of.layers_apart(told(steps, low, high)))


def test_what_is_left_of_the_start_is_counted_from_the_crossing():
    steps = np.arange(0, 401, 5)
    run = told(steps, np.exp(1 - steps / 100.0))
    share = 3 - np.log1p(steps) / np.log(101)  # 2 at the crossing, step 100
    run["projection"] = ("step", share)
    assert of.kept(run) == pytest.approx(share[-1] / 2, abs=1e-9)
    assert np.isnan(of.kept(run.assign(statistics=told(steps, np.full(len(steps), 2.0))["statistics"])))


def test_intervals_of_steps_are_those_of_their_logarithms():
    """Of 10, 100 and 1000 the mean less its interval would be a step below 0."""
    assert times([10.0, 100.0, 1000.0]) == "100 (0.328 to 3.049 × 10⁴)"
    assert times([8.0, 8.0], np.log(2)) == "8 (4 to 16)"
    assert times([4.0, 0.0, np.inf]) == "4 in 1, 0 in 1, never in 1"
    assert [times([value] * 2) for value in (0.0, np.inf, np.nan)] == ["0", "never", "–"]
    assert ranged([3.0, np.inf, 0.5]) == "0.5 to never" and ranged([0.0, 0.0]) == "0"
    assert shown([1.0, 1.0]) == "1 ± 0" and shown([1.0, 1.0], 0.3) == "1 ± 0.3" and shown([np.inf] * 2) == "never"
    assert shown([1, 2, np.inf]).endswith("(2 of 3 seeds)") and shown([3.0, np.nan]) == "3 ± ∞ (1 of 2 seeds)"
    config, run = {"records": 21, "sharp_every": 3, "plane_every": 2}, xr.Dataset(attrs={"steps": 1024})
    assert [round(spacing_of(name, config, [run]) / np.log(2), 9) for name in of.EVENTS] == [0.5, 0.5, 1.5, 0.5, 1, 1]


def test_laws_without_records_are_refused_before_training():
    config = phases.EXPERIMENT.resolve({**TINY, "epochs": 2})
    with pytest.raises(ValueError, match="raise epochs, now 2, or records, now 20"):
        phases._enough(config)


# Growth ----------------------------------------------------------------------------------------------------------


def test_exact_laws_are_recovered_and_told_apart():
    t = np.geomspace(10, 1e4, 45)
    power, logarithm = 0.3 * t**0.42, 2 + 0.7 * np.log(t)
    one, two = fit("power", t, power), fit("logarithm", t, logarithm)
    assert one.exponent == pytest.approx(0.42, abs=1e-6) and one.scale == pytest.approx(0.3, abs=1e-6)
    assert two.scale == pytest.approx(0.7, abs=1e-12) and two.offset == pytest.approx(2.0, abs=1e-11)
    np.testing.assert_allclose(one(t), power, rtol=1e-6)
    for d, sign in ((power, -1), (logarithm, 1)):
        found = compared(t, d)
        assert sign * found.aic > 50 and sign * found.ahead > 3 and sign * found.between > 3
    np.testing.assert_allclose(local_exponents(t, power), 0.42, atol=1e-12)
    middle = [np.exp(np.log(part).mean()) for part in np.array_split(t, 3)]
    expected = [0.7 / (2 + 0.7 * np.log(m)) for m in middle]
    np.testing.assert_allclose(local_exponents(t, logarithm), expected, rtol=0.02)
    for when, said in (([0.0, 1, 2], "> 0 and increase"), ([1.0, 2], "at least 3")):
        with pytest.raises(ValueError, match=said):
            fit("power", when, np.ones(len(when)))
    with pytest.raises(ValueError, match="leave the start out"):
        local_exponents(t, power - power[0])


def test_noise_turns_few_comparisons_round():
    """5 % noise on either law, 20 sets each: ΔAIC decides right in at least 19, prediction ahead in at least 18."""
    t, rng = np.geomspace(20, 1e4, 40), np.random.default_rng(0)
    for law, sign in ((0.3 * t**0.4, -1), (1 + 1.0 * np.log(t), 1)):
        found = [compared(t, law * (1 + 0.05 * rng.standard_normal(len(t)))) for _ in range(20)]
        assert sum(sign * one.aic > 0 for one in found) >= 19 and sum(sign * one.ahead > 0 for one in found) >= 18
    walks = np.cumsum(rng.standard_normal((2000, 200)), axis=0)
    far = np.linalg.norm(walks, axis=1)
    chosen = record_steps(1999, 40)[1:]
    assert fit("power", chosen + 1.0, far[chosen]).exponent == pytest.approx(0.5, abs=0.05)
    assert compared(chosen + 1.0, far[chosen]).ahead < 0  # a free walk is no logarithm


# Information along a run -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", known.UNITS)
def test_the_information_of_a_unit_is_exact(activation):
    """Against 2·10⁴ draws and their mirror images in bins (0.03 bits); a large tanh keeps one bit."""
    x = np.random.default_rng(7).standard_normal(20_000)
    x = np.concatenate([x, -x])
    for w in (0.3, 3.0):
        act = {"tanh": np.tanh, "relu": lambda v: np.maximum(v, 0), "linear": lambda v: v}[activation]
        width, reach = 0.1, 1.0 if activation == "tanh" else 10 * w
        drawn = binned_information(act(w * x)[:, None], np.zeros(len(x), int), bins=round(2 * reach / width),
                                   bounds=(-reach, reach)).inputs.low  # fmt: skip
        assert known.unit_information(activation, w, width) == pytest.approx(drawn, abs=0.03)
    ends = known.unit_information(activation, 1e4, 0.1)
    assert ends == pytest.approx(1.0, abs=0.01) if activation == "tanh" else ends > 8


def test_a_run_is_measured_as_autograd_has_it(tmp_path):
    config = phases.EXPERIMENT.resolve({**TINY, "sharp_every": 20})
    run = followed(config, "tanh", 3, tmp_path / "a")
    data = data_of(config, "tanh", 3)
    made = settings_of(config, "tanh", len(data.inputs))
    model = connected(64, made["hidden"], 10, "tanh", 3)
    rows = []
    for k in range(60):
        value = nn.functional.cross_entropy(model(data.inputs[k : k + 1]), data.targets[k : k + 1])
        rows.append(torch.cat([p.flatten() for p in torch.autograd.grad(value, list(model[3].parameters()))]).numpy())
    rows = np.array(rows)
    mean, trace = np.linalg.norm(rows.mean(0)), rows.var(axis=0).sum()
    assert of.ratio(run, 1)[0] == pytest.approx(mean / np.sqrt(trace * 50 / (10 * 59)), rel=1e-10)
    assert of.ratio(run, 1, batch=1)[0] == pytest.approx(mean / np.sqrt(trace), rel=1e-10)
    layers = activations(model, nn.utils.parameters_to_vector(model.parameters()).detach().numpy(), data.inputs[:40])
    assert run["information"].values[0, 1, 0, 0] == pytest.approx(
        binned_information(layers[1][1], data.targets[:40], bounds=(-1, 1)).inputs.low
    )
    np.testing.assert_allclose(np.tanh(layers[0][0]), layers[0][1], rtol=1e-15, atol=1e-15)
    assert run["step"].values[-1] == 36 and run["cosine"].values[0] == pytest.approx(1.0)
    share = run["projection"].values * run["norm"].values[0] / run["norm"].values
    np.testing.assert_allclose(share, run["cosine"], rtol=1e-12)
    assert float(run["information"].max()) <= np.log2(40) + 1e-12
    still = settings_of(config, "descent", 60)
    assert still["batch_size"] == 60 and still["noise_size"] == 10 and still["steps"] == made["steps"] == 36


def test_random_labels_are_drawn_from_all_classes():
    config = phases.EXPERIMENT.resolve({**TINY, "label_samples": 1000})
    true, random = (data_of(config, kind, 1) for kind in ("random-0", "random-1"))
    assert torch.equal(true.inputs, random.inputs) and torch.equal(true.test_targets, random.test_targets)
    assert float((true.targets == random.targets).double().mean()) == pytest.approx(0.1, abs=1e-9)
    half = data_of(config, "random-0.5", 1)
    assert float((true.targets == half.targets).double().mean()) == pytest.approx(0.55, abs=1e-9)
    assert not torch.equal(data_of(config, "random-1", 2).targets, random.targets)


# As an experiment ------------------------------------------------------------------------------------------------


def test_registered_with_bounds_and_a_quick_form():
    chosen = experiment.get("phases")
    assert chosen.resolve({}, quick=True)["seeds"] == 3 and chosen.perform.__doc__
    assert phases.kinds({"random_labels": [0.5]})[-3:] == ["random-0", "random-0.5", "random-1"]
    for given, said in (({"bins": 1}, "bins must be from 2"), ({"seeds": 1}, "seeds must be from 2")):
        with pytest.raises(ValueError, match=said):
            chosen.resolve(given)
    assert _differs(0.01, 0.03) is False and _differs(0.06, 0.1) is True and _differs(-0.1, 0.1) is None
    assert np.isnan(_correlation(np.ones(3), np.arange(3))) and _correlation(np.arange(3), -np.arange(3)) == -1.0
    assert _not_half(0.42, 0.55) is False and _not_half(0.1, 0.3) is True and _not_half(0.3, 0.55) is None


@pytest.mark.evidence
def test_a_tiny_run_is_told_whole(tmp_path, undrawn):
    """Every section is there, and sentences have their verdicts in the result."""
    run = Run("phases", phases.EXPERIMENT.resolve(TINY), root=tmp_path / "whole")
    perform(run, phases.EXPERIMENT, Console(True))
    result, page = run.result(), run.report_path.read_text("utf-8")
    told = result["sentences"]
    assert told.sizes["sentence"] >= 8
    for heading in ("Drift, then diffusion", "The information plane", "Labels at random", "The way from the start"):
        assert heading in page
    assert page.count("<figure") >= 8
