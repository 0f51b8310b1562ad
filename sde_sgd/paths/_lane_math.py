"""exp, log, tanh, sin … as branch-free polynomials, so that LLVM vectorises a landscape's lane loop.

Measured against mpmath in the tests: a few units in the last place. Trigonometric arguments are reduced by a
three-part π/2: a few units in the last place to |x| = 1e6, an absolute error below 1e-15 to 1e15; NaN beyond.

The text below the marker becomes a generated module (`_kernel_cache.imports`), which may use that of `_philox`.
"""

import math

import numpy as np
from numba import njit

from ._philox import _U1, _U52, _bits, _float, _fma, _minus_log, _sin_cos_quarter

# -- fragment --


_TO_INTEGER = 6755399441055744.0  # 1.5·2^52: adding it rounds to an integer, kept in the low bits
_INTEGER = np.uint64(0x4338000000000000)  # its bits


@njit(forceinline=True, error_model="numpy")
def _exp(x):
    """e^x, relative error < 4e-16; 0 below −745 gradually through −708, +inf above 709.78, NaN stays NaN.

    e^x = 2^n e^r, |r| ≤ ½ log 2; (e^r − 1 − r)/r² is a minimax polynomial by Remez' exchange (error of e^r 3.7e-18
    before the coefficients are rounded).
    """
    y = min(max(x, -746.0), 710.0)
    moved = _fma(y, 1.4426950408889634, _TO_INTEGER)
    n = moved - _TO_INTEGER
    r = _fma(-n, 1.9082149292705877e-10, _fma(-n, 0.6931471803691238, y))
    p = 2.499878838959705e-08
    p = _fma(p, r, 2.763025949272233e-07)
    p = _fma(p, r, 2.755759011572286e-06)
    p = _fma(p, r, 2.4801493072232168e-05)
    p = _fma(p, r, 0.00019841269502714632)
    p = _fma(p, r, 0.001388888894365071)
    p = _fma(p, r, 0.008333333333496088)
    p = _fma(p, r, 0.04166666666653011)
    p = _fma(p, r, 0.1666666666666641)
    p = _fma(p, r, 0.5)
    p = 1.0 + _fma(r * r, p, r)
    # 2^n in two factors, so that both ends of the range are reached without a branch
    k = (_bits(moved) - _INTEGER) + np.uint64(2048)  # n + 2048 > 0
    half = k >> _U1
    scale = _float((half - _U1) << _U52)
    rest = _float((k - half - _U1) << _U52)
    value = p * scale * rest
    return value if x == x else x


@njit(forceinline=True, error_model="numpy")
def _log(x):
    """log x for x > 0 (subnormals included); −inf at 0, NaN below, +inf at +inf."""
    small = x < 2.2250738585072014e-308
    value = -_minus_log(x * 18014398509481984.0 if small else x)
    value = value - 37.42994775023705 if small else value  # 54 log 2
    value = value if x < math.inf else x
    value = -math.inf if x == 0.0 else value
    return value if x >= 0.0 else math.nan


@njit(forceinline=True, error_model="numpy")
def _tanh(x):
    """tanh x, relative error < 6e-16: a minimax polynomial near 0, (1 − e)/(1 + e) with e = e^{−2|x|} beyond."""
    a = math.fabs(x)
    # near 0, where 1 − e cancels: relative error 9.7e-18 on |x| ≤ 0.35 before the coefficients are rounded (Remez)
    b = min(a, 0.35)
    z = b * b
    s = 0.00047463491738370284
    s = _fma(s, z, -0.001430691973846158)
    s = _fma(s, z, 0.003589118132153091)
    s = _fma(s, z, -0.008863024668071958)
    s = _fma(s, z, 0.021869479889583036)
    s = _fma(s, z, -0.053968253771590334)
    s = _fma(s, z, 0.1333333333311664)
    s = _fma(s, z, -0.33333333333332515)
    s = _fma(b, z * s, b)
    e = _exp(-2.0 * a)
    value = s if a < 0.35 else (1.0 - e) / (1.0 + e)
    return math.copysign(value, x) if x == x else x


@njit(forceinline=True, error_model="numpy")
def _sinh(x):
    """sinh x = tanh x cosh x, which does not cancel near 0."""
    return _tanh(x) * _cosh(x)


@njit(forceinline=True, error_model="numpy")
def _cosh(x):
    """cosh x = (e^{|x|} + e^{−|x|})/2."""
    half = 0.5 * _exp(0.5 * math.fabs(x))
    e = 2.0 * half  # e^{|x|/2}; squared last so that it overflows only where cosh does
    return _fma(half, e, 0.5 / (e * e))


@njit(inline="always", error_model="numpy")
def _reduced_sin_cos(x):
    x = x if math.fabs(x) <= 1e15 else math.nan
    moved = _fma(x, 0.6366197723675814, _TO_INTEGER)
    n = moved - _TO_INTEGER
    r = _fma(-n, 2.0222662487959506e-21, _fma(-n, 6.077100506303966e-11, _fma(-n, 1.5707963267341256, x)))
    return _sin_cos_quarter(_bits(moved), r * 0.6366197723675814)


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
    return np.float64(x > 0.0) - np.float64(x < 0.0)
