"""Errors of a decomposition from coarser grids: right in size, sign and place, and honest where they cannot be."""

import numpy as np
import pytest

import sde_sgd as sde
from sde_sgd.potential._refinement import observed_order, resample


def true_errors(fp, found):
    """Φ, j and q less what is exact, Φ with mean 0 under ρ; and the weights ρ."""
    x, process = fp.grid.centers(), fp.process
    weight = np.exp(fp.log_steady_state().values)
    weight /= weight.sum()
    off = found.potential.values - process.potential(x)
    exact = {"remainder": process.landscape.remainder, "q": process.landscape.q}
    result = {n: found[n].values - f(x, process.temperature) for n, f in exact.items() if n in found}
    return result | {"potential": off - (off * weight).sum()}, weight


def mean(values, weight):
    return float((np.abs(values) * weight.reshape(*weight.shape, *(1,) * (values.ndim - weight.ndim))).sum())


@pytest.mark.parametrize("shape", [(64, 64), (81, 70)])
def test_the_error_is_known_cell_by_cell(shape):
    """What is left of the error when its estimate is taken off is a tenth of it, on even and odd grids."""
    fp = sde.FokkerPlanck(sde.landscapes.get("example_19").at_temperature(1.0), sde.Grid((-4, -4), (4, 4), shape))
    found = sde.decompose(fp, error=True)
    truth, weight = true_errors(fp, found)
    for name, off in truth.items():
        assert mean(off - found[f"{name}_error"].values, weight) < 0.1 * mean(off, weight), name
        assert abs(found.attrs[f"{name}_order"] - 2.0) < 0.25, found.attrs
    assert found.attrs["error_source"].startswith("Richardson, from ")


def test_the_error_less_its_estimate_is_of_higher_order():
    left = []
    for cells in (64, 128):
        process = sde.landscapes.get("example_19").at_temperature(1.0)
        fp = sde.FokkerPlanck(process, sde.Grid((-4, -4), (4, 4), (cells, cells)))
        found = sde.decompose(fp, error=True)
        truth, weight = true_errors(fp, found)
        left.append([mean(off - found[f"{name}_error"].values, weight) for name, off in truth.items()])
    assert (np.log2(np.array(left[0]) / left[1]) > 3.0).all(), left


def test_far_below_float64():
    """In one variable the scheme is of order 2 at any Péclet number: the error is right where ρ is e^−2000."""
    process = sde.Process(("-x - x**3 - cos(3*x)",), (("1",),), 1 / 400, variables=("x",))
    fp = sde.FokkerPlanck(process, sde.Grid(-2, 2, 200))
    found = sde.decompose(fp, error=True)
    x = fp.grid.axes[0]
    log_density = fp.log_steady_state().values
    assert log_density.min() < -2000
    off = found.potential.values - (x**2 / 2 + x**4 / 4 + np.sin(3 * x) / 3)
    weight = np.exp(log_density - log_density.max())
    off -= (off * weight).sum() / weight.sum()
    np.testing.assert_allclose(found.potential_error, off, rtol=0.05, atol=0.01 * np.abs(off).max())
    assert abs(found.potential_order - 2) < 0.1


def test_a_ring_and_a_known_potential():
    ring = sde.landscapes.get("ring", force=0.5).at_temperature(0.5)
    fp = sde.FokkerPlanck(ring, sde.Grid.around(ring, shape=90))
    found = sde.decompose(fp, error=True)
    off = found.potential.values - ring.potential(fp.grid.centers())
    off -= mean(off * 0 + 1, weight := fp.steady_state().values / fp.steady_state().values.sum()) * (off * weight).sum()
    assert mean(off - found.potential_error.values, weight) < 0.1 * mean(off, weight)
    well = sde.landscapes.get("double_well").at_temperature(0.1)
    exact = sde.decompose(sde.FokkerPlanck(well, sde.Grid.around(well, shape=64)), error=True)
    assert np.abs(exact.remainder_error).max() < 1e-9  # e^{−f/T} is stationary on every grid, j = 0
    assert np.isnan(exact.attrs["remainder_order"]) or exact.attrs["remainder_order"] < 1  # of rounding, none


