"""What the primitives of linear algebra are on plain arrays, by NumPy and SciPy.

`scipy.linalg` is imported here only, when what NumPy lacks first runs: triangular solves and LU.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def scipy_linalg() -> Any:
    """The module `scipy.linalg`."""
    import scipy.linalg  # noqa: PLC0415  (0.3 s)

    return scipy.linalg


def triangular_solve(
    a: Any,
    b: Any,
    *,
    left_side: bool = True,
    lower: bool = False,
    transpose_a: bool = False,
    conjugate_a: bool = False,
    unit_diagonal: bool = False,
) -> Any:
    """`op(a) @ x = b`, or `x @ op(a) = b`, by BLAS; zeros on the diagonal give inf or nan."""
    out = np.array(b, order="C")
    if not out.size:
        return out
    if conjugate_a and not transpose_a:
        a = np.conj(a)
    trsm = scipy_linalg().blas.get_blas_funcs("trsm", (a, b))
    trans = (2 if conjugate_a else 1) if transpose_a else 0
    stack = out.reshape(-1, *b.shape[-2:])
    coefficients = np.broadcast_to(a, (*b.shape[:-2], *a.shape[-2:])).reshape(-1, *a.shape[-2:])
    for matrix, x in zip(coefficients, stack, strict=True):
        # BLAS stores columns: `x.T`, from the other side, is solved where it lies.
        trsm(
            1.0, matrix.T, x.T, side=int(left_side), lower=int(not lower), trans_a=trans,
            diag=int(unit_diagonal), overwrite_b=1,
        )  # fmt: skip
    return out


def lu(a: Any, *, check_singular: bool) -> list[Any]:
    """L and U in one matrix, the row swapped with each row, and the order of rows they amount to.

    With `check_singular`, a zero on the diagonal of U raises as `numpy.linalg.solve` does.
    """
    m, n = a.shape[-2:]
    batch = a.shape[:-2]
    factors = np.array(a, order="C")
    pivots = np.zeros((*batch, min(m, n)), np.int32)
    if factors.size:
        getrf = scipy_linalg().lapack.get_lapack_funcs("getrf", (factors,))
        stacks = (factors.reshape(-1, m, n), pivots.reshape(-1, min(m, n)))
        for x, swaps in zip(*stacks, strict=True):
            x[...], swaps[...], info = getrf(x)
            if info > 0 and check_singular:
                raise np.linalg.LinAlgError("Singular matrix")
    return [factors, pivots, order_of_rows(pivots, m)]


def order_of_rows(pivots: Any, size: int) -> Any:
    """The numbers 0 to size - 1 after i was swapped with `pivots[i]`, in turn."""
    order = np.empty((*pivots.shape[:-1], size), np.int32)
    order[...] = np.arange(size)
    if pivots.size:
        stacks = (order.reshape(-1, size), pivots.reshape(-1, pivots.shape[-1]))
        for line, swaps in zip(*stacks, strict=True):
            for i, other in enumerate(swaps.tolist()):
                line[[i, other]] = line[[other, i]]
    return order


def solve_factored(factors: Any, order: Any, b: Any, *, transpose_a: bool) -> Any:
    """`op(a) @ x = b`, where the rows `order` of `a` are the product of `factors`."""
    index = np.broadcast_to(order[..., None], b.shape)
    if not transpose_a:
        b = triangular_solve(
            factors, np.take_along_axis(b, index, -2), lower=True, unit_diagonal=True
        )
        return triangular_solve(factors, b)
    b = triangular_solve(factors, b, transpose_a=True)
    b = triangular_solve(factors, b, transpose_a=True, lower=True, unit_diagonal=True)
    out = np.empty_like(b)
    np.put_along_axis(out, index, b, -2)
    return out


def cholesky_tangent(factor: Any, sym: Any) -> Any:
    """`L Phi(L^-1 S L^-H)`, S made Hermitian: see `ops.factorizations`."""
    inner = triangular_solve(factor, hermitian(sym), lower=True)
    inner = triangular_solve(
        factor, inner, left_side=False, lower=True, transpose_a=True, conjugate_a=True
    )
    return np.matmul(factor, half_lower(inner))


def cholesky_cotangent(factor: Any, ct: Any) -> Any:
    """The transpose of `cholesky_tangent`, which gives a Hermitian matrix."""
    inner = half_lower(np.matmul(np.swapaxes(factor, -1, -2), ct))
    inner = triangular_solve(factor, inner, lower=True, transpose_a=True)
    inner = triangular_solve(factor, inner, left_side=False, lower=True, conjugate_a=True)
    return hermitian(inner)


def half_lower(x: Any) -> Any:
    """The lower triangle with the diagonal halved: Murray's Phi."""
    return np.tril(x) - np.tril(np.triu(x)) / 2


def hermitian(x: Any) -> Any:
    """The nearest Hermitian matrix."""
    return (x + np.conj(np.swapaxes(x, -1, -2))) / 2
