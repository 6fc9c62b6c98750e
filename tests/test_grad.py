"""`grad` and `value_and_grad`: which arguments, what comes back, and what is refused."""

from __future__ import annotations

from collections import namedtuple

import numpy as np
import pytest

import functrans as ft
import functrans.numpy as fnp
from functrans.core import Tracer


def weighted(x, y, *, scale=1.0, shift=0.0):
    return np.sum(x * x * y) * scale + shift * shift


X = np.array([1.0, 2.0, 3.0])
Y = np.array([4.0, 5.0, 6.0])


def test_argnums_as_int_gives_the_gradient_itself():
    np.testing.assert_array_equal(ft.grad(weighted)(X, Y), 2 * X * Y)
    np.testing.assert_array_equal(ft.grad(weighted, argnums=1)(X, Y), X * X)


def test_negative_argnums_count_from_the_last_argument_of_the_call():
    np.testing.assert_array_equal(ft.grad(weighted, argnums=-1)(X, Y), X * X)
    both = ft.grad(weighted, argnums=(-2, -1))(X, Y)
    np.testing.assert_array_equal(both[0], 2 * X * Y)
    np.testing.assert_array_equal(both[1], X * X)


def test_argnums_as_tuple_gives_a_tuple_in_the_order_asked_for():
    gradient = ft.grad(weighted, argnums=(1, 0))(X, Y)
    assert type(gradient) is tuple
    np.testing.assert_array_equal(gradient[0], X * X)
    np.testing.assert_array_equal(gradient[1], 2 * X * Y)
    (only,) = ft.grad(weighted, argnums=(0,))(X, Y)
    np.testing.assert_array_equal(only, 2 * X * Y)


def test_argnames_as_str_gives_the_gradient_itself():
    assert ft.grad(weighted, argnames="shift")(X, Y, shift=3.0) == 6.0


def test_argnames_as_tuple_gives_a_dict():
    gradient = ft.grad(weighted, argnames=("shift", "scale"))(X, Y, shift=3.0, scale=2.0)
    assert gradient == {"scale": np.sum(X * X * Y), "shift": 6.0}


def test_both_give_positional_then_by_name():
    first, second = ft.grad(weighted, argnums=0, argnames="shift")(X, Y, shift=3.0)
    np.testing.assert_array_equal(first, 2 * X * Y)
    assert second == 6.0
    firsts, named = ft.grad(weighted, argnums=(0, 1), argnames=("shift",))(X, Y, shift=3.0)
    assert len(firsts) == 2
    assert named == {"shift": 6.0}


def test_keyword_arguments_not_named_are_passed_on():
    np.testing.assert_array_equal(ft.grad(weighted)(X, Y, scale=2.0), 4 * X * Y)


def test_a_position_that_was_not_passed_is_named():
    with pytest.raises(ValueError, match="argument 2, but the call has 2 positional"):
        ft.grad(weighted, argnums=2)(X, Y)
    with pytest.raises(ValueError, match=r"argument twice: argnums=\(0, -2\)"):
        ft.grad(weighted, argnums=(0, -2))(X, Y)
    with pytest.raises(ValueError, match=r"(?s)'shift'.*call passed \['scale'\]"):
        ft.grad(weighted, argnames="shift")(X, Y, scale=1.0)


def test_value_and_grad_gives_the_value_of_the_plain_function():
    value, gradient = ft.value_and_grad(weighted)(X, Y)
    assert value == weighted(X, Y)
    np.testing.assert_array_equal(gradient, 2 * X * Y)


def test_has_aux_carries_any_pytree_along():
    def f(x):
        return np.sum(x**2), {"double": x * 2, "n": 3, "none": None}

    gradient, aux = ft.grad(f, has_aux=True)(X)
    np.testing.assert_array_equal(gradient, 2 * X)
    np.testing.assert_array_equal(aux["double"], 2 * X)
    assert not isinstance(aux["double"], Tracer)
    assert aux["n"] == 3
    assert aux["none"] is None
    (value, aux), gradient = ft.value_and_grad(f, has_aux=True)(X)
    assert value == 14.0
    assert aux["double"].tolist() == [2.0, 4.0, 6.0]
    with pytest.raises(TypeError, match=r"needs the function to return \(value, aux\)"):
        ft.grad(lambda x: x, has_aux=True)(1.0)


Layer = namedtuple("Layer", ["w", "b"])


def test_the_gradient_has_the_structure_shapes_and_dtypes_of_the_parameters():
    params = {
        "layers": [Layer(np.ones((2, 3), np.float32), np.zeros(3, np.float32))],
        "scale": (2.0, None),
    }

    def loss(p, x):
        (layer,) = p["layers"]
        return np.sum(x @ layer.w + layer.b) * p["scale"][0]

    gradient = ft.grad(loss)(params, np.ones((4, 2), np.float32))
    assert ft.tree.structure(gradient) == ft.tree.structure(params)
    assert gradient["layers"][0].w.dtype == np.float32
    np.testing.assert_array_equal(gradient["layers"][0].w, np.full((2, 3), 8.0))
    np.testing.assert_array_equal(gradient["layers"][0].b, np.full(3, 8.0))
    assert gradient["scale"] == (24.0, None)


def test_a_python_int_is_a_float():
    result = ft.grad(lambda x: x**2)(3)
    assert result == 6.0
    assert result.dtype == np.float64
    assert ft.grad(lambda p: p["a"] * p["b"])({"a": 2, "b": 3.0}) == {"a": 3.0, "b": 2.0}


