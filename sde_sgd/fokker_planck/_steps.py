"""Steps in time: extrapolation of a positive first-order step, its error, and how large the next one may be.

Let S_n be n first-order steps of size τ/n (sweeps or unsplit backward Euler), each positive and mass-exact, with the
generator at the temperature in its own middle. Then, with 1, 2 and k = 3 or 4 steps over the same τ,

    U = (k S_k − 2 S_2)/(k − 2),    V = U + (U − (2 S_2 − S_1))/(k − 1)

are of order 2 and 3 (Aitken–Neville; Hairer, Nørsett & Wanner 1993, II.9); U is the step, and U − V its local error.
No linear scheme of order 2 is positive for every step (Bolley & Crouzeix 1978): where U is negative, the first-order
value S_k stands in that cell, and what this adds is taken from the other cells in proportion; the local error is that
of the result.

The flow contracts L1, so the sum of the sizes of the local errors bounds the error at the end. Often by far too much,
as most of them have died out by then: so they are also added up as densities and carried along by S_1, which contracts
L1 as well. The size of this sum never exceeds the sum of the sizes, and it is what is kept below the tolerance.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numba as nb
import numpy as np

from sde_sgd.errors import NotConverged

from ._sweeps import Sweeps

if TYPE_CHECKING:
    from ._edges import Edges

_SAFETY = 0.85  # of the step that would just meet the allowance
_KEEP = 1.2  # a step this much smaller than allowed is kept: its factors are there
_RESERVE = 0.1  # of the tolerance, for single steps that cannot meet theirs
_FACTORS = 4  # eliminations kept: each holds many numbers per cell
_SAMPLES = 4097


class SplitEuler:
    """A positive first-order step in place by sweeps; consecutive steps at one temperature share rates and factors.

    Densities have one entry more than cells, which is 0.
    """

    levels = (1, 2, 3)  # the fewest solves
    dyadic = False

    def __init__(self, edges: "Edges", edges_at: Callable[[float], "Edges"], temperature: float) -> None:
        self._sweeps, self._edges, self._edges_at, self._temperature = Sweeps(edges), edges, edges_at, temperature

    def __call__(self, rho: np.ndarray, h: float, temperature: float) -> None:
        if temperature != self._temperature:
            edges = self._edges_at(temperature)
            if _same_lines(edges, self._edges):
                self._sweeps.load(edges)
            else:
                self._sweeps = Sweeps(edges)
            self._edges, self._temperature = edges, temperature
        self._sweeps.step(rho, h)


def _same_lines(a: "Edges", b: "Edges") -> bool:
    """Whether two lists join the same cells, which `Sweeps.load` asks for; a drift that contains T may add or drop
    edges where there is no noise, and leaks decide which cells stand on lines of their own."""
    return (
        (a.tail is b.tail or np.array_equal(a.tail, b.tail))
        and (a.head is b.head or np.array_equal(a.head, b.head))
        and (a.offset is b.offset or np.array_equal(a.first, b.first))
        and np.array_equal(a.leak > 0.0, b.leak > 0.0)
    )


class ImplicitEuler:
    """(1/h − L)ρ' = ρ/h by subtraction-free elimination; factoring costs far more than solving."""

    levels = (1, 2, 4)  # half a step is the whole of the next finer level, and its factors are there
    dyadic = True

    def __init__(self, shape: tuple[int, ...], edges_at: Callable[[float], "Edges"]) -> None:
        self._shape, self._edges_at = shape, edges_at
        self._factors: dict[tuple[float, float], object] = {}

    def __call__(self, rho: np.ndarray, h: float, temperature: float) -> None:
        from ._elimination import Elimination

        key = (temperature, h)
        if key not in self._factors:
            while len(self._factors) >= _FACTORS:
                del self._factors[next(iter(self._factors))]
            leak = np.full(rho.size - 1, 1.0 / h)
            self._factors[key] = Elimination.of(self._edges_at(temperature), self._shape, leak=leak)
        rho[:-1] = self._factors[key].forward(rho[:-1] / h)  # type: ignore[attr-defined]


@nb.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "reassoc"})
def _combine(one, two, many, k, out, fault):
    """U into `out`, made positive, and out − V into `fault`. Returns the mass moved, and whether out = S_k."""
    a, b = k / (k - 2.0), 1.0 / (k - 1.0)
    lifted = rest = 0.0
    for i in range(out.size):
        u = a * many[i] - (a - 1.0) * two[i]
        fault[i] = u + (u - 2.0 * two[i] + one[i]) * b
        negative = u < 0.0
        lifted += many[i] - u if negative else 0.0
        rest += 0.0 if negative else u
        out[i] = -many[i] if negative else u
    if 2.0 * lifted >= rest:  # nothing to extrapolate
        out[:] = many
    elif lifted > 0.0:
        keep = 1.0 - lifted / rest
        for i in range(out.size):
            out[i] = -out[i] if out[i] < 0.0 else abs(out[i]) * keep
    for i in range(out.size):
        fault[i] = out[i] - fault[i]
    return lifted, 2.0 * lifted >= rest


