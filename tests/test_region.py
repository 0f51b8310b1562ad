"""One parser for all regions: inequalities, masks on a grid, functions of points."""

import math
import pickle

import numpy as np
import pytest
import sympy as sp
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from sde_sgd import Grid
from sde_sgd._region import Region
from sde_sgd.paths import _lane_math

XY = ("x", "y")
POINTS = np.random.default_rng(7).normal(0.0, 1.2, (4000, 2))
PX, PY = POINTS.T


def region(text, variables=XY, **options):
    return Region.of(text, variables, **options)


# Inequalities -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, expected",
    [
        ("x > 0", PX > 0),
        ("-1 < x < 1", (PX > -1) & (PX < 1)),
        ("1 > x > y > -1", (PX < 1) & (PX > PY) & (PY > -1)),
        ("x < 1 > y", (PX < 1) & (PY < 1)),
        ("x**2 + y**2 < 1 and y > 0", (PX**2 + PY**2 < 1) & (PY > 0)),
        ("x > 0 or y > 0 and x < -1", (PX > 0) | ((PY > 0) & (PX < -1))),
        ("(x > 0) | (y > 0) & (x < -1)", (PX > 0) | ((PY > 0) & (PX < -1))),
        ("(x > 0 or y > 0) and x < 1", ((PX > 0) | (PY > 0)) & (PX < 1)),
        ("not x > 0", PX <= 0),
        ("not -1 < x < 1 or y > 1", (np.abs(PX) >= 1) | (PY > 1)),
        ("~((x > 0) & (y > 0))", ~((PX > 0) & (PY > 0))),
        ("not (x > 0 or not y > 0)", (PX <= 0) & (PY > 0)),
        ("exp(-x) >= abs(y) + sin(x)*y", np.exp(-PX) >= np.abs(PY) + np.sin(PX) * PY),
        ("x*y > 0.1 and tanh(x) < pi/8", (PX * PY > 0.1) & (np.tanh(PX) < np.pi / 8)),
        ("log(x) > -1", PX - np.exp(-1) > 0),
        ("not log(x) > -1", (PX > 0) & (PX - np.exp(-1) <= 0)),
    ],
)
def test_meaning(text, expected):
    assert np.array_equal(region(text).contains(POINTS), expected)


def test_strict_and_non_strict_differ_on_the_edge_only():
    edge = [[0.0, 0.0]]
    assert [bool(region(t).contains(edge)[0]) for t in ("x > 0", "x >= 0", "not x > 0", "not x >= 0")] == [0, 1, 1, 0]


_number = st.integers(-4, 4).map(lambda k: k / 2 + 0.123456)
_terms = st.sampled_from(
    [
        ("x", lambda x, y: x),
        ("y", lambda x, y: y),
        ("x*y", lambda x, y: x * y),
        ("(x - y)**2", lambda x, y: (x - y) ** 2),
        ("sin(3*x)", lambda x, y: np.sin(3 * x)),
        ("exp(y)", lambda x, y: np.exp(y)),
    ]
)
_signs = {"<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal}


@st.composite
def _leaves(draw):
    (a, f), c, sign = draw(_terms), draw(_number), draw(st.sampled_from(list(_signs)))
    if draw(st.booleans()):
        return f"{a} {sign} {c}", lambda x, y: _signs[sign](f(x, y), c)
    (b, g), other = draw(_terms), draw(st.sampled_from(list(_signs)))
    chain = lambda x, y: _signs[sign](f(x, y), c) & _signs[other](c, g(x, y))  # noqa: E731
    return f"{a} {sign} {c} {other} {b}", chain


def _joined(parts):
    both = st.tuples(parts, parts)
    return st.one_of(
        both.map(lambda p: (f"({p[0][0]}) and ({p[1][0]})", lambda x, y: p[0][1](x, y) & p[1][1](x, y))),
        both.map(lambda p: (f"(({p[0][0]}) | ({p[1][0]}))", lambda x, y: p[0][1](x, y) | p[1][1](x, y))),
        parts.map(lambda p: (f"not ({p[0]})", lambda x, y: ~p[1](x, y))),
        parts.map(lambda p: (f"~({p[0]})", lambda x, y: ~p[1](x, y))),
    )


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.recursive(_leaves(), _joined, max_leaves=6))
def test_any_combination_is_what_numpy_makes_of_it(case):
    text, function = case
    made = region(text)
    expected = function(PX[:200], PY[:200])
    assert np.array_equal(made.contains(POINTS[:200]), expected)
    names = {"x0": PX[:200], "x1": PY[:200], "np": np, "math": math, "_exp": np.exp, "_sin": np.sin}
    exec("\n".join(made.lane_inside()), names)
    assert np.array_equal(names["inside"], expected)
    if made.levels is not None:  # a conjunction is where all its level functions are positive
        values = [
            sp.lambdify(sp.symbols("x y", real=True), level, "numpy")(PX[:200], PY[:200]) for level in made.levels
        ]
        assert np.array_equal(np.all([v > 0 for v in values], axis=0), expected)


