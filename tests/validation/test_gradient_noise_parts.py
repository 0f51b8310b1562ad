"""Draws, layers, classes, angles and the divergence of D, each against a dense matrix; the roads to its Gram matrix."""

import copy

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from torch import nn
from torch.func import functional_call, grad, vmap

from sde_sgd.validation import Curvature, GradientNoise
from sde_sgd.validation import _noise_parts as parts_module


class Residual(nn.Module):
    """Convolutions of every kind, a norm, a skip, a Linear on sequences: each called once."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(4, 4, 2, groups=2, dilation=2, padding=1, bias=False)
        self.norm = nn.GroupNorm(2, 4)
        self.line = nn.Conv1d(4, 3, 2)
        self.sequence = nn.Linear(3, 3)
        self.last = nn.Linear(3, 3)

    def forward(self, x):
        x = torch.tanh(self.first(x.view(-1, 2, 4, 4)))
        x = x + self.norm(self.grouped(x))
        x = torch.tanh(self.line(x.flatten(2))).transpose(1, 2)
        return self.last(self.sequence(x).relu().mean(dim=1))


class Tied(nn.Module):
    """A Linear that is called twice, one whose weight is used a second time, and one that is plain."""

    def __init__(self):
        super().__init__()
        self.twice, self.shared, self.plain = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 3)

    def forward(self, x):
        x = torch.tanh(self.twice(torch.tanh(self.twice(x))))
        return self.plain(self.shared(x) @ self.shared.weight)


def problem(build=None, samples=24, dtype=torch.float64):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        mlp = lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))  # noqa: E731
        model = (mlp if build is None else build)().to(dtype)
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(samples, 6 if build is None else 32, generator=generator, dtype=torch.float64).to(dtype)
    return model, nn.CrossEntropyLoss(), (inputs, torch.randint(3, (samples,), generator=generator))


@pytest.mark.parametrize(
    ("build", "layers"),
    [(Residual, ["first", "grouped", "line", "sequence", "last"]), (Tied, ["plain"]), (None, ["0", "2"])],
)
def test_the_gram_matrix_without_gradients_is_that_of_gradients(build, layers):
    model, loss, data = problem(build)
    noise = GradientNoise(model, loss, data)
    assert [layer.path for layer in noise._plain_layers] == layers
    rows = torch.cat(list(noise.sample_gradients())).numpy()
    residuals = rows - rows.mean(axis=0)
    for road in ("auto", "gradients"):
        np.testing.assert_allclose(noise.gram(road=road), rows @ rows.T, rtol=0, atol=1e-12)
        np.testing.assert_allclose(noise.gram(road=road, centred=True), residuals @ residuals.T, rtol=0, atol=1e-12)
    assert not any(m._forward_hooks for m in noise._losses.model.modules())


def test_frozen_weights_and_biases_leave_their_part_of_a_layer():
    for frozen in ("0.weight", "0.bias"):
        model, loss, data = problem()
        model.get_parameter(frozen).requires_grad_(False)
        noise = GradientNoise(model, loss, data)
        assert len(noise._plain_layers) == 2
        np.testing.assert_allclose(noise.gram(), noise.gram(road="gradients"), rtol=0, atol=1e-13)


def test_single_precision_loses_no_more_than_its_gradients():
    model, loss, data = problem(Residual, dtype=torch.float32)
    noise = GradientNoise(model, loss, data)
    np.testing.assert_allclose(noise.gram(), noise.gram(road="gradients"), rtol=0, atol=1e-5)


def test_draws_have_the_covariance_of_a_mini_batch():
    """In the eigenvectors of D the draws are independent normals: two chi-square tests, 1e-3 each. The Frobenius
    distance of their covariance from D/b lies within those of 199 samples from NumPy's normals: outside 1 in 100."""
    model, loss, data = problem()
    noise = GradientNoise(model, loss, data)
    dense, size, count = noise.matrix() / 4, 4, 600
    values, vectors = (x[..., -23:] for x in np.linalg.eigh(dense))  # of rank N − 1 = 23
    generator = torch.Generator().manual_seed(8)
    draws = torch.stack([noise.sample(size, generator) for _ in range(count)]).numpy()
    white = draws @ vectors / np.sqrt(values)
    np.testing.assert_allclose((white * np.sqrt(values)) @ vectors.T, draws, atol=1e-12)  # nothing outside its range
    inner = white.T @ white
    pairs = inner[np.triu_indices(23, 1)] ** 2 / count
    assert 1e-3 < chi2(23 * count).sf(inner.trace()) < 1 - 1e-3
    assert 1e-3 < chi2(len(pairs)).sf(pairs.sum()) < 1 - 1e-3
    rng, band = np.random.default_rng(9), []
    for _ in range(199):
        normals = rng.normal(size=(count, 23)) * np.sqrt(values)
        band.append(np.linalg.norm(normals.T @ normals / count - np.diag(values)))
    measured = draws.T @ draws / count
    assert min(band) < np.linalg.norm(measured - dense) < max(band)
    uncentred = torch.cat(list(noise.sample_gradients())).numpy()
    uncentred = uncentred.T @ uncentred / len(uncentred) / size  # the counterexample: without − g gᵀ
    assert np.linalg.norm(measured - uncentred) > max(band)
    first = noise.sample(size, torch.Generator().manual_seed(1))
    assert torch.equal(first, noise.sample(size, torch.Generator().manual_seed(1)))
    torch.testing.assert_close(noise.sample(4 * size, torch.Generator().manual_seed(1)), first / 2)


