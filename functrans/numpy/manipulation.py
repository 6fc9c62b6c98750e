"""Shape and order: reshape, permute, join, split, repeat, flip, pad. All without arithmetic."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from functrans import ops
from functrans.core import Tracer
from functrans.numpy import promotion
from functrans.numpy.dispatch import implements
from functrans.numpy.promotion import (
    array,
    as_shape,
    cast,
    insert_axes,
    normalize_axes,
    normalize_axis,
    promote,
)

# ---------------------------------------------------------------------------- reshape, permute


def resolve_shape(size: int, shape: Any) -> tuple[int, ...]:
    """`shape` with -1 replaced by what is left; NumPy's ValueError if it cannot hold `size`."""
    extents = list(as_shape(shape))
    known = 1
    for n in extents:
        known *= n if n != -1 else 1
    unknown = extents.count(-1)
    if unknown > 1:
        raise ValueError("can only specify one unknown dimension")
    fits = (known and size % known == 0) if unknown else known == size
    if not fits or any(n < -1 for n in extents):
        shown = tuple(extents)
        raise ValueError(f"cannot reshape array of size {size} into shape {shown}")
    return tuple(size // known if n == -1 else n for n in extents)


def _reverse_axes(x: Any) -> Any:
    return permute(x, tuple(reversed(range(x.ndim))))


def permute(x: Any, permutation: Sequence[int]) -> Any:
    """`x` with its axes in this order; `x` itself where nothing moves."""
    permutation = tuple(permutation)
    return x if permutation == tuple(range(x.ndim)) else ops.permute(x, permutation=permutation)


def reshaped(x: Any, shape: tuple[int, ...]) -> Any:
    """`x` in this shape; `x` itself where it has it."""
    return x if x.shape == shape else ops.reshape(x, shape=shape)


@implements(np.reshape)
def reshape(a: Any, /, shape: Any, order: str = "C", *, copy: Any = None) -> Any:
    """`numpy.reshape`; order "C" or "F"."""
    x = array(a)
    target = resolve_shape(x.size, shape)
    if order == "F":
        return _reverse_axes(reshaped(_reverse_axes(x), target[::-1]))
    if order not in "CAK":
        raise ValueError(f"order must be one of 'C', 'F', 'A', or 'K' (got {order!r})")
    return reshaped(x, target)


@implements(np.ravel)
def ravel(a: Any, order: str = "C") -> Any:
    """`numpy.ravel`."""
    return reshape.__wrapped__(a, -1, order)  # type: ignore[attr-defined]


@implements(np.transpose, np.permute_dims)
def transpose(a: Any, axes: Any = None) -> Any:
    """`numpy.transpose`."""
    x = array(a)
    if axes is None:
        return _reverse_axes(x)
    if len(axes) != x.ndim:
        raise ValueError("axes don't match array")
    normal = tuple(normalize_axis(axis, x.ndim) for axis in axes)
    if len(set(normal)) != len(normal):
        raise ValueError("repeated axis in transpose")
    return permute(x, normal)


@implements(np.matrix_transpose)
def matrix_transpose(x: Any, /) -> Any:
    """`numpy.matrix_transpose`: the last two axes swapped."""
    x = array(x)
    if x.ndim < 2:
        raise ValueError(f"matrix transpose with ndim < 2 is undefined (got {x.ndim})")
    return _swapped(x, x.ndim - 2, x.ndim - 1)


def _swapped(x: Any, i: int, j: int) -> Any:
    order = list(range(x.ndim))
    order[i], order[j] = order[j], order[i]
    return permute(x, order)


@implements(np.swapaxes)
def swapaxes(a: Any, axis1: int, axis2: int) -> Any:
    """`numpy.swapaxes`."""
    x = array(a)
    return _swapped(x, normalize_axis(axis1, x.ndim), normalize_axis(axis2, x.ndim))


@implements(np.moveaxis)
def moveaxis(a: Any, source: Any, destination: Any) -> Any:
    """`numpy.moveaxis`."""
    x = array(a)
    sources, targets = normalize_axes(source, x.ndim), normalize_axes(destination, x.ndim)
    if len(sources) != len(targets):
        raise ValueError("`source` and `destination` arguments must have the same number of "
                         "elements")  # fmt: skip
    order = [i for i in range(x.ndim) if i not in sources]
    for target, source_axis in sorted(zip(targets, sources, strict=True)):
        order.insert(target, source_axis)
    return permute(x, order)


@implements(np.rollaxis)
def rollaxis(a: Any, axis: int, start: int = 0) -> Any:
    """`numpy.rollaxis`."""
    x = array(a)
    axis = normalize_axis(axis, x.ndim)
    start = normalize_axis(start, x.ndim + 1)
    order = [i for i in range(x.ndim) if i != axis]
    order.insert(start - (axis < start), axis)
    return permute(x, order)


@implements(np.expand_dims)
def expand_dims(a: Any, axis: Any) -> Any:
    """`numpy.expand_dims`."""
    x = array(a)
    count = len(axis) if isinstance(axis, (tuple, list)) else 1
    return insert_axes(x, normalize_axes(axis, x.ndim + count))


@implements(np.squeeze)
def squeeze(a: Any, axis: Any = None) -> Any:
    """`numpy.squeeze`."""
    x = array(a)
    if axis is None:
        axes = tuple(i for i, n in enumerate(x.shape) if n == 1)
    else:
        axes = normalize_axes(axis, x.ndim)
        if any(x.shape[i] != 1 for i in axes):
            raise ValueError("cannot select an axis to squeeze out which has size not equal to one")
    return reshaped(x, tuple(n for i, n in enumerate(x.shape) if i not in axes))


def _at_least(n: int, arrays: Sequence[Any], lift: Any) -> Any:
    out = [lift(x) if x.ndim < n else x for x in map(array, arrays)]
    return out[0] if len(out) == 1 else tuple(out)


@implements(np.atleast_1d)
def atleast_1d(*arys: Any) -> Any:
    """`numpy.atleast_1d`."""
    return _at_least(1, arys, lambda x: insert_axes(x, (0,)))


@implements(np.atleast_2d)
def atleast_2d(*arys: Any) -> Any:
    """`numpy.atleast_2d`."""
    return _at_least(2, arys, lambda x: insert_axes(x, range(2 - x.ndim)))


@implements(np.atleast_3d)
def atleast_3d(*arys: Any) -> Any:
    """`numpy.atleast_3d`."""
    places = {0: (0, 1, 2), 1: (0, 2), 2: (2,)}
    return _at_least(3, arys, lambda x: insert_axes(x, places[x.ndim]))


# ---------------------------------------------------------------------------- broadcast


@implements(np.broadcast_to)
def broadcast_to(array: Any, shape: Any, subok: bool = False) -> Any:
    """`numpy.broadcast_to`."""
    x, target = promotion.array(array), as_shape(shape)
    try:
        fits = np.broadcast_shapes(x.shape, target) == target
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"operands could not be broadcast together with remapped shapes "
            f"[original->remapped]: {x.shape}  and requested shape {target}"
        )
    return promotion.broadcast_to(x, target)


