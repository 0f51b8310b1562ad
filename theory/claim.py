"""What a claim is: a statement with its source, a check of what holds, and a twin that must fail."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Measurement:
    """A number beside the one predicted; `tolerance` is the discretisation or sampling error that is granted."""

    what: str
    measured: float
    expected: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """|measured − expected| ≤ tolerance; NaN never passes."""
        return abs(self.measured - self.expected) <= self.tolerance


@dataclass(frozen=True)
class Verdict:
    """The outcome of a claim, as `sde-sgd theory --json` prints it.

    `measured`, `expected`, `tolerance` belong to what holds (`holds`, in words); `passed` is True where that
    measurement passes and the twin fails; `counterexample` says what the twin measured.
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


@dataclass(frozen=True)
class Claim:
    """A published statement and what the package's own solvers say about it.

    `as_stated`: "holds", "needs_hypothesis" or "fails". `check` measures what holds; `twin` repeats it with the
    hypothesis broken on purpose (or the statement taken as published, where that fails) and must not pass, so that
    no check can pass by being blind.
    """

    name: str
    statement: str
    source: str
    as_stated: str
    holds: str
    check: Callable[[], Measurement]
    twin: Callable[[], Measurement]

    def verdict(self) -> Verdict:
        """Run the check and its twin."""
        found, broken = self.check(), self.twin()
        said = f"{broken.what}: {broken.measured:.3g} where {broken.expected:.3g} ± {broken.tolerance:.1g} is needed"
        return Verdict(
            claim=self.name,
            source=self.source,
            as_stated=self.as_stated,
            holds=self.holds,
            measured=found.measured,
            expected=found.expected,
            tolerance=found.tolerance,
            passed=found.passed and not broken.passed,
            counterexample=said,
        )
