"""Batch norm makes three matrices of one network; which of them SGD feels, and randomness that would hide it."""

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn

from sde_sgd.validation import GradientNoise, digits
from sde_sgd.validation.diffusion_matrix import factor, product


def clusters(samples=600, classes=4, size=12):
    """Overlapping clusters of unequal width, of unequal scale along the axes."""
    generator = torch.Generator().manual_seed(5)
    targets = torch.randint(classes, (samples,), generator=generator)
    centres = torch.randn(classes, size, generator=generator, dtype=torch.float64)
    spread = torch.randn(samples, size, generator=generator, dtype=torch.float64) * (0.3 + targets[:, None])
    return (centres[targets] + 0.5 * spread) * torch.logspace(-1, 1, size, dtype=torch.float64), targets


def small_fc(batch_norm=True, data=None, hidden=8):
    """A classifier after three epochs of SGD in training mode, with its data."""
    inputs, targets = clusters() if data is None else data
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        norm = [nn.BatchNorm1d(hidden)] if batch_norm else []
        layers = nn.Linear(inputs.shape[1], hidden), *norm, nn.ReLU(), nn.Linear(hidden, int(targets.max()) + 1)
        model = nn.Sequential(*layers).double()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(3):
            for rows in torch.randperm(len(inputs)).split(32):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs[rows]), targets[rows]).backward()
                optimizer.step()
    return model, (inputs, targets)


def measured(model, data, size, count, seed=77):
    """b·Cov of the gradients of independent mini-batches, from ``backward`` in training mode alone; one a row too."""
    model = copy.deepcopy(model).train()
    generator, rows = torch.Generator().manual_seed(seed), []
    for _ in range(count):
        chosen = torch.randint(len(data[0]), (size,), generator=generator)
        model.zero_grad()
        nn.functional.cross_entropy(model(data[0][chosen]), data[1][chosen]).backward()
        rows.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    gradients = torch.stack(rows).numpy()
    residuals = gradients - gradients.mean(axis=0)
    return size * residuals.T @ residuals / (count - 1), gradients


def cosine(one, other):
    return float((one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other))


def with_exact_statistics(model, inputs):
    """Running averages replaced by those of all the data, as eval mode would like them."""
    model = copy.deepcopy(model)
    hidden = model[0](inputs).detach()
    model[1].running_mean.copy_(hidden.mean(dim=0))
    model[1].running_var.copy_(hidden.var(dim=0, unbiased=False))
    return model


def test_batches_are_those_drawn_and_their_matrix_is_that_of_a_loop():
    model, data = small_fc(hidden=4)
    noise = GradientNoise(model, nn.CrossEntropyLoss(), data, statistics="minibatch", batch_size=8, batches=40, seed=77)
    expected, rows = measured_like(model, data, noise)
    np.testing.assert_allclose(torch.cat(list(noise.sample_gradients(rows=7))).numpy(), rows, atol=1e-12)
    np.testing.assert_allclose(noise.matrix(), expected, rtol=0, atol=1e-12)
    along = np.linspace(-1, 1, noise.parameters)
    np.testing.assert_allclose(noise @ along, expected @ along, rtol=0, atol=1e-12)
    np.testing.assert_allclose(noise.mean_gradient(), rows.mean(axis=0), atol=1e-12)
    values = np.linalg.eigvalsh(expected)[::-1]
    assert len(noise.spectrum()) == 39 and (np.abs(values[39:]) < 1e-12 * values[0]).all()
    for method in ("gram", "matrix", "lanczos"):
        np.testing.assert_allclose(noise.spectrum(5, method=method), values[:5], rtol=1e-9)
    pairs = noise.eigenpairs(3)
    assert (pairs["residuals"] < 1e-12).all()
    assert pairs.attrs | {"statistics": "minibatch", "batch_size": 8, "batches": 40, "seed": 77} == pairs.attrs
    assert noise.sample(8).shape == (noise.parameters,)
    with pytest.raises(ValueError, match="measured at batch size 8 only"):
        noise.sample(16)


def measured_like(model, data, noise):
    model, rows = copy.deepcopy(model).train(), []
    for chosen in noise._losses.batches:
        model.zero_grad()
        nn.functional.cross_entropy(model(data[0][chosen]), data[1][chosen]).backward()
        rows.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    rows = torch.stack(rows).numpy()
    residuals = rows - rows.mean(axis=0)
    return noise.batch_size * residuals.T @ residuals / (len(rows) - 1), rows


