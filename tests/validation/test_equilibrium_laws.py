"""Scale invariance and weight decay: the closed forms of the equilibrium against autograd, recursions and solvers."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch.func import functional_call, grad

from sde_sgd.validation import ensemble, load
from sde_sgd.validation._equilibrium_descent import one_and_the_same, toy
from sde_sgd.validation._equilibrium_laws import (
    GrowingRate,
    decay_balance,
    forgotten,
    fourth_power,
    relaxed,
    unstable_square,
)
from sde_sgd.validation._equilibrium_network import NormalisedNetwork
from sde_sgd.validation._equilibrium_runs import Observed
from sde_sgd.validation.equilibrium import EXPERIMENT

DATA = load("digits", samples=120)


def network(**options):
    return NormalisedNetwork((1, 8, 8), 10, **{"widths": (6, 5), **options})


def loss_and_slopes(model, weights, inputs=DATA.inputs[:20], targets=DATA.targets[:20]):
    def value(named):
        return torch.nn.functional.cross_entropy(functional_call(model, named, (inputs,)), targets)

    return value(weights), grad(value)(weights)


@pytest.mark.parametrize("kind", ["connected", "convolutional"])
def test_the_loss_of_a_batch_does_not_see_the_norm_of_any_row(kind):
    model = network(kind=kind)
    weights = {name: w.detach() for name, w in model.named_parameters()}
    before, slopes = loss_and_slopes(model, weights)
    factors = torch.linspace(0.3, 4.0, 6, dtype=torch.float64)
    first = next(iter(weights))
    scaled = weights | {first: weights[first] * factors.reshape(-1, *[1] * (weights[first].ndim - 1))}
    after, turned = loss_and_slopes(model, scaled)
    assert abs(before - after) < 1e-12
    for name, slope in slopes.items():
        along = (slope * weights[name]).flatten(1).sum(1)  # of each row
        assert along.abs().max() < 1e-12 and slope.abs().max() > 1e-3
    ratio = turned[first].flatten(1).norm(dim=1) * factors / slopes[first].flatten(1).norm(dim=1)
    np.testing.assert_allclose(ratio, 1.0, rtol=1e-10)
    assert [name for name, _ in model.named_parameters()] == ["hidden.0", "hidden.1"]  # the last layer is not trained
    model.last = torch.nn.Parameter(model.last.clone())  # the counterexample
    whole = {name: w.detach() for name, w in model.named_parameters()}
    assert abs(loss_and_slopes(model, {**whole, "last": 2 * whole["last"]})[0] - before) > 0.1


def test_normalisation_by_reference_and_its_refusals():
    model = network()
    inputs, rest = DATA.inputs[:30], DATA.inputs[30:60]
    torch.testing.assert_close(model(inputs, inputs), model(inputs))
    alone = torch.cat([model(rest[k : k + 1], inputs) for k in range(30)])
    torch.testing.assert_close(model(rest, inputs), alone)  # a test input does not feel the others
    assert (model(rest) - alone).abs().max() > 1e-3
    hidden = inputs.flatten(1)
    for weight in model.hidden:
        hidden = torch.relu(torch.nn.functional.batch_norm(hidden @ weight.T, None, None, training=True, eps=1e-300))
    torch.testing.assert_close(model(inputs), hidden @ model.last.T)
    torch.testing.assert_close(model.last.T @ model.last, 16 * torch.eye(5, dtype=torch.float64))
    for fault in ({"widths": ()}, {"gain": 0.0}, {"kind": "recurrent"}):
        with pytest.raises(ValueError):
            network(**fault)
    with pytest.raises(ValueError, match="images"):
        NormalisedNetwork((64,), 10, kind="convolutional")


def test_the_norm_recursion_gives_the_gradients_that_autograd_gives():
    model, eta, decay = network(), 0.3, 0.1
    look = Observed({"reference": 32, "points": 10}, DATA, model)
    run = ensemble(model, *DATA[:2], replicas=1, steps=5, learning_rate=eta, batch_size=16, weight_decay=decay,
                   save_every=1, compile=False, seed=3)  # fmt: skip
    path = run["weights"].values[0]
    from sde_sgd import sample_indices

    picks = sample_indices(120, batch_size=16, steps=5, seed=3)
    for k in range(5):
        slopes = loss_and_slopes(model, look.named(torch.from_numpy(path[k])), *(part[picks[k]] for part in DATA[:2]))[
            1
        ]
        square = float(sum(s.square().sum() for s in slopes.values()))
        wanted = (1 - eta * decay) ** 2 * (path[k] @ path[k]) + eta**2 * square
        np.testing.assert_allclose(path[k + 1] @ path[k + 1], wanted, rtol=1e-12)
    drawn = look.batch_squares(np.repeat(path[:1], 400, axis=0), 16, 0)
    order = np.random.default_rng([0, 0xBA7C]).integers(120, size=(400, 16))[7]
    slopes = loss_and_slopes(model, look.named(torch.from_numpy(path[0])), *(part[order] for part in DATA[:2]))[1]
    np.testing.assert_allclose(drawn[7], sum(float(s.square().sum()) for s in slopes.values()), rtol=1e-12)


def test_growing_rates_are_weight_decay_and_only_so():
    config = EXPERIMENT.resolve({"samples": 120, "widths": [6, 5], "same_steps": 15, "points": 12, "batch_size": 16,
                                 "reference": 120, "descent_samples": 120})  # fmt: skip
    found = one_and_the_same(config, 0)["difference"].max("step").to_series()
    exact = ["growing rate, μ = 0", "growing rate, μ = 0.9", "c = 3"]
    assert found[exact].max() < 1e-10 and found.drop(exact).min() > 1e-3 and len(found) == 6


@pytest.mark.parametrize(("eta", "decay", "momentum"), [(0.2, 0.15, 0.0), (0.2, 0.01, 0.9), (0.5, 0.1, 0.3)])
def test_alpha_is_the_root_and_plain_without_momentum(eta, decay, momentum):
    one = GrowingRate(eta, decay, momentum)
    assert abs(one.alpha**2 - (1 + momentum - eta * decay) * one.alpha + momentum) < 1e-14
    assert one.alpha >= momentum / one.alpha  # the larger
    np.testing.assert_allclose(one([0, 3]), eta * one.alpha ** -np.array([1.0, 7.0]))
    if not momentum:
        assert one.alpha == pytest.approx(1 - eta * decay, abs=1e-15)


def test_alpha_is_refused_where_it_is_not_real():
    GrowingRate(0.26, 0.0101, 0.9)  # 0.002626 of (1 − √0.9)² = 0.002633
    for fault in ((0.27, 0.0101, 0.9), (1.0, 1.0, 0.0)):
        with pytest.raises(ValueError, match="real"):
            GrowingRate(*fault)


def test_gamma_against_its_closed_form_and_a_general_solver():
    steps = np.array([0.0, 7.0, 30.0, 100.0])
    constant = relaxed(steps, 5.0, 0.01, np.full(4, 3.0))
    settled = 2 * 3.0 / 0.04
    np.testing.assert_allclose(constant, settled + (5.0 - settled) * np.exp(-0.04 * steps), rtol=1e-13)
    drive, rates = np.array([1.0, 4.0, 2.0, 2.5]), np.array([0.01, 0.03, 0.02])

    def slope(t, gamma):
        k = min(np.searchsorted(steps, t, side="right") - 1, 2)
        return -4 * rates[k] * gamma + 2 * np.interp(t, steps, drive)

    found, start = relaxed(steps, 5.0, rates, drive), 5.0
    for k in range(3):
        start = solve_ivp(slope, (steps[k], steps[k + 1] - 1e-12), [start], rtol=1e-11, atol=1e-12).y[0, -1]
        np.testing.assert_allclose(found[k + 1], start, rtol=1e-8)
    for fault in (([0, 0], 1.0, 0.1, [1, 1]), ([0, 1], 1.0, 0.0, [1, 1]), ([0, 1], 1.0, 0.1, [1])):
        with pytest.raises(ValueError):
            relaxed(*fault)


def test_steady_norms_of_a_recursion_whose_law_is_known():
    """u = |w|² of a scale-invariant loss with |g|² = c ξ/|w|², ξ exponential: both moments in the steady state.

    u' = (1 − x)²u + η²cξ/u; 4·10⁵ states of 4000 chains, within 4 standard errors over chains (chance 1e-4 each).
    """
    eta, decay, rng = 0.5, 0.6, np.random.default_rng(0)
    x = eta * decay
    u, kept = np.full(4000, 1.0), []
    for step in range(160):
        kick = rng.exponential(size=4000) / u
        if step >= 60:
            kept.append(np.stack([u, kick, u * u, u * kick, kick * kick]))
        u = (1 - x) ** 2 * u + eta**2 * kick
    chains = np.mean(kept, axis=0)  # (5, chain)

    def gaps(m):
        square = m[0] - decay_balance(m[1], eta, decay)
        return square, m[2] - fourth_power(x, eta**2 * m[4] / m[3]) * decay_balance(m[3], eta, decay)

    blocks = np.array([gaps(part.mean(1)) for part in np.split(chains, 40, axis=1)])
    error = blocks.std(axis=0, ddof=1) / np.sqrt(40)
    assert (np.abs(gaps(chains.mean(1))) < 4 * error).all()
    published = chains[2].mean() / decay_balance(chains[3].mean(), eta, decay)
    assert published > 1.1  # the |w|⁴ form, off by about x(κ − 1) = 0.3
    assert fourth_power(1e-9, 0.0) == pytest.approx(1.0)


def test_the_unstable_square_is_where_a_step_reverses_a_small_angle():
    from sde_sgd.landscapes import get

    loss, eta, decay = get("scale_invariant", weight_decay=0.0), 0.1, 0.5
    square = unstable_square(eta, decay)
    assert square == pytest.approx(eta / (1 - eta * decay))
    for factor, reversed_more in ((0.9, True), (1.1, False)):
        r = np.sqrt(factor * square)
        before = r * np.array([np.sin(1e-5), np.cos(1e-5)])
        after = (1 - eta * decay) * before - eta * loss.gradient(before)
        assert bool(abs(after[0] / after[1]) > 1e-5) is reversed_more and after[0] < 0
    with pytest.raises(ValueError, match="ηλ < 1"):
        unstable_square(1.0, 1.0)


def test_the_toy_comes_to_rest_without_decay_only():
    run = toy(EXPERIMENT.resolve({"toy_steps": 1500}), 0)
    last = run["slope"].isel(step=-1).to_series()
    assert run["slope"].sel(run="decay")[750:].max() > 1e-2 and last[["decay off", "no decay"]].max() < 1e-10
    assert run["square"].sel(run="decay")[750:].min() < run.attrs["unstable_square"]


def test_weights_that_remember_nothing_but_their_decay():
    """w' = (1 − x)w + noise: E|w_{T+Δ} − w_T|²/2E|w|², 20,000 weights of 200 steps, within 4 %."""
    rng, x = np.random.default_rng(1), 0.05
    w = rng.standard_normal((200, 20_000)) / np.sqrt(1 - (1 - x) ** 2)
    for k in range(1, 200):
        w[k] = (1 - x) * w[k - 1] + rng.standard_normal(20_000)
    for lag in (5, 40):
        moved = np.square(w[lag:] - w[:-lag]).mean() / (2 * np.square(w).mean())
        assert moved == pytest.approx(forgotten(lag, x), rel=0.04)
