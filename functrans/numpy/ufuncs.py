"""The ufuncs, a row each: NumPy's ufunc and the ops that say what it computes.

Rules see operands of NumPy's loop dtypes, already broadcast; see `ufunc.py`. The same table serves
`functrans.numpy.sin` and `numpy.sin` on tracers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from functrans import dtypes, ops
from functrans.numpy.dispatch import NAMES
from functrans.numpy.promotion import cast, dtype_of, full, scalar_like
from functrans.numpy.ufunc import Ufunc

UFUNCS: dict[np.ufunc, Ufunc] = {}
"""The row of each NumPy ufunc."""

UNSUPPORTED = {
    np.frexp: "numpy.log2 and numpy.floor",
    np.gcd: "numpy.gcd on values that are known while tracing",
    np.lcm: "numpy.lcm on values that are known while tracing",
    np.spacing: "numpy.nextafter(x, numpy.inf) - x",
    np.isnat: "numpy.isnan; times are not traced",
}
"""Ufuncs that cannot be traced, and what comes near."""


def row(name: str, rule: Callable[..., Any], kind: type[Ufunc] = Ufunc) -> Ufunc:
    """Enter a ufunc, by NumPy's name for it, into the table."""
    ufunc = kind(getattr(np, name), rule, name)
    NAMES[name] = UFUNCS[ufunc.ufunc] = ufunc
    return ufunc


def _identity_for(kinds: str, op: Callable[..., Any]) -> Callable[..., Any]:
    """`op`, which leaves values of these dtype kinds as they are."""
    return lambda x: x if dtype_of(x).kind in kinds else op(x)


# ---------------------------------------------------------------------------- arithmetic


def _power(a: Any, b: Any) -> Any:
    """a ** b; a known exponent becomes products, which are right at 0 and for negative a."""
    if isinstance(b, np.number):
        exponent: Any = b.item()
        if dtype_of(b).kind in "i" and b < 0:  # type: ignore[operator]
            raise ValueError("Integers to negative integer powers are not allowed.")
        product = _POWERS.get(exponent)
        if product is not None and (dtypes.is_inexact(dtype_of(a)) or b >= 0):  # type: ignore[operator]
            return product(a)
    return ops.pow(a, b)


_POWERS: dict[Any, Callable[[Any], Any]] = {
    0: lambda a: full(np.shape(a), 1, dtype_of(a)),
    1: lambda a: a,
    2: lambda a: ops.square(a),
    3: lambda a: ops.mul(ops.square(a), a),
    4: lambda a: ops.square(ops.square(a)),
    -1: lambda a: ops.reciprocal(a),
    -2: lambda a: ops.reciprocal(ops.square(a)),
    0.5: lambda a: ops.sqrt(a) if dtypes.is_inexact(dtype_of(a)) else ops.pow(a, a),
}


def _reciprocal(x: Any) -> Any:
    dtype = dtype_of(x)
    if dtypes.is_inexact(dtype):
        return ops.reciprocal(x)
    # C's 1 / x: 0 but for 1 and -1; 1 / 0 is what NumPy's integer division gives.
    unit = ops.eq(ops.abs(x) if dtype.kind == "i" else x, scalar_like(1, x))
    with np.errstate(all="ignore"):
        of_zero = np.reciprocal(np.zeros((), dtype))[()]
    rest = ops.select(ops.eq(x, scalar_like(0, x)), of_zero, scalar_like(0, x))
    return ops.select(unit, x, rest)


def _modf(x: Any) -> tuple[Any, Any]:
    whole = ops.trunc(x)
    fraction = ops.select(ops.isinf(x), scalar_like(0, x), ops.sub(x, whole))
    return ops.copysign(fraction, x), whole


def _ldexp(x: Any, n: Any) -> Any:
    # In three steps, in float64: 2 ** n alone overflows where x * 2 ** n does not. Beyond 2200
    # every x but 0 has overflowed or vanished.
    wide = cast(x, dtypes.float64)
    n = ops.max(ops.min(cast(n, np.dtype(np.int64)), np.int64(2200)), np.int64(-2200))
    third = ops.floor_divide(n, np.int64(3))
    for part in (third, third, ops.sub(n, ops.mul(third, np.int64(2)))):
        wide = ops.mul(wide, ops.exp2(cast(part, dtypes.float64)))
    return cast(wide, dtype_of(x))


