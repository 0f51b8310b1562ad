"""Claims about what it takes for a current to flow though the drift is a gradient."""

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from scipy.integrate import cumulative_simpson, simpson

import sde_sgd as sde
from sde_sgd.theory.claim import Claim, Level, Measurement, exact, refined

if TYPE_CHECKING:
    from matplotlib.figure import Figure


# -- noise and curvature ---------------------------------------------------------------------------------------

_HESSIAN = np.diag([1.0, 3.0])


def _turned(angle: float, ratio: float = 4.0) -> np.ndarray:
    """D with the eigenvalues 1 and `ratio`, turned by an angle in degrees against the axes of H."""
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    axes = np.array([[c, -s], [s, c]])
    return axes @ np.diag([1.0, ratio]) @ axes.T


@cache
def _turning(angle: float, cells: int) -> tuple[float, float]:
    """(E[q], entropy production) of the quadratic at T = 1 with D turned by an angle, on a grid."""
    d = _turned(angle)
    well = sde.landscapes.get("quadratic", dxx=d[0, 0], dxy=d[0, 1], dyy=d[1, 1])
    fp = sde.FokkerPlanck(well.at_temperature(1.0), sde.Grid((-8.0, -6.0), (8.0, 6.0), (cells, cells)))
    rho = fp.steady_state()
    q = float((sde.decompose(fp)["stream_function"]).sum() * fp.grid.cell_volume)  # ∫ψ = T E[q]
    return q, float(fp.entropy_production(rho)["entropy_production"])


def _area_of_sgd(noise: np.ndarray, learning_rate: float = 0.2) -> float:
    """½E[x₁Δx₂ − x₂Δx₁]/η of SGD on the quadratic with additive noise, from its exact covariance S: ½(HS − SH)₁₂."""
    s = np.asarray(sde.DiscreteSGD(_HESSIAN, noise, learning_rate, 1).covariance)
    return float((_HESSIAN @ s - s @ _HESSIAN)[0, 1] / 2)


def _commutator(level: Level) -> list[Measurement]:
    """A quadratic with h = (1, 3) at T = 1 whose D has the eigenvalues 1 and 4 and stands at 15° or 45° to the axes of
    H: E[q] of the solved current beside D₁₂(h₁ − h₂)/(h₁ + h₂), and the entropy production beside tr(D⁻¹QUQᵀ); along
    the axes of H it is 0. In three variables Q from the Lyapunov equation is regressed on Dᵢⱼ(hᵢ − hⱼ)/(hᵢ + hⱼ). For
    the SGD recursion, with its exact covariance at η = 0.2, the area per time is TDᵢⱼ(hᵢ − hⱼ)/(hᵢ + hⱼ − ηhᵢhⱼ).
    """
    found, cells = [], level.cells(64)
    for angle in (15.0, 45.0):
        d = _turned(angle)
        (q, e), (q2, e2) = _turning(angle, cells), _turning(angle, 2 * cells)
        produced = sde.OrnsteinUhlenbeck(_HESSIAN, d, 1.0).entropy_production
        found.append(refined(f"E[q] by its current, D at {angle:g}° to H", q, q2, -0.5 * d[0, 1], order=2))
        found.append(refined(f"entropy production, D at {angle:g}° to H", e, e2, produced, order=2))
    h, d = np.array([1.0, 2.0, 5.0]), np.array([[2.0, 0.5, -0.3], [0.5, 1.0, 0.2], [-0.3, 0.2, 0.7]])
    formula = d * (h[:, None] - h) / (h[:, None] + h)
    slope = (sde.OrnsteinUhlenbeck(np.diag(h), d, 0.3).Q * formula).sum() / (formula**2).sum()
    noise = _turned(45.0)
    return [
        *found,
        exact("entropy production, D along H", _turning(0.0, cells)[1], 0.0, 1e-12),
        exact("Q over Dᵢⱼ(hᵢ − hⱼ)/(hᵢ + hⱼ) in 3-D", slope, 1.0, 1e-10),
        exact(
            "area per time of SGD, η = 0.2", _area_of_sgd(noise), 0.1 * noise[0, 1] * -2.0 / (4.0 - 0.2 * 3.0), 1e-10
        ),
    ]


