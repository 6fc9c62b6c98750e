"""Every ufunc on tracers against NumPy: values, dtypes and errors for all operand dtypes."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import functrans as ft
import functrans.numpy as fnp
from functrans.numpy.ufuncs import UFUNCS, UNSUPPORTED
from tests.numpy.checked_trace import like_numpy, traced

DTYPES = ["bool", "int8", "int32", "int64", "uint8", "uint64", "float16", "float32", "float64",
          "complex64", "complex128"]  # fmt: skip
PAIRS = [("int8", "uint8"), ("int64", "uint64"), ("float32", "float64"), ("int32", "float32"),
         ("bool", "float32"), ("uint8", "float16"), ("complex64", "float64"), ("bool", "int8"),
         *[(d, d) for d in DTYPES]]  # fmt: skip
GENERALIZED = {np.matmul, np.vecdot, getattr(np, "matvec", None), getattr(np, "vecmat", None)}


def sample(dtype: str, shape: tuple[int, ...] = (2, 3), seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    kind = np.dtype(dtype).kind
    if kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    if kind in "iu":
        return rng.integers(0 if kind == "u" else -4, 5, shape).astype(dtype)
    x = rng.normal(size=shape) * 1.5
    return (x + 1j * rng.normal(size=shape)).astype(dtype) if kind == "c" else x.astype(dtype)


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("ufunc", [u for u in UFUNCS if u.nin == 1], ids=lambda u: u.__name__)
@pytest.mark.parametrize("dtype", DTYPES)
def test_unary_ufunc_equals_numpy(ufunc, dtype):
    like_numpy(ufunc, sample(dtype), rtol=1e-12)
    like_numpy(ufunc, sample(dtype, ()), rtol=1e-12)


@pytest.mark.parametrize("ufunc", [u for u in UFUNCS if u.nin == 1], ids=lambda u: u.__name__)
def test_unary_ufunc_at_special_values(ufunc):
    x = np.array([0.0, -0.0, 1.0, -1.0, 0.5, 2.5, np.inf, -np.inf, np.nan, 1e300, 1e-310])
    like_numpy(ufunc, x)


@pytest.mark.parametrize("ufunc", [u for u in UFUNCS if u.nin == 2], ids=lambda u: u.__name__)
@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_binary_ufunc_equals_numpy(ufunc, pair):
    a, b = sample(pair[0]), sample(pair[1], (3,), seed=1)
    if ufunc in (np.left_shift, np.right_shift):
        b = np.abs(b)
    like_numpy(ufunc, a, b)
    like_numpy(ufunc, b, a)
    like_numpy(ufunc, a[:, :1], b[None])


@pytest.mark.parametrize("ufunc", [u for u in UFUNCS if u.nin == 2], ids=lambda u: u.__name__)
@pytest.mark.parametrize("number", [2, True, 2.5, 1 + 2j, 300, -1, 0])
@pytest.mark.parametrize("dtype", ["int8", "uint8", "float32", "complex64", "bool"])
def test_python_numbers_are_weak(ufunc, number, dtype):
    if ufunc in (np.left_shift, np.right_shift) and not 0 <= abs(number) < 8:
        return
    like_numpy(lambda x: ufunc(x, number), sample(dtype), rtol=1e-10)
    like_numpy(lambda x: ufunc(number, x), sample(dtype), rtol=1e-10)


def test_every_numpy_ufunc_has_a_row_or_a_reason():
    every = {getattr(np, n) for n in dir(np) if isinstance(getattr(np, n), np.ufunc)}
    assert every - set(UFUNCS) - set(UNSUPPORTED) - GENERALIZED == set()


@pytest.mark.parametrize("ufunc", UNSUPPORTED, ids=lambda u: u.__name__)
def test_unsupported_ufunc_says_what_is_near(ufunc):
    args = [np.ones(3)] * ufunc.nin
    with pytest.raises(TypeError, match=ufunc.__name__):
        traced(ufunc, *args)


@pytest.mark.parametrize("name", ["add", "multiply", "maximum", "minimum", "logical_and",
                                  "logical_or", "logaddexp"])  # fmt: skip
@pytest.mark.parametrize("axis", [0, 1, -1, None, (0, 1)])
@pytest.mark.parametrize("dtype", ["int32", "float32", "bool", "uint8"])
def test_reduce_equals_numpy(name, axis, dtype):
    ufunc = getattr(np, name)
    like_numpy(lambda x: ufunc.reduce(x, axis=axis), sample(dtype))
    like_numpy(lambda x: ufunc.reduce(x, axis=axis, keepdims=True), sample(dtype))


@pytest.mark.parametrize("name", ["add", "multiply", "maximum", "minimum"])
@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_accumulate_and_outer_equal_numpy(name, dtype):
    ufunc = getattr(np, name)
    like_numpy(lambda x: ufunc.accumulate(x, axis=1), sample(dtype))
    like_numpy(lambda x: ufunc.accumulate(x), sample(dtype))
    like_numpy(lambda x, y: ufunc.outer(x, y), sample(dtype), sample(dtype, (4,)))


def test_where_gives_zero_where_numpy_leaves_the_result_undefined():
    x = np.array([1.0, -1.0, 4.0])
    out = traced(lambda x: np.sqrt(x, where=x > 0), x)
    np.testing.assert_array_equal(out, [1, 0, 2])
    like_numpy(lambda x: np.add.reduce(x, where=x > 0), x)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda x: np.add(x, x, out=np.zeros(3)), "out"),
        (lambda x: np.add.at(x, 0, 1.0), r"functrans.numpy.at\(x, indices\).add"),
        (lambda x: np.add.reduceat(x, [0, 1]), "reduceat"),
        (lambda x: np.hypot.reduce(x), "reduce"),
    ],
)
def test_what_cannot_be_traced_says_what_to_write(call, text):
    with pytest.raises(TypeError, match=text):
        traced(call, np.ones(3))


def test_in_place_on_a_plain_array_says_what_to_write():
    def f(x):
        buffer = np.zeros(3)
        buffer += x
        return buffer

    with pytest.raises(TypeError, match="a = a \\+ x"):
        traced(f, np.ones(3))


def test_dtype_argument_equals_numpy():
    like_numpy(lambda x: np.add(x, 1, dtype=np.float32), sample("int32"))
    like_numpy(lambda x: np.sin(x, dtype=np.float32), sample("int32"))
    like_numpy(lambda x: np.multiply(x, x, dtype="int8"), sample("float64"))


def test_operators_on_weak_tracers_stay_weak():
    x = np.float32(1.5)
    out = traced(lambda w, x: (w * 2 + 1) ** 2 * x, 3.0, np.ones(2, np.float32) * x, weak=True)
    assert out.dtype == np.float32
    assert traced(lambda w: fnp.sin(w) * np.ones(2, np.float32), 3.0, weak=True).dtype == np.float64


def test_small_powers_equal_numpy():
    for x in (sample("float64"), sample("int32"), sample("complex64"), sample("bool")):
        for n in (0, 1, 2, 3, 4, 5, -1, -2, 0.5, 2.0, 0.0, -1.0, 2.5):
            like_numpy(lambda x, n=n: x**n, x, rtol=1e-6 if x.dtype.itemsize < 9 else 1e-12)
    like_numpy(lambda x: 2**x, sample("int32"))
    like_numpy(lambda x: 2.0**x, sample("float32"), rtol=1e-6)


def test_traced_python_ints_compare_with_python_ints():
    assert ft.jit(lambda x: (x < 4, x >= 4, x == 3))(3) == (True, False, True)
