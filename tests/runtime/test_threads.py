"""Large loops are shared among threads; what is computed does not depend on them."""

import math
import os
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest

import functrans as ft
from functrans.runtime import threads as pool

RNG = np.random.default_rng(0)
N = 300_000


def softmax_loss(x):
    shifted = x - np.max(x, axis=1, keepdims=True)
    return np.mean(np.log(np.sum(np.exp(shifted), axis=1)) - shifted[:, 0])


def layer_norm(x, scale):
    centred = x - np.mean(x, axis=1, keepdims=True)
    return np.sum(
        (centred / np.sqrt(np.mean(centred**2, axis=1, keepdims=True) + 1e-5) * scale) ** 2
    )


def convolved(w, strides=(1, 1)):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lambda x: ft.lax.conv_general_dilated(x, w, strides, "SAME", dimension_numbers=numbers)


def weight_gradient(images, w):
    return ft.grad(lambda w: np.sum(convolved(w)(images) ** 2))


def weights(*shape):
    return np.random.default_rng(1).normal(size=shape)


CONVOLUTIONS = {
    "images": (convolved(weights(3, 3, 8, 16)), RNG.normal(size=(20, 14, 30, 8))),
    "rows_of_few_images": (convolved(weights(3, 3, 16, 16)), RNG.normal(size=(3, 31, 30, 16))),
    "several_images_in_a_tile": (convolved(weights(3, 3, 32, 32)), RNG.normal(size=(37, 5, 5, 32))),
    "few_out_features": (convolved(weights(3, 3, 32, 2)), RNG.normal(size=(33, 20, 20, 32))),
    "image_gradient": (
        ft.grad(lambda x: np.sum(convolved(weights(3, 3, 8, 16), (2, 2))(x) ** 2)),
        RNG.normal(size=(17, 20, 20, 8)),
    ),
    "weight_gradient": (
        weight_gradient(RNG.normal(size=(29, 20, 20, 8)), weights(3, 3, 8, 16)),
        weights(3, 3, 8, 16),
    ),
    "weight_gradient_of_small_images": (
        weight_gradient(RNG.normal(size=(103, 5, 5, 16)), weights(3, 3, 16, 16)),
        weights(3, 3, 16, 16),
    ),
    "weight_gradient_of_few_out_features": (
        weight_gradient(RNG.normal(size=(40, 16, 16, 32)), weights(3, 3, 32, 2)),
        weights(3, 3, 32, 2),
    ),
}  # fmt: skip


def positive(x):
    return x @ np.swapaxes(x, -1, -2) + 9 * np.eye(x.shape[-1])


