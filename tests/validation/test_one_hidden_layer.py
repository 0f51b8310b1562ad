"""The compiled recursion of one-hidden-layer networks against autograd and torch.optim.SGD on the same draws."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector

import sde_sgd as sde
from sde_sgd.validation import OneHiddenLayer, digits, tiny_fc, trajectory

STEPS, BATCH = 20, 7


@pytest.fixture(scope="module")
def data():
    split = digits(size=4, classes=(0, 1, 2))
    return split.inputs[:50], split.targets[:50]


def model_of(activation=nn.ReLU, outputs=3, seed=1):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 6), activation(), nn.Linear(6, outputs)).double()


def by_torch(model, data, rates, sampling, criterion, seed=3, **options):
    """The weights after each step, by autograd and torch.optim.SGD."""
    inputs, targets = data
    picks = sde.sample_indices(len(inputs), batch_size=BATCH, steps=STEPS, seed=seed, sampling=sampling)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, **options)
    states, losses = [], []
    for rate, batch in zip(rates, picks):
        batch = torch.from_numpy(batch[batch >= 0])
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        loss = criterion(model(inputs[batch]), targets[batch])
        loss.backward()
        optimizer.step()
        states.append(parameters_to_vector(model.parameters()).detach().numpy().copy())
        losses.append(loss.item())
    return np.array(states), np.array(losses)


OPTIONS = [
    {}, {"weight_decay": 0.02}, {"momentum": 0.9}, {"momentum": 0.8, "nesterov": True, "weight_decay": 0.01},
]  # fmt: skip


@pytest.mark.parametrize("sampling", ["with_replacement", "without_replacement", "reshuffling"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_steps_are_those_of_torch(data, sampling, options):
    model, rates = model_of(), np.linspace(0.3, 0.1, STEPS)
    network = OneHiddenLayer(model, *data, learning_rate=rates, batch_size=BATCH, sampling=sampling, seed=3, **options)
    found, losses = network.run(STEPS, np.eye(len(network.weights)))
    states, expected = by_torch(model, data, rates, sampling, nn.functional.cross_entropy, **options)
    np.testing.assert_allclose(found, states, atol=1e-12)
    np.testing.assert_allclose(losses, expected, atol=1e-12)
    np.testing.assert_array_equal(network.weights, found[-1])
    other = OneHiddenLayer(model_of(), *data, learning_rate=rates, batch_size=BATCH, sampling=sampling, seed=4)
    assert np.abs(other.run(STEPS, np.eye(len(network.weights)))[0] - states).max() > 1e-3


def test_squared_loss_and_tanh(data):
    inputs, labels = data
    targets = nn.functional.one_hot(labels, 3).double() + 0.1
    model = model_of(nn.Tanh)
    network = OneHiddenLayer(model, inputs, targets, learning_rate=0.2, batch_size=BATCH, loss="mse", seed=3)
    found, losses = network.run(STEPS, np.eye(len(network.weights)))
    states, expected = by_torch(model, (inputs, targets), [0.2] * STEPS, "with_replacement", nn.functional.mse_loss)
    np.testing.assert_allclose(found, states, atol=1e-12)
    np.testing.assert_allclose(losses, expected, atol=1e-12)


def network_of(data, **options):
    return OneHiddenLayer(model_of(), *data, **{"learning_rate": 0.1, "batch_size": BATCH, "momentum": 0.5, **options})


def test_any_way_of_cutting_gives_the_same_bits(data, tmp_path):
    directions = np.random.default_rng(0).normal(size=(2, len(network_of(data).weights)))
    whole = trajectory(network_of(data), 100, directions, every=3, snapshot_every=8)
    assert whole["state"].shape == (1, 33, 2) and whole["weights"].shape[0] == 12
    assert whole["snapshot_step"].values.tolist() == list(range(8, 97, 8)) and whole["step"].values[0] == 3
    np.testing.assert_allclose(whole["time"], 0.1 * whole["step"])

    def stop(done, total):
        if done >= 60:
            raise KeyboardInterrupt

    options = dict(every=3, snapshot_every=8, folder=tmp_path, chunk=30)
    with pytest.raises(KeyboardInterrupt):
        trajectory(network_of(data), 100, directions, progress=stop, **options)
    assert len(list(tmp_path.glob("*.npz"))) == 2
    seen = []
    again = network_of(data)
    resumed = trajectory(again, 100, directions, progress=lambda done, total: seen.append(done), **options)
    for name in ("state", "loss", "weights"):
        np.testing.assert_array_equal(resumed[name], whole[name])
    assert again.step == 100 and seen == [30, 60, 90, 100]
    with pytest.raises(ValueError, match="another run"):
        trajectory(network_of(data, seed=1), 100, directions, **options)


def test_the_folder_of_another_network_is_refused(data, tmp_path):
    """The same weights and another activation: once taken for the same run, with the numbers of the wrong one."""
    directions = np.eye(len(network_of(data).weights))[:1]
    trajectory(network_of(data), 10, directions, folder=tmp_path)
    other = OneHiddenLayer(model_of(nn.Tanh), *data, learning_rate=0.1, batch_size=BATCH, momentum=0.5)
    with pytest.raises(ValueError, match="another run"):
        trajectory(other, 10, directions, folder=tmp_path)
    assert network_of(data).question() == network_of(data).question() != network_of(data).question(1)
    assert len({one.question() for one in (network_of(data), other, network_of((data[0] * 2, data[1])))}) == 3


def test_a_nudge_moves_the_weights_and_not_the_velocity(data):
    """In the order of parameters_to_vector; the next step is torch's from there."""
    step = np.random.default_rng(3).normal(size=123)
    network = network_of(data, momentum=0.0)
    before = network.weights
    network.nudge(step)
    np.testing.assert_array_equal(network.weights, before + step)
    model = model_of()
    torch.nn.utils.vector_to_parameters(torch.from_numpy(before + step), model.parameters())
    states, _ = by_torch(model, data, [0.1], "with_replacement", nn.functional.cross_entropy, seed=0)
    network.run(1)
    np.testing.assert_allclose(network.weights, states[0], atol=1e-14)
    one, two = network_of(data), network_of(data)
    one.run(5)
    two.restore(one.state, one.step)
    two.nudge(step)
    assert two.step == 5 and np.array_equal(one.state[1], two.state[1]) and one.state[1].any()
    with pytest.raises(ValueError, match=r"displacement must have shape \(123,\)"):
        network.nudge(step[:5])


