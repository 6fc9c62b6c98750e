"""Repeat, tile, flip, roll, pad, insert, delete: elements copied to new places."""

from __future__ import annotations

from typing import Any

import numpy as np

from functrans import ops
from functrans.core import Tracer
from functrans.errors import ConcretizationTypeError
from functrans.numpy import promotion
from functrans.numpy.dispatch import implements
from functrans.numpy.indexing import gather_axis
from functrans.numpy.manipulation import join, moveaxis, permute, reshaped, slice_axis
from functrans.numpy.promotion import (
    array,
    cast,
    insert_axes,
    normalize_axes,
    normalize_axis,
)


def known(x: Any, what: str) -> Any:
    """The value of an argument that decides shapes; an error if it is traced."""
    if promotion.holds_tracer(x):
        value = x.concrete() if isinstance(x, Tracer) else None
        if value is None:
            raise ConcretizationTypeError(
                f"{what} decides the shape of the result, so it must be known while tracing; got "
                f"{x!r}. Make the argument static: jit(f, static_argnums=...)."
            )
        return value
    return x


@implements(np.repeat)
def repeat(a: Any, repeats: Any, axis: Any = None) -> Any:
    """`numpy.repeat`; `repeats` must be known while tracing."""
    x = array(a)
    if axis is None:
        x, axis = reshaped(x, (x.size,)), 0
    axis = normalize_axis(axis, x.ndim)
    counts = np.asarray(known(repeats, "repeats"))
    if counts.size != 1:
        return gather_axis(x, np.repeat(np.arange(x.shape[axis]), counts), axis)
    n = int(counts.reshape(()))
    if n < 0:
        raise ValueError("repeats may not contain negative values.")
    wide = insert_axes(x, (axis + 1,))
    wide = promotion.broadcast_to(wide, (*x.shape[: axis + 1], n, *x.shape[axis + 1 :]))
    return ops.reshape(wide, shape=(*x.shape[:axis], x.shape[axis] * n, *x.shape[axis + 1 :]))


@implements(np.tile)
def tile(A: Any, reps: Any) -> Any:
    """`numpy.tile`; `reps` must be known while tracing."""
    x = array(A)
    counts = promotion.as_shape(known(reps, "reps"))
    ndim = max(x.ndim, len(counts))
    x = insert_axes(x, range(ndim - x.ndim))
    counts = (1,) * (ndim - len(counts)) + counts
    if all(n == 1 for n in counts):
        return x
    wide = insert_axes(x, range(0, 2 * ndim, 2))
    both = [m for pair in zip(counts, x.shape, strict=True) for m in pair]
    wide = promotion.broadcast_to(wide, tuple(both))
    return ops.reshape(wide, shape=tuple(n * c for n, c in zip(x.shape, counts, strict=True)))


# ---------------------------------------------------------------------------- flip, roll


@implements(np.flip)
def flip(m: Any, axis: Any = None) -> Any:
    """`numpy.flip`."""
    x = array(m)
    axes = normalize_axes(axis, x.ndim)
    return ops.rev(x, dimensions=axes) if axes else x


@implements(np.fliplr)
def fliplr(m: Any) -> Any:
    """`numpy.fliplr`."""
    x = array(m)
    if x.ndim < 2:
        raise ValueError("Input must be >= 2-d.")
    return ops.rev(x, dimensions=(1,))


@implements(np.flipud)
def flipud(m: Any) -> Any:
    """`numpy.flipud`."""
    x = array(m)
    if x.ndim < 1:
        raise ValueError("Input must be >= 1-d.")
    return ops.rev(x, dimensions=(0,))


@implements(np.rot90)
def rot90(m: Any, k: int = 1, axes: Any = (0, 1)) -> Any:
    """`numpy.rot90`."""
    x = array(m)
    i, j = normalize_axes(tuple(axes), x.ndim)
    turns = k % 4
    swapped = list(range(x.ndim))
    swapped[i], swapped[j] = j, i
    if turns == 0:
        return x
    if turns == 1:
        return permute(ops.rev(x, dimensions=(j,)), swapped)
    if turns == 2:
        return ops.rev(x, dimensions=(i, j))
    return ops.rev(permute(x, swapped), dimensions=(j,))


@implements(np.roll)
def roll(a: Any, shift: Any, axis: Any = None) -> Any:
    """`numpy.roll`; a traced shift gathers, a known one joins two slices."""
    x = array(a)
    if axis is None:
        return reshaped(_roll(reshaped(x, (x.size,)), shift, 0), x.shape)
    axes = axis if isinstance(axis, (tuple, list)) else (axis,)
    shifts = shift if isinstance(shift, (tuple, list)) else (shift,) * len(axes)
    if len(shifts) != len(axes):
        if len(shifts) != 1 and len(axes) != 1:
            raise ValueError("'shift' and 'axis' should be scalars or 1D sequences")
        shifts, axes = (
            (tuple(shifts) * len(axes), axes)
            if len(shifts) == 1
            else (shifts, (*axes,) * len(shifts))
        )
    for s, i in zip(shifts, axes, strict=True):
        x = _roll(x, s, normalize_axis(i, x.ndim))
    return x


