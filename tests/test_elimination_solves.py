"""Solves with the eliminated generator are right relative to each entry, whatever the range of rates and sources."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as spla

from sde_sgd import _memory
from sde_sgd.fokker_planck import FokkerPlanck, _fronts
from sde_sgd.fokker_planck._edges import Edges
from sde_sgd.fokker_planck._elimination import Elimination, split
from sde_sgd.grid import Grid
from sde_sgd.landscapes import Landscape


@dataclass
class Chain:
    """Rates m·2^k with whole m and k, so that arithmetic with fractions has the very same ones."""

    tail: np.ndarray
    head: np.ndarray
    leak: np.ndarray
    mantissa: np.ndarray
    exponent: np.ndarray

    def extended_rates(self):
        return self.mantissa.copy(), self.exponent.copy()

    def exact(self, keep, leak, source, *, functions):
        """x of −Lx = source, or −Lᵀx = source, on the kept cells, by Gauss's elimination in fractions."""
        n = self.leak.size
        minus = [[Fraction(0)] * n for _ in range(n)]
        for e, (t, h) in enumerate(zip(self.tail.tolist(), self.head.tolist())):
            for i, j, r in ((t, h, 2 * e), (h, t, 2 * e + 1)):
                rate = Fraction(int(self.mantissa[r])) * Fraction(2) ** int(self.exponent[r])
                minus[i][i] += rate
                minus[j][i] -= rate
        for i in range(n):
            minus[i][i] += Fraction(float(self.leak[i])) + Fraction(float(leak[i]))
        cells = np.flatnonzero(keep).tolist()
        rows = [
            [minus[j][i] if functions else minus[i][j] for j in cells] + [Fraction(float(source[i]))] for i in cells
        ]
        for k in range(len(rows)):
            pivot = next(r for r in range(k, len(rows)) if rows[r][k] != 0)
            rows[k], rows[pivot] = rows[pivot], rows[k]
            for r in range(len(rows)):
                if r != k and rows[r][k] != 0:
                    factor = rows[r][k] / rows[k][k]
                    rows[r] = [a - factor * b for a, b in zip(rows[r], rows[k])]
        return [row[-1] / row[k] for k, row in enumerate(rows)]


def random_chain(seed, span, cells=11, leaky=True):
    rng = np.random.default_rng(seed)
    tail, head = np.triu_indices(cells, 1)
    some = (rng.random(tail.size) < 0.35) | (head == tail + 1)
    tail, head = tail[some], head[some]
    mantissa = rng.integers(1, 1000, 2 * tail.size).astype(float)
    exponent = rng.integers(-span, span + 1, 2 * tail.size)
    leak = np.where(rng.random(cells) < 0.2, rng.random(cells), 0.0) if leaky else np.zeros(cells)
    return rng, Chain(tail, head, leak, mantissa, exponent)


def log_of(fraction):
    """log of a positive fraction of any size."""
    shift = fraction.numerator.bit_length() - fraction.denominator.bit_length()
    return float(np.log(float(fraction / Fraction(2) ** shift)) + shift * np.log(2.0))


