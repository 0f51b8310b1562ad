"""`sde-sgd diagnose`: numbers against dense and exact ones, the SVAG test against the exact recursion, bad input."""

import copy
import json

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import sde_sgd as sde
from sde_sgd import cli
from sde_sgd.validation import Curvature, GradientNoise, _diagnose_report, train_sgd
from sde_sgd.validation._svag import alike, compared, svag_test
from sde_sgd.validation.diagnose import Question, against_svag, noise_and_curvature, subject_of, trained

LINE = """
import torch
def linear(shape, outputs):
    torch.manual_seed(0)
    return torch.nn.Linear(*shape, outputs, dtype=torch.float64)
def wide(shape, outputs):
    return torch.nn.Linear(*shape, outputs + 1, dtype=torch.float64)
def none(shape, outputs):
    return 3
class Random(torch.nn.Linear):
    def forward(self, x):
        return super().forward(x) + torch.randn(1, dtype=x.dtype)
def random(shape, outputs):
    return Random(*shape, outputs, dtype=torch.float64)
class Mean(torch.nn.Linear):
    def forward(self, x):
        return super().forward(x).mean(0)
def mean(shape, outputs):
    return Mean(*shape, outputs, dtype=torch.float64)
def half(shape, outputs):
    return torch.nn.Linear(*shape, outputs, dtype=torch.bfloat16)
def normed(shape, outputs):
    layers = torch.nn.Linear(*shape, 4), torch.nn.BatchNorm1d(4), torch.nn.ReLU(), torch.nn.Linear(4, outputs)
    return torch.nn.Sequential(*layers)
def frozen(shape, outputs):
    return linear(shape, outputs).requires_grad_(False)
"""


@pytest.fixture
def models(tmp_path):
    (tmp_path / "models.py").write_text(LINE)
    return str(tmp_path / "models.py")


@pytest.fixture
def call(capsys, models, tmp_path):
    """`sde-sgd diagnose` of a factory of the file: exit code, stdout, stderr."""

    def run(factory, *arguments, name=None):
        name = f"{models}:{factory}" if name is None else name
        with pytest.raises(SystemExit) as left:
            cli.main(["diagnose", name, *map(str, arguments), "--root", str(tmp_path / "runs"), "-q"])
        return left.value.code, *capsys.readouterr()

    return run


def scalar(centres):
    """f_k = (w − c_k)², H = 2, D = 4 Var c, as a module: Linear(1, 1) on inputs 1."""
    model = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        model.weight.fill_(1.0)
    targets = torch.tensor(centres, dtype=torch.float64)[:, None]
    return model, torch.ones_like(targets), targets


def weights_of(model):
    return torch.nn.utils.parameters_to_vector(model.parameters()).detach().numpy()


def test_the_numbers_are_those_of_dense_matrices(models):
    """A linear model with squared loss: H, D, their commutator and the predicted variances, by hand."""
    question = Question(f"{models}:linear", "diabetes", 0.1, 16, samples=60, top=20, momentum=0.5, weight_decay=0.01)
    subject = subject_of(question)
    found = noise_and_curvature(question, subject)
    x, y = (part.numpy() for part in subject.data[:2])
    x = np.hstack([x, np.ones((len(x), 1))])
    w = torch.cat([p.flatten() for p in subject.model.parameters()]).detach().numpy()
    gradients = 2 * (x @ w - y[:, 0])[:, None] * x
    h, d = 2 * x.T @ x / len(x), np.cov(gradients.T, bias=True)
    assert float(found["temperature"]) == pytest.approx(0.1 / (2 * 16 * 0.5))
    assert float(found["trace"]) == pytest.approx(np.trace(d), rel=1e-12)
    assert float(found["gradient"]) == pytest.approx(np.linalg.norm(gradients.mean(0)), rel=1e-12)
    np.testing.assert_allclose(found["hessian_eigenvalues"], np.linalg.eigvalsh(h)[::-1], rtol=1e-6, atol=1e-9)
    assert float(found["sharpness"]) == pytest.approx(0.1 * (np.linalg.eigvalsh(h)[-1] + 0.01), rel=1e-9)
    assert float(found["limit"]) == 3.0 and float(found["inside"]) == pytest.approx(1.0)
    commutator = np.linalg.norm(h @ d - d @ h) / np.linalg.norm(h @ d)
    assert float(found["commutator"]) == pytest.approx(commutator, rel=1e-8) and commutator > 0.01
    exact = sde.DiscreteSGD(h, d, 0.1, 16, momentum=0.5, weight_decay=0.01, samples=60, sampling="reshuffling")
    vectors = np.linalg.eigh(h)[1]
    predicted = (vectors.T @ exact.covariance @ vectors).diagonal()[::-1]
    np.testing.assert_allclose(found["variance"], predicted, rtol=1e-6)


