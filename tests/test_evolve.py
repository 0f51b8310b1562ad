"""Evolving a density: what may be asked, what is refused, schedules of temperature, and snapshots on disk."""

import time

import h5netcdf
import numpy as np
import pytest
import xarray as xr

from sde_sgd import _memory, results, schedules
from sde_sgd.fokker_planck import FokkerPlanck, _evolve, _exact, _steps
from sde_sgd.fokker_planck._sweeps import Sweeps
from sde_sgd.grid import Grid
from sde_sgd.landscapes import Landscape
from sde_sgd.process import Process

WELL = Landscape(("x", "y"), "(x**2-1)**2/4 + y**2/2 + x*y/3")
GRID = Grid((-2.5, -2.5), (2.5, 2.5), (14, 12))


def generator(temperature=0.4, grid=GRID):
    return FokkerPlanck(WELL.at_temperature(temperature), grid)


def spread(grid=GRID):
    """A smooth density of mass 1."""
    x = grid.centers()
    density = np.exp(-((x - 0.4) ** 2).sum(axis=-1))
    return density / (density.sum() * grid.cell_volume)


def l1(a, b, grid=GRID):
    return float(np.abs(np.asarray(a) - np.asarray(b)).sum() * grid.cell_volume)


# what comes back ----------------------------------------------------------------------------------------------


def test_result_and_what_it_says():
    fp = generator()
    run = fp.evolve(spread(), [0.0, 0.5, 2.0], tolerance=1e-4)
    assert run.dims == ("time", "x", "y") and run.name == "density"
    np.testing.assert_array_equal(run.values[0], spread())
    np.testing.assert_array_equal(run.x, fp.grid.axes[0])
    np.testing.assert_allclose(run.mass, 1.0, atol=1e-13)
    assert run.steps.values[0] == 0 and run.steps.values[-1] == run.attrs["steps"] > 10
    assert run.error_estimate.values[-1] == run.attrs["error_estimate"] <= 1e-4
    assert run.attrs["error_estimate"] <= run.attrs["error_sum"]
    attrs = {"scheme": "splitting", "order": 2, "tolerance": 1e-4, "start": "density", "temperature": 0.4}
    assert attrs.items() <= run.attrs.items() and "step" not in run.attrs
    assert {"rejected_steps", "repaired_steps", "repaired_mass", "first_order_steps", "largest_step"} <= set(run.attrs)
    assert "call steady_state()" in run.attrs["stationary_bias"]
    fp.steady_state()
    assert 0.0 < fp.evolve(spread(), 0.5).attrs["stationary_bias"] < 1e-3
    run = fp.evolve(spread(), 0.5, order=1, step=0.1)
    one = np.append(fp.steady_state().values.ravel(), 0.0)
    steady, sweeps = one[:-1].copy(), Sweeps(fp.edges)
    sweeps.step(one, run.attrs["largest_step"])
    assert run.attrs["stationary_bias"] == pytest.approx(l1(one[:-1], steady), rel=1e-9)  # of one step
    absorbing = generator(grid=Grid((-2.5, -2.5), (2.5, 2.5), (14, 12), boundary="absorbing"))
    assert "no steady state" in absorbing.evolve(spread(), 0.1).attrs["stationary_bias"]


def test_a_density_in_any_order_of_dimensions_and_from_an_earlier_result():
    fp = generator()
    run = fp.evolve(spread(), [0.3, 0.9], scheme="exact")
    again = fp.evolve(run.isel(time=0, drop=True).transpose("y", "x"), 0.6, scheme="exact")
    assert l1(again.values[0], run.values[1]) < 1e-13


def test_steps_restart_at_snapshots():
    """What a later time gives depends on the times before it, not on those after."""
    fp = generator()
    short, long = fp.evolve(spread(), [0.5, 1.0], step=0.04), fp.evolve(spread(), [0.5, 1.0, 3.0], step=0.04)
    np.testing.assert_array_equal(short.values, long.values[:2])


