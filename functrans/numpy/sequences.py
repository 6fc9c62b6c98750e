"""Functions along a sequence: differences, integrals, convolution, polynomials, cross products."""

from __future__ import annotations

from typing import Any

import numpy as np

from functrans import dtypes, ops
from functrans.numpy import promotion
from functrans.numpy.contractions import conjugated
from functrans.numpy.dispatch import TRACED, implements
from functrans.numpy.manipulation import join, slice_axis
from functrans.numpy.promotion import (
    array,
    cast,
    dtype_of,
    insert_axes,
    normalize_axes,
    normalize_axis,
    operand,
    promote,
)
from functrans.numpy.ufuncs import add, multiply, not_equal, subtract
from functrans.ops.convolution import ConvDimensionNumbers

_MISSING: Any = np._NoValue  # type: ignore[attr-defined]
_add, _sub, _mul = add.traced, subtract.traced, multiply.traced

# ---------------------------------------------------------------------------- differences


@implements(np.diff)
def diff(a: Any, n: int = 1, axis: int = -1, prepend: Any = _MISSING,
         append: Any = _MISSING) -> Any:  # fmt: skip
    """`numpy.diff`."""
    x = array(a)
    n = n.__index__()
    if n == 0:
        return x
    if n < 0:
        raise ValueError(f"order must be non-negative but got {n}")
    if x.ndim == 0:
        raise ValueError("diff requires input that is at least one dimensional")
    axis = normalize_axis(axis, x.ndim)
    ends = [_end(x, e, axis) for e in (prepend, append)]
    if ends[0] is not None or ends[1] is not None:
        x = join([p for p in (ends[0], x, ends[1]) if p is not None], axis)
    minus = not_equal.traced if x.dtype == bool else ops.sub
    for _ in range(n):
        size = x.shape[axis]
        later, earlier = (
            slice_axis(x, min(1, size), size, axis),
            slice_axis(x, 0, max(size - 1, 0), axis),
        )
        x = minus(later, earlier)
    return x


def _end(x: Any, value: Any, axis: int) -> Any:
    if value is _MISSING:
        return None
    v = operand(value)
    if np.ndim(v):
        return v
    shape = (*x.shape[:axis], 1, *x.shape[axis + 1 :])
    return promotion.broadcast_to(promotion.strong(v), shape)


@implements(np.ediff1d)
def ediff1d(ary: Any, to_end: Any = None, to_begin: Any = None) -> Any:
    """`numpy.ediff1d`."""
    x = TRACED[np.ravel](ary)
    d = TRACED[np.diff](x)
    parts = [TRACED[np.ravel](cast(operand(e), d.dtype)) if e is not None else None
             for e in (to_begin, to_end)]  # fmt: skip
    return join([p for p in (parts[0], d, parts[1]) if p is not None], 0)


@implements(np.gradient)
def gradient(f: Any, *varargs: Any, axis: Any = None, edge_order: int = 1) -> Any:
    """`numpy.gradient` for evenly spaced samples: a number of spacing per axis, or one for all."""
    if dtype_of(operand(f)).kind == "b":
        raise TypeError("np.gradient of bools is not defined; convert them with f.astype(float).")
    x = promotion.inexact(f)
    axes = normalize_axes(axis, x.ndim)
    steps = list(varargs) or [1.0]
    steps = steps * len(axes) if len(steps) == 1 else steps
    if len(steps) != len(axes):
        raise TypeError("invalid number of arguments")
    if any(np.ndim(s) for s in steps) or edge_order != 1:
        raise TypeError(
            "np.gradient on traced values takes numbers as spacing and edge_order=1; coordinate "
            "arrays are not supported."
        )
    if any(x.shape[i] < 2 for i in axes):
        raise ValueError("Shape of array too small to calculate a numerical gradient, at least "
                         "(edge_order + 1) elements are required.")  # fmt: skip
    out = [_slope_along(x, step, i) for i, step in zip(axes, steps, strict=True)]
    return out[0] if len(out) == 1 else tuple(out)


def _slope_along(x: Any, step: Any, axis: int) -> Any:
    n = x.shape[axis]
    step = cast(operand(step), x.dtype)
    first = ops.sub(slice_axis(x, 1, 2, axis), slice_axis(x, 0, 1, axis)) / step
    last = ops.sub(slice_axis(x, n - 1, n, axis), slice_axis(x, n - 2, n - 1, axis)) / step
    inner = ops.sub(slice_axis(x, 2, n, axis), slice_axis(x, 0, n - 2, axis)) / (
        step * step.dtype.type(2)
    )
    return join([first, inner, last], axis)


