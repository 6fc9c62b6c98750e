import itertools

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

import functrans as ft
from functrans import lax, ops
from functrans.compiler.code.convolution_tiles import Axis, text_size, tiles_of
from functrans.core import Linear, get_aval
from functrans.test_util import check_grads
from tests.helpers.primitive_rules import (
    check_batch,
    check_jvp,
    check_jvp_of_zero,
    check_transpose,
    evaluate,
    random_array,
)


@st.composite
def spatial_axes(draw, *, least=0, most=3):
    """Per spatial axis: extent, window, stride, padding, dilations."""
    small = st.integers(1, 3)
    rows = []
    for _ in range(draw(st.integers(least, most))):
        n, ld = draw(st.integers(0, 6)), draw(st.sampled_from([1, 1, 1, 2, 3]))
        whole = (n - 1) * ld + 1 if n else 0
        low = draw(st.integers(-min(2, whole), 3))
        high = draw(st.integers(-min(2, whole + low), 3))
        k, rd = draw(st.integers(0 if n == 2 else 1, 4)), draw(st.sampled_from([1, 1, 2]))
        rows.append((n, k, draw(small), (low, high), ld, rd))
    return rows


@st.composite
def convolutions(draw, *, least=0, most=3):
    """Shapes and parameters: groups, layouts, strides, dilations, paddings."""
    rows = draw(spatial_axes(least=least, most=most))
    n, c, o = draw(st.integers(0, 3)), draw(st.integers(0, 3)), draw(st.integers(0, 5))
    features, batches = draw(st.sampled_from([(1, 1), (1, 1), (2, 1), (3, 1), (1, 2), (1, 3)]))
    specs = [tuple(draw(st.permutations(range(len(rows) + 2)))) for _ in range(3)]
    space, window, strides, padding, lhs_dilation, rhs_dilation = (
        zip(*rows, strict=True) if rows else [()] * 6
    )
    groups = features * batches
    sizes = [(n * batches, c * features, *space), (o * groups, c, *window)]
    shapes = []
    for spec, extents in zip(specs, sizes, strict=False):
        shapes.append(tuple(extents[spec.index(i)] for i in range(len(spec))))
    params = {
        "window_strides": strides,
        "padding": padding,
        "lhs_dilation": lhs_dilation,
        "rhs_dilation": rhs_dilation,
        "dimension_numbers": lax.ConvDimensionNumbers(*specs),
        "feature_group_count": features,
        "batch_group_count": batches,
    }
    return *shapes, params


def slowly(lhs, rhs, params):
    """The definition: one term after another."""
    lhs_spec, rhs_spec, out_spec = params["dimension_numbers"]
    x, w = lhs.transpose(lhs_spec), rhs.transpose(rhs_spec)
    aval = ops.conv_general_dilated.abstract_eval(get_aval(lhs), get_aval(rhs), **params)
    out = np.zeros([aval.shape[i] for i in out_spec], lhs.dtype)
    features, batches = params["feature_group_count"], params["batch_group_count"]
    keys = ("window_strides", "padding", "rhs_dilation", "lhs_dilation")
    rows = list(zip(*(params[k] for k in keys), strict=True))
    for place in itertools.product(*map(range, out.shape[2:])):
        for tap in itertools.product(*map(range, w.shape[2:])):
            at = [
                divmod(p * stride + k * rd - low, ld)
                for p, k, (stride, (low, _), rd, ld) in zip(place, tap, rows, strict=True)
            ]
            if any(rest or not 0 <= i < n for (i, rest), n in zip(at, x.shape[2:], strict=True)):
                continue
            pixel = x[(slice(None), slice(None), *(i for i, _ in at))]
            weight = w[(slice(None), slice(None), *tap)]
            for o in range(out.shape[1]):
                group = o * features * batches // out.shape[1]
                c, n = w.shape[1], out.shape[0]
                features_of = slice(group * c, (group + 1) * c) if features > 1 else slice(None)
                batch_of = slice(group * n, (group + 1) * n) if batches > 1 else slice(None)
                out[(slice(None), o, *place)] += pixel[batch_of, features_of] @ weight[o]
    return out.transpose(np.argsort(out_spec))


