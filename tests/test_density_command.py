"""`sde-sgd density`: the API's numbers, kept, told, found again, and refused in one line."""

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import sde_sgd as sde
from sde_sgd import _density, _density_figures, cli, landscapes
from sde_sgd._files import write_bytes
from sde_sgd.density_command import SCHEMES, resolve
from sde_sgd.fokker_planck import _evolve
from sde_sgd.report import number
from sde_sgd.results import load

SMALL = ("--shape", "24", "--box", "-2,2,-2,2", "--temperature", "0.2")
LINE = ("--shape", "24")
GRID = sde.Grid((-2, -2), (2, 2), (24, 24))


@pytest.fixture
def call(capsys):
    """Run `sde-sgd density` with arguments; gives the exit code, stdout and stderr."""

    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            cli.main(["density", *map(str, arguments)])
        return stop.value.code, *capsys.readouterr()

    return run


@pytest.fixture
def undrawn(undrawn, monkeypatch):
    """Nor is an animation made."""
    monkeypatch.setattr(_density, "animate_density", lambda densities, path: write_bytes(path, b"GIF89a"))


def folder_in(root: Path) -> Path:
    (folder,) = Path(root).iterdir()
    return folder


def solved(name="double_well", temperature=0.2, grid=GRID):
    return sde.FokkerPlanck(landscapes.get(name).at_temperature(temperature), grid)


def test_the_numbers_are_the_apis_and_stand_in_table_json_and_report(call, tmp_path):
    fp = solved("example_19", 0.5)
    density, parts = fp.steady_state(), sde.decompose(fp)
    arguments = ("example_19", "--shape", "24", "--box", "-2,2,-2,2", "--temperature", "0.5", "--root", tmp_path)
    code, out, err = call(*arguments)
    assert code == 0 and "steady density on 24 × 24 cells: done" in err
    found = load(folder_in(tmp_path) / "result.nc")["steady"].to_dataset()
    np.testing.assert_array_equal(found["density"], density)
    np.testing.assert_array_equal(found["potential"], parts["potential"])
    np.testing.assert_array_equal(found["current"], parts["current"])
    x, mass = GRID.axes[0], density.values.sum(1) * GRID.cell_volume
    variance = float(mass @ x**2 - (mass @ x) ** 2)
    (line,) = [line for line in out.splitlines() if line.startswith("variance x")]
    assert number(variance) in line
    report = (folder_in(tmp_path) / "report.html").read_text(encoding="utf-8")
    assert number(variance) in report and "Density over x and y" in report
    assert {path.name for path in (folder_in(tmp_path) / "figures").iterdir()} == {"density.png", "current.png"}

    code, out, err = call(*arguments, "--json", "-q")
    told = json.loads(out)
    assert code == 0 and err == ""
    row = {row["quantity"]: row for row in told["numbers"]}["variance x"]
    assert row["value"] == pytest.approx(variance, rel=1e-12) and row["error"] > 0
    assert len(told["modes"]) == 2 and told["diagnostics"]["detailed_balance"] == 0.0
    assert told["warnings"]  # the box cuts the density, and the report says so
    assert told["warnings"][0].split(";")[0][:40] in report


