"""GradientNoise against dense matrices from a plain loop of backward passes, and what it must refuse."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector
from torch.utils.data import TensorDataset

from sde_sgd.validation import GradientNoise, rank_measures
from sde_sgd.validation import _samples as samples_module
from sde_sgd.validation import gradient_noise as module


def linear_net(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)


def conv_net(dtype=torch.float64):
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 3)),
        nn.Conv2d(1, 4, 2),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8, 3, bias=False),
    ).to(dtype)


def problem(samples=40, dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(samples, 6, generator=generator, dtype=torch.float64)
    return inputs.to(dtype), torch.randint(3, (samples,), generator=generator)


def looped_gradients(model, inputs, targets, loss=nn.functional.cross_entropy):
    """(N, d) by one backward pass per sample, in eval mode."""
    model = model.eval()
    rows = []
    for x, y in zip(inputs, targets):
        model.zero_grad()
        loss(model(x[None]), y[None]).backward()
        rows.append(torch.cat([p.grad.reshape(-1) for p in model.parameters()]).numpy().copy())
    return np.stack(rows)


def covariance(gradients):
    residuals = gradients - gradients.mean(axis=0)
    return residuals.T @ residuals / len(gradients)


@pytest.mark.parametrize("build", [linear_net, conv_net])
@pytest.mark.parametrize("samples", [12, 200])  # fewer and more samples than weights: both roads to the spectrum
def test_matches_the_dense_matrix_of_a_loop(build, samples):
    model, (inputs, targets) = build(), problem(samples)
    gradients = looped_gradients(model, inputs, targets)
    dense = covariance(gradients)
    noise = GradientNoise(model, nn.CrossEntropyLoss(), (inputs, targets))

    assert (noise.parameters, noise.samples) == (dense.shape[0], samples)
    np.testing.assert_allclose(torch.cat(list(noise.sample_gradients(rows=7))).numpy(), gradients, atol=1e-12)
    np.testing.assert_allclose(noise.matrix(), dense, atol=1e-10)
    np.testing.assert_allclose(noise.gram(), gradients @ gradients.T, atol=1e-10)
    residuals = gradients - gradients.mean(axis=0)
    np.testing.assert_allclose(noise.gram(centred=True), residuals @ residuals.T, atol=1e-10)

    spectrum = noise.spectrum()
    expected = np.linalg.eigvalsh(dense)[::-1][: len(spectrum)]
    np.testing.assert_allclose(spectrum, expected, atol=1e-10)
    assert len(spectrum) == min(noise.parameters, samples - 1)
    assert spectrum.min() > -1e-12 * spectrum.max()
    assert np.all(np.diff(spectrum) <= 0)
    assert noise.trace() == pytest.approx(np.trace(dense), abs=1e-10)
    assert spectrum.sum() == pytest.approx(noise.trace(), rel=1e-12)


def test_uncentred_second_moment_is_another_matrix():
    """The counterexample: leaving out − g gᵀ is not a rounding matter far from a minimum."""
    model, (inputs, targets) = linear_net(), problem(12)
    gradients = looped_gradients(model, inputs, targets)
    uncentred = np.linalg.eigvalsh(gradients @ gradients.T / len(gradients))[::-1]
    spectrum = GradientNoise(model, nn.CrossEntropyLoss(), (inputs, targets)).spectrum()
    assert abs(uncentred[0] - spectrum[0]) > 0.05 * spectrum[0]


def test_chunks_and_groups_do_not_change_the_result(monkeypatch):
    data = problem(30)
    whole = GradientNoise(conv_net(), nn.CrossEntropyLoss(), data)
    expected = whole.gram(centred=True), whole.matrix(), whole.trace()
    monkeypatch.setattr(module, "_CHUNK_BYTES", 8 * 60 * 4)  # a few samples at a time
    monkeypatch.setattr(module, "_GROUP_BYTES", 0)  # every parameter tensor on its own
    pieces = GradientNoise(conv_net(), nn.CrossEntropyLoss(), TensorDataset(*data))
    assert len(pieces._groups(0)) == len(list(conv_net().parameters()))
    for one, other in zip(expected, (pieces.gram(centred=True), pieces.matrix(), pieces.trace())):
        np.testing.assert_allclose(other, one, atol=1e-13)


def test_regression_loss_without_reduction_and_parameter_order():
    model = nn.Linear(6, 1, dtype=torch.float64)
    inputs, targets = problem(15)
    targets = targets[:, None].double()
    noise = GradientNoise(model, lambda output, target: (output - target).square().sum(dim=1) / 2, (inputs, targets))
    residual = (model(inputs) - targets).detach().numpy()
    expected = np.hstack([residual * inputs.numpy(), residual])  # weight, then bias: parameters_to_vector
    assert expected.shape[1] == len(parameters_to_vector(model.parameters()))
    np.testing.assert_allclose(torch.cat(list(noise.sample_gradients())).numpy(), expected, atol=1e-13)


def test_frozen_parameters_are_constants_and_the_model_is_copied():
    model, (inputs, targets) = linear_net(), problem(12)
    model[0].requires_grad_(False)
    noise = GradientNoise(model, nn.CrossEntropyLoss(), (inputs, targets))
    assert noise.parameters == 5 * 3 + 3
    before = noise.trace()
    with torch.no_grad():
        model[2].weight.add_(1.0)
    assert noise.trace() == before
    assert model.training  # eval mode is the copy's


def test_float32_gradients_are_stated_and_close():
    exact = GradientNoise(linear_net(), nn.CrossEntropyLoss(), problem(60)).ranks()
    single = GradientNoise(linear_net(torch.float32), nn.CrossEntropyLoss(), problem(60, torch.float32)).ranks()
    assert (exact["gradient_dtype"], single["gradient_dtype"]) == ("float64", "float32")
    assert single["participation_ratio"] == pytest.approx(exact["participation_ratio"], rel=1e-5)


def test_ranks_of_a_known_spectrum():
    measures = rank_measures([1.0, 1.0, 1e-5, 1e-14, 0.0], parameters=100)
    # float32 cuts at 100·2⁻²³ = 1.19e-5, float64 at 2.2e-14: one spectrum, two ranks.
    assert (measures["rank_float32"], measures["rank_float64"]) == (2, 3)
    assert measures["threshold_float32"] == 100 * 2.0**-23
    assert measures["participation_ratio"] == pytest.approx(2.0, rel=1e-4)
    assert measures["stable_rank"] == pytest.approx(2.0, rel=1e-4)
    assert measures["entropy_rank"] == pytest.approx(2.0, rel=1e-3)
    assert measures["eigenvalues_99"] == 2
    flat = rank_measures(np.full(10, 0.1), parameters=10)
    assert flat["eigenvalues_99"] == 10
    for name in ("participation_ratio", "stable_rank", "entropy_rank", "rank_float32", "rank_float64"):
        assert flat[name] == pytest.approx(10)
    assert set(rank_measures(np.zeros(3), parameters=3).values()) == {0}


@pytest.mark.parametrize(
    ("eigenvalues", "parameters", "message"),
    [
        ([1.0, -1e-6], 2, "negative"),
        ([1.0, np.nan], 2, "eigenvalue 1"),
        ([[1.0]], 1, "one-dimensional"),
        ([1.0, 1.0], 1, "rows"),
    ],
)
def test_ranks_refuse(eigenvalues, parameters, message):
    with pytest.raises(ValueError, match=message):
        rank_measures(eigenvalues, parameters)


def test_rank_is_at_most_samples_minus_one():
    noise = GradientNoise(linear_net(), nn.CrossEntropyLoss(), problem(9))
    ranks = noise.ranks()
    assert 0 < ranks["rank_float64"] <= min(ranks["parameters"], ranks["samples"] - 1) == 8


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3, dtype=torch.float64)

    def forward(self, x):
        return nn.functional.dropout(self.layer(x), 0.5, training=True)


def test_dropout_that_ignores_eval_mode_is_refused_and_the_stream_untouched():
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    model, loss = linear_net(), nn.CrossEntropyLoss()
    torch.random.set_rng_state(state)
    GradientNoise(nn.Sequential(nn.Dropout(0.5), model), loss, problem())  # inactive in eval mode
    assert torch.equal(torch.random.get_rng_state(), state)
    with pytest.raises(ValueError, match="two evaluations"):
        GradientNoise(Noisy(), loss, problem())
    assert not torch.equal(torch.random.get_rng_state(), state)  # Noisy's own initialisation


def test_layers_that_mix_samples_are_refused():
    class Centre(nn.Module):
        def forward(self, x):
            return x - x.mean(dim=0)

    batch_norm = nn.BatchNorm1d(3, track_running_stats=False)
    for layer, message in ((Centre(), "depends on the other samples"), (batch_norm, "batch of one")):
        model = nn.Sequential(nn.Linear(6, 3), layer).double()
        with pytest.raises(ValueError, match=message + ".*track_running_stats=True"):
            GradientNoise(model, nn.CrossEntropyLoss(), problem())


def broken(**changes):
    inputs, targets = problem()
    arguments = {"model": linear_net(), "loss": nn.CrossEntropyLoss(), "dataset": (inputs, targets)}
    return arguments | changes


def poisoned_input():
    inputs, targets = problem()
    inputs[17, 2] = float("nan")
    return inputs, targets


def poisoned_weight():
    model = linear_net()
    with torch.no_grad():
        model[2].bias[1] = float("inf")
    return model


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"statistics": "full"}, 'available: "eval"'),
        ({"dataset": problem()[0]}, "pair"),
        ({"dataset": (problem()[0], problem()[1][:5])}, r"\(40, 6\) and \(5,\)"),
        ({"dataset": (problem()[0][:1], problem()[1][:1])}, "at least 2"),
        ({"dataset": (problem()[0].float(), problem()[1])}, "float32"),
        ({"dataset": poisoned_input()}, "inputs of the dataset: not finite at sample 17"),
        ({"model": poisoned_weight()}, "'2.bias'"),
        ({"model": linear_net().requires_grad_(False)}, "requires_grad"),
        ({"loss": lambda output, target: output}, r"shape \(1, 3\)"),
    ],
)
def test_bad_input_is_named(changes, message):
    arguments = broken(**changes)
    with pytest.raises(ValueError, match=message):
        GradientNoise(arguments.pop("model"), arguments.pop("loss"), arguments.pop("dataset"), **arguments)


def test_nan_in_a_gradient_names_parameter_and_sample():
    model = nn.Linear(6, 1, bias=False, dtype=torch.float64)
    inputs, _ = problem(10)
    targets = model(inputs).detach()
    targets[:7] += 1.0  # √0 has no derivative from sample 7 on
    noise = GradientNoise(model, lambda output, target: (output - target).square().sum().sqrt(), (inputs, targets))
    with pytest.raises(ValueError, match="'weight': not finite at sample 7"):
        noise.spectrum()


def test_memory_is_refused_before_it_is_taken(monkeypatch):
    from sde_sgd.validation import _memory

    noise = GradientNoise(linear_net(), nn.CrossEntropyLoss(), problem())
    monkeypatch.setattr(_memory, "available_bytes", lambda device: 10_000)
    with pytest.raises(ValueError, match="40 × 40 Gram matrix needs about"):
        noise.gram()
    with pytest.raises(ValueError, match="53 × 53 matrix D"):
        noise.matrix()


def test_infinite_but_not_nan_rows_are_found():
    rows = torch.ones(4, 2, dtype=torch.float64)
    rows[2] = torch.tensor([float("inf"), float("-inf")])
    with pytest.raises(ValueError, match="sample 12"):
        samples_module.require_finite(rows, "rows", first_sample=10)
    samples_module.require_finite(torch.full((2, 1), 1e308, dtype=torch.float64), "large but finite")


@pytest.mark.gpu
def test_cuda_agrees_with_the_processor():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    for build in (linear_net, conv_net):
        here = GradientNoise(build(), nn.CrossEntropyLoss(), problem(60))
        there = GradientNoise(build(), nn.CrossEntropyLoss(), problem(60), device="cuda")
        np.testing.assert_allclose(there.spectrum(), here.spectrum(), atol=1e-12)
        np.testing.assert_allclose(there.gram(), here.gram(), atol=1e-11)
        assert there.trace() == pytest.approx(here.trace(), rel=1e-12)
