import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from functrans import ops
from functrans.core import Linear, Zero, get_aval, instantiate
from functrans.interpreters.jvp import jvp_flat
from functrans.ir import ShapedArray
from functrans.ops import gather_scatter
from tests.helpers.primitive_rules import (
    check_batch,
    check_jvp,
    check_jvp_of_zero,
    check_transpose,
    evaluate,
    random_array,
)

MODES = ("error", "clip", "fill", "promise_in_bounds")
INDEX_DTYPES = ("i1", "i4", "i8", "u1", "u8")
INT64 = np.dtype("i8")


@st.composite
def layouts(draw):
    """An array shape, indices into it (out of range where the mode allows), and parameters."""
    small = st.lists(st.integers(0, 3), max_size=2).map(tuple)
    batch, rest = draw(small), draw(small)
    index_shape = (*batch, *draw(small))
    size = math.prod(index_shape)
    mode = draw(st.sampled_from(MODES))
    dtype = np.dtype(draw(st.sampled_from(INDEX_DTYPES)))
    wraps = mode in ("error", "promise_in_bounds")
    smallest = 1 if size and mode != "fill" else 0
    extents = tuple(draw(st.lists(st.integers(smallest, 4), min_size=1, max_size=2)))
    indices = []
    for n in extents:
        low, high = (-n, n - 1) if wraps else (-n - 2, n + 2)
        low = low if dtype.kind == "i" else 0
        values = draw(st.lists(st.integers(low, max(low, high)), min_size=size, max_size=size))
        indices.append(np.array(values, dtype).reshape(index_shape))
    return (*batch, *extents, *rest), indices, {"batch_dims": len(batch), "mode": mode}


@st.composite
def unique_layouts(draw):
    """The same, with no index twice."""
    batch = draw(st.lists(st.integers(0, 2), max_size=1).map(tuple))
    rest = draw(st.lists(st.integers(0, 3), max_size=1).map(tuple))
    extents = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=2)))
    count = draw(st.integers(0, min(extents)))
    lead = math.prod(batch)
    indices = []
    for n in extents:
        rows = [draw(st.permutations(range(n)))[:count] for _ in range(lead)]
        indices.append(np.array(rows, np.int64).reshape((*batch, count)))
    mode = draw(st.sampled_from(["error", "fill", "promise_in_bounds"]))
    return (*batch, *extents, *rest), indices, {"batch_dims": len(batch), "mode": mode}


def places(shape, indices, *, batch_dims, mode):
    """Pairs of a position in the index arrays and the place in the array, None if out of range."""
    extents = shape[batch_dims : batch_dims + len(indices)]
    for at in np.ndindex(indices[0].shape):
        place = at[:batch_dims]
        for index, n in zip(indices, extents, strict=True):
            i = int(index[at])
            if mode == "clip":
                i = min(max(i, 0), n - 1)
            elif mode == "fill":
                i = i if 0 <= i < n else None
            else:
                i = i % n
            place = None if i is None or place is None else (*place, i)
        yield at, place


def gathered(x, indices, **params):
    rest = x.shape[params["batch_dims"] + len(indices) :]
    out = np.empty(indices[0].shape + rest, x.dtype)
    for at, place in places(x.shape, indices, **params):
        fill = np.nan if x.dtype.kind in "fc" else 0
        out[at] = fill if place is None else x[place]
    return out


def scattered(x, updates, indices, op, **params):
    combine = {
        "set": lambda old, new: new, "add": np.add, "mul": np.multiply,
        "min": np.minimum, "max": np.maximum,
    }[op]  # fmt: skip
    out = x.copy()
    for at, place in places(x.shape, indices, **params):
        if place is not None:
            out[place] = combine(out[place], updates[at])
    return out


def updates_shape(shape, indices, batch_dims):
    return indices[0].shape + shape[batch_dims + len(indices) :]


