"""What is recorded along a run, when, at what cost to the run (none), and how it survives being killed."""

import random
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector

import sde_sgd as sde
from sde_sgd.validation import GradientNoise, Recorder, When, digits, network, recorder, tiny_fc, train_sgd
from sde_sgd.validation._checkpoints import Rows

OPTIONS = {"epochs": 3, "learning_rate": 0.1, "batch_size": 8, "seed": 7}


@pytest.fixture(scope="module")
def data():
    split = digits(4, (0, 1, 2))
    return split.inputs[:50], split.targets[:50]


def model_of(**options):
    return tiny_fc(16, 4, 3, seed=1, **options)


@pytest.mark.parametrize(
    ("when", "total", "expected"),
    [
        (When.every(steps=4), 10, [0, 4, 8]),
        (When.every(epochs=2), 30, [0, 14, 28]),
        (When.logarithmic(2), 100, [0, 1, 3, 10, 32, 100]),
        (When.logarithmic(1), 0, [0]),
        (When.logarithmic(3), 7, [0, 1, 2, 5, 7]),
        (When.at(steps=[9, 0, 9]), 10, [0, 9]),
        (When.at(epochs=(0, 1)), 10, [0, 7]),
    ],
)
def test_times_of_recording(when, total, expected):
    assert when.steps(total, per_epoch=7).tolist() == expected


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: When.every(), "either steps or epochs"),
        (lambda: When.every(steps=1, epochs=1), "either steps or epochs"),
        (lambda: When.every(steps=0), "steps must be a whole number >= 1"),
        (lambda: When.logarithmic(0), "per_decade"),
        (lambda: When.at(steps=3), "sequence of whole numbers"),
        (lambda: When.at(epochs=[0.5]), "epochs must be a whole number"),
        (lambda: When.at(epochs=[2]).steps(13, 7), "epochs to record must be from 0 to 1, got"),
        (lambda: When.at(steps=[]).steps(13, 7), "from 0 to 13, got none"),
        (lambda: recorder("lost", When.every(steps=1)), "did you mean 'loss'"),
        (lambda: recorder("loss", When.every(steps=1), size=3), "recorder 'loss': .*size"),
        (lambda: recorder("loss", When.every(steps=1), part="all"), "part must be one of train, test"),
        (lambda: recorder("loss", 10), "when must be a When"),
        (lambda: Recorder("a b", When.every(steps=1), len), "identifier"),
        (lambda: Recorder("a", When.every(steps=1), 3), "function of"),
    ],
)
def test_recorders_refuse(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_ready_made_measurements_against_dense_autograd(data):
    inputs, targets = data
    model, directions = model_of(), np.random.default_rng(0).normal(size=(2, 83))
    criterion, end = nn.functional.cross_entropy, When.at(steps=[0, 20])
    own = {
        "projections": {"directions": directions},
        "noise_eigenvalues": {"count": 4},
        "hessian_eigenvalues": {"count": 4},
    }
    names = ["loss", "accuracy", "gradient_norm", "noise_trace", *own, "distance", "weights"]
    recorders = [recorder(name, end, **own.get(name, {})) for name in names]
    recorders.append(recorder("loss", end, name="test_loss", part="test"))
    start = parameters_to_vector(model.parameters()).detach().numpy().copy()
    run = train_sgd(model, *data, steps=20, learning_rate=0.1, batch_size=8, recorders=recorders,
                    test=(inputs[:9], targets[:9]))  # fmt: skip
    assert run["loss_step"].values.tolist() == [0, 20] and "epoch" not in run.dims

    def of(weights, rows=slice(None)):
        sizes = (64, 4, 12, 3)
        w1, b1, w2, b2 = weights.split(sizes)
        hidden = torch.relu(inputs[rows].flatten(1) @ w1.reshape(4, 16).T + b1)
        return criterion(hidden @ w2.reshape(3, 4).T + b2, targets[rows], reduction="none")

    weights = parameters_to_vector(model.parameters()).detach()
    rows = torch.func.jacrev(of)(weights).numpy()
    noise = np.cov(rows.T, bias=True)
    hessian = torch.func.hessian(lambda w: of(w).mean())(weights).numpy()
    last = {name: run[name].values[-1] for name in run.data_vars}
    np.testing.assert_allclose(last["loss"], of(weights).mean(), atol=1e-13)
    np.testing.assert_allclose(last["test_loss"], of(weights, slice(9)).mean(), atol=1e-13)
    np.testing.assert_allclose(last["gradient_norm"], np.linalg.norm(rows.mean(0)), atol=1e-13)
    np.testing.assert_allclose(last["noise_trace"], np.trace(noise), rtol=1e-10)
    np.testing.assert_allclose(last["noise_eigenvalues"], np.linalg.eigvalsh(noise)[:-5:-1], rtol=1e-10)
    np.testing.assert_allclose(last["hessian_eigenvalues"], np.linalg.eigvalsh(hessian)[:-5:-1], rtol=1e-10)
    np.testing.assert_array_equal(last["weights"], weights)
    np.testing.assert_allclose(last["projections"], directions @ weights.numpy(), atol=1e-13)
    np.testing.assert_allclose(last["distance"], np.linalg.norm(weights.numpy() - start), atol=1e-13)
    assert last["accuracy"] == float((model(inputs).argmax(1) == targets).double().mean())
    assert run["distance"].values[0] == 0.0 and run["noise_eigenvalues"].dims[-1] == "index"
    assert "noise_trace" in run and np.isclose(
        run["noise_trace"][0], GradientNoise(model_of(), criterion, data).trace()
    )


def meddle(model, state):
    """Draws from every stream, and looks at training mode as well."""
    model.train()
    return torch.rand(()).item() + np.random.rand() + random.random()  # noqa: NPY002


def test_measuring_changes_neither_the_run_nor_the_streams(data):
    ends, draws = [], []
    meddlers = [Recorder("meddled", When.every(steps=1), meddle)]
    for recorders in ([], meddlers, [recorder("noise_trace", When.every(steps=5))]):
        model = network("small-fc", data[0].shape[1:], 3, width=0.1, dropout=0.2)
        torch.manual_seed(0), random.seed(0), np.random.seed(0)  # noqa: NPY002
        train_sgd(model, *data, **OPTIONS, recorders=recorders)
        draws.append((torch.rand(()).item(), random.random(), np.random.rand()))  # noqa: NPY002
        ends.append({name: value.clone() for name, value in model.state_dict().items()})
    for end, drawn in zip(ends[1:], draws[1:]):
        assert drawn == draws[0] and all(torch.equal(end[name], value) for name, value in ends[0].items())


def test_a_measurement_that_changes_the_model_or_its_form_is_refused(data):
    def shrink(model, state):
        with torch.no_grad():
            model[1].weight *= 0.9
        return 0.0

    for measure, dims, words in (
        (shrink, None, "bad changes weights or buffers"),
        (lambda model, state: np.zeros(1 + state.step), None, r"measured \(\[1\], 'float64'\) before"),
        (lambda model, state: "low", None, "measures str"),
        (lambda model, state: 1.0, ("index",), r"has dims \('index',\)"),
    ):
        with pytest.raises(ValueError, match=words):
            train_sgd(model_of(), *data, **OPTIONS, recorders=[Recorder("bad", When.every(steps=5), measure, dims)])
    for name, words in (("step", "cannot be the name"), ("weight", "cannot be the name"), ("a", "twice")):
        twice = [Recorder(name, When.every(steps=5), meddle)] * 2
        with pytest.raises(ValueError, match=words):
            train_sgd(model_of(), *data, **OPTIONS, recorders=twice)
    with pytest.raises(ValueError, match="another name="):
        train_sgd(model_of(), *data, **OPTIONS, recorders=recorder("loss", When.every(steps=5)), snapshots=[0])
    with pytest.raises(ValueError, match="needs a test set"):
        train_sgd(model_of(), *data, **OPTIONS, recorders=recorder("loss", When.every(steps=5), part="test"))


def test_the_state_names_the_samples_of_coming_and_past_batches(data):
    seen = []

    def look(model, state):
        seen.append((state.batch(), state.batch(-1) if state.step else None))
        return state.epoch

    run = train_sgd(model_of(), *data, **OPTIONS, sampling="reshuffling", replica=2,
                    recorders=Recorder("epochs", When.every(steps=3), look))  # fmt: skip
    picks = sde.sample_indices(50, batch_size=8, steps=22, replica=2, seed=7, sampling="reshuffling")
    for step, (coming, past) in zip(run["epochs_step"].values, seen):
        assert coming.tolist() == [k for k in picks[step] if k >= 0]
        assert past is None or past.tolist() == [k for k in picks[step - 1] if k >= 0]
    np.testing.assert_allclose(run["epochs"], run["epochs_step"] / 7)


class Consecutive:
    """Cosine of this measurement's gradient with the last one's: a measurement with a memory."""

    def __init__(self):
        self.last = None

    def __call__(self, model, state):
        chosen = torch.from_numpy(state.batch())
        value = state.loss(model(state.inputs[chosen]), state.targets[chosen])
        slope = torch.cat([g.reshape(-1) for g in torch.autograd.grad(value, list(model.parameters()))])
        last, self.last = self.last, slope
        return float("nan") if last is None else float(nn.functional.cosine_similarity(last, slope, dim=0))

    def state_dict(self):
        return {"last": self.last}

    def load_state_dict(self, state):
        self.last = state["last"]


def run_of(data, **options):
    """Batch norm, dropout, momentum, a short last batch: everything that a state is made of."""
    model = network("small-fc", data[0].shape[1:], 3, width=0.1, dropout=0.2)
    recorders = [
        recorder("weights", When.every(steps=3)),
        recorder("loss", When.logarithmic(4)),
        Recorder("cosine", When.every(steps=1), Consecutive()),
    ]
    run = train_sgd(model, *data, **{**OPTIONS, "momentum": 0.9, "weight_decay": 1e-3, "sampling": "reshuffling",
                                     "recorders": recorders, **options})  # fmt: skip
    return run.load(), model.state_dict()


def assert_same(one, other):
    assert one[0].identical(other[0])
    assert all(torch.equal(one[1][name], value) for name, value in other[1].items())


def test_an_interrupted_run_goes_on_with_the_same_bits(data, tmp_path):
    whole = run_of(data)
    assert whole[1]["2.num_batches_tracked"] == 21 and whole[0]["cosine"].notnull().sum() == 21
    for stop in (1, 9, 20):

        def interrupt(done, total, stop=stop):
            if done > stop:
                raise KeyboardInterrupt

        folder = tmp_path / str(stop)
        with pytest.raises(KeyboardInterrupt):
            run_of(data, checkpoint=folder, checkpoint_every=2, progress=interrupt)
        if stop > 1:  # else nothing was written yet but rows, and the run begins anew
            assert torch.load(folder / "state.pt", weights_only=True)["step"] == stop // 2 * 2
        assert_same(run_of(data, checkpoint=folder, checkpoint_every=2), whole)
        assert_same(run_of(data, checkpoint=folder, progress=interrupt), whole)  # complete: nothing is trained again


ROWS = [recorder("weights", When.every(steps=3)), recorder("gradient_norm", When.logarithmic(4))]


def drawn():
    """Samples that need no library to load."""
    stream = torch.Generator().manual_seed(0)
    return torch.rand(50, 1, 4, 4, generator=stream, dtype=torch.float64), torch.arange(50) % 3


def test_a_killed_run_goes_on_with_the_same_bits(tmp_path):
    code = (
        "import os, signal, sys, torch; torch.set_num_threads(1); sys.path.insert(0, sys.argv[2])\n"
        "from test_recording import ROWS, drawn, run_of\n"
        "die = lambda done, total: done > 12 and os.kill(os.getpid(), signal.SIGKILL)\n"
        "run_of(drawn(), recorders=ROWS, checkpoint=sys.argv[1], checkpoint_every=5,\n"
        "       progress=die)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path), __file__.rpartition("/")[0]], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 10
    assert_same(run_of(drawn(), recorders=ROWS, checkpoint=tmp_path), run_of(drawn(), recorders=ROWS))


def test_the_folder_of_another_run_is_refused(data, tmp_path):
    run_of(data, checkpoint=tmp_path)
    for change in ({"seed": 8}, {"learning_rate": 0.2}, {"recorders": [recorder("weights", When.every(steps=2))]},
                   {"loss": nn.functional.multi_margin_loss}, {"epochs": 4}, {"replica": 1}):  # fmt: skip
        with pytest.raises(ValueError, match="checkpoint of another run"):
            run_of(data, checkpoint=tmp_path, **change)
    with pytest.raises(ValueError, match="checkpoint of another run"):
        run_of((data[0] + 1e-9, data[1]), checkpoint=tmp_path)
    (tmp_path / "weights.rows").write_bytes(b"")
    with pytest.raises(ValueError, match="holds 0 bytes and its checkpoint counts"):
        run_of(data, checkpoint=tmp_path)
    (tmp_path / "state.pt").write_bytes(b"no state")
    with pytest.raises(ValueError, match="not a checkpoint of a training run"):
        run_of(data, checkpoint=tmp_path)


def test_rows_on_disk_are_not_held(tmp_path):
    """A hundred megabytes pass through; what stays in memory is counted by the allocator."""
    import tracemalloc

    rows, block = Rows("block", 200, tmp_path / "block.rows"), np.arange(65536.0)
    tracemalloc.start()
    for k in range(200):
        rows.put(block + k)
    found = rows.array()
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.shape == (200, 65536) and found[17, 5] == 22.0 and held < 3 * block.nbytes
    rows.close()
