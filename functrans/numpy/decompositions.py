"""`numpy.linalg`: QR, eigenvalues and singular values, and what is computed from them.

Differences from NumPy, whose results depend on values: `eig` and `eigvals` of traced matrices are
always complex, and `lstsq` gives residuals wherever there are more equations than unknowns.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from functrans import ops
from functrans.numpy import contractions, promotion
from functrans.numpy.dispatch import TRACED, implements_linalg
from functrans.numpy.manipulation import reshaped
from functrans.numpy.promotion import array, cast, insert_axes
from functrans.numpy.solvers import matrix_operand, operands, square_operand
from functrans.numpy.ufuncs import greater, multiply
from functrans.ops import axes, factorizations, matrices

LinAlgError = np.linalg.LinAlgError
EigResult = type(np.linalg.eig(np.eye(1)))
EighResult = type(np.linalg.eigh(np.eye(1)))
QRResult = type(np.linalg.qr(np.eye(1)))
SVDResult = type(np.linalg.svd(np.eye(1)))

# ---------------------------------------------------------------------------- factors


@implements_linalg("qr")
def qr(a: Any, mode: str = "reduced") -> Any:
    """`numpy.linalg.qr` in the modes reduced, complete and r."""
    if mode == "raw":
        raise TypeError("qr(..., mode='raw') cannot be traced: use 'reduced' or 'complete'.")
    if mode not in ("reduced", "complete", "r"):
        raise ValueError(f"Unrecognized mode '{mode}'")
    (x,) = operands(a)
    q, r = ops.qr(matrix_operand(x), full_matrices=mode == "complete")
    return r if mode == "r" else QRResult(q, r)


def _lower(uplo: str) -> bool:
    if uplo.upper() not in ("L", "U"):
        raise ValueError("UPLO argument must be 'L' or 'U'")
    return uplo.upper() == "L"


@implements_linalg("eigh")
def eigh(a: Any, UPLO: str = "L") -> Any:
    """`numpy.linalg.eigh`; gradients are Hermitian, as those of JAX."""
    lower = _lower(UPLO)
    (x,) = operands(a)
    return EighResult(*ops.eigh(square_operand(x), lower=lower, vectors=True))


@implements_linalg("eigvalsh")
def eigvalsh(a: Any, UPLO: str = "L") -> Any:
    """`numpy.linalg.eigvalsh`."""
    lower = _lower(UPLO)
    (x,) = operands(a)
    return ops.eigh(square_operand(x), lower=lower, vectors=False)[0]


@implements_linalg("eig")
def eig(a: Any) -> Any:
    """`numpy.linalg.eig`; the result is complex."""
    (x,) = operands(a)
    return EigResult(*ops.eig(square_operand(x), vectors=True))


@implements_linalg("eigvals")
def eigvals(a: Any) -> Any:
    """`numpy.linalg.eigvals`; the result is complex."""
    (x,) = operands(a)
    return ops.eig(square_operand(x), vectors=False)[0]


@implements_linalg("svd")
def svd(
    a: Any, full_matrices: bool = True, compute_uv: bool = True, hermitian: bool = False
) -> Any:
    """`numpy.linalg.svd`; `hermitian` makes no difference to how it is computed."""
    (x,) = operands(a)
    if hermitian:
        square_operand(x)
    found = ops.svd(
        matrix_operand(x), full_matrices=bool(full_matrices), compute_uv=bool(compute_uv)
    )
    return SVDResult(*found) if compute_uv else found[0]


@implements_linalg("svdvals")
def svdvals(x: Any, /) -> Any:
    """`numpy.linalg.svdvals`."""
    return svd.__wrapped__(x, compute_uv=False)


# ---------------------------------------------------------------------------- by singular values


@implements_linalg("pinv")
def pinv(a: Any, rcond: Any = None, hermitian: bool = False, *, rtol: Any = np._NoValue) -> Any:
    """`numpy.linalg.pinv` for a fixed relative tolerance; differentiable at constant rank."""
    (x,) = operands(a)
    matrix_operand(x)
    if rcond is not None and rtol is not np._NoValue:
        raise ValueError("`rtol` and `rcond` can't be both set.")
    if rcond is None:
        rcond = 1e-15 if rtol is np._NoValue else rtol
    if rcond is None:
        rcond = _default_tolerance(x)
    return ops.pseudo_inverse(x, rtol=float(rcond))


def _default_tolerance(x: Any) -> float:
    return max(x.shape[-2:]) * float(np.finfo(x.dtype).eps)


@implements_linalg("matrix_rank")
def matrix_rank(A: Any, tol: Any = None, hermitian: bool = False, *, rtol: Any = None) -> Any:
    """`numpy.linalg.matrix_rank`."""
    if tol is not None and rtol is not None:
        raise ValueError("`tol` and `rtol` can't be both set.")
    x = array(A)
    if x.ndim < 2:
        nonzero = ops.ne(x, promotion.scalar_like(0, x))
        return cast(TRACED[np.any](nonzero), np.dtype(np.intp))
    s = svdvals.__wrapped__(x)
    if tol is None:
        factor = max(x.shape[-2:]) * float(np.finfo(s.dtype).eps) if rtol is None else rtol
        tol = multiply.traced(TRACED[np.max](s, axis=-1, initial=0), factor)
    tol = array(tol)
    return TRACED[np.count_nonzero](greater.traced(s, insert_axes(tol, (tol.ndim,))), axis=-1)


@implements_linalg("lstsq")
def lstsq(a: Any, b: Any, rcond: Any = None) -> Any:
    """`numpy.linalg.lstsq`: solution, residuals, rank, singular values."""
    a, b = operands(a, b)
    is_vector = b.ndim == 1
    b = insert_axes(b, (1,)) if is_vector else b
    for x in (a, b):
        if x.ndim != 2:
            raise LinAlgError(f"{x.ndim}-dimensional array given. Array must be two-dimensional")
    m, n = a.shape
    if b.shape[0] != m:
        raise LinAlgError("Incompatible dimensions")
    rtol = _default_tolerance(a) if rcond is None else float(rcond)
    if rtol < 0:
        rtol = float(np.finfo(a.dtype).eps)
    x = contractions.matmul.__wrapped__(ops.pseudo_inverse(a, rtol=rtol), b)
    s = svdvals.__wrapped__(a)
    rank = matrix_rank.__wrapped__(a, rtol=rtol)
    if m > n:
        rest = ops.sub(b, contractions.matmul.__wrapped__(a, x))
        residuals = ops.reduce_sum(ops.square(ops.abs(rest)), axes=(0,))
    else:
        residuals = np.zeros(0, s.dtype)
    return (reshaped(x, (n,)) if is_vector else x), residuals, cast(rank, np.dtype(np.int32)), s


@implements_linalg("cond")
def cond(x: Any, p: Any = None) -> Any:
    """`numpy.linalg.cond`."""
    (x,) = operands(x)
    matrix_operand(x)
    if 0 in x.shape[-2:]:
        raise LinAlgError("cond is not defined on empty arrays")
    with np.errstate(all="ignore"):
        if p in (None, 2, -2):
            s = svdvals.__wrapped__(x)
            first, last = s[..., 0], s[..., -1]
            ratio = ops.div(last, first) if p == -2 else ops.div(first, last)
        else:
            square_operand(x)
            unit = matrices.identity_like(x)
            inverse = factorizations.solve(x, unit, check_singular=False)
            norm = TRACED[np.linalg.norm]
            ratio = ops.mul(norm(x, p, (-2, -1)), norm(inverse, p, (-2, -1)))
    # A singular matrix has the condition number inf, not nan; one with nan in it does not.
    holds_nan = TRACED[np.any](ops.isnan(x), axis=(-2, -1))
    is_infinite = ops.and_(ops.isnan(ratio), ops.not_(holds_nan))
    return ops.select(is_infinite, axes.filled(ratio.dtype.type(np.inf), ratio.shape), ratio)


__all__ = [
    "cond",
    "eig",
    "eigh",
    "eigvals",
    "eigvalsh",
    "lstsq",
    "matrix_rank",
    "pinv",
    "qr",
    "svd",
    "svdvals",
]
