"""Matrices on the last two axes: what the rules of linear algebra are written with.

`MatrixOperation` is the family: any axes in front of the matrix are a batch, so `vmap` only has to
put its axis there. The functions are compositions of other ops; products keep their transposed
operands as views.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from functrans.core import Primitive, Zero, get_aval
from functrans.ir import ShapedArray
from functrans.ops import axes, structural
from functrans.ops import elementwise as el
from functrans.ops.dot import dot_general

NATIVE_DTYPES = "fdFD"  # those of LAPACK


class MatrixOperation(Primitive):
    """An operation on matrices, batched over every axis in front of them."""

    def batch(self, size: int, args: Sequence[Any], dims: Sequence[Any], **params: Any) -> Any:
        front = [axes.batched_in_front(x, d, size) for x, d in zip(args, dims, strict=True)]
        out = self(*front, **params)
        return out, [0] * len(out) if self.multiple_results else 0

    def check_dtype(self, *avals: ShapedArray) -> None:
        """Refuse what LAPACK has no routine for, and operands of different dtypes."""
        first = avals[0].dtype
        if any(a.dtype != first for a in avals):
            raise TypeError(
                f"{self.name} needs operands of equal dtype, got {', '.join(map(str, avals))}. "
                "functrans.numpy.linalg promotes; ops does not."
            )
        if first.char not in NATIVE_DTYPES:
            raise TypeError(
                f"{self.name} does not accept {avals[0]}: it takes float32, float64, complex64 and "
                "complex128. Convert with x.astype(...)."
            )

    def check_square(self, a: ShapedArray) -> None:
        """Refuse a stack of matrices that are not square."""
        if a.ndim < 2 or a.shape[-1] != a.shape[-2]:
            raise ValueError(f"{self.name} needs square matrices on the last two axes, got {a}.")

    def still(self, out: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """Results that do not move."""
        return list(out), [no_tangent(y) for y in out]


def no_tangent(y: Any) -> Zero:
    """The tangent of a result that does not move."""
    return Zero(get_aval(y).tangent_aval())


def real_of(dtype: np.dtype) -> np.dtype:
    """The dtype of the absolute value."""
    return np.dtype(dtype.char.lower())


# ---------------------------------------------------------------------------- compositions


def transposed(x: Any) -> Any:
    """`x.mT`."""
    n = len(x.shape)
    return structural.permute(x, permutation=(*range(n - 2), n - 1, n - 2))


def conjugated(x: Any) -> Any:
    """`conj(x)`; real values as they are."""
    return el.conj(x) if x.dtype.kind == "c" else x


def adjoint(x: Any) -> Any:
    """`conj(x).mT`."""
    return conjugated(transposed(x))


def product(a: Any, b: Any) -> Any:
    """`a @ b` for stacks of equal extents."""
    n = len(a.shape) - 2
    batch = tuple(range(n))
    return dot_general(a, b, dimension_numbers=(((n + 1,), (n,)), (batch, batch)))


def scaled(x: Any, factor: float) -> Any:
    """`factor * x`."""
    return el.mul(x, x.dtype.type(factor))


def hermitian(x: Any) -> Any:
    """`(x + adjoint(x)) / 2`."""
    return scaled(el.add(x, adjoint(x)), 0.5)


def is_below(shape: Sequence[int], k: int = 0) -> Any:
    """Where column - row <= k, as an array of bools."""
    index = np.dtype(np.int64)
    rows = structural.iota(dtype=index, shape=tuple(shape), dimension=len(shape) - 2)
    columns = structural.iota(dtype=index, shape=tuple(shape), dimension=len(shape) - 1)
    if k:
        rows = el.add(rows, index.type(k))
    return el.ge(rows, columns)


def in_last_row(shape: Sequence[int]) -> Any:
    """Where the row is the last one, as an array of bools."""
    index = np.dtype(np.int64)
    rows = structural.iota(dtype=index, shape=tuple(shape), dimension=len(shape) - 2)
    return el.eq(rows, index.type(shape[-2] - 1))


def last_unit_vector(x: Any) -> Any:
    """A column per matrix of `x`: zeros, and 1 in the last row."""
    shape = (*x.shape[:-1], 1)
    one = axes.filled(x.dtype.type(1), shape)
    return el.select(in_last_row(shape), one, x.dtype.type(0))


def lower(x: Any, k: int = 0) -> Any:
    """`np.tril(x, k)`."""
    return el.select(is_below(x.shape, k), x, axes.zero_number(x))


def upper(x: Any, k: int = 0) -> Any:
    """`np.triu(x, k)`."""
    return el.select(is_below(x.shape, k - 1), axes.zero_number(x), x)


def on_diagonal(x: Any) -> Any:
    """`x` with zeros everywhere else."""
    return upper(lower(x))


def identity_like(x: Any) -> Any:
    """The unit matrices of the shape of `x`."""
    one, zero = x.dtype.type(1), x.dtype.type(0)
    is_one = el.and_(is_below(x.shape), el.not_(is_below(x.shape, -1)))
    return el.select(is_one, axes.filled(one, x.shape), zero)


def diagonal(x: Any) -> Any:
    """The diagonals of matrices, square or not."""
    m, n = x.shape[-2:]
    k = min(m, n)
    x = structural.slice_axis(x, len(x.shape) - 2, 0, k)
    x = structural.slice_axis(x, len(x.shape) - 1, 0, k)
    return structural.reduce_sum(on_diagonal(x), axes=(len(x.shape) - 1,))


def rest_of_basis(d_known: Any, known: Any, whole: Any) -> Any:
    """The tangent of a unitary `whole` whose first columns are `known`, from theirs.

    The other columns span what the first do not, in any way: they move by no more than they must
    to stay orthogonal, which is right for what does not depend on their choice.
    """
    axis, k = len(whole.shape) - 1, known.shape[-1]
    rest = structural.slice_axis(whole, axis, k, whole.shape[axis])
    d_rest = el.neg(product(known, product(adjoint(d_known), rest)))
    return structural.concatenate(d_known, d_rest, dimension=axis)


def leading_columns(x: Any, k: int) -> Any:
    """The first k columns."""
    return structural.slice_axis(x, len(x.shape) - 1, 0, k)


def leading_rows(x: Any, k: int) -> Any:
    """The first k rows."""
    return structural.slice_axis(x, len(x.shape) - 2, 0, k)


def as_row(x: Any) -> Any:
    """Vectors as matrices of one row."""
    return structural.reshape(x, shape=(*x.shape[:-1], 1, x.shape[-1]))


def as_column(x: Any) -> Any:
    """Vectors as matrices of one column."""
    return structural.reshape(x, shape=(*x.shape, 1))


def times_columns(x: Any, v: Any) -> Any:
    """`x * v[..., None, :]`: column j times v[j]."""
    return el.mul(x, spread_row(v, x.shape))


def times_rows(x: Any, v: Any) -> Any:
    """`x * v[..., :, None]`: row i times v[i]."""
    return el.mul(x, spread_column(v, x.shape))


def spread_row(v: Any, shape: Sequence[int]) -> Any:
    """`v` as every row of matrices."""
    n = len(shape)
    return structural.broadcast_in_dim(
        v, shape=tuple(shape), broadcast_dimensions=(*range(n - 2), n - 1)
    )


def spread_column(v: Any, shape: Sequence[int]) -> Any:
    """`v` as every column of matrices."""
    return structural.broadcast_in_dim(
        v, shape=tuple(shape), broadcast_dimensions=tuple(range(len(shape) - 1))
    )


def columns_folded(x: Any, dim: int) -> Any:
    """Stacked right-hand sides, stack at axis `dim`, as more columns of one."""
    x = axes.moveaxis(x, dim, -2)
    return structural.reshape(x, shape=(*x.shape[:-2], math.prod(x.shape[-2:])))


def columns_unfolded(x: Any, size: int) -> tuple[Any, int]:
    """The inverse of `columns_folded`: with the axis where the stack is now."""
    x = structural.reshape(x, shape=(*x.shape[:-1], size, x.shape[-1] // max(size, 1)))
    return x, len(x.shape) - 2
