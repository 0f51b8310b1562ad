"""What the README shows is what happens."""

import re
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"


def test_the_code_runs_and_says_what_it_claims(capsys):
    names: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.S)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "(point: 3)" in printed and "(point: 1, mode: 2)" in printed  # three modes, one critical point
    assert names["process"].temperature == 0.2 and names["real"].sizes["replica"] == 1000
    assert names["line"].samples == 3 and names["paths"].sizes["path"] == 10_000


def test_its_files_and_targets_exist():
    text, root = README.read_text("utf-8"), README.parent
    makefile = (root / "Makefile").read_text("utf-8")
    for target in re.findall(r"make ([a-z-]+)", text):
        assert re.search(rf"^{target}:", makefile, re.M), target
    for path in re.findall(r"\]\(([\w/.-]+)\)", text):
        assert (root / path).is_file(), path
