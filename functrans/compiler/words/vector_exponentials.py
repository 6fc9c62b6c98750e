"""Exponentials, logarithms and powers as straight-line formulas; hyperbolic functions.

Arguments are reduced by multiples of log 2 as by W. J. Cody and W. Waite (Software Manual for the
Elementary Functions, 1980), with fused multiplications. The series of the exponential are Taylor's:
the first term left out, 0.3466**n / n! at most, is below 2**-54 in float64 and 2**-27 in float32.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple

from functrans.compiler.words.vector_builder import (
    Code,
    Int,
    Pair,
    Real,
    any_sum_of,
    fma,
    polynomial,
    product_of,
    ratio_of,
    rounded,
    split,
    sum_of,
    where,
)
from functrans.runtime import symbols

LN2 = Fraction("0.693147180559945309417232121458176568075500134360255254120680009")
LOG10_2 = Fraction("0.301029995663981195213738894724493026768189881462108541310427461")


def _terms(code: Code) -> int:
    return 13 if code.wide else 7


def power_of_two(k: Int) -> Real:
    """2**k, if that is a normal number."""
    f = k.code.format
    return ((k + f.bias) << f.mantissa).as_real()


def scaled(value: Real, k: Int) -> Real:
    """2**k value, also where that is subnormal or infinite."""
    if k.code.format.bits > k.code.result_bits:  # the result has fewer exponents
        return value * power_of_two(k)
    if symbols.has_scale_instruction():
        return value.times_power_of_two(k)
    half = k >> 1
    return value * power_of_two(half) * power_of_two(k - half)


def _by_ln2(x: Real, low: Real | None = None) -> tuple[Int, Pair]:
    """x + low = k log 2 + r with |r| <= 0.347."""
    high_part, low_part = split(LN2, x.code.format.bits, 2)
    k, as_int = rounded(x, 1 / math.log(2))
    first = fma(k, -high_part, x)  # exact
    if low is not None:
        first, low = sum_of(first, low)
    r = fma(k, -low_part, first)
    rest = fma(k, -low_part, first - r)
    return as_int, Pair(r, rest if low is None else rest + low)


def clamped(x: Real, low: float, high: float) -> Real:
    """x between bounds; NaN stays."""
    x = where(x > high, high, x)
    return where(x < low, low, x)


def exp(x: Real) -> Real:
    """e**x."""
    bounds = (-746.0, 711.0) if x.code.wide else (-104.5, 89.5)
    return exp_within(clamped(x, *bounds))


def exp_within(x: Real) -> Real:
    """e**x for an argument that is not far from the range where this is finite and above 0."""
    k, r = _by_ln2(x)
    taylor = [1 / math.factorial(n) for n in range(_terms(x.code), 0, -1)]
    return scaled(fma(polynomial(r.high, taylor), r.high, 1.0), k)


def exp_pair(x: Real, low: Real) -> tuple[Int, Pair]:
    """exp(x + low) = 2**k (high + low), of twice the precision of `exp`."""
    k, r = _by_ln2(x, low)
    taylor = [1 / math.factorial(n) for n in range(_terms(x.code), 1, -1)]
    square = r.high * r.high
    return k, sum_of(1.0, r.high + fma(square, polynomial(r.high, taylor), r.low))


def _exp2_reduced(k: Int, r: Real) -> Real:
    """2**(k + r) for |r| <= 1/2."""
    taylor = [math.log(2) ** n / math.factorial(n) for n in range(_terms(k.code), 0, -1)]
    return scaled(fma(polynomial(r, taylor), r, 1.0), k)


def exp2(x: Real) -> Real:
    """2**x."""
    x = clamped(x, *((-1080.0, 1025.0) if x.code.wide else (-155.0, 129.0)))
    k, as_int = rounded(x, 1.0)
    return _exp2_reduced(as_int, x - k)


def expm1(x: Real) -> Real:
    """e**x - 1."""
    k, r = _by_ln2(clamped(x, -50.0, 709.9 if x.code.wide else 88.9))
    r = r.high
    # exp(r) - 1 = r + r**2 (1/2 + r/6 + ...), then 2**k (p + 1) - 1 = 2**k p + (2**k - 1).
    taylor = [1 / math.factorial(n) for n in range(_terms(x.code), 1, -1)]
    p = fma(r * r, polynomial(r, taylor), r)
    half = power_of_two(k - 1)  # the largest results need 2**k beyond the range
    value = fma(half, p, half - 0.5)
    return where(x.equals(0.0), x, value + value)


# 2 artanh(s) = 2 s + s z P(z) with z = s**2 <= 0.0403, of numbers within a factor of 1.5:
# mpmath.chebyfit(lambda z: (2 * atanh(sqrt(z)) / sqrt(z) - 2) / z, [0, 0.0403], n).
_ARTANH64: list[float] = [
    0.13619066042830322, 0.13208398002781363, 0.1538893460259468, 0.18181735949669697,
    0.22222223069772148, 0.2857142856714695, 0.4000000000000823, 0.6666666666666666,
]  # fmt: skip
_ARTANH32: list[float] = [
    0.237593390984, 0.285321438347, 0.400003184702, 0.666666662652,
]  # fmt: skip


def _parts(x: Real) -> tuple[Real, Int, Real]:
    """x = 2**k m with m in [sqrt(1/2), sqrt(2)): k as a number and as an integer, and m."""
    f = x.code.format
    tiny, lift = x < f.smallest_normal, f.mantissa + 2
    if f.bits > x.code.result_bits:  # where it is subnormal, x is so no more
        lift = 0
    bits = where(tiny, x * 2.0**lift, x).to_bits()
    root = int(f.dtype(math.sqrt(0.5)).view(f"i{f.bits // 8}"))
    k = (bits - root) >> f.mantissa
    m = (bits - (k << f.mantissa)).as_real()
    as_real = k.to_real()
    return where(tiny, as_real - float(lift), as_real), k, m


def _log_of_mantissa(m: Real) -> tuple[Real, Real, Real, Real]:
    """log m = (f - h) + t, for f = m - 1 and h = f**2 / 2: f, h, t and s = f / (2 + f)."""
    f = m - 1.0
    s = f / (f + 2.0)
    z = s * s
    half = f * f * 0.5
    # 2 s = f - s f and s f = h - s h: log m = f - h + s (h + z P(z)), as fdlibm's e_log.c.
    series = polynomial(z, _ARTANH64 if m.code.wide else _ARTANH32)
    return f, half, s * fma(z, series, half), s


def _log_of(x: Real, lost: Real | None = None, more: Real | None = None) -> Real:
    """log(x + lost) + more log 2 for positive finite x and a `lost` below an ulp or two of x."""
    high, low = split(LN2, x.code.format.bits, 2)
    k, as_int, m = _parts(x)
    f, half, tail, s = _log_of_mantissa(m)
    if lost is not None:
        # log(m + c) - log m = c / m, and 1 / m = (1 - s) / (1 + s) to a few bits.
        c = lost * power_of_two(x.code.int(0) - as_int.at_most(x.code.format.bias))
        tail = fma(c, fma(s * -2.0, 1.0 - s * (1.0 - s), 1.0), tail)
    if more is not None:
        k = k + more
    return fma(k, high, f - (half - fma(k, low, tail)))


def _at_ends(x: Real, logarithm: Real) -> Real:
    """A logarithm with its values at 0, below, and where there is no finite number."""
    value = where(x > 0.0, logarithm, math.nan)
    value = where(x.equals(0.0), -math.inf, value)
    return where(x.equals(math.inf) | x.is_nan(), x, value)


def log(x: Real) -> Real:
    """The natural logarithm."""
    return _at_ends(x, _log_of(x))


def log1p(x: Real) -> Real:
    """log(1 + x)."""
    u = x + 1.0
    value = _at_ends(u, _log_of(u, x - (u - 1.0)))
    return where(x.equals(0.0), x, value)


def log2(x: Real) -> Real:
    """The logarithm to base 2, exact at powers of 2."""
    k, _, m = _parts(x)
    f, half, tail, _ = _log_of_mantissa(m)
    logarithm = f - (half - tail)
    return _at_ends(x, fma(logarithm, 1 / math.log(2) - 1, logarithm) + k)


def log10(x: Real) -> Real:
    """The logarithm to base 10, exact at powers of 10."""
    bits = x.code.format.bits
    k, _, m = _parts(x)
    f, half, tail, _ = _log_of_mantissa(m)
    logarithm = f - (half - tail)
    scale, scale_low = split(LOG10_2 / LN2, bits, 2)
    unit, unit_low = split(LOG10_2, bits, 2)
    low = fma(k, unit_low, logarithm * scale_low)
    return _at_ends(x, fma(k, unit, fma(logarithm, scale, low)))


def logistic(x: Real) -> Real:
    """1 / (1 + e**-x)."""
    # exp only sees -|x|, which cannot overflow.
    e = exp(-abs(x))
    below = sum_of(1.0, e)
    quotient = where(x < 0.0, e, 1.0) / below.high
    # The rounding of 1 + e, by 1 / (1 + e) to within a twentieth.
    value = fma(quotient, below.low * fma(below.high, 0.5, -1.457), quotient)
    return where(x.is_nan(), x, value)


class _Halves(NamedTuple):
    """With |x| = k log 2 + r: cosh r - 1, r, sinh r - r; (2**k - 2**-k) / 2 and with +; and k.

    Where 2**-k is lost, k is cut, and `rest` is the power of two left.
    """

    cosh_less_1: Real
    r: Real
    sinh_less_r: Real
    minus: Real
    plus: Real
    rest: Int


def _halves(size: Real) -> _Halves:
    k, r = _by_ln2(size)
    z = r.high * r.high
    powers = range(_terms(size.code) + 1, 0, -2)
    cosh_less_1 = z * polynomial(z, [1 / math.factorial(n) for n in powers])
    sinh = polynomial(z, [1 / math.factorial(n - 1) for n in powers[:-1]])
    cut = k.at_most(64)
    a, b = power_of_two(cut - 1), power_of_two(size.code.int(-1) - cut)
    sinh_less_r = fma(z * r.high, sinh, r.low)
    return _Halves(cosh_less_1, r.high, sinh_less_r, a - b, a + b, k - cut)


def _sinh(h: _Halves) -> Real:
    """sinh(k log 2 + r) = (2**k - 2**-k) / 2 cosh r + (2**k + 2**-k) / 2 sinh r."""
    product = product_of(h.plus, h.r)
    total = sum_of(h.minus, product.high)
    low = fma(h.plus, h.sinh_less_r, fma(h.minus, h.cosh_less_1, product.low)) + total.low
    return total.high + low


def _cosh(h: _Halves) -> Real:
    """cosh(k log 2 + r), whose terms cancel nowhere."""
    return h.plus + fma(h.plus, h.cosh_less_1, h.minus * (h.r + h.sinh_less_r))


def sinh(x: Real) -> Real:
    """The hyperbolic sine."""
    size = abs(x)
    bound = 711.0 if x.code.wide else 90.0
    h = _halves(where(size > bound, bound, size))
    return (_sinh(h) * power_of_two(h.rest)).with_sign_of(x)


def cosh(x: Real) -> Real:
    """The hyperbolic cosine."""
    size = abs(x)
    bound = 711.0 if x.code.wide else 90.0
    h = _halves(where(size > bound, bound, size))
    return _cosh(h) * power_of_two(h.rest)


# Cephes tanh.c and tanhf.c (Moshier): x + x z P(z) / Q(z) for |x| < 0.625, z = x**2.
_TANH_P = [-9.64399179425052238628e-1, -9.92877231001918586564e1, -1.61468768441708447952e3]
_TANH_Q = [1.0, 1.12811678491632931402e2, 2.23548839060100448583e3, 4.84406305325125486048e3]
_TANH32 = [
    -5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1,
]  # fmt: skip


def tanh(x: Real) -> Real:
    """The hyperbolic tangent: for |x| >= 0.625, 1 - 2 / (e**(2 |x|) + 1), which is 1 from 20 on."""
    size, z = abs(x), x * x
    size = where(size > 20.0, 20.0, size)
    is_small = size < 0.625
    above = exp_within(size + size) + 1.0
    if x.code.wide:
        # One division serves both ranges.
        top, below = z * polynomial(z, _TANH_P), polynomial(z, _TANH_Q)
        ratio = where(is_small, top, -2.0) / where(is_small, below, above)
    else:
        ratio = where(is_small, z * polynomial(z, _TANH32), -2.0 / above)
    start = where(is_small, size, 1.0)
    return fma(start, ratio, start).with_sign_of(x)


def arcsinh(x: Real) -> Real:
    """log(|x| + sqrt(x**2 + 1)), with the sign of x."""
    size = abs(x)
    huge = size > 2.0 ** (28 if x.code.wide else 12)  # then this is log(2 |x|)
    square = product_of(size, size)
    w = sum_of(1.0, square.high)
    root = w.high.sqrt()
    # The rounding of the root, by 1 / (2 root) near 1, counts where the logarithm is small.
    rest = fma(-root, root, w.high) + (w.low + square.low)
    rest = where(size < 1.0, rest * fma(root, -0.5, 1.0), 0.0)
    u = sum_of(root, size)
    lost = where(huge, 0.0, u.low + rest)
    value = _log_of(where(huge, size, u.high), lost, where(huge, 1.0, 0.0))
    value = where(size < math.inf, value, size)
    return where(x.equals(0.0), x, value.with_sign_of(x))


def arccosh(x: Real) -> Real:
    """log(x + sqrt(x**2 - 1)) = log1p(t + sqrt(2 t + t**2)) for t = x - 1."""
    huge = x > 2.0 ** (28 if x.code.wide else 12)
    t = x - 1.0
    root = fma(t, t, t + t).sqrt()
    w = any_sum_of(t, root)
    u = any_sum_of(w.high, x.code.real(1.0))
    lost = where(huge, 0.0, u.low + w.low)
    value = _log_of(where(huge, x, u.high), lost, where(huge, 1.0, 0.0))
    value = where(x < math.inf, value, x)
    return where(x < 1.0, math.nan, value)


def arctanh(x: Real) -> Real:
    """log((1 + |x|) / (1 - |x|)) / 2, with the sign of x.

    That is k log 2 / 2 + artanh((u - v) / (u + v)) for u = 1 + |x| and v = 2**k (1 - |x|).
    """
    size, f = abs(x), x.code.format
    u, rest = sum_of(1.0, size), sum_of(1.0, -size)
    # Bits as numbers are logarithms to 9%, so that u / v is between 2/3 and 3/2.
    k = ((u.high.to_bits() - rest.high.to_bits()) + (1 << (f.mantissa - 1))) >> f.mantissa
    scale = power_of_two(k)
    v = Pair(rest.high * scale, rest.low * scale)
    difference = sum_of(u.high - v.high, u.low - v.low)
    total = sum_of(u.high, v.high)
    s = ratio_of(difference, Pair(total.high, total.low + (u.low + v.low)))
    z = s.high * s.high
    series = polynomial(z, _ARTANH64 if x.code.wide else _ARTANH32)
    half_ln2, low = split(LN2 / 2, f.bits, 2)
    as_real = k.to_real()
    tail = fma(as_real, low, fma(s.high * z * 0.5, series, s.low))
    value = fma(as_real, half_ln2, s.high + tail)
    value = where(size < 1.0, value, where(size > 1.0, math.nan, math.inf))
    return where(x.equals(0.0) | x.is_nan(), x, value).with_sign_of(x)


# 2 artanh(s) / log 2 = s (c + z c / 3 + z**2 P(z)) with c = 2 / log 2; in float32 s P(z):
# mpmath.chebyfit(lambda z: (2 * atanh(sqrt(z)) / sqrt(z) - 2 - 2 * z / 3) / z**2 / log(2), ..., n)
# and mpmath.chebyfit(lambda z: 2 * atanh(sqrt(z)) / sqrt(z) / log(2), ..., n).
_POW64: list[float] = [
    0.16912787582324892, 0.1688854671740239, 0.19238055945712837, 0.22195278870596163,
    0.26230819146702117, 0.3205988979671597, 0.4121985831111439, 0.5770780163555853,
]  # fmt: skip
_LOG2_SHORT32: list[float] = [
    0.242916085399, 0.261444249352, 0.320616388132, 0.412198402048, 0.577078017246, 0.961796693924,
    2.88539008178,
]  # fmt: skip


def _log2_pair(x: Real) -> Pair:
    """log2 of a positive finite number to 64 bits or more."""
    k, _, m = _parts(x)
    f = m - 1.0
    above = m + 1.0
    s, s_low = ratio_of(Pair(f, x.code.real(-0.0)), Pair(above, m - (above - 1.0)))
    z = product_of(s, s)
    z_low = fma(s + s, s_low, z.low)
    c, c_low = split(2 / LN2, 64, 2)
    third, third_low = split(2 / LN2 / 3, 64, 2)
    p = product_of(z.high, third)
    tail = fma(z.high * z.high, polynomial(z.high, _POW64), fma(z.high, third_low, p.low))
    u = sum_of(c, p.high)
    u_low = u.low + (fma(z_low, third, tail) + c_low)
    product = product_of(s, u.high)
    total = sum_of(k, product.high)
    return Pair(total.high, total.low + fma(s, u_low, fma(s_low, u.high, product.low)))


def _log2_short(x: Real) -> Real:
    """log2 to 40 bits."""
    k, _, m = _parts(x)
    s = (m - 1.0) / (m + 1.0)
    return fma(s, polynomial(s * s, _LOG2_SHORT32), k)


def _power_of_size(x: Real, y: Real) -> Real:
    """x**y for x >= 0; if x or y is no number, anything."""
    if x.code.wide:
        end, logarithm = 1100.0, _log2_pair(x)
    else:
        end, logarithm = 200.0, Pair(_log2_short(x), x.code.real(0.0))
    high = where(x > 0.0, where(x < math.inf, logarithm.high, math.inf), -math.inf)
    product = y * high
    exponent = where(x.equals(1.0), 0.0, clamped(product, -end, end))
    k, as_int = rounded(exponent, 1.0)
    r = exponent - k
    if x.code.wide:
        low = fma(y, logarithm.low, fma(y, high, -product))
        r = r + where(abs(product) < end, low, 0.0)
    return _exp2_reduced(as_int, r)


def power(x: Real, y: Real) -> Real:
    """x**y with the special values of C99 (F.9.4.4)."""
    value = _power_of_size(abs(x), y)
    half, whole = y * 0.5, y.floor().equals(y)
    odd = whole & ~half.floor().equals(half)
    value = value.with_sign_of(where(odd, x, 1.0))
    value = where((x < 0.0) & (x > -math.inf) & ~whole, math.nan, value)
    value = where(x.is_nan_or(y), math.nan, value)
    return where(x.equals(1.0) | y.equals(0.0), 1.0, value)
