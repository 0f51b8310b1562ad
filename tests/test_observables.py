"""What is accumulated while paths run: against NumPy on the saved states, the same bits, and what is refused."""

import itertools
import math

import numpy as np
import pytest

import sde_sgd as sde
from sde_sgd.paths import _ensemble
from sde_sgd.paths._checkpoint import Checkpoint
from sde_sgd.paths._first_passage import FirstPassage
from sde_sgd.paths._histogram import Histogram
from sde_sgd.paths._lag_covariance import LagCovariance
from sde_sgd.paths._moments import Moments
from sde_sgd.paths._sample_density import sample_density
from sde_sgd.paths._simulate import simulate
from sde_sgd.paths._winding import Winding

TEMPERATURE = 0.5
TURNING = sde.landscapes.get("quadratic", rotation=1.0).at_temperature(TEMPERATURE)
HALF = sde.Landscape("x", "x**2", domain={"x": (-1, 9)}).at_temperature(TEMPERATURE)


def linear(d):
    """A stable linear process of d variables with rotation in the first two."""
    names = ["x", "y", "a", "b", "c"][:d]
    turn = ["-y", "x", "0", "0", "0"][:d] if d > 1 else None
    loss = " + ".join(f"{1 + k}*({v} - 0.3)**2/2" for k, v in enumerate(names))
    return sde.Landscape(names, loss, circulation=turn).at_temperature(TEMPERATURE)


def states(run):
    """(path, time, variable) in float64."""
    return np.stack([run[v].values.astype(float) for v in run.data_vars if run[v].dims == ("path", "time")], -1)


def everything(d, **changes):
    """One observable of each kind, for a process of d variables."""
    grid = sde.Grid((-2,) * min(d, 3), (2,) * min(d, 3), (9, 7, 5)[: min(d, 3)])
    project = None if d < 4 else ["a", "x", "c"]
    options = dict(burn_in=3, every=2, blocks=4) | changes
    seen = [Moments(**options), LagCovariance((0, 1, 3, 5), **options), Histogram(grid, **options, project=project)]
    seen.append(FirstPassage("x > 0.9 and exp(-x) > 0.1", per_path=True, times=np.int64(5)))
    return seen + ([Winding(burn_in=3, per_path=True)] if d > 1 else [])


# -- against NumPy on the saved states ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "d, dtype",
    [
        (2, "float32"),
        (5, "float64"),
        *(pytest.param(d, "float64", marks=pytest.mark.evidence) for d in (1, 2)),
    ],
)
def test_sums_in_the_kernel_are_those_over_saved_states(d, dtype):
    """float32 states too are summed in float64: to 1e-12, where float32 sums would differ by 1e-6."""
    paths, steps = 101, 40
    run = simulate(
        linear(d), np.full(d, 0.5), step=0.1, steps=steps, paths=paths, save_every=1, observables=everything(d),
        seed=3, dtype=dtype,
    )  # fmt: skip
    x, close = states(run), dict(rtol=1e-12, atol=1e-13)
    seen = x[:, 5::2]
    mean, blocks = seen.mean((0, 1)), np.arange(paths) * 4 // paths
    np.testing.assert_allclose(run["mean"], mean, **close)
    np.testing.assert_allclose(run["mean_error"], scatter(seen.mean(1), blocks), **close)
    squares = np.einsum("pti,ptj->pij", seen - mean, seen - mean) / seen.shape[1]
    np.testing.assert_allclose(run["covariance"], squares.mean(0), **close)
    np.testing.assert_allclose(run["covariance_error"], scatter(squares, blocks), **close)
    np.testing.assert_allclose(
        run["effective_samples"], np.diag(run["covariance"]) / run["mean_error"] ** 2, rtol=1e-12
    )
    for k, lag in enumerate((0, 1, 3, 5)):
        pairs = np.einsum("pti,ptj->pij", seen[:, lag:] - mean, seen[:, : seen.shape[1] - lag] - mean)
        pairs /= seen.shape[1] - lag
        np.testing.assert_allclose(run["lag_covariance"][k], pairs.mean(0), **close)
        np.testing.assert_allclose(run["lag_covariance_error"][k], scatter(pairs, blocks), **close)
    np.testing.assert_allclose(run["lag_time"], [0, 0.2, 0.6, 1.0])
    chosen = seen if d < 4 else seen[..., [2, 0, 4]]
    grid = sde.Grid((-2,) * min(d, 3), (2,) * min(d, 3), (9, 7, 5)[: min(d, 3)])
    counts, _ = np.histogramdd(chosen.reshape(-1, min(d, 3)), bins=grid.edges)
    np.testing.assert_array_equal(run["counts"].sum("block"), counts)
    assert run["outside"].sum() == chosen[..., 0].size - counts.sum()

    inside = (x[..., 0] > 0.9) & (np.exp(-x[..., 0]) > 0.1)
    passage = np.where(inside.any(1), 0.1 * inside.argmax(1), np.inf)
    np.testing.assert_allclose(run["first_passage"], passage, **close)
    capped = np.minimum(passage, 4.0)
    np.testing.assert_allclose(run["passage_time"], capped.mean(), **close)
    np.testing.assert_allclose(run["passage_time_error"], capped.std(ddof=1) / math.sqrt(paths), rtol=1e-11)
    alive = [(passage > t + 1e-9).mean() for t in (0, 1, 2, 3, 4)]
    np.testing.assert_allclose(run["survival"], alive, **close)
    np.testing.assert_allclose(run["survival_error"], np.sqrt(alive * (1 - np.array(alive)) / paths), rtol=1e-12)
    assert 0 < int(run["censored"]) == np.isinf(passage).sum() < paths
    if d > 1:
        angle = np.unwrap(np.arctan2(x[:, 3:, 1], x[:, 3:, 0]), axis=1)
        turns = (angle[:, -1] - angle[:, 0]) / (2 * np.pi)
        np.testing.assert_allclose(run["winding"], turns, **close)
        rates = 2 * np.pi * turns / 3.7
        np.testing.assert_allclose(run["angular_velocity"], rates.mean(), **close)
        np.testing.assert_allclose(run["angular_velocity_error"], rates.std(ddof=1) / math.sqrt(paths), rtol=1e-11)


