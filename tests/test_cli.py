"""The command: what it loads, how it words faults, how it exits; and what a console shows where."""

import json
import os
import pty
import subprocess
import sys
import types
from importlib.metadata import EntryPoint, version
from pathlib import Path

import numpy as np
import pytest

from sde_sgd import _console, cli
from sde_sgd._console import Console


def fault_of(kind):
    def command():
        raise kind

    return command


class Invalid(ValueError):
    """Worded like the faults of a validated configuration."""

    def errors(self):
        return [{"loc": ("grid", "shape"), "msg": "must be positive", "input": -1},
                {"loc": ("seed",), "msg": "must be whole", "input": 0.5}]  # fmt: skip


def greet(name: str = "world", loud: bool = False):
    """Greet somebody."""
    print(f"hello {name}{'!' if loud else ''}")


COMMANDS = {
    "greet": greet,
    "value": fault_of(ValueError("temperature must be > 0,\n  got -1 [bold]\x1b[2J")),
    "invalid": fault_of(Invalid()),
    "file": fault_of(FileNotFoundError(2, "No such file", "a.toml")),
    "torch": fault_of(ModuleNotFoundError("No module named 'torch'", name="torch")),
    "other": fault_of(ModuleNotFoundError("No module named 'ot.lp'", name="ot.lp")),
    "stop": fault_of(KeyboardInterrupt()),
    "bug": fault_of(ZeroDivisionError("ours")),
}


@pytest.fixture
def run(monkeypatch, capsys):
    """Run `sde-sgd` with the commands above; gives the exit code, stdout and stderr."""
    module = types.ModuleType("planted_commands")
    vars(module).update(COMMANDS)
    monkeypatch.setitem(sys.modules, "planted_commands", module)
    points = [EntryPoint(name, f"planted_commands:{name}", cli.GROUP) for name in COMMANDS]
    points.append(EntryPoint("broken", "planted_commands:absent", cli.GROUP))
    monkeypatch.setattr(cli, "entry_points", lambda group: points)

    def call(*arguments):
        with pytest.raises(SystemExit) as stop:
            cli.main(arguments)
        return stop.value.code, *capsys.readouterr()

    return call


def test_a_command_runs_with_its_options(run):
    assert run("greet", "--name", "[bold]Ada", "--loud") == (0, "hello [bold]Ada!\n", "")


def test_only_the_command_asked_for_is_loaded(run):
    assert run("greet")[2] == ""  # "broken" would have warned
    code, out, err = run("--help")
    assert code == 0 and all(name in out for name in COMMANDS) and "Greet somebody" in out
    assert err.startswith("warning: the command 'broken' cannot be loaded") and err.count("\n") == 1


def test_no_arguments_is_help_and_version_is_printed(run):
    assert run()[0] == 0
    assert run("--version") == (0, f"sde-sgd {version('sde-sgd')}\n", "")
    assert run("--version", "greet") == (0, f"sde-sgd {version('sde-sgd')}\n", "")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["value"], "error: temperature must be > 0, got -1 [bold][2J"),
        (["file"], "error: [Errno 2] No such file: 'a.toml'"),
        (
            ["torch"],
            "error: this needs the package torch, which is not installed: pip install 'sde-sgd[networks]'",
        ),
        (["other"], "error: this needs the package ot, which is not installed: pip install 'ot'"),
        (["nonsense"], "error: there is no command 'nonsense'; there are broken, bug, file, greet"),
        (["gret"], "error: there is no command 'gret'; did you mean 'greet'?"),
        (["greet", "--nme", "x"], "error: No such option: --nme"),
        (["greet", "--name"], "error: Option '--name' requires an argument."),
        (["greet", "--version"], "error: No such option: --version"),
        (["greet", "--debug"], "error: No such option: --debug"),
        (["--debug", "greet", "--nme", "x"], "error: No such option: --nme"),
        (["--debug", "nonsense"], "error: there is no command 'nonsense'"),
        (["value", "--debug"], "error: No such option: --debug"),
    ],
)
def test_a_fault_is_one_line_and_exit_code_2(run, arguments, line):
    code, out, err = run(*arguments)
    assert code == 2 and out == "" and err.count("\n") == 1
    assert err.strip().startswith(line)


def test_every_fault_of_a_configuration_is_told(run):
    expected = "error: grid.shape: must be positive (got -1)\nerror: seed: must be whole (got 0.5)\n"
    assert run("invalid") == (2, "", expected)


def test_an_interruption_says_what_is_kept(run):
    code, out, err = run("stop")
    assert code == 130 and out == "" and err.count("\n") == 1 and "finished stages are kept" in err


def test_our_own_bugs_and_debug_show_their_traceback(run):
    for arguments, kind in ((["bug"], ZeroDivisionError), (["--debug", "value"], ValueError)):
        with pytest.raises(kind):
            cli.main(arguments)


def test_options_without_a_command_are_one_line_more(run):
    code, out, err = run("--debug")  # all commands are loaded, so the broken one warns
    assert code == 2 and out == "" and err.splitlines()[1:] == ["error: Missing command."]


def test_a_closed_pipe_ends_quietly():
    app = "lambda arguments: lambda *a, **k: print('line\\n' * 100000)"
    script = f"from sde_sgd import cli; cli._app = {app}; cli.main(['x'])"
    command = f'{sys.executable} -c "{script}" | head -1'
    result = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert result.stdout == "line\n" and result.stderr == ""


# The console ----------------------------------------------------------------------------------------------


def test_plain_lines_where_there_is_no_terminal(capsys, monkeypatch):
    monkeypatch.setattr(_console, "_PAUSE", 0.0)
    with Console().stage("[bold]paths") as progress:
        progress(1, 4)
        progress(4, 4)
    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == ["[bold]paths …", "[bold]paths: 25 %", "[bold]paths: 100 %"] and "done in" in lines[3]


def test_quiet_is_silent_but_for_results(capsys):
    console = Console(quiet=True)
    console.say("nothing")
    with console.stage("s") as progress:
        progress(1, 2)
    console.json({"a": np.float64(0.5), "b": [np.nan, np.arange(2)], "c": Path("x"), "d": True})
    console.table(["name", "n"], [["ring", 1], ["double_well", None]])
    out, err = capsys.readouterr()
    assert err == "" and json.loads(out[: out.index("}") + 1]) == {
        "a": 0.5,
        "b": [None, [0, 1]],
        "c": "x",
        "d": True,
    }
    assert out.endswith("name         n\nring         1\ndouble_well  None\n")


def test_json_takes_any_file_name(capsys):
    Console().json({"path": Path("a\udcff"), 1: None})
    assert json.loads(capsys.readouterr().out) == {"path": "a\udcff", "1": None}


def test_a_failing_stage_is_not_called_done(capsys):
    with pytest.raises(ValueError), Console().stage("s"):
        raise ValueError
    assert "done" not in capsys.readouterr().err


def test_a_bar_on_a_terminal_shows_names_as_they_are():
    master, slave = pty.openpty()
    code = "from sde_sgd._console import Console\nwith Console().stage('[red]a :smile:') as p:\n    p(1, 2)\n"
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    subprocess.run([sys.executable, "-c", code], stderr=slave, env=environment, check=True)
    os.close(slave)
    shown = b""
    try:
        while chunk := os.read(master, 4096):
            shown += chunk
    except OSError:  # the terminal's other end is closed
        pass
    os.close(master)
    assert b"[red]a :smile:" in shown and b"100 %" in shown
