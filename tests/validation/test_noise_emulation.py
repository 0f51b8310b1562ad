"""noise: draws of each kind against the matrices they are to have, exit times and norms against closed forms."""

import itertools
import math

import mpmath as mp
import numpy as np
import pytest
import torch
from torch import nn

import sde_sgd as sde
from sde_sgd.validation import (
    Curvature,
    GradientNoise,
    NoisyDescent,
    OneHiddenLayer,
    fisher_rao_norm,
    load,
    network,
    slab_exit_time,
    stability_radius,
)
from sde_sgd.validation.noisy_descent import lanczos_root

CROSS = nn.CrossEntropyLoss()


@pytest.fixture(scope="module")
def small():
    """A network of 41 weights and 30 samples, with a gradient that is not 0."""
    split = load("digits", samples=30, size=2, classes=range(3), label_noise=0.2, seed=1)
    model = network("tiny-fc", (1, 2, 2), 3, width=0.3125, seed=1)
    model[2] = nn.Tanh()
    return model, split.inputs, split.targets


def biasless(*sizes, seed=0):
    """Linear layers and ReLU without biases: homogeneous in the weights, of their number."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = [nn.Flatten()]
        for one, other in itertools.pairwise(sizes):
            parts += [nn.Linear(one, other, bias=False, dtype=torch.float64), nn.ReLU()]
        return nn.Sequential(*parts[:-1])


# Draws -----------------------------------------------------------------------------------------------------------


def covariances(model, inputs, targets):
    pair = inputs, targets
    d = GradientNoise(model, CROSS, pair).matrix()
    values, turn = np.linalg.eigh(Curvature(model, CROSS, pair).matrix())
    return {
        "exact": d,
        "subset": d,
        "fisher": Curvature(model, CROSS, pair, kind="fisher").matrix(),
        "hessian": (turn * np.abs(values)) @ turn.T,
        "isotropic": np.eye(len(d)) * np.trace(d) / len(d),
    }


def descent(small, noise, **more):
    options = {"subset": {"subset": 6}, "hessian": {"products": 40}}.get(noise, {})
    return NoisyDescent(*small, noise=noise, **{"learning_rate": 0.1, "batch_size": 2.5, **options, **more})


def test_draws_have_the_covariance_they_are_named_for(small):
    """2,000 draws of each kind, 300 of "hessian".

    The squared distance of their covariance from C/b is at most 3 times what it is on average for normal draws,
    (tr² + |C|²)/n; quadratic forms along 5 directions are within 10 deviations of normal draws, 5 for kinds of twice
    their fourth moment; the mean² is within 6 times its own. Another kind's C must fail.
    """
    known = covariances(*small)
    rng = np.random.default_rng(0)
    for noise, expected in known.items():
        draws = descent(small, noise, replicas=300 if noise == "hessian" else 2000, seed=3).draw().numpy()
        found = 2.5 * draws.T @ draws / len(draws)
        floor = (np.trace(expected) ** 2 + (expected**2).sum()) / len(draws)
        assert ((found - expected) ** 2).sum() < 3 * floor, noise
        for v in np.linalg.qr(rng.standard_normal((len(expected), 5)))[0].T:
            assert v @ found @ v == pytest.approx(v @ expected @ v, rel=10 * math.sqrt(2 / len(draws))), noise
        other = known["isotropic" if noise != "isotropic" else "exact"]
        assert ((found - other) ** 2).sum() > 15 * floor, noise
        mean = draws.mean(0)
        assert mean @ mean < 6 * np.trace(expected) / 2.5 / len(draws), noise


def test_exact_draw_is_that_of_the_weighted_backward_pass(small):
    """The same normals through the Jacobian of single gradients, to rounding; and E|ξ|² of isotropic noise per draw."""
    made = descent(small, "exact", replicas=3, seed=5)
    seeds = np.random.SeedSequence(5).spawn(3)
    streams = [torch.Generator().manual_seed(int(w.generate_state(1, np.uint64)[0])) for w in seeds]
    normals = torch.stack([torch.randn(30, generator=s, dtype=torch.float64) for s in streams])
    rows = torch.cat(list(GradientNoise(small[0], CROSS, small[1:]).sample_gradients()))
    expected = (normals - normals.mean(1, keepdim=True)) @ rows / math.sqrt(2.5 * 30)
    np.testing.assert_allclose(made.draw(), expected, atol=1e-14)


def test_root_by_products_is_the_root():
    """|A|^{1/2} z for a matrix with 5 distinct eigenvalues of both signs, one of them 0, by 5 products; and |·|² = zᵀAz
    for A ≥ 0 by 2 products, where the vector itself is not right."""
    rng = np.random.default_rng(1)
    turn = np.linalg.qr(rng.standard_normal((12, 12)))[0]
    values = np.repeat([3.0, 1.0, 0.0, -0.5, -2.0], [2, 3, 2, 2, 3])
    a = torch.from_numpy((turn * values) @ turn.T)
    z = torch.from_numpy(rng.standard_normal((4, 12)))
    expected = z.numpy() @ (turn * np.sqrt(np.abs(values))) @ turn.T
    np.testing.assert_allclose(lanczos_root(lambda v: v @ a, z, 5), expected, atol=1e-7)
    np.testing.assert_allclose(lanczos_root(lambda v: v @ a, z, 9), expected, atol=1e-7)
    b = torch.from_numpy((turn * np.abs(values)) @ turn.T)
    short = lanczos_root(lambda v: v @ b, z, 2)
    np.testing.assert_allclose((short**2).sum(1), (z * (z @ b)).sum(1), rtol=1e-12)
    assert np.abs(short.numpy() - expected).max() > 0.1


def test_top_curvature_is_that_of_the_matrix(small):
    """By as many products as weights to 1e-9, by 6 from below; and looking changes no later draw."""
    model, inputs, targets = small
    known = np.linalg.eigvalsh(Curvature(model, CROSS, (inputs, targets)).matrix())[-1]
    made, again = (descent(small, "exact", replicas=2, seed=1) for _ in range(2))
    np.testing.assert_allclose(made.top_curvature(41), known, rtol=1e-9)
    few = made.top_curvature(6)
    assert torch.all(few < known * (1 + 1e-12)) and torch.all(few > 0.9 * known)
    for one in (made, again):
        one.run(2)
    assert torch.equal(made.weights, again.weights)
    own = made.top_curvature(41)  # each replica has its own
    assert own[0] != own[1] and not np.allclose(own, known, rtol=1e-3)


def test_descent_without_noise_is_full_batch_sgd(small):
    """300 steps against the compiled recursion with b = N without replacement; each replica on data of its own."""
    model, inputs, targets = small
    made = NoisyDescent(
        model, torch.stack([inputs, inputs.flip(0)]), torch.stack([targets, targets.flip(0)]), noise="none",
        learning_rate=0.3, batch_size=1, replicas=2, weight_decay=0.01,
    )  # fmt: skip
    made.run(300)
    walker = OneHiddenLayer(
        model, inputs, targets, learning_rate=0.3, batch_size=30, sampling="without_replacement", weight_decay=0.01
    )
    walker.run(300)
    np.testing.assert_allclose(made.weights, np.stack([walker.weights] * 2), atol=1e-10)


def test_stationary_variance_of_noise_on_a_quadratic():
    """Softmax regression is no quadratic, so that the law is taken from the draw: one step from one point has mean
    −η∇f and covariance η²D/b, whatever η; and b need not be whole."""
    split = load("digits", samples=25, size=2, classes=range(2), seed=0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, dtype=torch.float64))
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(0.1)
    made = NoisyDescent(model, split.inputs, split.targets, noise="exact", learning_rate=0.5, batch_size=0.7,
                        replicas=20_000)  # fmt: skip
    before = made.weights.clone()
    made.run(1)
    moved = (made.weights - before).numpy()
    noise = GradientNoise(model, CROSS, (split.inputs, split.targets))
    expected, spread = -0.5 * noise.mean_gradient().numpy(), 0.25 * noise.matrix() / 0.7
    deviation = np.sqrt(np.diag(spread) / 20_000)
    assert np.all(np.abs(moved.mean(0) - expected) < 5 * deviation + 1e-12)
    np.testing.assert_allclose(np.cov(moved.T), spread, atol=6 * np.trace(spread) / math.sqrt(20_000))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"noise": "gaussian"}, "noise"),
        ({"noise": "subset"}, "subset is for noise='subset', and needed there"),
        ({"noise": "exact", "products": 3}, "products is for noise='hessian'"),
        ({"noise": "exact", "batch_size": 0}, "batch_size must be"),
        ({"noise": "subset", "subset": 31}, "from 2 to 30"),
        ({"noise": "exact", "start": [1.0]}, "start must have shape"),
    ],
)
def test_refusals_of_descent(small, options, said):
    with pytest.raises(ValueError, match=said):
        NoisyDescent(*small, **{"learning_rate": 0.1, "batch_size": 2, **options})


def test_a_run_that_diverges_says_so(small):
    made = descent(small, "exact", learning_rate=1e200, weight_decay=1.0, replicas=2)
    with pytest.raises(sde.errors.Diverged, match="no longer finite by step"):
        made.run(50)


# Exit times and radii --------------------------------------------------------------------------------------------


def test_exit_times_are_the_hypergeometric_function():
    """All three signs of curvature against ₂F₂ with 40 digits, from 1e-9 to 400; and R²/2TD without any."""
    mp.mp.dps = 40
    for z in (1e-9, 1e-7, 2e-7, 1e-3, 0.3, 1.0, 4.0, 25.0, 49.9, 50.1, 63.9, 64.1, 300.0):
        for sign in (1, -1):
            exact = float(mp.log(mp.hyper([1, 1], [1.5, 2], mp.mpf(sign * z))))
            found = slab_exit_time(sign * z, 0.5, 1.0, 1.0, log=True)
            assert found == pytest.approx(exact, rel=1e-12, abs=1e-13), sign * z
    assert slab_exit_time(0.0, 3.0, 0.25, 2.0) == pytest.approx(4 / 1.5, rel=1e-14)
    assert slab_exit_time(1.0, 0.0, 1.0, 1.0) == np.inf
    far = slab_exit_time([1e5, -1e5], 0.5, 1.0, 1.0, log=True)  # asymptotics, to their own order
    assert far[0] == pytest.approx(1e5 + math.log(math.sqrt(math.pi) / 2) - 1.5 * math.log(1e5), abs=1e-4)
    half = 0.5 * math.log(4e5) + 0.25 * 0.5772156649015329 * 2
    assert math.exp(far[1]) == pytest.approx(2 * (half / 2) / 1e5, rel=1e-5)
    deep = slab_exit_time(1e20, 0.5, 1.0, 1.0, log=True)  # the layer at the edge is thinner than a rounding of X²
    assert deep == pytest.approx(1e20, rel=1e-14)


def test_exit_time_by_the_backward_equation():
    """An independent road: the grid's mean exit time of a parabola and of a saddle, extrapolated in the spacing."""
    for h, d, t in ((2.0, 0.7, 0.4), (-1.5, 0.7, 0.4)):
        line = sde.Landscape(
            ("x",), "h*x**2/2", diffusion=[["u + 0*x"]], parameters={"h": h, "u": d}, domain=((-9, 9),), name="line"
        )
        times = [
            float(
                sde.FokkerPlanck(line.at_temperature(t), sde.Grid(-1.2, 1.2, n))
                .mean_exit_time("x < 1 and x > -1")
                .interp(x=0)
            )
            for n in (200, 400)
        ]
        assert slab_exit_time(h, d, t, 1.0) == pytest.approx(times[1] + (times[1] - times[0]) / 3, rel=2e-5)