@pytest.mark.usefixtures("undrawn")
def test_what_is_asked_beside_the_density_is_the_apis_too(call, tmp_path):
    asked = ("--spectrum", "3", "--exit", "x < 0", "--from", "x < -0.8", "--to", "x > 0.8", "--evolve", "3")
    more = ("--start", "-1,0", "--snapshots", "2", "--scheme", "exact")
    code, out, _ = call("double_well", *SMALL, *asked, *more, "--root", tmp_path, "--json", "-q")
    told, fp = json.loads(out), solved()
    assert code == 0
    rates = fp.spectrum(3).eigenvalue.values.real
    np.testing.assert_allclose([mode["rate"] for mode in told["spectrum"]], rates, rtol=1e-9, atol=1e-12)
    lasting, tau = fp.quasi_stationary("x < 0"), fp.mean_exit_time("x < 0")
    assert told["diagnostics"]["residual"] == fp.steady_state().attrs["residual"]  # not that of what came later
    assert told["exit"]["rate"] == float(lasting.rate) and told["exit"]["residual"] == tau.attrs["residual"]
    assert told["exit"]["rate_error"] == lasting.attrs["rate_error"]
    assert told["exit"]["mean_exit_time"] == pytest.approx(float(tau.values.ravel()[lasting.density.values.argmax()]))
    assert told["exit"]["start_mean_exit_time"] == pytest.approx(told["exit"]["mean_exit_time"], rel=0.05)
    assert told["transitions"]["rate_ab"] == float(fp.transitions("x < -0.8", "x > 0.8").rate_ab)
    expected = fp.evolve([-1.0, 0.0], [0.0, 1.5, 3.0], scheme="exact")
    groups = {f"/{k}": v.to_dataset() for k, v in load(folder_in(tmp_path) / "result.nc").children.items()}
    np.testing.assert_array_equal(groups["/evolution"]["density"], expected)
    assert told["evolution"]["free_energy"] == pytest.approx(float(fp.free_energy(expected).free_energy[-1]))
    assert {path.stem for path in (folder_in(tmp_path) / "figures").iterdir()} == {
        *("density", "current", "spectrum", "exit", "committor", "reactive", "evolution", "free_energy"),
    }
    assert (folder_in(tmp_path) / "figures" / "evolution.gif").read_bytes()[:6] == b"GIF89a"
    assert not list(folder_in(tmp_path).glob("evolution*"))
    for make in (_density_figures.committor, _density_figures.reactive):
        figure = make(groups)
        figure.savefig(tmp_path / "drawn.png", dpi=40)
        assert any(collection.get_paths() for ax in figure.axes for collection in ax.collections)


@pytest.mark.usefixtures("undrawn")
def test_the_exact_density_and_a_current_on_a_ring(call, tmp_path):
    code, out, _ = call("ring", "--shape", "96", "--root", tmp_path, "--json", "-q")
    told = json.loads(out)
    (row,) = told["numbers"]
    assert code == 0 and row["quantity"] == "angular velocity"
    assert row["value"] == pytest.approx(row["exact"], rel=1e-4) and abs(row["value"] - row["exact"]) < 3 * row["error"]
    assert told["distance_exact"] < 5e-3
    coarse = json.loads(call("ring", "--shape", "24", "--root", tmp_path, "--json", "-q")[1])
    assert 10 < coarse["distance_exact"] / told["distance_exact"] < 22  # second order: 16


@pytest.mark.usefixtures("undrawn")
def test_three_variables_have_their_marginal_planes(call, tmp_path):
    arguments = ("neuron_two_inputs", "--shape", "8", "--box", "-2,2,-3,2,-3,2", "--temperature", "0.5")
    code, out, _ = call(*arguments, "--root", tmp_path, "--json", "-q")
    told = json.loads(out)
    assert code == 0 and len(told["numbers"]) == 9 and told["modes"]
    fp = solved("neuron_two_inputs", 0.5, sde.Grid((-2, -3, -3), (2, 2, 2), (8, 8, 8)))
    kept = load(folder_in(tmp_path) / "result.nc")["steady"].to_dataset()
    np.testing.assert_array_equal(kept["remainder"], sde.decompose(fp)["remainder"])
    assert "Q is not unique" in kept.attrs["q"]
    assert [path.name for path in (folder_in(tmp_path) / "figures").iterdir()] == ["density.png"]


@pytest.mark.usefixtures("undrawn")
def test_absorbing_walls_leave_exits_and_an_evolution(call, tmp_path):
    arguments = ("double_well", *SMALL, "--boundary", "absorbing,reflecting", "--exit", "x < 0", "--evolve", "0.5")
    code, out, _ = call(*arguments, "--root", tmp_path, "--json", "-q")
    told = json.loads(out)
    assert code == 0 and told["numbers"] == [] and "free_energy" not in told["evolution"]
    assert told["evolution"]["mass_drift"] < 0 and told["exit"]["mean_exit_time"] > 0


