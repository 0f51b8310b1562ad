"""Claims about local entropy f_γ = −log(G_γ * e^{−f}), the loss smoothed as wide valleys deserve."""

import math
from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING

import numpy as np
import sympy as sp

import sde_sgd as sde
from sde_sgd.figures._style import INK, new_figure, styled
from sde_sgd.theory.claim import Claim, Level, Measurement, refined, sampled
from sde_sgd.theory.claims._batches import seed_of
from sde_sgd.theory.claims._local_entropies import NODES, heat_flow, landscape, on_grids, quadrature

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _ruled(what: str, coarse: float, fine: float, expected: float) -> Measurement:
    """A number by the rule with n and with 2n nodes per axis."""
    tolerance = abs(coarse - fine) + 1e-10 * abs(expected)
    return Measurement(what, fine, expected, tolerance, f"the change from {NODES} to {2 * NODES} nodes, and rounding")


# quadratics -----------------------------------------------------------------------------------------------

_QUADRATICS = {  # A, γ, box, point
    "one dimension, A = 4": (((4.0,),), 0.5, ((-6.0, 6.0),), (0.8,)),
    "two dimensions, A = [[2, .8], [.8, 1]]": (((2.0, 0.8), (0.8, 1.0)), 0.5, ((-7.0, 7.0), (-9.0, 9.0)), (0.6, -0.4)),
}


def _closed_form(level: Level, extra: str) -> list[Measurement]:
    found = []
    for name, (a, gamma, box, point) in _QUADRATICS.items():
        loss = f"{a[0][0]}*x**2/2" if len(a) == 1 else f"{a[0][0]}*x**2/2 + {a[0][1]}*x*y + {a[1][1]}*y**2/2"
        loss, hessian, x = loss + extra, np.array(a), np.array(point)
        spread = np.eye(len(a)) + gamma * hessian
        bottom = 0.5 * np.linalg.slogdet(spread)[1]
        height = 0.5 * x @ hessian @ np.linalg.solve(spread, x)
        zero = np.zeros(len(a))
        words = f"γ = ½, {name}"
        values = on_grids(level, loss, box, (gamma,), lambda f, at=zero: f(at))
        found.append(refined(f"f_γ(0), {words}, heat flow", values[0], values[1], bottom, order=2))
        values = on_grids(level, loss, box, (gamma,), lambda f, at=x, zero=zero: f(at) - f(zero))
        found.append(refined(f"f_γ(x) − f_γ(0), {words}, heat flow", values[0], values[1], height, order=2))
        values = [quadrature(loss, point, gamma, n)[0] for n in (NODES, 2 * NODES)]
        found.append(_ruled(f"f_γ(x), {words}, quadrature", values[0], values[1], bottom + height))
    return found


def _quadratic(level: Level) -> list[Measurement]:
    """e^{−f} as the start of the heat equation, whose solution after a time γ is e^{−f_γ}: on two grids, at 0 and at
    another point; and as a Gauss–Hermite sum over f(x + √γ z)."""
    return _closed_form(level, "")


def _quartic(level: Level) -> list[Measurement]:
    """The same with x⁴/2 added to the loss, which leaves its Hessian A at the minimum as it was."""
    return _closed_form(level, " + x**4/2")


QUADRATIC_LOCAL_ENTROPY = Claim(
    name="quadratic_local_entropy",
    statement="The local entropy of a quadratic is a flatter quadratic, raised by ½ log det(I + γA).",
    formula=r"f_\gamma(x)=\frac{1}{2}x^\top A(I+\gamma A)^{-1}x+\frac{1}{2}\log\det(I+\gamma A)",
    source="Chaudhari et al. (2017), Entropy-SGD",
    hypotheses=("f = xᵀAx/2 with I + γA positive",),
    as_stated="holds",
    holds="as stated; for other losses with the Hessian A at their minimum it is an approximation for small γ",
    check=_quadratic,
    twin=_quartic,
)

