"""Lanczos and Gauss quadrature on matrices whose eigenvalues are known."""

import numpy as np
import pytest
import torch

from sde_sgd.validation import _lanczos as lanczos_module
from sde_sgd.validation._lanczos import _Basis, largest_pairs, quadrature, seeded
from sde_sgd.validation._probes import cosine, hutch_pp

CPU = torch.device("cpu")


def matrix(eigenvalues, seed=0):
    """Symmetric with these eigenvalues and random eigenvectors (rows of the second)."""
    generator = torch.Generator().manual_seed(seed)
    size = len(eigenvalues)
    frame, _ = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    return frame @ torch.diag(torch.as_tensor(eigenvalues, dtype=torch.float64)) @ frame.T, frame.T


def largest(dense, k, dtype=torch.float64, **options):
    return largest_pairs(lambda v: dense.to(dtype) @ v, len(dense), k, dtype=dtype, device=CPU, **options)


def test_pairs_and_residuals_of_an_indefinite_matrix():
    values = np.concatenate([np.linspace(-3, 1, 180), [1.5, 1.6, 2.0, 2.9, 3.0]])
    dense, frame = matrix(values)
    found = largest(dense, 5, tolerance=1e-10)
    np.testing.assert_allclose(found.values, values[::-1][:5], atol=1e-12)
    np.testing.assert_allclose((found.vectors * frame[-5:].flip(0)).sum(dim=1).abs(), 1.0, atol=1e-10)
    true = (found.vectors @ dense - found.values[:, None] * found.vectors).norm(dim=1)
    assert (true.numpy() <= found.residuals * 1.01 + 1e-14).all() and found.residuals.max() <= 3e-10
    assert found.products < 100
    again = largest(dense, 5, tolerance=1e-10)
    assert torch.equal(found.vectors, again.vectors)
    assert not torch.equal(found.vectors, largest(dense, 5, tolerance=1e-10, seed=1).vectors)


def test_a_looser_tolerance_is_met_sooner_and_errors_are_squares_of_residuals():
    dense, _ = matrix(np.geomspace(1e-3, 1, 300))
    loose, tight = largest(dense, 4, tolerance=1e-2), largest(dense, 4, tolerance=1e-8)
    assert loose.products < tight.products
    error = (loose.values - tight.values).abs().numpy()
    assert (error <= loose.residuals).all() and error.max() < 1e-3


