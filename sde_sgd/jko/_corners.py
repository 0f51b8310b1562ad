"""∇u at the corners of cells from u in the cells, as matrices, and the matrix of a map that moves corners by it."""

from collections.abc import Callable
from functools import cached_property

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as sla

from sde_sgd.grid import Grid

_LEAF = 64  # cells that nested dissection does not part


class Corners:
    """Where `free`, a corner on a wall has ∇u continued to it; at the others D∇u goes along the wall."""

    def __init__(self, grid: Grid, diffusion: np.ndarray, free: np.ndarray):
        self.free, self._shape = free, grid.shape
        n0, n1 = grid.shape
        (d0, a0), (d1, a1) = (_difference_and_mean(n, h) for n, h in zip(grid.shape, grid.spacing))
        x, y = sp.csr_array(sp.kron(d0, a1)), sp.csr_array(sp.kron(a0, d1))
        share = np.zeros((2, n0 + 1, n1 + 1))  # of the other component, in that across a wall
        for end in (0, -1):
            share[0, end] = -diffusion[end, :, 0, 1] / diffusion[end, :, 0, 0]
            share[1, :, end] = -diffusion[:, end, 0, 1] / diffusion[:, end, 1, 1]
        share[:, [0, 0, -1, -1], [0, -1, 0, -1]] = 0.0  # differences across a wall are 0, so that ∇u = 0 in a corner
        share[:, free] = 0.0
        if share.any():
            x, y = x + sp.diags_array(share[0].ravel()) @ y, y + sp.diags_array(share[1].ravel()) @ x
        if free.any():
            for axis in (0, 1):
                keep = _continued(free, axis)
                x, y = keep @ x, keep @ y
        self._gradient = sp.csr_array(x), sp.csr_array(y)

    def gradient(self, u: np.ndarray) -> np.ndarray:
        """∇u, (n₀ + 1, n₁ + 1, 2)."""
        parts = [(matrix @ u.ravel()).reshape(self.free.shape) for matrix in self._gradient]
        return np.stack(parts, axis=-1)

    def factored(self, scale: float, moved: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """The inverse of v ↦ v·scale − Σ moved·∇v, the sum over the corners of each cell, as a function of the cells.

        `moved`: (2, 4, cells), of the two components at the corners (1, 1), (0, 0), (0, 1), (1, 0). The cells are in
        the order of nested dissection: half of the work of an ordering by degrees, at 256².
        """
        indices, indptr, diagonal, weights, order = self._pattern
        values = weights @ moved.ravel()
        values[diagonal] += scale
        size = order.size
        matrix = sp.csc_array((values, indices, indptr), (size, size))
        matrix.has_canonical_format = True
        inverse = sla.splu(matrix, permc_spec="NATURAL", diag_pivot_thresh=0.1)

        def solve(right: np.ndarray) -> np.ndarray:
            found = np.empty(size)
            found[order] = inverse.solve(right.ravel()[order])
            return found.reshape(self._shape)

        return solve

    @cached_property
    def _pattern(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, sp.csr_array, np.ndarray]:
        """By columns: indices, starts, where the diagonal is, the values as a matrix times `moved`; order of cells."""
        n0, n1 = self._shape
        size, order = n0 * n1, np.concatenate(_dissected(0, n0, 0, n1, n1))
        place = np.empty(size, np.int64)
        place[order] = np.arange(size)
        lower = (np.arange(n0)[:, None] * (n1 + 1) + np.arange(n1)).ravel()
        keys, sources, values = [place * (size + 1)], [], []
        for part, (gradient, corner) in enumerate((g, c) for g in self._gradient for c in (n1 + 2, 0, 1, n1 + 1)):
            rows = gradient[lower + corner]
            cell = np.repeat(np.arange(size), np.diff(rows.indptr))
            keys.append(place[rows.indices] * size + place[cell])
            sources.append(part * size + cell)
            values.append(-rows.data)
        pattern, at = np.unique(np.concatenate(keys), return_inverse=True)
        entries = np.concatenate(values), (at[size:], np.concatenate(sources))
        weights = sp.csr_array(entries, (pattern.size, 8 * size))
        starts = np.searchsorted(pattern, np.arange(size + 1) * size)
        return (pattern % size).astype(np.intc), starts.astype(np.intc), at[:size], weights, order


def _dissected(i0: int, i1: int, j0: int, j1: int, columns: int) -> list[np.ndarray]:
    """George (1973), SIAM J. Numer. Anal. 10: both halves of a rectangle of cells, and last the line between them."""
    i, j = np.arange(i0, i1)[:, None], np.arange(j0, j1)
    if (i1 - i0) * (j1 - j0) <= _LEAF:
        return [(i * columns + j).ravel()]
    if i1 - i0 >= j1 - j0:
        c = (i0 + i1) // 2
        halves = _dissected(i0, c, j0, j1, columns) + _dissected(c + 1, i1, j0, j1, columns)
        return [*halves, c * columns + j]
    c = (j0 + j1) // 2
    halves = _dissected(i0, i1, j0, c, columns) + _dissected(i0, i1, c + 1, j1, columns)
    return [*halves, i[:, 0] * columns + c]


def _difference_and_mean(cells: int, spacing: float) -> tuple[sp.csr_array, sp.csr_array]:
    """From cells to their ends: the slope, 0 at the walls, and the mean, one-sided at the walls."""
    inner = np.arange(1, cells)
    rows, columns = np.concatenate([inner, inner]), np.concatenate([inner - 1, inner])
    signs = np.repeat([-1.0, 1.0], cells - 1) / spacing
    shape = (cells + 1, cells)
    difference = sp.csr_array((signs, (rows, columns)), shape)
    rows, columns = np.append(rows, [0, cells]), np.append(columns, [0, cells - 1])
    return difference, sp.csr_array((np.append(np.full(2 * cells - 2, 0.5), [1.0, 1.0]), (rows, columns)), shape)


def _continued(free: np.ndarray, axis: int) -> sp.csr_array:
    """At the free corners on the two walls of an axis: twice the next corner less the one after it."""
    index = np.arange(free.size).reshape(free.shape)
    along, place = np.moveaxis(free, axis, 0), np.moveaxis(index, axis, 0)
    chosen = free.copy()
    np.moveaxis(chosen, axis, 0)[1:-1] = False
    rows, columns, values = [index[~chosen]], [index[~chosen]], [np.ones(int((~chosen).sum()))]
    for end, step in ((0, 1), (-1, -1)):
        for distance, value in ((1, 2.0), (2, -1.0)):
            rows.append(place[end][along[end]])
            columns.append(place[end + distance * step][along[end]])
            values.append(np.full(int(along[end].sum()), value))
    shape = (free.size, free.size)
    return sp.csr_array((np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), shape)