# the gradient and the equation in γ -----------------------------------------------------------------------

_GAMMA = 0.15
_WELLS = {  # loss, box, point
    "tilted double well": ("2*(x**2 - 1)**2 + x/2", ((-4.5, 4.5),), (1.2,)),
    "coupled double wells": ("(x**2 - 1)**2 + y**2 + x*y/2", ((-5.0, 5.0), (-5.0, 5.0)), (1.2, 0.7)),
}
_STEP = 1e-4


def _slope(f: Callable[[np.ndarray], float], point: tuple) -> float:
    """∂f/∂x by central differences."""
    move = np.zeros(len(point))
    move[0] = _STEP
    return (f(np.array(point) + move) - f(np.array(point) - move)) / (2 * _STEP)


def _tethered(system: str) -> tuple[tuple[str, ...], str]:
    """Variables, and f(x') + |x' − x|²/2γ."""
    loss, _, point = _WELLS[system]
    names = ("x", "y")[: len(point)]
    tether = " + ".join(f"({name} - {at})**2" for name, at in zip(names, point))
    return names, f"{loss} + ({tether})/{2 * _GAMMA}"


def _by_rule(loss: str, point: np.ndarray) -> float:
    return quadrature(loss, tuple(point), _GAMMA)[0]


@cache
def _gibbs_mean(system: str, inner: float, cells: int) -> float:
    """⟨x'⟩ of the steady state on a grid, its solver being given the drift alone."""
    names, energy = _tethered(system)
    drift = [sp.Mul(-1, sp.diff(sp.sympify(energy), name)) for name in names]
    process = sde.Process(drift, np.eye(len(names)).tolist(), inner, variables=names)
    grid = sde.Grid(
        [at - 3.0 for at in _WELLS[system][2]], [at + 3.0 for at in _WELLS[system][2]], (cells,) * len(names)
    )
    rho = sde.FokkerPlanck(process, grid).steady_state().values
    return float((rho * grid.centers()[..., 0]).sum() * grid.cell_volume)


def _pull(level: Level, inner: float) -> list[Measurement]:
    found = []
    for number, (name, (loss, box, point)) in enumerate(_WELLS.items()):
        slope = _slope(partial(_by_rule, loss), point)
        cells = level.cells(200 if len(box) == 1 else 80)
        values = [(point[0] - _gibbs_mean(name, inner, n)) / _GAMMA for n in (cells, 2 * cells)]
        what = f"(x − ⟨x'⟩)/γ, {name}, inner temperature {inner:g}"
        found.append(refined(f"{what}, grid, against ∂f_γ by quadrature", values[0], values[1], slope, order=2))
        names, energy = _tethered(name)
        h, paths = 0.002, min(level.count(100_000), 3_000_000)
        ends = sde.simulate(
            sde.Landscape(names, energy).at_temperature(inner), point, step=h, steps=1000, paths=paths,
            seed=seed_of(level, 76, number), threads=1,
        )  # fmt: skip
        samples, bias = (point[0] - ends["x"].values) / _GAMMA, (35 * h) ** 2 * abs(slope)
        found.append(sampled(f"{what}, Langevin paths, against ∂f_γ by quadrature", samples, slope, bias=bias))
        if inner == 1.0:
            flow = on_grids(level, loss, box, (_GAMMA,), lambda f, at=point: _slope(lambda p: f(p), at))
            mean = quadrature(loss, point, _GAMMA)[1]
            what = f"∂f_γ of the heat flow against (x − ⟨x'⟩)/γ by quadrature, {name}"
            found.append(refined(what, flow[0], flow[1], (point[0] - mean[0]) / _GAMMA, order=2))
    return found


