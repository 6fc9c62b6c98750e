"""Linear equations: `triangular_solve`, and `solve_factored`, `log_determinant`, `determinant`.

The last three take a matrix together with its LU factors. They read the factors only, and are
differentiated in the matrix only: `solve(a, b)` factors `stop_gradient(a)` once, and the solves of
its derivative, of any order and either direction, use the same factors (as JAX's
`custom_linear_solve`). No inverse is formed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from functrans.core import Linear, Zero, get_aval
from functrans.ir import ShapedArray
from functrans.ops import axes, lapack_values, structural
from functrans.ops import elementwise as el
from functrans.ops import matrices as mat
from functrans.ops.indexing import gather, scatter
from functrans.ops.matrices import MatrixOperation


class TriangularSolve(MatrixOperation):
    """`x` with `op(a) @ x = b` (`left_side`), or `x @ op(a) = b`; `a` is triangular.

    Only the triangle named by `lower` is read, with `unit_diagonal` without its diagonal. `op` is
    the transpose (`transpose_a`), the conjugate (`conjugate_a`) or both.
    """

    def abstract_eval(
        self, a: ShapedArray, b: ShapedArray, *, left_side: bool, **_: Any
    ) -> ShapedArray:
        self.check_dtype(a, b)
        self.check_square(a)
        n = b.shape[-2 if left_side else -1] if b.ndim > 1 else -1
        if a.shape[:-2] != b.shape[:-2] or a.shape[-1] != n:
            raise ValueError(
                f"triangular_solve of {a} and {b}: a must be (..., n, n) and b "
                f"{'(..., n, k)' if left_side else '(..., k, n)'} with equal leading axes."
            )
        return b

    def impl(self, a: Any, b: Any, **params: Any) -> Any:
        return lapack_values.triangular_solve(a, b, **params)

    def jvp(self, primals: Sequence[Any], tangents: Sequence[Any], **params: Any) -> Any:
        (a, b), (t_a, t_b) = primals, tangents
        x = self(a, b, **params)
        if type(t_a) is Zero:
            return x, mat.no_tangent(x) if type(t_b) is Zero else self(a, t_b, **params)
        # op(a) x = b, so op(a) dx = db - op(da) x.
        moved = _op(_triangle(t_a, **params), **params)
        right = mat.product(moved, x) if params["left_side"] else mat.product(x, moved)
        right = el.neg(right) if type(t_b) is Zero else el.sub(t_b, right)
        return x, self(a, right, **params)

    def transpose(self, ct: Any, a: Any, b: Any, *, transpose_a: bool, **params: Any) -> list[Any]:
        if type(a) is Linear:
            raise TypeError(
                f"triangular_solve is not linear in the matrix {a.aval}; linear_transpose needs a "
                "linear function."
            )
        return [None, self(a, ct, transpose_a=not transpose_a, **params)]

    def batch(
        self, size: int, args: Sequence[Any], dims: Sequence[Any], *, left_side: bool, **params: Any
    ) -> Any:
        (a, b), (a_dim, b_dim) = args, dims
        if a_dim is not None or len(a.shape) > 2:
            return super().batch(size, args, dims, left_side=left_side, **params)
        if left_side:
            x = self(a, mat.columns_folded(b, b_dim), left_side=True, **params)
            return mat.columns_unfolded(x, size)
        b = axes.moveaxis(b, b_dim, 0)
        rows = structural.reshape(b, shape=(b.shape[0] * b.shape[1], b.shape[2]))
        return structural.reshape(self(a, rows, left_side=False, **params), shape=b.shape), 0


def _triangle(x: Any, *, lower: bool, unit_diagonal: bool, **_: Any) -> Any:
    return mat.lower(x, -1 if unit_diagonal else 0) if lower else mat.upper(x, int(unit_diagonal))


def _op(x: Any, *, transpose_a: bool, conjugate_a: bool, **_: Any) -> Any:
    x = mat.transposed(x) if transpose_a else x
    return mat.conjugated(x) if conjugate_a else x


triangular_solve = TriangularSolve("triangular_solve")


def solved(
    a: Any,
    b: Any,
    *,
    left_side: bool = True,
    lower: bool = False,
    transpose_a: bool = False,
    conjugate_a: bool = False,
    unit_diagonal: bool = False,
) -> Any:
    """`triangular_solve` with its usual parameters; a conjugate of real numbers is none."""
    return triangular_solve(
        a,
        b,
        left_side=left_side,
        lower=lower,
        transpose_a=transpose_a,
        conjugate_a=conjugate_a and a.dtype.kind == "c",
        unit_diagonal=unit_diagonal,
    )


# ---------------------------------------------------------------------------- by LU factors


def rows_taken(x: Any, order: Any) -> Any:
    """Row `order[i]` of `x` as row i."""
    return gather(x, order, batch_dims=len(order.shape) - 1, mode="promise_in_bounds")


def rows_put(x: Any, order: Any) -> Any:
    """Row i of `x` as row `order[i]`."""
    batch = len(order.shape) - 1
    return scatter(x, x, order, batch_dims=batch, mode="promise_in_bounds", unique=True)


class SolveFactored(MatrixOperation):
    """`op(a) @ x = b` by the factors of `a`: operands a, factors, order of the rows, b."""

    def abstract_eval(
        self,
        a: ShapedArray,
        factors: ShapedArray,
        order: ShapedArray,
        b: ShapedArray,
        *,
        transpose_a: bool,
    ) -> ShapedArray:
        self.check_dtype(a, factors, b)
        self.check_square(a)
        if a.shape[:-2] != b.shape[:-2] or b.ndim < 2 or a.shape[-1] != b.shape[-2]:
            raise ValueError(
                f"solve_factored of {a} and {b}: a must be (..., n, n) and b (..., n, k) with "
                "equal leading axes. functrans.numpy.linalg.solve broadcasts; ops does not."
            )
        return b

    def impl(self, a: Any, factors: Any, order: Any, b: Any, *, transpose_a: bool) -> Any:
        with np.errstate(all="ignore"):
            return lapack_values.solve_factored(factors, order, b, transpose_a=transpose_a)

    def jvp(self, primals: Sequence[Any], tangents: Sequence[Any], *, transpose_a: bool) -> Any:
        (a, factors, order, _), (t_a, _, _, t_b) = primals, tangents
        x = self(*primals, transpose_a=transpose_a)
        if type(t_a) is Zero and type(t_b) is Zero:
            return x, mat.no_tangent(x)
        right = t_b
        if type(t_a) is not Zero:
            moved = mat.product(mat.transposed(t_a) if transpose_a else t_a, x)
            right = el.neg(moved) if type(t_b) is Zero else el.sub(t_b, moved)
        return x, self(a, factors, order, right, transpose_a=transpose_a)

    def transpose(
        self, ct: Any, a: Any, factors: Any, order: Any, b: Any, *, transpose_a: bool
    ) -> list[Any]:
        return [None, None, None, self(a, factors, order, ct, transpose_a=not transpose_a)]

    def batch(
        self, size: int, args: Sequence[Any], dims: Sequence[Any], *, transpose_a: bool
    ) -> Any:
        *known, b = args
        if any(d is not None for d in dims[:3]) or len(b.shape) > 3:
            return super().batch(size, args, dims, transpose_a=transpose_a)
        x = self(*known, mat.columns_folded(b, dims[3]), transpose_a=transpose_a)
        return mat.columns_unfolded(x, size)


solve_factored = SolveFactored("solve_factored")

# ---------------------------------------------------------------------------- determinants


def trace_of_solution(a: Any, factors: Any, order: Any, t: Any) -> Any:
    """`trace(a^-1 t)`: Jacobi's formula for the derivative of log det a."""
    quotient = solve_factored(a, factors, order, t, transpose_a=False)
    return structural.reduce_sum(mat.diagonal(quotient), axes=(len(t.shape) - 2,))