MATRICES = {
    "factors": (lambda x: np.linalg.cholesky(positive(x)), RNG.normal(size=(301, 20, 20))),
    "solutions": (
        lambda x: np.linalg.solve(positive(x), x[..., :2]), RNG.normal(size=(99, 30, 30)),
    ),
    "eigenvalues": (lambda x: np.linalg.eigvalsh(positive(x)), RNG.normal(size=(37, 24, 24))),
    "singular_values": (
        lambda x: np.linalg.svd(x, compute_uv=False), RNG.normal(size=(3, 11, 24, 20)),
    ),
    "gradients_of_factors": (
        ft.grad(lambda x: np.sum(np.sin(np.linalg.cholesky(positive(x))))),
        RNG.normal(size=(41, 30, 30)),
    ),
    "one_inverse": (lambda x: np.linalg.inv(positive(x)), RNG.normal(size=(200, 200))),
    "triangles": (lambda x: np.abs(np.linalg.qr(x)[1]), RNG.normal(size=(41, 24, 20))),
}  # fmt: skip
PRODUCTS = {
    "batched_products": (lambda x: x @ x, RNG.normal(size=(900, 12, 12))),
    "products_of_two_axes": (
        lambda x: np.einsum("bthi,bshi->bhts", x, x), RNG.normal(size=(40, 10, 12, 16)),
    ),
    "integer_products": (lambda x: x @ x, RNG.integers(-9, 9, size=(300, 15, 15))),
    "complex_products": (lambda x: x @ (1j * x), RNG.normal(size=(400, 15, 15)) + 1j),
    "few_columns": (lambda x: x @ x[:3].T, RNG.normal(size=(900, 500))),
    "matrix_times_vector": (lambda x: x @ x[0], RNG.normal(size=(900, 700))),
    "vector_times_matrix": (lambda x: x[:, 0] @ x, RNG.normal(size=(900, 700))),
    "large_product": (lambda x: x @ x.T, RNG.normal(size=(300, 200))),
}  # fmt: skip
ROWS = RNG.normal(size=(301, 700)).round(2)
ORDERS = {
    "sorted_rows": (lambda x: np.sort(x, axis=-1), ROWS),
    "orders_of_long_rows": (lambda x: np.argsort(x, axis=-1, kind="stable"), ROWS),
    "orders_of_short_rows": (
        lambda x: np.argsort(x, axis=-1, kind="stable"), ROWS.reshape(-1, 70),
    ),
    "largest_of_rows": (lambda x: ft.lax.top_k(x, 5), ROWS),
    "places_in_a_row": (lambda x: np.searchsorted(np.arange(99.0), x), RNG.normal(size=N)),
}  # fmt: skip
LOOKUPS = {
    "rows_by_number": (
        lambda i: np.sin(ft.numpy.take(np.arange(64e3).reshape(1000, 64), i, axis=0)),
        "rows",
    ),
    "numbers_by_number": (lambda i: ft.numpy.take(np.arange(1e3), i) * 2, "numbers"),
    "sums_of_numbers": (lambda i: np.sum(ft.numpy.take(np.arange(1e3), i)), "numbers"),
}
INDICES = {
    "rows": RNG.integers(-1000, 1000, size=9000),
    "numbers": RNG.integers(-1000, 1000, size=N),
}
PROGRAMS = {
    **{name: (f, INDICES[kind]) for name, (f, kind) in LOOKUPS.items()},
    **CONVOLUTIONS,
    **ORDERS,
    **PRODUCTS,
    **MATRICES,
    "elementwise": (lambda x: np.tanh(x) * np.exp(-x * x), RNG.normal(size=N)),
    "sums": (lambda x: (np.sum(x), np.max(x), np.sum(x * x), np.min(x)), RNG.normal(size=N)),
    "float32_sum": (np.sum, RNG.normal(size=N).astype(np.float32)),
    "integers": (lambda x: (np.sum(x), np.max(x), x * 3), RNG.integers(-9, 9, size=N)),
    "complex_sum": (np.sum, RNG.normal(size=N) + 1j * RNG.normal(size=N)),
    "rows": (ft.value_and_grad(softmax_loss), RNG.normal(size=(700, 300))),
    "columns": (lambda x: (np.sum(x, axis=0), np.max(x, axis=0)), RNG.normal(size=(3000, 90))),
    "middle_axis": (lambda x: np.sum(np.exp(x), axis=1), RNG.normal(size=(20, 150, 90))),
    "sums_and_columns": (
        ft.value_and_grad(lambda x: layer_norm(x, np.arange(300.0))), RNG.normal(size=(900, 300)),
    ),
    "transposed": (lambda x: np.sin(x.T) + 1, RNG.normal(size=(500, 600))),
    "all": (lambda x: (np.all(x > -9), np.any(x > 9)), RNG.normal(size=N)),
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_results_do_not_depend_on_the_number_of_threads(name):
    function, x = PROGRAMS[name]
    compiled = ft.jit(function)
    found = []
    for n in (1, 2, 5):
        with ft.threads(n):
            found.append([np.asarray(y).tobytes() for y in ft.tree.leaves(compiled(x))])
    assert found[0] == found[1] == found[2]
    for got, want in zip(ft.tree.leaves(compiled(x)), ft.tree.leaves(function(x)), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5 if x.dtype == np.float32 else 1e-9)


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("name", LOOKUPS)
def test_the_first_index_out_of_bounds_is_reported(name, n):
    function, kind = LOOKUPS[name]
    indices = INDICES[kind].copy()
    wrong = np.linspace(len(indices) // 3, len(indices) - 1, 7).astype(int)
    indices[wrong] = 5000 + np.arange(7)
    with ft.threads(n), pytest.raises(IndexError, match="index 5000 is out of bounds"):
        ft.jit(function)(indices)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_of_several_failures_in_a_batch_one_is_reported(n):
    x = positive(RNG.normal(size=(301, 20, 20)))
    x[[7, 150, 290]] *= -1
    with ft.threads(n), pytest.raises(np.linalg.LinAlgError, match="not positive definite"):
        ft.jit(np.linalg.cholesky)(x)


def test_loops_are_really_shared():
    ft.jit(np.sin)(RNG.normal(size=N))
    with ft.threads(3):
        ft.jit(lambda x: np.sin(x) + 2)(RNG.normal(size=N))
        assert pool._pool[pool.STARTED] >= 2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1000, 1024, 1025, 70_001, 4_000_003])
def test_sums_are_as_exact_as_numpys(dtype, size):
    x = np.random.default_rng(size).random(size).astype(dtype)
    exact = math.fsum(x)
    unit = np.finfo(dtype).eps * exact
    numpys = abs(float(np.sum(x)) - exact) / unit
    assert abs(float(ft.jit(np.sum)(x)) - exact) / unit <= max(numpys, 1)


