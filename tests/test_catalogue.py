"""Every landscape of the catalogue against what is known of it exactly; each check is shown a case that fails it."""

import collections
import functools
import pickle
import re

import numpy as np
import pytest

import sde_sgd as sde

CATALOGUE = sde.landscapes.catalogue()
WITHOUT_POTENTIAL = {"scale_invariant", "neuron", "neuron_two_inputs"}
WITHOUT_Q = WITHOUT_POTENTIAL | {"ring", "pearson", "multiplicative_well", "spiral"}

# Entries with their own parameters at their own temperature, and some away from both.
CASES = [
    *((name, {}, None) for name in CATALOGUE),
    ("quadratic", dict(a=1.3, c=2.5, dxx=0.7, dxy=-0.2, dyy=1.1, rotation=0.9), 0.4),
    ("example_19", dict(circulation=1.5), 0.6),
    ("sheared_double_well", dict(finite_sum=True), 0.2),
    ("spiral", dict(kappa=-2.0, samples=5), 0.15),
    ("ring", dict(force=2.0), 0.3),
    ("ring", dict(force=-0.7, amplitude=-1.5), 0.2),
    ("hopf", dict(a=-0.5, c=2.0, omega=-0.3, kappa=1.2), 0.3),
    ("hopf", dict(kappa=0.0), 0.01),
    ("pearson", dict(curvatures=(1.0, 3.0, 0.5), centers=(0.0, 1.0, -2.0)), 0.4),
    ("multiplicative_well", dict(c=0.5), 0.7),
    ("rosenbrock", dict(steepness=5.0), 0.3),
    ("bumpy_valley", dict(finite_sum=True), 0.2),
]
EXACT = [case for case in CASES if case[0] not in WITHOUT_POTENTIAL]
WITH_Q = [case for case in CASES if case[0] not in WITHOUT_Q]


def named(case):
    return "-".join([case[0], *(f"{k}={v}" for k, v in case[1].items())])


def made(case):
    name, parameters, temperature = case
    landscape = sde.landscapes.get(name, **parameters)
    return landscape, temperature or landscape.default_temperature


def central(function, x, step=1e-5):
    """∂function/∂x_j on a new last axis, by central differences."""
    parts = [(function(x + step * e) - function(x - step * e)) / (2 * step) for e in np.eye(x.shape[-1])]
    return np.stack(parts, -1)


@functools.cache
def critical_points(name):
    return sde.landscapes.get(name).critical_points()


def likely_points(landscape, temperature, number=40):
    """Random points of the domain where the density is at least e^{−5} of its largest, and where it is not flat."""
    x = np.random.default_rng(3).uniform(landscape.domain.lower, landscape.domain.upper, (30_000, landscape.dim))
    height = landscape.potential(x, temperature)
    height = landscape.loss(x) if height is None else height
    x = x[height <= np.nanmin(height) + 5 * temperature][:number]
    assert len(x) == number
    return x


# Stationarity ---------------------------------------------------------------------------------------------


def imbalance(landscape, temperature, scale=1.0):
    """max |div(jρ)|/ρ over likely points for ρ = e^{−sΦ/T}, s = `scale`, in units of the terms that cancel."""
    x = likely_points(landscape, temperature)

    def remainder(p):
        if scale == 1.0:
            return landscape.remainder(p, temperature)
        slope = scale * central(lambda q: landscape.potential(q, temperature), p)
        flow = landscape.drift(p, temperature) - temperature * landscape.diffusion_divergence(p)
        return flow + (landscape.diffusion(p) @ slope[..., None])[..., 0]

    slope = scale * central(lambda q: landscape.potential(q, temperature), x)
    divergence = np.einsum("...ii->...", central(remainder, x, 1e-5 if scale == 1.0 else 1e-3))
    flux = np.einsum("...i,...i->...", remainder(x), slope) / temperature
    b = landscape.drift(x, temperature)
    parts = np.abs(central(lambda p: landscape.drift(p, temperature), x)).max((-1, -2))
    parts = parts + np.linalg.norm(b, axis=-1) * np.linalg.norm(slope, axis=-1) / temperature
    return np.abs(divergence - flux).max() / parts.max()


