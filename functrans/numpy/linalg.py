"""`numpy.linalg`: norms, powers and products here; the rest from `solvers` and `decompositions`.

The derivative of a norm at 0 is 0.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from functrans import dtypes, ops
from functrans.numpy import contractions, indexing, manipulation, promotion
from functrans.numpy.decompositions import (
    cond,
    eig,
    eigh,
    eigvals,
    eigvalsh,
    lstsq,
    matrix_rank,
    pinv,
    qr,
    svd,
    svdvals,
)
from functrans.numpy.dispatch import TRACED, implements_linalg
from functrans.numpy.manipulation import reshaped
from functrans.numpy.promotion import array, cast, insert_axes, normalize_axes
from functrans.numpy.reductions import max as maximum_of
from functrans.numpy.reductions import min as minimum_of
from functrans.numpy.reductions import root_of_sum
from functrans.numpy.solvers import (
    cholesky,
    det,
    inv,
    slogdet,
    solve,
    square_operand,
    tensorinv,
    tensorsolve,
)
from functrans.numpy.ufuncs import absolute, power

_max = maximum_of.__wrapped__  # type: ignore[attr-defined]
_min = minimum_of.__wrapped__  # type: ignore[attr-defined]


def _squares(x: Any) -> Any:
    """|x|**2, real."""
    if x.dtype.kind == "c":
        return ops.add(ops.square(ops.real(x)), ops.square(ops.imag(x)))
    return ops.square(x)


def _vector_norm(x: Any, axes: tuple[int, ...], ord: Any) -> Any:
    if ord is None or ord == 2:
        return root_of_sum(ops.reduce_sum(_squares(x), axes=axes))
    size = absolute.traced(x)
    if ord == np.inf:
        return _max(size, axis=axes)
    if ord == -np.inf:
        return _min(size, axis=axes)
    if ord == 0:
        nonzero = ops.ne(x, promotion.scalar_like(0, x))
        return ops.reduce_sum(cast(nonzero, size.dtype), axes=axes)
    if ord == 1:
        return ops.reduce_sum(size, axes=axes)
    if isinstance(ord, str):
        raise ValueError(f"Invalid norm order '{ord}' for vectors")
    total = ops.reduce_sum(power.traced(size, float(ord)), axes=axes)
    return root_of_sum(total, lambda s: power.traced(s, 1 / float(ord)))


def _matrix_norm(x: Any, rows: int, columns: int, ord: Any) -> Any:
    if rows == columns:
        raise ValueError("Duplicate axes given.")
    if ord in (None, "fro", "f"):
        return root_of_sum(ops.reduce_sum(_squares(x), axes=tuple(sorted((rows, columns)))))
    along, over = (rows, columns) if ord in (1, -1) else (columns, rows)
    if ord in (1, -1, np.inf, -np.inf):
        sums = ops.reduce_sum(absolute.traced(x), axes=(along,))
        over -= over > along
        return _max(sums, axis=over) if ord > 0 else _min(sums, axis=over)
    if ord in (2, -2, "nuc"):
        rest = [i for i in range(x.ndim) if i not in (rows, columns)]
        values = svdvals.__wrapped__(manipulation.permute(x, [*rest, rows, columns]))
        if ord == "nuc":
            return ops.reduce_sum(values, axes=(len(rest),))
        return _max(values, axis=-1) if ord == 2 else _min(values, axis=-1)
    raise ValueError("Invalid norm order for matrices.")


def _norm_operand(x: Any) -> Any:
    x = array(x)
    if not dtypes.is_inexact(x.dtype):
        return cast(x, dtypes.float64)
    return x


@implements_linalg("norm")
def norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Any:
    """`numpy.linalg.norm`: all orders."""
    x = _norm_operand(x)
    if axis is None:
        axes = tuple(range(x.ndim))
        flatten = ord is None or (ord in ("f", "fro") and x.ndim == 2) or (ord == 2 and x.ndim == 1)
        if flatten:
            y = root_of_sum(ops.reduce_sum(_squares(x), axes=axes))
            return insert_axes(y, axes) if keepdims else y
    else:
        axes = normalize_axes(axis, x.ndim)
    if len(axes) == 1:
        y = _vector_norm(x, axes, ord)
    elif len(axes) == 2:
        y = _matrix_norm(x, axes[0], axes[1], ord)
    else:
        raise ValueError("Improper number of dimensions to norm.")
    return insert_axes(y, axes) if keepdims else y


@implements_linalg("vector_norm")
def vector_norm(x: Any, /, *, axis: Any = None, keepdims: bool = False, ord: Any = 2) -> Any:
    """`numpy.linalg.vector_norm`."""
    x = _norm_operand(x)
    axes = normalize_axes(axis, x.ndim)
    rest = [i for i in range(x.ndim) if i not in axes]
    lead = tuple(x.shape[i] for i in rest)
    size = math.prod(x.shape[i] for i in axes)
    flat = reshaped(manipulation.permute(x, [*rest, *axes]), (*lead, size))
    y = _vector_norm(flat, (len(rest),), ord)
    return insert_axes(y, axes) if keepdims else y


@implements_linalg("matrix_norm")
def matrix_norm(x: Any, /, *, keepdims: bool = False, ord: Any = "fro") -> Any:
    """`numpy.linalg.matrix_norm`: all orders."""
    x = _norm_operand(x)
    axes = (x.ndim - 2, x.ndim - 1)
    y = _matrix_norm(x, *axes, ord)
    return insert_axes(y, axes) if keepdims else y


@implements_linalg("matrix_power")
def matrix_power(a: Any, n: int) -> Any:
    """`numpy.linalg.matrix_power`, by repeated squaring."""
    n = n.__index__()
    x = square_operand(array(a))
    if n == 0:
        return promotion.broadcast_to(cast(np.eye(x.shape[-1]), x.dtype), x.shape)
    if n < 0:
        x, n = inv.__wrapped__(x), -n
    result = None
    while n:
        if n & 1:
            result = x if result is None else contractions.matmul(result, x)
        n >>= 1
        x = contractions.matmul(x, x) if n else x
    return result


@implements_linalg("multi_dot")
def multi_dot(arrays: Any, *, out: Any = None) -> Any:
    """`numpy.linalg.multi_dot`, in the order in which NumPy's einsum would contract."""
    if out is not None:
        raise TypeError("multi_dot(..., out=...) cannot be traced: use the result.")
    items = [array(x) for x in arrays]
    if len(items) < 2:
        raise ValueError("Expecting at least two arrays.")
    operands: list[Any] = []
    for i, x in enumerate(items):
        operands += [x, [1] if i == 0 and x.ndim == 1 else [i, i + 1][: x.ndim]]
    out_axes = [0][: items[0].ndim - 1] + [len(items)][: items[-1].ndim - 1]
    return TRACED[np.einsum](*operands, out_axes)