@pytest.mark.usefixtures("undrawn")
def test_a_finished_run_is_found_under_any_spelling_and_fresh_repeats_it(call, tmp_path):
    assert call("ring", *LINE, "--root", tmp_path)[0] == 0
    result = folder_in(tmp_path) / "result.nc"
    written = result.stat().st_mtime_ns
    settings = folder_in(tmp_path) / "config.toml"
    again = [
        ("ring", "--temperature", "0.5", *LINE, "--boundary", "periodic", "--parameter", "force=0.5"),
        ("ring", settings),
        ("ring", settings, "--shape", "24"),
    ]
    for arguments in again:
        code, out, err = call(*arguments, "--root", tmp_path)
        assert code == 0 and "done in" not in err and "angular velocity" in out
        assert folder_in(tmp_path) and result.stat().st_mtime_ns == written
    assert call("ring", settings, "--root", tmp_path, "--fresh", "-q")[0] == 0
    assert result.stat().st_mtime_ns > written


@pytest.mark.usefixtures("undrawn")
def test_the_box_is_found_where_none_is_given(call, tmp_path):
    _, settings = resolve({}, {"landscape": "double_well"}, {})
    assert settings["box"] == "around" and "shape" not in settings
    code, out, _ = call("double_well", "--shape", "32", "--root", tmp_path, "--json", "-q")
    told = json.loads(out)
    assert code == 0 and told["diagnostics"]["wall_mass"] < 1e-8 and "reflecting" in told["grid"]
    row = {row["quantity"]: row for row in told["numbers"]}["variance y"]
    assert row["exact"] == pytest.approx(0.1, rel=1e-6)


def test_the_schemes_are_those_of_evolve():
    assert SCHEMES == _evolve.SCHEMES  # said twice, so that --help need not load them


