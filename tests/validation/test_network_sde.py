"""The SDE of a network: dense autograd, torchsde on the same noise, exact moments of a linear model, SVAG's limit."""

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from torch import nn

from sde_sgd.errors import Diverged
from sde_sgd.validation import GradientNoise, NetworkSDE, ensemble, tiny_fc


def small(seed=0):
    """A network of 17 weights on 12 samples."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(0.7 * torch.randn(weight.shape, generator=generator, dtype=torch.float64))
    x = torch.randn(12, 2, generator=generator, dtype=torch.float64)
    return model, (x, (x[:, 0] * x[:, 1] > 0).long())


def equation(**options):
    model, data = small()
    options = {"learning_rate": 0.2, "batch_size": 2, "weight_decay": 0.03} | options
    return NetworkSDE(model, nn.CrossEntropyLoss(), data, **options)


def line():
    """Least squares in two variables with 6 samples: every moment of order two obeys a closed recursion."""
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(6, 2)), rng.normal(size=6)
    model = nn.Linear(2, 1, bias=False).double()
    data = torch.from_numpy(x), torch.from_numpy(y)[:, None]
    return model, data, [2 * np.outer(one, [*one, -value]) for one, value in zip(x, y)]


def moved(second, h, noise, slopes):
    """E z zᵀ of z = (w, 1) after w ← w − h ∇f + N(0, h·noise·D(w)): ∇f_k = A_k z, so that it is closed."""
    mean = np.mean(slopes, axis=0)
    spread = np.mean([a @ second @ a.T for a in slopes], axis=0) - mean @ second @ mean.T
    step = np.eye(3) - h * np.vstack([mean, np.zeros(3)])
    after = step @ second @ step.T
    after[:2, :2] += h * noise * spread
    return after


def moments(start, h, noise, time, slopes):
    z = np.array([*start, 1.0])
    second = np.outer(z, z)
    for _ in range(round(time / h)):
        second = moved(second, h, noise, slopes)
    return second


def limit(start, noise, time, slopes):
    """The same for h → 0: the generator is the part of a step that is odd in h."""
    units = np.eye(9).reshape(9, 3, 3)
    generator = np.stack([(moved(e, 1.0, noise, slopes) - moved(e, -1.0, noise, slopes)).ravel() / 2 for e in units])
    z = np.array([*start, 1.0])
    return (np.outer(z, z).ravel() @ expm(time * generator)).reshape(3, 3)


def neuron():
    """tanh(wx) fitted to three samples: one weight, so that expectations are integrals over a line."""
    x, y = np.array([1.0, -0.5, 2.0]), np.array([0.5, 0.3, -0.4])
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Tanh()).double()
    data = torch.from_numpy(x)[:, None], torch.from_numpy(y)[:, None]

    def slopes(w):
        out = np.tanh(np.multiply.outer(w, x))
        return 2 * (out - y) * (1 - out**2) * x

    return model, data, slopes


def neuron_square(slopes, eta, time, order=None, parts=None, start=0.3, reach=12.0, nodes=300):
    """E(w − w₀)² by backward recursion, u(w) ← E u(w'), on Chebyshev points: SVAG(order) at b = 1, or Euler of size
    η/parts with the three-point law for its normals, of weak order 1 as they are. No random numbers."""
    points = np.cos(np.pi * (np.arange(nodes) + 0.5) / nodes)
    g = slopes(reach * points)
    if parts is None:
        root, step, steps = np.sqrt(2 * order - 1), eta / order, round(time / eta) * order
        moves = ((1 + root) * g[:, :, None] + (1 - root) * g[:, None, :]).reshape(nodes, -1) / 2
        after, chance = reach * points[:, None] - step * moves, np.full(9, 1 / 9)
    else:
        step, steps = eta / parts, round(time / eta) * parts
        z, chance = np.sqrt(3) * np.array([-1.0, 0.0, 1.0]), np.array([1, 4, 1]) / 6
        spread = np.sqrt(step * eta) * g.std(axis=1)
        after = reach * points[:, None] - step * g.mean(axis=1)[:, None] + spread[:, None] * z
    vander = np.polynomial.chebyshev.chebvander
    basis = np.linalg.inv(vander(points, nodes - 1))
    move = sum(p * vander(np.clip(a / reach, -1, 1), nodes - 1) for p, a in zip(chance, after.T)) @ basis
    final = np.linalg.matrix_power(move, steps) @ (reach * points - start) ** 2
    return float((vander(np.array([start / reach]), nodes - 1) @ basis @ final)[0])


def neuron_limit(slopes, eta, time):
    """The SDE's: Euler at two steps, extrapolated."""
    coarse, fine = (neuron_square(slopes, eta, time, parts=parts) for parts in (256, 512))
    return 2 * fine - coarse


def test_drift_and_noise_are_those_of_dense_autograd():
    sde = equation()
    states = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 17)))
    model, data = small()
    drift = sde.f(0.0, states)
    columns = [sde.g_prod(0.0, states, torch.eye(12, dtype=torch.float64)[k].expand(3, -1)) for k in range(12)]
    factor = torch.stack(columns, dim=2)
    for r in range(3):
        nn.utils.vector_to_parameters(states[r], model.parameters())
        loss = nn.functional.cross_entropy(model(data[0]), data[1])
        slope = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])
        assert (drift[r] + slope + 0.03 * states[r]).abs().max() < 1e-13
        noise = GradientNoise(model, nn.CrossEntropyLoss(), data).matrix()
        np.testing.assert_allclose(factor[r] @ factor[r].T, 2 * sde.temperature * noise, atol=1e-14)
    both = sde.f_and_g_prod(0.0, states, torch.ones(3, 12, dtype=torch.float64))
    assert torch.equal(both[0], drift) and both[1].abs().max() < 1e-15  # constant dW is centred away


