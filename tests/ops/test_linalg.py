"""The primitives of linear algebra: values, derivatives, batches and compiled code agree."""

import itertools

import numpy as np
import pytest

import functrans as ft
from functrans import ops
from functrans.core import Zero, get_aval, instantiate
from functrans.ops import factorizations, matrices
from functrans.printing_loops import run_python
from tests.helpers.primitive_rules import random_array

DTYPES = [np.float32, np.float64, np.complex64, np.complex128]


def general(dtype, *shape, seed=0):
    return random_array(shape, dtype, seed)


def regular(dtype, *shape, seed=0):
    return general(dtype, *shape, seed=seed) + 3 * np.eye(shape[-1], dtype=dtype)


def hermitian(dtype, *shape, seed=0):
    a = general(dtype, *shape, seed=seed)
    return a + np.conj(np.swapaxes(a, -1, -2))


def positive(dtype, *shape, seed=0):
    a = general(dtype, *shape, seed=seed)
    return a @ np.conj(np.swapaxes(a, -1, -2)) + np.eye(shape[-1], dtype=dtype)


def only(primitive):
    """A primitive of one result as a function of a list."""
    return lambda *args, **params: [primitive(*args, **params)]


def factored(a):
    return (a, *ops.lu(ops.stop_gradient(a)))


def eigenspaces(a, lower):
    """Eigenvalues and what does not depend on the phase of the vectors."""
    w, v = ops.eigh(a, lower=lower, vectors=True)
    return [
        w,
        matrices.product(matrices.times_columns(v, w.astype(a.dtype) ** 3), matrices.adjoint(v)),
    ]


def singular_spaces(a):
    u, s, vh = ops.svd(a, full_matrices=False, compute_uv=True)
    return [s, matrices.product(matrices.times_columns(u, s.astype(a.dtype) ** 3), vh)]


def complement_by_qr(a):
    """What does not depend on how the columns behind the first n are chosen."""
    q, r = ops.qr(a, full_matrices=True)
    rest = q[..., :, a.shape[-1] :]
    return [matrices.product(q, r), matrices.product(rest, matrices.adjoint(rest))]


def complements_by_svd(a):
    u, s, vh = ops.svd(a, full_matrices=True, compute_uv=True)
    k = min(a.shape[-2:])
    u, vh = u[..., :, k:], vh[..., k:, :]
    return [s, matrices.product(u, matrices.adjoint(u)), matrices.product(matrices.adjoint(vh), vh)]


def vectors_without_phase(a):
    w, v = ops.eig(a, vectors=True)
    return [w, ops.real(ops.mul(v, ops.conj(v)))]


# Per row: a function of matrices to a list of results, and how each of its operands is made.
CASES = {
    "cholesky": (only(ops.cholesky), [positive]),
    "cholesky_tangent": (only(ops.cholesky_tangent), [regular, hermitian]),
    "cholesky_cotangent": (only(ops.cholesky_cotangent), [regular, general]),
    "lu": (lambda a: ops.lu(a)[:1], [regular]),
    "solve": (only(factorizations.solve), [regular, general]),
    "determinant": (lambda a: [ops.determinant(*factored(a))], [regular]),
    "log_determinant": (lambda a: ops.log_determinant(*factored(a)), [regular]),
    "qr": (lambda a: ops.qr(a, full_matrices=False), [regular]),
    "eigh lower": (lambda a: eigenspaces(a, True), [hermitian]),
    "eigvalsh upper": (lambda a: ops.eigh(a, lower=False, vectors=False), [hermitian]),
    "svd": (singular_spaces, [regular]),
    "svdvals": (lambda a: ops.svd(a, full_matrices=True, compute_uv=False), [regular]),
    "pseudo_inverse": (lambda a: [ops.pseudo_inverse(a, rtol=1e-15)], [regular]),
    "qr full": (complement_by_qr, [regular]),
    "svd full": (complements_by_svd, [regular]),
    "eig": (vectors_without_phase, [regular]),
}
TRIANGULAR = [
    dict(zip("left_side lower transpose_a conjugate_a unit_diagonal".split(), flags, strict=True))
    for flags in itertools.product([False, True], repeat=5)
]


def shapes_of(name):
    """Square matrices, and others where the operation takes them."""
    wide = name.split()[0] in ("lu", "qr", "svd", "svdvals", "pseudo_inverse")
    return [(4, 4), (3, 5), (5, 3)] if wide else [(4, 4)]


