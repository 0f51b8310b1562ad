"""Measurements on the coming step, on signal and noise: closed forms on quadratics, dense autograd, the run itself."""

import numpy as np
import pytest
import torch
from torch import nn

import sde_sgd as sde
from sde_sgd.validation import (
    OneHiddenLayer,
    Recorder,
    RunState,
    When,
    network,
    recorded_sgd,
    recorded_trajectory,
    recorder,
    tiny_fc,
    train_sgd,
)
from sde_sgd.validation._recursion import Recursion
from sde_sgd.validation._walk_floors import FloorLoss, joined
from sde_sgd.validation.measures import flat
from sde_sgd.validation.measures_noise import batch_share, layers
from sde_sgd.validation.measures_steps import Ahead

EACH = When.every(steps=1)


def recorders(names, when=EACH, **options):
    return [recorder(name, when, **options.get(name, {})) for name in names]


class Quadratic(nn.Module):
    """f_k = ½wᵀHw + s_k·w, the s_k adding up to 0, one row a sample: what it gives is its loss."""

    def __init__(self, hessian, start):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(start, dtype=torch.float64))
        self.register_buffer("h", torch.from_numpy(hessian))

    def forward(self, s):
        return 0.5 * self.w @ self.h @ self.w + s @ self.w


def mean_of(outputs, targets):
    return outputs.mean()


@pytest.fixture(scope="module")
def quadratic():
    rng = np.random.default_rng(0)
    a, s = rng.standard_normal((3, 3)), rng.standard_normal((12, 3))
    return a @ a.T + 0.2 * np.eye(3), s - s.mean(0), rng.standard_normal(3)


def trained(quadratic, wanted, **options):
    hessian, s, start = quadratic
    options = {"steps": 30, "learning_rate": 0.1, "batch_size": 2, "seed": 5, **options}
    model = Quadratic(hessian, start)
    return train_sgd(model, torch.from_numpy(s), torch.zeros(12), loss=mean_of, recorders=wanted, **options)


def test_a_step_on_a_quadratic_in_closed_form(quadratic):
    """Loss on the segment, products and cosine of gradients, distance, |w|, |∇f|, tr(DH)/(‖D‖‖H‖), to 1e-12."""
    hessian, s, start = quadratic
    names = ["weights", "segment_loss", "gradient_products", "gradient_cosine", "norm", "distance", "gradient_norm",
             "noise_hessian_cosine"]  # fmt: skip
    run = trained(quadratic, recorders(names), weight_decay=0.05, steps=12)
    picks = sde.sample_indices(12, batch_size=2, steps=14, seed=5)
    w = run["weights"].values
    gradient = w @ hessian + s[picks[:13]].mean(1)
    ahead = w - 0.1 * (gradient + 0.05 * w)
    np.testing.assert_allclose(ahead[:-1], w[1:], atol=1e-13)
    other = ahead @ hessian + s[picks[1:14]].mean(1)
    products = np.stack([(gradient * other).sum(1), (gradient**2).sum(1), (other**2).sum(1)], axis=1)
    np.testing.assert_allclose(run["gradient_products"], products, atol=1e-12)
    np.testing.assert_allclose(run["gradient_cosine"], products[:, 0] / np.sqrt(products[:, 1] * products[:, 2]),
                               atol=1e-12)  # fmt: skip
    for k, alpha in enumerate(np.linspace(0, 1, 11)):
        x = (1 - alpha) * w + alpha * ahead
        np.testing.assert_allclose(run["segment_loss"][:, k], 0.5 * np.einsum("ti,ij,tj->t", x, hessian, x), atol=1e-12)
    np.testing.assert_allclose(run["norm"], np.linalg.norm(w, axis=1), atol=1e-13)
    np.testing.assert_allclose(run["distance"], np.linalg.norm(w - start, axis=1), atol=1e-13)
    np.testing.assert_allclose(run["gradient_norm"], np.linalg.norm(w @ hessian, axis=1), atol=1e-12)
    noise = s.T @ s / 12
    aligned = np.trace(noise @ hessian) / np.linalg.norm(noise) / np.linalg.norm(hessian)
    np.testing.assert_allclose(run["noise_hessian_cosine"], aligned, atol=1e-12)
    assert abs(aligned) < 0.99 and np.ptp(run["gradient_cosine"].values) > 0.1  # neither is trivial here


