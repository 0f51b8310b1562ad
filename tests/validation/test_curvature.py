"""D, Hessian and Gauss–Newton matrices of five small networks against dense float64 autograd, and what is refused."""

import copy
import functools

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import eigsh
from torch import nn
from torch.func import functional_call, grad, hessian, jacrev

from sde_sgd.validation import Curvature, GradientNoise
from sde_sgd.validation import _sample_losses as losses_module
from sde_sgd.validation._divergence import forward_twice_is_right

NETWORKS = {
    "linear": (lambda: nn.Linear(6, 2), nn.MSELoss()),
    "softmax": (lambda: nn.Linear(6, 3, bias=False), nn.CrossEntropyLoss()),
    "mlp": (lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)), nn.CrossEntropyLoss()),
    "conv": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 4, 2, padding=1), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(8, 3),
        ),
        nn.CrossEntropyLoss(),
    ),
    "batch-norm": (
        lambda: nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.GELU(), nn.Linear(4, 3)),
        nn.CrossEntropyLoss(),
    ),
}  # fmt: skip


def problem(name, samples=30):
    """(model, loss, (inputs, targets)) after a few steps in training mode, so that nothing is at its start."""
    build, loss = NETWORKS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        model = build().double()
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(samples, 6, generator=generator, dtype=torch.float64)
    regression = isinstance(loss, nn.MSELoss)
    targets = inputs[:, :2] ** 2 if regression else torch.randint(3, (samples,), generator=generator)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        loss(model(inputs), targets).backward()
        optimizer.step()
    return model, loss, (inputs, targets)


def dense(model, loss, data, training=False):
    """(D, H, G) from ``torch.func`` on the flat weights of the model as it stands."""
    inputs, targets = data
    model = model.train(training)
    names, shapes = zip(*((n, p.shape) for n, p in model.named_parameters()))
    start = nn.utils.parameters_to_vector(model.parameters()).detach()
    buffers = {n: b.clone() for n, b in model.named_buffers()}
    if training:  # the same forward pass, without the record of running averages
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.track_running_stats, module.running_mean, module.running_var = False, None, None
        buffers = {}

    def outputs(flat):
        pieces = torch.split(flat, [s.numel() for s in shapes])
        return functional_call(model, ({n: p.view(s) for n, p, s in zip(names, pieces, shapes)} | buffers,), (inputs,))

    def each(flat):
        return torch.stack([loss(o[None], y[None]) for o, y in zip(outputs(flat), targets)])

    gradients = jacrev(each)(start).numpy()
    residuals = gradients - gradients.mean(axis=0)
    values, jacobian = outputs(start), jacrev(outputs)(start)
    second = torch.stack([hessian(lambda o, y=y: loss(o[None], y[None]))(v) for v, y in zip(values, targets)])
    gauss_newton = torch.einsum("nad,nab,nbe->de", jacobian, second, jacobian) / len(inputs)
    curvature = jacrev(grad(lambda w: each(w).mean()))(start)  # hessian() is wrong for batch norm: torch 2.13
    return residuals.T @ residuals / len(inputs), curvature.detach().numpy(), gauss_newton.detach().numpy()


@functools.cache
def known(name):
    """(problem, its dense matrices)."""
    found = problem(name)
    return found, dense(*found)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_three_matrices_are_those_of_dense_autograd(name):
    (model, loss, data), (noise, curvature, gauss_newton) = known(name)
    found = GradientNoise(model, loss, data)
    np.testing.assert_allclose(found.matrix(), noise, rtol=0, atol=1e-10)
    np.testing.assert_allclose(super(GradientNoise, found)._dense(), noise, rtol=0, atol=1e-10)  # by products
    np.testing.assert_allclose(Curvature(model, loss, data).matrix(), curvature, rtol=0, atol=1e-10)
    np.testing.assert_allclose(Curvature(model, loss, data, "ggn").matrix(), gauss_newton, rtol=0, atol=1e-10)
    np.testing.assert_allclose(Curvature(model, loss, data, "fisher").matrix(), gauss_newton, rtol=0, atol=1e-10)
    if name in ("linear", "softmax"):  # a linear model: the Hessian is its Gauss–Newton part
        np.testing.assert_allclose(curvature, gauss_newton, rtol=0, atol=1e-12)
    else:  # and the counterexample: for others it is not
        assert np.abs(curvature - gauss_newton).max() > 1e-2 * np.abs(curvature).max()


def differences(model, loss, data, step=1e-5):
    """Hessian in training mode by central differences of plain gradients: error of the order of 1e-9 here."""
    model = copy.deepcopy(model).train()
    start = nn.utils.parameters_to_vector(model.parameters()).detach()

    def slope(weights):
        nn.utils.vector_to_parameters(weights, model.parameters())
        gradients = torch.autograd.grad(loss(model(data[0]), data[1]), list(model.parameters()))
        return torch.cat([g.flatten() for g in gradients])

    moved = torch.eye(len(start), dtype=torch.float64) * step
    return np.stack([((slope(start + m) - slope(start - m)) / (2 * step)).numpy() for m in moved], axis=1)


