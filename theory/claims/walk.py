"""Claims about the walk of SGD: the loss between consecutive iterates, their gradients, and damping."""

import itertools
import math
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import minimize_scalar

import sde_sgd as sde
from sde_sgd.figures._style import MUTED, new_figure, styled
from sde_sgd.theory.claim import Claim, Level, Measurement, estimated, exact, refined, sampled
from sde_sgd.theory.claims._batches import seed_of
from sde_sgd.theory.claims._descent import optimum, regression

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_XING = "Xing, Arpit, Tsirigotis & Bengio (2018)"


@cache
def _sums() -> dict[str, sde.FiniteSum]:
    """Two quadratic losses: five samples of a regression in two weights, and four parabolas in one."""
    parabolas = sde.landscapes.get("pearson")
    assert isinstance(parabolas, sde.FiniteSum)
    return {"regression": regression(), "parabolas": parabolas}


def _lowest(loss: sde.Landscape) -> np.ndarray:
    return optimum(loss, np.zeros(loss.dim))


def _batch_gradients(loss: sde.FiniteSum, point: np.ndarray, batch: int) -> np.ndarray:
    """The gradients of all ordered batches with replacement, (N^b, d)."""
    gradients = loss.sample_gradients(point)
    return np.array([gradients[list(b)].mean(axis=0) for b in itertools.product(range(loss.samples), repeat=batch)])


def _height(loss: sde.Landscape, before: np.ndarray, after: np.ndarray) -> float:
    """(L(θ_t) + L(θ_{t+1}))/2 less the lowest loss between them, which is searched for."""
    between = lambda a: float(loss.loss((1 - a) * before + a * after))  # noqa: E731
    lowest = minimize_scalar(between, bounds=(0.0, 1.0), method="bounded", options={"xatol": 1e-9}).fun
    ends = between(0.0), between(1.0)
    return 0.5 * sum(ends) - min(lowest, *ends)


def _predicted_height(loss: sde.Landscape, point: np.ndarray, gradient: np.ndarray, rate: float) -> tuple[float, float]:
    """The formula, and a*, the fraction of the step at which the floor lies."""
    bend = gradient @ loss.hessian(point) @ gradient
    floor = float(gradient @ loss.gradient(point) / (rate * bend))
    return 0.5 * rate**2 * bend * ((floor - 0.5) ** 2 + 0.25), floor


def _heights_ratio(loss: sde.FiniteSum, point: np.ndarray, rate: float, crossing: bool) -> float:
    """Mean searched height over mean predicted one, of the batches of two whose step crosses the floor, or does not."""
    searched, predicted = [], []
    for gradient in _batch_gradients(loss, point, 2):
        height, floor = _predicted_height(loss, point, gradient, rate)
        if (0 <= floor <= 1) is crossing:
            searched.append(_height(loss, point, point - rate * gradient))
            predicted.append(height)
    return sum(searched) / sum(predicted)


def _height_exponent(loss: sde.FiniteSum, point: np.ndarray) -> float:
    """log₂ of the mean height over all batches at 2η = 0.02 over that at η = 0.01."""
    means = [
        np.mean([_height(loss, point, point - rate * g) for g in _batch_gradients(loss, point, 2)])
        for rate in (0.01, 0.02)
    ]
    return math.log2(means[1] / means[0])


@cache
def _trajectory(name: str, rate: float, seed: int) -> np.ndarray:
    """200 steps of SGD, b = 1, from the minimum."""
    loss = _sums()[name]
    run = sde.sgd(loss, _lowest(loss), learning_rate=rate, batch_size=1, steps=200, save_every=1, seed=seed)
    return np.stack([run[v].values[0] for v in loss.variables], -1)


def _walk_ratio(name: str, rate: float, seed: int) -> float:
    """Searched over predicted height of the steps of a run that cross the floor."""
    loss, states = _sums()[name], _trajectory(name, rate, seed)
    searched, predicted = 0.0, 0.0
    for before, after in itertools.pairwise(states):
        if np.linalg.norm(before - after) < 1e-9:
            continue  # a sample whose gradient is 0 here
        height, floor = _predicted_height(loss, before, (before - after) / rate, rate)
        if 0 <= floor <= 1:
            searched, predicted = searched + _height(loss, before, after), predicted + height
    return searched / predicted


