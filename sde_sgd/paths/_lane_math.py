"""exp, log, tanh, sin … as branch-free polynomials, so that LLVM vectorises a landscape's lane loop.

Measured against mpmath in the tests: a few units in the last place. Trigonometric arguments are reduced by a
three-part π/2: a few units in the last place to |x| = 1e6, an absolute error below 1e-15 to 1e15; NaN beyond.

The text below the marker is pasted into generated kernel modules, after that of `_philox`.
"""

import math

import numpy as np
from numba import njit

from ._philox import _float, _minus_log, _sin_cos_quarter

# -- fragment --


@njit(inline="always", error_model="numpy", fastmath={"contract"})
def _exp(x):
    """e^x, relative error < 3e-16; 0 below −745 gradually through −708, +inf above 709.78, NaN stays NaN."""
    y = min(max(x, -746.0), 710.0)
    n = np.floor(y * 1.4426950408889634 + 0.5)
    r = (y - n * 0.6931471803691238) - n * 1.9082149292705877e-10
    p = 1.0 / 6227020800.0
    p = p * r + 1.0 / 479001600.0
    p = p * r + 1.0 / 39916800.0
    p = p * r + 1.0 / 3628800.0
    p = p * r + 1.0 / 362880.0
    p = p * r + 1.0 / 40320.0
    p = p * r + 1.0 / 5040.0
    p = p * r + 1.0 / 720.0
    p = p * r + 1.0 / 120.0
    p = p * r + 1.0 / 24.0
    p = p * r + 1.0 / 6.0
    p = p * r + 0.5
    p = 1.0 + (r + r * r * p)
    # 2^n in two factors, so that both ends of the range are reached without a branch
    k = np.int64(n)
    half = k >> 1
    scale = _float(np.uint64(half + 1023) << np.uint64(52))
    rest = _float(np.uint64(k - half + 1023) << np.uint64(52))
    value = p * scale * rest
    return value if x == x else x


@njit(inline="always", error_model="numpy", fastmath={"contract"})
def _log(x):
    """log x for x > 0 (subnormals included); −inf at 0, NaN below, +inf at +inf."""
    small = x < 2.2250738585072014e-308
    value = -_minus_log(x * 18014398509481984.0 if small else x)
    value = value - 37.42994775023705 if small else value  # 54 log 2
    value = value if x < math.inf else x
    value = -math.inf if x == 0.0 else value
    return value if x >= 0.0 else math.nan


@njit(inline="always", error_model="numpy", fastmath={"contract"})
def _tanh(x):
    """tanh x, relative error < 1e-15: an odd polynomial quotient near 0, (1 − e)/(1 + e) with e = e^{−2|x|} beyond."""
    a = math.fabs(x)
    # near 0: tanh = sinh/cosh by Taylor, which does not cancel
    b = min(a, 0.35)
    z = b * b
    s = 1.0 / 6227020800.0
    s = s * z + 1.0 / 39916800.0
    s = s * z + 1.0 / 362880.0
    s = s * z + 1.0 / 5040.0
    s = s * z + 1.0 / 120.0
    s = s * z + 1.0 / 6.0
    s = b * (1.0 + z * s)
    c = 1.0 / 479001600.0
    c = c * z + 1.0 / 3628800.0
    c = c * z + 1.0 / 40320.0
    c = c * z + 1.0 / 720.0
    c = c * z + 1.0 / 24.0
    c = c * z + 0.5
    c = 1.0 + z * c
    e = _exp(-2.0 * a)
    # one division serves both cases
    near = a < 0.35
    top = s if near else 1.0 - e
    bottom = c if near else 1.0 + e
    return math.copysign(top / bottom, x) if x == x else x


@njit(inline="always", error_model="numpy", fastmath={"contract"})
def _sinh(x):
    """sinh x = tanh x cosh x, which does not cancel near 0."""
    return _tanh(x) * _cosh(x)


@njit(inline="always", error_model="numpy", fastmath={"contract"})
def _cosh(x):
    """cosh x = (e^{|x|} + e^{−|x|})/2."""
    half = 0.5 * _exp(0.5 * math.fabs(x))
    e = 2.0 * half  # e^{|x|/2}; squared last so that it overflows only where cosh does
    return half * e + 0.5 / (e * e)


@njit(inline="always", error_model="numpy", fastmath={"contract"})
def _reduced_sin_cos(x):
    x = x if math.fabs(x) <= 1e15 else math.nan
    n = np.floor(x * 0.6366197723675814 + 0.5)
    r = ((x - n * 1.5707963267341256) - n * 6.077100506303966e-11) - n * 2.0222662487959506e-21
    return _sin_cos_quarter(np.uint64(np.int64(n if x == x else 0.0)), r * 0.6366197723675814)


@njit(inline="always", error_model="numpy", fastmath={"contract"})
def _sin(x):
    return _reduced_sin_cos(x)[0]


@njit(inline="always", error_model="numpy", fastmath={"contract"})
def _cos(x):
    return _reduced_sin_cos(x)[1]


@njit(inline="always", error_model="numpy", fastmath={"contract"})
def _tan(x):
    sine, cosine = _reduced_sin_cos(x)
    return sine / cosine


@njit(inline="always", error_model="numpy")
def _sign(x):
    return np.float64(x > 0.0) - np.float64(x < 0.0)
