"""Experiments by name: settings with bounds, resumed stages, verdicts, and faults in one line."""

import json
from importlib.metadata import EntryPoint

import numpy as np
import pytest
import xarray as xr

from sde_sgd import cli, experiment
from sde_sgd.experiment import Experiment, Setting

CALLS: list[str] = []


def perform(study):
    """Adds numbers."""

    def compute(progress):
        CALLS.append("sum")
        state = study.work("state.txt")
        state.write_text("half way")
        if study.config["stop"]:
            raise KeyboardInterrupt
        return xr.Dataset({"sum": float(np.sum(study.config["terms"]))})

    total = float(study.stage("result", "sum", compute)["sum"])
    section = study.report.section("The sum")
    section.verdict(total < 10, f"The sum {total:g} is below 10.")


TOY = Experiment(
    "Sums", perform,
    {
        "terms": Setting((1.0, 2.0), "what is added", 0.0, 100.0),
        "steps": Setting(3, "a whole number", 1, 9),
        "kind": Setting("plain", "a word", choices=("plain", "fancy")),
        "stop": Setting(False, "whether it stops"),
    },
    quick={"terms": [1.0]},
    check=lambda given: None if given["steps"] != 7 else (_ for _ in ()).throw(ValueError("steps must not be 7")),
)  # fmt: skip


@pytest.fixture(autouse=True)
def toy(monkeypatch, tmp_path):
    point = EntryPoint("toy", f"{__name__}:TOY", experiment.GROUP)
    monkeypatch.setattr(EntryPoint, "load", lambda self, load=EntryPoint.load: TOY if self == point else load(self))
    monkeypatch.setattr(experiment, "entry_points", lambda group: [point])
    monkeypatch.chdir(tmp_path)
    CALLS.clear()


def run(capsys, *words):
    with pytest.raises(SystemExit) as left:
        cli.main(["run", *words])
    told = capsys.readouterr()
    return left.value.code, told.out, told.err


def test_a_run_keeps_its_result_and_tells_verdicts(capsys, tmp_path):
    code, out, _ = run(capsys, "toy", "-q")
    assert code == 0 and "The sum 3 is below 10." in out and CALLS == ["sum"]
    code, out, _ = run(capsys, "toy", "--terms", "1,2", "--json", "-q")
    found = json.loads(out)
    assert found["verdicts"] == [{"holds": True, "sentence": "The sum 3 is below 10."}] and CALLS == ["sum"]
    folder = next((tmp_path / "runs").iterdir())
    assert {p.name for p in folder.iterdir()} >= {"config.toml", "result.nc", "report.html"}
    assert not (folder / "work").exists()


def test_a_verdict_that_fails_is_exit_code_1(capsys):
    code, out, _ = run(capsys, "toy", "--terms=8,9", "-q")
    assert code == 1 and "FAILS" in out


def test_options_overrule_the_file_and_the_quick_form(capsys, tmp_path):
    (tmp_path / "c.toml").write_text('terms = [4]\nkind = "fancy"\n')
    assert "The sum 1 is" in run(capsys, "toy", "--quick", "-q")[1]
    assert "The sum 4 is" in run(capsys, "toy", "c.toml", "--quick", "-q")[1]
    assert "The sum 5 is" in run(capsys, "toy", "c.toml", "--terms", "5", "-q")[1]


def test_interrupted_work_is_kept_and_goes_with_fresh(capsys, tmp_path):
    code, _, err = run(capsys, "toy", "--stop", "true", "-q")
    assert code == cli.INTERRUPTED and "continue" in err
    (state,) = tmp_path.glob("runs/*/work/state.txt")
    run(capsys, "toy", "--stop", "true", "-q")
    assert CALLS == ["sum", "sum"] and state.exists()
    (state.parent / "pieces").mkdir()
    (state.parent / "pieces" / "1.npz").write_bytes(b"")
    run(capsys, "toy", "--stop", "true", "--fresh", "-q")
    assert [p.name for p in state.parent.iterdir()] == ["state.txt"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["toi"], "did you mean 'toy'"),
        (["toy", "--termz", "1"], "there is no option '--termz' (did you mean 'terms'?)"),
        (["toy", "--terms"], "--terms needs a value"),
        (["toy", "--terms", "101"], "terms must be from 0 to 100"),
        (["toy", "--terms", "many"], "terms"),
        (["toy", "--steps", "2.5"], "steps must be a whole number, got 2.5"),
        (["toy", "--steps", "7"], "steps must not be 7"),
        (["toy", "--kind", "odd"], "kind"),
        (["toy", "--stop", "maybe"], "stop must be true or false"),
        (["toy", "absent.toml"], "absent.toml"),
    ],
)
def test_faults_in_one_line(capsys, tmp_path, words, said):
    code, _, err = run(capsys, *words)
    assert code == cli.FAULT and said in err and len(err.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists() and CALLS == []


def test_lists(capsys):
    assert "toy" in run(capsys)[1] and "Sums" in run(capsys)[1]
    out = run(capsys, "toy", "--settings")[1]
    assert "≥ 0 ≤ 100" in out and "plain, fancy" in out and CALLS == []


def test_lists_of_the_wrong_type_are_refused():
    for given, said in (({"terms": []}, "empty"), ({"terms": ["a"]}, "terms"), ({"steps": True}, "a number")):
        with pytest.raises(ValueError, match=said):
            TOY.resolve(given)
