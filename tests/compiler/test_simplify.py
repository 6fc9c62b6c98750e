"""Simplified programs compute the same, bit for bit, with fewer equations."""

from __future__ import annotations

import time
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from functrans import ops
from functrans.checking import check_jaxpr
from functrans.compiler.jaxprs.simplify import (
    PASSES,
    eliminate_common_subexpressions,
    eliminate_dead_code,
    fold_constants,
    inline_calls,
    simplify,
    simplify_algebra,
)
from functrans.core import Primitive
from functrans.interpreters.staging import eval_jaxpr, trace_to_jaxpr
from functrans.ir import ClosedJaxpr, Literal, ShapedArray, count_eqns

f8, f4, c16, i8, b1 = map(np.dtype, ("f8", "f4", "c16", "i8", "?"))
SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.3, -2.5, np.nan, np.inf, -np.inf, 5e-324, 1e-200, 1e200]
VALUES = {
    f8: np.array(SPECIAL),
    f4: np.array([*SPECIAL[:9], 1e-45, 1e-30, 1e30], f4),
    c16: np.array([complex(x, y) for x in SPECIAL[:9] for y in SPECIAL[:9]]),
    i8: np.array([0, 1, -1, 7, np.iinfo(i8).min, np.iinfo(i8).max]),
    b1: np.array([True, False]),
}


class _Call(Primitive):
    """Stands for `jit`, which is above the compiler: it runs the program as it is."""

    multiple_results = True

    def abstract_eval(self, *avals: Any, jaxpr: ClosedJaxpr) -> list[ShapedArray]:
        return jaxpr.out_avals

    def impl(self, *args: Any, jaxpr: ClosedJaxpr) -> list[Any]:
        return eval_jaxpr(jaxpr.jaxpr, jaxpr.consts, *args)


call = _Call("jit")


def aval(dtype: np.dtype, *shape: int) -> ShapedArray:
    return ShapedArray(shape, dtype)


def trace(f: Any, *avals: ShapedArray) -> ClosedJaxpr:
    closed = trace_to_jaxpr(f, avals)
    check_jaxpr(closed)
    return closed


def bits(x: Any) -> tuple:
    """Shape, dtype and bytes; nans are all the same nan."""
    x = np.array(x)
    if x.dtype.kind in "fc":
        parts = x.view(x.real.dtype) if x.ndim else x.reshape(1).view(x.real.dtype)
        parts[np.isnan(parts)] = np.nan
    return x.shape, x.dtype, x.tobytes()


def run(closed: ClosedJaxpr, *args: Any) -> list[tuple]:
    with np.errstate(all="ignore"):
        return [bits(x) for x in eval_jaxpr(closed.jaxpr, closed.consts, *args)]


def simplified(closed: ClosedJaxpr, *args: Any, passes: Any = PASSES) -> ClosedJaxpr:
    """The program after the passes, each of which is checked to keep it well formed and equal."""
    expected = run(closed, *args)
    for name, run_pass in passes:
        before = str(closed), list(closed.consts)
        result = run_pass(closed)
        assert (str(closed), closed.consts) == before, f"{name} changed its input"
        check_jaxpr(result, name)
        assert run(result, *args) == expected, name
        closed = result
    return closed


def text(closed: ClosedJaxpr) -> list[str]:
    return [eqn.primitive.name for eqn in closed.eqns]


# ---------------------------------------------------------------------------- algebra

number = {dtype: dtype.type for dtype in VALUES}

