"""Philox by its published answers, what is made of its words by moments, tails and independence; seeds are fixed."""

import math

import numpy as np
import pytest
from numba import njit

from sde_sgd.paths import _normals32, _philox

U, W = np.uint64, np.uint32

# Random123's known answers for philox4x32-10: (counter, key) -> words
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize("counter, key, words", KNOWN)
def test_philox_known_answers(counter, key, words):
    assert _philox._philox(*map(U, counter), *map(U, key)) == words


@pytest.mark.parametrize("counter, key, words", KNOWN)
def test_wider_words_hold_the_bits_of_the_known_ones(counter, key, words):
    w0, w1, w2, w3 = words
    block = (*map(U, counter), *map(U, key))
    assert tuple(map(int, _philox._two_words(*block))) == (w0 << 32 | w1, w2 << 32 | w3)
    assert tuple(map(int, _normals32._four_words(*block))) == words


@njit(error_model="numpy")
def _normals(count, k0):
    values = np.empty(2 * count)
    for i in range(count):
        a, b = _philox._two_words(U(i), U(0), U(5), U(0), U(k0), U(9))
        values[2 * i], values[2 * i + 1] = _philox._normal_pair(a, b)
    return values


@njit(error_model="numpy")
def _normals32_of(count, k0):
    values = np.empty(4 * count, np.float32)
    for i in range(count):
        z0, z1, z2, z3 = _normals32._four_normals(U(i), U(0), U(5), U(0), U(k0), U(9))
        values[4 * i], values[4 * i + 1], values[4 * i + 2], values[4 * i + 3] = z0, z1, z2, z3
    return values


