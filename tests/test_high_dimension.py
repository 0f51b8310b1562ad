"""Many variables without symbols: against the symbolic classes, differences, dense algebra and closed forms."""

import math
import pickle
import time

import numpy as np
import pytest

import sde_sgd as sde
from sde_sgd.landscapes._blocks import BLOCK
from sde_sgd.landscapes._linear import LinearLandscape

RNG = np.random.default_rng(11)
LOSSES = {
    "squared": ("squared", "({p} - y)**2/2"),
    "logistic": ("logistic", "log(1 + exp(-y*{p}))"),
    "expression": ("log(cosh(p - y)) + y*p**3/9", "log(cosh({p} - y)) + y*({p})**3/9"),
}
FIELDS = ("loss", "gradient", "hessian", "diffusion", "diffusion_divergence", "drift")


def data_of(samples, d):
    return RNG.normal(size=(samples, d)) + 0.3, RNG.choice([-1.0, 1.0], samples)


def symbolic(inputs, y, text, decay):
    """The same finite sum by symbols."""
    d = inputs.shape[1]
    p = "(" + " + ".join(f"u{i}*w{i}" for i in range(d)) + ")"
    loss = text.format(p=p) + " + decay/2*(" + " + ".join(f"w{i}**2" for i in range(d)) + ")"
    data = {f"u{i}": inputs[:, i] for i in range(d)} | {"y": y}
    return sde.FiniteSum([f"w{i}" for i in range(d)], loss, data, parameters={"decay": decay})


def central(function, x, step=1e-6):
    parts = [(function(x + step * e) - function(x - step * e)) / (2 * step) for e in np.eye(x.shape[-1])]
    return np.stack(parts, -1)


def logistic_gradient(x, row, out):
    """Logistic loss with weight decay 0.1, written as a user would."""
    p = 0.0
    for i in range(len(x)):
        p += row[i] * x[i]
    slope = -row[-1] / (1.0 + math.exp(row[-1] * p))
    for i in range(len(x)):
        out[i] = slope * row[i] + 0.1 * x[i]


def logistic_loss(x, row):
    p = 0.0
    for i in range(len(x)):
        p += row[i] * x[i]
    return math.log(1.0 + math.exp(-row[-1] * p)) + 0.05 * np.sum(x * x)


def by_functions(inputs, y, **options):
    options = {"sample_loss": logistic_loss, "finite_difference": True} | options
    names = [f"w{i}" for i in range(inputs.shape[1])]
    return sde.FiniteSum.from_functions(logistic_gradient, np.column_stack([inputs, y]), variables=names, **options)


# -- linear models -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [2, 3])
@pytest.mark.parametrize("kind", LOSSES)
def test_a_linear_model_is_the_symbolic_finite_sum(kind, d):
    inputs, y = data_of(40, d)
    loss, text = LOSSES[kind]
    model, expected = sde.FiniteSum.linear_model(inputs, y, loss, weight_decay=0.3), symbolic(inputs, y, text, 0.3)
    x = RNG.normal(size=(3, 2, d))
    for name in FIELDS:
        np.testing.assert_allclose(getattr(model, name)(x), getattr(expected, name)(x), rtol=1e-11, atol=1e-12)
    for name in ("loss", "gradient", "hessian"):
        mine, theirs = (m.evaluator().samples(name, x) for m in (model, expected))
        np.testing.assert_allclose(mine, theirs, rtol=1e-11, atol=1e-12)
    for mine, theirs in zip(model.evaluator().drift_and_diffusion(x), expected.evaluator().drift_and_diffusion(x)):
        np.testing.assert_allclose(mine, theirs, rtol=1e-11, atol=1e-12)
    changed = model.with_parameters(weight_decay=0.7)
    np.testing.assert_allclose(changed.gradient(x) - model.gradient(x), 0.4 * x, rtol=1e-12, atol=1e-14)
    assert model.sgd_process(0.4, 4).temperature == pytest.approx(0.05) and model.samples == 40


