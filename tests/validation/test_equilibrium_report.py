"""What the report of the equilibrium says follows from its numbers and can fail; what cannot be set is refused."""

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.special import stdtrit

from sde_sgd._console import Console
from sde_sgd.report import Report
from sde_sgd.study import Study
from sde_sgd.validation import _equilibrium_effects as effects
from sde_sgd.validation import _equilibrium_report as report
from sde_sgd.validation._equilibrium_runs import Observed, data_of, network_of, start_of, walked
from sde_sgd.validation._equilibrium_sentences import _descent, _mixing, less_than_independent, no_worse
from sde_sgd.validation._equilibrium_statistics import disagreement
from sde_sgd.validation.equilibrium import EXPERIMENT

SMALL = {"samples": 120, "widths": [6, 5], "batch_size": 16, "reference": 32, "descent_samples": 32, "points": 12}


@pytest.fixture
def study(monkeypatch):
    """A report without figures."""
    for name in ("plot_descent", "plot_mixing", "plot_weights", "plot_slow", "add_figure"):
        monkeypatch.setattr(report, name, lambda *_: None)
    made = Study(None, Console(True), EXPERIMENT.resolve({}), Report("t"))
    made.results["/equilibrium/toy-0"] = None
    return made


def verdicts(study):
    return [b["passed"] for section in study.report.sections for b in section.blocks if b["kind"] == "verdict"]


def words(study):
    blocks = [b for section in study.report.sections for b in section.blocks if b["kind"] == "text"]
    return " ".join(part for block in blocks for part in block["paragraphs"])


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"intrinsic": [0.01]}, "two distinct"),
        ({"intrinsic": [0.01, 0.01]}, "two distinct"),
        ({"intrinsic": [0.2, 0.01]}, "intrinsic must be from"),
        ({"walkers": 200}, "200 walkers are taken from 160 replicas"),
        ({"walkers": 4, "average": 8}, "need as many walkers"),
        ({"time": 1.2, "spacing": 0.25}, "at least 1.25"),
        ({"time": 4.0, "spacing": 2.0}, "spacing must be from"),  # no state at a lag of 1/(ηλ)
        ({"walk_time": 2.0, "spacing": 0.5, "average": 5}, "a walk_time of 2.5"),
        ({"walk_time": 1.5}, "walk_time must be from 2"),  # nothing would lie beyond 1/(ηλ)
        ({"samples": 100}, "reference = 256 of samples = 100"),
        ({"samples": 100, "reference": 50}, "descent_samples = 200 of samples = 100"),
        ({"samples": 20, "reference": 16, "descent_samples": 16}, "batch_size = 32 of samples = 20"),
        ({"data": "mnist"}, "give directory"),
        ({"directory": "somewhere"}, "does not apply to digits"),
        ({"toy_steps": 200}, "toy_steps must be from 400"),
    ],
)
def test_settings_that_cannot_be_together_are_refused(given, named):
    with pytest.raises(ValueError, match=named):
        EXPERIMENT.resolve(given)


def test_the_defaults_and_the_quick_form_are_allowed_and_more_than_there_is_refused():
    for quick in (False, True):
        assert EXPERIMENT.resolve({}, quick)["walk_time"] >= 2
    assert EXPERIMENT.resolve({})["slow_factor"] == 100
    config = EXPERIMENT.resolve(SMALL)
    data = data_of(config, torch.float64, 0)
    network = network_of(config, data, 0)
    for name in ("reference", "points"):
        with pytest.raises(ValueError, match=f"{name} = 5000"):
            Observed(config | {name: 5000}, data, network)


# Descent ---------------------------------------------------------------------------------------------------------


def course(*, spikes=(), steps=1000, of=400, decay=0.01):
    """A loss of 1 with records at steps / of apart, and rises of tenfold, 4 records long, at records `spikes`."""
    loss = np.ones(of + 1)
    for at in spikes:
        loss[at : at + 4] = 10.0
    names, still = ["decay", "decay off", "no decay"], np.ones(of + 1)
    both = {name: (("run", "step"), [loss, still, still]) for name in ("loss", "gradient_norm")}
    return xr.Dataset(both, {"run": names}, {"steps": steps, "learning_rate": 0.5, "weight_decay": decay, "samples": 9})


def test_excursions_of_the_last_quarter_are_counted_one_by_one():
    run = course(spikes=(40, 299, 320, 380, 398))
    assert effects.excursions(run, "decay") == 4 and effects.rise(run, "decay") == 10.0  # 299 is still high at 300
    assert effects.excursions(course(spikes=(40, 200, 290)), "decay") == 0  # what is over by then does not count
    assert effects.excursions(run, "no decay") == 0 and effects.rise(run, "no decay") == 1.0


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([course(spikes=(40, 350)), course(spikes=(320,))], [True]),
        ([course(spikes=(40, 350)), course(spikes=(40,))], [False]),  # it came to rest in one of them
        ([course(spikes=(40, 350)).assign_coords(run=["decay off", "decay", "no decay"])], [False]),
        ([course(spikes=(40, 350), steps=700)], []),  # 175 steps of 1/(ηλ) = 200
    ],
)
def test_the_verdict_on_descent_can_fail_and_is_withheld_of_short_runs(study, runs, expected):
    report.report_descent(study, runs)
    assert verdicts(study) == expected and ("Not decided" in words(study)) == (not expected)
    toys = [xr.Dataset({"slope": (("run", "step"), np.ones((2, 8)))}, {"run": ["decay", "no decay"]})]
    veers = _descent({"toy": toys, "descent": runs})[1]
    assert isinstance(veers, str) == (not expected)  # what the verdict does not decide is no answer, either


