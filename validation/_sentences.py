"""What a source says, answered by the figures: an effect per seed, its interval, and where that lies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sde_sgd import _checks
from sde_sgd.report import number

from ._numbers import from_zero

if TYPE_CHECKING:
    import xarray as xr

    from sde_sgd.report import Section
    from sde_sgd.study import Study

Effect = Sequence[float] | NDArray[np.float64]  # one number per seed
VERDICTS = ("seen", "not seen", "seen only when", "undecided")
GROUP = "/sentences"
_COLUMNS = ("no.", "source", "what it says", "answer", "effect", "mean", "95 % interval", "seeds")


class Interval(NamedTuple):
    """A mean over seeds with the 95 % interval of Student's t; endless for one seed."""

    mean: float
    low: float
    high: float


def student(effect: Effect) -> Interval:
    """x̄ ± t_{0.975, n−1} s/√n of n ≥ 1 independent values, s² with n − 1. Of no width where all values are equal:
    then n equal values are all that is known.
    """
    values = _checks.finite_array("effect", effect)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"effect must be one number per seed, at least one, got shape {values.shape}")
    mean = float(values.mean())
    if len(values) == 1:
        return Interval(mean, -np.inf, np.inf)
    from scipy.special import stdtrit

    half = float(stdtrit(len(values) - 1, 0.975) * values.std(ddof=1) / np.sqrt(len(values)))
    half = 0.0 if np.ptp(values) == 0 else half  # the mean of equal numbers may round
    return Interval(mean if half else float(values[0]), mean - half if half else float(values[0]),
                    mean + half if half else float(values[0]))  # fmt: skip


def shown(values: Iterable[float], missing: str = "–", resolution: float = 0.0) -> str:
    """Mean ± half of the 95 % interval over seeds, at least `resolution`, to four digits; `missing` where a value is
    not finite.
    """
    given = np.array(list(values), dtype=float)
    if not np.isfinite(given).all():
        return missing
    mean, low, _ = student(given)
    return f"{number(mean)} ± {number(max(mean - low, resolution))}"


@dataclass(frozen=True)
class Answer:
    """A sentence of a source and the effect that decides on it; `verdict` follows from the 95 % interval of the effect.

    Parameters
    ----------
    source : with its section, as "Xing et al. (2018), §3.1".   content : the sentence, in our words.
    effect : one number per seed.   measure : what the numbers are, as "height at η over height at η/2".
    holds : bounds (low, high) between which the effect makes the sentence true. They are excluded: (0, inf) is
        "more than 0"; equal ones, (c, c), are "exactly c". Or a function of the interval (low, high) that gives True
        (seen), False (not seen) or None (undecided).
    condition : where the effect was measured, as "η ≤ 0.05"; then `otherwise` is the effect elsewhere, per seed.
    resolution : what the measurement cannot tell apart, as 3/n of a share of n steps, all seeds together (none in n is
        found with 5 % where the share is 3/n); intervals reach at least as far to either side of the mean.

    Verdicts: "seen" where the whole interval lies inside the bounds, "not seen" where all of it lies outside, else
    "undecided". With a condition: "seen only when" if it is seen there and not seen otherwise, "seen" if in both,
    "not seen" if in neither or only where the condition is not met, else "undecided".
    ValueError for values that are not finite and for a condition without `otherwise`, on which "only" would rest.
    """

    source: str
    content: str
    effect: Effect
    holds: tuple[float, float] | Callable[[float, float], bool | None]
    condition: str = ""
    measure: str = ""
    otherwise: Effect | None = None
    resolution: float = 0.0

    def __post_init__(self):
        for name in ("source", "content"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name).strip():
                raise ValueError(f"the {name} of a sentence must be text, got {getattr(self, name)!r}")
        if bool(self.condition) != (self.otherwise is not None):
            raise ValueError(
                f"{self.content!r}: a condition and the effect where it is not met, otherwise=, go together: without "
                "the second nothing says 'only'"
            )
        if not callable(self.holds):
            low, high = _checks.sequence("holds", self.holds, 2, "bounds")
            if not low <= high:
                raise ValueError(f"{self.content!r}: holds must be (low, high) with low ≤ high, got ({low}, {high})")
        object.__setattr__(self, "resolution", from_zero("resolution", self.resolution))
        object.__setattr__(self, "effect", tuple(map(float, np.atleast_1d(np.asarray(self.effect, float)))))
        if self.otherwise is not None:
            object.__setattr__(self, "otherwise", tuple(map(float, np.atleast_1d(np.asarray(self.otherwise, float)))))
        for effect in (self.effect, self.otherwise):
            if effect is not None:
                try:
                    student(effect)
                except ValueError as fault:
                    raise ValueError(f"{self.content!r}: {fault}") from None

    @property
    def interval(self) -> Interval:
        return self._interval(self.effect)

    @property
    def verdict(self) -> str:
        here = self._inside(self.effect)
        if self.otherwise is None:
            return "undecided" if here is None else "seen" if here else "not seen"
        there = self._inside(self.otherwise)
        if here is False:
            return "not seen"
        if here is None or there is None:
            return "undecided"
        return "seen" if there else "seen only when"

    def _interval(self, effect: Effect) -> Interval:
        mean, low, high = student(effect)
        return Interval(mean, min(low, mean - self.resolution), max(high, mean + self.resolution))

    def _inside(self, effect: Effect) -> bool | None:
        _, low, high = self._interval(effect)
        if callable(self.holds):
            found = self.holds(low, high)
            return None if found is None else bool(found)
        bottom, top = self.holds
        if bottom == top:
            return True if low == high == bottom else False if not low <= bottom <= high else None
        if bottom < low and high < top:
            return True
        return False if high <= bottom or low >= top else None


