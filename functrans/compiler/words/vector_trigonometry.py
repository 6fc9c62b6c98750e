"""Trigonometric functions and their inverses as straight-line formulas.

Arguments are reduced by multiples of pi / 2 as by W. J. Cody and W. Waite, with three words of
pi / 2 and fused multiplications, up to `NEAR`. Beyond, `far` replaces the result by that of the C
library: it takes vectors, and looks whether any lane is that large, which costs a few cycles.
"""

from __future__ import annotations

import math
from fractions import Fraction

from functrans.compiler.words.scalar_types import float_literal
from functrans.compiler.words.vector_builder import (
    Format,
    Int,
    Pair,
    Real,
    Truth,
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

PI = Fraction("3.14159265358979323846264338327950288419716939937510582097494459")
NEAR = {32: 2.0**20, 64: 2.0**40}

# sin r = r + r z S(z) and cos r = 1 - z / 2 + z**2 C(z) with z = r**2, |r| <= 0.84:
# mpmath.chebyfit(lambda z: (sin(sqrt(z)) / sqrt(z) - 1) / z, [0, (1.07 * pi / 4) ** 2], n) and
# mpmath.chebyfit(lambda z: (cos(sqrt(z)) - 1 + z / 2) / z**2, [0, (1.07 * pi / 4) ** 2], n).
_SIN64: list[float] = [
    1.5897810023324996e-10, -2.5050829382981618e-08, 2.755731454381049e-06,
    -0.00019841269833526063, 0.008333333333328646, -0.16666666666666663,
]  # fmt: skip
_SIN32: list[float] = [
    -0.000195514408344, 0.00833256733439, -0.166666636623,
]  # fmt: skip
_COS64: list[float] = [
    -1.1369919995542152e-11, 2.087595703896996e-09, -2.755731629654117e-07, 2.4801587296743367e-05,
    -0.0013888888888885958, 0.041666666666666664,
]  # fmt: skip
_COS32: list[float] = [
    2.45114096366e-05, -0.00138881217052, 0.0416666636575,
]  # fmt: skip


def _by_quarters(x: Real) -> tuple[Int, Real]:
    """x = k pi / 2 + r."""
    first, second, third = split(PI / 2, x.code.format.bits, 3)
    k, quarter = rounded(x, 2 / math.pi)
    r = fma(k, -first, x)  # exact
    return quarter, fma(k, -third, fma(k, -second, r))


def _sine_and_cosine(r: Real) -> tuple[Real, Real]:
    wide, z = r.code.wide, r * r
    sine = fma(z * r, polynomial(z, _SIN64 if wide else _SIN32), r)
    return sine, polynomial(z, [*(_COS64 if wide else _COS32), -0.5, 1.0])


def _turned(quarter: Int, r: Real) -> Real:
    """sin(k pi / 2 + r)."""
    sine, cosine = _sine_and_cosine(r)
    sign = (quarter & 2) << (r.code.format.bits - 2)
    return (where((quarter & 1).equals(1), cosine, sine).to_bits() ^ sign).as_real()


def sin(x: Real) -> Real:
    """The sine."""
    quarter, r = _by_quarters(x)
    return _far("sin", x, where(x.equals(0.0), x, _turned(quarter, r)))


def cos(x: Real) -> Real:
    """The cosine."""
    quarter, r = _by_quarters(x)
    return _far("cos", x, _turned(quarter + 1, r))


def tan(x: Real) -> Real:
    """The tangent. Near odd multiples of pi / 4 it magnifies errors of r, so r takes two words."""
    wide = x.code.wide
    first, second, third = split(PI / 2, x.code.format.bits, 3)
    k, quarter = rounded(x, 2 / math.pi)
    product = product_of(k, second)
    r = sum_of(fma(k, -first, x), -product.high)
    low = fma(k, -third, r.low - product.low)
    z, r = r.high * r.high, r.high
    sine = sum_of(r, fma(z * r, polynomial(z, _SIN64 if wide else _SIN32), low))
    tail = polynomial(z, [*(_COS64 if wide else _COS32), -0.5])
    cosine = sum_of(1.0, fma(z, tail, -(r * low)))
    odd = (quarter & 1).equals(1)
    top = Pair(where(odd, cosine.high, sine.high), where(odd, cosine.low, sine.low))
    below = Pair(where(odd, sine.high, cosine.high), where(odd, sine.low, cosine.low))
    near, rest = ratio_of(top, below)
    near = near + rest
    near = where(x.equals(0.0), x, where(odd, -near, near))
    return _far("tan", x, near)


def _far(name: str, x: Real, near: Real) -> Real:
    """`near` for x within `NEAR`, else the value of the C function of this name."""
    f = x.code.format
    symbol, function = f"ft_{name}_far_f{f.bits}", name + ("f" if f.bits == 32 else "")
    x.code.needs(f"declare {f.type} @{function}({f.type}) nounwind willreturn memory(none)")
    full = 8 * symbols.vector_bytes() // f.bits
    lanes = [n for n in (full, full // 2) if n > 1]  # half in loops with wider numbers beside
    for n in lanes:
        for text in _far_vector(symbol, f, n):
            x.code.needs(text)
    variants = ",".join(f"_ZGV_LLVM_N{n}vv_{symbol}({symbol}_v{n})" for n in lanes)
    x.code.needs(_far_scalar(symbol, function, f, variants))
    call = f"call {f.type} @{symbol}({f.type} {x.name}, {f.type} {near.name})"
    return Real(x.code, x.code.emit(call))


def _far_scalar(symbol: str, function: str, f: Format, variants: str) -> str:
    # Not inlined, so that the vectorizer meets the call and puts a vector version in its place.
    t, s = f.type, f"f{f.bits}"
    attributes = f'noinline nounwind memory(none) "vector-function-abi-variant"="{variants}"'
    return f"""define internal {t} @{symbol}({t} %x, {t} %near) {attributes} {{
  %size = call {t} @llvm.fabs.{s}({t} %x)
  %beyond = fcmp ogt {t} %size, {float_literal(NEAR[f.bits])}
  %finite = fcmp olt {t} %size, {float_literal(math.inf)}
  %far = and i1 %beyond, %finite
  br i1 %far, label %call, label %done
call:
  %value = call {t} @{function}({t} %x)
  ret {t} %value
done:
  ret {t} %near
}}"""


def _far_vector(symbol: str, f: Format, lanes: int) -> list[str]:
    t, s = f"<{lanes} x {f.type}>", f"v{lanes}f{f.bits}"
    near, infinity = (f"splat ({f.type} {float_literal(x)})" for x in (NEAR[f.bits], math.inf))
    attributes = f'noinline nounwind memory(none) "min-legal-vector-width"="{lanes * f.bits}"'
    # A function of its own, so that the usual case needs no stack frame.
    each = f"""define internal {t} @{symbol}_each{lanes}({t} %x, {t} %near) {attributes} {{
entry:
  br label %lane
lane:
  %i = phi i32 [ 0, %entry ], [ %next, %lane ]
  %values = phi {t} [ %near, %entry ], [ %mixed, %lane ]
  %x_i = extractelement {t} %x, i32 %i
  %near_i = extractelement {t} %near, i32 %i
  %value = call {f.type} @{symbol}({f.type} %x_i, {f.type} %near_i)
  %mixed = insertelement {t} %values, {f.type} %value, i32 %i
  %next = add nuw nsw i32 %i, 1
  %more = icmp ult i32 %next, {lanes}
  br i1 %more, label %lane, label %done
done:
  ret {t} %mixed
}}"""
    whole = f"""define internal {t} @{symbol}_v{lanes}({t} %x, {t} %near) {attributes} {{
  %size = call {t} @llvm.fabs.{s}({t} %x)
  %beyond = fcmp ogt {t} %size, {near}
  %finite = fcmp olt {t} %size, {infinity}
  %far = and <{lanes} x i1> %beyond, %finite
  %any = call i1 @llvm.vector.reduce.or.v{lanes}i1(<{lanes} x i1> %far)
  br i1 %any, label %each, label %done
each:
  %value = tail call {t} @{symbol}_each{lanes}({t} %x, {t} %near)
  ret {t} %value
done:
  ret {t} %near
}}"""
    return [each, whole]


# arcsin s = s + s z P(z) with z = s**2 <= 1/4:
# mpmath.chebyfit(lambda z: (asin(sqrt(z)) / sqrt(z) - 1) / z, [0, 1 / 4], n).
_ARCSIN64: list[float] = [
    0.028757851367421566, -0.014851887071247204, 0.01740087944269402, 0.005457506718640358,
    0.01032281435018578, 0.011479177415184906, 0.013971212973552933, 0.017352392720869973,
    0.02237217294214989, 0.030381944138531247, 0.04464285714635543, 0.07499999999998433,
    0.16666666666666669,
]  # fmt: skip
_ARCSIN32: list[float] = [
    0.0380850235611, 0.0265545422062, 0.0450013800699, 0.074988550726, 0.166666724148,
]  # fmt: skip
# arctan t = t + t z P(z) with z = t**2 <= 1:
# mpmath.chebyfit(lambda z: (atan(sqrt(z)) / sqrt(z) - 1) / z, [0, 1], n).
_ARCTAN64: list[float] = [
    1.806195461861215e-05, -0.00019996189377901382, 0.0010496035084968515, -0.0034958859739163094,
    0.008368931178450162, -0.015535152475414177, 0.023696731580048622, -0.031277189066996385,
    0.03749486812535247, -0.04260356632601652, 0.04737749579527779, -0.052579733342841106,
    0.05881506877793656, -0.06666564699289104, 0.07692298971033217, -0.09090908590891934,
    0.11111111093490827, -0.14285714285384132, 0.1999999999999753, -0.3333333333333333,
]  # fmt: skip
_ARCTAN32: list[float] = [
    -0.00238699731672, 0.013507771427, -0.035871538982, 0.0625016944475, -0.0865688043015,
    0.110337641153, -0.142785687482, 0.199997393298, -0.333333317331,
]  # fmt: skip


def _half_angle(x: Real) -> tuple[Truth, Pair]:
    """Whether |x| < 1/2, and the arcsine of s: of |x| then, else of sqrt((1 - |x|) / 2)."""
    size = abs(x)
    small = size < 0.5
    z = where(small, size * size, fma(size, -0.5, 0.5))
    s = where(small, size, z.sqrt())
    return small, Pair(s, s * z * polynomial(z, _ARCSIN64 if x.code.wide else _ARCSIN32))


def arcsin(x: Real) -> Real:
    """The arcsine: for large |x|, pi / 2 - 2 arcsin(sqrt((1 - |x|) / 2))."""
    right, right_low = split(PI / 2, x.code.format.bits, 2)
    small, angle = _half_angle(x)
    start = sum_of(right, -2.0 * angle.high)
    large = start.high + (start.low + fma(angle.low, -2.0, right_low))
    return where(small, angle.high + angle.low, large).with_sign_of(x)


def arccos(x: Real) -> Real:
    """The arccosine: pi / 2 - arcsin x, or 2 arcsin(sqrt((1 - x) / 2)), or pi - 2 arcsin(...)."""
    right, right_low = split(PI / 2, x.code.format.bits, 2)
    small, angle = _half_angle(x)
    negative = x < 0.0
    factor = where(small, where(negative, 1.0, -1.0), where(negative, -2.0, 2.0))
    start = where(small, right, where(negative, 2.0 * right, 0.0))
    start_low = where(small, right_low, where(negative, 2.0 * right_low, 0.0))
    total = sum_of(start, factor * angle.high)
    return total.high + (total.low + fma(factor, angle.low, start_low))


def _arctan_above(t: Real, start: Real, start_low: Real) -> Real:
    """start + arctan t for |t| <= 1."""
    z = t * t
    total = sum_of(start, t)
    tail = fma(t * z, polynomial(z, _ARCTAN64 if t.code.wide else _ARCTAN32), start_low)
    return total.high + (total.low + tail)


def arctan(x: Real) -> Real:
    """The arctangent: for |x| > 1, pi / 2 - arctan(1 / |x|)."""
    right, right_low = split(PI / 2, x.code.format.bits, 2)
    size = abs(x)
    large = size > 1.0
    t = where(large, -1.0 / size, size)
    value = _arctan_above(t, where(large, right, 0.0), where(large, right_low, 0.0))
    return value.with_sign_of(x)


def arctan2(y: Real, x: Real) -> Real:
    """The angle of the point (x, y)."""
    right, right_low = split(PI / 2, x.code.format.bits, 2)
    across, up = abs(x), abs(y)
    steep = up > across
    t = where(steep, across, up) / where(steep, up, across)
    t = where(up.equals(across), 1.0, t)  # of two infinities
    t = where(up.equals(0.0), where(x.is_nan(), x, 0.0), t)
    left = (x.to_bits() >> (x.code.format.bits - 1)).equals(-1)
    start = where(steep, right, where(left, 2.0 * right, 0.0))
    start_low = where(steep, right_low, where(left, 2.0 * right_low, 0.0))
    return _arctan_above(where(steep ^ left, -t, t), start, start_low).with_sign_of(y)
