"""optimise: the same batches for all, special cases of Parle, SVRG against the core's, adaptive steps written out."""

import numpy as np
import pytest
import torch
from torch import nn

import sde_sgd as sde
from sde_sgd.errors import Diverged
from sde_sgd.validation import OPTIMISERS, digits, network, optimise, tiny_fc, train_sgd

DATA = digits(7, range(3), seed=0)
PAIR = DATA.inputs[:60], DATA.targets[:60]
RUN = dict(learning_rate=0.1, batch_size=6, steps=30, seed=4)


def small():
    return tiny_fc(hidden=3, classes=3)


def ends(optimiser, **more):
    return optimise(small(), *PAIR, optimiser=optimiser, **(RUN | more))


def by_train_sgd(steps=30, **more):
    return train_sgd(small(), *PAIR, **(RUN | {"steps": steps} | more))["weights"].values[-1]


@pytest.mark.parametrize(
    ("name", "options"),
    [("sgd", {}), ("momentum", {"momentum": 0.9}), ("nesterov", {"momentum": 0.9, "nesterov": True})],
)
def test_sgd_and_momentum_are_those_of_train_sgd(name, options):
    for sampling in ("with_replacement", "reshuffling"):
        found = ends(name, sampling=sampling, weight_decay=1e-3)["weights"].values
        expected = by_train_sgd(sampling=sampling, weight_decay=1e-3, **options)
        np.testing.assert_allclose(found[-1], expected, rtol=0, atol=1e-13)
        assert np.abs(found[-1] - found[0]).max() > 0.01


def test_entropy_sgd_and_parle_are_sgd_and_elastic_sgd_in_their_limits():
    """n = 1, L = 1, γ = ρ = 0 is SGD; L = 1, γ = 0 is Elastic-SGD, written out here; ρ = 0 is Entropy-SGD. To 1e-12."""
    sgd = by_train_sgd()
    off = {"inner_steps": 1, "tether": 0.0}
    np.testing.assert_allclose(ends("entropy-sgd", **off).weights[-1], sgd, rtol=0, atol=1e-12)
    np.testing.assert_allclose(ends("parle", replicas=1, elastic=0.0, **off).weights[-1], sgd, rtol=0, atol=1e-12)
    plain = ends("sgd")
    model, picks = small(), [sde.sample_indices(60, batch_size=6, steps=30, replica=a, seed=4) for a in range(3)]
    x = np.repeat(plain.weights.values[:1], 3, axis=0)
    for k in range(30):
        slopes = []
        for a in range(3):
            torch.nn.utils.vector_to_parameters(torch.from_numpy(x[a].copy()), model.parameters())
            rows = torch.from_numpy(picks[a][k])
            value = nn.functional.cross_entropy(model(PAIR[0][rows]), PAIR[1][rows])
            slopes.append(
                torch.cat([g.flatten() for g in torch.autograd.grad(value, list(model.parameters()))]).numpy()
            )
        x = x - 0.1 * (np.array(slopes) + 1.5 * (x - x.mean(0)))
    for name, more in (("parle", off), ("elastic-sgd", {})):
        found = ends(name, replicas=3, elastic=1.5, **more)
        np.testing.assert_allclose(found["replica_weights"], x, rtol=0, atol=1e-12)
        np.testing.assert_allclose(found["weights"][-1], x.mean(0), rtol=0, atol=1e-12)
    chain = {"inner_steps": 5, "tether": 2.0}
    alone = ends("parle", replicas=2, elastic=0.0, **chain)["replica_weights"].values
    np.testing.assert_allclose(alone[0], ends("entropy-sgd", **chain)["weights"][-1], rtol=0, atol=1e-12)
    # away from the limits they are something else
    for away in ({"inner_steps": 2, "tether": 0.0}, {"inner_steps": 2, "tether": 1.0}):
        assert np.abs(ends("entropy-sgd", **away).weights[-1].values - sgd).max() > 1e-3
    assert np.abs(ends("parle", replicas=2, elastic=1.0, **chain)["replica_weights"][0].values - alone[0]).max() > 1e-4


