"""How compiled code meets Python: the layout of objects, and native functions Python can call.

A compiled program is a C function in the calling convention of CPython's own builtins
(`METH_FASTCALL`): it gets the argument objects as they are, checks them and reads their data
pointers itself, which takes a nanosecond where the same check in Python takes a hundred.

The layout of `PyArrayObject` (NumPy's ndarraytypes.h) and of NumPy's and Python's scalars, whose
value follows the object header, is verified on live objects before the first use.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

HEADER = object.__basicsize__
TYPE_OFFSET = HEADER - 8  # PyObject.ob_type
DATA_OFFSET = HEADER  # PyArrayObject.data; also the value of a scalar object
NDIM_OFFSET = HEADER + 8
SHAPE_OFFSET = HEADER + 16
DTYPE_OFFSET = HEADER + 40
FLAGS_OFFSET = HEADER + 48
FLAGS_NEEDED = 0x1 | 0x100  # NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_ALIGNED

_METH_FASTCALL = 0x80
_PYTHON_SCALARS = {"d": float, "D": complex}  # stored as C stores the dtype of that code


class UnsupportedInterpreter(ImportError):
    """This build of Python or NumPy keeps its objects in another shape than compiled code reads."""


class _MethodDef(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


_new_function = ctypes.pythonapi.PyCFunction_NewEx
_new_function.restype = ctypes.py_object
_new_function.argtypes = (ctypes.POINTER(_MethodDef), ctypes.py_object, ctypes.c_void_p)
_definitions: list[_MethodDef] = []  # CPython keeps a pointer to each for as long as its function


def builtin_function(address: int, name: str, bound: np.ndarray) -> Callable[..., Any]:
    """A C function `PyObject *f(PyObject *self, PyObject *const *args, Py_ssize_t n)` as a builtin.

    `bound` is what it gets as `self`.
    """
    definition = _MethodDef(name.encode(), address, _METH_FASTCALL, None)
    _definitions.append(definition)
    return _new_function(ctypes.byref(definition), bound, None)


@functools.cache
def addresses() -> dict[str, int]:
    """Symbols of the interpreter that compiled code refers to; verifies the layout first."""
    _verify_arrays()
    found = {"ft.type.ndarray": id(np.ndarray)}
    for code in np.typecodes["All"]:
        dtype = np.dtype(code)
        if dtype.kind in "biufc" and dtype.char not in "gG":
            found[dtype_symbol(dtype)] = id(dtype)
            found[f"ft.scalar.{symbol_letter(dtype)}"] = id(_verified_scalar(dtype))
    for python in _PYTHON_SCALARS.values():
        found[f"ft.type.{python.__name__}"] = id(python)
    for name in ("PyLong_FromLong", "PyEval_SaveThread", "PyEval_RestoreThread"):
        function = ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p)
        found[name] = function.value or 0
    return found


def symbol_letter(dtype: np.dtype) -> str:
    """NumPy's letter of a dtype, but for bool: names in LLVM take no question mark."""
    return "bool" if dtype.kind == "b" else dtype.char


def dtype_symbol(dtype: np.dtype) -> str:
    """The symbol of the one `np.dtype` object that arrays of this dtype usually have."""
    return f"ft.dtype.{symbol_letter(dtype)}"


def scalar_symbols(dtype: np.dtype) -> tuple[str, str]:
    """The symbols of the scalar types whose objects hold a value of `dtype` behind the header."""
    numpy_scalar = f"ft.scalar.{symbol_letter(dtype)}"
    python = _PYTHON_SCALARS.get(dtype.char)
    return numpy_scalar, f"ft.type.{python.__name__}" if python else numpy_scalar


def _refuse(what: str) -> UnsupportedInterpreter:
    return UnsupportedInterpreter(
        f"{what} has another memory layout than functrans reads (Python object header of {HEADER} "
        "bytes). Compiled functions need CPython with NumPy 2; uncompiled ones work without."
    )


def _verify_arrays() -> None:
    probe = np.arange(6.0).reshape(2, 3)[:, ::2]
    at = id(probe)

    def pointer(offset: int) -> int | None:
        return ctypes.c_void_p.from_address(at + offset).value

    shape = pointer(SHAPE_OFFSET)
    seen = (
        pointer(TYPE_OFFSET),
        pointer(DATA_OFFSET),
        ctypes.c_int.from_address(at + NDIM_OFFSET).value,
        pointer(DTYPE_OFFSET),
        ctypes.c_int.from_address(at + FLAGS_OFFSET).value,
    )
    wanted = (id(np.ndarray), probe.ctypes.data, 2, id(probe.dtype), probe.flags.num)
    if (
        seen != wanted
        or shape is None
        or tuple((ctypes.c_ssize_t * 2).from_address(shape)) != (2, 2)
    ):
        raise _refuse("numpy.ndarray")


def _verified_scalar(dtype: np.dtype) -> type:
    sample = np.array(1).astype(dtype)[()]
    samples = [sample]
    if dtype.char in _PYTHON_SCALARS:
        samples.append(_PYTHON_SCALARS[dtype.char](1))
    for x in samples:
        if ctypes.string_at(id(x) + HEADER, dtype.itemsize) != sample.tobytes():
            raise _refuse(type(x).__qualname__)
    return dtype.type