def test_torchsde_and_euler_agree_on_the_same_increments():
    """To 1e-10, over several saves; on the same path at half the step they differ by orders more."""
    sde = equation()
    fine = np.random.default_rng(1).normal(size=(40, 3, 12)) * np.sqrt(0.1)
    coarse = fine.reshape(20, 2, 3, 12).sum(1)
    ours = sde.euler(steps=20, replicas=3, increments=coarse, save_every=5).weights
    theirs = sde.torchsde(steps=20, replicas=3, increments=coarse, save_every=5).weights
    assert ours.shape == (3, 5, 17)
    np.testing.assert_allclose(theirs, ours, atol=1e-10)
    np.testing.assert_array_equal(theirs.time, ours.time)
    halved = sde.euler(steps=40, step=0.1, replicas=3, increments=fine, save_every=10).weights
    assert float(abs(halved - ours.values).max()) > 1e-4


def test_pieces_replicas_and_chunks_give_the_bits_of_the_whole():
    sde = equation()
    whole = sde.euler(steps=40, replicas=3, seed=4).weights[:, 0]
    part = sde.euler(steps=27, replicas=3, seed=4).weights[:, 0]
    rest = sde.euler(steps=13, replicas=3, seed=4, start=part.values, first_step=27).weights[:, 0]
    np.testing.assert_array_equal(rest, whole)
    alone = sde.euler(steps=40, replicas=1, first_replica=2, seed=4).weights[0, 0]
    np.testing.assert_allclose(alone, whole[2], atol=1e-13)
    sde._rows = 2
    np.testing.assert_allclose(sde.euler(steps=40, replicas=3, seed=4).weights[:, 0], whole, atol=1e-13)
    assert float(abs(sde.euler(steps=40, replicas=3, seed=5).weights[:, 0] - whole).max()) > 0.01
    assert float(abs(whole[0] - whole[1]).max()) > 0.01


