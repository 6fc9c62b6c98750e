"""Rules run on tracers of every kind, not only on arrays: staged, batched, twice differentiated."""

import numpy as np
import pytest

from functrans import ops
from functrans.core import get_aval, instantiate
from functrans.interpreters.batching import batch_flat
from functrans.interpreters.jvp import jvp_flat
from functrans.interpreters.linearize import linearize_flat
from functrans.interpreters.staging import eval_jaxpr, trace_to_jaxpr
from functrans.interpreters.transpose import transpose_tape
from tests.helpers.primitive_rules import inner, random_array

INT64 = np.dtype("i8")
MATMUL = (((1,), (0,)), ((), ()))
X = random_array((3, 4))
REPEATED = np.array([2, 0, 2])
ONCE = np.array([0, 2, 1])


def position_of_largest(x):
    flat = ops.reshape(x, shape=(x.size,))
    return ops.argmax(flat, axis=0, index_dtype=INT64)


def slice_at_largest(x):
    at = position_of_largest(x)
    return ops.dynamic_slice(x, at, np.int64(1), slice_sizes=(2, 2))


def update_at_largest(x, update):
    at = position_of_largest(x)
    return ops.dynamic_update_slice(x, update, at, np.int64(1))


def scatter_case(op, mode):
    index = ONCE if op == "mul" else REPEATED
    index = 2 * index if mode == "fill" else index

    def f(x, updates):
        return ops.scatter(x, updates, index, op=op, mode=mode, unique=op == "mul")

    return f, [X, random_array((3, 4), seed=1)]


CASES = {
    "reduce_prod": (lambda x: ops.reduce_prod(x, axes=(0, 1)), [X]),
    "reduce_max": (lambda x: ops.reduce_max(x, axes=(1,)), [X]),
    "cumsum": (lambda x: ops.cumsum(x, axis=0, reverse=True), [X]),
    "cumprod": (lambda x: ops.cumprod(x, axis=1, reverse=True), [X]),
    "cummax": (lambda x: ops.cummax(x, axis=1), [X]),
    "cumlogsumexp": (lambda x: ops.cumlogsumexp(x, axis=1), [X]),
    "sort": (lambda x: ops.sort(x, axis=0), [X]),
    "pad": (
        lambda x, number: ops.pad(x, number, config=((1, -1, 1), (-1, 2, 0))),
        [X, np.float64(2)],
    ),
    "concatenate": (lambda x, y: ops.concatenate(x, y, dimension=1), [X, X[:, :2]]),
    "dot_general": (
        lambda x, y: ops.dot_general(x, y, dimension_numbers=MATMUL),
        [X, random_array((4, 2))],
    ),
    "gather": (lambda x: ops.gather(x, REPEATED, np.array([1, -1, 1])), [X]),
    "gather fill": (lambda x: ops.gather(x, np.array([0, 2]), mode="fill"), [X]),
    "gather traced": (
        lambda x: ops.gather(x, ops.argmin(x, axis=0, index_dtype=INT64)),
        [X],
    ),
    "dynamic_slice": (slice_at_largest, [X]),
    "dynamic_update_slice": (update_at_largest, [X, X[:2, :2]]),
    **{
        f"scatter {op} {mode}": scatter_case(op, mode)
        for op in ("set", "add", "mul", "min", "max")
        for mode in ("error", "fill")
    },
}


def vjp(f, xs, ct):
    _, tape = linearize_flat(lambda *xs: [f(*xs)], xs)
    return [instantiate(c) for c in transpose_tape(tape, [ct])]


def jvp(f, xs, tangents):
    outs, tangents = jvp_flat(f, xs, tangents)
    return outs, [instantiate(t) for t in tangents]


def assert_same(got, expected, rtol=1e-10):
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-10)


def assert_staged_is_eager(f, xs):
    closed = trace_to_jaxpr(f, [get_aval(x) for x in xs])
    outs = eval_jaxpr(closed.jaxpr, closed.consts, *xs)
    assert_same(outs, f(*xs))
    assert [get_aval(y) for y in outs] == closed.out_avals


@pytest.mark.parametrize("name", CASES)
def test_forward_reverse_and_second_derivatives_agree(name):
    f, xs = CASES[name]
    n = len(xs)
    ts, ws = ([random_array(x.shape, seed=i + s)[()] for i, x in enumerate(xs)] for s in (3, 6))
    (y,), (t,) = jvp(lambda *xs: [f(*xs)], xs, ts)
    ct = random_array(np.shape(y), seed=9)[()]
    pullback = lambda *xs: vjp(f, xs, ct)  # noqa: E731
    np.testing.assert_allclose(sum(map(inner, pullback(*xs), ts)), inner(ct, t))

    _, forward_over_reverse = jvp(pullback, xs, ws)

    def weighted(*xs):
        products = [
            ops.reduce_sum(ops.mul(c, w), axes=tuple(range(w.ndim)))
            for c, w in zip(pullback(*xs), ws, strict=True)
        ]
        return products[0] if n == 1 else ops.add(*products)

    assert_same(vjp(weighted, xs, np.float64(1)), forward_over_reverse)
    assert_staged_is_eager(lambda *a: [f(*a)], xs)
    assert_staged_is_eager(lambda *a: jvp(lambda *xs: [f(*xs)], a[:n], a[n:])[1], [*xs, *ts])
    assert_staged_is_eager(lambda *a: vjp(f, a[:-1], a[-1]), [*xs, ct])
    assert_staged_is_eager(lambda *a: jvp(pullback, a[:n], a[n:])[1], [*xs, *ts])


@pytest.mark.parametrize("name", CASES)
def test_a_batch_of_pullbacks_is_a_stack(name):
    f, xs = CASES[name]
    ct = random_array(np.shape(f(*xs)), seed=9)[()]
    args = [*xs, ct]
    stacked = [np.stack([a + 0.3 * k * np.cos(7 * a) for k in range(3)]) for a in args]
    outs, dims = batch_flat(lambda *a: vjp(f, a[:-1], a[-1]), stacked, [0] * len(args), 3)
    for k in range(3):
        example = [a[k] for a in stacked]
        expected = vjp(f, example[:-1], example[-1])
        got = [y if d is None else np.take(y, k, axis=d) for y, d in zip(outs, dims, strict=True)]
        assert_same(got, expected)
