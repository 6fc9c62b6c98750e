"""Questions about shape and dtype, which have the same answer traced or not."""

from __future__ import annotations

from typing import Any

import numpy as np

from functrans import dtypes
from functrans.numpy import promotion
from functrans.numpy.dispatch import implements
from functrans.numpy.promotion import dtype_of, operand


@implements(np.shape)
def shape(a: Any) -> tuple[int, ...]:
    """`numpy.shape`."""
    return np.shape(a) if isinstance(a, np.ndarray) else getattr(operand(a), "shape", ())


@implements(np.ndim)
def ndim(a: Any) -> int:
    """`numpy.ndim`."""
    return getattr(operand(a), "ndim", 0)


@implements(np.size)
def size(a: Any, axis: Any = None) -> int:
    """`numpy.size`."""
    extents = shape(a)
    axes = promotion.normalize_axes(axis, len(extents))
    n = 1
    for i in axes:
        n *= extents[i]
    return n


@implements(np.result_type)
def result_type(*arrays_and_dtypes: Any) -> np.dtype:
    """`numpy.result_type`; tracers that stand for Python scalars are weak."""
    keys = []
    for x in arrays_and_dtypes:
        is_value = promotion.holds_tracer(x) or isinstance(x, (np.ndarray, np.generic))
        keys.append(promotion.key(x) if is_value or type(x) in dtypes.PYTHON_SCALARS else x)
    return dtypes.result_type(*[k if k in dtypes.PYTHON_SCALARS else np.dtype(k) for k in keys])


@implements(np.iscomplexobj)
def iscomplexobj(x: Any) -> bool:
    """`numpy.iscomplexobj`."""
    return dtype_of(operand(x)).kind == "c"


@implements(np.isrealobj)
def isrealobj(x: Any) -> bool:
    """`numpy.isrealobj`."""
    return dtype_of(operand(x)).kind != "c"


@implements(np.isscalar)
def isscalar(element: Any) -> bool:
    """`numpy.isscalar`: whether it is a number, not an array; a tracer never is."""
    return bool(np.isscalar(element))


@implements(np.can_cast)
def can_cast(from_: Any, to: Any, casting: Any = "safe") -> bool:
    """`numpy.can_cast`."""
    return bool(np.can_cast(from_.dtype if promotion.holds_tracer(from_) else from_, to, casting))