def plain_lanczos(dense, steps):
    """The three-term recursion without reorthogonalisation."""
    vector = torch.randn(len(dense), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    vector, before, beta = vector / vector.norm(), torch.zeros_like(vector), torch.zeros(())
    alphas, betas = [], []
    for _ in range(steps):
        image = dense @ vector - beta * before
        alphas.append(float(image @ vector))
        image -= alphas[-1] * vector
        beta = image.norm()
        betas.append(float(beta))
        before, vector = vector, image / beta
    return np.linalg.eigvalsh(np.diag(alphas) + np.diag(betas[:-1], 1) + np.diag(betas[:-1], -1))[::-1]


def test_eigenvalues_do_not_come_back_as_copies():
    """Without reorthogonalisation one eigenvalue does, several times: the counterexample."""
    values = np.concatenate([np.linspace(0, 1, 400), [10.0, 20.0, 40.0, 100.0]])
    dense, _ = matrix(values)
    found = largest(dense, 40, tolerance=1e-9)
    np.testing.assert_allclose(found.values[:5], [100, 40, 20, 10, 1.0], atol=1e-6)
    gram = found.vectors @ found.vectors.T
    np.testing.assert_allclose(gram, np.eye(40), atol=1e-10)
    ghosts = plain_lanczos(dense, 120)
    assert (np.abs(ghosts - 100.0) < 1e-6).sum() > 1


@pytest.mark.parametrize(
    "values", [np.ones(30), np.repeat([0.0, 5.0], [25, 5]), np.zeros(20), np.arange(12.0)], ids=str
)
def test_invariant_subspaces_are_left(values):
    """A start vector sees one copy of each eigenvalue; the iteration starts afresh when these are spent."""
    dense, _ = matrix(values)
    for k in (1, 4, len(values)):
        found = largest(dense, k)
        np.testing.assert_allclose(found.values, np.sort(values)[::-1][:k], atol=1e-12)
        np.testing.assert_allclose(found.vectors @ found.vectors.T, np.eye(k), atol=1e-12)


def test_single_precision_reaches_its_own_tolerance():
    values = np.geomspace(1e-4, 1, 200)
    dense, _ = matrix(values)
    found = largest(dense, 6, dtype=torch.float32)
    np.testing.assert_allclose(found.values, values[::-1][:6], atol=2e-6)
    assert found.residuals.max() <= 1e-4
    with pytest.raises(ValueError, match=r"below the rounding of torch\.float32: at least 1\.2e-05"):
        largest(dense, 6, dtype=torch.float32, tolerance=1e-6)


def test_one_pass_keeps_a_basis_of_single_precision_orthogonal(monkeypatch):
    """|V Vᵀ − 1| is some roundings of 6e-8, and V A Vᵀ is tridiagonal; without the pass vectors come back whole."""
    values = np.concatenate([np.linspace(0, 1, 400), [10.0, 20.0, 40.0, 100.0]])
    dense = matrix(values)[0].float()
    start = torch.randn(404, generator=seeded(1), dtype=torch.float32)

    def departures(steps=120):
        basis = _Basis(lambda v: dense @ v, start, seeded(2), lambda *_: None)
        for _ in range(steps):
            basis.step()
        rows = torch.cat(basis._blocks)[:steps].double()
        image = (rows @ dense.double() @ rows.T).numpy() - basis.tridiagonal()
        return np.abs((rows @ rows.T).numpy() - np.eye(steps)).max(), np.abs(image).max() / 100

    for cancelled in (lanczos_module._CANCELLED, 0.0):  # a second pass where the first took much; never one
        monkeypatch.setattr(lanczos_module, "_CANCELLED", cancelled)
        assert max(departures()) < 3e-6
    monkeypatch.setattr(_Basis, "_orthogonal", lambda self, vector: vector)
    assert min(departures()) > 0.1


def test_memory_is_asked_for_before_it_is_taken():
    asked = []
    dense, _ = matrix(np.linspace(0, 1, 100))
    largest(dense, 30, tolerance=1e-10, require=lambda needed, what, remedy: asked.append((needed, what)))
    assert asked[0] == (32 * 100 * 8, "the last 32 of 32 Lanczos vectors") and len(asked) > 1


def test_quadrature_is_exact_for_polynomials_of_degree_below_twice_its_steps():
    values = np.linspace(-1, 2, 60)
    dense, _ = matrix(values)
    start = torch.randn(60, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    nodes, weights = quadrature(lambda v: dense @ v, start, 6, lambda *_: None)
    power, exact = start.clone(), []
    for _ in range(13):
        exact.append(float(start @ power / (start @ start)))
        power = dense @ power
    moments = [(weights * nodes**p).sum() for p in range(13)]
    np.testing.assert_allclose(moments[:12], exact[:12], rtol=1e-12)
    assert abs(moments[12] / exact[12] - 1) > 1e-6  # and no further
    few, shares = quadrature(lambda v: 3.0 * v, start, 6, lambda *_: None)  # one step spans all there is
    assert few[0] == pytest.approx(3.0) and shares.tolist() == pytest.approx([1.0, 0, 0, 0, 0, 0])


def test_errors_of_estimates_cover_the_truth():
    """Of 60 estimates with errors from 20 probes each, 95 % intervals (t, 19 degrees: 2.09) miss some; 10 or more
    misses have probability 1e-3 at the nominal rate, which skewed estimates exceed a little."""
    dense, _ = matrix(np.concatenate([np.full(30, 5.0), np.linspace(-1, 1, 70)]))
    other, _ = matrix(np.linspace(0, 1, 100), seed=1)
    trace = float(dense.trace())
    angle = float((dense * other).sum() / dense.norm() / other.norm())
    misses = {"trace": 0, "cosine": 0}
    for seed in range(60):
        estimate = hutch_pp(lambda v: dense @ v, 100, 60, seed, CPU)
        misses["trace"] += abs(estimate - trace) > 2.09 * estimate.error
        estimate = cosine(lambda v: dense @ v, lambda v: other @ v, 100, 20, seed, CPU)
        misses["cosine"] += abs(estimate - angle) > 2.09 * estimate.error
    assert max(misses.values()) < 10, misses


def test_hutch_pp_beats_hutchinson_where_few_eigenvalues_carry_the_trace():
    dense, _ = matrix(np.geomspace(1e-6, 1, 100) ** 2)
    errors = []
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        signs = 2.0 * torch.randint(2, (30, 100), generator=generator) - 1.0
        plain = float(((signs.double() @ dense) * signs).sum(dim=1).mean())
        errors.append((plain - dense.trace(), hutch_pp(lambda v: dense @ v, 100, 30, seed, CPU) - dense.trace()))
    plain, better = np.sqrt(np.mean(np.square(errors), axis=0))
    assert better < plain / 2