def rows():
    return [(n, s) for n in CASES for s in shapes_of(n)]


def operands(name, dtype, *shape, seed=0):
    makers = CASES[name][1]
    out = []
    for i, make in enumerate(makers):
        if shape[-1] == shape[-2]:
            out.append(make(dtype, *shape, seed=seed + i))
        else:
            out.append(general(dtype, *shape, seed=seed + i))
    if name.startswith("cholesky_"):
        out[0] = np.tril(out[0])
    return out


def tangents(name, args):
    """Directions that keep the structure of the operands."""
    return operands(name, args[0].dtype, *args[0].shape, seed=20)


def close(actual, expected, dtype=None, scale=1.0):
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected, strict=True):
        assert get_aval(a) == get_aval(e)
        eps = float(np.finfo(e.dtype).eps)
        tolerance = 2000 * eps * scale
        np.testing.assert_allclose(
            a, e, rtol=tolerance, atol=tolerance * max(1, np.max(abs(e), initial=0))
        )


def native(f):
    return ft.jit(f, host_steps="error")


@pytest.mark.parametrize("dtype", [np.float32, np.complex128])
@pytest.mark.parametrize(("name", "shape"), rows(), ids=str)
def test_compiled_without_host_steps_equals_eager(name, shape, dtype):
    f = CASES[name][0]
    args = operands(name, dtype, 2, *shape)
    close(native(f)(*args), f(*args))
    spread = [np.concatenate([x, x], -1)[..., : x.shape[-1]].swapaxes(0, 1) for x in args]
    close(native(f)(*[x.swapaxes(0, 1) for x in spread]), f(*args))


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize(("name", "shape"), rows(), ids=str)
def test_tangents_are_central_differences_also_compiled(name, shape, dtype):
    f = CASES[name][0]
    args = operands(name, dtype, *shape)
    ts = tangents(name, args)
    values, moved = ft.jvp(f, args, ts)
    close(values, f(*args))
    step = 1e-6
    ahead, behind = (f(*(x + s * t for x, t in zip(args, ts, strict=True))) for s in (step, -step))
    for t, a, b in zip(moved, ahead, behind, strict=True):
        np.testing.assert_allclose(t, (a - b) / (2 * step), rtol=2e-6, atol=1e-6)
    if dtype is np.float64:
        close(native(lambda *args: ft.jvp(f, args, ts)[1])(*args), moved, scale=10)


def numbers(xs):
    return sum(np.sum(np.real(np.asarray(a) * np.asarray(b))) for a, b in xs)


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize(("name", "shape"), rows(), ids=str)
def test_reverse_mode_is_the_transpose_of_forward_mode(name, shape, dtype):
    f = CASES[name][0]
    args = operands(name, dtype, *shape)
    ts = tangents(name, args)
    values, moved = ft.jvp(f, args, ts)
    cts = [general(y.dtype, *y.shape, seed=40 + i) for i, y in enumerate(values)]
    back = ft.vjp(f, *args)[1](cts)
    expected = numbers(zip(cts, moved, strict=True))
    np.testing.assert_allclose(numbers(zip(back, ts, strict=True)), expected, rtol=1e-9, atol=1e-9)
    if dtype is np.float64:
        compiled = native(lambda *args: ft.vjp(f, *args)[1](cts))(*args)
        close(compiled, list(back), scale=10)


@pytest.mark.parametrize("name", CASES)
def test_second_derivatives_forward_over_reverse_equal_differences(name):
    f = CASES[name][0]
    args = operands(name, np.float64, 3, 3)
    ts = tangents(name, args)

    def loss(*args):
        return sum(np.sum(np.sin(np.real(y)) + np.cos(np.imag(y))) for y in f(*args))

    gradient = ft.grad(loss, argnums=tuple(range(len(args))))
    _, moved = ft.jvp(gradient, args, ts)
    step = 1e-5
    ahead, behind = (
        gradient(*(x + s * t for x, t in zip(args, ts, strict=True))) for s in (step, -step)
    )
    for t, a, b in zip(moved, ahead, behind, strict=True):
        np.testing.assert_allclose(t, (a - b) / (2 * step), rtol=1e-5, atol=1e-5)
    twice = ft.grad(
        lambda *args: sum(np.sum(g * t) for g, t in zip(gradient(*args), ts, strict=True))
    )
    keep = np.tril if name.startswith("cholesky_") else np.asarray  # the rest is never read
    close([keep(twice(*args))], [keep(moved[0])], scale=1e4)


