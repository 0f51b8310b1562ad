"""The sub-command `sde-sgd run`. Heavy imports live inside the functions."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from .experiment import Experiment
    from .results import Run


def run(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME [CONFIG.toml] [--SETTING VALUE]", help="Without a name, a list of the experiments."
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="The two-minute form.")] = False,
    settings: Annotated[bool, typer.Option("--settings", help="List the settings, and run nothing.")] = False,
    root: Annotated[Path, typer.Option(help="Folder under which the run keeps its results.")] = Path("runs"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget results of earlier runs and compute anew.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdicts as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No progress.")] = False,
) -> int:
    """An experiment on real networks, with a report; each setting is an option, as in --learning-rate 0.1.

    Exit code 1 where one of its verdicts fails.
    """
    from . import experiment
    from ._command import read
    from ._console import Console
    from .results import Run

    console = Console(quiet)
    if not words:
        rows = [(known, point.load().title) for known, point in experiment.registered().items()]
        console.table(("experiment", "what it shows"), rows)
        return 0
    name, *rest = words
    chosen = experiment.get(name)
    config = Path(rest.pop(0)) if rest and not rest[0].startswith("--") else None
    if settings:
        console.table(("setting", "default", "quick", "allowed", "what it is"), _rows(chosen))
        return 0
    resolved = chosen.resolve({**(read(config) if config else {}), **options(rest, chosen)}, quick)
    done = Run(name, resolved, root=root, fresh=fresh)
    if not done.finished:
        perform(done, chosen, console)
    verdicts = [
        (bool(v), str(s)) for v, s in zip(*(done.result()["verdicts"][k].values for k in ("holds", "sentence")))
    ]
    if as_json:
        found = [{"holds": holds, "sentence": sentence} for holds, sentence in verdicts]
        console.json({"verdicts": found, "report": str(done.report_path), "result": str(done.result_path)})
    else:
        console.table(("", "what the run found"), [("holds" if holds else "FAILS", text) for holds, text in verdicts])
        print(f"report: {done.report_path}")
    return 0 if all(holds for holds, _ in verdicts) else 1


def perform(run: "Run", experiment: "Experiment", console: Any) -> None:
    """Fill a study, or go on after its last finished stage; then write result.nc, report.html and the figures."""
    import numpy as np
    import xarray as xr

    from .report import Report
    from .results import provenance
    from .study import Study

    report = Report(experiment.title, " ".join((experiment.perform.__doc__ or "").split()))
    study = Study(run, console, run.config, report)
    experiment.perform(study)
    said = [block for section in report.sections for block in section.blocks if block["kind"] == "verdict"]
    verdicts = xr.Dataset(
        {
            "holds": ("verdict", np.array([block["passed"] for block in said], dtype=bool)),
            "sentence": ("verdict", np.array([block["text"] for block in said], dtype=str)),
        }
    )
    tree = xr.DataTree.from_dict({**study.results, "/verdicts": verdicts})
    run.finish(tree, report.html(provenance(run.config)), study.figures)
    study.forget_work()


def options(words: Sequence[str], experiment: "Experiment") -> dict[str, Any]:
    """--setting value or --setting=value; lists are parted by commas."""
    from ._checks import nearest

    given: dict[str, Any] = {}
    rest = list(words)
    while rest:
        word, equals, value = rest.pop(0).partition("=")
        name = word.removeprefix("--").replace("-", "_")
        if not word.startswith("--") or name not in experiment.settings:
            raise ValueError(f"there is no option {word!r}{nearest(name, list(experiment.settings))}")
        if not equals:
            if not rest:
                raise ValueError(f"{word} needs a value")
            value = rest.pop(0)
        given[name] = _value(value, experiment.settings[name].default)
    return given


def _value(text: str, default: Any) -> Any:
    if isinstance(default, tuple):
        return [_value(part.strip(), default[0]) for part in text.split(",")]
    if isinstance(default, str):
        return text
    if isinstance(default, bool):
        return {"true": True, "false": False}.get(text.lower(), text)
    try:
        return float(text)
    except ValueError:
        return text  # refused by the setting, in its words


def _rows(experiment: "Experiment") -> list[tuple[str, ...]]:
    def shown(value: Any) -> str:
        return ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)

    rows: list[tuple[str, ...]] = []
    for name, setting in experiment.settings.items():
        bounds: Mapping[str, float | None] = {"≥": setting.low, "≤": setting.high}
        allowed = ", ".join(setting.choices) or " ".join(f"{s} {v:g}" for s, v in bounds.items() if v is not None)
        rows.append((name, shown(setting.default), shown(experiment.quick.get(name, "")), allowed, setting.about))
    return rows


run.context_settings = {"ignore_unknown_options": True}  # type: ignore[attr-defined]
