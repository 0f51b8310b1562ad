"""Claims about SGD and the differential equations that stand for it: how near they are, and for how long."""

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import expm

import sde_sgd as sde
from sde_sgd.figures._style import MUTED, new_figure, styled
from sde_sgd.theory.claim import Claim, Level, Measurement, exact, refined, sampled
from sde_sgd.theory.claims import _exact_laws as laws
from sde_sgd.theory.claims._batches import seed_of, states

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HORIZON = 0.5  # the fixed time at which laws are compared


# -- the equations ----------------------------------------------------------------------------------------------


def _equation(parts: np.ndarray, learning_rate: float, kind: str) -> np.ndarray:
    """Generator of the moments of a quadratic sum, for the equation of that kind and batches of one."""
    mean = parts.mean(axis=0)
    bend = {"second order": 0.5, "wrong sign": -0.5, "second order, no noise": 0.5}.get(kind, 0.0)
    temperature = 0.0 if "no noise" in kind else learning_rate / 2
    return laws.generator(parts, temperature, -(mean + bend * learning_rate * mean @ mean))


def _modified(learning_rate: float, kind: str) -> sde.Process:
    """The equation of that kind for `soft`, at T = η/2."""
    slope, bend = "tanh(x)", {"second order": 0.25, "wrong sign": -0.25}.get(kind, 0.0)
    return sde.Landscape(
        "x",
        f"log(cosh(x)) + bend*{slope}**2",
        parameters={"bend": bend * learning_rate},
        diffusion=[["(1 + cos(x)/2)**2"]],
        domain=((-4.0, 4.0),),
    ).at_temperature(learning_rate / 2)


@cache
def _grid_mean(learning_rate: float, kind: str) -> float:
    """E x(½) from x(0) = 1 of the equation, extrapolated over grids aligned with the start."""
    found = []
    base = 8 * round(max(40.0, 1.5 / learning_rate))  # drift against noise across a cell stays the same
    for cells in (base, 2 * base, 4 * base):
        fp = sde.FokkerPlanck(_modified(learning_rate, kind), sde.Grid(-4.0, 4.0, cells))
        density = fp.evolve({"x": 1.0}, _HORIZON, scheme="krylov").isel(time=-1)
        found.append(float((density * density.x).sum()) * fp.grid.cell_volume)
    first, second = (4 * found[1] - found[0]) / 3, (4 * found[2] - found[1]) / 3
    return (16 * second - first) / 15


# -- weak errors at a fixed time --------------------------------------------------------------------------------


def _quadratic_error(name: str, observable: tuple[int, int], kind: str):
    """n → weak error of E z_i z_j after n steps to the horizon, exact."""
    parts = laws.affine({"PEARSON": laws.pearson(), "regression": laws.regression()}[name])
    start = np.array([1.0, 2.0, -1.0])[: parts.shape[-1]]
    begin = np.kron(start, start)

    def error(steps: int) -> float:
        rate = _HORIZON / steps
        if kind == "momentum":
            calm = np.concatenate([start, np.zeros(len(start) - 1)])
            moved = np.linalg.matrix_power(laws.momentum_step(parts, rate, 0.5), steps) @ np.kron(calm, calm)
            real = moved.reshape(len(calm), -1)[observable]
        else:
            moved = np.linalg.matrix_power(laws.step(parts, rate), steps) @ begin
            real = moved.reshape(len(start), -1)[observable]
        ideal = expm(_HORIZON * _equation(parts, rate, kind)) @ begin
        return real - ideal.reshape(len(start), -1)[observable]

    return error


def _soft_error(kind: str):
    """n → weak error of E x of `soft` after n steps: every batch enumerated, less the density on grids."""

    def error(steps: int) -> float:
        rate = _HORIZON / steps
        return laws.Backward(laws.soft(), rate).after(steps, 1.0) - _grid_mean(rate, kind)

    return error


def _svag_error(kind: str):
    """n → weak error of E x² of PEARSON at the fixed T = 0.2 (η = 0.4), with n steps of η/l."""
    parts = laws.affine(laws.pearson())
    start, rate = np.array([1.0, 2.0]), 0.4
    begin = np.kron(start, start)
    noise = {"frozen": parts @ np.array([[1.0, 0.0], [2.0, 0.0]])}.get(kind, parts)  # D at the start for all x
    ideal = expm(
        _HORIZON
        * (laws.generator(parts, 0.0) + (rate * laws.pairs(noise - noise.mean(axis=0)) if kind != "no noise" else 0.0))
    )

    def error(steps: int) -> float:
        small = _HORIZON / steps
        spread = np.sqrt(2 * rate / small - 1)
        drawn = np.array([0.5 * ((1 + spread) * a + (1 - spread) * b) for a in parts for b in parts])
        moved = np.linalg.matrix_power(laws.step(drawn, small), steps) @ begin
        return (moved - ideal @ begin)[3]

    return error


