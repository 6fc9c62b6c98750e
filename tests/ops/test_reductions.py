import itertools

import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st

from functrans import ops
from functrans.core import Zero, get_aval
from functrans.interpreters.jvp import jvp_flat
from tests.helpers.primitive_rules import (
    check_batch,
    check_jvp,
    check_jvp_of_zero,
    check_transpose,
    evaluate,
    nonscalar_shapes,
    random_array,
)

REDUCTIONS = {
    "reduce_prod": np.prod,
    "reduce_max": np.max,
    "reduce_min": np.min,
}
CUMULATIVE = {
    "cumsum": np.cumsum,
    "cumprod": np.cumprod,
    "cummax": np.maximum.accumulate,
    "cummin": np.minimum.accumulate,
    "cumlogsumexp": np.logaddexp.accumulate,
}


def tangent_of_tangent(primitive, x, t, s, **params):
    """d/ds of the tangent along t: the second derivative, by the rules applied twice."""

    def tangent(x):
        return [jvp_flat(lambda x: [primitive(x, **params)], [x], [t])[1][0]]

    return jvp_flat(tangent, [x], [s])[1][0]


def check_second_derivative(primitive, x, **params):
    t, s = random_array(x.shape, seed=5), random_array(x.shape, seed=6)
    step = 1e-5
    ahead, behind = (primitive.jvp([x + h * s], [t], **params)[1] for h in (step, -step))
    got = tangent_of_tangent(primitive, x, t, s, **params)
    got = np.zeros_like(ahead) if type(got) is Zero else got
    np.testing.assert_allclose(got, (ahead - behind) / (2 * step), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", REDUCTIONS)
@given(shape=nonscalar_shapes, data=st.data())
def test_reduction_rules_agree(name, shape, data):
    primitive = getattr(ops, name)
    axes = tuple(data.draw(st.sets(st.integers(0, len(shape) - 1))))
    x = random_array(shape)
    if name != "reduce_prod" and any(shape[a] == 0 for a in axes):
        with pytest.raises(ValueError, match="no elements"):
            primitive(x, axes=axes)
        return
    out = evaluate(primitive, x, axes=axes)
    np.testing.assert_array_equal(out, REDUCTIONS[name](x, axis=axes))
    check_jvp(primitive, x, axes=axes)
    check_jvp_of_zero(primitive, x, axes=axes)
    check_batch(primitive, lambda seed: (random_array(shape, seed=seed),), axes=axes)
    check_second_derivative(primitive, x, axes=axes)


@pytest.mark.parametrize("zeros", [(), (1,), (1, 3), (0, 2, 4)])
@pytest.mark.parametrize("name", ["reduce_prod", "cumprod"])
def test_products_are_differentiated_through_zeros(name, zeros):
    x = random_array((5,))
    x[list(zeros)] = 0
    params = {"axes": (0,)} if name == "reduce_prod" else {"axis": 0}
    check_jvp(getattr(ops, name), x, **params)
    check_second_derivative(getattr(ops, name), x, **params)


@pytest.mark.parametrize("name", ["reduce_max", "reduce_min"])
def test_ties_share_the_derivative_evenly(name):
    x = np.array([[1.0, 1, 1], [2, 2, 2]])
    t = np.array([[3.0, 6, 9], [1, 0, 0]])
    _, tangent = getattr(ops, name).jvp([x], [t], axes=(1,))
    np.testing.assert_allclose(tangent, [6, 1 / 3])


@pytest.mark.parametrize("name", ["reduce_max", "reduce_min", "cummax", "cummin"])
def test_nan_wins_and_takes_the_derivative(name):
    x = np.array([1.0, np.nan, -3.0])
    params = {"axes": (0,)} if name.startswith("reduce") else {"axis": 0}
    out, tangent = getattr(ops, name).jvp([x], [np.array([1.0, 2, 4])], **params)
    expected = (np.nan, 2) if name.startswith("reduce") else ([1, np.nan, np.nan], [1, 2, 2])
    np.testing.assert_array_equal(out, expected[0])
    np.testing.assert_array_equal(tangent, expected[1])


def test_infinite_tangents_of_losers_do_not_reach_the_maximum():
    _, tangent = ops.reduce_max.jvp([np.array([1.0, 2])], [np.array([np.inf, 3])], axes=(0,))
    assert tangent == 3


@pytest.mark.parametrize("name", ["reduce_prod", "reduce_max", "reduce_min"])
@pytest.mark.parametrize("dtype", ["?", "i1", "u4", "i8", "f2", "f4", "c8"])
def test_reductions_keep_the_dtype(name, dtype):
    x = np.arange(1, 9).reshape(2, 4).astype(dtype)
    if dtype == "?" and name == "reduce_prod":
        with pytest.raises(TypeError, match="does not accept bool"):
            ops.reduce_prod(x, axes=(1,))
        return
    out = evaluate(getattr(ops, name), x, axes=(1,))
    expected = REDUCTIONS[name](x, axis=1).astype(dtype)
    np.testing.assert_array_equal(out, expected)
    if x.dtype.kind not in "fc":
        check_jvp_of_zero(getattr(ops, name), x, axes=(1,))


@pytest.mark.parametrize("shape", [(2, 3), (0, 3), (2, 0)])
def test_and_or_reduce_truth_and_have_no_derivative(shape):
    x = random_array(shape) > 0
    for axes in [(), (0,), (1,), (0, 1)]:
        for name, function in [("reduce_and", np.all), ("reduce_or", np.any)]:
            out = evaluate(getattr(ops, name), x, axes=axes)
            np.testing.assert_array_equal(out, function(x, axis=axes))
            check_jvp_of_zero(getattr(ops, name), x, axes=axes)
            check_batch(
                getattr(ops, name), lambda seed: (random_array(shape, seed=seed) > 0,), axes=axes
            )
    with pytest.raises(TypeError, match="does not accept"):
        ops.reduce_and(np.ones(2), axes=(0,))


@pytest.mark.parametrize("name", CUMULATIVE)
@given(shape=nonscalar_shapes, reverse=st.booleans(), data=st.data())
def test_cumulative_rules_agree(name, shape, reverse, data):
    primitive = getattr(ops, name)
    axis = data.draw(st.integers(0, len(shape) - 1))
    params = {"axis": axis, "reverse": reverse}
    x = random_array(shape)
    flip = (lambda a: np.flip(a, axis)) if reverse else (lambda a: a)
    out = evaluate(primitive, x, **params)
    np.testing.assert_allclose(out, flip(CUMULATIVE[name](flip(x), axis)), rtol=1e-13)
    check_jvp(primitive, x, **params)
    check_jvp_of_zero(primitive, x, **params)
    check_batch(primitive, lambda seed: (random_array(shape, seed=seed),), **params)
    if name == "cumsum":
        check_transpose(primitive, x, **params)
    else:
        check_second_derivative(primitive, x, **params)


@pytest.mark.parametrize("name", CUMULATIVE)
@pytest.mark.parametrize("dtype", ["i1", "u4", "f2", "f4", "c8"])
def test_cumulative_operations_keep_the_dtype(name, dtype):
    x = np.arange(1, 9).reshape(2, 4).astype(dtype)
    if name == "cumlogsumexp" and x.dtype.kind != "f":
        with pytest.raises(TypeError, match="does not accept"):
            ops.cumlogsumexp(x, axis=1)
        return
    evaluate(getattr(ops, name), x, axis=1)


def test_running_maximum_gives_the_derivative_to_the_first_that_attains_it():
    x = np.array([1.0, 3, 3, 2, 4])
    t = np.array([1.0, 10, 100, 1000, 10000])
    assert ops.cummax.jvp([x], [t], axis=0)[1].tolist() == [1, 10, 10, 10, 10000]
    assert ops.cummax.jvp([x[::-1]], [t[::-1]], axis=0, reverse=True)[1].tolist() == [
        10000, 10, 10, 10, 1,
    ]  # fmt: skip


def test_running_logsumexp_is_stable():
    x = np.array([-np.inf, -1e3, -np.inf, 0.0, 1e3, 1e3])
    out, tangent = ops.cumlogsumexp.jvp([x], [np.arange(6.0)], axis=0)
    np.testing.assert_allclose(out, [-np.inf, -1e3, -1e3, 0, 1e3, 1e3 + np.log(2)])
    np.testing.assert_allclose(tangent, [0, 1, 1, 3, 4, 4.5])


def test_running_logsumexp_weights_are_softmax():
    x = random_array((7,))
    t = random_array((7,), seed=1)
    _, tangent = ops.cumlogsumexp.jvp([x], [t], axis=0)
    expected = [scipy.special.softmax(x[: i + 1]) @ t[: i + 1] for i in range(7)]
    np.testing.assert_allclose(tangent, expected)


@pytest.mark.parametrize("name", ["argmax", "argmin"])
@given(shape=nonscalar_shapes, data=st.data())
def test_positions_of_extrema_are_numpys(name, shape, data):
    axis = data.draw(st.integers(0, len(shape) - 1))
    params = {"axis": axis, "index_dtype": np.dtype(data.draw(st.sampled_from(["i4", "i8"])))}
    x = np.round(random_array(shape))
    if shape[axis] == 0:
        with pytest.raises(ValueError, match="no elements"):
            getattr(ops, name)(x, **params)
        return
    out = evaluate(getattr(ops, name), x, **params)
    np.testing.assert_array_equal(out, getattr(np, name)(x, axis=axis))
    check_jvp_of_zero(getattr(ops, name), x, **params)
    check_batch(getattr(ops, name), lambda s: (random_array(shape, seed=s),), **params)
    _, tangent = getattr(ops, name).jvp([x], [x], **params)
    assert type(tangent) is Zero


def test_axes_are_checked_by_name():
    x = get_aval(np.ones((2, 3)))
    for name, params in itertools.chain(
        ((n, {"axes": (2,)}) for n in REDUCTIONS), ((n, {"axis": -1}) for n in CUMULATIVE)
    ):
        with pytest.raises(ValueError, match=f"{name}.*negative axes"):
            getattr(ops, name).abstract_eval(x, **params)
