"""Which cells exchange mass: the edges of a grid for a diffusion matrix, whatever the drift and the temperature."""

from dataclasses import dataclass

import numba as nb
import numpy as np

from sde_sgd.grid import Grid

from . import _walls
from ._selling import selling

_SPAN = 33  # values an offset's entry may take, −16 … 16


@dataclass(frozen=True)
class Pattern:
    """Edges tail → head grouped by their offset, the mean of both ends' Selling weights, and what absorbing walls cut.

    The edges of offsets[i] are first[i] : first[i + 1]; every cell is tail of at most one of them, and head of one.
    """

    grid: Grid
    diffusion: np.ndarray  # D at the cell centres, (cells, d, d)
    added: np.ndarray  # ε at the cell centres
    tail: np.ndarray
    head: np.ndarray
    offsets: np.ndarray  # (k, d), in cells
    first: np.ndarray  # (k + 1,)
    offset: np.ndarray  # of every edge, (edges, d)
    mean: np.ndarray  # λ per edge: the conductance over T
    leak_cell: np.ndarray
    leak_step: np.ndarray  # offset of a cut edge
    leak_share: np.ndarray  # its fraction s inside the wall
    leak_weight: np.ndarray


def build(grid: Grid, diffusion: np.ndarray, max_offset: int, least: np.ndarray | float) -> Pattern:
    """The pattern of D + εI, ε at least what raises the smallest eigenvalue in cells to `least`."""
    parts = selling(diffusion, grid.spacing, _walls.reach(grid, max_offset), least)
    _walls.open_corners(grid, diffusion, parts)
    weight, offset = _walls.with_edges_along(grid, parts[0], parts[1], max_offset)
    added = parts[2]
    pad = 3 - grid.dim  # a grid of fewer axes is one of a single layer
    shape, periodic = np.ones(3, np.int64), np.zeros(3, np.bool_)
    shape[pad:], periodic[pad:] = grid.shape, grid.periodic
    key, present = _keys(weight, offset)
    keys = np.flatnonzero(present)
    group = np.full(present.size, -1, np.int16)
    group[keys] = np.arange(keys.size)
    offsets = np.stack([keys // _SPAN**a % _SPAN - _SPAN // 2 for a in range(grid.dim)], axis=1)
    steps = np.zeros((keys.size, 3), np.int64)
    steps[:, pad:] = offsets
    group = np.where(key >= 0, group[key], np.int16(-1))
    nothing, no_weight = np.empty(0, np.int64), np.empty(0)
    first = np.zeros(keys.size + 1, np.int64)
    first[1:] = np.cumsum(_edges(group, weight, steps, shape, periodic, first[:-1], nothing, nothing, no_weight))
    tail, head, mean = np.empty(first[-1], np.int64), np.empty(first[-1], np.int64), np.empty(first[-1])
    _edges(group, weight, steps, shape, periodic, first[:-1], tail, head, mean)
    offset_of_edge = np.repeat(offsets, np.diff(first), axis=0)
    return Pattern(
        grid, diffusion, added, tail, head, offsets, first, offset_of_edge, mean, *_cut(grid, weight, offset)
    )


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _keys(weight, offset):
    """One whole number per offset that carries weight, −1 for others, and which numbers occur."""
    cells, slots, axes = offset.shape
    key = np.full((cells, slots), -1, np.int32)
    present = np.zeros(_SPAN**axes, np.bool_)
    for c in range(cells):
        for s in range(slots):
            if weight[c, s] > 0.0:
                number = 0
                for a in range(axes - 1, -1, -1):
                    number = number * _SPAN + offset[c, s, a] + _SPAN // 2
                key[c, s] = number
                present[number] = True
    return key, present


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _neighbour(cell, step, sign, shape, periodic):
    """The cell at `cell` ± step, −1 beyond a wall."""
    rest, flat, stride = cell, 0, 1
    for a in range(2, -1, -1):
        j = rest % shape[a] + sign * step[a]
        rest //= shape[a]
        if j < 0 or j >= shape[a]:
            if not periodic[a]:
                return -1
            j %= shape[a]
        flat += j * stride
        stride *= shape[a]
    return flat


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _edges(group, weight, steps, shape, periodic, first, tail, head, mean):
    """The number of edges per offset; written from first[i] on where `tail` has room.

    An edge exists where either end has its offset: a cell makes those of which it is the tail, and those of which
    it is the head if the tail does not.
    """
    cells, slots = group.shape
    found = np.zeros(steps.shape[0], np.int64)
    write = tail.size > 0
    for c in range(cells):
        for s in range(slots):
            g = group[c, s]
            seen = g < 0
            for r in range(s):
                seen = seen or group[c, r] == g
            if seen:
                continue
            own = 0.0
            for r in range(s, slots):
                if group[c, r] == g:
                    own += weight[c, r]
            for sign in (1, -1):
                other = _neighbour(c, steps[g], sign, shape, periodic)
                if other < 0:
                    continue
                theirs = 0.0
                for r in range(slots):
                    if group[other, r] == g:
                        theirs += weight[other, r]
                if sign < 0 and theirs > 0.0:
                    continue
                if write:
                    at = first[g] + found[g]
                    tail[at], head[at] = (c, other) if sign > 0 else (other, c)
                    mean[at] = 0.5 * (own + theirs)
                found[g] += 1
    return found


def _cut(grid: Grid, weight: np.ndarray, offset: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Offsets that an absorbing wall cuts: the cell, the offset, the fraction s inside, and the weight.

    Half a cell lies between the last centre and the wall; in 1-D s = ½. Where an offset meets two walls, the first
    one counts.
    """
    parts: list[tuple[np.ndarray, ...]] = []
    longest = int(np.abs(offset).max())
    near = np.zeros(grid.shape, bool)
    for axis, wall in enumerate(grid.boundary):
        if wall == "absorbing":
            beside = np.moveaxis(near, axis, 0)
            beside[:longest] = beside[-longest:] = True
    cells_near = np.flatnonzero(near)
    cell = np.stack(np.unravel_index(cells_near, grid.shape), axis=1)
    for slot in range(weight.shape[1]):
        for sign in (1, -1):
            e = sign * offset[cells_near, slot].astype(np.int64)
            share, absorbed = np.full(cells_near.size, np.inf), np.zeros(cells_near.size, bool)
            for axis, (cells, wall) in enumerate(zip(grid.shape, grid.boundary)):
                end = cell[:, axis] + e[:, axis]
                crosses = (wall != "periodic") & ((end < 0) | (end >= cells))
                room = np.where(e[:, axis] > 0, cells - 1 - cell[:, axis], cell[:, axis]) + 0.5
                s = np.where(crosses, room / np.maximum(np.abs(e[:, axis]), 1), np.inf)
                earlier = (s < share) | ((s == share) & crosses & (wall == "absorbing"))
                absorbed = np.where(earlier, wall == "absorbing", absorbed)
                share = np.minimum(share, s)
            chosen = np.flatnonzero(absorbed & (weight[cells_near, slot] > 0.0))
            c = cells_near[chosen]
            parts.append((c, e[chosen], share[chosen], weight[c, slot]))
    cut, step, fraction, load = (np.concatenate(part) for part in zip(*parts))
    return cut, step, fraction, load
