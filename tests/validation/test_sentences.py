"""Sentences of the sources are answered by intervals, never by hand."""

import numpy as np
import pytest

from sde_sgd._console import Console
from sde_sgd.experiment import Experiment, Setting
from sde_sgd.results import Run
from sde_sgd.run_command import perform
from sde_sgd.validation import collected_sentences
from sde_sgd.validation._sentences import Answer, asked, sentences_section, shown, student

INF = float("inf")


def answer(effect, holds, **options):
    return Answer("Nobody (1900), §1", "more is more", effect, holds, **options)


def test_interval_is_student_s():
    """t_{p, 2} = (2p − 1)/√(2p(1 − p)); one seed bounds nothing; equal values have no width."""
    found = student([1.0, 2.0, 4.0])
    half = 0.95 / np.sqrt(2 * 0.975 * 0.025) * np.std([1, 2, 4], ddof=1) / np.sqrt(3)
    np.testing.assert_allclose(found, [7 / 3, 7 / 3 - half, 7 / 3 + half], rtol=1e-12)
    assert shown([1.0, 1.0], resolution=0.3) == "1 ± 0.3" and shown([2.0, 4.0], resolution=0.3) == "3 ± 12.71"
    assert shown([1.0, 1.0]) == "1 ± 0" and shown([2.0]) == "2 ± ∞" and shown([1.0, np.nan], "lost") == "lost"
    assert student([3.0]) == (3.0, -INF, INF) and student([0.1] * 3) == (0.1, 0.1, 0.1)


def test_interval_covers_as_often_as_it_says():
    """4000 triples of normals: 95 % within 4 σ of the count (chance 6e-5)."""
    draws = np.random.default_rng(0).standard_normal((4000, 3))
    inside = sum(low <= 0 <= high for _, low, high in map(student, draws))
    assert abs(inside - 3800) < 4 * np.sqrt(4000 * 0.95 * 0.05)


@pytest.mark.parametrize(
    ("effect", "holds", "expected"),
    [
        ([1.0, 1.1, 0.9], (0, INF), "seen"),
        ([-1.0, -1.1, -0.9], (0, INF), "not seen"),
        ([1.0, -1.1, 0.4], (0, INF), "undecided"),
        ([5.0], (0, INF), "undecided"),  # one seed is no evidence
        ([0.0, 0.0, 0.0], (0, INF), "not seen"),  # bounds are excluded
        ([0.0, 0.0, 0.0], (0, 0), "seen"),
        ([0.0, 0.0, 0.1], (0, 0), "undecided"),
        ([0.1, 0.1, 0.1], (0, 0), "not seen"),
        ([1.0, 1.1, 0.9], (0.5, 1.3), "seen"),
        ([1.0, 1.1, 0.9], (0.5, 1.2), "undecided"),
        ([1.0, 1.1, 0.9], lambda low, high: low > 0.7, True),
        ([1.0, 1.1, 0.9], lambda low, high: None, "undecided"),
        ([1.0, 1.1, 0.9], lambda low, high: False, "not seen"),
    ],
)
def test_verdicts_follow_from_intervals(effect, holds, expected):
    assert answer(effect, holds).verdict == ("seen" if expected is True else expected)


@pytest.mark.parametrize(
    ("effect", "otherwise", "expected"),
    [
        ([1, 1.1], [-1, -1.1], "seen only when"),
        ([1, 1.1], [1, 1.1], "seen"),
        ([1, 1.1], [1, -1.1], "undecided"),
        ([1, -1.1], [-1, -1.1], "undecided"),
        ([-1, -1.1], [1, 1.1], "not seen"),
        ([-1, -1.1], [-1, -1.1], "not seen"),
    ],
)
def test_only_rests_on_what_is_seen_elsewhere(effect, otherwise, expected):
    assert answer(effect, (0, INF), condition="b is small", otherwise=otherwise).verdict == expected


