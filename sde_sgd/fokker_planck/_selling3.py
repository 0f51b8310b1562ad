"""Selling's decomposition of 3×3 diffusion matrices: six non-negative weights on short offsets.

As in `_selling`, M_ij = D_ij/(h_i h_j) = Σ_e λ_e e eᵀ. A superbase is four integer vectors with
b_0 + b_1 + b_2 + b_3 = 0 of which any three have determinant ±1; where every b_iᵀM b_j ≤ 0,

    λ_ij = −b_iᵀM b_j,     e_ij = b_k × b_l,     {i, j, k, l} = {0, 1, 2, 3}.

Where b_iᵀM b_j > 0, the superbase −b_i, b_j, b_k + b_i, b_l + b_i has a smaller Σ bᵀM b. The matrices that share a
superbase form a convex cone, and the cones fill the positive definite matrices, meeting along facets. So
M + ε diag(1/h²) is followed from ε = ∞, where the superbase is that of the axes, downwards: the next facet is the
largest ε at which some b_iᵀ(M + ε diag(1/h²))b_j becomes positive, and no cone is entered twice. The walk ends at the
least ε at which every offset is within reach. Unlike in 2-D, the line might leave the short stencils and come back;
the walk goes on until an offset is twice as long as allowed.
Sources: Selling (1874); Conway & Sloane (1992), Low-dimensional lattices VI; Fehrenbach & Mirebeau (2014), J. Math.
Imaging Vision 49.
"""

import numba as nb
import numpy as np

_ROUNDING = 1e-13  # as in `_selling`
_FLIPS = 10_000  # never met: offsets grow with flips, and the walk ends when they are long


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _other(i, j):
    """The two of 0, 1, 2, 3 that are neither i nor j."""
    k = 0
    while k in (i, j):
        k += 1
    return k, 6 - i - j - k


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _longest(b):
    """Largest entry of the six offsets b_k × b_l."""
    longest = 0
    for k in range(4):
        for m in range(k + 1, 4):
            for a in range(3):
                p, q = (a + 1) % 3, (a + 2) % 3
                longest = max(longest, abs(b[k, p] * b[m, q] - b[k, q] * b[m, p]))
    return longest


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _form(m, u, v):
    total = 0.0
    for p in range(3):
        for q in range(3):
            total += u[p] * m[p, q] * v[q]
    return total


@nb.njit(cache=True, nogil=True, error_model="numpy")
def decompose(d, h, reach):
    """Per cell six weights, their offsets, and the isotropic diffusion added; D is positive definite."""
    cells = d.shape[0]
    weight, offset, added = np.zeros((cells, 6)), np.zeros((cells, 6, 3), np.int8), np.zeros(cells)
    b, kept = np.empty((4, 3), np.int64), np.empty((4, 3), np.int64)
    m, e = np.empty((3, 3)), np.empty(3, np.int64)
    for c in range(cells):
        for p in range(3):
            for q in range(3):
                m[p, q] = d[c, p, q] / (h[p] * h[q])
        b[:] = 0
        b[0, 0] = b[1, 1] = b[2, 2] = 1
        b[3] = -1
        epsilon, fits, more = np.inf, True, 0.0  # ε, and the least at which the stencil was short
        for _ in range(_FLIPS):
            at, first, second = 0.0, -1, -1
            for i in range(4):
                for j in range(i + 1, 4):
                    product = _form(m, b[i], b[j])
                    if product > 1e-14 * np.sqrt(_form(m, b[i], b[i]) * _form(m, b[j], b[j])):
                        grown = 0.0
                        for p in range(3):
                            grown += b[i, p] * b[j, p] / (h[p] * h[p])
                        facet = product / -grown if grown < 0.0 else epsilon
                        if facet > at:
                            at, first, second = facet, i, j
            if first < 0:
                break
            epsilon = min(epsilon, at)
            k, n = _other(first, second)
            if fits:
                kept[:] = b
                more = epsilon
            b[k] += b[first]
            b[n] += b[first]
            b[first] = -b[first]
            longest = _longest(b)
            fits = longest <= reach[c]
            if longest > 2 * reach[c]:
                break
        if fits:
            more = 0.0
        else:
            b[:] = kept
        added[c] = more
        for p in range(3):
            m[p, p] += more / (h[p] * h[p])
        slot = 0
        for i in range(4):
            for j in range(i + 1, 4):
                k, n = _other(i, j)
                lam = -_form(m, b[i], b[j])
                for a in range(3):
                    p, q = (a + 1) % 3, (a + 2) % 3
                    e[a] = b[k, p] * b[n, q] - b[k, q] * b[n, p]
                if e[0] < 0 or (e[0] == 0 and (e[1] < 0 or (e[1] == 0 and e[2] < 0))):
                    e[:] = -e
                heard = False
                for a in range(3):
                    heard = heard or lam * e[a] * e[a] > _ROUNDING * m[a, a]
                if heard:
                    weight[c, slot] = lam
                    for a in range(3):
                        offset[c, slot, a] = e[a]
                slot += 1
    return weight, offset, added
