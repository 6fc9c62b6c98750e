"""Large results: memory that a loop frees is what it gets next, and arrays are as NumPy's."""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy._core.multiarray import get_handler_name

import functrans as ft
from functrans.runtime import python_objects, result_memory

MB = 1 << 20
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux counts")


@ft.jit
def twice(x):
    return 2 * x


@ft.jit
def eight(x):
    return [k * x for k in range(8)]


def numbers(nbytes: float) -> np.ndarray:
    return np.arange(int(nbytes) // 8, dtype=np.float64)


# ---------------------------------------------------------------------------- memory


def _page_faults(run: Callable[[], object], *, calls: int) -> int:
    """How many pages the system hands out while `run` is called, after a warm-up."""
    resource = pytest.importorskip("resource")
    for _ in range(5):
        run()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(calls):
        run()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def _resident() -> int:
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"VmRSS:\s*(\d+) kB", status)[0]) * 1024


@on_linux
@pytest.mark.parametrize("size", [0.5 * MB, MB, 8 * MB])
def test_a_loop_of_large_results_has_no_page_faults(size):
    x = numbers(size)

    def run():
        for _ in range(2):
            y = twice(x)
        return y[0]

    assert _page_faults(run, calls=20) < 100  # where glibc gives memory back, 2000 for a MB


@on_linux
def test_results_beyond_what_glibc_keeps_have_no_page_faults():
    x = numbers(40 * MB)
    assert _page_faults(lambda: twice(x)[0], calls=5) < 100


@on_linux
def test_many_small_results_that_are_large_together_have_no_page_faults():
    x = numbers(MB / 16)

    def run():
        for _ in range(2):
            y = eight(x)
        return y[0][0]

    assert _page_faults(run, calls=20) < 100


@on_linux
def test_what_is_kept_is_bounded():
    twice(numbers(MB))
    before = _resident()
    for k in range(1, 30):
        twice(numbers((1.5 * k + 0.1) * MB))
    assert _resident() - before < result_memory.KEPT_BYTES + 16 * MB


@on_linux
def test_memory_that_requests_pass_by_goes_back_to_the_system():
    x = numbers(MB / 16)
    twice(numbers(40 * MB))
    before = _resident()
    for _ in range(150):
        eight(x)
    assert _resident() < before - 30 * MB


# ---------------------------------------------------------------------------- arrays


@pytest.mark.parametrize("size", [0, 64, 0.5 * MB, MB, 8 * MB, 40 * MB])
def test_results_are_arrays_that_own_their_memory(size):
    x = numbers(size)
    y = twice(x)
    np.testing.assert_array_equal(y, 2 * x)
    assert y.flags.owndata
    assert y.flags.writeable
    assert y.base is None
    large = y.nbytes >= result_memory.LARGE
    assert get_handler_name(y) == ("functrans" if large else "default_allocator")
    assert not large or y.ctypes.data % 64 == 0


def test_results_that_are_alive_share_no_memory():
    x, alive = numbers(MB), []
    for k in range(60):
        alive.append((k, twice(x + k)))
        if k % 3 == 2:
            del alive[k // 2 % len(alive)]
    for k, y in alive:
        np.testing.assert_array_equal(y, 2 * (x + k))


def test_results_may_be_resized_and_filled_anew():
    x = numbers(MB)
    y = twice(x)
    y.resize(2 * x.size, refcheck=False)
    np.testing.assert_array_equal(y, np.concatenate([2 * x, 0 * x]))
    y.resize(5, refcheck=False)
    np.testing.assert_array_equal(y, 2 * x[:5])
    y.__setstate__(np.arange(3.0).__reduce__()[2])
    np.testing.assert_array_equal(y, [0, 1, 2])
    np.testing.assert_array_equal(twice(x), 2 * x)


def test_results_are_made_and_freed_by_several_threads():
    shared, wrong = [numbers(MB)] * 4, []

    def work(k):
        x = numbers(MB * (1 + k % 2)) + k
        for i in range(50):
            y = twice(x)
            if not np.array_equal(y, 2 * x):
                wrong.append((k, i))
            shared[k] = y
            shared[k - 1] = y[:0]  # frees what the other thread made

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_tracemalloc_sees_results():
    x = numbers(8 * MB)
    twice(x)
    tracemalloc.start()
    try:
        y = twice(x)
        with_result, _ = tracemalloc.get_traced_memory()
        del y
        without, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 8 * MB <= with_result - without < 9 * MB


# ---------------------------------------------------------------------------- other handlers


@contextmanager
def _handler_named(name: bytes) -> Iterator[None]:
    """Set a handler as users may: here NumPy's own functions under another name."""
    default = ctypes.cast(python_objects.default_handler(), ctypes.py_object).value
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    copied = ctypes.string_at(get_pointer(default, b"mem_handler"), 128 + 5 * 8)
    handler = ctypes.create_string_buffer(name.ljust(127, b"\0") + copied[127:])
    new_capsule = ctypes.PYFUNCTYPE(
        ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p
    )(("PyCapsule_New", ctypes.pythonapi))
    capsule_name = b"mem_handler"
    capsule = new_capsule(ctypes.addressof(handler), capsule_name, None)
    place = python_objects.verify_numpy_functions()["SetHandler"]
    set_handler = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(place)
    before = set_handler(capsule)
    try:
        yield
    finally:
        assert set_handler(before) is capsule


def test_a_handler_that_the_user_has_set_makes_the_results():
    x = numbers(MB)
    with _handler_named(b"mine"):
        y = twice(x)
        assert get_handler_name(y) == "mine"
        np.testing.assert_array_equal(y, 2 * x)
        del y
    assert get_handler_name(twice(x)) == "functrans"
    assert get_handler_name() == "default_allocator"


def _run(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return done.stdout


_PROGRAM = """
import sys, numpy as np, functrans as ft
from numpy._core.multiarray import get_handler_name
twice = ft.jit(lambda x: 2 * x)
y = twice(np.ones(1 << 17))
"""


@on_linux
def test_where_memory_is_short_the_error_is_numpy_s():
    program = """
import resource
x = np.ones(5 << 20)
lowered = twice.lower(x).compile()
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (20 << 20), resource.RLIM_INFINITY))
try:
    twice(x)
except MemoryError as error:
    print(error, get_handler_name())
"""
    said = _run(_PROGRAM + program)
    assert said.startswith("Unable to allocate 40.0 MiB for an array with shape (5242880,)")
    assert said.endswith("default_allocator\n")


def test_results_may_outlive_the_modules():
    _run(_PROGRAM + "sys.last = sys.modules['builtins'].last = [y, twice(y)]")


def test_where_numpy_has_another_default_handler_results_are_made_under_it():
    program = """
from functrans.runtime import python_objects, result_memory
result_memory.handler.cache_clear()
result_memory._VERSION = 2
three = ft.jit(lambda x: 3 * x)
print(get_handler_name(three(y)), get_handler_name(y))
"""
    assert _run(_PROGRAM + program) == "default_allocator functrans\n"