@given(layouts())
def test_gather_rules_agree(case):
    shape, indices, params = case
    x = random_array(shape)
    out = evaluate(ops.gather, x, *indices, **params)
    np.testing.assert_array_equal(out, gathered(x, indices, **params))
    t = random_array(shape, seed=1)
    zeros = [Zero(get_aval(i).tangent_aval()) for i in indices]
    _, tangent = ops.gather.jvp([x, *indices], [t, *zeros], **params)
    # Linear in x: the tangent of a fill value is 0, not nan.
    expected = gathered(t, indices, **params)
    np.testing.assert_array_equal(tangent, np.where(np.isnan(expected), 0, expected))
    check_jvp_of_zero(ops.gather, x, *indices, **params)
    ct = random_array(out.shape, seed=2)
    placeholder = Linear(get_aval(x))
    ct_x, *others = ops.gather.transpose(ct, placeholder, *indices, **params)
    assert others == [None] * len(indices)
    np.testing.assert_allclose(np.sum(ct_x * t), np.sum(ct * tangent), atol=1e-12)


@given(layouts())
def test_gather_of_a_batch_is_a_stack(case):
    shape, indices, params = case

    def example(seed):
        rng = np.random.default_rng(seed)
        return (
            random_array(shape, seed=seed), *(rng.permutation(i.reshape(-1)).reshape(i.shape)
                                              for i in indices)
        )  # fmt: skip

    check_batch(ops.gather, example, **params)


@pytest.mark.parametrize("dtype", ["?", "i2", "u8", "f4", "c16"])
def test_gather_fills_with_nan_or_zero_of_the_dtype(dtype):
    x = np.ones((2, 2)).astype(dtype)
    out = evaluate(ops.gather, x, np.array([0, 2]), mode="fill")
    expected = np.nan if dtype in ("f4", "c16") else 0
    np.testing.assert_array_equal(out, np.array([[1, 1], [expected, expected]]).astype(dtype))


@pytest.mark.parametrize("mode", ["error", "promise_in_bounds"])
@pytest.mark.parametrize("index", [7, 5, -6])
@pytest.mark.parametrize("dtype", ["i1", "i8"])
def test_an_index_out_of_range_is_numpys_error(mode, index, dtype):
    x = np.zeros((2, 5))
    message = f"index {index} is out of bounds for axis 1 with size 5"
    indices = (np.array([0, 1]), np.array([0, index], dtype))
    with pytest.raises(IndexError, match=f"^{message}$"):
        ops.gather(x, *indices, mode=mode)
    with pytest.raises(IndexError, match=f"^{message}$"):
        ops.scatter(x, np.ones(2), *indices, mode=mode)
    with pytest.raises(IndexError, match=message.replace("axis 1", "axis 0")):
        ops.gather(x.T, np.array(index, dtype), mode=mode)
    # The axis is counted as in the program of one example.
    with pytest.raises(IndexError, match=message.replace("axis 1", "axis 0")):
        ops.gather(x, np.array([0, index], dtype), batch_dims=1, mode=mode)


def test_an_unsigned_index_above_int64_is_out_of_range():
    index = np.array([2**64 - 1], np.uint64)
    with pytest.raises(IndexError, match="index 18446744073709551615 is out of bounds"):
        ops.gather(np.zeros(3), index)
    assert ops.gather(np.arange(3), index, mode="clip").tolist() == [2]
    assert ops.gather(np.arange(1, 4), index, mode="fill").tolist() == [0]


def test_narrow_index_dtypes_reach_the_end_of_long_axes():
    x = np.arange(1000.0)
    index = np.array([127, -1], np.int8)
    assert ops.gather(x, index).tolist() == [127, 999]
    _, tangent = ops.gather.jvp([x, index], [x, None], mode="fill")
    assert tangent.tolist() == [127, 0]
    assert ops.scatter(x, np.zeros(2), index, op="mul")[[127, 999]].tolist() == [0, 0]


def test_indices_into_an_empty_axis_are_out_of_range_unless_filled():
    x, index = np.zeros((0, 2)), np.array([0])
    for mode in ("error", "clip", "promise_in_bounds"):
        with pytest.raises(IndexError, match="axis 0 with size 0"):
            ops.gather(x, index, mode=mode)
    assert np.isnan(ops.gather(x, index, mode="fill")).all()
    _, tangent = ops.gather.jvp([x, index], [x, None], mode="fill")
    assert tangent.tolist() == [[0, 0]]
    assert ops.scatter(x, np.ones((1, 2)), index, mode="fill").shape == (0, 2)


