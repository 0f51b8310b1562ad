"""Any covariance is a sum of non-negative weights on short offsets, with the least diffusion added."""

import numpy as np
import pytest

from sde_sgd.fokker_planck._selling import selling


def random_covariances(rng, count, ratio):
    angle = rng.uniform(0, np.pi, count)
    v = np.stack([np.cos(angle), np.sin(angle)], -1)
    w = np.stack([-v[:, 1], v[:, 0]], -1)
    return np.einsum("ni,nj->nij", v, v) + np.einsum("ni,nj->nij", w, w) / ratio


@pytest.mark.parametrize("ratio", [1.0, 30.0, 1e3, np.inf])
@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.01, 0.3)])
def test_selling_reconstructs_with_non_negative_weights(ratio, spacing):
    h = np.array(spacing)
    matrices = random_covariances(np.random.default_rng(0), 500, ratio)
    for reach in (1, 4, 16):
        weight, offset, added = selling(matrices, h, np.full(500, reach))
        assert (weight >= 0.0).all() and (added >= 0.0).all() and np.abs(offset).max() <= reach
        whole = (matrices + added[:, None, None] * np.eye(2)) / np.outer(h, h)
        rebuilt = np.einsum("ns,nsi,nsj->nij", weight, offset, offset)
        scale = np.sqrt(np.einsum("nii,njj->nij", whole, whole))
        assert (np.abs(rebuilt - whole) < 1e-10 * scale).all()


def test_added_diffusion_is_the_least_possible():
    matrices = random_covariances(np.random.default_rng(1), 500, 1e4)
    h, reach = np.array([1.0, 1.0]), np.full(500, 3)
    added = selling(matrices, h, reach)[2]
    bad = added > 1e-6
    assert bad.sum() > 50

    def still_missing(share):
        raised = matrices + share * added[:, None, None] * np.eye(2)
        return selling(raised, h, reach)[2][bad] / added[bad]

    assert still_missing(1.0).max() < 1e-9
    assert np.allclose(still_missing(0.9), 0.1, rtol=1e-6)  # any less is not enough


def test_a_spike_of_noise_adds_nothing_elsewhere():
    """D = 1 + 10¹⁵ e^{−50(x−1)²}: ordinary cells keep their D, and only a cell without noise is lifted."""
    x = np.linspace(-1.0, 1.0, 41)
    matrices = (1 + 1e15 * np.exp(-50 * (x - 1) ** 2))[:, None, None] * np.eye(2)
    for diffusion in (matrices.copy(), matrices[:, :1, :1]):
        dim = diffusion.shape[1]
        assert (selling(diffusion, np.ones(dim), np.full(41, 4))[2] == 0.0).all()
        diffusion[7] = 0.0
        added = selling(diffusion, np.ones(dim), np.full(41, 4))[2]
        assert 0 < added[7] < 1e-12 and np.count_nonzero(added) == 1