def test_training_statistics_go_through_the_batch():
    model, loss, data = problem("batch-norm")
    by_differences = differences(model, loss, data)
    frozen = Curvature(model, loss, data).matrix()
    full = [Curvature(model, loss, data, kind, statistics="full").matrix() for kind in ("hessian", "ggn")]
    noise = GradientNoise(model, loss, data, statistics="full")
    slope = Curvature(model, loss, data, statistics="full").mean_gradient()
    expected_noise, *expected = dense(model, loss, data, training=True)
    np.testing.assert_allclose(noise.matrix(), expected_noise, rtol=0, atol=1e-10)
    for one, other in zip(full, expected):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-10)
    np.testing.assert_allclose(full[0], by_differences, rtol=0, atol=1e-7)
    np.testing.assert_allclose(noise.mean_gradient(), slope, rtol=0, atol=1e-12)
    assert np.abs(frozen - full[0]).max() > 0.05 * np.abs(full[0]).max()


@pytest.mark.parametrize("kind", ["hessian", "ggn"])
def test_chunks_do_not_change_the_products(kind, monkeypatch):
    model, loss, data = problem("conv")
    along = np.linspace(-1, 1, 47)
    whole = Curvature(model, loss, data, kind) @ along
    monkeypatch.setattr(losses_module, "_CHUNK_BYTES", 8_000)
    monkeypatch.setattr(losses_module, "_KEEP_BYTES", 0)
    pieces = Curvature(model, loss, data, kind)
    assert len(pieces._losses.chunks(4)) > 3 and pieces._graphs is None
    np.testing.assert_allclose(pieces @ along, whole, rtol=0, atol=1e-14)


class Focal(nn.CrossEntropyLoss):
    """Another criterion under the name of a known one."""

    def forward(self, output, target):
        own = nn.functional.cross_entropy(output, target, reduction="none")
        return ((1 - torch.exp(-own)) ** 2 * own).mean()


IGNORING = nn.CrossEntropyLoss(reduction="sum", ignore_index=2)


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(label_smoothing=0.1),
        IGNORING,
        Focal(),
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64), reduction="sum"),
        nn.HuberLoss(),
        nn.MSELoss(reduction="sum"),
        lambda output, target: nn.functional.softplus(-output[:, 0] * target).mean(),
    ],
)
def test_gauss_newton_of_other_criteria(loss):
    model, _, (inputs, targets) = problem("mlp")
    if not isinstance(loss, nn.CrossEntropyLoss):
        targets = torch.sin(inputs[:, :3]) if isinstance(loss, nn.Module) else targets.double() - 1.5
    _, curvature, gauss_newton = dense(model, loss, (inputs, targets))
    found = Curvature(model, loss, (inputs, targets), "ggn").matrix()
    np.testing.assert_allclose(found, gauss_newton, rtol=0, atol=1e-10)
    np.testing.assert_allclose(Curvature(model, loss, (inputs, targets)).matrix(), curvature, rtol=0, atol=1e-10)


@pytest.mark.filterwarnings("ignore:Using a target size")
def test_an_output_that_meets_several_targets_counts_as_often():
    model, loss, (inputs, _) = problem("linear")
    model = nn.Linear(6, 1).double()
    data = inputs, torch.sin(inputs[:, :3])
    for loss in (nn.MSELoss(), nn.MSELoss(reduction="sum")):
        found = Curvature(model, loss, data, "ggn").matrix()  # a linear model: its Hessian
        np.testing.assert_allclose(found, Curvature(model, loss, data).matrix(), rtol=0, atol=1e-12)
        with pytest.raises(ValueError, match="MSELoss"):
            Curvature(model, loss, data, "fisher")


def test_fisher_is_the_expectation_over_the_model_and_not_over_the_data():
    model, loss, (inputs, targets) = problem("mlp")
    found = Curvature(model, loss, (inputs, targets), "fisher").matrix()
    probabilities = torch.softmax(model.eval()(inputs), dim=1).detach().numpy()
    expected = np.zeros_like(found)
    for label in range(3):
        own = GradientNoise(model, loss, (inputs, torch.full_like(targets, label)))
        rows = torch.cat(list(own.sample_gradients())).numpy()
        expected += (rows * probabilities[:, label : label + 1]).T @ rows / len(inputs)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    rows = torch.cat(list(GradientNoise(model, loss, (inputs, targets)).sample_gradients())).numpy()
    assert np.abs(rows.T @ rows / len(inputs) - found).max() > 0.1 * np.abs(found).max()