@implements(np.trapezoid)
def trapezoid(y: Any, x: Any = None, dx: Any = 1.0, axis: int = -1) -> Any:
    """`numpy.trapezoid`: the integral by trapezoids."""
    y = array(y)
    axis = normalize_axis(axis, y.ndim)
    n = y.shape[axis]
    if x is None:
        width = operand(dx)
    else:
        xs = array(x)
        width = TRACED[np.diff](xs, axis=0 if xs.ndim == 1 else axis)
        if xs.ndim == 1:
            width = insert_axes(width, [i for i in range(y.ndim) if i != axis])
    heights = _add(slice_axis(y, min(1, n), n, axis), slice_axis(y, 0, max(n - 1, 0), axis))
    return TRACED[np.sum](_mul(_mul(width, heights), 0.5), axis=axis)


# ---------------------------------------------------------------------------- convolution


def _windows(a: Any, v: Any, mode: str) -> Any:
    """Dot products of `v` with the windows of `a` (no longer than `a`) in one of NumPy's modes."""
    n, m = a.size, v.size
    pads = {"valid": (0, 0), "same": (m // 2, m - 1 - m // 2), "full": (m - 1, m - 1)}
    if mode not in pads:
        raise ValueError(f"mode must be one of 'valid', 'same', or 'full' (got {mode!r})")
    out_dtype = a.dtype
    if out_dtype == dtypes.bool_:  # an or of ands
        a, v = cast(a, np.dtype(np.int64)), cast(v, np.dtype(np.int64))
    axes = (0, 1, 2)
    out = ops.conv_general_dilated(
        ops.reshape(a, shape=(1, 1, n)), ops.reshape(v, shape=(1, 1, m)), window_strides=(1,),
        padding=(pads[mode],), lhs_dilation=(1,), rhs_dilation=(1,),
        dimension_numbers=ConvDimensionNumbers(axes, axes, axes), feature_group_count=1,
        batch_group_count=1,
    )  # fmt: skip
    return cast(ops.reshape(out, shape=(out.shape[2],)), out_dtype)


def _sequences(a: Any, v: Any) -> tuple[Any, Any]:
    a, v = promote(array(a), array(v))
    a, v = TRACED[np.atleast_1d](a), TRACED[np.atleast_1d](v)
    for x, name in ((a, "a"), (v, "v")):
        if x.ndim > 1:
            raise ValueError("object too deep for desired array")
        if not x.size:
            raise ValueError(f"{name} cannot be empty")
    return a, v


@implements(np.convolve)
def convolve(a: Any, v: Any, /, mode: str = "full") -> Any:
    """`numpy.convolve`."""
    a, v = _sequences(a, v)
    if v.size > a.size:
        a, v = v, a
    return _windows(a, ops.rev(v, dimensions=(0,)), mode)


@implements(np.correlate)
def correlate(a: Any, v: Any, mode: str = "valid") -> Any:
    """`numpy.correlate`."""
    a, v = _sequences(a, v)
    v = conjugated(v)
    if v.size <= a.size:
        return _windows(a, v, mode)
    flipped = [ops.rev(x, dimensions=(0,)) for x in (v, a)]
    return (
        _windows(flipped[0], flipped[1], mode)
        if mode != "same"
        else ops.rev(_windows(v, a, mode), dimensions=(0,))
    )


# ---------------------------------------------------------------------------- polynomials


@implements(np.polyval)
def polyval(p: Any, x: Any) -> Any:
    """`numpy.polyval`, by Horner's rule."""
    coefficients = array(p)
    x = operand(x)
    y = TRACED[np.zeros_like](x)
    for c in TRACED[np.unstack](coefficients):
        y = _add(_mul(y, x), c)
    return y


# ---------------------------------------------------------------------------- vectors


@implements(np.cross)
def cross(a: Any, b: Any, axisa: int = -1, axisb: int = -1, axisc: int = -1,
          axis: Any = None) -> Any:  # fmt: skip
    """`numpy.cross` of 3-vectors."""
    if axis is not None:
        axisa = axisb = axisc = axis
    a, b = promote(array(a), array(b))
    a = TRACED[np.moveaxis](a, axisa, 0)
    b = TRACED[np.moveaxis](b, axisb, 0)
    if a.shape[0] != 3 or b.shape[0] != 3:
        raise ValueError(
            f"cross needs 3-vectors; the axes have extents {a.shape[0]} and {b.shape[0]}"
        )
    a1, a2, a3 = TRACED[np.unstack](a)
    b1, b2, b3 = TRACED[np.unstack](b)
    parts = (
        _sub(_mul(a2, b3), _mul(a3, b2)),
        _sub(_mul(a3, b1), _mul(a1, b3)),
        _sub(_mul(a1, b2), _mul(a2, b1)),
    )
    return TRACED[np.stack](parts, axisc)
