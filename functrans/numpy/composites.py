"""Elementwise functions of NumPy that are not ufuncs: where, clip, round, real, isclose and kin."""

from __future__ import annotations

import builtins
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from functrans import dtypes, ops
from functrans.numpy import promotion
from functrans.numpy.dispatch import TRACED, implements
from functrans.numpy.promotion import (
    array,
    broadcast,
    broadcast_to,
    cast,
    dtype_of,
    full,
    operand,
    promote,
    scalar_like,
)
from functrans.numpy.ufuncs import UFUNCS, absolute, arctan2, maximum, minimum, multiply, rint

_abs, _max, _min, _mul = absolute.traced, maximum.traced, minimum.traced, multiply.traced
_MISSING: Any = np._NoValue  # type: ignore[attr-defined]

# ---------------------------------------------------------------------------- choice


def choose(condition: Any, x: Any, y: Any) -> Any:
    """`x` where the condition holds, else `y`; promoted and broadcast."""
    condition = cast(array(condition), dtypes.bool_)
    x, y = promote(operand(x), operand(y))
    shape = promotion.broadcast_shapes(condition.shape, x.shape, y.shape)
    condition, x, y = broadcast(condition, x, y)
    if x.shape != shape and y.shape != shape and condition.shape != shape:
        condition = broadcast_to(condition, shape)
    return ops.select(condition, x, y)


@implements(np.where)
def where(condition: Any, x: Any = _MISSING, y: Any = _MISSING, /) -> Any:
    """`numpy.where`; only the chosen arm is differentiated."""
    if x is _MISSING and y is _MISSING:
        return TRACED[np.nonzero](condition)
    if x is _MISSING or y is _MISSING:
        raise ValueError("either both or neither of x and y should be given")
    return choose(condition, x, y)


@implements(np.select)
def select(condlist: Sequence[Any], choicelist: Sequence[Any], default: Any = 0) -> Any:
    """`numpy.select`: the choice of the first condition that holds."""
    if len(condlist) != len(choicelist):
        raise ValueError("list of cases must be same length as list of conditions")
    if not condlist:
        raise ValueError("select with an empty condition list is not possible")
    *choices, result = promote(*map(operand, (*choicelist, default)))
    for condition, choice in zip(reversed(condlist), reversed(choices), strict=True):
        if dtype_of(operand(condition)) != dtypes.bool_:
            raise TypeError("invalid entry in condlist: should be boolean ndarray")
        result = choose(condition, choice, result)
    return result


@implements(np.clip)
def clip(a: Any, a_min: Any = _MISSING, a_max: Any = _MISSING, out: Any = None, *,
         min: Any = _MISSING, max: Any = _MISSING) -> Any:  # fmt: skip
    """`numpy.clip`."""
    if out is not None:
        raise TypeError("clip(..., out=...) cannot be traced: use the result.")
    if (a_min is not _MISSING or a_max is not _MISSING) and (
        min is not _MISSING or max is not _MISSING
    ):
        raise ValueError("Passing `min` or `max` keyword argument when `a_min` and `a_max` are "
                         "provided is forbidden.")  # fmt: skip
    low = min if a_min is _MISSING else a_min
    high = max if a_max is _MISSING else a_max
    bounds = [None if b is _MISSING else b for b in (low, high)]
    present = [operand(b) for b in bounds if b is not None]
    x, *_ = promote(operand(a), *present)
    if bounds[0] is not None:
        x = _max(x, cast(operand(bounds[0]), x.dtype))
    return x if bounds[1] is None else _min(x, cast(operand(bounds[1]), x.dtype))


