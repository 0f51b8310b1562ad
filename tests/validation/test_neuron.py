"""The two-weight network as a torch module against the core's finite sum and its SGD kernel."""

import numpy as np
import pytest
import torch
from torch import nn

import sde_sgd
from sde_sgd.validation import GradientNoise, Neuron, replay_sgd


@pytest.fixture(scope="module")
def neuron():
    return sde_sgd.landscapes.get("neuron")


def half_square(output, target):
    return (output - target).square().sum() / 2


@pytest.mark.parametrize("point", [(0.15, -0.35), (-2.0, 1.3), (3.0, -4.0)])
def test_gradients_and_diffusion_are_the_finite_sums(neuron, point):
    x, y = (torch.tensor(neuron.data[name]) for name in ("x", "y"))
    decay = neuron.parameters["weight_decay"]
    model, theta = Neuron(*point), np.array(point)
    noise = GradientNoise(model, half_square, (x, y))
    gradients = torch.cat(list(noise.sample_gradients())).numpy()
    np.testing.assert_allclose(gradients + decay * theta, neuron.sample_gradients(theta), atol=1e-12)
    # Weight decay is the same for every sample: it shifts the gradient and leaves D alone.
    np.testing.assert_allclose(gradients.mean(axis=0) + decay * theta, neuron.gradient(theta), atol=1e-12)
    np.testing.assert_allclose(noise.matrix(), neuron.diffusion(theta), atol=1e-12)
    np.testing.assert_allclose(noise.spectrum()[::-1], np.linalg.eigvalsh(neuron.diffusion(theta)), atol=1e-12)
    loss = half_square(model(x), y).item() / len(x) + decay / 2 * theta @ theta
    assert loss == pytest.approx(float(neuron.loss(theta)), abs=1e-12)


def test_replay_is_the_recursion_written_out():
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=20), generator.choice([-1.0, 1.0], size=20)
    indices = generator.integers(20, size=(200, 3))
    trajectory = replay_sgd(indices, x, y, [0.3, -0.1], learning_rate=0.2, weight_decay=0.05)
    w, c = 0.3, -0.1
    for step, chosen in enumerate(indices, start=1):
        p = np.tanh(w * x[chosen] + c)
        slope = (p - y[chosen]) * (1 - p**2)
        w, c = w - 0.2 * ((slope * x[chosen]).mean() + 0.05 * w), c - 0.2 * (slope.mean() + 0.05 * c)
        np.testing.assert_allclose(trajectory[step], [w, c], atol=1e-13)
    without = replay_sgd(indices, x, y, [0.3, -0.1], learning_rate=0.2, weight_decay=0.0)
    assert np.abs(without - trajectory).max() > 0.01


@pytest.mark.skipif(not hasattr(sde_sgd, "sgd"), reason="the core has no SGD kernel")
@pytest.mark.parametrize("batch_size", [pytest.param(1, marks=pytest.mark.evidence), 4])
def test_kernel_and_torch_agree_over_ten_thousand_steps(neuron, batch_size):
    start, steps, rate = [0.15, -0.35], 10_000, 0.1
    indices = sde_sgd.sample_indices(neuron.samples, batch_size=batch_size, steps=steps, replica=0, seed=3)
    trajectory = replay_sgd(
        indices,
        neuron.data["x"],
        neuron.data["y"],
        start,
        learning_rate=rate,
        weight_decay=neuron.parameters["weight_decay"],
    )
    run = sde_sgd.sgd(
        neuron,
        start,
        learning_rate=rate,
        batch_size=batch_size,
        steps=steps,
        replicas=1,
        seed=3,
        save_every=1,
    )
    kernel = np.stack([run[name].sel(replica=0) for name in ("w", "c")], axis=-1)
    np.testing.assert_allclose(kernel, trajectory, rtol=0, atol=1e-12)


def test_module_is_an_ordinary_one():
    model = Neuron(0.5, -1.0)
    assert [name for name, _ in model.named_parameters()] == ["w", "c"]
    assert nn.utils.parameters_to_vector(model.parameters()).tolist() == [0.5, -1.0]
    assert model(torch.zeros(3, dtype=torch.float64)).shape == (3,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"indices": np.zeros((3, 2, 1), int)}, r"\(3, 2, 1\)"),
        ({"indices": np.zeros((3, 1))}, "float64"),
        ({"indices": np.full((3, 1), 5)}, "there are 5 samples"),
        ({"start": [1.0]}, r"start must have shape \(2,\)"),
        ({"start": [1.0, np.nan]}, "start must be finite"),
        ({"x": [1.0, np.nan, 1.0, 1.0, 1.0]}, r"x must be finite, got nan at index \(1,\)"),
        ({"y": ["a"] * 5}, "y must be an array of real numbers"),
        ({"y": np.ones(4)}, "one length"),
        ({"learning_rate": 0.0}, "learning_rate must be a finite number > 0"),
        ({"learning_rate": "a"}, "learning_rate must be a finite number > 0"),
        ({"weight_decay": -1.0}, "weight_decay must be a number >= 0"),
        ({"learning_rate": 1e200, "weight_decay": 1e200}, "after step 1"),
    ],
)
def test_replay_refuses(changes, message):
    settings = {
        "indices": np.zeros((3, 1), int),
        "x": np.ones(5),
        "y": np.ones(5),
        "start": [1.0, 1.0],
        "learning_rate": 0.1,
        "weight_decay": 0.0,
    } | changes
    with pytest.raises(ValueError, match=message):
        replay_sgd(**settings)
