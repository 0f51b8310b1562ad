"""The sub-command `sde-sgd crosscheck`. Heavy imports live inside the function."""

from pathlib import Path
from typing import Annotated

import typer


def crosscheck(
    landscapes: Annotated[
        list[str] | None, typer.Argument(help="Names of the catalogue; all with one to three variables by default.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Few paths, coarse grids: larger errors.")] = False,
    road: Annotated[
        list[str] | None,
        typer.Option(help="Take only this road to a density in time; may be repeated. 'none' for steady states alone."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random number.")] = 0,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads; the numbers do not depend on it. (default: all cores)")
    ] = None,
    root: Annotated[Path, typer.Option(help="Folder under which the run keeps its results.")] = Path("runs"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget results of earlier runs and compute anew.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No progress.")] = False,
) -> int:
    """One density by all roads that lead to it, side by side; exit code 1 where two of them disagree."""
    from . import _checks
    from .landscapes import catalogue

    known = catalogue()
    names = [_checks.choice("landscape", name, known) for name in dict.fromkeys(landscapes or known)]

    from . import _crosscheck_report as crosscheck
    from . import _crosscheck_roads
    from ._console import Console
    from .results import Run

    offered = _crosscheck_roads.names()
    roads = [_checks.choice("road", name, ["none", *offered]) for name in dict.fromkeys(road or offered)]
    if "none" in roads:
        if len(roads) > 1:
            raise ValueError("road 'none' leaves out all roads in time; name it alone")
        roads = []
    console = Console(quiet=quiet)
    question = {"landscapes": names, "roads": roads, "quick": quick, "seed": seed}
    run = Run("crosscheck", question, root=root, fresh=fresh)
    if not run.finished:
        crosscheck.perform(run, console, threads)
    return crosscheck.show(run, console, as_json)