def operands(l_shape, r_shape, dtype=float):
    return random_array(l_shape, dtype, 1), random_array(r_shape, dtype, 2)


@given(convolutions(), st.sampled_from(["f8", "c16", "f4", "i4"]))
def test_eager_is_the_definition(case, dtype):
    l_shape, r_shape, params = case
    lhs, rhs = operands(l_shape, r_shape, dtype)
    if dtype == "i4":
        lhs, rhs = np.round(5 * lhs).astype(dtype), np.round(5 * rhs).astype(dtype)
    out = evaluate(ops.conv_general_dilated, lhs, rhs, **params)
    tolerance = 1e-5 if dtype == "f4" else 1e-12
    np.testing.assert_allclose(out, slowly(lhs, rhs, params), rtol=tolerance, atol=tolerance)


@given(convolutions(), st.sampled_from([float, complex]))
@settings(max_examples=60)
def test_derivative_rules_agree(case, dtype):
    l_shape, r_shape, params = case
    lhs, rhs = operands(l_shape, r_shape, dtype)
    conv = ops.conv_general_dilated
    check_jvp(conv, lhs, rhs, moving=(0, 1), **params)
    check_jvp_of_zero(conv, lhs, rhs, **params)
    check_transpose(conv, lhs, rhs, linear=(0,), **params)
    check_transpose(conv, lhs, rhs, linear=(1,), **params)


def close_batch(l_shape, r_shape, params):
    check_batch(
        ops.conv_general_dilated,
        lambda seed: (
            np.round(4 * random_array(l_shape, seed=seed)),
            np.round(4 * random_array(r_shape, seed=seed + 9)),
        ),
        **params,
    )


@given(convolutions(most=2))
@settings(max_examples=60)
def test_a_batch_is_a_stack_of_convolutions(case):
    close_batch(*case)


# ---------------------------------------------------------------------------- compiled


def jitted(function):
    return ft.jit(function, host_steps="error")


@given(convolutions(), st.sampled_from(["f8", "f4", "c16", "i4", "f2"]))
@settings(max_examples=100)
def test_compiled_is_eager(case, dtype):
    l_shape, r_shape, params = case
    drawn = operands(l_shape, r_shape, complex if dtype == "c16" else float)
    lhs, rhs = (np.round(4 * x).astype(dtype) for x in drawn)

    def function(lhs, rhs):
        return ops.conv_general_dilated(lhs, rhs, **params)

    out = jitted(function)(lhs, rhs)
    assert out.dtype == dtype
    np.testing.assert_array_equal(out, function(lhs, rhs))


