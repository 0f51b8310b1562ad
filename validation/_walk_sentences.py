"""What the source of the walk says, sentence by sentence, and the effect of each: one number per seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from ._sentences import Answer, asked
from ._walk_floors import Joined, joined
from ._walk_runs import NOISES, epoch_of
from ._walk_segments import Segments, segments

_SOURCE = "Xing et al. (2018), {}"
ASKED = "asked here, after Xing et al. (2018)"  # measured by the source; the wording is not its own
_MORE, _LESS, _INF = (0.0, np.inf), (-np.inf, 0.0), np.inf


def of_epoch(run: xr.Dataset, which: int) -> tuple[int, Segments]:
    """The which-th recorded epoch of a run, and its segments."""
    epochs = epoch_of(run)
    epoch = int(np.unique(epochs)[which])
    return epoch, segments(run["segment_loss"].values[epochs == epoch])


def height(run: xr.Dataset, which: int) -> float:
    """Mean height in a recorded epoch."""
    return float(of_epoch(run, which)[1].height.mean())


def late(run: xr.Dataset, name: str) -> float:
    """The last value of a recorded quantity."""
    return float(np.ravel(run[name].values[-1])[0])


def at(run: xr.Dataset, name: str, step: float) -> float:
    """A recorded quantity at a step, between records on a straight line."""
    return float(np.interp(step, run[f"{name}_step"].values, run[name].values))


def cosine(run: xr.Dataset, first: float = 0.5) -> float:
    """E[g·g']/√(E|g|²E|g'|²) over the part of a run after a share `first` of it."""
    values = run["gradient_products"].values
    product, one, two = values[int(first * len(values)) :].mean(0)
    return float(product / np.sqrt(one * two))


def finished(runs: Mapping, name: str, *kinds: str) -> list[tuple]:
    """Of each seed the runs of these kinds, where none of them diverged."""
    several = zip(*(runs.get((name, kind), []) for kind in kinds))
    return [found for found in several if not any("diverged" in run.attrs for run in found)]


def sentences_of(
    config: Mapping[str, Any], runs: Mapping, rest: Sequence[xr.Dataset], factors: Sequence[float]
) -> list[Answer | str]:
    """All sentences, of the seeds whose runs did not diverge, and as text those without an effect; fully connected
    network first, then those of images.
    """
    found: list[Answer | str] = []
    for name in config["networks"]:
        found += _segments_of(runs, name) + _floors_of(config, runs, name)
    if "mlp" in config["networks"]:
        found += _walls(config, runs, factors) + _descent(runs) + _schedules(runs)
        found += _noise(runs) if config["noise"] else []
    return found + _rest(rest)


def _answer(section: str, content: str, effect, holds, measure: str, **more) -> list[Answer | str]:
    return [asked(_SOURCE.format(section) if section else ASKED, content, effect, holds, measure, **more)]


def _of_shares(found: Sequence[Segments | Joined]) -> float:
    """3/n of all n segments: with 95 % the share of what was seen in none of them is below that."""
    return 3.0 / max(1, sum(one.barrier.size for one in found))


def _segments_of(runs: Mapping, name: str) -> list[Answer | str]:
    pairs = finished(runs, name, "sgd", "half")
    last = [of_epoch(one, -1)[1] for one, _ in pairs]
    first = [of_epoch(one, 0)[1] for one, _ in pairs]
    barrier = [float(s.barrier.mean()) for s in last]
    growth = [b - float(s.barrier.mean()) for b, s in zip(barrier, first)]
    lower = [np.log(s.height.mean() / f.height.mean()) for s, f in zip(last, first)]
    ratio = {which: [np.log(height(one, which) / height(two, which)) for one, two in pairs] for which in (0, -1)}
    grain = _of_shares(last)
    late_only = "the epoch is the last recorded one, not the first"
    early_only = "the epoch is the first recorded one, not the last"
    return [
        *_answer("abstract", f"{name}: for most steps the loss has a minimum, the floor, between two iterates",
                 [float(s.interior.mean()) for s in last], (0.5, _INF), "share of steps with a floor inside",
                 condition=late_only, otherwise=[float(s.interior.mean()) for s in first], resolution=grain),
        *_answer("table of barriers", f"{name}: at most a tenth of the steps of SGD cross a barrier (published: at "
                 "most 23 in an epoch)", barrier, (-_INF, 0.1), "share of steps with a barrier, last recorded epoch",
                 resolution=grain),
        *_answer("table of barriers", f"{name}: barriers are crossed more often late in training", growth, _MORE,
                 "share of steps with a barrier, last less first recorded epoch", resolution=grain),
        *_answer("table of heights", f"{name}: the height above the floor falls during training", lower, _LESS,
                 "ln(height of the last recorded epoch over the first)"),
        *_answer("table of heights", f"{name}: a larger learning rate moves higher above the floor", ratio[0], _MORE,
                 "ln(height at η over height at η/2)", condition=early_only, otherwise=ratio[-1]),
        *_answer("table of heights, over η²", f"{name}: in the first epoch the height grows faster than the η² of the "
                 "length of a step (published: ln of the ratio 1.8 and 1.5)", ratio[0], (np.log(4.0), _INF),
                 "ln(height at η over height at η/2), first recorded epoch; ln 4 = 1.386 is η²"),
    ]  # fmt: skip


def _floors_of(config: Mapping[str, Any], runs: Mapping, name: str) -> list[Answer | str]:
    """The floor of the valley: barriers on the straight ways from floor to floor, and the iterates above them."""
    several = [joined(run["floor_loss"].values) for (run,) in finished(runs, name, "sgd")]
    share = [float(found.barrier.mean()) for found in several]
    less = [s - float(found.above.mean()) for s, found in zip(share, several)]
    crossed = [np.log(found.height.mean() / found.rise[found.barrier].mean()) if found.barrier.any() else np.nan
               for found in several]  # fmt: skip
    grain = _of_shares(several)
    apart = "an epoch" if config["floor_epochs"] == 1 else f"{config['floor_epochs']} epochs"
    return [
        *_answer("abstract", f"{name}: the floor of the valley has barriers (here: more than a tenth of the straight "
                 f"ways from floor to floor, {apart} apart, cross one)", share, (0.1, _INF),
                 "share of segments from floor to floor with a barrier", resolution=grain),
        *_answer("abstract", f"{name}: above the floor the iterates do not meet its barriers", less, _MORE,
                 f"share of segments with a barrier, floor to floor less iterate to iterate, {apart} apart",
                 resolution=grain),
        *_answer("abstract", f"{name}: the iterates are higher above the floor than its barriers are", crossed, _MORE,
                 "ln(mean height above the floor over the mean barrier where there is one)"),
    ]  # fmt: skip


def _walls(config: Mapping[str, Any], runs: Mapping, factors: Sequence[float]) -> list[Answer | str]:
    sizes = sorted({config["batch_size"], *config["batch_sizes"]})
    kind = {size: "sgd" if size == config["batch_size"] else f"batch-{size}" for size in sizes}
    small_large = finished(runs, "mlp", kind[sizes[0]], kind[sizes[-1]]) if len(sizes) > 1 else []
    slow_fast = finished(runs, "mlp", f"rate-{min(factors):g}", f"rate-{max(factors):g}")
    apart = [np.log(late(small, "distance") / late(large, "distance")) for small, large in small_large]
    clock = [np.log(at(small, "distance", large.attrs["steps"]) / late(large, "distance"))
             for small, large in small_large]  # fmt: skip
    farther = [np.log(late(fast, "distance") / late(slow, "distance")) for slow, fast in slow_fast]
    by_rate = [np.log(height(fast, -1) / height(slow, -1)) / np.log(max(factors) / min(factors))
               for slow, fast in slow_fast]  # fmt: skip
    by_size = [np.log(height(small, -1) / height(large, -1)) / np.log(sizes[-1] / sizes[0])
               for small, large in small_large]  # fmt: skip
    return [
        *_answer("abstract", "smaller batches carry the weights farther from the start", apart, _MORE,
                 f"ln(|w − w₀| at b = {sizes[0]} over that at b = {sizes[-1]})",
                 condition="compared after equal epochs, not after equal steps", otherwise=clock),
        *_answer("abstract", "larger learning rates carry the weights farther from the start", farther, _MORE,
                 f"ln(|w − w₀| at {max(factors):g}η over that at {min(factors):g}η)"),
        *_answer("abstract", "a large learning rate keeps the iterates high above the floor", by_rate, _MORE,
                 "d ln height/d ln η, last recorded epoch"),
        *_answer("", "the batch size matters less to the height than the learning rate does",
                 [abs(rate) - abs(size) for rate, size in zip(by_rate, by_size)], _MORE,
                 "|d ln height/d ln η| less |d ln height/d ln b|, last recorded epoch"),
    ]  # fmt: skip


def _descent(runs: Mapping) -> list[Answer | str]:
    plain, ninefold = finished(runs, "mlp", "sgd", "gd"), finished(runs, "mlp", "sgd", "gd-ninefold")

    def farther(pairs) -> list[float]:
        return [np.log(late(sgd, "distance") / late(gd, "distance")) for sgd, gd in pairs]

    def flatter(pairs) -> list[float]:
        tops = [(late(sgd, "hessian_eigenvalues"), late(gd, "hessian_eigenvalues")) for sgd, gd in pairs]
        return [np.log(other / own) if min(own, other) > 0 else np.nan for own, other in tops]

    def better(pairs) -> list[float]:
        return [late(sgd, "test_accuracy") - late(gd, "test_accuracy") for sgd, gd in pairs]

    along = [_rank_correlation(sgd["hessian_eigenvalues"].values[1:, 0],
                               [at(sgd, "test_accuracy", n) for n in sgd["hessian_eigenvalues_step"].values[1:]])
             for sgd, _ in plain]  # fmt: skip
    found = [
        *_answer("abstract: bouncing off walls", "consecutive gradients of SGD point against each other",
                 [cosine(sgd) for sgd, _ in plain], _LESS, "E[g·g']/√(E|g|²E|g'|²), second half of the run"),
        *_answer("", "so do those of gradient descent at the ninefold step", [cosine(gd) for _, gd in ninefold], _LESS,
                 "E[g·g']/√(E|g|²E|g'|²), second half of the run"),
        *_answer("abstract", "along a run, a flatter place goes with a higher test accuracy", along, _LESS,
                 "rank correlation of λ_max and test accuracy along SGD", resolution=_of_ranks(plain)),
    ]  # fmt: skip
    against = "abstract; against full batches"
    for step, pairs in (("its own step", plain), ("the ninefold step", ninefold)):
        found += [
            *_answer(against, f"SGD travels farther from its start than gradient descent at {step}", farther(pairs),
                     _MORE, "ln(|w − w₀| of SGD over that of gradient descent), equal steps"),
            *_answer(against, f"SGD ends in a flatter place than gradient descent at {step}", flatter(pairs), _MORE,
                     "ln(λ_max of gradient descent over that of SGD), equal steps"),
            *_answer(against, f"SGD generalises better than gradient descent at {step}", better(pairs), _MORE,
                     "test accuracy of SGD less that of gradient descent", resolution=_of_accuracy(pairs)),
        ]  # fmt: skip
    return found


def _of_accuracy(found: Sequence[tuple]) -> float:
    """One sample of the test set."""
    return 1.0 / found[0][0].attrs["test_samples"] if found else 0.0


def _noise(runs: Mapping) -> list[Answer | str]:
    found = []
    for reading, kind in NOISES.items():
        triples = finished(runs, "mlp", "sgd", kind, f"{kind}-sgd")
        scale = f"isotropic noise, the scale read as a {reading}"
        grain = _of_accuracy(triples)
        found += [
            *_answer("", f"gradient descent with {scale}, generalises worse than SGD",
                     [at(sgd, "test_accuracy", noisy.attrs["steps"]) - late(noisy, "test_accuracy")
                      for sgd, noisy, _ in triples], _MORE, "test accuracy of SGD less that with noise, equal steps",
                     resolution=grain),
            *_answer("", f"{scale}: the norm of the weights grows beyond that of SGD",
                     [np.log(late(noisy, "norm") / at(sgd, "norm", noisy.attrs["steps"])) for sgd, noisy, _ in triples],
                     _MORE, "ln(|w| with noise over |w| of SGD), equal steps"),
            *_answer("", f"{scale}: switched back to SGD, the run does not make up for it",
                     [late(sgd, "test_accuracy") - late(after, "test_accuracy") for sgd, _, after in triples], _MORE,
                     "test accuracy of SGD throughout less that of noise, then SGD", resolution=grain),
        ]  # fmt: skip
    return found


def _schedules(runs: Mapping) -> list[Answer | str]:
    pairs = finished(runs, "mlp", "trapezoid", "step")
    return _answer("", "a trapezoid schedule ends as well as steps down, within a percentage point",
                   [late(one, "test_accuracy") - late(other, "test_accuracy") for one, other in pairs],
                   (-0.01, 0.01), "test accuracy with the trapezoid less that with steps",
                   resolution=_of_accuracy(pairs))  # fmt: skip


def _rest(rest: Sequence[xr.Dataset]) -> list[Answer | str]:
    def apart(name: str) -> list[float]:
        return [float((one[name].isel(batch=0) - one[name].isel(batch=-1)).mean()) for one in rest]

    low = [float(one["ratio"].mean()) for one in rest]
    return [
        *_answer("", "tiny-fc at rest: consecutive gradients point against each other", low, _LESS,
                 "E[g·g']/E|g|², mean over η and b"),
        *_answer("", "tiny-fc: with larger batches consecutive gradients are less opposed", apart("early"), _LESS,
                 "E[g·g']/E|g|² at the smallest b less that at the largest",
                 condition="training begins, not at rest", otherwise=apart("ratio")),
    ]  # fmt: skip


def _rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's, ties by their mean rank; NaN where one does not vary."""
    ranks = [_ranks(np.asarray(values)) for values in (one, other)]
    if len(ranks[0]) < 3 or any(np.ptp(r) == 0 for r in ranks):
        return float("nan")
    x, y = (r - r.mean() for r in ranks)
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


def _of_ranks(pairs: Sequence[tuple]) -> float:
    """12/(k(k² − 1)): by how much Spearman's correlation of k values changes where two neighbours change places."""
    counts = [sgd["hessian_eigenvalues"].shape[0] - 1 for sgd, _ in pairs]
    return max((12.0 / (k * (k**2 - 1)) for k in counts if k > 1), default=0.0)


def _ranks(values: NDArray) -> NDArray[np.float64]:
    return np.array([(values < v).sum() + 0.5 * ((values == v).sum() - 1) for v in values], dtype=float)