def test_two_step_sizes_on_one_brownian_path():
    """ΔW of a step are the sums of the finer run's own; errors of the step halve with it on one path."""
    sde, coarse = equation(), {"steps": 20, "replicas": 3, "seed": 6}
    drawn = [np.random.Generator(np.random.Philox(np.random.SeedSequence([6, k, block]))).standard_normal((32, 12))
             for k in range(3) for block in range(3)]  # fmt: skip
    path = np.sqrt(0.05) * np.concatenate(np.array(drawn).reshape(3, 3, 32, 12).swapaxes(0, 1), axis=1).swapaxes(0, 1)
    one = sde.euler(step=0.2, refinement=4, **coarse).weights
    same = sde.euler(step=0.2, increments=path[:80].reshape(20, 4, 3, 12).sum(1), **coarse).weights
    np.testing.assert_allclose(one, same, atol=1e-13)
    half = sde.euler(step=0.2, refinement=4, **coarse | {"steps": 9})
    rest = sde.euler(step=0.2, refinement=4, start=half.weights[:, 0], first_step=9, **coarse | {"steps": 11}).weights
    np.testing.assert_array_equal(rest, one)
    two = sde.euler(step=0.1, refinement=2, **coarse | {"steps": 40}).weights
    fine = sde.euler(step=0.05, **coarse | {"steps": 80}).weights
    apart = [float(np.sqrt(((run.values - fine.values) ** 2).mean())) for run in (one, two)]
    assert apart[1] < 0.7 * apart[0] < 0.1
    other = sde.euler(step=0.2, **coarse).weights  # a path of its own is further away by far
    assert np.sqrt(((other.values - fine.values) ** 2).mean()) > 5 * apart[0]
    with pytest.raises(ValueError, match="refinement"):
        sde.euler(steps=3, refinement=3)


def test_torchsde_goes_in_segments(monkeypatch):
    """Shorter segments, also shorter than the interval of saves, are the same on prescribed noise."""
    from sde_sgd.validation import torchsde_adapter

    sde = equation()
    drawn = np.random.default_rng(2).normal(size=(24, 2, 12)) * np.sqrt(0.2)
    whole = sde.torchsde(steps=24, replicas=2, increments=drawn, save_every=8).weights
    for longest in (16, 5):
        monkeypatch.setattr(torchsde_adapter, "SEGMENT_STEPS", longest)
        found = sde.torchsde(steps=24, replicas=2, increments=drawn, save_every=8)
        np.testing.assert_allclose(found.weights, whole, atol=1e-12)
        np.testing.assert_array_equal(found.time, whole.time)
    free = [sde.torchsde(steps=12, replicas=2, seed=seed).weights.values for seed in (0, 0, 1)]
    assert np.array_equal(free[0], free[1]) and abs(free[0] - free[2]).max() > 1e-3


def test_svag_of_order_one_is_sgd_and_leaves_the_model_alone():
    model, data = small()
    before, stream = nn.utils.parameters_to_vector(model.parameters()).clone(), torch.random.get_rng_state()
    sde = NetworkSDE(model, nn.CrossEntropyLoss(), data, learning_rate=0.2, batch_size=2, weight_decay=0.03)
    found = sde.svag(1, steps=6, replicas=2, save_every=3, seed=3)
    same = ensemble(
        model, *data, replicas=2, steps=6, learning_rate=0.2, batch_size=2, weight_decay=0.03, save_every=3,
        compile=False, seed=3,
    )  # fmt: skip
    np.testing.assert_allclose(found.weights, same.weights, atol=1e-14)
    np.testing.assert_allclose(sde.svag(4, steps=6, save_every=3).time, [0, 0.6, 1.2])
    assert torch.equal(nn.utils.parameters_to_vector(model.parameters()), before)
    assert torch.equal(torch.random.get_rng_state(), stream)