@cache
def _stationary_height(rate: float, level: Level) -> tuple[float, float]:
    """Mean height of stationary SGD in one direction, and its relative standard error."""
    steps, replicas = round(4 / rate), min(level.count(100_000), 1_000_000)
    settings: dict[str, Any] = dict(learning_rate=rate, batch_size=1, replicas=replicas, seed=seed_of(level, 61, steps))
    before = sde.sgd(_one_bowl(), 0.0, steps=steps, **settings).x.values
    after = sde.sgd(_one_bowl(), before[:, None], steps=1, first_step=steps, **settings).x.values
    ends = 0.5 * _BEND * np.stack([before, after]) ** 2
    heights = ends.mean(0) - np.where(before * after < 0, 0.0, ends.min(0))
    return heights.mean(), heights.std() / math.sqrt(heights.size) / heights.mean()


def _stationary_exponent(level: Level, expected: float) -> Measurement:
    """log₂ of that height at 2η over that at η, η = 0.01."""
    (low, low_error), (high, high_error) = (_stationary_height(rate, level) for rate in (0.01, 0.02))
    error = math.hypot(low_error, high_error) / math.log(2)
    what = "exponent of the mean height in η, stationary SGD"
    return estimated(what, math.log2(high / low), error, expected, bias=0.01 * _BEND)


def _heights(level: Level) -> list[Measurement]:
    """Of every batch of two of a linear regression and of four parabolas whose step crosses the floor, and of 200 steps
    of SGD as run, b = 1: the lowest loss between the iterates is searched for, and the height compared with the
    formula. From the floor itself, where ∇f = 0, the mean height over all batches is taken at η and 2η; and so is, of
    SGD at rest in one direction with few steps across, the mean height of 100,000 runs (a million at most), whose
    exponent is 3/2 but for a bias of at most ηh."""
    found = [_stationary_exponent(level, 1.5)]
    for name, loss in _sums().items():
        low = _lowest(loss)
        ratio = _heights_ratio(loss, low + 0.1, 0.2, crossing=True)
        found += [
            exact(f"height over formula, batches that cross, {name}", ratio, 1.0, 1e-8),
            exact(f"height over formula, SGD as run, {name}", _walk_ratio(name, 0.2, seed_of(level, 62)), 1.0, 1e-8),
            exact(f"exponent of the mean height in η, from the floor, {name}", _height_exponent(loss, low), 2.0, 1e-6),
        ]
    return found


def _on_the_wall(level: Level) -> list[Measurement]:
    """Steps that do not reach the floor: from a point up the wall the height is half the fall, of first order in η; and
    η² for SGD at rest."""
    found = [_stationary_exponent(level, 2.0)]
    for name, loss in _sums().items():
        high = _lowest(loss) + 20.0
        found += [
            exact(
                f"height over formula, batches that do not cross, {name}",
                _heights_ratio(loss, high, 0.01, crossing=False),
                1.0,
                1e-8,
            ),
            exact(f"exponent of the mean height in η, up the wall, {name}", _height_exponent(loss, high), 2.0, 1e-6),
        ]
    return found


