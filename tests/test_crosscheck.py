"""`sde-sgd crosscheck`: solved, sampled and exact densities agree within their errors; a wrong one does not."""

import json
from dataclasses import replace

import numpy as np
import pytest

from sde_sgd import _crosscheck as check
from sde_sgd import _crosscheck_report as told
from sde_sgd import cli, landscapes
from sde_sgd.report import number
from sde_sgd.results import load

GAP = check.Gap("mean x", check.SOLVED_SAMPLED, 1.0, 1.1, 0.1, error=0.02, floor=0.0, bias=0.0, grid=0.0)


@pytest.fixture
def call(capsys):
    """Run `sde-sgd crosscheck` with arguments; gives the exit code, stdout and stderr."""

    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            cli.main(["crosscheck", *map(str, arguments)])
        return stop.value.code, *capsys.readouterr()

    return run


def verdicts(name, **options):
    results = {name: check.compare(name, check.QUICK, **options)}
    return told.judged(results)[0]


@pytest.mark.parametrize("name", ["ring", pytest.param("pearson", marks=pytest.mark.evidence)])
def test_three_ways_agree(name):
    rows = verdicts(name)
    assert {row["between"] for row in rows} == {check.SOLVED_SAMPLED, check.SOLVED_EXACT, check.SAMPLED_EXACT}
    assert all(row["agrees"] for row in rows)


def test_paths_at_another_temperature_disagree():
    rows = verdicts("pearson", heated=1.15)
    off = {(row["quantity"], row["between"]) for row in rows if not row["agrees"]}
    assert ("variance x", check.SAMPLED_EXACT) in off and ("variance x", check.SOLVED_SAMPLED) in off
    assert not any(between == check.SOLVED_EXACT for _, between in off)  # these know nothing of the paths


def test_what_may_lie_between_is_the_sum_of_the_errors():
    assert GAP.limit(4.0) == pytest.approx(0.08)
    assert replace(GAP, bias=0.02, grid=0.03).limit(4.0) == pytest.approx(0.08 + 0.01 + 0.06)
    density = replace(GAP, quantity="density", floor=0.01)
    assert density.limit(5.0) == density.limit(3.0) == pytest.approx(0.01 + 4 * 0.02)


def test_the_false_alarm_rate_is_that_of_the_table():
    """Student's law by simulation: of 20,000 tables of 10 correct numbers, 0.5 % have one beyond the deviations."""
    table = [GAP] * 10
    wide = check.deviations(table)
    blocks = np.random.default_rng(1).normal(size=(20_000, 10, check.BLOCKS)).astype(np.float32)
    off = abs(blocks.mean(-1)) > wide * blocks.std(-1, ddof=1) / check.BLOCKS**0.5
    assert 0.003 < off.any(axis=1).mean() < 0.007  # six standard errors are 0.003
    assert check.false_alarm(table) == check.MOMENT_ALARM
    mixed = [*table, replace(GAP, quantity="density"), replace(GAP, quantity="density", pair=check.SOLVED_EXACT)]
    assert check.false_alarm(mixed) == check.MOMENT_ALARM + check.DISTANCE_ALARM


@pytest.mark.parametrize(
    ("name", "words"),
    [("saddle", "nothing else confines it"), ("scale_invariant", "the noise has rank 1 in 2 variables")],
)
def test_what_has_no_steady_state_is_refused_with_the_reason(name, words):
    with pytest.raises(check.NotCompared, match=words):
        check.compare(name, check.QUICK)
    assert words in told.measured(name, check.QUICK).attrs["reason"]


def test_a_grid_too_coarse_to_compare_with_is_refused(monkeypatch):
    monkeypatch.setattr(check, "_COARSE", 1e-9)
    with pytest.raises(check.NotCompared, match="cells the error of the grid is"):
        check.compare("pearson", replace(check.QUICK, fine=1e-12))


def test_paths_that_no_heat_makes_shorter_are_refused(monkeypatch):
    monkeypatch.setattr(check, "_SHORTER", 0.0)
    with pytest.raises(check.NotCompared, match=r"at T = 0.625 each of 128 paths needs \d+ steps, .* hardly shortens"):
        check.compare("ring", check.Effort(1e3, 128, 1024))


def test_the_command_tells_all_and_resumes_by_landscape(call, tmp_path):
    arguments = ("ring", "saddle", "--quick", "--root", tmp_path)
    code, out, err = call(*arguments)
    assert code == 0 and "ring: done" in err and "saddle: done" in err
    (line,) = [line for line in out.splitlines() if line.startswith("ring")]
    assert line.endswith("yes") and "≤" in line
    assert "nothing else confines it" in out and "in at most 0.54 % of such tables" in out
    (folder,) = tmp_path.iterdir()
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert "angular velocity" in report and "nothing else confines it" in report

    code, out, err = call(*arguments, "--json", "-q")
    found = json.loads(out)
    assert code == 0 and err == "" and found["agree"] and list(found["not_compared"]) == ["saddle"]
    assert len(found["comparisons"]) == 6 and found["runs"]["ring"]["paths"] >= 4 * check.BLOCKS
    assert all(row["distance"] <= row["allowed"] for row in found["comparisons"])

    (folder / "result.nc").unlink()
    stages = {path: path.stat().st_mtime_ns for path in (folder / "stages").iterdir()}
    assert {path.stem for path in stages} == {"ring", "saddle"}
    assert call(*arguments, "-q")[0] == 0 and load(folder / "result.nc")
    assert {path: path.stat().st_mtime_ns for path in (folder / "stages").iterdir()} == stages


def test_a_disagreement_is_exit_code_1_and_named(call, tmp_path, monkeypatch):
    honest = check.compare
    monkeypatch.setattr(check, "compare", lambda name, effort, **options: honest(name, effort, heated=1.2, **options))
    code, out, _ = call("pearson", "--quick", "--root", tmp_path, "-q")
    (line,) = [line for line in out.splitlines() if line.startswith("pearson")]
    assert code == 1 and "no: " in line and "variance x (solved – paths)" in line


def test_a_name_that_is_none_is_one_line(call, tmp_path):
    code, out, err = call("rng", "--root", tmp_path)
    assert code == 2 and out == "" and err.count("\n") == 1 and "did you mean 'ring'" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.evidence(table="crosscheck")
def test_every_landscape_with_a_steady_state(table):
    results = {name: told.measured(name) for name in landscapes.catalogue()}
    assert {name for name, _ in told.refused(results)} == {"saddle", "scale_invariant", "neuron_two_inputs"}
    rows, _, _ = told.judged(results)
    table(
        "Steady states: solved, sampled, exact",
        (*told.COLUMNS, *told.ERRORS),
        [[number(cell) for cell in row] for row in told.details(results)],
        told.note(results)
        + " Not compared: "
        + "; ".join(f"{name}, because {reason}" for name, reason in told.refused(results))
        + ".",
    )
    assert all(row["agrees"] for row in rows)
