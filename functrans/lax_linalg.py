"""`lax.linalg`: the factorizations under JAX's names and with its results, on arrays as they are.

Nothing is promoted or broadcast; axes in front of the matrices are a batch.
"""

from __future__ import annotations

from typing import Any

from functrans import ops
from functrans.numpy.promotion import array
from functrans.ops import matrices


def _symmetric(a: Any, symmetrize_input: bool) -> Any:
    return matrices.hermitian(a) if symmetrize_input else a


def cholesky(a: Any, *, symmetrize_input: bool = True) -> Any:
    """The lower triangular L with L L^H = a, or, by default, = (a + a^H) / 2."""
    return ops.cholesky(_symmetric(array(a), symmetrize_input))


def triangular_solve(
    a: Any,
    b: Any,
    *,
    left_side: bool = False,
    lower: bool = False,
    transpose_a: bool = False,
    conjugate_a: bool = False,
    unit_diagonal: bool = False,
) -> Any:
    """`x` with x op(a) = b, or op(a) x = b if `left_side`. A `b` with one axis less is a vector."""
    a, b = array(a), array(b)
    is_vector = b.ndim == a.ndim - 1
    if is_vector:
        b = matrices.as_column(b) if left_side else matrices.as_row(b)
    x = ops.triangular_solve(
        a,
        b,
        left_side=left_side,
        lower=lower,
        transpose_a=transpose_a,
        conjugate_a=conjugate_a,
        unit_diagonal=unit_diagonal,
    )
    return ops.reshape(x, shape=(*x.shape[:-2], a.shape[-1])) if is_vector else x


def lu(x: Any) -> tuple[Any, Any, Any]:
    """L\\U in one matrix, the pivots, and the permutation of the rows: `x[permutation] = L @ U`."""
    factors, pivots, order = ops.lu(array(x))
    return factors, pivots, order


def lu_pivots_to_permutation(pivots: Any, permutation_size: int) -> Any:
    """The permutation that the swaps of rows amount to."""
    return ops.pivots_to_order(array(pivots), size=int(permutation_size))


def qr(x: Any, *, full_matrices: bool = True) -> tuple[Any, Any]:
    """q and r."""
    q, r = ops.qr(array(x), full_matrices=full_matrices)
    return q, r


def eigh(x: Any, *, lower: bool = True, symmetrize_input: bool = True) -> tuple[Any, Any]:
    """Eigenvectors and, ascending, eigenvalues: in this order, as in JAX."""
    w, v = ops.eigh(_symmetric(array(x), symmetrize_input), lower=lower, vectors=True)
    return v, w


def svd(x: Any, *, full_matrices: bool = True, compute_uv: bool = True) -> Any:
    """u, s and vh; s alone with `compute_uv=False`."""
    found = ops.svd(array(x), full_matrices=full_matrices, compute_uv=compute_uv)
    return tuple(found) if compute_uv else found[0]


__all__ = [
    "cholesky",
    "eigh",
    "lu",
    "lu_pivots_to_permutation",
    "qr",
    "svd",
    "triangular_solve",
]
