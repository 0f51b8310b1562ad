"""Claims about algorithms that descend on local entropy: Entropy-SGD, and Parle with its special cases."""

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

import sde_sgd as sde
from sde_sgd.figures._style import INK, new_figure, styled
from sde_sgd.theory.claim import Claim, Level, Measurement, exact, sampled
from sde_sgd.theory.claims._batches import seed_of
from sde_sgd.theory.claims._descent import regression

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_KEEP = 0.75  # weight of the past in the running mean of an inner loop


def _batch_gradients(finite_sum: sde.FiniteSum, batches: np.ndarray) -> Callable[[np.ndarray, int], np.ndarray]:
    """The gradient (y, k) of mini-batches: y is (…, d), and `batches` (…, steps, b) are sample indices."""

    def gradient(y: np.ndarray, k: int) -> np.ndarray:
        return np.take_along_axis(finite_sum.sample_gradients(y), batches[..., k, :, None], axis=-2).mean(axis=-2)

    return gradient


# Entropy-SGD ----------------------------------------------------------------------------------------------

_DATA = {"a": [0.5, 1.5, 1.0, 1.0], "m": [0.8, -0.2, 0.5, -0.6]}  # Σ a m = 0: the mean loss is x²/2
_SCOPE, _FROM, _INNER = 0.5, 1.0, 0.1


def _inner_loop(level: Level, steps: int) -> Measurement:
    """(w − μ)/w of an inner loop of real SGD around w, on quadratic samples."""
    count = min(level.count(10_000), 300_000)
    draws = np.random.default_rng(seed_of(level, 73, steps)).integers(0, 4, (count, steps, 1), np.int8)
    means = sde.entropy_sgd(
        _batch_gradients(sde.FiniteSum("x", "a*(x - m)**2/2", _DATA), draws), np.full((count, 1), _FROM), rounds=1,
        inner_steps=steps, step=_INNER, tether=1 / _SCOPE, keep=_KEEP,
    )  # fmt: skip
    pulls = (_FROM - means[:, 0]) / _FROM
    return sampled(f"(w − μ)/w, four quadratic samples, L = {steps}", pulls, _SCOPE / (1 + _SCOPE))


_WELL, _SMOOTH = "(x**2 - 1)**2 + x/2", 0.2
_START, _RATE, _OUTER, _BLOCKS = 1.6, 0.5, 5, 40
_STEP, _LONG = 0.002, 1000


@cache
def _outer_loop(steps: int, paths: int, seed: int) -> np.ndarray:
    """Places of Entropy-SGD, (block, outer step): w' = w − η(w − ⟨x'⟩), the mean over Langevin paths from w."""
    tethered = sde.Landscape("x", f"{_WELL} + (x - w)**2/{2 * _SMOOTH}", parameters={"w": 0.0})
    places = np.full((_BLOCKS, _OUTER + 1), _START)
    for block in range(_BLOCKS):
        for k in range(_OUTER):
            w = float(places[block, k])
            chain = sde.simulate(
                tethered.with_parameters(w=w).at_temperature(1.0), [w], step=_STEP, steps=steps, paths=paths,
                seed=seed + 1_000_003 * (1 + block * _OUTER + k), threads=1,
            )  # fmt: skip
            places[block, k + 1] = w - _RATE * (w - float(chain["x"].values.mean()))
    return places


def _descent_of_local_entropy() -> np.ndarray:
    """w' = w − ηγ∇f_γ(w), by quadrature."""
    smooth, places = sde.local_entropy(sde.Landscape("x", _WELL), _SMOOTH), [_START]
    for _ in range(_OUTER):
        places.append(places[-1] - _RATE * _SMOOTH * float(smooth.gradient([places[-1]])[0]))
    return np.array(places)


def _paths(level: Level) -> int:
    return min(level.count(600), 20_000)


def _double_well(level: Level, steps: int) -> Measurement:
    moved = _outer_loop(steps, _paths(level), seed_of(level, 75))[:, -1] - _START
    expected = _descent_of_local_entropy()[-1] - _START
    what = f"displacement of w by {_OUTER} outer steps in a tilted double well, L = {steps}"
    return sampled(what, moved, expected, bias=(32 * _STEP) ** 2 * abs(expected))


