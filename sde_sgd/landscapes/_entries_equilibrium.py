"""Entries in detailed balance, j = 0: what the noise makes of wells, barriers, valleys and saddles."""

from typing import Any

import numpy as np

from ._finite_sum import FiniteSum
from ._landscape import Landscape


def _boltzmann(variables, loss: str, *, positive=None, **settings) -> Landscape:
    """D = I and no circulation, so that Φ = f and Q = 0 at every T."""
    q = "0" if len(variables) == 2 else None
    return Landscape(variables, loss, potential=loss, q=q, **settings)._annotate(positive=positive)


def double_well() -> Landscape:
    """f = (x² − 1)²/4 + y²/2 with D = I: two minima at (±1, 0), barrier ¼ at the origin, Φ = f at every T.

    From one minimum to the other it takes T⁻¹ ∫_{−1}^{1} e^{f/T} ∫_{−∞}^{x} e^{−f/T} on average, 66.2686 at T = 0.1,
    and 2π/√2 e^{1/4T} as T → 0 (Kramers 1940).
    """
    return _boltzmann(
        ("x", "y"),
        "(x**2 - 1)**2/4 + y**2/2",
        known_fixed_points=[("-1", "0"), ("0", "0"), ("1", "0")],
        default_temperature=0.1,
        domain=((-4, 4), (-4, 4)),
        name="double_well",
    )


def multiplicative_well(c: float = 2.0) -> Landscape:
    """f = x⁴/4 − x²/2 with D = 1 + c x², c > 0: noise that is weakest on the barrier, so that SGD prefers it.

    Φ = x²/2c − (1 + c)/(2c²) log(1 + cx²) + T log(1 + cx²) with j = 0. Its critical points are 0 and x² = 1 − 2Tc:
    from Tc = ½ on, ρ_ss has a single mode, at the maximum of f, though nothing circulates. A noise-induced transition:
    Horsthemke & Lefever (1984).
    """
    return Landscape(
        "x",
        "x**4/4 - x**2/2",
        diffusion=[["1 + c*x**2"]],
        parameters={"c": c},
        potential="x**2/(2*c) + (T - (1 + c)/(2*c**2))*log(1 + c*x**2)",
        known_fixed_points=[("-1",), ("0",), ("1",)],
        default_temperature=0.3,
        domain=((-6, 6),),
        name="multiplicative_well",
    )._annotate(positive={"c": "D = 1 + c x²; for constant noise take another entry"})


_MUELLER_BROWN = (  # amplitude A, curvatures a, b, c, centre x, y
    (-200, -1, 0, -10, 1, 0),
    (-100, -1, 0, -10, 0, 0.5),
    (-170, -6.5, 11, -6.5, -0.5, 1.5),
    (15, 0.7, 0.6, 0.7, -1, 1),
)


def mueller_brown() -> Landscape:
    """f = (1/100) Σ_k A_k exp(a_k(x−x_k)² + b_k(x−x_k)(y−y_k) + c_k(y−y_k)²) with D = I: three minima, two saddles.

    The standard surface of four terms, divided by 100, so that T = 0.15 is its usual kT = 15. The path from the
    deepest minimum (−0.558, 1.442) to (0.623, 0.028) bends through the shallow third and both saddles.
    Müller & Brown (1979).
    """
    terms = [
        f"({size})*exp(({a})*(x - ({u}))**2 + ({b})*(x - ({u}))*(y - ({v})) + ({c})*(y - ({v}))**2)"
        for size, a, b, c, u, v in _MUELLER_BROWN
    ]
    return _boltzmann(
        ("x", "y"),
        f"({' + '.join(terms)})/100",
        default_temperature=0.15,
        domain=((-1.8, 1.4), (-0.6, 2.2)),
        name="mueller_brown",
    )


def himmelblau() -> Landscape:
    """f = ((x² + y − 11)² + (x + y² − 7)²)/100 with D = I: four minima of one depth 0, four saddles, one maximum.

    The standard function divided by 100, so that curvatures are near 1 and the saddles lie at 0.13 to 1.78; as T → 0
    the probabilities of the four basins are as 1/√det ∇²f. Himmelblau (1972).
    """
    return _boltzmann(
        ("x", "y"),
        "((x**2 + y - 11)**2 + (x + y**2 - 7)**2)/100",
        known_fixed_points=[("3", "2")],
        default_temperature=0.1,
        domain=((-6, 6), (-6, 6)),
        name="himmelblau",
    )


