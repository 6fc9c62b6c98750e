"""Native routines as steps of a program."""

import re

import numpy as np
import pytest

import functrans as ft
from functrans.ir import ShapedArray
from functrans.printing_loops import run_python
from functrans.runtime import codegen

# int32 f(void **buffers, const int64 *numbers, int64 *status): out[0] = x[0] * numbers[0]; where
# that is negative, the first failure, with the number 7.
ROUTINE = """
define i32 @ft_entry_test_scale(ptr %buffers, ptr %numbers, ptr %status) {
entry:
  %x.at = load ptr, ptr %buffers
  %out.place = getelementptr ptr, ptr %buffers, i64 1
  %out.at = load ptr, ptr %out.place
  %factor = load i64, ptr %numbers
  %wide = sitofp i64 %factor to double
  %x = load double, ptr %x.at
  %y = fmul double %x, %wide
  store double %y, ptr %out.at
  %bad = fcmp olt double %y, 0.0
  br i1 %bad, label %fail, label %fine
fail:
  %number = getelementptr i64, ptr %status, i64 1
  store i64 7, ptr %number
  ret i32 1
fine:
  ret i32 0
}"""


def provide():
    codegen.provide("test_scale", ROUTINE)
    return "ft_test_scale"


class ScaleFirst(ft.Primitive):
    """`x[:1] * factor`, natively."""

    def abstract_eval(self, x, *, factor):
        return ShapedArray((1,), x.dtype)

    def impl(self, x, *, factor):
        return x[:1] * factor

    def lower(self, b, x, *, factor):
        return b.native(
            f"scale_first {factor}",
            provide,
            lambda v: [v[:1] * factor],
            [x],
            [((1,), x.dtype)],
            numbers=[factor],
            failures=[(ArithmeticError, "the product is negative ({})")],
        )[0]


scale_first = ScaleFirst("scale_first")


def function(x):
    return scale_first(np.exp(x), factor=3) + 1


def test_a_routine_runs_between_kernels_without_a_host_step():
    f = ft.jit(function, host_steps="error")
    x = np.array([0.5, 2.0])
    np.testing.assert_allclose(f(x), function(x), rtol=1e-15)
    program = f.lower(x).program
    np.testing.assert_allclose(run_python(program, [x])[0], function(x))
    assert "# scale_first 3" in f.lower(x).loop_program


def test_the_text_of_a_program_has_its_routines_once_each():
    def f(x):
        rows = np.argsort(x, axis=-1)
        factor = np.linalg.cholesky(x @ x.T + np.eye(len(x)))
        largest = ft.lax.top_k(x, 3), ft.lax.top_k(x * 2, 4)
        return rows, np.sort(x), factor, np.linalg.inv(factor), largest

    text = ft.jit(f, host_steps="error").lower(np.zeros((4, 300))).llvm
    for name in ("ft_radix_64", "top_k_d.piece"):
        assert len(re.findall(rf"^define .*@{name}\(", text, re.MULTILINE)) == 1


def test_a_failing_routine_raises_what_it_declared_with_the_users_line():
    f = ft.jit(lambda x: scale_first(x, factor=-3))
    with pytest.raises(ArithmeticError, match=r"negative \(7\)") as caught:
        f(np.ones(2))
    assert "test_native_steps.py" in caught.value.__notes__[0]
    assert f(-np.ones(2)) == 3.0