def test_svrg_is_that_of_the_core_and_its_noise_is_gone_at_the_snapshot():
    rng = np.random.default_rng(2)
    X, y = rng.normal(size=(40, 4)), rng.normal(size=40)
    model = nn.Linear(4, 1, bias=False, dtype=torch.float64)
    nn.init.zeros_(model.weight)
    found = optimise(
        model, torch.from_numpy(X), torch.from_numpy(y)[:, None], optimiser="svrg", period=7, learning_rate=0.05,
        batch_size=3, steps=40, seed=9, loss=lambda out, target: 0.5 * ((out - target) ** 2).mean(),
    )  # fmt: skip
    core = sde.sgd(
        sde.FiniteSum.linear_model(X, y, "squared"), np.zeros(4), learning_rate=0.05, batch_size=3, steps=40, seed=9,
        svrg=7,
    )  # fmt: skip
    np.testing.assert_allclose(found["weights"][-1], [core[f"w{i}"].values[0] for i in range(4)], rtol=0, atol=1e-12)
    assert found.attrs["gradients"] == 40 * 3 * 2 + 6 * 40
    first = [ends("svrg", steps=1, seed=s)["weights"].values[-1] for s in (1, 2)]
    np.testing.assert_allclose(first[0], first[1], atol=1e-14)  # the step from a snapshot is the full gradient's
    assert (
        np.abs(ends("sgd", steps=1, seed=1)["weights"][-1] - ends("sgd", steps=1, seed=2)["weights"][-1]).max() > 1e-3
    )


def test_adaptive_steps_written_out():
    """The first step of Adam is −η sign g, that of AdaGrad too, of RMSprop −η sign g/√(1 − α); then two of AdaGrad."""
    start = ends("sgd", steps=1)["weights"].values
    slope = (start[0] - start[1]) / 0.1
    moved = np.abs(slope) > 1e-6
    for name, size in (("adam", 1.0), ("adagrad", 1.0), ("rmsprop", 10.0)):
        step = np.diff(ends(name, steps=1)["weights"].values, axis=0)[0]
        np.testing.assert_allclose(step[moved], -0.1 * size * np.sign(slope[moved]), rtol=0.02)
        assert (step[slope == 0] == 0).all()


def test_all_of_them_learn_and_count_their_gradients():
    for name in OPTIMISERS:
        rate = {"adam": 0.01, "rmsprop": 0.01, "adagrad": 0.1, "momentum": 0.03, "nesterov": 0.03}.get(name, 0.3)
        more = {"inner_steps": 5} if name in ("entropy-sgd", "parle") else {}
        found = ends(name, learning_rate=rate, steps=30, snapshots=(0, 15, 30), **more)
        assert found.step.values.tolist() == [0, 15, 30] and found.attrs["optimiser"] == name
        assert found.loss[-1] < 0.97 * found.loss[0], name
        replicas = 3 if name in ("parle", "elastic-sgd") else 1
        assert found.attrs["gradients"] == replicas * 30 * 6 * (2 if name == "svrg" else 1) + 180 * (name == "svrg")


def test_noise_is_the_same_for_the_same_seed():
    noisy = [ends("entropy-sgd", inner_steps=5, noise=0.05, seed=s)["weights"].values[-1] for s in (4, 4, 5)]
    np.testing.assert_array_equal(noisy[0], noisy[1])
    assert np.abs(noisy[0] - ends("entropy-sgd", inner_steps=5)["weights"].values[-1]).max() > 1e-3


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"optimiser": "adamw"}, "optimiser"),
        ({"optimiser": "svrg", "momentum": 0.9}, "no option 'momentum'"),
        ({"optimiser": "adam", "gamma": 1}, "gamma"),
        ({"optimiser": "adam", "lr": 1}, "learning_rate"),
        ({"optimiser": "parle", "keep": 1.0}, "keep must be below 1"),
        ({"optimiser": "entropy-sgd", "elastic": 1.0}, "no option 'elastic'"),
        ({"optimiser": "sgd", "epochs": 1}, "either epochs or steps"),
        ({"optimiser": "sgd", "snapshots": ()}, "snapshots is empty"),
    ],
)
def test_what_cannot_be_is_refused(more, says):
    with pytest.raises(ValueError, match=says):
        optimise(small(), *PAIR, **(RUN | more))


def test_batch_norm_is_refused_and_divergence_named():
    with pytest.raises(ValueError, match="batch norm"):
        optimise(network("small-fc", (1, 7, 7), 3), *PAIR, optimiser="sgd", **RUN)
    with pytest.raises(Diverged, match="sgd: the weights"):
        ends("sgd", learning_rate=1e200)
