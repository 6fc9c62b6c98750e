"""`vmap`: axes in and out, named axes, and its place among the other transformations."""

from __future__ import annotations

import numpy as np
import pytest

import functrans as ft
from functrans import lax

A = np.arange(12.0).reshape(3, 4)
V = np.arange(4.0)


def test_vmap_equals_the_stacked_loop():
    f = lambda x, y: np.dot(x, y) + np.sum(x)  # noqa: E731
    np.testing.assert_array_equal(ft.vmap(f)(A, A + 1), np.stack([f(a, a + 1) for a in A]))


def test_none_shares_an_argument():
    np.testing.assert_array_equal(ft.vmap(np.dot, in_axes=(0, None))(A, V), A @ V)


def test_axes_count_from_the_end_when_negative():
    np.testing.assert_array_equal(ft.vmap(np.sum, in_axes=-1)(A), A.sum(axis=0))
    cubes = np.arange(24.0).reshape(2, 3, 4)
    out = ft.vmap(lambda x: x * 2, in_axes=-2, out_axes=-1)(cubes)
    np.testing.assert_array_equal(out, np.moveaxis(cubes * 2, 1, -1))


def test_in_axes_may_be_a_tree_prefix():
    f = lambda p, x: p["w"] * x + p["b"][0]  # noqa: E731
    params = {"w": A, "b": [np.float64(2.0)]}
    out = ft.vmap(f, in_axes=({"w": 0, "b": None}, None))(params, 3.0)
    np.testing.assert_array_equal(out, A * 3 + 2)
    np.testing.assert_array_equal(ft.vmap(f, in_axes=[{"w": 1, "b": [None]}, None])(params, 1.0),
                                  A.T + 2)  # fmt: skip


def test_out_axes_may_be_a_tree_prefix():
    f = lambda x: {"row": x, "total": (np.sum(x), x * 2)}  # noqa: E731
    out = ft.vmap(f, out_axes={"row": 1, "total": 0})(A)
    np.testing.assert_array_equal(out["row"], A.T)
    np.testing.assert_array_equal(out["total"][0], A.sum(axis=1))
    np.testing.assert_array_equal(out["total"][1], A * 2)


def test_an_output_without_the_axis_is_repeated_or_kept():
    out = ft.vmap(lambda x: (x, V, 1.0))(A)
    np.testing.assert_array_equal(out[1], np.broadcast_to(V, (3, 4)))
    assert out[2].tolist() == [1.0, 1.0, 1.0]
    assert out[1].flags.writeable
    _, kept = ft.vmap(lambda x: (x, V), out_axes=(0, None))(A)
    np.testing.assert_array_equal(kept, V)


def test_keyword_arguments_are_mapped_over_axis_0():
    out = ft.vmap(lambda x, *, y: x * y)(V, y=V)
    np.testing.assert_array_equal(out, V * V)


def test_axis_size_alone_is_enough():
    out = ft.vmap(lambda: lax.axis_index("i") * 2, axis_name="i", axis_size=3)()
    assert out.tolist() == [0, 2, 4]
    assert ft.vmap(lambda x: x, in_axes=None, axis_size=2)(1.0).tolist() == [1.0, 1.0]


def test_nested_vmap_gives_an_outer_product():
    outer = ft.vmap(ft.vmap(np.multiply, in_axes=(None, 0)), in_axes=(0, None))
    np.testing.assert_array_equal(outer(V, V), np.outer(V, V))


def test_an_empty_batch():
    assert ft.vmap(np.sum)(np.zeros((0, 4))).shape == (0,)


# ---------------------------------------------------------------------------- named axes


def centred(x):
    return x - lax.pmean(x, "batch")


@pytest.mark.parametrize("wrap", [lambda f: f, ft.jit], ids=["eager", "jit"])
def test_collectives_over_a_named_axis(wrap):
    over = lambda f: wrap(ft.vmap(f, axis_name="batch"))  # noqa: E731
    np.testing.assert_allclose(over(centred)(A), A - A.mean(axis=0))
    np.testing.assert_array_equal(over(lambda x: lax.psum(x, "batch"))(V), np.full(4, 6.0))
    np.testing.assert_array_equal(over(lambda x: lax.pmax(x, "batch"))(V), np.full(4, 3.0))
    np.testing.assert_array_equal(over(lambda x: lax.pmin(x, "batch"))(V), np.zeros(4))
    np.testing.assert_array_equal(over(lambda x: x * lax.axis_index("batch"))(V), V * V)
    assert over(lambda x: lax.psum(1.0, "batch"))(V).tolist() == [4.0] * 4


def test_collectives_inside_jit_inside_vmap():
    np.testing.assert_allclose(ft.vmap(ft.jit(centred), axis_name="batch")(A), A - A.mean(axis=0))
    index = ft.jit(lambda x: x + lax.axis_index("batch"))
    np.testing.assert_array_equal(ft.vmap(index, axis_name="batch")(V), V + np.arange(4))