@pytest.mark.parametrize("case", EXACT, ids=named)
def test_the_exact_potential_is_stationary(case):
    """div(jρ) = 0 for ρ = e^{−Φ/T}; a potential ten per cent too steep is seen."""
    landscape, temperature = made(case)
    assert imbalance(landscape, temperature) < 1e-7
    assert imbalance(landscape, temperature, 1.1) > 1e-2


@pytest.mark.parametrize("case", EXACT, ids=named)
def test_the_remainder_is_its_definition(case):
    """j = b + D∇Φ − T div D with ∇Φ by differences; with column and row mistaken, or without D, it is another."""
    landscape, temperature = made(case)
    x = likely_points(landscape, temperature)
    slope = central(lambda p: landscape.potential(p, temperature), x)
    expected = landscape.drift(x, temperature) + np.einsum("...ij,...j->...i", landscape.diffusion(x), slope)
    expected = expected - temperature * landscape.diffusion_divergence(x)
    scale = np.abs(landscape.drift(x, temperature)).max()
    np.testing.assert_allclose(landscape.remainder(x, temperature), expected, rtol=0, atol=1e-7 * scale)
    colder = landscape.remainder(x, 0.9 * temperature)
    if case[0] in ("example_19", "spiral", "ring"):
        assert np.abs(colder - expected).max() > 1e-3 * scale
    still = case[0] not in ("quadratic", "example_19", "sheared_double_well", "spiral", "ring", "hopf")
    assert (np.abs(expected).max() < 1e-6 * scale) == still  # detailed balance, or not


def test_which_entries_know_what():
    for name in CATALOGUE:
        landscape, x = sde.landscapes.get(name), np.full(sde.landscapes.get(name).dim, 0.5)
        known = landscape.potential(x, 0.1) is not None
        assert known == (landscape.remainder(x, 0.1) is not None) == (name not in WITHOUT_POTENTIAL)
        assert (landscape.q(x, 0.1) is not None) == (name not in WITHOUT_Q)


@pytest.mark.parametrize("case", WITH_Q, ids=named)
def test_q_gives_the_remainder(case):
    """j = −Q∇Φ + T div Q, Q = q[[0, 1], [−1, 0]], by rows; not with q moved by a constant, nor by columns."""
    landscape, temperature = made(case)
    x = likely_points(landscape, temperature)
    slope = central(lambda p: landscape.potential(p, temperature), x)

    q, dq = landscape.q(x, temperature), central(lambda p: landscape.q(p, temperature), x)
    largest = 1 + np.abs(q).max()

    def gap(shift=0.0, sign=1.0):
        turned = temperature * sign * dq - (q + shift)[:, None] * slope
        j = np.stack([turned[:, 1], -turned[:, 0]], -1)
        return np.abs(j - landscape.remainder(x, temperature)).max() / (largest * np.abs(slope).max())

    assert gap() < 1e-7
    assert gap(shift=0.1 * largest) > 1e-2
    if np.ptp(q) > 1e-9:
        assert gap(sign=-1.0) > 1e-2


# Points ---------------------------------------------------------------------------------------------------

COUNTS = {
    "quadratic": dict(minimum=1),
    "double_well": dict(minimum=2, saddle=1),
    "example_19": dict(minimum=2, saddle=1),
    "sheared_double_well": dict(minimum=2, saddle=1),
    "ring": dict(minimum=1, maximum=1),
    "pearson": dict(minimum=1),
    "multiplicative_well": dict(minimum=2, maximum=1),
    "mueller_brown": dict(minimum=3, saddle=2),
    "himmelblau": dict(minimum=4, saddle=4, maximum=1),
    "rosenbrock": dict(minimum=1),
    "scale_invariant": {},  # the decay pulls everything into the origin, where the loss is not continuous
    "sharp_flat": dict(minimum=2, saddle=1),
    "bumpy_valley": dict(minimum=7, saddle=6),
    "saddle": dict(saddle=1),
    "neuron": dict(minimum=1),
    "neuron_two_inputs": dict(minimum=2, saddle=1),
}
CIRCLES = {"spiral", "hopf"}  # their minima fill the circle r = 1


def morse(points):
    """Σ (−1)^index, the index of a critical point being its number of descending directions."""
    return int(((-1.0) ** (points.eigenvalue < 0).sum("mode")).sum())