# Large enough for several tiles, blocks of vectors and runs of taps: lhs, rhs, the rest.
NHWC, NCHW = ("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW")
LARGE = {
    "several_blocks": ((3, 9, 37, 5), (3, 3, 5, 150), {"padding": "SAME"}),
    "masked_features": ((3, 9, 30, 5), (3, 3, 5, 21), {"padding": "SAME_LOWER"}),
    "strided": ((5, 30, 30, 16), (3, 3, 16, 32), {"window_strides": (2, 2), "padding": "SAME"}),
    "channels_first": ((3, 8, 20, 21), (24, 8, 3, 5), {"dimension_numbers": NCHW}),
    "transposed": ((2, 9, 40, 7), (4, 4, 7, 12), {"lhs_dilation": (2, 2)}),
    "odd_dilations": (
        (2, 9, 31, 7),
        (3, 4, 7, 12),
        {"lhs_dilation": (3, 4), "rhs_dilation": (2, 6)},
    ),
    "cropped": ((2, 12, 60, 7), (3, 3, 7, 12), {"padding": ((-1, -2), (-3, -1))}),
    "few_features": ((3, 9, 40, 37), (3, 3, 37, 3), {"padding": "SAME"}),
    "few_features_dilated": ((3, 9, 30, 37), (3, 3, 37, 2), {"rhs_dilation": (1, 2)}),
    "few_features_strided": ((5, 9, 31, 37), (3, 4, 37, 2), {"window_strides": (2, 3)}),
    "few_features_transposed": ((5, 9, 31, 37), (3, 4, 37, 2), {"lhs_dilation": (2, 3)}),
    "single_channels": ((2, 40, 70, 1), (5, 40, 1, 1), {"padding": "SAME"}),
    "channels_first_single": ((2, 1, 40, 70), (1, 1, 5, 40), {"dimension_numbers": NCHW}),
    "wide_window": ((2, 6, 200, 1), (1, 150, 1, 1), {"padding": ((0, 0), (149, 149))}),
    "wide_window_features": ((1, 2, 90, 8), (1, 80, 8, 8), {"padding": ((0, 0), (79, 79))}),
    "depthwise": ((2, 9, 20, 70), (3, 3, 1, 70), {"feature_group_count": 70, "padding": "SAME"}),
    "groups": ((2, 9, 20, 12), (3, 3, 4, 60), {"feature_group_count": 3, "padding": "SAME"}),
    "batch_groups": ((6, 9, 20, 8), (3, 3, 8, 42), {"batch_group_count": 3}),
    "small_images": ((70, 4, 4, 9), (2, 2, 9, 20), {"padding": "SAME"}),
    "whole_window": ((40, 5, 6, 9), (5, 6, 9, 33), {}),
}


def convolution(options):
    given = {"window_strides": (1, 1), "padding": "VALID", "dimension_numbers": NHWC, **options}
    if "lhs_dilation" in options:
        given["padding"] = ((2, 1), (1, 3))
    return lambda lhs, rhs: lax.conv_general_dilated(lhs, rhs, **given)


@pytest.mark.parametrize("name", LARGE)
def test_compiled_derivatives_are_eager_ones(name):
    l_shape, r_shape, options = LARGE[name]
    conv = convolution(options)
    lhs, rhs = (np.round(4 * x).astype("f4") for x in operands(l_shape, r_shape))
    ct = np.round(3 * random_array(conv(lhs, rhs).shape, "f4"))

    def all_three(lhs, rhs, ct):
        out, vjp = ft.vjp(conv, lhs, rhs)
        return out, *vjp(ct)

    # Sums of integers are exact in any order.
    for actual, expected in zip(
        jitted(all_three)(lhs, rhs, ct), all_three(lhs, rhs, ct), strict=True
    ):
        np.testing.assert_array_equal(actual, expected)


def test_vmap_over_weights_of_a_compiled_network_is_a_stack():
    x, w = operands((2, 6, 7, 3), (4, 3, 3, 3, 5))
    conv = convolution({"padding": "SAME"})
    for dims, arrays in (((None, 0), (x, w)), ((0, 0), (np.stack([x, 2 * x, x, -x]), w))):
        out = jitted(ft.vmap(conv, in_axes=dims))(*arrays)
        singles = [conv(x if dims[0] is None else arrays[0][i], w[i]) for i in range(4)]
        np.testing.assert_allclose(out, np.stack(singles), rtol=1e-12, atol=1e-12)


def test_derivatives_of_derivatives_are_differences():
    x, w = operands((2, 5, 6, 2), (3, 2, 2, 3))
    conv = convolution({"window_strides": (2, 1), "padding": "SAME"})

    def loss(x, w):
        return np.sum(np.tanh(conv(x, w)) ** 2)

    check_grads(loss, (x, w), order=2, rtol=1e-4, atol=1e-4)
    hessian_product = jitted(ft.grad(lambda x, w: np.sum(np.sin(ft.grad(loss)(x, w))), argnums=1))
    expected = ft.grad(lambda x, w: np.sum(np.sin(ft.grad(loss)(x, w))), argnums=1)(x, w)
    np.testing.assert_allclose(hessian_product(x, w), expected, rtol=1e-10, atol=1e-12)