def _gradient_identity(level: Level) -> list[Measurement]:
    """⟨x'⟩ of the local Gibbs measure, tethered to x by |x' − x|²/2γ: as the steady state of its Langevin process on
    two grids, and as the mean over paths from x, 1000 steps of 0.002 of a scheme of order 2, granted a bias of the
    square of step times curvature, 35 (3 million paths at most, for the time they take). Both against the derivative of
    f_γ by quadrature; and that of the heat flow against the mean by quadrature."""
    return _pull(level, 1.0)


def _cold_chain(level: Level) -> list[Measurement]:
    """The inner chain at the temperature ½, not that of e^{−f}, which is 1."""
    return _pull(level, 0.5)


LOCAL_ENTROPY_GRADIENT = Claim(
    name="local_entropy_gradient",
    statement="The gradient of local entropy is the pull of the local Gibbs measure: ∇f_γ = (x − ⟨x'⟩)/γ.",
    formula=r"\nabla f_\gamma(x)=\frac{x-\langle x'\rangle}{\gamma},\quad x'\sim e^{-f(x')-|x'-x|^2/2\gamma}",
    source="Chaudhari et al. (2017), Entropy-SGD",
    hypotheses=("the inner chain samples at the temperature of e^{−f}",),
    as_stated="holds",
    holds="as stated; an inner chain at another temperature T gives T times the slope of that of f/T at γT",
    check=_gradient_identity,
    twin=_cold_chain,
)


def _equation(level: Level, viscosity: float) -> list[Measurement]:
    found = []
    for name, (loss, box, point) in _WELLS.items():
        for gamma in (_GAMMA, 2 * _GAMMA):
            step = 0.02 * gamma / level.more**0.5
            cells, at, values = level.cells(240 if len(box) == 1 else 80), np.array(point), []
            for part, n in ((1.0, cells), (0.5, 2 * cells)):
                before, after = heat_flow(loss, box, n, (gamma - part * step, gamma + part * step))
                values.append(float(after(at) - before(at)) / (2 * part * step))
            _, mean, spread = quadrature(loss, point, gamma)
            slope = (np.array(point) - mean) / gamma
            laplacian = (len(point) - np.trace(spread) / gamma) / gamma
            expected = -0.5 * slope @ slope + viscosity * 0.5 * laplacian
            found.append(refined(f"∂f_γ/∂γ at γ = {gamma:g}, {name}", values[0], values[1], expected, order=2))
    return found


def _viscous(level: Level) -> list[Measurement]:
    """∂f_γ/∂γ by central differences of the heat flow, on two grids with steps in proportion, against the right side by
    quadrature: ∇f_γ = (x − ⟨x'⟩)/γ and Δf_γ = (d − tr Cov(x')/γ)/γ."""
    return _equation(level, 1.0)


def _inviscid(level: Level) -> list[Measurement]:
    """Without the viscosity ½Δf: the equation of the Moreau envelope min_y f(y) + |x − y|²/2γ."""
    return _equation(level, 0.0)


@styled
def _smoothing(level: Level) -> "Figure":
    """The loss and its local entropies, each from its minimum."""
    figure = new_figure(5.6, 3.8)
    ax = figure.subplots()
    loss, box, _ = _WELLS["tilted double well"]
    x = np.linspace(-1.8, 1.8, 300)
    f = landscape(loss, ("x",)).loss(x[:, None])
    ax.plot(x, f - f.min(), color=INK, ls="--", label="f")
    gammas = (0.03, 0.1, 0.3, 1.0)
    for gamma, smooth in zip(gammas, heat_flow(loss, box, level.cells(240), gammas)):
        values = smooth(x[:, None])
        ax.plot(x, values - values.min(), label=f"γ = {gamma:g}")
    ax.set(xlabel="x", ylabel=r"$f_\gamma$, from its minimum", ylim=(-0.2, 5.0))
    ax.legend()
    return figure