@pytest.mark.parametrize("op", ["set", "add", "mul", "min", "max"])
@given(layouts())
def test_scatter_is_a_loop_of_writes(op, case):
    shape, indices, params = case
    x = random_array(shape)
    updates = random_array(updates_shape(shape, indices, params["batch_dims"]), seed=1)
    before = x.copy()
    out = evaluate(ops.scatter, x, updates, *indices, op=op, **params)
    np.testing.assert_allclose(out, scattered(x, updates, indices, op, **params), rtol=1e-13)
    np.testing.assert_array_equal(x, before)
    check_jvp_of_zero(ops.scatter, x, updates, *indices, op=op, **params)
    if op in ("set", "add"):
        check_jvp(ops.scatter, x, updates, *indices, moving=(0, 1), op=op, **params)
        check_transpose(ops.scatter, x, updates, *indices, linear=(0, 1), op=op, **params)
        zero = np.zeros_like(updates)
        check_transpose(ops.scatter, x, zero, *indices, linear=(0,), op=op, **params)
        zero = np.zeros_like(x)
        check_transpose(ops.scatter, zero, updates, *indices, linear=(1,), op=op, **params)
    elif op == "mul":
        check_jvp(ops.scatter, x, updates, *indices, op=op, **params)
        check_transpose(ops.scatter, x, updates, *indices, op=op, **params)
    else:
        check_jvp(ops.scatter, x, updates, *indices, moving=(0, 1), op=op, **params)


@pytest.mark.parametrize("op", ["set", "add", "mul"])
@given(unique_layouts())
def test_scatter_at_unique_indices_is_differentiated_in_both_operands(op, case):
    shape, indices, params = case
    params = {**params, "op": op, "unique": True}
    x = random_array(shape)
    updates = random_array(updates_shape(shape, indices, params["batch_dims"]), seed=1)
    out = evaluate(ops.scatter, x, updates, *indices, **params)
    np.testing.assert_array_equal(
        out, ops.scatter(x, updates, *indices, **{**params, "unique": False})
    )
    check_jvp(ops.scatter, x, updates, *indices, moving=(0, 1), **params)


def test_unique_indices_that_are_clipped_to_one_place_both_count():
    out = ops.scatter(np.zeros(3), np.ones(2), np.array([7, 8]), op="add", mode="clip", unique=True)
    assert out.tolist() == [0, 0, 2]


def test_product_scatter_transposes_to_updates_at_unique_indices():
    x, updates, index = random_array((4, 2)), random_array((2, 2)), np.array([3, 1])
    zeros_elsewhere = np.zeros((4, 2))
    zeros_elsewhere[index] = x[index]
    params = {"op": "mul", "unique": True}
    check_transpose(ops.scatter, zeros_elsewhere, updates, index, linear=(1,), **params)


def test_product_scatter_with_repeats_says_what_to_do():
    x, updates, index = np.ones(3), np.ones(2), np.array([1, 1])
    tangents = [Zero(get_aval(x)), updates, Zero(get_aval(index).tangent_aval())]
    with pytest.raises(TypeError, match="unique=True"):
        ops.scatter.jvp([x, updates, index], tangents, op="mul")
    with pytest.raises(TypeError, match="unique=True"):
        ops.scatter.transpose(x, x, Linear(get_aval(updates)), index, op="mul")
    # Distinct indices can be clipped to one place.
    with pytest.raises(TypeError, match="unique=True"):
        ops.scatter.jvp([x, updates, index], tangents, op="mul", mode="clip", unique=True)


def test_scatters_that_are_not_linear_refuse_to_transpose():
    linear = Linear(ShapedArray((2,), np.dtype(float)))
    index = np.array([0, 1])
    for op in ("mul", "min", "max"):
        with pytest.raises(TypeError, match="not linear"):
            ops.scatter.transpose(np.ones(2), linear, linear, index, op=op)


@pytest.mark.parametrize("op", ["min", "max"])
def test_extremum_scatter_splits_ties_evenly(op):
    x, updates, index = np.ones(2), np.ones(3), np.array([0, 0, 1])
    no_tangent = Zero(get_aval(index).tangent_aval())
    tangents = [np.array([3.0, 4]), np.array([6.0, 9, 8]), no_tangent]
    _, tangent = ops.scatter.jvp([x, updates, index], tangents, op=op)
    assert tangent.tolist() == [6, 6]


