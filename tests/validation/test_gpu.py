"""Every estimator and every run on a GPU against itself on the processor in float64."""

import numpy as np
import pytest
import torch
from torch import nn

from sde_sgd.validation import (
    Curvature,
    GradientNoise,
    LocalPrediction,
    NetworkSDE,
    When,
    _memory,
    ensemble,
    network,
    recorder,
    train_sgd,
)
from sde_sgd.validation import diffusion_matrix as experiment
from sde_sgd.validation._svag import svag_test
from sde_sgd.validation.networks import check_maps

LOSS = nn.CrossEntropyLoss()
STATISTICS = {
    "eval": {"statistics": "eval"},
    "full": {"statistics": "full"},
    "minibatch": {"statistics": "minibatch", "batch_size": 8, "batches": 50, "seed": 3},
}
SAMPLES = 40


@pytest.fixture
def device():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device("cuda")


@pytest.fixture
def without_tf32():
    kept = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = kept


def connected(dtype=torch.float64):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)


def convolutional(dtype=torch.float64):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        normed = nn.Conv2d(1, 4, 2), nn.BatchNorm2d(4), nn.GELU()
        model = nn.Sequential(nn.Unflatten(1, (1, 2, 3)), *normed, nn.Flatten(), nn.Linear(8, 3)).double()
        model[2].running_var.uniform_(0.5, 2.0)
    return model.to(dtype)


BUILT = {"connected": connected, "convolutional": convolutional}


def data(dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(SAMPLES, 6, generator=generator, dtype=torch.float64)
    return inputs.to(dtype), torch.randint(3, (SAMPLES,), generator=generator)


def same(there, here, tolerance=1e-10):
    """Arrays and tensors on any device, to a share of the largest entry."""
    there, here = (x.detach().cpu().numpy() if torch.is_tensor(x) else np.asarray(x) for x in (there, here))
    np.testing.assert_allclose(there, here, rtol=0, atol=tolerance * max(1.0, float(np.abs(here).max())))


def same_datasets(there, here, tolerance=1e-10):
    assert set(there) == set(here)
    for name in here:
        same(there[name], here[name], tolerance)


@pytest.mark.gpu
@pytest.mark.parametrize("statistics", STATISTICS)
@pytest.mark.parametrize("build", BUILT)
def test_gradient_noise(device, build, statistics):
    options = STATISTICS[statistics]
    here = GradientNoise(BUILT[build](), LOSS, data(), **options)
    there = GradientNoise(BUILT[build](), LOSS, data(), device=device, **options)
    assert there.mean_gradient().device.type == device.type and here.parameters == there.parameters
    along = np.linspace(-1, 1, here.parameters)
    for centred in (False, True):
        for road in ("auto", "gradients"):
            same(there.gram(centred=centred, road=road), here.gram(centred=centred, road=road))
    for method in ("gram", "matrix", "lanczos"):
        road = {"method": method} | ({"tolerance": 1e-10} if method == "lanczos" else {})
        same(there.spectrum(3, **road), here.spectrum(3, **road), 1e-9)
        assert float(there.eigenpairs(3, **road)["residuals"].max()) < 1e-8
        same(there.eigenvectors(2, **road), here.eigenvectors(2, **road), 1e-6)
    for measure in (
        lambda n: torch.cat(list(n.sample_gradients(rows=7))), lambda n: n.mean_gradient(), lambda n: n.matrix(),
        lambda n: n.matvec(along), lambda n: n.trace(), lambda n: n.spectrum(), lambda n: n.to_scipy() @ along,
        lambda n: n.sample(8, torch.Generator().manual_seed(2)), lambda n: n.restricted(*first(n)).matrix(),
    ):  # fmt: skip
        same(measure(there), measure(here))
    on_device = torch.from_numpy(along).to(device)
    answer = there.matvec(on_device)
    assert answer.device.type == device.type and here.matvec(on_device).device.type == device.type
    same(answer, here.matvec(along))
    same_datasets(there.layers(), here.layers())
    ranks = there.ranks(), here.ranks()
    same(*([rank[name] for name in ("participation_ratio", "stable_rank", "entropy_rank")] for rank in ranks))
    draws = [there.sample(8, torch.Generator(device=device).manual_seed(2)) for _ in range(2)]
    assert torch.equal(*draws) and draws[0].device.type == device.type


def first(noise):
    return list(noise._losses.parameters)[:2]


@pytest.mark.gpu
@pytest.mark.parametrize("build", BUILT)
def test_what_the_noise_is_made_of(device, build):
    here, there = (GradientNoise(BUILT[build](), LOSS, data(), device=place) for place in ("cpu", device))
    bent = [Curvature(BUILT[build](), LOSS, data(), device=place) for place in ("cpu", device)]
    same_datasets(there.classes(), here.classes())
    for probes in (None, 6):
        same(there.cosine(bent[1], probes=probes), here.cosine(bent[0], probes=probes))
        same(there.cosine(bent[0], probes=probes), here.cosine(bent[0], probes=probes))  # on two devices
        same_datasets(there.divergence(probes=probes), here.divergence(probes=probes))


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["hessian", "ggn", "fisher"])
@pytest.mark.parametrize("statistics", ["eval", "full"])
@pytest.mark.parametrize("build", BUILT)
def test_curvature(device, build, statistics, kind):
    options = {"kind": kind, "statistics": statistics}
    here, there = (Curvature(BUILT[build](), LOSS, data(), device=place, **options) for place in ("cpu", device))
    along = np.linspace(-1, 1, here.parameters)
    for measure in (
        lambda c: c.matrix(), lambda c: c.matvec(along), lambda c: c.spectrum(), lambda c: c.mean_gradient(),
        lambda c: c.trace(), lambda c: c.trace(probes=9), lambda c: c.spectrum(3, method="lanczos", tolerance=1e-10),
        lambda c: c.eigenpairs(3, method="matrix")["eigenvalues"], lambda c: c.to_scipy() @ along,
    ):  # fmt: skip
        same(measure(there), measure(here), 1e-9)
    densities = [c.spectral_density(probes=2, steps=5) for c in (there, here)]  # few: later nodes amplify rounding
    same(densities[0]["nodes"], densities[1]["nodes"], 1e-8)
    same(densities[0]["weights"], densities[1]["weights"], 1e-8)


