"""GradientNoise against dense matrices from a plain loop of backward passes, and what it must refuse."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector
from torch.utils.data import TensorDataset

from sde_sgd.validation import GradientNoise
from sde_sgd.validation import _gram as gram_module
from sde_sgd.validation import _sample_losses as losses_module
from sde_sgd.validation import _samples as samples_module

from ._gradients import covariance, linear_net, looped_gradients, problem


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
    along = np.linspace(-1.0, 1.0, whole.parameters)
    product, draw = whole.matvec(along), whole.sample(4, torch.Generator().manual_seed(1))
    monkeypatch.setattr(losses_module, "_CHUNK_BYTES", 8 * 60 * 8)  # a few samples at a time
    monkeypatch.setattr(losses_module, "_KEEP_BYTES", 0)  # no graph is kept
    monkeypatch.setattr(gram_module, "_GROUP_BYTES", 0)  # every parameter tensor on its own
    pieces = GradientNoise(conv_net(), nn.CrossEntropyLoss(), TensorDataset(*data))
    assert len(pieces._losses.chunks()) >= 3 and pieces._losses._graphs is None
    assert gram_module.joined([1, 2, 3], [1, 0, 0]) == [[1], [2, 3]]
    for one, other in zip(expected, (pieces.gram(centred=True), pieces.matrix(), pieces.trace())):
        np.testing.assert_allclose(other, one, atol=1e-13)
    np.testing.assert_allclose(pieces.gram(centred=True, road="gradients"), expected[0], atol=1e-13)
    np.testing.assert_allclose(pieces.matvec(along), product, atol=1e-13)
    np.testing.assert_allclose(pieces.sample(4, torch.Generator().manual_seed(1)), draw, atol=1e-13)


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


def test_the_eigenvalue_left_out_is_zero():
    """N gradients about their mean span N − 1 directions: of N eigenvalues of C K C the last is rounding."""
    noise = GradientNoise(linear_net(), nn.CrossEntropyLoss(), problem(9))
    eigenvalues = np.linalg.eigvalsh(noise.gram(centred=True) / 9)
    assert abs(eigenvalues[0]) < 1e-14 * eigenvalues[-1] < 1e-10 * eigenvalues[1]
    np.testing.assert_allclose(noise.spectrum(), eigenvalues[:0:-1], rtol=0, atol=1e-14 * eigenvalues[-1])
    assert np.linalg.eigvalsh(noise.gram() / 9)[0] > 1e-3 * eigenvalues[1]  # without centring there is a ninth


class Unusual(nn.Module):
    """One matrix used twice, a scalar, and a parameter that no output depends on."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.scale = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
        self.first = nn.Linear(6, 6, bias=False, dtype=torch.float64)
        self.unused = nn.Parameter(torch.ones(2, 2, dtype=torch.float64))
        self.second = nn.Linear(6, 6, dtype=torch.float64)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.scale * self.second(torch.tanh(self.first(x)))


def test_tied_scalar_and_unused_parameters_are_those_of_a_loop():
    model, (inputs, targets) = Unusual(), problem(25)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    rows = []
    for x, y in zip(inputs, targets):
        model.zero_grad(set_to_none=False)
        nn.functional.cross_entropy(model(x[None]), y[None]).backward()
        rows.append(torch.cat([p.grad.reshape(-1) for p in model.parameters()]).numpy().copy())
    gradients = np.stack(rows)
    assert gradients.shape[1] == 1 + 36 + 4 + 6 == len(parameters_to_vector(model.parameters()))
    assert np.abs(gradients).max(axis=0)[1:5].max() == 0.0 < np.abs(gradients[:, 0]).max()

    noise = GradientNoise(model, nn.CrossEntropyLoss(), (inputs, targets))
    np.testing.assert_allclose(torch.cat(list(noise.sample_gradients(rows=4))).numpy(), gradients, atol=1e-13)
    np.testing.assert_allclose(noise.matrix(), covariance(gradients), atol=1e-13)
    np.testing.assert_allclose(noise.gram(), gradients @ gradients.T, atol=1e-13)
    for statistics in ("eval", "full"):
        part = GradientNoise(model, nn.CrossEntropyLoss(), (inputs, targets), statistics=statistics).restricted(
            "unused"
        )
        for found in (
            part.matrix(),
            part @ np.ones(4),
            part.mean_gradient(),
            part.sample(3),
            part.gram(),
            part.trace(),
        ):
            assert not np.any(np.asarray(found))
        assert not part.eigenpairs(2, method="lanczos")["eigenvalues"].any()


# Faults of the user, each as a ValueError that says what it is --------------------------------------------------


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


class Wrapped(nn.Module):
    """A sound layer inside a forward pass that is not."""

    def __init__(self, forward):
        super().__init__()
        self.layer = linear_net()
        self.register_buffer("calls", torch.zeros((), dtype=torch.float64))
        self._forward = forward

    def forward(self, x):
        return self._forward(self, x)


def counting(self, x):
    self.calls += 1
    return self.layer(x)


def counted(self, x):
    self.calls += 1
    return self.layer(x) + self.calls