def _divmod(a: Any, b: Any) -> tuple[Any, Any]:
    return ops.floor_divide(a, b), ops.mod(a, b)


add = row("add", lambda a, b: ops.add(a, b))
subtract = row("subtract", lambda a, b: ops.sub(a, b))
multiply = row("multiply", lambda a, b: ops.mul(a, b))
divide = row("divide", lambda a, b: ops.div(a, b))
true_divide = divide
floor_divide = row("floor_divide", lambda a, b: ops.floor_divide(a, b))
remainder = row("remainder", lambda a, b: ops.mod(a, b))
mod = remainder
fmod = row("fmod", lambda a, b: ops.fmod(a, b))
divmod = row("divmod", _divmod)
power = row("power", _power)
pow = power
float_power = row("float_power", _power)
negative = row("negative", lambda x: ops.neg(x))
positive = row("positive", lambda x: x)
absolute = row("absolute", _identity_for("b", lambda x: ops.abs(x)))
abs = absolute
fabs = row("fabs", lambda x: ops.abs(x))
sign = row("sign", lambda x: ops.sign(x))
square = row("square", lambda x: ops.square(x))
reciprocal = row("reciprocal", _reciprocal)
sqrt = row("sqrt", lambda x: ops.sqrt(x))
cbrt = row("cbrt", lambda x: ops.cbrt(x))
hypot = row("hypot", lambda a, b: ops.hypot(a, b))
modf = row("modf", _modf)
ldexp = row("ldexp", _ldexp)
floor = row("floor", _identity_for("biu", lambda x: ops.floor(x)))
ceil = row("ceil", _identity_for("biu", lambda x: ops.ceil(x)))
trunc = row("trunc", _identity_for("biu", lambda x: ops.trunc(x)))
rint = row("rint", lambda x: ops.round(x))

# ---------------------------------------------------------------------------- exp, log

exp = row("exp", lambda x: ops.exp(x))
exp2 = row("exp2", lambda x: ops.exp2(x))
expm1 = row("expm1", lambda x: ops.expm1(x))
log = row("log", lambda x: ops.log(x))
log2 = row("log2", lambda x: ops.log2(x))
log10 = row("log10", lambda x: ops.log10(x))
log1p = row("log1p", lambda x: ops.log1p(x))
logaddexp = row("logaddexp", lambda a, b: ops.logaddexp(a, b))
logaddexp2 = row("logaddexp2", lambda a, b: ops.logaddexp2(a, b))

# ---------------------------------------------------------------------------- trigonometric


def _to_degrees(x: Any) -> Any:
    return ops.mul(x, scalar_like(180 / math.pi, x))


def _to_radians(x: Any) -> Any:
    return ops.mul(x, scalar_like(math.pi / 180, x))


sin = row("sin", lambda x: ops.sin(x))
cos = row("cos", lambda x: ops.cos(x))
tan = row("tan", lambda x: ops.tan(x))
arcsin = row("arcsin", lambda x: ops.arcsin(x))
asin = arcsin
arccos = row("arccos", lambda x: ops.arccos(x))
acos = arccos
arctan = row("arctan", lambda x: ops.arctan(x))
atan = arctan
arctan2 = row("arctan2", lambda a, b: ops.atan2(a, b))
atan2 = arctan2
sinh = row("sinh", lambda x: ops.sinh(x))
cosh = row("cosh", lambda x: ops.cosh(x))
tanh = row("tanh", lambda x: ops.tanh(x))
arcsinh = row("arcsinh", lambda x: ops.arcsinh(x))
asinh = arcsinh
arccosh = row("arccosh", lambda x: ops.arccosh(x))
acosh = arccosh
arctanh = row("arctanh", lambda x: ops.arctanh(x))
atanh = arctanh
degrees = row("degrees", _to_degrees)
rad2deg = row("rad2deg", _to_degrees)
radians = row("radians", _to_radians)
deg2rad = row("deg2rad", _to_radians)

# ---------------------------------------------------------------------------- comparison, logic