def test_real_mini_batches_show_which_statistics_are_theirs():
    """Other batches, another program. With participation ratio r of D, two estimates from M and M' batches have
    cosine about 1 − r/2M − r/2M' = 0.99 here, and a spread far below the 0.04 that is left."""
    model, data = small_fc()
    truth, _ = measured(model, data, 32, 1000)
    loss = nn.CrossEntropyLoss()
    real = GradientNoise(model, loss, data, statistics="minibatch", batch_size=32, batches=1500, seed=1)
    assert cosine(real.matrix(), truth) > 0.95
    assert real.trace() == pytest.approx(np.trace(truth), rel=0.1)
    frozen = GradientNoise(model, loss, data)
    assert cosine(frozen.matrix(), truth) < 0.8
    exact = GradientNoise(with_exact_statistics(model, data[0]), loss, data)
    assert cosine(exact.matrix(), truth) < 0.8
    small = GradientNoise(model, loss, data, statistics="minibatch", batch_size=4, batches=1500, seed=1)
    assert cosine(small.matrix(), truth) < 0.8  # it depends on the batch size


@pytest.mark.evidence(table="batch_norm_noise")
def test_batch_norm_evidence(table):
    loss, rows, images = nn.CrossEntropyLoss(), [], digits(8, range(10))
    data = images.inputs.flatten(1), images.targets
    for batch_norm in (True, False):
        model, _ = small_fc(batch_norm, data, 16)
        truth, gradients = measured(model, data, 32, 8000)
        mean = gradients.mean(axis=0)
        cases = [("eval, running averages of training", model, {}), ("full", model, {"statistics": "full"})]
        if batch_norm:
            cases.insert(1, ("eval, statistics of all data", with_exact_statistics(model, data[0]), {}))
        for size in (32, 4):
            options = {"statistics": "minibatch", "batch_size": size, "batches": 4000, "seed": 1}
            cases.append((f"minibatch, b = {size}", model, options))
        for name, used, options in cases:
            noise = GradientNoise(used, loss, data, **options)
            dense = noise.matrix()
            angle = cosine(dense, truth)
            bias = np.linalg.norm(noise.mean_gradient().numpy() - mean) / np.linalg.norm(mean)
            ratio = np.trace(dense) / np.trace(truth)
            rows.append(["yes" if batch_norm else "no", name, f"{angle:.3f}", f"{ratio:.2f}", f"{bias:.2f}"])
            if not batch_norm or name == "minibatch, b = 32":
                assert angle > 0.95 and 0.9 < ratio < 1.1
            elif not name.startswith("full"):
                assert angle < 0.9
    table(
        "Which matrix is the noise of SGD with batch norm",
        ["batch norm", "statistics", "cosine with measured", "trace / measured", "bias of the mean gradient"],
        rows,
        "small-fc (64-16-10) on the digits after three epochs; measured: b·Cov of 8000 independent mini-batch "
        "gradients of 32 in training mode. Bias: relative distance of the mean gradient from that of the mini-batches.",
    )


@pytest.mark.parametrize(
    "options", [{}, {"statistics": "full"}, {"statistics": "minibatch", "batch_size": 4, "batches": 30}]
)
def test_factors_are_those_of_the_matrix_and_asked_for_first(options, monkeypatch):
    """What the experiment compares: A with AᵀA = D, and tr(D₁D₂) from two of them."""
    from sde_sgd import _memory

    model, data = small_fc(hidden=4)
    noise = GradientNoise(model, nn.CrossEntropyLoss(), tuple(t[:40] for t in data), **options)
    rows, dense = factor(noise), noise.matrix()
    np.testing.assert_allclose(rows.T @ rows, dense, rtol=0, atol=1e-12)
    assert product(rows, rows[:7]) == pytest.approx(np.sum(dense * (rows[:7].T @ rows[:7])), rel=1e-12)
    monkeypatch.setattr(_memory, "available_bytes", lambda: 10_000)
    with pytest.raises(ValueError, match=rf"{len(rows)} gradients of {len(dense)} weights needs .* lower batches"):
        factor(noise)


def test_without_batch_norm_full_is_eval():
    model, data = small_fc(batch_norm=False, hidden=4)
    data = tuple(t[:50] for t in data)
    loss = nn.CrossEntropyLoss()
    full, frozen = GradientNoise(model, loss, data, statistics="full"), GradientNoise(model, loss, data)
    np.testing.assert_allclose(full.matrix(), frozen.matrix(), rtol=0, atol=1e-14)
    np.testing.assert_allclose(full.spectrum(), frozen.spectrum(), rtol=0, atol=1e-13)
    along = np.linspace(-1, 1, full.parameters)
    np.testing.assert_allclose(full @ along, frozen @ along, rtol=0, atol=1e-14)