def test_moments_on_a_linear_model_are_exact():
    """E|w|² of SGD, SVAG(4) and two steps of Euler, 2000 replicas, each within 4 σ: chance 2.5e-4 in all. As a
    counterexample the SDE itself lies more than 6 σ from SGD."""
    model, data, slopes = line()
    start, eta, b, steps = [2.0, -1.5], 0.24, 1, 5
    sde = NetworkSDE(model, nn.MSELoss(), data, learning_rate=eta, batch_size=b)
    options = {"replicas": 2000, "start": start, "observe": lambda predict, w: {"square": w @ w}}
    exact = {h: np.trace(moments(start, h, eta / b, steps * eta, slopes)) - 1 for h in (eta, eta / 4)}
    runs = [(sde.svag(1, steps=steps, **options), eta), (sde.svag(4, steps=steps, seed=1, **options), eta / 4),
            (sde.euler(steps=steps, seed=2, **options), eta),
            (sde.euler(steps=4 * steps, step=eta / 4, seed=3, **options), eta / 4)]  # fmt: skip
    for found, h in runs:
        values = found["square"].values.ravel()
        error = values.std(ddof=1) / np.sqrt(len(values))
        assert abs(values.mean() - exact[h]) < 4 * error
    continuous = np.trace(limit(start, eta / b, steps * eta, slopes)) - 1
    assert abs(continuous - exact[eta]) > 6 * runs[0][0]["square"].values.std() / np.sqrt(2000)


def test_svag_tends_to_the_sde_with_slope_minus_one():
    """The exact second moment of SVAG(l) on least squares against that of the SDE: slope of log gap in log l."""
    _, _, slopes = line()
    start, eta, time = [2.0, -1.5], 0.05, 1.0
    sde = limit(start, eta, time, slopes)
    orders = 2 ** np.arange(2, 9)
    gaps = [np.abs(moments(start, eta / order, eta, time, slopes) - sde).max() for order in orders]
    slope = np.polyfit(np.log(orders), np.log(gaps), 1)[0]
    assert slope == pytest.approx(-1, abs=0.02)


def test_svag_of_a_neuron_is_its_exact_law_and_tends_to_the_sde():
    """A nonlinear network: SVAG's E(w − w₀)² exact by integration, slope −1 in l, for large l, towards the SDE's, found
    by another road; replicas of `svag` at l = 1 and 4 within 4 σ (chance 1.3e-4)."""
    model, data, slopes = neuron()
    eta, time = 0.5, 2.0
    sde = NetworkSDE(model, nn.MSELoss(), data, learning_rate=eta, batch_size=1)
    for order in (1, 4):
        seen = {"observe": lambda predict, w: (w - 0.3).square().sum(), "start": [0.3], "seed": order}
        values = sde.svag(order, steps=4, replicas=2000, **seen)["observed"].values
        exact = neuron_square(slopes, eta, time, order, nodes=600)
        assert abs(values.mean() - exact) < 4 * values.std() / np.sqrt(2000)
    end, orders = neuron_limit(slopes, eta, time), np.array([64, 128, 256])
    gaps = [abs(neuron_square(slopes, eta, time, int(order)) - end) for order in orders]
    assert np.polyfit(np.log(orders), np.log(gaps), 1)[0] == pytest.approx(-1, abs=0.05)


def test_float32_and_observation():
    model = tiny_fc(4, 3, 2, dtype=torch.float32)
    x = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    data = (x, (x.sum(1) > 0).long())
    sde = NetworkSDE(model, nn.CrossEntropyLoss(), data, learning_rate=0.1, batch_size=3)
    double = NetworkSDE(model.double(), nn.CrossEntropyLoss(), (x.double(), data[1]), learning_rate=0.1, batch_size=3)
    one, two = (s.euler(steps=10, replicas=2).weights.values for s in (sde, double))
    assert one.dtype == np.float64 and 1e-9 < abs(one - two).max() < 1e-5
    found = double.euler(steps=4, save_every=2, observe=lambda predict, w: predict(x.double()).mean())
    assert found["observed"].dims == ("replica", "time") and found.attrs["float_type"] == "float64"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: equation(statistics="minibatch"), "statistics must be one of eval, full"),
        (lambda: equation(learning_rate=0), "learning_rate must be"),
        (lambda: equation().euler(steps=3, start=[1.0, 2.0]), r"shape \(17,\)"),
        (lambda: equation().euler(steps=3, increments=np.zeros((3, 1, 5))), "increments"),
        (lambda: equation().euler(steps=3, replicas=2**31), "replicas"),
        (lambda: equation().svag(0, steps=3), "order must be"),
        (lambda: equation().torchsde(steps=3, step=-1.0), "step must be"),
        (lambda: equation().euler(steps=3, save_every=4), "save_every must be"),
    ],
)
def test_refusals(call, said):
    with pytest.raises(ValueError, match=said):
        call()