def test_levels_of_a_conjunction_and_of_nothing_else():
    x, y = sp.symbols("x y", real=True)
    assert region("x > 0").levels == (x,)
    assert region("-1 <= x < 1 and (y > 0 and x < y)").levels == (x + 1, 1 - x, y, y - x)
    assert region("not (x > 0 or y > 1)").levels == (-x, 1 - y)
    assert region("x > 0 or y > 0").levels is None
    assert region("not (x > 0 and y > 0)").levels is None
    assert region("x > 0 and (y > 0 or y < -1)").levels is None


def test_shapes_and_points():
    r = region("x > y")
    assert r.contains(np.zeros((0, 2))).shape == (0,) and r.contains(POINTS.reshape(40, 100, 2)).shape == (40, 100)
    assert r.contains([1, 0]) and not r.contains([0, 1]) and region("x > 0", ["x"]).contains([[1.0]]).shape == (1,)
    assert region("x > 0").contains([math.inf, 0.0])
    for x in (0.0, [1.0], [[1.0, 2.0, 3.0]], [["a", "b"]], [[1j, 0]]):
        with pytest.raises(ValueError, match="x must be real numbers of shape"):
            r.contains(x)


def test_a_point_that_is_no_number_is_nowhere():
    points = [[math.nan, 1.0], [1.0, math.nan]]
    mask = xr.DataArray(np.ones((2, 2), bool), {"x": [0.0, 1.0], "y": [0.0, 1.0]}, XY)
    for value in ("x > 0 or y > 0", "not x > 0", mask, lambda x: np.ones(x.shape[:-1], bool)):
        assert not region(value).contains(points).any()


def test_parameters_are_named_numbers():
    r = region("x > a and y < b", parameters={"a": 0.5, "b": 2, "unused": 1})
    assert np.array_equal(r.contains(POINTS), (PX > 0.5) & (PY < 2))
    assert r.describe() == "x > a and y < b with a = 0.5, b = 2"
    with pytest.raises(ValueError, match="parameter a"):
        region("x > a", parameters={"a": math.nan})


@pytest.mark.parametrize(
    "text, why",
    [
        ("x > aa", r"inside: unknown symbol 'aa' \(did you mean 'a'\?\)"),
        ("x**2 - 1", "compared with nothing"),
        ("x > 0 & y > 0", "put inequalities in parentheses"),
        ("x == y", "no volume"),
        ("x > 0 and 1 > 0", "does not depend on x or y"),
        ("a > 0", "does not depend on x or y"),
        ("x - x < 1", "does not depend on x or y"),
    ],
)
def test_text_that_is_no_region_is_refused(text, why):
    with pytest.raises(ValueError, match=why):
        region(text, parameters={"a": 1.0})


@pytest.mark.parametrize(
    "value", [None, True, 1.0, ["x > 0"], np.ones((2, 2), bool), sp.Symbol("x") > 0, dict, b"x > 0"]
)
def test_other_types_are_refused(value):
    with pytest.raises(
        ValueError, match=r"a must be inequalities such as 'x > 0', a boolean xarray.DataArray over x, y"
    ):
        region(value, what="a")


def test_periodic_axes_are_wrapped_first():
    theta = [[0.5 + 2 * math.pi * k] for k in range(-3, 4)]
    domain = {"theta": (-math.pi, math.pi, "periodic")}
    for value in ("0 < theta < 1", lambda x: (x[..., 0] > 0) & (x[..., 0] < 1)):
        assert region(value, ["theta"], domain=domain).contains(theta).all()
        assert region(value, ["theta"]).contains(theta).sum() == 1
    assert not region("theta > 0 or theta < 1", ["theta"], domain=domain).contains([[math.inf], [-math.inf]]).any()


# Lane code --------------------------------------------------------------------------------------------------


def compiled(lines, result, arguments):
    """A jitted scalar function made of lane code."""
    names = {"np": np, "math": math, **{k: v for k, v in vars(_lane_math).items() if k.startswith("_")}}
    body = "\n    ".join([*lines, f"return {result}"])
    exec(f"def f({', '.join(arguments)}):\n    {body}", names)
    return njit(error_model="numpy")(names["f"])


