"""`jvp`, `vjp`, `linearize`, `linear_transpose`: values, who owns what, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

import functrans as ft

X = np.array([1.0, 2.0, 3.0])


def f(x, y):
    return {"product": x * y, "sine": np.sin(x)}


def test_the_pullback_may_be_called_many_times():
    value, pullback = ft.vjp(f, X, X + 1)
    np.testing.assert_array_equal(value["product"], X * (X + 1))
    for scale in (1.0, 2.0, -3.0):
        gx, gy = pullback({"product": scale * np.ones(3), "sine": np.zeros(3)})
        np.testing.assert_array_equal(gx, scale * (X + 1))
        np.testing.assert_array_equal(gy, scale * X)


def test_the_pullback_works_under_vmap_and_jit():
    _, pullback = ft.vjp(lambda x: x**2, X)
    rows = ft.vmap(pullback)(np.eye(3))[0]
    np.testing.assert_array_equal(rows, np.diag(2 * X))
    np.testing.assert_array_equal(ft.jit(pullback)(X)[0], 2 * X * X)


def test_changing_an_input_after_vjp_changes_nothing():
    x, y = X.copy(), X + 1
    _, pullback = ft.vjp(lambda x, y: np.sum(x * y), x, y)
    x[:] = 99.0
    y[:] = 99.0
    gx, gy = pullback(1.0)
    np.testing.assert_array_equal(gx, X + 1)
    np.testing.assert_array_equal(gy, X)


def test_changing_a_view_of_an_input_after_vjp_changes_nothing():
    base = np.arange(6.0)
    _, pullback = ft.vjp(lambda x: np.sum(x.reshape(3) ** 2), base[::2])
    base[:] = 99.0
    np.testing.assert_array_equal(pullback(1.0)[0], [0.0, 4.0, 8.0])


def test_changing_a_closed_over_array_after_vjp_changes_nothing():
    w = X.copy()
    _, pullback = ft.vjp(lambda x: np.sum(x * w), X)
    w *= 0
    np.testing.assert_array_equal(pullback(1.0)[0], X)


def test_changing_the_output_after_vjp_changes_nothing():
    y, pullback = ft.vjp(np.exp, np.zeros(3))
    y[:] = 99.0
    np.testing.assert_array_equal(pullback(np.ones(3))[0], np.ones(3))


def test_changing_an_auxiliary_output_after_vjp_changes_nothing():
    def with_aux(x):
        e = np.exp(x)
        return np.sum(e), e

    _, pullback, aux = ft.vjp(with_aux, np.zeros(3), has_aux=True)
    aux[:] = 99.0
    np.testing.assert_array_equal(pullback(1.0)[0], np.ones(3))


def test_changing_an_input_after_vjp_of_a_jitted_function_changes_nothing():
    x = X.copy()
    _, pullback = ft.vjp(ft.jit(lambda x: np.sum(x**3)), x)
    x[:] = 99.0
    np.testing.assert_array_equal(pullback(1.0)[0], 3 * X**2)


def test_changing_an_input_after_linearize_changes_nothing():
    x = X.copy()
    _, f_jvp = ft.linearize(lambda x: x**2, x)
    x[:] = 99.0
    np.testing.assert_array_equal(f_jvp(np.ones(3)), 2 * X)


def test_what_the_pullback_returns_is_not_the_cotangent_itself():
    _, pullback = ft.vjp(lambda x, y: x + y, X, X)
    ct = np.ones(3)
    gx, gy = pullback(ct)
    gx[:] = 5.0
    assert gy.tolist() == [1.0, 1.0, 1.0]
    assert ct.tolist() == [1.0, 1.0, 1.0]


def test_a_jvp_of_the_identity_does_not_return_the_tangent_itself():
    t = np.ones(3)
    _, out = ft.jvp(lambda x: x, (X,), (t,))
    out[:] = 5.0
    assert t.tolist() == [1.0, 1.0, 1.0]


def test_jvp_of_trees_has_the_structure_of_the_output():
    value, tangent = ft.jvp(f, (X, X), (np.ones(3), np.zeros(3)))
    assert set(value) == set(tangent) == {"product", "sine"}
    np.testing.assert_array_equal(tangent["product"], X)
    np.testing.assert_array_equal(tangent["sine"], np.cos(X))


def test_has_aux_comes_last():
    value, tangent, aux = ft.jvp(lambda x: (x * 2, "kept" and x), (1.0,), (1.0,), has_aux=True)
    assert (value, tangent, aux) == (2.0, 2.0, 1.0)
    value, f_jvp, aux = ft.linearize(lambda x: (x * 2, x), 1.0, has_aux=True)
    assert (value, f_jvp(3.0), aux) == (2.0, 6.0, 1.0)


def test_the_linear_program_can_be_read():
    y, f_jvp = ft.linearize(lambda x: np.sum(np.sin(x) * 2), X)
    assert y == np.sum(np.sin(X) * 2)
    np.testing.assert_allclose(f_jvp(np.ones(3)), np.sum(np.cos(X) * 2))
    jaxpr = f_jvp.jaxpr
    ft.check_jaxpr(jaxpr)
    assert len(jaxpr.eqns) == 3
    assert jaxpr.eqns[-1].primitive.name == "reduce_sum"
    (out,) = ft.eval_jaxpr(jaxpr.jaxpr, jaxpr.consts, np.ones(3))
    assert out == f_jvp(np.ones(3))


def test_linearize_of_a_constant_is_zero():
    _, f_jvp = ft.linearize(lambda x: np.ones(2), 1.0)
    assert f_jvp(1.0).tolist() == [0.0, 0.0]


def test_linear_transpose_is_the_adjoint():
    a = np.arange(6.0).reshape(2, 3)
    transposed = ft.linear_transpose(lambda x: a @ x, np.zeros(3))
    np.testing.assert_array_equal(transposed(np.array([1.0, 2.0]))[0], a.T @ np.array([1.0, 2.0]))
    struct = ft.ShapeDtypeStruct((3,), np.float64)
    (back,) = ft.linear_transpose(lambda x: x[1:] * 2.0, struct)(np.ones(2))
    assert back.tolist() == [0.0, 2.0, 2.0]


def test_linear_transpose_refuses_what_is_not_linear():
    with pytest.raises(TypeError, match="sin"):
        ft.linear_transpose(np.sin, 1.0)(1.0)
    with pytest.raises(TypeError, match="does not depend on the inputs"):
        ft.linear_transpose(lambda x: np.ones(3), 1.0)
    with pytest.raises(TypeError, match="float or complex"):
        ft.linear_transpose(lambda x: x, np.arange(3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ft.jvp(np.sin, X, X), r"takes tuples.*write jvp\(f, \(x,\), \(t,\)\)"),
        (lambda: ft.jvp(np.sin, (X,), (X, X)), "1 primals and 2 tangents"),
        (lambda: ft.jvp(np.sin, (X,), ([X],)), "has the structure .* it needs"),
        (lambda: ft.jvp(np.sin, (X,), (X[:2],)), r"f64\[2\], it needs f64\[3\]"),
        (lambda: ft.jvp(np.sin, (X,), (X.astype(np.float32),)), r"f32\[3\], it needs f64\[3\]"),
        (lambda: ft.jvp(np.sin, (X,), (np.arange(3),)), r"i64\[3\], it needs f64\[3\]"),
        (lambda: ft.vjp(np.sin, X)[1](1.0), r"f64\[\], it needs f64\[3\]"),
        (lambda: ft.vjp(f, X, X)[1](X), "has the structure .* it needs"),
        (lambda: ft.vjp(np.sin, X)[1](X.astype(complex)), r"c128\[3\], it needs f64\[3\]"),
        (lambda: ft.linearize(np.sin, X)[1](X, X), "has the structure .* it needs"),
        (lambda: ft.vjp(lambda x: "text", X), "returned 'text' of type str"),
    ],
)
def test_a_mismatch_is_refused_with_both_types(call, message):
    with pytest.raises(TypeError, match="(?s)" + message):
        call()


def test_integers_take_and_give_float0():
    _, pullback = ft.vjp(lambda i, x: x * i, np.arange(3), 2.0)
    gi, gx = pullback(np.ones(3))
    assert gi.dtype == ft.float0
    assert gi.shape == (3,)
    assert gx == 3.0


def test_a_tangent_of_an_integer_is_not_dropped_in_silence():
    with pytest.raises(TypeError, match=r"(?s)i64\[\], which carries no derivative.*float0"):
        ft.jvp(lambda x: x**2, (3,), (1.0,))
    with pytest.raises(TypeError, match=r"(?s)bool\[3\], which carries no derivative"):
        ft.vjp(lambda x: x > 0, X)[1](X)
    _, tangent = ft.jvp(lambda i, x: i * x, (3, 2.0), (np.zeros((), ft.float0), 1.0))
    assert tangent == 3.0


def test_python_scalars_are_cast_to_the_type_they_belong_to():
    assert ft.jvp(np.sin, (np.float32(0.0),), (1,))[1].dtype == np.float32
    assert ft.vjp(lambda x: x * 2, np.float32(1.0))[1](1.0)[0].dtype == np.float32


def test_a_pullback_is_a_pytree_of_what_it_keeps():
    f = lambda x: {"y": np.sum(np.sin(x) * x)}  # noqa: E731
    x = np.array([0.5, -1.0])
    expected = ft.vjp(f, x)[1]({"y": 2.0})[0]
    from_jit = ft.jit(lambda x: ft.vjp(f, x)[1])(x)
    np.testing.assert_allclose(from_jit({"y": 2.0})[0], expected)
    call = ft.jit(lambda pullback, ct: pullback({"y": ct})[0])
    np.testing.assert_allclose(call(from_jit, 2.0), expected)
    many = ft.vmap(lambda x: ft.vjp(f, x)[1])(np.stack([x, x]))
    back = ft.vmap(lambda pullback: pullback({"y": 2.0})[0])(many)
    np.testing.assert_allclose(back, np.stack([expected, expected]))
    doubled = ft.tree.map(lambda leaf: leaf, from_jit)
    assert ft.tree.structure(doubled) == ft.tree.structure(from_jit)
    with ft.checking_leaks():
        ft.jit(lambda x: ft.vjp(f, x)[1])(x + 1)
