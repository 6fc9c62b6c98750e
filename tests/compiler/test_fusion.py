"""What shares a loop nest, and what is stored: claims about kernels, and golden loop programs."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import functrans as ft
import functrans.numpy as fnp
from functrans import ops
from functrans.compiler.planning import memory
from functrans.loop_ir import Loop, walk
from functrans.printing_loops import program_to_python
from tests.helpers.lowered_programs import MatMul, check_lowering, count, kernels

RNG = np.random.default_rng(0)
X = RNG.normal(size=(5, 7))


def softmax(x: Any) -> Any:
    e = fnp.exp(x - fnp.max(x, axis=-1, keepdims=True))
    return e / fnp.sum(e, axis=-1, keepdims=True)


def layer_norm(x: Any, scale: Any, shift: Any) -> Any:
    mean = fnp.mean(x, axis=-1, keepdims=True)
    variance = fnp.mean((x - mean) ** 2, axis=-1, keepdims=True)
    return (x - mean) / fnp.sqrt(variance + 1e-5) * scale + shift


def mlp(sizes: list[int], batch: int) -> tuple[Any, tuple[Any, ...]]:
    """A training step of a network with tanh, and its arguments."""
    layers = [
        (RNG.normal(size=(m, n)).astype("f4"), np.zeros(n, "f4"))
        for m, n in itertools.pairwise(sizes)
    ]
    flat = [p for layer in layers for p in layer]
    x = RNG.normal(size=(batch, sizes[0])).astype("f4")
    y = RNG.normal(size=(batch, sizes[-1])).astype("f4")

    def loss(params, x, y):
        *hidden, (w, b) = zip(params[::2], params[1::2], strict=True)
        for v, c in hidden:
            x = fnp.tanh(x @ v + c)
        return fnp.mean((x @ w + b - y) ** 2)

    def step(*args):
        params, (x, y) = list(args[:-2]), args[-2:]
        value, grads = ft.value_and_grad(loss)(params, x, y)
        return [value, *(p - 0.1 * g for p, g in zip(params, grads, strict=True))]

    return step, (*flat, x, y)


def test_an_elementwise_chain_is_one_loop_over_all_elements():
    program = check_lowering(lambda x, y: fnp.tanh(x * 2 + y) - x, X, X + 1)
    (step,) = program.steps
    assert [s.extent for s in walk(step.kernel.body) if isinstance(s, Loop)] == [35]


def test_a_dense_layer_is_a_product_and_one_nest():
    program = check_lowering(
        lambda x, w, b: fnp.tanh(x @ w + b), X, RNG.normal(size=(7, 4)), RNG.normal(size=4)
    )
    assert (len(program.steps), count(program, MatMul)) == (2, 1)


def test_softmax_is_one_nest_of_rows(golden):
    program = check_lowering(softmax, X)
    assert len(program.steps) == 1
    golden("loops_softmax", program_to_python(program))


def test_layer_norm_and_its_gradient_are_one_nest_each(golden):
    scale, shift = RNG.normal(size=7), RNG.normal(size=7)
    assert len(check_lowering(layer_norm, X, scale, shift).steps) == 1
    gradient = ft.grad(lambda *a: fnp.sum(layer_norm(*a) ** 2), argnums=(0, 1, 2))
    program = check_lowering(gradient, X, scale, shift)
    assert len(program.steps) == 1
    golden("loops_layer_norm_gradient", program_to_python(program))


def test_cross_entropy_gradient_is_two_products_and_one_nest(golden):
    def loss(w, x, labels):
        z = x @ w
        z = z - fnp.max(z, axis=1, keepdims=True)
        log_sum = fnp.log(fnp.sum(fnp.exp(z), axis=1))
        return fnp.mean(log_sum - fnp.sum(z * labels, axis=1))

    labels = np.eye(4)[[0, 1, 2, 3, 0]]
    program = check_lowering(ft.value_and_grad(loss), RNG.normal(size=(7, 4)), X, labels)
    assert (count(program), count(program, MatMul)) == (1, 2)
    golden("loops_cross_entropy_gradient", program_to_python(program))


def test_a_train_step_of_an_mlp(golden):
    step, args = mlp([16, 32, 32, 1], 16)
    program = check_lowering(step, *args)
    assert (count(program), kernels(program)) == (9, 5)
    golden("loops_mlp_step", program_to_python(program))


def test_equal_layers_share_kernels():
    step, args = mlp([8] * 21, 8)
    program = check_lowering(step, *args, native=False)
    assert count(program) > 60
    assert kernels(program) <= 6


def test_sums_over_columns_keep_the_order_of_memory():
    program = check_lowering(lambda x: (x * 2, fnp.sum(x * 2, axis=0)), X)
    (step,) = program.steps
    fill, rows = step.kernel.body
    assert (fill.kind, rows.kind, rows.body[0].kind) == ("map", "sums", "map")


def test_a_sum_over_a_permuted_array_walks_its_memory():
    program = check_lowering(lambda x: fnp.sum(x.T, axis=1), X)
    call = program.steps[0]
    rows = call.kernel.body[-1]
    assert (rows.extent, call.numbers, rows.body[0].extent) == ("n0", (5,), 7)
    y = RNG.normal(size=(2, 3, 4))
    for axes in ((0,), (1,), (2,), (0, 2), (1, 2)):
        check_lowering(lambda y, a=axes: ops.reduce_sum(fnp.transpose(y, (2, 0, 1)), axes=a), y)


def test_a_sum_of_short_rows_leaves_long_loops_whole():
    x = RNG.normal(size=(4096, 2))
    program = check_lowering(lambda x: (fnp.tanh(x), fnp.sum(fnp.tanh(x), axis=0)), x, native=False)
    first, _ = program.steps
    assert [s.extent for s in walk(first.kernel.body) if isinstance(s, Loop)] == ["n0"]
    assert 8192 in first.numbers


def test_several_sums_over_one_array_are_one_pass():
    program = check_lowering(lambda x: (fnp.sum(x), fnp.sum(x * x), fnp.max(x)), X)
    assert len(program.steps) == 1
    assert sum(isinstance(s, Loop) for s in walk(program.steps[0].kernel.body)) == 1


def test_a_chain_of_numbers_is_one_kernel():
    program = check_lowering(lambda a, b: (a * b + fnp.sin(a), b / a), np.float64(2), np.float64(3))
    assert len(program.steps) == 1


def test_what_is_used_at_another_index_is_stored():
    def f(x):
        y = fnp.exp(fnp.sin(x)) * fnp.tanh(x)
        return y + y.T

    program = check_lowering(f, RNG.normal(size=(4, 4)))
    assert (len(program.steps), len(program.temps)) == (2, 1)


def test_rows_normalized_again_and_again_are_not_recomputed_each_time():
    def f(x):
        for _ in range(12):
            x = softmax(fnp.tanh(x))
        return x

    program = check_lowering(f, X)
    statements = sum(len(list(walk(s.kernel.body))) for s in program.steps)
    assert statements < 12 * 40


@pytest.mark.parametrize("largest", [0, 3, 512])
def test_temporaries_alive_together_do_not_overlap(largest, monkeypatch):
    monkeypatch.setattr(memory, "LARGEST", largest)
    step, args = mlp([8] * 6, 8)
    program = check_lowering(step, *args, native=largest != 512)
    alive, offsets = memory.lifetimes(program), dict(program.offsets)
    assert set(offsets) == {t.name for t in program.temps}
    assert program.arena_bytes < sum(t.nbytes for t in program.temps)
    for a in program.temps:
        start, end = offsets[a.name], offsets[a.name] + a.nbytes
        assert start % memory.ALIGNMENT == 0
        assert end <= program.arena_bytes
        for b in program.temps:
            if a.name < b.name and offsets[b.name] < end and start < offsets[b.name] + b.nbytes:
                (f1, l1), (f2, l2) = alive[a.name], alive[b.name]
                assert l1 < f2 or l2 < f1


# ---------------------------------------------------------------------------- random programs

SHAPES = [(), (4,), (3, 4), (4, 3), (1, 4), (3, 1), (2, 3, 4), (0, 4), (3, 0)]
UNARY = ["sin", "tanh", "exp", "neg", "abs", "square", "floor"]
BINARY = ["add", "subtract", "multiply", "maximum", "minimum"]
REDUCE = ["reduce_sum", "reduce_max", "reduce_prod", "reduce_min"]


def random_step(rng: np.random.Generator, x: Any, y: Any) -> Any:
    """One operation on random values of a program; None where it does not apply."""
    c, ndim = int(rng.integers(1 << 20)), len(x.shape)
    axes = tuple(i for i in range(ndim) if c >> i & 1)
    axis = c % ndim if ndim else 0
    choices = {
        "unary": lambda: getattr(ops, UNARY[c % 7])(x * 0.5),
        "binary": lambda: getattr(fnp, BINARY[c % 5])(x, y),
        "reduce": lambda: getattr(ops, REDUCE[c % 4])(x, axes=axes),
        "keep": lambda: fnp.expand_dims(getattr(ops, REDUCE[c % 4])(x, axes=axes), axes),
        "permute": lambda: fnp.transpose(x, tuple(int(i) for i in rng.permutation(ndim))),
        "broadcast": lambda: fnp.broadcast_to(x, (2, *x.shape)),
        "reshape": lambda: fnp.reshape(x, x.shape[::-1] if c % 2 else (-1,)),
        "rev": lambda: ops.rev(x, dimensions=(axis,)),
        "slice": lambda: x[1:],
        "pad": lambda: fnp.pad(x, [(1, c % 3)] * ndim),
        "concatenate": lambda: ops.concatenate(x, ops.sin(x), dimension=axis),
        "cumsum": lambda: ops.cumsum(x, axis=axis, reverse=bool(c % 2)),
        "gather": lambda: ops.gather(x, np.array([0, -1, 0])),
        "scatter": lambda: ops.scatter(x, x[:1], np.array([0]), op="add"),
    }
    names = [*choices, "unary", "binary", "binary", "reduce", "keep"]
    needs_axes = {"reduce", "keep"}
    name = names[int(rng.integers(len(names)))]
    if name not in ("unary", "binary", "broadcast") and (not ndim or 0 in x.shape):
        return None
    if name in needs_axes and not axes:
        return None
    try:
        return choices[name]()
    except ValueError:  # shapes that do not broadcast
        return None


def random_program(seed: int) -> tuple[Any, list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    args = [rng.normal(size=SHAPES[i]) for i in rng.integers(0, len(SHAPES), size=3)]
    length = int(rng.integers(2, 14))

    def f(*args):
        steps = np.random.default_rng(seed)
        values = list(args)
        for _ in range(length):
            picks = steps.integers(0, len(values), size=2)
            x = values[-1] if steps.random() < 0.4 else values[picks[0]]
            out = random_step(steps, x, values[picks[1]])
            if out is not None and out.size <= 300:
                values.append(out)
        return values[-3:]

    return f, args


@pytest.mark.parametrize("seed", range(60))
def test_random_programs_compute_what_numpy_computes(seed):
    f, args = random_program(seed)
    with np.errstate(all="ignore"):
        check_lowering(f, *args, native=seed % 6 == 0)


@pytest.mark.parametrize("seed", range(100, 130))
def test_gradients_of_random_programs_compute_what_numpy_computes(seed):
    f, args = random_program(seed)

    def total(*xs):
        return sum(fnp.sum(y) for y in f(*xs))

    with np.errstate(all="ignore"):
        check_lowering(ft.grad(total, argnums=(0, 1, 2)), *args, native=False)
