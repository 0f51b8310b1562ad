"""`sde-sgd diagnose`: numbers against dense and exact ones, the SVAG test against the exact recursion, bad input."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import sde_sgd as sde
from sde_sgd import cli, figures
from sde_sgd._files import write_bytes
from sde_sgd.validation import Curvature, GradientNoise, _diagnose_report
from sde_sgd.validation._svag import compared, svag_test
from sde_sgd.validation.diagnose import Question, against_svag, joint, noise_and_curvature, subject_of, trained

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
    exact = sde.DiscreteSGD(h, d, 0.1, 16, momentum=0.5, weight_decay=0.01)
    vectors = np.linalg.eigh(h)[1]
    predicted = (vectors.T @ exact.covariance @ vectors).diagonal()[::-1]
    np.testing.assert_allclose(found["variance"], predicted, rtol=1e-6)


def test_a_learning_rate_beyond_the_limit_has_no_prediction(models):
    found = noise_and_curvature(q := Question(f"{models}:linear", "diabetes", 5.0, 16, samples=60), subject_of(q))
    assert found.sizes["direction"] == 0 and "not stable" in found.attrs["no_steady_state"]
    assert float(found["sharpness"]) > float(found["limit"])


def test_joint_space_of_dependent_rows():
    rows = np.array([[1.0, 0, 0], [0, 1, 0], [1, 1e-9, 0]])
    basis = joint(rows)
    np.testing.assert_allclose(basis @ basis.T, np.eye(2), atol=1e-14)
    assert np.abs(basis[:, 2]).max() == 0


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


def test_momentum_is_tested_at_its_effective_learning_rate(models):
    question = Question(f"{models}:linear", "diabetes", 0.01, 8, momentum=0.9, samples=40, svag_steps=3, replicas=4)
    assert against_svag(question, subject_of(question)).attrs["learning_rate"] == pytest.approx(0.1)


def test_page_table_json_and_resumption(call, tmp_path, models, monkeypatch):
    monkeypatch.setattr(figures, "svg", lambda figure: b"")
    monkeypatch.setattr(figures, "save_png", lambda figure, path: write_bytes(path, b""))
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


def test_verdicts_name_what_cannot_be_told(models):
    question = Question(f"{models}:linear", "diabetes", 0.01, 8, samples=50, svag_steps=3, replicas=4)
    subject = subject_of(question)
    groups = {"/local": noise_and_curvature(question, subject), "/svag": against_svag(question, subject)}
    for gap, z, resolution, expected in ((0.0, 1.0, 0.5, None), (0.01, 1.0, 0.02, True), (0.5, 9.0, 0.02, False)):
        for name in ("loss", "distance"):
            groups["/svag"] = groups["/svag"].assign(
                {f"{name}_gap": gap, f"{name}_z": z, f"{name}_resolution": resolution}
            )
        assert _diagnose_report.verdicts(groups)[-1][0] is expected


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


def test_too_large_a_model_is_refused_before_it_is_tried(monkeypatch, models):
    monkeypatch.setattr("sde_sgd._memory.available_bytes", lambda: 1000)
    question = Question(f"{models}:linear", "diabetes", 0.01, 8, samples=50)
    subject = subject_of(question)
    with pytest.raises(ValueError, match="GiB, more than half"):
        against_svag(question, subject)
