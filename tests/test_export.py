"""Transformed functions called from njit code, from C, and by SciPy's integrators."""

import ctypes
import gc
import os
import subprocess
import sys
import threading
import weakref

import numba
import numpy as np
import pytest
from scipy.integrate import nquad, quad

import functrans as ft
from functrans.compiler.lowering.lowering import HostStepError

x = np.array([0.5, -1.0, 2.0])


def wave(x):
    return np.sin(x) * x


def total(x):
    return np.sum(wave(x))


class PythonOnly(ft.Primitive):
    """An operation without a native form."""

    def abstract_eval(self, x):
        return x

    def impl(self, x):
        return x


python_only = PythonOnly("python_only")
python_only.__name__ = "python_only"
slope = ft.export.numba(ft.value_and_grad(wave), 1.0)
gradient = ft.export.numba(ft.grad(total), x)


@numba.njit(nogil=True)
def descend(x, steps):
    for _ in range(steps):
        x = x - 0.1 * gradient(x)
    return x


@numba.njit
def guarded(x):
    try:
        return gradient(x)[0]
    except Exception:
        return -1.0


# ---------------------------------------------------------------------------- njit


def test_njit_code_calls_a_gradient_in_a_loop():
    expected = x
    for _ in range(5):
        expected = expected - 0.1 * ft.grad(total)(expected)
    np.testing.assert_allclose(descend(x, 5), expected, rtol=1e-13)
    np.testing.assert_array_equal(x, [0.5, -1.0, 2.0])


def test_numbers_come_and_go_as_numbers_and_several_results_as_a_tuple():
    value, derivative = slope(2.0)
    assert (value, derivative) == pytest.approx((wave(2.0), ft.grad(wave)(2.0)), rel=1e-14)
    assert type(value) is float
    assert slope(2) == slope(2.0)


def test_several_arrays_of_several_dtypes():
    def f(w, b, n, p):
        return w @ b, b * n, np.where(p, b[0], 0), b[1:] > 0

    args = (np.arange(6.0).reshape(2, 3), np.array([1.0, 2.0, -3.0]), np.int32(2), True)
    outs = ft.export.numba(f, *args)(*args)
    for actual, expected in zip(outs, f(*args), strict=True):
        np.testing.assert_array_equal(actual, expected)
        assert np.asarray(actual).dtype == expected.dtype


def test_results_are_fresh_also_where_an_input_is_returned():
    same = ft.export.numba(lambda x: (x, x), x)
    first, second = same(x)
    first[:] = 7
    assert (second == x).all()
    assert x[0] == 0.5


def test_large_temporaries_are_off_the_stack_and_constants_are_read_at_every_call():
    weights = np.ones(100_000)
    f = ft.export.numba(lambda x: np.cumsum(np.cumsum(x) * weights)[-1], np.ones(100_000))
    ones = np.ones(100_000)
    before = f(ones)
    weights *= 2
    assert f(ones) == 2 * before


def test_another_shape_raises_with_both_and_can_be_caught_in_compiled_code():
    with pytest.raises(ValueError, match=r"argument 0 of total has the shape \(2,\).*\(3,\)"):
        gradient(np.zeros(2))
    with pytest.raises(ValueError, match=r"\(4,\)"):
        descend(np.zeros(4), 3)
    assert guarded(np.zeros(2)) == -1.0
    assert guarded(np.zeros(3)) == 0.0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros(3, np.float32), r"argument x of total .* \.astype\(np\.float64\)"),
        (np.zeros((3, 3)), r"C-contiguous array\(float64, 1d\), got array\(float64, 2d, C\)"),
        (np.zeros(6)[::2], r"ascontiguousarray"),
        (1.0, r"got float64"),
    ],
)
def test_other_types_are_refused_when_the_caller_is_compiled(given, message):
    with pytest.raises(numba.TypingError, match=message):
        gradient(given)
    if np.ndim(given) == 0:
        with pytest.raises(numba.TypingError, match="a number that is safe as float64, got"):
            slope(1j)


def test_errors_of_the_program_arrive_with_their_message():
    pick = ft.export.numba(lambda x, i: x[i], x, 0)
    assert pick(x, 1) == -1.0
    with pytest.raises(
        IndexError, match="index 5 is out of bounds for axis 0 with size 3"
    ) as caught:
        pick(x, 5)
    assert "test_export.py" in caught.value.__notes__[0]


def test_what_cannot_be_exported_is_refused_with_the_remedy():
    with pytest.raises(
        TypeError, match=r"argument 0 is .*one for each argument: export a function"
    ):
        ft.export.numba(lambda p: p["w"], {"w": x})
    with pytest.raises(TypeError, match=r"(?s)structure .*or a flat tuple of them"):
        ft.export.numba(lambda x: {"y": x}, x)
    with pytest.raises(HostStepError, match="python_only") as caught:
        ft.export.numba(python_only, x)
    assert "export.numba of python_only" in caught.value.__notes__[0]


def test_the_calling_code_keeps_the_program_alive():
    def make():
        constant = np.arange(3.0)
        f = ft.export.numba(lambda x: x * constant, x)

        @numba.njit
        def twice(x):
            y = f(x)
            y[0] = 1
            return y

        twice(x)
        return twice, weakref.ref(constant)

    twice, constant = make()
    gc.collect()
    assert constant() is not None
    np.testing.assert_array_equal(twice(x), [1, -1, 4])
    del twice
    gc.collect()
    assert constant() is None