FORWARDED = {
    "mul by 1": (lambda x: ops.mul(x, number[x.dtype](1)), (f8, f4, i8, b1)),
    "1 times": (lambda x: ops.mul(number[x.dtype](1), x), (f8, f4, i8, b1)),
    "div by 1": (lambda x: ops.div(x, number[x.dtype](1)), (f8, f4)),
    "minus 0": (lambda x: ops.sub(x, number[x.dtype](0)), (f8, f4, c16, i8)),
    "plus 0": (lambda x: ops.add(x, number[x.dtype](0)), (i8, b1)),
    "plus -0.0": (lambda x: ops.add(x, number[x.dtype](-0.0)), (f8, f4)),
    "plus -0.0-0.0j": (lambda x: ops.add(np.complex128(complex(-0.0, -0.0)), x), (c16,)),
    "neg neg": (lambda x: ops.neg(ops.neg(x)), (f8, f4, c16, i8)),
    "not not": (lambda x: ops.not_(ops.not_(x)), (i8, b1)),
    "conj conj": (lambda x: ops.conj(ops.conj(x)), (c16,)),
    "real of complex": (lambda x: ops.real(ops.complex(x, ops.neg(x))), (f8, f4)),
    "imag of complex": (lambda x: ops.imag(ops.complex(ops.neg(x), x)), (f8, f4)),
    "masked_mul of 1": (lambda x: ops.masked_mul(number[x.dtype](1), x), (f8, f4)),
    "pow 1": (lambda x: ops.pow(x, number[x.dtype](1)), (f8, f4, i8)),
    "copy": (ops.copy, tuple(VALUES)),
    "stop_gradient": (ops.stop_gradient, tuple(VALUES)),
    "convert": (lambda x: ops.convert_element_type(x, dtype=x.dtype), tuple(VALUES)),
    "select True": (lambda x: ops.select(np.True_, x, number[x.dtype](1)), tuple(VALUES)),
    "select False": (lambda x: ops.select(np.False_, number[x.dtype](1), x), tuple(VALUES)),
    "select of equals": (
        lambda x: ops.select(ops.eq(x, number[x.dtype](1)), x, x),
        tuple(VALUES),
    ),
    "sum over no axis": (lambda x: ops.reduce_sum(x, axes=()), (i8,)),
    "reshape": (lambda x: ops.reshape(x, shape=x.shape), tuple(VALUES)),
    "reshape and back": (
        lambda x: ops.reshape(ops.reshape(x, shape=(1, *x.shape)), shape=x.shape),
        tuple(VALUES),
    ),
    "permute": (lambda x: ops.permute(x, permutation=(0,)), tuple(VALUES)),
    "rev rev": (lambda x: ops.rev(ops.rev(x, dimensions=(0,)), dimensions=(0,)), (f8,)),
    "broadcast_in_dim": (
        lambda x: ops.broadcast_in_dim(x, shape=x.shape, broadcast_dimensions=(0,)),
        tuple(VALUES),
    ),
    "slice": (
        lambda x: ops.slice(x, start_indices=(0,), limit_indices=x.shape, strides=(1,)),
        (f8,),
    ),
    "pad": (lambda x: ops.pad(x, np.float64(1), config=((0, 0, 0),)), (f8,)),
    "concatenate": (lambda x: ops.concatenate(x, dimension=0), (f8,)),
}


@pytest.mark.parametrize(
    ("name", "dtype"), [(name, d) for name, (_, dtypes) in FORWARDED.items() for d in dtypes]
)
def test_identities_vanish_and_the_output_is_the_input(name: str, dtype: np.dtype) -> None:
    f = FORWARDED[name][0]
    x = VALUES[dtype]
    out = simplified(trace(lambda x: [f(x)], aval(dtype, *x.shape)), x)
    assert out.eqns == []
    assert out.jaxpr.outvars == out.jaxpr.invars