def test_long_rows_are_summed_pairwise_too():
    x = np.random.default_rng(0).random((3, 2_000_000)).astype(np.float32)
    exact = [math.fsum(row) for row in x]
    np.testing.assert_allclose(ft.jit(lambda x: np.sum(x, axis=1))(x), exact, rtol=3e-7)


@pytest.mark.parametrize("size", [1024, 1025, 70_001])
@pytest.mark.parametrize("name", ["cumsum", "cumprod", "cummax", "cumlogsumexp"])
def test_running_sums_are_not_cut_into_blocks(name, size):
    x = np.random.default_rng(0).uniform(0.99, 1.01, (2, size))
    running = getattr(ft.ops, name)
    for reverse in (False, True):
        got = ft.jit(lambda x, r=reverse: running(x * 1.0, axis=1, reverse=r))(x)
        np.testing.assert_allclose(got, running(x, axis=1, reverse=reverse), rtol=1e-9)


@pytest.mark.parametrize("shape", [(2, 300_000), (5, 200_000), (70, 150_000), (3_000_000, 9)])
def test_sums_of_long_rows_and_of_many_rows_do_not_fill_the_stack(shape):
    x = np.arange(np.prod(shape), dtype=np.int32).reshape(shape) % 7
    compiled = ft.jit(lambda x: (np.sum(x, axis=0), np.sum(np.max(x, axis=1))))
    found = []

    def work():
        found.extend(compiled(x))

    before = threading.stack_size(1 << 18)
    try:
        small = threading.Thread(target=work)
        small.start()
    finally:
        threading.stack_size(before)
    small.join()
    np.testing.assert_array_equal(found[0], np.sum(x, axis=0))
    np.testing.assert_array_equal(found[1], np.sum(np.max(x, axis=1)))


def test_calls_from_several_threads_do_not_wait_for_each_other():
    compiled = ft.jit(lambda x: (np.sum(np.tanh(x)), np.tanh(x)))
    xs = [RNG.normal(size=N) for _ in range(4)]
    want = [np.sum(np.tanh(x)) for x in xs]
    wrong = []

    def work(i):
        for _ in range(20):
            if not np.isclose(compiled(xs[i])[0], want[i], rtol=1e-12):
                wrong.append(i)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert not wrong
    assert not any(worker.is_alive() for worker in workers)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_computes():
    program = """
        import os, warnings, numpy as np, functrans as ft
        warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of any thread at a fork
        f = ft.jit(lambda x, w: np.sum(np.tanh(x @ w)))
        x, w = np.ones((900, 300)), np.ones((300, 400)) / 300
        ft.threads(3)
        want = f(x, w)
        for _ in range(3):
            child = os.fork()
            if child == 0:
                os._exit(0 if f(x, w) == want and f(x, w) == want else 1)
            assert os.waitpid(child, 0)[1] == 0
            assert f(x, w) == want
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    subprocess.run(command, check=True, timeout=120)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_child_forked_while_another_thread_compiles_can_compile():
    program = """
        import os, signal, threading, warnings, numpy as np, functrans as ft
        warnings.simplefilter("ignore", DeprecationWarning)
        x, done = np.ones(200), threading.Event()

        def compile_on():
            count = 0
            while not done.is_set():
                count += 1
                ft.jit(lambda x: np.sum(np.sin(x * (0.3 + count)) + count))(x)

        other = threading.Thread(target=compile_on)
        other.start()
        for i in range(5):
            child = os.fork()
            if child == 0:
                signal.alarm(20)
                ft.jit(lambda x: np.cos(x * (0.7 + i)))(x)
                os._exit(0)
            failed = os.waitpid(child, 0)[1]
            if failed:
                break
        done.set()
        other.join()
        assert not failed, failed
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    environment = {**os.environ, "FUNCTRANS_CACHE": "off"}
    subprocess.run(command, check=True, timeout=120, env=environment)


def test_the_limit_is_set_and_given_back():
    before = ft.threads.limit()
    with ft.threads(1):
        assert ft.threads.limit() == 1
        with ft.threads(7):
            assert ft.threads.limit() == 7
        assert ft.threads.limit() == 1
    assert ft.threads.limit() == before
    limit = ft.threads(before)
    assert repr(limit) == f"threads({before})"


@pytest.mark.parametrize("n", [0, -1, 2.0, "2", True])
def test_no_threads_are_refused(n):
    with pytest.raises(ValueError, match="at least 1"):
        ft.threads(n)