def test_between_the_floors_of_a_quadratic_there_is_no_barrier(quadratic, tmp_path):
    """Floors at w + a*(w' − w), a* = g·∇f/(η gᵀHg), else at the lower end; the loss between them, and between iterates,
    to 1e-10. Broken off and continued, the floor before is remembered: the same bits."""
    hessian = quadratic[0]
    rate, apart = 1.2 / np.linalg.eigvalsh(hessian)[-1], When.every(steps=4)

    def recorded(**options):
        floors = Recorder("floor_loss", apart, FloorLoss(), ("line", "place"))
        return trained(quadratic, [recorder("weights", EACH), floors], steps=80, learning_rate=rate, **options)

    run = recorded()
    w, at = run["weights"].values, run["floor_loss_step"].values[:-1]
    moves, slopes = w[at + 1] - w[at], w[at] @ hessian
    free = -(moves * slopes).sum(1) / np.einsum("ti,ij,tj->t", moves, hessian, moves)
    assert 3 < ((free > 0) & (free < 1)).sum() < len(at)  # both kinds: floors inside, and none
    floors = w[at] + np.clip(free, 0, 1)[:, None] * moves
    assert np.isnan(run["floor_loss"][0]).all()
    for k, ends in enumerate((floors, w[at])):
        x = ends[:-1, None] + np.linspace(0, 1, 11)[:, None] * np.diff(ends, axis=0)[:, None]
        exact = 0.5 * np.einsum("tai,ij,taj->ta", x, hessian, x)
        np.testing.assert_allclose(run["floor_loss"].values[1:-1, k], exact, atol=1e-10)
    found = joined(run["floor_loss"].values[1:])
    assert not (found.barrier | found.above).any() and (found.rise <= 0).all() and (found.height > -1e-13).all()

    def interrupt(done, total):
        if done > 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recorded(checkpoint=tmp_path, checkpoint_every=9, progress=interrupt)
    np.testing.assert_array_equal(recorded(checkpoint=tmp_path, checkpoint_every=9)["floor_loss"], run["floor_loss"])


class Well(nn.Module):
    """(w² − 1)²/4."""

    def __init__(self, start):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([start], dtype=torch.float64))

    def forward(self, rows):
        return (self.w**2 - 1) ** 2 / 4 + 0 * rows


def test_between_the_floors_of_a_double_well_there_is_the_barrier_that_is_known():
    """From ∓2 a step of η = ⅓ ends at 0. The floors are ∓x, x = 1 − 0.02/(1.01) by the parabola through ∓0.8, 1, 1.2:
    f rises by ¼ − f(x) from the one to the other, and nowhere between −2 and 2, which are higher than f(0)."""
    measure, recursion = FloorLoss(), Recursion.checked(2, 2, "with_replacement", 0.0, False, 0.0, 1, 0)
    losses, data = [], torch.zeros(2, dtype=torch.float64)
    for step, place in enumerate((-2.0, 2.0, 2.0)):
        model = Well(place)
        state = RunState(step, float(step), 1 / 3, data, data, None, mean_of, flat(model), recursion, 0)
        losses.append(measure(model, state))
    found, x = joined(np.array(losses[1:])), 1 - 0.2 * (0.0484 - 0.0324) / (2 * (0.0484 + 0.0324))
    assert found.barrier.tolist() == [True, False] and found.above.tolist() == [False, False]
    depth = (x**2 - 1) ** 2 / 4
    np.testing.assert_allclose(found.rise, [0.25 - depth, 0.0], atol=1e-12)
    np.testing.assert_allclose(found.height, 2.25 - depth, atol=1e-12)


