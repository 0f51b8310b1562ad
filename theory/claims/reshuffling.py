"""Claims about epochs: batches of one permutation, and how little of their noise is left at the end of it."""

import itertools
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

import sde_sgd as sde
from sde_sgd.figures._style import new_figure, styled
from sde_sgd.theory.claim import Claim, Level, Measurement, estimated, exact, refined
from sde_sgd.theory.claims._batches import false_alarm, moments, proportional, seed_of, sums

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BLOCKS = 64  # groups of runs, whose scatter gives the error of a variance
_OFFSETS = np.array([-1.3, 0.2, 0.9, 1.6, -0.7, 0.1, -0.8])  # minima of seven parabolas of one curvature


@cache
def _batch_pairs(name: str, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Covariance of the first batch gradient of an epoch, and with the second, over every permutation."""
    loss, point = sums()[name]
    rows = loss.sample_gradients(point)
    orders = np.array(list(itertools.permutations(range(loss.samples))))
    noise = [rows[orders[:, k * batch : (k + 1) * batch]].mean(1) - rows.mean(0) for k in (0, 1)]
    return moments(noise[0])[1], noise[0].T @ noise[1] / len(orders)


def _within_an_epoch(level: Level) -> list[Measurement]:
    """Every permutation of the samples is enumerated. A batch by itself is a subset, yet two batches of one epoch have
    the covariance −D/(N − 1) whatever b, since the offsets of all samples add up to 0.
    """
    found = []
    for name, (loss, point) in sums().items():
        diffusion, others = loss.diffusion(point), loss.samples - 1
        for batch in (1, 2):
            one, two = _batch_pairs(name, batch)
            share = (loss.samples - batch) / (batch * others)
            found.append(proportional(f"Cov(g₁)/D, batches of {batch}, {name}", one, diffusion, share))
            found.append(proportional(f"Cov(g₁, g₂)/D, batches of {batch}, {name}", two, diffusion, -1 / others))
    return found


def _as_if_fresh(level: Level) -> list[Measurement]:
    """The covariance of the same two batches, beside the 0 of fresh subsets."""
    found = []
    for name, (loss, point) in sums().items():
        two = _batch_pairs(name, 1)[1]
        found.append(proportional(f"Cov(g₁, g₂)/D, batches of 1, {name}", two, loss.diffusion(point), 0.0))
    return found


@styled
def _epoch_figure(level: Level) -> "Figure":
    figure = new_figure(5.2, 3.5)
    ax = figure.subplots()
    steps = 50
    for a in (0.3, 1.0, 3.0, 10.0):
        settings: dict[str, Any] = dict(learning_rate=a / steps, batch_size=1, samples=steps)
        fresh = sde.DiscreteSGD(1.0, 1.0, **settings).covariance[0, 0]
        law = sde.DiscreteSGD(1.0, 1.0, sampling="reshuffling", **settings)
        phases = np.arange(2 * steps + 1)
        ratios = [law.phase_covariance(int(k % steps))[0, 0] / fresh for k in phases]
        ax.plot(phases / steps, ratios, label=f"a = {a:g}")
    ax.axhline(1.0, color="C6", ls="--", lw=0.8)
    ax.set(xlabel="epochs", ylabel="stationary variance / that of fresh draws", ylim=(0, 1.3))
    ax.legend(title="a = ηhN/b, 50 steps an epoch", ncols=4, loc="upper center", fontsize=8)
    return figure


EPOCH_BATCHES = Claim(
    name="epoch_batches",
    statement="Batches taken from a permutation of the data are draws without replacement, at one temperature.",
    formula=r"\operatorname{Cov}(g_s,g_t)=0\quad(s\neq t)",
    source="folklore",
    as_stated="fails",
    holds=(
        "each batch has the covariance of a subset, but two of one epoch are anti-correlated, Cov = −D/(N − 1), and "
        "the noise of an epoch adds up to 0: there is no temperature"
    ),
    check=_within_an_epoch,
    twin=_as_if_fresh,
    figure=_epoch_figure,
)


def _mean_ratio(a):
    """Time-averaged stationary variance over that of fresh draws, for many small steps: a = ηhN/b."""
    return 1 - 2 / a * (1 - -np.expm1(-a) / a)


def _end_ratio(a):
    """The same at the ends of epochs."""
    return 1 - np.tanh(a / 2) / (a / 2)


def _ratios(a, steps: int, mode: int = 0) -> tuple[float, float]:
    """(time-averaged, at the ends of epochs) over fresh draws, exact for epochs of `steps` single samples.

    In 2-D, H = diag(1, 3) rotated by one radian and a D that does not commute with it, along the eigenvector `mode`.
    """
    axes = np.array([[np.cos(1), -np.sin(1)], [np.sin(1), np.cos(1)]])
    curvature = np.diag([1.0, 3.0]) / (1, 3)[mode]
    settings: dict[str, Any] = dict(learning_rate=a / steps, batch_size=1, samples=steps)
    args = axes @ curvature @ axes.T, np.array([[1, 0.5], [0.5, 2]])
    fresh = sde.DiscreteSGD(*args, sampling="with_replacement", **settings)
    epochs = sde.DiscreteSGD(*args, sampling="reshuffling", **settings)
    u = axes[:, mode]
    mean, end, one = (float(u @ s @ u) for s in (epochs.covariance, epochs.phase_covariance(0), fresh.covariance))
    return mean / one, end / one


def _every_permutation(a: float) -> tuple[float, float]:
    """Variance (time-averaged, at the ends of epochs) for seven parabolas (x − c_k)²/2 with b = 1, by enumeration."""
    orders = _OFFSETS[np.array(list(itertools.permutations(range(len(_OFFSETS)))))]
    steps, eta = len(_OFFSETS), a / len(_OFFSETS)
    noise, spread = np.zeros(len(orders)), np.zeros(steps)
    for k in range(steps):
        noise = (1 - eta) * noise + eta * (orders[:, k] - _OFFSETS.mean())
        spread[k] = noise.var()
    start = spread[-1] / (1 - (1 - eta) ** (2 * steps))  # the start is independent of the epoch
    after = (1 - eta) ** (2 * np.arange(1, steps + 1)) * start + spread
    return float(after.mean()), float(start)


def _samples(dim: int) -> tuple[sde.FiniteSum, np.ndarray]:
    """Sixty parabolas (x − p)²/2, or (x − p)²/2 + 2(y − r)² with p and r correlated, and the curvatures."""
    centres = np.random.default_rng(5).normal(size=(60, dim)) @ np.array([[1.0, 0.4], [0.4, 0.6]])[:dim, :dim]
    centres -= centres.mean(0)
    data = dict(zip("pr", centres.T))
    if dim == 1:
        return sde.FiniteSum(("x",), "(x - p)**2/2", data, name="parabola"), np.ones(1)
    return sde.FiniteSum(("x", "y"), "(x - p)**2/2 + 2*(y - r)**2", data, name="ellipse"), np.array([1.0, 4.0])


@cache
def _drawn(level: Level, dim: int) -> list[tuple[float, float, float, float]]:
    """(a, ratio, its standard error, exact ratio) of the variance along each axis in SGD to that of fresh draws."""
    loss, curvatures = _samples(dim)
    origin, eta, batch, epoch = np.zeros(dim), 0.05, 3, 20
    run = sde.sgd(
        loss, origin, learning_rate=eta, batch_size=batch, steps=60 * epoch, replicas=level.count(640), save_every=0,
        sampling="reshuffling", observables=sde.Moments(burn_in=10 * epoch, blocks=_BLOCKS), threads=1,
        seed=seed_of(level, 3, dim),
    )  # fmt: skip
    law = np.diag(curvatures), loss.diffusion(origin), eta, batch
    fresh = sde.DiscreteSGD(*law).covariance.diagonal()
    exactly = sde.DiscreteSGD(*law, samples=60, sampling="reshuffling").covariance.diagonal() / fresh
    found, errors = (np.diag(run[name].values) / fresh for name in ("covariance", "covariance_error"))
    return list(zip(eta * curvatures * epoch, found, errors, exactly))


def _less_variance(level: Level) -> list[Measurement]:
    """Three ways that meet. All 5040 orders of seven parabolas are enumerated through an epoch, beside the exact law of
    `DiscreteSGD`. That law, in a plane where H and D do not commute, is taken at two lengths of the epoch, 400 steps
    and twice that at the fast level, and extrapolated to many small steps, where the formulas hold. The recursion
    itself runs on 60 samples in batches of 3, in one and in two variables, beside the exact law at its own η, b and N.
    """
    found = []
    for a in (0.5, 2.0):
        law = sde.DiscreteSGD(1.0, _OFFSETS.var(), a / 7, 1, samples=7, sampling="reshuffling")
        mean, end = _every_permutation(a)
        found.append(exact(f"mean variance over every order of 7 samples, a = {a:g}", mean, law.covariance[0, 0]))
        found.append(exact(f"variance at the ends of epochs, a = {a:g}", end, law.phase_covariance(0)[0, 0]))
    found += _against(level, lambda a: (_mean_ratio(a), _end_ratio(a)))
    for dim in (1, 2):
        for a, ratio, error, exactly in _drawn(level, dim):
            found.append(_run_ratio(a, dim, ratio, error, exactly))
    return found


def _run_ratio(a: float, dim: int, ratio: float, error: float, expected: float) -> Measurement:
    what = f"variance ratio in sde.sgd, a = {a:g}, {dim}-D"
    return estimated(what, ratio, error, expected, false_alarm=false_alarm(_BLOCKS))


def _against(level: Level, formulas) -> list[Measurement]:
    """Variance ratios of the exact law in the limit of many small steps, beside the two `formulas` of a = ηhN/b."""
    found, steps = [], level.cells(400, 1)
    for a, mode in ((0.1, 0), (0.5, 0), (2.0, 1), (6.0, 0)):
        coarse, fine = _ratios(a, steps, mode), _ratios(a, 2 * steps, mode)
        for place, what in enumerate(("mean", "epoch-end")):
            label = f"{what} variance over that of fresh draws, a = {a:g}, in the plane"
            found.append(refined(label, coarse[place], fine[place], formulas(a)[place], order=1))
    return found


def _same_variance(level: Level) -> list[Measurement]:
    """The ratio is taken to be 1, that of fresh subsets as N/b grows; in SGD on 60 samples it is 57/59."""
    found = _against(level, lambda a: (1.0, 1.0))
    for dim in (1, 2):
        for a, ratio, error, _ in _drawn(level, dim):
            found.append(_run_ratio(a, dim, ratio, error, 57 / 59))
    return found


@styled
def _ratio_figure(level: Level) -> "Figure":
    figure = new_figure(5.2, 3.8)
    ax = figure.subplots()
    a = np.geomspace(0.03, 30, 200)
    ax.loglog(a, _mean_ratio(a), label="mean over an epoch")
    ax.loglog(a, _end_ratio(a), label="at the ends of epochs")
    ax.loglog(a, a / 3, ":", color="C0", label="a/3")
    ax.axhline(1.0, color="C6", lw=0.8, ls="--", label="fresh draws")
    some = np.geomspace(0.05, 15, 9)
    exactly = np.array([_ratios(value, 800) for value in some])
    ax.plot(some, exactly[:, 0], "o", color="C0", ms=4, label="exact law, 800 steps an epoch")
    ax.plot(some, exactly[:, 1], "o", color="C1", ms=4)
    place, ratio, error = np.array([row[:3] for dim in (1, 2) for row in _drawn(level, dim)]).T
    ax.errorbar(place, ratio, error, fmt="s", color="C2", ms=5, capsize=2, label="sde.sgd, 20 steps an epoch")
    ax.set(xlabel="a = ηhN/b", ylabel="stationary variance / that of fresh draws", ylim=(5e-5, 2))
    ax.legend(loc="lower right", fontsize=7.5)
    return figure


RESHUFFLED_VARIANCE = Claim(
    name="reshuffled_variance",
    statement="Training by epochs has the stationary variance of independent batches.",
    formula=r"\frac{S_{\mathrm{epochs}}}{S_{\mathrm{fresh}}}=1",
    source="folklore",
    hypotheses=("a quadratic minimum of curvature h; noise that does not depend on x",),
    as_stated="fails",
    holds=(
        "with a = ηhN/b the ratio is 1 − (2/a)(1 − (1 − e^{−a})/a) on average over an epoch, a/3 in flat directions, "
        "and 1 − tanh(a/2)/(a/2) at the ends of epochs; only a ≫ 1, an epoch longer than the relaxation, gives 1"
    ),
    check=_less_variance,
    twin=_same_variance,
    figure=_ratio_figure,
)