# a point --------------------------------------------------------------------------------------------------------


def test_points():
    fp = generator()
    run = fp.evolve({"y": -0.3, "x": 0.7}, 0.0)
    np.testing.assert_array_equal(run.values, fp.evolve((0.7, -0.3), [0.0]).values)
    assert run.attrs["start"].startswith("point x = 0.69999") and run.attrs["steps"] == 0
    mean = np.einsum("xy,xyi->i", run.values[0], fp.grid.centers()) * fp.grid.cell_volume
    np.testing.assert_allclose(mean, (0.7, -0.3), atol=1e-14)
    corner = fp.evolve((2.5, -2.5), 0.0).values[0]  # beyond the last centre: in the cell at the walls
    assert corner[-1, 0] * fp.grid.cell_volume == pytest.approx(1.0) and np.count_nonzero(corner) == 1


# faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((spread() - 0.1, 1.0), {}, r"density is -0\.\d+ at \(.*negative in \d+ other cells.*>= 0"),
        ((np.where(spread() > 0.1, np.nan, 1.0), 1.0), {}, "density must be finite, got nan"),
        ((np.zeros(GRID.shape), 1.0), {}, "0 in every cell"),
        ((1e-250 * spread(), 1.0), {}, r"largest density is \S+e-2\d\d, and must be from 1e-200 to 1e\+200; divide"),
        ((1e300 * spread(), 1.0), {}, r"must be from 1e-200 to 1e\+200; divide it by its mass"),
        ((np.ones((3, 4)), 1.0), {}, r"shape \(3, 4\); give one value per cell, \(14, 12\), or the 2 coordinates"),
        (((0.1, np.nan), 1.0), {}, "density must be finite"),
        (((0.1, 2.6), 1.0), {}, r"y = 2\.6, and the grid spans \[-2\.5, 2\.5\]"),
        (({"x": 1.0}, 1.0), {}, "a point gives x, y, got x"),
        ((spread(), [1.0, 0.5]), {}, "times must increase, got 1 before 0.5 at index 1; sort"),
        ((spread(), [1.0, 1.0]), {}, "times must increase"),
        ((spread(), -1.0), {}, "times must be >= 0, got -1"),
        ((spread(), [1.0, np.nan]), {}, "times must be finite, got nan at index"),
        ((spread(), [np.inf]), {}, "times must be finite, got inf"),
        ((spread(), []), {}, "times must be one or more"),
        ((spread(), [[1.0]]), {}, "times must be one or more"),
        ((spread(), "soon"), {}, "times must be an array of real numbers"),
        ((spread(), 1.0), {"scheme": "implicit"}, "did you mean 'implicit_euler'"),
        ((spread(), 1.0), {"order": 3}, "order must be a whole number from 1 to 2, got 3"),
        ((spread(), 1.0), {"scheme": "exact", "order": 2}, "has no order"),
        ((spread(), 1.0), {"scheme": "exact", "step": 0.1}, "takes no step"),
        ((spread(), 1.0), {"step": 0.1, "tolerance": 1e-3}, "not both"),
        ((spread(), 1.0), {"step": 0.0}, "step must be a finite number > 0, got 0"),
        ((spread(), 1.0), {"step": 1e-320}, r"too short for t = 1, more than 1e\+12 steps"),
        ((spread(), 1e308), {"step": 1e308}, r"the density at t = 1e\+308 is not finite"),
        ((spread(), 1.0), {"tolerance": -1.0}, "tolerance must be a finite number > 0"),
        ((spread(), 1.0), {"tolerance": 1e-12}, "from 1e-09 up to 2.*got 1e-12; for less use scheme='exact'"),
        ((spread(), 1.0), {"tolerance": 3.0}, "largest distance"),
        ((spread(), 1.0), {"progress": 1}, "progress must be a function"),
        ((spread(), 1.0), {"file": 1}, "file must be the name of a file"),
    ],
)
def test_refused_in_words(arguments, options, words):
    with pytest.raises(ValueError, match=words):
        generator().evolve(*arguments, **options)


