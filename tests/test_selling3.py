"""Three-dimensional covariances: non-negative weights on short offsets, with the least diffusion added."""

import itertools

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from sde_sgd.fokker_planck._eigenvalues import eigenvalue_range, least_shift
from sde_sgd.fokker_planck._selling import selling


def random_covariances(rng, count, ratio):
    """Eigenvalues from 1 down to 1/ratio, axes at any angle."""
    axes = Rotation.random(count, random_state=rng).as_matrix()
    values = np.exp(rng.uniform(-np.log(ratio), 0.0, (count, 3)))
    values[:, 0], values[:, 1] = 1.0, 1.0 / ratio
    matrices = np.einsum("nij,nj,nkj->nik", axes, values, axes)
    return 0.5 * (matrices + matrices.transpose(0, 2, 1))


def rebuilt_error(matrices, h, weight, offset, added):
    """|Σ λ e eᵀ − M| over the diagonal entries, at most."""
    whole = (matrices + added[:, None, None] * np.eye(3)) / np.outer(h, h)
    rebuilt = np.einsum("ns,nsi,nsj->nij", weight, offset.astype(float), offset.astype(float))
    return (np.abs(rebuilt - whole) / np.sqrt(np.einsum("nii,njj->nij", whole, whole))).max()


@pytest.mark.parametrize("ratio", [1.0, 30.0, 1e3])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.01, 0.3, 0.02)])
def test_weights_and_offsets_rebuild_the_matrix(ratio, spacing):
    h = np.array(spacing)
    matrices = random_covariances(np.random.default_rng(0), 1000, ratio)
    for reach in (1, 2, 4, 16):
        weight, offset, added = selling(matrices, h, np.full(1000, reach))
        assert (weight >= 0.0).all() and (added >= 0.0).all() and np.abs(offset).max() <= reach
        assert rebuilt_error(matrices, h, weight, offset, added) < 1e-11
    assert rebuilt_error(matrices, h, 1.000001 * weight, offset, added) > 1e-7


def test_nothing_is_added_where_offsets_are_short():
    """10:1 at any angle fits two cells nearly always and three always, and a diagonal D needs the axes alone."""
    matrices = random_covariances(np.random.default_rng(1), 3000, 10.0)
    assert (selling(matrices, np.ones(3), np.full(3000, 3))[2] == 0.0).all()
    assert (selling(matrices, np.ones(3), np.full(3000, 2))[2] > 0.0).mean() < 1e-3
    assert (selling(matrices, np.ones(3), np.full(3000, 1))[2] > 0.0).mean() > 0.3
    weight, offset, added = selling(np.diag([1.0, 2e-6, 3.0])[None], np.array([0.1, 2.0, 1.0]), np.ones(1, np.int64))
    assert added[0] == 0.0 and (np.abs(offset[0]).sum(axis=1) == (weight[0] > 0.0)).all()


@pytest.mark.parametrize("reach", [1, 2, 4])
def test_added_diffusion_is_the_least_possible(reach):
    matrices = random_covariances(np.random.default_rng(2), 500, 1e3)
    added = selling(matrices, np.ones(3), np.full(500, reach))[2]
    short = added > 1e-6
    assert short.sum() > 100
    for share in (0.0, 0.3, 0.6, 0.9, 0.999, 1.0 + 1e-9):
        raised = matrices + share * added[:, None, None] * np.eye(3)
        missing = selling(raised, np.ones(3), np.full(500, reach))[2][short] / added[short]
        np.testing.assert_allclose(missing, max(1.0 - share, 0.0), rtol=1e-5, atol=1e-9)


def test_singular_matrices():
    """Rank one and two: the floor is a share of the largest eigenvalue, or the isotropic ε that short offsets need."""
    rng = np.random.default_rng(3)
    for rank in (1, 2):
        factors = rng.normal(size=(300, 3, rank))
        matrices = factors @ factors.transpose(0, 2, 1)
        weight, offset, added = selling(matrices, np.ones(3), np.full(300, 4))
        assert (added > 0.0).all() and (weight >= 0.0).all() and np.abs(offset).max() <= 4
        assert rebuilt_error(matrices, np.ones(3), weight, offset, added) < 1e-11
    exact = np.outer([1, -2, 1], [1, -2, 1])[None].astype(float)
    weight, offset, added = selling(exact, np.ones(3), np.full(1, 4))
    assert added[0] < 1e-8 and sorted(np.abs(offset[0][weight[0] > 1e-3]).ravel().tolist()) == [1, 1, 2]


@pytest.mark.parametrize("reach", [2, 16])
def test_axes_may_be_named_in_any_order(reach):
    matrices = random_covariances(np.random.default_rng(4), 200, 100.0)
    h = np.array([1.0, 0.7, 1.3])

    def stencils(order):
        order = list(order)
        weight, offset, added = selling(matrices[:, order][:, :, order], h[order], np.full(200, reach))
        back = np.empty_like(offset)
        back[:, :, order] = offset
        sign = np.array([[next((np.sign(v) for v in e if v), 0) for e in cell] for cell in back.tolist()])
        code = (back * sign[:, :, None]).astype(int) @ [10000, 100, 1]
        place = np.argsort(np.where(weight > 0.0, code, 10**9), axis=1)
        kept = np.take_along_axis(np.where(weight > 0.0, code, 0), place, 1)
        return kept, np.take_along_axis(weight, place, 1), added

    first = stencils((0, 1, 2))
    for order in itertools.permutations(range(3)):
        other = stencils(order)
        np.testing.assert_array_equal(first[0], other[0])
        np.testing.assert_allclose(first[1], other[1], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(first[2], other[2], rtol=1e-9, atol=1e-14)


def test_extreme_eigenvalues():
    rng = np.random.default_rng(5)
    matrices = np.concatenate([random_covariances(rng, 200, r) for r in (1.0, 1e3, 1e12)] + [np.zeros((1, 3, 3))])
    low, high = eigenvalue_range(matrices)
    exact = np.linalg.eigvalsh(matrices)
    assert np.abs(low - exact[:, 0]).max() < 1e-15 and np.abs(high - exact[:, 2]).max() < 3e-15


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("unit", [1.0, 1e-3, 1e6])
def test_the_least_noise_does_not_depend_on_units(dim, unit):
    """In cells no eigenvalue is below the floor; with less than 98 % of ε one is; and nothing is added to regular D."""
    rng, h = np.random.default_rng(6), np.array([1.0, unit, 1.0])[3 - dim :]
    factors = rng.normal(size=(40, dim, max(dim - 1, 1)))
    singular = factors @ factors.transpose(0, 2, 1) * (dim > 1)
    regular = singular + 1e-6 * np.eye(dim)
    floor = np.full(40, 1e-8)

    def smallest(matrices, epsilon):
        """In cells, of matrices in cells to which εI has been added in the variables' units."""
        return np.linalg.eigvalsh(matrices + epsilon[:, None, None] * np.diag(h**-2.0))[:, 0]

    scaled = np.outer(h, h)
    assert (least_shift(regular * scaled, floor, 1e-10, 1 / scaled) == 0.0).all()
    epsilon = least_shift(singular * scaled, floor, 1e-10, 1 / scaled)
    assert (smallest(singular, epsilon) > 0.999e-8).all() and (smallest(singular, 0.98 * epsilon) < 0.999e-8).all()
