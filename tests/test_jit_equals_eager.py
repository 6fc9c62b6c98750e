"""Compiled elementwise functions give eager's values, dtypes, shapes and errors."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import functrans as ft
import functrans.numpy as fnp
from functrans.numpy.ufunc import Ufunc
from functrans.numpy.ufuncs import UFUNCS
from functrans.printing_loops import run_python

DTYPES = ["?", "i1", "i4", "i8", "u1", "u8", "f4", "f8", "c8", "c16"]
FLOATS = [0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 3.0, 1e-3, 7.7, 0.99, 123.456,
          np.nan, np.inf, -np.inf]  # fmt: skip
MAX_ULP = 4


def special_values(code: str) -> np.ndarray:
    dtype = np.dtype(code)
    if code == "?":
        return np.array([True, False])
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        return np.array([0, 1, 2, 3, 7, 63, info.max, info.min, info.max - 1, info.min + 1] + (
            [-1, -2, -7] if dtype.kind == "i" else []), dtype)  # fmt: skip
    if dtype.kind == "f":
        info = np.finfo(dtype)
        edges = [info.smallest_subnormal, -info.smallest_subnormal, info.tiny, info.max, info.min]
        return np.array([*FLOATS, *edges], dtype)
    parts = [0.0, -0.0, 1.0, -0.5, 2.5]
    return np.array([complex(a, b) for a in parts for b in parts], dtype)


def pairs(code: str) -> tuple[np.ndarray, np.ndarray]:
    x = special_values(code)
    return np.repeat(x, len(x)), np.tile(x, len(x))


def outcome(f: Callable[..., Any], *args: Any) -> Any:
    """The results as a tuple, or the type of the error."""
    with np.errstate(all="ignore"):
        try:
            out = f(*args)
        except (TypeError, ValueError, IndexError, OverflowError, ZeroDivisionError) as error:
            return type(error)
    return out if isinstance(out, tuple) else (out,)


def check_same(got: Any, want: Any, *, max_ulp: float = 0, atol: float = 0) -> None:
    assert isinstance(want, type) == isinstance(got, type), (got, want)
    if isinstance(want, type):
        assert issubclass(got, want) or issubclass(want, got)
        return
    assert len(got) == len(want)
    for g, w in zip(got, want, strict=True):
        w = np.asarray(w)
        assert np.shape(g) == w.shape
        assert np.asarray(g).dtype == w.dtype
        check_values(np.asarray(g), w, max_ulp, atol)


def check_values(got: np.ndarray, want: np.ndarray, max_ulp: float, atol: float) -> None:
    if want.dtype.kind == "c":
        # A complex result is as near as its larger part.
        scale = np.abs(want)
        check_parts(got.real, want.real, max_ulp, atol, scale)
        check_parts(got.imag, want.imag, max_ulp, atol, scale)
    elif want.dtype.kind == "f":
        check_parts(got, want, max_ulp, atol, np.abs(want))
    else:
        np.testing.assert_array_equal(got, want)


def check_parts(
    got: np.ndarray, want: np.ndarray, max_ulp: float, atol: float, scale: np.ndarray
) -> None:
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    with np.errstate(all="ignore"):
        step = np.spacing(np.where(np.isfinite(scale), scale, 1).astype(want.dtype))
        near = np.abs(got - want) <= np.maximum(max_ulp * step, atol)
        ok = near | (got == want) | np.isnan(want)
    assert ok.all(), f"got {got[~ok]}, want {want[~ok]}"
    if max_ulp == 0 and atol == 0:
        zero = (want == 0) & ok
        np.testing.assert_array_equal(np.signbit(got[zero]), np.signbit(want[zero]))


def check_jit(f: Callable[..., Any], *args: Any, max_ulp: float = 0, atol: float = 0) -> None:
    want = outcome(f, *args)
    check_same(outcome(ft.jit(f), *args), want, max_ulp=max_ulp, atol=atol)


# ---------------------------------------------------------------------------- ufuncs

EXACT = frozenset(
    "add subtract multiply divide floor_divide remainder fmod divmod negative positive absolute "
    "fabs sign square sqrt modf floor ceil trunc rint equal not_equal less less_equal greater "
    "greater_equal logical_and logical_or logical_xor logical_not maximum minimum fmax fmin "
    "isfinite isnan isinf signbit copysign nextafter heaviside bitwise_and bitwise_or bitwise_xor "
    "invert left_shift right_shift bitwise_count conjugate reciprocal ldexp".split()
)
NOT_EXACT_IN_COMPLEX = frozenset("divide sqrt reciprocal absolute sign square multiply".split())
UNARY = sorted(n.__name__ for n in UFUNCS if n.nin == 1)
BINARY = sorted(n.__name__ for n in UFUNCS if n.nin == 2 and n.__name__ != "matmul")


# Of two equal zeros NumPy's own loops keep either, by position; the sign is not compared.
EITHER_ZERO = frozenset("maximum minimum fmax fmin".split())


def ulps(name: str, code: str) -> float:
    if name in EITHER_ZERO:
        return 0.5
    if (name, code) == ("power", "c8"):
        return 32  # the C library's cpowf, which eager calls, rounds its logarithm to float32
    exact = name in EXACT and not (code[0] == "c" and name in NOT_EXACT_IN_COMPLEX)
    return 0 if exact else MAX_ULP


@pytest.mark.parametrize("code", DTYPES)
@pytest.mark.parametrize("name", UNARY)
def test_unary(name: str, code: str) -> None:
    f = getattr(fnp, name)
    x = special_values(code)
    check_jit(lambda x: f(x), x, max_ulp=ulps(name, code))
    check_jit(lambda x: f(x), x[1], max_ulp=ulps(name, code))
    check_jit(lambda x: f(x), x[:0], max_ulp=ulps(name, code))


@pytest.mark.parametrize("code", DTYPES)
@pytest.mark.parametrize("name", BINARY)
def test_binary(name: str, code: str) -> None:
    f = getattr(fnp, name)
    x, y = pairs(code)
    if name == "power" and np.dtype(code).kind == "i":
        y = np.abs(y) % 64  # eager refuses negative exponents; compiled code cannot see them
    if name == "ldexp":
        y = np.clip(np.nan_to_num(y.real), -30, 30).astype("i4")
    check_jit(lambda x, y: f(x, y), x, y, max_ulp=ulps(name, code))


@pytest.mark.parametrize("other", ["?", "i4", "u8", "f4", "c16", 2, 0.5, 2j, True, -1])
@pytest.mark.parametrize("code", ["?", "i1", "u8", "f4", "f8"])
@pytest.mark.parametrize(
    "name", ["add", "multiply", "divide", "less", "maximum", "floor_divide", "equal", "arctan2"]
)
def test_binary_of_two_dtypes(name: str, code: str, other: Any) -> None:
    f = getattr(fnp, name)
    x = special_values(code)
    if isinstance(other, str):
        y = special_values(other)
        check_jit(lambda x, y: f(x[:, None], y), x, y, max_ulp=MAX_ULP)
    else:
        check_jit(lambda x: f(x, other), x, max_ulp=MAX_ULP)
        check_jit(lambda x: f(other, x), x, max_ulp=MAX_ULP)
        if other != -1 or code[0] != "u":  # eager refuses the number, which jit does not see
            check_jit(lambda x, y: f(x, y), x, other, max_ulp=MAX_ULP)


@pytest.mark.parametrize("code", DTYPES)
@pytest.mark.parametrize("to", DTYPES)
def test_astype(code: str, to: str) -> None:
    x = special_values(code)
    if np.dtype(to).kind in "iu":
        # What C leaves undefined is left out: floats beyond the integers.
        info = np.iinfo(to)
        with np.errstate(all="ignore"):
            low, high = float(info.min), float(info.max)
            if x.dtype.kind in "fc":
                x = x[np.isfinite(x) & (x.real > low) & (x.real < high)]
    if x.dtype.kind == "c" and np.dtype(to).kind not in "cb":
        check_jit(lambda x: fnp.astype(x.real, to), x)
    else:
        check_jit(lambda x: fnp.astype(x, to), x)


@pytest.mark.parametrize("code", DTYPES)
def test_choices(code: str) -> None:
    x, y = pairs(code)
    p = np.arange(len(x)) % 3 == 0
    check_jit(lambda p, x, y: fnp.where(p, x, y), p, x, y)
    check_jit(lambda x, y: fnp.where(x, x, y), x, y)
    check_jit(lambda p, x: fnp.where(p, x, 1), p, x)
    check_jit(lambda x: fnp.select([x == 0, x == 1], [x, -x * x], 1) if code != "?" else x, x)
    if code[0] not in "c?":
        check_jit(lambda x: fnp.clip(x, 1, 5), x)
        # NumPy's loops disagree on which of two equal zeros clip keeps: + 0 drops the sign.
        check_jit(lambda x, y: fnp.clip(x, y, y[0]) + 0, x, y)
        check_jit(lambda x: fnp.clip(x, None, 5), x)
    check_jit(lambda x: (fnp.real(x), fnp.imag(x)), x)
    if code[0] in "fc":
        check_jit(lambda x: fnp.nan_to_num(x), x)
        check_jit(lambda x: fnp.angle(x), x, max_ulp=MAX_ULP)
        check_jit(lambda x, y: fnp.isclose(x, y), x, y)
    check_jit(lambda x: fnp.round(x, 1) if code[0] == "f" else fnp.round(x), x, max_ulp=1)


@pytest.mark.parametrize("name", UNARY)
def test_unary_on_many_ordinary_numbers(name: str) -> None:
    f: Ufunc = getattr(fnp, name)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    for dtype in ("f4", "f8"):
        x = (rng.standard_normal(1003) * 10.0 ** rng.integers(-3, 3, 1003)).astype(dtype)
        check_jit(lambda x: f(x), x, max_ulp=ulps(name, "f"))


@pytest.mark.parametrize("code", ["?", "i1", "u8", "f4", "c16"])
@pytest.mark.parametrize("name", ["add", "sqrt", "sign", "floor_divide", "less", "square"])
def test_the_printed_loop_program_runs_to_the_same(name: str, code: str) -> None:
    f = getattr(fnp, name)
    args = pairs(code)[: f.nin]
    want = outcome(f, *args)
    if isinstance(want, type):
        return
    lowered = ft.jit(lambda *a: f(*a)).lower(*args)
    with np.errstate(all="ignore"):
        check_same(tuple(run_python(lowered.program, args)), want, max_ulp=ulps(name, code))
