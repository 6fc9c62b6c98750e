import itertools

import numpy as np
import pytest

import functrans as ft
import functrans.numpy as fnp
from functrans import lax
from functrans.compiler.code import matmul
from functrans.loop_ir import Buffer, MatMul
from functrans.printing_loops import program_to_python, run_python
from functrans.runtime import blas
from functrans.runtime.executable import compile_program
from tests.helpers.small_programs import product, program

EDGES = [1, 2, 3, 17]
DTYPES = [np.dtype(d) for d in ("bool", "i4", "u1", "f2", "f4", "f8", "c8", "c16")]


def random_array(rng, shape, dtype):
    x = rng.normal(size=shape) * 3
    if dtype.kind == "u":
        x = np.abs(x)
    if dtype.kind == "b":
        return x > 0
    if dtype.kind == "c":
        x = x + 1j * rng.normal(size=shape)
    return x.astype(dtype)


def check(p):
    rng = np.random.default_rng(0)
    args = [random_array(rng, b.shape, b.dtype) for b in p.inputs]
    want, got = run_python(p, args)[0], compile_program(p)(args)[0]
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    if got.dtype.kind in "biu":
        np.testing.assert_array_equal(got, want)
    else:
        k = p.steps[0].sizes[3]
        scale = 10 * max(k, 1) * np.finfo(got.dtype).eps
        np.testing.assert_allclose(got, want, rtol=scale, atol=scale * 10)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_layout_of_a_small_product(dtype):
    for lhs, rhs in itertools.product(["bmk", "bkm", "mk", "km"], ["bkn", "bnk", "kn", "nk"]):
        check(product((2, 3, 5, 4), dtype, lhs=lhs, rhs=rhs))


@pytest.mark.parametrize("dtype", [np.dtype("f4"), np.dtype("f8")], ids=str)
@pytest.mark.parametrize("m", EDGES)
def test_edge_sizes(dtype, m):
    for n, k in itertools.product(EDGES, EDGES):
        check(product((1, m, n, k), dtype))
        check(product((1, m, n, k), dtype, lhs="bkm", rhs="bnk"))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sizes", [(0, 2, 3, 4), (2, 0, 3, 4), (2, 3, 0, 4), (2, 3, 4, 0)])
def test_empty_products_are_zero(dtype, sizes):
    check(product(sizes, dtype))


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize(
    ("lhs", "rhs"), [("bmk", "bkn"), ("bkm", "bnk"), ("mbk", "bkn"), ("bmk", "knb"), ("mkb", "nkb")]
)
def test_large_products(dtype, lhs, rhs):
    check(product((2, 33, 70, 65), dtype, lhs=lhs, rhs=rhs))


@pytest.mark.parametrize("dtype", [np.dtype("f4"), np.dtype("f8")], ids=str)
def test_large_matrix_times_vector(dtype):
    check(product((1, 300, 1, 310), dtype))
    check(product((1, 1, 300, 310), dtype))
    check(product((1, 300, 310, 1), dtype))


def test_output_in_another_order_than_rows():
    for size in (3, 70):
        sizes, shape = (1, size, size + 1, size + 2), (size + 1, size)
        f8 = np.dtype("f8")
        step = MatMul(
            "out", "lhs", "rhs", sizes, (0, size + 2, 1), (0, size + 1, 1), (0, 1, size), f8
        )
        inputs = [Buffer("lhs", (size, size + 2), f8), Buffer("rhs", (size + 2, size + 1), f8)]
        check(program(inputs, [Buffer("out", shape, f8)], [step]))


def test_nan_and_infinity_reach_every_sum():
    p = product((1, 5, 6, 7), np.dtype("f8"))
    args = [np.ones((1, 5, 7)), np.ones((1, 7, 6))]
    args[0][0, 1, 2], args[1][0, 3, 4] = np.nan, np.inf
    np.testing.assert_array_equal(compile_program(p)(args)[0], run_python(p, args)[0])


def test_large_float_products_call_blas_and_small_ones_do_not():
    def calls_blas(n, dtype):
        return "gemm" in compile_program(product((1, n, n, n), np.dtype(dtype))).llvm

    assert calls_blas(200, "f8")
    assert calls_blas(200, "c8")
    assert not calls_blas(8, "f8")
    assert not calls_blas(200, "i8")


@pytest.fixture
def only_fortran_blas(monkeypatch):
    caches = (blas._c_interface, blas.gemm_symbol, matmul._routine)
    for cache in caches:
        cache.cache_clear()
    monkeypatch.setattr(blas, "libraries", list)
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.mark.usefixtures("only_fortran_blas")
@pytest.mark.parametrize("dtype", DTYPES[-4:], ids=str)
def test_fortran_interface_of_scipy_serves_as_well(dtype):
    assert blas.integer_bits() == 32
    for lhs, rhs in itertools.product(["bmk", "bkm"], ["bkn", "bnk"]):
        check(product((2, 33, 70, 65), dtype, lhs=lhs, rhs=rhs))


def test_products_print_as_products():
    text = program_to_python(product((1, 2, 3, 4), np.dtype("f8"), lhs="mk", rhs="nk"))
    assert "view(out, (1, 2, 3), (6, 3, 1))" not in text
    assert "out[...] = lhs @ rhs.T" in text


def attention(q, k, v):
    """Scores and values of heads, as (batch, time, head, width) arrays: einsum's favourite case."""
    scores = np.einsum("bqhd,bkhd->bhqk", q, k)
    return np.einsum("bhqk,bkhd->bqhd", scores, v)


@pytest.mark.parametrize("n", [3, 40])
def test_batches_of_two_axes_are_read_and_written_where_they_are(n):
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(2, n, 4, 5)) for _ in range(3))
    lowered = ft.jit(attention).lower(q, k, v)
    assert [type(step) for step in lowered.program.steps] == [MatMul, MatMul]
    np.testing.assert_allclose(lowered.compile()(q, k, v), attention(q, k, v), rtol=1e-12)
    np.testing.assert_allclose(run_python(lowered.program, [q, k, v])[0], attention(q, k, v))


def test_a_product_used_twice_keeps_its_order():
    x, y = np.arange(6.0).reshape(2, 3), np.arange(12.0).reshape(3, 4)

    def f(x, y):
        z = x @ y
        return z.T, z + 1

    for got, want in zip(ft.jit(f)(x, y), f(x, y), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    "same",
    [
        lambda z, empty: fnp.concatenate([z, empty]),
        lambda z, empty: lax.dynamic_update_slice(z, empty, (0, 0)),
        lambda z, empty: fnp.sum(z[None], axis=0),
        lambda z, empty: z,
    ],
)
def test_a_product_under_another_name_keeps_its_order(same):
    x, y, empty = np.arange(45.0).reshape(5, 9), np.arange(27.0).reshape(9, 3), np.zeros((0, 3))
    transposed, straight = ft.jit(lambda x, y: (lambda z: (z.T, z))(same(x @ y, empty)))(x, y)
    np.testing.assert_array_equal(straight, x @ y)
    np.testing.assert_array_equal(transposed, (x @ y).T)


def test_parts_of_a_large_product_do_not_depend_on_threads():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(600, 300)), rng.normal(size=(300, 501))
    f = ft.jit(lambda x, y: (x @ y, y.T @ x.T))
    with ft.threads(1):
        one = f(x, y)
    with ft.threads(3):
        three = f(x, y)
    for a, b in zip(one, three, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(one[0], x @ y, rtol=1e-12, atol=1e-12)
