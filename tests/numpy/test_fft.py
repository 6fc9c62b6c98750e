"""Each function of `functrans.numpy.fft` traced, beside NumPy's own: a table of calls."""

import inspect
import warnings

import numpy as np
import pytest

import functrans as ft
import functrans.numpy as fnp
from tests.numpy.checked_trace import like_numpy, same, traced

rng = np.random.default_rng(0)
A = rng.normal(size=(3, 4))
F = A.astype(np.float32)
I = np.array([[3, -1, 2, 0, 5], [5, 7, -2, 3, 1]])  # noqa: E741
C = A + 1j * A[::-1]
V = rng.normal(size=5)
H = A.astype(np.float16)
T = rng.normal(size=(2, 3, 4))
Z = T + 1j * T[::-1, ::-1]
E = np.zeros((0, 4))
N = np.zeros((4, 0))
NORMS = ["backward", "ortho", "forward"]


def call(*args, **kwargs):
    return args, kwargs


def each(arrays, **kwargs):
    return [call(x, **kwargs) for x in arrays]


ALONG = [
    *each([V, A, I, F, T, E, I.astype(np.int8), I > 1]), *each([V, A], n=3), *each([V, A], n=6),
    *each([V, A], n=np.int64(7)), *[call(A, norm=norm) for norm in NORMS],
    *[call(V, norm=norm) for norm in NORMS], call(A, axis=0), call(T, 5, 1, "ortho"),
    call(T, 2, -3), call(A.T), call(T[:, ::-1, ::2]), call(N, n=3), call(V, 1), call(V[:1]),
    call(N), call(np.float64(1.0)), call(V, 0), call(V, -1), call(A, axis=2), call(A, 3, axis=2),
    call(V, norm="other"), call(V, 2.0), call(F, norm="ortho"),
]  # fmt: skip
COMPLEX = [
    *each([C, Z, C.astype(np.complex64)]), call(C[0], n=3), call(C, n=7, axis=0), call(Z.T),
    *[call(C, norm=norm) for norm in NORMS],
]  # fmt: skip
OVER = [
    call(A), call(T), call(F), call(I), call(V), call(T, axes=(0, 2)), call(T, axes=(2, 0)),
    call(T, axes=(1,)), call(T, (5, 2), (0, 1)), call(T, (2, -1), axes=(-1, 1)),
    call(A, [4, 4], [0, 1]),
    call(T, axes=(2, 0), norm="ortho"), call(T, (3, 3), (0, 2), "forward"), call(T, axes=(0, 0)),
    call(T, (2, 3, 5), (2, 0, 2)), call(A, axes=()), call(A, (2,), (0, 1)), call(A, axes=(3,)),
    call(A, axes=0), call(A, 5, (0,)), call(A, (0, 2), (0, 1)), call(N), call(E, axes=(1,)),
    call(A, norm="other"), call(T, (2, 3)), call(T, (None, 3), (0, 1)), call(T, (3, None), (1, 0)),
    call(T.T[::-1], axes=(1, 2)), call(np.float64(3.0)),
]  # fmt: skip
OVER_COMPLEX = [
    call(C), call(Z), call(Z, axes=(0, 2)), call(Z, (4, 3), (2, 0), "ortho"), call(Z, axes=(1, 1)),
    call(Z.astype(np.complex64)), call(Z, (3, 5), (0, 1), "forward"), call(Z, axes=(2, 1, 0)),
]  # fmt: skip
TWO = [call(A), call(T), call(V), call(T, (2, 5)), call(T, axes=(0, 1), norm="ortho")]

