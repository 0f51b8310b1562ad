"""What the reports of long-trajectory and sampling-modes say follows from their numbers, and can fail."""

import numpy as np
import pytest
import xarray as xr

import sde_sgd as sde
from sde_sgd import figures
from sde_sgd._console import Console
from sde_sgd.report import Report
from sde_sgd.results import Run
from sde_sgd.study import Study
from sde_sgd.validation import _long_trajectory_report as report
from sde_sgd.validation import long_trajectory, sampling_modes
from sde_sgd.validation._long_statistics import KINDS, Surrogates, spectral_rise, surrogate_bands

MODES = sampling_modes.MODES


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "svg", lambda figure: b"")
    config = long_trajectory.EXPERIMENT.resolve({})
    return Study(Run("some", {"seed": 0}, root=tmp_path), Console(True), config, Report("t"))


def verdicts(study):
    return [
        (b["passed"], b["text"]) for section in study.report.sections for b in section.blocks if b["kind"] == "verdict"
    ]


def bands(h):
    made = Surrogates(np.array([h, h]), np.ones(2), np.eye(2), np.zeros(2), learning_rate=0.1, batch_size=1, steps=1)
    lags = np.array([0, 1, 2, 4])
    return surrogate_bands(made, KINDS, epochs=4000, lags=lags, bins=20, count=3, seed=1)


def test_each_surrogate_is_counted():
    """ηh = 1 is white noise: correlations within the limits, increments ξ' − ξ; a slow one is beyond at every lag."""
    white, slow = bands(10.0), bands(0.02)
    assert white["beyond"].dims == ("kind", "surrogate") and float(white["beyond"].sel(kind=KINDS[0]).max()) < 0.5
    assert float(slow["beyond"].sel(kind=KINDS[0]).min()) == 1.0
    assert float(white["rise"].sel(kind=KINDS[0]).min()) > 20  # 2 − 2cos ω, from 0 to 4
    assert abs(float(white["rise"].sel(kind=KINDS[1]).mean()) - 1) < 0.1
    frequency = (np.arange(100) + 0.5) / 200
    assert spectral_rise(frequency, 1 + frequency) == pytest.approx(1.475 / 1.025, rel=1e-12)


def published(study, beyond, rise):
    """The section on a run whose surrogates have those shares and rises."""
    lags, frequency = np.array([0, 1, 2, 4]), np.geomspace(1e-4, 0.5, 30)
    run = xr.Dataset(
        {"shown_autocorrelation": ("lag", [1.0, 0.9, 0.8, 0.7]), "autocorrelation_std": ("lag", np.zeros(4)),
         "shown_spectrum": ("frequency", 1 + frequency), "gradient": ("snapshot", np.full(4, 1e-4)),
         "snapshot_epoch": ("snapshot", np.arange(4)), "second_half_mean": ("weight", np.zeros(2))},
        {"lag": lags, "frequency": frequency},
    )  # fmt: skip
    edges = {f"autocorrelation_{e}": (("kind", "lag"), np.tile([1.0, 0.9, 0.8, 0.7], (2, 1))) for e in ("low", "high")}
    edges |= {f"spectrum_{e}": (("kind", "frequency"), np.tile(1 + frequency, (2, 1))) for e in ("low", "high")}
    made = xr.Dataset(
        edges | {"beyond": (("kind", "surrogate"), [beyond, beyond]), "rise": (("kind", "surrogate"), [rise, rise])},
        {"kind": list(KINDS)}, {"shown_weights": 2},
    )  # fmt: skip
    pilot = xr.Dataset({"curvature": ("weight", [1.0, 0.0]), "noise": ("weight", [1.0, 1.0])})
    report.published_section(study, pilot, run, made)
    return verdicts(study)


def test_what_surrogates_do_not_show_is_not_claimed(study):
    held = published(study, [0.9, 1.0], [1.2, 1.6])
    assert held[0][0] and held[1][0] and "as they do" in held[1][1]
    study.report.sections.clear()
    lost = published(study, [0.4, 1.0], [0.9, 1.3])  # one surrogate within the limits, one that falls
    assert not lost[0][0] and not lost[1][0] and "not within theirs" in lost[1][1]


def test_a_slope_that_is_not_known_has_no_verdict(study):
    for error, slope, memory, said in (
        (0.05, 1.1, 2.0, True), (0.05, 1.6, 2.0, False), (0.3, 1.1, 2.0, None), (0.05, 1.6, 0.5, None),
    ):  # fmt: skip
        one = {"slope": slope, "slope_error": error, "correlation": 0.7, "expected_p_value": 0.5}
        tests = xr.Dataset(
            {name: (("kind", "area_lag"), [[0.2], [value]]) for name, value in one.items()}
            | {"p_value": ("area_lag", [0.001]), "overall_p_value": 0.001,
               "variance_ratio": (("kind", "direction"), [[0.5, 0.6], [1.0, 1.1]])},
            {"kind": list(long_trajectory.BENDS), "area_lag": [1]},
            {"blocks": 16, "block_relaxations": memory},
        )  # fmt: skip
        study.report.sections.clear()
        report.current_section(study, xr.Dataset(attrs={"every": 5}), tests)
        found = verdicts(study)
        assert found[0][0] and (found[1][0] if len(found) > 1 else None) is said


def test_areas_and_surrogates_are_of_independent_batches():
    with pytest.raises(ValueError, match="sampling"):
        long_trajectory.EXPERIMENT.resolve({"sampling": "reshuffling"})
    h, d = np.diag([2.0, 0.5]), np.array([[1.0, 0.3], [0.3, 2.0]])
    for mode in MODES[:2]:
        config = long_trajectory.EXPERIMENT.resolve({"sampling": mode, "batch_size": 360})
        plain = sde.DiscreteSGD(h, long_trajectory.drawn(config, d, 721), 0.1, 360)
        exact = sde.DiscreteSGD(h, d, 0.1, 360, samples=721, sampling=mode)
        np.testing.assert_allclose(plain.covariance, exact.covariance, rtol=1e-12)


def test_the_quietest_direction_is_that_of_the_ratio():
    """Along the second the variance is least, along the first reshuffling cuts it most."""
    variance = [[10.0, 1.0], [10.0, 1.0], [1.0, 0.5]]
    theory = xr.Dataset({"variance": (("mode", "direction"), variance)}, {"mode": list(MODES)})
    assert sampling_modes._quietest(theory) == 0
