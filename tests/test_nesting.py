"""Transformations in any nesting: random towers of them against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import functrans as ft

# name, f, its derivatives of order 0, 1, 2, 3 in closed form
SCALAR = [
    ("sin", np.sin, [np.sin, np.cos, lambda x: -np.sin(x), lambda x: -np.cos(x)]),
    ("exp(2x)", lambda x: np.exp(2 * x), [lambda x, k=k: 2**k * np.exp(2 * x) for k in range(4)]),
    (
        "x**3 - x",
        lambda x: x**3 - x,
        [lambda x: x**3 - x, lambda x: 3 * x**2 - 1, lambda x: 6 * x, lambda x: 6 + 0 * x],
    ),
    (
        "1/x",
        lambda x: 1 / x,
        [lambda x: 1 / x, lambda x: -1 / x**2, lambda x: 2 / x**3, lambda x: -6 / x**4],
    ),
]

# Each takes a function of one number to its derivative, by another way.
DIFFERENTIATE = {
    "grad": ft.grad,
    "jvp": lambda f: lambda x: ft.jvp(f, (x,), (1.0,))[1],
    "vjp": lambda f: lambda x: ft.vjp(f, x)[1](1.0)[0],
    "jacfwd": ft.jacfwd,
    "jacrev": ft.jacrev,
    "linearize": lambda f: lambda x: ft.linearize(f, x)[1](1.0),
}
# Each takes a function of one number to one with the same values.
KEEP = {
    "jit": ft.jit,
    "checkpoint": ft.checkpoint,
    "vmap of 1": lambda f: lambda x: ft.vmap(f)(np.stack([x]))[0],
    "vmap of 2": lambda f: lambda x: ft.vmap(f)(np.stack([x + 1, x]))[1],
    "vmap, shared": lambda f: (
        lambda x: ft.vmap(lambda y, z: f(y) + 0 * z, in_axes=(None, 0))(x, np.arange(2.0))[1]
    ),
    "eval_jaxpr": lambda f: lambda x: _through_jaxpr(f, x),
}


def _through_jaxpr(f, x):
    closed = ft.make_jaxpr(f)(x)
    ft.check_jaxpr(closed)
    return ft.eval_jaxpr(closed.jaxpr, closed.consts, x)[0]


towers = st.lists(st.sampled_from([*DIFFERENTIATE, *KEEP]), min_size=1, max_size=6).filter(
    lambda names: sum(n in DIFFERENTIATE for n in names) <= 3
)


@settings(max_examples=120)
@given(st.integers(0, len(SCALAR) - 1), towers, st.floats(0.3, 1.5))
def test_a_tower_of_transformations_equals_the_closed_form(which, names, x):
    _, f, derivatives = SCALAR[which]
    order = 0
    for name in names:
        f = {**DIFFERENTIATE, **KEEP}[name](f)
        order += name in DIFFERENTIATE
    np.testing.assert_allclose(f(x), derivatives[order](x), rtol=1e-10, atol=1e-10)


# Functions of a vector to a number, with gradient and Hessian in closed form.
W = np.array([[2.0, 1.0], [0.5, 3.0]])
VECTOR = [
    (
        lambda x: np.sum(x**3),
        lambda x: 3 * x**2,
        lambda x: np.diag(6 * x),
    ),
    (
        lambda x: x @ W @ x,
        lambda x: (W + W.T) @ x,
        lambda x: W + W.T,
    ),
    (
        lambda x: np.exp(x[0]) * x[1] ** 2,
        lambda x: np.array([np.exp(x[0]) * x[1] ** 2, 2 * np.exp(x[0]) * x[1]]),
        lambda x: np.exp(x[0]) * np.array([[x[1] ** 2, 2 * x[1]], [2 * x[1], 2.0]]),
    ),
]
HESSIANS = {
    "hessian": ft.hessian,
    "fwd over rev": lambda f: ft.jacfwd(ft.jacrev(f)),
    "rev over fwd": lambda f: ft.jacrev(ft.jacfwd(f)),
    "rev over rev": lambda f: ft.jacrev(ft.jacrev(f)),
    "fwd over fwd": lambda f: ft.jacfwd(ft.jacfwd(f)),
    "jacobian of grad": lambda f: ft.jacobian(ft.grad(f)),
    "jacfwd of jit of grad of jit": lambda f: ft.jacfwd(ft.jit(ft.grad(ft.jit(f)))),
    "rows by vmap of jvp of grad": lambda f: (
        lambda x: ft.vmap(lambda t: ft.jvp(ft.grad(f), (x,), (t,))[1])(np.eye(2))
    ),
    "rows by grad of an inner product": lambda f: (
        lambda x: ft.vmap(lambda t: ft.grad(lambda y: np.dot(ft.grad(f)(y), t))(x))(np.eye(2))
    ),
}


@pytest.mark.parametrize("case", range(len(VECTOR)))
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("way", HESSIANS)
def test_every_way_to_a_hessian_agrees(way, compiled, case):
    f, gradient, hessian = VECTOR[case]
    x = np.array([0.7, -1.3])
    compute = HESSIANS[way](f)
    np.testing.assert_allclose((ft.jit(compute) if compiled else compute)(x), hessian(x))
    np.testing.assert_allclose(ft.grad(f)(x), gradient(x))


def test_perturbations_of_nested_levels_are_not_confused():
    # d/dx (x * d/dy (x + y)) = 1; mixing the two levels would give 2 (Siskind and Pearlmutter).
    for outer in DIFFERENTIATE.values():
        for inner in DIFFERENTIATE.values():
            f = outer(lambda x, inner=inner: x * inner(lambda y: x + y)(1.0))
            assert f(1.0) == 1.0
            assert ft.jit(f)(1.0) == 1.0


def test_an_inner_jit_may_close_over_outer_tracers():
    f = lambda x: ft.jit(lambda y: x * y)(3.0) + ft.vmap(lambda y: x * y)(np.ones(2))[0]  # noqa: E731
    assert ft.grad(f)(2.0) == 4.0
    assert ft.jit(ft.grad(f))(2.0) == 4.0
    assert ft.vmap(ft.grad(f))(np.ones(2)).tolist() == [4.0, 4.0]


def test_a_batch_of_hessians_under_jit():
    f, _, hessian = VECTOR[2]
    xs = np.array([[0.1, 0.2], [1.0, -1.0], [0.5, 2.0]])
    np.testing.assert_allclose(
        ft.jit(ft.vmap(ft.hessian(f)))(xs), np.stack([hessian(x) for x in xs])
    )
