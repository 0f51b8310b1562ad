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

In 3-D the gradient along the wall has two components, t_e, s, a_e and each column of F become vectors, and the loss is
the 2×2 form ½ Σ_e λ_e n_e a_e a_eᵀ + ½ Fᵀ K⁻¹ F, positive semi-definite. Selling's decomposition of it gives the
offsets along the wall and their weights; where they would be longer than the wall's own edges allow, the form is
raised by the least isotropic amount, a hundredth of it on average at 1000:1.
"""

import itertools

import numba as nb
import numpy as np

from sde_sgd.grid import Grid

from ._selling import selling

_ROWS = 8  # rows of the layer per cell of the longest step: the imbalance has died out long before
_NO_SLANT = 1e-14  # off-diagonal of M over both diagonal entries: rounding
_ISOLATED = 1e-9  # of the trace of M: too little for the edges by which a corner is left
_HOLD = 1e-3  # and what they carry once it is raised


def reach(grid: Grid, max_offset: int) -> np.ndarray:
    """How many cells an offset may span, per cell.

    Let r_1 ≤ r_2 (≤ r_3) be the numbers of cells between x and the nearer wall of each axis. An offset of at most
    r_2 cells can leave only through one axis, and no offset is as long as half an axis, so that x + e or x − e is
    inside. With r_1 + 1 cells an offset leaves on both sides only if it takes r_1 + 1 steps towards one wall and
    r_1 + 1 away from another, both at distance r_1. If two axes are that near, such offsets all have e_a = ± e_b
    and do not span the space, as the offsets of D + εI do: one of them has an edge. In 3-D all three axes may be that
    near, and three such offsets may span; there offsets span r_1 cells, and the eight cells in corners, where that
    is 0, are seen to by `open_corners`. So walls isolate no cell, and only edges and corners of the box shorten
    offsets. An absorbing wall isolates nothing, as what crosses it leaks. On a short periodic axis no edge meets
    itself.
    """
    return _reach(grid.shape, grid.boundary, max_offset)


def _reach(shape: tuple[int, ...], boundary: tuple[str, ...], max_offset: int) -> np.ndarray:
    unbounded, dim = max(shape), len(shape)
    rooms = []
    for axis, (cells, wall) in enumerate(zip(shape, boundary)):
        i = np.arange(cells)
        room = np.minimum(i, i[::-1]) if wall == "reflecting" else np.full(cells, unbounded)
        rooms.append(np.broadcast_to(room.reshape([-1 if a == axis else 1 for a in range(dim)]), shape))
    room = np.sort(np.stack(rooms), axis=0)
    far = room[min(1, dim - 1)]
    near = room[0] + (1 if dim < 3 else room[0] < room[-1])
    most = min(max_offset, (min(shape) - 1) // 2)
    return np.clip(np.maximum(near, far), 1, most).ravel()


def open_corners(grid: Grid, diffusion: np.ndarray, parts: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    """Add diffusion, in place, in those corner cells of a 3-D box from which no offset leads inside.

    `parts` are what `selling` returns. Only special tensors do that, whose every offset at the corner steps towards
    one wall and away from another, (1, −1, 0) say; ε is doubled until offsets that lead inside carry a weight.
    """
    weight, offset, added = parts
    if grid.dim != 3 or set(grid.boundary) != {"reflecting"}:
        return
    for inward in np.array(list(itertools.product((1, -1), repeat=3)), np.int8):
        corner = np.where(inward > 0, 0, np.array(grid.shape) - 1)
        cell = int(np.ravel_multi_index(tuple(corner), grid.shape))
        size = np.linalg.eigvalsh(diffusion[cell])[-1]
        first, step = added[cell], 0.0
        while not _leads_inside(weight[cell], offset[cell] * inward, _HOLD if step > 0.0 else _ISOLATED):
            step = max(2.0 * step, _HOLD * size)
            raised = diffusion[cell] + (first + step) * np.eye(3)
            found = selling(raised[None], grid.spacing, np.ones(1, np.int64))
            weight[cell], offset[cell], added[cell] = found[0][0], found[1][0], first + step + found[2][0]


def _leads_inside(weight: np.ndarray, inward: np.ndarray, share: float) -> bool:
    """Whether offsets (s, 3) whose steps all point inward, or all outward, carry more than a share of the trace."""
    inside = (inward >= 0).all(axis=1) | (inward <= 0).all(axis=1)
    return bool(weight[inside].sum() > share * (weight[:, None] * inward.astype(float) ** 2).sum())


def with_edges_along(
    grid: Grid, weight: np.ndarray, offset: np.ndarray, max_offset: int
) -> tuple[np.ndarray, np.ndarray]:
    """Weights (n, s), offsets (n, s, d) with more slots for steps along reflecting walls: 1 in 2-D, 3 in 3-D."""
    weights, offsets = [weight], [offset]
    for normal, wall in enumerate(grid.boundary):
        if grid.dim == 1 or wall != "reflecting":
            continue
        along = [axis for axis in range(grid.dim) if axis != normal]
        beside = np.moveaxis(np.arange(grid.size).reshape(grid.shape), normal, 0)[[0, -1]].ravel()
        turned = np.ascontiguousarray(offset[beside][:, :, [*along, normal]])
        lost = _lost(weight[beside], turned, grid.shape[normal])
        slots = 2 * grid.dim - 3
        extra, step = np.zeros((grid.size, slots)), np.zeros((grid.size, slots, grid.dim), np.int8)
        if grid.dim == 2:
            extra[beside, 0], step[beside, 0, along[0]] = lost[:, 0, 0], 1
        else:
            some = lost[:, 0, 0] + lost[:, 1, 1] > 0.0
            if not some.any():
                continue
            h = grid.spacing[along]
            walls = tuple(grid.boundary[a] for a in along)
            plane = np.tile(_reach(tuple(grid.shape[a] for a in along), walls, max_offset), 2)
            found = selling(lost[some] * np.outer(h, h), h, plane[some])
            extra[beside[some]] = found[0]
            for column, axis in enumerate(along):
                step[beside[some], :, axis] = found[1][:, :, column]
        weights.append(extra)
        offsets.append(step)
    return np.concatenate(weights, axis=1), np.concatenate(offsets, axis=1)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _lost(weight, offset, cells):
    """½ Σ λ n a aᵀ + ½ FᵀK⁻¹F per cell, for offsets (along …, away); `cells` rows between the two walls."""
    count, slots = weight.shape
    m = offset.shape[2] - 1
    lost = np.zeros((count, m, m))
    n, a = np.zeros(slots, np.int64), np.zeros((slots, m))
    skew, size = np.zeros(m), np.zeros(m)
    for c in range(count):
        skew[:] = 0.0
        size[:] = 0.0
        stiff = 0.0
        longest = 0
        for s in range(slots):
            n[s] = offset[c, s, m] if weight[c, s] > 0.0 else 0
            for p in range(m):
                skew[p] += weight[c, s] * offset[c, s, p] * n[s]
                size[p] += weight[c, s] * offset[c, s, p] * offset[c, s, p]
            stiff += weight[c, s] * n[s] * n[s]
            longest = max(longest, abs(n[s]))
        slanted = False
        for p in range(m):
            slanted = slanted or abs(skew[p]) > _NO_SLANT * np.sqrt(stiff * size[p])
        if not slanted:
            continue  # nothing crosses the wall at a slant
        for s in range(slots):
            for p in range(m):
                a[s, p] = (offset[c, s, p] - skew[p] / stiff * n[s]) * (1 if n[s] >= 0 else -1)
            n[s] = abs(n[s])
            for p in range(m):
                for q in range(m):
                    lost[c, p, q] += 0.5 * weight[c, s] * n[s] * a[s, p] * a[s, q]
        if longest == 1:
            continue
        rows = min(cells, _ROWS * longest)
        k, force = np.zeros((rows, rows)), np.zeros((rows, m))
        for s in range(slots):
            for r in range(rows - n[s] if n[s] > 0 else 0):
                k[r, r] += weight[c, s]
                k[r + n[s], r + n[s]] += weight[c, s]
                k[r + n[s], r] -= weight[c, s]
                for p in range(m):
                    force[r, p] += weight[c, s] * a[s, p]
                    force[r + n[s], p] -= weight[c, s] * a[s, p]
        for r in range(rows - 1):  # the last row's w is 0: only differences count
            if k[r, r] <= 1e-14 * stiff:
                continue
            for p in range(m):
                for q in range(m):
                    lost[c, p, q] += 0.5 * force[r, p] * force[r, q] / k[r, r]
            for i in range(r + 1, min(r + longest + 1, rows)):
                factor = k[i, r] / k[r, r]
                for p in range(m):
                    force[i, p] -= factor * force[r, p]
                for j in range(r + 1, i + 1):
                    k[i, j] -= factor * k[j, r]
    return lost
