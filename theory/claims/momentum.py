"""Claims about SGD at rest with momentum: its covariances, and a relation that says whether it is at rest."""

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

import sde_sgd as sde
from sde_sgd.figures._style import MUTED, new_figure, styled
from sde_sgd.theory.claim import Claim, Level, Measurement, exact, refined, sampled
from sde_sgd.theory.claims import _exact_laws as laws
from sde_sgd.theory.claims._batches import finite_sum, ratio_of_means, seed_of, states

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# -- covariances of position and velocity -------------------------------------------------------------------------


@cache
def _line() -> sde.FiniteSum:
    """f_k = (x − c_k)², curvature 2 and a noise that is the same everywhere."""
    return sde.FiniteSum("x", "(x - c)**2", {"c": [-1.0, -0.2, 0.4, 0.8]}, name="line")


def _published(rate: float, momentum: float, curvature: float, noise: float) -> dict[str, float]:
    """Var w, Var v and Cov(w, v) along one direction, `noise` the variance of the batch gradient."""
    bracket = 2 * (1 + momentum) - rate * curvature
    velocity = 2 * noise / ((1 - momentum) * bracket)
    position = rate * (1 + momentum) * noise / ((1 - momentum) * curvature * bracket)
    return {"Var w": position, "Var v": velocity, "Cov(w, v)": -rate / 2 * velocity}


@cache
def _products(level: Level, rate: float, momentum: float, batch: int) -> dict[str, np.ndarray]:
    """w², v² and wv of runs of SGD on the line at rest."""
    run = sde.sgd(_line(), 0.0, learning_rate=rate, momentum=momentum, batch_size=batch, steps=120,
                  replicas=min(level.count(150_000), 4_000_000), seed=seed_of(level, 53))  # fmt: skip # memory
    w, v = run.x.values, run.velocity_x.values
    return {"Var w": w * w, "Var v": v * v, "Cov(w, v)": w * v}


def _naive(rate: float, momentum: float, shape: tuple[int, int]) -> float:
    """S_ij of `offsets` over that of the equation at T/(1 − μ), b = 1."""
    law = sde.DiscreteSGD.from_finite_sum(laws.offsets(), rate, 1, momentum=momentum)
    _, vectors = np.linalg.eigh(law.H)
    ratio = (vectors.T @ law.covariance @ vectors) / (vectors.T @ law.continuous.covariance @ vectors)
    return float(ratio[shape])


def _momentum_covariances(level: Level) -> list[Measurement]:
    """Along one direction the three moments in closed form, beside runs of SGD at ηh = 1, b = 2. In two variables
    with H and D that do not commute, the law of `DiscreteSGD` beside the moments of (w, v) that a step keeps when every
    sample is enumerated. As η → 0 the covariance is that at T/(1 − μ), in every entry."""
    rate, momentum, batch = 0.5, 0.6, 2
    wanted = _published(rate, momentum, 2.0, float(_line().diffusion([0.0]).item()) / batch)
    products = _products(level, rate, momentum, batch)
    found = [
        sampled(f"{name}, one direction, sampled / predicted", products[name] / wanted[name], 1.0) for name in wanted
    ]
    law = sde.DiscreteSGD.from_finite_sum(laws.offsets(), 0.3, 1, momentum=0.8)
    kept = laws.covariance(laws.at_rest(laws.momentum_step(laws.affine(laws.offsets()), 0.3, 0.8)))
    found += [
        exact(f"{what}, two variables, enumerated / closed form", kept[place] / law.joint_covariance[place], 1.0)
        for what, place in (("E[w₁w₂]", (0, 1)), ("E[w₁v₂]", (0, 3)), ("E[v₁v₂]", (2, 3)))
    ]
    small = 0.002 / level.more
    return found + [
        refined(
            f"S{name} over that at T/(1 − μ), μ = 0.8, η → 0",
            _naive(small, 0.8, place),
            _naive(small / 2, 0.8, place),
            1.0,
            order=1,
        )
        for name, place in (("₁₁", (0, 0)), ("₁₂", (0, 1)))
    ]  # fmt: skip


def _effective_rate(level: Level) -> list[Measurement]:
    """As published, at a learning rate that is not small: the variance η/(2b(1 − μ)h) of the line, and the covariance
    of two directions of different curvature, which lose their correlation (η = 0.05, μ = 0.95)."""
    rate, momentum, batch = 0.5, 0.6, 2
    noise = float(_line().diffusion([0.0]).item()) / batch
    products = _products(level, rate, momentum, batch)
    naive = rate * noise / (2 * (1 - momentum) * 2.0)
    return [
        sampled("Var w over that at T/(1 − μ), one direction, sampled", products["Var w"] / naive, 1.0),
        exact("S₁₂ over that at T/(1 − μ), η = 0.05, μ = 0.95, two variables", _naive(0.05, 0.95, (0, 1)), 1.0, 0.01),
    ]


