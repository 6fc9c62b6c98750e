"""Products of matrices and tensors: matmul, dot, tensordot and their kin, all by `ops.dot_general`.

`einsum` has a file of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from functrans import ops
from functrans.numpy import promotion
from functrans.numpy.dispatch import NAMES, TRACED, eager_or_traced, implements
from functrans.numpy.indexing import diagonal
from functrans.numpy.manipulation import permute, reshaped
from functrans.numpy.promotion import array, cast, insert_axes, normalize_axes, promote
from functrans.numpy.reductions import sum_dtype
from functrans.numpy.ufuncs import multiply

_SIGNATURE = "(n?,k),(k,m?)->(n?,m?)"


def conjugated(x: Any) -> Any:
    """conj(x); real values and bools as they are."""
    return ops.conj(x) if x.dtype.kind == "c" else x


def contract(
    a: Any,
    b: Any,
    axes: tuple[Sequence[int], Sequence[int]],
    batch: tuple[Sequence[int], Sequence[int]] = ((), ()),
) -> Any:
    """The sum of products over pairs of axes; result axes are batch, then free of a, then of b."""
    numbers = (tuple(map(tuple, axes)), tuple(map(tuple, batch)))
    return ops.dot_general(a, b, dimension_numbers=numbers)


# ---------------------------------------------------------------------------- matmul


def _matmul(x1: Any, x2: Any) -> Any:
    a, b = promote(array(x1), array(x2))
    for i, x in enumerate((a, b)):
        if x.ndim == 0:
            raise ValueError(
                f"matmul: Input operand {i} does not have enough dimensions (has 0, gufunc core "
                f"with signature {_SIGNATURE} requires 1)"
            )
    core = b.ndim - 2 if b.ndim > 1 else 0
    if a.shape[-1] != b.shape[core]:
        raise ValueError(
            f"matmul: Input operand 1 has a mismatch in its core dimension 0, with gufunc "
            f"signature {_SIGNATURE} (size {b.shape[core]} is different from {a.shape[-1]})"
        )
    if b.ndim <= 2:
        return contract(a, b, ((a.ndim - 1,), (core,)))
    if a.ndim == 1:
        return contract(a, b, ((0,), (core,)))
    return _batched_matmul(a, b)


def _batched_matmul(a: Any, b: Any) -> Any:
    if a.ndim == 2:
        rows_first = contract(a, b, ((1,), (b.ndim - 2,)))
        return permute(rows_first, [*range(1, b.ndim - 1), 0, b.ndim - 1])
    batch = promotion.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    a = promotion.broadcast_to(a, (*batch, *a.shape[-2:]))
    b = promotion.broadcast_to(b, (*batch, *b.shape[-2:]))
    n = len(batch)
    return contract(a, b, ((n + 1,), (n,)), (range(n), range(n)))


def _gufunc(ufunc: Any, traced: Any) -> Any:
    """Publish a generalized ufunc; its keyword arguments are not traced."""

    def function(x1: Any, x2: Any, /, out: Any = None, **options: Any) -> Any:
        if out is not None or set(options) - {"dtype", "casting", "order", "subok"}:
            raise TypeError(
                f"{ufunc.__name__}(..., {', '.join(options) or 'out'}=...) cannot be traced; move "
                "axes with np.moveaxis and use the result."
            )
        if options.get("dtype") is not None:
            dtype = np.dtype(options["dtype"])
            x1, x2 = cast(array(x1), dtype), cast(array(x2), dtype)
        return traced(x1, x2)

    function.__name__ = function.__qualname__ = ufunc.__name__
    function.__doc__ = f"`numpy.{ufunc.__name__}`, traceable."
    TRACED[ufunc] = function
    NAMES[ufunc.__name__] = eager_or_traced(ufunc, function)
    return NAMES[ufunc.__name__]


def _vecdot(x1: Any, x2: Any) -> Any:
    a, b = promote(array(x1), array(x2))
    _same_core("vecdot", "(n),(n)->()", a, b, -1, -1)
    batch = promotion.broadcast_shapes(a.shape[:-1], b.shape[:-1])
    n = len(batch)
    a = promotion.broadcast_to(conjugated(a), (*batch, a.shape[-1]))
    b = promotion.broadcast_to(b, (*batch, b.shape[-1]))
    return contract(a, b, ((n,), (n,)), (range(n), range(n)))


def _matvec(x1: Any, x2: Any) -> Any:
    a, v = promote(array(x1), array(x2))
    _same_core("matvec", "(m,n),(n)->(m)", a, v, -1, -1)
    return _without_axis(_matmul(a, insert_axes(v, (v.ndim,))), -1)


def _vecmat(x1: Any, x2: Any) -> Any:
    v, b = promote(array(x1), array(x2))
    _same_core("vecmat", "(n),(n,m)->(m)", v, b, -1, -2)
    v = insert_axes(conjugated(v), (v.ndim - 1,))
    return _without_axis(_matmul(v, b), -2)


def _same_core(name: str, signature: str, a: Any, b: Any, i: int, j: int) -> None:
    for k, (x, least) in enumerate(((a, -i), (b, -j))):
        if x.ndim < least:
            raise ValueError(
                f"{name}: Input operand {k} does not have enough dimensions (has {x.ndim}, gufunc "
                f"core with signature {signature} requires {least})"
            )
    if a.shape[i] != b.shape[j]:
        raise ValueError(
            f"{name}: Input operand 1 has a mismatch in its core dimension 0, with gufunc "
            f"signature {signature} (size {b.shape[j]} is different from {a.shape[i]})"
        )


def _without_axis(x: Any, axis: int) -> Any:
    shape = list(x.shape)
    del shape[axis]
    return reshaped(x, tuple(shape))


matmul = _gufunc(np.matmul, _matmul)
vecdot = _gufunc(np.vecdot, _vecdot)
if hasattr(np, "matvec"):  # NumPy 2.2
    _gufunc(np.matvec, _matvec)
    _gufunc(np.vecmat, _vecmat)

# ---------------------------------------------------------------------------- dot and kin


def _refuse_unaligned(a: Any, b: Any, i: int, j: int) -> None:
    if a.shape[i] != b.shape[j]:
        raise ValueError(
            f"shapes {_shown(a.shape)} and {_shown(b.shape)} not aligned: {a.shape[i]} (dim "
            f"{i % a.ndim}) != {b.shape[j]} (dim {j % b.ndim})"
        )


def _shown(shape: tuple[int, ...]) -> str:
    return str(shape).replace(" ", "")


@implements(np.dot)
def dot(a: Any, b: Any, out: Any = None) -> Any:
    """`numpy.dot`: over the last axis of `a` and the last but one of `b`."""
    if out is not None:
        raise TypeError("dot(..., out=...) cannot be traced: use the result.")
    a, b = promotion.operand(a), promotion.operand(b)
    if not np.ndim(a) or not np.ndim(b):
        return multiply.traced(a, b)
    a, b = promote(a, b)
    j = b.ndim - 2 if b.ndim > 1 else 0
    _refuse_unaligned(a, b, -1, j)
    return contract(a, b, ((a.ndim - 1,), (j,)))


@implements(np.vdot)
def vdot(a: Any, b: Any, /) -> Any:
    """`numpy.vdot`: conj(a) . b of the flattened operands."""
    a, b = promote(array(a), array(b))
    a, b = reshaped(a, (a.size,)), reshaped(b, (b.size,))
    _refuse_unaligned(a, b, 0, 0)
    return contract(conjugated(a), b, ((0,), (0,)))


@implements(np.inner)
def inner(a: Any, b: Any, /) -> Any:
    """`numpy.inner`: over the last axes."""
    a, b = promotion.operand(a), promotion.operand(b)
    if not np.ndim(a) or not np.ndim(b):
        return multiply.traced(a, b)
    a, b = promote(a, b)
    _refuse_unaligned(a, b, -1, -1)
    return contract(a, b, ((a.ndim - 1,), (b.ndim - 1,)))


@implements(np.outer)
def outer(a: Any, b: Any, out: Any = None) -> Any:
    """`numpy.outer`: all products of the flattened operands."""
    if out is not None:
        raise TypeError("outer(..., out=...) cannot be traced: use the result.")
    a, b = array(a), array(b)
    return multiply.traced(reshaped(a, (a.size, 1)), reshaped(b, (1, b.size)))


@implements(np.tensordot)
def tensordot(a: Any, b: Any, axes: Any = 2) -> Any:
    """`numpy.tensordot`."""
    a, b = promote(array(a), array(b))
    if isinstance(axes, (int, np.integer)):
        if axes < 0:
            raise ValueError("axes must be non-negative")
        if axes > min(a.ndim, b.ndim):
            raise ValueError("shape-mismatch for sum")
        pairs = (tuple(range(a.ndim - axes, a.ndim)), tuple(range(axes)))
    else:
        pairs = (normalize_axes(axes[0], a.ndim), normalize_axes(axes[1], b.ndim))
    if [a.shape[i] for i in pairs[0]] != [b.shape[j] for j in pairs[1]]:
        raise ValueError("shape-mismatch for sum")
    return contract(a, b, pairs)


@implements(np.kron)
def kron(a: Any, b: Any) -> Any:
    """`numpy.kron`."""
    a, b = array(a), array(b)
    ndim = max(a.ndim, b.ndim)
    a, b = insert_axes(a, range(ndim - a.ndim)), insert_axes(b, range(ndim - b.ndim))
    wide_a = insert_axes(a, range(1, 2 * ndim, 2))
    wide_b = insert_axes(b, range(0, 2 * ndim, 2))
    product = multiply.traced(wide_a, wide_b)
    return reshaped(product, tuple(m * n for m, n in zip(a.shape, b.shape, strict=True)))


@implements(np.trace)
def trace(a: Any, offset: int = 0, axis1: int = 0, axis2: int = 1, dtype: Any = None,
          out: Any = None) -> Any:  # fmt: skip
    """`numpy.trace`."""
    if out is not None:
        raise TypeError("trace(..., out=...) cannot be traced: use the result.")
    x = diagonal.__wrapped__(a, offset, axis1, axis2)  # type: ignore[attr-defined]
    x = cast(x, np.dtype(dtype) if dtype is not None else sum_dtype(x.dtype))
    return ops.reduce_sum(x, axes=(x.ndim - 1,))
