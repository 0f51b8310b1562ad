"""sgd-vs-sde and validity-map: runs of known gap, the linear theory, tiny runs that are cut and go on."""

import re

import numpy as np
import pytest
import scipy.stats
import xarray as xr

import sde_sgd as sde
from sde_sgd import experiment
from sde_sgd._console import Console
from sde_sgd._files import write_bytes
from sde_sgd.report import Report
from sde_sgd.results import Run, load
from sde_sgd.run_command import perform
from sde_sgd.study import Study
from sde_sgd.validation import _sgd_sde_runs as runs
from sde_sgd.validation import sgd_against_sde, validity_map
from sde_sgd.validation.sgd_sde_figures import plot_gaps, plot_laws, plot_means, plot_validity

from ._tiny import TINY

PARTS = {"sgd-vs-sde": sgd_against_sde, "validity-map": validity_map}


def performed(name, root):
    run = Run(name, PARTS[name].EXPERIMENT.resolve(TINY[name]), root=root)
    perform(run, PARTS[name].EXPERIMENT, Console(True))
    return run


def sample(mean, spread, replicas, seed, times=3):
    rng = np.random.default_rng(seed)
    return xr.Dataset(
        {
            "loss": (("replica", "time"), mean + spread * rng.standard_normal((replicas, times))),
            "distance": (("replica", "time"), 2.0 + spread * rng.standard_normal((replicas, times))),
            "projection": (("replica", "time", "projection_0"), spread * rng.standard_normal((replicas, times, 2))),
        },
        {"time": np.arange(1.0, times + 1)},
    )


def line(curvature, noise, slope, loss=1.0, decay=0.0):
    zero = np.zeros(len(curvature))
    names = {"curvature": curvature, "noise": noise, "slope": slope, "decay": zero}
    return xr.Dataset(
        {name: ("eigenvector", np.asarray(value, dtype=float)) for name, value in names.items()},
        attrs={"loss": loss, "weight_decay": decay, "trace": float(np.sum(noise)), "gradient": 0.5},
    )


def test_a_gap_is_found_where_there_is_one_and_only_there():
    """Gaps of 0, 4 % and 30 % in the loss, noise of 1 %: agrees, open at 16 replicas, differs. Chance 4e-4 in all."""
    reference = sample(1.0, 0.1, 4000, 0)
    told = [runs.judged(runs.compared(sample(mean, 0.1, 4000, k + 1), reference, 1.0), 0.05)
            for k, mean in enumerate((1.0, 1.3))]  # fmt: skip
    assert told == ["agrees", "differs"]
    assert runs.judged(runs.compared(sample(1.04, 0.1, 16, 5), reference, 1.0), 0.05) == "open"
    gap = runs.compared(sample(1.3, 0.1, 4000, 7), reference, 1.0)
    assert abs(gap["gap"].sel(quantity="loss") - 0.3).max() < 4 * 0.1 * np.sqrt(2 / 4000) * 1.3
    np.testing.assert_allclose(gap["error"].sel(quantity="loss"), 0.1 * np.sqrt(2 / 4000), rtol=0.1)
    lost = sample(1.0, 0.1, 50, 8)
    lost["loss"][3, 1] = np.nan
    assert runs.judged(runs.compared(lost, reference, 1.0), 0.05) == "differs"


def test_a_gap_on_the_same_paths_has_the_error_of_the_differences():
    one, other = sample(1.0, 0.1, 400, 0), sample(1.0, 0.1, 400, 0)
    one["loss"] = one["loss"] + 0.01 + 1e-3 * np.random.default_rng(1).standard_normal((400, 3))
    apart, paired = (runs.compared(one, other, 1.0, paired=paired).sel(quantity="loss") for paired in (False, True))
    np.testing.assert_allclose(paired["error"], 1e-3 / 20, rtol=0.15)
    np.testing.assert_allclose(apart["error"], 0.1 * np.sqrt(2) / 20, rtol=0.15)
    assert abs(paired["gap"] - 0.01).max() < 5 * 1e-3 / 20


def told(name, section, *arguments, **changes):
    """(verdict, sentence) of one section of a report."""
    config = PARTS[name].EXPERIMENT.resolve(TINY[name] | {"tolerance": 0.05}) | changes
    study = Study(None, Console(True), config, Report("a", "b"))
    section(study, *arguments)
    return [(block["passed"], block["text"]) for block in study.report.sections[0].blocks if block["kind"] == "verdict"]


