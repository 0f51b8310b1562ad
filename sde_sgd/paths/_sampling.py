"""How a step chooses its samples: with replacement, a fresh subset, or the next stretch of the epoch's permutation.

Every choice is a function of (key, replica, step) alone. Subsets and permutations of up to TABLE_LIMIT samples are
Fisher & Yates shuffles (Durstenfeld 1964) of a table with one column per lane: every arrangement equally likely up to
N/2⁶⁴ per draw. A subset needs only the first b exchanges, and they are undone after the step; a permutation is made as
far as the steps have gone, so a run that resumes inside an epoch repeats the exchanges from the epoch's beginning.
Beyond TABLE_LIMIT a place is mapped to a sample by a keyed permutation without memory: a Feistel network on a
rectangle of ⌈√N⌉ by ⌈N/⌈√N⌉⌉ cells, (l, r) → (l + F₁(r), r), (l, r + F₂(l)), …, whose rounds F are Philox blocks; it
is applied again while it leaves the N cells in use (Black & Rogaway 2002). After 12 rounds two places meet two given
samples with a probability within a relative 1/N² of 1/(N(N−1)), were the rounds truly random.

The counter of a Philox block is (when, stream + block, replica's low word, replica's high word). `when` is the step,
in an epoch's permutation the epoch; streams are 2²⁴ apart, and no other use of a seed may take these:

    0 · 2²⁴   normals of Langevin paths         block = pair of components
    1 · 2²⁴   samples with replacement          block = pair of draws
    2 · 2²⁴   Brownian-bridge exit tests        block = 0, for two steps
    3 · 2²⁴   subsets without replacement       block = pair of draws, or (round, half of the place) where keyed
    4 · 2²⁴   permutations of an epoch          block = pair of places, or (round, half of the place) where keyed

The text below the marker becomes a generated module (`_kernel_cache.imports`), which may use that of `_philox`. Whole
numbers are uint64.
"""

import math

import numpy as np
from numba import njit

from ._philox import _U32, _philox

TABLE_LIMIT = 2**16  # indices fit in uint16: a table of 64 lanes is at most 8 MiB per thread
MAX_BATCH = 2**24  # two batches of SVAG, two draws per block, fit in one stream


def keyed(samples: int) -> bool:
    """Whether subsets and permutations of so many samples come from the keyed permutation."""
    return samples > TABLE_LIMIT


# -- fragment --

_SAMPLE_STREAM, _SUBSET_STREAM, _EPOCH_STREAM = np.uint64(1 << 24), np.uint64(3 << 24), np.uint64(4 << 24)
_ROUNDS = 12
_U16 = np.uint64(16)


@njit(forceinline=True, error_model="numpy")
def _two_below(n, m, c0, c1, c2, c3, k0, k1):
    """Independent uniform whole numbers in [0, n) and [0, m), both bounds < 2³², from one block (bias < n/2⁶⁴)."""
    w0, w1, w2, w3 = _philox(c0, c1, c2, c3, k0, k1)
    first = (w0 * n + ((w1 * n) >> _U32)) >> _U32
    second = (w2 * m + ((w3 * m) >> _U32)) >> _U32
    return first, second


@njit(forceinline=True, error_model="numpy")
def _take(table, place, offset, j):
    """The sample at `place` of lane j's shuffle: exchange it with the one `offset` < N − place places on."""
    other = place + offset
    pick = table[other, j]
    table[other, j] = table[place, j]
    table[place, j] = pick
    return np.int64(pick)


@njit(forceinline=True, error_model="numpy")
def _give_back(table, place, batch, j):
    """Undo the exchanges of a subset, one place < batch after the other in rising order.

    A place ≥ batch that an exchange has touched lost its own number to one of the first `batch`, where it stayed.
    """
    pick = np.uint64(table[place, j])
    home = pick if pick >= batch else place
    table[home, j] = home
    table[place, j] = place


@njit(inline="always", error_model="numpy")
def _sides(samples):
    """The smallest rectangle of near-equal sides with at least so many cells."""
    rows = np.uint64(math.ceil(math.sqrt(np.float64(samples))))
    return rows, (samples + rows - np.uint64(1)) // rows


@njit(inline="always", error_model="numpy")
def _round(left, right, side, number, c0, stream, c2, c3, k0, k1):
    """(left + F(right)) mod side with F uniform on [0, side) and independent for each round number < 256."""
    shift, _ = _two_below(side, side, c0, stream + (number << _U16) + right, c2, c3, k0, k1)
    moved = left + shift
    return moved - side if moved >= side else moved


@njit(error_model="numpy")
def _keyed_place(place, samples, first_round, c0, stream, c2, c3, k0, k1):
    """The sample at a place of the keyed permutation, 12 blocks; `first_round` tells two permutations of a step apart.

    Lanes do the rounds together and come here only where they ended outside: below 1/√N of the time.
    """
    rows, columns = _sides(samples)
    while True:
        left, right = place // columns, place % columns
        for pair in range(_ROUNDS // 2):
            number = np.uint64(first_round) + np.uint64(2 * pair)
            left = _round(left, right, rows, number, c0, stream, c2, c3, k0, k1)
            right = _round(right, left, columns, number + np.uint64(1), c0, stream, c2, c3, k0, k1)
        place = left * columns + right
        if place < samples:
            return place
