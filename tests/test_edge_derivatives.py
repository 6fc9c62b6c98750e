"""Derivatives at points where calculus leaves a choice, or where 0 * inf lurks: decided, and held.

Each row is checked by reverse mode and forward mode, eagerly and compiled.
"""

from __future__ import annotations

import numpy as np
import pytest

import functrans as ft
import functrans.numpy as fnp

ZEROS = np.zeros(3)

# name, function of one array that returns a number, point, gradient
CASES = [
    ("abs at 0", lambda x: np.abs(x), 0.0, 0.0),
    ("abs at -0", lambda x: np.abs(x), -0.0, 0.0),
    ("abs of complex at 0", lambda x: np.abs(x * (1 + 1j)), 0.0, 0.0),
    ("norm at zeros", lambda x: np.linalg.norm(x), ZEROS, ZEROS),
    ("norm of order 1 at zeros", lambda x: np.linalg.norm(x, 1), ZEROS, ZEROS),
    ("norm along an axis", lambda x: np.sum(np.linalg.norm(x.reshape(1, 3), axis=1)), ZEROS, ZEROS),
    ("maximum of equals", lambda x: np.maximum(x, 2.0), 2.0, 0.5),
    ("minimum of equals", lambda x: np.minimum(x, 2.0), 2.0, 0.5),
    ("max with a tie of two", lambda x: np.max(x), np.array([1.0, 3.0, 3.0]), [0.0, 0.5, 0.5]),
    ("min with a tie of two", lambda x: np.min(x), np.array([3.0, 1.0, 1.0]), [0.0, 0.5, 0.5]),
    ("relu at 0", lambda x: np.maximum(x, 0.0), 0.0, 0.5),
    ("guarded sqrt at 0", lambda x: np.where(x > 0, np.sqrt(x), 0.0), 0.0, 0.0),
    ("guarded sqrt below 0", lambda x: np.where(x > 0, np.sqrt(x), 0.0), -1.0, 0.0),
    ("guarded log at 0", lambda x: np.where(x > 0, np.log(x), 0.0), 0.0, 0.0),
    ("guarded division at 0", lambda x: np.where(x != 0, 1 / x, 0.0), 0.0, 0.0),
    ("guarded x log x", lambda x: np.where(x > 0, x * np.log(x), 0.0), 0.0, 0.0),
    ("guarded exp", lambda x: np.where(x < 10, np.exp(x), x), 1000.0, 1.0),
    ("guarded arcsin", lambda x: np.where(x < 1, np.arcsin(x), 0.0), 1.0, 0.0),
    ("guarded arccos", lambda x: np.where(x < 1, np.arccos(x), x), 1.0, 1.0),
    ("guarded power", lambda x: np.where(x > 0, x**0.5, 0.0), 0.0, 0.0),
    ("guarded cbrt", lambda x: np.where(x != 0, np.cbrt(x), 0.0), 0.0, 0.0),
    ("guarded arctanh", lambda x: np.where(x < 1, np.arctanh(x), 0.0), 1.0, 0.0),
    ("x**0 at 0", lambda x: x**0.0, 0.0, 0.0),
    ("x**0 at 2", lambda x: x**0.0, 2.0, 0.0),
    ("x**1 at 0", lambda x: x**1.0, 0.0, 1.0),
    ("x**2 at 0", lambda x: x**2.0, 0.0, 0.0),
    ("0**x at 2", lambda x: np.power(0.0, x), 2.0, 0.0),
    ("hypot(x, 0) at 0", lambda x: np.hypot(x, 0.0), 0.0, 0.0),
    ("hypot(0, x) at 0", lambda x: np.hypot(0.0, x), 0.0, 0.0),
    ("hypot(x, x) at 0", lambda x: np.hypot(x, x), 0.0, 0.0),
    ("sign at 0", lambda x: np.sign(x), 0.0, 0.0),
    ("floor at 1", lambda x: np.floor(x), 1.0, 0.0),
    ("prod with one 0", lambda x: np.prod(x), np.array([0.0, 2.0, 3.0]), [6.0, 0.0, 0.0]),
    ("prod with two 0", lambda x: np.prod(x), np.array([0.0, 0.0, 3.0]), ZEROS),
    ("clip at its bound", lambda x: np.clip(x, -1.0, 1.0), 5.0, 0.0),
    ("sinc at 0", lambda x: np.sinc(x), 0.0, 0.0),
    ("logaddexp of -inf", lambda x: np.logaddexp(x, -np.inf), 1.0, 1.0),
    ("sorted ties", lambda x: np.sum(np.sort(x) * np.array([1.0, 2.0, 3.0])),
     np.array([2.0, 2.0, 1.0]), [2.0, 3.0, 1.0]),
]  # fmt: skip

each_case = pytest.mark.parametrize(
    ("f", "point", "gradient"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)


@each_case
def test_gradient_is_the_one_decided(f, point, gradient):
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(ft.grad(f)(point), gradient)


@each_case
def test_compiled_gradient_is_the_one_decided(f, point, gradient):
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(ft.jit(ft.grad(f))(point), gradient)
        np.testing.assert_array_equal(ft.grad(ft.jit(f))(point), gradient)


@each_case
def test_forward_mode_agrees(f, point, gradient):
    basis = np.eye(np.size(point)).reshape(-1, *np.shape(point))
    for i, direction in enumerate(basis):
        expected = np.ravel(gradient)[i]
        with np.errstate(all="ignore"):
            push = lambda x, t: ft.jvp(f, (x,), (t,))[1]  # noqa: E731
            np.testing.assert_array_equal(push(point, direction[()]), expected)
            np.testing.assert_array_equal(ft.jit(push)(point, direction[()]), expected)


def test_a_tie_of_maximum_is_shared_by_both_sides():
    assert ft.grad(np.maximum, argnums=(0, 1))(2.0, 2.0) == (0.5, 0.5)
    assert ft.grad(fnp.minimum, argnums=(0, 1))(2.0, 2.0) == (0.5, 0.5)


def test_second_derivatives_behind_where_are_finite_too():
    f = lambda x: np.where(x > 0, np.sqrt(x), 0.0)  # noqa: E731
    with np.errstate(all="ignore"):
        assert ft.grad(ft.grad(f))(0.0) == 0.0
        assert ft.jit(ft.grad(ft.grad(f)))(0.0) == 0.0


def test_an_unguarded_singularity_is_not_hidden():
    with np.errstate(all="ignore"):
        assert ft.grad(np.sqrt)(0.0) == np.inf
        assert ft.grad(np.log)(0.0) == np.inf
        assert ft.jit(ft.grad(np.sqrt))(0.0) == np.inf
