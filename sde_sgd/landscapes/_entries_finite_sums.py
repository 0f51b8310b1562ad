"""Entries that are means over data, whose noise is that of their own samples: exact cases and Fisher's iris."""

import math
from typing import Self

import numpy as np

from sde_sgd import _checks

from ._finite_sum import FiniteSum


class _Spiral(FiniteSum):
    """Its default temperature follows κ, a fifth of the largest that has a steady state."""

    def with_parameters(self, **values: float) -> Self:
        return super().with_parameters(**values)._tempered()

    def _tempered(self) -> Self:
        return self._annotate(default_temperature=0.4 / (3 + self.parameters["kappa"] ** 2))


def spiral(kappa: float = 1.0, samples: int = 3) -> FiniteSum:
    """A true finite sum whose SGD turns: f_k = (r² − 1)²/4 + r² cos(θ + κ ln r + 2πk/K), K = `samples` ≥ 3.

    The mean loss is the rotationally symmetric (r² − 1)²/4, yet the gradient noise carries a twist:
    D = r²[(4+κ²)/2 r̂r̂ᵀ + ½ θ̂θ̂ᵀ + (κ/2)(r̂θ̂ᵀ + θ̂r̂ᵀ)], and the SDE turns with mean angular velocity exactly −Tκ.
    Steady state for T < 2/(3 + κ²): ρ ∝ r^{−3+A+2B} e^{−Br²}, A = 1/(4+κ²), B = A/T, with
    j = κA[r² − 1 − T(1 + 1/A)/2] r θ̂; E r² = 1 − T(3 + κ²)/2. Undefined at the origin.
    Constructed for this package.
    """
    samples = _checks.whole("samples", samples, 3, None, "with fewer the noise is not isotropic in angle")
    angle = "(kappa*log(x**2 + y**2)/2 + phase)"
    exponent = "(1/(4 + kappa**2))"
    return _Spiral(
        ("x", "y"),
        f"(x**2 + y**2 - 1)**2/4 + sqrt(x**2 + y**2)*(x*cos({angle}) - y*sin({angle}))",
        {"phase": 2 * np.pi * np.arange(samples) / samples},
        parameters={"kappa": kappa},
        potential=f"{exponent}*(x**2 + y**2) - (T*({exponent} - 3) + 2*{exponent})*log(x**2 + y**2)/2",
        domain=((-4, 4), (-4, 4)),
        name="spiral",
    )._tempered()


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
    if big_a > 1e-12 * mean**2 and root > 1e-12 * 4 * big_a * big_c:
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
    )._annotate(
        known_fixed_points=[(float(ac.mean()) / mean,)],
        default_temperature=0.1 * mean / max(mean, big_a),  # at most a tenth of the largest with a variance
    )


def scale_invariant(noise: float = 0.5, weight_decay: float = 0.1) -> FiniteSum:
    """f = x²/(x² + y²) + (λ/2)r² as the mean of f_k = f + A cos(2θ + 2πk/3), λ = `weight_decay`, A = `noise`.

    What normalisation layers do to a loss: without λ it depends on the direction θ alone, so gradients are
    perpendicular to the weights, ∇f(cw) = ∇f(w)/c, and D = (2A²/r²) θ̂θ̂ᵀ has rank one. In the SDE the norm is not even
    random: d(r⁴)/dt = −4λr⁴ + 8TA², relaxing at the rate 4λ to r⁴ = 2TA²/λ whatever the loss, and on that circle
    ρ(θ) ∝ exp(−r² cos²θ/(2TA²)) in the limit; the discrete norm obeys |w'|² = (1 − ηλ)²|w|² + η²|g|², g without the
    decay. There is no density on the plane, and for λ > 0 no minimum: gradient descent alone shrinks until it is
    unstable. Undefined at the origin. Li, Lyu & Arora (2020).
    """
    return FiniteSum(
        ("x", "y"),
        "(x**2 + noise*((x**2 - y**2)*cos(phase) - 2*x*y*sin(phase)))/(x**2 + y**2) + weight_decay*(x**2 + y**2)/2",
        {"phase": 2 * np.pi * np.arange(3) / 3},
        parameters={"noise": noise, "weight_decay": weight_decay},
        domain=((-3, 3), (-3, 3)),
        name="scale_invariant",
    )._annotate(
        default_temperature=0.1,
        positive={"noise": "without it nothing balances the decay"},
        not_negative={"weight_decay": "0 is a norm that only grows"},
    )


def neuron(weight_decay: float = 0.05) -> FiniteSum:
    """A two-weight network on real data: p = tanh(w x + c), f_k = (p − y_k)²/2 + (λ/2)(w² + c²).

    x is the standardised petal length of the iris flowers (150, Fisher 1936), y = +1 for versicolor and −1 for the
    rest: a class in the middle, which one neuron cannot separate. λ = `weight_decay`. At T = 0.2 the loss has one
    minimum while the steady density of SGD has three modes.
    """
    inputs, labels = _iris(2)
    return FiniteSum(
        ("w", "c"),
        "(tanh(w*x + c) - y)**2/2 + weight_decay*(w**2 + c**2)/2",
        {"x": inputs[0], "y": labels},
        parameters={"weight_decay": weight_decay},
        domain=((-5, 5), (-5, 5)),
        name="neuron",
    )._annotate(default_temperature=0.2, not_negative={"weight_decay": "a negative one repels"})


def neuron_two_inputs(weight_decay: float = 0.02) -> FiniteSum:
    """A three-weight network on real data: p = tanh(w₁x₁ + w₂x₂ + c), f_k = (p − y_k)²/2 + (λ/2)(w₁² + w₂² + c²).

    x₁, x₂ are the standardised petal length and petal width of the iris flowers (150, Fisher 1936), y = ±1 as in
    `neuron`, λ = `weight_decay`. Two minima of very different worth: f = 0.414 at (0.741, −0.605, −0.310) and 0.784 at
    (−0.787, −1.134, 1.137), the saddle between them at 0.789, so that leaving the poor one takes a barrier of 0.005.
    """
    inputs, labels = _iris(2, 3)
    return FiniteSum(
        ("w1", "w2", "c"),
        "(tanh(w1*x1 + w2*x2 + c) - y)**2/2 + weight_decay*(w1**2 + w2**2 + c**2)/2",
        {"x1": inputs[0], "x2": inputs[1], "y": labels},
        parameters={"weight_decay": weight_decay},
        domain=((-5, 5), (-5, 5), (-5, 5)),
        name="neuron_two_inputs",
    )._annotate(default_temperature=0.1, not_negative={"weight_decay": "a negative one repels"})


def _iris(*columns: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Standardised columns of the measurements, and +1 for versicolor, −1 for setosa and virginica."""
    from sklearn.datasets import load_iris

    iris = load_iris()
    inputs = [(iris.data[:, i] - iris.data[:, i].mean()) / iris.data[:, i].std() for i in columns]
    return inputs, np.where(iris.target == 1, 1.0, -1.0)