def asked(
    source: str, content: str, effect: Iterable[float], holds, measure: str, otherwise: Iterable[float] | None = None,
    **more: Any,
) -> Answer | str:  # fmt: skip
    """The answer; where a seed does not have the effect, the sentence and how many seeds have it.

    NaN and ∞ stand for an effect that a seed does not have; no seed at all, where no run was finished.
    """
    values = np.array(list(effect), dtype=float)
    if not len(values):
        return f"“{content}” (no finished run)"
    there = np.isfinite(values)
    if otherwise is not None:
        otherwise = np.array(list(otherwise), dtype=float)
        there &= np.isfinite(otherwise)
    if not there.all():
        return f"“{content}” ({there.sum()} of {len(values)} seeds)"
    return Answer(source, content, values, holds, measure=measure, otherwise=otherwise, **more)


def sentences_section(
    study: Study, answers: Iterable[Answer | str], heading: str = "What the source says"
) -> Section:  # fmt: skip
    """A section with the table of sentences; all of them so far also become the group "sentences" of the result.

    Those that `asked` could not answer are named below the table.
    """
    given = list(answers)
    left = [one for one in given if isinstance(one, str)]
    known = [_checks.instance("a sentence", one, Answer) for one in given if not isinstance(one, str)]
    if not known:
        raise ValueError("there is no sentence to answer")
    section = study.report.section(heading)
    before = study.results.get(GROUP)
    first = 1 if before is None else before.sizes["sentence"] + 1
    found = as_dataset(known)
    study.results[GROUP] = found if before is None else _joined([before, found])
    section.text(
        "Each sentence is answered by an effect that is measured once per seed: seen where the whole 95 % interval "
        "(Student's t over seeds) lies where the sentence would have it, not seen where all of it lies elsewhere, "
        "undecided where it lies across. An interval without width means that all seeds gave one value. Each sentence "
        "is judged for itself: of twenty intervals one is expected to miss."
    )
    section.table(
        list(_COLUMNS), [_row(first + k, one) for k, one in enumerate(known)],
        "; ".join(f"{sum(a.verdict == v for a in known)} {v}" for v in VERDICTS) + ".",
    )  # fmt: skip
    if left:
        section.text("Not answered, because not every seed has the effect: " + "; ".join(left) + ".")
    return section


def as_dataset(answers: Sequence[Answer]) -> xr.Dataset:
    """Over `sentence`: source, content, measure, condition, verdict, mean, low, high, `effect` (sentence, seed),
    `otherwise` the same, both NaN beyond the seeds there are.
    """
    import xarray as xr

    words = {
        name: ("sentence", np.array([getattr(one, name) for one in answers], dtype=str))
        for name in ("source", "content", "measure", "condition", "verdict")
    }
    intervals = np.array([one.interval for one in answers])
    numbers = {name: ("sentence", intervals[:, k]) for k, name in enumerate(Interval._fields)}
    most = max(len(values) for one in answers for values in (one.effect, _given(one.otherwise)))

    def padded(values: Effect) -> list[float]:
        return [*values, *[np.nan] * (most - len(values))]

    effects = {
        "effect": (("sentence", "seed"), np.array([padded(one.effect) for one in answers])),
        "otherwise": (("sentence", "seed"), np.array([padded(_given(one.otherwise)) for one in answers])),
    }
    return xr.Dataset(words | numbers | effects)


def collected_sentences(results: Mapping[str, xr.DataTree]) -> xr.Dataset:
    """The sentences of several experiments as one table, each with the verdict on it.

    Parameters
    ----------
    results : {name: DataTree}, a run's `result.nc` as `sde_sgd.results.load` reads it, under the name of its
        experiment. Those without sentences are left out.

    Returns
    -------
    xarray.Dataset
        Over `sentence`: `experiment`, `source`, `content`, `measure`, `condition`, `verdict`; `mean`, `low` and `high`,
        the 95 % interval of Student's t over seeds, not narrower than the resolution of the measurement; `effect` and
        `otherwise`, where the condition is not met, (sentence, seed), NaN beyond the seeds there are.

    Raises ValueError where none of them has sentences. Each verdict stands for itself: no correction is made for their
    number.
    """
    parts = []
    for name, tree in results.items():
        if GROUP.strip("/") in tree.children:
            part = tree[GROUP].to_dataset().drop_attrs()
            parts.append(part.assign(experiment=("sentence", np.array([name] * part.sizes["sentence"], dtype=str))))
    if not parts:
        raise ValueError(f"none of {', '.join(results) or 'no results'} has sentences")
    return _joined(parts)


def _joined(parts: Sequence[xr.Dataset]) -> xr.Dataset:
    import xarray as xr

    most = max(part.sizes["seed"] for part in parts)
    return xr.concat([part.pad(seed=(0, most - part.sizes["seed"])) for part in parts], "sentence")


def _given(effect: Effect | None) -> Effect:
    return () if effect is None else effect


def _row(place: int, one: Answer) -> list:
    mean, low, high = one.interval
    verdict, condition = one.verdict, one.condition
    answer = f"{verdict} {condition}" if verdict == "seen only when" else verdict
    answer += f" (measured where {condition})" if condition and verdict == "not seen" else ""
    effect = one.measure
    if one.otherwise is not None:
        there = one._interval(one.otherwise)
        effect += f" [otherwise {_short(there.mean)}, {_short(there.low)} to {_short(there.high)}]"
    return [place, one.source, one.content, answer, effect.strip(), mean, f"{_short(low)} to {_short(high)}",
            len(one.effect)]  # fmt: skip


def _short(value: float) -> str:
    """To three digits."""
    return number(float(f"{value:.3g}"))
