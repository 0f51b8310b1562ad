"""What the documentation shows is what happens: every Python block and every gallery script is run."""

import ast
import re
import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.S | re.M)
PAGES = sorted(p for p in DOCS.glob("*.md") if BLOCK.search(p.read_text("utf-8")))
SLOW = {  # more than three seconds
    "between_two_steps.py", "drift_and_diffusion.py", "forgets_the_function.py", "from_one_start.py",
    "held_by_a_minimum.py", "network_predicted.py", "neuron_modes.py", "wide_valleys.py",
}  # fmt: skip
SCRIPTS = [
    pytest.param(p, id=p.name, marks=[pytest.mark.evidence] if p.name in SLOW else [])
    for p in sorted((DOCS / "examples").glob("*.py"))
]


def run_block(block, names, title, capsys):
    """Run statement by statement; a comment after `print(…)` is what it must print. Returns how many were checked."""
    lines, checked = block.splitlines(), 0
    for statement in ast.parse(block).body:
        capsys.readouterr()
        exec(compile(ast.Module([statement], []), title, "exec"), names)
        printed = capsys.readouterr().out.rstrip("\n")
        rest = lines[statement.end_lineno - 1].encode()[statement.end_col_offset :].decode()  # the column counts bytes
        comment = rest.partition("#")[2].strip()
        call = statement.value if isinstance(statement, ast.Expr) else None
        if comment and isinstance(call, ast.Call) and getattr(call.func, "id", "") == "print":
            assert printed == comment, f"{title}: {ast.unparse(statement)}"
            checked += 1
    return checked


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_the_blocks_of_a_page_run_in_order(page, capsys):
    names: dict = {"__name__": "page"}
    for number, block in enumerate(BLOCK.findall(page.read_text("utf-8")), start=1):
        run_block(block, names, f"{page.name}, block {number}", capsys)


def test_a_false_comment_is_reported(capsys):
    assert run_block("x = 1  # one\nprint(\n    x + 1\n)  # 2", {}, "page", capsys) == 1
    with pytest.raises(AssertionError):
        run_block("print(1)  # 2", {}, "page", capsys)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_gallery_script_runs(script, monkeypatch, capsys):
    import matplotlib

    before = matplotlib.get_backend()
    matplotlib.use("agg")
    try:
        runpy.run_path(str(script), run_name="__main__")
    finally:
        matplotlib.use(before)
        matplotlib.pyplot.close("all")


def test_every_page_links_to_pages_that_exist():
    known = {p.relative_to(DOCS).with_suffix("").as_posix() for p in DOCS.rglob("*.md")}
    known |= {"gallery/index", "claims/index"}
    for page in DOCS.glob("*.md"):
        for target in re.findall(r"\{doc\}`([^`<]+)`", page.read_text("utf-8")):
            assert target in known, f"{page.name} → {target}"