@implements(np.broadcast_arrays)
def broadcast_arrays(*args: Any, subok: bool = False) -> tuple[Any, ...]:
    """`numpy.broadcast_arrays`."""
    return tuple(promotion.full_broadcast(*map(array, args)))


# ---------------------------------------------------------------------------- join


def _arrays(sequence: Any, name: str) -> list[Any]:
    if isinstance(sequence, Tracer) and not sequence.ndim:
        raise TypeError(f"{name} needs a sequence of arrays, got {sequence.aval}.")
    items = [promotion.operand(x) for x in sequence]  # type: ignore[attr-defined]
    if not items:
        raise ValueError(f"need at least one array to {name}")
    return items


def join(items: Sequence[Any], axis: int, dtype: Any = None) -> Any:
    """Arrays end to end along `axis`, in their common dtype; NumPy's errors for what differs."""
    target = np.dtype(dtype) if dtype is not None else promotion.result_type(*items)
    arrays = [cast(x, target) for x in items]
    ndim = arrays[0].ndim
    if not ndim:
        raise ValueError("zero-dimensional arrays cannot be concatenated")
    axis = normalize_axis(axis, ndim)
    for i, x in enumerate(arrays):
        if x.ndim != ndim:
            raise ValueError(
                "all the input array dimensions except for the concatenation axis must match "
                f"exactly, but along dimension 0, the array at index 0 has {ndim} dimension(s) and "
                f"the array at index {i} has {x.ndim} dimension(s)"
            )
        for d in range(ndim):
            if d != axis and x.shape[d] != arrays[0].shape[d]:
                raise ValueError(
                    "all the input array dimensions except for the concatenation axis must match "
                    f"exactly, but along dimension {d}, the array at index 0 has size "
                    f"{arrays[0].shape[d]} and the array at index {i} has size {x.shape[d]}"
                )
    return arrays[0] if len(arrays) == 1 else ops.concatenate(*arrays, dimension=axis)