def test_full_rows_average_to_the_gradient_in_training_mode():
    model, data = small_fc(hidden=4)
    data, before = tuple(t[:50] for t in data), {k: v.clone() for k, v in model.state_dict().items()}
    full = GradientNoise(model, nn.CrossEntropyLoss(), data, statistics="full")
    rows = torch.cat(list(full.sample_gradients()))
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())  # not the caller's
    plain = copy.deepcopy(model).train()
    nn.functional.cross_entropy(plain(data[0]), data[1]).backward()
    expected = torch.cat([p.grad.flatten() for p in plain.parameters()])
    torch.testing.assert_close(rows.mean(dim=0), expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(full.mean_gradient(), expected, rtol=0, atol=1e-13)
    residuals = (rows - expected).numpy()
    np.testing.assert_allclose(full.gram(centred=True), residuals @ residuals.T, rtol=0, atol=1e-12)
    frozen = GradientNoise(model, nn.CrossEntropyLoss(), data)
    assert (frozen.mean_gradient() - expected).norm() > 0.1 * expected.norm()


class Frozen(nn.Module):
    """Batch norm that stays in eval mode while the rest trains, as in fine-tuning."""

    def __init__(self, freeze=True):
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3)).double()
        self.layers[1].running_var.uniform_(0.5, 2.0)
        self.freeze = freeze

    def train(self, mode=True):
        super().train(mode)
        if self.freeze:
            self.layers[1].eval()
        return self

    def forward(self, x):
        return self.layers(x)


@pytest.mark.parametrize("freeze", [True, False])
def test_frozen_batch_norm_stays_frozen_in_training_mode(freeze):
    state = torch.random.get_rng_state()
    model, loss, data = Frozen(freeze), nn.CrossEntropyLoss(), problem()
    torch.random.set_rng_state(state)
    full = GradientNoise(model, loss, data, statistics="full")
    apart = np.abs(full.matrix() - GradientNoise(model, loss, data).matrix()).max()
    real = GradientNoise(model, loss, data, statistics="minibatch", batch_size=4, batches=30)
    expected, _ = measured_like(model, data, real)
    np.testing.assert_allclose(real.matrix(), expected, rtol=0, atol=1e-12)
    assert apart < 1e-14 if freeze else apart > 0.01


# Randomness and memory of the model itself ------------------------------------------------------------------------


class Random(nn.Module):
    """Noise on one input in a hundred, from the stream that is named: two evaluations are equal by chance."""

    def __init__(self, source):
        super().__init__()
        self.layer, self.source = nn.Linear(6, 3).double(), source

    def forward(self, x):
        draw = {"torch": lambda: torch.rand(()), "NumPy": np.random.rand, "random": random.random}[self.source]
        return self.layer(x) + (1.0 if float(draw()) < 1e-9 else 0.0)


def problem(samples=20):
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(samples, 6, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(3, (samples,), generator=generator)


@pytest.mark.parametrize("source", ["torch", "NumPy", "random"])
@pytest.mark.parametrize("statistics", ["eval", "full"])
def test_rare_randomness_is_seen_by_its_stream(source, statistics):
    states = torch.random.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    model = Random(source)
    torch.random.set_rng_state(states[0])
    with pytest.raises(ValueError, match=rf"forward pass draws random numbers \({source}\)"):
        GradientNoise(model, nn.CrossEntropyLoss(), problem(), statistics=statistics)
    assert torch.equal(torch.random.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all() and random.getstate() == states[2]  # noqa: NPY002


@pytest.mark.parametrize("options", [{"statistics": "full"}, {"statistics": "minibatch", "batch_size": 4}])
def test_dropout_is_refused_in_training_mode_and_frozen_in_eval_mode(options):
    model = nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.1), nn.Linear(4, 3)).double()
    GradientNoise(model, nn.CrossEntropyLoss(), problem())
    with pytest.raises(ValueError, match=r"in training mode .* such as its dropout layers '1'"):
        GradientNoise(model, nn.CrossEntropyLoss(), problem(), **options)
    model[1].p = 0.0
    GradientNoise(model, nn.CrossEntropyLoss(), problem(), **options)


def test_what_remembers_in_training_mode_is_refused():
    model = nn.Sequential(torch.nn.utils.spectral_norm(nn.Linear(6, 3))).double()
    with pytest.raises(ValueError, match=r"changes its buffers '0\.weight_u'"):
        GradientNoise(model, nn.CrossEntropyLoss(), problem(), statistics="full")


def test_a_batch_too_small_for_its_norm_is_told():
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).double()
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        GradientNoise(model, nn.CrossEntropyLoss(), problem(), statistics="minibatch", batch_size=1)


def test_one_pass_over_all_samples_is_refused_where_it_does_not_fit(monkeypatch):
    from sde_sgd import _memory

    monkeypatch.setattr(_memory, "available_bytes", lambda: 10_000)
    with pytest.raises(ValueError, match="one forward pass over all samples in training mode needs about"):
        GradientNoise(nn.Linear(6, 3).double(), nn.CrossEntropyLoss(), problem(200), statistics="full")
