"""The experiment `optimisers`: sampled local entropy in closed form, its parts on toys, and a tiny run."""

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

from sde_sgd._console import Console
from sde_sgd.errors import NotConverged
from sde_sgd.report import Report
from sde_sgd.results import Run
from sde_sgd.run_command import perform
from sde_sgd.study import Study
from sde_sgd.validation import GradientNoise
from sde_sgd.validation import _optimisers_runs as runs
from sde_sgd.validation._optimisers_answers import _between, _cycles, _range, _spectrum, pseudo_values
from sde_sgd.validation._optimisers_local_entropy import bennett, losses_of, sampled_local_entropy
from sde_sgd.validation._optimisers_report import PUBLISHED, cell, reproduction
from sde_sgd.validation._sentences import student
from sde_sgd.validation.optimisers import EXPERIMENT

from ._tiny import TINY as SMALL

TINY = SMALL["optimisers"]


def quadratic(d):
    """Curvatures, the function (n, d) → (n,), and a point."""
    a = torch.linspace(0.1, 3, d, dtype=torch.float64)
    return a, lambda y: 0.5 * (a * y**2).sum(-1), torch.full((d,), 0.3, dtype=torch.float64)


def exact(a, w, spread, t):
    gamma = spread**2 / t
    return float(0.5 * (a / (1 + gamma * a) * w**2).sum() + 0.5 * t * torch.log(1 + gamma * a).sum())


def test_sampled_local_entropy_is_the_closed_form_of_a_quadratic():
    """Stiff in 60 variables, at two spreads side by side: within five jackknife errors of four chains, which are small;
    ⟨f⟩ and |w − ⟨w'⟩| of the Gaussian that the local Gibbs measure is."""
    a, loss, w = quadratic(60)
    found = sampled_local_entropy(loss, w.expand(2, -1), spread=[0.1, 0.3], temperature=0.01, steps=75, seed=1)
    for k, spread in enumerate((0.1, 0.3)):
        gamma = spread**2 / 0.01
        assert abs(found.value[k] - exact(a, w, spread, 0.01)) < 5 * found.error[k] < 0.1 * found.value[k]
        rest = w / (1 + gamma * a)
        level = float(0.5 * (a * (rest**2 + spread**2 / (1 + gamma * a))).sum())
        assert found.mean_loss[k] == pytest.approx(level, rel=0.15)
        assert found.distance[k] == pytest.approx(float((w - rest).norm()), rel=0.05)
        assert found.information[k] == pytest.approx((exact(a, w, spread, 0.01) - level) / 0.01, rel=0.1)
    # the loss itself, or another temperature, is far off
    assert abs(exact(a, w, 0.3, 0.02) - found.value[1]) > 10 * found.error[1] < abs(float(loss(w)) - found.value[1])


def test_bennett_of_gaussians():
    """Energies a x²/2 at λ = 1 and 2: ½ log 2 whatever a (4 standard errors of 2000 pairs, chance 6e-5)."""
    rng = np.random.default_rng(0)
    one, two = (0.5 * 3.0 * (rng.normal(size=20_000) / np.sqrt(3.0 * k)) ** 2 for k in (1, 2))
    assert bennett(one, two, 1.0) == pytest.approx(0.5 * np.log(2), abs=0.02)


def test_network_losses_and_refusals():
    model = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1)).double()
    x, y = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 1, dtype=torch.float64)
    w = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    function = losses_of(model, nn.functional.mse_loss, x, y)
    assert float(function(w[None])[0]) == pytest.approx(float(nn.functional.mse_loss(model(x), y).detach()), rel=1e-14)
    for bad, says in (({"spread": 0.0}, "spread"), ({"temperature": -1.0}, "temperature"), ({"steps": 5}, "steps")):
        with pytest.raises(ValueError, match=says):
            sampled_local_entropy(function, w, **({"spread": 0.1, "temperature": 1.0} | bad))
    rough = lambda v: 1e9 * (v * 1e6).sin().sum(-1)  # noqa: E731
    with pytest.raises(NotConverged, match="moves are accepted"):
        sampled_local_entropy(rough, w, spread=1.0, temperature=1.0, steps=30)