def test_lane_lines_are_the_levels_and_their_gradients():
    r = region("x**2 + a*y > exp(-x*y) and tanh(x) < y", parameters={"b": 3.0, "a": 0.7})
    assert r.levels is not None
    outputs = [f"f{k}{i}" for k in range(2) for i in ("", "_0", "_1")]
    f = compiled(r.lane_lines(), ", ".join(outputs), ["x0", "x1", "p1"])
    x, y, h = *POINTS[3], 1e-6

    def levels(x, y):
        return np.array([x**2 + 0.7 * y - np.exp(-x * y), y - np.tanh(x)])

    expected = [levels(x, y), levels(x + h, y) - levels(x - h, y), levels(x, y + h) - levels(x, y - h)]
    found = np.array(f(x, y, 0.7)).reshape(2, 3).T
    assert np.allclose(found[0], expected[0], rtol=1e-14)
    assert np.allclose(found[1:], np.array(expected[1:]) / (2 * h), rtol=1e-7, atol=1e-8)


def test_lane_lines_at_a_second_point_under_other_names():
    r = region("x > y")
    other = {s: sp.Symbol(f"y{i}", real=True) for i, s in enumerate(r.names())}
    assert r.lane_lines(other, prefix="e", gradient=False) == ["e0 = y0 - y1"]


@pytest.mark.parametrize("text", ["x > 0", "x**2 < y or not (x < 1 and y >= sin(x))", "-1 < x < 1 and ~(y > 0)"])
def test_lane_condition_decides_as_contains(text):
    r = region(text)
    f = compiled(r.lane_inside(), "inside", ["x0", "x1"])
    assert [f(*p) for p in POINTS[:300]] == r.contains(POINTS[:300]).tolist()


def test_lane_condition_is_plain_text():
    assert region("x > 0 and (y >= 0 or not x > 1)").lane_condition() == "((f0 > 0.0) & ((f1 >= 0.0) | (f2 >= 0.0)))"
    assert region("x > 0").lane_condition("e") == "(e0 > 0.0)"


# Masks ------------------------------------------------------------------------------------------------------

GRID = Grid((-2, -1), (2, 1), (16, 12))


def mask_of(function, grid=GRID, variables=XY):
    return grid.data_array(function(grid.centers()), variables, "sink")


def disc(x):
    return (x**2).sum(-1) < 1


def test_a_mask_is_its_nearest_cells():
    r = region(mask_of(disc))
    assert np.array_equal(r.contains(GRID.centers()), disc(GRID.centers()))
    near = GRID.centers() + 0.49 * GRID.spacing * np.random.default_rng(1).uniform(-1, 1, (*GRID.shape, 2))
    assert np.array_equal(r.contains(near), disc(GRID.centers()))
    assert r.describe() == "mask sink: 80 of 16 × 12 cells, x from -2 to 2, y from -1 to 1"


def test_outside_the_mask_is_outside_and_its_edge_is_inside():
    r = region(mask_of(lambda x: np.ones(x.shape[:-1], bool)))
    edge = np.array([[-2, -1], [2, 1], [-2, 1], [2, -1]], float)
    assert r.contains(edge).all()
    assert not r.contains([[-2.01, 0], [2.01, 0], [0, 1.01], [1.7e308, 0], [-math.inf, 0], [0, math.inf]]).any()


def test_dimensions_of_a_mask_may_come_in_any_order():
    mask = mask_of(lambda x: x[..., 0] > x[..., 1])
    assert np.array_equal(region(mask.T).contains(POINTS), region(mask).contains(POINTS))
    assert not np.array_equal(region(mask.rename(x="y", y="x")).contains(POINTS), region(mask).contains(POINTS))


def test_a_mask_is_copied():
    mask = mask_of(disc)
    r = region(mask)
    mask[:] = False
    assert r.contains([0.0, 0.0])


