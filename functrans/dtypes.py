"""Dtypes: short names, promotion with weak Python scalars (NEP 50), and what carries a tangent."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

import numpy as np

float0 = np.dtype([("float0", np.void, 0)])
"""The tangent dtype of integers and booleans, as in JAX: it holds no data."""

bool_ = np.dtype(bool)
float64 = np.dtype(np.float64)

PYTHON_SCALARS = (bool, int, float, complex)
_WEAK_DTYPE = {bool: bool_, int: np.dtype(np.int64), float: float64, complex: np.dtype(complex)}
_WEAK_SAMPLE = {bool: True, int: 0, float: 0.0, complex: 0j}
_KIND_SAMPLE = {"b": True, "i": 0, "u": 0, "f": 0.0, "c": 0j}
_SUPPORTED_KINDS = "biufc"


@cache
def short_name(dtype: np.dtype) -> str:
    """`f64`, `i32`, `u8`, `c128`, `bool`, `float0`: how a dtype is printed in a jaxpr."""
    if dtype == float0:
        return "float0"
    if dtype.kind == "b":
        return "bool"
    return f"{dtype.kind}{8 * dtype.itemsize}"


@cache
def is_inexact(dtype: np.dtype) -> bool:
    """Whether values of `dtype` are floating or complex, and so carry a tangent."""
    return dtype.kind in "fc"


@cache
def is_supported(dtype: np.dtype) -> bool:
    """Whether `dtype` is a bool, integer, float or complex type of up to 128 bits."""
    return dtype.kind in _SUPPORTED_KINDS and dtype.char not in "gG"


@cache
def real_dtype(dtype: np.dtype) -> np.dtype:
    """The dtype of the real part: c64 -> f32, c128 -> f64, others unchanged."""
    return np.dtype(f"f{dtype.itemsize // 2}") if dtype.kind == "c" else dtype


@cache
def complex_dtype(dtype: np.dtype) -> np.dtype:
    """The complex dtype that holds values of `dtype` exactly."""
    return np.result_type(dtype, np.complex64)


@cache
def to_inexact(dtype: np.dtype) -> np.dtype:
    """The dtype in which NumPy computes `exp` and friends: f64 for bool and integers.

    NumPy computes small integers in f16 and f32 (`np.sin(np.int8(1)).dtype` is f16); so do we.
    """
    return dtype if is_inexact(dtype) else np.sin(np.empty(0, dtype)).dtype


def scalar_dtype(value: Any) -> np.dtype:
    """The dtype of a Python scalar: bool, int64, float64 or complex128."""
    return _WEAK_DTYPE[type(value)]


@lru_cache(maxsize=4096)
def result_type(*operands: np.dtype | type) -> np.dtype:
    """NEP 50 promotion of dtypes and weak Python types (`bool`, `int`, `float`, `complex`)."""
    if all(isinstance(t, type) for t in operands):
        return np.result_type(*(_WEAK_DTYPE[t] for t in operands))
    return np.result_type(*(_WEAK_SAMPLE[t] if isinstance(t, type) else t for t in operands))


def weak_type_of(dtype: np.dtype) -> type:
    """The Python scalar type that stands for a weak value of `dtype`."""
    return type(_KIND_SAMPLE[dtype.kind])
