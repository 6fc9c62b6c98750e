"""A product and what is done with its rows go tile by tile; the results are those of all rows."""

import numpy as np
import pytest

import functrans as ft
import functrans.numpy as fnp
from functrans.compiler.planning import tiling
from functrans.loop_ir import KernelCall, MatMul, Tiled
from functrans.printing_loops import run_python
from tests.helpers.lowered_programs import check_lowering

RNG = np.random.default_rng(0)
X = RNG.normal(size=(8000, 12))
W, V = RNG.normal(size=(12, 20)), RNG.normal(size=(20, 7))
B = RNG.normal(size=20)


def tiles(program):
    return [[type(s) for s in step.steps] for step in program.steps if isinstance(step, Tiled)]


def dense(x, w, b):
    return fnp.maximum(x @ w + b, 0)


def test_an_epilogue_goes_with_its_product(golden):
    program = check_lowering(dense, X, W, B)
    assert tiles(program) == [[MatMul, KernelCall]]
    golden("loops_dense_by_tiles", str(ft.jit(dense).lower(X, W, B).loop_program))


def test_a_network_goes_by_tiles_as_a_whole():
    def network(x, w, b, v):
        y = fnp.tanh(x @ w + b) @ v
        e = fnp.exp(y - fnp.max(y, axis=1, keepdims=True))
        return e / fnp.sum(e, axis=1, keepdims=True)

    program = check_lowering(network, X, W, B, V)
    assert tiles(program) == [[MatMul, KernelCall, MatMul, KernelCall]]


@pytest.mark.parametrize("rows", [1, 63, 64, 65, 1000, 2048, 2049, 4097])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_numbers_of_rows(monkeypatch, rows, dtype):
    monkeypatch.setattr(tiling, "LEAST_BYTES", 0)
    monkeypatch.setattr(tiling, "LEAST_ROWS", 16)
    monkeypatch.setattr(tiling, "TILE_BYTES", 1 << 13)
    args = [a.astype(dtype) for a in (np.tile(X, (1, 1))[:rows], W, B)]
    check_lowering(dense, *args)
    # Rows of the operand that the epilogue reads again, and a result that is no product's.
    check_lowering(lambda x, w, b: (x * 2 + dense(x, w, b)[:, :12], fnp.sum(x @ w, axis=1)), *args)


def test_results_do_not_depend_on_the_number_of_threads():
    compiled = ft.jit(dense).lower(X, W, B).compile()
    found = []
    for n in (1, 2, 4):
        with ft.threads(n):
            found.append(compiled(X, W, B))
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


@pytest.mark.parametrize(
    "f",
    [
        lambda x, w: fnp.sum(fnp.tanh(x @ w), axis=0),  # a sum over the rows
        lambda x, w: (x @ w)[::-1] + 1,  # other rows than the product's
        lambda x, w: fnp.tanh((x @ w)[1:] - (x @ w)[:-1]),  # the next row as well
        lambda x, w: fnp.cumsum(x @ w, axis=0),
        lambda x, w: (x @ w).T @ x,
        lambda x, w: fnp.tanh(x @ w).T,
    ],
)
def test_what_crosses_rows_is_not_tiled_with_them(f):
    for group in tiles(check_lowering(f, X, W)):
        assert group == [MatMul, KernelCall]


def test_the_number_of_a_row_is_that_of_all_rows():
    def f(x, w):
        return fnp.tanh(x @ w) * fnp.arange(len(x))[:, None]

    check_lowering(f, X, W)


def test_a_result_may_take_the_memory_of_the_rows_it_is_made_of():
    x, w = RNG.normal(size=(10000, 16)), RNG.normal(size=(16, 16))
    want = np.maximum(x @ w, 0)
    f = ft.jit(lambda x, w: fnp.maximum(x @ w, 0), donate_argnums=0)
    program = f.lower(x, w).program
    assert tiles(program)
    np.testing.assert_allclose(run_python(program, [x.copy(), w])[0], want, rtol=1e-9)
    np.testing.assert_allclose(f(x.copy(), w), want, rtol=1e-9)


def test_small_products_and_long_sums_are_left_alone():
    assert not tiles(check_lowering(dense, X[:100], W, B))
    x, w = RNG.normal(size=(200, 1000)), RNG.normal(size=(1000, 300)) / 30
    assert not tiles(check_lowering(lambda x, w: fnp.tanh(x @ w), x, w))
