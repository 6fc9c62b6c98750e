"""Reductions with NumPy's signatures and dtype rules, written with the reduction ops.

`where=` replaces what is left out by the neutral element before reducing, so left-out elements get
the gradient 0. Integer sums and products are made in (u)int64, half-precision sums and means in
float32, as NumPy does.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable
from typing import Any

import numpy as np

from functrans import dtypes, ops
from functrans.numpy import ufuncs
from functrans.numpy.dispatch import TRACED, implements
from functrans.numpy.promotion import (
    array,
    broadcast,
    broadcast_shapes,
    broadcast_to,
    cast,
    full,
    insert_axes,
    normalize_axes,
    normalize_axis,
    scalar_like,
)

_INT64 = np.dtype(np.int64)
_NO_VALUE: Any = np._NoValue  # type: ignore[attr-defined]


def _refuse_out(out: Any, name: str) -> None:
    if out is not None:
        raise TypeError(
            f"{name}(..., out=...) cannot be traced: arrays are not written in place here. "
            f"Use the result instead: y = {name}(x)."
        )


def _given(value: Any, default: Any = None) -> Any:
    return default if value is _NO_VALUE or value is None else value


def _keep(y: Any, axes: tuple[int, ...], keepdims: Any) -> Any:
    return insert_axes(y, axes) if _given(keepdims, False) else y


def keep_where(x: Any, where: Any, neutral: Any) -> Any:
    """`x` where the mask is true, else the neutral element; broadcast with the mask."""
    if where is True or where is _NO_VALUE:
        return x
    where = cast(array(where), dtypes.bool_)
    shape = broadcast_shapes(x.shape, where.shape)
    where, x = broadcast_to(where, shape), broadcast_to(x, shape)
    return ops.select(where, x, scalar_like(neutral, x))


def sum_dtype(dtype: np.dtype) -> np.dtype:
    """The dtype in which NumPy adds or multiplies elements: at least 64 bits for integers."""
    if dtype.kind in "bi":
        return np.result_type(dtype, np.int64)
    return np.result_type(dtype, np.uint64) if dtype.kind == "u" else dtype


def _reduce_sum(x: Any, axes: tuple[int, ...]) -> Any:
    # NumPy adds half-precision numbers in float32, then rounds.
    if x.dtype == np.float16:
        return cast(ops.reduce_sum(cast(x, np.dtype(np.float32)), axes=axes), x.dtype)
    return ops.reduce_sum(x, axes=axes)


def _with_initial(y: Any, initial: Any, combine: Callable[..., Any]) -> Any:
    initial = _given(initial)
    return y if initial is None else combine(y, cast(initial, y.dtype))


@implements(np.sum)
def sum(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False,
        initial: Any = None, where: Any = True) -> Any:  # fmt: skip
    """`numpy.sum`."""
    _refuse_out(out, "sum")
    x, axes = _accumulated(a, axis, dtype, where, 0)
    y = _with_initial(_reduce_sum(x, axes) if axes else x, initial, ops.add)
    return _keep(y, axes, keepdims)


@implements(np.prod)
def prod(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False,
         initial: Any = None, where: Any = True) -> Any:  # fmt: skip
    """`numpy.prod`."""
    _refuse_out(out, "prod")
    x, axes = _accumulated(a, axis, dtype, where, 1)
    y = _with_initial(ops.reduce_prod(x, axes=axes) if axes else x, initial, ops.mul)
    return _keep(y, axes, keepdims)


def _accumulated(a: Any, axis: Any, dtype: Any, where: Any, neutral: int) -> tuple[Any, Any]:
    """What `sum` and `prod` reduce: in the dtype of the result, `neutral` where left out; axes."""
    x = array(a)
    x = cast(x, np.dtype(dtype) if dtype is not None else sum_dtype(x.dtype))
    axes = normalize_axes(axis, x.ndim)
    return keep_where(x, where, neutral), axes


def extreme_of(dtype: np.dtype, *, largest: bool) -> Any:
    """The largest or smallest number of a dtype."""
    if dtype.kind == "b":
        return largest
    if dtype.kind in "iu":
        return np.iinfo(dtype).max if largest else np.iinfo(dtype).min
    return np.inf if largest else -np.inf


def _extremum(name: str, a: Any, axis: Any, keepdims: Any, initial: Any, where: Any) -> Any:
    x = array(a)
    axes = normalize_axes(axis, x.ndim)
    initial = _given(initial)
    is_max = name == "maximum"
    if where is not True and where is not _NO_VALUE:
        if initial is None:
            raise ValueError(
                f"reduction operation '{name}' does not have an identity, so to use a where mask "
                "one has to specify 'initial'"
            )
        x = keep_where(x, where, extreme_of(x.dtype, largest=not is_max))
    if builtins.any(x.shape[i] == 0 for i in axes):
        kept = tuple(n for i, n in enumerate(x.shape) if i not in axes)
        if initial is None:  # NumPy refuses it, of empty results since some version only
            getattr(np, name).reduce(np.empty(x.shape), axis=axes)
        empty = full(kept, 0 if initial is None else initial, x.dtype)
        return _keep(empty, axes, keepdims)
    reduce = ops.reduce_max if is_max else ops.reduce_min
    y = reduce(x, axes=axes) if axes else x
    return _keep(_with_initial(y, initial, ops.max if is_max else ops.min), axes, keepdims)


@implements(np.max, np.amax)
def max(a: Any, axis: Any = None, out: Any = None, keepdims: Any = False,
        initial: Any = None, where: Any = True) -> Any:  # fmt: skip
    """`numpy.max`; ties share the gradient evenly."""
    _refuse_out(out, "max")
    return _extremum("maximum", a, axis, keepdims, initial, where)


@implements(np.min, np.amin)
def min(a: Any, axis: Any = None, out: Any = None, keepdims: Any = False,
        initial: Any = None, where: Any = True) -> Any:  # fmt: skip
    """`numpy.min`; ties share the gradient evenly."""
    _refuse_out(out, "min")
    return _extremum("minimum", a, axis, keepdims, initial, where)


@implements(np.all)
def all(a: Any, axis: Any = None, out: Any = None, keepdims: Any = False,
        *, where: Any = True) -> Any:  # fmt: skip
    """`numpy.all`."""
    _refuse_out(out, "all")
    x = cast(array(a), dtypes.bool_)
    axes = normalize_axes(axis, x.ndim)
    x = keep_where(x, where, True)
    return _keep(ops.reduce_and(x, axes=axes) if axes else x, axes, keepdims)


@implements(np.any)
def any(a: Any, axis: Any = None, out: Any = None, keepdims: Any = False,
        *, where: Any = True) -> Any:  # fmt: skip
    """`numpy.any`."""
    _refuse_out(out, "any")
    x = cast(array(a), dtypes.bool_)
    axes = normalize_axes(axis, x.ndim)
    x = keep_where(x, where, False)
    return _keep(ops.reduce_or(x, axes=axes) if axes else x, axes, keepdims)


# ---------------------------------------------------------------------------- mean, variance


def _count(shape: tuple[int, ...], axes: tuple[int, ...], where: Any) -> Any:
    """How many elements are reduced into each result: an int, or by mask an array of int64."""
    if where is True or where is _NO_VALUE:
        n = 1
        for i in axes:
            n *= shape[i]
        return n
    mask = broadcast_to(cast(array(where), dtypes.bool_), shape)
    return ops.reduce_sum(cast(mask, _INT64), axes=axes)


def _divide_by_count(total: Any, count: Any, dtype: np.dtype) -> Any:
    with np.errstate(all="ignore"):
        return ops.div(total, cast(count, dtype))


def _mean_dtypes(x: Any, dtype: Any) -> tuple[np.dtype, np.dtype]:
    """The dtype of the sum and of the mean."""
    if dtype is not None:
        return np.dtype(dtype), np.dtype(dtype)
    if not dtypes.is_inexact(x.dtype):
        return dtypes.float64, dtypes.float64
    half = x.dtype == np.float16
    return (np.dtype(np.float32) if half else x.dtype), x.dtype


@implements(np.mean)
def mean(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False,
         *, where: Any = True) -> Any:  # fmt: skip
    """`numpy.mean`; nan for no elements."""
    _refuse_out(out, "mean")
    x = array(a)
    axes = normalize_axes(axis, x.ndim)
    sum_type, result_type = _mean_dtypes(x, dtype)
    y = _mean(cast(x, sum_type), axes, where)
    return cast(_keep(y, axes, keepdims), result_type)


def _mean(x: Any, axes: tuple[int, ...], where: Any) -> Any:
    x = keep_where(x, where, 0)
    total = ops.reduce_sum(x, axes=axes) if axes else x
    return _divide_by_count(total, _count(x.shape, axes, where), x.dtype)


@implements(np.var)
def var(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, ddof: Any = 0,
        keepdims: Any = False, *, where: Any = True, mean: Any = None,
        correction: Any = None) -> Any:  # fmt: skip
    """`numpy.var`: the mean squared distance from the mean."""
    _refuse_out(out, "var")
    correction = _given(correction)
    if correction is not None:
        if ddof != 0:
            raise ValueError("ddof and correction can't be provided simultaneously.")
        ddof = correction
    x = array(a)
    axes = normalize_axes(axis, x.ndim)
    sum_type, result_type = _mean_dtypes(x, dtype)
    x = cast(x, sum_type)
    center = _given(mean)
    if center is None:
        center = insert_axes(_mean(x, axes, where), axes)
    from_center = ufuncs.subtract.traced(x, center)
    if x.dtype.kind == "c":
        re, im = ops.real(from_center), ops.imag(from_center)
        squares = ops.add(ops.square(re), ops.square(im))
    else:
        squares = ops.square(from_center)
    squares = keep_where(squares, where, 0)
    total = ops.reduce_sum(squares, axes=axes) if axes else squares
    count = _count(squares.shape, axes, where)
    free = builtins.max(count - ddof, 0) if type(count) is int else _at_least_zero(count - ddof)
    y = _divide_by_count(total, free, total.dtype)
    return cast(_keep(y, axes, keepdims), dtypes.real_dtype(result_type))


def _at_least_zero(count: Any) -> Any:
    return ops.max(count, scalar_like(0, count))


def root_of_sum(total: Any, root: Callable[[Any], Any] = ops.sqrt) -> Any:
    """The root of a sum of powers, as in norms, with the derivative 0 where the sum is 0.

    There the derivative of the root is infinite and that of each power 0; in reverse mode the
    product would be nan. So the root is taken of 1 instead, and not used.
    """
    nothing = ops.eq(total, scalar_like(0, total))
    y = root(ops.select(nothing, scalar_like(1, total), total))
    return ops.select(nothing, scalar_like(0, y), y)


@implements(np.std)
def std(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, ddof: Any = 0,
        keepdims: Any = False, *, where: Any = True, mean: Any = None,
        correction: Any = None) -> Any:  # fmt: skip
    """`numpy.std`; its derivative where all elements are equal is 0."""
    options = {"where": where, "mean": mean, "correction": correction}
    return root_of_sum(TRACED[np.var](a, axis, dtype, out, ddof, keepdims, **options))


@implements(np.ptp)
def ptp(a: Any, axis: Any = None, out: Any = None, keepdims: Any = False) -> Any:
    """`numpy.ptp`: max - min."""
    _refuse_out(out, "ptp")
    x = array(a)
    top = _extremum("maximum", x, axis, keepdims, None, True)
    return ops.sub(top, _extremum("minimum", x, axis, keepdims, None, True))


@implements(np.average)
def average(a: Any, axis: Any = None, weights: Any = None, returned: bool = False, *,
            keepdims: Any = False) -> Any:  # fmt: skip
    """`numpy.average`: the mean, weighted."""
    x = array(a)
    axes = normalize_axes(axis, x.ndim)
    if weights is None:
        result = mean.__wrapped__(x, axis, keepdims=keepdims)  # type: ignore[attr-defined]
        total = scalar_like(_count(x.shape, axes, True), result)
    else:
        w = array(weights)
        if w.shape != x.shape:
            if axis is None:
                raise TypeError("Axis must be specified when shapes of a and weights differ.")
            if w.shape != tuple(x.shape[i] for i in axes):
                raise ValueError("Shape of weights must be consistent with shape of a along "
                                 "specified axis.")  # fmt: skip
            w = insert_axes(w, tuple(i for i in range(x.ndim) if i not in axes))
        dtype = np.result_type(x.dtype, w.dtype, *([] if dtypes.is_inexact(x.dtype) else ["f8"]))
        x, w = broadcast(cast(x, dtype), broadcast_to(cast(w, dtype), x.shape))
        total = _keep(ops.reduce_sum(w, axes=axes), axes, keepdims)
        weighted = _keep(ops.reduce_sum(ops.mul(x, w), axes=axes), axes, keepdims)
        result = ops.div(weighted, total)
    return (result, broadcast_to(total, result.shape)) if returned else result


@implements(np.count_nonzero)
def count_nonzero(a: Any, axis: Any = None, *, keepdims: bool = False) -> Any:
    """`numpy.count_nonzero`."""
    x = cast(cast(array(a), dtypes.bool_), _INT64)
    axes = normalize_axes(axis, x.ndim)
    return _keep(ops.reduce_sum(x, axes=axes), axes, keepdims)


# ---------------------------------------------------------------------------- positions


def _position(op: Any, name: str, a: Any, axis: Any, keepdims: Any) -> Any:
    x = array(a)
    ndim = x.ndim
    if axis is None:
        x = ops.reshape(x, shape=(x.size,))
        axis = 0
    axis = normalize_axis(axis, x.ndim)
    if x.shape[axis] == 0:
        raise ValueError(f"attempt to get {name} of an empty sequence")
    y = op(x, axis=axis, index_dtype=_INT64)
    if not _given(keepdims, False):
        return y
    return insert_axes(y, (axis,)) if x.ndim == ndim else ops.reshape(y, shape=(1,) * ndim)


@implements(np.argmax)
def argmax(a: Any, axis: Any = None, out: Any = None, *, keepdims: Any = False) -> Any:
    """`numpy.argmax`: the first position of the largest element."""
    _refuse_out(out, "argmax")
    return _position(ops.argmax, "argmax", a, axis, keepdims)


@implements(np.argmin)
def argmin(a: Any, axis: Any = None, out: Any = None, *, keepdims: Any = False) -> Any:
    """`numpy.argmin`: the first position of the smallest element."""
    _refuse_out(out, "argmin")
    return _position(ops.argmin, "argmin", a, axis, keepdims)


# ---------------------------------------------------------------------------- running


def _running(op: Any, a: Any, axis: Any, dtype: Any) -> Any:
    x = array(a)
    return _running_as_is(op, x, axis, sum_dtype(x.dtype) if dtype is None else dtype)


def _running_as_is(op: Any, a: Any, axis: Any, dtype: Any) -> Any:
    x = array(a)
    x = x if dtype is None else cast(x, np.dtype(dtype))
    if axis is None:
        x = ops.reshape(x, shape=(x.size,))
        axis = 0
    if x.ndim == 0:
        x = ops.reshape(x, shape=(1,))
    return op(x, axis=normalize_axis(axis, x.ndim))


@implements(np.cumsum)
def cumsum(a: Any, axis: Any = None, dtype: Any = None, out: Any = None) -> Any:
    """`numpy.cumsum`."""
    _refuse_out(out, "cumsum")
    return _running(ops.cumsum, a, axis, dtype)


@implements(np.cumprod)
def cumprod(a: Any, axis: Any = None, dtype: Any = None, out: Any = None) -> Any:
    """`numpy.cumprod`."""
    _refuse_out(out, "cumprod")
    return _running(ops.cumprod, a, axis, dtype)


def logsumexp_reduce(a: Any, *, axis: Any, dtype: Any, keepdims: Any, initial: Any,
                     where: Any) -> Any:  # fmt: skip
    """log(sum(exp(a))), safe from overflow: the reduction of logaddexp."""
    x = array(a) if dtype is None else cast(array(a), np.dtype(dtype))
    x = cast(x, dtypes.to_inexact(x.dtype))
    axes = normalize_axes(axis, x.ndim)
    x = keep_where(x, where, -np.inf)
    top = ops.stop_gradient(ops.reduce_max(x, axes=axes))
    top = ops.select(ops.is_finite(top), top, scalar_like(0, top))
    shifted = ufuncs.subtract.traced(x, insert_axes(top, axes))
    with np.errstate(divide="ignore"):
        y = ops.add(ops.log(ops.reduce_sum(ops.exp(shifted), axes=axes)), top)
    return _keep(_with_initial(y, initial, ops.logaddexp), axes, keepdims)


def _reducing(function: Any, *, has_dtype: bool) -> Callable[..., Any]:
    traced = function.__wrapped__

    def reduce(a: Any, *, axis: Any, dtype: Any, keepdims: Any, initial: Any, where: Any) -> Any:
        options = {"axis": axis, "keepdims": keepdims, "where": where}
        if has_dtype:
            return traced(a, dtype=dtype, initial=initial, **options)
        return traced(a if dtype is None else cast(array(a), np.dtype(dtype)), initial=initial,
                      **options)  # fmt: skip

    return reduce


def _deciding(function: Any, combine: Callable[..., Any]) -> Callable[..., Any]:
    traced = function.__wrapped__

    def reduce(a: Any, *, axis: Any, dtype: Any, keepdims: Any, initial: Any, where: Any) -> Any:
        y = traced(a, axis=axis, keepdims=keepdims, where=where)
        return _with_initial(y, initial, combine)

    return reduce


ufuncs.add.reducer = _reducing(sum, has_dtype=True)
ufuncs.multiply.reducer = _reducing(prod, has_dtype=True)
ufuncs.maximum.reducer = _reducing(max, has_dtype=False)
ufuncs.minimum.reducer = _reducing(min, has_dtype=False)
ufuncs.logical_and.reducer = _deciding(all, ops.and_)
ufuncs.logical_or.reducer = _deciding(any, ops.or_)
ufuncs.logaddexp.reducer = logsumexp_reduce
ufuncs.add.accumulator = lambda a, axis, dtype: _running(ops.cumsum, a, axis, dtype)
ufuncs.multiply.accumulator = lambda a, axis, dtype: _running(ops.cumprod, a, axis, dtype)
ufuncs.maximum.accumulator = lambda a, axis, dtype: _running_as_is(ops.cummax, a, axis, dtype)
ufuncs.minimum.accumulator = lambda a, axis, dtype: _running_as_is(ops.cummin, a, axis, dtype)
ufuncs.logaddexp.accumulator = lambda a, axis, dtype: _running_as_is(
    ops.cumlogsumexp, a, axis, dtype
)
