"""What the two parts of a differentiated jitted function hand over: as little as is cheap."""

from __future__ import annotations

import numpy as np
import pytest

import functrans as ft
from functrans.interpreters.jvp import jvp_jaxpr
from functrans.interpreters.linearize import forwarding, linearize_flat, partial_eval_jaxpr

RNG = np.random.default_rng(0)
ROWS, INPUTS, HIDDEN, CLASSES = 64, 32, 48, 10


def softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / np.sum(e, axis=1, keepdims=True)


def mlp(x, y, w1, b1, w2, b2):
    z = np.tanh(x @ w1 + b1) @ w2 + b2
    z = z - z.max(axis=1, keepdims=True)
    return -np.mean(np.sum(y * (z - np.log(np.sum(np.exp(z), axis=1, keepdims=True))), axis=1))


SHAPES = [
    (ROWS, INPUTS), (ROWS, CLASSES), (INPUTS, HIDDEN), (HIDDEN,), (HIDDEN, CLASSES), (CLASSES,)
]  # fmt: skip
MLP = [RNG.normal(size=shape) for shape in SHAPES]


def residuals(f, *args):
    """The arrays that `vjp` of `f` keeps."""
    _, tape = linearize_flat(lambda *xs: [f(*xs)], args)
    tape.protect()
    arrays = {id(a.val): a.val for a in tape.literals() if isinstance(a.val, np.ndarray)}
    return list(arrays.values())


def test_a_softmax_keeps_one_array_of_floats():
    x = RNG.normal(size=(ROWS, 50))
    kept = residuals(ft.jit(softmax), x)
    # exp(x - max), its sums, where the maximum is and how often.
    assert sorted(r.nbytes for r in kept) == [ROWS * 8, ROWS * 8, ROWS * 50, ROWS * 50 * 8]
    assert sum(r.nbytes for r in residuals(softmax, x)) == 80512  # as jit kept before


def test_a_layer_keeps_its_activations_once():
    kept = residuals(ft.jit(mlp), *MLP)
    # The derivative of tanh is computed from its value, which the next product needs.
    assert sum(r.shape == (ROWS, HIDDEN) for r in kept) == 1
    assert (len(kept), sum(r.nbytes for r in kept)) == (10, 74112)


@pytest.mark.parametrize("transform", [lambda g: g, ft.jit], ids=["eager", "jit"])
def test_gradients_do_not_change(transform):
    argnums = tuple(range(6))
    actual = transform(ft.grad(ft.jit(mlp), argnums=argnums))(*MLP)
    for x, y in zip(actual, ft.grad(mlp, argnums=argnums)(*MLP), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-14)
    x = RNG.normal(size=(ROWS, 5))
    total = lambda f: lambda x: np.sum(np.sin(f(x)))  # noqa: E731
    second = ft.jacfwd(ft.grad(total(ft.jit(softmax))))(x)
    np.testing.assert_allclose(second, ft.hessian(total(softmax))(x), rtol=1e-10, atol=1e-14)


def split(f, *args):
    """The known and the linear program of `f`, all of whose arguments move."""
    n = len(args)
    both, _ = jvp_jaxpr(ft.make_jaxpr(f)(*args), (True,) * n)
    return partial_eval_jaxpr(both, (False,) * n + (True,) * n)


def test_operands_are_kept_instead_of_what_repeats_or_moves_them():
    def f(x, column, n):
        wide = np.exp(column)[:, None] * np.ones(5)
        return np.sum(x.T * wide.T * n.astype(float) * np.sin(x).T * np.sin(x).T)

    n = np.arange(5, dtype=np.int8)[:, None] + np.zeros(4, np.int8)
    known, linear, _ = split(f, np.ones((4, 5)), np.ones(4), n)
    kept = [str(v.aval) for v in known.jaxpr.outvars[1:]]
    assert "f64[4,5]" in kept
    assert "i8[5,4]" in kept
    assert "f64[5,4]" not in kept
    assert len(kept) == len(set(known.jaxpr.outvars[1:]))
    assert [v.aval for v in known.jaxpr.outvars[1:]] == linear.in_avals[: len(kept)]


def test_inputs_and_outputs_are_not_handed_over_twice():
    known, _, _ = split(lambda x, y: np.exp(x) * y, np.ones(3), np.ones(3))
    program, places = forwarding(known, 1)
    # exp(x) and y are kept: the first is computed, the second is an input.
    assert len(program.jaxpr.outvars) == 2
    assert set(places) == {1, 3}
    known, _, _ = split(np.exp, np.ones(3))
    program, places = forwarding(known, 1)
    assert (len(program.jaxpr.outvars), places) == (1, (1,))
