"""The sub-commands of `sde-sgd` that the core brings. Heavy imports live inside the functions."""

from pathlib import Path
from typing import Annotated

import typer


def demo(
    root: Annotated[Path, typer.Option(help="Folder under which the run keeps its results.")] = Path("runs"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random number.")] = 0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget results of earlier runs and compute anew.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No progress.")] = False,
) -> None:
    """Five roads to one density, on real data: prediction against real SGD, with a report."""
    from importlib.metadata import entry_points

    from ._console import Console
    from .results import Run

    # Every chapter is loaded first, so that a missing package is said before an hour of work, not after.
    chapters = {point.name: point.load() for point in sorted(entry_points(group="sde_sgd.demo"), key=lambda p: p.name)}
    from . import demo as main

    console = Console(quiet=quiet)
    run = Run("demo", main.CONFIG | {"seed": seed, "chapters": list(chapters)}, root=root, fresh=fresh)
    if not run.finished:
        main.perform(run, console, list(chapters.values()))
    comparison = run.result()["comparison"].to_dataset()
    if as_json:
        rows = [{str(k): comparison[k].values[i].item() for k in comparison} for i in range(comparison.sizes["row"])]
        console.json({"comparison": rows, "report": str(run.report_path), "result": str(run.result_path)})
        return
    from .study import TABLE_COLUMNS, table_rows

    console.table(TABLE_COLUMNS, table_rows(comparison))
    print(f"report: {run.report_path}")


def list_landscapes(
    as_json: Annotated[bool, typer.Option("--json", help="Print names and descriptions as JSON.")] = False,
) -> None:
    """The landscapes of the catalogue, each with its first sentence."""
    from ._console import Console
    from .landscapes import catalogue, describe

    entries = {name: describe(name) for name in catalogue()}
    if as_json:
        Console().json(entries)
    else:
        Console().table(
            ("landscape", "what it is"),
            [(n, " ".join(t.split("\n\n")[0].split())) for n, t in entries.items()],
        )