class LogDeterminant(MatrixOperation):
    """The sign and the log of the absolute value of det a: operands a, factors, pivots, order."""

    multiple_results = True

    def abstract_eval(
        self, a: ShapedArray, factors: ShapedArray, pivots: ShapedArray, order: ShapedArray
    ) -> list[ShapedArray]:
        self.check_dtype(a, factors)
        self.check_square(a)
        batch = a.shape[:-2]
        return [ShapedArray(batch, a.dtype), ShapedArray(batch, mat.real_of(a.dtype))]

    def impl(self, a: Any, factors: Any, pivots: Any, order: Any) -> list[Any]:
        diagonal = np.diagonal(factors, axis1=-2, axis2=-1)
        size = np.abs(diagonal)
        with np.errstate(all="ignore"):
            turned = np.prod(np.where(size == 0, diagonal, diagonal / size), axis=-1)
            total = np.sum(np.log(size), axis=-1)
        sign = (turned * parity(pivots)).astype(a.dtype)[()]
        return [sign, np.asarray(total)[()]]

    def jvp(self, primals: Sequence[Any], tangents: Sequence[Any]) -> Any:
        a, factors, _, order = primals
        sign, size = self(*primals)
        if type(tangents[0]) is Zero:
            return self.still((sign, size))
        t = trace_of_solution(a, factors, order, tangents[0])
        if a.dtype.kind != "c":
            return (sign, size), (mat.no_tangent(sign), t)
        turn = el.complex(axes.zeros(get_aval(size)), el.imag(t))
        return (sign, size), (el.mul(sign, turn), el.real(t))


