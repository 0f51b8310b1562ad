"""The sub-command `sde-sgd theory`. Heavy imports live inside the function."""

from typing import Annotated

import typer


def theory(
    names: Annotated[list[str] | None, typer.Argument(help="Claims to check; all of them by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdicts as JSON.")] = False,
) -> int:
    """Published claims, each with an executable verdict; exit code 1 where one of our checks fails."""
    from dataclasses import asdict

    from sde_sgd._console import Console

    from .claims import check

    verdicts = check(names or None)
    console = Console()
    if as_json:
        console.json([asdict(verdict) for verdict in verdicts])
    else:
        for v in verdicts:
            console.table(
                (v.claim, f"as stated: {v.as_stated}"),
                [
                    ("source", v.source),
                    ("what holds", v.holds),
                    ("measured", f"{v.measured:.3g}, predicted {v.expected:.3g} ± {v.tolerance:.1g}"),
                    ("counterexample", v.counterexample),
                    ("check", "passed" if v.passed else "FAILED"),
                ],
            )
            print()
    return 0 if all(v.passed for v in verdicts) else 1
