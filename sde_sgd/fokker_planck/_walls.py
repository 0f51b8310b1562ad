"""What walls change in the stencil: how far offsets may reach, and the edges along a wall that make up for those cut.

A reflecting wall drops the edges that cross it, and with them part of the current along the wall: an O(1) error
in a layer of O(h), which would cost the density its second order. The loss is that of a one-dimensional problem.
Take the unit gradient along the wall, λ and e constant over rows r = 0 … R−1 between two walls, and write
e = (t_e, n_e), n_e ≥ 0, for an offset's steps along the wall and away from it. A potential w_r per row settles so
that the dissipation

    E = min_w Σ_r Σ_e λ_e (t_e − s n_e + w_{r+n_e} − w_r)²,     s = Σ λ_e t_e n_e / Σ λ_e n_e²,

is least, the sum over the edges inside. Without walls w = 0 and a row dissipates S = Σ_e λ_e a_e², a_e = t_e − s n_e,
so each wall loses

    (R S − E)/2 = ½ Σ_e λ_e n_e a_e² + ½ Fᵀ K⁻¹ F ≥ 0,

K the rows' Laplacian and F the imbalance of the a_e in the rows whose edges are cut. This number is the weight of one
more offset in the row beside the wall, the unit step along it. Where n_e ≤ 1, F is zero and the weight is
½ λ₀₁λ₁₁/(λ₀₁ + λ₁₁): what is left of a massless layer of cells beyond the wall, joined by the cut edges at half
weight, when it is eliminated.
"""

import numba as nb
import numpy as np

from sde_sgd.grid import Grid

_ROWS = 8  # rows of the layer per cell of the longest step: the imbalance has died out long before


def reach(grid: Grid, max_offset: int) -> np.ndarray:
    """How many cells an offset may span, per cell.

    An offset no longer than the cells between x and the walls of one axis can leave only through the other axis,
    and there x + e or x − e is inside; at one more than the cells to the nearest wall, the edge along at least one
    offset stays inside. So walls isolate no cell, and only corners shorten offsets. An absorbing wall isolates
    nothing, as what crosses it leaks. On a short periodic axis no edge meets itself.
    """
    unbounded = max(grid.shape)
    nearest, furthest = np.full(grid.shape, unbounded), np.zeros(grid.shape, np.int64)
    for axis, (cells, wall) in enumerate(zip(grid.shape, grid.boundary)):
        i = np.arange(cells)
        room = np.minimum(i, i[::-1]) if wall == "reflecting" else np.full(cells, unbounded)
        room = room.reshape([-1 if a == axis else 1 for a in range(grid.dim)])
        nearest, furthest = np.minimum(nearest, room), np.maximum(furthest, room)
    most = min(max_offset, (min(grid.shape) - 1) // 2)
    return np.minimum(np.maximum(nearest + 1, furthest), most).ravel()


def with_edges_along(grid: Grid, weight: np.ndarray, offset: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights (n, s) and offsets (n, s, d) with one more slot per axis: the unit step along reflecting walls."""
    weights, offsets = [weight], [offset]
    for normal, wall in enumerate(grid.boundary):
        if grid.dim != 2 or wall != "reflecting":
            continue
        along = 1 - normal
        beside = np.moveaxis(np.arange(grid.size).reshape(grid.shape), normal, 0)[[0, -1]].ravel()
        extra, step = np.zeros((grid.size, 1)), np.zeros((grid.size, 1, 2), np.int64)
        extra[beside, 0] = _lost(weight[beside], offset[beside][:, :, [along, normal]], grid.shape[normal])
        step[beside, 0, along] = 1
        weights.append(extra)
        offsets.append(step)
    return np.concatenate(weights, axis=1), np.concatenate(offsets, axis=1)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _lost(weight, offset, cells):
    """½ Σ λ n a² + ½ FᵀK⁻¹F per cell, for offsets (along, away); `cells` rows between the two walls."""
    count, slots = weight.shape
    lost = np.zeros(count)
    n, a = np.zeros(slots, np.int64), np.zeros(slots)
    for c in range(count):
        skew = stiff = 0.0
        longest = 0
        for s in range(slots):
            t, n[s] = offset[c, s]
            if weight[c, s] == 0.0:
                n[s] = 0
            skew += weight[c, s] * t * n[s]
            stiff += weight[c, s] * n[s] * n[s]
            longest = max(longest, abs(n[s]))
        if skew == 0.0:
            continue  # nothing crosses the wall at a slant, or it does so alike on either side
        for s in range(slots):
            a[s] = (offset[c, s, 0] - skew / stiff * n[s]) * (1 if n[s] >= 0 else -1)
            n[s] = abs(n[s])
            lost[c] += 0.5 * weight[c, s] * n[s] * a[s] ** 2
        if longest == 1:
            continue
        rows = min(cells, _ROWS * longest)
        k, force = np.zeros((rows, rows)), np.zeros(rows)
        for s in range(slots):
            for r in range(rows - n[s] if n[s] > 0 else 0):
                k[r, r] += weight[c, s]
                k[r + n[s], r + n[s]] += weight[c, s]
                k[r + n[s], r] -= weight[c, s]
                force[r] += weight[c, s] * a[s]
                force[r + n[s]] -= weight[c, s] * a[s]
        for r in range(rows - 1):  # the last row's w is 0: only differences count
            if k[r, r] <= 1e-14 * stiff:
                continue
            lost[c] += 0.5 * force[r] ** 2 / k[r, r]
            for i in range(r + 1, min(r + longest + 1, rows)):
                factor = k[i, r] / k[r, r]
                force[i] -= factor * force[r]
                for j in range(r + 1, i + 1):
                    k[i, j] -= factor * k[j, r]
    return lost