def test_psum_of_a_tree_and_of_two_axes():
    f = lambda x: lax.psum({"a": x, "b": (x * 2,)}, "i")  # noqa: E731
    out = ft.vmap(f, axis_name="i", out_axes=None)(V)
    assert out == {"a": 6.0, "b": (12.0,)}
    both = ft.vmap(ft.vmap(lambda x: lax.psum(x, ("i", "j")), axis_name="j"), axis_name="i")
    np.testing.assert_array_equal(both(A), np.full((3, 4), A.sum()))


@pytest.mark.parametrize("wrap", [lambda f: f, ft.jit], ids=["eager", "jit"])
def test_the_gradient_of_a_centred_loss(wrap):
    loss = lambda x: np.sum(ft.vmap(centred, axis_name="batch")(x) ** 2)  # noqa: E731
    np.testing.assert_allclose(wrap(ft.grad(loss))(A), 2 * (A - A.mean(axis=0)))
    np.testing.assert_allclose(ft.grad(wrap(loss))(A), 2 * (A - A.mean(axis=0)))


def test_an_axis_name_that_is_not_bound_is_named():
    with pytest.raises(NameError, match="'batch' is not bound"):
        ft.vmap(centred)(A)
    with pytest.raises(NameError, match=r"'k'.*\['i'\]"):
        ft.vmap(lambda x: lax.psum(x, "k"), axis_name="i")(A)


# ---------------------------------------------------------------------------- with others


def test_per_example_gradients_keep_the_weights_unbatched():
    loss = lambda w, x: np.sum(np.tanh(x * w))  # noqa: E731
    grads = ft.vmap(ft.grad(loss), in_axes=(None, 0))(V, A)
    np.testing.assert_allclose(grads, np.stack([ft.grad(loss)(V, a) for a in A]))


def test_grad_through_vmap_and_jit_of_it():
    f = lambda x: np.sum(ft.vmap(lambda r: np.sum(np.sin(r)) ** 2)(x))  # noqa: E731
    expected = 2 * np.sin(A).sum(axis=1, keepdims=True) * np.cos(A)
    np.testing.assert_allclose(ft.grad(f)(A), expected)
    np.testing.assert_allclose(ft.jit(ft.grad(f))(A), expected)


def test_linear_algebra_jacobians_agree():
    f = lambda x: {"a": np.sin(x), "b": np.sum(x) * x}  # noqa: E731
    forward, reverse = ft.jacfwd(f)(V), ft.jacrev(f)(V)
    for key in f(V):
        np.testing.assert_allclose(forward[key], reverse[key])
    jac = ft.jacrev(lambda x, y: x + y, argnums=(0, 1))(V, V)
    jac[0][:] = 7.0
    np.testing.assert_array_equal(jac[1], np.eye(4))


@pytest.mark.parametrize("jacobian", [ft.jacfwd, ft.jacrev, ft.hessian])
def test_jacobians_of_comparisons_are_refused(jacobian):
    with pytest.raises(TypeError, match="floating-point outputs"):
        jacobian(lambda x: x > 0)(V)


# ---------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ft.vmap(lambda x, y: x)(A, V), ValueError, "x has 3, but y has 4"),
        (lambda: ft.vmap(lambda p: 0.0)({"a": A, "b": V}), ValueError, r"p\['a'\].*p\['b'\]"),
        (lambda: ft.vmap(lambda x: x)(1.0), ValueError, "axis 0 of x.*has 0.*in_axes=None"),
        (lambda: ft.vmap(lambda x: x, in_axes=2)(A), ValueError, "axis 2 of x"),
        (lambda: ft.vmap(lambda x: x, in_axes=-3)(A), ValueError, "axis -3 of x"),
        (lambda: ft.vmap(lambda x: x, in_axes=None)(A), ValueError, "no mapped argument"),
        (lambda: ft.vmap(lambda x: x, in_axes=(0, 0))(A), ValueError, "2 entries for 1"),
        (lambda: ft.vmap(lambda x: x, in_axes="a")(A), TypeError, "must be an int or None"),
        (lambda: ft.vmap(lambda x: x, axis_size=5)(A), ValueError, "axis_size is 5, but x has 3"),
        (lambda: ft.vmap(lambda x: x, out_axes=None)(A), ValueError, "out_axes is None for output"),
        (lambda: ft.vmap(lambda x: x, out_axes=3)(A), ValueError, "out_axes 3 does not exist"),
        (lambda: ft.vmap(lambda x: "no")(A), TypeError, "returned 'no' of type str"),
        (lambda: ft.vmap(lambda x: x)("text"), TypeError, "argument x = 'text'"),
    ],
)
def test_bad_axes_are_refused_with_the_name_of_the_argument(call, error, message):
    with pytest.raises(error, match="(?s)" + message):
        call()


def test_axes_that_do_not_fit_the_tree_say_which_option():
    with pytest.raises(ValueError, match=r".") as info:
        ft.vmap(lambda p: p["a"], in_axes=({"wrong": 0},))({"a": A})
    assert any("in_axes of vmap" in note for note in info.value.__notes__)
    with pytest.raises(ValueError, match=r".") as info:
        ft.vmap(lambda x: (x, x), out_axes=(0, 0, 0))(A)
    assert any("out_axes of vmap" in note for note in info.value.__notes__)