@styled
def _draw_momentum(level: Level) -> "Figure":
    figure = new_figure(5.2, 3.6)
    ax = figure.subplots()
    momenta = 1 - np.geomspace(1.0, 0.005, 60)
    for rate, style in ((0.01, "-"), (0.05, "--"), (0.3, ":")):
        ax.semilogx(
            1 - momenta, [_naive(rate, mu, (0, 1)) for mu in momenta], style, label=f"η = {rate:g}, two directions"
        )
    ax.semilogx(1 - momenta, [_naive(0.3, mu, (1, 1)) for mu in momenta], "-.", label="η = 0.3, one direction")
    ax.axhline(1.0, color=MUTED, lw=0.8, zorder=0)
    ax.invert_xaxis()
    ax.set(xlabel="1 − μ", ylabel="covariance / that at T/(1 − μ)", title="curvatures 0.79 and 2.21")
    ax.legend()
    return figure  # fmt: skip


MOMENTUM_COVARIANCES = Claim(
    name="momentum_covariances",
    statement="At rest SGD with momentum μ samples what SGD without it samples at the learning rate η/(1 − μ): its "
    "temperature is T/(1 − μ).",
    formula=r"\operatorname{Cov}w=S\left(\frac{T}{1-\mu}\right),\quad T=\frac{\eta}{2b}",
    source="Mandt, Hoffman & Blei (2017)",
    hypotheses=("ηh ≪ 1 + μ", "ημ(h_i − h_j)² ≪ (1 − μ)²(h_i + h_j) for every pair of directions"),
    as_stated="needs_hypothesis",
    holds="in the limit of small η. In one direction Var w = η(1 + μ)D/((1 − μ)h(2(1 + μ) − ηh)b), Var v = "
    "2D/((1 − μ)(2(1 + μ) − ηh)b), Cov(w, v) = −(η/2) Var v; directions of different curvature lose their correlation "
    "already where ηh is small",
    check=_momentum_covariances,
    twin=_effective_rate,
    figure=_draw_momentum,
)


# -- the relation of fluctuation and dissipation ------------------------------------------------------------------


_RATE = 0.2  # of the runs of SGD


@cache
def _few_irises() -> sde.FiniteSum:
    """The neuron on every twelfth iris: not quadratic, 13 samples."""
    data = {name: values[::12] for name, values in finite_sum("neuron").data.items()}
    return sde.FiniteSum(("w", "c"), "(tanh(w*x + c) - y)**2/2 + (w**2 + c**2)/40", data, name="few irises")


def _relation(quadratic: sde.FiniteSum, rate: float, batch: int) -> float:
    """E[x·∇f] over (η/2)E|g|² at rest, every batch enumerated."""
    parts = laws.affine(quadratic)
    kept = laws.at_rest(laws.step(parts, rate, batch))
    squares = np.mean([np.trace(part @ kept @ part.T) for part in laws.batches(parts, batch)])
    return float(np.trace(parts.mean(axis=0) @ kept) / (rate / 2 * squares))


def _heavy_relation(quadratic: sde.FiniteSum, rate: float, momentum: float) -> float:
    """E[x·∇f] over (η/2)(1 + μ)E|v|² at rest, every sample enumerated."""
    parts, size = laws.affine(quadratic), quadratic.dim
    kept = laws.at_rest(laws.momentum_step(parts, rate, momentum))
    position = np.trace(parts.mean(axis=0) @ kept[: 1 + size, : 1 + size])
    return float(position / (rate / 2 * (1 + momentum) * np.trace(kept[-size:, -size:])))


def _soft_relation(rate: float, batch: int) -> float:
    """E[x·∇f] over (η/2)E|g|² of `soft` at rest, E|g|² = |∇f|² + D/b."""
    soft, backward = laws.soft(), laws.Backward(laws.soft(), rate, batch)
    points = backward.nodes[:, None]
    slope, noise = soft.gradient(points)[:, 0], soft.diffusion(points)[:, 0, 0] / batch
    work = backward.at_rest(lambda x: x * slope)
    return work / (rate / 2 * backward.at_rest(lambda x: slope**2 + noise))


