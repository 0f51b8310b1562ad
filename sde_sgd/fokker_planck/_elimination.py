"""Subtraction-free elimination of a Markov chain: its stationary law, and the inverse of its generator.

Grassmann, Taksar & Heyman (1985, Oper. Res. 33): with O_ij the rate i→j and leak_i the rate at which mass is lost
at i, eliminating state k does

    s_k = leak_k + Σ_{j remaining} O_kj,    O_ij ← O_ij + O_ik O_kj/s_k,    leak_i ← leak_i + O_ik leak_k/s_k:

the cemetery is one more state that is never eliminated. Without leaks, π_k = Σ_i π_i O_ik/s_k backwards; with them,
the columns O_ik/s_k, the rows O_kj/s_k and the exit rates s_k solve −Lρ = f and −Lᵀu = f for any f. Only sums,
products and quotients of positive numbers occur, so every entry of π, and of ρ and u where f ≥ 0, is right to rounding
*relative to itself* (O'Cinneide 1993, Numer. Math. 65; Alfa, Xue & Ye 2002, Math. Comp. 71, for diagonally dominant
M-matrices given by their off-diagonals and row sums), however small it is: numbers are pairs of a float64 and an
int64 exponent, see `_fronts`.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from . import _fronts
from ._dissection import Dissection, dissect
from ._inputs import check_memory

_LOG2 = np.log(2.0)


class Rates(Protocol):
    """What is needed of `_edges.Edges`; rates as of its `extended_rates`, leaks per cell of the grid."""

    @property
    def tail(self) -> np.ndarray: ...
    @property
    def head(self) -> np.ndarray: ...
    @property
    def leak(self) -> np.ndarray: ...
    def extended_rates(self) -> tuple[np.ndarray, np.ndarray]: ...


def _tree(tree: Dissection) -> tuple:
    return (
        tree.pointer, tree.neighbour, tree.side, tree.rank, tree.pivots, tree.children, tree.front_pointer,
        tree.front, tree.largest_front, tree.peak_stack, tree.factor_entries,
    )  # fmt: skip


def extended(log_values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mantissas and binary exponents of e^log_values; −∞ is an exact zero."""
    zero = log_values == -np.inf
    log_values = np.where(zero, 0.0, log_values)
    exponent = np.floor(log_values / _LOG2).astype(np.int64)
    # the product of two float64 has an error of its own size times ε: as large as that of log_values itself
    mantissa = np.exp(log_values - exponent * _LOG2)
    return np.where(zero, 0.0, mantissa), np.where(zero, _fronts.ABSENT, exponent)


