"""`numpy.linalg`: Cholesky, linear equations and determinants.

A matrix is factored once for a value and its derivatives; no inverse is formed but by `inv`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from functrans import dtypes, ops
from functrans.numpy import manipulation, promotion
from functrans.numpy.dispatch import implements_linalg
from functrans.numpy.manipulation import reshaped
from functrans.numpy.promotion import array, cast, insert_axes
from functrans.ops import factorizations, matrices

LinAlgError = np.linalg.LinAlgError
SlogdetResult = type(np.linalg.slogdet(np.eye(1)))

# ---------------------------------------------------------------------------- operands


def operands(*xs: Any) -> list[Any]:
    """Array-likes in the common dtype that `numpy.linalg` computes in: ints become float64."""
    arrays = [array(x) for x in xs]
    for x in arrays:
        if dtypes.is_inexact(x.dtype) and x.dtype.char not in matrices.NATIVE_DTYPES:
            raise TypeError(f"array type {x.dtype.name} is unsupported in linalg")
    dtype = np.result_type(*(x.dtype for x in arrays))
    if not dtypes.is_inexact(dtype):
        dtype = dtypes.float64
    return [cast(x, dtype) for x in arrays]


def matrix_operand(x: Any) -> Any:
    """Refuse what has fewer than two axes, as NumPy does."""
    if x.ndim < 2:
        raise LinAlgError(
            f"{x.ndim}-dimensional array given. Array must be at least two-dimensional"
        )
    return x


def square_operand(x: Any) -> Any:
    """Refuse matrices that are not square, as NumPy does."""
    if matrix_operand(x).shape[-1] != x.shape[-2]:
        raise LinAlgError("Last 2 dimensions of the array must be square")
    return x


# ---------------------------------------------------------------------------- functions


@implements_linalg("cholesky")
def cholesky(a: Any, /, *, upper: bool = False) -> Any:
    """`numpy.linalg.cholesky`; gradients are Hermitian, as those of JAX."""
    (x,) = operands(a)
    square_operand(x)
    if upper:
        return matrices.adjoint(ops.cholesky(matrices.adjoint(x)))
    return ops.cholesky(x)


def solve_matrices(a: Any, b: Any) -> Any:
    """`a @ x = b` for (stacks of) matrices; one `a` for many `b` is factored once."""
    if a.ndim == 2 and b.ndim > 2:
        batch, (n, k) = b.shape[:-2], b.shape[-2:]
        order = [b.ndim - 2, *range(b.ndim - 2), b.ndim - 1]
        flat = reshaped(manipulation.permute(b, order), (n, math.prod(batch) * k))
        x = reshaped(factorizations.solve(a, flat), (n, *batch, k))
        return manipulation.permute(x, [*range(1, b.ndim - 1), 0, b.ndim - 1])
    batch = promotion.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    a, b = (promotion.broadcast_to(x, (*batch, *x.shape[-2:])) for x in (a, b))
    return factorizations.solve(a, b)


@implements_linalg("solve")
def solve(a: Any, b: Any) -> Any:
    """`numpy.linalg.solve`: a `b` with one axis is a vector."""
    a, b = operands(a, b)
    square_operand(a)
    is_vector = b.ndim == 1
    b = insert_axes(b, (1,)) if is_vector else b
    if b.ndim < 2 or a.shape[-1] != b.shape[-2]:
        signature = "(m,m),(m)->(m)" if is_vector else "(m,m),(m,n)->(m,n)"
        raise ValueError(
            f"solve: Input operand 1 has a mismatch in its core dimension 0, with gufunc signature "
            f"{signature} (size {b.shape[-2] if b.ndim > 1 else 0} is different from {a.shape[-1]})"
        )
    x = solve_matrices(a, b)
    return reshaped(x, x.shape[:-1]) if is_vector else x


@implements_linalg("inv")
def inv(a: Any) -> Any:
    """`numpy.linalg.inv`."""
    (x,) = operands(a)
    square_operand(x)
    return factorizations.solve(x, matrices.identity_like(x))


def _factored(a: Any) -> tuple[Any, ...]:
    (x,) = operands(a)
    square_operand(x)
    return (x, *ops.lu(ops.stop_gradient(x)))


@implements_linalg("det")
def det(a: Any) -> Any:
    """`numpy.linalg.det`; the derivative is right also where one pivot is zero."""
    return ops.determinant(*_factored(a))


@implements_linalg("slogdet")
def slogdet(a: Any) -> Any:
    """`numpy.linalg.slogdet`."""
    return SlogdetResult(*ops.log_determinant(*_factored(a)))


@implements_linalg("tensorsolve")
def tensorsolve(a: Any, b: Any, axes: Any = None) -> Any:
    """`numpy.linalg.tensorsolve`."""
    a, b = array(a), array(b)
    if axes is not None:
        moved = [i for i in range(a.ndim) if i not in axes]
        a = manipulation.permute(a, [*moved, *axes])
    shape = a.shape[-(a.ndim - b.ndim) :]
    size = math.prod(shape)
    if a.size != size**2:
        raise LinAlgError(
            "Input arrays must satisfy the requirement prod(a.shape[b.ndim:]) "
            "== prod(a.shape[:b.ndim])"
        )
    x = solve.__wrapped__(reshaped(a, (size, size)), reshaped(b, (b.size,)))
    return reshaped(x, shape)


@implements_linalg("tensorinv")
def tensorinv(a: Any, ind: int = 2) -> Any:
    """`numpy.linalg.tensorinv`."""
    a = array(a)
    if ind <= 0:
        raise ValueError("Invalid ind argument.")
    shape = a.shape[ind:] + a.shape[:ind]
    rows = math.prod(a.shape[ind:])
    return reshaped(inv.__wrapped__(reshaped(a, (a.size // max(rows, 1), rows))), shape)


__all__ = [
    "cholesky",
    "det",
    "inv",
    "slogdet",
    "solve",
    "tensorinv",
    "tensorsolve",
]