@dataclass
class Ledger:
    """What was done up to a snapshot; with the density it is all that the next stretch of time starts from."""

    steps: int = 0
    rejected_steps: int = 0
    repaired_steps: int = 0
    first_order_steps: int = 0
    largest_step: float = 0.0
    next_step: float = 0.0
    error_sum: float = 0.0
    error_estimate: float = 0.0
    repaired_mass: float = 0.0
    most_negative: float = 0.0


@dataclass(frozen=True)
class Budget:
    """How large the error may be at time t: half of the tolerance evenly in t, half evenly in log(1 + t/t0).

    The first serves the long run, the second the start, where a narrow density spreads by itself and steps grow
    in proportion to t.
    """

    tolerance: float
    end: float
    scale: float  # t0

    def until(self, t: float) -> float:
        logarithmic = math.log1p(t / self.scale) / math.log1p(self.end / self.scale)
        return (1.0 - _RESERVE) * self.tolerance * 0.5 * (t / self.end + logarithmic)


@dataclass(frozen=True)
class Trial:
    """A step that may be taken."""

    rho: np.ndarray
    carried: np.ndarray  # the estimated error as a density, after the step
    local: float  # L1 size of the step's own error
    decay: float  # share of the error so far that died out during the step
    lifted: float  # mass moved to keep the density positive
    first_order: bool


