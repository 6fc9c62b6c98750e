"""OpenBLAS's own threads: programs hold them back while they run, and let them go after."""

import ctypes
import os
import threading
import warnings

import numpy as np
import pytest

import functrans as ft
from functrans.runtime import blas, codegen

A = np.random.default_rng(0).normal(size=(64, 64))
SPD = np.stack([A @ A.T + 64 * np.eye(64)] * 4)
product = ft.jit(lambda x: x @ x)
factors = ft.jit(np.linalg.cholesky)
gradients = ft.jit(ft.grad(lambda x: np.sum(np.linalg.cholesky(x))))


@pytest.fixture(autouse=True)
def two_threads():
    if blas.allowed_threads() is None:
        pytest.skip("this BLAS does not say how many threads it has")
    with ft.threads(2):
        yield


def at_once(*works):
    """Run each in a thread of its own."""
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def repeated(f, x, count):
    return lambda: [f(x) for _ in range(count)]


def native(name):
    """The function behind the name, as programs call it."""
    text = f"define void @ft_entry_test_{name}() {{\n  call void @ft_blas_{name}()\n  ret void\n}}"
    codegen.provide(f"test_{name}", "\n".join([*blas.holding_parts(), text]))
    return ctypes.CFUNCTYPE(None)(codegen.address_of(f"ft_test_{name}"))


def test_the_last_that_holds_gives_back_what_is_then_allowed():
    hold, release = native("hold"), native("release")
    hold()
    hold()
    assert blas.allowed_threads() == 1
    release()
    assert blas.allowed_threads() == 1
    with ft.threads(3):
        assert blas.allowed_threads() == 1
        release()
        assert blas.allowed_threads() == 3
        hold()
    release()
    assert blas.allowed_threads() == 2


def test_programs_at_once_leave_openblas_its_threads():
    for f, x in ((product, A), (factors, SPD), (gradients, SPD)):
        f(x)
    for _ in range(5):
        at_once(repeated(product, A, 1000), repeated(product, A, 1000), repeated(factors, SPD, 300))
        assert blas.allowed_threads() == 2
    at_once(repeated(gradients, SPD, 300), repeated(product, A, 1000))
    assert blas.allowed_threads() == 2


def test_a_limit_that_begins_and_ends_during_products_is_given_back():
    product(A)
    for _ in range(40):
        workers = [threading.Thread(target=repeated(product, A, 100)) for _ in range(2)]
        for worker in workers:
            worker.start()
        while any(worker.is_alive() for worker in workers):
            with ft.threads(3):
                pass
        assert blas.allowed_threads() == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_children_forked_during_products_compute_and_nearly_all_have_all_threads():
    expected = product(A)
    stop = threading.Event()
    worker = threading.Thread(target=lambda: [product(A) for _ in iter(stop.is_set, True)])
    worker.start()
    codes = []
    for _ in range(20):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            is_right = (product(A) == expected).all()
            os._exit(blas.allowed_threads() if is_right else 0)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    stop.set()
    worker.join()
    assert set(codes) <= {1, 2}
    assert codes.count(2) > 15  # the others were forked while the number was set