def test_signal_to_noise_of_a_quadratic_crosses_one_where_it_must(quadratic):
    """Full-batch descent along an eigenvector: |∇f| = h|w₀|(1 − ηh)^t, the noise of a batch of b √(tr D/b) throughout,
    so that ln SNR is a line and crosses 0 at t* = ln(√(tr D/b)/(h|w₀|))/ln(1 − ηh)."""
    hessian, s, _ = quadratic
    values, vectors = np.linalg.eigh(hessian)
    start, h, size = 40 * vectors[:, 1], values[1], 3
    gd = {"batch_size": 12, "sampling": "without_replacement"}
    model = (hessian, s, start)
    run = trained(model, recorder("gradient_statistics", EACH, batch_size=size), steps=60, **gd)
    mean, sample, batch, ratio = run["gradient_statistics"].values[:, 0].T
    trace = (s**2).sum() / 12
    np.testing.assert_allclose(sample, np.sqrt(trace), rtol=1e-10)
    np.testing.assert_allclose(batch, np.sqrt(trace * (12 - size) / 11 / size), rtol=1e-10)
    np.testing.assert_allclose(mean, h * 40 * (1 - 0.1 * h) ** np.arange(61), rtol=1e-10)
    below = int(np.argmax(ratio < 1))
    assert 0 < below < 60
    line = np.log(ratio)
    crossing = below - 1 + line[below - 1] / (line[below - 1] - line[below])
    assert crossing == pytest.approx(np.log(batch[0] / (h * 40)) / np.log(1 - 0.1 * h), abs=1e-10)
    own = trained(model, recorder("gradient_statistics", EACH), steps=1, **gd)["gradient_statistics"]
    assert (own.values[..., 2] == 0).all() and np.isinf(own.values[..., 3]).all()  # a full batch has no noise
    with pytest.raises(ValueError, match="at most the 12 samples, got 13"):
        trained(model, recorder("gradient_statistics", EACH, batch_size=13), **gd)


def test_share_of_the_noise_in_a_batch_by_counting_all_batches():
    s = np.random.default_rng(1).standard_normal(5)
    population = s.var()
    pairs = [(i, j) for i in range(5) for j in range(5)]
    assert np.var([s[i] + s[j] for i, j in pairs]) / 4 == pytest.approx(
        population * batch_share(2, 5, "with_replacement")
    )
    apart = np.var([s[i] + s[j] for i, j in pairs if i != j]) / 4
    assert apart == pytest.approx(population * batch_share(2, 5, "without_replacement"))
    assert apart == pytest.approx(population * batch_share(2, 5, "reshuffling"))


def test_statistics_of_layers_against_dense_autograd():
    model = tiny_fc(9, 4, 3, seed=2)
    inputs = torch.rand(20, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    targets = torch.arange(20) % 3
    run = train_sgd(model, inputs, targets, steps=0, learning_rate=0.1, batch_size=4,
                    recorders=recorder("gradient_statistics", EACH))  # fmt: skip
    rows = []
    for x, y in zip(inputs, targets):
        loss = nn.functional.cross_entropy(model(x[None]), y[None])
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))]).numpy())
    rows = np.array(rows)
    assert list(layers(model).values()) == [["1.weight", "1.bias"], ["3.weight", "3.bias"]]
    for found, part in zip(run["gradient_statistics"].values[0], (slice(0, 40), slice(40, None))):
        signal, trace = np.linalg.norm(rows[:, part].mean(0)), rows[:, part].var(0).sum()
        expected = [signal, np.sqrt(trace), np.sqrt(trace / 4), signal / np.sqrt(trace / 4)]
        np.testing.assert_allclose(found, expected, rtol=1e-11)