def test_masks_that_do_not_fit_are_refused():
    mask = mask_of(disc)
    uneven = mask.assign_coords(x=mask.x.values**3)
    cases = [
        (mask.astype(float), "holds float64; compare it"),
        (mask.astype(int), "holds int64"),
        (mask.isel(y=0, drop=True), r"has dimensions \('x',\), a region has \('x', 'y'\)"),
        (mask.rename(y="z"), "has dimensions"),
        (mask.expand_dims("time"), "has dimensions"),
        (mask.drop_vars("x"), "no coordinate 'x'"),
        (mask.isel(x=slice(None, None, -1)), r"does not increase; sort the DataArray by .sortby\('x'\)"),
        (mask.isel(x=[0, 2, 1, 3]), "does not increase"),
        (mask.isel(x=[0, 0, 1]), "does not increase"),
        (mask.isel(x=[0, 1, 3]), "not equally spaced: gaps from 0.25 to 0.5"),
        (uneven, "not equally spaced"),
        (mask.isel(x=[0]), "has 1 cells along 'x'"),
        (mask.assign_coords(x=np.full(16, np.nan)), "coordinate 'x' must be finite"),
        (mask.assign_coords(x=[str(k) for k in range(16)]), "coordinate 'x' must be an array of real numbers"),
        (mask.isel(x=[0, 1]).assign_coords(x=[-1.7e308, 1.7e308]), "not equally spaced"),
    ]
    for bad, why in cases:
        with pytest.raises(ValueError, match=f"^inside.*{why}"):
            region(bad)
    assert region(mask.isel(x=slice(None, None, -1)).sortby("x")).contains([0.0, 0.0])


def test_a_mask_on_a_periodic_axis():
    grid = Grid(0.0, 2 * math.pi, 20, boundary="periodic")
    mask = mask_of(lambda x: x[..., 0] < math.pi, grid, ["theta"])
    r = region(mask, ["theta"], domain={"theta": (0, 2 * math.pi, "periodic")})
    assert r.contains([[1.0], [1.0 - 2 * math.pi], [1.0 + 6 * math.pi], [2 * math.pi]]).all()
    assert not r.contains([[4.0], [4.0 - 2 * math.pi]]).any()
    with pytest.raises(ValueError, match="beyond the domain"):
        region(mask, ["theta"], domain={"theta": (-math.pi, math.pi, "periodic")})


def test_lane_code_of_a_mask_looks_up_what_contains_does():
    r = region(mask_of(disc))
    tables = r.mask.arguments("f")
    f = compiled(r.lane_inside(), "inside", ["x0", "x1", *tables])
    edge = [[-2, -1], [2, 1], [2.1, 0], [math.nan, 0], [0, math.inf], [1e300, 0], [0, 0]]
    points = np.concatenate([POINTS[:500] * 1.5, edge])
    assert [f(*p, *tables.values()) for p in points] == r.contains(points).tolist()


# Functions --------------------------------------------------------------------------------------------------


def test_a_function_is_called_on_arrays():
    r = region(disc)
    assert np.array_equal(r.contains(POINTS), disc(POINTS)) and r.function is disc
    assert r.describe() == "function disc" and r.levels is None and r.mask is None
    for code in (r.lane_lines, r.lane_inside, r.lane_condition):
        with pytest.raises(ValueError, match="function disc has no lane code"):
            code()


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x[0] > 0,  # one point at a time
        lambda x: x > 0,
        lambda x: x[..., 0],
        lambda x: True,
        lambda x: x[..., 7] > 0,
        lambda x, y: x > y,
        lambda x: None,
        lambda x: x[..., 0] > 0 and x[..., 1] > 0,
    ],
)
def test_functions_that_do_not_answer_per_point_are_refused(function):
    with pytest.raises(ValueError, match=r"inside must be a function of points \(..., 2\) that returns"):
        region(function)


def test_a_function_is_first_tried_inside_the_domain():
    seen = []
    domain = {"x": (5, math.inf), "y": (-math.inf, -5)}
    region(lambda x: seen.append(x.copy()) or disc(x), domain=domain)
    assert (seen[0][:, 0] > 5).all() and (seen[0][:, 1] < -5).all()


def test_a_function_cannot_change_the_points():
    def meddling(x):
        x[:] = 0.0
        return x[..., 0] >= 0

    points = POINTS.copy()
    region(meddling).contains(points)
    assert np.array_equal(points, POINTS)


# Any of them ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["-a < x < a and y > 0", "x > 0 or y > 0", mask_of(disc), disc])
def test_pickles(value):
    r = region(value, parameters={"a": 1.0})
    inside = r.contains(POINTS)
    again = pickle.loads(pickle.dumps(r))
    assert np.array_equal(again.contains(POINTS), inside) and again.describe() == r.describe()
    assert again.levels == r.levels


def test_repr_shows_the_source():
    assert repr(region("x  > 0")) == "Region('x > 0')"
    assert repr(region(mask_of(disc))).startswith("Region('mask sink: 80 of 16 × 12 cells")


def test_a_region_is_taken_as_it_is():
    r = region("x > 0")
    assert region(r) is r
    with pytest.raises(ValueError, match="the region is over x, y, not x"):
        region(r, ["x"])