matmul = contractions.matmul
outer = contractions.outer
tensordot = contractions.tensordot
matrix_transpose = manipulation.matrix_transpose


@implements_linalg("cross")
def cross(x1: Any, x2: Any, /, *, axis: int = -1) -> Any:
    """`numpy.linalg.cross`: of 3-vectors along `axis`."""
    return TRACED[np.cross](x1, x2, axis=axis)


@implements_linalg("vecdot")
def vecdot(x1: Any, x2: Any, /, *, axis: int = -1) -> Any:
    """`numpy.linalg.vecdot`: products of vectors along `axis`, the first conjugated."""
    first = TRACED[np.moveaxis](x1, axis, -1)
    return TRACED[np.vecdot](first, TRACED[np.moveaxis](x2, axis, -1))


@implements_linalg("trace")
def trace(x: Any, /, *, offset: int = 0, dtype: Any = None) -> Any:
    """`numpy.linalg.trace`: of the last two axes."""
    return TRACED[np.trace](x, offset, -2, -1, dtype)


@implements_linalg("diagonal")
def diagonal(x: Any, /, *, offset: int = 0) -> Any:
    """`numpy.linalg.diagonal`: of the last two axes."""
    return indexing.diagonal(x, offset, -2, -1)


TRACED[np.linalg.matmul] = TRACED[np.matmul]
TRACED[np.linalg.outer] = TRACED[np.outer]
TRACED[np.linalg.tensordot] = TRACED[np.tensordot]
TRACED[np.linalg.matrix_transpose] = TRACED[np.matrix_transpose]

__all__ = [
    "cholesky",
    "cond",
    "cross",
    "det",
    "diagonal",
    "eig",
    "eigh",
    "eigvals",
    "eigvalsh",
    "inv",
    "lstsq",
    "matmul",
    "matrix_norm",
    "matrix_power",
    "matrix_rank",
    "matrix_transpose",
    "multi_dot",
    "norm",
    "outer",
    "pinv",
    "qr",
    "slogdet",
    "solve",
    "svd",
    "svdvals",
    "tensordot",
    "tensorinv",
    "tensorsolve",
    "trace",
    "vecdot",
    "vector_norm",
]
