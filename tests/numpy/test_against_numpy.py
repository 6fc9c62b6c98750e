"""Each function of `functrans.numpy` traced, beside NumPy's own: a table of calls per function."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import functrans.numpy as fnp
from functrans.numpy.dispatch import NAMES
from functrans.numpy.ufuncs import UFUNCS
from tests.numpy.checked_trace import like_numpy, same, traced

A = np.array([[0.5, -1.5, 2.25, 3.0], [4.0, -0.25, 0.0, 1.0], [2.0, 2.0, -3.5, 0.75]])
F = A.astype(np.float32)
I = np.array([[3, -1, 2, 0], [5, 7, -2, 3], [0, 1, 1, 4]])  # noqa: E741
S = I.astype(np.int8)
U = np.abs(I).astype(np.uint8)
B = I > 1
C = A + 1j * A[::-1]
V = np.array([1.0, -2.0, 0.5, 3.0])
N = np.array([1.0, np.nan, -2.0, np.inf])
T = np.arange(24.0).reshape(2, 3, 4)
E = np.zeros((0, 3))
EVERY = [A, F, I, S, U, B, C]
REAL = [A, F, I, S, U, B]
H = A.astype(np.float16)


def call(*args, **kwargs):
    return args, kwargs


def each(arrays, *rest, **kwargs):
    return [((x, *rest), kwargs) for x in arrays]


def axes(arrays, **kwargs):
    """Every way to name axes of a reduction."""
    options = [{}, {"axis": 0}, {"axis": -1}, {"axis": (0, 1)}, {"axis": 1, "keepdims": True},
               {"keepdims": True}, {"axis": 2}]  # fmt: skip
    return [((x,), {**o, **kwargs}) for x in arrays for o in options]


CASES = {
    "sum": [*axes([*EVERY, H]), call(T, axis=(0, 2)), call(T, axis=()), call(I, dtype=np.float32),
            call(A, where=B), call(A, axis=0, initial=10.0), call(E), call(E, axis=0), call(U,
                dtype=np.uint8)],
    "prod": [*axes([A, I, U, C, B]), call(A, where=B, axis=1), call(A, initial=2.0), call(E)],
    "max": [*axes(REAL), call(N), call(E), call(E, axis=1), call(E, axis=0), call(E, initial=3.0),
            call(A, where=B), call(A, where=B, initial=-1.0)],
    "min": [*axes(REAL), call(N), call(E), call(A, axis=0, where=B, initial=9.0)],
    "mean": [*axes([*EVERY, H]), call(A, where=B), call(A, axis=1, where=B), call(I,
        dtype=np.float32), call(E),
             call(E, axis=0)],
    "var": [*axes([*EVERY, H]), call(A, ddof=1), call(A, ddof=20), call(A, where=B), call(A, axis=0,
        where=B, ddof=1),
            call(A, correction=1), call(A, axis=0, mean=A.mean(0, keepdims=True)), call(C, ddof=1),
                call(E)],
    "std": [*axes([A, I, C, F]), call(A, ddof=1, axis=1)],
    "all": [*axes(EVERY), call(A, where=B), call(E)],
    "any": [*axes(EVERY), call(A, where=B), call(E)],
    "ptp": [*axes([A, I]), call(V)],
    "average": [call(A), call(A, axis=0), call(A, axis=1, weights=V), call(A, weights=A), call(I,
        axis=0), call(I, weights=I + 5),
                call(A, axis=0, returned=True), call(A, axis=1, weights=V, returned=True), call(F,
                    axis=0, keepdims=True),
                call(A, weights=V)],
    "count_nonzero": [*each(EVERY), call(A, axis=0), call(A, axis=1, keepdims=True)],
    "argmax": each(REAL) + each(REAL, axis=0) + [call(A, axis=1, keepdims=True), call(N), call(E),
        call(A, keepdims=True)],
    "argmin": each(REAL) + each(REAL, axis=1) + [call(N), call(E, axis=0)],
    "cumsum": each([A, F, I, S, U, B]) + each([A, I], axis=0) + [call(A, axis=-1, dtype=np.float32),
        call(A, axis=3)],
    "cumprod": each([A, I, U]) + each([A], axis=1),
    "cumulative_sum": [call(V), call(A, axis=1), call(A, axis=0, include_initial=True), call(A),
        call(U, axis=0)],
    "cumulative_prod": [call(V), call(A, axis=1, include_initial=True)],
    "nansum": [call(N), call(A), call(I), call(A, axis=0)],
    "nanprod": [call(N), call(A, axis=1)],
    "nanmean": [call(N), call(A, axis=0), call(np.stack([N, V]), axis=0)],
    "nanvar": [call(np.array([1.0, np.nan, 3.0])), call(A, axis=0, ddof=1)],
    "nanstd": [call(np.array([1.0, np.nan, 3.0])), call(A, axis=0)],
    "nanmax": [call(N), call(np.stack([N, V]), axis=0), call(I, axis=0)],
    "nanmin": [call(N), call(np.stack([N, V]), axis=0), call(I, axis=0)],
    "nancumsum": [call(N), call(A, axis=0)],
    "median": [call(A), call(A, axis=0), call(A, axis=1, keepdims=True), call(I), call(N), call(V),
        call(T, axis=(0, 1)), call(F)],
    "quantile": [call(A, 0.3), call(A, [0.1, 0.5, 1.0], axis=0), call(A, 0.5, axis=1,
        keepdims=True), call(A, 1.5)],
    "percentile": [call(A, 30), call(A, [10, 50], axis=1)],
    "cov": [call(A), call(A, rowvar=False), call(V), call(V, V * 2), call(C), call(A, bias=True)],
    "sort": [*each(REAL), call(A, axis=0), call(A, axis=None), call(N), call(A, axis=2)],
    "argsort": [call(V), call(I, axis=0, stable=True), call(A, axis=None, stable=True)],
    "lexsort": [call((V, V[::-1])), call((I[0] > 1, V)), call(I), call((A, B)), call((A, I),
        axis=0), call(()), call((V, V[:2])), call((A,), axis=2)],
    "searchsorted": [call(np.sort(V), A), call(np.sort(I[0]), A, "right"), call(np.sort(N), N),
        call(V, 1.5, sorter=np.argsort(V)), call(V, V, "right", np.argsort(V)), call(V[:0], A),
        call(np.sort(C[0]), C), call(A, V), call(V, V, "middle"), call(np.sort(B[0]), B),
        call(V, V, sorter=np.arange(2)), call(V, V, sorter=V)],
    "digitize": [call(A, np.sort(V)), call(A, np.sort(V)[::-1]), call(A, np.sort(V), right=True),
        call(A, np.sort(V)[::-1], True), call(I, np.array([0, 3])), call(0.5, np.sort(V)),
        call(C, np.sort(V)), call(A, V[:1]), call(A, np.ones(3))],
    # structure
    "reshape": [call(A, (4, 3)), call(A, -1), call(A, (2, -1)), call(A, (5, -1)), call(A, (4, 4)),
        call(A, (6, 2), order="F"),
                call(A, (-1, -1)), call(A, 12)],
    "ravel": [call(A), call(A, order="F"), call(np.float64(3.0))],
    "transpose": [call(A), call(T), call(T, (1, 0, 2)), call(T, (0, -1, 1)), call(T, (0, 1)),
        call(T, (0, 0, 1)), call(V)],
    "permute_dims": [call(T, (2, 0, 1))],
    "matrix_transpose": [call(A), call(T), call(V)],
    "swapaxes": [call(T, 0, 2), call(T, 0, -1), call(T, 0, 3)],
    "moveaxis": [call(T, 0, -1), call(T, (0, 1), (2, 0)), call(T, [0], [1]), call(T, 0, 3), call(T,
        (0, 1), (0,))],
    "rollaxis": [call(T, 2), call(T, 0, 3), call(T, 1, 2)],
    "expand_dims": [call(A, 0), call(A, (0, -1)), call(A, 5), call(A, -1)],
    "squeeze": [call(A[None]), call(A[None], 0), call(A[None], 1), call(A[:, None, :, None],
        axis=(1, 3)), call(np.ones((1, 1)))],
    "atleast_1d": [call(np.float64(1.0)), call(A), call(V, np.float64(2.0))],
    "atleast_2d": [call(np.float64(1.0)), call(V), call(T)],
    "atleast_3d": [call(np.float64(1.0)), call(V), call(A), call(T)],
    "broadcast_to": [call(V, (3, 4)), call(A, (2, 3, 4)), call(V, (3, 3)), call(np.float64(2.0), (2,
        2)), call(A, (4,))],
    "broadcast_arrays": [call(V, A), call(V[:, None], V), call(A, np.ones(3))],
    "concatenate": [call([A, A]), call([A, I], axis=1), call([F, A]), call([A, V]), call([A, A],
        axis=None), call([A, A[:, :2]]),
                    call([A, A], axis=2), call([F, S], dtype=np.float64), call([V])],
    "concat": [call([V, V])],
    "stack": [call([V, V]), call([V, V], axis=1), call([V, V], axis=-1), call([V, A]), call([F, I]),
        call([np.float64(1.0), np.float64(2.0)])],
    "vstack": [call([V, A]), call([V, V]), call([A, A])],
    "hstack": [call([V, V]), call([A, A])],
    "dstack": [call([V, V]), call([A, A]), call([T, T])],
    "column_stack": [call([V, V]), call([A, A])],
    "append": [call(V, V), call(A, A, axis=0), call(A, 3.0)],
    "block": [call([[A, A], [A, A]]), call([V, V])],
    "array_split": [call(V, 3), call(A, 2, axis=1), call(V, [1, 3]), call(V, [3, 1]), call(V, 0),
        call(V, 6)],
    "split": [call(V, 2), call(V, 3), call(A, [1, 2]), call(A, 2, axis=1)],
    "hsplit": [call(A, 2), call(V, 2)],
    "vsplit": [call(A, 3)],
    "dsplit": [call(T, 2)],
    "unstack": [call(A), call(T, axis=1)],
    "repeat": [call(A, 2), call(A, 3, axis=0), call(A, [1, 0, 2], axis=0), call(A, 0, axis=1),
        call(A, [1, 2], axis=0), call(A, -1)],
    "tile": [call(V, 2), call(V, (2, 2)), call(A, (2, 1)), call(A, 2), call(T, (2, 2))],
    "flip": [call(A), call(A, 0), call(A, (0, 1)), call(A, 3)],
    "fliplr": [call(A), call(V)],
    "flipud": [call(A), call(V)],
    "rot90": [call(A), call(A, 2), call(A, -1), call(A, 4), call(T, 1, (1, 2)), call(T, 3, (2, 0))],
    "roll": [call(A, 1), call(A, -2, axis=1), call(A, (1, 2), axis=(0, 1)), call(A, 1, axis=(0, 1)),
        call(V, 9), call(A, 1, axis=5)],
    "pad": [call(V, 2), call(A, ((1, 2), (0, 1))), call(A, 1, constant_values=3.0), call(V, (1, 2),
        mode="edge"),
            call(A, 2, mode="reflect"), call(A, ((3, 1), (2, 0)), mode="symmetric"), call(A, 2,
                mode="wrap"),
            call(A, ((1, 1), (2, 2)), constant_values=((1.0, 2.0), (3.0, 4.0))), call(V, -1),
                call(I, 1, constant_values=7)],
    "delete": [call(V, 1), call(A, [0, 2], axis=0), call(A, slice(0, 2), axis=1), call(A, 3),
        call(V, 9)],
    "insert": [call(V, 1, 9.0), call(A, 1, V, axis=0), call(A, [0, 2], 5.0, axis=1), call(V, [1, 1],
        [7.0, 8.0]),
               call(A, 1, np.ones((1, 3)), axis=1)],
    "resize": [call(V, (2, 3)), call(V, 2), call(A, (5, 3))],
    "diagonal": [call(A), call(A, 1), call(A, -1), call(T, 0, 1, 2), call(T, 1, 0, 2), call(V),
        call(A, 9), call(A, 0, 1, 1), call(A.T, -2)],
    "take": [call(A, [0, 5]), call(A, np.array([[0, -1], [1, 2]]), axis=1), call(A, 1, axis=0),
        call(A, [7], axis=0),
             call(A, [7, -9], axis=0, mode="clip"), call(A, [7, -5], axis=0, mode="wrap"), call(V,
                 2)],
    "take_along_axis": [call(A, np.argsort(A, 1), 1), call(A, np.argsort(A, 0), axis=0), call(V,
        np.array([0, 9])),
                        call(A, np.array([[1], [0], [-1]]), axis=1), call(A, np.array([1, 2]),
                            axis=None), call(A, np.array([[1, 0, 0, 2]]), axis=0)],
    # elementwise composites
    "where": [call(B, A, I), call(B, A, 0), call(A > 0, F, 1.5), call(B, V, A), call(B, 1, 2),
        call(A, A, V), call(np.bool_(True), A, V), call(B, A)],
    "select": [call([B, A > 0], [A, I]), call([A > 0], [A], 7), call([A > 0, B], [V, A],
        default=-1.0)],
    "clip": [call(A, 0, 1), call(A, V, 2.0), call(I, 0, 2.5), call(A, None, 1.0), call(A, 0.0,
        None), call(F, 0, 1), call(A, min=0.0),
             call(S, 0, 3), call(A, 2, 1)],
    "round": [*each([A, F, I, C, U]), call(A * 3.14159, 2), call(A * 314.159, -2), call(I * 13, -1),
        call(I, 2), call(F, 1), call(C * 1.234, 1)],
    "around": [call(A * 1.7)],
    "fix": [call(A)],
    "real": each([A, C, I]),
    "imag": each([A, C, I]),
    "angle": [call(C), call(A), call(C, deg=True), call(I)],
    "iscomplex": each([A, C]),
    "isreal": each([A, C]),
    "real_if_close": [call(A)],
    "sinc": [call(A), call(F), call(np.array([0.0, 1e-3, 0.1, 0.159, 0.16, 1.0])), call(I)],
    "nan_to_num": [call(N), call(N, nan=7.0, posinf=1.0), call(I), call(C),
        call(N.astype(np.float32))],
    "isposinf": [call(N)],
    "isneginf": [call(N), call(-N)],
    "isclose": [call(A, A + 1e-9), call(N, N), call(N, N, equal_nan=True), call(I, I), call(F, A),
        call(A, V)],
    "allclose": [call(A, A + 1e-9), call(A, A + 1), call(N, N, equal_nan=True)],
    "array_equal": [call(A, A), call(A, V), call(N, N, equal_nan=True), call(N, N)],
    "array_equiv": [call(V, np.stack([V, V])), call(A, np.ones(3))],
    # contractions
    "matmul": [call(A, A.T), call(A, V), call(V, V), call(V, A.T), call(T, T.swapaxes(1, 2)),
        call(T, V), call(A.T, T), call(T, A.T),
               call(A, A), call(V, 2.0), call(I, I.T), call(F, A.T), call(S, U.T), call(C, C.T),
                   call(V, T.swapaxes(1, 2)), call(B, B.T),
               call(T[:1], T.swapaxes(1, 2)), call(T[:, None], T.swapaxes(1, 2)[None])],
    "vecdot": [call(V, V), call(C, C), call(A, V), call(A, np.ones(3)), call(T, V)],
    "matvec": [call(A, V), call(T, V), call(A, np.ones(3)), call(T, np.ones((2, 4)))],
    "vecmat": [call(np.ones(3), A), call(C[:, 0], C), call(V, A)],
    "dot": [call(A, A.T), call(V, V), call(A, V), call(A, 2.0), call(T, A.T), call(A, T.swapaxes(1,
        2)), call(A, A), call(I, I.T), call(V, np.ones(3))],
    "vdot": [call(C, C), call(A, A), call(V, V), call(V, A)],
    "inner": [call(A, A), call(V, V), call(A, V), call(A, 3), call(T, A), call(A, np.ones(3))],
    "outer": [call(V, V), call(A, V), call(I, F)],
    "tensordot": [call(A, A.T, 1), call(T, T, ((0, 1), (0, 1))), call(T, T, 3), call(A, V, 0),
        call(T, A, ((-1,), (1,))), call(A, A, 1),
                  call(T, A, ([2, 1], [1, 0])), call(T, V, (2, 0))],
    "kron": [call(A, A), call(V, A), call(V, V)],
    "trace": [call(A), call(A, 1), call(T, 0, 1, 2), call(I), call(U), call(T)],
    "einsum": [call("ij,kj->ik", A, A), call("ij->ji", A), call("ij->", A), call("ii->i", A[:, :3]),
        call("ii", A[:, :3]), call("ij,jk", A, A.T),
               call("...j,j->...", T, V), call("i,j->ij", V, V), call("ij,ij->i", A, A),
                   call("ij,j,k->ik", A, V, V), call("...ij,...jk", T, T.swapaxes(1, 2)),
               call("bij,bjk,kl->bil", T, T.swapaxes(1, 2), A), call("ij,kl->ijkl", A, A), call(A,
                   [0, 1], V, [1], [0]), call(A, [0, 1], A, [2, 1]),
               call("ijj->i", np.ones((2, 3, 3))), call("iij->j", np.ones((3, 3, 2))),
                   call("ij,jk->ik", A, A), call("ij->kk", A), call("i...->...", A),
               call("ij,ij,ij->", A, A, A), call("a,b,c,d->abcd", V, V, V, V), call("...,...->...",
                   A, V), call("ij", A), call("ji", A),
               call("i,i->i", V, np.ones(1)), call("ij, jk -> k", I, I.T), call(T, [Ellipsis, 0],
                   [Ellipsis]), call("ab,bc,cd,de,ef->af", *[A[:, :3]] * 5),
               call("ij,jk->ik", C, F.T), call("i->ij", V), call("i,i", V, np.ones(3))],
    "einsum_path": [],
    # creation
    "zeros": [call(3), call((2, 3), dtype=np.float32)],
    "ones": [call(3), call((2, 3), int)],
    "empty": [],
    "full": [call((2, 2), 3), call(4, V), call((2,), 1.5, dtype=np.float32), call(3,
        np.float64(2.0))],
    "zeros_like": [*each(EVERY), call(A, dtype=int), call(A, shape=(2,))],
    "ones_like": [*each(EVERY), call(V, np.float32)],
    "empty_like": [],
    "full_like": [call(A, 3), call(I, 2.7), call(A, V), call(F, 3, dtype=int)],
    "array": [call([V, V]), call(A), call([[1, 2], [3, 4]]), call(V, ndmin=3),
        call([[np.float64(1.0), 2.0], [3, 4]]), call(3.0), call(V, dtype=np.float32)],
    "asarray": [call([V, V]), call(A), call(A, np.float32), call([1, 2])],
    "copy": [call(A)],
    "astype": [call(A, np.int8), call(A, np.float32), call(C, np.complex64), call(I, bool)],
    "arange": [call(5), call(2, 9, 3), call(0.0, 1.0, 0.1), call(5, 0, -2), call(3.0), call(3,
        dtype=np.float32), call(0), call(1, 2, 0), call(0.5, 4)],
    "linspace": [call(0, 1), call(0, 1, 5), call(0, 1, 5, endpoint=False), call(V, 2.0, 4), call(0,
        9, 4, dtype=int), call(0, 1, 1), call(0, 1, 0),
                 call(2.0, 3.0, 4, retstep=True), call(V, V + 1, 3, axis=1), call(0, 1, -2),
                     call(F[0], 1, 3)],
    "logspace": [call(0, 3, 4), call(0.0, 2.0, 5, base=2.0)],
    "geomspace": [call(1.0, 1000.0, 4), call(np.float64(1.0), 8.0, 4)],
    "meshgrid": [call(V, V[:2]), call(V, V[:2], indexing="ij"), call(V, V[:2], sparse=True),
        call(V), call(V, V, V[:2])],
    "indices": [call((2, 3)), call((2, 3), sparse=True)],
    "fromfunction": [call(lambda i, j: i + 2 * j, (2, 3)), call(lambda i: i, (3,), dtype=int)],
    "eye": [call(3), call(3, 4, 1), call(3, 2, -1, dtype=np.float32)],
    "identity": [call(3), call(2, int)],
    "tri": [call(3), call(3, 4, 1), call(3, 4, -1, dtype=int)],
    "tril": [call(A), call(A, 1), call(T, -1), call(V), call(I)],
    "triu": [call(A), call(A, 1), call(T, -1), call(V)],
    "diag": [call(V), call(A), call(V, 1), call(V, -2), call(A, 1), call(T), call(I[0])],
    "diagflat": [call(A), call(V, 1)],
    "vander": [call(V), call(V, 3), call(V, 3, increasing=True), call(I[0]), call(A)],
    # sequences
    "diff": [call(V), call(A), call(A, axis=0), call(V, 2), call(B), call(V, prepend=0.0), call(A,
        append=A[:, :1]), call(V, 0), call(V, 6), call(V, -1)],
    "ediff1d": [call(A), call(V, to_end=9.0), call(V, to_begin=np.array([1.0, 2.0]))],
    "gradient": [call(V), call(A), call(A, axis=1), call(V, 2.0), call(A, 1.0, 2.0), call(V[:1]),
        call(F)],
    "trapezoid": [call(V), call(A, dx=0.5), call(A, V), call(A, axis=0), call(A, A), call(I)],
    "convolve": [call(V, V[:3]), call(V, V[:3], "same"), call(V, V[:2], "valid"), call(V[:2], V,
        "same"), call(I[0], I[1]), call(V, V[:0]), call(C[0], C[1, :3]), call(V[:2], V, "valid")],
    "correlate": [call(V, V[:3]), call(V, V[:3], "full"), call(V, V[:3], "same"), call(V, V[:2],
        "same"), call(V[:2], V, "full"), call(C[0], C[1, :2]), call(V[:2], V, "valid")],
    "polyval": [call(V, A), call(V, 2.0), call(V, np.float64(3.0)), call(I[0], I)],
    "cross": [call(A[:, :3], A[:, 1:]), call(A[0, :3], A[:, :3]), call(A, A, axis=0), call(V, V)],
    # inspection
    "shape": each([A, V]),
    "ndim": each([A, V]), "size": [call(A), call(A, 0), call(A, (0, 1))],
    "result_type": [call(A, F), call(S, 2), call(F, 1.0)],
    "iscomplexobj": each([A, C]), "isrealobj": each([A, C]), "isscalar": [call(3.0), call("a")],
        "can_cast": [call(np.int8, np.int32), call(A.dtype, "f4")],
}  # fmt: skip
ROWS = [(name, i) for name, cases in CASES.items() for i in range(len(cases))]
ELSEWHERE = {
    "at": "test_indexing", "compress": "test_indexing", "nonzero": "test_indexing",
        "flatnonzero": "test_indexing",
    "argwhere": "test_indexing", "extract": "test_indexing", "linalg": "below", "fft": "test_fft",
    "amax": "max", "amin": "min",
}  # fmt: skip


NOT_INTERCEPTED = {"array", "asarray", "full"}  # NumPy does not ask its argument


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize(("name", "i"), ROWS, ids=lambda v: str(v))
def test_numpy_function_on_tracers(name, i):
    if name in NOT_INTERCEPTED:
        return
    args, kwargs = CASES[name][i]
    like_numpy(getattr(np, name), *args, rtol=1e-10, **kwargs)


@pytest.mark.parametrize(("name", "i"), ROWS, ids=lambda v: str(v))
def test_public_function_traced_and_eager(name, i):
    args, kwargs = CASES[name][i]
    numpy_function, function = getattr(np, name), getattr(fnp, name)
    try:
        expected = numpy_function(*args, **kwargs)
    except Exception as error:
        with pytest.raises(type(error)):
            function(*args, **kwargs)
        return
    same(function(*args, **kwargs), expected, what=name)
    same(traced(function, *args, **kwargs), expected, rtol=1e-10, what=name)


def test_every_public_function_has_a_row():
    from_numpy = {n for n in fnp.__all__ if getattr(fnp, n) is getattr(np, n, None)}
    ufuncs = {n for n in fnp.__all__ if getattr(fnp, n) in UFUNCS.values()}
    missing = set(fnp.__all__) - from_numpy - ufuncs - set(CASES) - set(ELSEWHERE)
    assert missing == set()
    assert set(NAMES) - set(fnp.__all__) == {"choose_between"}


Q = np.array([[2.0, 0.5, -1.0], [0.25, 3.0, 0.5], [-0.5, 1.0, 4.0]])
Q32 = Q.astype(np.float32)
QC = Q + 1j * Q[::-1]
QS = np.stack([Q, Q @ Q, Q.T])
P = Q @ Q.T
PC = QC @ QC.conj().T
PS = np.stack([P, P + np.eye(3)])
E0 = np.zeros((0, 0))
E2 = np.zeros((2, 0, 0))
SQUARE = [Q, Q32, QC, QS, P.astype(int), E0, E2, A, V]
ANY = [Q, A, A.T, F, C, QS, E]

LINALG = {
    "cholesky": [*each([P, P.astype(np.float32), PC, PS, E0, -P, A, V]), call(P, upper=True),
        call(PC, upper=True)],
    "solve": [call(Q, x) for x in (V[:3], A, A[:, :1], QS, C, E, V)] + [call(QS, x) for x in (V[:3],
        A, QS)] + [call(QC, V[:3]), call(Q32, F), call(np.ones((3, 3)), V[:3]), call(E0, E0),
        call(A, V), call(I[:, :3], V[:3]), call(H[:, :3], V[:3])],
    "inv": [*each(SQUARE), call(np.ones((3, 3)))],
    "det": [*each(SQUARE), call(np.ones((3, 3)))],
    "slogdet": [*each(SQUARE), call(np.ones((3, 3)))],
    "tensorinv": [call(np.eye(24).reshape(4, 6, 8, 3)), call(Q, 1), call(Q, 0)],
    "tensorsolve": [call(np.eye(24).reshape(6, 4, 2, 3, 4), A[:1].repeat(6, 0)), call(Q, V[:3]),
        call(np.eye(6).reshape(2, 6, 3), V[:2].repeat(3).reshape(2, 3), (1,)), call(A, V[:3])],
    "qr": [*each(ANY), *each(ANY, mode="complete"), call(A, "r"), call(A, "wrong"), call(V)],
    "eigh": [*each([P, PC, PS, E0, V, A]), call(P, "U"), call(P, "X")],
    "eigvalsh": [*each([P, PC, PS, E0]), call(P, "U")],
    "eig": [call(x + 0j) for x in (Q, QS, QC)],
    "eigvals": [call(x + 0j) for x in (Q, QS, QC, E0)] + [call(V)],
    "svd": [*each(ANY), *each(ANY, full_matrices=False), call(A, compute_uv=False), call(V)],
    "svdvals": each(ANY),
    "pinv": [*each([Q, A, A.T, C, QS, E]), call(A, 0.5), call(V)],
    "matrix_rank": [*each([Q, A, np.ones((3, 3)), QS, V, np.zeros(3), C]), call(A, 1.5)],
    "lstsq": [call(A.T, V), call(A.T, np.stack([V, V], 1)), call(A, V[:3]), call(Q, V[:3]), call(A,
        V), call(QS, V), call(A.T, V, -1)],
    "cond": [*[call(Q, p) for p in (None, 2, -2, 1, -1, np.inf, "fro")], call(QS), call(A), call(
        np.ones((2, 2)), 1), call(A, 1), call(V)],
    "norm": [*[call(V, o) for o in (None, 2, 1, 0, np.inf, -np.inf, 3, 2.5, -1)], call(A), call(A,
        "fro"), call(A, 1), call(A, -1), call(A, np.inf), call(A, 2), call(A, -2), call(A, "nuc"),
             call(A, -np.inf), call(A, axis=0), call(A, 1, axis=1), call(T, axis=(0, 2)), call(A,
                 axis=1, keepdims=True), call(A, keepdims=True),
             call(C), call(I), call(F, axis=0), call(V, "fro"), call(T, axis=(0, 1, 2)), call(T),
                 call(T, np.inf, (2, 0)), call(T, 2, (2, 0)), call(T, "nuc", (0, 1)),
                 call(T, 1, (2, 0))],
    "vector_norm": [call(V), call(A), call(A, axis=0), call(T, axis=(0, 2)), call(A, ord=1), call(A,
        axis=(0, 1), keepdims=True)],
    "matrix_norm": [call(A), call(T), call(A, ord=1), call(A, ord=np.inf, keepdims=True)],
    "matrix_power": [call(A[:, :3], 3), call(A[:, :3], 0), call(A[:, :3], 5), call(A, 2),
        call(Q, -1), call(QS, -2), call(I[:, :3], -1), call(np.ones((2, 2)), -1)],
    "multi_dot": [call([A, A.T, A]), call([V, A.T, A, V]), call([A, V])],
    "matmul": [call(A, A.T)], "vecdot": [call(V, V), call(A, A, axis=0)], "outer": [call(V, V)],
        "tensordot": [call(A,
        A.T, axes=1)],
    "matrix_transpose": [call(T)], "cross": [call(A[:, :3], A[:, 1:])], "trace": [call(T)],
        "diagonal": [call(T)],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "i"), [(n, i) for n, cases in LINALG.items() for i in range(len(cases))], ids=str
)
def test_linalg_on_tracers(name, i):
    args, kwargs = LINALG[name][i]
    like_numpy(getattr(np.linalg, name), *args, rtol=1e-10, **kwargs)
    try:
        expected = getattr(np.linalg, name)(*args, **kwargs)
    except Exception:
        return
    same(traced(getattr(fnp.linalg, name), *args, **kwargs), expected, rtol=1e-10)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: np.linalg.pinv(x, rtol=0.5),
        lambda x: np.linalg.pinv(x, rtol=None),
        lambda x: np.linalg.pinv(x, 0.5, rtol=0.5),
        lambda x: np.linalg.matrix_rank(x, rtol=0.5),
        lambda x: np.linalg.matrix_rank(x, 1, rtol=1),
    ],
)
def test_relative_tolerances_are_numpys(f):
    like_numpy(f, A, rtol=1e-10)


def test_eigenvalues_of_traced_real_matrices_are_complex():
    w, v = traced(np.linalg.eig, Q)
    assert w.dtype == v.dtype == np.complex128
    np.testing.assert_allclose(w, np.linalg.eigvals(Q), rtol=1e-12)
    np.testing.assert_allclose(Q @ v, v * w, rtol=1e-10)
    assert traced(np.linalg.eigvals, Q32).dtype == np.complex64


DTYPE_CALLS = [
    np.trace, np.median, np.average, np.diff, np.sort, np.trapezoid, np.cumprod, np.tril,
        np.nanmean,
    np.gradient, np.sinc, np.angle, np.nan_to_num, np.cov, np.ptp, np.linalg.norm,
    lambda x: np.dot(x, x), lambda x: np.vdot(x, x), lambda x: np.inner(x, x), lambda x: np.kron(x,
        x),
    lambda x: np.tensordot(x, x), lambda x: np.convolve(x[0], x[1]), lambda x: np.polyval(x[0], x),
    lambda x: np.linspace(x[0], x[1], 3), lambda x: np.quantile(x, 0.2), lambda x: np.round(x, 1),
    lambda x: np.clip(x, 0, 1), lambda x: np.vander(x[0]), lambda x: np.einsum("ij->i", x),
    lambda x: np.einsum("ij,jk->ik", x, x), lambda x: np.einsum("ii", x), lambda x: x @ x,
]  # fmt: skip


@pytest.mark.parametrize("i", range(len(DTYPE_CALLS)))
@pytest.mark.parametrize(
    "dtype", ["bool", "int8", "uint8", "int64", "float16", "float32", "complex64"]
)
def test_dtypes_are_numpys(i, dtype):
    like_numpy(DTYPE_CALLS[i], np.array([[1, 2], [3, 0]]).astype(dtype), rtol=1e-5)


def test_linalg_names_are_all_in_the_table():
    assert set(fnp.linalg.__all__) == set(LINALG)


@pytest.mark.parametrize("name", ["interp", "histogram", "unique", "bincount"])
def test_unsupported_function_is_named(name):
    args = {"interp": (V, V, V), "histogram": (V,), "unique": (V,), "bincount": (np.arange(3),)}
    with pytest.raises(TypeError, match=f"numpy.{name} is not supported on traced arrays"):
        traced(getattr(np, name), *args[name])


def test_eager_functions_are_numpys_own_to_the_view():
    x = np.arange(6.0)
    assert fnp.reshape(x, (2, 3)).base is x
    assert fnp.sin(np.float32(1)).dtype == np.float32