# Mixing ----------------------------------------------------------------------------------------------------------


def mixing(x, rate, *, first=0.1, p_first=0.005, p_last=0.5, rng=None):
    """Ensembles at ηλ = x whose squared distance falls as first · e^{−rate·t}."""
    steps = np.arange(0, 4.01, 0.02) / x
    curve = first * np.exp(-rate * steps)
    p = np.where(curve > 0.01, p_first, p_last)
    halves = np.full(6, 0.5) if rng is None else rng.random(6)
    shown = {name: ("step", np.ones(len(steps))) for name in ("distance", "null_mean")}
    return xr.Dataset({"squared": (("pair", "step"), [curve] * 3), "p_value": ("step", p), "halves": ("test", halves),
                       **shown}, {"step": steps}, {"intrinsic": x, "level": 0.002})  # fmt: skip


def test_times_to_mix_and_their_exponents():
    """Rates r: the integral is 1/r, the level is reached at ln(first/level)/r; a distance that starts small misleads
    the second only."""
    ladder = [mixing(x, 2 * x) for x in (0.04, 0.02, 0.01)]
    times = effects.mixing_times(ladder[1])
    assert times["integral"] == pytest.approx(25, rel=2e-3) and times["level"] == pytest.approx(25 * np.log(50))
    assert times["test"] == pytest.approx(25 * np.log(10), abs=1.0)
    for sense in times:
        assert effects.mixing_exponent(ladder, sense) == pytest.approx(1.0, abs=0.02)
    closer = [mixing(x, 2 * x, first=2.5 * x) for x in (0.04, 0.02, 0.01)]
    assert effects.mixing_exponent(closer, "integral") == pytest.approx(1.0, abs=0.01)
    assert effects.mixing_exponent(closer, "level") < 0.75
    apart = [mixing(x, 0.04) for x in (0.04, 0.02, 0.01)]  # a time that does not know ηλ
    assert abs(effects.mixing_exponent(apart, "level")) < 0.01 and effects.mixing_exponent(apart, "integral") < 0.05
    never, met = mixing(0.01, 1e-9), mixing(0.01, 0.02, first=-1e-6)
    assert np.isnan(effects.mixing_times(never)["level"]) and np.isnan(effects.mixing_times(met)["integral"])
    assert np.isnan(effects.mixing_exponent([ladder[0], never], "level"))
    assert (
        effects.left(ladder) < 1e-3
        and np.isnan(effects.left([ladder[0], met]))
        and np.isnan(effects.left([mixing(0.01, 0.02, first=0.0)]))
    )
    told = _mixing([ladder] * 3, [[ladder[0], met]] * 3)
    assert [one if isinstance(one, str) else one.verdict for one in told] == [
        "seen", "“So they do whatever the start.” (0 of 3 seeds)", "seen", "seen",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [True, True]),
        ({"p_last": 0.005}, [True, False]),  # still told apart
        ({"p_first": 0.3}, [True]),  # nothing to forget
    ],
)
def test_the_verdict_on_mixing_can_fail_and_is_withheld_of_ensembles_that_are_one(study, options, expected):
    rng = np.random.default_rng(0)
    ladders = [[mixing(x, 2 * x, rng=rng, **options) for x in (0.02, 0.01)] for _ in range(3)]
    report.report_mixing(study, ladders, ladders)
    assert verdicts(study) == expected and ("Not decided" in words(study)) == (len(expected) == 1)


def test_the_seeds_that_an_interval_takes(study):
    """By the definition, one seed more than too few; the report says it, and says nothing of a single seed."""
    values = [0.5, 1.0, 1.3]
    count = report.seeds_for(values, 0.25)
    half = [stdtrit(n - 1, 0.975) * np.std(values, ddof=1) / np.sqrt(n) for n in (count - 1, count)]
    assert half[1] <= 0.25 < half[0] and report.seeds_for([1.0, 1.0], 0.25) == 2
    ladders = [[mixing(0.02, 0.04), mixing(0.01, rate)] for rate in (0.02, 0.03, 0.015)]
    report.report_mixing(study, ladders, ladders)
    slopes = [effects.mixing_exponent(ladder, "integral") for ladder in ladders]
    assert f"takes {report.seeds_for(slopes, 0.25)} seeds" in words(study) and "and there are 3." in words(study)
    study.report.sections.clear()
    report.report_mixing(study, ladders[:1], ladders[:1])
    assert "seed to seed" not in words(study)


