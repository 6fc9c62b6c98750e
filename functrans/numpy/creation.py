"""New arrays: zeros, arange, linspace, eye, tril and their kin.

While something is traced they are made of `iota` and broadcast numbers, so that a large array is
an operation of the program, not data in it.
"""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from functrans import dtypes, ops
from functrans.core import Tracer
from functrans.errors import ConcretizationTypeError
from functrans.numpy import promotion
from functrans.numpy.composites import choose
from functrans.numpy.dispatch import TRACED, implements
from functrans.numpy.manipulation import join, reshaped
from functrans.numpy.promotion import array as as_array
from functrans.numpy.promotion import (
    as_shape,
    broadcast_to,
    cast,
    insert_axes,
    operand,
    scalar_like,
)
from functrans.numpy.ufuncs import add, multiply, power

_INT64 = np.dtype(np.int64)


def _filled(shape: Any, value: Any, dtype: np.dtype) -> Any:
    y = promotion.full(as_shape(shape), value, dtype)
    # Made eagerly under grad it is a plain array, which the caller may write to.
    return y.copy() if isinstance(y, np.ndarray) and not y.flags.writeable else y


# ---------------------------------------------------------------------------- one number


@implements(np.zeros)
def zeros(shape: Any, dtype: Any = None, order: str = "C", *, device: Any = None,
          like: Any = None) -> Any:  # fmt: skip
    """`numpy.zeros`."""
    return _filled(shape, 0, np.dtype(dtype))


@implements(np.empty)
def empty(shape: Any, dtype: Any = None, order: str = "C", *, device: Any = None,
          like: Any = None) -> Any:  # fmt: skip
    """`numpy.empty`: zeros."""
    return _filled(shape, 0, np.dtype(dtype))


@implements(np.ones)
def ones(shape: Any, dtype: Any = None, order: str = "C", *, device: Any = None,
         like: Any = None) -> Any:  # fmt: skip
    """`numpy.ones`."""
    return _filled(shape, 1, np.dtype(dtype))


@implements(np.full)
def full(shape: Any, fill_value: Any, dtype: Any = None, order: str = "C", *, device: Any = None,
         like: Any = None) -> Any:  # fmt: skip
    """`numpy.full`."""
    value = as_array(fill_value)
    value = value if dtype is None else cast(value, np.dtype(dtype))
    return (
        broadcast_to(value, as_shape(shape)) if value.ndim else _filled(shape, value, value.dtype)
    )


def _like(a: Any, dtype: Any, shape: Any) -> tuple[Any, np.dtype]:
    x = as_array(a)
    return x.shape if shape is None else shape, x.dtype if dtype is None else np.dtype(dtype)


@implements(np.zeros_like)
def zeros_like(a: Any, dtype: Any = None, order: str = "K", subok: bool = True, shape: Any = None,
               *, device: Any = None) -> Any:  # fmt: skip
    """`numpy.zeros_like`."""
    target, dtype = _like(a, dtype, shape)
    return _filled(target, 0, dtype)


@implements(np.empty_like)
def empty_like(prototype: Any, /, dtype: Any = None, order: str = "K", subok: bool = True,
               shape: Any = None, *, device: Any = None) -> Any:  # fmt: skip
    """`numpy.empty_like`: zeros."""
    target, dtype = _like(prototype, dtype, shape)
    return _filled(target, 0, dtype)


@implements(np.ones_like)
def ones_like(a: Any, dtype: Any = None, order: str = "K", subok: bool = True, shape: Any = None,
              *, device: Any = None) -> Any:  # fmt: skip
    """`numpy.ones_like`."""
    target, dtype = _like(a, dtype, shape)
    return _filled(target, 1, dtype)


@implements(np.full_like)
def full_like(a: Any, fill_value: Any, dtype: Any = None, order: str = "K", subok: bool = True,
              shape: Any = None, *, device: Any = None) -> Any:  # fmt: skip
    """`numpy.full_like`."""
    target, dtype = _like(a, dtype, shape)
    value = cast(operand(fill_value), dtype)
    return broadcast_to(value, as_shape(target)) if value.ndim else _filled(target, value, dtype)