@pytest.mark.parametrize(
    ("replicas", "means", "holds", "said"),
    [
        (4000, (1.0, 1.0), [True, True], "Nowhere up to η = 0.4"),
        (4000, (1.0, 1.5), [True, True], "stops describing SGD at η = 0.4 .*; it is within 5% beyond doubt at η = 0.1"),
        (60, (1.0, 1.5), [True, True], "at η = 0.4 .*; 8 replicas do not show it within 5% beyond doubt at a lower η"),
        (4000, (1.5, 1.0), [False, False], "at η = 0.1 .* at a lower η. A larger η agrees again: no order"),
        (8, (1.0, 1.0), [False, True], "Nowhere"),  # too few replicas to promise anything
    ],
)
def test_what_is_said_of_the_gaps_follows_from_them(replicas, means, holds, said, undrawn):
    """Runs of known gap, noise of 10 %; each verdict can fail."""
    reference = sample(1.0, 0.1, replicas, 0)
    found = {"sgd": {rate: sample(mean, 0.1, replicas, k + 1) for k, (rate, mean) in enumerate(zip((0.1, 0.4), means))},
             "sde": {0.1: reference, 0.4: reference}}  # fmt: skip
    verdicts = told("sgd-vs-sde", sgd_against_sde._gap_section, line([2.0], [1.0], [0.0]), "ratio", found)
    assert [verdict for verdict, _ in verdicts] == holds and re.search(said, verdicts[1][1])


def test_a_step_of_the_reference_that_is_too_long_is_told(undrawn):
    fine, roads = sample(1.0, 0.1, 100, 0), xr.Dataset({"largest": 1e-15, "moved": 0.1})
    for shift, holds in ((0.0, True), (0.02, False), (0.1, False)):
        coarse = fine.assign(loss=fine["loss"] + shift + 0.02 * np.random.default_rng(2).standard_normal((100, 3)))
        found = {family: {"coarse": {0.1: coarse}, "sde": {0.1: fine}} for family in sgd_against_sde.FAMILIES}
        verdicts = told("sgd-vs-sde", sgd_against_sde._reference_section, line([2.0], [1.0], [0.0]), found, roads)
        assert [verdict for verdict, _ in verdicts] == [holds, True]


def test_what_is_said_of_the_map_follows_from_it(undrawn):
    """Cells of known gap; D/b is larger at b = 2, where the loss of the linear theory is further from the SDE's."""
    config = {"learning_rates": [0.1, 0.4], "batch_sizes": [2, 64], "tolerance": 0.05, "time": 8.0, "order": 8}
    start = line([2.0], [2.0], [0.0], loss=0.1)
    for gaps, holds in (
        ([[0, 0], [0.4, 0.0]], [True, True, True]),
        ([[0, 0], [0.0, 0.0]], [True, False]),  # the theory sees one cell that differs, and none does
        ([[0.4, 0], [0.4, 0.0]], [False, False, True]),
        ([[0, 0], [0.0, 0.4]], [True, False, False]),  # and not where noise exceeds signal
    ):
        cells = {
            (rate, batch): xr.Dataset({"gap": ("quantity", [gap, 0.0]), "error": ("quantity", [1e-3, 1e-3])})
            for rate, row in zip((0.1, 0.4), gaps)
            for batch, gap in zip((2, 64), row)
        }
        found = validity_map.map_of(config, start, cells)
        verdicts = told("validity-map", validity_map._section, start, found, **config)
        assert [verdict for verdict, _ in verdicts] == holds, verdicts


def test_the_loss_is_shared_out_by_its_change_where_that_is_larger():
    """From 10 down to 1 the change, 9, is the scale."""
    gap = runs.compared(sample(1.9, 1e-6, 50, 0), sample(1.0, 1e-6, 50, 1), 10.0)
    np.testing.assert_allclose(gap["gap"].sel(quantity="loss"), 0.1, rtol=1e-4)


def test_boundary():
    rates = (0.1, 0.2, 0.4, 0.8)
    assert sgd_against_sde.boundary(["agrees", "agrees", "open", "differs"], rates) == (0.2, 0.8)
    assert sgd_against_sde.boundary(["differs", "agrees", "differs", "open"], rates) == (None, 0.1)
    assert sgd_against_sde.boundary(["open"] * 4, rates) == (None, None)