def test_radius_is_the_inverse_and_not_one_over_the_curvature():
    """Back to the time to 1e-11, in wells, on flats and at saddles. With D = cH a tenfold curvature makes the radius a
    little larger, by √log, where 1/h would make it a tenth; a matrix is taken along its eigenvectors in any basis."""
    for h in (5.0, 0.3, 0.0, -0.3, -2.0):
        radius = stability_radius(h, 0.5, 0.1, 7.0).radius.values
        assert slab_exit_time(h, 0.5, 0.1, radius) == pytest.approx(7.0, rel=1e-11)
    found = stability_radius(np.diag([1.0, 10.0]), 0.5 * np.diag([1.0, 10.0]), 0.01, 100.0)
    assert list(found.curvature) == [10.0, 1.0]
    np.testing.assert_allclose(found.deviation, math.sqrt(0.005), rtol=1e-12)
    assert 1.0 < found.radius[0] / found.radius[1] < 1.25
    rng = np.random.default_rng(2)
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    d = (root := rng.standard_normal((3, 3))) @ root.T
    plain = stability_radius(np.diag([3.0, 1.0, -1.0]), d, 0.1, 5.0)
    turned = stability_radius((turn * [3.0, 1.0, -1.0]) @ turn.T, turn @ d @ turn.T, 0.1, 5.0)
    np.testing.assert_allclose(turned.radius, plain.radius, rtol=1e-9)
    assert np.isnan(plain.deviation[2]) and plain.radius[2] > 0
    assert float(stability_radius(1.0, 0.0, 0.1, 5.0).radius[0]) == 0.0
    assert float(stability_radius(-2.0, 0.5, 0.1, 1000.0).radius[0]) == np.inf  # e^{2000}: a saddle keeps nothing
    assert float(stability_radius(-1.0, 1e-60, 0.5, 450.0).radius[0]) == np.inf  # where R²/2TD alone is beyond float64