@pytest.mark.parametrize("kind", LOSSES)
def test_derivatives_of_a_linear_model_of_many_weights(kind):
    inputs, y = data_of(60, 20)
    model = sde.FiniteSum.linear_model(inputs / 4, y, LOSSES[kind][0], weight_decay=0.2)
    x = RNG.normal(size=(2, 20)) / 2
    close = dict(rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(model.gradient(x), central(model.loss, x), **close)
    np.testing.assert_allclose(model.hessian(x), central(model.gradient, x), **close)
    divergence = np.einsum("...ijj->...i", central(model.diffusion, x))
    np.testing.assert_allclose(model.diffusion_divergence(x), divergence, **close)
    columns = np.einsum("...iij->...j", central(model.diffusion, x))  # ∇ tr D, the wrong contraction
    assert not np.allclose(model.diffusion_divergence(x), columns, **close)


def test_the_diffusion_matrix_is_the_covariance_of_the_sample_gradients():
    inputs, y = data_of(500, 30)
    for finite_sum in (sde.FiniteSum.linear_model(inputs, y, "logistic", weight_decay=0.1), by_functions(inputs, y)):
        x = RNG.normal(size=(2, 30))
        g = finite_sum.sample_gradients(x)
        assert g.shape == (2, 500, 30)
        np.testing.assert_allclose(finite_sum.gradient(x), g.mean(1), rtol=1e-12, atol=1e-14)
        d = finite_sum.diffusion(x)
        np.testing.assert_array_equal(d, d.swapaxes(-1, -2))
        for one, samples in zip(d, g):
            np.testing.assert_allclose(one, np.cov(samples.T, bias=True), rtol=1e-10, atol=1e-13)
            assert not np.allclose(one, samples.T @ samples / 500, rtol=1e-3)  # uncentred differs


def test_a_common_gradient_costs_no_digits():
    """Every sample pulled by 1e8: D and div D are those of the rest, although |g|² is 1e16 times larger."""
    inputs, y = data_of(64, 5)
    x = RNG.normal(size=5)
    small = sde.FiniteSum.linear_model(inputs, y, "squared")
    far = sde.FiniteSum.linear_model(np.column_stack([inputs, np.ones(64)]), y + 1e8, "squared")
    moved = np.append(x, 1e8)
    np.testing.assert_allclose(far.diffusion(moved)[:5, :5], small.diffusion(x), rtol=1e-6)
    pulled = sde.FiniteSum.linear_model(inputs, y, "squared", weight_decay=1e8)
    np.testing.assert_array_equal(pulled.diffusion(x), small.diffusion(x))


def test_logistic_margins_never_overflow():
    model = sde.FiniteSum.linear_model([[1.0], [1.0]], [1.0, -1.0], "logistic")
    x = np.array([[-2000.0], [-700.0], [-40.0], [40.0], [700.0], [2000.0]])
    np.testing.assert_allclose(
        model.evaluator().samples("loss", x)[:, 0], np.logaddexp(0, -x[:, 0]), rtol=1e-14, atol=1e-16
    )
    slopes, size = model.sample_gradients(x)[:, 0, 0], 1 / (1 + np.exp(np.minimum(x[:, 0], 700)))
    np.testing.assert_allclose(slopes[:5], -size[:5], rtol=1e-13)
    assert np.isfinite(model.hessian(x)).all() and np.isfinite(slopes).all()
    naive = sde.FiniteSum.linear_model([[1.0], [1.0]], [1.0, -1.0], "log(1 + exp(-y*p))")
    assert np.isinf(naive.loss(x)[0])  # what the named loss is for


def test_a_hundred_weights_and_two_thousand_samples_take_less_than_a_second():
    inputs, y = data_of(2000, 100)
    began = time.perf_counter()
    model = sde.FiniteSum.linear_model(inputs / 10, y, "logistic", weight_decay=0.1)
    x = RNG.normal(size=100)
    for name in FIELDS:
        assert np.isfinite(getattr(model, name)(x)).all()
    assert model.lane_code().rows is not None
    assert time.perf_counter() - began < 1.0


def test_blocks_of_samples_do_not_change_the_result():
    d = 64
    samples = 2 * BLOCK // d + 77  # three blocks
    inputs, y = data_of(samples, d)
    model = sde.FiniteSum.linear_model(inputs / 8, y, "logistic")
    x = RNG.normal(size=(2, d))
    slope = -y / (1 + np.exp(y * (x @ inputs.T / 8)))
    g = slope[..., None] * inputs / 8
    np.testing.assert_allclose(model.gradient(x), g.mean(1), rtol=1e-10, atol=1e-15)
    np.testing.assert_allclose(model.diffusion(x)[1], np.cov(g[1].T, bias=True), rtol=1e-9, atol=1e-14)
    made = by_functions(inputs / 8, y, name="blocks")
    np.testing.assert_allclose(made.gradient(x), g.mean(1) + 0.1 * x, rtol=1e-10, atol=1e-15)
    np.testing.assert_allclose(made.diffusion(x[1]), np.cov(g[1].T, bias=True), rtol=1e-9, atol=1e-14)
    with pytest.raises(ValueError, match=r"GiB.*evaluate fewer points at once"):
        model.sample_gradients(np.broadcast_to(x[0], (100_000, d)))


def test_the_minimizer_of_the_squared_loss():
    inputs, y = data_of(50, 8)
    model = sde.FiniteSum.linear_model(inputs, y, "squared", weight_decay=0.2)
    ridge = np.linalg.solve(inputs.T @ inputs / 50 + 0.2 * np.eye(8), inputs.T @ y / 50)
    np.testing.assert_allclose(model.minimizer(), ridge, rtol=1e-12)
    np.testing.assert_allclose(model.minimizer(start=RNG.normal(size=8)), ridge, rtol=1e-11)
    few, start = inputs[:5], RNG.normal(size=8)
    wide = sde.FiniteSum.linear_model(few, y[:5], "squared")
    nearest = np.linalg.pinv(few) @ y[:5] + start - np.linalg.pinv(few) @ few @ start
    np.testing.assert_allclose(wide.minimizer(start), nearest, rtol=1e-11)
    assert np.linalg.norm(wide.minimizer()) < np.linalg.norm(wide.minimizer(start))
    w = start
    for _ in range(4000):
        w = w - 0.3 * wide.gradient(w)
    np.testing.assert_allclose(w, nearest, atol=1e-9)  # where gradient descent ends
    twice = sde.FiniteSum.linear_model(np.column_stack([inputs[:, 0]] * 2), y, "squared").minimizer()
    assert twice[0] == pytest.approx(twice[1])  # a column twice: the weight is shared


# -- functions ---------------------------------------------------------------------------------------------------


def test_a_sum_of_functions_is_the_linear_model_it_spells_out():
    inputs, y = data_of(40, 6)
    made, model = by_functions(inputs, y), sde.FiniteSum.linear_model(inputs, y, "logistic", weight_decay=0.1)
    x = RNG.normal(size=(3, 2, 6))
    for name in ("loss", "gradient", "diffusion", "drift"):
        np.testing.assert_allclose(getattr(made, name)(x), getattr(model, name)(x), rtol=1e-11, atol=1e-13)
    for name in ("hessian", "diffusion_divergence"):
        np.testing.assert_allclose(getattr(made, name)(x), getattr(model, name)(x), rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(
        made.evaluator().samples("loss", x), model.evaluator().samples("loss", x), rtol=1e-11, atol=1e-13
    )


def test_one_number_per_sample_and_a_jitted_function():
    import numba

    @numba.njit
    def gradient(x, row, out):
        out[0] = x[0] - row[0]

    mean = sde.FiniteSum.from_functions(gradient, [1.0, 2.0, 6.0], variables="x", name="mean")
    np.testing.assert_allclose(mean.gradient([[0.0]]), [[-3.0]])
    np.testing.assert_allclose(mean.diffusion([0.0]), [[np.var([1, 2, 6])]])
    with pytest.raises(ValueError, match="without sample_loss; pass sample_loss="):
        mean.loss([0.0])
    for field in (mean.hessian, mean.diffusion_divergence):
        with pytest.raises(ValueError, match="pass finite_difference=True"):
            field([0.0])


# -- what all of them, and linear drifts, share -------------------------------------------------------------------


def random_linear(d, center=None):
    m = RNG.normal(size=(d, d)) / np.sqrt(d)
    noise = RNG.normal(size=(d, d)) / np.sqrt(d)
    return LinearLandscape(m + 2.5 * np.eye(d), noise @ noise.T + 0.1 * np.eye(d), center=center)


def every():
    inputs, y = data_of(30, 20)
    return [random_linear(20), sde.FiniteSum.linear_model(inputs, y, LOSSES["expression"][0]), by_functions(inputs, y)]


@pytest.mark.parametrize("k", range(3))
def test_torch_computes_the_same(k):
    torch = pytest.importorskip("torch")
    landscape = every()[k]
    x = RNG.normal(size=(2, 3, 20)) / 3
    mine, theirs = landscape.evaluator(), landscape.evaluator(torch)
    for name in FIELDS:
        value = getattr(theirs, name)(torch.tensor(x))
        np.testing.assert_allclose(value.numpy(), getattr(mine, name)(x), rtol=1e-12, atol=1e-12)
    for a, b in zip(theirs.drift_and_diffusion(torch.tensor(x)), mine.drift_and_diffusion(x)):
        np.testing.assert_allclose(a.numpy(), b, rtol=1e-12, atol=1e-12)
    point = torch.tensor(x, requires_grad=True)
    if k == 2:
        with pytest.raises(ValueError, match=r"pass x.detach\(\)"):
            theirs.loss(point)
    else:
        theirs.loss(point).sum().backward()
        np.testing.assert_allclose(point.grad.numpy(), landscape.gradient(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("k", range(3))
def test_they_travel_by_pickle_as_definitions(k):
    landscape = every()[k]
    x = RNG.normal(size=(2, 20)) / 3
    before, size = landscape.diffusion(x), len(pickle.dumps(landscape))
    assert size == len(pickle.dumps(every()[k]))  # nothing compiled or derived travels
    other = pickle.loads(pickle.dumps(landscape.at_temperature(0.1)))
    rows = other.landscape.lane_code().rows
    assert rows is not None and not any(array.flags.writeable for array in rows.arrays)
    np.testing.assert_array_equal(other.diffusion(x), before)
    np.testing.assert_array_equal(other.drift(x), landscape.drift(x))


def test_a_definition_cannot_be_changed_from_outside():
    inputs, y = data_of(30, 3)
    model, linear = sde.FiniteSum.linear_model(inputs, y, "squared"), LinearLandscape(inputs[:3] + 5 * np.eye(3))
    before = model.gradient(np.ones(3)), linear.drift(np.ones(3))
    inputs[:] = y[:] = 0.0
    np.testing.assert_array_equal(model.gradient(np.ones(3)), before[0])
    np.testing.assert_array_equal(linear.drift(np.ones(3)), before[1])
    for array in (model.data["X"], linear.F, linear.center):
        with pytest.raises(ValueError):
            array[0] = 1.0


def test_the_code_for_kernels_is_the_gradient():
    inputs, y = data_of(30, 3)
    for kind in LOSSES:
        model = sde.FiniteSum.linear_model(inputs, y, LOSSES[kind][0], weight_decay=0.3)
        lane = model.lane_code()
        x = RNG.normal(size=3)
        functions = {f"_{name}": getattr(math, name) for name in ("exp", "log", "tanh", "sinh", "cosh")}
        for k in range(30):
            names = functions | {"math": math, "p0": 0.3, "prediction": inputs[k] @ x, "target": y[k]}
            exec("\n".join(lane.rows.lines), names)
            expected = model.sample_gradients(x)[k]
            np.testing.assert_allclose(names["slope"] * inputs[k] + 0.3 * x, expected, rtol=1e-12)
            names |= {f"x{i}": x[i] for i in range(3)} | {f"a{i}": column[k] for i, column in enumerate(lane.data)}
            exec("\n".join(lane.lines), names)
            np.testing.assert_allclose([names[f"g{i}"] for i in range(3)], expected, rtol=1e-12)
    many = sde.FiniteSum.linear_model(*data_of(30, 17), "squared").lane_code()
    assert many.lines == () and many.rows is not None and many.rows.kind == "linear_model"
    lane = by_functions(inputs, y).lane_code()
    assert lane.lines == () and lane.rows is not None
    out = np.empty(3)
    lane.functions["sample_gradient"](x, lane.rows.arrays[0][4], out)
    np.testing.assert_allclose(out, by_functions(inputs, y).sample_gradients(x)[4], rtol=1e-14)


@pytest.mark.parametrize(
    "kind", ["logistic", *(pytest.param(k, marks=pytest.mark.evidence) for k in LOSSES if k != "logistic")]
)
def test_runs_of_a_few_weights_are_those_of_the_symbolic_sum(kind):
    inputs, y = data_of(30, 2)
    loss, text = LOSSES[kind]
    model = sde.FiniteSum.linear_model(inputs / 2, y, loss, weight_decay=0.1)
    run = dict(start=(0.1, 0.2), steps=40, seed=5)
    pair = model, symbolic(inputs / 2, y, text, 0.1)
    a, b = (sde.sgd(m, learning_rate=0.1, batch_size=3, replicas=70, **run) for m in pair)
    np.testing.assert_allclose(a.w0, b.w0, rtol=1e-10, atol=1e-12)
    a, b = (sde.simulate(m.at_temperature(0.05), step=0.05, paths=70, **run) for m in pair)
    np.testing.assert_allclose(a.w1, b.w1, rtol=1e-9, atol=1e-11)