def test_exact_refuses_hours_of_products(monkeypatch):
    fp = generator()
    with pytest.raises(ValueError, match=r"needs Λt = \S+e\+1\d products .* 'implicit_euler'|scheme='splitting'"):
        fp.evolve(spread(), 1e12, scheme="exact")
    products = fp.evolve(spread(), 1.0, scheme="exact").attrs["steps"]
    monkeypatch.setattr(_exact, "_MOST_WORK", 0.5 * products * fp.edges.tail.size / 2)
    with pytest.raises(ValueError, match="at most"):
        fp.evolve(spread(), 1.0, scheme="exact")


def test_krylov_raises_where_its_error_does_not_explain_a_negative_entry(monkeypatch):
    monkeypatch.setattr(_exact.Krylov, "_small", lambda self, x, *rest: (x - 0.5 * x.max(), 0.0))
    with pytest.raises(ValueError, match="more negative than its error estimate"):
        generator().evolve(spread(), 1.0, scheme="krylov")


def test_memory_is_asked_for_first(monkeypatch):
    monkeypatch.setattr(_memory, "available_bytes", lambda: 10_000_000)
    with pytest.raises(ValueError, match=r"10000 snapshots of 168 cells needs about .*give file="):
        generator().evolve(spread(), np.arange(10_000) / 10_000)


def test_a_step_that_shrinks_to_nothing_is_a_fault(monkeypatch):
    """An error that does not fall with the step cannot be met: said in words, not by running for ever."""
    monkeypatch.setattr(_steps.Stepper, "trial", lambda self, rho, carried, t, tau: _steps.Trial(
        rho, carried, 1.0, 0.0, 0.0, False))  # fmt: skip
    with pytest.raises(ValueError, match=r"the step at t = 0 fell to .* use a larger one, or scheme='exact'"):
        generator().evolve(spread(), 1.0)


# progress and interruption ------------------------------------------------------------------------------------------


def test_progress(monkeypatch):
    monkeypatch.setattr(_evolve, "_TICK_SECONDS", 0.0)
    for options in ({}, {"scheme": "exact"}, {"scheme": "krylov"}, {"scheme": "implicit_euler", "step": 0.2}):
        calls = []
        generator().evolve(
            spread(), [0.5, 1.0], progress=lambda done, total, c=calls: c.append((done, total)), **options
        )
        done = [d for d, _ in calls]
        assert done == sorted(done) and done[-1] == 1000 and len(done) > 2 and {t for _, t in calls} == {1000}


def interrupted(fp, at, monkeypatch, *arguments, **options):
    """A run that is stopped by Ctrl-C in the step that passes time `at`."""
    monkeypatch.setattr(_evolve, "_TICK_SECONDS", 0.0)

    def stop(done, total):
        if done >= at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="goes on from the last snapshot"):
        fp.evolve(*arguments, progress=stop, **options)


OPTIONS = [
    {}, {"order": 1, "tolerance": 1e-2}, {"step": 0.03}, {"scheme": "implicit_euler", "tolerance": 0.05},
    {"scheme": "implicit_euler", "order": 2, "step": 0.1}, {"scheme": "exact"}, {"scheme": "krylov"},
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS)
def test_a_file_holds_what_memory_would_and_resumes_with_the_same_bits(options, tmp_path, monkeypatch):
    fp, path, times = generator(), tmp_path / "sub" / "run.nc", [0.0, 0.2, 0.5, 1.0]
    memory = fp.evolve((0.3, 0.4), times, **options)
    for at in (300, 900):  # while the third and the fourth snapshot are on their way
        interrupted(fp, at, monkeypatch, (0.3, 0.4), times, file=path, **options)
        assert not path.exists() and (tmp_path / "sub" / "run.nc.unfinished").exists()
    begun = []
    disk = fp.evolve((0.3, 0.4), times, file=path, progress=lambda d, t: begun.append(d), **options)
    assert min(begun) >= 500  # it went on from there
    assert [p.name for p in (tmp_path / "sub").iterdir()] == ["run.nc"]
    xr.testing.assert_identical(disk.load(), memory)
    disk.close()