def test_what_cannot_be_told_apart_is_not_decided():
    """None in 36 steps is no evidence of less than 1 in 20, but of less than 1 in 10; a wider interval stays."""
    none = [0.0, 0.0, 0.0]
    assert answer(none, (-INF, 0.05)).verdict == "seen"
    assert answer(none, (-INF, 0.05), resolution=3 / 36).verdict == "undecided"
    assert answer(none, (-INF, 0.1), resolution=3 / 36).verdict == "seen"
    assert answer(none, (0, INF), resolution=3 / 36).verdict == "undecided"
    assert answer(none, (0, INF), resolution=3 / 36).interval == (0.0, -3 / 36, 3 / 36)
    wide = answer([1.0, 2.0, 4.0], (0, INF), resolution=1e-3)
    assert wide.interval == student([1.0, 2.0, 4.0])
    given = {"condition": "late", "otherwise": [-0.1, -0.1]}
    assert answer([1, 1], (0, INF), **given).verdict == "seen only when"
    assert answer([1, 1], (0, INF), **given, resolution=0.2).verdict == "undecided"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: answer([1.0, np.nan], (0, 1)), "'more is more': effect must be finite"),
        (lambda: answer([], (0, 1)), "at least one"),
        (lambda: answer([1.0], (1, 0)), "low ≤ high"),
        (lambda: answer([1.0], (1, 0, 2)), "2 bounds"),
        (lambda: answer([1.0], (0, 1), condition="b is small"), "go together"),
        (lambda: answer([1.0], (0, 1), otherwise=[1.0]), "go together"),
        (lambda: answer([1.0], (0, 1), resolution=-1), "resolution must be a number >= 0"),
        (lambda: Answer("", "x", [1.0], (0, 1)), "the source of a sentence"),
    ],
)
def test_refusals(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_what_not_every_seed_has_is_named_and_not_answered():
    """Of two arms a seed needs both; what no run was finished for has no number of seeds."""
    for effect, options, said in (
        ([1.0, np.nan], {}, "“c” (1 of 2 seeds)"), ([np.inf, 1.0], {}, "“c” (1 of 2 seeds)"),
        ([1.0, np.nan], {"condition": "late", "otherwise": [np.nan, 1.0]}, "“c” (0 of 2 seeds)"),
        ([], {"condition": "late", "otherwise": []}, "“c” (no finished run)"),
    ):  # fmt: skip
        assert asked("s", "c", iter(effect), (0, 1), "m", **options) == said
    assert asked("s", "c", [0.5] * 3, (0, 1), "m").verdict == "seen"
    assert asked("s", "c", [0.5] * 3, (0, 1), "m", resolution=0.6).verdict == "undecided"
    assert asked("s", "c", [1, 1.1], (0, INF), "m", iter([-1, -1.1]), condition="late").verdict == "seen only when"


def test_sentences_are_in_the_report_and_in_the_result(tmp_path):
    first = [answer([1.0, 1.1, 0.9], (0, INF), measure="height"), answer([-1.0, 1.0], (0, INF))]
    second = [answer([1, 1.1], (0, INF), condition="b < 5", otherwise=[-1, -1.1])]

    def work(study):
        """Nothing."""
        sentences_section(study, first)
        sentences_section(study, [*second, asked("Nobody", "less is less", [np.nan, 1.0], (0, INF), "m")], "More")

    trees = {}
    for name in ("one", "two"):
        run = Run(name, {"seed": 0}, root=tmp_path)
        perform(run, Experiment("T", work, {"seed": Setting(0, "s")}), Console(True))
        trees[name] = run.result()
        page = run.report_path.read_text("utf-8")
        assert "seen only when b &lt; 5" in page and "1 seen; 0 not seen; 0 seen only when; 1 undecided." in page
        assert page.count("more is more") == 3 and page.count("“less is less” (1 of 2 seeds).") == 1
    kept = trees["one"]["sentences"]
    assert kept["verdict"].values.tolist() == ["seen", "undecided", "seen only when"]
    assert kept["effect"].shape == (3, 3) and np.isnan(kept["effect"].values[1, 2])
    assert kept["otherwise"].values[2, 0] == -1 and kept["condition"].values[2] == "b < 5"
    both = collected_sentences(trees)
    assert both.sizes["sentence"] == 6 and both["experiment"].values.tolist() == ["one"] * 3 + ["two"] * 3
    with pytest.raises(ValueError, match="none of x has sentences"):
        collected_sentences({"x": trees["one"]["verdicts"]})
    with pytest.raises(ValueError, match="no sentence"):
        sentences_section(None, [])
