"""Counter-based random numbers: Philox4x32-10 and what is made of its words in float64, written for lanes.

A number is a function of (key, counter) alone, so any path can be replayed, refined or resumed and no result depends
on threads or on how many paths run (Salmon, Moraes, Dror & Shaw 2011). 32-bit words travel in 64-bit registers and
every function is branch-free polynomial arithmetic without libm, so that LLVM vectorises the loop around it.

Two loops over the lanes, one that stores `_two_words` and one that turns them into `_normal_pair`, take 0.7–0.8 of
the time of one that does both (the same bits): its chain of dependent operations is too long for several lanes to be
under way at once.

The text below the marker becomes a generated module (`_kernel_cache.imports`): it may use only the names imported here.
What kernels call is compiled once and merged by LLVM (forceinline); what only these functions call becomes part of them
(inline), so that a first kernel waits for few functions.
"""

import math

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

# -- fragment --

_U0, _U1, _U32, _U52, _U62, _U63 = (
    np.uint64(0),
    np.uint64(1),
    np.uint64(32),
    np.uint64(52),
    np.uint64(62),
    np.uint64(63),
)
_LOW = np.uint64(0xFFFFFFFF)
_SIGN = np.uint64(0x8000000000000000)
_MANTISSA = np.uint64(0x000FFFFFFFFFFFFF)
_ONE = np.uint64(0x3FF0000000000000)  # bits of 1.0
_ROOT_HALF = np.uint64(0x3FE6A09E667F3BCD)  # bits of √½
_ROOT_HALF_TO_ONE = np.uint64(0x00095F619980C433)  # _ONE − _ROOT_HALF
_TWO_52 = np.uint64(0x4330000000000000)  # bits of 2^52


def _bitcast(source, target):
    @intrinsic
    def cast(typing_context, value):
        def codegen(context, builder, signature, arguments):
            return builder.bitcast(arguments[0], context.get_value_type(target))

        return target(source), codegen

    return cast


_bits = _bitcast(types.float64, types.uint64)
_float = _bitcast(types.uint64, types.float64)


def _fused():
    @intrinsic
    def product_and_sum(typing_context, a, b, c):
        if not (a == b == c and a in (types.float64, types.float32)):
            return None

        def codegen(context, builder, signature, arguments):
            return builder.fma(*arguments)

        return a(a, b, c), codegen

    return product_and_sum


# a·b + c rounded once, said in words: left to the compiler, the choice of products to fuse would differ from kernel to
# kernel, and with it the last bit of a path.
_fma = _fused()


@intrinsic
def _widest_vectors(typing_context):
    """Called once in a kernel: lets LLVM use 512-bit vectors in it where the processor has them.

    Where LLVM knows AVX-512 it still prefers 256 bits, because early processors slowed their clock; this sets the
    function's own attribute, leaves every other function alone and means nothing to other processors. Lanes are
    independent and none is left over, so that results are the same bits. llvmlite only lists plain attributes, hence
    `set.add`.
    """

    def codegen(context, builder, signature, arguments):
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return types.none(), codegen


@njit(inline="always", error_model="numpy")
def _raw_philox(c0, c1, c2, c3, k0, k1):
    """`_philox` with anything in the upper halves of its words: a round is two products, two shifts, two xors.

    Only the low half of a factor counts; written as a mask of the factor, the compiler finds the 32 × 32 → 64 bit
    product and no mask is left. The masks of the words and of the keys are not needed until the end.
    """
    for _ in range(10):
        p0 = np.uint64(0xD2511F53) * (c0 & _LOW)
        p1 = np.uint64(0xCD9E8D57) * (c2 & _LOW)
        c0 = (p1 >> _U32) ^ c1 ^ k0
        c1 = p1
        c2 = (p0 >> _U32) ^ c3 ^ k1
        c3 = p0
        k0 = k0 + np.uint64(0x9E3779B9)
        k1 = k1 + np.uint64(0xBB67AE85)
    return c0, c1, c2, c3


@njit(forceinline=True, error_model="numpy")
def _philox(c0, c1, c2, c3, k0, k1):
    """Ten rounds on the counter (c0, c1, c2, c3) with key (k0, k1): four 32-bit words in uint64."""
    w0, w1, w2, w3 = _raw_philox(c0, c1, c2, c3, k0, k1)
    return w0 & _LOW, w1 & _LOW, w2 & _LOW, w3 & _LOW