@cache
def _run(level: Level, momentum: float, sampling: str, name: str) -> np.ndarray:
    """x·∇f, |g|² and |v|² of runs of SGD at rest, averaged over 24 steps of each run; x from its mean."""
    chosen, batch, before = (_few_irises(), 2, 396) if name == "neuron" else (laws.offsets(), 1, 96)
    count = min(level.count(20_000), 800_000)  # memory: all states of 24 steps
    settings: dict[str, Any] = dict(
        learning_rate=_RATE, batch_size=batch, momentum=momentum, sampling=sampling, replicas=count,
        seed=seed_of(level, 54, momentum > 0, sampling == "reshuffling"),
    )  # fmt: skip
    begin = sde.sgd(chosen, np.zeros(2), steps=before, **settings)
    if momentum:
        settings["start_velocity"] = np.stack([begin["velocity_" + v].values for v in chosen.variables], -1)
    run = sde.sgd(chosen, states(begin, chosen), steps=25, first_step=before, save_every=1, **settings)
    x = states(run, chosen)  # (run, step, variable)
    center, found = x.mean(axis=(0, 1)), np.zeros((3, count))
    for step in range(1, 25):
        before, now, after = x[:, step - 1 : step + 2].swapaxes(0, 1)
        velocity = (now - after) / _RATE
        gradient = velocity - momentum * (before - now) / _RATE
        found += [
            ((now - center) * chosen.gradient(now)).sum(-1),
            (gradient**2).sum(-1),
            (velocity**2).sum(-1),
        ]
    return found / 24


def _at_rest(level: Level) -> list[Measurement]:
    """E[x·∇f] over (η/2)E|g|², and with momentum over (η/2)(1 + μ)E|v|². Linear regression and a sum that is not
    quadratic: every batch enumerated. A neuron on 13 irises: runs of SGD, averaged after 400 steps."""
    plain = _run(level, 0.0, "with_replacement", "neuron")
    heavy = _run(level, 0.7, "with_replacement", "neuron")
    return [
        exact("E[x·∇f] / (η/2)E|g|², regression, η = 0.6, enumerated", _relation(laws.regression(), 0.6, 2), 1.0),
        exact("E[x·∇f] / (η/2)E|g|², log cosh, η = 0.3, enumerated", _soft_relation(0.3, 2), 1.0),
        ratio_of_means("E[x·∇f] / (η/2)E|g|², neuron, η = 0.2, b = 2, sampled", plain[0], 0.1 * plain[1]),
        exact("E[x·∇f] / (η/2)(1+μ)E|v|², regression, μ = 0.8", _heavy_relation(laws.regression(), 0.2, 0.8), 1.0),
        ratio_of_means("E[x·∇f] / (η/2)(1+μ)E|v|², neuron, μ = 0.7, sampled", heavy[0], 0.1 * 1.7 * heavy[2]),
    ]  # fmt: skip


def _not_by_this_relation(level: Level) -> list[Measurement]:
    """Samples reshuffled every epoch, so that x and the batch are not independent; and momentum, with the relation of
    plain SGD. Both are at rest and miss it."""
    epochs = _run(level, 0.0, "reshuffling", "offsets")
    heavy = _run(level, 0.7, "with_replacement", "neuron")
    return [
        ratio_of_means("E[x·∇f] / (η/2)E|g|², quadratic, reshuffled, sampled", epochs[0], 0.1 * epochs[1]),
        ratio_of_means("E[x·∇f] / (η/2)E|g|², neuron, μ = 0.7, sampled", heavy[0], 0.1 * heavy[1]),
    ]


@styled
def _draw_relation(level: Level) -> "Figure":
    figure = new_figure(5.0, 3.6)
    ax = figure.subplots()
    parts, rate, batch = laws.affine(laws.regression()), 0.4, 2
    move, drawn = laws.step(parts, rate, batch), laws.batches(parts, batch)
    best = sde.DiscreteSGD.from_finite_sum(laws.regression(), rate, batch).center
    z = np.array([1.0, 2.0, -2.0])
    kept, work, squares = np.kron(z, z), [], []
    for _ in range(60):
        moments = kept.reshape(3, 3)
        center = moments - np.outer(moments[:, 0], [0.0, *best])  # x·∇f with x from x*
        work.append(np.trace(parts.mean(axis=0) @ center))
        squares.append(rate / 2 * np.mean([np.trace(part @ moments @ part.T) for part in drawn]))
        kept = move @ kept
    ax.semilogy(work, label="E[x·∇f]")
    ax.semilogy(squares, "--", label="(η/2)E|g|²")
    ax.set(xlabel="step", title="linear regression, η = 0.4, b = 2: equal at rest")
    ax.legend()
    return figure


FLUCTUATION_DISSIPATION = Claim(
    name="fluctuation_dissipation",
    statement="At rest E[x·∇f] = (η/2)E|g|², g the batch gradient: for any loss, and so a test of being at rest.",
    formula=r"\mathbb{E}[x\cdot\nabla f]=\frac{\eta}{2}\,\mathbb{E}|g|^2",
    source="Yaida (2019)",
    hypotheses=("the law is stationary, with second moments", "fresh batches in every step", "no momentum"),
    as_stated="holds",
    holds="as stated; with momentum (η/2)(1 + μ)E|v|² stands on the right, and with reshuffling, where E[x·∇f] is not "
    "E[x·g], it is no test of being at rest",
    check=_at_rest,
    twin=_not_by_this_relation,
    figure=_draw_relation,
)
