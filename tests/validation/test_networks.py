"""Networks by name: published counts, shapes, options, seeds; and those of a user."""

import pytest
import torch
from torch import nn

from sde_sgd.validation import NETWORKS, network, parameter_count, resolve
from sde_sgd.validation.networks import Block, check_maps

PUBLISHED = [  # Chaudhari & Soatto (2018); the others by hand from their papers' layer lists
    ("small-lenet", (1, 28, 28), 10, 13_338),
    ("small-allcnn", (3, 32, 32), 10, 26_982),
    ("mlp", (784,), 10, 784 * 500 + 500 + 500 * 350 + 350 + 350 * 10 + 10 + 2 * 850),
    ("tiny-fc", (1, 7, 7), 5, 49 * 16 + 16 + 16 * 5 + 5),
    ("resnet", (3, 32, 32), 10, 853_018),
    ("vgg-11", (3, 32, 32), 10, 9_231_114),
]


@pytest.mark.parametrize(("name", "shape", "classes", "count"), PUBLISHED)
def test_published_counts(name, shape, classes, count):
    model = network(name, shape, classes)
    assert parameter_count(model) == count
    frozen = next(model.parameters()).requires_grad_(False)
    assert parameter_count(model) == count - frozen.numel()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("shape", [(1, 7, 7), (3, 9, 12)])
def test_every_network_takes_small_images(name, shape):
    options = {"depth": 8} if name == "resnet" else {}
    model = network(name, shape, 3, width=0.25, **options)
    inputs = torch.rand(4, *shape, dtype=torch.float64)
    assert model(inputs).shape == (4, 3)
    check_maps(model, inputs, 3)
    assert model.training


def test_seeds_and_types():
    state = torch.random.get_rng_state()
    one, two, other = (network("small-fc", (6,), 2, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    pairs = list(zip(one.parameters(), two.parameters(), other.parameters()))
    assert all(torch.equal(a, b) for a, b, _ in pairs) and not all(torch.equal(a, c) for a, _, c in pairs)
    assert next(network("mlp", (6,), 2, dtype=torch.float32).parameters()).dtype == torch.float32


def kinds(model):
    return {type(part) for part in model.modules()}


def test_batch_norm_and_dropout_are_chosen():
    for name, shape in (("tiny-fc", (4,)), ("small-lenet", (1, 8, 8)), ("resnet", (1, 8, 8))):
        options = {"depth": 8} if name == "resnet" else {}
        with_it, without = (network(name, shape, 2, batch_norm=norm, dropout=0.0, **options) for norm in (True, False))
        assert kinds(with_it) & {nn.BatchNorm1d, nn.BatchNorm2d} and nn.Dropout not in kinds(with_it)
        assert not kinds(without) & {nn.BatchNorm1d, nn.BatchNorm2d}
        assert nn.Dropout in kinds(network(name, shape, 2, dropout=0.3, **options))
    assert nn.Dropout in kinds(network("small-lenet", (1, 28, 28), 10))


def test_a_shortcut_carries_the_input():
    """With the body silenced, a block gives ReLU of every second pixel, padded by empty channels."""
    blocks = [part for part in network("resnet", (1, 8, 8), 2, depth=8) if isinstance(part, Block)]
    block = next(part for part in blocks if part.stride == 2)
    for parameter in block.body.parameters():
        nn.init.zeros_(parameter)
    x = torch.randn(2, 16, 8, 8, dtype=torch.float64)
    expected = torch.zeros(2, 32, 4, 4, dtype=torch.float64)
    expected[:, 8:24] = torch.relu(x[..., ::2, ::2])
    assert torch.equal(block(x), expected)


def test_a_users_network(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "def fixed():\n    return nn.Linear(3, 2)\n"
        "def fitted(shape, classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1], classes))\n"
        "def broken():\n    raise RuntimeError('no weights')\n"
        "def nothing():\n    return 3\n"
        "def divides():\n    return 1 / 0\n"
        "number = 4\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert resolve("mine:fixed", (3,), 2).in_features == 3
    assert resolve(f"{tmp_path}/mine.py:fitted", (3, 4), 5)[1].weight.shape == (5, 12)
    assert parameter_count(resolve("tiny-fc", (1, 7, 7), 5)) == 885
    (tmp_path / "needs.py").write_text("import nothing_here\n")
    (tmp_path / "wrong.py").write_text("def f(:\n")
    (tmp_path / "kept.py").write_text(  # dataclasses look up the module they are in
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom torch import nn\n"
        "@dataclass\nclass Sizes:\n    inputs: int = 3\ndef made():\n    return nn.Linear(Sizes().inputs, 2)\n"
    )
    assert resolve(f"{tmp_path}/kept.py:made", (3,), 2).in_features == 3
    for name, words in (
        ("wrong:f", "'wrong' cannot be loaded: SyntaxError"), ("needs:f", "'needs' cannot be imported"),
        (f"{tmp_path}/wrong.py:f", "SyntaxError: invalid syntax"), (f"{tmp_path}/needs.py:f", "nothing_here"),
        ("mine:divides", "fails to make a model: ZeroDivisionError: division by zero"),
        ("mine:absent", "no function or class 'absent'"), ("mine:number", "no function"), ("min:fixed", "'min'"),
        (f"{tmp_path}/none.py:fixed", "no file"), ("mine:broken", "no weights"), ("mine:nothing", "Module"),
        ("tiny-fd", "did you mean 'tiny-fc'"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            resolve(name, (3,), 2)
    with pytest.raises(ValueError, match="width"):
        resolve("mine:fixed", (3,), 2, width=2.0)


def test_a_model_that_does_not_map_a_sample():
    inputs = torch.rand(4, 3)
    for model, words in (
        (nn.Linear(4, 2), "does not map inputs"), (nn.Sequential(nn.Linear(3, 2), nn.Flatten(0)), "is needed"),
        (nn.Linear(3, 5), "one row of 2 logits"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            check_maps(model, inputs, 2)
    with pytest.raises(ValueError, match="what the model gives must be a Tensor, got tuple"):
        check_maps(Pair(), inputs, 2)
    model = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5).eval())
    check_maps(model, inputs, 2)
    with pytest.raises(ValueError, match="does not map inputs"):
        check_maps(model, inputs[:, :2], 2)
    assert model.training and model[0].training and not model[1].training  # each part as it was


class Pair(nn.Module):
    def forward(self, x):
        return x, x


@pytest.mark.parametrize(
    ("name", "shape", "options", "words"),
    [
        ("small-lenet", (49,), {}, "images of shape"), ("resnet", (3, 32, 32), {"depth": 55}, "6n"),
        ("mlp", (4,), {"depth": 8}, "belongs to resnet"), ("mlp", (4,), {"dropout": 1.0}, "dropout"),
        ("mlp", (4,), {"width": 0}, "width"), ("mlp", (0,), {}, "inputs_shape"),
        ("mlp", (4,), {"dtype": torch.int64}, "float type"),
    ],
)  # fmt: skip
def test_bad_arguments(name, shape, options, words):
    with pytest.raises(ValueError, match=words):
        network(name, shape, 2, **options)