def rosenbrock(steepness: float = 100.0) -> Landscape:
    """f = ((1 − x)² + s(y − x²)²)/20 with D = I, s = `steepness`: a curved valley, its floor 2500 times flatter.

    The standard function (s = 100) divided by 20 (Goodman & Weare 2010). x ~ N(1, 10T) exactly and, given x,
    y ~ N(x², 10T/s): means 1 and 1 + 10T, and the spread along the valley does not see its walls. An explicit step
    must resolve them, h < 20/(s(1 + 4x²)) where the paths go. Rosenbrock (1960).
    """
    return _boltzmann(
        ("x", "y"),
        "((1 - x)**2 + steepness*(y - x**2)**2)/20",
        parameters={"steepness": steepness},
        known_fixed_points=[("1", "1")],
        default_temperature=0.02,
        domain=((-2, 3), (-1, 9)),
        name="rosenbrock",
        positive={"steepness": "the valley needs walls"},
    )


def sharp_flat(flat: float = 1.0, sharp: float = 10.0) -> Landscape:
    """f = (x² − 1)²/4 + k(x) y²/2 with D = I: two minima of depth 0, k(−1) = `flat` and k(1) = `sharp`, k log-linear.

    Isotropic noise takes the flat one for its volume, not for its depth: ρ(x) ∝ k(x)^{−1/2} e^{−(x²−1)²/4T} exactly,
    so that its odds tend to √(sharp/flat) as T → 0, the ratio of the Gaussian widths.
    Hochreiter & Schmidhuber (1997); Jastrzębski et al. (2017).
    """
    return _boltzmann(
        ("x", "y"),
        "(x**2 - 1)**2/4 + sqrt(flat*sharp)*exp(x*log(sharp/flat)/2)*y**2/2",
        parameters={"flat": flat, "sharp": sharp},
        known_fixed_points=[("-1", "0"), ("0", "0"), ("1", "0")],
        default_temperature=0.1,
        domain=((-2.5, 2.5), (-4, 4)),
        name="sharp_flat",
        positive=dict.fromkeys(("flat", "sharp"), "a curvature of a minimum"),
    )


def bumpy_valley(floor: float = 0.1, wall: float = 10.0, ripple: float = 0.05, finite_sum: bool = False) -> Landscape:
    """f = a x²/2 + ε(1 − cos 2πx) + k y²/2 with D = I: a valley with a = `floor`, k = `wall` and ripples ε = `ripple`.

    At T ≫ ε paths see the valley only, at T ≪ ε they rest in the ripples; the diffusion along it is slowed by
    I₀(ε/T)² (Lifson & Jackson 1962). Smoothing f over one ripple length, as local entropy does, removes them.
    Chaudhari et al. (2017). With `finite_sum` the same loss is the mean of four samples f + s_k·x, s_k = ±√2 e_i,
    whose covariance is I: mini-batch SGD, exactly linear across the valley, Var y = η/(bk(2 − ηk)), where consecutive
    gradients have E[g_y g_y'] = −ηk/(b(2 − ηk)) and correlation −ηk/2.
    """
    if not isinstance(finite_sum, bool):
        raise ValueError(f"finite_sum must be True or False, got {finite_sum!r}")
    loss, variables = "floor*x**2/2 + ripple*(1 - cos(2*pi*x)) + wall*y**2/2", ("x", "y")
    parameters = {"floor": floor, "wall": wall, "ripple": ripple}
    known: dict[str, Any] = {"known_fixed_points": [("0", "0")], "default_temperature": 0.05}
    positive = dict.fromkeys(("floor", "wall"), "a curvature of the valley")
    domain = ((-5, 5), (-1.5, 1.5))
    if finite_sum:
        kicks = {"sx": np.sqrt(2) * np.array([1, -1, 0, 0]), "sy": np.sqrt(2) * np.array([0, 0, 1, -1])}
        return FiniteSum(
            variables, f"{loss} + sx*x + sy*y", kicks, potential=loss, q="0", parameters=parameters, domain=domain,
            name="bumpy_valley", **known,
        )._annotate(positive=positive)  # fmt: skip
    return _boltzmann(
        variables, loss, parameters=parameters, domain=domain, name="bumpy_valley", positive=positive, **known
    )


def saddle(descent: float = 1.0, ascent: float = 1.0) -> Landscape:
    """f = (c y² − a x²)/2 with D = I, a = `descent`, c = `ascent`: escape from a strict saddle, started by noise alone.

    x(t) ~ N(x₀ e^{at}, T(e^{2at} − 1)/a): from x₀ = 0 the distance √(T/a) e^{at} doubles every log 2/a, and |x| = R is
    reached after about log(R √(a/T))/a, the logarithm of 1/T. On the plane there is no steady state; between
    reflecting walls it is e^{−f/T}. Kifer (1981); Ge et al. (2015).
    """
    return _boltzmann(
        ("x", "y"),
        "(ascent*y**2 - descent*x**2)/2",
        parameters={"descent": descent, "ascent": ascent},
        known_fixed_points=[("0", "0")],
        default_temperature=0.1,
        domain=((-3, 3), (-3, 3)),
        name="saddle",
        positive=dict.fromkeys(
            ("descent", "ascent"), "a strict saddle has one curvature of each sign, −descent and ascent"
        ),
    )