VISCOUS_HAMILTON_JACOBI = Claim(
    name="viscous_hamilton_jacobi",
    statement="Local entropy solves a viscous Hamilton–Jacobi equation in its scope γ, from f_0 = f.",
    formula=r"\partial_\gamma f=-\frac{1}{2}|\nabla f|^2+\frac{1}{2}\Delta f",
    source="Chaudhari, Oberman, Osher, Soatto & Carlier (2018)",
    as_stated="holds",
    holds="as stated; without the viscosity it is the Moreau envelope, which knows depth and slope but not width",
    check=_viscous,
    twin=_inviscid,
    figure=_smoothing,
)

# wide and sharp -------------------------------------------------------------------------------------------

_WIDE_SHARP = 1.0, 10.0  # curvature across the valley of the plane at x = −1, 1; k(x) is log-linear between
_LINE = 2.0, 30.0  # curvatures of the two wells on the line
_LATER = 0.4


def _plane_loss(wide: float, sharp: float) -> str:
    """Two valleys with floors at x = ∓1, of which the one at x = 1 is deeper by ½."""
    across = f"sqrt({wide * sharp})*exp(x*log({sharp / wide})/2)"
    return f"(x**2 - 1)**2 - (3*x - x**3)/8 + {across}*y**2/2"


def _plane_exact(gamma: float) -> float:
    """f_γ(1, 0) − f_γ(−1, 0): over y in closed form, over x by the rule."""
    wide, sharp = _WIDE_SHARP
    z, w = np.polynomial.hermite_e.hermegauss(2 * NODES)
    mass = []
    for floor in (1.0, -1.0):
        x = floor + math.sqrt(gamma) * z
        k = math.sqrt(wide * sharp) * np.exp(x * math.log(sharp / wide) / 2)
        mass.append(float(w @ (np.exp(-((x**2 - 1) ** 2) + (3 * x - x**3) / 8) / np.sqrt(1 + gamma * k))))
    return math.log(mass[1] / mass[0])


def _line_loss(wide: float, sharp: float) -> str:
    """−log of two Gaussians around ∓1, that around 1 higher by e^½."""
    return f"-log(exp(-{wide}*(x + 1)**2/2) + exp(1/2 - {sharp}*(x - 1)**2/2))"


def _line_exact(gamma: float) -> float:
    """f_γ(1) − f_γ(−1) in closed form: each Gaussian stays one."""

    def weight(x: float) -> float:
        wells = zip((0.0, 0.5), (-1.0, 1.0), _LINE)
        return sum(
            math.exp(h - k * (x - c) ** 2 / (2 * (1 + gamma * k))) / math.sqrt(1 + gamma * k) for h, c, k in wells
        )

    return math.log(weight(-1.0) / weight(1.0))


_PAIRS = {  # loss for two curvatures, the curvatures, those of the twin, exact f_γ(sharp) − f_γ(wide), box
    "two valleys in the plane": (_plane_loss, _WIDE_SHARP, (3.0, 3.0), _plane_exact, ((-3.5, 3.5), (-6.0, 6.0))),
    "two wells on a line": (_line_loss, _LINE, (8.0, 8.0), _line_exact, ((-5.0, 5.0),)),
}


def _between(f: Callable, dim: int) -> float:
    """f(sharp) − f(wide), at their floors."""
    floors = np.zeros((2, dim))
    floors[:, 0] = 1.0, -1.0
    return float(np.subtract(*f(floors)))


def _swap(*fields: Callable, gammas: np.ndarray, dim: int) -> float:
    """The γ at which both are level: the root of the polynomial through the differences at five γ."""
    differences = [_between(f, dim) for f in fields]
    roots = np.roots(np.polyfit(gammas - gammas[2], differences, 4)) + gammas[2]
    return float(roots[np.abs(roots - gammas[2]).argmin()].real)


def _gain(level: Level, name: str, alike: bool) -> Measurement:
    loss, curvatures, equal, exact, box = _PAIRS[name]
    text, dim = loss(*(equal if alike else curvatures)), len(box)
    start = _between(landscape(text, ("x", "y")[:dim]).loss, dim)
    values = [v - start for v in on_grids(level, text, box, (_LATER,), lambda f: _between(f, dim))]
    words = "equal curvatures" if alike else f"curvatures {curvatures[0]:g} and {curvatures[1]:g}"
    what = f"what the wide one gains on the sharp one from γ = 0 to {_LATER}, {name}, {words}"
    return refined(what, values[0], values[1], exact(_LATER) - exact(0.0), order=2)


