"""Every compiled form of a landscape against differences, dense algebra and closed forms."""

import pickle
import re
from types import SimpleNamespace

import numpy as np
import pytest
import sympy as sp

import sde_sgd as sde

RNG = np.random.default_rng(7)


def central(function, x, step=1e-6):
    """∂function/∂x_j on a new last axis, by central differences."""
    parts = [(function(x + step * e) - function(x - step * e)) / (2 * step) for e in np.eye(x.shape[-1])]
    return np.stack(parts, -1)


@pytest.mark.parametrize("name", sde.landscapes.catalogue())
def test_derivatives_against_central_differences(name):
    landscape = sde.landscapes.get(name)
    x = np.random.default_rng(7).normal(size=(3, 4, landscape.dim))
    close = dict(rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(landscape.gradient(x), central(landscape.loss, x), **close)
    np.testing.assert_allclose(landscape.hessian(x), central(landscape.gradient, x), **close)
    divergence = np.einsum("...ijj->...i", central(landscape.diffusion, x))
    np.testing.assert_allclose(landscape.diffusion_divergence(x), divergence, **close)
    jacobian = landscape.evaluator().jacobian(x, 0.7)
    np.testing.assert_allclose(jacobian, central(lambda p: landscape.drift(p, 0.7), x), **close)


def test_finite_sum_is_the_covariance_of_its_gradients():
    neuron = sde.landscapes.get("neuron")
    x = RNG.normal(size=(6, 2))
    g = neuron.sample_gradients(x)
    assert g.shape == (6, 150, 2)
    np.testing.assert_allclose(neuron.gradient(x), g.mean(1), rtol=1e-14, atol=1e-16)
    for point, samples in zip(x, g):
        np.testing.assert_allclose(neuron.diffusion(point), np.cov(samples.T, bias=True), rtol=1e-12)
        assert not np.allclose(neuron.diffusion(point), samples.T @ samples / 150, rtol=1e-3)  # uncentred differs


def test_large_evaluations_are_chunked_without_changing_bits():
    neuron = sde.landscapes.get("neuron")
    x = RNG.normal(size=(20_000, 2))
    np.testing.assert_array_equal(neuron.diffusion(x)[-5:], neuron.diffusion(x[-5:]))


def test_parameters_change_without_recompiling_and_travel_by_pickle():
    spiral = sde.landscapes.get("spiral")
    other = pickle.loads(pickle.dumps(spiral.with_parameters(kappa=2.0)))
    x = RNG.normal(size=(4, 2))
    np.testing.assert_array_equal(other.gradient(x), sde.landscapes.get("spiral", kappa=2.0).gradient(x))
    assert other.lane_code().lines == spiral.lane_code().lines
    process = pickle.loads(pickle.dumps(other.at_temperature(0.1)))
    np.testing.assert_array_equal(process.drift(x), other.drift(x))


def test_latex_follows_the_definition():
    text = sde.Landscape("x", "a*x**2", parameters={"a": 2}).latex()
    assert text["gradient"] == sp.latex(sp.Matrix([2 * sp.Symbol("a") * sp.Symbol("x")]))


def test_temperature_of_sgd():
    neuron = sde.landscapes.get("neuron")
    assert neuron.sgd_process(0.4, 4).temperature == pytest.approx(0.05)
    assert neuron.sgd_process(0.4, 30, "without_replacement").temperature == pytest.approx(0.4 / 60 * 120 / 149)


def test_processes_from_expressions_and_from_functions_agree():
    text = sde.Process(["-x + y", "-y - x*T"], [["1 + x**2/4", "0"], ["0", "2"]], 0.5, variables=("x", "y"))
    made = sde.Process(
        lambda x, y: (-x + y, -y - 0.5 * x),
        lambda x, y: ((1 + x**2 / 4, 0), (0, 2)),
        0.5,
        variables=("x", "y"),
        diffusion_divergence=lambda x, y: (x / 2, 0),
    )
    x = RNG.normal(size=(5, 3, 2))
    for name in ("drift", "diffusion", "diffusion_divergence"):
        np.testing.assert_allclose(getattr(text, name)(x), getattr(made, name)(x), rtol=1e-14)
    differences = sde.Process(
        lambda x, y: (-x + y, -y - 0.5 * x),
        lambda x, y: ((1 + x**2 / 4, 0), (0, 2)),
        0.5,
        variables=("x", "y"),
        finite_difference=True,
    )
    np.testing.assert_allclose(differences.diffusion_divergence(x), made.diffusion_divergence(x), atol=1e-9)
    start = dict(start=(0.2, 0.1), step=0.01, steps=50, paths=70, seed=3)
    a, b = sde.simulate(text, **start), sde.simulate(made, **start)
    np.testing.assert_allclose(a.x, b.x, rtol=1e-12)


EXPRESSIONS = [
    *("abs(x)*x", "sqrt(2)*x**2", "2**x", "erf(x)*x", "erfc(x)**2", "tanh(1)*x**3", "x**3*sqrt(x**2 + 1)"),
    *("(x**2 + 1)**(-3/2)", "(x**2 + 1)**a", "x**b", "pi*x*log(x**2 + 1)", "sin(x)*cos(3*x)", "tan(x/3)"),
    *("sinh(x)/cosh(x/2)", "atan(x)*exp(-x**2/2)", "log(1 + exp(-x))", "(x - 1)**4/(x**2 + 2)**3", "x**0.5*0 + x**2.0"),
]


@pytest.mark.parametrize("texts", [EXPRESSIONS[::2], EXPRESSIONS[1::2]], ids=["even", "odd"])
def test_lanes_numpy_and_differences_agree(texts):
    """Each expression in a variable of its own: path kernel (one nearly noiseless step), NumPy, central differences."""
    names = [f"x{i}" for i in range(len(texts))]
    loss = " + ".join(f"({re.sub(r'(?<![a-z])x', name, text)})" for text, name in zip(texts, names))
    landscape = sde.Landscape(names, loss, parameters={"a": 0.7, "b": 2.0})
    x = np.outer([-1.3, -0.4, 0.6, 1.9], np.ones(len(texts)))
    for i, text in enumerate(texts):
        if "x**0.5" in text:
            x[:, i] = np.abs(x[:, i])
    gradient = landscape.gradient(x)
    run = sde.simulate(landscape.at_temperature(1e-40), x, step=0.5, steps=1, paths=4)
    np.testing.assert_allclose(np.stack([run[n] for n in names], -1), x - 0.5 * gradient, rtol=1e-14, atol=1e-15)
    for i, text in enumerate(texts):
        alone = sde.Landscape("x", text, parameters={"a": 0.7, "b": 2.0})
        np.testing.assert_allclose(gradient[:, i], central(alone.loss, x[:, i : i + 1])[:, 0], rtol=1e-7, atol=1e-8)


def test_torch_agrees_where_it_is_installed():
    torch = pytest.importorskip("torch")
    x = RNG.uniform(0.2, 1.5, size=(5, 1))
    for text in EXPRESSIONS:
        landscape = sde.Landscape("x", text, parameters={"a": 0.7, "b": 2.0})
        gradient = landscape.evaluator(torch).gradient(torch.tensor(x))
        np.testing.assert_allclose(gradient.numpy(), landscape.gradient(x), rtol=1e-14, atol=1e-14)


def test_parameters_are_float64_numbers():
    """(a − 1)^1.5 is NaN below 1, not complex; a large power is ∞, not an OverflowError; torch takes exp(a)."""
    half = sde.Process(["-x + (a - 1)**1.5"], [["1"]], 0.5, variables=("x",), parameters={"a": 0.5})
    assert np.isnan(half.drift([0.3])).all()
    with pytest.raises(ValueError, match="drift"):
        sde.FokkerPlanck(half, sde.Grid(-1, 1, 8)).steady_state()
    assert np.isinf(sde.Landscape("x", "a**32*x**2", parameters={"a": 1e10}).gradient([1.0])).all()
    torch = pytest.importorskip("torch")
    grown = sde.Landscape("x", "exp(a)*x**2/2 + 100000000000000000000*x", parameters={"a": 0.5})
    point = torch.ones(1, dtype=torch.float64)
    np.testing.assert_allclose(grown.evaluator(torch).gradient(point), np.exp(0.5) + 1e20, rtol=1e-15)


def test_a_kink_is_flat_for_second_derivatives():
    median = sde.FiniteSum("x", "abs(x - a)", {"a": [-1.0, 0.0, 2.0]})
    np.testing.assert_allclose(median.gradient([[0.5], [-3.0]])[:, 0], [1 / 3, -1.0])
    np.testing.assert_array_equal(median.hessian([[0.5]]), 0.0)
    np.testing.assert_array_equal(median.diffusion_divergence([[0.5]]), 0.0)


def test_a_definition_cannot_be_changed_from_outside():
    values = np.array([1.0, 2.0, 3.0])
    mean = sde.FiniteSum("x", "(x - a)**2/2", {"a": values}, parameters={"unused": 1.0})
    before = mean.gradient([0.5])
    values[:] = 100.0
    np.testing.assert_array_equal(mean.gradient([0.5]), before)
    with pytest.raises(TypeError):
        mean.parameters["unused"] = 2.0
    with pytest.raises(ValueError):
        mean.data["a"][0] = 2.0


def test_critical_points_of_stiff_periodic_and_degenerate_losses():
    stiff = sde.Landscape(("x", "y"), "1e12*x**2/2 + (y**2 - 1)**2/4", domain=((-2, 2), (-2, 2))).critical_points()
    assert sorted(stiff.kind.values) == ["minimum", "minimum", "saddle"]
    np.testing.assert_allclose(np.sort(stiff.y), [-1, 0, 1], atol=1e-9)
    valley = sde.Landscape(("x", "y"), "(1 - x)**2 + 1e4*(y - x**2)**2", domain=((-2, 2), (-2, 2))).critical_points()
    assert valley.sizes["point"] == 1 and valley.kind.item() == "minimum"
    ring = sde.Landscape("theta", "-cos(theta)", domain={"theta": (0, 2 * np.pi, "periodic")}).critical_points()
    assert sorted(ring.kind.values) == ["maximum", "minimum"]
    for text, roots in (("log(1 + x**2)", [0.0]), ("-exp(-x**2/2)", [0.0]), ("x**3/3 + x", []), ("abs(x - 0.3)", [])):
        # a singular Jacobian without a zero of the field is no critical point
        found = sde.Landscape("x", text, domain=((-2, 2),)).critical_points()
        np.testing.assert_allclose(found.x, roots, atol=1e-9)
    for power in (3, 4, 5):
        flat = sde.Landscape("x", f"(x - 0.3)**{power}", domain=((-2, 2),)).critical_points()
        assert set(flat.kind.values) == {"degenerate"}
        np.testing.assert_allclose(flat.x, 0.3, atol=0.01)


def test_a_hard_expression_is_refused_in_seconds():
    product = "*".join(f"sin({k}*x + y)" for k in range(1, 111))
    with pytest.raises(ValueError, match="more than 5000 operations"):
        sde.Landscape(("x", "y"), product).gradient([1.0, 2.0])
    turned = "(cos(x*y)**2*exp(x) + sin(x*y)**2*exp(y))"
    d = [[turned, f"cos(x)*{turned} + sin(x**2)"], [f"sin(x**2) + {turned}*cos(x)", turned]]
    sde.Landscape(("x", "y"), "x", diffusion=d)  # symmetric, though not written the same way


FAULTS = {
    "unknown symbol 'z'": lambda: sde.Landscape(("x",), "x*z"),
    "not symmetric": lambda: sde.Landscape(("x", "y"), "x", diffusion=[["1", "x"], ["0", "1"]]),
    "indefinite: its smallest eigenvalue is -1": lambda: sde.Landscape(("x", "y"), "x", diffusion=[[1, 2], [2, 1]]),
    "diffusion must have 2 rows": lambda: sde.Landscape(("x", "y"), "x", diffusion=[[1]]),
    "circulation must have 2": lambda: sde.Landscape(("x", "y"), "x", circulation=["y"]),
    "'density' is reserved": lambda: sde.Landscape(("density",), "1"),
    "'x_bin' is reserved": lambda: sde.Landscape(("x", "x_bin"), "1"),
    "'lambda' is not a name": lambda: sde.Landscape(("x",), "x", parameters={"lambda": 1}),
    "circulation must be a sequence of 2": lambda: sde.Landscape(("x", "y"), "x", circulation="xy"),
    "variable names must be a sequence": lambda: sde.Landscape(5, "1"),
    "parameters must be a mapping": lambda: sde.Landscape("x", "1", parameters=5),
    "domain must give": lambda: sde.Landscape("x", "1", domain=5),
    "domain of 'x' needs numbers": lambda: sde.Landscape("x", "1", domain=((0, None),)),
    "drift must have 1 components": lambda: sde.Process(["-x", "x"], [["1"]], 1.0, variables=("x",)),
    "drift must be a sequence": lambda: sde.Process(5, [["1"]], 1.0, variables=("x",)),
    "drift must have 2 entries": lambda: sde.Process(
        lambda x, y: (x, y, x),
        lambda x, y: ((1, 0), (0, 1)),
        1.0,
        variables=("x", "y"),
        diffusion_divergence=lambda x, y: (0, 0),
    ),
    "at .*it is .*D is a covariance": lambda: sde.Process(
        lambda x, y: (x, y),
        lambda x, y: ((1, 0.5), (0, 1)),
        1.0,
        variables=("x", "y"),
        diffusion_divergence=lambda x, y: (0, 0),
    ),
    "drift must be a function of 2 coordinates": lambda: sde.Process(
        lambda x: (x,),
        lambda x, y: ((1, 0), (0, 1)),
        1.0,
        variables=("x", "y"),
        diffusion_divergence=lambda x, y: (0, 0),
    ),
    "temperature must be a finite number > 0, got -1": lambda: sde.landscapes.get("example_19").drift([0.0, 1.0], -1),
    "x must be real numbers": lambda: sde.landscapes.get("double_well").loss([1j, 0]),
    "namespace must be the module": lambda: sde.landscapes.get("double_well").evaluator("numpy"),
    "not among the functions this package compiles": lambda: sde.Landscape("x", "tan(x + pi/2)"),
    "is not finite": lambda: sde.Landscape(("x", "y"), "x**2 + 0**y").gradient([1.0, 1.0]),
    "exponent in it is outside": lambda: sde.Landscape(("x", "y"), "(x**32*y)**32"),
    "works on arrays": lambda: sde.Process(
        lambda x: (-1.0 if x > 0 else 1.0,), lambda x: ((1.0,),), 1.0, variables=("x",), finite_difference=True
    ),
    "cannot be compiled by Numba": lambda: sde.simulate(
        sde.Process(
            lambda x: (SimpleNamespace(value=-x).value,),
            lambda x: ((1.0,),),
            1.0,
            variables=("x",),
            finite_difference=True,
        ),
        0.0,
        step=0.1,
        steps=1,
    ),
    "cannot be compiled .a power": lambda: sde.Landscape("x", "abs(x**1.3)").gradient([1.0]),
    "'time' is reserved": lambda: sde.Landscape(("time",), "1"),
    "'exp' is reserved": lambda: sde.Landscape(("exp",), "1"),
    "declared twice": lambda: sde.Landscape(("x", "x"), "x"),
    "is not a name": lambda: sde.Landscape(("x y",), "1"),
    "variables is empty": lambda: sde.Landscape((), "1"),
    "parameter a must be finite": lambda: sde.Landscape("x", "a*x", parameters={"a": np.nan}),
    "lower < upper": lambda: sde.Landscape("x", "x", domain=((1, 0),)),
    "domain names 'y'": lambda: sde.Landscape("x", "x", domain={"y": (0, 1)}),
    "domain must have one": lambda: sde.Landscape("x", "x", domain=((0, 1), (0, 1))),
    "temperature must be a finite number > 0, got 0": lambda: sde.landscapes.get("double_well").at_temperature(0),
    "temperature must be a finite number > 0, got nan": lambda: sde.landscapes.get("double_well").at_temperature(
        np.nan
    ),
    "learning_rate must be": lambda: sde.landscapes.get("neuron").sgd_process(-1, 1),
    "batch_size must be a whole number from 1 to 150, got 151": lambda: sde.landscapes.get("neuron").sgd_process(
        0.1, 151
    ),
    "no single temperature": lambda: sde.landscapes.get("neuron").sgd_process(0.1, 2, "reshuffling"),
    "no noise and no temperature": lambda: sde.landscapes.get("neuron").sgd_process(0.1, 150, "without_replacement"),
    "did you mean 'neuron'": lambda: sde.landscapes.get("neurone"),
    "no parameter 'kapa' .did you mean 'kappa'": lambda: sde.landscapes.get("spiral", kapa=1),
    "x must have shape": lambda: sde.landscapes.get("neuron").loss([1.0, 2.0, 3.0]),
    "depends on the temperature": lambda: sde.landscapes.get("example_19").drift([0.0, 1.0]),
    "data.*a.* must be finite, got nan at index": lambda: sde.FiniteSum("x", "a*x", {"a": [1.0, np.nan]}),
    "one length N": lambda: sde.FiniteSum("x", "a*b*x", {"a": [1, 2], "b": [1, 2, 3]}),
    "N >= 2": lambda: sde.FiniteSum("x", "a*x", {"a": [1.0]}),
    "data must be a non-empty mapping": lambda: sde.FiniteSum("x", "x", {}),
    "'x' is declared twice": lambda: sde.FiniteSum("x", "x", {"x": [1, 2]}),
    "must both be": lambda: sde.Process(lambda x: x, [["1"]], 1.0, variables=("x",)),
    "pass either diffusion_divergence": lambda: sde.Process(lambda x: (x,), lambda x: ((1,),), 1.0, variables=("x",)),
    "mean curvature must be": lambda: sde.landscapes.get("pearson", curvatures=(-1, -2), centers=(0, 1)),
    "no finite domain": lambda: sde.Landscape("x", "x**2").critical_points(),
}


@pytest.mark.parametrize("message", FAULTS)
def test_faults_are_named(message):
    with pytest.raises(ValueError, match=message):
        FAULTS[message]()