def test_every_setting_changes_the_question(tmp_path):
    """No option may be accepted and ignored."""
    base = dict(landscape="double_well", evolve=1.0, exit="x < 0")
    other = {
        "temperature": 0.3, "shape": [20], "box": [-2, 2, -2, 2], "boundary": ["periodic", "reflecting"],
        "max_offset": 2, "start": [0.5, 0.0], "spectrum": 2, "exit": "x < 0.5", "evolve": 2.0, "snapshots": 3,
        "scheme": "exact",
    }  # fmt: skip
    _, plain = resolve({}, base, {})
    for name, value in other.items():
        assert resolve({}, {**base, name: value}, {})[1] != plain, name
    both = resolve({}, {**base, "from": "x < -1", "to": "x > 1"}, {})[1]
    assert both["from"] == "x < -1" and both["to"] == "x > 1"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["double_wel"], "did you mean 'double_well'"),
        (["double_well", "--temperature", "-1"], "temperature must be a finite number > 0"),
        (["double_well", "--shape", "2"], "shape must be a whole number >= 3, got 2"),
        (["double_well", "--shape", "9,9,9"], "shape has 3 entries for 2 variables"),
        (["double_well", "--shape", "many"], "shape must be numbers parted by commas"),
        (["double_well", "--box", "-2,2"], "box has 2 numbers for 2 variables"),
        (["double_well", "--box", "2,-2,-2,2"], "lower must be less than upper"),
        (["double_well", "--box", "-9,9,-2,2"], "outside the process's domain"),
        (["double_well", "--boundary", "soft"], "boundary must be one of reflecting, periodic, absorbing"),
        (["double_well", "--boundary", "absorbing", "--exit", "x<0"], "give --box"),
        (["double_well", *SMALL, "--boundary", "absorbing"], "the steady density is 0"),
        (["double_well", *SMALL, "--boundary", "absorbing", "--from", "x<0", "--to", "x>1"], "leave none"),
        (["double_well", *SMALL, "--boundary", "periodic"], "periodic"),
        (["double_well", "--spectrum", "0"], "spectrum must be a whole number >= 1"),
        (["double_well", "--exit", "z < 0"], "z"),
        (["double_well", *SMALL, "--exit", "x < -9"], "no cell"),
        (["double_well", *SMALL, "--exit", "x < 9"], "covers the whole grid"),
        (["double_well", "--from", "x < 0"], "give --from and --to"),
        (["double_well", *SMALL, "--from", "x < 0.5", "--to", "x > 0"], "overlap"),
        (["double_well", "--evolve", "-1"], "evolve must be a finite number > 0"),
        (["double_well", "--evolve", "1", "--scheme", "eulr"], "scheme must be one of splitting"),
        (["double_well", "--evolve", "1", "--snapshots", "0"], "snapshots must be a whole number from 1"),
        (["double_well", "--snapshots", "3"], "snapshots is a setting of the evolution"),
        (["double_well", "--scheme", "exact"], "scheme is a setting of the evolution"),
        (["double_well", "--start", "0,0"], "start is where --evolve begins"),
        (["double_well", *SMALL, "--exit", "x < 0", "--start", "1,0"], "lies outside 'x < 0'"),
        (["double_well", "--evolve", "1", "--start", "9,0"], "outside the domain"),
        (["double_well", "--max-offset", "0"], "max_offset must be a whole number from 1 to 16"),
        (["double_well", *SMALL[2:], "--shape", "100000"], "memory"),
        (["double_well", "--parameter", "k=1"], "double_well has no parameter 'k'"),
        (["double_well", "absent.toml"], "absent.toml"),
        (["double_well", "--nonsense"], "No such option"),
    ],
)
def test_a_fault_is_one_line_and_leaves_nothing(call, tmp_path, arguments, words):
    code, out, err = call(*arguments, "--root", tmp_path, "-q")
    assert code == 2 and out == "" and err.count("\n") == 1 and err.startswith("error: ") and words in err
    assert not [path for path in tmp_path.rglob("*") if path.name == "result.nc"]
    assert not list(tmp_path.iterdir()) or (folder_in(tmp_path) / "stages").is_dir()  # what was solved before is kept


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("shap = 3", "no setting 'shap' (did you mean 'shape'?)"),
        ("shape = ", "is not TOML"),
        ('landscape = "ring"', "the configuration is of 'ring'"),
        ("box = [[-2, 2], [-2]]", "box must be an array of real numbers"),
        ('shape = "many"', "shape must be a whole number"),
        ("exit = 3", "exit must be inequalities"),
    ],
)
def test_a_fault_of_the_file_is_one_line(call, tmp_path, text, words):
    (tmp_path / "settings.toml").write_text(text)
    code, out, err = call("double_well", tmp_path / "settings.toml", "--root", tmp_path / "runs")
    assert code == 2 and out == "" and err.count("\n") == 1 and words in err and not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("undrawn")
def test_an_interrupted_run_keeps_its_finished_stages(call, tmp_path, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    arguments = ("ring", *LINE, "--spectrum", "2", "--evolve", "0.5", "--snapshots", "1", "--root", tmp_path, "-q")
    with monkeypatch.context() as patch:
        patch.setattr(sde.FokkerPlanck, "evolve", stopped)
        assert call(*arguments)[0] == 130
    stage = folder_in(tmp_path) / "stages" / "steady.nc"
    written = stage.stat().st_mtime_ns
    assert call(*arguments)[0] == 0 and stage.stat().st_mtime_ns == written
    found = load(folder_in(tmp_path) / "result.nc")
    assert isinstance(found, xr.DataTree)
    assert 0.0 < found["evolution"].attrs["stationary_bias"] < 1e-3  # as in a run that solved the density itself
