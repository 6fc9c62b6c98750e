"""Functions with a rule of their own for `vmap`."""

from __future__ import annotations

import numpy as np
import pytest

import functrans as ft
from functrans.custom_batching import custom_vmap, sequential_vmap

X = np.array([0.5, -1.0, 2.0])


def recorded(log):
    """x["k"] * y whose rule notes what it was called with."""

    @custom_vmap
    def f(x, y):
        return {"a": x["k"] * y}

    @f.def_vmap
    def rule(size, in_batched, x, y):
        log.append((size, in_batched, np.shape(x["k"]), np.shape(y)))
        return {"a": (x["k"].T * y).T}, {"a": True}

    return f


@pytest.mark.parametrize("wrap", [lambda f: f, ft.jit], ids=["eager", "jit"])
def test_the_rule_gets_the_axis_in_front_and_is_told_who_has_it(wrap):
    log = []
    f = wrap(recorded(log))
    batch = np.stack([X, X + 1])
    out = ft.vmap(f, in_axes=(0, None))({"k": batch}, 2.0)
    np.testing.assert_array_equal(out["a"], 2 * batch)
    out = ft.vmap(f, in_axes=(1, 0))({"k": batch.T}, np.array([1.0, 2.0]))
    np.testing.assert_array_equal(out["a"], batch * [[1], [2]])
    seen = [(2, [{"k": True}, False], (2, 3), ()), (2, [{"k": True}, True], (2, 3), (2,))]
    assert log == seen


def test_without_a_batch_it_is_the_function():
    f = recorded(log := [])
    assert f({"k": 2.0}, 3.0) == {"a": 6.0}
    assert ft.jit(f)({"k": 2.0}, 3.0) == {"a": 6.0}
    np.testing.assert_array_equal(
        ft.vmap(lambda x: f({"k": 2.0}, 3.0)["a"] * x)(X),
        6 * X,  # no operand has the axis
    )
    assert log == []


TRANSFORMED = {
    "grad of vmap": lambda f: ft.grad(lambda x: np.sum(ft.vmap(f)(x)))(X),
    "jvp of vmap": lambda f: ft.jvp(ft.vmap(f), (X,), (np.ones(3),))[1],
    "vmap of jvp": lambda f: ft.vmap(lambda x: ft.jvp(f, (x,), (1.0,))[1])(X),
    "vmap of tangents": lambda f: ft.vmap(lambda t: ft.jvp(f, (0.5,), (t,))[1])(X) / X * 5,
    "grad of vmap of jit": lambda f: ft.grad(lambda x: np.sum(ft.vmap(ft.jit(f))(x)))(X),
    "jit of vmap of jvp of jit": lambda f: ft.jit(
        ft.vmap(lambda x: ft.jvp(ft.jit(f), (x,), (1.0,))[1])
    )(X),
}


@pytest.mark.parametrize("name", TRANSFORMED)
def test_derivatives_are_those_of_the_rule(name):
    # The rule is five times the function, so that one can see which was differentiated.
    f = custom_vmap(lambda x: x)
    f.def_vmap(lambda size, in_batched, x: (5 * x, True))
    expected = 25.0 if name == "vmap of tangents" else 5.0
    np.testing.assert_allclose(TRANSFORMED[name](f), np.full(3, expected))


def test_reverse_mode_below_a_batch_differentiates_the_function():
    f = custom_vmap(lambda x: np.sin(x))
    f.def_vmap(lambda size, in_batched, x: (np.sin(x), True))
    np.testing.assert_allclose(ft.vmap(ft.grad(f))(X), np.cos(X))
    np.testing.assert_allclose(ft.vmap(ft.grad(ft.jit(f)))(X), np.cos(X))
    np.testing.assert_allclose(ft.grad(f)(0.5), np.cos(0.5))


def test_a_second_batch_is_one_of_the_rule():
    log = []
    f = recorded(log)
    out = ft.vmap(ft.vmap(f, in_axes=(0, None)), in_axes=(None, 0))({"k": X}, X)
    np.testing.assert_allclose(out["a"], np.outer(X, X))
    assert len(log) == 1


def test_a_rule_for_vmap_stands_beside_rules_for_derivatives():
    f = ft.custom_jvp(lambda x: x)
    f.defjvp(lambda p, t: (f(*p), 3 * t[0]))
    f.def_vmap(lambda size, in_batched, x: (x + 100, True))
    np.testing.assert_array_equal(ft.vmap(f)(X), X + 100)
    _, tangent = ft.jvp(ft.vmap(f), (X,), (np.ones(3),))
    np.testing.assert_array_equal(tangent, np.full(3, 3.0))
    for g in (ft.vmap(f), ft.jit(ft.vmap(f)), ft.vmap(ft.jit(f))):
        np.testing.assert_array_equal(ft.grad(lambda x: np.sum(g(x)))(X), np.full(3, 3.0))  # noqa: B023


MISTAKES = {
    "no pair": (lambda n, b, x: x, r"must return a pair, \(outputs, which of them"),
    "flags": (lambda n, b, x: ((x, x), True), r"say of each output whether it is batched"),
    "not bool": (lambda n, b, x: (x, 0), r"whether it is batched, by a bool"),
    "size": (lambda n, b, x: (x[1:], True), r"f64\[2\] as a batched output for a batch of 3"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_of_a_rule_are_named(name):
    rule, pattern = MISTAKES[name]
    f = custom_vmap(lambda x: x)
    f.def_vmap(rule)
    with pytest.raises(TypeError, match=rf"the def_vmap rule <lambda> of <lambda> .*{pattern}"):
        ft.vmap(f)(X)


def test_a_rule_must_return_what_the_staged_function_does():
    f = custom_vmap(lambda x: x)
    f.def_vmap(lambda n, b, x: (np.stack([x, x], axis=1), True))
    with pytest.raises(TypeError, match=r"of one example, .*f64\[2\].*the function returns"):
        ft.vmap(ft.jit(f))(X)


def test_sequential_vmap_is_a_loop_over_examples():
    seen = []

    @sequential_vmap
    def f(x, p):
        seen.append(np.shape(x))
        return x * p["s"], np.sum(x)

    batch = np.stack([X, X + 1])
    product, total = ft.vmap(f, in_axes=(0, None))(batch, {"s": 2.0})
    np.testing.assert_array_equal(product, 2 * batch)
    np.testing.assert_array_equal(total, batch.sum(1))
    assert set(seen) == {(3,)}
    compiled = ft.jit(ft.vmap(f, in_axes=(0, None)))(batch, {"s": 2.0})
    np.testing.assert_array_equal(compiled[0], product)
    text = str(ft.make_jaxpr(ft.vmap(f, in_axes=(0, None)))(batch, {"s": 2.0}))
    assert "scan" in text
    total = lambda x: np.sum(ft.vmap(f, in_axes=(0, None))(x, {"s": 2.0})[0])  # noqa: E731
    np.testing.assert_array_equal(ft.grad(total)(batch), np.full((2, 3), 2.0))
    product, total = ft.vmap(f, in_axes=(0, None))(np.zeros((0, 3)), {"s": 2.0})
    assert (product.shape, total.shape) == ((0, 3), (0,))