@njit(forceinline=True, error_model="numpy")
def _two_words(c0, c1, c2, c3, k0, k1):
    """The block as two words of 64 independent fair bits: a Box–Muller pair, or the signs of 64 steps twice."""
    w0, w1, w2, w3 = _raw_philox(c0, c1, c2, c3, k0, k1)
    return (w0 << _U32) | (w1 & _LOW), (w2 << _U32) | (w3 & _LOW)


@njit(inline="always", error_model="numpy")
def _minus_log(u):
    """−log(u) of a normal float64 u > 0, relative error < 5e-16.

    u = 2^e m with m in [√½, √2), found by moving √½ to a power of two in the bits; −log m = t P(t²) with
    t = (1 − m)/(1 + m), P the minimax polynomial of 2 atanh(√z)/√z on [0, (√2 − 1)⁴] by Remez' exchange, P(0) = 2
    held, relative error 1.3e-18 before its coefficients are rounded.
    """
    moved = _bits(u) + _ROOT_HALF_TO_ONE
    exponent = _float((moved >> _U52) | _TWO_52) - 4503599627371519.0  # 2^52 + 1023
    m = _float((moved & _MANTISSA) + _ROOT_HALF)
    t = (1.0 - m) / (1.0 + m)
    z = t * t
    p = 0.14795949810482026
    p = _fma(p, z, 0.15314050542042326)
    p = _fma(p, z, 0.1818356432645545)
    p = _fma(p, z, 0.22222198573179955)
    p = _fma(p, z, 0.28571428742387633)
    p = _fma(p, z, 0.39999999999414676)
    p = _fma(p, z, 0.6666666666666734)
    p = _fma(p, z, 2.0)
    return _fma(exponent, -0.6931471805599453, t * p)


@njit(inline="always", error_model="numpy")
def _sin_cos_eighth(v):
    """(sin, cos) of v π/2, v in [−½, ½], relative error < 4e-16.

    Minimax polynomials in z = v² on [0, ¼] of sin(π√z/2)/√z (relative error 3.4e-18 before its coefficients are
    rounded) and of cos(π√z/2) with its constant 1 held (6.1e-17), by Remez' exchange.
    """
    z = v * v
    s = 5.6337210448879305e-08
    s = _fma(s, z, -3.598641754723836e-06)
    s = _fma(s, z, 0.00016044115029173751)
    s = _fma(s, z, -0.0046817541322824304)
    s = _fma(s, z, 0.07969262624603957)
    s = _fma(s, z, -0.6459640975062443)
    s = _fma(s, z, 1.5707963267948966)
    c = 4.655337272756176e-07
    c = _fma(c, z, -2.5200143060646404e-05)
    c = _fma(c, z, 0.0009192599541481579)
    c = _fma(c, z, -0.02086348073586747)
    c = _fma(c, z, 0.25366950789995935)
    c = _fma(c, z, -1.2337005501361553)
    c = _fma(c, z, 1.0)
    return s * v, c


@njit(inline="always", error_model="numpy")
def _sin_cos_quarter(quadrant, v):
    """(sin, cos) of (quadrant + v) π/2, quadrant a uint64, v in [−½, ½]."""
    s, c = _sin_cos_eighth(v)
    odd = (quadrant & _U1) != _U0
    sine = c if odd else s
    cosine = s if odd else c
    sine = _float(_bits(sine) ^ ((quadrant << _U62) & _SIGN))
    cosine = _float(_bits(cosine) ^ (((quadrant + _U1) << _U62) & _SIGN))
    return sine, cosine


@njit(inline="always", error_model="numpy")
def _uniform(word):
    """A uniform in (0, 1], a multiple of 2^−52, from the low 52 bits of a word."""
    return 2.0 - _float((word & _MANTISSA) | _ONE)


@njit(forceinline=True, error_model="numpy")
def _normal_pair(a, b):
    """Two independent N(0, 1) of two words: 52-bit uniforms, tails to 8.49 σ (Box & Muller 1958).

    The angle is π/4 + v π/2 with v in [−½, ½), so that √2 cos and √2 sin are cos ∓ sin of v π/2; a free bit of each
    word gives the sign that carries the quarter circle to all four. No quadrant has to be told from another.
    """
    radius = math.sqrt(_minus_log(_uniform(a)))
    sine, cosine = _sin_cos_eighth(_float((b & _MANTISSA) | _ONE) - 1.5)
    first = _float(_bits(radius * (cosine - sine)) ^ (a & _SIGN))
    second = _float(_bits(radius * (cosine + sine)) ^ (b & _SIGN))
    return first, second