FFT = {
    "fft": [*ALONG, *COMPLEX, call(H)], "ifft": [*ALONG, *COMPLEX],
    "rfft": [*ALONG, call(C), call(H)],
    "irfft": [*ALONG, *COMPLEX], "hfft": [*ALONG, *COMPLEX], "ihfft": [*ALONG, call(C)],
    "fft2": [*TWO, call(Z)], "ifft2": [*TWO, call(Z)], "rfft2": [*TWO, call(Z)],
    "irfft2": [*TWO, call(Z)], "fftn": [*OVER, *OVER_COMPLEX], "ifftn": [*OVER, *OVER_COMPLEX],
    "rfftn": [*OVER, call(Z)], "irfftn": [*OVER, *OVER_COMPLEX],
    "fftfreq": [call(6), call(5), call(1), call(4, 0.5), call(n=np.int64(3), d=np.float32(2)),
        call(0), call(3, 0.0), call(-3), call(2.0), call(4, device="cpu"), call(4, device="gpu"),
        call(4, V)],
    "rfftfreq": [call(6), call(5), call(1), call(4, 0.5), call(-3), call(2.0), call(3, device=1)],
    "fftshift": [call(V), call(A), call(T, 1), call(T, (0, -1)), call(A, 2), call(A, (0, 2)),
        call(A, axes=()), call(A, axes=np.int64(1)), call(E), call(T, (1, 1))],
    "ifftshift": [call(V), call(A), call(T, 1), call(T, (0, -1)), call(A, 2), call(E), call(I)],
}  # fmt: skip
ROWS = [(name, i) for name, cases in FFT.items() for i in range(len(cases))]


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize(("name", "i"), ROWS, ids=str)
def test_fft_function_on_tracers(name, i):
    args, kwargs = FFT[name][i]
    if name not in ("fftfreq", "rfftfreq"):  # NumPy does not ask their arguments
        like_numpy(getattr(np.fft, name), *args, **kwargs)
    function = getattr(fnp.fft, name)
    try:
        expected = getattr(np.fft, name)(*args, **kwargs)
    except Exception as error:
        with pytest.raises(type(error)):
            function(*args, **kwargs)
        return
    same(function(*args, **kwargs), expected)
    same(traced(function, *args, **kwargs), expected)


def test_names_and_signatures_are_numpys():
    assert set(fnp.fft.__all__) == set(FFT) == set(np.fft.__all__)
    for name in FFT:
        ours, numpys = (inspect.signature(getattr(m, name)) for m in (fnp.fft, np.fft))
        assert [(p.name, p.default) for p in ours.parameters.values()] == [
            (p.name, p.default) for p in numpys.parameters.values()
        ]


def test_roundtrip_of_float16_is_float16():
    out = traced(lambda x: np.fft.irfft(np.fft.rfft(x)), H)
    assert out.dtype == np.float32
    assert traced(np.fft.irfft, H).dtype == np.fft.irfft(H).dtype == np.float16


def test_out_is_refused():
    out = np.empty(5, complex)
    with pytest.raises(TypeError, match=r"fft\(\.\.\., out=\.\.\.\) cannot be traced"):
        traced(lambda x: np.fft.fft(x, out=out), V)


def test_traced_length_is_an_error_that_says_so():
    with pytest.raises(ft.errors.TracerIntegerConversionError, match="static_argnums"):
        ft.jit(lambda x, n: np.fft.fft(x, n))(V, 3)


def test_distance_of_samples_has_a_derivative():
    slope = ft.grad(lambda d: np.sum(np.fft.fftfreq(5, d) ** 2))(0.5)
    np.testing.assert_allclose(slope, -2 * np.sum(np.fft.fftfreq(5, 0.5) ** 2) / 0.5)


def test_frequencies_and_shifts_are_native():
    function = ft.jit(lambda x: fnp.fft.fftshift(x * fnp.fft.fftfreq(5)), host_steps="error")
    np.testing.assert_array_equal(function(V), np.fft.fftshift(V * np.fft.fftfreq(5)))


def test_convolution_theorem_compiled_and_batched():
    kernel, signals = V[:3], rng.normal(size=(4, 9))

    def convolved(x):
        return np.fft.irfft(np.fft.rfft(x, 11) * np.fft.rfft(kernel, 11), 11)

    expected = np.stack([np.convolve(x, kernel) for x in signals])
    np.testing.assert_allclose(ft.jit(ft.vmap(convolved))(signals), expected, atol=1e-12)