class Comparison(Ufunc):
    """A comparison: exact between int64 and uint64, and with Python ints of any size."""

    def _apply(self, args: Any) -> tuple[Any, bool]:
        try:
            return super()._apply(args)
        except OverflowError:
            return self._with_a_number_out_of_range(*args), False

    def resolve(self, keys: Any, **options: Any) -> tuple[np.dtype, ...]:
        """Ask NumPy; of two Python ints, which it would compare as such, int64 stands for both."""
        if all(k is int for k in keys):
            keys = (np.dtype(np.int64),) * len(keys)
        return super().resolve(keys, **options)

    def _with_a_number_out_of_range(self, a: Any, b: Any) -> Any:
        # One operand lies beyond every value of the other's dtype: compare with any of them.
        if type(a) is int:
            answer, shape = self.ufunc(a, np.zeros((), dtype_of(b))), np.shape(b)
        else:
            answer, shape = self.ufunc(np.zeros((), dtype_of(a)), b), np.shape(a)
        return full(shape, answer, dtypes.bool_)


def _comparison(op: str, mirrored: str) -> Callable[..., Any]:
    def rule(a: Any, b: Any) -> Any:
        da, db = dtype_of(a), dtype_of(b)
        if da == db:
            return getattr(ops, op)(a, b)
        if da.kind == "u":
            return _signed_unsigned(mirrored, b, a)
        return _signed_unsigned(op, a, b)

    return rule


def _signed_unsigned(op: str, signed: Any, unsigned: Any) -> Any:
    negative_answer = op in ("lt", "le", "ne")
    is_negative = ops.lt(signed, scalar_like(0, signed))
    answer = getattr(ops, op)(cast(signed, dtype_of(unsigned)), unsigned)
    return ops.select(is_negative, np.bool_(negative_answer), answer)


equal = row("equal", _comparison("eq", "eq"), kind=Comparison)
not_equal = row("not_equal", _comparison("ne", "ne"), kind=Comparison)
less = row("less", _comparison("lt", "gt"), kind=Comparison)
less_equal = row("less_equal", _comparison("le", "ge"), kind=Comparison)
greater = row("greater", _comparison("gt", "lt"), kind=Comparison)
greater_equal = row("greater_equal", _comparison("ge", "le"), kind=Comparison)


def _logical(op: Callable[..., Any]) -> Callable[..., Any]:
    """A logical operation on what is not zero."""
    return lambda *xs: op(*[cast(x, dtypes.bool_) for x in xs])


logical_and = row("logical_and", _logical(ops.and_))
logical_or = row("logical_or", _logical(ops.or_))
logical_xor = row("logical_xor", _logical(ops.xor))
logical_not = row("logical_not", _logical(ops.not_))


def _in_floats(op: str, of_others: str) -> Callable[..., Any]:
    """Floats by `op`; dtypes without nan by `of_others`."""
    return lambda a, b: getattr(ops, op if dtype_of(a).kind == "f" else of_others)(a, b)


maximum = row("maximum", lambda a, b: ops.max(a, b))
minimum = row("minimum", lambda a, b: ops.min(a, b))
fmax = row("fmax", _in_floats("fmax", "max"))
fmin = row("fmin", _in_floats("fmin", "min"))
isfinite = row("isfinite", lambda x: ops.is_finite(x))
isnan = row("isnan", lambda x: ops.isnan(x))
isinf = row("isinf", lambda x: ops.isinf(x))
signbit = row("signbit", lambda x: ops.signbit(x))
copysign = row("copysign", lambda a, b: ops.copysign(a, b))
nextafter = row("nextafter", lambda a, b: ops.nextafter(a, b))
heaviside = row("heaviside", lambda a, b: ops.heaviside(a, b))

# ---------------------------------------------------------------------------- bits, complex


def _bitwise_count(x: Any) -> Any:
    magnitude = ops.abs(x) if dtype_of(x).kind == "i" else x
    return cast(ops.population_count(magnitude), np.dtype(np.uint8))


bitwise_and = row("bitwise_and", lambda a, b: ops.and_(a, b))
bitwise_or = row("bitwise_or", lambda a, b: ops.or_(a, b))
bitwise_xor = row("bitwise_xor", lambda a, b: ops.xor(a, b))
invert = row("invert", lambda x: ops.not_(x))
bitwise_not = invert
bitwise_invert = invert
left_shift = row("left_shift", lambda a, b: ops.shift_left(a, b))
bitwise_left_shift = left_shift
right_shift = row("right_shift", lambda a, b: ops.shift_right(a, b))
bitwise_right_shift = right_shift
bitwise_count = row("bitwise_count", _bitwise_count)
conjugate = row("conjugate", _identity_for("biuf", lambda x: ops.conj(x)))
conj = conjugate