@pytest.mark.parametrize("name", COUNTS)
def test_all_critical_points_are_found_and_classified(name):
    """Known counts; and Morse's identity: the signed count is 1 where f confines, 0 on a circle, −1 for a saddle."""
    landscape = sde.landscapes.get(name)
    found = critical_points(name)
    assert collections.Counter(found.kind.values.tolist()) == COUNTS[name]
    if not found.sizes["point"]:
        return
    points = np.stack([found[v] for v in landscape.variables], -1)
    scale = np.abs(landscape.hessian(points)).max()
    assert np.abs(landscape.gradient(points)).max() < 1e-9 * scale
    expected = {"ring": 0, "saddle": -1}.get(name, 1)
    assert morse(found) == expected
    assert all(morse(found.drop_isel(point=k)) != expected for k in range(found.sizes["point"]))


def test_every_entry_has_its_critical_points_told():
    assert set(COUNTS) | CIRCLES == set(CATALOGUE)


@pytest.mark.parametrize("name", sorted(CIRCLES))
def test_a_circle_of_minima_is_degenerate(name):
    found = sde.landscapes.get(name).critical_points()
    r = np.hypot(found.x, found.y).values
    circle = found.kind.values == "degenerate"
    np.testing.assert_allclose(r[circle], 1.0, atol=1e-9)
    assert circle.sum() > 50
    assert found.kind.values[~circle].tolist() == ["maximum"] and r[~circle] < 1e-6


@pytest.mark.parametrize("case", [c for c in CASES if made(c)[0].known_fixed_points() is not None], ids=named)
def test_known_fixed_points_are_zeros_of_the_drift_and_are_found(case):
    landscape, temperature = made(case)
    known = landscape.known_fixed_points(temperature)
    if case[0] == "ring" and abs(landscape.parameters["force"]) > abs(landscape.parameters["amplitude"]):
        assert known.shape == (0, 1)  # it slides, and the arcsine is not real
        return
    scale = np.abs(landscape.evaluator().jacobian(known, temperature)).max()
    assert np.abs(landscape.drift(known, temperature)).max() < 1e-14 * scale
    assert np.abs(landscape.drift(known + 1e-3, temperature)).max() > 1e-6 * scale
    found = landscape.fixed_points(temperature=temperature)
    found = np.stack([found[v] for v in landscape.variables], -1)
    for point in known:
        gap = np.abs(found - point)
        gap = np.minimum(gap, np.abs(landscape.domain.period - gap))
        assert gap.max(-1).min() < 1e-8


def test_critical_points_at_seams_sides_and_singularities():
    for start in (0.0, 0.1, 1.0, -np.pi):
        wave = sde.Landscape("u", f"-cos(u - {start!r})", domain={"u": (start, start + 2 * np.pi, "periodic")})
        assert sorted(wave.critical_points().kind.values) == ["maximum", "minimum"]
    for center in (0.0, 0.1, 1.0):
        side = sde.Landscape("x", f"(x - {center!r})**2", domain=((center, center + 3.0),)).critical_points()
        assert side.kind.values.tolist() == ["minimum"] and side.x.item() >= center
    flat = sde.landscapes.get("scale_invariant", weight_decay=0.0).critical_points()  # both axes, without the origin
    assert set(flat.kind.values) == {"degenerate"} and (np.minimum(abs(flat.x), abs(flat.y)) < 1e-6).all()


# Derivatives and paths ------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=named)
def test_gradients_against_differences_inside_the_domain(case):
    landscape, temperature = made(case)
    x = likely_points(landscape, temperature)
    gradient, differences = landscape.gradient(x), central(landscape.loss, x)
    scale = np.abs(landscape.hessian(x)).max()
    np.testing.assert_allclose(gradient, differences, rtol=0, atol=1e-8 * scale)
    assert np.abs(landscape.gradient(x + 1e-3) - differences).max() > 1e-6 * scale


START = {"spiral": (1.0, 0.0), "hopf": (1.0, 0.0), "scale_invariant": (0.6, 0.5)}  # no isolated minimum to start at