def test_between_two_ends_of_a_convex_loss_there_is_no_barrier_and_between_exchanged_units_there_is():
    data = runs.data_of(EXPERIMENT.resolve(TINY))
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).double()
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 650)) * 0.1
    found = runs.line(linear, data, one, other)
    assert found["barrier"] == 0 > found["rise"] and found["train_loss_average"] < found["train_loss_mean"]
    assert found["apart"] == pytest.approx(np.linalg.norm(one - other))
    config = EXPERIMENT.resolve(TINY | {"epochs": 12})
    end = runs.trained(config, data, "adam", 0.03, 0)["weights"].sel(point="end").values
    exchanged = end.copy()  # the hidden units in reverse order: the same function
    exchanged[:1024] = end[:1024].reshape(16, 64)[::-1].ravel()
    exchanged[1024:1040] = end[1024:1040][::-1]
    exchanged[1040:1200] = end[1040:1200].reshape(10, 16)[:, ::-1].ravel()
    found = runs.line(runs.model_of(config, data, 0), data, end, exchanged)
    assert found["barrier"] > 0.1 and found["train_loss_worst"] == pytest.approx(found["train_loss_mean"], rel=1e-9)


def test_every_answer_about_basins_can_be_no():
    """A barrier is never negative: "more than 0" could not be denied of it. The rise decides, which goes both ways.

    Ways that rise by the same share, or fall, in every pair: seen, and not seen.
    """
    names = ("rise", "test_error_average", "test_error_mean", "test_error_worst", "test_loss_average", "test_loss_mean")
    pairs = [f"seed {s}, cycles 1 and 2" for s in range(4)]
    run = xr.Dataset(
        {"test_error": ("kind", [0.1, 0.1, 0.2]), "loss": (("kind", "time"), np.ones((3, 3))),
         "cyclic_rate": ("time", [0.1, 1.0, 0.1])},
        {"kind": ["cyclic", "low", "high"], "time": [0.0, 1.0, 2.0]}, {"cycle_epochs": 2},
    )  # fmt: skip
    for rise, expected in ((0.3, "seen"), (-0.3, "not seen")):
        joined = xr.Dataset({name: ("pair", rise * np.linspace(1, 1.1, 4)) for name in names}, {"pair": pairs})
        by_content = {answer.content: answer.verdict for answer in _cycles([run] * 4, joined, range(4), 0.0)}
        assert by_content["ends of consecutive cycles are different minima, with a barrier between"] == expected
        across = joined.assign_coords(pair=["sgd | adam", "sgd | momentum", "adam | rmsprop", "adam | momentum"])
        starts = [f"{n}, seeds {s} and {t}" for n in ("sgd", "adam") for s, t in ((0, 1), (0, 2), (1, 2))]
        between = xr.Dataset({name: ("pair", np.linspace(0, 1, 6)) for name in names}, {"pair": starts})
        first = _between([across] * 3, [across] * 3, between, 3, 0.0)[0]
        assert first.verdict == expected and first.condition


def test_a_loss_that_only_falls_is_not_higher_at_large_rates():
    """At the largest rate above both ends of the cycle: seen; between them, on a way down: not seen."""
    names = ("rise", "test_error_average", "test_error_mean")
    joined = xr.Dataset({name: ("pair", np.zeros(3)) for name in names},
                        {"pair": [f"seed {s}, cycles 1 and 2" for s in range(3)]})  # fmt: skip
    for losses, expected in (([1.0, 3.0, 0.9], "seen"), ([3.0, 2.0, 1.0], "not seen")):
        run = xr.Dataset(
            {"test_error": ("kind", [0.1, 0.1, 0.2]), "loss": (("kind", "time"), [losses] * 3),
             "cyclic_rate": ("time", [0.1, 1.0, 0.1])},
            {"kind": ["cyclic", "low", "high"], "time": [0.0, 1.0, 2.0]}, {"cycle_epochs": 2},
        )  # fmt: skip
        assert _cycles([run] * 3, joined, range(3), 0.0)[1].verdict == expected