@pytest.mark.gpu
@pytest.mark.parametrize("build", BUILT)
def test_single_precision_without_tf32(device, without_tf32, build):
    here = GradientNoise(BUILT[build](), LOSS, data())
    there = GradientNoise(BUILT[build](torch.float32), LOSS, data(torch.float32), device=device)
    assert there.ranks()["gradient_dtype"] == "float32"
    same(there.matrix(), here.matrix(), 1e-4)
    same(there.spectrum(5), here.spectrum(5), 1e-4)
    same(there.sample(8, torch.Generator().manual_seed(2)), here.sample(8, torch.Generator().manual_seed(2)), 1e-4)
    for kind in ("hessian", "ggn"):
        bent = Curvature(BUILT[build](torch.float32), LOSS, data(torch.float32), kind, device=device)
        same(bent.matrix(), Curvature(BUILT[build](), LOSS, data(), kind).matrix(), 1e-4)


RUNS = {
    "plain": {},
    "without replacement, decay": {"sampling": "without_replacement", "weight_decay": 0.02},
    "Nesterov": {"sampling": "reshuffling", "momentum": 0.8, "nesterov": True},
    "SVAG": {"svag": 4},
    "schedule": {"learning_rate": lambda steps: 0.2 / (1 + steps)},
}


@pytest.mark.gpu
@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("build", BUILT)
def test_training_and_ensembles(device, build, run):
    options = {"steps": 12, "learning_rate": 0.1, "batch_size": 8, "seed": 3} | RUNS[run]
    measured = [recorder(name, When.every(steps=4)) for name in ("loss", "accuracy", "gradient_norm", "noise_trace")]
    measured += [recorder(name, When.every(steps=6), count=2) for name in ("noise_eigenvalues", "hessian_eigenvalues")]
    measured += [recorder(name, When.every(steps=6)) for name in ("distance", "weights")]
    directions = np.eye(2, sum(p.numel() for p in BUILT[build]().parameters()))
    measured += [recorder("projections", When.every(steps=6), directions=directions)]
    here, there = (
        train_sgd(BUILT[build](), *data(), device=place, recorders=measured, **options) for place in ("cpu", device)
    )
    same_datasets(there, here, 1e-9)
    side = [
        ensemble(BUILT[build](), *data(), replicas=2, device=place, compile=False, save_every=6, **options)
        for place in ("cpu", device)
    ]
    same_datasets(side[1], side[0], 1e-9)
    same(side[1].weights[0, -1], there["weights"][-1], 1e-9)


@pytest.mark.gpu
def test_a_compiled_ensemble(device):
    options = {"replicas": 3, "steps": 8, "learning_rate": 0.1, "batch_size": 8, "seed": 3}
    here = ensemble(connected(), *data(), compile=False, **options)
    there = ensemble(connected(), *data(), device=device, **options)
    assert there.attrs["compiled"] == 1
    same_datasets(there, here, 1e-9)


@pytest.mark.gpu
def test_a_checkpoint_resumes_bit_for_bit(device, tmp_path):
    """With dropout, whose random numbers are the device's own."""

    def model():
        return network("small-fc", (6,), 3, width=0.2, dropout=0.3)

    class Stop(Exception):
        pass

    def stop(done, total):
        if done >= 12:
            raise Stop

    options = {"steps": 24, "learning_rate": 0.1, "batch_size": 8, "device": device, "seed": 3, "momentum": 0.5}
    options |= {"recorders": [recorder("loss", When.every(steps=4))]}
    whole = train_sgd(model(), *data(), **options)
    kept = {"checkpoint": tmp_path / "run", "checkpoint_every": 4}
    with pytest.raises(Stop):
        train_sgd(model(), *data(), progress=stop, **kept, **options)
    again = train_sgd(model(), *data(), **kept, **options)
    assert np.array_equal(again["loss"], whole["loss"]) and again.sizes == whole.sizes