@implements(np.choose)
def choose_between(a: Any, choices: Any, out: Any = None, mode: str = "raise") -> Any:
    """`numpy.choose` with mode "clip" or "wrap"."""
    if mode not in ("clip", "wrap"):
        raise ValueError("np.choose on traced values needs mode='clip' or mode='wrap'.")
    index = array(a)
    items = promote(*map(operand, choices))
    n = len(items)
    index = index % n if mode == "wrap" else clip.__wrapped__(index, 0, n - 1)  # type: ignore[attr-defined]
    result = items[-1]
    for i in reversed(range(n - 1)):
        result = choose(index == i, items[i], result)
    return result


# ---------------------------------------------------------------------------- rounding


@implements(np.round, np.around)
def round(a: Any, decimals: int = 0, out: Any = None) -> Any:
    """`numpy.round`, half to even; its derivative is 0."""
    if out is not None:
        raise TypeError("round(..., out=...) cannot be traced: use the result.")
    x = array(a)
    kind = x.dtype.kind
    if kind in "iu" and decimals >= 0:
        return x
    if kind == "b" and decimals:
        raise TypeError("bools have no decimals to round; convert them with x.astype(float).")
    if decimals == 0:
        return rint.traced(x)
    if kind == "c":
        parts = [TRACED[np.round](part(x), decimals) for part in (ops.real, ops.imag)]
        return ops.complex(*parts)
    scale = 10 ** builtins.abs(decimals)
    y = x if kind == "f" else cast(x, dtypes.float64)
    by = scalar_like(scale, y)
    if decimals > 0:
        return ops.div(ops.round(ops.mul(y, by)), by)
    return cast(ops.mul(ops.round(ops.div(y, by)), by), x.dtype)


@implements(np.fix)
def fix(x: Any, out: Any = None) -> Any:
    """`numpy.fix`: toward zero."""
    if out is not None:
        raise TypeError("fix(..., out=...) cannot be traced: use the result.")
    return UFUNCS[np.trunc].traced(x)


# ---------------------------------------------------------------------------- complex parts


@implements(np.real)
def real(val: Any) -> Any:
    """`numpy.real`."""
    x = array(val)
    return ops.real(x) if x.dtype.kind == "c" else x


@implements(np.imag)
def imag(val: Any) -> Any:
    """`numpy.imag`; of real values zeros."""
    x = array(val)
    return ops.imag(x) if x.dtype.kind == "c" else full(x.shape, 0, x.dtype)


@implements(np.angle)
def angle(z: Any, deg: bool = False) -> Any:
    """`numpy.angle`."""
    x = array(z)
    if x.dtype.kind == "c":
        y = ops.atan2(ops.imag(x), ops.real(x))
    else:
        y = arctan2.traced(0, x)
    return _mul(y, 180 / math.pi) if deg else y


@implements(np.iscomplex)
def iscomplex(x: Any) -> Any:
    """`numpy.iscomplex`: a nonzero imaginary part."""
    y = TRACED[np.imag](x)
    return ops.ne(y, scalar_like(0, y))


@implements(np.isreal)
def isreal(x: Any) -> Any:
    """`numpy.isreal`: no imaginary part."""
    y = TRACED[np.imag](x)
    return ops.eq(y, scalar_like(0, y))


@implements(np.real_if_close)
def real_if_close(a: Any, tol: float = 100) -> Any:
    """`numpy.real_if_close` of real values; of complex ones the dtype would depend on values."""
    x = array(a)
    if x.dtype.kind == "c":
        raise TypeError("real_if_close of a traced complex array: its dtype would depend on the "
                        "values. Write np.real(x).")  # fmt: skip
    return x


# ---------------------------------------------------------------------------- sinc, nan


@implements(np.sinc)
def sinc(x: Any) -> Any:
    """`numpy.sinc`: sin(pi x) / (pi x), smooth at 0."""
    y = _mul(promotion.inexact(x), math.pi)
    near = ops.lt(absolute.traced(y), scalar_like(0.5, absolute.traced(y)))
    safe = ops.select(near, scalar_like(1, y), y)
    small = ops.select(near, y, scalar_like(0, y))
    # sin(y) / y = sum (-y^2)^k / (2k + 1)!; the tenth term is below 1e-26 for |y| < 1/2.
    t = ops.square(small)
    series = scalar_like(0, y)
    for k in reversed(range(10)):
        series = series * t + scalar_like((-1) ** k / math.factorial(2 * k + 1), y)
    return ops.select(near, series, ops.div(ops.sin(safe), safe))


