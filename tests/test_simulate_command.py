"""`sde-sgd simulate`: the API's numbers, kept, told, refused in one line, and continued after Ctrl-C."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from sde_sgd import cli, landscapes
from sde_sgd._boltzmann import exact
from sde_sgd.grid import Grid
from sde_sgd.paths import Histogram, Moments
from sde_sgd.paths import simulate as paths_of
from sde_sgd.report import number
from sde_sgd.results import load
from sde_sgd.simulate_command import resolve

SMALL = ("--steps", "400", "--paths", "256", "--burn-in", "100", "--temperature", "0.2", "--step", "0.05")


@pytest.fixture
def call(capsys):
    """Run `sde-sgd simulate` with arguments; gives the exit code, stdout and stderr."""

    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            cli.main(["simulate", *map(str, arguments)])
        return stop.value.code, *capsys.readouterr()

    return run


def folder_in(root: Path) -> Path:
    (folder,) = Path(root).iterdir()
    return folder


def numbers_of(root: Path) -> xr.Dataset:
    return load(folder_in(root) / "result.nc")["measurement"].to_dataset()


def test_the_numbers_are_the_apis_and_stand_in_table_json_and_report(call, tmp_path):
    grid = Grid((-4, -4), (4, 4), (100, 100))
    expected = paths_of(
        landscapes.get("double_well").at_temperature(0.2), (0.0, 0.0), step=0.05, steps=400, paths=256,
        observables=[Histogram(grid, burn_in=100), Moments(burn_in=100)], step_bias=True,
    )  # fmt: skip
    arguments = ("double_well", *SMALL, "--save-every", "100", "--root", tmp_path)
    code, out, err = call(*arguments)
    assert code == 0 and "256 paths of double_well: done" in err
    found = numbers_of(tmp_path)
    assert set(found) == set(expected)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=str(name))

    mean, bias = (number(float(expected[name].sel(variable="x"))) for name in ("mean", "mean_bias"))
    (line,) = [line for line in out.splitlines() if line.startswith("mean x")]
    assert mean in line and bias in line
    report = (folder_in(tmp_path) / "report.html").read_text(encoding="utf-8")
    assert mean in report and bias in report and "Density over x and y" in report
    assert (folder_in(tmp_path) / "figures" / "density.png").is_file()
    assert not list(folder_in(tmp_path).glob("*.checkpoint*"))

    kept = load(folder_in(tmp_path) / "result.nc")["trajectories"].to_dataset()  # the first paths of the run
    assert kept.sizes == {"path": 8, "time": 5} and (folder_in(tmp_path) / "figures" / "paths.png").is_file()
    np.testing.assert_array_equal(kept["x"][:, -1], found["x"][:8])

    code, out, err = call(*arguments, "--json", "-q")
    told = json.loads(out)
    assert code == 0 and err == "" and told["settings"]["paths"] == 256 and told["scheme"] == "leimkuhler_matthews"
    assert [row["quantity"] for row in told["numbers"]] == [
        *("mean x", "mean y", "variance x", "covariance x, y", "variance y")
    ]
    row = told["numbers"][2]
    assert row["value"] == float(expected["covariance"][0, 0])
    assert row["bias"] == float(expected["covariance_bias"][0, 0])
    assert row["effective_samples"] is None and told["numbers"][1]["exact"] == 0.0


def test_a_finished_run_is_found_under_any_spelling_and_fresh_repeats_it(call, tmp_path, undrawn):
    assert call("double_well", *SMALL, "--root", tmp_path)[0] == 0
    result = folder_in(tmp_path) / "result.nc"
    written = result.stat().st_mtime_ns
    settings = folder_in(tmp_path) / "config.toml"
    again = [("double_well", *SMALL, "--start", "0,0", "--threads", "1", "--seed", "0"), ("double_well", settings)]
    for arguments in again:
        code, out, err = call(*arguments, "--root", tmp_path)
        assert code == 0 and "done in" not in err and "mean x" in out
        assert folder_in(tmp_path) and result.stat().st_mtime_ns == written
    left = folder_in(tmp_path) / "paths.checkpoint"
    left.write_bytes(b"of another version")
    assert call("double_well", settings, "--root", tmp_path, "--fresh", "-q")[0] == 0
    assert result.stat().st_mtime_ns > written and not left.exists()


def test_options_overrule_the_file_which_overrules_the_defaults(tmp_path):
    file = {"steps": 80, "paths": 32, "parameters": {"kappa": 2.0}}
    process, settings = resolve(file, {"landscape": "spiral", "steps": 40, "paths": None}, {"samples": 4})
    assert settings["steps"] == 40 and settings["paths"] == 32 and settings["burn_in"] == 10
    assert settings["parameters"] == {"kappa": 2.0, "samples": 4} and process.landscape.samples == 4
    assert settings["temperature"] == process.landscape.default_temperature
    assert np.isfinite(process.drift(settings["start"])).all()  # the centre, where it is not, was left


def test_defaults_fit_every_entry():
    for name in landscapes.catalogue():
        if name.startswith("neuron"):  # seconds each, and nothing that the others do not show
            continue
        process, settings = resolve({}, {"landscape": name}, {})
        low, high = process.domain.lower, process.domain.upper
        assert ((low <= settings["start"]) & (settings["start"] <= high)).all() and settings["step_bias"]
        assert 1e-4 < settings["step"] <= 0.1, name
    assert resolve({}, {"landscape": "double_well"}, {})[1]["step"] == 0.02  # curvatures 1 and 2


def test_walls_and_weak_schemes_choose_what_goes_with_them():
    def chosen(**options):
        return resolve({}, {"landscape": "double_well", **options}, {})[1]

    assert chosen(walls="reflect")["scheme"] == "auto" and chosen(walls="reflect")["step_bias"]
    assert not chosen(walls="absorb")["step_bias"] and not chosen(scheme="weak_euler")["step_bias"]
    assert chosen(step_bias=False, steps=7, burn_in=1, every=3)["steps"] == 7


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["double_wel"], "did you mean 'double_well'"),
        (["double_well", "--step", "-1"], "step must be a finite number > 0, got -1.0"),
        (["double_well", "--steps", "401"], "steps must be even, got 401; or add --no-step-bias"),
        (["double_well", "--paths", "3"], "paths must be a whole number >= 16, got 3"),
        (["double_well", "--burn-in", "400", "--steps", "400"], "burn_in must be a whole number from 0 to 399"),
        (["double_well", "--start", "9,0"], "outside the domain"),
        (["double_well", "--start", "1"], "start must have shape (2,)"),
        (["double_well", "--start", "a,b"], "numbers parted by commas, got 'a,b'"),
        (["double_well", "--temperature", "-1"], "temperature must be a finite number > 0"),
        (["double_well", "--scheme", "eulr"], "scheme must be one of"),
        (["double_well", "--scheme", "baoab"], "is for underdamped processes"),
        (["double_well", "--walls", "up"], "walls must be one of none, reflect, absorb"),
        (["double_well", "--walls", "reflect", "--scheme", "leimkuhler_matthews"], "do not go together"),
        (["double_well", "--dtype", "int8"], "dtype must be one of"),
        (["double_well", "--seed", "-1"], "seed must be a whole number >= 0"),
        (["double_well", "--parameter", "k"], "given as NAME=VALUE"),
        (["double_well", "--parameter", "k=1"], "double_well has no parameter 'k'"),
        (["ring", "--parameter", "force=x"], "parameter force must be numbers"),
        (["double_well", "absent.toml"], "absent.toml"),
        (["double_well", "--nonsense"], "No such option"),
    ],
)
def test_a_fault_is_one_line_and_leaves_nothing(call, tmp_path, arguments, words):
    code, out, err = call(*arguments, "--root", tmp_path)
    assert code == 2 and out == "" and err.splitlines()[-1].startswith("error: ") and words in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stepps = 3", "no setting 'stepps' (did you mean 'steps'?)"),
        ("steps = ", "is not TOML"),
        ('landscape = "ring"', "the configuration is of 'ring'"),
        ("parameters = 3", "parameters must be a table"),
        ('step_bias = "yes"', "step_bias must be true or false"),
        ('steps = "many"', "steps must be a whole number"),
    ],
)
def test_a_fault_of_the_file_is_one_line(call, tmp_path, text, words):
    (tmp_path / "settings.toml").write_text(text)
    code, out, err = call("double_well", tmp_path / "settings.toml", "--root", tmp_path / "runs")
    assert code == 2 and out == "" and err.count("\n") == 1 and words in err and not (tmp_path / "runs").exists()


def test_what_diverges_is_told_what_may_confine_it(call, tmp_path):
    arguments = ("saddle", "--step", "0.1", "--steps", "4000", "--paths", "64", "-q", "--root", tmp_path)
    code, _, err = call(*arguments)
    assert code == 2 and err.count("\n") == 1 and "diverged at step" in err and "--walls reflect" in err
    assert not list(tmp_path.iterdir())


def test_a_run_that_is_not_stationary_says_so(call, tmp_path, undrawn):
    short = ("--steps", "40", "--burn-in", "0", "--paths", "256", "--temperature", "0.2", "--step", "0.05", "--json")
    code, out, _ = call("double_well", *short, "--start", "2,2", "--root", tmp_path)
    told = json.loads(out)
    assert code == 0 and told["deviation"] > 4 and told["deviation_exact"] > 5 and len(told["warnings"]) == 2
    assert "warning" not in out.split("{")[0]  # stdout is JSON alone
    assert "not yet stationary" in (folder_in(tmp_path) / "report.html").read_text(encoding="utf-8")


# The exact steady state -----------------------------------------------------------------------------------


def test_the_quadrature_is_the_linear_theory():
    process = landscapes.get("quadratic", a=2.0, c=3.0, dxy=0.5).at_temperature(0.5)
    known = exact(process, "none")
    assert known is not None
    slope, covariance = np.diag([2.0, 3.0]), known["covariance"].values
    np.testing.assert_allclose(slope @ covariance + covariance @ slope, [[1, 0.5], [0.5, 1]], atol=1e-9)
    assert abs(float(known["density"].sum()) * 0.2**2 - 1) < 1e-9


def test_the_ring_turns_as_its_current_says():
    process = landscapes.get("ring").at_temperature(0.5)
    known = exact(process, "none")
    assert known is not None and "mean" not in known
    assert float(known["angular_velocity"]) == pytest.approx(2 * np.pi * float(_current(process)), rel=1e-9)


def _current(process) -> float:
    """J = jρ, the same everywhere; here at θ = 0."""
    theta = np.linspace(-np.pi, np.pi, 20001)[:-1, None]
    weight = np.exp(-process.potential(theta) / 0.5)
    density = weight / weight.sum() / (2 * np.pi / 20000)
    return float((process.landscape.remainder(theta, 0.5)[:, 0] * density)[10000])


def test_no_exact_value_where_the_box_does_not_hold_the_mass():
    saddle, neuron = (landscapes.get(name).at_temperature(0.1) for name in ("saddle", "example_19"))
    assert exact(saddle, "none") is None and exact(neuron, "absorb") is None
    assert exact(landscapes.get("double_well").at_temperature(0.1), "none") is not None


# Interruption ---------------------------------------------------------------------------------------------

_INTERRUPTED = """
import os, signal, sys
from contextlib import contextmanager
from sde_sgd import _console, cli
from sde_sgd.paths import _ensemble