def test_the_text_of_a_long_window_does_not_grow_with_it():
    plan_of_taps = tiles_of(Axis(10**6, 10**5, 10**6 - 10**5 + 1, 1, 0, 1, 1), 28)
    assert text_size(plan_of_taps) < 100
    assert sum(t.count * t.width for t in plan_of_taps) == 10**6 - 10**5 + 1


# ---------------------------------------------------------------------------- JAX's conventions


def count(*shape):
    return np.arange(np.prod(shape), dtype=float).reshape(shape) % 7 - 3


def checksum(x):
    return (x.ravel() * (np.arange(x.size) % 11 - 5)).sum()


def strided(x, w):
    return lax.conv_general_dilated(x, w, (2, 1), "SAME", dimension_numbers=NHWC)


def padded_below(x, w):
    return lax.conv_general_dilated(x, w, (1, 2), "SAME_LOWER", dimension_numbers=NHWC)


def dilated(x, w):
    pads = ((1, 0), (-1, 2))
    return lax.conv_general_dilated(x, w, (2, 2), pads, (2, 1), (1, 2), NHWC)


def transposed(x, w):
    return lax.conv_transpose(x, w, (2, 1), "VALID")


def transposed_kernel(x, w):
    w = np.swapaxes(w, 2, 3)
    return lax.conv_transpose(x, w, (1, 2), "SAME", transpose_kernel=True)


def consistent(x, w):
    return lax.conv_transpose(x, w, (2, 2), ((1, 0), (1, 1)), use_consistent_padding=True)


# Shape, the start of the result, and checksums of it and of the gradients of its sum of squares:
# these functions of jax.lax (0.10.2, float64) with x = count(1, 4, 5, 2), w = count(2, 3, 2, 3).
FROM_JAX = [
    (strided, (1, 2, 5, 3), [-2, 12, -2, 9, -7, -2], (-215, 4014, 642)),
    (padded_below, (1, 4, 3, 3), [-5, 3, -3, -4, -16, 7], (201, 78, -46)),
    (dilated, (1, 4, 1, 3), [-10, 10, 9], (-61, -560, -1062)),
    (transposed, (1, 8, 7, 3), [-1, -6, 3, -5, 3, -3], (71, -242, 1346)),
    (transposed_kernel, (1, 4, 10, 3), [9, 4, -1, -7, 9, 4], (-25, -7872, 3440)),
    (consistent, (1, 7, 9, 3), [-7, 9, 4, 7, 1, 2], (595, -1204, -3748)),
]


@pytest.mark.parametrize(("function", "shape", "start", "sums"), FROM_JAX)
def test_conventions_are_those_of_jax(function, shape, start, sums):
    x, w = count(1, 4, 5, 2), count(2, 3, 2, 3)
    out = function(x, w)
    gradients = ft.grad(lambda x, w: np.sum(function(x, w) ** 2), argnums=(0, 1))(x, w)
    assert out.shape == shape
    np.testing.assert_array_equal(out[0, 0].ravel()[: len(start)], start)
    np.testing.assert_array_equal([checksum(a) for a in (out, *gradients)], sums)
    np.testing.assert_array_equal(jitted(function)(x, w), out)


def test_short_names_are_the_general_function():
    x, w = operands((2, 3, 9, 8), (4, 3, 3, 2))
    general = lax.conv_general_dilated
    np.testing.assert_array_equal(
        lax.conv(x, w, (2, 1), "SAME"), general(x, w, (2, 1), "SAME", dimension_numbers=NCHW)
    )
    np.testing.assert_array_equal(
        lax.conv_with_general_padding(x, w, (1, 1), ((1, 0), (2, 1)), (2, 1), None),
        general(x, w, (1, 1), ((1, 0), (2, 1)), (2, 1), (1, 1)),
    )
    numbers = lax.conv_dimension_numbers(x.shape, w.shape, ("NHWC", "WIOH", "CWHN"))
    assert numbers == ((0, 3, 2, 1), (2, 1, 0, 3), (3, 0, 1, 2))
    assert lax.conv_dimension_numbers(x.shape, w.shape, None) == 3 * ((0, 1, 2, 3),)
    assert lax.padtype_to_pads((5, 4), (3, 2), (1, 2), "SAME") == [(1, 1), (0, 0)]
    assert lax.padtype_to_pads((5, 4), (2, 3), (1, 2), "SAME_LOWER") == [(1, 0), (1, 0)]


