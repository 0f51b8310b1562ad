"""`sde-sgd crosscheck`: densities by all roads agree within their errors; a wrong one does not."""

import functools
import json
from dataclasses import replace

import numpy as np
import pytest

from sde_sgd import _crosscheck as check
from sde_sgd import _crosscheck_gap as gap
from sde_sgd import _crosscheck_jko as descent
from sde_sgd import _crosscheck_report as told
from sde_sgd import _crosscheck_roads as roads
from sde_sgd import cli, landscapes
from sde_sgd.grid import Grid
from sde_sgd.report import number
from sde_sgd.results import load

GAP = gap.Gap("mean x", check.SOLVED_SAMPLED, 1.0, 1.1, 0.1, error=0.02, floor=0.0, bias=0.0, grid=0.0)


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
    assert replace(GAP, stated=0.3).limit(4.0) == pytest.approx(0.08 + 0.3)
    density = replace(GAP, quantity="density", floor=0.01)
    assert density.limit(5.0) == density.limit(3.0) == pytest.approx(0.01 + 4 * 0.02)


def test_the_false_alarm_rate_is_that_of_the_table():
    """Student's law by simulation: of 20,000 tables of 10 correct numbers, 0.5 % have one beyond the deviations."""
    table = [GAP] * 10
    wide = gap.deviations(table)
    blocks = np.random.default_rng(1).normal(size=(20_000, 10, gap.BLOCKS)).astype(np.float32)
    off = abs(blocks.mean(-1)) > wide * blocks.std(-1, ddof=1) / gap.BLOCKS**0.5
    assert 0.003 < off.any(axis=1).mean() < 0.007  # six standard errors are 0.003
    assert gap.false_alarm(table) == gap.MOMENT_ALARM
    mixed = [*table, replace(GAP, quantity="density"), replace(GAP, quantity="density", error=0.0)]
    assert gap.false_alarm(mixed) == gap.MOMENT_ALARM + gap.DISTANCE_ALARM


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
    arguments = ("ring", "saddle", "--quick", "--root", tmp_path, "--road", "paths", "--road", "SVAG")
    code, out, err = call(*arguments)
    assert code == 0 and "ring: done" in err and "saddle: done" in err
    lines = [line for line in out.splitlines() if line.startswith("ring")]
    assert len(lines) == 2 and all(line.endswith("yes") and "≤" in line for line in lines)
    assert "nothing else confines it" in out and "in at most 0.56 % of such tables" in out
    assert any(line.startswith("steady: paths – exact") and "nothing" in line for line in out.splitlines())
    (folder,) = tmp_path.iterdir()
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert "angular velocity" in report and "nothing else confines it" in report

    code, out, err = call(*arguments, "--json", "-q")
    found = json.loads(out)
    assert code == 0 and err == "" and found["agree"] and list(found["not_compared"]) == ["saddle"]
    assert len(found["comparisons"]) == 7 and found["runs"]["ring"]["paths"] >= 4 * gap.BLOCKS
    assert all(row["distance"] <= row["allowed"] for row in found["comparisons"])

    (folder / "result.nc").unlink()
    stages = {path: path.stat().st_mtime_ns for path in (folder / "stages").iterdir()}
    assert {path.stem for path in stages} == {"ring", "saddle"}
    assert call(*arguments, "-q")[0] == 0 and load(folder / "result.nc")
    assert {path: path.stat().st_mtime_ns for path in (folder / "stages").iterdir()} == stages


def test_a_disagreement_is_exit_code_1_and_named(call, tmp_path, monkeypatch):
    honest = check.compare
    monkeypatch.setattr(check, "compare", lambda name, effort, **options: honest(name, effort, heated=1.2, **options))
    code, out, _ = call("pearson", "--quick", "--root", tmp_path, "-q", "--road", "none")
    (line,) = [line for line in out.splitlines() if line.startswith("pearson")]
    assert code == 1 and "no: " in line and "variance x (solved – paths)" in line


def test_a_name_that_is_none_is_one_line(call, tmp_path):
    code, out, err = call("rng", "--root", tmp_path)
    assert code == 2 and out == "" and err.count("\n") == 1 and "did you mean 'ring'" in err
    assert not list(tmp_path.iterdir())
    code, _, err = call("ring", "--road", "JK", "--root", tmp_path)
    assert code == 2 and "did you mean 'JKO'" in err
    code, _, err = call("ring", "--road", "none", "--road", "JKO", "--root", tmp_path)
    assert code == 2 and "name it alone" in err


# On the way -----------------------------------------------------------------------------------------------


plan_of = functools.cache(check.Plan.of)


def on_the_way(name, heated=1.0, taken=("JKO", "paths", "SVAG", "SGD"), effort=check.QUICK):
    """Rows {(road, quantity): agrees or not} of one landscape at a time, the rows, and what was left out."""
    plan = plan_of(name, effort)
    question = roads.Question.of(plan, effort.last_states, effort.levels, 0, 1, heated)
    assert question.moved > 0.05  # there is something to tell
    found, left = roads.gaps(question, taken)
    wide = gap.deviations(found)
    return {(g.pair.removeprefix("solved – "), g.quantity): g.distance <= g.limit(wide) for g in found}, found, left


@pytest.mark.parametrize(
    "name", ["pearson", "ring", *(pytest.param(n, marks=pytest.mark.evidence) for n in ("example_19", "quadratic"))]
)
def test_roads_agree_on_the_way(name):
    verdicts, found, left = on_the_way(name)
    assert all(verdicts.values()), [g for g in found if not verdicts[g.pair.removeprefix("solved – "), g.quantity]]
    assert {road for road, _ in verdicts} | set(left) == {"JKO", "paths", "SVAG", "SGD"}
    assert set(left) <= {"SVAG", "SGD"} and (name == "pearson") == (not left)