@pytest.mark.parametrize("leaky", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_rates_from_e_minus_500_to_e_500_against_fractions(seed, leaky):
    rng, chain = random_chain(seed, 721, leaky=leaky)
    cells = chain.leak.size
    keep = np.arange(cells) != rng.integers(cells)
    leak = np.where(rng.random(cells) < 0.3, 2.0 ** rng.integers(-900, 900, cells), 0.0)
    source = np.where(rng.random(cells) < 0.6, rng.random(cells), 0.0)
    source[np.flatnonzero(keep)[0]] = 0.25
    elimination = Elimination.of(chain, (cells,), keep=keep, leak=leak)
    with np.errstate(divide="ignore"):
        log_source = np.log(source)
    for solve, functions in ((elimination.log_backward, True), (elimination.log_forward, False)):
        exact = np.array([log_of(x) for x in chain.exact(keep, leak, source, functions=functions)])
        found = solve(log_source)
        assert (found[~keep] == -np.inf).all()
        np.testing.assert_allclose(found[keep], exact, rtol=1e-15, atol=1e-13)


@pytest.mark.parametrize("seed", range(4))
def test_every_entry_within_float64_to_1e_13(seed):
    rng, chain = random_chain(seed, 60)
    keep, leak = np.ones(chain.leak.size, bool), np.zeros(chain.leak.size)
    leak[3] = 2.0**-80
    source = rng.random((chain.leak.size, 2))
    elimination = Elimination.of(chain, (chain.leak.size,), leak=leak)
    for solve, functions in ((elimination.backward, True), (elimination.forward, False)):
        found = solve(source)
        for k in range(2):
            exact = chain.exact(keep, leak, source[:, k], functions=functions)
            assert max(abs(Fraction(float(x)) / e - 1) for x, e in zip(found[:, k], exact)) < 1e-13


@pytest.mark.parametrize("seed", range(2))
def test_sources_of_both_signs_cost_one_solve_and_no_digit(seed, monkeypatch):
    """The error of each entry is relative to the solution for |source|, at rates from e^−500 to e^500."""
    rng, chain = random_chain(seed, 721)
    cells = chain.leak.size
    keep, leak = np.arange(cells) != rng.integers(cells), np.zeros(cells)
    leak[np.flatnonzero(keep)[:2]] = 1.0
    source = rng.normal(size=cells)
    elimination, calls = Elimination.of(chain, (cells,), keep=keep, leak=leak), []
    solve = _fronts.solve
    monkeypatch.setattr(_fronts, "solve", lambda *arguments: (calls.append(1), solve(*arguments)))
    for solved, functions in ((elimination.extended_backward, True), (elimination.extended_forward, False)):
        mantissa, exponent = solved(*split(source))
        assert (mantissa[~keep] == 0.0).all()
        exact = chain.exact(keep, leak, source, functions=functions)
        size = chain.exact(keep, leak, np.abs(source), functions=functions)
        for m, e, x, s in zip(mantissa[keep], exponent[keep], exact, size):
            assert abs((Fraction(float(m)) * Fraction(2) ** int(e) - x) / s) < 1e-14
    assert len(calls) == 2


def test_counterexample_lu_loses_every_digit():
    """Two halves joined by rates 2^−60: the time to reach the last cell is 2^60 and LU does not see it."""
    cells = 12
    tail = np.arange(cells - 1)
    exponent = np.zeros(2 * tail.size, np.int64)
    exponent[[10, 11]] = -60
    chain = Chain(tail, tail + 1, np.zeros(cells), np.ones(2 * tail.size), exponent)
    keep = np.arange(cells) < cells - 1
    exact = np.array([float(x) for x in chain.exact(keep, np.zeros(cells), np.ones(cells), functions=True)])
    found = Elimination.of(chain, (cells,), keep=keep).backward(np.ones(cells))
    np.testing.assert_allclose(found[keep], exact, rtol=1e-14)
    rates = np.ldexp(chain.mantissa, exponent)
    matrix = sp.coo_array((np.r_[rates[::2], rates[1::2]], (np.r_[tail + 1, tail], np.r_[tail, tail + 1]))).tocsc()
    minus = (sp.diags_array(matrix.sum(axis=0)) - matrix).tocsc()[:-1][:, :-1].T
    with np.errstate(all="ignore"):
        try:
            lost = spla.spsolve(minus.tocsc(), np.ones(cells - 1))
        except RuntimeError:
            lost = np.full(cells - 1, np.nan)
    assert not (np.abs(lost / exact - 1) < 0.1).any()


@pytest.fixture(scope="module")
def rotating():
    process = Landscape(("x", "y"), "(x**2 + y**2)/2 + x*y/4", circulation=("-y", "x")).at_temperature(1.0)
    return FokkerPlanck(process, Grid((-3, -3), (3, 3), (40, 37)))


def test_agrees_with_superlu_on_a_grid(rotating):
    """1/dt − L, sources of either sign, several at once, on all cells and on some."""
    rng = np.random.default_rng(3)
    n = rotating.grid.size
    source = rng.normal(size=(n, 3))
    for keep in (np.ones(n, bool), rng.random(n) < 0.9):
        step = (sp.eye_array(n) * 20.0 - rotating.matrix).tocsc()[keep][:, keep]
        elimination = Elimination.of(rotating.edges, rotating.grid.shape, keep=keep, leak=20.0)
        for solve, matrix in ((elimination.forward, step), (elimination.backward, step.T)):
            expected = spla.splu(matrix.tocsc()).solve(source[keep])
            found = solve(source)
            np.testing.assert_allclose(found[keep], expected, rtol=1e-12, atol=1e-13)
            np.testing.assert_array_equal(found[~keep], 0.0)
            np.testing.assert_array_equal(solve(source[:, 1]), found[:, 1])


def test_logarithms_agree_with_numbers_and_go_beyond_them(rotating):
    n = rotating.grid.size
    source = np.random.default_rng(4).random(n)
    elimination = Elimination.of(rotating.edges, rotating.grid.shape, leak=1.0)
    for number, logarithm in (
        (elimination.forward, elimination.log_forward),
        (elimination.backward, elimination.log_backward),
    ):
        np.testing.assert_allclose(np.exp(logarithm(np.log(source))), number(source), rtol=1e-13)
        np.testing.assert_allclose(logarithm(np.log(source) + 5e4) - 5e4, logarithm(np.log(source)), atol=1e-10)
    np.testing.assert_allclose(elimination.backward(np.ones(n)), 1.0, rtol=1e-13)  # mass is conserved


def test_leaks_of_all_kinds_add_up(rotating):
    """A number, one per cell, and a pair of mantissas and exponents are the same; walls leak by themselves."""
    edges, shape, n = rotating.edges, rotating.grid.shape, rotating.grid.size
    ways = (3.0, np.full(n, 3.0), (np.full(n, 0.375), np.full(n, 3)), (np.full(n, 48.0), np.full(n, -4)))
    first, *others = (Elimination.of(edges, shape, leak=leak).forward(np.ones(n)) for leak in ways)
    for other in others:
        np.testing.assert_array_equal(other, first)
    process = Landscape(("x",), "x**2/2").at_temperature(1.0)
    open_ends = FokkerPlanck(process, Grid(-2, 2, 30, boundary="absorbing"))
    found = Elimination.of(open_ends.edges, (30,)).forward(np.ones(30))
    np.testing.assert_allclose(found, np.linalg.solve(-open_ends.matrix.toarray(), np.ones(30)), rtol=1e-11)


def test_the_stationary_law_is_that_of_the_steady_state(rotating):
    elimination = Elimination.of(rotating.edges, rotating.grid.shape)
    log_pi, expected = elimination.log_stationary(), rotating.log_steady_state().values.ravel()
    np.testing.assert_allclose(log_pi - log_pi.max(), expected - expected.max(), atol=1e-12)


def test_faults_in_words(rotating, monkeypatch):
    edges, shape, n = rotating.edges, rotating.grid.shape, rotating.grid.size
    closed = Elimination.of(edges, shape)
    leaky = Elimination.of(edges, shape, leak=1.0)
    apart = Chain(np.array([0, 2]), np.array([1, 3]), np.array([1.0, 0, 0, 0]), np.ones(4), np.zeros(4, np.int64))
    tiny = Elimination.of(edges, shape, leak=(np.ones(n), np.full(n, -2000)))
    for call, words in (
        (lambda: closed.forward(np.ones(n)), "singular"),
        (lambda: leaky.log_stationary(), "leaks"),
        (lambda: leaky.forward(np.ones(n - 1)), "one value per cell"),
        (lambda: leaky.forward(np.full(n, np.nan)), "finite"),
        (lambda: leaky.log_forward(np.full(n, np.inf)), "finite, or −∞"),
        (lambda: tiny.forward(np.ones(n)), "exceeds float64"),
        (lambda: Elimination.of(edges, shape, leak=-1.0), "must be finite and >= 0"),
        (lambda: Elimination.of(edges, shape, keep=np.zeros(n, bool)), "no cell"),
        (lambda: Elimination.of(apart, (4,)), r"never be left.*\((2|3),\)"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    monkeypatch.setattr(_memory, "available_bytes", lambda: 10**5)
    with pytest.raises(
        ValueError,
        match=r"elimination of 1480 cells on a grid of 40 × 37 cells needs about .* GiB.*\(about 8 × 7 fit\)",
    ):
        Elimination.of(edges, shape)


# three dimensions ------------------------------------------------------------------------------------------

NEAREST = [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
THIRTEEN = [*NEAREST, (1, -1, 0), (0, 1, -1), (1, 0, -1)]


def cube(cells, offsets):
    """Edges in detailed balance with Φ, unit conductances, and −Φ: the exact log π."""
    index = np.arange(cells**3).reshape((cells,) * 3)
    ends = []
    for offset in offsets:
        tail = index[tuple(slice(max(0, -e), cells - max(0, e)) for e in offset)]
        head = index[tuple(slice(max(0, e), cells - max(0, -e)) for e in offset)]
        ends.append((tail.ravel(), head.ravel()))
    tail, head = (np.concatenate(side) for side in zip(*ends))
    x = (np.stack(np.unravel_index(index.ravel(), index.shape)) + 0.5) / cells * 6 - 3
    phi = 10 * ((x[0] ** 2 - 1) ** 2 / 4 + (x[1] ** 2 + x[2] ** 2 + x[0] * x[1]) / 2)
    none = np.zeros(index.size)
    offset = np.zeros((tail.size, 3), np.int64)
    return Edges(tail, head, offset, np.ones(tail.size), phi[tail] - phi[head], none, np.zeros((index.size, 3))), -phi


@pytest.mark.parametrize("offsets", [NEAREST, THIRTEEN], ids=["7 points", "13 points"])
@pytest.mark.parametrize("cells", [11, pytest.param(40, marks=pytest.mark.evidence)])
def test_cubes(cells, offsets):
    """The law of detailed balance in every cell; 40³ has 64 000 cells and fronts of 2400."""
    edges, exact = cube(cells, offsets)
    shape = (cells,) * 3
    elimination = Elimination.of(edges, shape)
    log_pi = elimination.log_stationary()
    np.testing.assert_allclose(log_pi - log_pi.max(), exact - exact.max(), atol=1e-10)
    assert elimination.tree.bytes + 16 * elimination.tree.factor_entries < 8 * 2**30
    pinned = Elimination.of(edges, shape, keep=np.arange(cells**3) != 0)
    where = np.array([cells**3 // 2, cells])
    unit = np.full((cells**3, 2), -np.inf)
    unit[where, [0, 1]] = 0.0
    green = pinned.log_forward(unit)
    # reversibility: G(x, y) π_x is symmetric
    assert green[where[1], 0] + exact[where[0]] == pytest.approx(green[where[0], 1] + exact[where[1]], abs=1e-9)
