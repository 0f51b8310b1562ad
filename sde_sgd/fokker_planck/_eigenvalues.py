"""Eigenvalues of diffusion matrices, and the isotropic diffusion that keeps them off zero.

Whether the noise along a direction is too weak is asked of M = H⁻¹DH⁻¹, D in cells, H = diag(h): a change of units
changes D and h and leaves M alone.
"""

import numba as nb
import numpy as np

_CLOSE, _HALVINGS = 1.01, 60  # bounds on ε: their ratio at the end, and how often its logarithm is halved at most
_SWEEPS = 30  # of Jacobi's rotations, whose convergence is quadratic: six are usual


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _extremes(a, dim):
    """Smallest and largest eigenvalue of the symmetric a[:dim, :dim], dim ≤ 3, to rounding in its largest entry."""
    if dim == 1:
        return a[0, 0], a[0, 0]
    if dim == 2:
        mean, radius = 0.5 * (a[0, 0] + a[1, 1]), np.hypot(0.5 * (a[0, 0] - a[1, 1]), a[0, 1])
        return mean - radius, mean + radius
    for _ in range(_SWEEPS):
        size = np.abs(a).max()
        if max(abs(a[0, 1]), abs(a[0, 2]), abs(a[1, 2])) <= 1e-17 * size:
            break
        for r in range(3):
            p, q = (r + 1) % 3, (r + 2) % 3
            if a[p, q] == 0.0:
                continue
            theta = 0.5 * (a[q, q] - a[p, p]) / a[p, q]
            t = 1.0 / (abs(theta) + np.sqrt(1.0 + theta * theta))
            if theta < 0.0:
                t = -t
            c = 1.0 / np.sqrt(1.0 + t * t)
            s = t * c
            a[p, p] -= t * a[p, q]
            a[q, q] += t * a[p, q]
            x, y = a[r, p], a[r, q]
            a[r, p] = a[p, r] = c * x - s * y
            a[r, q] = a[q, r] = s * x + c * y
            a[p, q] = a[q, p] = 0.0
    return min(a[0, 0], a[1, 1], a[2, 2]), max(a[0, 0], a[1, 1], a[2, 2])


@nb.njit(cache=True, nogil=True, error_model="numpy")
def eigenvalue_range(d):
    """Smallest and largest eigenvalue of symmetric matrices (n, d, d), d ≤ 3."""
    count, dim = d.shape[0], d.shape[1]
    low, high, a = np.empty(count), np.empty(count), np.empty((dim, dim))
    for n in range(count):
        a[:] = d[n]
        low[n], high[n] = _extremes(a, dim)
    return low, high


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _in_cells(a, d, shift, unit):
    """a = H⁻¹(D + shift·I)H⁻¹, D made symmetric; unit[i, j] = 1/(h_i h_j)."""
    for p in range(unit.shape[0]):
        a[p, p] = (d[p, p] + shift) * unit[p, p]
        for q in range(p):
            a[p, q] = a[q, p] = 0.5 * (d[p, q] + d[q, p]) * unit[p, q]


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _lifted(a, d, shift, floor, unit):
    """s ≥ shift, the least within a hundredth of what it adds, that leaves no eigenvalue in cells below `floor`."""
    dim = unit.shape[0]
    _in_cells(a, d, shift, unit)
    missing = floor - _extremes(a, dim)[0]
    if missing <= 0.0:
        return shift
    below, above = missing / unit[0, 0], missing / unit[0, 0]  # in cells ε is between the least and the most of ε/h_i²
    for p in range(1, dim):
        below, above = min(below, missing / unit[p, p]), max(above, missing / unit[p, p])
    for _ in range(_HALVINGS):
        if above <= _CLOSE * below:
            break
        middle = np.sqrt(below) * np.sqrt(above)
        _in_cells(a, d, shift + middle, unit)
        if _extremes(a, dim)[0] >= floor:
            above = middle
        else:
            below = middle
    return shift + above


@nb.njit(cache=True, nogil=True, error_model="numpy")
def least_shift(d, floor, relative_floor, unit):
    """Per matrix (n, d, d) an ε ≥ 0 that leaves no eigenvalue in cells below `floor`, or `relative_floor` of the
    largest: the least, within a hundredth. unit[i, j] = 1/(h_i h_j)."""
    dim = unit.shape[0]
    shift, a = np.empty(d.shape[0]), np.empty((dim, dim))
    for n in range(d.shape[0]):
        _in_cells(a, d[n], 0.0, unit)
        high = _extremes(a, dim)[1]
        shift[n] = _lifted(a, d[n], 0.0, max(floor[n], relative_floor * high), unit)
    return shift


@nb.njit(cache=True, nogil=True, error_model="numpy")
def midpoint_shift(here, tail, head, diffusion, added, share, unit):
    """Per edge an s ≥ ε, the least within a hundredth of s − ε, such that D + sI at the midpoint, D = here, has no
    eigenvalue in cells below a share of the smallest of the ends' mean with its ε. unit[i, j] = 1/(h_i h_j)."""
    dim = unit.shape[0]
    shift, a, mean = np.empty(tail.size), np.empty((dim, dim)), np.empty((dim, dim))
    for n in range(tail.size):
        t, u = tail[n], head[n]
        for p in range(dim):
            for q in range(dim):
                mean[p, q] = 0.5 * (diffusion[t, p, q] + diffusion[u, p, q])
        epsilon = 0.5 * (added[t] + added[u])
        _in_cells(a, mean, epsilon, unit)
        shift[n] = _lifted(a, here[n], epsilon, share * _extremes(a, dim)[0], unit)
    return shift
