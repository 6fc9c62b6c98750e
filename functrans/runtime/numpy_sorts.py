"""NumPy's own sorting functions, for compiled code to call.

A dtype's sorts are C functions in its `PyArray_ArrFuncs` (NumPy's ndarraytypes.h), which take a row
of contiguous elements: `int sort(void *row, intp n, void *array)` and `int argsort(void *row,
intp *order, intp n, void *array)`; numeric ones never read `array`. They need no GIL and return
a negative number where memory is short. Each is tried on live data before its first use.
"""

from __future__ import annotations

import ctypes
import functools

import numpy as np
from numpy._core import _multiarray_umath  # type: ignore[attr-defined]

_ABI = 0x02000000  # NPY_VERSION of every NumPy 2
_GET_ABI, _GET_FUNCTIONS = 0, 365  # places in the table PyArray_API of NumPy 2
_CASTS, _OTHERS, _KINDS = 21, 12, 3  # fields of PyArray_ArrFuncs before `sort`; sorts of each sort
_UNSTABLE, _STABLE = 0, 2  # NPY_QUICKSORT, NPY_STABLESORT


@functools.cache
def address(name: str, dtype: np.dtype) -> int | None:
    """Where NumPy's "sort" or stable "argsort" of a dtype is; None where this NumPy differs."""
    table = _api_table()
    if table is None:
        return None
    functions = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.py_object)(table[_GET_FUNCTIONS])(dtype)
    if not functions:
        return None
    # Radix sort, which small integers have as their stable one, beats quicksort.
    kind = _STABLE if name == "argsort" or _is_small_integer(dtype) else _UNSTABLE
    place = _CASTS + _OTHERS + kind + (_KINDS if name == "argsort" else 0)
    function = (ctypes.c_void_p * (place + 1)).from_address(functions)[place]
    return function if function and _works(name, function, dtype) else None


def _is_small_integer(dtype: np.dtype) -> bool:
    return dtype.kind in "biu" and dtype.itemsize <= 2


@functools.cache
def _api_table() -> ctypes.Array[ctypes.c_void_p] | None:
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    capsule = getattr(_multiarray_umath, "_ARRAY_API", None)
    if capsule is None:
        return None
    table = (ctypes.c_void_p * (_GET_FUNCTIONS + 1)).from_address(get_pointer(capsule, None))
    if ctypes.CFUNCTYPE(ctypes.c_uint)(table[_GET_ABI])() != _ABI:
        return None
    return table


def _works(name: str, function: int, dtype: np.dtype) -> bool:
    """Whether the function sorts a row that has equal elements, and a nan if it can."""
    row = np.array([3, 1, 0, 1, 2, 0, 1, 4] * 5).astype(dtype)
    if dtype.kind in "fc":
        row[7] = np.nan
    n = ctypes.c_ssize_t(row.size)
    if name == "sort":
        given = row.copy()
        status = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_void_p)(
            function
        )(given.ctypes.data, n, None)
        return status >= 0 and np.array_equal(given, np.sort(row), equal_nan=dtype.kind in "fc")
    order = np.arange(row.size, dtype=np.intp)
    pointer = ctypes.c_void_p
    status = ctypes.CFUNCTYPE(ctypes.c_int, pointer, pointer, ctypes.c_ssize_t, pointer)(function)(
        row.ctypes.data, order.ctypes.data, n, None
    )
    return status >= 0 and np.array_equal(order, np.argsort(row, kind="stable"))