def _swapping(level: Level) -> list[Measurement]:
    """At γ = 0 the sharp valley is deeper by ½. f_γ of the heat flow at both floors, on two grids: by how much the wide
    one has gained at γ = 0.4, and at which γ they are level, from five values around it. Against the exact difference:
    in the plane f is quadratic in y, so that an integral over x is left; on the line e^{−f} is two Gaussians."""
    from scipy.optimize import brentq

    found = []
    for name, (loss, curvatures, _, exact, box) in _PAIRS.items():
        found.append(_gain(level, name, alike=False))
        level_at = brentq(exact, 1e-6, 1.0)
        gammas = level_at * np.array([0.9, 0.95, 1.0, 1.05, 1.1])
        measure = partial(_swap, gammas=gammas, dim=len(box))
        values = on_grids(level, loss(*curvatures), box, tuple(gammas), measure)
        found.append(refined(f"γ at which wide and sharp are level, {name}", values[0], values[1], level_at, order=2))
    return found


def _alike(level: Level) -> list[Measurement]:
    """The same gains with equal curvatures: the deeper valley keeps its lead."""
    return [_gain(level, name, alike=True) for name in _PAIRS]


@styled
def _two_valleys(level: Level) -> "Figure":
    """f_γ along the line of two wells, and the difference of the two against γ, exact and by the heat flow."""
    figure = new_figure(8.4, 3.5)
    left, right = figure.subplots(1, 2)
    text, box = _line_loss(*_LINE), _PAIRS["two wells on a line"][-1]
    x, gammas = np.linspace(-2.2, 2.2, 400), (0.001, 0.02, 0.08, 0.3)
    for gamma, f in zip(gammas, heat_flow(text, box, level.cells(480), gammas)):
        left.plot(x, f(x[:, None]), label=f"γ = {gamma:g}")
    left.set(xlabel="x", ylabel=r"$f_\gamma$", ylim=(-0.7, 4.0))
    left.legend()
    shown = tuple(np.linspace(0.01, 0.5, 15))
    for name, (loss, curvatures, _, exact, area) in _PAIRS.items():
        fields = heat_flow(loss(*curvatures), area, level.cells(240 if len(area) == 1 else 80), shown)
        (line,) = right.plot(shown, [_between(f, len(area)) for f in fields], "o", ms=4, label=f"{name}, heat flow")
        right.plot(shown, [exact(g) for g in shown], color=line.get_color(), label="exact")
    right.axhline(0.0, color=INK, lw=1.0, ls="--")
    right.set(xlabel="γ", ylabel=r"$f_\gamma$(sharp) − $f_\gamma$(wide)")
    right.legend()
    return figure


WIDE_VALLEY_WINS = Claim(
    name="wide_valley_wins",
    statement="Local entropy prefers wide valleys: from some γ on, a wide minimum lies lower than a deeper sharp one.",
    formula=r"f_\gamma(x^*)\approx f(x^*)+\frac{1}{2}\log\det(I+\gamma\nabla^2f(x^*))",
    source="Chaudhari et al. (2017), Entropy-SGD; Baldassi et al. (2015)",
    hypotheses=("the sharp one is deeper by less than half the logarithm of the ratio of the determinants of ∇²f",),
    as_stated="needs_hypothesis",
    holds=(
        "near a quadratic minimum f_γ is raised by ½ log det(I + γ∇²f), less for the wide one, which lies lower once "
        "its gain exceeds the difference of depth; of valleys of equal width the deeper one stays lower"
    ),
    check=_swapping,
    twin=_alike,
    figure=_two_valleys,
)