KEPT = {
    "plus 0.0": lambda x: ops.add(x, np.float64(0)),
    "minus -0.0": lambda x: ops.sub(x, np.float64(-0.0)),
    "0.0 minus": lambda x: ops.sub(np.float64(0), x),
    "mul by 0": lambda x: ops.mul(x, np.float64(0)),
    "mul by -1": lambda x: ops.mul(x, np.float64(-1)),
    "masked_mul by inf": lambda x: ops.masked_mul(x, np.float64(np.inf)),
    "masked_mul by nan": lambda x: ops.masked_mul(x, np.float64(np.nan)),
    "masked_mul of 0": lambda x: ops.masked_mul(np.float64(0), x),
    "pow 0.5": lambda x: ops.pow(x, np.float64(0.5)),
    "pow 3": lambda x: ops.pow(x, np.float64(3)),
    "x - x": lambda x: ops.sub(x, x),
    "x / x": lambda x: ops.div(x, x),
    "rev": lambda x: ops.rev(x, dimensions=(0,)),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_would_change_a_bit_is_kept(name: str) -> None:
    closed = trace(lambda x: [KEPT[name](x)], aval(f8, len(SPECIAL)))
    assert simplified(closed, VALUES[f8]) is closed


def test_complex_products_with_1_are_kept() -> None:
    one = np.complex128(1)
    for f in (ops.mul, ops.div, ops.pow):
        closed = trace(lambda x, f=f: [f(x, one)], aval(c16, 81))
        assert simplified(closed, VALUES[c16]) is closed


@pytest.mark.parametrize("dtype", [f8, f4, i8])
def test_pow_2_is_square(dtype: np.dtype) -> None:
    x = VALUES[dtype]
    out = simplified(trace(lambda x: [ops.pow(x, dtype.type(2))], aval(dtype, len(x))), x)
    assert text(out) == ["square"]


@pytest.mark.parametrize("dtype", [f8, c16])
def test_float_sum_over_no_axis_adds_0(dtype: np.dtype) -> None:
    x = VALUES[dtype]
    closed = trace(lambda x: [ops.reduce_sum(x, axes=())], aval(dtype, len(x)))
    assert text(simplified(closed, x)) == ["add"]


def test_masked_mul_with_a_nonzero_number_or_with_itself_is_mul() -> None:
    x = VALUES[f8]
    for f in (
        lambda x: ops.masked_mul(np.float64(-3), x),
        lambda x: ops.masked_mul(x, x),
        lambda x: ops.masked_mul(ops.add(ops.exp(x), np.float64(1)), x),
        lambda x: ops.masked_mul(ops.add(np.float64(2), ops.pow(np.float64(2), x)), x),
    ):
        out = simplified(trace(lambda x, f=f: [f(x)], aval(f8, len(x))), x)
        assert "masked_mul" not in text(out)


def test_masked_mul_stays_where_the_mask_can_matter() -> None:
    x = VALUES[f8]
    for f in (
        lambda x: ops.masked_mul(ops.exp(x), x),  # exp(-inf) is 0
        lambda x: ops.masked_mul(ops.add(ops.exp(x), np.float64(-1)), x),
        lambda x: ops.masked_mul(ops.mul(np.float64(1e-300), ops.square(x)), x),
    ):
        out = simplified(trace(lambda x, f=f: [f(x)], aval(f8, len(x))), x)
        assert "masked_mul" in text(out)


def test_masked_mul_by_a_finite_number_is_mul_but_for_the_sign_of_zero() -> None:
    closed = trace(lambda t: [ops.masked_mul(t, np.float64(-2))], aval(f8, len(SPECIAL)))
    out = simplify(closed)
    assert text(out) == ["mul"]
    x = VALUES[f8]
    before, after = (eval_jaxpr(c.jaxpr, c.consts, x)[0] for c in (closed, out))
    np.testing.assert_array_equal(before, after)


# ---------------------------------------------------------------------------- structure


def fill(x: Any, *shape: int) -> Any:
    return ops.broadcast_in_dim(x, shape=shape, broadcast_dimensions=())


def test_repeated_numbers_are_used_as_numbers() -> None:
    x = VALUES[f8]
    n = len(x)
    closed = trace(
        lambda x, s: [ops.mul(ops.add(x, fill(s, n)), fill(np.float64(2), n))],
        aval(f8, n),
        aval(f8),
    )
    assert text(simplified(closed, x, np.float64(0.5))) == ["add", "mul"]


def test_operations_on_repeated_numbers_only_are_done_once() -> None:
    closed = trace(
        lambda s: [ops.mul(ops.sin(fill(s, 4, 5)), ops.neg(fill(np.float64(2), 4, 5)))], aval(f8)
    )
    out = simplified(closed, np.float64(0.5))
    assert text(out) == ["sin", "mul", "broadcast_in_dim"]
    assert out.eqns[1].outvars[0].aval.shape == ()


def test_chains_of_structural_operations_become_one() -> None:
    x = np.arange(24.0).reshape(2, 3, 4)

    def permuted(x):
        return ops.permute(ops.permute(x, permutation=(2, 0, 1)), permutation=(1, 0, 2))

    def reshaped(x):
        return ops.reshape(ops.reshape(ops.reshape(x, shape=(24,)), shape=(4, 6)), shape=(3, 8))

    def broadcast(x):
        wide = ops.broadcast_in_dim(x, shape=(2, 3, 5, 4), broadcast_dimensions=(0, 1, 3))
        return ops.broadcast_in_dim(wide, shape=(2, 6, 3, 5, 4), broadcast_dimensions=(0, 2, 3, 4))

    for f, name in (
        (permuted, "permute"),
        (reshaped, "reshape"),
        (broadcast, "broadcast_in_dim"),
    ):
        out = simplified(trace(lambda x, f=f: [f(x)], aval(f8, 2, 3, 4)), x)
        assert text(out) == [name]
    back = trace(
        lambda x: [ops.permute(ops.permute(x, permutation=(2, 0, 1)), permutation=(1, 2, 0))],
        aval(f8, 2, 3, 4),
    )
    assert simplified(back, x).eqns == []


def test_broadcasts_do_not_need_axes_of_extent_1() -> None:
    def f(x):
        column = ops.reshape(x, shape=(1, 3, 1))
        wide = ops.broadcast_in_dim(column, shape=(2, 3, 4), broadcast_dimensions=(0, 1, 2))
        return [wide, ops.broadcast_in_dim(x, shape=(2, 3, 4), broadcast_dimensions=(1,))]

    out = simplified(trace(f, aval(f8, 3)), np.arange(3.0))
    assert text(out) == ["broadcast_in_dim"]
    for shape in ((), (1, 3), (0,)):  # a number; operands that have such axes themselves
        size = int(np.prod(shape))

        def g(x, size=size):
            wide = ops.reshape(x, shape=(1, size, 1))
            return [ops.broadcast_in_dim(wide, shape=(2, size, 4), broadcast_dimensions=(0, 1, 2))]

        simplified(trace(g, aval(f8, *shape)), np.ones(shape))


def test_repeated_numbers_that_are_moved_about_are_repeated() -> None:
    def f(s):
        x = ops.reshape(fill(s, 6), shape=(2, 3))
        x = ops.rev(ops.permute(x, permutation=(1, 0)), dimensions=(0,))
        return [ops.slice(x, start_indices=(0, 0), limit_indices=(2, 2), strides=(1, 1))]

    out = simplified(trace(f, aval(f8)), np.float64(3))
    assert text(out) == ["broadcast_in_dim"]
    assert out.eqns[0].outvars[0].aval.shape == (2, 2)


def test_select_with_a_known_predicate_repeats_a_number() -> None:
    closed = trace(lambda x: [ops.select(np.True_, np.float64(2), x)], aval(f8, 12))
    assert text(simplified(closed, VALUES[f8])) == ["broadcast_in_dim"]


# ---------------------------------------------------------------------------- constants


def test_literals_are_folded_into_a_literal_output() -> None:
    def f():
        x = ops.log(ops.convert_element_type(np.int64(1), dtype=f8))
        return [ops.div(np.float64(-1), x), ops.add(np.int64(2), np.int64(3))]

    out = simplified(trace(f))
    assert out.eqns == []
    assert [a.val for a in out.jaxpr.outvars if type(a) is Literal] == [-np.inf, 5]


def test_arrays_are_not_folded() -> None:
    table = np.array(2.0)
    closed = fold_constants(trace(lambda: [ops.add(table, np.float64(1))]))
    table[...] = 5
    assert eval_jaxpr(closed.jaxpr, closed.consts) == [6.0]


def test_what_numpy_refuses_is_refused_when_it_runs() -> None:
    out = simplify(trace(lambda: [ops.pow(np.int64(2), np.int64(-1))]))
    assert text(out) == ["pow"]


# ---------------------------------------------------------------------------- common equations


def test_equal_equations_are_computed_once() -> None:
    def f(x, y):
        a = ops.reduce_sum(ops.mul(x, y), axes=(0,))
        return [a, ops.add(a, ops.reduce_sum(ops.mul(y, x), axes=(0,)))]

    x = VALUES[f8]
    out = simplified(trace(f, aval(f8, 12), aval(f8, 12)), x, x[::-1].copy())
    assert text(out) == ["mul", "reduce_sum", "add"]


def test_zeros_of_either_sign_and_equal_numbers_of_other_types_are_not_equal() -> None:
    def f(x, n):
        zero, nan = np.float64(0), np.float64(np.nan)
        outs = [ops.add(x, zero), ops.sub(x, -zero), ops.copysign(x, zero), ops.copysign(x, -zero)]
        return [*outs, ops.fmax(x, nan), ops.fmax(x, nan), ops.sub(n, x), ops.sub(x, n)]

    x = VALUES[f8]
    out = simplified(trace(f, aval(f8, 12), aval(f8, 12)), x, x[::-1].copy())
    assert len(out.eqns) == 7


def test_parameters_that_only_compare_equal_are_told_apart() -> None:
    class Filled(Primitive):
        def abstract_eval(self, *, value):
            return ShapedArray((), np.asarray(value).dtype)

        def impl(self, *, value):
            return np.asarray(value)[()]

    filled = Filled("filled")
    values = [0.0, -0.0, 0, False, np.nan, [1.0], 0.0, np.nan, [1.0]]
    closed = trace(lambda: [filled(value=v) for v in values])
    out = simplified(closed)
    assert len(out.eqns) == 7  # a list is not hashable, and is left alone


# ---------------------------------------------------------------------------- dead code


def test_dead_equations_and_constants_go_and_inputs_stay() -> None:
    table, other = np.arange(3.0), np.arange(3.0)

    def f(x, y):
        ops.mul(ops.exp(x), table)
        return [ops.add(x, other)]

    x = np.ones(3)
    closed = trace(f, aval(f8, 3), aval(f8, 3))
    out = simplified(closed, x, x, passes=[("dead code", eliminate_dead_code)])
    assert text(out) == ["add"]
    assert out.consts == [other]
    assert out.consts[0] is other
    assert len(out.jaxpr.invars) == 2


# ---------------------------------------------------------------------------- calls


def test_calls_are_inlined_and_share_constants() -> None:
    table = np.arange(3.0)
    inner = trace(lambda x: [ops.mul(x, table), x], aval(f8, 3))

    def f(x):
        y, same = call(x, jaxpr=inner)
        z, _ = call(y, jaxpr=inner)
        return [ops.add(z, table), same]

    closed = trace(f, aval(f8, 3))
    out = simplified(closed, np.ones(3), passes=[("inline", inline_calls)])
    assert text(out) == ["mul", "mul", "add"]
    assert len(out.consts) == 1
    assert out.consts[0] is table
    assert out.jaxpr.outvars[1] is out.jaxpr.invars[0]


def test_inlined_equations_keep_their_source() -> None:
    inner = trace(lambda x: [ops.sin(x)], aval(f8))
    out = inline_calls(trace(lambda x: call(x, jaxpr=inner), aval(f8)))
    assert out.eqns[0].source is not None
    assert out.eqns[0].source == inner.eqns[0].source


def test_calls_nested_500_deep_are_inlined() -> None:
    closed = trace(lambda x: [ops.sin(x)], aval(f8))
    for _ in range(500):
        closed = trace_to_jaxpr(lambda x, inner=closed: call(ops.neg(x), jaxpr=inner), [aval(f8)])
    out = simplify(closed)
    assert text(out) == ["sin"]
    assert out.eqns[0].invars == out.jaxpr.invars


# ---------------------------------------------------------------------------- whole programs


def test_value_and_grad_of_the_readme_expression_has_five_equations() -> None:
    e, one = np.float64(np.e), np.float64(1)

    def slope(y):
        base = ops.select(ops.eq(e, np.float64(0)), one, e)
        return ops.mul(y, ops.log(base))

    def value_and_grad(x):  # of (e ** x + 1) * e ** x, as reverse mode writes it
        y, z = ops.pow(e, x), ops.pow(e, x)
        a = ops.add(y, one)
        ct_a, ct_z = ops.mul(one, z), ops.mul(a, one)
        ct = ops.add(ops.masked_mul(ct_a, slope(y)), ops.masked_mul(ct_z, slope(z)))
        return [ops.mul(a, z), ct]

    closed = trace(value_and_grad, aval(f8))
    for x in VALUES[f8]:
        out = simplified(closed, x)
    assert text(out) == ["pow", "add", "mul", "mul", "add"]


def test_time_is_linear_in_the_number_of_equations() -> None:
    def program(n):
        def f(x):
            for _ in range(n):
                x = ops.mul(ops.neg(ops.neg(ops.sin(x))), np.float64(1))
            return [x]

        return trace_to_jaxpr(f, [aval(f8)])

    def seconds(n):
        closed = program(n)
        start = time.perf_counter()
        assert count_eqns(simplify(closed).jaxpr) == n
        return time.perf_counter() - start

    few = min(seconds(500) for _ in range(3))
    assert seconds(8000) < 16 * 6 * few  # quadratic time would be 256 times as much


UNARY = [ops.neg, ops.copy, ops.exp, ops.square, ops.abs, ops.sqrt, ops.stop_gradient]
BINARY = [ops.add, ops.sub, ops.mul, ops.div, ops.masked_mul, ops.max, ops.pow, ops.copysign]
STRUCTURAL = [
    lambda x: ops.reshape(ops.reshape(x, shape=(3, 4)), shape=(12,)),
    lambda x: ops.rev(x, dimensions=(0,)),
    lambda x: ops.permute(x, permutation=(0,)),
    lambda x: fill(ops.reduce_sum(x, axes=(0,)), 12),
    lambda x: ops.select(ops.lt(x, np.float64(1)), x, ops.neg(x)),
]
LITERALS = [np.float64(v) for v in (0.0, -0.0, 1.0, -1.0, 2.0, np.inf, np.nan)]


@st.composite
def programs(draw: Any) -> ClosedJaxpr:
    """Straight-line programs of 12-vectors and numbers, with literals and repeated numbers."""
    steps = draw(
        st.lists(
            st.tuples(st.integers(0, 3), st.integers(0, 7), st.integers(0, 99), st.integers(0, 99)),
            min_size=1,
            max_size=14,
        )
    )

    def f(x, s):
        values = [x, s, *LITERALS, fill(s, 12), fill(np.float64(1), 12)]
        for kind, which, i, j in steps:
            a, b = values[-1 - i % len(values)], values[-1 - j % len(values)]
            if kind == 0:
                out = UNARY[which % len(UNARY)](a)
            elif kind == 3 and a.shape:
                out = STRUCTURAL[which % len(STRUCTURAL)](a)
            elif BINARY[which] is ops.masked_mul:
                out = ops.add(ops.masked_mul(a, b), np.float64(0))  # its zeros may differ in sign
            else:
                out = BINARY[which](a, b)
            values.append(out)
        return values[-3:]

    return trace(f, aval(f8, 12), aval(f8))


@given(programs(), st.sampled_from(SPECIAL))
def test_random_programs_keep_every_bit(closed: ClosedJaxpr, number: float) -> None:
    out = simplified(closed, VALUES[f8], np.float64(number))
    assert len(out.eqns) <= 2 * len(closed.eqns)


def test_passes_return_the_same_program_where_there_is_nothing_to_do() -> None:
    closed = trace(lambda x: [ops.sin(x)], aval(f8))
    for run_pass in (
        inline_calls,
        fold_constants,
        simplify_algebra,
        eliminate_common_subexpressions,
        eliminate_dead_code,
    ):
        assert run_pass(closed) is closed
