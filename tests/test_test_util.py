"""The gradient checkers: they pass what is right, fail what is wrong, and say by how much."""

from __future__ import annotations

import numpy as np
import pytest

import functrans as ft
from functrans import ops
from functrans.test_util import check_custom_rule, check_grads, compare_jacobians

X = np.array([0.5, -1.0, 2.0])


class WrongSquare(ft.Primitive):
    """x**2 with the derivative 3 * x."""

    def impl(self, x):
        return x * x

    def abstract_eval(self, x):
        return x

    def jvp(self, primals, tangents):
        (x,), (t,) = primals, tangents
        return self(x), ops.mul(ops.mul(x, 3.0), t)


wrong_square = WrongSquare("wrong_square")


@pytest.mark.parametrize("order", [1, 2, 3])
def test_right_derivatives_pass_at_every_order(order):
    check_grads(lambda x, y: np.sin(x) * y["k"] ** 2, (X, {"k": X + 3}), order)
    check_grads(lambda x: (np.exp(x), np.sum(x**3)), (X,), order)


def test_right_derivatives_pass_in_float32():
    check_grads(lambda x: np.tanh(x) * x, (X.astype(np.float32),), 2)


def test_right_derivatives_pass_for_complex_arguments():
    check_grads(lambda z: z * z, (X + 1j,), 2)
    check_grads(lambda z: np.abs(z) ** 2, (X + 1j,), 1)
    check_grads(lambda x: np.exp(1j * x), (X,), 1)


def test_right_derivatives_pass_through_jit_and_vmap():
    check_grads(ft.jit(lambda x: np.sum(np.sin(x) ** 2)), (X,), 2)
    check_grads(ft.vmap(lambda x: x**3), (X,), 2)


@pytest.mark.parametrize("modes", [("fwd",), ("rev",)])
def test_a_wrong_derivative_fails_in_each_mode(modes):
    with pytest.raises(AssertionError, match="forward mode" if modes == ("fwd",) else "reverse"):
        check_grads(wrong_square, (X,), 1, modes=modes)


def test_a_wrong_second_derivative_fails_at_order_two():
    # Its first derivative is right; the derivative of that is not.
    first_right = lambda x: wrong_square(x) - x * ft.lax.stop_gradient(x)  # noqa: E731
    check_grads(lambda x: x * ft.lax.stop_gradient(x) * 0.0 + x, (X,), 2)
    with pytest.raises(AssertionError):
        check_grads(first_right, (X,), 2)


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="'forward'"):
        check_grads(np.sin, (X,), 1, modes=("forward",))


def test_nothing_to_differentiate_is_refused():
    with pytest.raises(TypeError, match="float"):
        check_grads(lambda n: n * 2, (np.arange(3),), 1)


@pytest.mark.parametrize("mode", ["fwd", "rev"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_jacobians_agree_with_numerical_ones(mode, order):
    theoretical, numerical, difference = compare_jacobians(
        lambda x: np.sin(x) * x[0], X, order=order, mode=mode
    )
    assert theoretical.shape == numerical.shape == (3,) * (order + 1)
    assert difference == np.max(np.abs(theoretical - numerical))
    assert difference < 1e-6


def test_jacobians_of_a_wrong_derivative_differ_by_the_mistake():
    theoretical, numerical, difference = compare_jacobians(wrong_square, X)
    np.testing.assert_allclose(np.diag(theoretical), 3 * X)
    np.testing.assert_allclose(np.diag(numerical), 2 * X, rtol=1e-6)
    np.testing.assert_allclose(difference, 2.0, rtol=1e-6)


def test_jacobians_take_further_arguments_and_scalars():
    _, _, difference = compare_jacobians(lambda x, k: x**k, 2.0, 3)
    assert difference < 1e-6
    theoretical, numerical, _ = compare_jacobians(np.sum, np.zeros((2, 0)))
    assert theoretical.shape == numerical.shape == (2, 0)
    with pytest.raises(ValueError, match="'fwd' or 'rev', got 'both'"):
        compare_jacobians(np.sin, X, mode="both")


# ---------------------------------------------------------------------------- rules of functions


def scaled(mode, p, n, x):
    """A function with an argument of each kind: of no kind, a tree, an integer, an array."""
    return {"y": np.sin(x) * p["w"] * n, "n": n, mode: x}


def rules_of_scaled():
    f = ft.custom_vjp(scaled, nondiff_argnums=0)
    f.defvjp(
        lambda mode, p, n, x: (scaled(mode, p, n, x), (p["w"], n, x)),
        lambda mode, r, ct: (
            {"w": np.sin(r[2]) * r[1] * ct["y"]},
            None,
            np.cos(r[2]) * r[0] * r[1] * ct["y"] + ct[mode],
        ),
    )
    return f


ARGS = ("same", {"w": X + 3}, 2, X)


def test_right_rules_pass_with_arguments_of_every_kind():
    check_custom_rule(rules_of_scaled(), ARGS, order=2)
    power = ft.custom_jvp(lambda x, n=2.0: x**n)
    power.defjvps(lambda t, y, x, n: n * x ** (n - 1) * t, lambda t, y, x, n: y * np.log(x) * t)
    check_custom_rule(power, (np.float32(1.5),))
    double = ft.custom_batching.custom_vmap(lambda x: 2 * x)
    double.def_vmap(lambda size, in_batched, x: (2 * x, True))
    check_custom_rule(double, (X,))


MISTAKES = {
    "outputs in forward mode": lambda f: f.defjvp(
        lambda m, p, t: (f(m, p[0], p[1], 2 * p[2]),) * 2
    ),
    "outputs in reverse mode": lambda f: f.defvjp(
        lambda m, p, n, x: (f(m, p, n, x + 1), None), lambda m, r, ct: (None, None, None)
    ),
    "reverse mode, 1": lambda f: f.defvjp(
        lambda m, p, n, x: (f(m, p, n, x), None), lambda m, r, ct: (None, None, ct["y"])
    ),
    "outputs of a batch": lambda f: f.def_vmap(
        lambda size, b, m, p, n, x: (
            {"y": x, "n": n, m: x},
            {"y": True, "n": False, m: True},
        )
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_wrong_rules_fail_with_what_differs(mistake):
    f = rules_of_scaled()
    MISTAKES[mistake](f)
    modes = ("rev",) if "reverse" in mistake else ("fwd", "rev")
    with pytest.raises(AssertionError, match=mistake):
        check_custom_rule(f, ARGS, modes=modes)