def test_a_complete_file_is_returned_and_another_question_refused(tmp_path, monkeypatch):
    fp, path = generator(), tmp_path / "run.nc"
    first = fp.evolve(spread(), [0.5, 1.0], file=path)
    assert first.variable._in_memory is False  # read when it is used
    stamp = path.stat().st_mtime_ns
    again = fp.evolve(spread(), [0.5, 1.0], file=path)
    assert path.stat().st_mtime_ns == stamp and again.equals(first)
    for arguments, options in (((spread(), [0.5, 1.1]), {}), ((spread(), [0.5, 1.0]), {"tolerance": 1e-4}),
                               ((2 * spread(), [0.5, 1.0]), {})):  # fmt: skip
        with pytest.raises(ValueError, match=r"holds another evolution .*delete it, or name another"):
            fp.evolve(*arguments, file=path, **options)
    with pytest.raises(ValueError, match="holds another evolution"):
        generator(0.41).evolve(spread(), [0.5, 1.0], file=path)
    other = tmp_path / "other.nc"
    interrupted(fp, 700, monkeypatch, spread(), [0.5, 1.0], file=other)
    with pytest.raises(ValueError, match="unfinished holds another evolution"):
        fp.evolve(spread(), [0.5, 1.0], step=0.1, file=other)


def test_a_file_is_an_ordinary_result(tmp_path):
    path = tmp_path / "run.nc"
    run = generator().evolve(spread(), [0.5, 1.0], file=path)
    loaded = results.load(path)
    np.testing.assert_array_equal(loaded["density"].values, run.values)
    assert loaded["density"].attrs["scheme"] == "splitting" and "sde_sgd" in loaded.attrs


def test_a_torn_row_does_not_count(tmp_path, monkeypatch):
    """A row whose count of steps was not written is done again, whatever it holds."""
    fp, path = generator(), tmp_path / "run.nc"
    times = [0.2, 0.5, 1.0]
    interrupted(fp, 900, monkeypatch, spread(), times, file=path)
    with h5netcdf.File(tmp_path / "run.nc.unfinished", "r+") as file:
        assert (file.variables["steps"][...] >= 0).tolist() == [True, True, False]
        file.variables["density"][1] = np.full(GRID.shape, 7.0)
        file.variables["carried_error"][1] = np.full(GRID.shape, 7.0)
        file.variables["steps"][1] = -1
    np.testing.assert_array_equal(fp.evolve(spread(), times, file=path).values, fp.evolve(spread(), times).values)


def test_a_killed_run_leaves_what_it_had_done(tmp_path, monkeypatch):
    """The file as it is on disk in the middle of a run, which is what a kill leaves, is gone on with."""
    monkeypatch.setattr(_evolve, "_TICK_SECONDS", 0.0)
    fp, path, image, times = generator(), tmp_path / "run.nc", tmp_path / "image", np.linspace(0.1, 1.0, 10)

    def photograph(done, total):
        if 650 < done < 1000 and not image.exists():
            image.write_bytes((tmp_path / "run.nc.unfinished").read_bytes())

    whole = fp.evolve(spread(), times, file=path, progress=photograph).load()
    whole.close()
    path.unlink()
    image.rename(tmp_path / "run.nc.unfinished")
    begun = []
    again = fp.evolve(spread(), times, file=path, progress=lambda d, t: begun.append(d))
    assert min(begun) >= 600
    xr.testing.assert_identical(again.load(), whole)


