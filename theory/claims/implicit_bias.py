"""Claims about the solution that SGD ends at among many, and about the average of several."""

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

import sde_sgd as sde
from sde_sgd.figures._style import MUTED, new_figure, styled
from sde_sgd.theory.claim import Claim, Level, Measurement, exact, sampled
from sde_sgd.theory.claims import _exact_laws as laws
from sde_sgd.theory.claims._batches import farthest, seed_of, states

if TYPE_CHECKING:
    from matplotlib.figure import Figure


# -- the solution of least norm ------------------------------------------------------------------------------------


@cache
def _wide(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Fewer samples than weights: X, y."""
    if name == "wide regression":
        X = np.array(
            [[1.0, 0.5, -0.3, 0.8, 0.2, -0.6], [0.2, -1.0, 0.7, 0.4, -0.5, 0.9], [-0.6, 0.3, 1.1, -0.2, 0.9, 0.1]]
        )
        return X, np.array([1.0, -0.5, 0.8])
    points = np.array([-0.9, -0.5, 0.0, 0.4, 0.8])
    waves = np.arange(1, 5) * points[:, None] * np.pi / 2
    return np.hstack([np.ones((5, 1)), np.cos(waves), np.sin(waves)]), np.sin(3 * points)


@cache
def _ends(level: Level, name: str, momentum: float = 0.0, sampling: str = "with_replacement"):
    """Starts, ends of SGD, and ends X⁺y + (I − X⁺X)w₀ as predicted; the first start is 0."""
    X, y = _wide(name)
    model, seed = sde.FiniteSum.linear_model(X, y, "squared", name=name), seed_of(level, 57, len(y))
    starts = np.random.default_rng(seed).normal(size=(20, X.shape[1]))
    starts[0] = 0.0
    run = sde.sgd(model, starts, learning_rate=0.15, batch_size=1, steps=60_000 // X.shape[1], replicas=20, seed=seed,
                  momentum=momentum, sampling=sampling)  # fmt: skip
    inverse = np.linalg.pinv(X)
    predicted = inverse @ y + starts - starts @ (inverse @ X).T
    return starts, states(run, model), predicted


def _adagrad(X: np.ndarray, y: np.ndarray, steps: int, rate: float = 0.3) -> np.ndarray:
    """The way of AdaGrad from 0 (Duchi et al. 2011): steps divided by the roots of the summed squared gradients."""
    w, squares, way = np.zeros(X.shape[1]), np.full(X.shape[1], 1e-8), []
    for _ in range(steps):
        gradient = X.T @ (X @ w - y) / len(y)
        squares += gradient**2
        w = w - rate * gradient / np.sqrt(squares)
        way.append(w)
    return np.array(way)


def _least_norm(level: Level) -> list[Measurement]:
    """Runs of SGD from 0 and from 19 random starts to the solution, where nothing is random any more, on a regression
    with three samples for six weights and a trigonometric one with five for nine: from 0 the norm over |X⁺y|; from
    every start the weights over the predicted, of all the one that is farthest off.
    """
    variants: dict[str, dict[str, Any]] = {
        "": {},
        ", momentum 0.5": {"momentum": 0.5},
        ", reshuffled": {"sampling": "reshuffling"},
    }
    found = []
    for name in ("wide regression", "trigonometric"):
        X, y = _wide(name)
        for label, options in variants.items():
            _, ends, predicted = _ends(level, name, **options)
            norm = float(np.linalg.norm(ends[0]) / np.linalg.norm(np.linalg.pinv(X) @ y))
            found.append(exact(f"|w| from 0 over |X⁺y|, {name}{label}", norm, 1.0, 1e-9))
            what = f"w over X⁺y + (I − X⁺X)w₀ in every weight, {name}{label}"
            found.append(exact(what, farthest(ends / predicted, 1.0), 1.0, 1e-7))
    return found


def _not_least_norm(level: Level) -> list[Measurement]:
    """Starts off the row space: of 19 runs the one that comes nearest to the least norm. And AdaGrad, whose steps leave
    the row space even from 0.
    """
    found = []
    for name in ("wide regression", "trigonometric"):
        X, y = _wide(name)
        least = np.linalg.norm(np.linalg.pinv(X) @ y)
        ends = np.linalg.norm(_ends(level, name)[1], axis=1)[1:] / least
        found.append(exact(f"|w| from a random start over |X⁺y|, {name}", ends.min(), 1.0, 1e-9))
        adaptive = float(np.linalg.norm(_adagrad(X, y, 5000)[-1]) / least)
        found.append(exact(f"|w| of AdaGrad from 0 over |X⁺y|, {name}", adaptive, 1.0, 1e-9))
    return found


@styled
def _draw_least_norm(level: Level) -> "Figure":
    figure = new_figure(5.0, 4.2)
    ax = figure.subplots()
    X, y = np.array([[1.0, 0.4], [2.0, 0.8]]), np.array([1.0, 2.0])
    model = sde.FiniteSum.linear_model(X, y, "squared", variables=("u", "v"))
    starts = np.array([[0.0, 0.0], [-0.8, 0.8], [1.6, 1.4], [0.4, -1.2]])
    run = sde.sgd(model, starts, learning_rate=0.03, batch_size=1, steps=400, replicas=4, save_every=1, seed=level.seed)
    for path in range(len(starts)):
        ax.plot(run.u[path], run.v[path], color="C0", lw=1, label="SGD" if path == 0 else None)
        ax.plot(*starts[path], "o", color="C0", ms=4)
    ax.plot(*_adagrad(X, y, 300, 0.1).T, "--", color="C1", lw=1.5, label="AdaGrad from 0")
    u = np.linspace(-1.2, 2.0, 2)
    ax.plot(u, (1.0 - u) / 0.4, color=MUTED, lw=1, zorder=0, label="solutions")
    ax.plot(*(np.linalg.pinv(X) @ y), "*", color="C2", ms=12, label="least norm")
    ax.set(xlim=(-1.2, 2.0), ylim=(-1.6, 1.9), xlabel="u", ylabel="v", aspect="equal")
    ax.legend(loc="lower left")
    return figure


LEAST_NORM = Claim(
    name="minimum_norm_solution",
    statement="For linear models SGD converges to the solution of least norm.",
    formula=r"w_\infty=X^+y",
    source="Zhang et al. (2017)",
    hypotheses=("fewer samples than weights, and a solution that fits all", "w₀ in the span of the samples, such as 0"),
    as_stated="needs_hypothesis",
    holds="from any start, with momentum, and in any order of the samples it ends at X⁺y + (I − X⁺X)w₀, the solution "
    "nearest to w₀: the least norm only if w₀ lies in the row space. AdaGrad ends elsewhere even from 0",
    check=_least_norm,
    twin=_not_least_norm,
    figure=_draw_least_norm,
)


# -- averages of solutions ---------------------------------------------------------------------------------------


@cache
def _wells() -> sde.FiniteSum:
    """f_k = (x² − 1)²/4 ± x/2 with the mean (x² − 1)²/4: two basins that SGD at η = 0.1 does not leave."""
    return sde.FiniteSum("x", "(x**2 - 1)**2/4 + s*x", {"s": [-0.5, 0.5]}, name="two wells")


_SUMS = {  # a sum, starts of the two runs of a pair, learning rate
    "log cosh": (laws.soft, (0.0, 0.0), 0.3),
    "one well": (_wells, (1.0, 1.0), 0.1),
    "two wells": (_wells, (-1.0, 1.0), 0.1),
}


@cache
def _pairs(level: Level, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Ends of 200 steps of SGD, pairs of independent runs."""
    build, starts, rate = _SUMS[name]
    chosen, count = build(), level.count(4_000)
    run = sde.sgd(chosen, np.repeat(starts, count)[:, None], learning_rate=rate, batch_size=1, steps=200,
                  replicas=2 * count, seed=seed_of(level, 58, list(_SUMS).index(name)))  # fmt: skip
    ends = states(run, chosen)
    return ends[:count], ends[count:]


def _raised(name: str, level: Level) -> Measurement:
    """Loss of the mean less the mean of the losses: at most 0."""
    loss = _SUMS[name][0]().loss
    one, other = _pairs(level, name)
    change = loss((one + other) / 2) - (loss(one) + loss(other)) / 2
    return replace(sampled(f"f(mean) − mean of f, two runs of SGD, {name}", change, 0.0), relation="<=")


def _quadratic_states(level: Level, members: int) -> np.ndarray:
    """Solutions of `offsets` in groups: (group, member, variable)."""
    groups = min(level.count(60_000), 2_000_000)  # memory
    run = sde.sgd(laws.offsets(), (0.0, 0.0), learning_rate=0.3, batch_size=2, steps=60, replicas=members * groups,
                  seed=seed_of(level, 59))  # fmt: skip
    return states(run, laws.offsets()).reshape(groups, members, 2)


def _within(level: Level) -> list[Measurement]:
    """Runs of SGD at rest. On a quadratic the mean of two losses less the loss of the mean is ⅛ΔᵀHΔ for every pair, and
    the mean of m independent solutions has 1/m of their excess loss. On a convex sum that is not quadratic and in one
    well of two, where f is convex between the solutions, the loss of the mean is at most the mean of the losses."""
    quadratic = laws.offsets()
    hessian, rest = quadratic.hessian([0.0, 0.0]), quadratic.loss([0.0, 0.0])
    excess = float(sde.DiscreteSGD(hessian, quadratic.diffusion([0.0, 0.0]), 0.3, 2).gradient_statistics.loss_excess)
    states = _quadratic_states(level, 4)
    one, other = states[:, 0], states[:, 1]
    gap = (quadratic.loss(one) + quadratic.loss(other)) / 2 - quadratic.loss((one + other) / 2)
    bent = np.einsum("ki,ij,kj->k", one - other, hessian, one - other) / 8
    return [
        exact("(mean of f − f(mean)) / ⅛ΔᵀHΔ, quadratic, summed over pairs", gap.sum() / bent.sum(), 1.0),
        *(sampled(f"excess loss of the mean of {m}, over 1/{m} of one's, quadratic",
                  (quadratic.loss(states[:, :m].mean(axis=1)) - rest) * m / excess, 1.0) for m in (2, 4)),
        _raised("log cosh", level),
        _raised("one well", level),
    ]  # fmt: skip


@cache
def _iris_minima() -> tuple[sde.Landscape, np.ndarray]:
    irises = sde.landscapes.get("neuron_two_inputs")
    points = irises.critical_points(((-1.5, 1.5), (-1.5, 1.5), (-1.5, 1.5)))
    minima = points.isel(point=np.flatnonzero(points.kind.values == "minimum"))
    return irises, np.stack([minima[name].values for name in irises.variables], -1)


def _across(level: Level) -> list[Measurement]:
    """One basin that is not convex: two points on the floor of Rosenbrock's valley. Two basins: runs of SGD that ended
    in different wells; two minima of a neuron with two inputs, on irises; and two networks of two tanh units that
    differ in the order of the units, and both fit the data exactly. In all the loss of the mean is the greater."""
    irises, both = _iris_minima()
    inputs = np.linspace(-2.0, 2.0, 9)
    twins = sde.FiniteSum(
        ("u", "v"), "(tanh(u*x) + tanh(v*x) - y)**2/2", {"x": inputs, "y": np.tanh(3 * inputs) + np.tanh(inputs / 2)}
    )
    places = {
        "along a curved valley": (sde.landscapes.get("rosenbrock"), np.array([[0.0, 0.0], [2.0, 4.0]])),
        "two minima of a neuron on irises": (irises, both),
        "two tanh units exchanged": (twins, np.array([[3.0, 0.5], [0.5, 3.0]])),
    }
    found = [_raised("two wells", level)]
    for what, (chosen, points) in places.items():
        raised = float(chosen.loss(points.mean(axis=0)) - chosen.loss(points).mean())
        found.append(Measurement(f"f(mean) − mean of f, {what}", raised, 0.0, 1e-12, "rounding", "<="))
    return found


@styled
def _draw_averages(level: Level) -> "Figure":
    figure = new_figure(5.2, 3.6)
    ax = figure.subplots()
    x = np.linspace(-1.6, 1.6, 300)
    ax.plot(x, _wells().loss(x[:, None]), color=MUTED, label="f")
    for colour, name in enumerate(("one well", "two wells")):
        one, other = (ends[:60] for ends in _pairs(level, name))
        mean = (one + other) / 2
        heights = [_wells().loss(part) for part in (one, other, mean)]
        ax.plot(np.concatenate([one, other]), np.concatenate(heights[:2]), ".", color=f"C{colour}", alpha=0.4)
        ax.plot(mean, heights[2], "x", color=f"C{colour}", label=f"means of pairs, {name}")
    ax.set(xlabel="x", ylabel="loss", title="ends of SGD (dots) and their means", ylim=(-0.02, 0.4))
    ax.legend(loc="upper center")
    return figure


AVERAGING = Claim(
    name="averaging_within_a_basin",
    statement="Within a basin the average of two solutions is no worse than the two are on average; between basins "
    "it is worse.",
    formula=r"f\left(\frac{w_1+w_2}{2}\right)\leq\frac{f(w_1)+f(w_2)}{2}",
    source="Liao & Poggio (2017)",
    hypotheses=("both lie in one basin", "f is convex between them"),
    as_stated="needs_hypothesis",
    holds="where f is convex between the two; there the loss of the mean is lower by ⅛ΔᵀHΔ on a quadratic, and m "
    "independent solutions at rest have an average with 1/m of their excess loss. Along a curved valley, one basin, it "
    "fails as it does between two",
    check=_within,
    twin=_across,
    figure=_draw_averages,
)
