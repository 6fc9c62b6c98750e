"""Eigenvalues and singular values, with their vectors, and the pseudo-inverse.

Vectors move by `F * (V^H dA V)` with `F[i, j] = 1 / (w[j] - w[i])` (Giles 2008, 3.1). Where two
values are equal up to rounding their vectors are any basis of one space: F is 0 there, which is
right for whatever does not depend on the choice of the basis, and finite for the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from functrans import dtypes
from functrans.core import Zero, get_aval
from functrans.ir import ShapedArray
from functrans.ops import axes, structural
from functrans.ops import elementwise as el
from functrans.ops import matrices as mat
from functrans.ops.factorizations import solve
from functrans.ops.matrices import MatrixOperation
from functrans.ops.reductions import argmax, reduce_max

# ---------------------------------------------------------------------------- Hermitian


class Eigh(MatrixOperation):
    """Eigenvalues, ascending, and eigenvectors of a Hermitian matrix: results w and v, or w alone.

    Only the triangle named by `lower` is read; the derivative is that along Hermitian changes.
    """

    multiple_results = True

    def abstract_eval(self, a: ShapedArray, *, lower: bool, vectors: bool) -> list[ShapedArray]:
        self.check_dtype(a)
        self.check_square(a)
        w = ShapedArray(a.shape[:-1], mat.real_of(a.dtype))
        return [w, a] if vectors else [w]

    def impl(self, a: Any, *, lower: bool, vectors: bool) -> list[Any]:
        uplo = "L" if lower else "U"
        return list(np.linalg.eigh(a, uplo)) if vectors else [np.linalg.eigvalsh(a, uplo)]

    def jvp(
        self, primals: Sequence[Any], tangents: Sequence[Any], *, lower: bool, vectors: bool
    ) -> Any:
        a, t = primals[0], tangents[0]
        if type(t) is Zero:
            return self.still(self(a, lower=lower, vectors=vectors))
        w, v = self(a, lower=lower, vectors=True)
        turned = mat.product(mat.adjoint(v), mat.product(mat.hermitian(t), v))
        d_w = _real(mat.diagonal(turned))
        if not vectors:
            return [w], [d_w]
        return [w, v], [d_w, mat.product(v, el.mul(_like(_inverse_gaps(w), turned), turned))]


def _inverse_gaps(w: Any) -> Any:
    """`1 / (w[j] - w[i])`, 0 where that is no more than rounding of the greatest value."""
    shape = (*w.shape, w.shape[-1])
    gap = el.sub(mat.spread_row(w, shape), mat.spread_column(w, shape))
    return reciprocal_or_zero(gap, _rounding(w, shape))


def _rounding(w: Any, shape: Sequence[int]) -> Any:
    """The size of errors in the values `w` of each matrix, repeated to `shape`."""
    n = w.shape[-1]
    if not n:
        return axes.filled(axes.zero_number(w), tuple(shape))
    largest = reduce_max(el.abs(w), axes=(len(w.shape) - 1,))
    bound = mat.scaled(el.stop_gradient(largest), float(np.finfo(w.dtype).eps * n))
    return structural.broadcast_in_dim(
        bound, shape=tuple(shape), broadcast_dimensions=tuple(range(len(w.shape) - 1))
    )


def reciprocal_or_zero(x: Any, bound: Any) -> Any:
    """1 / x where |x| > bound, else 0; differentiable as written."""
    is_far = el.gt(el.abs(x), bound)
    one = axes.filled(x.dtype.type(1), x.shape)
    return el.select(is_far, el.reciprocal(el.select(is_far, x, one)), axes.zero_number(x))


def _real(x: Any) -> Any:
    return el.real(x) if x.dtype.kind == "c" else x


def _like(x: Any, y: Any) -> Any:
    return x if x.dtype == y.dtype else el.convert_element_type(x, dtype=y.dtype)


# ---------------------------------------------------------------------------- singular values


class SVD(MatrixOperation):
    """`a = u @ diag(s) @ vh` with s descending: results u, s, vh, or s alone.

    With `full_matrices` u and vh are square, without they have min(m, n) columns and rows.
    """

    multiple_results = True

    def abstract_eval(
        self, a: ShapedArray, *, full_matrices: bool, compute_uv: bool
    ) -> list[ShapedArray]:
        self.check_dtype(a)
        if a.ndim < 2:
            raise ValueError(f"svd needs matrices on the last two axes, got {a}.")
        *batch, m, n = a.shape
        k = min(m, n)
        s = ShapedArray((*batch, k), mat.real_of(a.dtype))
        if not compute_uv:
            return [s]
        rows, columns = (m, n) if full_matrices else (k, k)
        return [a.update(shape=(*batch, m, rows)), s, a.update(shape=(*batch, columns, n))]

    def impl(self, a: Any, *, full_matrices: bool, compute_uv: bool) -> list[Any]:
        found = np.linalg.svd(a, full_matrices=full_matrices, compute_uv=compute_uv)
        return list(found) if compute_uv else [found]

    def jvp(
        self,
        primals: Sequence[Any],
        tangents: Sequence[Any],
        *,
        full_matrices: bool,
        compute_uv: bool,
    ) -> Any:
        a, t = primals[0], tangents[0]
        if type(t) is Zero:
            return self.still(self(a, full_matrices=full_matrices, compute_uv=compute_uv))
        found = self(a, full_matrices=full_matrices and compute_uv, compute_uv=True)
        k = min(a.shape[-2:])
        u, s, vh = mat.leading_columns(found[0], k), found[1], mat.leading_rows(found[2], k)
        turned = mat.product(mat.adjoint(u), mat.product(t, mat.adjoint(vh)))
        d_s = _real(mat.diagonal(turned))
        if not compute_uv:
            return [s], [d_s]
        d_u, d_v = _svd_tangents(u, s, vh, t, turned)
        if full_matrices:
            d_u = mat.rest_of_basis(d_u, u, found[0])
            d_v = mat.rest_of_basis(d_v, mat.adjoint(vh), mat.adjoint(found[2]))
        return found, [d_u, d_s, mat.adjoint(d_v)]


def _svd_tangents(u: Any, s: Any, vh: Any, t: Any, turned: Any) -> tuple[Any, Any]:
    """With W = u^H da v: du = u (F * (W S + S W^H)) and dv = v (F * (S W + W^H S)), where
    F[i, j] = 1 / (s[j]^2 - s[i]^2); what da adds outside of the two spaces; and, for complex
    numbers, the phase that keeps u^H da v real (Townsend 2016, "Differentiating the SVD").
    """
    shape = turned.shape
    row, column = mat.spread_row(s, shape), mat.spread_column(s, shape)
    bound = _rounding(s, shape)
    far = el.mul(
        reciprocal_or_zero(el.sub(row, column), bound),
        reciprocal_or_zero(el.add(row, column), bound),
    )
    far = _like(far, turned)
    by_row, by_column = mat.times_columns(turned, _like(s, u)), mat.times_rows(turned, _like(s, u))
    inside_u = el.mul(far, el.add(by_row, mat.adjoint(by_row)))
    inside_v = el.mul(far, el.add(by_column, mat.adjoint(by_column)))
    inverse = _like(reciprocal_or_zero(s, _rounding(s, s.shape)), u)
    if u.dtype.kind == "c":
        phase = mat.scaled(el.sub(turned, mat.adjoint(turned)), 0.5)
        inside_u = el.add(inside_u, mat.times_columns(mat.on_diagonal(phase), inverse))
    d_u = mat.product(u, inside_u)
    d_v = mat.product(mat.adjoint(vh), inside_v)
    m, n = t.shape[-2:]
    if m > n:
        d_u = el.add(d_u, _outside(u, mat.product(t, mat.adjoint(vh)), inverse))
    if n > m:
        d_v = el.add(d_v, _outside(mat.adjoint(vh), mat.product(mat.adjoint(t), u), inverse))
    return d_u, d_v


def _outside(u: Any, moved: Any, inverse: Any) -> Any:
    """The part of `moved` outside of the space of `u`, column j times `inverse[j]`."""
    inside = mat.product(u, mat.product(mat.adjoint(u), moved))
    return mat.times_columns(el.sub(moved, inside), inverse)


class PseudoInverse(MatrixOperation):
    """The Moore-Penrose inverse: singular values up to `rtol` times the greatest count as 0.

    The derivative takes it that those are 0, and stay so: it is that at constant rank, as in JAX.
    """

    def abstract_eval(self, a: ShapedArray, *, rtol: float) -> ShapedArray:
        self.check_dtype(a)
        return a.update(shape=(*a.shape[:-2], a.shape[-1], a.shape[-2]))

    def impl(self, a: Any, *, rtol: float) -> Any:
        return np.linalg.pinv(a, rtol)

    def jvp(self, primals: Sequence[Any], tangents: Sequence[Any], *, rtol: float) -> Any:
        """For constant rank (Golub & Pereyra 1973, eq. 4.12), with P the pseudo-inverse:
        dP = -P dA P + P P^H dA^H (1 - A P) + (1 - P A) dA^H P^H P.
        """
        a, t = primals[0], tangents[0]
        p = self(a, rtol=rtol)
        if type(t) is Zero:
            return p, mat.no_tangent(p)
        p_h, t_h = mat.adjoint(p), mat.adjoint(t)
        right = mat.product(p, mat.product(p_h, t_h))
        right = el.sub(right, mat.product(mat.product(right, a), p))
        left = mat.product(mat.product(t_h, p_h), p)
        left = el.sub(left, mat.product(p, mat.product(a, left)))
        return p, el.sub(el.add(left, right), mat.product(p, mat.product(t, p)))


# ---------------------------------------------------------------------------- general


class Eig(MatrixOperation):
    """Eigenvalues and eigenvectors of a general matrix: results w and v, or w alone.

    Both are complex, also where NumPy gives real ones: the dtype cannot depend on values.
    """

    multiple_results = True

    def abstract_eval(self, a: ShapedArray, *, vectors: bool) -> list[ShapedArray]:
        self.check_dtype(a)
        self.check_square(a)
        dtype = dtypes.complex_dtype(a.dtype)
        w = ShapedArray(a.shape[:-1], dtype)
        return [w, ShapedArray(a.shape, dtype)] if vectors else [w]

    def impl(self, a: Any, *, vectors: bool) -> list[Any]:
        found = np.linalg.eig(a) if vectors else (np.linalg.eigvals(a),)
        dtype = dtypes.complex_dtype(a.dtype)
        return [x.astype(dtype, copy=False) for x in found]

    def jvp(self, primals: Sequence[Any], tangents: Sequence[Any], *, vectors: bool) -> Any:
        a, t = primals[0], tangents[0]
        if type(t) is Zero:
            return self.still(self(a, vectors=vectors))
        w, v = self(a, vectors=True)
        moved = mat.product(_like(t, v), v)
        turned = solve(v, moved, check_singular=False)
        d_w = mat.diagonal(turned)
        if not vectors:
            return [w], [d_w]
        shape = v.shape
        gap = el.sub(mat.spread_row(w, shape), mat.spread_column(w, shape))
        bound = _rounding(el.abs(w), shape)
        inside = el.mul(reciprocal_or_zero(gap, bound), turned)
        return [w, v], [d_w, _kept_normal(v, mat.product(v, inside))]


def _kept_normal(v: Any, t: Any) -> Any:
    """The tangent `t` of eigenvectors less what would change their length, or the phase of the
    greatest component, which LAPACK makes real.
    """
    rows = len(v.shape) - 2
    overlap = structural.reduce_sum(el.mul(mat.conjugated(v), t), axes=(rows,))
    t = el.sub(t, mat.times_columns(v, _like(el.real(overlap), v)))
    if v.shape[-1] == 0:
        return t
    top = argmax(el.abs(v), axis=rows, index_dtype=np.dtype(np.int64))
    places = structural.iota(dtype=np.dtype(np.int64), shape=v.shape, dimension=rows)
    is_top = el.eq(places, mat.spread_row(top, v.shape))
    t_top, v_top = (
        structural.reduce_sum(el.select(is_top, x, axes.zero_number(x)), axes=(rows,))
        for x in (t, v)
    )
    turn = el.imag(el.div(t_top, v_top))
    return el.sub(t, mat.times_columns(v, el.complex(axes.zeros(get_aval(turn)), turn)))


eigh = Eigh("eigh")
svd = SVD("svd")
pseudo_inverse = PseudoInverse("pseudo_inverse")
eig = Eig("eig")

__all__ = ["eig", "eigh", "pseudo_inverse", "svd"]