def scatter(per_path, blocks):
    """Standard error from the means of contiguous blocks of paths."""
    means = np.stack([per_path[blocks == b].mean(0) for b in range(blocks.max() + 1)])
    return means.std(axis=0, ddof=1) / math.sqrt(len(means))


@pytest.mark.evidence
def test_regions_of_every_kind_and_paths_that_start_inside():
    mask = (sde.Grid((-2, -2), (2, 2), (8, 8)).data_array(np.arange(64), ("x", "y"), "m")) % 7 == 1
    start = np.array([[0.0, 0.0], [1.5, 1.5]] * 32)
    for region in (mask, "x**2 + y**2 > 2 or y < -1", sde_region("x > a", {"a": 0.4})):
        passage = FirstPassage(region, per_path=True)
        run = simulate(TURNING, start, step=0.05, steps=30, paths=64, save_every=1, observables=passage)
        inside = sde_region(region).contains(states(run))
        expected = np.where(inside.any(1), 0.05 * inside.argmax(1), np.inf)
        np.testing.assert_allclose(run["first_passage"], expected, rtol=1e-12)
        assert len(set(expected.tolist())) > 5
    assert (run["first_passage"][1::2] == 0).all() and run["survival"][0] == 0.5


def sde_region(value, parameters=None):
    from sde_sgd._region import Region

    return Region.of(value, ("x", "y"), parameters)