def _order(what: str, error, steps: int, expected: float) -> Measurement:
    """The power of η in the error, from n, 2n and 4n steps."""
    errors = [abs(error(steps * 2**i)) for i in range(3)]
    return refined(what, np.log2(errors[0] / errors[1]), np.log2(errors[1] / errors[2]), expected, order=1)


_MEAN, _SQUARE = (0, 1), (1, 1)


def _weak_order_one(level: Level) -> list[Measurement]:
    """The power of η in E φ(x) of SGD less that of the SDE at t = ½. Quadratic sums: E x and E x² of SGD obey linear
    recursions, found by enumerating the samples, and those of the SDE a linear differential equation. A sum that is
    not quadratic: SGD by enumeration of its two samples, the SDE by the density on grids. SVAG: the same at a T that
    is held fixed, where the noise does not vanish with the step."""
    steps, few = level.cells(40, 1), level.cells(8, 1)
    return [
        _order("order of E x, PEARSON, moments", _quadratic_error("PEARSON", _MEAN, "first order"), steps, 1.0),
        _order("order of E x², PEARSON, moments", _quadratic_error("PEARSON", _SQUARE, "first order"), steps, 1.0),
        _order("order of E x², regression", _quadratic_error("regression", _SQUARE, "first order"), steps, 1.0),
        _order("order of E x, log cosh, grid", _soft_error("first order"), few, 1.0),
        _order("order of E x² in η/l at fixed T, SVAG on PEARSON", _svag_error("first order"), steps, 1.0),
        _order("order of E x² of the gradient flow", _quadratic_error("PEARSON", _SQUARE, "no noise"), steps, 1.0),
    ]  # fmt: skip


def _not_weak_order_one(level: Level) -> list[Measurement]:
    """Momentum 0.5 on the clock η per step, where the hypothesis that a step moves by −ηg is broken: the error does
    not vanish. At a fixed T (SVAG) neither does that of the SDE with the noise of its start, or with none."""
    steps = level.cells(40, 1)
    return [
        _order("order with momentum 0.5, E x², PEARSON", _quadratic_error("PEARSON", _SQUARE, "momentum"), steps, 1.0),
        _order("order at fixed T with D(x₀) for D(x)", _svag_error("frozen"), 8 * steps, 1.0),
        _order("order at fixed T of the gradient flow", _svag_error("no noise"), 8 * steps, 1.0),
    ]


_COUNTS = 2 ** np.arange(2, 8)


def _errors(pane, error, style: str, label: str) -> None:
    pane.loglog(_HORIZON / _COUNTS, [abs(error(int(n))) for n in _COUNTS], style, label=label, ms=5, mfc="none")


@styled
def _draw_order_one(level: Level) -> "Figure":
    figure = new_figure(8.0, 3.4)
    left, right = figure.subplots(1, 2)
    for name, kind, style in (("SDE", "first order", "o-"), ("no noise", "no noise", "v:")):
        _errors(left, _quadratic_error("PEARSON", _SQUARE, kind), style, name)
    _errors(left, _quadratic_error("PEARSON", _SQUARE, "momentum"), "s--", "SDE, SGD with momentum")
    left.set(title="T = η/2", xlabel="η", ylabel="|error of E x²| at t = ½")
    for name, kind, style in (("SDE", "first order", "o-"), ("no noise", "no noise", "v:"), ("D(x₀)", "frozen", "s--")):
        _errors(right, _svag_error(kind), style, name)
    right.set(title="T = 0.2 held fixed (SVAG)", xlabel="η/l")
    left.legend()
    right.legend()
    return figure


WEAK_ORDER_ONE = Claim(
    name="weak_order_one",
    statement="SGD with learning rate η is approximated to weak order 1 by dx = −∇f dt + √(ηΣ(x)) dW, Σ the covariance "
    "of the batch gradient.",
    formula=r"\left|\mathbb{E}\,\varphi(x_{t/\eta})-\mathbb{E}\,\varphi(X_t)\right|\leq C\eta",
    source="Li, Tai & E (2017)",
    hypotheses=(
        "smooth gradients of at most linear growth",
        "batches independent of each other and of the past",
        "a fixed time: C grows with it",
    ),
    as_stated="holds",
    holds="as stated, but so does the gradient flow without noise, because T = η/2b vanishes with η; at a fixed T "
    "(SVAG) the order in η/l is 1 with the right D(x) and 0 with a wrong one",
    check=_weak_order_one,
    twin=_not_weak_order_one,
    figure=_draw_order_one,
)


