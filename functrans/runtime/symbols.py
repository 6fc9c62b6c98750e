"""Addresses of C functions that compiled code calls by name.

The C math library and the interpreter; and what vectors the machine has.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from typing import Any

from functrans.runtime import llvm, python_objects


@functools.cache
def resolve(name: str) -> int:
    """The address of a C function or object that compiled code names.

    Raises RuntimeError for a C function that this platform lacks.
    """
    found = python_objects.addresses().get(name)
    if found is None and hasattr(_math_library(), name):
        found = address(getattr(_math_library(), name))
    if found is None:
        raise RuntimeError(
            f"compiled code needs the C function {name}, which this platform's libraries lack. "
            "Leave the part that uses it uncompiled."
        )
    return found


@functools.cache
def _math_library() -> ctypes.CDLL:
    # Where there is no global symbol table, Microsoft's C runtime has the same functions.
    return ctypes.CDLL("ucrtbase" if sys.platform == "win32" else None)


_VECTOR_BYTES = {"avx512f": 64, "avx2": 32}


def vector_bytes() -> int:
    """The width of vector registers."""
    return max((n for name, n in _VECTOR_BYTES.items() if llvm.has_feature(name)), default=16)


def has_scale_instruction() -> bool:
    """Whether vectors can be multiplied by powers of two in one instruction."""
    return llvm.has_feature("avx512f")


def address(function: Any) -> int:
    """Where a ctypes function is."""
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def scipy_function(module: Any, name: str, signature: str) -> int:
    """The address of a C function of a Cython module, whose signature must begin as given."""
    capsule = module.__pyx_capi__[name]
    get_name = ctypes.pythonapi.PyCapsule_GetName
    get_name.restype, get_name.argtypes = ctypes.c_char_p, (ctypes.py_object,)
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    text = get_name(capsule)
    if not text.decode().startswith(signature):
        raise ImportError(
            f"{module.__name__} has {name} as {text.decode()}, functrans calls it as {signature}"
            "...): this version of SciPy is not supported."
        )
    return get_pointer(capsule, text)


def low_level_callable(function: Any, user_data: Any) -> Any:
    """SciPy's object for a ctypes function that its routines call."""
    from scipy import LowLevelCallable  # noqa: PLC0415  (0.2 s, for who integrates with it)

    return LowLevelCallable(function, user_data)
