"""The indices an SGD kernel draws, as an array."""

import numpy as np

from ._kernel_cache import HEADER, imports, load
from ._sampling import keyed

_SOURCE = """
@njit(cache=True, nogil=True, error_model="numpy")
def with_replacement(picks, table, samples, batch, first_step, c2, c3, key0, key1):
    for k in range(picks.shape[0]):
        step = np.uint64(first_step + k)
        for draw in range(0, picks.shape[1], 2):
            block = _SAMPLE_STREAM + np.uint64(draw // 2)
            one, two = _two_indices(samples, step, block, c2, c3, key0, key1)
            picks[k, draw] = one
            if draw + 1 < picks.shape[1]:
                picks[k, draw + 1] = two


@njit(cache=True, nogil=True, error_model="numpy")
def without_replacement(picks, table, samples, batch, first_step, c2, c3, key0, key1):
    blocks = (batch + 1) // 2
    for k in range(picks.shape[0]):
        step = np.uint64(first_step + k)
        for half in range(picks.shape[1] // batch):
            for draw in range(batch):
                place = np.uint64(draw)
                if table.size == 0:
                    pick = np.int64(_keyed_place(place, samples, half * _ROUNDS, step, _SUBSET_STREAM, c2, c3,
                                                 key0, key1))
                else:
                    if draw % 2 == 0:
                        left = samples - place
                        one, two = _two_below(left, left - _U1, step, _SUBSET_STREAM + np.uint64(
                            half * blocks + draw // 2), c2, c3, key0, key1)
                    pick = _take(table, place, one if draw % 2 == 0 else two, 0)
                picks[k, half * batch + draw] = pick
            for draw in range(batch if table.size > 0 else 0):
                _give_back(table, np.uint64(draw), np.uint64(batch), 0)


@njit(cache=True, nogil=True, error_model="numpy")
def reshuffling(picks, table, samples, batch, first_step, c2, c3, key0, key1):
    count = np.int64(samples)
    steps = (count + batch - 1) // batch
    for k in range(-(first_step % steps) if table.size > 0 else 0, picks.shape[0]):
        epoch = np.uint64((first_step + k) // steps)
        first = (first_step + k) % steps * batch
        if first == 0:
            for i in range(table.shape[0]):
                table[i, 0] = i
        for draw in range(batch):
            if first + draw >= count:
                picks[k, draw] = -1
                continue
            place = np.uint64(first + draw)
            if table.size == 0:
                pick = np.int64(_keyed_place(place, samples, 0, epoch, _EPOCH_STREAM, c2, c3, key0, key1))
            else:
                odd = place & _U1
                left = samples - (place - odd)
                one, two = _two_below(left, left - _U1, epoch, _EPOCH_STREAM + (place >> _U1), c2, c3, key0, key1)
                pick = _take(table, place, two if odd else one, 0)
            if k >= 0:
                picks[k, draw] = pick
"""


def draw_indices(
    sampling: str, samples: int, batch: int, halves: int, first_step: int, steps: int, replica: int, key0, key1
) -> np.ndarray:
    """(steps, halves · batch) indices in [0, samples), −1 where an epoch's last batch is smaller."""
    picks = np.empty((steps, halves * batch), np.int64)
    rows = 0 if sampling == "with_replacement" or keyed(samples) else samples
    table = np.arange(rows, dtype=np.uint16)[:, None]
    words = (np.uint64(replica & 0xFFFFFFFF), np.uint64(replica >> 32))
    source = "\n".join([HEADER, *imports(("_philox", "_sampling"), _SOURCE), _SOURCE])
    getattr(load(source), sampling)(picks, table, np.uint64(samples), batch, first_step, *words, key0, key1)
    return picks