@pytest.mark.gpu
@pytest.mark.parametrize("statistics", ["eval", "full"])
@pytest.mark.parametrize("build", BUILT)
def test_the_sde(device, build, statistics):
    options = {"learning_rate": 0.2, "batch_size": 2, "weight_decay": 0.01, "statistics": statistics}
    here, there = (NetworkSDE(BUILT[build](), LOSS, data(), device=place, **options) for place in ("cpu", device))
    run = {"steps": 10, "replicas": 3, "save_every": 5, "seed": 4}
    increments = np.sqrt(0.2) * np.random.default_rng(1).normal(size=(10, 3, SAMPLES))
    for method in ("euler", "torchsde"):
        for given in (None, increments):
            pair = [getattr(sde, method)(increments=given, **run).weights for sde in (there, here)]
            same(*pair, 1e-9)
    same(there.euler(increments=increments, **run).weights, here.torchsde(increments=increments, **run).weights, 1e-9)
    inputs = data()[0]

    def watched(sde):
        return sde.euler(observe=lambda predict, w: predict(inputs.to(sde.device)).square().mean(), **run)

    same_datasets(watched(there), watched(here), 1e-9)
    if build == "connected":
        same(there.svag(3, **run).weights, here.svag(3, **run).weights, 1e-9)


@pytest.mark.gpu
def test_predictions_and_the_test_by_svag(device):
    options = {"learning_rate": 0.1, "batch_size": 4, "weight_decay": 0.05}
    trained = connected()
    train_sgd(trained, *data(), steps=400, learning_rate=0.2, batch_size=SAMPLES, sampling="without_replacement")
    for top in (None, 4):
        here, there = (
            LocalPrediction(trained, LOSS, data(), device=place, top=top, **options) for place in ("cpu", device)
        )
        same(there.curvature, here.curvature, 1e-8)
        same(np.linalg.eigvalsh(there.law.covariance), np.linalg.eigvalsh(here.law.covariance), 1e-8)
    inputs, targets = data()
    found = [
        svag_test(
            connected().to(place), LOSS, inputs.to(place), targets.to(place), learning_rate=0.1, batch_size=4, order=2,
            steps=5, replicas=6, seed=1,
        )
        for place in ("cpu", device)
    ]  # fmt: skip
    same_datasets(found[1], found[0], 1e-9)
    check_maps(connected().to(device), inputs.to(device), 3)


@pytest.mark.gpu
def test_memory_is_refused_and_random_streams_are_left_alone(device):
    noise = GradientNoise(connected(), LOSS, data(), device=device)
    state = torch.cuda.get_rng_state(device)
    noise.sample(2), noise.divergence(probes=3), Curvature(connected(), LOSS, data(), device=device).trace(probes=6)
    train_sgd(
        network("small-fc", (6,), 3, dropout=0.2), *data(), steps=2, learning_rate=0.1, batch_size=4, device=device
    )
    assert torch.equal(torch.cuda.get_rng_state(device), state)
    with pytest.raises(ValueError, match="available on cuda"):
        noise._require(10**15, "everything", "ask for less")
    drawing = nn.Sequential(nn.Linear(6, 3), Drawing()).double()
    with pytest.raises(ValueError, match=r"draws random numbers \(.*CUDA"):
        GradientNoise(drawing, LOSS, data(), device=device)
    assert torch.equal(torch.cuda.get_rng_state(device), state)


@pytest.mark.gpu
def test_the_experiment_on_d(device):
    asked = {"samples": 60, "epochs": 5, "statistics_samples": 24, "batches": 20, "networks": ["small-lenet"]}
    found = {}
    for name in ("cpu", "cuda"):
        config = experiment.EXPERIMENT.resolve(asked | {"device": name})
        stage = experiment.spectra("small-lenet", config)
        found[name] = stage, experiment.statistics("small-lenet", stage, config)
    for here, there in zip(found["cpu"], found["cuda"]):
        same_datasets(there, here, 1e-8)


class Drawing(nn.Module):
    def forward(self, x):
        return x + 0.0 * torch.rand_like(x)


def test_memory_is_that_of_the_device(monkeypatch):
    """Asked of the driver, so that it can be told without a GPU."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4 * 2**30, 80 * 2**30))
    place = torch.device("cuda", 1)
    _memory.require_memory(2 * 2**30, "a matrix", "take less", place)
    with pytest.raises(ValueError, match="a matrix needs about 2 GiB, more than half of the 4 GiB available on cuda:1"):
        _memory.require_memory(2 * 2**30 + 1, "a matrix", "take less", place)
