"""Cholesky, LU and QR.

The derivative of the Cholesky factor is `dL = L Phi(L^-1 dA L^-H)`, where Phi takes the lower
triangle and halves the diagonal (Murray 2016, "Differentiation of the Cholesky decomposition",
eq. 8). It is a linear primitive, `cholesky_tangent`, because its transpose, `cholesky_cotangent`,
can be had for a quarter of the products that transposing step by step would make (ibid., 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from functrans.core import Linear, Zero
from functrans.ir import ShapedArray
from functrans.ops import axes, lapack_values, structural
from functrans.ops import elementwise as el
from functrans.ops import matrices as mat
from functrans.ops.matrices import MatrixOperation
from functrans.ops.solves import rows_taken, solve_factored, solved

_INT32 = np.dtype(np.int32)

# ---------------------------------------------------------------------------- Cholesky


class Cholesky(MatrixOperation):
    """The lower triangular L with `L @ L.mH = a`. Only the lower triangle of `a` is read.

    The derivative is that along Hermitian changes of `a`: gradients are Hermitian, as in JAX.
    """

    def abstract_eval(self, a: ShapedArray) -> ShapedArray:
        self.check_dtype(a)
        self.check_square(a)
        return a

    def impl(self, a: Any) -> Any:
        return np.linalg.cholesky(a)

    def jvp(self, primals: Sequence[Any], tangents: Sequence[Any]) -> Any:
        factor = self(primals[0])
        if type(tangents[0]) is Zero:
            return factor, mat.no_tangent(factor)
        return factor, cholesky_tangent(factor, tangents[0])


class CholeskyTangent(MatrixOperation):
    """The tangent of a Cholesky factor L along S, or rather along (S + S^H) / 2."""

    def abstract_eval(self, factor: ShapedArray, s: ShapedArray) -> ShapedArray:
        self.check_dtype(factor, s)
        return s

    def impl(self, factor: Any, s: Any) -> Any:
        return lapack_values.cholesky_tangent(factor, s)

    def jvp(self, primals: Sequence[Any], tangents: Sequence[Any]) -> Any:
        (factor, s), (t_factor, t_s) = primals, tangents
        y = self(factor, s)
        if type(t_factor) is Zero:
            return y, mat.no_tangent(y) if type(t_s) is Zero else self(factor, t_s)
        # With U = dL L^-1: dy = tangent of dS - U S - (U S)^H, and U y from the L in front.
        turn = solved(factor, t_factor, left_side=False, lower=True)
        along = mat.scaled(mat.product(turn, mat.hermitian(s)), -2.0)
        along = along if type(t_s) is Zero else el.add(t_s, along)
        return y, el.add(self(factor, along), mat.product(turn, y))

    def transpose(self, ct: Any, factor: Any, s: Any) -> list[Any]:
        _refuse_linear(self.name, factor)
        return [None, cholesky_cotangent(factor, ct)]


class CholeskyCotangent(MatrixOperation):
    """The transpose of `cholesky_tangent`; only the lower triangle of the cotangent is read."""

    def abstract_eval(self, factor: ShapedArray, ct: ShapedArray) -> ShapedArray:
        self.check_dtype(factor, ct)
        return ct

    def impl(self, factor: Any, ct: Any) -> Any:
        return lapack_values.cholesky_cotangent(factor, ct)

    def jvp(self, primals: Sequence[Any], tangents: Sequence[Any]) -> Any:
        (factor, ct), (t_factor, t_ct) = primals, tangents
        y = self(factor, ct)
        if type(t_factor) is Zero:
            return y, mat.no_tangent(y) if type(t_ct) is Zero else self(factor, t_ct)
        # The transpose of the rule above.
        turn = mat.transposed(solved(factor, t_factor, left_side=False, lower=True))
        along = mat.product(turn, mat.lower(ct))
        along = along if type(t_ct) is Zero else el.add(t_ct, along)
        around = mat.scaled(mat.hermitian(mat.product(turn, y)), 2.0)
        return y, el.sub(self(factor, along), around)

    def transpose(self, ct: Any, factor: Any, s: Any) -> list[Any]:
        _refuse_linear(self.name, factor)
        return [None, cholesky_tangent(factor, ct)]


def _refuse_linear(name: str, factor: Any) -> None:
    if type(factor) is Linear:
        raise TypeError(
            f"{name} is not linear in the factor {factor.aval}; linear_transpose needs a linear "
            "function."
        )


cholesky = Cholesky("cholesky")
cholesky_tangent = CholeskyTangent("cholesky_tangent")
cholesky_cotangent = CholeskyCotangent("cholesky_cotangent")

# ---------------------------------------------------------------------------- LU


class LU(MatrixOperation):
    """`a[order] = L @ U`, for matrices of any shape: results are L\\U, pivots and order.

    L has a unit diagonal, which is not stored. Row i was swapped with row `pivots[i]`, in turn; the
    integers are int32, as in JAX. `check_singular`: an exact zero on the diagonal of U raises.
    """

    multiple_results = True

    def abstract_eval(self, a: ShapedArray, *, check_singular: bool = False) -> list[ShapedArray]:
        self.check_dtype(a)
        if a.ndim < 2:
            raise ValueError(f"lu needs matrices on the last two axes, got {a}.")
        *batch, m, n = a.shape
        return [a, ShapedArray((*batch, min(m, n)), _INT32), ShapedArray((*batch, m), _INT32)]

    def impl(self, a: Any, *, check_singular: bool = False) -> list[Any]:
        return lapack_values.lu(a, check_singular=check_singular)

    def jvp(
        self, primals: Sequence[Any], tangents: Sequence[Any], *, check_singular: bool = False
    ) -> Any:
        factors, pivots, order = self(primals[0], check_singular=check_singular)
        still = [mat.no_tangent(factors), mat.no_tangent(pivots), mat.no_tangent(order)]
        if type(tangents[0]) is not Zero:
            still[0] = _lu_tangent(factors, rows_taken(tangents[0], order))
        return [factors, pivots, order], still


def _lu_tangent(factors: Any, t: Any) -> Any:
    """With F = L^-1 dA U^-1: dL = L tril(F, -1), dU = triu(F) U (Giles 2008, for square A).

    Factors of other shapes are made square by ones on the diagonal.
    """
    m, n = factors.shape[-2:]
    lower = _squared(mat.lower(factors, -1), m)
    upper = _squared(mat.upper(factors), n)
    lower = el.add(lower, mat.identity_like(lower))
    upper = _with_ones_from(upper, min(m, n))
    inner = solved(lower, t, lower=True, unit_diagonal=True)
    inner = solved(upper, inner, left_side=False)
    d_lower = mat.product(lower, _padded(mat.lower(inner, -1), m, m))
    d_upper = mat.product(_padded(mat.upper(inner), n, n), upper)
    return el.add(_padded(d_lower, m, n), _padded(d_upper, m, n))


def _squared(x: Any, n: int) -> Any:
    return _padded(x, n, n)


def _padded(x: Any, m: int, n: int) -> Any:
    """`x` cut, or with zeros added, to m rows and n columns."""
    rows, columns = x.shape[-2:]
    if (rows, columns) == (m, n):
        return x
    config = ((0, 0, 0),) * (len(x.shape) - 2) + ((0, m - rows, 0), (0, n - columns, 0))
    return structural.pad(x, axes.zero_number(x), config=config)


def _with_ones_from(x: Any, start: int) -> Any:
    """`x` plus ones on its diagonal from row `start` on."""
    n = x.shape[-1]
    if start == n:
        return x
    block = mat.identity_like(
        structural.slice_axis(
            structural.slice_axis(x, len(x.shape) - 2, start, n), len(x.shape) - 1, start, n
        )
    )
    config = ((0, 0, 0),) * (len(x.shape) - 2) + ((start, 0, 0), (start, 0, 0))
    return el.add(x, structural.pad(block, axes.zero_number(x), config=config))


class PivotsToOrder(MatrixOperation):
    """The order of `size` rows after row i was swapped with row `pivots[i]`, in turn."""

    def abstract_eval(self, pivots: ShapedArray, *, size: int) -> ShapedArray:
        if pivots.dtype.kind not in "iu" or not pivots.ndim or pivots.shape[-1] > size:
            raise TypeError(f"pivots_to_order needs at most {size} integers, got {pivots}.")
        return ShapedArray((*pivots.shape[:-1], size), _INT32)

    def impl(self, pivots: Any, *, size: int) -> Any:
        return lapack_values.order_of_rows(pivots, size)

    def jvp(self, primals: Sequence[Any], tangents: Sequence[Any], *, size: int) -> Any:
        order = self(primals[0], size=size)
        return order, mat.no_tangent(order)


lu = LU("lu")
pivots_to_order = PivotsToOrder("pivots_to_order")


def solve(a: Any, b: Any, *, check_singular: bool = True) -> Any:
    """`x` with `a @ x = b`: `a` is factored once for the value and all derivatives."""
    factors, _, order = lu(el.stop_gradient(a), check_singular=check_singular)
    return solve_factored(a, factors, order, b, transpose_a=False)


# ---------------------------------------------------------------------------- QR


class QR(MatrixOperation):
    """`a = q @ r` with orthonormal columns of q and upper triangular r: results q and r.

    q is (..., m, k) with k = m if `full_matrices` else min(m, n).
    """

    multiple_results = True

    def abstract_eval(self, a: ShapedArray, *, full_matrices: bool) -> list[ShapedArray]:
        self.check_dtype(a)
        if a.ndim < 2:
            raise ValueError(f"qr needs matrices on the last two axes, got {a}.")
        *batch, m, n = a.shape
        k = m if full_matrices else min(m, n)
        return [ShapedArray((*batch, m, k), a.dtype), ShapedArray((*batch, k, n), a.dtype)]

    def impl(self, a: Any, *, full_matrices: bool) -> list[Any]:
        return list(np.linalg.qr(a, mode="complete" if full_matrices else "reduced"))

    def jvp(self, primals: Sequence[Any], tangents: Sequence[Any], *, full_matrices: bool) -> Any:
        a, t = primals[0], tangents[0]
        q, r = self(a, full_matrices=full_matrices)
        if type(t) is Zero:
            return self.still((q, r))
        m, n = a.shape[-2:]
        if full_matrices and m > n:
            known = mat.leading_columns(q, n)
            d_known, d_r = _qr_tangent(known, mat.leading_rows(r, n), t)
            return (q, r), (mat.rest_of_basis(d_known, known, q), _padded(d_r, m, n))
        if m >= n:
            return (q, r), _qr_tangent(q, r, t)
        # a = [a1 a2] with a square a1 = q r1; r2 = q^H a2.
        first, rest = (structural.slice_axis(t, len(t.shape) - 1, *s) for s in ((0, m), (m, n)))
        r_first, r_rest = (structural.slice_axis(r, len(r.shape) - 1, *s) for s in ((0, m), (m, n)))
        d_q, d_first = _qr_tangent(q, r_first, first)
        # q dr2 = da2 - dq r2
        d_rest = mat.product(mat.adjoint(q), el.sub(rest, mat.product(d_q, r_rest)))
        return (q, r), (d_q, structural.concatenate(d_first, d_rest, dimension=len(r.shape) - 1))


def _qr_tangent(q: Any, r: Any, t: Any) -> list[Any]:
    """For m >= n, with W = q^H da r^-1 and the skew X below whose lower triangle is W's:
    dq = q (X - W) + da r^-1 and dr = (W - X) r (Walter & Lehmann 2012, "Algorithmic
    differentiation of linear algebra functions", eq. 4; the phase of r's diagonal stays).
    """
    t_r = solved(r, t, left_side=False)
    inner = mat.product(mat.adjoint(q), t_r)
    below = mat.lower(inner, -1)
    skew = el.sub(below, mat.adjoint(below))
    if q.dtype.kind == "c":
        diagonal = mat.on_diagonal(inner)
        skew = el.add(skew, mat.scaled(el.sub(diagonal, mat.conjugated(diagonal)), 0.5))
    d_q = el.add(mat.product(q, el.sub(skew, inner)), t_r)
    return [d_q, mat.product(el.sub(inner, skew), r)]


qr = QR("qr")

__all__ = [
    "cholesky",
    "cholesky_cotangent",
    "cholesky_tangent",
    "lu",
    "pivots_to_order",
    "qr",
    "solve",
]
