"""The functions of `_lane_math` under the same names in float32: what a float32 kernel imports in its stead.

Measured against mpmath in the tests: a few units in the last place (1.2e-7). Trigonometric arguments are reduced by a
four-part π/2: an absolute error below 2e-7 to |x| = 1e5, where neighbouring arguments differ by 0.008; NaN beyond.

The text below the marker becomes a generated module (`_kernel_cache.imports`), which may use those of `_philox`
and `_normals32`.
"""

import math

import numpy as np
from numba import njit

from ._normals32 import _BIT, _F, _SIGN32, _W23, _bits32, _float32, _minus_log32, _sin_cos_eighth32
from ._philox import _fma

# -- fragment --

_TO_INTEGER32 = np.float32(12582912.0)  # 1.5·2^23: adding it rounds to an integer, kept in the low bits
_INTEGER32 = np.uint32(0x4B400000)  # its bits
_NAN32, _INF32 = np.float32(math.nan), np.float32(math.inf)


@njit(forceinline=True, error_model="numpy")
def _exp(x):
    """e^x; 0 below −104 gradually through −87.3, +inf above 88.72, NaN stays NaN; minimax polynomial of 3.1e-9."""
    y = min(max(x, _F(-105.0)), _F(89.0))
    moved = _fma(y, _F(1.442695), _TO_INTEGER32)
    n = moved - _TO_INTEGER32
    r = _fma(-n, _F(-0.00021219444), _fma(-n, _F(0.693359375), y))  # the first has 9 bits: its product is exact
    p = _F(0.0013813877)
    p = _fma(p, r, _F(0.008368725))
    p = _fma(p, r, _F(0.041668396))
    p = _fma(p, r, _F(0.16666521))
    p = _fma(p, r, _F(0.49999994))
    p = _F(1.0) + _fma(r * r, p, r)
    # 2^n in two factors, so that both ends of the range are reached without a branch
    k = np.uint32(np.uint32(_bits32(moved) - _INTEGER32) + np.uint32(256))  # n + 256 > 0
    half = np.uint32(k >> _BIT)
    scale = _float32(np.uint32(np.uint32(half - _BIT) << _W23))
    rest = _float32(np.uint32(np.uint32(k - half - _BIT) << _W23))
    value = p * scale * rest
    return value if x == x else x


@njit(forceinline=True, error_model="numpy")
def _log(x):
    """log x for x > 0 (subnormals included); −inf at 0, NaN below, +inf at +inf."""
    small = x < _F(1.1754944e-38)
    value = -_minus_log32(x * _F(16777216.0) if small else x)
    value = value - _F(16.635532) if small else value  # 24 log 2
    value = value if x < _INF32 else x
    value = -_INF32 if x == _F(0.0) else value
    return value if x >= _F(0.0) else _NAN32


@njit(forceinline=True, error_model="numpy")
def _tanh(x):
    """tanh x: a minimax polynomial (4.8e-10) to |x| = 0.35, (1 − e)/(1 + e) with e = e^{−2|x|} beyond."""
    a = math.fabs(x)
    b = a if a < _F(0.35) else _F(0.35)
    z = b * b
    s = _F(0.019420948)
    s = _fma(s, z, -_F(0.05372263))
    s = _fma(s, z, _F(0.13332349))
    s = _fma(s, z, -_F(0.33333322))
    s = _fma(b, z * s, b)
    e = _exp(_F(-2.0) * a)
    value = s if a < _F(0.35) else (_F(1.0) - e) / (_F(1.0) + e)
    return math.copysign(value, x) if x == x else x


@njit(forceinline=True, error_model="numpy")
def _sinh(x):
    """sinh x = tanh x cosh x, which does not cancel near 0."""
    return _tanh(x) * _cosh(x)


@njit(forceinline=True, error_model="numpy")
def _cosh(x):
    """cosh x = (e^{|x|} + e^{−|x|})/2."""
    half = _F(0.5) * _exp(_F(0.5) * math.fabs(x))
    e = _F(2.0) * half  # e^{|x|/2}; squared last so that it overflows only where cosh does
    return _fma(half, e, _F(0.5) / (e * e))


@njit(inline="always", error_model="numpy")
def _reduced_sin_cos(x):
    x = x if math.fabs(x) <= _F(1e5) else _NAN32
    moved = _fma(x, _F(0.63661975), _TO_INTEGER32)
    n = moved - _TO_INTEGER32
    # three parts of 8 bits, so that their products with n < 2^16 are exact, and the rest
    r = _fma(-n, _F(1.2665987e-06), _fma(-n, _F(0.0004825592), _fma(-n, _F(1.5703125), x)))
    r = _fma(-n, _F(9.920936e-10), r)
    s, c = _sin_cos_eighth32(r * _F(0.63661975))
    quadrant = _bits32(moved)
    odd = (quadrant & _BIT) != np.uint32(0)
    sine = c if odd else s
    cosine = s if odd else c
    sine = _float32(np.uint32(_bits32(sine) ^ np.uint32(np.uint32(quadrant << np.uint32(30)) & _SIGN32)))
    turned = np.uint32(np.uint32(np.uint32(quadrant + _BIT) << np.uint32(30)) & _SIGN32)
    return sine, _float32(np.uint32(_bits32(cosine) ^ turned))


@njit(forceinline=True, error_model="numpy")
def _sin(x):
    return _reduced_sin_cos(x)[0]


@njit(forceinline=True, error_model="numpy")
def _cos(x):
    return _reduced_sin_cos(x)[1]


@njit(forceinline=True, error_model="numpy")
def _tan(x):
    sine, cosine = _reduced_sin_cos(x)
    return sine / cosine


@njit(forceinline=True, error_model="numpy")
def _sign(x):
    return _F(x > _F(0.0)) - _F(x < _F(0.0))