def _long_loops(level: Level) -> list[Measurement]:
    """An inner loop of real SGD on four quadratic samples of one at a time, tethered to w by |x' − w|²/2γ, with the
    running mean μ of weight ¾: w − μ is γ∇f_γ = wγa/(1 + γa) with the mean curvature a = 1 (300 thousand replicas at
    most, for their batches). Then whole Entropy-SGD in a double well, forty times, ⟨x'⟩ over inner Langevin chains of
    1000 steps of 0.002, 20 thousand at most: after five outer steps it is where gradient descent on f_γ is, f_γ by
    quadrature, with a bias below the square of inner step times curvature, 32."""
    return [_inner_loop(level, 60), _double_well(level, _LONG)]


def _short_loops(level: Level) -> list[Measurement]:
    """The same with inner loops of 5 steps, and of 20."""
    return [_inner_loop(level, 5), _double_well(level, 20)]


@styled
def _places(level: Level) -> "Figure":
    """Outer steps with long and short inner loops, beside gradient descent on f_γ."""
    figure = new_figure(5.4, 3.6)
    ax = figure.subplots()
    for steps in (20, 100, _LONG):
        places = _outer_loop(steps, _paths(level), seed_of(level, 75))
        ax.plot(places.mean(axis=0), "o", ms=4, label=f"Entropy-SGD, L = {steps}")
    ax.plot(_descent_of_local_entropy(), color=INK, lw=1.0, ls="--", label=r"descent on $f_\gamma$")
    ax.set(xlabel="outer step", ylabel="w")
    ax.legend()
    return figure


ENTROPY_SGD = Claim(
    name="entropy_sgd",
    statement="Entropy-SGD, inner Langevin steps around w and a step toward their mean, descends on local entropy.",
    formula=r"w'=w-\eta(w-\mu)\to w-\eta\gamma\nabla f_\gamma(w)\quad(L\to\infty)",
    source="Chaudhari et al. (2017), Entropy-SGD",
    hypotheses=("the inner loop is long: its chain reaches the local Gibbs measure", "its steps are small"),
    as_stated="needs_hypothesis",
    holds="in the limit of long inner loops of small steps, with the step ηγ; a short loop takes a part of that step",
    check=_long_loops,
    twin=_short_loops,
    figure=_places,
)

# Parle ----------------------------------------------------------------------------------------------------


def _as_sgd(level: Level, inner: int) -> list[Measurement]:
    """One replica without couplings against `sgd`, on the very batches."""
    neuron = sde.landscapes.get("neuron")
    assert isinstance(neuron, sde.FiniteSum)
    found, start = [], np.array([1.5, 0.5])
    for name, finite_sum in (("neuron on iris", neuron), ("linear regression", regression())):
        settings: dict[str, Any] = dict(batch_size=4, steps=60, seed=seed_of(level, 72))
        batches = sde.sample_indices(finite_sum.samples, **settings)[None]
        place = sde.parle(
            _batch_gradients(finite_sum, batches), start[None], rounds=60 // inner, inner_steps=inner, step=_INNER
        )[0]
        run = sde.sgd(finite_sum, start, learning_rate=_INNER, threads=1, **settings)
        end = np.array([run[v].values[0] for v in finite_sum.variables])
        what = f"distance from the start after 60 steps, {name}, n = 1, γ = ρ = 0, L = {inner}"
        found.append(exact(what, float(np.linalg.norm(place - start)), float(np.linalg.norm(end - start)), 1e-9))
    return found


_CURVATURES = 0.5, 2.0


def _contraction(elastic: float, inner: int, tether: float, along: int) -> float:
    """By how much ten full-batch rounds of three replicas shrink their differences, along a variable of curvature h."""
    flat = sde.FiniteSum(("x", "y"), f"({_CURVATURES[0]}*x**2 + {_CURVATURES[1]}*y**2)/2 + s*x", {"s": [-1.0, 1.0]})
    start = np.array([[1.0, 0.4], [0.4, -1.0], [1.6, 0.3]])
    end = sde.parle(
        lambda y, _: flat.gradient(y), start, rounds=10, inner_steps=inner, step=_INNER, tether=tether, elastic=elastic,
        keep=_KEEP,
    )  # fmt: skip
    return float((end[2] - end[1])[along] / (start[2] - start[1])[along])