def broken(**changes):
    return {"model": linear_net(), "loss": nn.CrossEntropyLoss(), "dataset": problem()} | changes


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
        ({"statistics": "batch"}, "statistics must be one of eval, full, minibatch, got 'batch'"),
        ({"batch_size": 8}, "batch_size=8 belongs to statistics=\"minibatch\", not 'eval'"),
        ({"statistics": "minibatch"}, "depends on the batch size: give batch_size"),
        ({"statistics": "minibatch", "batch_size": 41}, "batch_size must be .* there are 40 samples"),
        ({"statistics": "minibatch", "batch_size": 4, "batches": 1}, "batches must be a whole number >= 2"),
        ({"model": "net"}, "model must be a Module"),
        ({"loss": None}, "loss must be a function"),
        ({"device": "bogus"}, "device='bogus' cannot be used: "),
        ({"dataset": (problem()[0][:, :5], problem()[1])}, r"fails on inputs of shape \(8, 5\).*mat1 and mat2"),
        ({"dataset": ((10 * problem()[0]).long(), problem()[1])}, "fails on inputs of shape .* and type torch.int64"),
        ({"dataset": (problem()[0], problem()[1].double())}, "loss fails on outputs and targets of the samples 0, 1,"),
        ({"dataset": (problem()[0], problem()[1].clone().index_fill_(0, torch.tensor([0]), 7))}, "Target 7"),
        ({"dataset": (problem()[0], problem()[1].clone().index_fill_(0, torch.tensor([20]), 7))}, "Target 7"),
        ({"model": Wrapped(lambda self, x: (self.layer(x), x))}, "the model gives tuple for 8 samples"),
        ({"model": Wrapped(lambda self, x: self.layer(x).argmax(1))}, "the model gives torch.int64"),
        ({"model": Wrapped(lambda self, x: self.layer(x).argmax(1)), "statistics": "full"}, "gives torch.int64"),
        ({"model": Wrapped(lambda self, x: self.layer(x).detach())}, "do not depend on its trainable parameters"),
        ({"model": Wrapped(lambda self, x: self.layer(x).detach()), "statistics": "full"}, "do not depend on"),
        ({"model": Wrapped(lambda self, x: self.layer(x).mean())}, r"the model gives shape \(\)"),
        ({"model": Wrapped(lambda self, x: self.layer(x) * x.abs().max().item())}, r"vmap.*no \.item\(\)"),
        ({"model": Wrapped(lambda self, x: self.layer(x if x.sum() > 0 else -x))}, "no branch on values"),
        ({"model": Wrapped(counting)}, "no change of a buffer in place"),
        ({"model": Wrapped(counted)}, "remembers earlier calls"),
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

    def length(output, target):
        return (output - target).square().sum(dim=1).sqrt()

    noise = GradientNoise(model, length, (inputs, targets))
    with pytest.raises(ValueError, match="'weight': not finite at sample 7"):
        noise.spectrum()


def test_memory_is_refused_before_it_is_taken(monkeypatch):
    from sde_sgd import _memory

    noise = GradientNoise(linear_net(), nn.CrossEntropyLoss(), problem())
    monkeypatch.setattr(_memory, "available_bytes", lambda: 10_000)
    with pytest.raises(ValueError, match="40 × 40 Gram matrix needs about"):
        noise.gram()
    with pytest.raises(ValueError, match="53 × 53 matrix D"):
        noise.matrix()
    monkeypatch.setattr(_memory, "available_bytes", lambda: 2 * 32 * 53 * 2)  # room for two vectors
    assert noise._require_vectors(2) is None
    with pytest.raises(ValueError, match=r"3 eigenvectors of 53 weights needs about .*; ask for fewer"):
        noise.eigenpairs(3)


def test_sequences_are_known_to_take_the_memory_of_whole_gradients(monkeypatch):
    """A Linear on vectors keeps in + out numbers a sample, on sequences in · out."""
    from sde_sgd import _memory

    data = problem(30)
    wide = [nn.Linear(6, 60), nn.Tanh(), nn.Linear(60, 60), nn.Tanh(), nn.Linear(60, 3)]
    torch.manual_seed(0)
    flat = GradientNoise(nn.Sequential(*wide).double(), nn.CrossEntropyLoss(), data)
    steps = nn.Sequential(nn.Unflatten(1, (1, 6)), *wide, nn.Flatten(1)).double()
    sequences = GradientNoise(steps, nn.CrossEntropyLoss(), data)
    assert [layer.numbers for layer in flat._plain_layers] == [66, 120, 63]
    assert [layer.numbers for layer in sequences._plain_layers] == [420, 3660, 183]
    np.testing.assert_allclose(sequences.gram(), flat.gram(), rtol=0, atol=1e-12)
    monkeypatch.setattr(_memory, "available_bytes", lambda: 200_000)
    flat.gram()
    with pytest.raises(ValueError, match="30 × 30 Gram matrix needs about"):
        sequences.gram()


@pytest.mark.parametrize("rows", [0, 2.5, "a"])
def test_a_chunk_holds_whole_samples(rows):
    noise = GradientNoise(linear_net(), nn.CrossEntropyLoss(), problem())
    with pytest.raises(ValueError, match="rows must be a whole number >= 1"):
        noise.sample_gradients(rows=rows)


def test_a_bad_label_of_a_class_not_probed_is_still_told_in_words(monkeypatch):
    inputs, targets = problem()
    targets[20] = 7
    monkeypatch.setattr(samples_module, "telling_rows", lambda targets: [0, 1])
    noise = GradientNoise(linear_net(), nn.CrossEntropyLoss(), (inputs, targets))
    with pytest.raises(ValueError, match="the gradients of samples 0 to 39 cannot be computed"):
        noise.spectrum()


def test_infinite_but_not_nan_rows_are_found():
    rows = torch.ones(4, 2, dtype=torch.float64)
    rows[2] = torch.tensor([float("inf"), float("-inf")])
    with pytest.raises(ValueError, match="sample 12"):
        samples_module.require_finite(rows, "rows", first_sample=10)
    samples_module.require_finite(torch.full((2, 1), 1e308, dtype=torch.float64), "large but finite")
