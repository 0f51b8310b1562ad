"""The functions of a lane loop against many-digit arithmetic, at their edges, and in their own float type."""

import math

import mpmath
import numpy as np
import pytest
import sympy as sp
from numba import njit
from numba.core import ir

from sde_sgd.landscapes._codegen import straight_line
from sde_sgd.paths import _lane_math, _lane_math32

F = np.float32
RNG = np.random.default_rng(0)
RANGES = [
    ("exp", -700, 700),
    ("exp", -1, 1),
    ("log", 0.5, 2),
    ("log", 1e-300, 1e300),
    ("tanh", -0.6, 0.6),
    ("tanh", -20, 20),
    ("sinh", -2, 2),
    ("cosh", -700, 700),
    ("sin", -10, 10),
    ("cos", -10, 10),
    ("sin", -1e6, 1e6),
    ("tan", -10, 10),
]


@pytest.mark.parametrize("name, low, high", RANGES)
def test_lane_functions_to_a_few_units_in_the_last_place(name, low, high):
    function = getattr(_lane_math, f"_{name}")
    with mpmath.workdps(40):
        for x in RNG.uniform(low, high, 400):
            exact = getattr(mpmath, name)(mpmath.mpf(float(x)))
            assert abs(function(x) - exact) <= 6e-16 * abs(exact), x


def test_sines_of_large_arguments():
    with mpmath.workdps(60):
        for x in RNG.uniform(-1e15, 1e15, 300):
            assert abs(_lane_math._sin(x) - mpmath.sin(mpmath.mpf(float(x)))) < 1e-15
    assert math.isnan(_lane_math._sin(1.1e15)) and math.isnan(_lane_math._cos(-math.inf))


def test_lane_functions_at_the_edges():
    inf, nan = math.inf, math.nan
    assert [_lane_math._exp(x) for x in (0.0, -800.0, 800.0, -inf, inf)] == [1, 0, inf, 0, inf]
    assert [_lane_math._log(x) for x in (0.0, 1.0, inf, 5e-324)] == [-inf, 0, inf, math.log(5e-324)]
    assert [_lane_math._tanh(x) for x in (0.0, 1e-300, 800.0, -inf)] == [0, 1e-300, 1, -1]
    for name in ("exp", "log", "tanh", "sinh", "cosh"):
        assert math.isnan(getattr(_lane_math, f"_{name}")(nan))
    assert math.isnan(_lane_math._log(-1.0))
    assert [_lane_math._sign(x) for x in (-2.0, 0.0, 3.0)] == [-1, 0, 1]


RANGES32 = [
    ("exp", -87, 88.7),
    ("exp", -1, 1),
    ("log", 0.5, 2),
    ("log", 1e-37, 1e38),
    ("log", 2e-45, 1e-38),
    ("tanh", -0.6, 0.6),
    ("tanh", -10, 10),
    ("sinh", -2, 2),
    ("cosh", -88, 88),
    ("sin", -10, 10),
    ("cos", -10, 10),
    ("sin", -1e3, 1e3),
    ("tan", -10, 10),
]


@pytest.mark.parametrize("name, low, high", RANGES32)
def test_float32_lane_functions_to_a_few_of_their_units_in_the_last_place(name, low, high):
    """4e-7 is 3.4 units of 2^−23; the counterexample is a value eight units off."""
    function = getattr(_lane_math32, f"_{name}")
    for x in RNG.uniform(low, high, 400).astype(np.float32):
        exact = getattr(mpmath, name)(mpmath.mpf(float(x)))
        value = function(x)
        assert value == F(value)
        assert abs(value - exact) <= 4e-7 * abs(exact) < abs(value * (1 + 8 * 2.0**-23) - exact), x


def test_float32_lane_functions_at_the_edges():
    inf, nan = F(math.inf), F(math.nan)
    tiny = F(1e-45)
    assert [_lane_math32._exp(F(x)) for x in (0.0, -110.0, 100.0, -inf, inf)] == [1, 0, inf, 0, inf]
    assert [_lane_math32._log(F(x)) for x in (0.0, 1.0, inf, tiny)] == [-inf, 0, inf, np.log(tiny)]
    assert [_lane_math32._tanh(F(x)) for x in (0.0, 1e-30, 800.0, -inf)] == [0, F(1e-30), 1, -1]
    for name in ("exp", "log", "tanh", "sinh", "cosh", "sin", "cos", "tan"):
        assert math.isnan(getattr(_lane_math32, f"_{name}")(nan))
    assert math.isnan(_lane_math32._log(F(-1))) and math.isnan(_lane_math32._sin(F(1.1e5)))
    assert [_lane_math32._sign(F(x)) for x in (-2.0, 0.0, 3.0)] == [-1, 0, 1]
    for x in RNG.uniform(-1e5, 1e5, 300).astype(np.float32):
        assert abs(_lane_math32._sin(x) - mpmath.sin(mpmath.mpf(float(x)))) < 2e-7


def _compiled(lines, namespace, real):
    """A jitted function (x0, p0) -> out of straight-line code, and whether any of its arithmetic was in float64."""
    scope = {**vars(namespace), "math": math, "np": np}
    exec("\n    ".join(["def function(x0, p0):", *lines, "return out"]), scope)
    function = njit(error_model="numpy")(scope["function"])
    value = function(real(0.7), real(0.9))
    types = function.overloads[function.signatures[0]].type_annotation.calltypes
    used = [s for e, s in types.items() if isinstance(e, ir.Expr) and e.op in ("binop", "inplace_binop", "unary")]
    return value, any("float64" in str(signature) for signature in used)


def test_straight_lines_stay_in_their_float_type():
    x, p = sp.symbols("x0 p0", real=True)
    functions = (sp.exp, sp.sin, sp.cos, sp.tan, sp.sinh, sp.cosh, sp.tanh, sp.atan, sp.erf, sp.erfc, sp.Abs, sp.sign)
    terms = [f(x * p - k / 7) for k, f in enumerate(functions)]
    terms += [x**3 / 3, x ** (-2), 1 / (1 + x**2), (1 + p) ** sp.Rational(-3, 2), sp.log(2 + x), (1 + x**2) ** p]
    expression = sum((k + 1) * t / 10 for k, t in enumerate(terms)) - sp.pi
    exact = float(expression.subs({x: 0.7, p: 0.9}).evalf())
    for real, namespace, tolerance in (("float64", _lane_math, 1e-14), ("float32", _lane_math32, 3e-6)):
        lines = straight_line({"out": expression}, {x: x, p: p}, real)
        value, wide = _compiled(lines, namespace, np.dtype(real).type)
        assert wide == (real == "float64") and abs(value - exact) < tolerance * abs(exact)
    # the counterexample: a bare literal widens
    assert _compiled(["out = 0.1 * x0"], _lane_math32, np.float32)[1]