def test_linear_theory_is_the_recursion_written_out_and_tends_to_discrete_sgd():
    h, d, s = [2.0, 0.3, -0.1, 0.0], [1.0, 2.0, 0.5, 0.7], [0.4, -0.2, 0.1, 0.3]
    start = line(h, d, s)
    for order in (1, 4):
        step, mean, variance = 0.2 / order, np.zeros(4), np.zeros(4)
        for _ in range(15 * order):
            mean = mean - step * (np.array(h) * mean + s)
            variance = (1 - step * np.array(h)) ** 2 * variance + step**2 * order * np.array(d) / 8
        loss, square = runs.quadratic_moments(start, 0.2, 8, 3.0, order)
        assert square == pytest.approx((mean**2 + variance).sum(), rel=1e-12)
        assert loss == pytest.approx(1 + (np.array(s) * mean + np.array(h) * (mean**2 + variance) / 2).sum(), rel=1e-12)
    far = [runs.quadratic_moments(start, 0.2, 8, 3.0, order)[0] for order in (64, 128, None)]
    assert (far[0] - far[2]) / (far[1] - far[2]) == pytest.approx(2, rel=0.02)
    settled = line([2.0], [1.0], [0.0])
    exact = sde.DiscreteSGD(2.0, 1.0, 0.2, 8).covariance[0, 0]
    assert runs.quadratic_moments(settled, 0.2, 8, 40.0)[1] == pytest.approx(exact, rel=1e-10)
    assert runs.quadratic_moments(settled, 0.2, 8, 40.0, None)[1] == pytest.approx(0.2 / 8 / 4, rel=1e-10)


def test_the_limit_of_the_rate_is_where_the_predicted_gap_is_the_tolerance():
    """Settled, s = 0, f = 0 at the minimum: the gap is 1/(1 − ηh/2) − 1, and 5 % lies at ηh = 2·0.05/1.05."""
    start = line([2.0], [1.0], [0.0], loss=0.0)
    assert validity_map.rate_limit(start, 8, 40.0, 0.05) == pytest.approx(0.05 / 1.05, rel=0.05)
    assert np.isnan(validity_map.rate_limit(line([2.0], [0.0], [0.0]), 8, 40.0, 0.05))


def test_a_stopped_run_of_the_sde_goes_on_with_the_same_bits(tmp_path):
    config = sgd_against_sde.EXPERIMENT.resolve(TINY["sgd-vs-sde"])
    start = runs.start_of(config)
    whole = runs.sde_run(config, start, 0.1, 2, 0.05, 3)

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runs.sde_run(config, start, 0.1, 2, 0.05, 3, tmp_path / "kept.npz", stop)
    calls = []
    rest = runs.sde_run(config, start, 0.1, 2, 0.05, 3, tmp_path / "kept.npz", lambda done, total: calls.append(done))
    assert calls == [2] and rest.identical(whole)
    coarse = runs.sde_run(config, start, 0.1, 2, 0.1, 3, refinement=2)  # on the same paths: close to each replica
    own = runs.sde_run(config, start, 0.1, 2, 0.1, 4)
    near, far = (float(abs(run["distance"] - whole["distance"]).mean()) for run in (coarse, own))
    assert 0 < 5 * near < far
    other = runs.sde_run(config, start, 0.1, 2, 0.05, 4, tmp_path / "kept.npz")  # another question starts anew
    assert float(abs(other["distance"] - whole["distance"]).max()) > 0
    equation = runs.equation(config, 0.1, 2)
    found = equation.euler(steps=32, step=0.05, replicas=8, start=start["start"].values, seed=3)
    away = np.linalg.norm(found["weights"].values[:, 0] - start["start"].values, axis=1)
    np.testing.assert_allclose(whole["distance"].values[:, -1], away, rtol=1e-12)


def test_sgd_that_diverges_is_told_not_hidden():
    config = sgd_against_sde.EXPERIMENT.resolve(TINY["sgd-vs-sde"])
    start = runs.start_of(config)
    run = runs.sgd_run(config | {"weight_decay": 1e300}, start, 0.4, 2, 0)
    assert run.attrs["diverged"] >= 0 and np.isnan(run["loss"]).all() and run.sizes["time"] == 2
    assert runs.judged(runs.compared(run, runs.sde_run(config, start, 0.4, 2, 0.1, 0), 1.0), 0.05) == "differs"
    assert runs.sgd_run(config, start, 0.4, 2, 0).attrs["diverged"] == -1