# ---------------------------------------------------------------------------- from values


@implements(np.array)
def array(object: Any, dtype: Any = None, *, copy: Any = True, order: str = "K",
          subok: bool = False, ndmin: int = 0, like: Any = None) -> Any:  # fmt: skip
    """`numpy.array`, also of lists with traced values in them."""
    if not promotion.holds_tracer(object):
        return np.array(object, dtype, ndmin=ndmin, copy=copy)
    x = as_array(object)
    x = x if dtype is None else cast(x, np.dtype(dtype))
    return insert_axes(x, range(ndmin - x.ndim))


@implements(np.asarray, np.asanyarray, np.ascontiguousarray, np.asfortranarray)
def asarray(a: Any, dtype: Any = None, order: Any = None, *, device: Any = None,
            copy: Any = None, like: Any = None) -> Any:  # fmt: skip
    """`numpy.asarray`, also of lists with traced values in them."""
    if not promotion.holds_tracer(a):
        return np.asarray(a, dtype)
    return as_array(a) if dtype is None else cast(as_array(a), np.dtype(dtype))


@implements(np.copy)
def copy(a: Any, order: str = "K", subok: bool = False) -> Any:
    """`numpy.copy`."""
    return ops.copy(as_array(a))


@implements(np.astype)
def astype(x: Any, dtype: Any, /, *, copy: bool = True, device: Any = None) -> Any:
    """`numpy.astype`."""
    return cast(as_array(x), np.dtype(dtype))


# ---------------------------------------------------------------------------- sequences


def static_number(x: Any, what: str) -> Any:
    """The value of a number that decides a shape; an error if it is not known."""
    if isinstance(x, Tracer):
        value = x.concrete()
        if value is None:
            raise ConcretizationTypeError(
                f"{what} decides the shape of the result, so it must be known while tracing; got "
                f"{x.aval}{x.origin()}. Make the argument static: jit(f, static_argnums=...)."
            )
        return np.asarray(value)[()]
    return x


@implements(np.arange)
def arange(start: Any, stop: Any = None, step: Any = None, dtype: Any = None, *,
           device: Any = None, like: Any = None) -> Any:  # fmt: skip
    """`numpy.arange`."""
    start = static_number(start, "arange's start")
    stop = static_number(stop, "arange's stop")
    step = static_number(1 if step is None else step, "arange's step")
    if stop is None:
        start, stop = 0, start
    kind = (
        np.dtype(dtype)
        if dtype is not None
        else np.result_type(*[np.asarray(x).dtype for x in (start, stop, step)])
    )
    if step == 0:
        raise ZeroDivisionError("division by zero")
    n = builtins.max(math.ceil((stop - start) / step), 0)
    if kind.kind not in "iuf" or n > 1 << 53:
        return np.arange(start, stop, step, dtype=kind)  # type: ignore[call-overload]
    first = kind.type(start)
    delta = kind.type(start + step) - first
    y = ops.iota(dtype=kind, shape=(n,), dimension=0)
    y = y if delta == 1 else ops.mul(y, delta)
    return y if first == 0 else ops.add(y, first)


@implements(np.linspace)
def linspace(start: Any, stop: Any, num: int = 50, endpoint: bool = True, retstep: bool = False,
             dtype: Any = None, axis: int = 0, *, device: Any = None) -> Any:  # fmt: skip
    """`numpy.linspace`; the ends may be traced."""
    num = static_number(num, "num").__index__()
    if num < 0:
        raise ValueError(f"Number of samples, {num}, must be non-negative.")
    a, b = operand(start), operand(stop)
    inexact = promotion.result_type(a, b, 0.0)
    a, b = promotion.full_broadcast(cast(a, inexact), cast(b, inexact))
    divisions = num - 1 if endpoint else num
    step = (b - a) / (divisions or 1)
    y = _ramp(a, b, step, num, endpoint and num > 1)
    if dtype is not None:
        target = np.dtype(dtype)
        y = cast(ops.floor(y) if target.kind in "iu" else y, target)
    y = TRACED[np.moveaxis](y, 0, axis) if axis else y
    return (y, step if divisions > 0 else step * np.nan) if retstep else y


