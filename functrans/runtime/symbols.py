"""Addresses of C functions that compiled code calls by name.

The C math library and the interpreter; and what vectors the machine has.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from typing import Any

from functrans.runtime import python_objects

_REAL = "sin cos tan cbrt hypot nextafter fmod".split()
_COMPLEX = (
    "cexp clog csin ccos ctan casin cacos catan csinh ccosh ctanh casinh cacosh catanh csqrt cpow"
).split()


@functools.cache
def llvm() -> Any:
    """The module `llvmlite.binding`; importing it takes 40 ms, which only compiled programs pay."""
    import llvmlite.binding  # noqa: PLC0415

    return llvmlite.binding


@functools.cache
def register() -> None:
    """Tell LLVM the addresses; once per process."""
    found = dict(python_objects.addresses())
    library = _math_library()
    for name in (*_REAL, *_COMPLEX):
        for symbol in (name, name + "f") if name not in _COMPLEX else (name,):
            function = getattr(library, symbol, None)
            if function is not None:
                found[symbol] = address(function)
    for symbol, place in found.items():
        llvm().add_symbol(symbol, place)


def _math_library() -> ctypes.CDLL:
    # Where there is no global symbol table, Microsoft's C runtime has the same functions.
    return ctypes.CDLL("ucrtbase" if sys.platform == "win32" else None)


_VECTOR_BYTES = {"avx512f": 64, "avx2": 32}


@functools.cache
def _features() -> dict[str, bool]:
    """The instruction sets of this machine that code may use."""
    # Numba compiles for another machine when told to; then none is certain.
    return {} if os.environ.get("NUMBA_CPU_NAME") else llvm().get_host_cpu_features()


def vector_bytes() -> int:
    """The width of vector registers."""
    return max((n for name, n in _VECTOR_BYTES.items() if _features().get(name)), default=16)


def has_scale_instruction() -> bool:
    """Whether vectors can be multiplied by powers of two in one instruction."""
    return bool(_features().get("avx512f"))


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
