import itertools

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

import functrans as ft
from functrans import lax, ops
from functrans.core import get_aval
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