@pytest.mark.parametrize("name", CASES)
def test_printed_program_runs_in_python(name):
    args = operands(name, np.float64, 2, 3, 3)
    expected = CASES[name][0](*args)
    program = native(CASES[name][0]).lower(*args).program
    close(list(run_python(program, args)), expected)


@pytest.mark.parametrize("name", CASES)
def test_vmap_is_a_stack(name):
    f = CASES[name][0]
    examples = [operands(name, np.float64, 3, 3, seed=10 * i) for i in range(3)]
    stacked = [np.stack(xs, 1) for xs in zip(*examples, strict=True)]
    expected = [np.stack(ys) for ys in zip(*(f(*e) for e in examples), strict=True)]
    close(ft.vmap(f, in_axes=1)(*stacked), expected)
    close(native(ft.vmap(f, in_axes=1))(*stacked), expected)


@pytest.mark.parametrize("params", TRIANGULAR, ids=lambda p: "".join("ny"[v] for v in p.values()))
@pytest.mark.parametrize("dtype", DTYPES)
def test_triangular_solve_reads_one_triangle_and_solves(params, dtype):
    n, k = 4, 3
    a = regular(dtype, 2, n, n)
    t = np.tril(a) if params["lower"] else np.triu(a)
    if params["unit_diagonal"]:
        t = t - t * np.eye(n, dtype=dtype) + np.eye(n, dtype=dtype)
    t = np.swapaxes(t, -1, -2) if params["transpose_a"] else t
    t = np.conj(t) if params["conjugate_a"] else t
    for columns, f in itertools.product((k, 1), (lambda f: f, native)):
        b = general(dtype, 2, n, columns) if params["left_side"] else general(dtype, 2, columns, n)
        x = f(lambda a, b: ops.triangular_solve(a, b, **params))(a, b)
        close([t @ x if params["left_side"] else x @ t], [b])
        by_view = f(lambda a, b: ops.triangular_solve(a.mT, b, **params))(
            a.swapaxes(1, 2).copy(), b
        )
        close([by_view], [x])


