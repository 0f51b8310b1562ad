"""The demo's chapter on claims: it shows what was measured, of the claims it names, and says where one differs."""

import numpy as np
import pytest

from sde_sgd import figures
from sde_sgd._console import Console
from sde_sgd.report import Report
from sde_sgd.results import Run
from sde_sgd.study import Study
from sde_sgd.theory import CLAIMS, TOPICS, demo

CHEAP = ["printed_covariance_without_replacement", "no_barrier"]


@pytest.fixture
def study(tmp_path, monkeypatch):
    """One process, and no rendering, which would be most of the time."""
    monkeypatch.setattr("sde_sgd.paths._ensemble.cores", lambda: 1)
    monkeypatch.setattr(figures, "svg", lambda figure: b"")
    return Study(Run("demo", {"seed": 0}, root=tmp_path), Console(True), {"seed": 0}, Report("t"))


def said(study):
    blocks = [block for section in study.report.sections for block in section.blocks]
    return {kind: [b for b in blocks if b["kind"] == kind] for kind in ("verdict", "table", "figure")}


def test_those_that_do_not_hold_as_published_are_shown():
    assert demo.chosen() == [name for name in CLAIMS if CLAIMS[name].as_stated != "holds"]
    assert 10 <= len(demo.chosen()) < len(CLAIMS)


def test_the_chapter_tells_what_it_measured(study, monkeypatch):
    monkeypatch.setattr(demo, "chosen", lambda: CHEAP)
    demo.claims(study)
    found, blocks = study.results["/diagnostics/theory"], said(study)
    assert found["claim"].values.tolist() == CHEAP and bool(found["passed"].all())
    (verdict,), (table,) = blocks["verdict"], blocks["table"]
    assert verdict["passed"] and "found for 2 of 2" in verdict["text"] and len(table["rows"]) == 2
    labels = [text.get_text() for text in study.figures["claims"].axes[0].get_yticklabels()]
    assert labels == [name.replace("_", " ") for name in CHEAP]


def test_a_claim_that_differs_fails_the_chapter(study, monkeypatch):
    """The counterexample: a verdict whose twin passes and whose check does not."""
    monkeypatch.setattr(demo, "chosen", lambda: CHEAP)
    right = demo.measured(CHEAP, 0, lambda done, total: None)
    wrong = right.assign(
        passed=("claim", [False, True]), excess=("claim", [3.0, 0.1]), twin_excess=("claim", [0.5, np.inf])
    )
    monkeypatch.setattr(demo, "measured", lambda names, seed, progress: wrong)
    demo.claims(study)
    (verdict,) = said(study)["verdict"]
    assert not verdict["passed"] and "found for 1 of 2" in verdict["text"] and CHEAP[0] in verdict["text"]


def test_no_claim_has_the_name_of_a_topic():
    assert not set(TOPICS) & set(CLAIMS)