def test_python_control_flow_on_values_works_without_jit():
    def f(a):
        b = a * 2
        while np.linalg.norm(b) < 1000:
            b = b * 2
        return np.sum(b) if np.sum(b) > 0 else np.sum(100 * b)

    a = np.array([0.3, -0.1])
    assert ft.grad(f)(a).tolist() == [4096.0, 4096.0]


def test_an_integer_array_is_refused_by_its_path():
    params = {"w": [np.ones(2), np.arange(3)]}
    with pytest.raises(TypeError, match=r"(?s)params\['w'\]\[1\].*allow_int=True") as info:
        ft.grad(lambda params: np.sum(params["w"][0]))(params)
    assert "int64" in str(info.value) or "i64[3]" in str(info.value)
    with pytest.raises(TypeError, match="bool"):
        ft.grad(lambda flag: 1.0)(np.array([True]))


def test_allow_int_gives_float0():
    f = lambda i, x: np.sum(x) * i  # noqa: E731
    gradient = ft.grad(f, argnums=(0, 1), allow_int=True)(np.int64(3), X)
    assert gradient[0].dtype == ft.float0
    assert gradient[0].shape == ()
    assert gradient[1].tolist() == [3.0, 3.0, 3.0]


def test_a_leaf_that_is_no_array_is_refused_by_its_path():
    with pytest.raises(TypeError, match=r"(?s)params\['name'\].*'relu'.*static"):
        ft.grad(lambda params: params["w"])({"w": 1.0, "name": "relu"})


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (lambda x: x * 2, r"one number, got an array f64\[3\].*Reduce it"),
        (lambda x: None, "got NoneType.*no return statement"),
        (lambda x: (np.sum(x), x), "got tuple.*has_aux=True"),
        (lambda x: np.sum(x) > 0, r"floating-point result, got bool\[\]"),
        (lambda x: np.argmax(x), r"floating-point result, got i64\[\]"),
        (lambda x: np.sum(x) * 1j, r"real result, got c128\[\].*holomorphic=True"),
    ],
)
def test_a_result_that_is_not_one_real_number_is_refused(f, message):
    with pytest.raises(TypeError, match="(?s)" + message):
        ft.grad(f)(X)


def test_complex_gradients_follow_jax():
    assert ft.grad(lambda z: abs(z) ** 2)(1 + 2j) == 2 - 4j
    assert ft.grad(lambda z: np.real(z * z))(1 + 2j) == 2 + 4j
    assert ft.grad(lambda z: np.imag(z))(1 + 2j) == -1j
    np.testing.assert_allclose(
        ft.grad(lambda z: np.sum(np.abs(z) ** 2))(np.array([1 + 2j, 3j])), [2 - 4j, -6j]
    )


def test_a_real_argument_of_a_complex_computation_gets_a_real_gradient():
    result = ft.grad(lambda x: np.real(np.exp(1j * x)))(0.5)
    assert result.dtype == np.float64
    np.testing.assert_allclose(result, -np.sin(0.5))


def test_holomorphic_gives_the_complex_derivative():
    z = 0.5 + 0.25j
    np.testing.assert_allclose(ft.grad(np.sin, holomorphic=True)(z), np.cos(z))
    np.testing.assert_allclose(ft.grad(lambda z: z**3, holomorphic=True)(z), 3 * z**2)


def test_holomorphic_needs_complex_arguments():
    with pytest.raises(TypeError, match="holomorphic"):
        ft.grad(lambda x: x * 1.0, holomorphic=True)(2.0)


@pytest.mark.parametrize(
    "f",
    [
        lambda x, y: np.sum(x) + np.sum(y),
        lambda x, y: np.sum((x + y) ** 2),
        lambda x, y: np.sum(x) * 0.0 + np.sum(y * X),
        lambda x, y: np.sum(x.reshape(3, 1)) + y[0],
        lambda x, y: np.float64(1.0) * 2,
        lambda x, y: np.sum(X * (x + y)),
    ],
)
def test_gradients_are_fresh_writable_arrays(f):
    kept = X.copy()
    gx, gy = ft.grad(f, argnums=(0, 1))(X, Y)
    before = gy.copy()
    gx += 1000.0
    np.testing.assert_array_equal(gy, before)
    gy -= 7.0
    np.testing.assert_array_equal(X, kept)


def test_the_signature_and_name_survive():
    assert ft.grad(weighted).__name__ == "weighted"
    assert ft.grad(weighted).__wrapped__ is weighted


def test_an_array_written_to_while_the_function_runs_keeps_its_value_at_each_use():
    def f(x):
        buffer = np.zeros(2)
        for i in range(3):
            buffer[:] = i + 1.0
            x = x * buffer
        return np.sum(x)

    assert ft.grad(f)(np.ones(2)).tolist() == [6.0, 6.0]
    assert ft.grad(lambda x: np.sum(ft.grad(f)(x) * x))(np.ones(2)).tolist() == [6.0, 6.0]
    with pytest.raises(ValueError, match="written to after a traced operation had used it"):
        ft.jit(f)(np.ones(2))


def test_stop_gradient_and_unused_arguments_give_zeros():
    assert ft.grad(lambda x: x * ft.lax.stop_gradient(x))(3.0) == 3.0
    assert ft.grad(lambda x, y: y * 2.0)(3.0, 1.0) == 0.0
    unused = ft.grad(lambda p: fnp.sum(p[0]))([X, Y])
    assert unused[1].tolist() == [0.0, 0.0, 0.0]