def _roll(x: Any, shift: Any, axis: int) -> Any:
    n = x.shape[axis]
    if n == 0:
        return x
    if isinstance(shift, Tracer):
        if shift.dtype.kind not in "iu" or shift.shape:
            raise TypeError(
                f"roll: a traced shift must be an integer scalar, got {shift.aval}"
                f"{shift.origin()}.\n  Convert it with x.astype(int); roll along several axes by a "
                "tuple of shifts."
            )
        places = (np.arange(n) - shift) % n
        return gather_axis(x, places, axis, mode="promise_in_bounds")
    shift = int(shift) % n
    if not shift:
        return x
    return join([slice_axis(x, n - shift, n, axis), slice_axis(x, 0, n - shift, axis)], axis)


# ---------------------------------------------------------------------------- pad


def _pairs(values: Any, ndim: int, what: str) -> Any:
    if isinstance(values, dict):
        filled = [(0, 0)] * ndim
        for axis, pair in values.items():
            filled[axis] = (pair, pair) if isinstance(pair, int) else pair
        values = filled
    return np.broadcast_to(np.asarray(known(values, what)), (ndim, 2)).tolist()


@implements(np.pad)
def pad(array: Any, pad_width: Any, mode: Any = "constant", **kwargs: Any) -> Any:
    """`numpy.pad` in the modes constant, edge, reflect, symmetric, wrap and empty."""
    x = promotion.array(array)
    widths = _pairs(pad_width, x.ndim, "pad_width")
    if any(w < 0 for pair in widths for w in pair):
        raise ValueError("index can't contain negative values")
    if mode in ("constant", "empty"):
        return _pad_constant(x, widths, kwargs.get("constant_values", 0))
    if mode not in ("edge", "reflect", "symmetric", "wrap"):
        raise ValueError(
            f"pad mode {mode!r} cannot be traced; constant, edge, reflect, symmetric and wrap can."
        )
    for axis, (low, high) in enumerate(widths):
        if low or high:
            places = np.pad(np.arange(x.shape[axis]), (low, high), mode=mode, **kwargs)
            x = gather_axis(x, places, axis)
    return x


def _pad_constant(x: Any, widths: list[Any], value: Any) -> Any:
    if isinstance(value, Tracer) or np.ndim(value) == 0:
        config = tuple((low, high, 0) for low, high in widths)
        value = promotion.strong(value)
        return ops.pad(x, cast(value, x.dtype), config=config)
    fills = np.broadcast_to(np.asarray(value), (x.ndim, 2))
    for axis, (low, high) in enumerate(widths):
        for side, width in enumerate((low, high)):
            edge = [(0, 0, 0)] * x.ndim
            edge[axis] = (width, 0, 0) if side == 0 else (0, width, 0)
            x = ops.pad(x, cast(fills[axis, side], x.dtype), config=tuple(edge))
    return x


# ---------------------------------------------------------------------------- insert, delete


@implements(np.delete)
def delete(arr: Any, obj: Any, axis: Any = None) -> Any:
    """`numpy.delete`; what is deleted must be known while tracing."""
    x = array(arr)
    if axis is None:
        x, axis = reshaped(x, (x.size,)), 0
    axis = normalize_axis(axis, x.ndim)
    kept = np.delete(np.arange(x.shape[axis]), known(obj, "obj"))
    return gather_axis(x, kept, axis)


@implements(np.insert)
def insert(arr: Any, obj: Any, values: Any, axis: Any = None) -> Any:
    """`numpy.insert`; the places must be known while tracing."""
    x = array(arr)
    v = cast(promotion.operand(values), x.dtype)
    if axis is None:
        x, axis = reshaped(x, (x.size,)), 0
    axis = normalize_axis(axis, x.ndim)
    n = x.shape[axis]
    places = np.asarray(known(obj, "obj"))
    v = insert_axes(v, range(x.ndim - np.ndim(v)))
    if places.ndim == 0:
        v = moveaxis(v, 0, axis)
    count = v.shape[axis] if places.size == 1 else places.size
    places = np.broadcast_to(places.ravel(), (count,))
    shape = (*x.shape[:axis], count, *x.shape[axis + 1 :])
    v = promotion.broadcast_to(v, shape)
    order = np.insert(np.arange(n), places, n + np.arange(count))
    return gather_axis(join([x, v], axis), order, axis)


@implements(np.resize)
def resize(a: Any, new_shape: Any) -> Any:
    """`numpy.resize`: the elements again and again until the shape is full."""
    x = array(a)
    shape = promotion.as_shape(new_shape)
    size = int(np.prod(shape))
    if not x.size:
        return promotion.full(shape, 0, x.dtype)
    places = np.arange(size) % x.size
    return ops.reshape(gather_axis(reshaped(x, (x.size,)), places, 0), shape=shape)