def test_many_variables():
    """Beyond 16 variables the kernel has loops over rows."""
    count, rng = 20, np.random.default_rng(4)
    names = [f"w{i}" for i in range(count)]
    model = sde.FiniteSum.linear_model(rng.normal(size=(50, count)), rng.normal(size=50), "squared", weight_decay=0.5)
    options, u = dict(burn_in=2, every=3, blocks=3), rng.normal(size=count)
    seen = [
        Moments(**options), LagCovariance((0, 2), **options), Winding(("w3", "w11"), per_path=True),
        Histogram(sde.Grid(-3, 3, 12), **options, project={"u": u}), FirstPassage("w2 > 0.1", per_path=True),
    ]  # fmt: skip
    run = simulate(
        model.at_temperature(0.05), np.zeros(count), step=0.02, steps=20, paths=70, save_every=1, observables=seen
    )
    x = run["state"].transpose("path", "time", "variable").values
    s = x[:, 5::3]
    assert list(run["variable"].values) == names
    np.testing.assert_allclose(run["covariance"], np.cov(s.reshape(-1, count).T, bias=True), rtol=1e-10, atol=1e-14)
    pairs = np.einsum("pti,ptj->ij", s[:, 2:] - s.mean((0, 1)), s[:, :-2] - s.mean((0, 1))) / s[:, 2:, 0].size
    np.testing.assert_allclose(run["lag_covariance"][1], pairs, rtol=1e-10, atol=1e-14)
    np.testing.assert_array_equal(run["counts"].sum("block"), np.histogram(s @ u, np.linspace(-3, 3, 13))[0])
    angle = np.unwrap(np.arctan2(x[:, 1:, 11], x[:, 1:, 3]), axis=1)
    first = np.arctan2(0.0, 0.0)  # all paths start in the centre, whose angle is 0 by convention
    turned = run["winding"].values * 2 * np.pi + first - angle[:, -1]
    np.testing.assert_allclose(np.round(turned / (2 * np.pi)) * 2 * np.pi, turned, atol=1e-9)
    inside = x[..., 2] > 0.1
    np.testing.assert_allclose(run["first_passage"], np.where(inside.any(1), 0.02 * inside.argmax(1), np.inf))


@pytest.mark.parametrize(
    "kind",
    [*(pytest.param(kind, marks=pytest.mark.evidence) for kind in ("simulate", "sgd by functions")), "sgd by rows"],
)
def test_histograms_of_many_weights(kind):
    """The kernels that hold the points as rows share their names with a histogram's lines."""
    names, rows = [f"w{i}" for i in range(18)], np.random.default_rng(4).normal(size=(9, 19))
    many = sde.FiniteSum.from_functions(pulled, rows, variables=names)
    histogram = Histogram(sde.Grid(-1, 1, 12), burn_in=4, every=2, blocks=3, project=("w5",))
    run = dict(observables=histogram, steps=10, save_every=1, threads=1)
    if kind == "simulate":
        result = simulate(many.at_temperature(0.1), np.zeros(18), step=0.1, paths=70, **run)
    else:
        if kind == "sgd by rows":
            many = sde.FiniteSum.linear_model(rows[:, 1:], rows[:, 0], "squared", variables=names)
        result = sde.sgd(many, np.zeros(18), learning_rate=0.1, batch_size=2, replicas=70, **run)
    x = result.state.sel(variable="w5").values[:, 6::2]
    np.testing.assert_array_equal(result["counts"].sum("block"), np.histogram(x, np.linspace(-1, 1, 13))[0])
    assert int(result["counts"].sum() + result["outside"].sum()) == 70 * 3


def pulled(x, row, out):
    for i in range(x.size):
        out[i] = x[i] - row[i]


def test_steps_of_different_lengths():
    """Times are sums of the steps, from first_step on."""
    step = np.linspace(0.02, 0.1, 45)
    seen = [FirstPassage("x > 0.3", per_path=True, times=(0.0, 0.5, 1.0)), Winding(burn_in=10, per_path=True)]
    run = simulate(TURNING, (0.1, 0.1), step=step, steps=40, first_step=5, paths=64, save_every=1, observables=seen)
    x, clock = states(run), run["time"].values - run["time"].values[0]
    inside = x[..., 0] > 0.3
    passage = np.where(inside.any(1), clock[inside.argmax(1)], np.inf)
    np.testing.assert_allclose(run["first_passage"], passage, rtol=1e-12)
    np.testing.assert_allclose(run["survival"], [(passage > t).mean() for t in (0.0, 0.5, 1.0)])
    rate = 2 * np.pi * run["winding"].values.mean() / (clock[-1] - clock[10])
    np.testing.assert_allclose(run["angular_velocity"], rate, rtol=1e-12)


@pytest.mark.parametrize("dtype", [pytest.param("float64", marks=pytest.mark.evidence), "float32"])
def test_directions_are_inner_products(dtype):
    grid = sde.Grid((-3, -1), (3, 3), (12, 10))
    histogram = Histogram(grid, burn_in=4, project={"u": (1, -2, 0, 0, 1), "v": (0, 0.5, 0.25, 0, 0)})
    run = simulate(
        linear(5), np.zeros(5), step=0.1, steps=20, paths=64, save_every=1, observables=histogram, dtype=dtype
    )
    x = states(run)[:, 5:].reshape(-1, 5)
    expected, *_ = np.histogramdd(x @ np.array([[1, -2, 0, 0, 1], [0, 0.5, 0.25, 0, 0]]).T, bins=grid.edges)
    np.testing.assert_array_equal(run["counts"].sum("block"), expected)
    assert Histogram.extract(run).density.dims == ("u", "v")