@implements(np.concatenate, np.concat)
def concatenate(arrays: Any, /, axis: Any = 0, out: Any = None, *, dtype: Any = None,
                casting: str = "same_kind") -> Any:  # fmt: skip
    """`numpy.concatenate`."""
    if out is not None:
        raise TypeError("concatenate(..., out=...) cannot be traced: use the result.")
    items = _arrays(arrays, "concatenate")
    if axis is None:
        return join([reshaped(x, (x.size,)) for x in map(promotion.strong, items)], 0, dtype)
    return join(items, axis, dtype)


def _stacked(items: Sequence[Any], axis: int, dtype: Any = None) -> Any:
    if len({np.shape(x) for x in items}) > 1:
        raise ValueError("all input arrays must have the same shape")
    axis = normalize_axis(axis, np.ndim(items[0]) + 1)
    target = np.dtype(dtype) if dtype is not None else promotion.result_type(*items)
    return join([insert_axes(cast(x, target), (axis,)) for x in items], axis)


@implements(np.stack)
def stack(arrays: Any, axis: int = 0, out: Any = None, *, dtype: Any = None,
          casting: str = "same_kind") -> Any:  # fmt: skip
    """`numpy.stack`."""
    if out is not None:
        raise TypeError("stack(..., out=...) cannot be traced: use the result.")
    return _stacked(_arrays(arrays, "stack"), axis, dtype)


def _lifted(items: Any, lift: Any) -> list[Any]:
    return [lift(x) for x in promote(*_arrays(items, "concatenate"))]


@implements(np.vstack)
def vstack(tup: Any, *, dtype: Any = None, casting: str = "same_kind") -> Any:
    """`numpy.vstack`."""
    return join(_lifted(tup, atleast_2d), 0, dtype)


@implements(np.hstack)
def hstack(tup: Any, *, dtype: Any = None, casting: str = "same_kind") -> Any:
    """`numpy.hstack`."""
    items = _lifted(tup, atleast_1d)
    return join(items, 0 if items[0].ndim == 1 else 1, dtype)


@implements(np.dstack)
def dstack(tup: Any) -> Any:
    """`numpy.dstack`."""
    return join(_lifted(tup, atleast_3d), 2)


@implements(np.column_stack)
def column_stack(tup: Any) -> Any:
    """`numpy.column_stack`."""
    return join(_lifted(tup, lambda x: reshaped(x, (x.size, 1)) if x.ndim < 2 else x), 1)


