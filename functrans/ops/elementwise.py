"""Elementwise primitives, a row each: name, NumPy function, derivatives.

The derivative rows are the mathematics (see `base` for `slope`, `steep` and `along`): `y` is the
result, the other names are the operands. `mul`, `masked_mul`, `add` and the rest that are linear in
an operand also say how a cotangent flows back to it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from functrans import dtypes
from functrans.core import Zero, get_aval
from functrans.ir import ShapedArray
from functrans.ops import special_values as values
from functrans.ops.base import Elementwise, along, slope, steep

ALL = "biufc"
NUMBERS = "iufc"
REAL = "iuf"
INTEGERS = "iu"
BITS = "biu"

# ---------------------------------------------------------------------------- arithmetic

add = Elementwise(
    "add", np.add,
    [along(lambda t, y, a, b: t), along(lambda t, y, a, b: t)],
    kinds=ALL, transposes=[lambda ct, a, b: ct, lambda ct, a, b: ct],
)  # fmt: skip
sub = Elementwise(
    "sub", np.subtract,
    [along(lambda t, y, a, b: t), along(lambda t, y, a, b: neg(t))],
    kinds=NUMBERS, transposes=[lambda ct, a, b: ct, lambda ct, a, b: neg(ct)],
)  # fmt: skip
neg = Elementwise(
    "neg", np.negative, [along(lambda t, y, x: neg(t))],
    kinds=NUMBERS, transposes=[lambda ct, x: neg(ct)],
)  # fmt: skip
mul = Elementwise(
    "mul", np.multiply,
    [along(lambda t, y, a, b: _times(t, b)), along(lambda t, y, a, b: _times(t, a))],
    kinds=ALL, transposes=[lambda ct, a, b: mul(ct, b), lambda ct, a, b: mul(a, ct)],
)  # fmt: skip


def _times(t: Any, factor: Any) -> Any:
    # An infinite factor behind `where` must not turn a zero tangent into nan; a number that is
    # known to be finite needs no such care.
    known = isinstance(factor, np.generic | float | int) and np.isfinite(factor)
    return mul(t, factor) if known else masked_mul(t, factor)


# t * d, and 0 wherever t is exactly 0, whatever d is. Linear in t.
masked_mul = Elementwise(
    "masked_mul", values.masked_mul,
    [along(lambda t, y, a, b: masked_mul(t, b)), along(lambda t, y, a, b: masked_mul(t, a))],
    transposes=[lambda ct, a, b: masked_mul(ct, b), lambda ct, a, b: masked_mul(ct, a)],
)  # fmt: skip
Elementwise.sum_tangents = staticmethod(lambda s, t: add(s, t))
Elementwise.times = staticmethod(lambda t, d: mul(t, d))
Elementwise.masked_times = staticmethod(lambda t, d: masked_mul(t, d))

div = Elementwise(
    "div", np.true_divide,
    [along(lambda t, y, a, b: _quotient(t, b)), steep(lambda y, a, b: -(y / b))],
    transposes=[lambda ct, a, b: _quotient(ct, b), None],
)  # fmt: skip


def _quotient(t: Any, b: Any) -> Any:
    # A zero divisor that is known (a literal, an eager array) is rare: pay for the mask only then.
    with np.errstate(all="ignore"):
        return masked_mul(t, 1.0 / b) if values.may_vanish(b) else div(t, b)


square = Elementwise("square", np.square, [slope(lambda y, x: 2 * x)], kinds=NUMBERS)
reciprocal = Elementwise("reciprocal", np.reciprocal, [steep(lambda y, x: -square(y))])
abs = Elementwise(
    "abs", np.absolute, [along(lambda t, y, x: _abs_tangent(t, x))], kinds=NUMBERS, result="real"
)
sign = Elementwise("sign", np.sign, [along(lambda t, y, x: _sign_tangent(t, y, x))], kinds=NUMBERS)


def _abs_tangent(t: Any, x: Any) -> Any:
    # d|z| = Re(conj(z / |z|) t); the sign of 0 is 0, which makes the derivative at 0 be 0.
    s = sign(x)
    return real(mul(t, conj(s))) if get_aval(x).dtype.kind == "c" else mul(t, s)


def _sign_tangent(t: Any, y: Any, x: Any) -> Any:
    if get_aval(x).dtype.kind != "c":
        return mul(t, np.zeros((), get_aval(x).dtype)[()])
    # d(z / |z|) = i y Im(conj(y) t) / |z|
    return masked_mul(1j * y * imag(conj(y) * t), 1.0 / (abs(x) + 0j))


floor = Elementwise("floor", np.floor, [None], kinds="f")
ceil = Elementwise("ceil", np.ceil, [None], kinds="f")
round = Elementwise("round", np.rint, [None])
trunc = Elementwise("trunc", np.trunc, [None], kinds="f")
sqrt = Elementwise("sqrt", np.sqrt, [steep(lambda y, x: 0.5 / y)])
rsqrt = Elementwise("rsqrt", values.rsqrt, [steep(lambda y, x: -0.5 * y / x)])
cbrt = Elementwise("cbrt", np.cbrt, [steep(lambda y, x: y / (3 * x))], kinds="f")
floor_divide = Elementwise("floor_divide", np.floor_divide, [None, None], kinds=REAL)
mod = Elementwise(
    "mod", np.remainder,
    [along(lambda t, y, a, b: t), slope(lambda y, a, b: -floor_divide(a, b))], kinds=REAL,
)  # fmt: skip
fmod = Elementwise(
    "fmod", np.fmod,
    [along(lambda t, y, a, b: t), slope(lambda y, a, b: -trunc(a / b))], kinds=REAL,
)  # fmt: skip
hypot = Elementwise(
    "hypot", np.hypot,
    [slope(lambda y, a, b: _ratio(a, y)), slope(lambda y, a, b: _ratio(b, y))], kinds="f",
)  # fmt: skip


def _ratio(a: Any, length: Any) -> Any:
    """a / length, and 0 where both are 0: the middle of the subgradients of a norm at 0."""
    with np.errstate(all="ignore"):
        return select(eq(length, zero_like(length)), zero_like(length), a / length)


pow = Elementwise(
    "pow", np.power,
    [steep(lambda y, a, b: _pow_base(a, b)), steep(lambda y, a, b: _pow_exponent(y, a))],
    kinds=NUMBERS,
)  # fmt: skip


def _pow_base(a: Any, b: Any) -> Any:
    # x ** 0 is the constant 1, also at x = 0: its derivative is 0, not 0 * 0 ** -1.
    return masked_mul(b, pow(a, b - one_like(b)))


def _pow_exponent(y: Any, a: Any) -> Any:
    # 0 ** b does not change with b > 0; log(1) = 0 stands in for log(0).
    return mul(y, log(select(eq(a, zero_like(a)), one_like(a), a)))


# ---------------------------------------------------------------------------- exp, log

exp = Elementwise("exp", np.exp, [steep(lambda y, x: y)])
exp2 = Elementwise("exp2", np.exp2, [steep(lambda y, x: y * math.log(2))])
expm1 = Elementwise("expm1", np.expm1, [steep(lambda y, x: y + 1)])
log = Elementwise("log", np.log, [steep(lambda y, x: 1 / x)])
log2 = Elementwise("log2", np.log2, [steep(lambda y, x: (1 / math.log(2)) / x)])
log10 = Elementwise("log10", np.log10, [steep(lambda y, x: (1 / math.log(10)) / x)])
log1p = Elementwise("log1p", np.log1p, [steep(lambda y, x: 1 / (1 + x))])
logaddexp = Elementwise(
    "logaddexp", np.logaddexp,
    [slope(lambda y, a, b: _softmax_weight(a, y)), slope(lambda y, a, b: _softmax_weight(b, y))],
    kinds="f",
)  # fmt: skip
logaddexp2 = Elementwise(
    "logaddexp2", np.logaddexp2,
    [slope(lambda y, a, b: _softmax_weight(a, y, exp2)),
     slope(lambda y, a, b: _softmax_weight(b, y, exp2))],
    kinds="f",
)  # fmt: skip


def _softmax_weight(a: Any, y: Any, power: Any = exp) -> Any:
    # a - y where both are infinite and equal: logaddexp(inf, b) grows as its first operand does,
    # and logaddexp(-inf, -inf) has no slope.
    with np.errstate(all="ignore"):
        gap = select(eq(a, y), zero_like(y), a - y)
        return select(eq(y, -np.inf * one_like(y)), zero_like(y), power(gap))


logistic = Elementwise("logistic", values.logistic, [slope(lambda y, x: y * (1 - y))])

# ---------------------------------------------------------------------------- trigonometric

sin = Elementwise("sin", np.sin, [slope(lambda y, x: cos(x))])
cos = Elementwise("cos", np.cos, [slope(lambda y, x: -sin(x))])
tan = Elementwise("tan", np.tan, [steep(lambda y, x: 1 + square(y))])
arcsin = Elementwise("arcsin", np.arcsin, [steep(lambda y, x: 1 / sqrt((1 - x) * (1 + x)))])
arccos = Elementwise("arccos", np.arccos, [steep(lambda y, x: -1 / sqrt((1 - x) * (1 + x)))])
arctan = Elementwise("arctan", np.arctan, [slope(lambda y, x: 1 / (1 + square(x)))])
sinh = Elementwise("sinh", np.sinh, [steep(lambda y, x: cosh(x))])
cosh = Elementwise("cosh", np.cosh, [steep(lambda y, x: sinh(x))])
tanh = Elementwise("tanh", np.tanh, [slope(lambda y, x: 1 - square(y))])
arcsinh = Elementwise("arcsinh", np.arcsinh, [slope(lambda y, x: 1 / sqrt(square(x) + 1))])
arccosh = Elementwise("arccosh", np.arccosh, [steep(lambda y, x: 1 / sqrt((x - 1) * (x + 1)))])
arctanh = Elementwise("arctanh", np.arctanh, [steep(lambda y, x: 1 / ((1 - x) * (1 + x)))])
atan2 = Elementwise(
    "atan2", np.arctan2,
    [steep(lambda y, a, b: b / (square(a) + square(b))),
     steep(lambda y, a, b: -a / (square(a) + square(b)))],
    kinds="f",
)  # fmt: skip

# ---------------------------------------------------------------------------- special functions

_TWO_OVER_SQRT_PI = 2 / math.sqrt(math.pi)

erf = Elementwise(
    "erf", values.erf, [slope(lambda y, x: _TWO_OVER_SQRT_PI * exp(-square(x)))], kinds="f"
)
erfc = Elementwise(
    "erfc", values.erfc, [slope(lambda y, x: -_TWO_OVER_SQRT_PI * exp(-square(x)))], kinds="f"
)
erf_inv = Elementwise(
    "erf_inv", values.erf_inv,
    [steep(lambda y, x: (1 / _TWO_OVER_SQRT_PI) * exp(square(y)))], kinds="f",
)  # fmt: skip
lgamma = Elementwise("lgamma", values.lgamma, [steep(lambda y, x: digamma(x))], kinds="f")
digamma = Elementwise("digamma", values.digamma, [steep(lambda y, x: trigamma(x))], kinds="f")
# The second derivative of lgamma: zeta(2, x) (DLMF 25.11.12). Its own derivative is -2 zeta(3, x).
trigamma = Elementwise(
    "trigamma", values.trigamma, [steep(lambda y, x: _zeta3(x))], kinds="f", scalar=""
)
minus_two_zeta3 = Elementwise("minus_two_zeta3", values.minus_two_zeta3, kinds="f", arity=1,
                               scalar="")  # fmt: skip


def _zeta3(x: Any) -> Any:
    return minus_two_zeta3(x)


# ---------------------------------------------------------------------------- complex numbers

real = Elementwise(
    "real", np.real, [along(lambda t, y, x: real(t))], kinds="c", result="real",
    transposes=[lambda ct, x: complex(ct, zeros_of(ct))],
)  # fmt: skip
imag = Elementwise(
    "imag", np.imag, [along(lambda t, y, x: imag(t))], kinds="c", result="real",
    transposes=[lambda ct, x: complex(zeros_of(ct), neg(ct))],
)  # fmt: skip
conj = Elementwise(
    "conj", np.conjugate, [along(lambda t, y, x: conj(t))], kinds="c",
    transposes=[lambda ct, x: conj(ct)],
)  # fmt: skip
complex = Elementwise(
    "complex", values.make_complex,
    [along(lambda t, y, a, b: complex(t, zeros_of(t))),
     along(lambda t, y, a, b: complex(zeros_of(t), t))],
    kinds="f", result="complex",
    transposes=[lambda ct, a, b: real(ct), lambda ct, a, b: imag(neg(ct))],
)  # fmt: skip

# ---------------------------------------------------------------------------- comparison, choice


def _step(t: Any, a: Any, b: Any) -> Any:
    # 1 where a wins, 0 where it loses, and a half at a tie.
    dtype = get_aval(a).dtype
    wins = convert_element_type(gt(a, b), dtype=dtype) + convert_element_type(ge(a, b), dtype=dtype)
    return mul(t, 0.5 * wins)


max = Elementwise(
    "max", np.maximum,
    [along(lambda t, y, a, b: _step(t, a, b)), along(lambda t, y, a, b: _step(t, b, a))],
    kinds=ALL,
)  # fmt: skip
min = Elementwise(
    "min", np.minimum,
    [along(lambda t, y, a, b: _step(t, b, a)), along(lambda t, y, a, b: _step(t, a, b))],
    kinds=ALL,
)  # fmt: skip
fmax = Elementwise(
    "fmax", np.fmax,
    [along(lambda t, y, a, b: select(isnan(b), t, select(isnan(a), zeros_of(t), _step(t, a, b)))),
     along(lambda t, y, a, b: select(isnan(b), zeros_of(t),
                                     select(isnan(a), t, _step(t, b, a))))],
    kinds="f",
)  # fmt: skip
fmin = Elementwise(
    "fmin", np.fmin,
    [along(lambda t, y, a, b: select(isnan(b), t, select(isnan(a), zeros_of(t), _step(t, b, a)))),
     along(lambda t, y, a, b: select(isnan(b), zeros_of(t),
                                     select(isnan(a), t, _step(t, a, b))))],
    kinds="f",
)  # fmt: skip
nextafter = Elementwise("nextafter", np.nextafter, [along(lambda t, y, a, b: t), None], kinds="f")
copysign = Elementwise(
    "copysign", np.copysign, [slope(lambda y, a, b: sign(a) * copysign(one_like(a), b)), None],
    kinds="f",
)  # fmt: skip
heaviside = Elementwise(
    "heaviside", np.heaviside,
    [None, slope(lambda y, a, b: select(eq(a, zero_like(a)), one_like(a), zero_like(a)))],
    kinds="f",
)  # fmt: skip
eq = Elementwise("eq", np.equal, kinds=ALL, result="bool")
ne = Elementwise("ne", np.not_equal, kinds=ALL, result="bool")
lt = Elementwise("lt", np.less, kinds=ALL, result="bool")
le = Elementwise("le", np.less_equal, kinds=ALL, result="bool")
gt = Elementwise("gt", np.greater, kinds=ALL, result="bool")
ge = Elementwise("ge", np.greater_equal, kinds=ALL, result="bool")
is_finite = Elementwise("is_finite", np.isfinite, kinds=ALL, result="bool")
isnan = Elementwise("isnan", np.isnan, kinds=ALL, result="bool")
isinf = Elementwise("isinf", np.isinf, kinds=ALL, result="bool")
signbit = Elementwise("signbit", np.signbit, kinds="f", result="bool")
and_ = Elementwise("and", np.bitwise_and, kinds=BITS)
or_ = Elementwise("or", np.bitwise_or, kinds=BITS)
xor = Elementwise("xor", np.bitwise_xor, kinds=BITS)
not_ = Elementwise("not", np.invert, kinds=BITS)
shift_left = Elementwise("shift_left", np.left_shift, kinds=INTEGERS)
shift_right = Elementwise("shift_right", np.right_shift, kinds=INTEGERS)
population_count = Elementwise("population_count", values.population_count, kinds=INTEGERS, arity=1)


class Select(Elementwise):
    """`x` where `pred` else `y`, element by element. Only the chosen arm is differentiated."""

    def operand_dtype(self, avals: Any) -> np.dtype:
        if avals[0].dtype != dtypes.bool_:
            raise TypeError(f"select needs a bool predicate, got {avals[0]}.")
        return super().operand_dtype(avals[1:])


select = Select(
    "select", values.select,
    [None, along(lambda t, y, p, a, b: select(p, t, zeros_of(t))),
     along(lambda t, y, p, a, b: select(p, zeros_of(t), t))],
    kinds=ALL,
    transposes=[None, lambda ct, p, a, b: select(p, ct, zeros_of(ct)),
                lambda ct, p, a, b: select(p, zeros_of(ct), ct)],
)  # fmt: skip

# ---------------------------------------------------------------------------- conversion, identity


class ConvertElementType(Elementwise):
    """`x.astype(dtype)`. Complex to real drops the imaginary part, as NumPy's cast does."""

    def abstract_eval(self, x: ShapedArray, *, dtype: np.dtype) -> ShapedArray:  # type: ignore[override]
        return ShapedArray(x.shape, dtype)

    def jvp(self, primals: Any, tangents: Any, *, dtype: np.dtype) -> Any:  # type: ignore[override]
        out = self(primals[0], dtype=dtype)
        t = tangents[0]
        if type(t) is Zero or not dtypes.is_inexact(dtype):
            return out, Zero(get_aval(out).tangent_aval())
        return out, self(t, dtype=dtype)

    def transpose(self, ct: Any, x: Any, *, dtype: np.dtype) -> list[Any]:  # type: ignore[override]
        return [self(ct, dtype=x.aval.dtype)]


convert_element_type = ConvertElementType(
    "convert_element_type", values.convert, kinds=ALL, arity=1, scalar="convert"
)
copy = Elementwise(
    "copy", np.copy, [along(lambda t, y, x: t)], kinds=ALL, transposes=[lambda ct, x: ct]
)
stop_gradient = Elementwise("stop_gradient", values.identity, [None], kinds=ALL, scalar="copy")


# ---------------------------------------------------------------------------- constants like x


def zero_like(x: Any) -> Any:
    """The number 0 in the dtype of `x`."""
    return np.zeros((), get_aval(x).dtype)[()]


def one_like(x: Any) -> Any:
    """The number 1 in the dtype of `x`."""
    return np.ones((), get_aval(x).dtype)[()]


zeros_of = zero_like  # elementwise operands may be numbers, so a zero need not be an array
