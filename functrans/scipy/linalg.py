"""`scipy.linalg`, traceable: the functions that JAX has too, with SciPy's signatures.

SciPy's own cannot be intercepted, so on traced values use those of this module. Options that only
save memory or checks (`overwrite_a`, `check_finite`) are taken and make no difference. Matrices may
be stacked along axes in front.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from functrans import numpy as fnp
from functrans import ops
from functrans.numpy.promotion import insert_axes
from functrans.numpy.solvers import matrix_operand, operands, square_operand
from functrans.ops import matrices, solves

det = fnp.linalg.det
inv = fnp.linalg.inv
pinv = fnp.linalg.pinv


def _columns(b: Any) -> tuple[Any, bool]:
    """The right-hand side as a matrix, and whether it was a vector."""
    return (insert_axes(b, (1,)), True) if b.ndim == 1 else (b, False)


def _as_given(x: Any, is_vector: bool) -> Any:
    return ops.reshape(x, shape=x.shape[:-1]) if is_vector else x


# ---------------------------------------------------------------------------- triangular, Cholesky


def solve_triangular(
    a: Any,
    b: Any,
    trans: Any = 0,
    lower: bool = False,
    unit_diagonal: bool = False,
    overwrite_b: bool = False,
    check_finite: bool = True,
) -> Any:
    """`op(a) @ x = b` for triangular `a`; `trans` is 0 or "N", 1 or "T", 2 or "C".

    A zero on the diagonal gives inf or nan, not an error.
    """
    if trans not in (0, 1, 2, "N", "T", "C"):
        raise ValueError(f"trans must be 0, 1, 2, 'N', 'T' or 'C', got {trans!r}.")
    a, b = operands(a, b)
    b, is_vector = _columns(b)
    x = solves.solved(
        square_operand(a),
        b,
        lower=bool(lower),
        transpose_a=trans not in (0, "N"),
        conjugate_a=trans in (2, "C"),
        unit_diagonal=bool(unit_diagonal),
    )
    return _as_given(x, is_vector)


def cholesky(
    a: Any, lower: bool = False, overwrite_a: bool = False, check_finite: bool = True
) -> Any:
    """The Cholesky factor, upper triangular by default; `lower` also says what is read of `a`."""
    return fnp.linalg.cholesky(a, upper=not lower)


def cho_factor(
    a: Any, lower: bool = False, overwrite_a: bool = False, check_finite: bool = True
) -> tuple[Any, bool]:
    """What `cho_solve` takes; the other triangle is zero, not rubbish as SciPy's."""
    return cholesky(a, lower), bool(lower)


def cho_solve(
    c_and_lower: tuple[Any, bool], b: Any, overwrite_b: bool = False, check_finite: bool = True
) -> Any:
    """`a @ x = b`, with the result of `cho_factor(a)`."""
    c, lower = c_and_lower
    c, b = operands(c, b)
    b, is_vector = _columns(b)
    x = solves.solved(c, b, lower=lower, transpose_a=not lower, conjugate_a=not lower)
    x = solves.solved(c, x, lower=lower, transpose_a=lower, conjugate_a=lower)
    return _as_given(x, is_vector)


# ---------------------------------------------------------------------------- LU


def lu_factor(a: Any, overwrite_a: bool = False, check_finite: bool = True) -> tuple[Any, Any]:
    """L\\U in one matrix, and the pivots."""
    (x,) = operands(a)
    factors, pivots, _ = ops.lu(matrix_operand(x))
    return factors, pivots


def lu_solve(
    lu_and_piv: tuple[Any, Any],
    b: Any,
    trans: int = 0,
    overwrite_b: bool = False,
    check_finite: bool = True,
) -> Any:
    """`op(a) @ x = b`, with the result of `lu_factor(a)`; `trans` is 0, 1 or 2 (conjugate)."""
    factors, b = operands(lu_and_piv[0], b)
    order = ops.pivots_to_order(lu_and_piv[1], size=factors.shape[-1])
    b, is_vector = _columns(b)
    conjugate = trans == 2
    if trans == 0:
        x = solves.solved(factors, solves.rows_taken(b, order), lower=True, unit_diagonal=True)
        return _as_given(solves.solved(factors, x), is_vector)
    x = solves.solved(factors, b, transpose_a=True, conjugate_a=conjugate)
    x = solves.solved(
        factors, x, transpose_a=True, conjugate_a=conjugate, lower=True, unit_diagonal=True
    )
    return _as_given(solves.rows_put(x, order), is_vector)