signal.signal(signal.SIGINT, signal.default_int_handler)
due, wait = [], _ensemble.wait

@contextmanager
def stage(self, name):
    yield lambda done, total: due.append(done) if done > {share} * total else None

def interrupted(futures):  # Ctrl-C while the threads are at work, where a run spends its time
    if len(due) == 1:
        due.append(None)
        os.kill(os.getpid(), signal.SIGINT)
    return wait(futures)

_console.Console.stage, _ensemble.wait = stage, interrupted
cli.main(sys.argv[1:])
"""


def test_an_interrupted_run_goes_on_with_the_same_bits(call, tmp_path, undrawn):
    for share, file in ((0.0, "paths.checkpoint.2h"), (0.4, "paths.checkpoint")):  # at twice the step, and at the step
        arguments = ["simulate", "double_well", *SMALL, "--threads", "1", "--root", str(tmp_path / "halted")]
        script = [sys.executable, "-c", _INTERRUPTED.format(share=share)]
        halted = subprocess.run([*script, *arguments], capture_output=True, text=True, timeout=120)
        assert halted.returncode == 130 and halted.stdout == "", halted.stderr
        assert halted.stderr.count("\n") == 1 and halted.stderr.startswith("interrupted: stopped after")
        folder = folder_in(tmp_path / "halted")
        assert not (folder / "result.nc").exists()
        assert [path.name for path in folder.glob("*.checkpoint*")] == [file]
        assert tomllib.loads((folder / "config.toml").read_text())["paths"] == 256

    for root in ("halted", "whole"):
        assert call("double_well", *SMALL, "-q", "--root", tmp_path / root)[0] == 0
    xr.testing.assert_equal(numbers_of(tmp_path / "halted"), numbers_of(tmp_path / "whole"))
    assert not list(folder.glob("*.checkpoint*"))