def _ramp(a: Any, b: Any, step: Any, num: int, endpoint: bool) -> Any:
    """a + i * step along a new first axis; the last one exactly b."""
    real = dtypes.real_dtype(a.dtype)
    i = ops.iota(dtype=real, shape=(num,), dimension=0)
    i = cast(reshaped(i, (num,) + (1,) * a.ndim), a.dtype)
    y = add.traced(multiply.traced(i, step), a)
    if not endpoint:
        return y
    last = ops.eq(i, scalar_like(num - 1, i))
    return choose(last, b, y)


@implements(np.logspace)
def logspace(start: Any, stop: Any, num: int = 50, endpoint: bool = True, base: Any = 10.0,
             dtype: Any = None, axis: int = 0) -> Any:  # fmt: skip
    """`numpy.logspace`."""
    powers = linspace.__wrapped__(start, stop, num, endpoint, axis=axis)  # type: ignore[attr-defined]
    y = power.traced(base, powers)
    return y if dtype is None else cast(y, np.dtype(dtype))


@implements(np.geomspace)
def geomspace(start: Any, stop: Any, num: int = 50, endpoint: bool = True, dtype: Any = None,
              axis: int = 0) -> Any:  # fmt: skip
    """`numpy.geomspace` between real ends of one sign."""
    a, b = promotion.inexact(start), promotion.inexact(stop)
    a, b = promotion.promote(a, b)
    if a.dtype.kind == "c":
        raise TypeError("geomspace between traced complex numbers is not supported.")
    ratio = ops.log10(b / a)
    y = linspace.__wrapped__(ratio * 0, ratio, num, endpoint, axis=axis)  # type: ignore[attr-defined]
    y = power.traced(10.0, y)
    y = y * (TRACED[np.expand_dims](a, axis) if a.ndim else a)
    return y if dtype is None else cast(y, np.dtype(dtype))


# ---------------------------------------------------------------------------- grids


@implements(np.meshgrid)
def meshgrid(*xi: Any, copy: bool = True, sparse: bool = False, indexing: str = "xy") -> Any:
    """`numpy.meshgrid`."""
    if indexing not in ("xy", "ij"):
        raise ValueError("Valid values for `indexing` are 'xy' and 'ij'.")
    items = [as_array(x) for x in xi]
    n = len(items)
    places = list(range(n))
    if indexing == "xy" and n > 1:
        places[0], places[1] = 1, 0
    out = []
    for x, place in zip(items, places, strict=True):
        shape = [1] * n
        shape[place] = x.size
        out.append(reshaped(x, tuple(shape)))
    return tuple(out) if sparse else tuple(promotion.full_broadcast(*out))


@implements(np.indices)
def indices(dimensions: Any, dtype: Any = int, sparse: bool = False) -> Any:
    """`numpy.indices`."""
    shape = as_shape(dimensions)
    kind = np.dtype(dtype)
    if sparse:
        ones_but = [
            tuple(n if j == i else 1 for j in range(len(shape))) for i, n in enumerate(shape)
        ]
        return tuple(ops.iota(dtype=kind, shape=s, dimension=i) for i, s in enumerate(ones_but))
    if not shape:
        return ops.broadcast_in_dim(kind.type(0), shape=(0,), broadcast_dimensions=())
    grids = [ops.iota(dtype=kind, shape=shape, dimension=i) for i in range(len(shape))]
    return join([insert_axes(g, (0,)) for g in grids], 0)


@implements(np.fromfunction)
def fromfunction(function: Callable[..., Any], shape: Any, *, dtype: Any = float, like: Any = None,
                 **kwargs: Any) -> Any:  # fmt: skip
    """`numpy.fromfunction`."""
    shape = as_shape(shape)
    grids = [ops.iota(dtype=np.dtype(dtype), shape=shape, dimension=i) for i in range(len(shape))]
    return function(*grids, **kwargs)


