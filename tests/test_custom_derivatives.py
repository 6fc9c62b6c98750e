"""`closure_convert`, `custom_gradient` and `linear_call`."""

from __future__ import annotations

import numpy as np
import pytest

import functrans as ft
from functrans.custom_derivatives import closure_convert, custom_gradient, linear_call
from functrans.test_util import check_grads

X = np.array([0.5, -1.0, 2.0])


# ---------------------------------------------------------------------------- custom_gradient


def wrong(x, y):
    """x**2 * y with a gradient that can be told from the right one, and keeps values of x."""
    return x**2 * y, lambda ct: (5 * ct * x, 6 * ct * y)


def test_the_gradient_is_the_one_given():
    f = custom_gradient(wrong)
    assert f(3.0, 4.0) == 36.0
    for gradient in (
        ft.grad(f, (0, 1)),
        ft.jit(ft.grad(f, (0, 1))),
        ft.grad(ft.jit(f), (0, 1)),
        lambda x, y: ft.vjp(f, x, y)[1](1.0),
    ):
        assert gradient(3.0, 4.0) == (15.0, 24.0)
    np.testing.assert_array_equal(ft.vmap(ft.grad(f))(X, X), 5 * X)
    total = lambda x: np.sum(ft.vmap(f, in_axes=(0, None))(x, 4.0))  # noqa: E731
    np.testing.assert_array_equal(ft.grad(total)(X), 5 * X)
    assert ft.jvp(f, (3.0, 4.0), (1.0, 0.0)) == (36.0, 15.0)
    assert ft.grad(ft.grad(f))(3.0, 4.0) == 5.0


def test_one_argument_may_be_a_tree_and_its_cotangent_bare():
    f = custom_gradient(lambda x: (np.sum(x), lambda ct: ct * 7.0 * np.ones(3)))
    np.testing.assert_array_equal(ft.grad(f)(X), np.full(3, 7.0))
    g = custom_gradient(lambda p: (p["a"] * p["b"], lambda ct: {"a": ct, "b": 2 * ct}))
    assert ft.grad(g)({"a": 1.0, "b": 2.0}) == {"a": 1.0, "b": 2.0}
    h = custom_gradient(lambda x: ((x, {"y": x}), lambda ct: (ct[0] + 3 * ct[1]["y"],)))
    assert ft.grad(lambda x: h(x)[0] + h(x)[1]["y"])(1.0) == 4.0


def test_a_pullback_keeps_its_values():
    f = custom_gradient(lambda x: (np.sum(x**2), lambda ct: ct * x))
    x = X.copy()
    _, pullback = ft.vjp(f, x)
    x[:] = 0
    np.testing.assert_array_equal(pullback(1.0)[0], X)


def test_the_function_must_return_a_pair():
    with pytest.raises(TypeError, match=r"custom_gradient of .* must return a pair"):
        custom_gradient(lambda x: x)(3.0)


# ---------------------------------------------------------------------------- closure_convert


def minimum(objective, x):
    """The root of `objective`'s gradient near x by Newton's method, with an implicit derivative."""
    converted, consts = closure_convert(objective, x)

    def solve(x, *consts):
        for _ in range(8):
            slope = ft.grad(converted)
            x = x - slope(x, *consts) / ft.grad(slope)(x, *consts)
        return x

    f = ft.custom_vjp(solve)

    def bwd(residuals, ct):
        x, consts = residuals
        slope = lambda *consts: ft.grad(converted)(x, *consts)  # noqa: E731
        curvature = ft.grad(ft.grad(converted))(x, *consts)
        return None, *ft.vjp(slope, *consts)[1](-ct / curvature)

    f.defvjp(lambda x, *consts: (solve(x, *consts),) * 2 and _keep(solve, x, consts), bwd)
    return f(x, *consts)


def _keep(solve, x, consts):
    found = solve(x, *consts)
    return found, (found, consts)


@pytest.mark.parametrize("wrap", [lambda f: f, ft.jit], ids=["eager", "jit"])
def test_values_closed_over_become_arguments_that_can_be_differentiated(wrap):
    nearest = wrap(lambda y: minimum(lambda x: (x - y**2) ** 2 + (x - 1) ** 4, 0.5))
    check_grads(nearest, (1.5,), 1)
    np.testing.assert_allclose(ft.vmap(ft.grad(nearest))(X), [ft.grad(nearest)(x) for x in X])


def test_nothing_traced_means_no_constants():
    w = X.copy()
    converted, consts = closure_convert(lambda x: {"y": x * w}, X)
    assert consts == []
    w[:] = 1
    np.testing.assert_array_equal(converted(X)["y"], X)  # arrays stay where they are


def test_a_converted_function_names_what_it_takes():
    def use(y):
        converted, consts = closure_convert(lambda x: x * y, 1.0)
        assert [c.shape for c in consts] == [()]
        with pytest.raises(TypeError, match=r"takes arguments of the structure .* constants of"):
            converted(2.0)
        return converted(2.0, *consts)

    assert ft.grad(use)(3.0) == 2.0


# ---------------------------------------------------------------------------- linear_call


def divide(log):
    def transpose(r, ct):
        log.append("transpose")
        return {"x": ct / r}

    return lambda r, x: linear_call(lambda r, p: p["x"] / r, transpose, r, {"x": x})


def test_reverse_mode_runs_the_transpose_given():
    f = divide(log := [])
    assert f(2.0, 3.0) == 1.5
    for gradient in (ft.grad(f, 1), ft.jit(ft.grad(f, 1)), ft.grad(ft.jit(f), 1)):
        log.clear()
        assert gradient(2.0, 3.0) == 0.5
        assert log == ["transpose"]
    assert ft.linear_transpose(lambda x: f(2.0, x), 1.0)(3.0) == (1.5,)


def test_derivatives_in_residuals_are_those_of_the_function():
    f = divide([])
    check_grads(f, (2.0, 3.0), 2)
    check_grads(ft.jit(f), (2.0, 3.0), 2)
    check_grads(ft.vmap(f), (X, X + 3), 2)
    check_grads(ft.vmap(ft.jit(f), in_axes=(None, 0)), (2.0, X), 2)


def test_a_batch_keeps_the_transpose():
    f = divide(log := [])
    total = lambda r, x: np.sum(ft.vmap(f, in_axes=(None, 0))(r, x))  # noqa: E731
    np.testing.assert_allclose(ft.grad(total, 1)(2.0, X), np.full(3, 0.5))
    shared = lambda r, x: np.sum(ft.vmap(f, in_axes=(0, None))(r, x))  # noqa: E731
    np.testing.assert_allclose(ft.grad(shared, 1)(X, 2.0), np.sum(1 / X))
    assert log == ["transpose", "transpose"]


def test_a_wrong_transpose_is_named():
    f = lambda x: linear_call(lambda r, x: x * r, lambda r, ct: ct[1:], 2.0, x)  # noqa: E731
    pattern = r"the fun_transpose rule <lambda> of linear_call.*f64\[2\] as the cotangent of linear"
    with pytest.raises(TypeError, match=pattern):
        ft.grad(lambda x: np.sum(f(x)))(X)


def test_a_compiled_linear_call_is_its_function():
    f = divide([])
    text = str(ft.jit(f).lower(2.0, 3.0).simplified)
    assert text == "{ lambda ; a:f64[] b:f64[]. let\n    c:f64[] = div b a\n  in (c,) }"
    assert "linear_call[linear_map=linear_call of <lambda>] a b" in str(ft.make_jaxpr(f)(2.0, 3.0))