@njit(forceinline=True, error_model="numpy")
def _two_uniforms(c0, c1, c2, c3, k0, k1):
    """Two independent uniforms in (0, 1] of one block, multiples of 2^−52."""
    a, b = _two_words(c0, c1, c2, c3, k0, k1)
    return _uniform(a), _uniform(b)


@njit(forceinline=True, error_model="numpy")
def _signed(value, word, bit):
    """`value` with its sign turned where bit number `bit` (a uint64 below 64) of the word is 1.

    With value = √h an increment of two points: moments 0, h, 0, h², where N(0, h) has 0, h, 0, 3h².
    """
    return _float(_bits(value) ^ ((word << (_U63 - bit)) & _SIGN))


@njit(inline="always", error_model="numpy")
def _three_points(word):
    # 715827883 = ⌈2^32/6⌉: both thresholds leave the same number of words
    low = 1.7320508075688772 if word < np.uint64(715827883) else 0.0
    return -1.7320508075688772 if word > np.uint64(3579139412) else low


@njit(forceinline=True, error_model="numpy")
def _four_three_points(c0, c1, c2, c3, k0, k1):
    """Four independent increments of one block: ±√3 with probability p each, else 0, p = 1/6 + 1/(3·2^32).

    The moments of N(0, 1) up to the fifth: the odd ones exactly 0, the second and the fourth 1 + 2^−31 times theirs.
    """
    w0, w1, w2, w3 = _philox(c0, c1, c2, c3, k0, k1)
    return _three_points(w0), _three_points(w1), _three_points(w2), _three_points(w3)


@njit(forceinline=True, error_model="numpy")
def _two_indices(n, c0, c1, c2, c3, k0, k1):
    """Two independent uniform indices in [0, n), n < 2³², from one block: ⌊64-bit word · n / 2⁶⁴⌋ (bias < n/2⁶⁴)."""
    w0, w1, w2, w3 = _philox(c0, c1, c2, c3, k0, k1)
    first = (w0 * n + ((w1 * n) >> _U32)) >> _U32
    second = (w2 * n + ((w3 * n) >> _U32)) >> _U32
    return first, second


@njit(forceinline=True, error_model="numpy")
def _draw_normals(rows, first_path, block, key0, key1):
    """Rows 2b and 2b + 1 = N(0, 1) of the paths first_path … first_path + 63, of stream b and this block of steps.

    Vectorised when it is compiled, once, and merged into kernels as it is: written into each of them, these loops were
    a tenth to a third of its compilation. Called without being merged, the keys of the rounds are made anew each time,
    3–9 % of a step.
    """
    _widest_vectors()  # type: ignore[call-arg]
    if rows.shape[1] == 64:  # always so: the compiler then knows that rows do not overlap
        for b in range(rows.shape[0] // 2):
            for j in range(64):
                path = first_path + np.uint64(j)
                w0, w1 = _two_words(block, np.uint64(b), path & _LOW, path >> _U32, key0, key1)
                rows[2 * b, j] = _float(w0)
                rows[2 * b + 1, j] = _float(w1)
            for j in range(64):
                first, second = _normal_pair(_bits(rows[2 * b, j]), _bits(rows[2 * b + 1, j]))
                rows[2 * b, j] = first
                rows[2 * b + 1, j] = second


@njit(forceinline=True, error_model="numpy")
def _draw_normals_of(rows, ids, base, block, key0, key1):
    """`_draw_normals` of the paths ids[base] … ids[base + 63]."""
    _widest_vectors()  # type: ignore[call-arg]
    if rows.shape[1] == 64:
        for b in range(rows.shape[0] // 2):
            for j in range(64):
                path = ids[base + j]
                w0, w1 = _two_words(block, np.uint64(b), path & _LOW, path >> _U32, key0, key1)
                rows[2 * b, j] = _float(w0)
                rows[2 * b + 1, j] = _float(w1)
            for j in range(64):
                first, second = _normal_pair(_bits(rows[2 * b, j]), _bits(rows[2 * b + 1, j]))
                rows[2 * b, j] = first
                rows[2 * b + 1, j] = second