def test_equal_errors_are_no_evidence_beyond_the_test_set():
    """Averages that are as good in every pair: of 100 samples that is 0 ± 0.01, of ever so many 0 itself."""
    names = ("rise", "test_error_average", "test_error_mean", "test_error_worst", "test_loss_average", "test_loss_mean")
    pairs = ["sgd | adam", "sgd | momentum", "adam | rmsprop", "adam | momentum"]
    across = xr.Dataset({name: ("pair", np.zeros(4)) for name in names}, {"pair": pairs})
    between = xr.Dataset({name: ("pair", np.zeros(3)) for name in names},
                         {"pair": [f"sgd, seeds {s} and {t}" for s, t in ((0, 1), (0, 2), (1, 2))]})  # fmt: skip
    for grain, expected in ((0.01, "undecided"), (0.0, "not seen")):
        found = _between([across] * 3, [across] * 3, between, 3, grain)[2]
        assert found.verdict == expected and found.interval == (0.0, -grain, grain)


def test_range_and_spectra_are_told_by_what_was_measured():
    """Bounds of a rise from 0 to 0.6 that turns at 0.6: over twenty of 200 rates the first value becomes 0.011 and the
    highest 0.575. A rate on offer is known to half the way to the next."""
    rates = np.arange(200) / 200
    low, high = runs.rate_bounds(rates, 0.6 - np.abs(rates - 0.6))
    assert low == pytest.approx(0.011 + 0.1 * (0.575 - 0.011), abs=0.01) and high == pytest.approx(0.52, abs=0.01)
    offered = xr.Dataset({"loss": ("rate", [1.0, 0.5, 1.0])}, {"rate": [0.1, 0.2, 0.4]}, {"rate": 0.2})
    for (low, high), expected in (((0.01, 4.0), "seen"), ((1.0, 4.0), "not seen"), ((0.18, 4.0), "undecided")):
        found = _range(offered, [xr.Dataset(attrs={"low": low, "high": high})] * 3)
        assert found.verdict == expected
        assert found.resolution == pytest.approx(np.log(2) / 2 / np.log(high / low))
    largest = offered.assign_attrs(rate=0.4)  # the best may be larger than all on offer
    for (low, high), expected in (((0.01, 4.0), "undecided"), ((0.01, 0.1), "not seen"), ((1.0, 4.0), "undecided")):
        assert _range(largest, [xr.Dataset(attrs={"low": low, "high": high})] * 3).verdict == expected
    for trace, expected in ((4.0, "seen"), (10.0, "not seen")):
        end = xr.Dataset({"hessian": (("seed", "index"), [[2.0, 1.0]] * 3), "hessian_trace": ("seed", [trace] * 3),
                          "hessian_trace_error": ("seed", [0.01] * 3)})  # fmt: skip
        found = _spectrum({"sgd": end, "adam": end})
        assert found.verdict == expected and found.effect == pytest.approx([3 / trace] * 3)
    negative = end.assign(hessian_trace=-end["hessian_trace"])  # at a saddle
    assert _spectrum({"sgd": negative}).verdict == "not seen"


def test_data_are_called_other_data_only_where_they_are(tmp_path):
    for data, said in (("digits", True), ("mnist", False)):
        config = EXPERIMENT.resolve({"data": data} | ({} if said else {"directory": "x"}))
        study = Study(Run("some", {"seed": 0}, root=tmp_path / data), Console(True), config, Report("t"))
        reproduction(study)
        assert ("of other data," in study.report.sections[0].blocks[0]["paragraphs"][0]) == said


def test_the_published_setting_can_be_asked_for():
    words = PUBLISHED.split()
    given = {name[2:].replace("-", "_"): value for name, value in zip(words[::2], words[1::2])}
    numbers = {name: int(value) if value.isdigit() else value for name, value in given.items()}
    assert EXPERIMENT.resolve(numbers)["network"] == "small-lenet"