def test_radius_of_a_network_is_that_of_its_matrices(small):
    model, inputs, targets = small
    h, d = Curvature(model, CROSS, (inputs, targets)), GradientNoise(model, CROSS, (inputs, targets))
    found = stability_radius(h, d, 0.05, 30.0, directions=4)
    whole = stability_radius(h.matrix(), d.matrix(), 0.05, 30.0)
    np.testing.assert_allclose(found.radius, whole.radius[:4], rtol=1e-8)
    with pytest.raises(ValueError, match="directions=10"):
        stability_radius(h, d, 0.05, 30.0)
    with pytest.raises(ValueError, match="both are matrices"):
        stability_radius(h, 1.0, 0.05, 30.0, directions=2)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: slab_exit_time(1.0, -1.0, 1.0, 1.0), "noise must be >= 0"),
        (lambda: slab_exit_time(1.0, 1.0, 0.0, 1.0), "temperature must be > 0"),
        (lambda: slab_exit_time(1e4, 1.0, 1.0, 1.0), "ask for log=True"),
        (lambda: slab_exit_time(1e200, 1e-200, 1.0, 1.0), "beyond float64"),
        (lambda: stability_radius(1.0, 1.0, 0.1, -1.0), "time"),
        (lambda: stability_radius([[1.0, 2.0], [0.0, 1.0]], np.eye(2), 0.1, 1.0), "must be symmetric"),
        (lambda: stability_radius(np.eye(2), -np.eye(2), 0.1, 1.0), "positive semi-definite"),
        (lambda: stability_radius(np.eye(2), 1.0, 0.1, 1.0), "give two numbers"),
    ],
)
def test_refusals_of_times_and_radii(call, said):
    with pytest.raises(ValueError, match=said):
        call()