QUICK = ("double_well", "example_19", "neuron", "ring")  # a kernel each


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.evidence) for name in CATALOGUE]
)
def test_paths_at_the_default_temperature(name):
    landscape = sde.landscapes.get(name)
    start = START.get(name)
    if start is None:
        lowest = critical_points(name).isel(point=0)
        start = [float(lowest[v]) for v in landscape.variables]
    process = landscape.at_temperature()
    assert process.temperature == landscape.default_temperature
    run = sde.simulate(process, start, step=1e-3, steps=200, paths=128, seed=1)
    moved = np.stack([run[v] for v in landscape.variables], -1)
    assert ((moved > landscape.domain.lower) & (moved < landscape.domain.upper)).all()
    # From a point without drift the mean square grows as 2T tr D t, up to the curvature's part.
    spread = ((moved - start) ** 2).sum(-1).mean()
    expected = 2 * landscape.default_temperature * 0.2 * np.trace(landscape.diffusion(start))
    assert 0.1 * expected < spread < 4 * expected


def test_a_step_too_large_for_the_valley_diverges():
    with pytest.raises(sde.Diverged):
        sde.simulate(sde.landscapes.get("rosenbrock").at_temperature(), (1.0, 1.0), step=1.0, steps=200, paths=8)


# Names and keywords ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_entry_says_formula_and_source(name):
    text = sde.landscapes.describe(name)
    first = text.splitlines()[0]
    assert re.search(r" = ", first) and len(first) <= 120, first
    assert re.search(r"\b(1[89]|20)\d\d\b|Constructed for this package", text)
    landscape = sde.landscapes.get(name)
    assert landscape.name == name and landscape.domain.spec()
    assert re.match(rf"<(Landscape|FiniteSum) {name}\(", repr(landscape))
    assert {"loss", "diffusion"} <= set(landscape.latex())


@pytest.mark.parametrize("name", CATALOGUE)
def test_what_is_known_travels_by_pickle_and_with_parameters(name):
    landscape = sde.landscapes.get(name)
    for copy in (pickle.loads(pickle.dumps(landscape)), landscape.with_parameters()):
        x = np.full((3, landscape.dim), 0.4)
        assert copy.default_temperature == landscape.default_temperature > 0
        for function in ("potential", "remainder", "q"):
            before, after = getattr(landscape, function)(x, 0.3), getattr(copy, function)(x, 0.3)
            assert (before is None and after is None) or np.array_equal(before, after)
        known = landscape.known_fixed_points(0.3)
        assert known is None or np.array_equal(known, copy.known_fixed_points(0.3))


def test_parameters_reach_everything_known():
    changed = sde.landscapes.get("hopf").with_parameters(a=0.4, kappa=2.0)
    fresh, x = sde.landscapes.get("hopf", a=0.4, kappa=2.0), np.array([0.3, -0.5])
    for function in ("potential", "remainder", "q"):
        np.testing.assert_array_equal(getattr(changed, function)(x, 0.2), getattr(fresh, function)(x, 0.2))
    assert changed.q(x, 0.2) != sde.landscapes.get("hopf").q(x, 0.2)
    ring = sde.landscapes.get("ring").with_parameters(force=0.8)
    np.testing.assert_allclose(ring.known_fixed_points()[:, 0], [np.arcsin(0.8), np.pi - np.arcsin(0.8)], rtol=1e-15)
    assert "q" in changed.latex() and r"\int" in ring.latex()["potential"]


SIGNED = [
    *(("quadratic", "a"), ("quadratic", "c"), ("hopf", "c"), ("multiplicative_well", "c"), ("rosenbrock", "steepness")),
    *(("sharp_flat", "flat"), ("sharp_flat", "sharp"), ("bumpy_valley", "floor"), ("bumpy_valley", "wall")),
    *(("saddle", "descent"), ("saddle", "ascent"), ("scale_invariant", "noise"), ("scale_invariant", "weight_decay")),
    *(("neuron", "weight_decay"), ("neuron_two_inputs", "weight_decay")),
]


@pytest.mark.parametrize("name, parameter", SIGNED)
def test_what_must_confine_is_refused_at_first_and_when_changed(name, parameter):
    landscape, wrong = sde.landscapes.get(name), {parameter: -0.5}
    for change in (landscape.with_parameters, pickle.loads(pickle.dumps(landscape)).with_parameters):
        with pytest.raises(ValueError, match=f"^{parameter} must be a finite number >=? ?0.*, got -0.5; "):
            change(**wrong)
    with pytest.raises(ValueError, match=f"^{parameter} must be"):
        sde.landscapes.get(name, **wrong)
    assert landscape.with_parameters(**{parameter: 0.5}).parameters[parameter] == 0.5


