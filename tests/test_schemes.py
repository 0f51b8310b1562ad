"""Orders of the schemes as declared: strong on one noise, weak against exact moments, steady density by quadrature."""

import functools
import itertools
import math

import numpy as np
import pytest
from scipy.interpolate import make_interp_spline

import sde_sgd as sde

T = 0.5
MULTIPLICATIVE = sde.Landscape("x", "x**2/2", diffusion=[["1 + x**2"]]).at_temperature(T)
QUARTIC = sde.Landscape("x", "x**4/4 + x**2/4").at_temperature(T)
LINE = sde.Landscape("x", "x**2/2").at_temperature(T)
COUPLED = sde.Landscape(  # SRA1 is of order 2 where the drift is linear: it must not be
    ("x", "y"), "x**4/4 + x*y/2 + y**2/2", diffusion=[[1, "1/4"], ["1/4", "1/2"]]
).at_temperature(T)
PLANE = sde.landscapes.get("quadratic", rotation=1.0).at_temperature(T)


def slope(h, values, errors):
    """Least squares slope of log values against log h, and its standard error from those of the values."""
    x, y, weight = np.log(h), np.log(np.abs(values)), (np.abs(values) / errors) ** 2
    center = np.average(x, weights=weight)
    spread = (weight * (x - center) ** 2).sum()
    return float((weight * (x - center) * y).sum() / spread), float(1 / math.sqrt(spread))


def distance(x, y):
    return np.linalg.norm(x - y, axis=-1)


def difference_of_squares(x, y):
    return (x**2 - y**2)[:, 0]


def coupled(process, scheme, start, levels, paths, gap=distance, end=1.0, first_path=0):
    """E gap(x_h, x_{h/2}) over paths at t = `end`, both on the same Brownian motion, for h = 2^−level; with errors."""
    finest = max(levels) + 1

    def run(level):
        x = sde.simulate(
            process, start, step=2.0**-level, steps=round(end * 2**level), paths=paths, scheme=scheme,
            substeps=2 ** (finest - level), seed=3, first_path=first_path,
        )  # fmt: skip
        return np.stack([x[v].values for v in process.variables], -1)

    runs = {level: run(level) for level in {*levels, *(level + 1 for level in levels)}}
    gaps = [gap(runs[level], runs[level + 1]) for level in levels]
    return np.array([g.mean() for g in gaps]), np.array([g.std() / math.sqrt(paths) for g in gaps])


STRONG = [
    ("euler_maruyama", MULTIPLICATIVE, 1.0, "strong_order"),
    ("milstein", MULTIPLICATIVE, 1.0, "strong_order"),
    pytest.param("euler_maruyama", QUARTIC, 1.0, "strong_order_additive", marks=pytest.mark.evidence),
    pytest.param("stochastic_heun", QUARTIC, 1.0, "strong_order_additive", marks=pytest.mark.evidence),
    ("sra1", COUPLED, (1.0, -0.5), "strong_order_additive"),
]


@pytest.mark.parametrize("scheme, process, start, fact", STRONG)
def test_strong_order(scheme, process, start, fact):
    """Slope of E|x_h − x_{h/2}| over h = 2⁻⁶…2⁻⁹, its error below 0.03: as declared, ± 0.1."""
    levels = np.array([6, 7, 8, 9])
    values, errors = coupled(process, scheme, start, levels, paths=20_000)
    found, error = slope(2.0**-levels, values, errors)
    assert error < 0.03 and abs(found - getattr(sde.SCHEMES[scheme], fact)) < 0.1, (found, error)


def test_strong_order_tells_schemes_apart():
    """The counterexample: independent noise at every level has no order at all."""
    x = [sde.simulate(QUARTIC, 1.0, step=2.0**-k, steps=2**k, paths=20_000, seed=k).x.values for k in (6, 7, 8)]
    gaps = [np.abs(b - a).mean() for a, b in itertools.pairwise(x)]
    assert abs(np.log2(gaps[0] / gaps[1])) < 0.1


def increments(scheme):
    """Points z (columns: ξ, and ζ for SRA1) and weights of the scheme's increments."""
    if scheme == "weak_euler":
        return np.array([[-1.0], [1.0]]), np.array([0.5, 0.5])
    if scheme == "weak_heun":
        return np.array([[-math.sqrt(3)], [0.0], [math.sqrt(3)]]), np.array([1, 4, 1]) / 6
    node, weight = np.polynomial.hermite_e.hermegauss(20)
    weight = weight / weight.sum()
    if scheme == "sra1":
        return np.stack(np.meshgrid(node, node), -1).reshape(-1, 2), np.outer(weight, weight).ravel()
    return node[:, None], weight


