"""Modes: found on even and odd grids, at their exact places, across a periodic seam, and nowhere else."""

import numpy as np
import pytest
import xarray as xr

import sde_sgd as sde
from sde_sgd.potential import modes


@pytest.mark.parametrize("cells", [60, 61, 64, 65])
def test_double_well_on_even_and_odd_grids(cells):
    well = sde.landscapes.get("double_well").at_temperature(0.2)
    found = modes(sde.FokkerPlanck(well, sde.Grid((-3, -3), (3, 3), (cells, cells))).log_steady_state())
    assert found.sizes["point"] == 2
    np.testing.assert_allclose(np.sort(found.x), [-1, 1], atol=0.02)  # h² of the quartic's third derivative
    np.testing.assert_allclose(found.y, 0, atol=1e-9)
    np.testing.assert_allclose(found.log_ratio, 0, atol=1e-9)


def log_density(values, *axes, **attrs):
    names = "xyz"[: len(axes)]
    return xr.DataArray(values, dims=tuple(names), coords=dict(zip(names, axes)), attrs=attrs)


@pytest.mark.parametrize("center", [0.0, 0.013, 0.05, -0.31])
@pytest.mark.parametrize("cells", [40, 41])
def test_a_quadratic_is_located_exactly(center, cells):
    x = -2 + 4 * (np.arange(cells) + 0.5) / cells
    found = modes(log_density(-3 * (x - center) ** 2, x))
    np.testing.assert_allclose(found.x, [center], atol=1e-12)
    tilted = -((x[:, None] - center) ** 2) - (x[None] - 0.2) ** 2 - (x[:, None] - center) * (x[None] - 0.2)
    both = modes(log_density(tilted, x, x))
    np.testing.assert_allclose([both.x.item(), both.y.item()], [center, 0.2], atol=1e-12)


def test_a_peak_at_a_periodic_seam():
    theta = 2 * np.pi * (np.arange(50) + 0.5) / 50
    found = modes(log_density(np.cos(theta), theta, boundary="periodic"))
    assert found.sizes["point"] == 1
    assert min(found.x.item(), 2 * np.pi - found.x.item()) < (2 * np.pi / 50) ** 3  # the cosine is no quadratic
    assert modes(log_density(np.cos(theta), theta)).sizes["point"] == 0  # without the seam it is at a wall


def test_small_peaks_and_slopes_do_not_count():
    x = np.linspace(-4, 4, 81)
    two = np.logaddexp(-20 * (x - 1) ** 2, -20 * (x + 1) ** 2 - 5)
    assert modes(log_density(two, x)).sizes["point"] == 2
    assert modes(log_density(two, x), least=0.1).sizes["point"] == 1
    assert modes(log_density(x, x)).sizes["point"] == 0


@pytest.mark.parametrize(
    "message, call",
    [
        ("log_density must be a DataArray", lambda d: modes(5)),
        ("reach must be a whole number >= 1, got 0", lambda d: modes(d, reach=0)),
        ("least must be a finite number > 0, got nan", lambda d: modes(d, least=float("nan"))),
        ("least must be from 0 to 1", lambda d: modes(d, least=2.0)),
        ("at least 5 cells", lambda d: modes(d[:4])),
        ("finite log density", lambda d: modes(d.where(d > 1))),
    ],
)
def test_faults_are_named(message, call):
    x = np.linspace(0, 1, 9)
    with pytest.raises(ValueError, match=message):
        call(log_density(x, x))