def test_what_krylov_went_below_zero_by_survives_a_stop(tmp_path, monkeypatch):
    fp, path, times = generator(), tmp_path / "run.nc", [0.2, 0.5, 1.0]
    interrupted(fp, 900, monkeypatch, spread(), times, file=path, scheme="krylov")
    with h5netcdf.File(tmp_path / "run.nc.unfinished", "r+") as file:
        file.variables["most_negative"][1] = -1e-13
    assert fp.evolve(spread(), times, file=path, scheme="krylov").attrs["most_negative"] == -1e-13


def test_a_file_that_is_none_is_named(tmp_path):
    path = tmp_path / "run.nc"
    path.write_text("not a density")
    with pytest.raises(ValueError, match=r"run\.nc cannot be opened as snapshots .* delete it"):
        generator().evolve(spread(), 1.0, file=path)


# a temperature that changes -------------------------------------------------------------------------------------------


def reference(schedule, end, pieces=640):
    """The product of exact evolutions at the temperature in the middle of many short pieces."""
    rho, h = spread(), end / pieces
    for i in range(pieces):
        rho = generator(float(schedule((i + 0.5) * h))).evolve(rho, h, scheme="exact").values[0]
    return rho


@pytest.mark.parametrize(
    ("scheme", "order", "steps"),
    [("splitting", 1, 32), ("splitting", 2, 12), ("implicit_euler", 1, 32), ("implicit_euler", 2, 8)],
)
def test_order_under_annealing(scheme, order, steps):
    schedule = schedules.Annealing(0.9, 0.3, 1.0)
    fp = generator(schedule)
    fine = fp.evolve(spread(), 1.0, step=1 / 192)
    runs = [fp.evolve(spread(), 1.0, scheme=scheme, order=order, step=1 / n) for n in (steps, 2 * steps)]
    errors = [l1(run, fine) for run in runs]
    assert abs(np.log2(errors[0] / errors[1]) - order) < 0.3, errors
    assert runs[1].attrs["error_estimate"] == pytest.approx(errors[1], rel=0.3)


def test_annealing_against_exact_pieces():
    schedule = schedules.Annealing(0.9, 0.3, 1.0)
    expected = reference(schedule, 0.5, 160)
    assert l1(generator(schedule).evolve(spread(), 0.5, tolerance=1e-4).values[0], expected) < 1e-4


@pytest.mark.parametrize("named", [True, False])
def test_jumps_are_met_exactly(named):
    """A jump that the schedule names, and one that is found: as two exact evolutions after one another."""

    def drop(t):
        return np.where(np.asarray(t) < 0.313, 0.9, 0.3)

    fp = generator(schedules.StepDecay(0.9, 1 / 3, (0.313,)) if named else drop)
    expected = generator(0.3).evolve(
        generator(0.9).evolve(spread(), 0.313, scheme="exact")[0].values, 0.5, scheme="exact"
    )
    errors = [l1(fp.evolve(spread(), 0.813, step=h), expected) for h in (0.1, 0.05)]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2.0, abs=0.4), errors
    assert l1(fp.evolve(spread(), 0.813, tolerance=1e-4), expected) < 1e-4


