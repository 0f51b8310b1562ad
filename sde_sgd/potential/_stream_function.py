"""Discrete stream function of a divergence-free set of edge fluxes in 2-D."""

import numba as nb
import numpy as np


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _through_faces(tail, offset, flux, cells0, cells1):
    """Fluxes through the cell faces: an edge of several cells takes half its flux x-first, half y-first.

    Either staircase starts and ends where the edge does, so the balance of every cell is untouched. Returns
    fx (cells0−1, cells1), through the face between (i, j) and (i+1, j), and fy (cells0, cells1−1).
    """
    fx = np.zeros((cells0 - 1, cells1))
    fy = np.zeros((cells0, cells1 - 1))
    for k in range(tail.size):
        i, j = tail[k] // cells1, tail[k] % cells1
        a, b = offset[k, 0], offset[k, 1]
        half = 0.5 * flux[k]
        for s in range(abs(a)):
            face = i + s if a > 0 else i - s - 1
            signed = half if a > 0 else -half
            fx[face, j] += signed
            fx[face, j + b] += signed
        for s in range(abs(b)):
            face = j + s if b > 0 else j - s - 1
            signed = half if b > 0 else -half
            fy[i, face] += signed
            fy[i + a, face] += signed
    return fx, fy


def stream_function(tail: np.ndarray, offset: np.ndarray, flux: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """ψ at the cell centres with J = (∂_yψ, −∂_xψ) and ψ = 0 on the walls: face fluxes are differences of ψ.

    `flux` is the mass per time along each edge; its divergence must vanish in every cell. A vertex can be
    reached from each of the four walls by a sum of fluxes; the sum with the smallest total of absolute values
    is taken, because its rounding error is smallest: a vertex in the tail is never reached across the bulk,
    where a sum would cancel down to it.
    """
    fx, fy = _through_faces(tail, offset, flux, *shape)
    inner = (shape[0] - 1, shape[1] - 1)
    psi, weight = np.zeros(inner), np.full(inner, np.inf)

    def offer(sums: np.ndarray, totals: np.ndarray) -> None:
        better = totals < weight
        psi[better], weight[better] = sums[better], totals[better]

    for face, axis, sign in ((fx, 1, 1.0), (fy, 0, -1.0)):
        flipped, size = np.flip(face, axis), np.abs(face)
        keep = [slice(None)] * 2
        keep[axis] = slice(None, -1)
        ahead, back = tuple(keep), [slice(None)] * 2
        back[axis] = slice(1, None)
        from_end = (
            np.flip(np.cumsum(flipped, axis), axis),
            np.flip(np.cumsum(np.flip(size, axis), axis), axis),
        )
        offer(sign * np.cumsum(face, axis)[ahead], np.cumsum(size, axis)[ahead])
        offer(-sign * from_end[0][tuple(back)], from_end[1][tuple(back)])

    vertices = np.pad(psi, 1)
    return 0.25 * (vertices[1:, 1:] + vertices[1:, :-1] + vertices[:-1, 1:] + vertices[:-1, :-1])