def test_weights_go_back_into_a_model(data):
    network, model = network_of(data), model_of(seed=9)
    network.run(5)
    network.load_into(model)
    np.testing.assert_array_equal(parameters_to_vector(model.parameters()).detach().numpy(), network.weights)
    assert network.steps_per_epoch == 8


def test_divergence_names_the_step(data):
    with pytest.raises(sde.Diverged, match=r"by step \d+; lower learning_rate=1e\+08"):
        network_of(data, learning_rate=1e8, weight_decay=0.1, momentum=0.0).run(1000)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": nn.Linear(3, 3)}, "Sequential"),
        ({"model": nn.Sequential(nn.Linear(16, 3))}, "Linear, ReLU or Tanh"),
        ({"model": nn.Sequential(nn.Linear(16, 3), nn.Sigmoid(), nn.Linear(3, 3))}, "ReLU or Tanh"),
        ({"model": model_of().float()}, "float64"), ({"targets": torch.zeros(50)}, "labels from 0 to 2"),
        ({"targets": torch.full((50,), 3)}, "labels from 0 to 2"), ({"loss": "mse"}, "for mse"),
        ({"inputs": torch.zeros(50, 15)}, "16 numbers"), ({"batch_size": 51}, "batch_size"),
        ({"learning_rate": -1.0}, "learning_rate"), ({"nesterov": True}, "momentum"),
        ({"nesterov": "no", "momentum": 0.5}, "True or False"), ({"seed": -1}, "seed"),
        ({"model": model_of().requires_grad_(False)}, "trainable"), ({"sampling": "all"}, "sampling"),
        ({"model": nn.Sequential(nn.Linear(16, 3, bias=False), nn.ReLU(), nn.Linear(3, 3)).double()}, "bias"),
    ],
)  # fmt: skip
def test_bad_arguments(data, change, words):
    given = {
        "model": model_of(),
        "inputs": data[0],
        "targets": data[1],
        "learning_rate": 0.1,
        "batch_size": 5,
        **change,
    }
    with pytest.raises(ValueError, match=words):
        OneHiddenLayer(given.pop("model"), given.pop("inputs"), given.pop("targets"), **given)


def test_bad_directions_and_too_few_rates(data):
    with pytest.raises(ValueError, match=r"shape \(k, 123\)"):
        network_of(data).run(3, np.zeros((2, 5)))
    with pytest.raises(ValueError, match="holds 2 steps"):
        network_of(data, learning_rate=[0.1, 0.1]).run(3)


def test_it_learns_the_digits():
    split = digits()
    model = tiny_fc()
    network = OneHiddenLayer(model, split.inputs, split.targets, learning_rate=0.3, batch_size=32)
    network.run(30 * network.steps_per_epoch)
    network.load_into(model)
    with torch.no_grad():
        hits = model(split.test_inputs).argmax(1) == split.test_targets
    assert float(hits.double().mean()) > 0.95
