import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from functrans.core import Linear, Zero, get_aval
from functrans.ir import ShapedArray
from functrans.ops import axes, structural
from tests.helpers.primitive_rules import (
    check_batch,
    check_jvp,
    check_jvp_of_zero,
    check_transpose,
    evaluate,
    nonscalar_shapes,
    random_array,
    shapes,
)


def check_linear_unary(primitive, x, **params):
    evaluate(primitive, x, **params)
    check_jvp(primitive, x, **params)
    check_jvp_of_zero(primitive, x, **params)
    check_transpose(primitive, x, **params)
    check_batch(primitive, lambda seed: (random_array(x.shape, x.dtype, seed),), **params)


@st.composite
def broadcasts(draw):
    shape = draw(shapes)
    dims = tuple(sorted(draw(st.sets(st.integers(0, len(shape) - 1))))) if shape else ()
    ones = draw(st.tuples(*(st.booleans() for _ in dims)))
    operand = tuple(1 if one else shape[d] for d, one in zip(dims, ones, strict=True))
    return operand, shape, dims


@given(broadcasts())
def test_broadcast_in_dim_rules_agree(case):
    operand, shape, dims = case
    x = random_array(operand)
    check_linear_unary(structural.broadcast_in_dim, x, shape=shape, broadcast_dimensions=dims)
    aligned = [1] * len(shape)
    for n, d in zip(operand, dims, strict=True):
        aligned[d] = n
    out = structural.broadcast_in_dim(x, shape=shape, broadcast_dimensions=dims)
    np.testing.assert_array_equal(out, np.broadcast_to(x.reshape(aligned), shape))


def test_broadcast_of_large_and_small_arrays_is_read_only_and_equal():
    for n in (10, 10000):
        out = structural.broadcast_in_dim(np.arange(3), shape=(n, 3), broadcast_dimensions=(1,))
        assert not out.flags.writeable
        np.testing.assert_array_equal(out, np.tile(np.arange(3), (n, 1)))


@given(shapes, st.randoms(use_true_random=False))
def test_reshape_rules_agree(shape, random):
    factors = [n for n in shape for n in ((2, 2) if n == 4 else (n,))]
    random.shuffle(factors)
    x = random_array(shape)
    check_linear_unary(structural.reshape, x, shape=tuple(factors))
    out = structural.reshape(x, shape=tuple(factors))
    np.testing.assert_array_equal(out, x.reshape(factors))


def test_zero_dimensional_results_are_numpy_scalars():
    x = np.ones((1, 1))
    assert isinstance(structural.reshape(x, shape=()), np.float64)
    assert isinstance(structural.reduce_sum(x, axes=(0, 1)), np.float64)
    assert isinstance(structural.pad(np.float64(1), np.float64(0), config=()), np.float64)