@pytest.mark.parametrize(
    "params", TRIANGULAR[::3], ids=lambda p: "".join("ny"[v] for v in p.values())
)
@pytest.mark.parametrize("batched", [(0, None), (None, 1), (2, 0)])
def test_triangular_solve_rules(params, batched):
    n = 3
    a = regular(np.complex128, 2, n, n)
    b = general(np.complex128, 2, n, n)
    f = lambda a, b: ops.triangular_solve(a, b, **params)  # noqa: E731
    args = [a[0], b[0]]
    ts = [regular(np.complex128, n, n, seed=3), general(np.complex128, n, n, seed=4)]
    _, moved = ft.jvp(f, args, ts)
    step = 1e-6
    ahead, behind = (f(*(x + s * t for x, t in zip(args, ts, strict=True))) for s in (step, -step))
    np.testing.assert_allclose(moved, (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-7)
    ct = general(np.complex128, n, n, seed=5)
    back = ft.vjp(f, *args)[1](ct)
    np.testing.assert_allclose(numbers(zip(back, ts, strict=True)), numbers([(ct, moved)]))
    expected = np.stack([f(x, y) for x, y in zip(*(
        [s[0]] * 2 if d is None else s for s, d in zip((a, b), batched, strict=True)
    ), strict=True)])  # fmt: skip
    stacked = [
        x[0] if d is None else np.moveaxis(x, 0, d) for x, d in zip((a, b), batched, strict=True)
    ]
    close([ft.vmap(f, in_axes=batched)(*stacked)], [expected])


@pytest.mark.parametrize("f", [lambda f: f, native], ids=["eager", "compiled"])
class TestEdges:
    def test_failures_raise_as_numpy_does(self, f):
        with pytest.raises(np.linalg.LinAlgError, match="Matrix is not positive definite"):
            f(ops.cholesky)(-np.eye(3))
        with pytest.raises(np.linalg.LinAlgError, match="Singular matrix"):
            f(factorizations.solve)(np.ones((3, 3)), np.ones((3, 2)))
        with pytest.raises(np.linalg.LinAlgError, match="Singular matrix"):
            f(factorizations.solve)(np.stack([np.eye(2), np.ones((2, 2))]), np.ones((2, 2, 1)))

    def test_nan_neither_hangs_nor_ends_the_process(self, f):
        a = np.full((3, 3), np.nan)
        with pytest.raises(np.linalg.LinAlgError, match="infs or NaNs"):
            f(lambda a: ops.eig(a, vectors=True))(a)
        for g in (
            lambda a: ops.svd(a, full_matrices=False, compute_uv=True),
            lambda a: ops.eigh(a, lower=True, vectors=True),
        ):
            with pytest.raises(np.linalg.LinAlgError, match="did not converge"):
                f(g)(a)
        assert np.all(np.isnan(f(lambda a: ops.qr(a, full_matrices=True)[1])(a)[0]))
        assert np.all(np.isnan(f(lambda a: ops.lu(a)[0])(a)))

    def test_singular_matrices_have_factors_and_determinants(self, f):
        a = np.ones((2, 3, 3))
        assert np.all(f(lambda a: ops.lu(a)[0])(a)[:, 0] == 1)
        assert np.all(f(lambda a: ops.determinant(*factored(a)))(a) == 0)
        sign, size = f(lambda a: ops.log_determinant(*factored(a)))(a)
        assert np.all(sign == 0)
        assert np.all(size == -np.inf)

    def test_zero_on_the_diagonal_of_a_triangle_divides(self, f):
        params = dict(TRIANGULAR[0], left_side=True)
        x = f(lambda a, b: ops.triangular_solve(a, b, **params))(np.zeros((2, 2)), np.ones((2, 1)))
        assert not np.any(np.isfinite(x))

    @pytest.mark.parametrize("shape", [(0, 0), (2, 0, 0), (0, 3, 3)])
    def test_empty(self, f, shape):
        for g, _ in CASES.values():
            n = len(CASES[next(k for k, v in CASES.items() if v[0] is g)][1])
            args = [np.zeros(shape)] * n
            out = f(g)(*args)
            assert all(y.size in (0, *([2] if shape[0] == 2 else [1])) for y in out)
        np.testing.assert_array_equal(
            f(lambda a: ops.determinant(*factored(a)))(np.zeros((2, 0, 0))), [1, 1]
        )

    def test_full_factors_complete_a_basis(self, f):
        a = general(np.complex128, 5, 3)
        q, r = f(lambda a: ops.qr(a, full_matrices=True))(a)
        np.testing.assert_allclose(q @ r, a, atol=1e-12)
        np.testing.assert_allclose(q.conj().T @ q, np.eye(5), atol=1e-12)
        u, s, vh = f(lambda a: ops.svd(a, full_matrices=True, compute_uv=True))(a)
        np.testing.assert_allclose((u[:, :3] * s) @ vh, a, atol=1e-12)
        np.testing.assert_allclose(u.conj().T @ u, np.eye(5), atol=1e-12)


def test_only_one_triangle_is_read():
    a = positive(np.float64, 4, 4)
    rubbish = np.tril(a) + np.triu(np.full((4, 4), np.nan), 1)
    close([native(ops.cholesky)(rubbish)], [ops.cholesky(a)])
    f = lambda a: ops.eigh(a, lower=True, vectors=True)  # noqa: E731
    close(native(f)(rubbish), f(a))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 24, 25, 70])
def test_cotangent_by_halves_is_that_of_the_closed_formula(n, dtype):
    factor = ops.cholesky(positive(dtype, 2, n, n) + n * np.eye(n, dtype=dtype))
    ct = general(dtype, 2, n, n, seed=1)
    close([native(ops.cholesky_cotangent)(factor, ct)], [ops.cholesky_cotangent(factor, ct)])


