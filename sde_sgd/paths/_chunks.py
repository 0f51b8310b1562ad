"""What every kernel does with a chunk of 64 paths besides advancing it: load, store, save, look for divergence.

Called once per chunk or per saved step, where a call costs nothing; written into each kernel, they were nearly half
of its compilation.

The text below the marker becomes a generated module (`_kernel_cache.imports`): it may use only the names imported here.
"""

import math

from numba import njit

# -- fragment --


@njit(error_model="numpy")
def _load(work, state, base):
    """The first rows of work = columns base … base + 63 of `state`."""
    for i in range(state.shape[0]):
        for j in range(64):
            work[i, j] = state[i, base + j]


@njit(error_model="numpy")
def _store(work, state, base):
    """`_load`, the other way."""
    for i in range(state.shape[0]):
        for j in range(64):
            state[i, base + j] = work[i, j]


@njit(error_model="numpy")
def _save(work, saved, slot, place, live):
    """saved[slot, :, place:place + live] = the coordinates of the lanes in use."""
    for i in range(saved.shape[1]):
        for j in range(live):
            saved[slot, i, place + j] = work[i, j]


@njit(error_model="numpy")
def _diverged(work, dim, bound, live, ids, base, step, failure):
    """Whether a lane in use is beyond the bound; the earliest step, then the lowest path of the chunk, is reported."""
    for j in range(live):
        for i in range(dim):
            if not (math.fabs(work[i, j]) < bound):
                if failure[1] < 0 or step + 1 < failure[1]:
                    failure[0] = ids[base + j]
                    failure[1] = step + 1
                return True
    return False