def test_layers_are_blocks_of_the_diagonal():
    model, loss, data = problem()
    noise = GradientNoise(model, loss, data)
    dense, layers = noise.matrix(), noise.layers()
    edges = np.cumsum([0, 30, 5, 15, 3])
    for k, name in enumerate(("0.weight", "0.bias", "2.weight", "2.bias")):
        block = dense[edges[k] : edges[k + 1], edges[k] : edges[k + 1]]
        row, part = layers.sel(parameter=name), noise.restricted(name)
        np.testing.assert_allclose(part.matrix(), block, atol=1e-14)
        np.testing.assert_allclose(part @ block[0], block @ block[0], atol=1e-14)
        assert float(row["trace"]) == pytest.approx(np.trace(block), rel=1e-12)
        assert float(row["largest"]) == pytest.approx(np.linalg.eigvalsh(block)[-1], rel=1e-12)
        assert float(row["participation_ratio"]) == pytest.approx(np.trace(block) ** 2 / (block**2).sum(), rel=1e-12)
    assert float(layers["trace"].sum()) == pytest.approx(noise.trace(), rel=1e-12)
    np.testing.assert_allclose(noise.restricted("0").matrix(), dense[:35, :35], atol=1e-14)
    np.testing.assert_allclose(noise.restricted("2.bias", "0").matrix()[-1, :5], dense[-1, :5], atol=1e-14)
    with pytest.raises(ValueError, match=r"called '0\.wieght' \(did you mean '0\.weight'\?\)"):
        noise.restricted("0.wieght")


def test_noise_within_and_between_classes_adds_up():
    model, loss, data = problem()
    noise = GradientNoise(model, loss, data)
    found, rows = noise.classes(), torch.cat(list(noise.sample_gradients())).numpy()
    labels, mean, between = data[1].numpy(), 0.0, 0.0
    for label in range(3):
        own = rows[labels == label]
        assert float(found["share"].sel({"class": label})) == pytest.approx(len(own) / len(rows))
        np.testing.assert_allclose(found["mean_gradient"].sel({"class": label}), own.mean(axis=0), atol=1e-14)
        within = float(found["trace_within"].sel({"class": label}))
        assert within == pytest.approx(own.var(axis=0).sum(), rel=1e-12)
        shift = own.mean(axis=0) - rows.mean(axis=0)
        mean, between = mean + len(own) / len(rows) * within, between + len(own) / len(rows) * np.outer(shift, shift)
    np.testing.assert_allclose(found["between_eigenvalues"], np.linalg.eigvalsh(between)[::-1][:2], atol=1e-14)
    assert float(found["trace_between"]) == pytest.approx(np.trace(between), rel=1e-12)
    assert mean + float(found["trace_between"]) == pytest.approx(noise.trace(), rel=1e-12)
    regression = GradientNoise(model, nn.MSELoss(), (data[0], torch.zeros(24, 3, dtype=torch.float64)))
    with pytest.raises(ValueError, match="no class numbers"):
        regression.classes()


def test_cosines_are_those_of_the_dense_matrices():
    model, loss, data = problem()
    noise, curvature = GradientNoise(model, loss, data), Curvature(model, loss, data)
    a, b = noise.matrix(), curvature.matrix()
    exact = noise.cosine(curvature)
    assert exact == pytest.approx((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b), rel=1e-12)
    assert exact.error == 0.0 and noise.cosine(noise) == pytest.approx(1.0, rel=1e-12)
    estimated = noise.cosine(curvature, probes=80, seed=3)
    assert 0 < estimated.error < 0.08 and abs(estimated - exact) < 4 * estimated.error
    assert noise.cosine(noise, probes=5) == pytest.approx(1.0, rel=1e-12)
    nothing = Curvature(nn.Sequential(*model, Zero()), loss, data)
    for probes in (None, 5):
        with pytest.raises(ValueError, match="a matrix that is 0 has no direction"):
            noise.cosine(nothing, probes=probes)
    with pytest.raises(ValueError, match="over 53 and 35 weights"):
        noise.cosine(Curvature(model[:1], loss, data))
    with pytest.raises(ValueError, match="other must be a NetworkOperator, got ndarray"):
        noise.cosine(a)