def test_a_null_that_is_not_of_its_size_fails(study):
    """72 tests: all of them reject; none does, which happens with probability 0.025."""
    for halves in (0.01, 0.5):
        ladders = [[mixing(x, 2 * x).assign(halves=("test", np.full(6, halves))) for x in (0.02, 0.01)]] * 3
        report.report_mixing(study, ladders, ladders)
    assert verdicts(study)[::2] == [False, True]


# Weights, and small learning rates ---------------------------------------------------------------------------------


def walk(reached, *, error=0.1, gap=-0.05, jitter=0.0):
    """A walk that has covered a share `reached` of its plateau, whose replicas disagree on 2e(1 − e) + gap."""
    numbers = {name: ("replica", np.full(4, error + jitter))
               for name in ("error", "error_within", "error_across", "error_stranger", "error_strangers")}  # fmt: skip
    e = error + jitter
    moved = np.repeat([[0.5], [2 * (reached + jitter)]], 4, axis=1)
    return xr.Dataset(
        {"moved": (("lag", "replica"), moved), "square": ("replica", np.ones(4)), "spread": 1.0,
         "disagreement": 2 * e * (1 - e) + gap, "disagreement_strangers": 0.2, **numbers},
        {"lag": [100, 400]}, {"intrinsic": 0.01, "test_inputs": 360},
    )  # fmt: skip


@pytest.mark.parametrize(("reached", "spread", "expected"), [(0.4, 0.01, [True]), (1.2, 0.01, [False]), (0.9, 0.1, [])])
def test_the_verdict_on_the_plateau_follows_from_its_interval(study, reached, spread, expected):
    one = walk(reached)  # 0.25 of 2|w|² after 1/(ηλ), and then `reached`
    assert effects.covered(one) == pytest.approx(reached) and effects.moved_on(one) == pytest.approx(4 * reached)
    report.report_weights(study, [[walk(reached, jitter=j)] for j in (-spread, 0.0, spread)])
    assert verdicts(study) == expected and ("Not decided" in words(study)) == (not expected)


@pytest.mark.parametrize(
    ("gap", "verdict", "said"),
    [(-0.05, "seen", "replicas of one start disagree less at ηλ = 0.01"), (0.05, "not seen", "disagree no less at"),
     (-0.001, "undecided", "may or may not disagree less")],
)  # fmt: skip
def test_what_is_said_of_disagreement_follows_from_its_interval(study, gap, verdict, said):
    """A gap of less than one test input in 360 is no evidence, even if all seeds have it."""
    walks = [[walk(0.4, gap=gap)]] * 3
    assert less_than_independent([one for (one,) in walks]).verdict == verdict
    report.report_weights(study, walks)
    assert said in words(study)


@pytest.mark.parametrize(
    ("gaps", "verdict", "said"),
    [([-0.02, -0.01, -0.015], "seen", "it is not worse by 0.01"), ([0.03, 0.032, 0.034], "not seen", "it is worse by"),
     ([0.0, 0.02, 0.01], "undecided", "does not tell"), ([0.009] * 3, "undecided", "does not tell")],
)  # fmt: skip
def test_what_is_said_of_a_small_learning_rate_follows_from_its_interval(study, gaps, verdict, said):
    runs = [xr.Dataset({"error": (("arm", "replica", "step"), np.array([[[0.1]], [[0.1 + gap]]]))},
                       {"arm": ["large first", "small throughout"], "step": [40_000]},
                       {"intrinsic": 5e-5, "test_inputs": 360}) for gap in gaps]  # fmt: skip
    assert no_worse(runs).verdict == verdict
    report.report_slow(study, runs)
    assert said in words(study) and "η smaller by 100" in words(study) and "2/(ηλ)" in words(study)


def test_walks_average_within_a_run_across_runs_and_across_starts():
    config = EXPERIMENT.resolve({**SMALL, "intrinsic": [0.12, 0.1], "replicas": 8, "walkers": 4, "average": 2,
                                 "walk_time": 2.0, "float_type": "float64"})  # fmt: skip
    data = data_of(config, torch.float64, 0)
    look = Observed(config, data, network_of(config, data, 0))
    own = np.stack([start_of(config, data, 0, 1, r) for r in range(8)])
    one = np.repeat(start_of(config, data, 0, 0)[None], 8, axis=0)
    parts = [xr.Dataset({"weights": (("replica", "weight"), weights)}) for weights in (one, own)]
    run = walked(config, 0, 0, *parts)
    wrong = look.all_labels(own[:4]) != data.test_targets.numpy()
    np.testing.assert_allclose(run["error_stranger"], wrong.mean(1))
    np.testing.assert_allclose(run["error_strangers"], look.errors(np.stack([own[:2].mean(0), own[2:4].mean(0)])))
    assert float(run["disagreement_strangers"]) == pytest.approx(disagreement(look.all_labels(own[:4])))
    assert run.attrs["test_inputs"] == len(data.test_targets) and run.sizes["group"] == 2
    assert effects.gain(run, "strangers") == pytest.approx(wrong.mean() - float(run["error_strangers"].mean()))
    assert run["lag"].values[[0, -1]].tolist() == [2, 16]  # spacing and walk_time of 1/(ηλ) = 8.3 steps