def test_threads_call_it_at_once():
    expected, found = descend(x, 2000), []

    def work():
        found.append(descend(x, 2000))

    workers = [threading.Thread(target=work) for _ in range(4)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert len(found) == 4
    for y in found:
        np.testing.assert_array_equal(y, expected)


def test_an_exported_function_inside_a_kernel_inside_a_program():
    @ft.numba_kernel(out=lambda x: x)
    def stepped(x, out):
        g = gradient(x)
        for i in range(x.size):
            out[i] = x[i] - g[i]

    f = ft.jit(lambda x: stepped(x * 2) + 1, host_steps="error")
    np.testing.assert_allclose(f(x), 2 * x - ft.grad(total)(2 * x) + 1, rtol=1e-13)
    again = ft.export.numba(f, x)
    np.testing.assert_array_equal(again(x), f(x))


def test_numba_does_not_cache_code_with_its_addresses(tmp_path):
    (tmp_path / "user.py").write_text(
        "import numba, numpy as np, functrans as ft\n"
        "g = ft.export.numba(ft.grad(lambda x: x * x), 1.0)\n"
        "@numba.njit(cache=True)\n"
        "def f(x): return g(x) + 1\n"
        "print(f(3.0))\n"
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-c", "import user"]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert run.stdout.strip() == "7.0"
    assert "dynamic globals" in run.stderr
    assert not list(tmp_path.glob("cache/**/*.nbc"))


# ---------------------------------------------------------------------------- C


def pointers(*arrays):
    return (ctypes.c_void_p * len(arrays))(*[a.ctypes.data for a in arrays])


def test_c_functions_of_buffers_and_of_numbers():
    f = ft.export.cfunc(ft.value_and_grad(total), x)
    value, derivative = np.zeros(()), np.zeros(3)
    assert f.signature == "int32_t f(void **buffers)"
    assert f.ctypes(pointers(x, value, derivative)) == 0
    np.testing.assert_allclose(derivative, ft.grad(total)(x), rtol=1e-13)
    assert value == pytest.approx(total(x))
    g = ft.export.cfunc(lambda x, y: x * y + 1, 1.0, 1.0, numbers=True)
    assert g.signature == "double f(double, double)"
    assert g.ctypes(2.0, 3.0) == 7.0
    assert ctypes.CFUNCTYPE(*[ctypes.c_double] * 3)(g.address)(2.0, 3.0) == 7.0


def test_failing_c_functions_return_1_or_nan_and_show_the_error_once(monkeypatch):
    shown = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: shown.append(args.exc_value))
    f = ft.export.cfunc(lambda x, i: x[i], x, 0)
    out, bad = np.zeros(()), np.array(9)
    assert [f.ctypes(pointers(x, bad, out)) for _ in range(3)] == [1, 1, 1]
    integrand = ft.export.low_level_callable(lambda x, a: x * a, 1.0, 1.0)
    with pytest.warns(Warning, match="roundoff|divergent|bad integrand"):
        assert np.isnan(quad(integrand, 0, 1)[0])
    assert [type(e) for e in shown] == [IndexError, TypeError]
    assert "takes 2 numbers, and was called with 1" in str(shown[1])


def test_quad_integrates_a_compiled_function_and_its_derivative_by_a_parameter():
    def f(t, a):
        return np.exp(-a * t * t)

    value = ft.export.low_level_callable(f, 1.0, 1.0)
    by_a = ft.export.low_level_callable(ft.grad(f, 1), 1.0, 1.0)
    assert quad(value, 0, 1, args=(2.0,))[0] == pytest.approx(0.598144006661304, rel=1e-12)
    step = 1e-4
    ends = [quad(value, 0, 1, args=(2.0 + s,))[0] for s in (step, -step)]
    assert quad(by_a, 0, 1, args=(2.0,))[0] == pytest.approx((ends[0] - ends[1]) / 2 / step)


def test_nquad_takes_a_function_of_a_vector_and_user_data_is_read_in_place():
    product = ft.export.low_level_callable(lambda z: z[0] * z[1], np.zeros(2))
    assert nquad(product, [(0, 1), (0, 2)])[0] == pytest.approx(1.0)
    data = np.array([2.0, 3.0])
    f = ft.export.low_level_callable(lambda t, p: p[0] * t**2 + p[1], 1.0, user_data=data)
    assert quad(f, 0, 1)[0] == pytest.approx(2 / 3 + 3)
    data[:] = 1
    assert quad(f, 0, 1)[0] == pytest.approx(4 / 3)


def test_a_low_level_callable_keeps_its_program_and_data_alive():
    data = np.array([2.0])
    f = ft.export.low_level_callable(lambda t, p: p[0] * t, 1.0, user_data=data)
    kept = weakref.ref(data)
    del data
    gc.collect()
    assert kept() is not None
    assert quad(f, 0, 1)[0] == pytest.approx(1.0)
    del f
    gc.collect()
    assert kept() is None


def test_c_doors_say_what_they_take():
    with pytest.raises(TypeError, match=r"x of wave is float64\[3\]"):
        ft.export.cfunc(wave, x, numbers=True)
    with pytest.raises(TypeError, match=r"is float32\[\]"):
        ft.export.low_level_callable(wave, np.float32(1))
    with pytest.raises(TypeError, match="is a tuple"):
        ft.export.low_level_callable(lambda x: (x,), 1.0)
    with pytest.raises(TypeError, match="user_data is read where it is"):
        ft.export.low_level_callable(lambda t, p: p[0] * t, 1.0, user_data=np.zeros(4)[::2])
