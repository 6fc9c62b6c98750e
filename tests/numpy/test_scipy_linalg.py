"""`functrans.scipy.linalg` beside SciPy, and `lax.linalg` by the identities it promises."""

import numpy as np
import pytest
import scipy.linalg

import functrans as ft
from functrans import lax
from functrans.scipy import linalg

A = np.array([[4.0, 1.0, -2.0], [0.5, 3.0, 1.0], [-1.0, 2.0, 5.0]])
P = A @ A.T
C = A + 1j * A[::-1]
PC = C @ C.conj().T
B = np.array([[1.0, 2.0], [-1.0, 0.5], [3.0, 0.0]])
V = B[:, 0]
WIDE = np.vstack([A, A]).T

CALLS = {
    "solve_triangular": [
        lambda m, a: m.solve_triangular(a, B),
        lambda m, a: m.solve_triangular(a, V, lower=True),
        lambda m, a: m.solve_triangular(a, V, trans=1, unit_diagonal=True),
        lambda m, a: m.solve_triangular(a + 1j, B, trans="C", lower=True),
    ],
    "cholesky": [lambda m, a: m.cholesky(a @ a.T), lambda m, a: m.cholesky(a @ a.T, lower=True)],
    "cho_solve": [
        lambda m, a: m.cho_solve(m.cho_factor(a @ a.T), B),
        lambda m, a: m.cho_solve(m.cho_factor(a @ a.T, lower=True), V),
        lambda m, a: m.cho_solve(m.cho_factor(a * 0 + PC), B),
    ],
    "cho_factor": [lambda m, a: (np.triu(m.cho_factor(a @ a.T)[0]), m.cho_factor(a @ a.T)[1])],
    "lu": [
        lambda m, a: m.lu(a),
        lambda m, a: m.lu(a, permute_l=True),
        lambda m, a: m.lu(a[:, :2]),
        lambda m, a: m.lu(a[:2] * 1j),
    ],
    "lu_factor": [lambda m, a: m.lu_factor(a)],
    "lu_solve": [
        lambda m, a: m.lu_solve(m.lu_factor(a), V),
        lambda m, a: m.lu_solve(m.lu_factor(a), B, trans=1),
        lambda m, a: m.lu_solve(m.lu_factor(a + 1j * a.T), B, trans=2),
    ],
    "solve": [
        lambda m, a: m.solve(a, B),
        lambda m, a: m.solve(a, V, transposed=True),
        lambda m, a: m.solve(a @ a.T, V, assume_a="pos"),
    ],
    "det": [lambda m, a: m.det(a)],
    "inv": [lambda m, a: m.inv(a)],
    "pinv": [lambda m, a: m.pinv(a[:, :2])],
    "block_diag": [lambda m, a: m.block_diag(a, B, V, 2.0), lambda m, a: m.block_diag(a)],
    "expm": [lambda m, a: m.expm(a), lambda m, a: m.expm(1j * a), lambda m, a: m.expm(20 * a)],
}


@pytest.mark.parametrize(("name", "i"), [(n, i) for n, c in CALLS.items() for i in range(len(c))])
def test_scipy_function_eager_and_compiled(name, i):
    call = CALLS[name][i]
    expected = call(scipy.linalg, A)
    for actual in (call(linalg, A), ft.jit(lambda a: call(linalg, a), host_steps="error")(A)):
        several = isinstance(expected, tuple)
        pairs = zip(actual, expected, strict=True) if several else [(actual, expected)]
        for a, e in pairs:
            np.testing.assert_allclose(a, e, rtol=1e-9, atol=1e-10 * np.max(np.abs(e)))
            assert name == "lu_factor" or np.asarray(a).dtype == np.asarray(e).dtype


def test_functions_take_stacks():
    stack = np.stack([P, 2 * P])
    b = np.stack([B, -B])
    x = linalg.cho_solve(linalg.cho_factor(stack), b)
    np.testing.assert_allclose(stack @ x, b, atol=1e-12)
    np.testing.assert_allclose(linalg.expm(stack / 100)[1], scipy.linalg.expm(P / 50), rtol=1e-10)


def test_derivatives_pass_the_check():
    for f in (
        lambda a: linalg.cho_solve(linalg.cho_factor(a @ a.T), V),
        lambda a: linalg.lu_solve(linalg.lu_factor(a), B),
        lambda a: linalg.solve_triangular(a, V),
        lambda a: linalg.expm(a),
    ):
        ft.test_util.check_grads(f, (A / 4,), order=2, rtol=1e-4, atol=1e-4)


def test_lax_linalg_keeps_its_promises():
    q, r = lax.linalg.qr(WIDE.T, full_matrices=False)
    np.testing.assert_allclose(q @ r, WIDE.T)
    v, w = lax.linalg.eigh(PC)
    np.testing.assert_allclose(PC @ v, v * w, atol=1e-10)
    u, s, vh = lax.linalg.svd(WIDE, full_matrices=False)
    np.testing.assert_allclose((u * s) @ vh, WIDE)
    np.testing.assert_allclose(lax.linalg.svd(WIDE, compute_uv=False), s)
    factors, pivots, order = lax.linalg.lu(A[::-1])
    np.testing.assert_allclose(
        (np.tril(factors, -1) + np.eye(3)) @ np.triu(factors), A[::-1][order]
    )
    np.testing.assert_array_equal(lax.linalg.lu_pivots_to_permutation(pivots, 3), order)
    lower = lax.linalg.cholesky(PC)
    np.testing.assert_allclose(lower @ lower.conj().T, PC)
    x = lax.linalg.triangular_solve(lower, PC, lower=True, transpose_a=True, conjugate_a=True)
    np.testing.assert_allclose(x, lower, atol=1e-10)
    y = lax.linalg.triangular_solve(A, V, left_side=True)
    np.testing.assert_allclose(np.triu(A) @ y, V)
    np.testing.assert_allclose(lax.linalg.triangular_solve(A, V) @ np.triu(A), V)


def test_every_name_is_tested():
    assert set(linalg.__all__) == set(CALLS)
    assert set(lax.linalg.__all__) == set(
        "cholesky eigh lu lu_pivots_to_permutation qr svd triangular_solve".split()
    )
