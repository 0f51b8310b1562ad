"""A claim and its verdict in words, for a terminal and for a page of the documentation."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .claim import Claim, Level, Measurement, Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_AS_STATED = {"holds": "holds", "needs_hypothesis": "needs a further hypothesis", "fails": "fails"}


def explained(claim: Claim, verdict: Verdict, level: Level, folder: str | Path = "runs/theory") -> str:
    """Statement, hypotheses, method, numbers and the files of the figures, for a terminal."""
    lines = [claim.name, "=" * len(claim.name), claim.statement, f"    {claim.formula}", f"Source: {claim.source}"]
    lines += [f"Hypothesis: {hypothesis}" for hypothesis in claim.hypotheses]
    lines += [f"As stated it {_AS_STATED[claim.as_stated]}. What holds: {claim.holds}.", ""]
    for title, function, rows in _halves(claim, verdict):
        lines += [f"{title}: {method(function)}", *(f"    {row}{_mark(row)}  [{row.reason}]" for row in rows), ""]
    lines += [f"figure: {file}" for file in write_figures(claim, verdict, level, folder)]
    return "\n".join([*lines, ""])


def page(claim: Claim, verdict: Verdict, figures: list[Path]) -> str:
    """The same as a page in Markdown; the figures lie beside it."""
    lines = [f"# {claim.name}", "", f"> {claim.statement}", "", f"$${claim.formula}$$", "", f"*{claim.source}*", ""]
    lines += [f"- Hypothesis: {hypothesis}" for hypothesis in claim.hypotheses]
    lines += ["", f"**As stated it {_AS_STATED[claim.as_stated]}.** What holds: {claim.holds}.", ""]
    for title, function, rows in _halves(claim, verdict):
        lines += [f"## {title}", "", method(function), "", *_table(rows), ""]
    lines += ["## Figure", ""] + [f"![{file.stem}]({file.name})\n" for file in figures]
    return "\n".join(lines)


def method(function: Callable) -> str:
    """The docstring of a check, in one paragraph."""
    return " ".join((inspect.getdoc(function) or "").split())


def write_figures(claim: Claim, verdict: Verdict, level: Level, folder: str | Path) -> list[Path]:
    """Draw the verdict, and the claim's own figure where it has one, as files of the folder."""
    from sde_sgd._files import write_bytes
    from sde_sgd.figures import svg

    drawn: list[tuple[str, Figure]] = [(claim.name, verdict.plot())]
    if claim.figure is not None:
        drawn.insert(0, (f"{claim.name}_picture", claim.figure(level)))
    Path(folder).mkdir(parents=True, exist_ok=True)
    files = []
    for name, figure in drawn:
        files.append(Path(folder) / f"{name}.svg")
        write_bytes(files[-1], svg(figure))
    return files


def _halves(claim: Claim, verdict: Verdict) -> list[tuple[str, Callable, tuple[Measurement, ...]]]:
    other = "A hypothesis broken" if claim.as_stated == "holds" else "As stated: the counterexample"
    return [("What holds", claim.check, verdict.measurements), (other, claim.twin, verdict.twins)]


def _mark(measurement: Measurement) -> str:
    return "" if measurement.passed else "  (fails)"


def _table(rows: tuple[Measurement, ...]) -> list[str]:
    lines = ["| measured | value | predicted | granted for |", "|---|---|---|---|"]
    for m in rows:
        cells = (m.what, f"{m.measured:.5g}", m.prediction, m.reason)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return lines