def test_a_learning_rate_beyond_the_limit_has_no_prediction(models):
    found = noise_and_curvature(q := Question(f"{models}:linear", "diabetes", 5.0, 16, samples=60), subject_of(q))
    assert found.sizes["direction"] == 0 and "not stable" in found.attrs["no_steady_state"]
    assert float(found["sharpness"]) > float(found["limit"])


def test_predictions_are_those_of_the_sampling_and_the_momentum_asked_for(models):
    """Against `DiscreteSGD` of dense matrices in each mode; the modes differ, and so does T without replacement."""
    told = {}
    for sampling in ("with_replacement", "without_replacement", "reshuffling"):
        for momentum in (0.0, 0.5):
            options = dict(samples=60, top=20, momentum=momentum, weight_decay=0.01, sampling=sampling)
            subject = subject_of(q := Question(f"{models}:linear", "diabetes", 0.1, 16, **options))
            found = told[sampling, momentum] = noise_and_curvature(q, subject)
            x = np.hstack([subject.data.inputs.numpy(), np.ones((60, 1))])
            y, w = subject.data.targets.numpy()[:, 0], weights_of(subject.model)
            g = 2 * (x @ w - y)[:, None] * x
            h, d = 2 * x.T @ x / 60 + 0.01 * np.eye(11), np.cov(g.T, bias=True)
            law = sde.DiscreteSGD(h, d, 0.1, 16, samples=60, momentum=momentum, sampling=sampling)
            vectors = np.linalg.eigh(h)[1][:, ::-1]
            variance = (vectors.T @ law.covariance @ vectors).diagonal()
            np.testing.assert_allclose(found["variance"], variance, rtol=1e-6)
            scale = 0.1 / (2 * 16 * (1 - momentum)) * (44 / 59 if sampling == "without_replacement" else 1)
            assert float(found["temperature"]) == pytest.approx(scale, rel=1e-12)
            current = np.linalg.norm(law.irreversibility) / (scale * np.linalg.norm(d))
            assert float(found["current"]) == pytest.approx(current, rel=1e-6) and current > 1e-3
            covariance = d / 16 * (1 if sampling == "with_replacement" else 44 / 59)
            signal = np.sqrt(np.trace(covariance)) / np.linalg.norm(g.mean(0))
            assert float(found["noise_to_signal"]) == pytest.approx(signal, rel=1e-9)
            shift = vectors.T @ (w - np.linalg.solve(h, 2 * x.T @ y / 60))
            assert float(found["away"]) == pytest.approx(np.sqrt((shift**2 / variance).mean()), rel=1e-6)
    for momentum in (0.0, 0.5):
        one, two, three = (told[mode, momentum]["variance"] for mode in ("with_replacement", "without_replacement",
                                                                         "reshuffling"))  # fmt: skip
        np.testing.assert_allclose(two / one, 44 / 59, rtol=1e-6)
        assert float((three / two).max()) < 1 and float((three / two).min()) < 0.1  # flat directions most


def test_the_verdict_on_the_minimum_and_the_step_can_hold_and_fail(models):
    """At the minimum and far from it; a step that is small, one that is not, and one that is not stable."""
    found = {}
    for rate, far in ((0.01, 0.0), (0.01, 1.0), (0.2, 0.0), (5.0, 0.0)):
        question = Question(f"{models}:linear", "diabetes", rate, 16, samples=60, top=20)
        subject = subject_of(question)
        x = torch.hstack([subject.data.inputs, torch.ones(60, 1, dtype=torch.float64)])
        best = torch.linalg.lstsq(x, subject.data.targets).solution.flatten()
        torch.nn.utils.vector_to_parameters(best + far, subject.model.parameters())
        local = noise_and_curvature(question, subject)
        said = _diagnose_report.verdicts({"/local": local})
        found[rate, far] = [holds for holds, _ in said]
    assert found == {
        (0.01, 0.0): [True, True, True], (0.01, 1.0): [True, True, False], (0.2, 0.0): [True, False, True],
        (5.0, 0.0): [False, False],
    }  # fmt: skip


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_svag_and_sgd_have_their_exact_moments(weight_decay):
    """E|w − w₀|² of the scalar quadratic by its recursion; a seeded test, |z| < 4 in 4 numbers: 3e-4 by chance."""
    centres = np.random.default_rng(1).normal(size=12)
    steps, order, eta, b = 12, 3, 0.1, 4
    found = svag_test(
        *(p := scalar(centres))[:1], nn.MSELoss(), *p[1:], learning_rate=eta, batch_size=b, weight_decay=weight_decay,
        order=order, steps=steps, replicas=800, seed=3,
    )  # fmt: skip
    curvature, noise = 2 + weight_decay, 4 * np.var(centres)
    centre = 2 * centres.mean() / curvature
    for kind, rate, number, covariance in (
        ("sgd", eta, steps, noise / b), ("svag", eta / order, order * steps, order * noise / b),
    ):  # fmt: skip
        factor = 1 - rate * curvature
        mean = centre + (1 - centre) * factor**number - 1
        variance = rate**2 * covariance * (1 - factor ** (2 * number)) / (1 - factor**2)
        square = found["distance"].sel(kind=kind).values ** 2
        z = (square.mean() - mean**2 - variance) / (square.std(ddof=1) / np.sqrt(len(square)))
        assert abs(z) < 4
    again = svag_test(
        *(p := scalar(centres))[:1], nn.MSELoss(), *p[1:], learning_rate=eta, batch_size=b, weight_decay=weight_decay,
        order=order, steps=steps, replicas=3, seed=3,
    )  # fmt: skip
    np.testing.assert_array_equal(again["loss"], found["loss"].isel(replica=slice(3)))  # replicas have their own draws