@styled
def _height_figure(level: Level) -> "Figure":
    figure = new_figure(8.4, 3.4)
    left, right = figure.subplots(1, 2)
    loss = _sums()["regression"]
    states = _trajectory("regression", 0.2, seed_of(level, 62))[20:34]
    share = np.linspace(0, 1, 21)
    base = float(loss.loss(_lowest(loss)))
    for k, (before, after) in enumerate(itertools.pairwise(states)):
        line = loss.loss((1 - share)[:, None] * before + share[:, None] * after) - base
        left.plot(k + share, line, color="C0")
        left.plot([k, k + 1], [line[0], line[-1]], "o", ms=3.5, color="C1")
    left.set(xlabel="step + α", ylabel="loss above the minimum")
    rates = np.geomspace(0.003, 0.3, 12)
    for colour, shift, label in (("C0", 0.0, "from the floor"), ("C1", 20.0, "from up the wall")):
        start = _lowest(loss) + shift
        means = [
            np.mean([_height(loss, start, start - r * g) for g in _batch_gradients(loss, start, 2)]) for r in rates
        ]
        right.loglog(rates, means, "o", ms=4, color=colour, label=label)
        power = 2 if not shift else 1
        right.loglog(
            rates, means[0] * (rates / rates[0]) ** power, color=colour, lw=0.9, label="∝ η²" if power == 2 else "∝ η"
        )
    right.set(xlabel="learning rate η", ylabel="mean height")
    right.legend()
    return figure


WALK_HEIGHT = Claim(
    name="walk_height",
    statement="SGD bounces between the walls of a valley at a height above its floor that the learning rate sets: of "
    "order η² on a quadratic.",
    formula=r"\mathrm{height}=\frac{\eta^2}{2}\,g^\top Hg\,[(a^*-\frac{1}{2})^2+\frac{1}{4}],\quad"
    r" a^*=\frac{g\cdot\nabla f}{\eta\,g^\top Hg}",
    source=f"{_XING}; the formula is that of a quadratic",
    hypotheses=("a quadratic loss", "0 ≤ a* ≤ 1: the step crosses the floor"),
    as_stated="needs_hypothesis",
    holds="as stated for the steps that cross the floor; a step that does not has the height of half its fall, of "
    "order η, and at rest in one direction, |x| being of order √η, the mean height goes like η^(3/2)",
    check=_heights,
    twin=_on_the_wall,
    figure=_height_figure,
)


@cache
def _rough() -> sde.FiniteSum:
    """f = (x² − 1)²/4 with the noise of two samples, strong enough to jump over the barrier."""
    return sde.FiniteSum(("x",), "(x**2 - 1)**2/4 + s*x", {"s": np.array([1.5, -1.5])}, name="rough_double_well")


@cache
def _steps_of(name: str, level: Level) -> tuple[np.ndarray, np.ndarray]:
    """(iterates, next ones) of 20 runs of 100 steps, (2000, d) each."""
    loss = _rough() if name == "rough" else _convex()[name]
    settings: dict[str, Any] = dict(learning_rate=0.5 if name == "rough" else 0.3, batch_size=1, steps=100, replicas=20)
    run = sde.sgd(loss, np.full(loss.dim, 0.7), save_every=1, seed=seed_of(level, 63), **settings)
    states = np.stack([run[v].values for v in loss.variables], -1)
    return states[:, :-1].reshape(-1, loss.dim), states[:, 1:].reshape(-1, loss.dim)


@cache
def _convex() -> dict[str, sde.FiniteSum]:
    return {**_sums(), "logistic": regression("logistic")}


def _barrier_free(loss: sde.Landscape, before: np.ndarray, after: np.ndarray) -> float:
    """Fraction of steps on which no loss at α = 0.1, …, 0.9 exceeds both ends by more than rounding."""
    share = np.linspace(0, 1, 11)[:, None, None]
    losses = loss.loss((1 - share) * before + share * after)
    ends = np.maximum(losses[0], losses[-1])
    return float((losses.max(axis=0) <= ends + 1e-12 * (1 + abs(ends))).mean())


def _convex_steps(level: Level) -> list[Measurement]:
    """2000 steps of SGD, b = 1, each on two quadratic losses and a logistic regression; and on a double well the steps
    whose two ends lie on one side of both inflections, x² > 1/3. The loss is taken at α = 0.1, …, 0.9 between the
    ends."""
    found = [
        exact(
            f"fraction of steps without a barrier, {name}",
            _barrier_free(loss, *_steps_of(name, level)),
            1.0,
        )
        for name, loss in _convex().items()
    ]
    before, after = _steps_of("rough", level)
    outside = ((before * after > 0) & (np.minimum(before**2, after**2) > 1 / 3)).ravel()
    share = _barrier_free(_rough(), before[outside], after[outside])
    return [*found, exact("fraction without a barrier, double well, convex segments", share, 1.0)]