def test_the_result_has_the_preferred_dtype():
    x, w = (np.full((1, 1, 20), 100, "i1") for _ in range(2))
    out = lax.conv(x, w, (1,), "VALID", preferred_element_type=np.int32)
    assert out.dtype == np.int32
    assert out.item() == 200_000
    narrow = lax.conv(np.ones((1, 1, 2)), np.ones((1, 1, 2)), (1,), "VALID", None, np.float32)
    assert narrow.dtype == np.float32


BAD = [
    (((2, 3, 5), (4, 2, 3)), {}, ValueError, r"f64\[2,3,5\] and f64\[4,2,3\].*lhs has 3 features"),
    (((2, 3, 5), (4, 3, 3, 3)), {}, TypeError, r"as many axes of lhs as of rhs"),
    (((2, 3, 5), (4, 3, 3)), {"padding": "FULL"}, ValueError, "'VALID', 'SAME'"),
    (((2, 3, 5), (4, 3, 3)), {"padding": (1, 1)}, ValueError, "pair of integers"),
    (((2, 3, 5), (4, 3, 3)), {"padding": ((-4, -4),)}, ValueError, "negative padding"),
    (((2, 3, 5), (4, 3, 3)), {"window_strides": (0,)}, ValueError, "a positive entry"),
    (((2, 3, 5), (4, 3, 3)), {"window_strides": (1, 1)}, ValueError, "each of 1 axes"),
    (((2, 3, 5), (4, 1, 3)), {"feature_group_count": 3}, ValueError, "must divide the 4 out"),
    (((3, 3, 5), (4, 3, 3)), {"batch_group_count": 2}, ValueError, "the batch of 3"),
    (((2, 3, 5), (4, 3, 3)), {"dimension_numbers": ("NCH", "OIW", "NCH")}, TypeError, "spatial"),
    (((2, 3, 5), (4, 3, 3)), {"dimension_numbers": ("NCH", "OH", "NCH")}, TypeError, "3 distinct"),
    (((2, 3, 5), (4, 3, 3)), {"lhs_dilation": (2,), "padding": "SAME"}, ValueError, "no meaning"),
]


@pytest.mark.parametrize(("shapes", "options", "error", "match"), BAD)
def test_bad_convolutions_are_refused_with_what_to_change(shapes, options, error, match):
    given = {"window_strides": (1,), "padding": "VALID", **options}
    with pytest.raises(error, match=match):
        lax.conv_general_dilated(*map(np.ones, shapes), **given)


def test_mixed_and_bool_operands_are_refused():
    with pytest.raises(TypeError, match="equal dtype"):
        lax.conv(np.ones((1, 1, 2)), np.ones((1, 1, 2), "f4"), (1,), "VALID")
    with pytest.raises(TypeError, match="astype"):
        lax.conv(np.ones((1, 1, 2), bool), np.ones((1, 1, 2), bool), (1,), "VALID")


def test_transposing_both_operands_is_refused():
    both = Linear(get_aval(np.ones((2, 2))))
    params = dict.fromkeys(("window_strides", "padding", "lhs_dilation", "rhs_dilation"), ())
    with pytest.raises(TypeError, match="not linear in both"):
        ops.conv_general_dilated.transpose(np.ones((2, 2)), both, both, **params)


# ---------------------------------------------------------------------------- reductions


def pooled(*args):
    return lambda x: lax.reduce_window(x, *args)