def test_extremum_scatter_lets_nan_win_and_take_the_derivative():
    x, updates, index = np.array([1.0, np.nan]), np.array([np.nan, 5]), np.array([0, 1])
    no_tangent = Zero(get_aval(index).tangent_aval())
    tangents = [np.array([1.0, 2]), np.array([3.0, 4]), no_tangent]
    out, tangent = ops.scatter.jvp([x, updates, index], tangents, op="max")
    assert np.isnan(out).all()
    assert tangent.tolist() == [3, 2]


@pytest.mark.parametrize("op", ["set", "add", "mul", "min", "max"])
@given(layouts())
def test_scatter_of_a_batch_is_a_stack(op, case):
    shape, indices, params = case

    def example(seed):
        rng = np.random.default_rng(seed)
        updates = random_array(updates_shape(shape, indices, params["batch_dims"]), seed=seed + 5)
        shuffled = (rng.permutation(i.reshape(-1)).reshape(i.shape) for i in indices)
        return random_array(shape, seed=seed), updates, *shuffled

    check_batch(ops.scatter, example, size=2, op=op, **params)


@pytest.mark.parametrize("dtype", ["?", "i1", "u4", "f2", "c8"])
@pytest.mark.parametrize("op", ["set", "add", "mul", "min", "max"])
def test_scatter_keeps_the_dtype(dtype, op):
    x = np.ones((3, 2)).astype(dtype)
    updates = np.full((4, 2), 100).astype(dtype)
    index = np.array([0, 0, 2, -1])
    out = evaluate(ops.scatter, x, updates, index, op=op)
    expected = scattered(x, updates, [index], op, batch_dims=0, mode="error")
    np.testing.assert_array_equal(out, expected)


def test_second_derivative_of_a_product_scatter():
    index = np.array([2, 0])

    def f(x, u):
        return [ops.scatter(x, u, index, op="mul", unique=True)]

    x, u = random_array((3,)), random_array((2,))
    t = [random_array((3,), seed=1), random_array((2,), seed=2)]
    s = [random_array((3,), seed=3), random_array((2,), seed=4)]
    _, (got,) = jvp_flat(lambda x, u: jvp_flat(f, [x, u], t)[1], [x, u], s)
    expected = np.zeros(3)
    expected[index] = t[0][index] * s[1] + s[0][index] * t[1]
    np.testing.assert_allclose(instantiate(got), expected)


@pytest.mark.parametrize(
    ("operands", "params", "match"),
    [
        (["f8 5"], {}, "integer index arrays"),
        (["f8 5", "f8 2"], {}, "integer index arrays"),
        (["f8 5", "? 5"], {}, "integer index arrays"),
        (["f8 5", "i8 2", "i8 2"], {}, "too few axes"),
        (["f8 5,5", "i8 2", "i8 3"], {}, "equal shape"),
        (["f8 5,5", "i8 2"], {"batch_dims": 1}, "same extents"),
        (["f8 5", "i8 2"], {"mode": "wrap"}, "modes"),
    ],
)
def test_bad_indices_are_refused(operands, params, match):
    avals = []
    for text in operands:
        dtype, shape = text.split()
        avals.append(ShapedArray(tuple(map(int, shape.split(","))), np.dtype(dtype)))
    with pytest.raises((TypeError, ValueError, IndexError), match=match):
        ops.gather.abstract_eval(*avals, **params)


def test_bad_updates_are_refused_eagerly_too():
    index = np.array([0, 1])
    with pytest.raises(TypeError, match=r"needs updates f64\[2,3\], got f64\[2\]"):
        ops.scatter(np.zeros((4, 3)), np.zeros(2), index)
    with pytest.raises(TypeError, match="needs updates"):
        ops.scatter(np.zeros(4), np.zeros(2, np.float32), index)
    with pytest.raises(ValueError, match="ops set, add"):
        ops.scatter(np.zeros(4), np.zeros(2), index, op="subtract")
    with pytest.raises(ValueError, match="modes"):
        ops.gather(np.zeros(4), index, mode="wrap")


# ---------------------------------------------------------------------------- dynamic slices


@st.composite
def blocks(draw):
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
    sizes = tuple(draw(st.integers(0, n)) for n in shape)
    starts = tuple(draw(st.integers(-2, 6)) for _ in shape)
    return shape, sizes, starts