# ---------------------------------------------------------------------------- matrices


def _diagonal_mask(n: int, m: int, k: int, compare: Any) -> Any:
    rows = ops.iota(dtype=_INT64, shape=(n, m), dimension=0)
    columns = ops.iota(dtype=_INT64, shape=(n, m), dimension=1)
    return compare(rows if k == 0 else ops.add(rows, np.int64(k)), columns)


@implements(np.eye)
def eye(N: int, M: Any = None, k: int = 0, dtype: Any = float, order: str = "C", *,
        device: Any = None, like: Any = None) -> Any:  # fmt: skip
    """`numpy.eye`."""
    n = N.__index__()
    m = n if M is None else M.__index__()
    return cast(_diagonal_mask(n, m, k.__index__(), ops.eq), np.dtype(dtype))


@implements(np.identity)
def identity(n: int, dtype: Any = None, *, like: Any = None) -> Any:
    """`numpy.identity`."""
    return eye.__wrapped__(n, dtype=dtype)  # type: ignore[attr-defined]


@implements(np.tri)
def tri(N: int, M: Any = None, k: int = 0, dtype: Any = float, *, like: Any = None) -> Any:
    """`numpy.tri`."""
    n = N.__index__()
    m = n if M is None else M.__index__()
    return cast(_diagonal_mask(n, m, k.__index__(), ops.ge), np.dtype(dtype))


def _triangle(m: Any, k: int, compare: Any) -> Any:
    x = as_array(m)
    if x.ndim < 1:
        raise ValueError("Input array must be at least 1-d")
    x = broadcast_to(x, (x.size, x.size)) if x.ndim == 1 else x
    mask = _diagonal_mask(x.shape[-2], x.shape[-1], k.__index__(), compare)
    return ops.select(broadcast_to(mask, x.shape), x, scalar_like(0, x))


@implements(np.tril)
def tril(m: Any, k: int = 0) -> Any:
    """`numpy.tril`."""
    return _triangle(m, k, ops.ge)


@implements(np.triu)
def triu(m: Any, k: int = 0) -> Any:
    """`numpy.triu`."""
    return _triangle(m, k, ops.le)


@implements(np.diag)
def diag(v: Any, k: int = 0) -> Any:
    """`numpy.diag`: the diagonal of a matrix, or the matrix of a diagonal."""
    x = as_array(v)
    if x.ndim == 2:
        return TRACED[np.diagonal](x, k)
    if x.ndim != 1:
        raise ValueError("Input must be 1- or 2-d.")
    return _matrix_of_diagonal(x, k.__index__())


def _matrix_of_diagonal(x: Any, k: int) -> Any:
    n = x.size + builtins.abs(k)
    if not x.size:
        return promotion.full((n, n), 0, x.dtype)
    # Laid end to end, the diagonal's elements are n + 1 apart.
    start = k if k >= 0 else -k * n
    end = n * n - start - (x.size - 1) * (n + 1) - 1
    flat = ops.pad(x, scalar_like(0, x), config=((start, end, n),))
    return ops.reshape(flat, shape=(n, n))


@implements(np.diagflat)
def diagflat(v: Any, k: int = 0) -> Any:
    """`numpy.diagflat`."""
    x = as_array(v)
    return _matrix_of_diagonal(reshaped(x, (x.size,)), k.__index__())


@implements(np.vander)
def vander(x: Any, N: Any = None, increasing: bool = False) -> Any:
    """`numpy.vander`."""
    v = as_array(x)
    if v.ndim != 1:
        raise ValueError("x must be a one-dimensional array or sequence.")
    n = v.size if N is None else N.__index__()
    v = cast(v, np.result_type(v.dtype, np.int64))
    columns = [promotion.full((v.size,), 1, v.dtype)]
    for _ in range(1, n):
        columns.append(ops.mul(columns[-1], v))
    columns = columns[:n] if increasing else columns[:n][::-1]
    if not columns:
        return promotion.full((v.size, 0), 0, v.dtype)
    return join([insert_axes(c, (1,)) for c in columns], 1)