def _as_entropy_sgd(elastic: float) -> list[Measurement]:
    """With ρ = 0 the replicas are Entropy-SGD each, in closed form."""
    found, inner, tether = [], 8, 2.0
    weights = (1 - _KEEP) * _KEEP ** np.arange(inner)[::-1]
    weights[0] /= 1 - _KEEP
    for along, h in enumerate(_CURVATURES):
        decay = weights @ (1 - _INNER * (h + tether)) ** np.arange(1, inner + 1)
        expected = float((tether + h * decay) / (h + tether)) ** 10
        what = f"shrinking of differences in ten rounds, h = {h:g}, L = 8, γ = 2, ρ = {elastic:g}"
        found.append(exact(what, _contraction(elastic, inner, tether, along), expected))
    return found


def _as_elastic_sgd(level: Level, inner: int) -> list[Measurement]:
    """With L = 1 and γ = 0 the replicas are Elastic-SGD: shrinking, and stationary variances."""
    found, elastic, count = [], 1.5, min(level.count(80_000), 200_000) // (1 if inner == 1 else 4)
    for along, h in enumerate(_CURVATURES):
        what = f"shrinking of differences in ten rounds, h = {h:g}, γ = 0, ρ = {elastic}, L = {inner}"
        expected = (1 - _INNER * (h + elastic)) ** 10
        found.append(exact(what, _contraction(elastic, inner, 0.0, along), expected))
    kicked = sde.FiniteSum("x", "x**2/2 + s*x", {"s": [-1.0, 0.2, 0.8, 0.0]})
    noise, rounds = kicked.diffusion([0.0]), 45
    draws = np.random.default_rng(seed_of(level, 74, inner)).integers(0, 4, (3, count, rounds * inner, 1), np.int8)
    ends = sde.parle(
        _batch_gradients(kicked, draws), np.zeros((3, count, 1)), rounds=rounds, inner_steps=inner, step=_INNER,
        elastic=elastic, keep=_KEEP,
    )[..., 0]  # fmt: skip
    for words, values, curvature, size in (
        ("the mean of three", ends.mean(axis=0), 1.0, 1 / 3),
        ("a difference of two", ends[0] - ends[1], 1.0 + elastic, 2.0),
    ):
        law = sde.DiscreteSGD([[curvature]], size * noise, _INNER, 1)
        what = f"variance of {words} after {rounds} rounds, γ = 0, ρ = {elastic}, L = {inner}"
        found.append(sampled(what, values**2, float(law.covariance[0, 0])))
    return found


def _special_cases(level: Level) -> list[Measurement]:
    """Parle's recursion in full. One replica, L = 1, γ = ρ = 0: its place after 60 steps is that of `sgd` on the very
    same batches. ρ = 0: differences of replicas shrink on a quadratic as those of Entropy-SGD, in closed form. L = 1,
    γ = 0: they shrink by 1 − η(h + ρ), and the stationary variances are those of SGD with curvature h and noise D/n for
    the mean of n, with h + ρ and 2D for a difference (200 thousand ensembles at most, for their batches). After 45
    rounds what is left of the start is 0.9⁹⁰."""
    return [*_as_sgd(level, 1), *_as_entropy_sgd(0.0), *_as_elastic_sgd(level, 1)]


def _general_case(level: Level) -> list[Measurement]:
    """The same with L = 2 in place of 1, with ρ = 1 in place of 0, and with L = 8 in place of 1."""
    return [*_as_sgd(level, 2), *_as_entropy_sgd(1.0), *_as_elastic_sgd(level, 8)]


PARLE = Claim(
    name="parle",
    statement="Parle contains SGD (n = 1, L = 1, γ = ρ = 0), Entropy-SGD (ρ = 0) and Elastic-SGD (L = 1, γ = 0).",
    formula=r"y'=y-\eta(g_B(y)+\gamma(y-x)),\quad x'=\langle y\rangle_L-\eta\rho(x-\bar x)",
    source="Chaudhari et al. (2017), Parle",
    hypotheses=("γ and ρ are the strengths of the couplings; the running mean starts with the first inner step",),
    as_stated="holds",
    holds="exactly so, step by step",
    check=_special_cases,
    twin=_general_case,
)