def test_where_schedules_break():
    def breaks(schedule, end=10.0):
        return _steps.breaks(WELL.at_temperature(schedule), end).tolist()

    assert breaks(0.3) == []
    assert breaks(schedules.StepDecay(1.0, 0.5, (1.0, 4.0, 12.0))) == [1.0, 4.0]
    assert breaks(schedules.Annealing(1.0, 0.5, 3.0)) == [3.0]
    assert breaks(schedules.Trapezoid(0.1, 1.0, 1.0, 2.0, 3.0)) == [1.0, 3.0, 6.0]
    assert breaks(schedules.Cyclic(0.1, 1.0, 4.0)) == [2.0, 4.0, 6.0, 8.0]
    assert len(breaks(schedules.Cyclic(0.1, 1.0, 1e-3))) == 19_999  # each of them, however many
    with pytest.raises(ValueError, match=r"period=1e-06\) turns more than 1000000 times before 10"):
        breaks(schedules.Cyclic(0.1, 1.0, 1e-6))
    assert breaks(lambda t: 1.0 + 0.9 * np.sin(t)) == []
    assert breaks(lambda t: np.where(np.asarray(t) < np.pi, 1.0, 2.0)) == pytest.approx([np.pi], abs=1e-12)

    class Own:
        def breakpoints(self, end):
            return (2.5,)

        def __call__(self, t):
            return np.where(np.asarray(t) < 2.5, 1.0, 2.0)

    assert breaks(Own()) == [2.5]


@pytest.mark.parametrize("scheme", ["exact", "krylov"])
def test_exponentials_refuse_a_schedule(scheme):
    with pytest.raises(ValueError, match="has a schedule; use scheme='splitting'"):
        generator(schedules.Annealing(0.9, 0.3, 1.0)).evolve(spread(), 1.0, scheme=scheme)


def test_a_schedule_on_disk(tmp_path, monkeypatch):
    fp, path, times = generator(schedules.Annealing(0.9, 0.3, 0.7)), tmp_path / "run.nc", [0.3, 0.6, 1.0]
    interrupted(fp, 700, monkeypatch, spread(), times, file=path)
    np.testing.assert_array_equal(fp.evolve(spread(), times, file=path).values, fp.evolve(spread(), times).values)
    with pytest.raises(ValueError, match="holds another evolution"):
        generator(schedules.Annealing(0.9, 0.31, 0.7)).evolve(spread(), times, file=path)
    drops = [lambda t, at=at: np.where(np.asarray(t) < at, 0.9, 0.3) for at in (0.31301, 0.31302)]
    generator(drops[0]).evolve(spread(), times, file=tmp_path / "drop.nc").close()
    with pytest.raises(ValueError, match="holds another evolution"):  # though no 4096th of the time tells them apart
        generator(drops[1]).evolve(spread(), times, file=tmp_path / "drop.nc")


def test_no_steady_state_under_a_schedule():
    run = generator(schedules.Annealing(0.9, 0.3, 1.0)).evolve(spread(), 0.1)
    assert "no steady state" in run.attrs["stationary_bias"] and "Annealing" in run.attrs["temperature"]


@pytest.mark.evidence(table="evolution_schemes")
def test_time_of_a_long_run(table):
    """From a Gaussian to T = 1 at 128²: seconds for each tolerance, beside the exact scheme."""
    process = Process(("-(x + 0.8*y)", "0.8*x - 1.5*y"), [["1", "0.4"], ["0.4", "0.6"]], 0.3, variables=("x", "y"))
    grid = Grid((-4, -4), (4, 4), (128, 128))
    fp, rows = FokkerPlanck(process, grid), []
    start = np.exp(-((grid.centers() - 1.0) ** 2).sum(axis=-1) / 0.32)
    start /= start.sum() * grid.cell_volume
    exact = fp.evolve(start, 1.0, scheme="exact")
    for options in ({"tolerance": 1e-2}, {"tolerance": 1e-3}, {"tolerance": 1e-4}, {"scheme": "exact"},
                    {"scheme": "implicit_euler", "tolerance": 1e-2}):  # fmt: skip
        begun = time.perf_counter()
        run = fp.evolve(start, 1.0, **options)
        seconds = time.perf_counter() - begun
        rows.append([run.attrs["scheme"], run.attrs["tolerance"], run.attrs["steps"], f"{seconds:.3f}",
                     f"{l1(run, exact, grid):.1e}"])  # fmt: skip
    columns = ["scheme", "tolerance", "steps", "seconds", "true L1 error"]
    table("To time 1 at 128², rotating Ornstein–Uhlenbeck", columns, rows)