def lu(
    a: Any, permute_l: bool = False, overwrite_a: bool = False, check_finite: bool = True
) -> tuple[Any, ...]:
    """`a = p @ l @ u`: p, l and u, or `p @ l` and u."""
    (x,) = operands(a)
    factors, _, order = ops.lu(matrix_operand(x))
    m, n = x.shape[-2:]
    k = min(m, n)
    lower = matrices.lower(factors[..., :, :k], -1)
    lower = ops.add(lower, matrices.identity_like(lower))
    upper = matrices.upper(factors[..., :k, :])
    if permute_l:
        return solves.rows_put(lower, order), upper
    shape = (*x.shape[:-1], m)
    index = ops.iota(dtype=order.dtype, shape=shape, dimension=len(shape) - 2)
    placed = ops.eq(index, matrices.spread_row(order, shape))
    return ops.convert_element_type(placed, dtype=matrices.real_of(x.dtype)), lower, upper


def solve(
    a: Any,
    b: Any,
    lower: bool = False,
    overwrite_a: bool = False,
    overwrite_b: bool = False,
    check_finite: bool = True,
    assume_a: str | None = None,
    transposed: bool = False,
) -> Any:
    """`a @ x = b`; with `assume_a` "pos" by Cholesky, else by LU."""
    a, b = operands(a, b)
    if transposed:
        a = matrices.transposed(a)
    if assume_a in ("pos", "positive definite"):
        return cho_solve(cho_factor(a, lower), b)
    return fnp.linalg.solve(a, b)


# ---------------------------------------------------------------------------- other


def block_diag(*arrs: Any) -> Any:
    """The arrays, of at most two axes, along the diagonal of a matrix of zeros."""
    blocks = [fnp.atleast_2d(x) for x in arrs or ([],)]
    if any(x.ndim > 2 for x in blocks):
        raise ValueError("block_diag takes arrays of at most two axes.")
    width = sum(x.shape[1] for x in blocks)
    rows, at = [], 0
    for x in blocks:
        rows.append(fnp.pad(x, ((0, 0), (at, width - at - x.shape[1]))))
        at += x.shape[1]
    return fnp.concatenate(rows)


# Coefficients and reach of the Pade approximant of degree 13 (Higham 2005, table 2.3).
_PADE13 = (
    64764752532480000.0, 32382376266240000.0, 7771770303897600.0, 1187353796428800.0,
    129060195264000.0, 10559470521600.0, 670442572800.0, 33522128640.0, 1323241920.0,
    40840800.0, 960960.0, 16380.0, 182.0, 1.0,
)  # fmt: skip
_PADE13_REACH = 5.371920351148152


def expm(A: Any, *, max_squarings: int = 16) -> Any:
    """The exponential of a matrix, by scaling and squaring.

    As loops of unknown length cannot be traced, `max_squarings` products are always made; a matrix
    of a norm above 5.4 * 2**max_squarings gives nan.
    """
    (a,) = operands(A)
    square_operand(a)
    norm = fnp.max(fnp.sum(fnp.abs(a), axis=-2), axis=-1, initial=0)
    with np.errstate(divide="ignore"):
        count = fnp.maximum(0, fnp.ceil(fnp.log2(ops.stop_gradient(norm) / _PADE13_REACH)))
    scale = fnp.exp2(-count)[..., None, None]
    result = _pade13(a * fnp.astype(scale, a.dtype))
    for i in range(max_squarings):
        result = fnp.where((count > i)[..., None, None], result @ result, result)
    return fnp.where((count > max_squarings)[..., None, None], np.nan, result)


def _pade13(a: Any) -> Any:
    c = [a.dtype.type(x) for x in _PADE13]
    unit = matrices.identity_like(a)
    a2 = a @ a
    a4 = a2 @ a2
    a6 = a4 @ a2
    odd = a6 @ (c[13] * a6 + c[11] * a4 + c[9] * a2)
    odd = a @ (odd + c[7] * a6 + c[5] * a4 + c[3] * a2 + c[1] * unit)
    even = a6 @ (c[12] * a6 + c[10] * a4 + c[8] * a2)
    even = even + c[6] * a6 + c[4] * a4 + c[2] * a2 + c[0] * unit
    return fnp.linalg.solve(even - odd, even + odd)


__all__ = [
    "block_diag",
    "cho_factor",
    "cho_solve",
    "cholesky",
    "det",
    "expm",
    "inv",
    "lu",
    "lu_factor",
    "lu_solve",
    "pinv",
    "solve",
    "solve_triangular",
]
