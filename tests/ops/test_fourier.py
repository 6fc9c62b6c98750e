import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

import functrans as ft
from functrans import lax, ops
from functrans.compiler.lowering.lowering import HostStepError
from functrans.core import Linear, get_aval
from functrans.lax import FftType
from functrans.test_util import check_grads
from tests.helpers.primitive_rules import (
    check_batch,
    check_jvp,
    check_jvp_of_zero,
    evaluate,
    inner,
    random_array,
)
from tests.ops.test_native_forms import DELIBERATE_GAPS

NUMPY = {
    FftType.FFT: np.fft.fftn,
    FftType.IFFT: np.fft.ifftn,
    FftType.RFFT: np.fft.rfftn,
    FftType.IRFFT: np.fft.irfftn,
}
SINGLE = {"f8": "f4", "c16": "c8"}


@st.composite
def transforms(draw):
    """The shape and dtype of an operand, and parameters."""
    lead = draw(st.lists(st.integers(0, 3), max_size=2))
    lengths = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)))
    fft_type = draw(st.sampled_from(FftType))
    last = (*lengths[:-1], lengths[-1] // 2 + 1) if fft_type is FftType.IRFFT else lengths
    dtype = "f8" if fft_type is FftType.RFFT else "c16"
    return (*lead, *last), dtype, {"fft_type": fft_type, "fft_lengths": lengths}


def last_axes(params):
    return tuple(range(-len(params["fft_lengths"]), 0))


@given(transforms(), st.booleans(), st.booleans())
def test_values_and_dtypes_are_numpys(case, is_single, is_contiguous):
    shape, dtype, params = case
    x = random_array(shape, SINGLE[dtype] if is_single else dtype)
    x = x if is_contiguous else np.asfortranarray(x)
    out = evaluate(ops.fft, x, **params)
    expected = NUMPY[params["fft_type"]](x, params["fft_lengths"], last_axes(params))
    assert out.dtype == expected.dtype
    assert out.dtype.itemsize in ((4, 8) if is_single else (8, 16))
    np.testing.assert_array_equal(out, expected)


@given(transforms())
def test_tangents_are_differences(case):
    shape, dtype, params = case
    x = random_array(shape, dtype)
    check_jvp(ops.fft, x, **params)
    check_jvp_of_zero(ops.fft, x, **params)


@given(transforms())
def test_transpose_is_the_adjoint_over_the_reals(case):
    shape, dtype, params = case
    t = random_array(shape, dtype, seed=1)
    out = ops.fft(t, **params)
    ct = random_array(out.shape, out.dtype, seed=2)
    (back,) = ops.fft.transpose(ct, Linear(get_aval(t)), **params)
    assert get_aval(back) == get_aval(t)
    np.testing.assert_allclose(inner(back, t).real, inner(ct, out).real, rtol=1e-9, atol=1e-9)


@given(transforms())
@settings(max_examples=50)
def test_a_batch_is_a_stack_of_transforms(case):
    shape, dtype, params = case
    x = random_array(shape, dtype)
    for dim in range(len(shape) + 1):
        stack = np.stack([x, 2 * x, x**2], dim)
        out, at = ops.fft.batch(3, (stack,), (dim,), **params)
        singles = [ops.fft(y, **params) for y in (x, 2 * x, x**2)]
        np.testing.assert_allclose(np.moveaxis(out, at, 0), np.stack(singles), atol=1e-12)
    check_batch(ops.fft, lambda seed: (random_array(shape, dtype, seed),), **params)


@given(transforms())
@settings(max_examples=25)
def test_compiled_is_eager(case):
    shape, dtype, params = case
    x = random_array(shape, dtype)

    def function(x):
        return ops.fft(x * 2, **params) + 1

    np.testing.assert_array_equal(ft.jit(function)(x), function(x))


@pytest.mark.parametrize("n", [5, 6])
@pytest.mark.parametrize("fft_type", FftType)
def test_gradients_of_gradients_and_compiled_ones(fft_type, n):
    lengths = (3, n)
    is_real, is_inverse = fft_type is FftType.RFFT, fft_type is FftType.IRFFT
    x = random_array((2, 3, n // 2 + 1 if is_inverse else n), float if is_real else complex)
    weights = random_array(ops.fft(x, fft_type=fft_type, fft_lengths=lengths).shape, seed=5)

    def function(x):
        y = lax.fft(x, fft_type, lengths)
        return np.sum(weights * (y.real**3 - y.imag**2))

    check_grads(function, (x,), order=2, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(ft.jit(ft.grad(function))(x), ft.grad(function)(x), rtol=1e-10)
    single = x.astype(SINGLE[x.dtype.str[1:]])
    assert (
        ft.grad(lambda x: np.sum(lax.fft(x, fft_type, lengths).real))(single).dtype == single.dtype
    )


def test_gradient_of_a_spectrum_is_jaxs():
    # The same calls of JAX 0.10.2 give these numbers.
    x = np.arange(1.0, 5.0)
    grad = ft.grad(lambda x: np.sum(np.abs(np.fft.rfft(x)) ** 2))(x)
    np.testing.assert_allclose(grad, [12, 20, 20, 28])
    z = np.array([1 + 2j, 3 - 1j, 0.5j])
    grad = ft.grad(lambda z: np.sum(np.fft.irfft(z, 4) ** 3))(z)
    np.testing.assert_allclose(grad, [3.9375, 2.25 + 0.75j, 3], atol=1e-12)


@pytest.mark.parametrize("fft_type", FftType)
def test_host_step_is_shown_and_refused(fft_type):
    assert set(DELIBERATE_GAPS) == {"fft"}
    x = random_array((2, 4), float if fft_type is FftType.RFFT else complex)
    lengths = (6,) if fft_type is FftType.IRFFT else (4,)

    def function(x):
        return lax.fft(x, fft_type, lengths)

    text = str(ft.jit(function).lower(x).loop_program)
    assert f"# host fft fft_type={fft_type.name} fft_lengths={lengths}" in text
    with pytest.raises(
        HostStepError, match=r"fft at .* has no native form and would run in Python"
    ):
        ft.jit(function, host_steps="error")(x)


C = random_array((3, 4), complex)
ERRORS = [
    (TypeError, "must be a lax.FftType, got 'FFT'", C, "FFT", (4,)),
    (TypeError, "f64.*takes complex64 and complex128.*astype", C.real, FftType.FFT, (4,)),
    (TypeError, "takes float32 and float64", C, FftType.RFFT, (4,)),
    (TypeError, "f16.*takes float32 and float64", C.real.astype("f2"), FftType.RFFT, (4,)),
    (ValueError, r"fft_lengths=\(\): fft_lengths has from 1 to 2 entries", C, FftType.FFT, ()),
    (ValueError, "fft_lengths has from 1 to 2 entries", C, FftType.FFT, (1, 3, 4)),
    (ValueError, "at least one point", C[:, :0], FftType.FFT, (0,)),
    (ValueError, "at least one point", C[:, :1], FftType.IRFFT, (0,)),
    (ValueError, r"c128\[3,4\].* must be \(5,\)", C, FftType.IFFT, (5,)),
    (ValueError, r"c128\[3,4\].* must be \(3, 3\)", C, FftType.IRFFT, (3, 5)),
]


@pytest.mark.parametrize(("error", "match", "x", "fft_type", "lengths"), ERRORS)
def test_errors_name_what_was_given(error, match, x, fft_type, lengths):
    with pytest.raises(error, match=match):
        ops.fft(x, fft_type=fft_type, fft_lengths=lengths)
    with pytest.raises(error, match=match):
        ft.eval_shape(lambda x: ops.fft(x, fft_type=fft_type, fft_lengths=lengths), x)


def test_lax_takes_names_and_any_numbers():
    x = np.arange(12).reshape(3, 4)
    np.testing.assert_array_equal(lax.fft(x, "fft", (3, 4)), np.fft.fft2(x))
    np.testing.assert_array_equal(lax.fft(x, "RFFT", [4]), np.fft.rfft(x))
    np.testing.assert_array_equal(lax.fft(x, FftType.IRFFT, (6,)), np.fft.irfft(x, 6))
    assert lax.fft(x.astype("f4"), "ifft", (4,)).dtype == np.complex64
    assert lax.fft(x, "ifft", ()).dtype == np.complex128
    with pytest.raises(ValueError, match="one of FFT, IFFT, RFFT, IRFFT, got 'dct'"):
        lax.fft(x, "dct", (4,))
    with pytest.raises(TypeError, match="rfft takes real numbers, got c128"):
        lax.fft(C, "rfft", (4,))


def test_parameters_are_printed():
    text = str(ft.make_jaxpr(lambda x: lax.fft(x, "ifft", (3, 4)))(C))
    assert "fft[fft_type=IFFT fft_lengths=(3,4)]" in text