class Stepper:
    """Carries a density from snapshot to snapshot by extrapolated or plain first-order steps.

    With a `budget` the steps adapt so that the estimated L1 error keeps within it; with a `step` they are as long as
    that, and the estimate is only reported.
    """

    def __init__(
        self, euler: "SplitEuler | ImplicitEuler", order: int, temperature_at: Callable[[float], float],
        breaks: np.ndarray, volume: float, *, budget: Budget | None = None, step: float | None = None,
    ) -> None:  # fmt: skip
        self.euler, self.order, self.breaks, self.volume = euler, order, breaks, volume
        self.temperature_at, self.budget, self.step = temperature_at, budget, step

    def advance(self, rho: np.ndarray, carried: np.ndarray, start: float, end: float, ledger: Ledger, tick) -> None:
        """ρ and its estimated error (cells + 1 each) from `start` to `end` in place; `tick(t)` after every step.

        Breaks of the temperature in between are met exactly.
        """
        inner = self.breaks[(self.breaks > start) & (self.breaks < end)]
        corners = [start, *inner.tolist(), end]
        for a, b in itertools.pairwise(corners):
            if self.step is not None:
                self._even(rho, carried, a, b, ledger, tick)
            elif self.euler.dyadic:
                self._dyadic(rho, carried, a, b, ledger, tick)
            else:
                self._free(rho, carried, a, b, ledger, tick)

    # one step -----------------------------------------------------------------------------------------------

    def trial(self, rho: np.ndarray, carried: np.ndarray, t: float, tau: float) -> Trial:
        """A step from t to t + τ; of order 1, two first-order steps."""
        one, before = self._euler_steps(rho, t, tau, 1), float(np.abs(carried).sum())
        carried = self._euler_steps(carried, t, tau, 1) if before > 0.0 else carried  # now: at the same temperature
        two = self._euler_steps(rho, t, tau, 2)
        if self.order == 1:
            out, fault, lifted, first_order = two, one - two, 0.0, False
        else:
            many = self._euler_steps(rho, t, tau, self.euler.levels[2])
            out, fault = np.empty_like(rho), np.empty_like(rho)
            lifted, first_order = _combine(one, two, many, self.euler.levels[2], out, fault)
        decay = max(0.0, 1.0 - float(np.abs(carried).sum()) / before) if before > 0.0 else 0.0
        local = float(np.abs(fault).sum()) * self.volume
        return Trial(out, carried + fault, local, decay, 0.0 if first_order else lifted * self.volume, first_order)

    def one_step(self, rho: np.ndarray, tau: float) -> np.ndarray:
        """A single step of the scheme from time 0; of order 1, half of what `trial` takes."""
        return self._euler_steps(rho, 0.0, tau, 1) if self.order == 1 else self.trial(rho, 0.0 * rho, 0.0, tau).rho

    def _euler_steps(self, rho: np.ndarray, t: float, tau: float, n: int) -> np.ndarray:
        out, h = rho.copy(), tau / n
        for i in range(n):
            self.euler(out, h, self.temperature_at(t + (i + 0.5) * h))
        return out

    def _take(self, rho: np.ndarray, carried: np.ndarray, tau: float, trial: Trial, ledger: Ledger) -> None:
        rho[:], carried[:] = trial.rho, trial.carried
        euler_steps = 2 if self.order == 1 else 1
        ledger.steps += euler_steps
        ledger.largest_step = max(ledger.largest_step, tau / euler_steps)
        ledger.error_sum += trial.local
        ledger.error_estimate = float(np.abs(carried).sum()) * self.volume
        ledger.repaired_steps += int(trial.lifted > 0.0)
        ledger.repaired_mass += trial.lifted
        ledger.first_order_steps += int(trial.first_order)

    # how long ---------------------------------------------------------------------------------------------

    def _even(self, rho, carried, start: float, end: float, ledger: Ledger, tick) -> None:
        assert self.step is not None
        count = max(1, math.ceil((end - start) / (self.step * (2 if self.order == 1 else 1)) - 1e-9))
        tau = (end - start) / count
        for i in range(count):
            t = start + i * tau
            self._take(rho, carried, tau, self.trial(rho, carried, t, tau), ledger)
            tick(t + tau)

    def _free(self, rho, carried, start: float, end: float, ledger: Ledger, tick) -> None:
        t, now = start, 0.0
        while t < end:
            left, want = end - t, ledger.next_step
            if left > 4.0 * want:
                tau = now if now <= want < _KEEP * now else want
            else:
                count = max(1, math.ceil(left / want - 1e-9))
                tau = left / count
                tau = now if abs(tau - now) < 1e-9 * now else tau
            last = left <= tau * (1.0 + 1e-9)
            trial = self.trial(rho, carried, t, tau)
            now = tau
            if self._judge(t, end if last else t + tau, tau, trial, ledger):
                self._take(rho, carried, tau, trial, ledger)
                t = end if last else t + tau
                tick(t)

    def _dyadic(self, rho, carried, start: float, end: float, ledger: Ledger, tick) -> None:
        whole, level, index = end - start, 0, 0  # t = start + whole·index/2^level
        while index < 2**level:
            while index % 2 == 0 and level > 0 and whole / 2 ** (level - 1) <= ledger.next_step:
                level, index = level - 1, index // 2
            while whole / 2**level > ledger.next_step * (1.0 + 1e-9):
                level, index = level + 1, index * 2
            tau = whole / 2**level
            t, after = start + tau * index, start + tau * (index + 1)
            trial = self.trial(rho, carried, t, tau)
            if self._judge(t, after, tau, trial, ledger):
                self._take(rho, carried, tau, trial, ledger)
                index += 1
                tick(after)

    def _judge(self, t: float, after: float, tau: float, trial: Trial, ledger: Ledger) -> bool:
        """Whether the step keeps within the budget; sets the length of the next one, or of the next try.

        Its error may use what the budget gains during the step, and of what is unspent the share that dies out of the
        error meanwhile: where the process forgets, half of the tolerance is in use at all times.
        """
        assert self.budget is not None
        error, unspent = trial.local, self.budget.until(t) - ledger.error_estimate
        allowed = self.budget.until(after) - self.budget.until(t) + max(0.0, unspent) * trial.decay
        unspent += _RESERVE * self.budget.tolerance
        ratio = allowed / error if error > 0.0 else math.inf
        factor = _SAFETY * (math.sqrt(ratio) if self.order == 2 else ratio)
        accepted = error <= max(allowed, _RESERVE * unspent)
        ledger.next_step = tau * min(max(factor, 0.2), 4.0 if accepted else 0.9)
        if not accepted:
            ledger.rejected_steps += 1
            if not ledger.next_step > 1e-14 * max(after, self.budget.end * 1e-6):
                raise NotConverged(
                    f"the step at t = {t:g} fell to {ledger.next_step:.3g} and its error {error:.3g} still exceeds "
                    f"what the tolerance {self.budget.tolerance:g} allows there; use a larger one, or scheme='exact'"
                )
        return accepted


def breaks(process, end: float) -> np.ndarray:
    """Times in (0, end) at which the temperature jumps or turns; none where it is a number.

    A schedule with a method `breakpoints(end)` names them. In others jumps of more than a thousandth are looked for
    between 4097 times and then by bisection, so that no step strides over one unseen.
    """
    schedule = process.temperature
    if not callable(schedule) or end <= 0.0:
        return np.empty(0)
    named = getattr(schedule, "breakpoints", None)
    times = _jumps(process.temperature_at, end) if named is None else named(end)
    return np.array(sorted({float(t) for t in times if 0.0 < t < end}))


def _jumps(temperature_at: Callable[[np.ndarray], np.ndarray], end: float) -> np.ndarray:
    times = np.linspace(0.0, end, _SAMPLES)
    values = temperature_at(times)
    change = np.abs(np.diff(values))
    steep = np.flatnonzero(change > 1e-3 * values[:-1])
    left, right, change = times[steep], times[steep + 1], change[steep]
    for _ in range(64):
        middle = 0.5 * (left + right)
        early = np.abs(temperature_at(middle) - temperature_at(left))
        late = np.abs(temperature_at(right) - temperature_at(middle))
        left, right = np.where(early >= late, left, middle), np.where(early >= late, middle, right)
    return right[np.abs(temperature_at(right) - temperature_at(left)) > 0.5 * change]