def _anisotropy_alone(level: Level) -> list[Measurement]:
    """The same D along the axes of H, as anisotropic as before, over that at 45°."""
    cells = level.cells(64)
    coarse, fine = (_turning(0.0, n)[1] / _turning(45.0, n)[1] for n in (cells, 2 * cells))
    area = _area_of_sgd(_turned(0.0)) / _area_of_sgd(_turned(45.0))
    return [
        refined("entropy production of D along H over that of the same D at 45°", coarse, fine, 1.0, order=2),
        exact("area per time of SGD, the same ratio", area, 1.0, 1e-10),
    ]


def _draw_angles(level: Level) -> "Figure":
    from sde_sgd.figures._style import new_figure, styled

    @styled
    def draw() -> "Figure":
        figure = new_figure(5.2, 3.6)
        ax = figure.subplots()
        angles = np.linspace(0.0, 90.0, 91)
        for ratio in (1.0, 2.0, 4.0, 10.0):
            curve = [sde.OrnsteinUhlenbeck(_HESSIAN, _turned(a, ratio), 1.0).entropy_production for a in angles]
            ax.plot(angles, curve, label=f"{ratio:g} : 1")
        places = (0.0, 15.0, 45.0)
        ax.plot(places, [_turning(a, 2 * level.cells(64))[1] for a in places], "o", color="C2", label="4 : 1, grid")
        ax.set(xlabel="angle of D to the axes of H, degrees", ylabel="entropy production per time", xlim=(0, 90))
        ax.set_xticks(range(0, 91, 15))
        ax.legend(title="anisotropy of D")
        return figure

    return draw()


NONCOMMUTING_NOISE = Claim(
    name="anisotropic_noise_drives_a_current",
    statement="Anisotropic gradient noise drives SGD out of equilibrium: j ≠ 0 near a minimum.",
    formula=r"D\neq cI\Rightarrow j\neq 0",
    source="Chaudhari & Soatto (2018)",
    hypotheses=("near a minimum: drift −Hx, constant D", "needed besides: HD ≠ DH"),
    as_stated="needs_hypothesis",
    holds="j ≠ 0 exactly where H and D do not commute, Qᵢⱼ = Dᵢⱼ(hᵢ − hⱼ)/(hᵢ + hⱼ); along the axes of H no anisotropy "
    "of D drives a current",
    check=_commutator,
    twin=_anisotropy_alone,
    figure=_draw_angles,
)


# -- a ring ---------------------------------------------------------------------------------------------------

_RING_T = 0.4


@cache
def _on_a_ring(name: str) -> sde.Landscape:
    """A loss −cos(θ + φ) with noise that depends on θ, the mean of four samples or D given; and a constant force."""
    if name == "constant force ½, D = 1":
        return sde.landscapes.get("ring")
    ring = {"theta": (-np.pi, np.pi) if name == "a line" else (-np.pi, np.pi, "periodic")}
    if name in _GIVEN:
        return sde.Landscape("theta", "-cos(theta)", diffusion=[[_GIVEN[name]]], domain=ring)
    kick = 2.0 * np.array([1.0, -1.0, 0.0, 0.0])
    noise = "s*sin(theta) + t*(3*sin(2*theta)/5 - cos(theta))"
    return sde.FiniteSum("theta", f"-cos(theta + 1) + {noise}", {"s": kick, "t": np.roll(kick, 2)}, domain=ring)


_GIVEN = {"D = 1 + sin(θ)/2": "1 + sin(theta)/2", "D = 1 + cos(θ)/2": "1 + cos(theta)/2"}
_RINGS = ("a sum of four", "D = 1 + sin(θ)/2")