class Cubed(torch.autograd.Function):
    """x³, differentiable backward only, and twice."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x**3

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, slope):
        return 3 * ctx.saved_tensors[0] ** 2 * slope


class Cubing(nn.Module):
    def __init__(self, backward_only):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 3), nn.Linear(3, 3)).double()
        self.backward_only = backward_only

    def forward(self, x):
        x = self.layers[0](x)
        return self.layers[1](Cubed.apply(x) if self.backward_only else x**3)


def test_an_operation_without_forward_derivative_takes_another_way():
    _, loss, data = problem("mlp")
    torch.manual_seed(4)
    plain = Cubing(False)
    other = Cubing(True)
    other.load_state_dict(plain.state_dict())
    noises = [GradientNoise(model, loss, data) for model in (plain, other)]
    assert [noise._losses.forward_mode for noise in noises] == [True, False]
    assert [forward_twice_is_right(noise._losses) for noise in noises] == [True, False]
    along = np.linspace(-1, 1, noises[0].parameters)
    for kind in ("hessian", "ggn"):
        one, two = (Curvature(model, loss, data, kind).matvec(along) for model in (plain, other))
        np.testing.assert_allclose(two, one, atol=1e-12)
    np.testing.assert_allclose(noises[1].matvec(along), noises[0].matvec(along), atol=1e-12)
    one, two = (noise.divergence()["divergence"].values for noise in noises)
    np.testing.assert_allclose(two, one, atol=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_draw_is_one_weighted_sum_of_centred_gradients(name):
    """Linear in independent normals ξ: Rᵀξ/√(bN), R the centred gradients, RᵀR/N = D, so that its covariance is D/b."""
    model, loss, data = problem(name)
    noise = GradientNoise(model, loss, data)
    rows = torch.stack([slope_of(model, loss, x, y) for x, y in zip(*data)])
    normals = torch.randn(30, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    residuals = rows - rows.mean(dim=0)
    draw = noise.sample(4, torch.Generator().manual_seed(5))
    torch.testing.assert_close(draw, residuals.T @ normals / 120**0.5, rtol=0, atol=1e-12)
    np.testing.assert_allclose((residuals.T @ residuals).numpy() / 30, noise.matrix(), rtol=0, atol=1e-12)
    assert float((draw - rows.T @ normals / 120**0.5).abs().max()) > 1e-3  # the counterexample: not centred


def slope_of(model, loss, x, y):
    own = torch.autograd.grad(loss(model.eval()(x[None]), y[None]), list(model.parameters()))
    return torch.cat([part.flatten() for part in own])


# The contract ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_every_road_to_the_spectrum_agrees(name):
    (model, loss, data), matrices = known(name)
    truths = dict(zip(("noise", "hessian", "ggn"), matrices))
    operators = {kind: Curvature(model, loss, data, kind) for kind in ("hessian", "ggn")}
    operators["noise"] = noise = GradientNoise(model, loss, data)
    every = np.linalg.eigvalsh(truths["noise"])[::-1][:29]
    for method in ("auto", "gram", "matrix"):
        np.testing.assert_allclose(noise.spectrum(method=method), every, rtol=0, atol=1e-12)
    for kind, operator in operators.items():
        truth, roads = truths[kind], ("gram", "matrix", "lanczos")[0 if operator is noise else 1 :]
        values, vectors = np.linalg.eigh(truth)
        values, vectors = values[::-1][:6], vectors.T[::-1][:6]
        # Two outputs with one squared error: every eigenvalue twice, of which Lanczos may find one, its vector any.
        apart = (-np.diff(values)).min() > 1e-6 * values[0]
        assert apart or (name, kind) in {("linear", "hessian"), ("linear", "ggn")}
        if apart:
            np.testing.assert_allclose(eigsh(operator.to_scipy(), k=6, which="LA")[0][::-1], values, atol=1e-10)
        for method in roads if apart else roads[:-1]:
            options = {"tolerance": 1e-12} if method == "lanczos" else {}
            pairs = operator.eigenpairs(6, method=method, **options)
            if name == "mlp" or not options:  # the same iteration again
                np.testing.assert_allclose(operator.spectrum(6, method=method, **options), values, atol=1e-11)
            np.testing.assert_allclose(pairs["eigenvalues"], values, atol=1e-11)
            if apart:
                np.testing.assert_allclose(np.abs((pairs["vectors"].values * vectors).sum(axis=1)), 1.0, atol=1e-8)
            true = np.linalg.norm(truth @ pairs["vectors"].values.T - pairs["vectors"].values.T * values, axis=0)
            assert (pairs["residuals"] < 1e-11).all() and (true < 2e-11).all()
            assert pairs.attrs["method"] == method and pairs.attrs["statistics"] == "eval"
    np.testing.assert_array_equal(noise.eigenvectors(6), noise.eigenpairs(6)["vectors"])


def test_products_answer_in_kind():
    model, loss, data = problem("mlp")
    curvature = Curvature(model, loss, data)
    vector = np.linspace(0, 1, curvature.parameters)
    product = curvature @ vector
    assert isinstance(product, np.ndarray) and product.dtype == np.float64
    assert torch.equal(curvature.matvec(torch.from_numpy(vector)), torch.from_numpy(product))
    assert curvature.shape == (curvature.parameters,) * 2 and curvature.samples == 30
    single = Curvature(model.float(), loss, (data[0].float(), data[1]))
    assert single.matvec(vector).dtype == np.float32 == single.to_scipy().dtype
    np.testing.assert_allclose(single.matvec(vector), product, atol=1e-5)
    model.double()


def test_traces_and_densities():
    model, loss, data = problem("conv")
    curvature = Curvature(model, loss, data)
    truth, size = curvature.matrix(), curvature.parameters
    exact = curvature.trace()
    assert exact == pytest.approx(np.trace(truth), abs=1e-12) and (exact.error, exact.probes) == (0.0, 0)
    # Five standard errors, each estimated from 10 or 20 probes: t beyond 5 with 9 degrees has probability 7e-4.
    estimated = curvature.trace(probes=30, seed=1)
    assert estimated.probes == 30 and 0 < estimated.error < 0.5 * exact
    assert abs(estimated - exact) < 5 * estimated.error
    whole = curvature.trace(probes=3 * size)  # the sketch spans the space: nothing is left to chance
    assert whole == pytest.approx(float(exact), abs=1e-10)
    density = curvature.spectral_density(probes=10, steps=size, seed=2)
    np.testing.assert_allclose(density["weights"].sum("step"), 1.0, atol=1e-12)
    mean = density["mean"]
    assert abs(float(mean.mean()) * size - exact) < 5 * float(mean.std(ddof=1)) * size / np.sqrt(10)
    eigenvalues = np.linalg.eigvalsh(truth)  # of as many steps as weights, the nodes are eigenvalues, 0 many times
    gaps = np.abs(density["nodes"].values[0][:, None] - eigenvalues).min(axis=1)
    assert gaps.max() < 1e-9


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("ef",), {}, "D \\+ g gᵀ: use GradientNoise"),
        (("empirical_fisher",), {}, "no Fisher matrix"),
        (("hesian",), {}, "kind must be one of hessian, ggn, fisher.*did you mean 'hessian'"),
        ((), {"statistics": "minibatch"}, "statistics must be one of eval, full"),
        (("fisher", nn.CrossEntropyLoss(label_smoothing=0.1)), {}, 'known to be one.*kind="ggn"'),
        (("fisher", nn.HuberLoss()), {}, "HuberLoss"),
        (("fisher", Focal()), {}, "Focal"),
        (("fisher", IGNORING), {}, "CrossEntropyLoss.. on outputs"),
    ],
)
def test_bad_input_is_named(arguments, options, message):
    model, loss, (inputs, targets) = problem("mlp")
    kind = arguments[0] if arguments else "hessian"
    loss = arguments[1] if len(arguments) > 1 else loss
    data = (inputs, torch.sin(inputs[:, :3])) if isinstance(loss, nn.HuberLoss) else (inputs, targets)
    with pytest.raises(ValueError, match=message):
        Curvature(model, loss, data, kind, **options)


def test_a_criterion_without_second_derivative_is_told():
    model, _, data = problem("mlp")
    with pytest.raises(ValueError, match=r"products of the hessian cannot be computed .*not implemented"):
        Curvature(model, nn.MultiMarginLoss(), data).trace()


def test_bad_arguments_of_methods_are_named():
    curvature = Curvature(*problem("mlp"))
    for call, message in (
        (lambda: curvature.matvec(np.zeros(5)), r"shape \(53,\).*got \(5,\)"),
        (lambda: curvature.matvec(torch.full((53,), torch.nan)), "vector must be finite"),
        (lambda: curvature.spectrum(54), "k must be a whole number from 1 to 53"),
        (lambda: curvature.spectrum(method="lanczos"), "say how many, k"),
        (lambda: curvature.spectrum(3, method="gram"), "method must be one of auto, matrix, lanczos"),
        (lambda: curvature.spectrum(3, method="matrix", tolerance=0.1), "tolerance=0.1 belongs to method='lanczos'"),
        (lambda: curvature.spectrum(3, method="lanczos", tolerance=1e-16), "below the rounding"),
        (lambda: curvature.trace(probes=2), "probes must be a whole number >= 6"),
        (lambda: curvature.spectral_density(steps=54), "steps must be a whole number from 1 to 53"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
