"""Options and fixtures of all tests. Long measurements (`-m evidence`) write their tables with the fixture `table`."""

import hashlib
from pathlib import Path

import pytest

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
        lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
        text = "\n".join([*lines, "", note, "", stamp, ""])
        print(text)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            partial = folder / f"{name}.md.partial"
            partial.write_text(text, "utf-8")
            partial.replace(folder / f"{name}.md")

    return write