def _climb(landscape: sde.Landscape, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(θ over two turns in 2n steps, the same wrapped, D, W/T), W' = −b/D, W = 0 at −π."""
    theta = np.linspace(-np.pi, 3 * np.pi, 2 * n + 1)
    wrapped = ((theta + np.pi) % (2 * np.pi) - np.pi)[:, None]
    noise = landscape.diffusion(wrapped)[:, 0, 0]
    w = cumulative_simpson(-landscape.drift(wrapped)[:, 0] / noise, x=theta, initial=0.0) / _RING_T
    return theta, wrapped, noise, w


@cache
def _current_by_integral(name: str) -> float:
    """J = T(1 − e^{−2πF/T})/Z, Z = ∫ dθ/D(θ) ∫₀^{2π} exp([W(θ+u) − W(θ)]/T) du, W' = −b/D, 2πF = ∫ b/D."""
    n = 2000
    _, _, noise, w = _climb(_on_a_ring(name), n)
    around = np.array([simpson(np.exp(w[k : k + n + 1] - w[k])) for k in range(n)]) * (2 * np.pi / n)
    z = (around / noise[:n]).sum() * 2 * np.pi / n
    return float(_RING_T * -np.expm1(w[n] - w[0]) / z)  # w falls by 2πF/T in a turn


def _current_on_grid(landscape: sde.Landscape, cells: int) -> float:
    boundary = "periodic" if landscape.domain.periodic[0] else "reflecting"
    grid = sde.Grid(-np.pi, np.pi, cells, boundary=boundary)
    fp = sde.FokkerPlanck(landscape.at_temperature(_RING_T), grid)
    return float(sde.decompose(fp)["current"].mean())


def _on_rings(name: str, expected: float, level: Level) -> Measurement:
    coarse, fine = (_current_on_grid(_on_a_ring(name), k * level.cells(64)) for k in (1, 2))
    return refined(f"J on the ring, {name}", coarse, fine, expected, order=2)


def _ring_current(level: Level) -> list[Measurement]:
    """The current of the solved density, on grids of n and 2n cells, beside J = T(1 − e^{−2πF/T})/Z by quadrature, with
    the force F that V'/D leaves over in a turn: for a mean over four samples, for a given D(θ), and for a force that is
    given. There is no current where D mirrors V, as D = 1 + cos(θ)/2 does, nor on a line, with the ends of the ring for
    walls.
    """
    still, line = (_current_on_grid(_on_a_ring(name), level.cells(64)) for name in ("D = 1 + cos(θ)/2", "a line"))
    return [
        *(_on_rings(name, _current_by_integral(name), level) for name in (*_RINGS, "constant force ½, D = 1")),
        exact("J on the ring, D = 1 + cos(θ)/2", still, 0.0, 1e-12),
        exact("J of the sum of four between walls", line, 0.0, 1e-12),
    ]


def _no_current(level: Level) -> list[Measurement]:
    """The current on the ring, which would be 0 if a gradient loss in one variable had none."""
    return [_on_rings(name, 0.0, level) for name in _RINGS]


def _draw_ring(level: Level) -> "Figure":
    from sde_sgd.figures._style import INK, new_figure, styled

    @styled
    def draw() -> "Figure":
        figure = new_figure(8.8, 3.4)
        shape, climb = figure.subplots(1, 2)
        landscape = _on_a_ring("a sum of four")
        theta, wrapped, noise, w = _climb(landscape, 1000)
        once = theta <= np.pi
        shape.plot(theta[once], landscape.loss(wrapped)[once], label="loss V")
        shape.plot(theta[once], noise[once] / noise.max(), label="noise D, scaled")
        fp = sde.FokkerPlanck(landscape.at_temperature(_RING_T), sde.Grid(-np.pi, np.pi, 256, boundary="periodic"))
        density = fp.steady_state()
        shape.plot(density.theta, density, color=INK, lw=1.2, label="density")
        shape.set(xlabel="θ", title="one turn of the ring")
        shape.legend(loc="lower right")
        climb.plot(theta, w)
        climb.plot(theta[[0, -1]], w[[0, -1]], "--", color=INK, lw=1, label="tilt: the force that is left")
        climb.set(xlabel="θ, two turns", ylabel="∫ V'/(TD) dθ", title="what the density climbs")
        climb.legend()
        return figure

    return draw()


RING_CURRENT = Claim(
    name="gradient_loss_turns_on_a_ring",
    statement="In one variable a gradient loss has no current: Φ' = (f' + T D')/D.",
    formula=r"\Phi'=\frac{f'+TD'}{D}",
    source="folklore; the current is that of Büttiker (1987) and Landauer (1988)",
    hypotheses=("one variable", "needed besides: a line, or ∫f'/D = 0 around the ring"),
    as_stated="needs_hypothesis",
    holds="on a line; on a ring ∫f'/D = −2πF need not be 0, and then J = T(1 − e^{−2πF/T})/Z flows",
    check=_ring_current,
    twin=_no_current,
    figure=_draw_ring,
)
