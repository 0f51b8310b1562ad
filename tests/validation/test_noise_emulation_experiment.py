"""noise as an experiment: its settings, its stages on tiny runs, verdicts that follow from effects, its quick form."""

import math

import numpy as np
import pytest
import torch
import xarray as xr

from sde_sgd import experiment
from sde_sgd.validation import Split, noise_emulation, noise_emulation_figures
from sde_sgd.validation import _noise_emulation_runs as runs
from sde_sgd.validation import _noise_emulation_sentences as sentences
from sde_sgd.validation import _noise_emulation_wells as wells
from sde_sgd.validation._noise_emulation_agreement import compared
from sde_sgd.validation._noise_emulation_tasks import recognised

QUIET = lambda done, total: None  # noqa: E731
TINY = {"samples": 40, "hidden": 4, "seeds": 2, "time": 4.0, "learning_rates": [0.2, 0.4], "batch_sizes": [4, 16],
        "scaling_batches": [2, 8], "subset": 8}  # fmt: skip


def resolved(**given):
    return noise_emulation.EXPERIMENT.resolve(TINY | given)


def test_registered_with_bounds_and_a_quick_form():
    known = experiment.get("noise")
    assert known.resolve({}, quick=True) and known.perform.__doc__
    with pytest.raises(ValueError, match="label_noise must be from 0"):
        known.resolve({"label_noise": 2})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"samples": 900}, "half of the digits"),
        ({"batch_sizes": [16, 4]}, "at least two values and increase"),
        ({"batch_sizes": [4, 64]}, "a batch of 64 is more than samples=40"),
        ({"architectures": ["none", "tiny-fc"]}, "each once, or be none"),
    ],
)
def test_settings_that_do_not_fit_together(given, said):
    with pytest.raises(ValueError, match=said):
        resolved(**given)


def test_sgd_and_descent_keep_the_same_clock():
    """Records at the same η·steps whatever η; noise of size 0 in the limit b → ∞ is gradient descent; and the seeds'
    own data are those of the runs of SGD."""
    config = resolved()
    one = runs.sgd_run(config, runs.data_of(config, 0), 0, 0.2, 4)
    made = runs.emulated(config, "none", QUIET, ends=False)
    np.testing.assert_allclose(one["t"], made["t"])
    assert made.sizes == {"seed": 2, "record": runs._RECORDS, "weight": 64 * 4 + 4 + 4 * 10 + 10}
    for name in runs.QUANTITIES:
        assert float(one[name][0]) == pytest.approx(float(made[name][0, 0]), rel=1e-12)
    quiet = runs.emulated(config | {"batch_size": 1e24}, "exact", QUIET, ends=False)
    np.testing.assert_allclose(quiet["weights"], made["weights"], atol=1e-9)
    loud = runs.emulated(config, "exact", QUIET, ends=False)
    assert np.abs(loud["weights"] - made["weights"]).max() > 1e-3


def test_a_run_that_diverges_leaves_no_number():
    config = resolved()
    lost = runs.sgd_run(config, runs.data_of(config, 0), 0, 1e160, 4, time=1e163)
    assert all(np.isnan(values).all() for values in lost.values())
    assert not sentences.is_seen(sentences.gap_sentence([1.0, 1.1, float(lost.late_loss)], 10))
    assert sentences.is_seen(sentences.gap_sentence([1.0, 1.1, 1.0], 10))


def test_figures_leave_out_what_diverged():
    """A sweep whose runs at one rate diverge in one seed: the report's figure is made, with what is left."""

    def sweep(late):
        values = {"test_error": (("rate", "batch", "record"), np.ones((2, 2, 3)) * np.array(late)[:, None, None]),
                  "t": (("rate", "batch", "record"), np.broadcast_to([0.0, 1.0, 2.0], (2, 2, 3))),
                  "late_test_error": (("rate", "batch"), np.ones((2, 2)) * np.array(late)[:, None])}  # fmt: skip
        return xr.Dataset(values, {"rate": [0.1, 9.0], "batch": [4, 16]})

    descent = xr.Dataset({"t": ("record", [0.0, 1.0, 2.0]), "test_error": (("seed", "record"), np.ones((2, 3)))})
    figure = noise_emulation_figures.plot_gap([sweep([0.2, 0.3]), sweep([0.3, np.nan])], descent, 0.1)
    drawn = [line.get_ydata() for line in figure.axes[1].get_lines() if line.get_marker() in "os"]
    assert [np.isfinite(points).all() for points in drawn] == [True, False]


def test_exact_times_of_the_wells(monkeypatch):
    """The solved time of the well against its closed form in the cold limit, where the correction
    is O(T): at TD = 1/250 within 6 %; the closed forms of parabola and saddle are their own test."""
    case = next(c for c in wells.cases() if c["place"] == "well" and c["out"] == wells.FLAT)
    assert {c["noise"] for c in wells.cases()} == {"∝ curvature", "isotropic"} and len(wells.cases()) == 12
    cold = 1 / 125
    monkeypatch.setattr(wells, "_HOT", cold)
    found = wells.exact_log_time(case)
    h, temperature = case["out"], cold * case["along"]
    law = math.log(math.pi / (h * math.sqrt(0.5))) + wells._DEPTH / temperature
    assert found == pytest.approx(law, abs=0.06)


