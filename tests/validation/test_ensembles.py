"""Replicas side by side: the runs of `train_sgd`, one by one, and what they cost."""

import itertools
import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector

import sde_sgd as sde
from sde_sgd.validation import digits, ensemble, network, tiny_fc, train_sgd

STEPS = 14  # of 50 samples by 8: two epochs, with short last batches


@pytest.fixture(scope="module")
def data():
    split = digits(4, (0, 1, 2))
    return split.inputs[:50], split.targets[:50]


def model_of(norm=False, dtype=torch.float64):
    return network("small-fc", (1, 4, 4), 3, width=0.1, dtype=dtype) if norm else tiny_fc(16, 4, 3, seed=1, dtype=dtype)


def options_of(**changes):
    return {"steps": STEPS, "learning_rate": 0.1, "batch_size": 8, "seed": 3, **changes}


@pytest.mark.parametrize("norm", [False, True], ids=["plain", "batch-norm"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"sampling": "without_replacement", "weight_decay": 0.02},
        {"sampling": "reshuffling", "momentum": 0.8, "nesterov": True, "weight_decay": 0.01},
        {"sampling": "reshuffling", "momentum": 0.9},
        {"svag": 4, "weight_decay": 0.01},
        {"learning_rate": lambda steps: 0.2 / (1 + steps)},
    ],
    ids=lambda changes: "-".join(changes) or "plain",
)
def test_each_replica_is_a_run_of_its_own(data, norm, changes):
    options = options_of(**changes)
    found = ensemble(model_of(norm), *data, replicas=3, first_replica=2, compile=False, **options)
    for replica in (2, 3, 4):
        alone = train_sgd(model_of(norm), *data, replica=replica, **options).weights[-1]
        np.testing.assert_allclose(found.weights.sel(replica=replica)[-1], alone, atol=1e-10)
    assert np.abs(found.weights[0] - found.weights[1]).max() > 1e-3
    assert found.attrs["compiled"] == 0 and found.weights.shape[:2] == (3, 1)


def test_rates_of_their_own(data):
    rates = [0.05, 0.2]
    found = ensemble(model_of(), *data, replicas=2, compile=False, **options_of(learning_rate=rates))
    for replica, rate in enumerate(rates):
        alone = train_sgd(model_of(), *data, replica=replica, **options_of(learning_rate=rate)).weights[-1]
        np.testing.assert_allclose(found.weights[replica, -1], alone, atol=1e-10)
    assert found.learning_rate.values.tolist() == rates and "temperature" not in found.attrs


def test_a_squared_loss_and_float32(data):
    targets = nn.functional.one_hot(data[1], 3)
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        pair, options = (data[0].to(dtype), targets.to(dtype)), options_of(loss=nn.MSELoss())
        found = ensemble(model_of(dtype=dtype), *pair, replicas=2, compile=False, **options)
        alone = train_sgd(model_of(dtype=dtype), *pair, replica=1, **options).weights[-1]
        np.testing.assert_allclose(found.weights[1, -1], alone, atol=tolerance)
        assert found.weights.dtype == alone.dtype == str(dtype).removeprefix("torch.")


@pytest.mark.parametrize("sampling", ["with_replacement", "reshuffling"])
def test_a_continued_run_has_the_same_bits(data, sampling):
    options = options_of(momentum=0.9, sampling=sampling, compile=False, replicas=3)
    whole = ensemble(model_of(), *data, save_every=2, **options)
    assert whole.step.values.tolist() == list(range(0, 15, 2))
    own = parameters_to_vector(model_of().parameters()).detach()
    assert (whole.weights.sel(step=0) == own.numpy()).all()
    half = ensemble(model_of(), *data, **{**options, "steps": 9})
    rest = ensemble(model_of(), *data, **{**options, "steps": 5}, first_step=9, start=half.weights[:, -1],
                    start_velocity=half.velocity)  # fmt: skip
    np.testing.assert_array_equal(rest.weights[:, -1], whole.weights[:, -1])
    np.testing.assert_array_equal(rest.velocity, whole.velocity)
    assert rest.step.values.tolist() == [14]


