"""Every primitive, lowered to loops, computes what NumPy computes."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

import functrans as ft
import functrans.numpy as fnp
from functrans import ops
from functrans.compiler.lowering.lowering import HostStepError
from functrans.compiler.pipeline import compile_closed_jaxpr, lower_to_program
from functrans.core import Primitive
from functrans.loop_ir import HostStep
from functrans.printing_loops import run_python
from tests.helpers.lowered_programs import check_lowering, count, on_host, program_of

DTYPES = [np.dtype(c) for c in "?bhilBHILfdFD"]


def sample(dtype: Any, *shape: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    dtype = np.dtype(dtype)
    if dtype.kind in "biu":
        return rng.integers(
            0 if dtype.kind != "i" else -3, 2 if dtype.kind == "b" else 4, shape
        ).astype(dtype)
    x = rng.normal(size=shape)
    return (x + 1j * rng.normal(size=shape) if dtype.kind == "c" else x).astype(dtype)


X = sample("f8", 5, 7)


# ---------------------------------------------------------------------------- views


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x.T + 1,
        lambda x: x[::-1, 1:5:2],
        lambda x: x[:, :1] * x[:1],
        lambda x: fnp.broadcast_to(x, (3, 5, 7)) - x,
        lambda x: x.reshape(-1),
        lambda x: fnp.sin(x).reshape(7, 5) + 1,
        lambda x: x.T.reshape(-1)[::-1],
        lambda x: x.reshape(5, 7, 1).reshape(1, 35),
        lambda x: x[1:3].reshape(14) * x.reshape(35)[:14],
        lambda x: ops.pad(x, np.float64(2), config=((1, 2, 0), (0, 3, 0))),
        lambda x: ops.pad(x, np.float64(2), config=((1, -1, 2), (-2, 3, 1))),
        lambda x: ops.pad(fnp.tanh(x), x[0, 0], config=((-1, -1, 0), (1, 0, 0))),
        lambda x: fnp.concatenate([x, fnp.tanh(x), x[:, :2]], axis=1),
        lambda x: ops.iota(dtype=np.dtype("f4"), shape=(3, 4), dimension=1),
        lambda x: (x, x, x.T, x.reshape(35), np.float64(3)),
    ],
)
def test_views_are_index_maps(f):
    check_lowering(f, X)


def test_extents_may_be_numpy_integers():
    two = np.int64(2)
    check_lowering(lambda x: ops.pad(x, np.float64(0), config=((two, two, two), (two, 0, 0))), X)
    check_lowering(lambda x: ops.sort(fnp.broadcast_to(x, (two, 5, 7)), axis=0), X)


def test_views_cost_no_step():
    program = check_lowering(lambda x: fnp.sum(x.T[::-1].reshape(7, 5, 1) * 2, axis=1), X)
    assert len(program.steps) == 1


# ---------------------------------------------------------------------------- reductions


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize("dtype", ["f8", "i4", "?", "c16"])
def test_reductions_over_any_axes(axes, dtype):
    x = sample(dtype, 3, 4, 2)
    if dtype == "?":
        names = ["reduce_and", "reduce_or", "reduce_max", "reduce_min"]
    elif dtype == "c16":
        names = ["reduce_sum", "reduce_prod"]
    else:
        names = ["reduce_sum", "reduce_prod", "reduce_max", "reduce_min"]
    check_lowering(lambda x: [getattr(ops, name)(x, axes=axes) for name in names], x)


@pytest.mark.parametrize("reduce", [fnp.sum, fnp.max, fnp.argmax, fnp.prod])
def test_reductions_over_axes_of_extent_one_cost_nothing(reduce):
    program = check_lowering(lambda x: reduce(x[:, None] * 2, axis=1) + 1, X)
    assert count(program) == 1


def test_products_over_one_element_are_used_in_several_loops():
    x = sample("i4", 2, 1, 3)
    check_lowering(ft.vmap(lambda x: fnp.var(fnp.sum(x, axis=1) @ x)), x)


def test_reductions_over_nothing_give_the_identity():
    x = np.zeros((3, 0, 2))
    check_lowering(
        lambda x: [getattr(ops, r)(x, axes=a) for r in ("reduce_sum", "reduce_prod")
                   for a in ((1,), (0, 1), (1, 2), (0, 1, 2), (0,))],
        x,
    )  # fmt: skip


@pytest.mark.parametrize("axis", [0, 1])
def test_positions_of_extrema(axis):
    x = np.array([[1.0, np.nan, 3.0, 3.0], [2.0, 5.0, np.nan, 3.0], [2.0, 5.0, 3.0, -np.inf]])
    for name in ("argmax", "argmin"):
        check_lowering(
            lambda x, n=name: getattr(ops, n)(x, axis=axis, index_dtype=np.dtype("i4")), x
        )
        check_lowering(
            lambda x, n=name: getattr(ops, n)(x, axis=axis, index_dtype=np.dtype("i8")), x[:, :1]
        )


@pytest.mark.parametrize("name", ["cumsum", "cumprod", "cummax", "cummin"])
@pytest.mark.parametrize("reverse", [False, True])
def test_running_reductions(name, reverse):
    for shape in ((5, 7), (2, 3, 4), (1, 4), (2, 1), (2, 2, 1), (0, 3), (3, 0)):
        x = sample("f8", *shape)
        for axis in range(len(shape)):
            check_lowering(
                lambda x, a=axis: getattr(ops, name)(x * 2, axis=a, reverse=reverse),
                x,
                native=shape == (2, 3, 4),
            )


# ---------------------------------------------------------------------------- indexing

INSIDE = np.array([[0, 2, -1], [4, -5, 1]])
OUTSIDE = np.array([[0, 9, -1], [4, -50, 1]])


@pytest.mark.parametrize("mode", ["error", "clip", "fill", "promise_in_bounds"])
def test_gather(mode):
    index = OUTSIDE if mode in ("clip", "fill") else INSIDE
    check_lowering(lambda x, i: ops.gather(x, i, mode=mode), X, index)
    check_lowering(lambda x, i: ops.gather(x * 2, i, i, mode=mode) + 1, X, index)
    check_lowering(lambda x, i: ops.gather(x[:2], i, batch_dims=1, mode=mode), X, index)


@pytest.mark.parametrize("mode", ["error", "clip", "fill", "promise_in_bounds"])
@pytest.mark.parametrize("op", ["set", "add", "mul", "min", "max"])
def test_scatter(op, mode):
    index = (OUTSIDE if mode in ("clip", "fill") else INSIDE).reshape(-1)
    updates = sample("f8", 6, 7, seed=1)
    check_lowering(lambda x, u, i: ops.scatter(x, u, i, op=op, mode=mode), X, updates, index)


@pytest.mark.parametrize("dtype", ["i1", "u1", "i8", "u8"])
def test_dynamic_slices_are_clamped(dtype):
    update = sample("f8", 2, 3)
    for start in (0, 2, 100):
        i = np.dtype(dtype).type(start)
        check_lowering(lambda x, i: ops.dynamic_slice(x, i, i, slice_sizes=(2, 3)), X, i)
        check_lowering(lambda x, u, i: ops.dynamic_update_slice(x, u + 1, i, i), X, update, i)


def test_an_index_out_of_range_raises_in_both_forms():
    closed = ft.make_jaxpr(lambda x, i: ops.gather(x, i) * 2)(X, np.array([7]))
    program = lower_to_program(closed)
    assert (program.checks[0].bound, program.checks[0].axis) == (5, 0)
    with pytest.raises(IndexError, match="index 7 is out of bounds"):
        run_python(program, [X, np.array([7])])
    with pytest.raises(IndexError, match="index 7 is out of bounds for axis 0 with size 5"):
        compile_closed_jaxpr(closed)([X, np.array([7])])


# ---------------------------------------------------------------------------- products


@pytest.mark.parametrize(
    ("shapes", "numbers"),
    [
        (((3, 4), (4, 5)), (((1,), (0,)), ((), ()))),
        (((4, 3), (5, 4)), (((0,), (1,)), ((), ()))),
        (((4,), (4,)), (((0,), (0,)), ((), ()))),
        (((4,), (5,)), (((), ()), ((), ()))),
        (((3, 4), (4,)), (((1,), (0,)), ((), ()))),
        (((2, 3, 4), (2, 4, 5)), (((2,), (1,)), ((0,), (0,)))),
        (((3, 2, 4), (4, 5, 2)), (((2,), (0,)), ((1,), (2,)))),
        (((2, 3, 4, 6), (6, 4, 5)), (((2, 3), (1, 0)), ((), ()))),
        (((2, 3, 4, 6), (4, 6, 5)), (((2, 3), (0, 1)), ((), ()))),
        (((3, 0), (0, 5)), (((1,), (0,)), ((), ()))),
    ],
)
@pytest.mark.parametrize("dtype", ["f8", "i4", "?"])
def test_dot_general(shapes, numbers, dtype):
    lhs, rhs = sample(dtype, *shapes[0]), sample(dtype, *shapes[1], seed=1)
    check_lowering(lambda x, y: ops.dot_general(x, y, dimension_numbers=numbers), lhs, rhs)


def test_transposed_operands_of_a_product_are_not_copied():
    program = check_lowering(lambda x, y: x.T @ y[:5].T, sample("f8", 7, 3), sample("f8", 9, 7))
    assert len(program.steps) == 1


# ---------------------------------------------------------------------------- elements


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_conversions(dtype):
    x = abs(sample(dtype, 6))
    for to in DTYPES:
        check_lowering(lambda x, to=to: ops.convert_element_type(x, dtype=to), x, native=False)


def test_fmax_prefers_numbers():
    x = np.array([1.0, np.nan, 3.0, np.nan])
    check_lowering(lambda x, y: (ops.fmax(x, y), ops.fmin(x, y)), x, x[::-1].copy() * 2)


def test_zeros_of_different_sign_stay_apart():
    program = check_lowering(lambda x: (x * np.float64(0.0), x * np.float64(-0.0)), X)
    outs = run_python(program, [X])
    assert np.signbit(outs[0]).sum() + np.signbit(outs[1]).sum() == X.size


def test_thirty_doublings_are_linear():
    def doubled(x):
        for _ in range(30):
            x = x + x
        return x

    program = check_lowering(doubled, np.ones(3))
    assert len(program.steps[0].kernel.body[0].body) < 40


def test_a_chain_of_20000_lowers_in_linear_time():
    def chain(x):
        for _ in range(10_000):
            x = ops.sin(x) + 1
        return x

    closed = ft.make_jaxpr(chain)(np.ones(3))
    start = time.perf_counter()
    program = lower_to_program(closed)
    assert time.perf_counter() - start < 20
    assert count(program) > 50
    assert len({step.kernel for step in program.steps}) <= 2


# ---------------------------------------------------------------------------- host steps, extension


def test_what_has_no_native_form_is_a_visible_host_step():
    program = check_lowering(lambda x: on_host(x * 2, axis=1) + 1, X, host_steps=1)
    (step,) = (s for s in program.steps if isinstance(s, HostStep))
    assert step.text == "host on_host axis=1"


@pytest.mark.parametrize(
    ("step", "count"), [(lambda x: on_host(x, axis=0), 1), (lambda x: ops.sort(x, axis=0), 0)]
)
def test_calls_on_whole_arrays_see_their_own_shapes(step, count):
    def f(x):
        y = step(x)
        return y.reshape(-1), y, y.reshape(7, 5), step((x * 2).reshape(-1)), step(x.reshape(7, 5))

    check_lowering(lambda x: step(x).reshape(-1), X, host_steps=count)
    check_lowering(f, X, host_steps=3 * count)


def test_host_steps_can_be_refused():
    closed = ft.make_jaxpr(lambda x: on_host(x, axis=1))(X)
    with pytest.raises(HostStepError, match=r"on_host at .*test_lowering.py"):
        lower_to_program(closed, host_steps="error")


def test_a_foreign_primitive_brings_its_own_lowering():
    class Scaled(Primitive):
        def abstract_eval(self, x, *, by):
            return x

        def impl(self, x, *, by):
            return by * x

        def lower(self, builder, x, *, by):
            return builder.elementwise("mul", x, builder.number(by, x))

    scaled = Scaled("scaled")
    program = check_lowering(lambda x: ops.sin(scaled(x, by=3.0)), X)
    assert len(program.steps) == 1


def test_nested_jit_is_inlined():
    program = check_lowering(lambda x: ft.jit(lambda y: fnp.tanh(y) * 2)(x) + 1, X)
    assert len(program.steps) == 1


def test_inputs_and_constants_as_outputs_are_copies():
    const = np.arange(3.0)
    program = program_of(lambda x: (x, const, x), X)
    assert not program.steps
    assert [source for _, source in program.copies] == ["in0", "const0", "in0"]
