"""The indices an SGD kernel draws, as an array."""

import numpy as np

from ._kernel_cache import HEADER, fragment, load

_SOURCE = f"""{HEADER}
{fragment("_philox")}

@njit(cache=True, nogil=True, error_model="numpy")
def draw(picks, samples, replica, stream, key0, key1):
    for step in range(picks.shape[0]):
        for pair in range((picks.shape[1] + 1) // 2):
            one, two = _two_indices(np.uint64(samples), np.uint64(step), np.uint64(stream + pair),
                                    np.uint64(replica) & _LOW, np.uint64(replica) >> _U32, key0, key1)
            picks[step, 2 * pair] = one
            if 2 * pair + 1 < picks.shape[1]:
                picks[step, 2 * pair + 1] = two
"""


def draw_indices(samples: int, draws: int, steps: int, replica: int, stream: int, key0, key1) -> np.ndarray:
    """(steps, draws) indices in [0, samples)."""
    picks = np.empty((steps, draws), np.int64)
    load(_SOURCE).draw(picks, samples, replica, stream, key0, key1)
    return picks