def test_pairs_of_seeds_are_one_number_per_seed():
    """Of x_s + x_t halved the pseudo-values are the x_s; as independent numbers the pairs would seem too sure."""
    x = np.array([0.3, -1.0, 2.0, 0.9])
    pairs = {(s, t): 0.5 * (x[s] + x[t]) for s in range(4) for t in range(s)}
    np.testing.assert_allclose(pseudo_values(pairs, 4), x, rtol=1e-12)
    wide, narrow = student(pseudo_values(pairs, 4)), student(list(pairs.values()))
    assert wide.mean == pytest.approx(narrow.mean) and wide.high - wide.low > 2 * (narrow.high - narrow.low)
    assert pseudo_values({(0, 1): 0.7}, 2) == [0.7]


def test_a_round_may_be_longer_than_an_epoch():
    config = EXPERIMENT.resolve(TINY | {"inner_steps": 20})
    run = runs.trained(config, runs.data_of(config), "entropy-sgd", 0.1, 0)
    assert run["point"].values.tolist() == ["start", "before", "end", *runs.BRANCHES]
    before, end = (run["weights"].sel(point=name).values for name in ("before", "end"))
    np.testing.assert_array_equal(before, end)  # both lie in the one round
    assert (end != run["weights"].sel(point="start").values).any()


def test_a_chain_that_does_not_settle_is_said_and_ends_nothing(monkeypatch):
    def unsettled(*args, **options):
        raise NotConverged("few moves are accepted")

    config = EXPERIMENT.resolve(TINY)
    data = runs.data_of(config)
    ends = {"sgd": np.zeros(sum(p.numel() for p in runs.model_of(config, data, 0).parameters()))}
    monkeypatch.setattr(runs, "sampled_local_entropy", unsettled)
    found = runs.local_entropies(config, data, ends, 0.05, 0)
    assert np.isnan(found["local_entropy"]).all() and found.attrs["not_settled"] == "few moves are accepted"
    assert cell(found["local_entropy"].values) == "not settled" and found["loss"].item() == pytest.approx(np.log(10))


def test_noise_of_svrg_is_measured_as_it_is_defined():
    config = EXPERIMENT.resolve(TINY)
    data = runs.data_of(config)
    run = runs.trained(config, data, "svrg", 0.1, 0)
    found = runs.measured(config, data, run, 0)
    model = runs.model_of(config, data, 0)
    both = []
    for point in ("end", "before"):
        runs.put(model, run["weights"].sel(point=point).values)
        noise = GradientNoise(model, runs.LOSS, (data.inputs[:40], data.targets[:40]))
        both.append(torch.cat(list(noise.sample_gradients())).numpy())
        if point == "end":
            assert float(found["noise_trace"]) == pytest.approx(np.trace(noise.matrix()), rel=1e-9)
    ratio = (both[0] - both[1]).var(axis=0).sum() / both[0].var(axis=0).sum()
    assert float(found["svrg_noise"]) == pytest.approx(ratio, rel=1e-9)


@pytest.mark.evidence
def test_the_whole_in_a_tiny_form(tmp_path, undrawn):
    """Every section is written, and every verdict holds even so."""
    run = Run("optimisers", EXPERIMENT.resolve(TINY), root=tmp_path)
    perform(run, EXPERIMENT, Console(True))
    result = run.result()
    assert result["verdicts"]["holds"].values.all() and result["sentences"].sizes["sentence"] >= 16


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"optimisers": ["adam", "parle"]}, "sgd"),
        ({"optimisers": ["sgd", "lion"]}, "lion"),
        ({"spreads": [0.2, 0.1]}, "increase"),
        ({"range_low": 0.5, "range_high": 0.1}, "below"),
    ],
)
def test_settings_that_cannot_be_are_refused(given, says):
    with pytest.raises(ValueError, match=says):
        EXPERIMENT.resolve(given)