def _modified_order_two(level: Level) -> list[Measurement]:
    """As for order 1, with the drift −∇(f + (η/4)|∇f|²): moments of two quadratic sums, and a sum that is not
    quadratic by enumeration and grids."""
    steps, few = level.cells(40, 1), level.cells(8, 1)
    kind = "second order"
    return [
        _order("order of E x, PEARSON, moments", _quadratic_error("PEARSON", _MEAN, kind), steps, 2.0),
        _order("order of E x², PEARSON, moments", _quadratic_error("PEARSON", _SQUARE, kind), steps, 2.0),
        _order("order of E xy, regression, moments", _quadratic_error("regression", (1, 2), kind), steps, 2.0),
        _order("order of E x, log cosh, grid", _soft_error(kind), few, 2.0),
    ]


def _modified_order_one(level: Level) -> list[Measurement]:
    """The equation without the term in η, with its sign reversed, and with it but without noise: all of order 1."""
    steps = level.cells(40, 1)
    return [
        _order("order of E x² without (η/4)|∇f|²", _quadratic_error("PEARSON", _SQUARE, "first order"), steps, 2.0),
        _order("order of E x², sign reversed", _quadratic_error("PEARSON", _SQUARE, "wrong sign"), steps, 2.0),
        _order("order of E x², no noise", _quadratic_error("PEARSON", _SQUARE, "second order, no noise"), steps, 2.0),
        _order("order of E x, log cosh, sign reversed", _soft_error("wrong sign"), 8, 2.0),
    ]


@styled
def _draw_order_two(level: Level) -> "Figure":
    figure = new_figure(5.0, 3.6)
    ax = figure.subplots()
    kinds = {"first order": "o-", "wrong sign": "v:", "second order, no noise": "^--", "second order": "s-"}
    for kind, style in kinds.items():
        _errors(ax, _quadratic_error("PEARSON", _SQUARE, kind), style, kind)
    ax.set(title="PEARSON", xlabel="η", ylabel="|error of E x²| at t = ½")
    ax.legend()
    return figure


MODIFIED_EQUATION_ORDER = Claim(
    name="modified_equation_order_two",
    statement="With the drift −∇(f + (η/4)|∇f|²) and the noise √(ηΣ) the equation approximates SGD to weak order 2.",
    formula=r"dX=-\nabla\left(f+\frac{\eta}{4}|\nabla f|^2\right)dt+\sqrt{\eta\Sigma}\,dW",
    source="Li, Tai & E (2017)",
    hypotheses=("smooth gradients of at most linear growth", "a fixed time"),
    as_stated="holds",
    holds="as stated, at a fixed time; it needs the noise, and the plus sign",
    check=_modified_order_two,
    twin=_modified_order_one,
    figure=_draw_order_two,
)


# -- long times -------------------------------------------------------------------------------------------------


def _pearson_variances(learning_rate: float) -> dict[str, float]:
    """Stationary variance of PEARSON: SGD, both equations, and the second with its noise times (2 + ηh)/(2 − ηh)."""
    parts = laws.affine(laws.pearson())
    mean = parts.mean(axis=0)
    bent = -(mean + 0.5 * learning_rate * mean @ mean)
    gain = (2 + learning_rate * mean[1, 1]) / (2 - learning_rate * mean[1, 1])
    operators = {
        "SGD": laws.step(parts, learning_rate),
        "first order": laws.generator(parts, learning_rate / 2),
        "second order": laws.generator(parts, learning_rate / 2, bent),
        "corrected": laws.generator(parts, gain * learning_rate / 2, bent),
    }
    return {name: float(laws.covariance(laws.at_rest(operator))[0, 0]) for name, operator in operators.items()}


@cache
def _soft_variances(learning_rate: float) -> dict[str, float]:
    """The same without the correction for `soft`: SGD by enumeration, the equations on grids."""
    found = {"SGD": laws.Backward(laws.soft(), learning_rate).at_rest(np.square)}
    for kind in ("first order", "second order"):
        cells = 2 * round(60 / learning_rate**0.5)
        coarse, fine = (_grid_variance(learning_rate, kind, count) for count in (cells, 2 * cells))
        found[kind] = (4 * fine - coarse) / 3
    return found


def _grid_variance(learning_rate: float, kind: str, cells: int) -> float:
    density = sde.FokkerPlanck(_modified(learning_rate, kind), sde.Grid(-3.2, 3.2, cells)).steady_state()
    return float((density * density.x**2).sum() / density.sum())


