"""Entries with a current, j ≠ 0: rotation, shear, limit cycles, a ring."""

import functools

import numpy as np
import scipy.special

from sde_sgd import _checks

from ._finite_sum import FiniteSum
from ._landscape import Landscape
from ._linear import LinearLandscape


class _Quadratic(Landscape):
    _positive = dict.fromkeys(("a", "c"), "the quadratic must confine")

    def _check_parameters(self) -> None:
        """Also that Σ of the potential is definite."""
        super()._check_parameters()
        a, c, dxx, dxy, dyy, rotation = self._parameters.values()
        linear = LinearLandscape([[a, rotation], [-rotation, c]], [[dxx, dxy], [dxy, dyy]])
        if linear.potential([0.0, 0.0]) is None:
            raise ValueError(
                f"dxx, dxy, dyy = {dxx:g}, {dxy:g}, {dyy:g} make no noise in a direction the drift keeps, so there is "
                "no stationary density; give D full rank, or use Landscape.linear, which needs no potential"
            )


def quadratic(
    a: float = 1.0,
    c: float = 3.0,
    dxx: float = 1.0,
    dxy: float = 0.5,
    dyy: float = 1.0,
    rotation: float = 0.0,
) -> Landscape:
    """f = (a x² + c y²)/2 with constant D and the extra drift ω(−y, x), ω = `rotation`.

    Linear drift −Fx, F = [[a, ω], [−ω, c]]: ρ_ss = N(0, S) with FS + SFᵀ = 2TD, Φ = T xᵀS⁻¹x/2, Q = FS/T − D. Even
    without rotation the default is out of equilibrium, because ∇²f and D do not commute (Kwon, Ao & Thouless 2005).
    """
    sxy = "((2*dxy - rotation*(dyy/c - dxx/a))/((a + c)*(1 + rotation**2/(a*c))))"  # FS + SFᵀ = 2D solved by hand
    sxx, syy = f"((dxx - rotation*{sxy})/a)", f"((dyy + rotation*{sxy})/c)"
    return _Quadratic(
        ("x", "y"),
        "(a*x**2 + c*y**2)/2",
        diffusion=[["dxx", "dxy"], ["dxy", "dyy"]],
        circulation=["-rotation*y", "rotation*x"],
        parameters=dict(a=a, c=c, dxx=dxx, dxy=dxy, dyy=dyy, rotation=rotation),
        potential=f"({syy}*x**2 - 2*{sxy}*x*y + {sxx}*y**2)/(2*({sxx}*{syy} - {sxy}**2))",
        q=f"a*{sxy} + rotation*{syy} - dxy",
        known_fixed_points=[("0", "0")],
        default_temperature=1.0,
        domain=((-10, 10), (-10, 10)),
        name="quadratic",
    )


def example_19(circulation: float = 0.5) -> Landscape:
    """The double well Φ = (x² − 1)²/4 + y²/2 driven by j = λ e^{Φ/T − (x²+y²)²/4}(−y, x), λ = `circulation`, D = I.

    e^{−Φ/T} is stationary for every λ and T, q = (λ√π/2T) erfc((x²+y²)/2) e^{Φ/T}; at T = 1 this is Example 19 of
    Chaudhari & Soatto (2018). There j is neither divergence-free nor perpendicular to ∇Φ, and the drift is not a
    gradient; beyond λ = e^{−1/4} the origin is its only fixed point. The loss given here is Φ.
    """
    phi = "(x**2 - 1)**2/4 + y**2/2"
    swirl = f"circulation*exp(({phi})/T - (x**2 + y**2)**2/4)"
    return Landscape(
        ("x", "y"),
        phi,
        circulation=[f"-y*{swirl}", f"x*{swirl}"],
        parameters={"circulation": circulation},
        potential=phi,
        q=f"circulation*sqrt(pi)/(2*T)*erfc((x**2 + y**2)/2)*exp(({phi})/T)",
        known_fixed_points=[("0", "0")],
        default_temperature=1.0,
        domain=((-4, 4), (-4, 4)),
        name="example_19",
    )


