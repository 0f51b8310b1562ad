"""P = δ·D⁻¹(b − T div D)/T along an edge, from D and the force at its midpoint."""

import numba as nb
import numpy as np

_FLOOR = 0.25  # of the smallest eigenvalue of the ends' mean, which the midpoint's must reach


@nb.njit(cache=True, nogil=True, error_model="numpy")
def drop2(here, force, delta, tail, head, diffusion, added):
    """δ·(D + sI)⁻¹f per edge for D = here (n, d, d), d ≤ 2, s ≥ ε such that the smallest eigenvalue reaches its floor.

    The adjugate over the determinant, the latter as a product of eigenvalues: no cancellation that matters.
    """
    count, d = force.shape
    result = np.empty(count)
    for n in range(count):
        t, h = tail[n], head[n]
        epsilon = 0.5 * (added[t] + added[h])
        if d == 1:
            floor = _FLOOR * (0.5 * (diffusion[t, 0, 0] + diffusion[h, 0, 0]) + epsilon)
            shift = epsilon + max(0.0, floor - here[n, 0, 0] - epsilon)
            result[n] = delta[n, 0] * force[n, 0] / (here[n, 0, 0] + shift)
            continue
        m00 = 0.5 * (diffusion[t, 0, 0] + diffusion[h, 0, 0])
        m01 = 0.5 * (diffusion[t, 0, 1] + diffusion[h, 0, 1])
        m11 = 0.5 * (diffusion[t, 1, 1] + diffusion[h, 1, 1])
        least = 0.5 * (m00 + m11) - np.hypot(0.5 * (m00 - m11), m01)
        d00, d01, d11 = here[n, 0, 0], 0.5 * (here[n, 0, 1] + here[n, 1, 0]), here[n, 1, 1]
        mean, radius = 0.5 * (d00 + d11), np.hypot(0.5 * (d00 - d11), d01)
        shift = epsilon + max(0.0, _FLOOR * (least + epsilon) - (mean - radius) - epsilon)
        x = (d11 + shift) * force[n, 0] - d01 * force[n, 1]
        y = (d00 + shift) * force[n, 1] - d01 * force[n, 0]
        result[n] = (delta[n, 0] * x + delta[n, 1] * y) / ((mean - radius + shift) * (mean + radius + shift))
    return result


@nb.njit(cache=True, nogil=True, error_model="numpy")
def drop3(here, force, delta, least_of_mean, least, added):
    """As `drop2` in 3-D, from the smallest eigenvalues of the ends' mean and of `here`, and ε at the midpoint.

    By Cholesky's factors, whose error is that of D scaled to a unit diagonal: units may differ between the axes.
    """
    count = force.shape[0]
    result = np.empty(count)
    for n in range(count):
        shift = added[n] + max(0.0, _FLOOR * (least_of_mean[n] + added[n]) - least[n] - added[n])
        a00, a11, a22 = here[n, 0, 0] + shift, here[n, 1, 1] + shift, here[n, 2, 2] + shift
        a10 = 0.5 * (here[n, 0, 1] + here[n, 1, 0])
        a20 = 0.5 * (here[n, 0, 2] + here[n, 2, 0])
        a21 = 0.5 * (here[n, 1, 2] + here[n, 2, 1])
        l00 = np.sqrt(a00)
        l10, l20 = a10 / l00, a20 / l00
        l11 = np.sqrt(a11 - l10 * l10)
        l21 = (a21 - l20 * l10) / l11
        l22 = np.sqrt(a22 - l20 * l20 - l21 * l21)
        # δᵀ(LLᵀ)⁻¹f = (L⁻¹δ)ᵀ(L⁻¹f)
        u0, v0 = delta[n, 0] / l00, force[n, 0] / l00
        u1, v1 = (delta[n, 1] - l10 * u0) / l11, (force[n, 1] - l10 * v0) / l11
        u2, v2 = (delta[n, 2] - l20 * u0 - l21 * u1) / l22, (force[n, 2] - l20 * v0 - l21 * v1) / l22
        result[n] = u0 * v0 + u1 * v1 + u2 * v2
    return result