def test_the_default_temperature_of_the_spiral_has_a_steady_state_whatever_kappa():
    for kappa in (0.5, 5.0):
        changed = sde.landscapes.get("spiral").with_parameters(kappa=kappa)
        assert changed.default_temperature == sde.landscapes.get("spiral", kappa=kappa).default_temperature
        assert 0 < changed.default_temperature < 2 / (3 + kappa**2)


def swirl(**settings):
    return sde.Landscape(("x", "y"), "x**2/2 + y**2/2", circulation=["-y", "x"], **settings)


def test_a_landscape_of_ones_own_may_say_what_it_knows():
    mine = swirl(potential="x**2/2 + y**2/2", q="1", known_fixed_points=[(0, 0)], default_temperature=0.2)
    assert mine.at_temperature().temperature == 0.2 and mine.at_temperature(0.3).temperature == 0.3
    x = np.array([[0.3, -0.7], [1.0, 2.0]])
    np.testing.assert_allclose(mine.remainder(x, 0.2), np.stack([-x[:, 1], x[:, 0]], -1), atol=1e-15)
    np.testing.assert_array_equal(mine.q(x), 1.0)
    np.testing.assert_array_equal(mine.known_fixed_points(), [[0.0, 0.0]])
    silent = swirl()
    assert silent.remainder(x, 0.2) is silent.q(x, 0.2) is silent.known_fixed_points() is None
    assert silent.default_temperature is None


FAULTS = {
    "did you mean 'rosenbrock'": lambda: sde.landscapes.get("rosenbrok"),
    "did you mean 'mueller_brown'": lambda: sde.landscapes.get("muller_brown"),
    "must be one of quadratic, double_well": lambda: sde.landscapes.get(3),
    "no parameter 'radius'.* it has: a, c, omega, kappa": lambda: sde.landscapes.get("hopf", radius=1.0),
    "double_well has no parameter 'a'; it has: none": lambda: sde.landscapes.get("double_well", a=1.0),
    "c must be a finite number > 0, got 0": lambda: sde.landscapes.get("multiplicative_well", c=0),
    "noise must be a finite number > 0": lambda: sde.landscapes.get("scale_invariant", noise=0.0),
    "finite_sum must be True or False, got 'no'": lambda: sde.landscapes.get("sheared_double_well", finite_sum="no"),
    "0, 0, 2 make no noise in a direction": lambda: sde.landscapes.get("quadratic", dxx=0, dxy=0, dyy=2),
    "1, 0, 0 make no noise": lambda: sde.landscapes.get("quadratic").with_parameters(dxy=0, dyy=0),
    "smallest eigenvalue is -1": lambda: sde.landscapes.get("quadratic").with_parameters(dxy=2),
    "samples must be a whole number": lambda: sde.landscapes.get("spiral", samples=2),
    "landscape has no default temperature; pass one": lambda: swirl().at_temperature(),
    "default_temperature must be a finite number > 0, got 0": lambda: swirl(default_temperature=0),
    "temperature must be a finite number > 0, got None": lambda: swirl(potential="x**2 + y**2").remainder([0, 0], None),
    "q says what the remainder": lambda: swirl(q="1"),
    "q is the one entry of Q in two dimensions": lambda: sde.Landscape("x", "x**2", potential="x**2", q="1"),
    "q: unknown symbol 'z'": lambda: swirl(potential="x**2", q="z"),
    "known_fixed_points must be a sequence of points": lambda: swirl(known_fixed_points=[]),
    r"known_fixed_points\[0\] must have 2 coordinates, got 1": lambda: swirl(known_fixed_points=[(0,)]),
    "unknown symbol 'x'": lambda: swirl(known_fixed_points=[("x", "0")]),
    "depends on the temperature T": lambda: sde.landscapes.get("example_19").q([0.0, 1.0]),
}


@pytest.mark.parametrize("message", FAULTS)
def test_faults_are_named(message):
    with pytest.raises(ValueError, match=message):
        FAULTS[message]()