@implements(np.nan_to_num)
def nan_to_num(x: Any, copy: bool = True, nan: Any = 0.0, posinf: Any = None,
               neginf: Any = None) -> Any:  # fmt: skip
    """`numpy.nan_to_num`."""
    x = array(x)
    if x.dtype.kind == "c":
        parts = [nan_to_num.__wrapped__(part(x), True, nan, posinf, neginf)  # type: ignore[attr-defined]
                 for part in (ops.real, ops.imag)]  # fmt: skip
        return ops.complex(*parts)
    if x.dtype.kind != "f":
        return x
    limits = np.finfo(x.dtype)
    high = limits.max if posinf is None else posinf
    low = limits.min if neginf is None else neginf
    inf = scalar_like(np.inf, x)
    y = choose(ops.isnan(x), cast(operand(nan), x.dtype), x)
    y = choose(ops.eq(x, inf), cast(operand(high), x.dtype), y)
    return choose(ops.eq(x, -inf), cast(operand(low), x.dtype), y)


@implements(np.isposinf)
def isposinf(x: Any, out: Any = None) -> Any:
    """`numpy.isposinf`."""
    x = promotion.inexact(x)
    return ops.eq(x, scalar_like(np.inf, x))


@implements(np.isneginf)
def isneginf(x: Any, out: Any = None) -> Any:
    """`numpy.isneginf`."""
    x = promotion.inexact(x)
    return ops.eq(x, scalar_like(-np.inf, x))


# ---------------------------------------------------------------------------- closeness


@implements(np.isclose)
def isclose(a: Any, b: Any, rtol: Any = 1e-05, atol: Any = 1e-08, equal_nan: bool = False) -> Any:
    """`numpy.isclose`."""
    x, y = promote(operand(a), operand(b))
    x, y = broadcast(x, y)
    if not dtypes.is_inexact(x.dtype):
        x, y = cast(x, dtypes.float64), cast(y, dtypes.float64)
    with np.errstate(invalid="ignore"):
        close = (_abs(x - y) <= atol + rtol * _abs(y)) & ops.is_finite(y) | ops.eq(x, y)
    return close | (ops.isnan(x) & ops.isnan(y)) if equal_nan else close


@implements(np.allclose)
def allclose(a: Any, b: Any, rtol: Any = 1e-05, atol: Any = 1e-08, equal_nan: bool = False) -> Any:
    """`numpy.allclose`; a traced bool."""
    return TRACED[np.all](isclose.__wrapped__(a, b, rtol, atol, equal_nan))  # type: ignore[attr-defined]


@implements(np.array_equal)
def array_equal(a1: Any, a2: Any, equal_nan: bool = False) -> Any:
    """`numpy.array_equal`; a traced bool, or False for different shapes."""
    x, y = array(a1), array(a2)
    if x.shape != y.shape:
        return False
    return _all_equal(x, y, equal_nan)


@implements(np.array_equiv)
def array_equiv(a1: Any, a2: Any) -> Any:
    """`numpy.array_equiv`; a traced bool, or False for shapes that do not broadcast."""
    x, y = array(a1), array(a2)
    try:
        np.broadcast_shapes(x.shape, y.shape)
    except ValueError:
        return False
    return _all_equal(x, y, False)


def _all_equal(x: Any, y: Any, equal_nan: bool) -> Any:
    same = UFUNCS[np.equal].traced(x, y)
    if equal_nan:
        same = same | (ops.isnan(x) & ops.isnan(y))
    return TRACED[np.all](same)