@pytest.mark.parametrize("name", PARTS)
def test_a_tiny_run_is_told_whole_and_resumes_after_its_stages(name, tmp_path, undrawn):
    run = performed(name, tmp_path / "whole")
    said = run.result()["verdicts"]["sentence"].values
    page = run.report_path.read_text("utf-8")
    assert len(said) >= {"sgd-vs-sde": 8, "validity-map": 2}[name]
    assert page.count("<figure") >= 1 and not (run.folder / "work").exists()
    stages = sorted((run.folder / "stages").glob("*.nc"))
    again = Run(name, PARTS[name].EXPERIMENT.resolve(TINY[name]), root=tmp_path / "cut")
    (again.folder / "stages").mkdir(parents=True, exist_ok=True)
    for path in stages[:2]:  # as left behind by a run that was killed
        write_bytes(again.folder / "stages" / path.name, path.read_bytes())
    performed(name, tmp_path / "cut")
    for path in stages:
        assert load(path).drop_attrs().identical(load(again.folder / "stages" / path.name).drop_attrs()), path.name


@pytest.mark.parametrize("name", PARTS)
def test_registered_with_bounds_and_a_quick_form(name):
    assert experiment.get(name) is PARTS[name].EXPERIMENT
    assert experiment.get(name).resolve({}, quick=True)["replicas"] < experiment.get(name).resolve({})["replicas"]


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("sgd-vs-sde", {"learning_rates": [0.2, 0.1]}, "must increase"),
        ("sgd-vs-sde", {"learning_rates": [0.1, 0.15], "time": 1.2, "saves": 2}, "must be whole"),
        ("sgd-vs-sde", {"time": 16.1}, "not a whole number of steps"),
        ("sgd-vs-sde", {"substeps": 3}, "even"),
        ("sgd-vs-sde", {"fixed_batch_size": 200}, "samples"),
        ("validity-map", {"batch_sizes": [4, 2]}, "must increase"),
        ("validity-map", {"batch_sizes": [4, 300]}, "samples"),
        ("validity-map", {"time": 8.01}, "whole number"),
    ],
)
def test_settings_that_do_not_fit_together(name, given, said):
    given = {"batch_size": 1} | given if name == "sgd-vs-sde" and "learning_rates" in given else given
    with pytest.raises(ValueError, match=said):
        PARTS[name].EXPERIMENT.resolve(given)


def test_figures():
    one, two = sample(1.0, 0.1, 20, 0), sample(1.1, 0.1, 20, 1)
    assert len(plot_means({0.1: one, 0.2: two}, {0.1: one, 0.2: one}, ("loss", "distance")).axes) == 2
    narrow, wide = (plot_laws({"SGD": one["loss"].values[:, 0] ** p}, two["loss"].values[:, 0]) for p in (1, 40))
    assert (narrow.get_xscale(), wide.get_xscale()) == ("linear", "log")
    gaps = {"loss": ([0.1, np.nan], [0.2, np.nan]), "distance": ([0.01, 0.3], [0.001, 0.01])}
    assert plot_gaps([0.1, 0.2], gaps, [0.01, 0.2], 0.05).get_ylim()[0] == pytest.approx(1e-3)
    found = xr.Dataset(
        {"gap": (("rate", "batch"), [[0.01, np.nan]]), "state": (("rate", "batch"), [["agrees", "differs"]]),
         "rate_limit": ("batch", [0.2, np.nan])},
        {"rate": [0.1], "batch": [2, 4]}, {"noise_limit": 3.0, "stable": 0.15},
    )  # fmt: skip
    assert [t.get_text() for t in plot_validity(found).get_legend().get_texts()][:2] == ["agrees (1)", "open (0)"]


def test_what_is_said_of_the_limit_follows_from_the_runs():
    """Jumps of a skewed law at fixed η/b: one law for all η, and not the normal one; and the other two outcomes."""
    draw = np.random.default_rng(0)
    jumps = {0.1: draw.exponential(size=600), 0.2: draw.exponential(size=600)}
    normal = draw.normal(1.0, 1.0, 600)

    def said(ends):
        return sgd_against_sde._limit(
            ends, {rate: scipy.stats.ks_2samp(values, normal) for rate, values in ends.items()}, 1e-3
        )

    assert "settled on a law of its own" in said(jumps)
    assert "still changes with η" in said({0.1: jumps[0.1], 0.2: jumps[0.2] + 1.0})
    assert "do not tell SGD" in said({0.1: draw.normal(1.0, 1.0, 600), 0.2: jumps[0.2]})
