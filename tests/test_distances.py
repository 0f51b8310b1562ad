"""Distances of sampled densities: known values, and how often equal densities are called different."""

import numpy as np
import pytest
import xarray as xr

import sde_sgd as sde
from sde_sgd.distances import Distance, blocks_of, coarsen, l1_distance
from sde_sgd.paths import density_dataset

GRID = sde.Grid((-3, -3), (3, 3), (12, 12))
CENTERS = GRID.centers()
TRUTH = np.exp(-0.5 * (CENTERS**2).sum(-1))
TRUTH /= TRUTH.sum() * GRID.cell_volume
REFERENCE = xr.DataArray(TRUTH, dims=("x", "y"), coords=dict(zip("xy", GRID.axes)))


def drawn(rng, density=TRUTH, samples=10_000, blocks=16):
    counts = rng.multinomial(samples, (density * GRID.cell_volume).ravel(), size=blocks)
    return density_dataset(counts.reshape(blocks, *GRID.shape), np.zeros(blocks, np.int64), GRID, ("x", "y"))


def test_of_equal_densities_the_distance_is_the_floor_and_the_verdict_agrees():
    """200 seeded draws: mean distance within 5 % of the mean floor, every verdict agrees (false alarm < 1e-4 each)."""
    rng = np.random.default_rng(3)
    found = [l1_distance(blocks_of(drawn(rng)), REFERENCE) for _ in range(200)]
    assert np.mean([d.distance for d in found]) == pytest.approx(np.mean([d.floor for d in found]), rel=0.05)
    assert all(d.agrees() for d in found) and not any(d.is_clear for d in found)


def test_a_different_density_is_told_apart():
    shifted = np.roll(TRUTH, 1, axis=0)
    found = l1_distance(blocks_of(drawn(np.random.default_rng(0), shifted)), REFERENCE)
    exact = np.abs(shifted - TRUTH).sum() * GRID.cell_volume
    assert found.distance == pytest.approx(exact, abs=3 * found.error + found.floor**2)
    assert found.is_clear and not found.agrees()


def test_a_sampled_reference_brings_its_own_error():
    rng = np.random.default_rng(5)
    other = drawn(rng)
    found = l1_distance(blocks_of(drawn(rng)), other["density"], other["density_error"])
    alone = l1_distance(blocks_of(drawn(rng)), REFERENCE)
    assert found.agrees() and found.floor == pytest.approx(np.sqrt(2) * alone.floor, rel=0.1)


def test_mass_outside_is_counted_per_block():
    """Half of the paths live outside: every block's density is over all of its own samples."""
    counts = np.zeros((16, *GRID.shape), np.int64)
    counts[:, 6, 6] = 50
    outside = np.where(np.arange(16) < 8, 50, 150)
    result = density_dataset(counts, outside, GRID, ("x", "y"))
    blocks = blocks_of(result)
    share = blocks.sum(("x", "y")).values * GRID.cell_volume
    np.testing.assert_allclose(share, np.where(np.arange(16) < 8, 0.5, 0.25))
    assert float(result.density.sum()) * GRID.cell_volume == pytest.approx(800 / (800 + outside.sum()))
    reference = xr.zeros_like(REFERENCE)
    reference[6, 6] = 0.375 / GRID.cell_volume
    assert l1_distance(blocks, reference).distance == pytest.approx(0.0, abs=1e-12)


def test_identical_blocks_with_a_sampled_reference_are_no_division_by_zero():
    blocks = xr.concat([REFERENCE] * 16, "block")
    assert l1_distance(blocks, REFERENCE, 0.01 * REFERENCE).agrees()


def test_coarsen_keeps_mass():
    coarse = coarsen(REFERENCE, 3)
    assert coarse.shape == (4, 4) and float(coarse.mean()) == pytest.approx(float(REFERENCE.mean()), rel=1e-14)
    with pytest.raises(ValueError, match="factor 5 does not divide the cells of x: 12"):
        coarsen(REFERENCE, 5)


def test_thin_samples_and_few_blocks_are_refused():
    rng = np.random.default_rng(1)
    with pytest.raises(sde.TooFewSamples, match="fewer than 10"):
        blocks_of(drawn(rng, samples=10))
    with pytest.raises(sde.TooFewSamples, match="at least 8 independent blocks, got 4"):
        l1_distance(blocks_of(drawn(rng, blocks=4)), REFERENCE)
    with pytest.raises(ValueError, match="different grids"):
        l1_distance(blocks_of(drawn(rng)), coarsen(REFERENCE, 2))
    with pytest.raises(ValueError, match="sampled must be a Dataset"):
        blocks_of(5)
    assert not Distance(1.0, float("nan"), 0.1).agrees()