def test_svag_tells_a_coarse_step_from_a_fine_one():
    """Variance of SGD over that of the SDE is 1/(1 − ηh/2): 1.02 at ηh = 0.04, 2 at ηh = 1."""
    centres = np.random.default_rng(1).normal(size=12)
    gaps = {}
    for eta in (0.02, 0.5):
        found = svag_test(
            *(p := scalar(centres))[:1], nn.MSELoss(), *p[1:], learning_rate=eta, batch_size=2, order=6,
            steps=40, replicas=800, seed=5,
        )  # fmt: skip
        gaps[eta] = compared(found)
    assert abs(gaps[0.02]["loss_z"]) < 3.5 and abs(gaps[0.02]["loss_gap"]) < 0.1
    assert gaps[0.5]["loss_z"] > 4 and gaps[0.5]["loss_gap"] > 0.1


def test_batch_norm_and_dropout_pass_the_svag_test_without_touching_the_model():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.3), nn.Linear(4, 3)).double()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stream = torch.random.get_rng_state()
    x, y = torch.randn(30, 5, dtype=torch.float64), torch.arange(30) % 3
    stream = torch.random.get_rng_state()
    options = dict(learning_rate=0.05, batch_size=6, steps=4, replicas=4)
    first, second = (svag_test(model, nn.CrossEntropyLoss(), x, y, **options) for _ in range(2))
    np.testing.assert_array_equal(first["loss"], second["loss"])
    assert torch.equal(stream, torch.random.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(("sampling", "momentum"), [("reshuffling", 0.9), ("without_replacement", 0.5)])
def test_the_runs_of_sgd_are_those_of_training(sampling, momentum):
    """Replica by replica `train_sgd`, last batch of 2 and all; SVAG and plain SGD are at η/(1−μ), without momentum."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    x, y = torch.randn(20, 5, dtype=torch.float64), torch.arange(20) % 3
    options = dict(learning_rate=0.05, batch_size=6, weight_decay=0.1)
    found = svag_test(
        model, nn.CrossEntropyLoss(), x, y, sampling=sampling, momentum=momentum, order=3, steps=9, replicas=2, seed=7,
        **options,
    )  # fmt: skip
    start = weights_of(model)
    assert list(found["kind"].values) == ["sgd", "svag", "plain"]
    independent = "with_replacement" if sampling == "reshuffling" else sampling
    slow = options | {"learning_rate": 0.05 / (1 - momentum), "sampling": independent}
    kinds = {
        "sgd": options | {"sampling": sampling, "momentum": momentum, "steps": 9},
        "svag": slow | {"svag": 3, "steps": 27}, "plain": slow | {"steps": 9},
    }  # fmt: skip
    for place, (kind, settings) in enumerate(kinds.items()):
        for replica in range(2):
            train_sgd(other := copy.deepcopy(model), x, y, **settings, seed=28 + place, replica=replica)
            one = found.sel(kind=kind, replica=replica)
            away = np.linalg.norm(weights_of(other) - start)
            assert float(one["distance"]) == pytest.approx(away, rel=1e-10)
            assert float(one["loss"]) == pytest.approx(nn.functional.cross_entropy(other(x), y).item(), rel=1e-10)


def test_reshuffling_shows_where_no_white_noise_could_and_plain_sgd_says_why():
    """Whole epochs end with little noise, where SVAG has that of D/b; bands of 4 and 5 standard errors."""
    model, x, y = scalar(np.random.default_rng(1).normal(size=12))
    torch.nn.init.constant_(model.weight, float(y.mean()))
    options = dict(learning_rate=0.02, batch_size=2, steps=60, replicas=100, order=2, seed=2)
    numbers = compared(svag_test(model, nn.MSELoss(), x, y, sampling="reshuffling", **options))
    assert numbers["distance_z"] < -5 and numbers["distance_gap"] < -0.5
    assert alike(numbers) is False and abs(numbers["plain_distance_z"]) < 4
    assert "plain_loss_gap" not in compared(svag_test(model, nn.MSELoss(), x, y, **options | {"replicas": 2}))


def test_runs_without_noise_that_end_apart_are_not_alike():
    """All samples in each batch: no scatter at all, and a gap of the mean that counts for what it is."""
    model, x, y = scalar(np.random.default_rng(1).normal(size=6))
    settings = dict(batch_size=6, sampling="without_replacement", replicas=3, order=6)
    coarse = compared(svag_test(model, nn.MSELoss(), x, y + 5, learning_rate=0.45, steps=1, **settings))
    assert abs(coarse["distance_gap"]) > 0.1 and abs(coarse["distance_z"]) > 1e6 and alike(coarse) is False
    assert alike(compared(svag_test(model, nn.MSELoss(), x, y + 5, learning_rate=0.01, steps=50, **settings))) is True


def test_page_table_json_and_resumption(call, tmp_path, models, undrawn):
    arguments = ("--data", "diabetes", "--learning-rate", "0.01", "--batch-size", "8", "--samples", "50",
                 "--epochs", "2", "--svag-steps", "5", "--replicas", "8")  # fmt: skip
    code, out, _ = call("linear", *arguments)
    assert code == 0 and "|HD−DH|/|HD|" in out and "η·λ_max" in out
    (folder,) = (tmp_path / "runs").iterdir()
    assert {p.name for p in folder.iterdir()} >= {"result.nc", "report.html", "config.toml"}
    code, out, _ = call("linear", *arguments, "--json")
    told = json.loads(out)
    question = Question(f"{models}:linear", "diabetes", 0.01, 8, samples=50, epochs=2)
    subject = subject_of(question)
    trained(question, subject)
    noise = GradientNoise(subject.model, subject.loss, subject.data[:2])
    assert told["numbers"]["tr D"] == pytest.approx(float(noise.trace()), rel=1e-10)
    h = Curvature(subject.model, subject.loss, subject.data[:2]).spectrum(1)[0]
    assert told["numbers"]["η·λ_max"] == pytest.approx(0.01 * h, rel=1e-6)
    (folder / "result.nc").unlink()  # as if it had been killed before the page
    (folder / "stages" / "svag.nc").unlink()
    code, again, _ = call("linear", *arguments, "--json")
    assert json.loads(again)["verdicts"] == told["verdicts"]


def test_verdicts_name_what_cannot_be_told():
    """Not alike by a tenth and three errors; alike with two errors added below a tenth; else open, and so are one's."""
    base = {f"{name}_{kind}": 1.0 for name in ("loss", "distance") for kind in ("sgd", "svag", "plain")}
    for gap, z, resolution, expected in (
        (0.0, 1.0, 0.5, None), (0.01, 1.0, 0.02, True), (0.5, 9.0, 0.02, False), (0.09, 9.0, 0.03, None),
        (0.3, 2.0, 0.45, None), (-0.5, -9.0, 0.17, False),
    ):  # fmt: skip
        numbers = {"_gap": gap, "_z": z, "_resolution": resolution}
        numbers = base | {f"{p}{name}{k}": v for p in ("", "plain_") for name in ("loss", "distance")
                          for k, v in numbers.items()}  # fmt: skip
        test = xr.Dataset(
            numbers | {"diverged": ("kind", [0, 0, 0])}, {"kind": ["sgd", "svag", "plain"], "replica": range(8)},
            {"l": 4, "steps": 3},
        )  # fmt: skip
        holds, text = _diagnose_report._of_the_equation(test)
        assert holds is expected is alike(numbers) and ("the step is too large" in text) == (expected is False)
    for gone, expected in (([2, 0, 0], False), ([0, 1, 0], None), ([0, 0, 1], None)):
        assert _diagnose_report._of_the_equation(test.assign(diverged=("kind", gone)))[0] is expected


def test_a_network_with_batch_norm_in_float32_and_loaded_weights(models, tmp_path):
    """Its D is that of the float type, and its weights those of the file; a batch of one is refused before training."""
    other = subject_of(Question(f"{models}:normed", "wine", 0.1, 8, samples=56)).model
    with torch.no_grad():
        other[0].weight.mul_(2)
    torch.save(other.state_dict(), tmp_path / "w.pt")
    question = Question(f"{models}:normed", "wine", 0.1, 8, samples=57, weights=str(tmp_path / "w.pt"), svag_steps=0)
    subject = subject_of(question)
    assert torch.equal(subject.model[0].weight, other[0].weight) and subject.data.inputs.dtype == torch.float32
    found = noise_and_curvature(question, subject)
    assert found.attrs["gradient_dtype"] == "float32" and found.attrs["batch_norm"] == 1
    noise = GradientNoise(other, nn.CrossEntropyLoss(), subject.data[:2])
    assert float(found["trace"]) == pytest.approx(float(noise.trace()), rel=1e-6)
    with pytest.raises(ValueError, match="batches of 1 of the 57 samples"):
        subject_of(Question(f"{models}:normed", "wine", 0.1, 8, samples=57))


@pytest.mark.parametrize(
    ("factory", "arguments", "said"),
    [
        ("linear", ("--data", "diabetes", "--batch-size", "800"), "batch_size must be a whole number from 1 to 354"),
        ("linear", ("--data", "diabetess", "--batch-size", "8"), "did you mean 'diabetes'?"),
        ("linear", ("--data", "diabetes", "--batch-size", "8", "--loss", "cross-entropy"), "does not fit diabetes"),
        ("linear", ("--data", "mnist", "--batch-size", "8"), "directory"),
        ("linear", ("--data", "mnist", "--batch-size", "8", "--directory", "/nowhere"), "/nowhere"),
        (
            "linear",
            ("--data", "wine", "--batch-size", "8", "--weights", "absent.pt"),
            "no file of weights",
        ),
        ("linear", ("--data", "wine", "--batch-size", "8", "--momentum", "1"), "momentum"),
        ("linear", ("--data", "wine", "--batch-size", "8", "--classes", "a"), "classes must be whole numbers"),
        ("linear", ("--data", "wine", "--batch-size", "8", "--device", "warp"), "device='warp'"),
        ("linear", ("--data", "digits", "--batch-size", "8"), "fails to make a model"),
        ("absent", ("--data", "wine", "--batch-size", "8"), "no function or class 'absent'"),
        ("wide", ("--data", "wine", "--batch-size", "8"), "(2, 3) is needed"),
        ("none", ("--data", "wine", "--batch-size", "8"), "must be a Module, got int"),
        ("random", ("--data", "wine", "--batch-size", "8"), "draws random numbers"),
        ("mean", ("--data", "wine", "--batch-size", "8"), "is needed"),
        ("half", ("--data", "wine", "--batch-size", "8"), "torch.bfloat16"),
        ("linear", ("--data", "wine", "--batch-size", "8", "--sampling", "all"), "sampling must be one of"),
        ("frozen", ("--data", "wine", "--batch-size", "8"), "no trainable weights"),
    ],
)
def test_bad_input_in_one_line(call, tmp_path, factory, arguments, said):
    code, _, err = call(factory, *arguments, "--learning-rate", "0.1")
    assert code == cli.FAULT and said in err and len(err.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_weights_of_another_model_and_unsafe_files_are_refused(call, tmp_path):
    other = tmp_path / "other.pt"
    torch.save(nn.Linear(3, 3).state_dict(), other)
    words = ("--data", "wine", "--batch-size", "8", "--learning-rate", "0.1", "--weights")
    assert "has shape" in call("linear", *words, other)[2]
    torch.save(nn.Linear(3, 3), other)
    assert "cannot be read safely" in (err := call("linear", *words, other)[2]) or "no state dict" in err
    for value, said in (([1], "holds a list and no state dict"), ({"weight": 1, "bias": 2}, "and no tensor"),
                        ({1: 2, "b": 3}, "differ in 1, b")):  # fmt: skip
        torch.save(value, other)
        code, _, err = call("linear", *words, other)
        assert code == cli.FAULT and said in err and len(err.strip().splitlines()) == 1


def test_too_large_a_model_is_refused_before_it_is_tried(monkeypatch, models):
    monkeypatch.setattr("sde_sgd._memory.available_bytes", lambda: 1000)
    question = Question(f"{models}:linear", "diabetes", 0.01, 8, samples=50)
    subject = subject_of(question)
    with pytest.raises(ValueError, match="GiB, more than half"):
        against_svag(question, subject)