def block_of(starts, sizes, shape):
    begins = [min(max(s, 0), n - m) for s, m, n in zip(starts, sizes, shape, strict=True)]
    return tuple(slice(b, b + m) for b, m in zip(begins, sizes, strict=True))


@given(blocks())
def test_dynamic_slice_rules_agree(case):
    shape, sizes, starts = case
    x = random_array(shape)
    numbers = [np.int64(s) for s in starts]
    out = evaluate(ops.dynamic_slice, x, *numbers, slice_sizes=sizes)
    np.testing.assert_array_equal(out, x[block_of(starts, sizes, shape)])
    check_jvp(ops.dynamic_slice, x, *numbers, slice_sizes=sizes)
    check_jvp_of_zero(ops.dynamic_slice, x, *numbers, slice_sizes=sizes)
    check_transpose(ops.dynamic_slice, x, *numbers, slice_sizes=sizes)


@given(blocks())
def test_dynamic_update_slice_rules_agree(case):
    shape, sizes, starts = case
    x, update = random_array(shape), random_array(sizes, seed=1)
    numbers = [np.int32(s) for s in starts]
    out = evaluate(ops.dynamic_update_slice, x, update, *numbers)
    expected = np.array(x)
    expected[block_of(starts, sizes, shape)] = update
    np.testing.assert_array_equal(out, expected)
    check_jvp(ops.dynamic_update_slice, x, update, *numbers, moving=(0, 1))
    check_jvp_of_zero(ops.dynamic_update_slice, x, update, *numbers)
    check_transpose(ops.dynamic_update_slice, x, update, *numbers, linear=(0, 1))
    check_transpose(ops.dynamic_update_slice, x, np.zeros_like(update), *numbers, linear=(0,))
    check_transpose(ops.dynamic_update_slice, np.zeros_like(x), update, *numbers, linear=(1,))


@given(blocks())
def test_dynamic_slices_of_a_batch_are_stacks(case):
    shape, sizes, starts = case
    assume(len(shape) <= 2)
    shift = itertools.cycle([0, 1, -1])
    shifts = [[next(shift) for _ in starts] for _ in range(3)]

    def numbers(seed):
        return (np.int64(s + d) for s, d in zip(starts, shifts[seed % 3], strict=True))

    check_batch(
        ops.dynamic_slice,
        lambda seed: (random_array(shape, seed=seed), *numbers(seed)),
        slice_sizes=sizes,
    )
    check_batch(
        ops.dynamic_update_slice,
        lambda seed: (
            random_array(shape, seed=seed), random_array(sizes, seed=seed + 7), *numbers(seed)
        ),
    )  # fmt: skip


def test_dynamic_slices_refuse_blocks_that_do_not_fit():
    x = np.zeros((3, 3))
    with pytest.raises(ValueError, match="does not fit"):
        ops.dynamic_slice(x, 0, 0, slice_sizes=(4, 1))
    with pytest.raises(TypeError, match="2 integer starts"):
        ops.dynamic_slice(x, 0, slice_sizes=(1, 1))
    with pytest.raises(TypeError, match="2 integer starts"):
        ops.dynamic_slice(x, 0, 0.5, slice_sizes=(1, 1))
    with pytest.raises(TypeError, match="equal dtype"):
        ops.dynamic_update_slice(x, np.zeros((1, 1), int), 0, 0)
    with pytest.raises(ValueError, match="does not fit"):
        ops.dynamic_update_slice(x, np.zeros((4, 1)), 0, 0)


@given(st.integers(1, 3), st.data())
def test_take_along_is_numpys(ndim, data):
    shape = tuple(data.draw(st.integers(1, 3)) for _ in range(ndim))
    axis = data.draw(st.integers(0, ndim - 1))
    x = random_array(shape)
    indices = np.argsort(random_array(shape, seed=1), axis)
    np.testing.assert_array_equal(
        ops.take_along(x, indices, axis), np.take_along_axis(x, indices, axis)
    )


def test_reading_what_is_filled_is_linear():
    out = gather_scatter.read(np.ones(2), [np.array([0, 2])], 0, "fill")
    assert out.tolist() == [1, 0]