def operator(loss, temperature, h, scheme, reach):
    """The scheme's Markov operator (Pφ)(x) = E φ(x′) for D = 1 as a matrix on the nodes of a spline, and the φ that
    stands for x²: everything by quadrature, no sampling."""
    root, grid = math.sqrt(2 * temperature * h), np.linspace(-reach, reach, 401)
    landscape, (points, weight) = sde.Landscape("x", loss), increments(scheme)

    def drift(x):
        return landscape.drift(x[..., None])[..., 0]

    x, z, phi = grid[:, None], points[None, :, 0], grid**2
    if (
        scheme == "leimkuhler_matthews"
    ):  # the chain of y_n = x_n − root ξ_n/2: x = y + root ξ/2, y′ = y + h b(x) + root ξ
        target, phi = x + h * drift(x + 0.5 * root * z) + root * z, (x + 0.5 * root * z) ** 2 @ weight
    elif scheme in ("stochastic_heun", "weak_heun"):
        target = x + 0.5 * h * (drift(x) + drift(x + h * drift(x) + root * z)) + root * z
    elif scheme == "sra1":
        mixed = x + 0.75 * h * drift(x) + 0.75 * root * (z + points[None, :, 1] / math.sqrt(3))
        target = x + h * (drift(x) + 2 * drift(mixed)) / 3 + root * z
    else:
        target = x + h * drift(x) + root * z
    spline = make_interp_spline(grid, np.eye(len(grid)), k=5)
    matrix = np.zeros((len(grid), len(grid)))
    for column, share in zip(np.clip(target, -reach, reach).T, weight):
        matrix += share * spline(column)
    return matrix, phi, grid


@functools.cache
def square_at(loss, temperature, h, scheme, start, end=1.0):
    """E x² at t = `end` of the scheme itself. Leimkuhler–Matthews' first state is y₀ = x₀ − root ξ₀/2."""
    matrix, phi, grid = operator(loss, temperature, h, scheme, reach=4.0)
    for _ in range(round(end / h)):
        phi = matrix @ phi
    spline = make_interp_spline(grid, phi, k=5)
    if scheme == "leimkuhler_matthews":
        points, weight = increments(scheme)
        return float(spline(start - 0.5 * math.sqrt(2 * temperature * h) * points[:, 0]) @ weight)
    return float(spline(start))


WEAK = [
    *("leimkuhler_matthews", "sra1", "weak_euler", "weak_heun"),
    *(pytest.param(scheme, marks=pytest.mark.evidence) for scheme in ("euler_maruyama", "stochastic_heun")),
]
QUARTIC_LOSS, START, STEPS = "x**4/4 + x**2/4", 1.5, 8


@pytest.mark.parametrize("scheme", WEAK)
def test_weak_order(scheme):
    """E x² at t = 1: between h = 2⁻⁷ and 2⁻⁸, by quadrature, the bias falls with the declared order ± 0.1; and the
    kernel's own mean over 10⁶ paths at h = 1/8 is that of the quadrature at 5 standard errors, where the continuous
    value is excluded by 5 for first-order schemes."""
    exact = (
        4 * square_at(QUARTIC_LOSS, T, 2.0**-9, "sra1", START) - square_at(QUARTIC_LOSS, T, 2.0**-8, "sra1", START)
    ) / 3
    bias = [square_at(QUARTIC_LOSS, T, h, scheme, START) - exact for h in (2.0**-7, 2.0**-8)]
    declared = sde.SCHEMES[scheme].weak_order
    assert abs(math.log2(bias[0] / bias[1]) - declared) < 0.1, bias
    x = sde.simulate(QUARTIC, START, step=1 / STEPS, steps=STEPS, paths=1_000_000, scheme=scheme, seed=5).x.values
    error = (x**2).std() / math.sqrt(len(x))
    assert abs((x**2).mean() - square_at(QUARTIC_LOSS, T, 1 / STEPS, scheme, START)) < 5 * error
    assert declared > 1 or abs((x**2).mean() - exact) > 5 * error


@pytest.mark.parametrize("scheme", ["euler_maruyama", "milstein"])
def test_weak_order_with_multiplicative_noise(scheme):
    """dx = −x dt + √(2T(1 + x²)) dW: E x² of the kernel at 5 standard errors from the scheme's own recursion, whose
    bias against m′ = −2m + 2T(1 + m) is of order 1 ± 0.1."""

    def recursion(h):
        m = 4.0
        for _ in range(round(1 / h)):
            m = (1 - h) ** 2 * m + 2 * T * h * (1 + m) + (2 * T**2 * h**2 * m if scheme == "milstein" else 0.0)
        return m

    steady = 2 * T / (2 - 2 * T)
    exact = steady + (4 - steady) * math.exp(2 * T - 2)
    bias = [recursion(h) - exact for h in (2.0**-7, 2.0**-8)]
    assert abs(math.log2(bias[0] / bias[1]) - sde.SCHEMES[scheme].weak_order) < 0.1
    x = sde.simulate(MULTIPLICATIVE, 2.0, step=1 / 8, steps=8, paths=1_000_000, scheme=scheme, seed=5).x.values
    error = (x**2).std() / math.sqrt(len(x))
    assert abs((x**2).mean() - recursion(1 / 8)) < 5 * error < abs((x**2).mean() - exact)