def _any_steps(level: Level) -> list[Measurement]:
    """All steps on the double well, and those from one well to the other, whose segments are not convex."""
    before, after = _steps_of("rough", level)
    across = (before * after < 0).ravel()
    return [
        exact("fraction of steps without a barrier, double well", _barrier_free(_rough(), before, after), 1.0),
        exact(
            "fraction without a barrier, double well, steps between wells",
            _barrier_free(_rough(), before[across], after[across]),
            1.0,
        ),
    ]


NO_BARRIER = Claim(
    name="no_barrier",
    statement="SGD crosses no barriers: for most of the training the loss between consecutive iterates is roughly "
    "convex, and nowhere above that of both.",
    formula=r"\max_{0\leq\alpha\leq 1} L(\theta_\alpha)\leq\max(L(\theta_t),L(\theta_{t+1}))",
    source=_XING,
    hypotheses=("the loss is convex along the segment",),
    as_stated="needs_hypothesis",
    holds="always on convex segments, whatever the learning rate; a step over a maximum crosses a barrier",
    check=_convex_steps,
    twin=_any_steps,
)


_BEND, _SPREAD = 2.0, 0.7


def _one_bowl() -> sde.FiniteSum:
    """f = hx²/2 with noise of variance 0.7 from sixteen samples, the same at every x."""
    kicks = {"s": math.sqrt(_SPREAD) * np.repeat([1.0, -1.0], 8)}
    return sde.FiniteSum(("x",), "h*x**2/2 + s*x", kicks, parameters={"h": _BEND}, name="bowl")


def _products(rate: float, batch: int, level: Level, seed: int) -> np.ndarray:
    """g_t g_{t+1} of stationary runs, over the exact E g²·(−ηh/2)."""
    settings: dict[str, Any] = dict(
        learning_rate=rate, batch_size=batch, steps=40, replicas=min(level.count(300_000), 4_000_000)
    )
    settings["seed"] = seed_of(level, seed)
    states = [sde.sgd(_one_bowl(), 0.0, **settings).x.values]
    for k in (40, 41):
        again: dict[str, Any] = dict(settings, steps=1, first_step=k)
        states.append(sde.sgd(_one_bowl(), states[-1][:, None], **again).x.values)
    gradients = [(a - b) / rate for a, b in itertools.pairwise(states)]
    square = _SPREAD / batch * 2 / (2 - rate * _BEND)
    return gradients[0] * gradients[1] / (square * -0.5 * rate * _BEND)


def _transient_cosine(rate: float, batch: int) -> float:
    """E[g₀·g₁]/E|g₀|² from a point far from the minimum of two-dimensional parabolas, over all pairs of batches."""
    kicks = np.array([[1.0, 0.5], [-1.0, 1.0], [0.0, -1.5]])
    data = {"s": kicks[:, 0], "r": kicks[:, 1]}
    valley = sde.FiniteSum(("x", "y"), "x**2/2 + 2*y**2 + s*x + r*y", data, name="valley")
    start = np.array([1.2, -0.2])
    first = _batch_gradients(valley, start, batch)
    second = np.array([_batch_gradients(valley, start - rate * g, batch).mean(axis=0) for g in first])
    return float((first * second).sum() / (first * first).sum())


def _transient_law(batch: int) -> float:
    """|∇f|²/(|∇f|² + tr D/b) there."""
    slope, noise = 1.2**2 + 0.8**2, 2 / 3 + 3.5 / 3
    return slope / (slope + noise / batch)


