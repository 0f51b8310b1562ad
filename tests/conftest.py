"""Options and fixtures of all tests. Long measurements (`-m evidence`) write their tables with the fixture `table`."""

import hashlib
import os
from pathlib import Path

import pytest

for _pool in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):  # before NumPy and torch read them
    os.environ.setdefault(_pool, "1")  # threads of several workers would spin and wait for each other

ROOT = Path(__file__).resolve().parents[1]


def pytest_addoption(parser):
    parser.addoption("--evidence", metavar="FOLDER", help="write the tables of long measurements into this folder")


def _sources() -> str:
    """A hash of every source file: a table made from the same sources need not be made again."""
    digest = hashlib.blake2b(digest_size=8)
    for folder in ("sde_sgd", "theory", "validation", "tests"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()


@pytest.fixture
def table(request):
    """table(name, title, columns, rows, note): a markdown table in the evidence folder, written whole.

    The test is skipped where the folder already holds the table made from these very sources.
    """
    option = request.config.getoption("--evidence")
    folder = None if option is None else Path(option)
    stamp = f"<!-- sources {_sources()} -->"
    name = request.node.get_closest_marker("evidence").kwargs.get("table", request.node.name)
    made = folder is not None and (folder / f"{name}.md").is_file()
    if folder is not None and made and stamp in (folder / f"{name}.md").read_text("utf-8"):
        pytest.skip(f"{name}.md was made from these sources")

    def write(title, columns, rows, note=""):
        lines = [f"# {title}", "", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        lines += ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
        text = "\n".join([*lines, "", note, "", stamp, ""])
        print(text)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            partial = folder / f"{name}.md.partial"
            partial.write_text(text, "utf-8")
            partial.replace(folder / f"{name}.md")

    return write


@pytest.fixture
def undrawn(monkeypatch):
    """Figures are made and not rendered, which is most of the time of a tiny run."""
    from sde_sgd import figures
    from sde_sgd._files import write_bytes

    monkeypatch.setattr(figures, "png", lambda figure: b"")
    monkeypatch.setattr(figures, "svg", lambda figure: b"")
    monkeypatch.setattr(figures, "save_png", lambda figure, path: write_bytes(path, b""))
