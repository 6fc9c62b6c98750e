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
import importlib
import sys
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
# Eight bytes of a PyArray_Descr that tell builtin dtypes apart: kind, letter, byte order, number.
DTYPE_MEANING_OFFSET = HEADER + 8
# Without the byte order, and a byte of no meaning.
DTYPE_NUMBER_MASK = int.from_bytes(b"\xff\xff\0\0\xff\xff\xff\xff", sys.byteorder)
FLAGS_NEEDED = 0x1 | 0x100  # NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_ALIGNED

_METH_FASTCALL, _METH_KEYWORDS = 0x80, 0x02
# Python numbers that are stored as C stores the dtype of that letter, and others.
_STORED_AS_IN_C = {"d": float, "D": complex}
_PYTHON_SCALARS = {**_STORED_AS_IN_C, "?": bool, np.dtype(np.int64).char: int}
# Functions of NumPy's C interface by their places in its table (numpy/_core/code_generators).
_NUMPY_FUNCTIONS = {"FromArray": 109, "NewFromDescr": 94, "Scalar": 60, "SetHandler": 304}
_NUMPY_DEFAULT_HANDLER = 306
_NUMPY_ABI = 0x2000000
_INTERPRETER_FUNCTIONS = (
    "PyDict_Size", "PyErr_Clear", "PyEval_RestoreThread", "PyEval_SaveThread", "PyList_Append",
    "PyList_New", "PyList_SetItem", "PyLong_AsLongLongAndOverflow", "PyLong_FromLongLong",
    "PyObject_Vectorcall", "PyTuple_New", "PyTuple_SetItem", "Py_DecRef", "Py_IncRef",
)  # fmt: skip


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


@functools.cache
def _definition(address: int, name: str, flags: int) -> _MethodDef:
    """CPython keeps a pointer to it for as long as the function lives."""
    return _MethodDef(name.encode(), address, flags, None)


def builtin_function(
    address: int, name: str, bound: np.ndarray, *, takes_keywords: bool = False
) -> Callable[..., Any]:
    """A C function `PyObject *f(PyObject *self, PyObject *const *args, Py_ssize_t n)` as a builtin.

    `bound` is what it gets as `self`. If it `takes_keywords`, their names are a fourth argument.
    """
    flags = _METH_FASTCALL | (_METH_KEYWORDS if takes_keywords else 0)
    return _new_function(ctypes.byref(_definition(address, name, flags)), bound, None)


@functools.cache
def addresses() -> dict[str, int]:
    """Symbols of the interpreter that compiled code refers to; verifies the layout first."""
    _verify_arrays()
    _verify_dtypes()
    found = {"ft.type.ndarray": id(np.ndarray), "ft.dtype.B": id(np.dtype(np.uint8))}
    found |= {"ft.not_implemented": id(NotImplemented), "ft.true": id(True)}
    for code in np.typecodes["All"]:
        dtype = np.dtype(code)
        if dtype.kind in "biufc" and dtype.char not in "gG":
            _verify_scalar(dtype)
    for name in _INTERPRETER_FUNCTIONS:
        function = ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p)
        found[name] = function.value or 0
    numpy_functions = verify_numpy_functions()
    found["ft.numpy.default_handler"] = default_handler()
    return found | {f"ft.numpy.{name}": place for name, place in numpy_functions.items()}


def python_scalar(dtype: np.dtype) -> type | None:
    """The type of Python numbers that stand for a weak value of `dtype`."""
    return _PYTHON_SCALARS.get(dtype.char)


@functools.cache
def verify_numpy_functions() -> dict[str, int]:
    """Addresses of functions of NumPy's C interface; verifies what they do first."""
    table = _numpy_table()
    abi = ctypes.CFUNCTYPE(ctypes.c_uint)(table[0])()
    if abi != _NUMPY_ABI or table[2] != id(np.ndarray):
        raise _refuse("NumPy's C interface")
    found = {name: table[at] for name, at in _NUMPY_FUNCTIONS.items()}
    if not _do_what_they_should(found):
        raise _refuse("NumPy's C interface")
    return found


def default_handler() -> int:
    """Where NumPy's own memory handler is, a capsule; 0 if it has none."""
    place = _numpy_table()[_NUMPY_DEFAULT_HANDLER]
    return ctypes.c_ssize_t.from_address(place).value if place else 0


def _numpy_table() -> ctypes.Array[ctypes.c_ssize_t]:
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    capsule = importlib.import_module("numpy._core._multiarray_umath")._ARRAY_API
    return (ctypes.c_ssize_t * (_NUMPY_DEFAULT_HANDLER + 1)).from_address(
        get_pointer(capsule, None)
    )


def _do_what_they_should(functions: dict[str, int]) -> bool:
    pointer, thing, flags = ctypes.c_void_p, ctypes.py_object, ctypes.c_int
    dtype, value = np.dtype(np.float32), np.float32(1.5)
    scalar = ctypes.PYFUNCTYPE(thing, pointer, thing, pointer)(functions["Scalar"])
    data = ctypes.create_string_buffer(value.tobytes())
    if scalar(ctypes.addressof(data), dtype, None) != value:
        return False
    kinds = (thing, thing, ctypes.c_int, pointer, pointer, pointer, flags, pointer)
    new = ctypes.PYFUNCTYPE(thing, *kinds)(functions["NewFromDescr"])
    ctypes.pythonapi.Py_IncRef(thing(dtype))  # it takes over a reference to the dtype
    shape = (ctypes.c_ssize_t * 2)(2, 3)
    array = new(np.ndarray, dtype, 2, ctypes.addressof(shape), None, None, 0, None)
    if (type(array), array.shape, array.dtype) != (np.ndarray, (2, 3), dtype):
        return False
    array[...] = value
    copy = ctypes.PYFUNCTYPE(thing, thing, thing, flags)(functions["FromArray"])
    ctypes.pythonapi.Py_IncRef(thing(dtype))
    copied = copy(array.astype(">f4")[:, ::2], dtype, FLAGS_NEEDED)
    seen = copied.shape, copied.dtype, copied.tolist(), copied.flags.c_contiguous
    return seen == ((2, 2), dtype, [[1.5, 1.5], [1.5, 1.5]], True)


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


def _verify_dtypes() -> None:
    """Builtin dtypes of other numbers, letters or byte orders differ in eight bytes, others not."""

    def meaning(dtype: np.dtype) -> bytes:
        return ctypes.string_at(id(dtype) + DTYPE_MEANING_OFFSET, 8)

    for code in np.typecodes["AllInteger"] + "?efdFD":
        dtype = np.dtype(code)
        kind_letter_order = f"{dtype.kind}{dtype.char}{dtype.byteorder}".encode()
        number = dtype.num.to_bytes(4, sys.byteorder)
        if meaning(dtype)[:3] + meaning(dtype)[4:] != kind_letter_order + number:
            raise _refuse("numpy.dtype")


def _verify_scalar(dtype: np.dtype) -> None:
    sample = np.array(1).astype(dtype)[()]
    samples = [sample]
    if dtype.char in _STORED_AS_IN_C:
        samples.append(_STORED_AS_IN_C[dtype.char](1))
    for x in samples:
        if ctypes.string_at(id(x) + HEADER, dtype.itemsize) != sample.tobytes():
            raise _refuse(type(x).__qualname__)
