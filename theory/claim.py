"""What a claim is: a statement with its source, a check of what holds, and a twin that must fail."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = 3  # twins in one line
_ROUNDING = 1e-9  # of a solver, relative
_ERRORS = 4.5  # standard errors that a sampled number may be off


@dataclass(frozen=True)
class Level:
    """How exactly a check works: `more` times smaller errors than the fast level, and the seed of what is random."""

    more: float = 1.0
    seed: int = 0

    def count(self, fast: int) -> int:
        """Paths, replicas or samples, where the error falls as 1/√n."""
        return round(fast * self.more**2)

    def cells(self, fast: int, order: int = 2) -> int:
        """Cells per axis or steps, where the error falls as n^−order; even."""
        return 2 * round(fast * self.more ** (1 / order) / 2)


@dataclass(frozen=True)
class Measurement:
    """A number beside the one predicted.

    `relation`: "=", |measured − expected| ≤ tolerance; "<=", measured ≤ expected + tolerance; ">=", measured ≥
    expected − tolerance. `tolerance` is the error of the discretisation or of sampling, and `reason` says which and
    how it is known. `false_alarm`: the probability that a true statement misses it. NaN never passes.
    """

    what: str
    measured: float
    expected: float
    tolerance: float
    reason: str
    relation: Literal["=", "<=", ">="] = "="
    false_alarm: float = 0.0

    @property
    def excess(self) -> float:
        """How far the measured number is from where the relation holds, in tolerances; it passes up to 1."""
        gap = self.measured - self.expected
        gap = {"=": abs(gap), "<=": max(gap, 0.0), ">=": max(-gap, 0.0)}[self.relation]
        return gap / self.tolerance if self.tolerance > 0.0 else (0.0 if gap == 0.0 else math.inf)

    @property
    def passed(self) -> bool:
        return self.excess <= 1.0

    def perturbed(self, factor: float) -> "Measurement":
        """The same, with the prediction multiplied by `factor`."""
        return replace(self, expected=factor * self.expected)

    @property
    def prediction(self) -> str:
        """The expected number, with its relation and the tolerance."""
        sign = {"=": "", "<=": "≤ ", ">=": "≥ "}[self.relation]
        return f"{sign}{self.expected:.4g} ± {self.tolerance:.1g}"

    def __str__(self) -> str:
        return f"{self.what}: {self.measured:.4g}, predicted {self.prediction}"


def exact(what: str, measured: float, expected: float, tolerance: float = 1e-10) -> Measurement:
    """Enumerated or in closed form: `tolerance` is rounding, relative to the expected value, absolute if that is 0."""
    return Measurement(what, float(measured), float(expected), tolerance * (abs(expected) or 1.0), "rounding")


def refined(what: str, coarse: float, fine: float, expected: float, *, order: int, ratio: float = 2.0) -> Measurement:
    """From two steps or spacings, `fine` being `ratio` times smaller: extrapolated, and granted the error of `fine`."""
    extrapolated = fine + (fine - coarse) / (ratio**order - 1.0)
    reason = f"the distance of the finer value from the one extrapolated at order {order}, and rounding"
    tolerance = abs(float(extrapolated - fine)) + _ROUNDING * abs(expected)
    return Measurement(what, float(extrapolated), float(expected), tolerance, reason)


def sampled(what: str, values: np.ndarray | Sequence[float], expected: float, *, bias: float = 0.0) -> Measurement:
    """The mean of independent `values`, granted 4.5 of its standard errors, and a `bias` known beforehand."""
    from scipy.stats import t

    values = np.asarray(values, float)
    error = float(values.std(ddof=1) / math.sqrt(values.size))
    return estimated(what, float(values.mean()), error, expected, bias, 2.0 * float(t.sf(_ERRORS, values.size - 1)))


def estimated(
    what: str, measured: float, error: float, expected: float, bias: float = 0.0, false_alarm: float = 6.8e-6
) -> Measurement:
    """A number whose standard error is known, granted 4.5 of them; `false_alarm` is that of a normal law."""
    reason = f"{_ERRORS} standard errors" + (f" and a bias of at most {bias:.1g}" if bias else "")
    tolerance = _ERRORS * float(error) + bias
    return Measurement(what, float(measured), float(expected), tolerance, reason, false_alarm=false_alarm)


Check = Callable[[Level], Sequence[Measurement]]


@dataclass(frozen=True)
class Claim:
    r"""A published statement and what the package's own solvers say about it.

    Parameters
    ----------
    name : lower case, words joined by underscores.
    statement : in words, as published, right or wrong. formula : the same in LaTeX.
    source : author (year), number. Several are parted by "; ".
    hypotheses : under which it is published, and those it needs besides.
    as_stated : "holds", "needs_hypothesis" or "fails".
    holds : what holds, in words.
    check : Level → measurements of what holds; each must pass. Its docstring says how it is measured.
    twin : the same measured with a hypothesis broken on purpose, or the statement as published where that fails. None
        may pass, so that no check can pass by being blind. Its docstring says what is broken.
    figure : Level → a figure, where a picture says more than the numbers.
    """

    name: str
    statement: str
    formula: str
    source: str
    as_stated: Literal["holds", "needs_hypothesis", "fails"]
    holds: str
    check: Check
    twin: Check
    hypotheses: tuple[str, ...] = ()
    figure: "Callable[[Level], Figure] | None" = None

    def verdict(self, level: Level | None = None) -> "Verdict":
        """Run the check and its twin."""
        level = level or Level()
        found, broken = tuple(self.check(level)), tuple(self.twin(level))
        if not found or not broken:
            raise ValueError(f"the claim {self.name} measures nothing; its check and its twin must both do")
        worst = _worst(found)
        return Verdict(
            claim=self.name,
            source=self.source,
            as_stated=self.as_stated,
            holds=self.holds,
            measured=worst.measured,
            expected=worst.expected,
            tolerance=worst.tolerance,
            passed=all(m.passed for m in found) and not any(m.passed for m in broken),
            counterexample="; ".join(map(str, broken[:_SHOWN])) + (" …" if len(broken) > _SHOWN else ""),
            measurements=found,
            twins=broken,
        )


@dataclass(frozen=True)
class Verdict:
    """The outcome of a claim, as `sde-sgd theory --json` prints it.

    `passed`: every one of the `measurements` of what holds passes and none of the `twins` does. `measured`,
    `expected`, `tolerance` are those of the measurement that is nearest to failing; `counterexample` says what the
    first twins measured.
    """

    claim: str
    source: str
    as_stated: str
    holds: str
    measured: float
    expected: float
    tolerance: float
    passed: bool
    counterexample: str
    measurements: tuple[Measurement, ...]
    twins: tuple[Measurement, ...]

    @property
    def nearest(self) -> Measurement:
        """The measurement that is nearest to failing."""
        return _worst(self.measurements)

    def plot(self) -> "Figure":
        """Every measurement and twin, by its distance from the prediction in units of the tolerance."""
        from .figure import plot_verdict

        return plot_verdict(self)


def _worst(measurements: Sequence[Measurement]) -> Measurement:
    return max(measurements, key=lambda m: math.inf if math.isnan(m.measured) else m.excess)
