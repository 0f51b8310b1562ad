"""Data, training and the digits' gradient noise over training."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector

import sde_sgd as sde
from sde_sgd.validation import OneHiddenLayer, digits, digits_spectra, tiny_fc, train_sgd


def test_importing_the_wing_does_not_import_torch():
    code = "import sys, sde_sgd.validation as v; assert v.__all__; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_torch_is_explained():
    code = "import sys; sys.modules['torch'] = None; import sde_sgd.validation as v; v.GradientNoise"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode != 0
    assert "GradientNoise needs torch: install the extra, sde-sgd[networks]" in run.stderr.splitlines()[-1]


@pytest.mark.parametrize(("size", "dtype"), [(7, torch.float64), (8, torch.float32)])
def test_digits_shapes_range_and_split(size, dtype):
    data = digits(size, (3, 0, 9), seed=4, test_fraction=0.25, dtype=dtype)
    total = len(data.inputs) + len(data.test_inputs)
    assert data.inputs.shape[1:] == data.test_inputs.shape[1:] == (1, size, size)
    assert len(data.test_inputs) == round(0.25 * total) and total == 183 + 178 + 180
    assert data.inputs.dtype == dtype and data.targets.dtype == torch.int64
    assert float(data.inputs.min()) >= 0.0 and float(data.inputs.max()) <= 1.0
    counts = torch.bincount(torch.cat([data.targets, data.test_targets]))
    assert counts.tolist() == [183, 178, 180]  # labels are positions in `classes`
    again = digits(size, (3, 0, 9), seed=4, test_fraction=0.25, dtype=dtype)
    assert all(torch.equal(a, b) for a, b in zip(data, again))
    assert not torch.equal(data.inputs, digits(size, (3, 0, 9), seed=5, test_fraction=0.25, dtype=dtype).inputs)


def test_pooling_to_seven_keeps_the_mean_of_a_constant_image():
    """Area averages of an image lie between its extremes, and 7 × 7 differs from dropping a row."""
    seven, eight = digits(7, test_fraction=0.0), digits(8, test_fraction=0.0)
    assert torch.equal(seven.targets, eight.targets)
    assert (seven.inputs.amax((1, 2, 3)) <= eight.inputs.amax((1, 2, 3))).all()
    expected = nn.functional.adaptive_avg_pool2d(eight.inputs, 7)
    np.testing.assert_allclose(seven.inputs.numpy(), expected.numpy(), atol=1e-15)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 9}, "size must be a whole number from 2 to 8"),
        ({"classes": (1,)}, "two distinct"),
        ({"classes": (1, 1)}, "two distinct"),
        ({"classes": (1, 12)}, "from 0 to 9"),
        ({"classes": 3}, "sequence of labels"),
        ({"test_fraction": 1.0}, "test_fraction must be a number >= 0 and < 1"),
        ({"test_fraction": "a"}, "test_fraction must be"),
        ({"test_fraction": 0.9999}, "leaves none to train on"),
        ({"seed": 2.5}, "seed must be a whole number"),
        ({"dtype": torch.int64}, "float64"),
    ],
)
def test_digits_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        digits(**arguments)


def small_problem():
    data = digits(7, (0, 1))
    return tiny_fc(classes=2, hidden=3, seed=1), data.inputs[:50], data.targets[:50]


@pytest.mark.parametrize("sampling", ["with_replacement", "reshuffling"])
def test_training_is_the_same_bits_twice(sampling):
    runs = []
    for _ in range(2):
        torch.manual_seed(len(runs))  # the global stream must not matter
        model, inputs, targets = small_problem()
        runs.append(
            train_sgd(
                model,
                inputs,
                targets,
                epochs=3,
                learning_rate=0.02,
                batch_size=8,
                sampling=sampling,
                momentum=0.9,
                nesterov=True,
                weight_decay=1e-3,
                snapshots=(0, 1, 3),
                seed=7,
            )
        )
    assert runs[0].identical(runs[1])
    assert runs[0].epoch.values.tolist() == [0, 1, 3]
    assert runs[0].loss[-1] < runs[0].loss[0]
    np.testing.assert_array_equal(runs[0].weights[-1], parameters_to_vector(model.parameters()).detach().numpy())
    assert runs[0].weights.shape == (3, 49 * 3 + 3 + 3 * 2 + 2)


def test_full_batch_reshuffling_is_gradient_descent_by_hand():
    model, inputs, targets = small_problem()
    reference, _, _ = small_problem()
    run = train_sgd(model, inputs, targets, epochs=4, learning_rate=0.3, batch_size=50, sampling="reshuffling")
    for _ in range(4):
        gradients = torch.autograd.grad(nn.functional.cross_entropy(reference(inputs), targets), reference.parameters())
        with torch.no_grad():
            for parameter, gradient in zip(reference.parameters(), gradients):
                parameter -= 0.3 * gradient
    np.testing.assert_allclose(run.weights[-1], parameters_to_vector(reference.parameters()).detach(), atol=1e-12)


def test_regression_has_no_accuracy_and_divergence_is_named():
    model = nn.Linear(2, 1, dtype=torch.float64)
    inputs = torch.randn(20, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    targets = inputs.sum(dim=1, keepdim=True)
    run = train_sgd(model, inputs, targets, epochs=50, learning_rate=0.1, batch_size=5, loss=nn.functional.mse_loss)
    assert "accuracy" not in run and run.loss[-1] < 1e-3
    with pytest.raises(sde.Diverged, match=r"after step \d+ .*: lower learning_rate=10") as fault:
        train_sgd(model, inputs, targets, epochs=400, learning_rate=10.0, batch_size=5, loss=nn.functional.mse_loss)
    assert 100 < fault.value.step < 1600 and fault.value.path == 0
    assert all(parameter.grad is None for parameter in model.parameters())


OPTIONS = [{}, {"momentum": 0.8, "nesterov": True, "weight_decay": 0.01}]


@pytest.mark.parametrize("sampling", ["with_replacement", "without_replacement", "reshuffling"])
@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "nesterov"])
def test_the_compiled_loop_of_one_hidden_layer_takes_the_same_steps(sampling, options):
    model, inputs, targets = small_problem()
    rates = np.linspace(0.3, 0.1, 20)
    options = {"learning_rate": rates, "batch_size": 7, "sampling": sampling, "seed": 3, **options}
    other = OneHiddenLayer(model, inputs, targets, **options)
    other.run(20)
    run = train_sgd(model, inputs, targets, steps=20, **options)
    np.testing.assert_allclose(run.weights[-1], other.weights, atol=1e-12)
    assert run.epoch.values.tolist() == [0.0, 2.5] and run.step.values.tolist() == [0, 20]
    model, inputs, targets = small_problem()
    unlike = train_sgd(model, inputs, targets, steps=20, replica=1, **options)
    assert np.abs(unlike.weights[-1] - other.weights).max() > 1e-3


@pytest.mark.parametrize("svag", [1, 3])
def test_a_linear_model_follows_the_recursion_of_the_core(svag):
    """Per-sample squared losses of one weight vector: the same draws, the same steps as `sde_sgd.sgd`."""
    data = np.random.default_rng(0).normal(size=(40, 3))
    inputs, targets = torch.from_numpy(data[:, :2].copy()), torch.from_numpy(data[:, 2:].copy())
    model = nn.Linear(2, 1, bias=False, dtype=torch.float64)
    start = parameters_to_vector(model.parameters()).detach().numpy().copy()
    picks = sde.sample_indices(40, batch_size=4, steps=12, seed=5, svag=svag).reshape(12, -1, 4)
    spread = np.sqrt(2 * svag - 1)
    shares = [1.0] if svag == 1 else [(1 + spread) / 2, (1 - spread) / 2]
    expected = start.copy()
    for step in picks:
        pull = 0.1 * expected
        for share, batch in zip(shares, step):
            x, y = data[batch, :2], data[batch, 2]
            pull = pull + share * 2 * (x @ expected - y) @ x / 4
        expected = expected - 0.05 / svag * pull
    options = {"steps": 12, "learning_rate": 0.05, "batch_size": 4, "weight_decay": 0.1, "seed": 5}
    run = train_sgd(model, inputs, targets, svag=svag, loss=nn.functional.mse_loss, **options)
    np.testing.assert_allclose(run.weights[-1], expected, atol=1e-13)
    assert run.attrs["temperature"] == 0.05 / 8 and run.attrs["epoch_steps"] == 10 * svag


def test_a_schedule_may_be_an_array_or_a_function():
    ends = []
    shape = sde.schedules.Trapezoid(floor=0.01, peak=0.3, rise=5, hold=10, fall=6)
    for rate in (shape, shape(np.arange(21)), lambda steps: shape(steps), 0.3):
        model, inputs, targets = small_problem()
        run = train_sgd(model, inputs, targets, epochs=3, learning_rate=rate, batch_size=8)
        ends.append(run.weights[-1].values)
        assert ("temperature" in run.attrs) == (rate == 0.3 if np.ndim(rate) == 0 else False)
    np.testing.assert_array_equal(ends[0], ends[1])
    np.testing.assert_array_equal(ends[0], ends[2])
    assert np.abs(ends[3] - ends[0]).max() > 1e-3


def test_layers_that_draw_have_a_stream_of_their_own():
    ends = []
    for replica in (0, 0, 1):
        torch.manual_seed(len(ends))
        before = torch.random.get_rng_state()
        model, inputs, targets = small_problem()
        model.insert(1, nn.Dropout(0.3))
        ends.append(train_sgd(model, inputs, targets, epochs=2, learning_rate=0.1, batch_size=50,
                              sampling="without_replacement", replica=replica).weights[-1].values)  # fmt: skip
        assert torch.equal(torch.random.get_rng_state(), before)
    np.testing.assert_array_equal(ends[0], ends[1])
    assert np.abs(ends[2] - ends[0]).max() > 1e-4  # full batches: dropout alone differs


def test_modes_and_frozen_weights_are_left_as_they_were():
    model, inputs, targets = small_problem()
    model.eval()
    model[1].bias.requires_grad_(False)
    frozen = model[1].bias.clone()
    run = train_sgd(model, inputs, targets, epochs=1, learning_rate=0.1, batch_size=8)
    assert not model.training and torch.equal(model[1].bias, frozen) and run.sizes["weight"] == 49 * 3 + 3 * 2 + 2
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable weight"):
        train_sgd(model, inputs, targets, epochs=1, learning_rate=0.1, batch_size=8)


@pytest.mark.parametrize("snapshots", [[0], [1], None])
def test_all_epochs_are_trained_whatever_is_recorded(snapshots):
    model, inputs, targets = small_problem()
    run = train_sgd(model, inputs, targets, epochs=3, learning_rate=0.1, batch_size=8, snapshots=snapshots)
    other, _, _ = small_problem()
    expected = train_sgd(other, inputs, targets, epochs=3, learning_rate=0.1, batch_size=8, snapshots=[3])
    assert run.epoch.values.tolist() == ([0, 3] if snapshots is None else snapshots)
    np.testing.assert_array_equal(parameters_to_vector(model.parameters()).detach(), expected.weights[-1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 51}, "batch_size must be a whole number from 1 to 50"),
        ({"batch_size": 2.5}, "batch_size must be a whole number"),
        ({"sampling": "shuffled"}, "with_replacement"),
        ({"learning_rate": 0.0}, "learning_rate must be a finite number > 0"),
        ({"learning_rate": "a"}, "learning_rate must be a finite number > 0"),
        ({"snapshots": (5,)}, "from 0 to 2"),
        ({"snapshots": [0.5]}, "from 0 to 2"),
        ({"snapshots": 1}, "sequence of epochs"),
        ({"snapshots": []}, "at least one epoch"),
        ({"epochs": -1}, "epochs must be a whole number >= 0"),
        ({"epochs": 1.5}, "epochs must be a whole number >= 0"),
        ({"momentum": 1.5}, "momentum must be a number >= 0 and < 1"),
        ({"momentum": -0.1}, "momentum must be a number >= 0 and < 1"),
        ({"weight_decay": -1e-3}, "weight_decay must be a number >= 0"),
        ({"nesterov": True}, "momentum > 0"),
        ({"nesterov": 1, "momentum": 0.5}, "True or False"),
        ({"svag": 2, "momentum": 0.5}, "not with momentum"),
        ({"svag": 2, "sampling": "reshuffling"}, "not with sampling"),
        ({"svag": 0}, "svag must be a whole number"),
        ({"steps": 5}, "either epochs or steps"),
        ({"epochs": None}, "either epochs or steps"),
        ({"learning_rate": [0.1, 0.1]}, r"shape \(14,\)"),
        ({"learning_rate": lambda steps: 0.1 - 0.05 * steps}, "at every step, got .* at step 13"),
        ({"learning_rate": lambda steps: 0.1}, "learning_rate\\(steps\\) must have shape"),
        ({"replica": -1}, "replica must be"),
        ({"test": torch.zeros(3)}, "test must have 2 tensors"),
        ({"checkpoint_every": 3}, "needs checkpoint=FOLDER"),
        ({"checkpoint": 3}, "name of a folder"),
        ({"progress": 3}, "progress must be a function"),
        ({"loss": nn.CrossEntropyLoss(reduction="none")}, "one number"),
        ({"seed": "a"}, "seed must be a whole number"),
        ({"model": "net"}, "model must be a Module"),
        ({"inputs": np.zeros((50, 49))}, "inputs must be a tensor"),
        ({"inputs": torch.zeros(50, 48, dtype=torch.float64)}, "cannot be evaluated on the data: mat1 and mat2"),
        ({"targets": torch.zeros(49, dtype=torch.int64)}, "one target per input"),
        ({"targets": torch.full((50,), 7)}, "cannot be evaluated on the data"),
        ({"inputs": torch.full((50, 49), float("nan"), dtype=torch.float64)}, "loss nan before training: look for"),
    ],
)
def test_training_refuses(changes, message):
    model, inputs, targets = small_problem()
    data = {"model": model, "inputs": inputs, "targets": targets}
    with pytest.raises(ValueError, match=message):
        train_sgd(**data | {"epochs": 2, "learning_rate": 0.1, "batch_size": 8} | changes)


def test_a_checkpoint_belongs_to_one_model_and_one_loss(tmp_path):
    """The same weights, data and settings under another activation or other class weights are another run."""
    weights = torch.tensor([1.0, 3.0], dtype=torch.float64)

    options = {"steps": 3, "learning_rate": 0.1, "batch_size": 8, "checkpoint": tmp_path}

    def run(activation=nn.ReLU, loss=None):
        model, inputs, targets = small_problem()
        model[2] = activation()
        loss = loss or (lambda outputs, labels: nn.functional.cross_entropy(outputs, labels, weight=weights))
        return train_sgd(model, inputs, targets, loss=loss, **options)

    first = run()
    assert run().identical(first)
    losses = nn.CrossEntropyLoss(weights), nn.CrossEntropyLoss(weights.flip(0))
    for other in (
        *({"loss": loss} for loss in losses), {"activation": nn.Tanh}, {"activation": lambda: nn.LeakyReLU(1e-9)}
    ):  # fmt: skip
        with pytest.raises(ValueError, match="checkpoint of another run"):
            run(**other)
    weights *= torch.tensor([1.0, 2.0])  # the function is the same text, and reads other numbers
    with pytest.raises(ValueError, match="checkpoint of another run"):
        run()


@pytest.mark.parametrize("changes", [{"hidden": -1}, {"inputs": 0}, {"classes": 2.5}, {"dtype": torch.int64}])
def test_tiny_fc_refuses(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        tiny_fc(**changes)


def test_tiny_fc_has_885_weights_and_leaves_the_stream_alone():
    state = torch.random.get_rng_state()
    one, two = tiny_fc(seed=3), tiny_fc(seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    vector = parameters_to_vector(one.parameters())
    assert len(vector) == 885 and torch.equal(vector, parameters_to_vector(two.parameters()))


def test_digits_spectra_at_three_stages():
    spectra = digits_spectra(epochs=10)
    size, count = spectra.attrs["parameters"], spectra.attrs["samples"]
    assert spectra.eigenvalues.shape == (3, min(size, count - 1)) and size == 885
    assert spectra.epoch.values.tolist() == [2, 4, 10]
    np.testing.assert_allclose(spectra.eigenvalues.sum("index"), spectra.trace, rtol=1e-12)
    np.testing.assert_allclose(spectra.mean_eigenvalue, spectra.trace / size, rtol=1e-12)
    padded = np.zeros((3, size))
    padded[:, : spectra.sizes["index"]] = spectra.eigenvalues
    np.testing.assert_allclose(spectra.std_eigenvalue, padded.std(axis=1), rtol=1e-10)
    assert (spectra.rank_float32 < spectra.rank_float64).all()
    assert (spectra.participation_ratio < 0.05 * size).all()  # a few directions carry the noise
    assert float(spectra.accuracy[-1]) > 0.95 and float(spectra.test_accuracy[-1]) > 0.9
    with pytest.raises(ValueError, match="train for longer"):
        digits_spectra(epochs=2)
    for stages in ((0.5, 1.5), (0.5, 0.5), ()):
        with pytest.raises(ValueError, match="distinct fractions"):
            digits_spectra(stages=stages)
    for changes in ({"stages": 0.5}, {"stages": ("a",)}, {"epochs": 1.5}, {"hidden": 0}, {"seed": 0.5}):
        with pytest.raises(ValueError, match="must be"):
            digits_spectra(**changes)
