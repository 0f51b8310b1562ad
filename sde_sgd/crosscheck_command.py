"""The sub-command `sde-sgd crosscheck`. Heavy imports live inside the function."""

from pathlib import Path
from typing import Annotated

import typer


def crosscheck(
    landscapes: Annotated[
        list[str] | None, typer.Argument(help="Names of the catalogue; all with one to three variables by default.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Few paths, coarse grids: larger errors.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random number.")] = 0,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads; the numbers do not depend on it. (default: all cores)")
    ] = None,
    root: Annotated[Path, typer.Option(help="Folder under which the run keeps its results.")] = Path("runs"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget results of earlier runs and compute anew.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No progress.")] = False,
) -> int:
    """Steady states solved, sampled and in closed form, side by side; exit code 1 where two of them disagree."""
    from . import _checks
    from .landscapes import catalogue

    known = catalogue()
    names = [_checks.choice("landscape", name, known) for name in dict.fromkeys(landscapes or known)]

    from . import _crosscheck_report as crosscheck
    from ._console import Console
    from .results import Run

    console = Console(quiet=quiet)
    run = Run("crosscheck", {"landscapes": names, "quick": quick, "seed": seed}, root=root, fresh=fresh)
    if not run.finished:
        crosscheck.perform(run, console, threads)
    return crosscheck.show(run, console, as_json)
