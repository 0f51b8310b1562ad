"""Every verdict passes, every twin fails, and a blind check is found out."""

import json
from dataclasses import replace

import pytest

from sde_sgd import cli
from sde_sgd.theory import CLAIMS, Measurement, check


@pytest.mark.parametrize("name", CLAIMS)
def test_verdict_and_twin(name):
    claim = CLAIMS[name]
    found, broken = claim.check(), claim.twin()
    assert found.passed, found
    assert not broken.passed, broken
    assert claim.as_stated in ("holds", "needs_hypothesis", "fails")


def test_a_check_that_cannot_fail_is_no_verdict():
    blind = replace(CLAIMS["batch_covariance"], twin=CLAIMS["batch_covariance"].check)
    assert not blind.verdict().passed
    assert not Measurement("nothing", float("nan"), 0.0, 1e9).passed


def test_names_are_checked():
    assert [v.claim for v in check(["batch_covariance"])] == ["batch_covariance"]
    with pytest.raises(ValueError, match="did you mean 'batch_covariance'"):
        check(["batch_covarience"])


def test_command_prints_the_fields_of_a_verdict(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["theory", "batch_covariance", "--json"])
    assert ended.value.code == 0
    (verdict,) = json.loads(capsys.readouterr().out)
    assert set(verdict) == {
        *("claim", "source", "as_stated", "holds", "measured"),
        *("expected", "tolerance", "passed", "counterexample"),
    }
