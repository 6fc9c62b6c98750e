"""What stands between a user's operands and the ops: conversion, promotion, broadcasting.

Ops take arrays of one dtype and one shape (or shape ()). `functrans.numpy` takes anything NumPy
takes. The functions here turn the one into the other with NumPy's rules (NEP 50): a Python
scalar, or a tracer that stands for one, is *weak* and takes the dtype of the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from functrans import dtypes, ops
from functrans.core import Tracer, get_aval

Key = np.dtype | type
_PYTHON_SCALARS = frozenset(dtypes.PYTHON_SCALARS)


def operand(x: Any) -> Any:
    """`x` as a tracer, array, NumPy scalar or Python scalar; lists become arrays.

    A list that holds tracers is stacked. Raises TypeError for what is not numeric.
    """
    if isinstance(x, (Tracer, np.ndarray, np.generic)) or type(x) in _PYTHON_SCALARS:
        return x
    if isinstance(x, (list, tuple)) and holds_tracer(x):
        return stack_nested(x)
    array = np.asarray(x)
    if not dtypes.is_supported(array.dtype):
        raise TypeError(f"{x!r} of type {type(x).__name__} is not an array or a number.")
    return array


def holds_tracer(x: Any) -> bool:
    """Whether a nested list has a tracer somewhere."""
    if isinstance(x, (list, tuple)):
        return any(holds_tracer(item) for item in x)
    return isinstance(x, Tracer)


def stack_nested(rows: Any) -> Any:
    """A nested list with tracers in it as one array, as `np.array` does with numbers."""
    items = [operand(row) for row in rows]
    if len({np.shape(item) for item in items}) > 1:
        shapes = ", ".join(str(np.shape(item)) for item in items)
        raise ValueError(
            "setting an array element with a sequence. The requested array would be "
            f"inhomogeneous: the items have shapes {shapes}."
        )
    items = promote(*items)
    return ops.concatenate(*[insert_axes(item, (0,)) for item in items], dimension=0)


def key(x: Any) -> Key:
    """What an operand brings to promotion: its dtype, or a Python type if it is weak."""
    if isinstance(x, Tracer):
        return dtypes.weak_type_of(x.dtype) if x.weak_type else x.dtype
    return type(x) if type(x) in _PYTHON_SCALARS else x.dtype


def result_type(*xs: Any) -> np.dtype:
    """The dtype that NumPy gives to a combination of these operands."""
    return dtypes.result_type(*map(key, xs))


def cast(x: Any, dtype: np.dtype) -> Any:
    """`x` in `dtype`. A Python int that does not fit raises OverflowError, as in NumPy."""
    if type(x) in _PYTHON_SCALARS:
        return dtype.type(x)
    if x.dtype == dtype:
        return x
    if isinstance(x, np.generic):
        return ops.convert_element_type.impl(x, dtype=dtype)
    return ops.convert_element_type(x, dtype=dtype)


def astype(x: Any, dtype: Any) -> Any:
    """`x` in `dtype`, by NumPy's cast; bool means "is not zero"."""
    return cast(x, np.dtype(dtype))


def promote(*xs: Any) -> list[Any]:
    """The operands in their common dtype."""
    dtype = result_type(*xs)
    return [cast(x, dtype) for x in xs]


def inexact(x: Any) -> Any:
    """An operand as float or complex: bools and integers become float64."""
    x = strong(operand(x))
    return x if dtypes.is_inexact(x.dtype) else cast(x, dtypes.float64)


def strong(x: Any) -> Any:
    """A Python scalar as the NumPy scalar NumPy makes of it; others as they are."""
    return dtypes.scalar_dtype(x).type(x) if type(x) in _PYTHON_SCALARS else x


def array(x: Any) -> Any:
    """Any array-like as a tracer, array or NumPy scalar: `operand`, then `strong`."""
    return strong(operand(x))


def dtype_of(x: Any) -> np.dtype:
    """The dtype of an operand; Python scalars have their default one."""
    return get_aval(x).dtype


# ---------------------------------------------------------------------------- shapes


def broadcast_shapes(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The common shape, or the ValueError of NumPy's ufuncs."""
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        listed = " ".join(str(shape).replace(" ", "") for shape in shapes)
        raise ValueError(
            f"operands could not be broadcast together with shapes {listed} "
        ) from None


def broadcast_to(x: Any, shape: tuple[int, ...]) -> Any:
    """`x` repeated to `shape`, by NumPy's rule."""
    if x.shape == shape:
        return x
    axes = tuple(range(len(shape) - x.ndim, len(shape)))
    return ops.broadcast_in_dim(x, shape=shape, broadcast_dimensions=axes)


def broadcast(*xs: Any) -> Sequence[Any]:
    """Operands of one shape; numbers stay numbers, which ops accept beside arrays."""
    shapes = {x.shape for x in xs if x.shape}
    if len(shapes) <= 1:
        return xs
    shape = broadcast_shapes(*[x.shape for x in xs])
    return [broadcast_to(x, shape) if x.shape else x for x in xs]


def full_broadcast(*xs: Any) -> list[Any]:
    """Operands of one shape, numbers included."""
    shape = broadcast_shapes(*[x.shape for x in xs])
    return [broadcast_to(x, shape) for x in xs]


def insert_axes(x: Any, axes: Sequence[int]) -> Any:
    """`x` with axes of extent 1 at these positions of the result."""
    if not axes:
        return x
    shape = list(np.shape(x))
    for axis in sorted(axes):
        shape.insert(axis, 1)
    return ops.reshape(x, shape=tuple(shape))


def scalar_like(value: Any, x: Any) -> Any:
    """A number as a NumPy scalar in the dtype of `x`."""
    return dtype_of(x).type(value)


def full(shape: tuple[int, ...], value: Any, dtype: np.dtype) -> Any:
    """An array of one number, staged as a broadcast rather than as data."""
    return ops.broadcast_in_dim(cast(value, dtype), shape=shape, broadcast_dimensions=())


def as_shape(shape: Any) -> tuple[int, ...]:
    """An int or a sequence of ints as a tuple of Python ints."""
    if isinstance(shape, Tracer):
        return (shape.__index__(),)
    if isinstance(shape, (int, np.integer)):
        return (int(shape),)
    return tuple(extent.__index__() for extent in shape)


def normalize_axes(axis: Any, ndim: int) -> tuple[int, ...]:
    """`axis` (None: all, an int or a tuple) as non-negative ints; NumPy's AxisError if not."""
    if axis is None:
        return tuple(range(ndim))
    return np.lib.array_utils.normalize_axis_tuple(axis, ndim)


def normalize_axis(axis: Any, ndim: int) -> int:
    """One axis as a non-negative int; NumPy's AxisError if out of range."""
    return np.lib.array_utils.normalize_axis_index(axis.__index__(), ndim)
