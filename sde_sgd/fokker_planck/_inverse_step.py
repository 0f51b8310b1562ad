"""D⁻¹δ of an edge, D at its midpoint."""

import numba as nb
import numpy as np


@nb.njit(cache=True, nogil=True, error_model="numpy")
def inverse_step(here, delta, shift):
    """(D + sI)⁻¹δ per edge (n, d), positive definite, for D = here (n, d, d), made symmetric, and s = shift (n,).

    By Cholesky's factors: the error is that of D scaled to a unit diagonal, so that units may differ between the axes.
    """
    count, dim = delta.shape
    result, factor = delta.copy(), np.empty((dim, dim))
    for n in range(count):
        for i in range(dim):
            for j in range(i):
                rest = 0.5 * (here[n, i, j] + here[n, j, i])
                for k in range(j):
                    rest -= factor[i, k] * factor[j, k]
                factor[i, j] = rest / factor[j, j]
                result[n, i] -= factor[i, j] * result[n, j]
            pivot = here[n, i, i] + shift[n]
            for k in range(i):
                pivot -= factor[i, k] * factor[i, k]
            factor[i, i] = np.sqrt(pivot)
            result[n, i] /= factor[i, i]
        for i in range(dim - 1, -1, -1):
            for j in range(i + 1, dim):
                result[n, i] -= factor[j, i] * result[n, j]
            result[n, i] /= factor[i, i]
    return result