def split(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mantissas and binary exponents of float64 values."""
    mantissa, exponent = np.frexp(values)
    return mantissa, np.where(mantissa == 0.0, _fronts.ABSENT, exponent.astype(np.int64))


def joined(mantissa: np.ndarray, exponent: np.ndarray) -> np.ndarray:
    """The float64 values of pairs: 0 below its range, ±∞ above."""
    with np.errstate(over="ignore", under="ignore"):
        return np.ldexp(mantissa, np.clip(exponent, -5000, 5000).astype(np.int32))


def _logarithm(mantissa: np.ndarray, exponent: np.ndarray) -> np.ndarray:
    zero = mantissa == 0.0
    value = np.log(np.where(zero, 1.0, mantissa)) + exponent * _LOG2
    return np.where(zero, -np.inf, value)


def log_stationary(tree: Dissection, rate_mantissa: np.ndarray, rate_exponent: np.ndarray) -> np.ndarray:
    """log π up to a constant, for the chain whose graph `tree` dissects.

    rate[2e] is the rate tail→head of edge e and rate[2e+1] the rate head→tail, each mantissa·2**exponent
    and positive. The graph must be connected (the caller checks): otherwise π is not unique.
    """
    none = np.empty(0), np.empty(0, np.int64)
    columns = _fronts.factor(*_tree(tree), rate_mantissa, rate_exponent, False, *none, False)[:2]  # type: ignore[call-arg]
    return _logarithm(*_stationary(tree, *columns))


def _stationary(tree: Dissection, mantissa: np.ndarray, exponent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    largest, cells = tree.largest_front, tree.rank.size
    return _fronts.stationary(tree.pivots, tree.front_pointer, tree.front, largest, cells, mantissa, exponent)


@dataclass(frozen=True)
class Elimination:
    """The factors of −L, or of leak − L, on some cells of a grid: solves with them reuse the work.

    Sources and results have one value per cell *of the whole grid*, flat in C order, and may have a last axis of
    several right-hand sides; sources are ignored and results 0 (−∞ in logarithms) in cells that are not kept.
    """

    kept: np.ndarray  # indices of the kept cells
    cells: int  # of the whole grid
    tree: Dissection
    columns: tuple[np.ndarray, np.ndarray]  # O_ik/s_k
    rows: tuple[np.ndarray, np.ndarray]  # O_kj/s_k
    exits: tuple[np.ndarray, np.ndarray]  # s_k, in order of elimination
    leaks: bool

    @classmethod
    def of(
        cls,
        edges: Rates,
        shape: tuple[int, ...],
        *,
        keep: np.ndarray | None = None,
        leak: Any = None,
        exits: tuple[np.ndarray, np.ndarray] | None = None,
        inner: np.ndarray | None = None,
    ) -> "Elimination":
        """Factor −L + diag(leak), restricted to the cells where `keep` (bool, flat or shaped) is true.

        Rates into cells that are not kept, and through absorbing walls, count as leaks; `leak` ≥ 0 is added to these:
        one number, one per cell, or a pair (mantissas, binary exponents) of one per cell. A leak of 1/dt everywhere
        gives 1/dt − L. `exits`, such a pair, takes the place of the rates into cells that are not kept, and only the
        edges `inner` (bool; all between kept cells if not given) are followed. Raises ValueError if memory is short or
        some kept cells can never be left, which only `log_stationary` bears (all cells kept, no leak).
        """
        cells = int(np.prod(shape))
        mask = np.ones(cells, bool) if keep is None else np.asarray(keep, bool).ravel()
        kept = np.flatnonzero(mask)
        if kept.size == 0:
            raise ValueError("there is no cell to solve on; keep at least one")
        index = np.full(cells, -1)
        index[kept] = np.arange(kept.size)
        inner = mask[edges.tail] & mask[edges.head] if inner is None else inner
        position = np.stack(np.unravel_index(kept, shape), axis=1)
        tree = dissect(index[edges.tail[inner]], index[edges.head[inner]], position)
        check_memory(tree.bytes + 16 * tree.factor_entries, f"elimination of {kept.size} cells", shape)
        rate_m, rate_e = edges.extended_rates()
        leak_m, leak_e = _leaks(edges, kept, cells, leak)
        if exits is not None:
            leak_m, leak_e = _sum((leak_m, leak_e), _pair(exits, kept))
        elif kept.size < cells:
            _fronts.exits(edges.tail, edges.head, index, rate_m, rate_e, leak_m, leak_e)
        if not inner.all():
            both = np.repeat(inner, 2)
            rate_m, rate_e = rate_m[both], rate_e[both]
        leaks = bool((leak_m > 0.0).any())
        factors = _fronts.factor(*_tree(tree), rate_m, rate_e, leaks, leak_m, leak_e, True)  # type: ignore[call-arg]
        stuck = factors[4] == 0.0
        if stuck.any() and (leaks or stuck.sum() > 1):
            order = np.empty(kept.size, np.int64)
            order[tree.rank] = kept
            where = np.unravel_index(int(order[np.argmax(stuck)]), shape)
            raise ValueError(
                f"some cells can never be left, for example the one at index {tuple(int(i) for i in where)}: "
                "the chain falls into parts, and one of them has no exit"
            )
        return cls(kept, cells, tree, factors[:2], factors[2:4], factors[4:], leaks)

    def log_stationary(self) -> np.ndarray:
        """log π up to a constant, −∞ in cells that are not kept; ValueError if anything leaks."""
        if self.leaks:
            raise ValueError("mass leaks from these cells, so that nothing is stationary but 0; keep all of them")
        return self._spread(_logarithm(*_stationary(self.tree, *self.columns)), -np.inf)

    def backward(self, source: np.ndarray) -> np.ndarray:
        """u of (leak − Lᵀ)u = source: functions of the start, such as exit times. See `forward`."""
        return self._linear(source, self.columns, self.rows)

    def forward(self, source: np.ndarray) -> np.ndarray:
        """ρ of (leak − L)ρ = source: densities. A source ≥ 0 gives each entry right relative to itself (0 where it
        is below float64); any other, right relative to the result for |source|. ValueError beyond float64."""
        return self._linear(source, self.rows, self.columns)

    def extended_backward(self, mantissa: np.ndarray, exponent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """u of (leak − Lᵀ)u = mantissa·2**exponent of either sign, as such a pair."""
        return self._pairs(mantissa, exponent, self.columns, self.rows)

    def extended_forward(self, mantissa: np.ndarray, exponent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """ρ of (leak − L)ρ = mantissa·2**exponent, as such a pair; see `extended_backward`."""
        return self._pairs(mantissa, exponent, self.rows, self.columns)

    def log_backward(self, log_source: np.ndarray) -> np.ndarray:
        """log u of (leak − Lᵀ)u = e^log_source; −∞ is a source of 0."""
        return self._logarithmic(log_source, self.columns, self.rows)

    def log_forward(self, log_source: np.ndarray) -> np.ndarray:
        """log ρ of (leak − L)ρ = e^log_source; −∞ is a source of 0."""
        return self._logarithmic(log_source, self.rows, self.columns)

    def _linear(self, source, out, into) -> np.ndarray:
        source = self._source(source)
        if not np.isfinite(source).all():
            raise ValueError("the source of a solve must be finite; use the logarithmic solves beyond float64")
        result = joined(*self._solve(*split(source), out, into))
        if not np.isfinite(result).all():
            raise ValueError("the result of a solve exceeds float64; use the logarithmic solves")
        return self._spread(result, 0.0)

    def _logarithmic(self, log_source, out, into) -> np.ndarray:
        log_source = self._source(log_source)
        if np.isnan(log_source).any() or (log_source == np.inf).any():
            raise ValueError("the logarithm of a source must be finite, or −∞ where the source is 0")
        return self._spread(_logarithm(*self._solve(*extended(log_source), out, into)), -np.inf)

    def _pairs(self, mantissa, exponent, out, into) -> tuple[np.ndarray, np.ndarray]:
        mantissa, exponent = self._source(mantissa), self._source(exponent, np.int64)
        mantissa, exponent = self._solve(mantissa, np.where(mantissa == 0.0, _fronts.ABSENT, exponent), out, into)
        return self._spread(mantissa, 0.0), self._spread(exponent, _fronts.ABSENT)

    def _source(self, source, kind: type = float) -> np.ndarray:
        source = np.asarray(source, kind)
        if source.shape[:1] != (self.cells,) or source.ndim > 2:
            raise ValueError(
                f"a source has one value per cell, ({self.cells},) or ({self.cells}, m), got {source.shape}"
            )
        return source[self.kept]

    def _solve(self, mantissa, exponent, out, into) -> tuple[np.ndarray, np.ndarray]:
        if not self.leaks:
            raise ValueError("nothing leaks from these cells, so that −L is singular; keep fewer, or add a leak")
        tree, several = self.tree, mantissa.ndim == 2
        fronts = tree.pivots, tree.front_pointer, tree.front, tree.largest_front
        # one contiguous row per right-hand side
        mantissa = np.ascontiguousarray(mantissa.T if several else mantissa[None], float)
        exponent = np.ascontiguousarray(exponent.T if several else exponent[None], np.int64)
        for m, e in zip(mantissa, exponent):
            _fronts.solve(*fronts, *out, *into, *self.exits, m, e)  # type: ignore[call-arg]
        return (mantissa.T, exponent.T) if several else (mantissa[0], exponent[0])

    def _spread(self, values: np.ndarray, elsewhere: float) -> np.ndarray:
        if self.kept.size == self.cells:
            return values
        whole = np.full((self.cells, *values.shape[1:]), elsewhere, values.dtype)
        whole[self.kept] = values
        return whole


def _leaks(edges: Rates, kept: np.ndarray, cells: int, leak: Any) -> tuple[np.ndarray, np.ndarray]:
    """The leak of the kept cells through absorbing walls, and what the caller adds."""
    walls = split(edges.leak[kept])
    if leak is None:
        return walls
    if not isinstance(leak, tuple):
        leak = np.broadcast_to(np.asarray(leak, float).ravel(), (cells,)), np.zeros(cells, np.int64)
    return _sum(walls, _pair(leak, kept))


def _pair(rates: tuple, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the kept cells, with mantissas in [½, 1)."""
    mantissa, exponent = (np.asarray(part).ravel()[kept] for part in rates)
    if not (np.isfinite(mantissa) & (mantissa >= 0.0)).all():
        raise ValueError("a leak is a rate: it must be finite and >= 0 in every cell")
    mantissa, shift = np.frexp(mantissa.astype(float))
    return mantissa, np.where(mantissa == 0.0, _fronts.ABSENT, exponent.astype(np.int64) + shift)


def _sum(first: tuple, second: tuple) -> tuple[np.ndarray, np.ndarray]:
    top = np.maximum(first[1], second[1])
    total = sum(m * np.exp2(np.maximum(e - top, -1100).astype(float)) for m, e in (first, second))
    return np.asarray(total), top
