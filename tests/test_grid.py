"""A grid is a box of equal cells; what is not a box is refused in words."""

import pickle

import numpy as np
import pytest

from sde_sgd.grid import Grid


def test_cells_tile_the_box():
    grid = Grid((-2.0, 0.0), (1.0, 4.0), (6, 5), boundary=("periodic", "absorbing"))
    assert grid.dim == 2 and grid.size == 30 and grid.periodic == (True, False)
    np.testing.assert_allclose(grid.spacing, [0.5, 0.8])
    assert grid.cell_volume * grid.size == pytest.approx(3.0 * 4.0, rel=1e-15)
    for axis in range(2):
        edges, centers = grid.edges[axis], grid.axes[axis]
        assert edges[0] == grid.lower[axis] and edges[-1] == grid.upper[axis]
        np.testing.assert_allclose(0.5 * (edges[1:] + edges[:-1]), centers, atol=1e-15)
    centers = grid.centers()
    assert centers.shape == (6, 5, 2)
    np.testing.assert_array_equal(centers[3, 4], [grid.axes[0][3], grid.axes[1][4]])


def test_plain_numbers_in_one_dimension():
    grid = Grid(-1, 1, 8)
    assert grid == Grid([-1.0], (1.0,), np.array([8])) and hash(grid) == hash(Grid([-1.0], [1.0], [8]))
    assert grid.centers().shape == (8, 1)
    assert pickle.loads(pickle.dumps(grid)) == grid


@pytest.mark.parametrize("size", [1e-98, 1e100])
def test_the_smallest_and_largest_cells_have_a_volume(size):
    grid = Grid((0, 0, 0), (size,) * 3, (8, 8, 8))
    assert 0 < grid.cell_volume < np.inf and np.isfinite(1 / grid.spacing**2).all()


def test_remembered_arrays_cannot_be_changed():
    grid = Grid(0, 1, 4)
    with pytest.raises(ValueError, match="read-only"):
        grid.spacing[0] = 2.0


def test_fields_are_labelled():
    grid = Grid((0, 0), (1, 2), (3, 4))
    scalar = grid.data_array(np.arange(12.0), ("u", "v"), "f", {"temperature": 0.1})
    assert scalar.dims == ("u", "v") and scalar.name == "f" and scalar.attrs == {"temperature": 0.1}
    assert float(scalar.sel(u=0.5, v=1.75, method="nearest")) == 7.0
    vector = grid.data_array(np.zeros((12, 2)), ("u", "v"), "J", component=True)
    assert vector.dims == ("u", "v", "component") and list(vector.component.values) == ["u", "v"]
    with pytest.raises(ValueError, match="2 variable names"):
        grid.data_array(np.zeros(12), ("u",), "f")
    with pytest.raises(ValueError, match="13 values"):
        grid.data_array(np.zeros(13), ("u", "v"), "f")


@pytest.mark.parametrize(
    ("arguments", "boundary", "words"),
    [
        ((1, 1, 8), "reflecting", "lower must be less than upper"),
        ((2, 1, 8), "reflecting", r"axis 0 spans \[2.0, 1.0\]"),
        ((-np.inf, 1, 8), "reflecting", "finite ends"),
        ((0, np.nan, 8), "reflecting", "finite ends"),
        ((0, 1, 2), "reflecting", "axis 0 has 2 cells; at least 3"),
        ((0, 1, 8.0), "reflecting", "whole number of cells"),
        (((0, 0), (1, 1), 8), "reflecting", "shape has 1"),
        (((0, 0), 1, (8, 8)), "reflecting", "upper has 1"),
        (((0,) * 4, (1,) * 4, (8,) * 4), "reflecting", "1 to 3 dimensions"),
        (("a", 1, 8), "reflecting", "give one number per axis"),
        ((0, 1, 8), "open", "'open' is unknown; choose among reflecting, periodic, absorbing"),
        ((0, 1, 8), ("periodic", "periodic"), "boundary has 2 entries for 1 axes"),
        ((1.0, 1.0 + 4e-16, 8), "reflecting", "not distinct in float64"),
        ((0, 1, 8), None, "boundary is None; give one name"),
        ((0, 1, 8), 5, "boundary is 5; give one name"),
        ((0, 1, 8), (None,), "boundary None is unknown"),
        ((0, 1, 8), (["periodic"],), "is unknown"),
        (((0, 0), (1e-200, 1e-200), (8, 8)), "reflecting", "choose another unit"),
        (((0, 0), (1, 1e200), (8, 8)), "reflecting", "axis 1 has cells 1.25e\\+199 wide"),
    ],
)
def test_faults_are_named(arguments, boundary, words):
    with pytest.raises(ValueError, match=words):
        Grid(*arguments, boundary=boundary)