def test_where_the_grid_is_too_coarse_the_order_says_so():
    """Wells three cells wide: the observed order is far from 2, the error still of the size of the truth."""
    process = sde.landscapes.get("sheared_double_well").at_temperature(0.05)
    fp = sde.FokkerPlanck(process, sde.Grid.around(process, shape=32))
    found = sde.decompose(fp, error=True)
    truth, weight = true_errors(fp, found)
    assert abs(found.attrs["remainder_order"] - 2.0) > 0.5
    ratio = mean(found.remainder_error.values, weight) / mean(truth["remainder"], weight)
    assert 1 / 3 < ratio < 3, ratio


def test_nothing_is_added_unless_asked_for():
    fp = sde.FokkerPlanck(sde.landscapes.get("example_19").at_temperature(1.0), sde.Grid((-4, -4), (4, 4), (24, 24)))
    plain, full = sde.decompose(fp), sde.decompose(fp, error=True, identity=True)
    assert not [n for n in plain if str(n).endswith("_error")] and "a_type_gap" not in plain
    for name in plain:
        np.testing.assert_array_equal(plain[name], full[name])
        assert full[f"{name}_error"].dims == plain[name].dims
    for option in ("error", "identity"):
        with pytest.raises(ValueError, match=f"{option} must be a bool"):
            sde.decompose(fp, **{option: 1})
    few = sde.FokkerPlanck(fp.process, sde.Grid((-4, -4), (4, 4), (24, 10)))
    with pytest.raises(ValueError, match="5 cells along an axis are too few, 6 are needed"):
        sde.decompose(few, error=True)
    without = sde.decompose(sde.FokkerPlanck(fp.process, sde.Grid((-4, -4), (4, 4), (24, 16))), error=True)
    assert np.isnan(without.attrs["potential_order"])  # no third grid


def test_both_sides_of_the_identity():
    """b = −(D + Q)∇Φ + T div(D + Q) of second order, in one variable with Q = 0; a ring has a current besides."""
    gaps = []
    for cells in (100, 200):
        process = sde.landscapes.get("multiplicative_well").at_temperature(0.3)
        fp = sde.FokkerPlanck(process, sde.Grid(-3, 3, cells))
        found = sde.decompose(fp, identity=True)
        np.testing.assert_allclose(found.drift, -process.landscape.gradient(fp.grid.centers()))
        np.testing.assert_allclose(found.a_type_drift - found.drift, found.a_type_gap)
        gaps.append(float((np.abs(found.a_type_gap[:, 0]) * fp.steady_state()).sum()) * fp.grid.cell_volume)
    assert gaps[-1] < 0.005 and abs(np.log2(gaps[0] / gaps[1]) - 2) < 0.1
    ring = sde.landscapes.get("ring").at_temperature(0.5)
    with pytest.raises(ValueError, match="needs Q, and q is left out"):
        sde.decompose(sde.FokkerPlanck(ring, sde.Grid.around(ring, shape=40)), identity=True)


@pytest.mark.parametrize("order", [0.7, 2.0, 3.5])
def test_observed_orders_of_powers(order):
    h = np.array([1 / 65, 1 / 32, 1 / 16])
    sizes = np.diff(3.0 * h**order)
    assert abs(observed_order(sizes, list(h[1:] / h[:-1])) - order) < 1e-9
    assert observed_order(sizes[::-1], [2.0, 2.0]) == 0.0 and np.isnan(observed_order(sizes[:1], [2.0]))


def test_cubics_are_resampled_exactly_and_nan_stays_where_it_is():
    x, at = (np.arange(12) + 0.5) / 12, (np.arange(5) + 0.5) / 5
    cubic = x**3 - x[:, None] ** 2 + 2
    np.testing.assert_allclose(resample(cubic, (x, x), (at, at), (False, False)), at**3 - at[:, None] ** 2 + 2)
    cubic[0, 0] = np.nan
    assert np.isnan(resample(cubic, (x, x), (at, at), (False, False))).sum() == 1
    wave = resample(np.sin(2 * np.pi * x), (x,), (at,), (True,))
    np.testing.assert_allclose(wave, np.sin(2 * np.pi * at), atol=0.005)
