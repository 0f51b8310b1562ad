"""The sub-command `sde-sgd theory`. Heavy imports live inside the function."""

from typing import Annotated

import typer


def theory(
    names: Annotated[
        list[str] | None, typer.Argument(help="Claims, topics, or Python files that hold claims; all by default.")
    ] = None,
    level: Annotated[str, typer.Option(help="fast, or full: about ten times smaller errors.")] = "fast",
    seed: Annotated[int, typer.Option(help="Seed of what is random.")] = 0,
    jobs: Annotated[int, typer.Option(help="Processes at work; 0: one per core.")] = 0,
    explain: Annotated[bool, typer.Option("--explain", help="Statement, hypotheses, method, figure.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdicts as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No progress.")] = False,
) -> int:
    """Published claims, each with an executable verdict; exit code 1 where a verdict is not the recorded one."""
    from dataclasses import asdict

    from sde_sgd._console import Console
    from sde_sgd.paths._ensemble import cores

    from .explain import explained
    from .verdicts import LEVELS, check, claim_of, find

    console = Console(quiet)
    asked = find(names or None)
    with console.stage(f"{len(asked)} claims") as progress:
        verdicts = check(names or None, level=level, seed=seed, jobs=jobs or cores(), progress=progress)
    if as_json:
        console.json([asdict(verdict) for verdict in verdicts])
    elif explain:
        from .claim import Level

        for one, verdict in zip(asked, verdicts):
            print(explained(claim_of(*one), verdict, Level(LEVELS[level], seed)))
    else:
        console.table(
            ("claim", "source", "as stated", "measured", "predicted", ""),
            [
                (
                    v.claim,
                    v.source,
                    v.as_stated.replace("_", " "),
                    f"{v.measured:.4g}",
                    v.nearest.prediction,
                    "" if v.passed else "DIFFERS",
                )
                for v in verdicts
            ],
        )
        print()
        for v in verdicts:
            if v.as_stated != "holds" or not v.passed:
                print(f"{v.claim} ({v.as_stated.replace('_', ' ')}): {v.holds}.\n    as stated: {v.counterexample}")
            if not v.passed:
                print("    DIFFERS: " + "; ".join(f"{m}{'' if m.passed else ' — FAILED'}" for m in v.measurements))
    return 0 if all(v.passed for v in verdicts) else 1