def test_what_is_observed_is_of_each_replica(data):
    inputs, targets = data

    def observe(predict, weights):
        outputs = predict(inputs)
        return {"loss": nn.functional.cross_entropy(outputs, targets), "norm": weights.norm(), "outputs": outputs[:2]}

    options = options_of(compile=False, replicas=2, save_every=7)
    seen, kept = ensemble(model_of(), *data, observe=observe, **options), ensemble(model_of(), *data, **options)
    assert "weights" not in seen and seen.outputs.shape == (2, 3, 2, 3)
    np.testing.assert_allclose(seen.norm, np.linalg.norm(kept.weights, axis=-1), atol=1e-13)
    model = model_of()
    torch.nn.utils.vector_to_parameters(torch.from_numpy(kept.weights.values[1, 2]), model.parameters())
    with torch.no_grad():
        np.testing.assert_allclose(seen.loss[1, 2], nn.functional.cross_entropy(model(inputs), targets), atol=1e-13)
        np.testing.assert_allclose(seen.outputs[1, 2], model(inputs)[:2], atol=1e-13)
    single = ensemble(model_of(), *data, observe=lambda predict, weights: weights[:3], **options)
    assert single.observed.dims == ("replica", "step", "observed_0")


def test_the_model_and_the_streams_are_left_alone(data):
    model = model_of(norm=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    ensemble(model, *data, replicas=2, compile=False, **options_of())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_compiler_that_fails_is_told(data, monkeypatch):
    def broken(function, **options):
        def fails(*arguments):
            raise RuntimeError("no C++ compiler")

        return fails

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.warns(RuntimeWarning, match="torch.compile failed .no C.. compiler.: the ensemble runs without"):
        found = ensemble(model_of(), *data, replicas=2, **options_of())
    plain = ensemble(model_of(), *data, replicas=2, compile=False, **options_of())
    assert found.attrs["compiled"] == 0 and found.identical(plain)


def test_divergence_names_the_replica(data):
    targets = nn.functional.one_hot(data[1], 3).double()
    with pytest.raises(sde.Diverged, match=r"replica 11 are no longer finite by step \d+ .1 such") as fault:
        ensemble(model_of(), data[0], targets, loss=nn.MSELoss(), replicas=3, first_replica=10, compile=False,
                 **options_of(steps=300, learning_rate=[0.1, 1e4, 0.1]))  # fmt: skip
    assert fault.value.path == 11


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "net"}, "model must be a Module"), ({"replicas": 0}, "replicas must be"),
        ({"steps": 0}, "steps must be"), ({"learning_rate": [0.1, 0.2]}, r"shape \(3,\)"),
        ({"learning_rate": [0.1, 0.2, 0.0]}, "> 0 for every replica"), ({"batch_size": 51}, "from 1 to 50"),
        ({"svag": 2, "momentum": 0.5}, "not with momentum"), ({"start": np.zeros(5)}, r"start must have shape \(83,\)"),
        ({"start_velocity": np.zeros(83)}, "needs momentum"), ({"save_every": 99}, "save_every must be"),
        ({"observe": 3}, "observe must be a function"), ({"first_replica": -1}, "first_replica"),
        ({"observe": lambda predict, weights: weights.norm().item()}, "observe fails under"),
        ({"observe": lambda predict, weights: (weights,)}, "observe must give|observe fails"),
        ({"model": nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(16, 3)).double()}, "draws random numbers"),
        ({"model": nn.Sequential(nn.Flatten(), nn.Linear(15, 3)).double()}, "cannot be evaluated on the data"),
        ({"model": nn.Flatten()}, "no trainable weight"), ({"replicas": 2**31}, "take fewer"),
        ({"loss": nn.CrossEntropyLoss(reduction="none")}, "one number"),
    ],
)  # fmt: skip
def test_bad_arguments(data, changes, words):
    given = {"model": model_of(), "inputs": data[0], "targets": data[1], "replicas": 3, **options_of(), **changes}
    with pytest.raises(ValueError, match=words):
        ensemble(given.pop("model"), given.pop("inputs"), given.pop("targets"), compile=False, **given)