# Shape, start and checksum of jax.lax.reduce_window (0.10.2, float64) of count(1, 5, 6, 2).
REDUCTIONS = [
    (pooled(-np.inf, lax.max, (1, 3, 2, 1), (1, 2, 2, 1), "SAME"), (1, 3, 3, 2), [2, 3, 3, 2], -27),
    (pooled(np.inf, lax.min, (1, 2, 2, 1), (1, 2, 2, 1)), (1, 2, 3, 2), [-3, -2, -1, -3], 23),
    (
        pooled(0.0, lax.add, (1, 2, 3, 1), (1, 1, 2, 1), ((0, 0), (1, 0), (0, 2), (0, 0)),
               (1, 2, 1, 1), (1, 1, 2, 1)),
        (1, 9, 2, 2), [-4, -1, -1, 1], 105,
    ),
    (
        pooled(2.0, lax.add, (1, 2, 2, 1), None, ((0, 0), (1, 0), (0, 1), (0, 0))),
        (1, 5, 6, 2), [-2, 0, 2, 4], 11,
    ),
    (pooled(1.0, lax.mul, (1, 2, 2, 1), (1, 1, 3, 1), "SAME_LOWER"), (1, 5, 2, 2), [3, 0, -6, 3],
     -150),
]  # fmt: skip


@pytest.mark.parametrize(("function", "shape", "start", "total"), REDUCTIONS)
def test_reductions_over_windows_are_those_of_jax(function, shape, start, total):
    x = count(1, 5, 6, 2)
    for out in (function(x), jitted(function)(x)):
        assert out.shape == shape
        np.testing.assert_array_equal(out[0, 0].ravel()[:4], start)
        assert checksum(out) == total
    distinct = random_array(x.shape)
    check_grads(function, (distinct,), order=1, rtol=1e-4, atol=1e-6)
    gradient = ft.grad(lambda x: np.sum(function(x) ** 2))
    np.testing.assert_allclose(jitted(gradient)(distinct), gradient(distinct), atol=1e-10)


@given(st.data())
@settings(max_examples=60)
def test_pooling_is_the_reduction_of_each_window(data):
    rows = data.draw(st.lists(st.tuples(*[st.integers(1, 3)] * 3, st.integers(0, 7)), max_size=3))
    window, strides, steps, shape = zip(*rows, strict=True) if rows else [()] * 4
    x = np.round(4 * random_array(shape))
    spans = [(k - 1) * d + 1 for k, d in zip(window, steps, strict=True)]
    extents = [
        max(0, (n - k) // stride + 1) for n, k, stride in zip(shape, spans, strides, strict=True)
    ]
    for init, computation, fold in ((-np.inf, lax.max, np.max), (0, lax.add, np.sum)):
        expected = np.zeros(extents)
        for place in itertools.product(*map(range, extents)):
            cut = [
                slice(p * s, p * s + k, d)
                for p, s, k, d in zip(place, strides, spans, steps, strict=True)
            ]
            expected[place] = fold(x[tuple(cut)])
        out = lax.reduce_window(x, init, computation, window, strides, window_dilation=steps)
        np.testing.assert_array_equal(out, expected)


def test_a_maximum_shares_its_gradient_at_ties():
    pool = pooled(-np.inf, lax.max, (2, 2), (2, 2))
    np.testing.assert_array_equal(
        ft.grad(lambda x: np.sum(pool(x)))(np.zeros((2, 4))), np.full((2, 4), 0.25)
    )


def test_windows_need_an_entry_for_each_axis():
    with pytest.raises(ValueError, match=r"shape \(2, 3\).*window_dimensions.*2 axes, got \(2,\)"):
        lax.reduce_window(np.ones((2, 3)), 0.0, lax.add, (2,))
    with pytest.raises(ValueError, match=r"2 pairs .*, got \(\(0, 1\),\)"):
        lax.reduce_window(np.ones((2, 3)), 0.0, lax.add, (2, 2), None, ((0, 1),))