def _worse(what: str, variances, learning_rate: float) -> Measurement:
    """Error of the second-order equation over that of the first, as η → 0."""
    ratios = []
    for rate in (learning_rate, learning_rate / 2):
        found = variances(rate)
        ratios.append((found["second order"] - found["SGD"]) / (found["first order"] - found["SGD"]))
    return refined(what, ratios[0], ratios[1], 2.0, order=1)


def _along_the_steepest(level: Level, gain: bool) -> Measurement:
    """Variance of real SGD along the steepest eigenvector over that of the second-order equation, η = 0.4, b = 2."""
    quadratic, rate, batch = laws.offsets(), 0.4, 2
    h, vectors = np.linalg.eigh(quadratic.hessian([0.0, 0.0]))
    curvature, axis = h[-1], vectors[:, -1]
    noise = axis @ quadratic.diffusion([0.0, 0.0]) @ axis
    bent = sde.OrnsteinUhlenbeck(
        curvature + rate * curvature**2 / 2,
        noise * ((2 + rate * curvature) / (2 - rate * curvature) if gain else 1.0),
        rate / (2 * batch),
    )
    run = sde.sgd(
        quadratic, (0.0, 0.0), learning_rate=rate, batch_size=batch, steps=60, replicas=level.count(150_000),
        seed=seed_of(level, 50),
    )  # fmt: skip
    what = f"Var of SGD / Var of the {'corrected ' if gain else ''}equation, ηh = {rate * curvature:.2f}, sampled"
    return sampled(what, (states(run, quadratic) @ axis) ** 2 / bent.covariance.item(), 1.0)


def _worse_at_rest(level: Level) -> list[Measurement]:
    """Stationary variances. PEARSON: SGD and the equations in closed form. A sum that is not quadratic: SGD by
    enumeration, the equations' steady states on grids. Then the noise is multiplied by (2 + ηh)/(2 − ηh), which makes
    the variance that of SGD: exactly on PEARSON, and on a quadratic in two variables against runs of SGD."""
    rate = 0.04 / level.more
    pearson = _pearson_variances(0.4)
    return [
        _worse("error of order 2 / error of order 1 as η → 0, PEARSON", _pearson_variances, rate),
        _worse("error of order 2 / error of order 1 as η → 0, log cosh", _soft_variances, 0.08 / level.more),
        exact("Var corrected / Var of SGD, PEARSON, η = 0.4", pearson["corrected"] / pearson["SGD"], 1.0),
        _along_the_steepest(level, gain=True),
    ]  # fmt: skip


def _better_at_rest(level: Level) -> list[Measurement]:
    """As published: the second-order equation with the noise √(ηΣ), whose variance should be that of SGD."""
    pearson, soft = _pearson_variances(0.4), _soft_variances(0.08)
    return [
        exact("Var of order 2 / Var of SGD, PEARSON, η = 0.4", pearson["second order"] / pearson["SGD"], 1.0),
        exact("Var of order 2 / Var of SGD, log cosh, η = 0.08", soft["second order"] / soft["SGD"], 1.0, 1e-3),
        _along_the_steepest(level, gain=False),
    ]


@styled
def _draw_variances(level: Level) -> "Figure":
    figure = new_figure(5.0, 3.6)
    ax = figure.subplots()
    rates = np.linspace(0.02, 1.2, 60)
    found = [_pearson_variances(rate) for rate in rates]
    curvature = 1.25  # mean of the curvatures
    for name, style in (("first order", "-"), ("second order", "--"), ("corrected", ":")):
        ax.plot(rates * curvature, [row[name] / row["SGD"] for row in found], style, label=name, lw=2)
    ax.axhline(1.0, color=MUTED, lw=0.8, zorder=0)
    ax.set(xlabel="ηh", ylabel="Var of the equation / Var of SGD", title="PEARSON at rest", ylim=(0, 1.1))
    ax.legend(loc="lower left")
    return figure


MODIFIED_EQUATION_AT_REST = Claim(
    name="modified_equation_at_rest",
    statement="The second-order modified equation describes SGD better than the first-order one (at all times).",
    formula=(
        r"\left|\operatorname{Var}X^{(2)}_\infty-\operatorname{Var}x_\infty\right|"
        r"<\left|\operatorname{Var}X^{(1)}_\infty-\operatorname{Var}x_\infty\right|"
    ),
    source="folklore, from Li, Tai & E (2017)",
    as_stated="fails",
    holds="along an eigenvector of curvature h SGD has the variance ηΣ/(h(2 − ηh)), the second-order equation "
    "ηΣ/(h(2 + ηh)): to first order it is short by the fraction ηh, twice that of the first-order equation; the noise "
    "Σ(2 + ηh)/(2 − ηh) makes it exact on a quadratic",
    check=_worse_at_rest,
    twin=_better_at_rest,
    figure=_draw_variances,
)
