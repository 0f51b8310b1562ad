"""Landscapes with a name: toy losses whose answers are known, and one real data set."""

import inspect
import math
from collections.abc import Callable

import numpy as np

from sde_sgd import _checks

from ._finite_sum import FiniteSum
from ._landscape import Landscape

_ENTRIES: dict[str, Callable[..., Landscape]] = {}


def _entry(function: Callable[..., Landscape]) -> Callable[..., Landscape]:
    _ENTRIES[function.__name__] = function
    return function


def catalogue() -> tuple[str, ...]:
    """The names `get` knows."""
    return tuple(_ENTRIES)


def get(name: str, **parameters) -> Landscape:
    """The named landscape; `parameters` are those of its entry, e.g. ``get("spiral", kappa=2.0)``.

    Raises ValueError with the nearest name, or with the parameters the entry has.
    """
    entry = _ENTRIES[_checks.choice("landscape", name, catalogue())]
    known = list(inspect.signature(entry).parameters)
    for parameter in parameters:
        if parameter not in known:
            raise ValueError(
                f"{name} has no parameter {parameter!r}{_checks.nearest(parameter, known)}; "
                f"it has: {', '.join(known) or 'none'}"
            )
    return entry(**parameters)


def describe(name: str) -> str:
    """The entry's own paragraph."""
    return inspect.getdoc(_ENTRIES[_checks.choice("landscape", name, catalogue())]) or ""


@_entry
def quadratic(
    a: float = 1.0,
    c: float = 3.0,
    dxx: float = 1.0,
    dxy: float = 0.5,
    dyy: float = 1.0,
    rotation: float = 0.0,
) -> Landscape:
    """f = (a x² + c y²)/2 with constant D and the extra drift ω(−y, x), ω = `rotation`.

    Linear drift −Fx, F = [[a, ω], [−ω, c]]: ρ_ss = N(0, S) with FS + SFᵀ = 2TD, Φ = T xᵀS⁻¹x/2. Even without
    rotation the default is out of equilibrium, because ∇²f and D do not commute (Kwon, Ao & Thouless 2005).
    """
    for key, value in (("a", a), ("c", c)):
        _checks.positive(key, value, "the quadratic must confine")
    sxy = "((2*dxy - rotation*(dyy/c - dxx/a))/((a + c)*(1 + rotation**2/(a*c))))"  # FS + SFᵀ = 2D solved by hand
    sxx, syy = f"((dxx - rotation*{sxy})/a)", f"((dyy + rotation*{sxy})/c)"
    return Landscape(
        ("x", "y"),
        "(a*x**2 + c*y**2)/2",
        diffusion=[["dxx", "dxy"], ["dxy", "dyy"]],
        circulation=["-rotation*y", "rotation*x"],
        parameters=dict(a=a, c=c, dxx=dxx, dxy=dxy, dyy=dyy, rotation=rotation),
        potential=f"({syy}*x**2 - 2*{sxy}*x*y + {sxx}*y**2)/(2*({sxx}*{syy} - {sxy}**2))",
        domain=((-10, 10), (-10, 10)),
        name="quadratic",
    )


@_entry
def double_well() -> Landscape:
    """f = (x² − 1)²/4 + y²/2 with D = I: two minima at (±1, 0), barrier ¼ at the origin, Φ = f at every T."""
    loss = "(x**2 - 1)**2/4 + y**2/2"
    return Landscape(("x", "y"), loss, potential=loss, domain=((-4, 4), (-4, 4)), name="double_well")


@_entry
def example_19(circulation: float = 0.5) -> Landscape:
    """The double well Φ = (x² − 1)²/4 + y²/2 driven by j = λ e^{Φ/T − (x²+y²)²/4}(−y, x), λ = `circulation`, D = I.

    e^{−Φ/T} is stationary for every λ and T; at T = 1 this is Example 19 of Chaudhari & Soatto (2018). There j is
    neither divergence-free nor perpendicular to ∇Φ, and the drift is not a gradient. The loss given here is Φ.
    """
    phi = "(x**2 - 1)**2/4 + y**2/2"
    swirl = f"circulation*exp(({phi})/T - (x**2 + y**2)**2/4)"
    return Landscape(
        ("x", "y"),
        phi,
        circulation=[f"-y*{swirl}", f"x*{swirl}"],
        parameters={"circulation": circulation},
        potential=phi,
        domain=((-4, 4), (-4, 4)),
        name="example_19",
    )