@pytest.mark.evidence(table="compiled_ensemble")
def test_compiled_replicas_cost_less_than_runs_one_by_one(table):
    """CPU time of a replica's step, against the plainest loop of torch: indexing, backward, torch.optim.SGD.step."""
    split, replicas, rows = digits(7, range(5)), 256, []
    for size, dtype in ((8, torch.float64), (32, torch.float64), (32, torch.float32)):
        inputs, targets = split.inputs.to(dtype), split.targets
        options = {"learning_rate": 0.05, "batch_size": size, "seed": 1}
        ticks: list = []

        def tick(done, total, ticks=ticks):
            ticks.append((done, time.process_time()))

        spans = []
        for compile in (False, True):
            ticks.clear()
            found = ensemble(tiny_fc(dtype=dtype), inputs, targets, replicas=replicas, steps=80, save_every=16,
                             compile=compile, progress=tick, **options)  # fmt: skip
            assert found.attrs["compiled"] == compile
            spans.append(min((b - a) / (n - m) for (m, a), (n, b) in itertools.pairwise(ticks)) / replicas)
        alone = train_sgd(tiny_fc(dtype=dtype), inputs, targets, steps=80, replica=3, **options).weights[-1]
        gap = float(np.abs(found.weights[3, -1] - alone).max())
        assert gap < (1e-10 if dtype == torch.float64 else 1e-4)
        model = tiny_fc(dtype=dtype)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        picks = torch.from_numpy(sde.sample_indices(len(inputs), batch_size=size, steps=1200, seed=1))
        for part in (picks[:200], picks[200:]):  # the first to warm up
            begun = time.process_time()
            for batch in part:
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs[batch]), targets[batch]).backward()
                optimizer.step()
        eager = (time.process_time() - begun) / len(picks[200:])
        kind = str(dtype).removeprefix("torch.")
        spent = [f"{1e6 * seconds:.3g}" for seconds in (eager, *spans)]
        rows.append([size, kind, *spent, f"{eager / spans[1]:.3g}", f"{gap:.1e}"])
        assert eager / spans[1] > 15
    table(
        "Ensembles of replicas",
        [
            "b",
            "float type",
            "eager loop, µs per step",
            "vmap, µs per replica-step",
            "compiled",
            "eager / compiled",
            "gap",
        ],
        rows,
        "tiny-fc 49-16-5, 256 replicas, one thread, CPU time; gap: largest difference of a weight from train_sgd after "
        "80 steps.",
    )


@pytest.mark.evidence
def test_one_program_may_compile_any_number_of_ensembles(data, monkeypatch):
    """The compiler gives up after some forms of one function; with its limit at one, all ensembles are compiled."""
    import torch._dynamo.config as config

    from sde_sgd.validation import ensembles

    monkeypatch.setattr(config, "recompile_limit", 1)
    monkeypatch.setattr(config, "fail_on_recompile_limit_hit", True)

    def compiled(decay):
        return ensemble(model_of(), *data, replicas=2, **options_of(weight_decay=decay)).attrs["compiled"]

    assert [compiled(decay) for decay in (0.0, 0.1, 0.2)] == [1, 1, 1]
    monkeypatch.setattr(ensembles, "_apart", lambda function: function)  # the counterexample: one function for all
    with pytest.warns(RuntimeWarning, match="torch.compile failed"):
        assert [compiled(decay) for decay in (0.0, 0.1, 0.2)][-1] == 0


@pytest.mark.gpu
def test_the_gpu_takes_the_same_steps(data):
    for options in (options_of(), options_of(momentum=0.9, sampling="reshuffling")):
        there = train_sgd(model_of(), *data, device="cuda", **options).weights[-1]
        side = ensemble(model_of(), *data, replicas=2, device="cuda", compile=False, **options).weights[0, -1]
        here = train_sgd(model_of(), *data, **options).weights[-1]
        np.testing.assert_allclose(there, here, atol=1e-10)
        np.testing.assert_allclose(side, here, atol=1e-10)
