"""Counter-based random numbers: Philox4x32-10 and Box–Muller, written for lanes.

A number is a function of (key, counter) alone, so any path can be replayed, refined or resumed and no result depends
on threads or on how many paths run (Salmon, Moraes, Dror & Shaw 2011). 32-bit words travel in 64-bit registers and
every function is branch-free polynomial arithmetic without libm, so that LLVM vectorises the loop around it.

The text below the marker is pasted into generated kernel modules: it may use only the names imported here.
"""

import math

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

# -- fragment --

_U32, _U12, _U2, _U62 = np.uint64(32), np.uint64(12), np.uint64(2), np.uint64(62)
_LOW = np.uint64(0xFFFFFFFF)
_ONE = np.uint64(0x3FF0000000000000)  # bits of 1.0
_MANTISSA = np.uint64(0x000FFFFFFFFFFFFF)
_U0, _U1 = np.uint64(0), np.uint64(1)


def _bitcast(source, target):
    @intrinsic
    def cast(typing_context, value):
        def codegen(context, builder, signature, arguments):
            return builder.bitcast(arguments[0], context.get_value_type(target))

        return target(source), codegen

    return cast


_bits = _bitcast(types.float64, types.uint64)
_float = _bitcast(types.uint64, types.float64)


@njit(inline="always", error_model="numpy")
def _philox(c0, c1, c2, c3, k0, k1):
    """Ten rounds on the counter (c0, c1, c2, c3) with key (k0, k1): four 32-bit words in uint64."""
    for _ in range(10):
        p0 = np.uint64(0xD2511F53) * c0
        p1 = np.uint64(0xCD9E8D57) * c2
        c0 = (p1 >> _U32) ^ c1 ^ k0
        c1 = p1 & _LOW
        c2 = (p0 >> _U32) ^ c3 ^ k1
        c3 = p0 & _LOW
        k0 = (k0 + np.uint64(0x9E3779B9)) & _LOW
        k1 = (k1 + np.uint64(0xBB67AE85)) & _LOW
    return c0, c1, c2, c3


@njit(inline="always", error_model="numpy", fastmath={"contract"})
def _minus_log(u):
    """−log(u) of a normal float64 u > 0, relative error < 4e-16: atanh series on [√½, √2]."""
    bits = _bits(u)
    exponent = np.float64(np.int64(bits >> np.uint64(52)) - 1023)
    m = _float((bits & _MANTISSA) | _ONE)
    big = m > 1.4142135623730951
    m = m * 0.5 if big else m
    exponent = exponent + 1.0 if big else exponent
    s = (m - 1.0) / (m + 1.0)
    z = s * s
    p = 1.0 / 21.0
    p = p * z + 1.0 / 19.0
    p = p * z + 1.0 / 17.0
    p = p * z + 1.0 / 15.0
    p = p * z + 1.0 / 13.0
    p = p * z + 1.0 / 11.0
    p = p * z + 1.0 / 9.0
    p = p * z + 1.0 / 7.0
    p = p * z + 1.0 / 5.0
    p = p * z + 1.0 / 3.0
    return -(exponent * 0.6931471805599453 + 2.0 * s * (1.0 + z * p))


@njit(inline="always", error_model="numpy", fastmath={"contract"})
def _sin_cos_quarter(quadrant, v):
    """(sin, cos) of (quadrant + v) π/2, quadrant a uint64, v in [−½, ½]; Taylor polynomials, error < 2e-16."""
    t = v * 1.5707963267948966
    z = t * t
    s = -1.0 / 1307674368000.0
    s = s * z + 1.0 / 6227020800.0
    s = s * z - 1.0 / 39916800.0
    s = s * z + 1.0 / 362880.0
    s = s * z - 1.0 / 5040.0
    s = s * z + 1.0 / 120.0
    s = s * z - 1.0 / 6.0
    s = t * (1.0 + z * s)
    c = 1.0 / 20922789888000.0
    c = c * z - 1.0 / 87178291200.0
    c = c * z + 1.0 / 479001600.0
    c = c * z - 1.0 / 3628800.0
    c = c * z + 1.0 / 40320.0
    c = c * z - 1.0 / 720.0
    c = c * z + 1.0 / 24.0
    c = c * z - 0.5
    c = 1.0 + z * c
    odd = (quadrant & _U1) != _U0
    sine = c if odd else s
    cosine = s if odd else c
    sine = -sine if (quadrant & _U2) != _U0 else sine
    cosine = -cosine if ((quadrant + _U1) & _U2) != _U0 else cosine
    return sine, cosine


@njit(inline="always", error_model="numpy", fastmath={"contract"})
def _two_normals(c0, c1, c2, c3, k0, k1):
    """Two independent N(0, 1) of one Philox block: 52-bit uniforms, tails to 8.49 σ (Box & Muller 1958)."""
    w0, w1, w2, w3 = _philox(c0, c1, c2, c3, k0, k1)
    a = (w0 << _U32) | w1
    b = (w2 << _U32) | w3
    u = 2.0 - _float((a >> _U12) | _ONE)  # in (0, 1]
    radius = math.sqrt(2.0 * _minus_log(u))
    v = _float(((b << _U2) >> _U12) | _ONE) - 1.5
    sine, cosine = _sin_cos_quarter(b >> _U62, v)
    return radius * cosine, radius * sine


@njit(inline="always", error_model="numpy")
def _two_indices(n, c0, c1, c2, c3, k0, k1):
    """Two independent uniform indices in [0, n), n < 2³², from one block: ⌊64-bit word · n / 2⁶⁴⌋ (bias < n/2⁶⁴)."""
    w0, w1, w2, w3 = _philox(c0, c1, c2, c3, k0, k1)
    first = (w0 * n + ((w1 * n) >> _U32)) >> _U32
    second = (w2 * n + ((w3 * n) >> _U32)) >> _U32
    return first, second
