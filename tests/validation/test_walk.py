"""The walk: segments against parabolas, isotropic noise, a valley where all is known, and the report as a whole."""

import numpy as np
import pytest
import scipy.stats
import torch
import xarray as xr
from torch import nn
from torch.nn.utils import parameters_to_vector

import sde_sgd as sde
from sde_sgd import experiment
from sde_sgd._console import Console
from sde_sgd.report import Report
from sde_sgd.results import Run
from sde_sgd.run_command import perform
from sde_sgd.study import Study
from sde_sgd.validation import _walk_report, network, train_sgd, walk
from sde_sgd.validation._walk_floors import joined, joined_on_toy
from sde_sgd.validation._walk_runs import (
    IsotropicNoise,
    data_of,
    deviations,
    network_of,
    recorded_epochs,
    schedule_of,
    segment_steps,
    walked,
    with_isotropic_noise,
)
from sde_sgd.validation._walk_segments import place_of_floor, quadratic_height, segments
from sde_sgd.validation._walk_sentences import _floors_of, _of_ranks, _rank_correlation, finished
from sde_sgd.validation._walk_valley import valley
from sde_sgd.validation.walk_figures import cosine_series

from ._tiny import TINY as SMALL

TINY = SMALL["walk"]
ALPHAS = np.linspace(0, 1, 11)


# Segments --------------------------------------------------------------------------------------------------------