@functools.cache
def steady_square(loss, temperature, h, scheme):
    """E x² in the steady density of the scheme: powers of its operator flatten φ to the constant E φ."""
    matrix, phi, _ = operator(loss, temperature, h, scheme, reach=2.2)
    for _ in range(16):
        matrix = matrix @ matrix
        matrix /= matrix.sum(1, keepdims=True)  # it keeps constants; rounding must not grow
    values = matrix @ phi
    assert np.ptp(values[100:-100]) < 1e-8
    return float(values[len(values) // 2])


def boltzmann_square(loss, temperature):
    x = np.linspace(-6, 6, 20001)
    p = np.exp(-sde.Landscape("x", loss).loss(x[:, None]) / temperature)
    return float((p * x**2).sum() / p.sum())


WELL, COLD = "(x**2 - 1)**2", 1 / 3


@pytest.mark.parametrize("scheme", ["euler_maruyama", "stochastic_heun", "leimkuhler_matthews"])
def test_order_of_the_steady_density(scheme):
    """Bias of E x² by quadrature, free of noise, at h = 2⁻⁷ and 2⁻⁸: slope as declared, ± 0.1."""
    bias = [steady_square(WELL, COLD, h, scheme) - boltzmann_square(WELL, COLD) for h in (2.0**-7, 2.0**-8)]
    order = math.log2(bias[0] / bias[1])
    assert abs(order - sde.SCHEMES[scheme].measure_order) < 0.1, (order, bias)


def test_leimkuhler_matthews_is_fifty_times_less_biased():
    exact = boltzmann_square(WELL, COLD)
    euler, matthews = (steady_square(WELL, COLD, 0.1, s) - exact for s in ("euler_maruyama", "leimkuhler_matthews"))
    assert abs(euler) > 50 * abs(matthews)
    assert euler == pytest.approx(-7.34e-2, abs=1e-3) and abs(matthews) < 1e-3


@pytest.mark.parametrize("scheme", ["euler_maruyama", "stochastic_heun", "leimkuhler_matthews"])
def test_long_runs_have_the_density_of_the_quadrature(scheme):
    """E x² of the kernel against the scheme's own chain at 5 standard errors; but for Leimkuhler–Matthews, whose bias
    is below the error, the Boltzmann value is excluded."""
    process = sde.Landscape("x", WELL).at_temperature(COLD)
    run = sde.simulate(
        process, 1.0, step=0.1, steps=2000, paths=20_000, scheme=scheme, seed=9, save_every=0,
        observables=sde.Moments(burn_in=200, blocks=100),
    )  # fmt: skip
    mean, found = run["mean"].values[0], run["covariance"].values[0, 0]
    error = run["covariance_error"].values[0, 0]
    assert abs(found + mean**2 - steady_square(WELL, COLD, 0.1, scheme)) < 5 * error
    biased = abs(found + mean**2 - boltzmann_square(WELL, COLD)) > 20 * error
    assert biased == (scheme != "leimkuhler_matthews")


def test_auto_says_what_it_took_and_why():
    def chosen(process):
        attrs = sde.simulate(process, np.zeros(process.dim), step=0.01, steps=1).attrs
        return attrs["scheme"], attrs["scheme_reason"]

    well = sde.landscapes.get("double_well")
    for process, name, why in [
        (well.at_temperature(T), "leimkuhler_matthews", "reversible"),
        (PLANE, "stochastic_heun", "constant D"),
        (MULTIPLICATIVE, "euler_maruyama", "depends on the point"),
        (sde.Underdamped(well, T, 1.0), "baoab", "underdamped"),
    ]:
        scheme, reason = chosen(process)
        assert scheme == name and reason.startswith("auto: ") and why in reason


IMPOSSIBLE = {
    "'leimkuhler_matthews' needs a constant diffusion matrix": (MULTIPLICATIVE, "leimkuhler_matthews", {}),
    "'sra1' needs a constant diffusion matrix": (MULTIPLICATIVE, "sra1", {}),
    "'milstein' needs D in closed form, diagonal": (sde.landscapes.get("spiral").at_temperature(0.1), "milstein", {}),
    "'baoab' is for underdamped processes and this one is not": (LINE, "baoab", {}),
    "'sra1' is for overdamped processes and this one is underdamped": (
        sde.Underdamped(sde.landscapes.get("double_well"), T, 1.0), "sra1", {}),
    "two-point increments, whose sum over 2 substeps": (LINE, "weak_euler", {"substeps": 2}),
    "did you mean 'milstein'": (LINE, "milstien", {}),
}  # fmt: skip


@pytest.mark.parametrize("message", IMPOSSIBLE)
def test_impossible_combinations_are_refused_in_a_sentence(message):
    process, scheme, more = IMPOSSIBLE[message]
    with pytest.raises(ValueError, match=message):
        sde.simulate(process, np.full(process.dim, 0.1), step=0.01, steps=4, scheme=scheme, **more)


@pytest.mark.evidence(table="slopes")
def test_slopes_of_every_scheme(table):
    """Strong and weak slopes with their standard errors, ten times the paths of the plain tests; all within ± 0.1."""
    rows, faults = [], []
    for scheme, process, start, fact in STRONG:
        values, errors = coupled(process, scheme, start, np.array([6, 7, 8, 9, 10]), paths=200_000)
        found, error = slope(2.0 ** -np.array([6, 7, 8, 9, 10]), values, errors)
        noise = "D = 1 + x²" if process is MULTIPLICATIVE else "D constant"
        declared = getattr(sde.SCHEMES[scheme], fact)
        rows.append(["strong", scheme, noise, f"{found:.3f} ± {error:.3f}", declared])
    exact = (
        4 * square_at(QUARTIC_LOSS, T, 2.0**-9, "sra1", START) - square_at(QUARTIC_LOSS, T, 2.0**-8, "sra1", START)
    ) / 3
    for scheme in WEAK:
        found = []
        for n in (8, 16, 32):
            run = sde.simulate(
                QUARTIC, START, step=1 / n, steps=n, paths=200_000_000, scheme=scheme, seed=5, save_every=0,
                observables=sde.Moments(burn_in=n - 1, blocks=100),
            )  # fmt: skip
            mean, variance = float(run["mean"][0]), float(run["covariance"][0, 0])
            error = float(run["covariance_error"][0, 0]) + 2 * abs(mean) * float(run["mean_error"][0])  # an upper bound
            found.append((mean**2 + variance - exact, error))
        steps, (values, errors) = 1 / np.array([8, 16, 32]), np.array(found).T
        power, error = slope(steps, values, errors)
        own, _ = slope(steps, np.array([square_at(QUARTIC_LOSS, T, h, scheme, START) - exact for h in steps]), errors)
        faults += [scheme] if abs(power - own) > 4 * error else []  # the kernel's slope is that of its scheme
        bias = [square_at(QUARTIC_LOSS, T, h, scheme, START) - exact for h in (2.0**-7, 2.0**-8)]
        order = math.log2(bias[0] / bias[1])
        rows.append(["weak, 2⁻³…2⁻⁵, 2·10⁸ paths", scheme, QUARTIC_LOSS, f"{power:.3f} ± {error:.3f}", ""])
        declared = sde.SCHEMES[scheme].weak_order
        rows.append(["weak, quadrature", scheme, QUARTIC_LOSS, f"{order:.3f}", declared])
        if sde.SCHEMES[scheme].increments == "normal":  # one noise at every step: its differences resolve small steps
            levels, blocks = (np.array([7, 8, 9]), 2) if declared == 1 else (np.array([5, 6, 7]), 8)
            batches = [
                coupled(QUARTIC, scheme, START, levels, 2_500_000, difference_of_squares, first_path=2_500_000 * k)
                for k in range(blocks)
            ]
            values = np.mean([v for v, _ in batches], axis=0)
            errors = np.sqrt(np.sum([e**2 for _, e in batches], axis=0)) / blocks
            power, error = slope(2.0**-levels, values, errors)
            words = "weak, 2⁻⁷…2⁻¹⁰, one noise" if declared == 1 else "weak, 2⁻⁵…2⁻⁸, one noise"
            rows.append([words, scheme, QUARTIC_LOSS, f"{power:.3f} ± {error:.3f}", declared])
    for scheme in ("euler_maruyama", "stochastic_heun", "leimkuhler_matthews"):
        bias = [steady_square(WELL, COLD, h, scheme) - boltzmann_square(WELL, COLD) for h in (2.0**-7, 2.0**-8)]
        order = math.log2(bias[0] / bias[1])
        rows.append(["steady density", scheme, WELL, f"{order:.3f}", sde.SCHEMES[scheme].measure_order])
    table("Slopes of the schemes", ["order", "scheme", "process", "measured", "declared"], rows)
    assert not [row for row in rows if row[4] and abs(float(row[3].split(" ")[0]) - row[4]) > 0.1]
    assert not faults, faults