@_entry
def spiral(kappa: float = 1.0, samples: int = 3) -> FiniteSum:
    """A true finite sum whose SGD turns: f_k = (r² − 1)²/4 + r² cos(θ + κ ln r + 2πk/K), K = `samples` ≥ 3.

    The mean loss is the rotationally symmetric (r² − 1)²/4, yet the gradient noise carries a twist:
    D = r²[(4+κ²)/2 r̂r̂ᵀ + ½ θ̂θ̂ᵀ + (κ/2)(r̂θ̂ᵀ + θ̂r̂ᵀ)], and the SDE turns with mean angular velocity exactly −Tκ.
    Steady state for T < 2/(3 + κ²): ρ ∝ r^{−3+A+2B} e^{−Br²}, A = 1/(4+κ²), B = A/T.
    """
    samples = _checks.whole("samples", samples, 3, None, "with fewer the noise is not isotropic in angle")
    angle = "(kappa*log(x**2 + y**2)/2 + phase)"
    exponent = "(1/(4 + kappa**2))"
    return FiniteSum(
        ("x", "y"),
        f"(x**2 + y**2 - 1)**2/4 + sqrt(x**2 + y**2)*(x*cos({angle}) - y*sin({angle}))",
        {"phase": 2 * np.pi * np.arange(samples) / samples},
        parameters={"kappa": kappa},
        potential=f"{exponent}*(x**2 + y**2) - (T*({exponent} - 3) + 2*{exponent})*log(x**2 + y**2)/2",
        domain=((-4, 4), (-4, 4)),
        name="spiral",
    )


@_entry
def pearson(curvatures=(0.5, 1.0, 1.5, 2.0), centers=(-1.0, 0.5, 0.2, 1.0)) -> FiniteSum:
    """f_k = a_k(x − c_k)²/2: linear regression's noise, D = Ax² + Bx + C, a Pearson diffusion.

    A = Var a, B = −2 Cov(a, ac), C = Var(ac); Φ' = (f' + T D')/D, so that ρ_ss is Pearson's type IV with power-law
    tails. Mean x* = mean(ac)/ā exactly; variance TD(x*)/(ā − TA) for the SDE and
    (η²D(x*)/b)/(1 − (1−ηā)² − η²A/b) for SGD. Needs T < ā/A. Pearson (1895); Forman & Sørensen (2008).
    """
    a, c = _checks.finite_array("curvatures", curvatures), _checks.finite_array("centers", centers)
    if a.shape != c.shape or a.ndim != 1 or len(a) < 2:
        raise ValueError(f"curvatures and centers must be 1-D of one length >= 2, got {a.shape} and {c.shape}")
    mean, ac = _checks.positive("the mean curvature", float(a.mean()), "the mean loss must confine"), a * c
    big_a, big_c = float(a.var()), float(ac.var())
    big_b = -2 * float(((a - mean) * (ac - ac.mean())).mean())
    root = 4 * big_a * big_c - big_b**2
    potential = None
    if big_a > 1e-12 and root > 1e-12:
        # ∫(āx − m + T D')/D dx with D = Ax² + Bx + C
        s = math.sqrt(root)
        potential = (
            f"({mean / (2 * big_a)!r} + T)*log({big_a!r}*x**2 + ({big_b!r})*x + {big_c!r})"
            f" + ({(-2 * float(ac.mean()) - mean * big_b / big_a) / s!r})*atan((2*{big_a!r}*x + ({big_b!r}))/{s!r})"
        )
    reach = 6 * (1 + float(np.abs(c).max()))
    return FiniteSum(
        ("x",),
        "a*(x - m)**2/2",
        {"a": a, "m": c},
        potential=potential,
        domain=((-reach, reach),),
        name="pearson",
    )


@_entry
def neuron(weight_decay: float = 0.05) -> FiniteSum:
    """A two-weight network on real data: p = tanh(w x + c), f_k = (p − y_k)²/2 + (λ/2)(w² + c²).

    x is the standardised petal length of Fisher's iris (150 flowers, 1936), y = +1 for versicolor and −1 for the
    rest: a class in the middle, which one neuron cannot separate. λ = `weight_decay`. At T = 0.2 the loss has one
    minimum while the steady density of SGD has three modes.
    """
    x, y = _iris()
    return FiniteSum(
        ("w", "c"),
        "(tanh(w*x + c) - y)**2/2 + weight_decay*(w**2 + c**2)/2",
        {"x": x, "y": y},
        parameters={"weight_decay": weight_decay},
        domain=((-5, 5), (-5, 5)),
        name="neuron",
    )


def _iris() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_iris

    iris = load_iris()
    length = iris.data[:, 2]
    return (length - length.mean()) / length.std(), np.where(iris.target == 1, 1.0, -1.0)