def sheared_double_well(finite_sum: bool = False) -> Landscape:
    """f = (5/8)(u² − 1)² + (3/4)w² with u = (√3x − y)/2, w = (√3y − x)/2 and D = diag(3, 1): a true gradient, turning.

    Φ = (u² − 1)²/4 + w²/2 at every T and Q = (√3/2)[[0, 1], [−1, 0]], because ∇u and ∇w are eigenvectors of D + Q,
    with eigenvalues 5/2 and 3/2: constant D, div j = 0 and j ≠ 0 all hold (the assumptions of Chaudhari & Soatto 2018).
    Minima ±(√3, 1). Escape follows ΔΦ = 1/4, not Δf = 5/8: it takes (2π/λ₊)√½ e^{ΔΦ/T} as T → 0 with
    λ₊ = (1 + √(19/4))/2 (Bouchet & Reygner 2016). With `finite_sum` the same loss is the mean of four samples
    f + s_k·x, s_k = ±√(2D_ii) e_i, whose covariance is D: real mini-batch SGD whose SDE this is.
    """
    u, w = "((sqrt(3)*x - y)/2)", "((sqrt(3)*y - x)/2)"
    loss = f"5*({u}**2 - 1)**2/8 + 3*{w}**2/4"
    potential = f"({u}**2 - 1)**2/4 + {w}**2/2"
    known = dict(
        q="sqrt(3)/2",
        known_fixed_points=[("-sqrt(3)", "-1"), ("0", "0"), ("sqrt(3)", "1")],
        default_temperature=0.1,
    )
    settings = dict(potential=potential, domain=((-6, 6), (-6, 6)), name="sheared_double_well")
    if not isinstance(finite_sum, bool):
        raise ValueError(f"finite_sum must be True or False, got {finite_sum!r}")
    if finite_sum:
        kicks = {"sx": np.sqrt(6) * np.array([1, -1, 0, 0]), "sy": np.sqrt(2) * np.array([0, 0, 1, -1])}
        return FiniteSum(("x", "y"), f"{loss} + sx*x + sy*y", kicks, **settings)._annotate(**known)
    return Landscape(("x", "y"), loss, diffusion=[[3, 0], [0, 1]], **settings, **known)


_gauss = functools.lru_cache(maxsize=32)(scipy.special.roots_legendre)  # n² operations; NumPy's rule takes n³


class _Ring(Landscape):
    """A particle on a circle under a constant force: Φ is an integral, not an expression."""

    def _log_return(self, x: np.ndarray, temperature: float) -> np.ndarray:
        """log R(θ), R = ∫₀^{2π} exp([W(θ+u) − W(θ)]/T) du and W = V − Fθ, by Gauss's rule, to 1e-9 or better."""
        force = self.parameters["force"]
        # The peaks of the integrand are no narrower than √(T/|a|), and it falls like e^{−Fu/T}.
        strength = (abs(self.parameters["amplitude"]) + 2 * np.pi * abs(force)) / temperature
        node, weight = _gauss(48 + 16 * int(np.ceil(np.sqrt(strength))))
        u = np.pi * (node + 1)
        rise = (self.loss(x[..., None, :] + u[:, None]) - self.loss(x)[..., None] - force * u) / temperature
        top = rise.max(-1)
        return top + np.log(np.pi * (np.exp(rise - top[..., None]) @ weight))

    def potential(self, x, temperature: float | None = None) -> np.ndarray:
        """Φ = −T log ∫₀^{2π} exp([W(θ+u) − W(θ)]/T) du: (..., 1) → (...)."""
        if temperature is None:
            raise ValueError("the potential of this landscape depends on the temperature T; pass temperature=…")
        temperature = _checks.positive("temperature", temperature)
        return -temperature * self._log_return(self._points(x), temperature)

    def _potential_gradient(self, x: np.ndarray, temperature: float) -> np.ndarray:
        """Φ' = W' + j with j = T(1 − e^{−2πF/T})/R."""
        turn = 2 * np.pi * self.parameters["force"] / temperature
        least = max(-turn, 0.0)  # of the two exponentials below, neither overflows
        current = temperature * np.sign(turn) * -np.expm1(-abs(turn))
        return -self.drift(x) + current * np.exp(least - self._log_return(x, temperature))[..., None]

    def latex(self) -> dict[str, str]:
        return super().latex() | {"potential": r"-T \log \int_0^{2\pi} e^{[W(\theta + u) - W(\theta)]/T}\, du"}


