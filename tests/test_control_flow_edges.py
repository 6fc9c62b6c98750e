"""Loops and branches where it is easy to be wrong: what a search for counter-examples found."""

import numpy as np
import pytest

import functrans as ft
import functrans.numpy as fnp
from functrans import lax
from functrans.compiler.pipeline import lower_to_program
from functrans.printing_loops import run_python

V = np.array([0.3, -1.2, 0.7])


def same(a, b):
    a, b = ft.tree.leaves(a), ft.tree.leaves(b)
    for x, y in zip(a, b, strict=True):
        assert (np.shape(x), np.asarray(x).dtype) == (np.shape(y), np.asarray(y).dtype)
        np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-9)


def doubling(x):
    return lax.while_loop(lambda v: fnp.abs(v) < 1000, lambda v: v * v + v, x)


@pytest.mark.parametrize("n", [3, 40])
def test_the_text_of_a_scan_without_iterations_has_its_results(n):
    c, xs = np.ones(n), np.zeros((0, n))
    program = lower_to_program(
        ft.make_jaxpr(lambda c, xs: lax.scan(lambda c, x: (c + x, c * x), c, xs))(c, xs)
    )
    same(run_python(program, [c, xs]), [c, xs])


def test_sums_of_nothing_inside_loops():
    a, b = np.zeros((3, 0)), np.zeros((0, 3))
    f = ft.jit(lambda x: lax.fori_loop(0, 3, lambda i, x: x + a @ b + 1 + fnp.sum(a), x))
    same(f(np.zeros((3, 3))), np.full((3, 3), 3.0))
    g = ft.jit(lambda xs: lax.scan(lambda c, x: (c + fnp.prod(x), fnp.any(x > 0)), 0.0, xs))
    same(g(np.zeros((4, 0))), (np.float64(4), np.zeros(4, bool)))


@pytest.mark.parametrize("w", [np.ones(3), np.array(1.0), np.ones(40)])
def test_arrays_that_a_jitted_function_in_a_body_closes_over_are_read_at_each_call(w):
    inner = ft.jit(lambda x: x * w)
    twice = ft.jit(lambda x: lax.fori_loop(0, 2, lambda i, x: inner(x), x))
    w = w.copy()
    x = np.full(w.shape or 3, 0.5)
    same(twice(x), x)
    backward = ft.vjp(twice, x)[1]
    w *= 2
    same(twice(x), 4 * x)
    same(backward(np.ones_like(x)), (np.ones_like(x),))


def test_tangents_of_a_while_loop_are_native():
    _, tangent_map = ft.linearize(doubling, 1.5)
    slope = np.float64(ft.grad(doubling)(1.5))
    same(ft.jit(tangent_map, host_steps="error")(2.0), 2 * slope)
    both = lambda x, t: ft.linearize(doubling, x)[1](t)  # noqa: E731
    same(ft.jit(both, host_steps="error")(1.5, 2.0), 2 * slope)
    nested = lambda x: lax.scan(lambda c, _: (both(c, 1.0), None), x, None, length=2)[0]  # noqa: E731
    same(ft.jit(nested)(1.5), nested(1.5))


def test_named_axes_inside_the_tangents_of_a_while_loop():
    def total(x):
        step = lambda s: (s[0] + 1, fnp.sin(s[1]) + lax.psum(s[1], "i") * 0.1)  # noqa: E731
        return lax.while_loop(lambda s: s[0] < 3, step, (0, x))[1]

    def moved(x):
        return ft.linearize(total, x)[1](np.ones(()))

    def by_jvp(x):
        return ft.jvp(total, (x,), (1.0,))[1]

    same(ft.vmap(moved, axis_name="i")(V), ft.vmap(by_jvp, axis_name="i")(V))


def test_loops_leak_nothing():
    with ft.checking_leaks():
        f = lambda x: fnp.sum(lax.scan(lambda c, x: (fnp.sin(c) + x, c), x, np.ones((2, 3)))[1])  # noqa: E731
        ft.jit(ft.grad(f))(V)
        ft.vmap(ft.grad(doubling))(V)


def test_vjp_of_a_jitted_function_keeps_a_closed_over_number():
    w = np.array(2.0)
    backward = ft.vjp(ft.jit(lambda x: fnp.sum(x * w)), V)[1]
    w *= 2
    same(backward(1.0), (np.full(3, 2.0),))


def test_a_python_number_in_one_branch_takes_the_dtype_of_the_other():
    f = lambda p, x: lax.cond(p, lambda: x, lambda: 2)  # noqa: E731
    for run in (f, ft.jit(f)):
        same(run(False, np.float32(1.5)), np.float32(2))
        same(run(True, np.int8(3)), np.int8(3))
    same(lax.cond(True, lambda: 0.5, lambda: np.int64(2)), np.float64(0.5))
    with pytest.raises(OverflowError, match="300"):
        lax.cond(True, lambda: np.int8(1), lambda: 300)


def test_switch_clamps_an_index_beyond_int64():
    f = lambda i: lax.switch(i, [lambda: 10, lambda: 11])  # noqa: E731
    for i in (np.uint64(2**63 + 5), np.uint64(2**64 - 1)):
        same((f(i), ft.jit(f)(i)), (np.int64(11), np.int64(11)))