@pytest.mark.parametrize("count", [2_000_000, pytest.param(10_000_000, marks=pytest.mark.evidence)])
@pytest.mark.parametrize("draw, per_block", [(_normals, 2), (_normals32_of, 4)], ids=["float64", "float32"])
def test_millions_of_normals(draw, per_block, count):
    """z-scores of moments 1–4, pairing, lag and tails; at most 12 at |z| < 5: false alarm 7e-6."""
    x = draw(count // per_block, 1).astype(float)
    n, scores = len(x), {}
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        scores[f"moment {power}"] = ((x**power).mean() - mean) / math.sqrt(variance / n)
    scores["pair"] = (x[::2] * x[1::2]).mean() * math.sqrt(n / 2)
    scores["pair of squares"] = ((x[::2] ** 2 - 1) * (x[1::2] ** 2 - 1)).mean() / 2 * math.sqrt(n / 2)
    scores["lag"] = (x[:-per_block] * x[per_block:]).mean() * math.sqrt(n)
    for other in range(2, per_block):  # the two pairs of a float32 block
        scores[f"0 and {other}"] = (x[::per_block] * x[other::per_block]).mean() * math.sqrt(n / per_block)
    for cut in (2, 3, 4):
        p = math.erfc(cut / math.sqrt(2))
        scores[f"tail {cut}"] = ((np.abs(x) > cut).sum() - n * p) / math.sqrt(n * p)
    assert max(map(abs, scores.values())) < 5, scores
    wider = 1.005 * x  # the counterexample: half a per cent too wide must be seen
    assert ((wider**2).mean() - 1) / math.sqrt(2 / n) > 5


def test_normals_reach_the_limit_they_state_and_all_four_quarters():
    """The smallest uniforms, 2^−52 and 2^−31, and the four signs of one angle."""
    eighth = 1 << 51  # v = 0: both numbers are the radius over √2
    for bits, pair, limit in ((52, _philox._normal_pair, 8.49), (31, _normals32._normal_pair32, 6.55)):
        width = U if bits == 52 else W
        zero, last = (U((1 << 52) - 1), U(eighth)) if bits == 52 else (W(0), W(0))
        radius = math.sqrt(2 * bits * math.log(2))
        assert abs(radius - limit) < 0.01
        top = 63 if bits == 52 else 0
        found = {pair(width(zero ^ width(s << top)), width(last ^ width(t << top))) for s in (0, 1) for t in (0, 1)}
        assert len({(x > 0, y > 0) for x, y in found}) == 4
        assert all(abs(abs(z) * math.sqrt(2) / radius - 1) < 1e-6 for pair_ in found for z in pair_)
    # u = 1 is the other end: nothing is infinite or NaN there
    assert _philox._normal_pair(U(0), U(7)) == (0, 0) and _normals32._normal_pair32(W(2**32 - 2), W(6)) == (0, 0)


def _sum_of_normals(wide):
    def kernel(steps):
        if wide:
            _philox._widest_vectors()
        total, words = np.zeros(64), np.empty((2, 64))
        for step in range(steps):
            for j in range(64):
                a, b = _philox._two_words(U(step), U(0), U(j), U(0), U(1), U(2))
                words[0, j], words[1, j] = _philox._float(a), _philox._float(b)
            for j in range(64):
                x, y = _philox._normal_pair(_philox._bits(words[0, j]), _philox._bits(words[1, j]))
                total[j] += x + y * y
        return total

    return njit(error_model="numpy", fastmath={"contract"})(kernel)


def test_results_are_the_same_bits_whatever_the_width_of_the_vectors():
    narrow, wide = _sum_of_normals(False), _sum_of_normals(True)
    assert np.array_equal(narrow(1000), wide(1000))
    asked = ['"prefer-vector-width"="512"' in next(iter(f.inspect_llvm().values())) for f in (narrow, wide)]
    assert asked == [False, True]
    # lanes are scalar calls too: what a path draws does not depend on its lane
    words = (_philox._two_words(U(k), U(0), U(9), U(0), U(1), U(2)) for k in range(1000))
    total = sum(x + y * y for x, y in (_philox._normal_pair(U(a), U(b)) for a, b in words))
    assert abs(total - wide(1000)[9]) < 1e-9


@njit(error_model="numpy")
def _uniforms(count):
    values = np.empty((2, count))
    for i in range(count):
        values[0, i], values[1, i] = _philox._two_uniforms(U(i), U(3), U(5), U(0), U(1), U(9))
    return values


def test_uniforms_fill_the_half_open_interval():
    """χ² of 256 × 256 cells of the pair; the counterexample reuses one word for both."""
    u, v = _uniforms(2_000_000)
    assert min(u.min(), v.min()) > 0 and max(u.max(), v.max()) <= 1
    assert _philox._uniform(U(0)) == 1 and _philox._uniform(U(2**64 - 1)) == 2.0**-52

    def score(a, b):
        cells = np.histogram2d(a, b, bins=256, range=((0, 1), (0, 1)))[0]
        mean = len(a) / cells.size
        return (((cells - mean) ** 2 / mean).sum() - (cells.size - 1)) / math.sqrt(2 * (cells.size - 1))

    assert abs(score(u, v)) < 5  # false alarm 6e-7
    assert score(u, u) > 5


@njit(error_model="numpy")
def _signs(blocks):
    """Signs (step, dimension, block) of two-point increments: 64 steps per word."""
    signs = np.empty((64, 2, blocks))
    for i in range(blocks):
        a, b = _philox._two_words(U(i), U(0), U(5), U(0), U(1), U(9))
        for bit in range(64):
            signs[bit, 0, i] = _philox._signed(0.1, a, U(bit))
            signs[bit, 1, i] = _philox._signed(0.1, b, U(bit))
    return signs


def _largest_correlation(values):
    """The largest |z| among means and pairwise products of rows of ±1-like numbers of variance 1."""
    rows = values.reshape(-1, values.shape[-1]).astype(float)
    products = rows @ rows.T / math.sqrt(rows.shape[1])
    np.fill_diagonal(products, 0)
    return max(np.abs(products).max(), np.abs(rows.sum(axis=1)).max() / math.sqrt(rows.shape[1]))


def test_two_points_are_fair_and_independent_over_steps_and_dimensions():
    """128 rows, 8256 scores at |z| < 6.5: false alarm 7e-7."""
    signs = _signs(100_000)
    assert set(np.unique(signs)) == {-0.1, 0.1}
    signs = signs / 0.1
    assert _largest_correlation(signs) < 6.5
    again = signs.copy()
    again[1] = again[0]  # the counterexample: a bit used for two steps
    assert _largest_correlation(again) > 6.5
    again = signs.copy()
    again[5, 1] = again[7, 0]  # … or for two dimensions of different steps
    assert _largest_correlation(again) > 6.5
    # every bit of the word is read, and once: the moments of all words together are those of ±1 exactly
    word = 0x8000_0F35_1234_5671
    assert [_philox._signed(1.0, U(word), U(b)) < 0 for b in range(64)] == [bool(word >> b & 1) for b in range(64)]
    assert _philox._signed(-2.0, U(1), U(0)) == 2


@njit(error_model="numpy")
def _threes(blocks):
    values = np.empty((4, blocks))
    for i in range(blocks):
        z = _philox._four_three_points(U(i), U(0), U(5), U(0), U(1), U(9))
        for k in range(4):
            values[k, i] = z[k]
    return values


def test_three_points_have_the_moments_they_state():
    ends = (0, 715827882, 715827883, 3579139412, 3579139413, 2**32 - 1)
    root = math.sqrt(3)
    assert [_philox._three_points(U(w)) for w in ends] == [root, root, 0, 0, -root, -root]
    upper, lower = 715827883, 2**32 - 3579139413  # how many words give each sign
    assert upper == lower and 3 * (upper + lower) == 2**32 + 2  # variance 1 + 2^−31, fourth moment 3 (1 + 2^−31)
    z = _threes(1_000_000)
    n = z.size
    scores = [z.sum() / math.sqrt(n), ((z**2).sum() - n) / math.sqrt(2 * n)]
    scores += [(z[:, 1:] * z[:, :-1]).sum() / math.sqrt(n)]
    assert max(map(abs, scores)) < 5 and _largest_correlation(z) < 5  # 13 scores: false alarm 8e-6
    assert _largest_correlation(z[[0, 1, 0, 3]]) > 5
    wider = z * math.sqrt(6 / 5)  # ±√3 with probability 1/5: too wide
    assert ((wider**2).sum() - n) / math.sqrt(2 * n) > 5


def test_indices_are_uniform_and_reach_both_ends():
    from sde_sgd import sample_indices

    picks = sample_indices(7, batch_size=7, steps=60_000, seed=3).ravel()
    counts = np.bincount(picks, minlength=7)
    chi2 = ((counts - len(picks) / 7) ** 2 / (len(picks) / 7)).sum()
    assert len(counts) == 7 and chi2 < 38.3  # 1e-6 quantile of chi² with 6 degrees of freedom
    huge = sample_indices(2**32 - 1, batch_size=1000, steps=10)
    assert huge.max() > 0.999 * 2**32 and huge.min() >= 0


@njit(error_model="numpy")
def _draw(block, path, mask, key0, key1, z):
    for j in range(64):
        a, b = _philox._two_words(block, U(0), path + U(j), U(0), key0, key1)
        z[0, j], z[1, j] = _philox._float(a & mask), _philox._float(b)
    for j in range(64):
        z[0, j], z[1, j] = _philox._normal_pair(_philox._bits(z[0, j]), _philox._bits(z[1, j]))


@njit(error_model="numpy")
def _draw32(block, path, mask, key0, key1, z):
    for j in range(64):
        w0, w1, w2, w3 = _normals32._four_words(block, U(0), path + U(j), U(0), key0, key1)
        z[0, j], z[1, j] = _normals32._normal_pair32(w0, w1)
        z[2, j], z[3, j] = _normals32._normal_pair32(w2, w3)


@njit(error_model="numpy", fastmath={"contract"})
def _survey(draw, rows, chunks, blocks, mask, key0, key1):
    """Sums over lanes of: powers 1–4; products with the pair, the next block, the next path, and of their squares."""
    sums, tails = np.zeros((10, 64)), np.zeros((5, 64), np.int64)
    z, before = np.empty((rows, 64)), np.empty((rows, 64))
    for chunk in range(chunks):
        before[:] = 0.0
        for block in range(blocks):
            draw(U(block), U(64 * chunk), mask, key0, key1, z)
            for row in range(rows):
                for j in range(64):
                    x, y, last, path = z[row, j], z[row ^ 1, j], before[row, j], z[row, (j + 1) & 63]
                    s = x * x
                    sums[0, j] += x
                    sums[1, j] += s
                    sums[2, j] += s * x
                    sums[3, j] += s * s
                    sums[4, j] += x * y
                    sums[5, j] += (s - 1.0) * (y * y - 1.0)
                    sums[6, j] += x * last
                    sums[7, j] += (s - 1.0) * (last * last - 1.0) if block > 0 else 0.0
                    sums[8, j] += x * path
                    sums[9, j] += (s - 1.0) * (path * path - 1.0)
                for j in range(64):
                    s = z[row, j] * z[row, j]
                    tails[0, j] += s > 4.0
                    tails[1, j] += s > 9.0
                    tails[2, j] += s > 16.0
                    tails[3, j] += s > 25.0
                    tails[4, j] += s > 36.0
                for j in range(64):
                    before[row, j] = z[row, j]
    return sums.sum(axis=1), tails.sum(axis=1)


def _scores(draw, rows, count, mask=2**64 - 1):
    """How many normals were drawn, and their z-scores; a count of few is scored by its Poisson probability."""
    from scipy.stats import norm, poisson

    chunks = 64
    blocks = count // (64 * chunks * rows)
    n = 64 * chunks * rows * blocks
    sums, tails = _survey(draw, rows, chunks, blocks, U(mask), U(0x1234567), U(0x89ABCDEF))
    pairs, lagged = n / 2, n - 64 * chunks * rows  # each pair was summed twice
    powers = zip(sums[:4], (0, 1, 0, 3), (1, 2, 15, 96))
    scores = {f"moment {k + 1}": (s / n - mean) * math.sqrt(n / v) for k, (s, mean, v) in enumerate(powers)}
    scores["two of a pair"] = sums[4] / 2 / math.sqrt(pairs)
    scores["two of a pair, squares"] = sums[5] / 2 / math.sqrt(4 * pairs)
    scores["consecutive blocks"] = sums[6] / math.sqrt(lagged)
    scores["consecutive blocks, squares"] = sums[7] / math.sqrt(4 * lagged)
    scores["neighbouring paths"] = sums[8] / math.sqrt(n)
    scores["neighbouring paths, squares"] = sums[9] / math.sqrt(4 * n)
    for cut, found in zip((2, 3, 4, 5, 6), tails):
        p = math.erfc(cut / math.sqrt(2))
        score = (found - n * p) / math.sqrt(n * p * (1 - p))
        if n * p < 100:
            less, more = poisson.cdf(found, n * p), poisson.sf(found - 1, n * p)
            score = norm.isf(more) if more < less else -norm.isf(less)
        scores[f"beyond {cut} σ: {found}, expected {n * p:.4g}"] = score
    return n, scores


@pytest.mark.evidence(table="normals")
def test_a_billion_normals(table):
    """15 z-scores for each type at |z| < 5: false alarm 1.7e-5. The counterexample has a radius of 16 bits."""
    rows = []
    for name, draw, per_block in (("float64", _draw, 2), ("float32", _draw32, 4)):
        n, scores = _scores(draw, per_block, 10**9)
        assert n > 0.999e9 and max(map(abs, scores.values())) < 5, scores
        rows += [[name, what, f"{score:+.2f}"] for what, score in scores.items()]
    # uniforms of 16 bits: nothing beyond √(32 log 2) = 4.71
    _, coarse = _scores(_draw, 2, 10**9, mask=2**64 - 2**36)
    worst = max(coarse, key=lambda what: abs(coarse[what]))
    assert abs(coarse[worst]) > 5
    rows.append(["radius of 16 bits", worst, f"{coarse[worst]:+.2f}"])
    table(
        "A billion normals",
        ["type", "score", "z"],
        rows,
        "Philox4x32-10 and Box–Muller as the kernels draw them: 4096 paths, every score a standard normal if the "
        "numbers are, the count beyond 6 σ by its Poisson probability. Bound 5; the chance that one of the 30 "
        "exceeds it in sound numbers is 1.7e-5. The last row is the largest score of normals whose radius has "
        "16 bits, which must exceed it.",
    )