def test_the_coming_step_is_the_one_that_is_taken():
    """Dropout, batch norm, a short last batch, weight decay, a schedule, SVAG, momentum: the same bits."""
    inputs = torch.rand(50, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    targets = torch.arange(50) % 3

    def look(model, state):
        ahead = Ahead(model, state)
        return ahead.step(ahead.gradient())

    schedule = np.linspace(0.2, 0.05, 10)
    for options in ({"sampling": "reshuffling"}, {"svag": 2}, {"momentum": 0.7}, {"momentum": 0.7, "nesterov": True}):
        model = network("small-fc", (1, 4, 4), 3, width=0.1, dropout=0.3)
        run = train_sgd(
            model, inputs, targets, steps=10, learning_rate=schedule, batch_size=8, weight_decay=1e-2, seed=1,
            recorders=[Recorder("ahead", EACH, look), *recorders(["weights", "segment_loss"]),
                       recorder("segment_loss", EACH, name="full", statistics="full")], **options,
        )  # fmt: skip
        np.testing.assert_array_equal(run["ahead"][:-1].values, run["weights"][1:].values)
        eval_, full = run["segment_loss"].values, run["full"].values
        assert np.abs(full - eval_).max() > 1e-3  # two losses, where there is batch norm
        full_next = np.abs(full[1:, 0] - full[:-1, -1]).max()
        assert full_next < 1e-12 < np.abs(eval_[1:, 0] - eval_[:-1, -1]).max()  # running averages have moved on


def test_consecutive_gradients_of_a_run_at_the_end_and_without_noise(quadratic):
    """Full batches: g' = (1 − ηH)g, so that the cosine is 1 along an eigenvector with ηh < 1 and −1 beyond."""
    hessian, s, _ = quadratic
    values, vectors = np.linalg.eigh(hessian)
    for rate, sign in ((0.5 / values[2], 1), (1.5 / values[2], -1)):
        run = trained((hessian, s, vectors[:, 2]), recorder("gradient_cosine", When.at(steps=[0, 3])), steps=3,
                      learning_rate=rate, batch_size=12, sampling="without_replacement")  # fmt: skip
        np.testing.assert_allclose(run["gradient_cosine"], sign, atol=1e-12)


SPIRAL = ["loss", "gradient_norm", "noise_trace", "noise_eigenvalues", "hessian_eigenvalues", "noise_hessian_cosine",
          "gradient_statistics", "gradient_cosine", "gradient_products", "segment_loss", "projections", "norm",
          "distance", "weights"]  # fmt: skip
OF_SPIRAL = {
    "noise_eigenvalues": {"count": 2}, "hessian_eigenvalues": {"count": 2}, "segment_loss": {"points": 7},
    "projections": {"directions": [[1.0, 2.0]]},
}  # fmt: skip


class Spiral(nn.Module):
    def __init__(self, start):
        super().__init__()
        self.x = nn.Parameter(torch.tensor(start, dtype=torch.float64))

    def forward(self, phase):
        (x, y), square = self.x, self.x.square().sum()
        angle = torch.log(square) / 2 + phase[:, 0]
        return (square - 1) ** 2 / 4 + torch.sqrt(square) * (x * torch.cos(angle) - y * torch.sin(angle))


@pytest.mark.parametrize(
    "options",
    [{"sampling": "reshuffling"}, {"svag": 3, "learning_rate": 0.05},
     {"sampling": "without_replacement", "weight_decay": 0.1}],
)  # fmt: skip
def test_kernel_and_torch_record_one_run_alike(options):
    """The spiral: compiled steps and closed forms against torch's steps and autograd, every measurement to 1e-10."""
    spiral, start = sde.landscapes.get("spiral"), (1.0, 0.2)
    wanted = recorders(SPIRAL, When.every(steps=10), **OF_SPIRAL)
    options = {"steps": 21, "batch_size": 2, "learning_rate": np.linspace(0.1, 0.02, 21), "seed": 3, **options}
    one = recorded_sgd(spiral, start, recorders=wanted, **options)
    data = torch.from_numpy(spiral.data["phase"].copy())[:, None]
    other = train_sgd(Spiral(start), data, torch.zeros(3), loss=mean_of, recorders=wanted, **options)
    for name in SPIRAL:
        assert one[name].dims == other[name].dims and one[name].shape == other[name].shape
        np.testing.assert_allclose(one[name], other[name], atol=1e-10, err_msg=name)
    assert np.ptp(one["gradient_cosine"].values) > 0.1 and np.ptp(one["noise_hessian_cosine"].values) > 1e-3


def walker_of(model, data, **options):
    options = {"learning_rate": 0.2, "batch_size": 8, "momentum": 0.6, "weight_decay": 1e-3, "seed": 4, **options}
    return OneHiddenLayer(model, *data, **options), options


def test_one_hidden_layer_and_torch_record_one_run_alike(tmp_path):
    """To 1e-10, with momentum; and the same bits after a break."""
    data = torch.rand(40, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64), torch.arange(40) % 3
    names = ["loss", "accuracy", "gradient_statistics", "gradient_cosine", "segment_loss", "distance", "weights"]
    wanted = [*recorders(names, When.every(steps=6)), recorder("loss", When.logarithmic(4), name="tested", part="test")]
    walker, options = walker_of(tiny_fc(9, 4, 3), data, sampling="reshuffling")
    one = recorded_trajectory(walker, 30, wanted, test=data)
    other = train_sgd(tiny_fc(9, 4, 3), *data, steps=30, recorders=wanted, test=data, **options)
    for name in [*names, "tested"]:
        np.testing.assert_allclose(one[name], other[name], atol=1e-10, err_msg=name)

    def cut(done, total):
        if done == 18:
            raise KeyboardInterrupt

    def fresh():
        return walker_of(tiny_fc(9, 4, 3), data)[0]  # the velocity is part of what goes on

    whole = recorded_trajectory(fresh(), 30, wanted, test=data)
    with pytest.raises(KeyboardInterrupt):
        recorded_trajectory(fresh(), 30, wanted, test=data, checkpoint=tmp_path, progress=cut)
    again = recorded_trajectory(fresh(), 30, wanted, test=data, checkpoint=tmp_path)
    assert again.load().identical(whole)
    steps = whole["weights"].values
    assert np.abs(steps - one["weights"].values).max() > 1e-3
    with pytest.raises(ValueError, match="checkpoint of another run"):
        recorded_trajectory(walker_of(tiny_fc(9, 4, 3), data, seed=5)[0], 30, wanted, test=data, checkpoint=tmp_path)


def test_a_recorded_sum_goes_on_with_the_same_bits(tmp_path, monkeypatch):
    from sde_sgd.validation import measures_kernels

    monkeypatch.setattr(measures_kernels, "_CHUNK", 8)
    valley = sde.landscapes.get("bumpy_valley", finite_sum=True)
    options = {"learning_rate": lambda n: 0.05 / (1 + n), "batch_size": 3, "momentum": 0.5, "steps": 30, "seed": 1,
               "recorders": recorders(["weights", "segment_loss", "gradient_cosine"], When.every(steps=3))}  # fmt: skip
    whole = recorded_sgd(valley, (1.0, 0.1), **options)
    state = sde.sgd(valley, (1.0, 0.1), learning_rate=options["learning_rate"], batch_size=3, momentum=0.5, steps=30,
                    seed=1, save_every=3)  # fmt: skip
    np.testing.assert_array_equal(whole["weights"][:, 0], state["x"][0])  # whatever the pieces it was taken in

    def stop(done, total):
        if done == 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recorded_sgd(valley, (1.0, 0.1), **options, checkpoint=tmp_path, progress=stop)
    assert recorded_sgd(valley, (1.0, 0.1), **options, checkpoint=tmp_path).load().identical(whole)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ([recorder("accuracy", EACH)], "measures a torch model by Accuracy; of a finite sum there are: Distance"),
        ([recorder("loss", EACH, part="test")], "no test set"),
        ([recorder("hessian_eigenvalues", EACH, count=3)], "count must be a whole number from 1 to 2"),
        ([recorder("projections", EACH, directions=[1.0, 2.0])], r"shape \(k, 2\)"),
        ([recorder("loss", EACH)] * 2, "a name of its own"),
        ([], "at least one"),
    ],
)
def test_what_a_finite_sum_cannot_record(wanted, said):
    with pytest.raises(ValueError, match=said):
        recorded_sgd(
            sde.landscapes.get("spiral"), (1.0, 0.0), recorders=wanted, learning_rate=0.1, batch_size=1, steps=3
        )


def test_across_the_valley_the_noise_and_the_cosine_are_known():
    """Var y = η/(bk(2 − ηk)), E[g_y g_y'] = −ηk/(b(2 − ηk)), correlation −ηk/2 whatever b: within 5 standard errors of
    200 blocks (chance 1e-6 each); a noise √2 as large would be seen."""
    valley = sde.landscapes.get("bumpy_valley", finite_sum=True, ripple=0.0, floor=1e-9)
    k, eta, wanted = 10.0, 0.05, recorders(["weights", "gradient_products"], When.every(steps=1))
    for b in (1, 4):
        run = recorded_sgd(valley, (0.0, 0.0), recorders=wanted, learning_rate=eta, batch_size=b, steps=20_200, seed=2)
        y = run["weights"].values[201:, 1].reshape(200, 100)
        for values, exact in (
            ((y**2), eta / (b * k * (2 - eta * k))),
            (run["gradient_products"].values[201:, 0].reshape(200, 100), -eta * k / (b * (2 - eta * k))),
        ):
            blocks = values.mean(1)
            error = blocks.std(ddof=1) / np.sqrt(200)
            assert abs(blocks.mean() - exact) < 5 * error < abs(exact) / 2