def test_heights_on_a_quadratic_are_the_formula():
    """(η²/2) gᵀHg [(a* − ½)² + ¼] by the parabola to 1e-10; the grid of 11 falls short by at most its spacing."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((4, 4))
    hessian, compared = a @ a.T, 0
    for _ in range(50):
        w, kick, eta = rng.standard_normal(4), rng.standard_normal(4), 0.3
        slope, gradient = hessian @ w, hessian @ w + kick
        points = w - ALPHAS[:, None] * eta * gradient
        losses = 0.5 * np.einsum("ai,ij,aj->a", points, hessian, points)
        found = segments(losses)
        assert not found.barrier and found.rise < 0  # convex
        lowest = gradient @ slope / (eta * gradient @ hessian @ gradient)
        assert place_of_floor(losses) == pytest.approx(np.clip(lowest, 0, 1), abs=1e-10)
        try:
            exact = quadratic_height(gradient, slope, hessian, eta)
        except ValueError:
            assert not found.interior
            continue
        compared += 1
        curved = eta**2 * gradient @ hessian @ gradient
        assert abs(found.vertex - exact) < 1e-10 * max(1, exact)
        assert -1e-12 < exact - found.height < curved / 2 * 0.05**2 + 1e-12
    assert compared > 10


def test_floors_and_barriers_of_curves():
    x = ALPHAS
    several = np.stack([x**2 - x, -(x**2) + x, x, np.cos(6 * np.pi * x), 1 + 1e-13 * np.sin(np.pi * x)])
    found = segments(several)
    assert found.interior.tolist() == [True, False, False, True, False]
    assert found.barrier.tolist() == [False, True, False, False, False]  # the last is rounding, not a barrier
    np.testing.assert_allclose(found.floor[:3], [-0.25, 0, 0], atol=1e-12)
    np.testing.assert_allclose(found.height[:3], [0.25, 0, 0.5], atol=1e-12)
    np.testing.assert_allclose(found.rise[:3], [-0.09, 0.25, -0.1], atol=1e-12)
    np.testing.assert_allclose(place_of_floor(several[:3]), [0.5, 0.0, 0.0], atol=1e-12)  # no floor: the lower end
    assert segments(np.array([0.0, 1e-6, 0.0]), tolerance=1e-3).barrier  # relative to the losses, not to 1
    with pytest.raises(ValueError, match="odd number"):
        segments(np.zeros((3, 4)))
    with pytest.raises(ValueError, match="lies outside"):
        quadratic_height(np.ones(1), 3 * np.ones(1), np.eye(1), 1.0)


# Runs ------------------------------------------------------------------------------------------------------------


def data():
    inputs = torch.rand(24, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return inputs, torch.arange(24) % 3


def trained(deviation, **options):
    model = network("mlp", (1, 4, 4), 3, width=0.02, seed=3)
    if deviation is not None:
        with_isotropic_noise(model, deviation)
    options = {"steps": 4, "learning_rate": 0.1, "batch_size": 24, "sampling": "without_replacement", **options}
    train_sgd(model, *data(), seed=1, **options)
    return parameters_to_vector(model.parameters()).detach()


def test_isotropic_noise_is_white_and_has_the_deviation_that_is_named():
    """No noise: the same bits as without; with it, one step moves by −ησξ, ξ standard normal (4 σ in two moments)."""
    assert torch.equal(trained(0.0), trained(None))
    kicks = (trained(0.5, steps=1) - trained(None, steps=1)) / (-0.1 * 0.5)
    n = kicks.numel()
    assert n > 300 and abs(float(kicks.mean())) < 4 / n**0.5
    assert abs(float(kicks.square().mean()) - 1) < 4 * (2 / n) ** 0.5
    assert not torch.equal(trained(0.5), trained(0.5, replica=1)) and torch.equal(trained(0.5), trained(0.5))
    assert deviations({"noise_scale": 0.04}) == {"standard deviation": 0.04, "variance": 0.2}


def test_isotropic_noise_leaves_evaluation_alone():
    layer = nn.Linear(2, 3, dtype=torch.float64)
    x, before = torch.ones(1, 2, dtype=torch.float64), [name for name, _ in layer.named_parameters()]
    with_isotropic_noise(layer, 1.0)
    assert [name.split(".")[-2] for name, _ in layer.named_parameters()] == before  # the order of weights
    layer.eval()
    slopes = torch.autograd.grad(layer(x).sum(), list(layer.parameters()))
    assert torch.equal(slopes[0], torch.ones(3, 2, dtype=torch.float64))
    layer.train()
    noisy = torch.autograd.grad(layer(x).sum(), list(layer.parameters()))
    assert not torch.equal(noisy[0], slopes[0]) and torch.equal(layer(x), layer.eval()(x))
    assert isinstance(layer.parametrizations.weight[0], IsotropicNoise)


def test_schedules_and_the_steps_that_are_interpolated():
    steps = np.arange(101)
    assert schedule_of("constant", 0.2, 100) == 0.2
    assert schedule_of("step", 0.2, 100)(steps)[[0, 49, 50, 75]].tolist() == pytest.approx([0.2, 0.2, 0.02, 0.002])
    assert schedule_of("cyclic", 0.2, 100)(steps)[[0, 5, 10]].tolist() == pytest.approx([0.02, 0.2, 0.02])
    assert schedule_of("trapezoid", 0.2, 100)(steps)[[0, 10, 70, 100]].tolist() == pytest.approx(
        [0.002, 0.2, 0.2, 0.002]
    )
    config = {"epochs": 6, "image_epochs": 3, "record_epochs": [1, 5], "segments": 3}
    assert recorded_epochs(config, "mlp") == [1, 5] and recorded_epochs(config, "resnet") == [1, 3]
    assert segment_steps(config, 60, 10, "mlp").tolist() == [0, 4, 9, 40, 44, 49]
    assert segment_steps(config, 42, 10, "mlp").tolist() == [0, 4, 9, 40]


def test_the_valley_meets_its_closed_forms():
    """Heights to 1e-10 of the formula and no barrier without ripples, some with them; variance within 5 σ."""
    found = valley({"seeds": 2, "valley_steps": 1500}, lambda done, total: None)
    smooth = found.isel(ripple=0)
    assert float(smooth["gap"].max()) < 1e-10 and float(smooth["barrier"].max()) == 0.0
    assert float(found["barrier"].isel(ripple=1).max()) > 0
    np.testing.assert_allclose(smooth["height"], smooth["oracle"], rtol=0.03)
    independent = found["rate"].values * 10 * 1500  # steps over the correlation time, times 2 seeds, halved
    off = smooth["variance"].mean("seed").values / found["exact_variance"].values - 1
    assert (np.abs(off) < 5 * np.sqrt(2 / independent)).all()
    bumpy = found.isel(ripple=1)
    assert float(smooth["floor_barrier"].max()) == float(smooth["floor_exact"].max()) == 0.0
    assert float(bumpy["floor_exact"].max()) > 0.2 and float(bumpy["floor_missed"].mean()) < 0.1 > float(
        bumpy["floor_false"].mean()
    )
    ar = 1 - found["rate"].values * 10  # of y: Var of a mean of squares 2 Var²(1 + ar²)/((1 − ar²)n), were it normal
    exact = found["exact_variance"] * np.sqrt(2 * (1 + ar**2) / ((1 - ar**2) * 1500))
    quotient = np.sqrt((smooth["variance_error"] ** 2).mean("seed")).values / exact
    assert (quotient > 0.5).all() and (quotient < 1.6).all()  # 38 degrees of freedom: 0.65 to 1.35 with 99.9 %


def test_floors_of_the_bumpy_valley_in_closed_form():
    """Steps straight across at x = 0, 0 and 1: V = x²/20 + ε(1 − cos 2πx) between them, whatever the height of y."""
    toy = sde.landscapes.get("bumpy_valley", floor=0.1, wall=10.0, ripple=0.05, finite_sum=True)
    path = np.array([[0, -0.3], [0, 0.1], [0, -0.2], [0, 0.3], [1, -0.2], [1, 0.2]])
    losses = toy.loss(path[:-1, None] + ALPHAS[:, None] * np.diff(path, axis=0)[:, None])
    found, exact = joined_on_toy(toy, path, losses, 2)
    x = np.linspace(0, 1, 100_001)
    v = x**2 / 20 + 0.05 * (1 - np.cos(2 * np.pi * x))
    np.testing.assert_allclose(exact, [0, v.max() - v[-1]], atol=1e-5)
    np.testing.assert_allclose(found.rise, [0, v[::10_000].max() - v[-1]], atol=1e-12)
    assert found.barrier.tolist() == [False, True]
    np.testing.assert_allclose(found.height, [5 * (0.3**2 + 0.2**2) / 2, 5 * 0.2**2], atol=1e-12)


def test_what_is_said_of_the_floor_can_be_yes_and_no():
    hill, bowl = np.sin(np.pi * ALPHAS), -np.sin(np.pi * ALPHAS)

    def told(floor, iterate):
        run = xr.Dataset({"floor_loss": (("floor_loss_step", "line", "place"), np.array([[floor, iterate]] * 40))})
        answers = _floors_of({"floor_epochs": 1}, {("mlp", "sgd"): [run] * 3}, "mlp")
        return [answer if isinstance(answer, str) else answer.verdict for answer in answers]

    assert told(hill, 2 + bowl) == ["seen", "seen", "seen"]
    assert told(hill, 0.5 + hill) == ["seen", "undecided", "not seen"]  # as many barriers; lower than they are
    *verdicts, left = told(bowl, 2 + hill)
    assert verdicts == ["not seen", "not seen"] and left.endswith("(0 of 3 seeds)")  # no barrier has no height


def test_cosines_of_fewer_records_than_parts():
    products = np.array([[1.0, 2.0, 2.0], [-1.0, 4.0, 1.0]])
    run = xr.Dataset({"gradient_products": (("gradient_products_step", "product"), products)},
                     {"gradient_products_step": [0, 5]})  # fmt: skip
    np.testing.assert_allclose(cosine_series(run), [[0, 5], [0.5, -0.5]])
    np.testing.assert_allclose(cosine_series(run, 1), [[2.5], [0.0]])


def test_rank_correlation_is_spearman_s():
    rng = np.random.default_rng(5)
    one, two = rng.integers(0, 5, 12).astype(float), rng.standard_normal(12)
    assert _rank_correlation(one, two) == pytest.approx(scipy.stats.spearmanr(one, two).statistic)
    assert np.isnan(_rank_correlation([1, 2], [1, 2])) and np.isnan(_rank_correlation([1, 1, 1], [1, 2, 3]))
    run = xr.Dataset({"hessian_eigenvalues": (("step", "index"), np.zeros((5, 1)))})
    swapped = _rank_correlation([1, 2, 3, 4], [1, 3, 2, 4])
    assert _of_ranks([(run, run)]) == pytest.approx(_rank_correlation([1, 2, 3, 4], [1, 2, 3, 4]) - swapped)


# As an experiment ------------------------------------------------------------------------------------------------


def test_registered_with_bounds_and_a_quick_form():
    known = experiment.get("walk")
    assert known.resolve({}, quick=True)["networks"] == ["mlp"] and known.perform.__doc__
    for given, said in (
        ({"networks": ["mlp", "mlp"]}, "each once"), ({"networks": ["lenet"]}, "some of mlp"),
        ({"record_epochs": [2, 1]}, "must increase"), ({"networks": ["resnet"]}, "noise is about the mlp"),
        ({"seeds": 1}, "seeds must be from 2"), ({"floor_epochs": 17}, "more than the 16 epochs"),
        ({"record_epochs": [20, 30]}, "one of the 16 epochs of vgg-11"),  # nothing to compare the last with
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            known.resolve(given)
    for command in walk.PUBLISHED:  # what the report says is the published setting can be asked for
        words = command.split()
        found = known.resolve(
            {name[2:].replace("-", "_"): as_given(known, name[2:].replace("-", "_"), value)
             for name, value in zip(words[::2], words[1::2])}
        )  # fmt: skip
        assert found["batch_size"] == 100 and not found["small"] and found["directory"] == "FOLDER"


def as_given(known, name, value):
    """A word of the command line in the type of its setting."""
    default = known.settings[name].default
    if isinstance(default, bool):
        return {"true": True, "false": False}[value]
    if isinstance(default, tuple):
        return [type(default[0])(part) for part in value.split(",")]
    return type(default)(value)


def test_a_run_that_diverges_is_named_and_left_out(tmp_path):
    config = walk.EXPERIMENT.resolve(TINY)
    lost = walked(config, data_of(config), "mlp", 0, tmp_path / "lost", rate=1e200)
    kept = walked(config, data_of(config), "mlp", 0, tmp_path / "kept", rate=0.1, curvature=False)
    assert lost.attrs["diverged"] >= 1 and not lost.data_vars and kept["segment_loss"].shape == (6, 11)
    runs = {("mlp", "sgd"): [kept, kept], ("mlp", "gd"): [lost, kept]}
    assert finished(runs, "mlp", "sgd", "gd") == [(kept, kept)] and finished(runs, "mlp", "sgd", "none") == []
    np.testing.assert_array_equal(kept["end"], network_end(config, kept))


def test_the_report_says_how_many_seeds_diverged(monkeypatch):
    """Of one kind none, of one a seed, of one all, and of SGD itself: each is in a row, and none is in a figure."""
    for name in ("plot_series", "add_figure"):
        monkeypatch.setattr(_walk_report, name, lambda *given: drawn.append(given[0]))
    lost, names = xr.Dataset(attrs={"diverged": 3}), ("loss", "test_accuracy", "norm", "distance")
    whole = xr.Dataset({name: ("step", [1.0, 0.5]) for name in names}, attrs={"steps": 9})
    runs = {("mlp", "gd"): [whole, whole], ("mlp", "gd-ninefold"): [lost, lost], ("mlp", "sgd"): [lost, lost],
            ("mlp", "noise-deviation"): [whole, lost]}  # fmt: skip
    drawn, study = [], Study(None, Console(True), walk.EXPERIMENT.resolve({}), Report("t"))
    _walk_report.report_noise(study, runs)
    (table,) = [block for block in study.report.sections[0].blocks if block["kind"] == "table"]
    labels, losses = ([row[k]["text"] for row in table["rows"]] for k in (0, 2))
    assert losses == ["diverged", "0.5 ± 0", "diverged", "0.5 ± ∞", *["diverged"] * 3]
    assert [label.endswith("(1 of 2 seeds)") for label in labels] == [k == 3 for k in range(7)]
    assert [len(runs) for runs in drawn if isinstance(runs, dict)] == [1, 1, 1]


def network_end(config, run):
    """The same weights by a run of its own."""
    split = data_of(config)
    model = network_of("mlp", split, config, 0)
    train_sgd(model, split.inputs, split.targets, steps=9, learning_rate=0.1, batch_size=20, sampling="reshuffling",
              weight_decay=config["weight_decay"], seed=0)  # fmt: skip
    return parameters_to_vector(model.parameters()).detach().numpy()


@pytest.mark.evidence
def test_a_tiny_run_is_told_whole(tmp_path, undrawn):
    """Every section is there, sentences have their verdicts in the result, and floors are joined an epoch apart."""
    run = Run("walk", walk.EXPERIMENT.resolve(TINY), root=tmp_path / "whole")
    perform(run, walk.EXPERIMENT, Console(True))
    result, page = run.result(), run.report_path.read_text("utf-8")
    told = result["sentences"]
    assert told.sizes["sentence"] >= 15 and set(told["verdict"].values) <= {"seen", "not seen", "seen only when",
                                                                           "undecided"}  # fmt: skip
    for heading in (
        "From one iterate to the next",
        "From floor to floor",
        "SGD, gradient descent, isotropic noise",
        "A bumpy valley",
    ):
        assert heading in page
    assert page.count("<figure") >= 9
    sgd = result["walk/mlp-sgd-0"].to_dataset()
    assert sgd["floor_loss_step"].values.tolist() == [3, 6, 9] and not joined(sgd["floor_loss"].values).barrier.all()