def ring(force: float = 0.5, amplitude: float = 1.0) -> Landscape:
    """V(θ) = −a cos θ on a circle with the constant drift F, a = `amplitude`, F = `force`, D = 1.

    A current no potential can hold: ρ_ss ∝ ∫₀^{2π} exp([W(θ+u) − W(θ)]/T) du with W = V − Fθ, and with Z its integral
    J = T(1 − e^{−2πF/T})/Z everywhere; in one dimension the current is all harmonic, there is no Q. For |F| < |a|
    it rests at sin θ = F/a without noise. Stratonovich (1967); Risken (1989), §11.3.
    """
    rest = "atan(force/(amplitude*sqrt(1 - (force/amplitude)**2)))"  # the arcsine; not real where F > a
    return _Ring(
        "theta",
        "-amplitude*cos(theta)",
        circulation=["force"],
        parameters={"force": force, "amplitude": amplitude},
        known_fixed_points=[(rest,), (f"pi - {rest}",)],
        default_temperature=0.5,
        domain={"theta": (-np.pi, np.pi, "periodic")},
        name="ring",
    )


class _Hopf(Landscape):
    """erfc(z) e^{z²} is computed as one function: far outside the cycle its factors are 0 and ∞."""

    def q(self, x, temperature: float | None = None) -> np.ndarray:
        """q = (1/2T)[(ω + κa/c)√(πT/c) erfcx(z) + 2κT/c]: (..., 2) → (...)."""
        if temperature is None:
            raise ValueError("the q of this landscape depends on the temperature T; pass temperature=…")
        x, t = self._points(x), _checks.positive("temperature", temperature)
        a, c, omega, kappa = self.parameters.values()
        z = np.sqrt(c / (4 * t)) * ((x**2).sum(-1) - a / c)
        return (omega + kappa * a / c) * np.sqrt(np.pi / (4 * t * c)) * scipy.special.erfcx(z) + kappa / c


def hopf(a: float = 1.0, c: float = 1.0, omega: float = 1.0, kappa: float = 0.5) -> Landscape:
    """f = −a r²/2 + c r⁴/4 turned by (ω + κr²)(−y, x), D = I: the normal form of a limit cycle, r = √(a/c) for a > 0.

    Φ = f at every T, j = (ω + κr²)(−y, x), the period 2πc/(cω + κa); r² ~ N(a/c, 2T/c) cut at 0. With
    z = √(c/4T)(r² − a/c), q = (1/2T)[(ω + κa/c)√(πT/c) erfc(z) e^{z²} + 2κT/c]. Andronov, Vitt & Khaikin (1966).
    """
    r2 = "(x**2 + y**2)"
    z = f"(sqrt(c/(4*T))*({r2} - a/c))"
    turn = f"(omega + kappa*{r2})"
    loss = f"-a*{r2}/2 + c*{r2}**2/4"
    return _Hopf(
        ("x", "y"),
        loss,
        circulation=[f"-y*{turn}", f"x*{turn}"],
        parameters=dict(a=a, c=c, omega=omega, kappa=kappa),
        potential=loss,
        q=f"((omega + kappa*a/c)*sqrt(pi*T/c)*erfc({z})*exp({z}**2) + 2*kappa*T/c)/(2*T)",
        known_fixed_points=[("0", "0")],
        default_temperature=0.05,
        domain=((-2.5, 2.5), (-2.5, 2.5)),
        name="hopf",
    )._annotate(positive={"c": "r⁴ must confine"})