def test_degenerate_eigenvalues_have_finite_derivatives():
    a = np.diag([2.0, 2.0, 5.0, 5.0])
    t = hermitian(np.float64, 4, 4)

    def invariant(a):
        w, v = ops.eigh(a, lower=True, vectors=True)
        low = v[:, :2]
        return np.sum(np.exp(w)), low @ low.T

    (_, space), (total, turned) = ft.jvp(invariant, (a,), (t,))
    np.testing.assert_allclose(total, np.sum(np.diag(t) * np.exp(np.diag(a))))
    step = 1e-6
    expected = (invariant(a + step * t)[1] - invariant(a - step * t)[1]) / (2 * step)
    np.testing.assert_allclose(turned, expected, atol=1e-8)
    np.testing.assert_allclose(space, np.diag([1, 1, 0, 0]), atol=1e-12)
    for f in (lambda a: ops.svd(a, full_matrices=False, compute_uv=True)[0], ops.cholesky):
        assert np.all(np.isfinite(ft.grad(lambda a, f=f: np.sum(np.sin(f(a))))(a)))
    rank_one = np.ones((3, 3))
    gradient = ft.grad(lambda a: np.sum(ops.svd(a, full_matrices=False, compute_uv=False)[0][:1]))
    np.testing.assert_allclose(gradient(rank_one), rank_one / 3, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_eigenvectors_move_as_lapack_normalizes_them(dtype):
    a, t = general(dtype, 4, 4), general(dtype, 4, 4, seed=1)
    vectors = lambda a: ops.eig(a, vectors=True)[1]  # noqa: E731
    _, moved = ft.jvp(vectors, (a,), (t,))
    step = 1e-6
    ahead, behind = vectors(a + step * t), vectors(a - step * t)
    behind = behind * np.sign(np.sum(np.real(ahead * np.conj(behind)), axis=0))  # signs are free
    turned = np.sign(np.sum(np.real(ahead * np.conj(vectors(a))), axis=0))
    np.testing.assert_allclose(moved * turned, (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-8)


def test_determinant_of_a_singular_matrix_has_the_adjugate_as_gradient():
    a = np.array([[2.0, 1.0], [4.0, 2.0]])
    det = lambda a: ops.determinant(*factored(a))  # noqa: E731
    np.testing.assert_allclose(ft.grad(det)(a), [[2, -4], [-1, 2]], atol=1e-12)
    np.testing.assert_allclose(ft.jit(ft.grad(det))(np.zeros((3, 3))), np.zeros((3, 3)))


def test_symmetric_gradient_of_cholesky():
    a = positive(np.float64, 3, 3)
    g = ft.grad(lambda a: np.sum(ops.cholesky(a)))(a)
    np.testing.assert_allclose(g, g.T)


def test_operands_are_checked():
    a = np.eye(3)
    with pytest.raises(ValueError, match="cholesky needs square matrices"):
        ft.make_jaxpr(ops.cholesky)(a[:2])
    with pytest.raises(TypeError, match="cholesky does not accept f16"):
        ft.make_jaxpr(ops.cholesky)(a.astype(np.float16))
    with pytest.raises(TypeError, match="triangular_solve needs operands of equal dtype"):
        ft.make_jaxpr(lambda a, b: ops.triangular_solve(a, b, **TRIANGULAR[0]))(a, a + 0j)
    with pytest.raises(ValueError, match="triangular_solve of f64"):
        ft.make_jaxpr(lambda a, b: ops.triangular_solve(a, b, **TRIANGULAR[0]))(a, a[:, :2])
    with pytest.raises(TypeError, match="not linear in the matrix"):
        ft.linear_transpose(lambda a: ops.triangular_solve(a, a, **TRIANGULAR[0]), a)(a)


def test_zero_tangents_stay_symbolic():
    a = positive(np.float64, 3, 3)
    zero = Zero(get_aval(a))
    assert type(ops.cholesky.jvp((a,), (zero,))[1]) is Zero
    assert all(type(t) is Zero for t in ops.lu.jvp((a,), (zero,))[1])
    assert instantiate(ops.qr.jvp((a,), (zero,), full_matrices=False)[1][0]).shape == (3, 3)


def test_every_primitive_is_tested():
    names = set(factorizations.__all__) | set(ops.solves.__all__) | set(ops.spectral.__all__)
    tested = {n.split()[0] for n in CASES} | {"eigh", "triangular_solve", "solve_factored"}
    assert names - tested == {"pivots_to_order"}


def test_pivots_to_order():
    pivots = np.array([[2, 2, 2], [0, 1, 2]])
    for f in (lambda f: f, native):
        order = f(lambda p: ops.pivots_to_order(p, size=4))(pivots)
        np.testing.assert_array_equal(order, [[2, 0, 1, 3], [0, 1, 2, 3]])