def _cosines(level: Level) -> list[Measurement]:
    """At stationarity the correlation of g_t and g_{t+1} over −ηh/2: of the exact recursion for several η and b, and of
    300,000 runs of SGD (at most 4,000,000). Far from the minimum, over all pairs of batches and for η → 0,
    E[g_t·g_{t+1}]/E|g|² against |∇f|²/(|∇f|² + tr D/b): there the batch size counts and η does not."""
    found = []
    for rate, batch in ((0.1, 1), (0.1, 16), (0.4, 1), (0.4, 16)):
        statistics = sde.DiscreteSGD(_BEND, _SPREAD, rate, batch).gradient_statistics
        ratio = float(statistics.consecutive_correlation) / (-0.5 * rate * _BEND)
        found.append(exact(f"stationary correlation / (−ηh/2), exact recursion, η = {rate}, b = {batch}", ratio, 1.0))
    for batch in (1, 8):
        what = f"stationary correlation / (−ηh/2), SGD as run, η = 0.45, b = {batch}"
        found.append(sampled(what, _products(0.45, batch, level, 60 + batch), 1.0))
    for batch in (1, 3):
        step = 0.002 / level.more
        coarse, fine = (_transient_cosine(rate, batch) / _transient_law(batch) for rate in (2 * step, step))
        found.append(
            refined(f"cosine far from the minimum over its law, b = {batch}, η → 0", coarse, fine, 1.0, order=1)
        )
    return found


def _as_published(level: Level) -> list[Measurement]:
    """At stationarity: the correlation at 2η over that at η, said to be 1; and with the law of the transient, which
    says that it is positive and grows with b."""
    found = []
    for batch in (1, 16):
        laws = [sde.DiscreteSGD(_BEND, _SPREAD, rate, batch) for rate in (0.2, 0.4)]
        measured = [float(law.gradient_statistics.consecutive_correlation) for law in laws]
        found.append(exact(f"correlation at 2η over that at η, b = {batch}", measured[1] / measured[0], 1.0))
        slope = _BEND**2 * laws[0].covariance[0, 0]
        law = slope / (slope + _SPREAD / batch)
        found.append(exact(f"correlation at η = 0.2, b = {batch}, against the transient's law", measured[0], law))
    return found


@styled
def _cosine_figure(level: Level) -> "Figure":
    figure = new_figure(5.6, 3.6)
    ax = figure.subplots()
    time = np.arange(120)
    for k, (rate, batch) in enumerate(((0.05, 1), (0.05, 16), (0.4, 16))):
        run = sde.sgd(
            _one_bowl(),
            30.0,
            learning_rate=rate,
            batch_size=batch,
            steps=121,
            replicas=4000,
            save_every=1,
            seed=seed_of(level, 64, batch),
        )
        g = -np.diff(run.x.values, axis=1) / rate
        cosine = (g[:, :-1] * g[:, 1:]).mean(0) / np.sqrt((g[:, :-1] ** 2).mean(0) * (g[:, 1:] ** 2).mean(0))
        ax.plot(time, cosine, color=f"C{k}", label=f"η = {rate}, b = {batch}")
        ax.axhline(-0.5 * rate * _BEND, color=f"C{k}", lw=0.8, ls="--")
    ax.axhline(0.0, color=MUTED, lw=0.8)
    ax.set(xlabel="step", ylabel="E[g·g′] / √(E g² E g′²)  (dashed: −ηh/2)")
    ax.legend()
    return figure


COSINE_AND_BATCH = Claim(
    name="cosine_and_batch",
    statement="The cosine between consecutive mini-batch gradients depends on the batch size and not on the "
    "learning rate.",
    formula=r"\frac{E[g_t\cdot g_{t+1}]}{E|g_t|^2}=\frac{|\nabla f|^2}{|\nabla f|^2+\mathrm{tr}D/b}",
    source=f"{_XING}; the formula is that of η → 0",
    hypotheses=("the transient: η is small, and |∇f|² counts against tr D/b",),
    as_stated="needs_hypothesis",
    holds="in the transient it is |∇f|²/(|∇f|² + tr D/b), as published; at stationarity it is the other way round: "
    "−ηh/2 in each direction, set by the learning rate and independent of b",
    check=_cosines,
    twin=_as_published,
    figure=_cosine_figure,
)
