"""What is made of Philox words in float32: normals, written for lanes.

Numba widens float32 with a literal to float64 and uint32 with uint32 to uint64: every constant is a `np.float32`, and
every result of integers is cut back to 32 bits, which the compiler turns into arithmetic of 32 bits throughout.

One loop should store `_four_words` (64-bit registers) and another turn them into normals (32-bit registers): a loop
that does both gets vectors half as long.

The text below the marker becomes a generated module (`_kernel_cache.imports`), which may use that of `_philox`.
"""

import math

import numpy as np
from numba import njit, types

from ._philox import _LOW, _U32, _bitcast, _fma, _raw_philox, _widest_vectors

# -- fragment --

_F = np.float32
_BIT, _W23, _W31 = np.uint32(1), np.uint32(23), np.uint32(31)
_MANTISSA32 = np.uint32(0x007FFFFF)
_SIGN32 = np.uint32(0x80000000)
_ROOT_HALF32 = np.uint32(0x3F3504F3)  # bits of √½
_ROOT_HALF_TO_ONE32 = np.uint32(0x004AFB0D)  # bits of 1 less those of √½
_TWO_23 = np.uint32(0x4B000000)  # bits of 2^23

_bits32 = _bitcast(types.float32, types.uint32)
_float32 = _bitcast(types.uint32, types.float32)


@njit(forceinline=True, error_model="numpy")
def _four_words(c0, c1, c2, c3, k0, k1):
    """The block as four uint32 words: two Box–Muller pairs."""
    w0, w1, w2, w3 = _raw_philox(c0, c1, c2, c3, k0, k1)
    return np.uint32(w0), np.uint32(w1), np.uint32(w2), np.uint32(w3)


@njit(inline="always", error_model="numpy")
def _minus_log32(u):
    """−log(u) of a normal float32 u > 0, relative error < 3e-7: `_minus_log` with a minimax polynomial of 8.1e-10."""
    moved = np.uint32(_bits32(u) + _ROOT_HALF_TO_ONE32)
    exponent = _float32(np.uint32((moved >> _W23) | _TWO_23)) - _F(8388735.0)  # 2^23 + 127
    m = _float32(np.uint32((moved & _MANTISSA32) + _ROOT_HALF32))
    t = (_F(1.0) - m) / (_F(1.0) + m)
    z = t * t
    p = _F(0.2987173)
    p = _fma(p, z, _F(0.39977542))
    p = _fma(p, z, _F(0.66666776))
    p = _fma(p, z, _F(2.0))
    return _fma(exponent, _F(-0.6931472), t * p)


@njit(inline="always", error_model="numpy")
def _sin_cos_eighth32(v):
    """(sin, cos) of v π/2, v in [−½, ½], relative error < 2e-7: minimax polynomials of 3.3e-9 and 6.4e-11."""
    z = v * v
    s = _F(-0.004601658)
    s = _fma(s, z, _F(0.07968003))
    s = _fma(s, z, -_F(0.6459635))
    s = _fma(s, z, _F(1.5707964))
    c = _F(0.00090376654)
    c = _fma(c, z, -_F(0.020860165))
    c = _fma(c, z, _F(0.25366923))
    c = _fma(c, z, -_F(1.2337005))
    c = _fma(c, z, _F(1.0))
    return s * v, c


@njit(forceinline=True, error_model="numpy")
def _normal_pair32(a, b):
    """Two independent N(0, 1) in float32 of two uint32 words, as `_normal_pair`: tails to 6.55 σ.

    The uniform of the radius is a multiple of 2^−31, so that √(2 · 31 log 2) = 6.55 is the largest: of 10^10 normals
    fewer than one is missing. The angle has 31 bits, symmetric about 0; the lowest bits of the words are the signs.
    """
    u = (_F(np.int32(a >> _BIT)) + _F(1.0)) * _F(4.656612873077393e-10)  # 2^−31
    radius = math.sqrt(_minus_log32(u))
    sine, cosine = _sin_cos_eighth32(_F(np.int32(np.uint32(b | _BIT))) * _F(2.3283064365386963e-10))  # 2^−32
    first = _float32(np.uint32(_bits32(radius * (cosine - sine)) ^ np.uint32(a << _W31)))
    second = _float32(np.uint32(_bits32(radius * (cosine + sine)) ^ np.uint32(b << _W31)))
    return first, second


@njit(forceinline=True, error_model="numpy")
def _four_normals(c0, c1, c2, c3, k0, k1):
    """Four independent N(0, 1) in float32 of one block."""
    w0, w1, w2, w3 = _four_words(c0, c1, c2, c3, k0, k1)
    z0, z1 = _normal_pair32(w0, w1)
    z2, z3 = _normal_pair32(w2, w3)
    return z0, z1, z2, z3


@njit(forceinline=True, error_model="numpy")
def _draw_normals32(rows, first_path, block, key0, key1):
    """`_draw_normals` in float32: rows 4b … 4b + 3 of stream b."""
    _widest_vectors()  # type: ignore[call-arg]
    if rows.shape[1] == 64:
        for b in range(rows.shape[0] // 4):
            for j in range(64):
                path = first_path + np.uint64(j)
                w0, w1, w2, w3 = _four_words(block, np.uint64(b), path & _LOW, path >> _U32, key0, key1)
                rows[4 * b, j] = _float32(w0)
                rows[4 * b + 1, j] = _float32(w1)
                rows[4 * b + 2, j] = _float32(w2)
                rows[4 * b + 3, j] = _float32(w3)
            for j in range(64):
                first, second = _normal_pair32(_bits32(rows[4 * b, j]), _bits32(rows[4 * b + 1, j]))
                third, fourth = _normal_pair32(_bits32(rows[4 * b + 2, j]), _bits32(rows[4 * b + 3, j]))
                rows[4 * b, j] = first
                rows[4 * b + 1, j] = second
                rows[4 * b + 2, j] = third
                rows[4 * b + 3, j] = fourth


@njit(forceinline=True, error_model="numpy")
def _draw_normals32_of(rows, ids, base, block, key0, key1):
    """`_draw_normals32` of the paths ids[base] … ids[base + 63]."""
    _widest_vectors()  # type: ignore[call-arg]
    if rows.shape[1] == 64:
        for b in range(rows.shape[0] // 4):
            for j in range(64):
                path = ids[base + j]
                w0, w1, w2, w3 = _four_words(block, np.uint64(b), path & _LOW, path >> _U32, key0, key1)
                rows[4 * b, j] = _float32(w0)
                rows[4 * b + 1, j] = _float32(w1)
                rows[4 * b + 2, j] = _float32(w2)
                rows[4 * b + 3, j] = _float32(w3)
            for j in range(64):
                first, second = _normal_pair32(_bits32(rows[4 * b, j]), _bits32(rows[4 * b + 1, j]))
                third, fourth = _normal_pair32(_bits32(rows[4 * b + 2, j]), _bits32(rows[4 * b + 3, j]))
                rows[4 * b, j] = first
                rows[4 * b + 1, j] = second
                rows[4 * b + 2, j] = third
                rows[4 * b + 3, j] = fourth
