"""Independent steps run together; what they compute is what they would compute alone."""

import itertools

import numpy as np

import functrans as ft
from functrans.compiler.planning import schedule
from functrans.loop_ir import MatMul, Together
from functrans.printing_loops import run_python

RNG = np.random.default_rng(0)
X = RNG.normal(size=(200, 64))
W = [RNG.normal(size=(64, 64)) / 8 for _ in range(3)]


def attention(x, q, k, v):
    q, k, v = x @ q, x @ k, x @ v
    return np.tanh(q @ k.T) @ v


def shapes(program):
    return [len(s.steps) if isinstance(s, Together) else 1 for s in program.steps]


def test_products_of_one_operand_run_together():
    lowered = ft.jit(attention).lower(X, *W)
    assert shapes(lowered.program)[0] == 3
    want = attention(X, *W)
    np.testing.assert_allclose(run_python(lowered.program, [X, *W])[0], want, rtol=1e-9)
    found = []
    for n in (1, 2, 4):
        with ft.threads(n):
            found.append(lowered.compile()(X, *W))
    np.testing.assert_allclose(found[0], want, rtol=1e-9)
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


def test_both_gradients_of_a_layer_run_together():
    gradient = ft.jit(ft.grad(lambda x, w: np.sum(np.tanh(x @ w)), argnums=(0, 1)))
    assert 2 in shapes(gradient.lower(X, W[0]).program)
    for got, want in zip(gradient(X, W[0]), ft.grad(
        lambda x, w: np.sum(np.tanh(x @ w)), argnums=(0, 1))(X, W[0]), strict=True):  # fmt: skip
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)


def test_small_and_dependent_steps_stay_in_order():
    small = ft.jit(lambda x, w: (x @ w, x @ w.T)).lower(X[:4], W[0]).program
    assert shapes(small) == [1, 1]
    chain = ft.jit(lambda x, w: ((x @ w) @ w) @ w).lower(X, W[0]).program
    assert shapes(chain) == [1, 1, 1]


def test_steps_together_have_memory_of_their_own():
    program = ft.jit(attention).lower(X, *W).program
    first = program.steps[0]
    assert isinstance(first, Together)
    places = dict(program.offsets)
    sizes = {b.name: b.nbytes for b in program.temps}
    outs = sorted((places[s.out], sizes[s.out]) for s in first.steps if isinstance(s, MatMul))
    for (at, size), (following, _) in itertools.pairwise(outs):
        assert at + size <= following


def test_no_more_than_so_many_run_together():
    many = ft.jit(lambda x, ws: [x @ w for w in ws])
    ws = [W[0] + i for i in range(20)]
    assert max(shapes(many.lower(X, ws).program)) <= schedule.MOST
    for got, w in zip(many(X, ws), ws, strict=True):
        np.testing.assert_allclose(got, X @ w, rtol=1e-10)