@implements(np.append)
def append(arr: Any, values: Any, axis: Any = None) -> Any:
    """`numpy.append`."""
    return concatenate.__wrapped__((arr, values), axis)  # type: ignore[attr-defined]


@implements(np.block)
def block(arrays: Any) -> Any:
    """`numpy.block`."""

    def depth(nested: Any) -> int:
        return 1 + depth(nested[0]) if isinstance(nested, list) else 0

    levels = depth(arrays)

    def build(nested: Any, level: int) -> Any:
        if not isinstance(nested, list):
            return nested
        return join([build(item, level + 1) for item in nested], level - levels)

    def lift(nested: Any, ndim: int) -> Any:
        if isinstance(nested, list):
            return [lift(item, ndim) for item in nested]
        x = array(nested)
        return insert_axes(x, range(ndim - x.ndim))

    def largest(nested: Any) -> int:
        return max(map(largest, nested)) if isinstance(nested, list) else np.ndim(nested)

    return build(lift(arrays, max(levels, largest(arrays))), 0)


# ---------------------------------------------------------------------------- split


@implements(np.array_split)
def array_split(ary: Any, indices_or_sections: Any, axis: int = 0) -> list[Any]:
    """`numpy.array_split`."""
    x = array(ary)
    axis = normalize_axis(axis, x.ndim)
    n = x.shape[axis]
    if np.ndim(indices_or_sections) == 0:
        sections = indices_or_sections.__index__()
        if sections <= 0:
            raise ValueError("number sections must be larger than 0.")
        size, extra = divmod(n, sections)
        cuts = [i * size + min(i, extra) for i in range(sections + 1)]
    else:
        cuts = [0, *(i.__index__() for i in indices_or_sections), n]
    limits = [slice(a, b).indices(n)[:2] for a, b in itertools.pairwise(cuts)]
    return [slice_axis(x, a, max(a, b), axis) for a, b in limits]


def slice_axis(x: Any, start: int, stop: int, axis: int) -> Any:
    """x[start:stop] along one axis."""
    starts, limits = [0] * x.ndim, list(x.shape)
    starts[axis], limits[axis] = start, stop
    return ops.slice(
        x, start_indices=tuple(starts), limit_indices=tuple(limits), strides=(1,) * x.ndim
    )


def _split(x: Any, indices_or_sections: Any, axis: int) -> list[Any]:
    axis = normalize_axis(axis, x.ndim)
    if np.ndim(indices_or_sections) == 0 and x.shape[axis] % indices_or_sections:
        raise ValueError("array split does not result in an equal division")
    return array_split.__wrapped__(x, indices_or_sections, axis)  # type: ignore[attr-defined]


@implements(np.split)
def split(ary: Any, indices_or_sections: Any, axis: int = 0) -> list[Any]:
    """`numpy.split`."""
    return _split(array(ary), indices_or_sections, axis)


@implements(np.hsplit)
def hsplit(ary: Any, indices_or_sections: Any) -> list[Any]:
    """`numpy.hsplit`."""
    x = array(ary)
    return _split(x, indices_or_sections, 1 if x.ndim > 1 else 0)


@implements(np.vsplit)
def vsplit(ary: Any, indices_or_sections: Any) -> list[Any]:
    """`numpy.vsplit`."""
    return _split(array(ary), indices_or_sections, 0)


@implements(np.dsplit)
def dsplit(ary: Any, indices_or_sections: Any) -> list[Any]:
    """`numpy.dsplit`."""
    return _split(array(ary), indices_or_sections, 2)


@implements(np.unstack)
def unstack(x: Any, /, *, axis: int = 0) -> tuple[Any, ...]:
    """`numpy.unstack`."""
    x = array(x)
    axis = normalize_axis(axis, x.ndim)
    rest = tuple(n for i, n in enumerate(x.shape) if i != axis)
    return tuple(reshaped(slice_axis(x, i, i + 1, axis), rest) for i in range(x.shape[axis]))
