"""What the sources say, answered by the five experiments in full: every verdict holds, every sentence in one table."""

from pathlib import Path

import numpy as np
import pytest

from sde_sgd import experiment
from sde_sgd._console import Console
from sde_sgd.results import Run
from sde_sgd.run_command import perform
from sde_sgd.validation import collected_sentences

ROOT = Path(__file__).resolve().parents[2]
FIVE = ("walk", "phases", "optimisers", "equilibrium", "noise")


def number(value):
    return np.format_float_positional(value, 3, unique=False, fractional=False, trim="-") if np.isfinite(value) else "∞"


@pytest.mark.evidence(table="sentences")
def test_every_sentence_is_answered(table):
    """The runs are those of `sde-sgd run NAME` in the folder runs: found there if they are finished, else made."""
    results = {}
    for name in FIVE:
        chosen = experiment.get(name)
        run = Run(name, chosen.resolve({}), root=ROOT / "runs")
        if not run.finished:
            perform(run, chosen, Console(True))
        results[name] = run.result()
        said = results[name]["verdicts"]
        assert said["holds"].values.all(), [str(s) for s in said["sentence"].values[~said["holds"].values]]
    told = collected_sentences(results)
    verdicts = told["verdict"].values
    assert told.sizes["sentence"] >= 25 and (verdicts != "undecided").mean() > 0.5
    rows = []
    for k in range(told.sizes["sentence"]):
        one = {name: told[name].values[k] for name in told.data_vars}
        answer = one["verdict"] + (f" {one['condition']}" if one["verdict"] == "seen only when" else "")
        rows.append([one["experiment"], one["source"], one["content"], answer, one["measure"],
                     f"{number(one['mean'])} ({number(one['low'])} to {number(one['high'])})"])  # fmt: skip
    counts = ", ".join(f"{(verdicts == v).sum()} {v}" for v in np.unique(verdicts))
    table(
        "What the sources say, answered on the digits", ["experiment", "source", "sentence", "answer", "effect",
                                                         "mean (95 % interval)"], rows,
        f"{counts}. Full runs of `sde-sgd run NAME`; intervals are Student's t over seeds, not narrower than what the "
        "measurement can tell apart. Each sentence is judged for itself: of twenty intervals one is expected to miss.",
    )  # fmt: skip