def test_every_road_with_noise_a_tenth_too_strong_disagrees():
    """σ · 1.1, so T · 1.21, in the roads only."""
    verdicts, _, _ = on_the_way("pearson", heated=1.21)
    for road in ("JKO", "paths", "SVAG"):
        assert not verdicts[road, "density"] and not verdicts[road, "variance x"], road


@pytest.mark.evidence
@pytest.mark.parametrize("name", ["quadratic", "sheared_double_well"])
def test_in_two_variables_too(name):
    verdicts, _, left = on_the_way(name, heated=1.21, taken=("JKO", "paths"), effort=check.FULL)
    assert not left and not verdicts["JKO", "density"] and not verdicts["paths", "density"]


def test_a_descent_whose_grid_is_too_coarse_is_not_taken(monkeypatch):
    question = roads.Question.of(plan_of("pearson", check.QUICK), 2**12, 2, 0, 1, 1.0)
    monkeypatch.setattr(descent, "_ENOUGH", 0.0)
    monkeypatch.setattr(descent, "_TOO_MUCH", 0.0)
    with pytest.raises(roads.NotTaken, match=r"on 320 cells the error of the grid is .* moves by 0\.\d+ only"):
        descent.jko(question)


def test_the_box_is_moved_off_a_point_where_D_is_undefined():
    process, box = landscapes.get("spiral").at_temperature(), Grid((-2, -2), (2, 2), (40, 40))
    with np.errstate(all="ignore"):
        moved = check._clear_of_poles(process, box)
        assert moved.lower == pytest.approx((-2 + 0.1 / 3,) * 2) and moved.spacing == pytest.approx(box.spacing)
        assert check._clear_of_poles(process, moved) == moved  # and that of finer cells
        finer = replace(moved, shape=(160, 160))
        assert check._clear_of_poles(process, finer) == finer


def test_shared_parts_are_named():
    assert gap.made_of(("a", "b"), ("b", "c")) == {"shares": "b", "parts": "b, c"}
    assert gap.made_of(("a",), ("c",))["shares"] == "nothing"
    known = {"potential_from": "closed form", "remainder": "zero or left out", "method": "monge_ampere"}
    assert descent.parts(known) == (gap.CLOSED_FORM, "JKO, monge_ampere")  # no derivative, no generator
    solved = descent.parts(known | {"potential_from": "FokkerPlanck", "remainder": "split"})
    assert gap.GENERATOR in solved and gap.DERIVATIVES in solved and gap.CLOSED_FORM not in solved
    assert gap.GENERATOR in descent.parts(known | {"method": "entropic"})


def test_extrapolation_removes_the_powers_it_knows():
    limit, before = descent._romberg([1 + tau - 3 * tau**2 for tau in (0.4, 0.2, 0.1)])
    assert limit == pytest.approx(1.0, abs=1e-12) and abs(before - 1) == pytest.approx(0.06, abs=1e-12)
    assert descent._romberg([1.4, 1.2]) == (pytest.approx(1.0), 1.2)


def test_a_road_from_elsewhere_is_taken_or_said_to_be_missing(monkeypatch):
    class Point:
        def __init__(self, name, load):
            self.name, self.load = name, load

    def absent():
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    points = [Point("one", lambda: lambda question: [GAP]), Point("two", absent)]
    monkeypatch.setattr(roads, "entry_points", lambda group: points)
    assert roads.names() == ["JKO", "paths", "SVAG", "SGD", "one", "two"]
    assert roads.gaps(None, ["one", "two"]) == ([GAP], {"two": "torch is not installed"})


@pytest.mark.evidence
@pytest.mark.parametrize("name", ["pearson", "double_well"])
def test_torchsde_agrees_and_at_another_temperature_does_not(name):
    pytest.importorskip("torchsde")
    effort = replace(check.QUICK, last_states=2**19)
    verdicts, _, _ = on_the_way(name, taken=("torchsde",), effort=effort)
    assert len(verdicts) > 2 and all(verdicts.values())
    hot, _, _ = on_the_way(name, heated=1.3, taken=("torchsde",), effort=effort)
    assert not all(hot.values())


@pytest.mark.evidence(table="crosscheck")
def test_every_landscape_with_a_steady_state(table):
    results = {name: told.measured(name, roads=roads.names()) for name in landscapes.catalogue()}
    assert {name for name, _ in told.refused(results)} == {"saddle", "scale_invariant", "neuron_two_inputs"}
    rows, _, _ = told.judged(results)
    left = [(road, name) for road, _, inside in told.left_out(results) for name in inside.split(", ")]
    taken = {(row["between"].split(" – ")[1], row["landscape"]) for row in rows}
    for road in ("exact", *roads.names()):  # one word on every road in every landscape
        for name in results:
            one = ((road, name) in taken) + ((road, name) in left)
            assert one == (not results[name].attrs.get("reason")), (road, name)
    columns, shared = (*told.COLUMNS, *told.ERRORS), told.sharing(results)
    table(
        "One density, all roads",
        columns,
        [[number(cell) for cell in row] for row in told.details(results)],
        told.note(results)
        + " What roads share: "
        + "; ".join(f"{pair}: {shares} (the second is {parts}; {where})" for pair, shares, parts, where in shared)
        + ". Not taken: "
        + ("; ".join(f"{road}: {reason} ({where})" for road, reason, where in told.left_out(results)) or "none")
        + ". Not compared: "
        + "; ".join(f"{name}, because {reason}" for name, reason in told.refused(results))
        + ".",
    )
    assert all(row["agrees"] for row in rows)
