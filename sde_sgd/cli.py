"""The command `sde-sgd`: finds its sub-commands among the installed packages, words each fault in one line.

A sub-command is a function with annotated arguments, registered under the entry-point group
`sde_sgd.commands`. Only the one that is asked for is loaded, all of them for the help; their modules import
what is heavy inside the function.
"""

import difflib
import itertools
import os
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points

import typer

from ._console import one_line

GROUP = "sde_sgd.commands"
FAULT = 2
INTERRUPTED = 130
_EXTRAS = {"torch": "networks", "torchsde": "networks"}


class _NoCommand(ValueError):
    """A mistake on the command line, told as typer's own are."""

    def format_message(self) -> str:
        return str(self)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `sde-sgd` with `arguments` (default: the command line's) and exit.

    Exit codes: 0 done; 2 a fault the user can act on, one line each on stderr; 130 interrupted.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        code = _app(arguments)(arguments, prog_name="sde-sgd", standalone_mode=False)
    except BrokenPipeError:  # the reader of our output has left, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as fault:
        lines = _in_words(fault)
        # A mistake on the command line has no place in the code that could be shown.
        if not lines or ("--debug" in _leading(arguments) and not hasattr(fault, "format_message")):
            raise
        for line in lines:
            print(f"error: {one_line(line)}", file=sys.stderr)
        code = FAULT
    if code == INTERRUPTED:  # also what typer itself makes of Ctrl-C
        print("interrupted: finished stages are kept; the same command continues from them", file=sys.stderr)
    sys.exit(code if isinstance(code, int) else 0)


def _app(arguments: Sequence[str]) -> typer.Typer:
    app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})
    app.callback()(_options)
    found = {point.name: point for point in entry_points(group=GROUP)}
    leading = _leading(arguments)
    asked = arguments[len(leading)] if len(leading) < len(arguments) else None
    if asked is not None and asked not in found:
        near = difflib.get_close_matches(asked, found, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(found))}"
        raise _NoCommand(f"there is no command {asked!r}; {hint}")
    if "--version" not in leading:
        for name in [asked] if asked else sorted(found):
            _add(app, found[name], needed=name == asked)
    return app


def _leading(arguments: Sequence[str]) -> Sequence[str]:
    """The options before the command word: those of `sde-sgd` itself, none of which takes a value."""
    return list(itertools.takewhile(lambda word: word.startswith("-"), arguments))


def _add(app: typer.Typer, point: EntryPoint, needed: bool) -> None:
    try:
        command = point.load()
        # A command whose options depend on what is asked brings the settings that let them through.
        app.command(point.name, context_settings=getattr(command, "context_settings", None))(command)
    except Exception as fault:
        if needed:
            raise
        # One broken command must not take the help of all others with it.
        print(f"warning: the command {point.name!r} cannot be loaded: {one_line(str(fault))}", file=sys.stderr)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"sde-sgd {version('sde-sgd')}")
        raise typer.Exit


def _options(
    version: bool = typer.Option(False, "--version", help="Print the version.", callback=_version, is_eager=True),
    debug: bool = typer.Option(False, "--debug", help="Show where a fault arose instead of one line about it."),
) -> None:
    """Stochastic gradient descent as a stochastic process: paths, densities, potentials, real networks."""


def _in_words(fault: Exception) -> list[str]:
    """What the user is told, one line per fault; nothing if the fault is ours, whose traceback we need."""
    if hasattr(fault, "format_message"):  # a mistake on the command line
        return [fault.format_message()]
    if isinstance(fault, ModuleNotFoundError) and fault.name and not fault.name.startswith("sde_sgd"):
        package = fault.name.partition(".")[0]
        extra = _EXTRAS.get(package)
        install = f"sde-sgd[{extra}]" if extra else package
        return [f"this needs the package {package}, which is not installed: pip install '{install}'"]
    errors = getattr(fault, "errors", None)
    if isinstance(fault, ValueError) and callable(errors):  # of a validated configuration
        return [f"{'.'.join(map(str, e['loc']))}: {e['msg']} (got {e['input']!r})" for e in errors()]
    if isinstance(fault, (ValueError, OSError)):
        return [str(fault) or type(fault).__name__]
    return []


if __name__ == "__main__":
    main()