def parity(pivots: Any) -> Any:
    """The sign of the permutation that swaps each row i with row `pivots[i]`."""
    swaps = np.sum(pivots != np.arange(pivots.shape[-1]), axis=-1)
    return 1 - 2 * (swaps % 2)


class Determinant(MatrixOperation):
    """det a: operands a, factors, pivots, order."""

    def abstract_eval(
        self, a: ShapedArray, factors: ShapedArray, pivots: ShapedArray, order: ShapedArray
    ) -> ShapedArray:
        self.check_dtype(a, factors)
        self.check_square(a)
        return ShapedArray(a.shape[:-2], a.dtype)

    def impl(self, a: Any, factors: Any, pivots: Any, order: Any) -> Any:
        found = np.prod(np.diagonal(factors, axis1=-2, axis2=-1), axis=-1) * parity(pivots)
        return np.asarray(found).astype(a.dtype)[()]

    def jvp(self, primals: Sequence[Any], tangents: Sequence[Any]) -> Any:
        y = self(*primals)
        if type(tangents[0]) is Zero:
            return y, mat.no_tangent(y)
        a, factors, pivots, order = primals
        return y, _adjugate_trace(a, factors, pivots, order, tangents[0])


def _adjugate_trace(a: Any, factors: Any, pivots: Any, order: Any, t: Any) -> Any:
    """`trace(adj(a) t)`, the derivative of det a.

    That is det(a) trace(a^-1 t) where `a` is regular. Where the last pivot is 0 and no other,
    adj(a) is the outer product of the null vectors, times the product of the other pivots.
    """
    shape = a.shape
    if shape[-1] == 0:
        return axes.zeros(get_aval(t).update(shape=shape[:-2]))
    one, zero = a.dtype.type(1), axes.zero_number(a)
    is_diagonal = el.and_(mat.is_below(shape), el.not_(mat.is_below(shape, -1)))
    pivot_is_zero = el.and_(is_diagonal, el.eq(factors, zero))
    filled = el.select(pivot_is_zero, axes.filled(one, shape), factors)
    regular = el.mul(determinant(a, factors, pivots, order), trace_of_solution(a, filled, order, t))
    last = mat.last_unit_vector(a)
    right = solved(filled, last)
    left = solved(filled, last, transpose_a=True, lower=True, unit_diagonal=True)
    null = mat.product(rows_put(left, order), mat.transposed(right))
    is_last = el.and_(pivot_is_zero, mat.in_last_row(shape))
    others = determinant(a, el.select(is_last, axes.filled(one, shape), factors), pivots, order)
    found = structural.reduce_sum(el.mul(null, t), axes=(len(shape) - 2, len(shape) - 1))
    is_singular = el.eq(determinant(a, factors, pivots, order), zero)
    return el.add(
        regular, el.mul(el.select(is_singular, others, axes.zeros(get_aval(others))), found)
    )


log_determinant = LogDeterminant("log_determinant")
determinant = Determinant("determinant")

__all__ = ["determinant", "log_determinant", "solve_factored", "triangular_solve"]
