"""Selling's decomposition of a diffusion matrix into a short stencil with non-negative weights.

For M positive definite (M_ij = D_ij/(h_i h_j), D in cells) there are integer offsets e with

    M = Σ_e λ_e e eᵀ,     λ_e ≥ 0,     two or three offsets in 2-D,

found by flipping a superbase (b_0 + b_1 + b_2 = 0) until every b_iᵀM b_j ≤ 0; then λ_k = −b_iᵀM b_j and e_k
is b_k turned by a right angle. At most one pair is positive at a time, so the flips walk up the tree of
superbases without ever turning back and the offsets only grow. Where the next flip would reach too far,
the walk stops and the least ε with b_iᵀ(M + ε diag(1/h²))b_j ≤ 0 is added: the straight line from M towards
the isotropic matrix retraces that walk, so this ε is the smallest that makes the short stencil possible.
Sources: Selling (1874); Conway & Fung (1997), The sensual quadratic form; Fehrenbach & Mirebeau (2014),
J. Math. Imaging Vision 49.
"""

import numba as nb
import numpy as np

from ._eigenvalues import least_shift
from ._selling3 import decompose

_EIGENVALUE_FLOOR = 1e-10  # least eigenvalue of M over the largest of the same cell: rounding in D is far below
_TRACE_FLOOR = 1e-30  # least eigenvalue of M over the largest trace on the grid: for cells without any noise
_ROUNDING = 1e-13  # a weight this small beside both diagonal entries is rounding in D, not a direction


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _decompose(d, h0, h1, reach):
    """Per cell three weights, their offsets, and the isotropic diffusion added; D is positive definite."""
    cells = d.shape[0]
    weight = np.zeros((cells, 3))
    offset = np.zeros((cells, 3, 2), np.int8)
    added = np.zeros(cells)
    b = np.empty((3, 2), np.int64)
    g0, g1 = 1.0 / (h0 * h0), 1.0 / (h1 * h1)
    for c in range(cells):
        m00, m01, m11 = d[c, 0, 0] * g0, d[c, 0, 1] / (h0 * h1), d[c, 1, 1] * g1
        b[0, 0], b[0, 1], b[1, 0], b[1, 1], b[2, 0], b[2, 1] = 1, 0, 0, 1, -1, -1
        while True:
            flipped = False
            for k in range(3):
                i, j = (k + 1) % 3, (k + 2) % 3
                u0, u1, v0, v1 = b[i, 0], b[i, 1], b[j, 0], b[j, 1]
                product = u0 * v0 * m00 + (u0 * v1 + u1 * v0) * m01 + u1 * v1 * m11
                uu = u0 * u0 * m00 + 2 * u0 * u1 * m01 + u1 * u1 * m11
                vv = v0 * v0 * m00 + 2 * v0 * v1 * m01 + v1 * v1 * m11
                if product > 1e-14 * np.sqrt(uu * vv):
                    w0, w1 = u0 - v0, u1 - v1
                    if max(abs(w0), abs(w1)) > reach[c]:
                        more = product / -(u0 * v0 * g0 + u1 * v1 * g1)
                        added[c] += more
                        m00 += more * g0
                        m11 += more * g1
                    else:
                        b[i, 0], b[i, 1], b[k, 0], b[k, 1] = -u0, -u1, w0, w1
                        flipped = True
                    break
            if not flipped:
                break
        for k in range(3):
            i, j = (k + 1) % 3, (k + 2) % 3
            u0, u1, v0, v1 = b[i, 0], b[i, 1], b[j, 0], b[j, 1]
            lam = -(u0 * v0 * m00 + (u0 * v1 + u1 * v0) * m01 + u1 * v1 * m11)
            e0, e1 = -b[k, 1], b[k, 0]
            if e0 < 0 or (e0 == 0 and e1 < 0):
                e0, e1 = -e0, -e1
            if lam * e0 * e0 > _ROUNDING * m00 or lam * e1 * e1 > _ROUNDING * m11:
                weight[c, k], offset[c, k, 0], offset[c, k, 1] = lam, e0, e1
    return weight, offset, added


def selling(
    diffusion: np.ndarray, spacing: np.ndarray, reach: np.ndarray, least: np.ndarray | float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights (n, s), offsets (n, s, d) and added isotropic diffusion ε (n,) of symmetric matrices (n, d, d).

    Σ_s λ_s e_s e_sᵀ = M = (D + εI)_ij/(h_i h_j) with |e|_∞ ≤ reach (n,) and eigenvalues of M at least `least` (n,);
    offsets point into one half-plane, and an offset of zeros carries weight 0.
    """
    h, dim = np.array(spacing, float), diffusion.shape[1]
    trace = (np.diagonal(diffusion, axis1=1, axis2=2) / h**2).sum(axis=1)
    lowest = max(_TRACE_FLOOR * trace.max(), np.finfo(float).tiny)
    floor = np.maximum(least, np.full(len(trace), lowest))
    base = least_shift(np.ascontiguousarray(diffusion), floor, _EIGENVALUE_FLOOR, 1.0 / np.outer(h, h))
    raised = diffusion + base[:, None, None] * np.eye(dim)
    if dim == 1:
        return raised[:, :, 0] / h**2, np.ones((len(base), 1, 1), np.int8), base
    weight, offset, more = decompose(raised, h, reach) if dim == 3 else _decompose(raised, h[0], h[1], reach)
    return weight, offset, base + more