# -- the same bits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [pytest.param(1, marks=pytest.mark.evidence), 2, 5])
def test_bits_do_not_depend_on_threads_groups_or_saving(d, monkeypatch):
    def go(**changes):
        settings = dict(step=0.1, steps=16, paths=9000, seed=5, threads=1, save_every=0) | changes
        return simulate(linear(d), np.zeros(d), observables=everything(d), **settings)

    reference = go()
    results = [go(threads=n) for n in (2, 3, 7)] + [go(save_every=k) for k in (None, 4)]
    monkeypatch.setattr(_ensemble, "_GROUP_BYTES", 1)
    results += [go(), go(threads=3)]
    monkeypatch.setattr(_ensemble, "_SEGMENT_SECONDS", 0.0)  # every segment is one step
    results += [go(threads=2)]
    for other, name in itertools.product(results, reference.data_vars):
        np.testing.assert_array_equal(reference[name], other[name], err_msg=name)
    assert not set(linear(d).variables) & set(reference.data_vars) and "path" not in reference["mean"].dims


def test_an_interrupted_run_continues_with_the_same_sums(tmp_path, monkeypatch):
    monkeypatch.setattr(_ensemble, "_GROUP_BYTES", 1)
    monkeypatch.setattr(_ensemble, "_SEGMENT_SECONDS", 0.0)
    monkeypatch.setattr(Checkpoint, "seconds", 0.0)

    def go(**changes):
        settings = dict(step=0.1, steps=16, paths=9000, seed=5, save_every=0, observables=everything(2)) | changes
        return simulate(linear(2), np.zeros(2), **settings)

    class Stop(Exception):
        pass

    def stop(done, total):
        if done == 27:  # of the second group of paths, in the middle
            raise Stop

    file = tmp_path / "run"
    with pytest.raises(Stop):
        go(checkpoint=file, progress=stop)
    assert file.exists()
    first, reference = [], go()
    resumed = go(checkpoint=file, progress=lambda done, total: first.append(done))
    assert first[0] == 27 and not file.exists()
    for name in reference.data_vars:
        np.testing.assert_array_equal(reference[name], resumed[name], err_msg=name)


# -- faults -------------------------------------------------------------------------------------------------------


def go(observables, process=TURNING, **changes):
    settings = dict(step=0.1, steps=20, paths=32) | changes
    return simulate(process, np.zeros(process.dim), observables=observables, **settings)


def bias(observables, process=TURNING, *, steps=20, **changes):
    run = dict(step=0.1, save_every=0, paths=32, step_bias=True) | changes
    return simulate(process, np.zeros(process.dim), steps=steps, observables=observables, **run)


