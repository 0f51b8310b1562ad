"""What a command says while it works: progress and remarks on stderr, results on stdout."""

import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from ._config import reduced

Progress = Callable[[float, float], None]
_PAUSE = 10.0  # seconds between plain progress lines


class Console:
    """Progress bars if stderr is a terminal, plain lines if it is not, nothing if `quiet`.

    Every text is shown as it is: brackets, colons and the like are never read as markup.

        console = Console(quiet=quiet)
        with console.stage("Fokker–Planck") as progress:
            solve(..., progress=progress)       # progress(done, total), from any thread
        console.say(f"report: {run.report_path}")
    """

    def __init__(self, quiet: bool = False):
        self.quiet = quiet

    def say(self, text: str) -> None:
        """One line on stderr."""
        if not self.quiet:
            print(one_line(text), file=sys.stderr, flush=True)

    @contextmanager
    def stage(self, name: str) -> Iterator[Progress]:
        """Announce a stage, show its progress, and say how long it took; an exception passes through."""
        name = one_line(name)
        if self.quiet:
            yield lambda done, total: None
        elif sys.stderr.isatty():
            with _bar(name) as progress:
                yield progress
        else:
            began = time.monotonic()
            self.say(f"{name} …")
            yield _lines(name, sys.stderr)
            self.say(f"{name}: done in {duration(time.monotonic() - began)}")

    def json(self, value: Any) -> None:
        """One JSON document on stdout, for machines; shown even if quiet. NaN and infinities become null."""
        text = json.dumps(reduced(value, _leaf, lambda key, _: str(key)), indent=2, ensure_ascii=False, allow_nan=False)
        # A file name may hold bytes that are no Unicode: they are escaped as JSON escapes them.
        print(text.encode("utf-8", "backslashreplace").decode("utf-8"))

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Aligned columns of text on stdout; shown even if quiet."""
        cells = [[one_line(str(cell)) for cell in row] for row in (columns, *rows)]
        widths = [max(map(len, column)) for column in zip(*cells)]
        for row in cells:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def one_line(text: str) -> str:
    """`text` with white space folded and control characters, which could steer a terminal, left out."""
    return "".join(c for c in " ".join(str(text).split()) if c.isprintable())


def duration(seconds: float) -> str:
    """
    >>> [duration(s) for s in (0.234, 41.7, 192.0, 7500.0)]
    ['0.2 s', '42 s', '3 min 12 s', '2 h 05 min']
    """
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _lines(name: str, stream: TextIO) -> Progress:
    last = time.monotonic()

    def progress(done: float, total: float) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _PAUSE and total > 0:
            last = now
            print(f"{name}: {100 * done / total:.0f} %", file=stream, flush=True)

    return progress


@contextmanager
def _bar(name: str) -> Iterator[Progress]:
    from rich.console import Console as Terminal
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    terminal = Terminal(stderr=True, markup=False, emoji=False, highlight=False)
    with Bars(*columns, console=terminal) as bars:
        task = bars.add_task(name, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)
        total = bars.tasks[0].total or 1
        bars.update(task, completed=total, total=total)


def _leaf(value: Any, where: str) -> Any:
    """`value` as JSON knows it: NaN and infinities are null, what is no number is text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)