# The Fisher–Rao norm ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", ["model", "data"])
def test_norm_is_that_of_the_matrix_and_of_homogeneity(small, labels):
    """⟨w, Fw⟩ with the dense matrix, by products and by Euler's identity: three roads, to 1e-10; linear and ReLU
    networks of one to three layers, cross-entropy and squared error."""
    _, inputs, targets = small
    for sizes in ((4, 3), (4, 6, 3), (4, 5, 6, 3)):
        model = biasless(*sizes, seed=len(sizes))
        weights = torch.cat([p.detach().flatten() for p in model.parameters()]).numpy()
        for loss, wanted in ((CROSS, targets), (nn.MSELoss(), nn.functional.one_hot(targets, 3).double())):
            pair = inputs, wanted
            if labels == "model":
                dense = Curvature(model, loss, pair, kind="fisher").matrix()
            else:
                noise = GradientNoise(model, loss, pair)
                dense = noise.matrix() + np.outer(noise.mean_gradient(), noise.mean_gradient())
            expected = weights @ dense @ weights
            assert fisher_rao_norm(model, loss, pair, labels=labels) == pytest.approx(expected, rel=1e-10)
            found = fisher_rao_norm(model, loss, pair, labels=labels, degree=len(sizes) - 1)
            assert found == pytest.approx(expected, rel=1e-10)


def test_norm_stays_when_layers_are_rescaled_and_a_plain_norm_does_not(small):
    """w₁ → 5w₁, w₂ → w₂/5 is the same function of ReLU; ⟨w, Fw⟩ stays to rounding."""
    _, inputs, targets = small
    model, pair = biasless(4, 6, 3), (inputs, targets)
    before = fisher_rao_norm(model, CROSS, pair)
    size = sum(float(p.detach().square().sum()) for p in model.parameters())
    with torch.no_grad():
        model[1].weight *= 5
        model[3].weight /= 5
    assert fisher_rao_norm(model, CROSS, pair) == pytest.approx(before, rel=1e-12)
    assert sum(float(p.detach().square().sum()) for p in model.parameters()) > 5 * size


def test_norm_of_no_weights_is_none(small):
    """0 at w = 0, where every degree is right."""
    _, inputs, targets = small
    model = biasless(4, 6, 3)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    assert fisher_rao_norm(model, CROSS, (inputs, targets), degree=2) == 0.0
    assert fisher_rao_norm(model, CROSS, (inputs, targets)) == 0.0


def test_a_bias_has_no_degree(small):
    """With a bias the identity gives another number than the matrix: it is refused."""
    model, inputs, targets = small
    with pytest.raises(ValueError, match="they have no such degree"):
        fisher_rao_norm(model, CROSS, (inputs, targets), degree=2)
    plain = biasless(4, 6, 3)
    with pytest.raises(ValueError, match="they have no such degree"):
        fisher_rao_norm(plain, CROSS, (inputs, targets), degree=1)
    with pytest.raises(ValueError, match="labels"):
        fisher_rao_norm(plain, CROSS, (inputs, targets), labels="empirical")


def test_weights_are_the_callers(small):
    """None of these changes the model it is given."""
    model, inputs, targets = small
    before = [p.detach().clone() for p in model.parameters()]
    descent(small, "hessian").run(2)
    fisher_rao_norm(model, CROSS, (inputs, targets))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))