def test_batch_norm_has_an_sde_but_no_svag_and_divergence_is_told():
    _, data = small()
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 2)).double()
    options = {"learning_rate": 0.1, "batch_size": 2}
    runs = [
        NetworkSDE(model, nn.CrossEntropyLoss(), data, statistics=s, **options).euler(steps=2).weights
        for s in ("eval", "full")
    ]
    assert float(abs(runs[0] - runs[1]).max()) > 1e-4
    with pytest.raises(ValueError, match="batch norm"):
        NetworkSDE(model, nn.CrossEntropyLoss(), data, **options).svag(2, steps=2)
    model, data, _ = line()
    with pytest.raises(Diverged, match="lower step=50"):
        NetworkSDE(model, nn.MSELoss(), data, **options).euler(steps=400, step=50.0, replicas=2)


@pytest.mark.gpu
def test_gpu_is_the_processor_to_rounding():
    model, data = small()
    found = [
        NetworkSDE(model, nn.CrossEntropyLoss(), data, learning_rate=0.2, batch_size=2, device=device)
        .euler(steps=30, replicas=3)
        .weights.values
        for device in ("cpu", "cuda")
    ]
    np.testing.assert_allclose(found[1], found[0], atol=1e-10)


@pytest.mark.evidence(table="network_sde_long")
def test_evidence_of_long_runs(table):
    """10⁵ steps by both integrators, each with its own noise: the same stationary mean of |w|² and of the loss, from
    20 blocks after the first tenth, within 4 σ (chance 1e-3 with 38 degrees of freedom); at a quarter of the
    temperature another one."""
    model, (x, labels) = small()
    targets = nn.functional.one_hot(labels).double()

    def observe(predict, weights):
        return torch.stack([weights.square().sum(), (predict(x) - targets).square().mean()])

    def at(rate):
        return NetworkSDE(model, nn.MSELoss(), (x, targets), learning_rate=rate, batch_size=2, weight_decay=0.03)

    options = {"step": 0.2, "save_every": 20, "observe": observe}
    runs = {
        "Euler": at(0.2).euler(steps=100_000, **options),
        "torchsde": at(0.2).torchsde(steps=100_000, **options),
        "Euler at T/4, 10⁴ steps": at(0.05).euler(steps=10_000, **options),
    }
    means, errors = {}, {}
    for name, run in runs.items():
        values = run.observed.values[0]
        assert np.isfinite(values).all() and run.time[-1] == pytest.approx(0.2 * 20 * (len(values) - 1))
        blocks = values[len(values) // 10 :]
        blocks = blocks[len(blocks) % 20 :].reshape(20, -1, 2).mean(axis=1)
        means[name], errors[name] = blocks.mean(axis=0), blocks.std(axis=0, ddof=1) / np.sqrt(20)
    table(
        "10⁵ steps of the SDE of a network", ["integrator", "mean of w·w", "mean loss"],
        [[name, *(f"{m:.4f} ± {2 * e:.4f}" for m, e in zip(means[name], errors[name]))] for name in runs],
        "η = 0.2, b = 2, λ = 0.03; ± two standard errors, from 20 blocks.",
    )  # fmt: skip
    ours, theirs, cooler = ((means[name], errors[name]) for name in runs)
    assert (np.abs(ours[0] - theirs[0]) < 4 * np.hypot(ours[1], theirs[1])).all()
    assert (np.abs(ours[0] - cooler[0]) > 4 * np.hypot(ours[1], cooler[1])).any()


@pytest.mark.evidence(table="network_sde")
def test_evidence_of_svag(table):
    """Slopes in 1/l: exact on least squares, measured on a network of 17 weights far from that limit."""
    _, _, slopes = line()
    exact = [moments([2.0, -1.5], 0.05 / order, 0.05, 1.0, slopes) for order in (8, 16, 32, 64)]
    gaps = [np.abs(one - limit([2.0, -1.5], 0.05, 1.0, slopes)).max() for one in exact]
    linear = np.polyfit(np.log([8, 16, 32, 64]), np.log(gaps), 1)[0]
    _, _, curve = neuron()
    end = neuron_limit(curve, 0.5, 2.0)
    apart = [abs(neuron_square(curve, 0.5, 2.0, order) - end) for order in (64, 128, 256)]
    curved = np.polyfit(np.log([64, 128, 256]), np.log(apart), 1)[0]
    rows = [["slope on least squares, exact", f"{linear:.3f}"],
            ["slope on a neuron with tanh, exact, l = 64 to 256", f"{curved:.3f}"]]  # fmt: skip
    strong = equation(learning_rate=1.0, batch_size=1, weight_decay=0.0)
    start = strong.euler(steps=1, save_every=1).weights.values[0, 0]
    origin = torch.from_numpy(start)
    many = {"replicas": 20_000, "observe": lambda predict, w: {"distance": (w - origin).square().sum()}}
    found = {}
    for order in (1, 2, 4, 8):
        values = strong.svag(order, steps=4, seed=order, **many)["distance"].values.ravel()
        found[order] = values.mean(), values.std(ddof=1) / np.sqrt(len(values))
    # SGD's moment is E_∞ + a/l + O(1/l²): Euler at h and h/2, extrapolated, has the same E_∞ by another road.
    halves = []
    for k, h in enumerate((1 / 8, 1 / 16)):
        values = strong.euler(steps=round(4 / h), step=h, seed=90 + k, **many)["distance"].values.ravel()
        halves.append((values.mean(), values.std(ddof=1) / np.sqrt(len(values))))
    end = 2 * halves[1][0] - halves[0][0], np.hypot(2 * halves[1][1], halves[0][1])
    gap = {order: (value - end[0], np.hypot(error, end[1])) for order, (value, error) in found.items()}
    for order, (value, error) in gap.items():
        rows.append([f"network: E|w − w₀|² of SVAG({order}) less the SDE's", f"{value:.4f} ± {2 * error:.4f}"])
    # The slope over the orders at which the gap is resolved, its error from 4000 draws of these gaps.
    used = [order for order in (1, 2, 4, 8) if abs(gap[order][0]) > 4 * gap[order][1]]
    rng = np.random.default_rng(0)
    shift = rng.normal(size=(4000, 1)) * end[1]
    drawn = np.array([found[o][0] for o in used]) + rng.normal(size=(4000, len(used))) * [found[o][1] for o in used]
    slope = np.polyfit(np.log(used), np.log(np.abs(drawn - end[0] - shift)).T, 1)[0]
    rows.append([f"network: slope in l over {used}", f"{np.median(slope):.2f} ± {2 * slope.std():.2f}"])
    table(
        "The SDE of a network", ["quantity", "value"], rows,
        "± two standard errors. Time 4 at η = 1, b = 1, 20,000 replicas; the SDE is Euler at h = 1/8 and 1/16, "
        "extrapolated.",
    )  # fmt: skip
    assert linear == pytest.approx(-1, abs=0.03) and curved == pytest.approx(-1, abs=0.05)
    assert len(used) >= 2 and abs(gap[8][0]) < abs(gap[1][0])
    assert abs(np.median(slope) + 1) < 0.3 + 3 * slope.std()