@pytest.mark.parametrize("permutation", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("shape", [(2, 3, 4), (0, 2, 3)])
def test_permute_rules_agree(shape, permutation):
    x = random_array(shape, complex)
    check_linear_unary(structural.permute, x, permutation=permutation)
    expected = np.transpose(x, permutation)
    np.testing.assert_array_equal(structural.permute(x, permutation=permutation), expected)


@st.composite
def slices(draw):
    shape = draw(shapes)
    rows = []
    for n in shape:
        start = draw(st.integers(0, n))
        rows.append((start, draw(st.integers(start, n)), draw(st.integers(1, 3))))
    starts, limits, strides = zip(*rows, strict=True) if rows else ((), (), ())
    return shape, {"start_indices": starts, "limit_indices": limits, "strides": strides}


@given(slices())
def test_slice_rules_agree(case):
    shape, params = case
    x = random_array(shape)
    check_linear_unary(structural.slice, x, **params)
    expected = x[tuple(slice(*row) for row in zip(*params.values(), strict=True))]
    np.testing.assert_array_equal(structural.slice(x, **params), expected)


@given(nonscalar_shapes, st.data())
def test_rev_and_reduce_sum_rules_agree(shape, data):
    dims = tuple(data.draw(st.sets(st.integers(0, len(shape) - 1))))
    x = random_array(shape)
    check_linear_unary(structural.rev, x, dimensions=dims)
    check_linear_unary(structural.reduce_sum, x, axes=dims)
    np.testing.assert_array_equal(structural.rev(x, dimensions=dims), np.flip(x, dims))
    np.testing.assert_allclose(structural.reduce_sum(x, axes=dims), np.sum(x, dims))


@pytest.mark.parametrize("dtype", ["i1", "u2", "i8", "f2", "f4", "c8"])
def test_reduce_sum_keeps_the_dtype(dtype):
    x = np.full((4, 100), 3).astype(dtype)
    out = evaluate(structural.reduce_sum, x, axes=(1,))
    np.testing.assert_array_equal(out, np.full(4, 300).astype(dtype))


def test_reduce_sum_of_bool_says_what_to_write():
    x = np.ones(3, bool)
    with pytest.raises(TypeError, match="astype"):
        structural.reduce_sum(x, axes=(0,))
    with pytest.raises(TypeError, match="astype"):
        structural.reduce_sum.abstract_eval(get_aval(x), axes=(0,))


def padded(x, number, config):
    """The definition: each element is put where its index says."""
    shape = [
        n + max(n - 1, 0) * i + lo + hi for n, (lo, hi, i) in zip(x.shape, config, strict=True)
    ]
    out = np.full(shape, number)
    for index in np.ndindex(x.shape):
        target = tuple(lo + j * (i + 1) for j, (lo, _, i) in zip(index, config, strict=True))
        if all(0 <= t < n for t, n in zip(target, shape, strict=True)):
            out[target] = x[index]
    return out


@st.composite
def pads(draw):
    shape = draw(shapes)
    config = []
    for n in shape:
        interior = draw(st.integers(0, 2))
        extent = n + max(n - 1, 0) * interior
        low = draw(st.integers(-extent, 3))
        high = draw(st.integers(-(extent + low), 3))
        config.append((low, high, interior))
    return shape, tuple(config)


@given(pads())
def test_pad_rules_agree(case):
    shape, config = case
    x = random_array(shape)
    number = np.float64(7)
    out = evaluate(structural.pad, x, number, config=config)
    np.testing.assert_array_equal(out, padded(x, 7.0, config))
    check_jvp(structural.pad, x, number, moving=(0, 1), config=config)
    for linear in [(0,), (1,), (0, 1)]:
        params = (x if 0 in linear else np.zeros_like(x), number if 1 in linear else np.float64(0))
        check_transpose(structural.pad, *params, linear=linear, config=config)
    check_batch(
        structural.pad,
        lambda seed: (random_array(shape, seed=seed), np.float64(seed)),
        config=config,
    )


@given(st.lists(st.integers(0, 3), min_size=1, max_size=4), st.integers(0, 1))
def test_concatenate_rules_agree(sizes, dimension):
    def make(seed):
        return tuple(
            random_array((n, 2) if dimension == 0 else (2, n), seed=seed + i)
            for i, n in enumerate(sizes)
        )

    xs = make(0)
    out = evaluate(structural.concatenate, *xs, dimension=dimension)
    np.testing.assert_array_equal(out, np.concatenate(xs, dimension))
    everything = tuple(range(len(xs)))
    check_jvp(structural.concatenate, *xs, moving=everything, dimension=dimension)
    check_jvp_of_zero(structural.concatenate, *xs, dimension=dimension)
    check_transpose(structural.concatenate, *xs, linear=everything, dimension=dimension)
    if len(xs) <= 3:
        check_batch(structural.concatenate, make, dimension=dimension)


def test_concatenate_transposes_only_what_is_linear():
    linear = Linear(ShapedArray((2,), np.dtype(float)))
    cts = structural.concatenate.transpose(np.arange(5.0), np.zeros(3), linear, dimension=0)
    assert cts[0] is None
    np.testing.assert_array_equal(cts[1], [3, 4])


@pytest.mark.parametrize("dtype", ["i1", "u4", "i8", "f4", "c16"])
@pytest.mark.parametrize(("shape", "dimension"), [((3,), 0), ((2, 3), 1), ((2, 0, 2), 0)])
def test_iota_counts_along_its_dimension(dtype, shape, dimension):
    params = {"dtype": np.dtype(dtype), "shape": shape, "dimension": dimension}
    out = evaluate(structural.iota, **params)
    np.testing.assert_array_equal(out, np.indices(shape)[dimension])
    out, tangent = structural.iota.jvp((), (), **params)
    assert type(tangent) is Zero


@pytest.mark.parametrize(
    ("primitive", "operands", "params", "error"),
    [
        ("broadcast_in_dim", ["(2,)"], {"shape": (3,), "broadcast_dimensions": (0,)}, ValueError),
        ("broadcast_in_dim", ["(2,)"], {"shape": (2,), "broadcast_dimensions": ()}, ValueError),
        ("reshape", ["(2,)"], {"shape": (3,)}, ValueError),
        ("permute", ["(2,2)"], {"permutation": (0, 0)}, ValueError),
        ("slice", ["(2,)"], {"start_indices": (0,), "limit_indices": (3,), "strides": (1,)},
         ValueError),
        ("rev", ["(2,)"], {"dimensions": (-1,)}, ValueError),
        ("pad", ["(2,)", "(1,)"], {"config": ((0, 0, 0),)}, TypeError),
        ("pad", ["(2,)", "()"], {"config": ((-2, -1, 0),)}, ValueError),
        ("concatenate", ["(2,)", "(2,2)"], {"dimension": 0}, ValueError),
        ("concatenate", [], {"dimension": 0}, ValueError),
        ("reduce_sum", ["(2,)"], {"axes": (1,)}, ValueError),
        ("reduce_sum", ["(2,)"], {"axes": (0, 0)}, ValueError),
    ],
)  # fmt: skip
def test_bad_operands_are_refused_by_name(primitive, operands, params, error):
    avals = [ShapedArray(eval(s), np.dtype(float)) for s in operands]
    with pytest.raises(error, match=primitive):
        getattr(structural, primitive).abstract_eval(*avals, **params)


def test_concatenate_of_mixed_dtypes_is_refused_eagerly_too():
    with pytest.raises(TypeError, match="equal dtype"):
        structural.concatenate(np.zeros(2), np.zeros(2, np.float32), dimension=0)


@given(nonscalar_shapes, st.data())
def test_functions_of_axes_are_numpys(shape, data):
    x = random_array(shape)
    source, destination = (data.draw(st.integers(-x.ndim, x.ndim - 1)) for _ in range(2))
    np.testing.assert_array_equal(
        structural.moveaxis(x, source, destination), np.moveaxis(x, source, destination)
    )
    wide = structural.expand_dims(x, (0, -1))
    assert wide.shape == (1, *shape, 1)
    np.testing.assert_array_equal(structural.squeeze(wide, (0, -1)), x)
    np.testing.assert_array_equal(structural.slice_axis(x, 0, 0, shape[0], 2), x[::2])
    assert structural.filled(np.float32(2), shape).sum() == 2 * math.prod(shape)


def test_squeeze_refuses_extents_above_one():
    with pytest.raises(ValueError, match="extent is not 1"):
        structural.squeeze(np.ones((2, 1)), (0,))


def test_spread_and_unspread_are_transposes():
    assert structural.spread(np.float64(2), (3,)).tolist() == [2, 2, 2]
    assert structural.unspread(np.arange(3.0), ()) == 3
    assert structural.unspread(np.float64(1), (2,)).tolist() == [1, 1]
    assert axes.unspread(np.ones(2), (2,)).tolist() == [1, 1]