class Zero(nn.Module):
    def forward(self, x):
        return 0.0 * x


def by_differences(model, loss, data, step=1e-5):
    """Σ_j ∂D_ij/∂w_j by central differences of the covariance of gradients that torch.func gives one by one."""
    shapes = {name: p.shape for name, p in model.named_parameters()}
    start = nn.utils.parameters_to_vector(model.parameters()).detach()
    model = copy.deepcopy(model).eval()

    def one(flat, x, y):
        pieces = torch.split(flat, [shape.numel() for shape in shapes.values()])
        weights = {n: piece.view(shape) for (n, shape), piece in zip(shapes.items(), pieces)}
        return loss(functional_call(model, weights, (x[None],)), y[None])

    def covariance(flat):
        rows = vmap(grad(one), (None, 0, 0))(flat, *data).numpy()
        return np.cov(rows.T, bias=True)

    moves = torch.eye(len(start), dtype=torch.float64) * step
    columns = [(covariance(start + m)[:, j] - covariance(start - m)[:, j]) / (2 * step) for j, m in enumerate(moves)]
    return np.sum(columns, axis=0)


def normed():
    return nn.Sequential(nn.Unflatten(1, (2, 4, 4)), nn.Conv2d(2, 1, 3), nn.BatchNorm2d(1), nn.GELU(), nn.Flatten(),
                         nn.Linear(4, 3))  # fmt: skip


@pytest.mark.parametrize("build", [None, normed])
def test_divergence_is_the_derivative_of_the_matrix(build):
    model, loss, data = problem(build, samples=10)
    noise = GradientNoise(model, loss, data)
    exact = noise.divergence()
    truth = by_differences(model, loss, data)
    np.testing.assert_allclose(exact["divergence"], truth, rtol=0, atol=1e-7 * np.abs(truth).max() + 1e-8)
    assert not exact["error"].any() and exact.attrs["probes"] == 0
    assert np.abs(truth).max() > 0.01  # there is something to get wrong


def test_divergence_from_probes_has_the_error_it_states():
    """Root mean square of 53 correlated scores from 60 probes; 1.8 is beyond the 1e-3 point even for as few as 8
    independent ones."""
    model, loss, data = problem()
    noise = GradientNoise(model, loss, data)
    exact, estimated = noise.divergence(), noise.divergence(probes=60, seed=9)
    scores = (estimated["divergence"] - exact["divergence"]) / estimated["error"]
    assert 0.3 < float((scores**2).mean()) ** 0.5 < 1.8
    assert estimated.attrs["probes"] == 60
    with pytest.raises(ValueError, match="probes must be a whole number >= 2"):
        noise.divergence(probes=1)
    with pytest.raises(ValueError, match="needs a gradient and a Hessian of every sample alone: statistics='full'"):
        GradientNoise(model, loss, data, statistics="full").divergence()


def test_larger_networks_are_estimated(monkeypatch):
    monkeypatch.setattr(parts_module, "_DENSE", 10)
    monkeypatch.setattr(parts_module, "_PROBES", 5)
    noise = GradientNoise(*problem())
    assert noise.cosine(noise).probes == 5


def test_bad_arguments_of_methods_are_named():
    noise = GradientNoise(*problem())
    for call, message in (
        (lambda: noise.matvec(np.zeros((53, 1))), r"shape \(53,\).*got \(53, 1\)"),
        (lambda: noise.spectrum(24), "k must be a whole number from 1 to 23"),
        (lambda: noise.spectrum(method="lanczos"), "say how many, k"),
        (lambda: noise.eigenpairs(3, method="dense"), "method must be one of auto, gram, matrix, lanczos"),
        (lambda: noise.eigenpairs(3, method="gram", tolerance=1e-3), "belongs to method='lanczos'"),
        (lambda: noise.sample(0), "batch_size must be a whole number >= 1"),
        (lambda: noise.sample(2, 7), "generator must be a Generator, got int"),
        (lambda: noise.gram(road="fast"), "road must be one of auto, gradients"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    same = GradientNoise(*problem()[:2], tuple(t[:2].repeat_interleave(4, 0) for t in problem()[2]))
    with pytest.raises(ValueError, match="only 1 eigenvalues of D are above rounding"):
        same.eigenpairs(3, method="gram")