RING = sde.landscapes.get("ring").at_temperature(0.5)
GRID = sde.Grid((-2, -2), (2, 2), (4, 4))
FAULTS = {
    "blocks must be a whole number >= 2, got 1": lambda: Moments(blocks=1),
    "every must be a whole number >= 1, got 0": lambda: Moments(every=0),
    "burn_in must be a whole number >= 0, got -1": lambda: LagCovariance((1,), burn_in=-1),
    "8 paths cannot fill 16 independent blocks": lambda: go(Moments(), paths=8),
    "no state is counted: burn_in 20": lambda: go(Moments(burn_in=20)),
    "lags must increase": lambda: LagCovariance((3, 1)),
    "one is needed at least": lambda: LagCovariance(()),
    "a lag must be a whole number >= 0, got -1": lambda: LagCovariance((-1, 2)),
    "lags must be a sequence": lambda: LagCovariance(3),
    "no pair of states is 20 samples apart": lambda: go(LagCovariance((0, 20))),
    "a variable of the winding must be one of x, y, got 'z'": lambda: go(Winding(("x", "z"))),
    "or of two different ones": lambda: Winding(("x", "x")),
    "needs it to be periodic": lambda: go(Winding("x")),
    "center must have shape": lambda: Winding(center=(0, 0, 0)),
    "at least 2 paths, got 1": lambda: go(Winding(), paths=1),
    "no step is counted: burn_in 20 of 20": lambda: go(Winding(burn_in=20)),
    "per_path must be True or False": lambda: Winding(per_path=1),
    "region: unknown symbol 'z'": lambda: go(FirstPassage("z > 0")),
    "is a Python function": lambda: go(FirstPassage(lambda x: x[..., 0] > 0)),
    "region must be inequalities": lambda: go(FirstPassage(3.0)),
    "the run ends at 2; run longer": lambda: go(FirstPassage("x > 0", times=(1.0, 3.0))),
    "times must be >= 0 and increase": lambda: FirstPassage("x > 0", times=(2.0, 1.0)),
    "times must be a whole number >= 2": lambda: FirstPassage("x > 0", times=1),
    "needs at least 2 paths": lambda: go(FirstPassage("x > 0"), paths=1),
    "the histogram's grid has 1 dimensions, the process 2": lambda: go(Histogram(sde.Grid(0, 1, 5))),
    "project must have 2 names": lambda: Histogram(GRID, project=("x",)),
    "project must be a sequence of 2 names": lambda: Histogram(GRID, project="xy"),
    "a name in project must be one of x, y, got 'z'": lambda: go(Histogram(GRID, project=("x", "z"))),
    "names a variable twice: x, x": lambda: go(Histogram(GRID, project=("x", "x"))),
    "direction u must have shape": lambda: go(Histogram(GRID, project={"u": (1, 2, 3), "v": (1, 0)})),
    "direction u is zero": lambda: go(Histogram(GRID, project={"u": (0, 0), "v": (1, 0)})),
    "gives the name of the variable 'y'": lambda: go(Histogram(GRID, project={"u": (1, 1), "y": (1, 2)})),
    "projection name 'density' is reserved": lambda: Histogram(GRID, project={"density": (1, 1), "v": (1, 0)}),
    "component along the periodic variable theta": lambda: go(
        Histogram(sde.Grid(0, 1, 5), project={"u": (1,)}), RING
    ),
    "result has no density; run it with a Histogram": lambda: Histogram.extract(go(Moments())),
    "give start, a point of all variables": lambda: sample_density(
        linear(5), GRID, step=0.1, steps=9, paths=64, burn_in=1, project=("x", "y")
    ),
    "steps must be even, got 21": lambda: bias(Moments(), steps=21),
    "burn_in must be even, got 3": lambda: bias(Moments(burn_in=3)),
    "every must be even, got 3": lambda: bias(Histogram(GRID, every=3)),
    "every must be even, got 1 .or every lag": lambda: bias(LagCovariance((1, 2))),
    "knows no order for a FirstPassage": lambda: bias(FirstPassage("x > 0")),
    "two-point increments of 'weak_euler' do not add up": lambda: bias(Moments(), scheme="weak_euler"),
    "is that of observables": lambda: bias(None),
    "at twice the step, and there no state is counted: burn_in 10": lambda: bias(Moments(burn_in=20)),
    'no order where walls="absorb"': lambda: bias(
        Moments(), HALF, walls="absorb", scheme="euler_maruyama"
    ),
    "step_bias also runs at twice the step, and there path": lambda: bias(
        Moments(), sde.Landscape("x", "x**4").at_temperature(1.0), step=0.2, steps=400, paths=1024,
        scheme="euler_maruyama",
    ),
    "does not know the bias of Grid": lambda: bias(GRID),
    "needs a step that is a number": lambda: sample_density(
        TURNING, GRID, step=np.full(20, 0.1), steps=20, paths=64, burn_in=2, step_bias=True
    ),
    "observables has 2 of the kind Moments": lambda: go([Moments(), Moments(every=2)]),
}  # fmt: skip


@pytest.mark.parametrize("message", FAULTS)
def test_faults_are_named(message):
    with pytest.raises(ValueError, match=message):
        FAULTS[message]()


@pytest.mark.parametrize("name", ["mean", "lag", "winding", "survival", "density_bias"])
def test_names_of_results_are_reserved(name):
    with pytest.raises(ValueError, match="reserved"):
        sde.Landscape((name,), f"{name}**2")