def test_noise_of_equal_trace():
    for out, across in ((4.0, 1.0), (1.0, 4.0)):
        shaped, even = wells.noises(out, across).values()
        assert sum(shaped) == pytest.approx(sum(even)) and even[0] == even[1] and shaped[0] / shaped[1] == out / across


def test_spectra_know_their_tasks_and_chance_does_not():
    """Spectra that differ by tasks are known again; of pure chance one in 40 is (Poisson of mean 1 for each of 30
    seeds: the mean share within 4 σ)."""
    rng = np.random.default_rng(0)
    own = np.exp(rng.standard_normal((1, 12, 5)) + 0.01 * rng.standard_normal((4, 12, 5)))
    assert np.all(recognised(own) == 1.0)
    chance = recognised(np.exp(rng.standard_normal((30, 40, 5))))
    assert abs(chance.mean() - 1 / 40) < 4 * math.sqrt(1 / 40 / 40 / 30)


def test_agreement_of_a_model_that_makes_its_labels():
    """Where labels have exactly the odds of the model, D = F = H: one input twice, two classes, odds ½."""
    line = torch.nn.Linear(1, 2, dtype=torch.float64)
    with torch.no_grad():
        for p in line.parameters():
            p.zero_()
    x, y = torch.ones(2, 1, dtype=torch.float64), torch.tensor([0, 1])
    found = compared(line, torch.nn.CrossEntropyLoss(), (x, y))
    assert found["gap"] < 1e-12 and found["d_h"] == pytest.approx(1.0) and found["slope"] < 1e-12
    wrong = compared(line, torch.nn.CrossEntropyLoss(), (x, torch.tensor([1, 1])))
    assert wrong["gap"] == pytest.approx(1.0) and np.isnan(wrong["d_h"])  # no scatter at all


def run_of(errors):
    return xr.Dataset({"late_test_error": ("seed", errors), "sharpness": ("seed", np.array(errors) * 100)})


def verdicts(made, sgd):
    return {one.content: one.verdict for one in sentences.noise_sentences(made, sgd, 1000)}


def test_verdicts_follow_from_errors():
    """Noise that is as good as SGD, and noise that is as bad as none, told apart by the same sentences; and where SGD
    is no better than descent nothing is said to close a gap that is not there."""
    kinds = ("subset", "fisher", "hessian", "exact", "exact, η/2")
    closes = "noise of covariance D/b added to full batches closes the gap"
    made = {"none": run_of([0.30, 0.31, 0.29]), "isotropic": run_of([0.30, 0.305, 0.295])}
    made |= {kind: run_of([0.21, 0.20, 0.19]) for kind in kinds}
    found = verdicts(made, [0.20, 0.21, 0.20])
    assert found[closes] == "seen" and found["isotropic noise of equal trace does not close it"] == "seen"
    worse = verdicts(made | {"exact": made["none"]}, [0.2, 0.21, 0.2])
    assert worse[closes] == "not seen"
    assert worse["isotropic noise of equal trace generalises worse than noise of covariance D/b"] != "seen"
    none = verdicts(made, [0.299, 0.312, 0.291])
    assert closes not in none and none["SGD generalises better than gradient descent, given the same η·steps"] != "seen"


def test_equal_errors_are_known_to_one_test_sample():
    """The same difference in every seed has an interval of one sample of the test set, not of no width."""
    made = {kind: run_of([0.3, 0.3, 0.3]) for kind in (*noise_emulation.KINDS, "exact, η/2")}
    first = sentences.noise_sentences(made, [0.2, 0.2, 0.2], 50)[0]
    assert first.interval == pytest.approx((0.1, 0.08, 0.12))


def test_grain_of_a_rank_correlation():
    assert 1 - sentences.ranks([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx(sentences.grain(4))
    assert 1 - sentences.ranks(range(12), [1, 0, *range(2, 12)]) == pytest.approx(sentences.grain(12))


def test_exit_of_the_recursion():
    """The solved mean exit time of SGD against 4,000 paths in NumPy, within 4 standard errors (chance 6e-5), and
    itself on a grid of half the cells; that of the SDE is not it."""
    amplitude, _, radius = wells._parabola()
    exact, rng = wells.recursion_time(), np.random.default_rng(5)
    assert wells.recursion_time(1501) == pytest.approx(exact, rel=1e-3)
    x, alive, steps = np.zeros(4_000), np.ones(4_000, dtype=bool), np.zeros(4_000)
    while alive.any():
        mean = 2 * rng.binomial(wells._BATCH, 0.5, alive.sum()) / wells._BATCH - 1
        x[alive] -= wells._RATE * (wells.FLAT * x[alive] + amplitude * mean)
        steps[alive] += 1
        alive &= np.abs(x) < radius
    times = wells._RATE * steps
    error = times.std() / math.sqrt(len(times))
    assert abs(times.mean() - exact) < 4 * error
    assert abs(times.mean() - wells.sgd_laws()["of the SDE"]) > 10 * error


def test_rows_of_a_split_are_flat_and_half_of_the_digits_can_be_asked_for():
    assert len(runs.data_of(resolved(samples=899), 0).inputs) == 899
    split = runs.data_of(resolved(), 3)
    assert isinstance(split, Split) and split.inputs.shape == (40, 64) and split.test_inputs.ndim == 2
